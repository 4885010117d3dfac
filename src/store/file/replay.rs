//! What the pairs of a journal mean for a file's text. Pure: no disk, no clock.
//!
//! A pair replaces a token from which it came, however old the text with that token is, and nothing else
//! ([`Entry::follows`]). That is all of recovery: it handles a save, what a dead run left, and an old copy that another
//! program wrote over the file.
//!
//! Promises:
//! - Pairs apply in any order until none applies, and each at most once.
//! - A pair that a later one has replaced is not applied.
//! - What does not fit is reported, and never changes the text.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::document::{Document, Edit};
use super::sections::{self, SectionId};
use crate::error::Result;
use crate::profile::{Pair, Successor};
use crate::token::Fingerprint;

/// Where a pair was found, and so what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This run received it.
    Own,
    /// A dead run's journal beside the file.
    Beside,
    /// A dead run's journal in another place, which may belong to another file of that name.
    Elsewhere,
    /// The state folder remembers that it was in the file once.
    Done,
}

/// A pair of a journal.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) pair: Arc<Successor>,
    pub(super) source: Source,
    /// Whether it was read back from the file.
    pub(super) is_saved: bool,
    /// What a section with it holds.
    state: PairFingerprints,
}

/// What a section holds, as far as replaying needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PairFingerprints {
    refresh: Option<Fingerprint>,
    access: Option<Fingerprint>,
}

impl Entry {
    pub(super) fn new(pair: Arc<Successor>, source: Source) -> Self {
        let access = pair.tokens.access_token.as_ref();
        Entry {
            state: PairFingerprints {
                refresh: pair.fingerprint(),
                access: access.map(Fingerprint::of),
            },
            pair,
            source,
            is_saved: source == Source::Done,
        }
    }

    /// The fingerprint of its refresh token.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.state.refresh
    }

    /// Whether it has not been read back from the file yet.
    pub(super) fn is_open(&self) -> bool {
        self.source != Source::Done && !self.is_saved
    }

    /// Whether the pair replaces this token. `given` is what this run was given from outside, if the file does not know
    /// it.
    fn follows(&self, refresh: Option<Fingerprint>, given: Option<Fingerprint>) -> bool {
        let is_news = self.source != Source::Done;
        // Only its replacement stands for it.
        let is_given = is_news && given.is_some() && given == self.pair.predecessor;
        let fits = match (refresh, self.source) {
            (Some(token), _) => {
                self.pair.came_from(token) || is_news && self.pair.held == Some(token)
            }
            (None, _) if self.is_saved => false,
            (None, Source::Own) => self.pair.held.is_none(),
            (None, Source::Beside) => true,
            (None, Source::Elsewhere | Source::Done) => false,
        };
        fits || is_given && self.is_rotated()
    }

    /// Whether the server gave a new token for an old one, which no longer works.
    fn is_rotated(&self) -> bool {
        let predecessor = self.pair.predecessor;
        predecessor.is_some() && predecessor != self.fingerprint()
    }
}

/// The result of replaying.
pub(super) struct Replay<'e> {
    /// What the text lacks.
    pub(super) edits: Vec<Edit<'e>>,
    /// For each entry, whether the text has it or its successor after these changes.
    pub(super) fits: Vec<bool>,
}

