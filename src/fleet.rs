//! Many logins in one run: the same story for each, side by side ([`Story::tell`]). The store says which are
//! next: a file all at once, a database some at a time, since other runs work there, too.
//!
//! Promises:
//! - Each pair is in the journal the moment it arrives, in the store soon after, and reported after
//!   that (P2, P7).
//! - So many logins are under way at once, and no more: the memory of a run does not grow with its store.
//! - Requests to one app of one host are spaced evenly, and few are under way at once
//!   ([`crate::refresh::pace`]). An app token is fetched once for each app.
//! - One login's failure stops no other. Who listens slowly stops nothing: this thread tells, and
//!   another one works.
//! - A signal waits until what was sent is saved; until then nothing new is sent (P6).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::SignedDuration;
use tokio::sync::Notify;

use crate::driver::Driver;
use crate::error::{Error, Kind, Result};
use crate::profile::{Snapshot, twin};
use crate::refresh::attempts::Services;
use crate::refresh::pace::Pace;
use crate::refresh::{Caller, Following, News, Options, Outcome, Story, or_saved, outcome};
use crate::store::{Claim, Due, ManyLogins, More, Named, Next, Wanted, on_store};
use crate::token::Fingerprint;
use crate::worker::{Worker, no_thread};

/// How many logins of a store are under way in one run.
const MOST_AT_ONCE: usize = 256;

