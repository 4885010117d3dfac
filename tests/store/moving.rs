//! `store import`: at any moment a login is in the file or in the store, never in both.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::Shared;
use super::commands::{answer, ask_in_store};
use crate::harness::{ABORTED, HeldRun, Run, Scene, fingerprint, set_private, tokens_in_journal};
use crate::sandbox::{APP_ID, APP_SECRET, Fault};

/// A database, and a scene that changes per case: starting a server takes long.
struct Move {
    shared: Shared,
    /// The user's: the key, and the folder of the program's memory.
    home: TempDir,
}

impl Move {
    fn start() -> Option<Self> {
        let mut shared = Shared::without_login(&[])?;
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("key");
        fs::rename(&shared.key, &key).unwrap();
        shared.key = key;
        Some(Move { shared, home })
    }

    /// An empty store, a file with one login and its app, and no memory of anything.
    fn begin(&mut self) {
        let tables = "feishu_refresh.login, feishu_refresh.pace, feishu_refresh.app";
        self.shared.database.query(&format!("TRUNCATE {tables}"));
        let _ = fs::remove_dir_all(self.state());
        self.shared.scene = Scene::new();
        // The app's secrets take another way than the login's, and must arrive, too.
        let server = &self.scene().server;
        self.scene()
            .write(format!("; mine\n{}", server.profile("TOKEN", "v2")));
    }

    fn scene(&self) -> &Scene {
        &self.shared.scene
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Its socket asks for no password: checking one takes longer than all else.
    fn address(&self) -> String {
        self.shared.database.socket_address()
    }

    fn in_store_program(&self) -> Command {
        let mut program = self.shared.program();
        program.env("FEISHU_STORE", self.address());
        program.env("XDG_STATE_HOME", self.state());
        program
    }

    fn in_store(&self, arguments: &[&str]) -> Run {
        Run::of(self.in_store_program().args(arguments).output().unwrap())
    }

    fn import(&self) -> Run {
        self.in_store(&["store", "import"])
    }

    /// An import that ends at a point of the program.
    fn import_killed_at(&self, point: &str) {
        let mut program = self.in_store_program();
        program.env("FEISHU_REFRESH_FAIL", format!("{point}=abort"));
        let run = Run::of(program.args(["store", "import"]).output().unwrap());
        assert_eq!(run.code, ABORTED, "{point}: {}", run.stderr);
    }

    fn on_file_program(&self) -> Command {
        let mut program = self.scene().program();
        program.env("XDG_STATE_HOME", self.state());
        program
    }

    fn on_file(&self, arguments: &[&str]) -> Run {
        Run::of(self.on_file_program().args(arguments).output().unwrap())
    }

    fn text(&self) -> String {
        self.scene().text()
    }

    /// Where the login is: `held`, `live`, or nothing if the store has none.
    fn state_in_store(&self) -> String {
        self.shared.value("state")
    }

    /// All that the program keeps beside the file, or remembers about it.
    fn remembered(&self) -> Vec<String> {
        let mut tokens = self.scene().journaled().into_iter().collect::<Vec<_>>();
        let folder = self.state().join("feishu-refresh");
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            tokens.extend(tokens_in_journal(&String::from_utf8_lossy(&bytes)));
        }
        tokens
    }

    /// Asserts that the login works in the store, and that nothing here could send its token.
    fn assert_moved(&self, case: &str) {
        let scene = self.scene();
        assert_eq!(self.state_in_store(), "live", "{case}");
        let text = self.text();
        assert_eq!(scene.value("refresh_token"), "", "{case}: {text}");
        let remembered = self.remembered();
        let is_live = |token: &String| scene.server.is_live(token);
        assert!(!remembered.iter().any(is_live), "{case}: {remembered:?}");
        let run = self.in_store(&[]);
        assert_eq!(run.code, 0, "{case}: {}", run.stderr);
        assert!(scene.server.gave(run.token()), "{case}");
        let before = scene.server.requests().len();
        self.on_file(&[]).assert_failed(3, "");
        assert_eq!(scene.server.requests().len(), before, "{case}");
        // No old copy of it came from anywhere.
        assert_eq!(scene.value("refresh_token"), "", "{case}");
        self.in_store(&[]).token();
        assert_eq!(scene.server.spent_seen(), 0, "{case}");
        let names = scene.file_names();
        assert!(
            names.iter().all(|name| !name.ends_with(".journal")),
            "{names:?}"
        );
    }
}

