//! `cargo run --example sandbox -- --postgres`: a login in its own database, and ten runs at once that share it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::server::{Postgres, Sandbox};
use super::stop::Stop;
use super::{PROGRAM, entrance, say, set_private, show};

/// This many runs at once share the login.
const RUNS: usize = 10;

/// The readable part of a row.
const ROW: &str = "SELECT name, state, api, refresh_fingerprint, previous_fingerprint, generation, lease_holder, \
     left(refresh_token, 24) || '…' AS refresh_token FROM feishu_refresh.login";

/// A database, a key, and a login that has moved in.
struct Stage<'s> {
    folder: &'s Path,
    database: Postgres,
}

impl<'s> Stage<'s> {
    /// None where there is no PostgreSQL.
    fn set(sandbox: &Sandbox, folder: &'s Path) -> Result<Option<Self>> {
        let started = Postgres::start().context("cannot start PostgreSQL")?;
        let Some(database) = started else {
            return Ok(None);
        };
        let stage = Stage { folder, database };
        let profile = sandbox.profile("TOKEN", "v1");
        let head = "; A demo of feishu-refresh. The tokens are play money.";
        fs::write(stage.file(), format!("{head}\n\n{profile}"))?;
        set_private(&stage.file())?;
        say("PostgreSQL runs in a folder of its own, and is named in FEISHU_STORE.\n\n")?;
        fs::write(stage.key(), stage.run(&["store", "key"])?)?;
        set_private(&stage.key())?;
        stage.run(&["store", "init"])?;
        stage.run(&["store", "import", "-c", "feishu-config.ini"])?;
        Ok(Some(stage))
    }

    fn file(&self) -> PathBuf {
        self.folder.join("feishu-config.ini")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// The program, with the store named in its environment.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut program = Command::new(self.folder.join("bin").join(PROGRAM));
        program
            .args(arguments)
            .current_dir(self.folder)
            .env_clear()
            .env("XDG_STATE_HOME", self.folder.join("state"))
            .env("FEISHU_STORE", self.database.address())
            .env("FEISHU_STORE_KEY_FILE", self.key());
        program
    }

    /// Runs the program, and gives what it prints.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        say(&format!("$ feishu-refresh {}\n", arguments.join(" ")))?;
        let done = self.program(arguments).stderr(Stdio::inherit()).output()?;
        ensure!(
            done.status.success(),
            "the program ended with {}",
            done.status
        );
        Ok(String::from_utf8(done.stdout)?)
    }

    /// Runs it many times at once, and gives what each prints.
    fn run_at_once(&self, arguments: &[&str]) -> Result<Vec<String>> {
        say(&format!(
            "$ feishu-refresh {}    # {RUNS} at once\n",
            arguments.join(" ")
        ))?;
        let start = || Ok(self.program(arguments).stdout(Stdio::piped()).spawn()?);
        let started: Vec<_> = (0..RUNS).map(|_| start()).collect::<Result<_>>()?;
        let printed = started.into_iter().map(|run| {
            let done = run.wait_with_output()?;
            ensure!(done.status.success(), "a run ended with {}", done.status);
            Ok(String::from_utf8(done.stdout)?)
        });
        printed.collect()
    }
}

/// The demonstration.
pub fn demo(sandbox: &Sandbox, folder: &Path) -> Result<()> {
    let Some(stage) = Stage::set(sandbox, folder)? else {
        return Ok(());
    };
    show("What is left of the file", &stage.file())?;
    let database = &stage.database;
    say(&format!("The row before:\n{}\n\n", row(database)?))?;
    let tokens = stage.run_at_once(&["--min-ttl", "10m"])?;
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
    let after = row(database)?;
    say(&format!("{first}\nThe row after that:\n{after}\n\n"))?;
    say(&stage.run(&["status"])?)?;
    say(&format!("\nOne request, {RUNS} tokens.\n"))
}

/// The same setup, until the person ends it.
pub fn serve(sandbox: &Sandbox, folder: &Path, stop: &Stop) -> Result<()> {
    let Some(stage) = Stage::set(sandbox, folder)? else {
        return Ok(());
    };
    say(&format!(
        "\nBoth run until you press Ctrl-C. In another terminal:\n\n\
         {}\
         export FEISHU_STORE='{}'\n\
         export FEISHU_STORE_KEY_FILE='{}'\n\
         feishu-refresh\n\
         feishu-refresh status\n\
         for i in 1 2 3 4 5 6 7 8 9 10; do feishu-refresh --min-ttl 10m & done; wait\n\
         psql -x '{}' -c 'SELECT * FROM feishu_refresh.login'\n",
        entrance(sandbox, folder),
        stage.database.address(),
        stage.key().display(),
        stage.database.socket_address(),
    ))?;
    stop.wait()
}

/// The row, one column per line.
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
