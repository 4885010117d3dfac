//! A run's hold on the file: the lock, the journal, and all pairs that it knows of. The claims of a
//! run over many logins share one.
//!
//! The whole argument why nothing is lost:
//!
//! 1. A pair is a record in the journal before anything else is done with it ([`Session::save`]). Room
//!    for the record, and for the new text, was made before the request went out
//!    ([`Session::reserve`]); the journal took a record then, which shows that it takes one.
//! 2. A record stays until the file, *read back*, has its pair or what came after it
//!    ([`Session::close`]). Nothing else takes the journal away: no error, no signal, no panic, no kill.
//!    So at any moment the pair is in the file, or in the journal, or in both.
//! 3. Whoever claims the file next reads the journal before it reads a token, and brings the file to
//!    what the journal says ([`Session::open`], [`Aim::settle`]). That is the same function by which a
//!    save works; to be killed in it, and again in the next run, changes nothing: the journal still
//!    stands, and it is done again.
//! 4. Replaying is pure. A pair takes the place of a token it came from, and of nothing else
//!    ([`super::replay`]): so a newer token is never replaced by an older one, and another program's
//!    token never by ours. All other text is as it was found, since only values are spliced into it.
//! 5. A file that is renamed into place is the old one or the new one. One that is written in place is
//!    torn for as long as its first byte is NUL; its whole text is in the journal, synced, before that
//!    byte is written, and the journal stays until all of it is read back.
//! 6. Two runs never do this at once: they hold the lock on the file, and, where an editor has put
//!    another file in its place, the one on the journal.
//!
//! What is left to lose: a reply that was not read, or not yet written down.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::disk::{Disk, is_torn};
use super::io::warn_if_readable_by_others;
use super::journal::{self, Found, Journal, Leftover};
use super::legacy::{self, Rescue};
use super::lock::{Lock, Queue};
use super::patience::Patience;
use super::record::Record;
use super::replay::{Entry, Source};
use super::sections::{self, Place, Text};
use super::settle::Aim;
use crate::error::{Error, Hint, Kind, Result};
use crate::profile::{Snapshot, Successor};
use crate::protocol::Api;
use crate::token::{Fingerprint, Tokens};
use crate::worker::Worker;

/// Space set aside beyond the file's own length: two tokens of the documented 4 KB many times over.
pub(super) const SPARE_BYTES: u64 = 64 << 10;

/// A journal that is longer than this is first brought to its end, before more is written to it.
const LONG_JOURNAL: u64 = 8 << 20;

/// A run's hold on the file.
pub(super) struct Session {
    /// The path, as messages show it.
    file: PathBuf,
    state: RefCell<State>,
    /// Whenever the disk is back, or a reservation ends.
    changed: Notify,
    /// The thread that saves, where others must not wait for it.
    saver: Option<Worker>,
}

struct State {
    /// Away while a text is being saved.
    disk: Option<Disk>,
    text: Arc<Text>,
    /// The profiles whose edit was tried on the text as it is but for our own saves.
    proved: HashSet<String>,
    /// That of this run, once something was reserved.
    journal: Option<Arc<Journal>>,
    /// Others that hold something of this run's: the first took no more.
    full_journals: Vec<Arc<Journal>>,
    leftovers: Vec<Leftover>,
    rescues: Vec<Rescue>,
    /// All known pairs, in the order in which they came.
    entries: Vec<Entry>,
    /// The pairs of this run whose fate is open, by their profiles.
    pending: HashSet<String>,
    results: HashMap<String, Result<Tokens, Unsaved>>,
    /// How many requests may bring something.
    reserved: usize,
    /// The refresh tokens that they spend.
    sent: HashSet<Fingerprint>,
    /// The tokens that a dead run had sent, and nobody knows what came of it.
    in_doubt: Vec<Fingerprint>,
    /// The space to set aside beyond the text's length.
    spare: u64,
    /// Whether what a dead run left changed the file.
    was_put_back: bool,
    /// Whether the journal must stay whatever the file says.
    stays: bool,
}

/// Why a pair is not in the file.
struct Unsaved {
    why: String,
}

