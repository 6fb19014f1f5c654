//! What a command is to the load, and the text of its key and value. A value names its key and its write, so that a value
//! which turns up under another key, or is cut, padded or mixed, is seen at once.

/// Keys are numbered below this: a value has 30 bits for the number.
pub(super) const KEYS_MAX: u64 = 1 << (6 * KEY_CHARACTERS);
/// The shortest value: 5 characters for the key's number, 3 for the stamp.
pub(super) const VALUE_BYTES_MIN: usize = KEY_CHARACTERS + STAMP_CHARACTERS;
/// The most writers: their number has four digits in a key.
pub(super) const WRITERS_MAX: usize = 10_000;
/// Stamps are taken modulo this.
pub(super) const STAMPS: u32 = 1 << (6 * STAMP_CHARACTERS);

const KEY_CHARACTERS: usize = 5;
const STAMP_CHARACTERS: usize = 3;
const NUMBER_DIGITS: usize = 12;
const WRITER_DIGITS: usize = 4;
const MEMBER_DIGITS: usize = 4;
/// The most commands that are asked for together.
pub(super) const TOGETHER_MAX: usize = 1000;
const PADDING: u8 = b'.';
const ALPHABET: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

/// One command, in the terms of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    /// Number of the key: in the key space, or in the sequence of its writer.
    pub key: u64,
    /// Whose key it is, where keys are per writer; else 0.
    pub writer: u32,
    /// Which write this is, or which one a read must find. Below [`STAMPS`].
    pub stamp: u32,
    /// What is asked.
    pub kind: Kind,
}

/// What a command asks, and what it may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write: must be acknowledged.
    Set,
    /// A read that may find nothing, or any write to its key.
    GetAny,
    /// A read that must find the write with this stamp.
    GetExactly,
}

/// How keys and values are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// What each key begins with.
    pub prefix: String,
    /// Whether a key also names its writer.
    pub per_writer: bool,
    /// So many keys in sequence share a `{tag}`, which keeps them in one group; 1: there are no tags.
    pub tagged: u64,
    /// Length of every value.
    pub value_bytes: usize,
}

impl Format {
    /// A key with the parts that all keys share; `write_key` fills in the rest.
    pub fn key_template(&self) -> Vec<u8> {
        let mut key = self.prefix.clone().into_bytes();
        if self.per_writer {
            key.extend_from_slice(&[b'0'; WRITER_DIGITS]);
            key.push(b':');
        }
        if self.tagged > 1 {
            key.push(b'{');
            key.extend_from_slice(&[b'0'; NUMBER_DIGITS]);
            key.push(b'}');
            key.extend_from_slice(&[b'0'; MEMBER_DIGITS]);
        } else {
            key.extend_from_slice(&[b'0'; NUMBER_DIGITS]);
        }
        key
    }

    /// A value with the parts that all values share; `write_value` fills in the rest.
    pub fn value_template(&self) -> Vec<u8> {
        vec![PADDING; self.value_bytes]
    }

    /// Makes a copy of the key template the operation's key.
    #[inline]
    pub fn write_key(&self, operation: &Operation, key: &mut [u8]) {
        if self.per_writer {
            let at = self.prefix.len();
            write_decimal(u64::from(operation.writer), &mut key[at..at + WRITER_DIGITS]);
        }
        if self.tagged > 1 {
            let member = key.len() - MEMBER_DIGITS;
            write_decimal(operation.key % self.tagged, &mut key[member..]);
            write_decimal(operation.key / self.tagged, &mut key[member - 1 - NUMBER_DIGITS..member - 1]);
        } else {
            let at = key.len() - NUMBER_DIGITS;
            write_decimal(operation.key, &mut key[at..]);
        }
    }

    /// Makes a copy of the value template the operation's value.
    #[inline]
    pub fn write_value(&self, operation: &Operation, value: &mut [u8]) {
        value[..KEY_CHARACTERS].copy_from_slice(&characters::<KEY_CHARACTERS>(operation.key));
        value[KEY_CHARACTERS..VALUE_BYTES_MIN].copy_from_slice(&characters::<STAMP_CHARACTERS>(u64::from(operation.stamp)));
    }

