//! What the harness needs from Unix.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::LazyLock;

use nix::sys::signal::Signal;

/// How an aborting program ends.
pub const ABORTED: i32 = 128 + 6;

/// Whether a file with other names is recognised, and written in place.
pub const KNOWS_HARD_LINKS: bool = true;

/// How `status` shows the mode of a private file.
pub const PRIVATE_MODE: Option<&str> = Some("0600");

/// What a program cannot do without.
pub const VARIABLES: &[&str] = &[];

/// Whether the program permanently leaves a file of this name beside another.
pub fn is_kept_beside(_name: &str) -> bool {
    false
}

/// The file whose lock keeps runs on a file apart.
pub fn lock_of(path: &Path) -> PathBuf {
    path.to_owned()
}

pub fn set_private(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

pub fn is_private(path: &Path) -> bool {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777 == 0o600
}

/// A signal counts as it does in a shell.
pub fn exit_code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).unwrap()
}

/// A program to start, with default work for all signals. A program keeps ignoring what whoever started
/// it ignored, as a shell's `&` and `nohup` do with Ctrl-C: then it goes through `env`, which can undo
/// that. (Without it, std undoes the mask and SIGPIPE alone.)
pub fn command(program: impl AsRef<OsStr>) -> Command {
    static IS_DEAF: LazyLock<bool> = LazyLock::new(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        // Rust's runtime ignores SIGPIPE.
        ignored.unwrap_or_default() & !(1 << (Signal::SIGPIPE as i32 - 1)) != 0
    });
    if !*IS_DEAF {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal").arg(program);
    command
}

/// Sends a signal, named as `kill` names it.
pub fn send_signal(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .output();
    sent.unwrap();
}

/// Asserts that only a program's main thread takes signals.
pub fn assert_helpers_shielded(id: u32) {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter();
    for task in tasks.flatten() {
        let task = task.unwrap();
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
        let is_main = task.file_name().to_str() == Some(&id.to_string());
        // SIGHUP, SIGINT and SIGTERM.
        assert_eq!(
            blocked & 0x4003,
            if is_main { 0 } else { 0x4003 },
            "{status}"
        );
    }
}

/// Whether a test can use root's powers; says so if it cannot.
pub fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        eprintln!("skipped: this test needs root");
    }
    root
}
