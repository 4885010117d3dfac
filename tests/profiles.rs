//! Many profiles in one run.

use std::collections::HashSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[cfg(unix)]
use crate::harness::send_signal;
use crate::harness::{HeldRun, Run, Scene, lock_of, value_in};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, Recorded};
#[cfg(unix)]
use crate::system::Mount;

/// The shared app, and what precedes the profiles.
fn head(scene: &Scene) -> String {
    let base_url = scene.server.base_url();
    format!("; mine\n[ID]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {base_url}\n")
}

/// A file with this many profiles of v1, `p0` and so on.
pub fn scene(profiles: usize) -> Scene {
    let scene = Scene::without_file();
    let mut text = head(&scene);
    for index in 0..profiles {
        let token = scene.server.refresh_token();
        text.push_str(&format!("\n[p{index}]\nrefresh_token = {token}\n"));
    }
    scene.write(text);
    scene
}

/// The text of one section.
pub fn section(text: &str, name: &str) -> String {
    let start = text.split_once(&format!("[{name}]\n"));
    let section = start.unwrap_or_else(|| panic!("no [{name}] in {text}")).1;
    section.split("\n[").next().unwrap().to_owned() + "\n"
}

/// Puts a token into a profile that the server does not take.
fn lose(scene: &Scene, name: &str) {
    let token = value_in(&section(&scene.text(), name), "refresh_token");
    scene.write(scene.text().replace(&token, "ur-unknown"));
}

fn all(scene: &Scene, arguments: &[&str]) -> Run {
    scene.run([&["--all", "--rate", "0"], arguments].concat())
}

/// The names of the profiles in a text whose refresh tokens the server does not take.
pub fn dead(scene: &Scene) -> Vec<String> {
    let text = scene.text();
    let names = text
        .split("\n[")
        .skip(1)
        .filter_map(|s| s.split(']').next());
    let profiles = names.filter(|name| section(&text, name).contains("refresh_token = "));
    let is_dead = |name: &&str| {
        !scene
            .server
            .is_live(&value_in(&section(&text, name), "refresh_token"))
    };
    profiles.filter(is_dead).map(str::to_owned).collect()
}

/// Asserts that every profile has a working token, that none was spent twice, and that nothing is left behind.
pub fn assert_sound(scene: &Scene) {
    assert_eq!(dead(scene), [""; 0]);
    assert_eq!(scene.server.spent_seen(), 0, "a spent token was sent");
    assert_eq!(scene.file_names(), ["feishu-config.ini"]);
}

fn refreshes(scene: &Scene) -> Vec<Recorded> {
    let requests = scene.server.requests().into_iter();
    requests
        .filter(|request| !request.path.contains("app_access_token"))
        .collect()
}

