//! The story of one refresh: claim, plan, reserve, send, save. Read this file first.
//!
//! [`Story::tell`] runs it, for a single login and for one among many. The types carry its rules: only a claim can
//! reserve, and only a reservation can save, once. Only [`attempts`] sends, and decides about retries; one round of the
//! loop sends one request, so that between any two the store is read anew and signals are handled. [`failure`] words
//! what went wrong and what happened to the token. Nothing here knows which store it is.

mod app_tokens;
pub(crate) mod attempts;
pub(crate) mod failure;
mod options;
pub(crate) mod pace;
pub(crate) mod retries;

use std::pin::Pin;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use crate::driver::Driver;
use crate::error::{Error, Kind, Result};
use crate::profile::{Origin, Overrides, RefreshPlan, Snapshot, Successor, View};
use crate::protocol::Api;
use crate::store::open::on_store;
use crate::store::{Claim, Reservation, Reserved, Saved, Store, WantedLogin};
use crate::token::{Tokens, later};
use attempts::{AttemptResult, Attempts, Received, Services};
pub use options::Options;
use pace::Pace;

/// A valid access token and its data. Everything in it is saved.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The token to use.
    pub access_token: SecretString,
    /// When it expires, if the server said so.
    pub expires_at: Option<Timestamp>,
    /// What it may be used for, separated by spaces, if the server said so.
    pub scope: Option<String>,
    /// The refresh token that is saved now.
    pub refresh_token: Option<SecretString>,
    /// When that one expires, if the server said so.
    pub refresh_expires_at: Option<Timestamp>,
    /// Whether this run rotated; if not, the saved token was valid long enough, or another run got one while this one
    /// waited.
    pub refreshed: bool,
    /// The endpoint that was used.
    pub api: Api,
}

/// What a refresh leaves to its caller. The program defers signals while a token is at risk (P6) and runs a command
/// after the save; a library must not touch its caller's signals.
pub(crate) trait Hooks {
    /// From now on, signals wait.
    fn defer_signals(&mut self);
    /// Those that waited take effect now, and later ones at once.
    fn deliver_signals(&mut self);
    /// What a server gave is saved, perhaps without an access token. The login stays claimed, and
    /// signals wait, until this returns.
    fn saved<'a>(&'a mut self, saved_tokens: SavedTokens<'a>) -> AfterSave<'a>;
    /// Tells whether a signal waits: then a failing save is not retried for long.
    fn hurry(&mut self) -> Box<dyn Fn() -> bool> {
        Box::new(|| false)
    }
    /// Whether the action after a save is slow, so that no more may be sent than it can keep up with.
    fn holds_up(&self) -> bool {
        false
    }
}

/// What happens after a save.
pub(crate) type AfterSave<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What a server gave and the store holds.
pub(crate) struct SavedTokens<'n> {
    pub(crate) profile: &'n str,
    pub(crate) api: Api,
    pub(crate) tokens: &'n Tokens,
    /// The environment for a program started now, so that it does not wait for this run.
    pub(crate) lock_name: Option<String>,
}

/// Does none of it.
pub(crate) struct Library;

impl Hooks for Library {
    fn defer_signals(&mut self) {}
    fn deliver_signals(&mut self) {}
    fn saved<'a>(&'a mut self, _: SavedTokens<'a>) -> AfterSave<'a> {
        Box::pin(async {})
    }
}

/// When a login is read again after a refusal, each time this long after the last read.
const LOOKS_AFTER_REFUSAL: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(150),
];

/// The refresh of one login.
pub(crate) struct Story<'s, S> {
    pub(crate) store: &'s S,
    pub(crate) wanted: WantedLogin<'s>,
    pub(crate) options: &'s Options,
    pub(crate) services: &'s Services,
    /// Whether the login is refreshed however long its token is still valid.
    pub(crate) is_due: bool,
}

