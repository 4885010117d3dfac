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
mod lanes;
mod saving;
mod story;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::attempts::Clients;
use super::{AfterSave, Caller, Options, Outcome, outcome, runtime};
use crate::config::{self, Group, LockedProfiles, Profiles, SavedGroup, View};
use crate::error::{Error, Hint, Result};
use crate::token::Fingerprint;
use app_tokens::AppTokens;
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
    let shield = caller.shield_thread();
    let runtime = runtime(caller)?;
    thread::scope(|scope| {
        let (groups, inbox) = mpsc::channel::<Job<'_>>();
        scope.spawn(move || {
            shield();
            for (group, answer) in inbox {
                // Whoever asked waits for it.
                let _ = answer.send(group.save());
            }
        });
        let (works, inbox) = mpsc::channel::<Work>();
        scope.spawn(move || {
            shield();
            for (work, answer) in inbox {
                let _ = answer.send(work());
            }
        });
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

/// A group to save, and who wants to hear of it.
type Job<'a> = (Group<'a>, oneshot::Sender<SavedGroup<'a>>);

/// What follows a save, and who wants to hear of it.
type Work = (AfterSave, oneshot::Sender<Result<()>>);

/// A profile's place in the file's order, and its name.
type Profile<'a> = (usize, &'a String);

/// Tells of all profiles without a lock or a network, if all of them last as long as was asked.
fn tell_lasting(
    profiles: &Profiles<'_>,
    options: &Options,
    audience: &mut dyn Audience,
) -> Result<bool> {
    let names = profiles.names();
    let mut outcomes = Vec::new();
    for name in &names {
        let Ok(view) = profiles.view(name) else {
            return Ok(false);
        };
        let Some(tokens) = options.lasting(&view) else {
            return Ok(false);
        };
        outcomes.push(outcome(tokens.clone(), view.api(), false)?);
    }
    if outcomes.is_empty() {
        return Ok(false);
    }
    audience.expect(&names);
    for (index, outcome) in outcomes.into_iter().enumerate() {
        audience.settled(index, Ok(outcome).into());
    }
    Ok(true)
}

/// The profiles that something must be sent for. What became of the others is told.
fn due<'n>(
    locked: &LockedProfiles<'n>,
    names: &'n [String],
    before: Option<&Profiles<'n>>,
    options: &Options,
    audience: &mut dyn Audience,
) -> Vec<Profile<'n>> {
    let now = Timestamp::now();
    let owners = owners(locked.profiles(), names);
    let has_tokens = |name: &'n str| {
        let view = locked.profiles().view(name)?;
        let seen = before.and_then(|before| before.view(name).ok());
        let shared = seen.and_then(|seen| locked.saved_since(&view, &seen, now));
        if let Some(tokens) = shared.or_else(|| options.lasting(&view)) {
            return outcome(tokens.clone(), view.api(), false).map(Some);
        }
        let order = view.order()?;
        match owners.get(&Fingerprint::of(&order.refresh_token)) {
            Some(owner) if *owner != name => Err(twin(&order.subject, owner)),
            _ => Ok(None),
        }
    };
    let mut due = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match has_tokens(name).transpose() {
            None => due.push((index, name)),
            Some(result) => audience.settled(index, result.into()),
        }
    }
    due
}

/// Whose each refresh token is: the profile's that has spent it, else the first that holds it.
fn owners<'n>(profiles: &Profiles<'n>, names: &'n [String]) -> HashMap<Fingerprint, &'n str> {
    let view = |name: &'n String| Some((name.as_str(), profiles.view(name).ok()?));
    let views: Vec<_> = names.iter().filter_map(view).collect();
    let mut owners = HashMap::new();
    for (name, view) in &views {
        if let Some(token) = view.fingerprint() {
            owners.entry(token).or_insert(*name);
        }
    }
    for (name, view) in &views {
        for spent in view.spent() {
            owners.entry(spent).and_modify(|owner| *owner = name);
        }
    }
    owners
}

/// The error for a second profile with one refresh token: sent twice, it could end both logins.
fn twin(subject: &str, owner: &str) -> Error {
    let message = format!(
        "{subject}: has the refresh token of [{owner}], which works once; nothing was sent for it"
    );
    Error::config(message).with_hint(Hint::fixed(
        "give each profile a login of its own: feishu-refresh login -p NAME",
        "请为每个 profile 单独登录：feishu-refresh login -p 名称",
    ))
}

fn no_profiles(path: &Path) -> Error {
    let message = format!("{} has no section with a refresh_token", path.display());
    Error::config(message).with_hint(Hint::fixed(
        "feishu-refresh login makes one; -c names another file",
        "可用 feishu-refresh login 创建；用 -c 指定其他文件",
    ))
}
