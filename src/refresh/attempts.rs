//! Sends what is next, judges the answer, and says whether and when to send again.
//!
//! This is where a refresh token is spent. A reply that may have been lost is asked for again with
//! the same token; if the server then calls that token spent, the error says what happened (P8). An
//! `app_access_token` that is missing is fetched first; one that the server calls bad, once anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::retries::{self, Retries};
use super::{Options, failure};
use crate::client::{Client, Settings};
use crate::config::{AppProof, Order};
use crate::error::{Error, Result};
use crate::exchange;
use crate::protocol::{Api, App, Credentials, Grant, Refusal, Reply, Rotation, Verdict, app_token};
use crate::token::{self, AppToken, Fingerprint, Tokens};

/// What a refresh brought.
pub(super) struct Received {
    /// The new tokens, their life times turned into moments.
    pub(super) tokens: Tokens,
    /// An app token that was fetched on the way.
    pub(super) app_token: Option<AppToken>,
    /// What else in the reply was wrong; to be raised once the tokens are safe.
    pub(super) complaint: Option<Error>,
}

/// What an attempt came to, if it was not the last.
pub(super) enum Answer {
    /// The server gave new tokens.
    Tokens(Received),
    /// There is more to send, after a pause.
    Again(Duration),
}

/// One client for each service: requests to it share its connections.
pub(super) struct Clients {
    settings: Settings,
    clients: RefCell<HashMap<String, Client>>,
}

impl Clients {
    pub(super) fn new(options: &Options) -> Self {
        Clients {
            settings: options.connection(),
            clients: RefCell::default(),
        }
    }

    /// # Errors
    /// [`crate::Kind::Config`] if the address is none that secrets may be sent to.
    fn of(&self, base_url: &str) -> Result<Client> {
        let mut clients = self.clients.borrow_mut();
        if let Some(client) = clients.get(base_url) {
            return Ok(client.clone());
        }
        let client = Client::new(base_url, &self.settings)?;
        clients.insert(base_url.to_owned(), client.clone());
        Ok(client)
    }
}

/// The requests for one profile.
pub(super) struct Attempts<'c> {
    clients: &'c Clients,
    retries: Retries,
    /// The token that was sent without a clear answer, if there is one.
    maybe_spent: Option<Fingerprint>,
    /// The address of the service that was asked last.
    base_url: String,
    /// The app token that was fetched.
    app_token: Option<AppToken>,
    /// The one that the server called bad.
    refused_app_token: Option<SecretString>,
    /// Why none could be fetched, so that one about to end must do.
    app_refusal: Option<Refusal>,
    /// Whether the last request had an answer.
    was_answered: bool,
    /// How long the last answer asked to wait.
    asked_wait: Option<Duration>,
}

impl<'c> Attempts<'c> {
    pub(super) fn new(options: &Options, clients: &'c Clients) -> Self {
        Attempts {
            clients,
            retries: Retries::new(options),
            maybe_spent: None,
            base_url: String::new(),
            app_token: None,
            refused_app_token: None,
            app_refusal: None,
            was_answered: true,
            asked_wait: None,
        }
    }

    /// Whether the last request had an answer.
    pub(super) fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// How long the last answer asked to wait, if it did.
    pub(super) fn asked_wait(&self) -> Option<Duration> {
        self.asked_wait
    }

    /// Learns from a refusal, or from there being none.
    fn learn(&mut self, refusal: Option<&Refusal>) {
        self.was_answered = refusal.is_none_or(|refusal| refusal.is_answer);
        self.asked_wait = refusal.and_then(|refusal| refusal.wait);
    }

    /// Whether an attempt has failed before.
    pub(super) fn is_again(&self) -> bool {
        self.retries.is_begun()
    }

