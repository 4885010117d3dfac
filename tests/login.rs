//! The first pair, from a user's consent.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{HeldRun, Run, Scene, value_in};
#[cfg(unix)]
use crate::harness::{assert_helpers_shielded, send_signal};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, V3_PATH};

/// A file with an app, and nothing else.
fn scene() -> Scene {
    let scene = Scene::without_file();
    let base_url = scene.server.base_url();
    scene.write(format!(
        "; mine\n[ID]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {base_url}\naccounts_url = {base_url}\n"
    ));
    scene
}

/// Starts a login and waits until it shows the link; returns that, too.
fn ask(scene: &Scene, arguments: &[&str]) -> (HeldRun, String) {
    let mut program = scene.program();
    program
        .args(["login", "--paste"])
        .args(arguments)
        .stdin(Stdio::piped());
    let mut run = HeldRun::until(&mut program, "\n  http");
    run.read_until("Paste its address here:\n");
    let page = run
        .said
        .split("\n  ")
        .nth(1)
        .unwrap()
        .split('\n')
        .next()
        .unwrap()
        .to_owned();
    (run, page)
}

fn paste(child: &mut Child, text: &str) {
    // An ended login no longer reads.
    let _ = child.stdin.as_mut().unwrap().write_all(text.as_bytes());
}

fn end(mut run: HeldRun) -> Run {
    drop(run.child.stdin.take());
    run.finish()
}

#[test]
fn a_pasted_address_becomes_a_pair() {
    let scene = scene();
    let before = scene.text();
    for bare in [false, true] {
        let (mut run, page) = ask(&scene, &[]);
        let base = scene.server.base_url() + "/open-apis/authen/v1/authorize?";
        let query = page.strip_prefix(&base).unwrap_or_else(|| panic!("{page}"));
        let query: std::collections::HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        assert_eq!(query["client_id"], APP_ID);
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["redirect_uri"], "http://localhost:8080/callback");
        assert_eq!(query["scope"], "offline_access");
        assert_eq!(query["code_challenge_method"], "S256");
        assert_eq!(
            (query["state"].len(), query["code_challenge"].len()),
            (43, 43)
        );
        assert!(!page.contains(APP_SECRET));
        let (agree, _) = scene.server.consent(&page);
        let code = agree
            .split("code=")
            .nth(1)
            .unwrap()
            .split('&')
            .next()
            .unwrap();
        paste(&mut run.child, if bare { code } else { &agree });
        paste(&mut run.child, "\n");
        let run = end(run);
        assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
        assert!(
            run.stderr.contains("logged in: [TOKEN] of /"),
            "{}",
            run.stderr
        );
        assert_eq!(scene.value("api"), "v2");
        assert!(scene.text().starts_with(&before));
        scene.assert_sound();
    }
    let request = scene.server.requests().pop().unwrap();
    let body: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(request.path, "/open-apis/authen/v2/oauth/token");
    assert_eq!(body["grant_type"], "authorization_code");
    let keys: Vec<_> = body
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "client_id",
        "client_secret",
        "code",
        "code_verifier",
        "grant_type",
        "redirect_uri",
    ];
    assert_eq!(keys, expected);
    // From here on it is like any other pair.
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn rubbish_is_asked_for_again_and_another_logins_answer_refused() {
    let scene = scene();
    let (mut run, page) = ask(&scene, &["-o", "json", "--scope", "task:task:read"]);
    paste(&mut run.child, "\n");
    run.read_until("There is no code in it.");
    paste(
        &mut run.child,
        "http://localhost:8080/callback?code=forged&state=x\n",
    );
    run.read_until("belongs to another login");
    let (agree, _) = scene.server.consent(&page);
    paste(&mut run.child, &format!("{agree}\n"));
    let run = end(run);
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(result["scope"], "task:task:read offline_access");
    assert_eq!(result["refresh_token"], scene.value("refresh_token"));
    assert_eq!(scene.server.requests().len(), 1);
    scene.assert_sound();
}

