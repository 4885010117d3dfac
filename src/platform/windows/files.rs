//! Files: their identity, and how they are locked, reserved and written.
//!
//! Ownership and access are a matter of access lists, which a new file inherits from its folder: nothing is checked or
//! changed here.

use std::env;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf, Prefix};

use crate::error::Hint;
use crate::platform::in_place::InPlaceReason;

/// Lets a folder be opened, too: `FILE_FLAG_BACKUP_SEMANTICS`.
const EVEN_A_FOLDER: u32 = 0x0200_0000;

/// Opens a link instead of what it leads to: `FILE_FLAG_OPEN_REPARSE_POINT`.
const NOT_THROUGH_A_LINK: u32 = 0x0020_0000;

/// A path longer than this needs its long form.
const LONGEST_PLAIN_PATH: usize = 259;

/// Tells one file from another, if both are asked at one moment. The creation time is not enough: a file that takes
/// another's name soon after may inherit it. The last write time does not help: for a file open for writing it depends
/// on who asks.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.creation_time(), metadata.file_size())
}

/// Options that open even a non-file, so that it can be inspected and refused.
pub(crate) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(EVEN_A_FOLDER);
    options
}

/// A new file; never an existing one, never through a link.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    open_options().write(true).create_new(true).open(path)
}

/// Opens a file; a link is opened as itself, and is not a regular file.
pub(crate) fn open_unlinked(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(EVEN_A_FOLDER | NOT_THROUGH_A_LINK)
        .open(path)
}

/// The same, for writing.
pub(crate) fn open_unlinked_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(EVEN_A_FOLDER | NOT_THROUGH_A_LINK)
        .open(path)
}

/// Opens a file for appending; creates it if it is missing.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Reads from this offset, as much as one call returns.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(bytes, offset)
}

/// Writes all of it from this offset.
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset)? {
            0 => return Err(ErrorKind::WriteZero.into()),
            count => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// Replaces a file, which is open as `old`, by the file `new`; on success, `old` is the new one, too. Not every file
/// system lets an open file be replaced.
pub(crate) fn rename_over(
    new_path: &Path,
    new: &File,
    old_path: &Path,
    old: &mut File,
) -> io::Result<()> {
    let both = new.try_clone()?;
    // Closed; and never the new file unless it is in place: that one must not be overwritten.
    *old = File::open("NUL")?;
    match fs::rename(new_path, old_path) {
        Ok(()) => {
            *old = both;
            Ok(())
        }
        Err(error) => {
            if let Ok(file) = open_options().write(true).open(old_path) {
                *old = file;
            }
            Err(error)
        }
    }
}

/// The file that is locked in place of the one at `path`: one beside it, since a locked file can be neither read nor
/// replaced here. It stays: if it were removed, two runs could each lock a file of that name.
pub(crate) fn stand_in_for_lock(path: &Path) -> io::Result<Option<File>> {
    // One lock for all links to a file. If the file has vanished, its lock does not matter.
    let path = real_path(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.into_os_string();
    name.push(".lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(name);
    file.map(Some)
}

/// Marks a file as belonging to a live run. It needs no mark: the lock beside the configuration
/// file keeps other runs away, and a locked file could not replace that file.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn claim(_file: &File) -> Result<(), TryLockError> {
    Ok(())
}

/// A path with its links resolved, in the form that people write.
/// Marks a file as belonging to a live run, where no other lock keeps other runs away.
#[cfg(feature = "postgres")]
pub(crate) fn claim_alone(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

pub(crate) fn real_path(path: &Path) -> io::Result<PathBuf> {
    let real = path.canonicalize()?;
    Ok(plain(&real).unwrap_or(real))
}

/// `C:\a` for `\\?\C:\a`, where both mean the same.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut components = path.components();
    let Some(Component::Prefix(prefix)) = components.next() else {
        return None;
    };
    let Prefix::VerbatimDisk(disk) = prefix.kind() else {
        return None;
    };
    let mut plain = PathBuf::from(format!("{}:", char::from(disk)));
    plain.extend(components);
    let means_the_same = plain.as_os_str().len() <= LONGEST_PLAIN_PATH
        && plain.canonicalize().is_ok_and(|real| real == path);
    means_the_same.then_some(plain)
}

/// Where programs keep this user's data between runs.
pub(crate) fn state_folder() -> Option<PathBuf> {
    let folder = env::var_os("LOCALAPPDATA").map(PathBuf::from);
    folder.filter(|folder| folder.is_absolute())
}

/// Makes a folder, and the folders above it. In the user's own folders, only this user may use it.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// What tells users apart in the temporary folder: here each user has their own.
pub(crate) fn user() -> u32 {
    0
}

/// Whether this is a regular file: its folder says whose it is.
pub(crate) fn is_ours(metadata: &Metadata, _model: Option<&Metadata>) -> bool {
    metadata.is_file()
}

/// Whether a folder is this user's, as all are in the user's own folders.
pub(crate) fn is_own_folder(_metadata: &Metadata) -> bool {
    true
}

/// Whether a file is this user's alone, as all are in the user's own folders.
pub(crate) fn is_private(_metadata: &Metadata) -> bool {
    true
}

/// A new file belongs to its creator.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn take_owner(_file: &File, _model: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Its folder says who may use a new file.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn take_mode(_file: &File, _model: &Metadata) -> io::Result<()> {
    Ok(())
}

/// There are no mode bits.
pub(crate) fn mode(_metadata: &Metadata) -> Option<u32> {
    None
}

/// There are no mode bits.
pub(crate) fn mode_if_readable_by_others(_metadata: &Metadata) -> Option<u32> {
    None
}

/// The file system keeps a journal of its names, and a folder cannot be synced.
pub(crate) fn sync_folder(_folder: &Path) {}

/// There is no limit but the disk's.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn check_length(_bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Reserves space by filling it with NULs.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let nuls = vec![0; usize::try_from(bytes).unwrap_or_default()];
    write_all_at(file, &nuls, 0)
}

/// Space beyond the text cannot be reserved without changing the file.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn reserve_beyond(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Whether and why the file cannot be replaced by renaming.
pub(crate) fn fixed(_path: &Path, metadata: &Metadata) -> Option<InPlaceReason> {
    metadata
        .permissions()
        .readonly()
        .then_some(InPlaceReason::Immutable)
}

/// What makes a file that is [`InPlaceReason::Immutable`] changeable.
pub(crate) fn how_to_make_changeable() -> Hint {
    Hint::fixed(
        "remove its read-only attribute: see attrib -r",
        "请移除其只读属性：参见 attrib -r",
    )
}
