//! The token endpoints: what each is sent, how its replies are saved, and how runs that ask for different things affect
//! each other.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{HeldRun, Run, Scene, value_in};
use crate::sandbox::{APP_ID, APP_SECRET, APP_TICKET, Fault, Recorded, SCOPE, V3_PATH};

const JSON: &str = "application/json; charset=utf-8";

/// Asserts that a request is exactly this one.
fn assert_sent(request: &Recorded, path: &str, bearer: Option<&str>, kind: &str, body: &str) {
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", path)
    );
    let bearer = bearer.map(|token| format!("Bearer {token}"));
    assert_eq!(request.headers.get("authorization"), bearer.as_ref());
    assert_eq!(request.headers["content-type"], kind);
    assert_eq!(request.body, body);
    let mut names: BTreeSet<_> = request.headers.keys().map(String::as_str).collect();
    names.remove("authorization");
    let usual = [
        "accept",
        "accept-encoding",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    ];
    assert_eq!(names, BTreeSet::from(usual));
}

#[test]
fn each_request_is_the_documented_one() {
    let scene = Scene::without_file();
    let fetch = format!(r#"{{"app_id":"{APP_ID}","app_secret":"{APP_SECRET}"}}"#);
    let sent = |api: &str, arguments: &[&str]| {
        scene.write(scene.server.profile("TOKEN", api));
        let token = scene.value("refresh_token");
        let before = scene.server.requests().len();
        scene.run(arguments).token();
        (token, scene.server.requests().split_off(before))
    };
    for (api, path) in [
        ("v1", "/open-apis/authen/v1/refresh_access_token"),
        ("oidc", "/open-apis/authen/v1/oidc/refresh_access_token"),
    ] {
        let (token, requests) = sent(api, &[]);
        assert_eq!(requests.len(), 2);
        let internal = "/open-apis/auth/v3/app_access_token/internal";
        assert_sent(&requests[0], internal, None, JSON, &fetch);
        let app_token = scene.value("app_access_token");
        let body = format!(r#"{{"grant_type":"refresh_token","refresh_token":"{token}"}}"#);
        assert_sent(&requests[1], path, Some(&app_token), JSON, &body);
    }

    let path = "/open-apis/authen/v2/oauth/token";
    for (arguments, scope) in [
        (&[][..], ""),
        (
            &[
                "--scope",
                "task:task:read  auth:user.id:read task:task:read",
            ],
            r#","scope":"task:task:read auth:user.id:read offline_access""#,
        ),
    ] {
        let (token, requests) = sent("v2", arguments);
        assert_eq!(requests.len(), 1);
        let body = format!(
            r#"{{"grant_type":"refresh_token","client_id":"{APP_ID}","client_secret":"{APP_SECRET}","refresh_token":"{token}"{scope}}}"#
        );
        assert_sent(&requests[0], path, None, JSON, &body);
    }

    let form = "application/x-www-form-urlencoded";
    for (arguments, scope) in [
        (&[][..], ""),
        (
            &["--scope", "task:task:read"],
            "&scope=task%3Atask%3Aread+offline_access",
        ),
    ] {
        let (token, requests) = sent("v3", arguments);
        assert_eq!(requests.len(), 1);
        let body = format!(
            "grant_type=refresh_token&client_id={APP_ID}&client_secret={APP_SECRET}&refresh_token={token}{scope}"
        );
        assert_sent(&requests[0], V3_PATH, None, form, &body);
    }

    let (token, requests) = sent("115", &[]);
    assert_eq!(requests.len(), 1);
    let body = format!("refresh_token={token}");
    assert_sent(&requests[0], "/open/refreshToken", None, form, &body);

    let store = scene.server.profile("TOKEN", "v1") + &format!("app_ticket = {APP_TICKET}\n");
    scene.write(store);
    scene.run::<&str>([]).token();
    let requests = scene.server.requests();
    let body = format!(
        r#"{{"app_id":"{APP_ID}","app_secret":"{APP_SECRET}","app_ticket":"{APP_TICKET}"}}"#
    );
    let path = "/open-apis/auth/v3/app_access_token";
    assert_sent(&requests[requests.len() - 2], path, None, JSON, &body);
    scene.assert_sound();
}

/// What the vendor's own SDK for Python does with the same tokens.
const SDK: &str = r#"
import sys, lark_oapi as lark
from lark_oapi.api.authen.v1 import *

base_url, app_id, app_secret, v1, oidc = sys.argv[1:]
client = lark.Client.builder().app_id(app_id).app_secret(app_secret).domain(base_url).build()
body = CreateRefreshAccessTokenRequestBody.builder().grant_type("refresh_token").refresh_token(v1).build()
request = CreateRefreshAccessTokenRequest.builder().request_body(body).build()
reply = client.authen.v1.refresh_access_token.create(request)
assert reply.success(), reply.msg
body = CreateOidcRefreshAccessTokenRequestBody.builder().grant_type("refresh_token").refresh_token(oidc).build()
request = CreateOidcRefreshAccessTokenRequest.builder().request_body(body).build()
reply = client.authen.v1.oidc_refresh_access_token.create(request)
assert reply.success(), reply.msg
"#;

/// A Python that has `lark-oapi`; says so if it is missing.
fn python_with_sdk() -> Option<&'static str> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python/bin/python3");
    let has_sdk = |python: &&str| {
        let tried = Command::new(python)
            .args(["-c", "import lark_oapi"])
            .output();
        tried.is_ok_and(|output| output.status.success())
    };
    let python = [own, "python3"].into_iter().find(has_sdk);
    if python.is_none() {
        eprintln!("skipped: this test needs Python with lark-oapi");
    }
    python
}

#[test]
fn the_vendors_sdk_sends_the_same_requests() {
    let Some(python) = python_with_sdk() else {
        return;
    };
    let scene = Scene::without_file();
    for api in ["v1", "oidc"] {
        scene.write(scene.server.profile("TOKEN", api));
        scene.run::<&str>([]).token();
    }
    let ours = scene.server.requests();
    let base_url = scene.server.base_url();
    let [v1, oidc] = [(); 2].map(|()| scene.server.refresh_token());
    let sdk = Command::new(python)
        .args(["-c", SDK, &base_url, APP_ID, APP_SECRET, &v1, &oidc])
        .output();
    let sdk = Run::of(sdk.unwrap());
    assert_eq!(sdk.code, 0, "{}", sdk.stderr);
    let theirs = scene.server.requests().split_off(ours.len());

    // Ours asks for each profile; the SDK asks once. Tokens may differ, their places must not.
    let ours = [&ours[0], &ours[1], &ours[3]];
    assert_eq!(theirs.len(), ours.len());
    for (ours, theirs) in ours.into_iter().zip(&theirs) {
        assert_eq!(ours.method, theirs.method);
        assert_eq!(ours.path, theirs.path);
        assert_eq!(
            ours.headers.get("authorization"),
            theirs.headers.get("authorization")
        );
        // The SDK omits it when it asks for an app token.
        if let Some(kind) = theirs.headers.get("content-type") {
            assert_eq!(ours.headers["content-type"], *kind);
        }
        let fields = |request: &Recorded| {
            let mut body: Value = serde_json::from_str(&request.body).unwrap();
            if let Some(token) = body.get_mut("refresh_token") {
                assert!(token.is_string());
                *token = json!("any");
            }
            body
        };
        assert_eq!(fields(ours), fields(theirs), "{}", ours.path);
    }
}

#[test]
fn each_pair_is_saved_under_its_own_keys() {
    for (api, keys) in [
        (
            "oidc",
            "app_access_token app_access_token_expires_at user_access_token \
             user_access_token_expires_at scope refresh_token refresh_token_expires_at \
             refresh_token_spent",
        ),
        (
            "v2",
            "user_access_token user_access_token_expires_at scope refresh_token \
             refresh_token_expires_at refresh_token_spent",
        ),
        (
            "115",
            "access_token access_token_expires_at refresh_token refresh_token_spent",
        ),
    ] {
        let scene = Scene::without_file();
        scene.write(scene.server.profile("TOKEN", api));
        let before = scene.text();
        let run = scene.run(["-o", "json"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let key = |line: &str| line.split(" = ").next().unwrap().to_owned();
        let known: Vec<_> = before.lines().map(key).collect();
        let text = scene.text();
        let written = text.lines().map(key);
        let written: Vec<_> = written
            .filter(|key| key == "refresh_token" || !known.contains(key))
            .collect();
        assert_eq!(written.join(" "), keys, "{api}");

        let result: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(result["api"], api);
        let access = if api == "115" {
            "access_token"
        } else {
            "user_access_token"
        };
        assert_eq!(result["access_token"], scene.value(access));
        assert_eq!(
            result["expires_at"],
            scene.value(&format!("{access}_expires_at"))
        );
        let scope = if api == "115" {
            Value::Null
        } else {
            json!(SCOPE)
        };
        assert_eq!(result["scope"], scope);
        scene.assert_sound();
    }
}

#[test]
fn the_refresh_expiry_of_115_stays() {
    let scene = Scene::without_file();
    let expiry = "refresh_token_expires_at = 2027-05-01T00:00:00Z\n";
    scene.write(scene.server.profile("TOKEN", "115") + expiry);
    scene.run::<&str>([]).token();
    assert!(scene.text().contains(expiry), "{}", scene.text());
    scene.assert_sound();
}

#[test]
fn a_scope_narrows_a_v2_token_and_no_other() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v2"));
    scene.run(["--scope", "task:task:read"]).token();
    assert_eq!(scene.value("scope"), "task:task:read offline_access");
    scene.run::<&str>([]).token();
    assert_eq!(scene.value("scope"), SCOPE);
    scene
        .run(["--scope", "mail:all"])
        .assert_failed(3, "(code 20068");
    // A reply without a scope granted the requested one.
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply.as_object_mut().unwrap().remove("scope");
    })));
    scene.run(["--scope", "auth:user.id:read"]).token();
    assert_eq!(scene.value("scope"), "auth:user.id:read offline_access");
    // Nor does an old one stay for a new token.
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply.as_object_mut().unwrap().remove("scope");
    })));
    let run = scene.run(["-o", "json"]);
    assert!(run.stdout.contains(r#""scope":null"#), "{}", run.stdout);
    assert!(scene.text().contains("\nscope =\n") || scene.text().contains("\nscope = \n"));
    // If no reply names one, the key is not ours.
    let own = scene.server.profile("TOKEN", "v1") + "scope = mine\n  and more\n";
    scene.write(own);
    scene.run::<&str>([]).token();
    assert!(scene.text().contains("scope = mine\n  and more\n"));
    for api in ["v1", "oidc", "115"] {
        scene.write(scene.server.profile("TOKEN", api));
        scene
            .run(["--scope", "a"])
            .assert_failed(3, "--scope is for api v2 and v3 only");
    }
    for scope in ["", " ", "a\"b"] {
        let run = scene.run(["--scope", scope]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
    }
}

/// An RFC 6749 server that does not know Feishu's codes.
#[test]
fn a_standard_server_stands_in_for_v2() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v2"));
    for (status, error, code) in [
        (400, "invalid_grant", 4),
        (401, "invalid_client", 3),
        (400, "invalid_request", 3),
        (400, "unauthorized_client", 3),
        (400, "unsupported_grant_type", 3),
        (400, "invalid_scope", 3),
        (500, "server_error", 5),
        (503, "temporarily_unavailable", 5),
        (400, "something_else", 1),
    ] {
        let body = json!({ "error": error, "error_description": "in the server's words" });
        for (locale, is_chinese) in [("en_US", false), ("zh_CN", true)] {
            scene
                .server
                .fail_next(Fault::reply(status, body.to_string()));
            let mut program = scene.program();
            program.args(["--retries", "0"]).env("LANG", locale);
            let run = Run::of(program.output().unwrap());
            run.assert_failed(code, &format!("{error}: in the server's words"));
            let hint = run.stderr.split("hint: ").nth(1).unwrap();
            assert_ne!(hint.is_ascii(), is_chinese, "{hint}");
        }
    }
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        let reply = reply.as_object_mut().unwrap();
        reply.remove("code");
        reply.remove("refresh_token_expires_in");
    })));
    scene.run::<&str>([]).token();
    assert!(!scene.text().contains("refresh_token_expires_at"));
    scene.assert_sound();
}

