//! Randomness from the seed: one stream per purpose, so that taking one kind of event away leaves the others as they were.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::RangeInclusive;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

/// What a stream is for.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Sizes, limits and faults of a run.
    Plan = 1,
    /// What clients ask for and when.
    Workload = 2,
    /// Delays of frames, and when connections come back.
    Network = 3,
    /// Disk latency and torn tails.
    Disk = 4,
    /// Which group runs when, and when a replica has its turn.
    Schedule = 5,
    /// Which writes are conditional, and on what.
    Conditions = 6,
}

impl Random {
    /// The stream of `seed` for `purpose`.
    pub fn new(seed: u64, purpose: Purpose) -> Random {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(purpose as u64);
        Random(random)
    }

    /// A number in `range`.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.gen_range(range)
    }

    /// A number in `range`, either sign.
    pub fn signed(&mut self, range: RangeInclusive<i64>) -> i64 {
        self.0.gen_range(range)
    }

    /// A position below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.gen_range(0..count)
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.0.gen_range(0..100) < percent
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
