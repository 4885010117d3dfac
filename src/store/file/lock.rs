//! One run at a time on one file (P4).
//!
//! Promises:
//! - The lock is on the file itself, so that runs which reach it by different paths exclude each
//!   other, and no extra file is left; where a locked file cannot be replaced, on one beside it.
//! - A file that was replaced while this run queued is noticed: the queueing starts over at the new
//!   one, and never exceeds its deadline.
//! - A file that a run had to create is removed with it if it stays empty.
//! - A run inside a hook fails at once if it would wait for the run that waits for the hook.

use std::env;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::io::{check_regular, does_not_exist, is_same};
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::{files, programs};

/// How often a lock held by others is retried: the work under it takes about one round trip.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Names the runs that hold a file and wait for a hook: a process and a path on each line.
pub(crate) const HOLDERS: &str = "FEISHU_REFRESH_HOOK_OF";

/// The exclusive right to read, spend and write this file.
#[derive(Debug)]
pub(super) struct Lock {
    /// Where the file really is, links resolved.
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Why the open file cannot be written, too.
    pub(super) unwritable: Option<io::Error>,
    /// Whether this run found no file and created an empty one.
    made: bool,
    /// Holds the lock if the file itself cannot. Dropped last.
    _stand_in: Option<File>,
}

/// Waits for others, until a deadline.
pub(super) struct LockQueue<'q> {
    path: &'q Path,
    deadline: Instant,
    is_reported: bool,
}

impl<'q> LockQueue<'q> {
    pub(super) fn new(path: &'q Path, deadline: Instant) -> Self {
        LockQueue {
            path,
            deadline,
            is_reported: false,
        }
    }

    /// Waits a little.
    ///
    /// # Errors
    /// [`Kind::Temporary`] past the deadline; [`Kind::Config`] if the other waits for this run.
    pub(super) fn wait(&mut self) -> Result<()> {
        if is_held_for_a_hook(self.path) {
            let message = format!(
                "{} is held by the run that started this one as its --on-refresh command, and waits for its end",
                self.path.display()
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "read the new token from the command's stdin instead",
                "请改为从该命令的标准输入读取新令牌",
            )));
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(busy(self.path));
        }
        if !self.is_reported {
            log::info!("waiting for another run on {}", self.path.display());
            self.is_reported = true;
        }
        thread::sleep(LOCK_POLL.min(left));
        Ok(())
    }
}

impl Lock {
    /// Takes the file's lock, or queues for it. A missing file is created, empty, unless the run must get an error
    /// then.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if other runs hold the lock for longer; [`Kind::Config`] if the file
    /// cannot be opened or its file system has no locks.
    pub(super) fn acquire(
        path: &Path,
        if_missing: Option<&Hint>,
        queue: &mut LockQueue<'_>,
    ) -> Result<Self> {
        let mut made = false;
        loop {
            let mut opened = open(path, if_missing)?;
            made |= opened.made;
            check_regular(path, &opened.file)?;
            let stand_in = files::stand_in_for_lock(path)
                .map_err(|error| Error::file("cannot create the lock of", path, error))?;
            match stand_in.as_ref().unwrap_or(&opened.file).try_lock() {
                Ok(()) => {
                    if stand_in.is_some() {
                        // The file could be replaced until now.
                        opened = open(path, if_missing)?;
                        made |= opened.made;
                    }
                    // Another run may have renamed a new file into place while this one waited.
                    if let Some(path) = real_path(path, &opened.file)? {
                        return Ok(Lock {
                            path,
                            file: opened.file,
                            unwritable: opened.unwritable,
                            made,
                            _stand_in: stand_in,
                        });
                    }
                }
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(error))
                    if error.kind() == io::ErrorKind::Interrupted => {}
                Err(fs::TryLockError::Error(error)) => {
                    return Err(Error::file("cannot lock", path, error).with_kind(Kind::Config));
                }
            }
            // The lock's holder may want to replace the file.
            drop((opened, stand_in));
            queue.wait()?;
        }
    }

    /// Whether the path still leads to the file that is locked.
    pub(super) fn is_current(&self) -> bool {
        is_same(&self.path, &self.file)
    }

    /// The file's owner and other metadata.
    pub(super) fn owner(&self) -> Result<Metadata> {
        let metadata = self.file.metadata();
        metadata.map_err(|error| Error::file("cannot read", &self.path, error))
    }

    /// Whether this run created the file.
    pub(super) fn is_made(&self) -> bool {
        self.made
    }

    /// The value of [`HOLDERS`] for a program that this run starts and waits for.
    pub(super) fn name(&self) -> String {
        let own = format!("{} {}", std::process::id(), self.path.display());
        match env::var(HOLDERS) {
            Ok(others) => format!("{others}\n{own}"),
            Err(_) => own,
        }
    }
}

impl Drop for Lock {
    /// A failed run that created the file leaves no empty one behind.
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

/// Whether the file is held by a run that waits for this one to end. An ended one holds nothing: a service that a hook
/// started may run for long.
fn is_held_for_a_hook(path: &Path) -> bool {
    let Ok(holders) = env::var(HOLDERS) else {
        return false;
    };
    let path = files::real_path(path).unwrap_or_else(|_| path.to_owned());
    holders.lines().any(|holder| {
        let Some((id, held)) = holder.split_once(' ') else {
            return false;
        };
        let id = id.parse().ok();
        Path::new(held) == path && id.is_some_and(programs::is_running)
    })
}

/// An open file that another run may have locked.
struct OpenedFile {
    file: File,
    unwritable: Option<io::Error>,
    made: bool,
}

/// Opens the file; creates it if it is missing and that is allowed.
fn open(path: &Path, if_missing: Option<&Hint>) -> Result<OpenedFile> {
    let opened = |file, unwritable, made| OpenedFile {
        file,
        unwritable,
        made,
    };
    let error = match files::open_options().write(true).open(path) {
        Ok(file) => return Ok(opened(file, None, false)),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::NotFound => {
            if let Some(hint) = if_missing {
                return Err(does_not_exist(path, hint.clone()));
            }
            let made = files::open_options().write(true).create(true).open(path);
            let made = made.map_err(|error| Error::file("cannot make", path, error))?;
            Ok(opened(made, None, true))
        }
        // Not writable, but perhaps replaceable.
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let file = files::open_options().open(path);
            let file = file.map_err(|error| Error::file("cannot open", path, error))?;
            Ok(opened(file, Some(error), false))
        }
        _ => Err(Error::file("cannot open", path, error)),
    }
}

/// The path with its links resolved, if it still leads to this very file.
fn real_path(path: &Path, file: &File) -> Result<Option<PathBuf>> {
    match files::real_path(path) {
        Ok(real) => Ok(is_same(&real, file).then_some(real)),
        // Unless it has no name: an open file that was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_same(path, file) => Ok(None),
        Err(error) => Err(Error::file("cannot find", path, error)),
    }
}

fn busy(path: &Path) -> Error {
    let message = format!("another run is still working on {}", path.display());
    Error::temporary(message).with_hint(Hint::fixed(
        "run again later, or wait longer with --lock-timeout",
        "请稍后重试，或用 --lock-timeout 延长等待时间",
    ))
}
