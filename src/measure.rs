//! What the benches measure, for which it is made public. Only with the feature `measure`.

use crate::config::document::{Document, Edit};

/// Understands a file; gives its number of sections, none if it is refused.
#[must_use]
pub fn parse(text: &str) -> Option<usize> {
    let document = Document::parse(text.as_bytes()).ok()?;
    Some(document.sections().count())
}

/// Understands a file and splices values into one section; gives the new text, none if it is refused.
#[must_use]
pub fn splice(text: &str, section: &str, values: &[(&str, &str)]) -> Option<String> {
    let document = Document::parse(text.as_bytes()).ok()?;
    let values = values
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()));
    let edit = Edit {
        section,
        values: values.collect(),
    };
    let edited = document.with(&[&edit]).ok()?;
    Some(edited.text().to_owned())
}
