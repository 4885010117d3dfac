//! Exact edits, refusals by line, and properties over random files: only the intended values change, and Python's own
//! reader agrees with ours.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::*;

fn parse(text: &str) -> Document {
    Document::parse(text.as_bytes())
        .map_err(|problems| problems[0].to_string())
        .unwrap()
}

fn edit<'a>(changes: &[(&'a str, &str)]) -> Edit<'a> {
    edit_of("TOKEN", changes)
}

fn edit_of<'a>(section: &'a str, changes: &[(&'a str, &str)]) -> Edit<'a> {
    let values = changes
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()));
    Edit {
        section,
        values: values.collect(),
    }
}

#[test]
fn edits_of_many_sections_are_made_at_once() {
    let text = "[A]\na = 1\n[B]\r\nb=2\r\nc: 3\n; end";
    let edits = [
        edit_of("B", &[("b", "9"), ("d", "4")]),
        edit_of("A", &[("x", "%"), ("a", "8")]),
        edit_of("C", &[("c", "7")]),
        edit_of("D", &[]),
    ];
    let at_once = parse(text).with(&edits.each_ref()).ok().unwrap();
    let expected = "[A]\nx = %%\na = 8\n[B]\r\nb=9\nd=4\r\nc: 3\n; end\n\n[C]\nc = 7\n\n[D]\n";
    assert_eq!(at_once.text(), expected);
    let one_by_one = edits.into_iter().fold(parse(text), |document, edit| {
        document.with(&[&edit]).ok().unwrap()
    });
    assert_eq!(at_once.text(), one_by_one.text());
    // One impossible edit fails all.
    let broken = [edit_of("A", &[("a", "8")]), edit_of("B", &[("b", "9\n")])];
    assert!(parse(text).with(&broken.each_ref()).is_err());
}

fn edited(text: &str, changes: &[(&str, &str)]) -> String {
    parse(text)
        .with(&[&edit(changes)])
        .map_err(|problem| problem.to_string())
        .unwrap()
        .text()
        .into()
}

type Changes = &'static [(&'static str, &'static str)];

/// What was before, the changes to `[TOKEN]`, what must come out.
const EDITS: &[(&str, Changes, &str)] = &[
    // A value changes, nothing else does.
    (
        "[TOKEN]\na = 1\nb = 2\n",
        &[("a", "9")],
        "[TOKEN]\na = 9\nb = 2\n",
    ),
    (
        "[TOKEN]\r\nA:1\r\n; c\r\n",
        &[("a", "9")],
        "[TOKEN]\r\nA:9\r\n; c\r\n",
    ),
    (
        "\u{feff}[TOKEN]\n a =\t1 \t\n",
        &[("a", "9")],
        "\u{feff}[TOKEN]\n a =\t9 \t\n",
    ),
    ("[TOKEN]\na = 1", &[("a", "9")], "[TOKEN]\na = 9"),
    // Text that only looks like a comment is part of the value.
    (
        "[TOKEN]\na = 1 ; x # y\n",
        &[("a", "9")],
        "[TOKEN]\na = 9\n",
    ),
    // Other separators, quotes and backslashes inside a value are nothing special.
    (
        "[TOKEN]\na = b: \"c\" = 'd'\\\n",
        &[("a", "\"e\"\\")],
        "[TOKEN]\na = \"e\"\\\n",
    ),
    // A percent sign is doubled for configparser.
    ("[TOKEN]\na = 1\n", &[("a", "5%")], "[TOKEN]\na = 5%%\n"),
    // Empty values fill and empty again.
    ("[TOKEN]\na =\n", &[("a", "9")], "[TOKEN]\na = 9\n"),
    ("[TOKEN]\na=\n", &[("a", "9")], "[TOKEN]\na=9\n"),
    ("[TOKEN]\na = \n", &[("a", "9")], "[TOKEN]\na = 9\n"),
    ("[TOKEN]\na = 1\n", &[("a", "")], "[TOKEN]\na = \n"),
    // A missing key goes after the one before it in the list, in its neighbour's style.
    (
        "[TOKEN]\na: 1\nz: 2\n\n[X]\n",
        &[("a", "1"), ("b", "2")],
        "[TOKEN]\na: 1\nb: 2\nz: 2\n\n[X]\n",
    ),
    (
        "[TOKEN]\n  a=1\n# z\n",
        &[("a", "1"), ("b", "2")],
        "[TOKEN]\n  a=1\n  b=2\n# z\n",
    ),
    (
        "[TOKEN]\na =",
        &[("a", ""), ("b", "2")],
        "[TOKEN]\na =\nb = 2",
    ),
    (
        "[TOKEN]\na    =    1\n",
        &[("a", "1"), ("b", "2")],
        "[TOKEN]\na    =    1\nb = 2\n",
    ),
    (
        "[TOKEN]\na=\n",
        &[("a", ""), ("b", "2")],
        "[TOKEN]\na=\nb=2\n",
    ),
    (
        "[TOKEN]\na =1\n",
        &[("a", "1"), ("b", "2")],
        "[TOKEN]\na =1\nb =2\n",
    ),
    // Else before the one after it, else at the section's end, else under its header.
    (
        "[TOKEN]\ny = 0\n# of b\nb = 2\n",
        &[("a", "1"), ("b", "3")],
        "[TOKEN]\ny = 0\na = 1\n# of b\nb = 3\n",
    ),
    (
        "[TOKEN]\n# of b\nb = 2\n",
        &[("a", "1"), ("b", "3")],
        "[TOKEN]\na = 1\n# of b\nb = 3\n",
    ),
    (
        "[TOKEN]\nx = 1\n  more\n\n[Y]\n",
        &[("a", "1")],
        "[TOKEN]\nx = 1\n  more\na = 1\n\n[Y]\n",
    ),
    (
        "[TOKEN]\n\n[Y]\n",
        &[("a", "1"), ("b", "2")],
        "[TOKEN]\na = 1\nb = 2\n\n[Y]\n",
    ),
    ("[TOKEN]", &[("a", "1")], "[TOKEN]\na = 1"),
    // A missing section goes to the end, after a blank line.
    ("", &[("a", "1")], "[TOKEN]\na = 1\n"),
    ("\u{feff}", &[("a", "1")], "\u{feff}[TOKEN]\na = 1\n"),
    (
        "[X]\r\nx = 1\r\n",
        &[("a", "1")],
        "[X]\r\nx = 1\r\n\r\n[TOKEN]\r\na = 1\r\n",
    ),
    (
        "[X]\nx = 1",
        &[("a", "1")],
        "[X]\nx = 1\n\n[TOKEN]\na = 1\n",
    ),
    ("[X]\n\n", &[("a", "1")], "[X]\n\n[TOKEN]\na = 1\n"),
    (
        "[token]\na = 1\n",
        &[("a", "2")],
        "[token]\na = 1\n\n[TOKEN]\na = 2\n",
    ),
];

