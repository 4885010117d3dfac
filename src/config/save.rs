//! From the room for new tokens to the tokens on disk.
//!
//! Promises:
//! - What a save changes was tried on the text before anything was sent (P1). It is spliced into
//!   the file as it is *then*, so that another program's work stays (P12).
//! - From the moment a reply is judged, its tokens are in [`HeldTokens`], which cannot lose them
//!   (P7).

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::document::{Document, Edit};
use super::durable::{self, Lock, Room, SaveError};
use super::profile::{self, Change, Pair, Place, Spent, read_anew, understood};
use super::{LockedFile, Order, View};
use crate::error::{Error, Hint, Kind, Result};
use crate::token::{self, AppToken, Fingerprint, Tokens};

/// A file with room for what the server will say.
pub(crate) struct ReservedFile<'a> {
    pub(super) plan: Plan<'a>,
    pub(super) room: Room,
}

impl<'a> ReservedFile<'a> {
    /// Gives the room back after an attempt that brought nothing.
    pub(crate) fn release(self) -> LockedFile<'a> {
        LockedFile {
            view: self.plan.view,
            lock: self.room.release(),
            had_company: false,
            reply_lost: false,
        }
    }

    /// Takes charge of what a reply brought. From here on it is not lost, whatever happens.
    /// An app token that was fetched on the way is saved with it.
    pub(crate) fn hold(self, reply: Tokens, app_token: Option<AppToken>) -> HeldTokens<'a> {
        HeldTokens {
            plan: self.plan,
            room: self.room,
            reply: NewTokens {
                tokens: reply,
                app_token,
            },
            settled: false,
        }
    }
}

/// What a run brings into the file.
pub(super) struct NewTokens {
    pub(super) tokens: Tokens,
    pub(super) app_token: Option<AppToken>,
}

/// New tokens that must not be lost: dropped before their fate is settled, also by a panic, they
/// are left in a rescue file.
pub(crate) struct HeldTokens<'a> {
    plan: Plan<'a>,
    room: Room,
    reply: NewTokens,
    /// Whether they are saved, or an error says where they are.
    settled: bool,
}

/// Tokens on disk. The file stays locked as long as this lives.
pub(crate) struct Saved<'a> {
    /// What the profile holds now.
    pub(crate) tokens: Tokens,
    _held: HeldTokens<'a>,
}

impl<'a> HeldTokens<'a> {
    /// Saves them, durably (P2). What the reply did not give stays as it was (P5).
    ///
    /// # Errors
    /// [`Kind::Unsaved`], naming the file that holds the pair, or with the pair itself.
    pub(crate) fn save(mut self) -> Result<Saved<'a>> {
        fail_point!("after-reply");
        let result = self.try_save();
        self.settled = true;
        Ok(Saved {
            tokens: result?,
            _held: self,
        })
    }

    fn try_save(&mut self) -> Result<Tokens> {
        let (plan, reply) = (&self.plan, &self.reply);
        let file = plan.view.place.file;
        let deadline = Instant::now() + PATIENCE;
        let mut current = read_settled(file, &self.room, &plan.view.document);
        let lacks_token = loop {
            let lacks = current
                .as_ref()
                .is_ok_and(|current| plan.is_torn_from(current));
            if !lacks || Instant::now() >= deadline {
                break lacks;
            }
            // Half of a text, perhaps, of a program that never rests.
            thread::sleep(LOOK);
            current = read_settled(file, &self.room, &plan.view.document);
        };
        let edited = current.and_then(|current| {
            let edit = plan.edit_current(&current, reply)?;
            edit.map(|edit| profile::edited(file, &current, &[edit]))
                .transpose()
        });
        let edited = match edited {
            Ok(Some(edited)) => edited,
            Ok(None) => {
                let (why, keep): (_, fn(&mut Room, &[u8]) -> _) = if lacks_token {
                    // If the old token comes back, the next run puts the pair in its place.
                    (TAKEN_OUT, Room::keep)
                } else {
                    (ANOTHER_TOKEN, Room::keep_aside)
                };
                let rescue = self.keep(keep);
                return Err(self.plan.unsaved(why, rescue, &self.reply));
            }
            // Another program broke the file.
            Err(why) => {
                let rescue = self.keep(Room::keep);
                return Err(self.plan.unsaved(&why.to_string(), rescue, &self.reply));
            }
        };
        match self.room.save(edited.text().as_bytes()) {
            Ok(()) => Ok(Pair::read(plan.view.place, &edited)?.tokens),
            Err(SaveError { source, rescue }) => {
                Err(plan.unsaved(&source.to_string(), rescue, reply))
            }
        }
    }

    fn keep(&mut self, keep: fn(&mut Room, &[u8]) -> Option<PathBuf>) -> Option<PathBuf> {
        let view = &self.plan.view;
        let ours = self.plan.edit(&view.document, &self.reply).ok()?;
        let ours = profile::edited(view.place.file, &view.document, [&ours]).ok()?;
        keep(&mut self.room, ours.text().as_bytes())
    }
}

