//! The longest common subsequence of two strings, by the table of all pairs of their beginnings. Of the table, one row is
//! held, and one bit per pair to find the way back by.

use super::reply::{KvError, WriteReply};
use super::VALUE_BYTES_MAX;

/// The most pairs: a table of Redis's, which has four bytes for each, may have as many bytes as a value.
const PAIRS_MAX: usize = VALUE_BYTES_MAX / 4;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The subsequence.
    Bytes,
    /// Its length.
    Length,
    /// Where its parts are in both strings.
    Places {
        /// The length of the shortest part.
        length_min: u64,
        /// The length of each part, too.
        with_lengths: bool,
    },
}

/// Appends what is wanted of two strings.
pub fn write(one: &[u8], other: &[u8], wanted: Wanted, out: &mut Vec<u8>) -> Result<(), KvError> {
    let pairs = (one.len() + 1).checked_mul(other.len() + 1);
    pairs.filter(|pairs| *pairs <= PAIRS_MAX).ok_or(KvError::TableTooLong)?;
    if wanted == Wanted::Length {
        out.integer(length(one, other, |_, _| {}) as i64);
        return Ok(());
    }
    let mut way = Way { width: other.len(), bits: vec![0; (one.len() * other.len()).div_ceil(64)] };
    let length = length(one, other, |i, j| way.set(i, j));
    let matches = way.matches(one, other);
    match wanted {
        Wanted::Places { length_min, with_lengths } => {
            let parts: Vec<Part> = parts(&matches).filter(|part| part.length as u64 >= length_min).collect();
            out.map(2);
            out.string(b"matches");
            out.list(parts.len());
            parts.iter().for_each(|part| part.write(with_lengths, out));
            out.string(b"len");
            out.integer(length as i64);
        }
        _ => out.string(&matches.iter().rev().map(|(i, _)| one[*i]).collect::<Vec<u8>>()),
    }
    Ok(())
}

/// The length of the subsequence. `is_back`: called for each pair of bytes at which the way back leaves out the one of the
/// first string, should they differ.
fn length(one: &[u8], other: &[u8], mut is_back: impl FnMut(usize, usize)) -> u32 {
    let mut row = vec![0u32; other.len()];
    for (i, byte) in one.iter().enumerate() {
        let (mut diagonal, mut left) = (0, 0);
        for (j, above) in row.iter_mut().enumerate() {
            if *above > left {
                is_back(i, j);
            }
            let length = if *byte == other[j] { diagonal + 1 } else { left.max(*above) };
            (diagonal, left) = (*above, length);
            *above = length;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// A bit per pair of bytes: the longer subsequence is without the byte of the first string.
struct Way {
    width: usize,
    bits: Vec<u64>,
}

impl Way {
    fn set(&mut self, i: usize, j: usize) {
        let at = i * self.width + j;
        self.bits[at / 64] |= 1 << (at % 64);
    }

    fn is_back(&self, i: usize, j: usize) -> bool {
        let at = i * self.width + j;
        self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    /// The places of the subsequence's bytes in both strings, the last ones first.
    fn matches(&self, one: &[u8], other: &[u8]) -> Vec<(usize, usize)> {
        let (mut i, mut j) = (one.len(), other.len());
        let mut found = Vec::new();
        while i > 0 && j > 0 {
            if one[i - 1] == other[j - 1] {
                (i, j) = (i - 1, j - 1);
                found.push((i, j));
            } else if self.is_back(i - 1, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        found
    }
}

/// Bytes of the subsequence that follow each other in both strings.
struct Part {
    one: usize,
    other: usize,
    length: usize,
}

impl Part {
    fn write(&self, with_length: bool, out: &mut Vec<u8>) {
        out.list(2 + usize::from(with_length));
        for first in [self.one, self.other] {
            out.list(2);
            out.integer(first as i64);
            out.integer((first + self.length - 1) as i64);
        }
        if with_length {
            out.integer(self.length as i64);
        }
    }
}

/// The parts that matches make, the last one first, as they are.
fn parts(matches: &[(usize, usize)]) -> impl Iterator<Item = Part> + '_ {
    let runs = matches.chunk_by(|after, before| before.0 + 1 == after.0 && before.1 + 1 == after.1);
    runs.filter_map(|run| run.last().map(|(one, other)| Part { one: *one, other: *other, length: run.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::reply::{split_reply, Reply};
    use proptest::collection::vec;

    fn common(one: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(one, other, Wanted::Bytes, &mut out).expect("short strings");
        match split_reply(&out) {
            Some((Reply::String(bytes), [])) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn is_subsequence(part: &[u8], whole: &[u8]) -> bool {
        let mut rest = whole.iter();
        part.iter().all(|byte| rest.any(|other| other == byte))
    }

    /// By trying everything.
    fn longest(one: &[u8], other: &[u8]) -> usize {
        let chosen = |mask: u32| (0..one.len()).filter(move |at| mask >> at & 1 == 1).map(|at| one[at]).collect::<Vec<u8>>();
        (0..1u32 << one.len()).map(chosen).filter(|part| is_subsequence(part, other)).map(|part| part.len()).max().unwrap_or(0)
    }

    proptest::proptest! {
        #[test]
        fn what_is_found_is_common_and_none_is_longer(one in vec(0..4u8, 0..10), other in vec(0..4u8, 0..20)) {
            let found = common(&one, &other);
            assert!(is_subsequence(&found, &one) && is_subsequence(&found, &other));
            assert_eq!(found.len(), longest(&one, &other));
            assert_eq!(found.len(), length(&one, &other, |_, _| {}) as usize);
        }
    }

    #[test]
    fn strings_that_are_too_long_together_are_refused() {
        let (long, mut out) = (vec![b'x'; 11_585], Vec::new());
        assert_eq!(write(&long, &long, Wanted::Length, &mut out), Err(KvError::TableTooLong));
        assert_eq!(write(&long, &long[2..], Wanted::Length, &mut out), Ok(()));
        assert_eq!(split_reply(&out), Some((Reply::Integer(11_583), &[][..])));
    }
}
