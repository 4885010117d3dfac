//! A real PostgreSQL on loopback, with a standby and a PgBouncer if asked for: what a test kills, freezes,
//! stops and starts again.
//!
//! Each server has its own folder in `/tmp` (the path of a Unix socket must be short, and reachable for another user)
//! and is removed with its value. It is a child of the test, in its process group, so that killing the group ends the
//! server, too. PostgreSQL refuses to run as root; then another user runs it.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Authority, Term};

/// The role that the program logs in as, and the database.
const ROLE: &str = "feishu";
/// Its password: a word that no text contains by accident.
const PASSWORD: &str = "feishuHarness0-Zq8RkT5vXw2LmN";
const SUPERUSER: &str = "postgres";

/// How long an event may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings that no test cares about: a small server that logs all statements.
const SETTINGS: [(&str, &str); 12] = [
    ("listen_addresses", "127.0.0.1"),
    ("shared_buffers", "16MB"),
    ("wal_level", "replica"),
    ("max_wal_senders", "4"),
    ("fsync", "on"),
    ("password_encryption", "scram-sha-256"),
    // A killed server leaves nothing outside its folder.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_statement", "all"),
    ("log_connections", "on"),
    ("log_disconnections", "on"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    ("logging_collector", "off"),
];

/// The superuser's own queries are free of this: they are not under test, and not in the log.
const OWN_OPTIONS: &str = "-c log_statement=none -c log_min_duration_statement=-1 \
    -c log_min_error_statement=panic -c statement_timeout=0 -c default_transaction_read_only=off";

/// Where PostgreSQL's programs are, and who runs them.
#[derive(Clone)]
struct Installation {
    programs: PathBuf,
    /// User and group; none for the current user.
    user: Option<(u32, u32)>,
}

impl Installation {
    fn find() -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            return Ok(None);
        };
        let user = if rustix::process::geteuid().is_root() {
            let known = id_of("-u", SUPERUSER).map(|_| SUPERUSER);
            let name = known.unwrap_or("nobody");
            Some((id_of("-u", name)?, id_of("-g", name)?))
        } else {
            None
        };
        Ok(Some(Installation { programs, user }))
    }

    /// One of PostgreSQL's programs.
    fn command(&self, program: &str, folder: &Path) -> Command {
        self.command_at(&self.programs.join(program), folder)
    }

    /// A program that runs in this folder as that user, without the test's environment.
    fn command_at(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if let Some(path) = env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// A folder that the user owns.
    fn folder(&self) -> Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("pg-").tempdir_in("/tmp")?;
        self.give(folder.path())?;
        Ok(folder)
    }

    /// A file that only the user can read.
    fn write(&self, path: &Path, text: &str) -> Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(path)?.write_all(text.as_bytes())?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> Result<()> {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group))?;
        }
        Ok(())
    }
}

