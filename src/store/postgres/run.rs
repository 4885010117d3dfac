//! A run's state with the database: its name there, what it has seen, which leases it has.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::facts::AppKey;
use super::lease::Lease;
use super::link::Link;
use super::round::Round;
use super::row::{LoginState, StoredLogin};
use super::sealing;
use super::statement_error::{StatementError, field};
use super::statements::{self, flag, text, texts};
use crate::error::{Error, Hint, Result};
use crate::platform::machine;
use crate::profile::{LoginId, Profile, Snapshot};
use crate::token::Fingerprint;

/// The longest wait.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The shared state of a run's claims.
pub(crate) struct Run {
    pub(super) link: Link,
    /// Identifies this run among all.
    pub(super) id: String,
    /// Where this run is, for messages.
    pub(super) holder: String,
    /// How long one request may take.
    pub(super) request: Duration,
    /// How long to wait for another run, and to retry a failing save.
    pub(super) patience: Duration,
    /// The result of the first read: the login's token, or why there is none.
    pub(super) seen: RefCell<Option<Result<Option<Fingerprint>>>>,
    /// The logins in progress, whose lease this run may have.
    pub(super) leased: RefCell<BTreeMap<String, LeasedLogin>>,
    /// The progress of a run over many logins.
    pub(super) round: Round,
}

/// What a run knows about a login in progress.
#[derive(Default)]
pub(super) struct LeasedLogin {
    /// Its lease; none unless it is known to be this run's.
    pub(super) lease: Option<Lease>,
    pub(super) app: AppKey,
    /// When its next request may be sent, by the machine's uptime, if the claim said so.
    pub(super) slot: Option<Duration>,
    /// Whether its token was sent, with unknown result.
    pub(super) is_in_doubt: bool,
}

/// What a row says about tokens, without its secrets.
pub(super) struct TokenState {
    pub(super) state: LoginState,
    pub(super) held: Option<Fingerprint>,
    /// Whether it lists the token in question as spent.
    pub(super) has_spent: bool,
}

impl Run {
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system has no random numbers.
    pub(super) fn new(link: Link, request: Duration, patience: Duration) -> Result<Self> {
        let id = u128::from_be_bytes(sealing::random()?);
        Ok(Run {
            link,
            id: format!("{id:032x}"),
            holder: format!("{}, process {}", machine::name(), process::id()),
            request,
            patience: patience.min(FOR_EVER),
            seen: RefCell::default(),
            leased: RefCell::default(),
            round: Round::default(),
        })
    }

    /// The deadline of something that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// What the store says about a login; none if there is no such login.
    pub(super) async fn look(
        &self,
        name: &str,
        is_for_login: bool,
        deadline: Instant,
    ) -> Result<Option<StoredLogin>> {
        let parameters = [text(&name)];
        let found = self
            .link
            .logins(statements::LOOK, &parameters, is_for_login, deadline);
        found.await?.pop().transpose()
    }

    /// Makes sure that a new login is not sealed with another store's key.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if something is sealed there, but nothing with one of these keys.
    pub(super) async fn check_keys(&self, deadline: Instant) -> Result<()> {
        let (rows, _) = self.link.run(statements::KEY_IDS, &[], deadline).await?;
        let ids = rows.iter().filter_map(|row| row.try_get::<_, &str>(0).ok());
        let ids: Vec<&str> = ids.filter(|id| sealing::is_key_id(id)).collect();
        let keys = &self.link.keys;
        if ids.is_empty() || ids.iter().any(|id| keys.has(id)) {
            return Ok(());
        }
        let (store, given) = (self.link.shown(), keys.ids().join(", "));
        let message = format!("{store}: nothing there is sealed with the given key, {given}");
        Err(Error::config(message).with_hint(Hint::fixed(
            "give the store's key, in --store-key-file, FEISHU_STORE_KEY or FEISHU_STORE_KEY_FILE; if it is lost, so is everything there: TRUNCATE feishu_refresh.login, feishu_refresh.app CASCADE, then log in again",
            "请用 --store-key-file、FEISHU_STORE_KEY 或 FEISHU_STORE_KEY_FILE 提供该库的密钥；若密钥已丢失，库中内容也无法恢复：请执行 TRUNCATE feishu_refresh.login, feishu_refresh.app CASCADE 后重新登录",
        )))
    }

