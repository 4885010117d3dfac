//! Fetching, storing and renewing the `app_access_token` that v1 and oidc require.

use std::net::TcpListener;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::harness::{HeldRun, Run, Scene};
#[cfg(unix)]
use crate::harness::{assert_helpers_shielded, exit_code, send_signal};
use crate::sandbox::{APP_ID, APP_SECRET, APP_TICKET, Fault};

const INTERNAL: &str = "/open-apis/auth/v3/app_access_token/internal";
const STORE: &str = "/open-apis/auth/v3/app_access_token";
const REFRESH: &str = "/open-apis/authen/v1/refresh_access_token";

/// A scene whose file has app id and secret, and no app token.
fn scene() -> Scene {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v1"));
    scene
}

/// The paths of the requests since the last call of this.
fn asked(scene: &Scene, seen: &mut usize) -> Vec<String> {
    let requests = scene.server.requests().split_off(*seen);
    *seen += requests.len();
    requests.into_iter().map(|request| request.path).collect()
}

#[test]
fn an_app_token_is_fetched_kept_and_used_again() {
    let scene = scene();
    let mut seen = 0;
    scene.run::<&str>([]).token();
    assert_eq!(asked(&scene, &mut seen), [INTERNAL, REFRESH]);
    let token = scene.value("app_access_token");
    let end: Timestamp = scene.value("app_access_token_expires_at").parse().unwrap();
    let left = end.duration_since(Timestamp::now());
    assert!((7100..=7200).contains(&left.as_secs()), "{left}");
    for _ in 0..2 {
        scene.run::<&str>([]).token();
        assert_eq!(asked(&scene, &mut seen), [REFRESH]);
        assert_eq!(scene.value("app_access_token"), token);
    }
    scene.assert_sound();
}

