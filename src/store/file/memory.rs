//! The latest pair of each login that was once in a file, in the user's state folder: with it an old copy
//! that another program writes over the file is known as one, and put right.
//!
//! None of it is needed, so nothing of it is synced, and what cannot be read is not there.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::io::{LONGEST_JOURNAL, read_open};
use super::replay::{Entry, Source};
use crate::platform::files;
use crate::store::places::{self, state_folder, with_suffix};
use crate::store::record::{self, Record};
use crate::token::Fingerprint;

/// Where the latest pair of each login of this file is remembered.
pub(super) fn path(file: &Path) -> Option<PathBuf> {
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    state_folder().map(|folder| folder.join(format!("{hash}.done")))
}

/// Whether nobody but this user could have planted it, or can read it.
fn is_own(path: &Path, metadata: &Metadata) -> bool {
    files::is_ours(metadata, None) && places::is_private(path, metadata)
}

/// A memory that is longer than this, and mostly of older pairs, is written anew.
const LONG_MEMORY: usize = 8 << 10;

/// The latest pair of each login that was once in this file. None of them is needed: what cannot be
/// read is not there.
pub(super) fn remembered(file: &Path) -> Vec<Entry> {
    let Some(path) = path(file) else {
        return Vec::new();
    };
    let Ok(mut opened) = files::open_unlinked(&path) else {
        return Vec::new();
    };
    let Ok(metadata) = opened.metadata() else {
        return Vec::new();
    };
    if !is_own(&path, &metadata) {
        return Vec::new();
    }
    let bytes = read_open(&path, &mut opened, &metadata, LONGEST_JOURNAL).unwrap_or_default();
    let all = record::read(&bytes).records;
    let count = all.len();
    let mut latest: Vec<Entry> = Vec::new();
    for (record, _) in all {
        let Record::Pair(pair) = record else {
            continue;
        };
        latest.retain(|entry| entry.pair.profile != pair.profile);
        latest.push(Entry::new((*pair).into(), Source::Done));
    }
    if bytes.len() > LONG_MEMORY && count > 2 * latest.len() {
        forget_older(&path, &latest);
    }
    latest
}

fn forget_older(path: &Path, latest: &[Entry]) {
    let lines = latest.iter();
    let lines: String = lines
        .map(|entry| Record::Pair(Box::new((*entry.pair).clone())).line())
        .collect();
    let new = with_suffix(path, ".new");
    let _ = fs::remove_file(&new);
    let made = files::create_private(&new);
    let written = made.and_then(|file| files::write_all_at(&file, lines.as_bytes(), 0));
    // It is a help, not a promise: the old one serves as well.
    let _ = written.and_then(|()| fs::rename(&new, path));
}

/// Remembers pairs that are in the file. Not synced: it is for other programs' old copies, not for
/// crashes.
pub(super) fn remember(file: &Path, pairs: &[&Entry]) {
    let lines: String = pairs
        .iter()
        .map(|entry| Record::Pair(Box::new((*entry.pair).clone())).line())
        .collect();
    let Some(path) = path(file).filter(|_| !lines.is_empty()) else {
        return;
    };
    let written = open_to_write(&path).and_then(|(file, end)| {
        // The lock on the file keeps others from writing here, too.
        files::write_all_at(&file, lines.as_bytes(), end)
    });
    if let Err(error) = written {
        log::info!("{}: {error}", path.display());
    }
}

/// Opens the memory, and says how long it is. What another could have planted in its place is put aside.
fn open_to_write(path: &Path) -> io::Result<(File, u64)> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if is_own(path, &metadata) => {
            let file = files::open_unlinked_to_write(path)?;
            let metadata = file.metadata()?;
            let is_own = is_own(path, &metadata);
            return is_own
                .then_some((file, metadata.len()))
                .ok_or_else(|| io::ErrorKind::PermissionDenied.into());
        }
        Ok(metadata) => places::put_aside(path, "is not only this user's", &metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => places::make_folder(path),
        Err(error) => return Err(error),
    }
    let folder = path.parent().map(fs::metadata);
    if !folder.is_some_and(|folder| folder.is_ok_and(|folder| files::is_own_folder(&folder))) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok((files::create_private(path)?, 0))
}
