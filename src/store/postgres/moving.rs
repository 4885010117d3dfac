//! The database's part of moving a login: held back, then freed.

use std::time::Instant;

use jiff::Timestamp;
use tokio_postgres::types::Type;

use super::facts::{LoginFacts, StoredApp, login_owner};
use super::journal;
use super::row::{APP_TOKEN, LoginState};
use super::run::Run;
use super::saving::SaveOutcome;
use super::statement_error::StatementError;
use super::statements::{self, flag, moment, text};
use crate::error::{Error, Hint, Result};
use crate::profile::AppAndAddresses;
use crate::protocol::Api;
use crate::token::{ExposeSecret, Fingerprint, SecretString, Tokens, later};

/// A login that comes from a file.
pub(crate) struct ImportedLogin {
    pub(crate) api: Api,
    pub(crate) tokens: Tokens,
    pub(crate) app_and_addresses: AppAndAddresses,
    /// An app token, and when that ends.
    pub(crate) app_token: Option<SecretString>,
    pub(crate) app_token_end: Option<Timestamp>,
    /// Whether a dead run had sent its token.
    pub(crate) may_be_spent: bool,
}

/// What the database has under a login's name.
pub(crate) enum FoundLogin {
    /// Nothing, or what was held back from the same file: now this login, held back.
    Held,
    /// The same token, free for use.
    Same,
    /// This login, held back with this token, a successor of the file's.
    Successor(Fingerprint),
    /// This login, free for use, with a successor of the file's token.
    Spent,
    /// Another login, described like this.
    Other(&'static str),
}

/// What a sealed line was.
pub(crate) enum SealedLine {
    /// The pair of this login, which is saved now.
    Saved(String),
    /// The pair of a login that already had it or its successor.
    WasThere(String),
    /// A reply that could not be understood.
    Reply(SecretString),
}

impl Run {
    /// Makes sure that the database can be used, with these keys.
    ///
    /// # Errors
    /// What is wrong with it, or with them.
    pub(crate) async fn check(&self, deadline: Instant) -> Result<()> {
        self.check_keys(deadline).await
    }

    /// Commits a login from a file, held back. `known` are its token and those that the file has spent for it.
    ///
    /// # Errors
    /// What went wrong with the database. The login may be held back anyway.
    pub(crate) async fn hold(
        &self,
        name: &str,
        imported: &ImportedLogin,
        known: &[Fingerprint],
        deadline: Instant,
    ) -> Result<FoundLogin> {
        let link = &self.link;
        let hold = async || self.try_to_hold(name, imported, known).await;
        if link.again(deadline, hold).await? {
            return Ok(FoundLogin::Held);
        }
        let token = imported.tokens.refresh_token.as_ref().map(Fingerprint::of);
        let look = async || self.tokens_there(name, token).await;
        let Some(there) = link.again(deadline, look).await? else {
            return Ok(FoundLogin::Other(
                "the same refresh token, or its successor, under another name",
            ));
        };
        Ok(match (there.state, there.held) {
            (LoginState::Held, Some(own)) if there.has_spent => FoundLogin::Successor(own),
            (LoginState::Held, _) => {
                FoundLogin::Other("another login being moved there, by that name")
            }
            (LoginState::Empty, _) => FoundLogin::Other("a login in progress by that name"),
            (_, own) if own == token => FoundLogin::Same,
            _ if there.has_spent => FoundLogin::Spent,
            _ => FoundLogin::Other("another login by that name"),
        })
    }

