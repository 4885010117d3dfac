//! What may interrupt a run between spending a token and saving its successor, and that this loses no pair.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs;
use std::hash::BuildHasher;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
#[cfg(unix)]
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
#[cfg(unix)]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use crate::harness::{
    ABORTED, HeldRun, KNOWS_HARD_LINKS, PROGRAM, Run, Scene, is_private, set_private, value_in,
};
#[cfg(unix)]
use crate::harness::{is_root, send_signal};
use crate::sandbox::Fault;

/// The fail points of a run that renames, and of one that writes in place.
const RENAMING: [&str; 12] = [
    "after-lock",
    "after-reserve",
    "after-send",
    "before-record",
    "after-record",
    "before-write",
    "after-write",
    "before-fsync",
    "after-fsync",
    "before-rename",
    "after-rename",
    "after-folder-fsync",
];
const IN_PLACE: [&str; 10] = [
    "after-lock",
    "after-reserve",
    "after-send",
    "before-record",
    "after-record",
    "before-text",
    "before-journal-fsync",
    "after-text",
    "amid-in-place-write",
    "after-in-place-write",
];

/// Where the pair is only in memory.
const UNWRITTEN: &str = "before-record";

fn failing(scene: &Scene, points: &str) -> Run {
    failing_with(scene, &["--retries", "0"], points)
}

fn failing_with<S: AsRef<OsStr>>(scene: &Scene, arguments: &[S], points: &str) -> Run {
    let mut program = scene.program();
    program.args(arguments).env("FEISHU_REFRESH_FAIL", points);
    Run::of(program.output().unwrap())
}

/// Asserts that the file is the old text, a new one with a token that works, or, where it is
/// written in place, torn beside a journal with the pair.
fn assert_whole_or_repairable(scene: &Scene, before: &str, context: &str) {
    let text = scene.text();
    let is_new = |text: &str| {
        text.starts_with("; A demo") && scene.server.is_live(&value_in(text, "refresh_token"))
    };
    if text.starts_with('\0') {
        let token = scene.journaled();
        assert!(
            token.is_some_and(|token| scene.server.is_live(&token)),
            "{context}: torn, and no journal has the pair"
        );
    } else {
        assert!(text == before || is_new(&text), "{context}: {text:?}");
    }
}

#[test]
fn no_fail_point_breaks_the_file_or_loses_a_pair() {
    let ways = [(&RENAMING[..], false), (&IN_PLACE[..], true)];
    for (points, in_place) in ways.into_iter().filter(|way| !way.1 || KNOWS_HARD_LINKS) {
        for point in points {
            for action in ["error", "panic", "abort"] {
                try_fail_point(point, action, in_place);
            }
        }
    }
}

fn try_fail_point(point: &str, action: &str, in_place: bool) {
    let context = format!("{point}={action}, in place: {in_place}");
    let scene = Scene::new();
    let other_name = scene.folder().join("other.ini");
    if in_place {
        fs::hard_link(scene.file(), &other_name).unwrap();
    }
    if point == "after-send" {
        scene.server.fail_next(Fault::HoldAfterHead);
    }
    let before = scene.text();
    let run = failing(&scene, &format!("{point}={action}"));
    match action {
        // A real failure cannot happen at these points: it would be one of the following.
        "error" => {
            let expected = match point {
                "after-lock" | "after-reserve" | "before-record" | "after-record" => 1,
                "after-send" => 5,
                _ => 6,
            };
            assert_eq!(run.code, expected, "{context}: {}", run.stderr);
        }
        "panic" => assert_eq!(run.code, 101, "{context}: {}", run.stderr),
        _ => assert_eq!(run.code, ABORTED, "{context}: {}", run.stderr),
    }
    assert!(
        !run.stderr.contains("sandbox0"),
        "{context}: {}",
        run.stderr
    );
    assert_whole_or_repairable(&scene, &before, &context);

    let run = scene.run::<&str>([]);
    if point == UNWRITTEN {
        run.assert_failed(4, "20026");
        return;
    }
    assert!(scene.server.gave(run.token()), "{context}");
    if in_place {
        fs::remove_file(&other_name).unwrap();
    }
    scene.assert_sound();
}

