//! What a store says of a login.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::login_id::LoginId;
use super::values::Profile;
use crate::token::{Fingerprint, later};

/// What a store says of a login at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) login: LoginId,
    /// Whether the store has such a login at all, even an empty one.
    pub(crate) exists: bool,
    /// If not: the logins of the file that it could be confused with.
    pub(crate) others: Vec<String>,
    pub(crate) profile: Profile,
    /// How far the store's clock is ahead of this machine's: expiries follow the store's clock.
    pub(crate) clock_ahead: SignedDuration,
    /// The tokens that are known to be spent, and by which profiles.
    pub(crate) spent_by: Arc<HashMap<Fingerprint, String>>,
}

impl Snapshot {
    /// What time it is by the store's clock.
    pub(crate) fn now(&self) -> Timestamp {
        later(Timestamp::now(), self.clock_ahead)
    }

    /// The fingerprint of its refresh token.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.profile.pair.fingerprint()
    }
}
