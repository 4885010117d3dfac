//! The configuration file, as the refresh asks for it: profiles, keys, and which source wins.
//!
//! Promises:
//! - A flag or environment variable beats the file, except for a refresh token that the file knows
//!   to be spent: that stands for its successor in the file (P9).
//! - A host that only the file names gets secrets from that file alone.
//! - A key that readers could disagree about is refused before anything is sent, whether this run
//!   needs it or not.
//!
//! Knows no network. [`document`] reads and edits text, [`profile`] knows the keys, [`durable`] alone
//! touches the disk.

mod document;
mod durable;
mod profile;
mod replay;
mod save;

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Hint, Result};
use crate::protocol::{self, Api, App, Authentication};
use crate::token::{self, Fingerprint, Tokens};
use document::Document;
use durable::Lock;
pub(crate) use profile::Place;
use profile::{Pair, Profile, key, understood};
use save::{Plan, ReservedFile};

/// Space set aside beyond the file's own length: two tokens of the documented 4 KB many times over.
const SPARE_BYTES: u64 = 64 << 10;

/// An app token with less left than this is not used if another can be had.
const APP_TOKEN_RESERVE: SignedDuration = SignedDuration::from_mins(5);

/// What came from outside the file, by flag, environment or a caller's argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) app_access_token: Option<&'a SecretString>,
    pub(crate) refresh_token: Option<&'a SecretString>,
    pub(crate) app_id: Option<&'a str>,
    pub(crate) app_secret: Option<&'a SecretString>,
    pub(crate) app_ticket: Option<&'a SecretString>,
    pub(crate) scope: Option<&'a str>,
    pub(crate) api: Option<Api>,
    pub(crate) lark: bool,
    pub(crate) base_url: Option<&'a str>,
}

/// Everything one refresh sends, and where to.
#[derive(Debug)]
pub(crate) struct Order {
    /// Whose refresh it is, for messages: the profile and its file.
    pub(crate) subject: String,
    pub(crate) api: Api,
    pub(crate) base_url: String,
    pub(crate) refresh_token: SecretString,
    /// What the new token is narrowed to.
    pub(crate) scope: Option<String>,
    pub(crate) app: AppProof,
}

/// What there is to show which app asks.
#[derive(Debug)]
pub(crate) enum AppProof {
    /// The endpoint does not ask.
    None,
    /// App id and secret go with the refresh.
    App(App),
    /// A token, and what gets another if the server calls it bad.
    Token {
        token: SecretString,
        renewable: Option<App>,
    },
    /// A token must be fetched first.
    Fetch(App),
}

impl AppProof {
    /// What gets a new app token.
    pub(crate) fn renewable(&self) -> Option<&App> {
        match self {
            AppProof::Token { renewable, .. } => renewable.as_ref(),
            AppProof::Fetch(app) => Some(app),
            AppProof::None | AppProof::App(_) => None,
        }
    }
}

/// What a file held before this run queued for it.
#[derive(Debug)]
pub(crate) enum Before {
    /// It could not be read, so that nothing follows from what it holds later.
    Unknown,
    /// This refresh token, or none, and an access token of this scope.
    Holding {
        refresh_token: Option<Fingerprint>,
        scope: Option<String>,
    },
}

/// Looks at the file without waiting for anybody (P4).
pub(crate) fn look(place: Place<'_>) -> Before {
    let seen = durable::read(place.file).and_then(|bytes| {
        let document = understood(place.file, &bytes.unwrap_or_default())?;
        Pair::read(place, &document)
    });
    match seen {
        Ok(pair) => Before::Holding {
            refresh_token: pair.fingerprint(),
            scope: pair.tokens.scope,
        },
        Err(_) => Before::Unknown,
    }
}

/// Waits until this run alone may work on the file, puts back what a dead run left, and reads it.
pub(crate) fn lock<'a>(
    place: Place<'a>,
    given: Given<'a>,
    deadline: Instant,
) -> Result<LockedFile<'a>> {
    check_profile_name(place.profile)?;
    given.check()?;
    // A file is made only for a run that brings what belongs in it, or finds it there.
    let may_make = given.is_enough() || durable::has_leftover(place.file);
    let lock = Lock::acquire(place.file, may_make, deadline)?;
    fail_point!("after-lock");
    let (lock, replayed) = replay::replay(lock, place, given.refresh_token.map(Fingerprint::of))?;
    let (document, profile) = read(place, &lock)?;
    lock.warn_if_readable_by_others();
    Ok(LockedFile {
        place,
        given,
        lock,
        document,
        profile,
        had_company: !replayed,
    })
}

