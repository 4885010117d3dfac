//! Feishu's `authen/v2/oauth/token` and its successor `oauth/v3/token`, and any standard server: app
//! id and secret in the body, a flat reply.
//!
//! From the vendor's page "get `user_access_token`" (v2), which follows RFC 6749, and from what that page says about
//! v3: another host, the same parameters and reply, sent as a form, as RFC 6749 requires. So a standard server gets the
//! same requests as v3, and may stand in for v2: its reply has no `code`, and only `error` means failure.

use secrecy::ExposeSecret;
use serde::{Serialize, Serializer};

use super::api::Api;
use super::codes;
use super::grant::{Credentials, Grant};
use super::json;
use super::message::Request;
use super::reply::{BodyMeaning, ReplyBody, ReplyForm, has};
use crate::error::Hint;

pub(super) const FORM: ReplyForm = ReplyForm {
    judge,
    in_data: false,
    refresh_expires_in: "refresh_token_expires_in",
    has_scope: true,
};

/// For a token that was sent to another endpoint.
pub(super) static RIGHT: Hint = Hint::fixed(
    "this is a v2 or v3 refresh token: use --api v3 (Lark: v2), or api = v3 in its section",
    "这是 v2 或 v3 的 refresh_token：请使用 --api v3（Lark 为 v2），或在该节中设置 api = v3",
);

/// The request that spends a grant.
pub(super) fn refresh(api: Api, grant: &Grant) -> Request {
    let (id, secret) = match &grant.credentials {
        Credentials::App(app) => (app.id.as_str(), Some(app.secret.expose_secret())),
        Credentials::PublicApp(id) => (id.as_str(), None),
        Credentials::AppToken(_) | Credentials::None => ("", None),
    };
    let mut fields = vec![("grant_type", "refresh_token"), ("client_id", id)];
    fields.extend(secret.map(|secret| ("client_secret", secret)));
    fields.push(("refresh_token", grant.refresh_token.expose_secret()));
    fields.extend(grant.scope.as_deref().map(|scope| ("scope", scope)));
    request(api, &fields)
}

