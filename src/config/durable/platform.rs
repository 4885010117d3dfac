//! What the careful file asks of a Unix system beyond std.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Why a file cannot be replaced by renaming another over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fixed {
    /// Something is mounted on the file itself.
    MountPoint,
    /// The file or its folder is immutable or append-only.
    Immutable,
    /// The file has other names, which would keep the old text.
    HardLinks,
    /// The file has rights beyond owner, group and mode, which a new file would not have.
    AccessList,
    /// The file is open but gone from its folder: a mounted file that was replaced on the host.
    Replaced,
}

/// Names one file on this machine, whatever its path.
pub(super) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What changes whenever a file does: which one it is, its length and its clocks.
pub(super) type State = (u64, u64, u64, (i64, i64), (i64, i64));

/// The state of a file.
pub(super) fn state(metadata: &Metadata) -> State {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        (metadata.mtime(), metadata.mtime_nsec()),
        (metadata.ctime(), metadata.ctime_nsec()),
    )
}

/// Options that open at once even what is not a file, so that it can be looked at and refused.
pub(super) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .mode(0o600)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

/// A new file for its owner alone; never an old one, never through a link.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    open_options().write(true).create_new(true).open(path)
}

/// Opens a file, but no link.
pub(super) fn open_unlinked(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Makes a folder for this user alone, and the folders above it.
pub(super) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The user this program acts as.
pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether a file is this user's, under one name, and nobody else's to read or write.
pub(super) fn is_private(metadata: &Metadata) -> bool {
    metadata.uid() == user() && metadata.nlink() == 1 && metadata.mode() & 0o077 == 0
}

/// Gives `file` the owner and group of `model`; an error if that is not allowed.
pub(super) fn take_owner(file: &File, model: &Metadata) -> io::Result<()> {
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
pub(super) fn take_mode(file: &File, model: &Metadata) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(model.mode() & 0o7777))
}

/// Whether `file` was last changed before or when `other` was last written, by the system's clock,
/// which no program can set back.
pub(super) fn is_unchanged_since(file: &Metadata, other: &Metadata) -> bool {
    (file.ctime(), file.ctime_nsec()) <= (other.mtime(), other.mtime_nsec())
}

/// The mode bits.
pub(super) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// The permission bits, if they let someone besides the owner read.
pub(super) fn mode_if_readable_by_others(metadata: &Metadata) -> Option<u32> {
    let mode = mode(metadata);
    (mode & 0o044 != 0).then_some(mode)
}

/// Makes a rename in this folder survive a power cut, where the file system can promise that.
/// A folder that cannot be synced is no failure: the file itself is.
pub(super) fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Sets space aside. The file stays empty where the system knows how to reserve, and holds NULs
/// where it does not.
pub(super) fn reserve(file: &mut File, bytes: u64) -> io::Result<()> {
    // What writes beyond this limit is killed; a reservation is not.
    let limit = getrlimit(Resource::Fsize).current;
    if limit.is_some_and(|limit| limit < bytes) {
        return Err(Errno::FBIG.into());
    }
    match allocate(file, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            io::copy(&mut io::Read::take(io::repeat(0), bytes), file)?;
            file.flush()
        }
        done => Ok(done?),
    }
}

/// Sets space aside for a file that has a text already, where the system knows how to.
pub(super) fn reserve_beyond(file: &File, bytes: u64) -> io::Result<()> {
    match allocate(file, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    use rustix::fs::{FallocateFlags, fallocate};
    rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes))
}

/// Other systems reserve only by changing the file's length.
#[cfg(not(target_os = "linux"))]
fn allocate(_file: &File, _bytes: u64) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// Whether and why the file cannot be replaced by renaming.
pub(super) fn fixed(path: &Path, metadata: &Metadata) -> Option<Fixed> {
    if metadata.nlink() == 0 {
        Some(Fixed::Replaced)
    } else if let Some(reason) = attributes::fixed(path) {
        Some(reason)
    } else if metadata.nlink() > 1 {
        Some(Fixed::HardLinks)
    } else {
        None
    }
}

#[cfg(target_os = "linux")]
mod attributes {
    use super::{Errno, Fixed, Path};
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

    /// What Linux knows of a path beyond its metadata. A kernel too old to tell lets the rename
    /// fail instead.
    pub(super) fn fixed(path: &Path) -> Option<Fixed> {
        const UNCHANGEABLE: StatxAttributes =
            StatxAttributes::IMMUTABLE.union(StatxAttributes::APPEND);
        let of = |path: &Path| {
            let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
            found.map_or(StatxAttributes::empty(), |found| found.stx_attributes)
        };
        let file = of(path);
        let folder = path.parent().map_or(StatxAttributes::empty(), of);
        if (file | folder).intersects(UNCHANGEABLE) {
            Some(Fixed::Immutable)
        } else if file.contains(StatxAttributes::MOUNT_ROOT) {
            Some(Fixed::MountPoint)
        } else if has_access_list(path) {
            Some(Fixed::AccessList)
        } else {
            None
        }
    }

    fn has_access_list(path: &Path) -> bool {
        let mut list = [0; 256];
        match rustix::fs::getxattr(path, "system.posix_acl_access", &mut list[..]) {
            Ok(length) => length > 0,
            // Longer than that.
            Err(error) => error == Errno::RANGE,
        }
    }
}

/// Only Linux mounts files.
#[cfg(not(target_os = "linux"))]
mod attributes {
    pub(super) fn fixed(_path: &super::Path) -> Option<super::Fixed> {
        None
    }
}
