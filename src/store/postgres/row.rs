//! Reads rows of the table `login`. Whatever they hold, nothing here panics.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::facts::{AppKey, app_owner, login_owner};
use super::sealing::{Keys, SecretOwner};
use crate::error::{Error, Hint, Result};
use crate::profile::values::{Addresses, StatedApi};
use crate::profile::{LoginId, Pair, Profile, Snapshot, SpentTokens};
use crate::protocol::Api;
use crate::store::notes::{Refused, RunAndTime};
use crate::token::{Fingerprint, Tokens};

/// The column of an app token, of an app or of a login.
pub(super) const APP_TOKEN: &str = "app_access_token";

/// What a row says.
pub(super) struct StoredLogin {
    pub(super) snapshot: Snapshot,
    pub(super) state: LoginState,
    /// The app of its requests.
    pub(super) app: AppKey,
    /// What its secrets are bound to.
    pub(super) owner: String,
    /// The predecessors of its token, as far back as known.
    pub(super) spent: Vec<Fingerprint>,
    /// The lease's holder, and its end.
    pub(super) lease: Option<RunAndTime>,
    /// Who sent a token last.
    pub(super) sender: Option<RunAndTime>,
    /// A token that was sent by a run which then died.
    pub(super) unanswered: Option<(Fingerprint, RunAndTime)>,
    pub(super) refused: Option<Refused>,
}

/// The state of a login in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginState {
    /// A consent is being asked for, and none was given before.
    Empty,
    /// It is being moved from a file.
    Held,
    Live,
    Refused,
}

impl LoginState {
    pub(super) fn named(name: &str) -> Self {
        match name {
            "held" => LoginState::Held,
            "live" => LoginState::Live,
            "refused" => LoginState::Refused,
            _ => LoginState::Empty,
        }
    }

    /// Whether this store may use the login: while it is being moved, it still belongs to the file.
    fn is_here(self) -> bool {
        matches!(self, LoginState::Live | LoginState::Refused)
    }
}

/// Where a login's requests go.
struct Destination {
    addresses: Addresses,
    /// The app's id, and its host.
    app: Option<(String, String)>,
}

/// What is needed to read a row.
#[derive(Clone, Copy)]
pub(super) struct RowReader<'r> {
    pub(super) keys: &'r Keys,
    /// The store's address, for messages.
    pub(super) store: &'r str,
    pub(super) clock_ahead: SignedDuration,
    /// Whether a row that does not open counts as absent: a consent replaces it.
    pub(super) is_for_login: bool,
}

