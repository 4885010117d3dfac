//! The story of one refresh: lock, read, make room, send, save, hand over. Read this file first.
//!
//! [`refresh()`] tells it. The types carry its rules: only a locked file can make room, and only room
//! can save, once. [`attempts`] sends, and alone decides about sending again; one round of the loop
//! sends one request, so that between any two the file is read anew and signals count. [`failure`]
//! finds the words for what went wrong and what became of the token.

pub(crate) mod all;
pub(crate) mod attempts;
pub(crate) mod failure;
pub(crate) mod retries;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use tokio::runtime::{self, Runtime};

use crate::client::Settings;
use crate::config::{self, Given, LockedFile, Place, View};
use crate::error::{Error, Kind, Result};
use crate::protocol::Api;
use crate::token::Tokens;
use attempts::{Answer, Attempts, Clients};

/// What to refresh, and how patiently.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The INI file.
    pub config_file: PathBuf,
    /// The section of the file.
    pub profile: String,
    /// An `app_access_token` to use in place of the file's.
    pub app_access_token: Option<SecretString>,
    /// A refresh token to use in place of the file's, unless the file knows it to be spent.
    pub refresh_token: Option<SecretString>,
    /// The app's id, in place of the file's.
    pub app_id: Option<String>,
    /// The app's secret, in place of the file's.
    pub app_secret: Option<SecretString>,
    /// The ticket of an app from the store, in place of the file's.
    pub app_ticket: Option<SecretString>,
    /// Narrows the new token to these scopes, separated by spaces; [`Api::V2`] only.
    /// `offline_access` is added.
    pub scope: Option<String>,
    /// The token endpoint, in place of the file's `api`.
    pub api: Option<Api>,
    /// Lark, the international service, in place of Feishu and of the file's `base_url`.
    pub lark: bool,
    /// Another address for the token endpoints, in place of all others.
    pub base_url: Option<String>,
    /// Do nothing but return the saved token while it lives longer than this.
    pub min_ttl: Option<Duration>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many further attempts follow a temporary failure.
    pub retries: u32,
    /// The longest wait that a server may ask for; after a longer one the run ends.
    pub max_wait: Duration,
    /// How long to wait for other runs on the same file.
    pub lock_timeout: Duration,
    /// A PEM file with CA certificates to trust beside the built-in ones and the system's.
    pub ca_cert: Option<PathBuf>,
}

impl Default for Options {
    /// The program's own defaults: `[TOKEN]` of `feishu-config.ini` in the working directory.
    fn default() -> Self {
        Options {
            config_file: PathBuf::from("feishu-config.ini"),
            profile: "TOKEN".to_owned(),
            app_access_token: None,
            refresh_token: None,
            app_id: None,
            app_secret: None,
            app_ticket: None,
            scope: None,
            api: None,
            lark: false,
            base_url: None,
            min_ttl: None,
            timeout: Duration::from_secs(30),
            retries: 3,
            max_wait: Duration::from_secs(90),
            lock_timeout: Duration::from_secs(180),
            ca_cert: None,
        }
    }
}

/// A valid access token, and what belongs to it. Everything in it is on disk.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The token to use.
    pub access_token: SecretString,
    /// When it ends, if the server said so.
    pub expires_at: Option<Timestamp>,
    /// What it may be used for, separated by spaces, if the server said so.
    pub scope: Option<String>,
    /// The refresh token that the file holds now.
    pub refresh_token: Option<SecretString>,
    /// When that one ends, if the server said so.
    pub refresh_expires_at: Option<Timestamp>,
    /// Whether this run rotated; if not, the file had a token that lasts, or another run got one
    /// while this one waited for it.
    pub refreshed: bool,
    /// The endpoint that was used.
    pub api: Api,
}

/// What a refresh leaves to its caller. The program puts signals off while a token is at stake (P6)
/// and runs a command after the save; a library must not touch its caller's signals.
pub(crate) trait Caller {
    /// From now on, signals wait.
    fn defer_signals(&mut self);
    /// Those that waited do their work now, and later ones at once.
    fn deliver_signals(&mut self);
    /// What a helper thread does first: a signal must not find a thread that lets it through.
    fn shield_thread(&self) -> fn();
    /// What a server gave is on disk, perhaps without an access token. The file stays locked, and
    /// signals wait, until this returns.
    fn saved(&mut self, api: Api, tokens: &Tokens);
}

/// What a caller does once a pair is saved.
pub(crate) type AfterSave = Box<dyn FnOnce() -> Result<()> + Send>;

/// Does nothing of it.
pub(crate) struct Library;

impl Caller for Library {
    fn defer_signals(&mut self) {}
    fn deliver_signals(&mut self) {}
    fn shield_thread(&self) -> fn() {
        || {}
    }
    fn saved(&mut self, _: Api, _: &Tokens) {}
}

