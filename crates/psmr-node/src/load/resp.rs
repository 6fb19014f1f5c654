//! The Redis protocol, as far as the load needs it: `SET` and `GET` from prebuilt templates, and their replies.

use super::item::{Format, Kind, Operation};
use super::wire::{Decoded, Reply, Wire};
use std::ops::Range;

/// How long `WAIT` waits for replicas, four digits: they may get no processor for a while where all share one.
const WAIT_MS: u32 = 5000;

/// The longest status, error or length line that is accepted.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest value that is accepted, so that a broken length cannot make the load wait or grow without end.
const VALUE_BYTES_MAX: usize = 128 << 20;

/// `SET` and `GET` over one format of keys and values.
#[derive(Clone, Debug)]
pub(super) struct Resp {
    format: Format,
    set: Vec<u8>,
    set_key: Range<usize>,
    set_value: Range<usize>,
    get: Vec<u8>,
    get_key: Range<usize>,
}

impl Resp {
    pub fn new(format: Format) -> Self {
        let mut set = b"*3\r\n$3\r\nSET\r\n".to_vec();
        let set_key = push_bulk(&mut set, &format.key_template());
        let set_value = push_bulk(&mut set, &format.value_template());
        let mut get = b"*2\r\n$3\r\nGET\r\n".to_vec();
        let get_key = push_bulk(&mut get, &format.key_template());
        Resp { format, set, set_key, set_value, get, get_key }
    }
}

fn push_bulk(output: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    output.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    let start = output.len();
    output.extend_from_slice(bytes);
    output.extend_from_slice(b"\r\n");
    start..start + bytes.len()
}

impl Resp {
    #[inline]
    fn encode_one(&self, operation: &Operation, output: &mut Vec<u8>) {
        let start = output.len();
        if operation.kind == Kind::Set {
            output.extend_from_slice(&self.set);
            let command = &mut output[start..];
            self.format.write_key(operation, &mut command[self.set_key.clone()]);
            self.format.write_value(operation, &mut command[self.set_value.clone()]);
        } else {
            output.extend_from_slice(&self.get);
            self.format.write_key(operation, &mut output[start..][self.get_key.clone()]);
        }
    }

    fn encode_mget(&self, request: &[Operation], output: &mut Vec<u8>) {
        output.extend_from_slice(format!("*{}\r\n$4\r\nMGET\r\n", request.len() + 1).as_bytes());
        for operation in request {
            let key = push_bulk(output, &self.format.key_template());
            self.format.write_key(operation, &mut output[key]);
        }
    }

    /// The reply to a transaction, of which what each command in line was told is passed over, unless it was refused.
    fn decode_transaction<'a>(&self, input: &'a [u8], commands: usize, each: &mut dyn FnMut(Reply<'a>)) -> Decoded<()> {
        let (mut at, mut refused) = (0, None);
        for _ in 0..=commands {
            match self.decode_one(&input[at..]) {
                Decoded::Whole(reply, length) => {
                    at += length;
                    refused = refused.or(matches!(reply, Reply::Refused(_)).then_some(reply));
                }
                Decoded::Partial => return Decoded::Partial,
                Decoded::Broken(problem) => return Decoded::Broken(problem),
            }
        }
        let decoded = self.decode_array(&input[at..], commands, &mut |reply| each(refused.unwrap_or(reply)));
        match decoded {
            Decoded::Whole((), length) => Decoded::Whole((), at + length),
            other => other,
        }
    }

    /// An array of so many replies, or one reply instead, which is that of all.
    fn decode_array<'a>(&self, input: &'a [u8], count: usize, each: &mut dyn FnMut(Reply<'a>)) -> Decoded<()> {
        let head = format!("*{count}\r\n");
        let is_short = input.len() < head.len();
        if !input.starts_with(b"*") || (!is_short && !input.starts_with(head.as_bytes())) {
            return match self.decode_one(input) {
                Decoded::Whole(reply, length) => {
                    (0..count).for_each(|_| each(reply));
                    Decoded::Whole((), length)
                }
                Decoded::Partial => Decoded::Partial,
                Decoded::Broken(problem) => Decoded::Broken(problem),
            };
        }
        if is_short {
            return Decoded::Partial;
        }
        let mut at = head.len();
        let mut replies = Vec::with_capacity(count);
        for _ in 0..count {
            match self.decode_one(&input[at..]) {
                Decoded::Whole(reply, length) => {
                    at += length;
                    replies.push(reply);
                }
                Decoded::Partial => return Decoded::Partial,
                Decoded::Broken(problem) => return Decoded::Broken(problem),
            }
        }
        replies.into_iter().for_each(each);
        Decoded::Whole((), at)
    }
}

impl Wire for Resp {
    #[inline]
    fn encode(&self, request: &[Operation], output: &mut Vec<u8>) {
        match request {
            [operation] => self.encode_one(operation, output),
            _ if request[0].kind == Kind::Set => {
                output.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
                request.iter().for_each(|operation| self.encode_one(operation, output));
                output.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
            }
            _ => self.encode_mget(request, output),
        }
    }

