//! Completion scripts: clap's own, mended where a test in a real shell found them wanting.

use clap_complete::Shell;

use super::help;

/// In bash, clap takes the hyphen of our name for the gap before a subcommand's, in half of the places.
const BASH_LABEL: (&str, &str) = ("feishu__subcmd__refresh", "feishu__refresh");

/// In fish, clap gives up where the option in front of the cursor has no value yet, and so never
/// completes one.
const FISH_PARSE: (&str, &str) = ("    or return\n", "    or return 0\n");

/// In fish, clap does not complete what stands without an option.
const FISH_SHELLS: &str = "complete -c feishu-refresh -n \
    \"__fish_feishu_refresh_using_subcommand completions\" -f -a \"bash elvish fish powershell zsh\"\n";

/// The completion script for a shell.
pub(crate) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut help::shown(), "feishu-refresh", &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => script.replace(BASH_LABEL.0, BASH_LABEL.1),
        Shell::Fish => script.replacen(FISH_PARSE.0, FISH_PARSE.1, 1) + FISH_SHELLS,
        _ => script.into_owned(),
    }
}
