//! Delivery: committed entries as the groups pull them, and a group's cursor over its stream and the cross log.
//!
//! A stream's groups and the cross log's groups read the same decoded entries; each group holds nothing but its cursor. The
//! ordering part appends, and drops what every group has passed.

use crate::command::LogId;
use crate::entry::Entry;
use crate::sync::{Arc, AtomicU64, Ordering, RwLock};
use crate::wire::{Malformed, Reader, Write};
use std::collections::VecDeque;

#[derive(Debug)]
struct Window {
    /// The index of the first entry that is held.
    first: u64,
    entries: VecDeque<Arc<Entry>>,
}

/// The committed entries of one log that some group has yet to deliver.
#[derive(Debug)]
pub struct CommittedLog {
    window: RwLock<Window>,
    /// The highest index in the window (or before it, when it is empty).
    committed: AtomicU64,
    /// Bytes of the entries in the window.
    bytes: AtomicU64,
}

impl CommittedLog {
    /// A log whose next entry is `first`.
    pub fn new(first: u64) -> CommittedLog {
        CommittedLog {
            window: RwLock::new(Window { first, entries: VecDeque::new() }),
            committed: AtomicU64::new(first - 1),
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of the entries that some group has yet to deliver, or that have not been dropped yet.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The highest committed index.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// The index of the first entry that is held, or of the next one when none is.
    pub fn first(&self) -> u64 {
        self.window.read().unwrap_or_else(|p| p.into_inner()).first
    }

    /// Appends entries, which follow the last.
    pub fn append(&self, entries: impl Iterator<Item = Arc<Entry>>) {
        let mut window = self.window.write().unwrap_or_else(|p| p.into_inner());
        for entry in entries {
            assert_eq!(
                entry.index,
                window.first + window.entries.len() as u64,
                "a gap in the committed entries of {:?}",
                entry.log
            );
            self.bytes.fetch_add(entry.bytes().len() as u64, Ordering::Relaxed);
            window.entries.push_back(entry);
        }
        self.committed.store(window.first + window.entries.len() as u64 - 1, Ordering::Release);
    }

    /// The entries from `from` on, at most `limit`, appended to `out`. Nothing if `from` is not committed yet.
    ///
    /// # Panics
    /// If `from` has been dropped: a group's cursor is never behind the window.
    pub fn read(&self, from: u64, limit: usize, out: &mut VecDeque<Arc<Entry>>) {
        if from > self.committed() {
            return;
        }
        let window = self.window.read().unwrap_or_else(|p| p.into_inner());
        assert!(from >= window.first, "entry {from} was dropped, the window starts at {}", window.first);
        out.extend(window.entries.iter().skip((from - window.first) as usize).take(limit).cloned());
    }

    /// Drops the entries before `first`, which every group has passed.
    pub fn drop_before(&self, first: u64) {
        let mut window = self.window.write().unwrap_or_else(|p| p.into_inner());
        while window.first < first {
            let Some(entry) = window.entries.pop_front() else { return };
            self.bytes.fetch_sub(entry.bytes().len() as u64, Ordering::Relaxed);
            window.first += 1;
        }
    }

    /// Starts anew: the next entry is `first`. Groups' cursors are there or beyond.
    pub fn restart(&self, first: u64) {
        let mut window = self.window.write().unwrap_or_else(|p| p.into_inner());
        *window = Window { first, entries: VecDeque::new() };
        self.bytes.store(0, Ordering::Relaxed);
        self.committed.store(first - 1, Ordering::Release);
    }
}

/// Where a group is: in its stream, and in the cross log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The stream's entry that the group is in, or waits for.
    pub stream_next: u64,
    /// The cross log's entry that the group delivers next.
    pub cross_next: u64,
    /// The group delivers the cross log up to here before it goes on in its stream: the highest marker that it has met.
    pub cross_target: u64,
    /// The marker of entry `stream_next` has been met.
    pub marker_met: bool,
    /// How many items of the present entry the group has passed.
    pub items_passed: usize,
}

/// Which entry a group has to deliver next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An entry of its stream.
    Stream(u64),
    /// An entry of the cross log, which a marker has called for.
    Cross(u64),
}

impl Cursor {
    /// The start of everything.
    pub fn start() -> Cursor {
        Cursor { stream_next: 1, cross_next: 1, cross_target: 0, marker_met: false, items_passed: 0 }
    }

