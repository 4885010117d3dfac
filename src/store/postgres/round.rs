//! A run over many logins, beside others on this host and elsewhere: which are due, and the claims on them.
//!
//! Promises:
//! - No two runs claim one login. What is claimed has a slot of its app's shared pace, and a lease that
//!   outlasts it ([`ManyStatements::claim_due`]): so all runs together keep to the app's limits.
//! - Little is claimed at once, and only while the app's queue is short: a run that dies leaves few logins
//!   leased and few slots unused, and what a run knows does not grow with the store.
//! - An app that answers for none of its logins is left alone until the next run.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::claim::PostgresClaim;
use super::lease::Lease;
use super::row::Reader;
use super::run::{AppKey, Run};
use super::sealing;
use super::statements::{self, ManyStatements, Parameter, moment, seconds, text, texts};
use super::trouble::{Trouble, field};
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::machine;
use crate::store::{Due, More, Named, Next};

/// Nothing is claimed for an app while its next free slot is further off.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

/// So many logins of one app are claimed at once, at most;
const MOST_AT_ONCE: usize = 32;
/// and so many of it are under way.
const MOST_UNDER_WAY: usize = 48;

/// When it is looked again for logins, where others were quicker, or enough are under way.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// An app whose logins failed so often in a row, for reasons that pass, is left alone.
const MOST_FAILURES: u32 = 32;

/// How long a claim may still take when a run ends.
const CLAIM_LIMIT: Duration = Duration::from_secs(1);

/// No expiry is asked for further off: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Where a run over many logins stands.
#[derive(Default)]
pub(super) struct Round {
    /// When it began, by the database's clock.
    began: Cell<Option<Timestamp>>,
    /// How many logins of each app failed in a row.
    failures: RefCell<HashMap<AppKey, u32>>,
    /// Why an app is left alone that has logins which are due.
    left_alone: RefCell<Option<Error>>,
    /// The slots of each app that this run has, by [`machine::uptime`].
    slots: RefCell<HashMap<AppKey, VecDeque<Duration>>>,
    /// Whoever claims has it.
    claiming: Mutex<()>,
    statements: OnceCell<ManyStatements>,
}

impl Round {
    /// A login of this app was refreshed.
    pub(super) fn has_worked(&self, app: &AppKey) {
        self.failures.borrow_mut().remove(app);
    }

    /// The story of a login of this app ended in an error.
    pub(super) fn has_failed(&self, app: &AppKey, error: &Error) {
        let mut failures = self.failures.borrow_mut();
        if error.kind() == Kind::Temporary {
            *failures.entry(app.clone()).or_default() += 1;
        } else {
            failures.remove(app);
        }
    }

    fn statements(&self, due: &Due) -> &ManyStatements {
        let new = || ManyStatements::new(due.min_ttl.is_some(), due.keep_alive.is_some());
        self.statements.get_or_init(new)
    }

    /// The next slot of an app that came with a claim.
    pub(super) fn own_slot(&self, app: &AppKey) -> Option<Duration> {
        let mut slots = self.slots.borrow_mut();
        slots.get_mut(app).and_then(VecDeque::pop_front)
    }

    fn keep_slots(&self, app: &AppKey, kept: impl Iterator<Item = Duration>) {
        let mut slots = self.slots.borrow_mut();
        slots.entry(app.clone()).or_default().extend(kept);
    }

    fn is_given_up(&self, app: &AppKey) -> bool {
        let failures = self.failures.borrow();
        failures
            .get(app)
            .is_some_and(|failed| *failed >= MOST_FAILURES)
    }
}

/// An app with logins that are due.
struct DueApp {
    key: AppKey,
    /// How many, up to what is claimed at once.
    logins: usize,
    /// How long it is until its next free slot; none if nobody keeps its pace.
    queue: Option<Duration>,
}

/// Which logins are asked for.
struct Asked<'r> {
    run: &'r Run,
    access: Option<f64>,
    refresh: Option<f64>,
    began: Option<Timestamp>,
    most: i64,
    under_way: Vec<String>,
}

impl Asked<'_> {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            seconds(&self.access),
            seconds(&self.refresh),
            moment(&self.began),
            (&self.most, Type::INT8),
            text(&self.run.id),
            texts(&self.under_way),
        ]
    }
}

impl Run {
    /// Begins a run over many logins.
    ///
    /// # Errors
    /// [`Kind::Temporary`], [`Kind::Config`] if the database cannot be used.
    pub(super) async fn begin_round(&self, due: &Due, deadline: Instant) -> Result<()> {
        let ask = async || {
            let elapsed = Some(due.begun.elapsed().as_secs_f64());
            let parameters = [seconds(&elapsed)];
            let (rows, _) = self.link.try_once(statements::BEGAN, &parameters).await?;
            rows.first().map(|row| field(row, 0)).transpose()
        };
        let began: Option<Timestamp> = self.link.again(deadline, ask).await?;
        self.round.began.set(began);
        Ok(())
    }

