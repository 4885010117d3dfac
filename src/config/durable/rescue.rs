//! The rescue file: the new text, whole and on disk, before the file itself is touched.
//!
//! Promises:
//! - It stands under one fixed name in the first of a few places that takes it: beside the file,
//!   in the user's state folder, in the temporary folder; for its owner alone, never through a link.
//! - It is whole or recognisably not: its length is set first and its first byte written last, and
//!   what is missing reads as NUL.
//! - It is locked while its run lives, so that nobody takes it for a dead one's.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::lock::{Lock, busy};
use super::{check_regular, is_same, read_open};
use crate::error::{Error, Kind, Result};
use crate::platform::files;
use crate::token::Fingerprint;

/// The folder of our own in the user's state folder.
const STATE_FOLDER: &str = "feishu-refresh";

/// What a rescue file is for, and so its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It may come to hold the only copy of a pair.
    Rescue,
    /// It helps to save what another rescue file holds, and is worth nothing without it.
    PutBack,
}

impl Purpose {
    fn suffix(self) -> &'static str {
        match self {
            Purpose::Rescue => ".rescue",
            Purpose::PutBack => ".rescue.put-back",
        }
    }
}

/// Where such a file for this file can be, in order of preference.
fn places(path: &Path, purpose: Purpose) -> impl Iterator<Item = PathBuf> {
    // One name for each file, however deep it lies; the other places are shared by all files.
    let hash = Fingerprint::of_bytes(path.as_os_str().as_encoded_bytes());
    let name = format!("{hash}{}", purpose.suffix());
    let state = files::state_folder().map(|state| state.join(STATE_FOLDER).join(&name));
    let temporary = format!("feishu-refresh-{}-{name}", files::user());
    let temporary = env::temp_dir().join(temporary);
    [
        Some(with_suffix(path, purpose.suffix())),
        state,
        Some(temporary),
    ]
    .into_iter()
    .flatten()
}

/// Links that lead on in a circle lead nowhere; the system gives up after as many.
const MOST_LINKS: usize = 40;

/// The rescue files of this file that are not blank.
pub(crate) fn pending(path: &Path) -> Vec<PathBuf> {
    pending_of(path, Purpose::Rescue)
}

/// The same for what is left of a put-back.
pub(crate) fn pending_put_backs(path: &Path) -> Vec<PathBuf> {
    pending_of(path, Purpose::PutBack)
}

fn pending_of(path: &Path, purpose: Purpose) -> Vec<PathBuf> {
    let path = files::real_path(path).unwrap_or_else(|_| path.to_owned());
    let has_text = |place: &PathBuf| {
        let bytes = files::open_unlinked(place).ok();
        let bytes = bytes.and_then(|mut file| read_open(place, &mut file).ok());
        bytes.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
    };
    places(&path, purpose).filter(has_text).collect()
}

