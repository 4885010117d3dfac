//! Ctrl-C and its kin are waited for, so that what was made goes before the process does.

use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal, raise};

/// What ends a demonstration.
pub struct Stop {
    signals: SigSet,
}

impl Stop {
    /// From now on these signals wait, in this thread and in those that it starts. One that is ignored
    /// stays ignored: Linux would hand it to who waits for it.
    pub fn prepare() -> Result<Self> {
        let ignored = ignored();
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let signals = signals.into_iter();
        let signals: SigSet = signals
            .filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0)
            .collect();
        signals.thread_block()?;
        Ok(Stop { signals })
    }

    /// Waits until one comes. It goes on waiting, for [`Stop::end`].
    pub fn wait(&self) -> Result<()> {
        raise(self.signals.wait()?)?;
        Ok(())
    }

    /// Dies of the one that came, as if it had not waited.
    pub fn end(self) -> ExitCode {
        let _ = self.signals.thread_unblock();
        ExitCode::FAILURE
    }
}

/// The signals that this process was started to ignore, as bits; none where nobody tells.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or_default()
}
