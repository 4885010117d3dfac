//! Where a login's requests go, and who said so.
//!
//! Promise: a host that only the store names gets secrets only from that store (P10). A checked-out
//! file must not be able to pull a CI's secrets.

use super::login_id::LoginId;
use super::overrides::Overrides;
use super::values::{Addresses, Profile};
use crate::error::{Error, Hint, Result};
use crate::protocol::{Address, Api};

/// An address, and whether only the store vouches for it.
#[derive(Debug, Clone)]
pub(crate) struct VouchedAddress {
    pub(crate) address: Address,
    /// Which of the store's addresses it is; none if somebody else vouches for it as well.
    only_stored: Option<AddressKind>,
}

/// Which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressKind {
    Base,
    Accounts,
    Token,
}

impl AddressKind {
    pub(super) fn given<'g>(self, given: &Overrides<'g>) -> Option<&'g str> {
        match self {
            AddressKind::Base => given.base_url,
            AddressKind::Accounts => given.accounts_url,
            AddressKind::Token => given.token_url,
        }
    }

    pub(super) fn stored(self, addresses: &Addresses) -> Option<&str> {
        let stored = match self {
            AddressKind::Base => &addresses.base,
            AddressKind::Accounts => &addresses.accounts,
            AddressKind::Token => &addresses.token,
        };
        stored.as_deref()
    }

    fn option(self) -> &'static str {
        match self {
            AddressKind::Base => "--base-url",
            AddressKind::Accounts => "--accounts-url",
            AddressKind::Token => "--token-url",
        }
    }

    pub(super) fn parse(self, text: &str) -> Result<Address> {
        match self {
            AddressKind::Base => Address::of_service("base URL", text),
            AddressKind::Accounts => Address::of_service("accounts URL", text),
            AddressKind::Token => Address::of_endpoint("token URL", text),
        }
    }

    /// Whether it is said for this login and no other.
    pub(super) fn is_said_for_this(self, profile: &Profile, given: &Overrides<'_>) -> bool {
        let stored = self.stored(&profile.own).filter(|_| !given.lark);
        self.given(given).or(stored).is_some()
    }

    /// Whether it is said at all.
    pub(super) fn is_said(self, profile: &Profile, given: &Overrides<'_>) -> bool {
        let shared = self.stored(&profile.shared).filter(|_| !given.lark);
        self.is_said_for_this(profile, given) || shared.is_some()
    }

    /// Whether whoever started this run named the host.
    fn is_given(address: &Address, given: &Overrides<'_>) -> bool {
        [AddressKind::Base, AddressKind::Accounts, AddressKind::Token]
            .iter()
            .any(|which| {
                let named = which.given(given).and_then(|text| which.parse(text).ok());
                named.is_some_and(|named| named.origin() == address.origin())
            })
    }

    /// The address of a login of this api, if one is said.
    pub(super) fn of(
        self,
        profile: &Profile,
        given: &Overrides<'_>,
        api: Api,
    ) -> Result<Option<VouchedAddress>> {
        if let Some(text) = self.given(given) {
            return Ok(Some(VouchedAddress {
                address: self.parse(text)?,
                only_stored: None,
            }));
        }
        if given.lark {
            return Ok(None);
        }
        let read = |addresses| {
            let text = self.stored(addresses);
            text.map(|text| self.parse(text)).transpose()
        };
        // What all logins share may be Lark's address, and this one 115's.
        let shared = || Ok(read(&profile.shared)?.filter(|shared| !api.is_foreign(shared)));
        let stored = match read(&profile.own)? {
            None => shared()?,
            own => own,
        };
        Ok(stored.map(|address| VouchedAddress {
            only_stored: Some(self)
                .filter(|_| address.vendor().is_none() && !AddressKind::is_given(&address, given)),
            address,
        }))
    }
}

impl VouchedAddress {
    /// A vendor's own.
    pub(super) fn vendors(host: &str) -> Result<Self> {
        Ok(VouchedAddress {
            address: Address::of_service("base URL", host)?,
            only_stored: None,
        })
    }

    /// The service of a login of this api.
    pub(super) fn base(profile: &Profile, given: &Overrides<'_>, api: Api) -> Result<Self> {
        match AddressKind::Base.of(profile, given, api)? {
            Some(base) => Ok(base),
            None => VouchedAddress::vendors(api.vendor(given.lark).home()),
        }
    }

    /// Refuses secrets that come from elsewhere than the store that names this place.
    pub(super) fn check_trusted(&self, login: &LoginId) -> Result<()> {
        let Some(which) = self.only_stored else {
            return Ok(());
        };
        let (host, store, option) = (self.address.origin(), &login.store, which.option());
        let message = format!(
            "{login}: secrets from flags or environment are not sent to {host}, which only {store} names"
        );
        Err(Error::config(message).with_hint(Hint::naming(
            format!("if you trust that host, name it yourself with {option}"),
            format!("如果您信任该主机，请用 {option} 明确指定"),
        )))
    }
}
