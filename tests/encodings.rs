//! Files in another encoding, or beginning with a NUL byte.

use std::fs;

use crate::harness::Scene;

/// A text in UTF-16, in the order of this byte order mark.
fn utf16(text: &str, mark: [u8; 2], with_mark: bool) -> Vec<u8> {
    let to_bytes = if mark == [0xff, 0xfe] {
        u16::to_le_bytes
    } else {
        u16::to_be_bytes
    };
    let bytes = text.encode_utf16().flat_map(to_bytes);
    let mark = mark.into_iter().filter(|_| with_mark);
    mark.chain(bytes).collect()
}

#[test]
fn a_file_in_utf16_is_named_as_that() {
    let scene = Scene::new();
    let text = format!("; 我的\r\n{}", scene.text());
    for mark in [[0xff, 0xfe], [0xfe, 0xff]] {
        for with_mark in [true, false] {
            let bytes = utf16(&text, mark, with_mark);
            scene.write(&bytes);
            for arguments in [&[][..], &["--all"], &["status"], &["login", "--paste"]] {
                let run = scene.run(arguments);
                run.assert_failed(3, "feishu-config.ini is UTF-16; save it as UTF-8");
            }
            assert_eq!(fs::read(scene.file()).unwrap(), bytes);
        }
    }
    assert_eq!(scene.file_names(), ["feishu-config.ini"]);
    assert!(scene.server.requests().is_empty());
    // As UTF-8, with a mark, it is read.
    scene.write(format!("\u{feff}{text}"));
    scene.run::<&str>([]).token();
    scene.assert_sound();
}

#[test]
fn a_file_that_begins_with_nul_is_named_as_that() {
    let scene = Scene::new();
    let torn = format!("\0{}", &scene.text()[1..]);
    for bytes in [torn.as_str(), "\0", "\0\0\0\0", "\0[TOKEN]\n"] {
        scene.write(bytes);
        let run = scene.run::<&str>([]);
        run.assert_failed(3, "begins with a NUL byte");
        run.assert_failed(3, "no journal with its whole text was found");
        for arguments in [&["status"][..], &["login", "--paste"]] {
            let run = scene.run(arguments);
            run.assert_failed(3, "begins with a NUL byte");
            // Not all users who may have written one were checked.
            assert!(!run.stderr.contains("no journal"), "{}", run.stderr);
        }
        assert_eq!(fs::read(scene.file()).unwrap(), bytes.as_bytes());
    }
    assert!(scene.server.requests().is_empty());
}

/// UTF-16 text may begin with NUL, like a file whose save broke off; an older text must not overwrite it.
#[cfg(unix)]
#[test]
fn a_file_in_utf16_is_not_taken_for_a_save_that_broke_off() {
    let scene = Scene::new();
    let whole = scene.text();
    let other = scene.folder().join("other.ini");
    fs::hard_link(scene.file(), &other).unwrap();
    let mut failing = scene.program();
    failing.env("FEISHU_REFRESH_FAIL", "amid-in-place-write=abort");
    failing.output().unwrap();
    let torn = fs::read(scene.file()).unwrap();
    assert!(torn[0] == 0 && scene.journal().exists());
    let bytes = utf16(&whole, [0xfe, 0xff], false);
    scene.write(&bytes);
    scene.run::<&str>([]).assert_failed(3, "is UTF-16");
    assert_eq!(fs::read(scene.file()).unwrap(), bytes);
    // The journal is still there for its text.
    scene.write(torn);
    let run = scene.run::<&str>([]);
    assert!(run.stderr.contains("it is repaired"), "{}", run.stderr);
    run.token();
    fs::remove_file(other).unwrap();
    scene.assert_sound();
}
