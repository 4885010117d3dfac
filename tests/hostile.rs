//! Replies that are meant to harm. Each ends in time, in a clear message and in bounded memory, and with a working
//! refresh token in the file.

use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PROGRAM, Run, Scene};
use crate::sandbox::Fault;

/// The most address space that a run may take, in KiB. An unoptimised build maps some 60 MiB before
/// it does anything; a body of 64 MiB that is kept would not fit.
const MOST_MEMORY: u32 = 100 * 1024;

const TIMEOUT: &str = "2";

/// A reply that replaces the server's own, which is never asked.
#[allow(clippy::too_many_lines, reason = "a table")]
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let text = |name, text: &str| (name, text.as_bytes().to_vec());
    let nested = |open: &str, close: &str, depth: usize| {
        [open.repeat(depth), close.repeat(depth)]
            .concat()
            .into_bytes()
    };
    let long = "x".repeat(900_000);
    vec![
        text("nothing", ""),
        text("white space", &" ".repeat(100_000)),
        text("null", "null"),
        text("a number", "0"),
        text("a string", "\"code\""),
        text("an array", "[{\"code\":0}]"),
        text("half an object", "{\"code\":"),
        text(
            "an object without end",
            "{\"code\":0,\"data\":{\"access_token\":\"u-1",
        ),
        text("an empty object", "{}"),
        text("a null code", r#"{"code":null}"#),
        text("a code that is an object", r#"{"code":{"code":0}}"#),
        text("a code that is a boolean", r#"{"code":false}"#),
        text("a code that is no integer", r#"{"code":0.5}"#),
        text(
            "a code beyond 64 bits",
            r#"{"code":99999999999999999999999999}"#,
        ),
        text("a code with an exponent", r#"{"code":1e400}"#),
        text("a negative code", r#"{"code":-20026,"msg":"no"}"#),
        text("an unknown code", r#"{"code":31337,"msg":"no"}"#),
        text("two codes", r#"{"code":31337,"code":31338,"msg":"no"}"#),
        text(
            "words that are no text",
            r#"{"code":31337,"msg":{"a":[1]}}"#,
        ),
        text(
            "words with control characters",
            r#"{"code":31337,"msg":"\u001b[2J\u0007\r\nfeishu-refresh: all is well"}"#,
        ),
        text(
            "words that run backwards",
            r#"{"code":31337,"msg":"\u202egnorw"}"#,
        ),
        text("half a character", r#"{"code":31337,"msg":"\ud800"}"#),
        (
            "words of a megabyte",
            format!(r#"{{"code":31337,"msg":"{long}"}}"#).into_bytes(),
        ),
        (
            "a key of a megabyte",
            format!(r#"{{"{long}":0,"code":31337}}"#).into_bytes(),
        ),
        (
            "a number of a megabyte",
            format!(r#"{{"code":{}}}"#, "9".repeat(900_000)).into_bytes(),
        ),
        (
            "100,000 keys",
            format!("{{{}\"code\":31337}}", "\"a\":0,".repeat(100_000)).into_bytes(),
        ),
        ("nested arrays", nested("[", "]", 400_000)),
        ("nested objects", nested("{\"a\":", "}", 100_000)),
        (
            "nested data",
            format!(r#"{{"code":31337,"data":{}}}"#, "[".repeat(400_000)).into_bytes(),
        ),
        (
            "success with nested data",
            format!(
                r#"{{"code":0,"data":{}{}}}"#,
                "[".repeat(400_000),
                "]".repeat(400_000)
            )
            .into_bytes(),
        ),
        text("success without data", r#"{"code":0,"msg":"success"}"#),
        text(
            "success with null data",
            r#"{"code":0,"state":1,"data":null}"#,
        ),
        text(
            "success with an empty list",
            r#"{"code":0,"state":1,"data":[]}"#,
        ),
        text(
            "success with null tokens",
            r#"{"code":0,"data":{"access_token":null,"refresh_token":null}}"#,
        ),
        text(
            "success with numbers for tokens",
            r#"{"code":0,"data":{"access_token":1,"refresh_token":2}}"#,
        ),
        text(
            "success with line breaks in tokens",
            r#"{"code":0,"access_token":"a\nb","refresh_token":"c\r\n[ID]","data":{"access_token":"a\nb","refresh_token":"c\r\n[ID]\napp_id = evil"}}"#,
        ),
        text(
            "success with NULs in tokens",
            r#"{"code":0,"data":{"access_token":"a\u0000b","refresh_token":"\u0000"}}"#,
        ),
        text(
            "success with blank tokens",
            r#"{"code":0,"data":{"access_token":" ","refresh_token":"\t"}}"#,
        ),
        ("bytes that are no text", vec![0xff, 0xfe, 0x00, 0x80, 0xc3]),
        ("64 KiB of NULs", vec![0; 65536]),
        ("a deflate stream", vec![0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0]),
        text(
            "a page",
            "<!DOCTYPE html><html><body>Sign in to Airport Wi-Fi</body></html>",
        ),
        text("another yes", r#"{"success":true,"result":"ok"}"#),
        text(
            "an error that is an object",
            r#"{"error":{"code":"invalid_grant"}}"#,
        ),
    ]
}

/// What is wrong below the body; written straight to the connection.
fn transports() -> Vec<(&'static str, Vec<u8>)> {
    let head = "HTTP/1.1 200 OK\r\n";
    let raw = |name, text: String| (name, text.into_bytes());
    vec![
        raw("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n".to_owned()),
        raw(
            "a status that is no number",
            "HTTP/1.1 OK\r\n\r\n".to_owned(),
        ),
        raw("an unknown version", "HTTP/9.9 200 OK\r\n\r\n".to_owned()),
        raw(
            "a megabyte of header",
            format!("{head}X-A: {}\r\n\r\n", "x".repeat(1 << 20)),
        ),
        raw(
            "10,000 headers",
            format!("{head}{}\r\n", "X-A: x\r\n".repeat(10_000)),
        ),
        raw(
            "two lengths",
            format!("{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\n{{}}"),
        ),
        raw(
            "a length beyond all memory",
            format!("{head}Content-Length: 18446744073709551615\r\n\r\n{{"),
        ),
        raw(
            "a chunk beyond all memory",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n{{"),
        ),
        raw(
            "a chunk that is no number",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n"),
        ),
        raw(
            "an encoding that nobody asked for",
            format!(
                "{head}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\u{1}\u{2}\u{3}\u{4}"
            ),
        ),
        raw(
            "informational replies without end",
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
        ),
        raw(
            "a change of protocol",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        ),
        raw(
            "64 MiB of body",
            format!(
                "{head}Content-Length: 67108864\r\n\r\n{}",
                "x".repeat(64 << 20)
            ),
        ),
        raw(
            "64 MiB of an object",
            format!(
                "{head}Content-Length: 67108864\r\n\r\n{{\"code\":0,\"msg\":\"{}",
                "x".repeat((64 << 20) - 17)
            ),
        ),
    ]
}

/// Runs with bounded memory against what `fault` does, and asserts that nothing came to harm.
fn assert_harmless(scene: &Scene, name: &str, fault: Fault) {
    let before = scene.text();
    scene.server.fail_next(fault);
    let start = Instant::now();
    let mut shell = Command::new("/bin/sh");
    shell.current_dir(scene.folder()).env_clear().arg("-c");
    shell
        // Where the system has such a limit.
        .arg(format!("ulimit -v {MOST_MEMORY} 2>/dev/null; exec \"$@\""))
        .arg("sh");
    shell.arg(PROGRAM);
    shell.args(["--timeout", TIMEOUT, "--retries", "0"]);
    let run = Run::of(shell.output().unwrap());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{name}: {took:?}");
    assert!(
        [1, 3, 4, 5].contains(&run.code),
        "{name}: {} {}",
        run.code,
        run.stderr
    );
    assert_eq!(run.stdout, "", "{name}");
    let said = &run.stderr;
    assert_eq!(said.lines().count(), 2, "{name}: {said}");
    assert!(
        said.starts_with("feishu-refresh: [TOKEN] of /"),
        "{name}: {said}"
    );
    assert!(
        said.contains("\nhint: ") && said.len() < 1500,
        "{name}: {said}"
    );
    assert!(!said.contains(['\u{1b}', '\u{202e}']), "{name}: {said}");
    assert_eq!(scene.text(), before, "{name}");
    // What may hold a pair is kept and reported; nothing else is.
    for kept in scene
        .file_names()
        .into_iter()
        .filter(|name| name != "feishu-config.ini")
    {
        assert!(
            kept.starts_with("feishu-config.ini.reply-") && run.code == 1,
            "{name}: {kept}"
        );
        assert!(said.contains(&kept), "{name}: {said}");
        std::fs::remove_file(scene.folder().join(kept)).unwrap();
    }
    scene.assert_sound();
}

#[test]
fn hostile_replies_do_no_harm() {
    let bodies = bodies();
    assert!(bodies.len() >= 40);
    // The login is reread for a while after each refusal: so side by side.
    thread::scope(|scope| {
        for api in ["v1", "oidc", "v2", "115"] {
            scope.spawn(|| assert_harmless_to(api, &bodies));
        }
    });
    // The same for an app token.
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v1"));
    for (name, body) in &bodies {
        assert_harmless(&scene, name, Fault::Raw(with_head(200, body)));
    }
}

fn assert_harmless_to(api: &str, bodies: &[(&str, Vec<u8>)]) {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", api));
    if matches!(api, "v1" | "oidc") {
        // The refresh itself gets the reply.
        let token = format!("app_access_token = {}\n", scene.server.app_token());
        scene.write(scene.text() + &token);
    }
    for (name, body) in bodies {
        for status in [200, 400] {
            let name = format!("{api}, {status}, {name}");
            assert_harmless(&scene, &name, Fault::Raw(with_head(status, body)));
        }
    }
    scene.server.advance(Duration::from_secs(61));
    scene.run::<&str>([]).token();
}

fn with_head(status: u16, body: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    let length = body.len();
    write!(
        reply,
        "HTTP/1.1 {status} Hm\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    reply.extend_from_slice(body);
    reply
}

#[test]
fn hostile_transports_do_no_harm() {
    let scene = Scene::new();
    for (name, bytes) in transports() {
        assert_harmless(&scene, name, Fault::Raw(bytes));
    }
    assert_harmless(&scene, "a slow drip", Fault::Drip);
    scene.run::<&str>([]).token();
}
