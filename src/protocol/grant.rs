//! What a refresh spends, and by what an endpoint knows the app.

use secrecy::SecretString;

use super::secrets::Secrets;

/// What an app sends to get an `app_access_token`, or to refresh at v2 and v3.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) secret: SecretString,
    /// What the vendor's event delivers to an app from its store.
    pub(crate) ticket: Option<SecretString>,
}

impl App {
    /// The values that must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let secrets = [Some(&self.secret), self.ticket.as_ref()];
        secrets.into_iter().flatten().collect()
    }
}

/// What tells an endpoint which app asks.
#[derive(Debug, Clone)]
pub(crate) enum Credentials {
    AppToken(SecretString),
    App(App),
    /// Only by its id: a standard server may know apps that cannot keep a secret.
    PublicApp(String),
    None,
}

/// What one refresh spends and sends.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) refresh_token: SecretString,
    pub(crate) credentials: Credentials,
    /// What the new token is narrowed to, as [`super::scope()`] gives it; v2 and v3 only.
    pub(crate) scope: Option<String>,
}

impl Grant {
    /// The values that must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let mut secrets = match &self.credentials {
            Credentials::AppToken(token) => [token].into_iter().collect(),
            Credentials::App(app) => app.secrets(),
            Credentials::PublicApp(_) | Credentials::None => Secrets::default(),
        };
        secrets.add(&self.refresh_token);
        secrets
    }
}
