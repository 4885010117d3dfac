//! What a hint must repeat of a command line, so that the command it names is about the same login.
//!
//! Promise: no secret is repeated (P10). One that was given is asked for again.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::args::{Cli, LimitOptions, LoginArguments, Task};
use super::console::{Console, has};
use crate::platform::programs::quoted;
use crate::protocol::Address;
use crate::refresh::Options;
use crate::text::printable;

/// What commands must be given, each as it is typed.
#[derive(Default)]
pub(super) struct Repeated {
    /// What names the file; empty where it goes without saying.
    pub(super) file: String,
    /// Whether the file means nothing to a login after a refusal: there was none, so the token was spent by a run
    /// on another disk.
    pub(super) is_fresh: bool,
    /// What else `feishu-refresh login` needs.
    pub(super) login: String,
    /// What `feishu-refresh --all` needs beside the file.
    pub(super) all: String,
    /// What any command about the same store needs.
    pub(super) store: String,
}

/// Adds an option to what a person is told to type. What cannot be shown as it is, the person must fill in.
fn add(arguments: &mut String, option: &str, value: &str) {
    let needs_no_quotes = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    if value.bytes().all(needs_no_quotes) {
        arguments.push_str(&format!(" {option}{value}"));
    } else if value == printable(value) && !value.contains(char::REPLACEMENT_CHARACTER) {
        arguments.push_str(&format!(" {option}{}", quoted(value)));
    } else {
        arguments.push_str(&format!(" {option}…"));
    }
}

/// Adds those that have a value.
fn add_given(
    arguments: &mut String,
    options: impl IntoIterator<Item = (&'static str, Option<String>)>,
) {
    for (option, value) in options {
        if let Some(value) = value {
            add(arguments, option, &value);
        }
    }
}

/// An address that is one, so that it holds no secret.
fn without_secret(url: Option<&str>) -> Option<String> {
    let is_sound = |url: &&str| Address::of_service("URL", url).is_ok();
    url.filter(is_sound).map(str::to_owned)
}

/// A path that holds in any folder.
fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    let absolute = absolute.unwrap_or_else(|_| path.to_owned());
    absolute.display().to_string()
}

impl Cli {
    /// What hints repeat of this command line.
    pub(super) fn repeated(&self, options: &Options, console: &Console<'_>) -> Repeated {
        let has_place = options.store.is_some() || options.config_file.exists();
        Repeated {
            file: self.file_argument(options, console),
            is_fresh: !has_place && !matches!(self.task(), Task::Login(_)),
            login: self.login_arguments(options, console),
            all: self.all_arguments(options, console),
            store: self.store_arguments(options, console),
        }
    }

    /// The option that names this run's file.
    fn file_argument(&self, options: &Options, console: &Console<'_>) -> String {
        let mut arguments = String::new();
        let is_named = self.file.config_file.is_some() || has(console.env, "FEISHU_CONFIG_FILE");
        let path = &options.config_file;
        // A person at a terminal is in the right folder; the reader of a cron mail is not.
        let names_it = if path.exists() {
            is_named || !console.stderr_is_terminal
        } else {
            // A login can make it there.
            is_named && path.parent().is_some_and(Path::exists)
        };
        if options.store.is_none() && names_it {
            let file = options.config_file.display().to_string();
            add(&mut arguments, "-c ", &file);
        }
        arguments
    }

