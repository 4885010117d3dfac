//! One profile: the keys of its section, and what each of them means.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::document::{Document, Edit, Problem};
use crate::error::{Error, Hint, Result};
use crate::protocol::Api;
use crate::token::{AppToken, Fingerprint, Tokens};

/// Section with what all profiles share.
const SHARED_SECTION: &str = "ID";

/// Section in which the Python package keeps what a login needs.
const LOGIN_SECTION: &str = "LOGIN_CODE";

pub(super) mod key {
    pub(in crate::config) const API: &str = "api";
    pub(in crate::config) const BASE_URL: &str = "base_url";
    pub(in crate::config) const APP_ID: &str = "app_id";
    pub(in crate::config) const APP_SECRET: &str = "app_secret";
    pub(in crate::config) const APP_TICKET: &str = "app_ticket";
    pub(in crate::config) const APP_ACCESS_TOKEN: &str = "app_access_token";
    pub(in crate::config) const APP_EXPIRES_AT: &str = "app_access_token_expires_at";
    pub(in crate::config) const SCOPE: &str = "scope";
    pub(in crate::config) const REDIRECT_URI: &str = "redirect_uri";
    pub(in crate::config) const REFRESH_TOKEN: &str = "refresh_token";
    pub(in crate::config) const REFRESH_EXPIRES_AT: &str = "refresh_token_expires_at";
    pub(in crate::config) const REFRESH_SPENT: &str = "refresh_token_spent";

    use crate::protocol::Api;

    /// Where the access token stands: 115's is no user's.
    pub(in crate::config) fn access_token(api: Api) -> &'static str {
        match api {
            Api::Open115 => "access_token",
            Api::V1 | Api::Oidc | Api::V2 => "user_access_token",
        }
    }

    /// Where its expiry stands.
    pub(in crate::config) fn access_expires_at(api: Api) -> &'static str {
        match api {
            Api::Open115 => "access_token_expires_at",
            Api::V1 | Api::Oidc | Api::V2 => "user_access_token_expires_at",
        }
    }
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

/// What a profile's section says, and the section that all share.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    /// The section's own address, and the shared one.
    pub(super) base_url: Option<String>,
    pub(super) shared_base_url: Option<String>,
    pub(super) app_id: Option<String>,
    pub(super) app_secret: Option<SecretString>,
    /// A ticket belongs to an app: the shared one is not taken for a section's own app.
    pub(super) app_ticket: Option<SecretString>,
    pub(super) app_access_token: Option<SecretString>,
    pub(super) app_expires_at: Option<Timestamp>,
    /// Where a browser is sent back to after a consent.
    pub(super) redirect_uri: Option<String>,
    pub(super) pair: Pair,
}

/// A profile's pair, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// The endpoint that it belongs to; none if this program does not know it.
    pub(super) api: Option<Api>,
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
        self.tokens().any(|listed| listed == token)
    }

    /// All that it lists.
    pub(super) fn tokens(&self) -> impl Iterator<Item = Fingerprint> + use<> {
        [self.outside, self.latest].into_iter().flatten()
    }

    /// The list after a login, that put `new` in the place of `old`.
    pub(super) fn of_login(new: Fingerprint, old: Option<Fingerprint>) -> Self {
        Spent {
            outside: Some(new),
            latest: Some(old.unwrap_or(new)),
        }
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
        let shared = |key| value(place, document, SHARED_SECTION, key);
        let (app_id, app_ticket) = (own(key::APP_ID)?, own(key::APP_TICKET)?);
        let shared_ticket = shared(key::APP_TICKET)?.filter(|_| app_id.is_none());
        Ok(Profile {
            base_url: own(key::BASE_URL)?,
            shared_base_url: shared(key::BASE_URL)?,
            app_id: app_id.or(shared(key::APP_ID)?),
            app_secret: own(key::APP_SECRET)?
                .or(shared(key::APP_SECRET)?)
                .map(SecretString::from),
            app_ticket: app_ticket.or(shared_ticket).map(SecretString::from),
            app_access_token: own(key::APP_ACCESS_TOKEN)?.map(SecretString::from),
            app_expires_at: own(key::APP_EXPIRES_AT)?.and_then(|time| time.parse().ok()),
            redirect_uri: value(place, document, LOGIN_SECTION, key::REDIRECT_URI)?,
            pair: Pair::read(place, document)?,
        })
    }
}

impl Pair {
    pub(super) fn read(place: Place<'_>, document: &Document) -> Result<Self> {
        let own = |key| value(place, document, place.profile, key);
        let secret = |key| Ok::<_, Error>(own(key)?.map(SecretString::from));
        // A time that cannot be read is one that is not known: expiries only advise.
        let time = |key| Ok::<_, Error>(own(key)?.and_then(|time| time.parse().ok()));
        let api = own(key::API)?.map_or(Some(Api::V1), |name| Api::named(&name));
        let keys = api.unwrap_or(Api::V1);
        Ok(Pair {
            api,
            tokens: Tokens {
                access_token: secret(key::access_token(keys))?,
                access_expires_at: time(key::access_expires_at(keys))?,
                scope: match api {
                    Some(api) if api.names_scope() => own(key::SCOPE)?,
                    _ => None,
                },
                refresh_token: secret(key::REFRESH_TOKEN)?,
                refresh_expires_at: time(key::REFRESH_EXPIRES_AT)?,
            },
            spent: Spent::parse(&own(key::REFRESH_SPENT)?.unwrap_or_default()),
        })
    }

