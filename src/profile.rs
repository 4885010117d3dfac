//! What a login is: its keys, which source of a value wins, what is sent where, and what a reply changes. Knows no
//! files: a store says what it holds ([`Snapshot`]), and keeps the result ([`Successor`]).
//!
//! [`Overrides`] came from outside, a [`View`] combines it with a snapshot, a [`RefreshPlan`] is what one refresh sends,
//! [`SpentTokens`] remembers which tokens no longer work.

mod absent;
#[cfg(feature = "postgres")]
mod kept;
mod overrides;
mod place;
pub(crate) mod plan;
mod sense;
pub(crate) mod settings;
mod spent;
pub(crate) mod standing;
mod successor;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use crate::error::{Error, Hint, Result};
use crate::protocol::Api;
use crate::token::{Fingerprint, Tokens, is_plausible, later};
#[cfg(feature = "postgres")]
pub(crate) use kept::Kept;
pub(crate) use overrides::Overrides;
pub(crate) use plan::{AppProof, LoginPlan, RefreshPlan};
pub(crate) use settings::Setting;
pub(crate) use spent::SpentTokens;
pub(crate) use successor::{Origin, Successor};
pub(crate) use view::{View, consent_api, twin};

/// The names of a login's values, in a file and in messages.
pub(crate) mod key {
    pub(crate) const API: &str = "api";
    pub(crate) const BASE_URL: &str = "base_url";
    pub(crate) const ACCOUNTS_URL: &str = "accounts_url";
    pub(crate) const TOKEN_URL: &str = "token_url";
    pub(crate) const APP_ID: &str = "app_id";
    pub(crate) const APP_SECRET: &str = "app_secret";
    pub(crate) const APP_TICKET: &str = "app_ticket";
    pub(crate) const APP_ACCESS_TOKEN: &str = "app_access_token";
    pub(crate) const APP_EXPIRES_AT: &str = "app_access_token_expires_at";
    pub(crate) const SCOPE: &str = "scope";
    pub(crate) const REDIRECT_URI: &str = "redirect_uri";
    pub(crate) const REFRESH_TOKEN: &str = "refresh_token";
    pub(crate) const REFRESH_EXPIRES_AT: &str = "refresh_token_expires_at";
    pub(crate) const REFRESH_SPENT: &str = "refresh_token_spent";

    use crate::protocol::Api;

    /// The access token's key: 115 calls it otherwise.
    pub(crate) fn access_token(api: Api) -> &'static str {
        match api {
            Api::Open115 => "access_token",
            _ => "user_access_token",
        }
    }

    /// The key of its expiry.
    pub(crate) fn access_expires_at(api: Api) -> &'static str {
        match api {
            Api::Open115 => "access_token_expires_at",
            _ => "user_access_token_expires_at",
        }
    }
}

/// The section that is not a login: its values apply to all others.
pub(crate) const NO_PROFILE: &str = "DEFAULT";

/// Refuses what cannot be a login's name, which is a section's name, even in a store without sections, so that a login
/// can move.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if is_plausible(name) && !name.contains(']') && name != NO_PROFILE {
        return Ok(());
    }
    Err(
        Error::config("the profile's name cannot be a section's name").with_hint(Hint::fixed(
            "a profile is a section of the file, like TOKEN; [DEFAULT] is not one",
            "profile 是配置文件中的一个节，例如 TOKEN；[DEFAULT] 不能用作 profile",
        )),
    )
}

/// Which login, for messages: a profile, and the store that keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoginId {
    pub(crate) profile: String,
    /// The file's path.
    pub(crate) store: String,
}

impl fmt::Display for LoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] of {}", self.profile, self.store)
    }
}

/// What a store says of a login at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) login: LoginId,
    /// Whether the store has such a login at all, even an empty one.
    pub(crate) exists: bool,
    /// If not: the logins of the file that it could be confused with.
    pub(crate) others: Vec<String>,
    pub(crate) profile: Profile,
    /// How far the store's clock is ahead of this machine's: expiries follow the store's clock.
    pub(crate) clock_ahead: SignedDuration,
    /// The tokens that are known to be spent, and by which profiles.
    pub(crate) spent_by: Arc<HashMap<Fingerprint, String>>,
}

impl Snapshot {
    /// This login, combined with what was given from outside.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if its api is not known.
    pub(crate) fn with<'v>(&'v self, given: Overrides<'v>) -> Result<View<'v>> {
        View::of(self, given)
    }

    /// What time it is by the store's clock.
    pub(crate) fn now(&self) -> Timestamp {
        later(Timestamp::now(), self.clock_ahead)
    }

