//! Commands that look into values, or do two things to a key at once.

use super::{absolute_ms, parse_integer, KvPartition, Time, Unsettled};
use crate::kv::bits::{clamped, find, Combination};
use crate::kv::bytes::Value;
use crate::kv::command::{Aspect, BitRange, Expiry, Operation};
use crate::kv::entries::entry_bytes;
use crate::kv::fields::FieldSteps;
use crate::kv::float80::Float80;
use crate::kv::place_of;
use crate::kv::reply::{KvError, WriteReply};
use crate::kv::{subsequence, VALUE_BYTES_MAX};
use std::ops::Range;

/// A value on its way from one key to another, with its expiry.
pub struct Content {
    bytes: Vec<u8>,
    expires_ms: Option<u64>,
}

impl KvPartition {
    pub(super) fn write_string(&mut self, operation: &Operation<'_>, now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
        match *operation {
            Operation::Take { key } => {
                self.hash_of(key)?;
                self.begin_write(now_ms);
                self.get(key, now_ms, out);
                self.delete(key, now_ms);
            }
            Operation::GetExpire { key, expiry } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                self.get_expire(hash, key, expiry, now_ms, out)?;
            }
            Operation::Overwrite { key, offset, bytes } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                out.integer(self.overwrite(hash, key, offset, bytes, now_ms)? as i64);
            }
            Operation::SetManyAbsent { pairs } => {
                self.check_keys(pairs.step_by(2))?;
                self.begin_write(now_ms);
                let is_done = !pairs.step_by(2).any(|key| self.exists(key, now_ms));
                if is_done {
                    pairs.pairs().for_each(|(key, value)| self.put(key, value, now_ms));
                }
                out.integer(i64::from(is_done));
            }
            Operation::Move { source, target, copy, absent, counts } => {
                self.check_keys([source, target].into_iter())?;
                self.begin_write(now_ms);
                let content = self.content(source, now_ms);
                let is_taken = absent && self.exists(target, now_ms);
                match (content, is_taken) {
                    (None, _) if !(copy && counts) => return Err(KvError::NoSuchKey),
                    (None, _) | (Some(_), true) => out.integer(0),
                    (Some(content), false) => {
                        if source != target {
                            self.put_content(target, &content, now_ms);
                            if !copy {
                                self.delete(source, now_ms);
                            }
                        }
                        moved(counts, out);
                    }
                }
            }
            Operation::SetBit { key, offset, bit } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                out.integer(i64::from(self.set_bit(hash, key, offset, bit, now_ms)?));
            }
            Operation::BitFields { key, steps } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                self.bit_fields(hash, key, steps, now_ms, out)?;
            }
            Operation::Combine { kind, mut keys } => {
                self.check_keys(keys)?;
                self.begin_write(now_ms);
                let target = keys.next().ok_or(KvError::Malformed)?;
                let mut combination = Combination::new(kind);
                keys.for_each(|source| combination.add(self.value(source, now_ms)));
                self.put_combined(target, &combination.finish(), now_ms, out);
            }
            Operation::IncrementFloat { key, delta } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                self.increment_float(hash, key, delta, now_ms, out)?;
            }
            _ => return Err(KvError::Malformed),
        }
        Ok(())
    }

    fn increment_float(&mut self, hash: u64, key: &[u8], delta: &[u8], now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
        let number = |text: &[u8]| Float80::parse(text).ok_or(KvError::NotAFloat);
        let value = self.store.live_mut(hash, key, now_ms);
        let before = value.as_ref().map_or(Ok(Float80::ZERO), |value| number(value.bytes()))?;
        let sum = before.checked_add(number(delta)?).ok_or(KvError::NoSum)?.to_text();
        match value {
            Some(mut value) => value.assign(&sum),
            None => self.store.add(hash, key, Value::new(&sum)),
        }
        out.string(&sum);
        Ok(())
    }

    fn get_expire(&mut self, hash: u64, key: &[u8], expiry: Expiry, now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
        let Some(value) = self.store.live_mut(hash, key, now_ms) else {
            out.null();
            return Ok(());
        };
        let before = value.expires_ms();
        let expires_ms = absolute_ms(expiry, now_ms)?;
        out.string(value.bytes());
        match expires_ms {
            Some(ms) if ms <= now_ms as i64 => drop(self.store.remove(hash, key)),
            Some(ms) => self.store.set_expires_ms(hash, key, Some(ms as u64)),
            None if before.is_some() => self.store.set_expires_ms(hash, key, None),
            None => {}
        }
        Ok(())
    }

    fn overwrite(&mut self, hash: u64, key: &[u8], offset: u64, bytes: &[u8], now_ms: u64) -> Result<usize, KvError> {
        let length = self.store.live_mut(hash, key, now_ms).map(|value| value.bytes().len());
        if bytes.is_empty() {
            return Ok(length.unwrap_or(0));
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= VALUE_BYTES_MAX as u64);
        let (start, end) = (offset as usize, end.ok_or(KvError::TooLong)? as usize);
        self.edit(hash, key, end, now_ms, |value| {
            value[start..end].copy_from_slice(bytes);
            value.len()
        })
    }

    fn set_bit(&mut self, hash: u64, key: &[u8], offset: u64, bit: bool, now_ms: u64) -> Result<bool, KvError> {
        let at = usize::try_from(offset / 8).ok().filter(|at| *at < VALUE_BYTES_MAX).ok_or(KvError::TooLong)?;
        let mask = 0x80 >> (offset % 8);
        // A value that does not change keeps its version.
        let byte = self.store.live_mut(hash, key, now_ms).and_then(|value| value.bytes().get(at).copied());
        if byte.is_some_and(|byte| (byte & mask != 0) == bit) {
            return Ok(bit);
        }
        self.edit(hash, key, at + 1, now_ms, |value| {
            let before = value[at] & mask != 0;
            value[at] = if bit { value[at] | mask } else { value[at] & !mask };
            before
        })
    }

    fn bit_fields(
        &mut self,
        hash: u64,
        key: &[u8],
        steps: FieldSteps<'_>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), KvError> {
        let length_min = Some(steps.written_bytes()).filter(|length| *length <= VALUE_BYTES_MAX).ok_or(KvError::TooLong)?;
        if self.store.live_mut(hash, key, now_ms).is_none_or(|value| value.bytes().len() < length_min) {
            self.edit(hash, key, length_min, now_ms, |_| ())?;
        }
        let mut value = self.store.live_mut(hash, key, now_ms).ok_or(KvError::Malformed)?;
        out.list(steps.len());
        for step in steps {
            let (reply, after) = step.run(value.bytes());
            // A value that does not change keeps its version.
            if let Some(after) = after.filter(|after| *after != step.field.get(value.bytes())) {
                step.field.set(value.bytes_mut(), after);
            }
            push_number(reply, out);
        }
        Ok(())
    }

    /// Changes a value in place, of a key that is made if it is not there, after zeros have been appended up to a length.
    fn edit<T>(
        &mut self,
        hash: u64,
        key: &[u8],
        length_min: usize,
        now_ms: u64,
        change: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, KvError> {
        Ok(match self.store.live_mut(hash, key, now_ms) {
            Some(mut value) => {
                value.grow(length_min);
                change(value.bytes_mut())
            }
            None => {
                let mut value = Value::new(b"");
                value.grow(length_min);
                let result = change(value.bytes_mut());
                self.store.add(hash, key, value);
                result
            }
        })
    }

    pub(super) fn read_string(&self, operation: &Operation<'_>, time: Time, out: &mut Vec<u8>) -> Result<(), Unsettled> {
        match *operation {
            Operation::Part { key, start, end } => {
                let bytes = self.live(key, time)?.map_or(&b""[..], Value::bytes);
                out.string(part(bytes.len(), start, end).map_or(b"", |range| &bytes[range]));
            }
            Operation::ExpireTime { key } => out.integer(match self.live(key, time)?.map(Value::expires_ms) {
                None => -2,
                Some(None) => -1,
                Some(Some(expires_ms)) => expires_ms as i64,
            }),
            Operation::Type { key } => out.word(if self.live(key, time)?.is_some() { "string" } else { "none" }),
            Operation::GetBit { key, offset } => {
                let bytes = self.live(key, time)?.map_or(&b""[..], Value::bytes);
                let byte = usize::try_from(offset / 8).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0);
                out.integer(i64::from(byte >> (7 - offset % 8) & 1));
            }
            Operation::CountBits { key, range } => {
                let bytes = self.live(key, time)?.map_or(&b""[..], Value::bytes);
                out.integer(range.map_or_else(|| ones(bytes), |range| count_bits(bytes, range)));
            }
            Operation::FindBit { key, bit, range, is_open } => out.integer(match self.live(key, time)? {
                Some(value) => find(value.bytes(), bit, range, is_open),
                None => -i64::from(bit),
            }),
            Operation::BitFields { steps, .. } if steps.written_bytes() > 0 => out.error(KvError::Malformed),
            Operation::BitFields { key, steps } => {
                let bytes = self.live(key, time)?.map_or(&b""[..], Value::bytes);
                out.list(steps.len());
                steps.for_each(|step| push_number(step.run(bytes).0, out));
            }
            Operation::Subsequence { one, other, wanted } => {
                let one = self.live(one, time)?.map_or(&b""[..], Value::bytes);
                let other = self.live(other, time)?.map_or(&b""[..], Value::bytes);
                if let Err(kind) = subsequence::write(one, other, wanted, out) {
                    out.error(kind);
                }
            }
            Operation::Describe { key, aspect } => match self.live(key, time)? {
                Some(value) => describe(key, value, aspect, out),
                None => out.null(),
            },
            Operation::Refuse { key, kind, otherwise } => match self.live(key, time)? {
                Some(_) => out.error(KvError::ALL.into_iter().find(|k| *k as u8 == kind).unwrap_or(KvError::Malformed)),
                None => match otherwise {
                    Some(number) => out.integer(i64::from(number)),
                    None => out.null(),
                },
            },
            _ => out.error(KvError::Malformed),
        }
        Ok(())
    }

    /// What a key of this group holds, nothing if it is not there.
    pub(in crate::kv) fn value(&self, key: &[u8], now_ms: u64) -> &[u8] {
        self.live(key, Time::settled(now_ms)).ok().flatten().map_or(b"", Value::bytes)
    }

    /// Sets a key of this group to the result of a combination; nothing removes it.
    pub(in crate::kv) fn put_combined(&mut self, key: &[u8], bytes: &[u8], now_ms: u64, out: &mut Vec<u8>) {
        if bytes.is_empty() {
            self.delete(key, now_ms);
        } else {
            self.put(key, bytes, now_ms);
        }
        out.integer(bytes.len() as i64);
    }

    /// A copy of what a key holds, for a key that may be in another group.
    pub(in crate::kv) fn content(&self, key: &[u8], now_ms: u64) -> Option<Content> {
        let value = self.live(key, Time::settled(now_ms)).ok().flatten()?;
        Some(Content { bytes: value.bytes().to_vec(), expires_ms: value.expires_ms() })
    }

    /// Gives a key of this group what another one holds.
    pub(in crate::kv) fn put_content(&mut self, key: &[u8], content: &Content, now_ms: u64) {
        self.put(key, &content.bytes, now_ms);
        if content.expires_ms.is_some() {
            self.store.set_expires_ms(place_of(key).hash, key, content.expires_ms);
        }
    }
}