impl Session {
    /// Waits until this run alone may work on the file, brings it to what dead runs left, and reads
    /// it. `given` is a profile, and the token that this run was given for it.
    pub(super) fn open(
        file: &Path,
        given: Option<(&str, Fingerprint)>,
        before: Option<&Arc<Text>>,
        if_missing: Option<&Hint>,
        deadline: Instant,
    ) -> Result<Self> {
        let if_missing = if_missing.filter(|_| !journal::is_waiting_for(file));
        let mut queue = Queue::new(file, deadline);
        let (lock, leftovers) = loop {
            let lock = Lock::acquire(file, if_missing, &mut queue)?;
            let owner = lock.file.metadata();
            let owner = owner.map_err(|error| Error::file("cannot read", file, error))?;
            match journal::find(&lock.path, &owner)? {
                Found::Leftovers(leftovers) => break (lock, leftovers),
                Found::Busy => drop(lock),
            }
            queue.wait()?;
        };
        fail_point!("after-lock");
        let owner = lock.file.metadata();
        let owner = owner.map_err(|error| Error::file("cannot read", file, error))?;
        let rescues = legacy::find(&lock.path, &owner);
        let mut entries = journal::remembered(&lock.path);
        entries.extend(rescues.iter().flat_map(|rescue| rescue.entries.clone()));
        entries.extend(leftovers.iter().flat_map(Leftover::entries));
        let in_doubt = leftovers.iter().flat_map(Leftover::in_doubt).collect();
        let mut state = State {
            text: Text::parse(file, b"")?,
            disk: None,
            proved: HashSet::new(),
            journal: None,
            full_journals: Vec::new(),
            leftovers,
            rescues,
            entries,
            pending: HashSet::new(),
            results: HashMap::new(),
            reserved: 0,
            sent: HashSet::new(),
            in_doubt,
            spare: SPARE_BYTES,
            was_put_back: false,
            stays: false,
        };
        let mut disk = Disk::new(lock);
        state.repair(file, &mut disk)?;
        state.text = first_read(file, &disk, before)?;
        state.put_back(file, &mut disk, given)?;
        state.forget_old_doubts(given);
        state.disk = Some(disk);
        warn_if_readable_by_others(file);
        Ok(Session {
            file: file.to_owned(),
            state: RefCell::new(state),
            changed: Notify::new(),
            saver: None,
        })
    }

    /// Has a thread save, so that replies are read meanwhile; and room made at once for what so many
    /// bytes of new pairs need.
    pub(super) fn share(&mut self, saver: Worker, growth: u64) {
        self.saver = Some(saver);
        self.state.get_mut().spare += growth;
    }

    /// What the file said when it was last read.
    pub(super) fn text(&self) -> Arc<Text> {
        Arc::clone(&self.state.borrow().text)
    }

    pub(super) fn snapshot(&self, profile: &str) -> Result<Snapshot> {
        let text = self.text();
        text.snapshot(self.place(profile))
    }

    fn place<'p>(&'p self, profile: &'p str) -> Place<'p> {
        Place {
            file: &self.file,
            profile,
        }
    }

    /// Whether what a dead run left changed the file.
    pub(super) fn was_put_back(&self) -> bool {
        self.state.borrow().was_put_back
    }

    pub(super) fn may_be_spent(&self, token: Fingerprint) -> bool {
        self.state.borrow().in_doubt.contains(&token)
    }

    /// Whether this run made the file, and has put nothing into it.
    pub(super) fn has_made(&self) -> bool {
        let state = self.state.borrow();
        let made = state.disk.as_ref().is_some_and(|disk| disk.lock.is_made());
        made && state.text.document.text().is_empty()
    }

    pub(super) fn lock_name(&self) -> Option<String> {
        let state = self.state.borrow();
        state.disk.as_ref().map(|disk| disk.lock.name())
    }

    /// The tokens that a profile is known to have spent, the latest last.
    pub(super) fn spent(&self, snapshot: &Snapshot) -> Vec<Fingerprint> {
        let held = snapshot.fingerprint();
        let mut spent: Vec<_> = snapshot.profile.pair.spent.iter().collect();
        spent.retain(|token| Some(*token) != held);
        let state = self.state.borrow();
        let of_profile = |entry: &&Entry| entry.pair.profile == snapshot.login.profile;
        // Only a login's own history: not that of one whose place it took.
        let leads_here = |entry: &&Entry| entry.pair.fingerprint() == held;
        let mut known = state.entries.iter().rev().filter(of_profile);
        if let Some(entry) = known.find(leads_here) {
            let older = entry.pair.spent.iter().copied();
            let mut all: Vec<_> = older.filter(|token| !spent.contains(token)).collect();
            all.append(&mut spent);
            return all;
        }
        spent
    }

