//! Puts back what a dead run could not save (P7).
//!
//! Promises:
//! - A torn file is made whole from its rescue copy before anybody reads it (P3).
//! - A pair is taken from a rescue file only where its predecessor still stands: in the file, or in
//!   this run's own `-r` if the file was not changed since; or where the file has none. It is saved
//!   like any other before the rescue file goes.
//! - A rescue file that does not fit is kept, under a name of its own, and named.
//! - A journal of a run over many profiles gives its whole entries, each on its own.

use super::document::Document;
use std::path::Path;

use super::durable::{self, Entries, Leftover, Lock, is_torn};
use super::profile::{Change, Pair, Place, edit, edited, understood};
use crate::error::{Error, Hint, Kind, Result};
use crate::token::{self, Fingerprint};

/// What became of a file by what dead runs left.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Replayed {
    /// Whether the file has changed.
    pub(super) changed: bool,
    /// Whether a run died when it may have sent a token whose successor nobody has.
    pub(super) reply_lost: bool,
}

/// Works through what dead runs left.
pub(super) fn replay(
    lock: Lock,
    place: Place<'_>,
    given: Option<Fingerprint>,
) -> Result<(Lock, Replayed)> {
    let (mut lock, changed) = repair(lock, place)?;
    let mut replayed = Replayed {
        changed,
        reply_lost: false,
    };
    for leftover in lock.leftovers()? {
        // Of a run over many profiles, other requests may have been under way.
        let entries = durable::entries(&leftover.text);
        let died = entries.is_some_and(|entries| !entries.has_ended);
        replayed.reply_lost |= leftover.is_blank() || died;
        if leftover.is_blank() {
            leftover.remove();
            continue;
        }
        let name = leftover.path.display().to_string();
        let rescue = Text {
            bytes: &leftover.text,
            is_latest: leftover.is_latest,
        };
        let worth = judge(&lock.read()?, rescue, place, given)?;
        if let Some(text) = worth.needed {
            lock = put_back(lock, &text)?;
            replayed.changed = true;
            log::warn!("{name} held what an earlier run could not save: it is saved now");
        }
        if worth.doubtful {
            let why = if leftover.text.contains(&0) {
                replayed.reply_lost = true;
                "was not whole when its run died"
            } else {
                "does not fit the file any more"
            };
            let aside = leftover.set_aside();
            let aside = aside.display();
            log::warn!("{name} {why}: it was kept as {aside}");
        } else {
            leftover.remove();
        }
    }
    Ok((lock, replayed))
}

/// The file as the next run will see it, once it has put back what dead runs left. Changes nothing.
///
/// # Errors
/// [`Kind::Config`] if the file is missing or cannot be understood.
pub(super) fn foreseen(file: &Path) -> Result<Document> {
    let place = Place { file, profile: "" };
    let pending = durable::pending(file);
    let mut bytes = durable::read(file)?;
    if bytes.as_deref().is_some_and(is_torn) {
        let mut copies = durable::pending_put_backs(file);
        copies.extend(pending.iter().cloned());
        let whole = copies
            .into_iter()
            .filter_map(|path| durable::read(&path).ok()?);
        bytes = whole
            .into_iter()
            .find(|copy| is_ours(copy, place))
            .or(bytes);
    }
    if bytes.is_none() && pending.is_empty() {
        return Err(durable::does_not_exist(file));
    }
    let mut bytes = bytes.unwrap_or_default();
    for path in pending {
        let Ok(Some(text)) = durable::read(&path) else {
            continue;
        };
        let rescue = Text {
            bytes: &text,
            is_latest: durable::is_unchanged_since(file, &path),
        };
        if let Some(needed) = judge(&bytes, rescue, place, None)?.needed {
            bytes = needed.into_bytes();
        }
    }
    understood(file, &bytes)
}

/// Makes a torn file whole from a whole copy, wherever that is: what an interrupted put-back was
/// about to write is newer than what it was made from.
fn repair(lock: Lock, place: Place<'_>) -> Result<(Lock, bool)> {
    let mut copies = lock.unfinished_put_backs()?;
    if !is_torn(&lock.read()?) {
        // What they were to help with is done, or is begun anew.
        copies.into_iter().for_each(Leftover::remove);
        return Ok((lock, false));
    }
    copies.extend(lock.leftovers()?);
    let whole = copies.iter().find(|copy| is_ours(&copy.text, place));
    let whole = whole.and_then(|copy| String::from_utf8(copy.text.clone()).ok());
    let Some(whole) = whole else {
        let message = format!(
            "{} is half written, and no whole copy of it was found",
            place.file.display()
        );
        return Err(Error::config(message).with_hint(Hint::fixed(
            "look for its rescue file beside it, in the state folder and the temporary folder of the user who wrote it",
            "请在该文件旁边，以及写入它的用户的状态目录和临时目录中查找其 .rescue 文件",
        )));
    };
    let lock = put_back(lock, &whole)?;
    log::warn!(
        "{} was half written: it is whole again",
        place.file.display()
    );
    Ok((lock, true))
}