    /// The fingerprint of its refresh token.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.profile.pair.fingerprint()
    }
}

/// What a login holds, and what all logins of its store share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    /// The login's own addresses, and the shared ones.
    pub(crate) own: Addresses,
    pub(crate) shared: Addresses,
    pub(crate) app_id: Option<String>,
    pub(crate) app_secret: Option<SecretString>,
    /// A ticket belongs to an app: the shared one is not used for a login's own app.
    pub(crate) app_ticket: Option<SecretString>,
    pub(crate) app_access_token: Option<SecretString>,
    pub(crate) app_expires_at: Option<Timestamp>,
    /// Where a browser is sent after a consent.
    pub(crate) redirect_uri: Option<String>,
    pub(crate) pair: Pair,
}

/// The addresses of a service, as they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    pub(crate) base: Option<String>,
    pub(crate) accounts: Option<String>,
    pub(crate) token: Option<String>,
}

impl Addresses {
    fn read(from: impl Fn(&str) -> Result<Option<String>>) -> Result<Self> {
        Ok(Addresses {
            base: from(key::BASE_URL)?,
            accounts: from(key::ACCOUNTS_URL)?,
            token: from(key::TOKEN_URL)?,
        })
    }
}

/// The endpoint that a login names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StatedApi {
    /// None named: the token's form decides.
    #[default]
    None,
    Known(Api),
    /// One that this program does not know.
    Unknown,
}

impl StatedApi {
    fn read(name: Option<&str>) -> Self {
        match name.map(Api::named) {
            None => StatedApi::None,
            Some(Some(api)) => StatedApi::Known(api),
            Some(None) => StatedApi::Unknown,
        }
    }

    /// The endpoint, if it is one that this program knows.
    pub(crate) fn known(self) -> Option<Api> {
        match self {
            StatedApi::Known(api) => Some(api),
            StatedApi::None | StatedApi::Unknown => None,
        }
    }
}

/// A pair, and what is known about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pair {
    pub(crate) api: StatedApi,
    pub(crate) tokens: Tokens,
    pub(crate) spent: SpentTokens,
}

impl Profile {
    /// Reads every key that this program uses, so that an ambiguous one is refused whether this run needs it or not.
    /// `own` looks a key up in the login itself, `shared` among the shared keys.
    pub(crate) fn read(
        own: impl Fn(&str) -> Result<Option<String>>,
        shared: impl Fn(&str) -> Result<Option<String>>,
    ) -> Result<Self> {
        let (app_id, app_ticket) = (own(key::APP_ID)?, own(key::APP_TICKET)?);
        let shared_ticket = shared(key::APP_TICKET)?.filter(|_| app_id.is_none());
        Ok(Profile {
            own: Addresses::read(&own)?,
            shared: Addresses::read(&shared)?,
            app_id: app_id.or(shared(key::APP_ID)?),
            app_secret: own(key::APP_SECRET)?
                .or(shared(key::APP_SECRET)?)
                .map(SecretString::from),
            app_ticket: app_ticket.or(shared_ticket).map(SecretString::from),
            app_access_token: own(key::APP_ACCESS_TOKEN)?.map(SecretString::from),
            app_expires_at: own(key::APP_EXPIRES_AT)?.and_then(|time| time.parse().ok()),
            redirect_uri: shared(key::REDIRECT_URI)?,
            pair: Pair::read(own)?,
        })
    }
}

impl Pair {
    pub(crate) fn read(own: impl Fn(&str) -> Result<Option<String>>) -> Result<Self> {
        let secret = |key| Ok::<_, Error>(own(key)?.map(SecretString::from));
        // An unreadable time counts as unknown: expiries only advise.
        let time = |key| Ok::<_, Error>(own(key)?.and_then(|time| time.parse().ok()));
        let api = StatedApi::read(own(key::API)?.as_deref());
        let keys = api.known().unwrap_or(Api::V1);
        Ok(Pair {
            api,
            tokens: Tokens {
                access_token: secret(key::access_token(keys))?,
                access_expires_at: time(key::access_expires_at(keys))?,
                scope: match api.known() {
                    Some(api) if !api.names_scope() => None,
                    _ => own(key::SCOPE)?,
                },
                refresh_token: secret(key::REFRESH_TOKEN)?,
                refresh_expires_at: time(key::REFRESH_EXPIRES_AT)?,
            },
            spent: SpentTokens::parse(&own(key::REFRESH_SPENT)?.unwrap_or_default()),
        })
    }

    /// The fingerprint of its refresh token.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.tokens.refresh_token.as_ref().map(Fingerprint::of)
    }
}
