//! The locked file, and the two ways in which a new text gets into it.
//!
//! Promises:
//! - The way is chosen and the space is reserved before anything is sent (P1).
//! - Complete or untouched (P3). The new text is written beside the file and renamed over it; where that
//!   is impossible, it is in the journal first, synced, and a half-written file is recognised by its
//!   first byte.
//! - `FILE.new` is never read by anybody.

use std::fs::{self, File, Metadata};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use super::document::is_utf16;
use super::io::{cannot_reserve, is_same, read};
use super::journal::Journal;
use super::lock::Lock;
use crate::error::{Error, Hint, Kind, Result, is_full};
use crate::platform::files;
use crate::platform::in_place::InPlaceReason;
use crate::store::places::with_suffix;
use crate::store::record::Record;

/// A locked file.
#[derive(Debug)]
pub(super) struct Disk {
    // Dropped first, so that the lock outlives what it protects.
    room: Option<SaveMethod>,
    pub(super) lock: Lock,
}

/// Space for a new text, and how it gets into the file.
#[derive(Debug)]
enum SaveMethod {
    /// The new file replaces the old one.
    Rename(NewFile),
    /// The text is copied into the file, once the journal has it: for a file that is a mount point, has other names or
    /// an access list, lies in a folder that cannot be written, or belongs to a user who could not be made the owner of
    /// a new file.
    InPlace,
}

impl Disk {
    pub(super) fn new(lock: Lock) -> Self {
        Disk { room: None, lock }
    }

    /// Chooses the way of saving and reserves space for a text of up to `bytes`.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if the disk is full, [`Kind::Config`] if the file cannot be changed.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<()> {
        match &mut self.room {
            Some(SaveMethod::Rename(new)) if new.reserved >= bytes => return Ok(()),
            Some(SaveMethod::Rename(new)) => {
                let reserved = files::reserve(&new.file, bytes);
                new.reserved = bytes;
                return reserved.map_err(|error| self.cannot_write_beside(error));
            }
            Some(SaveMethod::InPlace) => return self.reserve_in_place(bytes),
            None => {}
        }
        let Lock { path, file, .. } = &self.lock;
        // An editor may have replaced it: then replace that one.
        let old = fs::metadata(path).or_else(|_| file.metadata());
        let old = old.map_err(|error| Error::file("cannot read", path, error))?;
        match files::fixed(path, &old) {
            Some(reason @ (InPlaceReason::Replaced | InPlaceReason::Immutable)) => {
                return Err(cannot_change(path, reason));
            }
            Some(
                InPlaceReason::MountPoint | InPlaceReason::HardLinks | InPlaceReason::AccessList,
            ) => {
                return self.reserve_in_place(bytes);
            }
            None => {}
        }
        match NewFile::make(path, &old, bytes) {
            Ok(new) => self.room = Some(SaveMethod::Rename(new)),
            Err(error) if is_full(&error) || self.lock.unwritable.is_some() => {
                return Err(self.cannot_write_beside(error));
            }
            Err(_) => return self.reserve_in_place(bytes),
        }
        Ok(())
    }

    fn reserve_in_place(&mut self, bytes: u64) -> Result<()> {
        let Lock { path, file, .. } = &self.lock;
        let writable = match &self.lock.unwritable {
            Some(error) => Err(copy_of(error)),
            None => files::reserve_beyond(file, bytes),
        };
        writable.map_err(|error| {
            cannot_reserve("no space for new tokens of", "cannot write", path, error)
        })?;
        self.room = Some(SaveMethod::InPlace);
        Ok(())
    }

    fn cannot_write_beside(&self, error: io::Error) -> Error {
        let full = "no space for new tokens beside";
        cannot_reserve(full, "cannot write beside", &self.lock.path, error)
    }

    /// Whether a new text is written over the file, and so must be in the journal first.
    pub(super) fn writes_in_place(&self) -> bool {
        matches!(self.room, Some(SaveMethod::InPlace))
    }

    /// Releases the space.
    pub(super) fn release(&mut self) {
        self.room = None;
    }

    /// The file as it is now, by its path: a program that ignores locks may have replaced it. None if it has vanished.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>> {
        read(&self.lock.path)
    }

    /// Puts `text` into the file, durably (P2, P3); but not over what another program wrote since
    /// `old` was read (P12): that must be read first. Returns whether it did.
    pub(super) fn write(
        &mut self,
        old: Option<&[u8]>,
        text: &str,
        journal: Option<&Journal>,
    ) -> io::Result<bool> {
        match self.room.take() {
            Some(SaveMethod::Rename(new)) => self.replace(new, old, text, journal),
            Some(SaveMethod::InPlace) => {
                self.room = Some(SaveMethod::InPlace);
                self.write_over(old, text, journal)
            }
            None => Err(io::Error::other("there is no space for it")),
        }
    }

    /// Syncs the file and its name: a run that died may not have.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.lock.file.sync_all()?;
        self.lock
            .path
            .parent()
            .into_iter()
            .for_each(files::sync_folder);
        Ok(())
    }

    /// Whether the file is unchanged.
    fn still_says(&self, old: Option<&[u8]>) -> bool {
        self.read().is_ok_and(|found| found.as_deref() == old)
    }

    fn replace(
        &mut self,
        mut new: NewFile,
        old: Option<&[u8]>,
        text: &str,
        journal: Option<&Journal>,
    ) -> io::Result<bool> {
        fail_point!("before-write");
        new.write(text)?;
        fail_point!("after-write");
        // Its permissions may have changed meanwhile.
        match fs::metadata(&self.lock.path) {
            Ok(model) => {
                files::take_owner(&new.file, &model)?;
                files::take_mode(&new.file, &model)?;
            }
            // It has vanished: create it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fail_point!("before-fsync");
        new.file.sync_all()?;
        fail_point!("after-fsync");
        if !is_same(&new.path, &new.file) {
            return Err(io::Error::other("the file written beside it is gone"));
        }
        if !self.still_says(old) {
            return Ok(false);
        }
        fail_point!("before-rename");
        let lock = &mut self.lock;
        if let Err(error) = files::rename_over(&new.path, &new.file, &lock.path, &mut lock.file) {
            // A mount point that was not detected, or rights that were revoked.
            if lock.unwritable.is_some() {
                return Err(error);
            }
            drop(new);
            self.room = Some(SaveMethod::InPlace);
            return self.write_over(old, text, journal);
        }
        // The next run queues at the old file or at the new: both are locked.
        mem::swap(&mut lock.file, &mut new.file);
        fail_point!("after-rename");
        if let Some(folder) = lock.path.parent() {
            files::sync_folder(folder);
        }
        fail_point!("after-folder-fsync");
        Ok(true)
    }

    fn write_over(
        &self,
        old: Option<&[u8]>,
        text: &str,
        journal: Option<&Journal>,
    ) -> io::Result<bool> {
        if !self.lock.is_current() {
            return Err(io::Error::other("another program replaced it meanwhile"));
        }
        fail_point!("before-text");
        let journal = journal.ok_or_else(|| io::Error::other("no journal could take the text"))?;
        journal.append(&Record::Text(text.to_owned()))?;
        journal.sync()?;
        fail_point!("after-text");
        if !self.still_says(old) {
            return Ok(false);
        }
        self.overwrite(text).map(|()| true)
    }

    /// Writes a text that is in the journal over the file. A later reader can tell whether it is complete: the first
    /// byte is NUL, which no valid file has, until the rest is on disk.
    pub(super) fn overwrite(&self, text: &str) -> io::Result<()> {
        let (file, text) = (&self.lock.file, text.as_bytes());
        files::write_all_at(file, &[0], 0)?;
        file.sync_all()?;
        files::write_all_at(file, text.get(1..).unwrap_or_default(), 1)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        fail_point!("amid-in-place-write");
        files::write_all_at(file, &text[..text.len().min(1)], 0)?;
        file.sync_all()?;
        fail_point!("after-in-place-write");
        Ok(())
    }
}