impl RowReader<'_> {
    /// What a row says.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if its secrets do not open with these keys, or it holds impossible values.
    pub(super) fn read(&self, row: &Row) -> Result<StoredLogin> {
        let name: String = self.get(row, "name")?;
        let state = LoginState::named(self.get(row, "state")?);
        let (place, owner) = self.place(row, &name)?;
        let profile = match self.profile(row, &place, &owner) {
            // A login being moved still belongs to the file, and an empty row to nobody.
            _ if !state.is_here() => Profile::default(),
            // A consent replaces what does not open, and goes where the person running it says.
            Err(_) if self.is_for_login => Profile::default(),
            profile => profile?,
        };
        Ok(StoredLogin {
            snapshot: Snapshot {
                login: LoginId {
                    profile: name,
                    store: self.store.to_owned(),
                },
                exists: state != LoginState::Empty,
                others: Vec::new(),
                profile,
                clock_ahead: self.clock_ahead,
                spent_by: Arc::new(HashMap::new()),
            },
            state,
            app: place.app.unwrap_or_default(),
            owner,
            spent: self.spent(row)?,
            lease: self.lease(row)?,
            sender: self.mention(row, "sent_by", "sent_at")?,
            unanswered: self
                .fingerprint(row, "unanswered_fingerprint")?
                .zip(self.mention(row, "unanswered_by", "unanswered_at")?),
            refused: self
                .get::<Option<Timestamp>>(row, "refused_at")?
                .zip(self.get(row, "refusal")?)
                .map(|(at, words)| Refused { at, words }),
        })
    }

    /// Makes sure that a login's secrets open, even if it is held back.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if they do not.
    pub(super) fn check(&self, row: &Row) -> Result<()> {
        let name: String = self.get(row, "name")?;
        let (place, owner) = self.place(row, &name)?;
        self.profile(row, &place, &owner).map(drop)
    }

    /// Where a login's requests go, and what its secrets are bound to.
    fn place(&self, row: &Row, name: &str) -> Result<(Destination, String)> {
        let id: Option<String> = self.get(row, "app_id")?;
        let service: Option<String> = self.get(row, "service")?;
        let place = Destination {
            addresses: Addresses {
                base: self.get(row, "base_url")?,
                accounts: self.get(row, "accounts_url")?,
                token: self.get(row, "token_url")?,
            },
            app: id.zip(service),
        };
        let app = place.app.as_ref();
        let app = app.map(|(id, service)| (id.as_str(), service.as_str()));
        let owner = login_owner(name, &place.addresses, app);
        Ok((place, owner))
    }

    /// The predecessors of its token, the latest last.
    fn spent(&self, row: &Row) -> Result<Vec<Fingerprint>> {
        let older: Vec<Option<String>> = self.get(row, "older_fingerprints")?;
        let older = older.iter().flatten().rev();
        let mut spent: Vec<_> = older.filter_map(|text| Fingerprint::parse(text)).collect();
        spent.extend(self.fingerprint(row, "previous_fingerprint")?);
        Ok(spent)
    }

    /// What a login holds.
    fn profile(&self, row: &Row, place: &Destination, owner: &str) -> Result<Profile> {
        let own = self.fingerprint(row, "refresh_fingerprint")?;
        let secret = |column| self.secret(row, owner, column, column);
        let tokens = Tokens {
            access_token: secret("access_token")?,
            access_expires_at: self.get(row, "access_expires_at")?,
            scope: self.get(row, "scope")?,
            refresh_token: secret("refresh_token")?,
            refresh_expires_at: self.get(row, "refresh_expires_at")?,
        };
        if tokens.refresh_token.as_ref().map(Fingerprint::of) != own {
            return Err(self.another_token(row));
        }
        let api = self.get::<Option<&str>>(row, "api")?;
        let mut profile = Profile {
            own: place.addresses.clone(),
            pair: Pair {
                api: match api.map(Api::named) {
                    None => StatedApi::None,
                    Some(Some(api)) => StatedApi::Known(api),
                    Some(None) => StatedApi::Unknown,
                },
                tokens,
                // A server gave it, not a person.
                spent: own.map(SpentTokens::begun_with).unwrap_or_default(),
            },
            app_access_token: self.secret(row, owner, APP_TOKEN, "own_app_access_token")?,
            app_expires_at: self.get(row, "own_app_access_token_expires_at")?,
            ..Profile::default()
        };
        if let Some((id, service)) = &place.app {
            let owner = app_owner((id, service));
            profile.app_id = Some(id.clone());
            profile.app_secret = self.secret(row, &owner, "app_secret", "app_secret")?;
            profile.app_ticket = self.secret(row, &owner, "app_ticket", "app_ticket")?;
            if let Some(token) = self.secret(row, &owner, APP_TOKEN, APP_TOKEN)? {
                profile.app_access_token = Some(token);
                profile.app_expires_at = self.get(row, "app_access_token_expires_at")?;
            }
        }
        Ok(profile)
    }

    /// The error for a row whose fence belongs to another token: a save would not recognise it.
    fn another_token(&self, row: &Row) -> Error {
        let (store, name) = (self.store, row.try_get::<_, &str>("name").unwrap_or("?"));
        let message = format!(
            "[{name}] of {store}: its refresh_token is not the one of its refresh_fingerprint: the row was changed"
        );
        Error::config(message).with_hint(Hint::fixed(
            "restore the row, or log in again: feishu-refresh login",
            "请恢复该行原来的内容，或重新登录：feishu-refresh login",
        ))
    }

    fn lease(&self, row: &Row) -> Result<Option<RunAndTime>> {
        let is_leased: Option<bool> = self.get(row, "is_leased")?;
        let lease = self.mention(row, "lease_holder", "lease_until")?;
        Ok(lease.filter(|_| is_leased == Some(true)))
    }

    fn mention(&self, row: &Row, by: &str, at: &str) -> Result<Option<RunAndTime>> {
        let by: Option<String> = self.get(row, by)?;
        let at: Option<Timestamp> = self.get(row, at)?;
        Ok(by.zip(at).map(|(by, at)| RunAndTime { by, at }))
    }

    fn fingerprint(&self, row: &Row, column: &str) -> Result<Option<Fingerprint>> {
        let text: Option<&str> = self.get(row, column)?;
        Ok(text.and_then(Fingerprint::parse))
    }

    /// A secret that was sealed for this owner and `column`, and is read `from` this column.
    fn secret(
        &self,
        row: &Row,
        owner: &str,
        column: &'static str,
        from: &str,
    ) -> Result<Option<SecretString>> {
        let sealed: Option<&str> = self.get(row, from)?;
        let owner = SecretOwner {
            name: owner,
            column,
        };
        sealed
            .map(|sealed| self.keys.open(owner, sealed))
            .transpose()
    }

    fn get<'a, T: FromSql<'a>>(&self, row: &'a Row, column: &str) -> Result<T> {
        row.try_get(column).map_err(|_| {
            let store = self.store;
            Error::config(format!(
                "{store}: a row's {column} holds what this program never writes"
            ))
        })
    }
}
