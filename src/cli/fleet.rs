//! A run over many logins, as a person or a program watches it.
//!
//! With `-o json` stdout gets one object a line, in the order of the file, and stderr one for each
//! failure at the end. Else a failure is one line on stderr, the moment it is known. A terminal also shows how
//! far the run is, and a summary at the end: where nobody watches, a run without failures says nothing. A store
//! has no order, and may have no end of logins: there everything is told the moment it is known, and nothing is
//! collected.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Instant;

use super::args::{Cli, Output};
use super::bar::Bar;
use super::console::Console;
use super::output::{self, Report};
use super::{hook, log};
use crate::error::{Error, Hint, Kind, Result};
use crate::fleet::{self, AfterSaveCommand, FleetHooks, LoginResult, ResultListener};
use crate::platform::signals::{Mask, SignalGate};
use crate::refresh::{Options, SavedTokens};
use crate::store::many::Due;
use crate::worker::no_thread;

/// Refreshes all profiles; returns the exit code.
pub(super) fn run(
    cli: &Cli,
    options: &Options,
    console: &mut Console<'_>,
    mask: &mut Mask,
    report: &Report,
) -> Result<u8> {
    let due = Due {
        min_ttl: options.min_ttl,
        keep_alive: cli.keep_alive(),
        begun: Instant::now(),
        spacing: cli.spacing(),
        max_wait: options.max_wait,
    };
    let json = cli.output_given() == Some(Output::Json);
    let is_watched = console.stderr_is_terminal && !cli.is_quiet() && !json;
    let mut fleet_report = FleetReport {
        options,
        report,
        json,
        has_order: options.store.is_none(),
        bar: is_watched.then(Bar::new),
        stdout: &mut *console.stdout,
        stderr: &mut *console.stderr,
        all: None,
        results: VecDeque::new(),
        printed: 0,
        stdout_works: true,
        counts: ResultCounts::default(),
        hints: Vec::new(),
        failures: Vec::new(),
    };
    let helper = ProgramHooks {
        gate: mask.gate(),
        hook: cli.on_refresh().map(str::to_owned),
        options: options.clone(),
    };
    // The working thread lets them through until something is at stake.
    mask.defer();
    log::draw_over(fleet_report.bar.clone());
    // A stderr that nobody reads must not hold up the work.
    log::from_a_thread();
    let ran = fleet::run(
        options,
        &due,
        Box::new(helper),
        Mask::shield_thread,
        &mut fleet_report,
    );
    log::end_thread();
    fleet_report.last_words();
    if let Err(error) = ran {
        if fleet_report.counts.is_empty() {
            return Err(error);
        }
        fleet_report.counts.fail(&error);
        report.failure(fleet_report.stderr, &error, None);
    }
    if is_watched {
        fleet_report.report_end();
    }
    Ok(fleet_report.counts.exit_code())
}

/// The program's hands on the thread that works.
struct ProgramHooks {
    gate: SignalGate,
    /// The command of `--on-refresh`.
    hook: Option<String>,
    options: Options,
}

impl FleetHooks for ProgramHooks {
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

    fn after_save(&mut self, saved_tokens: &SavedTokens<'_>) -> Option<AfterSaveCommand> {
        let command = self.hook.as_deref()?;
        Some(hook::work(command, &self.options, saved_tokens))
    }
}

/// What came of the profiles so far.
#[derive(Default)]
struct ResultCounts {
    refreshed: usize,
    still_valid: usize,
    failed: usize,
    worst: Option<Kind>,
}

/// The kinds of failures, the worst first: first that a token is in danger, last what passes by itself.
const WORST_FIRST: [Kind; 6] = [
    Kind::Unsaved,
    Kind::Reauthorize,
    Kind::Config,
    Kind::Unexpected,
    Kind::Hook,
    Kind::Temporary,
];

impl ResultCounts {
    fn is_empty(&self) -> bool {
        self.refreshed + self.still_valid + self.failed == 0
    }

    fn fail(&mut self, error: &Error) {
        let badness = |kind| WORST_FIRST.iter().position(|known| *known == kind);
        let is_worse = |worst| badness(error.kind()) < badness(worst);
        self.failed += 1;
        if self.worst.is_none_or(is_worse) {
            self.worst = Some(error.kind());
        }
    }

    fn exit_code(&self) -> u8 {
        self.worst.map_or(0, Kind::exit_code)
    }
}