/// Whether a text is the beginning of an interrupted write: see [`Disk::overwrite`]. One in UTF-16 may
/// begin with NUL, too.
pub(super) fn is_torn(text: &[u8]) -> bool {
    text.first() == Some(&0) && !is_utf16(text)
}

/// The file that will replace the old one. Removed if it does not.
#[derive(Debug)]
struct NewFile {
    file: File,
    path: PathBuf,
    reserved: u64,
}

impl NewFile {
    fn make(path: &Path, old: &Metadata, bytes: u64) -> io::Result<Self> {
        let path = with_suffix(path, ".new");
        let file = match files::create_private(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // It is a dead run's: a live one would hold the lock.
                fs::remove_file(&path)?;
                files::create_private(&path)?
            }
            made => made?,
        };
        let new = NewFile {
            file,
            path,
            reserved: bytes,
        };
        files::claim(&new.file)?;
        files::take_owner(&new.file, old)?;
        files::reserve(&new.file, bytes)?;
        Ok(new)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        files::write_all_at(&self.file, text.as_bytes(), 0)?;
        // Releases reserved space that was not needed: the file might keep it forever.
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if is_same(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    let number = error.raw_os_error();
    number.map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn cannot_change(path: &Path, reason: InPlaceReason) -> Error {
    let path = path.display();
    if reason == InPlaceReason::Replaced {
        let message = format!("{path} was replaced behind its mount");
        return Error::new(Kind::Config, message).with_hint(Hint::fixed(
            "mount its folder instead of the file, so that a new file is seen",
            "请挂载该文件所在的目录，而不是文件本身",
        ));
    }
    Error::new(
        Kind::Config,
        format!("{path} or its folder cannot be changed"),
    )
    .with_hint(files::how_to_make_changeable())
}