fn read(place: Place<'_>, lock: &Lock) -> Result<(Document, Profile)> {
    let document = understood(place.file, &lock.read()?)?;
    let profile = Profile::read(place, &document)?;
    Ok((document, profile))
}

/// A file that no other run can touch.
pub(crate) struct LockedFile<'a> {
    place: Place<'a>,
    given: Given<'a>,
    lock: Lock,
    document: Document,
    profile: Profile,
    /// Whether another run can have refreshed it just now. Not if this run itself put back what a
    /// dead one left, or has not let go of the file.
    had_company: bool,
}

impl<'a> LockedFile<'a> {
    /// The endpoint this profile is refreshed at.
    pub(crate) fn api(&self) -> Api {
        self.given.api.unwrap_or(self.profile.api)
    }

    /// The tokens in the file, if another run rotated them while this one queued, they are still
    /// valid, and this run asks for nothing else: it brings no new refresh token and names no other
    /// scope or endpoint (P4).
    pub(crate) fn saved_since(&self, before: &Before, now: Timestamp) -> Option<&Tokens> {
        let Before::Holding {
            refresh_token,
            scope,
        } = before
        else {
            return None;
        };
        let tokens = &self.profile.pair.tokens;
        let current = self.profile.pair.fingerprint();
        let changed = current.is_some() && current != *refresh_token;
        let valid = tokens.access_token.is_some() && tokens.access_expires_at? > now;
        let new = tokens.scope.as_deref().unwrap_or_default();
        let fits = match self.scope().ok()? {
            Some(asked) => protocol::covers(new, &asked) && protocol::covers(&asked, new),
            // Without a wish, a token as wide as the last one will do.
            None => protocol::covers(new, scope.as_deref().unwrap_or_default()),
        };
        let shared = changed && self.had_company && fits && self.profile.api == self.api();
        (shared && valid && self.new_token().is_none()).then_some(tokens)
    }

    /// The refresh token given from outside, unless the file knows it: then it stands for its
    /// successor in the file (P9).
    fn new_token(&self) -> Option<&SecretString> {
        let given = self.given.refresh_token?;
        let Pair { tokens, spent, .. } = &self.profile.pair;
        let own = tokens.refresh_token.as_ref();
        let known =
            own.is_some_and(|own| token::same(own, given)) || spent.lists(Fingerprint::of(given));
        (!known).then_some(given)
    }

    /// What to send, and where.
    pub(crate) fn order(&self) -> Result<Order> {
        let own = &self.profile.pair.tokens.refresh_token;
        let refresh_token = self.new_token().or(own.as_ref());
        let refresh_token = refresh_token.ok_or_else(|| self.missing(key::REFRESH_TOKEN))?;
        self.check_sendable(key::REFRESH_TOKEN, refresh_token)?;
        let app = self.app_proof(Timestamp::now())?;
        Ok(Order {
            subject: self.place.to_string(),
            api: self.api(),
            base_url: self.base_url(&app)?,
            refresh_token: refresh_token.clone(),
            scope: self.scope()?,
            app,
        })
    }

    fn scope(&self) -> Result<Option<String>> {
        let Some(asked) = self.given.scope else {
            return Ok(None);
        };
        if self.api() != Api::V2 {
            let message = format!("{}: a scope can be named with api v2 alone", self.place);
            return Err(Error::config(message).with_hint(Hint::fixed(
                "leave --scope away; the token is as wide as the user's consent",
                "请去掉 --scope；令牌的权限以用户授权为准",
            )));
        }
        let scope = protocol::scope(asked);
        let scope =
            scope.ok_or_else(|| Error::config("the scope given is not a list of scopes"))?;
        Ok(Some(scope))
    }

    /// What shows the endpoint which app asks.
    fn app_proof(&self, now: Timestamp) -> Result<AppProof> {
        match self.api().authentication() {
            Authentication::None => Ok(AppProof::None),
            Authentication::App => self
                .app()?
                .map(AppProof::App)
                .map_err(|key| self.missing(key)),
            Authentication::AppToken => {
                let app = self.app()?;
                let own = self.profile.app_access_token.as_ref();
                let token = match (self.given.app_access_token, own, &app) {
                    (Some(given), ..) => Some(given),
                    // Its expiry only advises: with nothing better, it is tried.
                    (None, own, Err(_)) => own,
                    (None, own, Ok(_)) => own.filter(|_| self.app_token_lasts(now)),
                };
                match (token, app) {
                    (Some(token), app) => {
                        self.check_sendable(key::APP_ACCESS_TOKEN, token)?;
                        Ok(AppProof::Token {
                            token: token.clone(),
                            renewable: app.ok(),
                        })
                    }
                    (None, Ok(app)) => Ok(AppProof::Fetch(app)),
                    // What was begun is to be completed.
                    (None, Err(key)) if self.names_app() => Err(self.missing(key)),
                    (None, Err(_)) => Err(self.missing(key::APP_ACCESS_TOKEN)),
                }
            }
        }
    }

