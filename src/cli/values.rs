//! What the values of options can be. No message repeats one: it may be a secret.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use secrecy::SecretString;

use crate::protocol::{self, Api};

#[expect(clippy::unnecessary_wraps, reason = "the form that clap asks for")]
pub(super) fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(trimmed(text))
}

/// A secret without the line end that a file or a paste left on it.
pub(super) fn trimmed(text: &str) -> SecretString {
    text.trim_ascii().into()
}

pub(super) fn api_parser() -> impl TypedValueParser<Value = Api> {
    PossibleValuesParser::new(Api::ALL.map(Api::name))
        .try_map(|name| Api::named(&name).ok_or("not an api"))
}

pub(super) fn shell_command(text: &str) -> Result<String, &'static str> {
    let command = Some(text).filter(|text| !text.trim().is_empty());
    command
        .map(str::to_owned)
        .ok_or("is empty: a variable in the script that calls may be unset")
}

/// The name of an environment variable, as shells know them.
pub(super) fn variable(name: &str) -> Result<String, &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = name.starts_with(|first: char| !first.is_ascii_digit());
    let is_name = starts_well && name.bytes().all(is_word);
    Some(name.to_owned())
        .filter(|_| is_name)
        .ok_or("is not the name of a variable; the token is its value")
}

pub(super) fn scope(text: &str) -> Result<String, &'static str> {
    protocol::scope(text).ok_or("not a list of scopes")
}

/// The time between two requests, of a number of requests a second.
pub(super) fn rate(text: &str) -> Result<Duration, &'static str> {
    const NO_RATE: &str = "not a number of refreshes a second";
    let rate: f64 = text.parse().map_err(|_| NO_RATE)?;
    if rate == 0.0 {
        return Ok(Duration::ZERO);
    }
    // One a day: less is a mistake.
    if !(1.0 / 86_400.0..=1e6).contains(&rate) {
        return Err(NO_RATE);
    }
    Ok(Duration::from_secs_f64(1.0 / rate))
}

pub(super) fn retries(text: &str) -> Result<u32, &'static str> {
    let number = text.parse().ok().filter(|number| *number <= 1000);
    number.ok_or("not a whole number from 0 to 1000")
}

/// The units of a time span, in seconds.
const UNITS: [(char, f64); 4] = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0)];

/// A time span in the largest unit that it is a whole number of.
pub(super) fn as_typed(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let units = UNITS.iter().rev();
    let mut whole = units.map(|(unit, length)| (seconds / length, unit));
    whole.find(|(number, _)| number.fract() == 0.0).map_or_else(
        || seconds.to_string(),
        |(number, unit)| format!("{number}{unit}"),
    )
}

/// A longer time span is a mistake.
const YEAR: f64 = 365.0 * 86_400.0;

/// A time span: a number and its unit. Without a unit, seconds.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const NO_DURATION: &str = "not a duration like 90, 90s, 10m, 1h or 2d";
    let with_unit = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(*unit)?;
        Some((number, *seconds))
    });
    let (number, unit) = with_unit.unwrap_or((text, 1.0));
    let number: f64 = number.parse().map_err(|_| NO_DURATION)?;
    let seconds = number * unit;
    if !(0.0..=YEAR).contains(&seconds) {
        return Err(NO_DURATION);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| NO_DURATION)
}

pub(super) fn timeout(text: &str) -> Result<Duration, &'static str> {
    let time = duration(text)?;
    if time.is_zero() {
        Err("must be more than 0 seconds")
    } else {
        Ok(time)
    }
}
