//! Writes that each have a key of their own, and the memory of which were acknowledged: afterwards every one of them can be
//! read back. The memory is a count per connection and the exceptions, not a list.

use super::item::{Format, Kind, Operation, STAMPS};
use super::options::Options;
use super::workload::{random_of, Mix, Outcome, Workload};
use rand::rngs::SmallRng;
use rand::RngExt;
use std::ops::Range;
use std::sync::Arc;

/// The writes of one connection: numbered from 0 without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writer {
    /// The connection, over all threads.
    number: u32,
    /// In the value of every write.
    stamp: u32,
    /// Writes that were sent.
    sent: u64,
    /// Writes that were settled: all below this number are acknowledged, or in `exceptions`.
    settled: u64,
    /// Writes without acknowledgement: ascending, apart from each other.
    exceptions: Vec<Range<u64>>,
}

impl Writer {
    fn new(number: u32, seed: u64) -> Self {
        // The stamp tells the writes of this run from those of a run with another seed on the same servers.
        let stamp = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
        Writer { number, stamp: stamp.wrapping_add(number) % STAMPS, ..Writer::default() }
    }

    fn operation(&self, key: u64, kind: Kind) -> Operation {
        Operation { key, writer: self.number, stamp: self.stamp, kind }
    }

    fn settle(&mut self, key: u64, acknowledged: bool) {
        debug_assert_eq!(key, self.settled, "writes are settled in order");
        self.settled = key + 1;
        if acknowledged {
            return;
        }
        match self.exceptions.last_mut() {
            Some(last) if last.end == key => last.end = key + 1,
            _ => self.exceptions.push(key..key + 1),
        }
    }

    fn is_acknowledged(&self, key: u64) -> bool {
        let after = self.exceptions.partition_point(|range| range.end <= key);
        key < self.settled && self.exceptions.get(after).is_none_or(|range| key < range.start)
    }

    fn acknowledged(&self) -> u64 {
        self.settled - self.exceptions.iter().map(|range| range.end - range.start).sum::<u64>()
    }
}

/// Unique writes of the connections of one thread, mixed with reads of what they wrote.
pub(super) struct UniqueWrites {
    random: SmallRng,
    mix: Mix,
    writers: Vec<Writer>,
}

impl UniqueWrites {
    /// `connections`: the thread's connections by their numbers over all threads.
    pub fn new(options: &Options, thread: usize, connections: &[usize]) -> Self {
        UniqueWrites {
            random: random_of(options.seed, thread),
            mix: Mix::new(options.reads),
            writers: connections.iter().map(|number| Writer::new(*number as u32, options.seed)).collect(),
        }
    }

    pub fn into_writers(self) -> Vec<Writer> {
        self.writers
    }
}

impl Workload for UniqueWrites {
    #[inline]
    fn next(&mut self, connection: usize) -> Option<Operation> {
        let writer = &mut self.writers[connection];
        if writer.settled > 0 && self.mix.is_read(&mut self.random) {
            let key = self.random.random_range(0..writer.settled);
            if writer.is_acknowledged(key) {
                return Some(writer.operation(key, Kind::GetExactly));
            }
        }
        let key = writer.sent;
        writer.sent += 1;
        Some(writer.operation(key, Kind::Set))
    }

    #[inline]
    fn settled(&mut self, connection: usize, operation: &Operation, outcome: Outcome) {
        if operation.kind == Kind::Set {
            self.writers[connection].settle(operation.key, outcome == Outcome::Good);
        }
    }
}

/// All acknowledged writes of a load.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    format: Format,
    writers: Arc<Vec<Writer>>,
}

impl Acknowledged {
    pub(super) fn new(format: Format, writers: Vec<Writer>) -> Self {
        Acknowledged { format, writers: Arc::new(writers) }
    }

    /// How many writes were acknowledged.
    pub fn count(&self) -> u64 {
        self.writers.iter().map(Writer::acknowledged).sum()
    }

    pub(super) fn format(&self) -> &Format {
        &self.format
    }
}

/// What one connection of a verification found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub checked: u64,
    pub lost: u64,
    pub wrong: u64,
    pub refused: u64,
}

impl Found {
    pub fn add(&mut self, other: Found) {
        self.checked += other.checked;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.refused += other.refused;
    }
}

/// Reads a share of the acknowledged writes back, each connection its own.
pub(super) struct ReadBack {
    acknowledged: Acknowledged,
    cursors: Vec<Cursor>,
}

/// One connection's place: it reads the writers `writer`, `writer + step` and so on.
struct Cursor {
    writer: usize,
    step: usize,
    key: u64,
    exception: usize,
    found: Found,
}

