//! Many logins, and workers that refresh them side by side.

use std::collections::HashSet;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Shared;
use super::hosts::{Host, wait_for};
use crate::harness::{HeldRun, Run, send_signal};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, OTHER_APP_ID, Recorded};

/// Both documented limits, with a little room.
const SPACING: Duration = Duration::from_millis(62);

impl Shared {
    /// A store with so many logins of an app, `p0` and so on.
    fn with_many(api: &str, logins: usize) -> Option<Self> {
        let shared = Shared::without_login(&[])?;
        shared.trust_everybody();
        shared.add_many(api, APP_ID, "p", logins);
        Some(shared)
    }

    /// Moves so many new logins of an app into the store.
    fn add_many(&self, api: &str, app_id: &str, name: &str, logins: usize) {
        let server = &self.scene.server;
        let base_url = server.base_url();
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

    /// Asserts that no token was sent twice, that all that is held works, and that nothing is left behind.
    fn assert_all_sound(&self, host: &Host) {
        assert_eq!(self.scene.server.spent_seen(), 0, "a spent token was sent");
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

#[test]
fn workers_share_what_is_due() {
    let start = Instant::now();
    let Some(shared) = Shared::with_many("v2", 600) else {
        return;
    };
    eprintln!("filled in {:?}", start.elapsed());
    let hosts: Vec<_> = (0..4).map(|_| Host::new()).collect();
    let start = Instant::now();
    let workers = hosts.iter().map(|host| {
        let mut program = host.program(&shared);
        program.args(["--all", "--rate", "200", "-o", "json"]);
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        program.spawn().unwrap()
    });
    let workers: Vec<Child> = workers.collect();
    let runs = workers
        .into_iter()
        .map(|worker| Run::of(worker.wait_with_output().unwrap()));
    let runs: Vec<Run> = runs.collect();
    eprintln!("took {:?}", start.elapsed());
    let mut all = Vec::new();
    for run in &runs {
        run.assert_done();
        assert_eq!(run.stderr, "");
        eprintln!("{}", names(run).len());
        all.extend(names(run));
    }
    assert_eq!(all.len(), 600);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 600);
    assert_eq!(shared.scene.server.requests().len(), 600);
    for host in &hosts {
        shared.assert_all_sound(host);
    }
}
