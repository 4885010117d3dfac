//! Signals wait while a token is at stake (P6).
//!
//! They are masked, not handled: once the mask is gone, a signal that waited does its default work,
//! and one that was ignored when the program started is still ignored.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};

/// The mask of this program's main thread. Helper threads, which resolve host names, are shielded for
/// as long as they live, so that a signal is for the main thread alone.
#[derive(Default)]
pub(super) struct Mask {
    /// The mask to go back to.
    before: Option<SigSet>,
    /// The number of a signal that came while they waited, once [`Self::watch`] looks out for them.
    seen: Arc<AtomicI32>,
}

/// The signals that wait.
fn deferred() -> SigSet {
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    signals.into_iter().collect()
}

impl Mask {
    /// From now on, signals wait.
    pub(super) fn defer(&mut self) {
        if self.before.is_none() {
            // It fails for an unknown `how` alone.
            self.before = deferred().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        }
    }

    /// Those that waited do their work now.
    pub(super) fn deliver(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.thread_set_mask();
        }
        if let Ok(seen) = Signal::try_from(self.seen.swap(0, Ordering::Relaxed)) {
            let _ = raise(seen);
        }
    }

    /// Has `tell` called for each signal that waits. It does its work when signals are delivered.
    pub(super) fn watch(&mut self, tell: Box<dyn Fn() + Send>) {
        let seen = Arc::clone(&self.seen);
        // Without a thread, a signal waits until the end.
        let _ = thread::Builder::new().spawn(move || {
            Mask::shield_thread();
            while let Ok(signal) = deferred().wait() {
                seen.store(signal as i32, Ordering::Relaxed);
                tell();
            }
        });
    }

    /// Has a thread leave signals to the main thread.
    pub(super) fn shield_thread() {
        let _ = deferred().thread_block();
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        self.deliver();
    }
}
