#![no_main]

use feishu_refresh::internals::{parse, splice};
use libfuzzer_sys::fuzz_target;

const VALUES: [(&str, &str); 3] = [
    ("user_access_token", "u-new%"),
    ("refresh_token", "ur-new"),
    ("refresh_token_expires_at", ""),
];

fuzz_target!(|file: &[u8]| {
    let Some(sections) = parse(file) else {
        return;
    };
    let text = std::str::from_utf8(file).expect("only text is understood");
    for section in ["TOKEN", "ID"] {
        let Some(edited) = splice(file, section, &VALUES) else {
            continue;
        };
        let sections_then = parse(edited.as_bytes()).expect("what was written can be read");
        assert!((sections..=sections + 1).contains(&sections_then));
        // A second pass changes nothing.
        assert_eq!(
            splice(edited.as_bytes(), section, &VALUES).as_deref(),
            Some(&*edited)
        );
        // All lines but the values' own are still there, in order.
        let changed = text.lines().count().saturating_sub(common(text, &edited));
        assert!(
            changed <= VALUES.len(),
            "{changed} lines changed in {edited:?}"
        );
    }
});

/// How many lines two texts share, in the same order.
fn common(old: &str, new: &str) -> usize {
    let new: Vec<&str> = new.lines().collect();
    let mut row = vec![0; new.len() + 1];
    for old in old.lines() {
        let mut diagonal = 0;
        for (index, new) in new.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if *new == old {
                diagonal + 1
            } else {
                above.max(row[index])
            };
            diagonal = above;
        }
    }
    row[new.len()]
}
