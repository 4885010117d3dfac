//! What belongs to a pair: the app and the addresses saved with it, and the owner that its secrets are sealed for.

use secrecy::SecretString;

use crate::error::Result;
use crate::profile::View;
use crate::profile::values::Addresses;

/// What is saved with a pair.
#[derive(Clone, Default)]
pub(super) struct LoginFacts {
    /// Whether a consent brought the pair, so that all of this is saved with it.
    pub(super) is_login: bool,
    /// What the login's secrets are bound to.
    pub(super) owner: String,
    pub(super) addresses: Addresses,
    /// The pair's app.
    pub(super) app: Option<StoredApp>,
}

/// An app, as it is kept for its logins.
#[derive(Clone)]
pub(super) struct StoredApp {
    pub(super) id: String,
    pub(super) service: String,
    pub(super) secret: Option<SecretString>,
    pub(super) ticket: Option<SecretString>,
}

impl LoginFacts {
    /// What a consent saves with its pair: the login's current values.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if an address is not valid.
    pub(super) fn of_login(view: &View<'_>) -> Result<Self> {
        let app = StoredApp::of(view)?;
        let addresses = view.app_and_addresses()?.addresses;
        let name = &view.snapshot().login.profile;
        Ok(LoginFacts {
            is_login: true,
            owner: login_owner(name, &addresses, app.as_ref().map(StoredApp::key)),
            addresses,
            app,
        })
    }

    /// What belongs to the pair of a login whose secrets are bound to this owner.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if an address is not valid.
    pub(super) fn of_refresh(view: &View<'_>, owner: &str) -> Result<Self> {
        // Values given to one run from outside are not for other runs.
        let is_own = !view.is_for_another_app_or_host();
        Ok(LoginFacts {
            owner: owner.to_owned(),
            app: StoredApp::of(view)?.filter(|_| is_own),
            ..LoginFacts::default()
        })
    }
}

impl StoredApp {
    /// The app of a login, from its current values.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if an address is not valid.
    pub(super) fn of(view: &View<'_>) -> Result<Option<Self>> {
        let app_and_addresses = view.app_and_addresses()?;
        Ok(app_and_addresses.app_id.map(|id| StoredApp {
            id,
            service: app_and_addresses.service,
            secret: app_and_addresses.app_secret,
            ticket: app_and_addresses.app_ticket,
        }))
    }

    /// Its id, and the host that knows it.
    pub(super) fn key(&self) -> (&str, &str) {
        (&self.id, &self.service)
    }
}

/// The key of an app in the store, its id and service; empty if a login has none.
pub(super) type AppKey = (String, String);

/// What an app's secrets are bound to.
pub(super) fn app_owner((id, service): (&str, &str)) -> String {
    format!("{id} at {service}")
}

/// What a login's secrets are bound to: its name, and where they may go. Write access to the database must not suffice
/// to send them elsewhere.
pub(super) fn login_owner(name: &str, addresses: &Addresses, app: Option<(&str, &str)>) -> String {
    let Addresses {
        base,
        accounts,
        token,
    } = addresses;
    let (id, service) = app.unzip();
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
    let parts = [
        name.to_owned(),
        address(base),
        address(accounts),
        address(token),
        part(id),
        part(service),
    ];
    parts.join("\n")
}
