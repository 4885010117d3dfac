//! What version 0.1 left: rescue files, which hold whole copies of the file or single sections. They
//! are put back once, as pairs, or kept and named.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::document::Document;
use super::io::read;
use super::places::with_suffix;
use super::replay::{Entry, Source};
use super::sections::{self, Place};
use crate::platform::files;
use crate::profile::Successor;
use crate::protocol::Api;
use crate::token::Fingerprint;

pub(super) const SUFFIX: &str = ".rescue";

/// A rescue file.
pub(super) struct Rescue {
    path: PathBuf,
    pub(super) entries: Vec<Entry>,
    /// The whole file, if this is a copy of it.
    pub(super) text: Option<String>,
}

/// The rescue files of a file. Only those beside it, and in the user's state folder, are looked for.
pub(super) fn find(file: &Path, owner: &Metadata) -> Vec<Rescue> {
    let hash = Fingerprint::of_bytes(file.as_os_str().as_encoded_bytes());
    let state = files::state_folder();
    let state = state.map(|folder| folder.join(format!("feishu-refresh/{hash}{SUFFIX}")));
    let places = [
        (Some(with_suffix(file, SUFFIX)), Source::Beside),
        (state, Source::Elsewhere),
    ];
    let places = places
        .into_iter()
        .filter_map(|(path, source)| Some((path?, source)));
    places
        .filter_map(|(path, source)| Rescue::read(path, source, owner))
        .collect()
}

impl Rescue {
    fn read(path: PathBuf, source: Source, owner: &Metadata) -> Option<Self> {
        let metadata = fs::symlink_metadata(&path).ok()?;
        if !files::is_ours(&metadata, owner) || !files::is_private(&metadata) {
            log::warn!(
                "{} is not this user's alone: it is left alone",
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
            text: None,
        };
        let Ok(document) = Document::parse(&bytes) else {
            rescue.put_aside();
            return None;
        };
        rescue.entries = entries(&document, source);
        let is_copy = !document
            .text()
            .starts_with("; Pairs of feishu-refresh --all");
        rescue.text = is_copy.then(|| document.text().to_owned());
        Some(rescue)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away: the file has all that it holds.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Gives it a name under which no run looks for it.
    pub(super) fn put_aside(&self) {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let aside = with_suffix(&self.path, &format!(".{}", Fingerprint::of_bytes(&bytes)));
        let kept = match fs::rename(&self.path, &aside) {
            Ok(()) => &aside,
            Err(_) => &self.path,
        };
        let (path, kept) = (self.path.display(), kept.display());
        log::warn!("{path} of an older version does not fit the file: it was kept as {kept}");
    }
}

/// The pairs that a save of version 0.1 wrote: their sections name what was spent for them.
fn entries(document: &Document, source: Source) -> Vec<Entry> {
    let pair = |profile: &str| {
        let place = Place {
            file: Path::new(""),
            profile,
        };
        let pair = sections::pair(place, document).ok()?;
        let spent = pair.spent.iter().last()?;
        let new = pair.fingerprint().filter(|new| *new != spent)?;
        let mut successor = Successor::trial(profile, pair.api.unwrap_or(Api::V1));
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
