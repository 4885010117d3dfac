//! Reads replies so that one bad field does not spoil the others: a refresh token matters more than the reply's form
//! (P5).

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

/// The fields of an object, each still unparsed. Of duplicate names, the last counts.
pub(super) type Fields<'a> = HashMap<Cow<'a, str>, &'a RawValue>;

/// A body as text, whatever its bytes, without a byte order mark.
pub(super) fn text(body: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(body) {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_start_matches('\u{feff}')),
        Cow::Owned(text) => Cow::Owned(text.trim_start_matches('\u{feff}').to_owned()),
    }
}

/// The fields of the object that a text begins with; none if it begins with something else.
pub(super) fn fields(text: &str) -> Option<Fields<'_>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Fields<'_>>();
    values.next()?.ok()
}

/// An integer, or a text that holds one; `7140.0` counts, too.
pub(super) fn integer(value: &RawValue) -> Option<i64> {
    let text = string(value);
    let text = text.as_deref().unwrap_or_else(|| value.get()).trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_whole = !fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0');
    whole.parse().ok().filter(|_| is_whole)
}

/// The integer of that name.
pub(super) fn integer_in(fields: &Fields<'_>, name: &str) -> Option<i64> {
    integer(fields.get(name)?)
}

/// Whether there is a non-empty field of that name.
pub(super) fn is_there(fields: &Fields<'_>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| value.get() != "null")
}

/// The first of these fields that is a non-empty text; empty if none is.
pub(super) fn words(fields: &Fields<'_>, names: &[&str]) -> String {
    let texts = names.iter().filter_map(|name| string(fields.get(*name)?));
    let mut texts = texts.filter(|text| !text.is_empty());
    texts.next().unwrap_or_default()
}

/// A string.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The string of that name.
pub(super) fn string_in(fields: &Fields<'_>, name: &str) -> Option<String> {
    string(fields.get(name)?)
}

/// Whether a text has a name like refresh token, in any spelling: `refreshToken`.
pub(super) fn names_refresh_token(text: &str) -> bool {
    let plain = text.to_ascii_lowercase().replace(['_', '-'], "");
    plain.split("refreshtoken\"").skip(1).any(|rest| {
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
        value.is_some_and(|value| !value.starts_with("null") && !value.starts_with("\"\""))
    })
}

/// The tokens of a success reply that was cut off or garbled, as far as they are complete.
/// Nothing if there is a code other than 0.
pub(super) fn salvage(text: &str) -> Fields<'_> {
    let find = |name: &'static str| {
        let quoted = format!("\"{name}\"");
        // It may occur as a value before it occurs as a name.
        text.match_indices(&quoted).find_map(|(at, _)| {
            let rest = text[at + quoted.len()..].trim_start();
            Some((Cow::Borrowed(name), flat_value(rest.strip_prefix(':')?)?))
        })
    };
    let is_refusal = |name| find(name).is_some_and(|(_, code)| integer(code) != Some(0));
    if is_refusal("code") || is_refusal("errno") {
        return Fields::new();
    }
    let names = [
        "access_token",
        "expires_in",
        "refresh_token",
        "refresh_expires_in",
        "refresh_token_expires_in",
        "scope",
    ];
    names.into_iter().filter_map(find).collect()
}

/// The value that a text begins with, if complete. Nested values do not count: everything looked for is flat, and a
/// hostile text could make this read them over and over.
fn flat_value(text: &str) -> Option<&RawValue> {
    if text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let value = values.next()?.ok()?;
    // A number at the very end may be incomplete.
    let ended = value.get().ends_with('"') || values.byte_offset() < text.len();
    ended.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is salvaged, as `name=value` in order of the names.
    fn salvaged(text: &str) -> Vec<String> {
        let mut found: Vec<String> = salvage(text)
            .iter()
            .map(|(name, value)| format!("{name}={}", value.get()))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn what_stands_whole_in_a_torn_reply_is_salvaged() {
        let whole = [
            r#"access_token="a""#,
            "expires_in=7140",
            r#"refresh_token="r""#,
        ];
        for torn in [
            r#"{"code":0,"data":{"access_token":"a","expires_in":7140,"refresh_token":"r""#,
            r#"{"code":"0","data":{"refresh_token" : "r","access_token":"a","expires_in":7140,"#,
            r#"{"errno":0,"expires_in":7140 "access_token":"a" "refresh_token":"r","scope":"a b"#,
            r#"{"x":"refresh_token","y":["refresh_token"],"refresh_token":"r","expires_in":7140}"access_token":"a""#,
        ] {
            assert_eq!(salvaged(torn), whole, "{torn}");
        }
    }

    #[test]
    fn what_may_go_on_or_is_nested_is_not_salvaged() {
        for torn in [
            r#"{"expires_in":71"#,
            r#"{"refresh_token":"r"#,
            r#"{"refresh_token":"#,
            r#"{"refresh_token":{"x":1}}"#,
            r#"{"refresh_token": ["r"]}"#,
            r#"{"refresh_token"="r""#,
            r#"{"x":"refresh_token""#,
        ] {
            assert!(salvaged(torn).is_empty(), "{torn}");
        }
    }

    #[test]
    fn nothing_is_salvaged_beside_a_code_that_says_no() {
        for head in [
            r#""code":20026,"#,
            r#""errno":1,"#,
            r#""code":"x","#,
            r#""code":0,"errno":1,"#,
            r#""code":1,"errno":0,"#,
        ] {
            let torn = format!(r#"{{{head}"refresh_token":"r""#);
            assert!(salvaged(&torn).is_empty(), "{torn}");
        }
    }
}
