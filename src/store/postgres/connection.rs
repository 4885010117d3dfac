//! One connection to the first writable host.
//!
//! Promises:
//! - Every wait has a limit: tokio-postgres has none of its own, and a dropped route would
//!   hang a save forever.
//! - Statements carry typed parameters, and prepare nothing: so PgBouncer can be used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use rustls::ClientConfig;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Row};

use super::address::{DatabaseAddress, DatabaseHost, HostName, is_loopback};
use super::schema;
use super::statement_error::{ErrorNature, StatementError, field};
use super::statements::Parameter;
use super::tls::Tls;
use crate::client::{look_up, tls};
use crate::error::Result;

/// How long one address may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long telling a server to disconnect may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// How long a statement may take. A longer one waits for a lock, or for a server that is gone.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// The connector.
pub(super) struct Connector {
    pub(super) address: DatabaseAddress,
    ca_cert: Option<PathBuf>,
    shield: fn(),
    tls: OnceLock<ClientConfig>,
}

/// A connection to a database whose tables this program knows.
pub(super) struct Connection {
    client: Client,
    carrier: ConnectionTask,
    /// How far the database's clock is ahead of this machine's.
    pub(super) clock_ahead: SignedDuration,
    /// Identifies this store, whatever its address.
    pub(super) store_id: String,
    host: String,
}

