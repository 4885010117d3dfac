//! Programs: finding and starting others, and standing in for them.

use std::io::{self, Write};
use std::os::windows::io::AsHandle;
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};

use super::signals::Mask;

/// What runs a command line.
pub(crate) const SHELL: &str = "cmd";

/// Whether there is a shell: always.
pub(crate) fn has_shell() -> bool {
    true
}

/// Runs a command line in a shell, with this text on its stdin and its stdout on our stderr, and waits
/// for its end. It gets the environment with one more variable.
pub(crate) fn run_shell(
    command_line: &str,
    stdin: &str,
    variable: Option<(&str, &str)>,
) -> io::Result<ExitStatus> {
    let mut shell = Command::new(SHELL);
    // /S removes the outer quotes and keeps the rest; /D skips what the registry would have each shell run first.
    shell.raw_arg(format!("/D /S /C \"{command_line}\""));
    let stderr = io::stderr().as_handle().try_clone_to_owned();
    let stdout = stderr.map_or_else(|_| Stdio::null(), Stdio::from);
    let mut child = shell
        .envs(variable)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command need not read its stdin.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    child.wait()
}

/// There are none here unless configured.
pub(crate) fn forbid_core_dumps() {}

/// Whether there is a process with this id: assumed, since asking needs unsafe code.
pub(crate) fn is_running(_id: u32) -> bool {
    true
}

/// Whether a file can be started as a program, under this name or with the `.exe` left out.
pub(crate) fn is_program(path: &Path) -> bool {
    let mut with_ending = path.as_os_str().to_owned();
    with_ending.push(".exe");
    path.is_file() || Path::new(&with_ending).is_file()
}

/// Stands in for another program until it ends, and then ends with its code: no program can become
/// another here. Returns only if it does not start.
pub(crate) fn turn_into(command: &mut Command) -> io::Error {
    // Ctrl-C reaches that program, too, and its reaction counts.
    let mut mask = Mask::default();
    mask.defer();
    match command.status() {
        Ok(status) => process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

/// Whether there is a browser to open: Windows has a screen.
pub(crate) fn has_browser(_is_set: &dyn Fn(&str) -> bool) -> bool {
    true
}

/// Quotes a text as one word of a command line for a person to type.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}
