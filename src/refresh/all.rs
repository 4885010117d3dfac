//! A run over all profiles of a file. [`story`] tells it for one of them; they all go side by side.
//!
//! Promises:
//! - One lock for all. Each profile's pair is in the journal the moment it arrives, in the file within
//!   a tenth of a second, and reported after that (P2, P7).
//! - Requests to one app of one host are spaced evenly, and few are under way at once ([`lanes`]). An
//!   app token is fetched once for each app ([`app_tokens`]).
//! - One profile's failure stops no other. Who listens slowly stops nothing: this thread tells, and
//!   another one works.
//! - A signal waits until what was sent is saved; until then nothing new is sent (P6).

mod app_tokens;
mod due;
mod lanes;
mod saving;
mod story;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, Scope};
use std::time::Duration;

use tokio::sync::oneshot;

use super::attempts::Clients;
use super::{AfterSave, Caller, Options, Outcome, runtime};
use crate::config::{self, Group, View};
use crate::error::{Error, Hint, Result};
use app_tokens::AppTokens;
use due::{due, tell_lasting};
use lanes::Lanes;
use story::AllProfiles;

/// What became of one profile.
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

/// Who hears what becomes of the profiles. It may listen as slowly as it likes.
pub(crate) trait Audience {
    /// These are the profiles of the file, in its order.
    fn expect(&mut self, profiles: &[String]);
    /// This is what became of one of them.
    fn settled(&mut self, index: usize, settled: Settled);
    /// The run may end here: what was put off is to be said now.
    fn last_words(&mut self);
}

/// What the working thread has to say.
enum Event {
    Settled(usize, Settled),
    /// A signal will do its work once this is answered, or the listener is too slow for it.
    LastWords(mpsc::Sender<()>),
}

/// A caller's hands on the working thread.
pub(crate) trait Helper: Send {
    /// Signals that waited do their work now, on this thread.
    fn deliver_signals(&mut self);
    /// From now on, they wait again.
    fn defer_signals(&mut self);
    /// From now on, they do it at once, even if the listener is busy.
    fn let_signals_go(&mut self);
    /// From now on, `tell` is called when a signal waits.
    fn when_a_signal_waits(&mut self, tell: Box<dyn Fn() + Send>);
    /// What is to be done once a pair is saved; it may take long.
    fn after_save(&mut self, profile: &str, news: &config::News<'_>) -> Option<AfterSave>;
}

/// Refreshes all profiles of a file that have a refresh token, with at least `spacing` between two
/// requests to one app. Signals are still put off when it returns, if something must be told first.
///
/// # Errors
/// [`crate::Kind::Config`], [`crate::Kind::Temporary`] if it cannot begin: then nothing was sent.
pub(crate) fn run(
    options: &Options,
    spacing: Duration,
    caller: &mut dyn Caller,
    helper: Box<dyn Helper>,
    audience: &mut dyn Audience,
) -> Result<()> {
    let path = std::path::absolute(&options.config_file);
    let path = path.unwrap_or_else(|_| options.config_file.clone());
    let before = config::look_at_all(&path, options.given()).ok();
    if let Some(profiles) = &before
        && tell_lasting(profiles, options, audience)?
    {
        return Ok(());
    }
    let deadline = options.lock_deadline();
    let locked = config::lock_all(&path, options.given(), before.as_ref(), deadline)?;
    let names = locked.profiles().names();
    if names.is_empty() {
        return Err(no_profiles(&path));
    }
    audience.expect(&names);
    let due = due(&locked, &names, before.as_ref(), options, audience);
    drop(before);
    let views: Vec<View<'_>> = due
        .iter()
        .map(|(_, name)| locked.profiles().view(name))
        .collect::<Result<_>>()?;
    let reply_lost = locked.reply_lost();
    caller.defer_signals();
    let (ledger, proofs) = locked.reserve(&views)?;
    drop(views);
    let mut sound = Vec::new();
    for (profile, proof) in due.into_iter().zip(proofs) {
        match proof {
            Ok(()) => sound.push(profile),
            Err(error) => audience.settled(profile.0, Err(error).into()),
        }
    }
    let runtime = runtime(caller)?;
    let shield = caller.shield_thread();
    thread::scope(|scope| {
        let groups = worker(scope, shield, Group::save);
        let works = worker(scope, shield, |work: AfterSave| work());
        let (events, news) = mpsc::channel();
        let sound = &sound;
        scope.spawn(move || {
            shield();
            let all = AllProfiles {
                options,
                ledger: RefCell::new(ledger),
                reply_lost,
                waiting: RefCell::default(),
                groups,
                works,
                events,
                clients: Clients::new(options),
                lanes: Lanes::new(spacing, options.max_wait),
                app_tokens: AppTokens::default(),
                unanswered: Cell::new(sound.len()),
                at_stake: Cell::new(0),
                changed: tokio::sync::Notify::new(),
                helper: RefCell::new(helper),
            };
            let must_be_told = runtime.block_on(all.refresh(sound));
            runtime.shutdown_background();
            let AllProfiles { ledger, helper, .. } = all;
            drop(ledger);
            if !must_be_told {
                helper.into_inner().let_signals_go();
            }
        });
        for event in news {
            match event {
                Event::Settled(index, settled) => audience.settled(index, settled),
                Event::LastWords(said) => {
                    audience.last_words();
                    let _ = said.send(());
                }
            }
        }
    });
    Ok(())
}

/// Some work, and who wants to hear what came of it.
type Job<Work, Done> = (Work, oneshot::Sender<Done>);

/// A thread that does one job after the other, until nobody has any more.
fn worker<'scope, Work: Send + 'scope, Done: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    shield: fn(),
    done: fn(Work) -> Done,
) -> mpsc::Sender<Job<Work, Done>> {
    let (jobs, inbox) = mpsc::channel::<Job<Work, Done>>();
    scope.spawn(move || {
        shield();
        for (work, answer) in inbox {
            // Whoever asked waits for it.
            let _ = answer.send(done(work));
        }
    });
    jobs
}

/// A profile's place in the file's order, and its name.
type Profile<'a> = (usize, &'a String);

fn no_profiles(path: &Path) -> Error {
    let message = format!("{} has no section with a refresh_token", path.display());
    Error::config(message).with_hint(Hint::fixed(
        "feishu-refresh login makes one; -c names another file",
        "可用 feishu-refresh login 创建；用 -c 指定其他文件",
    ))
}
