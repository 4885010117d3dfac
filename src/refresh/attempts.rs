//! Sends what is next, judges the answer, and says whether and when to send again.
//!
//! This is where a refresh token is spent. A reply that may have been lost is asked for again with
//! the same token; if the server then calls that token spent, the error says what happened (P8). An
//! `app_access_token` that is missing is fetched first; one that the server calls bad, once anew.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::retries::{self, Retries};
use super::{Options, failure};
use crate::client::Client;
use crate::config::{AppProof, LockedFile, Order};
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

/// The requests of one run.
pub(super) struct Attempts {
    timeout: Duration,
    retries: Retries,
    /// The token that was sent without a clear answer, if there is one.
    maybe_spent: Option<Fingerprint>,
    /// The service, and its address: kept, so that all requests travel on one connection.
    client: Option<(String, Client)>,
    /// The app token that this run fetched.
    app_token: Option<AppToken>,
    /// Whether the server called an app token bad.
    app_token_refused: bool,
    /// Whether none could be fetched, so that one about to end must do.
    app_token_unreachable: bool,
}

impl Attempts {
    pub(super) fn new(options: &Options) -> Self {
        Attempts {
            timeout: options.timeout,
            retries: Retries::new(options),
            maybe_spent: None,
            client: None,
            app_token: None,
            app_token_refused: false,
            app_token_unreachable: false,
        }
    }

    /// The client for what a file orders.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if its address is none that secrets may be sent to.
    pub(super) fn client(&mut self, file: &LockedFile<'_>, order: &Order) -> Result<Client> {
        if file.reply_lost() {
            self.maybe_spent = Some(Fingerprint::of(&order.refresh_token));
        }
        let client = self.client_for(order);
        client.map_err(|error| self.remember(error))
    }

    fn client_for(&mut self, order: &Order) -> Result<Client> {
        match &self.client {
            Some((base_url, client)) if *base_url == order.base_url => Ok(client.clone()),
            _ => {
                // Another host gets a token of its own.
                self.app_token = None;
                let client = Client::new(&order.base_url, self.timeout)?;
                self.client = Some((order.base_url.clone(), client.clone()));
                Ok(client)
            }
        }
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
            AppProof::Token { .. } => self.app_token_refused,
            AppProof::Fetch { old, .. } => {
                self.app_token_refused || old.is_none() || !self.app_token_unreachable
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
                return Ok(Duration::ZERO);
            }
            Ok(Err(refusal)) => refusal,
            Err(lost) => Refusal {
                // It had no refresh token with it.
                maybe_spent: false,
                ..exchange::no_reply(lost, secrets)
            },
        };
        let has_old = matches!(order.app, AppProof::Fetch { old: Some(_), .. });
        if refusal.is_passing() && has_old && !self.app_token_refused {
            log::info!("no new app_access_token: the old one is about to end, but will do");
            self.app_token_unreachable = true;
            return Ok(Duration::ZERO);
        }
        let pause = self.pause_or(refusal, |refusal| {
            failure::no_app_token(client, order, refusal)
        });
        pause.map_err(|error| self.remember(error))
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
            Reply::Rotated(rotation) => return self.received(client, order, rotation, sent_at),
            Reply::Refused(refusal) => refusal,
        };
        let is_renewable = order.app.renewable().is_some();
        if refusal.verdict == Verdict::AppToken && is_renewable && !self.app_token_refused {
            log::info!("the server calls the app_access_token bad; fetching another");
            self.app_token_refused = true;
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