impl<S: Store> Story<'_, S> {
    /// Spends the login's refresh token, saves its successor, and returns the new access token.
    /// `before` is what the store held before this run queued for it.
    ///
    /// # Errors
    /// See [`Kind`]: each kind says what became of the refresh token. With [`Kind::Unsaved`], signals
    /// are still put off, so that the caller can save what the error holds.
    pub(crate) async fn tell(
        &self,
        claim: S::Claim,
        before: Option<&Snapshot>,
        hooks: &mut dyn Hooks,
    ) -> Result<Outcome> {
        let mut attempts = Attempts::new(self.wanted.profile, self.options, self.services);
        let told = self.tell_with(&mut attempts, claim, before, hooks).await;
        told.map_err(|error| {
            if attempts.has_sent() {
                error
            } else {
                error.before_sending()
            }
        })
    }

    async fn tell_with(
        &self,
        attempts: &mut Attempts<'_>,
        mut claim: S::Claim,
        before: Option<&Snapshot>,
        hooks: &mut dyn Hooks,
    ) -> Result<Outcome> {
        let given = self.wanted.given;
        loop {
            let view = View::of(claim.snapshot(), given)?;
            let before = before.filter(|_| claim.had_company());
            let shared = before.and_then(|before| view.refreshed_since(before));
            let still_valid = || self.options.still_valid(&view).filter(|_| !self.is_due);
            if let Some(saved) = shared.or_else(still_valid) {
                return outcome(saved.clone(), view.api(), false);
            }
            if claim
                .renew()
                .await
                .map_err(|error| attempts.remember(error))?
            {
                continue;
            }
            let view = View::of(claim.snapshot(), given)?;
            let plan = view.plan().map_err(|error| attempts.remember(error))?;
            let client = attempts.client(&plan, claim.may_be_spent(plan.fingerprint()))?;
            if let Some(app) = attempts.app_to_ask(&plan) {
                let pause = attempts
                    .fetch(&client, &plan, app, &mut claim, given)
                    .await?;
                claim = self.next_turn(claim, pause, hooks, attempts).await?;
                continue;
            }
            let permit = attempts.permit(&plan).await?;
            // The wait for the turn may have been long.
            if claim
                .renew()
                .await
                .map_err(|error| attempts.remember(error))?
            {
                continue;
            }
            hooks.defer_signals();
            let origin = Origin::Refresh(&plan.refresh_token);
            let room = match claim.reserve(&origin, given, Some(&plan)).await {
                Ok(Reserved::Room(room)) => room,
                Ok(Reserved::Changed(changed)) => {
                    hooks.deliver_signals();
                    claim = changed;
                    continue;
                }
                Err(error) => return Err(attempts.remember(error)),
            };
            if self.services.pace().is_some_and(Pace::is_closed) {
                // A signal came while space was reserved: it takes effect first.
                claim = room.release();
                hooks.deliver_signals();
                continue;
            }
            let refused = match attempts.spend(&client, &plan).await {
                Ok(AttemptResult::Tokens(received)) => {
                    let _permit = permit.filter(|_| hooks.holds_up());
                    return save(room, &origin, given, *received, hooks).await;
                }
                Ok(AttemptResult::Again(pause)) => {
                    drop(permit);
                    claim = self
                        .next_turn(room.release(), pause, hooks, attempts)
                        .await?;
                    continue;
                }
                Ok(AttemptResult::Unread(reply, error)) => reply_is_kept(&room, &reply, &error),
                Err(error) => error,
            };
            drop(permit);
            let at_sending = room.snapshot().clone();
            claim = self
                .look_before_ending(room.release(), &plan, refused, hooks)
                .await?;
            let view = View::of(claim.snapshot(), given)?;
            if let Some(saved) = view.refreshed_since(&at_sending) {
                return outcome(saved.clone(), view.api(), false);
            }
        }
    }

    /// Claims the login. While the store exists only because this run made it, signals wait: none may leave an empty
    /// one behind.
    pub(crate) async fn claim(&self, hooks: &mut dyn Hooks) -> Result<S::Claim> {
        if self.store.must_be_made() {
            hooks.defer_signals();
        }
        let deadline = self.options.lock_deadline();
        let claim = self.store.claim(self.wanted, deadline).await?;
        if !claim.has_made() {
            hooks.deliver_signals();
        }
        Ok(claim)
    }

    /// A refusal counts only once the login was read again: another program may have renewed it, or be renewing it now
    /// (P8). Goes on only if another token would be sent now.
    ///
    /// # Errors
    /// The refusal.
    async fn look_before_ending(
        &self,
        mut claim: S::Claim,
        plan: &RefreshPlan,
        error: Error,
        hooks: &mut dyn Hooks,
    ) -> Result<S::Claim> {
        // The error holds the only copy of an unsaved reply.
        let is_final = matches!(error.kind(), Kind::Temporary | Kind::Unsaved);
        let has_login = !plan.address.is_whole() && plan.api != Api::Open115;
        let was_spent_before = error.is_of_dead_token() && !error.may_have_spent();
        if claim.has_made() && was_spent_before && has_login {
            return Err(error.with_hint(failure::FRESH_DISK));
        }
        if claim.has_made() || is_final {
            return Err(error);
        }
        let token = plan.fingerprint();
        let is_renewed = |claim: &S::Claim| {
            let now = View::of(claim.snapshot(), self.wanted.given);
            let now = now.and_then(|view| view.plan());
            now.is_ok_and(|now| now.fingerprint() != token)
        };
        for pause in LOOKS_AFTER_REFUSAL {
            rest(pause).await;
            if claim.look_again().await.is_err() {
                return Err(error);
            }
            if is_renewed(&claim) {
                break;
            }
        }
        if !is_renewed(&claim) {
            match claim.note_refusal(token, &error).await {
                // It was renewed just now.
                Ok(false) if claim.look_again().await.is_ok() && is_renewed(&claim) => {}
                _ => return Err(error),
            }
        }
        let level = if error.may_have_spent() {
            log::Level::Warn
        } else {
            log::Level::Info
        };
        log::log!(
            level,
            "{error}; another program has renewed the login meanwhile"
        );
        hooks.deliver_signals();
        Ok(claim)
    }

    /// Waits for the next request, and reads the login anew.
    async fn next_turn(
        &self,
        mut claim: S::Claim,
        pause: Duration,
        hooks: &mut dyn Hooks,
        attempts: &Attempts<'_>,
    ) -> Result<S::Claim> {
        // Nothing is at risk until then.
        let next = if claim.has_made() {
            // Released, so that a signal leaves no reservation behind.
            drop(claim);
            hooks.deliver_signals();
            rest(pause).await;
            self.claim(hooks).await
        } else {
            if !pause.is_zero() {
                claim.rest(pause, attempts.is_in_doubt()).await;
            }
            hooks.deliver_signals();
            rest(pause).await;
            claim.look_again().await.map(|()| claim)
        };
        next.map_err(|error| attempts.remember(error))
    }
}

