//! What scripts use: saved tokens, other outputs, commands before and after.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{HeldRun, PROGRAM, Run, Scene, command, send_signal};
use crate::sandbox::Fault;

#[test]
fn a_token_that_lasts_is_printed_and_nothing_else_is_done() {
    let scene = Scene::new();
    let token = scene.run::<&str>([]).token().to_owned();
    let before = scene.text();
    for duration in ["90s", "10m", "1h", "0.05d", "600", "0"] {
        let run = scene.run(["--min-ttl", duration]);
        assert_eq!((run.token(), run.stderr.as_str()), (token.as_str(), ""));
    }
    let run = scene.run(["--min-ttl", "1h", "-o", "json"]);
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&result["access_token"], &result["refreshed"]),
        (&json!(token), &json!(false))
    );
    // No lock either: another run has it.
    let held = HeldRun::start(&scene, Fault::Hold);
    assert_eq!(scene.run(["--min-ttl", "1h"]).token(), token);
    assert_eq!(scene.text(), before);
    held.let_go(&scene).token();
    assert_eq!(scene.server.requests().len(), 2);
    scene.assert_sound();
}

#[test]
fn a_token_that_does_not_last_is_refreshed() {
    let scene = Scene::new();
    let mut last = scene.run::<&str>([]).token().to_owned();
    let mut assert_refreshed = |arguments: &[&str]| {
        let run = scene.run(arguments);
        assert_ne!(run.token(), last, "{arguments:?}");
        last = run.token().to_owned();
        scene.assert_sound();
    };
    assert_refreshed(&["--min-ttl", "3h"]);
    for seconds in [599, -1, -86400] {
        scene.let_it_end_in(seconds);
        assert_refreshed(&["--min-ttl", "10m"]);
    }
    // An unknown expiry, and a record without an access token.
    for (key, value) in [
        ("user_access_token_expires_at", "soon"),
        ("user_access_token", ""),
    ] {
        let line = format!("{key} = {}\n", scene.value(key));
        scene.write(scene.text().replace(&line, &format!("{key} = {value}\n")));
        assert_refreshed(&["--min-ttl", "10m"]);
    }
    // Another login, or another endpoint, is asked for.
    let token = scene.server.refresh_token();
    let base_url = scene.server.base_url();
    assert_refreshed(&["--min-ttl", "10m", "-r", &token, "--base-url", &base_url]);
    assert_refreshed(&["--min-ttl", "10m", "--api", "oidc"]);
    // The given token stands for what the file now holds.
    let run = scene.run(["--min-ttl", "10m", "-r", &token]);
    assert_eq!(run.token(), last);

    scene.write(scene.server.profile("TOKEN", "v2"));
    scene.run(["--scope", "task:task:read"]).token();
    let before = scene.server.rotations();
    scene
        .run(["--min-ttl", "10m", "--scope", "task:task:read"])
        .token();
    assert_eq!(scene.server.rotations(), before);
    scene
        .run(["--min-ttl", "10m", "--scope", "auth:user.id:read"])
        .token();
    assert_eq!(scene.server.rotations(), before + 1);
    for wrong in ["", "x", "-1s", "1 fortnight"] {
        let run = scene.run([format!("--min-ttl={wrong}")]);
        assert_eq!(run.code, 2, "{wrong}: {}", run.stderr);
    }
}

#[test]
fn a_shell_can_read_the_env_output() {
    for (api, variable) in [
        ("v1", "FEISHU_USER_ACCESS_TOKEN"),
        ("115", "OPEN115_ACCESS_TOKEN"),
    ] {
        let scene = Scene::without_file();
        scene.write(scene.server.profile("TOKEN", api));
        scene.run(["--retries", "0"]).token();
        scene.server.advance(Duration::from_secs(61));
        let odd = "u-a'b$(c)%d\"";
        scene.server.fail_next(Fault::Alter(Box::new(move |reply| {
            reply["data"]["access_token"] = json!(odd);
        })));
        let run = scene.run(["-o", "env"]);
        assert!(
            run.stdout.starts_with(&format!("export {variable}='u-a")),
            "{}",
            run.stdout
        );
        assert_eq!(run.stdout.lines().count(), 1);
        let script = format!("{}printf %s \"${variable}\"", run.stdout);
        let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(Run::of(shell).stdout, odd);
    }
}

