//! A run's hold on the file: the lock, the journal, and all pairs that it knows. The claims of a run over many logins
//! share one.
//!
//! The complete argument why nothing is lost:
//!
//! 1. A pair is a record in the journal before anything else is done with it ([`Session::save`]). Space
//!    for the record, and for the new text, was reserved before the request was sent
//!    ([`Session::reserve`]); the journal took a record then, which proves that it can.
//! 2. A record stays until the file, *read back*, has its pair or what came after it
//!    ([`FileState::close`]). Nothing else removes the journal: no error, no signal, no panic, no kill.
//!    So at any moment the pair is in the file, or in the journal, or in both.
//! 3. The next run to claim the file reads the journal before it reads a token, and applies
//!    it to the file ([`FileState::open`], [`super::settle`]). That is the same function by which a
//!    save works; being killed in it, and again in the next run, changes nothing: the journal
//!    remains, and it is done again.
//! 4. Replaying is pure. A pair replaces a token it came from, and nothing else
//!    ([`super::replay`]): so a newer token is never replaced by an older one, and another program's
//!    token never by ours. All other text stays as it was, since only values are spliced into it.
//! 5. A file that is renamed into place is the old one or the new one. One that is written in place is
//!    torn for as long as its first byte is NUL ([`super::disk`]); its whole text is in the journal,
//!    synced, before that byte is written, and the journal stays until all of it is read back.
//! 6. Two runs never do this at once: they hold the lock on the file, and, if an editor has put
//!    another file there, the one on the journal.
//!
//! What can still be lost: a reply that was not read, or not yet recorded.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::journal::Journal;
use super::rereading::Rereading;
use super::saving::SaveJob;
use super::sections::{SectionId, Text};
use super::state::FileState;
use crate::error::{Error, Hint, Kind, Result};
use crate::profile::{LoginId, Origin, Snapshot, Successor};
use crate::protocol::Api;
use crate::store::places::{self, REPLY};
use crate::token::{Fingerprint, Tokens};
use crate::worker::Worker;

/// A reply as a line that a person can copy, whatever its bytes do to a terminal.
fn shown_whole(reply: &[u8]) -> String {
    let text = std::str::from_utf8(reply);
    let plain = text
        .ok()
        .map(str::trim_end)
        .filter(|text| !text.contains(char::is_control));
    let line = plain.map_or_else(|| reply.escape_ascii().to_string(), str::to_owned);
    line + "\n"
}

/// A run's hold on the file.
pub(super) struct Session {
    /// The path, as messages show it.
    file: PathBuf,
    state: RefCell<FileState>,
    /// Signals that the disk is back, or a reservation ended.
    changed: Notify,
    /// The thread that saves, if others must not wait for it.
    saver: Option<Worker>,
}

impl Session {
    pub(super) fn new(file: &Path, state: FileState) -> Self {
        Session {
            file: file.to_owned(),
            state: RefCell::new(state),
            changed: Notify::new(),
            saver: None,
        }
    }

    /// Makes a thread save, so that replies are read meanwhile; and reserves space for this many bytes of new pairs at
    /// once.
    pub(super) fn share(&mut self, saver: Worker, growth: u64) {
        self.saver = Some(saver);
        self.state.get_mut().spare += growth;
    }

    /// What the file said when it was last read.
    pub(super) fn text(&self) -> Arc<Text> {
        Arc::clone(&self.state.borrow().text)
    }

    pub(super) fn snapshot(&self, profile: &str) -> Result<Snapshot> {
        self.text().snapshot(self.place(profile))
    }

    fn place<'p>(&'p self, profile: &'p str) -> SectionId<'p> {
        SectionId {
            file: &self.file,
            profile,
        }
    }

    /// Whether something that dead runs left was restored to this login.
    pub(super) fn was_put_back(&self, profile: &str) -> bool {
        self.state.borrow().put_back.contains(profile)
    }

    /// Whether a dead run sent this token, with unknown result.
    pub(super) fn may_be_spent(&self, token: Fingerprint) -> bool {
        self.state.borrow().in_doubt.contains(&token)
    }

    /// Whether this run created the file, and has written nothing to it.
    pub(super) fn has_made(&self) -> bool {
        self.state.borrow().has_made()
    }

    /// How a program started by this run can know that it would wait for this run.
    pub(super) fn lock_name(&self) -> Option<String> {
        let state = self.state.borrow();
        state.disk.as_ref().map(|disk| disk.lock.name())
    }

    /// The tokens that a login is known to have spent, the latest last.
    pub(super) fn spent(&self, snapshot: &Snapshot) -> Vec<Fingerprint> {
        self.state.borrow().spent(snapshot)
    }

    /// Tries the edits of all these logins at once, so that none needs a separate try.
    pub(super) fn prove_all(&self, logins: &[(String, Api)]) {
        self.state.borrow_mut().prove_all(&self.file, logins);
    }

    /// Reads the file again: a program that ignores locks may have changed it. An old copy is healed.
    ///
    /// # Errors
    /// What is wrong with the file, if it persists.
    pub(super) async fn look_again(&self) -> Result<()> {
        let mut rereading = Rereading::long();
        loop {
            let read = match &self.state.borrow().disk {
                // It will soon hold what is being saved.
                None => return Ok(()),
                Some(disk) => disk.read()?,
            };
            let known = self.text();
            let found = read.as_deref().unwrap_or_default();
            let text = Text::parse_anew(&self.file, found, &known);
            let is_whole = text.as_ref().is_ok_and(|text| text.has_all_of(&known));
            if !is_whole && let Some(pause) = rereading.pause(read.as_deref()) {
                tokio::time::sleep(pause).await;
                continue;
            }
            if read.is_none() {
                let message = format!("{} has vanished", self.file.display());
                return Err(Error::config(message));
            }
            let text = text?;
            let is_changed = !Arc::ptr_eq(&text, &known);
            let mut state = self.state.borrow_mut();
            state.take_text(text);
            return if is_changed {
                state.heal(&self.file)
            } else {
                Ok(())
            };
        }
    }

