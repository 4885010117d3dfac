//! Which certificates are trusted.

use std::fs;
use std::process::Command;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};

use crate::harness::{Run, Scene};
use crate::sandbox::{Authority, Sandbox, Term, configuration};

/// A server that this authority vouches for, and a file that names it.
fn scene(authority: &Authority, name: &str, term: Term) -> Scene {
    let tls = authority.server(name, term).unwrap();
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
    let scene = scene(&authority, "127.0.0.1", Term::Now);
    run(&scene, ("SSL_CERT_FILE", "ca.pem"), &[]).token();
    // A folder holds certificates under the hashes of their names.
    let store = scene.folder().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("12345678.0"), authority.pem()).unwrap();
    run(&scene, ("SSL_CERT_DIR", "store"), &[]).token();
    assert_eq!(scene.server.connections(), 2, "one handshake each");
    fs::remove_dir_all(store).unwrap();
    // So does a named one.
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
        let tls = authority.server_with("127.0.0.1", Term::Now, &[version]);
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
    for (name, term, says) in [
        ("example.com", Term::Now, "not valid for name"),
        (
            "127.0.0.1",
            Term::Over,
            "it expired at 2020-02-01T00:00:00Z",
        ),
        (
            "127.0.0.1",
            Term::Ahead,
            "it is not valid before 2120-01-01T00:00:00Z",
        ),
        ("127.0.0.1", Term::Now, "UnknownIssuer"),
    ] {
        let signer = if says == "UnknownIssuer" {
            &stranger
        } else {
            &authority
        };
        let scene = scene(signer, name, term);
        fs::write(scene.folder().join("ca.pem"), authority.pem()).unwrap();
        for (variable, value, arguments) in [
            ("SSL_CERT_FILE", "ca.pem", &[][..]),
            ("SSL_CERT_FILE", "none.pem", &["--ca-cert", "ca.pem"]),
        ] {
            let run = run(&scene, (variable, value), arguments);
            run.assert_failed(3, "invalid peer certificate");
            assert!(run.stderr.contains(says), "{}", run.stderr);
            let is_of_time = !matches!(term, Term::Now);
            let hint = "\nhint: check this machine's clock first: date;";
            assert_eq!(run.stderr.contains(hint), is_of_time, "{}", run.stderr);
            assert!(
                run.stderr.contains("the refresh token was not spent"),
                "{}",
                run.stderr
            );
        }
        // A system without any certificates behaves the same.
        let run = run(&scene, ("SSL_CERT_FILE", "/dev/null"), &[]);
        run.assert_failed(3, "invalid peer certificate");
        assert!(scene.server.requests().is_empty());
    }
}

/// What `openssl` makes with these arguments, as a server's certificate, and the file that names it.
fn scene_of_openssl(arguments: &str) -> Option<Scene> {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(&folder)
        .output();
    if made.is_err() {
        eprintln!("skipped: there is no openssl");
        return None;
    }
    let pem = |name| fs::read(folder.path().join(name)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("key.pem")).unwrap();
    let tls = configuration(certificate, key, rustls::DEFAULT_VERSIONS).unwrap();
    let scene = Scene::with_server(Sandbox::start_with(Some(tls)).unwrap());
    scene.write(scene.server.config_file());
    fs::write(scene.folder().join("cert.pem"), pem("cert.pem")).unwrap();
    Some(scene)
}

#[test]
fn a_certificate_made_for_a_ca_is_refused_with_the_command_that_makes_a_proper_one() {
    let plain = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=ours -addext subjectAltName=IP:127.0.0.1";
    let Some(scene) = scene_of_openssl(plain) else {
        return;
    };
    for arguments in [&[][..], &["--ca-cert", "cert.pem"]] {
        let run = scene.run(arguments);
        run.assert_failed(3, "it is a CA certificate");
        let command = run.stderr.split_once("openssl ").unwrap().1;
        let command = command.split_once(" (for").unwrap().0;
        let command = command.replace("DNS:HOST", "IP:127.0.0.1");
        let proper = scene_of_openssl(&command).unwrap();
        proper.run(["--ca-cert", "cert.pem"]).token();
        proper.run::<&str>([]).assert_failed(3, "UnknownIssuer");
    }
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_file_without_certificates_is_a_configuration_error() {
    let scene = Scene::new();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (text, says) in [
        ("", "it has none"),
        ("x", "it has none"),
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
