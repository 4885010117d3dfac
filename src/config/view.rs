//! What a file says, seen together with what was given from outside.
//!
//! Promises:
//! - What is given is checked before any file is touched.
//! - Saved tokens are shared only with a run that asks for no others (P4).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use super::document::Document;
use super::order::Order;
use super::profile::{Pair, Place, Profile, key, read_anew, unknown_api};
use crate::error::{Error, Hint, Result};
use crate::protocol::{self, Api, Authentication};
use crate::token::{self, Fingerprint, Tokens};

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

impl Given<'_> {
    /// Whether it needs nothing from a file.
    pub(super) fn is_enough(&self) -> bool {
        let app = self.app_id.is_some() && self.app_secret.is_some();
        let proves_app = match self.api.unwrap_or(Api::V1).authentication() {
            Authentication::AppToken => self.app_access_token.is_some() || app,
            Authentication::App => app,
            Authentication::None => true,
        };
        self.refresh_token.is_some() && proves_app
    }

    /// What a run must give that is to make a file or a section.
    pub(super) fn missing(&self) -> Hint {
        match self.api.unwrap_or(Api::V1).authentication() {
            Authentication::AppToken => Hint::fixed(
                "feishu-refresh login makes it, and so does a run with -r, --app-id and --app-secret (or -a in their place); -c and -p name another",
                "可用 feishu-refresh login 创建，或用 -r、--app-id 与 --app-secret（或以 -a 代替后两者）运行一次；-c 和 -p 可另行指定",
            ),
            Authentication::App => Hint::fixed(
                "feishu-refresh login makes it, and so does a run with -r, --app-id and --app-secret; -c and -p name another",
                "可用 feishu-refresh login 创建，或用 -r、--app-id 与 --app-secret 运行一次；-c 和 -p 可另行指定",
            ),
            Authentication::None => Hint::fixed(
                "-c and -p name another; a run with -r makes it",
                "可用 -c 和 -p 另行指定；用 -r 运行一次即可创建",
            ),
        }
    }

    /// Refuses what cannot be meant, before any file is touched.
    pub(super) fn check(&self) -> Result<()> {
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

fn check_given(name: &str, value: Option<&SecretString>) -> Result<()> {
    match value.map(ExposeSecret::expose_secret) {
        Some("") => Err(
            Error::config(format!("the {name} given is empty")).with_hint(Hint::fixed(
                "a variable in the script that calls may be unset",
                "调用脚本中的变量可能未设置",
            )),
        ),
        Some(text) if !is_bare(text) => Err(more_than_a_token(&format!("the {name} given"))),
        _ => Ok(()),
    }
}

/// Whether a value is a token and nothing else.
pub(super) fn is_bare(text: &str) -> bool {
    token::is_sendable(text) && !text.starts_with(['"', '\''])
}

/// The server would only call the whole invalid, as if a new consent were needed.
pub(super) fn more_than_a_token(what: &str) -> Error {
    Error::config(format!("{what} holds more than a token")).with_hint(Hint::fixed(
        "take away quotes, spaces and comments around it, or put the real one in place of an example; nothing was sent",
        "请去掉其前后的引号、空格和注释，或将示例换成真实的值；尚未发送任何请求",
    ))
}

/// A file's profile, and what was given.
pub(crate) struct View<'a> {
    pub(super) place: Place<'a>,
    pub(super) given: Given<'a>,
    /// The endpoint this profile is refreshed at.
    pub(super) api: Api,
    pub(super) document: Arc<Document>,
    pub(super) profile: Profile,
}

impl<'a> View<'a> {
    /// `before` is what the file said before.
    pub(super) fn of(
        place: Place<'a>,
        given: Given<'a>,
        bytes: &[u8],
        before: Option<&View<'_>>,
    ) -> Result<Self> {
        let before = before.map(|before| &before.document);
        View::in_document(place, given, read_anew(place.file, bytes, before)?)
    }

