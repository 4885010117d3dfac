//! What a command line comes to: flags, environment and defaults become the library's own
//! [`Options`], and what does not go together is refused.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::args::{Cli, Output, StoreTask, Task};
use super::console::Console;
use super::output::say;
use super::values::trimmed;
use crate::error::{Error, Hint, Kind, Result};
use crate::login::LoginOptions;
use crate::platform::files;
use crate::profile::key;
use crate::protocol::Api;
use crate::refresh::Options;
use crate::refresh::pace::DOCUMENTED_SPACING;
use crate::store::database::{Database, KEY_PREFIX};

/// How long a token must be valid that a command starts with, unless `--min-ttl` says otherwise.
const EXEC_MIN_TTL: Duration = Duration::from_secs(300);

/// No secret is longer: reading stops there.
const LONGEST_SECRET: u64 = 64 << 10;

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

impl Cli {
    /// What stdout gets.
    pub(super) fn output(&self) -> Output {
        self.output.output.unwrap_or(Output::Token)
    }

    /// What stdout gets, if it was said.
    pub(super) fn output_given(&self) -> Option<Output> {
        self.output.output
    }

    /// What a login needs beside the options of a refresh.
    pub(super) fn login_options(&self, options: &Options) -> LoginOptions {
        LoginOptions {
            redirect_uri: match self.task() {
                Task::Login(login) => login.redirect_uri.clone(),
                _ => None,
            },
            settings: self.settings(options),
        }
    }

