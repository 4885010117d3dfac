//! The values that a login holds, whatever store they are read from.

use jiff::Timestamp;
use secrecy::SecretString;

use super::key;
use super::spent::SpentTokens;
use crate::error::{Error, Result};
use crate::protocol::Api;
use crate::token::{Fingerprint, Tokens};

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
