//! Sends a grant, judges the answer, and says whether and when to send again.
//!
//! This is where a refresh token is spent. A reply that may have been lost is asked for again with
//! the same token; if the server then calls that token spent, the error says what happened (P8).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;

use super::failure;
use crate::client::{Client, SendError};
use crate::config::Order;
use crate::error::{Error, Hint};
use crate::protocol::{Refusal, Reply, Request, Rotation, Verdict};
use crate::token::{self, Fingerprint, Tokens};

/// The longest wait that a server may ask for; a longer one is for the next run.
const LONGEST_WAIT: Duration = Duration::from_secs(90);

/// The first pause between attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Pauses stop growing after this many doublings.
const DOUBLINGS: u32 = 4;

/// What an attempt came to.
pub(super) enum Answer {
    /// The server gave new tokens, their life times turned into moments.
    Tokens {
        tokens: Tokens,
        /// What else in the reply was wrong; to be raised once the tokens are safe.
        complaint: Option<Error>,
    },
    /// It did not.
    Refused {
        /// How long to wait before the next attempt; none if this was the last.
        pause: Option<Duration>,
        error: Error,
    },
}

/// The attempts of one run.
pub(super) struct Attempts {
    /// How many there were.
    made: u32,
    /// How many may follow the first.
    retries: u32,
    /// The token that was sent without a clear answer, if there is one.
    maybe_spent: Option<Fingerprint>,
}

impl Attempts {
    pub(super) fn new(retries: u32) -> Self {
        Attempts {
            made: 0,
            retries,
            maybe_spent: None,
        }
    }

    /// What goes wrong between attempts must not hide that a reply may have been lost.
    pub(super) fn remember(&self, error: Error) -> Error {
        match self.maybe_spent {
            Some(_) => failure::after_lost_reply(&error),
            None => error,
        }
    }

    /// Sends the order once.
    pub(super) async fn send(&mut self, client: &Client, order: &Order) -> Answer {
        let request = order.api.refresh_request(&order.grant);
        let sent_at = Timestamp::now();
        let reply = exchange(client, order, &request).await;
        self.made += 1;
        let refusal = match reply {
            Reply::Rotated(rotation) => return received(client, order, rotation, sent_at),
            Reply::Refused(refusal) => refusal,
        };
        let token = Fingerprint::of(&order.grant.refresh_token);
        let lost_before = self.maybe_spent == Some(token);
        if refusal.maybe_spent {
            self.maybe_spent = Some(token);
        }
        let pause = pause(self.made, &refusal).filter(|_| self.made <= self.retries);
        let error = failure::refused(client, order, refusal, lost_before);
        Answer::Refused { pause, error }
    }
}

/// Sends once and judges the reply, or what came of it.
async fn exchange(client: &Client, order: &Order, request: &Request) -> Reply {
    let started = Instant::now();
    log::info!("POST {}", client.url(request));
    let result = client.send(request).await;
    let response = match &result {
        Ok(response) => Some(response),
        Err(error) => error.partial.as_ref(),
    };
    let log_id = response.and_then(|response| response.log_id(&order.grant));
    if let Some(response) = response {
        let took = started.elapsed().as_millis();
        let log_id = log_id.as_deref().unwrap_or("none");
        log::info!("HTTP {} after {took} ms, log id {log_id}", response.status);
    }
    let judge = |response| order.api.refresh_reply(&order.grant, response);
    match result {
        Ok(response) => judge(&response),
        Err(error) => match error.partial.as_ref().map(judge) {
            // Enough of it came to hold the next refresh token.
            Some(Reply::Rotated(rotation)) if rotation.refresh_token.is_some() => {
                Reply::Rotated(rotation)
            }
            _ => Reply::Refused(no_reply(error, log_id)),
        },
    }
}

fn no_reply(error: SendError, log_id: Option<String>) -> Refusal {
    const UNTRUSTED: Hint = Hint::fixed(
        "its certificate is not one of a public authority for this host; a proxy may stand between",
        "对方证书并非公共 CA 为该主机签发；中间可能有代理",
    );
    Refusal {
        verdict: if error.untrusted {
            Verdict::Config
        } else {
            Verdict::Temporary
        },
        code: None,
        message: error.message,
        hint: error.untrusted.then_some(UNTRUSTED),
        log_id,
        wait: None,
        maybe_spent: error.maybe_sent,
    }
}

fn received(client: &Client, order: &Order, rotation: Rotation, sent_at: Timestamp) -> Answer {
    let complaint = failure::flawed(client, order, &rotation);
    match (&rotation.access_token, &rotation.refresh_token, complaint) {
        (None, None, Some(error)) => Answer::Refused { pause: None, error },
        (_, refresh_token, complaint) => {
            if complaint.is_none() {
                warn_of_old_token(order, refresh_token.as_ref());
            }
            Answer::Tokens {
                tokens: tokens(rotation, sent_at),
                complaint,
            }
        }
    }
}

fn warn_of_old_token(order: &Order, refresh_token: Option<&SecretString>) {
    let subject = &order.subject;
    match refresh_token {
        None => log::warn!("{subject}: the reply held no new refresh token: the old one stays"),
        Some(token) if token::same(token, &order.grant.refresh_token) => {
            log::warn!("{subject}: the server gave the same refresh token again");
        }
        Some(_) => {}
    }
}

fn tokens(rotation: Rotation, sent_at: Timestamp) -> Tokens {
    // Counted from the sending, an expiry errs on the safe side.
    let end = |seconds: Option<u64>| seconds.and_then(|seconds| token::expiry(sent_at, seconds));
    Tokens {
        access_expires_at: end(rotation.expires_in),
        access_token: rotation.access_token,
        refresh_expires_at: end(rotation.refresh_expires_in),
        refresh_token: rotation.refresh_token,
    }
}

/// How long to wait before the next attempt; none if another attempt would not help.
///
/// A random half is taken off, so that many runs do not come back at once; the server's own word
/// counts where it is longer.
fn pause(attempts: u32, refusal: &Refusal) -> Option<Duration> {
    if !matches!(
        refusal.verdict,
        Verdict::Temporary | Verdict::RateLimit | Verdict::Unusable
    ) {
        return None;
    }
    let half = FIRST_PAUSE / 2 * 2u32.pow((attempts - 1).min(DOUBLINGS));
    let mut random = [u8::MAX];
    // Without random numbers the pauses are merely not spread.
    let _ = SystemRandom::new().fill(&mut random);
    let pause = half + half * u32::from(random[0]) / u32::from(u8::MAX);
    Some(pause.max(refusal.wait.unwrap_or_default())).filter(|pause| *pause <= LONGEST_WAIT)
}