#[test]
fn a_save_that_fails_leaves_the_pair_for_the_next_run() {
    for point in [
        "after-write",
        "before-fsync",
        "after-fsync",
        "before-rename",
    ] {
        let scene = Scene::new();
        let before = scene.text();
        let run = failing(&scene, &format!("{point}=error"));
        run.assert_failed(6, "rotated, but not saved");
        assert_eq!(scene.text(), before);
        let journaled = scene.journaled().expect(point);
        assert!(scene.server.is_live(&journaled));
        let run = scene.run::<&str>([]);
        assert!(
            run.stderr
                .contains("held what an earlier run could not save"),
            "{}",
            run.stderr
        );
        assert_eq!(scene.server.rotations(), 2);
        scene.assert_sound();
    }
}

#[test]
fn a_pair_that_no_file_takes_is_printed() {
    let scene = Scene::new();
    let before = scene.text();
    let run = failing(&scene, "before-write=error,before-journal-fsync=errors");
    run.assert_failed(6, "could not be saved anywhere");
    let printed = value_in(&run.stderr, "refresh_token");
    assert!(scene.server.is_live(&printed));
    assert!(
        scene
            .server
            .gave(&value_in(&run.stderr, "user_access_token"))
    );
    assert_eq!(scene.text(), before);
    // Done as the hint says, the login goes on.
    scene.write(before.replace(&value_in(&before, "refresh_token"), &printed));
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[cfg(unix)]
#[test]
fn a_pair_goes_elsewhere_if_the_folder_takes_no_more() {
    for variable in ["XDG_STATE_HOME", "HOME", "TMPDIR"] {
        let scene = Scene::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let program = |points: &str| {
            let mut program = scene.program();
            program
                .env("TMPDIR", "/nowhere")
                .env(variable, elsewhere.path());
            Run::of(program.env("FEISHU_REFRESH_FAIL", points).output().unwrap())
        };
        // A journal that was written but not synced is in doubt: the pair goes to another place.
        let run = program("before-fsync=error,before-journal-fsync=error");
        run.assert_failed(6, elsewhere.path().to_str().unwrap());
        fs::remove_file(scene.journal()).ok();
        assert!(program("").stderr.contains("it is saved now"));
        scene.assert_sound();
    }
}

/// Another file under the journal's name is not a journal: it is put aside, and blocks nobody.
#[cfg(unix)]
#[test]
fn what_others_could_have_planted_is_not_believed() {
    let scene = Scene::new();
    failing(&scene, "before-rename=abort");
    let real = fs::read(scene.journal()).unwrap();
    let dead = scene.text();
    let token = scene.server.refresh_token();
    let elsewhere = scene.folder().join("elsewhere");
    fs::write(&elsewhere, &real).unwrap();
    for kind in [
        "mode 0640",
        "mode 0602",
        "another name",
        "a link",
        "a folder",
        "another owner",
    ] {
        let journal = scene.journal();
        let _ = fs::remove_file(&journal).or_else(|_| fs::remove_dir(&journal));
        fs::write(&journal, &real).unwrap();
        let chmod = |mode| fs::set_permissions(&journal, fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o600);
        match kind {
            "mode 0640" => chmod(0o640),
            "mode 0602" => chmod(0o602),
            "another name" => fs::hard_link(&journal, scene.folder().join("other")).unwrap(),
            "another owner" if !is_root() => continue,
            "another owner" => std::os::unix::fs::chown(&journal, Some(54321), None).unwrap(),
            _ => {
                fs::remove_file(&journal).unwrap();
                if kind == "a folder" {
                    fs::create_dir(&journal).unwrap();
                } else {
                    std::os::unix::fs::symlink(&elsewhere, &journal).unwrap();
                }
            }
        }
        scene.write(dead.replace(&value_in(&dead, "refresh_token"), &token));
        let rotations = scene.server.rotations();
        let run = scene.run::<&str>([]);
        assert!(
            run.stderr.contains("put aside as"),
            "{kind}: {}",
            run.stderr
        );
        assert_eq!(
            run.code,
            if rotations == 1 { 0 } else { 4 },
            "{kind}: {}",
            run.stderr
        );
        assert!(!fs::exists(&journal).unwrap(), "{kind}: it is found again");
        assert_eq!(fs::read(&elsewhere).unwrap(), real);
    }
}

/// The names of what a run syncs, in order, its folder as an empty one; without strace, returns none and says so.
fn synced(scene: &Scene, arguments: &[&str], points: &str) -> Option<Vec<String>> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-e", "trace=fsync", "-o"])
        .arg(trace.path())
        .arg(PROGRAM)
        .args(arguments)
        .current_dir(scene.folder())
        .env_clear()
        .env("FEISHU_REFRESH_FAIL", points);
    if strace.output().is_err() {
        eprintln!("skipped: strace is not installed");
        return None;
    }
    let folder = scene.folder().canonicalize().unwrap();
    let name = |line: &str| {
        let (path, _) = line.split_once('<')?.1.split_once(">)")?;
        let name = path.strip_prefix(folder.to_str()?)?;
        Some(name.trim_start_matches('/').to_owned())
    };
    let calls = fs::read_to_string(trace.path()).unwrap();
    Some(calls.lines().filter_map(name).collect())
}

