//! The store's key: what is sealed with it, what opens, and what stays hidden.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use super::Shared;
use super::commands::{answer, ask_in_store};

use crate::harness::{ABORTED, Run, fingerprint};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, Postgres};

/// A new key, as `store key` prints it.
fn new_key(shared: &Shared) -> String {
    let run = shared.scene.run(["store", "key"]);
    assert!(run.token().starts_with("frkey_"), "{}", run.stdout);
    run.stdout
}

/// Runs with these keys in the file, whatever was there.
fn run_with(shared: &Shared, keys: &str) -> Run {
    fs::write(&shared.key, keys).unwrap();
    shared.run(&[])
}

/// The id of the key that a column is sealed with.
fn key_of(shared: &Shared, column: &str) -> String {
    shared.value(&format!("split_part({column}, '.', 1)"))
}

#[test]
fn without_its_key_nothing_is_sent() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let scene = &shared.scene;
    let own = fs::read_to_string(&shared.key).unwrap();
    let id = key_of(&shared, "refresh_token");
    let other = new_key(&shared);
    // A claim leaves its traces; what the login is does not change.
    let login = || shared.value("(refresh_token, access_token, state, lease_id)::text");
    let row = login();
    for (keys, says) in [
        (other.as_str(), "is sealed with the key"),
        ("", "the store's key is missing"),
        ("# none\n", "the store's key is missing"),
        ("ur-sandbox0\n", "the store's key is missing or not valid"),
        (&own[..20], "the store's key is missing or not valid"),
        (&format!("{own}rubbish"), "or not valid"),
    ] {
        let run = run_with(&shared, keys);
        run.assert_failed(3, says);
        assert!(run.stderr.contains("nothing was sent"), "{}", run.stderr);
        for secret in [own.trim(), other.trim(), "rubbish", "sandbox0"] {
            assert!(!run.stderr.contains(secret), "{}", run.stderr);
        }
    }
    // The message names both keys by their ids, so that a person can tell which is missing.
    let run = run_with(&shared, &other);
    assert!(run.stderr.contains(&id), "{}", run.stderr);
    fs::remove_file(&shared.key).unwrap();
    shared
        .run(&[])
        .assert_failed(3, "cannot read the store's key");
    let mut program = shared.program();
    program.env_remove("FEISHU_STORE_KEY_FILE");
    let run = Run::of(program.output().unwrap());
    run.assert_failed(3, "the store's key is missing");
    assert!(run.stderr.contains("feishu-refresh store key"));
    // status says so, too, and exec and login do nothing, either.
    fs::write(&shared.key, &other).unwrap();
    let status = shared.run(&["status"]);
    status.assert_failed(3, "is sealed with the key");
    let exec = shared.run(&["exec", "--", "echo", "started"]);
    exec.assert_failed(3, "is sealed with the key");
    assert!(scene.server.requests().is_empty());
    assert_eq!(login(), row);
    // The right key, by each of its ways; the variable beats the one that names a file.
    fs::write(&shared.key, &own).unwrap();
    shared.run(&[]).token();
    let mut program = shared.program();
    program.env("FEISHU_STORE_KEY", own.trim());
    program.env("FEISHU_STORE_KEY_FILE", "/nowhere");
    Run::of(program.output().unwrap()).token();
    let key = shared.key.display().to_string();
    let mut program = shared.program();
    program.env("FEISHU_STORE_KEY", other.trim());
    program.args(["--store-key-file", &key]);
    Run::of(program.output().unwrap()).token();
    assert_eq!(scene.server.spent_seen(), 0);
}

#[test]
fn a_key_is_changed_without_a_pause() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let old = fs::read_to_string(&shared.key).unwrap();
    let new = new_key(&shared);
    let first = key_of(&shared, "refresh_token");
    // New key last: it opens, and does not seal yet.
    run_with(&shared, &format!("{old}; the next\n{new}")).token();
    assert_eq!(key_of(&shared, "refresh_token"), first);
    run_with(&shared, &old).token();
    // New key first: what is saved is sealed with it; the old ones still open.
    run_with(&shared, &format!("{new}{old}")).token();
    let second = key_of(&shared, "refresh_token");
    assert_ne!(second, first);
    assert_eq!(key_of(&shared, "access_token"), second);
    run_with(&shared, &format!("{old}{new}")).token();
    run_with(&shared, &format!("{new}{old}")).token();
    let requests = shared.scene.server.requests().len();
    run_with(&shared, &old).assert_failed(3, "is sealed with the key");
    assert_eq!(shared.scene.server.requests().len(), requests);
    assert_eq!(shared.scene.server.rotations(), 5);
    assert_eq!(shared.scene.server.spent_seen(), 0);
}

