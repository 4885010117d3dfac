//! A login moves, and the run is killed at each point in turn: in a separate process, since that ends it. The disk must
//! then hold the login, and the next run must complete the move.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;

use super::*;
use crate::profile::Successor;
use crate::protocol::Api;
use crate::store::places::with_suffix;

/// Tells a process its folder, and whether it moves a login or only opens the file.
const FOLDER: &str = "FEISHU_REFRESH_TEST_FOLDER";
const MOVES: &str = "FEISHU_REFRESH_TEST_MOVES";

const OLD_COPY: &str = "[A]\nrefresh_token = ur-a0\n[B]\nrefresh_token = ur-b0\n";

const POINTS: &[&str] = &[
    "after-lock",
    "before-take-out",
    "before-write",
    "after-write",
    "after-fsync",
    "before-rename",
    "after-rename",
    "after-folder-fsync",
    "before-text",
    "after-text",
    "amid-in-place-write",
    "after-in-place-write",
    "after-take-out",
    "before-forget",
    "after-forget",
];

fn print(token: &str) -> Fingerprint {
    Fingerprint::of(&token.into())
}

/// What a killed process does.
#[test]
#[ignore = "run by the others, in a separate process"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let mut emptying = Emptying::open(&folder.join("f.ini"), None, Instant::now()).unwrap();
    if std::env::var_os(MOVES).is_none() {
        return;
    }
    // As an import does with a login that is held back: it takes the file's current token.
    match emptying.snapshot("A").unwrap().fingerprint() {
        Some(token) => {
            fs::write(folder.join("held"), token.to_string()).unwrap();
            emptying.take_out("A", token, "postgres://x/y").unwrap();
        }
        None => emptying.finish("A").unwrap(),
    }
}

struct Scene(tempfile::TempDir);

impl Scene {
    /// A file, and a dead run's journal with what it received for two logins.
    fn new(in_place: bool) -> Self {
        let scene = Scene(tempfile::tempdir().unwrap());
        fs::write(scene.file(), OLD_COPY).unwrap();
        if in_place {
            fs::hard_link(scene.file(), scene.0.path().join("other.ini")).unwrap();
        }
        fs::create_dir(scene.0.path().join("tmp")).unwrap();
        let pair = |profile: &str, old: &str, new: &str| {
            let mut pair = Successor::trial(profile, Api::V1);
            pair.tokens.refresh_token = Some(new.into());
            pair.app_token = None;
            pair.listed = None;
            pair.spent = vec![print(old)];
            (pair.predecessor, pair.held) = (Some(print(old)), Some(print(old)));
            Record::Pair(Box::new(pair)).line()
        };
        let lines = pair("A", "ur-a0", "ur-a1") + &pair("B", "ur-b0", "ur-b1");
        let journal = files::create_private(&scene.journal()).unwrap();
        files::write_all_at(&journal, lines.as_bytes(), 0).unwrap();
        scene
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("f.ini")
    }

    fn journal(&self) -> PathBuf {
        with_suffix(&self.file(), ".journal")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    /// What the state folder holds.
    fn memory(&self) -> String {
        let folder = fs::read_dir(self.0.path().join("state/feishu-refresh")).unwrap();
        let files = folder.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        files.collect()
    }

    /// Runs a process; returns whether it completed.
    fn run(&self, moves: bool, killed_at: Option<&str>) -> bool {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["store::file::emptying::kills::child", "--exact"]);
        command.args(["--ignored", "--quiet"]);
        command.env(FOLDER, self.0.path());
        command.env("XDG_STATE_HOME", self.0.path().join("state"));
        command.env("TMPDIR", self.0.path().join("tmp"));
        if moves {
            command.env(MOVES, "1");
        }
        if let Some(point) = killed_at {
            command.env("FEISHU_REFRESH_FAIL", format!("{point}=abort"));
        }
        command.output().unwrap().status.success()
    }

    /// Neither login loses anything, whenever the run was killed.
    fn check_nothing_lost(&self, what: &str) {
        let journal = fs::read_to_string(self.journal()).unwrap_or_default();
        let found = self.text() + &journal;
        assert!(found.contains("ur-b1"), "{what}: {found}");
        // What left the file was already held by the other store.
        let is_out = found.contains(&print("ur-a1").to_string());
        assert!(found.contains("ur-a1") || is_out, "{what}: {found}");
    }

    fn check_moved(&self, what: &str) {
        let (text, memory) = (self.text(), self.memory());
        assert!(!text.contains("ur-a"), "{what}: {text}");
        assert!(text.contains("ur-b1"), "{what}: {text}");
        assert!(!memory.contains("ur-a"), "{what}: {memory}");
        assert!(memory.contains("ur-b1"), "{what}: {memory}");
        assert!(!self.journal().exists(), "{what}");
        assert!(!with_suffix(&self.file(), ".new").exists(), "{what}");
        assert_eq!(text.matches("was moved to").count(), 1, "{what}: {text}");
        // The last import took the current token, not a predecessor.
        let held = fs::read_to_string(self.0.path().join("held")).unwrap();
        assert_eq!(held, print("ur-a1").to_string(), "{what}");
        // It stays out, even if an old copy comes back; what has not moved is healed.
        assert!(self.run(false, None), "{what}");
        assert_eq!(self.text(), text, "{what}");
        fs::write(self.file(), OLD_COPY).unwrap();
        assert!(self.run(false, None), "{what}");
        let text = self.text();
        assert!(
            text.contains("ur-a0") && !text.contains("ur-a1"),
            "{what}: {text}"
        );
        assert!(text.contains("ur-b1"), "{what}: {text}");
    }
}

#[test]
fn a_kill_at_any_point_loses_nothing_and_brings_nothing_back() {
    let mut kills = 0;
    for point in POINTS {
        for (in_place, is_open, old_copy) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
            let what = format!("{point}, {in_place}, {is_open}, {old_copy}");
            let scene = Scene::new(in_place);
            if is_open {
                // What the dead run left is restored: the kill came later.
                assert!(scene.run(false, None), "{what}");
            }
            if !scene.run(true, Some(point)) {
                kills += 1;
                scene.check_nothing_lost(&what);
                if old_copy && *point != "after-forget" {
                    fs::write(scene.file(), OLD_COPY).unwrap();
                }
                assert!(scene.run(true, None), "{what}");
            }
            scene.check_moved(&what);
        }
    }
    assert!(kills >= 60, "only {kills} runs were killed");
}
