//! Reading and writing little-endian fields. A reader never panics on bytes: it says what was missing and where.

use bytes::Bytes;

/// Bytes that do not decode: what was being read, and at which offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
    /// Offset in the bytes where it should have been.
    pub offset: usize,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed {} at byte {}", self.what, self.offset)
    }
}

/// Appends fields to a buffer.
pub trait Write {
    /// One byte.
    fn u8(&mut self, value: u8);
    /// Two bytes.
    fn u16(&mut self, value: u16);
    /// Four bytes.
    fn u32(&mut self, value: u32);
    /// Eight bytes.
    fn u64(&mut self, value: u64);
    /// A length of four bytes, and that many bytes.
    fn blob(&mut self, value: &[u8]);
}

impl Write for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn blob(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.extend_from_slice(value);
    }
}

/// Takes fields off shared bytes.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    offset: usize,
}

impl Reader {
    /// Reads `bytes` from their start.
    pub fn new(bytes: Bytes) -> Reader {
        Reader { bytes, offset: 0 }
    }

    /// How far the reader is.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.offset == self.bytes.len()
    }

    /// Passes over `count` bytes and gives where they are.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn skip(&mut self, count: usize, what: &'static str) -> Result<std::ops::Range<usize>, Malformed> {
        let start = self.offset;
        if self.bytes.len() - start < count {
            return Err(Malformed { what, offset: start });
        }
        self.offset += count;
        Ok(start..self.offset)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let range = self.skip(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end, as all that follow.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// At the end.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// At the end.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// At the end.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length of four bytes and that many bytes, which share the reader's memory.
    ///
    /// # Errors
    /// At the end.
    pub fn blob(&mut self, what: &'static str) -> Result<Bytes, Malformed> {
        let length = self.u32(what)? as usize;
        let range = self.skip(length, what)?;
        Ok(self.bytes.slice(range))
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.offset..);
        self.offset = self.bytes.len();
        rest
    }

    /// An error at the present place.
    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { what, offset: self.offset }
    }
}
