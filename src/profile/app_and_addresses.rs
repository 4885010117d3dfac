//! A login's values besides its pair, for a store that keeps them, too.

use secrecy::SecretString;

use super::values::{Addresses, Profile};
use super::view::View;
use crate::error::Result;
use crate::protocol::Vendor;

/// Where a login's requests go, and its app; from outside or from its store.
#[derive(Clone)]
pub(crate) struct AppAndAddresses {
    pub(crate) addresses: Addresses,
    pub(crate) app_id: Option<String>,
    pub(crate) app_secret: Option<SecretString>,
    pub(crate) app_ticket: Option<SecretString>,
    /// The host that knows the app.
    pub(crate) service: String,
}

impl View<'_> {
    /// What a store keeps of this login, as it is seen now.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if an address is not valid.
    pub(crate) fn app_and_addresses(&self) -> Result<AppAndAddresses> {
        let (given, Profile { own, shared, .. }) = (self.given(), self.profile());
        let own_or_shared = |own: &Option<String>, shared: &Option<String>| {
            let stored = own.as_ref().or(shared.as_ref());
            stored.filter(|_| !given.lark).cloned()
        };
        let text = |given: Option<&str>| given.map(str::to_owned);
        let lark = given.lark.then(|| Vendor::Lark.home().to_owned());
        let endpoint = self.endpoint()?.address;
        let service = if endpoint.is_whole() {
            endpoint
        } else {
            self.base()?.address
        };
        Ok(AppAndAddresses {
            addresses: Addresses {
                base: text(given.base_url)
                    .or(lark)
                    .or_else(|| own_or_shared(&own.base, &shared.base)),
                accounts: text(given.accounts_url)
                    .or_else(|| own_or_shared(&own.accounts, &shared.accounts)),
                token: text(given.token_url).or_else(|| own_or_shared(&own.token, &shared.token)),
            },
            app_id: self.app_id().map(str::to_owned),
            app_secret: self.app_secret().cloned(),
            app_ticket: self.app_ticket().cloned(),
            service: service.origin(),
        })
    }

    /// Whether this run was given another app or host than the login's own.
    pub(crate) fn is_for_another_app_or_host(&self) -> bool {
        let given = self.given();
        let hosts = [given.base_url, given.accounts_url, given.token_url];
        given.lark || hosts.iter().any(Option::is_some) || self.is_for_another_app()
    }
}
