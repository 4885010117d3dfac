//! What the program needs from the operating system beyond std; the only place that knows which one it is.
//!
//! Promises:
//! - Each system has the same modules with the same functions: `files`, `machine`, `programs` and
//!   `signals`. What a system lacks is a function that does nothing there, and says why.
//! - Nothing here decides about a token, or knows the modules that do.

pub(crate) mod in_place;

// Each system has a module for what it does differently; the code above is the same for all.
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{files, machine, programs, signals};
#[cfg(windows)]
pub(crate) use windows::{files, machine, programs, signals};

// Without file locks, or signals that can wait, the promises would break silently.
#[cfg(not(any(unix, windows)))]
compile_error!("feishu-refresh runs on Unix systems and on Windows");
