//! Killed runs: the next run saves whatever had been read, and nothing is sent twice.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use super::hosts::{Host, Mode, Wire};
use crate::harness::{ABORTED, HeldRun, Run};
use crate::sandbox::Fault;

/// Where a run can be killed, and whether its pair is on disk then.
const POINTS: [(&str, bool); 9] = [
    ("after-lease", true),
    ("after-reserve", true),
    ("before-record", false),
    ("before-journal", false),
    ("before-journal-is-written", false),
    ("after-record", true),
    ("before-save", true),
    ("after-commit", true),
    ("before-journal-is-removed", true),
];

/// What a run says if its predecessor got a reply that nobody read.
const LOST: &str = "its successor is lost";

/// Restores a login whose last reply was lost, as a new one.
fn put_back(shared: &Shared) {
    shared.database.query("DELETE FROM feishu_refresh.login");
    shared.scene.write(shared.scene.server.config_file());
    shared.run(&["store", "import"]).assert_done();
}

#[test]
fn a_run_that_is_ended_at_any_point_costs_nothing() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let server = &shared.scene.server;
    let host = Host::new();
    for (point, is_on_disk) in POINTS {
        let before = (server.rotations(), server.spent_seen());
        let run = host.failing(&shared, &format!("{point}=abort"));
        assert_eq!(run.code, ABORTED, "{point}: {}", run.stderr);
        assert_eq!(run.stdout, "");
        let was_sent = !point.ends_with("lease") && !point.ends_with("reserve");
        assert_eq!(
            server.rotations() - before.0,
            usize::from(was_sent),
            "{point}"
        );
        if !is_on_disk {
            shared.end_lease();
            let run = host.run(&shared, &[]);
            run.assert_failed(4, LOST);
            assert_eq!(host.leftovers().len(), 0, "{point}");
            put_back(&shared);
            continue;
        }
        if !was_sent {
            shared.end_lease();
        }
        // After a reply, no lease is waited for: the default one is much longer.
        let begun = Instant::now();
        let run = host.run(&shared, &["--lock-timeout", "10"]);
        assert!(server.gave(run.token()), "{point}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{point}");
        assert_eq!(server.spent_seen(), before.1, "{point}");
        shared.assert_consistent(&host);
    }
}

/// The run that restores a pair dies, too, at every point.
#[test]
fn a_run_that_is_ended_while_it_puts_a_pair_back_costs_nothing() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let host = Host::new();
    for second in [
        "before-save",
        "after-commit",
        "after-reserve",
        "after-record",
    ] {
        let run = host.failing(&shared, "after-record=abort");
        assert_eq!(run.code, ABORTED, "{second}: {}", run.stderr);
        let run = host.failing(&shared, &format!("{second}=abort"));
        assert_eq!(run.code, ABORTED, "{second}: {}", run.stderr);
        shared.end_lease();
        shared.assert_sound(&host);
    }
    // Errors are not taken for an outcome.
    for point in [
        "before-save=error",
        "after-commit=error",
        "before-journal=error",
    ] {
        let run = host.failing(&shared, point);
        assert!(shared.scene.server.gave(run.token()), "{point}");
        shared.assert_sound(&host);
    }
}

/// What a dead run left cannot be saved while the database is down: then nothing is sent.
#[test]
fn a_journal_is_never_passed_over() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let wire = Wire::to(shared.database.port());
    let host = wire.host(&shared);
    host.failing(&shared, "after-record=abort");
    let asked = shared.scene.server.requests().len();
    wire.turn(Mode::CutBefore("refreshed_at = now()"));
    let run = host.run(&shared, &["--lock-timeout", "1"]);
    run.assert_failed(5, "nothing was sent");
    assert_eq!(shared.scene.server.requests().len(), asked);
    assert_eq!(host.leftovers().len(), 1);
    wire.turn(Mode::Open);
    shared.assert_sound(&host);
}

