//! What crosses the wire and the disk of a Python service, in MessagePack. Arguments and results have types (`shape`), and are
//! checked against them; states, keys and exceptions' arguments tell their types themselves (`plain`).

pub mod misfit;
pub mod plain;
pub mod shape;

pub use misfit::Misfit;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Values in values in values: more levels than these are refused, before the stack is used up.
pub const DEPTH_MAX: usize = 100;

/// Bytes that are no such value: another version wrote them, or they are damaged.
pub fn malformed(what: &str) -> PyErr {
    PyValueError::new_err(format!("malformed {what}: are both sides of the same version?"))
}

/// Takes `count` bytes off the start of `input`.
///
/// # Errors
/// If there are fewer.
pub fn take<'i>(input: &mut &'i [u8], count: usize) -> PyResult<&'i [u8]> {
    let (taken, rest) = input.split_at_checked(count).ok_or_else(|| malformed("length"))?;
    *input = rest;
    Ok(taken)
}

/// Takes the length of an array. A length that the rest of the input cannot hold is refused.
///
/// # Errors
/// If there is none.
pub fn array_length(input: &mut &[u8]) -> PyResult<usize> {
    let count = rmp::decode::read_array_len(input).map_err(|_| malformed("list"))? as usize;
    if count <= input.len() {
        Ok(count)
    } else {
        Err(malformed("length of a list"))
    }
}

/// Takes text.
///
/// # Errors
/// If there is none.
pub fn text<'i>(input: &mut &'i [u8]) -> PyResult<&'i str> {
    let (text, rest) = rmp::decode::read_str_from_slice(*input).map_err(|_| malformed("text"))?;
    *input = rest;
    Ok(text)
}