    /// Claims some of the logins that are due, with a slot for each.
    ///
    /// # Errors
    /// As of [`Self::begin_round`]; or why logins are left that are due.
    pub(super) async fn claim_more(
        self: &Rc<Self>,
        due: &Due,
        room: usize,
    ) -> Result<More<PostgresClaim>> {
        let mut left = room;
        let mut logins = Vec::new();
        let mut later = None;
        let mut wait =
            |pause: Duration| later = Some(later.map_or(pause, |known| pause.min(known)));
        for app in self.due_apps(due).await? {
            let queue = app.queue.filter(|_| !due.spacing.is_zero());
            if self.is_left_alone(&app, queue, due) {
                continue;
            }
            let under_way = self.under_way_of(&app.key);
            let room = left.min(MOST_UNDER_WAY.saturating_sub(under_way));
            let most = app.logins.min(room).min(batch(due.spacing));
            let too_long = queue.and_then(|queue| queue.checked_sub(LONGEST_QUEUE));
            if let Some(excess) = too_long.filter(|excess| !excess.is_zero()) {
                wait(excess);
                continue;
            }
            wait(NEXT_LOOK);
            if most > 0 {
                let claimed = self.claim_due(&app.key, most, queue.is_some(), due).await?;
                left = left.saturating_sub(claimed.len());
                logins.extend(claimed);
            }
        }
        if !logins.is_empty() {
            return Ok(More::Logins(logins));
        }
        match (later, self.round.left_alone.take()) {
            (Some(pause), _) => Ok(More::Later(spread(pause))),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(More::Nothing),
        }
    }

    /// Whether an app is left alone in this run, though it has logins that are due.
    fn is_left_alone(&self, app: &DueApp, queue: Option<Duration>, due: &Due) -> bool {
        let (id, store) = (&app.key.0, self.link.shown());
        let error = if self.round.is_given_up(&app.key) {
            let message = format!(
                "{store}: the last {MOST_FAILURES} logins of the app {id} have failed; its others were left for the next run"
            );
            Error::temporary(message).with_hint(Hint::fixed("run again later", "请稍后重试"))
        } else if let Some(queue) = queue.filter(|queue| *queue > due.max_wait + LONGEST_QUEUE) {
            let message = format!(
                "{store}: the app {id} is to wait {} s, as its server asked; its logins were left for the next run",
                queue.as_secs()
            );
            Error::temporary(message).with_hint(Hint::fixed(
                "run again after that time, or allow so long a wait with --max-wait",
                "请在该时间之后重试，或用 --max-wait 允许更长的等待",
            ))
        } else {
            return false;
        };
        self.round.left_alone.replace(Some(error));
        true
    }

    fn under_way_of(&self, app: &AppKey) -> usize {
        let leased = self.leased.borrow();
        leased.values().filter(|leased| leased.app == *app).count()
    }

