//! A run's access to the database: one connection, renewed if it breaks.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::connection::{Connection, Connector};
use super::row::{RowReader, StoredLogin};
use super::sealing::{Keys, random};
use super::statement_error::{ErrorNature, StatementError};
use super::statements::Parameter;
use crate::error::Result;

/// How long to wait for a database that does not answer: a restart takes about as long.
const LONGEST_ABSENCE: Duration = Duration::from_secs(5);

/// How long an unimportant statement may take.
const PASSING: Duration = Duration::from_secs(1);

/// The pauses between two tries: from short ones to one a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Access to the database, and the keys of its secrets.
pub(super) struct Link {
    connector: Connector,
    pub(super) keys: Keys,
    current: Mutex<Option<Rc<Connection>>>,
    store_id: OnceCell<String>,
    clock_ahead: Cell<SignedDuration>,
}

impl Link {
    pub(super) fn new(connector: Connector, keys: Keys) -> Self {
        Link {
            connector,
            keys,
            current: Mutex::default(),
            store_id: OnceCell::new(),
            clock_ahead: Cell::default(),
        }
    }

    /// The address, for messages.
    pub(super) fn shown(&self) -> &str {
        &self.connector.address.shown
    }

    /// The existing connection, or a new one.
    async fn connection(&self) -> Result<Rc<Connection>, StatementError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|known| !known.is_closed()) {
            return Ok(Rc::clone(connection));
        }
        let connection = Rc::new(self.connector.connect().await?);
        let _ = self.store_id.set(connection.store_id.clone());
        self.clock_ahead.set(connection.clock_ahead);
        *current = Some(Rc::clone(&connection));
        Ok(connection)
    }

    /// Runs a statement once.
    ///
    /// # Errors
    /// What went wrong. The connection is not used again.
    pub(super) async fn try_once(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<(Vec<Row>, Rc<Connection>), StatementError> {
        let connection = self.connection().await?;
        match connection.run(statement, parameters).await {
            Ok(rows) => Ok((rows, connection)),
            Err(failed) => {
                let mut current = self.current.lock().await;
                current.take_if(|known| Rc::ptr_eq(known, &connection));
                Err(failed)
            }
        }
    }

    /// Runs a statement before anything is sent; retries, where that can help, until `deadline`.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the database cannot be used now, [`crate::Kind::Config`] if a person
    /// must fix something.
    pub(super) async fn run(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
        deadline: Instant,
    ) -> Result<(Vec<Row>, Rc<Connection>)> {
        self.again(deadline, async || {
            self.try_once(statement, parameters).await
        })
        .await
    }

    /// Does something before anything is sent; retries as [`Self::run`] does.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn again<T>(
        &self,
        deadline: Instant,
        work: impl AsyncFn() -> Result<T, StatementError>,
    ) -> Result<T> {
        let mut pauses = Pauses::default();
        let begun = Instant::now();
        loop {
            let failed = match work().await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let patience = match failed.nature {
                ErrorNature::Passing => deadline,
                ErrorNature::Lasting => deadline.min(begun + LONGEST_ABSENCE),
                ErrorNature::Wrong => begun,
            };
            let pause = pauses.next();
            if Instant::now() + pause > patience {
                return Err(failed.error(self.shown()));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The same, for a statement that returns rows of logins.
    pub(super) async fn logins(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
        is_for_login: bool,
        deadline: Instant,
    ) -> Result<Vec<Result<StoredLogin>>> {
        let (rows, connection) = self.run(statement, parameters, deadline).await?;
        let reader = self.reader(&connection, is_for_login);
        Ok(rows.iter().map(|row| reader.read(row)).collect())
    }

    /// How far the database's clock was ahead when last checked.
    pub(super) fn clock_ahead(&self) -> SignedDuration {
        self.clock_ahead.get()
    }

    pub(super) fn reader<'r>(
        &'r self,
        connection: &Connection,
        is_for_login: bool,
    ) -> RowReader<'r> {
        RowReader {
            keys: &self.keys,
            store: self.shown(),
            clock_ahead: connection.clock_ahead,
            is_for_login,
        }
    }

    /// Runs an unimportant statement if there is a connection, for a limited time. Returns whether it is known to be
    /// done.
    pub(super) async fn try_in_passing(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> bool {
        let current = self.current.lock().await.clone();
        let Some(connection) = current.filter(|known| !known.is_closed()) else {
            return false;
        };
        let done = timeout(PASSING, connection.run(statement, parameters)).await;
        matches!(done, Ok(Ok(_)))
    }

    /// Disconnects from the server, as others may need the connection.
    pub(super) async fn disconnect(&self) {
        let connection = self.current.lock().await.take();
        if let Some(connection) = connection.and_then(Rc::into_inner) {
            connection.close().await;
        }
    }

    /// What identifies this store to the journals of this host.
    ///
    /// # Errors
    /// What went wrong with the database.
    pub(super) async fn store_id(&self, deadline: Instant) -> Result<String> {
        if let Some(known) = self.store_id.get() {
            return Ok(known.clone());
        }
        let (_, connection) = self.run("SELECT 1", &[], deadline).await?;
        Ok(connection.store_id.clone())
    }
}

/// Growing pauses, each a little different, so that waiting runs do not ask all at once.
#[derive(Default)]
pub(super) struct Pauses {
    taken: u32,
}

impl Pauses {
    /// Whether one was taken.
    pub(super) fn is_begun(&self) -> bool {
        self.taken > 0
    }

    pub(super) fn next(&mut self) -> Duration {
        let grown = FIRST_PAUSE.saturating_mul(1 << self.taken.min(10));
        self.taken += 1;
        // Without random numbers they are all equal, which does no harm.
        let [chance] = random().unwrap_or([128]);
        let least = grown.min(LONGEST_PAUSE) / 2;
        least + least.mul_f64(f64::from(chance) / 255.0)
    }
}
