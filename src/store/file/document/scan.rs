//! Decides what each line of an INI file is, by the rules of Python's `configparser` with its
//! defaults, and refuses what readers could disagree about.
//!
//! The result is a [`Layout`]: where each section, pair and value is, in bytes of the text. No message quotes the file:
//! a stray line may be a token.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    line: usize,
    what: String,
}

impl Problem {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        Problem {
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Where the scanner found everything.
#[derive(Clone, Default)]
pub(super) struct Layout {
    pub(super) sections: Vec<Section>,
    pub(super) pairs: Vec<KeyValue>,
    pub(super) continuations: Vec<Continuation>,
    pub(super) section_index: HashMap<String, usize>,
}

impl Layout {
    /// The pairs of one section.
    pub(super) fn pairs_of(&self, section: usize) -> &[KeyValue] {
        let start = self.pairs.partition_point(|pair| pair.section < section);
        let end = self.pairs.partition_point(|pair| pair.section <= section);
        &self.pairs[start..end]
    }
}

#[derive(Clone)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    /// Where the header's line ends, before its line end.
    pub(super) end: usize,
}

#[derive(Clone)]
pub(super) struct KeyValue {
    pub(super) section: usize,
    /// In lower case, as `configparser` compares keys.
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) indent: Range<usize>,
    /// The `=` or `:` with the white space around it.
    pub(super) separator: Range<usize>,
    pub(super) value: Range<usize>,
    /// The lines that continue the value, including blank ones between them.
    pub(super) more: Vec<Range<usize>>,
    /// Where the pair's last line ends, before its line end.
    pub(super) end: usize,
}

/// A line that continues a value. A person may have meant it as a separate pair or section.
#[derive(Clone)]
pub(super) struct Continuation {
    pub(super) section: usize,
    pub(super) line: usize,
    pub(super) text: Range<usize>,
}

/// One line of a text.
pub(super) struct Line {
    pub(super) number: usize,
    /// The line without its line end.
    pub(super) text: Range<usize>,
}

/// The lines of a text, ended by LF or CRLF; without a byte order mark.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line> {
    let mut start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    text[start..]
        .split_inclusive('\n')
        .enumerate()
        .map(move |(index, line)| {
            let bare = line.strip_suffix('\n').unwrap_or(line);
            let bare = bare
                .strip_suffix('\r')
                .filter(|_| bare.len() < line.len())
                .unwrap_or(bare);
            let range = start..start + bare.len();
            start += line.len();
            Line {
                number: index + 1,
                text: range,
            }
        })
}

/// White space as Python's `str.strip` and `\s` see it: Unicode's, plus four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The key of a line, if the line has the form of a pair; in lower case.
pub(super) fn key_of(line: &str) -> Option<String> {
    let (key, _) = line.split_once(['=', ':'])?;
    Some(key.trim_matches(is_space).to_lowercase())
}

/// Each line costs memory many times its length: this bounds it, far beyond any real use.
const MOST_LINES: usize = 200_000;

/// Scanning stops after this many problems.
const MOST_PROBLEMS: usize = 20;

/// Lays out a text, or lists what is wrong with it, in line order.
pub(super) fn scan(text: &str) -> Result<Layout, Vec<Problem>> {
    let mut scanner = Scanner::new(text);
    for line in lines(text) {
        if line.number > MOST_LINES {
            scanner.refuse(&line, "is too many for a configuration file");
        } else {
            scanner.line(&line);
        }
        if scanner.problems.len() == MOST_PROBLEMS {
            break;
        }
    }
    if scanner.problems.is_empty() {
        Ok(scanner.layout)
    } else {
        Err(scanner.problems)
    }
}

