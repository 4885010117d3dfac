//! The story of a run over all profiles of a file. [`AllProfiles::one`] tells it for each of them, as
//! [`super::refresh()`] does for a profile alone; they all go side by side.
//!
//! Promises:
//! - One lock for all. Each profile's pair is in the journal the moment it arrives, in the file within
//!   a tenth of a second, and reported after that (P2, P7).
//! - Requests to one app of one host are spaced evenly, and few are under way at once ([`lanes`]). An
//!   app token is fetched once for each app ([`app_tokens`]).
//! - One profile's failure stops no other.
//! - A signal waits until what was sent is saved; until then nothing new is sent (P6).

mod app_tokens;
mod lanes;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::pin::pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::attempts::{Answer, Attempts, Clients, Received};
use super::{AfterSave, Caller, Options, Outcome, outcome, runtime};
use crate::config::{self, Group, Ledger, LockedProfiles, Order, Profiles, SavedGroup, View};
use crate::error::{Error, Hint, Kind, Result};
use crate::protocol::Api;
use crate::token::Tokens;
use app_tokens::AppTokens;
use lanes::{Lanes, Turn};

/// The file is saved no more often than this.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

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

/// Who hears what becomes of the profiles.
pub(crate) trait Audience {
    /// These are the profiles of the file, in its order.
    fn expect(&mut self, profiles: &[String]);
    /// This is what became of one of them.
    fn settled(&mut self, index: usize, settled: Settled);
}

/// Refreshes all profiles of a file that have a refresh token, with at least `spacing` between two
/// requests to one app.
///
/// # Errors
/// [`Kind::Config`], [`Kind::Temporary`] if it cannot begin: then nothing was sent.
pub(crate) fn run(
    options: &Options,
    spacing: Duration,
    caller: &mut dyn Caller,
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
    thread::scope(|scope| {
        let (groups, inbox) = mpsc::channel::<Job<'_>>();
        let shield = caller.shield_thread();
        scope.spawn(move || {
            shield();
            for (group, answer) in inbox {
                // Whoever asked waits for it.
                let _ = answer.send(group.save());
            }
        });
        let (works, inbox) = mpsc::channel::<(AfterSave, oneshot::Sender<Result<()>>)>();
        scope.spawn(move || {
            shield();
            for (work, answer) in inbox {
                let _ = answer.send(work());
            }
        });
        let runtime = runtime(caller)?;
        let all = AllProfiles {
            options,
            ledger: RefCell::new(ledger),
            waiting: RefCell::default(),
            groups,
            works,
            clients: Clients::new(options),
            lanes: Lanes::new(spacing),
            app_tokens: AppTokens::default(),
            unanswered: Cell::new(sound.len()),
            at_stake: Cell::new(0),
            changed: Notify::new(),
            caller: RefCell::new(caller),
        };
        runtime.block_on(all.refresh(&sound, audience));
        runtime.shutdown_background();
        let AllProfiles { ledger, caller, .. } = all;
        drop(ledger);
        caller.into_inner().deliver_signals();
        Ok(())
    })
}

/// A group to save, and who wants to hear of it.
type Job<'a> = (Group<'a>, oneshot::Sender<SavedGroup<'a>>);

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
    let has_tokens = |name: &'n str| {
        let view = locked.profiles().view(name)?;
        let seen = before.and_then(|before| before.view(name).ok());
        let shared = seen.and_then(|seen| locked.saved_since(&view, &seen, now));
        if let Some(tokens) = shared.or_else(|| options.lasting(&view)) {
            return outcome(tokens.clone(), view.api(), false).map(Some);
        }
        view.order().map(|_| None)
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

fn no_profiles(path: &Path) -> Error {
    let message = format!("{} has no section with a refresh_token", path.display());
    Error::config(message).with_hint(Hint::fixed(
        "feishu-refresh login makes one; -c names another file",
        "可用 feishu-refresh login 创建；用 -c 指定其他文件",
    ))
}

/// A run over many profiles.
struct AllProfiles<'a, 'c> {
    options: &'a Options,
    ledger: RefCell<Ledger<'a>>,
    /// Those whose pairs the ledger keeps, in its order.
    waiting: RefCell<Vec<oneshot::Sender<Result<Tokens>>>>,
    /// Where groups are saved.
    groups: mpsc::Sender<Job<'a>>,
    /// Where the commands run that follow a save.
    works: mpsc::Sender<(AfterSave, oneshot::Sender<Result<()>>)>,
    clients: Clients,
    lanes: Lanes,
    app_tokens: AppTokens,
    /// How many profiles still need an answer.
    unanswered: Cell<usize>,
    /// How many have something under way that a signal must not end.
    at_stake: Cell<usize>,
    /// That one of these changed, or the ledger.
    changed: Notify,
    caller: RefCell<&'c mut dyn Caller>,
}

