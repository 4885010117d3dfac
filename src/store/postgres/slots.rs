//! The pace of each app, shared by all runs on all hosts: one row, with the next free slot.

use std::time::Duration;

use super::facts::AppKey;
use super::run::Run;
use super::statement_error::{StatementError, field};
use super::statements::{self, seconds, text};
use crate::error::{Error, Hint, Result};
use crate::platform::machine;
use crate::store::many::{PendingHold, PendingSlot, Slots};

/// The longest hold that one server's word imposes on all runs.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

impl Slots for Run {
    fn next<'a>(
        &'a self,
        login: &'a str,
        spacing: Duration,
        max_wait: Duration,
    ) -> PendingSlot<'a> {
        Box::pin(async move {
            let Some(app) = self.app_of(login) else {
                return Ok(None);
            };
            // The one that came with the claim, once.
            let own = self.leased(login).slot.take();
            match own {
                Some(slot) => Ok(Some(slot)),
                None => self.take_slot(&app, spacing, max_wait).await,
            }
        })
    }

    fn hold<'a>(&'a self, login: &'a str, wait: Duration) -> PendingHold<'a> {
        Box::pin(async move {
            if let Some(app) = self.app_of(login) {
                let wait = Some(wait.min(LONGEST_HOLD).as_secs_f64());
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
    async fn take_slot(
        &self,
        app: &AppKey,
        spacing: Duration,
        max_wait: Duration,
    ) -> Result<Option<Duration>> {
        let spacing = Some(spacing.as_secs_f64());
        let parameters = [text(&app.0), text(&app.1), seconds(&spacing)];
        let asked_at = machine::uptime();
        let taken = self
            .link
            .run(statements::TAKE_SLOT, &parameters, self.deadline());
        let (rows, _) = taken.await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let times = || Ok((field(row, 0)?, field(row, 1)?));
        let times = times().map_err(|failed: StatementError| failed.error(self.link.shown()));
        let (until, held): (f64, Option<f64>) = times?;
        match held.map(span).filter(|held| *held > max_wait) {
            Some(held) => Err(held_back(self.link.shown(), app, held)),
            None => Ok(Some(asked_at.saturating_add(span(until)))),
        }
    }
}

/// The error for an app whose server asks for a longer wait than allowed here.
pub(super) fn held_back(store: &str, app: &AppKey, held: Duration) -> Error {
    let (id, seconds) = (&app.0, held.as_secs());
    let message = format!(
        "{store}: the server asked the app {id} to wait {seconds} s; its logins were left for the next run"
    );
    Error::temporary(message).with_hint(Hint::fixed(
        "run again after that time, or allow so long a wait with --max-wait",
        "请在该时间之后重试，或用 --max-wait 允许更长的等待",
    ))
}

/// A number of seconds from the database; none below zero.
pub(super) fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
