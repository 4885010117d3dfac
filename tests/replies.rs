//! What the server may do, and what happens to the token.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::harness::Scene;
use crate::sandbox::Fault;

fn altered(alter: impl Fn(&mut Value) + Send + 'static) -> Fault {
    Fault::Alter(Box::new(alter))
}

#[test]
fn a_temporary_failure_is_tried_again() {
    let scene = Scene::new();
    let page = "<html>busy</html>";
    for fault in [
        Fault::CloseBeforeSpending,
        Fault::reply(500, r#"{"code":20050,"msg":"System error"}"#),
        Fault::code(20007),
        Fault::reply(503, ""),
        Fault::html(502),
        Fault::html(200),
        Fault::reply(429, page),
        Fault::reply(200, ""),
    ] {
        scene.server.fail_next(fault);
        scene.run(["--retries", "1"]).token();
        scene.assert_sound();
    }
    // Each temporary failure cost one request more.
    assert_eq!(scene.server.requests().len(), 16);
}

#[test]
fn the_retries_are_counted() {
    for (retries, requests) in [(0, 1), (2, 3)] {
        let scene = Scene::new();
        for _ in 0..4 {
            scene.server.fail_next(Fault::CloseBeforeSpending);
        }
        let run = scene.run(["--retries", &retries.to_string()]);
        run.assert_failed(5, "may have been lost");
        assert_eq!(scene.server.requests().len(), requests);
        scene.assert_sound();
    }
}

#[test]
fn the_servers_own_waiting_time_counts() {
    let scene = Scene::new();
    let limit = |header: &'static str, seconds: &str| Fault::Reply {
        status: 429,
        headers: vec![(header, seconds.to_owned())],
        body: r#"{"code":99991400,"msg":"request trigger frequency limit"}"#.to_owned(),
    };
    for header in ["x-ogw-ratelimit-reset", "Retry-After"] {
        scene.server.fail_next(limit(header, "2"));
        let start = Instant::now();
        scene.run::<&str>([]).token();
        assert!(
            start.elapsed() >= Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }
    // A wait beyond the limit is left to the next run.
    scene.server.fail_next(limit("Retry-After", "86400"));
    scene.run::<&str>([]).assert_failed(5, "99991400");
    scene.assert_sound();
}

#[test]
fn a_lost_reply_is_told_plainly() {
    for fault in [Fault::CloseAfterSpending, Fault::Truncate, Fault::Endless] {
        let scene = Scene::new();
        let before = scene.text();
        scene.server.fail_next(fault);
        let run = scene.run(["--retries", "1"]);
        run.assert_failed(4, "its successor is lost");
        assert!(
            run.stderr.contains("feishu-refresh login"),
            "{}",
            run.stderr
        );
        assert_eq!(scene.text(), before);
        assert_eq!(scene.file_names(), ["feishu-config.ini"]);
    }
}

#[cfg(unix)] // As its shells quote.
#[test]
fn the_hint_to_log_in_names_the_file_and_the_profile_of_the_run() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("o'bot", "v2"));
    let file = scene.folder().join("feishu-config.ini");
    let login = format!(
        r"log in again: feishu-refresh login -c {} -p 'o'\''bot'",
        file.display()
    );
    let fail = |arguments: &[&str]| {
        scene.server.fail_next(Fault::CloseAfterSpending);
        scene.run(arguments)
    };
    let run = fail(&["-p", "o'bot", "--retries", "1"]);
    run.assert_failed(4, &login);
    let run = scene.run(["-p", "o'bot", "-o", "json"]);
    let error: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains(&login["log in again: ".len()..]), "{hint}");
    // The same host, too.
    let run = scene.run(["-p", "none", "--lark"]);
    assert!(run.stderr.contains(" -p none --lark\n"), "{run:?}");
    run.assert_failed(
        3,
        "name one of these with -p; for a new login: feishu-refresh login",
    );
}

