//! The configuration file, as the refresh asks for it: profiles, keys, and which source wins.
//!
//! Promises:
//! - One run at a time works on a file; those that queued share what the first one got (P4).
//! - A key that readers could disagree about is refused before anything is sent, whether this run
//!   needs it or not.
//!
//! Knows no network. [`document`] reads and edits text, [`profile`] knows the keys, [`view`] sees them
//! with what was given, [`order`] decides what is sent, [`save`] and [`replay`] what is written, [`profiles`] and [`ledger`] the same for many profiles at once, [`mod@status`] only tells, [`durable`] alone touches the disk.

pub(crate) mod document;
mod durable;
mod ledger;
mod order;
mod profile;
mod profiles;
mod replay;
mod save;
mod status;
mod view;

use std::time::Instant;

use jiff::Timestamp;

use crate::error::{Error, Hint, Result};
use crate::token::{self, Fingerprint, Tokens};
use durable::Lock;
pub(crate) use ledger::{Group, Ledger, News, SavedGroup};
pub(crate) use order::{AppProof, LoginOrder, Order};
pub(crate) use profile::Place;
pub(crate) use profiles::{LockedProfiles, Profiles, lock_all, look_at_all};
use replay::Replayed;
use save::{Plan, ReservedFile};
pub(crate) use status::{Held, Next, Status, mode, rescue_files, status};
pub(crate) use view::{Given, View};

/// Space set aside beyond the file's own length: two tokens of the documented 4 KB many times over.
const SPARE_BYTES: u64 = 64 << 10;

/// Waits until this run alone may work on the file, puts back what a dead run left, and reads it.
/// `before` is what it said before.
pub(crate) fn lock<'a>(
    place: Place<'a>,
    given: Given<'a>,
    before: Option<&View<'_>>,
    deadline: Instant,
) -> Result<LockedFile<'a>> {
    check_profile_name(place.profile)?;
    given.check()?;
    // A file is made only for a run that brings what belongs in it, or finds it there.
    let missing = Some(given.missing()).filter(|_| !given.is_enough());
    let missing = missing.filter(|_| !durable::has_leftover(place.file));
    locked(place, given, before, missing.as_ref(), deadline)
}

/// The same for a login, which makes the file if it is missing.
pub(crate) fn lock_for_login<'a>(
    place: Place<'a>,
    given: Given<'a>,
    deadline: Instant,
) -> Result<LockedFile<'a>> {
    check_profile_name(place.profile)?;
    given.check()?;
    locked(place, given, None, None, deadline)
}

fn locked<'a>(
    place: Place<'a>,
    given: Given<'a>,
    before: Option<&View<'_>>,
    if_missing: Option<&Hint>,
    deadline: Instant,
) -> Result<LockedFile<'a>> {
    let lock = Lock::acquire(place.file, if_missing, deadline)?;
    fail_point!("after-lock");
    // A file that is half written is waited for before anything is judged by it.
    let _ = save::first_read(place.file, &lock, before.map(|before| &before.document));
    let given_token = given.refresh_token.map(Fingerprint::of);
    let (lock, replayed) = replay::replay(lock, place, given_token)?;
    let Replayed {
        changed,
        reply_lost,
    } = replayed;
    let view = View::of(place, given, &lock.read()?, before)?;
    warn_if_readable_by_others(place);
    Ok(LockedFile {
        view,
        lock,
        had_company: !changed,
        reply_lost,
    })
}

/// Looks at the file without waiting for anybody.
pub(crate) fn look<'a>(place: Place<'a>, given: Given<'a>) -> Result<View<'a>> {
    check_profile_name(place.profile)?;
    given.check()?;
    let bytes = durable::read(place.file)?;
    View::of(place, given, &bytes.unwrap_or_default(), None)
}

/// A file that no other run can touch.
pub(crate) struct LockedFile<'a> {
    view: View<'a>,
    lock: Lock,
    /// Whether another run can have refreshed it just now. Not if this run itself put back what a
    /// dead one left, or has not let go of the file.
    had_company: bool,
    /// Whether a run died when it may have sent a token.
    reply_lost: bool,
}

impl<'a> LockedFile<'a> {
    /// What it says.
    pub(crate) fn view(&self) -> &View<'a> {
        &self.view
    }

    /// The tokens in the file, if another run got them while this one queued, and they are what this
    /// one asks for (P4).
    pub(crate) fn saved_since(&self, before: Option<&View<'_>>, now: Timestamp) -> Option<&Tokens> {
        self.view
            .saved_since(before?, now)
            .filter(|_| self.had_company)
    }

    /// Whether a run on this file died when it may have sent a token, perhaps this profile's.
    pub(crate) fn reply_lost(&self) -> bool {
        self.reply_lost
    }

    /// Whether this run made the file: then nothing of it must stay unless it gets tokens.
    pub(crate) fn is_made(&self) -> bool {
        self.lock.is_made()
    }

    /// Reads the file again before another attempt: a program that knows no locks may have put a
    /// token there that is worth more than asking again (P8), or another file in its place.
    pub(crate) fn again(mut self, deadline: Instant) -> Result<Self> {
        let View { place, given, .. } = self.view;
        if !self.lock.is_current() {
            drop(self);
            return lock(place, given, None, deadline);
        }
        self.view = View::of(place, given, &self.lock.read()?, Some(&self.view))?;
        self.had_company = false;
        self.reply_lost = false;
        Ok(self)
    }

    /// Makes room for the tokens that this order will bring: the edit is tried on the text, the way
    /// of saving is chosen, the space is set aside (P1).
    pub(crate) fn reserve(self, order: &Order) -> Result<ReservedFile<'a>> {
        room(self.lock, Plan::refresh(self.view, order))
    }

    /// The same for the tokens that a consent will bring.
    pub(crate) fn reserve_for_login(self) -> Result<ReservedFile<'a>> {
        room(self.lock, Plan::login(self.view))
    }
}

/// Reports a file that others can read, with the command that mends it.
pub(crate) fn warn_if_readable_by_others(place: Place<'_>) {
    durable::warn_if_readable_by_others(place.file);
}

fn room(lock: Lock, plan: Plan<'_>) -> Result<ReservedFile<'_>> {
    let room = lock.reserve(plan.proved_length()? + SPARE_BYTES)?;
    fail_point!("after-reserve");
    Ok(ReservedFile { plan, room })
}

fn check_profile_name(name: &str) -> Result<()> {
    if token::is_plausible(name) && !name.contains(']') && name != "DEFAULT" {
        return Ok(());
    }
    Err(
        Error::config("the profile's name cannot be that of a section").with_hint(Hint::fixed(
            "a profile is a section of the file, like TOKEN; [DEFAULT] is none",
            "profile 是配置文件中的一个节，例如 TOKEN；[DEFAULT] 不能用作 profile",
        )),
    )
}