#[test]
fn an_edit_changes_what_it_must_and_nothing_else() {
    for (before, changes, after) in EDITS {
        assert_eq!(
            edited(before, changes),
            *after,
            "{before:?} with {changes:?}"
        );
    }
}

/// A file, the line that is wrong with it, a word of the reason.
const REFUSED: &[(&str, usize, &str)] = &[
    ("a = 1\n[TOKEN]\n", 1, "before the first"),
    ("[TOKEN]\na = 1\nA = 2\n", 3, "repeats the key of line 2"),
    (
        "[TOKEN]\n[X]\n[TOKEN]\n",
        3,
        "repeats the section of line 1",
    ),
    ("[DEFAULT]\n[DEFAULT]\n", 2, "repeats the section of line 1"),
    ("[TOKEN]\njust words\n", 2, "neither"),
    ("[TOKEN] x\n", 1, "after the ]"),
    ("[TOKEN] ; comment\n", 1, "after the ]"),
    ("[TOKEN\n", 1, "no ]"),
    ("[]\n", 1, "empty section name"),
    ("[ TOKEN ]\n", 1, "space at its ends"),
    ("[TOKEN]\n= 1\n", 2, "no key"),
    ("[TOKEN]\na = \0\n", 2, "NUL"),
    ("[TOKEN]\na = 1\rb = 2\n", 2, "carriage return"),
    ("[TOKEN]\na = 1\r", 2, "carriage return"),
];

#[test]
fn what_readers_could_disagree_about_is_refused_by_line() {
    for (text, line, reason) in REFUSED {
        let problems = Document::parse(text.as_bytes()).err().unwrap_or_default();
        let first = problems
            .first()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            first.starts_with(&format!("line {line}: ")),
            "{text:?}: {first}"
        );
        assert!(first.contains(reason), "{text:?}: {first}");
    }
    let problems = Document::parse(b"[TOKEN]\na = 1\n\xff\xfe\n")
        .err()
        .unwrap();
    assert_eq!(problems[0].to_string(), "line 3: is not UTF-8 text");
}

#[test]
fn the_first_line_too_many_is_refused() {
    let most = "\n".repeat(200_000);
    assert!(Document::parse(most.as_bytes()).is_ok());
    let problems = Document::parse((most + "\n").as_bytes()).err().unwrap();
    let first = problems[0].to_string();
    assert!(first.starts_with("line 200001: is too many"), "{first}");
}

