//! What a run prints: the result on stdout, errors with hints and the log on stderr.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::args::Output;
use super::repeated::Repeated;
use crate::error::{Error, Hint, Kind, Result};
use crate::platform::files;
use crate::profile::key;
use crate::protocol::{Api, OFFLINE_ACCESS};
use crate::refresh::{Options, Outcome};
use crate::text::{printable, quoted, span};
use crate::token::Tokens;

/// Begins every line for people: in a log there are others around it.
const PROGRAM: &str = "feishu-refresh";

#[derive(Serialize)]
struct ResultJson<'a> {
    profile: &'a str,
    api: &'a str,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_at: Option<String>,
    refresh_expires_at: Option<String>,
    scope: Option<&'a str>,
    refreshed: bool,
    config_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
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
    hint: Option<String>,
    log_id: Option<&'a str>,
}

/// The result as one JSON object, with its line end.
pub(super) fn json(
    options: &Options,
    profile: &str,
    api: Api,
    tokens: &Tokens,
    refreshed: bool,
) -> String {
    let shown =
        |token: &'_ Option<SecretString>| token.as_ref().map(|t| t.expose_secret().to_owned());
    line(&ResultJson {
        profile,
        api: api.name(),
        access_token: shown(&tokens.access_token),
        refresh_token: shown(&tokens.refresh_token),
        expires_at: tokens.access_expires_at.map(|time| time.to_string()),
        refresh_expires_at: tokens.refresh_expires_at.map(|time| time.to_string()),
        scope: tokens.scope.as_deref(),
        refreshed,
        config_file: options.store.is_none().then(|| options.keeper()),
        store: options.store.is_some().then(|| options.keeper()),
    })
}

/// An outcome as one JSON object, with its line end.
pub(super) fn outcome_json(options: &Options, profile: &str, outcome: &Outcome) -> String {
    let tokens = Tokens {
        access_token: Some(outcome.access_token.clone()),
        access_expires_at: outcome.expires_at,
        scope: outcome.scope.clone(),
        refresh_token: outcome.refresh_token.clone(),
        refresh_expires_at: outcome.refresh_expires_at,
    };
    json(options, profile, outcome.api, &tokens, outcome.refreshed)
}

/// The line that has GitHub's runner show stars in a secret's place from here on.
pub(super) fn masked(secret: &SecretString) -> String {
    format!(
        "::add-mask::{}\n",
        secret.expose_secret().replace('%', "%25")
    )
}

/// The environment variable that an access token goes by.
pub(super) fn variable(api: Api) -> &'static str {
    match api {
        Api::Open115 => "OPEN115_ACCESS_TOKEN",
        _ => "FEISHU_USER_ACCESS_TOKEN",
    }
}

/// Where the result goes, made ready before anything is sent.
pub(super) enum Sink {
    Token,
    Json,
    Env,
    Github(GithubOutput),
}

impl Sink {
    /// Makes sure that the result can be taken.
    ///
    /// # Errors
    /// [`Kind::Config`] if `$GITHUB_OUTPUT` is missing or cannot be written.
    pub(super) fn open(output: Output, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        Ok(match output {
            Output::Token => Sink::Token,
            Output::Json => Sink::Json,
            Output::Env => Sink::Env,
            Output::Github => {
                let path = env("GITHUB_OUTPUT").filter(|path| !path.is_empty());
                let path = path.ok_or_else(|| {
                    Error::config("GITHUB_OUTPUT is not set").with_hint(Hint::fixed(
                        "-o github is for a step of GitHub Actions, whose runner sets it",
                        "-o github 仅用于 GitHub Actions 的步骤，由其 runner 设置该变量",
                    ))
                })?;
                let path = Path::new(&path);
                let output = GithubOutput::open(path);
                Sink::Github(output.map_err(|error| GithubOutput::refused(path, error))?)
            }
        })
    }

