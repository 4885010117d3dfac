//! Disks, permissions, locks, pipes.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{HeldRun, PROGRAM, Run, Scene, is_root, tokens_in_journal};
use crate::sandbox::Fault;

/// Some user and group other than root.
const STRANGER: u32 = 54321;

#[test]
fn owner_group_and_mode_stay() {
    let scene = Scene::new();
    fs::set_permissions(scene.file(), Permissions::from_mode(0o640)).unwrap();
    if is_root() {
        chown(scene.file(), Some(STRANGER), Some(STRANGER + 1)).unwrap();
    }
    let before = fs::metadata(scene.file()).unwrap();
    let run = scene.run::<&str>([]);
    run.token();
    let after = fs::metadata(scene.file()).unwrap();
    assert_ne!(
        after.ino(),
        before.ino(),
        "the file is replaced, not written"
    );
    let of = |file: &fs::Metadata| (file.uid(), file.gid(), file.mode());
    assert_eq!(of(&after), of(&before));
    scene.assert_sound();
}

#[test]
fn owner_and_group_stay_each_by_itself() {
    if !is_root() {
        return;
    }
    for (owner, group) in [(Some(STRANGER), None), (None, Some(STRANGER))] {
        let scene = Scene::new();
        chown(scene.file(), owner, group).unwrap();
        let of = |file: &fs::Metadata| (file.uid(), file.gid());
        let before = of(&fs::metadata(scene.file()).unwrap());
        scene.run::<&str>([]).token();
        assert_eq!(of(&fs::metadata(scene.file()).unwrap()), before);
        scene.assert_sound();
    }
}

#[test]
fn a_file_that_others_can_read_is_reported() {
    let scene = Scene::new();
    fs::set_permissions(scene.file(), Permissions::from_mode(0o644)).unwrap();
    let run = scene.run::<&str>([]);
    run.token();
    assert!(
        run.stderr.contains("mode 0644") && run.stderr.contains("chmod 600 '"),
        "{}",
        run.stderr
    );
    scene.assert_sound();
}

#[test]
fn a_symbolic_link_stays_a_link() {
    let scene = Scene::new();
    fs::create_dir(scene.folder().join("real")).unwrap();
    let real = scene.folder().join("real/tokens.ini");
    fs::rename(scene.file(), &real).unwrap();
    symlink("real/tokens.ini", scene.file()).unwrap();
    let run = scene.run::<&str>([]);
    assert!(fs::symlink_metadata(scene.file()).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains(run.token()));
    // One that leads nowhere is followed when the file is made.
    fs::remove_file(&real).unwrap();
    scene.run(scene.flags()).token();
    assert!(real.exists() && fs::symlink_metadata(scene.file()).unwrap().is_symlink());
}

#[test]
fn two_paths_to_one_file_share_one_lock() {
    let scene = Scene::new();
    symlink("feishu-config.ini", scene.folder().join("link.ini")).unwrap();
    let holder = File::open(scene.file()).unwrap();
    holder.lock().unwrap();
    let run = scene.run(["-c", "link.ini", "--lock-timeout", "0.1"]);
    run.assert_failed(5, "another run is still working on ");
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_failed_run_leaves_no_empty_file_behind() {
    let scene = Scene::without_file();
    let base = scene.server.base_url();
    let arguments = ["-a", "a-1", "-r", "ur-1", "--base-url", &base];
    scene.run(arguments).assert_failed(3, "20014");
    scene
        .run(["-a", "a-1", "-r", "ur-1", "--base-url", "nonsense"])
        .assert_failed(3, "base URL");
    scene.run::<&str>([]).assert_failed(3, "does not exist");
    assert!(scene.file_names().is_empty());
    // One that existed stays, still empty.
    scene.write("");
    scene.run(arguments).assert_failed(3, "20014");
    assert_eq!(scene.text(), "");
}

#[cfg(target_os = "linux")] // It has /dev/full.
#[test]
fn an_unwritable_stdout_loses_nothing() {
    let scene = Scene::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = scene.program().stdout(full).output().unwrap();
    Run::of(output).assert_failed(1, "cannot write to stdout");
    scene.assert_sound();

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = scene.program().stdout(writer).output().unwrap();
    Run::of(output).assert_failed(1, "cannot write to stdout");
    scene.assert_sound();

    // Nor does an unwritable stderr.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = scene
        .program()
        .arg("-v")
        .stdout(Stdio::piped())
        .stderr(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    scene.assert_sound();
    assert_eq!(scene.server.rotations(), 3);
}

#[test]
fn the_pair_is_saved_before_the_token_is_shown() {
    let scene = Scene::new();
    let before = scene.value("refresh_token");
    // A pipe that is full: the program has to wait before it can show anything.
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'-'; 4096]).is_ok() {}
    while writer.write(b"-").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    let mut child = scene.program().stdout(writer).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.value("refresh_token") == before {
        assert!(
            Instant::now() < deadline,
            "it waits for stdout before it saves"
        );
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended without saving"
        );
        std::thread::yield_now();
    }
    assert!(child.try_wait().unwrap().is_none());
    let mut shown = String::new();
    reader.read_to_string(&mut shown).unwrap();
    assert_eq!(
        shown.trim_start_matches('-').trim_end(),
        scene.value("user_access_token")
    );
    assert!(child.wait().unwrap().success());
    scene.assert_sound();
}

