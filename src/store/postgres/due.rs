//! Which logins are due, and the claims on them, beside other runs on this host and elsewhere.
//!
//! Promises:
//! - No two runs claim the same login. A claimed login has a slot of its app's shared pace, and a lease that
//!   outlasts it ([`ManyStatements::claim_due`]): so all runs together keep to the app's limits.
//! - Few logins are claimed at once, and only while the app's queue is short: a run that dies leaves few logins
//!   leased and few slots unused, and a run's memory does not grow with the store.
//! - An app that fails for all of its logins is skipped until the next run.
//!
//! [`ManyStatements::claim_due`]: super::statements::ManyStatements

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::claim::PostgresClaim;
use super::facts::AppKey;
use super::journal;
use super::lease::Lease;
use super::run::{LeasedLogin, Run};
use super::sealing;
use super::slots::{held_back, span};
use super::statement_error::{StatementError, field};
use super::statements::{self, Parameter, moment, seconds, text, texts};
use crate::error::{Error, Hint, Result};
use crate::platform::machine;
use crate::store::PerLogin;
use crate::store::many::{Due, MOST_REQUESTS, More, NextLogin};

/// Nothing is claimed for an app while its next free slot is further off.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

/// The most logins of one app that are claimed at once.
const MOST_CLAIMED: usize = 32;

/// The logins of this many claims of one app may be past their slots at once, or fewer, if fewer may be sent.
const CLAIMS_UNDER_WAY: usize = 3;

/// The pause before looking for logins again, if others were quicker, or enough are in progress.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// How long a pending claim may take when a run ends.
const CLAIM_LIMIT: Duration = Duration::from_secs(1);

/// The most distant expiry that is asked for: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Claimed logins.
type Claimed = Vec<PerLogin<NextLogin<PostgresClaim>>>;

/// An app with logins that are due.
struct DueApp {
    key: AppKey,
    /// How many, up to the most that are claimed at once.
    logins: usize,
    /// The time until its next free slot; none if it is not paced.
    queue: Option<Duration>,
    /// How long the server wants no requests for it.
    held: Duration,
}

/// Which logins to look for.
struct DueQuery<'r> {
    run: &'r Run,
    access: Option<f64>,
    refresh: Option<f64>,
    began: Option<Timestamp>,
    most: i64,
    under_way: Vec<String>,
}