#[test]
fn a_login_that_comes_to_nothing_changes_nothing() {
    let scene = scene();
    let before = scene.text();
    let (mut run, page) = ask(&scene, &[]);
    let (_, refuse) = scene.server.consent(&page);
    paste(&mut run.child, &format!("{refuse}\n"));
    end(run).assert_failed(4, "the consent was refused (access_denied)");
    let (run, _) = ask(&scene, &[]);
    end(run).assert_failed(5, "no address was pasted");
    let (run, _) = ask(&scene, &["--wait", "0.3"]);
    run.finish().assert_failed(5, "no consent came within");
    let run = scene.run(["login", "--paste", "--app-secret", "-"]);
    run.assert_failed(2, "stdin is for the address");
    // A transient failure is retried, with the same code; a permanent one is reported.
    let (mut run, page) = ask(&scene, &["--retries", "1"]);
    let (agree, _) = scene.server.consent(&page);
    scene.server.fail_next(Fault::CloseAfterSpending);
    paste(&mut run.child, &format!("{agree}\n"));
    let run = end(run);
    run.assert_failed(4, "a reply may have been lost, and the consent used up");
    assert_eq!(scene.text(), before);
    // An unknown code.
    let (mut run, _) = ask(&scene, &[]);
    paste(&mut run.child, "a61hb967bd094dge949h79bbexd16dfe\n");
    end(run).assert_failed(4, "(code 20003");
    // A reply without a refresh token is explained.
    let (mut run, page) = ask(&scene, &[]);
    let (agree, _) = scene.server.consent(&page);
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["refresh_token"] = json!(null);
    })));
    paste(&mut run.child, &format!("{agree}\n"));
    let run = end(run);
    run.assert_failed(3, "the consent brought no refresh token");
    assert!(run.stderr.contains("offline_access"), "{}", run.stderr);
    assert_eq!(scene.text(), before);
    // One without an access token is saved, but is not a success.
    let (mut run, page) = ask(&scene, &["-o", "token"]);
    let (agree, _) = scene.server.consent(&page);
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["access_token"] = json!(null);
    })));
    paste(&mut run.child, &format!("{agree}\n"));
    end(run).assert_failed(1, "the pair it gave was saved");
    scene.assert_sound();
    scene.write(&before);
    scene
        .run(["login", "--accounts-url", "nowhere"])
        .assert_failed(3, "is not a URL");
    // The app's secret is sent only to a named host.
    let requests = scene.server.requests().len();
    let without = before.replace("accounts_url", "; accounts_url");
    scene.write(without);
    for arguments in [
        &["login"][..],
        &["login", "--device"],
        &["login", "--paste"],
    ] {
        let run = scene.run(arguments);
        run.assert_failed(3, "it is not known where this service asks for consent");
        assert!(run.stderr.contains("--accounts-url"), "{}", run.stderr);
    }
    assert_eq!(scene.server.requests().len(), requests);
    scene.write(&before);
    // A login of another kind is not overwritten by mistake.
    scene
        .run(["login", "--paste", "--api", "115"])
        .assert_failed(2, "login gives a v2 or v3 token pair only");
    scene.write(before.clone() + "[disk]\napi = 115\nrefresh_token = x\n");
    scene
        .run(["login", "--paste", "-p", "disk"])
        .assert_failed(3, "holds a login of 115");
    scene.write(&before);
    // Nobody is asked if it could not work.
    let nowhere = [
        &["login", "--paste", "-c", "no/such/folder.ini"][..],
        &["--app-id", "a", "--app-secret", "b"],
    ];
    let run = scene.run(nowhere.concat());
    run.assert_failed(3, "cannot make ");
    assert!(!run.stderr.contains("authorize?"), "{}", run.stderr);
    scene.write("[TOKEN]\n");
    scene
        .run(["login", "--paste"])
        .assert_failed(3, "no app_id, and none given");
    scene.write("[TOKEN]\napp_id = cli_1\napp_secret = s\nbase_url = http://192.0.2.1\n");
    scene
        .run(["login", "--paste"])
        .assert_failed(3, "would send secrets unencrypted");
}

/// A cron line with a fixed `-r` keeps working, whatever happened to the login in between.
#[test]
fn a_constant_refresh_token_goes_on_working_after_a_login() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v2"));
    let by_hand = scene.value("refresh_token");
    let base_url = scene.server.base_url();
    let app = ["--app-id", APP_ID, "--app-secret", APP_SECRET];
    let with =
        |token: &str| scene.run([&["-r", token, "--base-url", &base_url], &app[..]].concat());
    with(&by_hand).token();
    let given = scene.server.refresh_token_for("v2");
    let run = with(&given);
    run.token();
    // A new one replaces the login, with a warning.
    assert!(run.stderr.contains("is new here"), "{}", run.stderr);
    let (mut run, page) = ask(&scene, &["--accounts-url", &base_url]);
    let (agree, _) = scene.server.consent(&page);
    paste(&mut run.child, &format!("{agree}\n"));
    assert_eq!(end(run).code, 0);
    let by_login = scene.value("refresh_token");
    for token in [&given, &by_login, &given] {
        let run = with(token);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(!run.stderr.contains("is new here"), "{}", run.stderr);
    }
    assert_eq!(scene.server.spent_seen(), 0);
    scene.assert_sound();
}

