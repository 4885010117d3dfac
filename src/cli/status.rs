//! `status`: the state of the logins of a file or a store. It shows fingerprints instead of secrets.
//!
//! A table for people, one JSON object a line for programs. Those that need a person come first in
//! the table; the JSON has the file's order. Of a store, which may hold very many, people get counts, and
//! programs one login after the other.

mod survey;

use std::io::Write;

use super::output::print;
#[cfg(feature = "postgres")]
use crate::driver::Driver;
use crate::error::{Error, Hint, Kind, Result};
#[cfg(feature = "postgres")]
use crate::platform::signals::Mask;
use crate::profile::standing::Next;
use crate::refresh::Options;
#[cfg(feature = "postgres")]
use crate::store::Notes;
use crate::store::file::FileStore;
#[cfg(feature = "postgres")]
use crate::store::postgres::PostgresStore;
use crate::store::{Counts, Database};
use crate::text::printable;
#[cfg(feature = "postgres")]
use survey::no_login;
pub(super) use survey::{Form, span};
use survey::{Keeper, Logins, Survey};

/// Shows one profile, or all that there are; of a store in words, without `all`, only counts.
///
/// # Errors
/// [`Kind::Config`] if the file or the store cannot be read or understood, or has no login;
/// [`Kind::Reauthorize`] if one of them cannot be refreshed.
pub(super) fn show(
    options: &Options,
    named: Option<&str>,
    all: bool,
    form: Form,
    stdout: &mut dyn Write,
) -> Result<()> {
    let mut stuck = Stuck {
        is_named: named.is_some(),
        ..Stuck::default()
    };
    match (&options.store, form) {
        (None, _) => {
            let (logins, keeper) = file(options, named)?;
            let survey = Survey::of(options, logins, keeper)?;
            stuck.add(&survey);
            print(stdout, &survey.shown(form))?;
        }
        (Some(database), Form::Table { .. }) if named.is_none() && !all => {
            let counts = counts(database, options)?;
            print(stdout, &counts.words(&database.shown()))?;
            return counts.verdict(&database.shown());
        }
        (Some(database), _) => {
            // A table is as wide as its widest row.
            let size = match form {
                Form::Json => PAGE,
                Form::Table { .. } => i64::MAX,
            };
            pages(database, options, named, size, |logins, keeper| {
                let survey = Survey::of(options, logins, keeper)?;
                stuck.add(&survey);
                print(stdout, &survey.shown(form))
            })?;
        }
    }
    stuck.verdict(&options.keeper())
}

/// So many logins of a store are looked at together: what is known at once does not grow with it.
const PAGE: i64 = 500;

/// Those that cannot be refreshed.
#[derive(Default)]
struct Stuck {
    count: usize,
    /// The first of them.
    names: Vec<String>,
    needs_consent: bool,
    /// Whether hints to log in name the profile already.
    is_named: bool,
}

/// So many are named.
const MOST_NAMED: usize = 20;

impl Stuck {
    fn add(&mut self, survey: &Survey) {
        for status in survey.profiles.iter().filter(|s| !s.next.can_work()) {
            self.count += 1;
            if self.names.len() < MOST_NAMED {
                self.names.push(format!("[{}]", status.profile));
            }
            let needs_consent =
                matches!(status.next, Next::NoToken | Next::Expired | Next::Refused);
            self.needs_consent |= needs_consent;
        }
    }

    fn verdict(&self, keeper: &str) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let hint = if self.needs_consent && self.is_named {
            Hint::fixed(
                "have a user consent: feishu-refresh login (115: get a new refresh token as its documents say)",
                "请由用户重新授权：feishu-refresh login（115：请按其文档重新获取 refresh_token）",
            )
        } else if self.needs_consent {
            Hint::fixed(
                "have a user consent: feishu-refresh login -p NAME (115: get a new refresh token as its documents say)",
                "请由用户重新授权：feishu-refresh login -p 名称（115：请按其文档重新获取 refresh_token）",
            )
        } else {
            Hint::fixed(
                "fix what the next run would fail for",
                "请修正导致下次运行失败的问题",
            )
        };
        let names = self.names.join(", ");
        let more = match self.count - self.names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("{names}{more} of {keeper} cannot be refreshed");
        Err(Error::new(Kind::Reauthorize, message).with_hint(hint))
    }
}

