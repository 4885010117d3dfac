//! Many logins, and workers that refresh them in parallel.

use std::collections::HashSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Shared;
use super::hosts::{Host, Mode, Wire, wait_for};
use crate::harness::{HeldRun, PROGRAM, Run, send_signal};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, OTHER_APP_ID, Recorded};

impl Shared {
    /// A store with this many logins of an app, `p0` and so on.
    fn with_many(api: &str, logins: usize) -> Option<Self> {
        let shared = Shared::without_login(&[])?;
        shared.trust_everybody();
        shared.add_many(api, APP_ID, "p", logins);
        Some(shared)
    }

    /// Moves this many new logins of an app into the store.
    fn add_many(&self, api: &str, app_id: &str, name: &str, logins: usize) {
        self.add_many_at(&self.scene.server.base_url(), api, app_id, name, logins);
    }

    /// The same for an app of another server.
    fn add_many_at(&self, base_url: &str, api: &str, app_id: &str, name: &str, logins: usize) {
        let server = &self.scene.server;
        let head =
            format!("[ID]\napp_id = {app_id}\napp_secret = {APP_SECRET}\nbase_url = {base_url}\n");
        let numbers: Vec<_> = (0..logins).collect();
        // A long file takes long.
        for numbers in numbers.chunks(20) {
            let section = |number| {
                let token = server.refresh_token_for(api);
                format!("[{name}{number}]\napi = {api}\nrefresh_token = {token}\n")
            };
            let sections: String = numbers.iter().map(section).collect();
            self.scene.write(format!("{head}{sections}"));
            self.run(&["store", "import"]).assert_done();
        }
    }

    fn count(&self, which: &str) -> usize {
        let sql = format!("SELECT count(*) FROM feishu_refresh.login WHERE {which}");
        self.database.query(&sql).parse().unwrap()
    }

    fn set(&self, what: &str) {
        let sql = format!("UPDATE feishu_refresh.login SET {what}");
        self.database.query(&sql);
    }

    /// Asserts that no token was sent twice, and that nothing is left behind.
    fn assert_all_sound(&self, host: &Host) {
        assert_eq!(self.scene.server.spent_seen(), 0, "a spent token was sent");
        self.assert_nothing_left(host);
    }

    fn assert_nothing_left(&self, host: &Host) {
        assert_eq!(host.leftovers().len(), 0);
        let left =
            "lease_id IS NOT NULL OR lease_until IS NOT NULL OR sent_fingerprint IS NOT NULL";
        assert_eq!(self.count(left), 0);
    }
}

/// The names in the objects on stdout.
fn names(run: &Run) -> Vec<String> {
    let name = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap();
        object["profile"].as_str().unwrap().to_owned()
    };
    run.stdout.lines().map(name).collect()
}

/// The most requests within such a window.
fn most_within(window: Duration, times: &[Instant]) -> usize {
    let within = |start: &Instant| {
        let is_within = |time: &&Instant| **time >= *start && **time < *start + window;
        times.iter().filter(is_within).count()
    };
    times.iter().map(within).max().unwrap_or_default()
}

/// Starts a worker.
fn start(shared: &Shared, host: &Host, arguments: &[&str]) -> Child {
    let mut program = host.program(shared);
    program.arg("--all").args(arguments);
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    program.spawn().unwrap()
}

fn end(worker: Child) -> Run {
    Run::of(worker.wait_with_output().unwrap())
}

/// How many requests a worker has in progress at most.
const MOST_IN_PROGRESS: usize = 16;

#[test]
fn four_workers_refresh_each_login_once() {
    let Some(shared) = Shared::with_many("v2", 600) else {
        return;
    };
    let hosts: Vec<_> = (0..4).map(|_| Host::new()).collect();
    // A worker that begins later must not take for due what another has refreshed.
    let arguments = ["--rate", "200", "-o", "json", "--min-ttl", "10m"];
    let workers = hosts.iter().map(|host| start(&shared, host, &arguments));
    let workers: Vec<Child> = workers.collect();
    let runs: Vec<Run> = workers.into_iter().map(end).collect();
    let mut all = Vec::new();
    for run in &runs {
        run.assert_done();
        assert_eq!(run.stderr, "");
        assert!(names(run).len() > 30, "one worker did all");
        all.extend(names(run));
    }
    assert_eq!(all.len(), 600);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 600);
    assert_eq!(shared.scene.server.requests().len(), 600);
    for host in &hosts {
        shared.assert_all_sound(host);
    }
}

