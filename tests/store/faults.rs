//! A failing database: before a request nothing is sent, after it nothing is lost.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use super::hosts::{Host, Mode, Wire, wait_for};
use crate::harness::{Run, is_private, send_signal};
use crate::sandbox::Postgres;

/// Words that are only in the statement that saves a pair.
const SAVE: &str = "refreshed_at = now()";

/// How a database fails, and how it is repaired.
struct Failure {
    name: &'static str,
    breaks: fn(&Shared),
    is_mended: fn(&Shared),
}

const FAILURES: [Failure; 7] = [
    Failure {
        name: "killed",
        breaks: |shared| shared.database.kill().unwrap(),
        is_mended: |shared| shared.database.start_again().unwrap(),
    },
    Failure {
        name: "stopped at once",
        breaks: |shared| shared.database.stop("immediate").unwrap(),
        is_mended: |shared| shared.database.start_again().unwrap(),
    },
    Failure {
        name: "stopped",
        breaks: |shared| shared.database.stop("fast").unwrap(),
        is_mended: |shared| shared.database.start_again().unwrap(),
    },
    Failure {
        name: "read-only",
        breaks: |shared| set_read_only(shared, "on"),
        is_mended: |shared| set_read_only(shared, "off"),
    },
    Failure {
        name: "a database that is read-only",
        breaks: |shared| {
            let sql = "ALTER DATABASE feishu SET default_transaction_read_only = on";
            shared.database.query(sql);
            shared.disconnect();
        },
        is_mended: |shared| {
            let sql = "ALTER DATABASE feishu RESET default_transaction_read_only";
            shared.database.query(sql);
        },
    },
    Failure {
        name: "no connection for the role",
        breaks: |shared| {
            shared
                .database
                .query("ALTER ROLE feishu CONNECTION LIMIT 0");
            shared.disconnect();
        },
        is_mended: |shared| {
            shared
                .database
                .query("ALTER ROLE feishu CONNECTION LIMIT -1");
        },
    },
    Failure {
        name: "no column",
        breaks: |shared| {
            let sql = "ALTER TABLE feishu_refresh.login RENAME refresh_token TO other";
            shared.database.query(sql);
        },
        is_mended: |shared| {
            let sql = "ALTER TABLE feishu_refresh.login RENAME other TO refresh_token";
            shared.database.query(sql);
        },
    },
];

fn set_read_only(shared: &Shared, value: &str) {
    let settings = [("default_transaction_read_only", value)];
    shared.database.reload(&settings).unwrap();
}

#[test]
fn a_database_that_fails_after_the_request_gets_the_pair_once_it_is_back() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    for (number, failure) in FAILURES.iter().enumerate() {
        let mut run = host.held(&shared, &[]);
        (failure.breaks)(&shared);
        shared.scene.server.release();
        run.read_until("not saved yet");
        assert_eq!(host.leftovers().len(), 1, "{}", failure.name);
        (failure.is_mended)(&shared);
        let run = run.finish();
        assert_eq!(run.code, 0, "{}: {}", failure.name, run.stderr);
        assert!(shared.scene.server.gave(run.token()));
        assert_eq!(shared.scene.server.rotations(), 2 * number + 1);
        shared.assert_sound(&host);
    }
}

/// A restart during the request is over by the time of the save.
#[test]
fn a_database_that_starts_anew_during_the_request_costs_nothing() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    for mode in ["fast", "immediate"] {
        let run = host.held(&shared, &[]);
        shared.database.stop(mode).unwrap();
        shared.database.start_again().unwrap();
        let run = run.let_go(&shared.scene);
        assert_eq!(run.code, 0, "{mode}: {}", run.stderr);
        shared.assert_sound(&host);
    }
}

