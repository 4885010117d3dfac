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
#[derive(Debug, Clone)]
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
    /// Whether this is an answer of the server's, and not the want of one.
    pub(crate) is_answer: bool,
}

/// What a body says, in its system's own way.
pub(super) enum Said {
    /// Yes.
    Yes,
    /// No, by a code.
    Code(i64, String),
    /// No, by a name of RFC 6749.
    Error(&'static Code, String),
    /// No, without saying which.
    No(String),
    /// Neither, in these words.
    Neither(String),
}

/// The fields of a reply.
pub(super) struct Body<'a> {
    pub(super) fields: Fields<'a>,
    /// Those among which the system's tokens belong.
    pub(super) tokens: Fields<'a>,
    /// Those among which some other system's belong.
    elsewhere: Fields<'a>,
    /// Whether the HTTP status says yes.
    pub(super) is_success: bool,
}

/// The form of a system's replies.
pub(super) struct Form {
    /// What a body says.
    pub(super) judge: fn(&Body<'_>) -> Said,
    /// Whether tokens stand under `data`.
    pub(super) in_data: bool,
    /// What the life time of the refresh token is called.
    pub(super) refresh_expires_in: &'static str,
    /// Whether a token's scope is named.
    pub(super) has_scope: bool,
}

/// What a response means, by a system's own judgement.
pub(super) fn judged(response: &Response, secrets: &Secrets<'_>, form: &Form) -> Reply {
    let text = json::text(&response.body);
    let Some(fields) = json::fields(&text) else {
        let salvaged = Some(json::salvage(&text)).filter(|_| response.is_success());
        return match salvaged.filter(|tokens| tokens.contains_key("refresh_token")) {
            Some(tokens) => {
                let flaws = vec!["it is not whole"];
                Reply::Rotated(rotation(response, secrets, &tokens, form, flaws))
            }
            None => Reply::Refused(Refusal::by_status(response, secrets)),
        };
    };
    let data = fields.get("data").and_then(|data| json::fields(data.get()));
    let data = data.unwrap_or_default();
    let (tokens, elsewhere) = if form.in_data {
        (data, fields.clone())
    } else {
        (fields.clone(), data)
    };
    let body = Body {
        fields,
        tokens,
        elsewhere,
        is_success: response.is_success(),
    };
    let said = (form.judge)(&body);
    let misplaced = !has(&body.tokens, "refresh_token") && has(&body.elsewhere, "refresh_token");
    let (tokens, mut flaws) = if misplaced {
        (&body.elsewhere, vec!["its tokens stand in the wrong place"])
    } else {
        (&body.tokens, Vec::new())
    };
    match said {
        Said::Yes => Reply::Rotated(rotation(response, secrets, tokens, form, flaws)),
        // What only a success brings must not be lost for a word that is missing.
        Said::Neither(_)
            if body.is_success && (has(tokens, "refresh_token") || has(tokens, "access_token")) =>
        {
            flaws.push("it does not say yes as documented");
            Reply::Rotated(rotation(response, secrets, tokens, form, flaws))
        }
        Said::Code(code, message) => {
            Reply::Refused(Refusal::by_code(response, secrets, code, &message))
        }
        Said::Error(entry, message) => {
            Reply::Refused(Refusal::by_entry(response, secrets, Some(entry), &message))
        }
        Said::No(message) => Reply::Refused(Refusal::by_entry(response, secrets, None, &message)),
        Said::Neither(message) => Reply::Refused(Refusal::unusable(response, secrets, &message)),
    }
}

/// Whether there is a usable token of that name.
pub(super) fn has(fields: &Fields<'_>, name: &str) -> bool {
    matches!(secret(fields, name), Field::Good(_) | Field::Odd(_))
}

impl Refusal {
    /// Whether it may pass, so that asking again can help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self.verdict,
            Verdict::Temporary | Verdict::RateLimit | Verdict::Unusable
        )
    }

    /// A refusal by a code of the reply's body.
    pub(super) fn by_code(
        response: &Response,
        secrets: &Secrets<'_>,
        code: i64,
        message: &str,
    ) -> Self {
        Refusal {
            is_answer: true,
            code: Some(code),
            ..Refusal::by_entry(response, secrets, codes::look_up(code), message)
        }
    }

    /// A refusal of which the table of codes says this.
    pub(super) fn by_entry(
        response: &Response,
        secrets: &Secrets<'_>,
        entry: Option<&'static Code>,
        message: &str,
    ) -> Self {
        let verdict = entry.map_or(Verdict::Unexpected, |entry| entry.verdict);
        let wait = response.wait();
        let message = secrets.clean(message, 200);
        Refusal {
            is_answer: true,
            verdict,
            code: None,
            message: if message.is_empty() {
                "refused, in no words".to_owned()
            } else {
                message
            },
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
            refusal.wait = None;
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
            is_answer: true,
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
    form: &Form,
    mut flaws: Vec<&'static str>,
) -> Rotation {
    let mut take = |name, flaw| secret(fields, name).or_flaw(flaw, &mut flaws);
    let access_token = take("access_token", "its access_token is not one");
    let refresh_token = take("refresh_token", "its refresh_token is not one");
    if access_token.is_none() && flaws.is_empty() {
        flaws.push("it has no access_token");
    }
    let mut take = |name, flaw| seconds(fields, name).or_flaw(flaw, &mut flaws);
    let expires_in = take("expires_in", "its expires_in is not a number of seconds");
    let refresh_expires_in = take(
        form.refresh_expires_in,
        "its life time of the refresh token is not a number of seconds",
    );
    let scope = if form.has_scope {
        scope(fields).or_flaw("its scope is not a list", &mut flaws)
    } else {
        None
    };
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

/// A field of a reply.
pub(super) enum Field<T> {
    /// There, and as documented.
    Good(T),
    /// There and of use, but not as documented.
    Odd(T),
    /// There, and of no use.
    Bad,
    Missing,
}

impl<T> Field<T> {
    /// The value, if it is of use; a flaw, if it is not as documented.
    pub(super) fn or_flaw(self, flaw: &'static str, flaws: &mut Vec<&'static str>) -> Option<T> {
        if matches!(self, Field::Odd(_) | Field::Bad) {
            flaws.push(flaw);
        }
        match self {
            Field::Good(value) | Field::Odd(value) => Some(value),
            Field::Bad | Field::Missing => None,
        }
    }
}

/// The field of that name.
fn field<T>(fields: &Fields<'_>, name: &str, read: impl Fn(&RawValue) -> Field<T>) -> Field<T> {
    match fields.get(name) {
        None => Field::Missing,
        Some(value) if value.get() == "null" => Field::Missing,
        Some(value) => read(value),
    }
}

/// A token; an empty one counts as missing.
pub(super) fn secret(fields: &Fields<'_>, name: &str) -> Field<SecretString> {
    field(fields, name, |value| match json::string(value) {
        Some(token) if token.is_empty() => Field::Missing,
        Some(token) if token::is_sendable(&token) => Field::Good(token.into()),
        Some(token) if token::is_plausible(&token) => Field::Odd(token.into()),
        _ => Field::Bad,
    })
}

/// A list of scopes; an empty one counts as missing.
fn scope(fields: &Fields<'_>) -> Field<String> {
    field(fields, "scope", |value| match json::string(value) {
        Some(text) if text.trim().is_empty() => Field::Missing,
        Some(text) if token::is_plausible(text.trim()) => Field::Good(text.trim().to_owned()),
        _ => Field::Bad,
    })
}

/// Longer than any token lives; more is a mistake.
const LONGEST_LIFE: u64 = 100 * 366 * 24 * 3600;

/// A life time.
pub(super) fn seconds(fields: &Fields<'_>, name: &str) -> Field<u64> {
    field(fields, name, |value| {
        match json::integer(value).map(u64::try_from) {
            Some(Ok(seconds)) if seconds <= LONGEST_LIFE => Field::Good(seconds),
            _ => Field::Bad,
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{Api, Credentials, Grant, Response};
    use super::*;

    fn reply(api: Api, status: u16, body: &str) -> Reply {
        let grant = Grant {
            refresh_token: "refresh-1".into(),
            credentials: Credentials::AppToken("app-1".into()),
            scope: None,
        };
        let response = Response {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
        };
        api.refresh_reply(&grant, &response)
    }

    fn rotation(api: Api, body: &str) -> Rotation {
        match reply(api, 200, body) {
            Reply::Rotated(rotation) => rotation,
            Reply::Refused(refusal) => unreachable!("{body}: {}", refusal.message),
        }
    }

    fn refusal(api: Api, status: u16, body: &str) -> Refusal {
        match reply(api, status, body) {
            Reply::Refused(refusal) => refusal,
            Reply::Rotated(_) => unreachable!("{body} brings nothing"),
        }
    }

    fn shown(token: Option<&SecretString>) -> Option<&str> {
        token.map(secrecy::ExposeSecret::expose_secret)
    }

    #[test]
    fn without_a_code_the_status_decides() {
        for (status, verdict, maybe_spent, says) in [
            (200, Verdict::Temporary, true, "not the token endpoint's"),
            (302, Verdict::Unexpected, false, "a redirect"),
            (403, Verdict::Unexpected, false, "not the token endpoint's"),
            (408, Verdict::Temporary, false, "asks to try again"),
            (425, Verdict::Temporary, false, "asks to try again"),
            (429, Verdict::RateLimit, false, "too many requests"),
            (503, Verdict::Temporary, true, "failed"),
            (600, Verdict::Unexpected, false, "not the token endpoint's"),
        ] {
            let refused = refusal(Api::V1, status, "<html>");
            assert_eq!(refused.verdict, verdict, "{status}");
            assert_eq!(refused.maybe_spent, maybe_spent, "{status}");
            assert!(refused.message.contains(says), "{}", refused.message);
            let passes = verdict != Verdict::Unexpected;
            assert_eq!(refused.is_passing(), passes, "{status}");
            assert!(refused.is_answer);
        }
    }

    #[test]
    fn a_reply_that_says_neither_yes_nor_no_keeps_its_words() {
        let unsaid = refusal(Api::V1, 200, r#"{"msg":"busy"}"#);
        assert_eq!(unsaid.verdict, Verdict::Unusable);
        let message = "HTTP 200: the reply says neither yes nor no: busy";
        assert_eq!(unsaid.message, message);
        let failed = refusal(Api::V1, 503, r#"{"msg":"busy"}"#);
        assert_eq!(failed.verdict, Verdict::Temporary);
        let message = "HTTP 503: the server or a proxy before it failed: busy";
        assert_eq!(failed.message, message);
    }

    #[test]
    fn tokens_are_taken_from_the_wrong_place_only_where_the_right_one_has_none() {
        let own = r#""data":{"access_token":"a","refresh_token":"r"}"#;
        let other = r#""access_token":"x","refresh_token":"y""#;
        let both = rotation(Api::V1, &format!(r#"{{"code":0,{other},{own}}}"#));
        assert_eq!(shown(both.refresh_token.as_ref()), Some("r"));
        assert!(both.flaws.is_empty());
        let wrong = rotation(Api::V1, &format!(r#"{{"code":0,{other}}}"#));
        assert_eq!(shown(wrong.refresh_token.as_ref()), Some("y"));
        assert_eq!(wrong.flaws, ["its tokens stand in the wrong place"]);
    }

    #[test]
    fn either_token_of_a_success_is_kept_though_no_yes_stands_there() {
        for token in [r#""refresh_token":"r""#, r#""access_token":"a""#] {
            let body = format!(r#"{{"data":{{{token}}}}}"#);
            let flaws = rotation(Api::V1, &body).flaws;
            assert_eq!(flaws[0], "it does not say yes as documented", "{body}");
            let failed = refusal(Api::V1, 500, &body);
            assert_eq!(failed.verdict, Verdict::Temporary, "{body}");
        }
    }

    #[test]
    fn a_torn_reply_counts_only_as_a_success() {
        let torn = r#"{"code":0,"data":{"access_token":"a","refresh_token":"r""#;
        let salvaged = rotation(Api::V1, torn);
        assert_eq!(shown(salvaged.refresh_token.as_ref()), Some("r"));
        assert_eq!(salvaged.flaws, ["it is not whole"]);
        assert_eq!(refusal(Api::V1, 502, torn).verdict, Verdict::Temporary);
    }

    #[test]
    fn one_bad_field_spoils_no_other() {
        let flaws = |fields: &str| {
            let pair = r#""access_token":"a","refresh_token":"r""#;
            let rotation = rotation(
                Api::Oidc,
                &format!(r#"{{"code":0,"data":{{{pair}{fields}}}}}"#),
            );
            assert_eq!(shown(rotation.refresh_token.as_ref()), Some("r"));
            (rotation.flaws, rotation.expires_in, rotation.scope)
        };
        let no_number = "its expires_in is not a number of seconds";
        let no_list = "its scope is not a list";
        for (fields, expected) in [
            ("", (vec![], None, None)),
            (r#","expires_in":null,"scope":null"#, (vec![], None, None)),
            (
                r#","expires_in":3162240000"#,
                (vec![], Some(3_162_240_000), None),
            ),
            (r#","expires_in":3162240001"#, (vec![no_number], None, None)),
            (r#","expires_in":-1"#, (vec![no_number], None, None)),
            (r#","scope":" ""#, (vec![], None, None)),
            (
                r#","scope":" a b ""#,
                (vec![], None, Some("a b".to_owned())),
            ),
            (r#","scope":"a\u0007b""#, (vec![no_list], None, None)),
            (r#","scope":["a"]"#, (vec![no_list], None, None)),
        ] {
            assert_eq!(flaws(fields), expected, "{fields}");
        }
    }

    #[test]
    fn an_odd_token_is_kept_and_one_that_is_none_is_not() {
        let flaw = "its refresh_token is not one";
        for (text, kept, flaws) in [
            ("r", Some("r"), vec![]),
            ("", None, vec![]),
            ("r é", Some("r é"), vec![flaw]),
            (r"r\n", None, vec![flaw]),
            (r"r\u0000s", None, vec![flaw]),
        ] {
            let data = format!(r#"{{"access_token":"a","refresh_token":"{text}"}}"#);
            let rotation = rotation(Api::V1, &format!(r#"{{"code":0,"data":{data}}}"#));
            assert_eq!(shown(rotation.refresh_token.as_ref()), kept, "{text}");
            assert_eq!(rotation.flaws, flaws, "{text}");
        }
    }
}
