//! Strings as rows of bits: the highest bit of a byte comes first.

use super::command::{BitRange, BitwiseKind};
use std::ops::Range;

/// The parts of several strings' bits put together. What a shorter string lacks is zeros.
pub struct Combination {
    kind: BitwiseKind,
    bytes: Option<Vec<u8>>,
}

impl Combination {
    /// Of nothing so far.
    pub fn new(kind: BitwiseKind) -> Combination {
        Combination { kind, bytes: None }
    }

    /// Takes one more string.
    pub fn add(&mut self, other: &[u8]) {
        let Some(bytes) = &mut self.bytes else {
            self.bytes = Some(other.to_vec());
            return;
        };
        bytes.resize(bytes.len().max(other.len()), 0);
        let (both, alone) = bytes.split_at_mut(other.len());
        let pairs = both.iter_mut().zip(other);
        match self.kind {
            BitwiseKind::And => {
                pairs.for_each(|(byte, other)| *byte &= other);
                alone.fill(0);
            }
            BitwiseKind::Or => pairs.for_each(|(byte, other)| *byte |= other),
            BitwiseKind::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
            BitwiseKind::Not => {}
        }
    }

    /// What they make together.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.bytes.unwrap_or_default();
        if self.kind == BitwiseKind::Not {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
        }
        bytes
    }
}

/// The place of the first bit that is `bit`, or -1. `is_open`: after the string's end there are zeros.
pub fn find(bytes: &[u8], bit: bool, range: BitRange, is_open: bool) -> i64 {
    let unit = if range.is_in_bits { 1 } else { 8 };
    let Some(within) = clamped(bytes.len() * 8 / unit, range.start, range.end) else { return -1 };
    let (mut at, end) = (within.start * unit, within.end * unit);
    let other = if bit { 0 } else { 0xff };
    while at < end {
        let whole = if at % 8 == 0 { &bytes[at / 8..end / 8] } else { &[] };
        let skipped = whole.iter().position(|byte| *byte != other).unwrap_or(whole.len());
        at += 8 * skipped;
        if at < end && (bytes[at / 8] >> (7 - at % 8) & 1 == 1) == bit {
            return at as i64;
        }
        at += usize::from(at < end);
    }
    if is_open && !bit {
        end as i64
    } else {
        -1
    }
}

/// The places between two, both included, of so many; negative ones count from the end. `None` if there is none.
pub fn clamped(length: usize, start: i64, end: i64) -> Option<Range<usize>> {
    let length = length as i64;
    let from_start = |place: i64| if place < 0 { place.saturating_add(length).max(0) } else { place };
    let (start, end) = (from_start(start), from_start(end).min(length - 1));
    (start <= end && length > 0).then(|| start as usize..end as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fold = fn(u8, u8) -> u8;

    proptest::proptest! {
        #[test]
        fn bits_are_found_one_by_one(
            bytes in proptest::collection::vec(proptest::prop_oneof![proptest::strategy::Just(0u8), proptest::strategy::Just(255), 0..255u8], 0..12),
            start in -100i64..100, end in -100i64..100, bit: bool
        ) {
            let is = |at: &usize| (bytes[at / 8] >> (7 - at % 8) & 1 == 1) == bit;
            let expected = clamped(bytes.len() * 8, start, end).and_then(|mut range| range.find(is)).map_or(-1, |at| at as i64);
            assert_eq!(find(&bytes, bit, BitRange { start, end, is_in_bits: true }, false), expected);
        }

        #[test]
        fn strings_are_combined_bit_by_bit(strings in proptest::collection::vec(proptest::collection::vec(0..255u8, 0..6), 1..5)) {
            let longest = strings.iter().map(Vec::len).max().unwrap_or(0);
            let column = |at: usize| strings.iter().map(move |string| string.get(at).copied().unwrap_or(0));
            let folds: [(BitwiseKind, Fold); 3] =
                [(BitwiseKind::And, |a, b| a & b), (BitwiseKind::Or, |a, b| a | b), (BitwiseKind::Xor, |a, b| a ^ b)];
            for (kind, fold) in folds {
                let mut combination = Combination::new(kind);
                strings.iter().for_each(|string| combination.add(string));
                let expected: Vec<u8> = (0..longest).map(|at| column(at).reduce(fold).unwrap_or(0)).collect();
                assert_eq!(combination.finish(), expected);
            }
        }
    }
}
