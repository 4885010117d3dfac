//! What a run asks of the system: only what it needs. Counted by strace, where it is installed.

use std::process::Command;

use crate::harness::{PROGRAM, Run, Scene};
use crate::sandbox::{Authority, Sandbox, Term};

/// The system calls of a run, one per line; without strace, returns none and says so.
fn system_calls(scene: &Scene, arguments: &[&str]) -> Option<Vec<String>> {
    let trace = scene.folder().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-s", "4096", "-o"])
        .arg(&trace)
        .arg(PROGRAM)
        .args(arguments)
        .current_dir(scene.folder());
    let Ok(output) = strace.output() else {
        eprintln!("skipped: strace is not installed");
        return None;
    };
    let run = Run::of(output);
    let expected = i32::from(arguments.contains(&"--nonsense")) * 2;
    assert_eq!(run.code, expected, "{}", run.stderr);
    let calls = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(trace).unwrap();
    Some(calls.lines().map(str::to_owned).collect())
}

fn count(calls: &[String], names: &[&str]) -> usize {
    let is_one = |call: &&String| {
        let call = call
            .split_once(' ')
            .map_or("", |(_, call)| call.trim_start());
        names
            .iter()
            .any(|name| call.starts_with(&format!("{name}(")))
    };
    calls.iter().filter(is_one).count()
}

const NETWORK: [&str; 4] = ["socket", "epoll_create1", "eventfd2", "clone3"];
const SYNCS: [&str; 2] = ["fsync", "fdatasync"];

#[test]
fn nothing_is_done_before_it_is_needed() {
    let scene = Scene::new();
    scene.run::<&str>([]).token();
    for arguments in [
        &["--min-ttl", "1h"][..],
        &["--all", "--min-ttl", "1h"],
        &["status"],
        &["--help"],
        &["--version"],
        &["--nonsense"],
    ] {
        let Some(calls) = system_calls(&scene, arguments) else {
            return;
        };
        assert_eq!(count(&calls, &NETWORK), 0, "{arguments:?}");
        assert_eq!(count(&calls, &["flock", "clone"]), 0, "{arguments:?}");
    }
}

#[test]
fn a_refresh_costs_one_connection_one_write_and_two_syncs() {
    let authority = Authority::new("ours").unwrap();
    let tls = authority.server("127.0.0.1", Term::Now).unwrap();
    let over_tls = Scene::with_server(Sandbox::start_with(Some(tls)).unwrap());
    std::fs::write(over_tls.folder().join("ca.pem"), authority.pem()).unwrap();
    let plain = Scene::without_file();
    for (scene, arguments, writes) in [
        (&plain, &[][..], 2),
        // Hello, the end of the handshake, and two requests.
        (&over_tls, &["--ca-cert", "ca.pem"], 4),
    ] {
        scene.write(scene.server.profile("TOKEN", "v1"));
        let Some(calls) = system_calls(scene, arguments) else {
            return;
        };
        // An app token and the refresh, over one connection, each in one piece.
        assert_eq!(scene.server.requests().len(), 2);
        assert_eq!(scene.server.connections(), 1);
        assert_eq!(count(&calls, &["connect"]), 1);
        let sent = ["writev", "sendto", "sendmsg"];
        assert_eq!(count(&calls, &sent), writes, "{calls:#?}");
        assert!(calls.iter().any(|call| call.contains("TCP_NODELAY")));
        // The file and its folder; the reservation needs none.
        assert_eq!(count(&calls, &SYNCS), 2);
        // An address needs no resolver, and so no other thread.
        assert_eq!(count(&calls, &["clone", "clone3"]), 0);
        // The system's certificates are not read if the issuer is known.
        assert!(
            !calls.iter().any(|call| call.contains("/etc/ssl")),
            "{calls:#?}"
        );
    }
}
