//! Writes commands: the other side of `Operation::decode`.

use super::*;

/// Appends commands to a buffer.
pub struct Encoder<'b>(pub &'b mut Vec<u8>);

impl Encoder<'_> {
    /// [`Operation::Get`]
    #[inline]
    pub fn get(self, key: &[u8]) {
        self.0.push(GET);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Set`]
    #[inline]
    pub fn set(self, key: &[u8], value: &[u8], expiry: Expiry, condition: SetIf, get: bool) {
        let condition = match condition {
            SetIf::Always => 0,
            SetIf::Absent => SET_ABSENT,
            SetIf::Present => SET_PRESENT,
        };
        self.0.push(SET);
        push_expiry(self.0, expiry, condition | if get { SET_GET } else { 0 });
        push_string(self.0, key);
        self.0.extend_from_slice(value);
    }

    /// [`Operation::Delete`]
    pub fn delete<'k>(self, count: usize, keys: impl Iterator<Item = &'k [u8]>) {
        self.items(DELETE, count, keys);
    }

    /// [`Operation::Exists`]
    pub fn exists<'k>(self, count: usize, keys: impl Iterator<Item = &'k [u8]>) {
        self.items(EXISTS, count, keys);
    }

    /// [`Operation::GetMany`]
    pub fn get_many<'k>(self, count: usize, keys: impl Iterator<Item = &'k [u8]>) {
        self.items(GET_MANY, count, keys);
    }

    /// [`Operation::SetMany`]; `count` is twice the number of pairs.
    pub fn set_many<'k>(self, count: usize, keys_and_values: impl Iterator<Item = &'k [u8]>) {
        self.items(SET_MANY, count, keys_and_values);
    }

    fn items<'k>(self, code: u8, count: usize, items: impl Iterator<Item = &'k [u8]>) {
        self.0.push(code);
        push_varint(self.0, count as u64);
        items.for_each(|item| push_string(self.0, item));
    }

    /// [`Operation::Increment`]
    #[inline]
    pub fn increment(self, key: &[u8], delta: i64) {
        self.0.push(INCREMENT);
        self.0.extend_from_slice(&delta.to_le_bytes());
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Append`]
    pub fn append(self, key: &[u8], suffix: &[u8]) {
        self.0.push(APPEND);
        push_string(self.0, key);
        self.0.extend_from_slice(suffix);
    }

    /// [`Operation::Length`]
    pub fn length(self, key: &[u8]) {
        self.0.push(LENGTH);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Expire`]
    pub fn expire(self, key: &[u8], expiry: Expiry, condition: ExpireIf) {
        let ExpireIf { absent, present, later, earlier } = condition;
        let flags = [absent, present, later, earlier].iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
        self.0.push(EXPIRE);
        push_expiry(self.0, expiry, flags);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::TimeToLive`]
    pub fn time_to_live(self, key: &[u8]) {
        self.0.push(TIME_TO_LIVE);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Persist`]
    pub fn persist(self, key: &[u8]) {
        self.0.push(PERSIST);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Size`]
    pub fn size(self) {
        self.0.push(SIZE);
    }

    /// [`Operation::Clear`]
    pub fn clear(self) {
        self.0.push(CLEAR);
    }

    /// [`Operation::Scan`]
    pub fn scan(self, position: u64, count: u64, pattern: &[u8]) {
        self.0.push(SCAN);
        push_varint(self.0, position);
        push_varint(self.0, count);
        self.0.extend_from_slice(pattern);
    }

    /// [`Operation::IfEqual`]
    pub fn if_equal(self, key: &[u8], expected: &[u8], then: Then) {
        let (kind, ms) = match then {
            Then::Delete => (0, 0),
            Then::Expire(ms) => (1, ms),
            Then::ExpireAgain(ms) => (2, ms),
            Then::Extend(ms) => (3, ms),
        };
        self.0.extend_from_slice(&[IF_EQUAL, kind]);
        self.0.extend_from_slice(&i64::to_le_bytes(ms));
        push_string(self.0, key);
        self.0.extend_from_slice(expected);
    }

    /// [`Operation::Keys`]
    pub fn keys(self, pattern: &[u8]) {
        self.0.push(KEYS);
        self.0.extend_from_slice(pattern);
    }

    /// [`Operation::RandomKey`]
    pub fn random_key(self, seed: u64) {
        self.0.push(RANDOM_KEY);
        self.0.extend_from_slice(&seed.to_le_bytes());
    }

    /// [`Operation::Range`]
    pub fn range(self, bounds: Bounds<'_>, limit: u64, is_reverse: bool) {
        self.0.extend_from_slice(&[RANGE, u8::from(is_reverse)]);
        push_varint(self.0, limit);
        push_string(self.0, bounds.start);
        self.0.extend_from_slice(bounds.end);
    }

    /// [`Operation::CountRange`]
    pub fn count_range(self, bounds: Bounds<'_>) {
        self.0.push(COUNT_RANGE);
        push_string(self.0, bounds.start);
        self.0.extend_from_slice(bounds.end);
    }

    /// [`Operation::Take`]
    pub fn take(self, key: &[u8]) {
        self.0.push(TAKE);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::GetExpire`]
    pub fn get_expire(self, key: &[u8], expiry: Expiry) {
        self.0.push(GET_EXPIRE);
        push_expiry(self.0, expiry, 0);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Part`]
    pub fn part(self, key: &[u8], start: i64, end: i64) {
        self.0.push(PART);
        self.0.extend_from_slice(&start.to_le_bytes());
        self.0.extend_from_slice(&end.to_le_bytes());
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Overwrite`]
    pub fn overwrite(self, key: &[u8], offset: u64, bytes: &[u8]) {
        self.0.push(OVERWRITE);
        push_varint(self.0, offset);
        push_string(self.0, key);
        self.0.extend_from_slice(bytes);
    }

    /// [`Operation::ExpireTime`]
    pub fn expire_time(self, key: &[u8]) {
        self.0.push(EXPIRE_TIME);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Type`]
    pub fn type_of(self, key: &[u8]) {
        self.0.push(TYPE);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::SetManyAbsent`]; `count` is twice the number of pairs.
    pub fn set_many_absent<'k>(self, count: usize, keys_and_values: impl Iterator<Item = &'k [u8]>) {
        self.items(SET_MANY_ABSENT, count, keys_and_values);
    }

    /// [`Operation::Move`]
    pub fn relocate(self, source: &[u8], target: &[u8], copy: bool, absent: bool, counts: bool) {
        self.0.push(MOVE);
        self.0.push(u8::from(copy) | u8::from(absent) << 1 | u8::from(counts) << 2);
        push_string(self.0, source);
        self.0.extend_from_slice(target);
    }

    /// [`Operation::SetBit`]
    pub fn set_bit(self, key: &[u8], offset: u64, bit: bool) {
        self.0.push(SET_BIT);
        self.0.push(u8::from(bit));
        push_varint(self.0, offset);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::GetBit`]
    pub fn get_bit(self, key: &[u8], offset: u64) {
        self.0.push(GET_BIT);
        push_varint(self.0, offset);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::CountBits`]
    pub fn count_bits(self, key: &[u8], range: Option<BitRange>) {
        self.0.push(COUNT_BITS);
        match range {
            None => self.0.push(0),
            Some(BitRange { start, end, is_in_bits }) => {
                self.0.push(1 + u8::from(is_in_bits));
                self.0.extend_from_slice(&start.to_le_bytes());
                self.0.extend_from_slice(&end.to_le_bytes());
            }
        }
        self.0.extend_from_slice(key);
    }

    /// [`Operation::FindBit`]
    pub fn find_bit(self, key: &[u8], bit: bool, range: BitRange, is_open: bool) {
        self.0.push(FIND_BIT);
        self.0.push(u8::from(bit) | u8::from(range.is_in_bits) << 1 | u8::from(is_open) << 2);
        self.0.extend_from_slice(&range.start.to_le_bytes());
        self.0.extend_from_slice(&range.end.to_le_bytes());
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Combine`]; the target is the first of the keys.
    pub fn combine<'k>(self, kind: BitwiseKind, count: usize, keys: impl Iterator<Item = &'k [u8]>) {
        self.0.push(COMBINE);
        self.items(kind as u8, count, keys);
    }

    /// [`Operation::IncrementFloat`]
    pub fn increment_float(self, key: &[u8], delta: &[u8]) {
        self.0.push(INCREMENT_FLOAT);
        push_string(self.0, key);
        self.0.extend_from_slice(delta);
    }

    /// [`Operation::BitFields`]
    pub fn bit_fields(self, key: &[u8], steps: &[FieldStep]) {
        self.0.push(BIT_FIELDS);
        push_string(self.0, key);
        steps.iter().for_each(|step| step.push(self.0));
    }

    /// [`Operation::Subsequence`]
    pub fn subsequence(self, one: &[u8], other: &[u8], wanted: Wanted) {
        let (kind, length_min) = match wanted {
            Wanted::Bytes => (0, 0),
            Wanted::Length => (1, 0),
            Wanted::Places { length_min, with_lengths } => (2 + u8::from(with_lengths), length_min),
        };
        self.0.extend_from_slice(&[SUBSEQUENCE, kind]);
        push_varint(self.0, length_min);
        push_string(self.0, one);
        self.0.extend_from_slice(other);
    }

    /// [`Operation::Describe`]
    pub fn describe(self, key: &[u8], aspect: Aspect) {
        self.0.extend_from_slice(&[DESCRIBE, aspect as u8]);
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Refuse`]
    pub fn refuse(self, key: &[u8], kind: KvError, otherwise: Option<i8>) {
        self.0.push(REFUSE);
        self.0.push(kind as u8);
        self.0.extend_from_slice(&otherwise.map_or([0, 0], |number| [1, number as u8]));
        self.0.extend_from_slice(key);
    }

    /// [`Operation::Versions`]
    pub fn versions<'k>(self, count: usize, keys: impl Iterator<Item = &'k [u8]>) {
        self.items(VERSIONS, count, keys);
    }

    /// [`Operation::Transaction`]; `steps` are those that [`transaction::push_step`] wrote.
    pub fn transaction<'k>(self, watched: impl ExactSizeIterator<Item = (&'k [u8], u64)>, steps: &[u8]) {
        self.0.push(TRANSACTION);
        transaction::push(self.0, watched, steps);
    }
}