/// Saves what a server gave, reports it, and only then hands it over.
///
/// # Errors
/// [`Kind::Unsaved`]; or what else is wrong with the reply, once the pair is safe.
pub(crate) async fn save<R: Reservation>(
    room: R,
    origin: &Origin<'_>,
    given: Overrides<'_>,
    received: Received,
    hooks: &mut dyn Hooks,
) -> Result<Outcome> {
    let complaint = match (received.unread, received.complaint) {
        (Some(reply), Some(complaint)) => Some(reply_is_kept(&room, &reply, &complaint)),
        (_, complaint) => complaint,
    };
    let snapshot = room.snapshot().clone();
    let view = View::of(&snapshot, given)?;
    let tokens = received.tokens.by_clock(snapshot.clock_ahead);
    let mut successor = Successor::of(&view, origin, &room.spent(), tokens);
    successor.app_token = received.app_token;
    let app_token = successor.app_token.as_mut();
    if let Some(end) = app_token.and_then(|app| app.expires_at.as_mut()) {
        *end = later(*end, snapshot.clock_ahead);
    }
    let is_rotated = successor.predecessor != successor.fingerprint();
    let makes_store = room.has_made() && is_rotated;
    let (api, tokens) = (successor.api, successor.tokens.clone());
    let takes_place = view.new_token().and(successor.held);
    let saved = match room.save(successor, &*hooks.hurry()).await {
        Ok(saved) => saved,
        Err(error) => return Err(graver(error, complaint)),
    };
    let login = &snapshot.login;
    if takes_place.is_some() {
        log::warn!("{login}: the given refresh token is new here: its login replaces the old one");
    } else if makes_store && view.new_token().is_some() {
        let file = &login.store;
        log::warn!(
            "{login}: the given refresh token is spent now, its successor is in {file}: keep that file"
        );
    }
    let saved_tokens = SavedTokens {
        profile: &snapshot.login.profile,
        api,
        tokens: &tokens,
        lock_name: saved.lock_name(),
    };
    hooks.saved(saved_tokens).await;
    let outcome = outcome(saved.tokens().clone(), api, true);
    drop(saved);
    let is_unsaved = |complaint: &Error| complaint.kind() == Kind::Unsaved;
    if !complaint.as_ref().is_some_and(is_unsaved) {
        hooks.deliver_signals();
    }
    complaint.map_or(outcome, Err)
}

