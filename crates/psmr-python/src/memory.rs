//! Gives memory that is free back to the system. The allocator does that by itself only as it allocates: a replica that has
//! become quiet would keep for ever what its keys, its log and its clients once took.

use crate::PURGE_DELAY_MS;
use psmr_node::usage::used;
use std::time::{Duration, Instant};

/// How often it looks: commands are refused while the replica has more than it may.
const LOOK: Duration = Duration::from_secs(1);

/// When it was last looked, and when memory was last given back.
pub struct Returns {
    bytes_max: u64,
    looked: Instant,
    returned: Instant,
}

impl Returns {
    /// `bytes_max`: beyond that the replica refuses commands; 0: there is no limit.
    pub fn new(bytes_max: u64) -> Returns {
        let now = Instant::now();
        Returns { bytes_max, looked: now, returned: now }
    }

    /// Looks, if it is time to, whether there is memory to give back: what has been free for a while, or if the replica has too
    /// much all that is free.
    pub fn look(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let is_short = self.bytes_max > 0 && used(0).is_some_and(|usage| usage.memory_bytes > self.bytes_max);
        let is_due = now.saturating_duration_since(self.returned) > Duration::from_millis(PURGE_DELAY_MS as u64);
        if is_short || is_due {
            self.returned = now;
            // SAFETY: the allocator's own locks let any thread call it at any time.
            unsafe { libmimalloc_sys::mi_collect(is_short) };
        }
    }
}
