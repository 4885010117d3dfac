//! Feishu's `authen/v1/refresh_access_token`, and the same under `oidc/`: the app's token as bearer,
//! tokens under `data`.
//!
//! From the vendor's pages "refresh `user_access_token`" (v1, and its OIDC form). Their replies
//! carry HTTP 200 for most refusals, so only the body's `code` counts. Older copies of the OIDC page
//! say `message` for `msg`.

use secrecy::ExposeSecret;
use serde::Serialize;

use super::json::{self, Fields};
use super::reply::{Names, Said};
use super::{Credentials, Grant, Request};
use crate::error::Hint;

pub(super) const NAMES: Names = Names {
    refresh_expires_in: "refresh_expires_in",
};

/// For a token that was sent elsewhere.
pub(super) static RIGHT: Hint = Hint::fixed(
    "this is a refresh token of v1: use --api v1, or api = v1 in its section",
    "这是 v1 的 refresh_token：请使用 --api v1，或在该节中设置 api = v1",
);

/// Whether a refresh token has the form of this version's.
pub(super) fn is_own(refresh_token: &str) -> bool {
    refresh_token.starts_with("ur-")
}

#[derive(Serialize)]
struct Body<'a> {
    grant_type: &'static str,
    refresh_token: &'a str,
}

pub(super) fn request(path: &'static str, grant: &Grant) -> Request {
    let body = Body {
        grant_type: "refresh_token",
        refresh_token: grant.refresh_token.expose_secret(),
    };
    let bearer = match &grant.credentials {
        Credentials::AppToken(token) => Some(token.clone()),
        Credentials::App(_) | Credentials::None => None,
    };
    Request {
        bearer,
        ..Request::json(path, &body)
    }
}

pub(super) fn judge<'a>(body: &Fields<'a>, is_success: bool) -> Said<'a> {
    let data = body
        .get("data")
        .and_then(|data| json::fields(data.get()))
        .unwrap_or_default();
    let code = body.get("code").and_then(|code| json::integer(code));
    let message = || json::words(body, &["msg", "message"]);
    let has_token = |fields: &Fields<'_>| fields.contains_key("refresh_token");
    match code {
        Some(0) if !has_token(&data) && has_token(body) => {
            Said::Yes(body.clone(), vec!["its tokens stand outside data"])
        }
        Some(0) => Said::Yes(data, Vec::new()),
        Some(code) => Said::Code(code, message()),
        // No code, yet what only a success brings: it must not be lost for a missing number.
        None if is_success && has_token(&data) => Said::Yes(data, vec!["it has no code"]),
        None => Said::Neither(message()),
    }
}
