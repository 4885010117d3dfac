//! What is shown of the command line: the help of each command has the options that mean something to
//! it, in words that fit it.

use clap::{Arg, Command};

use super::command::whole;

/// The options of the main job that mean nothing to a command: its help does not show them.
const MEANINGLESS: [(&str, &[&str]); 3] = [
    (
        "login",
        &[
            "app_token",
            "refresh",
            "app_ticket",
            "all",
            "api",
            "min_ttl",
            "rate",
        ],
    ),
    (
        "status",
        &[
            "scope",
            "accounts_url",
            "ca_cert",
            "min_ttl",
            "on_refresh",
            "timeout",
            "retries",
            "max_wait",
            "lock_timeout",
            "rate",
        ],
    ),
    ("exec", &["all", "accounts_url", "rate", "output"]),
];

/// The command line, as help, completions and man pages show it.
pub(crate) fn shown() -> Command {
    let command = whole();
    let options = command
        .get_arguments()
        .filter(|option| option.is_global_set());
    let options: Vec<Arg> = options.cloned().collect();
    // Given to each command before clap hands them down, so that they can differ in what is hidden.
    let with_options = |command: Command, is_meaningless: &dyn Fn(&str) -> bool| {
        command.args(options.iter().map(|option| {
            let is_meaningless = is_meaningless(option.get_id().as_str());
            option.clone().hide(is_meaningless)
        }))
    };
    let command = MEANINGLESS.iter().fold(command, |command, (name, ids)| {
        command.mut_subcommand(name, |command| {
            with_options(command, &|id| ids.contains(&id))
        })
    });
    let command = command
        .mut_subcommand("login", |command| {
            command
                .mut_arg("output", |output| {
                    output.help("token, json, env or github [default: none]")
                })
                .mut_arg("scope", |scope| {
                    let help = "What the token may do, beside offline_access";
                    let long = "What the token may do: scopes of the app, as the developer console names them, \
                        separated by spaces. offline_access is always asked for. With that alone, the token opens \
                        almost no API.\n\nExample: --scope \"task:task:read contact:user.base:readonly\"";
                    scope.help(help).long_help(long).hide_short_help(false)
                })
        })
        .mut_subcommand("status", |command| {
            let json = "json, one object a line [default: a table]";
            command.mut_arg("output", |output| output.help(json).long_help(json))
        })
        .mut_subcommand("exec", |command| {
            let five_minutes = "Refresh only if less is left [default: 5m]";
            command.mut_arg("min_ttl", |min_ttl| min_ttl.help(five_minutes))
        });
    command.mut_subcommand("completions", |command| {
        with_options(command, &|id| id != "help")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_said_to_mean_nothing_exists() {
        let command = whole();
        for (name, ids) in MEANINGLESS {
            assert!(command.find_subcommand(name).is_some(), "{name}");
            for id in ids {
                let mut options = command.get_arguments();
                assert!(options.any(|option| option.get_id() == id), "{id}");
            }
        }
    }
}
