//! The token endpoints: their names, whose they are, and what each needs.

use super::address::{Address, Vendor};
use super::shape::Shape;

/// A token endpoint, and so a form of request and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Api {
    /// Feishu's `authen/v1/refresh_access_token`.
    V1,
    /// Feishu's `authen/v1/oidc/refresh_access_token`.
    Oidc,
    /// Feishu's `authen/v2/oauth/token`, or any other that follows RFC 6749 and takes JSON.
    V2,
    /// Feishu's `oauth/v3/token`, on its accounts host, or any other that follows RFC 6749.
    V3,
    /// 115's `open/refreshToken`.
    Open115,
}

/// How an endpoint learns which app asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// By an `app_access_token` in the header.
    AppToken,
    /// By app id and secret in the body; some servers know apps without a secret.
    App,
    /// Not at all.
    None,
}

impl Api {
    /// Every endpoint.
    pub(crate) const ALL: [Api; 5] = [Api::V1, Api::Oidc, Api::V2, Api::V3, Api::Open115];

    /// The endpoint's name on the command line and in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Api::V1 => "v1",
            Api::Oidc => "oidc",
            Api::V2 => "v2",
            Api::V3 => "v3",
            Api::Open115 => "115",
        }
    }

    /// The endpoint of that name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Api::ALL.into_iter().find(|api| api.name() == name)
    }

    /// The names of all endpoints, as a message lists them.
    pub(crate) fn names() -> String {
        Api::ALL.map(Api::name).join(", ")
    }

    /// Whose service this endpoint belongs to.
    pub(crate) fn vendor(self, lark: bool) -> Vendor {
        match self {
            Api::Open115 => Vendor::Open115,
            _ if lark => Vendor::Lark,
            _ => Vendor::Feishu,
        }
    }

    /// The endpoint for a refresh token of this form, where none is named: `at_feishu` if the service is Feishu's own,
    /// the only one known to have v3.
    pub(crate) fn of_form(refresh_token: &str, at_feishu: bool) -> Self {
        match Shape::of(refresh_token) {
            Shape::Signed if at_feishu => Api::V3,
            Shape::Signed => Api::V2,
            _ => Api::V1,
        }
    }

    /// Whether this address belongs to another vendor than this endpoint.
    pub(crate) fn is_foreign(self, address: &Address) -> bool {
        let vendor = address.vendor();
        vendor.is_some_and(|vendor| (vendor == Vendor::Open115) != (self == Api::Open115))
    }

    /// How the endpoint learns which app asks.
    pub(crate) fn authentication(self) -> Authentication {
        match self {
            Api::V1 | Api::Oidc => Authentication::AppToken,
            Api::V2 | Api::V3 => Authentication::App,
            Api::Open115 => Authentication::None,
        }
    }

    /// Whether a rotation gives the refresh token a new lifetime: 115 only changes the token.
    pub(crate) fn extends_refresh_token(self) -> bool {
        self != Api::Open115
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_endpoints_have_names_and_vendors() {
        assert_eq!(Api::names(), "v1, oidc, v2, v3, 115");
        let address = |text| Address::of_service("base URL", text).unwrap();
        let (feishu, disk) = (
            address(Vendor::Lark.home()),
            address(Vendor::Open115.home()),
        );
        let private = address("https://feishu.example.com");
        assert!(Api::V1.is_foreign(&disk) && Api::Open115.is_foreign(&feishu));
        assert!(!Api::V3.is_foreign(&feishu) && !Api::Open115.is_foreign(&disk));
        assert!(!Api::V1.is_foreign(&private) && !Api::Open115.is_foreign(&private));
    }

    #[test]
    fn a_tokens_form_names_its_endpoint() {
        assert_eq!(Api::of_form("ur-1", true), Api::V1);
        assert_eq!(Api::of_form("eyJ1", true), Api::V3);
        assert_eq!(Api::of_form("eyJ1", false), Api::V2);
        assert_eq!(Api::of_form("8f0c2a6e4b1d", true), Api::V1);
    }
}
