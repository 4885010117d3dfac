//! Everything bad that ends in a clear error, its promised code, and the file byte for byte as it
//! was: files, command lines, environments, replies.

use std::fs;
use std::process::Command;

use crate::harness::{Run, Scene, is_private};
use crate::sandbox::Fault;

/// A file that is refused before anything is sent; `{all}` stands for three valid lines, `{pair}` for the two tokens.
#[rustfmt::skip]
const FILES: &[(&str, i32, &str)] = &[
    ("", 3, "has no section [TOKEN]"),
    ("[token]\nrefresh_token = ur-1\n", 3, "has no section [TOKEN]"),
    ("[TOKEN]\nrefresh_token =\n", 3, "no refresh_token, and none given"),
    ("[TOKEN]\nrefresh_token = ur-1\n", 3, "no app_access_token, and none given"),
    ("[TOKEN]\n{all}\nREFRESH_TOKEN = ur-2\n", 3, "line 5: repeats the key of line 4"),
    ("[TOKEN]\n{all}\n[X]\n[TOKEN]\n", 3, "line 6: repeats the section of line 1"),
    ("{all}\n[TOKEN]\n", 3, "line 1: is before the first [section]; line 2"),
    ("[TOKEN]\n{all}\nnonsense\n", 3, "line 5: is neither section, pair, comment nor continuation"),
    ("[TOKEN] ; mine\n{all}\n", 3, "line 1: has text after the ] of the section"),
    ("[TOKEN\n{all}\n", 3, "line 1: begins like a section but has no ]"),
    ("[TOKEN]\n{all}\n  and more\n", 3, "line 4: this value continues in an indented line"),
    ("[TOKEN]\nnote = x\n  refresh_token = ur-1\n", 3, "line 3: is indented deeper"),
    ("[DEFAULT]\nrefresh_token = ur-1\n[TOKEN]\n{all}\n", 3, "line 2: this key in [DEFAULT]"),
    ("[TOKEN]\n{all}\nx = \0\n", 3, "line 5: holds a NUL"),
    ("[TOKEN]\n{all}\nx = 1\ry = 2\n", 3, "line 5: holds a carriage return"),
    ("[TOKEN]\n{all}\nuser_access_token = 50%\n", 3, "line 5: a percent sign"),
    ("[TOKEN]\n{all}\nuser_access_token = %(x)s\n", 3, "line 5: a percent sign"),
    ("[TOKEN]\n{all}\napi = v9\n", 3, "the api is not known"),
    ("[TOKEN]\napp_access_token = a b\nrefresh_token = ur-1\n", 3, "app_access_token holds more than a token"),
    ("[TOKEN]\napp_access_token = а\nrefresh_token = ur-1\n", 3, "app_access_token holds more than a token"),
    ("[TOKEN]\n{all} ; since May\n", 3, "refresh_token holds more than a token"),
    ("[TOKEN]\napp_access_token = a-1\nrefresh_token = \"ur-1\"\n", 3, "refresh_token holds more than a token"),
    ("[TOKEN]\n{pair}\nbase_url = tokens.example\n", 3, "the base URL is not a URL"),
    ("[TOKEN]\n{pair}\nbase_url = http://tokens.example\n", 3, "would send secrets unencrypted"),
    ("[TOKEN]\n{pair}\nbase_url = http://127.0.0.1.example\n", 3, "would send secrets unencrypted"),
    ("[TOKEN]\n{pair}\nbase_url = ftp://127.0.0.1\n", 3, "neither https:// nor http://"),
    ("[TOKEN]\n{pair}\nbase_url = https://me:pass@tokens.example\n", 3, "holds a user name or password"),
    ("[TOKEN]\n{pair}\nbase_url = https://tokens.example/?x\n", 3, "has a query"),
];

