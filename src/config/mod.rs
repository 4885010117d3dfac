//! The configuration file, as the refresh asks for it: profiles, keys, and which source wins.
//!
//! Promises:
//! - One run at a time works on a file; those that queued share what the first one got (P4).
//! - A key that readers could disagree about is refused before anything is sent, whether this run
//!   needs it or not.
//!
//! Knows no network. [`document`] reads and edits text, [`profile`] knows the keys, [`order`] decides
//! what is sent, [`save`] and [`replay`] what is written, [`durable`] alone touches the disk.

mod document;
mod durable;
mod order;
mod profile;
mod replay;
mod save;

use std::time::Instant;

use jiff::Timestamp;
use secrecy::SecretString;

use crate::error::{Error, Hint, Result};
use crate::protocol::{self, Api};
use crate::token::{self, Fingerprint, Tokens};
use document::Document;
use durable::Lock;
pub(crate) use order::{AppProof, Given, Order};
pub(crate) use profile::Place;
use profile::{Pair, Profile, understood, unknown_api};
use replay::Replayed;
use save::{Plan, ReservedFile};

/// Space set aside beyond the file's own length: two tokens of the documented 4 KB many times over.
const SPARE_BYTES: u64 = 64 << 10;

/// What a file held before this run queued for it.
#[derive(Debug)]
pub(crate) enum Before {
    /// It could not be read, so that nothing follows from what it holds later.
    Unknown,
    /// This refresh token, or none, and an access token of this scope.
    Holding {
        refresh_token: Option<Fingerprint>,
        scope: Option<String>,
    },
}

/// Looks at the file without waiting for anybody (P4).
pub(crate) fn look(place: Place<'_>) -> Before {
    let seen = durable::read(place.file).and_then(|bytes| {
        let document = understood(place.file, &bytes.unwrap_or_default())?;
        Pair::read(place, &document)
    });
    match seen {
        Ok(pair) => Before::Holding {
            refresh_token: pair.fingerprint(),
            scope: pair.tokens.scope,
        },
        Err(_) => Before::Unknown,
    }
}

/// Waits until this run alone may work on the file, puts back what a dead run left, and reads it.
pub(crate) fn lock<'a>(
    place: Place<'a>,
    given: Given<'a>,
    deadline: Instant,
) -> Result<LockedFile<'a>> {
    check_profile_name(place.profile)?;
    given.check()?;
    // A file is made only for a run that brings what belongs in it, or finds it there.
    let missing = Some(given.missing()).filter(|_| !given.is_enough());
    let missing = missing.filter(|_| !durable::has_leftover(place.file));
    let lock = Lock::acquire(place.file, missing.as_ref(), deadline)?;
    fail_point!("after-lock");
    let given_token = given.refresh_token.map(Fingerprint::of);
    let (lock, replayed) = replay::replay(lock, place, given_token)?;
    let Replayed {
        changed,
        reply_lost,
    } = replayed;
    let (document, profile) = read(place, &lock)?;
    lock.warn_if_readable_by_others();
    Ok(LockedFile {
        place,
        given,
        api: api(place, given, &profile)?,
        lock,
        document,
        profile,
        had_company: !changed,
        reply_lost,
    })
}

fn read(place: Place<'_>, lock: &Lock) -> Result<(Document, Profile)> {
    let document = understood(place.file, &lock.read()?)?;
    let profile = Profile::read(place, &document)?;
    Ok((document, profile))
}

/// The endpoint that a profile is refreshed at.
fn api(place: Place<'_>, given: Given<'_>, profile: &Profile) -> Result<Api> {
    let api = given.api.or(profile.pair.api);
    api.ok_or_else(|| unknown_api(place))
}

/// A file that no other run can touch.
pub(crate) struct LockedFile<'a> {
    place: Place<'a>,
    given: Given<'a>,
    /// The endpoint this profile is refreshed at.
    api: Api,
    lock: Lock,
    document: Document,
    profile: Profile,
    /// Whether another run can have refreshed it just now. Not if this run itself put back what a
    /// dead one left, or has not let go of the file.
    had_company: bool,
    /// Whether a run died when it may have sent a token.
    reply_lost: bool,
}

