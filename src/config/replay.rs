//! Puts back what a dead run could not save (P7).
//!
//! Promises:
//! - A torn file is made whole from its rescue copy before anybody reads it (P3).
//! - A pair is taken from a rescue file only where its predecessor still stands: in the file, or in
//!   this run's own `-r` if the file was not changed since; or where the file has none. It is saved
//!   like any other before the rescue file goes.
//! - A rescue file that does not fit is kept, under a name of its own, and named.

use super::document::Document;
use super::durable::{Leftover, Lock, is_torn};
use super::profile::{Change, Pair, Place, edit, understood};
use crate::error::{Error, Hint, Kind, Result};
use crate::protocol::Api;
use crate::token::{self, Fingerprint};

/// Works through what dead runs left. Says whether the file has changed.
pub(super) fn replay(
    lock: Lock,
    place: Place<'_>,
    given: Option<Fingerprint>,
) -> Result<(Lock, bool)> {
    let (mut lock, mut changed) = repair(lock, place)?;
    for leftover in lock.leftovers()? {
        let name = leftover.path.display().to_string();
        let rescue = Text {
            bytes: &leftover.text,
            is_latest: leftover.is_latest,
        };
        let worth = judge(&lock.read()?, rescue, place, given)?;
        if let Some(text) = worth.needed {
            lock = put_back(lock, &text)?;
            changed = true;
            log::warn!("{name} held what an earlier run could not save: it is saved now");
        }
        if worth.doubtful {
            let aside = leftover.set_aside();
            let aside = aside.display();
            log::warn!("{name} does not fit the file any more: it was kept as {aside}");
        } else {
            leftover.remove();
        }
    }
    Ok((lock, changed))
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

    fn needed(text: &str) -> Self {
        Worth {
            needed: Some(text.to_owned()),
            doubtful: false,
        }
    }
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
    let Ok(rescued) = Document::parse(rescue.bytes) else {
        let unfinished = is_torn(rescue.bytes);
        return if unfinished {
            complete(file, rescue, place, given)
        } else {
            Ok(Worth::DOUBTFUL)
        };
    };
    if file.is_empty() {
        return Ok(Worth::needed(rescued.text()));
    }
    let mut document = understood(place.file, file)?;
    let mut worth = Worth::default();
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
        let stands = match own.as_ref().map(Fingerprint::of) {
            None => rescue.is_latest,
            own if own == spent.latest() => true,
            _ => {
                let is_given = given.is_some() && given == spent.latest();
                is_given && rescue.is_latest && section == place.profile
            }
        };
        if stands {
            let change = Change {
                api: api.unwrap_or(Api::V1),
                tokens: &tokens,
                rotated: true,
                spent: Some(&spent),
                app_token: None,
            };
            document = edit(ours, &document, &change)?;
            worth.needed = Some(document.text().to_owned());
        } else {
            worth.doubtful = true;
        }
    }
    Ok(worth)
}

/// A rescue text that was written but for its first byte. It is whole if, with the file's first
/// byte, it is the very text that its own pair makes of the file.
fn complete(
    file: &[u8],
    rescue: Text<'_>,
    place: Place<'_>,
    given: Option<Fingerprint>,
) -> Result<Worth> {
    let mut bytes = rescue.bytes.to_vec();
    bytes[0] = *file.first().unwrap_or(&b'[');
    let completed = Text {
        bytes: &bytes,
        ..rescue
    };
    let worth = judge(file, completed, place, given)?;
    let derived = worth
        .needed
        .as_ref()
        .is_some_and(|needed| needed.as_bytes() == bytes);
    Ok(if derived && is_ours(&bytes, place) {
        worth
    } else {
        Worth::DOUBTFUL
    })
}

/// Whether a text is one that a save wrote, to the end of a profile's section.
fn is_ours(text: &[u8], place: Place<'_>) -> bool {
    let Ok(document) = Document::parse(text) else {
        return false;
    };
    document.sections().any(|section| {
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
