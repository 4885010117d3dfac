//! The scripts of the GitHub Action (`action.yml`), with stand-ins for GitHub: whatever `gh` does, the login lives on,
//! and what the log says to do is right.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Run, Scene, command, send_signal};
use crate::recipes::install;
use crate::sandbox::{APP_ID, APP_SECRET, Fault};
use crate::store::Shared;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/action");

/// A runner whose `gh` keeps secrets as files, and fails in these calls (a pattern of the shell for their numbers).
struct Runner {
    scene: Scene,
    gh_fails: &'static str,
}

const GH: &str = r#"#!/bin/sh
[ "$1 $2" = 'secret set' ] || exit 9
case $* in *'--repo me/mine'*) ;; *) exit 9 ;; esac
echo "$*" >> "$GH_HOME/calls"
case $(($(wc -l < "$GH_HOME/calls"))) in $GH_FAILS) echo 'HTTP 403: Resource not accessible' >&2; exit 1 ;; esac
cat > "$GH_HOME/$3"
"#;

impl Runner {
    fn new(gh_fails: &'static str) -> Self {
        let scene = Scene::without_file();
        for folder in ["bin", "gh", "temp", "repair"] {
            fs::create_dir(scene.folder().join(folder)).unwrap();
        }
        let bin = scene.folder().join("bin");
        install(&bin, "gh", GH);
        install(&bin, "sleep", "#!/bin/sh\n");
        std::os::unix::fs::symlink(crate::harness::PROGRAM, bin.join("feishu-refresh")).unwrap();
        Runner { scene, gh_fails }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.folder().join(name)
    }

    fn shell(&self) -> Command {
        let mut shell = command("bash");
        let bin = self.path("bin");
        shell
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("GH_HOME", self.path("gh"))
            .env("RUNNER_TEMP", self.path("temp"))
            .env("RUNNER_OS", "Linux")
            .env("GITHUB_OUTPUT", self.path("output"))
            .current_dir(self.path("repair"))
            .stdin(Stdio::null());
        shell
    }

    /// The step that refreshes, with the inputs of a workflow that keeps this token in a secret.
    fn step(&self, refresh_token: &str) -> Command {
        let inputs = [
            ("FEISHU_APP_ID", APP_ID),
            ("FEISHU_APP_SECRET", APP_SECRET),
            ("FEISHU_API", ""),
            ("FEISHU_BASE_URL", &self.scene.server.base_url()),
            ("FEISHU_REFRESH_TOKEN", refresh_token),
            ("FEISHU_STORE", ""),
            ("FEISHU_STORE_KEY", ""),
            ("FEISHU_PROFILE", ""),
            ("MIN_TTL", ""),
            ("SECRET_NAME", "MY_TOKEN"),
            ("ENVIRONMENT", "feishu"),
            ("REPOSITORY", "me/mine"),
            ("GH_TOKEN", "gh-secret"),
        ];
        let mut shell = self.shell();
        shell.arg(format!("{FOLDER}/refresh")).envs(inputs);
        shell.env("GH_FAILS", self.gh_fails);
        shell
    }

    fn refresh(&self, refresh_token: &str) -> Run {
        Run::of(self.step(refresh_token).output().unwrap())
    }

    fn secret(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path("gh").join(name)).ok()
    }

    fn calls(&self) -> usize {
        let calls = fs::read_to_string(self.path("gh/calls"));
        calls.unwrap_or_default().lines().count()
    }

    /// Asserts that the secret holds a refresh token that works.
    fn assert_secret_lives(&self) {
        let secret = self.secret("MY_TOKEN").unwrap();
        assert!(self.scene.server.is_live(secret.trim_end()), "{secret}");
        assert_eq!(self.scene.server.spent_seen(), 0);
    }

    /// Pastes what the log says, as somebody who knows the app secret.
    fn repair(&self, log: &str) -> Run {
        let from = log.find("\n(\n").expect(log);
        let to = log.find("\n)\n").unwrap();
        let pasted = format!("{}\n)\n{APP_SECRET}\n", &log[from..to]);
        let mut shell = self.shell();
        shell.env("GH_FAILS", "never");
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, pasted.as_bytes()).unwrap();
        drop(stdin);
        Run::of(child.wait_with_output().unwrap())
    }
}

