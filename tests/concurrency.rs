//! Several programs at once on one file.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::harness::{Run, Scene};
use crate::sandbox::Fault;

/// Starts programs at once, waits until one has sent its request and the others queue behind it, lets
/// the server answer, and returns what each printed.
fn at_once(programs: usize, scene: &Scene, command: impl Fn() -> Command) -> Vec<Run> {
    scene.server.fail_next(Fault::Hold);
    let (event, events) = mpsc::channel();
    let runs: Vec<_> = (0..programs)
        .map(|_| {
            let child = command()
                .arg("-v")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let event = event.clone();
            thread::spawn(move || finish(child, &event))
        })
        .collect();
    for _ in 0..programs {
        events
            .recv_timeout(Duration::from_secs(60))
            .expect("a program neither sent nor queued");
    }
    scene.server.release();
    runs.into_iter().map(|run| run.join().unwrap()).collect()
}

/// Reports once that the program has sent its request or queues, then its result.
fn finish(mut child: Child, event: &mpsc::Sender<()>) -> Run {
    let mut stderr = String::new();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    while reader.read_line(&mut stderr).unwrap() > 0 {
        if stderr.contains("waiting for another run") || stderr.contains("POST ") {
            event.send(()).unwrap();
            break;
        }
    }
    reader.read_to_string(&mut stderr).unwrap();
    let mut run = Run::of(child.wait_with_output().unwrap());
    run.stderr = stderr;
    run
}

fn assert_shared(scene: &Scene, runs: &[Run], rotations: usize) {
    let token = scene.value("user_access_token");
    for run in runs {
        assert_eq!(run.token(), token);
    }
    assert_eq!(scene.server.rotations(), rotations);
    scene.assert_sound();
}

#[test]
fn twenty_at_once_share_one_rotation() {
    let scene = Scene::new();
    for round in 1..=20 {
        let runs = at_once(20, &scene, || scene.program());
        assert_shared(&scene, &runs, round);
    }
}

#[test]
fn twenty_at_once_on_an_expired_token_make_one_rotation() {
    let scene = Scene::new();
    scene.run::<&str>([]).token();
    for round in 2..=4 {
        scene.let_it_end_in(-1);
        let runs = at_once(20, &scene, || {
            let mut command = scene.program();
            command.args(["--min-ttl", "10m"]);
            command
        });
        assert_shared(&scene, &runs, round);
    }
}

#[test]
fn ten_at_once_with_the_same_flags_and_no_file_share_one_rotation() {
    let scene = Scene::without_file();
    let flags = scene.flags();
    for round in 1..=3 {
        let runs = at_once(10, &scene, || {
            let mut command = scene.program();
            command.args(&flags);
            command
        });
        assert_shared(&scene, &runs, round);
    }
}

#[test]
fn ten_at_once_without_any_order_lose_nothing() {
    let scene = Scene::new();
    for _ in 0..5 {
        let children: Vec<_> = (0..10)
            .map(|_| {
                let mut command = scene.program();
                command
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in children {
            let run = Run::of(child.wait_with_output().unwrap());
            assert!(scene.server.gave(run.token()));
        }
        scene.assert_sound();
    }
}
