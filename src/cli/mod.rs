//! What a person types and reads. Nothing below knows that this exists.
//!
//! Promises:
//! - stdout carries what was asked for and nothing else; everything meant for a person goes to
//!   stderr (contract, "Output").
//! - No message repeats an argument that may be a secret (P10).
//! - No write that fails can panic: the pair is on disk by then.

mod args;
mod bar;
pub(crate) mod completions;
mod exec;
mod fleet;
pub(crate) mod help;
mod hook;
mod log;
mod login;
mod options;
mod output;
mod parse;
mod repeated;
mod status;
mod store;
mod usage;
mod values;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::platform::programs;
use crate::platform::signals::Mask;
use crate::refresh::{self, Following, Hooks, Options, SavedTokens};
use args::{Cli, Output, Task};
use output::{Report, Sink};
use parse::Parsed;
use status::Form;

/// The world around a run, so that a run can be had in any.
pub struct Console<'a> {
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Where a secret given as `-` is read from.
    pub stdin: Box<dyn Read + Send>,
    /// Whether a person types there.
    pub stdin_is_terminal: bool,
    /// For the token.
    pub stdout: &'a mut dyn Write,
    /// For people.
    pub stderr: &'a mut dyn Write,
    /// Whether a person is watching stdout.
    pub stdout_is_terminal: bool,
    /// Whether a person is watching stderr.
    pub stderr_is_terminal: bool,
}

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
                Output::Json => Form::Json,
                _ => Form::Table {
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

/// Whether an environment variable is set and not empty.
fn has(env: &dyn Fn(&str) -> Option<OsString>, name: &str) -> bool {
    env(name).is_some_and(|value| !value.is_empty())
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

/// What the program does for a refresh at its turning points.
struct Program<'a> {
    mask: &'a mut Mask,
    /// The command of `--on-refresh`.
    hook: Option<&'a str>,
    options: &'a Options,
    /// Where GitHub's runner learns which words to hide, before the command can show them.
    masks: Option<&'a mut dyn Write>,
    /// How that command failed.
    failure: Option<Error>,
}

impl<'a> Program<'a> {
    fn new(cli: &'a Cli, options: &'a Options, mask: &'a mut Mask) -> Self {
        Program {
            mask,
            hook: cli.on_refresh(),
            options,
            masks: None,
            failure: None,
        }
    }

    /// Passes on what a run came to. A command that failed beside a worse failure is mentioned.
    fn result<T>(&self, result: Result<T>) -> Result<T> {
        if let (Err(_), Some(failure)) = (&result, &self.failure) {
            ::log::warn!("{failure}");
        }
        result
    }
}

impl Hooks for Program<'_> {
    fn defer_signals(&mut self) {
        self.mask.defer();
    }

    fn deliver_signals(&mut self) {
        // A failure is told before a signal counts.
        if self.failure.is_none() {
            self.mask.deliver();
        }
    }

    fn hurry(&mut self) -> Box<dyn Fn() -> bool> {
        let (gate, waits) = (self.mask.gate(), Arc::new(AtomicBool::new(false)));
        let is_watched = Cell::new(false);
        // The thread that looks out for signals is only for saves that fail.
        Box::new(move || {
            if !is_watched.replace(true) {
                let waits = Arc::clone(&waits);
                // Without a thread, a signal waits until the save is given up.
                let _ = gate.watch(Box::new(move || waits.store(true, Ordering::Relaxed)));
            }
            waits.load(Ordering::Relaxed)
        })
    }

    fn saved<'a>(&'a mut self, news: SavedTokens<'a>) -> Following<'a> {
        let tokens = news.tokens;
        if let Some(masks) = self.masks.as_mut().filter(|_| self.hook.is_some()) {
            let secrets = [&tokens.access_token, &tokens.refresh_token];
            for secret in secrets.into_iter().flatten() {
                // Whether stdout takes anything, the result will show.
                let _ = masks.write_all(output::masked(secret).as_bytes());
            }
            let _ = masks.flush();
        }
        if let Some(command) = self.hook {
            self.failure = hook::work(command, self.options, &news)().err();
        }
        Box::pin(async {})
    }
}
