//! What a refresh needs from a store of logins. Code above this does not know which store it is.
//!
//! Promises of every store:
//! - A [`Claim`] is the exclusive right, among all runs anywhere, to spend this login's token (P4).
//! - A [`Reservation`] is the proof that an answer can be saved (P1). It saves one pair, once.
//! - A pair that was handed to [`Reservation::save`] is not lost: it is in the store, or where the
//!   error says, or in the error itself (P7).
//!
//! The types enforce the order: only a store gives a claim, only a claim a reservation.

pub(crate) mod file;
#[cfg(feature = "postgres")]
pub(crate) mod import;
mod places;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod record;

use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::driver::Driver;
use crate::error::{Error, Hint, Result};
use crate::profile::{Origin, Overrides, RefreshPlan, Snapshot, Successor, View};
use crate::token::{Fingerprint, Tokens};

/// The prefix of a store's key as text, so that people and secret scanners recognise one.
pub(crate) const KEY_PREFIX: &str = "frkey_";

/// A PostgreSQL database that keeps logins, and what their secrets are sealed with.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) address: SecretString,
    pub(crate) keys: SecretString,
}

impl Database {
    /// The database at `address`, in libpq's form (`postgres://user@host/db`), with
    /// the keys that `feishu-refresh store key` prints: one or several, separated by white space; the
    /// first seals, all open.
    pub fn new(address: impl Into<SecretString>, keys: impl Into<SecretString>) -> Self {
        Database {
            address: address.into(),
            keys: keys.into(),
        }
    }

    /// The address without its password.
    pub(crate) fn shown(&self) -> String {
        shown(self.address.expose_secret().trim())
    }
}

/// A run, and a time.
#[derive(Debug, Clone)]
pub(crate) struct Mention {
    /// Host and process, for display.
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

/// What the server said about a stored token.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) at: Timestamp,
    pub(crate) words: String,
}

/// What a store knows about a login besides its values.
#[derive(Debug)]
pub(crate) struct Notes {
    pub(crate) name: String,
    /// The lease's holder, and its end.
    pub(crate) lease: Option<Mention>,
    pub(crate) refused: Option<Refused>,
    /// Who sent a token last, and when.
    pub(crate) sender: Option<Mention>,
    /// Whether the server calls its token dead.
    pub(crate) is_dead: bool,
    /// Whether it is being moved from a file.
    pub(crate) is_held: bool,
}

/// How many logins of a store are in which state.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) all: i64,
    /// Their access token is valid.
    pub(crate) valid: i64,
    /// It has expired, or its expiry is not known.
    pub(crate) due: i64,
    /// Their refresh token expires within the time that was asked for.
    pub(crate) ending: i64,
    /// It has expired.
    pub(crate) ended: i64,
    /// They failed, and are tried again later.
    pub(crate) failing: i64,
    /// The server calls their token dead.
    pub(crate) refused: i64,
    /// They are being moved from a file.
    pub(crate) held: i64,
}

/// A database's address without secrets. Anything else is not shown.
pub(crate) fn shown(url: &str) -> String {
    let is_one = |(scheme, _): &(&str, &str)| matches!(*scheme, "postgres" | "postgresql");
    let Some((scheme, rest)) = url.split_once("://").filter(is_one) else {
        return "the store".to_owned();
    };
    // Everything up to the first @ may be credentials.
    let (user, place) = match rest.split_once('@') {
        Some((user, place)) => (user.split(':').next().unwrap_or_default(), place),
        None => ("", rest),
    };
    let at = if user.is_empty() { "" } else { "@" };
    let (place, query) = place.split_once('?').unwrap_or((place, ""));
    if place.contains('@') {
        return format!("{scheme}://…");
    }
    let is_secret = |pair: &&str| pair.starts_with("password=") || pair.starts_with("sslpassword=");
    let query: Vec<&str> = query.split('&').filter(|pair| !is_secret(pair)).collect();
    let query = query.join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{user}{at}{place}{mark}{query}")
}

/// Does something with the store that the options name.
macro_rules! on_store {
    ($options:expr, $shield:expr, |$store:ident| $work:expr) => {
        match &$options.store {
            None => {
                let $store = crate::store::file::FileStore::new(&$options.config_file, $shield);
                $work
            }
            #[cfg(feature = "postgres")]
            Some(database) => {
                let settings = $options.connection($shield);
                let $store = crate::store::postgres::PostgresStore::open(
                    database,
                    &settings,
                    $options.lock_timeout,
                    $options.refresh_token.as_ref(),
                )
                .map_err(crate::error::Error::before_sending)?;
                $work
            }
            #[cfg(not(feature = "postgres"))]
            Some(_) => Err(crate::store::no_postgres().before_sending()),
        }
    };
}
pub(crate) use on_store;

