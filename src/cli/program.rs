//! What the program does for one refresh beside it: signals wait while a token is at risk, and a command of the user's
//! runs after the save.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::args::Cli;
use super::{hook, output};
use crate::error::{Error, Result};
use crate::platform::signals::Mask;
use crate::refresh::{AfterSave, Hooks, Options, SavedTokens};

/// What the program does for a refresh at its turning points.
pub(super) struct Program<'a> {
    mask: &'a mut Mask,
    /// The command of `--on-refresh`.
    hook: Option<&'a str>,
    options: &'a Options,
    /// Where GitHub's runner learns which words to hide, before the command can show them.
    pub(super) masks: Option<&'a mut dyn Write>,
    /// How that command failed.
    pub(super) failure: Option<Error>,
}

impl<'a> Program<'a> {
    pub(super) fn new(cli: &'a Cli, options: &'a Options, mask: &'a mut Mask) -> Self {
        Program {
            mask,
            hook: cli.on_refresh(),
            options,
            masks: None,
            failure: None,
        }
    }

    /// Passes on what a run came to. A command that failed beside a worse failure is mentioned.
    pub(super) fn result<T>(&self, result: Result<T>) -> Result<T> {
        if let (Err(_), Some(failure)) = (&result, &self.failure) {
            ::log::warn!("{failure}");
        }
        result
    }
}

impl Hooks for Program<'_> {
    fn defer_signals(&mut self) {
        self.mask.defer();
    }

    fn deliver_signals(&mut self) {
        // A failure is told before a signal counts.
        if self.failure.is_none() {
            self.mask.deliver();
        }
    }

    fn hurry(&mut self) -> Box<dyn Fn() -> bool> {
        let (gate, waits) = (self.mask.gate(), Arc::new(AtomicBool::new(false)));
        let is_watched = Cell::new(false);
        // The thread that looks out for signals is only for saves that fail.
        Box::new(move || {
            if !is_watched.replace(true) {
                let waits = Arc::clone(&waits);
                // Without a thread, a signal waits until the save is given up.
                let _ = gate.watch(Box::new(move || waits.store(true, Ordering::Relaxed)));
            }
            waits.load(Ordering::Relaxed)
        })
    }

    fn saved<'a>(&'a mut self, saved_tokens: SavedTokens<'a>) -> AfterSave<'a> {
        let tokens = saved_tokens.tokens;
        if let Some(masks) = self.masks.as_mut().filter(|_| self.hook.is_some()) {
            let secrets = [&tokens.access_token, &tokens.refresh_token];
            for secret in secrets.into_iter().flatten() {
                // Whether stdout takes anything, the result will show.
                let _ = masks.write_all(output::masked(secret).as_bytes());
            }
            let _ = masks.flush();
        }
        if let Some(command) = self.hook {
            self.failure = hook::work(command, self.options, &saved_tokens)().err();
        }
        Box::pin(async {})
    }
}