#[test]
fn each_profile_goes_its_own_way_in_one_run() {
    let scene = Scene::without_file();
    let base_url = scene.server.base_url();
    let mut text = head(&scene) + "\n[empty]\nrefresh_token =\n[notes]\nx = 1\n";
    for (name, api) in [
        ("a", "v1"),
        ("b", "v2"),
        ("c", "oidc"),
        ("d", "115"),
        ("e", "v1"),
    ] {
        let token = scene.server.refresh_token_for(api);
        let home = if api == "115" {
            &format!("base_url = {base_url}\n")
        } else {
            ""
        };
        text.push_str(&format!(
            "\n# {name}\n[{name}]\napi = {api}\n{home}refresh_token = {token}\nmore = x\n"
        ));
    }
    scene.write(&text);
    let run = all(&scene, &["-o", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    // One object per line, in file order, and each is what the file holds.
    let results: Vec<Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = results
        .iter()
        .map(|result| result["profile"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let after = scene.text();
    for result in &results {
        let own = section(&after, result["profile"].as_str().unwrap());
        assert_eq!(result["refresh_token"], value_in(&own, "refresh_token"));
        assert_eq!(result["refreshed"], true);
    }
    // Nothing else has changed.
    let mut lines = after.lines();
    for line in text
        .lines()
        .filter(|line| !line.starts_with("refresh_token ="))
    {
        assert!(
            lines.any(|found| found == line),
            "{line:?} is not where it was"
        );
    }
    // The app's token was fetched once, for all three that need it.
    assert_eq!(scene.server.requests().len(), 6);
    assert_eq!(refreshes(&scene).len(), 5);
    let app_token = value_in(&section(&after, "a"), "app_access_token");
    assert_eq!(
        value_in(&section(&after, "e"), "app_access_token"),
        app_token
    );
    assert_sound(&scene);
    // Each can go on by itself; where nobody watches, there is no summary.
    scene.run(["-p", "b"]).token();
    scene.server.advance(Duration::from_secs(120));
    let run = all(&scene, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""));
    assert_eq!(run.stderr, "");
    assert_eq!(all(&scene, &["-q", "--min-ttl", "1h"]).stderr, "");
    assert_sound(&scene);
}

#[test]
fn one_profiles_failure_stops_no_other() {
    let scene = scene(4);
    lose(&scene, "p1");
    let base_url = scene.server.base_url();
    scene.write(
        scene.text()
            + &format!(
                "[odd]\napi = v9\nrefresh_token = w\n\
                 [two]\napi = v2\nrefresh_token = x\n  y\n\
                 [mine]\nbase_url = {base_url}\napp_id = cli_else\napp_secret = wrong\nrefresh_token = x\n\
                 [yours]\nbase_url = {base_url}\napp_id = cli_else\napp_secret = wrong\nrefresh_token = y\n\
                 [down]\napi = 115\nbase_url = http://127.0.0.1:9\nrefresh_token = z\n"
            ),
    );
    let before = scene.text();
    let run = all(&scene, &["--retries", "0"]);
    assert_eq!((run.code, run.stdout.as_str()), (4, ""), "{}", run.stderr);
    for (name, says) in [
        ("p1", "refresh token"),
        ("odd", "the api is not known"),
        ("mine", "cannot fetch an app_access_token"),
        ("yours", "cannot fetch an app_access_token"),
        ("down", "the refresh token was not spent"),
    ] {
        let told = |line: &&str| line.contains(&format!("[{name}] of ")) && line.contains(says);
        assert_eq!(
            run.stderr.lines().filter(told).count(),
            1,
            "{name}: {}",
            run.stderr
        );
        assert_eq!(section(&scene.text(), name), section(&before, name));
    }
    assert!(run.stderr.contains("must be on one line"), "{}", run.stderr);
    let failures = run
        .stderr
        .lines()
        .filter(|line| !line.starts_with("hint: "));
    assert_eq!(failures.count(), 6, "{}", run.stderr);
    // The advice is given once for all.
    let hints: Vec<_> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("hint: "))
        .collect();
    assert_eq!(hints.iter().collect::<HashSet<_>>().len(), hints.len());
    // The unknown app was requested once.
    let asked = scene.server.requests();
    let asked = asked
        .iter()
        .filter(|request| request.body.contains("cli_else"));
    assert_eq!(asked.count(), 1);
    assert_eq!(dead(&scene), ["p1", "odd", "two", "mine", "yours", "down"]);

    // For a program, the failures are objects, in file order.
    let run = all(&scene, &["-o", "json", "--retries", "0"]);
    assert_eq!(run.code, 4);
    assert_eq!(run.stdout.lines().count(), 3);
    let errors = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let errors: Vec<_> = errors
        .map(|error| {
            (
                error["error"]["profile"].clone(),
                error["error"]["exit_code"].clone(),
            )
        })
        .collect();
    let expected = [
        ("p1", 4),
        ("odd", 3),
        ("two", 3),
        ("mine", 3),
        ("yours", 3),
        ("down", 5),
    ];
    assert_eq!(
        errors,
        expected.map(|(name, code)| (json!(name), json!(code)))
    );
}

#[test]
fn an_app_token_that_fails_for_the_moment_is_asked_for_once_more_for_all() {
    let scene = scene(5);
    scene.server.fail_next(Fault::reply(503, "down"));
    let run = all(&scene, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(refreshes(&scene).len(), 5);
    assert_eq!(scene.server.requests().len(), 5 + 2);
    assert_sound(&scene);
}

#[test]
fn what_passes_is_asked_again_for_that_profile_alone() {
    let scene = scene(20);
    for _ in 0..5 {
        scene.server.fail_next(Fault::Delay(Duration::ZERO));
    }
    scene.server.fail_next(Fault::reply(503, "down"));
    scene.server.fail_next(Fault::CloseBeforeSpending);
    let run = all(&scene, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(refreshes(&scene).len(), 22);
    assert_sound(&scene);
    // A lost reply is called lost.
    scene.server.fail_next(Fault::CloseAfterSpending);
    let run = all(&scene, &[]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(
        run.stderr.contains("its successor is lost"),
        "{}",
        run.stderr
    );
    assert_eq!(dead(&scene).len(), 1);
    // A broken app token is fetched again once, for all.
    let scene = self::scene(10);
    all(&scene, &["-q"]);
    let fetched = |scene: &Scene| scene.server.requests().len() - refreshes(scene).len();
    assert_eq!(fetched(&scene), 1);
    let old = value_in(&section(&scene.text(), "p0"), "app_access_token");
    scene.write(scene.text().replace(&old, "a-dead"));
    let run = all(&scene, &["-q"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(fetched(&scene), 2);
    assert_sound(&scene);
}

#[test]
fn only_those_that_need_it_are_refreshed() {
    let scene = scene(3);
    assert_eq!(scene.run(["-p", "p1"]).code, 0);
    let run = all(&scene, &["--min-ttl", "1h", "-o", "json"]);
    let refreshed = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["refreshed"].clone());
    assert_eq!(refreshed.collect::<Vec<_>>(), [true, false, true]);
    let requests = scene.server.requests().len();
    // Now none is: no lock, no request.
    let file = fs::File::open(lock_of(&scene.file())).unwrap();
    file.lock().unwrap();
    let run = all(&scene, &["--min-ttl", "1h", "--lock-timeout", "0"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stderr, "");
    assert_eq!(scene.server.requests().len(), requests);
    all(&scene, &["--lock-timeout", "0.1"]).assert_failed(5, "another run is still working");
    drop(file);
    assert_sound(&scene);
}

#[test]
fn a_run_over_all_profiles_shares_with_others() {
    let scene = scene(12);
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let mut program = scene.program();
            program.args(["--all", "--rate", "0", "-o", "json"]);
            program.stdout(Stdio::piped()).stderr(Stdio::piped());
            program.spawn().unwrap()
        })
        .collect();
    let runs: Vec<_> = runs
        .into_iter()
        .map(|run| Run::of(run.wait_with_output().unwrap()))
        .collect();
    for run in &runs {
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert_eq!(run.stdout.lines().count(), 12);
    }
    assert_sound(&scene);
    // A queued run uses what the other got, profile by profile.
    let rotations = scene.server.rotations();
    // The app token is requested first, and held: nobody is served before the others queue.
    let is_kept = |line: &&str| !line.starts_with("app_access_token");
    scene.write(
        scene
            .text()
            .lines()
            .filter(is_kept)
            .collect::<Vec<_>>()
            .join("\n"),
    );
    scene.server.fail_next(Fault::Hold);
    let mut first = scene.program();
    let first = HeldRun::spawn(first.args(["--all", "--rate", "0", "-v"]));
    scene.server.wait_until_held();
    let mut second = scene.program();
    let second = HeldRun::queue(second.args(["--all", "-v"]));
    let mut one = scene.program();
    let one = HeldRun::queue(one.args(["-p", "p7", "-v"]));
    scene.server.release();
    let first = first.finish();
    assert_eq!(first.code, 0);
    let second = second.finish();
    assert_eq!(second.code, 0, "{}", second.stderr);
    let one = one.finish();
    assert_eq!(
        one.token(),
        value_in(&section(&scene.text(), "p7"), "user_access_token")
    );
    assert_eq!(scene.server.rotations(), rotations + 12);
    assert_sound(&scene);
}

/// The longest run of requests within such a window.
fn most_within(window: Duration, requests: &[Recorded]) -> usize {
    let times: Vec<_> = requests.iter().map(|request| request.at).collect();
    let within = |start: &Instant| {
        times
            .iter()
            .filter(|time| **time >= *start && **time < *start + window)
            .count()
    };
    times.iter().map(within).max().unwrap_or_default()
}

#[test]
fn requests_keep_to_the_documented_limits() {
    let scene = scene(40);
    let token = scene.server.refresh_token();
    // Another app's profile does not wait for them.
    scene.write(
        scene.text()
            + &format!(
                "[other]\napp_access_token = {}\nrefresh_token = {token}\n[ID2]\n",
                scene.server.app_token()
            ),
    );
    let start = Instant::now();
    assert_eq!(scene.run(["--all", "-q"]).code, 0);
    let took = start.elapsed();
    let requests = scene.server.requests();
    assert_eq!(requests.len(), 42);
    // 50 a second and 1,000 a minute, if evenly spaced, are one each 60 ms.
    assert!(took >= Duration::from_millis(40 * 60), "{took:?}");
    assert!(most_within(Duration::from_secs(1), &requests) <= 18);
    let other = requests
        .iter()
        .position(|request| request.body.contains(&token));
    assert!(other.unwrap() < 4, "{other:?}");
    assert!(scene.server.connections() <= 4);
    // As asked, and without a limit, still over few connections.
    let start = Instant::now();
    assert_eq!(scene.run(["--all", "-q", "--rate", "100"]).code, 0);
    assert!(start.elapsed() >= Duration::from_millis(39 * 10));
    let connections = scene.server.connections();
    assert_eq!(all(&scene, &["-q"]).code, 0);
    assert!(scene.server.connections() - connections <= 17);
    assert_sound(&scene);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_what_was_not_sent_and_saves_what_was() {
    let scene = scene(60);
    for _ in 0..6 {
        scene.server.fail_next(Fault::Delay(Duration::ZERO));
    }
    scene.server.fail_next(Fault::Hold);
    let mut program = scene.program();
    let mut run = HeldRun::spawn(program.args(["--all", "-v"]));
    scene.server.wait_until_held();
    send_signal(&run.child, "TERM");
    run.read_until("a signal waits");
    let sent = refreshes(&scene).len();
    let run = run.let_go(&scene);
    assert_eq!(run.code, 128 + 15, "{}", run.stderr);
    // At most the one that was on its way.
    let rotations = scene.server.rotations();
    assert!(
        rotations <= sent + 1 && rotations < 60,
        "{rotations} of {sent}"
    );
    assert_sound(&scene);
    // One that was ignored stays ignored.
    scene.server.fail_next(Fault::Hold);
    let mut shell = Command::new("/bin/sh");
    let command = format!(
        "trap '' HUP; exec {} --all --rate 200 -v",
        env!("CARGO_BIN_EXE_feishu-refresh")
    );
    shell
        .args(["-c", &command])
        .current_dir(scene.folder())
        .env_clear();
    let mut run = HeldRun::spawn(&mut shell);
    scene.server.wait_until_held();
    send_signal(&run.child, "HUP");
    run.read_until("a signal waits");
    let run = run.let_go(&scene);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(scene.server.rotations(), rotations + 60);
    assert_sound(&scene);
}

#[test]
fn only_a_token_whose_answer_nobody_knows_is_in_doubt() {
    let says = "an earlier attempt got no usable reply";
    // A run that could not save, and one that died: both had an answer for this one.
    for action in ["errors", "abort"] {
        let scene = scene(3);
        lose(&scene, "p0");
        let mut program = scene.program();
        // It is requested first, and has long been answered when the next pair comes.
        program.args(["--all", "--rate", "2"]);
        program.env("FEISHU_REFRESH_FAIL", format!("before-rename={action}"));
        program.output().unwrap();
        let run = scene.run(["-p", "p0"]);
        run.assert_failed(4, "it is saved now");
        assert!(!run.stderr.contains(says), "{action}: {}", run.stderr);
    }
    // One that died during its request.
    let scene = scene(3);
    scene.server.fail_next(Fault::Delay(Duration::ZERO));
    scene.server.fail_next(Fault::Hold);
    let mut program = scene.program();
    let mut run = HeldRun::spawn(program.args(["--all", "-v"]));
    scene.server.wait_until_held();
    run.child.kill().unwrap();
    scene.server.release();
    run.finish();
    scene.server.settle().unwrap();
    // A run that sends nothing does not forget it.
    assert_eq!(scene.run(["-p", "p0", "--base-url", "nonsense"]).code, 3);
    scene.run(["-p", "p0"]).assert_failed(4, says);
    assert!(!scene.journal().exists());
}

#[test]
fn a_group_that_cannot_be_saved_is_put_back_by_the_next_run() {
    for point in [
        "before-write",
        "before-fsync",
        "after-fsync",
        "before-rename",
    ] {
        let scene = scene(30);
        let before = scene.text();
        let mut program = scene.program();
        program.args(["--all", "--rate", "0"]);
        program.env("FEISHU_REFRESH_FAIL", format!("{point}=errors"));
        let run = Run::of(program.output().unwrap());
        assert_eq!(run.code, 6, "{point}: {}", run.stderr);
        assert!(run.stderr.contains("the new pair is in "), "{}", run.stderr);
        assert_eq!(scene.text(), before);
        let rotations = scene.server.rotations();
        assert!(rotations > 0);
        // The next run, of any kind, restores all of them.
        let run = scene.run(["-p", "p3"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
        assert_sound(&scene);
    }
}

/// The profiles whose pairs the journal beside the file has.
pub fn journaled_profiles(scene: &Scene) -> Vec<String> {
    let text = fs::read_to_string(scene.journal()).unwrap_or_default();
    let profile = |line: &str| {
        let record: Value = serde_json::from_str(&line[line.find('{')?..]).ok()?;
        Some(record["pair"]["profile"].as_str()?.to_owned())
    };
    text.lines().filter_map(profile).collect()
}

#[test]
fn no_crash_loses_a_pair_that_had_come() {
    for point in [
        "before-record",
        "after-record",
        "before-write",
        "after-write",
        "after-fsync",
        "before-rename",
        "after-rename",
        "after-folder-fsync",
    ] {
        for action in ["abort", "panic", "error"] {
            let scene = scene(20);
            let mut program = scene.program();
            program.args(["--all", "--rate", "0"]);
            program.env("FEISHU_REFRESH_FAIL", format!("{point}={action}"));
            program.output().unwrap();
            let kept = journaled_profiles(&scene);
            if point == "after-record" && action != "error" {
                assert!(!kept.is_empty(), "{point}={action}");
            }
            let run = all(&scene, &["-q"]);
            // A crash before the journal write loses what was in flight.
            let lost = dead(&scene);
            for name in &lost {
                let is_allowed = action != "error" || point == "before-record";
                assert!(
                    is_allowed && !kept.contains(name),
                    "{point}={action}: {name} is lost"
                );
            }
            let expected = if lost.is_empty() { 0 } else { 4 };
            assert_eq!(run.code, expected, "{point}={action}: {}", run.stderr);
            assert_eq!(
                scene.file_names(),
                ["feishu-config.ini"],
                "{point}={action}"
            );
        }
    }
}

#[test]
fn sigkill_loses_no_profile_whose_reply_had_been_appended() {
    let scene = scene(200);
    let mut lost_at_all = 0;
    let start = Instant::now();
    assert_eq!(all(&scene, &["-q"]).code, 0);
    let whole = start.elapsed();
    for round in 0..40 {
        let mut program = scene.program();
        program.args(["--all", "--rate", "0", "-q"]);
        let mut child = program.spawn().unwrap();
        // From before the first request to after the last save.
        thread::sleep(whole * round / 36);
        child.kill().unwrap();
        child.wait().unwrap();
        let kept = journaled_profiles(&scene);
        let run = all(&scene, &["-q"]);
        let lost = dead(&scene);
        assert!(
            run.code == 0 || (run.code == 4 && !lost.is_empty()),
            "{}",
            run.stderr
        );
        lost_at_all += lost.len();
        let mut text = scene.text();
        for name in lost {
            let own = section(&text, &name);
            let token = value_in(&own, "refresh_token");
            assert!(!kept.contains(&name), "{name} had come, and is lost");
            // As if the user had consented again.
            text = text.replace(&token, &scene.server.refresh_token());
        }
        scene.write(&text);
        assert_eq!(scene.file_names(), ["feishu-config.ini"]);
    }
    println!(
        "SIGKILL 40 times amid 200 profiles: {lost_at_all} of 8000 logins lost, all of them replies on their way"
    );
    assert_eq!(all(&scene, &["-q"]).code, 0);
}

#[test]
fn what_others_write_meanwhile_stays() {
    let scene = scene(8);
    scene.server.fail_next(Fault::Hold);
    let mut program = scene.program();
    let run = HeldRun::spawn(program.args(["--all", "--rate", "0", "-v"]));
    scene.server.wait_until_held();
    // An editor's comment, and a newer token for one of them, put there by a program without locks.
    let theirs = scene.server.refresh_token();
    let text = scene.text();
    let old = value_in(&section(&text, "p2"), "refresh_token");
    let edited = text.replace(&old, &theirs) + "; theirs\n";
    let other = scene.folder().join("other");
    fs::write(&other, edited).unwrap();
    fs::rename(other, scene.file()).unwrap();
    let run = run.let_go(&scene);
    assert!(scene.text().ends_with("; theirs\n"));
    // Whether that one was sent already, or not yet.
    if run.code == 6 {
        assert_eq!(
            value_in(&section(&scene.text(), "p2"), "refresh_token"),
            theirs
        );
        assert!(
            run.stderr
                .contains("another program put another refresh token there"),
            "{}",
            run.stderr
        );
        let run = scene.run(["-p", "p2"]);
        run.token();
        assert!(run.stderr.contains("kept as"), "{}", run.stderr);
    } else {
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert_eq!(dead(&scene), [""; 0]);
    assert_eq!(scene.server.spent_seen(), 0);
}

#[cfg(unix)]
#[test]
fn files_that_cannot_be_replaced_take_groups_too() {
    let scene = scene(25);
    fs::hard_link(scene.file(), scene.folder().join("other.ini")).unwrap();
    assert_eq!(all(&scene, &["-q"]).code, 0);
    assert_eq!(
        fs::read_to_string(scene.folder().join("other.ini")).unwrap(),
        scene.text()
    );
    assert_eq!(dead(&scene), [""; 0]);
    // Half written, it is repaired from the copy, not from the journal beside it.
    let mut program = scene.program();
    program.args(["--all", "--rate", "0"]);
    program.env("FEISHU_REFRESH_FAIL", "amid-in-place-write=abort");
    program.output().unwrap();
    assert!(scene.text().starts_with('\0'));
    let kept = journaled_profiles(&scene);
    let run = all(&scene, &[]);
    assert!(run.stderr.contains("it is repaired"), "{}", run.stderr);
    // Those whose replies were in flight may be lost, and no others.
    let lost = dead(&scene);
    assert!(
        !lost.iter().any(|name| kept.contains(name)),
        "{lost:?} of {kept:?}"
    );
    assert_eq!(
        run.code,
        if lost.is_empty() { 0 } else { 4 },
        "{}",
        run.stderr
    );
    assert_eq!(scene.file_names(), ["feishu-config.ini", "other.ini"]);
}

#[cfg(unix)]
#[test]
fn a_command_follows_each_pair() {
    let scene = scene(5);
    let hook = "cat >> heard; grep -q p3 heard && exit 9; true";
    let run = all(&scene, &["--on-refresh", hook, "-o", "json"]);
    assert_eq!(run.code, 7, "{}", run.stderr);
    let heard = fs::read_to_string(scene.folder().join("heard")).unwrap();
    // Both follow the order in which the pairs came, and each pair is already in the file.
    assert_eq!(heard.lines().count(), 5);
    assert_eq!(run.stdout.lines().count(), 5);
    for line in run.stdout.lines() {
        assert!(heard.contains(line), "{heard}");
    }
    assert!(
        run.stderr
            .contains("the --on-refresh command failed: exit status: 9"),
        "{}",
        run.stderr
    );
    fs::remove_file(scene.folder().join("heard")).unwrap();
    assert_sound(&scene);
}

#[cfg(target_os = "linux")] // It has /dev/full.
#[test]
fn a_stdout_that_takes_nothing_stops_nothing() {
    let scene = scene(10);
    let mut program = scene.program();
    program.args(["--all", "--rate", "0", "-o", "json"]);
    program.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    let run = Run::of(program.output().unwrap());
    run.assert_failed(1, "cannot write to stdout");
    assert_eq!(scene.server.rotations(), 10);
    assert_sound(&scene);
}

#[test]
fn what_does_not_go_with_all_is_said() {
    let scene = scene(1);
    for arguments in [
        &["--all", "-p", "p0"][..],
        &["--all", "-r", "x"],
        &["--all", "-o", "token"],
        &["--all", "-o", "env"],
        &["--all", "-o", "github"],
        &["login", "--all"],
        &["exec", "--all", "--", "true"],
        &["--all", "--rate", "-1"],
        &["--all", "--rate", "many"],
        &["--all", "--rate", "1e-9"],
    ] {
        assert_eq!(scene.run(arguments).code, 2, "{arguments:?}");
    }
    assert_eq!(scene.run(["status", "--all"]).code, 0);
    // Environment values for one profile do not apply.
    let mut program = scene.program();
    program.args(["--all"]);
    program
        .env("FEISHU_REFRESH_TOKEN", "x")
        .env("FEISHU_PROFILE", "nobody");
    assert_eq!(Run::of(program.output().unwrap()).code, 0);
    scene.write("[ID]\napp_id = x\n[TOKEN]\nrefresh_token =\n");
    scene
        .run(["--all"])
        .assert_failed(3, "has no section with a refresh_token");
    scene
        .run(["--all", "-c", "missing.ini"])
        .assert_failed(3, "does not exist");
    assert!(!scene.folder().join("missing.ini").exists());
    scene.write("[p]\nrefresh_token = x\n[p]\n");
    scene
        .run(["--all"])
        .assert_failed(3, "line 3: repeats the section");
}

/// What a person at a terminal sees.
#[cfg(target_os = "linux")] // Only there does `script` have these options.
#[test]
fn a_terminal_shows_how_far_it_is() {
    let scene = scene(6);
    lose(&scene, "p1");
    let command = format!("{} --all --rate 20", env!("CARGO_BIN_EXE_feishu-refresh"));
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &command, "/dev/null"])
        .current_dir(scene.folder());
    terminal
        .env_clear()
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm");
    let run = Run::of(terminal.output().unwrap());
    assert_eq!(run.code, 4);
    for words in [
        " of 6 profiles",
        ", 1 failed",
        "[p1] of /",
        "feishu-config.ini refreshed, 1 failed",
    ] {
        assert!(
            run.stdout.contains(words),
            "{words:?} is not in {:?}",
            run.stdout
        );
    }
}

/// Waits until the server has seen this many rotations.
pub fn wait_for_rotations(scene: &Scene, rotations: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.server.rotations() < rotations {
        assert!(Instant::now() < deadline, "{}", scene.server.rotations());
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(unix)]
#[test]
fn who_listens_slowly_holds_up_nothing() {
    // More than a pipe takes.
    let scene = scene(400);
    let mut program = scene.program();
    program.args(["--all", "--rate", "0", "-o", "json", "-v"]);
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    wait_for_rotations(&scene, 400);
    // Everything is saved although nobody reads, and a signal takes effect.
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.file_names() != ["feishu-config.ini"] {
        assert!(Instant::now() < deadline, "{:?}", scene.file_names());
        thread::sleep(Duration::from_millis(10));
    }
    assert!(child.try_wait().unwrap().is_none());
    send_signal(&child, "TERM");
    assert_eq!(Run::of(child.wait_with_output().unwrap()).code, 128 + 15);
    assert_sound(&scene);
}

/// Python's `configparser` empties the file first, and then writes it.
#[test]
fn a_program_that_empties_the_file_to_write_it_does_not_cost_a_profile() {
    let scene = scene(60);
    let mut program = scene.program();
    let run = HeldRun::spawn(program.args(["--all", "--rate", "40", "-v"]));
    for round in 0..4 {
        thread::sleep(Duration::from_millis(150));
        let text = scene.text();
        fs::write(scene.file(), "").unwrap();
        thread::sleep(Duration::from_millis(50));
        // Not within a value, which could look complete: it is reread too briefly for a busy machine.
        let half = text[..text.len() / 2].rfind("\n[").unwrap() + 2;
        fs::write(scene.file(), &text[..half]).unwrap();
        thread::sleep(Duration::from_millis(50));
        fs::write(scene.file(), format!("{text}\n; round {round}\n")).unwrap();
    }
    let run = run.finish();
    // What it wrote back may have been older than a save: the journal fixes that.
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(scene.text().matches("\n[p").count(), 60);
    assert!(scene.text().contains("; round 3"));
    assert_sound(&scene);
    // The same for a single profile.
    let mut one = scene.program();
    scene.server.fail_next(Fault::Hold);
    let one = HeldRun::spawn(one.args(["-p", "p5", "-v"]));
    scene.server.wait_until_held();
    let text = scene.text();
    fs::write(scene.file(), "").unwrap();
    scene.server.release();
    thread::sleep(Duration::from_millis(100));
    fs::write(scene.file(), text).unwrap();
    assert_eq!(one.finish().code, 0);
    assert_eq!(scene.text().matches("\n[p").count(), 60);
    assert_sound(&scene);
}

#[cfg(unix)]
#[test]
fn a_signal_counts_though_an_ignored_one_follows() {
    let scene = scene(100);
    scene.server.fail_next(Fault::Hold);
    let mut shell = Command::new("/bin/sh");
    let program = env!("CARGO_BIN_EXE_feishu-refresh");
    let command = format!("trap '' HUP; exec {program} --all --rate 50 -v");
    shell
        .args(["-c", &command])
        .current_dir(scene.folder())
        .env_clear();
    let mut run = HeldRun::spawn(&mut shell);
    scene.server.wait_until_held();
    send_signal(&run.child, "TERM");
    run.read_until("a signal waits");
    send_signal(&run.child, "HUP");
    let run = run.let_go(&scene);
    assert_eq!(run.code, 128 + 15, "{}", run.stderr);
    assert!(scene.server.rotations() < 100);
    assert_sound(&scene);
}

#[cfg(unix)]
#[test]
fn failures_are_told_before_a_signal_counts() {
    let scene = scene(80);
    lose(&scene, "p0");
    let mut program = scene.program();
    let mut run = HeldRun::spawn(program.args(["--all", "--rate", "50", "-o", "json", "-v"]));
    wait_for_rotations(&scene, 5);
    send_signal(&run.child, "INT");
    run.read_until("\"profile\":\"p0\"");
    let run = run.finish();
    assert_eq!(run.code, 128 + 2);
    assert_eq!(scene.server.rotations(), run.stdout.lines().count());
    assert_eq!(dead(&scene), ["p0"]);
}

#[test]
fn one_token_in_two_profiles_is_sent_once() {
    let scene = scene(2);
    let token = value_in(&section(&scene.text(), "p0"), "refresh_token");
    scene.write(scene.text() + &format!("\n[twin]\nrefresh_token = {token}\n"));
    let run = all(&scene, &[]);
    run.assert_failed(3, "[twin] of ");
    assert!(
        run.stderr.contains("has the refresh token of [p0]"),
        "{}",
        run.stderr
    );
    assert_eq!(scene.server.spent_seen(), 0);
    assert_eq!(dead(&scene), ["twin"]);
    // Nor is it when the first has spent it, or is still valid.
    all(&scene, &[]).assert_failed(3, "has the refresh token of [p0]");
    let token = value_in(&section(&scene.text(), "p0"), "refresh_token");
    scene.write(scene.text() + &format!("\n[third]\nrefresh_token = {token}\n"));
    let run = all(&scene, &["--min-ttl", "1h"]);
    run.assert_failed(3, "[third] of ");
    assert_eq!(scene.server.spent_seen(), 0);
}

#[test]
fn what_is_put_back_waits_for_a_program_that_is_writing_the_file() {
    let scene = scene(10);
    let mut program = scene.program();
    program.args(["--all", "--rate", "0"]);
    program.env("FEISHU_REFRESH_FAIL", "before-rename=abort");
    program.output().unwrap();
    let kept = journaled_profiles(&scene);
    assert!(!kept.is_empty());
    // Emptied, and then half written, for a moment.
    let (path, text) = (scene.file(), scene.text());
    scene.write("");
    let writer = thread::spawn(move || {
        for part in [text.len() / 2, text.len()] {
            thread::sleep(Duration::from_millis(60));
            fs::write(&path, &text[..part]).unwrap();
        }
    });
    let run = all(&scene, &[]);
    writer.join().unwrap();
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    assert_eq!(scene.text().matches("\n[p").count(), 10);
    assert!(!dead(&scene).iter().any(|name| kept.contains(name)));
}

#[test]
fn after_a_wait_requests_are_spaced_again() {
    let scene = scene(40);
    for _ in 0..4 {
        scene.server.fail_next(Fault::Delay(Duration::ZERO));
    }
    for _ in 0..6 {
        scene.server.fail_next(Fault::Reply {
            status: 429,
            headers: vec![("x-ogw-ratelimit-reset", "1".to_owned())],
            body: r#"{"code":99991400,"msg":"request trigger frequency limit"}"#.to_owned(),
        });
    }
    // On a slow machine, one login may get all six.
    let run = scene.run(["--all", "-q", "--rate", "50", "--retries", "6"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // 20 ms apart, give or take what the machine does.
    assert!(most_within(Duration::from_millis(100), &scene.server.requests()) <= 9);
    assert_sound(&scene);
}

/// A file system that can just hold what is needed.
#[cfg(unix)]
#[test]
fn a_small_disk_is_enough_for_what_is_under_way() {
    let scene = scene(30);
    let disk = scene.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let tmpfs = ["-t", "tmpfs", "-o", "size=400k", "tmpfs"];
    let Some(_mount) = Mount::new(&tmpfs, &disk) else {
        return;
    };
    let file = disk.join("f.ini");
    fs::copy(scene.file(), &file).unwrap();
    let run = scene.run(["--all", "--rate", "40", "-c", file.to_str().unwrap()]);
    // It is refused beforehand, or succeeds.
    assert!([0, 5].contains(&run.code), "{}", run.stderr);
    let expected = if run.code == 0 { 30 } else { 0 };
    assert_eq!(scene.server.rotations(), expected, "{}", run.stderr);
}

#[test]
fn a_server_that_asks_to_wait_is_left_alone_by_the_whole_app() {
    let limit = |seconds: u32| Fault::Reply {
        status: 429,
        headers: vec![("x-ogw-ratelimit-reset", seconds.to_string())],
        body: r#"{"code":99991400,"msg":"request trigger frequency limit"}"#.to_owned(),
    };
    let scene = scene(30);
    // The app token, two refreshes, and then the limit.
    for _ in 0..3 {
        scene.server.fail_next(Fault::Delay(Duration::ZERO));
    }
    scene.server.fail_next(limit(2));
    let start = Instant::now();
    let run = scene.run(["--all", "-q", "--rate", "100"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(start.elapsed() >= Duration::from_secs(2));
    // A few were on their way.
    assert!(refreshes(&scene).len() <= 34, "{}", refreshes(&scene).len());
    assert_sound(&scene);
    // Longer than allowed: the rest is not sent.
    let before = refreshes(&scene).len();
    scene.server.fail_next(limit(200));
    let run = scene.run(["--all", "--rate", "100", "-o", "json"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(
        run.stderr.contains("has asked its app to wait"),
        "{}",
        run.stderr
    );
    assert!(refreshes(&scene).len() <= before + 5);
    assert_sound(&scene);
}

/// 115 throttles each login by itself: the others need not wait.
#[test]
fn the_throttle_of_115_holds_up_its_own_login_only() {
    let scene = scene(0);
    let logins = ["a", "b", "c", "d"].map(|name| scene.server.profile(name, "115"));
    scene.write(logins.concat());
    scene.run(["-p", "a"]).token();
    // The first is throttled, and may not wait for as long as that takes.
    let start = Instant::now();
    let run = scene.run(["--all", "--max-wait", "50", "-o", "json"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("(code 40140117"), "{}", run.stderr);
    assert!(!run.stderr.contains("its app"), "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 3, "{}", run.stderr);
    assert_eq!(scene.server.rotations(), 4);
    // While it waits, the others are refreshed and reported.
    let mut waiting = scene.program();
    scene.server.advance(Duration::from_secs(61));
    scene.run(["-p", "a"]).token();
    let mut run = HeldRun::until(waiting.args(["--all", "-v"]), "trying again in 60.0 s");
    while scene.server.rotations() < 8 {
        thread::yield_now();
    }
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_host_that_answers_nothing_is_given_up() {
    let scene = scene(0);
    let profile = |index: usize| {
        format!("[q{index}]\napi = 115\nbase_url = http://127.0.0.1:9\nrefresh_token = x{index}\n")
    };
    scene.write(scene.text() + &(0..300).map(profile).collect::<String>());
    let start = Instant::now();
    let run = all(&scene, &["--retries", "1000"]);
    assert_eq!(run.code, 5);
    assert!(
        run.stderr
            .contains("has answered none of the last 48 requests"),
        "{}",
        run.stderr
    );
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[cfg(unix)]
#[test]
fn spent_tokens_that_come_back_after_the_save_are_replaced_again() {
    let scene = scene(3);
    let backup = scene.folder().join("backup");
    fs::copy(scene.file(), &backup).unwrap();
    // A program that ignores locks, and had read the file before.
    let run = all(&scene, &["--on-refresh", "cp backup feishu-config.ini"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let says = "another program put spent tokens back into";
    assert!(run.stderr.contains(says), "{}", run.stderr);
    fs::remove_file(&backup).unwrap();
    assert_sound(&scene);
}

#[cfg(unix)]
#[test]
fn a_slow_command_holds_back_what_it_could_not_follow() {
    let scene = scene(120);
    let mut program = scene.program();
    program.args([
        "--all",
        "--rate",
        "0",
        "-q",
        "--on-refresh",
        "sleep 0.05; echo >> heard",
    ]);
    program.stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    wait_for_rotations(&scene, 10);
    send_signal(&child, "TERM");
    assert_eq!(Run::of(child.wait_with_output().unwrap()).code, 128 + 15);
    // Each pair that came was reported, and few came.
    let heard = fs::read_to_string(scene.folder().join("heard")).unwrap();
    assert_eq!(heard.lines().count(), scene.server.rotations());
    assert!(
        scene.server.rotations() <= 60,
        "{}",
        scene.server.rotations()
    );
    fs::remove_file(scene.folder().join("heard")).unwrap();
    assert_sound(&scene);
}

#[test]
fn keep_alive_leaves_out_refresh_tokens_that_live_long_enough() {
    let scene = scene(4);
    let all = |arguments: &[&str]| {
        let run = all(&scene, &[&["-o", "json"], arguments].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        let refreshed = |line: &str| {
            let object: Value = serde_json::from_str(line).unwrap();
            let mark = if object["refreshed"] == true { "" } else { "=" };
            format!("{mark}{}", object["profile"].as_str().unwrap())
        };
        run.stdout
            .lines()
            .map(refreshed)
            .collect::<Vec<_>>()
            .join(" ")
    };
    // An unknown expiry counts as due.
    assert_eq!(all(&["--keep-alive", "2d"]), "p0 p1 p2 p3");
    // They are valid for thirty days: nobody needs the file's lock for that, and nothing is reported.
    let mut holder = scene.program();
    scene.server.fail_next(Fault::Hold);
    let holder = HeldRun::spawn(holder.args(["-p", "p0", "-v"]));
    scene.server.wait_until_held();
    assert_eq!(all(&["--keep-alive", "2d"]), "");
    assert_eq!(
        all(&["--keep-alive", "2d", "--min-ttl", "10m"]),
        "=p0 =p1 =p2 =p3"
    );
    assert_eq!(holder.let_go(&scene).code, 0);
    // One that is not, and one whose access token has expired.
    let change = |name: &str, key: &str| {
        let own = section(&scene.text(), name);
        let old = value_in(&own, key);
        let changed = own.replace(
            &format!("{key} = {old}"),
            &format!("{key} = 2020-01-01T00:00:00Z"),
        );
        scene.write(scene.text().replace(&own, &changed));
    };
    change("p1", "refresh_token_expires_at");
    change("p2", "user_access_token_expires_at");
    let rotations = scene.server.rotations();
    assert_eq!(all(&["--keep-alive", "2d"]), "p1");
    change("p1", "refresh_token_expires_at");
    assert_eq!(
        all(&["--keep-alive", "2d", "--min-ttl", "10m"]),
        "=p0 p1 p2 =p3"
    );
    assert_eq!(scene.server.rotations(), rotations + 3);
    let run = scene.run(["--all", "--rate", "0", "--keep-alive", "2d"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    // For a single login it has no effect.
    for arguments in [
        &["--keep-alive", "2d"][..],
        &["status", "--all", "--keep-alive", "2d"],
        &["exec", "--keep-alive", "2d", "--", "true"],
    ] {
        scene
            .run(arguments)
            .assert_failed(2, "--keep-alive is for a refresh of all logins");
    }
    assert_sound(&scene);
}
