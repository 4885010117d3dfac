//! Renews Feishu (Lark) user access tokens, and keeps the login through crashes, full disks and runs at the same time.
//!
//! A user token lives about two hours. It is renewed with a refresh token that works once: the reply holds the next
//! pair, and whoever loses the reply must ask a person to consent in a browser again. This crate makes sure that the
//! next pair can be saved, spends the refresh token, saves the pair durably, and only then returns the new access
//! token. Any number of programs can do so on one INI file at once; for more than one machine, PostgreSQL replaces the
//! file.
//!
//! [`refresh_user_access_token`] does all of it in one call; [`blocking`] has the same without async. [`refresh()`]
//! takes every setting and returns more. The [`Kind`] of an [`Error`] says what to do: run again, ask the user, or fix
//! the configuration.
//!
//! # Example
//!
//! ```
//! use feishu_refresh::{Kind, blocking::refresh_user_access_token};
//!
//! # #[allow(dead_code)]
//! # #[path = "../tests/sandbox/server.rs"] mod sandbox;
//! # let server = sandbox::Sandbox::start().unwrap();
//! # let folder = tempfile::tempdir().unwrap();
//! # let file = &folder.path().join("feishu-config.ini");
//! # std::fs::write(file, server.config_file()).unwrap();
//! // Tokens come from the file; `Some(…)` would replace them.
//! match refresh_user_access_token(None, None, Some(file)) {
//!     Ok(token) => println!("a fresh token of {} characters", token.len()),
//!     Err(error) if error.kind() == Kind::Reauthorize => println!("consent is needed: {error}"),
//!     Err(error) if error.kind() == Kind::Temporary => println!("later, perhaps: {error}"),
//!     Err(error) => return Err(error),
//! }
//! # assert_eq!(server.requests().len(), 1);
//! # Ok::<(), feishu_refresh::Error>(())
//! ```
//!
//! With your own settings, and only if the saved token is valid for less than ten minutes:
//!
//! ```no_run
//! use std::time::Duration;
//! use feishu_refresh::{Options, blocking::refresh};
//!
//! let mut options = Options::default();
//! options.profile = "bot".to_owned();
//! options.min_ttl = Some(Duration::from_secs(600));
//! let outcome = refresh(&options)?;
//! println!("valid until {:?}", outcome.expires_at);
//! // Async, under any runtime: feishu_refresh::refresh(options).await?
//! # Ok::<(), feishu_refresh::Error>(())
//! ```
//!
//! With logins in PostgreSQL, for more than one machine ([`Database`]):
//!
//! ```no_run
//! use feishu_refresh::{Database, Options, blocking::refresh};
//!
//! let key = std::fs::read_to_string("/etc/feishu-refresh.key")?;
//! let mut options = Options::default();
//! options.store = Some(Database::new("postgres://feishu@db.example/feishu", key));
//! options.profile = "bot".to_owned();
//! println!("valid until {:?}", refresh(&options)?.expires_at);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a caller should know
//!
//! - A refresh runs on its own thread and continues until it is saved even if the future is dropped, as
//!   long as the process lives. Signals are up to the caller: the program defers them meanwhile, the
//!   library does not.
//! - Warnings, and at the level *info* each request, go to the [`log`] crate. They contain no secret.
//! - Secrets are [`SecretString`]s: their `Debug` text is redacted, and [`ExposeSecret`] gives access.

#![cfg_attr(
    not(feature = "postgres"),
    allow(dead_code, reason = "some of it is used only by database stores")
)]

#[macro_use]
mod fail;

#[doc(hidden)]
pub mod cli;
mod client;
mod driver;
mod error;
mod exchange;
mod fleet;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod login;
mod platform;
mod profile;
mod protocol;
mod refresh;
mod store;
mod text;
mod token;
mod worker;

use std::path::Path;
use std::thread;

use tokio::sync::oneshot;

pub use jiff::Timestamp;

pub use error::{Error, Hint, Kind, Result, ServerAnswer};
pub use protocol::Api;
use refresh::Library;
pub use refresh::{Options, Outcome};
pub use store::database::Database;
pub use token::{ExposeSecret, SecretString, Tokens};

/// Renews the `user_access_token` of `[TOKEN]` in `config_file`, and returns the new one.
///
/// What is not given is read from the file, which defaults to `feishu-config.ini` in
/// the working directory. The rotated pair is in the file before this returns.
///
/// The work continues on its own thread even if the returned future is dropped: after a token is spent, its successor
/// is saved as long as the process lives.
///
/// # Errors
/// See [`Kind`] for what each failure means for the refresh token.
pub async fn refresh_user_access_token(
    app_access_token: Option<&str>,
    refresh_token: Option<&str>,
    config_file: Option<&Path>,
) -> Result<String> {
    let outcome = refresh(options(app_access_token, refresh_token, config_file)).await?;
    Ok(outcome.access_token.expose_secret().to_owned())
}

/// Refreshes one profile as `options` say.
///
/// Works under any async runtime, and continues if the future is dropped, as
/// [`refresh_user_access_token`] does.
///
/// # Errors
/// See [`Kind`] for what each failure means for the refresh token.
pub async fn refresh(options: Options) -> Result<Outcome> {
    let (hand_over, result) = oneshot::channel();
    let work = move || {
        // The caller may be gone; the file has the result anyway.
        let _ = hand_over.send(refresh::run(&options, &mut Library, || {}));
    };
    thread::Builder::new()
        .name("feishu-refresh".to_owned())
        .spawn(work)
        .map_err(|error| worker::no_thread(&error))?;
    result
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Unexpected, "the refresh broke off")))
}

fn options(
    app_access_token: Option<&str>,
    refresh_token: Option<&str>,
    config_file: Option<&Path>,
) -> Options {
    let defaults = Options::default();
    Options {
        app_access_token: app_access_token.map(SecretString::from),
        refresh_token: refresh_token.map(SecretString::from),
        config_file: config_file.map_or_else(|| defaults.config_file.clone(), Path::to_owned),
        ..defaults
    }
}

/// The same functions for callers without async.
pub mod blocking {
    use super::{ExposeSecret, Library, Options, Outcome, Path, Result, thread};

    /// As [`super::refresh_user_access_token`], but waits.
    ///
    /// # Errors
    /// See [`super::Kind`].
    pub fn refresh_user_access_token(
        app_access_token: Option<&str>,
        refresh_token: Option<&str>,
        config_file: Option<&Path>,
    ) -> Result<String> {
        let options = super::options(app_access_token, refresh_token, config_file);
        let outcome = refresh(&options)?;
        Ok(outcome.access_token.expose_secret().to_owned())
    }

    /// As [`super::refresh`], but waits. May be called within an async runtime, whose thread it then blocks.
    ///
    /// # Errors
    /// See [`super::Kind`].
    pub fn refresh(options: &Options) -> Result<Outcome> {
        // On its own thread, since a runtime cannot be started inside another.
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .spawn_scoped(scope, || super::refresh::run(options, &mut Library, || {}));
            let done = thread
                .map_err(|error| super::worker::no_thread(&error))?
                .join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
