//! What the server refuses: each code's exit code and hint, and what a refusal means if another program has put a newer
//! pair there.

use std::path::Path;
use std::thread;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Run, Scene, fingerprint, is_private, set_private};
use crate::sandbox::Fault;

const APIS: [&str; 5] = ["v1", "oidc", "v2", "v3", "115"];

/// Every documented code, an undocumented one, and the exit code of each. They are looked up whatever the api.
#[rustfmt::skip]
const CODES: &[(i64, i32)] = &[
    (20001, 3), (20002, 3), (20003, 4), (20004, 4), (20065, 4), (20007, 5), (20008, 4),
    (20009, 3), (20010, 4), (20013, 3), (20014, 3), (20021, 4), (20022, 4), (20023, 4),
    (20024, 3), (20025, 3), (20028, 3), (20026, 4), (20029, 3), (20071, 3), (20036, 3),
    (20037, 4), (20038, 4), (20042, 3), (20069, 3), (20046, 3), (20048, 3), (20049, 4),
    (20050, 5), (20063, 3), (20064, 4), (20066, 4), (20067, 3), (20068, 3), (20070, 3),
    (20072, 5), (20073, 4), (20074, 3), (21000, 4), (21001, 4), (10003, 3), (10012, 3),
    (10014, 3), (99_991_400, 5), (99_991_543, 3), (99_991_661, 3), (99_991_663, 3), (99_991_664, 3), (99_991_668, 3),
    (99_991_671, 3), (40_140_100, 3), (40_140_101, 3), (40_140_102, 3), (40_140_103, 3), (40_140_104, 3), (40_140_105, 3),
    (40_140_106, 3), (40_140_107, 3), (40_140_108, 3), (40_140_109, 3), (40_140_110, 3), (40_140_111, 3), (40_140_112, 3),
    (40_140_113, 3), (40_140_114, 3), (40_140_115, 3), (40_140_118, 3), (40_140_122, 3), (40_140_116, 4), (40_140_119, 4),
    (40_140_120, 4), (40_140_137, 4), (40_140_117, 5), (40_140_121, 5), (40_110_000, 5),
    (20027, 3), (20043, 3), (20080, 5), (1_000_004, 5), (1_000_005, 5), (99_991_662, 3), (99_991_672, 3), (99_991_679, 3),
    (99_991_677, 3), (40_100_000, 3), (40_101_017, 4), (40_140_123, 3), (40_140_124, 3), (40_140_125, 3), (40_140_126, 3),
    (40_140_127, 3), (40_140_128, 3), (40_140_129, 3), (40_140_130, 3), (40_140_131, 3), (40_140_132, 3), (40_140_133, 3),
    (40_140_134, 3), (40_140_135, 3), (40_140_136, 3), (4_999_999, 1),
];

/// How each system refuses.
fn refusal(api: &str, code: i64) -> Value {
    match api {
        "v2" | "v3" => {
            json!({ "code": code, "error": "invalid_grant", "error_description": "in its words" })
        }
        "115" => json!({ "state": false, "errno": code, "error": "in its words", "data": [] }),
        _ => json!({ "code": code, "msg": "in its words" }),
    }
}

#[test]
fn every_code_ends_in_its_exit_code_with_a_hint_in_both_languages() {
    // The login is reread for a while after each refusal: so side by side.
    thread::scope(|scope| {
        for api in APIS {
            for codes in CODES.chunks(CODES.len() / 4) {
                scope.spawn(|| assert_codes(api, codes));
            }
        }
    });
}

