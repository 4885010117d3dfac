//! The latest pair of each login that was once in a file, in the user's state folder: with it, an old copy that another
//! program writes over the file is recognised and fixed.
//!
//! None of it is essential, so it is not synced, and what cannot be read is ignored. The exception is forgetting: a
//! login that has moved elsewhere must not come back, so that is synced, and reports failure.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::io::{LONGEST_JOURNAL, read_open};
use super::replay::{Entry, Source};
use crate::platform::files;
use crate::profile::Successor;
use crate::store::places::{self, state_folder, with_suffix};
use crate::store::record::{self, Record};
use crate::token::Fingerprint;

/// Where the latest pair of each login of this file is remembered.
pub(super) fn path(file: &Path) -> Option<PathBuf> {
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    state_folder().map(|folder| folder.join(format!("{hash}.done")))
}

/// Whether only this user could have created it, and can read it.
fn is_own(path: &Path, metadata: &Metadata) -> bool {
    files::is_ours(metadata, None) && places::is_private(path, metadata)
}

/// A memory that is longer than this and mostly holds older pairs is rewritten.
const LONG_MEMORY: usize = 8 << 10;

/// The latest pair of each login that was once in this file. None of them is essential: what cannot be read is ignored.
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
    let mut latest: Vec<Box<Successor>> = Vec::new();
    for (record, _) in all {
        if let Record::Pair(pair) = record {
            latest.retain(|other| other.profile != pair.profile);
            latest.push(pair);
        }
    }
    let latest = latest.into_iter();
    let latest: Vec<Entry> = latest
        .map(|pair| Entry::new(pair.into(), Source::Done))
        .collect();
    if bytes.len() > LONG_MEMORY && count > 2 * latest.len() {
        forget_older(&path, &latest);
    }
    latest
}

/// A pair as it is remembered. What a login wrote beside it is the file's to keep: a person may change it there.
fn line(entry: &Entry) -> String {
    let mut pair = (*entry.pair).clone();
    pair.settings.clear();
    Record::Pair(Box::new(pair)).line()
}

fn forget_older(path: &Path, latest: &[Entry]) {
    let lines: String = latest.iter().map(line).collect();
    // It is optional: the old one serves as well.
    let _ = replace(path, &lines, |_| Ok(()));
}

/// Replaces this memory as a whole. `settle` is applied to the new one before that.
fn replace(path: &Path, lines: &str, settle: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let _ = fs::remove_file(&new);
    let file = files::create_private(&new)?;
    files::write_all_at(&file, lines.as_bytes(), 0)?;
    settle(&file)?;
    drop(file);
    fs::rename(&new, path)
}

/// Forgets a profile of this file, durably. All others are remembered as before.
///
/// # Errors
/// What prevents it. Then the profile is still remembered.
pub(super) fn forget(file: &Path, profile: &str) -> io::Result<()> {
    path(file).map_or(Ok(()), |path| forget_in(&path, profile))
}

fn forget_in(path: &Path, profile: &str) -> io::Result<()> {
    // From a run that died while replacing it: nobody reads it, but it may name this profile.
    match fs::remove_file(with_suffix(path, ".new")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(lines) = read_own(path)?.and_then(|bytes| without(&bytes, profile)) {
        replace(path, &lines, File::sync_all)?;
    }
    // A run may have forgotten it, and died before that was on disk.
    path.parent().into_iter().for_each(files::sync_folder);
    Ok(())
}

/// What the memory holds, if it exists and may be read.
fn read_own(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut opened = match fs::symlink_metadata(path) {
        Ok(metadata) if is_own(path, &metadata) => files::open_unlinked(path)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(None),
    };
    let metadata = opened.metadata()?;
    let bytes = read_open(path, &mut opened, &metadata, LONGEST_JOURNAL);
    bytes.map(Some).map_err(io::Error::other)
}

/// A memory's text without a profile; none if there is nothing to leave out. An incomplete line may belong to that
/// profile, and is useless anyway.
fn without(bytes: &[u8], profile: &str) -> Option<String> {
    let read = record::read(bytes);
    let is_kept = |record: &Record| match record {
        Record::Pair(pair) => pair.profile != profile,
        // No text is read from here; it would hold every profile.
        Record::Text(_) => false,
        Record::Sent(_) | Record::Answered(_) => true,
    };
    let is_clean = read.torn.is_empty() && read.records.iter().all(|(record, _)| is_kept(record));
    let kept = read.records.iter().filter(|(record, _)| is_kept(record));
    // As each was written.
    let lines = || kept.flat_map(|(_, line)| ["\n", line, "\n"]).collect();
    (!is_clean).then(lines)
}

/// Remembers pairs that are in the file. Not synced: it guards against other programs' old copies, not crashes.
pub(super) fn remember(file: &Path, pairs: &[&Entry]) {
    let lines: String = pairs.iter().copied().map(line).collect();
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

/// Opens the memory, and returns its length. A file that another user could have planted is put aside.
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
        Ok(metadata) => places::put_aside(path, "is not private to this user", &metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => places::make_folder(path),
        Err(error) => return Err(error),
    }
    let folder = path.parent().map(fs::metadata);
    if !folder.is_some_and(|folder| folder.is_ok_and(|folder| files::is_own_folder(&folder))) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok((files::create_private(path)?, 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::profile::Successor;
    use crate::protocol::Api;

    fn line(profile: &str, token: &str) -> String {
        let mut pair = Successor::trial(profile, Api::V1);
        pair.tokens.refresh_token = Some(token.into());
        Record::Pair(Box::new(pair)).line()
    }

    #[test]
    fn only_the_profile_that_moved_is_forgotten() {
        let (a, b) = (line("A", "ur-a"), line("B", "ur-b"));
        let both = format!("{a}{b}{}{b}", line("A", "ur-a2"));
        assert_eq!(without(both.as_bytes(), "A").unwrap(), format!("{b}{b}"));
        assert_eq!(without(both.as_bytes(), "a"), None);
        assert_eq!(without(b.as_bytes(), "A"), None);
        assert_eq!(without(b"", "A"), None);
        assert_eq!(without(a.as_bytes(), "A").unwrap(), "");
        // A truncated line: its profile is unknown.
        let torn = format!("{b}{}", &a[..a.len() / 2]);
        assert_eq!(without(torn.as_bytes(), "A").unwrap(), b);
    }

    #[test]
    fn a_memory_is_replaced_whole_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.done");
        forget_in(&path, "A").unwrap();
        assert!(!path.exists());
        let made = files::create_private(&path).unwrap();
        let text = format!("{}{}", line("A", "ur-a"), line("B", "ur-b"));
        files::write_all_at(&made, text.as_bytes(), 0).unwrap();
        // Left by a run that died during this.
        let new = with_suffix(&path, ".new");
        fs::write(&new, line("A", "ur-a")).unwrap();
        forget_in(&path, "A").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line("B", "ur-b"));
        assert!(is_own(&path, &fs::metadata(&path).unwrap()));
        fs::write(&new, line("A", "ur-a")).unwrap();
        forget_in(&path, "A").unwrap();
        assert!(!new.exists());
        assert_eq!(fs::read_to_string(&path).unwrap(), line("B", "ur-b"));
    }
}
