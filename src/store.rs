//! What a refresh needs from a store of logins. Code above this does not know which store it is.
//!
//! Promises of every store:
//! - A [`Claim`] is the exclusive right, among all runs anywhere, to spend this login's token (P4).
//! - A [`Reservation`] is the proof that an answer can be saved (P1). It saves one pair, once.
//! - A pair that was handed to [`Reservation::save`] is not lost: it is in the store, or where the
//!   error says, or in the error itself (P7).
//!
//! The types enforce the order: only a store gives a claim, only a claim a reservation.

pub(crate) mod database;
pub(crate) mod file;
#[cfg(feature = "postgres")]
pub(crate) mod import;
pub(crate) mod many;
pub(crate) mod notes;
pub(crate) mod open;
mod places;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod record;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::error::{Error, Hint, Result};
use crate::profile::{Origin, Overrides, RefreshPlan, Snapshot, Successor};
use crate::token::{Fingerprint, Tokens};

/// A place that keeps logins.
pub(crate) trait Store {
    type Claim: Claim;

    /// What it says about a login. Does not wait for other runs.
    fn look(&self, wanted: WantedLogin<'_>, driver: &Driver) -> Result<Snapshot>;

    /// Reports what a person should fix, though no run fails because of it.
    fn warn(&self) {}

    /// Whether a claim must create the store first. A failed run removes it again: no signal may come between.
    fn must_be_made(&self) -> bool;

    /// Waits, until `deadline`, for the exclusive right to spend this login. After that, whatever dead runs left is in
    /// the store. `before` is what the store said before.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if another run holds it for longer.
    async fn claim(&self, wanted: WantedLogin<'_>, deadline: Instant) -> Result<Self::Claim>;

    /// Releases what this run still holds of a login; `error` is what its refresh ended in, if in one. Another claim
    /// can follow.
    async fn give_back(&self, _profile: &str, _error: Option<&Error>) {}

    /// Closes its connections.
    async fn close(&self) {}
}

/// A login's name, and the result of reading it.
pub(crate) type PerLogin<T> = (String, Result<T>);

/// The login that a claim is for.
#[derive(Clone, Copy)]
pub(crate) struct WantedLogin<'w> {
    pub(crate) profile: &'w str,
    pub(crate) given: Overrides<'w>,
    /// Whether the login may be missing, since a consent will create it.
    pub(crate) is_for_login: bool,
}

/// The exclusive right to spend a login.
pub(crate) trait Claim: Sized {
    type Reservation: Reservation<Claim = Self>;

    /// What the store says about the login.
    fn snapshot(&self) -> &Snapshot;

    /// Whether another run can have refreshed the login while this one waited: false if this run itself restored what a
    /// dead one had left.
    fn had_company(&self) -> bool;

    /// Whether a run died after it sent this token, with unknown result.
    fn may_be_spent(&self, token: Fingerprint) -> bool;

    /// Whether the store exists only through this claim, and goes with it.
    fn has_made(&self) -> bool;

    /// Reads the login again: a program that does not use claims may have changed it.
    async fn look_again(&mut self) -> Result<()>;

    /// Makes sure that the claim outlasts a request, and says whether the login has changed: others may have had it
    /// meanwhile. May wait for them.
    ///
    /// # Errors
    /// As of [`Store::claim`].
    async fn renew(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Nothing is sent for this long: others may have the login until the claim is renewed. `is_in_doubt` says whether
    /// the result of the sent token is unknown.
    async fn rest(&mut self, _pause: Duration, _is_in_doubt: bool) {}

    /// Notes for other runs and for people that the server refused this token. Returns whether the login still holds
    /// it: otherwise it was renewed meanwhile.
    async fn note_refusal(&mut self, _token: Fingerprint, _refusal: &Error) -> Result<bool> {
        Ok(true)
    }

    /// Reserves space for what `origin` will bring. If the store no longer matches the plan, nothing is reserved, and
    /// the claim comes back with what the store says.
    ///
    /// # Errors
    /// What prevents saving a pair; nothing was spent.
    async fn reserve(
        self,
        origin: &Origin<'_>,
        given: Overrides<'_>,
        plan: Option<&RefreshPlan>,
    ) -> Result<Reserved<Self>>;
}

/// The result of reserving.
pub(crate) enum Reserved<C: Claim> {
    Room(C::Reservation),
    Changed(C),
}

/// The proof that one pair can be saved.
pub(crate) trait Reservation: Sized {
    type Claim: Claim<Reservation = Self>;
    type Saved: Saved;

    /// The login's tokens when it was made, and which are known to be spent.
    fn snapshot(&self) -> &Snapshot;

    /// As of the claim that it came from: see [`Claim::has_made`].
    fn has_made(&self) -> bool;

    /// The tokens that this login is known to have spent, the latest last.
    fn spent(&self) -> Vec<Fingerprint>;

    /// Saves a pair. Writes it to the journal first. Retries if the store fails; not for long once `is_hurried`.
    ///
    /// # Errors
    /// [`crate::Kind::Unsaved`], naming what holds the pair, or with the pair itself.
    async fn save(self, successor: Successor, is_hurried: &dyn Fn() -> bool)
    -> Result<Self::Saved>;

    /// Keeps a reply that may hold the only copy of a pair, and says where.
    ///
    /// # Errors
    /// [`crate::Kind::Unsaved`] with the reply itself, if it cannot be stored anywhere.
    fn keep_reply(&self, reply: &[u8]) -> Result<KeptReply>;

    /// Releases the space when there is nothing to save.
    fn release(self) -> Self::Claim;
}

/// A reply that could not be understood, on disk.
pub(crate) struct KeptReply {
    pub(crate) path: PathBuf,
    /// How a person gets at its content.
    pub(crate) hint: Hint,
}

/// A pair that is saved. The login stays claimed as long as this lives.
pub(crate) trait Saved {
    /// What the login holds now.
    fn tokens(&self) -> &Tokens;

    /// The environment for a program started now, so that it does not wait for this run.
    fn lock_name(&self) -> Option<String>;
}
