//! The command line: what can be typed ([`Asked`]), and its translation into the library's own
//! [`Options`], in which flags, environment and defaults have become one.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use secrecy::{ExposeSecret, SecretString};

use super::usage::usage_error;
use super::values::{
    api_parser, duration, rate, retries, scope, seconds, secret, shell_command, timeout, trimmed,
};
use crate::error::{Error, Hint, Kind, Result};
use crate::login::LoginOptions;
use crate::protocol::Api;
use crate::refresh::Options;

/// Both documented limits, 50 requests a second and 1,000 a minute, are kept with one each 60 ms.
const DOCUMENTED_SPACING: Duration = Duration::from_millis(60);

/// A secret longer than this is none; reading stops there.
const LONGEST_SECRET: u64 = 64 << 10;

/// Renews a Feishu (Lark) user access token, saves the rotated pair, prints the new token.
#[derive(Parser)]
#[command(
    name = "feishu-refresh",
    version,
    args_override_self = true,
    max_term_width = 100,
    override_usage = "feishu-refresh [OPTIONS]\n       feishu-refresh login [OPTIONS]\n       feishu-refresh status [OPTIONS]\n       feishu-refresh exec [OPTIONS] -- COMMAND…\n       feishu-refresh completions SHELL",
    disable_help_subcommand = true,
    after_help = "\
Exit codes:
  0  the token on stdout is valid and saved
  1  an unexpected reply or state; stdout not writable
  2  the command line cannot be read
  3  input is missing or wrong; nothing was spent
  4  the server refuses this refresh token or user: feishu-refresh login
  5  temporary: run again later
  6  rotated, but not saved where asked: see the message
  7  rotated and saved, but the --on-refresh command failed

A flag beats its environment variable, which beats the file.
A TOKEN, SECRET or TICKET of - is read from stdin.
app_id, app_secret and base_url are never written to the file: put them there yourself."
)]
#[expect(
    clippy::doc_markdown,
    reason = "--help shows these texts, and would show backticks"
)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub(super) struct Asked {
    #[command(subcommand)]
    task: Option<Task>,

    /// app_access_token [env: FEISHU_APP_ACCESS_TOKEN]
    #[arg(global = true, short = 'a', long, alias = "app_token", value_name = "TOKEN", value_parser = secret)]
    app_token: Option<SecretString>,

    /// refresh_token [env: FEISHU_REFRESH_TOKEN]
    #[arg(global = true, short = 'r', long, aliases = ["refresh-token", "refresh_token"], value_name = "TOKEN", value_parser = secret)]
    refresh: Option<SecretString>,

    /// The INI file [env: FEISHU_CONFIG_FILE] [default: feishu-config.ini]
    #[arg(global = true, short, long, alias = "config_file", value_name = "PATH")]
    config_file: Option<PathBuf>,

    /// The section of the file [env: FEISHU_PROFILE] [default: TOKEN]
    #[arg(global = true, short, long, value_name = "NAME")]
    profile: Option<String>,

    /// Every section that has a refresh_token, side by side
    #[arg(global = true, long)]
    all: bool,

    /// With --all: refreshes a second [default: what the documents allow; 0: no limit]
    #[arg(global = true, long, value_name = "N", value_parser = rate)]
    rate: Option<Duration>,

    /// The token endpoint [env: FEISHU_API] [default: the section's api, else v1]
    #[arg(global = true, long, value_parser = api_parser())]
    api: Option<Api>,

    /// App id: with it and the secret, v1 and oidc fetch their own app_access_token [env: FEISHU_APP_ID]
    #[arg(global = true, long, alias = "app_id", value_name = "ID")]
    app_id: Option<String>,

    /// App secret [env: FEISHU_APP_SECRET]
    #[arg(global = true, long, alias = "app_secret", value_name = "SECRET", value_parser = secret)]
    app_secret: Option<SecretString>,

    /// The ticket of an app from the store [env: FEISHU_APP_TICKET]
    #[arg(global = true, long, alias = "app_ticket", value_name = "TICKET", value_parser = secret)]
    app_ticket: Option<SecretString>,

    /// v2: narrow the new token to these scopes, and offline_access
    #[arg(global = true, long, value_name = "\"A B\"", value_parser = scope)]
    scope: Option<String>,

    /// Lark, the international service, in place of Feishu
    #[arg(global = true, long)]
    lark: bool,

    /// Another host for the token endpoints [env: FEISHU_BASE_URL]
    #[arg(global = true, long, value_name = "URL")]
    base_url: Option<String>,

    /// How long one attempt may take
    #[arg(global = true, long, value_name = "SECONDS", default_value = "30", value_parser = timeout)]
    timeout: Duration,

    /// Further attempts after a temporary failure
    #[arg(global = true, long, value_name = "N", default_value = "3", value_parser = retries)]
    retries: u32,

    /// The longest wait that a rate limit may ask for
    #[arg(global = true, long, value_name = "SECONDS", default_value = "90", value_parser = seconds)]
    max_wait: Duration,

    /// How long to wait for another run on the same file
    #[arg(global = true, long, value_name = "SECONDS", default_value = "180", value_parser = seconds)]
    lock_timeout: Duration,

    /// Further trusted CA certificates, in PEM form
    #[arg(global = true, long, value_name = "PATH")]
    ca_cert: Option<PathBuf>,

    /// Another host for the consent page of login [env: FEISHU_ACCOUNTS_URL]
    #[arg(global = true, long, value_name = "URL")]
    accounts_url: Option<String>,

    /// Do nothing but print the saved token while it stays valid that long (90s, 10m, 1h)
    #[arg(global = true, long, value_name = "DURATION", value_parser = duration)]
    min_ttl: Option<Duration>,

    /// Shell command to run after the save, with the JSON result on its stdin
    #[arg(global = true, long, value_name = "COMMAND", value_parser = shell_command)]
    on_refresh: Option<String>,

    /// What stdout gets: the token alone, a JSON object, a line for a shell, a masked output for GitHub
    /// [default: token; login: nothing]
    #[arg(global = true, short, long, value_enum)]
    output: Option<Output>,

    /// Print only errors
    #[arg(global = true, short, long, overrides_with = "verbose")]
    quiet: bool,

    /// Print requests, statuses, log ids and timings; never a secret
    #[arg(global = true, short, long, overrides_with = "quiet")]
    verbose: bool,
}