/// Where no disk stays, a token from outside is spent by the first run.
#[test]
fn a_run_on_a_fresh_disk_says_where_the_login_is_now() {
    let scene = Scene::without_file();
    let flags = scene.first_flags("v2");
    let run = scene.run(&flags);
    run.token();
    let file = scene.file();
    let words = format!(
        "the given refresh token is spent now, its successor is in {}: keep that file",
        file.display()
    );
    assert_eq!(run.stderr.matches(&words).count(), 1, "{run:?}");
    // Once only, and not of a section in a file that was there.
    assert_eq!(scene.run(&flags).stderr, "");
    // On the next fresh disk, that token is spent.
    fs::remove_file(&file).unwrap();
    for named in [false, true] {
        let mut arguments = flags.clone();
        if named {
            arguments.extend(["-c", "other.ini"].map(str::to_owned));
        }
        let run = scene.run(&arguments);
        run.assert_failed(
            4,
            "an earlier run may have spent this token on another disk",
        );
        assert!(run.stderr.contains("docs/recipes.md"), "{run:?}");
        let hint = run.stderr.lines().last().unwrap();
        assert!(!hint.contains(".ini"), "{hint}");
        assert!(scene.file_names().is_empty());
    }
}

#[test]
fn a_slow_server_ends_with_the_time_out() {
    let scene = Scene::new();
    scene.server.fail_next(Fault::Hold);
    let start = Instant::now();
    let run = scene.run(["--timeout", "0.5", "--retries", "0"]);
    run.assert_failed(5, "no reply in time");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(run.stderr.contains("may have been lost"), "{}", run.stderr);
    scene.server.release();
}

