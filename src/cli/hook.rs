//! `--on-refresh`: a command that hears of each new pair, to keep it in another place, too.
//!
//! It runs once the pair is on disk, with the result as JSON on its stdin; what it prints goes to
//! stderr. The file stays locked and signals stay put off until it ends: a CI whose disk is thrown
//! away may have no other copy. A token that was there already is none of its business.

use std::io::Write;
use std::process::Stdio;

use super::output;
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::programs::{self, SHELL};
use crate::protocol::Api;
use crate::refresh::{AfterSave, Options};
use crate::token::Tokens;

/// What runs a command for a pair that is saved.
pub(super) fn work(
    command: &str,
    options: &Options,
    profile: &str,
    api: Api,
    tokens: &Tokens,
) -> AfterSave {
    let json = output::json(options, profile, api, tokens, true);
    let place = format!("[{profile}] of {}", options.config_file.display());
    let command = command.to_owned();
    Box::new(move || run(&command, &place, &json))
}

/// Runs a shell command with this text on its stdin; `place` says whose pair it is.
///
/// # Errors
/// [`Kind::Hook`] if it cannot be started or does not end well.
fn run(command: &str, place: &str, json: &str) -> Result<()> {
    let failed = |what: &str| {
        let message =
            format!("{place}: refreshed and saved, but the --on-refresh command failed: {what}");
        Error::new(Kind::Hook, message).with_hint(Hint::fixed(
            "the file has the new pair; do by hand what the command was to do with it",
            "新的令牌已写入配置文件；请手动完成该命令应做的处理",
        ))
    };
    let stdout = programs::stderr().unwrap_or_else(|_| Stdio::null());
    let mut child = programs::shell(command)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .spawn()
        .map_err(|error| failed(&format!("cannot start {SHELL}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read what it is told.
        let _ = stdin.write_all(json.as_bytes());
    }
    let status = child.wait().map_err(|error| failed(&error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(&status.to_string()))
    }
}
