//! `--on-refresh`: a command that hears of each new pair, to keep it in another place, too.
//!
//! It runs once the pair is on disk, with the result as JSON on its stdin; what it prints goes to
//! stderr. The file stays locked and signals stay put off until it ends, those to the whole process
//! group included: a CI whose disk is thrown away may have no other copy. A token that was there
//! already is none of its business.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::error::{Error, Hint, Kind, Result};

/// Runs a shell command with this text on its stdin; `place` says whose pair it is.
///
/// # Errors
/// [`Kind::Hook`] if it cannot be started or does not end well.
pub(super) fn run(command: &str, place: &str, json: &str) -> Result<()> {
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
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(stdout)
        // A signal to this program's group, like Ctrl-C, is not for the command.
        .process_group(0)
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