    /// The fingerprint of its refresh token.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.tokens.refresh_token.as_ref().map(Fingerprint::of)
    }
}

/// Whether a section holds a token, or has a place for one.
pub(super) fn has_tokens(document: &Document, section: &str) -> bool {
    let keys = [
        key::REFRESH_TOKEN,
        key::access_token(Api::V1),
        key::access_token(Api::Open115),
    ];
    let has = |key: &&str| !matches!(document.value(section, key), Ok(None));
    keys.iter().any(has)
}

/// Whether a section holds a refresh token, or something that cannot be read in the place of one.
pub(super) fn has_refresh_token(document: &Document, section: &str) -> bool {
    let value = document.value(section, key::REFRESH_TOKEN);
    value.map_or(true, |value| value.is_some_and(|value| !value.is_empty()))
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

/// What a reply changes in a profile.
pub(super) struct Change<'a> {
    /// The endpoint that the tokens are of; none if this program does not know it.
    pub(super) api: Option<Api>,
    pub(super) tokens: &'a Tokens,
    /// Whether the refresh token lives as long as the one that the file holds.
    pub(super) keeps_expiry: bool,
    /// The list of spent tokens, if that changes.
    pub(super) spent: Option<&'a Spent>,
    /// An app token that was fetched on the way.
    pub(super) app_token: Option<&'a AppToken>,
}

impl Change<'_> {
    /// The keys and their new values, in the order a person would write them. An empty one is to be
    /// emptied where it stands.
    fn values(&self, old: &Pair) -> Vec<(&'static str, String)> {
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        let text = |secret: &SecretString| secret.expose_secret().to_owned();
        let mut values = Vec::new();
        if let Some(api) = self.api.filter(|api| old.api != Some(*api)) {
            // Else the next run would take the pair to an endpoint that refuses it.
            values.push((key::API, api.name().to_owned()));
        }
        let api = self.api.unwrap_or(Api::V1);
        if let Some(app) = self.app_token {
            values.push((key::APP_ACCESS_TOKEN, text(&app.token)));
            values.push((key::APP_EXPIRES_AT, time(app.expires_at)));
        }
        let tokens = self.tokens;
        if let Some(token) = &tokens.access_token {
            let expires_at = time(tokens.access_expires_at);
            values.push((key::access_token(api), text(token)));
            values.push((key::access_expires_at(api), expires_at));
            if api.names_scope() {
                values.push((key::SCOPE, tokens.scope.clone().unwrap_or_default()));
            }
        }
        if let Some(token) = &tokens.refresh_token {
            values.push((key::REFRESH_TOKEN, text(token)));
            if !self.keeps_expiry || tokens.refresh_expires_at.is_some() {
                values.push((key::REFRESH_EXPIRES_AT, time(tokens.refresh_expires_at)));
            }
            values.extend(
                self.spent
                    .map(|spent| (key::REFRESH_SPENT, spent.to_string())),
            );
        }
        values
    }
}

/// A pair as lines for the file.
pub(super) fn lines(api: Api, tokens: &Tokens) -> SecretString {
    let line = |key, value: &str| format!("{key} = {value}\n");
    let secret = |key, token: &Option<SecretString>| match token {
        Some(token) => line(key, token.expose_secret()),
        None => String::new(),
    };
    let mut lines = line(key::API, api.name());
    lines.push_str(&secret(key::access_token(api), &tokens.access_token));
    lines.push_str(&secret(key::REFRESH_TOKEN, &tokens.refresh_token));
    lines.into()
}

/// What a reply changes in a document. What the reply does not give stays as it is.
pub(super) fn edit<'a>(
    place: Place<'a>,
    document: &Document,
    change: &Change<'_>,
) -> Result<Edit<'a>> {
    let values = change.values(&Pair::read(place, document)?);
    // What is not known is emptied where it stands, and not added where it does not.
    let mut wanted = Vec::new();
    for (key, value) in values {
        let stands = document.value(place.profile, key);
        let stands = stands.map_err(|problem| wrong(place.file, &[problem]))?;
        if stands.is_some() || !value.is_empty() {
            wanted.push((key, value));
        }
    }
    Ok(Edit {
        section: place.profile,
        values: wanted,
    })
}

/// The document with these edits.
pub(super) fn edited<'e, 's: 'e>(
    file: &Path,
    document: &Document,
    edits: impl IntoIterator<Item = &'e Edit<'s>>,
) -> Result<Document> {
    let edits: Vec<_> = edits.into_iter().collect();
    let edited = document.with(&edits);
    edited.map_err(|problem| wrong(file, &[problem]))
}

pub(super) fn unknown_api(place: Place<'_>) -> Error {
    Error::config(format!("{place}: the api is not known")).with_hint(Hint::naming(
        format!("api can be: {}", Api::names()),
        format!("api 可取值：{}", Api::names()),
    ))
}

pub(super) fn understood(file: &Path, bytes: &[u8]) -> Result<Document> {
    Document::parse(bytes).map_err(|problems| wrong(file, &problems))
}

/// Understands a file, unless it says what it said before.
pub(super) fn read_anew(
    file: &Path,
    bytes: &[u8],
    before: Option<&Arc<Document>>,
) -> Result<Arc<Document>> {
    match before.filter(|before| before.text().as_bytes() == bytes) {
        Some(before) => Ok(Arc::clone(before)),
        None => understood(file, bytes).map(Arc::new),
    }
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
