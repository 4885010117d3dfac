//! What other programs, kills and stops do to a file and its journal, and that the next run fixes it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    HeldRun, PROGRAM, Run, Scene, command, is_root, send_signal, set_private, tokens_in_journal,
    value_in,
};
use crate::profiles::{self, dead, journaled_profiles};
use crate::sandbox::Fault;

/// The program, with a state folder.
fn with_state(scene: &Scene, state: &TempDir) -> Command {
    let mut program = scene.program();
    program.env("XDG_STATE_HOME", state.path());
    program
}

fn run_with_state(scene: &Scene, state: &TempDir, arguments: &[&str]) -> Run {
    Run::of(with_state(scene, state).args(arguments).output().unwrap())
}

/// Runs the program under strace; without strace, returns none and says so.
fn injected(program: &Command, injection: &str) -> Option<Output> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    strace.arg(format!("inject={injection}"));
    strace.arg(program.get_program()).args(program.get_args());
    strace.current_dir(program.get_current_dir().unwrap());
    strace
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    for (name, value) in program.get_envs() {
        strace.envs(value.map(|value| (name, value)));
    }
    let output = strace.output();
    if output.is_err() {
        eprintln!("skipped: strace is not installed");
    }
    output.ok()
}

#[test]
fn an_old_copy_that_is_written_back_amid_a_run_costs_no_login() {
    for after in [2, 5, 8, 11] {
        let (scene, state) = (profiles::scene(12), tempfile::tempdir().unwrap());
        let old = scene.text();
        let mut program = with_state(&scene, &state);
        let run = program
            .args(["--all", "--rate", "10"])
            .stderr(Stdio::piped());
        let child = run.stdout(Stdio::piped()).spawn().unwrap();
        // Between two saves: what is written during one can be lost.
        while scene.text().matches("user_access_token =").count() < after {
            thread::yield_now();
        }
        scene.write(old + "; theirs\n");
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.code, 0, "{after}: {}", run.stderr);
        let run = run_with_state(&scene, &state, &["--all", "--rate", "0"]);
        assert_eq!(run.code, 0, "{after}: {}", run.stderr);
        assert!(scene.text().ends_with("; theirs\n"));
        profiles::assert_sound(&scene);
    }
}

#[test]
fn an_old_copy_that_is_written_back_after_a_run_is_healed_by_the_next() {
    // One login, and copies of one and of ten rotations ago.
    for rotations in [1, 10] {
        let (scene, state) = (Scene::new(), tempfile::tempdir().unwrap());
        let old = scene.text();
        for _ in 0..rotations {
            run_with_state(&scene, &state, &[]).token();
        }
        scene.write(old + "; theirs\n");
        let run = run_with_state(&scene, &state, &[]);
        run.token();
        assert!(
            run.stderr.contains("the latest are restored"),
            "{}",
            run.stderr
        );
        assert!(scene.text().ends_with("; theirs\n"));
        scene.assert_sound();
    }
    // Many; and in a file that is written in place.
    for in_place in [false, true] {
        let (scene, state) = (profiles::scene(12), tempfile::tempdir().unwrap());
        let other = scene.folder().join("other.ini");
        if in_place {
            fs::hard_link(scene.file(), &other).unwrap();
        }
        let old = scene.text();
        for _ in 0..10 {
            assert_eq!(
                run_with_state(&scene, &state, &["--all", "--rate", "0"]).code,
                0
            );
        }
        scene.write(old + "; theirs\n");
        let run = run_with_state(&scene, &state, &["-p", "p3"]);
        run.token();
        fs::remove_file(other).ok();
        assert!(scene.text().ends_with("; theirs\n"));
        profiles::assert_sound(&scene);
    }
}

