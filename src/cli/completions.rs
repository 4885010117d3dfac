//! Completion scripts: clap's own, repaired where a test in a real shell found them wanting, and with the
//! sections of the file for `-p` in bash, zsh and fish.

use clap_complete::Shell;

use super::help;

/// In bash, clap takes the hyphen of our name for the gap before a subcommand's, in half of the places.
const BASH_LABEL: (&str, &str) = ("feishu__subcmd__refresh", "feishu__refresh");

/// In fish, clap gives up where the option in front of the cursor has no value yet, and so never
/// completes one.
const FISH_PARSE: (&str, &str) = ("    or return\n", "    or return 0\n");

/// In fish, clap does not complete what comes without an option.
const FISH_SHELLS: &str = "complete -c feishu-refresh -n \
    \"__fish_feishu_refresh_using_subcommand completions\" -f -a \"bash elvish fish powershell zsh\"\n";

/// Prints the names of the sections of `$file` that can be logins.
const SECTIONS: &str =
    r#"sed -n 's/^\[\([^]]*\)].*/\1/p' < "$file" | grep -vxE 'ID|DEFAULT|LOGIN_CODE'"#;

/// Not `compgen -W`, which would run what a section's name says.
const BASH_SECTIONS: &str = r#"_feishu_refresh_sections() {
    local i next file="${FEISHU_CONFIG_FILE:-feishu-config.ini}"
    for ((i = 1; i < COMP_CWORD; i++)); do
        next=$((i + 1))
        [[ "${COMP_WORDS[next]}" == "=" ]] && next=$((i + 2))
        [[ "${COMP_WORDS[i]}" == -c || "${COMP_WORDS[i]}" == --config-file ]] && file="${COMP_WORDS[next]}"
    done
    file="${file/#\~/$HOME}"
    [[ -f "$file" ]] && SECTIONS
}

_feishu_refresh_complete_section() {
    local name
    COMPREPLY=()
    while IFS= read -r name; do
        name="$(printf %q "$name")"
        [[ "$name" == "$1"* ]] && COMPREPLY+=("$name")
    done < <(_feishu_refresh_sections)
}

"#;

/// How clap completes a profile in bash: by the names of files.
const BASH_PROFILE: [&str; 2] = ["--profile)", "-p)"];
const BASH_FILES: &str = "\n                    COMPREPLY=($(compgen -f \"${cur}\"))\n";
const BASH_NAMES: &str = "\n                    _feishu_refresh_complete_section \"${cur}\"\n";

const ZSH_SECTIONS: &str = r#"
_feishu_refresh_sections() {
    local file=${opt_args[-c]:-${opt_args[--config-file]:-${FEISHU_CONFIG_FILE:-feishu-config.ini}}}
    file=${file/#\~/$HOME}
    [[ -f "$file" ]] || return
    local -a names
    names=(${(f)"$(SECTIONS)"})
    compadd -a names
}
"#;
const ZSH_BEHIND: &str = "autoload -U is-at-least\n";
const ZSH_PROFILE: [&str; 2] = ["'-p+[", "'--profile=["];
const ZSH_FILES: &str = ":NAME:_default'";
const ZSH_NAMES: &str = ":NAME:_feishu_refresh_sections'";

const FISH_SECTIONS: &str = r"function __fish_feishu_refresh_sections
    set -l file feishu-config.ini
    set -q FEISHU_CONFIG_FILE[1]; and set file $FEISHU_CONFIG_FILE
    set -l words (commandline -opc)
    for i in (seq (count $words))
        switch $words[$i]
            case -c --config-file
                set file $words[(math $i + 1)]
            case '--config-file=*'
                set file (string replace -- --config-file= '' $words[$i])
        end
    end
    test -f $file; and SECTIONS
end

";
const FISH_PROFILE: &str = " -s p -l profile ";
const FISH_FILES: &str = " -r\n";
const FISH_NAMES: &str = " -x -a \"(__fish_feishu_refresh_sections)\"\n";

/// The completion script for a shell.
pub(crate) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut help::shown(), "feishu-refresh", &mut script);
    let script = String::from_utf8_lossy(&script);
    let with_sections = |function: &str| function.replace("SECTIONS", SECTIONS);
    match shell {
        Shell::Bash => {
            let script = script.replace(BASH_LABEL.0, BASH_LABEL.1);
            let script = BASH_PROFILE.iter().fold(script, |script, option| {
                let files = format!("{option}{BASH_FILES}");
                script.replace(&files, &format!("{option}{BASH_NAMES}"))
            });
            with_sections(BASH_SECTIONS) + &script
        }
        Shell::Zsh => {
            let functions = format!("{ZSH_BEHIND}{}", with_sections(ZSH_SECTIONS));
            let script = script.replacen(ZSH_BEHIND, &functions, 1);
            each_line(&script, |line| {
                let is_profile = ZSH_PROFILE.iter().any(|option| line.starts_with(option));
                is_profile.then(|| line.replace(ZSH_FILES, ZSH_NAMES))
            })
        }
        Shell::Fish => {
            let script = script.replacen(FISH_PARSE.0, FISH_PARSE.1, 1);
            let script = each_line(&script, |line| {
                let is_profile = line.contains(FISH_PROFILE);
                is_profile.then(|| line.replace(FISH_FILES, FISH_NAMES))
            });
            with_sections(FISH_SECTIONS) + &script + FISH_SHELLS
        }
        _ => script.into_owned(),
    }
}

/// A script with another line for some of its own.
fn each_line(script: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let lines = script.split_inclusive('\n');
    lines
        .map(|line| other(line).unwrap_or_else(|| line.to_owned()))
        .collect()
}
