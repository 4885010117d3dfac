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
mod api;
pub(crate) mod app_token;
mod codes;
pub(crate) mod consent;
pub(crate) mod device;
mod feishu_v1;
mod grant;
mod json;
mod message;
mod oauth;
mod open115;
mod reply;
mod scope;
mod secrets;
mod shape;

use secrecy::ExposeSecret;

pub(crate) use address::{Address, Vendor, is_loopback};
pub use api::Api;
pub(crate) use api::Authentication;
pub(crate) use codes::Verdict;
pub(crate) use grant::{App, Credentials, Grant};
pub(crate) use message::{Request, Response};
pub(crate) use reply::{PROXY_LOGIN, Refusal, Reply, Rotation};
pub(crate) use scope::{OFFLINE_ACCESS, covers, scope};
pub(crate) use secrets::Secrets;
pub(crate) use shape::Shape;

impl Api {
    /// Whether its replies name the scope of a token.
    pub(crate) fn names_scope(self) -> bool {
        self.form().has_scope
    }

    fn form(self) -> &'static reply::ReplyForm {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

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
