//! What goes wrong with a database, and what that means for a run.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::FromSql;

use crate::client::tls;
use crate::error::{Error, Hint, Kind};

/// Why a statement failed. The database may have executed it anyway, if the connection broke.
#[derive(Debug)]
pub(super) struct StatementError {
    pub(super) nature: ErrorNature,
    /// The message, without a secret.
    pub(super) words: String,
    hint: Hint,
}

/// How long it may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorNature {
    /// It passes by itself: reconnect, and retry.
    Passing,
    /// It may pass, but hardly while waiting: unreachable, full, read-only.
    Lasting,
    /// A person must fix it.
    Wrong,
}

const UNREACHED: Hint = Hint::fixed(
    "check that the database runs and the network reaches it, then run again",
    "请检查数据库是否运行、网络是否可达，然后重试",
);
const LATER: Hint = Hint::fixed("run again later", "请稍后重试");
const FULL: Hint = Hint::fixed(
    "free some space on the database's disk, then run again",
    "请释放数据库磁盘空间后重试",
);
const READ_ONLY: Hint = Hint::fixed(
    "name a writable host in the address, or wait until one is",
    "请在地址中指定可写的主机，或等待其恢复可写",
);
const LOGIN: Hint = Hint::fixed(
    "check user, password and database: in the address, PGPASSWORD, PGPASSFILE or ~/.pgpass",
    "请检查用户、密码和数据库：地址、PGPASSWORD、PGPASSFILE 或 ~/.pgpass",
);
const NO_TABLES: Hint = Hint::fixed(
    "create them: feishu-refresh store init",
    "请先创建：feishu-refresh store init",
);
const NO_RIGHTS: Hint = Hint::fixed(
    "as the tables' owner: GRANT USAGE ON SCHEMA feishu_refresh, GRANT SELECT ON ALL TABLES IN SCHEMA feishu_refresh, GRANT UPDATE ON feishu_refresh.login, feishu_refresh.app, feishu_refresh.pace; for login and store import INSERT, too",
    "请由表的所有者执行：GRANT USAGE ON SCHEMA feishu_refresh、GRANT SELECT ON ALL TABLES IN SCHEMA feishu_refresh、GRANT UPDATE ON feishu_refresh.login, feishu_refresh.app, feishu_refresh.pace；login 与 store import 还需要 INSERT",
);
const NO_TLS: Hint = Hint::fixed(
    "turn on ssl there, or, in a private network, give sslmode=disable in the address",
    "请在服务器上启用 ssl；若网络中没有其他人，可在地址中使用 sslmode=disable",
);
const CERTIFICATE: Hint = Hint::fixed(
    "trust the server's CA with sslrootcert in the address or --ca-cert, and name the host as the certificate does",
    "请在地址中用 sslrootcert 或用 --ca-cert 信任服务器的 CA，并使用证书上的主机名",
);
const OTHER: Hint = Hint::fixed("the database's log says more", "数据库日志中有更多信息");

const NO_TABLES_THERE: &str = "it does not have this program's tables";

impl StatementError {
    fn new(nature: ErrorNature, words: impl Into<String>, hint: Hint) -> Self {
        StatementError {
            nature,
            words: words.into(),
            hint,
        }
    }

    /// Nothing came for this long.
    pub(super) fn silence(of: &str, time: Duration) -> Self {
        let words = format!("{of} does not answer within {} s", time.as_secs());
        StatementError::new(ErrorNature::Lasting, words, UNREACHED)
    }

    /// The statement was sent, and nothing came for this long.
    pub(super) fn slow(time: Duration) -> Self {
        let words = format!("a statement took more than {} s", time.as_secs());
        StatementError::new(ErrorNature::Passing, words, LATER)
    }

    /// The available time is over.
    pub(super) fn given_up() -> Self {
        StatementError::new(ErrorNature::Lasting, "the database does not answer", LATER)
    }

    /// The database gave, or was to get, something that this program cannot handle.
    pub(super) fn unusable(error: &Error) -> Self {
        let hint = error.hint().cloned().unwrap_or(OTHER);
        StatementError::new(ErrorNature::Wrong, error.to_string(), hint)
    }

    /// Whether there are no tables.
    pub(super) fn is_no_tables(&self) -> bool {
        self.nature == ErrorNature::Wrong && self.words == NO_TABLES_THERE
    }

