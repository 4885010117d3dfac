//! `--on-refresh`: a command that hears of each new pair, to keep it in another place, too.
//!
//! It runs once the pair is on disk, with the result as JSON on its stdin; what it prints goes to
//! stderr. The file stays locked and signals wait until it ends: a CI whose disk is thrown away may have
//! no other copy. It does not run for a token that was there already.

use super::output;
use crate::error::{Error, Hint, Kind, Result};
use crate::fleet::AfterSaveCommand;
use crate::platform::programs::{self, SHELL};
use crate::refresh::{Options, SavedTokens};
use crate::store::file::HOLDERS;

/// Looks whether a command could be run, before anything is spent.
///
/// # Errors
/// [`Kind::Config`] if not.
pub(super) fn check(command: Option<&str>) -> Result<()> {
    if command.is_none() || programs::has_shell() {
        return Ok(());
    }
    let message = format!("there is no {SHELL} here, which runs the --on-refresh command");
    Err(Error::config(message).with_hint(Hint::fixed(
        "use an image with a shell, or leave out --on-refresh",
        "请使用带有 shell 的镜像，或去掉 --on-refresh",
    )))
}

/// What runs a command for a pair that is saved.
pub(super) fn work(
    command: &str,
    options: &Options,
    saved_tokens: &SavedTokens<'_>,
) -> AfterSaveCommand {
    let SavedTokens { profile, .. } = *saved_tokens;
    let json = output::json(
        options,
        profile,
        saved_tokens.api,
        saved_tokens.tokens,
        true,
    );
    let place = format!("[{profile}] of {}", options.keeper());
    let (command, lock_name) = (command.to_owned(), saved_tokens.lock_name.clone());
    Box::new(move || run(&command, &place, &json, lock_name.as_deref()))
}

/// Runs a shell command with this text on its stdin; `place` says whose pair it is.
///
/// # Errors
/// [`Kind::Hook`] if it cannot be started or does not end well.
fn run(command: &str, place: &str, json: &str, lock_name: Option<&str>) -> Result<()> {
    let failed = |what: &str| {
        let message =
            format!("{place}: refreshed and saved, but the --on-refresh command failed: {what}");
        Error::new(Kind::Hook, message).with_hint(Hint::fixed(
            "the new pair is saved; do by hand what the command was to do with it",
            "新的令牌已保存；请手动完成该命令应做的处理",
        ))
    };
    let variable = lock_name.map(|name| (HOLDERS, name));
    let status = programs::run_shell(command, json, variable)
        .map_err(|error| failed(&format!("cannot run {SHELL}: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(&status.to_string()))
    }
}
