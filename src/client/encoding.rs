//! Replies that were compressed on their way. No request asks for that, but a gateway may do it anyway, and a reply may
//! hold the only copy of a pair (RFC 9110, section 8.4).

use std::io::Read;
use std::mem;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::protocol::Response;

/// No gateway compresses a body more often than this.
const MOST_LAYERS: usize = 3;

/// How gzip begins (RFC 1952, section 2.3.1). No plain text reply does.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Decompresses the body, as far as it goes: of a truncated body, the complete part is kept. The result is at most
/// `longest` bytes.
pub(crate) fn unpack(response: &mut Response, longest: usize) {
    let coding = response.header("content-encoding").unwrap_or_default();
    if coding.trim().eq_ignore_ascii_case("deflate") {
        let packed = response.body.as_slice();
        // The name means zlib's format; some send the bare deflate data.
        let unpacked = match read(ZlibDecoder::new(packed), longest) {
            (bytes, _) if bytes.is_empty() => read(DeflateDecoder::new(packed), longest),
            unpacked => unpacked,
        };
        replace(response, unpacked);
    }
    // The header may have been lost, but not the compression.
    for _ in 0..MOST_LAYERS {
        if response.body.starts_with(&GZIP) {
            let unpacked = read(MultiGzDecoder::new(response.body.as_slice()), longest);
            replace(response, unpacked);
        }
    }
}

/// Takes what was unpacked unless it is empty: some name a compression that they do not use.
fn replace(response: &mut Response, (unpacked, is_whole): (Vec<u8>, bool)) {
    if unpacked.is_empty() {
        return;
    }
    let packed = mem::replace(&mut response.body, unpacked);
    if !is_whole {
        response.packed.get_or_insert(packed);
    }
}

/// What was unpacked, and whether that is all of it.
fn read(decoder: impl Read, longest: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    // It holds what came before an error.
    let result = decoder.take(longest as u64).read_to_end(&mut bytes);
    (bytes, result.is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn unpacked(name: &str, body: &[u8], longest: usize) -> Vec<u8> {
        let headers = vec![("content-encoding".to_owned(), name.to_owned())];
        let mut response = Response {
            status: 200,
            headers,
            body: body.to_vec(),
            ..Response::default()
        };
        unpack(&mut response, longest);
        response.body
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_kind_is_understood_and_what_is_none_is_left() {
        let text = br#"{"code":0,"data":{"refresh_token":"ur-1"}}"#;
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(text).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(text).unwrap();
        let cases = [
            ("gzip", gzip(text)),
            (" X-GZIP", gzip(text)),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
            // Whether or not the header says so.
            ("identity", gzip(text)),
            ("gzip", gzip(&gzip(text))),
            ("gzip, gzip", gzip(&gzip(text))),
            ("gzip", text.to_vec()),
            ("identity", text.to_vec()),
        ];
        for (name, body) in cases {
            assert_eq!(unpacked(name, &body, 1000), text, "{name}");
        }
    }

    #[test]
    fn one_that_breaks_off_is_kept_as_far_as_it_goes_and_none_grows_without_end() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let packed = gzip(&text);
        let part = unpacked("gzip", &packed[..packed.len() / 2], text.len());
        assert!(!part.is_empty() && text.starts_with(&part));
        assert_eq!(unpacked("gzip", &gzip(&vec![0; 1 << 20]), 1000).len(), 1000);
    }
}
