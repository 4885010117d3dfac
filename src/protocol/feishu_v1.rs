//! Feishu's `authen/v1/refresh_access_token`: the app's token as bearer, tokens under `data`.
//!
//! From the vendor's page "refresh `user_access_token` (v1)". Its replies carry HTTP 200 for most
//! refusals, so only the body's `code` counts.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;

use super::json::{self, Fields};
use super::{Grant, Refusal, Reply, Request, Response, Rotation};
use crate::token;

#[derive(Serialize)]
struct Body<'a> {
    grant_type: &'static str,
    refresh_token: &'a str,
}

pub(super) fn request(grant: &Grant) -> Request {
    let body = Body {
        grant_type: "refresh_token",
        refresh_token: grant.refresh_token.expose_secret(),
    };
    Request {
        path: "/open-apis/authen/v1/refresh_access_token",
        bearer: Some(grant.app_access_token.clone()),
        content_type: "application/json; charset=utf-8",
        // Two strings always serialise.
        body: serde_json::to_string(&body).unwrap_or_default().into(),
    }
}

pub(super) fn reply(grant: &Grant, response: &Response) -> Reply {
    let is_success = matches!(response.status, 200..=299);
    let text = json::text(&response.body);
    let Some(body) = json::fields(&text) else {
        let salvaged = Some(json::salvage(&text)).filter(|_| is_success);
        return match salvaged.filter(|tokens| tokens.contains_key("refresh_token")) {
            Some(tokens) => {
                Reply::Rotated(rotation(grant, response, &tokens, &["it is not whole"]))
            }
            None => Reply::Refused(Refusal::by_status(grant, response)),
        };
    };
    let data = body
        .get("data")
        .and_then(|data| json::fields(data.get()))
        .unwrap_or_default();
    let code = body.get("code").and_then(|code| json::integer(code));
    match code {
        Some(0) if !data.contains_key("refresh_token") && body.contains_key("refresh_token") => {
            Reply::Rotated(rotation(
                grant,
                response,
                &body,
                &["its tokens stand outside data"],
            ))
        }
        Some(0) => Reply::Rotated(rotation(grant, response, &data, &[])),
        Some(code) => {
            let message = ["msg", "message"]
                .iter()
                .find_map(|name| json::string(body.get(*name)?));
            Reply::Refused(Refusal::by_code(
                grant,
                response,
                code,
                &message.unwrap_or_default(),
            ))
        }
        // No code, yet what only a success brings: it must not be lost for a missing number.
        None if is_success && data.contains_key("refresh_token") => {
            Reply::Rotated(rotation(grant, response, &data, &["it has no code"]))
        }
        None => Reply::Refused(Refusal::unusable(grant, response)),
    }
}

fn rotation(
    grant: &Grant,
    response: &Response,
    data: &Fields<'_>,
    flaws: &[&'static str],
) -> Rotation {
    let mut flaws = flaws.to_vec();
    let mut take = |field: Field<_>, flaw| field.good_or(flaw, &mut flaws);
    let access_token = take(
        secret(data.get("access_token")),
        "its access_token is not one",
    );
    let refresh_token = take(
        secret(data.get("refresh_token")),
        "its refresh_token is not one",
    );
    if access_token.is_none() && flaws.is_empty() {
        flaws.push("it has no access_token");
    }
    let mut take = |field: Field<_>, flaw| field.good_or(flaw, &mut flaws);
    let not_seconds = "its expires_in is not a number of seconds";
    let expires_in = take(seconds(data.get("expires_in")), not_seconds);
    let not_seconds = "its refresh_expires_in is not a number of seconds";
    let refresh_expires_in = take(seconds(data.get("refresh_expires_in")), not_seconds);
    Rotation {
        access_token,
        expires_in,
        refresh_token,
        refresh_expires_in,
        flaws,
        log_id: response.log_id(grant),
    }
}

/// A field of a reply: there and as documented, not there, or there and something else.
enum Field<T> {
    Good(T),
    Missing,
    Bad,
}

impl<T> Field<T> {
    fn good_or(self, flaw: &'static str, flaws: &mut Vec<&'static str>) -> Option<T> {
        match self {
            Field::Good(value) => return Some(value),
            Field::Missing => {}
            Field::Bad => flaws.push(flaw),
        }
        None
    }
}

fn secret(value: Option<&&RawValue>) -> Field<SecretString> {
    match value {
        None => Field::Missing,
        Some(value) if value.get() == "null" => Field::Missing,
        Some(value) => match json::string(value) {
            Some(text) if text.is_empty() => Field::Missing,
            Some(text) if token::is_plausible(&text) => Field::Good(text.into()),
            _ => Field::Bad,
        },
    }
}

/// Longer than any token lives; more is a mistake.
const LONGEST_LIFE: u64 = 100 * 366 * 24 * 3600;

fn seconds(value: Option<&&RawValue>) -> Field<u64> {
    match value {
        None => Field::Missing,
        Some(value) if value.get() == "null" => Field::Missing,
        Some(value) => match json::integer(value).map(u64::try_from) {
            Some(Ok(seconds)) if seconds <= LONGEST_LIFE => Field::Good(seconds),
            _ => Field::Bad,
        },
    }
}
