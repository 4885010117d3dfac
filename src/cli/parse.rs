//! Reads a command line by clap.
//!
//! Promises: nothing is built that a run does not need, and no message repeats a value (P10).

use std::ffi::OsString;
use std::mem;

use clap::error::ErrorKind;
use clap::{Command, FromArgMatches};

use super::args::{Cli, Task};
use super::usage::usage_error;
use super::{command, help};
use crate::error::Error;

/// What a command line comes to.
pub(super) enum Parsed {
    /// A run.
    Run(Box<Cli>),
    /// A text that was asked for, like `--help`.
    Text(String),
}

/// Reads a command line.
///
/// # Errors
/// [`crate::Kind::Usage`], in words that repeat no value.
pub(super) fn parse(arguments: &[OsString]) -> Result<Parsed, Error> {
    let parse = |mut command: Command| -> Result<Cli, clap::Error> {
        let matches = command.try_get_matches_from_mut(arguments);
        // To take it apart would be for nothing: the program is about to do its work, and to end.
        mem::forget(command);
        let matches = matches?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        if matches.subcommand_name().is_some() {
            cli.task = Some(Task::from_arg_matches(&matches)?);
        }
        Ok(cli)
    };
    let mut parsed = parse(command::typed(arguments));
    if parsed.is_err() {
        // What to suggest, only all that there is can tell.
        parsed = parse(command::whole());
    }
    if matches!(&parsed, Err(error) if error.kind() == ErrorKind::DisplayHelp) {
        // Only now: what is shown takes a fifth of a start-up.
        parsed = parse(help::shown());
    }
    match parsed {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(Parsed::Text(error.to_string()))
        }
        Err(error) => Err(usage_error(&error, arguments)),
    }
}