#[cfg(target_os = "linux")] // It has /proc.
#[test]
fn a_file_that_is_gone_but_open_does_not_hold_a_run_for_ever() {
    let scene = Scene::new();
    let open = File::open(scene.file()).unwrap();
    fs::remove_file(scene.file()).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    scene
        .run(["-c", &path])
        .assert_failed(3, &format!("cannot find {path}"));
}

#[test]
fn a_limit_on_the_length_of_files_costs_nothing() {
    let scene = Scene::new();
    let mut shell = Command::new("sh");
    shell.current_dir(scene.folder()).env_clear();
    shell.args([
        "-c",
        "ulimit -f 0; exec \"$0\"",
        env!("CARGO_BIN_EXE_feishu-refresh"),
    ]);
    Run::of(shell.output().unwrap()).assert_failed(3, "File too large");
    assert!(scene.server.requests().is_empty());
    scene.assert_sound();
}

#[test]
fn an_access_list_stays() {
    let scene = Scene::new();
    let setfacl = |entry: &str| {
        Command::new("setfacl")
            .args(["-m", entry])
            .arg(scene.file())
            .output()
    };
    if !setfacl("u:12345:r").is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine has no access lists");
        return;
    }
    scene.run::<&str>([]).token();
    let list = Command::new("getfacl").arg(scene.file()).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("user:12345:r--"));
    scene.assert_sound();
}

#[test]
fn an_immutable_file_costs_nothing() {
    let scene = Scene::new();
    let (file, folder) = (&scene.file(), &scene.folder().to_owned());
    for paths in [&[file][..], &[folder], &[file, folder]] {
        let chattr = |flag: &str| Command::new("chattr").arg(flag).args(paths).output();
        if !chattr("+i").is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: this user or file system does not let a test use chattr");
            return;
        }
        let run = scene.run::<&str>([]);
        chattr("-i").unwrap();
        run.assert_failed(3, "cannot be changed");
        assert!(scene.server.requests().is_empty());
        scene.assert_sound();
    }
}

