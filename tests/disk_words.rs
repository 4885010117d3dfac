//! What is said about an unusable disk or file, and what is advised.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Run, Scene, is_root};
use crate::system::Mount;

/// Mounts a file or folder over itself, read-only.
fn read_only(path: &Path) -> Option<Mount> {
    let mount = Mount::new(&["--bind", path.to_str().unwrap()], path)?;
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,ro,bind"]).arg(path);
    assert!(remount.status().unwrap().success());
    Some(mount)
}

/// Asserts that a run found a read-only mount, said so with this hint, and sent nothing.
fn assert_read_only(scene: &Scene, run: &Run, says: &str, hint: &str) {
    run.assert_failed(3, says);
    run.assert_failed(3, "Read-only file system");
    assert!(run.stderr.contains(hint), "{}", run.stderr);
    for wrong in ["no room", "space", "full"] {
        assert!(!run.stderr.contains(wrong), "{}", run.stderr);
    }
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_read_only_mount_is_called_that() {
    if !is_root() {
        return;
    }
    let hint = "mount it writable, or name a file elsewhere with -c";
    let scene = Scene::new();
    let before = scene.text();
    let Some(mount) = read_only(scene.folder()) else {
        return;
    };
    let run = scene.run::<&str>([]);
    assert_read_only(&scene, &run, "cannot write beside ", hint);
    // A missing file cannot be created there.
    let flags = scene.flags();
    let run = scene.run(
        ["-c", "new.ini"]
            .into_iter()
            .chain(flags.iter().map(String::as_str)),
    );
    assert_read_only(&scene, &run, "cannot make ", hint);
    drop(mount);
    // Only the file.
    let Some(mount) = read_only(&scene.file()) else {
        return;
    };
    let run = scene.run::<&str>([]);
    assert_read_only(&scene, &run, "cannot write ", hint);
    assert_eq!(scene.text(), before);
    drop(mount);
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

/// A file that can only be written in place needs a journal, wherever that is.
#[test]
fn a_journal_that_no_folder_takes_is_called_that() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let (folder, host) = (
        scene.folder().join("folder"),
        scene.folder().join("host.ini"),
    );
    fs::create_dir(&folder).unwrap();
    let file = folder.join("feishu-config.ini");
    fs::copy(scene.file(), &file).unwrap();
    fs::copy(scene.file(), &host).unwrap();
    let Some(_folder) = read_only(&folder) else {
        return;
    };
    let Some(_file) = Mount::new(&["--bind", host.to_str().unwrap()], &file) else {
        return;
    };
    let mut program = scene.program();
    program.arg("-c").arg(&file).env("TMPDIR", &folder);
    let run = Run::of(program.output().unwrap());
    assert_read_only(
        &scene,
        &run,
        "cannot write a journal of ",
        "the temporary folder",
    );
}

#[test]
fn a_read_only_github_output_is_the_one_that_is_named() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let folder = scene.folder().join("runner");
    fs::create_dir(&folder).unwrap();
    let output = folder.join("output");
    let Some(_mount) = read_only(&folder) else {
        return;
    };
    let mut program = scene.program();
    program.args(["-o", "github"]).env("GITHUB_OUTPUT", &output);
    let run = Run::of(program.output().unwrap());
    let hint = format!("mount {} writable, or let GITHUB_OUTPUT", output.display());
    assert_read_only(&scene, &run, "GITHUB_OUTPUT cannot be written", &hint);
    assert!(!run.stderr.contains("-c"), "{}", run.stderr);
}
