//! An independent standard OAuth 2.0 server: oidc-provider, with rotation and reuse detection. Nothing is between it
//! and the program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::harness::{HeldRun, Scene};

/// The provider, in its own process; it ends with this.
struct Provider {
    child: Child,
    address: String,
    /// Open as long as it may print something.
    _stdout: BufReader<ChildStdout>,
}

impl Provider {
    /// Starts it; says so if it is missing.
    fn start(token_path: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let package = root.join("target/oidc");
        let mut node = Command::new("node");
        node.arg(root.join("tests/oidc_provider.mjs"));
        node.arg(&package).arg(token_path);
        node.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = package.exists().then(|| node.spawn().ok()).flatten();
        let Some(mut child) = child else {
            eprintln!("skipped: this test needs Node.js with oidc-provider");
            return None;
        };
        let mut address = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut address).unwrap();
        assert!(address.starts_with("http://"), "it did not start");
        let address = address.trim().to_owned();
        Some(Provider {
            child,
            address,
            _stdout: stdout,
        })
    }

    /// Its answer to a query of a test.
    fn ask(&self, target: &str) -> String {
        let host = self.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let request = format!("GET {target} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{reply}");
        body.to_owned()
    }

    /// Asserts that it saw this many refreshes, and no reuse.
    fn assert_seen(&self, refreshes: usize) {
        let seen: Value = serde_json::from_str(&self.ask("/test/seen")).unwrap();
        assert_eq!(seen["refreshes"], refreshes, "{seen}");
        assert_eq!(seen["errors"].as_array().unwrap().len(), 0, "{seen}");
        assert_eq!(seen["revoked"], 0, "{seen}");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SECRET: &str = "a-secret-of-the-tests-0123456789";

#[test]
fn oidc_provider_sees_no_token_twice() {
    const TOKEN_PATH: &str = "/realms/one/protocol/openid-connect/token";
    let Some(provider) = Provider::start(TOKEN_PATH) else {
        return;
    };
    let mut refreshes = 0;
    for (client, secret) in [
        ("confidential", format!("app_secret = {SECRET}\n")),
        ("public", String::new()),
    ] {
        let scene = Scene::without_file();
        let first = provider.ask(&format!("/test/first?client={client}"));
        scene.write(format!(
            "[TOKEN]\ntoken_url = {}{TOKEN_PATH}\napp_id = {client}\n{secret}refresh_token = {first}\n",
            provider.address
        ));
        // One after the other, each with its own token.
        let mut tokens: Vec<_> = (0..10)
            .map(|_| scene.run::<&str>([]).token().to_owned())
            .collect();
        refreshes += 10;
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), 10);
        provider.assert_seen(refreshes);
        assert!(!scene.text().contains("refresh_token_expires_at"));
        assert_eq!(scene.value("api"), "v3");
        // Ten at once, five times: a waiting run takes what another brought, or refreshes in its turn.
        for _ in 0..5 {
            thread::scope(|scope| {
                for _ in 0..10 {
                    scope.spawn(|| scene.run::<&str>([]).token().len());
                }
            });
            let seen: Value = serde_json::from_str(&provider.ask("/test/seen")).unwrap();
            let now = usize::try_from(seen["refreshes"].as_u64().unwrap()).unwrap();
            assert!(now > refreshes, "{seen}");
            refreshes = now;
            provider.assert_seen(refreshes);
        }
        // And with a time to live, once for all ten.
        scene.write(scene.text().replace(
            "user_access_token_expires_at",
            "; user_access_token_expires_at",
        ));
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| scene.run(["--min-ttl", "10m"]).token().len());
            }
        });
        refreshes += 1;
        provider.assert_seen(refreshes);
        assert_eq!(scene.file_names(), ["feishu-config.ini"]);
    }
    // It watches for reused tokens: one would have been seen.
    let scene = Scene::without_file();
    let first = provider.ask("/test/first?client=public");
    let file = format!(
        "[TOKEN]\ntoken_url = {}{TOKEN_PATH}\napp_id = public\nrefresh_token = {first}\n",
        provider.address
    );
    scene.write(&file);
    scene.run::<&str>([]).token();
    let other = Scene::without_file();
    other.write(&file);
    other.run::<&str>([]).assert_failed(4, "invalid_grant");
    let seen: Value = serde_json::from_str(&provider.ask("/test/seen")).unwrap();
    assert_eq!(seen["revoked"], 1, "{seen}");
}

/// Under the paths of Feishu's v3, the first pair comes by a login, too.
#[test]
fn oidc_provider_takes_a_login_behind_the_paths_of_v3() {
    let Some(provider) = Provider::start("/oauth/v3/token") else {
        return;
    };
    let scene = Scene::without_file();
    scene.write(format!(
        "[TOKEN]\napi = v3\nbase_url = {0}\naccounts_url = {0}\napp_id = confidential\napp_secret = {SECRET}\n",
        provider.address
    ));
    let mut program = scene.program();
    program.args(["login", "--paste", "--scope", "openid"]);
    let mut run = HeldRun::until(program.stdin(Stdio::piped()), "Paste its address here:\n");
    let page = run.said.split("\n  ").nth(1).unwrap();
    let page = page.split('\n').next().unwrap();
    let to: String = url::form_urlencoded::byte_serialize(page.as_bytes()).collect();
    let back = provider.ask(&format!("/test/consent?to={to}"));
    let mut stdin = run.child.stdin.take().unwrap();
    stdin.write_all(format!("{back}\n").as_bytes()).unwrap();
    drop(stdin);
    let run = run.finish();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(scene.value("api"), "v3");
    for _ in 0..10 {
        scene.run::<&str>([]).token();
    }
    provider.assert_seen(10);
}
