//! The entries of a group in the order of their keys' hashes: a B+-tree of two levels whose inner one need not be searched,
//! because hashes are spread evenly: the leading bits of a hash are the number of its leaf.
//!
//! A search thus touches few cache lines, which is what it costs in a replica, whose caches other threads empty all the time.
//! Leaves are split one at a time as entries come, from the lowest to the highest, so that no insertion pays for all (linear
//! hashing: Litwin, VLDB 1980, with leading bits instead of trailing ones, which keeps the order). Keys made to have equal
//! leading bits share a leaf, which is then searched in logarithmic time but grown in linear time.

use super::bytes::{Key, Value};
use super::place;

/// Entries per leaf, on the average.
const LEAF_MEAN: usize = 8;

/// The leading bits that number the leaves of an empty map.
const BITS_MIN: u32 = 2;

/// Of so many entries a leaf has the tags: more than it has once in a hundred times, and together with where the entries are
/// a cache line.
const TAGS: usize = 20;

/// The tag of a place where there is no entry.
const NO_TAG: i16 = i16::MAX;

/// Leaves grow by so many entries, or by an eighth: an allocation has more room than was asked for as it is.
const LEAF_STEP: usize = 1;

#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

struct Entry {
    key: Key,
    value: Value,
    version: u64,
}

/// Entries whose hashes share their leading bits, and of each, in the same order, its tag: the 16 bits of the hash after those,
/// as a number that has a sign since processors compare such. A search thus knows the entry before it has touched one. Tags
/// are kept while there are `TAGS` entries at most. Where tags do not decide, hashes are computed again.
#[repr(align(64))]
struct Leaf {
    entries: Vec<Entry>,
    tags: [i16; TAGS],
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf { entries: Vec::new(), tags: [NO_TAG; TAGS] }
    }
}

/// See `Leaf`. `bits`: how many leading bits all hashes in the leaf share.
#[inline]
fn tag_of(hash: u64, bits: u32) -> i16 {
    ((hash << bits >> 48) as u16 ^ 0x8000) as i16
}

impl Leaf {
    fn new(entries: Vec<Entry>, bits: u32, hash_of: HashOf) -> Leaf {
        let mut leaf = Leaf { entries, ..Leaf::default() };
        leaf.tag(bits, hash_of);
        leaf
    }

    /// Sets all tags.
    fn tag(&mut self, bits: u32, hash_of: HashOf) {
        self.tags = [NO_TAG; TAGS];
        if self.entries.len() <= TAGS {
            let tags = self.tags.iter_mut().zip(&self.entries);
            tags.for_each(|(tag, entry)| *tag = tag_of(hash_of(entry.key.bytes()), bits));
        }
    }

    /// Where the first entry is whose hash may be this one or a higher one.
    #[inline]
    fn place(&self, bits: u32, hash: u64, hash_of: HashOf) -> usize {
        if self.entries.len() <= TAGS {
            let tag = tag_of(hash, bits);
            self.tags.iter().map(|other| i16::from(*other < tag)).sum::<i16>() as usize
        } else {
            self.entries.partition_point(|entry| hash_of(entry.key.bytes()) < hash)
        }
    }

    /// The place of a key among the entries: where it is, or where it would be.
    #[inline]
    fn find(&self, bits: u32, hash: u64, key: &[u8], hash_of: HashOf) -> Result<usize, usize> {
        let mut at = self.place(bits, hash, hash_of);
        while let Some(entry) = self.entries.get(at) {
            let other = entry.key.bytes();
            if other == key {
                return Ok(at);
            }
            if (hash_of(other), other) > (hash, key) {
                break;
            }
            at += 1;
        }
        Err(at)
    }

    fn insert(&mut self, at: usize, entry: Entry, tag: i16) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(LEAF_STEP.max(self.entries.len() / 8));
        }
        if self.entries.len() < TAGS {
            self.tags.copy_within(at..TAGS - 1, at + 1);
            self.tags[at] = tag;
        }
        self.entries.insert(at, entry);
    }

    fn remove(&mut self, at: usize, bits: u32, hash_of: HashOf) -> Entry {
        let removed = self.entries.remove(at);
        if self.entries.len() < TAGS {
            self.tags.copy_within(at + 1.., at);
            self.tags[TAGS - 1] = NO_TAG;
        } else {
            self.tag(bits, hash_of);
        }
        if self.entries.capacity() > self.entries.len() + self.entries.len() / 4 + 2 * LEAF_STEP || self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        removed
    }
}

