//! A scene to run the program in: a folder, a stand-in server, a clean environment.

#[cfg_attr(windows, path = "harness/windows.rs")]
#[cfg_attr(unix, path = "harness/unix.rs")]
mod system;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;

use jiff::{SignedDuration, Timestamp};
use ring::digest;
use tempfile::TempDir;

use crate::sandbox::{APP_ID, APP_SECRET, Fault, Sandbox};
pub use system::*;

/// Where the program is.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_feishu-refresh");

/// A folder with a configuration file, and the server it names.
pub struct Scene {
    pub server: Sandbox,
    folder: TempDir,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    /// A scene whose file has fresh tokens.
    pub fn new() -> Self {
        let scene = Scene::without_file();
        scene.write(scene.server.config_file());
        scene
    }

    /// A scene without a file.
    pub fn without_file() -> Self {
        Scene::with_server(Sandbox::start().unwrap())
    }

    /// The same, with this server.
    pub fn with_server(server: Sandbox) -> Self {
        Scene {
            server,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self) -> PathBuf {
        self.folder().join("feishu-config.ini")
    }

    /// The journal of a run, beside the file.
    pub fn journal(&self) -> PathBuf {
        self.folder().join("feishu-config.ini.journal")
    }

    pub fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(self.file(), text).unwrap();
        set_private(&self.file());
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    /// A value of `[TOKEN]`, read in the simplest way.
    pub fn value(&self, key: &str) -> String {
        value_in(&self.text(), key)
    }

    /// Moves the expiry of the saved access token.
    pub fn let_it_end_in(&self, seconds: i64) {
        let end = self.value("user_access_token_expires_at");
        let new = Timestamp::now() + SignedDuration::from_secs(seconds);
        self.write(self.text().replace(&end, &new.to_string()));
    }

    /// The names of all files in the folder, except those that the program leaves permanently.
    pub fn file_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !is_kept_beside(name))
            .collect();
        names.sort();
        names
    }

    /// The program, in the scene's folder, with nothing in its environment.
    pub fn program(&self) -> Command {
        let mut command = command(PROGRAM);
        command
            .current_dir(self.folder())
            .env_clear()
            .stdin(Stdio::null());
        for name in VARIABLES {
            command.envs(env::var_os(name).map(|value| (name, value)));
        }
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.program().args(arguments).output().unwrap())
    }

    /// Runs with this text on stdin.
    pub fn run_with_stdin(&self, arguments: &[&str], stdin: &str) -> Run {
        let mut command = self.program();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A run that fails early may have closed its stdin.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Run::of(child.wait_with_output().unwrap())
    }

    /// Flags that bring fresh tokens and name the server.
    pub fn flags(&self) -> [String; 6] {
        let (app, refresh) = (self.server.app_token(), self.server.refresh_token());
        let flags = [
            "-a",
            &app,
            "-r",
            &refresh,
            "--base-url",
            &self.server.base_url(),
        ];
        flags.map(str::to_owned)
    }

    /// Flags that name the stand-in's app, and the server.
    pub fn app_flags(&self) -> Vec<String> {
        let base_url = self.server.base_url();
        let flags = [
            "--app-id",
            APP_ID,
            "--app-secret",
            APP_SECRET,
            "--base-url",
            &base_url,
        ];
        flags.map(str::to_owned).to_vec()
    }

    /// Flags for a first run at this api, with a fresh refresh token.
    pub fn first_flags(&self, api: &str) -> Vec<String> {
        let token = self.server.refresh_token_for(api);
        let mut flags = ["--api", api, "-r", &token].map(str::to_owned).to_vec();
        flags.extend(self.app_flags());
        flags
    }

    /// Runs behind an HTTPS proxy that refuses everything; returns what it was asked.
    pub fn seen_by_proxy(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", proxy.local_addr().unwrap());
        let seen = thread::spawn(move || {
            let (mut stream, _) = proxy.accept().unwrap();
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        });
        let mut program = self.program();
        program.args(["--retries", "0"]).args(arguments);
        program.envs(environment.iter().copied());
        program.env("HTTPS_PROXY", address);
        Run::of(program.output().unwrap()).assert_failed(5, "cannot connect");
        seen.join().unwrap()
    }

    /// The refresh token of the last pair in the journal beside the file, if there is one.
    pub fn journaled(&self) -> Option<String> {
        tokens_in_journal(&fs::read_to_string(self.journal()).ok()?).pop()
    }

    /// Asserts that the file holds a working refresh token, and that none was spent twice.
    pub fn assert_sound(&self) {
        let token = self.value("refresh_token");
        assert!(
            self.server.is_live(&token),
            "the file's refresh token is dead: {}",
            self.text()
        );
        assert_eq!(self.server.spent_seen(), 0, "a spent token was sent");
        assert_eq!(
            self.file_names(),
            ["feishu-config.ini"],
            "something lies about"
        );
    }
}

