//! The embedded store: an INI file that people and other programs read and write, too.
//!
//! Promises:
//! - One run at a time works on a file; the queued ones share what the first one got (P4).
//! - An ambiguous key is refused before anything is sent, whether this run
//!   needs it or not.
//! - No pair is lost: [`session`] has the argument.
//!
//! [`document`] reads and edits text, [`sections`] sees logins in it. [`lock`] keeps other runs away, [`disk`] writes,
//! [`journal`] keeps records ([`super::record`]) in one of a few places ([`super::places`]). [`leftovers`] are what
//! dead runs left, [`memory`] remembers what was once saved. [`replay`] says what records mean for a text, [`settle`]
//! applies that to the file. [`recovery`] begins a run, [`state`] is what it knows and does, [`saving`] its one saving
//! loop, and [`session`] shares all that among its claims. [`emptying`] removes logins that move to another store.
//! [`legacy`] knows what version 0.1 left.

mod disk;
pub(crate) mod document;
#[cfg(feature = "postgres")]
mod emptying;
mod io;
mod journal;
mod leftovers;
mod legacy;
mod lock;
mod memory;
mod recovery;
mod replay;
mod rereading;
mod saving;
mod sections;
mod session;
mod settle;
mod state;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use secrecy::ExposeSecret;

use crate::driver::Driver;
use crate::error::{Error, Hint, Result};
use crate::profile::{Origin, Overrides, RefreshPlan, Snapshot, Successor, View, check_name};
use crate::store::many::{Due, ManyLogins, More, NextLogin};
use crate::store::{Claim, KeptReply, PerLogin, Reservation, Reserved, Saved, Store, WantedLogin};
use crate::token::{Fingerprint, Tokens};
use crate::worker::Worker;
#[cfg(feature = "postgres")]
pub(crate) use emptying::Emptying;
pub(crate) use lock::HOLDERS;
use sections::{SectionId, Text};
use session::Session;
use state::FileState;

/// How much a section can grow beyond twice its tokens' length: the keys and the times.
const SPARE_SECTION: u64 = 2 << 10;

/// An INI file with logins.
pub(crate) struct FileStore {
    path: PathBuf,
    /// What each thread started by this store does first.
    shield: fn(),
    /// What the file said when it was read.
    seen: RefCell<Option<Arc<Text>>>,
    /// What a run over all logins has not taken yet.
    claims: RefCell<Option<Vec<PerLogin<NextLogin<FileClaim>>>>>,
}

impl FileStore {
    /// The store at this path.
    pub(crate) fn new(path: &Path, shield: fn()) -> Self {
        // Whoever reads a message may not know its working directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        FileStore {
            path,
            shield,
            seen: RefCell::default(),
            claims: RefCell::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's permission bits; none if unknown.
    pub(crate) fn mode(&self) -> Option<u32> {
        io::mode(&self.path)
    }

    fn place<'p>(&'p self, profile: &'p str) -> SectionId<'p> {
        SectionId {
            file: &self.path,
            profile,
        }
    }

    fn read(&self) -> Result<Option<Arc<Text>>> {
        let bytes = io::read(&self.path)?;
        let text = bytes
            .map(|bytes| Text::parse(&self.path, &bytes))
            .transpose()?;
        self.seen.replace(text.clone());
        Ok(text)
    }

    fn snapshots(&self, text: &Text, names: Vec<String>) -> Vec<PerLogin<Snapshot>> {
        let snapshot = |name: String| {
            let snapshot = text.snapshot(self.place(&name));
            (name, snapshot)
        };
        names.into_iter().map(snapshot).collect()
    }

    /// The logins as the next run will see them, once it has restored what dead runs left; the one named, or all
    /// sections that hold a token, or have a key for one. Changes nothing. Also returns the journals that hold
    /// something for the next run.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the file cannot be parsed, or has no section of that name.
    pub(crate) fn foreseen(&self, profile: Option<&str>) -> Result<FileSurvey> {
        let (journals, entries, whole) = leftovers::pending(&self.path);
        let mut bytes = io::read(&self.path)?;
        if bytes.as_deref().is_some_and(disk::is_torn) {
            bytes = whole.map(String::into_bytes).or(bytes);
        }
        if bytes.is_none() && journals.is_empty() {
            return Err(io::does_not_exist(&self.path, io::MISSING));
        }
        let text = Text::parse(&self.path, &bytes.unwrap_or_default())?;
        let desired = settle::DesiredText {
            file: &self.path,
            entries: &entries,
            given: None,
            spare: 0,
        };
        let text = desired.replay(&text)?.0.unwrap_or(text);
        let names = if let Some(name) = profile {
            check_name(name)?;
            if !text.document.has_section(name) {
                return Err(text.snapshot(self.place(name))?.no_section());
            }
            vec![name.to_owned()]
        } else {
            text.places_for_tokens()
        };
        Ok(FileSurvey {
            logins: self.snapshots(&text, names),
            journals,
        })
    }

    /// Locks the file so that its logins can be removed, and restores what dead runs left.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if others hold the file for longer, or what dead runs left cannot be restored;
    /// [`crate::Kind::Config`] if the file is missing or cannot be used.
    #[cfg(feature = "postgres")]
    pub(crate) fn open_to_empty(&self, deadline: Instant) -> Result<Emptying> {
        let seen = self.seen.borrow().clone();
        Emptying::open(&self.path, seen.as_ref(), deadline)
    }

    fn no_logins(&self) -> Error {
        let message = format!(
            "{} has no section with a refresh_token",
            self.path.display()
        );
        Error::config(message).with_hint(Hint::fixed(
            "feishu-refresh login makes one; -c names another file",
            "可用 feishu-refresh login 创建；用 -c 指定其他文件",
        ))
    }
}

/// What the next run will see.
pub(crate) struct FileSurvey {
    pub(crate) logins: Vec<PerLogin<Snapshot>>,
    /// The journals with something for it.
    pub(crate) journals: Vec<PathBuf>,
}

impl Store for FileStore {
    type Claim = FileClaim;

