//! What a server gave, and what it replaces: all that a store must know to save it, in this run or in a
//! later one.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::key;
use super::settings::Setting;
use super::spent::{MOST_REMEMBERED, SpentTokens};
use super::values::{Pair, StatedApi};
use super::view::View;
use crate::protocol::Api;
use crate::token::{self, AppToken, Fingerprint, Tokens};

/// A pair that a server gave.
#[derive(Debug, Clone)]
pub(crate) struct Successor {
    pub(crate) profile: String,
    /// The endpoint that it is of.
    pub(crate) api: Api,
    /// With a refresh token; the one that was sent, if the server gave no other.
    pub(crate) tokens: Tokens,
    /// What a login writes beside it.
    pub(crate) settings: Vec<Setting>,
    /// An app token that was fetched on the way.
    pub(crate) app_token: Option<AppToken>,
    /// Whether the refresh token lives as long as the one before it.
    pub(crate) keeps_refresh_expiry: bool,
    /// The token that was spent for it; none if a user consented.
    pub(crate) predecessor: Option<Fingerprint>,
    /// The token that the store held when this was asked for.
    pub(crate) held: Option<Fingerprint>,
    /// The tokens of this login that were spent before it, the latest last.
    pub(crate) spent: Vec<Fingerprint>,
    /// What the store lists as spent from now on, if that is anything.
    pub(crate) listed: Option<SpentTokens>,
}

/// Where a pair comes from.
pub(crate) enum Origin<'o> {
    /// From spending a refresh token.
    Refresh(&'o SecretString),
    /// From a user's consent; with what the login writes beside the pair.
    Login(&'o [Setting]),
}

impl Origin<'_> {
    /// What is written beside the pair.
    pub(crate) fn settings(&self) -> &[Setting] {
        match self {
            Origin::Refresh(_) => &[],
            Origin::Login(settings) => settings,
        }
    }

    /// The token that is spent.
    pub(crate) fn sent(&self) -> Option<Fingerprint> {
        match self {
            Origin::Refresh(sent) => Some(Fingerprint::of(sent)),
            Origin::Login(_) => None,
        }
    }
}

impl Successor {
    /// What a reply brings to a login that looks like this. `spent_before` are the tokens that it is
    /// known to have spent.
    pub(crate) fn of(
        view: &View<'_>,
        origin: &Origin<'_>,
        spent_before: &[Fingerprint],
        mut tokens: Tokens,
    ) -> Self {
        let held = view.snapshot().fingerprint();
        let known = &view.snapshot().profile.pair.spent;
        let (mut spent, mut keeps_refresh_expiry) = (spent_before.to_vec(), false);
        let listed;
        match origin {
            Origin::Refresh(sent_token) => {
                let sent_print = Fingerprint::of(sent_token);
                let is_new = view.new_token().is_some();
                // A server that does not rotate: then the token that was sent is the one to keep.
                let new = tokens
                    .refresh_token
                    .get_or_insert_with(|| (*sent_token).clone());
                let rotated = !token::same(new, sent_token);
                if is_new {
                    spent.clear();
                }
                if rotated {
                    spent.retain(|token| *token != sent_print);
                    spent.push(sent_print);
                }
                keeps_refresh_expiry = !(is_new || rotated && view.api().extends_refresh_token());
                let given = view.given().refresh_token.map(Fingerprint::of);
                listed = if is_new {
                    Some(SpentTokens::begun_with(sent_print))
                } else if rotated {
                    Some(known.after(given, sent_print))
                } else {
                    // The old copy that this replaces has an older one, or none.
                    Some(known.clone()).filter(|known| !known.is_empty())
                };
            }
            Origin::Login(_) => {
                let new = tokens.refresh_token.as_ref().map(Fingerprint::of);
                listed = new.map(|new| known.after_login(new, held));
            }
        }
        let new = tokens.refresh_token.as_ref().map(Fingerprint::of);
        spent.retain(|token| Some(*token) != new);
        let mut older = spent.len().saturating_sub(MOST_REMEMBERED);
        spent.retain(|token| {
            let is_older = older > 0;
            older = older.saturating_sub(1);
            // Those from outside come back from outside, however old they are.
            !is_older || known.lists(*token)
        });
        Successor {
            profile: view.snapshot().login.profile.clone(),
            api: view.api(),
            tokens,
            settings: origin.settings().to_vec(),
            app_token: None,
            keeps_refresh_expiry,
            predecessor: origin.sent(),
            held,
            spent,
            listed,
        }
    }

