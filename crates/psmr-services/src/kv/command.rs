//! Commands of the key-value service as bytes: what is in the log. One byte says which, the rest are its fields; lengths
//! and counts take one byte up to 127.

use super::fields::{FieldStep, FieldSteps};
use super::range::Bounds;
use super::reply::KvError;
use super::subsequence::Wanted;
use super::transaction::{self, Transaction};
use std::fmt;

mod encoder;

pub use encoder::Encoder;

/// When a key expires, as a command says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// As it was.
    Keep,
    /// So many milliseconds after the command's execution.
    AfterMs(i64),
    /// At this time, in milliseconds since 1970.
    AtMs(i64),
}

/// Under which condition a key is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetIf {
    /// Always.
    Always,
    /// Only if it is not there.
    Absent,
    /// Only if it is there.
    Present,
}

/// Under which conditions a new expiry replaces the old one; all that are set must hold. No expiry is later than any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireIf {
    /// There was none.
    pub absent: bool,
    /// There was one.
    pub present: bool,
    /// It becomes later.
    pub later: bool,
    /// It becomes earlier.
    pub earlier: bool,
}

/// What happens to a key that has the value it should have. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is removed.
    Delete,
    /// It expires so long after the command's execution.
    Expire(i64),
    /// The same, if it has an expiry.
    ExpireAgain(i64),
    /// It expires so much later, if it has an expiry.
    Extend(i64),
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation<'a> {
    /// The value of a key.
    Get { key: &'a [u8] },
    /// Sets a key. `get`: the reply is the value before, else done or, if the condition did not hold, null.
    Set { key: &'a [u8], value: &'a [u8], expiry: Expiry, condition: SetIf, get: bool },
    /// Removes keys; the reply is how many were there.
    Delete { keys: Items<'a> },
    /// How many of the keys are there.
    Exists { keys: Items<'a> },
    /// The values of keys.
    GetMany { keys: Items<'a> },
    /// Sets keys: the items are key, value, key, value...
    SetMany { pairs: Items<'a> },
    /// Adds to the number that a key's value is in decimal.
    Increment { key: &'a [u8], delta: i64 },
    /// Appends to a value; the reply is the length after.
    Append { key: &'a [u8], suffix: &'a [u8] },
    /// The length of a value.
    Length { key: &'a [u8] },
    /// Changes a key's expiry; the reply is 1 if it did, else 0.
    Expire { key: &'a [u8], expiry: Expiry, condition: ExpireIf },
    /// The time until a key expires in milliseconds; -1 if it does not, -2 if it is not there.
    TimeToLive { key: &'a [u8] },
    /// Removes a key's expiry; the reply is 1 if there was one, else 0.
    Persist { key: &'a [u8] },
    /// How many keys there are.
    Size,
    /// Removes all keys.
    Clear,
    /// The value of a key, which is then removed.
    Take { key: &'a [u8] },
    /// The value of a key, whose expiry is then changed.
    GetExpire { key: &'a [u8], expiry: Expiry },
    /// Bytes of a value from one place to another, both included; negative places count from the end.
    Part { key: &'a [u8], start: i64, end: i64 },
    /// Writes over a value from a place on, with zeros before it if need be; the reply is the length after.
    Overwrite { key: &'a [u8], offset: u64, bytes: &'a [u8] },
    /// When a key expires, in milliseconds since 1970; -1 if it does not, -2 if it is not there.
    ExpireTime { key: &'a [u8] },
    /// What a key's value is, in a word.
    Type { key: &'a [u8] },
    /// Sets keys as `SetMany` does if none of them is there; the reply is whether it did.
    SetManyAbsent { pairs: Items<'a> },
    /// Gives a key's value and expiry to another key. `copy`: the first one keeps them too. `absent`: only if the other is
    /// not there; the reply then is whether it was done, else done.
    Move { source: &'a [u8], target: &'a [u8], copy: bool, absent: bool, counts: bool },
    /// Sets a bit of a value; the reply is the bit before.
    SetBit { key: &'a [u8], offset: u64, bit: bool },
    /// A bit of a value.
    GetBit { key: &'a [u8], offset: u64 },
    /// How many bits are set.
    CountBits { key: &'a [u8], range: Option<BitRange> },
    /// The place of the first bit that is `bit`, or -1. `is_open`: after the value there are zeros.
    FindBit { key: &'a [u8], bit: bool, range: BitRange, is_open: bool },
    /// Sets the first key to the values of the others put together bit by bit; the reply is the length.
    Combine { kind: BitwiseKind, keys: Items<'a> },
    /// Adds to the number with a fraction that a key's value is in decimal; the reply is the sum.
    IncrementFloat { key: &'a [u8], delta: &'a [u8] },
    /// Reads and changes integers in a value's bits, in turn; the reply is a list, with null where a number did not fit.
    BitFields { key: &'a [u8], steps: FieldSteps<'a> },
    /// The longest string whose bytes are in the values of both keys in this order; a missing key has an empty value.
    Subsequence { one: &'a [u8], other: &'a [u8], wanted: Wanted },
    /// Something about a key's value that is not the value, or null if it is not there.
    Describe { key: &'a [u8], aspect: Aspect },
    /// A read that cannot be executed: an error if the key is there, else this number or null.
    Refuse { key: &'a [u8], kind: u8, otherwise: Option<i8> },
    /// Keys of one group from a position on: the reply is a list of the next position and a list of keys that match.
    Scan { position: u64, count: u64, pattern: &'a [u8] },
    /// Does something to a key if its value is this one; the reply is 1 if it did, else 0.
    IfEqual { key: &'a [u8], expected: &'a [u8], then: Then },
    /// The keys that match; the reply is a list of them, in no order.
    Keys { pattern: &'a [u8] },
    /// A key, or null if there is none. Which one depends on the seed.
    RandomKey { seed: u64 },
    /// Keys and values in the order of the keys, `limit` keys at most, the last ones first if `is_reverse`.
    Range { bounds: Bounds<'a>, limit: u64, is_reverse: bool },
    /// How many keys are within.
    CountRange { bounds: Bounds<'a> },
    /// The versions of keys: a key that is changed, made or removed has another one afterwards, for ever.
    Versions { keys: Items<'a> },
    /// Several commands as one, if keys have the versions that they had; the reply is the list of their replies, or null.
    Transaction(Transaction<'a>),
}

/// A part of a value, both ends included; negative places count from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRange {
    /// The first place.
    pub start: i64,
    /// The last one.
    pub end: i64,
    /// They count bits, not bytes.
    pub is_in_bits: bool,
}

/// How bits are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitwiseKind {
    /// Set where all are.
    And,
    /// Set where one is.
    Or,
    /// Set where an odd number of them is.
    Xor,
    /// Set where the only one is not.
    Not,
}

impl BitwiseKind {
    /// All of them; the place is how a command says which.
    pub const ALL: [BitwiseKind; 4] = [BitwiseKind::And, BitwiseKind::Or, BitwiseKind::Xor, BitwiseKind::Not];
}

/// What there is to tell about a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// How Redis would hold it, in a word.
    Encoding,
    /// How many keys share it: none but its own.
    References,
    /// Since when nobody has used it, as far as is known: 0, as reads leave no trace.
    IdleSeconds,
    /// What it takes in memory, the key included.
    Bytes,
}

impl Aspect {
    /// All of them; the place is how a command says which.
    pub const ALL: [Aspect; 4] = [Aspect::Encoding, Aspect::References, Aspect::IdleSeconds, Aspect::Bytes];
}

/// A list of strings in a command.
#[derive(Clone, Copy, PartialEq)]
pub struct Items<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl Items<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Items<'a> {
    /// The strings two by two.
    pub fn pairs(mut self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        std::iter::from_fn(move || Some((self.next()?, self.next()?)))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.count == 0 {
            return None;
        }
        self.count -= 1;
        let (item, rest) = split_string(self.bytes)?;
        self.bytes = rest;
        Some(item)
    }
}

impl fmt::Debug for Items<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

const GET: u8 = 1;
const SET: u8 = 2;
const DELETE: u8 = 3;
const EXISTS: u8 = 4;
const GET_MANY: u8 = 5;
const SET_MANY: u8 = 6;
const INCREMENT: u8 = 7;
const APPEND: u8 = 8;
const LENGTH: u8 = 9;
const EXPIRE: u8 = 10;
const TIME_TO_LIVE: u8 = 11;
const PERSIST: u8 = 12;
const SIZE: u8 = 13;
const CLEAR: u8 = 14;
const SCAN: u8 = 15;
const TAKE: u8 = 16;
const GET_EXPIRE: u8 = 17;
const PART: u8 = 18;
const OVERWRITE: u8 = 19;
const EXPIRE_TIME: u8 = 20;
const SET_MANY_ABSENT: u8 = 21;
const MOVE: u8 = 22;
const SET_BIT: u8 = 23;
const GET_BIT: u8 = 24;
const COUNT_BITS: u8 = 25;
const REFUSE: u8 = 26;
const TYPE: u8 = 27;
const FIND_BIT: u8 = 28;
const COMBINE: u8 = 29;
const INCREMENT_FLOAT: u8 = 30;
const DESCRIBE: u8 = 31;
const BIT_FIELDS: u8 = 32;
const SUBSEQUENCE: u8 = 33;
const VERSIONS: u8 = 128;
const TRANSACTION: u8 = 129;
const IF_EQUAL: u8 = 130;
const KEYS: u8 = 131;
const RANDOM_KEY: u8 = 132;
const RANGE: u8 = 133;
const COUNT_RANGE: u8 = 134;

/// A command of many keys with more bytes than this may take long.
const BRIEF_BYTES_MAX: usize = 4 << 10;

/// Whether a command takes microseconds, whatever it finds.
pub fn is_brief(bytes: &[u8]) -> bool {
    match bytes.first() {
        Some(&(GET | SET | INCREMENT | APPEND | LENGTH | EXPIRE | TIME_TO_LIVE | PERSIST)) => true,
        Some(&(TAKE | GET_EXPIRE | PART | EXPIRE_TIME | GET_BIT | REFUSE | TYPE | DESCRIBE | IF_EQUAL)) => true,
        Some(&(DELETE | EXISTS | GET_MANY | SET_MANY | SET_MANY_ABSENT)) => bytes.len() <= BRIEF_BYTES_MAX,
        Some(&VERSIONS) => bytes.len() <= BRIEF_BYTES_MAX,
        Some(&BIT_FIELDS) if bytes.len() <= BRIEF_BYTES_MAX => match Operation::decode(bytes) {
            Some(Operation::BitFields { steps, .. }) => steps.written_bytes() <= BRIEF_BYTES_MAX,
            _ => false,
        },
        Some(&TRANSACTION) if bytes.len() <= BRIEF_BYTES_MAX => {
            Transaction::are_all_steps(&bytes[1..], |command| !is_transaction(command) && is_brief(command))
        }
        _ => false,
    }
}

/// Whether a command is a transaction.
pub(super) fn is_transaction(bytes: &[u8]) -> bool {
    bytes.first() == Some(&TRANSACTION)
}

const SET_ABSENT: u8 = 1;
const SET_PRESENT: u8 = 2;
const SET_GET: u8 = 4;
const EXPIRY_SHIFT: u8 = 4;
const EXPIRY_KEEP: u8 = 1;
const EXPIRY_AFTER: u8 = 2;
const EXPIRY_AT: u8 = 3;

impl<'a> Operation<'a> {
    /// The key of a command that has exactly one.
    pub fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Operation::Get { key }
            | Operation::Set { key, .. }
            | Operation::Increment { key, .. }
            | Operation::Append { key, .. }
            | Operation::Length { key }
            | Operation::Expire { key, .. }
            | Operation::TimeToLive { key }
            | Operation::IfEqual { key, .. }
            | Operation::Persist { key }
            | Operation::Take { key }
            | Operation::GetExpire { key, .. }
            | Operation::Part { key, .. }
            | Operation::Overwrite { key, .. }
            | Operation::ExpireTime { key }
            | Operation::Type { key }
            | Operation::SetBit { key, .. }
            | Operation::GetBit { key, .. }
            | Operation::CountBits { key, .. }
            | Operation::FindBit { key, .. }
            | Operation::IncrementFloat { key, .. }
            | Operation::BitFields { key, .. }
            | Operation::Describe { key, .. }
            | Operation::Refuse { key, .. } => Some(key),
            _ => None,
        }
    }

    /// What an `Encoder` wrote; `None` if the bytes are no command.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<Operation<'a>> {
        let (code, rest) = bytes.split_first()?;
        Some(match *code {
            GET => Operation::Get { key: rest },
            SET => {
                let (flags, expiry, rest) = split_expiry(rest)?;
                let (key, value) = split_string(rest)?;
                let condition = match flags & !SET_GET {
                    0 => SetIf::Always,
                    SET_ABSENT => SetIf::Absent,
                    SET_PRESENT => SetIf::Present,
                    _ => return None,
                };
                Operation::Set { key, value, expiry, condition, get: flags & SET_GET != 0 }
            }
            INCREMENT => {
                let (delta, key) = rest.split_first_chunk()?;
                Operation::Increment { key, delta: i64::from_le_bytes(*delta) }
            }
            DELETE => Operation::Delete { keys: items(rest)? },
            EXISTS => Operation::Exists { keys: items(rest)? },
            GET_MANY => Operation::GetMany { keys: items(rest)? },
            SET_MANY => Operation::SetMany { pairs: items(rest).filter(|items| items.count % 2 == 0)? },
            APPEND => {
                let (key, suffix) = split_string(rest)?;
                Operation::Append { key, suffix }
            }
            LENGTH => Operation::Length { key: rest },
            EXPIRE => {
                let (flags, expiry, key) = split_expiry(rest)?;
                let has = |bit: u8| flags & bit != 0;
                let condition = ExpireIf { absent: has(1), present: has(2), later: has(4), earlier: has(8) };
                matches!(expiry, Expiry::AfterMs(_) | Expiry::AtMs(_)).then_some(Operation::Expire { key, expiry, condition })?
            }
            TIME_TO_LIVE => Operation::TimeToLive { key: rest },
            PERSIST => Operation::Persist { key: rest },
            SIZE if rest.is_empty() => Operation::Size,
            CLEAR if rest.is_empty() => Operation::Clear,
            SCAN => {
                let (position, rest) = split_varint(rest)?;
                let (count, pattern) = split_varint(rest)?;
                Operation::Scan { position, count, pattern }
            }
            IF_EQUAL => {
                let (kind, rest) = rest.split_first()?;
                let (ms, rest) = rest.split_first_chunk()?;
                let ms = i64::from_le_bytes(*ms);
                let (key, expected) = split_string(rest)?;
                let then = [Then::Delete, Then::Expire(ms), Then::ExpireAgain(ms), Then::Extend(ms)];
                Operation::IfEqual { key, expected, then: *then.get(usize::from(*kind))? }
            }
            KEYS => Operation::Keys { pattern: rest },
            RANDOM_KEY => Operation::RandomKey { seed: u64::from_le_bytes(rest.try_into().ok()?) },
            RANGE => {
                let (flag, rest) = rest.split_first()?;
                let (limit, rest) = split_varint(rest)?;
                let (start, end) = split_string(rest)?;
                (*flag < 2).then_some(Operation::Range { bounds: Bounds { start, end }, limit, is_reverse: *flag == 1 })?
            }
            COUNT_RANGE => {
                let (start, end) = split_string(rest)?;
                Operation::CountRange { bounds: Bounds { start, end } }
            }
            TAKE => Operation::Take { key: rest },
            GET_EXPIRE => {
                let (_, expiry, key) = split_expiry(rest).filter(|(flags, expiry, _)| *flags == 0 && *expiry != Expiry::Keep)?;
                Operation::GetExpire { key, expiry }
            }
            PART => {
                let (start, rest) = split_place(rest)?;
                let (end, key) = split_place(rest)?;
                Operation::Part { key, start, end }
            }
            OVERWRITE => {
                let (offset, rest) = split_varint(rest)?;
                let (key, bytes) = split_string(rest)?;
                Operation::Overwrite { key, offset, bytes }
            }
            EXPIRE_TIME => Operation::ExpireTime { key: rest },
            TYPE => Operation::Type { key: rest },
            SET_MANY_ABSENT => Operation::SetManyAbsent { pairs: items(rest).filter(|items| items.count % 2 == 0)? },
            MOVE => {
                let (flags, rest) = rest.split_first().filter(|(flags, _)| **flags < 8)?;
                let (source, target) = split_string(rest)?;
                Operation::Move { source, target, copy: flags & 1 != 0, absent: flags & 2 != 0, counts: flags & 4 != 0 }
            }
            SET_BIT => {
                let (bit, rest) = rest.split_first().filter(|(bit, _)| **bit < 2)?;
                let (offset, key) = split_varint(rest)?;
                Operation::SetBit { key, offset, bit: *bit == 1 }
            }
            GET_BIT => {
                let (offset, key) = split_varint(rest)?;
                Operation::GetBit { key, offset }
            }
            COUNT_BITS => match rest.split_first()? {
                (0, key) => Operation::CountBits { key, range: None },
                (form @ (1 | 2), rest) => {
                    let (start, rest) = split_place(rest)?;
                    let (end, key) = split_place(rest)?;
                    Operation::CountBits { key, range: Some(BitRange { start, end, is_in_bits: *form == 2 }) }
                }
                _ => return None,
            },
            FIND_BIT => {
                let (flags, rest) = rest.split_first().filter(|(flags, _)| **flags < 8)?;
                let (start, rest) = split_place(rest)?;
                let (end, key) = split_place(rest)?;
                let range = BitRange { start, end, is_in_bits: flags & 2 != 0 };
                Operation::FindBit { key, bit: flags & 1 != 0, range, is_open: flags & 4 != 0 }
            }
            COMBINE => {
                let (kind, rest) = rest.split_first()?;
                let keys = items(rest).filter(|keys| !keys.is_empty())?;
                Operation::Combine { kind: *BitwiseKind::ALL.get(usize::from(*kind))?, keys }
            }
            INCREMENT_FLOAT => {
                let (key, delta) = split_string(rest)?;
                Operation::IncrementFloat { key, delta }
            }
            BIT_FIELDS => {
                let (key, rest) = split_string(rest)?;
                Operation::BitFields { key, steps: FieldSteps::decode(rest)? }
            }
            SUBSEQUENCE => {
                let (kind, rest) = rest.split_first()?;
                let (length_min, rest) = split_varint(rest)?;
                let (one, other) = split_string(rest)?;
                let places = |with_lengths| Wanted::Places { length_min, with_lengths };
                let wanted = [Wanted::Bytes, Wanted::Length, places(false), places(true)];
                Operation::Subsequence { one, other, wanted: *wanted.get(usize::from(*kind))? }
            }
            DESCRIBE => {
                let (aspect, key) = rest.split_first()?;
                Operation::Describe { key, aspect: *Aspect::ALL.get(usize::from(*aspect))? }
            }
            REFUSE => {
                let [kind, is_number @ (0 | 1), number, key @ ..] = rest else { return None };
                Operation::Refuse { key, kind: *kind, otherwise: (*is_number == 1).then_some(*number as i8) }
            }
            VERSIONS => Operation::Versions { keys: items(rest)? },
            TRANSACTION => Operation::Transaction(Transaction::decode(rest)?),
            _ => return None,
        })
    }
}

/// Checks that all of `bytes` is the list that its head says, so that a command is executed as a whole or not at all.
fn items(bytes: &[u8]) -> Option<Items<'_>> {
    let (count, bytes) = split_varint(bytes)?;
    let mut rest = bytes;
    for _ in 0..count {
        rest = split_string(rest)?.1;
    }
    rest.is_empty().then_some(Items { count: count as usize, bytes })
}

fn split_place(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (place, rest) = bytes.split_first_chunk()?;
    Some((i64::from_le_bytes(*place), rest))
}

#[inline]
fn push_expiry(out: &mut Vec<u8>, expiry: Expiry, flags: u8) {
    let (kind, ms) = match expiry {
        Expiry::Never => (0, None),
        Expiry::Keep => (EXPIRY_KEEP, None),
        Expiry::AfterMs(ms) => (EXPIRY_AFTER, Some(ms)),
        Expiry::AtMs(ms) => (EXPIRY_AT, Some(ms)),
    };
    out.push(kind << EXPIRY_SHIFT | flags);
    if let Some(ms) = ms {
        out.extend_from_slice(&ms.to_le_bytes());
    }
}

#[inline]
fn split_expiry(bytes: &[u8]) -> Option<(u8, Expiry, &[u8])> {
    let (head, rest) = bytes.split_first()?;
    let flags = head & ((1 << EXPIRY_SHIFT) - 1);
    match head >> EXPIRY_SHIFT {
        0 => Some((flags, Expiry::Never, rest)),
        EXPIRY_KEEP => Some((flags, Expiry::Keep, rest)),
        kind @ (EXPIRY_AFTER | EXPIRY_AT) => {
            let (ms, rest) = rest.split_first_chunk()?;
            let ms = i64::from_le_bytes(*ms);
            Some((flags, if kind == EXPIRY_AT { Expiry::AtMs(ms) } else { Expiry::AfterMs(ms) }, rest))
        }
        _ => None,
    }
}

#[inline]
pub(super) fn push_string(out: &mut Vec<u8>, string: &[u8]) {
    push_varint(out, string.len() as u64);
    out.extend_from_slice(string);
}

#[inline]
pub(super) fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Seven bits a byte, the low ones first; the high bit says that more follow.
#[inline]
pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub(super) fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        return Some((u64::from(*first), rest));
    }
    split_long_varint(*first, rest)
}

#[cold]
fn split_long_varint(first: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = u64::from(first & 0x7f);
    for (at, byte) in rest.iter().take(9).enumerate() {
        value |= u64::from(*byte & 0x7f) << (7 * (at + 1));
        if *byte < 0x80 {
            return Some((value, &rest[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(write: impl FnOnce(Encoder<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(Encoder(&mut bytes));
        bytes
    }

    #[test]
    fn a_small_set_has_three_bytes_beyond_key_and_value() {
        let bytes = encoded(|e| e.set(b"key", b"value", Expiry::Never, SetIf::Always, false));
        assert_eq!(bytes.len(), 3 + 8);
    }

    #[test]
    fn commands_come_back_as_they_were_written() {
        let (key, long) = (&b"key"[..], vec![7; 300]);
        for expiry in [Expiry::Never, Expiry::Keep, Expiry::AfterMs(-1), Expiry::AtMs(i64::MAX)] {
            for condition in [SetIf::Always, SetIf::Absent, SetIf::Present] {
                for get in [false, true] {
                    let bytes = encoded(|e| e.set(key, &long, expiry, condition, get));
                    assert_eq!(Operation::decode(&bytes), Some(Operation::Set { key, value: &long, expiry, condition, get }));
                }
            }
        }
        for bits in 0..16 {
            let has = |bit| bits & bit != 0;
            let condition = ExpireIf { absent: has(1), present: has(2), later: has(4), earlier: has(8) };
            let expiry = Expiry::AfterMs(5);
            let bytes = encoded(|e| e.expire(key, expiry, condition));
            assert_eq!(Operation::decode(&bytes), Some(Operation::Expire { key, expiry, condition }));
        }
        let bytes = encoded(|e| e.set_many(4, [key, &long, b"", key].into_iter()));
        let Some(Operation::SetMany { pairs }) = Operation::decode(&bytes) else { panic!("no pairs") };
        assert_eq!(pairs.pairs().collect::<Vec<_>>(), [(key, &long[..]), (b"", key)]);
        let bytes = encoded(|e| e.scan(u64::MAX, 300, b"*"));
        assert_eq!(Operation::decode(&bytes), Some(Operation::Scan { position: u64::MAX, count: 300, pattern: b"*" }));
        for then in [Then::Delete, Then::Expire(-5), Then::ExpireAgain(i64::MAX), Then::Extend(7)] {
            let bytes = encoded(|e| e.if_equal(key, &long, then));
            assert_eq!(Operation::decode(&bytes), Some(Operation::IfEqual { key, expected: &long, then }));
        }
        let bounds = Bounds { start: key, end: &long };
        for is_reverse in [false, true] {
            let bytes = encoded(|e| e.range(bounds, 300, is_reverse));
            assert_eq!(Operation::decode(&bytes), Some(Operation::Range { bounds, limit: 300, is_reverse }));
        }
        let bytes = encoded(|e| e.count_range(bounds));
        assert_eq!(Operation::decode(&bytes), Some(Operation::CountRange { bounds }));
        for (bit, is_in_bits, is_open) in [(false, false, true), (true, false, false), (false, true, false)] {
            let range = BitRange { start: -3, end: i64::MAX, is_in_bits };
            let bytes = encoded(|e| e.find_bit(key, bit, range, is_open));
            assert_eq!(Operation::decode(&bytes), Some(Operation::FindBit { key, bit, range, is_open }));
        }
        for kind in BitwiseKind::ALL {
            let bytes = encoded(|e| e.combine(kind, 2, [key, &long].into_iter()));
            let Some(Operation::Combine { kind: found, keys }) = Operation::decode(&bytes) else { panic!("no keys") };
            assert_eq!((found, keys.collect::<Vec<_>>()), (kind, vec![key, &long[..]]));
        }
        let places = |with_lengths| Wanted::Places { length_min: 300, with_lengths };
        for wanted in [Wanted::Bytes, Wanted::Length, places(false), places(true)] {
            let bytes = encoded(|e| e.subsequence(key, &long, wanted));
            assert_eq!(Operation::decode(&bytes), Some(Operation::Subsequence { one: key, other: &long, wanted }));
        }
        for aspect in Aspect::ALL {
            let bytes = encoded(|e| e.describe(key, aspect));
            assert_eq!(Operation::decode(&bytes), Some(Operation::Describe { key, aspect }));
        }
        for otherwise in [None, Some(0), Some(-1)] {
            let bytes = encoded(|e| e.refuse(key, KvError::Syntax, otherwise));
            assert_eq!(Operation::decode(&bytes), Some(Operation::Refuse { key, kind: KvError::Syntax as u8, otherwise }));
        }
        let bytes = encoded(|e| e.increment_float(key, b"1.5"));
        assert_eq!(Operation::decode(&bytes), Some(Operation::IncrementFloat { key, delta: b"1.5" }));
        let bytes = encoded(|e| e.increment(key, i64::MIN));
        assert_eq!(Operation::decode(&bytes), Some(Operation::Increment { key, delta: i64::MIN }));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, code in 0..40u8) {
            let mut bytes = bytes;
            bytes.insert(0, code);
            if let Some(Operation::Delete { keys } | Operation::SetMany { pairs: keys }) = Operation::decode(&bytes) {
                assert_eq!(keys.count(), keys.len());
            }
        }
    }
}
