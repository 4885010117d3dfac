//! Sends what is next, judges the answer, and says whether and when to send again.
//!
//! This is where a refresh token is spent. A reply that may have been lost is asked for again with
//! the same token; if the server then calls that token spent, the error says what happened (P8). An
//! `app_access_token` that is missing is fetched first; one that the server calls bad is fetched
//! anew, once.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;

use super::{Options, failure};
use crate::client::{Client, SendError};
use crate::config::{AppProof, Order};
use crate::error::{Error, Hint, Result};
use crate::protocol::{
    Api, App, Credentials, Grant, Refusal, Reply, Request, Response, Rotation, Secrets, Verdict,
    app_token,
};
use crate::token::{self, AppToken, Fingerprint, Tokens};

/// The first pause between attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Pauses stop growing after this many doublings.
const DOUBLINGS: u32 = 4;

/// What a request came to.
pub(super) enum Answer {
    /// The server gave new tokens, their life times turned into moments.
    Tokens {
        tokens: Tokens,
        /// An app token that was fetched on the way.
        app_token: Option<AppToken>,
        /// What else in the reply was wrong; to be raised once the tokens are safe.
        complaint: Option<Error>,
    },
    /// There is more to send, after a pause.
    NotYet { pause: Duration },
    /// It did not, and no further request would help.
    Refused(Error),
}

/// The requests of one run.
pub(super) struct Attempts {
    timeout: Duration,
    max_wait: Duration,
    /// How many attempts may follow the first.
    retries: u32,
    /// How many failed.
    failed: u32,
    /// The token that was sent without a clear answer, if there is one.
    maybe_spent: Option<Fingerprint>,
    /// The service, and its address: kept, so that all requests travel on one connection.
    client: Option<(String, Client)>,
    /// The app token that this run fetched.
    app_token: Option<AppToken>,
    /// Whether the server called an app token bad.
    app_token_refused: bool,
}

impl Attempts {
    pub(super) fn new(options: &Options) -> Self {
        Attempts {
            timeout: options.timeout,
            max_wait: options.max_wait,
            retries: options.retries,
            failed: 0,
            maybe_spent: None,
            client: None,
            app_token: None,
            app_token_refused: false,
        }
    }