#[test]
fn workers_that_are_killed_leave_their_logins_to_the_others() {
    const LOGINS: usize = 200;
    let Some(shared) = Shared::with_many("v2", LOGINS) else {
        return;
    };
    let host = Host::new();
    let arguments = ["--rate", "40", "--timeout", "1", "-q"];
    let mut workers: Vec<_> = (0..4).map(|_| start(&shared, &host, &arguments)).collect();
    let mut kills = 0;
    wait_for("the last login", || {
        thread::sleep(Duration::from_millis(300));
        if kills < 8 {
            let mut worker = workers.remove(0);
            worker.kill().unwrap();
            worker.wait().unwrap();
            kills += 1;
        }
        workers.retain_mut(|worker| worker.try_wait().unwrap().is_none());
        while workers.len() < 4 {
            workers.push(start(&shared, &host, &arguments));
        }
        // Two seconds of slots, the time-out, and ten seconds more.
        let long = "lease_id IS NOT NULL AND lease_until > now() + interval '13.5 s'";
        assert_eq!(shared.count(long), 0);
        shared.count("refreshed_at IS NULL AND state = 'live'") == 0
    });
    for worker in workers {
        end(worker);
    }
    assert!(kills > 2);
    let server = &shared.scene.server;
    // A token whose reply was unread when its worker was killed is sent again, and refused. On a busy machine, a worker
    // waits for several replies.
    let lost = server.spent_seen();
    assert!(
        lost <= MOST_IN_PROGRESS * kills,
        "{lost} tokens were sent twice, after {kills} kills"
    );
    let refused = shared.count("state = 'refused'");
    assert_eq!(refused, lost);
    // Those refreshed while none was left to do belonged to new workers from their start.
    let rotations = shared.count("previous_fingerprint IS NOT NULL");
    assert_eq!(rotations, LOGINS - refused);
}

/// When the requests of an app came.
fn times_of(shared: &Shared, app_id: &str) -> Vec<Instant> {
    let requests = shared.scene.server.requests();
    let of_app = |request: &&Recorded| request.body.contains(app_id);
    requests
        .iter()
        .filter(of_app)
        .map(|request| request.at)
        .collect()
}

#[test]
fn workers_keep_to_the_documented_limits_together() {
    const LOGINS: usize = 160;
    let Some(shared) = Shared::with_many("v2", LOGINS) else {
        return;
    };
    shared.add_many("v2", OTHER_APP_ID, "q", LOGINS);
    let host = Host::new();
    for workers in [3, 1] {
        shared.set("refreshed_at = NULL");
        let seen = shared.scene.server.requests().len();
        let workers: Vec<_> = (0..workers)
            .map(|_| start(&shared, &host, &["-q"]))
            .collect();
        // A worker that is stopped for a while sends nothing late, and the others go on.
        if workers.len() > 1 {
            wait_for("a request", || {
                shared.scene.server.requests().len() > seen + 20
            });
            send_signal(&workers[0], "STOP");
            thread::sleep(Duration::from_secs(2));
            send_signal(&workers[0], "CONT");
        }
        let is_one = workers.len() == 1;
        for worker in workers {
            end(worker).assert_done();
        }
        for app_id in [APP_ID, OTHER_APP_ID] {
            let times = times_of(&shared, app_id);
            let times = &times[times.len() - LOGINS..];
            assert!(most_within(Duration::from_secs(1), times) <= 36);
            // Three more than evenly spaced ones.
            let most = most_within(Duration::from_secs(5), times);
            assert!(most <= 81 + 17, "{most} within five seconds");
            if is_one {
                let took = *times.last().unwrap() - times[0];
                let allowed = Duration::from_millis(60 * (LOGINS as u64 - 1));
                let used = allowed.as_secs_f64() / took.as_secs_f64();
                // A busy machine uses less; half would mean that slots are wasted.
                assert!((0.5..1.0).contains(&used), "{used} of the rate is used");
            }
        }
    }
    assert_eq!(shared.scene.server.requests().len(), 4 * LOGINS);
    shared.assert_all_sound(&host);
}

