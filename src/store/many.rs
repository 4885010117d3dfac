//! What a run over many logins needs from a store besides.

use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::{PerLogin, Store};
use crate::error::Result;
use crate::profile::{Overrides, Snapshot, View};

/// A store that gives many logins to one run.
pub(crate) trait ManyLogins: Store {
    /// Whether it gives all its logins at once, in an order that people know.
    const HAS_ORDER: bool;

    /// What it says about all logins that have a refresh token, in its order. None if it has no order.
    fn look_at_all(&self) -> Result<Vec<PerLogin<Snapshot>>>;

    /// Does all waiting that must precede any risk, until `deadline`.
    async fn begin(&self, given: Overrides<'_>, due: &Due, deadline: Instant) -> Result<()>;

    /// Claims more of the due logins: a database at most `room` of them, a file all.
    async fn claim_more(&self, due: &Due, room: usize) -> Result<More<Self::Claim>>;

    /// Releases all that this run still holds: it is about to end.
    async fn give_all_back(&self) {}

    /// The pace that all runs share, if they do.
    fn slots(&self) -> Option<Rc<dyn Slots>> {
        None
    }
}

/// How many requests to one host may be in progress.
pub(crate) const MOST_REQUESTS: usize = 16;

/// Which logins a run over many logins refreshes, and how fast.
pub(crate) struct Due {
    /// Those whose access token is not valid for longer than this;
    pub(crate) min_ttl: Option<Duration>,
    /// and those whose refresh token is not. Without both, all.
    pub(crate) keep_alive: Option<Duration>,
    /// A store shared by many runs leaves out what was refreshed since then.
    pub(crate) begun: Instant,
    /// The time between two requests to one app.
    pub(crate) spacing: Duration,
    /// The longest wait that a server may ask for.
    pub(crate) max_wait: Duration,
}

impl Due {
    /// Whether a login is valid long enough, so that it is left out.
    pub(crate) fn leaves_out(&self, view: &View<'_>) -> bool {
        let (min_ttl, keep_alive) = (self.min_ttl.map(signed), self.keep_alive.map(signed));
        (min_ttl.is_some() || keep_alive.is_some())
            && min_ttl.is_none_or(|least| view.still_valid(least).is_some())
            && keep_alive.is_none_or(|least| view.is_alive_for(least))
    }
}

fn signed(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}

/// What a run over many logins does next.
pub(crate) enum More<C> {
    /// These logins are next.
    Logins(Vec<PerLogin<NextLogin<C>>>),
    /// None yet, but perhaps after this time.
    Later(Duration),
    /// No more.
    Nothing,
}

/// What is next for a login.
pub(crate) enum NextLogin<C> {
    Refresh(C),
    /// It is valid long enough.
    LeftOut(Box<Snapshot>),
}

/// A pace that runs on many hosts share.
pub(crate) trait Slots {
    /// When the next request for a login's app may go out, by [`machine::uptime`]; none if there is no pace for it. Two
    /// are `spacing` apart; an error if the app is held for longer than `max_wait`.
    ///
    /// [`machine::uptime`]: crate::platform::machine::uptime
    fn next<'a>(&'a self, login: &'a str, spacing: Duration, max_wait: Duration)
    -> PendingSlot<'a>;

    /// The server wants no request for a login's app for this long.
    fn hold<'a>(&'a self, login: &'a str, wait: Duration) -> PendingHold<'a>;
}

/// A pending slot.
pub(crate) type PendingSlot<'a> = Pin<Box<dyn Future<Output = Result<Option<Duration>>> + 'a>>;

/// A pending hold.
pub(crate) type PendingHold<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