#[test]
fn a_token_of_the_wrong_version_gets_a_hint_that_names_the_right_api() {
    let scene = Scene::without_file();
    let v2 = "this is a v2 or v3 refresh token: use --api v3 (Lark: v2)";
    let v1 = "this is a v1 refresh token: use --api v1";
    for (api, theirs, hint) in [
        ("v1", "v2", v2),
        ("oidc", "v3", v2),
        ("v2", "v1", v1),
        ("v3", "v1", v1),
    ] {
        let token = scene.server.refresh_token_for(theirs);
        let section = scene.server.profile("TOKEN", theirs);
        let of_file = value_in(&section, "refresh_token");
        scene.write(section.replace(&format!("api = {theirs}"), &format!("api = {api}")));
        let base_url = scene.server.base_url();
        for arguments in [&[][..], &["--base-url", &base_url, "-r", &token]] {
            let run = scene.run(arguments);
            run.assert_failed(4, "(code 20026");
            assert!(run.stderr.contains(hint), "{}", run.stderr);
        }
        assert!(scene.server.is_live(&of_file) && scene.server.is_live(&token));
        // And that works.
        scene
            .run(["--base-url", &base_url, "-r", &token, "--api", theirs])
            .token();
        assert_eq!(scene.value("api"), theirs);
    }
}