    pub(super) fn unreachable(of: &str, why: &dyn std::fmt::Display) -> Self {
        StatementError::new(
            ErrorNature::Lasting,
            format!("cannot connect to {of}: {why}"),
            UNREACHED,
        )
    }

    pub(super) fn read_only(of: &str) -> Self {
        let words = format!("{of} is read-only: a standby, or set to read-only");
        StatementError::new(ErrorNature::Lasting, words, READ_ONLY)
    }

    pub(super) fn unknown_version(version: i32, known: i32) -> Self {
        let words = format!("its tables have version {version}, but this program knows {known}");
        let hint = if version > known {
            Hint::fixed(
                "install a newer feishu-refresh here",
                "请在本机安装更新版本的 feishu-refresh",
            )
        } else {
            Hint::fixed(
                "bring them up to date: feishu-refresh store init",
                "请先升级表结构：feishu-refresh store init",
            )
        };
        StatementError::new(ErrorNature::Wrong, words, hint)
    }

    pub(super) fn no_tables() -> Self {
        StatementError::new(ErrorNature::Wrong, NO_TABLES_THERE, NO_TABLES)
    }

    /// Judges what tokio-postgres says about an attempt to connect, or a statement.
    pub(super) fn of(error: &tokio_postgres::Error, host: &str) -> Self {
        if let Some(database) = error.as_db_error() {
            return StatementError::said(database.code(), database.message());
        }
        if let Some(certificate) = tls::certificate_error(error) {
            let words = format!("{host}: {}", tls::complaint(certificate));
            return StatementError::new(ErrorNature::Wrong, words, CERTIFICATE);
        }
        let words = root_cause(error);
        if words.contains("server does not support TLS") {
            return StatementError::new(
                ErrorNature::Wrong,
                format!("{host} does not support TLS"),
                NO_TLS,
            );
        }
        if words.contains("password missing") || words.contains("invalid configuration") {
            let words = format!("{host} asks for a password, but none was given");
            return StatementError::new(ErrorNature::Wrong, words, LOGIN);
        }
        let words = format!("the connection to {host} broke: {words}");
        StatementError::new(ErrorNature::Passing, words, UNREACHED)
    }

    /// Judges what the database itself says.
    fn said(code: &SqlState, message: &str) -> Self {
        let (nature, hint) = match code.code() {
            // Out of connections, shutting down, starting up, a lost race, a time limit.
            "53300" | "57P01" | "57P02" | "57P03" | "40001" | "40P01" | "57014" | "55P03"
            | "57P05" | "25P03" => (ErrorNature::Passing, LATER),
            code if code.starts_with("08") => (ErrorNature::Passing, UNREACHED),
            "53100" => (ErrorNature::Lasting, FULL),
            "25006" => (ErrorNature::Lasting, READ_ONLY),
            code if code.starts_with("53") || code.starts_with("58") => {
                (ErrorNature::Lasting, LATER)
            }
            "28P01" | "28000" | "3D000" => (ErrorNature::Wrong, LOGIN),
            "42P01" | "3F000" => return StatementError::no_tables(),
            "42703" => (ErrorNature::Wrong, NO_TABLES),
            "42501" => (ErrorNature::Wrong, NO_RIGHTS),
            _ => (ErrorNature::Wrong, OTHER),
        };
        // PgBouncer says this of a server that it cannot reach.
        let is_behind = code.code() == "08P01" || message.contains("server conn");
        let nature = if is_behind {
            ErrorNature::Passing
        } else {
            nature
        };
        StatementError::new(nature, format!("{message} ({})", code.code()), hint)
    }

    /// The error of a run, if nothing was sent yet.
    pub(super) fn error(self, store: &str) -> Error {
        let kind = match self.nature {
            ErrorNature::Passing | ErrorNature::Lasting => Kind::Temporary,
            ErrorNature::Wrong => Kind::Config,
        };
        Error::new(kind, format!("{store}: {}", self.words)).with_hint(self.hint)
    }
}

/// One field of a row.
///
/// # Errors
/// What is wrong with a database that returns something else.
pub(super) fn field<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, StatementError> {
    row.try_get(index).map_err(|error| {
        let words = format!("it does not answer as PostgreSQL does: {error}");
        StatementError::new(ErrorNature::Wrong, words, OTHER)
    })
}

pub(super) fn root_cause(error: &tokio_postgres::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(feature = "fail-points")]
impl crate::fail::Injected for StatementError {
    fn injected(name: &str) -> Self {
        StatementError::new(ErrorNature::Passing, format!("fail point {name}"), LATER)
    }
}