#[test]
fn what_is_to_stay_beside_the_file_is_on_disk_with_its_name() {
    let [file, journal, folder] = ["feishu-config.ini", "feishu-config.ini.journal", ""];
    // A file that is written in place is touched only after that.
    let scene = Scene::new();
    fs::hard_link(scene.file(), scene.folder().join("other.ini")).unwrap();
    let Some(calls) = synced(&scene, &[], "") else {
        return;
    };
    assert_eq!(calls, [journal, folder, file, file, file]);
    // A journal is synced only if its pairs cannot be saved.
    for (points, stays) in [("", false), ("before-rename=errors", true)] {
        let scene = Scene::new();
        let calls = synced(&scene, &["--all", "--rate", "0"], points).unwrap();
        let is_synced = calls.windows(2).any(|pair| pair == [journal, folder]);
        assert_eq!(is_synced, stays, "{calls:?}");
        assert_eq!(scene.journal().exists(), stays);
    }
}

/// The path that a run says it kept something under.
fn kept_as(run: &Run) -> PathBuf {
    let named = run.stderr.split("kept as ").nth(1);
    let named = named.unwrap_or_else(|| panic!("nothing was kept: {}", run.stderr));
    PathBuf::from(named.lines().next().unwrap())
}

#[test]
fn a_journal_that_does_not_fit_is_kept_and_named() {
    let scene = Scene::new();
    // A pair that another login has replaced meanwhile, and a record that a run had only begun.
    failing(&scene, "before-rename=abort");
    let pair = fs::read_to_string(scene.journal()).unwrap();
    let third = scene.server.refresh_token();
    scene.write(scene.text().replace(&scene.value("refresh_token"), &third));
    for (text, part) in [(pair.as_str(), "ur-sandbox"), ("rubbish", "rubbish")] {
        fs::write(scene.journal(), text).unwrap();
        set_private(&scene.journal());
        let run = scene.run::<&str>([]);
        run.token();
        let kept = kept_as(&run);
        assert!(fs::read_to_string(&kept).unwrap().contains(part));
        assert!(is_private(&kept));
        fs::remove_file(kept).unwrap();
        scene.assert_sound();
    }
    // Blank ones are left by a run that died before it had anything to write.
    for blank in [&b""[..], &[0; 4096]] {
        fs::write(scene.journal(), blank).unwrap();
        set_private(&scene.journal());
        assert_eq!(scene.run::<&str>([]).stderr, "");
        scene.assert_sound();
    }
}

/// What version 0.1 left: a rescue file is a whole copy of the file, with the new pair.
#[test]
fn what_an_older_version_left_is_put_back_once_or_kept() {
    for in_place in [false, true] {
        let scene = Scene::new();
        scene.run::<&str>([]).token();
        let before = scene.text();
        scene.run::<&str>([]).token();
        let rescue = scene.folder().join("feishu-config.ini.rescue");
        fs::write(&rescue, scene.text()).unwrap();
        set_private(&rescue);
        let torn = format!("\0{}", &before[1..before.len() / 2]);
        scene.write(if in_place { torn } else { before });
        let run = scene.run::<&str>([]);
        run.token();
        assert!(run.stderr.contains(if in_place {
            "it is repaired"
        } else {
            "it is saved now"
        }));
        scene.assert_sound();
    }
    let scene = Scene::new();
    let rescue = scene.folder().join("feishu-config.ini.rescue");
    for text in [
        "[TOKEN]\nrefresh_token = ur-1\nrefresh_token_spent = 0123456789abcdef 0123456789abcdef\n",
        "rubbish",
    ] {
        fs::write(&rescue, text).unwrap();
        set_private(&rescue);
        let run = scene.run::<&str>([]);
        run.token();
        let kept = kept_as(&run);
        assert_eq!(fs::read_to_string(&kept).unwrap(), text);
        fs::remove_file(kept).unwrap();
        scene.assert_sound();
    }
}

