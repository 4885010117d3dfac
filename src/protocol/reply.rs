//! Judges a response, the same way for every system.
//!
//! Promises:
//! - A refresh token in a reply is found whatever else in the reply is wrong (P5), even
//!   where the reply is cut short.
//! - A reply that may hold a pair but cannot be understood is reported as such: it must be kept whole.
//! - A body that is not a token endpoint's is not a verdict on the token: then only the HTTP status
//!   says whether a retry may help.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;

use super::codes::{self, Code, Verdict};
use super::json::{self, Fields};
use super::message::Response;
use super::secrets::Secrets;
use crate::error::Hint;
use crate::token;

/// For a proxy that refuses the login.
pub(crate) static PROXY_LOGIN: Hint = Hint::fixed(
    "check the proxy's user and password, in HTTPS_PROXY or ALL_PROXY: http://USER:PASSWORD@HOST:PORT, with characters like @ and : in them as %40 and %3A",
    "请检查 HTTPS_PROXY 或 ALL_PROXY 中代理的用户名和密码：http://USER:PASSWORD@HOST:PORT，其中的 @、: 等字符须写作 %40、%3A",
);

/// What a reply means.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The server gave new tokens.
    Rotated(Rotation),
    /// It did not.
    Refused(Refusal),
}

impl Reply {
    /// Whether it may hold a refresh token that was not found or cannot be saved, so that the reply is its only copy.
    pub(crate) fn is_unread(&self) -> bool {
        match self {
            Reply::Rotated(rotation) => rotation.is_unread,
            Reply::Refused(refusal) => refusal.verdict == Verdict::Unusable,
        }
    }
}

/// New tokens, as far as they can be used. Lifetimes are in seconds.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    pub(crate) access_token: Option<SecretString>,
    pub(crate) expires_in: Option<u64>,
    pub(crate) refresh_token: Option<SecretString>,
    /// Whether it holds a refresh token that cannot be saved as one: see [`Reply::is_unread`].
    pub(crate) is_unread: bool,
    pub(crate) refresh_expires_in: Option<u64>,
    /// What the access token may be used for.
    pub(crate) scope: Option<String>,
    /// The access token's type, if it is not Bearer, the only known one.
    pub(crate) other_type: Option<String>,
    /// What else in the reply is not as documented.
    pub(crate) flaws: Vec<&'static str>,
    pub(crate) log_id: Option<String>,
}

/// Why there are no new tokens.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a separate fact")]
pub(crate) struct Refusal {
    pub(crate) verdict: Verdict,
    pub(crate) code: Option<i64>,
    /// The server's own message or what its reply looked like, fit for a terminal.
    pub(crate) message: String,
    pub(crate) hint: Option<&'static Hint>,
    pub(crate) log_id: Option<String>,
    /// How long the server asks to wait.
    pub(crate) wait: Option<Duration>,
    /// Whether that concerns only this login, not its whole app.
    pub(crate) is_of_one_login: bool,
    /// Whether it says that the refresh token is dead.
    pub(crate) is_of_dead_token: bool,
    /// Whether the token may have been spent anyway, and the reply lost.
    pub(crate) maybe_spent: bool,
    /// Whether this is an answer from the server, not the lack of one.
    pub(crate) is_answer: bool,
}

/// What a body means in its system.
pub(super) enum BodyMeaning {
    /// Success.
    Yes,
    /// Failure, by a code.
    Code(i64, String),
    /// Failure, by a name of RFC 6749.
    Error(&'static Code, String),
    /// Failure, without saying which.
    No(String),
    /// Neither, with this message.
    Neither(String),
}

/// The fields of a reply.
pub(super) struct ReplyBody<'a> {
    pub(super) fields: Fields<'a>,
    /// The ones where the system puts its tokens.
    pub(super) tokens: Fields<'a>,
    /// The ones where some other system puts its tokens.
    elsewhere: Fields<'a>,
    /// Whether the HTTP status means success.
    pub(super) is_success: bool,
}

