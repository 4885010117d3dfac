//! The program and the library, tested from outside against the stand-in server.
//!
//! Where a new test belongs:
//! - `main_job`: what a run reads, sends, saves and prints when all is well
//! - `file_format`: how the file looks afterwards, to us and to Python
//! - `encodings`: files in another encoding, or beginning with a NUL byte
//! - `concurrency`: several programs at once
//! - `replies`: what the server may do, and what happens to the token
//! - `systems`: the token endpoints, and which host each goes to
//! - `app_token`: fetching, keeping and renewing the `app_access_token`
//! - `hostile`: replies that are meant to harm
//! - `bad_input`: the table of things that end in a clear error with the file untouched
//! - `mistakes`: what people get wrong in their first hour, and that the next step works
//! - `rotation`: what may interrupt a run, and that no pair is lost
//! - `recovery`: what other programs, kills and stops do to the file, and that the next run fixes it
//! - `profiles`: many profiles in one run
//! - `status`: what `status` says about a file
//! - `system`: disks, permissions, locks, pipes
//! - `disk_words`: what is said about an unusable disk or file
//! - `scripts`: saved tokens, outputs for other programs, commands before and after
//! - `store`: logins in PostgreSQL
//! - `cost`: what a run asks of the system
//! - `secrets`: where a token must not go
//! - `addresses`: where requests go, and whose secrets go there
//! - `sense`: what cannot work is not sent
//! - `clocks`: the effects of a wrong clock, and their limits
//! - `refusals`: each code of the servers, and what a refusal means beside a newer pair
//! - `proxies`: which proxy a request goes through, and what it may refuse
//! - `standard`: an independent standard OAuth 2.0 server
//! - `tls`: which certificates are trusted
//! - `recipes`: the recipes of docs/recipes.md, run as they stand
//! - `action`: the scripts of the GitHub Action, whatever `gh` does
//! - `packaging`: what packages carry beside the program
//! - `postgres`: the PostgreSQL that tests run against: that it starts, dies and replicates as it should
//! - `readme`: what the documents say about the tests
//! - `shape`: what the code imports
//! - `documented`: the command lines that the documents show: that they can be read, and work
//! - `sandbox_lines`: the lines that the sandbox prints to be typed
//! - `login`: the first pair, from a user's consent
//! - `consent`: what a consent may end in other than a code, and how consent on a device is requested
//! - `library`: the functions for Rust callers
//! - `windows`: what is different there
//!
//! `harness` runs the program; `sandbox/server` is the stand-in. What needs no program is tested beside its code in
//! `src`. What needs Unix (signals, modes, a shell) is only for Unix.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![cfg_attr(
    windows,
    allow(
        unused_imports,
        dead_code,
        reason = "some of it serves tests that need Unix"
    )
)]
#![allow(clippy::print_stdout, reason = "some tests measure")]

#[cfg(unix)]
mod action;
mod addresses;
mod app_token;
mod bad_input;
mod clocks;
mod concurrency;
mod consent;
#[cfg(unix)]
mod cost;
#[cfg(target_os = "linux")] // It has mounts.
mod disk_words;
#[cfg(unix)]
mod documented;
mod encodings;
mod file_format;
mod harness;
#[cfg(unix)]
mod hostile;
mod library;
mod login;
mod main_job;
mod mistakes;
#[cfg(target_os = "linux")] // It has systemd.
mod packaging;
#[cfg(unix)]
mod postgres;
mod profiles;
mod proxies;
mod readme;
#[cfg(unix)]
mod recipes;
#[cfg(target_os = "linux")] // It has strace, mounts and /proc.
mod recovery;
#[cfg(unix)]
mod refusals;
mod replies;
mod rotation;
#[path = "sandbox/server.rs"]
mod sandbox;
#[cfg(unix)]
mod sandbox_lines;
#[cfg(unix)]
mod scripts;
mod secrets;
mod sense;
mod shape;
mod standard;
mod status;
#[cfg(unix)]
mod store;
#[cfg(unix)]
mod system;
mod systems;
#[cfg(unix)]
mod tls;
#[cfg(windows)]
mod windows;
