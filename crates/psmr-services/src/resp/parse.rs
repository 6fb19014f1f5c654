//! Parsing requests: arrays of bulk strings, and lines of words (inline commands). Arguments are not copied; a request that
//! has not arrived whole is not parsed again from its start.

use super::Limits;
use crate::kv::parse_integer;
use memchr::memchr;

/// Where an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The argument that `bytes` get when it is appended to them.
    pub fn append(argument: &[u8], bytes: &mut Vec<u8>) -> Span {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(argument);
        Span { start, end: bytes.len() as u32 }
    }

    /// The argument. `bytes` are those in which it was found.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// What is at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request of so many bytes; its arguments are in the input.
    Request(usize),
    /// A line of so many bytes; its arguments are in `Parser::line`.
    Line(usize),
    /// So many bytes are of a request that is over the limit: they are to be taken off and forgotten.
    TooLong {
        /// How many bytes.
        length: usize,
        /// Whether the request ends with them.
        is_whole: bool,
    },
    /// More is needed.
    Incomplete,
}

/// The input is not RESP, or is beyond a limit: the text after `-ERR Protocol error: `. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub String);

fn refuse<T>(text: &str) -> Result<T, ProtocolError> {
    Err(ProtocolError(text.to_owned()))
}

/// The state of parsing one request.
#[derive(Debug, Default)]
pub struct Parser {
    /// The arguments so far. Empty after a whole request that has none, which is to be passed over.
    pub arguments: Vec<Span>,
    /// The words of a line, one after the other, without their quotes.
    pub line: Vec<u8>,
    /// How far the request has been parsed.
    offset: usize,
    /// How many arguments are still to come; `None` before their number is known.
    awaited: Option<usize>,
    /// The length of the argument at `offset`, once known.
    length: Option<usize>,
    /// The request is over the limit: what comes of it is forgotten.
    is_too_long: bool,
    /// How many bytes of its present argument are still to be passed over, the line's end included.
    passing: usize,
}