#[test]
fn each_way_of_being_due_takes_what_is_due_and_no_more() {
    let Some(shared) = Shared::with_many("v2", 6) else {
        return;
    };
    let host = Host::new();
    let all = |arguments: &[&str]| {
        let run = host.run(
            &shared,
            &[&["--all", "--rate", "0", "-o", "json"], arguments].concat(),
        );
        run.assert_done();
        assert_eq!(run.stderr, "");
        let mut names = names(&run);
        names.sort();
        names.join(" ")
    };
    let set = |name: &str, what: &str| {
        let sql = format!("UPDATE feishu_refresh.login SET {what} WHERE name = '{name}'");
        shared.database.query(&sql);
    };
    // Neither: whatever was not refreshed since the run began.
    assert_eq!(all(&[]), "p0 p1 p2 p3 p4 p5");
    assert_eq!(all(&[]), "p0 p1 p2 p3 p4 p5");
    // The access token, or the refresh token, or either; an unknown expiry counts as expired.
    assert_eq!(all(&["--min-ttl", "10m"]), "");
    assert_eq!(all(&["--keep-alive", "2d"]), "");
    let is_due = "now() + interval";
    set("p0", &format!("access_expires_at = {is_due} '9 min'"));
    set("p1", "access_expires_at = NULL");
    set("p2", &format!("refresh_expires_at = {is_due} '47 h'"));
    set("p3", "refresh_expires_at = NULL");
    set(
        "p4",
        &format!("access_expires_at = {is_due} '11 min', refresh_expires_at = {is_due} '49 h'"),
    );
    assert_eq!(all(&["--min-ttl", "10m"]), "p0 p1");
    assert_eq!(all(&["--keep-alive", "2d"]), "p2 p3");
    set("p0", &format!("access_expires_at = {is_due} '9 min'"));
    set("p2", &format!("refresh_expires_at = {is_due} '47 h'"));
    assert_eq!(all(&["--min-ttl", "10m", "--keep-alive", "2d"]), "p0 p2");
    // With more than any token's lifetime, all are due each time, but once per run.
    assert_eq!(all(&["--min-ttl", "365d"]), "p0 p1 p2 p3 p4 p5");
    assert_eq!(all(&["--keep-alive", "365d"]), "p0 p1 p2 p3 p4 p5");
    // A login that is held back, refused, or leased by somebody is skipped.
    set("p0", "state = 'held'");
    set(
        "p1",
        "state = 'refused', refused_at = now(), refusal = 'dead'",
    );
    set(
        "p2",
        "lease_id = 'other', lease_until = now() + interval '1 min'",
    );
    set(
        "p3",
        "lease_id = 'other', lease_until = now() - interval '1 s'",
    );
    assert_eq!(all(&[]), "p3 p4 p5");
    // One can still be requested by name.
    host.run(&shared, &["-p", "p1"]).token();
    assert_eq!(all(&[]), "p1 p3 p4 p5");
    assert_eq!(shared.scene.server.spent_seen(), 0);
}