#[test]
fn github_gets_a_mask_and_then_the_output() {
    let scene = Scene::new();
    let output = scene.folder().join("output");
    let run = |path: &str| {
        let mut program = scene.program();
        Run::of(
            program
                .args(["-o", "github"])
                .env("GITHUB_OUTPUT", path)
                .output()
                .unwrap(),
        )
    };
    // Nothing is sent unless the output can be written.
    scene
        .run(["-o", "github"])
        .assert_failed(3, "GITHUB_OUTPUT is not set");
    run("").assert_failed(3, "GITHUB_OUTPUT is not set");
    run("/no/such/file").assert_failed(3, "GITHUB_OUTPUT cannot be written: /no/such/file");
    run("/").assert_failed(3, "GITHUB_OUTPUT cannot be written: /");
    assert!(scene.server.requests().is_empty());

    // An unfinished line is not continued.
    fs::write(&output, "other=1").unwrap();
    let run = run(output.to_str().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let token = scene.value("user_access_token");
    assert_eq!(run.stdout, format!("::add-mask::{token}\n"));
    let lines = fs::read_to_string(&output).unwrap();
    assert_eq!(lines, format!("other=1\nuser_access_token={token}\n"));

    // A command could show either token: both are masked before it runs.
    let new = scene.folder().join("new");
    let mut program = scene.program();
    program
        .args(["-o", "github", "--on-refresh", "cat"])
        .env("GITHUB_OUTPUT", &new);
    let run = Run::of(program.output().unwrap());
    let [token, refresh] = ["user_access_token", "refresh_token"].map(|key| scene.value(key));
    // What a runner shows: each line after the masks before it apply.
    let mut masks = Vec::new();
    for line in run.stdout.lines() {
        match line.strip_prefix("::add-mask::") {
            Some(mask) => masks.push(mask),
            None => assert!(masks.iter().all(|mask| !line.contains(mask)), "{line}"),
        }
    }
    assert_eq!(masks, [&token, &refresh, &token]);
    assert!(run.stderr.contains(&refresh), "{}", run.stderr);
    let mode = new.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A pipe that nobody reads is not waited for.
    let pipe = scene.folder().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut program = scene.program();
    program.args(["-o", "github"]).env("GITHUB_OUTPUT", &pipe);
    Run::of(program.output().unwrap()).assert_failed(3, "GITHUB_OUTPUT cannot be written");
    // Nor is a token printed if the reply was bad.
    let masked = scene.folder().join("masked");
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["data"]["expires_in"] = json!("soon");
    })));
    let mut program = scene.program();
    program.args(["-o", "github"]).env("GITHUB_OUTPUT", &masked);
    Run::of(program.output().unwrap()).assert_failed(1, "was saved");
}

#[test]
fn a_command_hears_of_each_new_pair() {
    let scene = Scene::new();
    let hook = "cat > heard; cp feishu-config.ini saved; echo said";
    let run = scene.run(["--on-refresh", hook]);
    let heard = fs::read_to_string(scene.folder().join("heard")).unwrap();
    let result: Value = serde_json::from_str(&heard).unwrap();
    assert_eq!(result["access_token"], run.token());
    assert_eq!(result["refresh_token"], scene.value("refresh_token"));
    assert_eq!(result["refreshed"], true);
    // It runs after the save, and not with our stdout.
    let saved = fs::read_to_string(scene.folder().join("saved")).unwrap();
    assert_eq!(saved, scene.text());
    assert_eq!(run.stderr, "said\n");
    // An existing token is not reported.
    fs::remove_file(scene.folder().join("heard")).unwrap();
    scene.run(["--on-refresh", hook, "--min-ttl", "1h"]).token();
    assert!(!scene.folder().join("heard").exists());
}

/// A run that would wait for the run that waits for it is told so at once.
#[test]
fn a_command_that_refreshes_its_own_file_is_told_at_once() {
    let program = env!("CARGO_BIN_EXE_feishu-refresh");
    let hook = format!("{program} --retries 0; echo ended with $?");
    for arguments in [&[][..], &["--all"]] {
        let scene = Scene::new();
        let run = scene.run([arguments, &["--on-refresh", &hook]].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("waits for its end"), "{}", run.stderr);
        assert!(run.stderr.contains("ended with 3"), "{}", run.stderr);
        assert_eq!(scene.server.rotations(), 1);
        scene.assert_sound();
    }
    // It is free to refresh another.
    let (scene, other) = (Scene::new(), Scene::new());
    let hook = format!("{program} -c {}", other.file().display());
    scene.run(["--on-refresh", &hook]).token();
    assert_eq!(other.server.rotations(), 1);
    other.assert_sound();
}

