//! Which proxy a request goes through, and that none is bypassed.

use std::fs;

use crate::harness::{Run, Scene};
use crate::sandbox::{Authority, Fault, Proxy, Sandbox, Term};

/// An unknown name, and an unassigned address: only a proxy leads there.
const NAME: &str = "feishu.test";
const ADDRESS: &str = "192.0.2.7";

const LOGIN: (&str, &str) = ("me", "s3c:ret");

/// A server with a certificate for this host, and a file that names the host as its address.
fn scene(host: &str) -> Scene {
    let authority = Authority::new("ours").unwrap();
    let tls = authority.server(host, Term::Now).unwrap();
    let scene = Scene::with_server(Sandbox::start_with(Some(tls)).unwrap());
    let file = scene.server.config_file();
    scene.write(file.replace(&scene.server.base_url(), &format!("https://{host}")));
    fs::write(scene.folder().join("ca.pem"), authority.pem()).unwrap();
    scene
}

fn proxy(scene: &Scene, login: Option<(&'static str, &'static str)>) -> Proxy {
    Proxy::start(scene.server.address(), login).unwrap()
}

fn run(scene: &Scene, environment: &[(&str, &str)]) -> Run {
    let mut program = scene.program();
    program.args(["-v", "--retries", "0", "--ca-cert", "ca.pem"]);
    program.envs(environment.iter().copied());
    Run::of(program.output().unwrap())
}

#[test]
fn each_kind_of_proxy_leads_to_the_server() {
    for (variable, scheme, host, asked) in [
        ("HTTPS_PROXY", "", NAME, "connect"),
        ("https_proxy", "http://", NAME, "connect"),
        ("ALL_PROXY", "socks5h://", NAME, "socks5"),
        ("all_proxy", "SOCKS4A://", NAME, "socks4a"),
        ("ALL_PROXY", "socks5://", ADDRESS, "socks5"),
        ("HTTPS_PROXY", "socks4://", ADDRESS, "socks4"),
    ] {
        let scene = scene(host);
        let proxy = proxy(&scene, None);
        let address = format!(" {scheme}{}/ ", proxy.address());
        let run = run(&scene, &[(variable, &address), ("REQUEST_METHOD", "GET")]);
        run.token();
        assert_eq!(proxy.seen(), [format!("{asked} {host}:443")]);
        let via = format!("(through the proxy {})", proxy.address());
        assert!(run.stderr.contains(&via), "{}", run.stderr);
        fs::remove_file(scene.folder().join("ca.pem")).unwrap();
        scene.assert_sound();
    }
}

#[test]
fn the_first_variable_that_is_not_empty_counts_and_no_proxy_exempts() {
    let scene = scene(NAME);
    let proxy = proxy(&scene, None);
    let address = proxy.address();
    let all = ("ALL_PROXY", "http://127.0.0.1:9");
    let set = [("HTTPS_PROXY", ""), ("https_proxy", address.as_str()), all];
    run(&scene, &set).token();
    assert_eq!(proxy.seen().len(), 1);
    for exempt in ["feishu.test", "a.b, .test", "*"] {
        // Also if the proxy setting makes no sense: it is not used.
        for address in [address.as_str(), "ftp://a"] {
            let run = run(&scene, &[("HTTPS_PROXY", address), ("no_proxy", exempt)]);
            run.assert_failed(5, "cannot connect");
            assert!(!run.stderr.contains("proxy 1"), "{}", run.stderr);
        }
    }
    // A look-up by this machine, as SOCKS 5 without the h means.
    let address = format!("socks5://{address}");
    run(&scene, &[("ALL_PROXY", &address)]).assert_failed(5, "cannot connect");
    assert_eq!(proxy.seen().len(), 1);
}

