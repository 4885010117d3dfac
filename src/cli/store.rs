//! `store`: the tables of a store, a key for it, and logins on their way into it.

#[cfg(feature = "postgres")]
use std::io::Read;

use super::args::{Cli, StoreTask};
use super::console::Console;
use crate::error::Result;
use crate::refresh::Options;

/// Does what was asked, and says what was done.
#[cfg(not(feature = "postgres"))]
pub(super) fn run(_: &StoreTask, _: &Cli, _: &Options, _: &mut Console<'_>) -> Result<()> {
    Err(crate::store::open::no_postgres())
}

/// Does what was asked, and says what was done.
#[cfg(feature = "postgres")]
pub(super) fn run(
    task: &StoreTask,
    cli: &Cli,
    options: &Options,
    console: &mut Console<'_>,
) -> Result<()> {
    match task {
        StoreTask::Key => {
            let key = sealing::new_key()?;
            print(console.stdout, &format!("{}\n", key.expose_secret()))
        }
        StoreTask::Init { print_sql: true } => print(console.stdout, &schema::sql()),
        StoreTask::Init { print_sql: false } => {
            let database = named_database(options)?;
            let settings = options.connection(Mask::shield_thread);
            let done = Driver::default().run(postgres::set_up(database, &settings))??;
            say_unless_quiet(cli, console, &done);
            Ok(())
        }
        StoreTask::Import { from: Some(_) } => import_line(cli, options, console),
        StoreTask::Import { from: None } => import_file(cli, options, console),
    }
}

#[cfg(feature = "postgres")]
use {
    super::output::{print, say},
    crate::driver::Driver,
    crate::error::{Error, Hint},
    crate::platform::signals::Mask,
    crate::store::database::Database,
    crate::store::file::FileStore,
    crate::store::import::{ImportResult, import},
    crate::store::postgres::{self, PostgresStore, SealedLine, schema, sealed_line, sealing},
    crate::token::{ExposeSecret, SecretString},
};

/// The store that was named.
#[cfg(feature = "postgres")]
fn named_database(options: &Options) -> Result<&Database> {
    options.store.as_ref().ok_or_else(|| {
        Error::config("no store is named").with_hint(Hint::fixed(
            "name it with --store postgres://USER@HOST/DATABASE, or in FEISHU_STORE",
            "请用 --store postgres://用户@主机/数据库 或 FEISHU_STORE 指定",
        ))
    })
}

#[cfg(feature = "postgres")]
fn open_store(options: &Options) -> Result<PostgresStore> {
    let settings = options.connection(Mask::shield_thread);
    PostgresStore::open(
        named_database(options)?,
        &settings,
        options.lock_timeout,
        None,
    )
}

#[cfg(feature = "postgres")]
fn say_unless_quiet(cli: &Cli, console: &mut Console<'_>, line: &str) {
    if !cli.is_quiet() {
        say(console.stderr, line);
    }
}

/// Moves logins out of a file. One that cannot move does not stop the others.
#[cfg(feature = "postgres")]
fn import_file(cli: &Cli, options: &Options, console: &mut Console<'_>) -> Result<()> {
    let store = open_store(options)?;
    let file = FileStore::new(&options.config_file, Mask::shield_thread);
    let only = Some(options.profile.as_str()).filter(|_| cli.names_profile(console.env));
    let (mut moved, mut failed) = (0, None);
    let shown = (file.path().display().to_string(), store.shown().to_owned());
    let stderr = &mut *console.stderr;
    let mut told = |name: &str, result: Result<ImportResult>| {
        let (file, store) = &shown;
        let line = match result {
            Ok(ImportResult::Now) => format!("[{name}] has moved from {file} to {store}"),
            Ok(ImportResult::Before) => {
                format!("[{name}] was in {store} already; {file} has it no more")
            }
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    ::log::warn!("{before}");
                }
                return;
            }
        };
        moved += 1;
        if !cli.is_quiet() {
            say(stderr, &line);
        }
    };
    let deadline = options.lock_deadline();
    Driver::default().run(import(&file, &store, only, deadline, &mut told))??;
    match failed {
        Some(error) => Err(error),
        None if moved == 0 => {
            say_unless_quiet(cli, console, &format!("{} has no login to move", shown.0));
            Ok(())
        }
        None => Ok(()),
    }
}

/// A longer stdin holds no sealed line.
#[cfg(feature = "postgres")]
const LONGEST_LINE: u64 = 4 << 20;

/// Takes a sealed line from stdin.
#[cfg(feature = "postgres")]
fn import_line(cli: &Cli, options: &Options, console: &mut Console<'_>) -> Result<()> {
    let store = open_store(options)?;
    let mut text = String::new();
    let read = (&mut console.stdin)
        .take(LONGEST_LINE)
        .read_to_string(&mut text);
    read.map_err(|error| Error::config(format!("cannot read stdin: {error}")))?;
    let text = SecretString::from(text);
    let line = sealed_line(&text)
        .ok_or_else(|| Error::config("stdin holds no sealed line; nothing was changed"))?;
    let taken = Driver::default().run(store.run.take_line(line, options.lock_deadline()))??;
    let keeper = store.shown();
    let told = match taken {
        SealedLine::Saved(name) => format!("[{name}] of {keeper} has this pair now"),
        SealedLine::WasThere(name) => format!("[{name}] of {keeper} had this pair already"),
        SealedLine::Reply(reply) => {
            print(console.stdout, &format!("{}\n", reply.expose_secret()))?;
            "that is a server's reply: put its refresh token into an INI file, and move it with store import -c FILE".to_owned()
        }
    };
    say_unless_quiet(cli, console, &told);
    Ok(())
}
