//! What `cargo run --example sandbox -- --serve` prints to be typed, typed into a shell.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{PROGRAM, command, exit_code, send_signal};

/// Where a shell finds programs.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The demonstration, built beside the program.
fn example() -> PathBuf {
    let example = Path::new(PROGRAM).with_file_name("examples/sandbox");
    let how = "cargo test builds it; else: cargo build --example sandbox";
    assert!(example.exists(), "no {}: {how}", example.display());
    example
}

/// A demonstration that stays up, and what it has printed.
struct Demo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    printed: String,
    /// All that it makes is in here.
    folder: TempDir,
}

impl Demo {
    /// Starts one, and reads up to a line that holds this; none if it ends before, and what it said.
    fn start(program: &mut Command, last: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        program.env("TMPDIR", folder.path());
        let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
        let mut demo = Demo {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            printed: String::new(),
            folder,
        };
        while !demo.printed.contains(last) {
            if demo.stdout.read_line(&mut demo.printed).unwrap() == 0 {
                return Err(demo.printed.clone());
            }
        }
        // The rest of that line is there, as lines are read whole.
        Ok(demo)
    }

    /// Starts one with a stand-in, and perhaps TLS.
    fn serve(arguments: &[&str]) -> Self {
        let mut program = command(example());
        program.arg("--serve").args(arguments);
        Demo::start(&mut program, "/sandbox/login/v2)\n").unwrap()
    }

    /// What is to be typed, and how it ends: each line that is no sentence, which ends in a colon and may
    /// name a code.
    fn lines(&self) -> Vec<(String, i32)> {
        let (_, after) = self.printed.split_once("In another terminal:\n").unwrap();
        let mut code = 0;
        let mut lines = Vec::new();
        for line in after.lines().filter(|line| !line.is_empty()) {
            if line.ends_with(':') {
                let named = line.split("code ").nth(1).unwrap_or_default();
                code = named.trim_end_matches(':').parse().unwrap_or(0);
            } else {
                lines.push((line.to_owned(), code));
            }
        }
        lines
    }

    /// Ends it by a signal, and asserts that it died of that and left nothing.
    fn end_by(mut self, signal: &str, number: i32) {
        send_signal(&self.child, signal);
        let status = self.child.wait().unwrap();
        assert_eq!(exit_code(status), 128 + number, "{status}");
        let left = fs::read_dir(self.folder.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // After a test that failed: a database that it has started would stay.
        if matches!(self.child.try_wait(), Ok(None)) {
            send_signal(&self.child, "TERM");
            let _ = self.child.wait();
        }
    }
}

/// A shell that a person has just opened.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    /// Its stdout and stderr, as at a terminal.
    shown: BufReader<PipeReader>,
}

impl Shell {
    fn open(home: &Path) -> Self {
        let (shown, pipe) = io::pipe().unwrap();
        let mut shell = Command::new("sh");
        shell.current_dir(home).env_clear();
        shell.env("PATH", PATH).env("HOME", home);
        shell.stdin(Stdio::piped());
        shell.stdout(pipe.try_clone().unwrap()).stderr(pipe);
        let mut child = shell.spawn().unwrap();
        Shell {
            stdin: child.stdin.take().unwrap(),
            child,
            shown: BufReader::new(shown),
        }
    }

    /// Types a line, and has the shell tell how it ended.
    fn begin(&mut self, line: &str) {
        let told = format!("{line}\nprintf '\\n=%s\\n' $?\n");
        self.stdin.write_all(told.as_bytes()).unwrap();
    }

