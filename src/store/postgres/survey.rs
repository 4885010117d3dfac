//! The state of the logins of a store, for read-only use.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::PostgresStore;
use super::row::{LoginState, StoredLogin};
use super::run::no_login;
use super::statement_error::{StatementError, field};
use super::statements::{self, text};
use crate::error::Result;
use crate::profile::Snapshot;
use crate::store::notes::{LoginCounts, LoginNotes};

/// This many logins show whether the key is the store's.
const SAMPLE: i64 = 10;

impl PostgresStore {
    /// The login of this name, or this many of those after `last`, for read-only use.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if there is none of that name, or the database is not usable as it is;
    /// [`crate::Kind::Temporary`] if it cannot be used now.
    pub(crate) async fn survey(
        &self,
        name: Option<&str>,
        last: Option<&str>,
        most: i64,
    ) -> Result<Vec<(LoginNotes, Result<Snapshot>)>> {
        let link = &self.run.link;
        let now = Instant::now();
        let asked = name.as_ref().map(|name| text(name));
        let (rows, connection) = match &asked {
            None => {
                let parameters = [text(&last), (&most as _, Type::INT8)];
                link.run(statements::LOOK_AT_SOME, &parameters, now).await?
            }
            Some(name) => {
                let name = std::slice::from_ref(name);
                link.run(statements::LOOK, name, now).await?
            }
        };
        let reader = link.reader(&connection, false);
        let mut all: Vec<_> = rows
            .iter()
            .map(|row| {
                let name = row.try_get("name").unwrap_or_default();
                (name, reader.read(row))
            })
            .filter(|(_, stored)| !stored.as_ref().is_ok_and(|s| s.state == LoginState::Empty))
            .collect();
        // If none opens, the key is wrong: that is one error, not a state of logins.
        let opens = all.iter().any(|(_, stored)| stored.is_ok());
        if !opens
            && last.is_none()
            && let Some((_, Err(error))) = all.pop()
        {
            return Err(error);
        }
        match name {
            Some(name) if all.is_empty() => Err(no_login(link.shown(), name)),
            _ => Ok(all.into_iter().map(noted).collect()),
        }
    }

    /// How many logins are in which state; of how many the refresh token expires within this time.
    ///
    /// # Errors
    /// As of [`Self::survey`].
    pub(crate) async fn counts(&self, ending_within: Duration) -> Result<LoginCounts> {
        let link = &self.run.link;
        // A wrong key is reported.
        self.survey(None, None, SAMPLE).await?;
        let seconds = ending_within.as_secs_f64();
        let seconds = [(&seconds as _, Type::FLOAT8)];
        let (rows, _) = link
            .run(statements::COUNTS, &seconds, Instant::now())
            .await?;
        let number = |index| {
            let row = rows.first().ok_or_else(StatementError::no_tables)?;
            field::<i64>(row, index)
        };
        let counts = || {
            Ok(LoginCounts {
                all: number(0)?,
                valid: number(1)?,
                due: number(2)?,
                ending: number(3)?,
                ended: number(4)?,
                failing: number(5)?,
                refused: number(6)?,
                held: number(7)?,
            })
        };
        counts().map_err(|failed: StatementError| failed.error(link.shown()))
    }
}

fn noted((name, stored): (String, Result<StoredLogin>)) -> (LoginNotes, Result<Snapshot>) {
    let known = stored.as_ref().ok();
    let notes = LoginNotes {
        name,
        lease: known.and_then(|stored| stored.lease.clone()),
        sender: known.and_then(|stored| stored.sender.clone()),
        refused: known.and_then(|stored| stored.refused.clone()),
        is_dead: known.is_some_and(|stored| stored.state == LoginState::Refused),
        is_held: known.is_some_and(|stored| stored.state == LoginState::Held),
    };
    (notes, stored.map(|stored| stored.snapshot))
}