    fn look(&self, wanted: WantedLogin<'_>, _: &Driver) -> Result<Snapshot> {
        let profile = wanted.profile;
        check_name(profile)?;
        let text = match self.read()? {
            Some(text) => text,
            None => Text::parse(&self.path, b"")?,
        };
        text.snapshot(self.place(profile))
    }

    /// Reports a file that others can read, with the command that fixes it.
    fn warn(&self) {
        io::warn_if_readable_by_others(&self.path);
    }

    fn must_be_made(&self) -> bool {
        !self.path.exists()
    }

    async fn claim(&self, wanted: WantedLogin<'_>, deadline: Instant) -> Result<FileClaim> {
        let WantedLogin { profile, given, .. } = wanted;
        check_name(profile)?;
        given.check()?;
        // A file is created only for a run that brings its content.
        let brings_it = wanted.is_for_login || given.is_enough();
        let missing = (!brings_it).then(|| given.missing());
        let token = given
            .refresh_token
            .map(|token| (profile, Fingerprint::of(token)));
        let seen = self.seen.borrow().clone();
        let state = FileState::open(&self.path, token, seen.as_ref(), missing.as_ref(), deadline)?;
        FileClaim::of(Rc::new(Session::new(&self.path, state)), profile)
    }
}

impl ManyLogins for FileStore {
    const HAS_ORDER: bool = true;

    fn look_at_all(&self) -> Result<Vec<PerLogin<Snapshot>>> {
        let text = self.read()?;
        let text = text.ok_or_else(|| io::does_not_exist(&self.path, io::MISSING))?;
        Ok(self.snapshots(&text, text.logins()))
    }

    /// Locks the file: all its logins are this run's then.
    async fn begin(&self, given: Overrides<'_>, due: &Due, deadline: Instant) -> Result<()> {
        given.check()?;
        let saver = Worker::start(self.shield)?;
        let missing = Some(given.missing());
        let seen = self.seen.borrow().clone();
        let state = FileState::open(&self.path, None, seen.as_ref(), missing.as_ref(), deadline)?;
        let mut session = Session::new(&self.path, state);
        let names = session.text().logins();
        if names.is_empty() {
            return Err(self.no_logins());
        }
        let snapshots = self.snapshots(&session.text(), names);
        let sound = || {
            snapshots
                .iter()
                .filter_map(|(_, snapshot)| snapshot.as_ref().ok())
        };
        session.share(saver, sound().map(growth).sum());
        let known = |snapshot: &Snapshot| {
            let api = View::of(snapshot, given).ok()?.api();
            Some((snapshot.login.profile.clone(), api))
        };
        session.prove_all(&sound().filter_map(known).collect::<Vec<_>>());
        let session = Rc::new(session);
        let next = |(name, snapshot): PerLogin<Snapshot>| {
            let next = snapshot.map(|snapshot| {
                let view = View::of(&snapshot, given);
                if view.is_ok_and(|view| due.leaves_out(&view)) {
                    return NextLogin::LeftOut(Box::new(snapshot));
                }
                NextLogin::Refresh(FileClaim {
                    had_company: !session.was_put_back(&name),
                    session: Rc::clone(&session),
                    snapshot,
                })
            });
            (name, next)
        };
        let claims = snapshots.into_iter().map(next).collect();
        self.claims.replace(Some(claims));
        Ok(())
    }