impl ReadBack {
    /// `shares`: for each connection of the thread, its share of the writers and into how many shares they are divided.
    pub fn new(acknowledged: &Acknowledged, shares: impl Iterator<Item = (usize, usize)>) -> Self {
        let cursors =
            shares.map(|(writer, step)| Cursor { writer, step, key: 0, exception: 0, found: Found::default() }).collect();
        ReadBack { acknowledged: acknowledged.clone(), cursors }
    }

    /// What each connection found.
    pub fn found(&self) -> impl Iterator<Item = Found> + '_ {
        self.cursors.iter().map(|cursor| cursor.found)
    }
}

impl Workload for ReadBack {
    fn next(&mut self, connection: usize) -> Option<Operation> {
        let cursor = &mut self.cursors[connection];
        loop {
            let writer = self.acknowledged.writers.get(cursor.writer)?;
            if let Some(range) = writer.exceptions.get(cursor.exception) {
                if range.contains(&cursor.key) {
                    cursor.key = range.end;
                    cursor.exception += 1;
                    continue;
                }
            }
            if cursor.key < writer.settled {
                cursor.key += 1;
                return Some(writer.operation(cursor.key - 1, Kind::GetExactly));
            }
            (cursor.writer, cursor.key, cursor.exception) = (cursor.writer + cursor.step, 0, 0);
        }
    }

    fn settled(&mut self, connection: usize, _operation: &Operation, outcome: Outcome) {
        let found = &mut self.cursors[connection].found;
        found.checked += u64::from(outcome != Outcome::Unknown);
        match outcome {
            Outcome::Good | Outcome::Unknown => {}
            Outcome::Lost => found.lost += 1,
            Outcome::Wrong => found.wrong += 1,
            Outcome::Refused => found.refused += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(sent: u64, failed: &[u64]) -> Writer {
        let mut writer = Writer::new(3, 1);
        writer.sent = sent;
        (0..sent).for_each(|key| writer.settle(key, !failed.contains(&key)));
        writer
    }

    fn acknowledged(writers: Vec<Writer>) -> Acknowledged {
        Acknowledged::new(Format { prefix: String::new(), per_writer: true, tagged: 1, value_bytes: 8 }, writers)
    }

    #[test]
    fn unacknowledged_writes_are_kept_as_ranges() {
        let writer = writer(10, &[0, 4, 5, 6, 9]);
        assert_eq!(writer.exceptions, vec![0..1, 4..7, 9..10]);
        let kept: Vec<u64> = (0..12).filter(|key| writer.is_acknowledged(*key)).collect();
        assert_eq!(kept, vec![1, 2, 3, 7, 8]);
        assert_eq!(writer.acknowledged(), 5);
    }

    #[test]
    fn a_write_in_flight_is_not_acknowledged() {
        let options = Options { connections: 1, ..Options::default() };
        let mut load = UniqueWrites::new(&options, 0, &[0]);
        let operations: Vec<Operation> = (0..4).filter_map(|_| load.next(0)).collect();
        load.settled(0, &operations[0], Outcome::Good);
        load.settled(0, &operations[1], Outcome::Refused);
        load.settled(0, &operations[2], Outcome::Good);
        assert_eq!(acknowledged(load.into_writers()).count(), 2);
    }

    #[test]
    fn reads_ask_only_for_acknowledged_writes_of_their_connection() {
        let options = Options { connections: 2, reads: 0.7, ..Options::default() };
        let mut load = UniqueWrites::new(&options, 0, &[5, 9]);
        let mut reads = 0;
        for round in 0..2_000_u64 {
            let connection = (round % 2) as usize;
            let operation = load.next(connection).unwrap();
            assert_eq!(operation.writer, [5, 9][connection]);
            let acknowledged = operation.key % 3 != 0;
            if operation.kind == Kind::GetExactly {
                assert!(acknowledged);
                reads += 1;
            }
            load.settled(connection, &operation, if acknowledged { Outcome::Good } else { Outcome::Unknown });
        }
        assert!(reads > 500, "{reads}");
    }

    #[test]
    fn reading_back_visits_every_acknowledged_write_once() {
        let all = acknowledged(vec![writer(5, &[0, 4]), writer(0, &[]), writer(3, &[1]), writer(2, &[0, 1]), writer(2, &[])]);
        let mut back = ReadBack::new(&all, (0..2).map(|share| (share, 2)));
        let mut visited: Vec<Vec<u64>> = Vec::new();
        for connection in 0..2 {
            let keys = std::iter::from_fn(|| back.next(connection).map(|o| o.key));
            visited.push(keys.collect());
        }
        assert_eq!(visited, vec![vec![1, 2, 3, 0, 2, 0, 1], vec![]]);
        assert_eq!(all.count(), 7);
    }

    #[test]
    fn runs_with_different_seeds_write_different_values() {
        assert_ne!(Writer::new(3, 1).stamp, Writer::new(3, 2).stamp);
        assert_ne!(Writer::new(3, 1).stamp, Writer::new(4, 1).stamp);
    }
}