/// How a person is asked for consent.
#[derive(Args)]
#[expect(
    clippy::doc_markdown,
    reason = "--help shows these texts, and would show backticks"
)]
pub(super) struct LoginArguments {
    /// Print the link, and read the address that the browser ended on
    #[arg(long)]
    pub(super) paste: bool,

    /// Show a link and a short code for another device (experimental: the vendor has not
    /// documented its endpoint)
    #[arg(long, conflicts_with = "paste")]
    pub(super) device: bool,

    /// Where the browser comes back to, as registered with the app [default: the file's
    /// [LOGIN_CODE] redirect_uri, else http://localhost:8080/callback]
    #[arg(long, value_name = "URI")]
    pub(super) redirect_uri: Option<String>,

    /// How long to wait for the consent
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(super) wait: Duration,
}

/// What to do instead of the main job.
#[derive(Subcommand)]
#[expect(
    clippy::doc_markdown,
    reason = "--help shows these texts, and would show backticks"
)]
pub(super) enum Task {
    /// Refresh, and print the token.
    #[command(skip)]
    Refresh,
    /// Get the first pair from nothing, through the user's consent in a browser
    ///
    /// It needs app_id and app_secret, and the redirect URI among the app's redirect URLs. The pair is
    /// one of v2, and api = v2 is written to the section. --scope asks for more than offline_access.
    Login(LoginArguments),
    /// What the file holds and until when; sends nothing
    Status,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Run a command with a valid access token in its environment
    ///
    /// The token is in FEISHU_USER_ACCESS_TOKEN (115: OPEN115_ACCESS_TOKEN). It is refreshed first if
    /// less than five minutes are left, or what --min-ttl says. The exit code is the command's.
    Exec {
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

/// How long a token must last that a command starts with, unless `--min-ttl` says otherwise.
const EXEC_MIN_TTL: Duration = Duration::from_secs(300);

/// What stdout gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Token,
    Json,
    Env,
    Github,
}

/// What a command line comes to.
pub(super) enum Parsed {
    /// A run.
    Run(Box<Asked>),
    /// A text that was asked for, like `--help`.
    Text(String),
}

/// Reads a command line.
///
/// # Errors
/// [`Kind::Usage`], in words that repeat no value.
pub(super) fn parse(arguments: &[OsString]) -> Result<Parsed> {
    match Asked::try_parse_from(arguments) {
        Ok(asked) => Ok(Parsed::Run(Box::new(asked))),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(Parsed::Text(error.to_string()))
        }
        Err(error) => Err(usage_error(&error, arguments)),
    }
}