/// Whatever stops the program while the code is exchanged: the pair that has arrived is saved.
#[cfg(unix)]
#[test]
fn a_login_that_was_stopped_amid_its_exchange_saves_the_pair() {
    let scene = scene();
    let (mut run, page) = ask(&scene, &["--timeout", "1", "--retries", "0", "-v"]);
    let (agree, _) = scene.server.consent(&page);
    scene.server.fail_next(Fault::Hold);
    paste(&mut run.child, &format!("{agree}\n"));
    scene.server.wait_until_held();
    send_signal(&run.child, "STOP");
    scene.server.release();
    std::thread::sleep(Duration::from_millis(1500));
    send_signal(&run.child, "CONT");
    let run = end(run);
    assert_eq!(run.code, 0, "{}", run.stderr);
    scene.assert_sound();
}

#[test]
fn a_failure_that_passes_costs_no_consent() {
    let scene = scene();
    let (mut run, page) = ask(&scene, &[]);
    let (agree, _) = scene.server.consent(&page);
    for _ in 0..2 {
        scene.server.fail_next(Fault::reply(503, "down"));
    }
    paste(&mut run.child, &format!("{agree}\n"));
    assert_eq!(end(run).code, 0);
    assert_eq!(scene.server.requests().len(), 3);
    scene.assert_sound();
}

#[test]
fn a_login_takes_the_place_of_another_pair() {
    let scene = scene();
    let v1 =
        scene.server.profile("TOKEN", "v1") + "refresh_token_expires_at = 2030-01-01T00:00:00Z\n";
    scene.write(&v1);
    let old = value_in(&v1, "refresh_token");
    let base_url = scene.server.base_url();
    let lark = [
        "--lark",
        "--base-url",
        &base_url,
        "--redirect-uri",
        "http://localhost:9/x",
        "--accounts-url",
        &base_url,
    ];
    let (mut run, page) = ask(&scene, &lark);
    let (agree, _) = scene.server.consent(&page);
    assert!(run.said.contains("the Python program cannot go on with it"));
    assert!(agree.starts_with("http://localhost:9/x?code="), "{agree}");
    paste(&mut run.child, &format!("{agree}\n"));
    assert_eq!(end(run).code, 0);
    assert_eq!(scene.value("api"), "v2");
    assert!(!scene.text().contains("2030"));
    scene.assert_sound();
    // The list has what the section held by hand, and the new token; and a failed save is restored.
    let spent = scene.value("refresh_token_spent");
    assert_eq!(spent.split(' ').count(), 3, "{spent}");
    let mut program = scene.program();
    program.env("FEISHU_REFRESH_FAIL", "before-rename=error");
    program.args(["login", "--paste", "--accounts-url", &base_url]);
    program.stdin(Stdio::piped());
    let mut run = HeldRun::until(&mut program, "Paste its address here:\n");
    let page = run
        .said
        .split("\n  ")
        .nth(1)
        .unwrap()
        .split('\n')
        .next()
        .unwrap()
        .to_owned();
    let (agree, _) = scene.server.consent(&page);
    paste(&mut run.child, &format!("{agree}\n"));
    end(run).assert_failed(6, "rotated, but not saved");
    let run = scene.run::<&str>([]);
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    run.token();
    scene.assert_sound();
    assert!(scene.server.is_live(&old), "the old login was not touched");
}

