//! Many logins in one run: the same story for each, side by side ([`crate::refresh::Story::tell`]). The store says
//! which are next: a file all at once, a database a few at a time, since other runs work there, too.
//!
//! Promises:
//! - Each pair is in the journal as soon as it arrives, then in the store, and is reported after
//!   that (P2, P7).
//! - Only a few of a database's logins are in progress at once, and none is remembered: a run's memory does not grow
//!   with the database.
//! - Requests to one app of one host are spaced evenly, and few are in progress at once
//!   ([`crate::refresh::pace`]). An app token is fetched once for each app.
//! - One login's failure stops no other. A slow listener blocks nothing: this thread reports, and
//!   another works.
//! - A signal waits until what was sent is saved; until then nothing new is sent (P6).

mod crew;
mod terms;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;

use jiff::SignedDuration;
use tokio::sync::Notify;

use crate::driver::Driver;
use crate::error::{Error, Kind, Result};
use crate::profile::{Snapshot, View};
use crate::refresh::attempts::Services;
use crate::refresh::pace::Pace;
use crate::refresh::{Options, outcome};
use crate::store::PerLogin;
use crate::store::many::{Due, ManyLogins};
use crate::store::open::on_store;
use crate::worker::{Worker, no_thread};
use crew::Fleet;
pub(crate) use terms::{AfterSaveCommand, FleetHooks, LoginResult, ResultListener};
use terms::{FleetEvent, FleetResult, left_out};

/// Refreshes all logins of a store that are due. Signals are deferred when this is called, and still when it returns if
/// something must be reported first.
///
/// # Errors
/// [`Kind::Config`], [`Kind::Temporary`] if it cannot begin or go on: then all that was sent has been reported.
pub(crate) fn run(
    options: &Options,
    due: &Due,
    helper: Box<dyn FleetHooks>,
    shield: fn(),
    listener: &mut dyn ResultListener,
) -> Result<()> {
    options.given().check().map_err(Error::before_sending)?;
    let before = on_store!(options, shield, |store| store.look_at_all());
    let before = before.unwrap_or_default();
    if let Some(settled) = all_left_out(&before, options, due) {
        pass_on(listener, settled);
        return Ok(());
    }
    let sound = before
        .iter()
        .filter_map(|(name, s)| Some((name, s.as_ref().ok()?)));
    let known = sound.map(|(name, s)| (name.clone(), s.clone())).collect();
    let ran = thread::scope(|scope| {
        let (events, inbox) = mpsc::channel();
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
        for event in inbox {
            match event {
                FleetEvent::Expect(all) => listener.expect(all),
                FleetEvent::Settled(index, name, settled) => {
                    listener.settled(index, &name, settled);
                }
                FleetEvent::LastWords(said) => {
                    listener.last_words();
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
    // Nothing was sent, and the saved tokens may do.
    let Some(settled) = all_valid(&before, options) else {
        return Err(error);
    };
    log::warn!("{error}; the saved tokens are still valid and are used");
    pass_on(listener, settled);
    Ok(())
}

type LoginResults = Vec<(String, LoginResult)>;

fn pass_on(listener: &mut dyn ResultListener, all: LoginResults) {
    listener.expect(all.len());
    for (index, (name, settled)) in all.into_iter().enumerate() {
        listener.settled(index, &name, settled);
    }
}

/// What can be reported without a lock or the network, if no login is due.
fn all_left_out(
    logins: &[PerLogin<Snapshot>],
    options: &Options,
    due: &Due,
) -> Option<LoginResults> {
    let settled = |(name, snapshot): &PerLogin<Snapshot>| {
        let snapshot = snapshot.as_ref().ok()?;
        let view = View::of(snapshot, options.given()).ok()?;
        due.leaves_out(&view)
            .then(|| (name.clone(), left_out(snapshot, options)))
    };
    let all: Option<LoginResults> = logins.iter().map(settled).collect();
    all.filter(|all| !all.is_empty())
}

/// The same, if the tokens of all of them are still valid.
fn all_valid(logins: &[PerLogin<Snapshot>], options: &Options) -> Option<LoginResults> {
    let settled = |(name, snapshot): &PerLogin<Snapshot>| {
        let view = View::of(snapshot.as_ref().ok()?, options.given()).ok()?;
        let tokens = view.still_valid(SignedDuration::ZERO)?;
        let outcome = outcome(tokens.clone(), view.api(), false);
        Some((name.clone(), outcome.into()))
    };
    let all: Option<LoginResults> = logins.iter().map(settled).collect();
    all.filter(|all| !all.is_empty())
}

/// Tells the story of each login that is due.
fn work<S: ManyLogins>(
    store: &S,
    before: HashMap<String, Snapshot>,
    options: &Options,
    due: &Due,
    shield: fn(),
    helper: &mut Box<dyn FleetHooks>,
    events: mpsc::Sender<FleetEvent>,
) -> Result<FleetResult> {
    let driver = Driver::default();
    let worker = Worker::start(shield)?;
    let pace = Pace::new(due, store.slots());
    let services = Services::new(options, Some(pace), shield);
    // Nothing is at risk while this waits for others.
    helper.deliver_signals();
    let begun = driver.run(store.begin(options.given(), due, options.lock_deadline()));
    begun.flatten().map_err(Error::before_sending)?;
    helper.defer_signals();
    let signal = Arc::new(Notify::new());
    let pass_on = Arc::clone(&signal);
    helper.when_a_signal_waits(Box::new(move || pass_on.notify_one()))?;
    let fleet = Fleet {
        store,
        before,
        options,
        due,
        services,
        worker,
        events,
        helper: RefCell::new(helper),
        owners: RefCell::default(),
        at_stake: Cell::new(0),
        changed: Notify::new(),
        must_be_told: Cell::new(false),
    };
    driver.run(fleet.refresh(&signal))
}