/// Otherwise the app's secret would be sealed with a key that the other logins do not use.
#[test]
fn a_consent_needs_a_key_of_the_store() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let other = new_key(&shared);
    fs::write(&shared.key, &other).unwrap();
    let app = shared.scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    for arguments in [
        &[&["login", "--paste", "-p", "new"], &app[..]].concat()[..],
        &["store", "import"],
    ] {
        let run = shared.run(arguments);
        run.assert_failed(3, "nothing there is sealed with the given key");
    }
    // The hint helps after the key was lost.
    shared
        .database
        .query("TRUNCATE feishu_refresh.login, feishu_refresh.app CASCADE");
    let (login, page) = ask_in_store(&shared, &app);
    assert_eq!(answer(&shared, login, &page).code, 0);
    shared.run(&["-v", "--lock-timeout", "0"]).token();
}

#[test]
fn what_is_sealed_opens_only_where_it_stood() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let (database, server) = (&shared.database, &shared.scene.server);
    shared.run(&[]).token();
    let requests = server.requests().len();
    let refused = |change: &str, back: &str, name: &str| {
        database.query(&format!("UPDATE feishu_refresh.login SET {change}"));
        for arguments in [&["-p", name][..], &["-p", name, "--min-ttl", "10m"]] {
            shared
                .run(arguments)
                .assert_failed(3, "was not sealed for that row");
        }
        assert_eq!(server.requests().len(), requests, "{change}");
        database.query(&format!("UPDATE feishu_refresh.login SET {back}"));
    };
    refused("name = 'other'", "name = 'TOKEN'", "other");
    let (refresh, access) = (shared.value("refresh_token"), shared.value("access_token"));
    let back = format!("refresh_token = '{refresh}', access_token = '{access}'");
    refused("refresh_token = access_token", &back, "TOKEN");
    refused("access_token = refresh_token", &back, "TOKEN");
    refused(
        "refresh_token = access_token, access_token = refresh_token",
        &back,
        "TOKEN",
    );
    refused("refresh_token = left(refresh_token, -4)", &back, "TOKEN");
    refused("refresh_token = 'ur-plain'", &back, "TOKEN");
    // Nor as another app's.
    database.query("INSERT INTO feishu_refresh.app VALUES ('cli_other', 'http://127.0.0.1:9')");
    let other = "app_id = 'cli_other', service = 'http://127.0.0.1:9'";
    refused(other, "app_id = NULL, service = NULL", "TOKEN");
    // It does not go to another host.
    let address = shared.value("base_url");
    let elsewhere = "base_url = 'http://127.0.0.1:9'";
    refused(elsewhere, &format!("base_url = '{address}'"), "TOKEN");
    // Put back as it was, it works.
    shared.run(&[]).token();
    // An older text of the same column opens, but is a spent token: it must not be sent, nor waited for.
    let requests = server.requests().len();
    let now = shared.value("refresh_token");
    for change in [
        format!("refresh_token = '{refresh}'"),
        "refresh_fingerprint = previous_fingerprint".to_owned(),
    ] {
        let print = shared.value("refresh_fingerprint");
        database.query(&format!("UPDATE feishu_refresh.login SET {change}"));
        let run = shared.run(&[]);
        run.assert_failed(3, "is not the one of its refresh_fingerprint");
        shared
            .run(&["status"])
            .assert_failed(3, "is not the one of");
        let back = format!("refresh_token = '{now}', refresh_fingerprint = '{print}'");
        database.query(&format!("UPDATE feishu_refresh.login SET {back}"));
    }
    assert_eq!(server.requests().len(), requests);
    shared.run(&[]).token();
    assert_eq!(server.spent_seen(), 0);
    // The message's advice works.
    database.query("UPDATE feishu_refresh.login SET refresh_token = 'ur-plain'");
    let run = shared.run(&[]);
    run.assert_failed(3, "or log in again: feishu-refresh login");
    let app = shared.scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    let (login, page) = ask_in_store(&shared, &app);
    assert_eq!(answer(&shared, login, &page).code, 0);
    shared.run(&[]).token();
}

/// All marks of these tests' secrets.
fn assert_no_secret(shared: &Shared, place: &str, text: &str) {
    // The app's name is not a secret, but looks like one.
    let text = text.replace(APP_ID, "");
    let key = fs::read_to_string(&shared.key).unwrap();
    let secrets = [
        "sandbox0",
        "frkey_",
        key.trim().trim_start_matches("frkey_"),
        APP_SECRET,
        Postgres::password(),
    ];
    for secret in secrets {
        let found = text.find(secret).map(|at| &text[at.saturating_sub(200)..]);
        assert_eq!(found, None, "{place} shows {secret}");
    }
}

