//! Keys in the order of their bytes. The map has them in the order of their hashes: all of it is looked at.

use super::reply::WriteReply;
use std::collections::BTreeMap;

/// The keys from `start` on, up to but without `end`; an empty `end` is the end of all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<'a> {
    /// The first key, if it is there.
    pub start: &'a [u8],
    /// The key after the last one.
    pub end: &'a [u8],
}

impl Bounds<'_> {
    /// Whether a key is within.
    pub fn contain(&self, key: &[u8]) -> bool {
        key >= self.start && (self.end.is_empty() || key < self.end)
    }
}

/// The first or the last keys of those that are found, with their values.
#[derive(Debug)]
pub struct Found<'a> {
    entries: BTreeMap<&'a [u8], &'a [u8]>,
    limit: u64,
    is_reverse: bool,
}

impl<'a> Found<'a> {
    /// Nothing yet; `limit` keys at most stay.
    pub fn new(limit: u64, is_reverse: bool) -> Found<'a> {
        Found { entries: BTreeMap::new(), limit, is_reverse }
    }

    /// Adds a key; beyond the limit, the one that is furthest from the beginning goes.
    pub fn add(&mut self, key: &'a [u8], value: &'a [u8]) {
        let is_full = self.entries.len() as u64 >= self.limit;
        let furthest = if self.is_reverse { self.entries.first_key_value() } else { self.entries.last_key_value() };
        if is_full {
            let Some((furthest, _)) = furthest.map(|(key, value)| (*key, *value)) else { return };
            if (key < furthest) == self.is_reverse {
                return;
            }
            self.entries.remove(furthest);
        }
        self.entries.insert(key, value);
    }

    /// Appends the list of keys and values in turn.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.list(2 * self.entries.len());
        let mut write = |(key, value): (&&[u8], &&[u8])| {
            out.string(key);
            out.string(value);
        };
        if self.is_reverse {
            self.entries.iter().rev().for_each(&mut write);
        } else {
            self.entries.iter().for_each(&mut write);
        }
    }
}
