//! Moves a login from a file into a database.
//!
//! Promise: whenever a run may use it, it is in exactly one of the two. First it is committed to the database, held
//! back, so that no run can claim it there; then it is removed from the file, durably; then it is freed. If killed in
//! between, the same import continues from there: a login that is held back takes the file's current token, since a run
//! on the file may have come first, or is freed if the file has none. Its token identifies it as this file's: the file
//! has it, or has spent it.

use std::time::Instant;

use super::file::{Emptying, FileStore};
use super::postgres::{FoundLogin, ImportedLogin, PostgresStore};
use crate::error::{Error, Hint, Result};
use crate::profile::{Overrides, Snapshot, View};
use crate::token::Fingerprint;

/// The result for one login of the file.
pub(crate) enum ImportResult {
    /// It is in the database, and no longer in the file.
    Now,
    /// It was there already, and is no longer in the file, either.
    Before,
}

/// Moves the logins of a file, or the one of this name, and reports each.
///
/// # Errors
/// The first failure. What was reported has moved anyway, and the rest can be moved later.
pub(crate) async fn import(
    file: &FileStore,
    store: &PostgresStore,
    only: Option<&str>,
    deadline: Instant,
    tell: &mut dyn FnMut(&str, Result<ImportResult>),
) -> Result<()> {
    // Before the file is touched: the database must be there.
    store.run.check(deadline).await?;
    let mut emptying = file.open_to_empty(deadline)?;
    let names = emptying.names();
    if let Some(only) = only.filter(|only| !names.iter().any(|name| name == only)) {
        let file = file.path().display();
        return Err(Error::config(format!("{file} has no login [{only}]")));
    }
    for name in names
        .iter()
        .filter(|name| only.is_none_or(|only| only == *name))
    {
        match move_one(&mut emptying, file, store, name, deadline).await {
            Ok(Some(moved)) => tell(name, Ok(moved)),
            Ok(None) => {}
            Err(error) => tell(name, Err(error)),
        }
    }
    Ok(())
}

/// Moves one login; none if there is nothing to move.
async fn move_one(
    emptying: &mut Emptying,
    file: &FileStore,
    store: &PostgresStore,
    name: &str,
    deadline: Instant,
) -> Result<Option<ImportResult>> {
    let snapshot = emptying.snapshot(name)?;
    let mut known = emptying.spent(&snapshot);
    let Some(token) = snapshot.fingerprint() else {
        return go_on(emptying, store, name, &known, deadline).await;
    };
    known.push(token);
    let imported = imported(&snapshot, emptying.may_be_spent(token))?;
    let found = store.run.hold(name, &imported, &known, deadline).await?;
    fail_point!("after-hold");
    match found {
        FoundLogin::Held | FoundLogin::Same => known = vec![token],
        // The file is an old copy.
        FoundLogin::Successor(held) => known = vec![held],
        FoundLogin::Spent => return Err(old_copy(file, store, name)),
        FoundLogin::Other(why) => return Err(conflict(file, store, name, why)),
    }
    store.run.check_opens(name, deadline).await?;
    emptying.take_out(name, token, store.shown())?;
    fail_point!("before-free");
    store.run.free(name, &known, deadline).await?;
    fail_point!("after-free");
    Ok(Some(match found {
        FoundLogin::Held => ImportResult::Now,
        _ => ImportResult::Before,
    }))
}

/// Completes a move: the file no longer has a token of this login.
async fn go_on(
    emptying: &mut Emptying,
    store: &PostgresStore,
    name: &str,
    known: &[Fingerprint],
    deadline: Instant,
) -> Result<Option<ImportResult>> {
    if !store.run.holds_back(name, known, deadline).await? {
        return Ok(None);
    }
    store.run.check_opens(name, deadline).await?;
    emptying.finish(name)?;
    store.run.free(name, known, deadline).await?;
    Ok(Some(ImportResult::Now))
}

fn imported(snapshot: &Snapshot, may_be_spent: bool) -> Result<ImportedLogin> {
    let view = View::of(snapshot, Overrides::default())?;
    // Nobody could fix it in the store.
    view.check_own_token()?;
    Ok(ImportedLogin {
        api: view.api(),
        tokens: view.tokens().clone(),
        app_and_addresses: view.app_and_addresses()?,
        app_token: snapshot.profile.app_access_token.clone(),
        app_token_end: snapshot.profile.app_expires_at,
        may_be_spent,
    })
}

fn old_copy(file: &FileStore, store: &PostgresStore, name: &str) -> Error {
    let (file, store) = (file.path().display(), store.shown());
    let message = format!(
        "[{name}] of {file} stays there: it is an old copy, {store} has the successor of its refresh token"
    );
    Error::config(message).with_hint(Hint::fixed(
        "remove the refresh_token from that section: it is spent",
        "请从该节移除 refresh_token：它已被使用",
    ))
}

fn conflict(file: &FileStore, store: &PostgresStore, name: &str, why: &str) -> Error {
    let (file, store) = (file.path().display(), store.shown());
    let message = format!("[{name}] of {file} stays there: {store} has {why}");
    Error::config(message).with_hint(Hint::fixed(
        "give the section another name, and import it again; or keep the store's login, and remove the file's refresh_token",
        "请将该节改名后重新导入；或保留数据库中的登录，并移除文件中的 refresh_token",
    ))
}
