//! 115's `open/refreshToken`: a form with the refresh token alone, tokens under `data`.
//!
//! From the vendor's page "refresh `access_token`". `state` says yes or no as 0 or 1, as a boolean
//! or as a text; the code stands in `code` or `errno`, the words in `message` or `error`; on failure
//! `data` may be `{}` or `[]`. Both tokens change, but the refresh token's own life is not extended.

use secrecy::ExposeSecret;
use serde_json::value::RawValue;

use super::json::{self, Fields};
use super::reply::{Names, Said};
use super::{Grant, Request};

pub(super) const NAMES: Names = Names {
    // It gives none, since that life does not change.
    refresh_expires_in: "refresh_expires_in",
};

pub(super) fn request(grant: &Grant) -> Request {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("refresh_token", grant.refresh_token.expose_secret());
    Request {
        path: "/open/refreshToken",
        bearer: None,
        content_type: "application/x-www-form-urlencoded",
        body: form.finish().into(),
    }
}

pub(super) fn judge<'a>(body: &Fields<'a>, is_success: bool) -> Said<'a> {
    let data = body
        .get("data")
        .and_then(|data| json::fields(data.get()))
        .unwrap_or_default();
    let codes = ["code", "errno"].map(|name| body.get(name).and_then(|code| json::integer(code)));
    let refusal = codes.into_iter().flatten().find(|code| *code != 0);
    let state = body.get("state").and_then(|state| truth(state));
    let is_yes = state.unwrap_or(codes.contains(&Some(0)));
    let message = || json::words(body, &["message", "error", "msg"]);
    let has_token = data.contains_key("refresh_token");
    match refusal {
        Some(code) => Said::Code(code, message()),
        None if is_yes => Said::Yes(data, Vec::new()),
        // Tokens that only a success brings must not be lost for what stands beside them.
        None if is_success && has_token => Said::Yes(data, vec!["its state does not say so"]),
        None => Said::Neither(message()),
    }
}

/// Yes or no, as a number, a boolean, or a text that holds either.
fn truth(value: &RawValue) -> Option<bool> {
    let text = json::string(value);
    match text.as_deref().unwrap_or(value.get()).trim() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}
