//! One profile: the keys of its section, and what each of them means.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::document::{Document, Problem};
use crate::error::{Error, Hint, Result};
use crate::protocol::Api;
use crate::token::{Fingerprint, Tokens};

/// Section with what all profiles share.
const SHARED_SECTION: &str = "ID";

pub(super) mod key {
    pub(in crate::config) const API: &str = "api";
    pub(in crate::config) const BASE_URL: &str = "base_url";
    pub(in crate::config) const APP_ACCESS_TOKEN: &str = "app_access_token";
    pub(in crate::config) const ACCESS_TOKEN: &str = "user_access_token";
    pub(in crate::config) const ACCESS_EXPIRES_AT: &str = "user_access_token_expires_at";
    pub(in crate::config) const REFRESH_TOKEN: &str = "refresh_token";
    pub(in crate::config) const REFRESH_EXPIRES_AT: &str = "refresh_token_expires_at";
    pub(in crate::config) const REFRESH_SPENT: &str = "refresh_token_spent";
}

/// Which file, and which section of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a Path,
    pub(crate) profile: &'a str,
}

impl<'a> Place<'a> {
    /// The place of another section in the same file.
    pub(super) fn of(self, profile: &'a str) -> Self {
        Place { profile, ..self }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] of {}", self.profile, self.file.display())
    }
}

/// What a profile's section says.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) api: Option<Api>,
    pub(super) base_url: Option<String>,
    pub(super) app_access_token: Option<SecretString>,
    pub(super) tokens: Tokens,
    pub(super) spent: Spent,
}

/// The tokens known to be spent (P9), as `refresh_token_spent` lists them.
#[derive(Debug, Clone, Default)]
pub(super) struct Spent {
    /// The last token that came from outside.
    outside: Option<Fingerprint>,
    /// The latest that was spent.
    latest: Option<Fingerprint>,
}

impl Spent {
    fn parse(text: &str) -> Self {
        let mut fingerprints = text.split_whitespace().map(Fingerprint::parse);
        Spent {
            outside: fingerprints.next().flatten(),
            latest: fingerprints.next().flatten(),
        }
    }

    /// The latest that was spent.
    pub(super) fn latest(&self) -> Option<Fingerprint> {
        self.latest
    }

    pub(super) fn lists(&self, token: Fingerprint) -> bool {
        [&self.outside, &self.latest]
            .into_iter()
            .flatten()
            .any(|listed| *listed == token)
    }

    /// The list once `sent` is spent. A file's first token came from outside, too: from a person.
    pub(super) fn after(&self, given: Option<Fingerprint>, sent: Fingerprint) -> Self {
        let outside = given.or(self.outside).unwrap_or(sent);
        Spent {
            outside: Some(outside),
            latest: Some(sent),
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fingerprints = [&self.outside, &self.latest].into_iter().flatten();
        if let Some(first) = fingerprints.next() {
            write!(f, "{first}")?;
        }
        fingerprints.try_for_each(|next| write!(f, " {next}"))
    }
}

impl Profile {
    /// Reads every key of the section that this program uses, so that a key which readers could
    /// disagree about is refused whether this run needs it or not.
    pub(super) fn read(place: Place<'_>, document: &Document) -> Result<Self> {
        let own = |key| value(place, document, place.profile, key);
        let shared_base_url = value(place, document, SHARED_SECTION, key::BASE_URL)?;
        let (tokens, spent) = Profile::read_tokens(place, document)?;
        Ok(Profile {
            api: own(key::API)?
                .map(|name| api_named(place, &name))
                .transpose()?,
            base_url: own(key::BASE_URL)?.or(shared_base_url),
            app_access_token: own(key::APP_ACCESS_TOKEN)?.map(SecretString::from),
            tokens,
            spent,
        })
    }