#[test]
fn the_action_puts_the_successor_where_the_token_came_from() {
    for api in ["v1", "v2"] {
        let runner = Runner::new("never");
        let mut token = runner.scene.server.refresh_token_for(api);
        // Each job has nothing but the secret.
        for job in 1..3 {
            let run = runner.refresh(&token);
            assert_eq!(run.code, 0, "{}", run.stderr);
            assert_eq!(runner.secret("MY_TOKEN_PROBE").unwrap(), token);
            assert_eq!(runner.calls(), 2 * job);
            token = runner.secret("MY_TOKEN").unwrap().trim_end().to_owned();
            fs::remove_file(runner.path("output")).unwrap();
        }
        let run = runner.refresh(&token);
        assert_eq!(run.code, 0, "{}", run.stderr);
        runner.assert_secret_lives();
        let output = fs::read_to_string(runner.path("output")).unwrap();
        let access_token = output
            .strip_prefix("user_access_token=")
            .unwrap()
            .trim_end();
        assert!(runner.scene.server.gave(access_token));
        assert_eq!(run.stderr, "");
        assert_eq!(fs::read_dir(runner.path("temp")).unwrap().count(), 0);
        // The log has both tokens only where it is told to hide them.
        for secret in [access_token, runner.secret("MY_TOKEN").unwrap().trim_end()] {
            let shown = run.stdout.replace(&format!("::add-mask::{secret}\n"), "");
            assert!(!shown.contains(secret) && !run.stderr.contains(secret));
        }
    }
}

#[test]
fn the_action_spends_nothing_if_the_secret_cannot_be_written() {
    let runner = Runner::new("*");
    let token = runner.scene.server.refresh_token_for("v1");
    let run = runner.refresh(&token);
    assert_eq!(run.code, 3, "{}", run.stdout);
    let message = "::error::feishu-refresh: the secret MY_TOKEN cannot be written";
    assert!(run.stdout.starts_with(message), "{}", run.stdout);
    assert!(run.stdout.contains("nothing was sent"));
    assert!(run.stderr.contains("HTTP 403"));
    assert!(runner.scene.server.is_live(&token));
    assert!(runner.scene.server.requests().is_empty());

    // A dead token is told as such, and needs no repair.
    let runner = Runner::new("never");
    let run = runner.refresh("ur-of-nobody");
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stdout.contains("On any machine: feishu-refresh login"));
    assert_eq!(fs::read_dir(runner.path("temp")).unwrap().count(), 0);

    let run = runner.refresh("");
    assert_eq!(run.code, 3);
    assert!(
        run.stdout.contains("refresh-token is empty"),
        "{}",
        run.stdout
    );
    assert_eq!(runner.calls(), 1);
}