/// A file that is valid as a whole but whose key `a` in `[TOKEN]` is not, and the line.
const AMBIGUOUS: &[(&str, usize)] = &[
    ("[DEFAULT]\na = 1\n[TOKEN]\nb = 2\n", 2),
    ("[TOKEN]\na = 1\n  2\n", 2),
    ("[TOKEN]\na = 1\n\n# c\n  2\n", 2),
    ("[TOKEN]\nb = 1\n  a = 2\n", 3),
    ("[X]\nb = 1\n  [TOKEN]\n", 3),
    ("[TOKEN]\na = 50%\n", 2),
    ("[TOKEN]\na = %(b)s\nb = 1\n", 2),
];

#[test]
fn an_ambiguous_key_is_refused_where_it_matters_and_only_there() {
    for (text, line) in AMBIGUOUS {
        let problem = parse(text).value("TOKEN", "a").expect_err(text).to_string();
        assert!(
            problem.starts_with(&format!("line {line}: ")),
            "{text:?}: {problem}"
        );
        if !text.contains('%') {
            let problem = parse(text)
                .with(&[&edit(&[("a", "9")])])
                .err()
                .unwrap()
                .to_string();
            assert!(
                problem.starts_with(&format!("line {line}: ")),
                "{text:?}: {problem}"
            );
        }
    }
    let sound = parse("[TOKEN]\na = 1\nb = 2\n  3\n");
    assert_eq!(sound.value("TOKEN", "a").unwrap(), Some("1".into()));
}

#[test]
fn no_message_repeats_the_file() {
    let files = [
        "[TOKEN]\nur-secret\n",
        "ur-secret = x\n",
        "[ur-secret\n",
        "[T]\nur-secret=\nur-secret=\n",
    ];
    for text in files {
        let problems = Document::parse(text.as_bytes()).err().unwrap();
        assert!(
            problems
                .iter()
                .all(|problem| !problem.to_string().contains("secret")),
            "{text:?}"
        );
    }
}

/// Lines that readers stumble over, to be shuffled into files.
fn any_line() -> impl Strategy<Value = String> {
    #[rustfmt::skip]
    let odd = prop::sample::select(vec![
        "[TOKEN]", "[ID]", "[LOGIN_CODE]", "[a b]", "[\\]", "[x", "[y] z", "[DEFAULT]", "",
        "   ", "\t", "# note", "  ; note", "; [TOKEN]", "a = 1", "A : 2", "b=", "c =   ", "d\\ = e\\",
        "  deeper = 1", "\tdeeper", "    [TOKEN]", "f = \"quoted\"", "g = 'it''s' ; not a comment",
        "h = 100%%", "i = %(a)s", "j = a = b : c", "ключ = значение", "k\u{a0}=\u{a0}v\u{1f}",
        "words", "= v", ": v", "l = \u{feff}x", "m: [n]", "refresh_token = ur-1", "ID = x",
    ]);
    let random = prop_oneof![
        4 => odd.prop_map(str::to_owned),
        1 => "[ \t]{0,3}[a-c\\\\%=:;#\\[\\]\" ]{0,8}",
        1 => "[a-z_]{1,8} ?[=:] ?[ -~]{0,20}",
    ];
    (random, any::<bool>()).prop_map(|(line, crlf)| line + if crlf { "\r\n" } else { "\n" })
}

fn any_file() -> impl Strategy<Value = String> {
    let heads = vec![
        "",
        "[TOKEN]\n",
        "\u{feff}[TOKEN]\r\n",
        "[ID]\nx = 1\n[TOKEN]\n",
    ];
    let lines = prop::collection::vec(any_line(), 0..12);
    (prop::sample::select(heads), lines, any::<bool>()).prop_map(|(head, lines, ended)| {
        let text = head.to_owned() + &lines.concat();
        if ended {
            text
        } else {
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    })
}

/// Values like tokens, and worse: anything that fits on a line.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9._-]{0,60}",
        "[!-~][ -~]{0,20}[!-~]",
        "[!-~](\\PC{0,10}[!-~])?"
    ]
}

/// All that a document says, lines of a value joined by LF as Python does.
fn content(document: &Document) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut content: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for ((section, key), value) in document.content() {
        let section = content.entry(section.to_owned()).or_default();
        if !key.is_empty() {
            let value = value.replace(MARK, "\n");
            section.insert(key.to_owned(), value);
        }
    }
    content
}

const KEYS: [&str; 3] = ["a", "new_key", "refresh_token"];

fn bare_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n')
        .map(|line| line.trim_end_matches(['\r', '\n']))
}

