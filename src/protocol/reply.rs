//! From a response to its meaning, the same way for every system.
//!
//! Promises:
//! - A refresh token that a reply brings is found whatever else in the reply is wrong (P5), also
//!   where the reply is cut short.
//! - A body that is not a token endpoint's is no verdict on the token: then the HTTP status alone
//!   says whether trying again may help.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::value::RawValue;

use super::codes::{self, Code, Verdict};
use super::json::{self, Fields};
use super::{Response, Secrets};
use crate::error::Hint;
use crate::token;

/// What a reply means.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The server gave new tokens.
    Rotated(Rotation),
    /// It did not.
    Refused(Refusal),
}

/// New tokens, as far as they can be used. Life times are in seconds.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    pub(crate) access_token: Option<SecretString>,
    pub(crate) expires_in: Option<u64>,
    pub(crate) refresh_token: Option<SecretString>,
    pub(crate) refresh_expires_in: Option<u64>,
    /// What the access token may be used for.
    pub(crate) scope: Option<String>,
    /// What else in the reply is not as documented.
    pub(crate) flaws: Vec<&'static str>,
    pub(crate) log_id: Option<String>,
}

/// Why there are no new tokens.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) verdict: Verdict,
    pub(crate) code: Option<i64>,
    /// The server's own words or what its reply looked like, fit for a terminal.
    pub(crate) message: String,
    pub(crate) hint: Option<&'static Hint>,
    pub(crate) log_id: Option<String>,
    /// How long the server asks to wait.
    pub(crate) wait: Option<Duration>,
    /// Whether the token may have been spent all the same, and the reply been lost.
    pub(crate) maybe_spent: bool,
}

/// What a body says, in its system's own way.
pub(super) enum Said<'a> {
    /// Yes, and the tokens are in these fields; also what is not as documented.
    Yes(Fields<'a>, Vec<&'static str>),
    /// No, by a code.
    Code(i64, String),
    /// No, by a name of RFC 6749.
    Error(&'static Code, String),
    /// Neither, in these words.
    Neither(String),
}

/// How a system reads the fields of a body. The flag says whether the HTTP status is a success.
pub(super) type Judge = for<'a> fn(&Fields<'a>, bool) -> Said<'a>;

/// What a system calls what the others call differently.
pub(super) struct Names {
    pub(super) refresh_expires_in: &'static str,
}

/// What a response means, by a system's own judgement.
pub(super) fn judged(
    response: &Response,
    secrets: &Secrets<'_>,
    judge: Judge,
    names: &Names,
) -> Reply {
    let text = json::text(&response.body);
    let said = if let Some(body) = json::fields(&text) {
        judge(&body, response.is_success())
    } else {
        let salvaged = Some(json::salvage(&text)).filter(|_| response.is_success());
        match salvaged.filter(|tokens| tokens.contains_key("refresh_token")) {
            Some(tokens) => Said::Yes(tokens, vec!["it is not whole"]),
            None => return Reply::Refused(Refusal::by_status(response, secrets)),
        }
    };
    match said {
        Said::Yes(tokens, flaws) => {
            Reply::Rotated(rotation(response, secrets, &tokens, names, flaws))
        }
        Said::Code(code, message) => {
            Reply::Refused(Refusal::by_code(response, secrets, code, &message))
        }
        Said::Error(entry, message) => {
            Reply::Refused(Refusal::by_entry(response, secrets, Some(entry), &message))
        }
        Said::Neither(message) => Reply::Refused(Refusal::unusable(response, secrets, &message)),
    }
}

impl Refusal {
    /// A refusal by a code of the reply's body.
    pub(super) fn by_code(
        response: &Response,
        secrets: &Secrets<'_>,
        code: i64,
        message: &str,
    ) -> Self {
        Refusal {
            code: Some(code),
            ..Refusal::by_entry(response, secrets, codes::look_up(code), message)
        }
    }

    /// A refusal of which the table of codes says this.
    fn by_entry(
        response: &Response,
        secrets: &Secrets<'_>,
        entry: Option<&'static Code>,
        message: &str,
    ) -> Self {
        let verdict = entry.map_or(Verdict::Unexpected, |entry| entry.verdict);
        let wait = response.wait();
        Refusal {
            verdict,
            code: None,
            message: secrets.clean(message, 200),
            hint: entry.map(|entry| &entry.hint),
            log_id: response.log_id(secrets),
            wait: wait.max(entry.and_then(|entry| entry.wait)),
            // The documents do not say how far the server came.
            maybe_spent: verdict == Verdict::Temporary,
        }
    }

