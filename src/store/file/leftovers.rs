//! What dead runs left: their journals, if they can be trusted.
//!
//! Promises:
//! - Only a regular file with one name is trusted, owned by this user or the configuration's owner, private
//!   where the file system keeps modes. Anything else is put aside and reported.
//! - A live run's journal is waited for.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::io::{LONGEST_JOURNAL, is_same, read_open};
use super::memory;
use super::replay::{Entry, Source};
use crate::error::{Error, Result};
use crate::platform::files;
use crate::profile::Successor;
use crate::store::places::{self, CompanionPath, JOURNAL, places};
use crate::store::record::{self, Record};
use crate::token::Fingerprint;

/// A journal that a dead run left.
pub(super) struct Leftover {
    /// Locks it against others.
    file: File,
    path: PathBuf,
    is_beside: bool,
    /// How much of it was written.
    length: u64,
    pub(super) read: record::ReadRecords,
}

/// What dead runs left.
pub(super) enum FoundLeftovers {
    Leftovers(Vec<Leftover>),
    /// One belongs to a live run: it holds a file that an editor has since replaced.
    Busy,
}

/// Finds what dead runs left. What cannot be trusted is put aside and reported.
///
/// # Errors
/// [`crate::Kind::Config`] if a trusted one cannot be read: it may hold the only copy.
pub(super) fn find(path: &Path, owner: &Metadata) -> Result<FoundLeftovers> {
    let mut found = Vec::new();
    for place in places(path, JOURNAL) {
        let (mut file, metadata) = match open_believed(&place, owner)? {
            OpenedPlace::Journal(file, metadata) => (file, metadata),
            OpenedPlace::Nothing => continue,
            OpenedPlace::Vanished => return Ok(FoundLeftovers::Busy),
        };
        if let Err(TryLockError::WouldBlock) = files::claim(&file) {
            return Ok(FoundLeftovers::Busy);
        }
        // Its run removed it just now.
        if !is_same(&place.path, &file) {
            return Ok(FoundLeftovers::Busy);
        }
        let bytes = read_open(&place.path, &mut file, &metadata, LONGEST_JOURNAL)?;
        let length = bytes.iter().rposition(|byte| *byte != 0);
        found.push(Leftover {
            file,
            path: place.path,
            is_beside: place.is_beside,
            length: length.map_or(0, |last| last as u64 + 1),
            read: record::read(&bytes),
        });
    }
    Ok(FoundLeftovers::Leftovers(found))
}

/// What is in a place.
enum OpenedPlace {
    Nothing,
    /// It is gone: its run has just removed it.
    Vanished,
    Journal(File, Metadata),
}

/// Opens what is in a place, if it can be trusted: a regular file with one name, of this user or the configuration's
/// owner, and private.
fn open_believed(place: &CompanionPath, owner: &Metadata) -> Result<OpenedPlace> {
    let path = &place.path;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(OpenedPlace::Nothing);
    };
    if !files::is_ours(&metadata, Some(owner)) || !places::is_private(path, &metadata) {
        let why = "is not private to this user or the configuration's owner";
        places::put_aside(path, why, &metadata);
        return Ok(OpenedPlace::Nothing);
    }
    let opened = files::open_unlinked(path).and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((opened, file)) if files::identity(&opened) == files::identity(&metadata) => {
            Ok(OpenedPlace::Journal(file, opened))
        }
        Ok(_) => Ok(OpenedPlace::Vanished),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(OpenedPlace::Vanished),
        Err(error) => Err(Error::file("cannot read", path, error)),
    }
}

impl Leftover {
    /// The pairs that it holds.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let source = if self.is_beside {
            Source::Beside
        } else {
            Source::Elsewhere
        };
        let records = self.read.records.iter();
        records.filter_map(move |(record, _)| match record {
            Record::Pair(pair) => Some(Entry::new(Arc::new((**pair).clone()), source)),
            _ => None,
        })
    }

    /// The incomplete lines, and those of some pairs.
    pub(super) fn lines_of(&self, is_wanted: impl Fn(&Successor) -> bool) -> Vec<u8> {
        let mut lines: Vec<&[u8]> = self.read.torn.iter().map(Vec::as_slice).collect();
        for (record, line) in &self.read.records {
            if let Record::Pair(pair) = record
                && is_wanted(pair)
            {
                lines.push(line.as_bytes());
            }
        }
        lines.join(&b'\n')
    }

    /// The last whole text that was to be written over the file.
    pub(super) fn text(&self) -> Option<&str> {
        let mut records = self.read.records.iter().rev();
        records.find_map(|(record, _)| match record {
            Record::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The tokens that were sent, with unknown result.
    pub(super) fn in_doubt(&self) -> Vec<Fingerprint> {
        let mut sent = Vec::new();
        for (record, _) in &self.read.records {
            match record {
                Record::Sent(token) => sent.push(*token),
                Record::Answered(token) => sent.retain(|sent| sent != token),
                Record::Pair(pair) => sent.retain(|sent| Some(*sent) != pair.predecessor),
                Record::Text(_) => {}
            }
        }
        sent
    }

    /// Whether this is the same file, and still under its name.
    pub(super) fn is(&self, file: &File) -> bool {
        is_same(&self.path, &self.file) && is_same(&self.path, file)
    }

    /// How much of it was written.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Removes it: the file has all of it.
    pub(super) fn remove(&self) {
        if is_same(&self.path, &self.file) {
            places::remove(&self.path);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The journals with something for the next run, and their pairs, for read-only use.
pub(super) fn pending(file: &Path) -> (Vec<PathBuf>, Vec<Entry>, Option<String>) {
    let file = files::real_path(file).unwrap_or_else(|_| file.to_owned());
    let (mut paths, mut entries, mut text) = (Vec::new(), Vec::new(), None);
    let Ok(owner) = fs::metadata(&file).or_else(|_| fs::metadata(file.parent().unwrap_or(&file)))
    else {
        return (paths, entries, text);
    };
    entries.extend(memory::remembered(&file));
    for place in places(&file, JOURNAL) {
        let Ok(metadata) = fs::symlink_metadata(&place.path) else {
            continue;
        };
        if !files::is_ours(&metadata, Some(&owner)) || !places::is_private(&place.path, &metadata) {
            continue;
        }
        let Ok(mut opened) = files::open_unlinked(&place.path) else {
            continue;
        };
        let bytes =
            read_open(&place.path, &mut opened, &metadata, LONGEST_JOURNAL).unwrap_or_default();
        let leftover = Leftover {
            file: opened,
            path: place.path,
            is_beside: place.is_beside,
            length: 0,
            read: record::read(&bytes),
        };
        let known = entries.len();
        entries.extend(leftover.entries());
        text = text.or(leftover.text().map(str::to_owned));
        if entries.len() > known {
            paths.push(leftover.path);
        }
    }
    (paths, entries, text)
}