#[test]
fn a_login_that_failed_is_tried_again_later_and_later() {
    let Some(shared) = Shared::with_many("v2", 3) else {
        return;
    };
    let host = Host::new();
    let arguments = ["--all", "--rate", "0", "--retries", "0", "-o", "json"];
    let pause = "floor(extract(epoch FROM retry_at - now()) / 60) || ',' || failures";
    let failing = |column: &str| {
        let sql = format!("SELECT {column} FROM feishu_refresh.login WHERE failures > 0");
        shared.database.query(&sql)
    };
    for (failures, minutes) in [(1, 0), (2, 1), (3, 3)] {
        shared.scene.server.fail_next(Fault::reply(503, ""));
        let run = host.run(&shared, &arguments);
        assert_eq!(run.code, 5, "{}", run.stderr);
        let object: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
        assert_eq!(object["error"]["kind"], "temporary");
        assert_eq!(names(&run).len(), if failures == 1 { 2 } else { 0 });
        assert_eq!(failing(pause), format!("{minutes},{failures}"));
        // Not earlier: there is nothing to do, and nothing failed.
        let run = host.run(&shared, &[&arguments[..], &["--min-ttl", "1m"]].concat());
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (0, "", "")
        );
        shared.set("retry_at = now() WHERE failures > 0");
        shared.set("refreshed_at = now() + interval '1 h' WHERE failures = 0");
    }
    // At most a day.
    shared.set("failures = 40 WHERE failures > 0");
    shared.scene.server.fail_next(Fault::reply(503, ""));
    assert_eq!(host.run(&shared, &arguments).code, 5);
    assert_eq!(failing(pause), "1439,41");
    // Once it works again, all is as before.
    shared.set("retry_at = now() WHERE failures > 0");
    let run = host.run(&shared, &arguments);
    run.assert_done();
    assert_eq!(names(&run).len(), 1);
    assert_eq!(shared.count("failures > 0 OR retry_at IS NOT NULL"), 0);
    // A token that the server calls dead is not sent again, and the run says so.
    shared.set("refreshed_at = NULL");
    shared.scene.server.fail_next(Fault::reply(
        400,
        r#"{"code":20037,"error":"invalid_grant"}"#,
    ));
    let run = host.run(&shared, &arguments);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert_eq!(names(&run).len(), 2);
    assert_eq!(shared.count("state = 'refused'"), 1);
    shared.set("retry_at = NULL");
    assert_eq!(names(&host.run(&shared, &arguments)).len(), 2);
    shared.assert_all_sound(&host);
}

#[test]
fn an_app_token_is_fetched_once_for_all_workers() {
    let Some(shared) = Shared::with_many("v1", 40) else {
        return;
    };
    let hosts: Vec<_> = (0..4).map(|_| Host::new()).collect();
    let workers: Vec<_> = hosts
        .iter()
        .map(|host| start(&shared, host, &["-q"]))
        .collect();
    for worker in workers {
        end(worker).assert_done();
    }
    let requests = shared.scene.server.requests();
    let fetched = requests
        .iter()
        .filter(|request| request.path.contains("app_access_token"));
    assert_eq!(fetched.count(), 1);
    assert_eq!(requests.len(), 41);
    shared.assert_all_sound(&hosts[0]);
}

#[test]
fn a_wait_that_the_server_asks_for_is_for_all_workers() {
    let Some(shared) = Shared::with_many("v2", 60) else {
        return;
    };
    let (host, other) = (Host::new(), Host::new());
    shared.scene.server.fail_next(Fault::Reply {
        status: 429,
        headers: vec![("x-ogw-ratelimit-reset", "3".to_owned())],
        body: r#"{"code":99991400,"msg":"request trigger frequency limit"}"#.to_owned(),
    });
    let first = start(&shared, &host, &["-q", "--rate", "20"]);
    wait_for("the refusal", || !shared.scene.server.requests().is_empty());
    let held = "SELECT held_until > now() + interval '1500 ms' FROM feishu_refresh.pace";
    wait_for("the hold", || shared.database.query(held) == "t");
    // Another run comes, and waits, too; or does not, if told not to.
    let impatient = other.run(&shared, &["--all", "--max-wait", "0"]);
    impatient.assert_failed(5, "the server asked the app");
    let second = start(&shared, &other, &["-q", "--rate", "20"]);
    end(first).assert_done();
    end(second).assert_done();
    let requests = shared.scene.server.requests();
    let held = requests[0].at + Duration::from_millis(2900);
    let early = requests.iter().skip(1).filter(|request| request.at < held);
    // What was already in flight; for the second run, which began later, that login is due again.
    let early = early.count();
    assert!(early <= MOST_IN_PROGRESS);
    assert!((61..=61 + early).contains(&requests.len()));
    shared.assert_all_sound(&host);
}

