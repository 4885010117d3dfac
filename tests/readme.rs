//! What the README says of the tests.

use std::fs;
use std::path::Path;

/// All test functions, here and beside the code.
fn tests_in(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("fn "));
            found.extend(names.filter_map(|name| Some(name.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = Vec::new();
    tests_in(&root.join("tests"), &mut tests);
    tests_in(&root.join("src"), &mut tests);
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let promises = readme
        .split_once("## What happens if")
        .expect("the promises")
        .1;
    let named = promises.split('`').skip(1).step_by(2).filter(|name| {
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name
            && name.matches('_').count() >= 3
            && !name.starts_with("refresh_token")
            && !name.starts_with("user_access_token")
    });
    let named: Vec<_> = named.collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(
            tests.iter().any(|test| test == name),
            "the README names {name}"
        );
    }
}
