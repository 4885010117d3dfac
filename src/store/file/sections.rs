//! Sections of the file as logins, and vice versa.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::document::{Document, Edit, Problem, is_utf16};
use jiff::SignedDuration;

use crate::error::{Error, Hint, Result};
use crate::profile::{LoginId, Pair, Profile, Snapshot, SpentTokens, Successor, key};
use crate::protocol::Api;
use crate::token::Fingerprint;

/// Section with the shared keys.
const SHARED_SECTION: &str = "ID";

/// Section in which the Python package keeps what a login needs.
const LOGIN_SECTION: &str = "LOGIN_CODE";

/// A file, and a section in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SectionId<'a> {
    pub(super) file: &'a Path,
    pub(super) profile: &'a str,
}

impl<'a> SectionId<'a> {
    /// Another section in the same file.
    pub(super) fn of<'b>(self, profile: &'b str) -> SectionId<'b>
    where
        'a: 'b,
    {
        SectionId {
            file: self.file,
            profile,
        }
    }
}

impl fmt::Display for SectionId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] of {}", self.profile, self.file.display())
    }
}

/// A text of the file, parsed.
pub(super) struct Text {
    pub(super) document: Document,
    /// The tokens that its sections are known to have spent; computed on demand.
    spent_by: OnceLock<Arc<HashMap<Fingerprint, String>>>,
}

impl Text {
    /// # Errors
    /// [`crate::Kind::Config`], with the lines that are wrong.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Arc<Self>> {
        check_encoding(file, bytes)?;
        let document = Document::parse(bytes).map_err(|problems| wrong(file, &problems))?;
        Ok(Text::of(document))
    }

    pub(super) fn of(document: Document) -> Arc<Self> {
        Arc::new(Text {
            document,
            spent_by: OnceLock::new(),
        })
    }

    /// The same text read again, if it has not changed.
    pub(super) fn parse_anew(file: &Path, bytes: &[u8], known: &Arc<Self>) -> Result<Arc<Self>> {
        if known.document.text().as_bytes() == bytes {
            return Ok(Arc::clone(known));
        }
        Text::parse(file, bytes)
    }

    /// What one section says.
    pub(super) fn snapshot(&self, place: SectionId<'_>) -> Result<Snapshot> {
        let own = |key: &str| value(place, &self.document, key);
        let shared = |key: &str| {
            let section = if key == key::REDIRECT_URI {
                LOGIN_SECTION
            } else {
                SHARED_SECTION
            };
            value(place.of(section), &self.document, key)
        };
        let exists = self.document.has_section(place.profile);
        Ok(Snapshot {
            login: LoginId {
                profile: place.profile.to_owned(),
                store: place.file.display().to_string(),
            },
            exists,
            others: if exists {
                Vec::new()
            } else {
                self.places_for_tokens()
            },
            profile: Profile::read(own, shared)?,
            clock_ahead: SignedDuration::ZERO,
            spent_by: Arc::clone(self.spent_by()),
        })
    }

    /// Every section's spent tokens, except the one that it holds.
    pub(super) fn spent_by(&self) -> &Arc<HashMap<Fingerprint, String>> {
        self.spent_by.get_or_init(|| self.spent_tokens())
    }

    fn spent_tokens(&self) -> Arc<HashMap<Fingerprint, String>> {
        let mut spent_by = HashMap::new();
        for profile in self.document.sections() {
            let own = |key| self.document.value(profile, key).ok().flatten();
            let Some(listed) = own(key::REFRESH_SPENT) else {
                continue;
            };
            let held = own(key::REFRESH_TOKEN).map(|token| Fingerprint::of(&token.into()));
            let spent = SpentTokens::parse(&listed);
            for token in spent.iter().filter(|token| Some(*token) != held) {
                spent_by.insert(token, profile.to_owned());
            }
        }
        Arc::new(spent_by)
    }

    /// Whether it has all sections of another text; if some are missing, it may be half written.
    pub(super) fn has_all_of(&self, other: &Text) -> bool {
        let mut sections = other.document.sections();
        sections.all(|name| self.document.has_section(name))
    }

    /// Tries edits, all together.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if one of them would change more than intended.
    pub(super) fn prove(&self, file: &Path, trials: &[Successor]) -> Result<()> {
        let place = SectionId { file, profile: "" };
        let mut edits = Vec::new();
        for trial in trials {
            let old = pair(place.of(&trial.profile), &self.document)?;
            edits.push(edit(place, &self.document, &old, trial)?);
        }
        edited(file, &self.document, &edits).map(drop)
    }

    /// The possible ones of some edits: all, or those of each half.
    pub(super) fn provable<'t>(&self, file: &Path, trials: &'t [Successor]) -> Vec<&'t Successor> {
        if self.prove(file, trials).is_ok() {
            return trials.iter().collect();
        }
        if trials.len() <= 1 {
            return Vec::new();
        }
        let (first, second) = trials.split_at(trials.len() / 2);
        let mut sound = self.provable(file, first);
        sound.append(&mut self.provable(file, second));
        sound
    }

    /// The refresh token of one section.
    pub(super) fn token(&self, profile: &str) -> Option<String> {
        self.document.value(profile, key::REFRESH_TOKEN).ok()?
    }

    /// The fingerprints of all refresh tokens that it holds.
    pub(super) fn tokens(&self) -> HashSet<Fingerprint> {
        let token = |name| self.document.value(name, key::REFRESH_TOKEN).ok().flatten();
        let tokens = self.document.sections().filter_map(token);
        tokens.map(|token| Fingerprint::of(&token.into())).collect()
    }

    /// The fingerprints of all refresh tokens that it holds or lists as spent.
    pub(super) fn known_tokens(&self) -> HashSet<Fingerprint> {
        let mut known = self.tokens();
        known.extend(self.spent_by().keys());
        known
    }

    /// The names of the sections that have a refresh token, or something unreadable instead of one, in file order.
    pub(super) fn logins(&self) -> Vec<String> {
        let has_token = |name: &&str| {
            let value = self.document.value(name, key::REFRESH_TOKEN);
            value.map_or(true, |value| value.is_some_and(|value| !value.is_empty()))
        };
        let names = self.document.sections().filter(has_token);
        names.map(str::to_owned).collect()
    }

    /// The names of the sections that hold a token, or have a key for one.
    pub(super) fn places_for_tokens(&self) -> Vec<String> {
        let keys = [
            key::REFRESH_TOKEN,
            key::access_token(Api::V1),
            key::access_token(Api::Open115),
        ];
        let has_place = |name: &&str| {
            let has = |key: &&str| !matches!(self.document.value(name, key), Ok(None));
            keys.iter().any(has)
        };
        let names = self.document.sections().filter(has_place);
        names.map(str::to_owned).collect()
    }
}