/// What happens between a kill and the next import.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Nothing,
    RunOnFile,
    RunOnStore,
    /// The text from before the import is restored, as by an editor or a backup.
    OldCopy,
    /// One that holds a token that was spent before the import.
    OlderCopy,
}

/// Kills an import at this point, lets something else happen, and imports again.
fn kill_and_go_on(place: &mut Move, point: &str, first: First, has_links: bool) {
    let case = format!("{point}, then {first:?}");
    place.begin();
    if has_links {
        // Such a file is written in place.
        let other = place.scene().folder().join("other-name.ini");
        fs::hard_link(place.scene().file(), other).unwrap();
    }
    let older = place.text();
    place.on_file(&[]).token();
    let old = place.text();
    place.import_killed_at(point);
    let is_freed = point == "after-free";
    let state = match point {
        "before-hold" => "",
        "after-free" => "live",
        _ => "held",
    };
    assert_eq!(place.state_in_store(), state, "{case}");
    let rotations = place.scene().server.rotations();
    match first {
        First::Nothing => {}
        First::RunOnFile => {
            let run = place.on_file(&[]);
            // A torn file's content is the login's last good state: only then may it be refreshed.
            let has_rotated = place.scene().server.rotations() > rotations;
            assert_eq!(run.code, if has_rotated { 0 } else { 3 }, "{case}");
            assert!(!(has_rotated && is_freed), "{case}");
        }
        First::RunOnStore => {
            let run = place.in_store(&[]);
            if is_freed {
                run.token();
            } else if state.is_empty() {
                run.assert_failed(3, "has no login [TOKEN]");
            } else {
                run.assert_failed(3, "run store import again");
                assert!(run.stderr.contains("nothing was sent"), "{}", run.stderr);
                assert_eq!(place.scene().server.rotations(), rotations, "{case}");
            }
        }
        First::OldCopy => place.scene().write(old),
        First::OlderCopy => place.scene().write(older),
    }
    let again = place.import();
    assert_eq!(again.code, 0, "{case}: {}", again.stderr);
    place.assert_moved(&case);
}

/// The points that every import passes, in their order.
const POINTS: [&str; 14] = [
    "before-hold",
    "after-hold",
    "before-take-out",
    "before-write",
    "after-write",
    "before-fsync",
    "before-rename",
    "after-rename",
    "after-folder-fsync",
    "after-take-out",
    "before-forget",
    "after-forget",
    "before-free",
    "after-free",
];

#[test]
fn an_import_that_was_killed_goes_on() {
    let Some(mut place) = Move::start() else {
        return;
    };
    for point in POINTS {
        kill_and_go_on(&mut place, point, First::RunOnFile, false);
    }
    for point in [
        "after-hold",
        "after-rename",
        "after-take-out",
        "after-forget",
        "before-free",
    ] {
        for first in [First::Nothing, First::RunOnStore, First::OldCopy] {
            kill_and_go_on(&mut place, point, first, false);
        }
    }
    // As long as the memory knows it, an older copy is healed; later, the row knows it as spent.
    for point in [
        "after-hold",
        "after-rename",
        "after-take-out",
        "before-forget",
        "after-forget",
        "before-free",
    ] {
        kill_and_go_on(&mut place, point, First::OlderCopy, false);
    }
    // Once it is freed, nobody heals an old copy with the same token.
    for first in [First::Nothing, First::RunOnStore] {
        kill_and_go_on(&mut place, "after-free", first, false);
    }
}

#[test]
fn an_import_that_was_killed_while_writing_in_place_goes_on() {
    let Some(mut place) = Move::start() else {
        return;
    };
    for point in [
        "before-text",
        "after-text",
        "amid-in-place-write",
        "after-in-place-write",
        "after-take-out",
    ] {
        for first in [First::Nothing, First::RunOnFile] {
            kill_and_go_on(&mut place, point, first, true);
        }
    }
}

/// Killed again and again, and a run on the file between any two.
#[test]
fn imports_that_are_killed_in_a_row_end_well() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    for point in POINTS {
        place.import_killed_at(point);
        // It may have left the file.
        place.on_file(&[]);
        if place.scene().value("refresh_token").is_empty() {
            break;
        }
    }
    for point in ["before-forget", "after-forget"] {
        place.import_killed_at(point);
        assert_eq!(place.state_in_store(), "held");
        place.on_file(&[]).assert_failed(3, "");
    }
    place.import().assert_done();
    assert!(place.scene().server.rotations() > 3);
    place.assert_moved("in a row");
}

