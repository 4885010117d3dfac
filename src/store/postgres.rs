//! PostgreSQL as a store: one login on any number of hosts.
//!
//! The whole argument why nothing is lost, and nothing sent twice:
//!
//! 1. A claim is a lease, committed in the login's row ([`row::CLAIM`]). It proves that the row can be
//!    written and that its key opens. A request goes out only if the lease outlasts it, by a clock that is
//!    never ahead of the database's ([`lease`]). No transaction and no lock is held meanwhile.
//! 2. The token in the row is the fence ([`row::SAVE`]): a pair takes the place of the token that was spent
//!    for it, and of nothing else. So a save may come late, or twice, or from another run that found the
//!    pair: it is saved once, and never over a newer one. Only a consent replaces what stands there.
//! 3. A pair is in a sealed journal on this host before the database is asked to take it, and stays there
//!    until the database has it or what came after it ([`journal`]).
//! 4. A database that fails, or an answer that is lost, is none of the outcomes: connect anew, and ask again.
//!
//! [`address`] says where the database is, [`connection`] reaches it, [`trouble`] is what goes wrong there,
//! and [`database`] tries again. [`schema`] makes the tables, [`row`] reads and changes them, [`sealing`]
//! hides what is secret in them. [`saving`] brings a pair into the database, and [`moving`] a login from
//! a file.

mod address;
mod connection;
mod database;
mod journal;
mod lease;
mod moving;
mod row;
mod saving;
pub(crate) mod schema;
pub(crate) mod sealing;
mod trouble;

use std::cell::{Cell, RefCell};
use std::process;
use std::rc::Rc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio_postgres::types::Type;

use super::{Claim, KeptReply, Mention, Refused, Reservation, Reserved, Saved, Store, Wanted};
use crate::client::Settings;
use crate::driver::Driver;
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::machine;
use crate::profile::{Given, LoginId, Order, Origin, Profile, Snapshot, Successor, check_name};
use crate::token::{Fingerprint, Tokens, second};
use address::Address;
use connection::Connector;
use database::{Database, Pauses, no_login};
use lease::Lease;
pub(crate) use moving::{Found, Line, Luggage, sealed_line};
use row::{State, Stored, flag, text};
use saving::Facts;
use sealing::Keys;

/// A database with logins.
pub(crate) struct PostgresStore {
    inner: Rc<Inner>,
}

/// Who waits for longer than this is told for whom.
const LONG_WAIT: Duration = Duration::from_secs(3);

/// What the claims of a run share.
struct Inner {
    database: Database,
    /// Names this run among all that there are.
    run: String,
    /// Where this run is, for people.
    holder: String,
    /// How long one request may take.
    request: Duration,
    /// How long a save that fails is tried again.
    patience: Duration,
    /// Whether a login was looked at, and opened.
    has_looked: Cell<bool>,
    /// The token that the login had when it was first looked at.
    seen: RefCell<Option<Fingerprint>>,
    /// The logins whose lease this run may have.
    leased: RefCell<Vec<String>>,
}

impl PostgresStore {
    /// The store at an address. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Kind::Config`] if the address or the keys are none.
    pub(crate) fn open(
        database: &super::Database,
        settings: &Settings,
        patience: Duration,
        given_token: Option<&SecretString>,
    ) -> Result<Self> {
        if given_token.is_some() {
            return Err(takes_no_token(&database.shown()));
        }
        let keys = Keys::parse(&database.keys)?;
        let address = Address::parse(&database.address)?;
        let connector = Connector::new(address, settings.ca_cert.clone(), settings.shield);
        let run = u128::from_be_bytes(sealing::random()?);
        Ok(PostgresStore {
            inner: Rc::new(Inner {
                database: Database::new(connector, keys),
                run: format!("{run:032x}"),
                holder: format!("{}, process {}", machine::name(), process::id()),
                request: settings.timeout,
                patience,
                has_looked: Cell::new(false),
                seen: RefCell::default(),
                leased: RefCell::default(),
            }),
        })
    }

