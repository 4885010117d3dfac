//! What a run knows about the file, and does with it under its lock. [`super::session`] says why nothing
//! is lost.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::disk::Disk;
use super::io::cannot_keep_journal;
use super::journal::Journal;
use super::leftovers::Leftover;
use super::legacy::Rescue;
use super::memory;
use super::replay::{Entry, Source};
use super::sections::{SectionId, Text};
use super::settle::DesiredText;
use crate::error::{Error, Hint, Result};
use crate::profile::{Origin, Snapshot, Successor};
use crate::protocol::Api;
use crate::store::record::Record;
use crate::token::{Fingerprint, Tokens};

/// Space reserved beyond the file's own length: several times two tokens of the documented 4 KB.
const SPARE_BYTES: u64 = 32 << 10;

/// A journal longer than this is completed before more is written to it.
const LONG_JOURNAL: u64 = 8 << 20;

pub(super) struct FileState {
    /// The lock, and the writer under it. Absent while a text is being saved.
    pub(super) disk: Option<Disk>,
    pub(super) text: Arc<Text>,
    /// The profiles whose edit was tried on the current text, apart from our own saves.
    pub(super) proved: HashSet<String>,
    /// The journals of this run: one once something was reserved, and more only if that one failed. The last is written
    /// to.
    pub(super) journals: Vec<Arc<Journal>>,
    /// What dead runs left.
    pub(super) leftovers: Vec<Leftover>,
    pub(super) rescues: Vec<Rescue>,
    /// The tokens that they had sent, with unknown result.
    pub(super) in_doubt: Vec<Fingerprint>,
    /// All known pairs, in order of arrival.
    pub(super) entries: Vec<Entry>,
    /// The pairs of this run that wait to be saved, by profile; and the results of others.
    pub(super) pending: HashSet<String>,
    pub(super) results: HashMap<String, Result<Tokens, String>>,
    /// How many requests may still bring something, and the tokens that they spend.
    pub(super) reserved: usize,
    sent: HashSet<Fingerprint>,
    /// The space to reserve beyond the text's length.
    pub(super) spare: u64,
    /// The profiles to which something was restored that dead runs left, or an old copy removed.
    pub(super) put_back: HashSet<String>,
    /// Whether the journal must stay, whatever the file says.
    pub(super) stays: bool,
    /// Whether the lock was lost in a panic.
    pub(super) is_broken: bool,
}

impl FileState {
    pub(super) fn new(text: Arc<Text>) -> Self {
        FileState {
            disk: None,
            text,
            proved: HashSet::new(),
            journals: Vec::new(),
            leftovers: Vec::new(),
            rescues: Vec::new(),
            in_doubt: Vec::new(),
            entries: Vec::new(),
            pending: HashSet::new(),
            results: HashMap::new(),
            reserved: 0,
            sent: HashSet::new(),
            spare: SPARE_BYTES,
            put_back: HashSet::new(),
            stays: false,
            is_broken: false,
        }
    }

    /// Sets what the file says now.
    pub(super) fn take_text(&mut self, text: Arc<Text>) {
        if !Arc::ptr_eq(&text, &self.text) {
            self.proved.clear();
            self.text = text;
        }
    }

    pub(super) fn has_made(&self) -> bool {
        let made = self.disk.as_ref().is_some_and(|disk| disk.lock.is_made());
        made && self.text.document.text().is_empty()
    }

    /// Where the file really is.
    pub(super) fn real_path(&self, file: &Path) -> PathBuf {
        let disk = self.disk.as_ref();
        disk.map_or_else(|| file.to_owned(), |disk| disk.lock.path.clone())
    }

    /// The tokens that a login is known to have spent, the latest last. Not those of a login that it replaced.
    pub(super) fn spent(&self, snapshot: &Snapshot) -> Vec<Fingerprint> {
        let held = snapshot.fingerprint();
        let listed = snapshot.profile.pair.spent.iter();
        let listed = listed.filter(|token| Some(*token) != held);
        let led_here = self.entries.iter().rev().find(|entry| {
            entry.pair.profile == snapshot.login.profile && entry.fingerprint() == held
        });
        // What the file lists came from outside, and need not have been spent.
        led_here.map_or_else(|| listed.collect(), |entry| entry.pair.spent.clone())
    }

