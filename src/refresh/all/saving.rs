//! What goes on beside the profiles' stories: saves in groups, and heed of signals.

use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::future::select;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Event;
use super::story::AllProfiles;

/// The file is saved no more often than this.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// How long a listener may take for the last words before a signal does its work.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl AllProfiles<'_> {
    /// Serves the profiles for as long as the run lasts.
    pub(super) async fn serve(&self) {
        let signal = Arc::new(Notify::new());
        let tell = Arc::clone(&signal);
        let watch = Box::new(move || tell.notify_one());
        self.helper.borrow_mut().when_a_signal_waits(watch);
        let (saving, heeding) = (pin!(self.keep_saving()), pin!(self.heed_signals(&signal)));
        select(saving, heeding).await;
    }

    /// Saves what has come.
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
            let pending = self.ledger.borrow().pending();
            if pending == 0 {
                changed.await;
                continue;
            }
            let latest = *first.get_or_insert_with(|| Instant::now() + SAVE_INTERVAL);
            let nobody_may_send = self.lanes.is_closed() && self.at_stake.get() <= pending;
            let due = if self.unanswered.get() == 0 || nobody_may_send {
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
            let (sender, said) = mpsc::channel();
            if self.events.send(Event::LastWords(sender)).is_ok() {
                // Nothing is under way that could wait for this thread.
                let _ = said.recv_timeout(LAST_WORDS);
            }
            let mut helper = self.helper.borrow_mut();
            helper.deliver_signals();
            // It was one that this program ignores.
            helper.defer_signals();
            drop(helper);
            self.ledger.borrow_mut().resume();
            self.lanes.open();
        }
    }
}