    /// What comes next.
    pub fn place(&self) -> Place {
        if self.cross_next <= self.cross_target {
            Place::Cross(self.cross_next)
        } else {
            Place::Stream(self.stream_next)
        }
    }

    /// Meets the marker of the present stream entry, if it has not been met yet. True if it calls for cross entries.
    pub fn meet_marker(&mut self, marker: u64) -> bool {
        if self.marker_met {
            return false;
        }
        self.marker_met = true;
        self.cross_target = self.cross_target.max(marker);
        self.cross_next <= self.cross_target
    }

    /// Leaves the entry at `place`, of which everything is delivered.
    pub fn leave(&mut self, place: Place) {
        self.items_passed = 0;
        match place {
            Place::Stream(index) => {
                self.stream_next = index + 1;
                self.marker_met = false;
            }
            Place::Cross(index) => self.cross_next = index + 1,
        }
    }

    /// The position in a checkpoint taken at the cross entry that is being left: the stream's entry is met again.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.u64(self.stream_next);
        out.u64(self.cross_next);
    }

    /// Reads what `write` wrote.
    ///
    /// # Errors
    /// At the end of the bytes, and at a position before the first.
    pub fn read(reader: &mut Reader) -> Result<Cursor, Malformed> {
        let cursor =
            Cursor { stream_next: reader.u64("stream position")?, cross_next: reader.u64("cross position")?, ..Cursor::start() };
        match cursor.stream_next > 0 && cursor.cross_next > 0 {
            true => Ok(cursor),
            false => Err(reader.malformed("position")),
        }
    }
}

/// Progress of read-index rounds of one stream. A read is tagged with the first round that had not started when it came; it
/// may be answered once that round is done and its group has delivered the index that the round gave.
#[derive(Debug, Default)]
pub struct ReadRounds {
    started: AtomicU64,
    done: AtomicU64,
    index: AtomicU64,
}

impl ReadRounds {
    /// The round that a read which comes now has to wait for.
    pub fn ticket(&self) -> u64 {
        self.started.load(Ordering::SeqCst) + 1
    }

    /// Starts the next round, and returns its number.
    pub fn start(&self) -> u64 {
        self.started.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Ends `round` and all before it: whatever completed before it started stands at `index` or before.
    pub fn finish(&self, round: u64, index: u64) {
        self.index.fetch_max(index, Ordering::SeqCst);
        self.done.fetch_max(round, Ordering::SeqCst);
    }

    /// The last round that is done, and an index that serves it.
    pub fn done(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::SeqCst);
        (done, self.index.load(Ordering::SeqCst))
    }
}

/// A log's place in the tables of the delivery side.
pub type Logs = Vec<CommittedLog>;

/// Tables for `logs` logs that start after `positions`.
pub fn logs_after(positions: &[u64]) -> Logs {
    positions.iter().map(|p| CommittedLog::new(p + 1)).collect()
}

/// The log at `log`.
pub fn log_at(logs: &Logs, log: LogId) -> &CommittedLog {
    &logs[log.index()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_sends_the_cursor_through_the_cross_log_once() {
        let mut cursor = Cursor::start();
        assert!(cursor.meet_marker(2) && !cursor.meet_marker(2));
        cursor.leave(Place::Cross(1));
        assert_eq!(cursor.place(), Place::Cross(2));
        cursor.leave(Place::Cross(2));
        assert_eq!(cursor.place(), Place::Stream(1));
        cursor.leave(Place::Stream(1));
        assert!(!cursor.meet_marker(1), "a stale marker does nothing");
    }

    #[test]
    fn positions_before_the_first_are_refused() {
        for (stream_next, cross_next, is_allowed) in [(1, 1, true), (0, 1, false), (1, 0, false)] {
            let mut bytes = Vec::new();
            Cursor { stream_next, cross_next, ..Cursor::start() }.write(&mut bytes);
            assert_eq!(Cursor::read(&mut Reader::new(bytes.into())).is_ok(), is_allowed);
        }
    }

    #[test]
    fn a_round_serves_reads_that_came_before_it() {
        let rounds = ReadRounds::default();
        let ticket = rounds.ticket();
        let round = rounds.start();
        assert!(ticket <= round && rounds.ticket() > round);
        rounds.finish(round, 7);
        assert_eq!(rounds.done(), (round, 7));
    }
}
