//! The state of one group: entries ordered by their keys' hashes, and an index of what expires when.
//!
//! Order by hash serves everything at once: a search is led by numbers instead of keys, the hash is needed for the slot
//! anyway, a position is a number that writes cannot invalidate (SCAN), and equal contents have one order (snapshots).
//! `examples/kv_map` measures maps for this.

use super::bytes::{Key, Value};
use super::entries::Entries;
use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};

/// Keys that are not there have versions by so many leading bits of their hashes.
const GONE_BITS: u32 = 12;

/// How many places `Store::gone` has.
pub const GONE_PLACES: usize = 1 << GONE_BITS;

/// The entries of a group.
pub struct Store {
    entries: Entries,
    /// Everything that expires, by time. The hash saves computing it again.
    due: BTreeSet<(u64, u64, Key)>,
    /// The time of the first in `due`; the end of time if there is none.
    due_next_ms: u64,
    /// Changes so far: each gives the key that it changes the version of its own number.
    changes: u64,
    /// By the leading bits of the hash, the last change that removed a key, or the last one of a key that expired. Empty
    /// until there was one.
    gone: Vec<u64>,
}

/// A value that is there. Whoever changes it changes the key's version.
pub struct Live<'a> {
    value: &'a mut Value,
    version: &'a mut u64,
    changes: &'a mut u64,
}

impl Deref for Live<'_> {
    type Target = Value;

    #[inline]
    fn deref(&self) -> &Value {
        self.value
    }
}

impl DerefMut for Live<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Value {
        *self.changes += 1;
        *self.version = *self.changes;
        self.value
    }
}

/// The place of a hash in `Store::gone`.
fn gone_place(hash: u64) -> usize {
    (hash >> (u64::BITS - GONE_BITS)) as usize
}

impl Default for Store {
    fn default() -> Self {
        Entries::default().into()
    }
}

impl From<Entries> for Store {
    fn from(entries: Entries) -> Self {
        Store { entries, due: BTreeSet::new(), due_next_ms: u64::MAX, changes: 0, gone: Vec::new() }
    }
}

impl Store {
    /// How many keys there are, expired ones that have not been removed included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many keys will expire, or have expired and not been removed.
    pub fn expiring_count(&self) -> usize {
        self.due.len()
    }

    /// How many keys have expired at `now_ms` but have not been removed.
    pub fn expired_count(&self, now_ms: u64) -> usize {
        if self.due_next_ms > now_ms {
            return 0;
        }
        self.due.iter().take_while(|(expires_ms, ..)| *expires_ms <= now_ms).count()
    }