    async fn claim_more(&self, _: &Due, _: usize) -> Result<More<FileClaim>> {
        let claims = self.claims.take();
        Ok(claims.map_or(More::Nothing, More::Logins))
    }
}

/// How much a section can grow, if its tokens at most double.
fn growth(snapshot: &Snapshot) -> u64 {
    let tokens = &snapshot.profile.pair.tokens;
    let tokens = [&tokens.access_token, &tokens.refresh_token];
    let lengths = tokens
        .into_iter()
        .flatten()
        .map(|token| token.expose_secret().len());
    SPARE_SECTION + 2 * lengths.sum::<usize>() as u64
}

/// A section of a file that no other run can touch.
pub(crate) struct FileClaim {
    session: Rc<Session>,
    snapshot: Snapshot,
    had_company: bool,
}

impl FileClaim {
    fn of(session: Rc<Session>, profile: &str) -> Result<Self> {
        Ok(FileClaim {
            snapshot: session.snapshot(profile)?,
            had_company: !session.was_put_back(profile),
            session,
        })
    }
}

impl Claim for FileClaim {
    type Reservation = FileReservation;

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn had_company(&self) -> bool {
        self.had_company
    }

    fn may_be_spent(&self, token: Fingerprint) -> bool {
        self.session.may_be_spent(token)
    }

    fn has_made(&self) -> bool {
        self.session.has_made()
    }

    async fn look_again(&mut self) -> Result<()> {
        self.session.look_again().await?;
        self.snapshot = self.session.snapshot(&self.snapshot.login.profile)?;
        self.had_company = false;
        Ok(())
    }

    async fn reserve(
        mut self,
        origin: &Origin<'_>,
        given: Overrides<'_>,
        plan: Option<&RefreshPlan>,
    ) -> Result<Reserved<Self>> {
        let had_company = self.had_company;
        self.look_again().await?;
        self.had_company = had_company;
        let view = View::of(&self.snapshot, given)?;
        if plan.is_some_and(|plan| !plan.holds(&view)) {
            return Ok(Reserved::Changed(self));
        }
        let profile = &self.snapshot.login.profile;
        let room = self.session.reserve(profile, view.api(), origin);
        Ok(Reserved::Room(FileReservation {
            room: room.await?,
            snapshot: self.snapshot,
        }))
    }
}

/// Space for a section's new pair.
pub(crate) struct FileReservation {
    room: session::SessionReservation,
    snapshot: Snapshot,
}

impl Reservation for FileReservation {
    type Claim = FileClaim;
    type Saved = FileSaved;

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn has_made(&self) -> bool {
        self.room.session().has_made()
    }

    fn spent(&self) -> Vec<Fingerprint> {
        self.room.session().spent(&self.snapshot)
    }

    async fn save(self, successor: Successor, _: &dyn Fn() -> bool) -> Result<FileSaved> {
        let tokens = self.room.session().save(successor).await?;
        Ok(FileSaved {
            room: self.room,
            tokens,
        })
    }

    fn keep_reply(&self, reply: &[u8]) -> Result<KeptReply> {
        let login = &self.snapshot.login;
        let path = self.room.session().keep_reply(login, reply)?;
        let kept = path.display();
        let hint = Hint::naming(
            format!(
                "if {kept} holds a refresh token, put it into the section by hand; otherwise log in again: feishu-refresh login"
            ),
            format!(
                "若 {kept} 中有 refresh_token，请手动写入该节；否则请重新登录：feishu-refresh login"
            ),
        );
        Ok(KeptReply { path, hint })
    }

    fn release(self) -> FileClaim {
        FileClaim {
            session: Rc::clone(self.room.session()),
            snapshot: self.snapshot,
            had_company: false,
        }
    }
}

/// A pair on disk. The file stays locked as long as this lives, and the journal stays, too: another program may write
/// an old copy meanwhile.
pub(crate) struct FileSaved {
    room: session::SessionReservation,
    tokens: Tokens,
}

impl Saved for FileSaved {
    fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    fn lock_name(&self) -> Option<String> {
        self.room.session().lock_name()
    }
}
