//! What the story asks of a place that keeps logins. Above this, nobody knows which place it is.
//!
//! Promises of every store:
//! - A [`Claim`] is the right to be the only run, anywhere, that spends this login's token (P4).
//! - A [`Reservation`] is the proof that an answer can be saved (P1). It saves one pair, once.
//! - A pair that was handed to [`Reservation::save`] is not lost: it is in the store, or where the
//!   error says, or in the error itself (P7).
//!
//! The types carry the order: only a store gives a claim, only a claim a reservation.

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
use crate::profile::{Given, Order, Origin, Snapshot, Successor, View};
use crate::token::{Fingerprint, Tokens};

/// A PostgreSQL database that keeps logins, and what their secrets are sealed with.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) address: SecretString,
    pub(crate) keys: SecretString,
}

impl Database {
    /// The database at `address`, which is written as libpq writes it (`postgres://user@host/db`), with
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

/// Somebody, and when.
#[derive(Debug, Clone)]
pub(crate) struct Mention {
    /// Whom people know by this: a host and a process.
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

/// What the server said of a token that a store holds.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) at: Timestamp,
    pub(crate) words: String,
}

/// What a store knows of a login beyond what it holds.
#[derive(Debug)]
pub(crate) struct Notes {
    pub(crate) name: String,
    /// Who has the lease, and until when.
    pub(crate) lease: Option<Mention>,
    pub(crate) refused: Option<Refused>,
    /// Who sent a token last, and when.
    pub(crate) sender: Option<Mention>,
    /// Whether the server calls its token dead.
    pub(crate) is_dead: bool,
    /// Whether it is on its way from a file.
    pub(crate) is_held: bool,
}

/// How many logins of a store stand how.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) all: i64,
    /// Their access token lives.
    pub(crate) valid: i64,
    /// It has ended, or its end is not known.
    pub(crate) due: i64,
    /// Their refresh token ends within a week.
    pub(crate) ending: i64,
    /// It has ended.
    pub(crate) ended: i64,
    /// They failed, and are tried again later.
    pub(crate) failing: i64,
    /// The server calls their token dead.
    pub(crate) refused: i64,
    /// They are on their way from a file.
    pub(crate) held: i64,
}

/// A database's address without what is secret in it. What is none is not shown.
pub(crate) fn shown(url: &str) -> String {
    let is_one = |(scheme, _): &(&str, &str)| matches!(*scheme, "postgres" | "postgresql");
    let Some((scheme, rest)) = url.split_once("://").filter(is_one) else {
        return "the store".to_owned();
    };
    // Up to the first @ stands who it is, whatever else is in there.
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
                )?;
                $work
            }
            #[cfg(not(feature = "postgres"))]
            Some(_) => Err(crate::store::no_postgres()),
        }
    };
}
pub(crate) use on_store;

/// The error for a store that this program was built without.
#[cfg(not(feature = "postgres"))]
pub(crate) fn no_postgres() -> Error {
    let message = "this program was built without PostgreSQL; nothing was sent";
    Error::config(message).with_hint(Hint::fixed(
        "build it with the feature postgres, or leave --store and FEISHU_STORE away",
        "请启用 postgres 特性重新编译，或去掉 --store 与 FEISHU_STORE",
    ))
}

/// A place that keeps logins.
pub(crate) trait Store {
    type Claim: Claim;

