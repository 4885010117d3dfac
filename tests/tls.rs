//! Whose certificates are trusted.

use std::fs;

use rustls::version::{TLS12, TLS13};

use crate::harness::{Run, Scene};
use crate::sandbox::{Authority, Sandbox};

/// A server that this authority vouches for, and a file that names it.
fn scene(authority: &Authority, name: &str, has_ended: bool) -> Scene {
    let tls = authority.server(name, has_ended).unwrap();
    let scene = Scene::with_server(Sandbox::start_with(Some(tls)).unwrap());
    scene.write(scene.server.config_file());
    fs::write(scene.folder().join("ca.pem"), authority.pem()).unwrap();
    scene
}

/// Runs with this environment, which stands in for the system's store.
fn run(scene: &Scene, environment: (&str, &str), arguments: &[&str]) -> Run {
    let mut program = scene.program();
    program.env(environment.0, environment.1).args(arguments);
    Run::of(program.output().unwrap())
}

#[test]
fn a_private_authority_in_the_systems_store_works_without_a_flag() {
    let authority = Authority::new("ours").unwrap();
    let scene = scene(&authority, "127.0.0.1", false);
    run(&scene, ("SSL_CERT_FILE", "ca.pem"), &[]).token();
    // A folder holds certificates under the hashes of their names.
    let store = scene.folder().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("12345678.0"), authority.pem()).unwrap();
    run(&scene, ("SSL_CERT_DIR", "store"), &[]).token();
    assert_eq!(scene.server.connections(), 2, "one handshake each");
    fs::remove_dir_all(store).unwrap();
    // So does one that is named.
    scene.run(["--ca-cert", "ca.pem"]).token();
    let all = scene.run(["--all", "--ca-cert", "ca.pem"]);
    assert_eq!(all.code, 0, "{}", all.stderr);
    fs::remove_file(scene.folder().join("ca.pem")).unwrap();
    scene.assert_sound();
}

#[test]
fn both_versions_of_tls_are_spoken() {
    let authority = Authority::new("ours").unwrap();
    for version in [&TLS12, &TLS13] {
        let tls = authority.server_with("127.0.0.1", false, &[version]);
        let scene = Scene::with_server(Sandbox::start_with(Some(tls.unwrap())).unwrap());
        scene.write(scene.server.config_file());
        fs::write(scene.folder().join("ca.pem"), authority.pem()).unwrap();
        run(&scene, ("SSL_CERT_FILE", "ca.pem"), &[]).token();
        scene.run(["--ca-cert", "ca.pem"]).token();
    }
}

#[test]
fn a_certificate_that_is_not_good_is_refused() {
    let authority = Authority::new("ours").unwrap();
    let stranger = Authority::new("another").unwrap();
    for (name, has_ended, says) in [
        ("example.com", false, "not valid for name"),
        ("127.0.0.1", true, "expired"),
        ("127.0.0.1", false, "UnknownIssuer"),
    ] {
        let signer = if says == "UnknownIssuer" {
            &stranger
        } else {
            &authority
        };
        let scene = scene(signer, name, has_ended);
        fs::write(scene.folder().join("ca.pem"), authority.pem()).unwrap();
        for (variable, value, arguments) in [
            ("SSL_CERT_FILE", "ca.pem", &[][..]),
            ("SSL_CERT_FILE", "none.pem", &["--ca-cert", "ca.pem"]),
        ] {
            let run = run(&scene, (variable, value), arguments);
            run.assert_failed(3, "invalid peer certificate");
            assert!(run.stderr.contains(says), "{}", run.stderr);
            assert!(
                run.stderr.contains("the refresh token was not spent"),
                "{}",
                run.stderr
            );
        }
        // A system without any certificates is no other.
        let run = run(&scene, ("SSL_CERT_FILE", "/dev/null"), &[]);
        run.assert_failed(3, "invalid peer certificate");
        assert!(scene.server.requests().is_empty());
    }
}

#[test]
fn a_file_without_certificates_is_a_configuration_error() {
    let scene = Scene::new();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (text, says) in [
        ("", "there is none in it"),
        ("x", "there is none in it"),
        (broken, "does not hold CA certificates"),
    ] {
        fs::write(scene.folder().join("ca.pem"), text).unwrap();
        scene.run(["--ca-cert", "ca.pem"]).assert_failed(3, says);
    }
    scene
        .run(["--ca-cert", "no.pem"])
        .assert_failed(3, "cannot read no.pem");
    assert!(scene.server.requests().is_empty());
}
