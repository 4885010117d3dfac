//! A run over many logins, as a person or a program watches it.
//!
//! With `-o json` stdout gets one object a line, in the order of the file, and stderr one for each
//! failure at the end. Else a failure is one line on stderr, the moment it is known, and a summary the
//! last; a terminal shows how far the run is.

use std::collections::VecDeque;
use std::io::Write;

use super::args::{Asked, Output};
use super::bar::Bar;
use super::output::{self, Report};
use super::{Console, hook, log};
use crate::error::{Error, Hint, Kind, Result};
use crate::fleet::{self, AfterSave, Audience, Helper, Settled};
use crate::platform::signals::{Gate, Mask};
use crate::refresh::{News, Options, Outcome};
use crate::worker::no_thread;

/// Refreshes all profiles; returns the exit code.
pub(super) fn run(
    asked: &Asked,
    options: &Options,
    console: &mut Console<'_>,
    mask: &mut Mask,
    report: &Report,
) -> Result<u8> {
    let json = asked.output_given() == Some(Output::Json);
    let mut board = Board {
        options,
        report,
        json,
        has_bar: console.stderr_is_terminal && !asked.is_quiet() && !json,
        stdout: &mut *console.stdout,
        stderr: &mut *console.stderr,
        bar: None,
        profiles: Vec::new(),
        results: VecDeque::new(),
        printed: 0,
        stdout_works: true,
        counts: Counts::default(),
        hints: Vec::new(),
        failures: Vec::new(),
    };
    let helper = Hands {
        gate: mask.gate(),
        hook: asked.on_refresh().map(str::to_owned),
        options: options.clone(),
    };
    // The working thread lets them through until something is at stake.
    mask.defer();
    // A stderr that nobody reads must not hold up the work.
    log::from_a_thread();
    let ran = fleet::run(
        options,
        asked.spacing(),
        Box::new(helper),
        Mask::shield_thread,
        &mut board,
    );
    log::end_thread();
    board.last_words();
    ran?;
    board.end(asked.is_quiet());
    Ok(board.counts.exit_code())
}

/// The program's hands on the thread that works.
struct Hands {
    gate: Gate,
    /// The command of `--on-refresh`.
    hook: Option<String>,
    options: Options,
}

impl Helper for Hands {
    fn deliver_signals(&mut self) {
        self.gate.deliver();
    }

    fn defer_signals(&mut self) {
        Mask::shield_thread();
    }

    fn let_signals_go(&mut self) {
        self.gate.let_go();
    }

    fn when_a_signal_waits(&mut self, tell: Box<dyn Fn() + Send>) -> Result<()> {
        self.gate.watch(tell).map_err(|error| no_thread(&error))
    }

    fn follows_saves(&self) -> bool {
        self.hook.is_some()
    }

    fn after_save(&mut self, news: &News<'_>) -> Option<AfterSave> {
        let command = self.hook.as_deref()?;
        Some(hook::work(command, &self.options, news))
    }
}

/// What came of the profiles so far.
#[derive(Default)]
struct Counts {
    refreshed: usize,
    lasting: usize,
    failed: Vec<Kind>,
}

impl Counts {
    /// The worst of what occurred: first that a token is in danger, last what passes by itself.
    fn exit_code(&self) -> u8 {
        let order = [
            Kind::Unsaved,
            Kind::Reauthorize,
            Kind::Config,
            Kind::Unexpected,
            Kind::Hook,
            Kind::Temporary,
        ];
        let worst = order.into_iter().find(|kind| self.failed.contains(kind));
        worst.map_or(0, Kind::exit_code)
    }
}

/// Where it is all shown.
struct Board<'b> {
    options: &'b Options,
    report: &'b Report,
    json: bool,
    has_bar: bool,
    stdout: &'b mut dyn Write,
    stderr: &'b mut dyn Write,
    bar: Option<Bar>,
    profiles: Vec<String>,
    /// The results from the first that is not printed yet, as far as they are known.
    results: VecDeque<Option<String>>,
    /// How many were printed, or had nothing to print.
    printed: usize,
    /// Whether stdout takes anything.
    stdout_works: bool,
    counts: Counts,
    /// What to do about the failures, each once.
    hints: Vec<Hint>,
    /// The failures that are told at the end, with their places in the file.
    failures: Vec<(usize, Error)>,
}