#[test]
fn a_first_login_makes_the_file() {
    let scene = Scene::without_file();
    let flags = scene.app_flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let base_url = scene.server.base_url();
    let accounts = ["--accounts-url", &base_url];
    let (mut run, page) = ask(&scene, &[&flags[..], &accounts].concat());
    assert!(scene.file_names().is_empty());
    let (agree, _) = scene.server.consent(&page);
    paste(&mut run.child, &format!("{agree}\n"));
    let run = end(run);
    assert_eq!(run.code, 0);
    let saved = "saved with it: app_id, app_secret, base_url, accounts_url\n";
    assert!(run.stderr.contains(saved), "{}", run.stderr);
    assert!(!run.stderr.contains(APP_SECRET), "{}", run.stderr);
    let begins = format!(
        "[TOKEN]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {base_url}\n\
         accounts_url = {base_url}\napi = v2\nuser_access_token = "
    );
    assert!(scene.text().starts_with(&begins), "{}", scene.text());
    scene.assert_sound();
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

/// What came by flag is in the section after it, whatever became of the run: the next one needs no flag.
#[test]
fn a_login_keeps_what_came_by_flag_and_nothing_else() {
    let scene = scene();
    let base_url = scene.server.base_url();
    // The file has the same already, however it is written.
    let spelt = format!("{base_url}/open-apis/");
    let same = ["--app-id", APP_ID, "--base-url", &spelt];
    let before = scene.text();
    assert_eq!(consented(&scene, ask(&scene, &same)).code, 0);
    assert!(scene.text().starts_with(&before));
    assert_eq!(scene.text().matches("app_id").count(), 1);
    assert_eq!(scene.text().matches("base_url").count(), 1);
    // From the environment it stays there.
    scene.write("[TOKEN]\n");
    let mut program = scene.program();
    program
        .args(["login", "--paste", "--accounts-url", &base_url])
        .env("FEISHU_APP_ID", APP_ID)
        .env("FEISHU_APP_SECRET", APP_SECRET)
        .env("FEISHU_BASE_URL", &base_url)
        .stdin(Stdio::piped());
    let run = consented(&scene, shown_link(&mut program));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!scene.text().contains("app_"), "{}", scene.text());
    assert_eq!(scene.value("accounts_url"), base_url);
    // The save fails, or the run dies: the next run puts it back.
    for (point, code) in [("before-rename=error", 6), ("before-rename=abort", 134)] {
        scene.write("[TOKEN]\n");
        let flags = scene.app_flags();
        let mut program = scene.program();
        program
            .args(["login", "--paste", "--accounts-url", &base_url])
            .args(&flags)
            .env("FEISHU_REFRESH_FAIL", point)
            .stdin(Stdio::piped());
        let run = consented(&scene, shown_link(&mut program));
        let ended = if run.code < 0 { 134 } else { run.code };
        assert_eq!(ended, code, "{}", run.stderr);
        assert_eq!(scene.text(), "[TOKEN]\n");
        scene.run::<&str>([]).token();
        assert_eq!(scene.value("app_secret"), APP_SECRET);
        assert_eq!(scene.value("base_url"), base_url);
        scene.assert_sound();
    }
    // The state folder remembers the token pair only: the rest is the file's, and a person may change it there.
    scene.write("[TOKEN]\n");
    let state = scene.folder().join("state");
    let mut program = scene.program();
    program
        .args(["login", "--paste", "--accounts-url", &base_url])
        .args(scene.app_flags())
        .env("XDG_STATE_HOME", &state)
        .stdin(Stdio::piped());
    assert_eq!(consented(&scene, shown_link(&mut program)).code, 0);
    let done = fs::read_dir(state.join("feishu-refresh")).unwrap();
    let done: Vec<_> = done
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(done.len(), 1);
    assert!(done[0].contains(&scene.value("refresh_token")) && !done[0].contains(APP_SECRET));
}

/// What was granted is told, and that it is not much.
#[test]
fn a_login_tells_what_was_granted() {
    let scene = scene();
    let run = consented(&scene, ask(&scene, &[]));
    assert!(run.stderr.contains("granted: offline_access\n"), "{run:?}");
    assert!(run.stderr.contains("opens almost no API"), "{run:?}");
    assert!(run.stderr.contains("--scope \"A B\""), "{run:?}");
    let run = consented(&scene, ask(&scene, &["--scope", "task:task:read"]));
    assert!(
        run.stderr
            .contains("granted: task:task:read offline_access\n"),
        "{run:?}"
    );
    assert!(!run.stderr.contains("hint"), "{run:?}");
    let run = consented(&scene, ask(&scene, &["-q"]));
    assert!(!run.stderr.contains("granted"), "{run:?}");
}