/// A remembered pair never restores what a person removed, and never replaces what is newer.
#[test]
fn a_remembered_pair_fills_no_file_and_replaces_no_other_login() {
    let (scene, state) = (Scene::new(), tempfile::tempdir().unwrap());
    run_with_state(&scene, &state, &[]).token();
    let whole = scene.text();
    let token = scene.value("refresh_token");
    scene.write(whole.replace(&token, ""));
    assert_eq!(run_with_state(&scene, &state, &[]).code, 3);
    assert_eq!(scene.text(), whole.replace(&token, ""));
    let other = scene.server.refresh_token();
    scene.write(whole.replace(&token, &other));
    run_with_state(&scene, &state, &[]).token();
    assert!(!scene.server.is_live(&other) && scene.server.is_live(&token));
    // Nor does a journal in the state folder, left for a path where another file is now.
    let name = scene
        .folder()
        .join("feishu-config.ini")
        .canonicalize()
        .unwrap();
    let mut failing = with_state(&scene, &state);
    failing.env("FEISHU_REFRESH_FAIL", "after-record=abort");
    failing.output().unwrap();
    let folder = state.path().join("feishu-refresh");
    let done = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::rename(scene.journal(), done.with_extension("journal")).unwrap();
    fs::write(&name, "[TOKEN]\nuser_access_token =\nrefresh_token =\n").unwrap();
    let before = scene.text();
    assert_eq!(run_with_state(&scene, &state, &[]).code, 3);
    assert_eq!(scene.text(), before);
}

