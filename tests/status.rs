//! What `status` says about a file.

use std::ffi::OsString;
use std::fs;
use std::io;

use feishu_refresh::cli::{self, Console};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::harness::{HeldRun, PRIVATE_MODE, Run, Scene};
use crate::sandbox::Fault;

/// A file with a profile of each kind: one still valid, one expired, one that needs an app token, one without a token,
/// one unknown.
fn scene() -> Scene {
    let scene = Scene::without_file();
    let at = |hours| {
        Timestamp::now() + SignedDuration::from_hours(hours) + SignedDuration::from_secs(30)
    };
    scene.write(format!(
        "[ID]\napp_id = cli_1\napp_secret = s\n\
         [TOKEN]\napp_access_token = a-secret\nuser_access_token = u-secret\n\
         user_access_token_expires_at = {}\nrefresh_token = ur-secret\nrefresh_token_expires_at = {}\n\
         [ended]\napi = v2\nrefresh_token = ur-secret\nrefresh_token_expires_at = {}\n\
         [oidc]\napi = oidc\nrefresh_token = ur-secret\n\
         [disk]\napi = 115\naccess_token = secret\nrefresh_token =\n\
         [odd]\napi = v9\nrefresh_token = x\n\
         [mine]\nnote = 1\n",
        at(1),
        at(24 * 20),
        at(-3),
    ));
    scene
}

#[test]
fn status_shows_every_profile_and_no_secret() {
    let scene = scene();
    let before = scene.text();
    let run = scene.run(["status"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(!run.stdout.contains("secret"), "{}", run.stdout);
    let row = |name: &str| {
        let found = run
            .stdout
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        found
            .unwrap_or_else(|| panic!("no {name} in {}", run.stdout))
            .to_owned()
    };
    // SHA-256 of "ur-secret" begins so.
    let print = "d752a6755c24240d";
    let token = row("TOKEN");
    assert!(
        token.contains(", 1 h 0 min ") && token.contains(&format!("{print}, 20 days ")),
        "{token}"
    );
    assert!(token.trim_end().ends_with("  refresh"), "{token}");
    assert!(row("oidc").ends_with("fetch an app token, then refresh"));
    assert!(row("oidc").contains(&format!("{print}, end unknown")));
    assert!(row("ended").contains("ended 2 h 59 min ago"));
    assert!(row("ended").ends_with("fail: the refresh token has ended"));
    assert!(row("disk").ends_with("fail: no refresh token"));
    assert!(row("odd").ends_with("fail: the api is not known"));
    // Those that need a person come first; what is not a profile is left out.
    let names: Vec<_> = run
        .stdout
        .lines()
        .skip(1)
        .take(5)
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["ended", "disk", "odd", "TOKEN", "oidc"]);
    assert!(!run.stdout.contains("mine"));
    let mode = PRIVATE_MODE.map_or_else(String::new, |mode| format!(", mode {mode}"));
    assert!(
        run.stdout.contains(&format!("feishu-config.ini{mode}\n")),
        "{}",
        run.stdout
    );
    assert!(
        run.stderr.contains("[ended], [disk], [odd] of "),
        "{}",
        run.stderr
    );

    // A single one.
    assert_eq!(scene.run(["status", "-p", "TOKEN"]).code, 0);
    assert_eq!(scene.run(["-p", "oidc", "status"]).code, 0);
    assert_eq!(scene.run(["status", "-p", "ended"]).code, 4);
    scene
        .run(["status", "-p", "nowhere"])
        .assert_failed(3, "has no section [nowhere]");
    scene
        .run(["status", "-c", "nowhere.ini"])
        .assert_failed(3, "does not exist");
    assert!(scene.server.requests().is_empty());
    assert_eq!(scene.text(), before);
    scene.write("[mine]\nnote = 1\n");
    scene.run(["status"]).assert_failed(3, "has no login");
    scene.write("rubbish\n");
    scene.run(["status"]).assert_failed(3, "line 1");
}

/// The keys of an object of `status -o json`, and what each can be.
const SCHEMA: &[(&str, &[&str])] = &[
    ("profile", &["string"]),
    ("api", &["string", "null"]),
    ("access_token", &["token", "null"]),
    ("refresh_token", &["token", "null"]),
    ("can_refresh", &["boolean"]),
    ("next", &["string"]),
    ("config_file", &["string"]),
    ("mode", &["string", "null"]),
    ("journals", &["array"]),
];

const TOKEN_SCHEMA: &[(&str, &[&str])] = &[
    ("fingerprint", &["string"]),
    ("expires_at", &["string", "null"]),
    ("expires_in", &["number", "null"]),
];

fn assert_schema(value: &Value, schema: &[(&str, &[&str])]) {
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), schema.len(), "{value}");
    for (key, kinds) in schema {
        let field = object
            .get(*key)
            .unwrap_or_else(|| panic!("no {key} in {value}"));
        let kind = match field {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => {
                assert_schema(field, TOKEN_SCHEMA);
                "token"
            }
        };
        assert!(kinds.contains(&kind), "{key} is a {kind} in {value}");
    }
}