#[test]
fn a_database_that_stays_away_leaves_the_pair_in_a_journal_for_the_next_run() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    for (number, failure) in FAILURES.iter().enumerate() {
        let name = failure.name;
        let run = host.held(&shared, &["--lock-timeout", "1"]);
        (failure.breaks)(&shared);
        let run = run.let_go(&shared.scene);
        assert_eq!(run.code, 6, "{name}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{name}");
        let [journal] = &host.leftovers()[..] else {
            panic!("{name}: no journal")
        };
        assert!(
            run.stderr.contains(&journal.display().to_string()),
            "{name}: {}",
            run.stderr
        );
        assert!(is_private(journal));
        let text = fs::read_to_string(journal).unwrap();
        assert!(!text.contains("sandbox"), "{name}: not sealed: {text}");
        let asked = shared.scene.server.requests().len();
        // As long as it is down, nothing more is sent.
        let run = host.run(&shared, &["--lock-timeout", "1"]);
        let code = if name == "no column" { 3 } else { 5 };
        run.assert_failed(code, "nothing was sent");
        assert_eq!(shared.scene.server.requests().len(), asked, "{name}");
        (failure.is_mended)(&shared);
        // It has what the first run could not save: no other request is needed for it.
        let run = host.run(&shared, &["--min-ttl", "1m"]);
        assert!(shared.scene.server.gave(run.token()), "{name}");
        assert!(
            run.stderr.contains("it is saved now"),
            "{name}: {}",
            run.stderr
        );
        assert_eq!(shared.scene.server.requests().len(), asked, "{name}");
        assert_eq!(shared.scene.server.rotations(), 2 * number + 1);
        shared.assert_sound(&host);
        shared.expire();
    }
}

#[test]
fn a_database_that_fails_before_the_request_has_nothing_sent() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    for failure in &FAILURES {
        (failure.breaks)(&shared);
        let run = host.run(&shared, &["--lock-timeout", "1"]);
        let code = if failure.name == "no column" { 3 } else { 5 };
        assert_eq!(run.code, code, "{}: {}", failure.name, run.stderr);
        run.assert_failed(code, "nothing was sent");
        assert_eq!(shared.scene.server.requests().len(), 0, "{}", failure.name);
        (failure.is_mended)(&shared);
    }
    // It comes back in time.
    shared.database.stop("immediate").unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| host.run(&shared, &[]));
        shared.database.start_again().unwrap();
        run.join().unwrap().token();
    });
    shared.assert_sound(&host);
}

/// Takes up connections without authenticating.
fn take_connections(database: &Postgres, number: usize) -> Vec<TcpStream> {
    let words = b"\0\x03\0\0user\0feishu\0database\0feishu\0\0";
    let length = u32::try_from(words.len() + 4).unwrap().to_be_bytes();
    let take = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", database.port())).unwrap();
        stream.write_all(&[&length[..], words].concat()).unwrap();
        // It has a connection slot once it is asked for its password.
        stream.read_exact(&mut [0]).unwrap();
        stream
    };
    (0..number).map(take).collect()
}

#[test]
fn a_server_out_of_connections_is_waited_for() {
    let settings = [
        ("max_connections", "6"),
        ("superuser_reserved_connections", "3"),
    ];
    let Some(shared) = Shared::start_with(&settings) else {
        return;
    };
    let host = Host::new();
    // Before the request.
    let others = take_connections(&shared.database, 3);
    let run = host.run(&shared, &["--lock-timeout", "1"]);
    run.assert_failed(5, "53300");
    assert_eq!(shared.scene.server.requests().len(), 0);
    drop(others);
    // Between request and save.
    wait_for("the end of all connections", || shared.connections() == "0");
    let mut run = host.held(&shared, &[]);
    shared.disconnect();
    let others = take_connections(&shared.database, 3);
    shared.scene.server.release();
    run.read_until("not saved yet");
    drop(others);
    run.finish().token();
    shared.assert_sound(&host);
}

