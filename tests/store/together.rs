//! Many runs at once, from one host and from several.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::Shared;
use super::hosts::{Host, wait_for};
use crate::harness::{Run, send_signal};
use crate::sandbox::Fault;

/// Runs this often from these hosts, twenty at a time; returns each run's result.
fn run_often(shared: &Shared, hosts: &[Host], times: usize, arguments: &[&str]) -> Vec<Run> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let mut runs = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= times {
                            return runs;
                        }
                        let mut run = hosts[number % hosts.len()].run(shared, arguments);
                        // As somebody would who asks too much of a small machine.
                        while run.code == 5 && run.stderr.contains("does not answer within 5 s") {
                            run = hosts[number % hosts.len()].run(shared, arguments);
                        }
                        runs.push(run);
                    }
                })
            })
            .collect();
        let runs = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap());
        runs.collect()
    })
}

/// The server accepts exactly as many as there are, including the one that refreshes.
#[test]
fn a_thousand_runs_refresh_an_expired_login_once() {
    let Some(shared) = Shared::start_with(&[("max_connections", "25")]) else {
        return;
    };
    shared.trust_everybody();
    let hosts = [Host::new(), Host::new()];
    hosts[0].run(&shared, &[]).token();
    for (round, hosts) in [&hosts[..1], &hosts].into_iter().enumerate() {
        shared.expire();
        let asked = shared.scene.server.requests().len();
        let runs = run_often(&shared, hosts, 500 * (2 - round), &["--min-ttl", "1m"]);
        let token = runs[0].token();
        assert!(shared.scene.server.gave(token));
        for run in &runs {
            assert_eq!(run.token(), token);
        }
        assert_eq!(shared.scene.server.requests().len(), asked + 1);
        assert_eq!(shared.scene.server.rotations(), round + 2);
    }
    shared.assert_sound(&hosts[1]);
}

/// The client names in statements that claim a login.
fn claimants(shared: &Shared) -> usize {
    let log = shared.database.log();
    let is_claimed_by = |name: &String| {
        let mut lines = log.lines();
        lines.any(|line| line.contains(name) && line.contains("generation = generation + 1"))
    };
    let names = (0..20).map(|number| format!(" run{number} "));
    names.filter(is_claimed_by).count()
}

#[test]
fn twenty_at_once_from_two_hosts_queue_and_share_one_refresh() {
    let prefix = ("log_line_prefix", "%m [%p] %q%u@%d %a ");
    let settings = [("max_connections", "25"), prefix];
    let Some(shared) = Shared::start_with(&settings) else {
        return;
    };
    shared.trust_everybody();
    let address = |number| format!("{}?application_name=run{number}", shared.database.address());
    let hosts: Vec<_> = (0..20).map(|n| Host::with_address(address(n))).collect();
    // A login that was never refreshed here, and one whose access token is still valid.
    shared.scene.server.fail_next(Fault::Hold);
    let runs: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| host.run(&shared, &[])))
            .collect();
        // Each has seen the old token before the new one comes.
        wait_for("twenty claims", || claimants(&shared) == 20);
        shared.scene.server.release();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for run in &runs {
        assert_eq!(run.token(), runs[0].token());
    }
    assert_eq!(shared.scene.server.requests().len(), 1);
    // Without any order, some share and some refresh: all succeed.
    let rotations = shared.scene.server.rotations();
    for run in run_often(&shared, &hosts, 100, &[]) {
        assert!(shared.scene.server.gave(run.token()));
    }
    assert!(shared.scene.server.rotations() > rotations);
    for host in &hosts {
        shared.assert_consistent(host);
    }
    shared.assert_sound(&hosts[0]);
}

