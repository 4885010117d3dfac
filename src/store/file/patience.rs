//! How long a file that looks half written is looked at again: another program may be writing it.
//!
//! What counts is whether the text still changes. No file time is asked: those can be wrong.

use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A file is waited for no longer, even if it never comes to rest.
const MOST: Duration = Duration::from_secs(2);

pub(super) struct Patience {
    /// A text that has not changed for so long is whole.
    still: Duration,
    began: Instant,
    last: Option<Vec<u8>>,
    unchanged_since: Instant,
}

impl Patience {
    /// For a text on which hangs where a pair goes.
    pub(super) fn long() -> Self {
        Patience::of(Duration::from_millis(300))
    }

    /// For a text that nothing hangs on but this run.
    pub(super) fn short() -> Self {
        Patience::of(Duration::from_millis(100))
    }

    fn of(still: Duration) -> Self {
        let now = Instant::now();
        Patience {
            still,
            began: now,
            last: None,
            unchanged_since: now,
        }
    }

    /// How long to wait before another look at a text that was found like this; none if it is to be
    /// taken as it is.
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

    /// Waits, if there is to be another look.
    pub(super) fn wait(&mut self, found: Option<&[u8]>) -> bool {
        let pause = self.pause(found);
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        pause.is_some()
    }
}
