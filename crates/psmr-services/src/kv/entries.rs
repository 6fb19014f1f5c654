//! The entries of a group in the order of their keys' hashes: a B+-tree of two levels whose inner one need not be searched,
//! because hashes are spread evenly: the leading bits of a hash are the number of its leaf.
//!
//! A search thus touches few cache lines, which is what it costs in a replica, whose caches other threads empty all the time.
//! Leaves are split one at a time as entries come, from the lowest to the highest, so that no insertion pays for all (linear
//! hashing: Litwin, VLDB 1980, with leading bits instead of trailing ones, which keeps the order). Keys made to have equal
//! leading bits share a leaf, which is then searched in logarithmic time but grown in linear time.

use super::bytes::{Key, Value};
use std::cmp::Ordering;

/// Entries per leaf, on the average.
const LEAF_MEAN: usize = 8;

/// The leading bits that number the leaves of an empty map.
const BITS_MIN: u32 = 2;

/// In a leaf of more entries, hashes are not spread evenly.
const LEAF_EVEN_MAX: usize = 8 * LEAF_MEAN;

/// Leaves grow by so many entries, or by an eighth.
const LEAF_STEP: usize = 2;

#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

struct Entry {
    hash: u64,
    key: Key,
    value: Value,
    version: u64,
}

type Leaf = Vec<Entry>;

/// A map from keys to values, ordered by the keys' hashes and then by the keys.
pub struct Entries {
    /// Leaves by the leading `bits` bits; the first `split` of them have gone to `halves`.
    leaves: Vec<Leaf>,
    bits: u32,
    split: usize,
    /// Leaves by the leading `bits` + 1 bits, as far as leaves have been split.
    halves: Vec<Leaf>,
    len: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Entries { leaves: leaves(BITS_MIN), bits: BITS_MIN, split: 0, halves: Vec::new(), len: 0 }
    }
}

/// The bytes of memory that an entry takes, without what an allocation has beyond what was asked for.
pub fn entry_bytes(key: &[u8], value: &Value) -> usize {
    size_of::<Entry>() + Key::heap_bytes(key.len()) + value.heap_bytes()
}

fn leaves(bits: u32) -> Vec<Leaf> {
    (0..1 << bits).map(|_| Leaf::new()).collect()
}

/// Where a hash would be among the entries of its leaf, if hashes were spread perfectly. `bits`: how many leading bits all
/// hashes in the leaf share.
#[inline]
fn likely_place(leaf: &[Entry], bits: u32, hash: u64) -> usize {
    let share = (hash << bits) >> 32;
    ((share * leaf.len() as u64) >> 32) as usize
}

/// The place of a key among the entries of its leaf: where it is, or where it would be. The search begins
/// where the hash is likely to be, and seldom goes far.
#[inline]
fn find(leaf: &[Entry], bits: u32, hash: u64, key: &[u8]) -> Result<usize, usize> {
    let mut at = if leaf.len() <= LEAF_EVEN_MAX {
        let mut at = likely_place(leaf, bits, hash);
        while at < leaf.len() && leaf[at].hash < hash {
            at += 1;
        }
        while at > 0 && leaf[at - 1].hash >= hash {
            at -= 1;
        }
        at
    } else {
        leaf.partition_point(|entry| entry.hash < hash)
    };
    while let Some(entry) = leaf.get(at).filter(|entry| entry.hash == hash) {
        match entry.key.bytes().cmp(key) {
            Ordering::Equal => return Ok(at),
            Ordering::Greater => break,
            Ordering::Less => at += 1,
        }
    }
    Err(at)
}

/// Asks for the cache lines of `count` values at `first`.
#[inline]
fn prefetch<T>(first: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..count * size_of::<T>()).step_by(CACHE_LINE_BYTES) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: a prefetch has no effect but on the caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.cast::<i8>().wrapping_add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, count);
}

impl Entries {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The leaf of a hash, and how many leading bits number it.
    #[inline]
    fn leaf(&self, hash: u64) -> (&Leaf, u32) {
        let at = (hash >> (64 - self.bits)) as usize;
        if at < self.split {
            (&self.halves[(hash >> (63 - self.bits)) as usize], self.bits + 1)
        } else {
            (&self.leaves[at], self.bits)
        }
    }

    #[inline]
    fn leaf_mut(&mut self, hash: u64) -> (&mut Leaf, u32) {
        let at = (hash >> (64 - self.bits)) as usize;
        if at < self.split {
            (&mut self.halves[(hash >> (63 - self.bits)) as usize], self.bits + 1)
        } else {
            (&mut self.leaves[at], self.bits)
        }
    }

    /// Fetches what searches for these hashes will touch, so that they wait for memory together rather than one by one: first
    /// where the leaves are, then the entries there.
    pub fn prefetch(&self, hashes: &[u64]) {
        hashes.iter().for_each(|hash| self.prefetch_leaf(*hash));
        hashes.iter().for_each(|hash| self.prefetch_entry(*hash));
    }

    /// Fetches where the leaf of a hash is.
    #[inline]
    pub fn prefetch_leaf(&self, hash: u64) {
        prefetch(std::ptr::from_ref(self.leaf(hash).0), 1);
    }

    /// Fetches the entry of a hash; where its leaf is, is best fetched before.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let (leaf, bits) = self.leaf(hash);
        // The place is likely, not certain: its neighbours come along.
        let first = likely_place(leaf, bits, hash).saturating_sub(1);
        if let Some(neighbours) = leaf.get(first..(first + 3).min(leaf.len())) {
            prefetch(neighbours.as_ptr(), neighbours.len());
        }
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Value> {
        let (leaf, bits) = self.leaf(hash);
        find(leaf, bits, hash, key).ok().map(|at| &leaf[at].value)
    }

