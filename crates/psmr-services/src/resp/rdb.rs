//! Files of Redis (RDB): the strings in one, and files of strings that a Redis loads.
//!
//! ```text
//! file   = "REDIS", version (4 digits), entry..., 0xff, crc64 u64 (of all before; 0: none)
//! entry  = 0xfa, string, string                about the file
//!        | 0xfe, length                        the database of what follows
//!        | 0xfb, length, length                how many keys it has
//!        | 0xfc, u64 | 0xfd, u32               when the next key expires, in milliseconds or seconds
//!        | 0xf8, length | 0xf9, u8             when and how often the next key was used
//!        | 0xf5, string | 0xf7, module         functions, and what a module has beside keys
//!        | type, key (a string), value         a key
//! ```
//! Strings and lengths are those of `dump`.

use super::dump::{crc64, push_length, unpack, write_string};
use std::fmt;
use std::io::{self, Read};

/// The last version whose types are known here: that of Redis 7.2.
const VERSION_LAST: u32 = 11;

/// The version of the files that are written, which Redis 5 and later load.
const VERSION_WRITTEN: u32 = 9;

/// Memory for a string is taken as its bytes come, so much at a time: a length may be wrong.
const PIECE_BYTES: usize = 1 << 20;

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A key with a string.
    String { database: u64, key: Vec<u8>, value: Vec<u8>, expires_ms: Option<u64> },
    /// A key with something else, whose name this is.
    Other { database: u64, key: Vec<u8>, kind: &'static str },
}

/// Why a file cannot be read further.
#[derive(Debug)]
pub struct RdbError {
    /// Where, in bytes from its start.
    pub offset: u64,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for RdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.text)
    }
}

/// A file as it is read.
pub struct Reader<R> {
    source: R,
    offset: u64,
    checksum: u64,
    version: u32,
    database: u64,
    is_over: bool,
}

/// A string's length, or what stands for the string.
enum Length {
    Bytes(u64),
    Special(u8),
}

impl<R: Read> Reader<R> {
    /// Begins with a source of bytes, which should be buffered.
    ///
    /// # Errors
    /// If they are no such file, or of a later version.
    pub fn new(source: R) -> Result<Reader<R>, RdbError> {
        let mut reader = Reader { source, offset: 0, checksum: 0, version: 0, database: 0, is_over: false };
        let head: [u8; 9] = reader.array()?;
        let digits = head.strip_prefix(b"REDIS").and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(version) = digits.and_then(|digits| digits.parse().ok()) else {
            return Err(RdbError { offset: 0, text: "it does not begin as a file of Redis (RDB) does".into() });
        };
        if !(1..=VERSION_LAST).contains(&version) {
            let text = format!("version {version} of the format; 1 to {VERSION_LAST} are known");
            return Err(RdbError { offset: 5, text });
        }
        reader.version = version;
        Ok(reader)
    }

