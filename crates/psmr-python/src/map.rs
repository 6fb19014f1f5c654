//! A mapping of several dicts. Where threads execute at the same time, each access to a dict waits for the others, so that a
//! dict that all commands share lets one of them work at a time; here keys of different groups seldom meet in one.
//!
//! What a key is, and that each access is whole, is left to the dicts. Their order is not: it would depend on which of two
//! independent commands came first.

use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

/// How many dicts: some for each group, of which there are 64 at most.
const SHARDS: usize = 256;

/// The part of `psmr.Map` that is not of Python.
#[pyclass(frozen, subclass, mapping)]
pub struct ShardedMap {
    shards: Box<[Py<PyDict>]>,
}

impl ShardedMap {
    fn shard<'a, 'py>(&'a self, key: &Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyDict>> {
        let hash = key.hash()? as usize;
        // Hashes of numbers are the numbers, those of a class may have its alignment.
        let mixed = (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        Ok(self.shards[mixed as usize % SHARDS].bind(key.py()))
    }

    fn missing(key: &Bound<'_, PyAny>) -> PyErr {
        PyKeyError::new_err((key.clone().unbind(),))
    }
}

#[pymethods]
impl ShardedMap {
    #[new]
    #[pyo3(signature = (*_arguments))]
    fn new(py: Python<'_>, _arguments: &Bound<'_, PyTuple>) -> ShardedMap {
        ShardedMap { shards: (0..SHARDS).map(|_| PyDict::new(py).unbind()).collect() }
    }

    /// `ShardedMap[str, int]`, in annotations.
    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, parameters: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        class.py().import("types")?.getattr("GenericAlias")?.call1((class, parameters))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.shards.iter().map(|shard| shard.bind(py).len()).sum()
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.shard(key)?.contains(key)
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.shard(key)?.get_item(key)?.ok_or_else(|| Self::missing(key))
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.shard(key)?.set_item(key, value)
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        self.shard(key)?.del_item(key)
    }

    /// The value of a key, or else the default.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(&self, key: &Bound<'py, PyAny>, default: Option<Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.shard(key)?.get_item(key)?.or(default))
    }

    /// Takes a key out and returns its value, or else the default.
    #[pyo3(signature = (key, /, *default))]
    fn pop<'py>(&self, key: &Bound<'py, PyAny>, default: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let shard = self.shard(key)?;
        match default.len() {
            0 => shard.call_method1("pop", (key,)),
            1 => shard.call_method1("pop", (key, default.get_item(0)?)),
            count => Err(PyTypeError::new_err(format!("pop expected at most 2 arguments, got {}", count + 1))),
        }
    }

    /// The value of a key, which it gets the default for if it has none.
    #[pyo3(signature = (key, default=None, /))]
    fn setdefault<'py>(&self, key: &Bound<'py, PyAny>, default: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        self.shard(key)?.call_method1("setdefault", (key, default))
    }

    /// Forgets everything.
    fn clear(&self, py: Python<'_>) {
        self.shards.iter().for_each(|shard| shard.bind(py).clear());
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let keys = PyList::empty(py);
        for shard in &self.shards {
            for key in shard.bind(py).keys() {
                keys.append(key)?;
            }
        }
        keys.sort().map_err(|error| match error.is_instance_of::<PyTypeError>(py) {
            true => {
                PyTypeError::new_err(format!("the keys of this psmr.Map have no order, so it cannot be iterated over: {error}"))
            }
            false => error,
        })?;
        keys.try_iter()
    }

    /// All of it as a dict, in no order that means anything.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        self.shards.iter().try_for_each(|shard| all.update(shard.bind(py).as_mapping()))?;
        Ok(all)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.shards.iter().try_for_each(|shard| visit.call(shard))
    }
}
