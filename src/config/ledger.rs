//! The file of a run over many profiles: one lock, a journal that takes each pair as it comes, and
//! saves of all that has come.
//!
//! Promises:
//! - Each pair is in the journal the moment it arrives, so that a kill loses none (P7); it is called
//!   saved once it is in the file itself (P2).
//! - A group is saved like a single pair: spliced into the file as it is *then* (P12), whole or not at
//!   all (P3), with the room for it set aside before the requests that bring it (P1).
//! - What one section cannot take stops no other.

use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use super::document::{Document, Edit};
use super::durable::{self, Journal, Lock, Room, Stamp};
use super::profile::{self, Pair, read_anew};
use super::profiles::Profiles;
use super::replay;
use super::save::{ANOTHER_TOKEN, NewTokens, Plan, TAKEN_OUT, is_whole, read_settled};
use super::{Order, SPARE_BYTES, View};
use crate::error::{Error, Result};
use crate::protocol::Api;
use crate::token::{AppToken, Tokens};

/// What a section can grow by, beyond twice its tokens' length: the keys and the times.
const SPARE_SECTION: u64 = 2 << 10;

/// A file that could not be used is not looked at again before that: many profiles may ask.
const LOOK: Duration = Duration::from_millis(50);

/// What a reply brought for one profile.
pub(crate) struct News<'n> {
    pub(crate) api: Api,
    pub(crate) tokens: &'n Tokens,
}

/// What a section can grow by, if its tokens do not more than double.
fn growth(view: &View<'_>) -> u64 {
    let tokens = view.tokens();
    let length = |token: &Option<SecretString>| {
        token
            .as_ref()
            .map_or(0, |token| token.expose_secret().len() as u64)
    };
    SPARE_SECTION + 2 * (length(&tokens.access_token) + length(&tokens.refresh_token))
}

/// The file while its profiles are being refreshed.
pub(crate) struct Ledger<'a> {
    profiles: Profiles<'a>,
    /// The state of the file that `profiles` was read from.
    stamp: Option<Stamp>,
    /// The state in which the last save left it.
    saved_as: Option<Stamp>,
    // Dropped before the lock.
    journal: Option<Journal>,
    hold: Hold,
    /// What the text can grow by.
    growth: u64,
    /// What the journal has, and the file has not.
    pending: Vec<Entry<'a>>,
    /// Whether the journal holds what the file will not take.
    stays: bool,
    /// Why nothing can be saved any more.
    broken: Option<String>,
    /// A state of the file that could not be used, why, and when that was found.
    failed: Option<(Stamp, Error, Instant)>,
}

/// How the file is held.
enum Hold {
    /// A group that is being saved has it.
    Nothing,
    /// Nothing is under way.
    Lock(Lock),
    /// There is room for the next text.
    Room(Room),
}

/// A pair that has come.
struct Entry<'a> {
    plan: Plan<'a>,
    reply: NewTokens,
    /// Whether the journal has it.
    in_journal: bool,
}