    /// Reads the file again: a program that knows no locks may have changed it.
    ///
    /// # Errors
    /// What is wrong with the file, if that stays.
    pub(super) async fn look_again(&self) -> Result<()> {
        let mut patience = Patience::long();
        loop {
            let (known, read) = {
                let state = self.state.borrow();
                let Some(disk) = &state.disk else {
                    // What is being saved is what it says soon.
                    return Ok(());
                };
                (Arc::clone(&state.text), disk.read()?)
            };
            let found = read.as_deref().unwrap_or_default();
            let text = Text::parse_anew(&self.file, found, &known);
            let is_sound = |text: &Arc<Text>| Arc::ptr_eq(text, &known) || is_whole(text, &known);
            if !text.as_ref().is_ok_and(is_sound)
                && let Some(pause) = patience.pause(read.as_deref())
            {
                tokio::time::sleep(pause).await;
                continue;
            }
            if read.is_none() {
                let message = format!("{} has vanished", self.file.display());
                return Err(Error::config(message));
            }
            let text = text?;
            let mut state = self.state.borrow_mut();
            if !Arc::ptr_eq(&text, &state.text) {
                state.proved.clear();
                state.text = text;
            }
            return Ok(());
        }
    }

    /// Tries the edits of all these logins at once, so that none need be tried alone.
    pub(super) fn prove_all(&self, logins: &[(String, Api)]) {
        let trials: Vec<_> = logins
            .iter()
            .map(|(profile, api)| Successor::trial(profile, *api))
            .collect();
        let text = self.text();
        let mut state = self.state.borrow_mut();
        for half in sound_halves(&self.file, &text, &trials) {
            state
                .proved
                .extend(half.iter().map(|trial| trial.profile.clone()));
        }
    }

