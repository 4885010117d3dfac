//! Hands the arguments to the library and turns its verdict into an exit code.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use feishu_refresh::cli::{self, Console};

fn main() -> ExitCode {
    let mut console = Console {
        env: &|name| std::env::var_os(name),
        stdin: Box::new(io::stdin()),
        stdin_is_terminal: io::stdin().is_terminal(),
        stdout: &mut io::stdout(),
        stderr: &mut io::stderr(),
        stdout_is_terminal: io::stdout().is_terminal(),
        stderr_is_terminal: io::stderr().is_terminal(),
    };
    ExitCode::from(cli::run(std::env::args_os(), &mut console))
}
