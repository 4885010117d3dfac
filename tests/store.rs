//! Logins in PostgreSQL: what a user types, and what happens.

mod addresses;
mod commands;
mod faults;
mod hosts;
mod keys;
mod kills;
mod many;
mod moving;
mod together;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use feishu_refresh::{ExposeSecret, blocking};

use crate::harness::{Run, Scene};
use crate::sandbox::{Fault, Postgres};

/// A scene with a database that holds its login.
pub struct Shared {
    pub scene: Scene,
    pub database: Postgres,
    pub key: PathBuf,
}

impl Shared {
    /// A database with tables, and the scene's login moved into it. None where there is no PostgreSQL.
    pub fn start() -> Option<Self> {
        Shared::start_with(&[])
    }

    /// The same, with these settings of the server.
    pub fn start_with(settings: &[(&str, &str)]) -> Option<Self> {
        let shared = Shared::without_login(settings)?;
        shared.run(&["store", "import"]).assert_done();
        Some(shared)
    }

    /// The same, with the login still in the file.
    pub fn without_login(settings: &[(&str, &str)]) -> Option<Self> {
        Postgres::start_with(settings).unwrap().map(Shared::at)
    }

    /// This database with tables, and the login still in the file.
    pub fn at(database: Postgres) -> Self {
        let scene = Scene::new();
        let key = scene.folder().join("key");
        let made = scene.run(["store", "key"]);
        made.assert_done();
        fs::write(&key, made.stdout).unwrap();
        let private = Permissions::from_mode(0o600);
        fs::set_permissions(&key, private).unwrap();
        let shared = Shared {
            scene,
            database,
            key,
        };
        shared.run(&["store", "init"]).assert_done();
        shared
    }

    /// The program, with the store named in its environment.
    pub fn program(&self) -> Command {
        let mut program = self.scene.program();
        program.env("FEISHU_STORE", self.database.address());
        program.env("FEISHU_STORE_KEY_FILE", &self.key);
        program
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.program().args(arguments).output().unwrap())
    }

    /// One value of the login's row.
    pub fn value(&self, column: &str) -> String {
        let name = "TOKEN";
        let sql = format!("SELECT {column} FROM feishu_refresh.login WHERE name = '{name}'");
        self.database.query(&sql)
    }
}

impl Run {
    /// All went well.
    pub fn assert_done(&self) {
        assert_eq!(self.code, 0, "{}", self.stderr);
    }
}

#[test]
fn a_login_moves_in_and_is_refreshed_there() {
    let Some(shared) = Shared::start() else {
        return;
    };
    assert_eq!(shared.value("state"), "live");
    let first = shared.value("refresh_fingerprint");
    let text = shared.scene.text();
    assert!(
        text.contains("this login was moved to postgres://"),
        "{text}"
    );
    let run = shared.run(&[]);
    run.assert_done();
    assert_eq!(run.stderr, "");
    assert!(shared.scene.server.gave(run.token()));
    assert_eq!(shared.value("previous_fingerprint"), first);
    assert_eq!(shared.value("lease_id"), "");
    let again = shared.run(&["--min-ttl", "10m"]);
    assert_eq!(again.token(), run.token());
    let row = shared.value("login.*::text");
    assert!(!row.contains(run.token()), "{row}");
    assert_eq!(shared.scene.server.rotations(), 1);
}

#[test]
fn a_library_caller_uses_a_store() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let key = fs::read_to_string(&shared.key).unwrap();
    let mut options = feishu_refresh::Options::default();
    options.store = Some(feishu_refresh::Database::new(
        shared.database.address(),
        key,
    ));
    let outcome = blocking::refresh(&options).unwrap();
    let token = outcome.access_token.expose_secret().to_owned();
    assert!(shared.scene.server.gave(&token));
    assert!(outcome.refreshed);
    assert!(!format!("{options:?}").contains(Postgres::password()));
    // It is what the program finds there, too.
    assert_eq!(shared.run(&["--min-ttl", "10m"]).token(), token);
    options.store = Some(feishu_refresh::Database::new("postgres://", "no key"));
    let error = blocking::refresh(&options).unwrap_err();
    assert_eq!(error.kind(), feishu_refresh::Kind::Config);
}

#[test]
fn a_reply_that_nobody_understands_is_kept_sealed() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let server = &shared.scene.server;
    let mut program = shared.program();
    program.env("XDG_STATE_HOME", shared.scene.folder());
    server.fail_next(Fault::Garble(|_| b"<ok>ur-sandbox0.next</ok>".to_vec()));
    let run = Run::of(program.output().unwrap());
    run.assert_failed(1, "the reply is kept in ");
    let kept = run.stderr.split("the reply is kept in ").nth(1).unwrap();
    let kept = fs::read_to_string(kept.lines().next().unwrap()).unwrap();
    assert!(!kept.contains("sandbox0"), "{kept}");
    // The hint's command opens it.
    let mut program = shared.program();
    program.args(["store", "import", "-"]);
    let opened = run_with_stdin(&mut program, &kept);
    opened.assert_done();
    assert_eq!(opened.stdout, "<ok>ur-sandbox0.next</ok>\n");
    // Another key does not.
    fs::write(&shared.key, shared.scene.run(["store", "key"]).stdout).unwrap();
    let other = run_with_stdin(&mut program, &kept);
    other.assert_failed(3, "is sealed with the key");
}

/// The result of a run with this text on its stdin.
fn run_with_stdin(program: &mut Command, text: &str) -> Run {
    program.stdin(Stdio::piped());
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    Run::of(child.wait_with_output().unwrap())
}