/// The task that drives a connection. It ends when its client is dropped, or this is: a server that is gone would keep
/// it for long.
pub(super) struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connector {
    pub(super) fn new(address: DatabaseAddress, ca_cert: Option<PathBuf>, shield: fn()) -> Self {
        Connector {
            address,
            ca_cert,
            shield,
            tls: OnceLock::new(),
        }
    }

    /// Connects to the first writable host, and checks its tables.
    ///
    /// # Errors
    /// What the last host said; or an earlier one's error that a person must fix.
    pub(super) async fn connect(&self) -> Result<Connection, StatementError> {
        self.first_that(async |opened, host| self.known(opened, host).await)
            .await
    }

    /// Connects to the first writable host, whatever tables it has.
    pub(super) async fn connect_to_set_up(
        &self,
    ) -> Result<(Client, ConnectionTask), StatementError> {
        self.first_that(async |(client, carrier), host| {
            let asked = client.query_typed(schema::IS_READ_ONLY, &[]);
            let rows = in_time(asked, host).await?;
            let is_read_only = rows.first().map(|row| field(row, 0)).transpose()?;
            match is_read_only {
                Some(false) => Ok((client, carrier)),
                _ => Err(StatementError::read_only(host)),
            }
        })
        .await
    }

    async fn first_that<T>(
        &self,
        accept: impl AsyncFn((Client, ConnectionTask), &str) -> Result<T, StatementError>,
    ) -> Result<T, StatementError> {
        let mut failed: Option<StatementError> = None;
        for host in &self.address.hosts {
            let shown = host.shown();
            for ip in self.addresses(host).await.unwrap_or_else(|lost| {
                failed.get_or_insert(lost);
                Vec::new()
            }) {
                let found = match self.open(host, ip, &shown).await {
                    Ok(opened) => accept(opened, &shown).await,
                    Err(lost) => Err(lost),
                };
                match found {
                    Ok(found) => return Ok(found),
                    // What a person must fix is reported, whatever else is wrong.
                    Err(lost)
                        if failed
                            .as_ref()
                            .is_none_or(|t| t.nature != ErrorNature::Wrong) =>
                    {
                        failed = Some(lost);
                    }
                    Err(_) => {}
                }
            }
        }
        Err(failed.unwrap_or_else(|| StatementError::unreachable("any host", &"it has no address")))
    }

    /// The addresses of a host; for a socket, a single none.
    async fn addresses(&self, host: &DatabaseHost) -> Result<Vec<Option<IpAddr>>, StatementError> {
        let name = match &host.name {
            HostName::Socket(_) => return Ok(vec![None]),
            HostName::Network(name) => name,
        };
        if let Ok(ip) = name.parse() {
            return Ok(vec![Some(ip)]);
        }
        if is_loopback(name) {
            let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(both.map(Some).to_vec());
        }
        let found = timeout(CONNECT_LIMIT, look_up(name.clone(), self.shield)).await;
        let found = found.map_err(|_| StatementError::silence("the resolver", CONNECT_LIMIT))?;
        let found = found.map_err(|error| StatementError::unreachable(&host.shown(), &error))?;
        Ok(found.map(|address| Some(address.ip())).collect())
    }

    async fn open(
        &self,
        host: &DatabaseHost,
        ip: Option<IpAddr>,
        shown: &str,
    ) -> Result<(Client, ConnectionTask), StatementError> {
        let mut config = tokio_postgres::Config::new();
        let known = self.address.config_for(host);
        if let Some(user) = known.get_user() {
            config.user(user);
        }
        if let Some(password) = known.get_password() {
            config.password(password);
        }
        if let Some(database) = known.get_dbname() {
            config.dbname(database);
        }
        if let Some(options) = known.get_options() {
            config.options(options);
        }
        config.channel_binding(known.get_channel_binding());
        config.ssl_negotiation(known.get_ssl_negotiation());
        config.application_name(known.get_application_name().unwrap_or("feishu-refresh"));
        config.port(host.port);
        match (&host.name, ip) {
            #[cfg(unix)]
            (HostName::Socket(folder), _) => {
                config.host_path(folder);
            }
            #[cfg(not(unix))]
            (HostName::Socket(_), _) => {}
            (HostName::Network(name), ip) => {
                config.host(name);
                if let Some(ip) = ip {
                    config.hostaddr(ip);
                }
            }
        }
        config.ssl_mode(if host.has_tls {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        let tls = if host.has_tls {
            self.tls()?
        } else {
            // Unused, and a second kind of connection would cost more.
            tls::that_trusts_nobody().map_err(|error| StatementError::unusable(&error))?
        };
        let opening = async {
            let opened = config.connect(Tls::new(tls)).await;
            opened
                .map(|(client, carrier)| (client, carry(carrier)))
                .map_err(|error| match StatementError::of(&error, shown) {
                    // There was no connection to break.
                    lost if lost.nature == ErrorNature::Passing
                        && error.as_db_error().is_none() =>
                    {
                        StatementError::unreachable(
                            shown,
                            &super::statement_error::root_cause(&error),
                        )
                    }
                    lost => lost,
                })
        };
        let limit = known.get_connect_timeout().copied();
        let limit = limit.unwrap_or(CONNECT_LIMIT);
        let opened = timeout(limit, opening).await;
        opened.unwrap_or_else(|_| Err(StatementError::silence(shown, limit)))
    }

    fn tls(&self) -> Result<ClientConfig, StatementError> {
        if let Some(known) = self.tls.get() {
            return Ok(known.clone());
        }
        let roots = self.address.root_certificates.iter().chain(&self.ca_cert);
        let made = tls::configuration(roots.map(PathBuf::as_path));
        let made = made.map_err(|error| StatementError::unusable(&error))?;
        Ok(self.tls.get_or_init(|| made).clone())
    }

    /// A connection whose database is writable, and has the tables that this program knows.
    async fn known(
        &self,
        (client, carrier): (Client, ConnectionTask),
        host: &str,
    ) -> Result<Connection, StatementError> {
        let before = Timestamp::now();
        let rows = in_time(client.query_typed(schema::WHAT_IS_THERE, &[]), host).await?;
        let after = Timestamp::now();
        let row = rows.first().ok_or_else(StatementError::no_tables)?;
        let version: i32 = field(row, 0)?;
        if field(row, 1)? {
            return Err(StatementError::read_only(host));
        }
        if version != schema::VERSION {
            return Err(StatementError::unknown_version(version, schema::VERSION));
        }
        let theirs: Timestamp = field(row, 3)?;
        let ours = before + after.duration_since(before) / 2;
        // Whole seconds, as expiries are: less is the round trip.
        let ahead = theirs.duration_since(ours).round(Unit::Second);
        Ok(Connection {
            client,
            carrier,
            clock_ahead: ahead.unwrap_or_default(),
            store_id: field(row, 2)?,
            host: host.to_owned(),
        })
    }
}

impl Connection {
    /// Runs a statement.
    pub(super) async fn run(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StatementError> {
        in_time(self.client.query_typed(statement, parameters), &self.host).await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Disconnects from the server.
    pub(super) async fn close(mut self) {
        drop(self.client);
        let _ = timeout(FAREWELL_LIMIT, &mut self.carrier.0).await;
    }
}

fn carry<S, T>(connection: tokio_postgres::Connection<S, T>) -> ConnectionTask
where
    tokio_postgres::Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>>,
    S: Send + 'static,
    T: Send + 'static,
{
    ConnectionTask(tokio::spawn(async move {
        // The running statement reports what went wrong.
        let _ = connection.await;
    }))
}

async fn in_time<T>(
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    host: &str,
) -> Result<T, StatementError> {
    match timeout(STATEMENT_LIMIT, statement).await {
        Ok(done) => done.map_err(|error| StatementError::of(&error, host)),
        Err(_) => Err(StatementError::slow(STATEMENT_LIMIT)),
    }
}
