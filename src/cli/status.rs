//! `status`: how the profiles of a file stand. Fingerprints stand in for secrets.
//!
//! A table for people, one JSON object a line for programs. Those that need a person come first in
//! the table; the file's order is kept in the JSON.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::output::line;
use crate::error::{Error, Hint, Kind, Result};
use crate::profile::standing::{self, Held, Next, Status};
use crate::protocol::Api;
use crate::refresh::Options;
use crate::store::file::FileStore;
use crate::text::printable;

#[derive(Serialize)]
struct StatusJson<'a> {
    profile: &'a str,
    api: Option<&'a str>,
    access_token: Option<HeldJson>,
    refresh_token: Option<HeldJson>,
    can_refresh: bool,
    next: String,
    config_file: String,
    mode: Option<String>,
    journals: Vec<String>,
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
    profiles: Vec<Status>,
    config_file: PathBuf,
    mode: Option<u32>,
    journals: Vec<PathBuf>,
    now: Timestamp,
}

impl Survey {
    /// Looks at one profile, or at all that the file has.
    ///
    /// # Errors
    /// [`Kind::Config`] if the file cannot be read or understood, or has no profile.
    pub(super) fn of(options: &Options, one: bool) -> Result<Self> {
        let store = FileStore::new(&options.config_file, || {});
        let file = store.path().to_owned();
        let now = Timestamp::now();
        let given = |profile: &str| {
            let mut given = options.given();
            // A token from outside is for one profile alone.
            given.refresh_token = given.refresh_token.filter(|_| profile == options.profile);
            given
        };
        let named = Some(options.profile.as_str()).filter(|_| one);
        let foreseen = store.foreseen(named)?;
        let profiles = foreseen
            .logins
            .into_iter()
            .map(|(name, snapshot)| match snapshot {
                Ok(snapshot) => standing::status(&snapshot, given(&name), now),
                Err(error) => Ok(Status::unreadable(name, &error)),
            });
        let profiles: Vec<Status> = profiles.collect::<Result<_>>()?;
        if profiles.is_empty() {
            let message = format!("{} has no section with a token", file.display());
            return Err(Error::config(message).with_hint(Hint::fixed(
                "a profile is a section with a refresh_token; feishu-refresh login makes one",
                "profile 是含有 refresh_token 的节；可用 feishu-refresh login 创建",
            )));
        }
        Ok(Survey {
            profiles,
            mode: store.mode(),
            journals: foreseen.journals,
            config_file: file,
            now,
        })
    }

    /// An error if one of the profiles cannot be refreshed.
    ///
    /// # Errors
    /// [`Kind::Reauthorize`].
    pub(super) fn verdict(&self) -> Result<()> {
        let stuck = self.profiles.iter().filter(|s| !s.next.can_work());
        let stuck: Vec<_> = stuck.collect();
        if stuck.is_empty() {
            return Ok(());
        }
        let needs_consent = |s: &&Status| matches!(s.next, Next::NoToken | Next::Expired);
        let hint = if stuck.iter().copied().any(|s| needs_consent(&s)) {
            Hint::fixed(
                "have a user consent: feishu-refresh login -p NAME (115: get a new refresh token as its documents say)",
                "请由用户重新授权：feishu-refresh login -p 名称（115：请按其文档重新获取 refresh_token）",
            )
        } else {
            Hint::fixed(
                "mend what a next run would fail for",
                "请修正导致下次运行失败的问题",
            )
        };
        let names: Vec<_> = stuck.iter().map(|s| format!("[{}]", s.profile)).collect();
        let (names, file) = (names.join(", "), self.config_file.display());
        let message = format!("{names} of {file} cannot be refreshed");
        Err(Error::new(Kind::Reauthorize, message).with_hint(hint))
    }

    /// One JSON object a line, in the order of the file.
    pub(super) fn json(&self) -> String {
        let held = |held: &Held| HeldJson {
            fingerprint: held.fingerprint.to_string(),
            expires_at: held.expires_at.map(|end| end.to_string()),
            expires_in: held.expires_at.map(|end| self.seconds_until(end)),
        };
        let object = |status: &Status| {
            line(&StatusJson {
                profile: &status.profile,
                api: status.api.map(Api::name),
                access_token: status.access_token.as_ref().map(held),
                refresh_token: status.refresh_token.as_ref().map(held),
                can_refresh: status.next.can_work(),
                next: words(&status.next),
                config_file: self.config_file.display().to_string(),
                mode: self.mode.map(|mode| format!("{mode:04o}")),
                journals: self.journals.iter().map(shown).collect(),
            })
        };
        self.profiles.iter().map(object).collect()
    }

    /// A table, with colour if it is for a terminal.
    pub(super) fn table(&self, colour: bool) -> String {
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
        text.push_str(&format!("\n{}", shown(&self.config_file)));
        if let Some(mode) = self.mode {
            text.push_str(&format!(", mode {mode:04o}"));
            if mode & 0o044 != 0 {
                text.push_str(&paint(": other users can read it".to_owned(), RED));
            }
        }
        text.push('\n');
        for journal in &self.journals {
            let said = format!("{}: a pair to be put back by the next run", shown(journal));
            text.push_str(&paint(said, YELLOW));
            text.push('\n');
        }
        text
    }

    fn row(&self, status: &Status) -> [(String, &'static str); 5] {
        let next = if status.next.can_work() { GREEN } else { RED };
        [
            (printable(&status.profile), ""),
            (status.api.map_or("?", Api::name).to_owned(), ""),
            self.cell(status.access_token.as_ref()),
            self.cell(status.refresh_token.as_ref()),
            (words(&status.next), next),
        ]
    }

    fn cell(&self, held: Option<&Held>) -> (String, &'static str) {
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

fn words(next: &Next) -> String {
    match next {
        Next::Refresh => "refresh".to_owned(),
        Next::FetchAndRefresh => "fetch an app token, then refresh".to_owned(),
        Next::NoToken => "fail: no refresh token".to_owned(),
        Next::Expired => "fail: the refresh token has ended".to_owned(),
        Next::Fail(why) => format!("fail: {}", printable(why)),
    }
}

/// A time span in its two largest units.
pub(super) fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0 | 1, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, ..) => format!("{days} days"),
    }
}

fn shown(path: impl AsRef<Path>) -> String {
    printable(&path.as_ref().display().to_string())
}
