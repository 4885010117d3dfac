//! How long a file that looks half written is reread: another program may be writing it.
//!
//! What counts is whether the text still changes. File times are not used: they can be wrong.

use std::thread;
use std::time::{Duration, Instant};

/// How often it is read.
const LOOK: Duration = Duration::from_millis(20);

/// The longest wait, even if the file keeps changing.
const MOST: Duration = Duration::from_secs(2);

pub(super) struct Rereading {
    /// A text that has not changed for this long is complete.
    still: Duration,
    began: Instant,
    last: Option<Vec<u8>>,
    unchanged_since: Instant,
}

impl Rereading {
    /// For a text that decides where a pair goes.
    pub(super) fn long() -> Self {
        Rereading::of(Duration::from_millis(300))
    }

    /// For a text that matters only to this run.
    pub(super) fn short() -> Self {
        Rereading::of(Duration::from_millis(100))
    }

    fn of(still: Duration) -> Self {
        let now = Instant::now();
        Rereading {
            still,
            began: now,
            last: None,
            unchanged_since: now,
        }
    }

    /// How long to wait before rereading a text found like this; none if it is to be taken as it is.
    pub(super) fn pause(&mut self, found: Option<&[u8]>) -> Option<Duration> {
        let now = Instant::now();
        let found = found.unwrap_or_default();
        if self.last.as_deref() != Some(found) {
            self.last = Some(found.to_vec());
            self.unchanged_since = now;
        }
        let is_still = now - self.unchanged_since >= self.still;
        (!is_still && now - self.began < MOST).then_some(LOOK)
    }

    /// Waits, if the text is to be reread.
    pub(super) fn wait(&mut self, found: Option<&[u8]>) -> bool {
        let pause = self.pause(found);
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        pause.is_some()
    }
}
