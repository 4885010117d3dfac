//! Puts back what a dead run could not save (P7).
//!
//! Promises:
//! - A torn file is made whole from its rescue copy before anybody reads it (P3).
//! - A pair is taken from a rescue file only where its predecessor still stands: in the file, or in
//!   this run's own `-r`. It is saved like any other before the rescue file goes.
//! - A rescue file that does not fit is kept, under a name of its own, and named.

use super::document::Document;
use super::durable::{Leftover, Lock, Room, is_torn};
use super::profile::{Place, Profile, edit, understood};
use crate::error::{Error, Result};
use crate::token::{self, Fingerprint};

/// Works through what dead runs left. Says whether the file has changed.
pub(super) fn replay(
    mut lock: Lock,
    place: Place<'_>,
    given: Option<Fingerprint>,
) -> Result<(Lock, bool)> {
    let mut changed = false;
    for leftover in lock.leftovers()? {
        let name = leftover.path.display().to_string();
        match judge(&lock, &leftover, place, given)? {
            Fit::Needed(text) => {
                lock = put_back(lock, &text)?;
                leftover.remove()?;
                changed = true;
                log::warn!("{name} held what an earlier run could not save: it is saved now");
            }
            Fit::AlreadyThere => leftover.remove()?,
            Fit::None => {
                let aside = leftover.set_aside()?;
                let aside = aside.display();
                log::warn!("{name} does not fit the file any more: it was kept as {aside}");
            }
        }
    }
    Ok((lock, changed))
}

/// What a rescue file is good for.
enum Fit {
    /// The file should have this text.
    Needed(String),
    /// The file has all that it holds.
    AlreadyThere,
    /// It cannot be understood, or belongs to a state of the file that is gone.
    None,
}

fn judge(
    lock: &Lock,
    leftover: &Leftover,
    place: Place<'_>,
    given: Option<Fingerprint>,
) -> Result<Fit> {
    let file = lock.read()?;
    let rescued = match Document::parse(&leftover.text) {
        Ok(rescued) => rescued,
        Err(_) if is_torn(&file) => {
            let (torn, rescue) = (place.file.display(), leftover.path.display());
            let message = format!("{torn} is half written, and {rescue} is not whole either");
            return Err(Error::config(message));
        }
        Err(_) => return Ok(Fit::None),
    };
    if is_torn(&file) {
        return Ok(Fit::Needed(rescued.text().to_owned()));
    }
    let mut document = understood(place.file, &file)?;
    let mut fit = Fit::AlreadyThere;
    for section in rescued.sections() {
        let theirs = Place {
            file: &leftover.path,
            profile: section,
        };
        let theirs = Profile::read(theirs, &rescued)?;
        let ours = Place {
            profile: section,
            ..place
        };
        let Some(successor) = &theirs.tokens.refresh_token else {
            continue;
        };
        let own = Profile::read(ours, &document)?.tokens.refresh_token;
        let is_successor = own.as_ref().is_some_and(|own| token::same(own, successor));
        let is_predecessor = match own.as_ref().map(Fingerprint::of) {
            None => true,
            own => own == theirs.spent.latest(),
        };
        let is_ours = section == place.profile && given.is_some_and(|g| theirs.spent.lists(g));
        if is_successor {
            continue;
        }
        if is_predecessor || is_ours {
            document = edit(ours, &document, &theirs.tokens, true, Some(&theirs.spent))?;
            fit = Fit::Needed(document.text().to_owned());
        } else if let Fit::AlreadyThere = fit {
            fit = Fit::None;
        }
    }
    Ok(fit)
}

fn put_back(lock: Lock, text: &str) -> Result<Lock> {
    let mut room: Room = lock.reserve_to_put_back(text.len() as u64)?;
    match room.save(text.as_bytes()) {
        Ok(()) => Ok(room.release()),
        Err(error) => Err(Error::temporary(format!(
            "cannot put back saved tokens: {}",
            error.source
        ))),
    }
}
