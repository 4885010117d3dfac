//! The command line: what can be typed ([`Cli`]). `parse.rs` reads it, and what it
//! comes to is in `options.rs`.
//!
//! `-h` is one screen of 80 × 40 with what most runs need; `--help` tells all. All options are taken
//! everywhere, so that one set of them serves for all commands.
#![expect(
    clippy::doc_markdown,
    reason = "--help shows these texts, and would show backticks"
)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use secrecy::SecretString;

use super::values::{
    api_parser, duration, rate, retries, scope, secret, shell_command, timeout, variable,
};
use crate::protocol::Api;
use crate::refresh::Options;

/// Renews a Feishu (Lark) user access token, saves the token pair, prints the token
#[derive(Parser)]
#[command(
    name = "feishu-refresh",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    max_term_width = 100,
    after_long_help = "\
Exit codes:
  0  the token on stdout is valid and saved
  1  an unexpected reply or state; stdout not writable
  2  the command line cannot be read
  3  input is missing or wrong; nothing was spent
  4  the server refuses this refresh token or user: feishu-refresh login
  5  temporary: run again later
  6  rotated, but not saved where cli: see the message
  7  rotated and saved, but the --on-refresh command failed

A flag beats its environment variable, which beats the file.
A TOKEN, SECRET or TICKET of - is read from stdin.
A DURATION is 90, 90s, 10m, 1h or 2d."
)]
pub(super) struct Cli {
    #[arg(skip)]
    pub(super) task: Option<Task>,
    #[command(flatten)]
    pub(super) tokens: TokenOptions,
    #[command(flatten)]
    pub(super) file: FileOptions,
    #[command(flatten)]
    pub(super) server: ServerOptions,
    #[command(flatten)]
    pub(super) refresh: RefreshOptions,
    #[command(flatten)]
    pub(super) limits: LimitOptions,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// What to do instead of the main job.
#[derive(Subcommand)]
pub(super) enum Task {
    /// Refresh, and print the token.
    #[command(skip)]
    Refresh,
    /// Get the first token pair, by the user's consent in a browser
    ///
    /// It needs app_id and app_secret, and the redirect URI among the app's redirect URLs. The token pair is
    /// a v3 one at Feishu's own host, else a v2 one, and that api is written to the section. So are the app's id and
    /// secret and the hosts, if they come by flag.
    Login(LoginArguments),
    /// Show what the file holds and until when; sends nothing
    Status {
        /// End with code 4, too, where a refresh token ends within this time
        ///
        /// A token whose end is not known is not among them.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        warn_within: Option<Duration>,
    },
    /// Run a command with a valid access token in its environment
    ///
    /// The token is in FEISHU_USER_ACCESS_TOKEN (115: OPEN115_ACCESS_TOKEN). It is refreshed first if
    /// less than five minutes are left, or what --min-ttl says. The exit code is the command's.
    Exec {
        /// The variable that gets the token [default: FEISHU_USER_ACCESS_TOKEN]
        ///
        /// For commands that look elsewhere. Give it again for more variables. (Default for 115: OPEN115_ACCESS_TOKEN.)
        #[arg(long = "env", value_name = "NAME", value_parser = variable)]
        variables: Vec<String>,

        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Set up a store in PostgreSQL, and move logins there
    Store {
        /// What to do
        #[command(subcommand)]
        task: StoreTask,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to do with a store.
#[derive(Subcommand)]
pub(super) enum StoreTask {
    /// Make the tables, or bring them up to date
    ///
    /// In the schema feishu_refresh. Runs need USAGE on it, SELECT on its tables, and UPDATE on login, app and pace;
    /// login and store import need INSERT, too.
    Init {
        /// Print the statements, and do nothing
        #[arg(long)]
        print_sql: bool,
    },
    /// Move the logins of an INI file into the store
    ///
    /// At any time each login is in one place only. If it was killed in between, run it again. With -p, only that login.
    Import {
        /// - reads a sealed line from stdin, which a run printed or left in a journal
        #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
        from: Option<String>,
    },
    /// Print a new key, to seal the store's secrets with
    Key,
}

/// How a person is asked for consent.
#[derive(Args)]
#[command(next_help_heading = "Consent")]
pub(super) struct LoginArguments {
    /// Print the link, and read the address that the browser ended on
    #[arg(long)]
    pub(super) paste: bool,

    /// Show a link and a short code for another device (experimental)
    ///
    /// The vendor has not documented its endpoint.
    #[arg(long, conflicts_with = "paste")]
    pub(super) device: bool,

    /// Where the browser comes back to, as registered with the app
    ///
    /// [default: the file's [LOGIN_CODE] redirect_uri, else http://localhost:8080/callback]
    #[arg(long, value_name = "URI")]
    pub(super) redirect_uri: Option<String>,

    /// How long to wait for the consent
    ///
    /// [default: 5m; with --device, as long as the code lives]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) wait: Option<Duration>,
}

/// What is secret, and the app that it belongs to.
#[derive(Args)]
#[command(next_help_heading = "Tokens, instead of the file's")]
pub(super) struct TokenOptions {
    /// app_access_token
    ///
    /// [env: FEISHU_APP_ACCESS_TOKEN]
    #[arg(short = 'a', long, alias = "app_token", value_name = "TOKEN", value_parser = secret)]
    pub(super) app_token: Option<SecretString>,

    /// refresh_token
    ///
    /// One that stays the same in a script goes on working: the file has its successor, which is used instead.
    ///
    /// [env: FEISHU_REFRESH_TOKEN]
    #[arg(short = 'r', long, aliases = ["refresh-token", "refresh_token"], value_name = "TOKEN", value_parser = secret)]
    pub(super) refresh: Option<SecretString>,

    /// App id; with the secret, app tokens are fetched
    ///
    /// v1 and oidc fetch their own app_access_token with the two, v2 and v3 send them.
    ///
    /// [env: FEISHU_APP_ID]
    #[arg(long, alias = "app_id", value_name = "ID")]
    pub(super) app_id: Option<String>,

    /// App secret
    ///
    /// [env: FEISHU_APP_SECRET]
    #[arg(long, alias = "app_secret", value_name = "SECRET", value_parser = secret)]
    pub(super) app_secret: Option<SecretString>,

    /// The ticket of an app from the store
    ///
    /// [env: FEISHU_APP_TICKET]
    #[arg(long, alias = "app_ticket", value_name = "TICKET", value_parser = secret, hide_short_help = true)]
    pub(super) app_ticket: Option<SecretString>,
}

/// Where tokens are read and saved.
#[derive(Args)]
#[command(next_help_heading = "File, or store")]
pub(super) struct FileOptions {
    /// The INI file [default: feishu-config.ini]
    ///
    /// [env: FEISHU_CONFIG_FILE]
    #[arg(short, long, alias = "config_file", value_name = "PATH")]
    pub(super) config_file: Option<PathBuf>,

    /// PostgreSQL instead of a file: postgres://user@host/db
    ///
    /// Logins are stored there, for any number of hosts: see feishu-refresh store.
    ///
    /// [env: FEISHU_STORE]
    #[arg(long, value_name = "URL", value_parser = secret)]
    pub(super) store: Option<SecretString>,

    /// What the store's secrets are sealed with
    ///
    /// One key a line: the first seals, all open.
    ///
    /// [env: FEISHU_STORE_KEY, the key itself; FEISHU_STORE_KEY_FILE]
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub(super) store_key_file: Option<PathBuf>,

    /// Its section [default: TOKEN]
    ///
    /// [env: FEISHU_PROFILE]
    #[arg(short, long, value_name = "NAME")]
    pub(super) profile: Option<String>,

    /// Every login that has a refresh token, side by side
    ///
    /// Of a store those that are due, from as many workers as run it.
    #[arg(long)]
    pub(super) all: bool,
}

/// Which server.
#[derive(Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerOptions {
    /// v1, oidc, v2, v3 or 115 [default: what the section says]
    ///
    /// The token endpoint. If neither says, the refresh token's form does: v1 for those that begin with ur-, v3 for those that begin with eyJ,
    /// at Feishu's own host, and v2 elsewhere; else v1. oidc is for tokens from authen/v1/oidc, 115 for 115's open platform.
    ///
    /// [env: FEISHU_API]
    #[arg(long, value_parser = api_parser(), hide_possible_values = true)]
    pub(super) api: Option<Api>,

    /// v2, v3: narrow the new token to these scopes, and offline_access
    ///
    /// For this run: the next one without it gets all that the user granted.
    #[arg(long, value_name = "\"A B\"", value_parser = scope, hide_short_help = true)]
    pub(super) scope: Option<String>,

    /// Lark, the international service, instead of Feishu
    #[arg(long)]
    pub(super) lark: bool,

    /// Another host for the token endpoints
    ///
    /// [env: FEISHU_BASE_URL]
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub(super) base_url: Option<String>,

    /// Another host for the consent page of login, and for v3
    ///
    /// [env: FEISHU_ACCOUNTS_URL]
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub(super) accounts_url: Option<String>,

    /// A standard OAuth 2.0 server's token endpoint, whole address
    ///
    /// It is sent what v3 is sent; an app without a secret is a public client. The first refresh token comes by -r.
    ///
    /// [env: FEISHU_TOKEN_URL]
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub(super) token_url: Option<String>,

    /// Further trusted CA certificates, in PEM form
    ///
    /// Beside the built-in ones and the system's; SSL_CERT_FILE and SSL_CERT_DIR in the environment
    /// replace the system's.
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub(super) ca_cert: Option<PathBuf>,
}

/// When to refresh, and what then.
#[derive(Args)]
#[command(next_help_heading = "Refresh")]
pub(super) struct RefreshOptions {
    /// Refresh only if less is left (90s, 10m, 1h)
    ///
    /// While the saved token is valid for longer, it is printed, and nothing else is done.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) min_ttl: Option<Duration>,

    /// With --all: leave out refresh tokens valid for so long
    ///
    /// With --min-ttl, the access token must be valid long enough, too. If an expiry is not known, the token is refreshed.
    #[arg(long, value_name = "DURATION", value_parser = duration, hide_short_help = true)]
    pub(super) keep_alive: Option<Duration>,

    /// Run this after the save, with JSON on its stdin
    ///
    /// A shell runs it, and it reads the object that -o json prints. What it prints goes to stderr; the file stays locked while it runs.
    #[arg(long, value_name = "COMMAND", value_parser = shell_command)]
    pub(super) on_refresh: Option<String>,
}

/// How long and how often.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitOptions {
    /// How long one attempt may take
    ///
    /// What takes longer counts as a temporary failure.
    #[arg(long, value_name = "DURATION", default_value = "30", value_parser = timeout, hide_short_help = true)]
    pub(super) timeout: Duration,

    /// Further attempts after a temporary failure
    ///
    /// From 0 to 1000, each after a longer pause than the one before.
    #[arg(long, value_name = "N", default_value = "3", value_parser = retries, hide_short_help = true)]
    pub(super) retries: u32,

    /// The longest wait that a rate limit may ask for
    ///
    /// A longer one ends the run with exit code 5.
    #[arg(long, value_name = "DURATION", default_value = "90", value_parser = duration, hide_short_help = true)]
    pub(super) max_wait: Duration,

    /// How long to wait for another run on the same file
    ///
    /// After that, the run ends with exit code 5.
    #[arg(long, value_name = "DURATION", default_value = "180", value_parser = duration, hide_short_help = true)]
    pub(super) lock_timeout: Duration,

    /// With --all: refreshes a second
    ///
    /// [default: what the documents allow; 0: no limit]
    #[arg(long, value_name = "N", value_parser = rate, hide_short_help = true)]
    pub(super) rate: Option<Duration>,
}

impl Default for LimitOptions {
    fn default() -> Self {
        let Options {
            timeout,
            retries,
            max_wait,
            lock_timeout,
            ..
        } = Options::default();
        LimitOptions {
            timeout,
            retries,
            max_wait,
            lock_timeout,
            rate: None,
        }
    }
}

/// What is printed.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputOptions {
    /// token, json, env or github [default: token]
    ///
    /// What stdout gets: only the token; a JSON object; a line for a shell's eval; the token masked, and
    /// appended to $GITHUB_OUTPUT.
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORM",
        hide_possible_values = true
    )]
    pub(super) output: Option<Output>,

    /// Print only errors
    #[arg(short, long, overrides_with = "verbose")]
    pub(super) quiet: bool,

    /// Print requests and what came of them; no secret
    ///
    /// Their addresses, statuses, log ids and timings.
    #[arg(short, long, overrides_with = "quiet")]
    pub(super) verbose: bool,
}

/// What stdout gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Token,
    Json,
    Env,
    Github,
}
