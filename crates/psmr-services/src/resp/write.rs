//! Writing RESP2 and RESP3.

/// Appends RESP values to a buffer, in one protocol version.
pub struct Writer<'b> {
    /// The buffer.
    pub out: &'b mut Vec<u8>,
    /// RESP3, else RESP2.
    pub is_resp3: bool,
}

impl Writer<'_> {
    /// A simple string: no line breaks.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.line(text.as_bytes());
    }

    /// An error, code included. Line breaks in it become spaces.
    pub fn error(&mut self, text: &[u8]) {
        self.out.push(b'-');
        self.out.extend(text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// A number.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.head(b':', value);
    }

    /// A string of any bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as i64);
        self.line(bytes);
    }

    /// Nothing, where a string might be.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Nothing, where an array might be.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// The head of an array: `count` values follow.
    pub fn array(&mut self, count: usize) {
        self.head(b'*', count as i64);
    }

    /// The head of a map: `count` keys and values follow, in turn.
    pub fn map(&mut self, count: usize) {
        if self.is_resp3 {
            self.head(b'%', count as i64);
        } else {
            self.array(2 * count);
        }
    }

    /// The head of a set: `count` values follow.
    pub fn set(&mut self, count: usize) {
        self.head(if self.is_resp3 { b'~' } else { b'*' }, count as i64);
    }

    /// Text for people.
    pub fn verbatim(&mut self, text: &[u8]) {
        if self.is_resp3 {
            self.head(b'=', text.len() as i64 + 4);
            self.out.extend_from_slice(b"txt:");
            self.line(text);
        } else {
            self.bulk(text);
        }
    }

    #[inline]
    fn head(&mut self, kind: u8, number: i64) {
        self.out.push(kind);
        self.line(itoa::Buffer::new().format(number).as_bytes());
    }

    #[inline]
    fn line(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }
}
