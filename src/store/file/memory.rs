//! The latest pair of each login that was once in a file, in the user's state folder: with it an old copy
//! that another program writes over the file is known as one, and put right.
//!
//! None of it is needed, so nothing of it is synced, and what cannot be read is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::io::read_open;
use super::places::{self, state_folder, with_suffix};
use super::record::{self, Record};
use super::replay::{Entry, Source};
use crate::platform::files;
use crate::token::Fingerprint;

/// Where the latest pair of each login of this file is remembered.
fn memory_path(file: &Path) -> Option<PathBuf> {
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    state_folder().map(|folder| folder.join(format!("{hash}.done")))
}

/// A memory that is longer than this, and mostly of older pairs, is written anew.
const LONG_MEMORY: usize = 8 << 10;

/// The latest pair of each login that was once in this file. None of them is needed: what cannot be
/// read is not there.
pub(super) fn remembered(file: &Path) -> Vec<Entry> {
    let Some(path) = memory_path(file) else {
        return Vec::new();
    };
    let Ok(mut opened) = files::open_unlinked(&path) else {
        return Vec::new();
    };
    let Ok(metadata) = opened.metadata() else {
        return Vec::new();
    };
    if !files::is_ours(&metadata, &metadata) || !places::is_private(&path, &metadata) {
        return Vec::new();
    }
    let bytes = read_open(&path, &mut opened, &metadata).unwrap_or_default();
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
    let Some(path) = memory_path(file).filter(|_| !lines.is_empty()) else {
        return;
    };
    let opened = files::open_to_append(&path).or_else(|_| {
        places::make_folder(&path);
        files::open_to_append(&path)
    });
    let written = opened.and_then(|mut file| io::Write::write_all(&mut file, lines.as_bytes()));
    if let Err(error) = written {
        log::info!("{}: {error}", path.display());
    }
}
