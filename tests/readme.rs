//! What the README, CONTRIBUTING.md and docs/promises.md say of the tests and the code.

use std::fs;
use std::path::Path;

/// All test functions, here and beside the code.
fn tests_in(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
            continue;
        }
        let start = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => "fn ",
            Some("py") => "def ",
            _ => continue,
        };
        let text = fs::read_to_string(&path).unwrap();
        let names = text.lines().map(str::trim);
        let names = names.filter_map(|line| line.strip_prefix(start));
        found.extend(names.filter_map(|name| Some(name.split_once('(')?.0.to_owned())));
    }
}

#[test]
fn every_test_that_the_texts_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = Vec::new();
    tests_in(&root.join("tests"), &mut tests);
    tests_in(&root.join("src"), &mut tests);
    tests_in(&root.join("python/tests"), &mut tests);
    for (text, at_least) in [
        ("README.md", 14),
        ("README.zh-CN.md", 14),
        ("docs/promises.md", 90),
        ("docs/recipes.md", 3),
    ] {
        let named = named_in(&fs::read_to_string(root.join(text)).unwrap());
        assert!(named.len() >= at_least, "{text} names {named:?}");
        for name in named {
            assert!(tests.contains(&name), "{text} names {name}");
        }
    }
}

/// What looks like the name of a test: words that no key of the file begins with.
fn named_in(text: &str) -> Vec<String> {
    let in_code = text.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        let mut bytes = word.bytes();
        bytes.all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && word.matches('_').count() >= 3
            && !["refresh_token", "user_access_token", "app_access_token"]
                .iter()
                .any(|key| word.starts_with(key))
    };
    in_code.filter(is_name).map(str::to_owned).collect()
}

/// The words of a text, without what stands around them.
fn words_of(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect()
}

#[test]
fn the_tree_in_the_readme_names_each_room_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let tree = readme.split("```text\nsrc/\n").nth(1).unwrap();
    let tree = words_of(tree.split("```").next().unwrap());
    for room in fs::read_dir(root.join("src")).unwrap() {
        let path = room.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        // What only tests and benches see.
        let is_for_tests = ["fail", "internals"].contains(&name);
        assert!(is_for_tests || tree.contains(&name), "{name}");
    }
    let names = tree.iter().filter(|word| word.len() > 3);
    assert!(names.count() > 60, "{tree:?}");
}

#[test]
fn every_type_among_the_words_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contributing = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let rows = contributing.lines().filter(|line| line.starts_with("| "));
    let types = rows.filter_map(|row| row.rsplit('|').nth(1));
    let types: Vec<&str> = types
        .flat_map(words_of)
        .filter(|word| !word.is_empty())
        .collect();
    assert!(types.len() > 20, "{types:?}");
    let mut code = String::new();
    code_in(&root.join("src"), &mut code);
    for name in types.iter().filter(|name| **name != "type") {
        let kinds = ["struct", "enum", "trait"].map(|kind| format!(" {kind} {name}"));
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
        let is_there = |kind: &String| code.split(kind.as_str()).skip(1).any(ends);
        assert!(kinds.iter().any(is_there), "{name}");
    }
}

/// All code in a folder.
fn code_in(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code_in(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
