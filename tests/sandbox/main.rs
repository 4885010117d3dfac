//! `cargo run --example sandbox`: the main job against a stand-in server, with no account and no
//! network. With `-- --serve` the stand-in stays up, and commands to try by hand are printed.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the tests use all of the stand-in"
)]

#[path = "server.rs"]
mod server;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use feishu_refresh::cli::{self, Console};
use server::{Fault, Sandbox};

fn main() -> Result<()> {
    let sandbox = Sandbox::start().context("cannot start the stand-in")?;
    let folder = tempfile::Builder::new()
        .prefix("feishu-refresh-sandbox-")
        .tempdir()?;
    let file = folder.path().join("feishu-config.ini");
    fs::write(&file, sandbox.config_file())?;
    set_private(&file)?;
    if std::env::args().any(|argument| argument == "--serve") {
        // The folder stays, like the server, until the person is done with it.
        let folder = folder.keep();
        serve(&sandbox, &folder)
    } else {
        demo(&sandbox, &file)
    }
}

fn demo(sandbox: &Sandbox, file: &Path) -> Result<()> {
    say(&format!(
        "A stand-in for Feishu listens at {}.\n",
        sandbox.base_url()
    ))?;
    show("The file before", file)?;
    let file_argument = file.as_os_str().to_owned();
    let first = run(&["feishu-refresh".into(), "-c".into(), file_argument.clone()])?;
    ensure!(
        sandbox.gave(first.trim()),
        "the token printed is not the server's"
    );
    show("The file after it", file)?;
    run(&[
        "feishu-refresh".into(),
        "-c".into(),
        file_argument,
        "-o".into(),
        "json".into(),
    ])?;
    show("The file after that", file)?;
    ensure!(
        sandbox.rotations() == 2 && sandbox.spent_seen() == 0,
        "not two clean rotations"
    );
    say("Two rotations, no token lost. Try `cargo run --example sandbox -- --serve` next.\n")
}

/// Runs the program, in this process, and shows what a person would see.
fn run(arguments: &[OsString]) -> Result<String> {
    let shown: Vec<_> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    say(&format!("$ {}\n", shown.join(" ")))?;
    let mut stdout = Vec::new();
    let mut console = Console {
        env: &|_| None,
        stdin: &mut io::empty(),
        stdout: &mut stdout,
        stderr: &mut io::stderr(),
        is_terminal: true,
    };
    let code = cli::run(arguments.iter().cloned(), &mut console);
    let printed = String::from_utf8(stdout)?;
    say(&format!("{printed}\n"))?;
    ensure!(code == 0, "the program ended with code {code}");
    Ok(printed)
}

fn show(title: &str, file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    say(&format!(
        "{title}:\n    {}\n\n",
        text.trim_end().replace('\n', "\n    ")
    ))
}

fn serve(sandbox: &Sandbox, folder: &Path) -> Result<()> {
    let base = sandbox.base_url();
    let program = std::env::current_exe()?;
    let program = program
        .ancestors()
        .nth(2)
        .unwrap_or(&program)
        .join("feishu-refresh");
    say(&format!(
        "A stand-in for Feishu listens at {base} until you press Ctrl-C. In another terminal:\n\n\
         cargo build\n\
         alias feishu-refresh='{}'\n\
         cd '{}'\n\
         feishu-refresh                   # everything from feishu-config.ini\n\
         feishu-refresh -o json -v        # more of what happened\n\
         feishu-refresh -c new.ini --base-url {base} -a {} -r {}\n\
         for i in 1 2 3 4 5 6 7 8 9 10; do feishu-refresh & done; wait\n\n\
         After one of these the next request fails (-v shows it, --retries 0 lets it stand):\n\n",
        program.display(),
        folder.display(),
        sandbox.app_token(),
        sandbox.refresh_token(),
    ))?;
    for (name, _) in Fault::NAMED {
        say(&format!("curl -X POST {base}/sandbox/fault/{name}\n"))?;
    }
    say(&format!(
        "\nFour of them spend the token for nothing: close-after-spending, truncate, endless, no-refresh-token. \
         For a new one, as if a user had consented again:\n\n\
         feishu-refresh --base-url {base} -r $(curl -s -X POST {base}/sandbox/login)\n"
    ))?;
    loop {
        std::thread::park();
    }
}

#[cfg(unix)]
fn set_private(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
}

fn say(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}
