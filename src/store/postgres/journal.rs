//! The pair of a login, sealed, on this host: as long as the database may not have it (S4).
//!
//! Promises:
//! - It is written as soon as a reply is judged, before anything is sent to the database.
//! - It is removed once the database has the pair or its successor; the next run on this host sees to
//!   that, whoever wrote it. A live run's journal is read, and left to that run.
//! - It holds one line, sealed with the store's key and useless without it.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::facts::{LoginFacts, StoredApp};
use super::sealing::{Keys, SecretOwner, is_key_id};
use crate::error::{Error, Result};
use crate::platform::files;
use crate::profile::Successor;
use crate::profile::values::Addresses;
use crate::store::places;
use crate::store::record::{self, Record};
use crate::token::Fingerprint;

/// The first line, for whoever finds it.
const HEAD: &str = "; A pair that is perhaps not in its store yet: the next run of feishu-refresh on this host puts it there; elsewhere, feishu-refresh store import - takes it from stdin.";

/// A longer file is not a journal.
const LONGEST: u64 = 8 << 20;

/// The most runs of one login on one host that can each have a journal.
const MOST: usize = 8;

/// The owner of these sealed texts: not a particular login, since a journal must open before its login is known.
const OWNER: SecretOwner<'static> = SecretOwner {
    name: "journal",
    column: "pair",
};

/// What a sealed line holds besides the record of the pair.
#[derive(Serialize, Deserialize)]
struct FactsJson {
    is_login: bool,
    owner: String,
    base_url: Option<String>,
    accounts_url: Option<String>,
    token_url: Option<String>,
    app: Option<AppJson>,
}

#[derive(Serialize, Deserialize)]
struct AppJson {
    id: String,
    service: String,
    secret: Option<String>,
    ticket: Option<String>,
}

/// A pair, and the values saved with it, as a sealed line.
///
/// # Errors
/// [`crate::Kind::Temporary`] if the system has no random numbers.
pub(super) fn sealed(keys: &Keys, pair: &Successor, facts: &LoginFacts) -> Result<String> {
    let secret = |secret: &SecretString| secret.expose_secret().to_owned();
    let app = facts.app.as_ref().map(|app| AppJson {
        id: app.id.clone(),
        service: app.service.clone(),
        secret: app.secret.as_ref().map(secret),
        ticket: app.ticket.as_ref().map(secret),
    });
    let facts = FactsJson {
        is_login: facts.is_login,
        owner: facts.owner.clone(),
        base_url: facts.addresses.base.clone(),
        accounts_url: facts.addresses.accounts.clone(),
        token_url: facts.addresses.token.clone(),
        app,
    };
    // Strings and booleans always serialise.
    let facts = serde_json::to_string(&facts).unwrap_or_default();
    let record = Record::Pair(Box::new(pair.clone())).line();
    keys.seal(OWNER, &format!("{}\n{facts}", record.trim()).into())
}

/// Reads a sealed line back.
///
/// # Errors
/// [`crate::Kind::Config`] if it does not open with these keys, or is not a pair.
pub(super) fn opened(keys: &Keys, line: &str) -> Result<(Successor, LoginFacts)> {
    let text: SecretString = keys.open(OWNER, line.trim())?;
    let none = || Error::config("this sealed line does not hold a pair");
    let (record, facts) = text.expose_secret().split_once('\n').ok_or_else(none)?;
    let facts: FactsJson = serde_json::from_str(facts).map_err(|_| none())?;
    let facts = LoginFacts {
        is_login: facts.is_login,
        owner: facts.owner,
        addresses: Addresses {
            base: facts.base_url,
            accounts: facts.accounts_url,
            token: facts.token_url,
        },
        app: facts.app.map(|app| StoredApp {
            id: app.id,
            service: app.service,
            secret: app.secret.map(SecretString::from),
            ticket: app.ticket.map(SecretString::from),
        }),
    };
    match record::read(record.as_bytes()).records.pop() {
        Some((Record::Pair(pair), _)) => Ok((*pair, facts)),
        _ => Err(none()),
    }
}

/// The name in the temporary folder, which others share.
fn in_temporary(name: &str) -> String {
    format!("feishu-refresh-{}-{name}", files::user())
}

/// The places for this login's files, in order of preference.
fn places(store_id: &str, login: &str) -> Vec<PathBuf> {
    let hash = Fingerprint::of_bytes(format!("{store_id}\n{login}").as_bytes());
    let temporary = env::temp_dir().join(in_temporary(&hash.to_string()));
    let state = places::state_folder().map(|folder| folder.join(hash.to_string()));
    state.into_iter().chain([temporary]).collect()
}

/// The possible names of a journal of this login.
fn names(store_id: &str, login: &str) -> impl Iterator<Item = PathBuf> {
    places(store_id, login).into_iter().flat_map(|place| {
        (0..MOST).map(move |number| {
            let suffix = match number {
                0 => places::JOURNAL.to_owned(),
                more => format!(".{more}{}", places::JOURNAL),
            };
            places::with_suffix(&place, &suffix)
        })
    })
}

/// A journal of this run.
pub(super) struct Journal {
    pub(super) path: PathBuf,
    file: File,
}