/// The program as another user, in a folder not writable for that user.
fn stranger_in_a_closed_folder(scene: &Scene) -> Command {
    let folder = scene.folder();
    // The program itself may be where other users have no access.
    let program = folder.join("program");
    if !program.exists() {
        // Not by this process: while it writes the copy, another test's child that is being started would hold it open,
        // too, and then nobody can run it.
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_feishu-refresh"))
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        fs::create_dir(folder.join("state")).unwrap();
        chown(folder.join("state"), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    fs::set_permissions(folder, Permissions::from_mode(0o555)).unwrap();
    let mut command = Command::new(&program);
    command
        .current_dir(folder)
        .env_clear()
        .uid(STRANGER)
        .gid(STRANGER);
    command
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("TMPDIR", folder);
    command
}

#[test]
fn a_file_in_a_folder_that_cannot_be_written_is_saved_in_place() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    chown(scene.file(), Some(STRANGER), Some(STRANGER)).unwrap();
    let before = fs::metadata(scene.file()).unwrap();
    let run = Run::of(stranger_in_a_closed_folder(&scene).output().unwrap());
    assert_eq!(scene.value("user_access_token"), run.token());
    let after = fs::metadata(scene.file()).unwrap();
    assert_eq!(
        (after.ino(), after.uid(), after.mode()),
        (before.ino(), before.uid(), before.mode())
    );
    assert!(scene.server.is_live(&scene.value("refresh_token")));

    // Killed midway, it is repaired from the journal in the state folder.
    let torn = stranger_in_a_closed_folder(&scene)
        .env("FEISHU_REFRESH_FAIL", "amid-in-place-write=abort")
        .output()
        .unwrap();
    assert!(!torn.status.success());
    assert_eq!(fs::read(scene.file()).unwrap()[0], 0, "it is not torn");
    let journals = || {
        let state = fs::read_dir(scene.folder().join("state/feishu-refresh")).unwrap();
        let names = state.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".journal")).count()
    };
    assert_eq!(journals(), 1);
    let run = Run::of(stranger_in_a_closed_folder(&scene).output().unwrap());
    assert_eq!(scene.value("user_access_token"), run.token());
    assert!(run.stderr.contains("it is repaired"), "{}", run.stderr);
    assert_eq!(journals(), 0);
    assert_eq!(scene.server.spent_seen(), 0);
}

#[test]
fn a_journal_elsewhere_keeps_a_second_run_out() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    chown(scene.file(), Some(STRANGER), Some(STRANGER)).unwrap();
    scene.server.fail_next(Fault::Hold);
    let held = HeldRun::spawn(stranger_in_a_closed_folder(&scene).arg("-v"));
    // Root can replace the locked file.
    let edited = scene.folder().join("edited.ini");
    fs::write(&edited, scene.text()).unwrap();
    chown(&edited, Some(STRANGER), Some(STRANGER)).unwrap();
    fs::rename(&edited, scene.file()).unwrap();
    let second = stranger_in_a_closed_folder(&scene)
        .args(["-q", "--lock-timeout", "0.2"])
        .output();
    let second = Run::of(second.unwrap());
    second.assert_failed(5, "another run is still working");
    // The file to write is not the locked one: the pair is kept, and restored.
    held.let_go(&scene)
        .assert_failed(6, "another program replaced it");
    Run::of(stranger_in_a_closed_folder(&scene).output().unwrap()).token();
    assert_eq!(scene.server.spent_seen(), 0);
}

#[test]
fn a_leftover_that_cannot_be_removed_blocks_nobody() {
    if !is_root() {
        return;
    }
    for text in ["", "rubbish"] {
        let scene = Scene::new();
        chown(scene.file(), Some(STRANGER), Some(STRANGER)).unwrap();
        fs::write(scene.journal(), text).unwrap();
        fs::set_permissions(scene.journal(), Permissions::from_mode(0o600)).unwrap();
        chown(scene.journal(), Some(STRANGER), Some(STRANGER)).unwrap();
        let run = Run::of(stranger_in_a_closed_folder(&scene).output().unwrap());
        assert!(scene.server.gave(run.token()));
        assert!(scene.server.is_live(&scene.value("refresh_token")));
        assert!(run.stderr.contains("cannot remove"), "{}", run.stderr);
    }
}