#[test]
fn an_app_token_with_five_minutes_left_is_not_used() {
    let scene = scene();
    let mut seen = 0;
    scene.run::<&str>([]).token();
    let end = scene.value("app_access_token_expires_at");
    for (minutes, fetched) in [(6, false), (4, true), (-60, true)] {
        asked(&scene, &mut seen);
        let soon = Timestamp::now() + SignedDuration::from_mins(minutes);
        scene.write(scene.text().replace(&end, &soon.to_string()));
        scene.run::<&str>([]).token();
        let paths = asked(&scene, &mut seen);
        assert_eq!(paths.contains(&INTERNAL.to_owned()), fetched, "{minutes}");
        let now = scene.value("app_access_token_expires_at");
        scene.write(scene.text().replace(&now, &end));
    }
    // Without app id and secret, it is the best available: its expiry only advises.
    let without = scene
        .text()
        .replace("app_id", "x")
        .replace("app_secret", "y");
    scene.write(without.replace(&end, "2020-01-01T00:00:00Z"));
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

/// One run a night for a week, on a server whose clock runs fast: each night the app token has long expired. The
/// command line stays the same, with tokens in it or without.
#[test]
fn cron_runs_for_a_week_on_constant_flags() {
    let none: fn(&Scene) -> Vec<String> = |_| Vec::new();
    let tokens: fn(&Scene) -> Vec<String> = |scene| scene.flags().to_vec();
    for (flags, fetches) in [(none, 7), (tokens, 6)] {
        let scene = scene();
        let flags = flags(&scene);
        let mut seen = 0;
        for night in 1..=7 {
            let run = scene.run(&flags);
            assert!(scene.server.gave(run.token()));
            // The token is new only on the first night, and replaces the file's.
            let is_news = night == 1 && !flags.is_empty();
            assert_eq!(
                run.stderr.contains("is new here"),
                is_news,
                "{}",
                run.stderr
            );
            assert_eq!(
                run.stderr.is_empty(),
                !is_news,
                "night {night}: {}",
                run.stderr
            );
            scene.assert_sound();
            scene.server.advance(Duration::from_secs(24 * 3600));
        }
        let mut paths = asked(&scene, &mut seen);
        paths.retain(|path| path == INTERNAL);
        assert_eq!(paths.len(), fetches);
        assert_eq!(scene.server.rotations(), 7);
    }
}

#[test]
fn a_bad_app_token_is_fetched_again_once() {
    for code in [
        20013, 20014, 99_991_661, 99_991_663, 99_991_664, 99_991_668, 99_991_671,
    ] {
        let scene = scene();
        let mut seen = 0;
        scene.run::<&str>([]).token();
        asked(&scene, &mut seen);
        scene.server.fail_next(Fault::code(code));
        // Not one of the retries that a temporary failure gets.
        scene.run(["--retries", "0"]).token();
        assert_eq!(asked(&scene, &mut seen), [REFRESH, INTERNAL, REFRESH]);
        scene.assert_sound();
    }
    let scene = scene();
    let mut seen = 0;
    scene.run::<&str>([]).token();
    asked(&scene, &mut seen);
    let before = scene.text();
    let refused = || Fault::code(20014);
    scene.server.fail_next(refused());
    scene.server.fail_next(Fault::Delay(Duration::ZERO));
    scene.server.fail_next(refused());
    let run = scene.run::<&str>([]);
    run.assert_failed(3, "(code 20014");
    assert!(
        run.stderr
            .contains("even a fresh app_access_token is refused"),
        "{}",
        run.stderr
    );
    assert_eq!(asked(&scene, &mut seen), [REFRESH, INTERNAL, REFRESH]);
    assert_eq!(scene.text(), before);
    scene.assert_sound();
}

#[test]
fn both_requests_travel_on_one_connection() {
    let scene = scene();
    scene.run::<&str>([]).token();
    assert_eq!(
        (scene.server.requests().len(), scene.server.connections()),
        (2, 1)
    );
    // Also when the first was in vain.
    scene.server.advance(Duration::from_secs(7201));
    scene.run::<&str>([]).token();
    assert_eq!(
        (scene.server.requests().len(), scene.server.connections()),
        (5, 2)
    );
    scene.assert_sound();
}

#[test]
fn credentials_come_from_flag_environment_section_and_id() {
    let scene = Scene::new();
    let base_url = scene.server.base_url();
    let mut seen = 0;
    let file = |shared: &str, own: &str| {
        let token = scene.server.refresh_token();
        format!("[ID]\n{shared}\n[TOKEN]\nbase_url = {base_url}\n{own}\nrefresh_token = {token}\n")
    };
    let right = format!("app_id = {APP_ID}\napp_secret = {APP_SECRET}");
    let wrong = "app_id = cli_wrong\napp_secret = wrong";
    let flags = [
        "--app-id",
        APP_ID,
        "--app-secret",
        APP_SECRET,
        "--base-url",
        &base_url,
    ];
    let from_env = |id: &str, secret: &str, arguments: &[&str]| {
        let mut program = scene.program();
        program
            .env("FEISHU_BASE_URL", &base_url)
            .env("FEISHU_APP_ID", id);
        let program = program.env("FEISHU_APP_SECRET", secret).args(arguments);
        Run::of(program.output().unwrap())
    };
    scene.write(file(&right, ""));
    scene.run::<&str>([]).token();
    scene.write(file(wrong, &right));
    scene.run::<&str>([]).token();
    scene.write(file(wrong, wrong));
    scene.run::<&str>([]).assert_failed(3, "(code 10003");
    from_env(APP_ID, APP_SECRET, &[]).token();
    scene.write(file(wrong, wrong));
    from_env("cli_wrong", "wrong", &flags).token();
    // The parts may come from different places.
    scene.write(file(
        &format!("app_id = {APP_ID}"),
        &format!("app_secret = {APP_SECRET}"),
    ));
    scene.run::<&str>([]).token();
    scene.write(file("", &format!("app_id = {APP_ID}")));
    let dash = ["--app-secret", "-", "--base-url", &base_url];
    scene
        .run_with_stdin(&dash, &format!("{APP_SECRET}\n"))
        .token();
    assert!(!asked(&scene, &mut seen).contains(&STORE.to_owned()));
    // A ticket makes it an app from the store.
    for (shared, own, arguments) in [
        (
            format!("{right}\napp_ticket = {APP_TICKET}"),
            String::new(),
            vec![],
        ),
        (
            wrong.to_owned(),
            format!("{right}\napp_ticket = {APP_TICKET}"),
            vec![],
        ),
        (
            right.clone(),
            String::new(),
            vec!["--app-ticket", APP_TICKET, "--base-url", &base_url],
        ),
    ] {
        scene.write(file(&shared, &own));
        scene.run(arguments).token();
        assert_eq!(asked(&scene, &mut seen), [STORE, REFRESH]);
    }
    scene.assert_sound();
}

#[test]
fn what_is_missing_is_named() {
    let scene = Scene::without_file();
    for (section, says) in [
        ("", "no app_access_token, and none given"),
        ("app_id = cli_1\n", "no app_secret, and none given"),
        ("app_secret = s\n", "no app_id, and none given"),
        (
            "api = v2\napp_access_token = a-1\n",
            "no app_id, and none given",
        ),
        (
            "api = v2\napp_id = cli_1\n",
            "no app_secret, and none given",
        ),
        (
            "app_id = cli_1\napp_secret = \"quoted\"\n",
            "app_secret holds more than a token",
        ),
        (
            "app_id = cli_1 ; mine\napp_secret = s\n",
            "app_id holds more than a token",
        ),
    ] {
        scene.write(format!("[TOKEN]\n{section}refresh_token = ur-1\n"));
        let before = scene.text();
        scene.run::<&str>([]).assert_failed(3, says);
        assert_eq!(scene.text(), before);
    }
    for (flag, says) in [
        ("--app-id", "the app_id given is empty"),
        ("--app-secret", "the app_secret given is empty"),
        ("--app-ticket", "the app_ticket given is empty"),
    ] {
        scene.run([flag, " "]).assert_failed(3, says);
    }
}

#[test]
fn an_app_token_that_cannot_be_had_costs_nothing() {
    let scene = scene();
    let before = scene.text();
    for (fault, code, says) in [
        (
            Fault::code(10014),
            3,
            "cannot fetch an app_access_token: as asked for (code 10014",
        ),
        (Fault::code(99_991_400), 5, "(code 99991400"),
        (Fault::code(4711), 1, "(code 4711"),
        // Neither a user nor a token was involved.
        (Fault::code(20008), 3, "(code 20008"),
        (Fault::code(99_991_663), 3, "(code 99991663"),
        (
            Fault::html(403),
            1,
            "cannot fetch an app_access_token: HTTP 403",
        ),
        (
            Fault::html(502),
            5,
            "cannot fetch an app_access_token: HTTP 502",
        ),
        (
            Fault::reply(200, r#"{"code":0}"#),
            1,
            "neither success nor failure",
        ),
        (Fault::CloseBeforeSpending, 5, "the connection broke"),
    ] {
        scene.server.fail_next(fault);
        let run = scene.run(["--retries", "0"]);
        run.assert_failed(code, says);
        assert!(
            run.stderr.contains("the refresh token was not sent"),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains("may have been lost"), "{}", run.stderr);
        assert!(!run.stderr.contains(APP_SECRET));
    }
    assert_eq!(scene.text(), before);
    // It is retried like any request.
    scene.server.fail_next(Fault::html(502));
    scene.server.fail_next(Fault::code(20050));
    scene.run(["--retries", "2"]).token();
    scene.assert_sound();
    // Its expiry may be unknown.
    let scene = self::scene();
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["expire"] = json!("soon");
    })));
    scene.run::<&str>([]).token();
    assert!(!scene.text().contains("app_access_token_expires_at"));
    scene.run::<&str>([]).token();
    assert_eq!(scene.server.requests().len(), 3);
}

