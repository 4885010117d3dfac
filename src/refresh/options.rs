//! What a caller can ask of a refresh, and the program's own defaults.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use secrecy::SecretString;

use crate::client::Settings;
use crate::profile::{Overrides, View};
use crate::protocol::Api;
use crate::store::database::Database;
use crate::token::Tokens;

/// What to refresh, and how long to try.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The INI file.
    pub config_file: PathBuf,
    /// A PostgreSQL database that keeps the logins instead of the file.
    pub store: Option<Database>,
    /// The section of the file, or the login's name in the store.
    pub profile: String,
    /// An `app_access_token` to use instead of the file's.
    pub app_access_token: Option<SecretString>,
    /// A refresh token to use instead of the file's, unless the file knows it to be spent.
    pub refresh_token: Option<SecretString>,
    /// The app's id, instead of the file's.
    pub app_id: Option<String>,
    /// The app's secret, instead of the file's.
    pub app_secret: Option<SecretString>,
    /// The ticket of an app from the store, instead of the file's.
    pub app_ticket: Option<SecretString>,
    /// Narrows the new token to these scopes, separated by spaces; [`Api::V2`] and [`Api::V3`] only.
    /// `offline_access` is added.
    pub scope: Option<String>,
    /// The token endpoint, instead of the file's `api`.
    pub api: Option<Api>,
    /// Lark, the international service, instead of Feishu and the file's `base_url`.
    pub lark: bool,
    /// Another address for the token endpoints, overriding all others.
    pub base_url: Option<String>,
    /// Another address for the consent pages, and for the token endpoint of [`Api::V3`].
    pub accounts_url: Option<String>,
    /// The whole address of a standard OAuth 2.0 server's token endpoint (RFC 6749), overriding all others; it gets the
    /// same requests as [`Api::V3`], and `app_secret` may be missing.
    pub token_url: Option<String>,
    /// Only return the saved token while it is valid for longer than this.
    pub min_ttl: Option<Duration>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many retries follow a temporary failure.
    pub retries: u32,
    /// The longest wait that a server may ask for; a longer one ends the run.
    pub max_wait: Duration,
    /// How long to wait for other runs on the same file or login; and how long to try to save a pair
    /// in a store that fails.
    pub lock_timeout: Duration,
    /// A PEM file with CA certificates to trust besides the built-in and the system's ones.
    pub ca_cert: Option<PathBuf>,
}

impl Default for Options {
    /// The program's own defaults: `[TOKEN]` of `feishu-config.ini` in the working directory.
    fn default() -> Self {
        Options {
            config_file: PathBuf::from("feishu-config.ini"),
            store: None,
            profile: "TOKEN".to_owned(),
            app_access_token: None,
            refresh_token: None,
            app_id: None,
            app_secret: None,
            app_ticket: None,
            scope: None,
            api: None,
            lark: false,
            base_url: None,
            accounts_url: None,
            token_url: None,
            min_ttl: None,
            timeout: Duration::from_secs(30),
            retries: 3,
            max_wait: Duration::from_secs(90),
            lock_timeout: Duration::from_secs(180),
            ca_cert: None,
        }
    }
}

impl Options {
    /// The saved tokens, if they are valid as long as was asked.
    pub(crate) fn still_valid<'v>(&self, view: &View<'v>) -> Option<&'v Tokens> {
        let least = SignedDuration::try_from(self.min_ttl?).unwrap_or(SignedDuration::MAX);
        view.still_valid(least)
    }

    pub(crate) fn lock_deadline(&self) -> Instant {
        const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Instant::now() + self.lock_timeout.min(FOR_EVER)
    }

    /// How to connect.
    pub(crate) fn connection(&self, shield: fn()) -> Settings {
        Settings {
            timeout: self.timeout,
            ca_cert: self.ca_cert.clone(),
            shield,
        }
    }

    /// Where the logins are, for messages: the file's path, or the store's address.
    pub(crate) fn keeper(&self) -> String {
        match &self.store {
            Some(store) => store.shown(),
            None => self.config_file.display().to_string(),
        }
    }

    /// What came from outside the file.
    pub(crate) fn given(&self) -> Overrides<'_> {
        Overrides {
            app_access_token: self.app_access_token.as_ref(),
            refresh_token: self.refresh_token.as_ref(),
            app_id: self.app_id.as_deref(),
            app_secret: self.app_secret.as_ref(),
            app_ticket: self.app_ticket.as_ref(),
            scope: self.scope.as_deref(),
            api: self.api,
            lark: self.lark,
            base_url: self.base_url.as_deref(),
            accounts_url: self.accounts_url.as_deref(),
            token_url: self.token_url.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_lock_timeout_makes_a_deadline() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let deadline = |lock_timeout| {
            let options = Options {
                lock_timeout,
                ..Options::default()
            };
            options.lock_deadline()
        };
        let start = Instant::now();
        assert!(deadline(Duration::MAX) >= start + 100 * YEAR);
        let short = deadline(YEAR);
        assert!(start + YEAR <= short && short <= Instant::now() + YEAR);
    }
}