/// A real journal of another user's, in a folder where anybody may make files: its pair is not this
/// user's, and it does not keep this user's run from anything.
#[test]
fn another_users_journal_in_a_shared_folder_is_left_alone() {
    if !is_root() {
        return;
    }
    for mode in [0o644, 0o600] {
        let scene = Scene::new();
        let mut killed = stranger_in_a_closed_folder(&scene);
        fs::set_permissions(scene.folder(), Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(scene.file(), Permissions::from_mode(0o666)).unwrap();
        let owned = scene.text();
        killed.env("FEISHU_REFRESH_FAIL", "after-record=abort");
        killed.args(scene.flags()).output().unwrap();
        let journal = fs::metadata(scene.journal()).unwrap();
        assert_eq!(journal.uid(), STRANGER);
        let planted = scene.journaled().unwrap();
        fs::set_permissions(scene.journal(), Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(scene.file(), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(scene.text(), owned);
        // Neither as the file's owner, who is root here, nor as a third user.
        let run = scene.run::<&str>([]);
        assert!(run.stderr.contains("put aside as"), "{}", run.stderr);
        assert!(scene.server.is_live(&planted));
        assert_eq!(scene.value("user_access_token"), run.token());
        assert_eq!(scene.server.spent_seen(), 0);
    }
}

#[test]
fn a_file_with_other_names_that_cannot_be_written_costs_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    fs::hard_link(scene.file(), scene.folder().join("other.ini")).unwrap();
    fs::set_permissions(scene.file(), Permissions::from_mode(0o644)).unwrap();
    let mut stranger = stranger_in_a_closed_folder(&scene);
    fs::set_permissions(scene.folder(), Permissions::from_mode(0o777)).unwrap();
    let before = scene.text();
    Run::of(stranger.output().unwrap()).assert_failed(3, "cannot write");
    assert_eq!(scene.text(), before);
    assert!(scene.server.requests().is_empty());
}

/// A run whose system calls fail by strace; without strace, returns none and says so.
fn with_failing_calls(scene: &Scene, calls: &str) -> Option<Run> {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={calls}"))
        .arg(PROGRAM)
        .current_dir(scene.folder())
        .env_clear();
    let output = strace.output();
    if output.is_err() {
        eprintln!("skipped: strace is not installed");
    }
    Some(Run::of(output.ok()?))
}

#[test]
fn a_file_that_cannot_be_replaced_after_all_is_written_in_place() {
    let scene = Scene::new();
    let before = fs::metadata(scene.file()).unwrap().ino();
    let Some(run) = with_failing_calls(&scene, "?rename,?renameat,?renameat2:error=EBUSY") else {
        return;
    };
    assert_eq!(scene.value("user_access_token"), run.token());
    assert_eq!(fs::metadata(scene.file()).unwrap().ino(), before);
    scene.assert_sound();
}

#[test]
fn a_file_system_that_cannot_reserve_is_no_hindrance() {
    for in_place in [false, true] {
        let scene = Scene::new();
        let other = scene.folder().join("other.ini");
        if in_place {
            fs::hard_link(scene.file(), &other).unwrap();
        }
        let Some(run) = with_failing_calls(&scene, "fallocate:error=EOPNOTSUPP") else {
            return;
        };
        assert_eq!(scene.value("user_access_token"), run.token());
        let text = scene.text();
        assert!(!text.contains('\0') && text.ends_with('\n'), "{text:?}");
        fs::remove_file(&other).ok();
        scene.assert_sound();
    }
}

#[test]
fn a_folder_and_a_file_that_cannot_be_written_cost_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let before = scene.text();
    fs::set_permissions(scene.file(), Permissions::from_mode(0o644)).unwrap();
    let run = Run::of(stranger_in_a_closed_folder(&scene).output().unwrap());
    run.assert_failed(3, "Permission denied");
    assert_eq!(scene.text(), before);
    assert!(scene.server.requests().is_empty());
}

#[test]
fn another_users_file_stays_that_users() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    // Everybody may write file and folder, but only root could give the file away.
    fs::set_permissions(scene.file(), Permissions::from_mode(0o666)).unwrap();
    let mut stranger = stranger_in_a_closed_folder(&scene);
    fs::set_permissions(scene.folder(), Permissions::from_mode(0o777)).unwrap();
    Run::of(stranger.output().unwrap()).token();
    let file = fs::metadata(scene.file()).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o666));
    scene.run::<&str>([]).token();
    assert_eq!(scene.server.rotations(), 2);
    assert_eq!(scene.server.spent_seen(), 0);
}

/// A file system of our own, unmounted when the test ends.
pub struct Mount(std::path::PathBuf);