#[test]
fn a_pair_of_another_api_changes_what_the_section_says() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v1"));
    let base_url = scene.server.base_url();
    for api in ["v2", "115", "oidc"] {
        let token = scene.server.refresh_token_for(api);
        scene
            .run(["--api", api, "-r", &token, "--base-url", &base_url])
            .token();
        assert_eq!(scene.value("api"), api);
        scene.assert_sound();
        // Without the flag the next run knows where the pair belongs.
        scene.server.advance(Duration::from_secs(61));
        scene.run::<&str>([]).token();
        scene.assert_sound();
    }
    // The first run for a file says it, too.
    let scene = Scene::without_file();
    let token = scene.server.refresh_token_for("115");
    let base_url = scene.server.base_url();
    scene
        .run(["--api", "115", "-r", &token, "--base-url", &base_url])
        .token();
    assert!(
        scene
            .text()
            .starts_with("[TOKEN]\napi = 115\naccess_token = "),
        "{}",
        scene.text()
    );
}

#[test]
fn a_flag_beats_an_api_that_nobody_knows() {
    let scene = Scene::without_file();
    let section = scene.server.profile("TOKEN", "v2");
    scene.write(section.replace("api = v2", "api = v2 ; the new one"));
    scene
        .run::<&str>([])
        .assert_failed(3, "the api is not known");
    scene.run(["--api", "v2"]).token();
    assert_eq!(scene.value("api"), "v2");
    scene.assert_sound();
}

