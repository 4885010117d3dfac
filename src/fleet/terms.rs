//! What those say to each other who take part in a run over many logins: the caller, the thread that tells and
//! the one that works.

use std::sync::mpsc;

use crate::error::{Error, Result};
use crate::profile::Snapshot;
use crate::refresh::{News, Options, Outcome, outcome};

/// What became of one login.
pub(crate) struct Settled {
    /// Its tokens, if they are good and saved.
    pub(crate) outcome: Option<Outcome>,
    /// What went wrong; beside an outcome, the command after the save.
    pub(crate) error: Option<Error>,
}

impl From<Result<Outcome>> for Settled {
    fn from(result: Result<Outcome>) -> Self {
        let (outcome, error) = match result {
            Ok(outcome) => (Some(outcome), None),
            Err(error) => (None, Some(error)),
        };
        Settled { outcome, error }
    }
}

/// Who hears what becomes of the logins. It may listen as slowly as it likes.
pub(crate) trait Audience {
    /// There are so many logins, and this is their order. Not called for a store that has none.
    fn expect(&mut self, all: usize);
    /// This is what became of one of them.
    fn settled(&mut self, index: usize, name: &str, settled: Settled);
    /// The run may end here: what was put off is to be said now.
    fn last_words(&mut self);
}

/// What the working thread has to say.
pub(super) enum Event {
    Expect(usize),
    Settled(usize, String, Settled),
    /// A signal will do its work once this is answered, or the listener is too slow for it.
    LastWords(mpsc::Sender<()>),
}

/// What a caller wants done once a pair is saved.
pub(crate) type AfterSave = Box<dyn FnOnce() -> Result<()> + Send>;

/// A caller's hands on the working thread.
pub(crate) trait Helper: Send {
    /// Signals that waited do their work now, on this thread.
    fn deliver_signals(&mut self);
    /// From now on, they wait again.
    fn defer_signals(&mut self);
    /// From now on, they do it at once, even if the listener is busy.
    fn let_signals_go(&mut self);
    /// From now on, `tell` is called when a signal waits.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if the system has no thread for it.
    fn when_a_signal_waits(&mut self, tell: Box<dyn Fn() + Send>) -> Result<()>;
    /// Whether something is to be done once a pair is saved.
    fn follows_saves(&self) -> bool;
    /// What that is; it may take long.
    fn after_save(&mut self, news: &News<'_>) -> Option<AfterSave>;
}

/// What became of a login that is left out: its token is told where it is known to live long enough.
pub(super) fn left_out(snapshot: &Snapshot, options: &Options) -> Settled {
    let view = snapshot.with(options.given());
    let lasting = view.ok().and_then(|view| {
        let tokens = options.lasting(&view)?;
        outcome(tokens.clone(), view.api(), false).ok()
    });
    Settled {
        outcome: lasting,
        error: None,
    }
}

/// How a run ended.
pub(super) struct Done {
    /// Whether a login has a pair that nothing but the telling keeps.
    pub(super) must_be_told: bool,
    /// Why it could not go on.
    pub(super) error: Option<Error>,
}
