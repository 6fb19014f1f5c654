//! Reads a log's segments at the start: finds where the log ends, tells a torn tail from rot, and cuts the tail so that its
//! bytes cannot come back.

use super::live::Live;
use super::record::{BadSegmentHeader, Parsed, Position, SegmentHeader, SegmentSeed, ALIGNMENT, SEGMENT_HEADER_BYTES};
use super::replay::Replay;
use super::segment::{list, segment_path, Listing, SegmentFile};
use super::sync_slot::SyncSlot;
use super::{OpenError, Recovery};
use crate::disk;
use psmr_core::log::RecoveredLog;
use std::path::{Path, PathBuf};

/// What the directory holds.
pub struct Found {
    /// For Raft.
    pub logs: Vec<RecoveredLog>,
    /// For the writer.
    pub live: Live,
    /// The segment that is written next.
    pub active: SegmentFile,
    /// Where it is written next; everything before is durable.
    pub end: Position,
    /// The segment after the active one, if it is there.
    pub prepared: Option<SegmentFile>,
    /// The log's.
    pub nonce: [u8; 16],
    /// Segments that nothing needs.
    pub stale: Vec<u32>,
    /// Files to be recycled.
    pub spares: Vec<PathBuf>,
    /// For people.
    pub report: Recovery,
}

/// A segment in memory.
struct Segment {
    number: u32,
    path: PathBuf,
    seed: SegmentSeed,
    bytes: Vec<u8>,
}

/// What stands in a segment behind the log's end.
#[derive(Clone, Copy, Default)]
struct Beyond {
    /// Valid records.
    records: u64,
    /// Anything but zeros: a torn record perhaps, of which a later write could complete what was cut.
    is_dirty: bool,
    /// The greatest position that one of them says was synced.
    attested: Position,
}

/// Reads the log in `directory`, which must be locked, and cuts its torn tail.
pub fn recover(directory: &Path, logs: usize) -> Result<Found, OpenError> {
    let Listing { segments: numbers, spares } =
        list(directory).map_err(|error| OpenError::Io(disk::explain("list", directory, &error)))?;
    let Some(&newest) = numbers.last() else {
        return Err(match SyncSlot::exists(directory) {
            true => OpenError::Rot { path: directory.into(), offset: 0, detail: "all segments are missing".into() },
            false => OpenError::NotALog { path: directory.into() },
        });
    };
    // Segments are retired oldest first, but a crash may bring back the name of an older one: what counts is the run that
    // ends with the newest. That nothing needed is missing is checked at the end, against the state in each segment.
    let run = numbers.iter().rev().zip((0..=newest).rev()).take_while(|(number, expected)| *number == expected).count();
    let (stale, numbers) = numbers.split_at(numbers.len() - run);
    let mut reader = Reader { directory, logs, nonce: None };
    let mut scan = Scan { replay: Replay::new(logs), last: None, end: Position::default(), beyond: Vec::new() };
    for &number in numbers {
        scan.segment(reader.read(number)?)?;
    }
    let nonce = reader.nonce.unwrap_or_default();
    let slot = SyncSlot::read(directory, &nonce);
    scan.finish(directory, nonce, slot, numbers[0], stale, spares)
}

struct Reader<'a> {
    directory: &'a Path,
    logs: usize,
    nonce: Option<[u8; 16]>,
}

impl Reader<'_> {
    fn read(&mut self, number: u32) -> Result<Segment, OpenError> {
        let path = segment_path(self.directory, number);
        let bytes = std::fs::read(&path).map_err(|error| OpenError::Io(disk::explain("read", &path, &error)))?;
        let rot = |detail: String| OpenError::Rot { path: path.clone(), offset: 0, detail };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(BadSegmentHeader::Version(version)) => return Err(OpenError::UnknownVersion { path, version }),
            Err(BadSegmentHeader::Damaged) => return Err(rot("the segment's header is broken".into())),
        };
        if header.number != number || header.nonce != *self.nonce.get_or_insert(header.nonce) {
            return Err(rot("the segment belongs to another log or place".into()));
        }
        if header.size_bytes != bytes.len() as u64 {
            return Err(rot(format!("the segment has {} bytes, made with {}", bytes.len(), header.size_bytes)));
        }
        if header.logs as usize != self.logs {
            return Err(OpenError::LogCount { path, expected: self.logs, found: header.logs as usize });
        }
        Ok(Segment { number, path, seed: SegmentSeed::new(&header.nonce, number), bytes })
    }
}

/// Goes through the segments in order.
struct Scan {
    replay: Replay,
    /// The last segment that has records.
    last: Option<Segment>,
    /// Where the records end.
    end: Position,
    /// The segments after `last`: made ahead, or with the tail's records.
    beyond: Vec<(u32, Beyond)>,
}

