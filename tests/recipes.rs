//! The recipes of `docs/recipes.md`, run as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::{Run, Scene};
use crate::sandbox::{APP_ID, APP_SECRET};

const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md");

/// The recipes' blocks of this kind.
fn blocks(kind: &str) -> Vec<String> {
    blocks_in(RECIPES, kind)
}

/// The blocks of this kind in a text.
pub fn blocks_in(text: &str, kind: &str) -> Vec<String> {
    let text = fs::read_to_string(text).unwrap();
    let fence = format!("\n```{kind}\n");
    let blocks = text.split(&fence).skip(1);
    blocks
        .map(|block| block.split("\n```").next().unwrap().to_owned() + "\n")
        .collect()
}

/// Puts a program into a folder.
pub fn install(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A path with this program in it, and stand-ins for those that would need a network.
pub fn path(scene: &Scene) -> String {
    let bin = scene.folder().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = env!("CARGO_BIN_EXE_feishu-refresh");
    install(
        &bin,
        "feishu-refresh",
        &format!("#!/bin/sh\nexec {program} \"$@\"\n"),
    );
    install(&bin, "curl", "#!/bin/sh\ncat > \"$HOME/curl-heard\"\n");
    let lark = "#!/bin/sh\necho \"$LARKSUITE_CLI_APP_ID $LARKSUITE_CLI_USER_ACCESS_TOKEN\"\n";
    install(&bin, "lark-cli", lark);
    // The uses that the recipes make of it.
    let jq = "#!/bin/sh\ncase $* in '-jer .refresh_token' | '-er .value') ;;\n\
              '-n --arg text '*' {msg_type: \"text\", content: {text: $text}}') printf %s \"$4\"; exit ;;\n\
              *) exit 9 ;; esac\n\
              found=$(sed -n \"s/.*\\\"${2#.}\\\":\\\"\\([^\\\"]*\\)\\\".*/\\1/p\" | grep .) || exit\n\
              printf %s \"$found\"; [ \"$1\" = -jer ] || echo\n";
    install(&bin, "jq", jq);
    format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display())
}

#[test]
fn the_recipes_for_shells_work() {
    let blocks = blocks("sh");
    assert_eq!(blocks.len(), 6, "a block is not tried");
    let scene = Scene::without_file();
    scene.write(scene.server.profile("TOKEN", "v1"));
    let path = path(&scene);
    let shell = |script: &str| {
        let mut shell = std::process::Command::new("sh");
        shell
            .current_dir(scene.folder())
            .env_clear()
            .env("PATH", &path);
        shell.env("HOME", scene.folder());
        Run::of(shell.args(["-euc", script]).output().unwrap())
    };
    for script in &blocks[..5] {
        let run = shell(script);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{script}");
    }
    let token = scene.value("user_access_token");
    let heard = || fs::read_to_string(scene.folder().join("curl-heard")).unwrap();
    assert_eq!(
        heard(),
        format!("header = \"Authorization: Bearer {token}\"\n")
    );
    let seen = shell(&format!(
        "{}printf %s \"$FEISHU_USER_ACCESS_TOKEN\"",
        blocks[2]
    ));
    assert_eq!(seen.stdout, token);
    let seen = shell(&blocks[4]);
    assert_eq!(seen.stdout, format!("cli_a1b2c3d4e5f6 {token}\n"));
    // One rotation served them all.
    assert_eq!(scene.server.rotations(), 1);
    // A group hears of a login that dies soon, or has died, or cannot be read, by the bot's keyword.
    let whole = scene.text();
    let end = scene.value("refresh_token_expires_at");
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(47)).to_string();
    let dying = whole.replace(&end, &soon);
    let dead = whole.replace("refresh_token = ", "refresh_token = \n; ");
    for (text, says) in [
        (dying.as_str(), "end within 2d"),
        (&dead, "cannot be refreshed"),
        ("no section", "line 1"),
    ] {
        scene.write(text);
        let run = shell(&blocks[3]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        let heard = heard();
        assert!(
            heard.starts_with("feishu-refresh: ") && heard.contains(says),
            "{heard}"
        );
    }
}