impl Drop for HeldTokens<'_> {
    fn drop(&mut self) {
        if !self.settled && !self.room.is_saved() {
            // A panic here would abort one that is under way, and lose what it could save.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| self.keep(Room::keep)));
        }
    }
}

/// What another program did meanwhile.
pub(super) const ANOTHER_TOKEN: &str = "another program put another refresh token there";
pub(super) const TAKEN_OUT: &str = "another program took the refresh token out of it";

/// A file that was written so short a time ago may still be being written.
const UNSETTLED: Duration = Duration::from_millis(200);

/// What was written so short a time ago, and looks wrong, may be half of a text. It is no longer, for
/// what looks wrong mostly is.
const JUST_NOW: Duration = Duration::from_millis(100);

/// How long to wait for another program to end its writing.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to look.
const LOOK: Duration = Duration::from_millis(20);

/// The file as it is now. One that has changed may be in the midst of being written, by a program that
/// empties it first: it is waited for until it is whole and at rest.
///
/// # Errors
/// What is wrong with the file, if that stays.
pub(super) fn read_settled(
    file: &Path,
    room: &Room,
    known: &Arc<Document>,
) -> Result<Arc<Document>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = room.read();
        let current = read.and_then(|bytes| read_anew(file, &bytes, Some(known)));
        let is_settled = current.as_ref().is_ok_and(|current| {
            let is_old = || durable::age(file).is_some_and(|age| age > UNSETTLED);
            Arc::ptr_eq(current, known) || is_old() && is_whole(file, current, known)
        });
        if is_settled || Instant::now() >= deadline {
            return current;
        }
        thread::sleep(LOOK);
    }
}

/// The file as a run reads it first. One that is empty, cannot be understood or has lost sections since
/// `before`, and was written just now, is looked at again: another program may be writing it.
///
/// # Errors
/// What is wrong with the file, if that stays.
pub(super) fn first_read(
    file: &Path,
    lock: &Lock,
    before: Option<&Arc<Document>>,
) -> Result<Arc<Document>> {
    loop {
        let bytes = lock.read()?;
        let read = read_anew(file, &bytes, before);
        let is_sound = read.as_ref().is_ok_and(|read| {
            let has_all = |before: &Document| before.sections().all(|s| read.has_section(s));
            !bytes.is_empty() && before.is_none_or(|before| has_all(before))
        });
        let is_young = durable::age(file).is_some_and(|age| age < JUST_NOW);
        if is_sound || lock.is_made() || !is_young {
            return read;
        }
        thread::sleep(LOOK);
    }
}

/// Whether a file has all the sections that it had before; where some are gone, it may be half
/// written, unless that was some time ago.
pub(super) fn is_whole(file: &Path, current: &Document, known: &Document) -> bool {
    let has_all = known.sections().all(|name| current.has_section(name));
    has_all || durable::age(file).is_some_and(|age| age > PATIENCE)
}

/// An edit with tokens that touch every key a reply can.
pub(super) fn trial<'a>(view: &View<'a>) -> Result<Edit<'a>> {
    let token = SecretString::from("trial");
    let end = Some(Timestamp::UNIX_EPOCH);
    let tokens = Tokens {
        access_token: Some(token.clone()),
        access_expires_at: end,
        scope: Some("trial".to_owned()),
        refresh_token: Some(token.clone()),
        refresh_expires_at: end,
    };
    let change = Change {
        api: Some(view.api),
        tokens: &tokens,
        keeps_expiry: false,
        spent: Some(&Spent::of_login(Fingerprint::of(&token), None)),
        app_token: Some(&AppToken {
            token,
            expires_at: end,
        }),
    };
    profile::edit(view.place, &view.document, &change)
}

/// What the file said when it was locked, and what of it the reply will change.
pub(super) struct Plan<'a> {
    view: View<'a>,
    origin: Origin,
}

/// Where the new pair comes from.
enum Origin {
    /// From spending a refresh token.
    Refresh {
        sent: SecretString,
        /// Whether that came from outside and was none of this file's.
        is_new: bool,
        /// The list of spent tokens once this one is.
        spent: Spent,
    },
    /// From a user's consent.
    Login,
}

impl<'a> Plan<'a> {
    pub(super) fn refresh(view: View<'a>, order: &Order) -> Self {
        let sent = order.refresh_token.clone();
        let given = view.given.refresh_token.map(Fingerprint::of);
        let known = &view.profile.pair.spent;
        let origin = Origin::Refresh {
            is_new: view.new_token().is_some(),
            spent: known.after(given, Fingerprint::of(&sent)),
            sent,
        };
        Plan { view, origin }
    }

    pub(super) fn login(view: View<'a>) -> Self {
        let origin = Origin::Login;
        Plan { view, origin }
    }