impl Mount {
    pub fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        let mount = Command::new("mount")
            .args(arguments)
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if !mount.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this machine does not let a test mount {arguments:?}");
            return None;
        }
        Some(Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let disk = scene.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let tmpfs = ["-t", "tmpfs", "-o", "size=256k", "tmpfs"];
    let Some(_mount) = Mount::new(&tmpfs, &disk) else {
        return;
    };
    let file = disk.join("feishu-config.ini");
    fs::copy(scene.file(), &file).unwrap();
    let before = fs::read(&file).unwrap();
    let filler = disk.join("filler");
    // Fill it to the last page.
    let _ = std::io::copy(&mut std::io::repeat(1), &mut File::create(&filler).unwrap());
    let run = scene.run(["-c".as_ref(), file.as_os_str()]);
    run.assert_failed(5, "No space left on device");
    assert!(run.stderr.contains("no space for new tokens beside"));
    assert_eq!(fs::read(&file).unwrap(), before);
    assert!(scene.server.requests().is_empty());
    // What must be written in place gets no space there, wherever its journal could be.
    let other = scene.folder().join("disk/other.ini");
    fs::hard_link(&file, &other).unwrap();
    let mut program = scene.program();
    program.env("TMPDIR", scene.folder()).arg("-c").arg(&file);
    let run = Run::of(program.output().unwrap());
    run.assert_failed(5, "No space left on device");
    assert!(scene.server.requests().is_empty());
    fs::remove_file(&other).unwrap();
    let names: Vec<_> = fs::read_dir(&disk)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // With space again, it works.
    fs::remove_file(&filler).unwrap();
    scene.run(["-c".as_ref(), file.as_os_str()]).token();
}

#[test]
fn a_read_only_disk_costs_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let folder = scene.folder().to_owned();
    let Some(_mount) = Mount::new(&["--bind", folder.to_str().unwrap()], &folder) else {
        return;
    };
    let remount = Command::new("mount")
        .args(["-o", "remount,ro,bind"])
        .arg(&folder)
        .status();
    assert!(remount.unwrap().success());
    let before = scene.text();
    scene
        .run::<&str>([])
        .assert_failed(3, "Read-only file system");
    assert_eq!(scene.text(), before);
    assert!(scene.server.requests().is_empty());
}

#[test]
fn hard_links_go_on_naming_one_file() {
    let scene = Scene::new();
    let other = scene.folder().join("other.ini");
    fs::hard_link(scene.file(), &other).unwrap();
    let run = scene.run::<&str>([]);
    assert!(fs::read_to_string(&other).unwrap().contains(run.token()));
    assert_eq!(fs::metadata(&other).unwrap().nlink(), 2);
    fs::remove_file(&other).unwrap();
    scene.assert_sound();
}

#[test]
fn a_file_that_is_mounted_is_saved_in_place() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let host = scene.folder().join("host.ini");
    fs::copy(scene.file(), &host).unwrap();
    let Some(_mount) = Mount::new(&["--bind", host.to_str().unwrap()], &scene.file()) else {
        return;
    };
    for _ in 0..2 {
        let run = scene.run::<&str>([]);
        assert!(fs::read_to_string(&host).unwrap().contains(run.token()));
    }
    assert_eq!(scene.file_names(), ["feishu-config.ini", "host.ini"]);
    // Replaced on the host, the mount shows a file that nobody else will see.
    fs::write(scene.folder().join("new.ini"), scene.text()).unwrap();
    fs::rename(scene.folder().join("new.ini"), &host).unwrap();
    scene
        .run::<&str>([])
        .assert_failed(3, "replaced behind its mount");
    assert_eq!(scene.server.rotations(), 2);
}

#[test]
fn what_an_editor_writes_meanwhile_stays() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::Hold);
    let edited = scene
        .text()
        .replace("; A demo", "# Edited meanwhile\n; A demo")
        + "\n[new]\nx = 1\n";
    scene.write(&edited);
    let run = held.let_go(&scene);
    let text = scene.text();
    assert!(text.starts_with("# Edited meanwhile\n; A demo") && text.ends_with("\n[new]\nx = 1\n"));
    assert_eq!(scene.value("user_access_token"), run.token());
    scene.assert_sound();
}