/// Kills a run at a system call, where strace is installed.
#[cfg(unix)]
fn killed_at(scene: &Scene, call: &str, nth: usize) -> bool {
    let mut strace = Command::new("strace");
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    strace.args([
        "-f",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={call}"),
        "-e",
        &inject,
    ]);
    strace
        .arg(env!("CARGO_BIN_EXE_feishu-refresh"))
        .current_dir(scene.folder())
        .env_clear();
    let Ok(output) = strace.output() else {
        eprintln!("skipped: strace is not installed");
        return false;
    };
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    true
}

#[cfg(unix)]
#[test]
fn a_pair_that_had_its_one_write_is_used() {
    // With an app token that is fetched on the way and saved with the pair, too, with an expiry that
    // 115 leaves alone, and with one that a person wrote.
    let expiry = "refresh_token_expires_at = 2027-05-01T00:00:00+08:00\n";
    for (api, more) in [
        ("v1", ""),
        ("oidc", expiry),
        ("v2", expiry),
        ("115", expiry),
    ] {
        for in_place in [false, true] {
            // After the one write of the pair, and before the first sync.
            for (call, nth) in [("pwrite64", 4), ("fsync", 1)] {
                let scene = Scene::without_file();
                scene.write(scene.server.profile("TOKEN", api) + more);
                let other_name = scene.folder().join("other.ini");
                if in_place {
                    fs::hard_link(scene.file(), &other_name).unwrap();
                }
                if !killed_at(&scene, call, nth) {
                    return;
                }
                scene.server.advance(Duration::from_secs(61));
                let run = scene.run::<&str>([]);
                let context = format!("{api}, {call} {nth}, in place {in_place}: {}", run.stderr);
                assert_eq!(run.code, 0, "{context}");
                assert!(run.stderr.contains("it is saved now"), "{context}");
                assert_eq!(scene.server.rotations(), 2, "{context}");
                fs::remove_file(&other_name).ok();
                scene.assert_sound();
            }
        }
    }
}

