//! What a consent may end in other than a code, and how a device is asked for.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use crate::harness::{HeldRun, Run, Scene};
use crate::sandbox::{APP_ID, APP_SECRET};

/// A file with an app, and the stand-in's addresses.
fn scene() -> Scene {
    let scene = Scene::without_file();
    let url = scene.server.base_url();
    scene.write(format!(
        "[ID]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {url}\n"
    ));
    scene
}

/// Starts a login in this way, and gives it with the callback of a user who says no.
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

/// Asks as a browser does; returns all that came.
fn get(address: &str) -> String {
    let rest = address.strip_prefix("http://localhost:").unwrap();
    let (port, target) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    write!(stream, "GET /{target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// An error, its exit code, what the page is headed with, and a word of the hint.
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
