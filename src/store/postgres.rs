//! PostgreSQL as a store: one login on any number of hosts.
//!
//! The complete argument why nothing is lost, and nothing sent twice:
//!
//! 1. A claim is a lease, committed in the login's row ([`statements::CLAIM`]). It proves that the row is
//!    writable and that its key opens. A request is sent only if the lease outlasts it, by a clock that is
//!    never ahead of the database's ([`lease`]). No transaction and no lock is held meanwhile.
//! 2. The token in the row is the fence ([`statements::SAVE`]): a pair replaces the token that was spent
//!    for it, and nothing else. So a save may come late, or twice, or from another run that found the
//!    pair: it is saved once, and never over a newer one. Only a consent replaces any token.
//! 3. A pair is in a sealed journal on this host before it is sent to the database, and stays there
//!    until the database has it or its successor ([`journal`]).
//! 4. A failed database or a lost answer is not an outcome: reconnect, and ask again.
//!
//! [`address`] (with [`passfile`]) says where the database is, [`connection`] connects, by [`tls`], [`statement_error`]
//! is what goes wrong there, and [`link`] retries. [`schema`] creates the tables, [`statements`] has all statements,
//! [`row`] is what a row says, [`facts`] what belongs to a pair, and [`sealing`] encrypts its secrets. A [`run`] has
//! [`claim`]s, [`saving`] brings a pair into the database, [`moving`] a login from a file; a [`survey`] only reads. A
//! run over many logins is a [`round`]: [`due`] claims what is next, [`slots`] keep the pace of each app together with
//! all other runs.

mod address;
mod claim;
mod connection;
mod due;
mod facts;
mod journal;
mod lease;
mod link;
mod moving;
mod passfile;
mod round;
mod row;
mod run;
mod saving;
pub(crate) mod schema;
pub(crate) mod sealing;
mod slots;
mod statement_error;
mod statements;
mod survey;
mod tls;

use std::rc::Rc;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use crate::client::Settings;
use crate::driver::Driver;
use crate::error::{Error, Hint, Result};
use crate::profile::{Overrides, Snapshot, check_name};
use crate::store::many::{Due, ManyLogins, More, Slots};
use crate::store::{PerLogin, Store, WantedLogin};
use address::DatabaseAddress;
use claim::PostgresClaim;
use connection::Connector;
use link::Link;
pub(crate) use moving::{FoundLogin, ImportedLogin, SealedLine, sealed_line};
use run::Run;
use sealing::Keys;

/// A database with logins.
pub(crate) struct PostgresStore {
    pub(crate) run: Rc<Run>,
}

impl PostgresStore {
    /// The store at an address. Does not connect yet. `patience` is how long to wait for another run, and to retry a
    /// failing save; `given_token` is a refresh token from outside.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the address or the keys are not valid, or a token was given.
    pub(crate) fn open(
        database: &crate::store::database::Database,
        settings: &Settings,
        patience: Duration,
        given_token: Option<&SecretString>,
    ) -> Result<Self> {
        let address = DatabaseAddress::parse(&database.address)?;
        if given_token.is_some() {
            return Err(takes_no_token(&address.shown));
        }
        let keys = Keys::parse(&database.keys)?;
        let connector = Connector::new(address, settings.ca_cert.clone(), settings.shield);
        let link = Link::new(connector, keys);
        Ok(PostgresStore {
            run: Rc::new(Run::new(link, settings.timeout, patience)?),
        })
    }

    /// The address without its password, for messages.
    pub(crate) fn shown(&self) -> &str {
        self.run.link.shown()
    }
}

/// Creates the tables of a store, or updates them. Returns what was done.
///
/// # Errors
/// [`crate::Kind::Config`] if the address is not valid, or the user lacks the right; [`crate::Kind::Temporary`] if the
/// database cannot be used now.
pub(crate) async fn set_up(
    database: &crate::store::database::Database,
    settings: &Settings,
) -> Result<String> {
    let address = DatabaseAddress::parse(&database.address)?;
    let shown = address.shown.clone();
    let connector = Connector::new(address, settings.ca_cert.clone(), settings.shield);
    let done = async {
        let (client, _carrier) = connector.connect_to_set_up().await?;
        schema::set_up(&client, &shown).await
    };
    let there = done.await.map_err(|failed| failed.error(&shown))?;
    Ok(match there {
        0 => format!("{shown} has its tables now"),
        there if there == schema::VERSION => format!("{shown} had its tables already"),
        _ => format!("the tables of {shown} are up to date now"),
    })
}