    fn app_token_lasts(&self, now: Timestamp) -> bool {
        let left = |end: Timestamp| end.duration_since(now) > APP_TOKEN_RESERVE;
        self.profile.app_expires_at.is_none_or(left)
    }

    fn names_app(&self) -> bool {
        let Profile {
            app_id, app_secret, ..
        } = &self.profile;
        let given = self.given.app_id.is_some() || self.given.app_secret.is_some();
        given || app_id.is_some() || app_secret.is_some()
    }

    /// App id, secret and ticket; or the key that is missing.
    fn app(&self) -> Result<Result<App, &'static str>> {
        let Profile {
            app_id,
            app_secret,
            app_ticket,
            ..
        } = &self.profile;
        let id = self.given.app_id.or(app_id.as_deref());
        let secret = self.given.app_secret.or(app_secret.as_ref());
        let ticket = self.given.app_ticket.or(app_ticket.as_ref());
        let (Some(id), Some(secret)) = (id, secret) else {
            return Ok(Err(if id.is_none() {
                key::APP_ID
            } else {
                key::APP_SECRET
            }));
        };
        self.check_sendable(key::APP_ID, &id.into())?;
        self.check_sendable(key::APP_SECRET, secret)?;
        if let Some(ticket) = ticket {
            self.check_sendable(key::APP_TICKET, ticket)?;
        }
        Ok(Ok(App {
            id: id.to_owned(),
            secret: secret.clone(),
            ticket: ticket.cloned(),
        }))
    }

    /// Where to send it. Secrets from outside go to no host that only the file names: a
    /// checked-out file must not be able to pull a CI's secrets.
    fn base_url(&self, app: &AppProof) -> Result<String> {
        let api = self.api();
        if let Some(given) = self.given.base_url {
            return Ok(given.to_owned());
        }
        // What all profiles share may be Lark's address, and this one 115's.
        let shared = self.profile.shared_base_url.as_ref();
        let shared = shared.filter(|shared| !api.is_foreign(shared));
        let named = self.profile.base_url.as_ref().or(shared);
        let Some(named) = named.filter(|_| !self.given.lark) else {
            return Ok(api.home(self.given.lark).to_owned());
        };
        let from_outside = match app {
            AppProof::None => false,
            AppProof::App(_) | AppProof::Fetch(_) => self.given.brings_app(),
            AppProof::Token { renewable, .. } => {
                let renews = renewable.is_some() && self.given.brings_app();
                self.given.app_access_token.is_some() || renews
            }
        };
        if (from_outside || self.new_token().is_some()) && !Api::is_vendor(named) {
            let file = self.place.file.display();
            let message = format!(
                "secrets from flags or environment are not sent to a host that only {file} names"
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "if you trust that host, name it yourself with --base-url",
                "如果您信任该主机，请用 --base-url 明确指定",
            )));
        }
        Ok(named.clone())
    }

    /// Refuses what a person left around a value in the file: the server would only call the whole
    /// invalid, as if a new consent were needed.
    fn check_sendable(&self, key: &str, token: &SecretString) -> Result<()> {
        let text = token.expose_secret();
        let quoted = ['"', '\''].iter().any(|quote| text.starts_with(*quote));
        if !quoted && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(());
        }
        let message = format!("{}: {key} holds more than a token", self.place);
        Err(Error::config(message).with_hint(Hint::fixed(
            "take away quotes, spaces and comments around it; nothing was sent",
            "请去掉其前后的引号、空格和注释；尚未发送任何请求",
        )))
    }

    fn missing(&self, key: &str) -> Error {
        let Place { file, profile } = self.place;
        let file = file.display();
        if !self.document.has_section(profile) {
            let message = format!("{file} has no section [{profile}]");
            return Error::config(message).with_hint(Hint::fixed(
                "-p names another section; a run that gives -r, and -a where the api asks for it, adds this one",
                "可用 -p 指定其他节；用 -r（以及该接口需要时的 -a）运行一次即可添加该节",
            ));
        }
        if key == key::REFRESH_TOKEN && self.given.refresh_token.is_some() {
            let message = format!(
                "{}: the refresh token given is spent, its successor is gone",
                self.place
            );
            return Error::config(message).with_hint(Hint::fixed(
                "authorise again in a browser to get a new one",
                "请在浏览器中重新授权以获取新的令牌",
            ));
        }
        Error::config(format!("{}: no {key}, and none given", self.place)).with_hint(match key {
            key::REFRESH_TOKEN => Hint::fixed(
                "put it into the file, or give it once with -r",
                "请将其写入配置文件，或用 -r 传入一次",
            ),
            key::APP_ACCESS_TOKEN => Hint::fixed(
                "put app_id and app_secret into the file, and the program fetches it; or give it with -a each time",
                "请将 app_id 与 app_secret 写入配置文件，由本程序自行获取；或每次用 -a 传入",
            ),
            _ => Hint::fixed(
                "app_id and app_secret stand in the profile's section or in [ID], or are given with --app-id and --app-secret",
                "app_id 与 app_secret 写在该节或 [ID] 中，或用 --app-id 与 --app-secret 传入",
            ),
        })
    }

    /// Whether this run made the file: then nothing of it must stay unless it gets tokens.
    pub(crate) fn is_made(&self) -> bool {
        self.lock.is_made()
    }

    /// Reads the file again before another attempt: a program that knows no locks may have put a
    /// token there that is worth more than asking again (P8), or another file in its place.
    pub(crate) fn again(mut self, deadline: Instant) -> Result<Self> {
        if !self.lock.is_current() {
            let LockedFile {
                place, given, lock, ..
            } = self;
            drop(lock);
            return self::lock(place, given, deadline);
        }
        (self.document, self.profile) = read(self.place, &self.lock)?;
        self.had_company = false;
        Ok(self)
    }

    /// Makes room for the tokens that this order will bring: the edit is tried on the text, the way
    /// of saving is chosen, the space is set aside (P1).
    pub(crate) fn reserve(self, order: &Order) -> Result<ReservedFile<'a>> {
        let sent = order.refresh_token.clone();
        let given = self.given.refresh_token.map(Fingerprint::of);
        let Pair { tokens, spent, .. } = &self.profile.pair;
        let plan = Plan {
            is_new: self.new_token().is_some(),
            spent: spent.after(given, Fingerprint::of(&sent)),
            sent,
            place: self.place,
            api: order.api,
            old: tokens.refresh_token.clone(),
            document: self.document,
        };
        let room = self.lock.reserve(plan.proved_length()? + SPARE_BYTES)?;
        fail_point!("after-reserve");
        Ok(ReservedFile {
            plan,
            given: self.given,
            profile: self.profile,
            room,
        })
    }
}