impl Journal {
    /// Writes a sealed line to the first possible place. None if there is no disk.
    pub(super) fn write(store_id: &str, login: &str, line: &str) -> Option<Self> {
        let write = |path: PathBuf| {
            fail_point!("before-journal");
            places::make_folder(&path);
            let file = files::create_private(&path)?;
            let text = format!("{HEAD}\n{line}\n");
            let claim = || {
                files::claim_alone(&file)?;
                // Another run may have found it empty, and removed it.
                if is_at(&path, &file) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::NotFound.into())
                }
            };
            let written = claim().and_then(|()| {
                fail_point!("before-journal-is-written");
                files::write_all_at(&file, text.as_bytes(), 0)
            });
            if let Err(error) = written {
                if is_at(&path, &file) {
                    let _ = fs::remove_file(&path);
                }
                return Err(error);
            }
            Ok::<_, io::Error>(Journal { path, file })
        };
        names(store_id, login).find_map(|path| write(path).ok())
    }

    /// Syncs it, with its name.
    pub(super) fn sync(&self) {
        // If that fails, nothing more can be done here; the save is still tried.
        let _ = self.file.sync_all();
        self.path.parent().into_iter().for_each(files::sync_folder);
    }

    /// Removes it: the database has the pair.
    pub(super) fn remove(self) {
        places::remove(&self.path);
    }
}

/// Whether a path still leads to this file.
fn is_at(path: &Path, file: &File) -> bool {
    let there = fs::symlink_metadata(path).map(|there| files::identity(&there));
    let own = file.metadata().map(|own| files::identity(&own));
    matches!((there, own), (Ok(there), Ok(own)) if there == own)
}

/// A journal that another run wrote.
pub(super) struct Leftover {
    pub(super) path: PathBuf,
    /// The pair, if it is complete and opens.
    pub(super) pair: Result<(Successor, LoginFacts)>,
    /// Whether the run that wrote it is gone. Then it is locked, so that two runs do not remove it.
    pub(super) is_dead: bool,
    /// Whether it is sealed with a key that is not one of the store's.
    pub(super) has_other_key: bool,
    _file: File,
}

/// The journals of this login on this host.
pub(super) fn leftovers(store_id: &str, login: &str, keys: &Keys) -> Vec<Leftover> {
    let find = |path: PathBuf| {
        let mut file = files::open_unlinked(&path).ok()?;
        let metadata = file.metadata().ok()?;
        if !files::is_ours(&metadata, None) || metadata.len() > LONGEST {
            places::put_aside(&path, "is not only this user's", &metadata);
            return None;
        }
        // Its run may have removed it, and a live run may have created a new one.
        let is_dead = files::claim_alone(&file).is_ok() && is_at(&path, &file);
        if is_dead && file.metadata().is_ok_and(|now| now.len() == 0) {
            // Its run died before it had written anything.
            places::remove(&path);
            return None;
        }
        let mut text = String::new();
        // What cannot be read is not complete.
        let _ = (&mut file).take(LONGEST).read_to_string(&mut text);
        let line = text
            .lines()
            .find(|line| is_sealed(line))
            .unwrap_or_default();
        Some(Leftover {
            has_other_key: is_sealed(line) && !keys.can_open(line),
            pair: opened(keys, line),
            path,
            is_dead,
            _file: file,
        })
    };
    names(store_id, login).filter_map(find).collect()
}

/// The logins of this store that have a journal on this host.
pub(super) fn logins_with_leftovers(store_id: &str, keys: &Keys) -> BTreeSet<String> {
    let state = places::state_folder().map(|folder| (folder, String::new()));
    let temporary = (env::temp_dir(), in_temporary(""));
    let paths = state.into_iter().chain([temporary]);
    let paths = paths.flat_map(|(folder, prefix)| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(move |path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(&prefix) && name.ends_with(places::JOURNAL))
        })
    });
    let login_of = |path: PathBuf| {
        let mut text = String::new();
        let mut file = files::open_unlinked(&path).ok()?;
        let metadata = file.metadata().ok()?;
        if !files::is_ours(&metadata, None) || metadata.len() > LONGEST {
            return None;
        }
        file.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| is_sealed(line))?;
        let login = opened(keys, line).ok()?.0.profile;
        // Another store's journal has another name.
        let is_here = names(store_id, &login).any(|name| name == path);
        is_here.then_some(login)
    };
    paths.filter_map(login_of).collect()
}

/// Whether a line can be a sealed one, not text for people.
pub(super) fn is_sealed(line: &str) -> bool {
    let parts = line.trim().split_once('.');
    parts.is_some_and(|(id, text)| is_key_id(id) && !text.contains(char::is_whitespace))
}

impl Leftover {
    /// The database has the pair: the journal is no longer needed.
    pub(super) fn remove(&self) {
        if self.is_dead {
            places::remove(&self.path);
        }
    }

    /// Moves it to where no run looks for it.
    pub(super) fn put_aside(&self, why: &str) {
        if self.is_dead
            && let Ok(metadata) = fs::symlink_metadata(&self.path)
        {
            places::put_aside(&self.path, why, &metadata);
        }
    }
}

/// Keeps a reply, sealed, and returns where.
///
/// # Errors
/// The last place's, if none works.
pub(super) fn keep_reply(store_id: &str, login: &str, sealed: &str) -> io::Result<PathBuf> {
    let suffix = format!(
        "{}{}",
        places::REPLY,
        Fingerprint::of_bytes(sealed.as_bytes())
    );
    let paths = places(store_id, login).into_iter();
    let paths = paths.map(|place| places::with_suffix(&place, &suffix));
    places::keep(paths, sealed.as_bytes()).map(|(path, _)| path)
}

/// The column name that a reply is sealed for.
pub(super) const REPLY_OWNER: SecretOwner<'static> = SecretOwner {
    name: "journal",
    column: "reply",
};