#[test]
fn the_throttle_of_115_is_waited_out() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "115"));
    scene.run::<&str>([]).token();
    // A wait beyond the limit is left to the next run.
    let run = scene.run(["--max-wait", "59"]);
    run.assert_failed(5, "(code 40140117");
    assert!(
        run.stderr.contains("it asks to wait 60 s"),
        "{}",
        run.stderr
    );
    // Otherwise it is waited for; this test does not wait.
    let mut waiting = HeldRun::spawn(scene.program().arg("-v"));
    waiting.read_until("trying again in 60.0 s");
    waiting.child.kill().unwrap();
    waiting.child.wait().unwrap();
    assert_eq!(scene.server.rotations(), 1);
    scene.server.advance(Duration::from_secs(60));
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn a_rate_limit_is_waited_out_as_long_as_the_user_allows() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v2"));
    let limit = |status, header: &'static str, seconds: &str| Fault::Reply {
        status,
        headers: vec![(header, seconds.to_owned())],
        body: r#"{"code":99991400,"msg":"request trigger frequency limit"}"#.to_owned(),
    };
    let start = Instant::now();
    scene
        .server
        .fail_next(limit(400, "x-ogw-ratelimit-reset", "2"));
    scene.run(["--max-wait", "2"]).token();
    assert!(start.elapsed() >= Duration::from_secs(2));
    for wait in ["3", "99999999999999999999999"] {
        scene.server.fail_next(limit(429, "Retry-After", wait));
        let run = scene.run(["--max-wait", "2.9"]);
        run.assert_failed(5, "it asks to wait");
        assert!(run.stderr.contains("was not spent"), "{}", run.stderr);
    }
    // A connection that was idle this long may be dead: a new one is made.
    let before = scene.server.connections();
    scene.server.fail_next(limit(429, "Retry-After", "6"));
    let run = scene.run::<&str>([]);
    assert!(
        run.stderr.contains("trying again in 6.0 s"),
        "{}",
        run.stderr
    );
    run.token();
    assert_eq!(scene.server.connections() - before, 2);
    // A failure without a requested wait is still retried.
    scene.server.fail_next(Fault::CloseBeforeSpending);
    scene.run(["--max-wait", "0"]).token();
    scene.assert_sound();
}

/// Starts two runs at once, the second while the first one's request is held.
fn two_runs(scene: &Scene, first: &[&str], second: &[&str]) -> [Run; 2] {
    scene.server.fail_next(Fault::Hold);
    let held = HeldRun::spawn(scene.program().arg("-v").args(first));
    let queued = HeldRun::queue(scene.program().arg("-v").args(second));
    [held.let_go(scene), queued.finish()]
}

