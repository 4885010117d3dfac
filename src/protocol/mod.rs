//! What to send to a token endpoint, and what its reply means.
//!
//! Pure: no I/O, no clock, no paths. A [`Request`] goes out, a [`Response`] comes back, and a
//! [`Reply`] says what it means. A reply is judged by the code in its body; by its HTTP status only
//! where the body has none, so that a proxy's page is never taken for a verdict on the token.
//!
//! One file a system, each with a request and with what the system calls a yes or a no
//! ([`reply::Said`]); [`reply`] goes on from there, the same way for all, and [`secrets`] keeps what
//! was sent out of what is shown. [`codes`] is the one table of codes, [`app_token`] asks for what v1
//! and oidc need beforehand, [`consent`] and [`device`] for a first pair.

pub(crate) mod app_token;
mod codes;
pub(crate) mod consent;
pub(crate) mod device;
mod feishu_v1;
mod feishu_v2;
mod json;
mod message;
mod open115;
mod reply;
mod scope;
mod secrets;

use secrecy::{ExposeSecret, SecretString};

pub(crate) use codes::Verdict;
pub(crate) use message::{Request, Response};
pub(crate) use reply::{Refusal, Reply, Rotation};
pub(crate) use scope::{covers, scope};
pub(crate) use secrets::Secrets;

/// Which token endpoint, and so which request and which form of reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Api {
    /// Feishu's `authen/v1/refresh_access_token`.
    V1,
    /// Feishu's `authen/v1/oidc/refresh_access_token`.
    Oidc,
    /// Feishu's `authen/v2/oauth/token`, or any other after RFC 6749.
    V2,
    /// 115's `open/refreshToken`.
    Open115,
}

/// How an endpoint is told which app asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// By an `app_access_token` in the header.
    AppToken,
    /// By app id and secret in the body.
    App,
    /// Not at all.
    None,
}

const FEISHU_ACCOUNTS: &str = "https://accounts.feishu.cn";
const LARK_ACCOUNTS: &str = "https://accounts.larksuite.com";
const FEISHU: &str = "https://open.feishu.cn";
const LARK: &str = "https://open.larksuite.com";
const OPEN_115: &str = "https://passportapi.115.com";

impl Api {
    /// Every endpoint.
    pub(crate) const ALL: [Api; 4] = [Api::V1, Api::Oidc, Api::V2, Api::Open115];

    /// The endpoint's name on the command line and in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Api::V1 => "v1",
            Api::Oidc => "oidc",
            Api::V2 => "v2",
            Api::Open115 => "115",
        }
    }

    /// The endpoint of that name; none if there is no such.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Api::ALL.into_iter().find(|api| api.name() == name)
    }

    /// The names of all endpoints, as a message lists them.
    pub(crate) fn names() -> String {
        Api::ALL.map(Api::name).join(", ")
    }

    /// Scheme and host of the service this endpoint belongs to.
    pub(crate) fn home(self, lark: bool) -> &'static str {
        match self {
            Api::Open115 => OPEN_115,
            _ if lark => LARK,
            _ => FEISHU,
        }
    }

    /// Whether this address is a vendor's own, so that secrets from anywhere may go there.
    pub(crate) fn is_vendor(base_url: &str) -> bool {
        [FEISHU, LARK, OPEN_115].contains(&base_url.trim_end_matches('/'))
    }

    /// Whether this address is a vendor's own, and another's than this endpoint's.
    pub(crate) fn is_foreign(self, base_url: &str) -> bool {
        let homes = [self.home(false), self.home(true)];
        Api::is_vendor(base_url) && !homes.contains(&base_url.trim_end_matches('/'))
    }

    /// How the endpoint is told which app asks.
    pub(crate) fn authentication(self) -> Authentication {
        match self {
            Api::V1 | Api::Oidc => Authentication::AppToken,
            Api::V2 => Authentication::App,
            Api::Open115 => Authentication::None,
        }
    }

    /// Whether a rotation gives the refresh token a new life: 115 only changes the token.
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
            Api::V2 => &feishu_v2::FORM,
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
            Api::V2 => feishu_v2::request(grant),
            Api::Open115 => open115::request(grant),
        }
    }

    /// What the reply to that request means.
    pub(crate) fn refresh_reply(self, grant: &Grant, response: &Response) -> Reply {
        let reply = reply::judged(response, &grant.secrets(), self.form());
        match reply {
            Reply::Refused(refusal) => Reply::Refused(self.recognise_version(grant, refusal)),
            // After RFC 6749, what a reply does not name is what was asked for.
            Reply::Rotated(rotation) if rotation.flaws.is_empty() => Reply::Rotated(Rotation {
                scope: rotation.scope.or_else(|| grant.scope.clone()),
                ..rotation
            }),
            rotated @ Reply::Rotated(_) => rotated,
        }
    }

    /// Names the right endpoint where the server says that a token is none of its own, and the
    /// token's form says whose it is.
    fn recognise_version(self, grant: &Grant, refusal: Refusal) -> Refusal {
        let token = grant.refresh_token.expose_secret();
        let right = match self {
            Api::V1 | Api::Oidc => feishu_v2::is_own(token).then_some(&feishu_v2::RIGHT),
            Api::V2 => feishu_v1::is_own(token).then_some(&feishu_v1::RIGHT),
            Api::Open115 => None,
        };
        let hint = right.filter(|_| refusal.code == Some(codes::NOT_THIS_REFRESH_TOKEN));
        Refusal {
            hint: hint.or(refusal.hint),
            ..refusal
        }
    }
}

