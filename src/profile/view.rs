//! A login as its store says it, seen together with what was given from outside.
//!
//! Promises:
//! - Saved tokens are shared only with a run that asks for no others (P4).
//! - A token that another login is known to have spent is not sent (P9).

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use super::login_id::LoginId;
use super::overrides::Overrides;
use super::place::{AddressKind, VouchedAddress};
use super::snapshot::Snapshot;
use super::values::{Pair, Profile, StatedApi};
use crate::error::{Error, Hint, Result};
use crate::protocol::{self, Api, Vendor};
use crate::token::{self, Fingerprint, Tokens};

/// No access token lives longer: a user's at Feishu about two hours, 115's thirty days; with some room
/// for clocks that differ.
const LONGEST_AT_VENDOR: SignedDuration = SignedDuration::from_hours(3);
const LONGEST: SignedDuration = SignedDuration::from_hours(31 * 24);
/// No refresh token does: after 365 days the user must consent again.
const LONGEST_REFRESH: SignedDuration = SignedDuration::from_hours(366 * 24);

/// A login, and what was given.
#[derive(Clone, Copy)]
pub(crate) struct View<'v> {
    snapshot: &'v Snapshot,
    given: Overrides<'v>,
    /// The endpoint this login is refreshed at.
    api: Api,
}

impl<'v> View<'v> {
    /// A login, combined with what was given from outside.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if its api is not known.
    pub(crate) fn of(snapshot: &'v Snapshot, given: Overrides<'v>) -> Result<Self> {
        Ok(View {
            snapshot,
            given,
            api: api(snapshot, &given)?,
        })
    }

    pub(crate) fn snapshot(&self) -> &'v Snapshot {
        self.snapshot
    }

    pub(crate) fn given(&self) -> &Overrides<'v> {
        &self.given
    }

    /// The endpoint this login is refreshed at.
    pub(crate) fn api(&self) -> Api {
        self.api
    }

    pub(super) fn login(&self) -> &'v LoginId {
        &self.snapshot.login
    }

    pub(super) fn profile(&self) -> &'v Profile {
        &self.snapshot.profile
    }

    /// The saved tokens.
    pub(crate) fn tokens(&self) -> &'v Tokens {
        &self.profile().pair.tokens
    }

    /// When the saved access token ends, as far as that can be true: a clock may have been wrong when
    /// it was written.
    pub(crate) fn access_expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.tokens().access_expires_at?;
        let left = end.duration_since(now);
        let can_be = left <= LONGEST_AT_VENDOR || left <= LONGEST && !self.is_vendors_user_token();
        can_be.then_some(end)
    }

    /// When the saved refresh token ends, as far as that can be true.
    pub(crate) fn refresh_expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.tokens().refresh_expires_at?;
        (end.duration_since(now) <= LONGEST_REFRESH).then_some(end)
    }

    /// Whether the access token is a user's at Feishu or Lark.
    fn is_vendors_user_token(&self) -> bool {
        let vendor = || self.endpoint().ok()?.address.vendor();
        match self.api {
            Api::V1 | Api::Oidc => true,
            Api::V2 | Api::V3 => matches!(vendor(), Some(Vendor::Feishu | Vendor::Lark)),
            Api::Open115 => false,
        }
    }

    /// The refresh token to send.
    pub(super) fn token_to_send(&self) -> Option<&'v SecretString> {
        self.new_token().or(self.tokens().refresh_token.as_ref())
    }

    /// The saved tokens, if the access token lives longer than `least` and nothing else is asked
    /// for: no new refresh token, no other scope or endpoint.
    pub(crate) fn still_valid(&self, least: SignedDuration) -> Option<&'v Tokens> {
        let now = self.snapshot.now();
        let pair = &self.profile().pair;
        let token = pair.tokens.access_token.as_ref()?;
        let lasts = self.access_expires_at(now)?.duration_since(now) > least;
        let without = Overrides {
            api: None,
            ..self.given
        };
        let is_own = api(self.snapshot, &without).is_ok_and(|own| own == self.api);
        let is_own = is_own && self.new_token().is_none();
        let is_own = is_own && token::is_bare(token.expose_secret()) && !self.is_for_another_app();
        (lasts && is_own && self.scope_fits("")).then_some(&pair.tokens)
    }

    /// Whether the refresh token lives longer than `least`.
    pub(crate) fn is_alive_for(&self, least: SignedDuration) -> bool {
        let now = self.snapshot.now();
        let end = self.refresh_expires_at(now);
        end.is_some_and(|end| end.duration_since(now) > least)
    }

    /// The saved tokens, if they are valid, others than those seen `before`, and what this run asks
    /// for (P4).
    pub(crate) fn refreshed_since(&self, before: &Snapshot) -> Option<&'v Tokens> {
        let (print, old) = (self.snapshot.fingerprint(), before.fingerprint());
        let last = before.profile.pair.tokens.scope.as_deref();
        let tokens = self.still_valid(SignedDuration::ZERO);
        let changed = print.is_some() && print != old;
        tokens.filter(|_| changed && self.scope_fits(last.unwrap_or_default()))
    }

    /// Whether the saved token has the scopes that this run asks for; if it asks for none, those of the last.
    fn scope_fits(&self, last: &str) -> bool {
        let saved = self.tokens().scope.as_deref().unwrap_or_default();
        match self.scope() {
            Ok(Some(asked)) => protocol::covers(saved, &asked) && protocol::covers(&asked, saved),
            Ok(None) => !self.api.names_scope() || protocol::covers(saved, last),
            Err(_) => false,
        }
    }

    /// The refresh token given from outside, unless the login knows it: then it means its
    /// successor (P9).
    pub(crate) fn new_token(&self) -> Option<&'v SecretString> {
        new_token(self.snapshot, &self.given)
    }

    /// Refuses a token that another login is known to have spent.
    pub(super) fn check_unspent(&self, token: &SecretString) -> Result<()> {
        let owner = self.snapshot.spent_by.get(&Fingerprint::of(token));
        match owner {
            Some(owner) if *owner != self.login().profile => {
                Err(token_of_another(self.login(), owner))
            }
            _ => Ok(()),
        }
    }
}

