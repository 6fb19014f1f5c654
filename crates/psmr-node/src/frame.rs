//! The form of everything that goes over a connection, between replicas (`peer_frame`) and with native clients (`native`).
//!
//! ```text
//! frame = body length u32, CRC32C of what follows u32, version u8, kind u8, body
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// The bytes before a body.
pub const HEAD_BYTES: usize = 10;

/// Where the version is.
const VERSION_AT: usize = 8;

/// Room that is made for a frame of which only the beginning has come.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// The kinds of frames of one protocol.
pub trait FrameKind: Copy {
    /// The version of the protocol, in every frame.
    const VERSION: u8;

    /// The longest body that is accepted.
    fn body_bytes_max(self) -> usize;

    /// How the kind is written.
    fn to_byte(self) -> u8;

    /// The kind that is written so, if there is one.
    fn from_byte(byte: u8) -> Option<Self>;
}

/// Appends a frame whose body `write` appends.
pub fn encode<K: FrameKind>(kind: K, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; VERSION_AT]);
    out.extend_from_slice(&[K::VERSION, kind.to_byte()]);
    write(out);
    let length = (out.len() - start - HEAD_BYTES) as u32;
    let checksum = crc32c::crc32c(&out[start + VERSION_AT..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Takes a whole frame off the start of `input`. `Ok(None)`: it is not all there yet.
///
/// # Errors
/// What is wrong; the connection is of no more use.
pub fn decode<K: FrameKind>(input: &mut BytesMut) -> Result<Option<(K, Bytes)>, String> {
    if input.len() < HEAD_BYTES {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
    let (length, checksum) = (word(0) as usize, word(4));
    let (theirs, ours) = (input[VERSION_AT], K::VERSION);
    if theirs != ours {
        return Err(format!("a frame of version {theirs}, this side speaks {ours}: run the same release"));
    }
    let Some(kind) = K::from_byte(input[VERSION_AT + 1]) else {
        return Err("a frame of an unknown kind".into());
    };
    if length > kind.body_bytes_max() {
        return Err("a frame longer than is allowed".into());
    }
    if input.len() < HEAD_BYTES + length {
        // Once for all of it, rather than again and again as it comes. What strangers announce they have to send.
        input.reserve((HEAD_BYTES + length - input.len()).min(RESERVED_BYTES_MAX));
        return Ok(None);
    }
    if crc32c::crc32c(&input[VERSION_AT..HEAD_BYTES + length]) != checksum {
        return Err("a frame with a wrong checksum".into());
    }
    input.advance(HEAD_BYTES);
    Ok(Some((kind, input.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Only;

    impl FrameKind for Only {
        const VERSION: u8 = 5;
        fn body_bytes_max(self) -> usize {
            3
        }
        fn to_byte(self) -> u8 {
            7
        }
        fn from_byte(byte: u8) -> Option<Self> {
            (byte == 7).then_some(Only)
        }
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(Only, &mut out, |to| to.extend_from_slice(body));
        out
    }

    #[test]
    fn frames_come_whole_or_not_at_all() {
        let out = frame(b"abc");
        for cut in 0..out.len() {
            assert_eq!(decode::<Only>(&mut BytesMut::from(&out[..cut])), Ok(None));
        }
        let mut input = BytesMut::from(&out[..]);
        assert_eq!(decode(&mut input), Ok(Some((Only, Bytes::from_static(b"abc")))));
        assert!(input.is_empty());
    }

    #[test]
    fn a_long_frame_is_refused_by_its_head() {
        assert!(decode::<Only>(&mut BytesMut::from(&frame(b"abcd")[..HEAD_BYTES])).is_err());
    }

    #[test]
    fn a_frame_of_another_version_is_refused_by_its_head() {
        let mut out = frame(b"abc");
        out[VERSION_AT] += 1;
        let error = decode::<Only>(&mut BytesMut::from(&out[..HEAD_BYTES])).unwrap_err();
        assert_eq!(error, "a frame of version 6, this side speaks 5: run the same release");
    }

    proptest::proptest! {
        #[test]
        fn a_flipped_bit_never_passes(at in 0usize..13, bit in 0u8..8) {
            let mut out = frame(b"abc");
            out[at] ^= 1 << bit;
            let decoded = decode::<Only>(&mut BytesMut::from(&out[..]));
            assert!(!matches!(decoded, Ok(Some(_))));
        }
    }
}
