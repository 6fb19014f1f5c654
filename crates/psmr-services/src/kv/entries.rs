//! The entries of a group in the order of their keys' hashes: a B+-tree of two levels whose inner one need not be searched,
//! because hashes are spread evenly: the leading bits of a hash are the number of its leaf.
//!
//! A search thus touches few cache lines, which is what it costs in a replica, whose caches other threads empty all the time.
//! Leaves are split one at a time as entries come, from the lowest to the highest, so that no insertion pays for all (linear
//! hashing: Litwin, VLDB 1980, with leading bits instead of trailing ones, which keeps the order). Keys made to have equal
//! leading bits share a leaf, which is then searched in logarithmic time but grown in linear time.

use super::blocks::{Blocks, Place};
use super::bytes::{Key, Value};
use super::place;

/// Entries per leaf, on the average.
const LEAF_MEAN: usize = 10;

/// The leading bits that number the leaves of an empty map.
const BITS_MIN: u32 = 2;

/// Of so many entries a leaf has the tags: more than it has once in a hundred times, and together with where the entries are
/// a cache line.
const TAGS: usize = 28;

/// The tag of a place where there is no entry.
const NO_TAG: i16 = i16::MAX;

/// Leaves lie in allocations of so many.
const SEGMENT_BITS: u32 = 10;

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
    place: Place,
    tags: [i16; TAGS],
}

/// See `Leaf`. `bits`: how many leading bits all hashes in the leaf share.
#[inline]
fn tag_of(hash: u64, bits: u32) -> i16 {
    ((hash << bits >> 48) as u16 ^ 0x8000) as i16
}

impl Leaf {
    const EMPTY: Leaf = Leaf { place: Place::EMPTY, tags: [NO_TAG; TAGS] };

    /// Sets all tags.
    fn tag(&mut self, bits: u32, entries: &[Entry], hash_of: HashOf) {
        self.tags = [NO_TAG; TAGS];
        if entries.len() <= TAGS {
            let tags = self.tags.iter_mut().zip(entries);
            tags.for_each(|(tag, entry)| *tag = tag_of(hash_of(entry.key.bytes()), bits));
        }
    }

    /// Where the first entry is whose hash may be this one or a higher one.
    #[inline]
    fn position(&self, bits: u32, hash: u64, entries: &[Entry], hash_of: HashOf) -> usize {
        if entries.len() <= TAGS {
            let tag = tag_of(hash, bits);
            self.tags.iter().map(|other| i16::from(*other < tag)).sum::<i16>() as usize
        } else {
            entries.partition_point(|entry| hash_of(entry.key.bytes()) < hash)
        }
    }

    /// The position of a key among the entries: where it is, or where it would be.
    #[inline]
    fn find(&self, bits: u32, hash: u64, key: &[u8], entries: &[Entry], hash_of: HashOf) -> Result<usize, usize> {
        let mut at = self.position(bits, hash, entries, hash_of);
        while let Some(entry) = entries.get(at) {
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

    /// One more than `len` entries: one comes to this position.
    fn insert_tag(&mut self, len: usize, at: usize, tag: i16) {
        if len < TAGS {
            self.tags.copy_within(at..TAGS - 1, at + 1);
            self.tags[at] = tag;
        }
    }

    /// One less than `len` entries: that at this position goes. False if all tags have to be set anew.
    fn remove_tag(&mut self, len: usize, at: usize) -> bool {
        let has_tags = len <= TAGS;
        if has_tags {
            self.tags.copy_within(at + 1.., at);
            self.tags[TAGS - 1] = NO_TAG;
        }
        has_tags
    }
}

/// Leaves by their numbers.
#[derive(Default)]
struct Leaves(Vec<Vec<Leaf>>);

/// The segment of a leaf, and its place in it.
#[inline]
fn locate(at: usize) -> (usize, usize) {
    (at >> SEGMENT_BITS, at & ((1 << SEGMENT_BITS) - 1))
}

impl Leaves {
    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| ((self.0.len() - 1) << SEGMENT_BITS) + last.len())
    }

    #[inline]
    fn get(&self, at: usize) -> &Leaf {
        let (segment, at) = locate(at);
        &self.0[segment][at]
    }

    #[inline]
    fn get_mut(&mut self, at: usize) -> &mut Leaf {
        let (segment, at) = locate(at);
        &mut self.0[segment][at]
    }

