//! The client's side of the protocol: requests as a gateway takes them, and its replies, RESP2 and RESP3.

/// How deep lists may be within lists.
const DEPTH_MAX: usize = 16;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A value, or a status.
    Bytes(Vec<u8>),
    /// A number.
    Integer(i64),
    /// No value.
    Nothing,
    /// Several replies; a map is the list of its keys and values in turn.
    List(Vec<Reply>),
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// The service refused the command, in these words.
    Refused(String),
    /// The bytes are no reply: what is wrong, in one line.
    Broken(String),
}

/// The request with these arguments.
pub fn encode(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The reply in `bytes`, which are all of it.
///
/// # Errors
/// The service's own refusal, or the bytes are no reply.
pub fn decode(bytes: &[u8]) -> Result<Reply, ReplyError> {
    let mut rest = bytes;
    let reply = decode_one(&mut rest, 0)?;
    if rest.is_empty() {
        Ok(reply)
    } else {
        Err(broken(bytes))
    }
}

fn broken(bytes: &[u8]) -> ReplyError {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    ReplyError::Broken(format!("the service answered {head:?}, which is no reply: are both sides of the same version?"))
}

fn decode_one(rest: &mut &[u8], depth: usize) -> Result<Reply, ReplyError> {
    let whole = *rest;
    let end = whole.windows(2).position(|pair| pair == b"\r\n").filter(|end| *end > 0 && depth <= DEPTH_MAX);
    let end = end.ok_or_else(|| broken(whole))?;
    let (kind, line) = (whole[0], &whole[1..end]);
    *rest = &whole[end + 2..];
    let text = || std::str::from_utf8(line).map_err(|_| broken(whole));
    let number = || text().and_then(|text| text.parse::<i64>().map_err(|_| broken(whole)));
    match kind {
        b'+' | b',' | b'(' => Ok(Reply::Bytes(line.to_vec())),
        b'-' => Err(ReplyError::Refused(String::from_utf8_lossy(line).into_owned())),
        b':' => number().map(Reply::Integer),
        b'#' => Ok(Reply::Integer(i64::from(line == b"t"))),
        b'_' => Ok(Reply::Nothing),
        b'$' | b'=' | b'!' => decode_blob(kind, number()?, whole, rest),
        b'*' | b'~' | b'>' | b'%' => {
            let count = number()?;
            let count = if kind == b'%' { count.saturating_mul(2) } else { count };
            if count < 0 {
                return Ok(Reply::Nothing);
            }
            // Every element has three bytes at least: a wrong count ends at the end of the bytes.
            (0..count).map(|_| decode_one(rest, depth + 1)).collect::<Result<_, _>>().map(Reply::List)
        }
        _ => Err(broken(whole)),
    }
}

fn decode_blob(kind: u8, length: i64, whole: &[u8], rest: &mut &[u8]) -> Result<Reply, ReplyError> {
    if length < 0 {
        return Ok(Reply::Nothing);
    }
    let length = length as usize;
    let is_whole = length.checked_add(2).is_some_and(|end| rest.get(length..end) == Some(b"\r\n"));
    if !is_whole {
        return Err(broken(whole));
    }
    let blob = &rest[..length];
    *rest = &rest[length + 2..];
    match kind {
        b'!' => Err(ReplyError::Refused(String::from_utf8_lossy(blob).into_owned())),
        // The first four say what kind of text it is.
        b'=' => Ok(Reply::Bytes(blob.get(4..).unwrap_or_default().to_vec())),
        _ => Ok(Reply::Bytes(blob.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_oneof, Just, Strategy};

    fn list(items: &[Reply]) -> Reply {
        Reply::List(items.to_vec())
    }

    fn bytes(text: &str) -> Reply {
        Reply::Bytes(text.into())
    }

    #[test]
    fn every_kind_of_reply_is_understood() {
        let cases = [
            ("+OK\r\n", bytes("OK")),
            (":-7\r\n", Reply::Integer(-7)),
            ("$-1\r\n", Reply::Nothing),
            ("*-1\r\n", Reply::Nothing),
            ("_\r\n", Reply::Nothing),
            ("$4\r\na\r\nb\r\n", bytes("a\r\nb")),
            ("=8\r\ntxt:some\r\n", bytes("some")),
            ("#t\r\n", Reply::Integer(1)),
            ("#f\r\n", Reply::Integer(0)),
            (",1.5\r\n", bytes("1.5")),
            ("*2\r\n:1\r\n*0\r\n", list(&[Reply::Integer(1), list(&[])])),
            ("~1\r\n+a\r\n", list(&[bytes("a")])),
            ("%1\r\n+a\r\n:2\r\n", list(&[bytes("a"), Reply::Integer(2)])),
        ];
        for (input, reply) in cases {
            assert_eq!(decode(input.as_bytes()), Ok(reply), "{input:?}");
        }
        for input in ["-ERR no\r\n", "!6\r\nERR no\r\n", "*1\r\n-ERR no\r\n"] {
            assert_eq!(decode(input.as_bytes()), Err(ReplyError::Refused("ERR no".into())), "{input:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_in_one_line() {
        let deep = "*1\r\n".repeat(DEPTH_MAX + 2) + "+x\r\n";
        let wrong =
            ["", "+", "\r\n", "?\r\n", "+OK\r\n+OK\r\n", "$3\r\nab\r\n", "$9223372036854775807\r\n", ":x\r\n", "*2\r\n:1\r\n"];
        let wrong = wrong.into_iter().chain(["*9223372036854775807\r\n", "%9223372036854775807\r\n+a\r\n", &deep]);
        for input in wrong {
            match decode(input.as_bytes()) {
                Err(ReplyError::Broken(line)) => assert!(!line.contains('\n'), "{line}"),
                other => panic!("{input:?} gave {other:?}"),
            }
        }
    }

    /// Pieces that replies are made of, so that many get far.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[-+:$=!*~>%#_,(]-?[0-9]{0,3}\r\n".prop_map(String::into_bytes),
            "[a-z:]{0,4}\r\n".prop_map(String::into_bytes),
            vec(any::<u8>(), 0..6),
            Just(b"$2\r\nab\r\n".to_vec()),
        ];
        vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(input in pieces(), tail in vec(any::<u8>(), 0..8)) {
            if decode(&input).is_ok() {
                let longer = [input, vec![b'+'], tail].concat();
                assert!(decode(&longer).is_err(), "something follows the reply");
            }
        }

        #[test]
        fn what_a_request_holds_can_be_anything(arguments in vec(vec(any::<u8>(), 0..20), 1..5)) {
            let expected = arguments.iter().cloned().map(Reply::Bytes).collect();
            assert_eq!(decode(&encode(&arguments)), Ok(Reply::List(expected)));
        }
    }
}