/// Where its requests go.
impl View<'_> {
    pub(super) fn base(&self) -> Result<VouchedAddress> {
        VouchedAddress::base(self.profile(), self.given(), self.api())
    }

    /// Where consent is asked for, if that is known: as was said, or as goes with the service.
    pub(super) fn accounts(&self) -> Result<Option<VouchedAddress>> {
        let said = AddressKind::Accounts.of(self.profile(), self.given(), self.api())?;
        if said.is_some() {
            return Ok(said);
        }
        let accounts = self.base()?.address.vendor();
        let accounts = accounts.and_then(Vendor::accounts);
        accounts.map(VouchedAddress::vendors).transpose()
    }

    /// Where token requests go.
    pub(super) fn endpoint(&self) -> Result<VouchedAddress> {
        if self.api() != Api::V3 {
            return self.base();
        }
        let said = AddressKind::Token.of(self.profile(), self.given(), self.api())?;
        match said.map_or_else(|| self.accounts(), |said| Ok(Some(said)))? {
            Some(endpoint) => Ok(endpoint),
            // A service of somebody's own may have all on one host.
            None => self.base(),
        }
    }
}

fn new_token<'v>(snapshot: &Snapshot, given: &Overrides<'v>) -> Option<&'v SecretString> {
    let given = given.refresh_token?;
    let Pair { tokens, spent, .. } = &snapshot.profile.pair;
    let own = tokens.refresh_token.as_ref();
    let known =
        own.is_some_and(|own| token::same(own, given)) || spent.lists(Fingerprint::of(given));
    (!known).then_some(given)
}

/// The endpoint that a login is refreshed at: as was said; else as its token's form shows.
fn api(snapshot: &Snapshot, given: &Overrides<'_>) -> Result<Api> {
    let Snapshot { login, profile, .. } = snapshot;
    let stated = match (given.api, profile.pair.api) {
        (Some(api), _) | (None, StatedApi::Known(api)) => Some(api),
        (None, StatedApi::None) => None,
        (None, StatedApi::Unknown) => return Err(unknown_api(login)),
    };
    match stated {
        // A standard server is spoken to as v3 is.
        None | Some(Api::V2 | Api::V3) if AddressKind::Token.is_said(profile, given) => Ok(Api::V3),
        // What all logins share may be meant for the others.
        Some(api) if AddressKind::Token.is_said_for_this(profile, given) => {
            Err(not_standard(login, api))
        }
        Some(api) => Ok(api),
        None => {
            let own = profile.pair.tokens.refresh_token.as_ref();
            let token = new_token(snapshot, given).or(own);
            let token = token.map(ExposeSecret::expose_secret).unwrap_or_default();
            Ok(Api::of_form(token, is_at_feishu(profile, given)))
        }
    }
}

/// The endpoint that a user's consent is exchanged at.
pub(crate) fn consent_api(snapshot: &Snapshot, given: &Overrides<'_>) -> Api {
    let takes_codes = |api: &Api| matches!(api, Api::V2 | Api::V3);
    let profile = &snapshot.profile;
    if AddressKind::Token.is_said(profile, given) {
        return Api::V3;
    }
    let stated = profile.pair.api.known().filter(takes_codes);
    let told = given.api.filter(takes_codes).or(stated);
    told.unwrap_or(if is_at_feishu(profile, given) {
        Api::V3
    } else {
        Api::V2
    })
}

/// Whether the service is Feishu's own.
fn is_at_feishu(profile: &Profile, given: &Overrides<'_>) -> bool {
    let base = VouchedAddress::base(profile, given, Api::V1);
    base.is_ok_and(|base| base.address.vendor() == Some(Vendor::Feishu))
}

fn not_standard(login: &LoginId, api: Api) -> Error {
    let api = api.name();
    let message = format!("{login}: a token_url is for standard servers, and its api is {api}");
    Error::config(message).with_hint(Hint::fixed(
        "give --api v3, or leave out the token URL",
        "请使用 --api v3，或去掉 token URL",
    ))
}

/// The error for a second login with one refresh token: sent twice, it could end both.
pub(crate) fn token_of_another(login: &LoginId, owner: &str) -> Error {
    let message = format!(
        "{login}: has the refresh token of [{owner}], which works once; nothing was sent for it"
    );
    Error::config(message).with_hint(Hint::fixed(
        "give each profile a login of its own: feishu-refresh login",
        "请为每个 profile 单独登录：feishu-refresh login",
    ))
}

fn unknown_api(login: &LoginId) -> Error {
    Error::config(format!("{login}: the api is not known")).with_hint(Hint::naming(
        format!("api can be: {}", Api::names()),
        format!("api 可取值：{}", Api::names()),
    ))
}