    /// Reads the tokens alone, and which are spent.
    pub(super) fn read_tokens(place: Place<'_>, document: &Document) -> Result<(Tokens, Spent)> {
        let own = |key| value(place, document, place.profile, key);
        let secret = |key| Ok::<_, Error>(own(key)?.map(SecretString::from));
        // A time that cannot be read is one that is not known: expiries only advise.
        let time = |key| Ok::<_, Error>(own(key)?.and_then(|time| time.parse().ok()));
        let tokens = Tokens {
            access_token: secret(key::ACCESS_TOKEN)?,
            access_expires_at: time(key::ACCESS_EXPIRES_AT)?,
            refresh_token: secret(key::REFRESH_TOKEN)?,
            refresh_expires_at: time(key::REFRESH_EXPIRES_AT)?,
        };
        Ok((
            tokens,
            Spent::parse(&own(key::REFRESH_SPENT)?.unwrap_or_default()),
        ))
    }
}

/// A value of the file; none if it is missing or empty.
fn value(
    place: Place<'_>,
    document: &Document,
    section: &str,
    key: &str,
) -> Result<Option<String>> {
    let value = document.value(section, key);
    let value = value.map_err(|problem| wrong(place.file, &[problem]))?;
    Ok(value.filter(|value| !value.is_empty()))
}

/// The document with what a reply changes, in the order a person would write it. What the reply
/// does not give stays as it is; `spent` is written if the file's list changes.
pub(super) fn edit(
    place: Place<'_>,
    document: &Document,
    reply: &Tokens,
    rotated: bool,
    spent: Option<&Spent>,
) -> Result<Document> {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let mut changes = Vec::new();
    if let Some(token) = &reply.access_token {
        changes.push((key::ACCESS_TOKEN, token.expose_secret().to_owned()));
        changes.push((key::ACCESS_EXPIRES_AT, time(reply.access_expires_at)));
    }
    if let Some(token) = &reply.refresh_token {
        changes.push((key::REFRESH_TOKEN, token.expose_secret().to_owned()));
        if rotated || reply.refresh_expires_at.is_some() {
            changes.push((key::REFRESH_EXPIRES_AT, time(reply.refresh_expires_at)));
        }
        if let Some(spent) = spent {
            changes.push((key::REFRESH_SPENT, spent.to_string()));
        }
    }
    let refused = |problem: Problem| wrong(place.file, &[problem]);
    // An expiry that is not known is emptied where it stands, and not added where it does not.
    let mut wanted = Vec::new();
    for (key, value) in &changes {
        let stands = document
            .value(place.profile, key)
            .map_err(refused)?
            .is_some();
        if stands || !value.is_empty() {
            wanted.push((*key, value.as_str()));
        }
    }
    document.with(place.profile, &wanted).map_err(refused)
}

fn api_named(place: Place<'_>, name: &str) -> Result<Api> {
    Api::named(name).ok_or_else(|| {
        Error::config(format!("{place}: the api is not known"))
            .with_hint(Hint::fixed("api can be: v1", "api 可取值：v1"))
    })
}

pub(super) fn understood(file: &Path, bytes: &[u8]) -> Result<Document> {
    Document::parse(bytes).map_err(|problems| wrong(file, &problems))
}

/// How many problems of a file one message names.
const PROBLEMS_SHOWN: usize = 3;

fn wrong(file: &Path, problems: &[Problem]) -> Error {
    let shown: Vec<String> = problems
        .iter()
        .take(PROBLEMS_SHOWN)
        .map(Problem::to_string)
        .collect();
    let mut message = format!("{}: {}", file.display(), shown.join("; "));
    if let Some(more) = problems.len().checked_sub(PROBLEMS_SHOWN + 1) {
        message.push_str(&format!("; and {} more", more + 1));
    }
    Error::config(message).with_hint(Hint::fixed(
        "nothing was sent; mend the lines so that every INI reader takes them alike",
        "尚未发送任何请求；请修正这些行，使各种 INI 解析器的理解一致",
    ))
}
