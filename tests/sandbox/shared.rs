//! `cargo run --example sandbox -- --postgres`: a login in a database of its own, and ten runs at once
//! that share it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::server::{Postgres, Sandbox};
use super::{say, set_private, show};

/// So many runs at once share the login.
const RUNS: usize = 10;

/// What a row says that anybody can read.
const ROW: &str = "SELECT name, state, api, refresh_fingerprint, previous_fingerprint, generation, lease_holder, \
     left(refresh_token, 24) || '…' AS refresh_token FROM feishu_refresh.login";

/// The demonstration.
pub fn demo(sandbox: &Sandbox, folder: &Path) -> Result<()> {
    let Some(database) = Postgres::start().context("cannot start PostgreSQL")? else {
        return Ok(());
    };
    let file = folder.join("feishu-config.ini");
    let profile = sandbox.profile("TOKEN", "v1");
    fs::write(
        &file,
        format!("; A demo of feishu-refresh. The tokens are play money.\n\n{profile}"),
    )?;
    set_private(&file)?;
    let key = folder.join("key");
    let program = |arguments: &[&str]| {
        let mut program = Command::new(env::current_exe()?);
        program
            .arg("--program")
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("XDG_STATE_HOME", folder)
            .env("FEISHU_STORE", database.address())
            .env("FEISHU_STORE_KEY_FILE", &key);
        Ok::<_, anyhow::Error>(program)
    };
    let run = |arguments: &[&str]| {
        say(&format!("$ feishu-refresh {}\n", arguments.join(" ")))?;
        let done = program(arguments)?.stderr(Stdio::inherit()).output()?;
        ensure!(
            done.status.success(),
            "the program ended with {}",
            done.status
        );
        Ok(String::from_utf8(done.stdout)?)
    };
    say("PostgreSQL runs in a folder of its own, and is named in FEISHU_STORE.\n\n")?;
    fs::write(&key, run(&["store", "key"])?)?;
    set_private(&key)?;
    run(&["store", "init"])?;
    run(&["store", "import", "-c", "feishu-config.ini"])?;
    show("What is left of the file", &file)?;
    say(&format!("The row before:\n{}\n\n", row(&database)?))?;
    say(&format!(
        "$ feishu-refresh --min-ttl 10m    # {RUNS} at once\n"
    ))?;
    let start = || {
        let mut program = program(&["--min-ttl", "10m"])?;
        Ok(program.stdout(Stdio::piped()).spawn()?)
    };
    let started: Vec<_> = (0..RUNS).map(|_| start()).collect::<Result<_>>()?;
    let mut tokens = Vec::new();
    for run in started {
        let done = run.wait_with_output()?;
        ensure!(done.status.success(), "a run ended with {}", done.status);
        tokens.push(String::from_utf8(done.stdout)?);
    }
    let first = tokens.first().cloned().unwrap_or_default();
    ensure!(
        tokens.iter().all(|token| *token == first),
        "they got tokens that differ"
    );
    ensure!(sandbox.gave(first.trim()), "the token is not the server's");
    ensure!(
        sandbox.rotations() == 1 && sandbox.spent_seen() == 0,
        "more than one request, or a spent token"
    );
    say(&format!(
        "{first}\nThe row after that:\n{}\n\n",
        row(&database)?
    ))?;
    run(&["status"]).and_then(|table| say(&table))?;
    say(&format!("\nOne request, {RUNS} tokens.\n"))
}

/// The row, a column a line.
fn row(database: &Postgres) -> Result<String> {
    let address = database.socket_address();
    let done = Command::new("psql")
        .args(["-X", "-x", "-c", ROW, &address])
        .output();
    match done {
        Ok(done) if done.status.success() => Ok(String::from_utf8(done.stdout)?.trim().to_owned()),
        _ => database.query_at(&address, ROW),
    }
}
