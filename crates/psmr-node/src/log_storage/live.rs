//! Which entries of each Raft log count, and where they stand: what is needed to refuse a wrong append, to know when a
//! segment can be recycled, and to find the few entries that pin an old one.

use super::record::Position;
use psmr_core::log::HardState;
use std::collections::{BTreeMap, VecDeque};

/// Where an entry stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry's term.
    pub term: u64,
    /// Its record's position.
    pub position: Position,
    /// Its record's bytes.
    pub bytes: u32,
}

/// One Raft log.
#[derive(Clone, Debug, Default)]
pub struct LiveLog {
    /// The newest written.
    pub hard_state: HardState,
    /// (index, term) that the entries start after.
    pub start: (u64, u64),
    places: VecDeque<Place>,
}

/// What a `Start` record means for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartEffect {
    /// The log starts there or later already.
    None,
    /// Entries up to there go, later ones stay.
    Trim,
    /// All entries go.
    Reset,
}

impl LiveLog {
    /// The index of the last entry, or the start's if there is none.
    pub fn last(&self) -> u64 {
        self.start.0 + self.places.len() as u64
    }

    /// What a `Start` at (index, term) would do.
    pub fn start_effect(&self, index: u64, term: u64) -> StartEffect {
        if index <= self.start.0 {
            return StartEffect::None;
        }
        match self.place(index) {
            Some(place) if place.term == term => StartEffect::Trim,
            _ => StartEffect::Reset,
        }
    }

    fn place(&self, index: u64) -> Option<&Place> {
        self.places.get(usize::try_from(index.checked_sub(self.start.0 + 1)?).ok()?)
    }
}

/// All Raft logs of a replica, and how much of each segment they need.
///
/// Invariant: `segments` has each segment of the log up to the active one, with the bytes of the live entries in it.
#[derive(Clone, Debug)]
pub struct Live {
    logs: Vec<LiveLog>,
    segments: BTreeMap<u32, u64>,
}

impl Live {
    /// Logs without entries.
    pub fn new(logs: usize) -> Live {
        Live { logs: vec![LiveLog::default(); logs], segments: BTreeMap::new() }
    }

    /// The logs, in the order of their ids.
    pub fn logs(&self) -> &[LiveLog] {
        &self.logs
    }

    /// The log, which must exist, for its hard state.
    pub fn set_hard_state(&mut self, log: usize, hard_state: HardState) {
        self.logs[log].hard_state = hard_state;
    }

    /// A segment is begun.
    pub fn add_segment(&mut self, number: u32) {
        self.segments.entry(number).or_insert(0);
    }

    /// The oldest segment, if nothing in it or before it is needed and it is not the active one: it may be recycled.
    pub fn pop_free_segment(&mut self) -> Option<u32> {
        let (&oldest, &bytes) = self.segments.first_key_value()?;
        (bytes == 0 && self.segments.len() > 1).then(|| self.segments.remove(&oldest))??;
        Some(oldest)
    }

    /// How many segments there are, the active one included.
    pub fn segments_len(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of all live entries' records.
    pub fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// The oldest segment that has live entries, unless it is the active one.
    pub fn oldest_pinned(&self) -> Option<u32> {
        let (&active, _) = self.segments.last_key_value()?;
        self.segments.iter().find(|(&number, &bytes)| bytes > 0 && number != active).map(|(&number, _)| number)
    }

    /// The live entries of a segment: (log, index, place).
    pub fn entries_in(&self, segment: u32) -> Vec<(usize, u64, Place)> {
        let mut found = Vec::new();
        for (number, log) in self.logs.iter().enumerate() {
            for (index, place) in (log.start.0 + 1..).zip(&log.places) {
                if place.position.segment == segment {
                    found.push((number, index, *place));
                }
            }
        }
        found
    }

    /// An entry is appended and replaces everything from its index on. The index must be after the start and at most one
    /// after the last.
    pub fn append(&mut self, log: usize, index: u64, place: Place) {
        let live = &mut self.logs[log];
        assert!(index > live.start.0 && index <= live.last() + 1, "an append leaves no gap");
        while live.last() >= index {
            release(&mut self.segments, live.places.pop_back());
        }
        live.places.push_back(place);
        *self.segments.entry(place.position.segment).or_insert(0) += u64::from(place.bytes);
    }

    /// A live entry stands elsewhere now.
    pub fn move_to(&mut self, log: usize, index: u64, place: Place) {
        let live = &mut self.logs[log];
        let slot = &mut live.places[(index - live.start.0 - 1) as usize];
        let old = std::mem::replace(slot, place);
        release(&mut self.segments, Some(old));
        *self.segments.entry(place.position.segment).or_insert(0) += u64::from(place.bytes);
    }

    /// The log starts after (index, term); `effect` is what `start_effect` said.
    pub fn start(&mut self, log: usize, index: u64, term: u64, effect: StartEffect) {
        let live = &mut self.logs[log];
        let gone = match effect {
            StartEffect::None => return,
            StartEffect::Trim => (index - live.start.0) as usize,
            StartEffect::Reset => live.places.len(),
        };
        for place in live.places.drain(..gone) {
            release(&mut self.segments, Some(place));
        }
        live.start = (index, term);
    }
}

fn release(segments: &mut BTreeMap<u32, u64>, place: Option<Place>) {
    if let Some(place) = place {
        if let Some(bytes) = segments.get_mut(&place.position.segment) {
            *bytes -= u64::from(place.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(term: u64, segment: u32) -> Place {
        Place { term, position: Position { segment, offset: 64 }, bytes: 100 }
    }

    #[test]
    fn a_segment_is_free_when_its_entries_are_trimmed_or_replaced() {
        let mut live = Live::new(2);
        for segment in 1..=3 {
            live.add_segment(segment);
        }
        live.append(0, 1, place(1, 1));
        live.append(1, 1, place(1, 1));
        live.append(1, 2, place(1, 2));
        assert_eq!((live.pop_free_segment(), live.bytes()), (None, 300));
        live.append(1, 1, place(2, 3));
        assert_eq!((live.logs()[1].last(), live.bytes(), live.pop_free_segment()), (1, 200, None));
        live.start(0, 1, 1, StartEffect::Trim);
        assert_eq!((live.pop_free_segment(), live.pop_free_segment(), live.pop_free_segment()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_start_trims_where_the_entry_is_known_and_resets_otherwise() {
        let mut live = Live::new(1);
        live.append(0, 1, place(1, 1));
        live.append(0, 2, place(2, 1));
        let log = &live.logs()[0];
        assert_eq!(log.start_effect(0, 0), StartEffect::None);
        assert_eq!(log.start_effect(1, 1), StartEffect::Trim);
        assert_eq!(log.start_effect(2, 1), StartEffect::Reset);
        assert_eq!(log.start_effect(3, 2), StartEffect::Reset);
        live.start(0, 9, 2, StartEffect::Reset);
        assert_eq!((live.logs()[0].last(), live.bytes()), (9, 0));
    }

    #[test]
    fn moving_an_entry_frees_its_segment() {
        let mut live = Live::new(1);
        live.add_segment(1);
        live.add_segment(2);
        live.append(0, 1, place(1, 1));
        assert_eq!((live.oldest_pinned(), live.entries_in(1)), (Some(1), vec![(0, 1, place(1, 1))]));
        live.move_to(0, 1, place(1, 2));
        assert_eq!((live.oldest_pinned(), live.pop_free_segment(), live.bytes()), (None, Some(1), 100));
    }
}
