//! What Linux can do with a file that other Unix systems cannot.

use std::fs::File;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, StatxAttributes, StatxFlags, fallocate, getxattr, statx,
};
use rustix::io::{Errno, retry_on_intr};

use crate::platform::Fixed;

/// Sets space aside and leaves the file's length alone.
pub(super) fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes))
}

/// What Linux knows of a path beyond its metadata. A kernel too old to tell lets the rename
/// fail instead.
pub(super) fn fixed(path: &Path) -> Option<Fixed> {
    const UNCHANGEABLE: StatxAttributes = StatxAttributes::IMMUTABLE.union(StatxAttributes::APPEND);
    let of = |path: &Path| {
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
        found.map_or(StatxAttributes::empty(), |found| found.stx_attributes)
    };
    let file = of(path);
    let folder = path.parent().map_or(StatxAttributes::empty(), of);
    if (file | folder).intersects(UNCHANGEABLE) {
        Some(Fixed::Immutable)
    } else if file.contains(StatxAttributes::MOUNT_ROOT) {
        Some(Fixed::MountPoint)
    } else if has_access_list(path) {
        Some(Fixed::AccessList)
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
