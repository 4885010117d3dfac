//! Sends the next request, judges the answer, and says whether and when to send again.
//!
//! This is where a refresh token is spent. If a reply may have been lost, the same token is sent again; if the server
//! then calls that token spent, the error says what happened (P8). A missing `app_access_token` is fetched first; one
//! that the server rejects, once more.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::app_tokens::AppTokens;
use super::failure;
use super::options::Options;
use super::pace::{Pace, SendPermit};
use super::retries::{self, Retries};
use crate::client::{Client, Settings};
use crate::error::{Error, Result};
use crate::exchange::{self, Judged};
use crate::profile::{AppProof, Overrides, RefreshPlan, View};
use crate::protocol::{
    Address, Api, App, Credentials, Grant, Refusal, Reply, Rotation, Verdict, app_token,
};
use crate::store::Claim;
use crate::token::{self, AppToken, Fingerprint, Tokens};

/// What a refresh brought.
pub(crate) struct Received {
    /// The new tokens, with lifetimes as points in time.
    pub(crate) tokens: Tokens,
    /// An app token that was fetched on the way.
    pub(crate) app_token: Option<AppToken>,
    /// The whole reply, if it has a refresh token that cannot be saved as one.
    pub(crate) unread: Option<Vec<u8>>,
    /// What else in the reply was wrong; raised once the tokens are saved.
    pub(crate) complaint: Option<Error>,
}

/// The result of an attempt.
pub(super) enum AttemptResult {
    /// The server gave new tokens.
    Tokens(Box<Received>),
    /// It gave an unreadable reply that may hold a pair.
    Unread(Vec<u8>, Error),
    /// There is more to send, after a pause.
    Again(Duration),
}

/// What all requests of a run share: a client per host, the fetched app tokens, and, for many logins, the turns.
pub(crate) struct Services {
    settings: Settings,
    clients: RefCell<HashMap<Address, Client>>,
    pub(super) app_tokens: AppTokens,
    pub(super) pace: Option<Pace>,
}

impl Services {
    pub(crate) fn new(options: &Options, pace: Option<Pace>, shield: fn()) -> Self {
        Services {
            settings: options.connection(shield),
            clients: RefCell::default(),
            app_tokens: AppTokens::new(options),
            pace,
        }
    }

    pub(crate) fn pace(&self) -> Option<&Pace> {
        self.pace.as_ref()
    }

    /// # Errors
    /// [`crate::Kind::Config`] if the certificates to trust are not valid.
    fn client(&self, address: &Address) -> Result<Client> {
        let mut clients = self.clients.borrow_mut();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let client = Client::new(address, &self.settings)?;
        clients.insert(address.clone(), client.clone());
        Ok(client)
    }
}

/// The requests for one login.
pub(super) struct Attempts<'s> {
    login: &'s str,
    services: &'s Services,
    retries: Retries,
    /// Whether anything was sent at all.
    has_sent: bool,
    /// The token that was sent without a clear answer, if there is one.
    maybe_spent: Option<Fingerprint>,
    /// The address of the service that was asked last.
    address: Option<Address>,
    /// The app token that was fetched.
    app_token: Option<AppToken>,
    /// The one that the server rejected.
    refused_app_token: Option<SecretString>,
    /// Why none could be fetched, so that one about to expire must do.
    app_refusal: Option<Refusal>,
}

impl<'s> Attempts<'s> {
    pub(super) fn new(login: &'s str, options: &Options, services: &'s Services) -> Self {
        Attempts {
            login,
            services,
            retries: Retries::new(options),
            has_sent: false,
            maybe_spent: None,
            address: None,
            app_token: None,
            refused_app_token: None,
            app_refusal: None,
        }
    }

    /// Learns from a refusal, or from its absence.
    async fn learn(&self, plan: &RefreshPlan, refusal: Option<&Refusal>) {
        if let Some(pace) = &self.services.pace {
            pace.learn(self.login, plan, refusal).await;
        }
    }

    /// Waits until something may be sent for this plan.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the server must not be asked any more.
    pub(super) async fn permit(&self, plan: &RefreshPlan) -> Result<Option<SendPermit>> {
        let Some(pace) = &self.services.pace else {
            return Ok(None);
        };
        let permit = pace.permit(self.login, plan, self.is_again()).await;
        permit.map(Some).map_err(|error| self.remember(error))
    }

    /// Whether anything was sent: a request for an app token is something.
    pub(super) fn has_sent(&self) -> bool {
        self.has_sent
    }