/// A command line, with a valid file.
#[rustfmt::skip]
const COMMAND_LINES: &[(&[&str], i32, &str)] = &[
    (&["--nonsense"], 2, "--nonsense is not known; nothing was sent"),
    (&["-v", "stray"], 2, "stray is not known; nothing was sent"),
    (&["-v", "aStray1"], 2, "argument 2 is not known"),
    (&["--min-ttl", "1h30m"], 2, "not a duration like 90, 90s, 10m, 1h or 2d"),
    (&["-r"], 2, "--refresh <TOKEN> needs a value"),
    (&["-a", "-r", "ur-1"], 2, "--app-token <TOKEN> needs a value"),
    (&["--timeout", "soon"], 2, "--timeout <DURATION>: not a duration"),
    (&["--timeout", "0"], 2, "must be more than 0"),
    (&["--timeout=-1"], 2, "not a duration"),
    (&["--timeout", "inf"], 2, "not a duration"),
    (&["--timeout", "NaN"], 2, "not a duration"),
    (&["--retries", "many"], 2, "not a whole number from 0 to 1000"),
    (&["--retries", "99999999999"], 2, "not a whole number from 0 to 1000"),
    (&["--lock-timeout", "1e99"], 2, "not a duration"),
    (&["--api", "v9"], 2, "--api <API> can be: v1"),
    (&["-o", "xml"], 2, "--output <FORM> can be: token, json"),
    (&["-a", "-", "-r", "-"], 2, "only one secret can be read from stdin"),
    (&["-r", ""], 3, "the refresh_token given is empty"),
    (&["-a", "  "], 3, "the app_access_token given is empty"),
    (&["-r", "ur-1\nur-2"], 3, "the refresh_token given holds more than a token"),
    (&["-p", ""], 3, "the profile's name"),
    (&["-p", "DEFAULT"], 3, "the profile's name"),
    (&["-p", "a]b"], 3, "the profile's name"),
    (&["-p", "a\nb"], 3, "the profile's name"),
    (&["-p", "OTHER"], 3, "has no section [OTHER]"),
    (&["-c", ""], 2, "--config-file <PATH> needs a value"),
    (&["-c", "nowhere.ini"], 3, "nowhere.ini does not exist"),
    (&["-c", "no/such/folder.ini", "-a", "a-1", "-r", "ur-1"], 3, "cannot make /"),
    (&["-c", "."], 3, "Is a directory"),
    (&["-c", "/dev/null"], 3, "not a regular file"),
    (&["-c", "pipe"], 3, "not a regular file"),
    (&["-c", "socket"], 3, "cannot open /"),
    (&["-c", "circle"], 3, "cannot open /"),
    (&["--base-url", "http://192.0.2.1"], 3, "would send secrets unencrypted"),
];

#[rustfmt::skip]
const ENVIRONMENTS: &[(&str, &[u8], i32, &str)] = &[
    ("FEISHU_API", b"v9", 3, "FEISHU_API names no token endpoint"),
    ("FEISHU_PROFILE", b"\xff", 3, "FEISHU_PROFILE is not UTF-8"),
    ("FEISHU_REFRESH_TOKEN", b"\xff", 3, "FEISHU_REFRESH_TOKEN is not UTF-8"),
    ("FEISHU_REFRESH_TOKEN", b" ", 3, "the refresh_token given is empty"),
    ("FEISHU_BASE_URL", b"nonsense", 3, "the base URL is not a URL"),
    ("FEISHU_CONFIG_FILE", b"/dev/null", 3, "not a regular file"),
];

