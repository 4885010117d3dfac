//! `exec`: a command that finds a valid access token in its environment.
//!
//! The command replaces this program, where the system lets it, so that its exit code, its signals and its stdin are its own.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, is_separator};
use std::process::Command;

use secrecy::ExposeSecret;

use super::output;
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::programs;
use crate::refresh::Outcome;

/// Looks a program up, as the system does when it starts one, before anything is spent for it.
///
/// # Errors
/// [`Kind::Config`] if there is none.
pub(super) fn find(command: &[OsString], search_path: Option<&OsStr>) -> Result<()> {
    let Some(program) = command.first() else {
        return Err(Error::config("no command to run"));
    };
    let mut bytes = program.as_encoded_bytes().iter();
    let has_folder = bytes.any(|byte| is_separator(char::from(*byte)));
    let found = match search_path {
        _ if has_folder => programs::is_program(Path::new(program)),
        Some(folders) => {
            env::split_paths(folders).any(|folder| programs::is_program(&folder.join(program)))
        }
        // Where to look without one is the system's own business.
        None => true,
    };
    if found {
        return Ok(());
    }
    // Its arguments may hold secrets; its name does not.
    let message = format!("there is no program {}", program.display());
    Err(Error::config(message).with_hint(Hint::fixed(
        "check the command behind --",
        "请检查 -- 之后的命令",
    )))
}

/// Becomes the command, which finds the token in these variables; without any, in the usual one. Returns only if
/// that fails.
pub(super) fn replace(command: &[OsString], variables: &[String], outcome: &Outcome) -> Error {
    let Some((program, arguments)) = command.split_first() else {
        return Error::config("no command to run");
    };
    let usual = [output::variable(outcome.api).to_owned()];
    let variables = if variables.is_empty() {
        &usual
    } else {
        variables
    };
    let token = outcome.access_token.expose_secret();
    let mut command = Command::new(program);
    // What renews the login, or opens all of them, is not the command's.
    command
        .args(arguments)
        .env_remove("FEISHU_REFRESH_TOKEN")
        .env_remove("FEISHU_STORE_KEY")
        .envs(variables.iter().map(|variable| (variable, token)));
    let error = programs::turn_into(&mut command);
    let kind = if outcome.refreshed {
        // A wrong command, but a token was spent for it.
        Kind::Unexpected
    } else {
        Kind::Config
    };
    let message = format!("cannot start {}: {error}", program.display());
    Error::new(kind, message).with_hint(Hint::fixed(
        "check the command behind --; the saved token is valid",
        "请检查 -- 之后的命令；已保存的令牌有效",
    ))
}