    /// What a login must be given to be about the same as this run; after a login, all that it was given.
    fn login_arguments(&self, options: &Options, console: &Console<'_>) -> String {
        let mut arguments = self.store_arguments(options, console);
        if !self.file.all && self.names_profile(console.env) {
            let option = if options.profile.starts_with('-') {
                "--profile="
            } else {
                "-p "
            };
            add(&mut arguments, option, &options.profile);
        }
        // Without a file, nothing else has them.
        let is_first = options.store.is_none() && !options.config_file.exists();
        // It may be the secret, by mistake.
        let app_id = self.tokens.app_id.as_deref();
        let app_id = app_id.filter(|id| id.starts_with("cli_"));
        let app_id = app_id.or(Some("APP_ID").filter(|_| is_first && options.app_id.is_none()));
        let pastes = matches!(self.task(), Task::Login(login) if login.paste);
        let lacks_secret = is_first && options.app_secret.is_none();
        let asks_secret = self.tokens.app_secret.is_some() || lacks_secret;
        // With --paste, stdin is for the address.
        let secret = if pastes { "APP_SECRET" } else { "-" };
        let secret = Some(secret).filter(|_| asks_secret);
        let app = [
            ("--app-id ", app_id.map(str::to_owned)),
            ("--app-secret ", secret.map(str::to_owned)),
        ];
        let more = match self.task() {
            Task::Login(login) => self.consent_arguments(login),
            _ => Vec::new(),
        };
        let options = app.into_iter().chain(self.host_arguments()).chain(more);
        add_given(&mut arguments, options);
        arguments
    }

    /// What a refresh of all logins must be given to send their tokens where this run would.
    fn all_arguments(&self, options: &Options, console: &Console<'_>) -> String {
        let mut arguments = self.store_arguments(options, console);
        let token_url = without_secret(self.server.token_url.as_deref());
        let hosts = self.host_arguments();
        add_given(
            &mut arguments,
            hosts.into_iter().chain([("--token-url ", token_url)]),
        );
        arguments
    }

    /// Which hosts were named.
    fn host_arguments(&self) -> [(&'static str, Option<String>); 4] {
        let server = &self.server;
        let lark = server.lark && server.base_url.is_none();
        [
            ("--lark", lark.then(String::new)),
            ("--base-url ", without_secret(server.base_url.as_deref())),
            (
                "--accounts-url ",
                without_secret(server.accounts_url.as_deref()),
            ),
            (
                "--ca-cert ",
                server.ca_cert.as_ref().map(|path| absolute(path)),
            ),
        ]
    }

    /// What else a login was given. Not --on-refresh: a command can hold a secret.
    fn consent_arguments(&self, login: &LoginArguments) -> Vec<(&'static str, Option<String>)> {
        let flag = |is_given: bool| is_given.then(String::new);
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        let limits = LimitOptions::default();
        let limit = |time: Duration, default: Duration| (time != default).then(|| seconds(time));
        let LimitOptions {
            timeout,
            retries,
            max_wait,
            lock_timeout,
            ..
        } = self.limits;
        let output = self.output.output.and_then(|form| form.to_possible_value());
        vec![
            ("--scope ", self.server.scope.clone()),
            ("--api ", self.server.api.map(|api| api.name().to_owned())),
            (
                "--redirect-uri ",
                without_secret(login.redirect_uri.as_deref()),
            ),
            ("--paste", flag(login.paste)),
            ("--device", flag(login.device)),
            ("--wait ", login.wait.map(seconds)),
            ("--timeout ", limit(timeout, limits.timeout)),
            ("--lock-timeout ", limit(lock_timeout, limits.lock_timeout)),
            (
                "--retries ",
                (retries != limits.retries).then(|| retries.to_string()),
            ),
            ("--max-wait ", limit(max_wait, limits.max_wait)),
            ("-o ", output.map(|form| form.get_name().to_owned())),
            ("-q", flag(self.output.quiet)),
            ("-v", flag(self.output.verbose)),
        ]
    }

    /// What any command must be given to be about the same store.
    fn store_arguments(&self, options: &Options, console: &Console<'_>) -> String {
        let mut arguments = String::new();
        if let Some(store) = &options.store
            && (self.file.store.is_some() || !console.stderr_is_terminal)
        {
            add(&mut arguments, "--store ", &store.shown());
        }
        if let Some(key) = &self.file.store_key_file {
            add(&mut arguments, "--store-key-file ", &absolute(key));
        }
        arguments
    }
}