    /// Makes room for what a request brings: the edit is tried on the text, the way of saving is
    /// chosen, the space is set aside, and the journal has taken a record (P1).
    pub(super) async fn reserve(
        self: &Rc<Self>,
        profile: &str,
        api: Api,
        sent: Option<Fingerprint>,
    ) -> Result<Reserved> {
        loop {
            let changed = self.changed.notified();
            if self.state.borrow().can_reserve() {
                break;
            }
            changed.await;
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.disk.is_none() {
            return Err(broken(&self.file));
        }
        if let Some(sent) = sent.filter(|sent| state.sent.contains(sent)) {
            let message = format!(
                "[{profile}] of {}: its refresh token {sent} is under way for another profile, and works once; nothing was sent for it",
                self.file.display()
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "give each profile a login of its own: feishu-refresh login -p NAME",
                "请为每个 profile 单独登录：feishu-refresh login -p 名称",
            )));
        }
        if !state.proved.contains(profile) {
            prove(&self.file, &state.text, &Successor::trial(profile, api))?;
            state.proved.insert(profile.to_owned());
        }
        if let Err(error) = state.make_room(&self.file, sent) {
            state.rest();
            return Err(error);
        }
        state.reserved += 1;
        state.sent.extend(sent);
        fail_point!("after-reserve");
        Ok(Reserved {
            session: Rc::clone(self),
            sent,
        })
    }

    /// Saves a pair: into the journal at once, and into the file with all others that have come.
    pub(super) async fn save(&self, pair: Successor) -> Result<(Tokens, Option<PathBuf>)> {
        fail_point!("before-record");
        let profile = pair.profile.clone();
        let in_journal = self.state.borrow_mut().write_down(&pair);
        fail_point!("after-record");
        let pair = Arc::new(pair);
        loop {
            let changed = self.changed.notified();
            let result = self.state.borrow_mut().results.remove(&profile);
            match result {
                Some(Ok(tokens)) => {
                    let aside = self.keep_unusable(&pair);
                    return Ok((tokens, aside));
                }
                Some(Err(unsaved)) => {
                    return Err(self.unsaved(&pair, &unsaved.why, in_journal));
                }
                None => {}
            }
            let job = self.state.borrow_mut().begin_saving(&self.file);
            let Some(job) = job else {
                if self.is_broken() {
                    return Err(self.unsaved(&pair, "the save broke off", in_journal));
                }
                changed.await;
                continue;
            };
            let saved = match &self.saver {
                None => Some(job.run()),
                Some(saver) => saver.run(move || job.run()).await,
            };
            self.state.borrow_mut().end_saving(&self.file, saved);
            self.changed.notify_waiters();
        }
    }

    /// Whether the disk was lost in a panic.
    fn is_broken(&self) -> bool {
        self.state.borrow().stays && self.state.borrow().disk.is_none()
    }

    /// Keeps a refresh token that no file can hold.
    fn keep_unusable(&self, pair: &Successor) -> Option<PathBuf> {
        pair.unusable.as_ref()?;
        let line = Record::Pair(Box::new(pair.clone())).line();
        let mut state = self.state.borrow_mut();
        match journal::keep_aside(&state.real_path(&self.file), line.as_bytes()) {
            Ok((path, _)) => Some(path),
            Err(_) => {
                state.stays = true;
                let journal = state.journal.as_ref()?;
                let _ = journal.sync();
                Some(journal.path().to_owned())
            }
        }
    }

    /// The error for a pair that is not in the file. What holds it is on disk by then.
    fn unsaved(&self, pair: &Successor, why: &str, in_journal: bool) -> Error {
        let place = self.place(&pair.profile);
        let kept = self.state.borrow_mut().keep(pair, in_journal);
        let Some(path) = kept else {
            let message =
                format!("{place}: rotated, but the new pair could be saved nowhere: {why}");
            return Error::new(Kind::Unsaved, message)
                .with_unsaved(pair.tokens.clone(), pair.lines())
                .with_hint(Hint::fixed(
                    "put the values above into that section by hand, now",
                    "请立即将上面的值手动写入该节",
                ));
        };
        let path = path.display();
        let message = format!("{place}: rotated, but not saved: {why}; the new pair is in {path}");
        Error::new(Kind::Unsaved, message).with_hint(Hint::naming(
            format!("keep {path}: nothing else holds the new refresh token; the next run puts it back where it fits"),
            format!("请保留 {path}：新的 refresh_token 仅存于此；下次运行会在适合时写回"),
        ))
    }

    fn unreserve(&self, sent: Option<Fingerprint>) {
        let mut state = self.state.borrow_mut();
        state.reserved -= 1;
        if let Some(sent) = sent {
            state.sent.remove(&sent);
            state.in_doubt.retain(|token| *token != sent);
            let is_last = state.reserved == 0 && state.pending.is_empty();
            if let Some(journal) = state.journal.as_ref().filter(|_| !is_last || state.stays) {
                // Without it the next run is merely more careful in its words.
                let _ = journal.append(&Record::Answered(sent));
            }
        }
        state.close(&self.file);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.state.get_mut().close(&self.file);
    }
}

/// Room for what one request brings. Dropped, the request has been answered.
pub(super) struct Reserved {
    session: Rc<Session>,
    sent: Option<Fingerprint>,
}

impl Reserved {
    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.session.unreserve(self.sent);
    }
}

/// A text to save, with all that it takes.
struct Job {
    file: PathBuf,
    disk: Disk,
    journal: Option<Arc<Journal>>,
    text: Arc<Text>,
    entries: Vec<Entry>,
    spare: u64,
    /// Whether more is to come.
    is_more_to_come: bool,
}

/// What came of it.
struct Saved {
    disk: Disk,
    text: Arc<Text>,
    fits: Result<Vec<bool>>,
}

impl Job {
    fn run(mut self) -> Saved {
        let aim = Aim {
            file: &self.file,
            entries: &self.entries,
            given: None,
            spare: self.spare,
        };
        let journal = self.journal.as_deref();
        let fits = aim.settle(&mut self.disk, journal, &mut self.text);
        if self.is_more_to_come {
            // What was reserved before may have been used.
            let bytes = self.text.document.text().len() as u64 + self.spare;
            let _ = self.disk.reserve(bytes);
            if let Some(journal) = journal.filter(|_| self.disk.needs_text_in_journal()) {
                let _ = journal.reserve(bytes + self.spare);
            }
        }
        Saved {
            disk: self.disk,
            text: self.text,
            fits,
        }
    }
}

impl State {
    /// Where the file really is.
    fn real_path(&self, file: &Path) -> PathBuf {
        let disk = self.disk.as_ref();
        disk.map_or_else(|| file.to_owned(), |disk| disk.lock.path.clone())
    }

