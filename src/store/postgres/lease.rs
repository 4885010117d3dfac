//! A lease: for how long this run alone may spend a login's token.
//!
//! Promise: it is thought shorter than the database thinks it, never longer. Counted is from before it
//! was asked for, by a clock that runs while the machine sleeps.

use std::time::Duration;

use crate::platform::machine;

/// What a request can take beyond its own limit: to get ready for it, and a last look at the connection.
const MARGIN: Duration = Duration::from_secs(5);

/// What a lease lasts beyond that, so that it need not be renewed at once.
const SPARE: Duration = Duration::from_secs(15);

/// No request takes longer: a year.
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
    /// How long a lease must last, where a request may take so long.
    pub(super) fn length(request: Duration) -> Duration {
        request.min(LONGEST_REQUEST) + MARGIN + SPARE
    }

    /// A lease that is asked for now.
    pub(super) fn asked_for(request: Duration) -> Self {
        Lease {
            ends: machine::uptime().saturating_add(Lease::length(request)),
            needed: request.min(LONGEST_REQUEST) + MARGIN,
        }
    }

    /// Whether it outlasts a request that is sent now.
    pub(super) fn covers_a_request(&self) -> bool {
        machine::uptime().saturating_add(self.needed) <= self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_covers_a_request_until_too_little_is_left() {
        let request = Duration::from_secs(30);
        let mut lease = Lease::asked_for(request);
        assert!(lease.covers_a_request());
        lease.ends = lease.ends.checked_sub(SPARE).unwrap_or_default();
        assert!(!lease.covers_a_request());
        assert!(Lease::asked_for(Duration::MAX).covers_a_request());
    }
}