/// The completion script for a shell.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Asked::command(), "feishu-refresh", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Looks up an environment variable; an empty one counts as unset.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn text_from(env: Env<'_>, name: &str) -> Result<Option<String>> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let text = value.into_string();
    text.map(Some)
        .map_err(|_| Error::config(format!("{name} is not UTF-8 text")))
}

impl Asked {
    /// What stdout gets.
    pub(super) fn output(&self) -> Output {
        self.output.unwrap_or(Output::Token)
    }

    /// What stdout gets, if it was said.
    pub(super) fn output_given(&self) -> Option<Output> {
        self.output
    }

    /// What a login needs beside the options of a refresh.
    pub(super) fn login_options(&self, env: Env<'_>) -> Result<LoginOptions> {
        Ok(LoginOptions {
            redirect_uri: match self.task() {
                Task::Login(login) => login.redirect_uri.clone(),
                _ => None,
            },
            accounts_url: match &self.accounts_url {
                Some(url) => Some(url.clone()),
                None if self.lark => None,
                None => text_from(env, "FEISHU_ACCOUNTS_URL")?,
            },
        })
    }

    /// What to do.
    pub(super) fn task(&self) -> &Task {
        self.task.as_ref().unwrap_or(&Task::Refresh)
    }

    /// Whether one profile was named.
    pub(super) fn names_profile(&self, env: Env<'_>) -> bool {
        self.profile.is_some() || env("FEISHU_PROFILE").is_some_and(|name| !name.is_empty())
    }

    /// The command to run after the save.
    pub(super) fn on_refresh(&self) -> Option<&str> {
        self.on_refresh.as_deref()
    }

    /// Whether only errors are wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// What is told along the way.
    pub(super) fn verbosity(&self) -> log::LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => log::LevelFilter::Off,
            (_, true) => log::LevelFilter::Info,
            _ => log::LevelFilter::Warn,
        }
    }

    /// Whether all profiles are meant.
    pub(super) fn is_for_all(&self) -> bool {
        self.all
    }

    /// The time between two requests to one app.
    pub(super) fn spacing(&self) -> Duration {
        self.rate.unwrap_or(DOCUMENTED_SPACING)
    }

    /// Refuses what does not go together.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub(super) fn check(&self) -> Result<()> {
        if self.all {
            self.check_all()?;
        }
        let message = match (self.task(), self.output) {
            (Task::Exec { .. }, Some(_)) => "exec has no output of its own",
            (Task::Status, Some(Output::Env | Output::Github)) => "status can give json alone",
            (Task::Login(_), _) if !matches!(self.api, None | Some(Api::V2)) => {
                let hint = Hint::fixed("leave --api away", "请去掉 --api");
                let message = "login gives a pair of v2 alone";
                return Err(Error::new(Kind::Usage, message).with_hint(hint));
            }
            _ => return Ok(()),
        };
        let hint = Hint::fixed("leave -o away", "请去掉 -o");
        Err(Error::new(Kind::Usage, message).with_hint(hint))
    }

    /// Refuses what does not go with all profiles.
    fn check_all(&self) -> Result<()> {
        let (message, english, chinese) = match (self.task(), self.output) {
            (Task::Login(_) | Task::Exec { .. }, _) => (
                "login and exec are for one profile",
                "name it with -p",
                "请用 -p 指定",
            ),
            _ if self.profile.is_some() || self.refresh.is_some() || self.api.is_some() => (
                "--all does not go with -p, -r or --api, which are for one profile",
                "leave one of them away",
                "请去掉其中之一",
            ),
            (Task::Refresh, Some(Output::Token | Output::Env | Output::Github)) => (
                "--all prints no token; it can give json",
                "leave -o away, or give -o json",
                "请去掉 -o，或使用 -o json",
            ),
            _ => return Ok(()),
        };
        Err(Error::new(Kind::Usage, message).with_hint(Hint::fixed(english, chinese)))
    }

    /// What the library is asked to do.
    ///
    /// # Errors
    /// [`Kind::Config`] if an environment variable or stdin is unusable, [`Kind::Usage`] if two
    /// secrets are to come from stdin.
    pub(super) fn options(&self, env: Env<'_>, stdin: &mut dyn Read) -> Result<Options> {
        let secret_from = |flag: &Option<SecretString>, name| match flag {
            Some(token) => Ok(Some(token.clone())),
            None => Ok::<_, Error>(text_from(env, name)?.map(|text| trimmed(&text))),
        };
        let mut app_access_token = secret_from(&self.app_token, "FEISHU_APP_ACCESS_TOKEN")?;
        let mut refresh_token = if self.all {
            // It is one profile's.
            None
        } else {
            secret_from(&self.refresh, "FEISHU_REFRESH_TOKEN")?
        };
        let mut app_secret = secret_from(&self.app_secret, "FEISHU_APP_SECRET")?;
        let mut app_ticket = secret_from(&self.app_ticket, "FEISHU_APP_TICKET")?;
        let secrets = [
            &mut app_access_token,
            &mut refresh_token,
            &mut app_secret,
            &mut app_ticket,
        ];
        let pastes = matches!(self.task(), Task::Login(login) if login.paste);
        read_secret(secrets, stdin, pastes)?;
        let defaults = Options::default();
        let file = env("FEISHU_CONFIG_FILE")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Ok(Options {
            config_file: self
                .config_file
                .clone()
                .or(file)
                .unwrap_or(defaults.config_file),
            profile: match &self.profile {
                Some(name) => name.clone(),
                None => text_from(env, "FEISHU_PROFILE")?.unwrap_or(defaults.profile),
            },
            app_access_token,
            refresh_token,
            api: match self.api {
                Some(api) => Some(api),
                // Each profile has its own.
                None if self.all => None,
                None => text_from(env, "FEISHU_API")?
                    .map(|name| api_from_env(&name))
                    .transpose()?,
            },
            app_id: match &self.app_id {
                Some(id) => Some(id.trim().to_owned()),
                None => text_from(env, "FEISHU_APP_ID")?.map(|id| id.trim().to_owned()),
            },
            app_secret,
            app_ticket,
            scope: self.scope.clone(),
            lark: self.lark,
            base_url: match &self.base_url {
                Some(url) => Some(url.clone()),
                // A flag beats the environment, also where it says the same in another way.
                None if self.lark => None,
                None => text_from(env, "FEISHU_BASE_URL")?,
            },
            max_wait: self.max_wait,
            min_ttl: match self.task() {
                Task::Refresh | Task::Status | Task::Login(_) | Task::Completions { .. } => {
                    self.min_ttl
                }
                Task::Exec { .. } => Some(self.min_ttl.unwrap_or(EXEC_MIN_TTL)),
            },
            timeout: self.timeout,
            retries: self.retries,
            lock_timeout: self.lock_timeout,
            ca_cert: self.ca_cert.clone(),
        })
    }
}