/// An unfinished record is never taken for a complete one, and the lost reply is reported.
#[test]
fn a_pair_that_was_only_begun_is_told_to_be_lost() {
    let scene = Scene::new();
    failing(&scene, "before-rename=abort");
    let mut whole = fs::read(scene.journal()).unwrap();
    // The rest was reserved, and not used.
    whole.truncate(whole.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    let pair = whole
        .windows(6)
        .position(|bytes| bytes == b"{\"pair")
        .unwrap();
    let before = scene.text();
    for written in [pair, pair + 20, whole.len() - 200, whole.len() - 2] {
        // Some file systems reserve space with NULs.
        for nuls in [0, 4096] {
            let mut begun = whole[..written].to_vec();
            begun.resize(written + nuls, 0);
            fs::write(scene.journal(), &begun).unwrap();
            set_private(&scene.journal());
            let run = scene.run::<&str>([]);
            run.assert_failed(4, "an earlier attempt got no usable reply");
            assert_eq!(scene.text(), before, "{written} of {}", whole.len());
            fs::remove_file(kept_as(&run)).unwrap();
            assert_eq!(scene.file_names(), ["feishu-config.ini"]);
        }
    }
    fs::write(scene.journal(), &whole).unwrap();
    set_private(&scene.journal());
    scene.run::<&str>([]).token();
}

#[cfg(unix)]
#[test]
fn a_put_back_that_was_interrupted_loses_neither_pair_nor_edits() {
    for point in ["after-text", "amid-in-place-write", "after-in-place-write"] {
        let scene = Scene::new();
        let other_name = scene.folder().join("other.ini");
        fs::hard_link(scene.file(), &other_name).unwrap();
        failing(&scene, "before-text=error").assert_failed(6, "rotated, but not saved");
        fs::write(
            scene.file(),
            scene.text() + "\n[mine]\nrefresh_token = ur-mine\n",
        )
        .unwrap();
        assert_eq!(
            failing(&scene, &format!("{point}=abort")).code,
            ABORTED,
            "{point}"
        );
        // A read-only command finds them, too.
        let seen = scene.run(["status"]).stdout;
        assert!(seen.contains("\nmine "), "{point}: {seen}");
        scene.run::<&str>([]).token();
        assert!(
            scene.text().contains("refresh_token = ur-mine"),
            "{point}: {}",
            scene.text()
        );
        fs::remove_file(&other_name).unwrap();
        scene.assert_sound();
    }
}

#[test]
fn a_leftover_blocks_nobody() {
    // Another section that this program cannot use.
    let scene = Scene::new();
    scene.write(scene.text() + "\n[LATER]\napi = v9\nrefresh_token = x\n");
    failing(&scene, "before-rename=error").assert_failed(6, "rotated, but not saved");
    assert!(scene.run::<&str>([]).stderr.contains("it is saved now"));
    scene.assert_sound();

    // What a person removed does not come back with it.
    failing(&scene, "before-rename=error").assert_failed(6, "rotated, but not saved");
    scene.write(scene.text().split("\n[LATER]").next().unwrap());
    scene.run::<&str>([]).token();
    assert!(!scene.text().contains("LATER"), "{}", scene.text());
}

/// A new login that was not saved replaces what the file held then, whatever happened to the file's times and names
/// meanwhile; another token only for a run that brings it again.
#[cfg(unix)]
#[test]
fn the_pair_of_a_new_token_takes_its_place() {
    type Change = fn(&Scene);
    let changes: [(&str, Change); 4] = [
        ("nothing", |_| {}),
        ("chmod", |scene| {
            fs::set_permissions(scene.file(), fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("touch", |scene| {
            let file = fs::File::options().write(true).open(scene.file());
            let later = SystemTime::now() + Duration::from_secs(1 << 30);
            file.unwrap().set_modified(later).unwrap();
        }),
        ("a link", |scene| {
            let other = scene.folder().join("other");
            fs::hard_link(scene.file(), &other).unwrap();
            fs::remove_file(other).unwrap();
        }),
    ];
    for (name, change) in changes {
        for has_file in [true, false] {
            for brings_it in [true, false] {
                let scene = if has_file {
                    Scene::new()
                } else {
                    Scene::without_file()
                };
                let flags = scene.flags();
                failing_with(&scene, &flags, "before-rename=abort");
                change(&scene);
                let run = if brings_it {
                    scene.run(&flags)
                } else {
                    scene.run::<&str>([])
                };
                let context = format!("{name}, {has_file}, {brings_it}: {}", run.stderr);
                assert!(run.stderr.contains("it is saved now"), "{context}");
                assert_eq!(scene.server.spent_seen(), 0, "{context}");
                if !has_file {
                    // A file that was not there has no address yet.
                    continue;
                }
                assert_eq!(run.code, 0, "{context}");
                scene.assert_sound();
            }
        }
    }
    // A third login stays, unless a run brings the one that was spent.
    let scene = Scene::new();
    let flags = scene.flags();
    failing_with(&scene, &flags, "before-rename=abort");
    let third = scene.server.refresh_token();
    scene.write(scene.text().replace(&scene.value("refresh_token"), &third));
    assert!(scene.run(&flags).stderr.contains("it is saved now"));
    assert!(scene.server.is_live(&third));
    scene.assert_sound();
}

/// The section comes back; what else was in the file does not.
#[test]
fn a_file_that_is_gone_gets_its_section_back() {
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "115") + "more = x\n");
    failing(&scene, "before-rename=error").assert_failed(6, "rotated, but not saved");
    fs::remove_file(scene.file()).unwrap();
    scene.server.advance(Duration::from_secs(61));
    let run = scene.run(["--base-url", &scene.server.base_url()]);
    assert!(run.stderr.contains("it is saved now"), "{}", run.stderr);
    run.token();
    assert_eq!(scene.value("api"), "115");
    assert!(!scene.text().contains("more"));
    assert!(is_private(&scene.file()));
    scene.assert_sound();
}

#[test]
fn a_first_run_that_was_killed_is_completed_by_the_next() {
    let scene = Scene::without_file();
    let flags = scene.flags();
    let run = failing_with(&scene, &flags, "before-rename=abort");
    assert_eq!(run.code, ABORTED, "{}", run.stderr);
    assert_eq!(scene.text(), "");
    scene.run(&flags).token();
    scene.assert_sound();

    // Also if the file belongs to another login, and the same -r comes again.
    let flags = scene.flags();
    let run = failing_with(&scene, &flags, "before-rename=abort");
    assert_eq!(run.code, ABORTED, "{}", run.stderr);
    scene.run(&flags).token();
    scene.assert_sound();
}

#[test]
fn a_token_that_another_program_brings_is_used_for_the_next_attempt() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::HoldThenClose);
    let third = scene.server.refresh_token();
    scene.write(scene.text().replace(&scene.value("refresh_token"), &third));
    let run = held.let_go(&scene);
    assert_eq!(scene.value("user_access_token"), run.token());
    assert!(
        !scene.server.is_live(&third),
        "the token the file had meanwhile was not used"
    );
    scene.assert_sound();
}

