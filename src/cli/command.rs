//! The command line for clap: all of it, or only what a run needs.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, CommandFactory, Subcommand};

use super::args::{Cli, Task};

/// All of it.
pub(super) fn whole() -> Command {
    for_commands(Task::augment_subcommands(main_job()))
}

/// The same, but of the commands only the one that is typed: each gets a copy of every option, and that would be most
/// of a start-up.
pub(super) fn typed(arguments: &[OsString]) -> Command {
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
