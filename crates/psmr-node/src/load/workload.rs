//! What the connections of one thread ask for, command by command, over a key space: at random, or every key once.

use super::item::{Kind, Operation, STAMPS};
use super::options::Options;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The write is acknowledged, or the read found what it may find.
    Good,
    /// The read found nothing although there was something to find.
    Lost,
    /// The read found what it must not find, or the reply was of another kind.
    Wrong,
    /// The server refused.
    Refused,
    /// The connection ended before the reply.
    Unknown,
}

/// The commands of one thread. Connections are numbered within the thread.
pub(super) trait Workload: Send {
    /// The next command of a connection; `None` when it has no more.
    fn next(&mut self, connection: usize) -> Option<Operation>;

    /// Every command that `next` gave is settled once, in order per connection.
    fn settled(&mut self, _connection: usize, _operation: &Operation, _outcome: Outcome) {}
}

/// Random reads and writes over a key space, in one order for all connections of the thread.
pub(super) struct KeySpace {
    random: SmallRng,
    mix: Mix,
    keys: Keys,
    stamp: u32,
    /// So many commands in sequence are of one kind, and of neighbouring keys if they share tags.
    together: u64,
    is_tagged: bool,
    /// How many of them there have been, and their kind and first key.
    begun: u64,
    kind: Kind,
    first: u64,
}

impl KeySpace {
    pub fn new(options: &Options, thread: usize) -> Self {
        KeySpace {
            random: random_of(options.seed, thread),
            mix: Mix::new(options.reads),
            keys: Keys::new(options.keys, options.zipf),
            stamp: 0,
            together: options.together as u64,
            is_tagged: options.is_tagged,
            begun: 0,
            kind: Kind::Set,
            first: 0,
        }
    }
}

impl Workload for KeySpace {
    #[inline]
    fn next(&mut self, _connection: usize) -> Option<Operation> {
        let mut key = self.keys.draw(&mut self.random);
        if self.begun == 0 {
            self.kind = if self.mix.is_read(&mut self.random) { Kind::GetAny } else { Kind::Set };
            self.first = key - key % self.together;
        }
        if self.is_tagged {
            key = self.first + self.begun;
        }
        self.begun = (self.begun + 1) % self.together;
        if self.kind == Kind::GetAny {
            return Some(Operation { key, writer: 0, stamp: 0, kind: Kind::GetAny });
        }
        self.stamp = (self.stamp + 1) % STAMPS;
        Some(Operation { key, writer: 0, stamp: self.stamp, kind: Kind::Set })
    }
}

