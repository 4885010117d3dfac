//! The INI file as text: find a value, splice in another, keep every other byte.
//!
//! Promises:
//! - The rules of Python's `configparser` decide what a line is ([`scan`]). What readers
//!   could disagree about is refused, with line numbers, never guessed.
//! - rust-ini, as a cross-check, must read the same values, from a clean copy that the scanner
//!   makes: on its own it merges indented lines and joins lines at a trailing backslash. The scanner's
//!   spans say where a value is, and which bytes an edit touches.
//! - An edit ([`Document::with`]) is read back before it is accepted: it must give exactly the old
//!   content with the new values.

mod remark;
mod scan;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use ini::{Ini, ParseOption};

pub(crate) use scan::Problem;
use scan::{KeyValue, Layout, is_space, key_of, lines};

/// The section whose pairs `configparser` applies to every other section.
pub(super) const DEFAULT_SECTION: &str = crate::profile::NO_PROFILE;

/// Ends each value of the clean copy and joins the lines of a longer one. No file that passes the scanner contains NUL,
/// and rust-ini gives NUL no meaning.
const MARK: char = '\0';

/// All values of a text, by section and key.
type Content<'a> = BTreeMap<(&'a str, &'a str), Cow<'a, str>>;

/// Whether bytes are a text in UTF-16: by its mark, or by two characters of ASCII at the beginning, as
/// every file of this format has.
pub(super) fn is_utf16(bytes: &[u8]) -> bool {
    match *bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, b, c, d, ..] => (a == 0) != (b == 0) && (a == 0) == (c == 0) && (b == 0) == (d == 0),
        _ => false,
    }
}

/// New values for the keys of one section.
pub(crate) struct Edit<'a> {
    pub(crate) section: &'a str,
    pub(crate) values: Vec<(&'a str, String)>,
}

/// A file's text, parsed.
#[derive(Clone)]
pub(crate) struct Document {
    text: String,
    layout: Layout,
}