#[test]
fn the_action_tries_again_before_it_gives_up() {
    let runner = Runner::new("[2-4]");
    let run = runner.refresh(&runner.scene.server.refresh_token_for("v1"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(runner.calls(), 5);
    runner.assert_secret_lives();
    // Until then, the log had to do.
    let told = run.stderr.find("\n(\n").unwrap();
    assert!(run.stderr[told..].contains("MY_TOKEN was written after all"));
}

#[test]
fn what_the_log_of_the_action_says_restores_the_secret() {
    let runner = Runner::new("[!1]");
    let run = runner.refresh(&runner.scene.server.refresh_token_for("v3"));
    assert_eq!(run.code, 7, "{}", run.stdout);
    assert_eq!(runner.secret("MY_TOKEN"), None);
    assert_eq!(runner.calls(), 5);

    let repaired = runner.repair(&run.stderr);
    assert_eq!(repaired.code, 0, "{}\n{}", run.stderr, repaired.stderr);
    runner.assert_secret_lives();
    let last = fs::read_to_string(runner.path("gh/calls")).unwrap();
    let last = last.lines().last().unwrap();
    assert_eq!(last, "secret set MY_TOKEN --repo me/mine --env feishu");
}

/// A runner cancels a job by SIGINT and SIGTERM to the step, and kills it some seconds later.
#[test]
fn a_job_that_is_cancelled_during_the_refresh_leaves_the_pair_in_the_log() {
    let runner = Runner::new("[!1]");
    runner.scene.server.fail_next(Fault::Hold);
    let token = runner.scene.server.refresh_token_for("v2");
    let mut step = runner.step(&token);
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped());
    let step = step.spawn().unwrap();
    while runner.scene.server.requests().is_empty() {
        std::thread::yield_now();
    }
    send_signal(&step, "INT");
    send_signal(&step, "TERM");
    runner.scene.server.release();
    let run = Run::of(step.wait_with_output().unwrap());
    assert_eq!(run.code, 128 + 15, "{}", run.stderr);
    assert_eq!(runner.repair(&run.stderr).code, 0, "{}", run.stderr);
    runner.assert_secret_lives();
    assert_eq!(fs::read_dir(runner.path("temp")).unwrap().count(), 0);
}

#[test]
fn a_job_that_is_cancelled_before_the_refresh_spends_nothing() {
    let runner = Runner::new("never");
    install(
        &runner.path("bin"),
        "gh",
        "#!/bin/sh\ntouch \"$GH_HOME/calls\"\nwhile [ ! -e \"$GH_HOME/go\" ]; do :; done\n",
    );
    let token = runner.scene.server.refresh_token_for("v2");
    let mut step = runner.step(&token);
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped());
    let step = step.spawn().unwrap();
    while !runner.path("gh/calls").exists() {
        std::thread::yield_now();
    }
    send_signal(&step, "INT");
    fs::write(runner.path("gh/go"), "").unwrap();
    let run = Run::of(step.wait_with_output().unwrap());
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.stdout.contains("cancelled; nothing was sent"));
    assert!(runner.scene.server.requests().is_empty());
}

/// On a runner of one's own the disk stays: it has the only copy then.
#[test]
fn what_could_not_be_told_stays_on_the_disk() {
    let runner = Runner::new("[!1]");
    // The trial takes two calls, one each way.
    let openssl = "#!/bin/sh\necho >> \"$GH_HOME/sealed\"\n\
        [ $(($(wc -l < \"$GH_HOME/sealed\"))) -le 2 ] && exec /usr/bin/openssl \"$@\"\nexit 1\n";
    install(&runner.path("bin"), "openssl", openssl);
    let run = runner.refresh(&runner.scene.server.refresh_token_for("v2"));
    assert_ne!(run.code, 0, "{}", run.stderr);
    let folder = fs::read_dir(runner.path("temp")).unwrap().next().unwrap();
    let text = fs::read_to_string(folder.unwrap().path().join("feishu-config.ini")).unwrap();
    let token = crate::harness::value_in(&text, "refresh_token");
    assert!(runner.scene.server.is_live(&token));
}

