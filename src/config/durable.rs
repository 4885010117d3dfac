//! The careful file: the only place that locks, writes, renames or syncs.
//!
//! Promises:
//! - One at a time (P4). A [`Lock`] is held on the file itself, so that runs which reach it by
//!   different paths exclude each other.
//! - Room first (P1). A [`Room`] exists only once the way of saving is chosen and the new text's
//!   space is reserved.
//! - Whole or untouched (P3). The new text is written beside the file and renamed over it; where
//!   that cannot be, a synced rescue copy comes first, and a torn file is known by its first byte.
//! - Nothing lost (P7). A text that cannot be saved stays in a rescue file, in the first of a few
//!   places that takes it; the next run finds it there ([`Lock::leftovers`]). A run over many
//!   profiles keeps a [`Journal`] there, until all is saved.
//!
//! The types carry the order: only a lock makes room, only room saves.

mod journal;
mod lock;
mod rescue;
mod room;

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::Duration;

pub(super) use journal::{Entries, Journal, entries};
pub(super) use lock::Lock;
pub(super) use rescue::{Leftover, has_leftover, is_torn, pending, pending_put_backs};
pub(super) use room::{Room, SaveError};

use crate::error::{Error, Hint, Result};
use crate::platform::files;
use crate::platform::programs::quoted;

/// A file longer than this is not a configuration: thousands of profiles fit in it.
const LONGEST_FILE: u64 = 32 << 20;

/// Reads a whole file that is small enough to be a configuration.
///
/// None if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match files::open_options().open(path) {
        Ok(mut file) => {
            check_regular(path, &file)?;
            read_open(path, &mut file).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("cannot read", path, error)),
    }
}

/// The error for a file that is not there.
pub(super) fn does_not_exist(path: &Path) -> Error {
    Error::config(format!("{} does not exist", path.display())).with_hint(Hint::fixed(
        "feishu-refresh login makes it; -c names another",
        "可用 feishu-refresh login 创建；用 -c 指定其他文件",
    ))
}

/// A file's mode bits; none if they cannot be told.
pub(super) fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path)
        .ok()
        .and_then(|metadata| files::mode(&metadata))
}

/// Reports a file that others can read, with the command that mends it.
pub(super) fn warn_if_readable_by_others(path: &Path) {
    let metadata = fs::metadata(path).ok();
    if let Some(mode) = metadata.and_then(|m| files::mode_if_readable_by_others(&m)) {
        let path = files::real_path(path).unwrap_or_else(|_| path.to_owned());
        let path = path.display().to_string();
        let quoted = quoted(&path);
        log::warn!("{path} can be read by other users (mode {mode:04o}): chmod 600 {quoted}");
    }
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(files::State);

/// The state of a file; none if there is none.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path)
        .ok()
        .map(|metadata| Stamp(files::state(&metadata)))
}

/// How long ago a file was last written; none if that is not known.
pub(super) fn age(path: &Path) -> Option<Duration> {
    let written = fs::metadata(path).and_then(|found| found.modified());
    written.ok()?.elapsed().ok()
}

/// Whether a file was not changed after another was written; also if there is none.
pub(super) fn is_unchanged_since(path: &Path, other: &Path) -> bool {
    match (fs::metadata(path), fs::metadata(other)) {
        (Ok(file), Ok(other)) => files::is_unchanged_since(&file, &other),
        (found, _) => found.is_err(),
    }
}

fn read_open(path: &Path, file: &mut File) -> Result<Vec<u8>> {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(LONGEST_FILE)).unwrap_or(0) + 1);
    file.rewind()
        .and_then(|()| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::file("cannot read", path, error))?;
    if bytes.len() as u64 > LONGEST_FILE {
        let message = format!("{} is too long to be a configuration file", path.display());
        return Err(Error::config(message));
    }
    Ok(bytes)
}

fn check_regular(path: &Path, file: &File) -> Result<Metadata> {
    let metadata = file.metadata();
    let metadata = metadata.map_err(|error| Error::file("cannot read", path, error))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    Err(Error::config(format!(
        "{} is not a regular file",
        path.display()
    )))
}

/// Whether a path leads to this very file, links followed.
fn is_same(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => files::identity(&named) == files::identity(&open),
        _ => false,
    }
}
