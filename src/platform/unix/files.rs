//! Files: their identity and ownership, and how they are locked, reserved and written.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::kernel;
use crate::error::Hint;
use crate::platform::in_place::InPlaceReason;

/// Identifies a file on this machine, whatever its path.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Options that open even a non-file without blocking, so that it can be inspected and refused.
pub(crate) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .mode(0o600)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

/// A new file that only its owner may use; never an existing one, never through a link.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    open_options().write(true).create_new(true).open(path)
}

/// Opens a file, but not a link.
pub(crate) fn open_unlinked(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// The same, for writing.
pub(crate) fn open_unlinked_to_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Opens a file for appending; creates it, for its owner only, if it is missing. Does not block.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

/// Reads from this offset, as much as one call returns.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(bytes, offset)
}

/// Writes all of it from this offset.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Replaces a file, which is open as `old`, by the file `new`.
pub(crate) fn rename_over(
    new_path: &Path,
    _new: &File,
    old_path: &Path,
    _old: &mut File,
) -> io::Result<()> {
    fs::rename(new_path, old_path)
}

/// The file that is locked in place of the one at `path`, if that is another: here the file itself is locked, so no
/// extra file is left behind.
#[expect(clippy::unnecessary_wraps, reason = "another system needs one")]
pub(crate) fn stand_in_for_lock(_path: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Marks a file as belonging to a live run.
pub(crate) fn claim(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// Marks a file as belonging to a live run, where no other lock keeps other runs away.
#[cfg(feature = "postgres")]
pub(crate) fn claim_alone(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// A path with its links resolved.
pub(crate) fn real_path(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize()
}

/// Where programs keep this user's data between runs.
pub(crate) fn state_folder() -> Option<PathBuf> {
    let absolute = |folder: PathBuf| Some(folder).filter(|folder| folder.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .and_then(absolute);
    state.or_else(home).and_then(absolute)
}

/// Makes a folder that only this user may use, and the folders above it.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The user this program runs as.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this is a regular file with one name, owned by this user or the owner of `model`.
pub(crate) fn is_ours(metadata: &Metadata, model: Option<&Metadata>) -> bool {
    let uid = metadata.uid();
    let is_models = model.is_some_and(|model| uid == model.uid());
    metadata.is_file() && metadata.nlink() == 1 && (uid == user() || is_models)
}

/// Whether a folder is this user's, and nobody else may write to it.
pub(crate) fn is_own_folder(metadata: &Metadata) -> bool {
    metadata.uid() == user() && metadata.mode() & 0o022 == 0
}

/// Whether only its owner may read or write a file.
pub(crate) fn is_private(metadata: &Metadata) -> bool {
    metadata.mode() & 0o077 == 0
}

/// Gives `file` the owner and group of `model`; an error if that is not allowed.
pub(crate) fn take_owner(file: &File, model: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    let uid = (own.uid() != model.uid()).then_some(model.uid());
    let gid = (own.gid() != model.gid()).then_some(model.gid());
    if uid.is_some() || gid.is_some() {
        fchown(file, uid, gid)
    } else {
        Ok(())
    }
}

/// Gives `file` the permissions of `model`.
pub(crate) fn take_mode(file: &File, model: &Metadata) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(model.mode() & 0o7777))
}

/// The mode bits, where files have them.
#[expect(clippy::unnecessary_wraps, reason = "another system has none")]
pub(crate) fn mode(metadata: &Metadata) -> Option<u32> {
    Some(metadata.mode() & 0o7777)
}

/// The permission bits, if they let anyone but the owner read.
pub(crate) fn mode_if_readable_by_others(metadata: &Metadata) -> Option<u32> {
    mode(metadata).filter(|mode| mode & 0o044 != 0)
}

/// Makes a rename in this folder survive a power cut, where the file system can promise that.
/// A folder that cannot be synced is not a failure: the file itself is synced.
pub(crate) fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Refuses a length above the file size limit: a process that writes beyond it is killed.
pub(crate) fn check_length(bytes: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Fsize).current;
    match limit {
        Some(limit) if limit < bytes => Err(Errno::FBIG.into()),
        _ => Ok(()),
    }
}

/// Reserves space. The file keeps its length where the system can reserve, and is filled with NULs where it cannot.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    check_length(bytes)?;
    match kernel::allocate(file, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let nuls = vec![0; usize::try_from(bytes).unwrap_or_default()];
            write_all_at(file, &nuls, 0)
        }
        done => Ok(done?),
    }
}

/// Reserves space for a file that already has text, where the system can.
pub(crate) fn reserve_beyond(file: &File, bytes: u64) -> io::Result<()> {
    check_length(bytes)?;
    match kernel::allocate(file, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

/// Whether and why the file cannot be replaced by renaming.
pub(crate) fn fixed(path: &Path, metadata: &Metadata) -> Option<InPlaceReason> {
    if metadata.nlink() == 0 {
        Some(InPlaceReason::Replaced)
    } else if let Some(reason) = kernel::fixed(path) {
        Some(reason)
    } else if metadata.nlink() > 1 {
        Some(InPlaceReason::HardLinks)
    } else {
        None
    }
}

/// What makes a file that is [`InPlaceReason::Immutable`] changeable.
pub(crate) fn how_to_make_changeable() -> Hint {
    Hint::fixed(
        "remove the immutable or append-only attribute: see lsattr and chattr",
        "请移除不可变或仅追加属性：参见 lsattr 与 chattr",
    )
}
