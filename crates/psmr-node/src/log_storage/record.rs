//! How records and segment headers look as bytes. Pure: no files here.
//!
//! A record is `checksum u32, payload length u32, version u8, kind u8, log u8, entry kind u8, zero u32, synced u64, index u64,
//! term u64, payload`, padded with zeros to a multiple of 8; integers are little endian. The checksum (CRC32C) covers
//! everything behind it, the padding too, and starts from the log's nonce, the segment's number and the record's offset. So a
//! record is valid in one place only: what an earlier use of a recycled segment left behind is refused with certainty (CRC is
//! a bijection of its start value), and bytes inside a client's payload cannot pass for a record without the nonce.

use crate::disk::{read_u32, read_u64};
use psmr_core::log::EntryKind;

/// The record format, and the format of segments.
pub const VERSION: u8 = 1;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Bytes of a segment before its first record.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Records start at multiples of this.
pub const ALIGNMENT: usize = 8;
const MAGIC: &[u8; 8] = b"psmr-log";

/// A place in the sequence of segments; later records have greater positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The segment's number, from 1.
    pub segment: u32,
    /// Bytes from the start of its file.
    pub offset: u32,
}

impl Position {
    /// As one number of the same order.
    pub fn to_u64(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }

    /// The inverse of `to_u64`.
    pub fn from_u64(value: u64) -> Position {
        Position { segment: (value >> 32) as u32, offset: value as u32 }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// An entry is appended and replaces everything in its log from its index on.
    Entry = 1,
    /// An entry that is in the log already is written again, so that its old segment can be recycled.
    Moved = 2,
    /// The hard state of a log: the term in the header, vote and commit as payload.
    HardState = 3,
    /// The log starts after (index, term); later entries stay.
    Trim = 4,
    /// The log starts after (index, term) and is empty.
    Reset = 5,
    /// First in each segment: hard state, start and last index of all logs, so that older segments can go.
    State = 6,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<RecordKind> {
        use RecordKind::{Entry, HardState, Moved, Reset, State, Trim};
        [Entry, Moved, HardState, Trim, Reset, State].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The fields of a record's header that the writer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it says.
    pub kind: RecordKind,
    /// The log (0 for `State`).
    pub log: u8,
    /// Of `Entry` and `Moved`; `Normal` otherwise.
    pub entry_kind: EntryKind,
    /// Everything before this position was known durable when the record was written.
    pub synced: Position,
    /// Entry's or start's.
    pub index: u64,
    /// Entry's, start's or hard state's.
    pub term: u64,
}

/// A valid record found in a segment.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload.
    pub payload: &'a [u8],
    /// Bytes it takes in the segment, padding included.
    pub bytes: usize,
}

/// What stands at a place of a segment.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A record of this segment.
    Record(Record<'a>),
    /// A record of this segment, whole, but of a version or kind that this program does not know.
    Unknown {
        /// Its version.
        version: u8,
    },
    /// Zeros, bytes of an earlier use of the segment, or a broken record: these cannot be told apart here.
    Nothing,
}

/// Bytes that a record with such a payload takes in a segment.
pub fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// Identifies a segment in its records' checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSeed {
    number: u32,
    seed: u32,
}

impl SegmentSeed {
    /// Of segment `number` of the log with this nonce.
    pub fn new(nonce: &[u8; 16], number: u32) -> SegmentSeed {
        SegmentSeed { number, seed: crc32c::crc32c_append(crc32c::crc32c(nonce), &number.to_le_bytes()) }
    }

    fn checksum(self, offset: usize, covered: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &(offset as u32).to_le_bytes()), covered)
    }

    /// Appends a record to `out`; it will stand at `offset` of the segment. Returns the bytes it takes.
    pub fn encode(self, out: &mut Vec<u8>, offset: usize, header: &RecordHeader, payload: &[u8]) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&[VERSION, header.kind as u8, header.log, header.entry_kind as u8, 0, 0, 0, 0]);
        for field in [header.synced.to_u64(), header.index, header.term] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(payload);
        let bytes = record_bytes(payload.len());
        out.resize(start + bytes, 0);
        let checksum = self.checksum(offset, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// What stands at `offset` of the segment; `rest` is what the segment holds from there on.
    pub fn parse(self, rest: &[u8], offset: usize) -> Parsed<'_> {
        if rest.len() < RECORD_HEADER_BYTES {
            return Parsed::Nothing;
        }
        let payload_bytes = read_u32(rest, 4) as usize;
        let synced = Position::from_u64(read_u64(rest, 16));
        // A record is written after its predecessor segment was synced, and never knows of its own durability. This refuses
        // nearly all bytes that are no record of this segment, without a checksum.
        let plausible = synced.segment + 1 >= self.number && synced <= Position { segment: self.number, offset: offset as u32 };
        // Nor is there a version 0: of two million places with zeros, one may well have zero as its checksum.
        if !plausible || rest[8] == 0 || payload_bytes > rest.len() - RECORD_HEADER_BYTES {
            return Parsed::Nothing;
        }
        let bytes = record_bytes(payload_bytes);
        let Some(covered) = rest.get(4..bytes) else { return Parsed::Nothing };
        if self.checksum(offset, covered) != read_u32(rest, 0) {
            return Parsed::Nothing;
        }
        let entry_kind = match rest[11] {
            0 => Some(EntryKind::Normal),
            2 => Some(EntryKind::ConfChange),
            _ => None,
        };
        let (Some(kind), Some(entry_kind), VERSION) = (RecordKind::from_byte(rest[9]), entry_kind, rest[8]) else {
            return Parsed::Unknown { version: rest[8] };
        };
        let header =
            RecordHeader { kind, log: rest[10], entry_kind, synced, index: read_u64(rest, 24), term: read_u64(rest, 32) };
        let payload = &rest[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_bytes];
        Parsed::Record(Record { header, payload, bytes })
    }
}

