//! What the README and docs/promises.md say of the tests.

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