/// The vendor's own program, written in Go, does not die of an alarm.
#[test]
fn the_action_does_not_wait_for_a_gh_that_hangs() {
    let runner = Runner::new("2");
    let hang = GH.replace("exit 1 ;;", "trap '' ALRM; exec /bin/sleep 300 ;;");
    install(&runner.path("bin"), "gh", &hang);
    let run = runner.refresh(&runner.scene.server.refresh_token_for("v2"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("MY_TOKEN was written after all"));
    runner.assert_secret_lives();
}

/// Somebody types it although a later run has put another token there.
#[test]
fn what_the_log_of_the_action_says_overwrites_no_newer_token() {
    let runner = Runner::new("[!1]");
    let run = runner.refresh(&runner.scene.server.refresh_token_for("v2"));
    assert_eq!(run.code, 7);
    runner.repair(&run.stderr);
    let second = Runner {
        gh_fails: "never",
        ..runner
    };
    let token = second.secret("MY_TOKEN").unwrap();
    assert_eq!(second.refresh(token.trim_end()).code, 0);
    fs::remove_dir_all(second.path("repair")).unwrap();
    fs::create_dir(second.path("repair")).unwrap();
    assert_ne!(second.repair(&run.stderr).code, 0);
    let token = second.secret("MY_TOKEN").unwrap();
    assert!(second.scene.server.is_live(token.trim_end()));
}

#[test]
fn the_log_of_the_action_keeps_a_reply_that_nobody_understands() {
    let runner = Runner::new("never");
    runner.scene.server.fail_next(Fault::Garble(|reply| {
        reply.replace("token", "ticket").into_bytes()
    }));
    let token = runner.scene.server.refresh_token_for("v3");
    let run = runner.refresh(&token);
    assert_ne!(run.code, 0);
    let _ = runner.repair(&run.stdout);
    let names = fs::read_dir(runner.path("repair")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let reply = names.into_iter().find(|name| name.contains(".reply-"));
    let reply = fs::read_to_string(runner.path("repair").join(reply.expect(&run.stderr))).unwrap();
    assert!(reply.contains("refresh_ticket"), "{reply}");
}

#[test]
fn the_action_leaves_nothing_but_the_store_to_rewrite() {
    let Some(shared) = Shared::start() else {
        return;
    };
    let runner = Runner::new("*");
    let mut shell = runner.shell();
    let shell = shell.arg(format!("{FOLDER}/refresh"));
    shell
        .env("FEISHU_STORE", shared.database.address())
        .env("FEISHU_STORE_KEY", fs::read_to_string(&shared.key).unwrap())
        .env("MIN_TTL", "10m");
    let run = Run::of(shell.output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(run.stdout.starts_with("::add-mask::"));
    assert_eq!(runner.calls(), 0);
}

/// A release in a folder, and the step that installs it.
fn install_step(runner: &Runner, sha256: Option<&str>, version: &str) -> Run {
    let mut shell = runner.shell();
    shell
        .arg(format!("{FOLDER}/install"))
        .env(
            "GITHUB_SERVER_URL",
            format!("file://{}", runner.path("server").display()),
        )
        .env("REPOSITORY", "them/feishu-refresh")
        .env("VERSION", version)
        .env("SHA256", sha256.unwrap_or_default())
        .env("RUNNER_ARCH", "X64")
        .env("GITHUB_PATH", runner.path("github-path"));
    Run::of(shell.output().unwrap())
}

#[test]
fn the_action_installs_what_has_the_checksum() {
    let runner = Runner::new("never");
    let release = runner.path("server/them/feishu-refresh/releases/download/v1.2.3");
    fs::create_dir_all(&release).unwrap();
    let make = "name=feishu-refresh-1.2.3-x86_64-unknown-linux-musl; mkdir $name; \
        printf '#!/bin/sh\\necho it runs\\n' > $name/feishu-refresh; chmod +x $name/feishu-refresh; \
        tar -czf $name.tar.gz $name; shasum -a 256 ./*.tar.gz > SHA256SUMS; cat SHA256SUMS";
    let mut shell = runner.shell();
    let shell = shell.args(["-euc", make]).current_dir(&release);
    let sums = Run::of(shell.output().unwrap());
    assert_eq!(sums.code, 0, "{}", sums.stderr);
    let sum = sums.stdout.split(' ').next().unwrap().to_owned();

    let sum = sum.to_uppercase();
    for (sha256, version) in [(None, "v1.2.3"), (Some(sum.as_str()), "1.2.3")] {
        let run = install_step(&runner, sha256, version);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        let folder = fs::read_to_string(runner.path("github-path")).unwrap();
        fs::remove_file(runner.path("github-path")).unwrap();
        let said = command(format!("{}/feishu-refresh", folder.trim_end()))
            .output()
            .unwrap();
        assert_eq!(said.stdout, b"it runs\n");
    }
    let other = "0".repeat(64);
    for (sha256, version, says) in [
        (Some(other.as_str()), "1.2.3", "does not have the checksum"),
        (None, "1.2.4", "cannot get file://"),
        (None, "main", "no version is named"),
        (None, "", "no version is named"),
    ] {
        let run = install_step(&runner, sha256, version);
        assert_eq!(run.code, 3, "{}", run.stdout);
        assert!(run.stdout.contains(says), "{}", run.stdout);
        assert!(!runner.path("github-path").exists());
    }
    // What the list does not have.
    fs::write(release.join("SHA256SUMS"), "").unwrap();
    let run = install_step(&runner, None, "1.2.3");
    assert_eq!(run.code, 3, "{}", run.stdout);
}