/// A hint to log in again is the same login again.
#[test]
fn a_hint_to_log_in_again_keeps_what_was_given() {
    let scene = scene();
    let given = [
        "--scope",
        "task:task:read contact:user.base:readonly",
        "--redirect-uri",
        "http://localhost:9/x",
        "--wait",
        "90",
        "--app-id",
        "cli_else",
        "-p",
        "mine",
    ];
    let (run, _) = ask(&scene, &given);
    let run = end(run);
    run.assert_failed(5, "no address was pasted");
    let hint = run.stderr.lines().last().unwrap();
    for option in given.chunks(2) {
        let [name, value] = option else { panic!() };
        assert!(
            hint.contains(&format!("{name} {value}"))
                || hint.contains(&format!("{name} '{value} ")),
            "{name}: {hint}"
        );
    }
    assert!(hint.contains(" --paste"), "{hint}");
    assert!(!hint.contains("--app-secret"), "{hint}");
    // A secret is not repeated: it is asked for again.
    let base_url = scene.server.base_url();
    let secret = [
        "--app-secret",
        "s3cr3t",
        "--on-refresh",
        "echo s3cr3t",
        "--base-url",
        &base_url,
    ];
    let (run, _) = ask(&scene, &secret);
    let run = end(run);
    assert!(run.stderr.contains(" --app-secret APP_SECRET"), "{run:?}");
    assert!(!run.stderr.contains("s3cr3t"), "{run:?}");
    let url = ["-p", "zz", "--base-url", "https://me:s3cr3t@127.0.0.1:1"];
    for first in [&[][..], &["status"]] {
        let run = scene.run([first, &url].concat());
        run.assert_failed(3, "has no section [zz]");
        assert!(!run.stderr.contains("s3cr3t"), "{run:?}");
    }
}

/// Starts a login and waits until it shows the link; returns that, too.
fn shown_link(program: &mut Command) -> (HeldRun, String) {
    let run = HeldRun::until(program, "Paste its address here:\n");
    let page = run.said.split("\n  ").nth(1).unwrap();
    let page = page.split('\n').next().unwrap().to_owned();
    (run, page)
}

/// Consents to a login, and gives what came of it.
fn consented(scene: &Scene, (mut run, page): (HeldRun, String)) -> Run {
    let (agree, _) = scene.server.consent(&page);
    paste(&mut run.child, &format!("{agree}\n"));
    end(run)
}

/// A redirect URI on a port that was free a moment ago.
fn redirect_uri() -> String {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    format!(
        "http://localhost:{}/callback",
        free.local_addr().unwrap().port()
    )
}

/// Starts a login that waits for a browser; returns the link, too.
fn wait_for_browser(scene: &Scene, redirect_uri: &str, arguments: &[&str]) -> (HeldRun, String) {
    let mut program = scene.program();
    program
        .args(["login", "--redirect-uri", redirect_uri])
        .args(arguments);
    let run = HeldRun::until(&mut program, "Waiting");
    let page = run
        .said
        .split("\n  ")
        .nth(1)
        .unwrap()
        .split('\n')
        .next()
        .unwrap()
        .to_owned();
    (run, page)
}