/// A file with logins of all kinds, and a shared app.
fn write_many(scene: &Scene) {
    let base_url = scene.server.base_url();
    let token = |api: &str| scene.server.refresh_token_for(api);
    scene.write(format!(
        "[ID]\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\nbase_url = {base_url}\n\
         [TOKEN]\napi = v1\nrefresh_token = {}\n\
         [second]\napi = v2\nrefresh_token = {}\n\
         [third bot]\napi = oidc\nrefresh_token = {}\n\
         [disk]\napi = 115\naccess_token = x\nrefresh_token = {}\n\
         [notes]\nmine = 1\n",
        token("v1"),
        token("v2"),
        token("oidc"),
        token("115"),
    ));
}

#[test]
fn many_logins_move_alone_or_together() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    write_many(place.scene());
    let names = || {
        let sql =
            "SELECT string_agg(name || ' ' || state, ',' ORDER BY name) FROM feishu_refresh.login";
        place.shared.database.query(sql)
    };
    let before = place.text();
    let run = place.in_store(&["store", "import", "-p", "nobody"]);
    run.assert_failed(3, "has no login [nobody]");
    assert_eq!(place.text(), before);
    let run = place.in_store(&["store", "import", "-p", "second"]);
    run.assert_done();
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("[second] has moved from"),
        "{}",
        run.stderr
    );
    assert_eq!(names(), "second live");
    // The others are unchanged, and work.
    place.on_file(&["-p", "third bot"]).token();
    place.on_file(&["-p", "second"]).assert_failed(3, "");
    let run = place.import();
    run.assert_done();
    assert_eq!(run.stderr.lines().count(), 3, "{}", run.stderr);
    assert_eq!(names(), "TOKEN live,disk live,second live,third bot live");
    let rotations = place.scene().server.rotations();
    // What they shared was moved, too: no flag is needed.
    for name in ["TOKEN", "second", "third bot", "disk"] {
        let run = place.in_store(&["-p", name]);
        run.assert_done();
        assert!(place.scene().server.gave(run.token()), "{name}");
    }
    assert_eq!(place.scene().server.rotations(), rotations + 4);
    assert_eq!(place.scene().server.spent_seen(), 0);
    let text = place.text();
    assert!(text.contains(&format!("app_secret = {APP_SECRET}\n")));
    assert!(text.contains("[notes]\nmine = 1\n"), "{text}");
    let run = place.import();
    run.assert_done();
    assert!(
        run.stderr.contains("has no login to move"),
        "{}",
        run.stderr
    );
    assert_eq!(place.text(), text);
}

#[test]
fn what_stands_in_the_store_is_never_overwritten() {
    let Some(mut place) = Move::start() else {
        return;
    };
    // A free row, then one that is held back for another file.
    for state in ["live", "held"] {
        place.begin();
        match state {
            "live" => place.import().assert_done(),
            _ => place.import_killed_at("after-take-out"),
        }
        let row = place.shared.value("login.*::text");
        let other = Scene::new();
        // The first tokens of all stand-ins are alike.
        other.server.refresh_token();
        other.write(other.server.profile("TOKEN", "v2"));
        let (server, text) = (&other.server, other.text());
        let file = other.file().display().to_string();
        let run = place.in_store(&["store", "import", "-c", &file]);
        run.assert_failed(3, "[TOKEN] of ");
        assert!(run.stderr.contains(&file), "{}", run.stderr);
        assert!(run.stderr.contains(&place.address()), "{}", run.stderr);
        assert_eq!(other.text(), text);
        assert_eq!(place.shared.value("login.*::text"), row, "{state}");
        // It works as before.
        other.run::<&str>([]).token();
        assert_eq!(server.spent_seen(), 0);
        if state == "held" {
            place.import().assert_done();
        }
        place.assert_moved(state);
    }
}

#[test]
fn one_token_is_never_under_two_names() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    let copy = place.text().replace("[TOKEN]", "[copy]");
    place.import().assert_done();
    place.scene().write(&copy);
    let run = place.import();
    run.assert_failed(
        3,
        "the same refresh token, or its successor, under another name",
    );
    assert_eq!(place.text(), copy);
    let count = "SELECT count(*) FROM feishu_refresh.login";
    assert_eq!(place.shared.database.query(count), "1");
    // Two sections of one file with the same token: the first moves, the second stays.
    place.begin();
    let twice = format!("{}{copy}", place.text());
    let twice = twice.replace("[copy]", "[copy]\n; by hand");
    place.scene().write(twice);
    let run = place.import();
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert_eq!(place.shared.database.query(count), "1");
    assert_eq!(place.scene().server.spent_seen(), 0);
}

