//! Requests and replies of the key-value store as Python sees them: RESP, whose gateway the client runs itself.

use crate::gate::Error;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

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
/// The service's own refusal (`Error::Command`), or a failure if the bytes are no reply.
pub fn decode(bytes: &[u8]) -> Result<Reply, Error> {
    let mut rest = bytes;
    let reply = decode_one(&mut rest, 0)?;
    if rest.is_empty() {
        Ok(reply)
    } else {
        Err(broken(bytes))
    }
}

fn broken(bytes: &[u8]) -> Error {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    Error::Failure(format!("the service answered {head:?}, which is no reply: are both sides of the same version?"))
}

fn decode_one(rest: &mut &[u8], depth: usize) -> Result<Reply, Error> {
    let whole = *rest;
    let end = whole.windows(2).position(|pair| pair == b"\r\n").filter(|end| *end > 0 && depth <= DEPTH_MAX);
    let end = end.ok_or_else(|| broken(whole))?;
    let (kind, line) = (whole[0], &whole[1..end]);
    *rest = &whole[end + 2..];
    let text = || std::str::from_utf8(line).map_err(|_| broken(whole));
    let number = || text().and_then(|text| text.parse::<i64>().map_err(|_| broken(whole)));
    match kind {
        b'+' | b',' | b'(' => Ok(Reply::Bytes(line.to_vec())),
        b'-' => Err(Error::Command(String::from_utf8_lossy(line).into_owned())),
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

fn decode_blob(kind: u8, length: i64, whole: &[u8], rest: &mut &[u8]) -> Result<Reply, Error> {
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
        b'!' => Err(Error::Command(String::from_utf8_lossy(blob).into_owned())),
        // The first four say what kind of text it is.
        b'=' => Ok(Reply::Bytes(blob.get(4..).unwrap_or_default().to_vec())),
        _ => Ok(Reply::Bytes(blob.to_vec())),
    }
}

impl<'py> IntoPyObject<'py> for Reply {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, PyErr> {
        Ok(match self {
            Reply::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
            Reply::Integer(number) => number.into_pyobject(py)?.into_any(),
            Reply::Nothing => py.None().into_bound(py),
            Reply::List(replies) => {
                let items = replies.into_iter().map(|reply| reply.into_pyobject(py)).collect::<PyResult<Vec<_>>>()?;
                PyList::new(py, items)?.into_any()
            }
        })
    }
}