/// Decides what each line is, remembering what it may continue.
struct Scanner<'a> {
    text: &'a str,
    layout: Layout,
    problems: Vec<Problem>,
    /// The keys of the section so far, and their lines.
    keys: HashMap<String, usize>,
    /// The pair that a deeper line would continue.
    open_pair: Option<usize>,
    /// Blank lines since the open pair's last line; part of the value if it continues.
    blank: Vec<Range<usize>>,
    /// Characters of white space before the last section or pair.
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Scanner {
            text,
            layout: Layout::default(),
            problems: Vec::new(),
            keys: HashMap::new(),
            open_pair: None,
            blank: Vec::new(),
            depth: 0,
        }
    }

    fn refuse(&mut self, line: &Line, what: impl Into<String>) {
        self.problems.push(Problem::new(line.number, what));
    }

    fn line(&mut self, line: &Line) {
        let text = &self.text[line.text.clone()];
        if text.contains('\0') {
            return self.refuse(line, "holds a NUL");
        }
        if text.contains('\r') {
            return self.refuse(line, "holds a carriage return that does not end the line");
        }
        let bare = text.trim_matches(is_space);
        let lead = text.len() - text.trim_start_matches(is_space).len();
        let start = line.text.start + lead;
        let bare_range = start..start + bare.len();
        if bare.is_empty() {
            return self.blank.push(start..start);
        }
        if bare.starts_with(['#', ';']) {
            return;
        }
        let depth = text[..lead].chars().count();
        match self.open_pair {
            Some(pair) if depth > self.depth => self.continuation(line, pair, bare_range),
            _ => {
                self.depth = depth;
                self.blank.clear();
                if bare.starts_with('[') {
                    self.section(line, bare);
                } else {
                    self.pair(line, bare_range);
                }
            }
        }
    }

    fn continuation(&mut self, line: &Line, pair: usize, text: Range<usize>) {
        let pair = &mut self.layout.pairs[pair];
        pair.more.append(&mut self.blank);
        pair.more.push(text.clone());
        pair.end = line.text.end;
        let section = pair.section;
        self.layout.continuations.push(Continuation {
            section,
            line: line.number,
            text,
        });
    }

    fn section(&mut self, line: &Line, bare: &str) {
        self.open_pair = None;
        self.keys.clear();
        let Some((name, rest)) = bare[1..].split_once(']') else {
            return self.refuse(line, "begins like a section but has no ]");
        };
        if !rest.is_empty() {
            return self.refuse(line, "has text after the ] of the section");
        }
        if name.is_empty() || name.trim_matches(is_space) != name {
            return self.refuse(
                line,
                "has an empty section name, or one with space at its ends",
            );
        }
        let index = self.layout.sections.len();
        if let Some(&first) = self.layout.section_index.get(name) {
            let first = self.layout.sections[first].line;
            self.refuse(line, format!("repeats the section of line {first}"));
        }
        self.layout.section_index.insert(name.to_owned(), index);
        let section = Section {
            name: name.to_owned(),
            line: line.number,
            end: line.text.end,
        };
        self.layout.sections.push(section);
    }

    fn pair(&mut self, line: &Line, bare: Range<usize>) {
        self.open_pair = None;
        let Some(section) = self.layout.sections.len().checked_sub(1) else {
            return self.refuse(line, "is before the first [section]");
        };
        let text = &self.text[bare.clone()];
        let Some(sign) = text.find(['=', ':']) else {
            return self.refuse(line, "is neither section, pair, comment nor continuation");
        };
        let key = text[..sign].trim_end_matches(is_space);
        if key.is_empty() {
            return self.refuse(line, "has a value but no key");
        }
        let value = text[sign + 1..].trim_start_matches(is_space);
        let separator = bare.start + key.len()..bare.end - value.len();
        let value = bare.end - value.len()..bare.end;
        let key = key.to_lowercase();
        let index = self.layout.pairs.len();
        if let Some(first) = self.keys.insert(key.clone(), line.number) {
            self.refuse(line, format!("repeats the key of line {first}"));
        }
        self.open_pair = Some(index);
        // White space after an empty value is inside the line but outside the trimmed text.
        let tail = self.text[bare.end..line.text.end].len();
        let gap = if value.is_empty() { tail } else { 0 };
        self.layout.pairs.push(KeyValue {
            section,
            key,
            line: line.number,
            indent: line.text.start..bare.start,
            separator: separator.start..separator.end + gap,
            value: value.start + gap..value.end + gap,
            more: Vec::new(),
            end: line.text.end,
        });
    }
}
