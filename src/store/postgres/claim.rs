//! The lease of a login, and what it permits.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::facts::LoginFacts;
use super::journal;
use super::lease::Lease;
use super::link::Pauses;
use super::row::{LoginState, StoredLogin};
use super::run::{Run, no_login};
use super::saving::{RestoredBy, SaveOutcome};
use super::statements::{self, flag, text};
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::programs::quoted;
use crate::profile::{Origin, Overrides, RefreshPlan, Snapshot, Successor, View};
use crate::store::{Claim, KeptReply, Reservation, Reserved, Saved, WantedLogin};
use crate::token::{Fingerprint, Tokens, second};

/// A wait longer than this is reported, with whom it is for.
const LONG_WAIT: Duration = Duration::from_secs(3);

/// What a login that cannot be claimed is waiting for.
enum WaitingFor {
    /// For this run, elsewhere.
    For(String),
    /// For nothing: another run has refreshed it.
    Over(Box<StoredLogin>),
}

impl Run {
    /// Claims a login for a refresh. If it no longer holds `seen`, another run has refreshed it: then only what that
    /// one saved is needed.
    ///
    /// # Errors
    /// As of [`crate::store::Store::claim`].
    pub(super) async fn claim(
        self: &Rc<Self>,
        wanted: WantedLogin<'_>,
        seen: Option<Fingerprint>,
        deadline: Instant,
    ) -> Result<PostgresClaim> {
        let name = wanted.profile;
        let put_back = self.put_back(name, deadline).await?;
        let is_own = put_back == RestoredBy::ByDead;
        let seen = seen.filter(|_| !is_own && !wanted.is_for_login);
        if wanted.is_for_login {
            self.make_place(name, deadline).await?;
        }
        let stored = self.lease(name, wanted.is_for_login, seen, deadline);
        Ok(PostgresClaim {
            run: Rc::clone(self),
            stored: stored.await?,
            had_company: !is_own,
            may_have_leftovers: false,
            is_for_login: wanted.is_for_login,
        })
    }

    /// A place for a login that a consent will bring, and the proof that it can be saved there.
    async fn make_place(&self, name: &str, deadline: Instant) -> Result<()> {
        let parameters = [text(&name)];
        let made = self.link.run(statements::MAKE_PLACE, &parameters, deadline);
        made.await?;
        for statement in statements::MAY_ADD_APP {
            self.link.run(statement, &[], deadline).await?;
        }
        Ok(())
    }

