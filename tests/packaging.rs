//! What packages carry beside the program: the example for systemd, checked by systemd's own reader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Run, Scene};

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging");

/// What `systemd-analyze` says; none where it is missing or too old, which is said.
fn analyzed(arguments: &[&str], units: &[PathBuf]) -> Option<Run> {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .args(units)
        .output();
    let run = output.ok().map(Run::of);
    let run = run.filter(|run| !run.stderr.contains("unrecognized option"));
    if run.is_none() {
        eprintln!("skipped: no systemd-analyze that can do {arguments:?}");
    }
    run
}

/// The units, in a folder of their own, with a program that is there.
fn units(folder: &Path) -> [PathBuf; 2] {
    ["feishu-refresh.service", "feishu-refresh.timer"].map(|name| {
        let text = fs::read_to_string(Path::new(PACKAGING).join(name)).unwrap();
        let start = format!("ExecStart={} ", env!("CARGO_BIN_EXE_feishu-refresh"));
        let path = folder.join(name);
        fs::write(&path, text.replace("ExecStart=feishu-refresh ", &start)).unwrap();
        path
    })
}

#[test]
fn systemd_understands_the_units() {
    let scene = Scene::without_file();
    let units = units(scene.folder());
    let arguments = ["verify", "--man=no", "--recursive-errors=no"];
    if let Some(run) = analyzed(&arguments, &units) {
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    }
}

/// systemd rates what a service could do to the machine: from 0, nothing, to 10, everything.
#[test]
fn the_service_can_do_little_to_the_machine() {
    let scene = Scene::without_file();
    let [service, _] = units(scene.folder());
    let arguments = ["security", "--offline=true", "--threshold=30"];
    if let Some(run) = analyzed(&arguments, &[service]) {
        let rating = run.stdout.lines().last().unwrap_or_default();
        assert_eq!(run.code, 0, "more than 3.0: {rating}{}", run.stderr);
    }
}
