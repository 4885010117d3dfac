//! What a run reads, sends, saves and prints when all is well.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Run, Scene, is_private, value_in};
use crate::sandbox::Fault;

#[test]
fn a_plain_run_takes_everything_from_the_file() {
    let scene = Scene::new();
    let before = scene.value("refresh_token");
    let run = scene.run::<&str>([]);
    assert!(scene.server.gave(run.token()));
    assert_eq!(run.stderr, "");
    assert_eq!(scene.value("user_access_token"), run.token());
    assert_ne!(scene.value("refresh_token"), before);
    scene.assert_sound();
}

#[test]
fn the_first_run_makes_the_file_from_flags() {
    let scene = Scene::without_file();
    let (app, refresh) = (scene.server.app_token(), scene.server.refresh_token());
    let base = scene.server.base_url();
    let run = scene.run(["-a", &app, "-r", &refresh, "--base-url", &base]);
    assert_eq!(scene.value("user_access_token"), run.token());
    assert!(is_private(&scene.file()));
    assert!(
        !scene.text().contains(&app),
        "the app token was given, not asked to be kept"
    );
    scene.assert_sound();
    // From now on the file has the refresh token.
    scene.run(["-a", &app, "--base-url", &base]).token();
    scene.assert_sound();
}

#[test]
fn the_python_programs_spellings_work() {
    let scene = Scene::without_file();
    let (app, refresh) = (scene.server.app_token(), scene.server.refresh_token());
    let base = scene.server.base_url();
    for (a, r) in [
        ("--app_token", "--refresh"),
        ("--app-token", "--refresh_token"),
        ("-a", "--refresh-token"),
    ] {
        let run = scene.run([
            a,
            &app,
            r,
            &refresh,
            "--config_file",
            "other.ini",
            "--base-url",
            &base,
        ]);
        run.token();
    }
    assert_eq!(scene.file_names(), ["other.ini"]);
    assert_eq!(scene.server.spent_seen(), 0);
}