#[test]
fn an_old_app_token_will_do_where_no_new_one_can_be_had() {
    let scene = scene();
    let mut seen = 0;
    scene.run::<&str>([]).token();
    let soon = Timestamp::now() + SignedDuration::from_mins(3);
    let end = scene.value("app_access_token_expires_at");
    scene.write(scene.text().replace(&end, &soon.to_string()));
    asked(&scene, &mut seen);
    scene.server.fail_next(Fault::html(503));
    scene.run(["--retries", "0"]).token();
    assert_eq!(asked(&scene, &mut seen), [INTERNAL, REFRESH]);
    // Unless it is rejected: then the app's endpoint says why there is no other.
    scene.server.fail_next(Fault::html(503));
    scene.server.fail_next(Fault::code(20014));
    scene.server.fail_next(Fault::html(502));
    let run = scene.run(["--retries", "0"]);
    run.assert_failed(5, "cannot fetch an app_access_token: HTTP 502");
    assert_eq!(asked(&scene, &mut seen), [INTERNAL, REFRESH, INTERNAL]);
    scene.assert_sound();
}

#[test]
fn a_saved_app_token_is_not_used_for_another_app() {
    let scene = scene();
    scene.write(scene.text().replace(APP_ID, "cli_other") + "app_access_token = a-other\n");
    scene.run(scene.app_flags()).token();
    let mut seen = 0;
    assert_eq!(asked(&scene, &mut seen), [INTERNAL, REFRESH]);
}

