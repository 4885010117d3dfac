//! `exec`: a command that finds a valid access token in its environment.
//!
//! The command replaces this program, so that its exit code, its signals and its stdin are its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use secrecy::ExposeSecret;

use super::output;
use crate::error::{Error, Hint};
use crate::refresh::Outcome;

/// Becomes the command. Returns only if that fails.
pub(super) fn replace(command: &[OsString], outcome: &Outcome) -> Error {
    let Some((program, arguments)) = command.split_first() else {
        return Error::config("no command to run");
    };
    let error = Command::new(program)
        .args(arguments)
        .env(
            output::variable(outcome.api),
            outcome.access_token.expose_secret(),
        )
        .exec();
    // Its arguments may hold secrets; its name does not.
    let message = format!("cannot start {}: {error}", program.display());
    Error::config(message).with_hint(Hint::fixed(
        "check the command behind --; the token in the file is valid",
        "请检查 -- 之后的命令；配置文件中的令牌有效",
    ))
}
