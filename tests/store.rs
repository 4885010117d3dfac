//! Logins in PostgreSQL: what a user types, and what becomes of it.

mod addresses;
mod commands;
mod faults;
mod hosts;
mod keys;
mod kills;
mod moving;
mod together;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Run, Scene};
use crate::sandbox::Postgres;

/// A scene with a database in which its login is kept.
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

    /// The same, with the login in the file still.
    pub fn without_login(settings: &[(&str, &str)]) -> Option<Self> {
        Postgres::start_with(settings).unwrap().map(Shared::at)
    }

    /// This database with tables, and the login in the file still.
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
    println!("{row}");
    println!("{}", shared.run(&["status"]).stdout);
    println!("{}", shared.run(&["-o", "json"]).stdout);
    println!("{}", shared.run(&["status", "-o", "json"]).stdout);
    assert_eq!(shared.scene.server.rotations(), 2);
}
