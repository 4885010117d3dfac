//! `cargo run --example sandbox`: the main job against a stand-in server, with no account and no
//! network, once for each kind of token endpoint. With `-- --serve` the stand-in stays up, and
//! commands to try by hand are printed; with `--tls`, too, it speaks TLS with a certificate of its own
//! (`ca.pem` in its folder). With `-- --postgres` ten runs share a login in a database.
//!
//! Whatever is printed to be typed works as it stands: `tests/sandbox_lines.rs` types it.

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
#[cfg_attr(windows, path = "stop_windows.rs")]
mod stop;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use feishu_refresh::cli::{self, Console};
use server::{APP_ID, APP_SECRET, Authority, Fault, Sandbox, Term};
use stop::Stop;

/// The program's name.
const PROGRAM: &str = "feishu-refresh";

/// A profile of the demonstration's file, and the endpoint that it is refreshed at.
const PROFILES: [(&str, &str); 4] = [
    ("TOKEN", "v1"),
    ("second-bot", "oidc"),
    ("third-bot", "v2"),
    ("disk", "115"),
];

fn main() -> Result<ExitCode> {
    let called = env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_stem() == Some(PROGRAM.as_ref()) {
        return Ok(program());
    }
    let has_flag = |flag: &str| env::args().any(|argument| argument == flag);
    // Before there are other threads, which would be ended by a signal at once.
    let stop = has_flag("--serve").then(Stop::prepare).transpose()?;
    let authority = Authority::new("feishu-refresh sandbox")?;
    let tls = has_flag("--tls").then(|| authority.server("127.0.0.1", Term::Now));
    let sandbox = Sandbox::start_with(tls.transpose()?).context("cannot start the stand-in")?;
    let folder = tempfile::Builder::new()
        .prefix("feishu-refresh-sandbox-")
        .tempdir()?;
    let path = folder.path();
    install(path)?;
    fs::write(path.join("ca.pem"), authority.pem())?;
    #[cfg(unix)]
    if has_flag("--postgres") {
        let Some(stop) = stop else {
            return shared::demo(&sandbox, path).map(|()| ExitCode::SUCCESS);
        };
        shared::serve(&sandbox, path, &stop)?;
        drop(folder);
        return Ok(stop.end());
    }
    let file = path.join("feishu-config.ini");
    let mut text = "; A demo of feishu-refresh. The tokens are play money.\n".to_owned();
    text.push_str(&sections(&sandbox));
    if stop.is_some() {
        text.push_str(&redirect()?);
    }
    fs::write(&file, text)?;
    // Elsewhere it is as private as its folder.
    #[cfg(unix)]
    set_private(&file)?;
    let Some(stop) = stop else {
        return demo(&sandbox, &file).map(|()| ExitCode::SUCCESS);
    };
    serve(&sandbox, path)?;
    stop.wait()?;
    drop(folder);
    Ok(stop.end())
}

/// Is the program, where it is called by that name.
fn program() -> ExitCode {
    let mut console = Console {
        env: &|name| env::var_os(name),
        stdin: Box::new(io::stdin()),
        stdin_is_terminal: io::stdin().is_terminal(),
        stdout: &mut io::stdout(),
        stderr: &mut io::stderr(),
        stdout_is_terminal: io::stdout().is_terminal(),
        stderr_is_terminal: io::stderr().is_terminal(),
    };
    ExitCode::from(cli::run(env::args_os(), &mut console))
}

/// Puts the program into the folder's `bin`, so that nothing else must be built to try it.
fn install(folder: &Path) -> Result<()> {
    let bin = folder.join("bin");
    fs::create_dir(&bin)?;
    let name = PROGRAM.to_owned() + env::consts::EXE_SUFFIX;
    let own = env::current_exe()?;
    #[cfg(unix)]
    std::os::unix::fs::symlink(own, bin.join(name))?;
    // A link there needs rights that few have.
    #[cfg(not(unix))]
    fs::copy(own, bin.join(name))?;
    Ok(())
}

/// The app and the hosts, which all share, and a profile for each endpoint.
fn sections(sandbox: &Sandbox) -> String {
    let base = sandbox.base_url();
    let mut text = format!(
        "\n[ID]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {base}\naccounts_url = {base}\n"
    );
    for (profile, api) in PROFILES {
        let token = sandbox.refresh_token_for(api);
        text.push_str(&format!(
            "\n[{profile}]\napi = {api}\nrefresh_token = {token}\n"
        ));
    }
    text
}

/// Where a browser comes back to: a port that is free, for the usual one may be taken here.
fn redirect() -> Result<String> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(format!(
        "\n[LOGIN_CODE]\nredirect_uri = http://localhost:{port}/callback\n"
    ))
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
        stdin_is_terminal: false,
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

/// What a fresh shell needs before the program can be typed there: where it is, where its files are,
/// and whose certificates are good. What it remembers goes with the folder.
fn entrance(sandbox: &Sandbox, folder: &Path) -> String {
    let folder = folder.display();
    let trust = if sandbox.base_url().starts_with("https") {
        "export SSL_CERT_FILE=ca.pem CURL_CA_BUNDLE=ca.pem\n"
    } else {
        ""
    };
    format!(
        "export PATH='{folder}/bin':\"$PATH\"\n\
         export XDG_STATE_HOME='{folder}/state'\n\
         cd '{folder}'\n\
         {trust}"
    )
}

/// Prints what to try. What a line is for stands above it, not behind a `#`: to zsh at a terminal, that
/// is an argument.
fn serve(sandbox: &Sandbox, folder: &Path) -> Result<()> {
    let base = sandbox.base_url();
    say(&format!(
        "A stand-in for Feishu and 115 listens at {base} until you press Ctrl-C. In another terminal:\n\n\
         {}\
         feishu-refresh\n\n\
         More of what happened:\n\
         feishu-refresh -o json -v\n\n\
         A token that may do less:\n\
         feishu-refresh -p third-bot --scope task:task:read -o json\n\n\
         The wrong endpoint for its token, which is refused with code 4:\n\
         feishu-refresh -p third-bot --api v1\n\n\
         Every profile of the file:\n\
         feishu-refresh --all\n\n\
         115 takes one refresh a minute. The next would wait; like this it ends with code 5:\n\
         feishu-refresh -p disk --max-wait 0\n\n\
         A first pair. Open the link, and agree (--paste and --device are other ways):\n\
         feishu-refresh login -p mine\n\
         feishu-refresh status\n\n\
         A file of its own, with tokens from elsewhere:\n\
         feishu-refresh -c new.ini --base-url {base} -a {} -r {}\n\n\
         Ten at once, which share one new token:\n\
         for i in 1 2 3 4 5 6 7 8 9 10; do feishu-refresh & done; wait\n\n\
         After one of these the next request fails (-v shows it, --retries 0 lets it stand):\n\n",
        entrance(sandbox, folder),
        sandbox.app_token(),
        sandbox.refresh_token(),
    ))?;
    for (name, _) in Fault::NAMED {
        say(&format!("curl -X POST {base}/sandbox/fault/{name}\n"))?;
    }
    say(&format!(
        "\nFour of them, in reply to a refresh, spend the token for nothing: close-after-spending, truncate, endless, no-refresh-token. \
         For a new one, as if a user had consented again:\n\
         feishu-refresh --base-url {base} -r $(curl -s -X POST {base}/sandbox/login)\n\
         feishu-refresh --base-url {base} -p third-bot -r $(curl -s -X POST {base}/sandbox/login/v2)\n"
    ))
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
