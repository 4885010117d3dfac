//! Whether and when to send again after a transient failure.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::options::Options;
use crate::error::{Error, Hint};
use crate::protocol::Refusal;

/// The first pause between attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Pauses stop growing after this many doublings.
const DOUBLINGS: u32 = 4;

/// A pause that is longer than this is announced: a program that does nothing looks hung.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// The retries that a run has.
#[derive(Clone)]
pub(crate) struct Retries {
    max_wait: Duration,
    /// How many attempts may follow the first.
    most: u32,
    /// How many failed.
    failed: u32,
}

impl Retries {
    pub(crate) fn new(options: &Options) -> Self {
        Retries {
            max_wait: options.max_wait,
            most: options.retries,
            failed: 0,
        }
    }

    /// Whether a retry was used.
    pub(super) fn is_begun(&self) -> bool {
        self.failed > 0
    }

    /// How long to wait before the next attempt, if there is one.
    ///
    /// Up to half is cut at random, so that many runs do not come back at once; a longer wait asked by the server takes
    /// precedence.
    pub(crate) fn pause(&mut self, refusal: &mut Refusal) -> Option<Duration> {
        static TOO_LONG: Hint = Hint::fixed(
            "run again after that time, or allow so long a wait with --max-wait",
            "请在该时间之后重试，或用 --max-wait 允许更长的等待",
        );
        if !refusal.is_passing() {
            return None;
        }
        let wait = refusal.wait.unwrap_or_default();
        if wait > self.max_wait {
            refusal.hint = Some(&TOO_LONG);
            return None;
        }
        if self.failed >= self.most {
            return None;
        }
        let half = FIRST_PAUSE / 2 * 2u32.pow(self.failed.min(DOUBLINGS));
        self.failed += 1;
        let mut random = [u8::MAX];
        // Without random numbers, the pauses are just not spread.
        let _ = SystemRandom::new().fill(&mut random);
        let pause = half + half * u32::from(random[0]) / u32::from(u8::MAX);
        Some(pause.max(wait))
    }
}

/// Reports a failure that is followed by another attempt.
pub(crate) fn log_retry(error: &Error, pause: Duration) {
    let said = format!("{error}; trying again in {:.1} s", pause.as_secs_f64());
    if pause > LONG_PAUSE {
        log::warn!("{said}");
    } else {
        log::info!("{said}");
    }
}