/// Whatever happens to the file during the request: the pair is in the journal at once.
#[test]
fn a_kill_right_after_the_reply_loses_nothing_whatever_became_of_the_file() {
    type Change = fn(&Scene);
    let changes: [(&str, Change); 6] = [
        ("nothing", |_| {}),
        ("touched", |scene| scene.write(scene.text())),
        ("broken", |scene| scene.write("[TOKEN]\nhalf a li")),
        ("deleted", |scene| fs::remove_file(scene.file()).unwrap()),
        ("robbed", |scene| {
            scene.write(scene.text().replace(&scene.value("refresh_token"), ""));
        }),
        ("dated into the future", |scene| {
            let file = fs::File::options().write(true).open(scene.file()).unwrap();
            let later = SystemTime::now() + Duration::from_secs(1 << 30);
            file.set_modified(later).unwrap();
        }),
    ];
    for (name, change) in changes {
        let scene = Scene::new();
        let whole = scene.text();
        let mut held = HeldRun::start(&scene, Fault::Hold);
        scene.server.wait_until_held();
        change(&scene);
        scene.server.release();
        let is_kept = || {
            let text = fs::read_to_string(scene.file()).unwrap_or_default();
            let in_file = text.contains("user_access_token = u-");
            in_file || scene.journaled().is_some()
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_kept() {
            assert!(Instant::now() < deadline, "{name}: the pair is nowhere");
            thread::yield_now();
        }
        held.child.kill().unwrap();
        held.finish();
        if !fs::read_to_string(scene.file()).is_ok_and(|text| text.contains("u-sandbox")) {
            // The other program ends its writing: what it had read before.
            scene.write(whole);
        }
        scene.run::<&str>([]).token();
        assert_eq!(scene.server.spent_seen(), 0, "{name}");
        scene.assert_sound();
    }
}

/// A server that does not rotate must not lead to losing a file that is written in place.
#[test]
fn a_kill_at_each_sync_tears_no_file_where_the_server_gives_no_new_token() {
    let no_token: fn(&mut Value) = |reply| reply["data"]["refresh_token"] = Value::Null;
    for gives_same in [false, true] {
        for nth in 1..=6 {
            let scene = Scene::new();
            let other = scene.folder().join("other.ini");
            fs::hard_link(scene.file(), &other).unwrap();
            let token = scene.value("refresh_token");
            let same = token.clone();
            scene.server.fail_next(if gives_same {
                Fault::Alter(Box::new(move |reply| {
                    reply["data"]["refresh_token"] = json!(same);
                }))
            } else {
                Fault::Alter(Box::new(no_token))
            });
            let Some(output) = injected(&scene.program(), &format!("fsync:signal=KILL:when={nth}"))
            else {
                return;
            };
            // Such a file has five.
            assert_eq!(output.status.signal() == Some(9), nth <= 5, "{nth}");
            let run = scene.run(["--retries", "0"]);
            let context = format!("{gives_same}, {nth}: {}", run.stderr);
            // The stand-in rotates anyway: the token sent then is spent.
            assert_eq!(run.code, 4, "{context}");
            assert!(
                !run.stderr.contains("no journal with its whole text"),
                "{context}"
            );
            assert!(
                scene.server.gave(&scene.value("user_access_token")),
                "{context}"
            );
            assert_eq!(scene.value("refresh_token"), token, "{context}");
            fs::remove_file(other).unwrap();
            assert_eq!(scene.file_names(), ["feishu-config.ini"], "{context}");
        }
    }
}

/// A second kill, at any call of the repairing run, and a limit that prevents the repair.
#[test]
fn a_repair_that_is_killed_or_cannot_be_is_made_by_the_run_after() {
    let kill = |call: &str, nth| format!("{call}:signal=KILL:when={nth}");
    let second =
        |nth: usize| ["pwrite64", "fsync", "ftruncate", "unlink"].map(|call| kill(call, nth));
    let seconds: Vec<String> = (1..=6).flat_map(second).collect();
    for first in 1..=5 {
        // Each combination somewhere, not all everywhere: tests/sweep.py has them all.
        for (index, second) in seconds.iter().enumerate() {
            if index % 5 != first - 1 {
                continue;
            }
            let scene = profiles::scene(4);
            let other = scene.folder().join("other.ini");
            fs::hard_link(scene.file(), &other).unwrap();
            let mut program = scene.program();
            program.args(["--all", "--rate", "0", "-q"]);
            if injected(&program, &kill("fsync", first)).is_none() {
                return;
            }
            let kept = journaled_profiles(&scene);
            assert!(!kept.is_empty());
            let mut next = scene.program();
            next.args(["-p", "p0"]);
            if index % 2 == 0 {
                injected(&next, second);
            } else {
                let mut shell = Command::new("sh");
                shell.current_dir(scene.folder()).env_clear();
                shell.args(["-c", "ulimit -f 4; exec \"$0\" -p p0"]);
                shell.arg(PROGRAM);
                let run = Run::of(shell.output().unwrap());
                assert!([3, 5].contains(&run.code), "{}", run.stderr);
            }
            let run = scene.run(["--all", "--rate", "0"]);
            let lost = dead(&scene);
            let context = format!("{first}, {second}: {lost:?} of {kept:?}: {}", run.stderr);
            assert!(!scene.text().contains('\0'), "{context}");
            // p0 may have been sent once more, and its reply not read.
            let is_lost = |name: &String| kept.contains(name) && name != "p0";
            assert!(!lost.iter().any(is_lost), "{context}");
            fs::remove_file(other).unwrap();
        }
    }
}

/// Root, whose folder is read-only, whose file is mounted and another's, without a home.
#[test]
fn a_journal_in_the_temporary_folder_is_put_back() {
    if !is_root() {
        return;
    }
    for how in ["signal=KILL", "error=EIO"] {
        for (call, nth) in [("pwrite64", 4), ("pwrite64", 5), ("fsync", 1), ("fsync", 3)] {
            let scene = Scene::new();
            let temporary = tempfile::tempdir().unwrap();
            fs::set_permissions(temporary.path(), Permissions::from_mode(0o1777)).unwrap();
            let source = temporary.path().join("source.ini");
            fs::copy(scene.file(), &source).unwrap();
            chown(&source, Some(1000), Some(1000)).unwrap();
            let run = |inject: &str| {
                let mounts = "mount --bind . . && mount --bind $TMPDIR/source.ini feishu-config.ini && mount -o remount,ro,bind $PWD/../$(basename $PWD) 2>/dev/null; mount -o remount,ro,bind . && cd . && cd $PWD";
                let script =
                    format!("{mounts}; exec {inject} \"$0\" -c $PWD/feishu-config.ini --retries 0");
                let mut unshare = Command::new("unshare");
                unshare.args(["-m", "sh", "-c", &script]);
                unshare.arg(PROGRAM);
                unshare
                    .current_dir(scene.folder())
                    .env("TMPDIR", temporary.path());
                unshare
                    .env("HOME", "/dev/null")
                    .env_remove("XDG_STATE_HOME");
                Run::of(unshare.output().unwrap())
            };
            let first = run(&format!(
                "strace -f -qq -o /dev/null -e inject={call}:{how}:when={nth}"
            ));
            if first.stderr.contains("unshare failed") || first.stderr.contains("not found") {
                eprintln!("skipped: {}", first.stderr);
                return;
            }
            let context = format!("{call} {nth} {how}: {}", first.stderr);
            assert_ne!(first.code, 0, "{context}");
            let second = run("");
            assert_eq!(second.code, 0, "{context}: {}", second.stderr);
            let text = fs::read_to_string(&source).unwrap();
            assert!(
                scene.server.is_live(&value_in(&text, "refresh_token")),
                "{context}"
            );
            assert_eq!(scene.server.spent_seen(), 0, "{context}");
            let left = fs::read_dir(temporary.path()).unwrap().count();
            assert_eq!(left, 1, "{context}");
        }
    }
}

/// Where the file system shows every file as 0755, as vfat and some of Windows' do, the journal is trusted by its
/// owner.
#[test]
fn a_journal_is_believed_where_no_file_can_be_private() {
    let scene = Scene::new();
    let shim = scene.folder().join("shim.so");
    let source = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <sys/stat.h>
        typedef int (*call)(int, const char *, int, unsigned, struct statx *);
        int statx(int dir, const char *path, int flags, unsigned mask, struct statx *found) {
            int done = ((call)dlsym(RTLD_NEXT, "statx"))(dir, path, flags, mask, found);
            if (done == 0) found->stx_mode |= 0755;
            return done;
        }"#;
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-x", "c", "-", "-o"])
        .arg(&shim)
        .arg("-ldl");
    let Ok(mut compiler) = compiler.stdin(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no C compiler");
        return;
    };
    std::io::Write::write_all(compiler.stdin.as_mut().unwrap(), source.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
    let program = |points: &str| {
        let mut program = scene.program();
        program
            .env("LD_PRELOAD", &shim)
            .env("FEISHU_REFRESH_FAIL", points);
        Run::of(program.output().unwrap())
    };
    program("after-record=abort");
    assert!(scene.journaled().is_some());
    let run = program("");
    run.token();
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    fs::remove_file(&shim).unwrap();
    scene.assert_sound();
}

/// Stops a run during its request for longer than its time-out, while the reply arrives.
fn stopped(scene: &Scene, program: &mut Command) -> Run {
    let held = HeldRun::spawn(program.args(["--timeout", "1", "-v"]));
    scene.server.wait_until_held();
    send_signal(&held.child, "STOP");
    scene.server.release();
    // Nothing reports a time-out of a stopped program.
    thread::sleep(Duration::from_millis(1500));
    send_signal(&held.child, "CONT");
    held.finish()
}

#[test]
fn a_reply_that_arrived_while_the_program_was_stopped_is_saved() {
    for retries in ["0", "3"] {
        for command in ["one", "all", "app token"] {
            let scene = if command == "one" {
                Scene::new()
            } else {
                profiles::scene(1)
            };
            if command == "all" {
                // The app token is available.
                let app_token = format!("app_access_token = {}\n", scene.server.app_token());
                scene.write(scene.text() + &app_token);
            }
            scene.server.fail_next(Fault::Hold);
            let mut program = scene.program();
            program.args(["--retries", retries]);
            if command != "one" {
                program.arg("--all");
            }
            let run = stopped(&scene, &mut program);
            assert_eq!(run.code, 0, "{command}, {retries}: {}", run.stderr);
            let asked = scene.server.requests().len();
            assert_eq!(
                asked,
                if command == "app token" { 2 } else { 1 },
                "{command}"
            );
            assert_eq!(scene.server.rotations(), 1);
            scene.assert_sound();
        }
    }
}

#[test]
fn no_core_dump_shows_a_secret() {
    let scene = Scene::new();
    let dumps = |command: &mut Command, end: &mut dyn FnMut(u32)| {
        let child = command.spawn().unwrap();
        end(child.id());
        let status = child.wait_with_output().unwrap().status;
        (status.core_dumped(), status.signal())
    };
    let shell = |line: &str| {
        let mut shell = command("sh");
        shell.current_dir(scene.folder()).env_clear();
        shell.args(["-c", &format!("ulimit -c unlimited; exec {line}")]);
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        shell
    };
    let kill = |id: u32| {
        let quit = Command::new("kill")
            .args(["-QUIT", &id.to_string()])
            .status();
        assert!(quit.unwrap().success());
    };
    let wait_for = |name: &str, id: u32| {
        let path = format!("/proc/{id}/comm");
        while !fs::read_to_string(&path).unwrap().starts_with(name) {
            thread::yield_now();
        }
    };
    let (dumped, _) = dumps(&mut shell("sleep 9"), &mut |id| {
        wait_for("sleep", id);
        kill(id);
    });
    if !dumped {
        eprintln!("skipped: no program's core is dumped here");
        return;
    }
    scene.server.fail_next(Fault::Hold);
    let program = PROGRAM.to_owned();
    let ended = dumps(&mut shell(&program), &mut |id| {
        scene.server.wait_until_held();
        kill(id);
        scene.server.release();
    });
    assert_eq!(ended, (false, Some(3)));
    // A command that replaces it may have one.
    let (dumped, _) = dumps(
        &mut shell(&format!("{program} exec -- sleep 9")),
        &mut |id| {
            wait_for("sleep", id);
            kill(id);
        },
    );
    assert!(dumped);
    for core in scene
        .file_names()
        .iter()
        .filter(|name| name.starts_with("core"))
    {
        fs::remove_file(scene.folder().join(core)).unwrap();
    }
    scene.assert_sound();
}

/// A user at the thread limit gets an error, and keeps the token.
#[test]
fn a_thread_that_cannot_be_had_costs_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let program = scene.folder().join("program");
    fs::copy(PROGRAM, &program).unwrap();
    fs::set_permissions(scene.folder(), Permissions::from_mode(0o777)).unwrap();
    chown(scene.file(), Some(54322), None).unwrap();
    let run = |arguments: &str| {
        let script = format!("ulimit -u 1; exec ./program --retries 0 {arguments}");
        let mut shell = Command::new("setpriv");
        shell.args(["--reuid", "54322", "--clear-groups", "bash", "-c", &script]);
        shell
            .current_dir(scene.folder())
            .env_remove("HOME")
            .env_remove("XDG_STATE_HOME");
        Run::of(shell.output().unwrap())
    };
    run("--all").assert_failed(5, "cannot start a thread");
    assert!(scene.server.requests().is_empty());
    let name = scene
        .server
        .base_url()
        .replace("127.0.0.1", "localhost.invalid");
    run(&format!("--base-url {}", name.replace("http:", "https:")))
        .assert_failed(5, "cannot connect");
    // A single one needs none.
    run("").token();
    fs::remove_file(program).unwrap();
    scene.assert_sound();
}

#[test]
fn a_refresh_token_with_odd_characters_is_kept_and_named() {
    let scene = Scene::new();
    let before = scene.value("refresh_token");
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["data"]["refresh_token"] = json!("odd\u{7}\r\ntoken");
    })));
    let run = scene.run::<&str>([]);
    run.assert_failed(1, "cannot be saved as one");
    let kept = run.stderr.split("the reply is kept in ").nth(1).unwrap();
    let kept = Path::new(kept.split_whitespace().next().unwrap());
    assert!(
        fs::read_to_string(kept)
            .unwrap()
            .contains("odd\\u0007\\r\\ntoken")
    );
    // What else the reply had is saved.
    assert!(scene.server.gave(&scene.value("user_access_token")));
    assert_eq!(scene.value("refresh_token"), before);
    fs::remove_file(kept).unwrap();
    assert_eq!(scene.file_names(), ["feishu-config.ini"]);
}

