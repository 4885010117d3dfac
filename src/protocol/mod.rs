//! What to send to a token endpoint, and what its reply means.
//!
//! Pure: no I/O, no clock, no paths. A [`Request`] goes out, a [`Response`] comes back, and a
//! [`Reply`] says what it means. A reply is judged by the code in its body; by its HTTP status only
//! where the body has none, so that a proxy's page is never taken for a verdict on the token.
//!
//! One file a system; [`codes`] is the one table of codes.

mod codes;
mod feishu_v1;
mod json;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

pub(crate) use codes::Verdict;

use crate::error::Hint;
use crate::text::{printable, shortened};

/// Which token endpoint, and so which request and which form of reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Api {
    /// Feishu's `authen/v1/refresh_access_token`.
    V1,
}

/// The text that `--api` and the key `api` know each endpoint by.
const API_NAMES: [(&str, Api); 1] = [("v1", Api::V1)];

impl Api {
    /// The endpoint's name on the command line and in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        API_NAMES
            .iter()
            .find(|(_, api)| *api == self)
            .map_or("", |(name, _)| name)
    }

    /// The endpoint of that name; none if there is no such.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        API_NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, api)| *api)
    }

    /// Scheme and host of the service this endpoint belongs to.
    pub(crate) fn home(self) -> &'static str {
        match self {
            Api::V1 => "https://open.feishu.cn",
        }
    }

    /// Whether this address is the vendor's own, so that secrets from anywhere may go there.
    pub(crate) fn is_vendor(base_url: &str) -> bool {
        let vendors = ["https://open.feishu.cn", "https://open.larksuite.com"];
        vendors.contains(&base_url.trim_end_matches('/'))
    }

    /// The request that spends a grant.
    pub(crate) fn refresh_request(self, grant: &Grant) -> Request {
        match self {
            Api::V1 => feishu_v1::request(grant),
        }
    }

    /// What the reply to that request means.
    pub(crate) fn refresh_reply(self, grant: &Grant, response: &Response) -> Reply {
        match self {
            Api::V1 => feishu_v1::reply(grant, response),
        }
    }
}

/// The secrets that one refresh spends or shows.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) app_access_token: SecretString,
    pub(crate) refresh_token: SecretString,
}

/// A secret shorter than this is no secret, and would blot out half of a message.
const SHORTEST_SECRET: usize = 8;

impl Grant {
    /// A server's text, fit to be shown: servers and proxies repeat what they were sent.
    fn clean(&self, text: &str, longest: usize) -> String {
        let secrets =
            [&self.app_access_token, &self.refresh_token].map(ExposeSecret::expose_secret);
        let secrets = secrets
            .into_iter()
            .filter(|secret| secret.len() >= SHORTEST_SECRET);
        // Masked before it is cut, so that no half of a secret is left at the end.
        let masked = secrets.fold(printable(text), |text, secret| text.replace(secret, "***"));
        shortened(masked.trim(), longest)
    }
}

/// A POST to send, relative to the service's address.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: &'static str,
    pub(crate) bearer: Option<SecretString>,
    pub(crate) content_type: &'static str,
    pub(crate) body: SecretString,
}

/// What came back. It holds tokens, so it has no `Debug`.
#[derive(Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The id under which the vendor's support finds this reply.
    pub(crate) fn log_id(&self, grant: &Grant) -> Option<String> {
        let id = self
            .header("x-tt-logid")
            .or_else(|| self.header("x-request-id"))?;
        Some(grant.clean(id, 80)).filter(|id| !id.is_empty())
    }

    /// How long the server asks to wait: Feishu's rate-limit header, else the standard one.
    fn wait(&self) -> Option<Duration> {
        let seconds = |name| self.header(name)?.trim().parse().ok();
        let wait = seconds("x-ogw-ratelimit-reset").or_else(|| seconds("retry-after"));
        wait.map(Duration::from_secs)
    }
}

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
    pub(crate) hint: Option<Hint>,
    pub(crate) log_id: Option<String>,
    /// How long the server asks to wait.
    pub(crate) wait: Option<Duration>,
    /// Whether the token may have been spent all the same, and the reply been lost.
    pub(crate) maybe_spent: bool,
}

impl Refusal {
    /// A refusal by a code of the reply's body.
    fn by_code(grant: &Grant, response: &Response, code: i64, message: &str) -> Self {
        let entry = codes::look_up(code);
        let verdict = entry.map_or(Verdict::Unexpected, |entry| entry.verdict);
        Refusal {
            verdict,
            code: Some(code),
            message: grant.clean(message, 200),
            hint: entry.map(|entry| entry.hint.clone()),
            log_id: response.log_id(grant),
            wait: response.wait(),
            // The documents do not say how far the server came.
            maybe_spent: verdict == Verdict::Temporary,
        }
    }

    /// A reply of the right form that lacks what it must have.
    fn unusable(grant: &Grant, response: &Response) -> Self {
        let refusal = Refusal::by_status(grant, response);
        match refusal.verdict {
            Verdict::Temporary if response.status < 300 => Refusal {
                verdict: Verdict::Unusable,
                message: format!(
                    "HTTP {}: the reply says neither yes nor no",
                    response.status
                ),
                ..refusal
            },
            _ => refusal,
        }
    }

    /// A reply without a code: all there is to go by is the HTTP status.
    fn by_status(grant: &Grant, response: &Response) -> Self {
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
            log_id: response.log_id(grant),
            wait: response.wait(),
            maybe_spent,
        }
    }
}