#[test]
fn an_app_whose_server_is_gone_is_left_alone_and_the_others_are_not() {
    let Some(shared) = Shared::with_many("v2", 100) else {
        return;
    };
    // Nobody listens there.
    let gone = "http://127.0.0.1:9";
    shared.add_many_at(gone, "v2", APP_ID, "q", 120);
    let host = Host::new();
    let run = host.run(&shared, &["--all", "--rate", "0", "--retries", "0"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(
        run.stderr.contains("its others were left for the next run"),
        "{}",
        run.stderr
    );
    assert_eq!(shared.scene.server.rotations(), 100);
    let failed = shared.count("failures > 0");
    assert!((32..=96).contains(&failed), "{failed} failed");
    shared.assert_all_sound(&host);
}

#[test]
fn a_signal_ends_a_worker_cleanly() {
    let Some(shared) = Shared::with_many("v2", 60) else {
        return;
    };
    let host = Host::new();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let server = &shared.scene.server;
        let before = server.rotations();
        server.fail_next(Fault::Hold);
        let mut program = host.program(&shared);
        let run = HeldRun::spawn(program.args(["--all", "--rate", "50", "-v", "-o", "json"]));
        server.wait_until_held();
        wait_for("more leases", || shared.count("lease_id IS NOT NULL") > 5);
        send_signal(&run.child, signal);
        let mut run = run;
        run.read_until("a signal waits");
        let sent = server.requests().len();
        let run = run.let_go(&shared.scene);
        assert_eq!(run.code, code, "{}", run.stderr);
        // What was held is saved and reported, and no more was sent than was under way.
        assert!(server.requests().len() <= sent + MOST_IN_PROGRESS);
        assert_eq!(names(&run).len(), server.rotations() - before);
        assert!(server.rotations() > before);
        assert_eq!(shared.count("failures > 0"), 0);
        shared.assert_all_sound(&host);
    }
    // Nothing blocks the next.
    let run = host.run(&shared, &["--all", "--rate", "0", "-o", "json"]);
    run.assert_done();
    assert_eq!(names(&run).len(), 60);
}

#[test]
fn a_worker_with_another_key_spoils_nothing() {
    let Some(shared) = Shared::with_many("v2", 5) else {
        return;
    };
    let tokens = || {
        let sql = "SELECT string_agg(refresh_token, ' ' ORDER BY name) FROM feishu_refresh.login";
        shared.database.query(sql)
    };
    let host = Host::new();
    let before = tokens();
    let key = host.run(&shared, &["store", "key"]).stdout;
    let mut program = host.program(&shared);
    program.env_remove("FEISHU_STORE_KEY_FILE");
    program.env("FEISHU_STORE_KEY", key.trim()).arg("--all");
    let run = Run::of(program.output().unwrap());
    run.assert_failed(3, "is sealed with the key");
    assert_eq!(shared.count("failures > 0 OR lease_id IS NOT NULL"), 0);
    assert_eq!(tokens(), before);
    assert!(shared.scene.server.requests().is_empty());
    // A single row that does not open is one login's failure.
    shared.set("access_token = refresh_token WHERE name = 'p3'");
    let run = host.run(&shared, &["--all", "--rate", "0"]);
    run.assert_failed(3, "[p3]");
    assert_eq!(shared.scene.server.rotations(), 4);
    shared.assert_all_sound(&host);
    // So is one that is sealed with another key than the others.
    shared.set("refreshed_at = NULL, retry_at = NULL, access_token = NULL");
    shared.set("refresh_token = '0123abcd' || substr(refresh_token, 9) WHERE name = 'p0'");
    let run = host.run(&shared, &["--all", "--rate", "0"]);
    run.assert_failed(3, "is sealed with the key 0123abcd");
    assert_eq!(shared.scene.server.rotations(), 8);
    // That is not the login's fault, and blocks nobody, however many there are.
    assert_eq!(shared.count("failures > 0 AND name = 'p0'"), 0);
    shared.set("refreshed_at = NULL");
    shared.set("refresh_token = '0123abcd' || substr(refresh_token, 9) WHERE name <> 'p4'");
    let run = host.run(&shared, &["--all", "--rate", "10"]);
    run.assert_failed(3, "is sealed with the key 0123abcd");
    assert_eq!(shared.scene.server.rotations(), 9);
    shared.assert_all_sound(&host);
}

#[test]
fn a_claim_whose_answer_is_lost_is_made_again() {
    let Some(shared) = Shared::with_many("v2", 10) else {
        return;
    };
    for mode in [Mode::CutBefore, Mode::CutAfter] {
        let wire = Wire::to(shared.database.port());
        let host = wire.host(&shared);
        wire.turn(mode("WITH turn AS"));
        let worker = start(&shared, &host, &["-o", "json", "--rate", "50"]);
        wait_for("the cut", || wire.is_closed());
        wire.turn(Mode::Open);
        let run = end(worker);
        run.assert_done();
        assert_eq!(names(&run).len(), 10);
        shared.assert_all_sound(&host);
    }
    assert_eq!(shared.scene.server.requests().len(), 20);
}

#[test]
fn a_database_that_goes_away_costs_no_login() {
    let Some(shared) = Shared::with_many("v2", 60) else {
        return;
    };
    let host = Host::new();
    for mode in ["immediate", "fast"] {
        let seen = shared.scene.server.rotations();
        let worker = start(&shared, &host, &["-q", "--rate", "30"]);
        wait_for("some", || shared.scene.server.rotations() > seen + 10);
        shared.database.stop(mode).unwrap();
        shared.database.start_again().unwrap();
        end(worker).assert_done();
        assert_eq!(shared.scene.server.rotations(), seen + 60);
        shared.assert_all_sound(&host);
    }
}

#[test]
fn what_a_dead_worker_left_on_this_host_is_saved_and_not_asked_for_again() {
    let Some(shared) = Shared::with_many("v2", 3) else {
        return;
    };
    let host = Host::new();
    let mut program = host.program(&shared);
    program.env("FEISHU_REFRESH_FAIL", "after-record=abort");
    let run = Run::of(program.args(["--all", "--rate", "5"]).output().unwrap());
    assert_ne!(run.code, 0);
    assert_eq!(shared.scene.server.rotations(), 1);
    assert_eq!(host.leftovers().len(), 1);
    shared.set("lease_until = now() - interval '1 s'");
    let run = host.run(&shared, &["--all", "--rate", "0", "-o", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(names(&run).len(), 2);
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    assert_eq!(shared.scene.server.rotations(), 3);
    shared.assert_all_sound(&host);
}

#[test]
fn status_counts_the_logins_of_a_store_or_tells_one_after_the_other() {
    let Some(shared) = Shared::with_many("v2", 12) else {
        return;
    };
    let host = Host::new();
    host.run(&shared, &["--all", "--rate", "0"]).assert_done();
    let set = |names: &str, what: &str| shared.set(&format!("{what} WHERE name IN ({names})"));
    shared.set("refresh_expires_at = now() + interval '8 days'");
    set("'p0', 'p1'", "access_expires_at = now() - interval '1 s'");
    set("'p2'", "access_expires_at = NULL");
    set(
        "'p3', 'p4'",
        "refresh_expires_at = now() + interval '6 days'",
    );
    set("'p5'", "retry_at = now() + interval '1 h', failures = 7");
    let counts = |run: &Run| {
        let lines = run.stdout.lines().skip(1);
        let numbers = lines.map(|line| line.split_whitespace().next().unwrap().to_owned());
        numbers.collect::<Vec<_>>().join(" ")
    };
    let run = host.run(&shared, &["status"]);
    run.assert_done();
    assert!(
        run.stdout.starts_with("12 logins in postgres://"),
        "{}",
        run.stdout
    );
    assert_eq!(counts(&run), "9 3 2 1 0 0 0");
    for (within, ending) in [("7d", 2), ("9d", 12), ("5d", 0)] {
        let run = host.run(&shared, &["status", "--warn-within", within]);
        let line = format!("{ending:>9}  to be refreshed within {within}: ");
        assert!(run.stdout.contains(&line), "{}", run.stdout);
        let warning = format!("the refresh tokens of {ending} logins of postgres://");
        assert_eq!(run.stderr.contains(&warning), ending > 0, "{}", run.stderr);
        assert_eq!(run.code, if ending > 0 { 4 } else { 0 });
    }
    let run = host.run(&shared, &["status", "--all", "--warn-within", "7d"]);
    assert!(
        run.stderr.contains("tokens of [p3], [p4] of"),
        "{}",
        run.stderr
    );
    set(
        "'p6'",
        "refresh_expires_at = now() - interval '1 s', access_expires_at = NULL",
    );
    set(
        "'p7', 'p8'",
        "state = 'refused', refused_at = now(), refusal = 'dead'",
    );
    set("'p9'", "state = 'held'");
    let run = host.run(&shared, &["status"]);
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains("4 logins of postgres://"));
    assert!(run.stderr.contains("status --all"), "{}", run.stderr);
    assert_eq!(counts(&run), "5 3 2 1 1 2 1");
    // For a program, or with --all or a name, each.
    for arguments in [
        &["status", "-o", "json"][..],
        &["status", "-o", "json", "--all"],
    ] {
        let run = host.run(&shared, arguments);
        assert_eq!(run.code, 4);
        let stuck = "[p6], [p7], [p8], [p9] of postgres://";
        assert!(run.stderr.contains(stuck), "{}", run.stderr);
        let expected = [
            "p0", "p1", "p10", "p11", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9",
        ];
        assert_eq!(names(&run), expected);
    }
    let run = host.run(&shared, &["status", "--all"]);
    assert_eq!(run.stdout.matches("fail: ").count(), 4);
    let run = host.run(&shared, &["status", "-p", "p0"]);
    run.assert_done();
    assert!(run.stdout.contains("ended"), "{}", run.stdout);
}

#[test]
fn status_streams_more_logins_than_it_looks_at_together() {
    let Some(shared) = Shared::with_many("v2", 4) else {
        return;
    };
    // Only the first ones open under their names: that is reported for each.
    shared.database.query(
        "INSERT INTO feishu_refresh.login \
         SELECT (jsonb_populate_record(l, jsonb_build_object('name', 'x' || n))).* \
         FROM feishu_refresh.login l, generate_series(1, 1300) n WHERE name = 'p0'",
    );
    let run = Host::new().run(&shared, &["status", "-o", "json"]);
    assert_eq!(run.code, 4);
    let stuck = " and 1280 more of postgres://";
    assert!(run.stderr.contains(stuck), "{}", run.stderr);
    assert_eq!(names(&run).iter().collect::<HashSet<_>>().len(), 1304);
}

#[test]
fn no_wait_that_nobody_asked_for_ends_a_worker() {
    let Some(shared) = Shared::with_many("v2", 50) else {
        return;
    };
    let host = Host::new();
    // An app's queue is not a wait that its server asked for.
    let run = host.run(&shared, &["--all", "--rate", "20", "--max-wait", "0"]);
    run.assert_done();
    assert_eq!(shared.scene.server.rotations(), 50);
    shared.assert_all_sound(&host);
}

#[test]
fn logins_without_an_app_keep_a_slow_pace_of_their_own() {
    let Some(shared) = Shared::without_login(&[]) else {
        return;
    };
    shared.add_many("115", APP_ID, "disk", 10);
    let host = Host::new();
    let begun = Instant::now();
    let run = host.run(
        &shared,
        &["--all", "--rate", "1", "--timeout", "1", "-o", "json"],
    );
    run.assert_done();
    assert_eq!(names(&run).len(), 10);
    assert!(begun.elapsed() >= Duration::from_secs(9));
    assert_eq!(shared.scene.server.requests().len(), 10);
    shared.assert_all_sound(&host);
}

#[test]
fn a_signal_between_two_attempts_does_not_hide_that_a_reply_was_lost() {
    let Some(shared) = Shared::with_many("v2", 1) else {
        return;
    };
    let host = Host::new();
    shared.scene.server.fail_next(Fault::CloseAfterSpending);
    let mut program = host.program(&shared);
    let mut run = HeldRun::until(program.args(["--all", "-v"]), "trying again");
    send_signal(&run.child, "TERM");
    run.read_until("a signal waits");
    assert_eq!(run.finish().code, 143);
    assert_eq!(
        shared.count("unanswered_fingerprint = refresh_fingerprint"),
        1
    );
    shared.assert_nothing_left(&host);
    let run = host.run(&shared, &["--all", "--retries", "0"]);
    assert!(run.stderr.contains("and got no answer"), "{}", run.stderr);
}

#[test]
fn a_signal_shortens_a_save_that_fails() {
    let Some(shared) = Shared::with_many("v2", 1) else {
        return;
    };
    let host = Host::new();
    let server = &shared.scene.server;
    server.fail_next(Fault::Hold);
    let mut program = host.program(&shared);
    let mut run = HeldRun::spawn(program.args(["--all", "-v"]));
    server.wait_until_held();
    shared.database.stop("immediate").unwrap();
    server.release();
    run.read_until("rotated, but not saved yet");
    let begun = Instant::now();
    send_signal(&run.child, "TERM");
    let run = run.finish();
    assert_eq!(run.code, 143, "{}", run.stderr);
    assert!(run.stderr.contains("the new pair is in "), "{}", run.stderr);
    let took = begun.elapsed();
    assert!((4..20).contains(&took.as_secs()), "{took:?}");
    // The next one saves what it left.
    shared.database.start_again().unwrap();
    shared.set("lease_until = now()");
    let run = host.run(&shared, &["--all", "-o", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    assert_eq!(server.rotations(), 1);
    shared.assert_all_sound(&host);
}

/// No signal's default action ends a container's first process.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_a_worker_that_is_a_containers_first_process() {
    let as_first = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]);
        command
    };
    if !as_first()
        .arg("true")
        .output()
        .is_ok_and(|run| run.status.success())
    {
        return;
    }
    let Some(shared) = Shared::with_many("v2", 40) else {
        return;
    };
    let host = Host::new();
    let server = &shared.scene.server;
    let program = host.program(&shared);
    let mut command = as_first();
    command.arg(PROGRAM).args(["--all", "-v", "--rate", "10"]);
    command.env_clear();
    let variables = program.get_envs();
    command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(shared.scene.folder());
    let mut run = HeldRun::spawn(&mut command);
    wait_for("some", || server.rotations() > 3);
    // unshare waits for its child.
    let child = format!("/proc/{0}/task/{0}/children", run.child.id());
    let child = fs::read_to_string(child).unwrap();
    let killed = Command::new("kill")
        .args(["-s", "TERM", child.trim()])
        .output();
    assert!(killed.unwrap().status.success());
    run.read_until("a signal waits");
    assert_eq!(run.finish().code, 143);
    assert!(server.rotations() < 40);
    shared.assert_all_sound(&host);
}