#[test]
fn an_app_that_is_not_asked_may_be_written_in_any_way() {
    let scene = Scene::new();
    scene.write(format!(
        "[ID]\napp_id = \"cli 1\"\napp_secret = ?\n{}",
        scene.text()
    ));
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn a_ticket_is_not_taken_for_another_app() {
    let scene = Scene::without_file();
    let section = scene.server.profile("TOKEN", "v1");
    scene.write(format!(
        "[ID]\napp_id = cli_store\napp_secret = s\napp_ticket = t\n\n{section}"
    ));
    scene.run::<&str>([]).token();
    let mut seen = 0;
    assert_eq!(asked(&scene, &mut seen), [INTERNAL, REFRESH]);
    scene.assert_sound();
}

#[test]
fn first_runs_at_once_fetch_one_app_token() {
    let scene = Scene::without_file();
    let flags = scene.first_flags("v1");
    let start = || {
        let mut program = scene.program();
        program.arg("-v").args(&flags);
        program
    };
    scene.server.fail_next(Fault::Hold);
    let held = HeldRun::spawn(&mut start());
    let queued: Vec<_> = (0..9).map(|_| HeldRun::queue(&mut start())).collect();
    let first = held.let_go(&scene);
    for run in queued {
        assert_eq!(run.finish().token(), first.token());
    }
    assert_eq!(scene.server.rotations(), 1);
    // Between its two requests, the first run releases the file that it created, so that a signal leaves none behind:
    // rarely, another gets in between.
    let mut seen = 0;
    let paths = asked(&scene, &mut seen);
    assert!(paths.len() <= 4, "{paths:?}");
    scene.assert_sound();
}

#[cfg(unix)]
#[test]
fn a_signal_need_not_wait_for_an_app_token() {
    let scene = scene();
    let before = scene.text();
    let mut held = HeldRun::start(&scene, Fault::Hold);
    scene.server.wait_until_held();
    send_signal(&held.child, "TERM");
    assert_eq!(exit_code(held.child.wait().unwrap()), 128 + 15);
    scene.server.release();
    assert_eq!(scene.text(), before);
    scene.assert_sound();

    // Unless it would leave behind the file that the run created. Then it waits for the reply, and no
    // further request follows.
    let scene = Scene::without_file();
    scene.server.fail_next(Fault::Hold);
    let mut program = scene.program();
    let held = HeldRun::spawn(program.arg("-v").args(scene.first_flags("v1")));
    send_signal(&held.child, "TERM");
    assert_eq!(held.let_go(&scene).code, 128 + 15);
    assert_eq!(scene.server.requests().len(), 1);
    assert!(scene.file_names().is_empty());
}

/// A thread that lets a signal through would die of it while the token is at risk, and the program with it. One that
/// resolves names starts before that, and lives on.
#[cfg(unix)]
#[test]
fn no_helper_thread_takes_a_signal() {
    let scene = Scene::without_file();
    scene.write("[TOKEN]\napp_id = cli_1\napp_secret = s\nrefresh_token = ur-1\n");
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = proxy.local_addr().unwrap().port();
    let mut program = scene.program();
    let program = program.env("HTTPS_PROXY", format!("http://localhost:{port}"));
    let mut child = program.arg("-q").spawn().unwrap();
    // It asks for the app's token; the thread that resolved the proxy's name has ended by then, or is
    // shielded.
    let _connection = proxy.accept().unwrap();
    assert_helpers_shielded(child.id());
    send_signal(&child, "TERM");
    assert_eq!(exit_code(child.wait().unwrap()), 128 + 15);
}

#[test]
fn a_lost_reply_is_not_forgotten_over_an_app_token() {
    let scene = scene();
    scene.run::<&str>([]).token();
    // Spent, then the app token expires, then there is no other.
    scene.server.fail_next(Fault::CloseAfterSpending);
    scene.server.fail_next(Fault::code(20014));
    scene.server.fail_next(Fault::code(10014));
    let run = scene.run::<&str>([]);
    run.assert_failed(3, "a reply may have been lost before");
}

#[test]
fn the_apps_secrets_go_to_no_host_that_only_the_file_names() {
    for api in ["v1", "oidc", "v2"] {
        let scene = Scene::without_file();
        let section = scene.server.profile("TOKEN", api);
        scene.write(section.replace("app_secret", "x"));
        let from_env = |name: &str, secret: &str| {
            let mut program = scene.program();
            Run::of(program.env(name, secret).output().unwrap())
        };
        let refused = "secrets from flags or environment are not sent to http://127.0.0.1:";
        from_env("FEISHU_APP_SECRET", APP_SECRET).assert_failed(3, refused);
        scene.write(&section);
        if api == "v2" {
            // It sends none.
            from_env("FEISHU_APP_TICKET", APP_TICKET).token();
            continue;
        }
        from_env("FEISHU_APP_TICKET", APP_TICKET).assert_failed(3, refused);
        assert!(scene.server.requests().is_empty());
        // Named from outside, it may have them.
        let run = scene.run([
            "--app-secret",
            APP_SECRET,
            "--base-url",
            &scene.server.base_url(),
        ]);
        run.token();
        scene.assert_sound();
    }
    // What is not sent does no harm.
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "115"));
    let program = &mut scene.program();
    let program = program
        .env("FEISHU_APP_SECRET", APP_SECRET)
        .env("FEISHU_APP_ACCESS_TOKEN", "a-1");
    Run::of(program.output().unwrap()).token();
}

