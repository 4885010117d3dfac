//! The messages between the parties of a run over many logins: the caller, the thread that reports and the one that
//! works.

use std::sync::mpsc;

use crate::error::{Error, Result};
use crate::profile::{Snapshot, View};
use crate::refresh::{Options, Outcome, SavedTokens, outcome};

/// What became of one login.
pub(crate) struct LoginResult {
    /// Its tokens, if they are valid and saved.
    pub(crate) outcome: Option<Outcome>,
    /// What went wrong; with an outcome, the failure of the command after the save.
    pub(crate) error: Option<Error>,
}

impl From<Result<Outcome>> for LoginResult {
    fn from(result: Result<Outcome>) -> Self {
        let (outcome, error) = match result {
            Ok(outcome) => (Some(outcome), None),
            Err(error) => (None, Some(error)),
        };
        LoginResult { outcome, error }
    }
}

/// Receives the results of the logins. It may be as slow as it likes.
pub(crate) trait ResultListener {
    /// The number of logins, and their order. Not called for a store without an order.
    fn expect(&mut self, all: usize);
    /// The result of one of them.
    fn settled(&mut self, index: usize, name: &str, settled: LoginResult);
    /// The run may end here: deferred output must be written now.
    fn last_words(&mut self);
}

/// A message from the working thread.
pub(super) enum FleetEvent {
    Expect(usize),
    Settled(usize, String, LoginResult),
    /// A signal takes effect once this is answered, or the listener takes too long.
    LastWords(mpsc::Sender<()>),
}

/// What a caller wants done once a pair is saved.
pub(crate) type AfterSaveCommand = Box<dyn FnOnce() -> Result<()> + Send>;

/// What a caller may do on the working thread.
pub(crate) trait FleetHooks: Send {
    /// Signals that waited take effect now, on this thread.
    fn deliver_signals(&mut self);
    /// From now on, they wait again.
    fn defer_signals(&mut self);
    /// From now on, they take effect at once, even if the listener is busy.
    fn let_signals_go(&mut self);
    /// From now on, `tell` is called when a signal waits.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system cannot start a thread for it.
    fn when_a_signal_waits(&mut self, tell: Box<dyn Fn() + Send>) -> Result<()>;
    /// Whether something is run after each save.
    fn follows_saves(&self) -> bool;
    /// Runs it; it may take long.
    fn after_save(&mut self, saved_tokens: &SavedTokens<'_>) -> Option<AfterSaveCommand>;
}

/// The result for a login that is left out: its token is reported if it is known to be valid long enough.
pub(super) fn left_out(snapshot: &Snapshot, options: &Options) -> LoginResult {
    let view = View::of(snapshot, options.given());
    let still_valid = view.ok().and_then(|view| {
        let tokens = options.still_valid(&view)?;
        outcome(tokens.clone(), view.api(), false).ok()
    });
    LoginResult {
        outcome: still_valid,
        error: None,
    }
}

/// How a run ended.
pub(super) struct FleetResult {
    /// Whether a login has a pair that nothing but the telling keeps.
    pub(super) must_be_told: bool,
    /// Why it could not go on.
    pub(super) error: Option<Error>,
}
