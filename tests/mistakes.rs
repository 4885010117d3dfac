//! What people get wrong in their first hour: each ends in a message that names what is wrong and what became
//! of the token, and in a next step that works when it is typed.

use std::process::Stdio;

use crate::harness::{HeldRun, Run, Scene, value_in};
use crate::sandbox::{APP_ID, APP_SECRET};

/// A mistake, and how it is put right.
struct Mistake {
    /// The file; none if there is none. `APP` is the app's id and secret, `PAIR` tokens that work.
    file: Option<&'static str>,
    arguments: &'static [&'static str],
    code: i32,
    /// What the message says.
    says: &'static [&'static str],
    /// What the hint says to do.
    hint: &'static str,
    /// What a person types then; at a new file, if it was the file that was wrong.
    next: &'static [&'static str],
    repaired: Option<&'static str>,
}

const GOOD: &str = "[ID]\nAPP\nHOSTS\n[TOKEN]\nPAIR\n";
const NOTHING: &str = "nothing was sent";

impl Mistake {
    /// A mistake on a command line, beside a file that is good.
    const fn typed(
        arguments: &'static [&'static str],
        code: i32,
        says: &'static [&'static str],
        hint: &'static str,
        next: &'static [&'static str],
    ) -> Self {
        Mistake {
            file: Some(GOOD),
            arguments,
            code,
            says,
            hint,
            next,
            repaired: None,
        }
    }

    /// A mistake in the file.
    const fn written(
        file: &'static str,
        says: &'static [&'static str],
        hint: &'static str,
        next: &'static [&'static str],
        repaired: Option<&'static str>,
    ) -> Self {
        Mistake {
            file: Some(file),
            arguments: &[],
            code: 3,
            says,
            hint,
            next,
            repaired,
        }
    }
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    Mistake::typed(&["lgoin"], 2, &["lgoin is not known", NOTHING], "did you mean login?", &["login", "--paste"]),
    Mistake::typed(&["--json"], 2, &["--json is not known", NOTHING], "did you mean -o json?", &["-o", "json"]),
    Mistake::typed(&["--min-ttl", "1h30m"], 2, &["a duration like 90, 90s, 10m, 1h or 2d", NOTHING], "see -h", &["--min-ttl", "90m"]),
    Mistake::typed(&["exec", "true"], 2, &["true is not known", NOTHING], "exec -- COMMAND", &["exec", "--", "true"]),
    Mistake::typed(&["exec", "--", "/no/such/program"], 3, &["no program /no/such/program", NOTHING], "", &["exec", "--", "true"]),
    Mistake::typed(&["--all", "-p", "TOKEN"], 2, &["--all does not go with -p", NOTHING], "leave out one of them", &["--all"]),
    Mistake::typed(&["login", "--api", "v1"], 2, &["v2 or v3 token pair only", NOTHING], "leave out --api", &["login", "--paste"]),
    Mistake::typed(&["-p", "token"], 3, &["no section [token]; it has [TOKEN]", NOTHING], "did you mean TOKEN?", &["-p", "TOKEN"]),
    Mistake::typed(&["status", "-p", "TOKN"], 3, &["no section [TOKN]; it has [TOKEN]"], "did you mean TOKEN?", &["status", "-p", "TOKEN"]),
    Mistake::typed(&["-c", "no/such/file.ini"], 3, &["there is no folder", NOTHING], "check the path", &["-c", "feishu-config.ini"]),
    Mistake::typed(&["-c", "config.ini"], 3, &["config.ini does not exist", NOTHING], "check -c and -p", &["-c", "feishu-config.ini"]),
    Mistake::typed(&["-r", "u-1abc"], 3, &["is a user access token", NOTHING], "take the reply's other token", &["-r", "R_TOKEN", "--base-url", "BASE"]),
    Mistake::typed(&["-a", "ur-1abc", "-r", "t-1abc"], 3, &["they are swapped", NOTHING], "-a takes the app_access_token", &["-a", "A_TOKEN", "-r", "R_TOKEN", "--base-url", "BASE"]),
    Mistake::typed(&["-r", "\"ur-1abc\""], 3, &["holds more than a token", NOTHING], "remove quotes", &["-r", "R_TOKEN", "--base-url", "BASE"]),
    Mistake::typed(&["-r", ""], 3, &["the refresh_token given is empty", NOTHING], "may be unset", &["-r", "R_TOKEN", "--base-url", "BASE"]),
    Mistake::typed(&["--api", "v2"], 4, &["no saved token"], "--api v1", &["--api", "v1"]),
    Mistake::typed(&["-o", "github"], 3, &["GITHUB_OUTPUT is not set", NOTHING], "a step of GitHub Actions", &["-o", "env"]),
    Mistake::typed(&["--base-url", "http://open.feishu.cn"], 3, &["unencrypted", NOTHING], "https", &["--base-url", "BASE"]),
    Mistake::typed(&["--store", "feishu"], 3, &[NOTHING], "postgres://", &[]),
    Mistake::written("[ID]\nHOSTS\n[TOKEN]\nPAIR\n", &["no app_access_token", NOTHING], "--app-secret, or FEISHU_APP_ID and FEISHU_APP_SECRET", &["--app-id", APP_ID, "--app-secret", APP_SECRET, "--base-url", "BASE"], None),
    Mistake::written("[ID]\napp_id = cli_1\nHOSTS\n[TOKEN]\nPAIR\n", &["no app_secret", NOTHING], "--app-secret or FEISHU_APP_SECRET", &[], Some(GOOD)),
    Mistake::written("[ID]\napp_id = x\napp_secret = x\nHOSTS\n[TOKEN]\nPAIR\n", &["the refresh token was not sent"], "check them in the developer console", &[], Some(GOOD)),
    Mistake::written("[ID]\nAPP\nHOSTS\n[TOKEN]\nrefresh_token = your_refresh_token\n", &["is a placeholder", NOTHING], "replace it by the real one", &[], Some(GOOD)),
    Mistake::written("[ID]\nAPP\nHOSTS\n[TOKEN]\nPAIR\nPAIR\n", &["line 7", NOTHING], "", &[], Some(GOOD)),
    Mistake::written("[ID]\nAPP\nHOSTS\n", &["no section [TOKEN]", NOTHING], "feishu-refresh login", &["login", "--paste"], None),
    Mistake::written("[ID]\nAPP\nHOSTS\n[TOKEN]\n", &["no refresh_token", NOTHING], "-r or FEISHU_REFRESH_TOKEN", &["login", "--paste"], None),
];

