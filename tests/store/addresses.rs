//! Where the database is, who connects, and how: in libpq's form.

use std::fs::{self, Permissions};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Shared;
use crate::harness::{Run, set_private};
use crate::sandbox::{Authority, Postgres, Term};

/// Runs on the store at this address, with this in its environment.
fn run_at(shared: &Shared, address: &str, environment: &[(&str, &str)]) -> Run {
    let mut program = shared.program();
    program.env("FEISHU_STORE", address);
    program.envs(environment.iter().copied());
    let run = Run::of(program.output().unwrap());
    assert!(!run.stderr.contains(Postgres::password()), "{}", run.stderr);
    run
}

/// A port that nobody listens on.
fn dead_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An address of this machine that is not loopback: the one that it would send from. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    let is_own = !ip.is_loopback() && TcpListener::bind((ip, 0)).is_ok();
    if !is_own {
        eprintln!("skipped: this machine has no address but loopback's");
    }
    is_own.then_some(ip)
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    set_private(path);
}

#[test]
fn a_password_is_found_where_libpq_finds_it() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (database, password) = (&shared.database, Postgres::password());
    let (with, without) = (database.address(), database.address_without_password());
    let port = database.port().to_string();
    let folder = shared.scene.folder();
    let ok = |address: &str, environment: &[(&str, &str)]| {
        let run = run_at(&shared, address, environment);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    };
    let refused = |address: &str, environment: &[(&str, &str)], says: &str| {
        let run = run_at(&shared, address, environment);
        run.assert_failed(3, says);
        assert!(run.stderr.contains("PGPASSFILE"), "{}", run.stderr);
    };
    ok(&with, &[]);
    ok(&format!("{without}?password={password}"), &[]);
    ok(&without, &[("PGPASSWORD", password)]);
    // The address beats the environment, which beats the file.
    ok(&with, &[("PGPASSWORD", "wrong")]);
    refused(&without, &[], "asks for a password, but none was given");
    refused(
        &without,
        &[("PGPASSWORD", "wrong-one")],
        "authentication failed",
    );
    let wrong = with.replace(password, "wrong-one");
    refused(&wrong, &[], "authentication failed");
    let run = run_at(&shared, &wrong, &[]);
    assert!(!run.stderr.contains("wrong-one"), "{}", run.stderr);
    let nobody = with.replace("//feishu:", "//nobody:");
    refused(&nobody, &[], "authentication failed");
    let nowhere = with.strip_suffix("feishu").unwrap().to_owned() + "nowhere";
    refused(&nowhere, &[], "does not exist");
    // A file of passwords: named, or in the home folder.
    let file = folder.join("passwords");
    let lines = format!("other:*:*:*:no\n127.0.0.1:{port}:feishu:feishu:{password}\n");
    write_private(&file, &lines);
    let named = file.display().to_string();
    ok(&without, &[("PGPASSFILE", &named)]);
    ok(&format!("{without}?passfile={named}"), &[]);
    refused(
        &without,
        &[("PGPASSFILE", &named), ("PGPASSWORD", "wrong-one")],
        "authentication failed",
    );
    fs::rename(&file, folder.join(".pgpass")).unwrap();
    let home = folder.display().to_string();
    ok(&without, &[("HOME", &home)]);
    // What is empty is not given.
    let empty = without.replace("feishu@", "feishu:@");
    let environment = [
        ("HOME", home.as_str()),
        ("PGPASSWORD", ""),
        ("PGPASSFILE", ""),
    ];
    ok(&empty, &environment);
    // Others could have written it, as for libpq.
    let open = Permissions::from_mode(0o644);
    fs::set_permissions(folder.join(".pgpass"), open).unwrap();
    let run = run_at(&shared, &without, &[("HOME", &home)]);
    run.assert_failed(3, "can be read by others and is not used: chmod 600");
    assert_eq!(shared.scene.server.rotations(), 8);
    assert_eq!(shared.scene.server.spent_seen(), 0);
}

#[test]
fn a_database_that_is_not_there_costs_nothing() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (database, port) = (&shared.database, shared.database.port());
    let dead = dead_port();
    let address = database.address();
    let nowhere = address.replace(&format!(":{port}/"), &format!(":{dead}/"));
    let mut program = shared.program();
    program.env("FEISHU_STORE", &nowhere);
    program.args(["--lock-timeout", "1"]);
    let run = Run::of(program.output().unwrap());
    run.assert_failed(5, "cannot connect to 127.0.0.1");
    assert!(run.stderr.contains("nothing was sent"), "{}", run.stderr);
    let mut program = shared.program();
    program.env("FEISHU_STORE", address.replace("postgres://", "mysql://"));
    let run = Run::of(program.output().unwrap());
    run.assert_failed(3, "the store's address cannot be read");
    assert!(!run.stderr.contains(Postgres::password()), "{}", run.stderr);
    assert!(shared.scene.server.requests().is_empty());
    // The first of several hosts is dead; the second is not.
    let several = address.replace(
        &format!("127.0.0.1:{port}"),
        &format!("127.0.0.1:{dead},127.0.0.1:{port}"),
    );
    run_at(&shared, &several, &[]).token();
    let by_name = address.replace("127.0.0.1", "localhost");
    run_at(&shared, &by_name, &[]).token();
    // A socket's folder, with percent signs or as a parameter.
    let folder = database.folder().display().to_string();
    let password = Postgres::password();
    let encoded = folder.replace('/', "%2F");
    run_at(
        &shared,
        &format!("postgresql://feishu:{password}@{encoded}:{port}/feishu"),
        &[],
    )
    .token();
    let as_parameter =
        format!("postgres://feishu:{password}@/feishu?host={encoded}&port={port}&sslmode=require");
    run_at(&shared, &as_parameter, &[]).token();
    let wrong = format!("postgres://feishu@{encoded}:{dead}/feishu");
    let mut program = shared.program();
    program.env("FEISHU_STORE", wrong);
    program.args(["--lock-timeout", "1"]);
    let run = Run::of(program.output().unwrap());
    run.assert_failed(5, &format!("{folder}/.s.PGSQL.{dead}"));
    assert_eq!(shared.scene.server.rotations(), 4);
    assert_eq!(shared.scene.server.spent_seen(), 0);
}