    /// Whether a token was sent, and the result is unknown.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.maybe_spent.is_some()
    }

    /// Whether an attempt has failed before.
    pub(super) fn is_again(&self) -> bool {
        self.retries.is_begun()
    }

    /// The client for a plan. `reply_lost` says whether an earlier run may have sent the token.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the certificates to trust are not valid.
    pub(super) fn client(&mut self, plan: &RefreshPlan, reply_lost: bool) -> Result<Client> {
        if reply_lost {
            self.maybe_spent = Some(plan.fingerprint());
        }
        if self.address.as_ref() != Some(&plan.address) {
            // Another host needs its own token.
            self.app_token = None;
            self.address = Some(plan.address.clone());
        }
        let client = self.services.client(&plan.address);
        client.map_err(|error| self.remember(error))
    }

    /// An error between attempts must not hide that a reply may have been lost.
    pub(super) fn remember(&self, error: Error) -> Error {
        match self.maybe_spent {
            Some(_) => failure::after_lost_reply(&error),
            None => error,
        }
    }

    /// The app whose token must be fetched before a plan can be sent.
    pub(super) fn app_to_ask<'a>(&self, plan: &'a RefreshPlan) -> Option<&'a App> {
        let is_needed = match &plan.app {
            AppProof::None | AppProof::App(_) | AppProof::PublicApp(_) => false,
            AppProof::Token { .. } => self.refused_app_token.is_some(),
            AppProof::Fetch { old, .. } => {
                self.refused_app_token.is_some() || old.is_none() || self.app_refusal.is_none()
            }
        };
        let app = plan.app.renewable();
        app.filter(|_| is_needed && self.app_token.is_none())
    }

    /// Fetches an app token, or takes one fetched for another login; returns how long to wait before the next request.
    pub(super) async fn fetch(
        &mut self,
        client: &Client,
        plan: &RefreshPlan,
        app: &App,
        claim: &mut impl Claim,
        given: Overrides<'_>,
    ) -> Result<Duration> {
        let known = self.services.app_tokens.of(plan, app);
        let mut known = known.lock().await;
        if let Some(pause) = known.pause() {
            return Ok(pause);
        }
        if let Some(token) = known.token(self.refused_app_token.as_ref()) {
            self.app_token = Some(token);
            return Ok(Duration::ZERO);
        }
        let is_enough = |refusal: &&Refusal| known.is_final() || self.can_do_without(plan, refusal);
        let refusal = match known.refusal().filter(is_enough) {
            Some(refusal) => {
                // Asked for another login.
                self.has_sent = true;
                refusal.clone()
            }
            None => match self
                .ask_for_app_token(client, plan, app, claim, given)
                .await?
            {
                Ok(token) => {
                    known.learn(&token);
                    self.app_token = Some(token);
                    return Ok(Duration::ZERO);
                }
                Err(refusal) => refusal,
            },
        };
        self.app_refusal = Some(refusal.clone());
        if self.can_do_without(plan, &refusal) {
            known.do_without(refusal);
            return Ok(Duration::ZERO);
        }
        let words = |refusal| failure::no_app_token(client, plan, refusal);
        match known.pause_or_give_up(refusal, words) {
            Ok(pause) => Ok(pause),
            Err(error) => Err(self.remember(error)),
        }
    }

    /// Requests an app token, once; unless another run has fetched one while this one waited for its turn.
    async fn ask_for_app_token(
        &mut self,
        client: &Client,
        plan: &RefreshPlan,
        app: &App,
        claim: &mut impl Claim,
        given: Overrides<'_>,
    ) -> Result<Result<AppToken, Refusal>> {
        let permit = self.permit(plan).await?;
        if permit.is_some()
            && let Some(token) = self.app_token_of_others(claim, given).await
        {
            return Ok(Ok(token));
        }
        self.has_sent = true;
        let sent_at = Timestamp::now();
        let secrets = &app.secrets();
        let sent = exchange::send(client, &app_token::request(app), secrets).await;
        let asked = match sent.map(|response| app_token::reply(app, &response)) {
            Ok(Ok(granted)) => Ok(AppToken {
                expires_at: end(sent_at, granted.expires_in),
                token: granted.token,
            }),
            Ok(Err(refusal)) => Err(refusal),
            Err(lost) => Err(Refusal {
                // The request carried no refresh token.
                maybe_spent: false,
                ..exchange::no_reply(lost, secrets)
            }),
        };
        self.learn(plan, asked.as_ref().err()).await;
        Ok(asked)
    }

    /// The app token that another run stored.
    async fn app_token_of_others(
        &self,
        claim: &mut impl Claim,
        given: Overrides<'_>,
    ) -> Option<AppToken> {
        claim.look_again().await.ok()?;
        let snapshot = claim.snapshot();
        let plan = View::of(snapshot, given).ok()?.plan().ok()?;
        let AppProof::Token { token, .. } = plan.app else {
            return None;
        };
        let refused = self.refused_app_token.as_ref();
        let is_refused = refused.is_some_and(|refused| token::same(refused, &token));
        (!is_refused).then_some(AppToken {
            token,
            expires_at: snapshot.profile.app_expires_at,
        })
    }

    /// Whether a token that is about to expire must do, as no other can be fetched.
    fn can_do_without(&self, plan: &RefreshPlan, refusal: &Refusal) -> bool {
        let has_old = matches!(plan.app, AppProof::Fetch { old: Some(_), .. });
        let can = refusal.is_passing() && has_old && self.refused_app_token.is_none();
        if can {
            log::info!("no new app_access_token: the old one is about to expire, but will do");
        }
        can
    }

    /// Spends the refresh token.
    pub(super) async fn spend(
        &mut self,
        client: &Client,
        plan: &RefreshPlan,
    ) -> Result<AttemptResult> {
        let grant = Grant {
            refresh_token: plan.refresh_token.clone(),
            credentials: self.credentials(plan),
            scope: plan.scope.clone(),
        };
        self.has_sent = true;
        let sent_at = Timestamp::now();
        let Judged { reply, unread } = exchange::judged(
            client,
            &plan.api.refresh_request(&grant),
            &grant.secrets(),
            |response| plan.api.refresh_reply(&grant, response),
        )
        .await;
        let refusal = match reply {
            Reply::Rotated(rotation) => {
                self.learn(plan, None).await;
                return Ok(self.received(client, plan, rotation, unread, sent_at));
            }
            Reply::Refused(refusal) => refusal,
        };
        self.learn(plan, Some(&refusal)).await;
        let is_renewable = plan.app.renewable().is_some();
        let refused = match grant.credentials {
            Credentials::AppToken(token) if is_renewable => Some(token),
            _ => None,
        };
        if refusal.verdict == Verdict::AppToken
            && refused.is_some()
            && self.refused_app_token.is_none()
        {
            log::info!("the server rejects the app_access_token; fetching another");
            self.refused_app_token = refused;
            self.app_token = None;
            return Ok(AttemptResult::Again(Duration::ZERO));
        }
        let token = plan.fingerprint();
        let lost_before = self.maybe_spent == Some(token);
        if refusal.maybe_spent {
            self.maybe_spent = Some(token);
        }
        let words = |refusal| failure::refused(client, plan, refusal, lost_before);
        if let Some(reply) = unread {
            return Ok(AttemptResult::Unread(reply, words(refusal)));
        }
        self.pause_or(refusal, words).map(AttemptResult::Again)
    }

    /// What tells the server which app asks.
    fn credentials(&self, plan: &RefreshPlan) -> Credentials {
        let fetched = self.app_token.as_ref().map(|app| &app.token);
        match &plan.app {
            AppProof::None => Credentials::None,
            AppProof::App(app) => Credentials::App(app.clone()),
            AppProof::PublicApp(id) => Credentials::PublicApp(id.clone()),
            AppProof::Token { token, .. } => {
                Credentials::AppToken(fetched.unwrap_or(token).clone())
            }
            AppProof::Fetch { old, .. } => match fetched.or(old.as_ref()) {
                Some(token) => Credentials::AppToken(token.clone()),
                None => Credentials::None,
            },
        }
    }

    fn received(
        &mut self,
        client: &Client,
        plan: &RefreshPlan,
        rotation: Rotation,
        unread: Option<Vec<u8>>,
        sent_at: Timestamp,
    ) -> AttemptResult {
        let complaint = failure::flawed(client, plan, &rotation);
        let tokens = tokens(rotation, sent_at);
        if complaint.is_none() {
            warn_of_old_token(plan, tokens.refresh_token.as_ref());
        }
        AttemptResult::Tokens(Box::new(Received {
            tokens,
            app_token: self.app_token.take(),
            unread,
            complaint,
        }))
    }

    /// How long to wait before the next request, or the error that the refusal means.
    fn pause_or(
        &mut self,
        mut refusal: Refusal,
        words: impl FnOnce(Refusal) -> Error,
    ) -> Result<Duration> {
        let pause = self.retries.pause(&mut refusal);
        let error = words(refusal);
        let Some(pause) = pause else {
            return Err(error);
        };
        retries::log_retry(&error, pause);
        Ok(pause)
    }
}

fn warn_of_old_token(plan: &RefreshPlan, refresh_token: Option<&SecretString>) {
    let subject = &plan.subject;
    match refresh_token {
        None => {
            let scope = match plan.api {
                Api::V2 | Api::V3 => {
                    " (v2 and v3 give one only where the user granted offline_access)"
                }
                _ => "",
            };
            log::warn!("{subject}: the reply held no new refresh token: the old one stays{scope}");
        }
        Some(token) if token::same(token, &plan.refresh_token) => {
            log::warn!("{subject}: the server gave the same refresh token again");
        }
        Some(_) => {}
    }
}

/// The tokens of a reply, with lifetimes as points in time.
pub(crate) fn tokens(rotation: Rotation, sent_at: Timestamp) -> Tokens {
    Tokens {
        access_expires_at: end(sent_at, rotation.expires_in),
        access_token: rotation.access_token,
        scope: rotation.scope,
        refresh_expires_at: end(sent_at, rotation.refresh_expires_in),
        refresh_token: rotation.refresh_token,
    }
}

/// When a lifetime ends. Counted from the sending, to be safe.
fn end(sent_at: Timestamp, seconds: Option<u64>) -> Option<Timestamp> {
    token::expiry(sent_at, seconds?)
}