fn holds_one_of_keys(line: &str) -> bool {
    key_of(line.trim_start_matches('\u{feff}')).is_some_and(|key| KEYS.contains(&key.as_str()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(document) = Document::parse(&bytes) {
            prop_assert_eq!(document.text().as_bytes(), &bytes[..]);
        }
    }

    #[test]
    fn only_the_intended_values_change(
        text in any_file(),
        values in prop::array::uniform3(any_value()),
    ) {
        let Ok(document) = Document::parse(text.as_bytes()) else { return Ok(()) };
        let changes: Vec<_> = KEYS.iter().copied().zip(values.iter().map(String::as_str)).collect();
        let Ok(after) = document.with(&[&edit(&changes)]) else { return Ok(()) };

        let mut expected = content(&document);
        for (key, value) in &changes {
            prop_assert_eq!(after.value("TOKEN", key).unwrap().unwrap(), *value);
            let section = expected.entry("TOKEN".to_owned()).or_default();
            section.insert((*key).to_owned(), value.replace('%', "%%"));
        }
        prop_assert_eq!(content(&after), expected);

        // Every line without one of the keys is still there, byte for byte and in order.
        let mut kept = bare_lines(after.text());
        for line in bare_lines(&text).filter(|line| !holds_one_of_keys(line)) {
            prop_assert!(kept.any(|kept| kept == line), "{:?} is gone", line);
        }
        // The same edit again changes nothing.
        let again = after.with(&[&edit(&changes)]).map_err(|_| TestCaseError::fail("twice"))?;
        prop_assert_eq!(again.text(), after.text());
    }
}

/// Reads many files, one JSON object per line, the way the Python program does.
const PYTHON_READER: &str = r#"
import configparser, io, json, sys
def read(text, **options):
    parser = configparser.ConfigParser(**options)
    parser.read_file(io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8-sig"))
    return parser
for line in sys.stdin:
    file = json.loads(line)
    try:
        raw = read(file["text"], interpolation=None)
        sections = {name: dict(raw._sections[name]) for name in raw.sections()}
        if raw._defaults:
            sections["DEFAULT"] = dict(raw._defaults)
        values = [read(file["text"]).get("TOKEN", key) for key in file["keys"]]
        print(json.dumps({"sections": sections, "values": values}))
    except Exception as error:
        print(json.dumps({"error": repr(error)}))
"#;

fn python_reads(files: &[(String, &[&str])]) -> Option<Vec<Value>> {
    let python = Command::new("python3")
        .args(["-c", PYTHON_READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut python = python.ok()?;
    let mut stdin = python.stdin.take().unwrap();
    let lines: Vec<_> = files
        .iter()
        .map(|(text, keys)| json!({ "text": text, "keys": keys }).to_string() + "\n")
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.concat().as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    Some(
        answers
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

#[test]
fn python_sees_what_we_see_before_and_after_an_edit() {
    let mut runner = TestRunner::deterministic();
    let mut random = |from: BoxedStrategy<String>| from.new_tree(&mut runner).unwrap().current();
    let mut files: Vec<(String, &[&str])> = Vec::new();
    let mut ours = Vec::new();
    while ours.len() < 3000 {
        let text = random(any_file().boxed());
        let Ok(document) = Document::parse(text.as_bytes()) else {
            continue;
        };
        let values = [(); 3].map(|()| random(any_value().boxed()));
        let changes: Vec<_> = KEYS
            .iter()
            .copied()
            .zip(values.iter().map(String::as_str))
            .collect();
        files.push((text, &[]));
        ours.push((content(&document), Vec::new()));
        if let Ok(after) = document.with(&[&edit(&changes)]) {
            files.push((after.text().to_owned(), &KEYS));
            ours.push((content(&after), values.to_vec()));
        }
        if let Ok(after) = document.with_remark("TOKEN", "; m", "; m [x]\u{2028} a = %") {
            files.push((after.text().to_owned(), &[]));
            ours.push((content(&document), Vec::new()));
        }
    }
    let edits = ours.iter().filter(|(_, values)| !values.is_empty()).count();
    assert!(
        edits > 1000,
        "only {edits} files could be edited: the generator is broken"
    );
    let Some(theirs) = python_reads(&files) else {
        eprintln!("skipped: python3 is not installed");
        return;
    };
    assert_eq!(theirs.len(), ours.len());
    for ((file, answer), (content, values)) in files.iter().zip(&theirs).zip(&ours) {
        let expected = json!({ "sections": without_empty_default(content), "values": values });
        assert_eq!(*answer, expected, "{:?}", file.0);
    }
}

/// configparser does not tell an empty `[DEFAULT]` from none.
fn without_empty_default(content: &BTreeMap<String, BTreeMap<String, String>>) -> Value {
    let mut content = content.clone();
    if content.get(DEFAULT_SECTION).is_some_and(BTreeMap::is_empty) {
        content.remove(DEFAULT_SECTION);
    }
    json!(content)
}
