//! A lease: how long this run has the exclusive right to spend a login's token.
//!
//! Promise: this run never thinks it longer than the database does. It is counted from before it was asked for, by a
//! clock that runs while the machine sleeps.

use std::time::Duration;

use crate::platform::machine;

/// What a request can take beyond its own limit: preparing it, and a last read of the connection.
const MARGIN: Duration = Duration::from_secs(5);

/// How much longer a lease lasts, so that it need not be renewed at once.
const SPARE: Duration = Duration::from_secs(15);

/// The same for a lease that lasts until its request's slot has come.
const SPARE_AFTER_SLOT: Duration = Duration::from_secs(5);

/// The longest a request takes: a year.
const LONGEST_REQUEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A lease that this run was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// When it ends, by this machine's uptime.
    ends: Duration,
    /// The time that one request must have.
    needed: Duration,
}

impl Lease {
    /// How long a lease must last, if a request may take this long.
    pub(super) fn length(request: Duration) -> Duration {
        request.min(LONGEST_REQUEST) + MARGIN + SPARE
    }

    /// A lease requested now.
    pub(super) fn asked_for(request: Duration) -> Self {
        Lease {
            ends: machine::uptime().saturating_add(Lease::length(request)),
            needed: request.min(LONGEST_REQUEST) + MARGIN,
        }
    }

    /// How long a lease must last after the last slot that was taken with it.
    pub(super) fn length_after_slot(request: Duration) -> Duration {
        request.min(LONGEST_REQUEST) + MARGIN + SPARE_AFTER_SLOT
    }

    /// A lease requested at this uptime, which ends some time after its slot.
    pub(super) fn until_after_slot(
        asked_at: Duration,
        until_slot: Duration,
        request: Duration,
    ) -> Self {
        let until_slot = until_slot.saturating_add(Lease::length_after_slot(request));
        Lease {
            ends: asked_at.saturating_add(until_slot),
            needed: request.min(LONGEST_REQUEST) + MARGIN,
        }
    }

    /// Whether it outlasts a request that is sent after this pause.
    pub(super) fn covers_a_request(&self, pause: Duration) -> bool {
        let sent_at = machine::uptime().saturating_add(pause);
        sent_at.saturating_add(self.needed) <= self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_covers_a_request_until_too_little_is_left() {
        let request = Duration::from_secs(30);
        let mut lease = Lease::asked_for(request);
        assert!(lease.covers_a_request(Duration::ZERO));
        lease.ends = lease.ends.checked_sub(SPARE).unwrap_or_default();
        assert!(!lease.covers_a_request(Duration::ZERO));
        assert!(Lease::asked_for(Duration::MAX).covers_a_request(Duration::ZERO));
    }
}