    /// All logins, or the one of this name, for who only looks.
    ///
    /// # Errors
    /// [`Kind::Config`] if there is none of that name, or the database cannot be used as it is;
    /// [`Kind::Temporary`] if it cannot be used now.
    pub(crate) async fn survey(&self, name: Option<&str>) -> Result<Vec<Standing>> {
        let database = &self.inner.database;
        let now = Instant::now();
        let (rows, connection) = database.run(row::LOOK_AT_ALL, &[], now).await?;
        let reader = database.reader(&connection, false);
        let mut stored: Vec<_> = rows.iter().map(|row| reader.read(row)).collect();
        let names = names_of(rows);
        let standing = |(stored, name): (Result<Stored>, String)| {
            let known = stored.as_ref().ok();
            Standing {
                name,
                lease: known.and_then(|stored| stored.lease.clone()),
                sender: known.and_then(|stored| stored.sender.clone()),
                refused: known.and_then(|stored| stored.refused.clone()),
                is_dead: known.is_some_and(|stored| stored.state == State::Refused),
                is_held: known.is_some_and(|stored| stored.state == State::Held),
                snapshot: stored.map(|stored| stored.snapshot),
            }
        };
        // Where none opens, the key is wrong: that is one error, and no state of logins.
        let opens = stored.iter().any(Result::is_ok);
        if !opens && let Some(Err(error)) = stored.pop() {
            return Err(error);
        }
        let all = stored.into_iter().zip(names).map(standing);
        let wanted: Vec<_> = all
            .filter(|standing| name.is_none_or(|name| name == standing.name))
            .collect();
        match name {
            Some(name) if wanted.is_empty() => Err(no_login(database.shown(), name)),
            _ => Ok(wanted),
        }
    }

    /// The address without its password, for people.
    pub(crate) fn shown(&self) -> &str {
        self.inner.database.shown()
    }
}

fn names_of(rows: Vec<tokio_postgres::Row>) -> Vec<String> {
    let name = |row: tokio_postgres::Row| row.try_get("name").unwrap_or_default();
    rows.into_iter().map(name).collect()
}

/// How a login stands in the store, beyond what it holds.
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) snapshot: Result<Snapshot>,
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

/// Makes the tables of a store, or brings them up to date. Says what was done.
///
/// # Errors
/// [`Kind::Config`] if the address is none, or the user may not; [`Kind::Temporary`] if the database
/// cannot be used now.
pub(crate) async fn set_up(database: &super::Database, settings: &Settings) -> Result<String> {
    let address = Address::parse(&database.address)?;
    let shown = address.shown.clone();
    let connector = Connector::new(address, settings.ca_cert.clone(), settings.shield);
    let done = async {
        let (client, _carrier) = connector.connect_to_set_up().await?;
        schema::set_up(&client, &shown).await
    };
    let there = done.await.map_err(|trouble| trouble.error(&shown))?;
    Ok(match there {
        0 => format!("{shown} has its tables now"),
        there if there == schema::VERSION => format!("{shown} had its tables already"),
        _ => format!("the tables of {shown} are up to date now"),
    })
}

impl Store for PostgresStore {
    type Claim = PostgresClaim;

    fn look(&self, wanted: Wanted<'_>, driver: &Driver) -> Result<Snapshot> {
        driver.run(self.look_until(wanted, Instant::now()))?
    }

    /// A place for a new login is no more than an empty row, which nobody sees.
    fn must_be_made(&self) -> bool {
        false
    }

    async fn claim(&self, wanted: Wanted<'_>, deadline: Instant) -> Result<PostgresClaim> {
        let inner = &self.inner;
        if !inner.has_looked.get() {
            // Nothing is claimed that does not open.
            self.look_until(wanted, deadline).await?;
        }
        let put_back = inner.put_back(wanted.profile, deadline).await?;
        let seen = *inner.seen.borrow();
        let seen = seen.filter(|_| !put_back && !wanted.is_for_login);
        let lease = inner.lease(wanted.profile, wanted.is_for_login, seen, deadline);
        let (stored, lease) = lease.await?;
        Ok(PostgresClaim {
            inner: Rc::clone(inner),
            stored,
            lease,
            had_company: !put_back,
            is_for_login: wanted.is_for_login,
            deadline,
        })
    }

    async fn end(&self, is_in_doubt: bool) {
        self.inner.release(is_in_doubt).await;
        self.inner.database.disconnect().await;
    }
}

impl PostgresStore {
    async fn look_until(&self, wanted: Wanted<'_>, deadline: Instant) -> Result<Snapshot> {
        let profile = wanted.profile;
        let inner = &self.inner;
        check_name(profile)?;
        if wanted.is_for_login {
            inner.check_keys(deadline).await?;
        }
        let found = inner.look(profile, wanted.is_for_login, deadline).await?;
        let snapshot = found.map_or_else(|| inner.nothing(profile), |stored| stored.snapshot);
        inner.has_looked.set(true);
        inner.seen.replace(snapshot.fingerprint());
        Ok(snapshot)
    }
}

