//! Requests to a server and its responses, for any system.

use std::time::Duration;

use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use url::form_urlencoded;

use super::secrets::Secrets;

/// A POST to send, relative to the service's address.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: &'static str,
    /// The value of the header of that name.
    pub(crate) authorization: Option<SecretString>,
    pub(crate) content_type: &'static str,
    pub(crate) body: SecretString,
}

impl Request {
    /// A request whose body is a form of these fields.
    pub(super) fn form(path: &'static str, fields: &[(&str, &str)]) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        Request {
            path,
            authorization: None,
            content_type: "application/x-www-form-urlencoded",
            body: form.extend_pairs(fields).finish().into(),
        }
    }

    /// A request whose body is this object.
    pub(super) fn json(path: &'static str, body: &impl serde::Serialize) -> Self {
        Request {
            path,
            authorization: None,
            content_type: "application/json; charset=utf-8",
            // Objects of strings always serialise.
            body: serde_json::to_string(body).unwrap_or_default().into(),
        }
    }
}

/// What came back. Contains tokens, so it has no `Debug`.
#[derive(Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body as it came, if its compressed data broke off and `body` is only a part.
    pub(crate) packed: Option<Vec<u8>>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The id under which the vendor's support finds this reply.
    pub(crate) fn log_id(&self, secrets: &Secrets<'_>) -> Option<String> {
        let id = self
            .header("x-tt-logid")
            .or_else(|| self.header("x-request-id"))?;
        Some(secrets.clean(id, 80)).filter(|id| !id.is_empty())
    }

    /// Whether the HTTP status means success.
    pub(super) fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// Whether it can hold a pair at all: an empty body cannot, nor can a page for people.
    pub(super) fn may_hold_tokens(&self) -> bool {
        let text = self.body.trim_ascii_start();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let head = text.trim_ascii_start().iter().take(64);
        let head: Vec<u8> = head.map(u8::to_ascii_lowercase).collect();
        let kind = self.header("content-type").unwrap_or_default();
        let is_html = kind
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("text/html");
        let begins = |text: &str| head.starts_with(text.as_bytes());
        let is_page = begins("<!doctype html") || begins("<html") || is_html && begins("<");
        !head.is_empty() && !is_page
    }

    /// How long the server asks to wait: Feishu's rate-limit header, else the standard one.
    pub(super) fn wait(&self) -> Option<Duration> {
        let seconds = |name| {
            let value = self.header(name)?.trim();
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            // A number too large to parse is longer than anybody waits.
            is_number.then(|| {
                value
                    .parse()
                    .map_or(LONGEST_WAIT, |wait: u64| wait.min(LONGEST_WAIT))
            })
        };
        let wait = seconds("x-ogw-ratelimit-reset").or_else(|| seconds("retry-after"));
        let wait = wait.or_else(|| {
            // By the server's own clock, if it gives one.
            let now = self.date("date").unwrap_or_else(Timestamp::now);
            let left = self.date("retry-after")?.duration_since(now).as_secs();
            Some(u64::try_from(left).unwrap_or_default().min(LONGEST_WAIT))
        });
        wait.map(Duration::from_secs)
    }

    /// The offset of the server's clock from this machine's, which read these two moments before and after.
    pub(crate) fn clock_off(&self, sent: Timestamp, received: Timestamp) -> SignedDuration {
        match self.date("date") {
            Some(date) if date < sent => date.duration_since(sent),
            Some(date) if date > received => date.duration_since(received),
            _ => SignedDuration::ZERO,
        }
    }

    /// A date (RFC 9110, section 5.6.7).
    fn date(&self, name: &str) -> Option<Timestamp> {
        let moment = rfc2822::parse(self.header(name)?.trim()).ok()?;
        Some(moment.timestamp())
    }
}

/// A year, in seconds: asking for more means never.
const LONGEST_WAIT: u64 = 366 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn with_headers(headers: &[(&str, &str)]) -> Response {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Response {
            headers: headers.iter().map(own).collect(),
            ..Response::default()
        }
    }

    #[test]
    fn a_wait_is_a_number_of_seconds_and_a_year_at_most() {
        let wait = |headers: &[(&str, &str)]| {
            let wait = with_headers(headers).wait();
            wait.map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&[("x-other", "1"), ("retry-after", " 30 ")]), Some(30));
        let both = [("retry-after", "30"), ("x-ogw-ratelimit-reset", "9")];
        assert_eq!(wait(&both), Some(9));
        let date = ("date", "Wed, 21 Oct 2026 07:27:20 GMT");
        let until = ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT");
        assert_eq!(wait(&[until, date]), Some(40));
        let over = ("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT");
        assert_eq!(wait(&[over, date]), Some(0));
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]),
            Some(0)
        );
        for none in ["", "soon", "-1", "1.5", "Wed, 32 Oct 2026 07:28:00 GMT"] {
            assert_eq!(wait(&[("retry-after", none)]), None, "{none:?}");
        }
        for never in ["31622401", "99999999999999999999999"] {
            assert_eq!(wait(&[("retry-after", never)]), Some(31_622_400));
        }
    }

    #[test]
    fn nothing_and_a_page_hold_no_tokens() {
        let may = |kind: &str, body: &[u8]| {
            let response = Response {
                body: body.to_vec(),
                ..with_headers(&[("content-type", kind)])
            };
            response.may_hold_tokens()
        };
        for (kind, body) in [
            ("", ""),
            ("", " \r\n"),
            ("", "\u{feff}<!DOCTYPE HTML><p>"),
            ("text/plain", " <html><body>"),
            ("text/html; charset=utf-8", "<p>Sign in"),
        ] {
            assert!(!may(kind, body.as_bytes()), "{body}");
        }
        for (kind, body) in [
            ("", "{}"),
            ("text/html", "access_token=a&refresh_token=r"),
            ("text/xml", "<refresh_token>r</refresh_token>"),
        ] {
            assert!(may(kind, body.as_bytes()), "{body}");
        }
        assert!(may("", &[0xff, 0x1f, 0x8b]));
    }

    #[test]
    fn a_log_id_shows_no_secret_and_is_not_empty() {
        let secret = SecretString::from("secret-1");
        let secrets: Secrets<'_> = [&secret].into_iter().collect();
        let id = |headers: &[(&str, &str)]| with_headers(headers).log_id(&secrets);
        let both = [("x-request-id", "b"), ("x-tt-logid", "a secret-1")];
        assert_eq!(id(&both).as_deref(), Some("a ***"));
        assert_eq!(id(&both[..1]).as_deref(), Some("b"));
        assert_eq!(id(&[("x-tt-logid", " ")]), None);
        assert_eq!(id(&[]), None);
    }
}