fn assert_codes(api: &str, codes: &[(i64, i32)]) {
    let scene = Scene::without_file();
    let app_token = scene.server.app_token();
    let section = scene.server.profile("TOKEN", api);
    // With only an app token, no other can be fetched if it is rejected.
    scene.write(match api {
        "v1" | "oidc" => format!(
            "{}app_access_token = {app_token}\n",
            section.replace("app_id", "unused")
        ),
        _ => section,
    });
    let before = scene.text();
    let mut requests = 0;
    for (code, exit_code) in codes {
        let [english, chinese] = ["en_US.UTF-8", "zh_CN.UTF-8"].map(|locale| {
            scene.server.fail_next(Fault::Reply {
                status: 200,
                headers: vec![("X-Tt-Logid", "2026112100".to_owned())],
                body: refusal(api, *code).to_string(),
            });
            let mut program = scene.program();
            program.args(["--retries", "0"]).env("LANG", locale);
            Run::of(program.output().unwrap())
        });
        let said = format!("in its words (code {code}, log id 2026112100)");
        let hint = |run: &Run| {
            run.assert_failed(*exit_code, &said);
            assert_eq!(run.stderr.lines().count(), 2);
            let second = run.stderr.lines().nth(1).unwrap();
            second.strip_prefix("hint: ").unwrap().to_owned()
        };
        let (english, chinese) = (hint(&english), hint(&chinese));
        // A token that is really refused is sent once.
        requests += 2;
        assert_eq!(scene.server.requests().len(), requests, "{api} {code}");
        assert!(english.is_ascii() && !chinese.is_ascii(), "{api} {code}");
    }
    assert_eq!(scene.text(), before);
    scene.assert_sound();
}

/// How a run is asked for a token.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Plain,
    All,
    Exec,
    MinTtl,
    /// With a `-r` whose successor is in the file.
    ConstantR,
}

const MODES: [Mode; 5] = [
    Mode::Plain,
    Mode::All,
    Mode::Exec,
    Mode::MinTtl,
    Mode::ConstantR,
];

impl Mode {
    fn arguments(self, constant: &str) -> Vec<&str> {
        match self {
            Mode::Plain => vec![],
            Mode::All => vec!["--all", "-o", "json"],
            Mode::Exec => vec![
                "exec",
                "--",
                "sh",
                "-c",
                "echo $FEISHU_USER_ACCESS_TOKEN$OPEN115_ACCESS_TOKEN",
            ],
            Mode::MinTtl => vec!["--min-ttl", "10m"],
            Mode::ConstantR => vec!["-r", constant],
        }
    }

    /// The token that a run printed.
    fn token(self, run: &Run) -> String {
        let text = run.token();
        match self {
            Mode::All => {
                let result: Value = serde_json::from_str(text).unwrap();
                result["access_token"].as_str().unwrap().to_owned()
            }
            _ => text.to_owned(),
        }
    }
}

/// Saves as editors do, in place or by a new file.
fn write_as_another_program(file: &Path, text: &str, by_rename: bool) {
    if !by_rename {
        return std::fs::write(file, text).unwrap();
    }
    let other = file.with_extension("theirs");
    std::fs::write(&other, text).unwrap();
    set_private(&other);
    std::fs::rename(other, file).unwrap();
}

/// A server refuses a token that another program has replaced meanwhile: the run continues with the new one. It prints
/// the access token that came with it if that is valid, otherwise it refreshes.
#[test]
fn a_refusal_counts_only_after_another_look() {
    thread::scope(|scope| {
        for api in APIS {
            scope.spawn(move || {
                for mode in MODES {
                    assert_goes_on(api, mode);
                }
            });
        }
    });
}

