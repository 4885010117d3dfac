#![no_main]

use std::io::Write;

use feishu_refresh::internals::unpacked;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use libfuzzer_sys::fuzz_target;

const LONGEST: usize = 1 << 20;
const CODINGS: [&str; 5] = ["gzip", "x-gzip", "deflate", "identity", "br"];

// Whatever a reply's bytes, the result is never longer than the longest reply, and nothing is lost: a valid compressed
// body is unpacked, and any other body stays as it is.
fuzz_target!(|input: &[u8]| {
    for coding in CODINGS {
        let bytes = unpacked(coding, input);
        assert!(bytes.len() <= LONGEST.max(input.len()));
        assert_eq!(bytes.is_empty(), input.is_empty(), "{coding}");
    }
    let Some((cut, text)) = input.split_first() else {
        return;
    };
    // A body compressed twice is unpacked twice.
    if text.starts_with(&[0x1f, 0x8b]) {
        return;
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
    let written = [
        gzip.write_all(text),
        zlib.write_all(text),
        raw.write_all(text),
    ];
    let packed = [
        ("gzip", gzip.finish()),
        ("deflate", zlib.finish()),
        ("deflate", raw.finish()),
    ];
    assert!(written.into_iter().all(|written| written.is_ok()));
    for (index, (coding, packed)) in packed.into_iter().enumerate() {
        let Ok(packed) = packed else {
            panic!("it fits into memory");
        };
        // Bare deflate may look like zlib output: then either result is right.
        if !text.is_empty() && index < 2 {
            assert_eq!(unpacked(coding, &packed), text, "{coding}");
        }
        // A truncated body yields a part, or stays compressed.
        let part = &packed[..packed.len() * usize::from(*cut) / 256];
        let bytes = unpacked(coding, part);
        assert!(index == 2 || text.starts_with(&bytes) || bytes == part);
    }
});