    /// Reads up to a line that this finds something in.
    fn read_until<T>(&mut self, said: &mut String, find: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let mut line = String::new();
            let count = self.shown.read_line(&mut line).unwrap();
            assert!(count > 0, "the shell ended: {said}");
            said.push_str(&line);
            if let Some(found) = find(&line) {
                return found;
            }
            // It says nothing more.
            assert!(!line.starts_with('='), "the line ended: {said}");
        }
    }

    /// Waits until the line is done; returns how it ended.
    fn end(&mut self, said: &mut String) -> i32 {
        let code = |line: &str| line.strip_prefix('=')?.trim_end().parse().ok();
        self.read_until(said, code)
    }

    /// Types a line, and asserts that it ends like this; returns what it showed.
    fn type_line(&mut self, line: &str, code: i32) -> String {
        let mut said = String::new();
        self.begin(line);
        assert_eq!(self.end(&mut said), code, "{line}: {said}");
        said
    }

    /// Types a line that asks for consent, and gives it in a browser of sorts.
    fn log_in(&mut self, line: &str, ca: &Path) {
        let mut said = String::new();
        self.begin(line);
        let page = |line: &str| {
            line.strip_prefix("  http")
                .map(|rest| format!("http{rest}"))
        };
        let page = self.read_until(&mut said, page);
        self.read_until(&mut said, |line| line.contains("Waiting").then_some(()));
        let page = browse(page.trim_end(), ca);
        let agree = page.split("id=agree href=\"").nth(1).unwrap();
        let agree = agree.split('"').next().unwrap().replace("&amp;", "&");
        let last = browse(&agree, ca);
        assert!(last.contains("Logged in"), "{last}");
        assert_eq!(self.end(&mut said), 0, "{line}: {said}");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is at an address.
fn browse(address: &str, ca: &Path) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--cacert"]);
    let page = curl.arg(ca).arg(address).output().unwrap();
    assert!(page.status.success(), "{page:?}");
    String::from_utf8(page.stdout).unwrap()
}

/// Types all lines of a stand-in, each fault's with a run behind it.
fn type_all(demo: &Demo) {
    let home = tempfile::tempdir().unwrap();
    let mut shell = Shell::open(home.path());
    let lines = demo.lines();
    let mut typed = lines.iter().map(|(line, _)| line.as_str());
    let folder = typed.find_map(|line| line.strip_prefix("cd '"));
    let ca = Path::new(folder.unwrap().trim_end_matches('\'')).join("ca.pem");
    let consent = typed.find(|line| line.contains("/sandbox/login)"));
    let [mut logins, mut faults, mut failing] = [0; 3];
    for (line, code) in &lines {
        if line.contains(" login ") {
            shell.log_in(line, &ca);
            logins += 1;
            continue;
        }
        let said = shell.type_line(line, *code);
        failing += usize::from(*code != 0);
        if line.starts_with("for ") {
            assert_eq!(said.matches("u-sandbox").count(), 10, "{said}");
        }
        let Some((_, fault)) = line.split_once("/sandbox/fault/") else {
            continue;
        };
        faults += 1;
        assert!(said.ends_with(&format!("armed: {fault}\n\n=0\n")), "{said}");
        let mut said = String::new();
        shell.begin("feishu-refresh --retries 0");
        let code = shell.end(&mut said);
        // The one is late, the other has a token to print.
        let is_harmless = ["delay", "no-refresh-token"].contains(&fault);
        assert_eq!(code == 0, is_harmless, "{fault}: {said}");
        shell.type_line(consent.unwrap(), 0);
    }
    assert_eq!((logins, faults, failing), (1, 13, 2));
    // Nothing is remembered beyond the folder.
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn all_lines_of_the_sandbox_work_as_they_stand() {
    let demo = Demo::serve(&[]);
    type_all(&demo);
    demo.end_by("INT", 2);
}

#[test]
fn all_lines_of_the_sandbox_work_over_tls() {
    let demo = Demo::serve(&["--tls"]);
    type_all(&demo);
    demo.end_by("TERM", 15);
}

#[test]
fn all_lines_of_the_sandbox_with_a_database_work_as_they_stand() {
    let mut program = command(example());
    program.args(["--postgres", "--serve"]);
    // What it says then is that it was skipped.
    let Ok(demo) = Demo::start(&mut program, "\npsql ") else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let mut shell = Shell::open(home.path());
    for (line, code) in demo.lines() {
        let said = shell.type_line(&line, code);
        if line.starts_with("for ") {
            assert_eq!(said.matches("u-sandbox").count(), 10, "{said}");
        }
    }
    demo.end_by("HUP", 1);
}

/// As with `nohup`, or behind a shell's `&`.
#[test]
fn a_sandbox_that_ignores_ctrl_c_ends_by_another_signal() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' INT HUP; exec \"$0\" --serve"]);
    let demo = Demo::start(shell.arg(example()), "/sandbox/login/v2)\n").unwrap();
    for ignored in ["INT", "HUP"] {
        send_signal(&demo.child, ignored);
    }
    demo.end_by("TERM", 15);
}