/// A service started by a hook outlives the run that named itself to it.
#[test]
fn a_service_that_a_command_started_refreshes_later() {
    let scene = Scene::new();
    let program = env!("CARGO_BIN_EXE_feishu-refresh");
    let service = scene.folder().join("service");
    fs::write(
        &service,
        format!(
            "while ! test -e go; do sleep 0.01; done\n{program} -v > token 2> said; touch done\n"
        ),
    )
    .unwrap();
    let hook = "sh ./service < /dev/null > /dev/null 2>&1 &";
    scene.run(["--on-refresh", hook]).token();
    // Another run holds the file: the service waits for it as any run does.
    scene.server.fail_next(Fault::Hold);
    let held = HeldRun::spawn(scene.program().arg("-v"));
    fs::write(scene.folder().join("go"), "").unwrap();
    let said = scene.folder().join("said");
    wait_for(|| fs::read_to_string(&said).is_ok_and(|said| said.contains("waiting")));
    let token = held.let_go(&scene).token().to_owned();
    wait_for(|| scene.folder().join("done").exists());
    let printed = fs::read_to_string(scene.folder().join("token")).unwrap();
    assert_eq!(printed.trim_end(), token);
}

#[test]
fn a_command_gets_the_signal_mask_and_the_core_limit_that_the_program_was_started_with() {
    let scene = Scene::new();
    let hook = "grep SigBlk /proc/self/status >&2; ulimit -c >&2";
    let hook = format!("{hook}; timeout 0.2 sleep 9; echo ended with $?");
    // Other shells reset the mask for what they start.
    let hook = format!("exec bash -c '{hook}'");
    for arguments in [&[][..], &["--all"]] {
        let mut shell = Command::new("bash");
        shell.current_dir(scene.folder()).env_clear();
        shell.args(["-c", "ulimit -c 123; exec \"$@\"", "bash"]);
        shell.arg(PROGRAM);
        shell.args(arguments).args(["--on-refresh", &hook]);
        let run = Run::of(shell.output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(
            run.stderr.contains("SigBlk:\t0000000000000000\n123\n"),
            "{}",
            run.stderr
        );
        // A timer based on signals works.
        assert!(run.stderr.contains("ended with 124"), "{}", run.stderr);
    }
    // A signal that was blocked stays so.
    let mut python = Command::new("python3");
    python.current_dir(scene.folder()).env_clear();
    let code = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); os.execv(sys.argv[1], sys.argv[1:])";
    python.args(["-c", code]).arg(PROGRAM);
    let Ok(output) = python.args(["--on-refresh", &hook]).output() else {
        eprintln!("skipped: python3 is not installed");
        return;
    };
    let run = Run::of(output);
    assert!(
        run.stderr.contains("SigBlk:\t0000000000000200"),
        "{}",
        run.stderr
    );
}

/// Waits until something is so.
fn wait_for(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never is");
        thread::sleep(Duration::from_millis(10));
    }
}

/// As in an image that has the program and nothing else.
#[test]
fn without_a_shell_a_command_is_refused_before_anything_is_spent() {
    let scene = Scene::new();
    let hide = "mount --bind /dev/null \"$(readlink -f /bin/sh)\" && exec \"$0\" --on-refresh true";
    let mut unshare = command("unshare");
    unshare.args(["-m", "bash", "-c", hide, PROGRAM]);
    let output = unshare.current_dir(scene.folder()).output();
    let run = output.ok().map(Run::of);
    let Some(run) = run.filter(|run| !run.stderr.contains("Operation not permitted")) else {
        eprintln!("skipped: this machine does not let a test hide the shell");
        return;
    };
    run.assert_failed(3, "there is no /bin/sh here");
    assert!(run.stderr.contains("nothing was sent"));
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_command_that_fails_is_told_and_the_token_printed() {
    let scene = Scene::new();
    for (hook, says) in [
        ("exit 3", "exit status: 3"),
        ("kill -9 $$", "signal: 9"),
        ("no-such-command-anywhere", "exit status: 127"),
    ] {
        let run = scene.run(["--on-refresh", hook]);
        assert_eq!(run.code, 7, "{}", run.stderr);
        assert_eq!(run.stdout.trim_end(), scene.value("user_access_token"));
        assert!(
            run.stderr.contains("refreshed and saved, but"),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains(says), "{}", run.stderr);
        scene.assert_sound();
    }
    let run = scene.run(["--on-refresh", "exit 1", "-o", "json"]);
    let error: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["kind"], "hook");
    assert_eq!(error["error"]["exit_code"], 7);
    // Nothing was saved: there is nothing to report.
    let mut failing = scene.program();
    failing.env("FEISHU_REFRESH_FAIL", "before-rename=error");
    let run = failing
        .args(["--on-refresh", "touch heard"])
        .output()
        .unwrap();
    Run::of(run).assert_failed(6, "rotated, but not saved");
    assert!(!scene.folder().join("heard").exists());
}

