//! Room for a new text, and the ways to save it.
//!
//! Promises:
//! - The way is chosen and the space is set aside before anything is sent (P1).
//! - The text is first of all in a rescue file. From there it takes the file's place by a rename,
//!   or, where that cannot be, is copied into the file once it is safe.
//! - A save that fails says which file holds the text, or that none does (P7).

use std::fs::{self, Metadata};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use super::lock::{Lock, busy};
use super::rescue::{Purpose, Rescue, overwrite};
use super::{Stamp, check_regular, is_same};
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::{Fixed, files};

/// Proof that a new text can be saved: a locked file, a way, and reserved space.
#[derive(Debug)]
pub(crate) struct Room {
    // Dropped first, so that the lock outlives what it protects.
    rescue: Rescue,
    lock: Lock,
    way: Way,
    purpose: Purpose,
    /// Whether a new text is in the file.
    saved: bool,
}

/// How the file gets its new text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The rescue file takes its place.
    Rename,
    /// The text is copied into it, once the rescue file has it: for a file that is a mount point,
    /// has other names or an access list, lies in a folder that cannot be written, or belongs to
    /// a user whom a new file could not be given to.
    InPlace,
}

/// A way of saving, with the space for it.
#[derive(Debug)]
pub(crate) struct Choice {
    rescue: Rescue,
    way: Way,
    purpose: Purpose,
}

/// Why a text is not in the file.
#[derive(Debug)]
pub(crate) struct SaveError {
    pub(crate) source: io::Error,
    /// The file that holds the text, if any took it.
    pub(crate) rescue: Option<PathBuf>,
}

impl Lock {
    /// Chooses the way of saving and sets aside space for a text of up to `bytes`.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if the disk is full, [`Kind::Config`] if the file cannot be changed.
    /// Nothing is spent in either case.
    pub(crate) fn reserve(self, bytes: u64) -> Result<Room> {
        self.reserve_for(Purpose::Rescue, bytes)
    }

    /// The same for what another rescue file holds.
    pub(crate) fn reserve_to_put_back(self, bytes: u64) -> Result<Room> {
        self.reserve_for(Purpose::PutBack, bytes)
    }

    fn reserve_for(self, purpose: Purpose, bytes: u64) -> Result<Room> {
        let choice = self.choose(purpose, bytes)?;
        Ok(self.into_room(choice))
    }

    /// The first half of [`Self::reserve_to_put_back`], which keeps the lock if it fails.
    pub(crate) fn choose_to_put_back(&self, bytes: u64) -> Result<Choice> {
        self.choose(Purpose::PutBack, bytes)
    }

    /// The second half.
    pub(crate) fn into_room(self, choice: Choice) -> Room {
        Room {
            rescue: choice.rescue,
            lock: self,
            way: choice.way,
            purpose: choice.purpose,
            saved: false,
        }
    }

    /// Chooses the way of saving, and makes the rescue file that it begins with.
    fn choose(&self, purpose: Purpose, bytes: u64) -> Result<Choice> {
        if !is_same(&self.path, &self.file) {
            let message = format!("another program replaced {} just now", self.path.display());
            return Err(Error::temporary(message).with_hint(Hint::fixed("run again", "请重试")));
        }
        let old = check_regular(&self.path, &self.file)?;
        match files::fixed(&self.path, &old) {
            Some(reason @ (Fixed::Replaced | Fixed::Immutable)) => {
                return Err(cannot_change(&self.path, reason));
            }
            Some(Fixed::MountPoint | Fixed::HardLinks | Fixed::AccessList) => {
                return self.choose_in_place(purpose, bytes, &old);
            }
            None => {}
        }
        let beside = Rescue::make_beside(&self.path, purpose, bytes).and_then(|rescue| {
            files::take_owner(&rescue.file, &old)?;
            Ok(rescue)
        });
        match beside {
            Ok(rescue) => Ok(Choice {
                rescue,
                way: Way::Rename,
                purpose,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(busy(&self.path)),
            Err(error) if is_full(&error) || !self.writable => Err(Error::file(
                "no room for new tokens beside",
                &self.path,
                error,
            )),
            Err(_) => self.choose_in_place(purpose, bytes, &old),
        }
    }

    fn choose_in_place(&self, purpose: Purpose, bytes: u64, old: &Metadata) -> Result<Choice> {
        if !self.writable {
            let error = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(Error::file("cannot write", &self.path, error));
        }
        let blocked = |error| Error::file("no room for new tokens of", &self.path, error);
        files::reserve_beyond(&self.file, bytes).map_err(blocked)?;
        let rescue = Rescue::make_anywhere(&self.path, purpose, bytes, None).map_err(blocked)?;
        // Whoever owns the file should be able to use what is left of a run that died.
        let _ = files::take_owner(&rescue.file, old);
        Ok(Choice {
            rescue,
            way: Way::InPlace,
            purpose,
        })
    }
}

impl Room {
    /// Makes room for another text, once one is saved.
    ///
    /// # Errors
    /// As [`Lock::reserve`]; the lock is kept.
    pub(crate) fn renew(&mut self, bytes: u64) -> Result<()> {
        let choice = self.lock.choose(self.purpose, bytes)?;
        (self.rescue, self.way) = (choice.rescue, choice.way);
        self.saved = false;
        Ok(())
    }

    /// Whether nothing was tried here yet.
    pub(crate) fn is_usable(&self) -> bool {
        self.rescue.is_usable()
    }

    /// The state of the file that this run holds.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let metadata = self.lock.file.metadata().ok();
        metadata.map(|metadata| Stamp(files::state(&metadata)))
    }

    /// The file as it is now.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        self.lock.read()
    }