/// A request to the token endpoint of v2 or v3.
pub(super) fn request(api: Api, fields: &[(&'static str, &str)]) -> Request {
    match api {
        Api::V3 => Request::form("/oauth/v3/token", fields),
        _ => Request::json("/open-apis/authen/v2/oauth/token", &Object(fields)),
    }
}

/// An object with these fields, in their order.
struct Object<'a>(&'a [(&'static str, &'a str)]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

fn judge(body: &ReplyBody<'_>) -> BodyMeaning {
    let error = json::words(&body.fields, &["error"]);
    let words = json::words(&body.fields, &["error_description", "msg", "message"]);
    let message = match (error.is_empty(), words.is_empty()) {
        (false, false) => format!("{error}: {words}"),
        (false, true) => error.clone(),
        (true, _) => words,
    };
    let has_tokens = has(&body.tokens, "refresh_token") || has(&body.tokens, "access_token");
    let has_code = json::is_there(&body.fields, "code");
    match json::integer_in(&body.fields, "code") {
        Some(0) if has_tokens => BodyMeaning::Yes,
        None if !has_code && body.is_success && has_tokens => BodyMeaning::Yes,
        Some(code) if code != 0 => BodyMeaning::Code(code, message),
        code => match (codes::look_up_error(&error), code) {
            (Some(entry), _) => BodyMeaning::Error(entry, message),
            (None, Some(_)) => BodyMeaning::Yes,
            (None, None) => BodyMeaning::Neither(message),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{App, Grant, Refusal, Reply, Response, Verdict};
    use super::*;

    fn grant(scope: Option<&str>) -> Grant {
        Grant {
            refresh_token: "eyJhbGciOiJFUzI1NiIs**********XXOYOZz1mfgIYHwM8ZJA".into(),
            credentials: Credentials::App(App {
                id: "cli_a5ca35a685b0x26e".to_owned(),
                secret: "baBqE5um9LbFGDy3X7LcfxQX1sqpXlwy".into(),
                ticket: None,
            }),
            scope: scope.map(str::to_owned),
        }
    }

    fn reply(status: u16, body: &str) -> Reply {
        let response = Response {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        };
        Api::V2.refresh_reply(&grant(None), &response)
    }

    fn refusal(status: u16, body: &str) -> Refusal {
        match reply(status, body) {
            Reply::Refused(refusal) => refusal,
            Reply::Rotated(_) => unreachable!("{body} says no"),
        }
    }

    #[test]
    fn the_request_has_a_scope_only_when_asked_to() {
        let request = Api::V2.refresh_request(&grant(None));
        assert!(request.authorization.is_none());
        assert!(!request.body.expose_secret().contains("scope"));
        let scoped = Api::V2.refresh_request(&grant(Some("a offline_access")));
        let body: serde_json::Value = serde_json::from_str(scoped.body.expose_secret()).unwrap();
        assert_eq!(body["scope"], "a offline_access");
        assert_eq!(body["client_id"], "cli_a5ca35a685b0x26e");
    }

    #[test]
    fn v3_takes_a_form_and_a_public_app_has_no_secret() {
        let form = |grant: &Grant| {
            let request = Api::V3.refresh_request(grant);
            assert_eq!(request.path, "/oauth/v3/token");
            assert_eq!(request.content_type, "application/x-www-form-urlencoded");
            assert!(request.authorization.is_none());
            request.body.expose_secret().to_owned()
        };
        let token = "eyJhbGciOiJFUzI1NiIs**********XXOYOZz1mfgIYHwM8ZJA";
        let (id, secret) = ("cli_a5ca35a685b0x26e", "baBqE5um9LbFGDy3X7LcfxQX1sqpXlwy");
        assert_eq!(
            form(&grant(Some("a offline_access"))),
            format!(
                "grant_type=refresh_token&client_id={id}&client_secret={secret}&refresh_token={token}&scope=a+offline_access"
            )
        );
        let public = Grant {
            credentials: Credentials::PublicApp(id.to_owned()),
            ..grant(None)
        };
        let expected = format!("grant_type=refresh_token&client_id={id}&refresh_token={token}");
        assert_eq!(form(&public), expected);
    }

    #[test]
    fn the_replies_of_the_document() {
        let body = r#"{
            "code": 0,
            "access_token": "eyJhbGciOiJFUzI1NiIs**********X6wrZHYKDxJkWwhdkrYg",
            "expires_in": 7200,
            "refresh_token": "eyJhbGciOiJFUzI1NiIs**********next",
            "refresh_token_expires_in": 604800,
            "scope": "auth:user.id:read offline_access task:task:read user_profile",
            "token_type": "Bearer"
        }"#;
        let Reply::Rotated(rotation) = reply(200, body) else {
            unreachable!("it says yes");
        };
        assert!(rotation.access_token.is_some() && rotation.flaws.is_empty());
        assert_eq!(rotation.expires_in, Some(7200));
        assert_eq!(rotation.refresh_expires_in, Some(604_800));
        let scope = "auth:user.id:read offline_access task:task:read user_profile";
        assert_eq!(rotation.scope.as_deref(), Some(scope));

        let refused = refusal(
            500,
            r#"{
                "code": 20050,
                "error": "server_error",
                "error_description": "An unexpected server error occurred. Please retry your request."
            }"#,
        );
        assert_eq!(
            (refused.code, refused.verdict),
            (Some(20050), Verdict::Temporary)
        );
        let message =
            "server_error: An unexpected server error occurred. Please retry your request.";
        assert_eq!(refused.message, message);
    }

    /// RFC 6749, sections 5.1 and 5.2, for a server that knows no codes.
    #[test]
    fn a_standard_server_is_judged_by_error_alone() {
        let Reply::Rotated(rotation) = reply(
            200,
            r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600,"refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA"}"#,
        ) else {
            unreachable!("it says yes");
        };
        assert!(rotation.refresh_token.is_some() && rotation.flaws.is_empty());
        assert_eq!(rotation.refresh_expires_in, None);
        for (error, verdict) in [
            ("invalid_grant", Verdict::Reauthorize),
            ("invalid_client", Verdict::Config),
            ("invalid_request", Verdict::Config),
            ("unauthorized_client", Verdict::Config),
            ("unsupported_grant_type", Verdict::Config),
            ("invalid_scope", Verdict::Config),
            ("server_error", Verdict::Temporary),
            ("temporarily_unavailable", Verdict::Temporary),
            ("no_such_error", Verdict::Unexpected),
        ] {
            let refused = refusal(400, &format!(r#"{{"error":"{error}"}}"#));
            assert_eq!((refused.code, refused.verdict), (None, verdict), "{error}");
            assert!(refused.message.contains(error));
        }
        // A code takes precedence over the name.
        let refused = refusal(400, r#"{"code":20050,"error":"invalid_grant"}"#);
        assert_eq!(refused.verdict, Verdict::Temporary);
        let refused = refusal(400, r#"{"code":29999,"error":"invalid_grant"}"#);
        assert_eq!(refused.verdict, Verdict::Unexpected);
    }

    #[test]
    fn tokens_count_before_the_name_of_an_error_and_a_code_of_0_does_not() {
        let sound = |body: &str| match reply(200, body) {
            Reply::Rotated(rotation) => rotation.flaws,
            Reply::Refused(refusal) => unreachable!("{body}: {}", refusal.message),
        };
        let pair = r#""access_token":"a","refresh_token":"r""#;
        let both = format!(r#"{{"code":0,"error":"invalid_grant",{pair}}}"#);
        assert!(sound(&both).is_empty());
        assert!(sound(r#"{"access_token":"a"}"#).is_empty());
        assert!(sound(&format!(r#"{{"code":null,{pair}}}"#)).is_empty());
        let unread = sound(&format!(r#"{{"code":"x",{pair}}}"#));
        assert_eq!(unread, ["it does not say success as documented"]);
        let refused = refusal(200, r#"{"code":0,"error":"invalid_grant"}"#);
        let expected = (None, Verdict::Reauthorize);
        assert_eq!((refused.code, refused.verdict), expected);
        let refused = refusal(400, &format!("{{{pair}}}"));
        assert_eq!(refused.verdict, Verdict::Unexpected);
    }
}
