//! What a person types for a store, and what comes back.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::Shared;
use crate::harness::{HeldRun, Run, Scene, fingerprint};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, Postgres};

/// Starts a login into the store, and waits until it shows the link; returns that, too.
pub(super) fn ask_in_store(shared: &Shared, arguments: &[&str]) -> (HeldRun, String) {
    let base_url = shared.scene.server.base_url();
    let mut program = shared.program();
    program
        .args(["login", "--paste", "--accounts-url", &base_url])
        .args(arguments)
        .stdin(Stdio::piped());
    let mut run = HeldRun::until(&mut program, "\n  http");
    run.read_until("Paste its address here:\n");
    let page = run.said.split("\n  ").nth(1).unwrap();
    let page = page.split('\n').next().unwrap().to_owned();
    (run, page)
}

/// Agrees, and waits for the login's end.
pub(super) fn answer(shared: &Shared, mut run: HeldRun, page: &str) -> Run {
    let (agree, _) = shared.scene.server.consent(page);
    let mut stdin = run.child.stdin.take().unwrap();
    // An ended login no longer reads.
    let _ = stdin.write_all(format!("{agree}\n").as_bytes());
    drop(stdin);
    run.finish()
}

/// Runs as this role, whose password is the usual one.
fn run_as(shared: &Shared, role: &str, arguments: &[&str]) -> Run {
    let address = shared.database.address();
    let address = address.replacen("//feishu:", &format!("//{role}:"), 1);
    let mut program = shared.program();
    program.env("FEISHU_STORE", address);
    Run::of(program.args(arguments).output().unwrap())
}