/// The folder with all the programs: on the path, or the newest one of Debian's. Links are followed, as a folder on the
/// path may link to only some of them.
fn programs() -> Option<PathBuf> {
    const NEEDED: [&str; 4] = ["initdb", "pg_basebackup", "postgres", "psql"];
    let is_whole = |folder: &PathBuf| (NEEDED.iter()).all(|program| folder.join(program).is_file());
    let on_path = path_folders().filter_map(|folder| {
        let initdb = folder.join("initdb").canonicalize().ok()?;
        Some(initdb.parent()?.to_owned())
    });
    let version = |folder: &PathBuf| {
        let name = folder.file_name()?.to_str()?;
        name.parse::<u32>().ok()
    };
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut hidden: Vec<_> = versions.flatten().map(|entry| entry.path()).collect();
    hidden.sort_by_key(version);
    let hidden = hidden.into_iter().rev().map(|folder| folder.join("bin"));
    on_path.chain(hidden).find(is_whole)
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

fn id_of(kind: &str, name: &str) -> Result<u32> {
    let output = Command::new("id").args([kind, name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim()
        .parse()
        .with_context(|| format!("there is no user {name}"))
}

/// A running server. Dropping the value stops it and removes its folder.
pub struct Postgres {
    installation: Installation,
    folder: TempDir,
    port: u16,
    /// None while it is stopped.
    process: Mutex<Option<Child>>,
}

impl Postgres {
    /// Starts a server; without PostgreSQL, returns none and says so.
    pub fn start() -> Result<Option<Self>> {
        Postgres::start_with(&[])
    }

    /// The same, with these settings of `postgresql.conf` besides the harness's own.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Option<Self>> {
        Postgres::prepared()?
            .map(|server| server.set_up(settings))
            .transpose()
    }

    /// The same, with a certificate by this authority for these names. Clients without TLS are served, too. The
    /// authority's own certificate is in [`Postgres::ca_file`].
    pub fn with_tls(authority: &Authority, names: &[&str], term: Term) -> Result<Option<Self>> {
        let Some(server) = Postgres::prepared()? else {
            return Ok(None);
        };
        let (certificate, key) = authority.pem_for(names, term)?;
        let data = server.data();
        let user = &server.installation;
        user.write(&data.join("server.crt"), &certificate)?;
        user.write(&data.join("server.key"), &key)?;
        user.write(&data.join("ca.pem"), &authority.pem())?;
        server.set_up(&[("ssl", "on")]).map(Some)
    }

    /// A server that has its folder, but does not run.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn prepared() -> Result<Option<Self>> {
        let Some(installation) = Installation::find()? else {
            eprintln!("skipped: no PostgreSQL here");
            return Ok(None);
        };
        let server = Postgres::in_new_folder(installation)?;
        let mut initdb = server.command("initdb");
        initdb.args(["--no-sync", "--wal-segsize=1", "--encoding=UTF8"]);
        initdb.args(["--locale=C", "--auth=trust", "--username", SUPERUSER]);
        run(initdb.arg("--pgdata").arg(server.data()))?;
        let access = format!(
            "local all {SUPERUSER} trust\n\
             local replication {SUPERUSER} trust\n\
             local all all scram-sha-256\n\
             host all all 127.0.0.1/32 scram-sha-256\n"
        );
        let path = server.data().join("pg_hba.conf");
        server.installation.write(&path, &access)?;
        Ok(Some(server))
    }

    fn in_new_folder(installation: Installation) -> Result<Self> {
        Ok(Postgres {
            folder: installation.folder()?,
            installation,
            port: 0,
            process: Mutex::default(),
        })
    }

    /// Starts it for the first time, and creates the role and its database.
    fn set_up(mut self, settings: &[(&str, &str)]) -> Result<Self> {
        self.set(&SETTINGS)?;
        self.set(settings)?;
        self.find_port()?;
        self.psql(
            &self.socket_address_of(SUPERUSER),
            &format!(
                "CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}';\n\
                 CREATE DATABASE {ROLE};\n\
                 GRANT CREATE ON DATABASE {ROLE} TO {ROLE};"
            ),
        )?;
        Ok(self)
    }

    /// Starts it on a free port. Another program may take the port in between; then another port is tried.
    fn find_port(&mut self) -> Result<()> {
        let mut tries = 0..5;
        loop {
            self.port = free_port()?;
            let folder = self.folder().display().to_string();
            self.set(&[
                ("port", &self.port.to_string()),
                ("unix_socket_directories", &folder),
            ])?;
            match self.start_again() {
                Err(error) if is_taken(&error) && tries.next().is_some() => {}
                result => return result,
            }
        }
    }

    /// Appends to `postgresql.conf`: the last setting counts.
    fn set(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.data().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(path)?;
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        Ok(())
    }

    /// Host, port, database, role and password, as the program takes them.
    pub fn address(&self) -> String {
        format!(
            "postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{ROLE}",
            self.port
        )
    }

    /// The same, where the password comes from elsewhere.
    pub fn address_without_password(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{ROLE}", self.port)
    }

    /// The superuser's way to the same database: over the Unix socket, and without a password.
    pub fn socket_address(&self) -> String {
        self.socket_address_of(ROLE)
    }

    fn socket_address_of(&self, database: &str) -> String {
        let folder = self.folder().display().to_string().replace('/', "%2F");
        format!("postgresql://{SUPERUSER}@{folder}:{}/{database}", self.port)
    }

    /// The role's password, which no text may contain.
    pub fn password() -> &'static str {
        PASSWORD
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the socket and the log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the data, `postgresql.conf` and `pg_hba.conf`.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// The certificate of the authority behind [`Postgres::with_tls`].
    pub fn ca_file(&self) -> PathBuf {
        self.data().join("ca.pem")
    }

    /// What the server has logged so far: all statements but the superuser's own.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// What psql prints for the superuser, without the last line end.
    #[allow(
        clippy::panic,
        reason = "a test's question is right, or the test is wrong"
    )]
    pub fn query(&self, sql: &str) -> String {
        self.try_query(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:#}"))
    }

    /// The same where it may fail, with psql's message.
    pub fn try_query(&self, sql: &str) -> Result<String> {
        self.psql(&self.socket_address(), sql)
    }

    /// What psql prints for whoever the address names, like any client.
    pub fn query_at(&self, address: &str, sql: &str) -> Result<String> {
        run_psql(&mut self.command("psql"), address, sql)
    }

    /// What `pg_dump` or `pg_dumpall` writes of this database.
    pub fn dump(&self, program: &str, arguments: &[&str], database: &str) -> Result<String> {
        let mut dump = self.command(program);
        dump.args(arguments).arg("--dbname");
        run(dump.arg(self.socket_address_of(database)))
    }

    fn psql(&self, address: &str, sql: &str) -> Result<String> {
        let mut psql = self.command("psql");
        run_psql(psql.env("PGOPTIONS", OWN_OPTIONS), address, sql)
    }

    fn command(&self, program: &str) -> Command {
        self.installation.command(program, self.folder())
    }

    /// Starts it after a stop or a kill, and waits until it accepts clients.
    pub fn start_again(&self) -> Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "it runs already");
        let before = self.log().len();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        command.stdout(log.try_clone()?).stderr(log);
        let child = process.insert(command.spawn()?);
        let ready = until("ready", || {
            if let Some(status) = child.try_wait()? {
                let log = self.log();
                bail!(
                    "PostgreSQL: {status}: {}",
                    log.get(before..).unwrap_or(&log)
                );
            }
            Ok(self.is_ready(child.id()))
        });
        if ready.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            *process = None;
        }
        ready
    }

    /// Whether the file about a running server says that this one accepts clients.
    fn is_ready(&self, id: u32) -> bool {
        let text = fs::read_to_string(self.lock_file()).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(&id.to_string()) && lines.any(|line| line.trim() == "ready")
    }

    fn lock_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// Stops it like `pg_ctl stop -m`: `smart` waits for the clients, `fast` hangs up, `immediate` does not
    /// even tidy up.
    pub fn stop(&self, mode: &str) -> Result<()> {
        let signal = match mode {
            "smart" => Signal::SIGTERM,
            "fast" => Signal::SIGINT,
            "immediate" => Signal::SIGQUIT,
            _ => bail!("there is no mode {mode}"),
        };
        let mut process = self.process();
        let child = process.as_mut().context("it does not run")?;
        send(child.id(), signal)?;
        until("stopped", || Ok(child.try_wait()?.is_some()))?;
        *process = None;
        Ok(())
    }

    /// Kills all of it at once, as in a power cut, and waits until nothing of it is left. Pending disk writes are not
    /// lost, though.
    pub fn kill(&self) -> Result<()> {
        // A stopped process starts no more processes.
        self.freeze()?;
        let ids = self.process_ids()?;
        for id in &ids {
            send(*id, Signal::SIGKILL)?;
        }
        if let Some(mut child) = self.process().take() {
            child.wait()?;
        }
        until("gone", || {
            Ok(!processes()?.iter().any(|one| ids.contains(&one.id)))
        })
    }

    /// Freezes all of it: the system still accepts connections, but nobody answers.
    pub fn freeze(&self) -> Result<()> {
        // The main process first: then there are no new ones.
        let id = self.id()?;
        send(id, Signal::SIGSTOP)?;
        until("frozen", || Ok(all_stand_still(&[id], &processes()?)))?;
        let ids = self.process_ids()?;
        for id in &ids {
            send(*id, Signal::SIGSTOP)?;
        }
        until("frozen", || Ok(all_stand_still(&ids, &processes()?)))
    }

    /// Resumes it after [`Postgres::freeze`].
    pub fn thaw(&self) -> Result<()> {
        for id in self.process_ids()? {
            send(id, Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Adds settings while it runs, and waits until it has read them. An open session reads them before its next
    /// statement.
    pub fn reload(&self, settings: &[(&str, &str)]) -> Result<()> {
        const WHEN: &str = "SELECT pg_conf_load_time()";
        let before = self.try_query(WHEN)?;
        self.set(settings)?;
        send(self.id()?, Signal::SIGHUP)?;
        until("reloaded", || Ok(self.try_query(WHEN)? != before))
    }

    /// The main process and all of its own, in that order.
    pub fn process_ids(&self) -> Result<Vec<u32>> {
        let id = self.id()?;
        let mut ids = vec![id];
        let all = processes()?.into_iter();
        ids.extend(all.filter(|one| one.parent == id).map(|one| one.id));
        Ok(ids)
    }

    fn id(&self) -> Result<u32> {
        let process = self.process();
        Ok(process.as_ref().context("it does not run")?.id())
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a hot standby of it: a server that follows, and is readable.
    pub fn standby(&self) -> Result<Self> {
        let mut standby = Postgres::in_new_folder(self.installation.clone())?;
        let mut copy = standby.command("pg_basebackup");
        copy.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"]);
        copy.args(["--write-recovery-conf", "--dbname"]);
        copy.arg(self.socket_address_of(SUPERUSER));
        run(copy.arg("--pgdata").arg(standby.data()))?;
        standby.find_port()?;
        Ok(standby)
    }

    /// Waits until this standby has all that the other server has now.
    pub fn catch_up(&self, primary: &Postgres) -> Result<()> {
        let end = primary.try_query("SELECT pg_current_wal_flush_lsn()")?;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        until("caught up", || Ok(self.try_query(&question)? == "t"))
    }

    /// Promotes this standby, and waits until it is writable.
    pub fn promote(&self) -> Result<()> {
        let done = self.try_query("SELECT pg_promote()")?;
        ensure!(done == "t", "it was not promoted: {}", self.log());
        Ok(())
    }

    /// Starts a PgBouncer for it that lends its few connections per transaction; without the program, returns none and
    /// says so.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    pub fn pgbouncer(&self, pool_size: usize) -> Result<Option<PgBouncer>> {
        let hidden = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let mut places = path_folders().chain(hidden);
        let program = places.find_map(|folder| {
            let program = folder.join("pgbouncer");
            program.is_file().then_some(program)
        });
        let Some(program) = program else {
            eprintln!("skipped: no PgBouncer here");
            return Ok(None);
        };
        let mut tries = 0..5;
        loop {
            match PgBouncer::start(&program, &self.installation, self.port, pool_size) {
                Err(error) if is_taken(&error) && tries.next().is_some() => {}
                result => return result.map(Some),
            }
        }
    }

    /// Removes the few bytes that a killed server leaves in the system's memory.
    fn free_memory(&self) {
        let text = fs::read_to_string(self.lock_file()).unwrap_or_default();
        // The line of the shared memory: its key, and its number.
        let line = text.lines().nth(6).unwrap_or_default();
        if let Some(number) = line.split_whitespace().nth(1) {
            let mut command = self
                .installation
                .command_at(Path::new("ipcrm"), self.folder());
            let _ = command.args(["-m", number]).output();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.id().is_ok() {
            let _ = self.thaw();
            if self.stop("immediate").is_err() {
                let _ = self.kill();
            }
        }
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.free_memory();
    }
}

/// A running PgBouncer. It ends with the value.
pub struct PgBouncer {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl PgBouncer {
    fn start(
        program: &Path,
        installation: &Installation,
        server: u16,
        pool_size: usize,
    ) -> Result<Self> {
        let port = free_port()?;
        let folder = installation.folder()?;
        let (users, settings) = (folder.path().join("users"), folder.path().join("ini"));
        installation.write(&users, &format!("\"{ROLE}\" \"{PASSWORD}\"\n"))?;
        let text = format!(
            "[databases]\n\
             {ROLE} = host=127.0.0.1 port={server} dbname={ROLE}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = scram-sha-256\n\
             auth_file = {}\n\
             stats_users = {ROLE}\n\
             pool_mode = transaction\n\
             default_pool_size = {pool_size}\n",
            users.display()
        );
        installation.write(&settings, &text)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = installation.command_at(program, folder.path());
        command.arg(settings).stdout(log.try_clone()?).stderr(log);
        let mut bouncer = PgBouncer {
            process: command.spawn()?,
            folder,
            port,
        };
        until("up", || {
            if let Some(status) = bouncer.process.try_wait()? {
                bail!("PgBouncer: {status}: {}", bouncer.log());
            }
            // It says so when it listens.
            Ok(bouncer.log().contains("process up"))
        })?;
        Ok(bouncer)
    }

    /// As of the server behind it.
    pub fn address(&self) -> String {
        format!(
            "postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{ROLE}",
            self.port
        )
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process of this machine.
struct Process {
    id: u32,
    parent: u32,
    is_stopped: bool,
}

/// All processes, except zombies.
fn processes() -> Result<Vec<Process>> {
    let mut ps = Command::new("ps");
    let text = run(ps.args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "state="]))?;
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let state = words.next()?;
        (!state.starts_with('Z')).then(|| Process {
            id,
            parent,
            is_stopped: state.starts_with(['T', 't']),
        })
    };
    Ok(text.lines().filter_map(process).collect())
}

/// Whether none of these is running.
fn all_stand_still(ids: &[u32], processes: &[Process]) -> bool {
    let mut own = processes.iter().filter(|one| ids.contains(&one.id));
    own.all(|one| one.is_stopped)
}

/// Sends a signal; it does not matter if the process is gone.
fn send(id: u32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(id.try_into()?), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Polls until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < end, "it was not {what} in time");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A port that nobody listens on, below those that the system itself assigns: while a server is stopped, no connection
/// gets its port by chance.
fn free_port() -> Result<u16> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const NUMBER: u32 = 20_000;
    // Tests in other processes start elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..NUMBER {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + begin.wrapping_add(count) % NUMBER)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("there is no free port")
}

/// Whether a server failed to start because its port is taken.
fn is_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("in use")
}

/// Runs a program to its end; returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

fn run_psql(psql: &mut Command, address: &str, sql: &str) -> Result<String> {
    psql.args(["-XAtqw", "-v", "ON_ERROR_STOP=1", address]);
    psql.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = psql.spawn()?;
    // On stdin each statement is its own transaction. A rejected psql has closed it.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(sql.as_bytes());
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", stderr.trim_end());
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