#[test]
fn status_warns_of_refresh_tokens_that_end_soon() {
    let scene = Scene::new();
    scene.run(["--all"]);
    let file = scene.text();
    let section = |name: &str, hours| {
        let end = Timestamp::now() + SignedDuration::from_hours(hours);
        let mut text = scene.server.profile(name, "v1");
        text.push_str(&format!("refresh_token_expires_at = {end}\n"));
        text
    };
    scene.write(format!(
        "{file}{}{}{}",
        section("later", 47),
        section("soon", 2),
        scene.server.profile("unknown", "v1")
    ));
    scene.run(["status"]).assert_done();
    scene.run(["status", "--warn-within", "1h"]).assert_done();
    let run = scene.run(["status", "--warn-within", "48h"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    let file = scene.file().display().to_string();
    let warning = format!("the refresh tokens of [later], [soon] of {file} end within 2d\n");
    assert!(run.stderr.contains(&warning), "{}", run.stderr);
    let run = scene.run(["status", "--warn-within", "3h", "-o", "json"]);
    assert!(run.stderr.contains("tokens of [soon] of"), "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 4, "{}", run.stdout);
    scene
        .run(["status", "-p", "TOKEN", "--warn-within", "48h"])
        .assert_done();

    // What the hint says, typed, helps.
    let run = scene.run(["status", "--warn-within", "3h"]);
    let hint = run.stderr.split("hint: ").nth(1).unwrap();
    let command = hint.split(" renews them").next().unwrap();
    let words = command.strip_prefix("feishu-refresh ").unwrap();
    scene.run(words.split(' ')).assert_done();
    scene.run(["status", "--warn-within", "3h"]).assert_done();

    // A host that came by flag belongs to it: elsewhere, the token would be a stranger's.
    let host = ["--base-url", "https://example.com", "--ca-cert", "ca.pem"];
    let run = scene.run(["status", "--warn-within", "50d"].iter().chain(&host));
    let arguments = format!(
        "feishu-refresh --all -c {file} --base-url https://example.com --ca-cert {} renews",
        scene.folder().join("ca.pem").display()
    );
    assert!(run.stderr.contains(&arguments), "{}", run.stderr);

    // Beside one that cannot be refreshed at all.
    scene.write(format!(
        "{}[dead]\nrefresh_token =\napp_access_token = a\n{}",
        scene.text(),
        section("soon-again", 1)
    ));
    let run = scene.run(["status", "--warn-within", "3h"]);
    assert_eq!(run.code, 4);
    let both =
        format!("[dead] of {file} cannot be refreshed; the refresh tokens of [soon-again] of");
    assert!(run.stderr.contains(&both), "{}", run.stderr);
    scene
        .run(["--warn-within", "3h"])
        .assert_failed(2, "--warn-within");
}

#[test]
fn a_chinese_name_keeps_the_columns_of_the_table() {
    let scene = Scene::without_file();
    scene.write("[机器人]\nrefresh_token = ur-1\n[bot]\nrefresh_token = ur-2\n");
    let table = scene.run(["status"]).stdout;
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    // Three characters, six columns wide.
    assert!(row("机器人").starts_with("机器人   v1 "), "{table}");
    assert!(row("bot").starts_with("bot      v1 "), "{table}");
}

#[test]
fn the_json_of_status_keeps_to_its_schema() {
    let scene = scene();
    let run = scene.run(["status", "-o", "json"]);
    let objects: Vec<Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = objects
        .iter()
        .map(|object| object["profile"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["TOKEN", "ended", "oidc", "disk", "odd"]);
    for object in &objects {
        assert_schema(object, SCHEMA);
        let can = matches!(object["profile"].as_str(), Some("TOKEN" | "oidc"));
        assert_eq!(object["can_refresh"], can);
        assert_eq!(object["mode"].as_str(), PRIVATE_MODE);
    }
    assert!(objects[1]["refresh_token"]["expires_in"].as_i64().unwrap() < 0);
    let error: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["exit_code"], 4);
}

#[cfg(unix)]
#[test]
fn status_names_pending_journals_and_an_open_mode() {
    let scene = Scene::new();
    let mut failing = scene.program();
    failing.env("FEISHU_REFRESH_FAIL", "before-rename=error");
    Run::of(failing.output().unwrap()).assert_failed(6, "rotated, but not saved");
    fs::set_permissions(
        scene.file(),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let run = scene.run(["status"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stdout.contains("mode 0644: other users can read it"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout
            .contains("feishu-config.ini.journal: a pair to be put back"),
        "{}",
        run.stdout
    );
    // It only reads.
    assert!(scene.journal().exists());
    scene.run::<&str>([]).token();
    // A live run has nothing there yet, and is not waited for.
    let held = HeldRun::start(&scene, Fault::Hold);
    assert!(!scene.run(["status"]).stdout.contains("put back"));
    held.let_go(&scene).token();
}

#[cfg(unix)]
#[test]
fn status_foresees_what_the_next_run_puts_back() {
    // A waiting pair replaces an expired one.
    let scene = Scene::new();
    scene.write(scene.text() + "refresh_token_expires_at = 2020-01-01T00:00:00Z\n");
    assert_eq!(scene.run(["status"]).code, 4);
    let mut failing = scene.program();
    failing.env("FEISHU_REFRESH_FAIL", "before-rename=abort");
    failing.output().unwrap();
    let run = scene.run(["status"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    // So does it in a file that is gone.
    fs::remove_file(scene.file()).unwrap();
    let seen = scene.run(["status"]).stdout;
    assert!(seen.contains("29 days"), "{seen}");
    assert!(!scene.file().exists());

    // A half-written file is repaired.
    let scene = Scene::new();
    fs::hard_link(scene.file(), scene.folder().join("other")).unwrap();
    let mut failing = scene.program();
    failing.env("FEISHU_REFRESH_FAIL", "amid-in-place-write=abort");
    failing.output().unwrap();
    let torn = scene.text();
    assert!(torn.starts_with('\0'));
    let run = scene.run(["status"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert_eq!(scene.text(), torn);
    scene.run::<&str>([]).token();
}

#[cfg(unix)]
#[test]
fn status_says_of_a_file_that_cannot_be_read_that_it_cannot() {
    let scene = Scene::new();
    scene
        .run(["status", "-c", "feishu-config.ini/x"])
        .assert_failed(3, "cannot read");
    scene
        .run(["status", "-c", "x"])
        .assert_failed(3, "does not exist");
}

#[test]
fn status_takes_a_pair_for_a_profile_that_has_none() {
    let scene = Scene::new();
    let mut failing = scene.program();
    failing.env("FEISHU_REFRESH_FAIL", "before-rename=error");
    Run::of(failing.output().unwrap()).assert_failed(6, "rotated, but not saved");
    let token = scene.value("refresh_token");
    scene.write(scene.text().replace(&token, ""));
    assert_eq!(scene.run(["status"]).code, 0);
    fs::remove_file(scene.journal()).unwrap();
    assert_eq!(scene.run(["status"]).code, 4);
}

#[test]
fn status_reads_a_file_once_for_all_profiles() {
    let scene = Scene::without_file();
    let section = |index| format!("[p{index}]\napi = 115\nrefresh_token = x{index}\n");
    scene.write((0..5000).map(section).collect::<String>());
    let start = std::time::Instant::now();
    assert_eq!(scene.run(["status"]).stdout.lines().count(), 5003);
    // Once per profile would take minutes.
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}

/// What a terminal would get.
fn on_a_terminal(scene: &Scene, no_colour: Option<&str>) -> String {
    let mut stdout = Vec::new();
    let env = |name: &str| no_colour.filter(|_| name == "NO_COLOR").map(OsString::from);
    let mut console = Console {
        env: &env,
        stdin: Box::new(io::empty()),
        stdin_is_terminal: false,
        stdout: &mut stdout,
        stderr: &mut io::sink(),
        stdout_is_terminal: true,
        stderr_is_terminal: true,
    };
    let file = scene.file().into_os_string();
    let arguments = ["feishu-refresh".into(), "status".into(), "-c".into(), file];
    cli::run(arguments, &mut console);
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_terminal_gets_colour_unless_no_color_is_set() {
    let scene = scene();
    let plain = scene.run(["status"]).stdout;
    assert!(!plain.contains('\u{1b}'));
    let colour = on_a_terminal(&scene, None);
    for code in ["[1m", "[31mfail: ", "[32mrefresh"] {
        assert!(colour.contains(&format!("\u{1b}{code}")), "{colour}");
    }
    assert_eq!(on_a_terminal(&scene, Some("1")), plain);
    assert_eq!(on_a_terminal(&scene, Some("")), colour);
    // A section's name cannot affect it.
    scene.write("[a\u{1b}[2Jb]\nrefresh_token = x\n");
    assert!(!on_a_terminal(&scene, Some("1")).contains('\u{1b}'));
}