/// What is next for a profile.
enum Next {
    /// Its tokens last as long as was asked.
    Nothing(Outcome),
    /// This is to be sent.
    Order(Order),
}

/// A pair that is in the journal.
struct Kept {
    /// Tells that it is in the file.
    saved: oneshot::Receiver<Result<Tokens>>,
    api: Api,
    work: Option<AfterSave>,
    complaint: Option<Error>,
}

impl Kept {
    /// Waits until it is saved, and all that follows is done.
    async fn settle(self, all: &AllProfiles<'_, '_>) -> Result<Settled> {
        let lost = || Error::new(Kind::Unexpected, "nobody saved the new pair");
        let tokens = self.saved.await.map_err(|_| lost())??;
        let error = all.after_save(self.work).await.err();
        let settled = Settled::from(match self.complaint {
            Some(complaint) => Err(complaint),
            None => outcome(tokens, self.api, true),
        });
        Ok(Settled {
            error: settled.error.or(error),
            ..settled
        })
    }
}

/// Counts something for as long as it lives.
struct Counted<'c> {
    count: &'c Cell<usize>,
    changed: &'c Notify,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.changed.notify_waiters();
    }
}

impl<'a> AllProfiles<'a, '_> {
    /// Refreshes these profiles, and tells of each.
    async fn refresh(&self, profiles: &'a [Profile<'a>], audience: &mut dyn Audience) {
        let signal = std::sync::Arc::new(Notify::new());
        let tell = std::sync::Arc::clone(&signal);
        let watch = Box::new(move || tell.notify_one());
        self.caller.borrow_mut().when_a_signal_waits(watch);
        let all = async {
            let one = |&(index, name): &Profile<'a>| async move { (index, self.one(name).await) };
            let mut under_way: FuturesUnordered<_> = profiles.iter().map(one).collect();
            while let Some((index, settled)) = under_way.next().await {
                audience.settled(index, settled);
            }
        };
        let (saving, heeding) = (pin!(self.keep_saving()), pin!(self.heed_signals(&signal)));
        let services = select(saving, heeding);
        // The services never end.
        select(pin!(all), services).await;
    }

    /// What becomes of one profile.
    async fn one(&self, profile: &'a str) -> Settled {
        let unanswered = Counted {
            count: &self.unanswered,
            changed: &self.changed,
        };
        match self.spend(profile, unanswered).await {
            Ok(settled) => settled,
            Err(error) => Err(error).into(),
        }
    }

    /// Spends one profile's refresh token, and waits until its successor is saved.
    async fn spend(&self, profile: &'a str, unanswered: Counted<'_>) -> Result<Settled> {
        let mut attempts = Attempts::new(self.options, &self.clients);
        loop {
            let order = match self.order(profile, &attempts)? {
                Next::Nothing(outcome) => return Ok(Ok(outcome).into()),
                Next::Order(order) => order,
            };
            let reply_lost = self.ledger.borrow().reply_lost();
            let client = attempts.client(&order, reply_lost)?;
            if let Some(app) = attempts.app_to_ask(&order) {
                self.app_token(&mut attempts, &client, &order, app).await?;
                continue;
            }
            let turn = self.turn(&order, &attempts).await?;
            // Another program may have put another token there meanwhile.
            let view = self.view(profile, &attempts)?;
            if !view.holds(&order) {
                continue;
            }
            let at_stake = self.at_stake();
            let pause = match Box::pin(attempts.spend(&client, &order)).await? {
                Answer::Again(pause) => pause,
                Answer::Tokens(received) => {
                    let saved = self.keep(view, &order, received)?;
                    drop((turn, unanswered));
                    return saved.settle(self).await;
                }
            };
            drop((turn, at_stake));
            sleep(pause).await;
        }
    }

    /// What is to be sent for a profile, if anything.
    fn order(&self, profile: &'a str, attempts: &Attempts<'_>) -> Result<Next> {
        let view = self.view(profile, attempts)?;
        if let Some(saved) = self.options.lasting(&view) {
            return outcome(saved.clone(), view.api(), false).map(Next::Nothing);
        }
        let order = view.order().map(Next::Order);
        order.map_err(|error| attempts.remember(error))
    }

    fn view(&self, profile: &'a str, attempts: &Attempts<'_>) -> Result<View<'a>> {
        let view = self.ledger.borrow_mut().view(profile);
        view.map_err(|error| attempts.remember(error))
    }

    /// Waits until something may be sent for this order.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if what it brings cannot be saved any more.
    async fn turn(&self, order: &Order, attempts: &Attempts<'_>) -> Result<Turn> {
        let turn = self.lanes.turn(order, attempts.is_again()).await;
        let can_save = self.ledger.borrow().check();
        can_save.map_err(|error| attempts.remember(error))?;
        Ok(turn)
    }

    /// Something is under way that a signal must not end, as long as this lives.
    fn at_stake(&self) -> Counted<'_> {
        self.at_stake.set(self.at_stake.get() + 1);
        Counted {
            count: &self.at_stake,
            changed: &self.changed,
        }
    }

    /// Puts what a reply brought into the journal, at once.
    fn keep(&self, view: View<'a>, order: &Order, received: Received) -> Result<Kept> {
        let Received {
            tokens,
            app_token,
            complaint,
        } = received;
        let (profile, api) = (view.place().profile, view.api());
        let mut caller = self.caller.borrow_mut();
        let work = caller.after_save(profile, api, &tokens);
        let mut ledger = self.ledger.borrow_mut();
        ledger.keep(view, order, tokens, app_token)?;
        let (sender, saved) = oneshot::channel();
        self.waiting.borrow_mut().push(sender);
        self.changed.notify_waiters();
        Ok(Kept {
            saved,
            api,
            work,
            complaint,
        })
    }

    /// Does what the caller wants done after a save.
    async fn after_save(&self, work: Option<AfterSave>) -> Result<()> {
        let Some(work) = work else {
            return Ok(());
        };
        let (sender, receiver) = oneshot::channel();
        let lost = || Error::new(Kind::Hook, "what follows the save could not be run");
        self.works.send((work, sender)).map_err(|_| lost())?;
        receiver.await.map_err(|_| lost())?
    }

    /// Saves what has come, for as long as the run lasts.
    async fn keep_saving(&self) {
        let mut earliest = Instant::now();
        loop {
            self.until_due(earliest).await;
            earliest = Instant::now() + SAVE_INTERVAL;
            let Some(group) = self.ledger.borrow_mut().group() else {
                continue;
            };
            let waiting = self.waiting.take();
            let (sender, receiver) = oneshot::channel();
            // Without a thread that saves, the pairs stay in the journal.
            let _ = self.groups.send((group, sender));
            if let Ok(saved) = receiver.await {
                let results = self.ledger.borrow_mut().settle(saved);
                for (waiter, result) in waiting.into_iter().zip(results) {
                    let _ = waiter.send(result);
                }
            }
            self.changed.notify_waiters();
        }
    }

    /// Waits until a group is to be saved: when nothing more is to come, or its first pair has waited
    /// long enough.
    async fn until_due(&self, earliest: Instant) {
        let mut first = None;
        loop {
            let changed = self.changed.notified();
            if self.ledger.borrow().pending() == 0 {
                changed.await;
                continue;
            }
            let latest = *first.get_or_insert_with(|| Instant::now() + SAVE_INTERVAL);
            let is_last = self.unanswered.get() == 0
                || (self.lanes.is_closed()
                    && self.at_stake.get() <= self.ledger.borrow().pending());
            let due = if is_last {
                earliest
            } else {
                latest.max(earliest)
            };
            if due <= Instant::now() {
                return;
            }
            let _ = timeout_at(due, changed).await;
        }
    }

    /// Lets signals do their work, each time one waits, once nothing is at stake.
    async fn heed_signals(&self, signal: &Notify) {
        loop {
            signal.notified().await;
            log::warn!("a signal waits: what was sent is awaited and saved first");
            self.lanes.close();
            self.changed.notify_waiters();
            while self.at_stake.get() > 0 {
                self.changed.notified().await;
            }
            self.ledger.borrow_mut().rest();
            {
                let mut caller = self.caller.borrow_mut();
                caller.deliver_signals();
                // It was one that this program ignores.
                caller.defer_signals();
            }
            self.ledger.borrow_mut().resume();
            self.lanes.open();
        }
    }
}
