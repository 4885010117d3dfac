//! Hosts that share a store, and the connection between one and its database.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Shared;
use crate::harness::{HeldRun, Run};
use crate::sandbox::Fault;

/// How long an event may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until it is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A host: its state folder, and so its journals, are its own.
pub struct Host {
    state: TempDir,
    address: Option<String>,
}

impl Host {
    pub fn new() -> Self {
        Host {
            state: tempfile::tempdir().unwrap(),
            address: None,
        }
    }

    /// A host that knows the database by another address.
    pub fn with_address(address: String) -> Self {
        Host {
            address: Some(address),
            ..Host::new()
        }
    }

    pub fn program(&self, shared: &Shared) -> Command {
        let mut program = shared.program();
        program.env("HOME", self.state.path());
        program.env("XDG_STATE_HOME", self.state.path());
        if let Some(address) = &self.address {
            program.env("FEISHU_STORE", address);
        }
        program
    }

    pub fn run(&self, shared: &Shared, arguments: &[&str]) -> Run {
        Run::of(self.program(shared).args(arguments).output().unwrap())
    }

    /// Starts a run, and waits until the server holds its request.
    pub fn held(&self, shared: &Shared, arguments: &[&str]) -> HeldRun {
        shared.scene.server.fail_next(Fault::Hold);
        let run = HeldRun::spawn(self.program(shared).arg("-v").args(arguments));
        shared.scene.server.wait_until_held();
        run
    }

    /// Ends a run at a fail point.
    pub fn failing(&self, shared: &Shared, points: &str) -> Run {
        let mut program = self.program(shared);
        Run::of(program.env("FEISHU_REFRESH_FAIL", points).output().unwrap())
    }

    /// What is in the state folder.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state.path().join("feishu-refresh"));
        let entries = entries.into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Shared {
    /// Asserts that a run from this host succeeds, and that nothing is left behind.
    pub fn assert_sound(&self, host: &Host) {
        let run = host.run(self, &[]);
        assert!(self.scene.server.gave(run.token()));
        assert_eq!(self.scene.server.spent_seen(), 0, "a spent token was sent");
        self.assert_consistent(host);
    }

    /// Asserts that the row is complete, and that this host keeps nothing for it.
    pub fn assert_consistent(&self, host: &Host) {
        assert_eq!(host.leftovers(), Vec::<PathBuf>::new());
        let columns = "(state, lease_id, lease_holder, lease_until, sent_fingerprint, refused_at)";
        assert_eq!(self.value(columns), "(live,,,,,)");
    }

    /// Accepts everybody: in a test build, a password takes longer than all else.
    pub fn trust_everybody(&self) {
        let path = self.database.data().join("pg_hba.conf");
        let user = "postgres";
        fs::write(
            path,
            format!("local all {user} trust\nhost all all 127.0.0.1/32 trust\n"),
        )
        .unwrap();
        self.database.reload(&[]).unwrap();
    }

    /// Ends any lease.
    pub fn end_lease(&self) {
        self.database
            .query("UPDATE feishu_refresh.login SET lease_until = now() - interval '1 s'");
    }

    /// Expires the access token.
    pub fn expire(&self) {
        self.database
            .query("UPDATE feishu_refresh.login SET access_expires_at = now() - interval '1 s'");
    }

    /// Ends all connections of the program's role.
    pub fn disconnect(&self) {
        self.database.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'feishu'",
        );
        wait_for("the end of all connections", || self.connections() == "0");
    }

    /// How many connections the program's role has.
    pub fn connections(&self) -> String {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'feishu'";
        self.database.query(sql)
    }
}

/// What a wire does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Hangs up on new connections.
    Closed,
    /// Nothing comes through, and nobody hangs up.
    Silent,
    /// Closed before a statement with these words reaches the server.
    CutBefore(&'static str),
    /// Closed once the server has executed a statement with these words, before its answer arrives.
    CutAfter(&'static str),
}

/// A wire to a server on loopback.
pub struct Wire {
    port: u16,
    mode: Arc<Mutex<Mode>>,
}

impl Wire {
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(Mutex::new(Mode::Open));
        let of_thread = Arc::clone(&mode);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *lock(&of_thread) != Mode::Closed
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", server))
                {
                    carry(&client, &server, &of_thread);
                }
            }
        });
        Wire { port, mode }
    }

    /// A host at the far end of the wire.
    pub fn host(&self, shared: &Shared) -> Host {
        let direct = format!(":{}/", shared.database.port());
        let address = shared.database.address();
        Host::with_address(address.replace(&direct, &format!(":{}/", self.port)))
    }

    /// Whether it was closed, or has cut itself.
    pub fn is_closed(&self) -> bool {
        *lock(&self.mode) == Mode::Closed
    }

    pub fn turn(&self, mode: Mode) {
        *lock(&self.mode) = mode;
    }
}

fn lock(mode: &Mutex<Mode>) -> std::sync::MutexGuard<'_, Mode> {
    mode.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries a connection both ways, on separate threads.
fn carry(client: &TcpStream, server: &TcpStream, mode: &Arc<Mutex<Mode>>) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let is_cut = Arc::new(AtomicBool::new(false));
    for is_up in [true, false] {
        let (client, server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (mode, is_cut) = (Arc::clone(mode), Arc::clone(&is_cut));
        thread::spawn(move || {
            let (mut from, mut to) = if is_up {
                (&client, &server)
            } else {
                (&server, &client)
            };
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                let chunk = &bytes[..count];
                if !is_up && is_cut.load(Ordering::SeqCst) || !lets_through(chunk, &mode, &is_cut) {
                    break;
                }
                if *lock(&mode) != Mode::Silent && to.write_all(chunk).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        });
    }
}

/// Looks for the words that a wire is cut at.
fn lets_through(chunk: &[u8], mode: &Mutex<Mode>, is_cut: &AtomicBool) -> bool {
    let mut mode = lock(mode);
    let (Mode::CutBefore(words) | Mode::CutAfter(words)) = *mode else {
        return true;
    };
    if !chunk
        .windows(words.len())
        .any(|part| part == words.as_bytes())
    {
        return true;
    }
    let is_after = matches!(*mode, Mode::CutAfter(_));
    *mode = Mode::Closed;
    is_cut.store(true, Ordering::SeqCst);
    is_after
}
