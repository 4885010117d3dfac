//! Reads a command line by clap.
//!
//! Promises: nothing is built that a run does not need, and no message repeats a value (P10).

use std::ffi::OsString;
use std::mem;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches, Subcommand};

use super::args::{Cli, Task};
use super::usage::usage_error;
use crate::error::Error;

/// What a command line comes to.
pub(super) enum Parsed {
    /// A run.
    Run(Box<Cli>),
    /// A text that was asked for, like `--help`.
    Text(String),
}

/// The command line, as clap understands it.
pub(super) fn understood() -> Command {
    for_commands(Task::augment_subcommands(main_job()))
}

/// The same, but of the commands only the one that is typed: each gets a copy of every option, and that would be most
/// of a start-up.
fn typed(arguments: &[OsString]) -> Command {
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let named = words
        .take_while(|word| *word != "--")
        .find(|word| Task::has_subcommand(word));
    let Some(named) = named else {
        return main_job();
    };
    let all = Task::augment_subcommands(Command::new(""));
    let named = all.find_subcommand(named).cloned();
    for_commands(main_job().subcommands(named))
}

/// Hands the options down to each command, which takes them all, but has the version of the program.
fn for_commands(command: Command) -> Command {
    command.mut_args(|option| {
        let is_handed_down = option.get_id() != "version";
        option.global(is_handed_down)
    })
}

/// The command line without a command.
fn main_job() -> Command {
    let told = |name, letter, action, help| {
        let option = Arg::new(name).long(name).short(letter).action(action);
        option.help(help).help_heading("Output")
    };
    let help = "Print help: -h on one screen, --help in full";
    let version = "Print the version";
    Cli::command()
        .arg(told("help", 'h', ArgAction::Help, help))
        .arg(told("version", 'V', ArgAction::Version, version).hide_short_help(true))
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
    let mut parsed = parse(typed(arguments));
    if parsed.is_err() {
        // What to suggest, only all that there is can tell.
        parsed = parse(understood());
    }
    if matches!(&parsed, Err(error) if error.kind() == ErrorKind::DisplayHelp) {
        // Only now: what is shown takes a fifth of a start-up.
        parsed = parse(super::help::shown());
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
