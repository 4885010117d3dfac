//! Whose turn it is to send.
//!
//! Promises:
//! - Two requests to one app of one host are at least the spacing apart, which keeps a run within
//!   the documented limits: 50 a second, 1,000 a minute. If the server asks to wait, the whole app
//!   waits.
//! - Runs on many hosts that share a store share the pace of each app, too: each request has its own
//!   slot, and a missed slot is not used late.
//! - Few requests are in progress to one host, and so few connections. A host that answers none of them
//!   is given up.
//! - Retries go before this run's first requests: a reply may have been lost.
//! - Nothing is sent while it is closed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::{Error, Hint, Result};
use crate::platform::machine;
use crate::profile::{AppProof, RefreshPlan};
use crate::protocol::Refusal;
use crate::store::many::{Due, MOST_REQUESTS, Slots};
use crate::token::Fingerprint;

/// The time between two requests to one app, unless `--rate` says otherwise. Both documented limits, 50 requests a second
/// and 1,000 a minute, are respected with one each 62 ms: one each 60 would be the limit itself.
pub(crate) const DOCUMENTED_SPACING: Duration = Duration::from_millis(62);

/// A host that left this many requests in a row unanswered gets no more.
const MOST_SILENT: u32 = 48;

/// A shared slot missed by more than this is not used: the next ones are due by then, and all together would exceed the
/// limit of a minute.
const LATEST: Duration = Duration::from_millis(900);

/// The pace of a run over many logins.
pub(crate) struct Pace {
    spacing: Duration,
    /// What runs on many hosts share.
    slots: Option<Rc<dyn Slots>>,
    /// The longest wait that a server may ask for.
    max_wait: Duration,
    hosts: RefCell<HashMap<String, Rc<HostPace>>>,
    apps: RefCell<HashMap<(String, String), Rc<AppPace>>>,
    is_closed: Rc<Cell<bool>>,
    opened: Notify,
}

/// What all apps on one host share.
struct HostPace {
    permits: Arc<Semaphore>,
    /// How many requests in a row had no answer.
    silent: Cell<u32>,
}

/// The lane of one app on one host.
struct AppPace {
    /// First requests queue here.
    queue: Mutex<()>,
    /// When the next may be sent.
    next: Cell<Instant>,
    /// When the last was sent.
    last: Cell<Instant>,
    /// Until when the server accepts no more.
    held_until: Cell<Instant>,
}

/// The right to send one request.
pub(super) struct SendPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pace {
    pub(crate) fn new(due: &Due, slots: Option<Rc<dyn Slots>>) -> Self {
        Pace {
            spacing: due.spacing,
            slots,
            max_wait: due.max_wait,
            hosts: RefCell::default(),
            apps: RefCell::default(),
            is_closed: Rc::default(),
            opened: Notify::new(),
        }
    }

    /// Waits for the turn of a login's plan; `is_again` if it was sent before.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the server must not be asked any more.
    pub(super) async fn permit(
        &self,
        login: &str,
        plan: &RefreshPlan,
        is_again: bool,
    ) -> Result<SendPermit> {
        let (app_pace, host) = (self.app_pace(plan), self.host(plan));
        let (mut queue, mut kept) = (None, None);
        loop {
            if !self.is_free(&app_pace) {
                kept = None;
            }
            self.wait_until_free(plan, &app_pace, &host).await?;
            let slot = self.shared_slot(login).await?;
            if let Some(slot) = slot {
                let wait = slot.saturating_sub(machine::uptime());
                kept = kept.filter(|_| wait < LATEST);
                sleep(wait).await;
            } else {
                if queue.is_none() && !is_again {
                    queue = Some(app_pace.queue.lock().await);
                    continue;
                }
                let start = app_pace.next.get().max(Instant::now());
                app_pace.next.set(start + self.spacing);
                if !self.spacing.is_zero() {
                    sleep_until(start).await;
                }
            }
            let permit = match kept.take() {
                // It is never closed.
                None => Arc::clone(&host.permits).acquire_owned().await.ok(),
                kept => kept,
            };
            let now = Instant::now();
            let has_missed = match slot {
                Some(slot) => machine::uptime() > slot + LATEST,
                None => now < app_pace.last.get() + self.spacing && !self.spacing.is_zero(),
            };
            if !self.is_free(&app_pace) {
                continue;
            }
            if has_missed {
                // Not while holding a permit, which other apps could use; but a shared slot comes soon, and if this one
                // missed it, others would, too.
                kept = permit.filter(|_| slot.is_some());
                continue;
            }
            // Counted from when it is really sent: a late one must not come close to the next.
            app_pace.last.set(now);
            app_pace
                .next
                .set(app_pace.next.get().max(now + self.spacing));
            return Ok(SendPermit { _permit: permit });
        }
    }