impl DueQuery<'_> {
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
    /// [`crate::Kind::Temporary`], [`crate::Kind::Config`] if the database cannot be used.
    pub(super) async fn begin_round(&self, due: &Due, deadline: Instant) -> Result<()> {
        let ask = async || {
            let elapsed = Some(due.begun.elapsed().as_secs_f64());
            let parameters = [seconds(&elapsed)];
            let (rows, _) = self.link.try_once(statements::BEGAN, &parameters).await?;
            rows.first().map(|row| field(row, 0)).transpose()
        };
        let began: Option<Timestamp> = self.link.again(deadline, ask).await?;
        self.round.began.set(began);
        // The search for due logins does not see those whose token was called dead meanwhile.
        let store_id = self.link.store_id(deadline).await?;
        for login in journal::logins_with_leftovers(&store_id, &self.link.keys) {
            self.put_back(&login, deadline).await?;
        }
        Ok(())
    }

    /// Claims some of the due logins, with a slot for each.
    ///
    /// # Errors
    /// As of [`Self::begin_round`]; or why due logins are left.
    pub(super) async fn claim_more(
        self: &Rc<Self>,
        due: &Due,
        room: usize,
    ) -> Result<More<PostgresClaim>> {
        if let Some(error) = self.round.error.take() {
            return Err(error);
        }
        let mut logins = Vec::new();
        let (mut later, mut left_alone): (Option<Duration>, _) = (None, None);
        // Whether others are working: then it is not a lock that blocks this run.
        let mut has_company = false;
        for app in self.due_apps(due).await? {
            if let Some(error) = self.reason_to_leave(&app, due) {
                left_alone = Some(error);
                continue;
            }
            let queue = app.queue.filter(|_| !due.spacing.is_zero());
            let excess = queue.and_then(|queue| queue.checked_sub(LONGEST_QUEUE));
            let pause = excess.filter(|excess| !excess.is_zero());
            let wait = pause.unwrap_or(NEXT_LOOK);
            later = Some(later.map_or(wait, |later| wait.min(later)));
            let most = self.room_for(&app, due.spacing, room - logins.len());
            if pause.is_some() || most == 0 {
                has_company = true;
                continue;
            }
            match self.claim_due(&app.key, most, queue.is_some(), due).await {
                Ok(Some(claimed)) => logins.extend(claimed),
                Ok(None) => has_company = true,
                // Logins claimed before must not wait for that.
                Err(error) if !logins.is_empty() => {
                    self.round.error.replace(Some(error));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if has_company || !logins.is_empty() || !self.leased.borrow().is_empty() {
            self.round.idle_since.set(None);
        } else if later.is_some() {
            self.check_patience()?;
        }
        match (logins.is_empty(), later, left_alone) {
            (false, ..) => Ok(More::Logins(logins)),
            (_, Some(pause), _) => Ok(More::Later(spread(pause))),
            (_, None, Some(error)) => Err(error),
            (_, None, None) => self.check_foreign(due).await.map(|()| More::Nothing),
        }
    }

    /// # Errors
    /// [`crate::Kind::Temporary`] if logins are due, and none could be claimed within the wait for others: somebody
    /// else holds their rows.
    fn check_patience(&self) -> Result<()> {
        let idle_since = &self.round.idle_since;
        let since = idle_since.get().unwrap_or_else(Instant::now);
        idle_since.set(Some(since));
        if since.elapsed() <= self.patience {
            return Ok(());
        }
        let message = format!(
            "{}: logins are due, but others have locked their rows; nothing was sent for them",
            self.link.shown()
        );
        Err(Error::temporary(message).with_hint(Hint::fixed(
            "find out who has a transaction open there (pg_stat_activity), or wait longer with --lock-timeout",
            "请查明是谁未结束事务（pg_stat_activity），或用 --lock-timeout 延长等待时间",
        )))
    }

    /// The error for an app that is skipped in this run, though it has due logins.
    fn reason_to_leave(&self, app: &DueApp, due: &Due) -> Option<Error> {
        let store = self.link.shown();
        let held = Some(app.held).filter(|held| *held > due.max_wait && !due.spacing.is_zero());
        let held = held.map(|held| held_back(store, &app.key, held));
        held.or_else(|| self.round.given_up(&app.key, store))
    }

    /// How many logins of an app may be claimed now: at most as many as can be sent when their slots come.
    fn room_for(&self, app: &DueApp, spacing: Duration, room: usize) -> usize {
        let now = machine::uptime();
        let leased = self.leased.borrow();
        let of_app = leased.values().filter(|leased| leased.app == app.key);
        let begun = of_app.filter(|leased| leased.slot.is_none_or(|slot| slot <= now));
        let batch = batch(spacing);
        // Without a pace, no slot is missed.
        let is_paced = app.queue.is_some() && !spacing.is_zero();
        let most = CLAIMS_UNDER_WAY * batch;
        let most = if is_paced {
            most.min(MOST_REQUESTS)
        } else {
            most
        };
        let left = most.saturating_sub(begun.count());
        app.logins.min(batch).min(left).min(room)
    }

    fn asked(&self, due: &Due, most: usize) -> DueQuery<'_> {
        let span = |time: Duration| time.min(LONGEST).as_secs_f64();
        let left_alone = self.round.left_alone.borrow();
        let mut under_way: Vec<String> = left_alone.iter().cloned().collect();
        under_way.extend(self.leased.borrow().keys().cloned());
        DueQuery {
            run: self,
            access: due.min_ttl.map(span),
            refresh: due.keep_alive.map(span),
            began: self.round.began.get(),
            most: i64::try_from(most).unwrap_or(i64::MAX),
            under_way,
        }
    }

    async fn due_apps(&self, due: &Due) -> Result<Vec<DueApp>> {
        let statements = self.round.statements(due, &self.link.keys);
        let asked = self.asked(due, MOST_CLAIMED);
        let parameters = asked.parameters();
        let found = self
            .link
            .run(&statements.due_apps, &parameters, self.deadline());
        let (rows, _) = found.await?;
        let apps = rows.iter().map(|row| {
            let logins: i64 = field(row, 2)?;
            let (queue, held): (Option<f64>, Option<f64>) = (field(row, 3)?, field(row, 4)?);
            Ok(DueApp {
                key: (field(row, 0)?, field(row, 1)?),
                logins: usize::try_from(logins).unwrap_or_default(),
                queue: queue.map(span),
                held: held.map(span).unwrap_or_default(),
            })
        });
        let apps: Result<_, StatementError> = apps.collect();
        apps.map_err(|failed| failed.error(self.link.shown()))
    }

    /// Claims due and free logins of an app, with slots if the app is paced; none if it is another run's turn.
    async fn claim_due(
        self: &Rc<Self>,
        app: &AppKey,
        most: usize,
        is_paced: bool,
        due: &Due,
    ) -> Result<Option<Claimed>> {
        let _claiming = self.round.claiming.lock().await;
        let statements = self.round.statements(due, &self.link.keys);
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
        let end = end.map_err(|failed| failed.error(self.link.shown()))?;
        rows.retain(|row| name(row).is_some());
        self.note_claims(app, &rows, (asked_at, most, due.spacing), end.flatten())
            .await;
        let reader = self.link.reader(&connection, false);
        let read = |row: &Row| Some((name(row)?.to_owned(), reader.read(row)));
        let logins: Vec<_> = rows.iter().filter_map(read).collect();
        if is_paced && end.flatten().is_none() {
            return Ok(None);
        }
        let claim = |stored| NextLogin::Refresh(PostgresClaim::of_many(Rc::clone(self), stored));
        let claims = logins
            .into_iter()
            .map(|(name, read)| (name, read.map(claim)));
        Ok(Some(claims.collect()))
    }

    /// Notes the leases that came with a claim, and the slot of each login; returns the slots that are left over.
    async fn note_claims(
        &self,
        app: &AppKey,
        rows: &[Row],
        (asked_at, most, spacing): (Duration, usize, Duration),
        end: Option<(Duration, Timestamp)>,
    ) {
        let until_end = end.map_or(Duration::ZERO, |(until_end, _)| until_end);
        let lease = Lease::until_after_slot(asked_at, until_end, self.request);
        // From before it was asked for: a slow answer must not delay a slot.
        let first = until_end.saturating_sub(times(spacing, most));
        let first = asked_at.saturating_add(first);
        for (number, name) in rows.iter().filter_map(name).enumerate() {
            *self.leased(name) = LeasedLogin {
                lease: Some(lease),
                app: app.clone(),
                slot: end.map(|_| first.saturating_add(times(spacing, number))),
                is_in_doubt: false,
            };
        }
        let unused = times(spacing, most.saturating_sub(rows.len()));
        if let Some((_, end)) = end.filter(|_| !unused.is_zero()) {
            let (end, unused) = (Some(end), Some(unused.as_secs_f64()));
            let parameters = [text(&app.0), text(&app.1), moment(&end), seconds(&unused)];
            let given_back = self
                .link
                .try_in_passing(statements::GIVE_SLOTS_BACK, &parameters);
            given_back.await;
        }
    }

    /// Makes sure that no due login needs a key that this run lacks: such logins are left to runs that have it.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if there is such a login.
    async fn check_foreign(&self, due: &Due) -> Result<()> {
        let statements = self.round.statements(due, &self.link.keys);
        let asked = self.asked(due, 1);
        let parameters = asked.parameters();
        let found = self
            .link
            .run(&statements.foreign, &parameters, self.deadline());
        let (rows, _) = found.await?;
        match rows.first().and_then(name) {
            Some(login) => self.look(login, false, self.deadline()).await.map(drop),
            None => Ok(()),
        }
    }

    /// Ends a run over many logins: releases all that it still holds.
    pub(super) async fn end_round(&self) {
        // What is being claimed right now is released, too.
        let _claiming = timeout(CLAIM_LIMIT, self.round.claiming.lock()).await;
        self.release_all().await;
    }
}

/// How many logins of an app are claimed at once: as many as have slots within the longest allowed queue.
fn batch(spacing: Duration) -> usize {
    let fitting = LONGEST_QUEUE.as_micros() / spacing.as_micros().max(1);
    usize::try_from(fitting)
        .unwrap_or(MOST_CLAIMED)
        .clamp(1, MOST_CLAIMED)
}

fn times(spacing: Duration, number: usize) -> Duration {
    spacing.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A pause, and a little more, so that many runs do not query all at once.
fn spread(pause: Duration) -> Duration {
    let [chance] = sealing::random().unwrap_or([128]);
    pause + NEXT_LOOK.mul_f64(f64::from(chance) / 255.0)
}

/// The time until the last slot of a claim ends, and that end by the database's clock.
fn slots_end(row: &Row) -> Result<Option<(Duration, Timestamp)>, StatementError> {
    let (end, until_end): (Option<Timestamp>, Option<f64>) = (field(row, 0)?, field(row, 1)?);
    Ok(until_end.map(span).zip(end))
}

fn name(row: &Row) -> Option<&str> {
    row.try_get("name").ok()
}
