//! Signals wait while a token is at stake (P6).
//!
//! They are masked, not handled: once the mask is gone, a signal that waited does its default work,
//! and one that was ignored when the program started is still ignored.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::refresh::Signals;

/// The mask of this program's one thread; threads that begin later inherit it.
#[derive(Default)]
pub(super) struct Mask {
    /// The mask to go back to.
    before: Option<SigSet>,
}

impl Signals for Mask {
    fn defer(&mut self) {
        if self.before.is_none() {
            let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
                .into_iter()
                .collect();
            // It fails for an unknown `how` alone.
            self.before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        }
    }

    fn deliver(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.thread_set_mask();
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        self.deliver();
    }
}
