//! Signals wait while a token is at stake (P6).
//!
//! They are masked, not handled: once the mask is gone, a signal that waited does its default work,
//! and one that was ignored when the program started is still ignored.

use std::fs;
use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};

/// The mask of this program's main thread. All other threads are shielded for as long as they live, so
/// that a signal is for the main thread alone; but for a [`Gate`], where that thread is busy telling.
#[derive(Default)]
pub(crate) struct Mask {
    /// The mask to go back to.
    before: Option<SigSet>,
    /// What came while they waited, where somebody looks out for it.
    seen: Seen,
}

/// The numbers of signals that were taken out of the system's hands, as bits.
#[derive(Clone, Default)]
struct Seen {
    signals: Arc<AtomicU32>,
    /// Whether nothing is at stake any more.
    are_free: Arc<AtomicBool>,
}

impl Seen {
    fn note(&self, signal: Signal) {
        self.signals.fetch_or(1 << signal as i32, Ordering::SeqCst);
    }

    /// Hands them back, to this thread.
    fn raise(&self) {
        let seen = self.signals.swap(0, Ordering::SeqCst);
        for signal in named().iter().filter(|s| seen & (1 << *s as i32) != 0) {
            let _ = raise(signal);
            // Linux lets no signal do its default work on a container's first process.
            if process::id() == 1 && !is_ignored(signal) {
                process::exit(128 + signal as i32);
            }
        }
    }
}

/// The signals that wait: all that would end the program. Those that stop it and let it go on, and those
/// that tell of something, are not among them.
fn deferred() -> SigSet {
    const OTHERS: [Signal; 7] = [
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGCONT,
        Signal::SIGCHLD,
        Signal::SIGWINCH,
        Signal::SIGURG,
    ];
    let mut signals = SigSet::all();
    for other in OTHERS {
        signals.remove(other);
    }
    signals
}

/// Those among them that have names.
fn named() -> SigSet {
    let deferred = deferred();
    Signal::iterator()
        .filter(|signal| deferred.contains(*signal))
        .collect()
}

/// Whether this program was started to ignore a signal.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// The mask that this program was started with, once a thread has put signals off.
static ORIGINAL: OnceLock<SigSet> = OnceLock::new();

/// The mask that this program was started with.
pub(super) fn original() -> SigSet {
    let current = || SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
    *ORIGINAL.get_or_init(current)
}

impl Mask {
    /// From now on, signals wait.
    pub(crate) fn defer(&mut self) {
        if self.before.is_none() {
            original();
            // It fails for an unknown `how` alone.
            self.before = deferred().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        }
    }

    /// Those that waited do their work now.
    pub(crate) fn deliver(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.thread_set_mask();
        }
        self.seen.raise();
    }

    /// Has a thread leave signals to the main thread.
    pub(crate) fn shield_thread() {
        let _ = deferred().thread_block();
    }

    /// A gate for a thread that works for this one, which lets signals through now.
    pub(crate) fn gate(&self) -> Gate {
        Gate {
            open: SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty()),
            seen: self.seen.clone(),
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        self.deliver();
    }
}

/// Lets signals through on a working thread, while the main thread is busy telling.
pub(crate) struct Gate {
    /// The mask that lets them through.
    open: SigSet,
    seen: Seen,
}

impl Gate {
    /// Those that waited do their work now.
    pub(crate) fn deliver(&self) {
        let _ = self.open.thread_set_mask();
        self.seen.raise();
    }

    /// From now on, they do it at once, whatever the main thread does.
    pub(crate) fn let_go(&self) {
        self.seen.are_free.store(true, Ordering::SeqCst);
        self.deliver();
    }

    /// Has `tell` called for each signal that waits. It does its work when signals are delivered.
    ///
    /// # Errors
    /// If the system has no thread.
    pub(crate) fn watch(&self, tell: Box<dyn Fn() + Send>) -> io::Result<()> {
        let (seen, open) = (self.seen.clone(), self.open);
        let watch = move || {
            Mask::shield_thread();
            while let Ok(signal) = named().wait() {
                seen.note(signal);
                if seen.are_free.load(Ordering::SeqCst) {
                    let _ = open.thread_set_mask();
                    seen.raise();
                    Mask::shield_thread();
                }
                tell();
            }
        };
        thread::Builder::new().spawn(watch).map(drop)
    }
}