impl Document {
    /// Parses a file, or lists what is wrong with it, in line order.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Vec<Problem>> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()]
                .split(|byte| *byte == b'\n')
                .count();
            vec![Problem::new(line, "is not UTF-8 text")]
        })?;
        Document::of(text.to_owned())
    }

    fn of(text: String) -> Result<Self, Vec<Problem>> {
        let layout = scan::scan(&text)?;
        let document = Document { text, layout };
        if document.is_read_alike() {
            Ok(document)
        } else {
            Err(vec![Problem::new(1, "cannot be parsed as a whole")])
        }
    }

    /// The file's text, byte for byte.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The names of all sections, in file order.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.layout
            .sections
            .iter()
            .map(|section| section.name.as_str())
    }

    /// Whether there is a section of that name.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        self.layout.section_index.contains_key(name)
    }

    /// A value as `configparser` would give it, `%%` read as `%`; none if section or key is missing.
    /// An error if the key is ambiguous.
    pub(crate) fn value(&self, section: &str, key: &str) -> Result<Option<String>, Problem> {
        self.refuse_ambiguity(section, key)?;
        let Some(pair) = self.pair(section, key) else {
            return Ok(None);
        };
        match percent_decoded(&self.text[pair.value.clone()]) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::new(
                pair.line,
                "a percent sign in this value must be written %%",
            )),
        }
    }

    /// The document with these values, each edit in its own section, and everything else unchanged. Missing keys and
    /// sections are added: each key after the one before it in its edit.
    pub(crate) fn with(&self, edits: &[&Edit<'_>]) -> Result<Self, Problem> {
        let mut splices = Vec::new();
        let mut new_sections = Vec::new();
        for &edit in edits {
            for (key, _) in &edit.values {
                self.refuse_ambiguity(edit.section, key)?;
            }
            match self.layout.section_index.get(edit.section) {
                Some(&index) => splices.append(&mut self.splices_in(index, &edit.values)),
                None => new_sections.push(edit),
            }
        }
        if !new_sections.is_empty() {
            splices.push(self.appended(&new_sections));
        }
        let edited = Document::of(splice(&self.text, splices)).ok();
        let edited = edited.filter(|edited| edited.content() == self.content_with(edits));
        let first = edits.first().map(|edit| edit.section);
        let line = first.and_then(|section| self.layout.section_index.get(section));
        let line = line.map_or(1, |&index| self.layout.sections[index].line);
        edited.ok_or_else(|| {
            Problem::new(
                line,
                "this section cannot be edited without changing more than intended",
            )
        })
    }

    /// All that the file says.
    fn content(&self) -> Content<'_> {
        let mut content = Content::new();
        for section in &self.layout.sections {
            content.insert((section.name.as_str(), ""), Cow::default());
        }
        for pair in &self.layout.pairs {
            let section = &self.layout.sections[pair.section];
            content.insert((&section.name, &pair.key), self.raw(pair));
        }
        content
    }

    /// A pair's raw value, the lines of a longer one joined by [`MARK`]s.
    fn raw(&self, pair: &KeyValue) -> Cow<'_, str> {
        let mut raw = Cow::from(&self.text[pair.value.clone()]);
        for line in &pair.more {
            raw.to_mut().push(MARK);
            raw.to_mut().push_str(&self.text[line.clone()]);
        }
        raw
    }

    /// What [`Self::content`] should be after these changes.
    fn content_with<'a>(&'a self, edits: &'a [&Edit<'_>]) -> Content<'a> {
        let mut content = self.content();
        for Edit { section, values } in edits {
            content.insert((section, ""), Cow::default());
            for (key, value) in values {
                content.insert((section, key), percent_encoded(value));
            }
        }
        content
    }

    /// Whether rust-ini reads the same values from a copy in which every pair is on its own line, unindented and closed
    /// by [`MARK`], so that it can only see what the scanner saw.
    fn is_read_alike(&self) -> bool {
        let mut copy = String::with_capacity(self.text.len() + 4 * self.layout.pairs.len());
        let mut pairs = self.layout.pairs.iter().peekable();
        for (index, section) in self.layout.sections.iter().enumerate() {
            copy.push_str(&format!("[{} ]\n", section.name));
            while let Some(pair) = pairs.next_if(|pair| pair.section == index) {
                copy.push_str(&format!("{} ={}{MARK}\n", pair.key, self.raw(pair)));
            }
        }
        let options = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            ..ParseOption::default()
        };
        let Ok(read) = Ini::load_from_str_opt(&copy, options) else {
            return false;
        };
        let is_read = |pair: &KeyValue| {
            let section = &self.layout.sections[pair.section];
            let read = read.get_from(Some(section.name.as_str()), &pair.key);
            read.and_then(|read| read.strip_suffix(MARK)) == Some(&*self.raw(pair))
        };
        let count: usize = read.iter().map(|(_, pairs)| pairs.len()).sum();
        count == self.layout.pairs.len() && self.layout.pairs.iter().all(is_read)
    }

    fn pair(&self, section: &str, key: &str) -> Option<&KeyValue> {
        let section = self.layout.section_index.get(section)?;
        self.pair_in(*section, key)
    }

    fn pair_in(&self, section: usize, key: &str) -> Option<&KeyValue> {
        let pairs = self.layout.pairs_of(section);
        pairs.iter().find(|pair| pair.key == key)
    }

    /// Refuses a key that Python's reader and others would take differently.
    fn refuse_ambiguity(&self, section: &str, key: &str) -> Result<(), Problem> {
        if let Some(pair) = self.pair(DEFAULT_SECTION, key) {
            return Err(Problem::new(
                pair.line,
                "this key in [DEFAULT] would apply to every profile; move it to its section",
            ));
        }
        if let Some(pair) = self.pair(section, key).filter(|pair| !pair.more.is_empty()) {
            return Err(Problem::new(
                pair.line,
                "this value continues in an indented line; it must be on one line",
            ));
        }
        let wanted = self.layout.section_index.get(section);
        let mistaken = self.layout.continuations.iter().find(|continuation| {
            let text = &self.text[continuation.text.clone()];
            match wanted {
                Some(index) => *index == continuation.section && key_of(text) == Some(key.into()),
                None => text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) == Some(section),
            }
        });
        match mistaken {
            Some(continuation) => Err(Problem::new(
                continuation.line,
                "is indented deeper than the pair above, so that it continues that pair's value",
            )),
            None => Ok(()),
        }
    }

    fn splices_in(&self, section: usize, changes: &[(&str, String)]) -> Vec<Splice> {
        let mut replaced = Vec::new();
        let mut added = Vec::new();
        for (index, (key, value)) in changes.iter().enumerate() {
            let value = percent_encoded(value).into_owned();
            if let Some(pair) = self.pair_in(section, key) {
                replaced.push(self.replacement(pair, value));
                continue;
            }
            let point = self.insertion_point(section, changes, index);
            let line_end = self.line_end();
            let text = format!("{line_end}{}{key}{}{value}", point.indent, point.separator);
            added.push(Splice {
                at: point.at..point.at,
                text,
            });
        }
        // Where both meet at one position, the value comes before the following line.
        replaced.append(&mut added);
        replaced
    }

    fn replacement(&self, pair: &KeyValue, mut value: String) -> Splice {
        let separator = &self.text[pair.separator.clone()];
        let spaced = separator.starts_with(is_space) && !separator.ends_with(is_space);
        if pair.value.is_empty() && spaced && !value.is_empty() {
            value.insert(0, ' ');
        }
        Splice {
            at: pair.value.clone(),
            text: value,
        }
    }

    /// Where a person would put the missing key `changes[index]`: after the nearest key before it in `changes`, else
    /// before the nearest after it, else after the section's last pair.
    fn insertion_point(
        &self,
        section: usize,
        changes: &[(&str, String)],
        index: usize,
    ) -> InsertionPoint<'_> {
        let find = |(key, _): &(&str, String)| self.pair_in(section, key);
        let mut pairs = self.layout.pairs_of(section).iter();
        let before = changes[..index].iter().rev().find_map(find);
        let after = changes[index + 1..].iter().find_map(find);
        let above = match (before, after) {
            (Some(before), _) => Some(before),
            (None, Some(after)) => pairs.rfind(|pair| pair.line < after.line),
            (None, None) => pairs.next_back(),
        };
        let model = above.or(after);
        InsertionPoint {
            at: above.map_or(self.layout.sections[section].end, |pair| pair.end),
            indent: model.map_or("", |pair| &self.text[pair.indent.clone()]),
            separator: model.map_or(" = ".to_owned(), |pair| self.separator_like(pair)),
        }
    }

    /// A separator in a neighbour's style, without column padding.
    fn separator_like(&self, pair: &KeyValue) -> String {
        let separator = &self.text[pair.separator.clone()];
        let sign = separator.trim_matches(is_space);
        let before = if separator.starts_with(is_space) {
            " "
        } else {
            ""
        };
        let bare = pair.value.is_empty() && !before.is_empty();
        let after = if separator.ends_with(is_space) || bare {
            " "
        } else {
            ""
        };
        format!("{before}{sign}{after}")
    }

    fn appended(&self, new_sections: &[&Edit<'_>]) -> Splice {
        let line_end = self.line_end();
        let body = self.text.trim_start_matches('\u{feff}');
        let last_line = lines(body).last().map_or("", |line| &body[line.text]);
        let ended = body.is_empty() || body.ends_with('\n');
        let mut text = String::new();
        if !ended {
            text.push_str(line_end);
        }
        if !body.is_empty() && !last_line.trim_matches(is_space).is_empty() {
            text.push_str(line_end);
        }
        for (index, edit) in new_sections.iter().enumerate() {
            if index > 0 {
                text.push_str(line_end);
            }
            text.push_str(&format!("[{}]{line_end}", edit.section));
            for (key, value) in &edit.values {
                text.push_str(&format!("{key} = {}{line_end}", percent_encoded(value)));
            }
        }
        Splice {
            at: self.text.len()..self.text.len(),
            text,
        }
    }

    /// The file's line ending.
    fn line_end(&self) -> &'static str {
        match self.text.find('\n') {
            Some(at) if self.text[..at].ends_with('\r') => "\r\n",
            _ => "\n",
        }
    }
}

/// Where and how a missing key is added.
struct InsertionPoint<'a> {
    at: usize,
    indent: &'a str,
    separator: String,
}

/// A range of a text and its replacement.
struct Splice {
    at: Range<usize>,
    text: String,
}

fn splice(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|splice| splice.at.start);
    let mut result = String::with_capacity(text.len() + 1024);
    let mut done = 0;
    for splice in splices {
        result.push_str(&text[done..splice.at.start]);
        result.push_str(&splice.text);
        done = splice.at.end;
    }
    result.push_str(&text[done..]);
    result
}

/// Undoes `configparser`'s interpolation where it only escapes; none if it would do more.
fn percent_decoded(raw: &str) -> Option<String> {
    // As most values: to look for one byte is quick.
    if !raw.contains('%') {
        return Some(raw.to_owned());
    }
    let parts: Vec<&str> = raw.split("%%").collect();
    let plain = parts.iter().all(|part| !part.contains('%'));
    plain.then(|| parts.join("%"))
}

fn percent_encoded(value: &str) -> Cow<'_, str> {
    if value.contains('%') {
        value.replace('%', "%%").into()
    } else {
        value.into()
    }
}

#[cfg(test)]
mod tests;
