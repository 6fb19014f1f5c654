//! Where a key is: its slot decides its group, its hash decides its place within the group.

use psmr_core::routing::{tag_of, SLOTS};
use xxhash_rust::xxh3::xxh3_64;

/// A key's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// See [`psmr_core::routing::slot_of`].
    pub slot: u16,
    /// A hash of the whole key: keys of a group are ordered by it. It is part of the format of cursors and snapshots.
    pub hash: u64,
}

/// The hash of a key alone.
#[inline]
pub fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The place of a key. A key without a tag is hashed once for both.
#[inline]
pub fn place_of(key: &[u8]) -> Place {
    let hash = hash_of(key);
    let decides = tag_of(key).map_or(hash, hash_of);
    Place { slot: (decides % SLOTS as u64) as u16, hash }
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmr_core::routing::slot_of;

    #[test]
    fn the_slot_is_that_of_routing() {
        for i in 0..10_000 {
            for key in [format!("key:{i}"), format!("{{{i}}}a"), format!("{i}{{}}"), format!("{i}{{a"), format!("{i}}}")] {
                assert_eq!(place_of(key.as_bytes()).slot, slot_of(key.as_bytes()), "{key}");
            }
        }
    }
}