#[test]
fn a_journal_mends_a_login_that_another_host_was_refused_for() {
    let Some(shared) = Shared::with_many("v2", 2) else {
        return;
    };
    let (first, second) = (Host::new(), Host::new());
    let mut program = first.program(&shared);
    program.env("FEISHU_REFRESH_FAIL", "before-save=abort");
    let run = Run::of(program.args(["--all", "--rate", "0.2"]).output().unwrap());
    assert_ne!(run.code, 0);
    shared.set("lease_until = now() - interval '1 s'");
    let run = second.run(&shared, &["--all", "--rate", "0"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert_eq!(shared.count("state = 'refused'"), 1);
    // Nothing is due for the first host, except what it has.
    let run = first.run(&shared, &["--all", "--min-ttl", "1m"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    assert_eq!(shared.count("state = 'live'"), 2);
    assert_eq!(shared.scene.server.spent_seen(), 1);
    shared.assert_nothing_left(&first);
    // All stored tokens work.
    let run = second.run(&shared, &["--all", "--rate", "0", "-o", "json"]);
    run.assert_done();
    assert_eq!(names(&run).len(), 2);
}

#[test]
fn a_row_that_somebody_has_locked_holds_up_no_other() {
    let Some(shared) = Shared::with_many("v2", 10) else {
        return;
    };
    let host = Host::new();
    let lock = "DO $$ BEGIN PERFORM FROM feishu_refresh.login WHERE name = 'p3' FOR UPDATE; \
        PERFORM pg_sleep(60); END $$";
    let database = &shared.database;
    let of_lockers =
        "FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";
    thread::scope(|scope| {
        scope.spawn(|| database.try_query(lock));
        let locked = format!("SELECT count(*) {of_lockers} AND wait_event = 'PgSleep'");
        wait_for("the lock", || database.query(&locked) == "1");
        let arguments = ["--all", "--rate", "0", "--lock-timeout", "2", "-o", "json"];
        let run = host.run(&shared, &arguments);
        database.query(&format!("SELECT pg_terminate_backend(pid) {of_lockers}"));
        assert_eq!(run.code, 5, "{}", run.stderr);
        assert_eq!(names(&run).len(), 9);
        let why = "others have locked their rows";
        assert!(run.stderr.contains(why), "{}", run.stderr);
    });
    host.run(&shared, &["--all", "--min-ttl", "1m"])
        .assert_done();
    shared.assert_all_sound(&host);
}