/// A generator for one thread of a load.
pub(super) fn random_of(seed: u64, thread: usize) -> SmallRng {
    SmallRng::seed_from_u64(seed.wrapping_add((thread as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Decides between reads and writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    /// Of 2^32 commands, so many read.
    reads: u64,
}

impl Mix {
    pub fn new(reads: f64) -> Self {
        Mix { reads: (reads * 4_294_967_296.0) as u64 }
    }

    #[inline]
    pub fn is_read(self, random: &mut SmallRng) -> bool {
        self.reads != 0 && u64::from(random.next_u32()) < self.reads
    }
}

/// Draws keys, evenly or by rank. Ranks are spread over the key space, so that hot keys are no neighbours.
enum Keys {
    Uniform { keys: u64 },
    Zipf { keys: u64, ranks: Zipf<f64>, spread: u64 },
}

impl Keys {
    fn new(keys: u64, exponent: f64) -> Self {
        match Zipf::new(keys as f64, exponent) {
            Ok(ranks) if exponent > 0.0 => Keys::Zipf { keys, ranks, spread: coprime(keys) },
            _ => Keys::Uniform { keys },
        }
    }

    #[inline]
    fn draw(&self, random: &mut SmallRng) -> u64 {
        match self {
            Keys::Uniform { keys } => random.random_range(0..*keys),
            Keys::Zipf { keys, ranks, spread } => (ranks.sample(random) as u64 - 1) * spread % keys,
        }
    }
}

/// A number that has no divisor in common with `keys`, near the golden section of it: multiplying by it permutes the keys.
fn coprime(keys: u64) -> u64 {
    let start = (keys as f64 * 0.618_033_988) as u64 + 1;
    (start..).find(|candidate| divisor(*candidate, keys) == 1).unwrap_or(1)
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        divisor(b, a % b)
    }
}

/// Writes every key once.
pub(super) struct Preload {
    next: u64,
    keys: u64,
}

impl Preload {
    pub fn new(keys: u64) -> Self {
        Preload { next: 0, keys }
    }
}

impl Workload for Preload {
    fn next(&mut self, _connection: usize) -> Option<Operation> {
        let key = self.next;
        if key >= self.keys {
            return None;
        }
        self.next += 1;
        Some(Operation { key, writer: 0, stamp: 0, kind: Kind::Set })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn draws(options: &Options, count: usize) -> Vec<Operation> {
        let mut workload = KeySpace::new(options, 0);
        (0..count).filter_map(|_| workload.next(0)).collect()
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let options = Options { reads: 0.5, ..Options::default() };
        assert_eq!(draws(&options, 100), draws(&options, 100));
        assert_ne!(draws(&options, 100), draws(&Options { seed: 2, ..options }, 100));
    }

    #[test]
    fn reads_have_their_share() {
        for (reads, low, high) in [(0.0, 0, 0), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)] {
            let options = Options { reads, ..Options::default() };
            let count = draws(&options, 10_000).iter().filter(|o| o.kind == Kind::GetAny).count();
            assert!((low..=high).contains(&count), "{reads}: {count}");
        }
    }

    #[test]
    fn commands_together_are_of_one_kind_and_may_share_a_tag() {
        for is_tagged in [false, true] {
            let options = Options { keys: 1_000, reads: 0.5, together: 4, is_tagged, ..Options::default() };
            let drawn = draws(&options, 400);
            assert!(drawn.chunks(4).all(|unit| unit.iter().all(|o| o.kind == unit[0].kind)));
            let share = |unit: &[Operation]| unit.iter().all(|o| o.key / 4 == unit[0].key / 4);
            assert_eq!(drawn.chunks(4).all(share), is_tagged);
            assert!([Kind::Set, Kind::GetAny].iter().all(|kind| drawn.iter().any(|o| o.kind == *kind)));
        }
    }

    #[test]
    fn uniform_keys_cover_the_space_evenly() {
        let options = Options { keys: 10, ..Options::default() };
        let mut counts = [0; 10];
        draws(&options, 10_000).iter().for_each(|o| counts[o.key as usize] += 1);
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_follows_its_law_over_spread_keys() {
        let options = Options { keys: 1_000, zipf: 1.0, ..Options::default() };
        let mut counts = BTreeMap::new();
        draws(&options, 100_000).iter().for_each(|o| *counts.entry(o.key).or_insert(0_u32) += 1);
        assert!(counts.keys().all(|key| *key < 1_000));
        let mut ranked: Vec<(u32, u64)> = counts.iter().map(|(key, count)| (*count, *key)).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        // The first of 1,000 ranks has 1/7.49 of the draws, the second half of that.
        assert!((12_700..14_000).contains(&ranked[0].0), "{ranked:?}");
        assert!((6_200..7_200).contains(&ranked[1].0), "{ranked:?}");
        assert!(ranked[0].1.abs_diff(ranked[1].1) > 100, "hot keys are neighbours");
    }

    #[test]
    fn spreading_ranks_is_a_permutation() {
        for keys in [1, 2, 3, 10, 97, 1_000, 4_096] {
            let mut seen: Vec<u64> = (0..keys).map(|rank| rank * coprime(keys) % keys).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..keys).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_preload_names_every_key_once() {
        let mut preload = Preload::new(100);
        let keys: Vec<u64> = std::iter::from_fn(|| preload.next(0).map(|o| o.key)).collect();
        assert_eq!(keys, (0..100).collect::<Vec<_>>());
    }
}
