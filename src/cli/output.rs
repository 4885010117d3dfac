//! What a run prints: the result on stdout, errors with hints and the log on stderr.

use std::ffi::OsString;
use std::io::{self, Write};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::args::Output;
use crate::error::{Error, Hint, Kind, Result};
use crate::refresh::{Options, Outcome};
use crate::text::printable;

/// Begins every line for people: in a log they stand between others.
const PROGRAM: &str = "feishu-refresh";

#[derive(Serialize)]
struct ResultJson<'a> {
    profile: &'a str,
    api: &'a str,
    access_token: &'a str,
    refresh_token: Option<&'a str>,
    expires_at: Option<String>,
    refresh_expires_at: Option<String>,
    scope: Option<&'a str>,
    refreshed: bool,
    config_file: String,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    profile: Option<&'a str>,
    kind: &'a str,
    exit_code: u8,
    code: Option<i64>,
    message: String,
    hint: Option<&'a str>,
    log_id: Option<&'a str>,
}

/// The result, in the form that was asked for, with its line end.
pub(super) fn result(output: Output, options: &Options, outcome: &Outcome) -> String {
    let access_token = outcome.access_token.expose_secret();
    match output {
        Output::Token => format!("{access_token}\n"),
        Output::Json => line(&ResultJson {
            profile: &options.profile,
            api: outcome.api.name(),
            access_token,
            refresh_token: outcome
                .refresh_token
                .as_ref()
                .map(ExposeSecret::expose_secret),
            expires_at: outcome.expires_at.map(|time| time.to_string()),
            refresh_expires_at: outcome.refresh_expires_at.map(|time| time.to_string()),
            scope: outcome.scope.as_deref(),
            refreshed: outcome.refreshed,
            config_file: options.config_file.display().to_string(),
        }),
    }
}

/// One JSON object on one line.
fn line(value: &impl Serialize) -> String {
    // Strings, numbers and booleans always serialise.
    let json = serde_json::to_string(value).unwrap_or_default();
    format!("{json}\n")
}

/// Writes what was asked for to stdout.
///
/// # Errors
/// [`Kind::Unexpected`] if stdout does not take it all; the pair is saved by then.
pub(super) fn print(stdout: &mut dyn Write, text: &str) -> Result<()> {
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| {
        Error::new(Kind::Unexpected, format!("cannot write to stdout: {error}")).with_hint(
            Hint::fixed(
                "a token that was renewed is in the file",
                "已刷新的令牌保存在配置文件中",
            ),
        )
    })
}

/// Tells a person at a terminal what happened.
pub(super) fn note(stderr: &mut dyn Write, options: &Options, outcome: &Outcome) {
    let what = if outcome.refreshed {
        "refreshed"
    } else {
        "another run has refreshed"
    };
    let until = match outcome.expires_at {
        Some(end) => format!(", valid for {}", duration_until(end)),
        None => String::new(),
    };
    let file = options.config_file.display();
    say(
        stderr,
        &format!("{what} [{}] of {file}{until}", options.profile),
    );
}

/// Writes one line in one go, so that runs at once do not tear each other's. A stderr that takes
/// nothing is no reason to fail.
fn say(stderr: &mut dyn Write, line: &str) {
    let _ = stderr.write_all(format!("{PROGRAM}: {}\n", printable(line)).as_bytes());
}

fn duration_until(end: Timestamp) -> String {
    let minutes = end
        .as_second()
        .saturating_sub(Timestamp::now().as_second())
        .max(0)
        / 60;
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours @ 48.., _) => format!("{} days", hours / 24),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// How a failure is told.
pub(super) struct Report {
    json: bool,
    chinese: bool,
}

impl Report {
    pub(super) fn new(env: &dyn Fn(&str) -> Option<OsString>, json: bool) -> Self {
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .filter_map(env)
            .find(|locale| !locale.is_empty())
            .unwrap_or_default();
        Report {
            json,
            chinese: locale.as_encoded_bytes().starts_with(b"zh"),
        }
    }

    /// Writes a failure to stderr, for a person or for a program.
    pub(super) fn failure(&self, stderr: &mut dyn Write, error: &Error, profile: Option<&str>) {
        let hint = error.hint().map(|hint| {
            if self.chinese {
                &hint.chinese
            } else {
                &hint.english
            }
        });
        // Losing the pair would be worse than showing it.
        if let Some(lines) = error.unsaved_lines() {
            let _ = stderr.write_all(lines.expose_secret().as_bytes());
        }
        let text = if self.json {
            line(&ErrorJson {
                error: ErrorFields {
                    profile,
                    kind: error.kind().name(),
                    exit_code: error.kind().exit_code(),
                    code: error.server().and_then(|server| server.code),
                    message: error.to_string(),
                    hint: hint.map(AsRef::as_ref),
                    log_id: error.server().and_then(|server| server.log_id.as_deref()),
                },
            })
        } else {
            let hint = hint
                .map(|hint| format!("hint: {}\n", printable(hint)))
                .unwrap_or_default();
            format!("{PROGRAM}: {}\n{hint}", printable(&error.to_string()))
        };
        let _ = stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush());
    }
}

/// Shows the library's log on stderr. Other crates' logs are left out: they know no secrets.
pub(super) fn log_to_stderr(level: log::LevelFilter) {
    // A second run in one process keeps the first one's logger.
    let _ = log::set_logger(&StderrLog);
    log::set_max_level(level);
}

struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let what = if record.level() <= log::Level::Warn {
                "warning: "
            } else {
                ""
            };
            say(&mut io::stderr(), &format!("{what}{}", record.args()));
        }
    }

    fn flush(&self) {}
}