fn json_of(run: &Run) -> Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn init_makes_the_tables_once_and_prints_what_it_does() {
    let Some(shared) = Shared::without_login(&[]) else {
        return;
    };
    let database = &shared.database;
    let id = "SELECT store_id FROM feishu_refresh.meta";
    let before = database.query(id);
    let run = shared.run(&["store", "init"]);
    run.assert_done();
    assert!(
        run.stderr.contains("had its tables already"),
        "{}",
        run.stderr
    );
    assert_eq!((run.stdout.as_str(), database.query(id)), ("", before));
    // Its output needs no store, and has the same effect.
    let printed = shared.scene.run(["store", "init", "--print-sql"]);
    printed.assert_done();
    assert_eq!(printed.stderr, "");
    database.query("CREATE DATABASE other; GRANT CREATE ON DATABASE other TO feishu");
    let address = database.address();
    let other = address.strip_suffix("feishu").unwrap().to_owned() + "other";
    for _ in 0..2 {
        database.query_at(&other, &printed.stdout).unwrap();
    }
    // A dump's password of its own is new each time.
    let schema = |name: &str| {
        let dump = database.dump("pg_dump", &["--schema-only"], name).unwrap();
        let lines = dump.lines().filter(|line| !line.contains("restrict "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(schema("feishu"), schema("other"));
    assert!(schema("other").contains(&"CREATE TABLE feishu_refresh.login (".to_owned()));
    let versions = "SELECT version FROM feishu_refresh.meta";
    assert_eq!(database.query_at(&other, versions).unwrap(), "2");
    // A run works on the tables that psql created.
    let mut program = shared.program();
    program
        .env("FEISHU_STORE", &other)
        .args(["store", "import"]);
    Run::of(program.output().unwrap()).assert_done();
    let mut program = shared.program();
    Run::of(program.env("FEISHU_STORE", &other).output().unwrap()).token();
    // Not named at all.
    let run = shared.scene.run(["store", "init"]);
    run.assert_failed(3, "no store is named");
    assert!(run.stderr.contains("--store postgres://"), "{}", run.stderr);
}

#[test]
fn tables_that_are_not_known_are_left_alone() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let database = &shared.database;
    database.query("UPDATE feishu_refresh.meta SET version = 99");
    let row = shared.value("login.*::text");
    for arguments in [
        &[][..],
        &["status"],
        &["store", "init"],
        &["store", "import"],
        &["exec", "--", "echo", "started"],
    ] {
        let run = shared.run(arguments);
        run.assert_failed(3, "have version 99, but this program knows 2");
        assert!(run.stderr.contains("install a newer"), "{}", run.stderr);
    }
    database.query("UPDATE feishu_refresh.meta SET version = 0");
    let run = shared.run(&[]);
    run.assert_failed(3, "have version 0");
    assert!(
        run.stderr.contains("feishu-refresh store init"),
        "{}",
        run.stderr
    );
    database.query("UPDATE feishu_refresh.meta SET version = 2");
    assert_eq!(shared.value("login.*::text"), row);
    assert!(shared.scene.server.requests().is_empty());
    shared.run(&[]).token();
    // No tables at all: the hint works as typed.
    database.query("DROP SCHEMA feishu_refresh CASCADE");
    for arguments in [&[][..], &["status"], &["store", "import"]] {
        let run = shared.run(arguments);
        run.assert_failed(3, "it does not have this program's tables");
        let hint = run.stderr.lines().find_map(|line| {
            let typed = line.split_once("feishu-refresh store ")?.1;
            Some(typed.trim().to_owned())
        });
        let typed = hint.unwrap_or_default();
        let address = database.address_without_password();
        assert_eq!(typed, format!("init --store {address}"));
    }
    shared.run(&["store", "init"]).assert_done();
    shared.run(&[]).assert_failed(3, "has no login [TOKEN]");
    shared.run(&["status"]).assert_failed(3, "has no login");
    // Nothing is sent for a login that is not there.
    assert_eq!(shared.scene.server.rotations(), 1);
}

/// The rights that, by the documents, a role needs for runs, and for adding logins.
const GRANTS: &str = "\
GRANT USAGE ON SCHEMA feishu_refresh TO worker, keeper;
GRANT SELECT ON ALL TABLES IN SCHEMA feishu_refresh TO worker, keeper;
GRANT UPDATE ON feishu_refresh.login, feishu_refresh.app, feishu_refresh.pace TO worker, keeper;
GRANT INSERT ON feishu_refresh.login, feishu_refresh.app, feishu_refresh.pace TO keeper;";

#[test]
fn a_role_needs_no_more_rights_than_the_documents_say() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (database, server) = (&shared.database, &shared.scene.server);
    let password = Postgres::password();
    for role in ["worker", "keeper", "stranger"] {
        database.query(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'"));
    }
    database.query(GRANTS);
    let refused = run_as(&shared, "stranger", &[]);
    refused.assert_failed(3, "permission denied");
    // A whole run, with an app token that is fetched and kept.
    let app = shared.scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    run_as(&shared, "worker", &[]).token();
    run_as(&shared, "worker", &app).token();
    run_as(&shared, "worker", &["status"]).assert_done();
    server.fail_next(Fault::code(20026));
    assert_eq!(run_as(&shared, "worker", &[]).code, 4);
    assert_eq!(shared.value("state"), "refused");
    run_as(&shared, "worker", &[]).token();
    // It cannot add a login, and nobody is asked for consent in vain.
    let requests = server.requests().len();
    let base_url = server.base_url();
    let paste = ["login", "--paste", "--accounts-url", &base_url, "-p", "new"];
    let run = run_as(&shared, "worker", &[&paste, &app[..]].concat());
    run.assert_failed(3, "permission denied");
    assert!(!run.stderr.contains("authorize?"), "{}", run.stderr);
    let text = server.profile("second", "v2");
    shared.scene.write(&text);
    run_as(&shared, "worker", &["store", "import"]).assert_failed(3, "permission denied");
    assert_eq!(shared.scene.text(), text);
    assert_eq!(server.requests().len(), requests);
    // With INSERT it can.
    run_as(&shared, "keeper", &["store", "import"]).assert_done();
    run_as(&shared, "worker", &["-p", "second"]).token();
    run_as(&shared, "keeper", &["store", "init"]).assert_done();
    assert_eq!(server.spent_seen(), 0);
}

#[test]
fn a_consent_makes_a_login_and_replaces_one() {
    let Some(shared) = Shared::without_login(&[]) else {
        return;
    };
    let server = &shared.scene.server;
    let app = shared.scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    let (login, page) = ask_in_store(&shared, &[&["-p", "bot"], &app[..]].concat());
    // Nobody sees an unfinished login.
    let status = shared.run(&["status"]);
    status.assert_failed(3, "has no login");
    shared
        .run(&["-p", "bot"])
        .assert_failed(3, "has no login [bot]");
    let run = answer(&shared, login, &page);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
    assert!(
        run.stderr.contains("logged in: [bot] of postgres://"),
        "{}",
        run.stderr
    );
    // All that it needs is stored: a later run needs no flag.
    let result = json_of(&shared.run(&["-p", "bot", "-o", "json"]));
    assert_eq!(result["api"], "v2");
    let old = result["refresh_token"].as_str().unwrap().to_owned();
    // Again, over the existing login: no flags either, except for the page of this test's server.
    let (login, page) = ask_in_store(&shared, &["-p", "bot"]);
    // The old one works until the new one is there.
    shared.run(&["-p", "bot", "--min-ttl", "10m"]).token();
    let run = answer(&shared, login, &page);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let print = shared
        .database
        .query("SELECT previous_fingerprint FROM feishu_refresh.login");
    // It was not spent for the new one.
    assert_eq!(print, "");
    shared.run(&["-p", "bot"]).token();
    assert!(server.is_live(&old), "the old one was sent");
    // Nobody read the INI in the folder.
    assert!(shared.scene.text().contains("[TOKEN]\nbase_url"));
    assert!(!shared.scene.text().contains("bot"));
    assert_eq!(server.spent_seen(), 0);
    let app_id = shared
        .database
        .query("SELECT app_id FROM feishu_refresh.app");
    assert_eq!(app_id, APP_ID);
    let sealed = shared
        .database
        .query("SELECT app_secret FROM feishu_refresh.app");
    assert!(
        !sealed.contains(APP_SECRET) && sealed.contains('.'),
        "{sealed}"
    );
}

#[test]
fn a_login_that_comes_to_nothing_leaves_nothing() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let server = &shared.scene.server;
    let app = shared.scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    let names = || {
        let run = shared.run(&["status", "-o", "json"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout.lines().count()
    };
    for (profile, before) in [("new", 1), ("TOKEN", 1)] {
        // No address, a refused consent, a lost reply.
        let (mut login, _) = ask_in_store(&shared, &[&["-p", profile], &app[..]].concat());
        drop(login.child.stdin.take());
        login.finish().assert_failed(5, "no address was pasted");
        let (mut login, page) = ask_in_store(&shared, &[&["-p", profile], &app[..]].concat());
        let (_, refuse) = server.consent(&page);
        let mut stdin = login.child.stdin.take().unwrap();
        stdin.write_all(format!("{refuse}\n").as_bytes()).unwrap();
        drop(stdin);
        login.finish().assert_failed(4, "the consent was refused");
        server.fail_next(Fault::code(20003));
        let (login, page) = ask_in_store(&shared, &[&["-p", profile], &app[..]].concat());
        answer(&shared, login, &page).assert_failed(4, "20003");
        assert_eq!(names(), before, "{profile}");
    }
    shared
        .run(&["-p", "new"])
        .assert_failed(3, "has no login [new]");
    // The login to be replaced is unchanged, and nobody holds it.
    shared.run(&[]).token();
    // The place is free for the next one.
    let (login, page) = ask_in_store(&shared, &[&["-p", "new"], &app[..]].concat());
    assert_eq!(answer(&shared, login, &page).code, 0);
    assert_eq!(names(), 2);
    shared.run(&["-p", "new"]).token();
    assert_eq!(server.spent_seen(), 0);
}

#[test]
fn status_tells_how_the_logins_stand() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let server = &shared.scene.server;
    let status = || json_of(&shared.run(&["status", "-o", "json"]));
    shared.run(&[]).token();
    let before = status();
    let address = shared.database.address_without_password();
    assert_eq!(before["config_file"], Value::Null);
    assert_eq!(before["store"], json!(address));
    assert_eq!(before["lease"], Value::Null);
    assert_eq!(before["refused"], Value::Null);
    assert_eq!(before["can_refresh"], json!(true));
    let table = shared.run(&["status", "--all"]);
    assert!(table.stdout.contains("TOKEN    v1"), "{}", table.stdout);
    assert!(
        table.stdout.ends_with(&format!("\n{address}\n")),
        "{}",
        table.stdout
    );
    // While a run is working: its name.
    server.fail_next(Fault::Hold);
    let held = HeldRun::spawn(shared.program().arg("-v"));
    server.wait_until_held();
    let lease = status()["lease"].clone();
    let holder = format!("process {}", held.child.id());
    assert!(
        lease["host"].as_str().unwrap().ends_with(&holder),
        "{lease}"
    );
    let table = shared.run(&["status", "--all"]).stdout;
    assert!(
        table.contains(&format!("{holder} refreshes it, until ")),
        "{table}"
    );
    held.let_go(&shared.scene).token();
    assert_eq!(status()["lease"], Value::Null);
    // A final refusal: its message, and who sent the token.
    server.fail_next(Fault::code(20026));
    shared.run(&[]).assert_failed(4, "20026");
    let run = shared.run(&["status", "-o", "json"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    let after: Value = serde_json::from_str(&run.stdout).unwrap();
    let words = after["refused"]["message"].as_str().unwrap();
    assert!(words.contains("20026"), "{after}");
    assert!(
        after["last_sender"]["host"]
            .as_str()
            .unwrap()
            .contains("process ")
    );
    assert_eq!(after["can_refresh"], json!(false));
    let table = shared.run(&["status", "-p", "TOKEN"]);
    assert_eq!(table.code, 4);
    assert!(
        table
            .stdout
            .contains("fail: the server refused the refresh token"),
        "{}",
        table.stdout
    );
    assert!(
        table.stdout.contains("[TOKEN]: last sent by "),
        "{}",
        table.stdout
    );
    // A run that asks anyway, and succeeds, lifts it.
    shared.run(&[]).token();
    assert_eq!(status()["refused"], Value::Null);
    assert_eq!(shared.value("state"), "live");
    shared
        .run(&["status", "-p", "nobody"])
        .assert_failed(3, "has no login [nobody]");
    assert_eq!(server.spent_seen(), 0);
}

#[test]
fn each_output_says_the_same() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (scene, server) = (&shared.scene, &shared.scene.server);
    let address = shared.database.address_without_password();
    let result = json_of(&shared.run(&["-o", "json"]));
    assert_eq!(result["config_file"], Value::Null);
    assert_eq!(result["store"], json!(address));
    assert_eq!(result["refreshed"], json!(true));
    let token = result["access_token"].as_str().unwrap().to_owned();
    assert!(server.gave(&token));
    // Saved tokens, as long as they are valid: nothing is written, and nobody is waited for.
    let row = shared.value("login.*::text");
    for duration in ["90s", "10m", "1h"] {
        assert_eq!(shared.run(&["--min-ttl", duration]).token(), token);
    }
    let kept = json_of(&shared.run(&["--min-ttl", "1h", "-o", "json"]));
    assert_eq!(kept["refreshed"], json!(false));
    assert_eq!(kept["expires_at"], result["expires_at"]);
    assert_eq!(shared.value("login.*::text"), row);
    let end = "UPDATE feishu_refresh.login SET access_expires_at = now() + interval '9 min'";
    shared.database.query(end);
    assert_ne!(shared.run(&["--min-ttl", "10m"]).token(), token);
    let run = shared.run(&["--min-ttl", "10m", "-o", "env"]);
    assert!(
        run.stdout
            .starts_with("export FEISHU_USER_ACCESS_TOKEN='u-"),
        "{}",
        run.stdout
    );
    let output = scene.folder().join("output");
    fs::write(&output, "").unwrap();
    let mut program = shared.program();
    program.args(["-o", "github"]).env("GITHUB_OUTPUT", &output);
    let run = Run::of(program.output().unwrap());
    run.assert_done();
    let written = fs::read_to_string(&output).unwrap();
    let token = written.trim().strip_prefix("user_access_token=").unwrap();
    assert!(server.gave(token));
    assert!(
        run.stdout.contains(&format!("::add-mask::{token}")),
        "{}",
        run.stdout
    );
    // The hook learns where the pair is, once it is there.
    let hook = "cat > heard";
    let run = shared.run(&["--on-refresh", hook]);
    let heard = fs::read_to_string(scene.folder().join("heard")).unwrap();
    let heard: Value = serde_json::from_str(&heard).unwrap();
    assert_eq!(heard["access_token"], json!(run.token()));
    assert_eq!(heard["store"], json!(address));
    assert_eq!(heard["config_file"], Value::Null);
    let token = heard["refresh_token"].as_str().unwrap();
    assert_eq!(shared.value("refresh_fingerprint"), fingerprint(token));
    let run = shared.run(&["--on-refresh", "false"]);
    assert_eq!(run.code, 7, "{}", run.stderr);
    assert!(run.stderr.contains("refreshed and saved"), "{}", run.stderr);
    assert!(server.gave(run.stdout.trim()));
    // A failure says which login of which store.
    let run = shared.run(&["-p", "nobody", "-o", "json"]);
    let last: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["error"]["exit_code"], json!(3));
    assert_eq!(last["error"]["profile"], json!("nobody"));
    assert_eq!(server.spent_seen(), 0);
}

#[test]
fn the_place_that_was_named_last_and_nearest_counts() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let server = &shared.scene.server;
    let (address, key) = (shared.database.address(), shared.key.display().to_string());
    let other = Scene::with_server(crate::sandbox::Sandbox::start().unwrap());
    other.write(other.server.config_file());
    let file = other.file().display().to_string();
    let rotations = || (server.rotations(), other.server.rotations());
    // -c beats FEISHU_STORE, which beats FEISHU_CONFIG_FILE.
    shared.run(&["-c", &file]).token();
    assert_eq!(rotations(), (0, 1));
    let run = shared.run(&["status", "-c", &file, "-o", "json"]);
    assert_eq!(json_of(&run)["config_file"], json!(file));
    let mut program = shared.program();
    Run::of(program.env("FEISHU_CONFIG_FILE", &file).output().unwrap()).token();
    assert_eq!(rotations(), (1, 1));
    // The flag beats the variable, and needs none.
    let flags = ["--store", &address, "--store-key-file", &key];
    shared.scene.run(flags).token();
    let mut program = shared.program();
    program.env("FEISHU_STORE", "postgres://u@127.0.0.1:1/x");
    Run::of(program.args(flags).output().unwrap()).token();
    assert_eq!(rotations(), (3, 1));
    // An empty variable is none.
    let mut program = shared.program();
    program
        .env("FEISHU_STORE", "")
        .env("FEISHU_CONFIG_FILE", &file);
    Run::of(program.output().unwrap()).token();
    assert_eq!(rotations(), (3, 2));
    // Two places for one login.
    let run = shared.scene.run([&flags[..], &["-c", &file]].concat());
    run.assert_failed(2, "--store and -c name two places");
    // The same for all logins.
    assert_eq!(shared.run(&["--all", "-c", &file]).code, 0);
    assert_eq!(rotations(), (3, 3));
    // A refresh token from outside is only for a file, even the one already there.
    let printed = json_of(&shared.run(&["--min-ttl", "10m", "-o", "json"]));
    let own = printed["refresh_token"].as_str().unwrap();
    for arguments in [
        &["-r", own, "--min-ttl", "10m"][..],
        &["exec", "-r", own, "--", "echo", "started"],
        &["status", "-r", own],
    ] {
        let run = shared.run(arguments);
        run.assert_failed(3, "a store does not take one that way");
    }
    // On the way into a store it does no harm.
    let mut program = shared.program();
    program
        .env("FEISHU_REFRESH_TOKEN", own)
        .args(["store", "import"]);
    Run::of(program.output().unwrap()).assert_done();
    let token = server.refresh_token();
    let run = shared.run(&["-r", &token]);
    run.assert_failed(3, "a store does not take one that way");
    assert!(!run.stderr.contains(&token), "{}", run.stderr);
    let mut program = shared.program();
    program.env("FEISHU_REFRESH_TOKEN", &token);
    let run = Run::of(program.output().unwrap());
    run.assert_failed(3, "omit -r and FEISHU_REFRESH_TOKEN");
    assert_eq!(rotations(), (3, 3));
    assert!(server.is_live(&token));
}
