//! Files: which is which, whose they are, and how they are locked, reserved and written.

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
use crate::platform::Fixed;

/// Names one file on this machine, whatever its path.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Options that open at once even what is not a file, so that it can be looked at and refused.
pub(crate) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .mode(0o600)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

/// A new file for its owner alone; never an old one, never through a link.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    open_options().write(true).create_new(true).open(path)
}

/// Opens a file, but no link.
pub(crate) fn open_unlinked(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// The same, to write to it.
pub(crate) fn open_unlinked_to_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Opens a file to append to it, for its owner alone if it is missing. Nobody is waited for.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

/// Reads from this place on, as much as comes at once.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(bytes, offset)
}

/// Writes all of it from this place on.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Puts the file `new` in the place of another, which is open as `old`.
pub(crate) fn rename_over(
    new_path: &Path,
    _new: &File,
    old_path: &Path,
    _old: &mut File,
) -> io::Result<()> {
    fs::rename(new_path, old_path)
}

/// The file whose lock stands for the lock on the file at `path`, where that is another: here the
/// file itself is locked, so that no other lies about.
#[expect(clippy::unnecessary_wraps, reason = "another system needs one")]
pub(crate) fn stand_in_for_lock(_path: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Marks a file as that of a living run.
pub(crate) fn claim(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// Marks a file as that of a living run, where no other lock keeps others away.
#[cfg(feature = "postgres")]
pub(crate) fn claim_alone(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// A path with its links resolved.
pub(crate) fn real_path(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize()
}

/// Where programs keep what should outlive a run, for this user.
pub(crate) fn state_folder() -> Option<PathBuf> {
    let absolute = |folder: PathBuf| Some(folder).filter(|folder| folder.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .and_then(absolute);
    state.or_else(home).and_then(absolute)
}

/// Makes a folder for this user alone, and the folders above it.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The user this program acts as.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this is a regular file of one name, of this user or of the owner of `model`.
pub(crate) fn is_ours(metadata: &Metadata, model: Option<&Metadata>) -> bool {
    let uid = metadata.uid();
    let is_models = model.is_some_and(|model| uid == model.uid());
    metadata.is_file() && metadata.nlink() == 1 && (uid == user() || is_models)
}

/// Whether a folder is this user's, and nobody else may put anything into it.
pub(crate) fn is_own_folder(metadata: &Metadata) -> bool {
    metadata.uid() == user() && metadata.mode() & 0o022 == 0
}

/// Whether a file is nobody's to read or write but its owner's.
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

/// The mode bits, where files have such.
#[expect(clippy::unnecessary_wraps, reason = "another system has none")]
pub(crate) fn mode(metadata: &Metadata) -> Option<u32> {
    Some(metadata.mode() & 0o7777)
}

/// The permission bits, if they let someone besides the owner read.
pub(crate) fn mode_if_readable_by_others(metadata: &Metadata) -> Option<u32> {
    mode(metadata).filter(|mode| mode & 0o044 != 0)
}

/// Makes a rename in this folder survive a power cut, where the file system can promise that.
/// A folder that cannot be synced is no failure: the file itself is.
pub(crate) fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Refuses a length that files must not have: what writes beyond it is killed.
pub(crate) fn check_length(bytes: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Fsize).current;
    match limit {
        Some(limit) if limit < bytes => Err(Errno::FBIG.into()),
        _ => Ok(()),
    }
}

/// Sets space aside. The file keeps its length where the system knows how to reserve, and is filled
/// with NULs where it does not.
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

/// Sets space aside for a file that has a text already, where the system knows how to.
pub(crate) fn reserve_beyond(file: &File, bytes: u64) -> io::Result<()> {
    check_length(bytes)?;
    match kernel::allocate(file, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

/// Whether and why the file cannot be replaced by renaming.
pub(crate) fn fixed(path: &Path, metadata: &Metadata) -> Option<Fixed> {
    if metadata.nlink() == 0 {
        Some(Fixed::Replaced)
    } else if let Some(reason) = kernel::fixed(path) {
        Some(reason)
    } else if metadata.nlink() > 1 {
        Some(Fixed::HardLinks)
    } else {
        None
    }
}

/// What makes a file that is [`Fixed::Immutable`] changeable.
pub(crate) fn how_to_make_changeable() -> Hint {
    Hint::fixed(
        "take away the immutable or append-only attribute: see lsattr and chattr",
        "请移除不可变或仅追加属性：参见 lsattr 与 chattr",
    )
}
