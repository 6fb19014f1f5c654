//! The names of things: replicas, logs, groups, sessions, and the set of groups γ that a command is multicast to.

use std::fmt;

/// The most groups that a cluster can have: γ is one machine word.
pub const GROUPS_MAX: usize = 64;

/// A replica of the cluster, 1 to n. Its Raft identity is [`NodeId`].
pub type ReplicaId = u8;

/// A multicast group: the unit of order and of parallelism. 0 to k-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u8);

/// A consensus log: 0 to S-1 are the streams, S is the cross log `x` (see `Topology::cross`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u8);

/// A client's session: the scope in which its commands are numbered, so that each executes once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

impl GroupId {
    /// The position of this group in tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl LogId {
    /// The position of this log in tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log{}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:x}", self.0)
    }
}

/// A set of groups: γ of a command, the groups of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct GroupSet(pub u64);

impl GroupSet {
    /// No group.
    pub const EMPTY: GroupSet = GroupSet(0);

    /// The groups 0 to `k`-1.
    pub fn all(k: usize) -> GroupSet {
        assert!((1..=GROUPS_MAX).contains(&k), "a cluster has 1 to 64 groups");
        GroupSet(u64::MAX >> (GROUPS_MAX - k))
    }

    /// Just `group`.
    pub fn one(group: GroupId) -> GroupSet {
        GroupSet(1 << group.0)
    }

    /// Adds `group`.
    pub fn insert(&mut self, group: GroupId) {
        self.0 |= 1 << group.0;
    }

    /// Whether `group` is in the set.
    pub fn contains(self, group: GroupId) -> bool {
        self.0 >> group.0 & 1 == 1
    }

    /// How many groups are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The groups of both sets.
    pub fn union(self, other: GroupSet) -> GroupSet {
        GroupSet(self.0 | other.0)
    }

    /// Whether the sets share a group.
    pub fn intersects(self, other: GroupSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every group of this set is in `other`.
    pub fn is_subset(self, other: GroupSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// The lowest group, which holds the reply of a command with |γ| > 1.
    pub fn lowest(self) -> Option<GroupId> {
        (self.0 != 0).then(|| GroupId(self.0.trailing_zeros() as u8))
    }

    /// The groups in ascending order.
    pub fn iter(self) -> impl Iterator<Item = GroupId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let group = GroupSet(rest).lowest()?;
            rest &= rest - 1;
            Some(group)
        })
    }
}

impl FromIterator<GroupId> for GroupSet {
    fn from_iter<I: IntoIterator<Item = GroupId>>(groups: I) -> Self {
        let mut set = GroupSet::EMPTY;
        for group in groups {
            set.insert(group);
        }
        set
    }
}

impl fmt::Debug for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