/// The error for a store that this program was built without.
#[cfg(not(feature = "postgres"))]
pub(crate) fn no_postgres() -> Error {
    let message = "this program was built without PostgreSQL";
    Error::config(message).with_hint(Hint::fixed(
        "build it with the feature postgres, or omit --store and FEISHU_STORE",
        "请启用 postgres 特性重新编译，或去掉 --store 与 FEISHU_STORE",
    ))
}

/// A place that keeps logins.
pub(crate) trait Store {
    type Claim: Claim;

    /// What it says about a login. Does not wait for other runs.
    fn look(&self, wanted: Wanted<'_>, driver: &Driver) -> Result<Snapshot>;

    /// Reports what a person should fix, though no run fails because of it.
    fn warn(&self) {}

    /// Whether a claim must create the store first. A failed run removes it again: no signal may come between.
    fn must_be_made(&self) -> bool;

    /// Waits, until `deadline`, for the exclusive right to spend this login. After that, whatever dead runs left is in
    /// the store. `before` is what the store said before.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if another run holds it for longer.
    async fn claim(&self, wanted: Wanted<'_>, deadline: Instant) -> Result<Self::Claim>;

    /// Releases what this run still holds of a login; `error` is what its refresh ended in, if in one. Another claim
    /// can follow.
    async fn give_back(&self, _profile: &str, _error: Option<&Error>) {}

    /// Closes its connections.
    async fn close(&self) {}
}

/// A store that gives many logins to one run.
pub(crate) trait ManyLogins: Store {
    /// Whether it gives all its logins at once, in an order that people know.
    const HAS_ORDER: bool;

    /// What it says about all logins that have a refresh token, in its order. None if it has no order.
    fn look_at_all(&self) -> Result<Vec<Named<Snapshot>>>;

    /// Does all waiting that must precede any risk, until `deadline`.
    async fn begin(&self, given: Overrides<'_>, due: &Due, deadline: Instant) -> Result<()>;

    /// Claims more of the due logins: a database at most `room` of them, a file all.
    async fn claim_more(&self, due: &Due, room: usize) -> Result<More<Self::Claim>>;

    /// Releases all that this run still holds: it is about to end.
    async fn give_all_back(&self) {}

    /// The pace that all runs share, if they do.
    fn slots(&self) -> Option<Rc<dyn Slots>> {
        None
    }
}

/// How many requests to one host may be in progress.
pub(crate) const MOST_REQUESTS: usize = 16;

/// Which logins a run over many logins refreshes, and how fast.
pub(crate) struct Due {
    /// Those whose access token is not valid for longer than this;
    pub(crate) min_ttl: Option<Duration>,
    /// and those whose refresh token is not. Without both, all.
    pub(crate) keep_alive: Option<Duration>,
    /// A store shared by many runs leaves out what was refreshed since then.
    pub(crate) begun: Instant,
    /// The time between two requests to one app.
    pub(crate) spacing: Duration,
    /// The longest wait that a server may ask for.
    pub(crate) max_wait: Duration,
}

impl Due {
    /// Whether a login is valid long enough, so that it is left out.
    pub(crate) fn leaves_out(&self, view: &View<'_>) -> bool {
        let (min_ttl, keep_alive) = (self.min_ttl.map(signed), self.keep_alive.map(signed));
        (min_ttl.is_some() || keep_alive.is_some())
            && min_ttl.is_none_or(|least| view.lasting(least).is_some())
            && keep_alive.is_none_or(|least| view.is_alive_for(least))
    }
}

fn signed(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}

/// What a run over many logins does next.
pub(crate) enum More<C> {
    /// These logins are next.
    Logins(Vec<Named<Next<C>>>),
    /// None yet, but perhaps after this time.
    Later(Duration),
    /// No more.
    Nothing,
}

/// What is next for a login.
pub(crate) enum Next<C> {
    Refresh(C),
    /// It is valid long enough.
    LeftOut(Box<Snapshot>),
}

/// A pace that runs on many hosts share.
pub(crate) trait Slots {
    /// When the next request for a login's app may go out, by [`machine::uptime`]; none if there is no pace for it. Two
    /// are `spacing` apart; an error if the app is held for longer than `max_wait`.
    ///
    /// [`machine::uptime`]: crate::platform::machine::uptime
    fn next<'a>(&'a self, login: &'a str, spacing: Duration, max_wait: Duration) -> Slot<'a>;

    /// The server wants no request for a login's app for this long.
    fn hold<'a>(&'a self, login: &'a str, wait: Duration) -> Held<'a>;
}

/// A pending slot.
pub(crate) type Slot<'a> = Pin<Box<dyn Future<Output = Result<Option<Duration>>> + 'a>>;

/// A pending hold.
pub(crate) type Held<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A login's name, and the result of reading it.
pub(crate) type Named<T> = (String, Result<T>);

/// The login that a claim is for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'w> {
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