#[test]
fn no_secret_is_in_a_dump_a_log_or_a_message() {
    // Everything that a server can log.
    let settings = [
        ("log_min_duration_statement", "0"),
        ("log_parameter_max_length", "-1"),
        ("log_parameter_max_length_on_error", "-1"),
        ("log_min_messages", "debug1"),
        ("log_error_verbosity", "verbose"),
    ];
    let Some(shared) = Shared::without_login(&settings) else {
        return;
    };
    let scene = &shared.scene;
    let file = scene.text() + &scene.server.profile("second", "v2")[..];
    scene.write(file);
    let mut said = String::new();
    let run = |arguments: &[&str], code: i32| {
        let run = shared.run(arguments);
        assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
        run.stderr
    };
    said += &run(&["store", "init", "-v"], 0);
    said += &run(&["store", "import", "-v"], 0);
    said += &run(&["-v"], 0);
    // A second one with an app token that the program fetches.
    let app = scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    said += &run(&[&["-v", "-p", "second"], &app[..]].concat(), 0);
    said += &run(&["status", "-v"], 0);
    // A server that repeats what it was sent, and a row that keeps its message.
    let held = shared_token(&shared, "second");
    let words = format!("bad token {held} of {APP_SECRET}");
    let echo = json!({ "code": 20037, "error": "invalid_grant", "error_description": words });
    scene.server.fail_next(Fault::reply(400, echo.to_string()));
    said += &run(&["-v", "-p", "second"], 4);
    let refusal = "SELECT refusal FROM feishu_refresh.login WHERE name = 'second'";
    let refusal = shared.database.query(refusal);
    assert!(refusal.contains("bad token *** of ***"), "{refusal}");
    said += &run(&["-v", "-p", "nobody"], 3);
    // A consent brings a whole login.
    let (login, page) = ask_in_store(&shared, &app);
    said.push_str(&answer(&shared, login, &page).stderr);
    // Errors of the database with the statement and its parameters.
    shared
        .database
        .query("ALTER TABLE feishu_refresh.login ADD CHECK (generation < 0) NOT VALID");
    said += &run(&["-v"], 3);
    shared
        .database
        .query("ALTER TABLE feishu_refresh.login DROP CONSTRAINT login_generation_check");
    // A journal of a run that died: sealed as well.
    let state = scene.folder().join("state");
    let mut program = shared.program();
    program.env("XDG_STATE_HOME", &state);
    program.env("FEISHU_REFRESH_FAIL", "before-save=abort");
    let run = Run::of(program.output().unwrap());
    assert_eq!(run.code, ABORTED, "{}", run.stderr);
    let mut journals = 0;
    for entry in fs::read_dir(state.join("feishu-refresh")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert_no_secret(&shared, "a journal", &text);
        journals += 1;
    }
    assert_eq!(journals, 1);
    // The lease of a dead run is waited for; here it has ended.
    let over = "UPDATE feishu_refresh.login SET lease_until = now()";
    shared.database.query(over);
    let mut program = shared.program();
    let run = Run::of(program.env("XDG_STATE_HOME", &state).output().unwrap());
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    run.token();
    // The access tokens that it may print are not on stderr.
    assert_no_secret(&shared, "a message", &said);
    let last = shared_token(&shared, "TOKEN");
    let log = shared.database.log();
    assert!(
        log.contains("sent_fingerprint") && log.contains("parameters: $1"),
        "no log"
    );
    assert!(log.contains(&fingerprint(&last)), "no token was saved");
    assert_no_secret(&shared, "the log", &log);
    for program in ["pg_dump", "pg_dumpall"] {
        let dump = shared.database.dump(program, &[], "feishu").unwrap();
        assert!(dump.contains("COPY feishu_refresh.login"), "{dump}");
        assert_no_secret(&shared, program, &dump);
    }
    assert_eq!(scene.server.spent_seen(), 0);
}

/// The login's refresh token, as the program prints it where it is asked to.
fn shared_token(shared: &Shared, name: &str) -> String {
    let run = shared.run(&["-p", name, "-o", "json"]);
    let result: Value = serde_json::from_str(run.token()).unwrap();
    result["refresh_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_command_finds_the_token_and_nothing_that_renews_it() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let key = fs::read_to_string(&shared.key).unwrap();
    let environment = |arguments: &[&str]| {
        let mut program = shared.program();
        program.env("FEISHU_STORE_KEY", key.trim());
        program.stdin(Stdio::null());
        program.args(["exec"]).args(arguments);
        Run::of(program.args(["--", "/usr/bin/env"]).output().unwrap())
    };
    let run = environment(&[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let token = run
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("FEISHU_USER_ACCESS_TOKEN="));
    assert!(shared.scene.server.gave(token.unwrap()), "{}", run.stdout);
    assert!(!run.stdout.contains("frkey_"), "{}", run.stdout);
    assert!(!run.stdout.contains("FEISHU_STORE_KEY="), "{}", run.stdout);
    // It is still valid: the second command gets the same, and nothing is sent.
    assert_eq!(environment(&[]).stdout, run.stdout);
    assert_eq!(shared.scene.server.rotations(), 1);
    let mut program = shared.program();
    program.env("FEISHU_REFRESH_TOKEN", "ur-other");
    program.args(["exec", "--", "/usr/bin/env"]);
    let run = Run::of(program.output().unwrap());
    run.assert_failed(3, "a store does not take one that way");
    assert!(!run.stderr.contains("ur-other"), "{}", run.stderr);
}