#[test]
fn an_old_copy_of_the_file_brings_nothing_back() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    let first = place.text();
    place.on_file(&[]).token();
    let second = place.text();
    // An older copy is healed before it moves.
    place.scene().write(&first);
    place.import().assert_done();
    let token = crate::harness::value_in(&second, "refresh_token");
    assert_eq!(
        place.shared.value("refresh_fingerprint"),
        fingerprint(&token)
    );
    // The same token in the file again: it is removed once more, and the store's stays.
    place.scene().write(&second);
    let run = place.import();
    run.assert_done();
    assert!(
        run.stderr.contains("was in postgresql://"),
        "{}",
        run.stderr
    );
    place.assert_moved("a copy");
    // A row that does not open is no copy of it.
    place.scene().write(&second);
    let print = fingerprint(&place.scene().value("refresh_token"));
    let broken = format!(
        "UPDATE feishu_refresh.login SET previous_fingerprint = NULL, refresh_fingerprint = '{print}'"
    );
    let row = place
        .shared
        .value("(previous_fingerprint, refresh_fingerprint)::text");
    place.shared.database.query(&broken);
    let before = place.text();
    place
        .import()
        .assert_failed(3, "is not the one of its refresh_fingerprint");
    assert_eq!(place.text(), before);
    let back = row.trim_matches(['(', ')']).replace(',', "', '");
    place.shared.database.query(&format!(
        "UPDATE feishu_refresh.login SET (previous_fingerprint, refresh_fingerprint) = ('{back}')"
    ));
    // The store now has another: nothing is guessed.
    place.scene().write(&second);
    let run = place.import();
    run.assert_failed(3, "it is an old copy");
    assert_eq!(place.text(), second);
    place.in_store(&[]).token();
    assert_eq!(place.scene().server.spent_seen(), 0);
}

#[test]
fn the_files_own_text_stays_as_it_is() {
    let Some(mut place) = Move::start() else {
        return;
    };
    for end in ["\n", "\r\n"] {
        place.begin();
        let body = place.text();
        let body = body.replace("[TOKEN]", "[TOKEN]\n# by hand\nColour : green\n");
        let body = format!("{body}\n[mine]\n  note = 50%%\n; the end\n").replace('\n', end);
        place.scene().write(&body);
        place.import().assert_done();
        let text = place.text();
        let own: Vec<&str> = body
            .split_inclusive('\n')
            .filter(|line| !line.contains("_token"))
            .collect();
        let mut left = text.split_inclusive('\n');
        for line in &own {
            assert!(left.any(|other| other == *line), "{line:?} in {text:?}");
        }
        assert_eq!(
            text.matches('\n').count(),
            text.matches(end).count(),
            "{text:?}"
        );
        assert!(!text.contains("-sandbox0"), "{text}");
        let Ok(python) = Command::new("python3")
            .args(["-c", READ])
            .arg(place.scene().file())
            .output()
        else {
            eprintln!("skipped: no Python here");
            return;
        };
        let said = Run::of(python);
        assert_eq!(said.code, 0, "{}", said.stderr);
        assert_eq!(said.stdout, "''|'green'|'50%'\n");
    }
}

/// Reads the file as the Python program does.
const READ: &str = "
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
token = config['TOKEN']
print(repr(token['refresh_token']), repr(token['colour']), repr(config['mine']['note']), sep='|')
";

#[test]
fn a_cron_line_for_the_emptied_file_is_told_why() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    let scene = place.scene();
    let by_hand = scene.value("refresh_token");
    let base_url = scene.server.base_url();
    let line = ["-r", &by_hand, "--base-url", &base_url];
    place.on_file(&line).token();
    place.on_file(&line).token();
    let last = scene.value("refresh_token");
    place.import().assert_done();
    let rotations = scene.server.rotations();
    for token in [&by_hand, &last] {
        let run = place.on_file(&["-r", token, "--base-url", &base_url]);
        run.assert_failed(3, "refresh");
        assert!(!run.stderr.contains(token.as_str()), "{}", run.stderr);
    }
    assert_eq!(scene.server.rotations(), rotations);
    assert_eq!(scene.server.spent_seen(), 0);
    set_private(&scene.file());
    place.assert_moved("a cron line");
}