/// A hash of a key.
type HashOf = fn(&[u8]) -> u64;

/// A map from keys to values, ordered by the keys' hashes and then by the keys. Callers bring a key's hash along.
pub struct Entries {
    hash_of: HashOf,
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
        Entries::by(place::hash_of)
    }
}

/// The bytes of memory that an entry takes, without what an allocation has beyond what was asked for.
pub fn entry_bytes(key: &[u8], value: &Value) -> usize {
    size_of::<Entry>() + Key::heap_bytes(key.len()) + value.heap_bytes()
}

fn leaves(bits: u32) -> Vec<Leaf> {
    (0..1 << bits).map(|_| Leaf::default()).collect()
}

/// Asks for the cache lines of what is at `place`.
#[inline]
fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    for byte in [0, size_of::<T>() - 1] {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        const { assert!(size_of::<T>() > 0 && size_of::<T>() <= CACHE_LINE_BYTES) };
        // SAFETY: a prefetch has no effect but on the caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast::<i8>().wrapping_add(byte)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

impl Entries {
    /// No entries, to be ordered by this hash.
    pub fn by(hash_of: HashOf) -> Entries {
        Entries { hash_of, leaves: leaves(BITS_MIN), bits: BITS_MIN, split: 0, halves: Vec::new(), len: 0 }
    }

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
    /// the leaves, then the entries.
    pub fn prefetch(&self, hashes: &[u64]) {
        hashes.iter().for_each(|hash| self.prefetch_leaf(*hash));
        hashes.iter().for_each(|hash| self.prefetch_entry(*hash));
    }

    /// Fetches the leaf of a hash.
    #[inline]
    pub fn prefetch_leaf(&self, hash: u64) {
        prefetch(self.leaf(hash).0);
    }

    /// Fetches the entry of a hash; its leaf is best fetched before.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let (leaf, bits) = self.leaf(hash);
        if let Some(entry) = leaf.entries.get(leaf.place(bits, hash, self.hash_of)) {
            prefetch(entry);
        }
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Value> {
        let (leaf, bits) = self.leaf(hash);
        leaf.find(bits, hash, key, self.hash_of).ok().map(|at| &leaf.entries[at].value)
    }

    /// The version of a key's entry.
    pub fn version(&self, hash: u64, key: &[u8]) -> Option<u64> {
        let (leaf, bits) = self.leaf(hash);
        leaf.find(bits, hash, key, self.hash_of).ok().map(|at| leaf.entries[at].version)
    }

    /// The value and the version of a key, to be changed.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<(&mut Value, &mut u64)> {
        let hash_of = self.hash_of;
        let (leaf, bits) = self.leaf_mut(hash);
        let at = leaf.find(bits, hash, key, hash_of).ok()?;
        let Entry { value, version, .. } = &mut leaf.entries[at];
        Some((value, version))
    }

    /// Sets the value and the version of a key that may be there.
    pub fn insert(&mut self, hash: u64, key: Key, value: Value, version: u64) {
        let hash_of = self.hash_of;
        debug_assert_eq!(hash, hash_of(key.bytes()));
        let (leaf, bits) = self.leaf_mut(hash);
        match leaf.find(bits, hash, key.bytes(), hash_of) {
            Ok(at) => (leaf.entries[at].value, leaf.entries[at].version) = (value, version),
            Err(at) => {
                leaf.insert(at, Entry { key, value, version }, tag_of(hash, bits));
                self.len += 1;
                if self.len > LEAF_MEAN * (self.leaves.len() + self.split) {
                    self.split_next();
                }
            }
        }
    }

    fn split_next(&mut self) {
        let mut low = std::mem::take(&mut self.leaves[self.split].entries);
        let middle = (self.split as u64 * 2 + 1) << (63 - self.bits);
        let at = low.partition_point(|entry| (self.hash_of)(entry.key.bytes()) < middle);
        let mut high = Vec::with_capacity(low.len() - at);
        high.extend(low.drain(at..));
        low.shrink_to_fit();
        self.halves.extend([low, high].map(|entries| Leaf::new(entries, self.bits + 1, self.hash_of)));
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
        let hash_of = self.hash_of;
        let (leaf, bits) = self.leaf_mut(hash);
        let at = leaf.find(bits, hash, key, hash_of).ok()?;
        let removed = leaf.remove(at, bits, hash_of);
        self.len -= 1;
        Some((removed.value, removed.version))
    }

    /// Calls `each` with hash, key, value and version, from `hash` on in ascending order of hash and key, until it returns false.
    pub fn visit_from<'a>(&'a self, hash: u64, mut each: impl FnMut(u64, &'a [u8], &'a Value, u64) -> bool) {
        let at = (hash >> (64 - self.bits)) as usize;
        let halves_before = if at < self.split { (hash >> (63 - self.bits)) as usize } else { self.halves.len() };
        let rest = self.halves[halves_before..].iter().chain(&self.leaves[at.max(self.split)..]);
        let hashed = rest.flat_map(|leaf| &leaf.entries).map(|entry| ((self.hash_of)(entry.key.bytes()), entry));
        for (own, entry) in hashed.skip_while(|(own, _)| *own < hash) {
            if !each(own, entry.key.bytes(), &entry.value, entry.version) {
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

    /// Of keys that begin with it.
    fn hash_in(key: &[u8]) -> u64 {
        u64::from_le_bytes(key[..8].try_into().unwrap())
    }

    fn listed(entries: &Entries, from: u64) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        entries.visit_from(from, |hash, key, value, _| {
            all.push((hash, key.to_vec(), value.bytes().to_vec()));
            true
        });
        all
    }

    fn check_tags(entries: &Entries) {
        let (whole, halves) = (&entries.leaves[entries.split..], &entries.halves);
        let leaves = whole.iter().map(|leaf| (leaf, entries.bits)).chain(halves.iter().map(|leaf| (leaf, entries.bits + 1)));
        for (leaf, bits) in leaves.filter(|(leaf, _)| leaf.entries.len() <= TAGS) {
            let mut expected = [NO_TAG; TAGS];
            expected
                .iter_mut()
                .zip(&leaf.entries)
                .for_each(|(tag, entry)| *tag = tag_of((entries.hash_of)(entry.key.bytes()), bits));
            assert_eq!(leaf.tags, expected);
        }
    }

    proptest! {
        /// Hashes of few and of many leading bits, keys that share a hash.
        #[test]
        fn it_is_an_ordered_map(
            steps in prop::collection::vec((0..4u8, 0..40u64, 0..3u32, 0..3u8), 0..1500), from in 0..40u64, spread in 0..3u32
        ) {
            let (mut entries, mut model) = (Entries::by(hash_in), BTreeMap::new());
            let hash_of = |n: u64, salt: u32| (n << 58).rotate_left(spread * 5) ^ u64::from(salt);
            for (step, n, salt, k) in steps {
                let hash = hash_of(n, salt);
                let key = [&hash.to_le_bytes()[..], &vec![k; usize::from(k) * 12]].concat();
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
            check_tags(&entries);
            let hash = hash_of(from, 1);
            for start in [0, hash, u64::MAX] {
                let expected: Vec<_> = model.range((start, vec![])..).map(|((h, k), v)| (*h, k.clone(), v.clone())).collect();
                prop_assert_eq!(listed(&entries, start), expected);
            }
        }
    }

    #[test]
    fn leaves_stay_small_as_the_map_grows() {
        let mut entries = Entries::by(hash_in);
        let hashes = || (0..100_000u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for hash in hashes() {
            entries.insert(hash, Key::new(&hash.to_le_bytes()), Value::new(b"v"), 1);
        }
        let longest = entries.leaves.iter().chain(&entries.halves).map(|leaf| leaf.entries.len()).max();
        assert!(longest < Some(4 * LEAF_MEAN), "{longest:?}");
        for hash in hashes() {
            assert!(entries.remove(hash, &hash.to_le_bytes()).is_some());
        }
        assert_eq!(entries.leaves.iter().chain(&entries.halves).map(|leaf| leaf.entries.capacity()).sum::<usize>(), 0);
    }
}
