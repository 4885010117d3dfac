//! All profiles of a file: as they are seen, and as they are locked.
//!
//! [`LockedProfiles::reserve`] makes them a [`Ledger`], which can save.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::document::{Document, Edit};
use super::durable::{self, Lock, Stamp};
use super::ledger::Ledger;
use super::profile::{self, Place, understood};
use super::replay::{self, Replayed};
use super::save::{first_read, trial};
use super::{Given, View};
use crate::error::Result;
use crate::token::Tokens;

/// The profiles of a file as it was at one moment.
pub(crate) struct Profiles<'a> {
    pub(super) file: &'a Path,
    pub(super) given: Given<'a>,
    pub(super) document: Arc<Document>,
}

impl<'a> Profiles<'a> {
    /// The names of the sections that have a refresh token, in the order of the file.
    pub(crate) fn names(&self) -> Vec<String> {
        let sections = self.document.sections();
        let profiles = sections.filter(|name| profile::has_refresh_token(&self.document, name));
        profiles.map(str::to_owned).collect()
    }

    /// One of them.
    pub(crate) fn view(&self, profile: &'a str) -> Result<View<'a>> {
        let place = Place {
            file: self.file,
            profile,
        };
        super::check_profile_name(profile)?;
        View::in_document(place, self.given, Arc::clone(&self.document))
    }
}

/// Looks at all profiles of a file without waiting for anybody.
pub(crate) fn look_at_all<'a>(file: &'a Path, given: Given<'a>) -> Result<Profiles<'a>> {
    given.check()?;
    let bytes = durable::read(file)?.ok_or_else(|| durable::does_not_exist(file))?;
    Ok(Profiles {
        file,
        given,
        document: Arc::new(understood(file, &bytes)?),
    })
}

/// All profiles of a file that no other run can touch.
pub(crate) struct LockedProfiles<'a> {
    profiles: Profiles<'a>,
    lock: Lock,
    stamp: Option<Stamp>,
    had_company: bool,
    reply_lost: bool,
}

/// Waits until this run alone may work on the file, puts back what a dead run left, and reads it.
/// `before` is what it said before this run queued for it.
pub(crate) fn lock_all<'a>(
    file: &'a Path,
    given: Given<'a>,
    before: Option<&Profiles<'_>>,
    deadline: Instant,
) -> Result<LockedProfiles<'a>> {
    given.check()?;
    let place = Place { file, profile: "" };
    let missing = Some(given.missing()).filter(|_| !durable::has_leftover(file));
    let lock = Lock::acquire(file, missing.as_ref(), deadline)?;
    let before = before.map(|before| &before.document);
    // A file that is half written is waited for before anything is judged by it.
    let _ = first_read(file, &lock, before);
    let (lock, replayed) = replay::replay(lock, place, None)?;
    let Replayed {
        changed,
        reply_lost,
    } = replayed;
    let stamp = durable::stamp(file);
    let document = first_read(file, &lock, before)?;
    super::warn_if_readable_by_others(place);
    Ok(LockedProfiles {
        profiles: Profiles {
            file,
            given,
            document,
        },
        lock,
        stamp,
        had_company: !changed,
        reply_lost,
    })
}

impl<'a> LockedProfiles<'a> {
    pub(crate) fn profiles(&self) -> &Profiles<'a> {
        &self.profiles
    }

    /// A profile's tokens, if another run got them while this one queued, and they are what this
    /// one asks for (P4).
    pub(crate) fn saved_since<'v>(
        &self,
        view: &'v View<'_>,
        before: &View<'_>,
        now: Timestamp,
    ) -> Option<&'v Tokens> {
        view.saved_since(before, now).filter(|_| self.had_company)
    }

    /// Whether a run on this file died when it may have sent a token.
    pub(crate) fn reply_lost(&self) -> bool {
        self.reply_lost
    }

    /// Makes room for what these profiles will get. Those whose section cannot take it get an error of
    /// their own.
    pub(crate) fn reserve(self, due: &[View<'a>]) -> Result<(Ledger<'a>, Vec<Result<()>>)> {
        let Profiles { file, document, .. } = &self.profiles;
        let trials: Vec<Result<Edit<'_>>> = due.iter().map(trial).collect();
        let sound: Vec<&Edit<'_>> = trials.iter().flatten().collect();
        let mut proofs = proofs(file, document, &sound).into_iter();
        let proofs = trials.iter().map(|trial| match trial {
            Ok(_) => proofs.next().unwrap_or(Ok(())),
            Err(error) => Err(error.again()),
        });
        let proofs = proofs.collect();
        let LockedProfiles {
            profiles,
            lock,
            stamp,
            ..
        } = self;
        let ledger = Ledger::open(profiles, lock, stamp, due)?;
        Ok((ledger, proofs))
    }
}

/// Tries edits; all at once, and those of a half that fails apart.
fn proofs(file: &Path, document: &Document, edits: &[&Edit<'_>]) -> Vec<Result<()>> {
    let Err(error) = profile::edited(file, document, edits.iter().copied()) else {
        return edits.iter().map(|_| Ok(())).collect();
    };
    if edits.len() <= 1 {
        return vec![Err(error)];
    }
    let (first, second) = edits.split_at(edits.len() / 2);
    let mut proofs_of_all = proofs(file, document, first);
    proofs_of_all.append(&mut proofs(file, document, second));
    proofs_of_all
}