    /// The client for what a file orders. `reply_lost` says whether an earlier run may have sent the
    /// token.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if its address is none that secrets may be sent to.
    pub(super) fn client(&mut self, order: &Order, reply_lost: bool) -> Result<Client> {
        if reply_lost {
            self.maybe_spent = Some(Fingerprint::of(&order.refresh_token));
        }
        if self.base_url != order.base_url {
            // Another host gets a token of its own.
            self.app_token = None;
            self.base_url.clone_from(&order.base_url);
        }
        let client = self.clients.of(&order.base_url);
        client.map_err(|error| self.remember(error))
    }

    /// What goes wrong between attempts must not hide that a reply may have been lost.
    pub(super) fn remember(&self, error: Error) -> Error {
        match self.maybe_spent {
            Some(_) => failure::after_lost_reply(&error),
            None => error,
        }
    }

    /// The app whose token must be fetched before an order can be sent.
    pub(super) fn app_to_ask<'a>(&self, order: &'a Order) -> Option<&'a App> {
        let is_needed = match &order.app {
            AppProof::None | AppProof::App(_) => false,
            AppProof::Token { .. } => self.refused_app_token.is_some(),
            AppProof::Fetch { old, .. } => {
                self.refused_app_token.is_some() || old.is_none() || self.app_refusal.is_none()
            }
        };
        let app = order.app.renewable();
        app.filter(|_| is_needed && self.app_token.is_none())
    }

    /// Fetches an app token; says how long to wait before the next request.
    pub(super) async fn fetch(
        &mut self,
        client: &Client,
        order: &Order,
        app: &App,
    ) -> Result<Duration> {
        let sent_at = Timestamp::now();
        let secrets = &app.secrets();
        let sent = exchange::send(client, &app_token::request(app), secrets).await;
        let refusal = match sent.map(|response| app_token::reply(app, &response)) {
            Ok(Ok(granted)) => {
                self.app_token = Some(AppToken {
                    expires_at: end(sent_at, granted.expires_in),
                    token: granted.token,
                });
                self.learn(None);
                return Ok(Duration::ZERO);
            }
            Ok(Err(refusal)) => refusal,
            Err(lost) => Refusal {
                // It had no refresh token with it.
                maybe_spent: false,
                ..exchange::no_reply(lost, secrets)
            },
        };
        self.learn(Some(&refusal));
        self.app_refusal = Some(refusal.clone());
        if self.can_do_without(order, &refusal) {
            return Ok(Duration::ZERO);
        }
        let pause = self.pause_or(refusal, |refusal| {
            failure::no_app_token(client, order, refusal)
        });
        pause.map_err(|error| self.remember(error))
    }

    /// Whether a token that is about to end must do, where no other can be had.
    fn can_do_without(&self, order: &Order, refusal: &Refusal) -> bool {
        let has_old = matches!(order.app, AppProof::Fetch { old: Some(_), .. });
        let can = refusal.is_passing() && has_old && self.refused_app_token.is_none();
        if can {
            log::info!("no new app_access_token: the old one is about to end, but will do");
        }
        can
    }

    /// The app token that was fetched.
    pub(super) fn app_token(&self) -> Option<&AppToken> {
        self.app_token.as_ref()
    }

    /// Why none could be fetched.
    pub(super) fn app_refusal(&self) -> Option<&Refusal> {
        self.app_refusal.as_ref()
    }

    /// Whether this is the app token that the server called bad.
    pub(super) fn has_refused(&self, app: &AppToken) -> bool {
        let refused = self.refused_app_token.as_ref();
        refused.is_some_and(|refused| token::same(refused, &app.token))
    }

    /// Uses an app token that was fetched for another profile.
    pub(super) fn share(&mut self, app: AppToken) {
        self.app_token = Some(app);
    }

    /// Goes on without an app token, where another profile has found that none can be had.
    ///
    /// # Errors
    /// Why none can be had, if one is needed.
    pub(super) fn share_refusal(
        &mut self,
        client: &Client,
        order: &Order,
        refusal: &Refusal,
    ) -> Result<()> {
        self.app_refusal = Some(refusal.clone());
        if self.can_do_without(order, refusal) {
            return Ok(());
        }
        Err(self.remember(failure::no_app_token(client, order, refusal.clone())))
    }

    /// Spends the refresh token.
    pub(super) async fn spend(&mut self, client: &Client, order: &Order) -> Result<Answer> {
        let grant = Grant {
            refresh_token: order.refresh_token.clone(),
            credentials: self.credentials(order),
            scope: order.scope.clone(),
        };
        let sent_at = Timestamp::now();
        let refusal = match exchange::judged(
            client,
            &order.api.refresh_request(&grant),
            &grant.secrets(),
            |response| order.api.refresh_reply(&grant, response),
        )
        .await
        {
            Reply::Rotated(rotation) => {
                self.learn(None);
                return self.received(client, order, rotation, sent_at);
            }
            Reply::Refused(refusal) => refusal,
        };
        self.learn(Some(&refusal));
        let is_renewable = order.app.renewable().is_some();
        let refused = match grant.credentials {
            Credentials::AppToken(token) if is_renewable => Some(token),
            _ => None,
        };
        if refusal.verdict == Verdict::AppToken
            && refused.is_some()
            && self.refused_app_token.is_none()
        {
            log::info!("the server calls the app_access_token bad; fetching another");
            self.refused_app_token = refused;
            self.app_token = None;
            return Ok(Answer::Again(Duration::ZERO));
        }
        let token = Fingerprint::of(&order.refresh_token);
        let lost_before = self.maybe_spent == Some(token);
        if refusal.maybe_spent {
            self.maybe_spent = Some(token);
        }
        let pause = self.pause_or(refusal, |refusal| {
            failure::refused(client, order, refusal, lost_before)
        });
        pause.map(Answer::Again)
    }

    /// What shows the server which app asks.
    fn credentials(&self, order: &Order) -> Credentials {
        let fetched = self.app_token.as_ref().map(|app| &app.token);
        match &order.app {
            AppProof::None => Credentials::None,
            AppProof::App(app) => Credentials::App(app.clone()),
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
        order: &Order,
        rotation: Rotation,
        sent_at: Timestamp,
    ) -> Result<Answer> {
        let complaint = failure::flawed(client, order, &rotation);
        let mut tokens = tokens(rotation, sent_at);
        match complaint {
            Some(error) if tokens.access_token.is_none() && tokens.refresh_token.is_none() => {
                return Err(error);
            }
            Some(_) => {}
            None => {
                warn_of_old_token(order, tokens.refresh_token.as_ref());
                // A server that does not rotate: then the token that was sent is the one to keep.
                let sent = &order.refresh_token;
                tokens.refresh_token.get_or_insert_with(|| sent.clone());
            }
        }
        Ok(Answer::Tokens(Received {
            tokens,
            app_token: self.app_token.take(),
            complaint,
        }))
    }

    /// How long to wait before the next request, or the error that the refusal ends in.
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
        retries::tell(&error, pause);
        Ok(pause)
    }
}

fn warn_of_old_token(order: &Order, refresh_token: Option<&SecretString>) {
    let subject = &order.subject;
    match refresh_token {
        None => {
            let scope = match order.api {
                Api::V2 => " (v2 gives one only where the user granted offline_access)",
                _ => "",
            };
            log::warn!("{subject}: the reply held no new refresh token: the old one stays{scope}");
        }
        Some(token) if token::same(token, &order.refresh_token) => {
            log::warn!("{subject}: the server gave the same refresh token again");
        }
        Some(_) => {}
    }
}

/// The tokens of a reply, their life times turned into moments.
pub(crate) fn tokens(rotation: Rotation, sent_at: Timestamp) -> Tokens {
    Tokens {
        access_expires_at: end(sent_at, rotation.expires_in),
        access_token: rotation.access_token,
        scope: rotation.scope,
        refresh_expires_at: end(sent_at, rotation.refresh_expires_in),
        refresh_token: rotation.refresh_token,
    }
}

/// When a life time ends. Counted from the sending, it errs on the safe side.
fn end(sent_at: Timestamp, seconds: Option<u64>) -> Option<Timestamp> {
    token::expiry(sent_at, seconds?)
}