    /// A reply of the right form that lacks what it must have.
    pub(super) fn unusable(response: &Response, secrets: &Secrets<'_>, message: &str) -> Self {
        let mut refusal = Refusal::by_status(response, secrets);
        if refusal.verdict == Verdict::Temporary && response.is_success() {
            refusal.verdict = Verdict::Unusable;
            refusal.message = format!(
                "HTTP {}: the reply says neither yes nor no",
                response.status
            );
        }
        let words = secrets.clean(message, 200);
        if !words.is_empty() {
            refusal.message.push_str(&format!(": {words}"));
        }
        refusal
    }

    /// A reply without a code: all there is to go by is the HTTP status.
    pub(super) fn by_status(response: &Response, secrets: &Secrets<'_>) -> Self {
        let status = response.status;
        let (verdict, maybe_spent, what) = match status {
            200..=299 => (
                Verdict::Temporary,
                true,
                "the reply is not the token endpoint's",
            ),
            300..=399 => (
                Verdict::Unexpected,
                false,
                "a redirect, which is not followed",
            ),
            429 => (Verdict::RateLimit, false, "too many requests"),
            408 | 425 => (Verdict::Temporary, false, "the server asks to try again"),
            500..=599 => (
                Verdict::Temporary,
                true,
                "the server or a proxy before it failed",
            ),
            _ => (
                Verdict::Unexpected,
                false,
                "the reply is not the token endpoint's",
            ),
        };
        Refusal {
            verdict,
            code: None,
            message: format!("HTTP {status}: {what}"),
            hint: None,
            log_id: response.log_id(secrets),
            wait: response.wait(),
            maybe_spent,
        }
    }
}

fn rotation(
    response: &Response,
    secrets: &Secrets<'_>,
    fields: &Fields<'_>,
    names: &Names,
    mut flaws: Vec<&'static str>,
) -> Rotation {
    let mut take = |field: Field<_>, flaw| field.good_or(flaw, &mut flaws);
    let access_token = take(
        secret(fields, "access_token"),
        "its access_token is not one",
    );
    let refresh_token = take(
        secret(fields, "refresh_token"),
        "its refresh_token is not one",
    );
    if access_token.is_none() && flaws.is_empty() {
        flaws.push("it has no access_token");
    }
    let mut take = |field: Field<_>, flaw| field.good_or(flaw, &mut flaws);
    let expires_in = take(
        seconds(fields, "expires_in"),
        "its expires_in is not a number of seconds",
    );
    let refresh_expires_in = take(
        seconds(fields, names.refresh_expires_in),
        "its life time of the refresh token is not a number of seconds",
    );
    let scope = scope(fields).good_or("its scope is not a list", &mut flaws);
    Rotation {
        access_token,
        expires_in,
        refresh_token,
        refresh_expires_in,
        scope,
        flaws,
        log_id: response.log_id(secrets),
    }
}

/// A field of a reply: there and as documented, not there, or there and something else.
pub(super) enum Field<T> {
    Good(T),
    Missing,
    Bad,
}

impl<T> Field<T> {
    /// The value, if it is good; a flaw, if it is bad.
    pub(super) fn good_or(self, flaw: &'static str, flaws: &mut Vec<&'static str>) -> Option<T> {
        match self {
            Field::Good(value) => return Some(value),
            Field::Missing => {}
            Field::Bad => flaws.push(flaw),
        }
        None
    }
}

/// The field of that name; `read` gives none if it is not as documented.
fn field<T>(fields: &Fields<'_>, name: &str, read: fn(&RawValue) -> Option<T>) -> Field<T> {
    match fields.get(name) {
        None => Field::Missing,
        Some(value) if value.get() == "null" => Field::Missing,
        Some(value) => read(value).map_or(Field::Bad, Field::Good),
    }
}

/// A token; an empty one counts as missing.
pub(super) fn secret(fields: &Fields<'_>, name: &str) -> Field<SecretString> {
    match field(fields, name, json::string) {
        Field::Good(text) if text.is_empty() => Field::Missing,
        Field::Good(text) if token::is_plausible(&text) => Field::Good(text.into()),
        Field::Good(_) | Field::Bad => Field::Bad,
        Field::Missing => Field::Missing,
    }
}

/// A list of scopes; an empty one counts as missing.
fn scope(fields: &Fields<'_>) -> Field<String> {
    match field(fields, "scope", json::string) {
        Field::Good(text) if text.trim().is_empty() => Field::Missing,
        Field::Good(text) if token::is_plausible(text.trim()) => {
            Field::Good(text.trim().to_owned())
        }
        Field::Good(_) | Field::Bad => Field::Bad,
        Field::Missing => Field::Missing,
    }
}

/// Longer than any token lives; more is a mistake.
const LONGEST_LIFE: u64 = 100 * 366 * 24 * 3600;

/// A life time.
pub(super) fn seconds(fields: &Fields<'_>, name: &str) -> Field<u64> {
    field(fields, name, |value| {
        let seconds = u64::try_from(json::integer(value)?).ok()?;
        (seconds <= LONGEST_LIFE).then_some(seconds)
    })
}