#[test]
fn time_limits_of_the_server_cost_nothing() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let limits = [
        ("statement_timeout", "200ms"),
        ("idle_in_transaction_session_timeout", "200ms"),
        ("idle_session_timeout", "200ms"),
        ("lock_timeout", "100ms"),
    ];
    shared.database.reload(&limits).unwrap();
    let host = Host::new();
    // The session of the run ends during its request.
    let run = host.held(&shared, &[]);
    wait_for("the end of its session", || shared.connections() == "0");
    run.let_go(&shared.scene).token();
    // Another has locked the row, before the request and before the save.
    let lock = "BEGIN; SELECT 1 FROM feishu_refresh.login FOR UPDATE; SELECT pg_sleep(600)";
    let sleepers = "FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' \
        AND state = 'active' AND pid <> pg_backend_pid()";
    thread::scope(|scope| {
        let locked = || {
            scope.spawn(|| shared.database.try_query(lock).unwrap_err());
            let count = format!("SELECT count(*) {sleepers}");
            wait_for("the lock", || shared.database.query(&count) == "1");
        };
        let unlocked = || {
            let end = format!("SELECT pg_terminate_backend(pid) {sleepers}");
            shared.database.query(&end);
        };
        locked();
        let run = host.run(&shared, &["--lock-timeout", "1"]);
        unlocked();
        run.assert_failed(5, "nothing was sent");
        assert_eq!(shared.scene.server.rotations(), 1);
        let mut run = host.held(&shared, &[]);
        locked();
        shared.scene.server.release();
        run.read_until("not saved yet");
        unlocked();
        run.finish().token();
    });
    shared.assert_sound(&host);
}

/// The server would keep what it confirmed only in memory for ten seconds.
#[test]
fn a_pair_outlives_a_crash_right_after_the_run() {
    let settings = [
        ("synchronous_commit", "off"),
        ("wal_writer_delay", "10s"),
        ("autovacuum", "off"),
    ];
    let Some(shared) = Shared::start_with(&settings) else {
        return;
    };
    let host = Host::new();
    for _ in 0..5 {
        host.run(&shared, &[]).token();
        let saved = shared.value("refresh_fingerprint");
        shared.database.kill().unwrap();
        shared.database.start_again().unwrap();
        assert_eq!(shared.value("refresh_fingerprint"), saved);
    }
    shared.assert_sound(&host);
}

/// Nobody answers, and nobody hangs up: a frozen server, and a dropped route.
#[test]
fn a_silent_database_is_not_waited_for_without_end() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let wire = Wire::to(shared.database.port());
    let host = wire.host(&shared);
    let mut run = host.held(&shared, &[]);
    wire.turn(Mode::Silent);
    shared.scene.server.release();
    run.read_until("not saved yet");
    wire.turn(Mode::Open);
    run.finish().token();
    shared.assert_sound(&host);
    // Only for a moment: the statement is executed late.
    let run = host.held(&shared, &[]);
    shared.database.freeze().unwrap();
    shared.scene.server.release();
    wait_for("the journal", || host.leftovers().len() == 1);
    shared.database.thaw().unwrap();
    run.finish().token();
    shared.assert_sound(&host);
    // For good.
    let run = host.held(&shared, &["--lock-timeout", "1"]);
    shared.database.freeze().unwrap();
    let begun = Instant::now();
    let run = run.let_go(&shared.scene);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    shared.database.thaw().unwrap();
    assert_eq!(run.code, 6, "{}", run.stderr);
    shared.assert_sound(&host);
}

#[test]
fn a_frozen_database_has_nothing_sent() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    shared.database.freeze().unwrap();
    let begun = Instant::now();
    let run = host.run(&shared, &["--lock-timeout", "1"]);
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    shared.database.thaw().unwrap();
    run.assert_failed(5, "nothing was sent");
    assert_eq!(shared.scene.server.requests().len(), 0);
    shared.assert_sound(&host);
}

