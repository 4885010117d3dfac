//! The journal: each pair, the moment it arrives, before the file is read, waited for or touched (P7).
//!
//! Promises:
//! - It stands under one fixed name in the first of a few places that takes it: beside the file, in
//!   the user's state folder, in the temporary folder; for its owner alone, never through a link.
//! - It is locked while its run lives, so that nobody takes it for a dead one's.
//! - What others could have planted is not believed ([`find`]): it is put aside and named.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::io::{is_same, read_open};
use super::record::{self, Record};
use super::replay::{Entry, Source};
use crate::error::{Error, Result};
use crate::platform::files;
use crate::profile::Successor;
use crate::token::Fingerprint;

/// The folder of our own in the user's state folder.
const STATE_FOLDER: &str = "feishu-refresh";

/// The first line, for whoever finds it.
const HEAD: &str = "; Tokens of feishu-refresh that are perhaps not in the configuration file yet: its next run puts them there.";

/// One of the places for something of this file.
struct Placed {
    path: PathBuf,
    is_beside: bool,
}

/// The places for something of this file that ends so, in order of preference.
fn places(file: &Path, suffix: &str) -> Vec<Placed> {
    // One name for each file, however deep it lies; the other places are shared by all files.
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    let name = format!("{hash}{suffix}");
    let beside = with_suffix(file, suffix);
    let state = state_folder().map(|state| state.join(&name));
    let temporary = format!("feishu-refresh-{}-{name}", files::user());
    let temporary = env::temp_dir().join(temporary);
    let mut places = vec![Placed {
        path: beside,
        is_beside: true,
    }];
    let elsewhere = state.into_iter().chain([temporary]);
    places.extend(elsewhere.map(|path| Placed {
        path,
        is_beside: false,
    }));
    places
}

const SUFFIX: &str = ".journal";

/// Our own folder in the user's state folder.
fn state_folder() -> Option<PathBuf> {
    files::state_folder().map(|folder| folder.join(STATE_FOLDER))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A journal of this run.
#[derive(Debug)]
pub(super) struct Journal {
    /// The file whose journal it is.
    of: PathBuf,
    file: File,
    path: PathBuf,
    /// Held while a record is written.
    end: Mutex<End>,
}

/// How far a journal is used.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    /// Where the next record goes.
    written: u64,
    /// Up to where there is space.
    reserved: u64,
}

