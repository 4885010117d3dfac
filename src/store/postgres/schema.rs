//! The tables, and how they are created.
//!
//! Promises:
//! - A change of the tables only adds to them, as a new step after the others.
//! - Tables of an unknown version are not touched.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::statement_error::{StatementError, field};

/// The version of the tables that this program works with: as many steps as there are.
pub(super) const VERSION: i32 = 2;

/// How long setting up may take: others may use the tables meanwhile.
const LIMIT: Duration = Duration::from_secs(60);

/// The steps, each from one version to the next. If two runs set up at once, both may take a step: it does nothing the
/// second time.
const STEPS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// Whether this server is read-only.
pub(super) const IS_READ_ONLY: &str =
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";

/// What a run must know before it uses the tables.
pub(super) const WHAT_IS_THERE: &str = "\
SELECT version, pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
       store_id::text, clock_timestamp()
FROM feishu_refresh.meta";

const VERSION_THERE: &str = "SELECT version FROM feishu_refresh.meta";

/// Concurrent set-ups wait for each other.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('feishu_refresh'));";

/// All steps, as a DBA can run them.
pub(crate) fn sql() -> String {
    format!("BEGIN;\n{ALONE}\n\n{}\nCOMMIT;\n", STEPS.join("\n"))
}

/// Creates the tables, or updates them. Returns from which version, 0 for none.
pub(super) async fn set_up(client: &Client, host: &str) -> Result<i32, StatementError> {
    let there = version_there(client, host).await?;
    if there > VERSION {
        return Err(StatementError::unknown_version(there, VERSION));
    }
    let missing = STEPS
        .iter()
        .skip(usize::try_from(there).unwrap_or_default());
    let missing: Vec<&str> = missing.copied().collect();
    if !missing.is_empty() {
        let script = format!("BEGIN;\n{ALONE}\n{}\nCOMMIT;", missing.join("\n"));
        let done = timeout(LIMIT, client.batch_execute(&script)).await;
        let done = done.map_err(|_| StatementError::slow(LIMIT))?;
        done.map_err(|error| StatementError::of(&error, host))?;
    }
    Ok(there)
}

async fn version_there(client: &Client, host: &str) -> Result<i32, StatementError> {
    let asked = timeout(LIMIT, client.query_typed(VERSION_THERE, &[])).await;
    match asked.map_err(|_| StatementError::slow(LIMIT))? {
        Ok(rows) => rows.first().map_or(Ok(0), |row| field(row, 0)),
        Err(error) => match StatementError::of(&error, host) {
            none if none.is_no_tables() => Ok(0),
            lost => Err(lost),
        },
    }
}