fn assert_goes_on(api: &str, mode: Mode) {
    let scene = Scene::without_file();
    let app_token = scene.server.app_token();
    let constant = scene.server.refresh_token_for(api);
    let refused = CODES.iter().filter(|(_, exit_code)| *exit_code != 5);
    for (index, (code, _)) in refused.enumerate() {
        for by_rename in [false, true] {
            let name = format!("{api} {mode:?} {code} {by_rename}");
            let section = scene
                .server
                .profile("TOKEN", api)
                .replace("app_secret", "unused");
            let section = match api {
                // A rejected one, if no other can be fetched.
                "v1" | "oidc" => format!("{section}app_access_token = {app_token}\n"),
                _ => section.replace("unused", "app_secret"),
            };
            let section = format!(
                "{section}refresh_token_spent = {}\n",
                fingerprint(&constant)
            );
            scene.write(&section);
            let old = scene.value("refresh_token");
            let new = scene.server.refresh_token_for(api);
            let is_fresh = index % 2 == 0;
            let mut newer = section.replace(&old, &new);
            if is_fresh {
                let access = if api == "115" {
                    "access_token"
                } else {
                    "user_access_token"
                };
                let end = Timestamp::now() + SignedDuration::from_mins(30);
                newer.push_str(&format!("{access} = theirs\n{access}_expires_at = {end}\n"));
            }
            let file = scene.file();
            let refusal = Fault::reply(200, refusal(api, *code).to_string());
            scene.server.fail_next(Fault::Meanwhile(
                Box::new(move || write_as_another_program(&file, &newer, by_rename)),
                Box::new(refusal),
            ));
            let before = (scene.server.requests().len(), scene.server.rotations());
            let run = scene.run(mode.arguments(&constant));
            assert_eq!(run.code, 0, "{name}: {}", run.stderr);
            let token = mode.token(&run);
            let refreshes = usize::from(!is_fresh);
            assert_eq!(token == "theirs", is_fresh, "{name}");
            assert!(is_fresh || scene.server.gave(&token), "{name}");
            assert_eq!(
                scene.server.requests().len(),
                before.0 + 1 + refreshes,
                "{name}"
            );
            assert_eq!(scene.server.rotations(), before.1 + refreshes, "{name}");
            scene.assert_sound();
        }
    }
}

/// A program that is writing when the refusal comes is waited for.
#[test]
fn a_refusal_waits_for_a_writer_that_is_just_at_it() {
    let scene = Scene::new();
    let old = scene.value("refresh_token");
    let newer = scene.text().replace(&old, &scene.server.refresh_token());
    let file = scene.file();
    let write = move || {
        // As Python does: emptied first.
        std::fs::write(&file, "").unwrap();
        thread::spawn(move || {
            thread::sleep(std::time::Duration::from_millis(100));
            std::fs::write(&file, newer).unwrap();
        });
    };
    let refusal = Box::new(Fault::code(20064));
    scene
        .server
        .fail_next(Fault::Meanwhile(Box::new(write), refusal));
    let run = scene.run::<&str>([]);
    assert!(scene.server.gave(run.token()));
    assert_eq!(scene.server.requests().len(), 2);
    scene.assert_sound();
}

/// A refused new `-r` never yields another login's token.
#[test]
fn a_refused_new_refresh_token_is_not_answered_with_anothers() {
    let scene = Scene::new();
    let end = Timestamp::now() + SignedDuration::from_mins(30);
    let access = format!("user_access_token = theirs\nuser_access_token_expires_at = {end}\n");
    let newer = scene
        .text()
        .replace(&scene.value("refresh_token"), &scene.server.refresh_token())
        + &access;
    let file = scene.file();
    scene.server.fail_next(Fault::Meanwhile(
        Box::new(move || write_as_another_program(&file, &newer, true)),
        Box::new(Fault::code(20026)),
    ));
    let flags = scene.flags();
    let run = scene.run(&flags);
    run.assert_failed(4, "(code 20026");
    assert!(
        run.stderr.contains("the refusal changed no saved token"),
        "{}",
        run.stderr
    );
    assert_eq!(scene.server.requests().len(), 1);
    assert_eq!(scene.value("user_access_token"), "theirs");
    scene.assert_sound();
}

