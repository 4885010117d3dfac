//! The PostgreSQL that tests run against: that it starts, dies and replicates as it should.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::sandbox::{Authority, PgBouncer, Postgres, Term};

/// What psql says when this query fails.
fn failure(server: &Postgres, address: &str, sql: &str) -> String {
    server.query_at(address, sql).unwrap_err().to_string()
}

fn is_gone(id: u32) -> bool {
    kill(Pid::from_raw(id.try_into().unwrap()), None).is_err()
}

#[test]
fn a_server_starts_and_answers() {
    let Some(server) = Postgres::start_with(&[("max_connections", "25")]).unwrap() else {
        return;
    };
    assert_eq!(server.query("SHOW max_connections"), "25");
    let address = server.address();
    let sql = "CREATE SCHEMA own; CREATE TABLE own.kept (word text);
        INSERT INTO own.kept VALUES ('word'); SELECT current_user, word FROM own.kept;";
    assert_eq!(server.query_at(&address, sql).unwrap(), "feishu|word");
    assert_eq!(server.query("SELECT word FROM own.kept"), "word");
    let socket = server.socket_address();
    let user = server.query_at(&socket, "SELECT current_user").unwrap();
    assert_eq!(user, "postgres");
    assert!(server.log().contains("INSERT INTO own.kept"), "no log");
    // The role is not a superuser, and needs its password, which nothing repeats.
    let denied = failure(&server, &address, "CREATE ROLE other");
    assert!(denied.contains("permission denied"), "{denied}");
    let other = address.replace(Postgres::password(), "other");
    let denied = failure(&server, &other, "SELECT 1");
    assert!(denied.contains("authentication failed"), "{denied}");
    let denied = failure(&server, &server.address_without_password(), "SELECT 1");
    assert!(denied.contains("no password supplied"), "{denied}");
    assert!(!server.log().contains(Postgres::password()));
    assert!(address.contains(&format!(":{}/", server.port())));
    assert!(server.try_query("SELECT nothing").is_err());
}

#[test]
fn a_server_reads_new_settings_while_it_runs() {
    let Some(server) = Postgres::start().unwrap() else {
        return;
    };
    server.reload(&[("statement_timeout", "50ms")]).unwrap();
    let late = failure(&server, &server.address(), "SELECT pg_sleep(60)");
    assert!(late.contains("statement timeout"), "{late}");
}

#[test]
fn a_server_that_is_stopped_or_killed_starts_again_with_what_it_had() {
    let Some(server) = Postgres::start().unwrap() else {
        return;
    };
    server.query("CREATE TABLE kept (word text)");
    for (number, mode) in ["smart", "fast", "immediate", "kill"].iter().enumerate() {
        server.query(&format!("INSERT INTO kept VALUES ('{mode}')"));
        let ids = server.process_ids().unwrap();
        assert!(ids.len() > 1, "no children");
        match *mode {
            "kill" => server.kill().unwrap(),
            mode => server.stop(mode).unwrap(),
        }
        assert!(server.try_query("SELECT 1").is_err(), "{mode}");
        assert!(is_gone(ids[0]), "{mode}");
        server.start_again().unwrap();
        let count = server.query("SELECT count(*) FROM kept");
        assert_eq!(count, (number + 1).to_string(), "{mode}");
    }
    assert!(server.log().contains("automatic recovery in progress"));
}

#[test]
fn a_frozen_server_answers_when_it_is_thawed() {
    let Some(server) = Postgres::start().unwrap() else {
        return;
    };
    server.freeze().unwrap();
    let (send, answers) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| send.send(server.query_at(&server.address(), "SELECT 1")));
        let early = answers.recv_timeout(Duration::from_millis(300));
        // Before an assertion: the thread's end waits for it.
        server.thaw().unwrap();
        assert!(matches!(early, Err(RecvTimeoutError::Timeout)));
        assert_eq!(answers.recv().unwrap().unwrap(), "1");
    });
}

#[test]
fn a_standby_follows_is_read_only_and_takes_over() {
    let Some(server) = Postgres::start().unwrap() else {
        return;
    };
    let standby = server.standby().unwrap();
    let sql = "CREATE SCHEMA own; CREATE TABLE own.kept AS SELECT 'word' AS word";
    server.query_at(&server.address(), sql).unwrap();
    standby.catch_up(&server).unwrap();
    let address = standby.address();
    let select = "SELECT word FROM own.kept";
    assert_eq!(standby.query_at(&address, select).unwrap(), "word");
    let insert = "INSERT INTO own.kept VALUES ('new')";
    let denied = failure(&standby, &address, insert);
    assert!(denied.contains("read-only transaction"), "{denied}");
    server.kill().unwrap();
    standby.promote().unwrap();
    standby.query_at(&address, insert).unwrap();
    assert_eq!(standby.query("SELECT count(*) FROM own.kept"), "2");
}

#[test]
fn a_pgbouncer_lends_its_connections() {
    let Some(server) = Postgres::start().unwrap() else {
        return;
    };
    let Some(bouncer): Option<PgBouncer> = server.pgbouncer(1).unwrap() else {
        return;
    };
    let address = bouncer.address();
    let sql = "SELECT current_user, pg_backend_pid()";
    let first = server.query_at(&address, sql).unwrap();
    assert!(first.starts_with("feishu|"), "{first}");
    assert_eq!(server.query_at(&address, sql).unwrap(), first);
    let other = address.replace(Postgres::password(), "other");
    let denied = failure(&server, &other, sql);
    assert!(denied.contains("authentication failed"), "{denied}");
    assert!(!bouncer.log().contains(Postgres::password()));
}

#[test]
fn a_server_with_a_certificate_proves_its_name() {
    let authority = Authority::new("ours").unwrap();
    let names = ["localhost", "127.0.0.1"];
    let Some(server) = Postgres::with_tls(&authority, &names, Term::Now).unwrap() else {
        return;
    };
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let verified = |ca: &Path| {
        let tls = format!("?sslmode=verify-full&sslrootcert={}", ca.display());
        // Not all versions of libpq accept an address as a name in a certificate.
        let address = server.address().replace("127.0.0.1", "localhost");
        server.query_at(&(address + &tls), sql)
    };
    // It runs as another user, who needs access.
    assert_eq!(verified(&server.ca_file()).unwrap(), "t");
    let stranger = server.folder().join("stranger.pem");
    fs::write(&stranger, Authority::new("theirs").unwrap().pem()).unwrap();
    let error = verified(&stranger).unwrap_err().to_string();
    assert!(error.contains("certificate verify failed"), "{error}");
    let plain = server.address() + "?sslmode=disable";
    assert_eq!(server.query_at(&plain, sql).unwrap(), "f");
}

#[test]
fn nothing_is_left_of_a_server_after_a_panic() {
    let Some(server) = Postgres::start().unwrap() else {
        return;
    };
    let (folder, ids) = (server.folder().to_owned(), server.process_ids().unwrap());
    server.freeze().unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _server = server;
        resume_unwind(Box::new("as a failed test does"));
    }));
    assert!(panic.is_err());
    assert!(!folder.exists());
    assert!(ids.into_iter().all(is_gone));
}