impl Parser {
    /// Parses what is at the start of `input`, which is not empty. After `Incomplete`, it must be called again with the same bytes and
    /// more.
    #[inline]
    pub fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.is_too_long {
            return self.pass_over(input, limits);
        }
        if input[0] != b'*' {
            return self.parse_line(input, limits);
        }
        let mut awaited = match self.awaited {
            Some(awaited) => awaited,
            None => {
                self.arguments.clear();
                let Some((count, next)) = number_at(input, 1, "too big mbulk count string", limits)? else {
                    return Ok(Parsed::Incomplete);
                };
                match count {
                    Some(count) if count <= limits.arguments_max as i64 => {
                        self.offset = next;
                        count.max(0) as usize
                    }
                    _ => return refuse("invalid multibulk length"),
                }
            }
        };
        while awaited > 0 {
            let Some(span) = self.parse_bulk(input, limits)? else {
                self.awaited = Some(awaited);
                if !self.is_too_long {
                    return Ok(Parsed::Incomplete);
                }
                self.awaited = Some(awaited - 1);
                self.passing = self.length.take().unwrap_or(0) + 2;
                return self.pass_over(input, limits);
            };
            self.arguments.push(span);
            awaited -= 1;
        }
        self.awaited = None;
        Ok(Parsed::Request(self.offset))
    }

    #[inline]
    fn parse_bulk(&mut self, input: &[u8], limits: &Limits) -> Result<Option<Span>, ProtocolError> {
        let length = match self.length {
            Some(length) => length,
            None => match self.parse_length(input, limits)? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        let end = self.offset + length;
        self.is_too_long = end + 2 > limits.request_bytes_max;
        if self.is_too_long || input.len() < end + 2 {
            self.length = Some(length);
            return Ok(None);
        }
        let span = Span { start: self.offset as u32, end: end as u32 };
        self.offset = end + 2;
        self.length = None;
        Ok(Some(span))
    }

    /// The line at `offset` that says an argument's length.
    #[inline]
    fn parse_length(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let Some(kind) = input.get(self.offset) else { return Ok(None) };
        let Some((length, next)) = number_at(input, self.offset + 1, "too big bulk count string", limits)? else {
            return Ok(None);
        };
        if *kind != b'$' {
            // Redis looks for the line's end first.
            return refuse(&format!("expected '$', got '{}'", char::from(*kind)));
        }
        match length {
            Some(length) if (0..=limits.bulk_bytes_max as i64).contains(&length) => {
                self.offset = next;
                Ok(Some(length as usize))
            }
            _ => refuse("invalid bulk length"),
        }
    }

    /// Takes off what has come of a request that is over the limit.
    fn pass_over(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        loop {
            let step = self.passing.min(input.len() - self.offset);
            self.offset += step;
            self.passing -= step;
            let awaited = self.awaited.unwrap_or(0);
            if self.passing == 0 && awaited == 0 {
                self.awaited = None;
                self.is_too_long = false;
                return Ok(Parsed::TooLong { length: std::mem::take(&mut self.offset), is_whole: true });
            }
            let length = if self.passing == 0 { self.parse_length(input, limits)? } else { None };
            let Some(length) = length else { break };
            self.awaited = Some(awaited - 1);
            self.passing = length + 2;
        }
        match std::mem::take(&mut self.offset) {
            0 => Ok(Parsed::Incomplete),
            length => Ok(Parsed::TooLong { length, is_whole: false }),
        }
    }

    fn parse_line(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let window = &input[..input.len().min(limits.inline_bytes_max + 1)];
        let Some(end) = memchr(b'\n', window) else {
            return if input.len() > limits.inline_bytes_max { refuse("too big inline request") } else { Ok(Parsed::Incomplete) };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        self.arguments.clear();
        self.line.clear();
        match self.split_words(&line[..memchr(0, line).unwrap_or(line.len())]) {
            Some(()) => Ok(Parsed::Line(end + 1)),
            None => refuse("unbalanced quotes in request"),
        }
    }

    /// Splits a line into words as Redis does; `None` if a quote is not closed, or is closed within a word.
    fn split_words(&mut self, line: &[u8]) -> Option<()> {
        let mut rest = line;
        loop {
            let word = rest.iter().position(|b| !is_space(*b)).unwrap_or(rest.len());
            rest = &rest[word..];
            if rest.is_empty() {
                return Some(());
            }
            let start = self.line.len() as u32;
            rest = self.take_word(rest)?;
            self.arguments.push(Span { start, end: self.line.len() as u32 });
        }
    }

    fn take_word<'l>(&mut self, mut rest: &'l [u8]) -> Option<&'l [u8]> {
        let mut quote = None;
        loop {
            match (quote, rest) {
                (Some(_), []) => return None,
                (None, []) => return Some(rest),
                (Some(b'"'), [b'\\', b'x', high, low, after @ ..]) if is_hex(*high, *low) => {
                    self.line.push(hex_value(*high) << 4 | hex_value(*low));
                    rest = after;
                }
                (Some(b'"'), [b'\\', escaped, after @ ..]) => {
                    self.line.push(unescape(*escaped));
                    rest = after;
                }
                (Some(b'\''), [b'\\', b'\'', after @ ..]) => {
                    self.line.push(b'\'');
                    rest = after;
                }
                (Some(open), [byte, after @ ..]) if *byte == open => {
                    return after.first().is_none_or(|b| is_space(*b)).then_some(after);
                }
                (None, [b' ' | b'\n' | b'\r' | b'\t', after @ ..]) => return Some(after),
                (None, [open @ (b'"' | b'\''), after @ ..]) => {
                    quote = Some(*open);
                    rest = after;
                }
                (_, [byte, after @ ..]) => {
                    self.line.push(*byte);
                    rest = after;
                }
            }
        }
    }
}

/// What a line says: the number (`None` if it is none), and where the next line begins.
type NumberLine = (Option<i64>, usize);