/// The error for a refresh token from outside: only a consent or an import makes or replaces a login here.
fn takes_no_token(store: &str) -> Error {
    let message = format!(
        "{store}: a refresh token was given, and a store takes none that way; nothing was sent"
    );
    Error::config(message).with_hint(Hint::fixed(
        "leave -r and FEISHU_REFRESH_TOKEN away; a login comes into a store by feishu-refresh login, or from a file by feishu-refresh store import",
        "请去掉 -r 与 FEISHU_REFRESH_TOKEN；可用 feishu-refresh login 登录，或用 feishu-refresh store import 从文件移入",
    ))
}

impl Inner {
    /// What the store says of a login; none if it has no such.
    async fn look(
        &self,
        name: &str,
        is_for_login: bool,
        deadline: Instant,
    ) -> Result<Option<Stored>> {
        let parameters = [text(&name)];
        let database = &self.database;
        let found = database.logins(row::LOOK, &parameters, is_for_login, deadline);
        found.await?.pop().transpose()
    }

    /// Makes sure that a new login is not sealed with another store's key.
    ///
    /// # Errors
    /// [`Kind::Config`] if something is sealed there, and none of it with one of these keys.
    async fn check_keys(&self, deadline: Instant) -> Result<()> {
        let (rows, _) = self.database.run(row::KEY_IDS, &[], deadline).await?;
        let ids = rows.iter().map(|row| row.get::<_, &str>(0));
        let ids: Vec<&str> = ids.filter(|id| sealing::is_key_id(id)).collect();
        let keys = &self.database.keys;
        if ids.is_empty() || ids.iter().any(|id| keys.has(id)) {
            return Ok(());
        }
        let (store, given) = (self.database.shown(), keys.ids());
        let message = format!(
            "{store}: nothing there is sealed with the key given, {given}; nothing was sent"
        );
        Err(Error::config(message).with_hint(Hint::fixed(
            "give the store's key, in --store-key-file, FEISHU_STORE_KEY or FEISHU_STORE_KEY_FILE; if it is lost, so is all that is there: TRUNCATE feishu_refresh.login, feishu_refresh.app CASCADE, then log in again",
            "请用 --store-key-file、FEISHU_STORE_KEY 或 FEISHU_STORE_KEY_FILE 提供该库的密钥；若密钥已丢失，库中内容也无法恢复：请执行 TRUNCATE feishu_refresh.login, feishu_refresh.app CASCADE 后重新登录",
        )))
    }

    /// How a login stands, and which tokens it knows; none if there is no such.
    async fn look_at_tokens(
        &self,
        name: &str,
        token: Option<Fingerprint>,
        deadline: Instant,
    ) -> Result<Option<TokensThere>> {
        let token = token.map(|token| token.to_string());
        let parameters = [text(&name), text(&token)];
        let looked = self
            .database
            .run(row::LOOK_AT_TOKENS, &parameters, deadline);
        let (rows, _) = looked.await?;
        Ok(rows.first().map(|row| TokensThere {
            state: State::named(row.get(0)),
            held: row.get::<_, Option<&str>>(1).and_then(Fingerprint::parse),
            has_spent: row.get(2),
        }))
    }

    /// What the store says of a login that it does not have.
    fn nothing(&self, name: &str) -> Snapshot {
        Snapshot {
            login: LoginId {
                profile: name.to_owned(),
                store: self.database.shown().to_owned(),
            },
            exists: false,
            profile: Profile::default(),
            clock_ahead: jiff::SignedDuration::ZERO,
            spent_by: std::sync::Arc::default(),
        }
    }