fn filled(scene: &Scene, text: &str) -> String {
    let base_url = scene.server.base_url();
    let pair = scene.server.profile("TOKEN", "v1");
    text.replace(
        "APP\n",
        &format!("app_id = {APP_ID}\napp_secret = {APP_SECRET}\n"),
    )
    .replace(
        "HOSTS",
        &format!("base_url = {base_url}\naccounts_url = {base_url}"),
    )
    .replace(
        "PAIR",
        &format!("refresh_token = {}", value_in(&pair, "refresh_token")),
    )
    .replace("BASE", &base_url)
    .replace("A_TOKEN", &scene.server.app_token())
    .replace("R_TOKEN", &scene.server.refresh_token())
}

/// Types a command; consents, if it asks for that.
fn typed(scene: &Scene, arguments: &[String]) -> Run {
    if arguments.first().is_none_or(|first| first != "login") {
        return scene.run(arguments);
    }
    let mut program = scene.program();
    program.args(arguments).stdin(Stdio::piped());
    let mut run = HeldRun::until(&mut program, "Paste its address here:\n");
    let page = run.said.split("\n  ").nth(1).unwrap();
    let (agree, _) = scene.server.consent(page.split('\n').next().unwrap());
    let mut stdin = run.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, format!("{agree}\n").as_bytes()).unwrap();
    run.finish()
}

#[test]
fn each_typical_mistake_is_named_and_its_next_step_works() {
    assert!(MISTAKES.len() >= 20);
    for mistake in MISTAKES {
        let scene = Scene::without_file();
        if let Some(text) = mistake.file {
            scene.write(filled(&scene, text));
        }
        let before = mistake.file.map(|_| scene.text());
        let what = mistake.arguments;
        let run = scene.run(what);
        assert_eq!(run.code, mistake.code, "{what:?}: {run:?}");
        let mut lines = run.stderr.lines();
        let message = lines.next().unwrap();
        let hint = lines.find(|line| line.starts_with("hint: "));
        for words in mistake.says {
            assert!(message.contains(words), "{what:?}: {words:?}: {run:?}");
        }
        let is_last = message.ends_with(NOTHING) || !mistake.says.contains(&NOTHING);
        assert!(is_last, "{what:?}: {run:?}");
        assert!(
            hint.is_some_and(|hint| hint.contains(mistake.hint)),
            "{what:?}: {:?}: {run:?}",
            mistake.hint
        );
        assert_eq!(before, mistake.file.map(|_| scene.text()), "{what:?}");
        let nothing = mistake.says.contains(&NOTHING);
        assert!(!nothing || scene.server.requests().is_empty(), "{what:?}");
        assert_eq!(scene.server.rotations(), 0, "{what:?}");
        if let Some(text) = mistake.repaired {
            scene.write(filled(&scene, text));
        }
        let next: Vec<_> = mistake
            .next
            .iter()
            .map(|word| filled(&scene, word))
            .collect();
        let run = typed(&scene, &next);
        assert_eq!(run.code, 0, "{what:?}, then {next:?}: {run:?}");
        assert_eq!(scene.server.spent_seen(), 0, "{what:?}");
    }
}
