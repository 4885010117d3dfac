//! The progress of a run over many logins.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::facts::AppKey;
use super::sealing::Keys;
use super::statements::ManyStatements;
use crate::error::{Error, Hint, Kind};
use crate::store::many::Due;

/// An app whose logins failed this often in a row, for transient reasons, is skipped.
const MOST_FAILURES: u32 = 32;

/// The state of a round: of a run over many logins.
#[derive(Default)]
pub(super) struct Round {
    /// When it began, by the database's clock.
    pub(super) began: Cell<Option<Timestamp>>,
    /// How many logins of each app failed in a row.
    failures: RefCell<HashMap<AppKey, u32>>,
    /// Logins whose lease this run may still have, and does not claim again.
    pub(super) left_alone: RefCell<BTreeSet<String>>,
    /// Why it cannot go on; reported once all claimed logins are done.
    pub(super) error: RefCell<Option<Error>>,
    /// Since when there are due logins that it cannot claim, with none in progress.
    pub(super) idle_since: Cell<Option<Instant>>,
    /// Held while claiming.
    pub(super) claiming: Mutex<()>,
    statements: OnceCell<ManyStatements>,
}

impl Round {
    pub(super) fn is_begun(&self) -> bool {
        self.began.get().is_some()
    }

    /// A login of this app was refreshed.
    pub(super) fn has_worked(&self, app: &AppKey) {
        self.failures.borrow_mut().remove(app);
    }

    /// The refresh of a login of this app ended in an error.
    pub(super) fn has_failed(&self, app: &AppKey, error: &Error) {
        let mut failures = self.failures.borrow_mut();
        if error.kind() == Kind::Temporary {
            *failures.entry(app.clone()).or_default() += 1;
        } else {
            failures.remove(app);
        }
    }

    /// The error for which an app is skipped, if it is.
    pub(super) fn given_up(&self, app: &AppKey, store: &str) -> Option<Error> {
        let failures = self.failures.borrow();
        failures
            .get(app)
            .filter(|failed| **failed >= MOST_FAILURES)?;
        let id = &app.0;
        let message = format!(
            "{store}: the last {MOST_FAILURES} logins of the app {id} have failed; its others were left for the next run"
        );
        Some(Error::temporary(message).with_hint(Hint::fixed("run again later", "请稍后重试")))
    }

    pub(super) fn statements(&self, due: &Due, keys: &Keys) -> &ManyStatements {
        let (min_ttl, keep_alive) = (due.min_ttl.is_some(), due.keep_alive.is_some());
        let new = || ManyStatements::new(min_ttl, keep_alive, &keys.ids());
        self.statements.get_or_init(new)
    }
}