    #[inline]
    fn decode<'a>(&self, input: &'a [u8], request: &[Operation], each: &mut dyn FnMut(Reply<'a>)) -> Decoded<()> {
        match request {
            [_] => match self.decode_one(input) {
                Decoded::Whole(reply, length) => {
                    each(reply);
                    Decoded::Whole((), length)
                }
                Decoded::Partial => Decoded::Partial,
                Decoded::Broken(problem) => Decoded::Broken(problem),
            },
            _ if request[0].kind == Kind::Set => self.decode_transaction(input, request.len(), each),
            _ => self.decode_array(input, request.len(), each),
        }
    }

    fn encode_wait(&self, replicas: u32, output: &mut Vec<u8>) {
        let replicas = replicas.to_string();
        let command = format!("*3\r\n$4\r\nWAIT\r\n${}\r\n{replicas}\r\n$4\r\n{WAIT_MS}\r\n", replicas.len());
        output.extend_from_slice(command.as_bytes());
    }

    fn replicas(&self, reply: Reply<'_>) -> Option<u64> {
        let Reply::Foreign(line) = reply else { return None };
        std::str::from_utf8(line.strip_prefix(b":")?).ok()?.parse().ok()
    }

    #[inline]
    fn decode_one<'a>(&self, input: &'a [u8]) -> Decoded<Reply<'a>> {
        if input.starts_with(b"+OK\r\n") {
            return Decoded::Whole(Reply::Stored, 5);
        }
        let Some(&kind) = input.first() else { return Decoded::Partial };
        if !matches!(kind, b'$' | b'+' | b'-' | b':' | b'_') {
            return Decoded::Broken(format!("a reply begins with {:?}", char::from(kind)));
        }
        let Some(end) = line_end(input) else {
            if input.len() > LINE_BYTES_MAX {
                return Decoded::Broken(format!("a line of more than {LINE_BYTES_MAX} bytes"));
            }
            return Decoded::Partial;
        };
        let line = &input[1..end];
        let next = end + 2;
        match kind {
            b'$' => decode_bulk(line, &input[next..], next),
            b'-' => Decoded::Whole(Reply::Refused(line), next),
            b'_' => Decoded::Whole(Reply::Missing, next),
            _ => Decoded::Whole(Reply::Foreign(&input[..end]), next),
        }
    }
}

/// A bulk string whose length line has been split off. `header` is the length of that line with its ending.
#[inline]
fn decode_bulk<'a>(line: &[u8], rest: &'a [u8], header: usize) -> Decoded<Reply<'a>> {
    if line == b"-1" {
        return Decoded::Whole(Reply::Missing, header);
    }
    let Some(length) = parse_length(line) else {
        return Decoded::Broken(format!("a value of length {:?}", String::from_utf8_lossy(&line[..line.len().min(40)])));
    };
    let Some(ending) = rest.get(length..length + 2) else { return Decoded::Partial };
    if ending != b"\r\n" {
        return Decoded::Broken(format!("a value of {length} bytes is not followed by an end of line"));
    }
    Decoded::Whole(Reply::Value(&rest[..length]), header + length + 2)
}

/// Where the first line's `\r\n` begins. Lines are a few bytes: a plain scan is the fastest.
#[inline]
fn line_end(input: &[u8]) -> Option<usize> {
    input.windows(2).position(|pair| pair == b"\r\n")
}

