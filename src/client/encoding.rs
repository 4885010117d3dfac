//! Replies that were compressed on their way. No request asks for that, but a gateway may do it all the
//! same; and a reply may hold the only copy of a pair (RFC 9110, section 8.4).

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::protocol::Response;

/// Takes the compression off, as far as the body goes: of one that breaks off, what was whole is kept.
/// Nothing grows beyond `longest` bytes.
pub(crate) fn unpack(response: &mut Response, longest: usize) {
    let name = response.header("content-encoding").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    let packed = response.body.as_slice();
    let unpacked = match name.as_str() {
        "gzip" | "x-gzip" => read(MultiGzDecoder::new(packed), longest),
        // Meant is zlib's format; some send what is in it.
        "deflate" => match read(ZlibDecoder::new(packed), longest) {
            bytes if bytes.is_empty() => read(DeflateDecoder::new(packed), longest),
            bytes => bytes,
        },
        _ => return,
    };
    // Some name what they do not do.
    if !unpacked.is_empty() {
        response.body = unpacked;
    }
}

fn read(decoder: impl Read, longest: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is in it.
    let _ = decoder.take(longest as u64).read_to_end(&mut bytes);
    bytes
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
