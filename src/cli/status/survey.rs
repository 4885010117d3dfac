//! The state of logins, for whoever looks: a table for people, one JSON object a line for programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::cli::output::line;
use crate::error::{Error, Hint, Result};
use crate::profile::Snapshot;
use crate::profile::status::{self, HeldToken, NextStep, Status};
use crate::protocol::Api;
use crate::refresh::Options;
use crate::store::PerLogin;
use crate::store::notes::{LoginNotes, Refused, RunAndTime};
use crate::text::{printable, span};
use crate::token::{later, second};

/// Logins, or why they cannot be read.
pub(super) type Logins = Vec<PerLogin<Snapshot>>;

/// What is printed.
#[derive(Clone, Copy)]
pub(crate) enum StatusForm {
    Json,
    Table { has_colour: bool },
}

#[derive(Serialize)]
struct StatusJson<'a> {
    profile: &'a str,
    api: Option<&'a str>,
    access_token: Option<HeldJson>,
    refresh_token: Option<HeldJson>,
    can_refresh: bool,
    next: String,
    config_file: Option<String>,
    mode: Option<String>,
    journals: Vec<String>,
    #[serde(flatten)]
    stored: Option<StoredJson<'a>>,
}

/// What a store knows beyond that.
#[derive(Serialize)]
struct StoredJson<'a> {
    store: &'a str,
    lease: Option<MentionJson<'a>>,
    last_sender: Option<MentionJson<'a>>,
    refused: Option<RefusedJson<'a>>,
}

#[derive(Serialize)]
struct MentionJson<'a> {
    host: &'a str,
    /// When it was, or until when.
    time: String,
}

#[derive(Serialize)]
struct RefusedJson<'a> {
    time: String,
    message: &'a str,
}

#[derive(Serialize)]
struct HeldJson {
    fingerprint: String,
    expires_at: Option<String>,
    /// Seconds; negative once it has ended.
    expires_in: Option<i64>,
}

/// What `status` found.
pub(super) struct Survey {
    pub(super) profiles: Vec<Status>,
    keeper: SurveyedStore,
    now: Timestamp,
    /// So long before its end a refresh token is worth a warning.
    warn_within: Duration,
}

/// What keeps the logins.
pub(super) enum SurveyedStore {
    File {
        path: PathBuf,
        mode: Option<u32>,
        journals: Vec<PathBuf>,
    },
    Store {
        address: String,
        /// What it knows of each login beyond what that holds.
        notes: Vec<LoginNotes>,
    },
}

impl Survey {
    pub(super) fn of(
        options: &Options,
        logins: Logins,
        keeper: SurveyedStore,
        warn_within: Duration,
    ) -> Result<Self> {
        let given = |profile: &str| {
            let mut given = options.given();
            // A token from outside is for one profile only.
            given.refresh_token = given.refresh_token.filter(|_| profile == options.profile);
            given
        };
        let clock_ahead = logins
            .iter()
            .find_map(|(_, login)| Some(login.as_ref().ok()?.clock_ahead));
        let now = later(Timestamp::now(), clock_ahead.unwrap_or_default());
        let profiles = logins.into_iter().map(|(name, snapshot)| match snapshot {
            Ok(snapshot) => status::status(&snapshot, given(&name), now),
            Err(error) => Ok(Status::unreadable(name, &error)),
        });
        let mut profiles: Vec<Status> = profiles.collect::<Result<_>>()?;
        if profiles.is_empty() {
            return Err(no_login(&keeper.shown()));
        }
        if let SurveyedStore::Store { notes, .. } = &keeper {
            for (status, notes) in profiles.iter_mut().zip(notes) {
                notes.judge(status);
            }
        }
        Ok(Survey {
            profiles,
            keeper,
            now,
            warn_within,
        })
    }

    /// Whether the refresh token ends within the time that a warning was asked for.
    pub(super) fn ends_soon(&self, status: &Status) -> bool {
        let token = status.refresh_token.as_ref();
        token
            .and_then(|held| held.expires_at)
            .map(|end| self.seconds_until(end))
            .and_then(|left| u64::try_from(left).ok())
            .is_some_and(|left| Duration::from_secs(left) < self.warn_within)
    }

