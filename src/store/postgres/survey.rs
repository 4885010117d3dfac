//! How the logins of a store stand, for who only looks.

use std::time::Instant;

use super::PostgresStore;
use super::row::{State, Stored};
use super::run::no_login;
use super::statements::{self, text};
use crate::error::Result;
use crate::profile::Snapshot;
use crate::store::Notes;

impl PostgresStore {
    /// All logins, or the one of this name, for who only looks.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if there is none of that name, or the database cannot be used as it is;
    /// [`crate::Kind::Temporary`] if it cannot be used now.
    pub(crate) async fn survey(
        &self,
        name: Option<&str>,
    ) -> Result<Vec<(Notes, Result<Snapshot>)>> {
        let link = &self.run.link;
        let now = Instant::now();
        let asked = name.as_ref().map(|name| text(name));
        let (rows, connection) = match &asked {
            None => link.run(statements::LOOK_AT_ALL, &[], now).await?,
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
            .filter(|(_, stored)| !stored.as_ref().is_ok_and(|s| s.state == State::Empty))
            .collect();
        // Where none opens, the key is wrong: that is one error, and no state of logins.
        let opens = all.iter().any(|(_, stored)| stored.is_ok());
        if !opens && let Some((_, Err(error))) = all.pop() {
            return Err(error);
        }
        match name {
            Some(name) if all.is_empty() => Err(no_login(link.shown(), name)),
            _ => Ok(all.into_iter().map(noted).collect()),
        }
    }
}

fn noted((name, stored): (String, Result<Stored>)) -> (Notes, Result<Snapshot>) {
    let known = stored.as_ref().ok();
    let notes = Notes {
        name,
        lease: known.and_then(|stored| stored.lease.clone()),
        sender: known.and_then(|stored| stored.sender.clone()),
        refused: known.and_then(|stored| stored.refused.clone()),
        is_dead: known.is_some_and(|stored| stored.state == State::Refused),
        is_held: known.is_some_and(|stored| stored.state == State::Held),
    };
    (notes, stored.map(|stored| stored.snapshot))
}
