//! The beginning of a run: the file is locked, and what dead runs left is restored, before a token is read (P3, P7).

use std::ffi::OsStr;
use std::fs;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::disk::{Disk, is_torn};
use super::io::{cannot_keep_journal, warn_if_readable_by_others};
use super::leftovers::{self, FoundLeftovers, Leftover};
use super::legacy::{self, Rescue};
use super::lock::{Lock, LockQueue};
use super::memory;
use super::replay::{Entry, Source};
use super::rereading::Rereading;
use super::sections::{self, SectionId, Text};
use super::settle::{DesiredText, SettledText};
use super::state::FileState;
use crate::error::{Error, Hint, Result};
use crate::platform::files;
use crate::profile::Successor;
use crate::store::places::{self, JOURNAL, with_suffix};
use crate::token::Fingerprint;

/// A profile, and the token that a run was given for it.
pub(super) type GivenToken<'g> = Option<(&'g str, Fingerprint)>;

impl FileState {
    /// Waits for exclusive access to the file, restores what dead runs left, and reads it. `before` is what the file
    /// said before this run queued for it.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if others hold the file for longer, or what dead runs left cannot be restored;
    /// [`crate::Kind::Config`] if the file cannot be used. Nothing was lost or sent.
    pub(super) fn open(
        file: &Path,
        given: GivenToken<'_>,
        before: Option<&Arc<Text>>,
        if_missing: Option<&Hint>,
        deadline: Instant,
    ) -> Result<Self> {
        let if_missing = if_missing.filter(|_| !is_waiting_for(file));
        let mut queue = LockQueue::new(file, deadline);
        let (lock, leftovers) = loop {
            let lock = Lock::acquire(file, if_missing, &mut queue)?;
            match leftovers::find(&lock.path, &lock.owner()?)? {
                FoundLeftovers::Leftovers(leftovers) => break (lock, leftovers),
                FoundLeftovers::Busy => drop(lock),
            }
            queue.wait()?;
        };
        fail_point!("after-lock");
        let rescues = legacy::find(&lock.path, &lock.owner()?);
        let mut state = FileState::new(Text::parse(file, b"")?);
        state.entries = memory::remembered(&lock.path);
        state
            .entries
            .extend(rescues.iter().flat_map(|rescue| rescue.entries.clone()));
        state
            .entries
            .extend(leftovers.iter().flat_map(Leftover::entries));
        state.in_doubt = leftovers.iter().flat_map(Leftover::in_doubt).collect();
        // The pair may be in a different place than the request.
        let answers = |token| {
            state
                .entries
                .iter()
                .any(|entry| entry.pair.came_from(token))
        };
        state.in_doubt.retain(|token| !answers(*token));
        (state.leftovers, state.rescues) = (leftovers, rescues);
        let mut disk = Disk::new(lock);
        state.repair(file, &disk)?;
        state.text = first_read(file, &disk, before)?;
        state.put_back(file, &mut disk, given)?;
        state.forget_old_doubts(given);
        state.check_unspent(file, &disk.lock.path, given)?;
        state.disk = Some(disk);
        warn_if_readable_by_others(file);
        Ok(state)
    }

    /// Repairs a torn file before anybody reads it (P3).
    fn repair(&mut self, file: &Path, disk: &Disk) -> Result<()> {
        if !disk.read()?.as_deref().is_some_and(is_torn) {
            return Ok(());
        }
        let texts = self.leftovers.iter().filter_map(Leftover::text);
        let copies = self
            .rescues
            .iter()
            .filter_map(|rescue| rescue.text.as_deref());
        let is_sound = |whole: &&str| Text::parse(file, whole.as_bytes()).is_ok();
        let whole = texts.chain(copies).find(is_sound);
        let Some(whole) = whole else {
            let more = "; no journal with its whole text was found";
            return Err(sections::begins_with_nul(file, more));
        };
        files::check_length(whole.len() as u64)
            .and_then(|()| disk.overwrite(whole))
            .map_err(|error| cannot_put_back(&Error::file("cannot write", file, error)))?;
        log::warn!("{} was half written: it is repaired", file.display());
        Ok(())
    }