#[test]
fn a_run_that_asks_for_something_else_does_not_share() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v2"));
    let narrow = ["--scope", "task:task:read"];
    for (first, second, rotations) in [
        (&[][..], &[][..], 1),
        (&narrow, &narrow, 1),
        (&[], &narrow, 2),
        // One without a scope wants what the file had.
        (&[], &[], 1),
        (&narrow, &[], 2),
        (&[], &["--api", "v2"], 1),
    ] {
        let before = scene.server.rotations();
        let [one, other] = two_runs(&scene, first, second);
        let shared = one.token() == other.token();
        assert_eq!(
            scene.server.rotations() - before,
            rotations,
            "{first:?} {second:?}"
        );
        assert_eq!(shared, rotations == 1);
        scene.assert_sound();
        // As wide as the consent again.
        scene.run::<&str>([]).token();
    }
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v1"));
    let [one, other] = two_runs(&scene, &[], &["--api", "oidc"]);
    assert_ne!(one.token(), other.token());
    let [one, other] = two_runs(&scene, &["--api", "v1"], &["--api", "v1"]);
    assert_eq!(one.token(), other.token());
    scene.assert_sound();
}

/// Which host a run wants to reach.
fn host_of(scene: &Scene, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let seen = scene.seen_by_proxy(arguments, environment);
    let host = seen.split(' ').nth(1).unwrap();
    host.trim_end_matches(":443").to_owned()
}

#[test]
fn each_api_goes_home_unless_told_otherwise() {
    let scene = Scene::without_file();
    let (feishu, lark) = ("open.feishu.cn", "open.larksuite.com");
    let vendor_115 = "passportapi.115.com";
    let app = "app_id = cli_1\napp_secret = secret\n";
    let token = "refresh_token = r-1\n";
    for (api, host, lark_host) in [
        ("v1", feishu, lark),
        ("oidc", feishu, lark),
        ("v2", feishu, lark),
        ("v3", "accounts.feishu.cn", "accounts.larksuite.com"),
        ("115", vendor_115, vendor_115),
    ] {
        let section = format!("{app}api = {api}\n{token}");
        scene.write(format!("[TOKEN]\n{section}"));
        assert_eq!(host_of(&scene, &[], &[]), host);
        assert_eq!(host_of(&scene, &["--lark"], &[]), lark_host);
        // A flag beats the environment and the file.
        let elsewhere = [("FEISHU_BASE_URL", "https://elsewhere.example")];
        assert_eq!(host_of(&scene, &[], &elsewhere), "elsewhere.example");
        assert_eq!(host_of(&scene, &["--lark"], &elsewhere), lark_host);
        let both = ["--lark", "--base-url", "https://named.example"];
        assert_eq!(host_of(&scene, &both, &elsewhere), "named.example");
        scene.write(format!(
            "[TOKEN]\nbase_url = https://own.example\n{section}"
        ));
        assert_eq!(host_of(&scene, &[], &[]), "own.example");
        assert_eq!(host_of(&scene, &["--lark"], &[]), lark_host);
        // What all profiles share may be meant for the others.
        let shared = format!("[ID]\nbase_url = https://{lark}/\n[TOKEN]\n{section}");
        scene.write(shared);
        assert_eq!(host_of(&scene, &[], &[]), lark_host);
        scene.write(format!(
            "[ID]\nbase_url = https://shared.example\n[TOKEN]\n{section}"
        ));
        assert_eq!(host_of(&scene, &[], &[]), "shared.example");
    }
}

#[test]
fn a_lost_v2_or_115_reply_is_told_plainly() {
    for api in ["v2", "115"] {
        for fault in [Fault::CloseAfterSpending, Fault::Truncate] {
            let scene = Scene::without_file();
            scene.write(scene.server.profile("TOKEN", api));
            let before = scene.text();
            scene.server.fail_next(fault);
            let run = scene.run(["--retries", "1"]);
            run.assert_failed(4, "its successor is lost");
            assert_eq!(scene.text(), before);
        }
        let scene = Scene::without_file();
        scene.write(scene.server.profile("TOKEN", api));
        scene.server.fail_next(Fault::TruncateLate);
        scene.run::<&str>([]).assert_failed(1, "it is not whole");
        scene.assert_sound();
    }
}

#[test]
fn a_pair_of_any_api_is_put_back_after_a_save_that_failed() {
    for api in ["oidc", "v2", "115"] {
        let scene = Scene::without_file();
        scene.write(scene.server.profile("TOKEN", api));
        let mut failing = scene.program();
        failing.env("FEISHU_REFRESH_FAIL", "before-rename=error");
        Run::of(failing.output().unwrap()).assert_failed(6, "rotated, but not saved");
        scene.server.advance(Duration::from_secs(61));
        let run = scene.run::<&str>([]);
        assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
        run.token();
        scene.assert_sound();
    }
}