    /// What it says of a login. Waits for no other run.
    fn look(&self, wanted: Wanted<'_>, driver: &Driver) -> Result<Snapshot>;

    /// Tells of what a person should mend, though no run fails for it.
    fn warn(&self) {}

    /// Whether a claim must make the store first. If the run fails, it is gone again: no signal must
    /// come between.
    fn must_be_made(&self) -> bool;

    /// Waits until this run alone may spend this login, until `deadline`. Whatever dead runs left is
    /// in the store by then. `before` is what the store said before.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if another run holds it for longer.
    async fn claim(&self, wanted: Wanted<'_>, deadline: Instant) -> Result<Self::Claim>;

    /// Gives back what this run still holds of a login, whose story ended in this error, if in any. Another
    /// claim can follow.
    async fn give_back(&self, _profile: &str, _error: Option<&Error>) {}

    /// Takes leave of whatever it is in touch with.
    async fn close(&self) {}
}

/// A store that gives many logins to one run.
pub(crate) trait ManyLogins: Store {
    /// Whether it has all its logins to give at once, in an order that people know.
    const HAS_ORDER: bool;

    /// What it says of all logins that have a refresh token, in its order. None where it has no order.
    fn look_at_all(&self) -> Result<Vec<Named<Snapshot>>>;

    /// Waits for what must be waited for before anything is at stake, until `deadline`.
    async fn begin(&self, given: Given<'_>, due: &Due, deadline: Instant) -> Result<()>;

    /// Claims more of the logins that are due: a database no more than `room` of them, a file all.
    async fn claim_more(&self, due: &Due, room: usize) -> Result<More<Self::Claim>>;

    /// Gives back all that this run still holds: it is about to end.
    async fn give_all_back(&self) {}

    /// The pace that all runs keep together, if they do.
    fn slots(&self) -> Option<Rc<dyn Slots>> {
        None
    }
}

/// How many requests to one host may be under way.
pub(crate) const MOST_REQUESTS: usize = 16;

/// Which logins a run over many refreshes, and how fast.
pub(crate) struct Due {
    /// Those whose access token does not live for longer than this;
    pub(crate) min_ttl: Option<Duration>,
    /// and those whose refresh token does not. Without both, all.
    pub(crate) keep_alive: Option<Duration>,
    /// A store with many runs leaves out what was refreshed since then.
    pub(crate) begun: Instant,
    /// The time between two requests to one app.
    pub(crate) spacing: Duration,
    /// The longest wait that a server may ask for.
    pub(crate) max_wait: Duration,
}

impl Due {
    /// Whether a login lives long enough, so that it is left out.
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

/// What there is to do for a run over many logins.
pub(crate) enum More<C> {
    /// These logins are next.
    Logins(Vec<Named<Next<C>>>),
    /// Nothing yet, but perhaps after this time.
    Later(Duration),
    /// Nothing any more.
    Nothing,
}

/// What is next for a login.
pub(crate) enum Next<C> {
    Refresh(C),
    /// It lives long enough.
    LeftOut(Box<Snapshot>),
}

/// A pace that runs on many hosts keep together.
pub(crate) trait Slots {
    /// When the next request for a login's app may go out, by [`machine::uptime`]; none if nobody
    /// keeps a pace for it. `spacing` lies between two; an error if the app is held for longer than `max_wait`.
    ///
    /// [`machine::uptime`]: crate::platform::machine::uptime
    fn next<'a>(&'a self, login: &'a str, spacing: Duration, max_wait: Duration) -> Slot<'a>;

    /// The server wants no request for a login's app for so long.
    fn hold<'a>(&'a self, login: &'a str, wait: Duration) -> Held<'a>;
}

/// A slot that is waited for.
pub(crate) type Slot<'a> = Pin<Box<dyn Future<Output = Result<Option<Duration>>> + 'a>>;

/// A hold that is on its way to the others.
pub(crate) type Held<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A login's name, and what came of asking for it.
pub(crate) type Named<T> = (String, Result<T>);

/// The login that a claim is for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'w> {
    pub(crate) profile: &'w str,
    pub(crate) given: Given<'w>,
    /// Whether the login may be missing, since a consent brings it.
    pub(crate) is_for_login: bool,
}

/// The right to be the only run that spends a login.
pub(crate) trait Claim: Sized {
    type Reservation: Reservation<Claim = Self>;

    /// What the store says of the login.
    fn snapshot(&self) -> &Snapshot;

    /// Whether another run can have refreshed the login while this one waited: not if this run itself
    /// put back what a dead one had left.
    fn had_company(&self) -> bool;

    /// Whether a run died after it had sent this token, and nobody knows what came of it.
    fn may_be_spent(&self, token: Fingerprint) -> bool;

    /// Whether the store is there only by this claim, and gone without it.
    fn has_made(&self) -> bool;

    /// Reads the login again: a program that knows no claims may have changed it.
    async fn look_again(&mut self) -> Result<()>;

    /// Makes sure that the claim outlasts a request, and says whether the login is another than before: others
    /// may have had it meanwhile. May wait for them.
    ///
    /// # Errors
    /// As of [`Store::claim`].
    async fn renew(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Nothing is sent for so long: others may have the login until the claim is renewed. `is_in_doubt` says
    /// whether nobody knows what came of the token that was sent.
    async fn rest(&mut self, _pause: Duration, _is_in_doubt: bool) {}

    /// Notes for other runs and for people that the server refused this token. Says whether the login
    /// still holds it: else it was renewed meanwhile.
    async fn note_refusal(&mut self, _token: Fingerprint, _refusal: &Error) -> Result<bool> {
        Ok(true)
    }

    /// Makes room for what `origin` will bring. None of it is made if the store says something else
    /// by now than the order does: then the claim comes back, with what it says.
    ///
    /// # Errors
    /// What keeps a pair from being saved; nothing is spent by then.
    async fn reserve(
        self,
        origin: &Origin<'_>,
        given: Given<'_>,
        order: Option<&Order>,
    ) -> Result<Reserved<Self>>;
}

/// What came of a wish to reserve.
pub(crate) enum Reserved<C: Claim> {
    Room(C::Reservation),
    Changed(C),
}

/// The proof that one pair can be saved.
pub(crate) trait Reservation: Sized {
    type Claim: Claim<Reservation = Self>;
    type Saved: Saved;

    /// What the login's tokens were when it was made, and which are known to be spent.
    fn snapshot(&self) -> &Snapshot;

    /// As of the claim that it came from: see [`Claim::has_made`].
    fn has_made(&self) -> bool;

    /// The tokens that this login is known to have spent, the latest last.
    fn spent(&self) -> Vec<Fingerprint>;

    /// Saves a pair. The first thing that it does is to write the pair down. Where the store fails, it
    /// is tried again; not for long, once somebody `is_hurried`.
    ///
    /// # Errors
    /// [`crate::Kind::Unsaved`], naming what holds the pair, or with the pair itself.
    async fn save(self, successor: Successor, is_hurried: &dyn Fn() -> bool)
    -> Result<Self::Saved>;

    /// Keeps a reply that may hold the only copy of a pair, and says where.
    ///
    /// # Errors
    /// [`crate::Kind::Unsaved`] with the reply itself, if no place takes it.
    fn keep_reply(&self, reply: &[u8]) -> Result<KeptReply>;

    /// Gives the room back, where there is nothing to save.
    fn release(self) -> Self::Claim;
}

/// A reply that nobody understood, on disk.
pub(crate) struct KeptReply {
    pub(crate) path: PathBuf,
    /// How a person gets at what it may hold.
    pub(crate) hint: Hint,
}

/// A pair that is saved. The login stays claimed as long as this lives.
pub(crate) trait Saved {
    /// What the login holds now.
    fn tokens(&self) -> &Tokens;

    /// What a program that is started now must be told, so that it does not wait for this run.
    fn lock_name(&self) -> Option<String>;
}