/// Where it is all shown.
struct FleetReport<'b> {
    options: &'b Options,
    report: &'b Report,
    json: bool,
    /// Whether the results are told in the order of the file, and the failures after them.
    has_order: bool,
    stdout: &'b mut dyn Write,
    stderr: &'b mut dyn Write,
    bar: Option<Bar>,
    /// How many profiles there are, where that is known.
    all: Option<usize>,
    /// The results from the first that is not printed yet, as far as they are known.
    results: VecDeque<Option<String>>,
    /// How many were printed, or had nothing to print.
    printed: usize,
    /// Whether stdout takes anything.
    stdout_works: bool,
    counts: ResultCounts,
    /// What to do about the failures, each once.
    hints: Vec<Hint>,
    /// The failures that are told at the end, with their places in the file, and names.
    failures: Vec<(usize, String, Error)>,
}

impl ResultListener for FleetReport<'_> {
    fn expect(&mut self, all: usize) {
        self.results = (0..all).map(|_| None).collect();
        self.all = Some(all);
        if let Some(bar) = &self.bar {
            bar.expect(all);
        }
    }

    fn settled(&mut self, index: usize, name: &str, settled: LoginResult) {
        let LoginResult { outcome, error } = settled;
        if outcome.as_ref().is_some_and(|outcome| outcome.refreshed) {
            self.counts.refreshed += 1;
        } else if error.is_none() {
            self.counts.still_valid += 1;
        }
        let line = outcome.filter(|_| self.json);
        let line = line.map(|o| output::outcome_json(self.options, name, &o));
        if self.has_order {
            self.results[index - self.printed] = Some(line.unwrap_or_default());
            self.print_in_order();
        } else if let Some(line) = line {
            self.print(&line);
        }
        if let Some(error) = error {
            self.counts.fail(&error);
            self.fail(index, name, error);
        }
        if let Some(bar) = &self.bar {
            bar.advance(self.counts.failed);
        }
    }

    fn last_words(&mut self) {
        log::flush();
        if let Some(bar) = self.bar.take() {
            log::draw_over(None);
            bar.end();
        }
        self.failures.sort_by_key(|(index, ..)| *index);
        for (_, name, error) in self.failures.drain(..) {
            self.report.object(self.stderr, &error, Some(&name));
        }
        for hint in self.hints.drain(..) {
            self.report.hint(self.stderr, &hint);
        }
    }
}

impl FleetReport<'_> {
    /// Prints what comes next in the order of the file.
    fn print_in_order(&mut self) {
        while self.results.front().is_some_and(Option::is_some) {
            let line = self.results.pop_front().flatten().unwrap_or_default();
            self.print(&line);
            self.printed += 1;
        }
    }

    fn print(&mut self, line: &str) {
        // The pairs are saved: what cannot be printed any more is no reason to stop.
        if self.json
            && self.stdout_works
            && !line.is_empty()
            && let Err(error) = output::print(self.stdout, line)
        {
            self.stdout_works = false;
            self.counts.fail(&error);
            self.report.object(self.stderr, &error, None);
        }
    }

    fn fail(&mut self, index: usize, name: &str, error: Error) {
        if self.json {
            // A pair that nothing holds is shown at once.
            output::unsaved(self.stderr, &error);
            if self.has_order {
                self.failures.push((index, name.to_owned(), error));
            } else {
                self.report.object(self.stderr, &error, Some(name));
            }
            return;
        }
        if let Some(hint) = error.hint().filter(|hint| !self.hints.contains(hint)) {
            self.hints.push(hint.clone());
        }
        let stderr = &mut *self.stderr;
        let mut tell = || {
            output::unsaved(stderr, &error);
            let message = error.to_string();
            let name = format!("[{name}]");
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
    fn report_end(&mut self) {
        if self.all == Some(0) {
            return;
        }
        let keeper = self.options.keeper();
        let ResultCounts {
            refreshed,
            still_valid,
            failed,
            ..
        } = self.counts;
        let mut summary = match self.all {
            Some(all) => format!("{refreshed} of {all} profiles of {keeper} refreshed"),
            None => format!("{refreshed} logins of {keeper} refreshed"),
        };
        for (count, what) in [(still_valid, "had a valid token"), (failed, "failed")] {
            if count > 0 {
                summary.push_str(&format!(", {count} {what}"));
            }
        }
        output::say(self.stderr, &summary);
    }
}