#[test]
fn what_dead_runs_left_moves_along() {
    let Some(mut place) = Move::start() else {
        return;
    };
    // A run that died with a pair in its journal: the pair is what moves.
    place.begin();
    let mut program = place.on_file_program();
    program.env("FEISHU_REFRESH_FAIL", "after-record=abort");
    assert_eq!(Run::of(program.output().unwrap()).code, ABORTED);
    let pair = place.scene().journaled().unwrap();
    place.import().assert_done();
    assert_eq!(
        place.shared.value("refresh_fingerprint"),
        fingerprint(&pair)
    );
    place.assert_moved("a journal");
    // One that died during a request: the next refused run must know.
    place.begin();
    place.scene().server.fail_next(Fault::HoldThenClose);
    let mut held = HeldRun::spawn(place.on_file_program().arg("-v"));
    place.scene().server.wait_until_held();
    held.child.kill().unwrap();
    held.child.wait().unwrap();
    place.scene().server.release();
    let token = fingerprint(&place.scene().value("refresh_token"));
    place.import().assert_done();
    assert_eq!(place.shared.value("unanswered_fingerprint"), token);
    place.scene().server.fail_next(Fault::code(20064));
    let run = place.in_store(&[]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(
        run.stderr.contains("sent this refresh token at"),
        "{}",
        run.stderr
    );
    // This server did not spend it: it still works.
    place.in_store(&[]).token();
    place.assert_moved("a doubt");
}

#[test]
fn a_login_over_one_that_is_held_back_parts_the_two() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    place.import_killed_at("after-hold");
    let scene = place.scene();
    let token = scene.value("refresh_token");
    let text = scene.text();
    let app = scene.app_flags();
    let app: Vec<&str> = app.iter().map(String::as_str).collect();
    let (login, page) = ask_in_store(&place.shared, &app);
    assert_eq!(answer(&place.shared, login, &page).code, 0);
    // Now they are two logins: each works where it is, and neither replaces the other.
    let run = place.import();
    run.assert_failed(3, "another login by that name");
    assert_eq!(place.text(), text);
    assert!(scene.server.is_live(&token));
    place.in_store(&[]).token();
    place.on_file(&[]).token();
    place.in_store(&[]).token();
    assert_eq!(scene.server.spent_seen(), 0);
}

#[test]
fn an_import_that_cannot_begin_changes_nothing() {
    let Some(mut place) = Move::start() else {
        return;
    };
    place.begin();
    let text = place.text();
    let import = |variable: &str, value: &str| {
        let mut program = place.in_store_program();
        program.args(["store", "import", "--lock-timeout", "1"]);
        Run::of(program.env(variable, value).output().unwrap())
    };
    let run = import("FEISHU_STORE", "postgres://u@127.0.0.1:1/x");
    run.assert_failed(5, "cannot connect");
    import("FEISHU_STORE_KEY_FILE", "/nowhere").assert_failed(3, "cannot read the store's key");
    import("FEISHU_STORE_KEY", "frkey_short")
        .assert_failed(3, "the store's key is missing or not valid");
    import("FEISHU_CONFIG_FILE", "nowhere.ini").assert_failed(3, "nowhere.ini does not exist");
    place
        .shared
        .database
        .query("ALTER TABLE feishu_refresh.login RENAME TO elsewhere");
    import("LANG", "C").assert_failed(3, "it does not have this program's tables");
    place
        .shared
        .database
        .query("ALTER TABLE feishu_refresh.elsewhere RENAME TO login");
    // A failing step, not a kill: what has not moved is reported, and can be moved later.
    import("FEISHU_REFRESH_FAIL", "after-hold=error").assert_failed(1, "fail point");
    assert_eq!(place.text(), text);
    assert_eq!(place.scene().file_names(), ["feishu-config.ini"]);
    // A transient failure is retried.
    let run = import("FEISHU_REFRESH_FAIL", "before-hold=error");
    run.assert_done();
    place.assert_moved("at last");
    for rubbish in ["", "rubbish\n", "00000000.AAAA\n"] {
        let mut program = place.in_store_program();
        program.args(["store", "import", "-"]).stdin(Stdio::piped());
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(rubbish.as_bytes());
        Run::of(child.wait_with_output().unwrap()).assert_failed(3, "");
    }
}
