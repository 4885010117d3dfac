//! What a store says to people about its logins.

use jiff::Timestamp;

/// A run, and a time.
#[derive(Debug, Clone)]
pub(crate) struct RunAndTime {
    /// Host and process, for display.
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

/// What the server said about a stored token.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) at: Timestamp,
    pub(crate) words: String,
}

/// What a store knows about a login besides its values.
#[derive(Debug)]
pub(crate) struct LoginNotes {
    pub(crate) name: String,
    /// The lease's holder, and its end.
    pub(crate) lease: Option<RunAndTime>,
    pub(crate) refused: Option<Refused>,
    /// Who sent a token last, and when.
    pub(crate) sender: Option<RunAndTime>,
    /// Whether the server calls its token dead.
    pub(crate) is_dead: bool,
    /// Whether it is being moved from a file.
    pub(crate) is_held: bool,
}

/// How many logins of a store are in which state.
#[derive(Debug)]
pub(crate) struct LoginCounts {
    pub(crate) all: i64,
    /// Their access token is valid.
    pub(crate) valid: i64,
    /// It has expired, or its expiry is not known.
    pub(crate) due: i64,
    /// Their refresh token expires within the time that was asked for.
    pub(crate) ending: i64,
    /// It has expired.
    pub(crate) ended: i64,
    /// They failed, and are tried again later.
    pub(crate) failing: i64,
    /// The server calls their token dead.
    pub(crate) refused: i64,
    /// They are being moved from a file.
    pub(crate) held: i64,
}
