//! What packages carry beside the program: the example for systemd, checked by systemd's own reader; and the scripts
//! that make an image and a formula of a release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Run, Scene};
use crate::recipes::install;

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

/// The targets that a release has archives for.
const TARGETS: [&str; 4] = [
    "aarch64-apple-darwin",
    "x86_64-apple-darwin",
    "aarch64-unknown-linux-musl",
    "x86_64-unknown-linux-musl",
];

#[test]
fn the_image_has_the_program_and_nothing_else() {
    let scene = Scene::without_file();
    let docker = "#!/bin/sh\nfor context; do :; done\necho \"$*\" | sed \"s| $context\\$||\"\n\
        cd \"$context\" && find . | sort && cat linux/*/*\n";
    install(scene.folder(), "docker", docker);
    for target in &TARGETS[2..] {
        let make = "mkdir $1 && echo $1 > $1/feishu-refresh && echo no > $1/README.md && tar -czf $1.tar.gz $1";
        let name = format!("feishu-refresh-1.2.3-{target}");
        let mut shell = Command::new("bash");
        shell
            .args(["-euc", make, "bash", &name])
            .current_dir(scene.folder());
        assert!(shell.status().unwrap().success());
    }
    let build = || {
        let path = format!("{}:/usr/bin:/bin", scene.folder().display());
        let mut image = Command::new("bash");
        image.arg(format!("{PACKAGING}/image")).arg(scene.folder());
        Run::of(image.arg("--push").env("PATH", path).output().unwrap())
    };
    let run = build();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(
        run.stdout,
        "buildx build --platform linux/amd64,linux/arm64 --file Dockerfile --push\n\
         .\n./data\n./linux\n./linux/amd64\n./linux/amd64/feishu-refresh\n./linux/arm64\n\
         ./linux/arm64/feishu-refresh\n\
         feishu-refresh-1.2.3-x86_64-unknown-linux-musl\nfeishu-refresh-1.2.3-aarch64-unknown-linux-musl\n"
    );
    fs::remove_file(
        scene
            .folder()
            .join("feishu-refresh-1.2.3-aarch64-unknown-linux-musl.tar.gz"),
    )
    .unwrap();
    assert!(build().stdout.contains("--platform linux/amd64 --file"));
}

#[test]
fn the_formula_has_each_archive_and_its_checksum() {
    let scene = Scene::without_file();
    let sums = scene.folder().join("SHA256SUMS");
    let formula = || {
        let mut formula = Command::new("bash");
        formula.arg(format!("{PACKAGING}/formula")).arg(&sums);
        Run::of(
            formula
                .args(["1.2.3", "https://example.com/me/it"])
                .output()
                .unwrap(),
        )
    };
    let line = |(index, target): (usize, &&str)| {
        format!("{index:064x}  ./feishu-refresh-1.2.3-{target}.tar.gz\n")
    };
    let list: String = TARGETS.iter().enumerate().map(line).collect();
    fs::write(&sums, &list).unwrap();
    let run = formula();
    assert_eq!(run.code, 0, "{}", run.stderr);
    for (index, target) in TARGETS.iter().enumerate() {
        let pair = format!(
            "url \"https://example.com/me/it/releases/download/v1.2.3/feishu-refresh-1.2.3-{target}.tar.gz\"\n      \
             sha256 \"{index:064x}\"\n"
        );
        assert!(run.stdout.contains(&pair), "{}", run.stdout);
    }
    let path = scene.folder().join("formula.rb");
    fs::write(&path, &run.stdout).unwrap();
    match Command::new("ruby").arg("-c").arg(path).output() {
        Ok(said) => assert_eq!(said.stdout, b"Syntax OK\n"),
        Err(_) => eprintln!("skipped: no ruby to read the formula"),
    }
    fs::write(&sums, list.replace("x86_64-apple", "x86-apple")).unwrap();
    let run = formula();
    run.assert_failed(
        1,
        "no checksum for feishu-refresh-1.2.3-x86_64-apple-darwin.tar.gz",
    );
}