/// The first bytes of each segment file. They are durable before the file gets its name, so a broken one is always damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random, the same in all segments of a log: see the module's text.
    pub nonce: [u8; 16],
    /// The segment's number, from 1; its file is named after it.
    pub number: u32,
    /// How many Raft logs there are.
    pub logs: u32,
    /// The file's length.
    pub size_bytes: u64,
}

/// Why bytes are no segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSegmentHeader {
    /// Broken, or something else's.
    Damaged,
    /// A whole one of a version that this program does not know.
    Version(u32),
}

impl SegmentHeader {
    /// As bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&u32::from(VERSION).to_le_bytes());
        out[12..16].copy_from_slice(&self.logs.to_le_bytes());
        out[16..20].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.size_bytes.to_le_bytes());
        out[32..48].copy_from_slice(&self.nonce);
        let checksum = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// From the first bytes of a file.
    ///
    /// # Errors
    /// They are no header.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadSegmentHeader> {
        let damaged = bytes.len() < SEGMENT_HEADER_BYTES || &bytes[..8] != MAGIC;
        if damaged || read_u32(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err(BadSegmentHeader::Damaged);
        }
        if read_u32(bytes, 8) != u32::from(VERSION) {
            return Err(BadSegmentHeader::Version(read_u32(bytes, 8)));
        }
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[32..48]);
        Ok(SegmentHeader { nonce, number: read_u32(bytes, 16), logs: read_u32(bytes, 12), size_bytes: read_u64(bytes, 24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(segment: u32) -> RecordHeader {
        let synced = Position { segment, offset: 64 };
        RecordHeader { kind: RecordKind::Entry, log: 3, entry_kind: EntryKind::ConfChange, synced, index: 7, term: 5 }
    }

    fn encoded(seed: SegmentSeed, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        assert_eq!(seed.encode(&mut bytes, 64, &header(9), payload), record_bytes(payload.len()));
        bytes
    }

    #[test]
    fn a_record_comes_back_as_written() {
        let seed = SegmentSeed::new(&[1; 16], 9);
        for length in 0..20 {
            let payload = vec![0xab; length];
            let bytes = encoded(seed, &payload);
            let Parsed::Record(record) = seed.parse(&bytes[64..], 64) else { panic!("no record") };
            assert_eq!((record.header, record.payload), (header(9), &payload[..]));
            assert_eq!(record.bytes + 64, bytes.len());
        }
    }

    #[test]
    fn a_record_is_valid_in_its_place_only() {
        let seed = SegmentSeed::new(&[1; 16], 9);
        let bytes = encoded(seed, b"payload");
        for other in [SegmentSeed::new(&[1; 16], 8), SegmentSeed::new(&[1; 16], 10), SegmentSeed::new(&[2; 16], 9)] {
            assert!(matches!(other.parse(&bytes[64..], 64), Parsed::Nothing));
        }
        assert!(matches!(seed.parse(&bytes[64..], 56), Parsed::Nothing));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let seed = SegmentSeed::new(&[1; 16], 9);
        let bytes = encoded(seed, b"a payload with padding");
        for bit in 64 * 8..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(seed.parse(&flipped[64..], 64), Parsed::Nothing), "bit {bit}");
        }
        for length in 64..bytes.len() {
            assert!(matches!(seed.parse(&bytes[64..length], 64), Parsed::Nothing), "length {length}");
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let seed = SegmentSeed::new(&[1; 16], 9);
        let mut bytes = encoded(seed, b"x");
        bytes[64 + 8] = VERSION + 1;
        let checksum = seed.checksum(64, &bytes[68..]);
        bytes[64..68].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(seed.parse(&bytes[64..], 64), Parsed::Unknown { version } if version == VERSION + 1));
    }

    #[test]
    fn zeros_are_no_record_whatever_their_checksum() {
        let seed = SegmentSeed::new(&[1; 16], 1);
        let mut zeros = vec![0; RECORD_HEADER_BYTES];
        assert!(matches!(seed.parse(&zeros, 64), Parsed::Nothing));
        let checksum = seed.checksum(64, &zeros[4..]);
        zeros[..4].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(seed.parse(&zeros, 64), Parsed::Nothing));
    }

    #[test]
    fn a_segment_header_comes_back_and_notices_every_flipped_bit() {
        let header = SegmentHeader { nonce: [7; 16], number: 3, logs: 4, size_bytes: 4096 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(BadSegmentHeader::Damaged), "bit {bit}");
        }
        let mut later = bytes;
        later[8] = VERSION + 1;
        let checksum = crc32c::crc32c(&later[..60]);
        later[60..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&later), Err(BadSegmentHeader::Version(u32::from(VERSION) + 1)));
    }
}