/// The form of a system's replies.
pub(super) struct ReplyForm {
    /// What a body means.
    pub(super) judge: fn(&ReplyBody<'_>) -> BodyMeaning,
    /// Whether tokens are under `data`.
    pub(super) in_data: bool,
    /// The name of the refresh token's lifetime.
    pub(super) refresh_expires_in: &'static str,
    /// Whether a reply names a token's scope.
    pub(super) has_scope: bool,
}

/// What a response means, by the rules of a system.
pub(super) fn judged(response: &Response, secrets: &Secrets<'_>, form: &ReplyForm) -> Reply {
    let text = json::text(&response.body);
    let Some(fields) = json::fields(&text) else {
        let salvaged = Some(json::salvage(&text)).filter(|_| response.is_success());
        return match salvaged.filter(|tokens| tokens.contains_key("refresh_token")) {
            Some(tokens) => {
                let flaws = vec!["it is not whole"];
                Reply::Rotated(rotation(response, secrets, &tokens, form, flaws))
            }
            None => Reply::Refused(Refusal::unread(response, secrets, "cannot be read", "")),
        };
    };
    let data = fields.get("data").and_then(|data| json::fields(data.get()));
    let data = data.unwrap_or_default();
    let (tokens, elsewhere) = if form.in_data {
        (data, fields.clone())
    } else {
        (fields.clone(), data)
    };
    let body = ReplyBody {
        fields,
        tokens,
        elsewhere,
        is_success: response.is_success(),
    };
    let said = (form.judge)(&body);
    // Where the documents put them, where another system does, or anywhere.
    let anywhere = json::salvage(&text);
    let places = [&body.tokens, &body.elsewhere, &anywhere];
    let found = places
        .into_iter()
        .position(|fields| has(fields, "refresh_token"));
    let (tokens, mut flaws) = match found {
        Some(place @ 1..) => (places[place], vec!["its tokens are in the wrong place"]),
        _ => (&body.tokens, Vec::new()),
    };
    let has_any = has(tokens, "refresh_token") || has(tokens, "access_token");
    match said {
        BodyMeaning::Yes if !has_any && !json::is_there(tokens, "refresh_token") => {
            let what = "says success, but has no token";
            Reply::Refused(Refusal::unread(response, secrets, what, ""))
        }
        BodyMeaning::Yes => Reply::Rotated(rotation(response, secrets, tokens, form, flaws)),
        // Tokens, which only a success brings, must not be lost over a missing word.
        BodyMeaning::Neither(_) if body.is_success && has_any => {
            flaws.push("it does not say success as documented");
            Reply::Rotated(rotation(response, secrets, tokens, form, flaws))
        }
        // A gateway may have its own word for success.
        BodyMeaning::Code(code, _)
            if codes::look_up(code).is_none()
                && body.is_success
                && has(tokens, "refresh_token") =>
        {
            flaws.push("it does not say success as documented");
            Reply::Rotated(rotation(response, secrets, tokens, form, flaws))
        }
        BodyMeaning::Code(code, message) => {
            Reply::Refused(Refusal::by_code(response, secrets, code, &message))
        }
        BodyMeaning::Error(entry, message) => {
            Reply::Refused(Refusal::by_entry(response, secrets, Some(entry), &message))
        }
        BodyMeaning::No(message) => {
            Reply::Refused(Refusal::by_entry(response, secrets, None, &message))
        }
        BodyMeaning::Neither(message) => {
            let what = "says neither success nor failure";
            Reply::Refused(Refusal::unread(response, secrets, what, &message))
        }
    }
}

/// Whether there is a usable token of that name.
pub(super) fn has(fields: &Fields<'_>, name: &str) -> bool {
    matches!(secret(fields, name), Field::Good(_) | Field::Odd(_))
}

impl Refusal {
    /// Whether it is transient, so that a retry can help.
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