#[test]
fn the_request_is_the_documented_one() {
    let scene = Scene::new();
    let (app, refresh) = (
        scene.value("app_access_token"),
        scene.value("refresh_token"),
    );
    scene.run::<&str>([]).token();
    let requests = scene.server.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/open-apis/authen/v1/refresh_access_token");
    assert_eq!(request.headers["authorization"], format!("Bearer {app}"));
    assert_eq!(
        request.headers["content-type"],
        "application/json; charset=utf-8"
    );
    let body = format!(r#"{{"grant_type":"refresh_token","refresh_token":"{refresh}"}}"#);
    assert_eq!(request.body, body);
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let scene = Scene::new();
    let of_file = scene.value("refresh_token");
    let [of_env, of_flag] = [(); 2].map(|()| scene.server.refresh_token());
    let sent = || {
        let requests = scene.server.requests();
        let body: Value = serde_json::from_str(&requests.last().unwrap().body).unwrap();
        body["refresh_token"].as_str().unwrap().to_owned()
    };
    let base = scene.server.base_url();
    let run = |flags: &[&str], env: &str| {
        let mut program = scene.program();
        let program = program.args(flags).env("FEISHU_REFRESH_TOKEN", env);
        Run::of(program.env("FEISHU_BASE_URL", &base).output().unwrap())
            .token()
            .to_owned()
    };
    // An empty variable counts as unset.
    run(&[], "");
    assert_eq!(sent(), of_file);
    run(&["-r", &of_flag], &of_env);
    assert_eq!(sent(), of_flag);
    run(&[], &of_env);
    assert_eq!(sent(), of_env);
    scene.assert_sound();
}

#[test]
fn every_environment_variable_counts() {
    let scene = Scene::without_file();
    let run = scene
        .program()
        .env("FEISHU_APP_ACCESS_TOKEN", scene.server.app_token())
        .env(
            "FEISHU_REFRESH_TOKEN",
            format!("{}\n", scene.server.refresh_token()),
        )
        .env("FEISHU_CONFIG_FILE", "from-env.ini")
        .env("FEISHU_PROFILE", "BOT")
        .env("FEISHU_API", "v1")
        .env("FEISHU_BASE_URL", scene.server.base_url())
        .output()
        .unwrap();
    let run = Run::of(run);
    let text = fs::read_to_string(scene.folder().join("from-env.ini")).unwrap();
    assert!(text.starts_with("[BOT]\n"), "{text}");
    assert_eq!(value_in(&text, "user_access_token"), run.token());
}

#[test]
fn a_secret_given_as_a_dash_is_read_from_stdin() {
    let scene = Scene::new();
    let refresh = scene.server.refresh_token();
    let base = scene.server.base_url();
    let arguments = ["-r", "-", "--base-url", &base];
    scene
        .run_with_stdin(&arguments, &format!("{refresh}\n"))
        .token();
    assert!(
        !scene.server.is_live(&refresh),
        "the token from stdin was not used"
    );
    scene.assert_sound();
    let both = ["-r", "-", "-a", "-"];
    scene
        .run_with_stdin(&both, "x")
        .assert_failed(2, "only one secret");
    scene
        .run_with_stdin(&arguments, "\n")
        .assert_failed(3, "stdin was empty");
}

#[test]
fn a_constant_refresh_token_goes_on_working() {
    let scene = Scene::without_file();
    let (app, refresh) = (scene.server.app_token(), scene.server.refresh_token());
    let base = scene.server.base_url();
    for _ in 0..5 {
        scene
            .run(["-a", &app, "-r", &refresh, "--base-url", &base])
            .token();
        scene.assert_sound();
    }
    // Also one that the file held meanwhile.
    let middle = scene.value("refresh_token");
    for _ in 0..5 {
        scene
            .run(["-a", &app, "-r", &middle, "--base-url", &base])
            .token();
        scene.assert_sound();
    }
    assert_eq!(scene.server.rotations(), 10);
    // A really new one is recognised as such, and the old user's is not mistaken for it.
    let other = scene.server.refresh_token();
    scene
        .run(["-a", &app, "-r", &other, "--base-url", &base])
        .token();
    assert!(!scene.server.is_live(&other));
    scene.assert_sound();
    let live = scene.value("refresh_token");
    scene
        .run(["-a", &app, "-r", &middle, "--base-url", &base])
        .assert_failed(4, "20026");
    assert_eq!(scene.value("refresh_token"), live);
}

#[cfg(unix)]
#[test]
fn a_save_gives_back_the_space_that_it_did_not_need() {
    use std::os::unix::fs::MetadataExt;
    let scene = Scene::new();
    scene.run::<&str>([]).token();
    let file = scene.file().metadata().unwrap();
    assert!(
        file.blocks() * 512 <= file.len() + 8192,
        "{} blocks",
        file.blocks()
    );
}

#[test]
fn profiles_are_sections() {
    let scene = Scene::new();
    let refresh = scene.server.refresh_token();
    let base = scene.server.base_url();
    let app = scene.server.app_token();
    scene
        .run([
            "-p",
            "second bot",
            "-a",
            &app,
            "-r",
            &refresh,
            "--base-url",
            &base,
        ])
        .token();
    let text = scene.text();
    let (first, second) = text.split_once("\n\n[second bot]\n").expect(&text);
    assert!(!first.contains("user_access_token"));
    assert!(scene.server.is_live(&value_in(second, "refresh_token")));
    scene.assert_sound();
}

#[test]
fn shared_settings_stand_in_the_id_section() {
    let scene = Scene::new();
    let text = scene.text();
    let base_url = format!("base_url = {}\n", scene.server.base_url());
    scene.write(format!("[ID]\n{base_url}\n{}", text.replace(&base_url, "")));
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn json_has_every_key_of_the_contract() {
    let scene = Scene::new();
    let run = scene.run(["-o", "json"]);
    assert_eq!(run.stdout.lines().count(), 1);
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    let keys: BTreeSet<_> = result
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "profile",
        "api",
        "access_token",
        "refresh_token",
        "expires_at",
        "refresh_expires_at",
        "scope",
        "refreshed",
        "config_file",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    assert_eq!(result["profile"], "TOKEN");
    assert_eq!(result["api"], "v1");
    assert_eq!(result["access_token"], scene.value("user_access_token"));
    assert_eq!(result["refresh_token"], scene.value("refresh_token"));
    assert_eq!(
        result["expires_at"],
        scene.value("user_access_token_expires_at")
    );
    assert_eq!(
        result["refresh_expires_at"],
        scene.value("refresh_token_expires_at")
    );
    assert_eq!(result["refreshed"], true);
    let file = scene.file();
    assert_eq!(result["config_file"], file.to_str().unwrap());
}

#[test]
fn verbose_tells_the_exchange_and_quiet_nothing() {
    let scene = Scene::new();
    scene.server.fail_next(Fault::reply(503, ""));
    let run = scene.run(["-v"]);
    run.token();
    for word in [
        "POST http://127.0.0.1",
        "HTTP 503",
        "trying again",
        "HTTP 200",
        "log id sandbox-log-",
        " ms",
    ] {
        assert!(run.stderr.contains(word), "{word} is not in {}", run.stderr);
    }
    // A warning that a quiet run suppresses.
    let alter = |reply: &mut Value| reply["data"]["refresh_token"] = Value::Null;
    scene.server.fail_next(Fault::Alter(Box::new(alter)));
    assert_eq!(scene.run(["-q"]).stderr, "");
}

#[test]
fn given_twice_the_last_value_wins() {
    let scene = Scene::new();
    scene
        .run([
            "--timeout",
            "1",
            "--timeout",
            "20",
            "-c",
            "nowhere.ini",
            "-c",
            "feishu-config.ini",
        ])
        .token();
}

/// What `-h` says of a command, on a terminal of 80 columns.
fn help_of(scene: &Scene, command: &[&str]) -> String {
    let mut program = scene.program();
    let help = program.args(command).arg("-h").env("COLUMNS", "80");
    let help = Run::of(help.output().unwrap());
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    help.stdout
}

#[test]
fn help_fits_a_screen_and_shows_what_means_something_to_a_command() {
    let scene = Scene::without_file();
    for (command, shown, hidden) in [
        (&[][..], "--on-refresh", "--paste"),
        (&["login"], "--paste", "--refresh"),
        (&["status"], "--all", "--on-refresh"),
        (&["exec"], "--min-ttl", "--output"),
        (&["completions"], "--help", "--refresh"),
    ] {
        let help = help_of(&scene, command);
        assert!(
            help.lines().count() < 40,
            "{command:?}: {}",
            help.lines().count()
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
        assert!(help.contains(shown), "{command:?} without {shown}");
        assert!(
            !help.contains(&format!("{hidden} ")),
            "{command:?} with {hidden}"
        );
    }
}

#[test]
fn a_slip_of_the_finger_is_told_what_was_meant() {
    let scene = Scene::without_file();
    for (arguments, hint) in [
        (&["--min-tll", "10m"][..], "did you mean --min-ttl?"),
        (&["stauts"], "did you mean status?"),
        (&["login", "--past"], "did you mean --paste?"),
        (&["--configfile", "x"], "did you mean --config-file?"),
        (&["-o", "jsno"], "did you mean json?"),
        (&["status", "--json"], "did you mean -o json?"),
        (&["exec", "ls", "-l"], "feishu-refresh exec -- COMMAND"),
    ] {
        let run = scene.run(arguments);
        run.assert_failed(2, hint);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let scene = Scene::without_file();
    let help = Run::of(
        scene
            .program()
            .arg("--help")
            .env("FEISHU_REFRESH_TOKEN", "ur-hidden")
            .output()
            .unwrap(),
    );
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for word in [
        "--app-token",
        "--refresh",
        "FEISHU_APP_ACCESS_TOKEN",
        "Exit codes",
    ] {
        assert!(help.stdout.contains(word), "{word}");
    }
    assert!(!help.stdout.contains("ur-hidden"));
    let version = scene.run(["--version"]);
    assert_eq!(
        version.stdout,
        concat!("feishu-refresh ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn an_expired_app_token_is_a_configuration_error() {
    let scene = Scene::new();
    let before = scene.text();
    scene.server.advance(Duration::from_secs(7201));
    let run = scene.run::<&str>([]);
    run.assert_failed(3, "20014");
    assert!(run.stderr.contains("two hours"), "{}", run.stderr);
    assert_eq!(scene.text(), before);
    scene.assert_sound();
}
