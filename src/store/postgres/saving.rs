//! A pair on its way into the database.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use secrecy::SecretString;

use super::Inner;
use super::database::Pauses;
use super::journal::{self, Journal};
use super::row::{self, app_name, flag, login_name, moment, text};
use super::sealing::Owner;
use super::trouble::Trouble;
use crate::error::{Error, Hint, Kind, Result};
use crate::profile::{Addresses, Origin, Successor, View};
use crate::token::Fingerprint;

/// How long a save is still tried once a signal waits.
const HURRIED: Duration = Duration::from_secs(5);

/// How often it is looked whether one waits.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(100);

/// What is saved beside the pair.
#[derive(Clone, Default)]
pub(super) struct Facts {
    /// Whether a consent brought the pair, so that all of this is saved with it.
    pub(super) is_login: bool,
    /// The login's own addresses, with which its secrets are sealed.
    pub(super) addresses: Addresses,
    /// The app that the pair is of.
    pub(super) app: Option<App>,
}

/// An app, as it is kept for its logins.
#[derive(Clone)]
pub(super) struct App {
    pub(super) id: String,
    pub(super) service: String,
    /// Only where they are to be saved.
    pub(super) secret: Option<SecretString>,
    pub(super) ticket: Option<SecretString>,
}

impl Facts {
    /// What a login is, as it is seen now: that is what a consent saves with the pair.
    ///
    /// # Errors
    /// [`Kind::Config`] if an address is none.
    pub(super) fn of(view: &View<'_>, origin: &Origin<'_>) -> Result<Self> {
        let is_login = matches!(origin, Origin::Login);
        let kept = view.kept()?;
        // What came from outside for one run is not for the others.
        let is_own = is_login || !view.is_for_another_app_or_host();
        let app = kept.app_id.filter(|_| is_own);
        let own = &view.snapshot().profile.own;
        Ok(Facts {
            is_login,
            addresses: if is_login {
                kept.addresses
            } else {
                own.clone()
            },
            app: app.map(|id| App {
                id,
                service: kept.service,
                secret: kept.app_secret,
                ticket: kept.app_ticket,
            }),
        })
    }
}