/// Replays pairs onto a text. `given` is a profile, and the token that this run was given for it.
///
/// # Errors
/// [`crate::Kind::Config`] if a section cannot be parsed.
pub(super) fn replay<'e>(
    place: SectionId<'_>,
    document: &Document,
    entries: &'e [Entry],
    given: Option<(&str, Fingerprint)>,
) -> Result<Replay<'e>> {
    let mut by_profile: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        by_profile
            .entry(&entry.pair.profile)
            .or_default()
            .push(index);
    }
    let mut replay = Replay {
        edits: Vec::new(),
        fits: vec![false; entries.len()],
    };
    for (profile, indices) in by_profile {
        let old = match sections::pair(place.of(profile), document) {
            // Nothing later needs it, and it blocks nothing.
            Err(_) if !indices.iter().any(|index| entries[*index].is_open()) => continue,
            old => old?,
        };
        // What the file lists led to the token that it has, unless that is gone.
        let is_known = |token| old.fingerprint().is_some() && old.spent.lists(token);
        let given = given.filter(|(name, token)| *name == profile && !is_known(*token));
        let section = ProfileEntries {
            entries,
            indices: &indices,
            given: given.map(|(_, token)| token),
        };
        let last = section.replay(&old, &mut replay.fits);
        if let Some(last) = last {
            let pair = &entries[last].pair;
            replay
                .edits
                .push(sections::edit(place, document, &old, pair)?);
        }
    }
    // In text order, so that the same input gives the same output.
    replay.edits.sort_by_key(|edit| edit.section);
    Ok(replay)
}

/// The pairs of one profile.
struct ProfileEntries<'s> {
    entries: &'s [Entry],
    indices: &'s [usize],
    given: Option<Fingerprint>,
}

impl ProfileEntries<'_> {
    /// Applies what applies; returns the last that did.
    fn replay(&self, old: &Pair, fits: &mut [bool]) -> Option<usize> {
        let mut state = PairFingerprints {
            refresh: old.fingerprint(),
            access: old.tokens.access_token.as_ref().map(Fingerprint::of),
        };
        // What has been replaced. The file's own list does not tell: a login's own token is in it from the beginning,
        // and so is one that a server does not rotate.
        let mut spent: HashSet<Fingerprint> = HashSet::new();
        let mut last = None;
        let later = |index: usize, print: Option<Fingerprint>| {
            let later = self.indices.iter().filter(|later| **later > index);
            let mut later = later.map(|later| &self.entries[*later]).rev();
            later.find(|later| later.fingerprint() == print)
        };
        let mut waiting: Vec<usize> = self.indices.to_vec();
        loop {
            let applies = |index: &usize| {
                let entry = &self.entries[*index];
                let new = entry.state;
                if new.refresh.is_some_and(|token| spent.contains(&token)) {
                    return false;
                }
                if new.refresh == state.refresh {
                    // The server does not rotate: what last came with the token must be there.
                    let renews = new.access.is_some() && new.access != state.access;
                    return renews
                        && entry.source != Source::Done
                        && later(*index, new.refresh).is_none();
                }
                let is_proof = entry.is_rotated() && entry.pair.predecessor == state.refresh;
                let later = later(*index, state.refresh);
                if !is_proof && later.is_some_and(|later| !later.is_rotated()) {
                    // It came back, from a server that does not rotate or by a user's consent.
                    return false;
                }
                let given = self.given.filter(|_| !self.known_replaced(*index, &state));
                entry.follows(state.refresh, given)
            };
            // The latest first: if two logins claim a place, the later one gets it.
            let Some(at) = waiting.iter().rposition(applies) else {
                break;
            };
            let index = waiting.remove(at);
            let pair = &self.entries[index].pair;
            spent.extend(pair.spent.iter().copied());
            spent.extend(
                state
                    .refresh
                    .filter(|_| pair.fingerprint() != state.refresh),
            );
            state = self.entries[index].state;
            fits[index] = true;
            last = Some(index);
        }
        for &index in &waiting {
            let print = self.entries[index].fingerprint();
            let is_there = print.is_some() && print == state.refresh;
            let is_replaced = print.is_some_and(|token| spent.contains(&token));
            fits[index] = is_there || is_replaced || self.known_replaced(index, &state);
        }
        last
    }

    /// Whether a pair in place names this one as spent.
    fn known_replaced(&self, index: usize, state: &PairFingerprints) -> bool {
        let print = self.entries[index].fingerprint();
        let in_place = |other: &&usize| {
            let other = &self.entries[**other];
            other.fingerprint() == state.refresh
                && print.is_some_and(|print| other.pair.spent.contains(&print))
        };
        self.indices.iter().any(|other| in_place(&other))
    }
}

#[cfg(test)]
mod model;