impl Audience for Board<'_> {
    fn expect(&mut self, profiles: Vec<String>) {
        self.results = profiles.iter().map(|_| None).collect();
        self.profiles = profiles;
        if self.has_bar {
            self.bar = Some(Bar::new(self.profiles.len()));
            log::draw_over(self.bar.clone());
        }
    }

    fn settled(&mut self, index: usize, settled: Settled) {
        let Settled { outcome, error } = settled;
        if let Some(outcome) = &outcome {
            self.count(outcome);
        }
        let line = outcome.filter(|_| self.json);
        let line = line.map(|o| output::outcome_json(self.options, &self.profiles[index], &o));
        self.results[index - self.printed] = Some(line.unwrap_or_default());
        self.print_in_order();
        if let Some(error) = error {
            self.counts.failed.push(error.kind());
            self.fail(index, error);
        }
        if let Some(bar) = &self.bar {
            bar.advance(self.counts.failed.len());
        }
    }

    fn last_words(&mut self) {
        log::flush();
        if let Some(bar) = self.bar.take() {
            log::draw_over(None);
            bar.end();
        }
        self.failures.sort_by_key(|(index, _)| *index);
        for (index, error) in self.failures.drain(..) {
            let profile = Some(self.profiles[index].as_str());
            self.report.object(self.stderr, &error, profile);
        }
        for hint in self.hints.drain(..) {
            self.report.hint(self.stderr, &hint);
        }
    }
}

impl Board<'_> {
    fn count(&mut self, outcome: &Outcome) {
        if outcome.refreshed {
            self.counts.refreshed += 1;
        } else {
            self.counts.lasting += 1;
        }
    }

    /// Prints what comes next in the order of the file.
    fn print_in_order(&mut self) {
        while let Some(Some(line)) = self.results.front() {
            // The pairs are saved: what cannot be printed any more is no reason to stop.
            if self.json
                && self.stdout_works
                && !line.is_empty()
                && let Err(error) = output::print(self.stdout, line)
            {
                self.stdout_works = false;
                self.counts.failed.push(error.kind());
                self.report.object(self.stderr, &error, None);
            }
            self.results.pop_front();
            self.printed += 1;
        }
    }

    fn fail(&mut self, index: usize, error: Error) {
        if self.json {
            // A pair that nothing holds is shown at once.
            output::unsaved(self.stderr, &error);
            self.failures.push((index, error));
            return;
        }
        if let Some(hint) = error.hint().filter(|hint| !self.hints.contains(hint)) {
            self.hints.push(hint.clone());
        }
        let stderr = &mut *self.stderr;
        let mut tell = || {
            output::unsaved(stderr, &error);
            let message = error.to_string();
            let name = format!("[{}]", self.profiles[index]);
            // What is wrong with the file is wrong for each.
            if message.contains(&name) {
                output::say(stderr, &message);
            } else {
                output::say(stderr, &format!("{name}: {message}"));
            }
        };
        match &self.bar {
            Some(bar) => bar.above(tell),
            None => tell(),
        }
    }

    /// Tells how it ended.
    fn end(&mut self, is_quiet: bool) {
        if is_quiet || self.json || self.profiles.is_empty() {
            return;
        }
        let (all, file) = (self.profiles.len(), self.options.config_file.display());
        let Counts {
            refreshed,
            lasting,
            failed,
        } = &self.counts;
        let mut summary = format!("{refreshed} of {all} profiles of {file} refreshed");
        for (count, what) in [
            (*lasting, "had a token that lasts"),
            (failed.len(), "failed"),
        ] {
            if count > 0 {
                summary.push_str(&format!(", {count} {what}"));
            }
        }
        output::say(self.stderr, &summary);
    }
}
