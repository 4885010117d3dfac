//! Removes logins from the file that move to another store. Each is held back there until it is removed here
//! ([`Emptying::take_out`]), and only then freed.
//!
//! Why a kill between any two steps neither loses nor duplicates anything:
//!
//! 1. First, what dead runs left is restored to the file, as by any run, and synced, and their
//!    journals go, durably: a pair in a journal beside the file would fill a section that has no token.
//!    From now on every pair is in the file, and perhaps, done, in the memory. Until the other store has
//!    a login, nothing more happens to it.
//! 2. The file is changed, durably, and read back. If killed before, it holds the token, and the login
//!    moves again. If killed after, the memory may still hold the pair: but a done pair never fills a
//!    section without a token. If an old copy comes back, it is healed as usual, with the pair that
//!    is held back: another import takes the file's current token.
//! 3. The journal of this save goes, durably. It held the text without the login, and no pair.
//! 4. The memory forgets the profile, durably. Not sooner: an old copy that came back before step 2 would
//!    not be healed, and a second import would take its spent token for the current one. Not
//!    later: once the login is freed, its token is spent elsewhere, and an old copy that comes back must
//!    not be healed with it.
//!
//! A run killed after step 2 is completed by [`Emptying::finish`].
//!
//! No other run works on the file meanwhile: see [`Emptying::shut_out`]. What remains possible: a program that ignores
//! locks writes back, after step 4, a copy with the moved token.

mod removal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::disk::Disk;
use super::io::{cannot_keep_journal, does_not_exist};
use super::journal::Journal;
use super::leftovers::Leftover;
use super::legacy::Rescue;
use super::memory;
use super::replay::Source;
use super::sections::{SectionId, Text};
use super::state::FileState;
use crate::error::{Error, Hint, Result};
use crate::platform::files;
use crate::profile::Snapshot;
use crate::store::record::Record;
use crate::token::Fingerprint;
use removal::Removal;

/// A file whose logins will move. It stays locked as long as this lives.
pub(crate) struct Emptying {
    /// The path, as messages show it.
    file: PathBuf,
    state: FileState,
}

impl Emptying {
    /// Locks the file, and restores what dead runs left. `before` is what it said before that.
    ///
    /// # Errors
    /// As of [`FileState::open`]; [`crate::Kind::Temporary`] also if a journal cannot be completed.
    pub(super) fn open(file: &Path, before: Option<&Arc<Text>>, deadline: Instant) -> Result<Self> {
        let hint = Hint::fixed(
            "-c names the file whose logins will move",
            "请用 -c 指定要迁移的文件",
        );
        let state = FileState::open(file, None, before, Some(&hint), deadline)?;
        let mut emptying = Emptying {
            file: file.to_owned(),
            state,
        };
        emptying.end_old_journals()?;
        if emptying.state.has_made() {
            return Err(does_not_exist(file, hint));
        }
        Ok(emptying)
    }