#[test]
fn a_file_that_an_editor_puts_in_its_place_is_used_for_the_next_attempt() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::HoldThenClose);
    let third = scene.server.refresh_token();
    let edited = scene.folder().join("edited.ini");
    fs::write(
        &edited,
        scene.text().replace(&scene.value("refresh_token"), &third),
    )
    .unwrap();
    fs::rename(&edited, scene.file()).unwrap();
    held.let_go(&scene).token();
    assert!(
        !scene.server.is_live(&third),
        "the token the file had meanwhile was not used"
    );
    scene.assert_sound();

    // One that is broken then does not hide that a reply may have been lost.
    let held = HeldRun::start(&scene, Fault::HoldThenClose);
    scene.write("rubbish");
    held.let_go(&scene)
        .assert_failed(3, "a reply may have been lost");
}

#[cfg(unix)]
#[test]
fn a_signal_waits_for_the_save_and_then_does_its_work() {
    for (signal, number) in [
        ("INT", 2),
        ("TERM", 15),
        ("HUP", 1),
        ("QUIT", 3),
        ("USR1", 10),
        ("USR2", 12),
        ("ALRM", 14),
        ("VTALRM", 26),
        ("XCPU", 24),
        ("XFSZ", 25),
    ] {
        let scene = Scene::new();
        let before = scene.value("refresh_token");
        let held = HeldRun::start(&scene, Fault::Hold);
        send_signal(&held.child, signal);
        let run = held.let_go(&scene);
        assert_eq!(run.code, 128 + number, "{}", run.stderr);
        assert_eq!(run.stdout, "");
        assert_ne!(scene.value("refresh_token"), before);
        scene.assert_sound();

        // No further attempt starts, and no empty file is left by a first run.
        let first = Scene::without_file();
        first.server.fail_next(Fault::HoldThenClose);
        let held = HeldRun::spawn(first.program().arg("-v").args(first.flags()));
        send_signal(&held.child, signal);
        assert_eq!(held.let_go(&first).code, 128 + number);
        assert!(first.file_names().is_empty());
        let held = HeldRun::start(&scene, Fault::HoldThenClose);
        send_signal(&held.child, signal);
        assert_eq!(held.let_go(&scene).code, 128 + number);
        assert_eq!(scene.server.requests().len(), 2);
        scene.assert_sound();
    }
}

#[cfg(unix)]
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let scene = Scene::new();
    scene.server.fail_next(Fault::Hold);
    let mut shell = Command::new("sh");
    shell
        .current_dir(scene.folder())
        .env_clear()
        .stdin(Stdio::null());
    let program = env!("CARGO_BIN_EXE_feishu-refresh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" -v", program]);
    let held = HeldRun::spawn(&mut shell);
    send_signal(&held.child, "HUP");
    held.let_go(&scene).token();
    scene.assert_sound();
}

/// Random points in time over a run.
struct Moments {
    longest: Duration,
}

impl Moments {
    /// Measures how long a run takes.
    fn of(scene: &Scene) -> Self {
        let mut times: Vec<_> = (0..11)
            .map(|_| {
                let start = Instant::now();
                scene.run::<&str>([]).token();
                start.elapsed()
            })
            .collect();
        times.sort();
        Moments {
            longest: times[5].mul_f64(1.2),
        }
    }

