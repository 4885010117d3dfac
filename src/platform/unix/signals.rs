//! Signals are deferred while a token is at risk (P6).
//!
//! They are masked, not handled: once unmasked, a pending signal takes its default action, and one that was ignored
//! when the program started is still ignored.

use std::fs;
use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};

/// The mask of this program's main thread. All other threads are shielded all their life, so that a signal reaches only
/// the main thread; except through a [`SignalGate`], while that thread is busy reporting.
#[derive(Default)]
pub(crate) struct Mask {
    /// The mask to restore.
    before: Option<SigSet>,
    /// What came while they waited, where a watcher is set.
    seen: SeenSignals,
}

/// The numbers of signals taken from the system's pending set, as bits.
#[derive(Clone, Default)]
struct SeenSignals {
    signals: Arc<AtomicU32>,
    /// Whether nothing is at risk any more.
    are_free: Arc<AtomicBool>,
}

impl SeenSignals {
    fn note(&self, signal: Signal) {
        self.signals.fetch_or(1 << signal as i32, Ordering::SeqCst);
    }

    /// Raises them again, on this thread.
    fn raise(&self) {
        let seen = self.signals.swap(0, Ordering::SeqCst);
        for signal in named().iter().filter(|s| seen & (1 << *s as i32) != 0) {
            let _ = raise(signal);
            // Linux ignores signals with default actions for a container's first process.
            if process::id() == 1 && !is_ignored(signal) {
                process::exit(128 + signal as i32);
            }
        }
    }
}

/// The deferred signals: all that would end the program. Job-control signals and notifications are not among them.
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

/// The named ones among them.
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

/// The mask that this program was started with, once a thread has deferred signals.
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
            // It fails only for an unknown `how`.
            self.before = deferred().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        }
    }

    /// Those that waited take effect now.
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

    /// A gate for a worker thread of this one, which lets signals through now.
    pub(crate) fn gate(&self) -> SignalGate {
        SignalGate {
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

/// Lets signals through on a working thread, while the main thread is busy reporting.
pub(crate) struct SignalGate {
    /// The mask that lets them through.
    open: SigSet,
    seen: SeenSignals,
}

impl SignalGate {
    /// Those that waited take effect now.
    pub(crate) fn deliver(&self) {
        let _ = self.open.thread_set_mask();
        self.seen.raise();
    }

    /// From now on, they take effect at once, whatever the main thread does.
    pub(crate) fn let_go(&self) {
        self.seen.are_free.store(true, Ordering::SeqCst);
        self.deliver();
    }

    /// Calls `tell` for each signal that waits. The signal takes effect when signals are delivered.
    ///
    /// # Errors
    /// If the system cannot start a thread.
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