/// A store behind TLS, with a certificate for these names.
fn with_tls(authority: &Authority, names: &[&str], term: Term) -> Option<Shared> {
    let database = Postgres::with_tls(authority, names, term).unwrap()?;
    Some(Shared::at(database))
}

#[test]
fn certificate_and_name_are_checked() {
    let authority = Authority::new("ours").unwrap();
    let names = ["127.0.0.1"];
    let Some(shared) = with_tls(&authority, &names, Term::Now) else {
        return;
    };
    shared.run(&["store", "import"]).assert_done();
    let database = &shared.database;
    // Only what comes over TLS is let in.
    let access = database.data().join("pg_hba.conf");
    let text = fs::read_to_string(&access).unwrap();
    fs::write(&access, text.replace("host all", "hostssl all")).unwrap();
    database.reload(&[("log_min_messages", "warning")]).unwrap();
    let address = database.address();
    let plain = run_at(&shared, &address, &[]);
    plain.assert_failed(3, "no encryption");
    let ca = shared.scene.folder().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let ca = ca.display().to_string();
    // Every mode but disable means that all is checked.
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let unknown = run_at(&shared, &format!("{address}?sslmode={mode}"), &[]);
        unknown.assert_failed(3, "127.0.0.1");
        assert!(unknown.stderr.contains("sslrootcert"), "{}", unknown.stderr);
        let known = format!("{address}?sslmode={mode}&sslrootcert={ca}");
        run_at(&shared, &known, &[]).token();
    }
    run_at(&shared, &format!("{address}?sslrootcert={ca}"), &[]).token();
    // The password proof is bound to the certificate, if requested.
    let bound = format!("{address}?sslrootcert={ca}&channel_binding=require");
    run_at(&shared, &bound, &[]).token();
    let required = format!("{address}?sslmode=require");
    run_at(&shared, &required, &[("SSL_CERT_FILE", &ca)]).token();
    let mut program = shared.program();
    program.env("FEISHU_STORE", &required);
    Run::of(program.args(["--ca-cert", &ca]).output().unwrap()).token();
    // Another authority, and another name than the certificate's.
    let other = Authority::new("another").unwrap().pem();
    let stranger = shared.scene.folder().join("stranger.pem");
    fs::write(&stranger, other).unwrap();
    let stranger = stranger.display().to_string();
    run_at(&shared, &format!("{address}?sslrootcert={stranger}"), &[])
        .assert_failed(3, "127.0.0.1");
    let misnamed = address.replace("127.0.0.1", "localhost");
    let run = run_at(&shared, &format!("{misnamed}?sslrootcert={ca}"), &[]);
    run.assert_failed(3, "localhost");
    assert!(run.stderr.contains("not valid for name"), "{}", run.stderr);
    run_at(&shared, &format!("{address}?sslrootcert=/nowhere.pem"), &[])
        .assert_failed(3, "/nowhere.pem");
    let status = shared.run(&["status", "--store", &format!("{address}?sslrootcert={ca}")]);
    assert_eq!(status.code, 0, "{}", status.stderr);
    assert_eq!(shared.scene.server.rotations(), 8);
    assert_eq!(shared.scene.server.spent_seen(), 0);
}

#[test]
fn a_certificate_that_has_ended_is_refused() {
    let authority = Authority::new("ours").unwrap();
    let Some(shared) = with_tls(&authority, &["127.0.0.1"], Term::Over) else {
        return;
    };
    let ca = shared.database.ca_file().display().to_string();
    let address = format!("{}?sslrootcert={ca}", shared.database.address());
    run_at(&shared, &address, &[]).assert_failed(3, "expired");
    assert!(shared.scene.server.requests().is_empty());
}

#[test]
fn without_tls_only_this_machine_is_spoken_to() {
    let Some(ip) = own_address() else {
        return;
    };
    let Some(shared) = Shared::start_with(&[("listen_addresses", "*")]) else {
        return;
    };
    let database = &shared.database;
    let access = database.data().join("pg_hba.conf");
    let text = fs::read_to_string(&access).unwrap();
    fs::write(
        &access,
        format!("{text}host all all {ip}/32 scram-sha-256\n"),
    )
    .unwrap();
    database.reload(&[]).unwrap();
    // Any other machine must use TLS, and this server does not.
    let name = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let address = database.address().replace("127.0.0.1", &name);
    for mode in ["", "?sslmode=prefer", "?sslmode=require"] {
        let run = run_at(&shared, &format!("{address}{mode}"), &[]);
        run.assert_failed(3, "does not support TLS");
        assert!(run.stderr.contains("sslmode=disable"), "{}", run.stderr);
    }
    let local = format!("{}?sslmode=require", database.address());
    run_at(&shared, &local, &[]).assert_failed(3, "does not support TLS");
    assert!(shared.scene.server.requests().is_empty());
    // An explicit setting is obeyed, with a warning.
    let run = run_at(&shared, &format!("{address}?sslmode=disable"), &[]);
    run.token();
    assert!(
        run.stderr
            .contains("without TLS, anyone on the way can read"),
        "{}",
        run.stderr
    );
    assert_eq!(shared.scene.server.spent_seen(), 0);
}