    /// One profile of a document that others share.
    pub(super) fn in_document(
        place: Place<'a>,
        given: Given<'a>,
        document: Arc<Document>,
    ) -> Result<Self> {
        let profile = Profile::read(place, &document)?;
        let api = given.api.or(profile.pair.api);
        Ok(View {
            place,
            given,
            api: api.ok_or_else(|| unknown_api(place))?,
            document,
            profile,
        })
    }

    /// Which file it is, and which section of it.
    pub(crate) fn place(&self) -> Place<'a> {
        self.place
    }

    /// The endpoint this profile is refreshed at.
    pub(crate) fn api(&self) -> Api {
        self.api
    }

    /// Whether an order still stands: the refresh token that it sends is the one to send.
    pub(crate) fn holds(&self, order: &Order) -> bool {
        let own = self.profile.pair.tokens.refresh_token.as_ref();
        let current = self.new_token().or(own);
        current.is_some_and(|current| token::same(current, &order.refresh_token))
    }

    /// The fingerprint of the file's refresh token.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.profile.pair.fingerprint()
    }

    /// The tokens that this profile is known to have spent.
    pub(crate) fn spent(&self) -> impl Iterator<Item = Fingerprint> {
        let own = self.fingerprint();
        let spent = self.profile.pair.spent.tokens();
        spent.filter(move |token| Some(*token) != own)
    }

    /// The file's tokens.
    pub(super) fn tokens(&self) -> &Tokens {
        &self.profile.pair.tokens
    }

    /// The file's tokens, if the access token lives longer than `least` and nothing else is asked
    /// for: no new refresh token, no other scope or endpoint.
    pub(crate) fn lasting(&self, least: SignedDuration, now: Timestamp) -> Option<&Tokens> {
        let tokens = &self.profile.pair.tokens;
        let end = tokens.access_token.as_ref().and(tokens.access_expires_at)?;
        let lasts = end.duration_since(now) > least;
        let is_bare = tokens
            .access_token
            .as_ref()
            .is_some_and(|token| is_bare(token.expose_secret()));
        let is_own = self.profile.pair.api == Some(self.api) && self.new_token().is_none();
        let is_own = is_own && is_bare && !self.is_for_another_app();
        (lasts && is_own && self.scope_fits("")).then_some(tokens)
    }

    /// The file's tokens, if they are valid, others than those seen `before`, and what this run asks
    /// for (P4).
    pub(super) fn saved_since(&self, before: &View<'_>, now: Timestamp) -> Option<&Tokens> {
        let (pair, old) = (&self.profile.pair, &before.profile.pair);
        let changed = pair.fingerprint().is_some() && pair.fingerprint() != old.fingerprint();
        let last = old.tokens.scope.as_deref().unwrap_or_default();
        let tokens = self.lasting(SignedDuration::ZERO, now);
        tokens.filter(|_| changed && self.scope_fits(last))
    }

    /// Whether the saved token is as wide as this run asks; without a wish, as wide as the last.
    fn scope_fits(&self, last: &str) -> bool {
        let saved = self.profile.pair.tokens.scope.as_deref();
        let saved = saved.unwrap_or_default();
        match self.scope() {
            Ok(Some(asked)) => protocol::covers(saved, &asked) && protocol::covers(&asked, saved),
            Ok(None) => !self.api.names_scope() || protocol::covers(saved, last),
            Err(_) => false,
        }
    }

    /// The refresh token given from outside, unless the file knows it: then it stands for its
    /// successor in the file (P9).
    pub(super) fn new_token(&self) -> Option<&'a SecretString> {
        let given = self.given.refresh_token?;
        let Pair { tokens, spent, .. } = &self.profile.pair;
        let own = tokens.refresh_token.as_ref();
        let known =
            own.is_some_and(|own| token::same(own, given)) || spent.lists(Fingerprint::of(given));
        (!known).then_some(given)
    }
}