    pub(super) fn shown(&self, form: StatusForm) -> String {
        match form {
            StatusForm::Json => self.json(),
            StatusForm::Table { has_colour } => self.table(has_colour),
        }
    }

    /// One JSON object a line, in the order of the file.
    fn json(&self) -> String {
        let held = |held: &HeldToken| HeldJson {
            fingerprint: held.fingerprint.to_string(),
            expires_at: held.expires_at.map(|end| end.to_string()),
            expires_in: held.expires_at.map(|end| self.seconds_until(end)),
        };
        let object = |(index, status): (usize, &Status)| {
            let (config_file, mode, journals) = match &self.keeper {
                SurveyedStore::File {
                    path,
                    mode,
                    journals,
                } => (Some(path.display().to_string()), *mode, journals.as_slice()),
                SurveyedStore::Store { .. } => (None, None, &[][..]),
            };
            line(&StatusJson {
                profile: &status.profile,
                api: status.api.map(Api::name),
                access_token: status.access_token.as_ref().map(held),
                refresh_token: status.refresh_token.as_ref().map(held),
                can_refresh: status.next.can_work(),
                next: words(&status.next),
                config_file,
                mode: mode.map(|mode| format!("{mode:04o}")),
                journals: journals.iter().map(shown).collect(),
                stored: match &self.keeper {
                    SurveyedStore::Store { address, notes } => {
                        notes.get(index).map(|notes| notes.json(address))
                    }
                    SurveyedStore::File { .. } => None,
                },
            })
        };
        self.profiles.iter().enumerate().map(object).collect()
    }

    /// A table, with colour if it is for a terminal.
    fn table(&self, colour: bool) -> String {
        let paint = |text: String, code: &str| {
            if colour && !code.is_empty() {
                format!("\u{1b}[{code}m{text}\u{1b}[0m")
            } else {
                text
            }
        };
        let mut profiles: Vec<&Status> = self.profiles.iter().collect();
        profiles.sort_by_key(|status| status.next.can_work());
        let mut rows = vec![HEAD.map(|title| (title.to_owned(), BOLD))];
        rows.extend(profiles.into_iter().map(|status| self.row(status)));
        let width = |column: usize| rows.iter().map(|row| row[column].0.width()).max();
        let widths = [0, 1, 2, 3].map(|column| width(column).unwrap_or_default());
        let mut text = String::new();
        for row in rows {
            for (column, (cell, code)) in row.into_iter().enumerate() {
                let padding = widths
                    .get(column)
                    .map_or(0, |width| width - cell.width() + 2);
                text.push_str(&paint(cell, code));
                text.push_str(&" ".repeat(padding));
            }
            text.push('\n');
        }
        text.push_str(&format!("\n{}", printable(&self.keeper.shown())));
        for (line, code) in self.keeper.lines() {
            text.push_str(&paint(line, code));
        }
        text.push('\n');
        text
    }

    fn row(&self, status: &Status) -> [(String, &'static str); 5] {
        let next = if status.next.can_work() { GREEN } else { RED };
        [
            (printable(&status.profile), ""),
            (status.api.map_or("?", Api::name).to_owned(), ""),
            self.cell(status.access_token.as_ref()),
            match self.cell(status.refresh_token.as_ref()) {
                (text, GREEN) if self.ends_soon(status) => (text, YELLOW),
                cell => cell,
            },
            (words(&status.next), next),
        ]
    }

    fn cell(&self, held: Option<&HeldToken>) -> (String, &'static str) {
        let Some(held) = held else {
            return ("none".to_owned(), YELLOW);
        };
        let print = held.fingerprint;
        match held.expires_at.map(|end| self.seconds_until(end)) {
            None => (format!("{print}, end unknown"), YELLOW),
            Some(left) if left <= 0 => (format!("{print}, ended {} ago", span(-left)), RED),
            Some(left) => (format!("{print}, {}", span(left)), GREEN),
        }
    }

    fn seconds_until(&self, end: Timestamp) -> i64 {
        end.as_second().saturating_sub(self.now.as_second())
    }
}

impl SurveyedStore {
    fn shown(&self) -> String {
        match self {
            SurveyedStore::File { path, .. } => path.display().to_string(),
            SurveyedStore::Store { address, .. } => address.clone(),
        }
    }