impl Run {
    pub fn of(output: Output) -> Self {
        Run {
            code: exit_code(output.status),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The token printed by a successful run.
    pub fn token(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout.strip_suffix('\n').expect("a line")
    }

    /// Asserts that a run failed with this code, printed no token, and said this.
    pub fn assert_failed(&self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stdout, "");
        assert!(
            self.stderr.contains(says),
            "{:?} does not say {says:?}",
            self.stderr
        );
    }
}

/// A run that has not ended.
pub struct HeldRun {
    pub child: Child,
    stderr: BufReader<ChildStderr>,
    pub said: String,
}

impl HeldRun {
    /// Starts a run and waits until its request is with a server that will do this.
    pub fn start(scene: &Scene, fault: Fault) -> Self {
        scene.server.fail_next(fault);
        HeldRun::spawn(scene.program().arg("-v"))
    }

    /// The same for a command that is ready to go, with `-v`.
    pub fn spawn(command: &mut Command) -> Self {
        HeldRun::until(command, "POST ")
    }

    /// Starts a command, with `-v`, and waits until it queues behind another.
    pub fn queue(command: &mut Command) -> Self {
        HeldRun::until(command, "waiting for another run")
    }

    /// Starts a command, and waits until it has said this.
    pub fn until(command: &mut Command, word: &str) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut run = HeldRun {
            stderr: BufReader::new(child.stderr.take().unwrap()),
            child,
            said: String::new(),
        };
        run.read_until(word);
        run
    }

    /// Waits until it has said this.
    pub fn read_until(&mut self, word: &str) {
        while !self.said.contains(word) {
            let count = self.stderr.read_line(&mut self.said).unwrap();
            assert!(count > 0, "it ended with {}", self.said);
        }
    }

    /// Lets the server go on, and waits for the end.
    pub fn let_go(self, scene: &Scene) -> Run {
        scene.server.release();
        self.finish()
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Run {
        self.stderr.read_to_string(&mut self.said).unwrap();
        let mut run = Run::of(self.child.wait_with_output().unwrap());
        run.stderr = self.said;
        run
    }
}

/// The refresh tokens of the complete pairs in a journal, in order.
pub fn tokens_in_journal(text: &str) -> Vec<String> {
    let record = |line: &str| {
        let json = line.split_once(' ')?.1.split_once(' ')?.1;
        let record: serde_json::Value = serde_json::from_str(json).ok()?;
        Some(record["pair"]["refresh_token"].as_str()?.to_owned())
    };
    text.lines().filter_map(record).collect()
}

/// A token's fingerprint, as the file lists it.
pub fn fingerprint(token: &str) -> String {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    let [first, ..] = hash.as_ref().as_chunks().0 else {
        unreachable!("SHA-256 has 32 bytes")
    };
    format!("{:016x}", u64::from_be_bytes(*first))
}

pub fn value_in(text: &str, key: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key} = ")));
    line.unwrap_or_else(|| panic!("no {key} in {text:?}"))
        .to_owned()
}