/// How long a listener may take for the last words before a signal does its work.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
enum Event {
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

/// Refreshes all logins of a store that are due. Signals wait when this is called, and still when it returns,
/// if something must be told first.
///
/// # Errors
/// [`Kind::Config`], [`Kind::Temporary`] if it cannot begin, or go on: then nothing was sent that was not
/// told of.
pub(crate) fn run(
    options: &Options,
    due: &Due,
    helper: Box<dyn Helper>,
    shield: fn(),
    audience: &mut dyn Audience,
) -> Result<()> {
    options.given().check()?;
    let before = on_store!(options, shield, |store| store.look_at_all());
    let before = before.unwrap_or_default();
    if let Some(settled) = all_left_out(&before, options, due) {
        tell(audience, settled);
        return Ok(());
    }
    let sound = before
        .iter()
        .filter_map(|(name, s)| Some((name, s.as_ref().ok()?)));
    let known = sound.map(|(name, s)| (name.clone(), s.clone())).collect();
    let ran = thread::scope(|scope| {
        let (events, news) = mpsc::channel();
        let work = move || {
            shield();
            let mut helper = helper;
            let ran = on_store!(options, shield, |store| work(
                &store,
                known,
                options,
                due,
                shield,
                &mut helper,
                events
            ));
            match &ran {
                Ok(done) if done.must_be_told => {}
                _ => helper.let_signals_go(),
            }
            ran.and_then(|done| done.error.map_or(Ok(()), Err))
        };
        let worker = thread::Builder::new().spawn_scoped(scope, work);
        let worker = worker.map_err(|error| no_thread(&error))?;
        for event in news {
            match event {
                Event::Expect(all) => audience.expect(all),
                Event::Settled(index, name, settled) => audience.settled(index, &name, settled),
                Event::LastWords(said) => {
                    audience.last_words();
                    let _ = said.send(());
                }
            }
        }
        let done = worker.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let error = match ran {
        Err(error) if error.kind() == Kind::Temporary && options.min_ttl.is_some() => error,
        ran => return ran,
    };
    // Nothing was sent, and what is saved may do.
    let Some(settled) = all_valid(&before, options) else {
        return Err(error);
    };
    log::warn!("{error}; the saved tokens are still valid, and are used");
    tell(audience, settled);
    Ok(())
}

type AllSettled = Vec<(String, Settled)>;

fn tell(audience: &mut dyn Audience, all: AllSettled) {
    audience.expect(all.len());
    for (index, (name, settled)) in all.into_iter().enumerate() {
        audience.settled(index, &name, settled);
    }
}

/// What there is to tell without a lock or a network, if none of the logins is due.
fn all_left_out(logins: &[Named<Snapshot>], options: &Options, due: &Due) -> Option<AllSettled> {
    let settled = |(name, snapshot): &Named<Snapshot>| {
        let snapshot = snapshot.as_ref().ok()?;
        let view = snapshot.with(options.given()).ok()?;
        due.leaves_out(&view)
            .then(|| (name.clone(), left_out(snapshot, options)))
    };
    let all: Option<AllSettled> = logins.iter().map(settled).collect();
    all.filter(|all| !all.is_empty())
}

/// The same, if the tokens of all of them are valid still.
fn all_valid(logins: &[Named<Snapshot>], options: &Options) -> Option<AllSettled> {
    let settled = |(name, snapshot): &Named<Snapshot>| {
        let view = snapshot.as_ref().ok()?.with(options.given()).ok()?;
        let tokens = view.lasting(SignedDuration::ZERO)?;
        let outcome = outcome(tokens.clone(), view.api(), false);
        Some((name.clone(), outcome.into()))
    };
    let all: Option<AllSettled> = logins.iter().map(settled).collect();
    all.filter(|all| !all.is_empty())
}

/// What became of a login that is left out: its token is told where it is known to live long enough.
fn left_out(snapshot: &Snapshot, options: &Options) -> Settled {
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
struct Done {
    /// Whether a login has a pair that nothing but the telling keeps.
    must_be_told: bool,
    /// Why it could not go on.
    error: Option<Error>,
}

/// Tells the story of each login that is due.
fn work<S: ManyLogins>(
    store: &S,
    before: HashMap<String, Snapshot>,
    options: &Options,
    due: &Due,
    shield: fn(),
    helper: &mut Box<dyn Helper>,
    events: mpsc::Sender<Event>,
) -> Result<Done> {
    let driver = Driver::default();
    let hooks = Worker::start(shield)?;
    let pace = Pace::new(due, store.slots());
    let services = Services::new(options, Some(pace), shield);
    // Nothing is at stake while this waits for others.
    helper.deliver_signals();
    driver.run(store.begin(options.given(), due, options.lock_deadline()))??;
    helper.defer_signals();
    let signal = Arc::new(Notify::new());
    let tell = Arc::clone(&signal);
    helper.when_a_signal_waits(Box::new(move || tell.notify_one()))?;
    let fleet = Fleet {
        store,
        before,
        options,
        due,
        services,
        hooks,
        events,
        helper: RefCell::new(helper),
        owners: RefCell::default(),
        at_stake: Cell::new(0),
        changed: Notify::new(),
        must_be_told: Cell::new(false),
    };
    driver.run(fleet.refresh(&signal))
}

/// A run over many logins.
struct Fleet<'f, S> {
    store: &'f S,
    /// What the store said of each before this run queued for it.
    before: HashMap<String, Snapshot>,
    options: &'f Options,
    due: &'f Due,
    services: Services,
    /// Where the commands run that follow a save.
    hooks: Worker,
    /// Where it is told what became of each.
    events: mpsc::Sender<Event>,
    helper: RefCell<&'f mut Box<dyn Helper>>,
    /// Whose each refresh token is, where several logins hold one: the first's.
    owners: RefCell<HashMap<Fingerprint, String>>,
    /// How many logins have something under way that a signal must not end.
    at_stake: Cell<usize>,
    /// That this has changed.
    changed: Notify,
    /// Whether a login has a pair that nothing but the telling keeps.
    must_be_told: Cell<bool>,
}

/// What one of those that are under way came to.
enum Step<C> {
    Claimed(Result<More<C>>),
    Settled,
}

type UnderWay<'f, C> = FuturesUnordered<Pin<Box<dyn Future<Output = Step<C>> + 'f>>>;

impl<S: ManyLogins> Fleet<'_, S> {
    /// Tells all stories.
    async fn refresh(&self, signal: &Notify) -> Done {
        let mut done = Ok(());
        let all = async {
            done = self.all().await;
        };
        let signals = self.heed(signal);
        {
            let (all, signals) = (std::pin::pin!(all), std::pin::pin!(signals));
            // Signals are heeded as long as there is something to do.
            select(all, signals).await;
        }
        self.store.close().await;
        Done {
            must_be_told: self.must_be_told.get(),
            error: done.err(),
        }
    }

    /// Tells one story after the other, many side by side, until the store has no more.
    ///
    /// # Errors
    /// The store's, once all is done that was begun.
    async fn all(&self) -> Result<()> {
        let mut done = Ok(());
        let mut under_way: UnderWay<'_, S::Claim> = FuturesUnordered::new();
        let (mut has_more, mut is_asked, mut told) = (true, false, 0);
        loop {
            // The one that asks is no login.
            let room = MOST_AT_ONCE.saturating_sub(under_way.len());
            if has_more && !is_asked && room > 0 {
                is_asked = true;
                under_way.push(Box::pin(
                    async move { Step::Claimed(self.more(room).await) },
                ));
            }
            let more = match under_way.next().await {
                None => return done,
                Some(Step::Settled) => continue,
                Some(Step::Claimed(more)) => more,
            };
            is_asked = false;
            match more {
                Ok(More::Logins(logins)) => {
                    self.learn_owners(&logins);
                    if S::HAS_ORDER {
                        let _ = self.events.send(Event::Expect(logins.len()));
                    }
                    for (name, next) in logins {
                        under_way.push(Box::pin(self.settle(told, name, next)));
                        told += 1;
                    }
                }
                Ok(More::Later(pause)) => {
                    is_asked = true;
                    under_way.push(Box::pin(async move {
                        tokio::time::sleep(pause).await;
                        Step::Claimed(self.more(room).await)
                    }));
                }
                Ok(More::Nothing) => has_more = false,
                Err(error) => {
                    has_more = false;
                    done = Err(error);
                }
            }
        }
    }

    /// Claims more, unless a signal waits.
    async fn more(&self, room: usize) -> Result<More<S::Claim>> {
        if let Some(pace) = self.services.pace() {
            pace.is_open().await;
        }
        self.store.claim_more(self.due, room).await
    }

    fn learn_owners(&self, logins: &[Named<Next<S::Claim>>]) {
        // A store without order makes sure of it itself.
        if !S::HAS_ORDER {
            return;
        }
        let mut owners = self.owners.borrow_mut();
        for (name, next) in logins {
            let token = match next {
                Ok(Next::Refresh(claim)) => claim.snapshot().fingerprint(),
                Ok(Next::LeftOut(snapshot)) => snapshot.fingerprint(),
                Err(_) => None,
            };
            if let Some(token) = token {
                owners.entry(token).or_insert_with(|| name.clone());
            }
        }
    }

    /// Finds out what becomes of one login, and tells.
    async fn settle(
        &self,
        index: usize,
        name: String,
        next: Result<Next<S::Claim>>,
    ) -> Step<S::Claim> {
        let settled = match next {
            Ok(Next::Refresh(claim)) => self.one(&name, claim).await,
            Ok(Next::LeftOut(snapshot)) => left_out(&snapshot, self.options),
            Err(error) => {
                self.store.give_back(&name, Some(&error)).await;
                Err(error).into()
            }
        };
        let unsaved = settled.error.as_ref().and_then(Error::unsaved);
        self.must_be_told
            .set(self.must_be_told.get() || unsaved.is_some());
        // Who does not listen any more wants to hear nothing.
        let _ = self.events.send(Event::Settled(index, name, settled));
        Step::Settled
    }

    /// What becomes of one login.
    async fn one(&self, name: &str, claim: S::Claim) -> Settled {
        let snapshot = claim.snapshot().clone();
        let owner = snapshot.fingerprint();
        let owner = owner.and_then(|token| self.owners.borrow().get(&token).cloned());
        if let Some(owner) = owner.filter(|owner| owner != name) {
            return Err(twin(&snapshot.login, &owner)).into();
        }
        let given = self.options.given();
        let story = Story {
            store: self.store,
            wanted: Wanted {
                profile: name,
                given,
                is_for_login: false,
            },
            options: self.options,
            services: &self.services,
            is_due: true,
        };
        let mut member = Member {
            fleet: self,
            has_stake: false,
            failure: None,
        };
        let before = self.before.get(name).unwrap_or(&snapshot);
        let told = story.tell(claim, Some(before), &mut member).await;
        let error = told.as_ref().err();
        // A pair that is saved nowhere is told of before anything else is waited for.
        if error.is_none_or(|error| error.kind() != Kind::Unsaved) {
            self.store.give_back(name, error).await;
        }
        let settled = Settled::from(or_saved(
            told,
            snapshot.with(given).ok().as_ref(),
            self.options,
        ));
        Settled {
            error: settled.error.or(member.failure.take()),
            ..settled
        }
    }

    /// Each time a signal waits: sends nothing more, waits until nothing is at stake, and lets it do
    /// its work; but for a pair that nothing but the telling keeps, only once that is told.
    async fn heed(&self, signal: &Notify) {
        loop {
            signal.notified().await;
            log::warn!("a signal waits: what was sent is awaited and saved first");
            let pace = self.services.pace();
            pace.into_iter().for_each(Pace::close);
            while self.at_stake.get() > 0 {
                self.changed.notified().await;
            }
            self.store.give_all_back().await;
            let (sender, said) = mpsc::channel();
            if self.events.send(Event::LastWords(sender)).is_ok() {
                // Nothing is under way that could wait for this thread.
                if self.must_be_told.get() {
                    let _ = said.recv();
                } else {
                    let _ = said.recv_timeout(LAST_WORDS);
                }
            }
            let mut helper = self.helper.borrow_mut();
            helper.deliver_signals();
            // It was one that this program ignores.
            helper.defer_signals();
            drop(helper);
            pace.into_iter().for_each(Pace::open);
        }
    }
}

/// One login's part in the run.
struct Member<'m, 'f, S> {
    fleet: &'m Fleet<'f, S>,
    has_stake: bool,
    /// How the command after the save failed.
    failure: Option<Error>,
}

impl<S> Member<'_, '_, S> {
    fn has_stake(&mut self, has_stake: bool) {
        let at_stake = &self.fleet.at_stake;
        match (self.has_stake, has_stake) {
            (false, true) => at_stake.set(at_stake.get() + 1),
            (true, false) => at_stake.set(at_stake.get() - 1),
            _ => {}
        }
        self.has_stake = has_stake;
        self.fleet.changed.notify_waiters();
    }
}

impl<S> Caller for Member<'_, '_, S> {
    fn defer_signals(&mut self) {
        self.has_stake(true);
    }

    fn deliver_signals(&mut self) {
        self.has_stake(false);
    }

    fn holds_up(&self) -> bool {
        self.fleet.helper.borrow().follows_saves()
    }

    fn saved<'a>(&'a mut self, news: News<'a>) -> Following<'a> {
        Box::pin(async move {
            let work = self.fleet.helper.borrow_mut().after_save(&news);
            if let Some(work) = work {
                let done = self.fleet.hooks.run(work).await;
                let lost = || Error::new(Kind::Hook, "what follows the save could not be run");
                self.failure = done.unwrap_or_else(|| Err(lost())).err();
            }
        })
    }
}

impl<S> Drop for Member<'_, '_, S> {
    fn drop(&mut self) {
        // The story may have ended in an error.
        self.has_stake(false);
    }
}