    /// The names of the sections that hold a token, or have a key for one, in file order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state.text.places_for_tokens()
    }

    /// What one section says.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if it is ambiguous.
    pub(crate) fn snapshot(&self, profile: &str) -> Result<Snapshot> {
        self.state.text.snapshot(self.place(profile))
    }

    /// The tokens that a login is known to have spent, the latest last. Ask before it is removed: afterwards nothing
    /// here knows it.
    pub(crate) fn spent(&self, snapshot: &Snapshot) -> Vec<Fingerprint> {
        self.state.spent(snapshot)
    }

    /// Whether a dead run sent this token, with unknown result.
    pub(crate) fn may_be_spent(&self, token: Fingerprint) -> bool {
        self.state.in_doubt.contains(&token)
    }

    /// Removes a login from the file, durably, and forgets it. On success none of its tokens is in the file, a journal
    /// or the memory, and the section lists its refresh token as spent. `went_to` is for a comment there.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the section does not (or no longer) hold this token: then nothing was changed;
    /// otherwise what prevents it. Only after success may the login be used elsewhere.
    pub(crate) fn take_out(
        &mut self,
        profile: &str,
        token: Fingerprint,
        went_to: &str,
    ) -> Result<()> {
        fail_point!("before-take-out");
        let mut disk = self.state.disk.take().ok_or_else(|| self.is_broken())?;
        let file = self.file.clone();
        let removal = Removal {
            place: SectionId {
                file: &file,
                profile,
            },
            token,
            went_to,
        };
        let written = self.write(&mut disk, &removal);
        disk.release();
        self.state.disk = Some(disk);
        written?;
        fail_point!("after-take-out");
        // The doubt moved with it.
        self.state.in_doubt.retain(|sent| *sent != token);
        self.end_own_journals()?;
        self.forget(profile)
    }

    /// Completes [`Self::take_out`] for a login that a killed run removed from the file.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the section holds a refresh token; otherwise what prevents it.
    pub(crate) fn finish(&mut self, profile: &str) -> Result<()> {
        let disk = self.state.disk.as_ref().ok_or_else(|| self.is_broken())?;
        let found = disk.read()?.unwrap_or_default();
        let text = Text::parse_anew(&self.file, &found, &self.state.text)?;
        let place = self.place(profile);
        if removal::held(place, &text)?.is_some() {
            let message = format!("{place}: has a refresh token now; it was left as it is");
            return Err(Error::temporary(message));
        }
        let synced = disk.sync();
        synced.map_err(|error| Error::file("cannot sync", &self.file, error))?;
        self.state.take_text(text);
        self.forget(profile)
    }

    fn place<'p>(&'p self, profile: &'p str) -> SectionId<'p> {
        SectionId {
            file: &self.file,
            profile,
        }
    }

    fn is_broken(&self) -> Error {
        let file = self.file.display();
        Error::temporary(format!("{file} can no longer be changed: a save broke off"))
    }

    /// Removes what dead runs left, now that the file has all of it; except for their doubts.
    fn end_old_journals(&mut self) -> Result<()> {
        let state = &mut self.state;
        let mut paths: Vec<_> = state.leftovers.iter().map(Leftover::path).collect();
        paths.extend(state.rescues.iter().map(Rescue::path));
        paths.extend(state.journals.iter().map(|journal| journal.path()));
        let paths: Vec<_> = paths.into_iter().map(Path::to_owned).collect();
        if let Some(disk) = state.disk.as_ref().filter(|_| !paths.is_empty()) {
            let synced = disk.sync();
            synced.map_err(|error| Error::file("cannot sync", &self.file, error))?;
        }
        state.close(&self.file);
        let is_done = state.entries.iter().all(|e| e.source == Source::Done);
        if state.stays || !is_done {
            return Err(must_go(paths.first().map_or(&self.file, |path| path)));
        }
        state.leftovers.drain(..).for_each(|left| left.remove());
        check_removed(&paths)?;
        self.keep_doubts();
        Ok(())
    }

    /// Removes this run's journal: the file, read back, matches it. Otherwise it could hold the text with a login that
    /// is removed next.
    fn end_own_journals(&mut self) -> Result<()> {
        let journals: Vec<_> = self.state.journals.drain(..).collect();
        for journal in &journals {
            journal.remove();
        }
        let paths: Vec<_> = journals.iter().map(|j| j.path().to_owned()).collect();
        check_removed(&paths)?;
        self.keep_doubts();
        Ok(())
    }

    /// Records again which tokens dead runs had sent: the next run needs these doubts, too.
    fn keep_doubts(&mut self) {
        if self.state.in_doubt.is_empty() {
            return;
        }
        let path = self.state.real_path(&self.file);
        let kept = self.state.open_journal(&path, 0).and_then(|journal| {
            let mut doubts = self.state.in_doubt.iter();
            doubts.try_for_each(|sent| journal.append(&Record::Sent(*sent)))
        });
        if let Err(error) = kept {
            // Without it, the next run just has less to say about what it finds.
            log::info!("{}: {error}", self.file.display());
        }
    }

    fn write(&mut self, disk: &mut Disk, removal: &Removal<'_>) -> Result<()> {
        let bytes = self.state.text.document.text().len() as u64 + self.state.spare;
        disk.reserve(bytes)?;
        let journal = self.shut_out(disk, bytes)?;
        let mut text = Arc::clone(&self.state.text);
        let written = removal.write(disk, &journal, &mut text, self.state.spare);
        self.state.take_text(text);
        if written.is_err() && journal.length() == 0 {
            journal.remove();
            self.state.journals.pop();
        }
        written
    }

    /// Opens the journal, which may have to take the whole text, and then checks whether the file is still the locked
    /// one. If an editor replaces it before that check, a run may be working on the new file, and have sent the very
    /// token that will move: then nothing is changed. If it does so later, runs on that file wait: the journal belongs
    /// to a live run.
    fn shut_out(&mut self, disk: &Disk, bytes: u64) -> Result<Arc<Journal>> {
        let room = if disk.writes_in_place() { bytes } else { 0 };
        let opened = match self.state.journals.last() {
            Some(journal) => journal.reserve(room).map(|()| Arc::clone(journal)),
            None => self.state.open_journal(&disk.lock.path, room),
        };
        let journal = opened.map_err(|error| cannot_keep_journal(&self.file, error))?;
        if disk.lock.is_current() {
            return Ok(journal);
        }
        if journal.length() == 0 {
            journal.remove();
            self.state.journals.pop();
        }
        let file = self.file.display();
        let message = format!("another program replaced {file} meanwhile; it was left as it is");
        Err(Error::temporary(message).with_hint(Hint::fixed(
            "run store import again",
            "请重新运行 store import",
        )))
    }

    /// Makes the memory forget a login that is out of the file.
    fn forget(&mut self, profile: &str) -> Result<()> {
        fail_point!("before-forget");
        let path = self.state.real_path(&self.file);
        memory::forget(&path, profile).map_err(|error| {
            let of = memory::path(&path).unwrap_or(path);
            Error::file("cannot remove a moved login from", &of, error)
        })?;
        let entries = &mut self.state.entries;
        entries.retain(|entry| entry.pair.profile != profile);
        fail_point!("after-forget");
        Ok(())
    }
}

/// Whether removed files are gone, even after a power cut.
fn check_removed(paths: &[PathBuf]) -> Result<()> {
    if let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(must_go(path));
    }
    let folders = paths.iter().filter_map(|path| path.parent());
    folders.for_each(files::sync_folder);
    Ok(())
}

/// The error for a journal that a later run would read.
fn must_go(path: &Path) -> Error {
    let path = path.display();
    let message = format!("{path} cannot be completed: a login could come back from it");
    Error::temporary(message).with_hint(Hint::fixed(
        "find what prevents it (rights, a full disk), then run store import again",
        "请排除障碍（权限或磁盘空间），然后重新运行 store import",
    ))
}

#[cfg(all(test, unix))]
mod kills;
#[cfg(test)]
mod tests;
