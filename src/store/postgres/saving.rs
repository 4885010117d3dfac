//! A pair on its way into the database.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use secrecy::SecretString;

use super::facts::{LoginFacts, StoredApp, app_owner};
use super::journal::{self, Journal};
use super::link::Pauses;
use super::row::APP_TOKEN;
use super::run::Run;
use super::sealing::SecretOwner;
use super::statement_error::StatementError;
use super::statements::{self, flag, moment, text};
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::programs::quoted;
use crate::profile::Successor;
use crate::token::Fingerprint;

/// How long a save is still tried once a signal waits.
const HURRIED: Duration = Duration::from_secs(5);

/// How long it is tried at least, however short the wait for another run is.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// How often to check whether one waits.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(100);

/// The result of a save.
pub(super) enum SaveOutcome {
    /// The row now has the pair.
    Saved,
    /// It already had it or its successor.
    WasThere,
    /// Another pair is there, or none.
    Conflict(&'static str),
}

impl Run {
    /// Saves a pair: to a journal here, then to the database. Returns whether this run did it.
    ///
    /// # Errors
    /// [`Kind::Unsaved`], naming the journal that holds the pair, or with the sealed pair itself.
    pub(super) async fn save(
        &self,
        store_id: &str,
        pair: &Successor,
        facts: &LoginFacts,
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<SaveOutcome> {
        fail_point!("before-record");
        let line = journal::sealed(&self.link.keys, pair, facts)
            .map_err(|error| self.not_sealed(pair, &error))?;
        let journal = Journal::write(store_id, &pair.profile, &line);
        fail_point!("after-record");
        let outcome = self.save_again_and_again(pair, facts, journal.as_ref(), is_hurried);
        match outcome.await {
            Ok(outcome @ (SaveOutcome::Saved | SaveOutcome::WasThere)) => {
                fail_point!("before-journal-is-removed");
                journal.into_iter().for_each(Journal::remove);
                // The lease ended with it.
                if let Some(app) = self.forget(&pair.profile) {
                    self.round.has_worked(&app);
                }
                self.save_app_token(pair, facts).await;
                Ok(outcome)
            }
            Ok(SaveOutcome::Conflict(why)) => {
                self.leave_alone(&pair.profile);
                Err(self.unsaved(pair, why, &line, journal, true))
            }
            Err(failed) => {
                // Others must not take the row's token for unspent: the lease says until its end, and then to its next
                // holder, that it was sent.
                self.leave_alone(&pair.profile);
                Err(self.unsaved(pair, &failed.words, &line, journal, false))
            }
        }
    }

    async fn save_again_and_again(
        &self,
        pair: &Successor,
        facts: &LoginFacts,
        journal: Option<&Journal>,
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<SaveOutcome, StatementError> {
        let mut end = Instant::now() + self.patience.max(LEAST_PATIENCE);
        let mut pauses = Pauses::default();
        let mut has_failed = false;
        loop {
            let tried = Box::pin(self.try_to_save(pair, facts, false));
            let failed = match in_haste(tried, &mut end, is_hurried).await {
                Some(Ok(outcome)) => return Ok(outcome),
                Some(Err(failed)) => failed,
                None => StatementError::given_up(),
            };
            if !has_failed {
                // It may have to outlive this run.
                journal.into_iter().for_each(Journal::sync);
                log::warn!(
                    "[{}] of {}: rotated, but not saved yet: {}; trying again",
                    pair.profile,
                    self.link.shown(),
                    failed.words
                );
            }
            has_failed = true;
            let pause = tokio::time::sleep(pauses.next());
            if in_haste(pause, &mut end, is_hurried).await.is_none() {
                return Err(failed);
            }
        }
    }

    /// Tries once. A pair that an earlier run left replaces only what was there then.
    pub(super) async fn try_to_save(
        &self,
        pair: &Successor,
        facts: &LoginFacts,
        is_leftover: bool,
    ) -> Result<SaveOutcome, StatementError> {
        fail_point!("before-save");
        let is_saved = if facts.is_login {
            self.try_to_save_login(pair, facts, is_leftover).await?
        } else {
            self.try_to_save_rotation(pair, facts).await?
        };
        if is_saved {
            fail_point!("after-commit");
            return Ok(SaveOutcome::Saved);
        }
        let new = pair.fingerprint();
        Ok(match self.tokens_there(&pair.profile, new).await? {
            None => SaveOutcome::Conflict("the login was deleted there"),
            Some(there) if there.has_spent || there.held == new => SaveOutcome::WasThere,
            Some(_) => SaveOutcome::Conflict("another login is there now"),
        })
    }

    async fn try_to_save_rotation(
        &self,
        pair: &Successor,
        facts: &LoginFacts,
    ) -> Result<bool, StatementError> {
        let sealed = self.sealed(pair, &facts.owner)?;
        let predecessor = pair.predecessor.map(words);
        let successor = pair.fingerprint().map(words);
        let tokens = &pair.tokens;
        let sets_end = !pair.keeps_refresh_expiry || tokens.refresh_expires_at.is_some();
        let names_scope = pair.api.names_scope();
        let api = pair.api.name();
        let parameters = [
            text(&pair.profile),
            text(&predecessor),
            text(&successor),
            text(&self.id),
            text(&sealed.refresh),
            moment(&tokens.refresh_expires_at),
            flag(&sets_end),
            text(&sealed.access),
            moment(&tokens.access_expires_at),
            text(&tokens.scope),
            flag(&names_scope),
            text(&api),
        ];
        let (rows, _) = self.link.try_once(statements::SAVE, &parameters).await?;
        Ok(!rows.is_empty())
    }

    async fn try_to_save_login(
        &self,
        pair: &Successor,
        facts: &LoginFacts,
        is_leftover: bool,
    ) -> Result<bool, StatementError> {
        self.save_app(facts.app.as_ref(), statements::SAVE_APP)
            .await?;
        let sealed = self.sealed(pair, &facts.owner)?;
        let (new, before) = (pair.fingerprint().map(words), pair.held.map(words));
        let tokens = &pair.tokens;
        let api = pair.api.name();
        let (app_id, service) = facts.app.as_ref().map(StoredApp::key).unzip();
        let parameters = [
            text(&pair.profile),
            text(&new),
            text(&sealed.refresh),
            moment(&tokens.refresh_expires_at),
            text(&sealed.access),
            moment(&tokens.access_expires_at),
            text(&tokens.scope),
            text(&api),
            text(&facts.addresses.base),
            text(&facts.addresses.accounts),
            text(&facts.addresses.token),
            text(&app_id),
            text(&service),
            flag(&is_leftover),
            text(&before),
        ];
        let (rows, _) = self
            .link
            .try_once(statements::SAVE_LOGIN, &parameters)
            .await?;
        Ok(!rows.is_empty())
    }

    /// Stores an app with its secrets, and a row for its pace.
    pub(super) async fn save_app(
        &self,
        app: Option<&StoredApp>,
        statement: &str,
    ) -> Result<(), StatementError> {
        let Some(app) = app else {
            return Ok(());
        };
        let name = app_owner(app.key());
        let secret = self.seal(&name, "app_secret", app.secret.as_ref())?;
        let ticket = self.seal(&name, "app_ticket", app.ticket.as_ref())?;
        let (id, service) = (text(&app.id), text(&app.service));
        let parameters = [id.clone(), service.clone(), text(&secret), text(&ticket)];
        self.link.try_once(statement, &parameters).await?;
        self.link
            .try_once(statements::SAVE_PACE, &[id, service])
            .await?;
        Ok(())
    }

    /// Stores an app token that was fetched on the way. Without it, the next run fetches another.
    async fn save_app_token(&self, pair: &Successor, facts: &LoginFacts) {
        let (Some(token), Some(app)) = (&pair.app_token, &facts.app) else {
            return;
        };
        let name = app_owner(app.key());
        let Ok(sealed) = self.seal(&name, APP_TOKEN, Some(&token.token)) else {
            return;
        };
        let parameters = [
            text(&app.id),
            text(&app.service),
            text(&sealed),
            moment(&token.expires_at),
        ];
        if let Err(failed) = self
            .link
            .try_once(statements::SAVE_APP_TOKEN, &parameters)
            .await
        {
            log::info!("the app_access_token is not kept: {}", failed.words);
        }
    }

    fn sealed(&self, pair: &Successor, owner: &str) -> Result<SealedPair, StatementError> {
        let seal =
            |column, secret: &Option<SecretString>| self.seal(owner, column, secret.as_ref());
        Ok(SealedPair {
            access: seal("access_token", &pair.tokens.access_token)?,
            refresh: seal("refresh_token", &pair.tokens.refresh_token)?,
        })
    }

    /// Seals a secret, if there is one.
    pub(super) fn seal(
        &self,
        name: &str,
        column: &'static str,
        secret: Option<&SecretString>,
    ) -> Result<Option<String>, StatementError> {
        let owner = SecretOwner { name, column };
        let sealed = secret.map(|secret| self.link.keys.seal(owner, secret));
        sealed
            .transpose()
            .map_err(|error| StatementError::unusable(&error))
    }

    /// Saves what runs on this host could not save, or have not yet.
    ///
    /// # Errors
    /// What went wrong with the database: then it is unknown whether the token there is spent.
    /// [`Kind::Config`] if a journal is sealed with another key.
    pub(super) async fn put_back(&self, login: &str, deadline: Instant) -> Result<RestoredBy> {
        let store_id = self.link.store_id(deadline).await?;
        let mut done = RestoredBy::Nothing;
        for leftover in journal::leftovers(&store_id, login, &self.link.keys) {
            let path = leftover.path.display();
            let (pair, facts) = match &leftover.pair {
                Ok((pair, facts)) if pair.profile == login => (pair, facts),
                Err(error) if leftover.has_other_key => {
                    return Err(Error::config(format!("{path}: {error}"))
                        .with_hint(error.hint().cloned().unwrap_or(KEEP_JOURNAL)));
                }
                _ => {
                    leftover.put_aside("has no pair that opens with this store's keys");
                    continue;
                }
            };
            let try_to_save = async || self.try_to_save(pair, facts, true).await;
            match self.link.again(deadline, try_to_save).await? {
                SaveOutcome::Saved if leftover.is_dead => {
                    log::warn!("{path} held what an earlier run could not save: it is saved now");
                    done = RestoredBy::ByDead;
                    leftover.remove();
                }
                // Its run lives, but is slow or stopped: it will find its pair saved.
                SaveOutcome::Saved => done = RestoredBy::ByLiving,
                SaveOutcome::WasThere => leftover.remove(),
                SaveOutcome::Conflict(_) => leftover.put_aside("no longer fits the login"),
            }
        }
        Ok(done)
    }

    /// The error for a pair that cannot be sealed: it is shown in plain, as losing it would be worse.
    fn not_sealed(&self, pair: &Successor, why: &Error) -> Error {
        let place = format!("[{}] of {}", pair.profile, self.link.shown());
        let message = format!("{place}: rotated, but the new pair could not be sealed: {why}");
        Error::new(Kind::Unsaved, message)
            .with_unsaved(pair.tokens.clone(), pair.lines())
            .with_hint(Hint::fixed(
                "put the lines above into a section of that name in an INI file, delete the login's row, and move it with feishu-refresh store import -c FILE",
                "请将上面的各行写入 INI 文件中同名的节，删除该登录的行，再用 feishu-refresh store import -c 文件 移入",
            ))
    }

    /// The error for a pair that the database did not take. It is on disk, or in the error.
    fn unsaved(
        &self,
        pair: &Successor,
        why: &str,
        line: &str,
        journal: Option<Journal>,
        is_conflict: bool,
    ) -> Error {
        let place = format!("[{}] of {}", pair.profile, self.link.shown());
        let Some(journal) = journal else {
            let message =
                format!("{place}: rotated, but the new pair could not be saved anywhere: {why}");
            let error = Error::new(Kind::Unsaved, message)
                .with_unsaved(pair.tokens.clone(), format!("{line}\n").into());
            return error.with_hint(if is_conflict {
                OVERTAKEN
            } else {
                Hint::fixed(
                    "keep the sealed line above, and give it to stdin of: feishu-refresh store import -",
                    "请保存上面的密封行，并通过标准输入交给：feishu-refresh store import -",
                )
            });
        };
        journal.sync();
        let path = journal.path.display().to_string();
        let message =
            format!("{place}: rotated, but not saved: {why}; the new pair is in {path}, sealed");
        let file = quoted(&path);
        Error::new(Kind::Unsaved, message).with_hint(if is_conflict {
            OVERTAKEN
        } else {
            Hint::naming(
                format!("keep {path}: nothing else holds the new refresh token; the next run on this host saves it; elsewhere: feishu-refresh store import - < {file}"),
                format!("请保留 {path}：新的 refresh_token 仅存于此；本机下次运行会写入；在其他主机上：feishu-refresh store import - < {file}"),
            )
        })
    }
}

/// The result for a journal on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestoredBy {
    Nothing,
    /// The pair of a live run is saved: it may be slow, or stopped.
    ByLiving,
    /// The pair of a dead run is saved.
    ByDead,
}

const OVERTAKEN: Hint = Hint::fixed(
    "find out who wrote there; if the login there works, nothing more is needed; otherwise log in again: feishu-refresh login",
    "请查明是谁写入的；若现有登录可用，则无需处理；否则请重新登录：feishu-refresh login",
);

const KEEP_JOURNAL: Hint = Hint::fixed(
    "also give the key that it was sealed with: it holds the login's newest refresh token",
    "请同时提供当初封存它的密钥：其中保存着该登录最新的 refresh_token",
);

/// Tokens in the form that the database gets.
struct SealedPair {
    access: Option<String>,
    refresh: Option<String>,
}

fn words(token: Fingerprint) -> String {
    token.to_string()
}

/// Waits for something until `end`, which is sooner once a signal waits. None if it did not come.
async fn in_haste<T>(
    what: impl Future<Output = T>,
    end: &mut Instant,
    is_hurried: &dyn Fn() -> bool,
) -> Option<T> {
    let mut what = pin!(what);
    let mut was_hurried = false;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let look = pin!(tokio::time::sleep(left.min(LOOK_FOR_SIGNALS)));
        match select(what.as_mut(), look).await {
            Either::Left((done, _)) => return Some(done),
            Either::Right(_) if left.is_zero() => return None,
            // Only now: what finishes at once needs no watch for signals.
            Either::Right(_) if !was_hurried && is_hurried() => {
                was_hurried = true;
                *end = (*end).min(Instant::now() + HURRIED);
            }
            Either::Right(_) => {}
        }
    }
}
