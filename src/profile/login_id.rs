//! Which login: a name, and the store that keeps it.

use std::fmt;

use crate::error::{Error, Hint, Result};
use crate::token::is_plausible;

/// The section that is not a login: its values apply to all others.
pub(crate) const NO_PROFILE: &str = "DEFAULT";

/// Refuses what cannot be a login's name, which is a section's name, even in a store without sections, so that a login
/// can move.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if is_plausible(name) && !name.contains(']') && name != NO_PROFILE {
        return Ok(());
    }
    Err(
        Error::config("the profile's name cannot be a section's name").with_hint(Hint::fixed(
            "a profile is a section of the file, like TOKEN; [DEFAULT] is not one",
            "profile 是配置文件中的一个节，例如 TOKEN；[DEFAULT] 不能用作 profile",
        )),
    )
}

/// Which login, for messages: a profile, and the store that keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoginId {
    pub(crate) profile: String,
    /// The file's path.
    pub(crate) store: String,
}

impl fmt::Display for LoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] of {}", self.profile, self.store)
    }
}
