//! Which database keeps logins.

use secrecy::{ExposeSecret, SecretString};

/// The prefix of a store's key as text, so that people and secret scanners recognise one.
pub(crate) const KEY_PREFIX: &str = "frkey_";

/// A PostgreSQL database that keeps logins, and what their secrets are sealed with.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) address: SecretString,
    pub(crate) keys: SecretString,
}

impl Database {
    /// The database at `address`, in libpq's form (`postgres://user@host/db`), with
    /// the keys that `feishu-refresh store key` prints: one or several, separated by white space; the
    /// first seals, all open.
    pub fn new(address: impl Into<SecretString>, keys: impl Into<SecretString>) -> Self {
        Database {
            address: address.into(),
            keys: keys.into(),
        }
    }

    /// The address without its password.
    pub(crate) fn shown(&self) -> String {
        shown(self.address.expose_secret().trim())
    }
}

/// A database's address without secrets. Anything else is not shown.
pub(crate) fn shown(url: &str) -> String {
    let is_one = |(scheme, _): &(&str, &str)| matches!(*scheme, "postgres" | "postgresql");
    let Some((scheme, rest)) = url.split_once("://").filter(is_one) else {
        return "the store".to_owned();
    };
    // Everything up to the first @ may be credentials.
    let (user, place) = match rest.split_once('@') {
        Some((user, place)) => (user.split(':').next().unwrap_or_default(), place),
        None => ("", rest),
    };
    let at = if user.is_empty() { "" } else { "@" };
    let (place, query) = place.split_once('?').unwrap_or((place, ""));
    if place.contains('@') {
        return format!("{scheme}://…");
    }
    let is_secret = |pair: &&str| pair.starts_with("password=") || pair.starts_with("sslpassword=");
    let query: Vec<&str> = query.split('&').filter(|pair| !is_secret(pair)).collect();
    let query = query.join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{user}{at}{place}{mark}{query}")
}
