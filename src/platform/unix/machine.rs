//! The machine: how long it has been up, and what it is called.

use std::time::Duration;

use rustix::system::uname;
use rustix::time::clock_gettime;

use super::kernel;

/// The time since the machine started, including sleep.
pub(crate) fn uptime() -> Duration {
    let time = clock_gettime(kernel::CLOCK_THAT_RUNS_IN_SLEEP);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// The machine's name, for display.
pub(crate) fn name() -> String {
    uname().nodename().to_string_lossy().into_owned()
}
