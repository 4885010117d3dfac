//! Writes the man pages and the completion scripts into a folder, as packages carry them.
//!
//! `cargo run --features internals --example man -- FOLDER`

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap_complete::{Generator, Shell};
use feishu_refresh::internals::{command, completions};

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).context("name a folder")?;
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(command(), &folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let name = shell.file_name("feishu-refresh");
        fs::write(folder.join(name), completions(shell))?;
    }
    Ok(())
}
