//! What other Unix systems cannot do with a file, and Linux can.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

use crate::platform::Fixed;

/// They reserve only by changing the file's length.
pub(super) fn allocate(_file: &File, _bytes: u64) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// Only Linux mounts files.
pub(super) fn fixed(_path: &Path) -> Option<Fixed> {
    None
}
