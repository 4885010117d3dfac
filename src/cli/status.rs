//! `status`: the state of the logins of a file or a store. It shows fingerprints instead of secrets.
//!
//! A table for people, one JSON object a line for programs. Those that need a person come first in
//! the table; the JSON has the file's order. Of a store, which may hold very many, people get counts, and
//! programs one login after the other.

mod survey;

use std::io::Write;
use std::time::Duration;

use super::output::print;
use super::values::as_typed;
#[cfg(feature = "postgres")]
use crate::driver::Driver;
use crate::error::{Error, Hint, Kind, Result};
#[cfg(feature = "postgres")]
use crate::platform::signals::Mask;
use crate::profile::status::NextStep;
use crate::refresh::Options;
use crate::store::database::Database;
use crate::store::file::FileStore;
use crate::store::notes::LoginCounts;
#[cfg(feature = "postgres")]
use crate::store::notes::LoginNotes;
#[cfg(feature = "postgres")]
use crate::store::postgres::PostgresStore;
use crate::text::printable;
pub(super) use survey::StatusForm;
#[cfg(feature = "postgres")]
use survey::no_login;
use survey::{Logins, Survey, SurveyedStore};

/// Shows one profile, or all that there are; of a store in words, without `all`, only counts.
///
/// # Errors
/// [`Kind::Config`] if the file or the store cannot be read or understood, or has no login;
/// [`Kind::Reauthorize`] if one of them cannot be refreshed, or has a refresh token that ends within `warn_within`.
pub(super) fn show(
    options: &Options,
    named: Option<&str>,
    all: bool,
    form: StatusForm,
    warn_within: Option<Duration>,
    stdout: &mut dyn Write,
) -> Result<()> {
    let warn_within = warn_within.unwrap_or_default();
    let mut concerns = StatusConcerns {
        is_named: named.is_some(),
        warn_within,
        ..StatusConcerns::default()
    };
    match (&options.store, form) {
        (None, _) => {
            let (logins, keeper) = file(options, named)?;
            let survey = Survey::of(options, logins, keeper, warn_within)?;
            concerns.add(&survey);
            print(stdout, &survey.shown(form))?;
        }
        (Some(database), StatusForm::Table { .. }) if named.is_none() && !all => {
            let within = Some(warn_within).filter(|time| !time.is_zero());
            let counts = counts(database, options, within.unwrap_or(A_WEEK))?;
            print(stdout, &counts.words(&database.shown(), within))?;
            return counts.verdict(&database.shown(), within);
        }
        (Some(database), _) => {
            // A table is as wide as its widest row.
            let size = match form {
                StatusForm::Json => PAGE,
                StatusForm::Table { .. } => i64::MAX,
            };
            pages(database, options, named, size, |logins, keeper| {
                let survey = Survey::of(options, logins, keeper, warn_within)?;
                concerns.add(&survey);
                print(stdout, &survey.shown(form))
            })?;
        }
    }
    concerns.verdict(&options.keeper())
}

/// So many logins of a store are looked at together: what is known at once does not grow with it.
const PAGE: i64 = 500;

/// So long before its end a refresh token is counted, unless a person says otherwise.
const A_WEEK: Duration = Duration::from_secs(7 * 86_400);

/// The logins that a person must hear of.
#[derive(Default)]
struct StatusConcerns {
    /// Cannot be refreshed.
    stuck: LoginNames,
    /// Their refresh tokens end within `warn_within`.
    ending: LoginNames,
    warn_within: Duration,
    needs_consent: bool,
    /// Whether hints to log in name the profile already.
    is_named: bool,
}

/// Logins for a message.
#[derive(Default)]
struct LoginNames {
    count: usize,
    /// The first of them.
    first: Vec<String>,
}

/// So many are named.
const MOST_NAMED: usize = 20;

impl LoginNames {
    fn add(&mut self, profile: &str) {
        self.count += 1;
        if self.first.len() < MOST_NAMED {
            self.first.push(format!("[{profile}]"));
        }
    }

    fn words(&self) -> String {
        let names = self.first.join(", ");
        match self.count - self.first.len() {
            0 => names,
            more => format!("{names} and {more} more"),
        }
    }
}