/// A value of the file; none if it is missing or empty.
fn value(place: SectionId<'_>, document: &Document, key: &str) -> Result<Option<String>> {
    let value = document.value(place.profile, key);
    let value = value.map_err(|problem| wrong(place.file, &[problem]))?;
    Ok(value.filter(|value| !value.is_empty()))
}

/// A section's pair.
pub(super) fn pair(place: SectionId<'_>, document: &Document) -> Result<Pair> {
    Pair::read(|key| value(place, document, key))
}

/// What a pair changes in a document. An unknown value is emptied if its key exists, and not added otherwise.
pub(super) fn edit<'e>(
    place: SectionId<'_>,
    document: &Document,
    old: &Pair,
    new: &'e Successor,
) -> Result<Edit<'e>> {
    let mut values = Vec::new();
    for (key, value) in new.values(old) {
        let stands = document.value(&new.profile, key);
        let stands = stands.map_err(|problem| wrong(place.file, &[problem]))?;
        if stands.is_some() || !value.is_empty() {
            values.push((key, value));
        }
    }
    Ok(Edit {
        section: &new.profile,
        values,
    })
}

/// The document with these edits.
pub(super) fn edited(file: &Path, document: &Document, edits: &[Edit<'_>]) -> Result<Document> {
    let edits: Vec<_> = edits.iter().collect();
    let edited = document.with(&edits);
    edited.map_err(|problem| wrong(file, &[problem]))
}

/// How many problems of a file one message names.
const PROBLEMS_SHOWN: usize = 3;

/// Refuses as a whole a file without lines to name.
fn check_encoding(file: &Path, bytes: &[u8]) -> Result<()> {
    if is_utf16(bytes) {
        let message = format!("{} is UTF-16; save it as UTF-8", file.display());
        return Err(Error::config(message).with_hint(Hint::fixed(
            "an editor's \"save as\" asks for the encoding",
            "请在编辑器的“另存为”中选择 UTF-8 编码",
        )));
    }
    if bytes.first() == Some(&0) {
        return Err(begins_with_nul(file, ""));
    }
    Ok(())
}

/// The error for a file as an interrupted save leaves it. `more` is what else is known.
pub(super) fn begins_with_nul(file: &Path, more: &str) -> Error {
    let file = file.display();
    let message = format!(
        "{file} begins with a NUL byte: a save broke off and left it half written, or it is not a text{more}"
    );
    Error::config(message).with_hint(Hint::fixed(
        "feishu-refresh repairs it from the save's .journal: beside it, in the state folder or in the temporary folder of the user who wrote it; without one, restore the file",
        "feishu-refresh 会用该次保存的 .journal 修复它：它位于该文件旁边，或写入它的用户的状态目录或临时目录中；若没有，请恢复该文件",
    ))
}

/// The error for a file with these problems.
pub(super) fn wrong(file: &Path, problems: &[Problem]) -> Error {
    let shown: Vec<String> = problems
        .iter()
        .take(PROBLEMS_SHOWN)
        .map(Problem::to_string)
        .collect();
    let mut message = format!("{}: {}", file.display(), shown.join("; "));
    if let Some(more) = problems.len().checked_sub(PROBLEMS_SHOWN + 1) {
        message.push_str(&format!("; and {} more", more + 1));
    }
    Error::config(message).with_hint(Hint::fixed(
        "fix the lines so that every INI reader reads them alike",
        "请修正这些行，使各种 INI 解析器的理解一致",
    ))
}
