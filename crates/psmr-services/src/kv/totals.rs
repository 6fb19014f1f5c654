//! How many keys there are, for whoever asks a replica how it does: told by the groups after what they executed, each for
//! itself. Nothing depends on it.

use psmr_core::command::{GroupId, GROUPS_MAX};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of all groups at this replica.
#[derive(Debug)]
pub struct Totals {
    /// Per group: keys, and those of them that expire.
    groups: [[AtomicU64; 2]; GROUPS_MAX],
}

impl Default for Totals {
    fn default() -> Totals {
        Totals { groups: std::array::from_fn(|_| Default::default()) }
    }
}

impl Totals {
    /// What a group has.
    #[inline]
    pub fn set(&self, group: GroupId, keys: usize, expiring: usize) {
        let [all, some] = &self.groups[group.index()];
        all.store(keys as u64, Ordering::Relaxed);
        some.store(expiring as u64, Ordering::Relaxed);
    }

    /// Keys, and those of them that expire; the groups are not looked at at one moment.
    pub fn sum(&self) -> (u64, u64) {
        let sum = |at: usize| self.groups.iter().map(|group| group[at].load(Ordering::Relaxed)).sum();
        (sum(0), sum(1))
    }
}
