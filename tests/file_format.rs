//! How the file looks afterwards, to us and to Python.

use std::fs;
use std::process::Command;

use crate::harness::Scene;
use crate::sandbox::{APP_ID, APP_SECRET, STANDARD_PATH};

/// Files as people and programs write them; `{base}`, `{app}` and `{refresh}` stand for values.
const FILES: &[&str] = &[
    // As Python's configparser writes it.
    "[ID]\napp_id = cli_a\napp_secret = s\n\n[LOGIN_CODE]\nredirect_uri = http://127.0.0.1:8080\n\n\
     [TOKEN]\nbase_url = {base}\napp_access_token = {app}\nuser_access_token = u-old\n\
     refresh_token = {refresh}\n\n",
    // Windows line ends, a byte order mark, comments, colons, odd spacing, upper case.
    "\u{feff}; my bots\r\n\r\n[TOKEN]\r\n# of the app\r\nAPP_ACCESS_TOKEN:{app}\r\nBase_URL   :  {base}\r\n\
     \r\nUser_Access_Token=u-old\r\n\tREFRESH_TOKEN = continued? no: the section begins deeper\r\n",
    // Indented throughout, tabs, a longer value of another's, no line end at the end.
    "[other tool]\nlist =\n    a = 1\n    [b]\n\n    # c\n[TOKEN]\n  base_url={base}\n  app_access_token={app}\n\
     \x20 note = 100%% ; \"sure\" \\\n  refresh_token={refresh}",
];

/// The lines that a run may change or add.
fn is_ours(line: &str) -> bool {
    let key = line
        .split(['=', ':'])
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase();
    key.starts_with("user_access_token") || key.starts_with("refresh_token")
}

#[test]
fn every_line_that_is_not_ours_survives_byte_for_byte() {
    for (index, file) in FILES.iter().enumerate() {
        let scene = Scene::without_file();
        let refresh = scene.server.refresh_token();
        // In the second file the key is only a deeper line, which is refused: fix it first.
        let file = file.replace(
            "\tREFRESH_TOKEN = continued? no: the section begins deeper",
            "REFRESH_TOKEN = {refresh}",
        );
        let before = file
            .replace("{base}", &scene.server.base_url())
            .replace("{app}", &scene.server.app_token())
            .replace("{refresh}", &refresh);
        scene.write(&before);
        let run = scene.run::<&str>([]);
        let token = run.token();
        let after = scene.text();
        assert!(after.contains(token), "{after}");
        assert!(
            !after.contains(&refresh) && !after.contains("u-old"),
            "{after}"
        );
        let others = |text: &str| -> Vec<String> {
            let lines = text.split_inclusive('\n').filter(|line| !is_ours(line));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(others(&after), others(&before), "file {index}");
        let crlf = before.contains('\r');
        assert!(after.lines().count() >= before.lines().count());
        assert_eq!(
            after.matches("\r\n").count(),
            if crlf { after.matches('\n').count() } else { 0 }
        );
    }
}

#[test]
fn a_known_key_on_a_deeper_line_is_refused() {
    let scene = Scene::without_file();
    let before = FILES[1]
        .replace("{base}", &scene.server.base_url())
        .replace("{app}", "a-1");
    scene.write(&before);
    scene.run::<&str>([]).assert_failed(3, "line 8");
    assert_eq!(scene.text(), before);
}

/// What the Python program does with its file: read all, set two values, write all.
const PYTHON_PROGRAM: &str = r#"
import configparser, sys
path, *new = sys.argv[1:]
config = configparser.ConfigParser()
config.read(path, encoding="utf-8")
print(config.get("TOKEN", "user_access_token", fallback=""))
print(config.get("TOKEN", "refresh_token"))
if new:
    config.set("TOKEN", "user_access_token", new[0])
    config.set("TOKEN", "refresh_token", new[1])
    with open(path, "w", encoding="utf-8") as file:
        config.write(file)
"#;

#[test]
fn python_and_this_program_take_turns_on_one_file() {
    let scene = Scene::new();
    let python = |new: &[&str]| {
        let output = Command::new("python3")
            .args(["-c", PYTHON_PROGRAM])
            .arg(scene.file())
            .args(new)
            .output();
        output.ok().map(|output| {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap()
        })
    };
    for _ in 0..3 {
        let run = scene.run::<&str>([]);
        let expected = format!("{}\n{}\n", run.token(), scene.value("refresh_token"));
        let Some(seen) = python(&["u-python", &scene.server.refresh_token()]) else {
            eprintln!("skipped: python3 is not installed");
            return;
        };
        assert_eq!(seen, expected);
        assert_eq!(scene.value("user_access_token"), "u-python");
    }
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn the_example_file_is_a_file_that_works() {
    let scene = Scene::without_file();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/feishu-config.ini.example");
    let example = fs::read_to_string(example).unwrap();
    scene.write(&example);
    // Unedited, it holds no tokens.
    scene
        .run::<&str>([])
        .assert_failed(3, "no refresh_token, and none given");
    assert_eq!(scene.text(), example);
    // Filled in, every profile works, and no other line has changed.
    let filled = example
        .replace("app_id =\n", &format!("app_id = {APP_ID}\n"))
        .replace("app_secret =\n", &format!("app_secret = {APP_SECRET}\n"));
    let filled = [
        "[oidc]",
        "[v3]",
        "[115]",
        "[standard]",
        "api = ",
        "token_url =",
        "app_id =",
        "refresh_token =",
    ]
    .iter()
    .fold(filled, |text, commented| {
        text.replace(&format!("\n# {commented}"), &format!("\n{commented}"))
    });
    let server = scene.server.base_url();
    let mut filled = filled
        .replace(
            "# base_url = https://open.larksuite.com",
            &format!("base_url = {server}"),
        )
        .replace(
            "https://id.example.com/oauth/token",
            &format!("{server}{STANDARD_PATH}"),
        )
        .replace(
            "[standard]",
            &format!("[standard]\napp_secret = {APP_SECRET}"),
        )
        .replace("app_id =\n", &format!("app_id = {APP_ID}\n"));
    for api in ["v1", "oidc", "v3", "v2", "115"] {
        let token = scene.server.refresh_token_for(api);
        filled = filled.replacen(
            "refresh_token =\n",
            &format!("refresh_token = {token}\n"),
            1,
        );
    }
    scene.write(&filled);
    for profile in ["TOKEN", "oidc", "v3", "115", "standard"] {
        scene.run(["-p", profile]).token();
    }
    let text = scene.text();
    let mut lines = text.lines();
    for line in filled
        .lines()
        .filter(|line| !line.starts_with("refresh_token"))
    {
        assert!(
            lines.any(|found| found == line),
            "{line:?} is not where it was"
        );
    }
    scene.assert_sound();
}