    /// Reserves space for what a request brings: the edit is tried on the text, the way of saving is chosen, the space
    /// is reserved, and the journal has taken a record (P1).
    pub(super) async fn reserve(
        self: &Rc<Self>,
        profile: &str,
        api: Api,
        origin: &Origin<'_>,
    ) -> Result<SessionReservation> {
        loop {
            let changed = self.changed.notified();
            if self.state.borrow().can_reserve() {
                break;
            }
            changed.await;
        }
        let mut state = self.state.borrow_mut();
        state.reserve(self.place(profile), api, origin)?;
        fail_point!("after-reserve");
        Ok(SessionReservation {
            session: Rc::clone(self),
            sent: origin.sent(),
        })
    }

    /// Saves a pair: into the journal at once, and into the file with all others that have arrived. Returns what the
    /// file then says.
    ///
    /// # Errors
    /// [`Kind::Unsaved`], naming the journal that holds the pair, or with the pair itself.
    pub(super) async fn save(&self, pair: Successor) -> Result<Tokens> {
        fail_point!("before-record");
        let pair = Arc::new(pair);
        let journal = self.state.borrow_mut().write_down(&pair);
        fail_point!("after-record");
        loop {
            let changed = self.changed.notified();
            let result = self.state.borrow_mut().take_result(&pair.profile);
            match result {
                Some(Ok(tokens)) => return Ok(tokens),
                Some(Err(why)) => return Err(self.unsaved(&pair, &why, journal)),
                None => {}
            }
            let job = self.state.borrow_mut().begin_saving(&self.file);
            match job {
                // Others save, and may have saved this pair, too.
                None => changed.await,
                Some(job) => self.run(job).await,
            }
        }
    }

    /// Takes every record that has arrived, and saves once.
    async fn run(&self, job: SaveJob) {
        let saved = match &self.saver {
            None => Some(job.run()),
            Some(saver) => saver.run(move || job.run()).await,
        };
        self.state.borrow_mut().end_saving(&self.file, saved);
        self.changed.notify_waiters();
    }

    /// Keeps a reply that may hold the only copy of a pair.
    pub(super) fn keep_reply(&self, login: &LoginId, reply: &[u8]) -> Result<PathBuf> {
        let path = self.state.borrow().real_path(&self.file);
        let suffix = format!("{REPLY}{}", Fingerprint::of_bytes(reply));
        let places = places::places(&path, &suffix).into_iter();
        let kept = places::keep(places.map(|place| place.path), reply);
        kept.map(|(path, _)| path).map_err(|error| {
            let message = format!("{login}: an unreadable reply could not be stored anywhere: {error}");
            Error::new(Kind::Unsaved, message)
                .with_unsaved(Tokens::default(), shown_whole(reply).into())
                .with_hint(Hint::fixed(
                    "if the reply above holds a refresh token, put it into that section by hand, now",
                    "若上面的返回内容中有 refresh_token，请立即手动写入该节",
                ))
        })
    }

    fn saved_nowhere(&self, pair: &Successor, why: &str) -> Error {
        let place = self.place(&pair.profile);
        let message =
            format!("{place}: rotated, but the new pair could not be saved anywhere: {why}");
        Error::new(Kind::Unsaved, message)
            .with_unsaved(pair.tokens.clone(), pair.lines())
            .with_hint(Hint::fixed(
                "put the values above into that section by hand, now",
                "请立即将上面的值手动写入该节",
            ))
    }

    /// The error for a pair that is not in the file. Its journal is on disk.
    fn unsaved(&self, pair: &Successor, why: &str, journal: Option<Arc<Journal>>) -> Error {
        let place = self.place(&pair.profile);
        let Some(journal) = self.state.borrow_mut().keep(pair, journal) else {
            return self.saved_nowhere(pair, why);
        };
        let path = journal.path().display();
        let message = format!("{place}: rotated, but not saved: {why}; the new pair is in {path}");
        // A journal elsewhere never fills a section without a token: it could be another file's.
        let hint = if pair.held.is_none() && !journal.is_beside() {
            Hint::naming(
                format!("put the refresh_token that {path} holds last into that section by hand"),
                format!("请将 {path} 中最后的 refresh_token 手动写入该节"),
            )
        } else {
            Hint::naming(
                format!(
                    "keep {path}: nothing else holds the new refresh token; the next run puts it back where it fits"
                ),
                format!("请保留 {path}：新的 refresh_token 仅存于此；下次运行会在适合时写回"),
            )
        };
        Error::new(Kind::Unsaved, message).with_hint(hint)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.state.get_mut().close(&self.file);
    }
}

/// Space for what one request brings. Dropped once the request has been answered.
pub(super) struct SessionReservation {
    session: Rc<Session>,
    sent: Option<Fingerprint>,
}

impl SessionReservation {
    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }
}

impl Drop for SessionReservation {
    fn drop(&mut self) {
        let session = &self.session;
        session
            .state
            .borrow_mut()
            .end_reservation(&session.file, self.sent);
        session.changed.notify_waiters();
    }
}