#[cfg(target_os = "linux")] // It has `setsid`.
#[test]
fn a_signal_waits_for_the_command_to_end() {
    let scene = Scene::new();
    let hook = "echo started >&2; while [ ! -e go ]; do sleep 0.01; done; touch done";
    // In its own group and session, as a CI starts it; the signal goes to the whole group.
    let mut program = in_session(&scene, "setsid");
    let mut run = HeldRun::spawn(program.args(["-v", "--on-refresh", hook]));
    run.read_until("started");
    let group = format!("-{}", run.child.id());
    let sent = Command::new("kill")
        .args(["-s", "INT", "--", &group])
        .status();
    assert!(sent.unwrap().success());
    fs::write(scene.folder().join("go"), "").unwrap();
    assert_eq!(run.finish().code, 128 + 2);
    assert!(scene.folder().join("done").exists());
    // Its failure is still reported.
    let mut program = scene.program();
    let hook = "echo started >&2; while [ ! -e on ]; do sleep 0.01; done; exit 3";
    let mut run = HeldRun::spawn(program.args(["-v", "--on-refresh", hook]));
    run.read_until("started");
    send_signal(&run.child, "TERM");
    fs::write(scene.folder().join("on"), "").unwrap();
    let run = run.finish();
    assert!(run.stderr.contains("exit status: 3"), "{}", run.stderr);
}

