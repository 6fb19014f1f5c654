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
}

impl Parser {
    /// Parses what is at the start of `input`, which is not empty. After `Incomplete`, it must be called again with the same bytes and
    /// more.
    #[inline]
    pub fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
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
                return Ok(Parsed::Incomplete);
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
            None => {
                let Some(kind) = input.get(self.offset) else { return Ok(None) };
                if *kind != b'$' {
                    // Redis looks for the line's end first.
                    return match number_at(input, self.offset + 1, "too big bulk count string", limits)? {
                        None => Ok(None),
                        Some(_) => refuse(&format!("expected '$', got '{}'", char::from(*kind))),
                    };
                }
                let Some((length, next)) = number_at(input, self.offset + 1, "too big bulk count string", limits)? else {
                    return Ok(None);
                };
                let length = match length {
                    Some(length) if (0..=limits.bulk_bytes_max as i64).contains(&length) => length as usize,
                    _ => return refuse("invalid bulk length"),
                };
                if next + length > limits.request_bytes_max {
                    return refuse(&format!("request longer than {} bytes", limits.request_bytes_max));
                }
                self.offset = next;
                length
            }
        };
        let end = self.offset + length;
        if input.len() < end + 2 {
            self.length = Some(length);
            return Ok(None);
        }
        let span = Span { start: self.offset as u32, end: end as u32 };
        self.offset = end + 2;
        self.length = None;
        Ok(Some(span))
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
    fn limits_are_enforced_before_memory_is_taken() {
        let limits =
            Limits { bulk_bytes_max: 100, request_bytes_max: 150, arguments_max: 3, inline_bytes_max: 64, ..Limits::default() };
        let refused = |input: &str| Parser::default().parse(input.as_bytes(), &limits).unwrap_err().0;
        assert_eq!(refused("*4\r\n"), "invalid multibulk length");
        assert_eq!(refused("*1\r\n$101\r\n"), "invalid bulk length");
        assert_eq!(refused("*1\r\n$-1\r\n"), "invalid bulk length");
        assert_eq!(refused("*1\r\n#1\r\n"), "expected '$', got '#'");
        assert_eq!(refused(&format!("*2\r\n$99\r\n{}\r\n$99\r\n", "x".repeat(99))), "request longer than 150 bytes");
        assert_eq!(refused(&"x".repeat(65)), "too big inline request");
        assert_eq!(refused(&format!("*{}", "1".repeat(65))), "too big mbulk count string");
        assert_eq!(refused(&format!("*1\r\n${}", "1".repeat(65))), "too big bulk count string");
    }
}
