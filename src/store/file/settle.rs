//! Applies the journal to the file. Used for a save, what a dead run left, and an old copy that another program wrote
//! over the file.

use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;
use super::journal::Journal;
use super::replay::{Entry, replay};
use super::rereading::Rereading;
use super::sections::{self, SectionId, Text};
use crate::error::{Error, Result};
use crate::token::Fingerprint;

/// Another program may write between any two reads, but not forever.
const MOST_ROUNDS: usize = 5;

/// What the file should say.
pub(super) struct DesiredText<'a> {
    /// The path, as messages show it.
    pub(super) file: &'a Path,
    pub(super) entries: &'a [Entry],
    /// A profile, and the token that this run was given for it.
    pub(super) given: Option<(&'a str, Fingerprint)>,
    /// The space to reserve for a text, beyond its length.
    pub(super) spare: u64,
}

/// The result.
pub(super) struct SettledText {
    /// For each entry, whether the file has it or its successor.
    pub(super) fits: Vec<bool>,
    /// Whether the file was changed for it.
    pub(super) has_changed: bool,
    /// Whether another program had changed it.
    pub(super) was_changed: bool,
}

impl SettledText {
    /// Reports another program that wrote an old copy over the file, if that was why it was changed.
    pub(super) fn warn_of_old_copy(&self, file: &Path) {
        if self.has_changed {
            let file = file.display();
            log::warn!(
                "another program put spent tokens back into {file}: the latest are restored"
            );
        }
    }
}

impl DesiredText<'_> {
    /// Reads the file, adds what it lacks, and reads it back, until it lacks nothing. Leaves the file's text in `text`.
    ///
    /// # Errors
    /// What is wrong with the file, or with writing it. The journal has all of it.
    pub(super) fn settle(
        &self,
        disk: &mut Disk,
        journal: Option<&Journal>,
        text: &mut Arc<Text>,
    ) -> Result<SettledText> {
        let mut rereading = Rereading::long();
        let mut written = None;
        let mut was_changed = false;
        let mut rounds = 0;
        loop {
            let bytes = disk.read()?;
            // A vanished file has no text; it is recreated with its content.
            let found = bytes.as_deref().unwrap_or_default();
            if let Some(fits) = written.take_if(|_| text.document.text().as_bytes() == found) {
                return Ok(SettledText {
                    fits,
                    has_changed: true,
                    was_changed,
                });
            }
            let looked = Text::parse_anew(self.file, found, text)
                .and_then(|found| Ok((self.replay(&found)?, found)));
            // If sections are missing, or the token that a pair should replace, the file may be half written.
            let is_whole = looked.as_ref().is_ok_and(|((_, fits), found)| {
                let mut open = self.entries.iter().zip(fits);
                found.has_all_of(text) && open.all(|(entry, fits)| *fits || !entry.is_open())
            });
            if !is_whole && rereading.wait(bytes.as_deref()) {
                continue;
            }
            let ((next, fits), found) = looked?;
            was_changed |= !Arc::ptr_eq(&found, text);
            *text = found;
            let Some(next) = next else {
                return Ok(SettledText {
                    fits,
                    has_changed: rounds > 0,
                    was_changed,
                });
            };
            if rounds == MOST_ROUNDS {
                let file = self.file.display();
                let message = format!("another program keeps writing {file}");
                return Err(Error::temporary(message));
            }
            rounds += 1;
            disk.reserve(next.document.text().len() as u64 + self.spare)?;
            let is_written = disk
                .write(bytes.as_deref(), next.document.text(), journal)
                .map_err(|error| Error::file("cannot write", self.file, error))?;
            if is_written {
                *text = next;
                written = Some(fits);
            }
        }
    }

    /// The text that the file should have, if it differs; and what fits it.
    pub(super) fn replay(&self, text: &Text) -> Result<(Option<Arc<Text>>, Vec<bool>)> {
        let place = SectionId {
            file: self.file,
            profile: "",
        };
        let replay = replay(place, &text.document, self.entries, self.given)?;
        if replay.edits.is_empty() {
            return Ok((None, replay.fits));
        }
        let edited = sections::edited(self.file, &text.document, &replay.edits)?;
        Ok((Some(Text::of(edited)), replay.fits))
    }
}