/// Pseudo-random numbers, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn three_hundred_kills_lose_nothing_that_was_read() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let server = &shared.scene.server;
    let host = Host::new();
    host.run(&shared, &[]).token();
    let begun = Instant::now();
    host.run(&shared, &[]).token();
    let whole = u64::try_from(begun.elapsed().as_micros()).unwrap();
    let mut chance = Chance(0x5DEE_CE66_D1CE_5EED);
    let (mut lost, mut kept, mut ended) = (0, 0, 0);
    let mut saved = shared.value("refresh_fingerprint");
    for number in 0..300 {
        let (rotations, spent) = (server.rotations(), server.spent_seen());
        let mut program = host.program(&shared);
        program.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = program.spawn().unwrap();
        thread::sleep(Duration::from_micros(chance.below(whole)));
        child.kill().unwrap();
        ended += usize::from(child.wait().unwrap().success());
        server.settle().unwrap();
        let was_rotated = server.rotations() > rotations;
        // No other run waits for the lease of the dead one.
        let now = shared.database.query(
            "UPDATE feishu_refresh.login SET lease_until = now() - interval '1 s' \
             RETURNING refresh_fingerprint",
        );
        let is_saved = now != saved;
        saved = now;
        let is_kept = (host.leftovers().iter()).any(|path| fs::metadata(path).unwrap().len() > 0);
        kept += usize::from(is_kept && !is_saved && was_rotated);
        if was_rotated && !is_saved && !is_kept {
            // The kill came between the server's answer and its reading.
            lost += 1;
            host.run(&shared, &[]).assert_failed(4, LOST);
            put_back(&shared);
            saved = shared.value("refresh_fingerprint");
        } else if is_kept || number % 10 == 9 {
            let run = host.run(&shared, &["--lock-timeout", "10"]);
            assert!(server.gave(run.token()));
            assert_eq!(server.spent_seen(), spent, "{number}");
            shared.assert_consistent(&host);
            saved = shared.value("refresh_fingerprint");
        }
    }
    println!("{lost} replies were not read, {kept} pairs put back, {ended} runs were faster");
    // More would be replies that were read; on a busy machine, reading takes time.
    assert!(lost < 100, "{lost}");
    host.run(&shared, &[]).token();
    shared.assert_consistent(&host);
}

/// The waiting run has looked for journals before the other wrote its own.
#[test]
fn a_run_that_waited_finds_what_the_other_left() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let server = &shared.scene.server;
    let host = Host::new();
    server.fail_next(Fault::Hold);
    let mut program = host.program(&shared);
    program.env("FEISHU_REFRESH_FAIL", "after-record=abort");
    let first = HeldRun::spawn(program.arg("-v"));
    server.wait_until_held();
    let second = HeldRun::until(&mut host.program(&shared), "waiting for");
    server.release();
    assert_eq!(first.finish().code, ABORTED);
    shared.end_lease();
    assert!(server.gave(second.finish().token()));
    assert_eq!((server.rotations(), server.spent_seen()), (1, 0));
    shared.assert_consistent(&host);
}

#[test]
fn a_login_that_was_deleted_meanwhile_is_in_a_journal() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let host = Host::new();
    let run = host.held(&shared, &[]);
    shared.database.query("DELETE FROM feishu_refresh.login");
    let run = run.let_go(&shared.scene);
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(run.stderr.contains("the login was deleted there"));
    assert_eq!(host.leftovers().len(), 1);
    host.run(&shared, &[])
        .assert_failed(3, "has no login [TOKEN]");
}

/// A run refused on another host must know that the token may have been spent in vain.
#[test]
fn a_reply_that_was_lost_is_known_to_the_other_hosts() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let (host, other) = (Host::new(), Host::new());
    shared.scene.server.fail_next(Fault::CloseAfterSpending);
    let run = host.run(&shared, &["--retries", "0"]);
    run.assert_failed(5, "a reply may have been lost");
    assert_eq!(shared.value("lease_id"), "");
    other.run(&shared, &[]).assert_failed(4, LOST);
}

/// The lease of a run that could not save remains: the row's token is spent, and others must know.
#[test]
fn a_pair_that_is_not_saved_keeps_others_from_its_predecessor() {
    let Some(shared) = Shared::start() else {
        return;
    };
    shared.trust_everybody();
    let server = &shared.scene.server;
    let (host, other) = (Host::new(), Host::new());
    let mut program = host.program(&shared);
    program.env("FEISHU_REFRESH_FAIL", "before-save=errors");
    program.args(["--lock-timeout", "1"]);
    let run = Run::of(program.output().unwrap());
    assert_eq!(run.code, 6, "{}", run.stderr);
    let run = other.run(&shared, &["--lock-timeout", "1"]);
    run.assert_failed(5, "is being refreshed by");
    assert_eq!(server.spent_seen(), 0);
    // The lease ends, and no other has the pair.
    shared.end_lease();
    other.run(&shared, &[]).assert_failed(4, LOST);
    assert_eq!(shared.value("state"), "refused");
    // The host that has the pair heals the login.
    assert!(server.gave(host.run(&shared, &[]).token()));
    assert!(server.gave(other.run(&shared, &[]).token()));
    assert_eq!(server.spent_seen(), 1);
    shared.assert_consistent(&host);
}