    async fn try_to_hold(
        &self,
        name: &str,
        imported: &ImportedLogin,
        known: &[Fingerprint],
    ) -> Result<bool, StatementError> {
        let app_and_addresses = &imported.app_and_addresses;
        let app = app_and_addresses.app_id.as_ref().map(|id| StoredApp {
            id: id.clone(),
            service: app_and_addresses.service.clone(),
            secret: app_and_addresses.app_secret.clone(),
            ticket: app_and_addresses.app_ticket.clone(),
        });
        let key = app.as_ref().map(StoredApp::key);
        self.save_app(app.as_ref(), statements::ADD_APP).await?;
        let owner = login_owner(name, &app_and_addresses.addresses, key);
        let seal =
            |column, secret: &Option<SecretString>| self.seal(&owner, column, secret.as_ref());
        let ahead = self.link.clock_ahead();
        let tokens = imported.tokens.clone().by_clock(ahead);
        let refresh = seal("refresh_token", &tokens.refresh_token)?;
        let access = seal("access_token", &tokens.access_token)?;
        let app_token = seal(APP_TOKEN, &imported.app_token)?;
        let app_token_end = imported.app_token_end.map(|end| later(end, ahead));
        let token = tokens.refresh_token.as_ref().map(Fingerprint::of);
        let token = token.map(|token| token.to_string());
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        // The latest first, as in the row.
        let mut spent = known
            .iter()
            .rev()
            .filter(|known| Some(*known) != token.as_ref());
        let previous = spent.next().cloned();
        let older: Vec<String> = spent.cloned().collect();
        let api = imported.api.name();
        let (app_id, service) = key.unzip();
        let parameters = [
            text(&name),
            text(&token),
            text(&refresh),
            moment(&tokens.refresh_expires_at),
            text(&access),
            moment(&tokens.access_expires_at),
            text(&tokens.scope),
            text(&api),
            text(&app_and_addresses.addresses.base),
            text(&app_and_addresses.addresses.accounts),
            text(&app_and_addresses.addresses.token),
            text(&app_id),
            text(&service),
            flag(&imported.may_be_spent),
            text(&self.holder),
            (&known as _, Type::TEXT_ARRAY),
            text(&app_token),
            moment(&app_token_end),
            text(&previous),
            (&older as _, Type::TEXT_ARRAY),
        ];
        fail_point!("before-hold");
        let (rows, _) = self.link.try_once(statements::HOLD, &parameters).await?;
        Ok(!rows.is_empty())
    }

    /// Whether a login known by one of these tokens is held back.
    ///
    /// # Errors
    /// What went wrong with the database.
    pub(crate) async fn holds_back(
        &self,
        name: &str,
        known: &[Fingerprint],
        deadline: Instant,
    ) -> Result<bool> {
        let look = async || self.tokens_there(name, None).await;
        let Some(there) = self.link.again(deadline, look).await? else {
            return Ok(false);
        };
        let is_known = there.held.is_some_and(|held| known.contains(&held));
        Ok(there.state == LoginState::Held && is_known)
    }

    /// Makes sure that the stored secrets open, before the file loses its own.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if it does not.
    pub(crate) async fn check_opens(&self, name: &str, deadline: Instant) -> Result<()> {
        let parameters = [text(&name)];
        let looked = self.link.run(statements::LOOK, &parameters, deadline);
        let (rows, connection) = looked.await?;
        let reader = self.link.reader(&connection, false);
        rows.iter().try_for_each(|row| reader.check(row))
    }

    /// Frees a login that was held back with one of these tokens: from now on runs may claim it.
    ///
    /// # Errors
    /// What went wrong with the database.
    pub(crate) async fn free(
        &self,
        name: &str,
        known: &[Fingerprint],
        deadline: Instant,
    ) -> Result<()> {
        let prints: Vec<String> = known.iter().map(ToString::to_string).collect();
        let parameters = [text(&name), (&prints as _, Type::TEXT_ARRAY)];
        let freed = self.link.run(statements::FREE, &parameters, deadline);
        freed.await.map(drop)
    }

    /// Imports a sealed line that a run printed, or left in a journal.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if it does not open with these keys, or another login is there.
    pub(crate) async fn take_line(&self, line: &str, deadline: Instant) -> Result<SealedLine> {
        let keys = &self.link.keys;
        if let Ok(reply) = keys.open(journal::REPLY_OWNER, line.trim()) {
            return Ok(SealedLine::Reply(reply));
        }
        let (pair, facts): (_, LoginFacts) = journal::opened(keys, line)?;
        let save = async || self.try_to_save(&pair, &facts, true).await;
        let name = pair.profile.clone();
        match self.link.again(deadline, save).await? {
            SaveOutcome::Saved => Ok(SealedLine::Saved(name)),
            SaveOutcome::WasThere => Ok(SealedLine::WasThere(name)),
            SaveOutcome::Conflict(why) => {
                let store = self.link.shown();
                let message = format!("[{name}] of {store} cannot take this pair: {why}");
                Err(Error::config(message).with_hint(Hint::fixed(
                    "nothing was changed; if that login does not work, log in again: feishu-refresh login",
                    "未做任何更改；若该登录无法使用，请重新登录：feishu-refresh login",
                )))
            }
        }
    }
}

/// Finds the sealed line in stdin: a journal, or a run's whole output.
pub(crate) fn sealed_line(text: &SecretString) -> Option<&str> {
    let mut lines = text.expose_secret().lines();
    lines.find(|line| journal::is_sealed(line))
}