#[test]
fn a_reply_without_a_refresh_token_leaves_the_old_one() {
    for gone in [Value::Null, json!("")] {
        let scene = Scene::new();
        let before = scene.value("refresh_token");
        scene.server.fail_next(altered(move |reply| {
            reply["data"]["refresh_token"] = gone.clone();
        }));
        let run = scene.run::<&str>([]);
        assert_eq!(scene.value("user_access_token"), run.token());
        assert_eq!(scene.value("refresh_token"), before);
        assert!(
            run.stderr.contains("the reply held no new refresh token"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_reply_with_the_same_refresh_token_is_no_rotation() {
    let scene = Scene::new();
    let before = scene.value("refresh_token");
    let same = before.clone();
    scene.server.fail_next(altered(move |reply| {
        reply["data"]["refresh_token"] = json!(same);
    }));
    scene.run::<&str>([]).token();
    assert_eq!(scene.value("refresh_token"), before);
    assert!(
        !scene.text().contains("refresh_token_spent"),
        "{}",
        scene.text()
    );
}

#[test]
fn an_expiry_that_is_not_given_is_emptied() {
    let scene = Scene::new();
    scene.run::<&str>([]).token();
    scene.server.fail_next(altered(|reply| {
        reply["data"]["expires_in"] = Value::Null;
        reply["data"]
            .as_object_mut()
            .unwrap()
            .remove("refresh_expires_in");
    }));
    let run = scene.run(["-o", "json"]);
    assert_eq!(run.code, 0);
    assert_eq!(scene.value("user_access_token_expires_at"), "");
    assert_eq!(scene.value("refresh_token_expires_at"), "");
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(result["expires_at"], Value::Null);
    scene.run::<&str>([]).token();
    assert_ne!(scene.value("user_access_token_expires_at"), "");
}

/// Success replies with something wrong in them: the refresh token is saved anyway.
#[test]
fn a_refresh_token_is_saved_whatever_else_is_wrong() {
    let flaws: Vec<fn(&mut Value)> = vec![
        |reply| reply["data"]["access_token"] = Value::Null,
        |reply| reply["data"]["access_token"] = json!(["u-1"]),
        |reply| reply["data"]["access_token"] = json!("u-1\nrefresh_token = evil"),
        |reply| reply["data"]["expires_in"] = json!("soon"),
        |reply| reply["data"]["expires_in"] = json!(-1),
        |reply| reply["data"]["expires_in"] = json!(1e300),
        |reply| reply["data"]["refresh_expires_in"] = json!({}),
        |reply| reply["data"]["access_token"] = json!("ü 1"),
        |reply| drop(reply.as_object_mut().unwrap().remove("code")),
        |reply| reply["code"] = json!("zero"),
    ];
    for (index, flaw) in flaws.into_iter().enumerate() {
        let scene = Scene::new();
        let before = scene.value("refresh_token");
        scene.server.fail_next(altered(flaw));
        let run = scene.run::<&str>([]);
        run.assert_failed(1, "a success reply, but");
        assert!(run.stderr.contains("log id sandbox-log-"), "{}", run.stderr);
        assert_ne!(scene.value("refresh_token"), before, "flaw {index}");
        assert!(!scene.text().contains("evil"));
        assert_eq!(
            scene.server.requests().len(),
            1,
            "nothing is sent again after such a reply"
        );
        scene.assert_sound();
    }
}

/// The same for replies that are not valid JSON, or end too soon: the complete parts are kept.
#[test]
fn a_refresh_token_is_saved_from_a_garbled_reply() {
    let garblings: Vec<fn(String) -> Vec<u8>> = vec![
        |reply| reply.replace("zhangsan", "\\ud800").into_bytes(),
        |reply| reply.replace("7140", "1e999").into_bytes(),
        |reply| [b"\xef\xbb\xbf", reply.as_bytes()].concat(),
        |reply| [reply.as_bytes(), b"\n<!-- served by a proxy -->"].concat(),
        |reply| {
            let echo = "{\"grant_type\":\"refresh_token\",\"x\":\"code\",";
            let echoed = reply.replacen('{', echo, 1);
            echoed.as_bytes()[..echoed.len() - 2].to_vec()
        },
        |reply| [&reply.as_bytes()[..reply.len() - 2], b""].concat(),
        |reply| {
            let (head, tail) = reply.split_once("zhangsan").unwrap();
            [head.as_bytes(), b"\xff\xfe", tail.as_bytes()].concat()
        },
        |reply| {
            reply
                .replace("\"data\":{", "")
                .replace("}}", "}")
                .into_bytes()
        },
    ];
    for (index, garble) in garblings.into_iter().enumerate() {
        let scene = Scene::new();
        let before = scene.value("refresh_token");
        scene.server.fail_next(Fault::Garble(garble));
        let run = scene.run::<&str>([]);
        assert!(run.code == 0 || run.code == 1, "{index}: {}", run.stderr);
        assert_ne!(
            scene.value("refresh_token"),
            before,
            "{index}: {}",
            run.stderr
        );
        assert_eq!(
            scene.server.requests().len(),
            1,
            "{index}: nothing is sent again"
        );
        scene.assert_sound();
    }
    // Cut off right after the refresh token, with the connection.
    let scene = Scene::new();
    scene.server.fail_next(Fault::TruncateLate);
    scene.run::<&str>([]).assert_failed(1, "it is not whole");
    assert_eq!(scene.server.requests().len(), 1);
    scene.assert_sound();
}

/// Tokens in another place than the api's, or with another success value than the api's.
#[test]
fn a_pair_in_the_wrong_place_is_saved() {
    let pair = json!({ "access_token": "u-new", "refresh_token": "ur-new", "expires_in": 7200 });
    let odd = [
        pair.clone(),
        json!({ "data": pair }),
        json!({ "code": 0, "data": pair }),
        json!({ "code": "yes", "data": pair }),
        json!({ "code": 0, "access_token": "u-new", "refresh_token": "ur-new" }),
        json!({ "state": 1, "code": 1, "data": pair }),
        json!({ "state": 0, "code": 0, "data": pair }),
        json!({ "state": true, "access_token": "u-new", "refresh_token": "ur-new" }),
    ];
    for api in ["v1", "oidc", "v2", "115"] {
        for reply in &odd {
            let scene = Scene::without_file();
            scene.write(scene.server.profile("TOKEN", api));
            if matches!(api, "v1" | "oidc") {
                let token = scene.server.app_token();
                scene.write(scene.text() + &format!("app_access_token = {token}\n"));
            }
            scene.server.fail_next(Fault::reply(200, reply.to_string()));
            let run = scene.run::<&str>([]);
            assert!(
                run.code == 0 || run.code == 1,
                "{api} {reply}: {}",
                run.stderr
            );
            let saved = scene.value("refresh_token");
            assert_eq!(saved, "ur-new", "{api} {reply}: {}", run.stderr);
            assert_eq!(scene.server.requests().len(), 1, "{api} {reply}");
        }
    }
}

/// Empty fields are not tokens.
#[test]
fn a_refusal_with_empty_tokens_is_a_refusal() {
    for (api, reply, code) in [
        (
            "v2",
            json!({ "error": "invalid_grant", "access_token": "", "refresh_token": "" }),
            4,
        ),
        (
            "v2",
            json!({ "code": 20050, "access_token": "", "refresh_token": "" }),
            5,
        ),
        (
            "115",
            json!({ "state": 0, "code": 0, "message": "busy", "data": { "refresh_token": "" } }),
            1,
        ),
        ("115", json!({ "state": 0, "message": "busy" }), 1),
    ] {
        let scene = Scene::without_file();
        scene.write(scene.server.profile("TOKEN", api));
        scene.server.fail_next(Fault::reply(200, reply.to_string()));
        let run = scene.run(["--retries", "0"]);
        assert_eq!(run.code, code, "{api}: {}", run.stderr);
        assert!(!run.stderr.contains("says yes"), "{}", run.stderr);
        assert!(
            api != "115" || run.stderr.contains("busy"),
            "{}",
            run.stderr
        );
        scene.assert_sound();
    }
}

/// A server that does not rotate: the sent token still works.
#[test]
fn a_token_from_outside_that_is_not_rotated_is_kept() {
    for section in [true, false] {
        let scene = Scene::without_file();
        if section {
            let other = "refresh_token_expires_at = 2030-01-01T00:00:00Z\n";
            scene.write(scene.server.profile("TOKEN", "v2") + other);
        }
        let flags = scene.first_flags("v2");
        let token = &flags[3];
        let reply = json!({ "access_token": "new", "expires_in": 7200 });
        scene.server.fail_next(Fault::reply(200, reply.to_string()));
        let run = scene.run(&flags);
        assert_eq!(run.token(), "new");
        assert_eq!(scene.value("refresh_token"), *token);
        assert!(
            !scene.text().contains("2030"),
            "that was another token's: {}",
            scene.text()
        );
        scene.run(&flags).token();
        assert_ne!(scene.value("refresh_token"), *token);
        scene.assert_sound();
    }
}

/// Success replies with an invalid refresh token: the old one stays.
#[test]
fn a_refresh_token_that_is_none_is_not_saved() {
    for token in [
        json!("ur-1\nx"),
        json!("ur 1 "),
        json!(7),
        json!({"a": 1}),
        json!("a\u{1b}[2Jb"),
    ] {
        let scene = Scene::new();
        let before = scene.value("refresh_token");
        scene.server.fail_next(altered(move |reply| {
            reply["data"]["refresh_token"] = token.clone();
        }));
        scene
            .run::<&str>([])
            .assert_failed(1, "refresh_token is not a token");
        assert_eq!(scene.value("refresh_token"), before);
    }
}

#[test]
fn numbers_may_be_text() {
    let scene = Scene::new();
    for lives in [json!("7140"), json!(7140.0), json!("7140.0")] {
        scene.server.fail_next(altered(move |reply| {
            reply["code"] = json!("0");
            reply["data"]["expires_in"] = lives.clone();
        }));
        scene.run::<&str>([]).token();
        scene.assert_sound();
    }
}

#[test]
fn a_failure_as_json_is_the_last_line_on_stderr() {
    let scene = Scene::new();
    scene.server.fail_next(Fault::Reply {
        status: 200,
        headers: vec![("X-Request-Id", "abc".to_owned())],
        body: r#"{"code":20026,"msg":"refresh token is invalid"}"#.to_owned(),
    });
    let run = scene.run(["-o", "json"]);
    let last = run.stderr.lines().last().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    let error = &error["error"];
    assert_eq!(error["profile"], "TOKEN");
    assert_eq!(error["kind"], "reauthorize");
    assert_eq!(error["exit_code"], 4);
    assert_eq!(error["code"], 20026);
    assert_eq!(error["log_id"], "abc");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("refresh token is invalid")
    );
    assert!(error["hint"].is_string());
    // Even when the command line cannot be parsed.
    for arguments in [
        ["-o", "json", "--nonsense"],
        ["-qojson", "-v", "--nonsense"],
    ] {
        let run = scene.run(arguments);
        let error: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
        assert_eq!(error["error"]["kind"], "usage");
        assert_eq!(error["error"]["exit_code"], 2);
    }
}

/// Middleboxes may write headers that are not quite HTTP: the body is what counts.
#[test]
fn a_reply_with_small_sins_in_its_head_is_read() {
    let heads = [
        ("a folded line", "X-A: a\r\n b\r\n".to_owned()),
        ("a folded log id", "X-Tt-Logid: a\r\n\tb\r\n".to_owned()),
        ("a space before the colon", "X-A : a\r\n".to_owned()),
        ("a line without a colon", "X-A\r\n".to_owned()),
        ("a name that is none", "X[A]: a\r\n: b\r\n".to_owned()),
        ("a control character", "X-A: a\u{1}b\r\n".to_owned()),
        ("bytes beyond ASCII", "X-A: ä\r\n".to_owned()),
        ("line feeds alone", "X-A: a\nX-B: b\n".to_owned()),
        ("4,000 headers", "X-A: a\r\n".repeat(4000)),
        ("400 KB in one", format!("X-A: {}\r\n", "a".repeat(400_000))),
    ];
    for (name, lines) in heads {
        let scene = Scene::new();
        scene.server.fail_next(Fault::Head(lines));
        let run = scene.run(["--retries", "0"]);
        assert_eq!(run.code, 0, "{name}: {}", run.stderr);
        scene.assert_sound();
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn bomb(_: &[u8]) -> Vec<u8> {
    gzip(&vec![b'x'; 64 << 20])
}

/// A gateway compresses unasked: the reply may hold the only copy of the pair.
#[test]
fn a_compressed_reply_is_understood() {
    for (coding, compress) in [("gzip", gzip as fn(&[u8]) -> _), ("deflate", zlib)] {
        let scene = Scene::new();
        scene.server.fail_next(Fault::Compress(coding, compress));
        scene.run::<&str>([]).token();
        scene.assert_sound();
        for request in scene.server.requests() {
            assert_eq!(request.headers["accept-encoding"], "identity");
        }
    }
    let scene = Scene::new();
    scene.server.fail_next(Fault::Compress("gzip", bomb));
    scene
        .run(["--retries", "0"])
        .assert_failed(1, "the reply cannot be read");
    // The first mebibyte of it is kept.
    let kept = scene.file_names().pop().unwrap();
    let kept = fs::read(scene.folder().join(kept)).unwrap();
    assert_eq!(kept, vec![b'x'; 1 << 20]);
}

/// The first of it is kept, or the pair that is in it.
#[test]
fn of_a_reply_of_more_than_a_mebibyte_the_first_is_judged() {
    let junk = |_: String| vec![b'x'; 3 << 20];
    let packed: fn(&[u8]) -> _ = |_| gzip(&vec![b'x'; 64 << 20]);
    for fault in [Fault::Garble(junk), Fault::Compress("gzip", packed)] {
        let scene = Scene::new();
        let before = scene.text();
        scene.server.fail_next(fault);
        let run = scene.run::<&str>([]);
        run.assert_failed(1, "the reply is kept in ");
        assert_eq!(scene.server.requests().len(), 1, "it is sent again");
        let names = scene.file_names();
        let kept = names.iter().find(|name| name.contains(".reply-")).unwrap();
        assert!(run.stderr.contains(kept), "{}", run.stderr);
        let kept = fs::read(scene.folder().join(kept)).unwrap();
        assert_eq!(kept, vec![b'x'; 1 << 20]);
        assert_eq!(scene.text(), before);
    }
    let cut: fn(String) -> _ = |reply| {
        let whole = reply.strip_suffix('}').unwrap();
        format!("{whole},\"x\":\"{}\"}}", "x".repeat(2 << 20)).into_bytes()
    };
    let spaced: fn(String) -> _ = |reply| format!("{reply}{}", " ".repeat(2 << 20)).into_bytes();
    for (garble, code) in [(cut, 1), (spaced, 0)] {
        let scene = Scene::new();
        scene.server.fail_next(Fault::Garble(garble));
        let run = scene.run::<&str>([]);
        assert_eq!(run.code, code, "{}", run.stderr);
        assert_eq!(scene.server.requests().len(), 1, "it is sent again");
        scene.assert_sound();
    }
}
