//! `--on-refresh`: a command that hears of each new pair, to keep it in another place, too.
//!
//! It runs once the pair is on disk, with the result as JSON on its stdin; what it prints goes to
//! stderr. The file stays locked and signals stay put off until it ends: a CI whose disk is thrown
//! away may have no other copy. A token that was there already is none of its business.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::output;
use crate::error::{Error, Hint, Kind, Result};
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
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let stdout = stderr.map_or_else(|_| Stdio::null(), Stdio::from);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]);
    if !has_terminal() {
        // A signal to this program's group is not for the command. At a terminal it is, and a command
        // in a group of its own could not ask anything there.
        shell.process_group(0);
    }
    let mut child = shell
        .stdin(Stdio::piped())
        .stdout(stdout)
        .spawn()
        .map_err(|error| failed(&format!("cannot start /bin/sh: {error}")))?;
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

/// Whether a person sits at a terminal that belongs to this run.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
