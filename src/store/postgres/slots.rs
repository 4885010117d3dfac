//! The pace of each app, which all runs on all hosts keep together: one row, whose next free slot is taken.

use std::time::Duration;

use super::round::span;
use super::run::{AppKey, Run};
use super::statements::{self, seconds, text};
use super::trouble::{Trouble, field};
use crate::error::Result;
use crate::platform::machine;
use crate::store::{Held, Slot, Slots};

impl Slots for Run {
    fn next<'a>(&'a self, login: &'a str, spacing: Duration) -> Slot<'a> {
        Box::pin(async move {
            let Some(app) = self.app_of(login) else {
                return Ok(None);
            };
            match self.round.own_slot(&app) {
                Some(slot) => Ok(Some(slot)),
                None => self.take_slot(&app, spacing).await,
            }
        })
    }

    fn hold<'a>(&'a self, login: &'a str, wait: Duration) -> Held<'a> {
        Box::pin(async move {
            if let Some(app) = self.app_of(login) {
                let wait = Some(wait.as_secs_f64());
                let parameters = [text(&app.0), text(&app.1), seconds(&wait)];
                let held = self
                    .link
                    .try_in_passing(statements::HOLD_SLOTS, &parameters);
                held.await;
            }
        })
    }
}

impl Run {
    fn app_of(&self, login: &str) -> Option<AppKey> {
        let leased = self.leased.borrow();
        let app = leased.get(login).map(|leased| leased.app.clone());
        app.filter(|(id, _)| !id.is_empty())
    }

    async fn take_slot(&self, app: &AppKey, spacing: Duration) -> Result<Option<Duration>> {
        let spacing = Some(spacing.as_secs_f64());
        let parameters = [text(&app.0), text(&app.1), seconds(&spacing)];
        let taken = self
            .link
            .run(statements::TAKE_SLOT, &parameters, self.deadline());
        let (rows, _) = taken.await?;
        let until: Result<Option<f64>, Trouble> = rows.first().map(|row| field(row, 0)).transpose();
        let until = until.map_err(|trouble| trouble.error(self.link.shown()))?;
        Ok(until.map(|until| machine::uptime().saturating_add(span(until))))
    }
}
