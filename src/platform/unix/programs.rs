//! Programs: finding, starting and becoming others.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Access;

/// What runs a command line.
pub(crate) const SHELL: &str = "/bin/sh";

/// The shell with this command line, ready to start.
pub(crate) fn shell(command_line: &str) -> Command {
    let mut shell = Command::new(SHELL);
    shell.args(["-c", command_line]);
    if !has_terminal() {
        // A signal to this program's group is not for the command. At a terminal it is, and a command
        // in a group of its own could not ask anything there.
        shell.process_group(0);
    }
    shell
}

/// Whether a person sits at a terminal that belongs to this run.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Stderr, for a command to write to.
pub(crate) fn stderr() -> io::Result<Stdio> {
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    stderr.map(Stdio::from)
}

/// Whether a file can be started as a program.
pub(crate) fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Becomes another program, whose exit code, signals and stdin are then its own. Returns only if
/// that fails.
pub(crate) fn turn_into(command: &mut Command) -> io::Error {
    command.exec()
}

/// Whether there is a browser to open, going by the environment variables that are set.
pub(crate) fn has_browser(is_set: &dyn Fn(&str) -> bool) -> bool {
    let screen = ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME"];
    // A Mac has a screen, and no variable that says so.
    cfg!(target_os = "macos") || screen.into_iter().any(is_set)
}

/// A text as one word of a command line that a person types.
pub(crate) use crate::text::quoted;