    /// Writes the result.
    ///
    /// # Errors
    /// [`Kind::Unexpected`] if it is not taken; the pair is saved by then.
    pub(super) fn print(
        mut self,
        stdout: &mut dyn Write,
        options: &Options,
        outcome: &Outcome,
    ) -> Result<()> {
        let token = outcome.access_token.expose_secret();
        let text = match &self {
            Sink::Token => format!("{token}\n"),
            Sink::Json => outcome_json(options, &options.profile, outcome),
            Sink::Env => {
                format!("export {}={}\n", variable(outcome.api), quoted(token))
            }
            Sink::Github(_) => masked(&outcome.access_token),
        };
        print(stdout, &text)?;
        if let Sink::Github(output) = &mut self {
            let written = output.append(&format!("user_access_token={token}\n"));
            written.map_err(|error| not_taken("GITHUB_OUTPUT", &error))?;
        }
        Ok(())
    }
}

/// The file that GitHub's runner reads outputs from.
pub(super) struct GithubOutput {
    path: PathBuf,
    file: File,
}

impl GithubOutput {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(GithubOutput {
            path: path.to_owned(),
            file: files::open_to_append(path)?,
        })
    }

    fn refused(path: &Path, error: io::Error) -> Error {
        let is_read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
        let what = "GITHUB_OUTPUT cannot be written:";
        let error = Error::file(what, path, error);
        if !is_read_only {
            return error;
        }
        let path = path.display();
        error.with_hint(Hint::naming(
            format!("mount {path} writable, or let GITHUB_OUTPUT name a file elsewhere"),
            format!("请以可写方式挂载 {path}，或让 GITHUB_OUTPUT 指向其他位置的文件"),
        ))
    }

    /// Appends a line; one that another program left open is ended first.
    fn append(&mut self, line: &str) -> io::Result<()> {
        let found = self.file.metadata()?;
        if found.is_file() && found.len() > 0 {
            let mut last = [b'\n'];
            let read = File::open(&self.path)
                .and_then(|file| files::read_at(&file, &mut last, found.len() - 1));
            if read.is_ok() && last != [b'\n'] {
                self.file.write_all(b"\n")?;
            }
        }
        self.file.write_all(line.as_bytes())
    }
}

/// One JSON object on one line.
pub(super) fn line(value: &impl Serialize) -> String {
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
    written.map_err(|error| not_taken("stdout", &error))
}

fn not_taken(sink: &str, error: &io::Error) -> Error {
    let message = format!("cannot write to {sink}: {error}");
    Error::new(Kind::Unexpected, message).with_hint(Hint::fixed(
        "the output is incomplete: check where it goes; no token was lost",
        "输出不完整：请检查输出位置；没有丢失任何令牌",
    ))
}

/// Tells a person at a terminal what happened.
pub(super) fn note(stderr: &mut dyn Write, options: &Options, outcome: &Outcome) {
    let what = match (outcome.refreshed, options.min_ttl) {
        (true, _) => "refreshed",
        (false, Some(_)) => "still valid, nothing to do:",
        (false, None) => "refreshed by another run:",
    };
    let until = match outcome.expires_at {
        Some(end) => {
            let left = end.as_second().saturating_sub(Timestamp::now().as_second());
            format!(", valid for {}", span(left.max(0)))
        }
        None => String::new(),
    };
    let keeper = options.keeper();
    say(
        stderr,
        &format!("{what} [{}] of {keeper}{until}", options.profile),
    );
}

/// Tells a person that a login is saved.
pub(super) fn note_login(
    stderr: &mut dyn Write,
    options: &Options,
    outcome: &Outcome,
    written: &[&str],
    report: &Report,
) {
    let until = match outcome.refresh_expires_at {
        Some(end) => {
            let left = end.as_second().saturating_sub(Timestamp::now().as_second());
            format!(", which expires in {} without a refresh", span(left.max(0)))
        }
        None => String::new(),
    };
    let keeper = options.keeper();
    say(
        stderr,
        &format!(
            "logged in: [{}] of {keeper} has a {} token pair{until}",
            options.profile,
            outcome.api.name()
        ),
    );
    if !written.is_empty() {
        let has_half = written.contains(&key::APP_ID)
            && !written.contains(&key::APP_SECRET)
            && options.app_secret.is_some();
        let elsewhere = if has_half {
            "; the app secret is not: the next run needs it, too"
        } else {
            ""
        };
        let written = written.join(", ");
        say(stderr, &format!("saved with it: {written}{elsewhere}"));
    }
    let Some(scope) = outcome.scope.as_deref() else {
        return;
    };
    say(stderr, &format!("granted: {scope}"));
    if matches!(scope.trim(), "" | OFFLINE_ACCESS) {
        report.hint(stderr, &MORE_SCOPES);
    }
}