    /// What is below the table, with its colours.
    fn lines(&self) -> Vec<(String, &'static str)> {
        match self {
            SurveyedStore::File { mode, journals, .. } => {
                let mut lines = Vec::new();
                if let Some(mode) = mode {
                    lines.push((format!(", mode {mode:04o}"), ""));
                    if mode & 0o044 != 0 {
                        lines.push((": other users can read it".to_owned(), RED));
                    }
                }
                let pending = "a pair to be put back by the next run";
                let journals = journals.iter();
                lines
                    .extend(journals.map(|path| (format!("\n{}: {pending}", shown(path)), YELLOW)));
                lines
            }
            SurveyedStore::Store { notes, .. } => {
                let lines = notes.iter().flat_map(LoginNotes::lines);
                lines
                    .map(|line| (format!("\n{}", printable(&line)), YELLOW))
                    .collect()
            }
        }
    }
}

impl LoginNotes {
    /// What a next run would do, with this in mind.
    fn judge(&self, status: &mut Status) {
        if self.is_held {
            let why = "it is on its way from a file: run store import again";
            status.next = NextStep::Fail(why.to_owned());
        } else if self.is_dead && status.next.can_work() {
            status.next = NextStep::Refused;
        }
    }

    fn lines(&self) -> Vec<String> {
        let name = &self.name;
        let mut lines = Vec::new();
        if let Some(RunAndTime { by, at }) = &self.lease {
            lines.push(format!(
                "[{name}]: {by} refreshes it, until {} at most",
                second(*at)
            ));
        }
        if let Some(Refused { at, words }) = &self.refused {
            lines.push(format!("[{name}]: refused at {}: {words}", second(*at)));
            if let Some(RunAndTime { by, at }) = &self.sender {
                lines.push(format!("[{name}]: last sent by {by}, at {}", second(*at)));
            }
        }
        lines
    }

    fn json<'a>(&'a self, store: &'a str) -> StoredJson<'a> {
        let mention = |mention: &'a RunAndTime| MentionJson {
            host: &mention.by,
            time: second(mention.at),
        };
        StoredJson {
            store,
            lease: self.lease.as_ref().map(mention),
            last_sender: self.sender.as_ref().map(mention),
            refused: self.refused.as_ref().map(|refused| RefusedJson {
                time: second(refused.at),
                message: &refused.words,
            }),
        }
    }
}

const HEAD: [&str; 5] = [
    "PROFILE",
    "API",
    "ACCESS TOKEN",
    "REFRESH TOKEN",
    "A NEXT RUN WOULD",
];

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

fn words(next: &NextStep) -> String {
    match next {
        NextStep::Refresh => "refresh".to_owned(),
        NextStep::FetchAndRefresh => "fetch an app token, then refresh".to_owned(),
        NextStep::NoToken => "fail: no refresh token".to_owned(),
        NextStep::Expired => "fail: the refresh token has ended".to_owned(),
        NextStep::Refused => "fail: the server refused the refresh token".to_owned(),
        NextStep::Fail(why) => format!("fail: {}", printable(why)),
    }
}

fn shown(path: impl AsRef<Path>) -> String {
    printable(&path.as_ref().display().to_string())
}

pub(super) fn no_login(keeper: &str) -> Error {
    Error::config(format!("{keeper} has no login")).with_hint(Hint::fixed(
        "a profile is a section with a refresh_token, or a login of the store; feishu-refresh login makes one",
        "profile 是含有 refresh_token 的节，或数据库中的一个登录；可用 feishu-refresh login 创建",
    ))
}
