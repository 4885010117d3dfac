//! Programs: finding, starting and becoming others.

use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::Access;

use super::{kernel, signals};

/// What runs a command line.
pub(crate) const SHELL: &str = "/bin/sh";

/// Runs a command line in a shell, with this text on its stdin and its stdout on our stderr, and waits for its end. It
/// gets the environment with one more variable, and this program's original signal mask: a signal deferred here does
/// not concern it.
pub(crate) fn run_shell(
    command_line: &str,
    stdin: &str,
    variable: Option<(&str, &str)>,
) -> io::Result<ExitStatus> {
    let (reader, mut writer) = io::pipe()?;
    let mut files = PosixSpawnFileActions::init()?;
    files.add_dup2(reader.as_raw_fd(), 0)?;
    files.add_dup2(2, 1)?;
    let mut attributes = PosixSpawnAttr::init()?;
    let mut flags =
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    attributes.set_sigmask(&signals::original())?;
    // Rust's runtime ignores it.
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    if !has_terminal() {
        // A signal to this program's group is not for the command. At a terminal it is, and a command
        // in a group of its own could not ask anything there.
        flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
        attributes.set_pgroup(Pid::from_raw(0))?;
    }
    attributes.set_flags(flags)?;
    let arguments = [
        c"sh".to_owned(),
        c"-c".to_owned(),
        CString::new(command_line)?,
    ];
    let shell = Path::new(SHELL);
    let child = kernel::with_core_dumps(|| {
        posix_spawn(
            shell,
            &files,
            &attributes,
            &arguments,
            &environment(variable)?,
        )
        .map_err(io::Error::from)
    })?;
    drop(reader);
    // A command need not read its stdin.
    let _ = writer.write_all(stdin.as_bytes());
    drop(writer);
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The environment of this program, with one more variable.
fn environment(variable: Option<(&str, &str)>) -> io::Result<Vec<CString>> {
    let others = env::vars_os().filter(|(name, _)| variable.is_none_or(|(own, _)| name != own));
    let own = variable.map(|(name, value)| (name.into(), value.into()));
    let texts = others
        .chain(own)
        .map(|(name, value): (OsString, OsString)| {
            let mut text = name;
            text.push("=");
            text.push(value);
            Ok(CString::new(text.into_encoded_bytes())?)
        });
    texts.collect()
}

/// Prevents core dumps of this program's memory. Programs that it starts or becomes may have theirs.
pub(crate) fn forbid_core_dumps() {
    kernel::forbid_core_dumps();
}

/// Whether there is a process with this id.
pub(crate) fn is_running(id: u32) -> bool {
    let id = i32::try_from(id).ok().filter(|id| *id > 0);
    let asked = id.map(|id| kill(Pid::from_raw(id), None));
    matches!(asked, Some(Ok(()) | Err(Errno::EPERM)))
}

/// Whether a person sits at a terminal that belongs to this run.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether there is a shell: an image may have none.
pub(crate) fn has_shell() -> bool {
    is_program(Path::new(SHELL))
}

/// Whether a file can be started as a program.
pub(crate) fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Becomes another program, which takes over exit code, signals and stdin. Returns only on failure.
pub(crate) fn turn_into(command: &mut Command) -> io::Error {
    match kernel::with_core_dumps(|| Err::<(), _>(command.exec())) {
        Ok(()) => io::ErrorKind::Other.into(),
        Err(error) => error,
    }
}

/// Whether there is a browser to open, judging by the environment variables.
pub(crate) fn has_browser(is_set: &dyn Fn(&str) -> bool) -> bool {
    let screen = ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME"];
    // A Mac has a screen, and no variable that says so.
    cfg!(target_os = "macos") || screen.into_iter().any(is_set)
}

/// Quotes a text as one word of a command line for a person to type.
pub(crate) use crate::text::quoted;