    /// Restores to the file what dead runs left, and what an old copy removed.
    fn put_back(&mut self, file: &Path, disk: &mut Disk, given: GivenToken<'_>) -> Result<()> {
        let entries = self.entries.clone();
        let desired = DesiredText {
            file,
            entries: &entries,
            given,
            spare: self.spare,
        };
        let (next, mut fits) = desired.replay(&self.text)?;
        let is_settled = |(entry, fits): (&Entry, &bool)| *fits || !entry.is_open();
        let path = disk.lock.path.clone();
        if next.is_some() || !entries.iter().zip(&fits).all(is_settled) {
            let settled = self.settle_leftovers(&desired, disk);
            let settled = settled.map_err(|error| cannot_put_back(&error))?;
            if entries.iter().any(Entry::is_open) {
                self.warn_of_put_back();
            } else {
                settled.warn_of_old_copy(file);
            }
            fits = settled.fits;
        } else if entries.iter().any(Entry::is_open) {
            // The run that wrote it may have died before it was on disk.
            let synced = disk.sync();
            synced.map_err(|error| cannot_put_back(&Error::file("cannot sync", file, error)))?;
        }
        self.set_unfit_aside(&path, &fits);
        self.entries
            .iter_mut()
            .for_each(|entry| entry.is_saved = true);
        Ok(())
    }

    /// Updates a file that another program changed to what this run knows: it may be an old copy.
    ///
    /// # Errors
    /// What is wrong with the file, or with writing it.
    pub(super) fn heal(&mut self, file: &Path) -> Result<()> {
        let Some(mut disk) = self.disk.take() else {
            return Ok(());
        };
        let entries = self.entries.clone();
        let desired = DesiredText {
            file,
            entries: &entries,
            given: None,
            spare: self.spare,
        };
        let healed = desired.replay(&self.text).and_then(|(next, _)| match next {
            Some(_) => self.settle_leftovers(&desired, &mut disk).map(Some),
            None => Ok(None),
        });
        self.disk = Some(disk);
        if let Some(settled) = healed? {
            settled.warn_of_old_copy(file);
        }
        Ok(())
    }

    /// Restores what dead runs left, with space reserved for it.
    fn settle_leftovers(
        &mut self,
        desired: &DesiredText<'_>,
        disk: &mut Disk,
    ) -> Result<SettledText> {
        let bytes = self.text.document.text().len() as u64 + self.spare;
        disk.reserve(bytes)?;
        let opened = match self.journals.last() {
            Some(journal) => journal.reserve(bytes).map(|()| Arc::clone(journal)),
            None => self.open_journal(&disk.lock.path, bytes),
        };
        let journal = opened.map_err(|error| cannot_keep_journal(desired.file, error))?;
        let mut text = Arc::clone(&self.text);
        let settled = desired.settle(disk, Some(&journal), &mut text);
        if settled.is_err() && journal.length() == 0 {
            journal.remove();
            self.journals.pop();
        } else if settled.is_err() && disk.writes_in_place() {
            // It may have the only whole text.
            self.stays = true;
        }
        let settled = settled?;
        let before = mem::replace(&mut self.text, text);
        let has_changed = |profile: &&str| self.text.token(profile) != before.token(profile);
        let profiles = desired
            .entries
            .iter()
            .map(|entry| entry.pair.profile.as_str());
        self.put_back
            .extend(profiles.filter(has_changed).map(str::to_owned));
        Ok(settled)
    }

    fn warn_of_put_back(&self) {
        let mut held: Vec<_> = self.leftovers.iter().map(Leftover::path).collect();
        held.extend(self.rescues.iter().map(Rescue::path));
        for path in held.into_iter().filter(|_| !self.put_back.is_empty()) {
            log::warn!(
                "{} held what an earlier run could not save: it is saved now",
                path.display()
            );
        }
    }

    /// Keeps what fits nothing under its own name, and reports it.
    fn set_unfit_aside(&mut self, path: &Path, fits: &[bool]) {
        let (known, unfit): (Vec<_>, Vec<_>) = self
            .entries
            .drain(..)
            .zip(fits)
            .partition(|(entry, fits)| **fits || entry.source == Source::Done);
        self.entries = known.into_iter().map(|(entry, _)| entry).collect();
        let is_unfit = |pair: &Successor| {
            let mut unfit = unfit.iter().map(|(entry, _)| entry);
            unfit.any(|e| e.pair.profile == pair.profile && e.fingerprint() == pair.fingerprint())
        };
        for leftover in &self.leftovers {
            let lines = leftover.lines_of(is_unfit);
            if lines.is_empty() {
                continue;
            }
            let from = leftover.path().display();
            match places::keep_aside(path, leftover.path(), &lines) {
                Ok((kept, true)) => {
                    let kept = kept.display();
                    log::warn!("{from} has records that no longer fit the file: kept as {kept}");
                }
                Ok((_, false)) => {}
                Err(error) => {
                    self.stays = true;
                    log::warn!(
                        "{from} has records that no longer fit the file, and stays: {error}"
                    );
                }
            }
        }
        let is_old = |rescue: &mut Rescue| rescue.entries.iter().any(|e| is_unfit(&e.pair));
        self.rescues
            .extract_if(.., is_old)
            .for_each(|rescue| rescue.put_aside());
    }