    /// Whether a read of this operation's key may find this value.
    #[inline]
    pub fn admits(&self, operation: &Operation, value: &[u8]) -> bool {
        if value.len() != self.value_bytes || value[..KEY_CHARACTERS] != characters::<KEY_CHARACTERS>(operation.key) {
            return false;
        }
        let stamp = &value[KEY_CHARACTERS..VALUE_BYTES_MIN];
        let stamped = match operation.kind {
            Kind::GetExactly => stamp == characters::<STAMP_CHARACTERS>(u64::from(operation.stamp)),
            _ => stamp.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')),
        };
        stamped && value[VALUE_BYTES_MIN..].iter().all(|c| *c == PADDING)
    }

    /// The operation's key as text.
    pub fn key(&self, operation: &Operation) -> String {
        let mut key = self.key_template();
        self.write_key(operation, &mut key);
        String::from_utf8_lossy(&key).into_owned()
    }
}

/// The low 6 × N bits of the number, the highest first.
#[inline]
fn characters<const N: usize>(number: u64) -> [u8; N] {
    std::array::from_fn(|at| ALPHABET[(number >> (6 * (N - 1 - at)) & 63) as usize])
}

/// Fills `digits` with the number's lowest decimal digits. Two at a time: this runs once for each command.
#[inline]
fn write_decimal(mut number: u64, digits: &mut [u8]) {
    for pair in digits.rchunks_exact_mut(2) {
        let low = (number % 100) as u8;
        number /= 100;
        pair[0] = b'0' + low / 10;
        pair[1] = b'0' + low % 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(per_writer: bool, value_bytes: usize) -> Format {
        Format { prefix: "p:".to_owned(), per_writer, tagged: 1, value_bytes }
    }

    fn value(format: &Format, operation: &Operation) -> Vec<u8> {
        let mut value = format.value_template();
        format.write_value(operation, &mut value);
        value
    }

    const OPERATION: Operation = Operation { key: 1_234_567, writer: 42, stamp: 99, kind: Kind::GetExactly };

    #[test]
    fn keys_are_of_fixed_width_and_name_their_number() {
        assert_eq!(format(false, 8).key(&OPERATION), "p:000001234567");
        assert_eq!(format(true, 8).key(&OPERATION), "p:0042:000001234567");
        assert_eq!(Format { tagged: 10, ..format(false, 8) }.key(&OPERATION), "p:{000000123456}0007");
    }

    #[test]
    fn a_value_is_admitted_under_its_own_key_and_stamp_alone() {
        for value_bytes in [8, 9, 100] {
            let format = format(false, value_bytes);
            let value = value(&format, &OPERATION);
            assert_eq!(value.len(), value_bytes);
            assert!(value.iter().all(u8::is_ascii_graphic));
            assert!(format.admits(&OPERATION, &value));
            assert!(!format.admits(&Operation { key: 1_234_568, ..OPERATION }, &value));
            let later = Operation { stamp: 100, ..OPERATION };
            assert!(!format.admits(&later, &value));
            assert!(format.admits(&Operation { kind: Kind::GetAny, ..later }, &value));
        }
    }

    #[test]
    fn a_damaged_value_is_not_admitted() {
        let format = format(false, 12);
        let any = Operation { kind: Kind::GetAny, ..OPERATION };
        let whole = value(&format, &any);
        assert!(!format.admits(&any, &whole[..11]));
        assert!(!format.admits(&any, b""));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = b'\r';
            assert!(!format.admits(&any, &damaged), "byte {at}");
        }
    }

    #[test]
    fn numbers_of_all_sizes_are_told_apart() {
        let format = format(false, 8);
        for shift in 0..30 {
            let one = Operation { key: 1 << shift, ..OPERATION };
            assert!(format.admits(&one, &value(&format, &one)));
            assert!(!format.admits(&OPERATION, &value(&format, &one)));
        }
    }
}