#[inline]
fn parse_length(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    let mut length = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        length = length * 10 + usize::from(digit - b'0');
    }
    (length <= VALUE_BYTES_MAX).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resp() -> Resp {
        Resp::new(Format { prefix: "k".to_owned(), per_writer: false, tagged: 1, value_bytes: 10 })
    }

    #[test]
    fn commands_are_written_with_the_lengths_that_they_have() {
        let mut output = Vec::new();
        let set = Operation { key: 7, writer: 0, stamp: 1, kind: Kind::Set };
        resp().encode(&[set], &mut output);
        resp().encode(&[Operation { kind: Kind::GetAny, ..set }], &mut output);
        let expected =
            "*3\r\n$3\r\nSET\r\n$13\r\nk000000000007\r\n$10\r\n00007001..\r\n*2\r\n$3\r\nGET\r\n$13\r\nk000000000007\r\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn a_wait_is_written_and_its_number_is_read() {
        let mut output = Vec::new();
        resp().encode_wait(12, &mut output);
        assert_eq!(String::from_utf8(output).unwrap(), "*3\r\n$4\r\nWAIT\r\n$2\r\n12\r\n$4\r\n5000\r\n");
        assert_eq!(resp().replicas(Reply::Foreign(b":2")), Some(2));
        for wrong in [Reply::Stored, Reply::Foreign(b"+2"), Reply::Foreign(b":-1"), Reply::Refused(b"ERR 2")] {
            assert_eq!(resp().replicas(wrong), None);
        }
    }

    fn decoded(input: &[u8], request: &[Operation]) -> (Decoded<()>, Vec<String>) {
        let mut replies = Vec::new();
        let decoded = resp().decode(input, request, &mut |reply| replies.push(format!("{reply:?}")));
        (decoded, replies)
    }

    #[test]
    fn commands_together_have_a_reply_each() {
        let set = Operation { key: 7, writer: 0, stamp: 1, kind: Kind::Set };
        let get = Operation { kind: Kind::GetAny, ..set };
        let mut output = Vec::new();
        resp().encode(&[set; 2], &mut output);
        resp().encode(&[get; 2], &mut output);
        let text = String::from_utf8(output).unwrap();
        assert!(text.starts_with("*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n"), "{text}");
        let mget = "*1\r\n$4\r\nEXEC\r\n*3\r\n$4\r\nMGET\r\n$13\r\nk000000000007\r\n$13\r\nk000000000007\r\n";
        assert!(text.ends_with(mget), "{text}");
        let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n";
        let refused = r#"Refused([69, 88, 69, 67])"#;
        let cases: [(String, [Operation; 2], [&str; 2]); 6] = [
            (format!("{queued}*2\r\n+OK\r\n+OK\r\n"), [set; 2], ["Stored", "Stored"]),
            (format!("{queued}*2\r\n+OK\r\n-EXEC\r\n"), [set; 2], ["Stored", refused]),
            (format!("{queued}-EXEC\r\n"), [set; 2], [refused, refused]),
            ("+OK\r\n-EXEC\r\n+QUEUED\r\n-ABORT\r\n".into(), [set; 2], [refused, refused]),
            ("*2\r\n$1\r\na\r\n$-1\r\n".into(), [get; 2], ["Value([97])", "Missing"]),
            ("-EXEC\r\n".into(), [get; 2], [refused, refused]),
        ];
        for (text, request, replies) in cases {
            let followed = format!("{text}+OK\r\n");
            let whole = (Decoded::Whole((), text.len()), replies.map(String::from).to_vec());
            assert_eq!(decoded(followed.as_bytes(), &request), whole, "{text}");
            for cut in 0..text.len() {
                assert_eq!(decoded(&text.as_bytes()[..cut], &request), (Decoded::Partial, vec![]), "{text} cut at {cut}");
            }
        }
        assert!(matches!(decoded(b"*3\r\n", &[get; 2]).0, Decoded::Broken(_)));
    }

    #[test]
    fn every_kind_of_reply_is_told_apart() {
        let cases: [(&[u8], Reply<'_>); 9] = [
            (b"+OK\r\n", Reply::Stored),
            (b"$-1\r\n", Reply::Missing),
            (b"_\r\n", Reply::Missing),
            (b"$0\r\n\r\n", Reply::Value(b"")),
            (b"$4\r\na\r\nb\r\n", Reply::Value(b"a\r\nb")),
            (b"-ERR no\r\n", Reply::Refused(b"ERR no")),
            (b"+QUEUED\r\n", Reply::Foreign(b"+QUEUED")),
            (b"+OKAY\r\n", Reply::Foreign(b"+OKAY")),
            (b":12\r\n", Reply::Foreign(b":12")),
        ];
        for (bytes, reply) in cases {
            let mut followed = bytes.to_vec();
            followed.extend_from_slice(b"+OK\r\n");
            assert_eq!(resp().decode_one(&followed), Decoded::Whole(reply, bytes.len()));
            for cut in 0..bytes.len() {
                assert_eq!(resp().decode_one(&bytes[..cut]), Decoded::Partial, "{:?}", &bytes[..cut]);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(text in "[-+:$_*OK0-9\r\n]{0,12}", bytes: Vec<u8>, cut in 0usize..40) {
            let mut input = [text.into_bytes(), bytes].concat();
            let whole = resp().decode_one(&input);
            if let Decoded::Whole(_, length) = &whole {
                assert!((1..=input.len()).contains(length));
            }
            // What follows a reply changes nothing.
            if let Decoded::Whole(reply, length) = whole {
                assert_eq!(resp().decode_one(&input[..length]), Decoded::Whole(reply, length));
            }
            input.truncate(cut);
            let _ = resp().decode_one(&input);
        }
    }

    #[test]
    fn bytes_that_are_no_reply_are_refused() {
        let line = [b"+".as_slice(), &[b'x'; LINE_BYTES_MAX + 1]].concat();
        let cases: [&[u8]; 7] =
            [b"HTTP/1.1 400\r\n", b"*1\r\n", b"$-2\r\n", b"$x\r\n", b"$\r\n", b"$999999999\r\n", b"$1\r\nabc\r\n"];
        for bytes in cases.into_iter().chain([line.as_slice()]) {
            assert!(matches!(resp().decode_one(bytes), Decoded::Broken(_)), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