    /// Tries the edits of many logins at once.
    pub(super) fn prove_all(&mut self, file: &Path, logins: &[(String, Api)]) {
        let trials = logins
            .iter()
            .map(|(name, api)| Successor::trial(name, *api));
        let trials: Vec<_> = trials.collect();
        for trial in self.text.provable(file, &trials) {
            self.proved.insert(trial.profile.clone());
        }
    }

    /// Whether a request may be prepared now. A journal that has grown long is completed first.
    pub(super) fn can_reserve(&self) -> bool {
        let is_long = |journal: &Arc<Journal>| journal.length() > LONG_JOURNAL;
        let must_close = self.reserved > 0 && self.journals.iter().any(is_long);
        let has_disk = self.disk.is_some() || !self.journals.is_empty();
        self.is_broken || has_disk && !must_close
    }

    /// Reserves space for what a request brings.
    pub(super) fn reserve(
        &mut self,
        place: SectionId<'_>,
        api: Api,
        origin: &Origin<'_>,
    ) -> Result<()> {
        let sent = origin.sent();
        if sent.is_some_and(|sent| self.sent.contains(&sent)) {
            let message = format!(
                "{place}: its refresh token is in use for another profile, and works once; nothing was sent for it"
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "give each profile its own login: feishu-refresh login",
                "请为每个 profile 单独登录：feishu-refresh login",
            )));
        }
        if !self.proved.contains(place.profile) || !origin.settings().is_empty() {
            let mut trial = Successor::trial(place.profile, api);
            trial.settings = origin.settings().to_vec();
            self.text.prove(place.file, std::slice::from_ref(&trial))?;
            self.proved.insert(place.profile.to_owned());
        }
        if let Err(error) = self.make_room(place.file, sent) {
            self.close(place.file);
            return Err(error);
        }
        self.reserved += 1;
        self.sent.extend(sent);
        Ok(())
    }

    /// Reserves space, in the file and in the journal, and proves that the journal takes a record. While a text is
    /// being saved, that reserves space for the next.
    fn make_room(&mut self, file: &Path, sent: Option<Fingerprint>) -> Result<()> {
        if self.is_broken {
            let file = file.display();
            let message = format!("{file} can no longer be saved: a save broke off");
            return Err(Error::temporary(message));
        }
        let bytes = self.text.document.text().len() as u64 + self.spare;
        let mut in_journal = self.spare;
        if let Some(disk) = &mut self.disk {
            disk.reserve(bytes)?;
            in_journal += if disk.writes_in_place() { bytes } else { 0 };
        }
        let path = self.real_path(file);
        let room = match self.journals.last() {
            Some(journal) => journal.reserve(in_journal),
            None => self.open_journal(&path, in_journal).map(drop),
        };
        let written = room.and_then(|()| match (self.journals.last(), sent) {
            (Some(journal), Some(sent)) => journal.append(&Record::Sent(sent)),
            _ => Ok(()),
        });
        written.map_err(|error| cannot_keep_journal(file, error))
    }

    /// Opens one more journal, in a place where this run has none.
    pub(super) fn open_journal(&mut self, path: &Path, bytes: u64) -> io::Result<Arc<Journal>> {
        let tried: Vec<_> = self.journals.iter().map(|j| j.path().to_owned()).collect();
        let model = fs::metadata(path).ok();
        let opened = Journal::open(path, model.as_ref(), bytes, &self.leftovers, &tried)?;
        let journal = Arc::new(opened);
        self.journals.push(Arc::clone(&journal));
        Ok(journal)
    }

    /// Ends a reservation: its request has been answered.
    pub(super) fn end_reservation(&mut self, file: &Path, sent: Option<Fingerprint>) {
        self.reserved -= 1;
        if thread::panicking() {
            return;
        }
        if let Some(sent) = sent {
            self.sent.remove(&sent);
            self.in_doubt.retain(|token| *token != sent);
            let stays = self.stays || self.reserved > 0 || !self.pending.is_empty();
            let stays = stays || !self.in_doubt.is_empty();
            if let Some(journal) = self.journals.last().filter(|_| stays) {
                // Without it, the next run's messages are just more cautious.
                let _ = journal.append(&Record::Answered(sent));
            }
        }
        self.close(file);
    }

    /// Writes a pair to a journal, before anything else is done with it; returns the journal that has it.
    pub(super) fn write_down(&mut self, pair: &Arc<Successor>) -> Option<Arc<Journal>> {
        let record = Record::Pair(Box::new((**pair).clone()));
        let last = self.journals.last().cloned();
        let written = last.filter(|journal| journal.append(&record).is_ok());
        let journal = written.or_else(|| self.write_down_elsewhere(&record));
        self.pending.insert(pair.profile.clone());
        self.entries.push(Entry::new(Arc::clone(pair), Source::Own));
        journal
    }

    /// Writes a record to the first other possible place.
    fn write_down_elsewhere(&mut self, record: &Record) -> Option<Arc<Journal>> {
        let of = self
            .journals
            .last()
            .map(|journal| journal.file_path().to_owned());
        let of = of.or_else(|| Some(self.disk.as_ref()?.lock.path.clone()))?;
        let bytes = record.line().len() as u64;
        loop {
            match self.open_journal(&of, bytes) {
                Ok(journal) if journal.append(record).is_ok() => return Some(journal),
                // Do not retry that place.
                Ok(_) => {}
                Err(error) => {
                    log::warn!("a new pair is in no journal yet: {error}");
                    return None;
                }
            }
        }
    }

    /// Makes sure that a pair is on disk in a journal, its own or another, and stays there.
    pub(super) fn keep(
        &mut self,
        pair: &Successor,
        journal: Option<Arc<Journal>>,
    ) -> Option<Arc<Journal>> {
        self.stays = true;
        let record = Record::Pair(Box::new(pair.clone()));
        let is_kept = |journal: &Arc<Journal>| journal.is_there() && journal.sync().is_ok();
        if journal.as_ref().is_some_and(is_kept) {
            return journal;
        }
        let takes_it = |j: &&Arc<Journal>| j.is_there() && j.append(&record).is_ok() && is_kept(j);
        if let Some(other) = self.journals.iter().find(takes_it) {
            return Some(Arc::clone(other));
        }
        loop {
            let journal = self.write_down_elsewhere(&record)?;
            if is_kept(&journal) {
                return Some(journal);
            }
        }
    }

    /// Once nothing is in progress: checks that the file, read back, has all that the journal has, then removes the
    /// journal and remembers the pairs. Releases all space.
    pub(super) fn close(&mut self, file: &Path) {
        if self.reserved > 0 || !self.pending.is_empty() || thread::panicking() {
            return;
        }
        let Some(mut disk) = self.disk.take() else {
            return;
        };
        if self.is_in_file(file, &mut disk) && !self.stays {
            let new = self
                .entries
                .iter_mut()
                .filter(|entry| entry.source != Source::Done);
            let new: Vec<_> = new
                .map(|entry| {
                    entry.source = Source::Done;
                    &*entry
                })
                .collect();
            memory::remember(&disk.lock.path, &new);
            // The next run needs the doubts, too.
            if self.in_doubt.is_empty() {
                self.leftovers
                    .drain(..)
                    .for_each(|leftover| leftover.remove());
            }
            for journal in self.journals.drain(..) {
                if !self
                    .leftovers
                    .iter()
                    .any(|leftover| leftover.path() == journal.path())
                {
                    journal.remove();
                }
            }
            let known = self.text.known_tokens();
            self.rescues.drain(..).for_each(|rescue| rescue.end(&known));
        }
        disk.release();
        self.disk = Some(disk);
    }

    /// Whether the file, read once more, has all pairs: a program without locks may have written back what it had read
    /// before a save. Then they are restored.
    fn is_in_file(&mut self, file: &Path, disk: &mut Disk) -> bool {
        let is_new = |entry: &Entry| entry.source != Source::Done;
        if !self.entries.iter().any(is_new) {
            return true;
        }
        let is_as_known = || {
            let found = disk.read().ok().flatten();
            found.is_some_and(|found| found == self.text.document.text().as_bytes())
        };
        if !self.entries.iter().any(Entry::is_open) && is_as_known() {
            return true;
        }
        let (journal, entries) = (self.journals.last().cloned(), self.entries.clone());
        let desired = DesiredText {
            file,
            entries: &entries,
            given: None,
            spare: self.spare,
        };
        let mut text = Arc::clone(&self.text);
        let settled = desired.settle(disk, journal.as_deref(), &mut text);
        self.take_text(text);
        match settled {
            Ok(settled) => {
                settled.warn_of_old_copy(file);
                !entries
                    .iter()
                    .zip(settled.fits)
                    .any(|(entry, fits)| entry.is_open() && !fits)
            }
            Err(error) => {
                log::warn!("{error}; the journal stays for the next run");
                false
            }
        }
    }
}
