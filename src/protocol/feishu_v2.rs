//! Feishu's `authen/v2/oauth/token`: app id and secret in the body, a flat reply.
//!
//! From the vendor's page "get `user_access_token`" (v2), which follows RFC 6749. So a standard
//! server may stand in for it: its reply has no `code`, and `error` alone says no.

use secrecy::ExposeSecret;
use serde::Serialize;

use super::json::{self, Fields};
use super::reply::{Names, Said};
use super::{Credentials, Grant, Request, codes};
use crate::error::Hint;

pub(super) const NAMES: Names = Names {
    refresh_expires_in: "refresh_token_expires_in",
};

/// For a token that was sent elsewhere.
pub(super) static RIGHT: Hint = Hint::fixed(
    "this is a refresh token of v2: use --api v2, or api = v2 in its section",
    "这是 v2 的 refresh_token：请使用 --api v2，或在该节中设置 api = v2",
);

/// Whether a refresh token has the form of this version's: a signed JSON object.
pub(super) fn is_own(refresh_token: &str) -> bool {
    refresh_token.starts_with("eyJ")
}

#[derive(Serialize)]
struct Body<'a> {
    grant_type: &'static str,
    client_id: &'a str,
    client_secret: &'a str,
    refresh_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
}

pub(super) fn request(grant: &Grant) -> Request {
    let (client_id, client_secret) = match &grant.credentials {
        Credentials::App(app) => (app.id.as_str(), app.secret.expose_secret()),
        Credentials::AppToken(_) | Credentials::None => ("", ""),
    };
    let body = Body {
        grant_type: "refresh_token",
        client_id,
        client_secret,
        refresh_token: grant.refresh_token.expose_secret(),
        scope: grant.scope.as_deref(),
    };
    Request::json("/open-apis/authen/v2/oauth/token", &body)
}

pub(super) fn judge<'a>(body: &Fields<'a>, is_success: bool) -> Said<'a> {
    let has = |name| body.get(name).is_some_and(|value| value.get() != "null");
    let code = body.get("code").and_then(|code| json::integer(code));
    let error = json::words(body, &["error"]);
    let message = || match json::words(body, &["error_description", "msg", "message"]) {
        description if description.is_empty() => error.clone(),
        description if error.is_empty() => description,
        description => format!("{error}: {description}"),
    };
    let has_tokens = has("refresh_token") || has("access_token");
    let data = body.get("data").and_then(|data| json::fields(data.get()));
    let data = data.filter(|data| !has_tokens && data.contains_key("refresh_token"));
    match (code, codes::look_up_error(&error)) {
        (Some(code), _) if code != 0 => Said::Code(code, message()),
        (_, Some(entry)) if !has_tokens => Said::Error(entry, message()),
        (Some(_), _) => match data {
            Some(data) => Said::Yes(data, vec!["its tokens stand inside data"]),
            None => Said::Yes(body.clone(), Vec::new()),
        },
        (None, _) if is_success && has_tokens => {
            let odd = has("code").then_some("its code is not a number");
            Said::Yes(body.clone(), odd.into_iter().collect())
        }
        (None, Some(entry)) => Said::Error(entry, message()),
        (None, None) => Said::Neither(message()),
    }
}
