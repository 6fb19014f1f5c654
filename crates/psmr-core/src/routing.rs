//! C-G: from a key to its slot, from a slot to its group, from a group to its stream. Pure functions over tables that the
//! genesis record fixes.

use crate::command::{GroupId, GroupSet, LogId};
use xxhash_rust::xxh3::xxh3_64;

/// The unit in which state can move between groups. A key's slot never changes.
pub const SLOTS: usize = 4096;

/// The version of `slot_of`; part of the genesis record.
pub const HASH_VERSION: u16 = 1;

/// The slot of a key: by its `{tag}` where it has one (as in Redis Cluster), else by the whole key.
pub fn slot_of(key: &[u8]) -> u16 {
    (xxh3_64(tag_of(key).unwrap_or(key)) % SLOTS as u64) as u16
}

/// What is between the first `{` and the first `}` after it, unless that is nothing.
#[inline]
pub fn tag_of(key: &[u8]) -> Option<&[u8]> {
    let rest = &key[memchr::memchr(b'{', key)? + 1..];
    let close = memchr::memchr(b'}', rest).filter(|close| *close > 0)?;
    Some(&rest[..close])
}

/// The tables of a cluster: which group a slot is in, which stream orders a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// k, the number of groups.
    pub groups: usize,
    /// S, the number of streams. Log `S` is the cross log.
    pub streams: usize,
    stream_groups: Vec<GroupSet>,
}

impl Topology {
    /// `groups` groups spread evenly over `streams` streams.
    ///
    /// # Panics
    /// If there are not 1 to 64 groups or not 1 to `groups` streams; `config` checks what a user wrote.
    pub fn new(groups: usize, streams: usize) -> Topology {
        assert!((1..=groups).contains(&streams), "a cluster has 1 stream to one per group");
        let all = GroupSet::all(groups);
        let stream_groups = (0..streams).map(|s| all.iter().filter(|g| g.index() % streams == s).collect()).collect();
        Topology { groups, streams, stream_groups }
    }

    /// The group of a key.
    pub fn group_of(&self, key: &[u8]) -> GroupId {
        self.group_of_slot(slot_of(key))
    }

    /// The group of a slot.
    pub fn group_of_slot(&self, slot: u16) -> GroupId {
        GroupId((usize::from(slot) % self.groups) as u8)
    }

    /// The stream that orders a group.
    pub fn stream_of(&self, group: GroupId) -> LogId {
        LogId((group.index() % self.streams) as u8)
    }

    /// The groups that a log carries: a stream's own, every group for the cross log.
    pub fn groups_of(&self, log: LogId) -> GroupSet {
        self.stream_groups.get(log.index()).copied().unwrap_or_else(|| self.all())
    }

    /// Every group: `g_all` of the paper.
    pub fn all(&self) -> GroupSet {
        GroupSet::all(self.groups)
    }

    /// The cross log `x`.
    pub fn cross(&self) -> LogId {
        LogId(self.streams as u8)
    }

    /// The number of logs: the streams and the cross log.
    pub fn logs(&self) -> usize {
        self.streams + 1
    }

    /// The log that orders a command: its stream if γ lies within one, else the cross log.
    pub fn log_of(&self, gamma: GroupSet) -> LogId {
        let stream = gamma.lowest().map_or(self.cross(), |g| self.stream_of(g));
        if gamma.is_subset(self.groups_of(stream)) {
            stream
        } else {
            self.cross()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_decides_the_slot() {
        assert_eq!(slot_of(b"{user}1"), slot_of(b"x{user}2"));
        assert_eq!((tag_of(b"{}a"), tag_of(b"a{b"), tag_of(b"a}{b}c}")), (None, None, Some(&b"b"[..])));
        assert_eq!(slot_of(b"{}a"), (xxh3_64(b"{}a") % SLOTS as u64) as u16);
    }

    #[test]
    fn a_log_carries_what_lies_within_it() {
        let t = Topology::new(16, 3);
        assert_eq!(t.log_of(GroupSet::one(GroupId(4))), LogId(1));
        assert_eq!(t.log_of([GroupId(1), GroupId(4)].into_iter().collect()), LogId(1));
        assert_eq!(t.log_of([GroupId(1), GroupId(2)].into_iter().collect()), t.cross());
        assert_eq!(t.groups_of(t.cross()), t.all());
    }
}