    /// Refuses a token from outside that the memory knows as spent, if the file does not know it (P4): the file was
    /// removed, or an old copy of it brought back.
    fn check_unspent(&self, file: &Path, real_path: &Path, given: GivenToken<'_>) -> Result<()> {
        let Some((profile, token)) = given else {
            return Ok(());
        };
        let place = SectionId { file, profile };
        let pair = sections::pair(place, &self.text.document)?;
        if pair.spent.lists(token) || pair.fingerprint() == Some(token) {
            return Ok(());
        }
        let remembered = self.entries.iter().filter(|e| e.source == Source::Done);
        let mut remembered = remembered.filter(|e| e.pair.came_from(token));
        let Some(successor) = remembered.find(|e| e.fingerprint() != Some(token)) else {
            return Ok(());
        };
        let Some(path) = memory::path(real_path) else {
            return Ok(());
        };
        let of = &successor.pair.profile;
        let message = format!("{place}: this refresh token was spent before");
        let path = path.display();
        Err(Error::config(message).with_hint(Hint::naming(
            format!("its successor is the last refresh_token of \"{of}\" in {path}: put it into that section, with refresh_token_spent = {token}; or log in again: feishu-refresh login"),
            format!("其后继令牌是 {path} 中 \"{of}\" 的最后一个 refresh_token：请将其写入该节，并加上 refresh_token_spent = {token}；或重新登录：feishu-refresh login"),
        )))
    }

    /// A doubt about a token that nobody will send no longer matters.
    fn forget_old_doubts(&mut self, given: GivenToken<'_>) {
        if !self.in_doubt.is_empty() {
            let held = self.text.tokens();
            let given = given.map(|(_, token)| token);
            let spent = self.text.spent_by();
            let matters = |token: &Fingerprint| {
                held.contains(token) || given == Some(*token) && !spent.contains_key(token)
            };
            self.in_doubt.retain(matters);
        }
    }
}

/// The file as a run reads it first. One that is empty, cannot be parsed or has lost sections since `before` is reread:
/// another program may be writing it.
fn first_read(file: &Path, disk: &Disk, before: Option<&Arc<Text>>) -> Result<Arc<Text>> {
    let mut rereading = Rereading::short();
    loop {
        let bytes = disk.read()?;
        let found = bytes.as_deref().unwrap_or_default();
        let text = match before {
            Some(before) => Text::parse_anew(file, found, before),
            None => Text::parse(file, found),
        };
        let is_whole = |text: &Arc<Text>| before.is_none_or(|before| text.has_all_of(before));
        let is_whole = text.as_ref().is_ok_and(is_whole) && !found.is_empty();
        if is_whole || disk.lock.is_made() || !rereading.wait(bytes.as_deref()) {
            return text;
        }
    }
}

fn cannot_put_back(error: &Error) -> Error {
    let message = format!("cannot restore what an earlier run saved: {error}");
    Error::temporary(message).with_hint(Hint::fixed(
        "fix the cause and run again: its journal keeps the pair",
        "请排除障碍后重新运行：令牌对仍保存在其 journal 中",
    ))
}

/// Circular links lead nowhere; the system gives up after as many.
const MOST_LINKS: usize = 40;

/// Whether a run left a journal for a file that is missing now.
fn is_waiting_for(path: &Path) -> bool {
    let mut path = path.to_owned();
    // A link that leads nowhere still says where the file was.
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    let folder = path
        .parent()
        .and_then(|folder| files::real_path(folder).ok());
    let name = path.file_name().unwrap_or(OsStr::new(""));
    folder.is_some_and(|folder| {
        let real = folder.join(name);
        [JOURNAL, legacy::SUFFIX]
            .iter()
            .any(|suffix| with_suffix(&real, suffix).exists())
    })
}

#[cfg(all(test, unix))]
mod tests;