/// The text that a file should have by what a journal of this run holds, if it is another.
pub(super) fn needed(file: &Path, text: &str, journal: &Path) -> Result<Option<String>> {
    let bytes = durable::read(journal)?.unwrap_or_default();
    if bytes.is_empty() {
        return Ok(None);
    }
    let place = Place { file, profile: "" };
    let rescue = Text {
        bytes: &bytes,
        is_latest: false,
    };
    Ok(judge(text.as_bytes(), rescue, place, None)?.needed)
}

/// What a rescue file is good for. Neither: the file has all that it holds.
#[derive(Default)]
struct Worth {
    /// The text that the file should have.
    needed: Option<String>,
    /// Whether it cannot be understood, or holds a token that belongs to a state of the file that
    /// is gone.
    doubtful: bool,
}

impl Worth {
    const DOUBTFUL: Worth = Worth {
        needed: None,
        doubtful: true,
    };
}

/// What a rescue file holds.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    /// Whether the file was not changed after this was written.
    is_latest: bool,
}

fn judge(
    file: &[u8],
    rescue: Text<'_>,
    place: Place<'_>,
    given: Option<Fingerprint>,
) -> Result<Worth> {
    let mut worth = Worth::default();
    let rescued = match durable::entries(rescue.bytes) {
        // It is no copy of the file, and must not become one.
        Some(_) if file.is_empty() => return Err(emptied(place.file)),
        Some(Entries { text, is_whole, .. }) => {
            worth.doubtful = !is_whole;
            Document::parse(text.as_bytes()).ok()
        }
        None => whole(rescue.bytes, file),
    };
    let Some(rescued) = rescued else {
        return Ok(Worth::DOUBTFUL);
    };
    if file.is_empty() {
        worth.needed = Some(rescued.text().to_owned());
        return Ok(worth);
    }
    let document = understood(place.file, file)?;
    let mut edits = Vec::new();
    for section in rescued.sections() {
        let ours = place.of(section);
        let (Ok(theirs), Ok(own)) = (Pair::read(ours, &rescued), Pair::read(ours, &document))
        else {
            worth.doubtful = true;
            continue;
        };
        let Pair { api, tokens, spent } = theirs;
        let Some(successor) = &tokens.refresh_token else {
            continue;
        };
        let own = own.tokens.refresh_token;
        if own.as_ref().is_some_and(|own| token::same(own, successor)) {
            continue;
        }
        let own = own.as_ref().map(Fingerprint::of);
        let given = given.filter(|_| section == place.profile);
        if succeeds(own, given, spent.latest(), rescue.is_latest) {
            let change = Change {
                api,
                tokens: &tokens,
                keeps_expiry: false,
                spent: Some(&spent),
                app_token: None,
            };
            edits.push(edit(ours, &document, &change)?);
        } else {
            worth.doubtful = true;
        }
    }
    if !edits.is_empty() {
        let document = edited(place.file, &document, edits.iter())?;
        worth.needed = Some(document.text().to_owned());
    }
    Ok(worth)
}

/// Whether a pair takes the place of what the file holds: it does if it came of that, of what is given
/// to this run, or of a profile that has no token, where nobody changed the file since.
fn succeeds(
    own: Option<Fingerprint>,
    given: Option<Fingerprint>,
    spent: Option<Fingerprint>,
    is_latest: bool,
) -> bool {
    match own {
        None => is_latest,
        own if own == spent => true,
        _ => given.is_some() && given == spent && is_latest,
    }
}

fn emptied(file: &Path) -> Error {
    let message = format!(
        "{} is empty, but its rescue file has pairs for it; nothing was changed",
        file.display()
    );
    Error::config(message).with_hint(Hint::fixed(
        "bring the file back, as from a backup, and run again: the pairs are then put into it",
        "请恢复该文件（例如从备份），然后重新运行：其中的令牌对会自动写回",
    ))
}

/// A rescue text, if all of it was written, be it without its first byte: a save leaves that as it
/// finds it, and what else is missing reads as NUL.
fn whole(rescue: &[u8], file: &[u8]) -> Option<Document> {
    if !is_torn(rescue) {
        return Document::parse(rescue).ok();
    }
    let first = [file.first().copied().unwrap_or(b'['), b'['];
    first.into_iter().find_map(|first| {
        let mut bytes = rescue.to_vec();
        bytes[0] = first;
        Document::parse(&bytes).ok()
    })
}

/// Whether a text is one that a save wrote, to the end of a profile's section.
fn is_ours(text: &[u8], place: Place<'_>) -> bool {
    let Ok(document) = Document::parse(text) else {
        return false;
    };
    durable::entries(text).is_none()
        && document.sections().any(|section| {
            let pair = Pair::read(place.of(section), &document);
            pair.is_ok_and(|pair| pair.spent.latest().is_some())
        })
}

fn put_back(lock: Lock, text: &str) -> Result<Lock> {
    let mut room = lock.reserve_to_put_back(text.len() as u64)?;
    match room.save(text.as_bytes()) {
        Ok(()) => Ok(room.release()),
        Err(error) => {
            let message = format!(
                "cannot put back what an earlier run saved: {}",
                error.source
            );
            Err(Error::new(Kind::Temporary, message))
        }
    }
}
