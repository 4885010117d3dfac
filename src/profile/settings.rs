//! What a login writes beside its token pair, so that the next run needs no flag for it.

use secrecy::{ExposeSecret, SecretString};

use super::key;
use super::place::AddressKind;
use super::values::Profile;
use super::view::View;
use crate::error::Result;
use crate::protocol::Vendor;

/// A key of the login, and its value.
pub(crate) type Setting = (&'static str, SecretString);

/// The keys that a login can write beside its token pair.
pub(crate) const KEYS: [&str; 4] = [
    key::APP_ID,
    key::APP_SECRET,
    key::BASE_URL,
    key::ACCOUNTS_URL,
];

impl View<'_> {
    /// The given values of these keys, as far as the store does not have the same already.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if an address is not one.
    pub(crate) fn settings(&self, keys: &[&'static str]) -> Result<Vec<Setting>> {
        let (given, Profile { app_id, .. }) = (self.given(), self.profile());
        let stored_secret = self.profile().app_secret.as_ref();
        let stored_secret = stored_secret.map(ExposeSecret::expose_secret);
        let mut settings = Vec::new();
        for &key in keys {
            let (new, stored) = match key {
                key::APP_ID => (given.app_id.map(str::to_owned), app_id.clone()),
                key::APP_SECRET => (
                    given.app_secret.map(|new| new.expose_secret().to_owned()),
                    stored_secret.map(str::to_owned),
                ),
                key::BASE_URL => self.given_and_stored(AddressKind::Base)?,
                _ => self.given_and_stored(AddressKind::Accounts)?,
            };
            // Another app's secret must not stay beside this app's id.
            let is_half = key == key::APP_ID
                && !keys.contains(&key::APP_SECRET)
                && given.app_secret.is_some()
                && stored_secret.is_some();
            let is_new = |new: &String| Some(new) != stored.as_ref() && !is_half;
            if let Some(new) = new.filter(is_new) {
                settings.push((key, new.into()));
            }
        }
        Ok(settings)
    }

    /// An address as it is given, and as it is stored: both by what they amount to.
    fn given_and_stored(&self, which: AddressKind) -> Result<(Option<String>, Option<String>)> {
        let stored = which.stored(&self.profile().own);
        let stored = stored.or(which.stored(&self.profile().shared));
        let plain = |text: Option<&str>| {
            let address = text.map(|text| which.parse(text)).transpose();
            address.map(|address| address.map(|address| address.join("")))
        };
        let lark = self.given().lark && self.given().base_url.is_none();
        let lark = lark.then_some(Vendor::Lark);
        let given = match which {
            AddressKind::Base => which.given(self.given()).or(lark.map(Vendor::home)),
            // The stored one is of the service that Lark takes the place of.
            _ => which
                .given(self.given())
                .or(lark.and_then(Vendor::accounts).filter(|_| stored.is_some())),
        };
        // What is wrong with a stored one has no say here.
        Ok((plain(given)?, plain(stored).unwrap_or_default()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;

    use super::super::values::Addresses;
    use super::super::{LoginId, Overrides, Snapshot};
    use super::*;

    fn written(
        own: Addresses,
        shared: Addresses,
        given: Overrides<'_>,
    ) -> Vec<(&'static str, String)> {
        let snapshot = Snapshot {
            login: LoginId {
                profile: "TOKEN".to_owned(),
                store: "file".to_owned(),
            },
            exists: true,
            others: Vec::new(),
            profile: Profile {
                own,
                shared,
                ..Profile::default()
            },
            clock_ahead: SignedDuration::ZERO,
            spent_by: Arc::default(),
        };
        let settings = View::of(&snapshot, given).unwrap().settings(&KEYS).unwrap();
        let text = |(key, value): Setting| (key, value.expose_secret().to_owned());
        settings.into_iter().map(text).collect()
    }

    #[test]
    fn lark_is_written_as_its_hosts() {
        let lark = Overrides {
            lark: true,
            ..Overrides::default()
        };
        let elsewhere = Overrides {
            base_url: Some("https://feishu.example"),
            ..lark
        };
        let base = ("base_url", "https://open.larksuite.com".to_owned());
        let accounts = ("accounts_url", "https://accounts.larksuite.com".to_owned());
        let none = Addresses::default;
        assert_eq!(written(none(), none(), lark), std::slice::from_ref(&base));
        let feishu = |host: &str| Addresses {
            base: Some(host.to_owned()),
            accounts: Some("https://accounts.feishu.cn".to_owned()),
            token: None,
        };
        let both = [base, accounts.clone()];
        assert_eq!(
            written(none(), feishu("https://open.feishu.cn"), lark),
            both
        );
        let other = [("base_url", "https://feishu.example".to_owned())];
        assert_eq!(
            written(feishu("https://open.feishu.cn"), none(), elsewhere),
            other
        );
        // It is there already, in another spelling.
        let shared = feishu("HTTPS://Open.LarkSuite.com:443/open-apis/");
        assert_eq!(written(none(), shared, lark), [accounts]);
    }
}
