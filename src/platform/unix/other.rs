//! Substitutes for what only Linux can do with a file.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::platform::in_place::InPlaceReason;

/// Sets the core dump size limit to zero.
pub(super) fn forbid_core_dumps() {
    let limit = getrlimit(Resource::Core);
    LIMIT.get_or_init(|| limit.clone());
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    let _ = setrlimit(Resource::Core, none);
}

/// The limit that this program was started with.
static LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Starts or becomes another program, with the limit that this program was started with.
pub(super) fn with_core_dumps<T>(start: impl FnOnce() -> T) -> T {
    let Some(limit) = LIMIT.get() else {
        return start();
    };
    let _ = setrlimit(Resource::Core, limit.clone());
    let done = start();
    forbid_core_dumps();
    done
}

/// They can reserve only by changing the file's length.
pub(super) fn allocate(_file: &File, _bytes: u64) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// Only Linux mounts files.
pub(super) fn fixed(_path: &Path) -> Option<InPlaceReason> {
    None
}

/// The clock that runs while the machine sleeps: on macOS, this one.
pub(super) const CLOCK_THAT_RUNS_IN_SLEEP: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