/// Requests as a browser does; returns the whole response.
fn get(address: &str) -> String {
    let rest = address.strip_prefix("http://localhost:").unwrap();
    let (port, target) = rest.split_once('/').unwrap();
    let request = format!("GET /{target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    ask_port(port.parse().unwrap(), &request)
}

fn ask_port(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn a_browser_that_comes_back_ends_the_login() {
    let scene = scene();
    let uri = redirect_uri();
    let (mut run, page) = wait_for_browser(&scene, &uri, &[]);
    let (agree, _) = scene.server.consent(&page);
    // Other requests are answered, and the wait continues.
    let home = uri.strip_suffix("/callback").unwrap();
    assert!(get(&format!("{home}/favicon.ico")).starts_with("HTTP/1.1 404 "));
    assert!(get(&uri).starts_with("HTTP/1.1 404 "));
    let forged = get(&format!("{uri}?code=forged&state=forged"));
    assert!(
        forged.starts_with("HTTP/1.1 400 ") && forged.contains("another login"),
        "{forged}"
    );
    run.read_until("wrong state");
    assert!(get(&format!("{uri}?error=access_denied&state=x")).starts_with("HTTP/1.1 400 "));
    // Silent or malformed ones do not stop it, either.
    let port: u16 = home.rsplit(':').next().unwrap().parse().unwrap();
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let cookies = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(100_000));
    let many_headers = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(100) + "\r\n";
    for (request, status) in [
        ("x".repeat(70_000).as_str(), "400 "),
        ("\u{16}\u{3}\u{1} hello\r\n\r\n", "400 "),
        (&many_headers, "404 "),
        (&cookies, "404 "),
        ("POST /callback HTTP/1.1\r\n\r\ncode=x", "405 "),
        ("HEAD /callback HTTP/1.1\r\n\r\n", "405 "),
    ] {
        let reply = ask_port(port, request);
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{reply}");
    }
    let _many: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let done = get(&agree);
    assert!(done.starts_with("HTTP/1.1 200 OK\r\n"), "{done}");
    for words in [
        "Logged in",
        "登录成功",
        "Content-Security-Policy: default-src 'none'",
    ] {
        assert!(done.contains(words), "{done}");
    }
    let run = run.finish();
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
    assert_eq!(scene.server.requests().len(), 1);
    scene.assert_sound();
}

#[test]
fn of_two_answers_the_first_counts() {
    let scene = scene();
    let uri = redirect_uri();
    let (run, page) = wait_for_browser(&scene, &uri, &[]);
    let (agree, _) = scene.server.consent(&page);
    scene.server.fail_next(Fault::Hold);
    let first = {
        let agree = agree.clone();
        std::thread::spawn(move || get(&agree))
    };
    scene.server.wait_until_held();
    let second = get(&agree);
    assert!(second.starts_with("HTTP/1.1 409 "), "{second}");
    scene.server.release();
    assert!(first.join().unwrap().contains("Logged in"));
    assert_eq!(run.finish().code, 0);
    assert_eq!(scene.server.requests().len(), 1);
    scene.assert_sound();
}

#[test]
fn a_refused_or_abandoned_consent_ends_the_login() {
    let scene = scene();
    let before = scene.text();
    let uri = redirect_uri();
    let (run, page) = wait_for_browser(&scene, &uri, &[]);
    let (_, refuse) = scene.server.consent(&page);
    assert!(get(&refuse).contains("Consent refused"));
    run.finish()
        .assert_failed(4, "the consent was refused (access_denied)");
    scene
        .run(["login", "--redirect-uri", &uri, "--wait", "0.2"])
        .assert_failed(5, "no consent came within");
    // A failing code is reported in the browser, too.
    let (run, page) = wait_for_browser(&scene, &uri, &[]);
    let (agree, _) = scene.server.consent(&page);
    scene.server.fail_next(Fault::code(20066));
    assert!(get(&agree).contains("Something went wrong"));
    run.finish().assert_failed(4, "(code 20066");
    assert_eq!(scene.text(), before);
}

#[test]
fn a_port_that_is_taken_is_told_before_anybody_is_asked() {
    let scene = scene();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!(
        "http://localhost:{}/callback",
        taken.local_addr().unwrap().port()
    );
    let run = scene.run(["login", "--redirect-uri", &uri]);
    run.assert_failed(3, "cannot listen on port");
    assert!(!run.stderr.contains("authorize?"), "{}", run.stderr);
    let elsewhere = ["login", "--redirect-uri", "https://example.com/callback"];
    scene
        .run(elsewhere)
        .assert_failed(3, "no http address of this machine");
    // The Python package keeps it in the file.
    scene.write(scene.text() + &format!("[LOGIN_CODE]\nredirect_uri = {uri}\n"));
    scene
        .run(["login"])
        .assert_failed(3, "cannot listen on port");
}

#[cfg(unix)]
#[test]
fn no_thread_that_listens_takes_a_signal() {
    let scene = scene();
    let (run, _) = wait_for_browser(&scene, &redirect_uri(), &[]);
    assert_helpers_shielded(run.child.id());
    send_signal(&run.child, "TERM");
    assert_eq!(run.finish().code, 128 + 15);
}

/// Logs in by a device, with these answers to the first polls.
fn by_device(scene: &Scene, polls: &[&str], arguments: &[&str]) -> Run {
    // The prompt comes first.
    scene.server.fail_next(Fault::Delay(Duration::ZERO));
    for error in polls {
        let body = json!({ "code": 20999, "error": error, "error_description": "not now" });
        scene.server.fail_next(Fault::reply(400, body.to_string()));
    }
    let base_url = scene.server.base_url();
    let device = ["login", "--device", "--accounts-url", &base_url];
    scene.run([&device, arguments].concat())
}

/// At Feishu's own host a login gives v3, whatever the accounts host is; elsewhere, and at Lark, v2.
#[test]
fn a_login_gives_v3_at_feishus_own_host_and_v2_elsewhere() {
    let scene = scene();
    let there = scene.server.base_url();
    let file = scene.text();
    let base = format!("\nbase_url = {there}\n");
    for (at, arguments, api) in [
        (
            "\nbase_url = https://Open.Feishu.cn/open-apis/\n",
            &[][..],
            "v3",
        ),
        ("\n", &[], "v3"),
        (base.as_str(), &["--api", "v3"], "v3"),
        (base.as_str(), &[], "v2"),
    ] {
        scene.write(file.replace(&base, at));
        let (mut run, page) = ask(&scene, arguments);
        let (agree, _) = scene.server.consent(&page);
        paste(&mut run.child, &format!("{agree}\n"));
        let run = end(run);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert_eq!(scene.value("api"), api);
        let request = scene.server.requests().pop().unwrap();
        let is_form = request.body.starts_with("grant_type=authorization_code&");
        assert_eq!(
            (request.path == V3_PATH, is_form),
            (api == "v3", api == "v3")
        );
        assert!(request.body.contains("code_verifier"));
        // By device, too.
        assert_eq!(
            scene.run([&["login", "--device"], arguments].concat()).code,
            0
        );
        assert_eq!(scene.value("api"), api);
        scene.assert_sound();
    }
    // Lark stays v2, and its exchange is not at the accounts host.
    scene.write(file.replace(&base, "\nbase_url = https://open.larksuite.com\n"));
    let mut program = scene.program();
    program.args(["login", "--paste", "--retries", "0", "-v"]);
    // Nothing leaves this machine.
    program.env("HTTPS_PROXY", "http://127.0.0.1:9");
    let mut run = HeldRun::until(program.stdin(Stdio::piped()), "Paste its address here:\n");
    paste(&mut run.child, "a61hb967bd094dge949h79bbexd16dfe\n");
    let run = end(run);
    run.assert_failed(5, "cannot connect");
    let sent = "POST https://open.larksuite.com/open-apis/authen/v2/oauth/token";
    assert!(run.stderr.contains(sent), "{}", run.stderr);
}

#[test]
fn a_device_is_asked_for_politely_until_the_user_has_consented() {
    let scene = scene();
    let start = Instant::now();
    let run = by_device(
        &scene,
        &["authorization_pending", "slow_down"],
        &["-o", "json"],
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    // One second, one second, and then six.
    assert!(
        start.elapsed() >= Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    for words in [
        "https://accounts.feishu.cn/device?user_code=WDJB-MJHT",
        "WDJB-MJHT",
        "experimental",
    ] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(result["refresh_token"], scene.value("refresh_token"));
    assert_eq!(scene.value("api"), "v2");
    scene.assert_sound();

    let requests = scene.server.requests();
    assert_eq!(requests.len(), 4);
    let prompt = &requests[0];
    assert_eq!(prompt.path, "/oauth/v1/device_authorization");
    assert_eq!(
        prompt.headers["content-type"],
        "application/x-www-form-urlencoded"
    );
    assert_eq!(
        prompt.body,
        format!("client_id={APP_ID}&scope=offline_access")
    );
    let body: Value = serde_json::from_str(&requests[3].body).unwrap();
    assert_eq!(
        body["grant_type"],
        "urn:ietf:params:oauth:grant-type:device_code"
    );
    assert_eq!(
        (&body["client_id"], &body["client_secret"]),
        (&json!(APP_ID), &json!(APP_SECRET))
    );
    assert!(body["device_code"].is_string());
}

#[test]
fn a_device_that_gets_no_consent_changes_nothing() {
    let scene = scene();
    let before = scene.text();
    for (error, code, says) in [
        ("access_denied", 4, "the consent was refused"),
        ("expired_token", 5, "no consent came in time"),
        ("invalid_grant", 4, "not now"),
        ("invalid_client", 3, "not now"),
        ("something_else", 1, "(code 20999"),
    ] {
        by_device(&scene, &[error], &[]).assert_failed(code, says);
        assert_eq!(scene.text(), before, "{error}");
    }
    by_device(&scene, &["authorization_pending"], &["--wait", "1.5s"])
        .assert_failed(5, "no consent came in time");
    // What prevented an answer is reported.
    scene.server.fail_next(Fault::Delay(Duration::ZERO));
    scene.server.fail_next(Fault::reply(503, "down"));
    let base_url = scene.server.base_url();
    let device = ["login", "--device", "--accounts-url", &base_url];
    let run = scene.run([&device[..], &["--wait", "1.5s"]].concat());
    run.assert_failed(5, "HTTP 503");
    // The header that shows the app's secret is one, too.
    let header = STANDARD.encode(format!("{APP_ID}:{APP_SECRET}"));
    let words = format!("bad header Basic {header}");
    let body = json!({ "error": "invalid_client", "error_description": words });
    scene.server.fail_next(Fault::reply(400, body.to_string()));
    scene
        .run(device)
        .assert_failed(3, "bad header Basic ***; no login");
    // A run that cannot wait for the interval still asks once.
    let before_asking = scene.server.requests().len();
    by_device(&scene, &["authorization_pending"], &["--wait", "0.1s"])
        .assert_failed(5, "no consent came in time");
    assert_eq!(scene.server.requests().len(), before_asking + 2);
    // An invalid prompt, and an app unknown to the accounts service.
    for (body, code) in [
        (
            r#"{"device_code":"x","user_code":"y","verification_uri":"javascript:alert(1)"}"#,
            1,
        ),
        (r#"{"error":"invalid_client"}"#, 3),
        ("<html>", 5),
    ] {
        scene.server.fail_next(Fault::reply(200, body));
        let base_url = scene.server.base_url();
        let run = scene.run(["login", "--device", "--accounts-url", &base_url]);
        assert_eq!(run.code, code, "{}", run.stderr);
    }
    assert_eq!(scene.text(), before);
    scene
        .run(["login", "--device", "--paste"])
        .assert_failed(2, "does not go with");
}

/// A headless browser; if it is missing, returns none and says so.
fn chromium() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| {
        let tried = Command::new(name).arg("--version").output();
        tried.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        eprintln!("skipped: this test needs Chromium");
    }
    found
}

/// Opens an address in a real browser, follows where it leads, and returns the page that it ends on.
fn browse(chromium: &str, address: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut browser = Command::new(chromium);
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    ]);
    browser.arg(format!("--user-data-dir={}", home.path().display()));
    browser.args(["--virtual-time-budget=20000", "--dump-dom", address]);
    let output = browser.env("HOME", home.path()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_real_browser_logs_in() {
    let Some(chromium) = chromium() else {
        return;
    };
    let scene = scene();
    let uri = redirect_uri();
    let base_url = scene.server.base_url();
    let accounts = ["--accounts-url", base_url.as_str()];

    // Refused.
    let (run, page) = wait_for_browser(&scene, &uri, &accounts);
    let shown = browse(chromium, &format!("{page}#refuse"));
    assert!(
        shown.contains("Consent refused") && shown.contains("授权被拒绝"),
        "{shown}"
    );
    run.finish().assert_failed(4, "the consent was refused");

    // Forged, then granted, while another answer comes.
    let (mut run, page) = wait_for_browser(&scene, &uri, &accounts);
    let shown = browse(chromium, &format!("{page}#forge"));
    assert!(
        shown.contains("This answer belongs to another login"),
        "{shown}"
    );
    run.read_until("wrong state");
    let shown = browse(
        chromium,
        &format!("{}/favicon.ico", uri.trim_end_matches("/callback")),
    );
    assert!(shown.contains("Nothing here"), "{shown}");
    scene.server.fail_next(Fault::Hold);
    let first = {
        let page = format!("{page}#agree");
        std::thread::spawn(move || browse(chromium, &page))
    };
    scene.server.wait_until_held();
    let (second, _) = scene.server.consent(&page);
    let shown = browse(chromium, &second);
    assert!(shown.contains("This login has ended"), "{shown}");
    scene.server.release();
    let shown = first.join().unwrap();
    assert!(
        shown.contains("Logged in") && shown.contains("登录成功"),
        "{shown}"
    );
    assert_eq!(run.finish().code, 0);
    scene.assert_sound();
    scene.run::<&str>([]).token();
    scene.assert_sound();
}
