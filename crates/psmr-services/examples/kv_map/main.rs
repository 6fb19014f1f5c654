//! Measures maps that could hold a group's state: nanoseconds per operation and bytes per key, for keys of 16 bytes and
//! values of 8, in 16 groups. Making and hashing the key is not
//! counted. Each map is measured in a process of its own, because memory that was freed is not given back.
//!
//! ```text
//! cargo run --release -p psmr-services --example kv_map -- [keys]
//! ```

use psmr_services::kv::bytes::{Key, Value};
use psmr_services::kv::entries::Entries;
use psmr_services::kv::place_of;
use std::collections::BTreeMap;
use std::time::Instant;
use tree::Tree;

mod tree;

const GROUPS: usize = 16;

/// Operations that are timed together.
const STRETCH: u64 = 500;

/// What a group's state needs of a map.
trait Map: Default {
    fn set(&mut self, hash: u64, key: &[u8], value: &[u8]);
    fn get(&self, hash: u64, key: &[u8]) -> Option<&[u8]>;
    fn remove(&mut self, hash: u64, key: &[u8]) -> bool;
}

struct Entry {
    key: Key,
    value: Value,
}

impl Entry {
    fn new(key: &[u8], value: &[u8]) -> Entry {
        Entry { key: Key::new(key), value: Value::new(value) }
    }
}

macro_rules! by_hash {
    ($name:ident, $map:ty) => {
        #[derive(Default)]
        struct $name($map);

        impl Map for $name {
            fn set(&mut self, hash: u64, key: &[u8], value: &[u8]) {
                match self.0.get_mut(&hash) {
                    Some(entry) => {
                        assert_eq!(entry.key.bytes(), key);
                        entry.value.assign(value);
                    }
                    None => drop(self.0.insert(hash, Entry::new(key, value))),
                }
            }

            fn get(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
                self.0.get(&hash).filter(|entry| entry.key.bytes() == key).map(|entry| entry.value.bytes())
            }

            fn remove(&mut self, hash: u64, _: &[u8]) -> bool {
                self.0.remove(&hash).is_some()
            }
        }
    };
}

by_hash!(OwnTree, Tree<Entry>);
by_hash!(StdByHash, BTreeMap<u64, Entry>);
by_hash!(IndexsetByHash, indexset::BTreeMap<u64, Entry>);
by_hash!(SweepByHash, sweep_bptree::BPlusTreeMap<u64, Entry>);
// No order, for comparison.
by_hash!(StdHash, std::collections::HashMap<u64, Entry>);

/// What the store uses.
impl Map for Entries {
    fn set(&mut self, hash: u64, key: &[u8], value: &[u8]) {
        match self.get_mut(hash, key) {
            Some((old, _)) => old.assign(value),
            None => self.insert(hash, Key::new(key), Value::new(value), 0),
        }
    }

    fn get(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        self.get(hash, key).map(Value::bytes)
    }

    fn remove(&mut self, hash: u64, key: &[u8]) -> bool {
        self.remove(hash, key).is_some()
    }
}

/// The order that range queries over keys would like.
#[derive(Default)]
struct StdByKey(BTreeMap<Key, Value>);

impl Map for StdByKey {
    fn set(&mut self, _: u64, key: &[u8], value: &[u8]) {
        match self.0.get_mut(&Key::new(key)) {
            Some(old) => old.assign(value),
            None => drop(self.0.insert(Key::new(key), Value::new(value))),
        }
    }

    fn get(&self, _: u64, key: &[u8]) -> Option<&[u8]> {
        self.0.get(&Key::new(key)).map(Value::bytes)
    }