#[test]
fn a_valid_token_carries_a_command_through_an_outage() {
    let scene = Scene::new();
    let token = scene.run::<&str>([]).token().to_owned();
    scene.let_it_end_in(60);
    let outage = |arguments: &[&str]| {
        scene.server.fail_next(Fault::reply(429, "busy"));
        scene.run([arguments, &["--retries", "0"]].concat())
    };
    let run = scene.run([
        "exec",
        "--timeout",
        "0.1",
        "--base-url",
        "http://127.0.0.1:9",
        "--retries",
        "0",
        "--",
        "sh",
        "-c",
        "echo $FEISHU_USER_ACCESS_TOKEN",
    ]);
    assert_eq!(run.token(), token);
    assert!(
        run.stderr.contains("is still valid and is used"),
        "{}",
        run.stderr
    );
    // The main job only if a token that is valid for a while would do.
    assert_eq!(outage(&["--min-ttl", "10m"]).token(), token);
    outage(&[]).assert_failed(5, "too many requests");
    let run = outage(&["--all", "--min-ttl", "10m", "-o", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("\"refreshed\":false"));
    // Also where another run holds the file for longer than this one waits.
    let held = HeldRun::start(&scene, Fault::Hold);
    for arguments in [&[][..], &["--all"]] {
        let patience = ["--lock-timeout", "0.1", "--min-ttl", "10m"];
        let run = scene.run([arguments, &patience].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("still valid"), "{}", run.stderr);
    }
    held.let_go(&scene).token();
    // Not an expired one, and not if the token may have been spent.
    scene.let_it_end_in(-1);
    outage(&["--min-ttl", "10m"]).assert_failed(5, "too many requests");
    scene.let_it_end_in(60);
    scene.server.fail_next(Fault::CloseAfterSpending);
    scene
        .run(["--retries", "0", "--min-ttl", "10m"])
        .assert_failed(5, "may have been lost");
}

#[test]
fn a_command_does_not_get_what_renews_the_login() {
    let scene = Scene::new();
    let mut program = scene.program();
    program.env("FEISHU_REFRESH_TOKEN", scene.server.refresh_token());
    program.env("FEISHU_BASE_URL", scene.server.base_url());
    program.args([
        "exec",
        "--",
        "sh",
        "-c",
        "echo ${FEISHU_REFRESH_TOKEN-none}",
    ]);
    assert_eq!(Run::of(program.output().unwrap()).token(), "none");
}

#[test]
fn several_tokens_from_outside_go_on_working() {
    let scene = Scene::new();
    let base = scene.server.base_url();
    let by_hand = scene.value("refresh_token");
    let with = |token: &str| {
        scene.run([
            "-r",
            token,
            "-a",
            &scene.server.app_token(),
            "--base-url",
            &base,
        ])
    };
    // By hand, and by a flag that equals what the file now holds.
    scene.run::<&str>([]).token();
    let second = scene.value("refresh_token");
    with(&second).token();
    for _ in 0..12 {
        with(&by_hand).token();
        with(&second).token();
        scene.run::<&str>([]).token();
    }
    assert_eq!(scene.server.spent_seen(), 0);
    let token = scene.server.refresh_token();
    let listed = scene.value("refresh_token_spent");
    assert!(listed.split(' ').count() <= 8);
    // A really new one replaces it, and restarts the list.
    with(&token).token();
    assert_eq!(scene.value("refresh_token_spent").split(' ').count(), 2);
    with(&token).token();
    assert_eq!(scene.server.spent_seen(), 0);
    scene.assert_sound();
}

#[test]
fn a_token_that_another_section_has_spent_is_not_sent() {
    let scene = Scene::new();
    let copy = scene
        .text()
        .replace("[TOKEN]", "[COPY]")
        .replace("; A demo", "; A copy");
    scene.write(scene.text() + &copy);
    scene.run::<&str>([]).token();
    for arguments in [&["-p", "COPY"][..], &["--all"]] {
        scene
            .run(arguments)
            .assert_failed(3, "has the refresh token of [TOKEN]");
    }
    assert_eq!(scene.server.spent_seen(), 0);
}

/// By its name and by a second one: only the lock keeps such runs apart, and it does.
#[test]
fn two_names_of_one_file_share_one_lock() {
    let scene = Scene::new();
    fs::hard_link(scene.file(), scene.folder().join("other.ini")).unwrap();
    let held = HeldRun::start(&scene, Fault::Hold);
    scene
        .run(["-c", "other.ini", "--lock-timeout", "0.1"])
        .assert_failed(5, "another run");
    let token = held.let_go(&scene).token().to_owned();
    let other = fs::read_to_string(scene.folder().join("other.ini")).unwrap();
    assert!(other.contains(&token));
    set_private(&scene.file());
}

/// The memory of a file.
fn memory(state: &TempDir) -> PathBuf {
    let folder = fs::read_dir(state.path().join("feishu-refresh")).unwrap();
    let mut paths = folder.map(|entry| entry.unwrap().path());
    paths
        .find(|path| path.extension().is_some_and(|end| end == "done"))
        .unwrap()
}

/// A constant `-r`, after the file was removed, or an old copy of it brought back.
#[test]
fn a_token_that_the_memory_knows_as_spent_is_not_sent() {
    for is_empty in [true, false] {
        let (scene, state) = (Scene::new(), tempfile::tempdir().unwrap());
        let old = scene.text();
        let token = scene.server.refresh_token();
        let (app_token, base) = (scene.server.app_token(), scene.server.base_url());
        let arguments = ["-r", &token, "-a", &app_token, "--base-url", &base];
        run_with_state(&scene, &state, &arguments).token();
        let given = old.replace(&value_in(&old, "refresh_token"), "");
        scene.write(if is_empty { given } else { old.clone() });
        let before = scene.text();
        let run = run_with_state(&scene, &state, &arguments);
        run.assert_failed(3, "was spent before");
        assert!(run.stderr.contains(memory(&state).to_str().unwrap()));
        assert_eq!((scene.text(), scene.server.spent_seen()), (before, 0));
        // For another profile it is no better.
        run_with_state(&scene, &state, &[&arguments[..], &["-p", "OTHER"]].concat())
            .assert_failed(3, "was spent before");
        // The message's advice helps, and keeps helping.
        let memory = fs::read_to_string(memory(&state)).unwrap();
        let successor = tokens_in_journal(&memory).pop().unwrap();
        let line = run.stderr.split("with ").nth(1).unwrap();
        let line = line.split(';').next().unwrap();
        let mended = format!("refresh_token = {successor}\n{line}");
        let old_line = if is_empty {
            "refresh_token = ".to_owned()
        } else {
            format!("refresh_token = {}", value_in(&old, "refresh_token"))
        };
        scene.write(scene.text().replace(&old_line, &mended));
        for _ in 0..2 {
            run_with_state(&scene, &state, &arguments).token();
        }
        assert_eq!(scene.server.spent_seen(), 0);
    }
}

#[test]
fn tokens_are_remembered_in_no_file_that_others_could_have_planted() {
    for plant in ["link", "readable", "foreign", "folder"] {
        let (scene, state) = (Scene::new(), tempfile::tempdir().unwrap());
        run_with_state(&scene, &state, &[]).token();
        let path = memory(&state);
        let folder = path.parent().unwrap();
        let target = scene.folder().join("target");
        let readable = Permissions::from_mode(0o644);
        match plant {
            "link" => {
                fs::write(&target, "").unwrap();
                fs::remove_file(&path).unwrap();
                symlink(&target, &path).unwrap();
            }
            "readable" => fs::set_permissions(&path, readable).unwrap(),
            _ if !is_root() => continue,
            "foreign" => chown(&path, Some(12345), None).unwrap(),
            _ => {
                fs::remove_file(&path).unwrap();
                chown(folder, Some(12345), None).unwrap();
            }
        }
        let before = fs::read(&path).unwrap_or_default();
        run_with_state(&scene, &state, &[]).token();
        let refresh_token = scene.value("refresh_token");
        assert!(scene.server.is_live(&refresh_token));
        let has_it = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.contains(&refresh_token)
        };
        assert!(!has_it(&target), "{plant}");
        let entries = fs::read_dir(folder).unwrap();
        for path in entries.map(|entry| entry.unwrap().path()) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let is_private = metadata.is_file() && metadata.mode() & 0o077 == 0;
            assert!(
                !has_it(&path) || is_private && metadata.uid() != 12345,
                "{plant}"
            );
        }
        assert_eq!(has_it(&path), plant != "folder", "{plant}");
        // What was there is not thrown away.
        let kept = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut kept = kept.map(|path| fs::read(path).unwrap_or_default());
        assert!(
            plant == "folder" || kept.any(|bytes| bytes == before),
            "{plant}"
        );
    }
}

