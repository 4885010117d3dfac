//! What version 0.1 left: rescue files, which hold whole copies of the file or single sections. They are restored once,
//! as pairs, or kept and reported.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::document::Document;
use super::io::read;
use super::replay::{Entry, Source};
use super::sections::{self, SectionId, Text};
use crate::platform::files;
use crate::profile::Successor;
use crate::protocol::Api;
use crate::store::places::{CompanionPath, places, with_suffix};
use crate::token::Fingerprint;

pub(super) const SUFFIX: &str = ".rescue";

/// A rescue file.
pub(super) struct Rescue {
    path: PathBuf,
    pub(super) entries: Vec<Entry>,
    /// All refresh tokens that it holds.
    tokens: HashSet<Fingerprint>,
    /// The whole file, if this is a copy of it.
    pub(super) text: Option<String>,
}

/// The rescue files of a file.
pub(super) fn find(file: &Path, owner: &Metadata) -> Vec<Rescue> {
    let places = places(file, SUFFIX).into_iter();
    places
        .filter_map(|place| Rescue::read(place, owner))
        .collect()
}

impl Rescue {
    fn read(place: CompanionPath, owner: &Metadata) -> Option<Self> {
        let CompanionPath { path, is_beside } = place;
        let source = if is_beside {
            Source::Beside
        } else {
            Source::Elsewhere
        };
        let metadata = fs::symlink_metadata(&path).ok()?;
        if !files::is_ours(&metadata, Some(owner)) || !files::is_private(&metadata) {
            log::warn!(
                "{} is not private to this user: it stays as it is",
                path.display()
            );
            return None;
        }
        let bytes = read(&path).ok()??;
        if bytes.iter().all(|byte| *byte == 0) {
            let _ = fs::remove_file(&path);
            return None;
        }
        let mut rescue = Rescue {
            path,
            entries: Vec::new(),
            tokens: HashSet::new(),
            text: None,
        };
        let Ok(document) = Document::parse(&bytes) else {
            rescue.put_aside();
            return None;
        };
        rescue.entries = entries(&document, source);
        rescue.tokens = Text::of(document.clone()).tokens();
        let is_copy = !document
            .text()
            .starts_with("; Pairs of feishu-refresh --all");
        rescue.text = is_copy.then(|| document.text().to_owned());
        Some(rescue)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it if the file knows all that it holds; otherwise keeps and reports it.
    pub(super) fn end(&self, known: &HashSet<Fingerprint>) {
        if self.tokens.is_subset(known) {
            let _ = fs::remove_file(&self.path);
        } else {
            self.put_aside();
        }
    }

    /// Renames it so that no run looks for it.
    pub(super) fn put_aside(&self) {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let aside = with_suffix(&self.path, &format!(".{}", Fingerprint::of_bytes(&bytes)));
        let kept = match fs::rename(&self.path, &aside) {
            Ok(()) => &aside,
            Err(_) => &self.path,
        };
        let (path, kept) = (self.path.display(), kept.display());
        log::warn!("{path} of an older version does not fit the file: kept as {kept}");
    }
}

/// The pairs that a save of version 0.1 wrote: their sections name what was spent for them.
fn entries(document: &Document, source: Source) -> Vec<Entry> {
    let pair = |profile: &str| {
        let place = SectionId {
            file: Path::new(""),
            profile,
        };
        let pair = sections::pair(place, document).ok()?;
        let spent = pair.spent.iter().last()?;
        let new = pair.fingerprint().filter(|new| *new != spent)?;
        let mut successor = Successor::trial(profile, pair.api.known().unwrap_or(Api::V1));
        successor.tokens = pair.tokens;
        successor.app_token = None;
        successor.predecessor = Some(spent);
        successor.held = Some(spent);
        successor.spent = pair.spent.iter().filter(|token| *token != new).collect();
        successor.listed = Some(pair.spent);
        Some(Entry::new(successor.into(), source))
    };
    document.sections().filter_map(pair).collect()
}