fn api_from_env(name: &str) -> Result<Api> {
    let hint = Hint::naming(
        format!("FEISHU_API can be: {}", Api::names()),
        format!("FEISHU_API 可取值：{}", Api::names()),
    );
    let unknown = || Error::config("FEISHU_API names no token endpoint").with_hint(hint);
    Api::named(name).ok_or_else(unknown)
}

/// Replaces the one secret that was given as `-` by what stdin holds, unless that is for something
/// else.
fn read_secret<const N: usize>(
    secrets: [&mut Option<SecretString>; N],
    stdin: &mut dyn Read,
    is_taken: bool,
) -> Result<()> {
    let is_dash = |secret: &SecretString| secret.expose_secret() == "-";
    let mut from_stdin = secrets
        .into_iter()
        .filter(|secret| secret.as_ref().is_some_and(is_dash));
    let Some(secret) = from_stdin.next() else {
        return Ok(());
    };
    if is_taken {
        let message = "with --paste, stdin is for the address, not for a secret";
        let hint = Hint::fixed(
            "give the secret by its environment variable, or in the file",
            "请通过环境变量或配置文件提供该密钥",
        );
        return Err(Error::new(Kind::Usage, message).with_hint(hint));
    }
    if from_stdin.next().is_some() {
        return Err(Error::new(
            Kind::Usage,
            "only one secret can be read from stdin",
        ));
    }
    let mut text = String::new();
    let read = stdin.take(LONGEST_SECRET + 1).read_to_string(&mut text);
    read.map_err(|error| Error::config(format!("cannot read the secret from stdin: {error}")))?;
    if text.len() as u64 > LONGEST_SECRET {
        return Err(Error::config("stdin holds more than any secret"));
    }
    let text = trimmed(&text);
    if text.expose_secret().is_empty() {
        return Err(
            Error::config("stdin was empty, where a secret was to come from").with_hint(
                Hint::fixed(
                    "the command before the pipe may have failed",
                    "管道前的命令可能执行失败",
                ),
            ),
        );
    }
    *secret = Some(text);
    Ok(())
}