    /// A successor that touches every key that one can.
    pub(crate) fn trial(profile: &str, api: Api) -> Self {
        let token = SecretString::from("trial");
        let end = Some(Timestamp::UNIX_EPOCH);
        Successor {
            profile: profile.to_owned(),
            api,
            tokens: Tokens {
                access_token: Some(token.clone()),
                access_expires_at: end,
                scope: Some("trial".to_owned()),
                refresh_token: Some(token.clone()),
                refresh_expires_at: end,
            },
            settings: Vec::new(),
            app_token: Some(AppToken {
                token: token.clone(),
                expires_at: end,
            }),
            keeps_refresh_expiry: false,
            predecessor: None,
            held: None,
            spent: Vec::new(),
            listed: Some(SpentTokens::begun_with(Fingerprint::of(&token))),
        }
    }

    /// Whether this token, or a successor of it, was spent for the pair.
    pub(crate) fn came_from(&self, token: Fingerprint) -> bool {
        self.predecessor == Some(token) || self.spent.contains(&token)
    }

    /// The fingerprint of its refresh token.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.tokens.refresh_token.as_ref().map(Fingerprint::of)
    }

    /// The keys that it changes and their new values, in the order a person would write them. An empty
    /// value empties a key that is there. What the reply did not give stays as it was (P5).
    pub(crate) fn values(&self, old: &Pair) -> Vec<(&'static str, String)> {
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        let text = |secret: &SecretString| secret.expose_secret().to_owned();
        let settings = self.settings.iter();
        let mut values: Vec<_> = settings.map(|(key, value)| (*key, text(value))).collect();
        let is_said = match old.api {
            // The next run goes by the token's form.
            StatedApi::None => {
                let token = self.tokens.refresh_token.as_ref();
                let token = token.or(old.tokens.refresh_token.as_ref());
                let form = token.map(ExposeSecret::expose_secret).unwrap_or_default();
                self.api == Api::V1 && Api::of_form(form, true) == Api::V1
            }
            stated => stated == StatedApi::Known(self.api),
        };
        if !is_said {
            // Else the next run would take the pair to an endpoint that refuses it.
            values.push((key::API, self.api.name().to_owned()));
        }
        if let Some(app) = &self.app_token {
            values.push((key::APP_ACCESS_TOKEN, text(&app.token)));
            values.push((key::APP_EXPIRES_AT, time(app.expires_at)));
        }
        let tokens = &self.tokens;
        if let Some(token) = &tokens.access_token {
            let expires_at = time(tokens.access_expires_at);
            values.push((key::access_token(self.api), text(token)));
            values.push((key::access_expires_at(self.api), expires_at));
            if self.api.names_scope() {
                values.push((key::SCOPE, tokens.scope.clone().unwrap_or_default()));
            }
        }
        if let Some(token) = &tokens.refresh_token {
            values.push((key::REFRESH_TOKEN, text(token)));
            if !self.keeps_refresh_expiry || tokens.refresh_expires_at.is_some() {
                values.push((key::REFRESH_EXPIRES_AT, time(tokens.refresh_expires_at)));
            }
            let listed = self.listed.as_ref();
            values.extend(listed.map(|listed| (key::REFRESH_SPENT, listed.to_string())));
        }
        values
    }

    /// The pair as lines that a person can put into a file.
    pub(crate) fn lines(&self) -> SecretString {
        let line = |key: &str, value: &str| format!("{key} = {value}\n");
        let secret = |key, token: &Option<SecretString>| match token {
            Some(token) => line(key, token.expose_secret()),
            None => String::new(),
        };
        let settings = self.settings.iter();
        let shown = settings.filter(|(key, _)| *key != key::APP_SECRET);
        let mut lines: String = shown
            .map(|(key, value)| line(key, value.expose_secret()))
            .collect();
        lines.push_str(&line(key::API, self.api.name()));
        lines.push_str(&secret(
            key::access_token(self.api),
            &self.tokens.access_token,
        ));
        lines.push_str(&secret(key::REFRESH_TOKEN, &self.tokens.refresh_token));
        if let Some(listed) = &self.listed {
            lines.push_str(&line(key::REFRESH_SPENT, &listed.to_string()));
        }
        lines.into()
    }
}