impl Scan {
    fn segment(&mut self, segment: Segment) -> Result<(), OpenError> {
        let mut offset = SEGMENT_HEADER_BYTES;
        while self.beyond.is_empty() {
            let at = Position { segment: segment.number, offset: offset as u32 };
            let record = match segment.seed.parse(&segment.bytes[offset..], offset) {
                Parsed::Record(record) => record,
                Parsed::Unknown { version } => {
                    return Err(OpenError::UnknownVersion { path: segment.path, version: version.into() });
                }
                Parsed::Nothing => break,
            };
            if let Some(last) = self.last.as_ref().filter(|_| offset == SEGMENT_HEADER_BYTES) {
                // A segment is begun when the one before it is synced to its end.
                if record.header.synced != self.end {
                    return Err(rot(last, self.end.offset, record.header.synced));
                }
            }
            self.replay.apply(at, &record).map_err(|detail| OpenError::Rot {
                path: segment.path.clone(),
                offset: offset as u64,
                detail,
            })?;
            offset += record.bytes;
        }
        if offset > SEGMENT_HEADER_BYTES {
            self.end = Position { segment: segment.number, offset: offset as u32 };
            self.last = Some(segment);
        } else {
            self.beyond.push((segment.number, look_beyond(&segment, offset)?));
        }
        Ok(())
    }

    fn finish(
        self,
        directory: &Path,
        nonce: [u8; 16],
        slot: Option<Position>,
        oldest: u32,
        stale: &[u32],
        spares: Vec<PathBuf>,
    ) -> Result<Found, OpenError> {
        let Scan { replay, last, end, beyond } = self;
        let whole = || OpenError::Rot { path: directory.into(), offset: 0, detail: "no segment has a whole record".into() };
        let last = last.ok_or_else(whole)?;
        let tail = look_beyond(&last, end.offset as usize)?;
        let attested = beyond.iter().map(|(_, beyond)| beyond.attested).chain([tail.attested]).chain(slot).max();
        if let Some(attested) = attested.filter(|attested| *attested > end) {
            return Err(rot(&last, end.offset, attested));
        }
        let report = Recovery {
            segments: (end.segment - oldest + 1) as usize,
            records: replay.records,
            records_cut: tail.records + beyond.iter().map(|(_, beyond)| beyond.records).sum::<u64>(),
            is_sync_slot_lost: slot.is_none(),
        };
        let (logs, live) = replay.finish(oldest..=end.segment).map_err(|detail| OpenError::Rot {
            path: segment_path(directory, oldest),
            offset: 0,
            detail,
        })?;
        let active = settle_tail(&last, end, slot, tail)?;
        let (prepared, unused) = settle_beyond(directory, &beyond)?;
        let stale = stale.iter().copied().chain(unused).collect();
        Ok(Found { logs, live, active, end, prepared, nonce, stale, spares, report })
    }
}

fn rot(segment: &Segment, offset: u32, attested: Position) -> OpenError {
    let detail = format!("what was synced reaches to byte {} of segment {}", attested.offset, attested.segment);
    OpenError::Rot { path: segment.path.clone(), offset: u64::from(offset), detail }
}

/// Looks for whole records from `from` on, at every place where one could stand.
fn look_beyond(segment: &Segment, from: usize) -> Result<Beyond, OpenError> {
    let mut beyond = Beyond { is_dirty: segment.bytes[from..].iter().any(|byte| *byte != 0), ..Beyond::default() };
    for offset in (from..segment.bytes.len()).step_by(ALIGNMENT) {
        match segment.seed.parse(&segment.bytes[offset..], offset) {
            Parsed::Record(record) => {
                beyond.records += 1;
                beyond.attested = beyond.attested.max(record.header.synced);
            }
            Parsed::Unknown { version } => {
                return Err(OpenError::UnknownVersion { path: segment.path.clone(), version: version.into() });
            }
            Parsed::Nothing => {}
        }
    }
    Ok(beyond)
}

/// Makes the records up to the log's end durable and what is behind it invalid for ever.
///
/// Records that nobody attests are written again before the sync: they may have been read from the page cache after a failed
/// sync of the process before, and a second sync would not write them.
fn settle_tail(last: &Segment, end: Position, slot: Option<Position>, tail: Beyond) -> Result<SegmentFile, OpenError> {
    let active = SegmentFile::open(last.path.clone()).map_err(OpenError::Io)?;
    let known = slot.filter(|slot| slot.segment == end.segment).map_or(SEGMENT_HEADER_BYTES, |slot| slot.offset as usize);
    let settle = || {
        active.write(&last.bytes[known..end.offset as usize], known as u64)?;
        if tail.is_dirty {
            active.zero_from(u64::from(end.offset))?;
        }
        active.sync()
    };
    settle().map_err(OpenError::Io)?;
    Ok(active)
}

/// The segment made ahead, without records of the tail, and the numbers of further ones, which nothing needs.
fn settle_beyond(directory: &Path, beyond: &[(u32, Beyond)]) -> Result<(Option<SegmentFile>, Vec<u32>), OpenError> {
    let Some(((number, found), unused)) = beyond.split_first() else { return Ok((None, Vec::new())) };
    let settle = || {
        let prepared = SegmentFile::open(segment_path(directory, *number))?;
        if found.is_dirty {
            prepared.zero_from(SEGMENT_HEADER_BYTES as u64)?;
            prepared.sync()?;
        }
        Ok(prepared)
    };
    Ok((Some(settle().map_err(OpenError::Io)?), unused.iter().map(|(number, _)| *number).collect()))
}