    fn asked(&self, due: &Due, most: usize) -> Asked<'_> {
        let span = |time: Duration| time.min(LONGEST).as_secs_f64();
        Asked {
            run: self,
            access: due.min_ttl.map(span),
            refresh: due.keep_alive.map(span),
            began: self.round.began.get(),
            most: i64::try_from(most).unwrap_or(i64::MAX),
            under_way: self.under_way(),
        }
    }

    async fn due_apps(&self, due: &Due) -> Result<Vec<DueApp>> {
        let statements = self.round.statements(due);
        let asked = self.asked(due, MOST_AT_ONCE);
        let parameters = asked.parameters();
        let found = self
            .link
            .run(&statements.due_apps, &parameters, self.deadline());
        let (rows, _) = found.await?;
        let apps = rows.iter().map(|row| {
            let logins: i64 = field(row, 2)?;
            let queue: Option<f64> = field(row, 3)?;
            Ok(DueApp {
                key: (field(row, 0)?, field(row, 1)?),
                logins: usize::try_from(logins).unwrap_or_default(),
                queue: queue.map(span),
            })
        });
        let apps: Result<_, Trouble> = apps.collect();
        apps.map_err(|trouble| trouble.error(self.link.shown()))
    }

    /// Claims logins of an app that are due and free, and keeps the slots that came with them.
    async fn claim_due(
        self: &Rc<Self>,
        app: &AppKey,
        most: usize,
        is_paced: bool,
        due: &Due,
    ) -> Result<Vec<Named<Next<PostgresClaim>>>> {
        let _claiming = self.round.claiming.lock().await;
        let statements = self.round.statements(due);
        let asked = self.asked(due, most);
        let lease = Some(Lease::length_after_slot(self.request).as_secs_f64());
        let spacing = Some(due.spacing.as_secs_f64()).filter(|_| is_paced);
        let longest_queue = Some(LONGEST_QUEUE.as_secs_f64());
        let mut parameters = asked.parameters();
        parameters.extend([
            text(&app.0),
            text(&app.1),
            text(&self.holder),
            seconds(&lease),
            seconds(&spacing),
            seconds(&longest_queue),
        ]);
        let asked_at = machine::uptime();
        let claimed = self
            .link
            .run(&statements.claim_due, &parameters, self.deadline());
        let (mut rows, connection) = claimed.await?;
        let end = rows.first().map(slots_end).transpose();
        let end = end.map_err(|trouble| trouble.error(self.link.shown()))?;
        rows.retain(|row| name(row).is_some());
        if let Some((until_end, end)) = end.flatten() {
            let first = until_end.saturating_sub(times(due.spacing, most));
            let first = machine::uptime().saturating_add(first);
            let kept = (0..rows.len()).map(|number| first + times(due.spacing, number));
            self.round.keep_slots(app, kept);
            let unused = times(due.spacing, most.saturating_sub(rows.len()));
            self.give_slots_back(app, end, unused).await;
        }
        let until_end = end
            .flatten()
            .map_or(Duration::ZERO, |(until_end, _)| until_end);
        let lease = Lease::until_after_slot(asked_at, until_end, self.request);
        for name in rows.iter().filter_map(name) {
            self.note_lease(name, Some(lease), app.clone());
        }
        let reader = self.link.reader(&connection, false);
        if let Some(error) = self.missing_key(&reader, &rows) {
            for name in rows.iter().filter_map(name) {
                self.release(name, false, false).await;
                self.forget_lease(name);
            }
            return Err(error);
        }
        let next = |row: &Row| {
            let claim = reader
                .read(row)
                .map(|stored| Next::Refresh(PostgresClaim::of_many(Rc::clone(self), stored)));
            Some((name(row)?.to_owned(), claim))
        };
        Ok(rows.iter().filter_map(next).collect())
    }

    /// Gives back the slots that nobody here uses; `end` is where they end.
    async fn give_slots_back(&self, app: &AppKey, end: Timestamp, unused: Duration) {
        if !unused.is_zero() {
            let (end, unused) = (Some(end), Some(unused.as_secs_f64()));
            let parameters = [text(&app.0), text(&app.1), moment(&end), seconds(&unused)];
            let given_back = self
                .link
                .try_in_passing(statements::GIVE_SLOTS_BACK, &parameters);
            given_back.await;
        }
    }

    /// The error for a run that does not have the key of what it claimed: that is no fault of the logins.
    fn missing_key(&self, reader: &Reader<'_>, rows: &[Row]) -> Option<Error> {
        let has_key = |row: &Row| {
            let sealed = row.try_get::<_, &str>("refresh_token").unwrap_or_default();
            let id = sealed.split('.').next().unwrap_or_default();
            !sealing::is_key_id(id) || self.link.keys.has(id)
        };
        let row = rows.iter().find(|row| !has_key(row))?;
        reader.read(row).err()
    }

    /// Ends a run over many logins: gives back all that it still holds.
    pub(super) async fn end_round(&self) {
        // What is being claimed this moment is given back, too.
        let _claiming = timeout(CLAIM_LIMIT, self.round.claiming.lock()).await;
        self.release_all().await;
    }
}

/// How many slots are taken at once: as many as are due within the longest queue.
fn batch(spacing: Duration) -> usize {
    let fitting = LONGEST_QUEUE.as_micros() / spacing.as_micros().max(1);
    usize::try_from(fitting)
        .unwrap_or(MOST_AT_ONCE)
        .clamp(1, MOST_AT_ONCE)
}

fn times(spacing: Duration, number: usize) -> Duration {
    spacing.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A number of seconds from the database; none below zero.
pub(super) fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST)
}

/// A pause, and a little more, so that many runs do not look all at once.
fn spread(pause: Duration) -> Duration {
    let [chance] = sealing::random().unwrap_or([128]);
    pause + NEXT_LOOK.mul_f64(f64::from(chance) / 255.0)
}

/// How long it is until the last slot ends that came with a claim, and when that is by the database's clock.
fn slots_end(row: &Row) -> Result<Option<(Duration, Timestamp)>, Trouble> {
    let (end, until_end): (Option<Timestamp>, Option<f64>) = (field(row, 0)?, field(row, 1)?);
    Ok(until_end.map(span).zip(end))
}

fn name(row: &Row) -> Option<&str> {
    row.try_get("name").ok()
}
