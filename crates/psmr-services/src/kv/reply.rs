//! Replies of the key-value service: neutral values that any client protocol can translate.
//!
//! ```text
//! reply = 0                          done
//!       | 1                          nothing there
//!       | 2, i64                     a number
//!       | 3, length u32, bytes       a string
//!       | 4, count u32, reply...     a list
//!       | 5, kind u8                 an error
//!       | 6, length u8, bytes        a word of the service, not of a client
//!       | 7, count u32, (reply, reply)...    a map
//! ```
//! All numbers are little-endian.

/// Why a command was not executed. Nothing of it has taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KvError {
    /// The value is no integer of 64 bits.
    NotAnInteger = 1,
    /// The sum does not fit 64 bits.
    Overflow = 2,
    /// The value would become longer than [`super::VALUE_BYTES_MAX`].
    TooLong = 3,
    /// The expiry is beyond the end of time.
    ExpireTime = 4,
    /// A key is not in a group of γ: a defect of the client proxy.
    OutsideGamma = 5,
    /// The bytes are no command of this version, or not one that may be executed in this way.
    Malformed = 6,
    /// The key is not there.
    NoSuchKey = 7,
    /// The options are wrong.
    Syntax = 8,
    /// The value, or what is to be added, is no number.
    NotAFloat = 9,
    /// The sum is no number, or infinite.
    NoSum = 10,
    /// How often a key is used is not counted.
    NotCounted = 11,
    /// Two strings are too long to be compared with each other.
    TableTooLong = 12,
}

impl KvError {
    /// All of them.
    pub const ALL: [KvError; 12] = [
        KvError::NotAnInteger,
        KvError::Overflow,
        KvError::TooLong,
        KvError::ExpireTime,
        KvError::OutsideGamma,
        KvError::Malformed,
        KvError::NoSuchKey,
        KvError::Syntax,
        KvError::NotAFloat,
        KvError::NoSum,
        KvError::NotCounted,
        KvError::TableTooLong,
    ];
}

const DONE: u8 = 0;
const NULL: u8 = 1;
const INTEGER: u8 = 2;
const BYTES: u8 = 3;
const LIST: u8 = 4;
const ERROR: u8 = 5;
const WORD: u8 = 6;
const MAP: u8 = 7;

/// Appends replies to a buffer.
pub trait WriteReply {
    /// Done, nothing to say.
    fn done(&mut self);
    /// There is nothing.
    fn null(&mut self);
    /// A number.
    fn integer(&mut self, value: i64);
    /// A string.
    fn string(&mut self, value: &[u8]);
    /// The head of a list: `count` replies follow.
    fn list(&mut self, count: usize);
    /// The head of a map: `count` keys and values follow, in turn.
    fn map(&mut self, count: usize);
    /// An error.
    fn error(&mut self, kind: KvError);
    /// A word, which is short.
    fn word(&mut self, word: &str);
}

impl WriteReply for Vec<u8> {
    #[inline]
    fn done(&mut self) {
        self.push(DONE);
    }

    #[inline]
    fn null(&mut self) {
        self.push(NULL);
    }

    #[inline]
    fn integer(&mut self, value: i64) {
        self.push(INTEGER);
        self.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn string(&mut self, value: &[u8]) {
        self.push(BYTES);
        self.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.extend_from_slice(value);
    }

    fn list(&mut self, count: usize) {
        self.push(LIST);
        self.extend_from_slice(&(count as u32).to_le_bytes());
    }

    fn map(&mut self, count: usize) {
        self.push(MAP);
        self.extend_from_slice(&(count as u32).to_le_bytes());
    }

    fn error(&mut self, kind: KvError) {
        self.push(ERROR);
        self.push(kind as u8);
    }

    fn word(&mut self, word: &str) {
        self.push(WORD);
        self.push(word.len() as u8);
        self.extend_from_slice(word.as_bytes());
    }
}

/// A reply, or the head of one: the replies of a list follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Done, nothing to say.
    Done,
    /// There is nothing.
    Null,
    /// A number.
    Integer(i64),
    /// A string.
    String(&'a [u8]),
    /// A list: so many replies follow.
    List(usize),
    /// A map: so many keys and values follow, in turn.
    Map(usize),
    /// An error.
    Error(KvError),
    /// A word of the service.
    Word(&'a [u8]),
}

/// The next reply at the start of `bytes`, and what follows it; `None` if there is no whole one.
#[inline]
pub fn split_reply(bytes: &[u8]) -> Option<(Reply<'_>, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    match *tag {
        DONE => Some((Reply::Done, rest)),
        NULL => Some((Reply::Null, rest)),
        INTEGER => {
            let (value, rest) = rest.split_first_chunk()?;
            Some((Reply::Integer(i64::from_le_bytes(*value)), rest))
        }
        BYTES => {
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Some((Reply::String(value), rest))
        }
        LIST | MAP => {
            let (count, rest) = rest.split_first_chunk()?;
            let count = u32::from_le_bytes(*count) as usize;
            Some((if *tag == MAP { Reply::Map(count) } else { Reply::List(count) }, rest))
        }
        ERROR => {
            let (kind, rest) = rest.split_first()?;
            KvError::ALL.into_iter().find(|k| *k as u8 == *kind).map(|kind| (Reply::Error(kind), rest))
        }
        WORD => {
            let (length, rest) = rest.split_first()?;
            let (word, rest) = rest.split_at_checked(usize::from(*length))?;
            Some((Reply::Word(word), rest))
        }
        _ => None,
    }
}

/// What follows the reply at the start of `bytes`, those in it included; `None` if there is no whole one.
pub fn skip_reply(bytes: &[u8]) -> Option<&[u8]> {
    let (mut rest, mut left) = (bytes, 1usize);
    while left > 0 {
        let (reply, after) = split_reply(rest)?;
        left += match reply {
            Reply::List(count) => count,
            Reply::Map(count) => 2 * count,
            _ => 0,
        };
        left -= 1;
        rest = after;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_split_or_refused(tags in proptest::collection::vec(0u8..9, 0..4), bytes: Vec<u8>) {
            let input = [tags, bytes].concat();
            let mut rest = &input[..];
            while let Some((_, after)) = split_reply(rest) {
                assert!(after.len() < rest.len() && rest.ends_with(after));
                rest = after;
            }
        }
    }

    #[test]
    fn a_map_is_passed_over_with_its_keys_and_values() {
        let mut bytes = Vec::new();
        bytes.map(2);
        for number in 0..4 {
            assert_eq!(skip_reply(&bytes), None);
            bytes.integer(number);
        }
        bytes.null();
        assert_eq!(skip_reply(&bytes).map(split_reply), Some(Some((Reply::Null, &[][..]))));
    }

    #[test]
    fn replies_come_back_as_they_were_written() {
        let mut bytes = Vec::new();
        bytes.list(2);
        bytes.string(b"ab");
        bytes.integer(-7);
        bytes.done();
        bytes.null();
        bytes.word("string");
        bytes.map(3);
        KvError::ALL.into_iter().for_each(|kind| bytes.error(kind));
        let mut expected = vec![
            Reply::List(2),
            Reply::String(b"ab"),
            Reply::Integer(-7),
            Reply::Done,
            Reply::Null,
            Reply::Word(b"string"),
            Reply::Map(3),
        ];
        expected.extend(KvError::ALL.map(Reply::Error));
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Some((reply, after)) = split_reply(rest) {
            found.push(reply);
            rest = after;
        }
        assert_eq!((found, rest.len()), (expected, 0));
        assert_eq!(split_reply(&bytes[5..9]), None);
    }
}
