//! A write that breaks off with an error, not with the end of the run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::protocol::Api;
use crate::store::record::Record;

/// Tells a process its folder.
const FOLDER: &str = "FEISHU_REFRESH_TEST_FOLDER";

const OLD_COPY: &str = "[A]\nrefresh_token = ur-0\n";

fn open(path: &Path) -> FileState {
    FileState::open(path, None, None, None, Instant::now()).unwrap()
}

#[test]
#[ignore = "run by the other, in a separate process"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let path = folder.join("f.ini");
    // The journal's content is restored, and remembered.
    open(&path).close(&path);
    let mut state = open(&path);
    fs::write(&path, OLD_COPY).unwrap();
    state.take_text(Text::parse(&path, OLD_COPY.as_bytes()).unwrap());
    assert!(state.heal(&path).is_err());
    assert!(is_torn(&fs::read(&path).unwrap()));
    state.close(&path);
    drop(state);
    open(&path).close(&path);
}

#[test]
fn a_text_that_an_error_left_half_written_stays_in_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.ini");
    fs::write(&path, OLD_COPY).unwrap();
    // With two names, it is written in place.
    fs::hard_link(&path, folder.path().join("other.ini")).unwrap();
    let old = Fingerprint::of(&"ur-0".into());
    let mut pair = Successor::trial("A", Api::V1);
    pair.tokens.refresh_token = Some("ur-1".into());
    (pair.tokens.access_token, pair.app_token) = (None, None);
    (pair.predecessor, pair.spent) = (Some(old), vec![old]);
    let line = Record::Pair(Box::new(pair)).line();
    let journal = with_suffix(&path, JOURNAL);
    // A run killed after its save: the save is remembered, and nothing needs writing.
    let made = files::create_private(&journal).unwrap();
    files::write_all_at(&made, line.as_bytes(), 0).unwrap();
    let saved = format!("{OLD_COPY}refresh_token_spent = {old}\n").replace("ur-0", "ur-1");
    fs::write(&path, saved).unwrap();
    drop(made);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["store::file::recovery::tests::child", "--exact"]);
    command.args(["--ignored", "--quiet"]);
    command.env(FOLDER, folder.path());
    command.env("XDG_STATE_HOME", folder.path().join("state"));
    command.env("FEISHU_REFRESH_FAIL", "amid-in-place-write=error");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("ur-1") && !journal.exists(), "{text}");
}