/// Whether a run left a rescue file for a file that is missing now.
pub(crate) fn has_leftover(path: &Path) -> bool {
    let mut path = path.to_owned();
    // A link that leads nowhere still says where the file was.
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    let folder = path
        .parent()
        .and_then(|folder| files::real_path(folder).ok());
    let real = folder
        .zip(path.file_name())
        .map(|(folder, name)| folder.join(name));
    real.is_some_and(|real| places(&real, Purpose::Rescue).any(|place| place.exists()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a text is the beginning of a write that did not end: see [`overwrite`].
pub(crate) fn is_torn(text: &[u8]) -> bool {
    text.first() == Some(&0)
}

/// Writes a text over another, so that whoever reads it later knows whether all of it came: the
/// first byte is NUL, which no sound file has, until the rest is on disk.
pub(super) fn overwrite(file: &File, text: &[u8]) -> io::Result<()> {
    files::write_all_at(file, &[0], 0)?;
    file.sync_all()?;
    files::write_all_at(file, text.get(1..).unwrap_or_default(), 1)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()?;
    fail_point!("amid-in-place-write");
    files::write_all_at(file, &text[..text.len().min(1)], 0)?;
    file.sync_all()
}

/// Writes a text to a blank file, in the same order but for the disk: the pair as soon as can be. The
/// length comes first, so that whatever is missing later reads as NUL, which no text holds.
fn write_to_blank(file: &File, text: &[u8]) -> io::Result<()> {
    file.set_len(text.len() as u64)?;
    files::write_all_at(file, text.get(1..).unwrap_or_default(), 1)?;
    files::write_all_at(file, &text[..text.len().min(1)], 0)?;
    // Gives back what was set aside and not needed: the file may keep it for ever.
    file.set_len(text.len() as u64)
}

/// A rescue file of this run.
#[derive(Debug)]
pub(super) struct Rescue {
    pub(super) file: File,
    pub(super) path: PathBuf,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing yet: it goes when its run ends.
    Nothing,
    /// The whole text, perhaps not on disk yet.
    Text,
    /// The whole text, on disk.
    SyncedText,
    /// Who knows: a write or a sync failed, and a failed sync cannot be trusted to be repeated.
    Doubt,
    /// Nothing that is not elsewhere.
    Copy,
}

impl Rescue {
    /// Makes one beside the file, where it can be renamed over it.
    pub(super) fn make_beside(path: &Path, purpose: Purpose, bytes: u64) -> io::Result<Self> {
        Rescue::make(with_suffix(path, purpose.suffix()), purpose, bytes)
    }

    /// Makes one in the first place that takes it, but not at `except`.
    pub(super) fn make_anywhere(
        path: &Path,
        purpose: Purpose,
        bytes: u64,
        except: Option<&Path>,
    ) -> io::Result<Self> {
        let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
        for place in places(path, purpose).filter(|place| Some(place.as_path()) != except) {
            if let Some(folder) = place
                .parent()
                .filter(|folder| folder.ends_with(STATE_FOLDER))
            {
                // If it cannot be made, neither can the file.
                let _ = files::create_private_folder(folder);
            }
            result = Rescue::make(place, purpose, bytes);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn make(path: PathBuf, purpose: Purpose, bytes: u64) -> io::Result<Self> {
        if purpose == Purpose::PutBack && path.exists() {
            fs::remove_file(&path)?;
        }
        let file = match files::create_private(&path) {
            // A dead run's that could not be cleared away is in the way, a live run's is a lock.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let old = files::open_unlinked(&path)?;
                let alive = matches!(files::claim(&old), Err(TryLockError::WouldBlock));
                let kind = if alive {
                    error.kind()
                } else {
                    io::ErrorKind::PermissionDenied
                };
                return Err(kind.into());
            }
            made => made?,
        };
        let mut rescue = Rescue {
            file,
            path,
            holds: Holds::Nothing,
        };
        files::claim(&rescue.file)?;
        files::reserve(&mut rescue.file, bytes)?;
        Ok(rescue)
    }

    /// Takes a name of its own, under which no run looks for it.
    pub(super) fn set_aside(&mut self, text: &[u8]) -> io::Result<()> {
        let aside = aside(&self.path, text);
        fs::rename(&self.path, &aside)?;
        self.path = aside;
        Ok(())
    }

    /// Says that something is being written to it. From now on the file outlives its run.
    pub(super) fn begin(&mut self) {
        self.holds = Holds::Doubt;
    }

    /// Writes the text. From now on the file outlives its run.
    pub(super) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.holds = Holds::Doubt;
        write_to_blank(&self.file, text)?;
        self.holds = Holds::Text;
        Ok(())
    }

    /// Puts the text on disk; the folder's entry too if the file is to stay where it is.
    pub(super) fn sync(&mut self, with_folder: bool) -> io::Result<()> {
        self.holds = Holds::Doubt;
        if !with_folder {
            fail_point!("in-fsync");
        }
        self.file.sync_all()?;
        self.holds = Holds::SyncedText;
        if with_folder {
            self.settle();
        }
        Ok(())
    }

    /// Makes the name durable, too, for a file that is to stay where it is.
    pub(super) fn settle(&self) {
        if let Some(folder) = self.path.parent() {
            files::sync_folder(folder);
        }
    }

    /// Whether the whole text is on disk under this file's name.
    pub(super) fn is_safe(&self) -> bool {
        self.holds == Holds::SyncedText && is_same(&self.path, &self.file)
    }

    /// Whether writing and syncing can still be tried here.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.holds, Holds::Nothing | Holds::Text) && is_same(&self.path, &self.file)
    }

    /// Says that its text stands elsewhere, so that the file need not stay.
    pub(super) fn supersede(&mut self) {
        self.holds = Holds::Copy;
    }
}

impl Drop for Rescue {
    fn drop(&mut self) {
        let disposable = matches!(self.holds, Holds::Nothing | Holds::Copy);
        if disposable && is_same(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A rescue file that a dead run left.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// Keeps others away from it.
    _file: File,
    pub(crate) path: PathBuf,
    pub(crate) text: Vec<u8>,
    /// Whether the file it belongs to was not changed after it was written.
    pub(crate) is_latest: bool,
}

impl Lock {
    /// What dead runs left of this file's rescue files; blank ones, too.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if one belongs to a run that lives: it holds a file that an editor has
    /// since replaced under this path. [`Kind::Config`] if one beside the file cannot be read: what
    /// it holds may be the only copy.
    pub(crate) fn leftovers(&self) -> Result<Vec<Leftover>> {
        self.leftovers_of(Purpose::Rescue)
    }

    /// What is left of a put-back that was interrupted: worth something only to a torn file.
    pub(crate) fn unfinished_put_backs(&self) -> Result<Vec<Leftover>> {
        self.leftovers_of(Purpose::PutBack)
    }

    fn leftovers_of(&self, purpose: Purpose) -> Result<Vec<Leftover>> {
        let beside = with_suffix(&self.path, purpose.suffix());
        let mut found = Vec::new();
        for place in places(&self.path, purpose) {
            let shared = place != beside;
            match self.open_leftover(&place, shared) {
                Ok(leftover) => found.extend(leftover),
                Err(error) if shared && error.kind() != Kind::Temporary => log::info!("{error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn open_leftover(&self, path: &Path, shared: bool) -> Result<Option<Leftover>> {
        let unreadable = |error| Error::file("cannot read", path, error);
        let mut file = match files::open_unlinked(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let length = fs::symlink_metadata(path).map_or(1, |metadata| metadata.len());
                // Another user's, but blank: nothing is lost with it.
                let gone = length == 0 && !shared && fs::remove_file(path).is_ok();
                return if gone {
                    Ok(None)
                } else {
                    Err(unreadable(error))
                };
            }
        };
        let metadata = check_regular(path, &file)?;
        // In a folder that others use, anything may stand under that name.
        if shared && !files::is_private(&metadata) {
            let message = format!("{} is not this user's alone: it is ignored", path.display());
            return Err(Error::config(message));
        }
        if let Err(TryLockError::WouldBlock) = files::claim(&file) {
            return Err(busy(path));
        }
        let own = self.file.metadata().map_err(unreadable)?;
        let text = read_open(path, &mut file)?;
        let is_latest = files::is_unchanged_since(&own, &metadata);
        Ok(Some(Leftover {
            _file: file,
            path: path.to_owned(),
            text,
            is_latest,
        }))
    }
}

impl Leftover {
    /// Whether its run died before it had anything to write.
    pub(crate) fn is_blank(&self) -> bool {
        self.text.iter().all(|byte| *byte == 0)
    }

    /// Takes it away: what it held is saved. If it stays, the next run finds that out again.
    pub(crate) fn remove(self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!(
                    "cannot remove {}, which has no use any more: {error}",
                    self.path.display()
                );
            }
            _ => {}
        }
    }

    /// Gives it a name of its own, so that it stays and is not found again. Returns its path.
    pub(crate) fn set_aside(self) -> PathBuf {
        let aside = aside(&self.path, &self.text);
        if fs::rename(&self.path, &aside).is_ok() {
            aside
        } else {
            self.path
        }
    }
}

/// The name for a rescue file that fits no more.
fn aside(path: &Path, text: &[u8]) -> PathBuf {
    with_suffix(path, &format!(".{}", Fingerprint::of_bytes(text)))
}