fn push_number(number: Option<i64>, out: &mut Vec<u8>) {
    match number {
        Some(number) => out.integer(number),
        None => out.null(),
    }
}

/// Redis holds a string that is no longer than this in its object, and gives it another name.
const EMBEDDED_BYTES_MAX: usize = 44;

fn describe(key: &[u8], value: &Value, aspect: Aspect, out: &mut Vec<u8>) {
    let bytes = value.bytes();
    match aspect {
        Aspect::Encoding if parse_integer(bytes).is_some() => out.string(b"int"),
        Aspect::Encoding if bytes.len() <= EMBEDDED_BYTES_MAX => out.string(b"embstr"),
        Aspect::Encoding => out.string(b"raw"),
        Aspect::References => out.integer(1),
        Aspect::IdleSeconds => out.integer(0),
        Aspect::Bytes => out.integer(entry_bytes(key, value) as i64),
    }
}

/// The reply to a move that was done.
pub(in crate::kv) fn moved(counts: bool, out: &mut Vec<u8>) {
    if counts {
        out.integer(1);
    } else {
        out.done();
    }
}

/// The part of so many places that two places say, as Redis counts; `None` if there is nothing in it.
fn part(length: usize, start: i64, end: i64) -> Option<Range<usize>> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    clamped(length, start, end)
}

fn ones(bytes: &[u8]) -> i64 {
    bytes.iter().map(|byte| i64::from(byte.count_ones())).sum()
}

fn count_bits(bytes: &[u8], range: BitRange) -> i64 {
    let BitRange { start, end, is_in_bits } = range;
    if !is_in_bits {
        return part(bytes.len(), start, end).map_or(0, |range| ones(&bytes[range]));
    }
    let Some(bits) = part(bytes.len() * 8, start, end) else { return 0 };
    let (first, last) = (bits.start / 8, (bits.end - 1) / 8);
    let before = bytes[first] & !(0xff >> (bits.start % 8));
    let after = bytes[last] & (0x7f >> ((bits.end - 1) % 8));
    ones(&bytes[first..=last]) - i64::from(before.count_ones()) - i64::from(after.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn bits_are_counted_one_by_one(bytes: Vec<u8>, start in -90i64..90, end in -90i64..90) {
            let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
            let expected = part(bytes.len() * 8, start, end).map_or(0, |range| range.map(|at| i64::from(bit(at))).sum());
            assert_eq!(count_bits(&bytes, BitRange { start, end, is_in_bits: true }), expected);
        }
    }
}
