//! App tokens: each is fetched once, and shared by all logins of its app.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::options::Options;
use super::retries::{self, Retries};
use crate::error::{Error, Result};
use crate::profile::RefreshPlan;
use crate::protocol::{App, Refusal};
use crate::token::{self, AppToken, Fingerprint};

/// What is known about each app's token.
pub(super) struct AppTokens {
    retries: Retries,
    apps: RefCell<HashMap<String, Rc<Mutex<KnownAppToken>>>>,
}

/// What is known about one app's token.
pub(super) struct KnownAppToken {
    /// The last one fetched.
    token: Option<AppToken>,
    /// Whether it is the second one, because the server rejected the first.
    is_second: bool,
    /// Why none can be fetched; for good, or while an old one will do.
    refusal: Option<Refusal>,
    is_final: bool,
    retries: Retries,
    /// When it may be requested again, after a transient failure.
    not_before: Option<Instant>,
}

impl AppTokens {
    pub(super) fn new(options: &Options) -> Self {
        AppTokens {
            retries: Retries::new(options),
            apps: RefCell::default(),
        }
    }

    pub(super) fn of(&self, plan: &RefreshPlan, app: &App) -> Rc<Mutex<KnownAppToken>> {
        let text = |secret: &SecretString| Fingerprint::of(secret).to_string();
        let ticket = app.ticket.as_ref().map(text).unwrap_or_default();
        let secret = text(&app.secret);
        let address = plan.address.to_string();
        let key = [&address, &app.id, &secret, &ticket].map(String::as_str);
        let mut apps = self.apps.borrow_mut();
        let new = || {
            Rc::new(Mutex::new(KnownAppToken {
                token: None,
                is_second: false,
                refusal: None,
                is_final: false,
                retries: self.retries.clone(),
                not_before: None,
            }))
        };
        Rc::clone(apps.entry(key.join("\n")).or_insert_with(new))
    }
}

impl KnownAppToken {
    /// How long it must not be requested.
    pub(super) fn pause(&self) -> Option<Duration> {
        let left = self.not_before?.checked_duration_since(Instant::now())?;
        Some(left).filter(|left| !left.is_zero())
    }

    /// The fetched token, unless it is the first one and the server rejected it.
    pub(super) fn token(&self, refused: Option<&SecretString>) -> Option<AppToken> {
        let token = self.token.as_ref()?;
        let is_bad = refused.is_some_and(|refused| token::same(refused, &token.token));
        (self.is_second || !is_bad).then(|| token.clone())
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// Whether no more requests are needed.
    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }

    pub(super) fn learn(&mut self, token: &AppToken) {
        self.is_second = self.token.is_some();
        self.token = Some(token.clone());
    }

    /// Logins that have an old token need not ask.
    pub(super) fn do_without(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
    }

    /// How long to wait before it is requested again, or the error that the refusal means for all.
    pub(super) fn pause_or_give_up(
        &mut self,
        mut refusal: Refusal,
        words: impl FnOnce(Refusal) -> Error,
    ) -> Result<Duration> {
        let pause = if self.is_final {
            None
        } else {
            self.retries.pause(&mut refusal)
        };
        let error = words(refusal.clone());
        let Some(pause) = pause else {
            (self.refusal, self.is_final) = (Some(refusal), true);
            return Err(error);
        };
        retries::log_retry(&error, pause);
        self.not_before = Some(Instant::now() + pause);
        Ok(pause)
    }
}