impl<'a> Ledger<'a> {
    /// Makes room for what these profiles will get.
    pub(super) fn open(
        profiles: Profiles<'a>,
        lock: Lock,
        stamp: Option<Stamp>,
        due: &[View<'a>],
    ) -> Result<Self> {
        let mut ledger = Ledger {
            profiles,
            stamp,
            saved_as: stamp,
            journal: None,
            hold: Hold::Nothing,
            growth: due.iter().map(growth).sum::<u64>() + SPARE_BYTES,
            pending: Vec::new(),
            stays: false,
            broken: None,
            failed: None,
        };
        ledger.make_room(lock)?;
        Ok(ledger)
    }

    /// A profile as it stands now: another program may have put another token there.
    ///
    /// # Errors
    /// What is wrong with the file; that may pass, if another program is writing it.
    pub(crate) fn view(&mut self, profile: &'a str) -> Result<View<'a>> {
        let file = self.profiles.file;
        let stamp = durable::stamp(file);
        if let Some((failed, error, when)) = &self.failed
            && stamp.as_ref() == Some(failed)
            && when.elapsed() < LOOK
        {
            return Err(error.again());
        }
        if stamp.is_none() || stamp != self.stamp {
            let read = self.read_anew();
            if let (Err(error), Some(stamp)) = (&read, stamp) {
                self.failed = Some((stamp, error.again(), Instant::now()));
            }
            self.profiles.document = read?;
            self.stamp = stamp;
        }
        self.profiles.view(profile)
    }

    fn read_anew(&self) -> Result<Arc<Document>> {
        let file = self.profiles.file;
        let bytes = durable::read(file)?.ok_or_else(|| durable::does_not_exist(file))?;
        let known = &self.profiles.document;
        let document = read_anew(file, &bytes, Some(known))?;
        if is_whole(file, &document, known) {
            return Ok(document);
        }
        let message = format!("{} is being written by another program", file.display());
        Err(Error::temporary(message))
    }

    /// Whether what a request brings can still be saved.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`].
    pub(crate) fn check(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(why) => {
                let file = self.profiles.file.display();
                let message =
                    format!("{file} cannot be saved any more: {why}; nothing more was sent");
                Err(Error::temporary(message))
            }
        }
    }

    /// Takes charge of what a reply brought: from here on a kill does not lose it.
    ///
    /// # Errors
    /// [`crate::Kind::Unsaved`] if nothing can be saved any more; the pair is in the journal.
    pub(crate) fn keep(
        &mut self,
        view: View<'a>,
        order: &Order,
        tokens: Tokens,
        app_token: Option<AppToken>,
    ) -> Result<()> {
        let mut entry = Entry {
            plan: Plan::refresh(view, order),
            reply: NewTokens { tokens, app_token },
            in_journal: false,
        };
        // Until it is among those that wait, a panic must leave the journal.
        let stays = mem::replace(&mut self.stays, true);
        let appended = match (&mut self.journal, entry.plan.section(&entry.reply)) {
            (Some(journal), Ok(section)) => journal.append(&section).map_err(|e| e.to_string()),
            (None, _) => Err("there is no room for it".to_owned()),
            (_, Err(error)) => Err(error.to_string()),
        };
        entry.in_journal = appended.is_ok();
        if let Err(why) = appended {
            log::warn!("a new pair is not in a rescue file yet: {why}");
        }
        if let Some(why) = self.broken.clone() {
            return Err(self.unsaved(&entry, &why));
        }
        self.pending.push(entry);
        self.stays = stays;
        Ok(())
    }

    /// How many pairs wait to be saved.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Hands out all that waits, to be saved on any thread; [`Self::settle`] takes the result.
    pub(crate) fn group(&mut self) -> Option<Group<'a>> {
        if self.pending.is_empty() {
            return None;
        }
        match mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Room(room) => Some(Group {
                file: self.profiles.file,
                known: Arc::clone(&self.profiles.document),
                growth: self.growth,
                room,
                entries: mem::take(&mut self.pending),
            }),
            other => {
                self.hold = other;
                None
            }
        }
    }

    /// What came of a group, one by one.
    pub(crate) fn settle(&mut self, saved: SavedGroup<'a>) -> Vec<Result<Tokens>> {
        self.hold = Hold::Room(saved.room);
        if let Some((document, stamp)) = saved.now {
            self.profiles.document = document;
            // Who knows what was written since: it is read again.
            self.stamp = None;
            self.saved_as = stamp;
        }
        self.broken = saved.broken;
        let of = |(entry, result): (Entry<'a>, Result<Tokens, String>)| match result {
            Ok(tokens) => Ok(tokens),
            Err(why) => Err(self.unsaved(&entry, &why)),
        };
        saved.results.into_iter().map(of).collect()
    }

    /// The error for a pair that is not in the file; the journal stays, and is on disk by then.
    fn unsaved(&mut self, entry: &Entry<'a>, why: &str) -> Error {
        self.stays = true;
        let journal = self.journal.as_mut().filter(|_| entry.in_journal);
        let journal = journal.filter(|journal| journal.path().exists());
        let rescue: Option<PathBuf> = journal.and_then(|journal| {
            let synced = journal.sync();
            synced.ok().map(|()| journal.path().to_owned())
        });
        entry.plan.unsaved(why, rescue, &entry.reply)
    }

    /// Gives the room back, and takes the journal away where the file has all of it: a signal that
    /// ends the run now leaves nothing behind.
    pub(crate) fn rest(&mut self) {
        self.put_back();
        if let Some(journal) = self.journal.take() {
            // A group that never came back is in the journal alone.
            if self.stays || matches!(self.hold, Hold::Nothing) {
                self.journal = Some(journal);
            } else {
                journal.remove();
            }
        }
        self.hold = match mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Room(room) => Hold::Lock(room.release()),
            other => other,
        };
    }

    /// A program that knows no locks may have written back what it had read before a save: tokens that
    /// are spent by now. The journal still has what belongs there.
    fn put_back(&mut self) {
        let (Hold::Room(room), Some(journal)) = (&mut self.hold, &self.journal) else {
            return;
        };
        if durable::stamp(self.profiles.file) == self.saved_as {
            return;
        }
        let current = read_settled(self.profiles.file, room, &self.profiles.document);
        let needed = current
            .and_then(|current| replay::needed(self.profiles.file, current.text(), journal.path()));
        let put_back = match needed {
            Ok(None) => return,
            Ok(Some(text)) => match room.save(text.as_bytes()) {
                Ok(()) => Ok(()),
                Err(error) => Err(error.source.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        let file = self.profiles.file.display();
        match put_back {
            Ok(()) => log::warn!("another program put spent tokens back into {file}: mended"),
            Err(why) => {
                // Then it is the next run's.
                self.stays = true;
                log::warn!("cannot mend what another program wrote to {file}: {why}");
            }
        }
    }

    /// Makes room again after a rest.
    pub(crate) fn resume(&mut self) {
        match mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Lock(lock) => {
                if let Err(error) = self.make_room(lock) {
                    log::warn!("{error}");
                    self.broken = Some(error.to_string());
                }
            }
            other => self.hold = other,
        }
    }

    fn make_room(&mut self, lock: Lock) -> Result<()> {
        let length = self.profiles.document.text().len() as u64;
        let journal = match self.journal.take() {
            Some(journal) => Ok(journal),
            None => lock.journal(self.growth),
        };
        let room = journal.and_then(|journal| {
            self.journal = Some(journal);
            lock.choose_to_put_back(length + self.growth)
        });
        match room {
            Ok(choice) => self.hold = Hold::Room(lock.into_room(choice)),
            Err(error) => {
                // Without the lock, another run could send what this one has still under way.
                self.hold = Hold::Lock(lock);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Ledger<'_> {
    fn drop(&mut self) {
        if self.pending.is_empty() {
            self.rest();
            if let Some(journal) = &mut self.journal {
                journal.end();
            }
        }
    }
}

/// Pairs to be saved together.
pub(crate) struct Group<'a> {
    file: &'a Path,
    known: Arc<Document>,
    growth: u64,
    room: Room,
    entries: Vec<Entry<'a>>,
}

/// What came of them.
pub(crate) struct SavedGroup<'a> {
    room: Room,
    results: Vec<(Entry<'a>, Result<Tokens, String>)>,
    /// What the file says now.
    now: Option<(Arc<Document>, Option<Stamp>)>,
    /// Why nothing more can be saved.
    broken: Option<String>,
}

impl<'a> Group<'a> {
    /// Saves them, and makes room for the next text.
    pub(crate) fn save(mut self) -> SavedGroup<'a> {
        // The journal has them all: a panic here is a save that failed.
        let saved = panic::catch_unwind(AssertUnwindSafe(|| self.try_save()));
        let saved = saved.unwrap_or_else(|_| Err("a panic".to_owned()));
        let (document, results) = match saved {
            Ok(saved) => saved,
            Err(why) => {
                let results = self
                    .entries
                    .into_iter()
                    .map(|entry| (entry, Err(why.clone())));
                return SavedGroup {
                    results: results.collect(),
                    now: None,
                    // A file that another program broke may be mended by it.
                    broken: (!self.room.is_usable()).then_some(why),
                    room: self.room,
                };
            }
        };
        let stamp = self.room.stamp();
        let length = document.text().len() as u64;
        let renewed = self.room.renew(length + self.growth);
        // A disk that is nearly full still has room for what is under way.
        let renewed = renewed.or_else(|_| self.room.renew(length + length / 4 + SPARE_SECTION));
        let broken = renewed.err();
        SavedGroup {
            results: self.entries.into_iter().zip(results).collect(),
            room: self.room,
            now: Some((document, stamp)),
            broken: broken.map(|error| error.to_string()),
        }
    }

    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn try_save(&mut self) -> Result<(Arc<Document>, Vec<Result<Tokens, String>>), String> {
        let words = |error: Error| error.to_string();
        // Another program's work stays.
        self.known = read_settled(self.file, &self.room, &self.known).map_err(words)?;
        let edits = self.entries.iter().map(|entry| {
            let edit = entry.plan.edit_current(&self.known, &entry.reply);
            edit.map_err(words)?.ok_or_else(|| {
                let is_torn = entry.plan.is_torn_from(&self.known);
                let why = if is_torn { TAKEN_OUT } else { ANOTHER_TOKEN };
                why.to_owned()
            })
        });
        let edits: Vec<Result<Edit<'_>, String>> = edits.collect();
        let sound = edits.iter().flatten();
        let edited = profile::edited(self.file, &self.known, sound).map_err(words)?;
        let edits: Vec<Result<(), String>> = edits.into_iter().map(|e| e.map(drop)).collect();
        let saved = self.room.save(edited.text().as_bytes());
        saved.map_err(|error| error.source.to_string())?;
        let results = self.entries.iter().zip(edits).map(|(entry, edit)| {
            let pair = Pair::read(entry.plan.place(), &edited).map_err(words);
            edit.and(pair).map(|pair| pair.tokens)
        });
        let results = results.collect();
        Ok((Arc::new(edited), results))
    }
}
