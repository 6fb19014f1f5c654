//! Applies the records of a log in order and ends with what each Raft log holds. Pure. A record that contradicts what came
//! before it is damage: the writer never writes one.

use super::live::{Live, Place, StartEffect};
use super::record::{Position, Record, RecordHeader, RecordKind};
use crate::disk::read_u64;
use bytes::Bytes;
use psmr_core::log::{HardState, LogEntry, RecoveredLog};
use std::collections::BTreeMap;

/// Bytes of one log in the payload of a `State` record.
pub const STATE_BYTES_PER_LOG: usize = 48;

/// The payload of a `State` record.
pub fn encode_state(live: &Live) -> Vec<u8> {
    let mut payload = Vec::with_capacity(live.logs().len() * STATE_BYTES_PER_LOG);
    for log in live.logs() {
        let HardState { term, vote, commit } = log.hard_state;
        for field in [term, vote, commit, log.start.0, log.start.1, log.last()] {
            payload.extend_from_slice(&field.to_le_bytes());
        }
    }
    payload
}

/// One Raft log as far as it has been read.
#[derive(Default)]
struct ReplayedLog {
    hard_state: HardState,
    start: (u64, u64),
    /// Index of the last entry, which `entries` may lack: an old entry may have been moved to a later segment.
    last: u64,
    entries: BTreeMap<u64, (LogEntry, Place)>,
}

/// All Raft logs as far as they have been read.
pub struct Replay {
    logs: Vec<ReplayedLog>,
    has_state: bool,
    /// How many records were applied.
    pub records: u64,
}

impl Replay {
    /// Of `logs` Raft logs.
    pub fn new(logs: usize) -> Replay {
        Replay { logs: (0..logs).map(|_| ReplayedLog::default()).collect(), has_state: false, records: 0 }
    }

    /// Applies the record at `position`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn apply(&mut self, position: Position, record: &Record<'_>) -> Result<(), String> {
        self.records += 1;
        let RecordHeader { kind, log, index, term, .. } = record.header;
        if kind == RecordKind::State {
            return self.apply_state(record.payload);
        }
        if !self.has_state {
            return Err("the segment does not begin with the state of the logs".into());
        }
        let place = Place { term, position, bytes: record.bytes as u32 };
        let Some(replayed) = self.logs.get_mut(usize::from(log)) else {
            return Err(format!("a record of log {log}, which does not exist"));
        };
        let is_consistent = match kind {
            RecordKind::Entry => index > replayed.start.0 && index <= replayed.last + 1,
            RecordKind::Moved => index > replayed.start.0 && index <= replayed.last,
            RecordKind::HardState => record.payload.len() == 16,
            RecordKind::Trim => index > replayed.start.0 && index <= replayed.last,
            RecordKind::Reset => index > replayed.start.0,
            RecordKind::State => true,
        };
        if !is_consistent {
            return Err(format!("a {kind:?} record of log {log} with index {index} does not follow from the records before it"));
        }
        replayed.apply(place, record);
        Ok(())
    }

    fn apply_state(&mut self, payload: &[u8]) -> Result<(), String> {
        if payload.len() != self.logs.len() * STATE_BYTES_PER_LOG {
            return Err("the state of the logs at the start of a segment is of another number of logs".into());
        }
        for (number, (log, state)) in self.logs.iter_mut().zip(payload.chunks_exact(STATE_BYTES_PER_LOG)).enumerate() {
            let field = |place: usize| read_u64(state, place * 8);
            let hard_state = HardState { term: field(0), vote: field(1), commit: field(2) };
            let (start, last) = ((field(3), field(4)), field(5));
            if !self.has_state {
                *log = ReplayedLog { hard_state, start, last, entries: BTreeMap::new() };
            } else if (log.hard_state, log.start, log.last) != (hard_state, start, last) {
                return Err(format!("the state of log {number} at the start of a segment differs from the records before it"));
            }
        }
        self.has_state = true;
        Ok(())
    }

    /// What the logs hold, for Raft and for the writer; `segments` are the numbers of all segments up to the active one.
    ///
    /// # Errors
    /// Entries are missing: a segment that is needed is not there.
    pub fn finish(self, segments: impl Iterator<Item = u32>) -> Result<(Vec<RecoveredLog>, Live), String> {
        let mut live = Live::new(self.logs.len());
        segments.for_each(|number| live.add_segment(number));
        let mut recovered = Vec::with_capacity(self.logs.len());
        for (number, log) in self.logs.into_iter().enumerate() {
            live.set_hard_state(number, log.hard_state);
            live.start(number, log.start.0, log.start.1, StartEffect::Reset);
            let mut entries = Vec::with_capacity(log.entries.len());
            for (expected, (index, (entry, place))) in (log.start.0 + 1..).zip(log.entries) {
                if index != expected {
                    return Err(format!("entries {expected} to {} of log {number} are missing", index - 1));
                }
                live.append(number, index, place);
                entries.push(entry);
            }
            let end = log.start.0 + entries.len() as u64;
            if end != log.last {
                return Err(format!("entries {} to {} of log {number} are missing", end + 1, log.last));
            }
            recovered.push(RecoveredLog { hard_state: log.hard_state, start: log.start, entries });
        }
        Ok((recovered, live))
    }
}

