//! What Linux can do with a file that other Unix systems cannot.

use std::fs::File;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, StatxAttributes, StatxFlags, fallocate, getxattr, statx,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::time::ClockId;

use crate::platform::in_place::InPlaceReason;

/// The clock that runs while the machine sleeps.
pub(super) const CLOCK_THAT_RUNS_IN_SLEEP: ClockId = ClockId::Boottime;

/// Forbids core dumps of this process; exec of another program allows them again.
pub(super) fn forbid_core_dumps() {
    // A kernel without this setting dumps what it likes.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Starts or becomes another program, which may be dumped again.
pub(super) fn with_core_dumps<T>(start: impl FnOnce() -> T) -> T {
    start()
}

/// Reserves space and keeps the file's length.
pub(super) fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes))
}

/// What Linux knows about a path beyond its metadata. On a kernel too old to say, the rename fails instead.
pub(super) fn fixed(path: &Path) -> Option<InPlaceReason> {
    const UNCHANGEABLE: StatxAttributes = StatxAttributes::IMMUTABLE.union(StatxAttributes::APPEND);
    let of = |path: &Path| {
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
        found.map_or(StatxAttributes::empty(), |found| found.stx_attributes)
    };
    let file = of(path);
    let folder = path.parent().map_or(StatxAttributes::empty(), of);
    if (file | folder).intersects(UNCHANGEABLE) {
        Some(InPlaceReason::Immutable)
    } else if file.contains(StatxAttributes::MOUNT_ROOT) {
        Some(InPlaceReason::MountPoint)
    } else if has_access_list(path) {
        Some(InPlaceReason::AccessList)
    } else {
        None
    }
}

fn has_access_list(path: &Path) -> bool {
    let mut list = [0; 256];
    match getxattr(path, "system.posix_acl_access", &mut list[..]) {
        Ok(length) => length > 0,
        // Longer than that.
        Err(error) => error == Errno::RANGE,
    }
}