#[test]
fn the_first_run_needs_no_app_token() {
    for api in ["v1", "oidc", "v2"] {
        let scene = Scene::without_file();
        let flags = scene.first_flags(api);
        scene.run(&flags).token();
        scene.assert_sound();
        assert!(
            !scene.text().contains(APP_SECRET),
            "it was given, not asked to be kept"
        );
        scene.run(&flags).token();
        scene.assert_sound();
        // A refusal leaves no file behind.
        let scene = Scene::without_file();
        let unknown = [&flags[..4], &scene.app_flags()].concat();
        scene.run(unknown).assert_failed(4, "(code 20026");
        assert!(scene.file_names().is_empty());
    }
}

#[test]
fn no_message_shows_the_apps_secrets() {
    let scene = Scene::without_file();
    for (api, ticket) in [("v1", false), ("v1", true), ("v2", false)] {
        let mut section = scene.server.profile("TOKEN", api);
        if ticket {
            section.push_str(&format!("app_ticket = {APP_TICKET}\n"));
        }
        scene.write(section);
        let echo = format!("{APP_SECRET} and {APP_TICKET} are wrong");
        let body = json!({ "code": 10014, "msg": echo, "error_description": echo });
        scene.server.fail_next(Fault::Reply {
            status: 200,
            headers: vec![("X-Tt-Logid", format!("log {APP_SECRET}"))],
            body: body.to_string(),
        });
        let run = scene.run(["-v"]);
        run.assert_failed(3, "*** and ");
        assert!(!run.stderr.contains(APP_SECRET), "{}", run.stderr);
        assert!(
            !ticket || !run.stderr.contains(APP_TICKET),
            "{}",
            run.stderr
        );
    }
}
