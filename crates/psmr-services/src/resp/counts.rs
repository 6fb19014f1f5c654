//! How often clients asked for each command: counted by all connections of a replica together.

use super::table::commands;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter per command of the table.
#[derive(Debug)]
pub struct Counts(Vec<AtomicU64>);

impl Default for Counts {
    fn default() -> Self {
        Counts(commands().iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Counts {
    /// Counts a request; `command` is its place in the table.
    #[inline]
    pub(super) fn add(&self, command: usize) {
        self.0[command].fetch_add(1, Ordering::Relaxed);
    }

    /// The commands that were asked for at least once, by name in lower case.
    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        commands().iter().map(|spec| spec.name).zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}
