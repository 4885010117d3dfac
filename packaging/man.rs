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
    for page in fs::read_dir(&folder)? {
        let page = page?.path();
        if page.extension().is_some_and(|extension| extension == "1") {
            // What clap calls extra are the exit codes; and it forgets that a command stands behind --.
            let text = fs::read_to_string(&page)?
                .replace(".SH EXTRA\nExit codes:\n", ".SH \"EXIT STATUS\"\n")
                .replace("<\\fICOMMAND\\fR>", "\\-\\- <\\fICOMMAND\\fR>...");
            fs::write(&page, text)?;
        }
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let name = shell.file_name("feishu-refresh");
        fs::write(folder.join(name), completions(shell))?;
    }
    Ok(())
}