/// Which of two errors ends a run whose save failed; the other is a warning.
fn graver(error: Error, complaint: Option<Error>) -> Error {
    match complaint {
        None => error,
        // What could not be kept holds the only copy of a refresh token.
        Some(complaint) if complaint.kind() == Kind::Unsaved => {
            log::warn!("{error}");
            complaint
        }
        Some(complaint) => {
            log::warn!("{complaint}");
            error
        }
    }
}

/// Keeps a reply that may hold the only copy of a pair: the error then names the place.
pub(crate) fn reply_is_kept<R: Reservation>(room: &R, reply: &[u8], error: &Error) -> Error {
    match room.keep_reply(reply) {
        Ok(reply_is_kept) => failure::naming(error, reply_is_kept),
        Err(lost) => lost,
    }
}

/// Waits, if there is something to wait for; otherwise the next one keeps its turn.
async fn rest(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// Does what the options ask, on this thread. `shield` is what each thread started here does first.
pub(crate) fn run(options: &Options, hooks: &mut dyn Hooks, shield: fn()) -> Result<Outcome> {
    on_store!(options, shield, |store| run_on(
        &store, options, hooks, shield
    ))
}

fn run_on<S: Store>(
    store: &S,
    options: &Options,
    hooks: &mut dyn Hooks,
    shield: fn(),
) -> Result<Outcome> {
    let given = options.given();
    given.check().map_err(Error::before_sending)?;
    let driver = Driver::default();
    let wanted = WantedLogin {
        profile: &options.profile,
        given,
        is_for_login: false,
    };
    let before = store.look(wanted, &driver).ok();
    let view = before
        .as_ref()
        .and_then(|before| View::of(before, given).ok());
    // No lock, no TLS, and for a file no waiting: this runs before every call of an API.
    if let Some(view) = &view
        && let Some(tokens) = options.still_valid(view)
    {
        store.warn();
        return outcome(tokens.clone(), view.api(), false);
    }
    let services = Services::new(options, None, shield);
    let one = Story {
        store,
        wanted,
        options,
        services: &services,
        is_due: false,
    };
    let result = driver.run(async {
        let told = match one.claim(hooks).await {
            Ok(claim) => one.tell(claim, before.as_ref(), hooks).await,
            Err(error) => Err(error.before_sending()),
        };
        // A pair that is saved nowhere is reported before anything else is waited for.
        if !told
            .as_ref()
            .is_err_and(|error| error.kind() == Kind::Unsaved)
        {
            store.give_back(wanted.profile, told.as_ref().err()).await;
            store.close().await;
        }
        told
    });
    or_saved(result.flatten(), view.as_ref(), options)
}

/// If a token that is valid for a while is enough, and nothing can have been spent: the saved one, as long as it is
/// valid at all.
pub(crate) fn or_saved(
    result: Result<Outcome>,
    view: Option<&View<'_>>,
    options: &Options,
) -> Result<Outcome> {
    let error = match result {
        Err(error) if error.kind() == Kind::Temporary && !error.may_have_spent() => error,
        result => return result,
    };
    let view = view.filter(|_| options.min_ttl.is_some());
    let saved = view.and_then(|view| {
        let tokens = view.still_valid(SignedDuration::ZERO)?;
        outcome(tokens.clone(), view.api(), false).ok()
    });
    match saved {
        Some(saved) => {
            log::warn!("{error}; the saved token is still valid and is used");
            Ok(saved)
        }
        None => Err(error),
    }
}

/// The outcome that goes with saved tokens.
pub(crate) fn outcome(tokens: Tokens, api: Api, refreshed: bool) -> Result<Outcome> {
    let access_token = tokens.access_token.ok_or_else(|| {
        Error::new(
            Kind::Unexpected,
            "the login holds no access token after the save",
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