    /// Where the bytes come from.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// How much has been read, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next key; `None` at the end, whose checksum is right.
    ///
    /// # Errors
    /// If the file is damaged, ends too early, or has what is not known here.
    pub fn next_item(&mut self) -> Result<Option<Item>, RdbError> {
        let mut expires_ms = None;
        while !self.is_over {
            match self.byte()? {
                0xff => self.end()?,
                0xfa => (0..2).try_for_each(|_| self.string().map(drop))?,
                0xfb => (0..2).try_for_each(|_| self.length().map(drop))?,
                0xfc => expires_ms = Some(u64::from_le_bytes(self.array()?)),
                0xfd => expires_ms = Some(u64::from(u32::from_le_bytes(self.array()?)) * 1000),
                0xfe => self.database = self.length()?,
                0xf9 => drop(self.byte()?),
                0xf8 => drop(self.length()?),
                0xf5 => drop(self.string()?),
                0xf7 => {
                    self.length()?;
                    self.module()?;
                }
                0 => {
                    let (database, key, value) = (self.database, self.string()?, self.string()?);
                    return Ok(Some(Item::String { database, key, value, expires_ms }));
                }
                kind => {
                    let (database, key) = (self.database, self.string()?);
                    return Ok(Some(Item::Other { database, key, kind: self.other(kind)? }));
                }
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<(), RdbError> {
        self.is_over = true;
        if self.version < 5 {
            return Ok(());
        }
        let expected = self.checksum;
        let found = u64::from_le_bytes(self.array()?);
        match found == 0 || found == expected {
            true => Ok(()),
            false => Err(self.wrong("the checksum is wrong: the file is damaged")),
        }
    }

    /// Passes over a value that is no string.
    fn other(&mut self, kind: u8) -> Result<&'static str, RdbError> {
        let (name, strings) = match kind {
            1 => ("list", Some(self.length()?)),
            2 => ("set", Some(self.length()?)),
            4 => ("hash", self.length()?.checked_mul(2)),
            3 | 5 => {
                for _ in 0..self.length()? {
                    self.string()?;
                    self.score(kind)?;
                }
                ("sorted set", Some(0))
            }
            6 | 7 => {
                self.length()?;
                if kind == 6 {
                    return Err(self.wrong("a value of a module of before Redis 4, whose end nobody can tell"));
                }
                self.module()?;
                ("module", Some(0))
            }
            9 | 13 | 16 => ("hash", Some(1)),
            10 => ("list", Some(1)),
            11 | 20 => ("set", Some(1)),
            12 | 17 => ("sorted set", Some(1)),
            14 => ("list", Some(self.length()?)),
            18 => {
                for _ in 0..self.length()? {
                    self.length()?;
                    self.string()?;
                }
                ("list", Some(0))
            }
            15 | 19 | 21 => {
                self.stream(kind)?;
                ("stream", Some(0))
            }
            _ => return Err(self.wrong(&format!("type {kind} is not known"))),
        };
        let strings = strings.ok_or_else(|| self.wrong("a length that cannot be"))?;
        (0..strings).try_for_each(|_| self.string().map(drop))?;
        Ok(name)
    }

    fn score(&mut self, kind: u8) -> Result<(), RdbError> {
        let bytes = match kind {
            5 => 8,
            // Three lengths stand for numbers without digits.
            _ => match self.byte()? {
                253..=255 => 0,
                length => u64::from(length),
            },
        };
        self.pass_over(bytes)
    }

    fn stream(&mut self, kind: u8) -> Result<(), RdbError> {
        for _ in 0..self.length()? {
            self.string()?;
            self.string()?;
        }
        let is_later = kind > 15;
        // Length and last id; later also first id, last deleted id and entries added.
        (0..if is_later { 8 } else { 3 }).try_for_each(|_| self.length().map(drop))?;
        for _ in 0..self.length()? {
            self.string()?;
            (0..if is_later { 3 } else { 2 }).try_for_each(|_| self.length().map(drop))?;
            for _ in 0..self.length()? {
                self.pass_over(16 + 8)?;
                self.length()?;
            }
            for _ in 0..self.length()? {
                self.string()?;
                self.pass_over(if kind == 21 { 16 } else { 8 })?;
                let pending = self.length()?;
                let bytes = pending.checked_mul(16).ok_or_else(|| self.wrong("a length that cannot be"))?;
                self.pass_over(bytes)?;
            }
        }
        Ok(())
    }

    fn module(&mut self) -> Result<(), RdbError> {
        loop {
            match self.length()? {
                0 => return Ok(()),
                1 | 2 => drop(self.length()?),
                3 => self.pass_over(4)?,
                4 => self.pass_over(8)?,
                5 => drop(self.string()?),
                other => return Err(self.wrong(&format!("part {other} of a module's value is not known"))),
            }
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        let digits = |number: i32| number.to_string().into_bytes();
        match self.length_or_special()? {
            Length::Bytes(length) => self.bytes(length),
            Length::Special(0) => Ok(digits(i32::from(self.byte()? as i8))),
            Length::Special(1) => Ok(digits(i32::from(i16::from_le_bytes(self.array()?)))),
            Length::Special(2) => Ok(digits(i32::from_le_bytes(self.array()?))),
            Length::Special(3) => {
                let (packed, length) = (self.length()?, self.length()?);
                let packed = self.bytes(packed)?;
                // Three bytes become 264 at most.
                let is_possible = length <= 1 << 30 && length / 88 <= packed.len() as u64 + 1;
                let unpacked = if is_possible { unpack(&packed, length as usize, usize::MAX).ok() } else { None };
                unpacked.ok_or_else(|| self.wrong("packed bytes (LZF) that cannot be"))
            }
            Length::Special(other) => Err(self.wrong(&format!("a string in form {other}, which is not known"))),
        }
    }

    fn length(&mut self) -> Result<u64, RdbError> {
        match self.length_or_special()? {
            Length::Bytes(length) => Ok(length),
            Length::Special(_) => Err(self.wrong("a string where a length has to be")),
        }
    }

    fn length_or_special(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Bytes(u64::from(first)),
            1 => Length::Bytes(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Length::Bytes(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Length::Bytes(u64::from_be_bytes(self.array()?)),
            2 => return Err(self.wrong("a length in a form that is not known")),
            _ => Length::Special(first & 0x3f),
        })
    }

    fn byte(&mut self) -> Result<u8, RdbError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, RdbError> {
        let mut bytes = Vec::new();
        let mut left = length;
        while left > 0 {
            let (start, piece) = (bytes.len(), left.min(PIECE_BYTES as u64) as usize);
            bytes.resize(start + piece, 0);
            self.fill(&mut bytes[start..])?;
            left -= piece as u64;
        }
        Ok(bytes)
    }

    fn pass_over(&mut self, length: u64) -> Result<(), RdbError> {
        let mut room = [0; 512];
        let mut left = length;
        while left > 0 {
            let piece = left.min(room.len() as u64) as usize;
            self.fill(&mut room[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RdbError> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.wrong("the file ends too early: it is not whole"),
            _ => self.wrong(&error.to_string()),
        })?;
        self.checksum = crc64(self.checksum, bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn wrong(&self, text: &str) -> RdbError {
        RdbError { offset: self.offset, text: text.into() }
    }
}

/// A file of strings as it is written: `head`, any number of `add`, `end`.
#[derive(Debug, Default)]
pub struct Writer {
    checksum: u64,
}

impl Writer {
    /// What it begins with: database 0.
    pub fn head(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(format!("REDIS{VERSION_WRITTEN:04}").as_bytes());
        out.extend_from_slice(&[0xfe, 0]);
        self.checksum = crc64(self.checksum, &out[start..]);
    }

    /// A key.
    pub fn add(&mut self, key: &[u8], value: &[u8], expires_ms: Option<u64>, out: &mut Vec<u8>) {
        let start = out.len();
        if let Some(expires_ms) = expires_ms {
            out.push(0xfc);
            out.extend_from_slice(&expires_ms.to_le_bytes());
        }
        out.push(0);
        push_length(out, key.len());
        out.extend_from_slice(key);
        write_string(value, out);
        self.checksum = crc64(self.checksum, &out[start..]);
    }

    /// What it ends with.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.push(0xff);
        let checksum = crc64(self.checksum, &[0xff]);
        out.extend_from_slice(&checksum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_oneof, Strategy};

    type Entry = (Vec<u8>, Vec<u8>, Option<u64>);

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let value = prop_oneof![vec(any::<u8>(), 0..200), any::<i64>().prop_map(|number| number.to_string().into_bytes())];
        vec((vec(any::<u8>(), 0..70), value, any::<Option<u64>>()), 0..12)
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let (mut writer, mut out) = (Writer::default(), Vec::new());
        writer.head(&mut out);
        entries.iter().for_each(|(key, value, expires_ms)| writer.add(key, value, *expires_ms, &mut out));
        writer.end(&mut out);
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<Item>, RdbError> {
        let mut reader = Reader::new(bytes)?;
        std::iter::from_fn(|| reader.next_item().transpose()).collect()
    }

    proptest::proptest! {
        #[test]
        fn what_was_written_is_read_and_nothing_less(entries in entries(), at in any::<proptest::sample::Index>()) {
            let bytes = written(&entries);
            let strings = |(key, value, expires_ms): Entry| Item::String { database: 0, key, value, expires_ms };
            assert_eq!(read(&bytes).unwrap(), entries.into_iter().map(strings).collect::<Vec<_>>());
            for length in 0..bytes.len() {
                assert!(read(&bytes[..length]).is_err(), "cut at {length}");
            }
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= 1;
            assert!(read(&damaged).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in vec(prop_oneof![any::<u8>(), 0..22u8, 0xc0..0xc4u8, 0xf4..=0xffu8], 0..60)) {
            let _ = read(&[b"REDIS0011", &body[..]].concat());
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refusal = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(refusal(b"hello world"), "at byte 0: it does not begin as a file of Redis (RDB) does");
        assert_eq!(refusal(b"REDIS0099"), "at byte 5: version 99 of the format; 1 to 11 are known");
        assert_eq!(refusal(b"REDIS0009\x00\x01k"), "at byte 12: the file ends too early: it is not whole");
        assert_eq!(refusal(b"REDIS0009\x30\x01k"), "at byte 12: type 48 is not known");
        assert_eq!(refusal(b"REDIS0009\xff12345678"), "at byte 18: the checksum is wrong: the file is damaged");
        assert!(
            refusal(b"REDIS0009\x00\x01k\x81\xff\xff\xff\xff\xff\xff\xff\xff").contains("ends too early"),
            "no memory is taken"
        );
        assert!(refusal(b"REDIS0009\x00\x01k\xc3\x01\x80\xff\xff\xff\xffa").contains("LZF"));
    }
}