/// A job whose refresh token is in a variable, which it rewrites.
#[test]
fn a_job_without_a_disk_rewrites_its_variable() {
    let is_job = |block: &String| block.contains("resource_group");
    let job = blocks("yaml").into_iter().find(is_job).unwrap();
    let (_, script) = job.split_once("  script:\n").unwrap();
    let (script, _) = script.split_once("  after_script:").unwrap();
    let script = script.replace("    - ", "");
    let home = Scene::without_file();
    let kept = home.folder().join("kept");
    fs::write(&kept, home.server.refresh_token_for("v2")).unwrap();
    let path = path(&home);
    let curl = "#!/bin/sh\ncat > \"$HOME/curl-heard\"\n\
                case $* in *'-X PUT --form value=<value'*) [ ! -e \"$HOME/refuses\" ] && cp value \"$HOME/kept\" ;;\n\
                *) printf '{\"value\":\"%s\"}' \"$(cat \"$HOME/kept\")\" ;; esac\n";
    install(&home.folder().join("bin"), "curl", curl);
    let run = || {
        let scene = Scene::without_file();
        let variable = blocks("sh").swap_remove(5);
        install(scene.folder(), "variable", &variable);
        let deploy = "#!/bin/sh\ntest -n \"$FEISHU_USER_ACCESS_TOKEN\"\n";
        install(scene.folder(), "deploy", deploy);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-ec", &script])
            .current_dir(scene.folder())
            .env_clear()
            .env("PATH", &path)
            .env("HOME", home.folder())
            .env("FEISHU_BASE_URL", home.server.base_url())
            .env("FEISHU_API", "v2")
            .env("FEISHU_APP_ID", APP_ID)
            .env("FEISHU_APP_SECRET", APP_SECRET)
            .env("FEISHU_REFRESH_TOKEN", "an older one")
            .env("MAY_WRITE_VARIABLES", "glpat")
            .env("VARIABLE", "https://gitlab.example.com/variable");
        Run::of(shell.output().unwrap())
    };
    for job in 1..=3 {
        let run = run();
        assert_eq!(run.code, 0, "job {job}: {}", run.stderr);
        assert!(home.server.is_live(&fs::read_to_string(&kept).unwrap()));
        let heard = fs::read_to_string(home.folder().join("curl-heard")).unwrap();
        assert_eq!(heard, "header = \"PRIVATE-TOKEN: glpat\"\n");
    }
    // What may not be written costs no token.
    fs::write(home.folder().join("refuses"), "").unwrap();
    assert_ne!(run().code, 0);
    assert_eq!(home.server.rotations(), 3);
}

/// How programs in other languages call this one.
#[test]
fn the_recipes_for_programs_work() {
    let languages = [("js", "node", "-e", "console.log(feishuToken())")];
    for (kind, interpreter, option, call) in languages {
        let blocks = blocks(kind);
        let [block] = blocks.as_slice() else {
            panic!("a block of {kind} is not tried");
        };
        let scene = Scene::new();
        let own = path(&scene);
        let others = std::env::var("PATH").unwrap_or_default();
        let run = || {
            let mut program = std::process::Command::new(interpreter);
            program
                .args([option, &format!("{block}\n{call}")])
                .current_dir(scene.folder())
                .env("XDG_STATE_HOME", scene.folder().join("state"))
                .env("PATH", format!("{own}:{others}"));
            program.output().map(Run::of)
        };
        let Ok(first) = run() else {
            eprintln!("skipped: {interpreter} is not installed");
            continue;
        };
        assert_eq!(first.token(), scene.value("user_access_token"));
        assert_eq!(run().unwrap().token(), first.token());
        // A failure is one of theirs, too, and says why.
        scene.write("no section");
        let failed = run().unwrap();
        assert_ne!(failed.code, 0);
        assert!(
            failed.stderr.contains("feishu-config.ini"),
            "{}",
            failed.stderr
        );
    }
}