    fn push(&mut self, leaf: Leaf) {
        match self.0.last_mut() {
            Some(last) if last.len() < 1 << SEGMENT_BITS => last.push(leaf),
            Some(_) => {
                self.0.push(Vec::with_capacity(1 << SEGMENT_BITS));
                self.push(leaf);
            }
            None => self.0.push(vec![leaf]),
        }
    }

    /// Those before `at` are not needed any more: their memory is given back, as far as it is theirs alone.
    fn free_before(&mut self, at: usize) {
        if let (segment @ 1.., 0) = locate(at) {
            self.0[segment - 1] = Vec::new();
        }
    }

    /// From this one on.
    fn iter_from(&self, at: usize) -> impl Iterator<Item = &Leaf> {
        let (segment, start) = locate(at);
        let segments = self.0.get(segment..).unwrap_or_default();
        let first = segments.first().and_then(|first| first.get(start..)).unwrap_or_default();
        first.iter().chain(segments.iter().skip(1).flatten())
    }
}

/// All leaves, by the leading bits of the hashes in them.
struct Table {
    /// By the leading `bits` bits; the first `split` of them have gone to `halves`.
    leaves: Leaves,
    bits: u32,
    split: usize,
    /// By the leading `bits` + 1 bits, as far as leaves have been split.
    halves: Leaves,
}

impl Table {
    fn new() -> Table {
        let mut leaves = Leaves::default();
        (0..1 << BITS_MIN).for_each(|_| leaves.push(Leaf::EMPTY));
        Table { leaves, bits: BITS_MIN, split: 0, halves: Leaves::default() }
    }

    fn len(&self) -> usize {
        self.leaves.len() + self.split
    }

    /// The leaf of a hash, and how many leading bits number it.
    #[inline]
    fn leaf(&self, hash: u64) -> (&Leaf, u32) {
        let at = (hash >> (64 - self.bits)) as usize;
        if at < self.split {
            (self.halves.get((hash >> (63 - self.bits)) as usize), self.bits + 1)
        } else {
            (self.leaves.get(at), self.bits)
        }
    }

    #[inline]
    fn leaf_mut(&mut self, hash: u64) -> (&mut Leaf, u32) {
        let at = (hash >> (64 - self.bits)) as usize;
        if at < self.split {
            (self.halves.get_mut((hash >> (63 - self.bits)) as usize), self.bits + 1)
        } else {
            (self.leaves.get_mut(at), self.bits)
        }
    }

    /// The leaf of a hash and those after it.
    fn iter_from(&self, hash: u64) -> impl Iterator<Item = &Leaf> {
        let at = (hash >> (64 - self.bits)) as usize;
        let halves_before = if at < self.split { (hash >> (63 - self.bits)) as usize } else { self.halves.len() };
        self.halves.iter_from(halves_before).chain(self.leaves.iter_from(at.max(self.split)))
    }

    /// The leaf that is to be split next.
    fn next(&mut self) -> &mut Leaf {
        self.leaves.get_mut(self.split)
    }

    /// The lowest hash of the upper half of `next`.
    fn next_middle(&self) -> u64 {
        (self.split as u64 * 2 + 1) << (63 - self.bits)
    }

    /// `next` has been split into these.
    fn split_next(&mut self, halves: [Leaf; 2]) {
        halves.into_iter().for_each(|half| self.halves.push(half));
        self.split += 1;
        if self.split < self.leaves.len() {
            self.leaves.free_before(self.split);
        } else {
            self.leaves = std::mem::take(&mut self.halves);
            self.bits += 1;
            self.split = 0;
        }
    }
}

/// A hash of a key.
type HashOf = fn(&[u8]) -> u64;

/// A map from keys to values, ordered by the keys' hashes and then by the keys. Callers bring a key's hash along.
pub struct Entries {
    hash_of: HashOf,
    table: Table,
    blocks: Blocks<Entry>,
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
        Entries { hash_of, table: Table::new(), blocks: Blocks::default(), len: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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
        prefetch(self.table.leaf(hash).0);
    }

