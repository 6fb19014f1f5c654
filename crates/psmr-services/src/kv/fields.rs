//! Integers of any width at any place of a string's bits: what BITFIELD reads and changes.

use super::command::{push_varint, split_varint};
use super::VALUE_BYTES_MAX;

/// Where an integer is, and how it is written there: the highest bit first, negative ones as two's complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// It may be negative.
    pub is_signed: bool,
    /// 1 to 64, or to 63 without a sign.
    pub bits: u8,
    /// The place of its highest bit.
    pub offset: u64,
}

/// What is done where a number does not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Its lower bits are taken.
    Wrap,
    /// The nearest number that fits is taken.
    Saturate,
    /// Nothing is changed.
    Fail,
}

/// What is done with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldAction {
    /// It is read.
    Get,
    /// It is set; the reply is the number before.
    Set(i64),
    /// A number is added; the reply is the sum.
    Add(i64),
}

/// One step of a command on fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldStep {
    /// The field.
    pub field: Field,
    /// What is done with it.
    pub action: FieldAction,
    /// What is done where the number does not fit.
    pub overflow: Overflow,
}

/// Steps as a command has them. The bytes have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSteps<'a> {
    count: usize,
    bytes: &'a [u8],
}

const OVERFLOWS: [Overflow; 3] = [Overflow::Wrap, Overflow::Saturate, Overflow::Fail];
const SIGNED: u8 = 16;

impl FieldStep {
    /// Whether it may change the string.
    pub fn writes(&self) -> bool {
        self.action != FieldAction::Get
    }

    /// Appends it to the bytes of a command.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let (kind, number) = match self.action {
            FieldAction::Get => (0, None),
            FieldAction::Set(number) => (1, Some(number)),
            FieldAction::Add(number) => (2, Some(number)),
        };
        let sign = if self.field.is_signed { SIGNED } else { 0 };
        out.extend_from_slice(&[kind | (self.overflow as u8) << 2 | sign, self.field.bits]);
        push_varint(out, self.field.offset);
        if let Some(number) = number {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn split(bytes: &[u8]) -> Option<(FieldStep, &[u8])> {
        let ([head, bits], rest) = bytes.split_first_chunk()?;
        let (offset, rest) = split_varint(rest)?;
        let is_signed = head & SIGNED != 0;
        let bits_max = if is_signed { 64 } else { 63 };
        if !(1..=bits_max).contains(bits) || offset >= 8 * VALUE_BYTES_MAX as u64 || *head >= 2 * SIGNED {
            return None;
        }
        let (action, rest) = match head & 3 {
            0 => (FieldAction::Get, rest),
            kind => {
                let (number, rest) = rest.split_first_chunk()?;
                let number = i64::from_le_bytes(*number);
                (*[FieldAction::Set(number), FieldAction::Add(number)].get(usize::from(kind) - 1)?, rest)
            }
        };
        let overflow = *OVERFLOWS.get(usize::from(head >> 2 & 3))?;
        Some((FieldStep { field: Field { is_signed, bits: *bits, offset }, action, overflow }, rest))
    }

    /// The reply, and the number that the field is to hold from now on; neither if the number does not fit and must.
    pub fn run(&self, string: &[u8]) -> (Option<i64>, Option<i64>) {
        let before = self.field.get(string);
        let number = match self.action {
            FieldAction::Get => return (Some(before), None),
            FieldAction::Set(number) => self.field.number_of(number),
            FieldAction::Add(number) => i128::from(before) + i128::from(number),
        };
        let after = self.field.fit(number, self.overflow);
        let is_set = matches!(self.action, FieldAction::Set(_));
        (after.map(|after| if is_set { before } else { after }), after)
    }
}

impl<'a> FieldSteps<'a> {
    /// The steps that all of `bytes` is.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<FieldSteps<'a>> {
        let (mut rest, mut count) = (bytes, 0);
        while !rest.is_empty() {
            rest = FieldStep::split(rest)?.1;
            count += 1;
        }
        Some(FieldSteps { count, bytes })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes that the string must have for what is written; 0 if nothing is.
    pub fn written_bytes(self) -> usize {
        self.filter(FieldStep::writes).map(|step| step.field.end() as usize).max().unwrap_or(0)
    }
}

impl Iterator for FieldSteps<'_> {
    type Item = FieldStep;

    fn next(&mut self) -> Option<FieldStep> {
        let (step, rest) = FieldStep::split(self.bytes)?;
        self.bytes = rest;
        self.count -= 1;
        Some(step)
    }
}

impl Field {
    /// After the last byte that it touches.
    fn end(&self) -> u64 {
        (self.offset + u64::from(self.bits)).div_ceil(8)
    }

    /// The number in a string; beyond its end there are zeros.
    pub fn get(&self, string: &[u8]) -> i64 {
        let first = (self.offset / 8) as usize;
        // It touches nine bytes at most.
        let window = (first..first + 9).fold(0u128, |window, at| window << 8 | u128::from(string.get(at).copied().unwrap_or(0)));
        self.truncated((window >> (72 - self.offset % 8 - u64::from(self.bits))) as u64)
    }

