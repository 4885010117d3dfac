//! The journal: holds each pair as soon as it arrives, before the file is read, waited for or touched (P7).
//!
//! Promises:
//! - It has a fixed name in the first of a few places where it can be written ([`crate::store::places`]).
//! - It is locked while its run lives, so that nobody takes it for a dead run's.
//! - A record is appended in one write.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::io::is_same;
use super::leftovers::Leftover;
use crate::platform::files;
use crate::store::places::{self, JOURNAL, places};
use crate::store::record::Record;

/// The first line, for whoever finds it.
const HEAD: &str = "; Tokens of feishu-refresh that are perhaps not in the configuration file yet: its next run puts them there.";

/// A journal of this run.
#[derive(Debug)]
pub(super) struct Journal {
    /// The file whose journal it is.
    of: PathBuf,
    file: File,
    path: PathBuf,
    /// Locked while a record is written.
    end: Mutex<JournalEnd>,
    /// Whether a sync failed.
    has_failed: AtomicBool,
}

/// How far a journal is used.
#[derive(Debug, Clone, Copy, Default)]
struct JournalEnd {
    /// Where the next record goes.
    written: u64,
    /// Where the reserved space ends.
    reserved: u64,
}

impl Journal {
    /// Creates a journal with space for `bytes`, in the first possible place that was not tried before. A dead run's
    /// journal there is continued.
    pub(super) fn open(
        path: &Path,
        model: Option<&Metadata>,
        bytes: u64,
        leftovers: &[Leftover],
        tried: &[PathBuf],
    ) -> io::Result<Self> {
        let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
        // The next run looks first where a dead run left something.
        let old = leftovers.iter().map(Leftover::path);
        let new = places(path, JOURNAL).into_iter().map(|place| place.path);
        for place in old.map(Path::to_owned).chain(new) {
            if tried.contains(&place) {
                continue;
            }
            let old = leftovers.iter().find(|leftover| leftover.path() == place);
            let opened = match old {
                Some(leftover) => Journal::write_on(path, leftover),
                None => Journal::make(path, &place, model),
            };
            result = opened.and_then(|journal| {
                if let Err(error) = journal.reserve(bytes) {
                    if old.is_none() {
                        journal.remove();
                    }
                    return Err(error);
                }
                Ok(journal)
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Continues what a dead run left.
    fn write_on(of: &Path, leftover: &Leftover) -> io::Result<Self> {
        let file = files::open_unlinked_to_write(leftover.path())?;
        if !leftover.is(&file) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Journal {
            of: of.to_owned(),
            file,
            path: leftover.path().to_owned(),
            end: Mutex::new(JournalEnd {
                written: leftover.length(),
                reserved: leftover.length(),
            }),
            has_failed: AtomicBool::new(false),
        })
    }

    fn make(of: &Path, path: &Path, model: Option<&Metadata>) -> io::Result<Self> {
        places::make_folder(path);
        let file = files::create_private(path)?;
        files::claim(&file)?;
        if let Some(model) = model {
            // The file's owner should be able to use what a dead run left.
            let _ = files::take_owner(&file, model);
        }
        Ok(Journal {
            of: of.to_owned(),
            file,
            path: path.to_owned(),
            end: Mutex::default(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// Reserves this many bytes after what is written: with NULs, which cost less than blocks that a file system would
    /// have to find and free again.
    pub(super) fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut end = self.end();
        let wanted = end.written + bytes;
        if wanted > end.reserved {
            files::check_length(wanted)?;
            let nuls = vec![0; usize::try_from(wanted - end.reserved).unwrap_or_default()];
            files::write_all_at(&self.file, &nuls, end.reserved)?;
            end.reserved = wanted;
        }
        Ok(())
    }

    /// How much of it is written.
    pub(super) fn length(&self) -> u64 {
        self.end().written
    }

    fn end(&self) -> MutexGuard<'_, JournalEnd> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record in one piece. From now on it outlives its run.
    pub(super) fn append(&self, record: &Record) -> io::Result<()> {
        let mut end = self.end();
        let mut line = record.line();
        if end.written == 0 {
            line.insert_str(0, HEAD);
        }
        files::write_all_at(&self.file, line.as_bytes(), end.written)?;
        end.written += line.len() as u64;
        end.reserved = end.reserved.max(end.written);
        Ok(())
    }

    /// Syncs all of it, with its name. After one failure, a repeated sync cannot be trusted.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("it could not be synced before"));
        }
        let sync = || {
            fail_point!("before-journal-fsync");
            self.file.sync_all()
        };
        sync().inspect_err(|_| self.has_failed.store(true, Ordering::Relaxed))?;
        if let Some(folder) = self.path.parent() {
            files::sync_folder(folder);
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is beside the file.
    pub(super) fn is_beside(&self) -> bool {
        self.path.parent() == self.of.parent()
    }

    /// The path of its file.
    pub(super) fn file_path(&self) -> &Path {
        &self.of
    }

    /// Whether it is still under its name.
    pub(super) fn is_there(&self) -> bool {
        is_same(&self.path, &self.file)
    }

    /// Removes it: the file has all of it.
    pub(super) fn remove(&self) {
        if self.is_there() {
            places::remove(&self.path);
        }
    }
}