/// Replies without tokens.
fn replies() -> Vec<(Fault, i32, &'static str)> {
    let ok = |body: String| Fault::reply(200, body);
    vec![
        (
            Fault::html(200),
            5,
            "HTTP 200: the reply is not the token endpoint's",
        ),
        (
            Fault::html(400),
            1,
            "HTTP 400: the reply is not the token endpoint's",
        ),
        (Fault::html(403), 1, "HTTP 403"),
        (Fault::html(404), 1, "HTTP 404"),
        (
            Fault::html(502),
            5,
            "HTTP 502: the server or a proxy before it failed",
        ),
        (Fault::reply(500, ""), 5, "HTTP 500"),
        (Fault::reply(503, "{}"), 5, "HTTP 503"),
        (
            Fault::reply(429, "slow down"),
            5,
            "HTTP 429: too many requests",
        ),
        (Fault::reply(408, ""), 5, "HTTP 408"),
        (Fault::reply(302, ""), 1, "HTTP 302: a redirect"),
        (Fault::reply(204, ""), 5, "HTTP 204"),
        (
            Fault::reply(500, r#"{"code":20050,"msg":"System error"}"#),
            5,
            "System error (code 20050",
        ),
        // HTTP 400 is not a verdict: the code is.
        (
            Fault::reply(400, r#"{"code":20007,"msg":"try again"}"#),
            5,
            "try again (code 20007",
        ),
        (Fault::code(424_242), 1, "as asked for (code 424242"),
        (Fault::code(-1), 1, "(code -1"),
        (ok(String::new()), 5, "not the token endpoint's"),
        (ok("<html>Wi-Fi".into()), 5, "not the token endpoint's"),
        (ok(" ".repeat(2 << 20)), 5, "not the token endpoint's"),
        (Fault::Endless, 5, "not the token endpoint's"),
        (Fault::CloseBeforeSpending, 5, "the connection broke"),
        (Fault::CloseAfterSpending, 5, "the connection broke"),
        (Fault::Truncate, 5, "the connection broke"),
    ]
}

/// Runs, and asserts what holds for each row of the table.
fn assert_refused(scene: &Scene, program: &mut Command, code: i32, says: &str) {
    let before = fs::read(scene.file()).unwrap();
    let names = scene.file_names();
    let run = Run::of(program.output().unwrap());
    run.assert_failed(code, says);
    let lines: Vec<_> = run.stderr.lines().collect();
    assert!(
        lines[0].starts_with("feishu-refresh: ") && lines.len() <= 2,
        "{}",
        run.stderr
    );
    assert!(
        lines.get(1).is_none_or(|line| line.starts_with("hint: ")),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    assert_eq!(
        fs::read(scene.file()).unwrap(),
        before,
        "the file was changed"
    );
    assert_eq!(scene.file_names(), names, "something was left behind");
}

/// What cannot be understood may hold the only copy of a pair.
#[test]
fn a_reply_that_cannot_be_understood_is_kept_and_its_token_not_sent_again() {
    let neither = "says neither success nor failure";
    let mut held = Vec::new();
    for (body, says) in [
        ("null".to_owned(), "cannot be read"),
        ("[]".to_owned(), "cannot be read"),
        ("\"ok\"".to_owned(), "cannot be read"),
        (
            "access_token=u-1&refresh_token=ur-1".to_owned(),
            "cannot be read",
        ),
        ("{\"code\":".repeat(100_000), "cannot be read"),
        ("[".repeat(500_000), "cannot be read"),
        (r#"{"code":null,"data":{}}"#.to_owned(), neither),
        (r#"{"code":[0],"data":{}}"#.to_owned(), neither),
        (r#"{"code":1e999}"#.to_owned(), neither),
        (r#"{"code":99999999999999999999}"#.to_owned(), neither),
        (r#"{"code":0}"#.to_owned(), "says success, but has no token"),
        (
            r#"{"code":0,"data":[]}"#.to_owned(),
            "says success, but has no token",
        ),
        (
            r#"{"code":0,"data":"u-1"}"#.to_owned(),
            "says success, but has no token",
        ),
        (
            r#"{"code":0,"data":{"refresh_token":{"a":1}}}"#.to_owned(),
            "refresh_token is not a token",
        ),
    ] {
        let scene = Scene::new();
        let before = scene.text();
        // The same reply twice is kept once.
        for times in 1..=2 {
            scene.server.fail_next(Fault::reply(200, body.as_str()));
            let run = scene.run::<&str>([]);
            run.assert_failed(1, says);
            assert!(
                run.stderr.contains("may be spent") || says.contains("not a token"),
                "{}",
                run.stderr
            );
            assert_eq!(scene.server.requests().len(), times);
        }
        assert_eq!(scene.text(), before);
        let kept = scene
            .file_names()
            .into_iter()
            .find(|name| name != "feishu-config.ini")
            .unwrap();
        assert_eq!(scene.file_names().len(), 2);
        let hash = kept.strip_prefix("feishu-config.ini.reply-").unwrap();
        assert!(hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let path = scene.folder().join(&kept);
        assert_eq!(fs::read_to_string(&path).unwrap(), body);
        assert!(is_private(&path));
        // It is the user's, and does no harm.
        scene.run::<&str>([]).token();
        held.push(kept);
    }
    assert_eq!(held.len(), 14);
}

/// If no file can take it, losing it would be worse than showing it.
#[test]
fn a_reply_that_no_file_takes_is_printed() {
    let form: fn(String) -> Vec<u8> = |_| b"access_token=u-1&refresh_token=ur-1".to_vec();
    let odd: fn(String) -> Vec<u8> = |_| b"\x1b[2Jodd\xff".to_vec();
    for (body, line) in [
        (form, "access_token=u-1&refresh_token=ur-1\n"),
        (odd, "\\x1b[2Jodd\\xff\n"),
    ] {
        let scene = Scene::new();
        let before = scene.text();
        scene.server.fail_next(Fault::Garble(body));
        let mut program = scene.program();
        program.args(["-o", "json"]);
        program.env("FEISHU_REFRESH_FAIL", "before-keep=errors");
        let run = Run::of(program.output().unwrap());
        run.assert_failed(6, "could not be stored anywhere");
        assert!(run.stderr.starts_with(line), "{:?}", run.stderr);
        assert!(
            run.stderr
                .lines()
                .last()
                .unwrap()
                .starts_with(r#"{"error":"#)
        );
        assert_eq!(scene.text(), before);
        assert_eq!(scene.server.requests().len(), 1);
    }
}

#[test]
fn bad_files_are_refused_before_anything_is_sent() {
    let scene = Scene::new();
    let good = format!(
        "app_access_token = a-1\nbase_url = {}\nrefresh_token = ur-1",
        scene.server.base_url()
    );
    for (text, code, says) in FILES {
        let text = text
            .replace("{pair}", "app_access_token = a-1\nrefresh_token = ur-1")
            .replace("{all}", &good);
        scene.write(text);
        assert_refused(&scene, &mut scene.program(), *code, says);
    }
    scene.write(b"[TOKEN]\n# \xff\n");
    assert_refused(&scene, &mut scene.program(), 3, "line 2: is not UTF-8 text");
    scene.write(vec![b'\n'; (32 << 20) + 1]);
    assert_refused(&scene, &mut scene.program(), 3, "too long");
    for text in ["; many lines\n".repeat(200_001), "\n".repeat(32 << 20)] {
        scene.write(text);
        assert_refused(&scene, &mut scene.program(), 3, "line 200001: is too many");
    }
    assert!(scene.server.requests().is_empty());
}

#[cfg(unix)]
#[test]
fn bad_command_lines_are_refused_before_anything_is_sent() {
    let scene = Scene::new();
    let status = Command::new("mkfifo")
        .arg(scene.folder().join("pipe"))
        .status()
        .unwrap();
    assert!(status.success());
    let _socket = std::os::unix::net::UnixListener::bind(scene.folder().join("socket")).unwrap();
    std::os::unix::fs::symlink("circle", scene.folder().join("circle")).unwrap();
    for (arguments, code, says) in COMMAND_LINES {
        assert_refused(&scene, scene.program().args(*arguments), *code, says);
    }
    assert!(scene.server.requests().is_empty());
}

#[cfg(unix)]
#[test]
fn bad_environments_are_refused_before_anything_is_sent() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new();
    for (name, value, code, says) in ENVIRONMENTS {
        let value = std::ffi::OsStr::from_bytes(value);
        assert_refused(&scene, scene.program().env(name, value), *code, says);
    }
    assert!(scene.server.requests().is_empty());
}

#[test]
fn bad_replies_leave_the_file_alone() {
    for (fault, code, says) in replies() {
        let scene = Scene::new();
        scene.server.fail_next(fault);
        assert_refused(&scene, scene.program().args(["--retries", "0"]), code, says);
    }
}

#[test]
fn the_tables_are_as_long_as_promised() {
    let total = FILES.len() + COMMAND_LINES.len() + ENVIRONMENTS.len() + replies().len();
    assert!(total >= 40, "{total}");
}
