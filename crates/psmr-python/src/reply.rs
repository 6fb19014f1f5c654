//! Replies of the key-value store as Python objects; the protocol itself is `psmr_services::resp::client`.

use crate::gate::Error;
use psmr_services::resp::client::{Reply, ReplyError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

impl From<ReplyError> for Error {
    fn from(error: ReplyError) -> Error {
        match error {
            ReplyError::Refused(text) => Error::Command(text),
            ReplyError::Broken(text) => Error::Failure(text),
        }
    }
}

/// A reply on its way to Python.
pub struct PyReply(pub Reply);

impl<'py> IntoPyObject<'py> for PyReply {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, PyErr> {
        Ok(match self.0 {
            Reply::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
            Reply::Integer(number) => number.into_pyobject(py)?.into_any(),
            Reply::Nothing => py.None().into_bound(py),
            Reply::List(replies) => {
                let items = replies.into_iter().map(|reply| PyReply(reply).into_pyobject(py)).collect::<PyResult<Vec<_>>>()?;
                PyList::new(py, items)?.into_any()
            }
        })
    }
}