    /// The version of a key's entry.
    pub fn version(&self, hash: u64, key: &[u8]) -> Option<u64> {
        let (leaf, bits) = self.leaf(hash);
        find(leaf, bits, hash, key).ok().map(|at| leaf[at].version)
    }

    /// The value and the version of a key, to be changed.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<(&mut Value, &mut u64)> {
        let (leaf, bits) = self.leaf_mut(hash);
        let at = find(leaf, bits, hash, key).ok()?;
        let Entry { value, version, .. } = &mut leaf[at];
        Some((value, version))
    }

    /// Sets the value and the version of a key that may be there.
    pub fn insert(&mut self, hash: u64, key: Key, value: Value, version: u64) {
        let (leaf, bits) = self.leaf_mut(hash);
        match find(leaf, bits, hash, key.bytes()) {
            Ok(at) => (leaf[at].value, leaf[at].version) = (value, version),
            Err(at) => {
                if leaf.len() == leaf.capacity() {
                    leaf.reserve_exact(LEAF_STEP.max(leaf.len() / 8));
                }
                leaf.insert(at, Entry { hash, key, value, version });
                self.len += 1;
                if self.len > LEAF_MEAN * (self.leaves.len() + self.split) {
                    self.split_next();
                }
            }
        }
    }

    fn split_next(&mut self) {
        let mut low = std::mem::take(&mut self.leaves[self.split]);
        let middle = (self.split as u64 * 2 + 1) << (63 - self.bits);
        let at = low.partition_point(|entry| entry.hash < middle);
        let mut high = Leaf::with_capacity(low.len() - at);
        high.extend(low.drain(at..));
        low.shrink_to_fit();
        self.halves.extend([low, high]);
        self.split += 1;
        if self.split == self.leaves.len() {
            self.leaves = std::mem::take(&mut self.halves);
            self.bits += 1;
            self.split = 0;
            self.halves = Vec::with_capacity(2 * self.leaves.len());
        }
    }

    /// Removes a key; its value and its version, if it was there.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<(Value, u64)> {
        let (leaf, bits) = self.leaf_mut(hash);
        let at = find(leaf, bits, hash, key).ok()?;
        let removed = leaf.remove(at);
        if leaf.capacity() > leaf.len() + leaf.len() / 4 + 2 * LEAF_STEP || leaf.is_empty() {
            leaf.shrink_to_fit();
        }
        self.len -= 1;
        Some((removed.value, removed.version))
    }

    /// Calls `each` with hash, key, value and version, from `hash` on in ascending order of hash and key, until it returns false.
    pub fn visit_from<'a>(&'a self, hash: u64, mut each: impl FnMut(u64, &'a [u8], &'a Value, u64) -> bool) {
        let at = (hash >> (64 - self.bits)) as usize;
        let halves_before = if at < self.split { (hash >> (63 - self.bits)) as usize } else { self.halves.len() };
        let rest = self.halves[halves_before..].iter().chain(&self.leaves[at.max(self.split)..]);
        for entry in rest.flat_map(|leaf| &leaf[..]).skip_while(|entry| entry.hash < hash) {
            if !each(entry.hash, entry.key.bytes(), &entry.value, entry.version) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn listed(entries: &Entries, from: u64) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        entries.visit_from(from, |hash, key, value, _| {
            all.push((hash, key.to_vec(), value.bytes().to_vec()));
            true
        });
        all
    }

    proptest! {
        /// Hashes of few and of many leading bits, keys that share a hash.
        #[test]
        fn it_is_an_ordered_map(
            steps in prop::collection::vec((0..4u8, 0..40u64, 0..3u32, 0..3u8), 0..1500), from in 0..40u64, spread in 0..3u32
        ) {
            let (mut entries, mut model) = (Entries::default(), BTreeMap::new());
            let hash_of = |n: u64, salt: u32| (n << 58).rotate_left(spread * 5) ^ u64::from(salt);
            for (step, n, salt, k) in steps {
                let (hash, key) = (hash_of(n, salt), vec![k; usize::from(k) * 12]);
                match step {
                    0 => {
                        let removed = entries.remove(hash, &key).map(|(v, _)| v.bytes().to_vec());
                        prop_assert_eq!(removed, model.remove(&(hash, key)));
                    }
                    _ => {
                        entries.insert(hash, Key::new(&key), Value::new(&[step; 9]), n);
                        prop_assert_eq!(entries.get(hash, &key).map(Value::bytes), Some(&[step; 9][..]));
                        prop_assert_eq!(entries.version(hash, &key), Some(n));
                        model.insert((hash, key), vec![step; 9]);
                    }
                }
                prop_assert_eq!(entries.len(), model.len());
            }
            let hash = hash_of(from, 1);
            for start in [0, hash, u64::MAX] {
                let expected: Vec<_> = model.range((start, vec![])..).map(|((h, k), v)| (*h, k.clone(), v.clone())).collect();
                prop_assert_eq!(listed(&entries, start), expected);
            }
        }
    }

    #[test]
    fn leaves_stay_small_as_the_map_grows() {
        let mut entries = Entries::default();
        for n in 0..100_000u64 {
            let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            entries.insert(hash, Key::new(&n.to_le_bytes()), Value::new(b"v"), n);
        }
        let longest = entries.leaves.iter().chain(&entries.halves).map(|leaf| leaf.len()).max();
        assert!(longest < Some(4 * LEAF_MEAN), "{longest:?}");
        for n in 0..100_000u64 {
            assert!(entries.remove(n.wrapping_mul(0x9E37_79B9_7F4A_7C15), &n.to_le_bytes()).is_some());
        }
        assert_eq!(entries.leaves.iter().chain(&entries.halves).map(|leaf| leaf.capacity()).sum::<usize>(), 0);
    }
}