    /// Writes a number that fits into a string that is long enough.
    pub fn set(&self, string: &mut [u8], number: i64) {
        for (place, shift) in (self.offset..).zip((0..self.bits).rev()) {
            let (byte, mask) = (&mut string[(place / 8) as usize], 0x80 >> (place % 8));
            *byte = if number >> shift & 1 == 1 { *byte | mask } else { *byte & !mask };
        }
    }

    /// What the lower bits are as a number.
    fn truncated(&self, raw: u64) -> i64 {
        let unused = 64 - u32::from(self.bits);
        if self.is_signed {
            (raw << unused) as i64 >> unused
        } else {
            (raw << unused >> unused) as i64
        }
    }

    /// The lowest and the highest number.
    fn limits(&self) -> (i128, i128) {
        let values = 1i128 << self.bits;
        let min = if self.is_signed { -values / 2 } else { 0 };
        (min, min + values - 1)
    }

    /// The number that a field is set to. As Redis has it, one that lies too far below the highest number lies above it: the
    /// distance wraps. Without a sign that is every negative one.
    fn number_of(&self, number: i64) -> i128 {
        let distance = self.limits().1 - i128::from(number);
        let wraps = if self.is_signed { self.bits < 64 && distance > i128::from(i64::MAX) } else { number < 0 };
        if wraps {
            i128::from(number as u64)
        } else {
            i128::from(number)
        }
    }

    fn fit(&self, number: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = self.limits();
        let nearest = number.clamp(min, max);
        match overflow {
            _ if nearest == number => Some(number as i64),
            Overflow::Wrap => Some(self.truncated(number as u64)),
            Overflow::Saturate => Some(nearest as i64),
            Overflow::Fail => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_oneof, Just, Strategy};

    fn field() -> impl Strategy<Value = Field> {
        (any::<bool>(), 1..64u8, 0..100u64).prop_map(|(is_signed, bits, offset)| Field {
            is_signed,
            bits: if is_signed && bits == 63 { 64 } else { bits },
            offset,
        })
    }

    fn step() -> impl Strategy<Value = FieldStep> {
        let number = prop_oneof![any::<i64>(), -300..300i64, Just(i64::MIN), Just(i64::MAX)];
        (field(), 0..3usize, number, 0..3usize).prop_map(|(field, kind, number, overflow)| {
            let action = [FieldAction::Get, FieldAction::Set(number), FieldAction::Add(number)][kind];
            FieldStep { field, action, overflow: OVERFLOWS[overflow] }
        })
    }

    proptest::proptest! {
        #[test]
        fn steps_come_back_as_they_were_written(steps in proptest::collection::vec(step(), 0..5), tail in any::<u8>()) {
            let mut bytes = Vec::new();
            steps.iter().for_each(|step| step.push(&mut bytes));
            let found = FieldSteps::decode(&bytes).expect("steps");
            assert_eq!(found.len(), steps.len());
            assert_eq!(found.collect::<Vec<_>>(), steps);
            bytes.push(tail);
            assert_eq!(FieldSteps::decode(&bytes), None, "half a step");
        }

        #[test]
        fn a_number_that_was_set_is_read_again_and_nothing_else_changes(
            field in field(), number: i64, string in proptest::collection::vec(any::<u8>(), 24)
        ) {
            let number = field.truncated(number as u64);
            let mut changed = string.clone();
            field.set(&mut changed, number);
            assert_eq!(field.get(&changed), number);
            let within = field.offset..field.offset + u64::from(field.bits);
            for place in (0..string.len() as u64 * 8).filter(|place| !within.contains(place)) {
                let bit = Field { is_signed: false, bits: 1, offset: place };
                assert_eq!(bit.get(&string), bit.get(&changed));
            }
        }

        #[test]
        fn what_overflows_is_wrapped_or_saturated_or_left(step in step(), string in proptest::collection::vec(any::<u8>(), 24)) {
            let (reply, after) = step.run(&string);
            assert_eq!(reply.is_none(), after.is_none() && step.writes());
            assert!(reply.is_some() || step.overflow == Overflow::Fail);
            if let Some(after) = after {
                assert_eq!(step.field.truncated(after as u64), after, "it fits");
            }
            if let FieldAction::Add(number) = step.action {
                let sum = step.field.get(&string).wrapping_add(number);
                let is_whole = step.field.get(&string).checked_add(number) == after;
                let (low, high) = step.field.limits();
                match step.overflow {
                    Overflow::Wrap => assert_eq!(after, Some(step.field.truncated(sum as u64))),
                    Overflow::Saturate => assert!(is_whole || after == Some(if number < 0 { low } else { high } as i64)),
                    Overflow::Fail => assert!(is_whole || after.is_none()),
                }
            }
        }
    }
}