impl ReplayedLog {
    fn apply(&mut self, place: Place, record: &Record<'_>) {
        let RecordHeader { kind, index, term, entry_kind, .. } = record.header;
        match kind {
            RecordKind::Entry | RecordKind::Moved => {
                if kind == RecordKind::Entry {
                    self.entries.split_off(&index);
                    self.last = index;
                }
                let data = Bytes::copy_from_slice(record.payload);
                self.entries.insert(index, (LogEntry { index, term, kind: entry_kind, data }, place));
            }
            RecordKind::HardState => {
                self.hard_state = HardState { term, vote: read_u64(record.payload, 0), commit: read_u64(record.payload, 8) };
            }
            RecordKind::Trim => {
                self.start = (index, term);
                self.entries = self.entries.split_off(&(index + 1));
            }
            RecordKind::Reset => {
                self.start = (index, term);
                self.last = index;
                self.entries.clear();
            }
            RecordKind::State => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmr_core::log::EntryKind;

    fn apply(replay: &mut Replay, kind: RecordKind, log: u8, index: u64, payload: &[u8]) -> Result<(), String> {
        let position = Position { segment: 1, offset: 64 };
        let header = RecordHeader { kind, log, entry_kind: EntryKind::Normal, synced: position, index, term: 1 };
        replay.apply(position, &Record { header, payload, bytes: 48 })
    }

    fn begun() -> Replay {
        let mut replay = Replay::new(1);
        apply(&mut replay, RecordKind::State, 0, 0, &encode_state(&Live::new(1))).expect("state");
        replay
    }

    #[test]
    fn nothing_comes_before_the_state() {
        assert!(apply(&mut Replay::new(1), RecordKind::Entry, 0, 1, b"x").is_err());
        let two = encode_state(&Live::new(2));
        assert!(apply(&mut Replay::new(1), RecordKind::State, 0, 0, &two).is_err());
    }

    #[test]
    fn what_contradicts_the_records_before_it_is_refused() {
        let mut replay = begun();
        apply(&mut replay, RecordKind::Entry, 0, 1, b"x").expect("first");
        let wrong: [(RecordKind, u8, u64, &[u8]); 8] = [
            (RecordKind::Entry, 0, 3, b"gap"),
            (RecordKind::Entry, 0, 0, b"before the start"),
            (RecordKind::Entry, 1, 1, b"no such log"),
            (RecordKind::Moved, 0, 2, b"not there"),
            (RecordKind::HardState, 0, 0, b"short"),
            (RecordKind::Trim, 0, 2, b""),
            (RecordKind::Reset, 0, 0, b""),
            (RecordKind::State, 0, 0, &encode_state(&Live::new(1))),
        ];
        for (kind, log, index, payload) in wrong {
            assert!(apply(&mut replay, kind, log, index, payload).is_err(), "{kind:?} {index}");
        }
    }

    #[test]
    fn moved_entries_fill_what_a_dropped_segment_left_out() {
        let mut live = Live::new(1);
        let place = Place { term: 1, position: Position { segment: 1, offset: 64 }, bytes: 48 };
        (1..=3).for_each(|index| live.append(0, index, place));
        let mut replay = Replay::new(1);
        apply(&mut replay, RecordKind::State, 0, 0, &encode_state(&live)).expect("state");
        apply(&mut replay, RecordKind::Entry, 0, 3, b"3").expect("replaces the last");
        for index in [2, 1] {
            apply(&mut replay, RecordKind::Moved, 0, index, b"m").expect("moved");
        }
        let (logs, live) = replay.finish(1..=1).expect("complete");
        assert_eq!(logs[0].entries.iter().map(|entry| &entry.data[..]).collect::<Vec<_>>(), [b"m", b"m", b"3"]);
        assert_eq!(live.bytes(), 3 * 48);
    }
}
