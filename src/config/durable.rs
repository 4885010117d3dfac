//! The careful file: the only place that locks, writes, renames or syncs.
//!
//! Promises:
//! - One at a time (P4). A [`Lock`] is held on the file itself, so that runs which reach it by
//!   different paths exclude each other. A file that was replaced while we queued is noticed, and
//!   the queueing starts over at the new one.
//! - Room first (P1). A [`Room`] exists only once the new text's space is reserved on the same
//!   file system, in the same folder, by this user, with the old file's owner.
//! - Whole or untouched (P3). The new text is written beside the file and renamed over it, after
//!   it is on disk; owner, group and mode go with it.
//!
//! The types carry the order: only a lock makes room, only room replaces, and only once.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::platform::{self, Fixed};
use crate::error::{Error, Hint, Kind, Result};

/// A file longer than this is not a configuration: thousands of profiles fit in it.
const LONGEST_FILE: u64 = 32 << 20;

/// How often a lock that others hold is tried again: the work under it takes about one round trip.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Reads a whole file that is small enough to be a configuration.
///
/// None if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match platform::open_options().open(path) {
        Ok(mut file) => {
            check_regular(path, &file)?;
            read_open(path, &mut file).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("cannot read", path, error)),
    }
}

fn read_open(path: &Path, file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
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
    let metadata = file
        .metadata()
        .map_err(|error| Error::file("cannot read", path, error))?;
    if metadata.is_file() {
        Ok(metadata)
    } else {
        Err(Error::config(format!(
            "{} is not a regular file",
            path.display()
        )))
    }
}

/// The right to be the only run that reads, spends and writes this file.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Where the file really is, links resolved.
    path: PathBuf,
    file: File,
    /// Whether this run found no file and made an empty one.
    made: bool,
}

impl Lock {
    /// Waits for the file's lock until `deadline`. A missing file is made, empty, if `may_make`.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if other runs hold the lock for longer; [`Kind::Config`] if the file
    /// cannot be opened or its file system has no locks.
    pub(crate) fn acquire(path: &Path, may_make: bool, deadline: Instant) -> Result<Self> {
        let mut made = false;
        let mut told = false;
        loop {
            let (file, just_made) = open(path, may_make)?;
            made |= just_made;
            check_regular(path, &file)?;
            match file.try_lock() {
                Ok(()) => {
                    // Another run may have renamed a new file into place while this one waited.
                    if let Some(path) = real_path(path, &file)? {
                        return Ok(Lock { path, file, made });
                    }
                }
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(error)) if is_interrupted(&error) => {}
                Err(fs::TryLockError::Error(error)) => {
                    return Err(Error::file("cannot lock", path, error).with_kind(Kind::Config));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(lock_busy(path));
            }
            if !told {
                log::info!("waiting for another run on {}", path.display());
                told = true;
            }
            thread::sleep(LOCK_POLL.min(left));
        }
    }

    /// The file as it is now, by its path: a program that knows no locks may have replaced it.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let gone = || Error::config(format!("{} has vanished", self.path.display()));
        read(&self.path)?.ok_or_else(gone)
    }

    /// Reports a file that others can read, with the command that mends it.
    pub(crate) fn warn_if_readable_by_others(&self) {
        let mode = self
            .file
            .metadata()
            .ok()
            .and_then(|m| platform::mode_if_readable_by_others(&m));
        if let Some(mode) = mode {
            let path = self.path.display();
            let quoted = path.to_string().replace('\'', r"'\''");
            log::warn!("{path} can be read by other users (mode {mode:04o}): chmod 600 '{quoted}'");
        }
    }

    /// Sets aside space for a new text of up to `bytes`, where it can be renamed over the file.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if the disk is full, [`Kind::Config`] if the file could not be
    /// replaced. Nothing is spent in either case.
    pub(crate) fn reserve(self, bytes: u64) -> Result<Room> {
        let old = check_regular(&self.path, &self.file)?;
        if let Some(reason) = platform::fixed(&self.path, &old) {
            return Err(cannot_replace(&self.path, reason));
        }
        let beside = Beside::make(&rescue_path(&self.path), bytes, &old)?;
        Ok(Room { lock: self, beside })
    }
}