impl Store for PostgresStore {
    type Claim = PostgresClaim;

    fn look(&self, wanted: WantedLogin<'_>, driver: &Driver) -> Result<Snapshot> {
        driver.run(self.first_look(wanted))?
    }

    /// A place for a new login is just an empty row, which nobody sees.
    fn must_be_made(&self) -> bool {
        false
    }

    async fn claim(&self, wanted: WantedLogin<'_>, deadline: Instant) -> Result<PostgresClaim> {
        // A login that does not open, or cannot be reached, is not claimed.
        let seen = self.run.seen.take();
        let seen = match seen {
            Some(seen) => seen?,
            None => self.first_look(wanted).await?.fingerprint(),
        };
        self.run.claim(wanted, seen, deadline).await
    }

    async fn give_back(&self, profile: &str, error: Option<&Error>) {
        if !self.run.leased.borrow().contains_key(profile) {
            return;
        }
        self.run.leased(profile).is_in_doubt |= error.is_some_and(Error::may_have_spent);
        // A run for one login may be wrong about it: only runs over many exclude each other.
        let has_failed = error.is_some() && self.run.round.is_begun();
        self.run.release(profile, has_failed).await;
        let app = self.run.forget(profile);
        if let Some((app, error)) = app.zip(error) {
            self.run.round.has_failed(&app, error);
        }
    }

    async fn close(&self) {
        self.run.link.disconnect().await;
    }
}

impl ManyLogins for PostgresStore {
    const HAS_ORDER: bool = false;

    fn look_at_all(&self) -> Result<Vec<PerLogin<Snapshot>>> {
        Ok(Vec::new())
    }

    async fn begin(&self, _: Overrides<'_>, due: &Due, deadline: Instant) -> Result<()> {
        self.run.begin_round(due, deadline).await
    }

    async fn claim_more(&self, due: &Due, room: usize) -> Result<More<PostgresClaim>> {
        self.run.claim_more(due, room).await
    }

    async fn give_all_back(&self) {
        self.run.end_round().await;
    }

    fn slots(&self) -> Option<Rc<dyn Slots>> {
        Some(Rc::<Run>::clone(&self.run))
    }
}

impl PostgresStore {
    async fn first_look(&self, wanted: WantedLogin<'_>) -> Result<Snapshot> {
        let looked = self.try_to_look(wanted).await;
        let seen = match &looked {
            Ok(snapshot) => Ok(snapshot.fingerprint()),
            Err(error) => Err(error.again()),
        };
        self.run.seen.replace(Some(seen));
        looked
    }

    async fn try_to_look(&self, wanted: WantedLogin<'_>) -> Result<Snapshot> {
        let (name, is_for_login) = (wanted.profile, wanted.is_for_login);
        check_name(name)?;
        let deadline = self.run.deadline();
        if is_for_login {
            self.run.check_keys(deadline).await?;
        }
        let found = self.run.look(name, is_for_login, deadline).await?;
        Ok(found.map_or_else(|| self.run.nothing(name), |stored| stored.snapshot))
    }
}

/// The error for a refresh token from outside: only a consent or an import makes or replaces a login here.
fn takes_no_token(store: &str) -> Error {
    let message =
        format!("{store}: a refresh token was given, but a store does not take one that way");
    Error::config(message).with_hint(Hint::fixed(
        "omit -r and FEISHU_REFRESH_TOKEN; feishu-refresh login adds a login to a store, feishu-refresh store import moves one from a file",
        "请去掉 -r 与 FEISHU_REFRESH_TOKEN；可用 feishu-refresh login 登录，或用 feishu-refresh store import 从文件移入",
    ))
}
