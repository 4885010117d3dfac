//! What to send to a token endpoint, and what its reply means.
//!
//! Pure: no I/O, no clock, no paths. A [`Request`] goes out, a [`Response`] comes back, and a
//! [`Reply`] says what it means. A reply is judged by the code in its body; by its HTTP status only
//! where the body has none, so that a proxy's page is never taken for a verdict on the token.
//!
//! One file per system, each with a request and with what the system calls success or failure ([`reply::BodyMeaning`]);
//! [`reply`] does the rest, the same way for all, and [`secrets`] keeps what was sent out of what is shown. [`codes`]
//! is the one table of codes, [`app_token`] requests what v1 and oidc need beforehand, [`consent`] and [`device`] a
//! first pair.

mod address;
pub(crate) mod app_token;
mod codes;
pub(crate) mod consent;
pub(crate) mod device;
mod feishu_v1;
mod json;
mod message;
mod oauth;
mod open115;
mod reply;
mod scope;
mod secrets;
mod shape;

use secrecy::{ExposeSecret, SecretString};

pub(crate) use address::{Address, Vendor, is_loopback};
pub(crate) use codes::Verdict;
pub(crate) use message::{Request, Response};
pub(crate) use reply::{PROXY_LOGIN, Refusal, Reply, Rotation};
pub(crate) use scope::{OFFLINE_ACCESS, covers, scope};
pub(crate) use secrets::Secrets;
pub(crate) use shape::Shape;

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

    /// Whether its replies name the scope of a token.
    pub(crate) fn names_scope(self) -> bool {
        self.form().has_scope
    }

    fn form(self) -> &'static reply::Form {
        match self {
            Api::V1 => &feishu_v1::V1,
            Api::Oidc => &feishu_v1::OIDC,
            Api::V2 | Api::V3 => &oauth::FORM,
            Api::Open115 => &open115::FORM,
        }
    }

    /// The request that spends a grant.
    pub(crate) fn refresh_request(self, grant: &Grant) -> Request {
        match self {
            Api::V1 => feishu_v1::request("/open-apis/authen/v1/refresh_access_token", grant),
            Api::Oidc => {
                feishu_v1::request("/open-apis/authen/v1/oidc/refresh_access_token", grant)
            }
            Api::V2 | Api::V3 => oauth::refresh(self, grant),
            Api::Open115 => open115::request(grant),
        }
    }

    /// What the reply to that request means.
    pub(crate) fn refresh_reply(self, grant: &Grant, response: &Response) -> Reply {
        let reply = reply::judged(response, &grant.secrets(), self.form());
        match reply {
            Reply::Refused(refusal) => Reply::Refused(self.recognise_version(grant, refusal)),
            // By RFC 6749, a reply without a scope grants the requested one.
            Reply::Rotated(rotation) if rotation.flaws.is_empty() => Reply::Rotated(Rotation {
                scope: rotation.scope.or_else(|| grant.scope.clone()),
                ..rotation
            }),
            rotated @ Reply::Rotated(_) => rotated,
        }
    }

    /// Names the right endpoint if the server says that a token is not its own, and the token's form says whose it is.
    fn recognise_version(self, grant: &Grant, refusal: Refusal) -> Refusal {
        let shape = Shape::of(grant.refresh_token.expose_secret());
        let right = match (self, shape) {
            (Api::V1 | Api::Oidc, Shape::Signed) => Some(&oauth::RIGHT),
            (Api::V2 | Api::V3, Shape::RefreshToken) => Some(&feishu_v1::RIGHT),
            _ => None,
        };
        let hint = right.filter(|_| refusal.code == Some(codes::NOT_THIS_REFRESH_TOKEN));
        Refusal {
            hint: hint.or(refusal.hint),
            ..refusal
        }
    }
}

/// What the reply to an exchange of a code means.
pub(crate) fn code_reply(grant: &consent::CodeGrant, response: &Response) -> Reply {
    reply::judged(response, &grant.secrets(), &oauth::FORM)
}

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
    /// What the new token is narrowed to, as [`scope()`] gives it; v2 and v3 only.
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

    fn grant(scope: Option<&str>) -> Grant {
        Grant {
            refresh_token: "refresh-1".into(),
            credentials: Credentials::App(App {
                id: "cli_1".to_owned(),
                secret: "secret-1".into(),
                ticket: Some("ticket-1".into()),
            }),
            scope: scope.map(str::to_owned),
        }
    }

    fn answer(body: &str) -> Response {
        Response {
            status: 200,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        }
    }

    #[test]
    fn a_scope_that_was_asked_for_counts_as_granted_by_a_sound_reply_alone() {
        let scope = |rest: &str| {
            let pair = r#""access_token":"a","refresh_token":"r""#;
            let body = answer(&format!("{{{pair}{rest}}}"));
            match Api::V2.refresh_reply(&grant(Some("a offline_access")), &body) {
                Reply::Rotated(rotation) => rotation.scope,
                Reply::Refused(refusal) => unreachable!("{}", refusal.message),
            }
        };
        assert_eq!(scope("").as_deref(), Some("a offline_access"));
        assert_eq!(scope(r#","scope":"b""#).as_deref(), Some("b"));
        assert_eq!(
            scope(r#","scope":"b","expires_in":-1"#).as_deref(),
            Some("b")
        );
        assert_eq!(scope(r#","expires_in":-1"#), None);
    }

    #[test]
    fn a_refusal_repeats_nothing_that_was_sent() {
        let words = "no refresh-1 secret-1 ticket-1 code-1 proof-1";
        let body = answer(&format!(r#"{{"code":20026,"msg":"{words}"}}"#));
        let message = |reply| match reply {
            Reply::Refused(refusal) => refusal.message,
            Reply::Rotated(_) => unreachable!("it says no"),
        };
        let refused = Api::V2.refresh_reply(&grant(None), &body);
        assert_eq!(message(refused), "no *** *** *** code-1 proof-1");
        let Credentials::App(app) = grant(None).credentials else {
            unreachable!("it is an app");
        };
        let code = consent::CodeGrant {
            app,
            code: "code-1".into(),
            redirect_uri: String::new(),
            verifier: "proof-1".into(),
        };
        let refused = code_reply(&code, &body);
        assert_eq!(message(refused), "no refresh-1 *** *** *** ***");
    }

    #[test]
    fn the_right_endpoint_is_named_only_where_the_token_shows_it() {
        for (api, token, right) in [
            (Api::V1, "eyJ1", Some("--api v3")),
            (Api::Oidc, "eyJ1", Some("--api v3")),
            (Api::V2, "ur-1", Some("--api v1")),
            (Api::V3, "ur-1", Some("--api v1")),
            (Api::V1, "ur-1", None),
            (Api::V2, "eyJ1", None),
            (Api::Open115, "eyJ1", None),
        ] {
            let grant = Grant {
                refresh_token: token.into(),
                ..grant(None)
            };
            let hint = |code: i64| {
                let body = answer(&format!(r#"{{"code":{code}}}"#));
                match api.refresh_reply(&grant, &body) {
                    Reply::Refused(refusal) => refusal.hint.unwrap().english.clone(),
                    Reply::Rotated(_) => unreachable!("it says no"),
                }
            };
            let said = hint(codes::NOT_THIS_REFRESH_TOKEN);
            let expected = right.unwrap_or("log in again");
            assert!(said.contains(expected), "{api:?} of {token}: {said}");
            assert!(!hint(20037).contains("--api"));
        }
    }
}