    /// Fetches the entry of a hash; its leaf is best fetched before.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let (leaf, bits) = self.table.leaf(hash);
        let entries = self.blocks.get(leaf.place);
        if let Some(entry) = entries.get(leaf.position(bits, hash, entries, self.hash_of)) {
            prefetch(entry);
        }
    }

    #[inline]
    fn entry(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        let (leaf, bits) = self.table.leaf(hash);
        let entries = self.blocks.get(leaf.place);
        leaf.find(bits, hash, key, entries, self.hash_of).ok().map(|at| &entries[at])
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Value> {
        self.entry(hash, key).map(|entry| &entry.value)
    }

    /// The version of a key's entry.
    pub fn version(&self, hash: u64, key: &[u8]) -> Option<u64> {
        self.entry(hash, key).map(|entry| entry.version)
    }

    /// The value and the version of a key, to be changed.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<(&mut Value, &mut u64)> {
        let (leaf, bits) = self.table.leaf(hash);
        let entries = self.blocks.get_mut(leaf.place);
        let at = leaf.find(bits, hash, key, entries, self.hash_of).ok()?;
        let Entry { value, version, .. } = &mut entries[at];
        Some((value, version))
    }

    /// Sets the value and the version of a key that may be there.
    pub fn insert(&mut self, hash: u64, key: Key, value: Value, version: u64) {
        let hash_of = self.hash_of;
        debug_assert_eq!(hash, hash_of(key.bytes()));
        let (leaf, bits) = self.table.leaf_mut(hash);
        let entries = self.blocks.get_mut(leaf.place);
        match leaf.find(bits, hash, key.bytes(), entries, hash_of) {
            Ok(at) => (entries[at].value, entries[at].version) = (value, version),
            Err(at) => {
                leaf.insert_tag(entries.len(), at, tag_of(hash, bits));
                let (place, moved) = self.blocks.insert(leaf.place, at, Entry { key, value, version });
                leaf.place = place;
                self.settle(moved);
                self.len += 1;
                if self.len > LEAF_MEAN * self.table.len() {
                    self.split_next();
                }
            }
        }
    }

    /// Tells the leaf whose block has come to another place. Its first entry knows which leaf that is.
    fn settle(&mut self, moved: Option<Place>) {
        if let Some(place) = moved {
            let hash = (self.hash_of)(self.blocks.get(place)[0].key.bytes());
            self.table.leaf_mut(hash).0.place = place;
        }
    }

    fn split_next(&mut self) {
        let place = std::mem::take(&mut self.table.next().place);
        let (mut entries, moved) = self.blocks.take(place);
        self.settle(moved);
        let (middle, bits) = (self.table.next_middle(), self.table.bits + 1);
        let at = entries.partition_point(|entry| (self.hash_of)(entry.key.bytes()) < middle);
        let [mut low, mut high] = [Leaf::EMPTY; 2];
        low.tag(bits, &entries[..at], self.hash_of);
        high.tag(bits, &entries[at..], self.hash_of);
        high.place = self.blocks.put(entries.split_off(at));
        low.place = self.blocks.put(entries);
        self.table.split_next([low, high]);
    }

    /// Removes a key; its value and its version, if it was there.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<(Value, u64)> {
        let (leaf, bits) = self.table.leaf_mut(hash);
        let entries = self.blocks.get(leaf.place);
        let at = leaf.find(bits, hash, key, entries, self.hash_of).ok()?;
        let has_tags = leaf.remove_tag(entries.len(), at);
        let (removed, place, moved) = self.blocks.remove(leaf.place, at);
        leaf.place = place;
        if !has_tags {
            leaf.tag(bits, self.blocks.get(place), self.hash_of);
        }
        self.settle(moved);
        self.len -= 1;
        Some((removed.value, removed.version))
    }

    /// Calls `each` with hash, key, value and version, from `hash` on in ascending order of hash and key, until it returns false.
    pub fn visit_from<'a>(&'a self, hash: u64, mut each: impl FnMut(u64, &'a [u8], &'a Value, u64) -> bool) {
        let entries = self.table.iter_from(hash).flat_map(|leaf| self.blocks.get(leaf.place));
        let hashed = entries.map(|entry| ((self.hash_of)(entry.key.bytes()), entry));
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
        let Table { leaves, halves, bits, split } = &entries.table;
        let all = halves.iter_from(0).map(|leaf| (leaf, bits + 1)).chain(leaves.iter_from(*split).map(|leaf| (leaf, *bits)));
        for (leaf, bits) in all.filter(|(leaf, _)| entries.blocks.get(leaf.place).len() <= TAGS) {
            let mut expected = Leaf::EMPTY;
            expected.tag(bits, entries.blocks.get(leaf.place), entries.hash_of);
            assert_eq!(leaf.tags, expected.tags);
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
        let longest = entries.table.iter_from(0).map(|leaf| entries.blocks.get(leaf.place).len()).max();
        assert!(longest < Some(4 * LEAF_MEAN), "{longest:?}");
        for hash in hashes() {
            assert!(entries.remove(hash, &hash.to_le_bytes()).is_some());
        }
        assert_eq!(entries.blocks.capacity(), 0);
    }
}