#[test]
fn completions_load() {
    let scene = Scene::without_file();
    for (shell, says) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef feishu-refresh"),
        ("fish", "complete -c feishu-refresh"),
    ] {
        let run = scene.run(["completions", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert!(run.stdout.contains(says), "{shell}");
        assert!(run.stdout.contains("min-ttl"));
        let script = scene.folder().join(shell);
        fs::write(&script, run.stdout).unwrap();
        // If the shell is installed.
        let mut program = Command::new(shell);
        match program.arg("-n").arg(&script).output() {
            Ok(output) => assert_eq!(Run::of(output).code, 0, "{shell}"),
            Err(_) => eprintln!("skipped: {shell} is not installed"),
        }
    }
    scene
        .run(["completions"])
        .assert_failed(2, "completions needs the name of a shell");
    scene
        .run(["completions", "tcl"])
        .assert_failed(2, "can be: bash");
    assert!(!scene.file().exists());
}

/// What a shell offers at the end of this command line; none if the shell is not installed.
fn offered(scene: &Scene, shell: &str, line: &[&str]) -> Option<String> {
    let script = scene.run(["completions", shell]).stdout;
    let path = scene.folder().join(shell);
    fs::write(&path, script).unwrap();
    let path = path.display();
    let ask = match shell {
        "bash" => format!(
            "source '{path}'; COMP_WORDS=(feishu-refresh {line}); COMP_CWORD={last}\n\
             _feishu__refresh feishu-refresh '{word}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            line = line.join(" "),
            last = line.len(),
            word = line[line.len() - 1],
            before = line
                .len()
                .checked_sub(2)
                .map_or("feishu-refresh", |at| line[at]),
        ),
        _ => format!(
            "source '{path}'; complete -C 'feishu-refresh {}'",
            line.join(" ")
        ),
    };
    let mut program = Command::new(shell);
    program.args(["-c", &ask]).current_dir(scene.folder());
    Some(Run::of(program.output().ok()?).stdout)
}

#[test]
fn shells_complete_commands_options_and_values() {
    let scene = Scene::without_file();
    for shell in ["bash", "fish"] {
        for (line, expected) in [
            (&["sta"][..], "status"),
            (&["--min"], "--min-ttl"),
            (&["login", "--pas"], "--paste"),
            (&["exec", "--on-r"], "--on-refresh"),
            (&["--api", "oi"], "oidc"),
            (&["-o", "js"], "json"),
            (&["login", "-o", "js"], "json"),
            (&["completions", "ba"], "bash"),
        ] {
            let Some(offered) = offered(&scene, shell, line) else {
                eprintln!("skipped: {shell} is not installed");
                break;
            };
            let mut words = offered.lines().filter_map(|line| line.split('\t').next());
            assert!(
                words.any(|word| word == expected),
                "{shell}: {line:?}: {offered:?}"
            );
        }
    }
}

#[test]
fn shells_complete_the_sections_of_the_file_that_is_named() {
    let scene = Scene::without_file();
    scene.write("[ID]\napp_id = x\n[DEFAULT]\n[TOKEN]\n[third-bot]\napi = v2\n");
    // A name is no command, wherever the file comes from.
    let names = "[$(touch pwned)]\n[`touch pwned`]\n[*]\n";
    fs::write(scene.folder().join("hostile.ini"), names).unwrap();
    let hostile = [
        &[r"\$\(touch\ pwned\)", r"\*", r"\`touch\ pwned\`"][..],
        &["$(touch pwned)", "*", "`touch pwned`"],
    ];
    let other = scene.folder().join("other.ini");
    fs::write(&other, "[elsewhere]\n[else]\n").unwrap();
    let other = other.to_str().unwrap();
    for shell in ["bash", "fish"] {
        for (line, expected) in [
            (&["-p", "T"][..], &["TOKEN"][..]),
            (&["status", "--profile", "th"], &["third-bot"]),
            (&["login", "-c", other, "-p", "el"], &["else", "elsewhere"]),
            (&["-c", "missing.ini", "-p", "x"], &[]),
            (
                &["-c", "hostile.ini", "-p", ""],
                hostile[usize::from(shell == "fish")],
            ),
        ] {
            let Some(offered) = offered(&scene, shell, line) else {
                eprintln!("skipped: {shell} is not installed");
                break;
            };
            let words = offered.lines().filter_map(|line| line.split('\t').next());
            let mut words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
            words.sort_unstable();
            assert_eq!(words, expected, "{shell}: {line:?}");
        }
    }
    assert!(!scene.folder().join("pwned").exists());
}

/// The program, started by another.
#[cfg(target_os = "linux")]
fn in_session(scene: &Scene, starter: &str) -> Command {
    let mut command = command(starter);
    command.current_dir(scene.folder()).env_clear();
    command.arg(PROGRAM);
    command
}

#[cfg(target_os = "linux")] // The options of `script` are its own.
#[test]
fn a_command_can_ask_at_the_terminal() {
    let scene = Scene::new();
    let mut program = Command::new("script");
    let refresh = env!("CARGO_BIN_EXE_feishu-refresh");
    let hook = "read answer < /dev/tty; echo heard $answer";
    let command = format!("{refresh} --on-refresh '{hook}'");
    program
        .args(["-qec", &command, "/dev/null"])
        .current_dir(scene.folder())
        .env_clear()
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"me\n").unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    assert!(run.stdout.contains("heard me"), "{}", run.stdout);
    assert!(run.stdout.contains(&scene.value("user_access_token")));
}

/// The command may keep the only copy of a refresh token.
#[test]
fn a_command_hears_of_a_refresh_token_that_came_alone() {
    let scene = Scene::new();
    scene.run::<&str>([]).token();
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["data"]["access_token"] = json!(null);
    })));
    let run = scene.run(["--on-refresh", "cat > heard; exit 3"]);
    run.assert_failed(1, "it has no access_token");
    assert!(
        run.stderr.contains("the --on-refresh command failed"),
        "{}",
        run.stderr
    );
    let heard = fs::read_to_string(scene.folder().join("heard")).unwrap();
    let heard: Value = serde_json::from_str(&heard).unwrap();
    assert_eq!(heard["refresh_token"], scene.value("refresh_token"));
    assert_eq!(heard["access_token"], Value::Null);
    for blank in ["", "  "] {
        scene
            .run(["--on-refresh", blank])
            .assert_failed(2, "--on-refresh");
    }
    scene
        .run(["exec", "-o", "json", "--", "true"])
        .assert_failed(2, "no output of its own");
}

#[test]
fn what_is_no_token_does_not_last() {
    let scene = Scene::new();
    scene.run::<&str>([]).token();
    let line = format!("user_access_token = {}\n", scene.value("user_access_token"));
    scene.write(
        scene
            .text()
            .replace(&line, "user_access_token = u 1 ; mine\n"),
    );
    assert!(scene.server.gave(scene.run(["--min-ttl", "1m"]).token()));
}