impl Drop for Lock {
    /// A run that made the file and failed leaves no empty one behind.
    fn drop(&mut self) {
        let empty = || {
            self.file
                .metadata()
                .is_ok_and(|metadata| metadata.len() == 0)
        };
        if self.made && empty() && is_same(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the file for locking, made if it is missing and may be. Says whether it was missing.
fn open(path: &Path, may_make: bool) -> Result<(File, bool)> {
    let mut opened = platform::open_options().write(true).open(path);
    if let Err(error) = &opened {
        match error.kind() {
            io::ErrorKind::NotFound if may_make => {
                let made = platform::open_options().write(true).create(true).open(path);
                return match made {
                    Ok(file) => Ok((file, true)),
                    Err(error) => Err(Error::file("cannot make", path, error)),
                };
            }
            io::ErrorKind::NotFound => {
                let message = format!("{} does not exist", path.display());
                return Err(Error::config(message).with_hint(Hint::fixed(
                    "it is made by a run that gives both -a and -r; -c names another file",
                    "同时给出 -a 与 -r 运行一次即可创建；也可用 -c 指定其他文件",
                )));
            }
            // Not ours to write, perhaps still ours to replace.
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                opened = platform::open_options().open(path);
            }
            _ => {}
        }
    }
    match opened {
        Ok(file) => Ok((file, false)),
        Err(error) => Err(Error::file("cannot open", path, error)),
    }
}

/// The path with its links resolved, if it still leads to this very file.
fn real_path(path: &Path, file: &File) -> Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(real) => Ok(is_same(&real, file).then_some(real)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("cannot find", path, error)),
    }
}

fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

fn is_same(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => platform::identity(&named) == platform::identity(&open),
        _ => false,
    }
}

/// The one name, beside the file, under which its new text is written before it takes its place.
fn rescue_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".rescue");
    PathBuf::from(name)
}

/// Clears away what a run left that died before it had anything to write.
fn remove_if_blank(rescue: &Path) -> Result<()> {
    let unusable = |error| Error::file("cannot clear away", rescue, error);
    let mut file = match platform::open_options().open(rescue) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(error)),
    };
    check_regular(rescue, &file)?;
    // It is alive if it is locked: its run holds a file that was since replaced under our path.
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
        return Err(lock_busy(rescue));
    }
    if read_open(rescue, &mut file)?.iter().any(|byte| *byte != 0) {
        let rescue = rescue.display();
        let message = format!("{rescue} holds tokens that an earlier run could not save");
        return Err(Error::config(message).with_hint(Hint::fixed(
            "if it is complete and newer than the file beside it, rename it over that file; else remove it",
            "若它内容完整且比旁边的配置文件更新，请用它覆盖该文件；否则请将其删除",
        )));
    }
    fs::remove_file(rescue).map_err(unusable)
}

fn lock_busy(path: &Path) -> Error {
    let message = format!("another run is still working on {}", path.display());
    Error::temporary(message).with_hint(Hint::fixed(
        "run again later, or wait longer with --lock-timeout",
        "请稍后重试，或用 --lock-timeout 延长等待时间",
    ))
}

fn cannot_replace(path: &Path, reason: Fixed) -> Error {
    let path = path.display();
    match reason {
        Fixed::MountPoint => Error::config(format!(
            "{path} is a mount point, it cannot be replaced"
        ))
        .with_hint(Hint::fixed(
            "mount its folder instead of the file",
            "请挂载该文件所在的目录，而不是文件本身",
        )),
        Fixed::Immutable => Error::config(format!("{path} or its folder cannot be changed"))
            .with_hint(Hint::fixed(
                "take away the immutable or append-only attribute: see lsattr and chattr",
                "请移除不可变或仅追加属性：参见 lsattr 与 chattr",
            )),
        Fixed::Replaced => Error::config(format!("{path} was replaced behind its mount"))
            .with_hint(Hint::fixed(
                "mount its folder instead of the file",
                "请挂载该文件所在的目录，而不是文件本身",
            )),
        Fixed::HardLinks => Error::config(format!(
            "{path} has several hard links, which would part ways"
        ))
        .with_hint(Hint::fixed(
            "keep one name, and make the others symbolic links to it",
            "请只保留一个文件名，其余改为指向它的符号链接",
        )),
    }
}