/// A gateway may have its own success value and names: the pair is saved, or the reply kept.
#[test]
fn a_pair_is_not_lost_for_what_a_gateway_makes_of_the_reply() {
    for api in APIS {
        let wrapped = |code: i64| {
            move |reply: &mut Value| {
                reply["code"] = json!(code);
                reply["errno"] = json!(code);
            }
        };
        let nested = |reply: &mut Value| {
            let pair = reply["data"].clone();
            let pair = if pair.is_object() {
                pair
            } else {
                reply.clone()
            };
            *reply =
                json!({ "code": 0, "state": 1, "access_token": "u-1", "result": { "pair": pair } });
        };
        let faults = [
            Fault::Alter(Box::new(wrapped(200))),
            Fault::Alter(Box::new(wrapped(1))),
            Fault::Alter(Box::new(nested)),
        ];
        let scene = || {
            let scene = Scene::without_file();
            scene.write(scene.server.profile("TOKEN", api));
            if matches!(api, "v1" | "oidc") {
                // The refresh itself gets the fault.
                let passed = Fault::Delay(std::time::Duration::ZERO);
                scene.server.fail_next(passed);
            }
            scene
        };
        for fault in faults {
            let scene = scene();
            scene.server.fail_next(fault);
            let run = scene.run::<&str>([]);
            assert!([0, 1].contains(&run.code), "{api}: {}", run.stderr);
            assert_eq!(scene.server.rotations(), 1);
            scene.assert_sound();
        }
        // One with another name is kept, and the rest saved.
        let kept_in = scene();
        let body = json!({ "code": 0, "state": 1, "access_token": "u-1", "refreshToken": "next-1",
            "data": { "access_token": "u-1", "refreshToken": "next-1" } });
        let fault = || Fault::reply(200, body.to_string());
        kept_in.server.fail_next(fault());
        let run = kept_in.run::<&str>([]);
        run.assert_failed(1, "its refresh token is not named as documented");
        let mut names = kept_in.file_names().into_iter();
        let kept = names.find(|name| name.contains(".reply-")).unwrap();
        assert!(run.stderr.contains(&kept), "{}", run.stderr);
        assert!(kept_in.text().contains("access_token = u-1"));
        // If neither it nor the file can be written, it is printed.
        let scene = scene();
        scene.server.fail_next(fault());
        let mut program = scene.program();
        program.env(
            "FEISHU_REFRESH_FAIL",
            "before-keep=errors,before-rename=errors",
        );
        let run = Run::of(program.output().unwrap());
        run.assert_failed(6, "could not be stored anywhere");
        assert!(
            run.stderr.contains(r#""refreshToken":"next-1""#),
            "{}",
            run.stderr
        );
    }
}

/// The content under a kept reply's name is checked: a run may have died while writing it.
#[test]
fn a_reply_that_was_only_begun_to_be_kept_is_kept_anew() {
    let body = "access_token=u-1&refresh_token=ur-next";
    let kept_in = |scene: &Scene| {
        scene.server.fail_next(Fault::reply(200, body));
        scene
            .run::<&str>([])
            .assert_failed(1, "the reply is kept in");
        let names = scene.file_names().into_iter();
        let name = names
            .filter(|name| name.contains(".reply-"))
            .min_by_key(String::len);
        scene.folder().join(name.unwrap())
    };
    let path = kept_in(&Scene::new());
    let name = path.file_name().unwrap();
    let begun: [fn(&Path); 4] = [
        |path| std::fs::write(path, "").unwrap(),
        |path| std::fs::write(path, "access_tok").unwrap(),
        |path| std::fs::create_dir(path).unwrap(),
        |path| std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(),
    ];
    for begin in begun {
        let scene = Scene::new();
        begin(&scene.folder().join(name));
        let path = kept_in(&scene);
        assert_eq!(path.file_name().unwrap(), name);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), body);
        assert!(is_private(&path));
    }
}

/// Continuing with another program's pair does not hide where a reply was kept.
#[test]
fn a_kept_reply_is_named_though_the_run_goes_on() {
    let scene = Scene::new();
    let newer = scene
        .text()
        .replace(&scene.value("refresh_token"), &scene.server.refresh_token());
    let file = scene.file();
    scene.server.fail_next(Fault::Meanwhile(
        Box::new(move || write_as_another_program(&file, &newer, true)),
        Box::new(Fault::reply(200, "refresh_token=ur-1")),
    ));
    let run = scene.run::<&str>([]);
    assert!(scene.server.gave(run.token()));
    let kept = scene
        .file_names()
        .into_iter()
        .find(|name| name.contains(".reply-"))
        .unwrap();
    assert!(run.stderr.contains(&kept), "{}", run.stderr);
}
