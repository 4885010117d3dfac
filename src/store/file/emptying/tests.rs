//! The exact edit, what a kill leaves, and the file afterwards.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use super::super::document::Document;
use super::super::replay::Entry;
use super::super::settle::DesiredText;
use super::*;
use crate::profile::Successor;
use crate::protocol::Api;

const WENT_TO: &str = "postgres://db/x";

fn print(token: &str) -> Fingerprint {
    Fingerprint::of(&token.into())
}

/// The text once `token` has moved out of `[TOKEN]`.
fn edited(text: &str, token: &str, went_to: &str) -> Result<String> {
    let removal = Removal {
        place: SectionId {
            file: Path::new("f.ini"),
            profile: "TOKEN",
        },
        token: print(token),
        went_to,
    };
    let text = Text::parse(Path::new("f.ini"), text.as_bytes())?;
    let document: Document = removal.edited(&text.document)?;
    Ok(document.text().to_owned())
}

/// What was before, and what must come out once `ur-1` has moved.
const EDITS: &[(&str, &str)] = &[
    // All keys: emptied in place, and nothing else changes.
    (
        "[TOKEN]\napi = v1\napp_access_token = a-1\nuser_access_token = u-1\nuser_access_token_expires_at = t\nrefresh_token = ur-1\nrefresh_token_expires_at = t\nscope = s\n\n[X]\nrefresh_token = ur-1\n",
        "[TOKEN]\n; this login was moved to postgres://db/x\napi = v1\napp_access_token = a-1\nuser_access_token = \nuser_access_token_expires_at = \nrefresh_token = \nrefresh_token_expires_at = \nrefresh_token_spent = 0 0\nscope = s\n\n[X]\nrefresh_token = ur-1\n",
    ),
    // Only its token, in the section's style; no key without a value is added.
    (
        "[ID]\r\napp_id: x\r\n\r\n[TOKEN]\r\n  REFRESH_TOKEN: ur-1\r\n# end",
        "[ID]\r\napp_id: x\r\n\r\n[TOKEN]\r\n  ; this login was moved to postgres://db/x\r\n  REFRESH_TOKEN: \r\n  refresh_token_spent: 0 0\r\n# end",
    ),
    (
        "\u{feff}[TOKEN]\nrefresh_token=ur-1",
        "\u{feff}[TOKEN]\n; this login was moved to postgres://db/x\nrefresh_token=\nrefresh_token_spent=0 0",
    ),
    // 115's keys.
    (
        "[TOKEN]\naccess_token = u-1\nuser_access_token = mine\naccess_token_expires_at = t\nrefresh_token = ur-1\napi = 115\n",
        "[TOKEN]\n; this login was moved to postgres://db/x\naccess_token = \nuser_access_token = mine\naccess_token_expires_at = \nrefresh_token = \nrefresh_token_spent = 0 0\napi = 115\n",
    ),
    // A section and its pairs indented; comments and a continued value.
    (
        "  [TOKEN]\n; mine\n    note = a\n      ; b\n      c\n    refresh_token = ur-1\n[X]\n",
        "  [TOKEN]\n    ; this login was moved to postgres://db/x\n; mine\n    note = a\n      ; b\n      c\n    refresh_token = \n    refresh_token_spent = 0 0\n[X]\n",
    ),
    // The second time: the same comment stays in place, another one is replaced.
    (
        "[TOKEN]\n# a\n ; this login was moved to postgres://db/x \nrefresh_token = ur-1\nrefresh_token_spent = 0123456789abcdef 1123456789abcdef\n",
        "[TOKEN]\n# a\n ; this login was moved to postgres://db/x \nrefresh_token = \nrefresh_token_spent = 0123456789abcdef 0 0\n",
    ),
    (
        "[X]\n; this login was moved to y\n[TOKEN]\nrefresh_token = ur-1\n\t; this login was moved to z\n[Y]\n; this login was moved to y\n",
        "[X]\n; this login was moved to y\n[TOKEN]\nrefresh_token = \nrefresh_token_spent = 0 0\n\t; this login was moved to postgres://db/x\n[Y]\n; this login was moved to y\n",
    ),
];

