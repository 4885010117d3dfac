//! Tokens, their fingerprints and their expiry. Secrets are [`SecretString`]s, whose `Debug` text is
//! redacted.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use ring::digest;
pub use secrecy::{ExposeSecret, SecretString};

/// A user's tokens after a refresh.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Tokens {
    /// The `user_access_token`; none if the server's reply held no usable one.
    pub access_token: Option<SecretString>,
    /// When the access token expires, if the server said so.
    pub access_expires_at: Option<Timestamp>,
    /// What the access token may be used for, separated by spaces, if the server said so.
    pub scope: Option<String>,
    /// The refresh token to use next; none if the server's reply held none.
    pub refresh_token: Option<SecretString>,
    /// When the refresh token expires, if the server said so.
    pub refresh_expires_at: Option<Timestamp>,
}

impl Tokens {
    /// These tokens, with the access token of others if they have none.
    pub(crate) fn or_access_token_of(mut self, others: &Tokens) -> Self {
        if self.access_token.is_none() {
            self.access_token.clone_from(&others.access_token);
            self.access_expires_at = others.access_expires_at;
            self.scope.clone_from(&others.scope);
        }
        self
    }

    /// The same tokens, with expiries by a clock that is this far ahead.
    pub(crate) fn by_clock(mut self, ahead: SignedDuration) -> Self {
        let by = |end| later(end, ahead);
        self.access_expires_at = self.access_expires_at.map(by);
        self.refresh_expires_at = self.refresh_expires_at.map(by);
        self
    }
}

/// An `app_access_token` that the program fetched itself.
#[derive(Debug, Clone)]
pub(crate) struct AppToken {
    pub(crate) token: SecretString,
    /// When it expires, if the server said so.
    pub(crate) expires_at: Option<Timestamp>,
}

/// Tells tokens apart without revealing them: the first 16 hex digits of a token's SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a token.
    pub(crate) fn of(token: &SecretString) -> Self {
        Fingerprint::of_bytes(token.expose_secret().as_bytes())
    }

    /// The fingerprint of any text.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        let head = hash.as_ref().iter().take(8);
        Fingerprint(head.fold(0, |print, byte| print << 8 | u64::from(*byte)))
    }

    /// Reads a fingerprint back from text; none if the text is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| digits)
            .map(Fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether two secrets are the same text.
pub(crate) fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

/// Whether a text can be a token at all: not empty, no white space at its ends, no control
/// character. Such a text fits on one line of an INI file and reads back unchanged.
pub(crate) fn is_plausible(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control)
}

/// Whether a text can go into any request unchanged: a plausible token of visible ASCII.
pub(crate) fn is_sendable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text is a token and nothing else, as a person may have put it into a file.
pub(crate) fn is_bare(text: &str) -> bool {
    is_sendable(text) && !text.starts_with(['"', '\''])
}

/// A time this much later, or the same at the end of the calendar.
pub(crate) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(time)
}

/// A time for display, to the second.
pub(crate) fn second(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second());
    whole.unwrap_or(time).to_string()
}

/// The time `seconds` after `start`, in whole seconds; none if it is beyond the calendar.
pub(crate) fn expiry(start: Timestamp, seconds: u64) -> Option<Timestamp> {
    let end = start
        .as_second()
        .checked_add(i64::try_from(seconds).ok()?)?;
    Timestamp::from_second(end).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_head_of_sha256_and_reads_back() {
        // The well-known SHA-256 of "abc" begins with ba7816bf8f01cfea.
        let print = Fingerprint::of(&"abc".into());
        assert_eq!(print.to_string(), "ba7816bf8f01cfea");
        assert_eq!(Fingerprint::parse("BA7816BF8F01CFEA"), Some(print));
        assert_eq!(Fingerprint::parse("ba7816bf8f01cfe"), None);
        assert_eq!(Fingerprint::parse("ba7816bf8f01cfeg"), None);
    }

    #[test]
    fn secrets_do_not_show_in_debug_texts() {
        let tokens = Tokens {
            access_token: Some("u-secret".into()),
            refresh_token: Some("ur-secret".into()),
            ..Tokens::default()
        };
        assert!(!format!("{tokens:?}").contains("u-secret"));
    }

    #[test]
    fn expiry_is_whole_seconds_and_never_overflows() {
        let start: Timestamp = "2026-01-01T00:00:00.9Z".parse().unwrap();
        let end = expiry(start, 7140).unwrap();
        assert_eq!(end.to_string(), "2026-01-01T01:59:00Z");
        assert_eq!(expiry(start, u64::MAX), None);
        assert_eq!(expiry(start, i64::MAX.unsigned_abs()), None);
    }
}