    /// Waits for the lease of a login; not if it no longer holds `seen`.
    async fn lease(
        &self,
        name: &str,
        is_for_login: bool,
        seen: Option<Fingerprint>,
        deadline: Instant,
    ) -> Result<StoredLogin> {
        let begun = Instant::now();
        let mut has_told = false;
        let mut pauses = Pauses::default();
        self.leased(name).lease = None;
        loop {
            let lease = Lease::asked_for(self.request);
            let claimed = self
                .try_to_claim(name, is_for_login, seen, deadline)
                .await?;
            if let Some(stored) = claimed {
                // Its previous holder may have left its pair on this host.
                let may_be_left = has_told || pauses.is_begun() || stored.unanswered.is_some();
                if may_be_left && self.put_back(name, deadline).await? != RestoredBy::Nothing {
                    continue;
                }
                let mut leased = self.leased(name);
                leased.lease = Some(lease);
                leased.app = stored.app.clone();
                drop(leased);
                fail_point!("after-lease");
                return Ok(stored);
            }
            let found = self.look(name, is_for_login, deadline).await?;
            let found = found.ok_or_else(|| no_login(self.link.shown(), name))?;
            let holder = match self.waiting_for(found, is_for_login, seen)? {
                WaitingFor::For(holder) => holder,
                WaitingFor::Over(stored) => return Ok(*stored),
            };
            let pause = pauses.next();
            if Instant::now() + pause > deadline {
                return Err(self.busy(name, &holder));
            }
            if !has_told && begun.elapsed() > LONG_WAIT {
                has_told = true;
                log::warn!("[{name}] of {}: waiting for {holder}", self.link.shown());
            }
            // The lease's holder may need the connection.
            if self.leased.borrow().len() == 1 {
                self.link.disconnect().await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Claims a login if nobody else has it, and it still holds `seen`.
    async fn try_to_claim(
        &self,
        name: &str,
        is_for_login: bool,
        seen: Option<Fingerprint>,
        deadline: Instant,
    ) -> Result<Option<StoredLogin>> {
        let seen = seen.map(|seen| seen.to_string());
        let seconds = Lease::length(self.request).as_secs_f64();
        let parameters = [
            text(&name),
            text(&self.id),
            text(&self.holder),
            (&seconds as _, Type::FLOAT8),
            flag(&is_for_login),
            text(&seen),
        ];
        let claimed = self
            .link
            .logins(statements::CLAIM, &parameters, is_for_login, deadline);
        claimed.await?.pop().transpose()
    }

    fn waiting_for(
        &self,
        stored: StoredLogin,
        is_for_login: bool,
        seen: Option<Fingerprint>,
    ) -> Result<WaitingFor> {
        let store = self.link.shown();
        let name = &stored.snapshot.login.profile;
        match stored.state {
            LoginState::Empty if !is_for_login => return Err(no_login(store, name)),
            LoginState::Held if !is_for_login => return Err(on_its_way(store, name)),
            _ => {}
        }
        if seen.is_some() && stored.snapshot.fingerprint() != seen {
            return Ok(WaitingFor::Over(Box::new(stored)));
        }
        let holder = stored.lease.map(|lease| lease.by);
        Ok(WaitingFor::For(
            holder.unwrap_or_else(|| "another run".to_owned()),
        ))
    }

    fn busy(&self, name: &str, holder: &str) -> Error {
        let store = self.link.shown();
        let message = format!("[{name}] of {store} is being refreshed by {holder}");
        Error::temporary(message).with_hint(Hint::fixed(
            "run again later, or wait longer with --lock-timeout",
            "请稍后重试，或用 --lock-timeout 延长等待时间",
        ))
    }
}

fn on_its_way(store: &str, name: &str) -> Error {
    let message =
        format!("[{name}] of {store} is being moved here from a file, and that has not finished");
    Error::config(message).with_hint(Hint::fixed(
        "run store import again, on the host and with the file that it comes from: feishu-refresh store import -c FILE",
        "请在来源文件所在主机上对该文件重新运行：feishu-refresh store import -c 文件",
    ))
}

/// The right to spend a login of the database; or just its content, if another run has just refreshed it.
pub(crate) struct PostgresClaim {
    run: Rc<Run>,
    stored: StoredLogin,
    had_company: bool,
    /// Whether leftovers of dead runs for the login on this host are yet to be looked for.
    may_have_leftovers: bool,
    is_for_login: bool,
}

impl PostgresClaim {
    /// One of many, claimed with others.
    pub(super) fn of_many(run: Rc<Run>, stored: StoredLogin) -> Self {
        PostgresClaim {
            run,
            stored,
            had_company: true,
            may_have_leftovers: true,
            is_for_login: false,
        }
    }

    /// The token in the row, and one that was sent without an answer.
    fn token(&self) -> (Option<Fingerprint>, Option<Fingerprint>) {
        let unanswered = self.stored.unanswered.as_ref().map(|(token, _)| *token);
        (self.stored.snapshot.fingerprint(), unanswered)
    }

    fn covers_a_request(&self) -> bool {
        let login = &self.stored.snapshot.login.profile;
        self.run.covers_a_request(login, Duration::ZERO)
    }
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
        let run = &self.run;
        let found = run.look(&name, self.is_for_login, run.deadline()).await?;
        self.stored = found.ok_or_else(|| no_login(run.link.shown(), &name))?;
        Ok(())
    }

    async fn renew(&mut self) -> Result<bool> {
        let name = self.stored.snapshot.login.profile.clone();
        let deadline = self.run.deadline();
        if std::mem::take(&mut self.may_have_leftovers)
            && self.run.put_back(&name, deadline).await? != RestoredBy::Nothing
        {
            // That pair has ended the lease.
            self.run.leased(&name).lease = None;
            self.look_again().await?;
            return Ok(true);
        }
        if self.covers_a_request() {
            return Ok(false);
        }
        let before = self.token();
        let leased = self.run.lease(&name, self.is_for_login, None, deadline);
        self.stored = leased.await?;
        Ok(self.token() != before)
    }

    async fn rest(&mut self, pause: Duration, is_in_doubt: bool) {
        let login = &self.stored.snapshot.login.profile;
        self.run.leased(login).is_in_doubt = is_in_doubt;
        // Others would only get the same refusal.
        if !self.run.covers_a_request(login, pause) {
            self.run.release(login, false).await;
            self.had_company = true;
        }
    }

    async fn note_refusal(&mut self, token: Fingerprint, refusal: &Error) -> Result<bool> {
        let login = &self.stored.snapshot.login;
        let unanswered = self.stored.unanswered.as_ref();
        if let Some((_, who)) = unanswered.filter(|(sent, _)| *sent == token) {
            let (by, at) = (&who.by, second(who.at));
            log::warn!("{login}: {by} sent this refresh token at {at}, and got no answer");
        }
        let (token, words) = (token.to_string(), refusal.to_string());
        let is_dead = refusal.is_of_dead_token();
        let parameters = [
            text(&login.profile),
            text(&token),
            flag(&is_dead),
            text(&words),
        ];
        let run = &self.run;
        let noted = run
            .link
            .run(statements::NOTE_REFUSAL, &parameters, run.deadline());
        Ok(!noted.await?.0.is_empty())
    }

    async fn reserve(
        self,
        origin: &Origin<'_>,
        given: Overrides<'_>,
        plan: Option<&RefreshPlan>,
    ) -> Result<Reserved<Self>> {
        let view = View::of(&self.stored.snapshot, given)?;
        if !self.covers_a_request() || plan.is_some_and(|plan| !plan.holds(&view)) {
            return Ok(Reserved::Changed(self));
        }
        let facts = match origin {
            Origin::Login(_) => LoginFacts::of_login(&view)?,
            Origin::Refresh(_) => LoginFacts::of_refresh(&view, &self.stored.owner)?,
        };
        fail_point!("after-reserve");
        Ok(Reserved::Room(PostgresReservation {
            store_id: self.run.link.store_id(self.run.deadline()).await?,
            claim: self,
            facts,
        }))
    }
}

/// The proof that a pair can be saved: a lease that outlasts the request.
pub(crate) struct PostgresReservation {
    claim: PostgresClaim,
    store_id: String,
    facts: LoginFacts,
}

impl Reservation for PostgresReservation {
    type Claim = PostgresClaim;
    type Saved = PostgresSaved;

    fn snapshot(&self) -> &Snapshot {
        &self.claim.stored.snapshot
    }

    fn has_made(&self) -> bool {
        false
    }

    fn spent(&self) -> Vec<Fingerprint> {
        self.claim.stored.spent.clone()
    }

    async fn save(
        self,
        successor: Successor,
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<PostgresSaved> {
        let run = &self.claim.run;
        let saved = run.save(&self.store_id, &successor, &self.facts, is_hurried);
        let is_rotated = successor.fingerprint() != successor.predecessor;
        if let SaveOutcome::WasThere = saved.await?
            && !is_rotated
        {
            // The claim had passed to another, and what that one got is there.
            let name = &successor.profile;
            let there = run.look(name, false, run.deadline()).await?;
            let there = there.map(|stored| stored.snapshot.profile.pair.tokens);
            return Ok(PostgresSaved {
                tokens: there.unwrap_or_default(),
            });
        }
        let before = &self.snapshot().profile.pair.tokens;
        let tokens = successor.tokens.or_access_token_of(before);
        Ok(PostgresSaved { tokens })
    }

    fn keep_reply(&self, reply: &[u8]) -> Result<KeptReply> {
        let login = &self.snapshot().login;
        let keys = &self.claim.run.link.keys;
        let reply = match std::str::from_utf8(reply) {
            Ok(text) => text.to_owned(),
            Err(_) => reply.escape_ascii().to_string(),
        };
        let sealed = keys.seal(journal::REPLY_OWNER, &reply.into())?;
        let kept = journal::keep_reply(&self.store_id, &login.profile, &sealed);
        let path = kept.map_err(|error| {
            let message =
                format!("{login}: an unreadable reply could not be stored anywhere: {error}");
            Error::new(Kind::Unsaved, message)
                .with_unsaved(Tokens::default(), format!("{sealed}\n").into())
                .with_doubt()
                .with_hint(Hint::fixed(
                    "keep the sealed line above: feishu-refresh store import - opens it",
                    "请保存上面的密封行：可用 feishu-refresh store import - 打开",
                ))
        })?;
        let hint = hint_to_open(&path);
        Ok(KeptReply { path, hint })
    }

    fn release(self) -> PostgresClaim {
        self.claim
    }
}

fn hint_to_open(path: &Path) -> Hint {
    let path = quoted(&path.display().to_string());
    Hint::naming(
        format!(
            "it is sealed; this prints it: feishu-refresh store import - < {path}; if it holds a refresh token, put that into a section of this name in an INI file, delete the login's row, and move it with feishu-refresh store import -c FILE; otherwise log in again: feishu-refresh login"
        ),
        format!(
            "内容已密封，可用此命令显示：feishu-refresh store import - < {path}；若其中有 refresh_token，请写入 INI 文件中同名的节，删除该登录的行，再用 feishu-refresh store import -c 文件 移入；否则请重新登录：feishu-refresh login"
        ),
    )
}

/// A pair in the database.
pub(crate) struct PostgresSaved {
    tokens: Tokens,
}

impl Saved for PostgresSaved {
    fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The next one need not wait: the lease ended with the save.
    fn lock_name(&self) -> Option<String> {
        None
    }
}