/// A run that is stopped past its lease finds that another has replaced it.
#[test]
fn a_run_that_wakes_up_after_a_takeover_heals_the_login() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (sleeper, other) = (Host::new(), Host::new());
    let server = &shared.scene.server;
    let run = sleeper.held(&shared, &[]);
    send_signal(&run.child, "STOP");
    server.release();
    wait_for("the rotation", || server.rotations() == 1);
    shared.end_lease();
    let taken = other.run(&shared, &[]);
    taken.assert_failed(4, "its successor is lost");
    assert!(
        taken.stderr.contains("sent this refresh token at"),
        "{}",
        taken.stderr
    );
    assert_eq!(
        (shared.value("state"), server.spent_seen()),
        ("refused".to_owned(), 1)
    );
    send_signal(&run.child, "CONT");
    assert!(server.gave(run.finish().token()));
    shared.assert_consistent(&sleeper);
    assert!(server.gave(other.run(&shared, &[]).token()));
    assert_eq!((server.rotations(), server.spent_seen()), (2, 1));
    shared.assert_consistent(&other);
}

/// The other is still refreshing when the first wakes up: its own token is refused, and it takes the new one.
#[test]
fn a_run_that_was_overtaken_takes_what_the_other_saved() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (sleeper, other) = (Host::new(), Host::new());
    let server = &shared.scene.server;
    let run = sleeper.held(&shared, &[]);
    shared.end_lease();
    let taken = other.run(&shared, &[]);
    let run = run.let_go(&shared.scene);
    assert_eq!(run.token(), taken.token());
    assert_eq!((server.rotations(), server.spent_seen()), (1, 1));
    for host in [&sleeper, &other] {
        shared.assert_consistent(host);
    }
    other.run(&shared, &[]).token();
}

/// A PgBouncer lends each transaction one of a few connections.
#[test]
fn twenty_at_once_through_a_pgbouncer_refresh_once() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let Some(bouncer) = shared.database.pgbouncer(2).unwrap() else {
        return;
    };
    let hosts = [bouncer.address(), bouncer.address()].map(Host::with_address);
    hosts[0].run(&shared, &[]).token();
    shared.expire();
    let runs = run_often(&shared, &hosts, 40, &["--min-ttl", "1m"]);
    for run in &runs {
        assert_eq!(run.token(), runs[0].token());
    }
    assert_eq!(shared.scene.server.requests().len(), 2);
    // The server behind it goes away during a request, and comes back.
    let mut run = hosts[0].held(&shared, &[]);
    shared.database.stop("immediate").unwrap();
    shared.scene.server.release();
    run.read_until("not saved yet");
    shared.database.start_again().unwrap();
    run.finish().token();
    shared.assert_sound(&hosts[1]);
}

#[test]
fn a_standby_is_passed_over_until_it_takes_over() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let standby = shared.database.standby().unwrap();
    let (main, second) = (shared.database.port(), standby.port());
    let both = format!("127.0.0.1:{second},127.0.0.1:{main}");
    let address = shared.database.address();
    let both = Host::with_address(address.replace(&format!("127.0.0.1:{main}"), &both));
    let alone = Host::with_address(standby.address());
    both.run(&shared, &[]).token();
    let asked = shared.scene.server.requests().len();
    let run = alone.run(&shared, &["--lock-timeout", "1"]);
    run.assert_failed(5, "is read-only");
    // It is promoted during a request.
    let mut run = both.held(&shared, &[]);
    assert_eq!(shared.scene.server.requests().len(), asked + 1);
    standby.catch_up(&shared.database).unwrap();
    shared.database.kill().unwrap();
    shared.scene.server.release();
    run.read_until("not saved yet");
    standby.promote().unwrap();
    let run = run.finish();
    assert!(shared.scene.server.gave(run.token()));
    for host in [&both, &alone] {
        assert!(shared.scene.server.gave(host.run(&shared, &[]).token()));
        assert_eq!(host.leftovers().len(), 0);
    }
    assert_eq!(shared.scene.server.spent_seen(), 0);
    let rotations = shared.scene.server.rotations();
    assert_eq!(rotations, asked + 3);
}