/// Spends the profile's refresh token, saves its successor, and returns the new access token.
///
/// `before` is what the file said before this run queued for it.
///
/// # Errors
/// See [`Kind`]: each kind says what became of the refresh token. With [`Kind::Unsaved`], signals
/// are still put off, so that the caller can save what the error holds.
async fn refresh(
    options: &Options,
    place: Place<'_>,
    before: Option<View<'_>>,
    caller: &mut dyn Caller,
) -> Result<Outcome> {
    let (given, deadline) = (options.given(), options.lock_deadline());
    let lock = || config::lock(place, given, before.as_ref(), deadline);
    let mut file = locked(place, caller, lock)?;
    let clients = Clients::new(options);
    let mut attempts = Attempts::new(options, &clients);
    loop {
        let api = file.view().api();
        let shared = file.saved_since(before.as_ref(), Timestamp::now());
        if let Some(saved) = shared.or_else(|| options.lasting(file.view())) {
            return outcome(saved.clone(), api, false);
        }
        let order = file.view().order();
        let order = order.map_err(|error| attempts.remember(error))?;
        let client = attempts.client(&order, file.reply_lost())?;
        let pause;
        (file, pause) = if let Some(app) = attempts.app_to_ask(&order) {
            (file, attempts.fetch(&client, &order, app).await?)
        } else {
            caller.defer_signals();
            let room = file.reserve(&order);
            let room = room.map_err(|error| attempts.remember(error))?;
            match attempts.spend(&client, &order).await? {
                Answer::Tokens(received) => {
                    let news = received.tokens.clone();
                    let saved = room.hold(received.tokens, received.app_token).save()?;
                    caller.saved(api, &news);
                    let outcome = outcome(saved.tokens.clone(), api, true);
                    drop(saved);
                    caller.deliver_signals();
                    return received.complaint.map_or(outcome, Err);
                }
                Answer::Again(pause) => (room.release(), pause),
            }
        };
        file = next_turn(file, pause, options, caller)
            .await
            .map_err(|error| attempts.remember(error))?;
    }
}

/// Waits for the next request, and reads the file anew.
async fn next_turn<'a>(
    file: LockedFile<'a>,
    pause: Duration,
    options: &'a Options,
    caller: &mut dyn Caller,
) -> Result<LockedFile<'a>> {
    // Nothing is at stake until then. A file that this run made is given up, so that a signal
    // leaves none behind.
    let place = file.view().place();
    let kept = Some(file).filter(|file| !file.is_made());
    caller.deliver_signals();
    if pause.is_zero() {
        // So short a time that another run hardly gets in between.
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(pause).await;
    }
    let deadline = options.lock_deadline();
    if let Some(file) = kept {
        return file.again(deadline);
    }
    locked(place, caller, || {
        config::lock(place, options.given(), None, deadline)
    })
}

/// Locks a file. While this run's own making of it is all that there is of it, signals wait: none
/// must leave an empty file behind.
pub(crate) fn locked<'a>(
    place: Place<'_>,
    caller: &mut dyn Caller,
    lock: impl FnOnce() -> Result<LockedFile<'a>>,
) -> Result<LockedFile<'a>> {
    if !place.file.exists() {
        caller.defer_signals();
    }
    let file = lock()?;
    if !file.is_made() {
        caller.deliver_signals();
    }
    Ok(file)
}

/// Does what the options ask, on this thread.
pub(crate) fn run(options: &Options, caller: &mut dyn Caller) -> Result<Outcome> {
    // Whoever reads a message may not know the directory it was written in.
    let path = std::path::absolute(&options.config_file);
    let path = path.unwrap_or_else(|_| options.config_file.clone());
    let place = Place {
        file: &path,
        profile: &options.profile,
    };
    let before = config::look(place, options.given()).ok();
    // No lock, no runtime, no TLS: this is asked before every call of an API.
    if let Some((view, tokens)) = before.as_ref().and_then(|v| Some((v, options.lasting(v)?))) {
        config::warn_if_readable_by_others(place);
        return outcome(tokens.clone(), view.api(), false);
    }
    let runtime = runtime(caller)?;
    let result = runtime.block_on(refresh(options, place, before, caller));
    // A name look-up that hangs must not outlast the time-out that gave up on it.
    runtime.shutdown_background();
    result
}

/// What drives the requests, on this thread.
pub(crate) fn runtime(caller: &dyn Caller) -> Result<Runtime> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(caller.shield_thread())
        .build();
    runtime.map_err(|error| Error::temporary(format!("cannot start: {error}; nothing was sent")))
}

impl Options {
    /// The tokens of a file, if they last as long as was asked.
    fn lasting<'v>(&self, view: &'v View<'_>) -> Option<&'v Tokens> {
        let least = SignedDuration::try_from(self.min_ttl?).unwrap_or(SignedDuration::MAX);
        view.lasting(least, Timestamp::now())
    }

    pub(crate) fn lock_deadline(&self) -> Instant {
        const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Instant::now() + self.lock_timeout.min(FOR_EVER)
    }

    /// How to connect.
    pub(crate) fn connection(&self) -> Settings {
        Settings {
            timeout: self.timeout,
            ca_cert: self.ca_cert.clone(),
        }
    }

    /// What came from outside the file.
    pub(crate) fn given(&self) -> Given<'_> {
        Given {
            app_access_token: self.app_access_token.as_ref(),
            refresh_token: self.refresh_token.as_ref(),
            app_id: self.app_id.as_deref(),
            app_secret: self.app_secret.as_ref(),
            app_ticket: self.app_ticket.as_ref(),
            scope: self.scope.as_deref(),
            api: self.api,
            lark: self.lark,
            base_url: self.base_url.as_deref(),
        }
    }
}

/// The outcome that goes with tokens of a file.
pub(crate) fn outcome(tokens: Tokens, api: Api, refreshed: bool) -> Result<Outcome> {
    let access_token = tokens.access_token.ok_or_else(|| {
        Error::new(
            Kind::Unexpected,
            "the file holds no access token after the save",
        )
    })?;
    Ok(Outcome {
        access_token,
        expires_at: tokens.access_expires_at,
        scope: tokens.scope,
        refresh_token: tokens.refresh_token,
        refresh_expires_at: tokens.refresh_expires_at,
        refreshed,
        api,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_lock_timeout_makes_a_deadline() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let deadline = |lock_timeout| {
            let options = Options {
                lock_timeout,
                ..Options::default()
            };
            options.lock_deadline()
        };
        let start = Instant::now();
        assert!(deadline(Duration::MAX) >= start + 100 * YEAR);
        let short = deadline(YEAR);
        assert!(start + YEAR <= short && short <= Instant::now() + YEAR);
    }
}