impl<'a> LockedFile<'a> {
    /// Which file it is, and which section of it.
    pub(crate) fn place(&self) -> Place<'a> {
        self.place
    }

    /// The endpoint this profile is refreshed at.
    pub(crate) fn api(&self) -> Api {
        self.api
    }

    /// Whether a run on this file died when it may have sent a token, perhaps this profile's.
    pub(crate) fn reply_lost(&self) -> bool {
        self.reply_lost
    }

    /// The tokens in the file, if another run rotated them while this one queued, they are still
    /// valid, and this run asks for nothing else: it brings no new refresh token and names no other
    /// scope or endpoint (P4).
    pub(crate) fn saved_since(&self, before: &Before, now: Timestamp) -> Option<&Tokens> {
        let Before::Holding {
            refresh_token,
            scope,
        } = before
        else {
            return None;
        };
        let tokens = &self.profile.pair.tokens;
        let current = self.profile.pair.fingerprint();
        let changed = current.is_some() && current != *refresh_token;
        let valid = tokens.access_token.is_some() && tokens.access_expires_at? > now;
        let fits = self.scope_fits(scope.as_deref().unwrap_or_default());
        let shared = changed && self.had_company && fits && self.profile.pair.api == Some(self.api);
        (shared && valid && self.new_token().is_none()).then_some(tokens)
    }

    /// Whether the saved token is as wide as this run asks; without a wish, as wide as the last.
    fn scope_fits(&self, last: &str) -> bool {
        let saved = self.profile.pair.tokens.scope.as_deref();
        let saved = saved.unwrap_or_default();
        match self.scope() {
            Ok(Some(asked)) => protocol::covers(saved, &asked) && protocol::covers(&asked, saved),
            Ok(None) => !self.api.names_scope() || protocol::covers(saved, last),
            Err(_) => false,
        }
    }

    /// The refresh token given from outside, unless the file knows it: then it stands for its
    /// successor in the file (P9).
    fn new_token(&self) -> Option<&SecretString> {
        let given = self.given.refresh_token?;
        let Pair { tokens, spent, .. } = &self.profile.pair;
        let own = tokens.refresh_token.as_ref();
        let known =
            own.is_some_and(|own| token::same(own, given)) || spent.lists(Fingerprint::of(given));
        (!known).then_some(given)
    }

    /// Whether this run made the file: then nothing of it must stay unless it gets tokens.
    pub(crate) fn is_made(&self) -> bool {
        self.lock.is_made()
    }

    /// Reads the file again before another attempt: a program that knows no locks may have put a
    /// token there that is worth more than asking again (P8), or another file in its place.
    pub(crate) fn again(mut self, deadline: Instant) -> Result<Self> {
        if !self.lock.is_current() {
            let LockedFile {
                place, given, lock, ..
            } = self;
            drop(lock);
            return self::lock(place, given, deadline);
        }
        (self.document, self.profile) = read(self.place, &self.lock)?;
        self.api = api(self.place, self.given, &self.profile)?;
        self.had_company = false;
        self.reply_lost = false;
        Ok(self)
    }

    /// Makes room for the tokens that this order will bring: the edit is tried on the text, the way
    /// of saving is chosen, the space is set aside (P1).
    pub(crate) fn reserve(self, order: &Order) -> Result<ReservedFile<'a>> {
        let sent = order.refresh_token.clone();
        let given = self.given.refresh_token.map(Fingerprint::of);
        let Pair { tokens, spent, .. } = &self.profile.pair;
        let plan = Plan {
            is_new: self.new_token().is_some(),
            spent: spent.after(given, Fingerprint::of(&sent)),
            sent,
            place: self.place,
            api: self.api,
            old: tokens.refresh_token.clone(),
            document: self.document,
        };
        let room = self.lock.reserve(plan.proved_length()? + SPARE_BYTES)?;
        fail_point!("after-reserve");
        Ok(ReservedFile {
            plan,
            given: self.given,
            profile: self.profile,
            room,
        })
    }
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