    /// Makes a torn file whole before anybody reads it (P3).
    fn repair(&mut self, file: &Path, disk: &mut Disk) -> Result<()> {
        if !disk.read()?.as_deref().is_some_and(is_torn) {
            return Ok(());
        }
        let mut whole = self.leftovers.iter().filter_map(Leftover::text);
        let rescued = self
            .rescues
            .iter()
            .filter_map(|rescue| rescue.text.as_deref());
        let whole = whole.next().or(rescued.last());
        let Some(whole) = whole.filter(|whole| Text::parse(file, whole.as_bytes()).is_ok()) else {
            let message = format!(
                "{} is half written, and no journal with its whole text was found",
                file.display()
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "look for its .journal beside it, in the state folder and the temporary folder of the user who wrote it",
                "请在该文件旁边，以及写入它的用户的状态目录和临时目录中查找其 .journal 文件",
            )));
        };
        let written = files_limit(file, whole.len() as u64).and_then(|()| {
            let written = disk.overwrite(whole);
            written.map_err(|error| Error::file("cannot write", file, error))
        });
        written.map_err(|error| cannot_put_back(&error))?;
        log::warn!("{} was half written: it is whole again", file.display());
        Ok(())
    }

    /// Puts into the file what dead runs left, and what an old copy took out of it.
    fn put_back(
        &mut self,
        file: &Path,
        disk: &mut Disk,
        given: Option<(&str, Fingerprint)>,
    ) -> Result<()> {
        let entries = self.entries.clone();
        let aim = Aim {
            file,
            entries: &entries,
            given,
            spare: self.spare,
        };
        let (next, fits) = aim.replay(&self.text)?;
        let mut open = self.entries.iter().zip(&fits);
        let has_torn = self.leftovers.iter().any(Leftover::has_torn_lines);
        if next.is_none() && !has_torn && open.all(|(entry, fits)| *fits || !entry.is_open()) {
            self.entries
                .iter_mut()
                .for_each(|entry| entry.is_saved = true);
            return Ok(());
        }
        let bytes = self.text.document.text().len() as u64 + self.spare;
        let before = Arc::clone(&self.text);
        let settled = disk.reserve(bytes).and_then(|()| {
            self.open_journal_at(&disk.lock.path, bytes)
                .map_err(|error| Error::file("no room for a journal of", file, error))?;
            let journal = self.journal.clone();
            aim.settle(disk, journal.as_deref(), &mut self.text)
        });
        let fits = settled.map_err(|error| cannot_put_back(&error))?;
        disk.release();
        self.was_put_back = !Arc::ptr_eq(&before, &self.text);
        if self.was_put_back {
            self.tell_put_back(file);
        }
        self.set_unfit_aside(&disk.lock.path, &fits);
        self.entries
            .iter_mut()
            .for_each(|entry| entry.is_saved = true);
        Ok(())
    }

    fn tell_put_back(&self, file: &Path) {
        let mut held: Vec<_> = self.leftovers.iter().map(Leftover::path).collect();
        held.extend(self.rescues.iter().map(Rescue::path));
        if self.entries.iter().any(Entry::is_open) {
            for path in held {
                log::warn!(
                    "{} held what an earlier run could not save: it is saved now",
                    path.display()
                );
            }
        } else {
            log::warn!(
                "{} held spent tokens again, as an old copy does: the latest were put back",
                file.display()
            );
        }
    }

    /// Keeps what fits nothing under a name of its own, and names it.
    fn set_unfit_aside(&mut self, path: &Path, fits: &[bool]) {
        let unfit: Vec<Arc<Successor>> = self
            .entries
            .iter()
            .zip(fits)
            .filter(|(entry, fits)| !**fits && entry.is_open())
            .map(|(entry, _)| Arc::clone(&entry.pair))
            .collect();
        let is_unfit = |pair: &Successor| {
            let print = pair.fingerprint();
            unfit
                .iter()
                .any(|other| other.profile == pair.profile && other.fingerprint() == print)
        };
        for leftover in &self.leftovers {
            let lines = leftover.lines_of(is_unfit);
            if lines.is_empty() {
                continue;
            }
            let from = leftover.path().display();
            match journal::keep_aside(path, &lines) {
                Ok((kept, true)) => {
                    let kept = kept.display();
                    log::warn!("{from} does not fit the file any more: it was kept as {kept}");
                }
                Ok((_, false)) => {}
                Err(error) => {
                    self.stays = true;
                    log::warn!("{from} does not fit the file any more, and stays: {error}");
                }
            }
        }
        let (fitting, old): (Vec<_>, Vec<_>) = self
            .rescues
            .drain(..)
            .partition(|rescue| !rescue.entries.iter().any(|entry| is_unfit(&entry.pair)));
        self.rescues = fitting;
        old.iter().for_each(Rescue::put_aside);
        self.entries
            .retain(|entry| entry.source == Source::Done || !is_unfit(&entry.pair));
    }

    /// A doubt about a token that nobody sends any more is none.
    fn forget_old_doubts(&mut self, given: Option<(&str, Fingerprint)>) {
        if self.in_doubt.is_empty() {
            return;
        }
        let held = self.text.tokens();
        let given = given.map(|(_, token)| token);
        self.in_doubt
            .retain(|token| held.contains(token) || given == Some(*token));
    }

    fn can_reserve(&self) -> bool {
        let is_long = |journal: &Arc<Journal>| journal.length() > LONG_JOURNAL;
        let waits = self.disk.is_none() && !self.stays;
        let must_close = self.reserved > 0 && self.journal.as_ref().is_some_and(is_long);
        !waits && !must_close
    }

    /// Sets space aside, in the file and in the journal, and shows that the journal takes a record.
    fn make_room(&mut self, file: &Path, sent: Option<Fingerprint>) -> Result<()> {
        let Some(disk) = &mut self.disk else {
            return Err(broken(file));
        };
        let bytes = self.text.document.text().len() as u64 + self.spare;
        disk.reserve(bytes)?;
        let has_text = disk.needs_text_in_journal();
        let in_journal = self.spare + if has_text { bytes } else { 0 };
        let path = disk.lock.path.clone();
        let room = match &self.journal {
            Some(journal) => journal.reserve(in_journal),
            None => self.open_journal_at(&path, in_journal),
        };
        let written = room.and_then(|()| match (&self.journal, sent) {
            (Some(journal), Some(sent)) => journal.append(&Record::Sent(sent)),
            _ => Ok(()),
        });
        written.map_err(|error| Error::file("no room for new tokens of", file, error))
    }

    fn open_journal_at(&mut self, path: &Path, bytes: u64) -> std::io::Result<()> {
        let tried: Vec<_> = self
            .full_journals
            .iter()
            .map(|j| j.path().to_owned())
            .collect();
        let model = fs::metadata(path).ok();
        let opened = Journal::open(path, model.as_ref(), bytes, &self.leftovers, &tried)?;
        self.journal = Some(Arc::new(opened));
        Ok(())
    }

    /// Writes a pair into a journal, the first thing that is done with it. Says whether one has it.
    fn write_down(&mut self, pair: &Successor) -> bool {
        let record = Record::Pair(Box::new(pair.clone()));
        let written = self.journal.as_ref().map(|journal| journal.append(&record));
        let in_journal = matches!(written, Some(Ok(()))) || self.write_down_elsewhere(&record);
        self.pending.insert(pair.profile.clone());
        self.entries.push(Entry {
            pair: Arc::new(pair.clone()),
            source: Source::Own,
            is_saved: false,
        });
        in_journal
    }

    fn write_down_elsewhere(&mut self, record: &Record) -> bool {
        let Some(path) = self.disk.as_ref().map(|disk| disk.lock.path.clone()) else {
            return false;
        };
        self.full_journals.extend(self.journal.take());
        let line = record.line().len() as u64;
        let opened = self.open_journal_at(&path, line);
        let written = opened.and_then(|()| match &self.journal {
            Some(journal) => journal.append(record),
            None => Ok(()),
        });
        if let Err(error) = &written {
            log::warn!("a new pair is in no journal yet: {error}");
        }
        written.is_ok()
    }

    /// Sees to it that a pair is on disk in a journal, in one place or another. Returns its path.
    fn keep(&mut self, pair: &Successor, in_journal: bool) -> Option<PathBuf> {
        self.stays = true;
        let synced = |journal: &Arc<Journal>| journal.is_there() && journal.sync().is_ok();
        if let Some(journal) = self
            .journal
            .as_ref()
            .filter(|journal| in_journal && synced(journal))
        {
            return Some(journal.path().to_owned());
        }
        let record = Record::Pair(Box::new(pair.clone()));
        if !self.write_down_elsewhere(&record) {
            return None;
        }
        let journal = self.journal.as_ref()?;
        synced(journal).then(|| journal.path().to_owned())
    }

    /// Takes all that waits to be saved, if nobody is saving.
    fn begin_saving(&mut self, file: &Path) -> Option<Job> {
        let unsettled = self
            .pending
            .iter()
            .any(|profile| !self.results.contains_key(profile));
        if !unsettled {
            return None;
        }
        Some(Job {
            file: file.to_owned(),
            disk: self.disk.take()?,
            journal: self.journal.clone(),
            text: Arc::clone(&self.text),
            entries: self.entries.clone(),
            spare: self.spare,
            is_more_to_come: self.reserved > self.pending.len(),
        })
    }

    fn end_saving(&mut self, file: &Path, saved: Option<Saved>) {
        let Some(Saved { disk, text, fits }) = saved else {
            // A panic took the lock along. The journal has all of it.
            self.stays = true;
            return;
        };
        self.disk = Some(disk);
        self.text = text;
        let settled = self.entries.iter().zip(match &fits {
            Ok(fits) => fits.clone(),
            Err(_) => vec![false; self.entries.len()],
        });
        // Those that came while this was saved are the next one's.
        let of_run: Vec<_> = settled
            .filter(|(entry, _)| entry.source == Source::Own)
            .filter(|(entry, _)| self.pending.contains(&entry.pair.profile))
            .map(|(entry, fits)| (Arc::clone(&entry.pair), fits))
            .collect();
        for (pair, is_there) in of_run {
            let result = match &fits {
                Ok(_) if is_there => self.tokens_of(file, &pair),
                Ok(_) => Err(self.conflict(file, &pair)),
                Err(error) => Err(error.to_string()),
            };
            let result = result.map_err(|why| Unsaved { why });
            match (&result, &fits) {
                // What came before it is of no use any more.
                (Ok(_), _) => self.entries.retain_mut(|entry| {
                    let is_this = Arc::ptr_eq(&entry.pair, &pair);
                    entry.is_saved |= is_this;
                    is_this || entry.pair.profile != pair.profile
                }),
                // It is the next run's.
                (Err(_), Ok(_)) => self.entries.retain(|e| !Arc::ptr_eq(&e.pair, &pair)),
                (Err(_), Err(_)) => {}
            }
            self.pending.remove(&pair.profile);
            self.results.insert(pair.profile.clone(), result);
        }
    }

    fn tokens_of(&self, file: &Path, pair: &Successor) -> Result<Tokens, String> {
        let place = Place {
            file,
            profile: &pair.profile,
        };
        let found = sections::pair(place, &self.text.document);
        found
            .map(|pair| pair.tokens)
            .map_err(|error| error.to_string())
    }

    /// What another program did meanwhile.
    fn conflict(&self, file: &Path, pair: &Successor) -> String {
        let is_there = self
            .tokens_of(file, pair)
            .is_ok_and(|t| t.refresh_token.is_some());
        let what = if is_there {
            "another program put another refresh token there"
        } else {
            "another program took the refresh token out of it"
        };
        what.to_owned()
    }

    /// Gives the room back where nothing is under way.
    fn rest(&mut self) {
        if self.reserved == 0 && self.pending.is_empty() {
            if let Some(disk) = &mut self.disk {
                disk.release();
            }
            let is_blank = self.leftovers.is_empty() && !self.stays;
            if let Some(journal) = self.journal.take_if(|_| is_blank) {
                journal.remove();
            }
        }
    }

    /// Once nothing is under way: looks whether the file, read back, has all that the journal has, and
    /// then takes the journal away, and remembers the pairs.
    fn close(&mut self, file: &Path) {
        if self.reserved > 0 || !self.pending.is_empty() || std::thread::panicking() {
            return;
        }
        let Some(mut disk) = self.disk.take() else {
            return;
        };
        let is_new = |entry: &Entry| entry.source != Source::Done;
        let has_all = !self.entries.iter().any(is_new) || self.is_in_file(file, &mut disk);
        if has_all && !self.stays {
            let path = disk.lock.path.clone();
            journal::remember(&path, self.entries.iter().filter(|entry| is_new(entry)));
            for entry in &mut self.entries {
                entry.source = Source::Done;
            }
            let journals = self.journal.take().into_iter();
            let journals = journals.chain(self.full_journals.drain(..));
            let is_adopted = |journal: &Journal| {
                self.leftovers
                    .iter()
                    .any(|leftover| leftover.path() == journal.path())
            };
            let keeps_doubt = !self.in_doubt.is_empty();
            for journal in journals {
                if !(keeps_doubt && is_adopted(&journal)) {
                    journal.remove();
                }
            }
            if !keeps_doubt {
                self.leftovers
                    .drain(..)
                    .for_each(|leftover| leftover.remove());
            }
            self.rescues.drain(..).for_each(|rescue| rescue.remove());
        }
        disk.release();
        self.disk = Some(disk);
    }

    /// Whether the file has all pairs, read once more: a program without locks may have written back
    /// what it had read before a save.
    fn is_in_file(&mut self, file: &Path, disk: &mut Disk) -> bool {
        let (journal, entries) = (self.journal.clone(), self.entries.clone());
        let aim = Aim {
            file,
            entries: &entries,
            given: None,
            spare: self.spare,
        };
        let before = Arc::clone(&self.text);
        let settled = aim.settle(disk, journal.as_deref(), &mut self.text);
        if !Arc::ptr_eq(&before, &self.text) {
            self.proved.clear();
        }
        match settled {
            Ok(fits) => !entries
                .iter()
                .zip(fits)
                .any(|(entry, fits)| entry.is_open() && !fits),
            Err(error) => {
                log::warn!("{error}; the journal stays for the next run");
                false
            }
        }
    }
}