const MORE_SCOPES: Hint = Hint::fixed(
    "with offline_access only, the token opens almost no API; name the scopes that it is to have with --scope: feishu-refresh login --scope \"A B\"",
    "仅有 offline_access 时，几乎不能调用任何 API；请用 --scope 指定所需权限：feishu-refresh login --scope \"A B\"",
);

/// Writes one line for a person.
pub(super) fn say(stderr: &mut dyn Write, line: &str) {
    write(stderr, &format!("{PROGRAM}: {}\n", printable(line)));
}

/// How a failure is told.
pub(super) struct Report {
    json: bool,
    chinese: bool,
    /// What hints repeat of the command line.
    repeated: RefCell<Repeated>,
}

/// What hints tell a person to type.
const LOGIN: &str = "feishu-refresh login";
const ALL: &str = "feishu-refresh --all";
const STORE: [&str; 2] = ["feishu-refresh store init", "feishu-refresh store import"];

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
            repeated: RefCell::default(),
        }
    }

    /// From now on, hints repeat this.
    pub(super) fn is_about(&self, repeated: Repeated) {
        self.repeated.replace(repeated);
    }

    /// Writes a failure to stderr, for a person or for a program.
    pub(super) fn failure(&self, stderr: &mut dyn Write, error: &Error, profile: Option<&str>) {
        unsaved(stderr, error);
        if self.json {
            return self.object(stderr, error, profile);
        }
        let hint = self.words_of(error);
        let hint = hint.map(|hint| format!("hint: {}\n", printable(&hint)));
        let hint = hint.unwrap_or_default();
        let text = format!("{PROGRAM}: {}\n{hint}", printable(&error.to_string()));
        write(stderr, &text);
    }

    /// Writes a failure as one JSON object.
    pub(super) fn object(&self, stderr: &mut dyn Write, error: &Error, profile: Option<&str>) {
        let text = line(&ErrorJson {
            error: ErrorFields {
                profile,
                kind: error.kind().name(),
                exit_code: error.kind().exit_code(),
                code: error.server().and_then(|server| server.code),
                message: error.to_string(),
                hint: self.words_of(error),
                log_id: error.server().and_then(|server| server.log_id.as_deref()),
            },
        });
        write(stderr, &text);
    }

    /// Writes a hint without a failure.
    pub(super) fn hint(&self, stderr: &mut dyn Write, hint: &Hint) {
        let words = self.words(hint, true);
        write(stderr, &format!("hint: {}\n", printable(&words)));
    }

    fn words_of(&self, error: &Error) -> Option<String> {
        // Where the token was spent before, there is another disk: this one's path means nothing there.
        let names_file = !self.repeated.borrow().is_fresh || error.kind() != Kind::Reauthorize;
        error.hint().map(|hint| self.words(hint, names_file))
    }

    fn words(&self, hint: &Hint, names_file: bool) -> String {
        let words = if self.chinese {
            &hint.chinese
        } else {
            &hint.english
        };
        let repeated = self.repeated.borrow();
        let file = Some(repeated.file.as_str()).filter(|_| names_file);
        let login = format!("{LOGIN}{}{}", file.unwrap_or_default(), repeated.login);
        let words = words.replace(LOGIN, &login);
        let all = format!("{ALL}{}{}", file.unwrap_or_default(), repeated.all);
        let words = words.replace(ALL, &all);
        STORE.iter().fold(words, |words, command| {
            let whole = format!("{command}{}", repeated.store);
            words.replace(command, &whole)
        })
    }
}

/// Writes the pair that nothing else holds, if the error has one: losing it would be worse than
/// showing it.
pub(super) fn unsaved(stderr: &mut dyn Write, error: &Error) {
    if let Some(lines) = error.unsaved_lines() {
        let _ = stderr.write_all(lines.expose_secret().as_bytes());
    }
}

/// Writes in one go, so that runs at once do not tear each other's lines. A stderr that takes
/// nothing is no reason to fail.
fn write(stderr: &mut dyn Write, text: &str) {
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}
