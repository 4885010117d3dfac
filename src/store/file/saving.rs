//! One saving loop for all pairs of a run: take every record that has arrived, save once, repeat.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::journal::Journal;
use super::replay::Entry;
use super::sections::{self, SectionId, Text};
use super::settle::DesiredText;
use super::state::FileState;
use crate::error::Result;
use crate::profile::Successor;
use crate::token::Tokens;

/// A text to save, with all that this needs.
pub(super) struct SaveJob {
    file: PathBuf,
    disk: Disk,
    journal: Option<Arc<Journal>>,
    text: Arc<Text>,
    entries: Vec<Entry>,
    spare: u64,
}

/// The result.
pub(super) struct SaveResult {
    disk: Disk,
    text: Arc<Text>,
    entries: Vec<Entry>,
    fits: Result<Vec<bool>>,
    /// Whether another program may have changed the file.
    was_changed: bool,
}

impl SaveJob {
    /// Applies the journal to the file.
    pub(super) fn run(mut self) -> SaveResult {
        let desired = DesiredText {
            file: &self.file,
            entries: &self.entries,
            given: None,
            spare: self.spare,
        };
        let journal = self.journal.as_deref();
        let settled = desired.settle(&mut self.disk, journal, &mut self.text);
        SaveResult {
            disk: self.disk,
            text: self.text,
            entries: self.entries,
            was_changed: settled.as_ref().map_or(true, |settled| settled.was_changed),
            fits: settled.map(|settled| settled.fits),
        }
    }
}

impl FileState {
    /// The result for a pair, once known.
    pub(super) fn take_result(&mut self, profile: &str) -> Option<Result<Tokens, String>> {
        let broken = self.is_broken && self.pending.remove(profile);
        let broken = broken.then(|| Err("the save broke off".to_owned()));
        broken.or_else(|| self.results.remove(profile))
    }

    /// Takes everything that waits to be saved, unless a save is running.
    pub(super) fn begin_saving(&mut self, file: &Path) -> Option<SaveJob> {
        if self.pending.is_empty() {
            return None;
        }
        Some(SaveJob {
            file: file.to_owned(),
            disk: self.disk.take()?,
            journal: self.journals.last().cloned(),
            text: Arc::clone(&self.text),
            entries: self.entries.clone(),
            spare: self.spare,
        })
    }

    /// Processes the result; none if it panicked.
    pub(super) fn end_saving(&mut self, file: &Path, saved: Option<SaveResult>) {
        let Some(saved) = saved else {
            // The lock is lost with it. The journal has everything.
            (self.is_broken, self.stays) = (true, true);
            return;
        };
        self.disk = Some(saved.disk);
        self.text = saved.text;
        if saved.was_changed {
            self.proved.clear();
        }
        self.renew_room();
        for (index, entry) in saved.entries.into_iter().enumerate() {
            if !entry.is_open() || !self.pending.remove(&entry.pair.profile) {
                continue;
            }
            let pair = entry.pair;
            let is_this = |entry: &Entry| Arc::ptr_eq(&entry.pair, &pair);
            let result = match &saved.fits {
                Ok(fits) if fits[index] => self.tokens_of(file, &pair),
                Ok(_) => Err(self.conflict(file, &pair).to_owned()),
                Err(error) => Err(error.to_string()),
            };
            match &result {
                // What came before it still tells which old copies it replaces.
                Ok(_) => {
                    let this = self.entries.iter_mut().filter(|entry| is_this(entry));
                    this.for_each(|entry| entry.is_saved = true);
                }
                // It is left to the next run.
                Err(_) => self.entries.retain(|entry| !is_this(entry)),
            }
            self.results.insert(pair.profile.clone(), result);
        }
    }

    /// Reserves space again for what is still in progress: the reservation may have been used. If that fails, the
    /// journal still has space for the pairs.
    fn renew_room(&mut self) {
        let bytes = self.text.document.text().len() as u64 + self.spare;
        if let Some(disk) = self
            .disk
            .as_mut()
            .filter(|_| self.reserved > self.pending.len())
        {
            let _ = disk.reserve(bytes);
            if disk.writes_in_place()
                && let Some(journal) = self.journals.last()
            {
                let _ = journal.reserve(bytes + self.spare);
            }
        }
    }

    /// What the file says about a login.
    fn tokens_of(&self, file: &Path, pair: &Successor) -> Result<Tokens, String> {
        let place = SectionId {
            file,
            profile: &pair.profile,
        };
        let found = sections::pair(place, &self.text.document);
        found
            .map(|pair| pair.tokens)
            .map_err(|error| error.to_string())
    }

    /// What another program did meanwhile.
    fn conflict(&self, file: &Path, pair: &Successor) -> &'static str {
        let tokens = self.tokens_of(file, pair);
        if tokens.is_ok_and(|tokens| tokens.refresh_token.is_some()) {
            "another program put another refresh token there"
        } else {
            "another program removed the refresh token"
        }
    }
}