    /// The state of a login, and which tokens it knows; none if there is no such login.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub(super) async fn tokens_there(
        &self,
        name: &str,
        token: Option<Fingerprint>,
    ) -> Result<Option<TokenState>, StatementError> {
        let token = token.map(|token| token.to_string());
        let parameters = [text(&name), text(&token)];
        let looked = self.link.try_once(statements::LOOK_AT_TOKENS, &parameters);
        let (rows, _) = looked.await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let held: Option<&str> = field(row, 1)?;
        Ok(Some(TokenState {
            state: LoginState::named(field(row, 0)?),
            held: held.and_then(Fingerprint::parse),
            has_spent: field(row, 2)?,
        }))
    }

    /// What the store says about a missing login.
    pub(super) fn nothing(&self, name: &str) -> Snapshot {
        Snapshot {
            login: LoginId {
                profile: name.to_owned(),
                store: self.link.shown().to_owned(),
            },
            exists: false,
            others: Vec::new(),
            profile: Profile::default(),
            clock_ahead: SignedDuration::ZERO,
            spent_by: Arc::default(),
        }
    }

    /// What is known about a login that is in progress from now on.
    pub(super) fn leased(&self, login: &str) -> RefMut<'_, LeasedLogin> {
        RefMut::map(self.leased.borrow_mut(), |leased| {
            leased.entry(login.to_owned()).or_default()
        })
    }

    /// This run is done with a login. Returns its app.
    pub(super) fn forget(&self, login: &str) -> Option<AppKey> {
        let leased = self.leased.borrow_mut().remove(login);
        leased.map(|leased| leased.app)
    }

    /// This run drops a login: the state of it, or of its lease, is unknown.
    pub(super) fn leave_alone(&self, login: &str) {
        self.forget(login);
        self.round.left_alone.borrow_mut().insert(login.to_owned());
    }

    /// Whether this run has a lease of a login that outlasts a request sent after this pause.
    pub(super) fn covers_a_request(&self, login: &str, pause: Duration) -> bool {
        let leased = self.leased.borrow();
        let lease = leased.get(login).and_then(|leased| leased.lease.as_ref());
        lease.is_some_and(|lease| lease.covers_a_request(pause))
    }

    /// The app of a login in progress.
    pub(super) fn app_of(&self, login: &str) -> Option<AppKey> {
        let leased = self.leased.borrow();
        let app = leased.get(login).map(|leased| leased.app.clone());
        app.filter(|(id, _)| !id.is_empty())
    }

    /// Releases the lease of a login in progress. One that cannot be released expires. `has_failed` says whether the
    /// login must not be retried at once.
    pub(super) async fn release(&self, login: &str, has_failed: bool) {
        let is_in_doubt = match self.leased.borrow_mut().get_mut(login) {
            None => return,
            Some(leased) => {
                leased.lease = None;
                leased.is_in_doubt
            }
        };
        let names = vec![login.to_owned()];
        if !self.give_back(&names, is_in_doubt, has_failed).await {
            self.round.left_alone.borrow_mut().insert(login.to_owned());
        }
    }

    /// Releases all leases that this run may have.
    pub(super) async fn release_all(&self) {
        for is_in_doubt in [true, false] {
            let mut names = Vec::new();
            for (name, leased) in self.leased.borrow_mut().iter_mut() {
                if leased.is_in_doubt == is_in_doubt {
                    leased.lease = None;
                    names.push(name.clone());
                }
            }
            if !names.is_empty() {
                self.give_back(&names, is_in_doubt, false).await;
            }
        }
    }

    /// Whether it is known to be done.
    async fn give_back(&self, names: &Vec<String>, is_in_doubt: bool, has_failed: bool) -> bool {
        let parameters = [
            texts(names),
            text(&self.id),
            flag(&is_in_doubt),
            flag(&has_failed),
        ];
        let released = self.link.try_in_passing(statements::RELEASE, &parameters);
        released.await
    }
}

/// The error for a missing login.
pub(super) fn no_login(store: &str, name: &str) -> Error {
    Error::config(format!("{store} has no login [{name}]")).with_hint(Hint::fixed(
        "feishu-refresh login creates it; feishu-refresh store import moves it here from a file; -p names another",
        "可用 feishu-refresh login 创建，或用 feishu-refresh store import 从文件移入；-p 可另行指定",
    ))
}