#[test]
fn a_proxys_address_that_makes_no_sense_is_refused_and_not_gone_around() {
    let scene = scene(ADDRESS);
    let before = scene.text();
    for (address, why) in [
        ("ftp://127.0.0.1:1", "has a scheme"),
        ("socks://127.0.0.1:1", "has a scheme"),
        ("file:///etc", "has a scheme"),
        ("http://", "is not an address"),
        ("http://:8080", "is not an address"),
        ("socks5://", "names no host"),
        ("socks5h://me:s3c@:1", "is not an address"),
        ("http://127.0.0.1:99999", "is not an address"),
        ("127.0.0.1:s3c", "is not an address"),
        ("http://a b:1", "is not an address"),
        ("socks5://a%20b:1", "is not an address"),
        ("socks5://ä:1", "is not an address"),
        ("http://me:1#s3c@127.0.0.1:1", "has more after"),
        ("http://me:1/s3c@127.0.0.1:1", "has more after"),
        ("http://127.0.0.1:1/?s3c", "has more after"),
        ("socks4://me@127.0.0.1:1", "has a user name"),
        ("socks4a://me:s3c@127.0.0.1:1", "has a user name"),
        ("://", "is not an address"),
    ] {
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            let run = run(&scene, &[(variable, address)]);
            let says = format!("the proxy's address in {variable} {why}");
            run.assert_failed(3, &says);
            assert!(!run.stderr.contains("s3c"), "{}", run.stderr);
            assert!(run.stderr.contains("\nhint: "), "{}", run.stderr);
        }
    }
    assert_eq!(scene.text(), before);
    // A request to this machine goes through none, and none blocks it.
    let here = Scene::new();
    run_plain(&here, "ftp://nonsense").token();
}

fn run_plain(scene: &Scene, proxy: &str) -> Run {
    let mut program = scene.program();
    program.env("ALL_PROXY", proxy);
    Run::of(program.output().unwrap())
}

#[test]
fn a_proxys_login_is_sent_and_shown_nowhere_and_a_refused_one_is_told() {
    for scheme in ["http", "socks5h"] {
        let scene = scene(NAME);
        let proxy = proxy(&scene, Some(LOGIN));
        let address = proxy.address();
        for login in ["", "me:s3c%3Awrong@", "other:s3c%3Aret@"] {
            let run = run(
                &scene,
                &[("ALL_PROXY", &format!("{scheme}://{login}{address}"))],
            );
            run.assert_failed(3, &format!("(through the proxy {address})"));
            let hint = "\nhint: check the proxy's user and password";
            assert!(run.stderr.contains(hint), "{login}: {}", run.stderr);
            assert!(!run.stderr.contains("s3c"), "{}", run.stderr);
            let fate = "the refresh token was not spent";
            assert!(run.stderr.contains(fate), "{}", run.stderr);
        }
        assert!(proxy.seen().is_empty() && scene.server.requests().is_empty());
        let run = run(
            &scene,
            &[("ALL_PROXY", &format!("{scheme}://me:s3c%3aret@{address}"))],
        );
        run.token();
        assert!(!run.stderr.contains("s3c"), "{}", run.stderr);
    }
    // From a proxy that reads the traffic.
    let scene = Scene::new();
    scene.server.fail_next(Fault::html(407));
    let run = scene.run::<&str>([]);
    run.assert_failed(3, "HTTP 407: a proxy asks for a user and password");
    assert!(
        run.stderr.contains("check the proxy's user"),
        "{}",
        run.stderr
    );
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn a_proxy_vouches_for_no_server() {
    let scene = scene("elsewhere.test");
    scene.write(scene.text().replace("elsewhere.test", NAME));
    let proxy = proxy(&scene, None);
    for scheme in ["http", "socks4a", "socks5h"] {
        let address = format!("{scheme}://{}", proxy.address());
        let run = run(&scene, &[("HTTPS_PROXY", &address)]);
        run.assert_failed(3, "not valid for name");
        let mut program = scene.program();
        program.env("HTTPS_PROXY", &address);
        Run::of(program.output().unwrap()).assert_failed(3, "UnknownIssuer");
    }
    assert!(scene.server.requests().is_empty());
}
