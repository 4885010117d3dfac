//! Where the database is, in libpq's form, and how to connect: which hosts, with which password, with or without TLS.
//!
//! Promise: no displayed text contains the password.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{Host as Named, SslMode};

use super::passfile::password_in;
use crate::error::{Error, Hint, Result};
use crate::platform::files;
use crate::store::database::shown;

/// Where libpq looks for a server if none is named.
const SOCKET_FOLDER: &str = "/var/run/postgresql";

const DEFAULT_PORT: u16 = 5432;

/// A database's address.
#[derive(Clone)]
pub(super) struct DatabaseAddress {
    pub(super) hosts: Vec<DatabaseHost>,
    /// User, database and settings, for any of the hosts.
    pub(super) config: tokio_postgres::Config,
    /// Further trusted certificates.
    pub(super) root_certificates: Option<PathBuf>,
    /// The address without its password, for messages.
    pub(super) shown: String,
    passwords: PasswordSources,
}

/// One of the hosts.
#[derive(Clone)]
pub(super) struct DatabaseHost {
    pub(super) name: HostName,
    pub(super) port: u16,
    pub(super) has_tls: bool,
}

/// How a host is named.
#[derive(Clone)]
pub(super) enum HostName {
    Network(String),
    /// The folder of its socket.
    Socket(PathBuf),
}

/// The sources of a password; the first that has one counts.
#[derive(Clone)]
struct PasswordSources {
    environment: Option<SecretString>,
    file: Option<PathBuf>,
}

/// What the address says about TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TlsMode {
    /// Nothing: TLS is used, except to this machine.
    Unsaid,
    Disabled,
    Enabled,
}

impl DatabaseAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if it cannot be parsed. The message does not repeat it.
    pub(super) fn parse(url: &SecretString) -> Result<Self> {
        let url = url.expose_secret().trim();
        // A password may contain a question mark.
        let after_user = url.find('@').unwrap_or_default();
        let query_at = url[after_user..].find('?').map(|at| after_user + at);
        let (head, query) = query_at.map_or((url, ""), |at| (&url[..at], &url[at + 1..]));
        if !head.starts_with("postgres://") && !head.starts_with("postgresql://") {
            return Err(unreadable("it does not begin with postgres://"));
        }
        let mut ours = OwnParameters::default();
        let rest = query.split('&').filter(|pair| !ours.takes(pair));
        let rest: Vec<&str> = rest.collect();
        let cleaned = format!("{head}?{}", rest.join("&"));
        let config = tokio_postgres::Config::from_str(&cleaned);
        // Its text names the parameter, but not the value.
        let mut config = config.map_err(|error| unreadable(&reason(&error)))?;
        config.ssl_mode(SslMode::Disable);
        if !config.get_hostaddrs().is_empty() {
            return Err(unreadable(
                "hostaddr is not supported: give the address as the host",
            ));
        }
        let tls = ours.tls()?;
        let hosts = hosts(&config, tls)?;
        let passfile = ours
            .passfile
            .or_else(|| set_in_environment("PGPASSFILE").map(PathBuf::from));
        let address = DatabaseAddress {
            hosts,
            config,
            root_certificates: ours.root_certificates,
            shown: shown(url),
            passwords: PasswordSources {
                environment: set_in_environment("PGPASSWORD")
                    .and_then(|password| password.into_string().ok())
                    .map(SecretString::from),
                file: passfile.or_else(|| env::home_dir().map(|home| home.join(".pgpass"))),
            },
        };
        let is_open = |host: &DatabaseHost| !host.has_tls && !host.is_local();
        if tls == TlsMode::Disabled && address.hosts.iter().any(is_open) {
            let shown = &address.shown;
            log::warn!("{shown}: without TLS, anyone on the way can read and answer");
        }
        Ok(address)
    }

    /// The settings for one of the hosts, with its password.
    pub(super) fn config_for(&self, host: &DatabaseHost) -> tokio_postgres::Config {
        let mut config = self.config.clone();
        if config.get_password().is_none_or(<[u8]>::is_empty)
            && let Some(password) = self.password(host)
        {
            config.password(password.expose_secret());
        }
        config
    }

    fn password(&self, host: &DatabaseHost) -> Option<SecretString> {
        let from_environment = self.passwords.environment.clone();
        from_environment.or_else(|| self.password_of_file(host))
    }

    fn password_of_file(&self, host: &DatabaseHost) -> Option<SecretString> {
        let path = self.passwords.file.as_deref()?;
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        if !files::is_private(&metadata) {
            let path = path.display();
            log::warn!("{path} can be read by others and is not used: chmod 600 {path}");
            return None;
        }
        let text = fs::read_to_string(path).ok()?;
        let name = match &host.name {
            HostName::Network(name) => name.clone(),
            HostName::Socket(folder) if folder == Path::new(SOCKET_FOLDER) => {
                "localhost".to_owned()
            }
            HostName::Socket(folder) => folder.display().to_string(),
        };
        let user = self.config.get_user().unwrap_or_default();
        let database = self.config.get_dbname().unwrap_or(user);
        let port = host.port.to_string();
        password_in(&text, [&name, &port, database, user])
    }
}