/// Scheme and host of the consent pages.
pub(crate) fn accounts_home(lark: bool) -> &'static str {
    if lark { LARK_ACCOUNTS } else { FEISHU_ACCOUNTS }
}

/// Scheme and host of the consent pages that go with a service's address; none if it is not known.
pub(crate) fn accounts_of(base_url: &str) -> Option<&'static str> {
    match base_url.trim_end_matches('/') {
        FEISHU => Some(FEISHU_ACCOUNTS),
        LARK => Some(LARK_ACCOUNTS),
        _ => None,
    }
}

/// What the reply to an exchange of a code means.
pub(crate) fn code_reply(grant: &consent::CodeGrant, response: &Response) -> Reply {
    reply::judged(response, &grant.secrets(), &feishu_v2::FORM)
}

/// What an app shows to get an `app_access_token`, or to refresh at v2.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) secret: SecretString,
    /// What the vendor's event brings to an app from its store.
    pub(crate) ticket: Option<SecretString>,
}

impl App {
    /// What must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let secrets = [Some(&self.secret), self.ticket.as_ref()];
        secrets.into_iter().flatten().collect()
    }
}

/// What shows an endpoint which app asks.
#[derive(Debug, Clone)]
pub(crate) enum Credentials {
    AppToken(SecretString),
    App(App),
    None,
}

/// What one refresh spends and shows.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) refresh_token: SecretString,
    pub(crate) credentials: Credentials,
    /// What the new token is narrowed to, as [`scope()`] gives it; v2 only.
    pub(crate) scope: Option<String>,
}

impl Grant {
    /// What must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let mut secrets = match &self.credentials {
            Credentials::AppToken(token) => [token].into_iter().collect(),
            Credentials::App(app) => app.secrets(),
            Credentials::None => Secrets::default(),
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
    fn the_endpoints_have_names_and_homes() {
        assert_eq!(Api::names(), "v1, oidc, v2, 115");
        assert_eq!(
            accounts_of("https://open.feishu.cn/"),
            Some(FEISHU_ACCOUNTS)
        );
        assert_eq!(
            accounts_of("https://open.larksuite.com"),
            Some(LARK_ACCOUNTS)
        );
        assert_eq!(accounts_of("https://open.feishu.cn.evil"), None);
        assert_eq!(accounts_of(OPEN_115), None);
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
            (Api::V1, "eyJ1", Some("--api v2")),
            (Api::Oidc, "eyJ1", Some("--api v2")),
            (Api::V2, "ur-1", Some("--api v1")),
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