impl Journal {
    /// Makes a journal with room for `bytes`, in the first place that takes it, but not in one that was
    /// tried. A dead run's that is there is written on.
    pub(super) fn open(
        path: &Path,
        model: Option<&Metadata>,
        bytes: u64,
        leftovers: &[Leftover],
        tried: &[PathBuf],
    ) -> io::Result<Self> {
        let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
        // What a dead run left is the place where the next one looks first.
        let old = leftovers.iter().map(|leftover| &leftover.path);
        let new = places(path, SUFFIX).into_iter().map(|place| place.path);
        for place in old.cloned().chain(new) {
            if tried.contains(&place) {
                continue;
            }
            let old = leftovers.iter().find(|leftover| leftover.path == place);
            let opened = match old {
                Some(leftover) => leftover.write_on(path),
                None => Journal::make(path, &place, model),
            };
            result = opened.and_then(|journal| {
                if let Err(error) = journal.reserve(bytes) {
                    if old.is_none() {
                        journal.remove();
                    }
                    return Err(error);
                }
                Ok(journal)
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn make(of: &Path, path: &Path, model: Option<&Metadata>) -> io::Result<Self> {
        make_folder(path);
        let file = files::create_private(path)?;
        files::claim(&file)?;
        if let Some(model) = model {
            // Whoever owns the file should be able to use what is left of a run that died.
            let _ = files::take_owner(&file, model);
        }
        Ok(Journal {
            of: of.to_owned(),
            file,
            path: path.to_owned(),
            end: Mutex::default(),
        })
    }

    /// Sets space aside for so many bytes behind what is written: with NULs, which cost less than the
    /// blocks that a file system would have to find and free again.
    pub(super) fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut end = self.end();
        let wanted = end.written + bytes;
        if wanted > end.reserved {
            files::check_length(wanted)?;
            let nuls = vec![0; usize::try_from(wanted - end.reserved).unwrap_or_default()];
            files::write_all_at(&self.file, &nuls, end.reserved)?;
            end.reserved = wanted;
        }
        Ok(())
    }

    /// How much of it is written.
    pub(super) fn length(&self) -> u64 {
        self.end().written
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record, in one piece. From now on it outlives its run.
    pub(super) fn append(&self, record: &Record) -> io::Result<()> {
        let mut end = self.end();
        let mut line = record.line();
        if end.written == 0 {
            line.insert_str(0, HEAD);
        }
        files::write_all_at(&self.file, line.as_bytes(), end.written)?;
        end.written += line.len() as u64;
        end.reserved = end.reserved.max(end.written);
        Ok(())
    }

    /// Puts all of it on disk, with its name.
    pub(super) fn sync(&self) -> io::Result<()> {
        fail_point!("before-journal-fsync");
        self.file.sync_all()?;
        if let Some(folder) = self.path.parent() {
            files::sync_folder(folder);
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file is whose journal it is.
    pub(super) fn file_path(&self) -> &Path {
        &self.of
    }

    /// Whether it still stands under its name.
    pub(super) fn is_there(&self) -> bool {
        is_same(&self.path, &self.file)
    }

    /// Takes it away: the file has all that it holds.
    pub(super) fn remove(&self) {
        if self.is_there() {
            remove(&self.path);
        }
    }
}

/// A journal that a dead run left.
#[derive(Debug)]
pub(super) struct Leftover {
    /// Keeps others away from it.
    file: File,
    path: PathBuf,
    is_beside: bool,
    /// How much of it was written.
    length: u64,
    pub(super) read: record::Read,
}

/// What dead runs left.
pub(super) enum Found {
    Leftovers(Vec<Leftover>),
    /// One belongs to a run that lives: it holds a file that an editor has since replaced.
    Busy,
}

/// Finds what dead runs left. What cannot be believed is put aside and named.
///
/// # Errors
/// [`crate::Kind::Config`] if one that can be believed cannot be read: it may hold the only copy.
pub(super) fn find(path: &Path, owner: &Metadata) -> Result<Found> {
    let mut found = Vec::new();
    for place in places(path, SUFFIX) {
        let Some((mut file, metadata)) = open_believed(&place, owner)? else {
            continue;
        };
        if let Err(TryLockError::WouldBlock) = files::claim(&file) {
            return Ok(Found::Busy);
        }
        // One that its run removed just now.
        if !is_same(&place.path, &file) {
            return Ok(Found::Busy);
        }
        let bytes = read_open(&place.path, &mut file, &metadata)?;
        let length = bytes.iter().rposition(|byte| *byte != 0);
        found.push(Leftover {
            file,
            path: place.path,
            is_beside: place.is_beside,
            length: length.map_or(0, |last| last as u64 + 1),
            read: record::read(&bytes),
        });
    }
    Ok(Found::Leftovers(found))
}

/// Opens what stands in a place, if it can be believed: a regular file of one name, of this user or the
/// configuration's owner, and for that user alone.
fn open_believed(place: &Placed, owner: &Metadata) -> Result<Option<(File, Metadata)>> {
    let path = &place.path;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(None);
    };
    if !files::is_ours(&metadata, owner) || !is_private(path, &metadata) {
        let why = "is not a file of this user or the configuration's owner alone";
        put_aside(path, why, &metadata);
        return Ok(None);
    }
    let unreadable = |error| Error::file("cannot read", path, error);
    let file = files::open_unlinked(path).map_err(unreadable)?;
    let opened = file.metadata().map_err(unreadable)?;
    if files::identity(&opened) != files::identity(&metadata) {
        let message = format!("{} was replaced just now; nothing was sent", path.display());
        return Err(Error::temporary(message));
    }
    Ok(Some((file, opened)))
}

/// Whether a file is for its owner alone, as far as its file system can keep that.
fn is_private(path: &Path, metadata: &Metadata) -> bool {
    if files::is_private(metadata) {
        return true;
    }
    // A file that is made to be private, and is not: here no file is.
    let probe = with_suffix(path, ".probe");
    let made = files::create_private(&probe).and_then(|file| file.metadata());
    let keeps_modes = made.as_ref().map_or(true, files::is_private);
    if made.is_ok() {
        let _ = fs::remove_file(&probe);
    }
    !keeps_modes
}

/// Gives something a name under which no run looks for it.
fn put_aside(path: &Path, why: &str, metadata: &Metadata) {
    let mark = Fingerprint::of_bytes(format!("{:?}", files::identity(metadata)).as_bytes());
    let aside = with_suffix(path, &format!(".{mark}"));
    match fs::rename(path, &aside) {
        Ok(()) => log::warn!(
            "{} {why}: it was put aside as {}",
            path.display(),
            aside.display()
        ),
        Err(_) => log::warn!("{} {why}: it is left alone", path.display()),
    }
}

impl Leftover {
    /// The pairs that it holds.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let source = if self.is_beside {
            Source::Beside
        } else {
            Source::Elsewhere
        };
        let records = self.read.records.iter();
        records.filter_map(move |(record, _)| match record {
            Record::Pair(pair) => Some(Entry::new(Arc::new((**pair).clone()), source)),
            _ => None,
        })
    }

    /// Whether a record was only begun when its run died.
    pub(super) fn has_torn_lines(&self) -> bool {
        !self.read.torn.is_empty()
    }

    /// The lines that are not whole, and those of some pairs.
    pub(super) fn lines_of(&self, is_wanted: impl Fn(&Successor) -> bool) -> Vec<u8> {
        let mut lines: Vec<&[u8]> = self.read.torn.iter().map(Vec::as_slice).collect();
        for (record, line) in &self.read.records {
            if let Record::Pair(pair) = record
                && is_wanted(pair)
            {
                lines.push(line.as_bytes());
            }
        }
        lines.join(&b'\n')
    }

    /// The whole text that was last about to be written over the file.
    pub(super) fn text(&self) -> Option<&str> {
        let mut records = self.read.records.iter().rev();
        records.find_map(|(record, _)| match record {
            Record::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The tokens that were sent, and nobody knows what came of it.
    pub(super) fn in_doubt(&self) -> Vec<Fingerprint> {
        let mut sent = Vec::new();
        for (record, _) in &self.read.records {
            match record {
                Record::Sent(token) => sent.push(*token),
                Record::Answered(token) => sent.retain(|sent| sent != token),
                Record::Pair(pair) => sent.retain(|sent| Some(*sent) != pair.predecessor),
                Record::Text(_) => {}
            }
        }
        sent
    }

    /// The same file, to be written on.
    fn write_on(&self, of: &Path) -> io::Result<Journal> {
        let file = files::open_unlinked_to_write(&self.path)?;
        if !is_same(&self.path, &self.file) || !is_same(&self.path, &file) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Journal {
            of: of.to_owned(),
            file,
            path: self.path.clone(),
            end: Mutex::new(End {
                written: self.length,
                reserved: self.length,
            }),
        })
    }

    /// Takes it away: the file has all that it holds.
    pub(super) fn remove(&self) {
        if is_same(&self.path, &self.file) {
            remove(&self.path);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!(
                "cannot remove {}, which has no use any more: {error}",
                path.display()
            );
        }
        _ => {}
    }
}

/// Makes our own folder for this path, if it is in there. If that fails, so does what follows.
fn make_folder(path: &Path) {
    let folder = path.parent();
    if let Some(folder) = folder.filter(|folder| folder.ends_with(STATE_FOLDER)) {
        let _ = files::create_private_folder(folder);
    }
}

/// Keeps lines that fit nothing where no run looks for them, on disk, in the first place that takes
/// them. Returns the path, and whether it is new.
///
/// # Errors
/// The last place's, if none takes them.
pub(super) fn keep_aside(file: &Path, lines: &[u8]) -> io::Result<(PathBuf, bool)> {
    let suffix = format!("{SUFFIX}.{}", Fingerprint::of_bytes(lines));
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
    for Placed { path, .. } in places(file, &suffix) {
        make_folder(&path);
        result = match files::create_private(&path) {
            Ok(made) => {
                let written = files::write_all_at(&made, lines, 0).and_then(|()| made.sync_all());
                if written.is_err() {
                    let _ = fs::remove_file(&path);
                }
                path.parent().into_iter().for_each(files::sync_folder);
                written.map(|()| (path, true))
            }
            // The name says what it holds.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((path, false)),
            Err(error) => Err(error),
        };
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Where the latest pair of each login of this file is remembered.
fn memory_path(file: &Path) -> Option<PathBuf> {
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    state_folder().map(|folder| folder.join(format!("{hash}.done")))
}

/// A memory that is longer than this, and mostly of older pairs, is written anew.
const LONG_MEMORY: usize = 8 << 10;

/// The latest pair of each login that was once in this file. None of them is needed: what cannot be
/// read is not there.
pub(super) fn remembered(file: &Path) -> Vec<Entry> {
    let Some(path) = memory_path(file) else {
        return Vec::new();
    };
    let Ok(mut opened) = files::open_unlinked(&path) else {
        return Vec::new();
    };
    let Ok(metadata) = opened.metadata() else {
        return Vec::new();
    };
    if !files::is_ours(&metadata, &metadata) || !is_private(&path, &metadata) {
        return Vec::new();
    }
    let bytes = read_open(&path, &mut opened, &metadata).unwrap_or_default();
    let all = record::read(&bytes).records;
    let count = all.len();
    let mut latest: Vec<Entry> = Vec::new();
    for (record, _) in all {
        let Record::Pair(pair) = record else {
            continue;
        };
        latest.retain(|entry| entry.pair.profile != pair.profile);
        latest.push(Entry::new((*pair).into(), Source::Done));
    }
    if bytes.len() > LONG_MEMORY && count > 2 * latest.len() {
        forget_older(&path, &latest);
    }
    latest
}

fn forget_older(path: &Path, latest: &[Entry]) {
    let lines = latest.iter();
    let lines: String = lines
        .map(|entry| Record::Pair(Box::new((*entry.pair).clone())).line())
        .collect();
    let new = with_suffix(path, ".new");
    let _ = fs::remove_file(&new);
    let made = files::create_private(&new);
    let written = made.and_then(|file| files::write_all_at(&file, lines.as_bytes(), 0));
    // It is a help, not a promise: the old one serves as well.
    let _ = written.and_then(|()| fs::rename(&new, path));
}

/// Remembers pairs that are in the file. Not synced: it is for other programs' old copies, not for
/// crashes.
pub(super) fn remember(file: &Path, pairs: &[&Entry]) {
    let lines: String = pairs
        .iter()
        .map(|entry| Record::Pair(Box::new((*entry.pair).clone())).line())
        .collect();
    let Some(path) = memory_path(file).filter(|_| !lines.is_empty()) else {
        return;
    };
    let opened = files::open_to_append(&path).or_else(|_| {
        make_folder(&path);
        files::open_to_append(&path)
    });
    let written = opened.and_then(|mut file| io::Write::write_all(&mut file, lines.as_bytes()));
    if let Err(error) = written {
        log::info!("{}: {error}", path.display());
    }
}

/// Links that lead on in a circle lead nowhere; the system gives up after as many.
const MOST_LINKS: usize = 40;

/// Whether a run left a journal for a file that is missing now.
pub(super) fn is_waiting_for(path: &Path) -> bool {
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
    let name = path.file_name().unwrap_or(OsStr::new(""));
    folder.is_some_and(|folder| {
        let real = folder.join(name);
        [SUFFIX, super::legacy::SUFFIX]
            .iter()
            .any(|suffix| with_suffix(&real, suffix).exists())
    })
}

/// The journals that hold something for the next run, and their pairs, for who only looks.
pub(super) fn pending(file: &Path) -> (Vec<PathBuf>, Vec<Entry>, Option<String>) {
    let file = files::real_path(file).unwrap_or_else(|_| file.to_owned());
    let (mut paths, mut entries, mut text) = (Vec::new(), Vec::new(), None);
    let Ok(owner) = fs::metadata(&file).or_else(|_| fs::metadata(file.parent().unwrap_or(&file)))
    else {
        return (paths, entries, text);
    };
    entries.extend(remembered(&file));
    for place in places(&file, SUFFIX) {
        let Ok(metadata) = fs::symlink_metadata(&place.path) else {
            continue;
        };
        if !files::is_ours(&metadata, &owner) || !is_private(&place.path, &metadata) {
            continue;
        }
        let Ok(mut opened) = files::open_unlinked(&place.path) else {
            continue;
        };
        let bytes = read_open(&place.path, &mut opened, &metadata).unwrap_or_default();
        let leftover = Leftover {
            file: opened,
            path: place.path,
            is_beside: place.is_beside,
            length: 0,
            read: record::read(&bytes),
        };
        let known = entries.len();
        entries.extend(leftover.entries());
        text = text.or(leftover.text().map(str::to_owned));
        if entries.len() > known {
            paths.push(leftover.path);
        }
    }
    (paths, entries, text)
}
