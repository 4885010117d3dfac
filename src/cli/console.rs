//! The world around a run: arguments apart, all that a run reads from, and writes to, beside the store.

use std::ffi::OsString;
use std::io::{Read, Write};

/// The world around a run, so that a run can be had in any.
pub struct Console<'a> {
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Where a secret given as `-` is read from.
    pub stdin: Box<dyn Read + Send>,
    /// Whether a person types there.
    pub stdin_is_terminal: bool,
    /// For the token.
    pub stdout: &'a mut dyn Write,
    /// For people.
    pub stderr: &'a mut dyn Write,
    /// Whether a person is watching stdout.
    pub stdout_is_terminal: bool,
    /// Whether a person is watching stderr.
    pub stderr_is_terminal: bool,
}

/// Whether an environment variable is set and not empty.
pub(super) fn has(env: &dyn Fn(&str) -> Option<OsString>, name: &str) -> bool {
    env(name).is_some_and(|value| !value.is_empty())
}
