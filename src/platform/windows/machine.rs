//! The machine: how long it has been up, and what it is called.

use std::env;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The time since this was first asked. The system's counter runs while the machine sleeps.
pub(crate) fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// The machine's name, for display.
pub(crate) fn name() -> String {
    let name = env::var_os("COMPUTERNAME").unwrap_or_default();
    name.to_string_lossy().into_owned()
}