    /// A refusal, with what the table of codes says about it.
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
                "refused without a message".to_owned()
            } else {
                message
            },
            hint: entry.map(|entry| &entry.hint),
            log_id: response.log_id(secrets),
            wait: wait.max(entry.and_then(|entry| entry.wait)),
            is_of_one_login: entry.is_some_and(|entry| entry.is_of_one_login),
            is_of_dead_token: entry.is_some_and(|entry| entry.is_of_dead_token),
            // The documents do not say how far the server came.
            maybe_spent: verdict == Verdict::Temporary,
        }
    }

    /// A reply that cannot be understood. If it may hold a pair, the token must not be sent again.
    fn unread(response: &Response, secrets: &Secrets<'_>, what: &str, words: &str) -> Self {
        let mut refusal = Refusal::by_status(response, secrets);
        if response.is_success() && response.may_hold_tokens() {
            refusal.verdict = Verdict::Unusable;
            refusal.wait = None;
            refusal.message = format!("HTTP {}: the reply {what}", response.status);
        }
        refusal.saying(secrets, words)
    }

    /// A well-formed reply that lacks a required part.
    pub(super) fn unusable(response: &Response, secrets: &Secrets<'_>, message: &str) -> Self {
        let mut refusal = Refusal::by_status(response, secrets);
        if refusal.verdict == Verdict::Temporary && response.is_success() {
            refusal.verdict = Verdict::Unusable;
            refusal.wait = None;
            refusal.message = format!(
                "HTTP {}: the reply says neither success nor failure",
                response.status
            );
        }
        refusal.saying(secrets, message)
    }

    /// The same, with the server's own message.
    fn saying(mut self, secrets: &Secrets<'_>, words: &str) -> Self {
        let words = secrets.clean(words, 200);
        if !words.is_empty() {
            self.message.push_str(&format!(": {words}"));
        }
        self
    }

    /// A reply without a code: only the HTTP status can be judged.
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
            407 => (
                Verdict::Config,
                false,
                "a proxy asks for a user and password",
            ),
            408 | 425 => (Verdict::Temporary, false, "the server asks for a retry"),
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
            hint: (status == 407).then_some(&PROXY_LOGIN),
            log_id: response.log_id(secrets),
            wait: response.wait(),
            is_of_one_login: false,
            is_of_dead_token: false,
            maybe_spent,
        }
    }
}

fn rotation(
    response: &Response,
    secrets: &Secrets<'_>,
    fields: &Fields<'_>,
    form: &ReplyForm,
    mut flaws: Vec<&'static str>,
) -> Rotation {
    let mut take = |name, flaw| secret(fields, name).or_flaw(flaw, &mut flaws);
    let access_token = take("access_token", "its access_token is not a token");
    let mut refresh_token = take("refresh_token", "its refresh_token is not a token");
    // What no run would accept from a file is not written to one.
    if let Some(token) = refresh_token.take_if(|token| !token::is_bare(token.expose_secret()))
        && token::is_sendable(token.expose_secret())
    {
        flaws.push("its refresh_token is not a token");
    }
    let is_empty =
        |value: &RawValue| json::string(value).is_some_and(|text| text.trim().is_empty());
    let is_unread = refresh_token.is_none()
        && json::is_there(fields, "refresh_token")
        && !fields
            .get("refresh_token")
            .is_some_and(|value| is_empty(value));
    let is_elsewhere = refresh_token.is_none()
        && !fields.contains_key("refresh_token")
        && json::names_refresh_token(&json::text(&response.body));
    if is_elsewhere {
        flaws.push("its refresh token is not named as documented");
    }
    let is_unread = is_unread || is_elsewhere;
    if access_token.is_none() && flaws.is_empty() {
        flaws.push("it has no access_token");
    }
    let mut take = |name, flaw| seconds(fields, name).or_flaw(flaw, &mut flaws);
    let expires_in = take("expires_in", "its expires_in is not a number of seconds");
    let refresh_expires_in = take(
        form.refresh_expires_in,
        "its refresh token lifetime is not a number of seconds",
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
        is_unread,
        refresh_expires_in,
        scope,
        other_type: json::string_in(fields, "token_type")
            .filter(|kind| !kind.trim().is_empty() && !kind.trim().eq_ignore_ascii_case("bearer"))
            .map(|kind| secrets.clean(&kind, 40)),
        flaws,
        log_id: response.log_id(secrets),
    }
}

/// A field of a reply.
pub(super) enum Field<T> {
    /// Present, and as documented.
    Good(T),
    /// Present and usable, but not as documented.
    Odd(T),
    /// Present, but unusable.
    Bad,
    Missing,
}

impl<T> Field<T> {
    /// The value, if it is usable; a flaw, if it is not as documented.
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

/// Longer than any token is valid; more is a mistake.
const LONGEST_LIFE: u64 = 100 * 366 * 24 * 3600;

/// A lifetime.
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
mod tests;