/// An environment variable; an empty one counts as unset.
fn set_in_environment(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

impl DatabaseHost {
    /// Whether it is this machine, so that traffic does not leave it.
    fn is_local(&self) -> bool {
        match &self.name {
            HostName::Socket(_) => true,
            HostName::Network(name) => is_loopback(name),
        }
    }

    /// Its name for messages.
    pub(super) fn shown(&self) -> String {
        match &self.name {
            HostName::Network(name) if name.contains(':') => format!("[{name}]:{}", self.port),
            HostName::Network(name) => format!("{name}:{}", self.port),
            HostName::Socket(folder) => format!("{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

/// Whether a host is this machine, whatever a resolver says.
pub(super) fn is_loopback(name: &str) -> bool {
    let ip = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The parameters that tokio-postgres does not know, or treats differently.
#[derive(Default)]
struct OwnParameters {
    ssl_mode: Option<String>,
    root_certificates: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

impl OwnParameters {
    /// Handles a parameter, if it is one of them.
    fn takes(&mut self, pair: &str) -> bool {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match name {
            "sslmode" => self.ssl_mode = Some(value),
            // The system's store is used anyway.
            "sslrootcert" if value == "system" => {}
            "sslrootcert" => self.root_certificates = Some(PathBuf::from(value)),
            "passfile" => self.passfile = Some(PathBuf::from(value)),
            // Only a writable server is useful.
            "target_session_attrs" | "load_balance_hosts" => {}
            // GSS is not supported: that matters only if it is required.
            "gssencmode" if value != "require" => {}
            _ => return false,
        }
        true
    }

    fn tls(&self) -> Result<TlsMode> {
        match self.ssl_mode.as_deref() {
            None if self.root_certificates.is_some() => Ok(TlsMode::Enabled),
            None => Ok(TlsMode::Unsaid),
            Some("disable") => Ok(TlsMode::Disabled),
            Some("allow" | "prefer" | "require" | "verify-ca" | "verify-full") => {
                Ok(TlsMode::Enabled)
            }
            Some(_) => Err(unreadable("its sslmode is not one that libpq knows")),
        }
    }
}

fn hosts(config: &tokio_postgres::Config, tls: TlsMode) -> Result<Vec<DatabaseHost>> {
    let named = config.get_hosts().iter().map(name);
    if named
        .clone()
        .any(|name| matches!(name, HostName::Network(name) if name.contains('@')))
    {
        return Err(unreadable("an @ in its password must be percent-encoded"));
    }
    let is_named = |name: &HostName| !matches!(name, HostName::Network(name) if name.is_empty());
    let mut named: Vec<HostName> = named.filter(is_named).collect();
    if named.is_empty() {
        named.push(if Path::new(SOCKET_FOLDER).is_dir() {
            HostName::Socket(PathBuf::from(SOCKET_FOLDER))
        } else {
            HostName::Network("localhost".to_owned())
        });
    }
    let ports = config.get_ports();
    if ports.len() > 1 && ports.len() != named.len() {
        return Err(unreadable("it does not have as many ports as hosts"));
    }
    let hosts = named.into_iter().enumerate().map(|(index, name)| {
        let port = ports.get(index).or(ports.first());
        let mut host = DatabaseHost {
            name,
            port: port.copied().unwrap_or(DEFAULT_PORT),
            has_tls: false,
        };
        host.has_tls = match (&host.name, tls) {
            (HostName::Socket(_), _) | (_, TlsMode::Disabled) => false,
            (HostName::Network(_), TlsMode::Enabled) => true,
            (HostName::Network(_), TlsMode::Unsaid) => !host.is_local(),
        };
        host
    });
    Ok(hosts.collect())
}

fn name(host: &Named) -> HostName {
    match host {
        Named::Tcp(name) => {
            // An IPv6 address is in brackets.
            let bare = name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'));
            HostName::Network(bare.unwrap_or(name).to_owned())
        }
        #[cfg(unix)]
        Named::Unix(folder) => HostName::Socket(folder.clone()),
    }
}

fn decoded(text: &str) -> String {
    let pair = format!("v={}", text.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn reason(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let source = error.source().map(ToString::to_string);
    match source {
        Some(source) if source.starts_with("unknown option") => source,
        _ => "its parts cannot be told apart; a password may need percent-encoding".to_owned(),
    }
}

fn unreadable(why: &str) -> Error {
    let message = format!("the store's address cannot be read: {why}");
    Error::config(message).with_hint(Hint::fixed(
        "write it as postgres://USER@HOST/DATABASE; percent-encode special characters in a name or password",
        "请写成 postgres://用户@主机/数据库；名称或密码中的特殊字符须用百分号编码",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn parsed(url: &str) -> DatabaseAddress {
        DatabaseAddress::parse(&url.into()).unwrap()
    }

    fn kinds(url: &str) -> Vec<(String, bool)> {
        let hosts = parsed(url).hosts;
        hosts
            .iter()
            .map(|host| (host.shown(), host.has_tls))
            .collect()
    }

    #[test]
    fn tls_is_spoken_but_to_this_machine() {
        let table = [
            ("postgres://u@db/x", vec![("db:5432", true)]),
            (
                "postgresql://u@db:6000/x?sslmode=require",
                vec![("db:6000", true)],
            ),
            (
                "postgres://u@db/x?sslmode=disable",
                vec![("db:5432", false)],
            ),
            ("postgres://u@127.0.0.1/x", vec![("127.0.0.1:5432", false)]),
            ("postgres://u@localhost/x", vec![("localhost:5432", false)]),
            (
                "postgres://u@localhost.example/x",
                vec![("localhost.example:5432", true)],
            ),
            ("postgres://u@[::1]:1/x", vec![("[::1]:1", false)]),
            (
                "postgres://u@localhost/x?sslmode=verify-full",
                vec![("localhost:5432", true)],
            ),
            (
                "postgres://u@localhost/x?sslrootcert=/ca.pem",
                vec![("localhost:5432", true)],
            ),
            (
                "postgres://u@%2Frun%2Fpg/x?sslmode=require",
                vec![("/run/pg/.s.PGSQL.5432", false)],
            ),
            (
                "postgres://u@a,b:2/x?target_session_attrs=any&gssencmode=disable",
                vec![("a:5432", true), ("b:2", true)],
            ),
        ];
        for (url, hosts) in table {
            let hosts: Vec<_> = hosts.iter().map(|(h, t)| ((*h).to_owned(), *t)).collect();
            assert_eq!(kinds(url), hosts, "{url}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let table = [
            ("postgres://u:pw@db/x", "postgres://u@db/x"),
            (
                "postgres://u:p%40w@a,b:2/x?password=pw&sslmode=require",
                "postgres://u@a,b:2/x?sslmode=require",
            ),
            ("postgres://db", "postgres://db"),
            ("postgres://u:p/w@db/x", "postgres://u@db/x"),
            (
                "postgres://u:p?w@db/x?sslmode=disable",
                "postgres://u@db/x?sslmode=disable",
            ),
        ];
        for (url, expected) in table {
            assert_eq!(parsed(url).shown, expected);
        }
    }

    #[test]
    fn of_what_is_no_address_no_password_is_shown() {
        for url in [
            "host=db password=pw",
            "u:pw@db",
            "postgres://u:p@pw@db/x",
            "pw",
        ] {
            assert!(!shown(url).contains("pw"), "{url}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_repeated() {
        for url in [
            "",
            "mysql://u:pw@db/x",
            "u:pw@db",
            "postgres://u:pw@db:port/x",
            "postgres://u:pw@db/x?sslmode=pw",
            "postgres://u:pw@db/x?sslkey=pw",
            "postgres://u:pw@db/x?gssencmode=require",
            "postgres://u:pw@a,b/x?port=1,2,3",
            "postgres://u:p@pw@db/x",
            "postgres://u:pw@db/x?hostaddr=10.0.0.1",
            "host=db password=pw",
        ] {
            let error = DatabaseAddress::parse(&url.into()).err();
            let error = error.map(|error| error.to_string());
            assert!(error.is_some_and(|error| !error.contains("pw")), "{url}");
        }
    }
}