/// What became of a save.
pub(super) enum Outcome {
    /// The row has the pair now.
    Saved,
    /// It had it before, or what came after it.
    WasThere,
    /// Another pair stands there, or none.
    Conflict(&'static str),
}

impl Inner {
    /// Saves a pair: into a journal here, then into the database.
    ///
    /// # Errors
    /// [`Kind::Unsaved`], naming the journal that holds the pair, or with the sealed pair itself.
    pub(super) async fn save(
        &self,
        store_id: &str,
        pair: &Successor,
        facts: &Facts,
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<()> {
        fail_point!("before-record");
        let line = journal::sealed(&self.database.keys, pair, facts)?;
        let journal = Journal::write(store_id, &pair.profile, &line);
        fail_point!("after-record");
        let outcome = self.save_again_and_again(pair, facts, journal.as_ref(), is_hurried);
        match outcome.await {
            Ok(Outcome::Saved | Outcome::WasThere) => {
                fail_point!("before-journal-is-removed");
                journal.into_iter().for_each(Journal::remove);
                // The lease has ended with it.
                self.forget_lease(&pair.profile);
                self.save_app_token(pair, facts).await;
                Ok(())
            }
            Ok(Outcome::Conflict(why)) => Err(self.unsaved(pair, why, &line, journal)),
            Err(trouble) => {
                // Others must not take the row's token for unspent: the lease says until its end, and
                // then to the next, that it was sent.
                self.forget_lease(&pair.profile);
                Err(self.unsaved(pair, &trouble.words, &line, journal))
            }
        }
    }

    /// This run does not give the lease of a login back.
    fn forget_lease(&self, login: &str) {
        self.leased.borrow_mut().retain(|name| name != login);
    }

    async fn save_again_and_again(
        &self,
        pair: &Successor,
        facts: &Facts,
        journal: Option<&Journal>,
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<Outcome, Trouble> {
        let mut end = Instant::now() + self.patience;
        let mut pauses = Pauses::default();
        let mut has_failed = false;
        loop {
            let tried = Box::pin(self.try_to_save(pair, facts, false));
            let trouble = match in_haste(tried, &mut end, is_hurried).await {
                Some(Ok(outcome)) => return Ok(outcome),
                Some(Err(trouble)) => trouble,
                None => Trouble::given_up(),
            };
            if !has_failed {
                // It may have to last longer than this run.
                journal.into_iter().for_each(Journal::sync);
                log::warn!(
                    "[{}] of {}: rotated, but not saved yet: {}; trying again",
                    pair.profile,
                    self.database.shown(),
                    trouble.words
                );
            }
            has_failed = true;
            let pause = tokio::time::sleep(pauses.next());
            if in_haste(pause, &mut end, is_hurried).await.is_none() {
                return Err(trouble);
            }
        }
    }

    /// Tries once. A pair that an earlier run left takes the place of what stood there then, and of
    /// nothing else.
    pub(super) async fn try_to_save(
        &self,
        pair: &Successor,
        facts: &Facts,
        is_leftover: bool,
    ) -> Result<Outcome, Trouble> {
        fail_point!("before-save");
        let is_saved = if facts.is_login {
            self.try_to_save_login(pair, facts, is_leftover).await?
        } else {
            self.try_to_save_rotation(pair, facts).await?
        };
        if is_saved {
            fail_point!("after-commit");
            return Ok(Outcome::Saved);
        }
        let new = pair.fingerprint().map(print);
        let parameters = [text(&pair.profile), text(&new)];
        let (rows, _) = self.database.try_once(row::HAS, &parameters).await?;
        Ok(match rows.first().map(|row| row.get(0)) {
            Some(true) => Outcome::WasThere,
            Some(false) => Outcome::Conflict("another login stands there by now"),
            None => Outcome::Conflict("the login was deleted there"),
        })
    }

    async fn try_to_save_rotation(&self, pair: &Successor, facts: &Facts) -> Result<bool, Trouble> {
        let sealed = self.sealed(pair, &facts.addresses)?;
        let predecessor = pair.predecessor.map(print);
        let successor = pair.fingerprint().map(print);
        let tokens = &pair.tokens;
        let sets_end = !pair.keeps_refresh_expiry || tokens.refresh_expires_at.is_some();
        let names_scope = pair.api.names_scope();
        let api = pair.api.name();
        let parameters = [
            text(&pair.profile),
            text(&predecessor),
            text(&successor),
            text(&self.run),
            text(&sealed.refresh),
            moment(&tokens.refresh_expires_at),
            flag(&sets_end),
            text(&sealed.access),
            moment(&tokens.access_expires_at),
            text(&tokens.scope),
            flag(&names_scope),
            text(&api),
        ];
        let (rows, _) = self.database.try_once(row::SAVE, &parameters).await?;
        Ok(!rows.is_empty())
    }

    async fn try_to_save_login(
        &self,
        pair: &Successor,
        facts: &Facts,
        is_leftover: bool,
    ) -> Result<bool, Trouble> {
        self.save_app(facts.app.as_ref(), row::SAVE_APP).await?;
        let sealed = self.sealed(pair, &facts.addresses)?;
        let (new, held) = (pair.fingerprint().map(print), pair.held.map(print));
        let tokens = &pair.tokens;
        let api = pair.api.name();
        let app_id = facts.app.as_ref().map(|app| app.id.as_str());
        let service = facts.app.as_ref().map(|app| app.service.as_str());
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
            text(&held),
        ];
        let (rows, _) = self.database.try_once(row::SAVE_LOGIN, &parameters).await?;
        Ok(!rows.is_empty())
    }

    /// Keeps an app with its secrets, and a place in the row of those who wait for it.
    pub(super) async fn save_app(&self, app: Option<&App>, statement: &str) -> Result<(), Trouble> {
        let Some(app) = app else {
            return Ok(());
        };
        let name = app_name(Some(&app.id), Some(&app.service));
        let secret = self.seal(&name, "app_secret", app.secret.as_ref())?;
        let ticket = self.seal(&name, "app_ticket", app.ticket.as_ref())?;
        let (id, service) = (text(&app.id), text(&app.service));
        let parameters = [id.clone(), service.clone(), text(&secret), text(&ticket)];
        self.database.try_once(statement, &parameters).await?;
        self.database
            .try_once(row::SAVE_PACE, &[id, service])
            .await?;
        Ok(())
    }

    /// Keeps an app token that was fetched on the way. Without it the next run fetches another.
    async fn save_app_token(&self, pair: &Successor, facts: &Facts) {
        let (Some(token), Some(app)) = (&pair.app_token, &facts.app) else {
            return;
        };
        let name = app_name(Some(&app.id), Some(&app.service));
        let Ok(sealed) = self.seal(&name, row::APP_TOKEN, Some(&token.token)) else {
            return;
        };
        let parameters = [
            text(&app.id),
            text(&app.service),
            text(&sealed),
            moment(&token.expires_at),
        ];
        if let Err(trouble) = self
            .database
            .try_once(row::SAVE_APP_TOKEN, &parameters)
            .await
        {
            log::info!("the app_access_token is not kept: {}", trouble.words);
        }
    }

    fn sealed(&self, pair: &Successor, addresses: &Addresses) -> Result<SealedPair, Trouble> {
        let owner = login_name(&pair.profile, addresses);
        let seal =
            |column, secret: &Option<SecretString>| self.seal(&owner, column, secret.as_ref());
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
    ) -> Result<Option<String>, Trouble> {
        let owner = Owner { name, column };
        let sealed = secret.map(|secret| self.database.keys.seal(owner, secret));
        sealed
            .transpose()
            .map_err(|error| Trouble::unusable(&error))
    }

    /// Saves what runs on this host could not. Says whether something was saved.
    ///
    /// # Errors
    /// What went wrong with the database: then it is not known whether the token there is spent.
    pub(super) async fn put_back(&self, login: &str, deadline: Instant) -> Result<bool> {
        let store_id = self.database.store_id(deadline).await?;
        let mut has_saved = false;
        for leftover in journal::leftovers(&store_id, login, &self.database.keys) {
            let path = leftover.path.display();
            let (pair, facts) = match &leftover.held {
                Ok((pair, facts)) if pair.profile == login => (pair, facts),
                _ => {
                    leftover.put_aside("holds no pair that opens with this store's keys");
                    continue;
                }
            };
            let try_to_save = async || self.try_to_save(pair, facts, true).await;
            let outcome = self.database.again(deadline, try_to_save).await?;
            match outcome {
                Outcome::Saved if leftover.is_dead => {
                    log::warn!("{path} held what an earlier run could not save: it is saved now");
                    has_saved = true;
                    leftover.remove();
                }
                // Its run lives, and is slow or stopped: it finds its pair saved.
                Outcome::Saved | Outcome::WasThere => leftover.remove(),
                Outcome::Conflict(_) => leftover.put_aside("does not fit the login any more"),
            }
        }
        Ok(has_saved)
    }

    /// The error for a pair that the database did not take. What holds it is on disk, or in the error.
    fn unsaved(&self, pair: &Successor, why: &str, line: &str, journal: Option<Journal>) -> Error {
        let place = format!("[{}] of {}", pair.profile, self.database.shown());
        let Some(journal) = journal else {
            let message =
                format!("{place}: rotated, but the new pair could be saved nowhere: {why}");
            return Error::new(Kind::Unsaved, message)
                .with_unsaved(pair.tokens.clone(), format!("{line}\n").into())
                .with_hint(Hint::fixed(
                    "keep the sealed line above, and give it to stdin of: feishu-refresh store import -",
                    "请保存上面的密封行，并通过标准输入交给：feishu-refresh store import -",
                ));
        };
        journal.sync();
        let path = journal.path.display();
        let message =
            format!("{place}: rotated, but not saved: {why}; the new pair is in {path}, sealed");
        Error::new(Kind::Unsaved, message).with_hint(Hint::naming(
            format!("keep {path}: nothing else holds the new refresh token; the next run on this host saves it; elsewhere: feishu-refresh store import - < {path}"),
            format!("请保留 {path}：新的 refresh_token 仅存于此；本机下次运行会写入；在其他主机上：feishu-refresh store import - < {path}"),
        ))
    }
}

/// Tokens as the database gets them.
struct SealedPair {
    access: Option<String>,
    refresh: Option<String>,
}

fn print(print: Fingerprint) -> String {
    print.to_string()
}

/// Waits for something until `end`, which comes sooner once a signal waits. None if it did not come.
async fn in_haste<T>(
    what: impl Future<Output = T>,
    end: &mut Instant,
    is_hurried: &dyn Fn() -> bool,
) -> Option<T> {
    let mut what = pin!(what);
    let mut was_hurried = false;
    loop {
        if !was_hurried && is_hurried() {
            was_hurried = true;
            *end = (*end).min(Instant::now() + HURRIED);
        }
        let left = end.saturating_duration_since(Instant::now());
        let look = pin!(tokio::time::sleep(left.min(LOOK_FOR_SIGNALS)));
        match select(what.as_mut(), look).await {
            Either::Left((done, _)) => return Some(done),
            Either::Right(_) if left.is_zero() => return None,
            Either::Right(_) => {}
        }
    }
}