#[test]
fn a_login_is_emptied_where_it_stands() {
    let moved = print("ur-1").to_string();
    for (before, after) in EDITS {
        let after = after.replace(" 0 0", &format!(" {moved} {moved}"));
        let after = after.replace("=0 0", &format!("={moved} {moved}"));
        assert_eq!(edited(before, "ur-1", WENT_TO).unwrap(), after);
        // Once more, it changes nothing but the list.
        let again = after.replacen("refresh_token = \n", "refresh_token = ur-2\n", 1);
        let again = edited(&again, "ur-2", WENT_TO).unwrap();
        let remarks = |text: &str| text.matches("was moved to").count();
        assert_eq!(remarks(&again), remarks(&after), "{again}");
    }
}

#[test]
fn a_comment_is_one_line_whatever_it_says() {
    let text = "[TOKEN]\nrefresh_token = ur-1\n";
    let edited = edited(text, "ur-1", "a\n[X]\r\nb = c\0%").unwrap();
    let remark = edited.lines().nth(1).unwrap();
    assert_eq!(remark, "; this login was moved to a [X]  b = c %");
    assert_eq!(edited.lines().count(), 4);
}

#[test]
fn what_readers_could_disagree_about_is_left_alone() {
    for text in [
        "[TOKEN]\nrefresh_token = ur-1\n  more\n",
        "[DEFAULT]\nrefresh_token = ur-1\n[TOKEN]\n",
        "[TOKEN]\nrefresh_token = ur-1\nscope = %x\n",
        "[TOKEN]\na = 1\n  refresh_token = ur-1\n",
    ] {
        assert!(edited(text, "ur-1", WENT_TO).is_err(), "{text}");
    }
}

#[test]
fn the_list_keeps_what_came_from_outside() {
    let prints: Vec<_> = (0..8).map(|n| print(&format!("ur-{n}"))).collect();
    let list = |prints: &[Fingerprint]| {
        let words: Vec<_> = prints.iter().map(ToString::to_string).collect();
        words.join(" ")
    };
    let moved = |spent: &[Fingerprint], token: &str| {
        let spent = list(spent);
        let text = format!("[TOKEN]\nrefresh_token = {token}\nrefresh_token_spent = {spent}\n");
        let edited = edited(&text, token, WENT_TO).unwrap();
        let line = edited.lines().last().unwrap().to_owned();
        line.strip_prefix("refresh_token_spent = ")
            .unwrap()
            .to_owned()
    };
    let new = print("ur-new");
    assert_eq!(moved(&[], "ur-new"), list(&[new, new]));
    assert_eq!(moved(&prints[..2], "ur-new"), list(&[prints[0], new, new]));
    let six = [&prints[..6], &[new, new]].concat();
    assert_eq!(moved(&prints[..7], "ur-new"), list(&six));
    // Seven from outside leave room for it only as the latest.
    let seven = [&prints[..7], &[new]].concat();
    assert_eq!(moved(&prints, "ur-new"), list(&seven));
    // A token that came from outside itself.
    let own = [&prints[1..7], &[prints[0], prints[0]]].concat();
    assert_eq!(moved(&prints, "ur-0"), list(&own));
}

#[test]
fn a_done_pair_heals_an_old_copy_and_never_fills_the_emptied_section() {
    let file = Path::new("f.ini");
    let mut pair = Successor::trial("TOKEN", Api::V1);
    pair.tokens.refresh_token = Some("ur-1".into());
    pair.spent = vec![print("ur-0")];
    (pair.predecessor, pair.held) = (Some(print("ur-0")), Some(print("ur-0")));
    let entries = [Entry::new(pair.into(), Source::Done)];
    let desired = DesiredText {
        file,
        entries: &entries,
        given: None,
        spare: 0,
    };
    let changes = |text: &str| {
        let text = Text::parse(file, text.as_bytes()).unwrap();
        desired.replay(&text).unwrap().0.is_some()
    };
    let text = "[TOKEN]\nrefresh_token = ur-1\n";
    assert!(!changes(text));
    assert!(!changes(&edited(text, "ur-1", WENT_TO).unwrap()));
    assert!(changes("[TOKEN]\nrefresh_token = ur-0\n"));
}