impl StatusConcerns {
    fn add(&mut self, survey: &Survey) {
        for status in &survey.profiles {
            if !status.next.can_work() {
                self.stuck.add(&status.profile);
                let needs_consent = matches!(
                    status.next,
                    NextStep::NoToken | NextStep::Expired | NextStep::Refused
                );
                self.needs_consent |= needs_consent;
            } else if survey.ends_soon(status) {
                self.ending.add(&status.profile);
            }
        }
    }

    fn verdict(&self, keeper: &str) -> Result<()> {
        let stuck = match self.stuck.count {
            0 => None,
            _ => Some(format!(
                "{} of {keeper} cannot be refreshed",
                self.stuck.words()
            )),
        };
        let ending = match self.ending.count {
            0 => None,
            _ => Some(ending_soon(&self.ending.words(), keeper, self.warn_within)),
        };
        let hint = if self.stuck.count == 0 {
            renew_in_time()
        } else if self.needs_consent && self.is_named {
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
        verdict([stuck, ending], hint)
    }
}

/// What is wrong, if anything is.
fn verdict(concerns: [Option<String>; 2], hint: Hint) -> Result<()> {
    let concerns: Vec<String> = concerns.into_iter().flatten().collect();
    if concerns.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Reauthorize, concerns.join("; ")).with_hint(hint))
}

fn ending_soon(whose: &str, keeper: &str, within: Duration) -> String {
    let within = as_typed(within);
    format!("the refresh tokens of {whose} of {keeper} end within {within}")
}

/// They have not ended yet, so no person is needed.
fn renew_in_time() -> Hint {
    Hint::fixed(
        "feishu-refresh --all renews them; a scheduled run that should have done so may be failing",
        "可用 feishu-refresh --all 及时刷新；若已设定时任务，它可能一直在失败",
    )
}

/// The logins of a file.
fn file(options: &Options, named: Option<&str>) -> Result<(Logins, SurveyedStore)> {
    let store = FileStore::new(&options.config_file, || {});
    let foreseen = store.foreseen(named)?;
    let keeper = SurveyedStore::File {
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
    mut show: impl FnMut(Logins, SurveyedStore) -> Result<()>,
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
        let (logins, notes): (Logins, Vec<LoginNotes>) = logins.unzip();
        last = notes.last().map(|notes| notes.name.clone());
        let address = store.shown().to_owned();
        show(logins, SurveyedStore::Store { address, notes })?;
        if is_last {
            return Ok(());
        }
    }
}

/// How many of a store's logins are in which state.
#[cfg(feature = "postgres")]
fn counts(database: &Database, options: &Options, ending_within: Duration) -> Result<LoginCounts> {
    let store = open(database, options)?;
    let counts = Driver::default().run(store.counts(ending_within))??;
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
    _: impl FnMut(Logins, SurveyedStore) -> Result<()>,
) -> Result<()> {
    Err(crate::store::open::no_postgres())
}

#[cfg(not(feature = "postgres"))]
fn counts(_: &Database, _: &Options, _: Duration) -> Result<LoginCounts> {
    Err(crate::store::open::no_postgres())
}

impl LoginCounts {
    fn words(&self, keeper: &str, within: Option<Duration>) -> String {
        let keeper = printable(keeper);
        let within = within.map_or_else(|| "a week".to_owned(), as_typed);
        let ending = format!("to be refreshed within {within}: their refresh tokens end then");
        let lines = [
            (self.valid, "valid: their access tokens live"),
            (self.due, "due: their access tokens have ended, or may have"),
            (self.ending, &ending),
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

    fn verdict(&self, keeper: &str, within: Option<Duration>) -> Result<()> {
        let count = self.ended + self.refused + self.held;
        let stuck = (count > 0).then(|| format!("{count} logins of {keeper} cannot be refreshed"));
        let within = within.filter(|_| self.ending > 0);
        let ending =
            within.map(|within| ending_soon(&format!("{} logins", self.ending), keeper, within));
        let hint = match within {
            Some(_) if count == 0 => renew_in_time(),
            _ => Hint::fixed(
                "feishu-refresh status --all names them",
                "可用 feishu-refresh status --all 查看",
            ),
        };
        verdict([stuck, ending], hint)
    }
}