    /// A slot that no other run has, where runs share them.
    async fn shared_slot(&self, login: &str) -> Result<Option<Duration>> {
        match &self.slots {
            Some(slots) if !self.spacing.is_zero() => {
                slots.next(login, self.spacing, self.max_wait).await
            }
            _ => Ok(None),
        }
    }

    fn is_free(&self, app_pace: &AppPace) -> bool {
        !self.is_closed.get() && app_pace.held_until.get() <= Instant::now()
    }

    /// Waits until sending is allowed.
    async fn wait_until_free(
        &self,
        plan: &RefreshPlan,
        app_pace: &AppPace,
        host: &HostPace,
    ) -> Result<()> {
        loop {
            let opened = self.opened.notified();
            if self.is_closed.get() {
                opened.await;
                continue;
            }
            if host.silent.get() >= MOST_SILENT {
                return Err(given_up(plan));
            }
            let (held, now) = (app_pace.held_until.get(), Instant::now());
            if held <= now {
                return Ok(());
            }
            if held - now > self.max_wait {
                return Err(held_back(plan, held - now));
            }
            sleep_until(held).await;
        }
    }

    /// Learns from the result of a login's request.
    pub(super) async fn learn(&self, login: &str, plan: &RefreshPlan, refusal: Option<&Refusal>) {
        let host = self.host(plan);
        let silent = if refusal.is_none_or(|refusal| refusal.is_answer) {
            0
        } else {
            host.silent.get() + 1
        };
        host.silent.set(silent);
        let refusal = refusal.filter(|refusal| !refusal.is_of_one_login);
        if let Some(wait) = refusal.and_then(|refusal| refusal.wait) {
            let app_pace = self.app_pace(plan);
            let until = Instant::now() + wait;
            app_pace
                .held_until
                .set(app_pace.held_until.get().max(until));
            if let Some(slots) = &self.slots {
                slots.hold(login, wait).await;
            }
        }
    }

    /// Stops all sending.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
    }

    /// Tells whether sending is stopped.
    pub(crate) fn closing(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_closed)
    }

    /// Waits until sending is allowed again.
    pub(crate) async fn is_open(&self) {
        while self.is_closed.get() {
            self.opened.notified().await;
        }
    }

    /// Whether sending is stopped.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Wakes those that wait.
    pub(crate) fn open(&self) {
        self.is_closed.set(false);
        self.opened.notify_waiters();
    }

    fn host(&self, plan: &RefreshPlan) -> Rc<HostPace> {
        let mut hosts = self.hosts.borrow_mut();
        let new = || {
            Rc::new(HostPace {
                permits: Arc::new(Semaphore::new(MOST_REQUESTS)),
                silent: Cell::new(0),
            })
        };
        Rc::clone(hosts.entry(plan.address.origin()).or_insert_with(new))
    }

    fn app_pace(&self, plan: &RefreshPlan) -> Rc<AppPace> {
        let mut apps = self.apps.borrow_mut();
        let now = Instant::now();
        let new = || {
            Rc::new(AppPace {
                queue: Mutex::new(()),
                next: Cell::new(now),
                last: Cell::new(now.checked_sub(self.spacing).unwrap_or(now)),
                held_until: Cell::new(now),
            })
        };
        let key = (plan.address.origin(), app(plan));
        Rc::clone(apps.entry(key).or_insert_with(new))
    }
}

/// What tells apps apart.
fn app(plan: &RefreshPlan) -> String {
    match &plan.app {
        AppProof::None => String::new(),
        AppProof::App(app) | AppProof::Fetch { app, .. } => app.id.clone(),
        AppProof::PublicApp(id) => id.clone(),
        AppProof::Token { token, renewable } => match renewable {
            Some(app) => app.id.clone(),
            None => Fingerprint::of(token).to_string(),
        },
    }
}

fn given_up(plan: &RefreshPlan) -> Error {
    let message = format!(
        "{}: its host has answered none of the last {MOST_SILENT} requests; nothing more was sent",
        plan.subject
    );
    Error::temporary(message).with_hint(Hint::fixed("run again later", "请稍后重试"))
}

fn held_back(plan: &RefreshPlan, wait: Duration) -> Error {
    let message = format!(
        "{}: the server has asked its app to wait {} s; nothing more was sent",
        plan.subject,
        wait.as_secs()
    );
    Error::temporary(message).with_hint(Hint::fixed(
        "run again after that time, or allow so long a wait with --max-wait",
        "请在该时间之后重试，或用 --max-wait 允许更长的等待",
    ))
}
