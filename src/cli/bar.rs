//! How far a run over many profiles is, on the last line of a terminal.
//!
//! Ours, not a library's, since what is needed is little, and each start of the program would
//! load what that needs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So long a bar is, in characters.
const WIDTH: usize = 30;

/// It is drawn no more often than this.
const INTERVAL: Duration = Duration::from_millis(50);

/// Goes to the line's begin and empties it.
const ERASE: &str = "\r\u{1b}[K";

/// A progress bar on stderr. Clones are the same bar.
#[derive(Clone)]
pub(super) struct Bar(Arc<Mutex<BarState>>);

struct BarState {
    /// How many there are, where that is known.
    all: Option<usize>,
    done: usize,
    failed: usize,
    drawn: Option<Instant>,
    has_ended: bool,
}

impl Bar {
    pub(super) fn new() -> Self {
        let state = BarState {
            all: None,
            done: 0,
            failed: 0,
            drawn: None,
            has_ended: false,
        };
        Bar(Arc::new(Mutex::new(state)))
    }

    /// There are so many.
    pub(super) fn expect(&self, all: usize) {
        self.with(|state| {
            state.all = Some(all);
            state.draw();
        });
    }

    /// One more is done; so many of all have failed.
    pub(super) fn advance(&self, failed: usize) {
        self.with(|state| {
            state.done += 1;
            state.failed = failed;
            if state.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL) {
                state.drawn = Some(Instant::now());
                state.draw();
            }
        });
    }

    /// Has something said above the bar.
    pub(super) fn above(&self, tell: impl FnOnce()) {
        self.with(|state| {
            write(ERASE);
            tell();
            state.draw();
        });
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.with(|state| {
            state.has_ended = true;
            write(ERASE);
        });
    }

    fn with(&self, act: impl FnOnce(&mut BarState)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl BarState {
    fn draw(&self) {
        let is_begun = self.all.is_some() || self.done > 0;
        if is_begun && !self.has_ended {
            write(&format!("{ERASE}{}", self.text()));
        }
    }

    fn text(&self) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let done = self.done;
        let Some(all) = self.all else {
            return format!("{done} profiles{failed}");
        };
        let filled = WIDTH * done / all.max(1);
        let (full, empty) = ("█".repeat(filled), "░".repeat(WIDTH - filled));
        format!("{full}{empty} {done} of {all} profiles{failed}")
    }
}

fn write(text: &str) {
    // A bar that cannot be drawn is left out.
    let mut stderr = io::stderr();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}
