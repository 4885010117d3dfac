//! Where files that belong to a configuration file can be: beside it, in the user's state folder, in the temporary
//! folder.
//!
//! Promises:
//! - Each has one fixed name in each place, and is created private, never through a link.
//! - What others could have planted, or what fits nothing, is put aside and reported; never deleted.

use std::env;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::platform::files;
use crate::token::Fingerprint;

/// The name of our own folder in the user's state folder.
const STATE_FOLDER: &str = "feishu-refresh";

/// One of the places for this file's companions.
pub(super) struct CompanionPath {
    pub(super) path: PathBuf,
    pub(super) is_beside: bool,
}

/// The places for this file's companion with this ending, in order of preference.
pub(super) fn places(file: &Path, suffix: &str) -> Vec<CompanionPath> {
    // One name per file, however deep it is; the other places are shared by all files.
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    let name = format!("{hash}{suffix}");
    let beside = with_suffix(file, suffix);
    let state = state_folder().map(|state| state.join(&name));
    let temporary = format!("feishu-refresh-{}-{name}", files::user());
    let temporary = env::temp_dir().join(temporary);
    let mut places = vec![CompanionPath {
        path: beside,
        is_beside: true,
    }];
    let elsewhere = state.into_iter().chain([temporary]);
    places.extend(elsewhere.map(|path| CompanionPath {
        path,
        is_beside: false,
    }));
    places
}

/// What a journal's name ends with.
pub(super) const JOURNAL: &str = ".journal";

/// The middle of a kept reply's name; a hash of the reply follows.
pub(super) const REPLY: &str = ".reply-";

/// Our own folder in the user's state folder.
pub(super) fn state_folder() -> Option<PathBuf> {
    files::state_folder().map(|folder| folder.join(STATE_FOLDER))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a file is private, as far as its file system supports that.
pub(super) fn is_private(path: &Path, metadata: &Metadata) -> bool {
    if files::is_private(metadata) {
        return true;
    }
    // A file created as private is not: no file can be private here.
    let probe = with_suffix(path, ".probe");
    // A run may have died during this.
    let _ = fs::remove_file(&probe);
    let made = files::create_private(&probe).and_then(|file| file.metadata());
    let keeps_modes = made.as_ref().map_or(true, files::is_private);
    if made.is_ok() {
        let _ = fs::remove_file(&probe);
    }
    !keeps_modes
}

/// Renames a file so that no run looks for it.
pub(super) fn put_aside(path: &Path, why: &str, metadata: &Metadata) {
    let mark = Fingerprint::of_bytes(format!("{:?}", files::identity(metadata)).as_bytes());
    let aside = with_suffix(path, &format!(".{mark}"));
    match fs::rename(path, &aside) {
        Ok(()) => log::warn!(
            "{} {why}: it was put aside as {}",
            path.display(),
            aside.display()
        ),
        Err(_) => log::warn!("{} {why}: it stays as it is", path.display()),
    }
}

pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!(
                "cannot remove {}, which is no longer needed: {error}",
                path.display()
            );
        }
        _ => {}
    }
}

/// Creates our own folder for this path, if it belongs there. If that fails, so does what follows.
pub(super) fn make_folder(path: &Path) {
    let folder = path.parent();
    if let Some(folder) = folder.filter(|folder| folder.ends_with(STATE_FOLDER)) {
        let _ = files::create_private_folder(folder);
    }
}

/// Keeps journal lines that fit nothing where no run looks for them: beside that journal, or elsewhere. Returns the
/// path, and whether it is new.
///
/// # Errors
/// The last place's, if none works.
pub(super) fn keep_aside(file: &Path, journal: &Path, lines: &[u8]) -> io::Result<(PathBuf, bool)> {
    let mark = format!(".{}", Fingerprint::of_bytes(lines));
    let elsewhere = places(file, &format!("{JOURNAL}{mark}")).into_iter();
    let beside = with_suffix(journal, &mark);
    keep(
        [beside]
            .into_iter()
            .chain(elsewhere.map(|place| place.path)),
        lines,
    )
}

/// Keeps bytes on disk, in the first of these places that works; the name says what they are.
/// Returns the path, and whether it is new.
///
/// # Errors
/// The last place's, if none works.
pub(super) fn keep(
    paths: impl Iterator<Item = PathBuf>,
    bytes: &[u8],
) -> io::Result<(PathBuf, bool)> {
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
    for path in paths {
        result = keep_at(&path, bytes).map(|is_new| (path, is_new));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Keeps bytes in one place; returns whether they are new there.
fn keep_at(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    fail_point!("before-keep");
    make_folder(path);
    if let Ok(metadata) = fs::symlink_metadata(path) {
        let is_ours = metadata.is_file() && files::is_private(&metadata);
        if is_ours && fs::read(path).is_ok_and(|found| found == bytes) {
            return Ok(false);
        }
        // Begun by a run that died, or put there by others.
        put_aside(path, "does not match its name", &metadata);
    }
    let made = files::create_private(path)?;
    let written = files::write_all_at(&made, bytes, 0).and_then(|()| made.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    path.parent().into_iter().for_each(files::sync_folder);
    written.map(|()| true)
}
