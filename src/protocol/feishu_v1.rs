//! Feishu's `authen/v1/refresh_access_token`: the app's token as bearer, tokens under `data`.
//!
//! From the vendor's page "refresh `user_access_token` (v1)". Its replies carry HTTP 200 for most
//! refusals, so only the body's `code` counts.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;

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

pub(super) fn reply(response: &Response) -> Reply {
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return Reply::Refused(Refusal::by_status(response));
    };
    let data = &body["data"];
    match number(&body["code"]) {
        Some(0) => Reply::Rotated(rotation(response, data, Vec::new())),
        Some(code) => {
            let message = body["msg"].as_str().or_else(|| body["message"].as_str());
            Reply::Refused(Refusal::by_code(
                response,
                code,
                message.unwrap_or_default(),
            ))
        }
        // No code, yet what only a success brings: it must not be lost for a missing number.
        None if matches!(response.status, 200..=299) && data["refresh_token"].is_string() => {
            Reply::Rotated(rotation(response, data, vec!["it has no code"]))
        }
        None => Reply::Refused(Refusal::unusable(response)),
    }
}

fn rotation(response: &Response, data: &Value, mut flaws: Vec<&'static str>) -> Rotation {
    let mut flaw = |what| flaws.push(what);
    let access_token = secret(&data["access_token"]);
    if !matches!(access_token, Field::Good(_)) {
        flaw("it has no usable access_token");
    }
    let refresh_token = secret(&data["refresh_token"]);
    if matches!(refresh_token, Field::Bad) {
        flaw("its refresh_token is not one");
    }
    let expires_in = seconds(&data["expires_in"]);
    if matches!(expires_in, Field::Bad) {
        flaw("its expires_in is not a number of seconds");
    }
    let refresh_expires_in = seconds(&data["refresh_expires_in"]);
    if matches!(refresh_expires_in, Field::Bad) {
        flaw("its refresh_expires_in is not a number of seconds");
    }
    Rotation {
        access_token: access_token.good(),
        expires_in: expires_in.good(),
        refresh_token: refresh_token.good(),
        refresh_expires_in: refresh_expires_in.good(),
        flaws,
        log_id: response.log_id(),
    }
}

/// A field of a reply: there and as documented, not there, or there and something else.
enum Field<T> {
    Good(T),
    Missing,
    Bad,
}

impl<T> Field<T> {
    fn good(self) -> Option<T> {
        match self {
            Field::Good(value) => Some(value),
            Field::Missing | Field::Bad => None,
        }
    }
}

fn secret(value: &Value) -> Field<SecretString> {
    match value {
        Value::Null => Field::Missing,
        Value::String(text) if text.is_empty() => Field::Missing,
        Value::String(text) if token::is_plausible(text) => Field::Good(text.as_str().into()),
        _ => Field::Bad,
    }
}

/// Longer than any token lives; more is a mistake, and less than the calendar's end.
const LONGEST_LIFE: u64 = 100 * 366 * 24 * 3600;

fn seconds(value: &Value) -> Field<u64> {
    match number(value).map(u64::try_from) {
        Some(Ok(seconds)) if seconds <= LONGEST_LIFE => Field::Good(seconds),
        None if value.is_null() => Field::Missing,
        _ => Field::Bad,
    }
}

/// An integer, or a text that holds one.
fn number(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}
