//! App tokens for many profiles: each is fetched once, and shared by all profiles of its app.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::super::attempts::Attempts;
use super::AllProfiles;
use crate::client::Client;
use crate::config::Order;
use crate::error::Result;
use crate::protocol::{App, Refusal};
use crate::token::{AppToken, Fingerprint};

/// What has been learned of each app's token.
#[derive(Default)]
pub(super) struct AppTokens(RefCell<HashMap<String, Rc<Mutex<Known>>>>);

/// What is known of one app's token.
#[derive(Default)]
enum Known {
    #[default]
    Nothing,
    /// It was fetched; a second time, if the first was called bad.
    Token { token: AppToken, is_second: bool },
    /// None can be had.
    Refused(Refusal),
}

impl AppTokens {
    fn of(&self, order: &Order, app: &App) -> Rc<Mutex<Known>> {
        let text = |secret: &SecretString| Fingerprint::of(secret).to_string();
        let ticket = app.ticket.as_ref().map(text).unwrap_or_default();
        let secret = text(&app.secret);
        let key = [&order.base_url, &app.id, &secret, &ticket].map(String::as_str);
        let mut apps = self.0.borrow_mut();
        Rc::clone(apps.entry(key.join("\n")).or_default())
    }
}

impl AllProfiles<'_> {
    /// Sees to it that a profile has an app token, or finds out that it must do without.
    pub(super) async fn app_token(
        &self,
        attempts: &mut Attempts<'_>,
        client: &Client,
        order: &Order,
        app: &App,
    ) -> Result<()> {
        let known = self.app_tokens.of(order, app);
        let mut known = known.lock().await;
        let is_second = match &*known {
            Known::Nothing => false,
            Known::Token { token, is_second } => {
                if *is_second || !attempts.has_refused(token) {
                    attempts.share(token.clone());
                    return Ok(());
                }
                true
            }
            Known::Refused(refusal) => return attempts.share_refusal(client, order, refusal),
        };
        loop {
            let turn = self.turn(order, attempts).await?;
            let fetched = Box::pin(attempts.fetch(client, order, app)).await;
            self.lanes.learn(order, attempts);
            drop(turn);
            let pause = match fetched {
                Ok(pause) if pause.is_zero() => None,
                Ok(pause) => Some(pause),
                Err(error) => {
                    if let Some(refusal) = attempts.app_refusal() {
                        *known = Known::Refused(refusal.clone());
                    }
                    return Err(error);
                }
            };
            if let Some(pause) = pause {
                sleep(pause).await;
                continue;
            }
            if let Some(token) = attempts.app_token() {
                let token = token.clone();
                *known = Known::Token { token, is_second };
            } else if let Some(refusal) = attempts.app_refusal() {
                *known = Known::Refused(refusal.clone());
            }
            return Ok(());
        }
    }
}