/// Proof that a new text can be saved: a locked file, and reserved space beside it.
#[derive(Debug)]
pub(crate) struct Room {
    // Dropped first, so that the lock outlives what it protects.
    beside: Beside,
    lock: Lock,
}

/// How far a save came that failed.
#[derive(Debug)]
pub(crate) struct SaveError {
    /// Why.
    pub(crate) source: io::Error,
    /// The file that holds the whole new text, if there is one.
    pub(crate) rescue: Option<PathBuf>,
}

impl Room {
    /// The file as it is now.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        self.lock.read()
    }

    /// Puts `text` in the file's place, durably (P2). The lock goes on, on the new file.
    pub(crate) fn replace(mut self, text: &[u8]) -> Result<Lock, SaveError> {
        self.beside.write(text)?;
        self.beside.take_place_of(&self.lock.path)?;
        if let Some(folder) = self.lock.path.parent() {
            platform::sync_folder(folder);
        }
        mem::swap(&mut self.lock.file, &mut self.beside.file);
        Ok(self.lock)
    }

    /// Leaves `text` beside the file, durably, for a person to put in place.
    pub(crate) fn keep(mut self, text: &[u8]) -> Result<PathBuf, SaveError> {
        self.beside.write(text)?;
        let synced = self.beside.file.sync_all();
        synced.map_err(|source| SaveError {
            source,
            rescue: None,
        })?;
        Ok(self.beside.path.clone())
    }
}

/// The file beside, under its one name, for its owner alone. It is locked like the file itself, so
/// that no other run takes it for a dead one's.
#[derive(Debug)]
struct Beside {
    file: File,
    path: PathBuf,
    /// Whether it holds tokens that may be nowhere else: then it is never removed here.
    precious: bool,
}

impl Beside {
    fn make(path: &Path, bytes: u64, model: &Metadata) -> Result<Self> {
        let blocked = |error| {
            Error::file("no room for new tokens: cannot make", path, error).with_hint(Hint::fixed(
                "nothing was sent; the new file is made beside the old one, so their folder must be writable",
                "尚未发送任何请求；新文件会先写在原文件旁边，因此该目录必须可写且有空间",
            ))
        };
        remove_if_blank(path)?;
        let file = platform::create_private(path).map_err(blocked)?;
        let mut beside = Beside {
            file,
            path: path.to_owned(),
            precious: false,
        };
        beside
            .file
            .try_lock()
            .map_err(io::Error::from)
            .map_err(blocked)?;
        platform::reserve(&mut beside.file, bytes)
            .and_then(|()| platform::take_owner(&beside.file, model))
            .map_err(blocked)?;
        Ok(beside)
    }

    /// Writes the text. Once it is there, the file stays.
    fn write(&mut self, text: &[u8]) -> Result<(), SaveError> {
        self.file
            .rewind()
            .and_then(|()| self.file.write_all(text))
            .and_then(|()| self.file.set_len(text.len() as u64))
            .map_err(|source| SaveError {
                source,
                rescue: None,
            })?;
        self.precious = true;
        Ok(())
    }

    /// Becomes the file at `path`, with its owner, group and mode. A run that queues waits at the
    /// old file or at this one: both are locked.
    fn take_place_of(&self, path: &Path) -> Result<(), SaveError> {
        fs::metadata(path)
            .and_then(|old| {
                platform::take_owner(&self.file, &old)?;
                platform::take_mode(&self.file, &old)
            })
            .map_err(|error| self.save_error(error))?;
        // What a failed sync leaves may never reach the disk: it is no safe place.
        let unsafe_place = |source| SaveError {
            source,
            rescue: None,
        };
        self.file.sync_all().map_err(unsafe_place)?;
        fs::rename(&self.path, path).map_err(|error| self.save_error(error))
    }

    fn save_error(&self, source: io::Error) -> SaveError {
        let there = is_same(&self.path, &self.file);
        SaveError {
            source,
            rescue: there.then(|| self.path.clone()),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.precious && is_same(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