    /// Waits for the lease of a login. Where `seen` does not stand there any more, another run has
    /// refreshed it: then what that one saved is all that is wanted yet.
    async fn lease(
        &self,
        name: &str,
        is_for_login: bool,
        seen: Option<Fingerprint>,
        deadline: Instant,
    ) -> Result<(Stored, Option<Lease>)> {
        let seen = seen.map(|seen| seen.to_string());
        let seconds = Lease::length(self.request).as_secs_f64();
        let (begun, mut has_told) = (Instant::now(), false);
        let mut pauses = Pauses::default();
        self.leased.borrow_mut().push(name.to_owned());
        loop {
            let lease = Lease::asked_for(self.request);
            let parameters = [
                text(&name),
                text(&self.run),
                text(&self.holder),
                (&seconds as _, Type::FLOAT8),
                flag(&is_for_login),
                text(&seen),
            ];
            let database = &self.database;
            let claimed = database.logins(row::CLAIM, &parameters, is_for_login, deadline);
            if let Some(stored) = claimed.await?.pop() {
                return Ok((stored?, Some(lease)));
            }
            let found = self.look(name, is_for_login, deadline).await?;
            let holder = match found {
                None if is_for_login => {
                    let parameters = [text(&name)];
                    let placed = self.database.run(row::MAKE_PLACE, &parameters, deadline);
                    placed.await?;
                    continue;
                }
                None => return Err(no_login(self.database.shown(), name)),
                Some(stored) => match self.waiting_for(stored, is_for_login, seen.as_deref())? {
                    Waiting::For(holder) => holder,
                    Waiting::Over(stored) => return Ok((*stored, None)),
                },
            };
            let pause = pauses.next();
            if Instant::now() + pause > deadline {
                return Err(self.busy(name, &holder));
            }
            if !has_told && begun.elapsed() > LONG_WAIT {
                has_told = true;
                log::warn!("[{name}] of {}: waiting for {holder}", database.shown());
            }
            // Whoever holds the lease may need the connection.
            self.database.disconnect().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// What a login that cannot be claimed is waiting for.
    fn waiting_for(
        &self,
        stored: Stored,
        is_for_login: bool,
        seen: Option<&str>,
    ) -> Result<Waiting> {
        let store = self.database.shown();
        let name = &stored.snapshot.login.profile;
        match stored.state {
            State::Empty if !is_for_login => return Err(no_login(store, name)),
            State::Held if !is_for_login => return Err(held(store, name)),
            _ => {}
        }
        let now = stored.snapshot.fingerprint().map(|now| now.to_string());
        if seen.is_some() && now.as_deref() != seen {
            return Ok(Waiting::Over(Box::new(stored)));
        }
        Ok(Waiting::For(
            stored.lease.map(|lease| lease.by).unwrap_or_default(),
        ))
    }

    fn busy(&self, name: &str, holder: &str) -> Error {
        let store = self.database.shown();
        let message =
            format!("[{name}] of {store} is being refreshed by {holder}; nothing was sent");
        Error::temporary(message).with_hint(Hint::fixed(
            "run again later, or wait longer with --lock-timeout",
            "请稍后重试，或用 --lock-timeout 延长等待时间",
        ))
    }

    /// Gives back all leases that this run has. One that cannot be given back comes to its end.
    async fn release(&self, is_in_doubt: bool) {
        let leased = self.leased.take();
        for name in leased {
            let parameters = [text(&name), text(&self.run), flag(&is_in_doubt)];
            self.database
                .try_in_passing(row::RELEASE, &parameters)
                .await;
        }
    }
}

/// What a row knows of tokens, without its secrets.
struct TokensThere {
    state: State,
    held: Option<Fingerprint>,
    /// Whether it names the token in question as spent.
    has_spent: bool,
}

/// What a login that cannot be claimed is waiting for.
enum Waiting {
    /// For this run elsewhere.
    For(String),
    /// For nothing: another run has refreshed it.
    Over(Box<Stored>),
}

fn held(store: &str, name: &str) -> Error {
    let message = format!(
        "[{name}] of {store} is on its way here from a file, and that has not ended; nothing was sent"
    );
    Error::config(message).with_hint(Hint::fixed(
        "run store import again, on the host and with the file that it comes from: feishu-refresh store import -c FILE",
        "请在来源文件所在主机上对该文件重新运行：feishu-refresh store import -c 文件",
    ))
}

/// The right to spend a login of the database; or a look at it, where another run has just refreshed it.
pub(crate) struct PostgresClaim {
    inner: Rc<Inner>,
    stored: Stored,
    /// None where it must be taken first.
    lease: Option<Lease>,
    had_company: bool,
    is_for_login: bool,
    deadline: Instant,
}

impl Claim for PostgresClaim {
    type Reservation = PostgresReservation;

    fn snapshot(&self) -> &Snapshot {
        &self.stored.snapshot
    }

    fn had_company(&self) -> bool {
        self.had_company
    }

    fn may_be_spent(&self, token: Fingerprint) -> bool {
        let unanswered = self.stored.unanswered.as_ref();
        unanswered.is_some_and(|(unanswered, _)| *unanswered == token)
    }

    fn has_made(&self) -> bool {
        false
    }

    async fn look_again(&mut self) -> Result<()> {
        let name = self.stored.snapshot.login.profile.clone();
        let found = self
            .inner
            .look(&name, self.is_for_login, self.deadline)
            .await?;
        self.stored = found.ok_or_else(|| no_login(self.inner.database.shown(), &name))?;
        self.had_company = false;
        Ok(())
    }

    async fn note_refusal(&mut self, token: Fingerprint, refusal: &Error) -> Result<bool> {
        let Stored {
            snapshot,
            unanswered,
            ..
        } = &self.stored;
        if let Some((_, who)) = unanswered.as_ref().filter(|(sent, _)| *sent == token) {
            let (login, by, at) = (&snapshot.login, &who.by, second(who.at));
            log::warn!("{login}: {by} sent this refresh token at {at}, and got no answer");
        }
        let name = &snapshot.login.profile;
        let (token, words) = (token.to_string(), refusal.to_string());
        let is_dead = refusal.is_of_dead_token();
        let parameters = [text(name), text(&token), flag(&is_dead), text(&words)];
        let database = &self.inner.database;
        let noted = database.run(row::NOTE_REFUSAL, &parameters, self.deadline);
        Ok(!noted.await?.0.is_empty())
    }

    async fn reserve(
        mut self,
        origin: &Origin<'_>,
        given: Given<'_>,
        order: Option<&Order>,
    ) -> Result<Reserved<Self>> {
        if !self.lease.as_ref().is_some_and(Lease::covers_a_request) {
            let name = &self.stored.snapshot.login.profile;
            let lease = self
                .inner
                .lease(name, self.is_for_login, None, self.deadline);
            (self.stored, self.lease) = lease.await?;
            fail_point!("after-lease");
        }
        let view = self.stored.snapshot.with(given)?;
        if order.is_some_and(|order| !view.holds(order)) {
            return Ok(Reserved::Changed(self));
        }
        let facts = Facts::of(&view, origin)?;
        fail_point!("after-reserve");
        Ok(Reserved::Room(PostgresReservation {
            store_id: self.inner.database.store_id(self.deadline).await?,
            claim: self,
            facts,
        }))
    }
}

/// The proof that a pair can be saved: a lease that outlasts the request.
pub(crate) struct PostgresReservation {
    claim: PostgresClaim,
    store_id: String,
    facts: Facts,
}

impl Reservation for PostgresReservation {
    type Claim = PostgresClaim;
    type Saved = PostgresSaved;

    fn snapshot(&self) -> &Snapshot {
        &self.claim.stored.snapshot
    }

    fn spent(&self) -> Vec<Fingerprint> {
        self.claim.stored.spent.clone()
    }

    async fn save(
        self,
        successor: Successor,
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<PostgresSaved> {
        let inner = &self.claim.inner;
        inner
            .save(&self.store_id, &successor, &self.facts, is_hurried)
            .await?;
        let held = &self.snapshot().profile.pair.tokens;
        Ok(PostgresSaved {
            tokens: successor.tokens.or_access_token_of(held),
        })
    }

    fn keep_reply(&self, reply: &[u8]) -> Result<KeptReply> {
        let login = &self.snapshot().login;
        let keys = &self.claim.inner.database.keys;
        let reply = match std::str::from_utf8(reply) {
            Ok(text) => text.to_owned(),
            Err(_) => reply.escape_ascii().to_string(),
        };
        let sealed = keys.seal(journal::REPLY_OWNER, &reply.into())?;
        let kept = journal::keep_reply(&self.store_id, &login.profile, &sealed);
        let path = kept.map_err(|error| {
            let message = format!(
                "{login}: a reply that cannot be understood could be kept nowhere: {error}"
            );
            Error::new(Kind::Unsaved, message)
                .with_unsaved(Tokens::default(), format!("{sealed}\n").into())
                .with_hint(Hint::fixed(
                    "keep the sealed line above: feishu-refresh store import - opens it",
                    "请保存上面的密封行：可用 feishu-refresh store import - 打开",
                ))
        })?;
        let shown = path.display();
        let hint = Hint::naming(
            format!(
                "it is sealed; this prints it: feishu-refresh store import - < {shown}; put its refresh token into an INI file, and move that with store import -c FILE; without one, log in again: feishu-refresh login"
            ),
            format!(
                "内容已密封，可用此命令显示：feishu-refresh store import - < {shown}；将其中的 refresh_token 写入 INI 文件，再用 store import -c 文件 移入；若没有，请重新登录：feishu-refresh login"
            ),
        );
        Ok(KeptReply { path, hint })
    }

    fn release(self) -> PostgresClaim {
        PostgresClaim {
            // The next request asks for it anew, so that the row says whose turn it is.
            lease: None,
            had_company: false,
            ..self.claim
        }
    }
}

/// A pair in the database.
pub(crate) struct PostgresSaved {
    tokens: Tokens,
}

impl Saved for PostgresSaved {
    fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whoever comes next waits for nobody: the lease ended with the save.
    fn lock_name(&self) -> Option<String> {
        None
    }
}
