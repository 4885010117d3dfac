//! Reading files, and telling them apart.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Hint, Result, is_full};
use crate::platform::files;
use crate::platform::programs::quoted;

/// A file longer than this is not a configuration: thousands of profiles fit in it.
const LONGEST_FILE: u64 = 32 << 20;

/// Longer than any journal, which may hold the whole text many times over.
pub(super) const LONGEST_JOURNAL: u64 = 1 << 30;

/// Reads a whole file that is small enough to be a configuration.
///
/// None if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match files::open_options().open(path) {
        Ok(mut file) => {
            let metadata = check_regular(path, &file)?;
            read_open(path, &mut file, &metadata, LONGEST_FILE).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("cannot read", path, error)),
    }
}

/// The error for a file that is not there.
pub(super) fn does_not_exist(path: &Path, hint: Hint) -> Error {
    let file = path.display();
    match path.parent().filter(|folder| !folder.exists()) {
        Some(folder) => {
            let folder = folder.display();
            let message = format!("{file} does not exist: there is no folder {folder}");
            Error::config(message).with_hint(Hint::fixed(
                "check the path; -c or FEISHU_CONFIG_FILE names the file",
                "请检查该路径；用 -c 或 FEISHU_CONFIG_FILE 指定文件",
            ))
        }
        None => Error::config(format!("{file} does not exist")).with_hint(hint),
    }
}

/// What to do where a file is missing, and nothing was given to make it from.
pub(super) const MISSING: Hint = Hint::fixed(
    "check the path; -c or FEISHU_CONFIG_FILE names the file; to make a new one: feishu-refresh login",
    "请检查该路径；用 -c 或 FEISHU_CONFIG_FILE 指定文件；新建：feishu-refresh login",
);

/// The error for a save that cannot be prepared: it uses `full` only for a full disk.
pub(super) fn cannot_reserve(full: &str, otherwise: &str, path: &Path, error: io::Error) -> Error {
    let what = if is_full(&error) { full } else { otherwise };
    Error::file(what, path, error)
}

/// The error for a journal that cannot be written anywhere.
pub(super) fn cannot_keep_journal(file: &Path, error: io::Error) -> Error {
    let is_closed = matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    );
    let full = "no space for a journal of";
    let error = cannot_reserve(full, "cannot write a journal of", file, error);
    if !is_closed {
        return error;
    }
    error.with_hint(Hint::fixed(
        "the file's folder, the user's state folder or the temporary folder must be writable",
        "该文件所在的目录、用户的状态目录或临时目录中，至少须有一个可写",
    ))
}

/// A file's mode bits; none if unknown.
pub(super) fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path)
        .ok()
        .and_then(|metadata| files::mode(&metadata))
}

/// Reports a file that others can read, with the command that fixes it.
pub(super) fn warn_if_readable_by_others(path: &Path) {
    let metadata = fs::metadata(path).ok();
    if let Some(mode) = metadata.and_then(|m| files::mode_if_readable_by_others(&m)) {
        let path = files::real_path(path).unwrap_or_else(|_| path.to_owned());
        let path = path.display().to_string();
        let quoted = quoted(&path);
        log::warn!("{path} can be read by other users (mode {mode:04o}): chmod 600 {quoted}");
    }
}

/// Reads a file that was just opened.
pub(super) fn read_open(
    path: &Path,
    file: &mut File,
    metadata: &Metadata,
    longest: u64,
) -> Result<Vec<u8>> {
    let length = metadata.len().min(longest);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(longest + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::file("cannot read", path, error))?;
    if bytes.len() as u64 > longest {
        let message = format!("{} is too long for such a file", path.display());
        return Err(Error::config(message));
    }
    Ok(bytes)
}

pub(super) fn check_regular(path: &Path, file: &File) -> Result<Metadata> {
    let metadata = file.metadata();
    let metadata = metadata.map_err(|error| Error::file("cannot read", path, error))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    Err(Error::config(format!(
        "{} is not a regular file",
        path.display()
    )))
}

/// Whether a path leads to this very file, links followed.
pub(super) fn is_same(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => files::identity(&named) == files::identity(&open),
        _ => false,
    }
}
