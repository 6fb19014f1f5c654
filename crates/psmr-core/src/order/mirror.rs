//! A Raft log in memory, as the consensus library reads it. Everything since the last trimming is here, so a lagging peer or
//! group is served without reading files; checkpoints bound how much that is.

use crate::log::{EntryKind, HardState, LogEntry, RecoveredLog};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState as RaftHardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;

/// What an entry costs in memory beside its data.
const ENTRY_OVERHEAD: usize = 128;

/// One log.
#[derive(Debug, Default)]
pub struct Mirror {
    hard_state: RaftHardState,
    conf_state: ConfState,
    /// (index, term) that `entries` start after.
    start: (u64, u64),
    entries: VecDeque<Entry>,
    /// (index, term) of the newest own checkpoint, which stands in for the entries up to it.
    checkpoint: (u64, u64),
    /// What the entries after the checkpoint take.
    bytes_since: usize,
}

impl Mirror {
    /// What was recovered (empty for a new log), with these voters, under a checkpoint that covers it up to (index, term).
    pub fn new(recovered: RecoveredLog, conf_state: ConfState, checkpoint: (u64, u64)) -> Mirror {
        let hard = recovered.hard_state;
        let hard_state = RaftHardState { term: hard.term, vote: hard.vote, commit: hard.commit, ..Default::default() };
        let mut mirror = Mirror { hard_state, conf_state, start: recovered.start, ..Mirror::default() };
        mirror.append(recovered.entries.into_iter().map(from_log_entry));
        if mirror.term_at(checkpoint.0) == Some(checkpoint.1) {
            mirror.set_checkpoint(checkpoint.0, checkpoint.1);
        } else {
            mirror.start_after(checkpoint.0, checkpoint.1);
        }
        // The disk may lag in what it knows to be committed; a checkpoint holds nothing else.
        mirror.hard_state.commit = mirror.hard_state.commit.clamp(checkpoint.0, mirror.last());
        mirror
    }

    /// The index of the last entry, or that which the log starts after.
    pub fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    /// The memory that the entries since the newest checkpoint take.
    pub fn bytes_since_checkpoint(&self) -> usize {
        self.bytes_since
    }

    /// Appends entries; the first one's index replaces everything from there on.
    pub fn append(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            assert!(entry.index > self.start.0 && entry.index <= self.last() + 1, "a gap in the log at {}", entry.index);
            while self.last() >= entry.index {
                // Never one that a checkpoint covers: those are committed.
                let gone = self.entries.pop_back();
                self.bytes_since -= gone.map_or(0, |e| weight(&e));
            }
            self.bytes_since += weight(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Remembers term, vote and commit.
    pub fn set_hard_state(&mut self, hard_state: RaftHardState) {
        self.hard_state = hard_state;
    }

    /// Remembers who votes.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Term, vote and commit, for the disk.
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.hard_state.term, vote: self.hard_state.vote, commit: self.hard_state.commit }
    }

    /// The own checkpoint that lagging peers are to be given.
    pub fn set_checkpoint(&mut self, index: u64, term: u64) {
        self.checkpoint = (index, term);
        self.bytes_since = self.entries.iter().rev().take_while(|e| e.index > index).map(weight).sum();
    }

    /// Starts anew after (index, term), which a checkpoint of a peer covers.
    pub fn start_after(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes_since = 0;
        self.start = (index, term);
        self.hard_state.commit = self.hard_state.commit.max(index);
        self.checkpoint = (index, term);
    }

    /// Drops the entries up to `index`, which the newest checkpoint covers.
    pub fn trim(&mut self, index: u64) {
        if index <= self.start.0 || index > self.last() {
            return;
        }
        let term = self.term_at(index).unwrap_or(self.start.1);
        self.entries.drain(..(index - self.start.0) as usize);
        self.start = (index, term);
    }

    /// (index, term) that the entries start after.
    pub fn start(&self) -> (u64, u64) {
        self.start
    }

    /// The term of an entry, if it is here (or is the one that the log starts after).
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        let at = index.checked_sub(self.start.0 + 1)?;
        self.entries.get(at as usize).map(|e| e.term)
    }

    /// The entries from `from` to `to`, both included, as far as they are here.
    #[cfg(feature = "planted")]
    pub fn range(&self, from: u64, to: u64) -> Vec<Entry> {
        self.entries.iter().filter(|e| (from..=to).contains(&e.index)).cloned().collect()
    }
}

impl Storage for Mirror {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        if low <= self.start.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let (from, to) = ((low - self.start.0 - 1) as usize, (high - self.start.0 - 1) as usize);
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let first = size == 0;
            size += weight(entry) as u64;
            first || size <= limit
        };
        Ok(self.entries.range(from..to).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.start.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.term_at(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.checkpoint.0 < request_index.max(self.start.0) || self.checkpoint.0 == 0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = self.checkpoint.0;
        snapshot.mut_metadata().term = self.checkpoint.1;
        snapshot.mut_metadata().set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

fn weight(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD
}

/// The library's entry, as the disk has it.
pub fn to_log_entry(entry: &Entry) -> LogEntry {
    let kind = if entry.get_entry_type() == EntryType::EntryNormal { EntryKind::Normal } else { EntryKind::ConfChange };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data.clone() }
}

fn from_log_entry(entry: LogEntry) -> Entry {
    let mut raft_entry = Entry { index: entry.index, term: entry.term, data: entry.data, ..Entry::default() };
    raft_entry.set_entry_type(match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChangeV2,
    });
    raft_entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(terms: &[u64]) -> Mirror {
        let mut mirror = Mirror::default();
        mirror.append(terms.iter().zip(1..).map(|(term, index)| Entry { term: *term, index, ..Entry::default() }));
        mirror
    }

    #[test]
    fn an_append_replaces_what_follows() {
        let mut m = mirror(&[1, 1, 1]);
        m.append([Entry { term: 2, index: 2, ..Entry::default() }].into_iter());
        assert_eq!((m.last(), m.term(2).unwrap()), (2, 2));
    }

    #[test]
    fn trimming_keeps_the_term_it_starts_after() {
        let mut m = mirror(&[1, 1, 2, 3]);
        m.trim(3);
        assert_eq!((m.start(), m.last()), ((3, 2), 4));
        m.trim(3);
        assert_eq!((m.first_index().unwrap(), m.term(3).unwrap(), m.term(4).unwrap()), (4, 2, 3));
        assert!(m.term(2).is_err() && m.snapshot(0, 1).is_err());
        m.set_checkpoint(4, 3);
        assert_eq!(m.snapshot(0, 1).unwrap().get_metadata().index, 4);
    }

    #[test]
    fn the_log_grows_anew_after_each_checkpoint_however_much_of_it_is_kept() {
        let mut m = mirror(&[1, 1, 2, 3]);
        assert_eq!(m.bytes_since_checkpoint(), 4 * ENTRY_OVERHEAD);
        m.set_checkpoint(3, 2);
        assert_eq!((m.first_index().unwrap(), m.bytes_since_checkpoint()), (1, ENTRY_OVERHEAD));
        m.trim(2);
        m.append([Entry { term: 4, index: 4, ..Entry::default() }, Entry { term: 4, index: 5, ..Entry::default() }].into_iter());
        assert_eq!((m.first_index().unwrap(), m.bytes_since_checkpoint()), (3, 2 * ENTRY_OVERHEAD));
        m.start_after(9, 5);
        assert_eq!((m.last(), m.bytes_since_checkpoint()), (9, 0));
    }
}
