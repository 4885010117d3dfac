//! The edit that removes one login from the file's text, and how it gets into the file.

use std::sync::Arc;

use super::super::disk::Disk;
use super::super::document::{Document, Edit};
use super::super::journal::Journal;
use super::super::rereading::Rereading;
use super::super::sections::{self, SectionId, Text};
use crate::error::{Error, Hint, Result};
use crate::profile::{Pair, SpentTokens, key};
use crate::protocol::Api;
use crate::token::Fingerprint;

/// Another program may write between any two reads, but not forever.
const MOST_ROUNDS: usize = 5;

/// The beginning of the comment that says where a login went. An existing one is replaced.
const MARK: &str = "; this login was moved to ";

/// A login to remove.
pub(super) struct Removal<'r> {
    pub(super) place: SectionId<'r>,
    /// The refresh token that has moved: no other is removed.
    pub(super) token: Fingerprint,
    /// Where it went, for the comment.
    pub(super) went_to: &'r str,
}

impl Removal<'_> {
    /// Reads the file, removes the login, and reads it back. Keeps what other programs wrote before. Leaves the file's
    /// text in `text`.
    ///
    /// # Errors
    /// If the section does not hold the token, nothing is changed; otherwise what is wrong with the file, or with
    /// writing it.
    pub(super) fn write(
        &self,
        disk: &mut Disk,
        journal: &Journal,
        text: &mut Arc<Text>,
        spare: u64,
    ) -> Result<()> {
        let file = self.place.file;
        let mut rereading = Rereading::long();
        let (mut rounds, mut is_written) = (0, false);
        loop {
            let bytes = disk.read()?;
            let found = bytes.as_deref().unwrap_or_default();
            let looked = Text::parse_anew(file, found, text)
                .and_then(|found| Ok((held(self.place, &found)?, found)));
            // If something is missing, the file may be half written.
            let is_whole = looked.as_ref().is_ok_and(|(held, found)| {
                found.has_all_of(text) && (is_written || *held == Some(self.token))
            });
            if !is_whole && rereading.wait(bytes.as_deref()) {
                continue;
            }
            let (held, found) = looked?;
            *text = found;
            match held {
                Some(held) if held == self.token => {}
                // What others have written since then is theirs.
                _ if is_written => return Ok(()),
                held => return Err(self.not_there(held)),
            }
            if rounds == MOST_ROUNDS {
                let message = format!("another program keeps writing {}", file.display());
                return Err(Error::temporary(message));
            }
            rounds += 1;
            let next = Text::of(self.edited(&text.document)?);
            disk.reserve(next.document.text().len() as u64 + spare)?;
            let has_changed = disk
                .write(bytes.as_deref(), next.document.text(), Some(journal))
                .map_err(|error| Error::file("cannot write", file, error))?;
            if has_changed {
                is_written = true;
                *text = next;
            }
        }
    }

    /// The text without the login: its tokens and their times are emptied in place.
    pub(super) fn edited(&self, document: &Document) -> Result<Document> {
        let SectionId { file, profile } = self.place;
        let old = sections::pair(self.place, document)?;
        let edited = sections::edited(file, document, &[self.edit(document, &old)])?;
        // It must be on one line.
        let went_to = self.went_to.replace(char::is_control, " ");
        let remark = format!("{MARK}{}", went_to.trim());
        let edited = edited.with_remark(profile, MARK.trim_end(), &remark);
        edited.map_err(|problem| sections::wrong(file, &[problem]))
    }

    fn edit(&self, document: &Document, old: &Pair) -> Edit<'_> {
        let profile = self.place.profile;
        // The keys by which the pair was read.
        let api = old.api.known().unwrap_or(Api::V1);
        let keys = [
            key::access_token(api),
            key::access_expires_at(api),
            key::REFRESH_TOKEN,
            key::REFRESH_EXPIRES_AT,
        ];
        let stands = |key: &&str| matches!(document.value(profile, key), Ok(Some(_)));
        let emptied = keys.into_iter().filter(stands);
        let mut values: Vec<_> = emptied.map(|key| (key, String::new())).collect();
        let listed = listed(&old.spent, self.token);
        values.push((key::REFRESH_SPENT, listed.to_string()));
        Edit {
            section: profile,
            values,
        }
    }

    fn not_there(&self, held: Option<Fingerprint>) -> Error {
        let place = self.place;
        let what = match held {
            None => "no longer has a refresh token",
            Some(_) => "has another refresh token now",
        };
        let message = format!("{place}: {what}; it was left as it is");
        Error::temporary(message).with_hint(Hint::fixed(
            "another program changed the file meanwhile: run store import again",
            "其他程序刚刚修改了该文件：请重新运行 store import",
        ))
    }
}

/// The refresh token that a section holds.
pub(super) fn held(place: SectionId<'_>, text: &Text) -> Result<Option<Fingerprint>> {
    sections::pair(place, &text.document).map(|pair| pair.fingerprint())
}

/// The list of spent tokens once this one is useless here. It may come back from outside, as earlier ones may; if there
/// is no room for all of them, it is listed once, as the latest.
fn listed(known: &SpentTokens, token: Fingerprint) -> SpentTokens {
    let as_outside = known.after(Some(token), token);
    let count = known.iter().count().saturating_sub(1);
    let mut outside = known.iter().take(count);
    if outside.all(|token| as_outside.lists(token)) {
        as_outside
    } else {
        known.after(None, token)
    }
}
