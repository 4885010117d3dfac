//! Where a token must not go.

use std::net::TcpListener;
use std::sync::Arc;

use serde_json::json;

use crate::harness::{Run, Scene};
use crate::sandbox::{Fault, Sandbox};

#[test]
fn no_message_shows_a_secret() {
    let scene = Scene::new();
    let (app, refresh) = (
        scene.value("app_access_token"),
        scene.value("refresh_token"),
    );
    let echo = json!({ "code": 20026, "msg": format!("bad token {refresh} of {app}") });
    scene.server.fail_next(Fault::reply(200, echo.to_string()));
    let run = scene.run(["-v"]);
    run.assert_failed(4, "bad token *** of ***");
    assert!(
        !run.stderr.contains(&refresh) && !run.stderr.contains(&app),
        "{}",
        run.stderr
    );
    // Cut off in the middle, disguised, on the way to a retry, as a log id: nowhere.
    let disguises: [fn(&str) -> String; 2] = [
        |secret| format!("{}{secret}", "x".repeat(180)),
        |secret| secret.replace("box", "bo\u{200b}x"),
    ];
    for disguise in disguises {
        let refresh = scene.value("refresh_token");
        scene.server.fail_next(Fault::Reply {
            status: 200,
            headers: vec![("X-Tt-Logid", format!("log {refresh}"))],
            body: json!({ "code": 20007, "msg": disguise(&refresh) }).to_string(),
        });
        let run = scene.run(["-v", "--retries", "1"]);
        assert!(!run.stderr.contains("sandbox0"), "{}", run.stderr);
        assert!(run.stderr.contains("log id log ***"), "{}", run.stderr);
    }
    let run = scene.run(["-v"]);
    let shown = run.stderr.replace(run.token(), "");
    assert!(!shown.contains("sandbox0"), "{shown}");
}

#[test]
fn no_message_shows_a_secret_as_a_form_writes_it() {
    let scene = Scene::without_file();
    let token = "part/one+two=three";
    scene.write(scene.server.profile("TOKEN", "115"));
    let echo =
        |form: &str| json!({ "state": 0, "code": 40_140_114, "message": format!("bad {form}") });
    for form in [
        token,
        "part%2Fone%2Btwo%3Dthree",
        "part%2fone%2btwo%3dthree",
    ] {
        scene
            .server
            .fail_next(Fault::reply(200, echo(form).to_string()));
        let run = scene.run(["-r", token, "--base-url", &scene.server.base_url()]);
        run.assert_failed(3, "bad *** (code");
    }
}

#[test]
fn a_servers_text_cannot_play_with_the_terminal() {
    let scene = Scene::new();
    let message = format!("\u{1b}[2J\u{202e}line\nbreak{}", "x".repeat(100_000));
    scene.server.fail_next(Fault::reply(
        200,
        json!({ "code": 1, "msg": message }).to_string(),
    ));
    let run = scene.run::<&str>([]);
    run.assert_failed(1, "line break");
    assert!(!run.stderr.contains('\u{1b}') && !run.stderr.contains('\u{202e}'));
    assert!(
        run.stderr.len() < 1000 && run.stderr.lines().count() == 2,
        "{}",
        run.stderr
    );
}

#[test]
fn stray_arguments_are_not_repeated() {
    let scene = Scene::without_file();
    for arguments in [
        vec!["ur-secret"],
        vec!["\"ur-secret\""],
        vec!["code=ur-secret"],
        vec!["--refreshh=ur-secret"],
        vec!["--ur-secret"],
        vec!["-Xur-secret"],
        vec!["--timeout", "ur-secret"],
        vec!["--retries", "ur-secret"],
        vec!["--api", "ur-secret"],
        vec!["-o", "ur-secret"],
        vec!["-q=ur-secret"],
        vec!["-r", "--", "ur-secret"],
    ] {
        let run = scene.run(&arguments);
        run.assert_failed(2, "feishu-refresh: ");
        assert!(
            !run.stderr.contains("ur-secret"),
            "{arguments:?}: {}",
            run.stderr
        );
    }
    for secret in [
        "8f0c2a6e4b1d9a7b5c3d",
        "dskLLdkasdKasdKBAdLA",
        "4vfhq5k3m2n7p8r9t0w",
        "aB3",
        "cli_a1b2c3d4e5f6",
    ] {
        let run = scene.run([secret]);
        run.assert_failed(2, "argument 1 is not known");
        assert!(!run.stderr.contains(secret), "{run:?}");
    }
    let run = scene.run(["--refrseh", "x"]);
    assert!(
        run.stderr.contains("did you mean --refresh?"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_redirect_is_not_followed() {
    let scene = Scene::new();
    let elsewhere = Sandbox::start().unwrap();
    for status in [301, 302, 307, 308] {
        scene.server.fail_next(Fault::Reply {
            status,
            headers: vec![(
                "Location",
                elsewhere.base_url() + "/open-apis/authen/v1/refresh_access_token",
            )],
            body: String::new(),
        });
        scene.run::<&str>([]).assert_failed(1, "redirect");
    }
    assert!(elsewhere.requests().is_empty());
    scene.assert_sound();
}

#[test]
fn no_proxy_sees_what_goes_to_a_loopback_address() {
    let scene = Scene::new();
    let proxy = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let mut program = scene.program();
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ] {
        program.env(name, &address);
    }
    Run::of(program.output().unwrap()).token();
    proxy.set_nonblocking(true).unwrap();
    assert!(proxy.accept().is_err(), "the proxy was asked");
    scene.assert_sound();
}

#[test]
fn an_https_host_is_reached_through_the_proxy_which_sees_no_secret() {
    let scene = Scene::new();
    let seen = scene.seen_by_proxy(&["--base-url", "https://tokens.example"], &[]);
    assert!(seen.starts_with("CONNECT tokens.example:443 "), "{seen}");
    assert!(!seen.contains("sandbox0"), "{seen}");
    // Where it must not be used, nobody asks it.
    let mut program = scene.program();
    program.args(["--base-url", "https://tokens.invalid", "--retries", "0"]);
    program.env("HTTPS_PROXY", "http://127.0.0.1:9");
    program.env("NO_PROXY", "tokens.invalid");
    let run = Run::of(program.output().unwrap());
    run.assert_failed(5, "cannot connect");
    assert!(!run.stderr.contains("refused"), "{}", run.stderr);
    scene.assert_sound();
}

#[test]
fn secrets_from_outside_go_to_no_host_that_only_the_file_names() {
    let scene = Scene::new();
    let refresh = scene.server.refresh_token();
    scene
        .run(["-r", &refresh])
        .assert_failed(3, "feishu-config.ini names");
    let run = scene
        .program()
        .env("FEISHU_APP_ACCESS_TOKEN", "a-1")
        .output()
        .unwrap();
    Run::of(run).assert_failed(3, "feishu-config.ini names");
    assert!(scene.server.requests().is_empty());
    // Named from outside, it may have them. A token that the file lists as spent is not sent at all.
    scene
        .run(["-r", &refresh, "--base-url", &scene.server.base_url()])
        .token();
    scene.run(["-r", &refresh]).token();
}