/// The line from `start` on as a number; `None` if the line has not arrived whole.
#[inline]
fn number_at(input: &[u8], start: usize, too_long: &str, limits: &Limits) -> Result<Option<NumberLine>, ProtocolError> {
    // Most lengths have one or two digits.
    match input.get(start..) {
        Some([a @ b'0'..=b'9', b'\r', _, ..]) => return Ok(Some((Some(i64::from(a - b'0')), start + 3))),
        Some([a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, ..]) => {
            return Ok(Some((Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')), start + 4)));
        }
        _ => {}
    }
    let rest = input.get(start..).unwrap_or(&[]);
    let window = &rest[..rest.len().min(limits.inline_bytes_max + 1)];
    match memchr(b'\r', window) {
        Some(end) if end + 1 < rest.len() => Ok(Some((parse_integer(&rest[..end]), start + end + 2))),
        None if rest.len() > limits.inline_bytes_max => refuse(too_long),
        _ => Ok(None),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn is_hex(high: u8, low: u8) -> bool {
    high.is_ascii_hexdigit() && low.is_ascii_hexdigit()
}

fn hex_value(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or(0) as u8
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let mut parser = Parser::default();
        let input = format!("{line}\r\nrest");
        let parsed = parser.parse(input.as_bytes(), &Limits::default())?;
        assert_eq!(parsed, Parsed::Line(line.len() + 2));
        Ok(parser.arguments.iter().map(|span| span.of(&parser.line).to_vec()).collect())
    }

    #[test]
    fn a_line_is_split_into_words() {
        let line = r#"  set "a b\x41\n\q" 'it\'s "it"' x"y"  "#;
        assert_eq!(words(line).unwrap(), [&b"set"[..], b"a bA\nq", b"it's \"it\"", b"xy"]);
        assert_eq!(words("").unwrap().len(), 0);
        for bad in ["\"a", "'a", "\"a\"b", "\"a\\\""] {
            assert_eq!(words(bad), refuse("unbalanced quotes in request"));
        }
    }

    #[test]
    fn a_request_is_parsed_however_it_arrives() {
        let input = b"*3\r\n$3\r\nSET\r\n$12\r\nabcdefghijkl\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n";
        for step in 1..input.len() {
            let mut parser = Parser::default();
            let (mut start, mut found) = (0, Vec::new());
            for end in (0..input.len()).step_by(step).chain([input.len()]) {
                while start < end {
                    match parser.parse(&input[start..end], &Limits::default()).unwrap() {
                        Parsed::Request(length) => {
                            found.push(parser.arguments.iter().map(|span| span.of(&input[start..]).to_vec()).collect::<Vec<_>>());
                            start += length;
                        }
                        _ => break,
                    }
                }
            }
            assert_eq!(found, [vec![b"SET".to_vec(), b"abcdefghijkl".to_vec(), b"".to_vec()], vec![b"PING".to_vec()]], "{step}");
        }
    }

    #[test]
    fn a_request_over_the_limit_is_passed_over_however_it_arrives() {
        let limits = Limits { bulk_bytes_max: 60, request_bytes_max: 76, ..Limits::default() };
        let argument = |length: usize| format!("${length}\r\n{}\r\n", "x".repeat(length));
        // The first has just as many bytes as a request may have, the others are over the limit at various places.
        let sizes = [[0, 53], [0, 54], [57, 0], [60, 60]];
        let requests = sizes.map(|sizes| format!("*3\r\n{}{}{}", argument(0), argument(sizes[0]), argument(sizes[1])));
        assert_eq!((requests[0].len(), requests[1].len()), (76, 77));
        let input = requests.concat() + "PING\r\n";
        for step in 1..input.len() {
            let mut parser = Parser::default();
            let (mut start, mut found, mut buffered_max) = (0, Vec::new(), 0);
            for end in (0..input.len()).step_by(step).chain([input.len()]) {
                buffered_max = buffered_max.max(end - start);
                while start < end {
                    match parser.parse(&input.as_bytes()[start..end], &limits).unwrap() {
                        Parsed::Request(length) => {
                            found.push(length.to_string());
                            start += length;
                        }
                        Parsed::Line(length) => {
                            found.push("line".into());
                            start += length;
                        }
                        Parsed::TooLong { length, is_whole } => {
                            start += length;
                            found.extend(is_whole.then(|| "too long".into()));
                        }
                        Parsed::Incomplete => break,
                    }
                }
            }
            assert_eq!(found, ["76", "too long", "too long", "too long", "line"], "{step}");
            // Before its length is known, an argument is not known to be over the limit.
            let length_bytes = "$60\r\n".len();
            assert!(buffered_max <= limits.request_bytes_max + length_bytes + step, "{buffered_max} bytes at {step}");
        }
    }

    #[test]
    fn limits_are_enforced_before_memory_is_taken() {
        let limits =
            Limits { bulk_bytes_max: 100, request_bytes_max: 150, arguments_max: 3, inline_bytes_max: 64, ..Limits::default() };
        let refused = |input: &str| Parser::default().parse(input.as_bytes(), &limits).unwrap_err().0;
        assert_eq!(refused("*4\r\n"), "invalid multibulk length");
        assert_eq!(refused("*1\r\n$101\r\n"), "invalid bulk length");
        assert_eq!(refused("*1\r\n$-1\r\n"), "invalid bulk length");
        assert_eq!(refused("*1\r\n#1\r\n"), "expected '$', got '#'");
        assert_eq!(refused(&"x".repeat(65)), "too big inline request");
        assert_eq!(refused(&format!("*{}", "1".repeat(65))), "too big mbulk count string");
        assert_eq!(refused(&format!("*1\r\n${}", "1".repeat(65))), "too big bulk count string");
    }
}
