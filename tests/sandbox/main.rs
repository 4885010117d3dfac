//! `cargo run --example sandbox`: the main job against a stand-in server, with no account and no
//! network, once for each kind of token endpoint. With `-- --serve` the stand-in stays up, and
//! commands to try by hand are printed; with `--tls`, too, it speaks TLS with a certificate of its own
//! (`ca.pem` in its folder). With `-- --postgres` ten runs share a login in a database.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the tests use all of the stand-in"
)]

#[path = "server.rs"]
mod server;
#[cfg(unix)]
mod shared;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use feishu_refresh::cli::{self, Console};
use server::{Authority, Fault, Sandbox, Term};

/// A profile of the demonstration's file, and the endpoint that it is refreshed at.
const PROFILES: [(&str, &str); 4] = [
    ("TOKEN", "v1"),
    ("second-bot", "oidc"),
    ("third-bot", "v2"),
    ("disk", "115"),
];

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--program") {
        return program();
    }
    let has_flag = |flag: &str| std::env::args().any(|argument| argument == flag);
    let authority = Authority::new("feishu-refresh sandbox")?;
    let tls = has_flag("--tls").then(|| authority.server("127.0.0.1", Term::Now));
    let sandbox = Sandbox::start_with(tls.transpose()?).context("cannot start the stand-in")?;
    let folder = tempfile::Builder::new()
        .prefix("feishu-refresh-sandbox-")
        .tempdir()?;
    let file = folder.path().join("feishu-config.ini");
    let mut text = "; A demo of feishu-refresh. The tokens are play money.\n".to_owned();
    for (profile, api) in PROFILES {
        text.push_str(&format!("\n{}", sandbox.profile(profile, api)));
    }
    #[cfg(unix)]
    if has_flag("--postgres") {
        return if has_flag("--serve") {
            shared::serve(&sandbox, folder.path())
        } else {
            shared::demo(&sandbox, folder.path())
        };
    }
    fs::write(&file, text)?;
    // Elsewhere it is as private as its folder.
    #[cfg(unix)]
    set_private(&file)?;
    fs::write(folder.path().join("ca.pem"), authority.pem())?;
    if has_flag("--serve") {
        // The folder stays, like the server, until the person is done with it.
        let folder = folder.keep();
        serve(&sandbox, &folder)
    } else {
        demo(&sandbox, &file)
    }
}

/// Is the program, for a demonstration that needs several at once.
fn program() -> Result<()> {
    let lookup = |name: &str| std::env::var_os(name);
    let mut console = Console {
        env: &lookup,
        stdin: Box::new(io::stdin()),
        stdout: &mut io::stdout(),
        stderr: &mut io::stderr(),
        stdout_is_terminal: false,
        stderr_is_terminal: true,
    };
    let arguments = std::env::args_os().skip(1);
    std::process::exit(cli::run(arguments, &mut console).into());
}

fn demo(sandbox: &Sandbox, file: &Path) -> Result<()> {
    say(&format!(
        "A stand-in for Feishu and 115 listens at {}.\n",
        sandbox.base_url()
    ))?;
    show("The file before", file)?;
    let run_profile = |profile: &str, output: &str| {
        let file: OsString = file.into();
        let arguments = ["feishu-refresh".into(), "-c".into(), file].into_iter();
        let more = ["-p", profile, "-o", output].map(OsString::from);
        run(&arguments.chain(more).collect::<Vec<_>>())
    };
    for (profile, _) in PROFILES {
        let token = run_profile(profile, "token")?;
        ensure!(
            sandbox.gave(token.trim()),
            "the token printed is not the server's"
        );
    }
    show("The file after that", file)?;
    run_profile("TOKEN", "json")?;
    ensure!(
        sandbox.rotations() == PROFILES.len() + 1 && sandbox.spent_seen() == 0,
        "not as many clean rotations as runs"
    );
    say("Five rotations, no token lost. Try `cargo run --example sandbox -- --serve` next.\n")
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
        stdin: Box::new(io::empty()),
        stdout: &mut stdout,
        stderr: &mut io::stderr(),
        stdout_is_terminal: false,
        stderr_is_terminal: true,
    };
    let code = cli::run(arguments.iter().cloned(), &mut console);
    let printed = String::from_utf8(stdout)?;
    say(&format!("{}\n", shortened(&printed)))?;
    ensure!(code == 0, "the program ended with code {code}");
    Ok(printed)
}

fn show(title: &str, file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    say(&format!(
        "{title}:\n    {}\n\n",
        shortened(text.trim_end()).replace('\n', "\n    ")
    ))
}

/// The text with its long words cut: a token of v2 is longer than a screen.
fn shortened(text: &str) -> String {
    let cut = |word: &str| match word.char_indices().nth(76) {
        Some((end, _)) if !word.starts_with('{') => format!("{}…", &word[..end]),
        _ => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(cut).collect::<Vec<_>>().join(" ");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn serve(sandbox: &Sandbox, folder: &Path) -> Result<()> {
    let base = sandbox.base_url();
    let program = std::env::current_exe()?;
    let program = program.ancestors().nth(2).unwrap_or(&program);
    let release = if program.ends_with("release") {
        " --release"
    } else {
        ""
    };
    let trust = if base.starts_with("https") {
        "export SSL_CERT_FILE=ca.pem CURL_CA_BUNDLE=ca.pem\n"
    } else {
        ""
    };
    say(&format!(
        "A stand-in for Feishu and 115 listens at {base} until you press Ctrl-C. In another terminal:\n\n\
         cargo build{release}\n\
         export PATH='{}':\"$PATH\"\n\
         cd '{}'\n\
         {trust}\
         feishu-refresh                   # everything from feishu-config.ini\n\
         feishu-refresh -o json -v        # more of what happened\n\
         feishu-refresh -p third-bot --scope task:task:read -o json\n\
         feishu-refresh -p third-bot --api v1   # the wrong endpoint for its token\n\
         feishu-refresh --all             # every profile of the file\n\
         feishu-refresh -p disk           # a second one within a minute waits; --max-wait 0 does not\n\
         feishu-refresh login -p mine --accounts-url {base}   # open the link, and agree; or --paste, --device\n\
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
        "\nFour of them, in reply to a refresh, spend the token for nothing: close-after-spending, truncate, endless, no-refresh-token. \
         For a new one, as if a user had consented again:\n\n\
         feishu-refresh --base-url {base} -r $(curl -s -X POST {base}/sandbox/login)\n\
         feishu-refresh --base-url {base} -p third-bot -r $(curl -s -X POST {base}/sandbox/login/v2)\n"
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