/// The logins of a file.
fn file(options: &Options, named: Option<&str>) -> Result<(Logins, Keeper)> {
    let store = FileStore::new(&options.config_file, || {});
    let foreseen = store.foreseen(named)?;
    let keeper = Keeper::File {
        path: store.path().to_owned(),
        mode: store.mode(),
        journals: foreseen.journals,
    };
    Ok((foreseen.logins, keeper))
}

/// The logins of a store, or the one that is named, some at a time.
#[cfg(feature = "postgres")]
fn pages(
    database: &Database,
    options: &Options,
    named: Option<&str>,
    size: i64,
    mut show: impl FnMut(Logins, Keeper) -> Result<()>,
) -> Result<()> {
    let (store, driver) = (open(database, options)?, Driver::default());
    let mut last = None;
    loop {
        let page = driver.run(store.survey(named, last.as_deref(), size))??;
        let is_last = named.is_some() || i64::try_from(page.len()).is_ok_and(|len| len < size);
        if page.is_empty() && last.is_some() {
            return Ok(());
        }
        let logins = page
            .into_iter()
            .map(|(notes, snapshot)| ((notes.name.clone(), snapshot), notes));
        let (logins, notes): (Logins, Vec<Notes>) = logins.unzip();
        last = notes.last().map(|notes| notes.name.clone());
        let address = store.shown().to_owned();
        show(logins, Keeper::Store { address, notes })?;
        if is_last {
            return Ok(());
        }
    }
}

/// How many of a store's logins are in which state.
#[cfg(feature = "postgres")]
fn counts(database: &Database, options: &Options) -> Result<Counts> {
    let store = open(database, options)?;
    let counts = Driver::default().run(store.counts())??;
    if counts.all == 0 {
        return Err(no_login(store.shown()));
    }
    Ok(counts)
}

#[cfg(feature = "postgres")]
fn open(database: &Database, options: &Options) -> Result<PostgresStore> {
    PostgresStore::open(
        database,
        &options.connection(Mask::shield_thread),
        options.lock_timeout,
        options.refresh_token.as_ref(),
    )
}

#[cfg(not(feature = "postgres"))]
fn pages(
    _: &Database,
    _: &Options,
    _: Option<&str>,
    _: i64,
    _: impl FnMut(Logins, Keeper) -> Result<()>,
) -> Result<()> {
    Err(crate::store::no_postgres())
}

#[cfg(not(feature = "postgres"))]
fn counts(_: &Database, _: &Options) -> Result<Counts> {
    Err(crate::store::no_postgres())
}

impl Counts {
    fn words(&self, keeper: &str) -> String {
        let keeper = printable(keeper);
        let lines = [
            (self.valid, "valid: their access tokens live"),
            (self.due, "due: their access tokens have ended, or may have"),
            (
                self.ending,
                "to be refreshed within a week: their refresh tokens end then",
            ),
            (self.failing, "failed, and are tried again later"),
            (self.ended, "ended: a user must log in again"),
            (
                self.refused,
                "refused by the server: a user must log in again",
            ),
            (self.held, "held back: store import must be run again"),
        ];
        let mut text = format!("{} logins in {keeper}\n", self.all);
        for (count, what) in lines {
            text.push_str(&format!("{count:>9}  {what}\n"));
        }
        text
    }

    fn verdict(&self, keeper: &str) -> Result<()> {
        let stuck = self.ended + self.refused + self.held;
        if stuck == 0 {
            return Ok(());
        }
        let message = format!("{stuck} logins of {keeper} cannot be refreshed");
        Err(
            Error::new(Kind::Reauthorize, message).with_hint(Hint::fixed(
                "feishu-refresh status --all names them",
                "可用 feishu-refresh status --all 查看",
            )),
        )
    }
}