#[test]
fn exec_becomes_the_command() {
    let scene = Scene::new();
    let run = scene.run([
        "exec",
        "--",
        "sh",
        "-c",
        "printf '%s %s' \"$FEISHU_USER_ACCESS_TOKEN\" \"$1\"",
        "sh",
        "-o",
    ]);
    assert_eq!(
        run.stdout,
        format!("{} -o", scene.value("user_access_token"))
    );
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    // The token is still valid: nothing is sent again, and options may be on either side.
    scene.run(["exec", "-v", "--", "true"]);
    scene.run(["-c", "feishu-config.ini", "exec", "--", "true"]);
    assert_eq!(scene.server.requests().len(), 1);
    scene.let_it_end_in(299);
    scene.run(["exec", "--", "true"]);
    assert_eq!(scene.server.requests().len(), 2);
    scene.run(["exec", "--min-ttl", "3h", "--", "true"]);
    assert_eq!(scene.server.requests().len(), 3);

    assert_eq!(scene.run(["exec", "--", "sh", "-c", "exit 42"]).code, 42);
    assert_eq!(
        scene.run(["exec", "--", "sh", "-c", "kill -TERM $$"]).code,
        128 + 15
    );
    assert_eq!(
        scene
            .run_with_stdin(&["exec", "--", "cat"], "to the child")
            .stdout,
        "to the child"
    );
    scene
        .run(["exec", "--", "no-such-command"])
        .assert_failed(3, "cannot start no-such-command");
    // Nothing is spent for something that is clearly not a program.
    let in_path = |arguments: &[&str]| {
        let mut program = scene.program();
        let program = program.env("PATH", "/bin:/usr/bin").args(arguments);
        Run::of(program.output().unwrap())
    };
    let requests = scene.server.requests().len();
    for command in ["no-such-command", "./feishu-config.ini", "/bin", "bin/"] {
        let run = in_path(&["exec", "--min-ttl", "3h", "--", command]);
        run.assert_failed(3, "there is no program ");
    }
    assert_eq!(scene.server.requests().len(), requests);
    assert_eq!(in_path(&["exec", "--", "true"]).code, 0);
    // What the system then fails to start.
    let script = scene.folder().join("script");
    fs::write(&script, "#!/no/such/shell\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let run = in_path(&["exec", "--min-ttl", "3h", "--", "./script"]);
    run.assert_failed(1, "cannot start ./script");
    fs::remove_file(script).unwrap();
    scene.run(["exec"]).assert_failed(2, "a command behind it");
    scene.assert_sound();

    scene.write(scene.server.profile("TOKEN", "115"));
    let run = scene.run(["exec", "--", "sh", "-c", "echo $OPEN115_ACCESS_TOKEN"]);
    assert_eq!(run.token(), scene.value("access_token"));
    // Without a token there is no command.
    scene.write("[TOKEN]\n");
    scene
        .run(["exec", "--", "echo", "ran"])
        .assert_failed(3, "no refresh_token");
}

#[test]
fn exec_puts_the_token_into_the_variables_that_the_command_looks_at() {
    let scene = Scene::new();
    let shown = "printf '%s %s %s' \"$MINE\" \"$_2\" \"${FEISHU_USER_ACCESS_TOKEN-none}\"";
    let run = scene.run(["exec", "--env", "MINE", "--env=_2", "--", "sh", "-c", shown]);
    let token = scene.value("user_access_token");
    assert_eq!(
        run.stdout,
        format!("{token} {token} none"),
        "{}",
        run.stderr
    );
    // Whatever else goes by that name: it was asked for.
    let run = scene.run([
        "exec",
        "--env",
        "FEISHU_REFRESH_TOKEN",
        "--",
        "printenv",
        "FEISHU_REFRESH_TOKEN",
    ]);
    assert_eq!(run.token(), token);
    // Nothing is spent for what is no variable, and what may be a token is not repeated.
    for name in ["", "1A", "A-B", "MINE=u-secret", "A B"] {
        let run = scene.run(["exec", "--min-ttl", "3h", "--env", name, "--", "true"]);
        run.assert_failed(2, "is not the name of a variable");
        assert!(!run.stderr.contains("secret"), "{}", run.stderr);
    }
    scene.run(["--env", "MINE"]).assert_failed(2, "--env");
    assert_eq!(scene.server.requests().len(), 1);
    scene.assert_sound();
}

#[test]
fn signals_and_the_process_are_the_commands_own() {
    let scene = Scene::new();
    let mut program = scene.program();
    let program = program.args(["exec", "--", "sh", "-c", "echo $$; exec sleep 60"]);
    let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line.trim(), child.id().to_string());
    send_signal(&child, "INT");
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(2)
    );
}