    /// The value of a key, expired or not.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Value> {
        self.entries.get(hash, key)
    }

    /// The version of a key. A key that has expired is as good as removed: it `is_there` no more.
    ///
    /// The version of a key that is there is odd. The version of one that is not is that of its neighbours by hash: it may
    /// change though the key does not come and go, but never stays though it does.
    pub fn version(&self, hash: u64, key: &[u8], is_there: bool) -> u64 {
        let own = self.entries.version(hash, key);
        match own {
            Some(version) if is_there => version << 1 | 1,
            _ => self.gone_version(hash).max(own.unwrap_or_default()) << 1,
        }
    }

    fn gone_version(&self, hash: u64) -> u64 {
        self.gone.get(gone_place(hash)).copied().unwrap_or_default()
    }

    fn set_gone_version(&mut self, hash: u64, version: u64) {
        if self.gone.is_empty() {
            self.gone = vec![0; GONE_PLACES];
        }
        self.gone[gone_place(hash)] = version;
    }

    /// Fetches what searches for keys with these hashes will touch.
    pub fn prefetch(&self, hashes: &[u64]) {
        self.entries.prefetch(hashes);
    }

    /// Fetches where the entries are among which a search for a key with this hash will be.
    pub fn prefetch_leaf(&self, hash: u64) {
        self.entries.prefetch_leaf(hash);
    }

    /// Fetches the entry that it will be for; `prefetch_leaf` comes before.
    pub fn prefetch_entry(&self, hash: u64) {
        self.entries.prefetch_entry(hash);
    }

    /// The value of a key, to be changed; if it has expired at `now_ms`, it is removed instead.
    #[inline]
    pub fn live_mut(&mut self, hash: u64, key: &[u8], now_ms: u64) -> Option<Live<'_>> {
        if self.due_next_ms <= now_ms {
            self.remove_if_expired(hash, key, now_ms);
        }
        let (value, version) = self.entries.get_mut(hash, key)?;
        Some(Live { value, version, changes: &mut self.changes })
    }

    #[cold]
    fn remove_if_expired(&mut self, hash: u64, key: &[u8], now_ms: u64) {
        if self.get(hash, key).and_then(Value::expires_ms).is_some_and(|expires_ms| expires_ms <= now_ms) {
            self.take_expired(hash, key);
        }
    }

    /// Removes a key that has expired, if it is there. That is no change: its version has been that of a removed key before.
    fn take_expired(&mut self, hash: u64, key: &[u8]) -> Option<Value> {
        let (value, version) = self.entries.remove(hash, key)?;
        self.set_gone_version(hash, version.max(self.gone_version(hash)));
        if let Some(expires_ms) = value.expires_ms() {
            self.due_remove(expires_ms, hash, Key::new(key));
        }
        Some(value)
    }

    /// Adds a key that is not there.
    pub fn add(&mut self, hash: u64, key: &[u8], value: Value) {
        self.changes += 1;
        self.add_with_version(hash, key, value, self.changes);
    }

    fn add_with_version(&mut self, hash: u64, key: &[u8], value: Value, version: u64) {
        let key = Key::new(key);
        if let Some(expires_ms) = value.expires_ms() {
            self.due_add(expires_ms, hash, key.clone());
        }
        self.entries.insert(hash, key, value, version);
    }

    /// Adds a key of a snapshot, which has a version already.
    ///
    /// # Errors
    /// If the version is one that no change has given.
    pub fn restore(&mut self, hash: u64, key: &[u8], value: Value, version: u64) -> Result<(), ()> {
        self.add_with_version(hash, key, value, version);
        (version <= self.changes).then_some(()).ok_or(())
    }

    /// What versions follow from beside the entries: the number of changes, and those that removed keys.
    pub fn history(&self) -> (u64, &[u64]) {
        (self.changes, &self.gone)
    }

    /// Sets what `history` gave.
    ///
    /// # Errors
    /// If it did not.
    pub fn set_history(&mut self, changes: u64, gone: Vec<u64>) -> Result<(), ()> {
        let is_sound = (gone.is_empty() || gone.len() == GONE_PLACES) && gone.iter().all(|change| *change <= changes);
        (self.changes, self.gone) = (changes, gone);
        is_sound.then_some(()).ok_or(())
    }

    /// Removes a key; whether it was there.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> bool {
        let Some((value, _)) = self.entries.remove(hash, key) else { return false };
        self.mark_gone(hash);
        if let Some(expires_ms) = value.expires_ms() {
            self.due_remove(expires_ms, hash, Key::new(key));
        }
        true
    }

    /// Counts a change after which a key is not there.
    pub fn mark_gone(&mut self, hash: u64) {
        self.changes += 1;
        self.set_gone_version(hash, self.changes);
    }

    /// Sets or removes the expiry of a key that is there.
    pub fn set_expires_ms(&mut self, hash: u64, key: &[u8], expires_ms: Option<u64>) {
        let Some(mut value) = self.live_mut(hash, key, 0) else { return };
        let before = value.expires_ms();
        value.set_expires_ms(expires_ms);
        if before == expires_ms {
            return;
        }
        if let Some(before) = before {
            self.due_remove(before, hash, Key::new(key));
        }
        if let Some(expires_ms) = expires_ms {
            self.due_add(expires_ms, hash, Key::new(key));
        }
    }

    fn due_add(&mut self, expires_ms: u64, hash: u64, key: Key) {
        self.due.insert((expires_ms, hash, key));
        self.due_next_ms = self.due_next_ms.min(expires_ms);
    }

    fn due_remove(&mut self, expires_ms: u64, hash: u64, key: Key) {
        self.due.remove(&(expires_ms, hash, key));
        self.due_next_ms = self.due.first().map_or(u64::MAX, |(expires_ms, ..)| *expires_ms);
    }

    /// When the next key expires, if one does.
    pub fn due_next_ms(&self) -> Option<u64> {
        (self.due_next_ms < u64::MAX).then_some(self.due_next_ms)
    }

    /// Removes keys that have expired at `now_ms`, `limit` at most.
    #[inline]
    pub fn remove_expired(&mut self, now_ms: u64, limit: usize) {
        for _ in 0..limit {
            if self.due_next_ms > now_ms {
                return;
            }
            let Some((_, hash, key)) = self.due.first().cloned() else { return };
            self.take_expired(hash, key.bytes());
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        let old = std::mem::take(self);
        (self.changes, self.gone) = (old.changes + 1, old.gone);
        old.entries.visit_from(0, |hash, _, _, _| {
            self.set_gone_version(hash, self.changes);
            true
        });
    }

    /// Calls `each` with hash, key, value and version, from `hash` on in ascending order of hash and key, until it returns false.
    pub fn visit_from<'a>(&'a self, hash: u64, each: impl FnMut(u64, &'a [u8], &'a Value, u64) -> bool) {
        self.entries.visit_from(hash, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// By hash and key: value and expiry.
    type Model = BTreeMap<(u64, Vec<u8>), (Vec<u8>, Option<u64>)>;

    fn check(store: &Store, model: &Model) {
        let mut all = Vec::new();
        store.visit_from(0, |hash, key, value, _| {
            all.push(((hash, key.to_vec()), (value.bytes().to_vec(), value.expires_ms())));
            true
        });
        assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(store.len(), model.len());
        let mut times: Vec<u64> = model.values().filter_map(|(_, expires_ms)| *expires_ms).collect();
        times.sort_unstable();
        assert_eq!(store.due.iter().map(|(expires_ms, ..)| *expires_ms).collect::<Vec<_>>(), times);
        assert_eq!(store.due_next_ms, times.first().copied().unwrap_or(u64::MAX));
    }

    proptest::proptest! {
        #[test]
        fn keys_of_one_hash_are_told_apart(steps in proptest::collection::vec((0..5u8, 0..12u8, 1..40u64), 0..300)) {
            let (mut store, mut model) = (Store::from(Entries::by(|key| u64::from(key[0] % 3))), Model::new());
            for (step, k, n) in steps {
                let (hash, key) = (u64::from(k % 3), vec![k; 1 + usize::from(k) * 3]);
                let at = (hash, key.clone());
                match step {
                    0 | 1 => match store.live_mut(hash, &key, 0) {
                        Some(mut value) => {
                            value.assign(&[n as u8; 20]);
                            model.get_mut(&at).unwrap().0 = vec![n as u8; 20];
                        }
                        None => {
                            let mut value = Value::new(b"new");
                            value.set_expires_ms((n < 20).then_some(n));
                            store.add(hash, &key, value);
                            assert_eq!(model.insert(at, (b"new".to_vec(), (n < 20).then_some(n))), None);
                        }
                    },
                    2 => assert_eq!(store.remove(hash, &key), model.remove(&at).is_some()),
                    3 => {
                        let expires_ms = (n < 30).then_some(n);
                        store.set_expires_ms(hash, &key, expires_ms);
                        if let Some(value) = model.get_mut(&at) { value.1 = expires_ms; }
                    }
                    _ => {
                        assert_eq!(store.expired_count(n), model.values().filter(|(_, e)| e.is_some_and(|e| e <= n)).count());
                        store.remove_expired(n, 1000);
                        model.retain(|_, (_, expires_ms)| expires_ms.is_none_or(|e| e > n));
                    }
                }
                check(&store, &model);
            }
        }
    }

    #[test]
    fn a_touched_key_that_has_expired_is_removed() {
        let mut store = Store::from(Entries::by(|_| 1));
        let mut value = Value::new(b"v");
        value.set_expires_ms(Some(10));
        store.add(1, b"k", value);
        assert!(store.live_mut(1, b"k", 9).is_some());
        assert!(store.live_mut(1, b"k", 10).is_none());
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn no_more_expired_keys_than_allowed_are_removed_at_once() {
        let mut store = Store::from(Entries::by(|key| u64::from(key[0])));
        for hash in 0..10u64 {
            let mut value = Value::new(b"v");
            value.set_expires_ms(Some(hash));
            store.add(hash, &hash.to_le_bytes(), value);
        }
        store.remove_expired(7, 3);
        assert_eq!((store.len(), store.expired_count(7)), (7, 5));
    }
}