/// An editor that saves by renaming replaces the locked file; a second run could then lock the new one, and send the
/// same token.
#[test]
fn a_second_run_keeps_out_when_an_editor_has_replaced_the_file() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::Hold);
    let edited = scene.folder().join("edited.ini");
    fs::write(&edited, format!("# Edited\n{}", scene.text())).unwrap();
    fs::rename(&edited, scene.file()).unwrap();
    scene
        .run(["--lock-timeout", "0.2"])
        .assert_failed(5, "another run is still working");
    let run = held.let_go(&scene);
    assert_eq!(scene.value("user_access_token"), run.token());
    assert!(scene.text().starts_with("# Edited\n"));
    assert_eq!(scene.server.requests().len(), 1);
    scene.assert_sound();
}

#[test]
fn a_newer_token_put_there_meanwhile_is_not_overwritten() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::Hold);
    let third = scene.server.refresh_token();
    let edited = scene.text().replace(&scene.value("refresh_token"), &third);
    scene.write(&edited);
    let run = held.let_go(&scene);
    run.assert_failed(6, "another program put another refresh token");
    assert_eq!(scene.text(), edited);
    let named = run
        .stderr
        .split("the new pair is in ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let journal = fs::read_to_string(named).unwrap();
    let ours = tokens_in_journal(&journal).pop().unwrap();
    assert!(scene.server.is_live(&ours) && scene.server.is_live(&third));
    assert_eq!(fs::metadata(named).unwrap().mode() & 0o7777, 0o600);
    // Nor does a later run: ours is kept under another name, since it fits nothing.
    let run = scene.run::<&str>([]);
    run.token();
    assert!(!scene.server.is_live(&third) && scene.server.is_live(&ours));
    let kept = run.stderr.split("kept as ").nth(1).unwrap();
    let kept = kept.lines().next().unwrap();
    assert!(fs::read_to_string(kept).unwrap().contains(&ours));
    fs::remove_file(kept).unwrap();
    scene.assert_sound();
}

#[test]
fn a_token_that_is_taken_out_meanwhile_is_no_other_token() {
    for state in [
        "empty",
        "no section",
        "no key",
        "no value",
        "half a value",
        "moved away",
    ] {
        let scene = Scene::new();
        scene.run(scene.flags()).token();
        let held = HeldRun::start(&scene, Fault::Hold);
        let whole = scene.text();
        let token = scene.value("refresh_token");
        let at = whole.find(&token).unwrap();
        match state {
            "empty" => scene.write(""),
            "no section" => scene.write(&whole[..whole.find("[TOKEN]").unwrap()]),
            "no key" => scene.write(&whole[..whole.find("refresh_token").unwrap()]),
            "no value" => scene.write(whole.replace(&token, "")),
            "half a value" => scene.write(&whole[..at + token.len() / 2]),
            _ => fs::remove_file(scene.file()).unwrap(),
        }
        let run = held.let_go(&scene);
        run.assert_failed(6, "rotated, but not saved");
        let named = scene.journal();
        assert!(
            run.stderr.contains(named.to_str().unwrap()),
            "{state}: {}",
            run.stderr
        );
        // The other program ends its writing: what it had read before.
        scene.write(&whole);
        let run = scene.run(scene.flags());
        run.token();
        assert!(
            run.stderr.contains("it is saved now"),
            "{state}: {}",
            run.stderr
        );
        assert_eq!(scene.server.spent_seen(), 0, "{state}");
        scene.assert_sound();
        assert_eq!(scene.file_names(), ["feishu-config.ini"], "{state}");
    }
}

#[test]
fn a_file_broken_meanwhile_is_left_and_the_pair_kept_beside() {
    let scene = Scene::new();
    let held = HeldRun::start(&scene, Fault::Hold);
    scene.write("[TOKEN]\nhalf a li");
    let run = held.let_go(&scene);
    run.assert_failed(6, "line 2");
    assert_eq!(scene.text(), "[TOKEN]\nhalf a li");
    assert!(scene.server.is_live(&scene.journaled().unwrap()));
}