/// The file as a run reads it first. One that is empty, cannot be understood or has lost sections
/// since `before` is looked at again: another program may be writing it.
fn first_read(file: &Path, disk: &Disk, before: Option<&Arc<Text>>) -> Result<Arc<Text>> {
    let mut patience = Patience::short();
    loop {
        let bytes = disk.read()?;
        let found = bytes.as_deref().unwrap_or_default();
        let text = match before {
            Some(before) => Text::parse_anew(file, found, before),
            None => Text::parse(file, found),
        };
        let is_sound = |text: &Arc<Text>| before.is_none_or(|before| is_whole(text, before));
        let is_sound = text.as_ref().is_ok_and(is_sound) && !found.is_empty();
        if is_sound || disk.lock.is_made() || !patience.wait(bytes.as_deref()) {
            return text;
        }
    }
}

/// Whether a text has all the sections that it had before; where some are gone, it may be half
/// written.
fn is_whole(text: &Text, before: &Text) -> bool {
    let mut sections = before.document.sections();
    sections.all(|name| text.document.has_section(name))
}

/// Tries an edit on a text.
fn prove(file: &Path, text: &Text, trial: &Successor) -> Result<()> {
    prove_all(file, text, std::slice::from_ref(trial))
}

fn prove_all<'t>(file: &Path, text: &Text, trials: &'t [Successor]) -> Result<()> {
    let place = Place { file, profile: "" };
    let edit = |trial: &'t Successor| {
        let old = sections::pair(place.of(&trial.profile), &text.document)?;
        sections::edit(place, &text.document, &old, trial)
    };
    let edits: Result<Vec<_>> = trials.iter().map(edit).collect();
    sections::edited(file, &text.document, &edits?).map(drop)
}

/// Those of some edits that can be made together; of those that cannot, the sound halves.
fn sound_halves<'t>(file: &Path, text: &Text, trials: &'t [Successor]) -> Vec<&'t [Successor]> {
    if prove_all(file, text, trials).is_ok() {
        return vec![trials];
    }
    if trials.len() <= 1 {
        return Vec::new();
    }
    let (first, second) = trials.split_at(trials.len() / 2);
    let mut sound = sound_halves(file, text, first);
    sound.append(&mut sound_halves(file, text, second));
    sound
}

fn files_limit(file: &Path, bytes: u64) -> Result<()> {
    let room = crate::platform::files::check_length(bytes);
    room.map_err(|error| Error::file("cannot write", file, error))
}

fn cannot_put_back(error: &Error) -> Error {
    let message = format!("cannot put back what an earlier run saved: {error}; nothing was sent");
    Error::temporary(message).with_hint(Hint::fixed(
        "mend what stands in the way, and run again: its journal keeps the pair",
        "请排除障碍后重新运行：令牌对仍保存在其 journal 中",
    ))
}

fn broken(file: &Path) -> Error {
    let message = format!(
        "{} cannot be saved any more: a save broke off; nothing more was sent",
        file.display()
    );
    Error::temporary(message)
}