    fn wait(&self) {
        let random = u16::try_from(RandomState::new().hash_one(0) >> 48).unwrap();
        thread::sleep(self.longest * u32::from(random) / u32::from(u16::MAX));
    }
}

const INTERRUPTIONS: usize = 500;

#[cfg(unix)]
fn spawn_quietly(scene: &Scene) -> Child {
    let mut program = scene.program();
    program
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    program.spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn sigkill_at_random_moments_loses_only_what_was_not_yet_written() {
    let scene = Scene::new();
    let moments = Moments::of(&scene);
    let [mut unspent, mut saved, mut put_back, mut lost] = [0; 4];
    for _ in 0..INTERRUPTIONS {
        let before = scene.text();
        let mut child = spawn_quietly(&scene);
        moments.wait();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had sent by then still counts.
        scene.server.settle().unwrap();
        let text = scene.text();
        let journaled = scene.journaled();
        let is_alive = scene.server.is_live(&value_in(&text, "refresh_token"));
        let run = scene.run::<&str>([]);
        match (is_alive, run.code) {
            (true, 0) if text == before => unspent += 1,
            (true, 0) => saved += 1,
            (false, 0) => put_back += 1,
            (false, 4) => {
                assert_eq!(text, before, "the file is broken");
                assert_eq!(journaled, None, "a pair was written and not used");
                lost += 1;
                // As a person would do: consent again.
                let token = scene.server.refresh_token();
                scene.write(text.replace(&value_in(&text, "refresh_token"), &token));
            }
            _ => panic!("code {}: {}", run.code, run.stderr),
        }
    }
    println!(
        "{INTERRUPTIONS} × SIGKILL: unspent {unspent}, saved {saved}, put back {put_back}, \
         lost before their one write {lost}"
    );
    assert!(saved > 0 && unspent > 0, "the moments do not cover the run");
}

#[cfg(unix)]
#[test]
fn other_signals_at_random_moments_lose_nothing() {
    let scene = Scene::new();
    let moments = Moments::of(&scene);
    let [mut died, mut finished] = [0; 2];
    for round in 0..INTERRUPTIONS {
        let mut child = spawn_quietly(&scene);
        moments.wait();
        send_signal(&child, ["TERM", "INT", "HUP"][round % 3]);
        let status = child.wait().unwrap();
        match status.signal() {
            Some(_) => died += 1,
            None => finished += 1,
        }
        assert!(status.signal().is_some() || status.success(), "{status}");
        assert!(
            scene.server.is_live(&scene.value("refresh_token")),
            "round {round}"
        );
        assert_eq!(scene.journaled(), None, "round {round}");
    }
    assert_eq!(scene.server.spent_seen(), 0);
    println!("{INTERRUPTIONS} × SIGTERM, SIGINT, SIGHUP: died {died}, finished {finished}, lost 0");
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

/// Reads from strace how long a pair is only in memory.
#[cfg(unix)]
#[test]
fn a_reply_is_written_at_once() {
    let scene = Scene::new();
    let trace = scene.folder().join("trace");
    let mut times = Vec::new();
    for _ in 0..20 {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-ttt", "-e", "trace=recvfrom,read,pwrite64", "-o"])
            .arg(&trace);
        strace
            .arg(env!("CARGO_BIN_EXE_feishu-refresh"))
            .current_dir(scene.folder());
        let Ok(output) = strace.env_clear().output() else {
            eprintln!("skipped: strace is not installed");
            return;
        };
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&trace).unwrap();
        fs::remove_file(&trace).unwrap();
        let time = |line: &str| line.split_whitespace().nth(1)?.parse::<f64>().ok();
        let mut calls = text.lines();
        let reply = calls.find(|call| call.contains("\"HTTP/1.1 200"));
        let write = calls.find(|call| call.contains("pwrite64("));
        // The very next writing call is that of the complete pair.
        assert!(
            write.is_some_and(|call| call.contains("{\\\"pair")),
            "{text}"
        );
        let [reply, write] = [reply, write].map(|call| call.and_then(time).unwrap());
        times.push(write - reply);
    }
    times.sort_by(f64::total_cmp);
    let [median, longest] = [times[10], times[19]].map(|time| time * 1e6);
    println!(
        "from reply to first write, under strace: median {median:.0} µs, longest {longest:.0} µs"
    );
    assert!(median < 20_000.0, "{median} µs");
}