#[test]
fn a_save_whose_answer_is_lost_is_no_stranger_to_itself() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let other = Host::new();
    for cut in [Mode::CutBefore(SAVE), Mode::CutAfter(SAVE)] {
        // This many runs of another host come in between, once it is saved.
        let between = if matches!(cut, Mode::CutAfter(_)) {
            3
        } else {
            0
        };
        for runs in 0..=between {
            let wire = Wire::to(shared.database.port());
            let host = wire.host(&shared);
            let before = shared.scene.server.rotations();
            let mut run = host.held(&shared, &[]);
            wire.turn(cut);
            shared.scene.server.release();
            run.read_until("not saved yet");
            let saved = shared.value("refresh_fingerprint");
            for _ in 0..runs {
                other.run(&shared, &[]).token();
            }
            let latest = shared.value("refresh_fingerprint");
            wire.turn(Mode::Open);
            assert!(shared.scene.server.gave(run.finish().token()));
            assert_eq!(shared.scene.server.rotations(), before + 1 + runs);
            assert_eq!(saved == latest, runs == 0);
            if between > 0 {
                assert_eq!(shared.value("refresh_fingerprint"), latest);
            }
            shared.assert_consistent(&host);
        }
    }
    shared.assert_sound(&other);
}

/// The answer to a claim is lost: the run finds its own claim.
#[test]
fn a_claim_whose_answer_is_lost_is_still_this_runs() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let wire = Wire::to(shared.database.port());
    let host = wire.host(&shared);
    wire.turn(Mode::CutAfter("generation = generation + 1"));
    thread::scope(|scope| {
        let run = scope.spawn(|| host.run(&shared, &["--lock-timeout", "4"]));
        wait_for("the claim", || !shared.value("lease_id").is_empty());
        wire.turn(Mode::Open);
        run.join().unwrap().token();
    });
    assert_eq!(shared.value("generation"), "2");
    shared.assert_sound(&host);
}

/// A signal shortens what would take minutes.
#[test]
fn a_signal_ends_a_save_that_fails_within_seconds() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    let mut run = host.held(&shared, &[]);
    shared.database.stop("immediate").unwrap();
    shared.scene.server.release();
    run.read_until("not saved yet");
    let begun = Instant::now();
    send_signal(&run.child, "TERM");
    let run = run.finish();
    let time = begun.elapsed();
    assert!(
        Duration::from_secs(3) < time && time < Duration::from_secs(9),
        "{time:?}"
    );
    assert_eq!(run.code, 128 + 15, "{}", run.stderr);
    let [journal] = &host.leftovers()[..] else {
        panic!("no journal: {}", run.stderr)
    };
    let named = format!("the new pair is in {}", journal.display());
    assert!(run.stderr.contains(&named), "{}", run.stderr);
    shared.database.start_again().unwrap();
    shared.assert_sound(&host);
}

#[test]
fn without_any_disk_the_sealed_pair_goes_to_stderr() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let host = Host::new();
    let mut program = host.program(&shared);
    program
        .env("XDG_STATE_HOME", "/proc/none")
        .env("TMPDIR", "/proc/none");
    program.args(["--lock-timeout", "1"]);
    program.env("FEISHU_REFRESH_FAIL", "before-save=errors");
    let run = Run::of(program.output().unwrap());
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(!run.stderr.contains("sandbox"), "{}", run.stderr);
    let rescue = shared.scene.folder().join("rescue");
    let is_sealed = |line: &&str| !line.contains(' ') && line.contains('.');
    fs::write(&rescue, run.stderr.lines().find(is_sealed).unwrap()).unwrap();
    let mut import = host.program(&shared);
    import
        .args(["store", "import", "-"])
        .stdin(fs::File::open(rescue).unwrap());
    let import = Run::of(import.output().unwrap());
    assert_eq!(import.code, 0, "{}\n{}", import.stderr, run.stderr);
    shared.assert_sound(&host);
}
