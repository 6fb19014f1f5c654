//! The gate between Python and Rust: one error map, one way to wait.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::time::Duration;

/// How long Rust waits at most before it lets Python look at its signals.
pub const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);

/// An error on its way to Python, by the class in `psmr.errors` that it becomes.
#[derive(Clone, Debug)]
pub enum Error {
    /// Wrong usage, configuration, port or directory.
    Usage(String),
    /// A failure at run time.
    Failure(String),
    /// A command may or may not have been executed.
    OutcomeUnknown(String),
    /// The service refused a command.
    Command(String),
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        let (class, text) = match error {
            Error::Usage(text) => ("UsageError", text),
            Error::Failure(text) => ("RuntimeFailure", text),
            Error::OutcomeUnknown(text) => ("OutcomeUnknown", text),
            Error::Command(text) => ("CommandError", text),
        };
        Python::attach(|py| {
            let found = py.import("psmr.errors").and_then(|module| module.getattr(class));
            match found.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
                Ok(class) => PyErr::from_type(class, text),
                Err(_) => PyRuntimeError::new_err(text),
            }
        })
    }
}
