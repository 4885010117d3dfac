//! What the harness needs from Windows.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// How an aborting program ends: `STATUS_STACK_BUFFER_OVERRUN`, which stands for any abort.
pub const ABORTED: i32 = 0xC000_0409_u32.cast_signed();

/// Whether a file with other names is recognised, and written in place.
pub const KNOWS_HARD_LINKS: bool = false;

/// How `status` shows the mode of a private file.
pub const PRIVATE_MODE: Option<&str> = None;

/// What a program cannot do without: where the system's libraries are, and where to put temporary files.
pub const VARIABLES: &[&str] = &["SystemRoot", "TEMP"];

/// Whether the program permanently leaves a file of this name beside another.
pub fn is_kept_beside(name: &str) -> bool {
    Path::new(name).extension() == Some("lock".as_ref())
}

/// The file whose lock keeps runs on a file apart.
pub fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Files are as private as their folder.
pub fn set_private(_path: &Path) {}

pub fn is_private(_path: &Path) -> bool {
    true
}

/// A program to start.
pub fn command(program: &str) -> Command {
    Command::new(program)
}

pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap()
}
