//! Writes the man pages and the completion scripts into a folder, as packages carry them.
//!
//! `cargo run --features internals --example man -- FOLDER`
//!
//! Options, commands and exit codes come from the command line's own description, the rest from `man.roff`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Generator, Shell};
use clap_mangen::Man;
use feishu_refresh::internals::{command, completions};
use jiff::{Timestamp, tz::TimeZone};

/// The sections of the main page that no option speaks of.
const MORE: &str = include_str!("man.roff");

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("name a folder")?;
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder)?;
    let mut command = with_short_help(command()).disable_help_subcommand(true);
    command.build();
    write_pages(&command, &folder, &date()?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let name = shell.file_name("feishu-refresh");
        fs::write(folder.join(name), completions(shell))?;
    }
    Ok(())
}

/// The generator leaves out the help of an option that is hidden on one screen and has no longer one.
fn with_short_help(command: Command) -> Command {
    let command = command.mut_args(|option| option.hide_short_help(false));
    command.mut_subcommands(with_short_help)
}

/// Writes a command's page, and those of the commands below it.
fn write_pages(command: &Command, folder: &Path, date: &str) -> Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    let name = man.get_filename();
    man.render(&mut page)?;
    fs::write(
        folder.join(name),
        finished(command, &String::from_utf8(page)?, date)?,
    )?;
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        write_pages(below, folder, date)?;
    }
    Ok(())
}

/// A page as it is to be, from what the generator makes of it.
fn finished(command: &Command, page: &str, date: &str) -> Result<String> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let is_main = name == command.get_name();
    let (_, rest) = page.split_once(".SH NAME\n").context("no name")?;
    let (about, rest) = rest.split_once(".SH SYNOPSIS\n").context("no synopsis")?;
    let (_, rest) = rest
        .split_once(".SH DESCRIPTION\n")
        .context("no description")?;
    let mut text = format!(
        ".TH {} 1 \"{date}\" \"feishu-refresh {}\" \"User Commands\"\n.SH NAME\n{about}.SH SYNOPSIS\n.nf\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    );
    let mut usage = usage(command);
    if is_main && command.find_subcommand("help").is_none() {
        usage.push(format!("{name} help [COMMAND]"));
    }
    for line in usage {
        text.push_str(&line.replace('-', "\\-"));
        text.push('\n');
    }
    text.push_str(".fi\n.SH DESCRIPTION\n");
    let (options, version) = rest.split_once(".SH VERSION\n").unwrap_or((rest, ""));
    // What clap calls extra are the exit codes, and below them what is said of values.
    let (options, extra) = options.split_once(".SH EXTRA\n").unwrap_or((options, ""));
    text.push_str(options);
    if is_main {
        let (codes, notes) = extra.split_once("\n\n").context("no exit codes")?;
        let codes = codes.trim_start_matches("Exit codes:\n");
        let notes = notes.trim_end().replace('\n', "\n.br\n");
        text.push_str(&format!(".SH \"EXIT STATUS\"\n.nf\n{codes}\n.fi\n{MORE}"));
        text.push_str(&format!(".SH NOTES\n{notes}\n.SH VERSION\n{version}"));
    } else {
        text.push_str(".SH \"SEE ALSO\"\n.BR feishu\\-refresh (1)\n");
    }
    // The generator forgets that a command stands behind --, names a string for the apostrophe that its head defined,
    // and spaces lists twice and pads lines.
    let text = text
        .replace("\\*(Aq", "\\(aq")
        .replace("<\\fICOMMAND\\fR>", "\\-\\- <\\fICOMMAND\\fR>...")
        .replace(".br\n\n.br\n", ".sp\n");
    let lines = text.lines().map(|line| line.trim_end().to_owned() + "\n");
    Ok(lines.collect())
}

/// What can be typed: a line for the command itself, and one for each below it.
fn usage(command: &Command) -> Vec<String> {
    let own = command.clone().render_usage().to_string();
    let own = own.lines().next().unwrap_or_default();
    let own = own.trim_start_matches("Usage: ").replace(" [COMMAND]", "");
    let below = command.get_subcommands();
    let mut below: Vec<_> = below.filter(|below| !below.is_hide_set()).collect();
    below.sort_by_key(|below| below.get_display_order());
    let mut lines = vec![own];
    lines.extend(below.into_iter().flat_map(usage));
    lines
}

/// The day of the build, or that of `SOURCE_DATE_EPOCH`, so that the same source gives the same pages.
fn date() -> Result<String> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => Timestamp::from_second(seconds.parse()?)?,
        Err(_) => Timestamp::now(),
    };
    Ok(time.to_zoned(TimeZone::UTC).date().to_string())
}