    /// The client for an order's address.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if it is none that secrets may be sent to.
    pub(super) fn client(&mut self, order: &Order) -> Result<Client> {
        match &self.client {
            Some((base_url, client)) if *base_url == order.base_url => Ok(client.clone()),
            _ => {
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

    /// Sends the next request that an order needs.
    pub(super) async fn send(&mut self, client: &Client, order: &Order) -> Answer {
        let fetched = self.app_token.as_ref().map(|app| app.token.clone());
        let credentials = match (&order.app, fetched) {
            (AppProof::None, _) => Credentials::None,
            (AppProof::App(app), _) => Credentials::App(app.clone()),
            (AppProof::Token { .. } | AppProof::Fetch(_), Some(token)) => {
                Credentials::AppToken(token)
            }
            (AppProof::Token { token, renewable }, None) => match renewable {
                Some(app) if self.app_token_refused => return self.fetch(client, order, app).await,
                _ => Credentials::AppToken(token.clone()),
            },
            (AppProof::Fetch(app), None) => return self.fetch(client, order, app).await,
        };
        let grant = Grant {
            refresh_token: order.refresh_token.clone(),
            credentials,
            scope: order.scope.clone(),
        };
        self.refresh(client, order, &grant).await
    }

    /// Fetches an app token.
    async fn fetch(&mut self, client: &Client, order: &Order, app: &App) -> Answer {
        let sent_at = Timestamp::now();
        let sent = exchange(client, &app_token::request(app), &app.secrets()).await;
        let refusal = match sent.map(|response| app_token::reply(app, &response)) {
            Ok(Ok(granted)) => {
                self.app_token = Some(AppToken {
                    expires_at: end(sent_at, granted.expires_in),
                    token: granted.token,
                });
                return Answer::NotYet {
                    pause: Duration::ZERO,
                };
            }
            Ok(Err(refusal)) => refusal,
            Err(lost) => Refusal {
                // It had no refresh token with it.
                maybe_spent: false,
                ..no_reply(lost, &app.secrets())
            },
        };
        let pause = self.pause(&refusal);
        let error = failure::no_app_token(client, order, refusal);
        Answer::after(pause, self.remember(error))
    }

    /// Spends the refresh token.
    async fn refresh(&mut self, client: &Client, order: &Order, grant: &Grant) -> Answer {
        let sent_at = Timestamp::now();
        let refusal = match spend(client, order.api, grant).await {
            Reply::Rotated(rotation) => return self.received(client, order, rotation, sent_at),
            Reply::Refused(refusal) => refusal,
        };
        let is_renewable = order.app.renewable().is_some();
        if refusal.verdict == Verdict::AppToken && is_renewable && !self.app_token_refused {
            log::info!("the server calls the app_access_token bad; fetching another");
            self.app_token_refused = true;
            self.app_token = None;
            return Answer::NotYet {
                pause: Duration::ZERO,
            };
        }
        let token = Fingerprint::of(&order.refresh_token);
        let lost_before = self.maybe_spent == Some(token);
        if refusal.maybe_spent {
            self.maybe_spent = Some(token);
        }
        let pause = self.pause(&refusal);
        let error = failure::refused(client, order, refusal, lost_before);
        Answer::after(pause, error)
    }

    fn received(
        &mut self,
        client: &Client,
        order: &Order,
        rotation: Rotation,
        sent_at: Timestamp,
    ) -> Answer {
        let complaint = failure::flawed(client, order, &rotation);
        match (&rotation.access_token, &rotation.refresh_token, complaint) {
            (None, None, Some(error)) => Answer::Refused(error),
            (_, refresh_token, complaint) => {
                if complaint.is_none() {
                    warn_of_old_token(order, refresh_token.as_ref());
                }
                Answer::Tokens {
                    tokens: tokens(rotation, sent_at),
                    app_token: self.app_token.take(),
                    complaint,
                }
            }
        }
    }

    /// How long to wait before the next attempt; none if there is to be none.
    ///
    /// A random half is taken off, so that many runs do not come back at once; the server's own
    /// word counts where it is longer.
    fn pause(&mut self, refusal: &Refusal) -> Option<Duration> {
        let is_passing = matches!(
            refusal.verdict,
            Verdict::Temporary | Verdict::RateLimit | Verdict::Unusable
        );
        let wait = refusal.wait.unwrap_or_default();
        if !is_passing || self.failed >= self.retries || wait > self.max_wait {
            return None;
        }
        let half = FIRST_PAUSE / 2 * 2u32.pow(self.failed.min(DOUBLINGS));
        self.failed += 1;
        let mut random = [u8::MAX];
        // Without random numbers the pauses are merely not spread.
        let _ = SystemRandom::new().fill(&mut random);
        let pause = half + half * u32::from(random[0]) / u32::from(u8::MAX);
        Some(pause.max(wait))
    }
}

impl Answer {
    /// The answer to a request that failed, with the pause that may follow.
    fn after(pause: Option<Duration>, error: Error) -> Self {
        let Some(pause) = pause else {
            return Answer::Refused(error);
        };
        log::info!("{error}; trying again in {} ms", pause.as_millis());
        Answer::NotYet { pause }
    }
}

/// Spends a grant, and judges the reply or what came of it.
async fn spend(client: &Client, api: Api, grant: &Grant) -> Reply {
    let secrets = &grant.secrets();
    let judge = |response| api.refresh_reply(grant, response);
    match exchange(client, &api.refresh_request(grant), secrets).await {
        Ok(response) => judge(&response),
        Err(lost) => match lost.partial.as_ref().map(judge) {
            // Enough of it came to hold the next refresh token.
            Some(Reply::Rotated(rotation)) if rotation.refresh_token.is_some() => {
                Reply::Rotated(rotation)
            }
            _ => Reply::Refused(no_reply(lost, secrets)),
        },
    }
}

/// Sends a request once, and tells what came back.
async fn exchange(
    client: &Client,
    request: &Request,
    secrets: &Secrets<'_>,
) -> Result<Response, SendError> {
    let started = Instant::now();
    log::info!("POST {}", client.url(request));
    let result = client.send(request).await;
    let response = match &result {
        Ok(response) => Some(response),
        Err(error) => error.partial.as_ref(),
    };
    if let Some(response) = response {
        let took = started.elapsed().as_millis();
        let log_id = response.log_id(secrets);
        let log_id = log_id.as_deref().unwrap_or("none");
        log::info!("HTTP {} after {took} ms, log id {log_id}", response.status);
    }
    result
}

fn no_reply(error: SendError, secrets: &Secrets<'_>) -> Refusal {
    static UNTRUSTED: Hint = Hint::fixed(
        "its certificate is not one of a public authority for this host; a proxy may stand between",
        "对方证书并非公共 CA 为该主机签发；中间可能有代理",
    );
    let partial = error.partial.as_ref();
    Refusal {
        verdict: if error.untrusted {
            Verdict::Config
        } else {
            Verdict::Temporary
        },
        code: None,
        hint: error.untrusted.then_some(&UNTRUSTED),
        log_id: partial.and_then(|response| response.log_id(secrets)),
        wait: None,
        maybe_spent: error.maybe_sent,
        message: error.message,
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

fn tokens(rotation: Rotation, sent_at: Timestamp) -> Tokens {
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
