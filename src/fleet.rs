//! Many logins in one run: the same story for each, side by side ([`Story::tell`]).
//!
//! Promises:
//! - Each pair is in the journal the moment it arrives, in the store soon after, and reported after
//!   that (P2, P7).
//! - Requests to one app of one host are spaced evenly, and few are under way at once
//!   ([`crate::refresh::pace`]). An app token is fetched once for each app.
//! - One login's failure stops no other. Who listens slowly stops nothing: this thread tells, and
//!   another one works.
//! - A signal waits until what was sent is saved; until then nothing new is sent (P6).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
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
use crate::store::file::FileStore;
use crate::store::{Claim, ManyLogins, Named, Store, Wanted};
use crate::token::Fingerprint;
use crate::worker::{Worker, no_thread};

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
    /// These are the logins, in the store's order.
    fn expect(&mut self, names: Vec<String>);
    /// This is what became of one of them.
    fn settled(&mut self, index: usize, settled: Settled);
    /// The run may end here: what was put off is to be said now.
    fn last_words(&mut self);
}

/// What the working thread has to say.
enum Event {
    Expect(Vec<String>),
    Settled(usize, Settled),
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

/// Refreshes all logins of a file, with at least `spacing` between two requests to one app. Signals
/// wait when this is called, and still when it returns, if something must be told first.
///
/// # Errors
/// [`Kind::Config`], [`Kind::Temporary`] if it cannot begin: then nothing was sent.
pub(crate) fn run(
    options: &Options,
    spacing: Duration,
    helper: Box<dyn Helper>,
    shield: fn(),
    audience: &mut dyn Audience,
) -> Result<()> {
    options.given().check()?;
    let store = FileStore::new(&options.config_file, shield);
    let before = store.look_at_all().unwrap_or_default();
    let names: Vec<String> = before.iter().map(|(name, _)| name.clone()).collect();
    let lasting = options
        .min_ttl
        .and_then(|least| valid_for(&before, options, least));
    let tell_all = |audience: &mut dyn Audience, outcomes: Vec<Outcome>| {
        audience.expect(names);
        for (index, outcome) in outcomes.into_iter().enumerate() {
            audience.settled(index, Ok(outcome).into());
        }
        Ok(())
    };
    if let Some(outcomes) = lasting {
        return tell_all(audience, outcomes);
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
            let ran = work(&store, known, options, spacing, shield, &mut helper, events);
            match ran {
                Ok(must_be_told) if must_be_told => {}
                _ => helper.let_signals_go(),
            }
            ran.map(drop)
        };
        let worker = thread::Builder::new().spawn_scoped(scope, work);
        let worker = worker.map_err(|error| no_thread(&error))?;
        for event in news {
            match event {
                Event::Expect(names) => audience.expect(names),
                Event::Settled(index, settled) => audience.settled(index, settled),
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
    let Some(outcomes) = valid_for(&before, options, Duration::ZERO) else {
        return Err(error);
    };
    log::warn!("{error}; the saved tokens are still valid, and are used");
    tell_all(audience, outcomes)
}

/// What there is to tell without a lock or a network, if the tokens of all logins are valid for longer
/// than this.
fn valid_for(
    logins: &[Named<Snapshot>],
    options: &Options,
    least: Duration,
) -> Option<Vec<Outcome>> {
    let least = SignedDuration::try_from(least).unwrap_or(SignedDuration::MAX);
    let valid = |(_, snapshot): &Named<Snapshot>| {
        let view = snapshot.as_ref().ok()?.with(options.given()).ok()?;
        let tokens = view.lasting(least)?;
        outcome(tokens.clone(), view.api(), false).ok()
    };
    let outcomes: Option<Vec<_>> = logins.iter().map(valid).collect();
    outcomes.filter(|outcomes| !outcomes.is_empty())
}

/// Claims all logins, and tells each one's story. Returns whether one of them has a pair that nothing
/// but the telling keeps.
fn work(
    store: &FileStore,
    before: HashMap<String, Snapshot>,
    options: &Options,
    spacing: Duration,
    shield: fn(),
    helper: &mut Box<dyn Helper>,
    events: mpsc::Sender<Event>,
) -> Result<bool> {
    let driver = Driver::default();
    let hooks = Worker::start(shield)?;
    let pace = Pace::new(spacing, options.max_wait);
    let services = Services::new(options, Some(pace), shield);
    // Nothing is at stake while this waits for others.
    helper.deliver_signals();
    let claims = driver.run(store.claim_all(options.given(), options.lock_deadline()))??;
    helper.defer_signals();
    let signal = Arc::new(Notify::new());
    let tell = Arc::clone(&signal);
    helper.when_a_signal_waits(Box::new(move || tell.notify_one()))?;
    let names = claims.iter().map(|(name, _)| name.clone()).collect();
    let _ = events.send(Event::Expect(names));
    let fleet = Fleet {
        store,
        before,
        options,
        services,
        hooks,
        events,
        helper: RefCell::new(helper),
        at_stake: Cell::new(0),
        changed: Notify::new(),
    };
    driver.run(fleet.refresh(claims, &signal))
}

/// A run over many logins.
struct Fleet<'f, S> {
    store: &'f S,
    /// What the store said of each before this run queued for it.
    before: HashMap<String, Snapshot>,
    options: &'f Options,
    services: Services,
    /// Where the commands run that follow a save.
    hooks: Worker,
    /// Where it is told what became of each.
    events: mpsc::Sender<Event>,
    helper: RefCell<&'f mut Box<dyn Helper>>,
    /// How many logins have something under way that a signal must not end.
    at_stake: Cell<usize>,
    /// That this has changed.
    changed: Notify,
}

impl<S: Store> Fleet<'_, S> {
    /// Tells all stories. Returns whether one of them has a pair that nothing but the telling keeps.
    async fn refresh(&self, claims: Vec<Named<S::Claim>>, signal: &Notify) -> bool {
        let owners = owners(&claims);
        let must_be_told = Cell::new(false);
        let all = async {
            let one = |(index, (name, claim)): (usize, Named<S::Claim>)| {
                let owners = &owners;
                async move { (index, self.one(&name, claim, owners).await) }
            };
            let mut under_way: FuturesUnordered<_> =
                claims.into_iter().enumerate().map(one).collect();
            while let Some((index, settled)) = under_way.next().await {
                let unsaved = settled.error.as_ref().and_then(Error::unsaved);
                must_be_told.set(must_be_told.get() || unsaved.is_some());
                // Who does not listen any more wants to hear nothing.
                let _ = self.events.send(Event::Settled(index, settled));
            }
        };
        let signals = self.heed(signal, &must_be_told);
        let (all, signals) = (std::pin::pin!(all), std::pin::pin!(signals));
        // Signals are heeded as long as there is something to do.
        select(all, signals).await;
        must_be_told.get()
    }

    /// What becomes of one login.
    async fn one(
        &self,
        name: &str,
        claim: Result<S::Claim>,
        owners: &HashMap<Fingerprint, String>,
    ) -> Settled {
        let claim = match claim {
            Ok(claim) => claim,
            Err(error) => return Err(error).into(),
        };
        let snapshot = claim.snapshot().clone();
        let owner = snapshot.fingerprint().and_then(|token| owners.get(&token));
        if let Some(owner) = owner.filter(|owner| *owner != name) {
            return Err(twin(&snapshot.login, owner)).into();
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
        };
        let mut member = Member {
            fleet: self,
            has_stake: false,
            failure: None,
        };
        let told = Box::pin(story.tell(claim, self.before.get(name), &mut member)).await;
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
    async fn heed(&self, signal: &Notify, must_be_told: &Cell<bool>) {
        loop {
            signal.notified().await;
            log::warn!("a signal waits: what was sent is awaited and saved first");
            let pace = self.services.pace();
            pace.into_iter().for_each(Pace::close);
            while self.at_stake.get() > 0 {
                self.changed.notified().await;
            }
            let (sender, said) = mpsc::channel();
            if self.events.send(Event::LastWords(sender)).is_ok() {
                // Nothing is under way that could wait for this thread.
                if must_be_told.get() {
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

/// Whose each refresh token is, where several logins hold one: the first's.
fn owners<C: Claim>(claims: &[Named<C>]) -> HashMap<Fingerprint, String> {
    let mut owners = HashMap::new();
    for (name, claim) in claims {
        let token = claim.as_ref().ok().and_then(|c| c.snapshot().fingerprint());
        if let Some(token) = token {
            owners.entry(token).or_insert_with(|| name.clone());
        }
    }
    owners
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