/// Between two requests of a run, the memory also says which tokens are spent.
#[test]
fn an_old_copy_that_comes_back_between_two_requests_is_healed() {
    let (scene, state) = (Scene::new(), tempfile::tempdir().unwrap());
    let old = scene.text();
    run_with_state(&scene, &state, &[]).token();
    scene.server.fail_next(Fault::reply(503, "{}"));
    let mut run = HeldRun::until(with_state(&scene, &state).arg("-v"), "trying again in");
    scene.write(old + "; theirs\n");
    run.read_until("the latest are restored");
    run.finish().token();
    assert_eq!(scene.server.spent_seen(), 0);
    assert!(scene.text().ends_with("; theirs\n"));
    scene.assert_sound();
}

/// What is remembered about another login blocks nobody.
#[test]
fn a_broken_section_stops_no_other_though_it_is_remembered() {
    let (scene, state) = (profiles::scene(2), tempfile::tempdir().unwrap());
    run_with_state(&scene, &state, &["--all"]);
    let token = value_in(&profiles::section(&scene.text(), "p1"), "refresh_token");
    scene.write(scene.text().replace(&token, "%"));
    run_with_state(&scene, &state, &["-p", "p0"]).token();
    let run = run_with_state(&scene, &state, &["--all", "-o", "json"]);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stderr);
    assert_eq!(run.code, 3);
}
