//! What a person types and reads. Nothing below knows that this exists.
//!
//! Promises:
//! - stdout carries what was asked for and nothing else; everything meant for a person goes to
//!   stderr (contract, "Output").
//! - No message repeats an argument that may be a secret (P10).
//! - No write that fails can panic: the pair is on disk by then.

mod args;
mod bar;
mod command;
pub(crate) mod completions;
mod console;
mod exec;
mod fleet;
pub(crate) mod help;
mod hook;
mod log;
mod login;
mod options;
mod output;
mod parse;
mod program;
mod repeated;
mod status;
mod store;
mod usage;
mod values;

use std::ffi::OsString;

use crate::error::{Error, Result};
use crate::platform::programs;
use crate::platform::signals::Mask;
use crate::refresh::{self, Options};
use args::{Cli, Output, Task};
pub use console::Console;
use console::has;
use output::{Report, Sink};
use parse::Parsed;
use program::Program;
use status::StatusForm;

/// Runs the program once; returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> u8 {
    programs::forbid_core_dumps();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let report = Report::new(console.env, usage::wants_json(&arguments));
    let mut profile = None;
    // Dropped after the report: a pair that could not be saved is printed before a signal counts.
    let mut mask = Mask::default();
    match dispatch(&arguments, console, &mut mask, &mut profile, &report) {
        Ok(code) => code,
        Err(error) => {
            report.failure(console.stderr, &error, profile.as_deref());
            error.kind().exit_code()
        }
    }
}

/// Parses, and does what was asked; notes the profile as soon as it is known, for the report of a failure.
/// Returns the exit code of what was reported already.
fn dispatch(
    arguments: &[OsString],
    console: &mut Console<'_>,
    mask: &mut Mask,
    profile: &mut Option<String>,
    report: &Report,
) -> Result<u8> {
    let cli = match parse::parse(arguments).map_err(Error::before_sending)? {
        Parsed::Run(cli) => cli,
        Parsed::Text(text) => return output::print(console.stdout, &text).map(|()| 0),
    };
    cli.check().map_err(Error::before_sending)?;
    hook::check(cli.on_refresh()).map_err(Error::before_sending)?;
    if let Task::Completions { shell } = cli.task() {
        return output::print(console.stdout, &completions::script(*shell)).map(|()| 0);
    }
    log::to_stderr(cli.verbosity());
    let options = cli.options(console);
    let options = options.map_err(Error::before_sending)?;
    let is_for_all = cli.is_for_all();
    *profile = Some(options.profile.clone()).filter(|_| !is_for_all);
    report.is_about(cli.repeated(&options, console));
    let done = match cli.task() {
        Task::Refresh if is_for_all => return fleet::run(&cli, &options, console, mask, report),
        Task::Refresh => main_job(&cli, &options, console, mask),
        Task::Status { warn_within } => {
            let one = !is_for_all && cli.names_profile(console.env);
            profile.take_if(|_| !one);
            let form = match cli.output() {
                Output::Json => StatusForm::Json,
                _ => StatusForm::Table {
                    has_colour: console.stdout_is_terminal && !has(console.env, "NO_COLOR"),
                },
            };
            let named = Some(options.profile.as_str()).filter(|_| one);
            let warn_within = *warn_within;
            status::show(
                &options,
                named,
                is_for_all,
                form,
                warn_within,
                console.stdout,
            )
        }
        Task::Login(login) => login::run(login, &cli, &options, console, mask, report),
        Task::Exec { variables, command } => {
            let path = (console.env)("PATH");
            exec::find(command, path.as_deref()).map_err(Error::before_sending)?;
            let mut program = Program::new(&cli, &options, mask);
            let result = refresh::run(&options, &mut program, Mask::shield_thread);
            let outcome = program.result(result)?;
            program.failure.map_or(Ok(()), Err)?;
            Err(exec::replace(command, variables, &outcome))
        }
        Task::Store { task } => store::run(task, &cli, &options, console),
        Task::Completions { .. } => Ok(()),
    };
    done.map(|()| 0)
}

/// Refreshes, and prints the token in the form that was asked for.
fn main_job(
    cli: &Cli,
    options: &Options,
    console: &mut Console<'_>,
    mask: &mut Mask,
) -> Result<()> {
    let sink = Sink::open(cli.output(), console.env).map_err(Error::before_sending)?;
    let mut program = Program::new(cli, options, mask);
    if let Sink::Github(_) = sink {
        program.masks = Some(&mut *console.stdout);
    }
    let result = refresh::run(options, &mut program, Mask::shield_thread);
    let outcome = program.result(result)?;
    let failure = program.failure.take();
    sink.print(console.stdout, options, &outcome)?;
    if console.stderr_is_terminal && !cli.is_quiet() {
        output::note(console.stderr, options, &outcome);
    }
    failure.map_or(Ok(()), Err)
}
