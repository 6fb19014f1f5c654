//! Files of Redis for Python: read from and written to what has Python's file methods.

use crate::gate::Error;
use psmr_services::resp::rdb::{Item, RdbError, Reader, Writer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use std::io::{self, BufReader, Read};
use std::sync::{Mutex, PoisonError};

/// Read from Python at a time.
const READ_BYTES: usize = 256 << 10;

/// A file of Python's.
struct Source {
    file: Py<PyAny>,
    /// What reading raised, which is more than an `io::Error` can say.
    raised: Option<PyErr>,
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Python::attach(|py| {
            let found = self.file.bind(py).call_method1("read", (out.len(),)).and_then(|found| {
                let bytes = found.cast::<PyBytes>()?.as_bytes();
                let length = bytes.len().min(out.len());
                out[..length].copy_from_slice(&bytes[..length]);
                Ok(length)
            });
            found.map_err(|error| {
                self.raised = Some(error);
                io::Error::other("reading failed")
            })
        })
    }
}

/// Reads the keys of a file.
#[pyclass(frozen)]
pub struct RdbReader {
    reader: Mutex<Reader<BufReader<Source>>>,
}

impl From<RdbError> for Error {
    fn from(error: RdbError) -> Error {
        Error::Failure(error.to_string())
    }
}

#[pymethods]
impl RdbReader {
    #[new]
    fn new(file: Py<PyAny>) -> PyResult<RdbReader> {
        let reader = Reader::new(BufReader::with_capacity(READ_BYTES, Source { file, raised: None })).map_err(Error::from)?;
        Ok(RdbReader { reader: Mutex::new(reader) })
    }

    /// How many bytes have been read.
    fn offset(&self) -> u64 {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).offset()
    }

    /// The next keys, as many as asked for and of about this weight in bytes; none at the end. Each is (database, key, value, when it
    /// expires in milliseconds or None); what is no string has the name of its type as str.
    fn take<'py>(&self, py: Python<'py>, count: usize, weight: usize) -> PyResult<Bound<'py, PyList>> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let (items, start) = (PyList::empty(py), reader.offset());
        while items.len() < count && reader.offset() - start < weight as u64 {
            let found = match reader.next_item() {
                Ok(found) => found,
                Err(error) => {
                    return Err(reader.source_mut().get_mut().raised.take().unwrap_or_else(|| Error::from(error).into()))
                }
            };
            items.append(match found {
                None => break,
                Some(Item::String { database, key, value, expires_ms }) => {
                    (database, PyBytes::new(py, &key), PyBytes::new(py, &value), expires_ms).into_pyobject(py)?
                }
                Some(Item::Other { database, key, kind }) => {
                    (database, PyBytes::new(py, &key), kind, None::<u64>).into_pyobject(py)?
                }
            })?;
        }
        Ok(items)
    }
}

/// Writes a file of strings: what each method returns belongs to the file, in this order.
#[pyclass(frozen)]
#[derive(Default)]
pub struct RdbWriter {
    writer: Mutex<Writer>,
}

#[pymethods]
impl RdbWriter {
    #[new]
    fn new() -> RdbWriter {
        RdbWriter::default()
    }

    /// The start.
    fn head<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut out = Vec::new();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).head(&mut out);
        PyBytes::new(py, &out)
    }

    /// Keys, each (key, value, when it expires in milliseconds or None).
    fn add<'py>(&self, py: Python<'py>, items: Vec<Bound<'py, PyTuple>>) -> PyResult<Bound<'py, PyBytes>> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        for item in items {
            let (key, value, expires_ms): (Bound<'py, PyBytes>, Bound<'py, PyBytes>, Option<u64>) =
                item.extract().map_err(|_| PyValueError::new_err("a key is (bytes, bytes, int or None)"))?;
            writer.add(key.as_bytes(), value.as_bytes(), expires_ms, &mut out);
        }
        Ok(PyBytes::new(py, &out))
    }

    /// The end.
    fn end<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut out = Vec::new();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).end(&mut out);
        PyBytes::new(py, &out)
    }
}