fn check_profile_name(name: &str) -> Result<()> {
    if token::is_plausible(name) && !name.contains(']') && name != "DEFAULT" {
        return Ok(());
    }
    Err(
        Error::config("the profile's name cannot be that of a section").with_hint(Hint::fixed(
            "a profile is a section of the file, like TOKEN; [DEFAULT] is none",
            "profile 是配置文件中的一个节，例如 TOKEN；[DEFAULT] 不能用作 profile",
        )),
    )
}

impl Given<'_> {
    /// Whether it needs nothing from a file.
    fn is_enough(&self) -> bool {
        let app = self.app_id.is_some() && self.app_secret.is_some();
        let proves_app = match self.api.unwrap_or(Api::V1).authentication() {
            Authentication::AppToken => self.app_access_token.is_some() || app,
            Authentication::App => app,
            Authentication::None => true,
        };
        self.refresh_token.is_some() && proves_app
    }

    /// Whether a secret of the app comes from outside.
    fn brings_app(&self) -> bool {
        self.app_secret.is_some() || self.app_ticket.is_some()
    }

    fn check(&self) -> Result<()> {
        let app_id = self.app_id.map(SecretString::from);
        let values = [
            (key::APP_ACCESS_TOKEN, self.app_access_token),
            (key::REFRESH_TOKEN, self.refresh_token),
            (key::APP_ID, app_id.as_ref()),
            (key::APP_SECRET, self.app_secret),
            (key::APP_TICKET, self.app_ticket),
        ];
        values
            .into_iter()
            .try_for_each(|(name, value)| check_given(name, value))
    }
}

fn check_given(name: &str, token: Option<&SecretString>) -> Result<()> {
    match token.map(ExposeSecret::expose_secret) {
        Some("") => Err(
            Error::config(format!("the {name} given is empty")).with_hint(Hint::fixed(
                "a variable in the script that calls may be unset",
                "调用脚本中的变量可能未设置",
            )),
        ),
        Some(text) if !token::is_plausible(text) => Err(Error::config(format!(
            "the {name} given has a character that no token has"
        ))),
        _ => Ok(()),
    }
}
