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

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Hint, Result};
use crate::protocol::{Api, Grant};
use crate::token::{self, Fingerprint, Tokens};
use document::Document;
use durable::Lock;
pub(crate) use profile::Place;
use profile::{Profile, key, understood};
use save::{Plan, ReservedFile};

/// Space set aside beyond the file's own length: two tokens of the documented 4 KB many times over.
const SPARE_BYTES: u64 = 64 << 10;

/// What came from outside the file, by flag, environment or a caller's argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) app_access_token: Option<&'a SecretString>,
    pub(crate) refresh_token: Option<&'a SecretString>,
    pub(crate) api: Option<Api>,
    pub(crate) base_url: Option<&'a str>,
}

/// Everything one refresh sends, and where to.
#[derive(Debug)]
pub(crate) struct Order {
    /// Whose refresh it is, for messages: the profile and its file.
    pub(crate) subject: String,
    pub(crate) api: Api,
    pub(crate) base_url: String,
    pub(crate) grant: Grant,
}

/// What a file held before this run queued for it.
#[derive(Debug)]
pub(crate) enum Before {
    /// It could not be read, so that nothing follows from what it holds later.
    Unknown,
    /// This refresh token, or none.
    Holding(Option<Fingerprint>),
}

/// Looks at the file without waiting for anybody (P4).
pub(crate) fn look(place: Place<'_>) -> Before {
    let seen = durable::read(place.file).and_then(|bytes| {
        let document = understood(place.file, &bytes.unwrap_or_default())?;
        Profile::read(place, &document)
    });
    match seen {
        Ok(profile) => Before::Holding(fingerprint(&profile)),
        Err(_) => Before::Unknown,
    }
}

fn fingerprint(profile: &Profile) -> Option<Fingerprint> {
    profile.tokens.refresh_token.as_ref().map(Fingerprint::of)
}

/// Waits until this run alone may work on the file, puts back what a dead run left, and reads it.
pub(crate) fn lock<'a>(
    place: Place<'a>,
    given: Given<'a>,
    deadline: Instant,
) -> Result<LockedFile<'a>> {
    check_profile_name(place.profile)?;
    check_given("app_access_token", given.app_access_token)?;
    check_given("refresh_token", given.refresh_token)?;
    // A file is made only for a run that brings what belongs in it, or finds it there.
    let brings_all = given.refresh_token.is_some() && given.app_access_token.is_some();
    let may_make = brings_all || durable::has_leftover(place.file);
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
        replayed,
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
    /// Whether it holds a pair that a dead run got: then it has changed, but nobody refreshed it
    /// just now.
    replayed: bool,
}

impl<'a> LockedFile<'a> {
    /// The endpoint this profile is refreshed at.
    pub(crate) fn api(&self) -> Api {
        self.given.api.or(self.profile.api).unwrap_or(Api::V1)
    }

    /// The tokens in the file, if another run rotated them while this one queued, they are still
    /// valid, and this run brings no new refresh token (P4).
    pub(crate) fn saved_since(&self, before: &Before, now: Timestamp) -> Option<&Tokens> {
        let Before::Holding(before) = before else {
            return None;
        };
        let tokens = &self.profile.tokens;
        let current = fingerprint(&self.profile);
        let changed = current.is_some() && current != *before;
        let valid = tokens.access_token.is_some() && tokens.access_expires_at? > now;
        let shared = changed && !self.replayed;
        (shared && valid && self.new_token().is_none()).then_some(tokens)
    }

    /// The refresh token given from outside, unless the file knows it: then it stands for its
    /// successor in the file (P9).
    fn new_token(&self) -> Option<&SecretString> {
        let given = self.given.refresh_token?;
        let own = self.profile.tokens.refresh_token.as_ref();
        let known = own.is_some_and(|own| token::same(own, given))
            || self.profile.spent.lists(Fingerprint::of(given));
        (!known).then_some(given)
    }

    /// What to send, and where.
    pub(crate) fn order(&self) -> Result<Order> {
        let own = &self.profile.tokens.refresh_token;
        let refresh_token = self.new_token().or(own.as_ref());
        let refresh_token = refresh_token.ok_or_else(|| self.missing(key::REFRESH_TOKEN))?;
        let app_access_token = self.given.app_access_token;
        let app_access_token = app_access_token.or(self.profile.app_access_token.as_ref());
        let app_access_token =
            app_access_token.ok_or_else(|| self.missing(key::APP_ACCESS_TOKEN))?;
        self.check_sendable(key::REFRESH_TOKEN, refresh_token)?;
        self.check_sendable(key::APP_ACCESS_TOKEN, app_access_token)?;
        Ok(Order {
            subject: self.place.to_string(),
            api: self.api(),
            base_url: self.base_url()?,
            grant: Grant {
                app_access_token: app_access_token.clone(),
                refresh_token: refresh_token.clone(),
            },
        })
    }

    /// Where to send it. Secrets from outside go to no host that only the file names: a
    /// checked-out file must not be able to pull a CI's secrets.
    fn base_url(&self) -> Result<String> {
        if let Some(given) = self.given.base_url {
            return Ok(given.to_owned());
        }
        let Some(own) = &self.profile.base_url else {
            return Ok(self.api().home().to_owned());
        };
        let outside = self.new_token().is_some() || self.given.app_access_token.is_some();
        if outside && !Api::is_vendor(own) {
            let file = self.place.file.display();
            let message = format!(
                "tokens from flags or environment are not sent to a host that only {file} names"
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "if you trust that host, name it yourself with --base-url",
                "如果您信任该主机，请用 --base-url 明确指定",
            )));
        }
        Ok(own.clone())
    }

    /// Refuses what a person left around a token in the file: the server would only call the whole
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
                "-p names another section; a run that gives both -a and -r adds this one",
                "可用 -p 指定其他节；同时给出 -a 与 -r 运行一次即可添加该节",
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
            _ => Hint::fixed(
                "put it into the file, or give it with -a each time; it lives two hours",
                "请将其写入配置文件，或每次用 -a 传入；其有效期为两小时",
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
        Ok(self)
    }

    /// Makes room for the tokens that this order will bring: the edit is tried on the text, the way
    /// of saving is chosen, the space is set aside (P1).
    pub(crate) fn reserve(self, order: &Order) -> Result<ReservedFile<'a>> {
        let sent = order.grant.refresh_token.clone();
        let given = self.given.refresh_token.map(Fingerprint::of);
        let plan = Plan {
            is_new: self.new_token().is_some(),
            spent: self.profile.spent.after(given, Fingerprint::of(&sent)),
            sent,
            place: self.place,
            old: self.profile.tokens.refresh_token.clone(),
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
