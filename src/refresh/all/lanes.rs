//! Whose turn it is to send.
//!
//! Promises:
//! - Between two requests to one app of one host lies at least the spacing, which keeps a run within
//!   the documented limits: 50 a second, 1,000 a minute.
//! - Few requests are under way to one host, and so few connections.
//! - Who asks again goes before those that have not asked yet: a reply may have been lost.
//! - Nothing is sent while the lanes are closed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::config::{AppProof, Order};
use crate::token::Fingerprint;

/// How many requests to one host may be under way.
const MOST_UNDER_WAY: usize = 16;

/// The lanes of a run.
pub(super) struct Lanes {
    spacing: Duration,
    hosts: RefCell<HashMap<String, Arc<Semaphore>>>,
    apps: RefCell<HashMap<(String, String), Rc<Lane>>>,
    is_closed: Cell<bool>,
    opened: Notify,
}

/// The lane of one app on one host.
struct Lane {
    /// Those that ask for the first time stand here, one behind the other.
    queue: Mutex<()>,
    /// When the next may go.
    next: Cell<Instant>,
}

/// The right to send one request.
pub(super) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    pub(super) fn new(spacing: Duration) -> Self {
        Lanes {
            spacing,
            hosts: RefCell::default(),
            apps: RefCell::default(),
            is_closed: Cell::new(false),
            opened: Notify::new(),
        }
    }

    /// Waits for the turn of an order; `is_again` if it was sent before.
    pub(super) async fn turn(&self, order: &Order, is_again: bool) -> Turn {
        let lane = self.lane(order);
        let host = self.host(&order.base_url);
        let _queue = if is_again {
            None
        } else {
            Some(lane.queue.lock().await)
        };
        loop {
            let opened = self.opened.notified();
            if self.is_closed.get() {
                opened.await;
                continue;
            }
            // It is never closed.
            let permit = Arc::clone(&host).acquire_owned().await.ok();
            let start = lane.next.get().max(Instant::now());
            lane.next.set(start + self.spacing);
            if !self.spacing.is_zero() {
                sleep_until(start).await;
                // Counted from when it really goes: a late one must not come close to the next.
                lane.next
                    .set(lane.next.get().max(Instant::now() + self.spacing));
            }
            if !self.is_closed.get() {
                return Turn { _permit: permit };
            }
        }
    }

    /// Lets nobody send.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
    }

    /// Whether nobody may send.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Lets those that wait go on.
    pub(super) fn open(&self) {
        self.is_closed.set(false);
        self.opened.notify_waiters();
    }

    fn host(&self, base_url: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.borrow_mut();
        let new = || Arc::new(Semaphore::new(MOST_UNDER_WAY));
        Arc::clone(hosts.entry(base_url.to_owned()).or_insert_with(new))
    }

    fn lane(&self, order: &Order) -> Rc<Lane> {
        let mut apps = self.apps.borrow_mut();
        let new = || {
            Rc::new(Lane {
                queue: Mutex::new(()),
                next: Cell::new(Instant::now()),
            })
        };
        let key = (order.base_url.clone(), app(order));
        Rc::clone(apps.entry(key).or_insert_with(new))
    }
}

/// What tells apps apart.
fn app(order: &Order) -> String {
    match &order.app {
        AppProof::None => String::new(),
        AppProof::App(app) | AppProof::Fetch { app, .. } => app.id.clone(),
        AppProof::Token { token, renewable } => match renewable {
            Some(app) => app.id.clone(),
            None => Fingerprint::of(token).to_string(),
        },
    }
}
