//! What is different on Windows.

use std::{env, fs};

use crate::harness::{HeldRun, Run, Scene};
use crate::sandbox::Fault;

/// Runs where the system's own programs are found.
fn with_path(scene: &Scene, arguments: &[&str]) -> Run {
    let system = env::var("SystemRoot").unwrap() + "\\system32";
    let mut program = scene.program();
    program.env("PATH", system).args(arguments);
    Run::of(program.output().unwrap())
}

#[test]
fn a_lock_beside_the_file_keeps_runs_apart_and_stays() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::Hold);
    let mut second = scene.program();
    second.args(["--lock-timeout", "0.2", "-q"]);
    let second = Run::of(second.output().unwrap());
    second.assert_failed(5, "another run is still working on");
    // Meanwhile the file itself can be read.
    assert!(scene.text().contains("refresh_token"));
    held.let_go(&scene).token();
    assert!(scene.folder().join("feishu-config.ini.lock").exists());
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn a_read_only_file_costs_nothing() {
    let scene = Scene::new();
    let set_readonly = |readonly| {
        let mut permissions = fs::metadata(scene.file()).unwrap().permissions();
        permissions.set_readonly(readonly);
        fs::set_permissions(scene.file(), permissions).unwrap();
    };
    set_readonly(true);
    scene.run::<&str>([]).assert_failed(3, "attrib -r");
    assert!(scene.server.requests().is_empty());
    set_readonly(false);
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn a_command_hears_of_the_new_pair() {
    let scene = Scene::new();
    let hook = "find \"access_token\" > \"heard it.txt\"";
    let run = with_path(&scene, &["--on-refresh", hook]);
    let heard = fs::read_to_string(scene.folder().join("heard it.txt")).unwrap();
    assert!(heard.contains(run.token()), "{heard}");
    let run = with_path(&scene, &["--on-refresh", "exit 9"]);
    assert_eq!(run.code, 7, "{}", run.stderr);
    assert!(run.stderr.contains("exit code: 9"), "{}", run.stderr);
}

#[test]
fn exec_ends_with_the_commands_own_code_and_gives_it_the_token() {
    let scene = Scene::new();
    let exec = |command: &[&str]| with_path(&scene, &[&["exec", "--"], command].concat());
    assert_eq!(exec(&["cmd", "/C", "exit 42"]).code, 42);
    let run = exec(&["cmd", "/C", "echo %FEISHU_USER_ACCESS_TOKEN%"]);
    assert_eq!(run.stdout.trim_end(), scene.value("user_access_token"));
    let rotations = scene.server.rotations();
    exec(&["no-such-program"]).assert_failed(3, "there is no program no-such-program");
    assert_eq!(scene.server.rotations(), rotations);
    scene.assert_sound();
}
