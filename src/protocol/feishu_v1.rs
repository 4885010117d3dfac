//! Feishu's `authen/v1/refresh_access_token`, and the same under `oidc/`: the app's token as bearer,
//! tokens under `data`.
//!
//! From the vendor's pages "refresh `user_access_token`" (v1, and its OIDC form). Their replies
//! carry HTTP 200 for most refusals, so only the body's `code` counts. Older copies of the OIDC page
//! say `message` for `msg`.

use secrecy::ExposeSecret;
use serde::Serialize;

use super::grant::{Credentials, Grant};
use super::json;
use super::message::Request;
use super::reply::{BodyMeaning, ReplyBody, ReplyForm};
use crate::error::Hint;

/// The form of v1's replies; [`OIDC`] is oidc's.
pub(super) const V1: ReplyForm = ReplyForm {
    judge,
    in_data: true,
    refresh_expires_in: "refresh_expires_in",
    has_scope: false,
};

pub(super) const OIDC: ReplyForm = ReplyForm {
    has_scope: true,
    ..V1
};

/// For a token that was sent to another endpoint.
pub(super) static RIGHT: Hint = Hint::fixed(
    "this is a v1 refresh token: use --api v1, or api = v1 in its section",
    "这是 v1 的 refresh_token：请使用 --api v1，或在该节中设置 api = v1",
);

#[derive(Serialize)]
struct RefreshBody<'a> {
    grant_type: &'static str,
    refresh_token: &'a str,
}

pub(super) fn request(path: &'static str, grant: &Grant) -> Request {
    let body = RefreshBody {
        grant_type: "refresh_token",
        refresh_token: grant.refresh_token.expose_secret(),
    };
    let authorization = match &grant.credentials {
        Credentials::AppToken(token) => Some(format!("Bearer {}", token.expose_secret()).into()),
        _ => None,
    };
    Request {
        authorization,
        ..Request::json(path, &body)
    }
}

fn judge(body: &ReplyBody<'_>) -> BodyMeaning {
    let message = json::words(&body.fields, &["msg", "message"]);
    match json::integer_in(&body.fields, "code") {
        Some(0) => BodyMeaning::Yes,
        Some(code) => BodyMeaning::Code(code, message),
        None => BodyMeaning::Neither(message),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{Api, Grant, Reply, Response};
    use super::*;

    const REFRESH_TOKEN: &str =
        "ur-oQ0mMq6MCcueAv0pwx2fQQhxqv__CbLu6G8ySFwafeKww2Def2BJdOkW3.9gCFM.LBQgFri901QaqeuL";

    fn grant() -> Grant {
        Grant {
            refresh_token: REFRESH_TOKEN.into(),
            credentials: Credentials::AppToken("t-7f1b******8e560".into()),
            scope: None,
        }
    }

    fn reply(api: Api, body: &str) -> Reply {
        let response = Response {
            status: 200,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        };
        api.refresh_reply(&grant(), &response)
    }

    #[test]
    fn the_request_of_the_document() {
        let request = Api::V1.refresh_request(&grant());
        assert_eq!(request.path, "/open-apis/authen/v1/refresh_access_token");
        let authorization = request.authorization.unwrap();
        assert_eq!(authorization.expose_secret(), "Bearer t-7f1b******8e560");
        let body: serde_json::Value = serde_json::from_str(request.body.expose_secret()).unwrap();
        let expected = serde_json::json!({
            "grant_type": "refresh_token",
            "refresh_token": REFRESH_TOKEN,
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn the_reply_of_the_document() {
        let body = r#"{
            "code": 0,
            "msg": "success",
            "data": {
                "access_token": "u-Q7JWnaIM_kRChuLfreHmpArjOEayt.5XUBJcZr.V0Gst4FdQCtvrd9sAViLXQnQgkpL19brGOjKZQTxb",
                "token_type": "Bearer",
                "expires_in": 7140,
                "name": "zhangsan",
                "refresh_expires_in": 2591940,
                "refresh_token": "ur-next",
                "sid": "AAAAAAAAAAANjgHsqKEAAEw=="
            }
        }"#;
        let scoped = body.replace("7140", r#"7140, "scope": "auth:user.id:read""#);
        for (api, body, scope) in [
            (Api::V1, body, None),
            (Api::Oidc, &scoped, Some("auth:user.id:read")),
        ] {
            let Reply::Rotated(rotation) = reply(api, body) else {
                unreachable!("it says yes");
            };
            assert!(
                rotation
                    .access_token
                    .unwrap()
                    .expose_secret()
                    .starts_with("u-Q7JW")
            );
            assert_eq!(rotation.refresh_token.unwrap().expose_secret(), "ur-next");
            assert_eq!(rotation.expires_in, Some(7140));
            assert_eq!(rotation.refresh_expires_in, Some(2_591_940));
            assert_eq!(rotation.scope.as_deref(), scope);
            assert!(rotation.flaws.is_empty());
        }
    }

    #[test]
    fn a_refusal_may_call_its_words_either_name() {
        for name in ["msg", "message"] {
            let body = format!(r#"{{"code": 20008, "{name}": "User not exist"}}"#);
            let Reply::Refused(refusal) = reply(Api::Oidc, &body) else {
                unreachable!("it says no");
            };
            assert_eq!(
                (refusal.code, refusal.message.as_str()),
                (Some(20008), "User not exist")
            );
        }
    }
}
