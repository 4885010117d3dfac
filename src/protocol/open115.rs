//! 115's `open/refreshToken`: a form with only the refresh token, tokens under `data`.
//!
//! From the vendor's page "refresh `access_token`". `state` means success or failure as 1 or 0, as a boolean or as a
//! text; the code is in `code` or `errno`, the text in `message` or `error`; on failure `data` may be `{}` or `[]`.
//! Both tokens change, but the refresh token's own lifetime is not extended.

use secrecy::ExposeSecret;
use serde_json::value::RawValue;

use super::codes;
use super::grant::Grant;
use super::json;
use super::message::Request;
use super::reply::{BodyMeaning, ReplyBody, ReplyForm, has};

pub(super) const FORM: ReplyForm = ReplyForm {
    judge,
    in_data: true,
    // It gives none, since that lifetime does not change.
    refresh_expires_in: "refresh_expires_in",
    has_scope: false,
};

pub(super) fn request(grant: &Grant) -> Request {
    let token = grant.refresh_token.expose_secret();
    Request::form("/open/refreshToken", &[("refresh_token", token)])
}

fn judge(body: &ReplyBody<'_>) -> BodyMeaning {
    let codes = ["code", "errno"].map(|name| json::integer_in(&body.fields, name));
    let refusal = codes.into_iter().flatten().find(|code| *code != 0);
    let state = body.fields.get("state").and_then(|state| truth(state));
    let message = json::words(&body.fields, &["message", "error", "msg"]);
    let has_tokens = has(&body.tokens, "refresh_token");
    match (refusal, state) {
        // It contradicts itself, and only a success brings tokens.
        (None, Some(false)) if has_tokens => BodyMeaning::Neither(message),
        (Some(code), Some(true)) if has_tokens && codes::look_up(code).is_none() => {
            BodyMeaning::Neither(message)
        }
        (Some(code), _) => BodyMeaning::Code(code, message),
        (None, Some(true)) => BodyMeaning::Yes,
        (None, None) if codes.contains(&Some(0)) => BodyMeaning::Yes,
        (None, Some(false)) => BodyMeaning::No(message),
        (None, None) => BodyMeaning::Neither(message),
    }
}

/// Yes or no, as a number, a boolean, or a text that holds either.
fn truth(value: &RawValue) -> Option<bool> {
    let text = json::string(value);
    let text = text.as_deref().unwrap_or(value.get()).trim();
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{Api, Credentials, Grant, Refusal, Reply, Response, Verdict};
    use super::*;

    fn grant() -> Grant {
        Grant {
            refresh_token: "a b&c=d+é".into(),
            credentials: Credentials::None,
            scope: None,
        }
    }

    fn reply(body: &str) -> Reply {
        let response = Response {
            status: 200,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        };
        Api::Open115.refresh_reply(&grant(), &response)
    }

    fn refusal(body: &str) -> Refusal {
        match reply(body) {
            Reply::Refused(refusal) => refusal,
            Reply::Rotated(_) => unreachable!("{body} says no"),
        }
    }

    #[test]
    fn the_form_is_encoded() {
        let request = Api::Open115.refresh_request(&grant());
        assert_eq!(request.path, "/open/refreshToken");
        assert_eq!(request.content_type, "application/x-www-form-urlencoded");
        assert_eq!(
            request.body.expose_secret(),
            "refresh_token=a+b%26c%3Dd%2B%C3%A9"
        );
        assert!(request.authorization.is_none());
    }

    #[test]
    fn yes_has_many_forms() {
        let data = r#"{"access_token":"new","refresh_token":"next","expires_in":2592000}"#;
        for head in [
            r#""state":1,"code":0"#,
            r#""state":true,"errno":0"#,
            r#""state":"1","code":"0""#,
            r#""state":"True","code":0,"errno":0"#,
            r#""state":1"#,
            r#""code":0"#,
        ] {
            let body = format!(r#"{{{head},"message":"","data":{data},"error":""}}"#);
            let Reply::Rotated(rotation) = reply(&body) else {
                unreachable!("{head} says yes");
            };
            assert_eq!(rotation.refresh_token.unwrap().expose_secret(), "next");
            assert_eq!(rotation.expires_in, Some(2_592_000));
            assert!(rotation.flaws.is_empty(), "{head}");
        }
    }

    #[test]
    fn no_has_many_forms() {
        for head in [
            r#""state":0,"code":40140116,"data":[]"#,
            r#""state":false,"errno":40140116,"data":{}"#,
            r#""state":"0","code":0,"errno":"40140116""#,
            r#""code":40140116,"data":null"#,
        ] {
            for words in ["message", "error"] {
                let refused = refusal(&format!(r#"{{{head},"{words}":"withdrawn"}}"#));
                assert_eq!(refused.code, Some(40_140_116), "{head}");
                assert_eq!(refused.verdict, Verdict::Reauthorize);
                assert_eq!(refused.message, "withdrawn");
            }
        }
        // It reports failure, but not why.
        let refused = refusal(r#"{"state":0,"code":0,"data":[],"message":"busy"}"#);
        assert_eq!((refused.code, refused.verdict), (None, Verdict::Unexpected));
        assert!(refused.message.ends_with("busy") && !refused.maybe_spent);
    }

    #[test]
    fn tokens_beside_a_contradiction_are_not_lost() {
        for head in [r#""state":0,"code":0"#, r#""state":1,"code":1"#] {
            let data = r#"{"access_token":"new","refresh_token":"next"}"#;
            let Reply::Rotated(rotation) = reply(&format!(r#"{{{head},"data":{data}}}"#)) else {
                unreachable!("it brings tokens");
            };
            assert_eq!(rotation.flaws, ["it does not say success as documented"]);
        }
        // A known code counts.
        let body = r#"{"state":1,"code":40140116,"data":{"refresh_token":"next"}}"#;
        assert_eq!(refusal(body).verdict, Verdict::Reauthorize);
    }

    #[test]
    fn a_throttle_asks_for_a_minute() {
        let refused = refusal(r#"{"state":0,"code":40140117,"message":"too often","data":[]}"#);
        assert_eq!(refused.wait.unwrap().as_secs(), 60);
        assert!(!refused.maybe_spent);
    }

    #[test]
    fn what_says_neither_yes_nor_no_is_not_taken_for_a_yes() {
        let refused = refusal(r#"{"message":"busy","data":{}}"#);
        assert_eq!(refused.verdict, Verdict::Unusable);
        let Reply::Rotated(rotation) = reply(r#"{"data":{"refresh_token":"next"}}"#) else {
            unreachable!("it brings a token");
        };
        assert_eq!(rotation.flaws[0], "it does not say success as documented");
    }
}
