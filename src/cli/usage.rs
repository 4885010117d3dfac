//! What is wrong with a command line, in words that repeat no secret (P10).

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::{Error, Hint, Kind};
use crate::protocol::Shape;

/// Whether a command line asks for JSON, even if the rest of it cannot be read: then its error is
/// read by a program, too.
pub(super) fn wants_json(arguments: &[OsString]) -> bool {
    let mut wanted = false;
    let mut value_follows = false;
    let arguments = arguments.iter().map(|argument| argument.to_str());
    // What follows is another program's.
    let arguments = arguments.take_while(|argument| *argument != Some("--"));
    for argument in arguments.map(Option::unwrap_or_default) {
        let value = if value_follows {
            Some(argument)
        } else {
            output_value(argument)
        };
        value_follows = value == Some("") && !value_follows;
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            wanted = value == "json";
        }
    }
    wanted
}

/// What an argument gives `--output`: nothing, a value, or an empty one if it is the next argument.
fn output_value(argument: &str) -> Option<&str> {
    let value = match argument.strip_prefix("--output") {
        Some(value) => value,
        None => argument
            .strip_prefix('-')?
            .trim_start_matches(['q', 'v'])
            .strip_prefix('o')?,
    };
    Some(value.strip_prefix('=').unwrap_or(value))
}

/// The error for a command line that clap refuses.
pub(super) fn usage_error(error: &clap::Error, arguments: &[OsString]) -> Error {
    Error::new(Kind::Usage, message(error, arguments)).with_hint(hint(error, arguments))
}

/// What clap names of that kind.
fn named(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(name)) => Some(name),
        Some(ContextValue::Strings(names)) => names.first().map(String::as_str),
        _ => None,
    }
}

/// The option or argument in question.
fn argument(error: &clap::Error) -> &str {
    named(error, ContextKind::InvalidArg).unwrap_or("an argument")
}

/// Whether an option is without the value that it needs.
fn lacks_value(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::InvalidValue
        && named(error, ContextKind::InvalidValue).is_none_or(str::is_empty)
}

/// A longer word may be a secret, unless it is of lower-case letters.
const LONGEST: usize = 8;
const LONGEST_OF_LETTERS: usize = 20;

/// Whether an unknown word may be shown: no token and no app secret looks like it.
fn can_be_shown(word: &str) -> bool {
    let bare = word.trim_start_matches('-');
    let has = |is: fn(&u8) -> bool| bare.as_bytes().iter().any(is);
    let is_mixed =
        has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    let longest = if bare.bytes().all(is_letter) {
        LONGEST_OF_LETTERS
    } else {
        LONGEST
    };
    (1..=longest).contains(&bare.len())
        && bare.bytes().all(is_word)
        && !is_mixed
        && matches!(Shape::of(bare), Shape::Other | Shape::Placeholder)
}

fn message(error: &clap::Error, arguments: &[OsString]) -> String {
    let argument = argument(error);
    match error.kind() {
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
            let argument = named(error, ContextKind::InvalidSubcommand).unwrap_or(argument);
            if can_be_shown(argument) {
                return format!("{argument} is not known");
            }
            let is_it = |given: &OsString| given.to_str().is_some_and(|g| g.starts_with(argument));
            match arguments.iter().skip(1).position(is_it) {
                Some(place) => format!("argument {} is not known", place + 1),
                None => "an argument is not known".to_owned(),
            }
        }
        _ if lacks_value(error) => format!("{argument} needs a value"),
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) => {
                format!("{argument} can be: {}", values.join(", "))
            }
            _ => format!("{argument} has a value that it cannot have"),
        },
        ErrorKind::ValueValidation => match std::error::Error::source(error) {
            // Our own parsers' words: they repeat no value.
            Some(reason) => format!("{argument}: {reason}"),
            None => format!("{argument} has a value that it cannot have"),
        },
        ErrorKind::TooManyValues => format!("{argument} takes no value"),
        ErrorKind::MissingRequiredArgument if argument == "<SHELL>" => {
            "completions needs the name of a shell: bash, zsh, fish, elvish or powershell"
                .to_owned()
        }
        ErrorKind::MissingRequiredArgument => "exec needs -- and a command behind it".to_owned(),
        ErrorKind::ArgumentConflict => format!("{argument} does not go with another option"),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8 text".to_owned(),
        _ => "the arguments do not fit together".to_owned(),
    }
}

/// What other programs call an option of this one.
const OTHER_NAMES: [(&str, &str); 1] = [("--json", "-o json")];

fn hint(error: &clap::Error, arguments: &[OsString]) -> Hint {
    let argument = argument(error);
    let mut suggestions = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ]
    .into_iter();
    let other_name = OTHER_NAMES.iter().find(|(other, _)| *other == argument);
    let suggestion = other_name.map(|(_, name)| *name);
    if let Some(name) = suggestion.or(suggestions.find_map(|kind| named(error, kind))) {
        // The Python program's spelling is taken, but not taught.
        let name = name.replace('_', "-");
        return Hint::naming(
            format!("did you mean {name}?"),
            format!("您是否想用 {name}？"),
        );
    }
    let is_stray = error.kind() == ErrorKind::UnknownArgument;
    let is_for_exec = arguments.iter().any(|argument| argument == "exec")
        && arguments.iter().all(|argument| argument != "--");
    if is_stray && is_for_exec && !argument.starts_with('-') {
        Hint::fixed(
            "put -- before the command and its arguments: feishu-refresh exec -- COMMAND",
            "要运行的命令及其参数请写在 -- 之后：feishu-refresh exec -- COMMAND",
        )
    } else if is_stray || lacks_value(error) {
        Hint::fixed(
            "see -h; a value that begins with - is given as --option=VALUE",
            "请参阅 -h；以 - 开头的值请写成 --option=VALUE",
        )
    } else {
        Hint::fixed("see -h", "请参阅 -h")
    }
}