/// A file of two logins in its own folder; with two names, so that it is written in place.
fn two_logins(in_place: bool) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.ini");
    fs::write(
        &path,
        "[A]\nrefresh_token = ur-a\n[B]\nrefresh_token = ur-b\n",
    )
    .unwrap();
    if in_place {
        fs::hard_link(&path, folder.path().join("other.ini")).unwrap();
    }
    (folder, path)
}

fn open(path: &Path) -> Result<Emptying> {
    Emptying::open(path, None, Instant::now())
}

#[test]
fn logins_leave_the_file_one_by_one() {
    for in_place in [false, true] {
        let (folder, path) = two_logins(in_place);
        let mut emptying = open(&path).unwrap();
        assert_eq!(emptying.names(), ["A", "B"]);
        assert!(emptying.finish("A").is_err());
        assert!(emptying.take_out("A", print("ur-b"), WENT_TO).is_err());
        let files = || fs::read_dir(folder.path()).unwrap().count();
        for (name, token) in [("A", "ur-a"), ("B", "ur-b")] {
            let snapshot = emptying.snapshot(name).unwrap();
            assert_eq!(snapshot.fingerprint(), Some(print(token)));
            // Another program writes something else meanwhile.
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, format!("{text}; {name}\n")).unwrap();
            emptying.take_out(name, print(token), WENT_TO).unwrap();
            assert_eq!(emptying.snapshot(name).unwrap().fingerprint(), None);
            assert_eq!(files(), 1 + usize::from(in_place));
            assert!(emptying.take_out(name, print(token), WENT_TO).is_err());
            emptying.finish(name).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("ur-") && text.ends_with("; A\n; B\n"),
            "{text}"
        );
        if in_place {
            let other = fs::read_to_string(folder.path().join("other.ini")).unwrap();
            assert_eq!(other, text);
        }
    }
}

#[test]
fn a_missing_file_is_not_made_and_a_locked_one_is_waited_for() {
    let (folder, path) = two_logins(false);
    let missing = folder.path().join("missing.ini");
    let error = open(&missing).err().unwrap();
    assert_eq!(error.kind(), crate::Kind::Config);
    // A journal waits for it, but has nothing for it.
    fs::File::create(folder.path().join("missing.ini.journal")).unwrap();
    assert!(open(&missing).is_err());
    assert!(!missing.exists());
    let first = open(&path).unwrap();
    assert_eq!(open(&path).err().unwrap().kind(), crate::Kind::Temporary);
    drop(first);
    assert!(open(&path).is_ok());
}

/// An editor replaces the file: a run may be working on the new one.
#[test]
#[cfg(unix)]
fn a_file_that_was_replaced_is_left_as_it_is() {
    let (folder, path) = two_logins(false);
    let mut emptying = open(&path).unwrap();
    let new = folder.path().join("new");
    fs::copy(&path, &new).unwrap();
    fs::rename(&new, &path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(emptying.take_out("A", print("ur-a"), WENT_TO).is_err());
    drop(emptying);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_doubt_stays_with_the_login_that_it_is_about() {
    for in_place in [false, true] {
        let (_folder, path) = two_logins(in_place);
        let journal = crate::store::places::with_suffix(&path, ".journal");
        let sent = |token| Record::Sent(print(token)).line();
        let made = files::create_private(&journal).unwrap();
        let lines = sent("ur-a") + &sent("ur-b");
        files::write_all_at(&made, lines.as_bytes(), 0).unwrap();
        drop(made);
        let mut emptying = open(&path).unwrap();
        assert!(emptying.may_be_spent(print("ur-a")));
        emptying.take_out("A", print("ur-a"), WENT_TO).unwrap();
        assert!(!emptying.may_be_spent(print("ur-a")));
        let left = fs::read_to_string(&journal).unwrap();
        assert!(
            left.ends_with(&sent("ur-b")) && left.lines().count() == 2,
            "{left}"
        );
        emptying.take_out("B", print("ur-b"), WENT_TO).unwrap();
        assert!(!journal.exists());
    }
}