    /// Whose pair it is.
    pub(super) fn place(&self) -> Place<'a> {
        self.view.place
    }

    /// The refresh token that the file held.
    fn old(&self) -> Option<&SecretString> {
        self.view.tokens().refresh_token.as_ref()
    }

    /// Tries the edit, and says how long the text gets but for the tokens' own length.
    pub(super) fn proved_length(&self) -> Result<u64> {
        let View {
            place, document, ..
        } = &self.view;
        let edited = profile::edited(place.file, document, [&trial(&self.view)?])?;
        Ok(edited.text().len() as u64)
    }

    /// What the reply changes in the file as it is now; none if another program put a refresh
    /// token there that is neither one we knew nor the one we bring (P12).
    pub(super) fn edit_current(
        &self,
        current: &Document,
        reply: &NewTokens,
    ) -> Result<Option<Edit<'a>>> {
        let found = Pair::read(self.view.place, current)?.tokens.refresh_token;
        let sent = match &self.origin {
            Origin::Refresh { sent, .. } => Some(sent),
            Origin::Login => None,
        };
        let known = [self.old(), sent, reply.tokens.refresh_token.as_ref()];
        let mut known = known.into_iter().flatten();
        let is_ours = match &found {
            Some(found) => known.any(|known| token::same(known, found)),
            // A profile that is gone may be half of a file that another program is writing.
            None => self.old().is_none(),
        };
        if is_ours {
            return self.edit(current, reply).map(Some);
        }
        Ok(None)
    }

    /// Whether the refresh token that a document held is gone from it, or cut short, and no other has
    /// its place.
    pub(super) fn is_torn_from(&self, current: &Document) -> bool {
        let Some(old) = self.old() else {
            return false;
        };
        let found = Pair::read(self.view.place, current);
        let found = found.map(|pair| pair.tokens.refresh_token);
        let is_cut = |found: &SecretString| {
            let (found, old) = (found.expose_secret(), old.expose_secret());
            found.len() < old.len() && old.starts_with(found)
        };
        found.is_ok_and(|found| found.is_none_or(|found| is_cut(&found)))
    }

    /// What the reply changes in a document.
    fn edit(&self, document: &Document, reply: &NewTokens) -> Result<Edit<'a>> {
        let new = reply.tokens.refresh_token.as_ref();
        let spent;
        let change = Change {
            api: Some(self.view.api),
            tokens: &reply.tokens,
            app_token: reply.app_token.as_ref(),
            keeps_expiry: false,
            spent: None,
        };
        let change = match &self.origin {
            Origin::Refresh {
                sent,
                is_new,
                spent,
            } => {
                let rotated = new.is_some_and(|new| !token::same(new, sent));
                let extends = rotated && self.view.api.extends_refresh_token();
                Change {
                    keeps_expiry: !extends && !is_new,
                    spent: (rotated || *is_new).then_some(spent),
                    ..change
                }
            }
            Origin::Login => {
                // The list starts anew. What the file held is named, so that a rescue file fits it.
                spent = new.map(|new| {
                    Spent::of_login(Fingerprint::of(new), self.old().map(Fingerprint::of))
                });
                Change {
                    spent: spent.as_ref(),
                    ..change
                }
            }
        };
        profile::edit(self.view.place, document, &change)
    }

    /// The section alone, as a journal takes it: with all that a put-back needs to know.
    pub(super) fn section(&self, reply: &NewTokens) -> Result<String> {
        let mut tokens = reply.tokens.clone();
        let old = self.view.tokens().refresh_expires_at;
        if !self.view.api.extends_refresh_token() {
            tokens.refresh_expires_at = tokens.refresh_expires_at.or(old);
        }
        let reply = NewTokens {
            tokens,
            app_token: None,
        };
        let alone = understood(self.view.place.file, b"")?;
        let edit = self.edit(&alone, &reply)?;
        let alone = profile::edited(self.view.place.file, &alone, [&edit])?;
        Ok(alone.text().to_owned())
    }

    pub(super) fn unsaved(&self, why: &str, rescue: Option<PathBuf>, reply: &NewTokens) -> Error {
        let subject = self.view.place;
        let Some(rescue) = rescue else {
            let message =
                format!("{subject}: rotated, but the new pair could be saved nowhere: {why}");
            return Error::new(Kind::Unsaved, message)
                .with_unsaved(
                    reply.tokens.clone(),
                    profile::lines(self.view.api, &reply.tokens),
                )
                .with_hint(Hint::fixed(
                    "put the two values above into that section by hand, now",
                    "请立即将上面两个值手动写入该节",
                ));
        };
        let rescue = rescue.display();
        let message =
            format!("{subject}: rotated, but not saved: {why}; the new pair is in {rescue}");
        Error::new(Kind::Unsaved, message).with_hint(Hint::naming(
            format!("keep {rescue}: nothing else holds the new refresh token"),
            format!("请保留 {rescue}：新的 refresh_token 仅存于此"),
        ))
    }
}
