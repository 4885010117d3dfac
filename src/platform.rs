//! What the program needs from the operating system beyond std; the only place that knows which one it is.
//!
//! Promises:
//! - Each system has the same modules with the same functions: `files`, `machine`, `programs` and
//!   `signals`. What a system lacks is a function that does nothing there, and says why.
//! - Nothing here decides about a token, or knows the modules that do.

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

/// Why a file cannot be replaced by renaming another over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "no system but Linux knows them all")]
pub(crate) enum Fixed {
    /// Something is mounted on the file itself.
    MountPoint,
    /// The file or its folder must not be changed: it is immutable, append-only or read-only.
    Immutable,
    /// The file has other names, which would keep the old text.
    HardLinks,
    /// The file has access rights beyond owner, group and mode, which a new file would lack.
    AccessList,
    /// The file is open but gone from its folder: a mounted file that was replaced on the host.
    Replaced,
}