    /// What came by flag, and a login is to keep: the next run must find it without.
    fn settings(&self, options: &Options) -> Vec<&'static str> {
        if options.store.is_some() {
            // A store has a place for all of it, wherever it came from.
            return Vec::new();
        }
        let (tokens, server) = (&self.tokens, &self.server);
        let flags = [
            (key::APP_ID, tokens.app_id.is_some()),
            (key::APP_SECRET, tokens.app_secret.is_some()),
            (key::BASE_URL, server.base_url.is_some() || server.lark),
            (
                key::ACCOUNTS_URL,
                server.accounts_url.is_some() || server.lark,
            ),
        ];
        let given = flags.into_iter().filter(|(_, is_given)| *is_given);
        given.map(|(key, _)| key).collect()
    }

    /// The store in place of the file, if one is named.
    ///
    /// # Errors
    /// [`Kind::Config`] if the key cannot be read.
    fn store(&self, env: Env<'_>) -> Result<Option<Database>> {
        let address = match &self.file.store {
            Some(address) => Some(address.clone()),
            // A flag beats the environment.
            None if self.file.config_file.is_some() && !self.is_import() => None,
            None => text_from(env, "FEISHU_STORE")?.map(|text| trimmed(&text)),
        };
        let Some(address) = address else {
            return Ok(None);
        };
        let path = |name| env(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let key = match (&self.file.store_key_file, self.task()) {
            // It is about to be made, or seals nothing yet.
            (
                _,
                Task::Store {
                    task: StoreTask::Key | StoreTask::Init { .. },
                },
            ) => SecretString::default(),
            (Some(file), _) => read_key(file)?,
            (None, _) => match text_from(env, "FEISHU_STORE_KEY")? {
                Some(key) => key.into(),
                None => path("FEISHU_STORE_KEY_FILE")
                    .map(|file| read_key(&file))
                    .transpose()?
                    .unwrap_or_default(),
            },
        };
        Ok(Some(Database::new(address, key)))
    }

    /// What to do.
    pub(super) fn task(&self) -> &Task {
        self.task.as_ref().unwrap_or(&Task::Refresh)
    }

    /// Whether one profile was named.
    pub(super) fn names_profile(&self, env: Env<'_>) -> bool {
        self.file.profile.is_some() || env("FEISHU_PROFILE").is_some_and(|name| !name.is_empty())
    }

    /// The command to run after the save.
    pub(super) fn on_refresh(&self) -> Option<&str> {
        self.refresh.on_refresh.as_deref()
    }

    /// Whether only errors are wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.output.quiet
    }

    /// What is told along the way.
    pub(super) fn verbosity(&self) -> log::LevelFilter {
        match (self.output.quiet, self.output.verbose) {
            (true, _) => log::LevelFilter::Off,
            (_, true) => log::LevelFilter::Info,
            _ => log::LevelFilter::Warn,
        }
    }

    /// Whether all profiles are meant.
    pub(super) fn is_for_all(&self) -> bool {
        self.file.all
    }

    /// Whether logins are to move from a file to a store.
    fn is_import(&self) -> bool {
        let import = |task: &StoreTask| matches!(task, StoreTask::Import { .. });
        matches!(self.task(), Task::Store { task } if import(task))
    }

    /// The time between two requests to one app.
    pub(super) fn spacing(&self) -> Duration {
        self.limits.rate.unwrap_or(DOCUMENTED_SPACING)
    }

    /// How long a refresh token must be valid to be left out.
    pub(super) fn keep_alive(&self) -> Option<Duration> {
        self.refresh.keep_alive
    }

    /// Refuses what does not go together.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub(super) fn check(&self) -> Result<()> {
        self.check_store()?;
        if self.file.all {
            self.check_all()?;
        }
        let is_fleet = self.file.all && matches!(self.task(), Task::Refresh);
        if self.refresh.keep_alive.is_some() && !is_fleet {
            let message = "--keep-alive is for a refresh of all logins";
            let hint = Hint::fixed(
                "give --all, too, or leave it out",
                "请同时使用 --all，或去掉该选项",
            );
            return Err(Error::new(Kind::Usage, message).with_hint(hint));
        }
        let message = match (self.task(), self.output.output) {
            (Task::Exec { .. }, Some(_)) => "exec has no output of its own",
            (Task::Status { .. }, Some(Output::Env | Output::Github)) => {
                "status can only give json"
            }
            (Task::Login(_), _) if !matches!(self.server.api, None | Some(Api::V2 | Api::V3)) => {
                let hint = Hint::fixed("leave out --api", "请去掉 --api");
                let message = "login gives a v2 or v3 token pair only";
                return Err(Error::new(Kind::Usage, message).with_hint(hint));
            }
            _ => return Ok(()),
        };
        let hint = Hint::fixed("leave out -o", "请去掉 -o");
        Err(Error::new(Kind::Usage, message).with_hint(hint))
    }

    /// Refuses what does not go with a store.
    fn check_store(&self) -> Result<()> {
        let is_for_both = self.is_import();
        if self.file.store.is_none() || self.file.config_file.is_none() || is_for_both {
            return Ok(());
        }
        let message = "--store and -c name two places for one login";
        Err(Error::new(Kind::Usage, message).with_hint(Hint::fixed(
            "leave out one of them; feishu-refresh store import takes both",
            "请去掉其中之一；feishu-refresh store import 可同时使用两者",
        )))
    }

    /// Refuses what does not go with all profiles.
    fn check_all(&self) -> Result<()> {
        let (message, english, chinese) = match (self.task(), self.output.output) {
            (Task::Login(_) | Task::Exec { .. }, _) => (
                "login and exec are for one profile",
                "name it with -p",
                "请用 -p 指定",
            ),
            _ if self.file.profile.is_some()
                || self.tokens.refresh.is_some()
                || self.server.api.is_some() =>
            {
                (
                    "--all does not go with -p, -r or --api, which are for one profile",
                    "leave out one of them",
                    "请去掉其中之一",
                )
            }
            (Task::Refresh, Some(Output::Token | Output::Env | Output::Github)) => (
                "--all prints no token; it can give json",
                "leave out -o, or give -o json",
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
    pub(super) fn options(&self, console: &mut Console<'_>) -> Result<Options> {
        let env = console.env;
        let secret_from = |flag: &Option<SecretString>, name| match flag {
            Some(token) => Ok(Some(token.clone())),
            None => Ok::<_, Error>(text_from(env, name)?.map(|text| trimmed(&text))),
        };
        let address_from = |flag: &Option<String>, name| match flag {
            Some(url) => Ok(Some(url.clone())),
            // A flag beats the environment, also where it says the same in another way.
            None if self.server.lark => Ok(None),
            None => text_from(env, name),
        };
        let mut app_access_token = secret_from(&self.tokens.app_token, "FEISHU_APP_ACCESS_TOKEN")?;
        let mut refresh_token = if self.file.all {
            // It is one profile's.
            None
        } else {
            secret_from(&self.tokens.refresh, "FEISHU_REFRESH_TOKEN")?
        };
        let mut app_secret = secret_from(&self.tokens.app_secret, "FEISHU_APP_SECRET")?;
        let mut app_ticket = secret_from(&self.tokens.app_ticket, "FEISHU_APP_TICKET")?;
        let secrets = [
            &mut app_access_token,
            &mut refresh_token,
            &mut app_secret,
            &mut app_ticket,
        ];
        let pastes = matches!(self.task(), Task::Login(login) if login.paste);
        read_secret(secrets, console, pastes)?;
        let defaults = Options::default();
        let file = env("FEISHU_CONFIG_FILE").filter(|path| !path.is_empty());
        let file = self.file.config_file.clone().or(file.map(PathBuf::from));
        let file = file.unwrap_or(defaults.config_file);
        Ok(Options {
            store: self.store(env)?,
            // Whoever reads of it may be in another folder.
            config_file: std::path::absolute(&file).unwrap_or(file),
            profile: match &self.file.profile {
                Some(name) => name.clone(),
                None => text_from(env, "FEISHU_PROFILE")?.unwrap_or(defaults.profile),
            },
            app_access_token,
            refresh_token,
            api: match self.server.api {
                Some(api) => Some(api),
                // Each profile has its own.
                None if self.file.all => None,
                None => text_from(env, "FEISHU_API")?
                    .map(|name| api_from_env(&name))
                    .transpose()?,
            },
            app_id: match &self.tokens.app_id {
                Some(id) => Some(id.trim().to_owned()),
                None => text_from(env, "FEISHU_APP_ID")?.map(|id| id.trim().to_owned()),
            },
            app_secret,
            app_ticket,
            scope: self.server.scope.clone(),
            lark: self.server.lark,
            base_url: address_from(&self.server.base_url, "FEISHU_BASE_URL")?,
            accounts_url: address_from(&self.server.accounts_url, "FEISHU_ACCOUNTS_URL")?,
            token_url: address_from(&self.server.token_url, "FEISHU_TOKEN_URL")?,
            max_wait: self.limits.max_wait,
            min_ttl: match self.task() {
                Task::Exec { .. } => Some(self.refresh.min_ttl.unwrap_or(EXEC_MIN_TTL)),
                _ => self.refresh.min_ttl,
            },
            timeout: self.limits.timeout,
            retries: self.limits.retries,
            lock_timeout: self.limits.lock_timeout,
            ca_cert: self.server.ca_cert.clone(),
        })
    }
}

/// No key file is longer.
const LONGEST_KEY_FILE: u64 = 64 << 10;

/// Reads the store's keys.
fn read_key(path: &Path) -> Result<SecretString> {
    if path
        .as_os_str()
        .as_encoded_bytes()
        .starts_with(KEY_PREFIX.as_bytes())
    {
        let message = "the store's key was given where the path of its file belongs";
        return Err(Error::config(message).with_hint(Hint::fixed(
            "FEISHU_STORE_KEY takes the key itself",
            "密钥本身请用 FEISHU_STORE_KEY 传入",
        )));
    }
    let unreadable = |error| Error::file("cannot read the store's key:", path, error);
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if let Some(mode) = files::mode_if_readable_by_others(&metadata) {
        let path = path.display();
        log::warn!("{path} can be read by others (mode {mode:04o}): chmod 600 {path}");
    }
    let mut text = String::new();
    let read = file.take(LONGEST_KEY_FILE).read_to_string(&mut text);
    read.map_err(unreadable)?;
    Ok(text.into())
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
    console: &mut Console<'_>,
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
    let mut stdin = (&mut console.stdin).take(LONGEST_SECRET + 1);
    let read = if console.stdin_is_terminal {
        say(console.stderr, "paste the secret, and press Enter:");
        BufReader::new(stdin).read_line(&mut text)
    } else {
        stdin.read_to_string(&mut text)
    };
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
