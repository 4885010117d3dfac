//! What a consent may end in other than a code, and how consent on a device is requested.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{HeldRun, Run, Scene};
use crate::sandbox::{APP_ID, APP_SECRET, Fault};

/// A file with an app, and the stand-in's addresses.
fn scene() -> Scene {
    let scene = Scene::without_file();
    let url = scene.server.base_url();
    scene.write(format!(
        "[ID]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {url}\n"
    ));
    scene
}

/// Starts a login in this way, and returns it with the callback of a user who refuses.
fn refusal(scene: &Scene, arguments: &[&str]) -> (HeldRun, String) {
    let accounts = scene.server.base_url();
    let mut program = scene.program();
    program.args(["login", "--accounts-url", &accounts]);
    program.args(arguments).stdin(Stdio::piped());
    let mut run = HeldRun::until(&mut program, "\n  http");
    let page = run.said.rsplit("\n  ").next().unwrap().trim().to_owned();
    run.read_until(if arguments[0] == "--paste" {
        "address here:\n"
    } else {
        "Waiting"
    });
    let (_, refuse) = scene.server.consent(&page);
    (run, refuse)
}

/// A redirect URI on a port that was free a moment ago.
fn redirect_uri() -> String {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    format!("http://localhost:{port}/callback")
}

/// Requests as a browser does; returns the whole response.
fn get(address: &str) -> String {
    let rest = address.strip_prefix("http://localhost:").unwrap();
    let (port, target) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    write!(stream, "GET /{target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// An error, its exit code, the page's heading, and a word of the hint.
const ERRORS: [(&str, i32, &str, &str); 5] = [
    ("access_denied", 4, "Consent refused", "user agrees"),
    ("invalid_scope", 3, "No consent", "--scope"),
    ("server_error", 5, "No consent", "log in again later"),
    ("temporarily_unavailable", 5, "No consent", "again later"),
    ("no_such_error", 1, "No consent", "what the server says"),
];

#[test]
fn an_error_of_the_consent_is_shown_in_the_servers_words() {
    let scene = scene();
    let before = scene.text();
    for (error, code, heading, hint) in ERRORS {
        let uri = redirect_uri();
        let (run, refuse) = refusal(&scene, &["--redirect-uri", &uri]);
        let state = refuse.split("state=").nth(1).unwrap().to_owned();
        let description = format!("a%1B%5B2J%0A%3Cb%3E+{state}+{APP_SECRET}+the-code+b");
        let refuse = refuse.replace("error=access_denied", &format!("error={error}"));
        let page = get(&format!(
            "{refuse}&code=the-code&error_description={description}"
        ));
        let shown = format!("<code>{error}: a [2J &lt;b&gt; *** *** *** b</code>");
        assert!(page.contains(heading) && page.contains(&shown), "{page}");
        let run = run.finish();
        let says = format!("({error}: a [2J <b> *** *** *** b); nothing was changed");
        run.assert_failed(code, &says);
        assert!(run.stderr.contains(hint), "{}", run.stderr);
    }
    assert_eq!(scene.text(), before);
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_pasted_error_ends_as_one_in_the_browser_does() {
    let scene = scene();
    for (error, code, _, hint) in ERRORS {
        let (mut run, refuse) = refusal(&scene, &["--paste"]);
        let refuse = refuse.replace("error=access_denied", &format!("error={error}"));
        let line = format!("{refuse}&error_description=in+words\n");
        let stdin = run.child.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        let run: Run = run.finish();
        run.assert_failed(code, &format!("({error}: in words); nothing was changed"));
        assert!(run.stderr.contains(hint), "{}", run.stderr);
    }
    assert!(scene.server.requests().is_empty());
}

/// Logs in by a device whose code is valid this long, with these answers to the first polls.
fn by_device(scene: &Scene, life: u64, polls: &[&str], arguments: &[&str]) -> Run {
    let shorten = move |reply: &mut Value| reply["expires_in"] = json!(life);
    scene.server.fail_next(Fault::Alter(Box::new(shorten)));
    for body in polls {
        scene.server.fail_next(Fault::reply(400, *body));
    }
    let accounts = scene.server.base_url();
    let device = ["login", "--device", "--accounts-url", &accounts];
    scene.run([&device, arguments].concat())
}

#[test]
fn a_device_is_waited_for_as_long_as_its_code_lives() {
    let scene = scene();
    let before = scene.text();
    let pending = [r#"{"error":"authorization_pending"}"#];
    for (arguments, names_wait) in [
        (&[][..], false),
        (&["--wait", "10"], false),
        (&["--wait", "1.5"], true),
    ] {
        let start = Instant::now();
        let run = by_device(&scene, 2, &pending, arguments);
        run.assert_failed(5, "no consent came in time");
        assert!(start.elapsed() < Duration::from_secs(9));
        assert_eq!(
            run.stderr.contains("a longer --wait"),
            names_wait,
            "{run:?}"
        );
    }
    assert_eq!(scene.text(), before);
}

#[test]
fn a_code_alone_says_that_a_device_is_still_waited_for() {
    let scene = scene();
    let run = by_device(&scene, 60, &[r#"{"code":20080,"msg":"pending"}"#], &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    scene.assert_sound();
}

#[test]
fn a_device_ends_as_a_browser_does() {
    let scene = scene();
    for (error, code, _, hint) in ERRORS.into_iter().take(2) {
        let body = format!(r#"{{"error":"{error}","error_description":"in {APP_SECRET} words"}}"#);
        let run = by_device(&scene, 60, &[&body], &[]);
        run.assert_failed(code, "in *** words");
        assert!(run.stderr.contains(hint), "{}", run.stderr);
    }
}

/// Never both ways at once: the server refuses that, too (20070).
#[test]
fn a_device_whose_header_was_taken_out_shows_its_secret_in_the_form() {
    let scene = scene();
    let body = r#"{"code":20001,"error":"invalid_request","error_description":"client_secret is missing"}"#;
    let prompt = json!({
        "device_code": "d", "user_code": "WDJB-MJHT", "verification_uri": "https://a.b", "expires_in": 1,
    });
    scene.server.fail_next(Fault::reply(400, body));
    scene
        .server
        .fail_next(Fault::reply(200, prompt.to_string()));
    let accounts = scene.server.base_url();
    let device = ["login", "--device", "--accounts-url", &accounts];
    let run = scene.run(device);
    assert!(run.stderr.contains("WDJB-MJHT"), "{}", run.stderr);
    let requests = scene.server.requests();
    assert!(requests[0].headers.contains_key("authorization"));
    assert!(!requests[0].body.contains("client_secret"));
    assert!(!requests[1].headers.contains_key("authorization"));
    let form = format!("client_id={APP_ID}&client_secret={APP_SECRET}&scope=offline_access");
    assert_eq!(requests[1].body, form);
    // Once only.
    let before = scene.server.requests().len();
    for _ in 0..2 {
        scene.server.fail_next(Fault::reply(400, body));
    }
    scene
        .run(device)
        .assert_failed(3, "client_secret is missing");
    assert_eq!(scene.server.requests().len(), before + 2);
    // A wrong secret is not tried again.
    let wrong = r#"{"error":"invalid_client","error_description":"The client secret is invalid."}"#;
    scene.server.fail_next(Fault::reply(401, wrong));
    scene.run(device).assert_failed(3, "is invalid");
    assert_eq!(scene.server.requests().len(), before + 3);
}