    fn remove(&mut self, _: u64, key: &[u8]) -> bool {
        self.0.remove(&Key::new(key)).is_some()
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("this program needs /proc");
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("statm has numbers") * 4096
}

fn key_of(number: u64, buffer: &mut [u8; 16]) -> &[u8] {
    *buffer = *b"key:000000000000";
    let mut rest = number;
    for digit in buffer[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    buffer
}

/// Numbers below `keys`, each once, in no order.
fn shuffled(keys: u64, salt: u64) -> impl Iterator<Item = u64> {
    let (mask, shift) = (keys.next_power_of_two() - 1, keys.next_power_of_two().trailing_zeros() / 2);
    (0..=mask)
        .map(move |i| {
            let mixed = (i ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
            (mixed ^ (mixed >> shift)).wrapping_mul(0xbf58_476d_1ce4_e5b9) & mask
        })
        .filter(move |number| *number < keys)
}

/// What is done to each key: map, hash, key, number.
type Step<'s, M> = &'s dyn Fn(&mut M, u64, &[u8], u64);

fn measure<M: Map>(name: &str, keys: u64) {
    let before = resident_bytes();
    let mut groups: Vec<M> = (0..GROUPS).map(|_| M::default()).collect();
    let mut buffer = [0; 16];
    // The lower quartile over short stretches: other work on the machine slows some of them.
    let mut timed = |groups: &mut Vec<M>, rounds: u64, each: Step<'_, M>| {
        let mut stretches = Vec::new();
        for round in 0..rounds {
            let mut start = Instant::now();
            for (at, number) in (1..).zip(shuffled(keys, round)) {
                let key = key_of(number, &mut buffer);
                let place = place_of(key);
                each(&mut groups[usize::from(place.slot) % GROUPS], place.hash, key, number);
                if at % STRETCH == 0 {
                    stretches.push(start.elapsed().as_nanos() as f64 / STRETCH as f64);
                    start = Instant::now();
                }
            }
        }
        stretches.sort_by(f64::total_cmp);
        stretches[stretches.len() / 4]
    };
    let rounds = (6_000_000 / keys).max(2);
    let idle = timed(&mut groups, rounds, &|_, hash, key, n| assert_ne!((hash, key.len()), (n, 0)));
    let add = timed(&mut groups, 1, &|m, hash, key, n| m.set(hash, key, &n.to_be_bytes()));
    let bytes = (resident_bytes() - before) as f64 / keys as f64;
    let get = timed(&mut groups, rounds, &|m, hash, key, n| assert_eq!(m.get(hash, key), Some(&n.to_be_bytes()[..])));
    let set = timed(&mut groups, rounds, &|m, hash, key, n| m.set(hash, key, &n.to_be_bytes()));
    let remove = timed(&mut groups, 1, &|m, hash, key, _| assert!(m.remove(hash, key)));
    let [add, get, set, remove] = [add, get, set, remove].map(|ns| ns - idle);
    println!("{name:22} {keys:>9} {add:>8.0} {get:>8.0} {set:>8.0} {remove:>8.0} {bytes:>10.1}");
}

type Measure = fn(&str, u64);

const MAPS: [(&str, Measure); 7] = [
    ("two levels, by hash", measure::<Entries>),
    ("own tree, by hash", measure::<OwnTree>),
    ("std BTreeMap, by hash", measure::<StdByHash>),
    ("indexset, by hash", measure::<IndexsetByHash>),
    ("sweep-bptree, by hash", measure::<SweepByHash>),
    ("std BTreeMap, by key", measure::<StdByKey>),
    ("std HashMap (no order)", measure::<StdHash>),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let keys = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    if let Some(map) = arguments.next().and_then(|n| n.parse::<usize>().ok()).and_then(|n| MAPS.get(n)) {
        return (map.1)(map.0, keys);
    }
    println!("{:22} {:>9} {:>8} {:>8} {:>8} {:>8} {:>10}", "map", "keys", "add ns", "get ns", "set ns", "del ns", "bytes/key");
    let program = std::env::current_exe().expect("the program has a path");
    for (map, (name, _)) in MAPS.iter().enumerate() {
        let status = std::process::Command::new(&program).args([keys.to_string(), map.to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "measuring {name} failed");
    }
}