    /// Gives the reservation back, and keeps the lock.
    pub(crate) fn release(self) -> Lock {
        self.lock
    }

    /// Puts `text` into the file, durably (P2, P3), or at least into a rescue file (P7).
    pub(crate) fn save(&mut self, text: &[u8]) -> Result<(), SaveError> {
        let saved = match self.way {
            Way::Rename => self.replace(text),
            Way::InPlace => self.write_over(text),
        };
        match saved {
            // What failed after the file had its new text is no loss.
            Err(source) if !self.saved => Err(SaveError {
                source,
                rescue: self.keep(text),
            }),
            _ => Ok(()),
        }
    }

    /// Leaves `text` in a rescue file, durably. None if no place takes it.
    pub(crate) fn keep(&mut self, text: &[u8]) -> Option<PathBuf> {
        if self.rescue.is_safe() {
            self.rescue.settle();
            return Some(self.rescue.path.clone());
        }
        if self.rescue.is_usable() && write_rescue(&mut self.rescue, text).is_ok() {
            return Some(self.rescue.path.clone());
        }
        let bytes = text.len() as u64;
        let except = Some(self.rescue.path.as_path());
        let elsewhere = Rescue::make_anywhere(&self.lock.path, self.purpose, bytes, except);
        let mut elsewhere = elsewhere.ok()?;
        write_rescue(&mut elsewhere, text).ok()?;
        mem::replace(&mut self.rescue, elsewhere).supersede();
        Some(self.rescue.path.clone())
    }

    /// Leaves `text` in a rescue file that no run will look for.
    pub(crate) fn keep_aside(&mut self, text: &[u8]) -> Option<PathBuf> {
        // Named first, so that at no moment a run takes it for what the file should hold.
        let _ = self.rescue.set_aside(text);
        self.keep(text)
    }

    /// Whether the file has its new text.
    pub(crate) fn is_saved(&self) -> bool {
        self.saved
    }

    fn replace(&mut self, text: &[u8]) -> io::Result<()> {
        fail_point!("before-write");
        self.rescue.write(text)?;
        fail_point!("after-write");
        let old = fs::metadata(&self.lock.path)?;
        files::take_owner(&self.rescue.file, &old)?;
        files::take_mode(&self.rescue.file, &old)?;
        fail_point!("before-fsync");
        self.rescue.sync(false)?;
        fail_point!("after-fsync");
        if !is_same(&self.rescue.path, &self.rescue.file) {
            return Err(io::Error::other("the file written beside it is gone"));
        }
        fail_point!("before-rename");
        let (from, to) = (&self.rescue, &mut self.lock);
        if let Err(error) = files::rename_over(&from.path, &from.file, &to.path, &mut to.file) {
            // A mount point that nothing told us of, or rights that were taken away.
            if !self.lock.writable {
                return Err(error);
            }
            self.rescue.settle();
            return self.write_in_place(text);
        }
        self.saved = true;
        // The next run queues at the old file or at the new: both are locked.
        mem::swap(&mut self.lock.file, &mut self.rescue.file);
        fail_point!("after-rename");
        fail_point!("before-folder-fsync");
        if let Some(folder) = self.lock.path.parent() {
            files::sync_folder(folder);
        }
        fail_point!("after-folder-fsync");
        Ok(())
    }

    fn write_over(&mut self, text: &[u8]) -> io::Result<()> {
        write_rescue(&mut self.rescue, text)?;
        self.write_in_place(text)
    }

    /// Copies the text into the file. The rescue file, safe by now, goes once all of it is there.
    fn write_in_place(&mut self, text: &[u8]) -> io::Result<()> {
        if !is_same(&self.lock.path, &self.lock.file) {
            return Err(io::Error::other("another program replaced it meanwhile"));
        }
        fail_point!("before-in-place-write");
        overwrite(&self.lock.file, text)?;
        self.saved = true;
        fail_point!("after-in-place-write");
        self.rescue.supersede();
        Ok(())
    }
}

fn write_rescue(rescue: &mut Rescue, text: &[u8]) -> io::Result<()> {
    fail_point!("before-rescue-write");
    rescue.write(text)?;
    rescue.sync(true)?;
    fail_point!("after-rescue-write");
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn cannot_change(path: &Path, reason: Fixed) -> Error {
    let path = path.display();
    if reason == Fixed::Replaced {
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
