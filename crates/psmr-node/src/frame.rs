//! The form of everything that goes over a connection, between replicas (`peer_frame`) and with native clients (`native`).
//!
//! ```text
//! frame = body length u32, CRC32C of kind and body u32, kind u8, body
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// The bytes before a body.
pub const HEAD_BYTES: usize = 9;

/// The kinds of frames of one protocol.
pub trait FrameKind: Copy {
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
    out.extend_from_slice(&[0; 8]);
    out.push(kind.to_byte());
    write(out);
    let length = (out.len() - start - HEAD_BYTES) as u32;
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Takes a whole frame off the start of `input`. `Ok(None)`: it is not all there yet.
///
/// # Errors
/// What is wrong; the connection is of no more use.
pub fn decode<K: FrameKind>(input: &mut BytesMut) -> Result<Option<(K, Bytes)>, &'static str> {
    if input.len() < HEAD_BYTES {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
    let (length, checksum) = (word(0) as usize, word(4));
    let Some(kind) = K::from_byte(input[8]) else {
        return Err("a frame of an unknown kind");
    };
    if length > kind.body_bytes_max() {
        return Err("a frame longer than is allowed");
    }
    if input.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    if crc32c::crc32c(&input[8..HEAD_BYTES + length]) != checksum {
        return Err("a frame with a wrong checksum");
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

    proptest::proptest! {
        #[test]
        fn a_flipped_bit_never_passes(at in 0usize..12, bit in 0u8..8) {
            let mut out = frame(b"abc");
            out[at] ^= 1 << bit;
            let decoded = decode::<Only>(&mut BytesMut::from(&out[..]));
            assert!(!matches!(decoded, Ok(Some(_))));
        }
    }
}
