//! The gate between Python and Rust: one error map, one way to wait.

use psmr_node::client::ClientError;
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
    /// A wrong argument of a command.
    Argument(String),
    /// A failure at run time.
    Failure(String),
    /// No replica answered in time, and nothing was changed.
    Unavailable(String),
    /// A command may or may not have been executed.
    OutcomeUnknown(String),
    /// The service refused a command.
    Command(String),
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        let (class, text) = match error {
            Error::Usage(text) => ("UsageError", text),
            Error::Argument(text) => ("ArgumentError", text),
            Error::Failure(text) => ("RuntimeFailure", text),
            Error::Unavailable(text) => ("Unavailable", text),
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

/// Lets Python look at its signals while Rust waits, and keeps what a handler raised.
pub struct Signals {
    raised: Option<PyErr>,
}

impl Signals {
    /// Runs `wait` without the interpreter's lock; `wait` asks its argument now and then whether it is called off.
    ///
    /// # Errors
    /// What a handler raised, or else what `wait` says.
    pub fn watch<T: Send>(
        py: Python<'_>,
        wait: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<T, ClientError> + Send,
    ) -> PyResult<T> {
        let mut signals = Signals { raised: None };
        let outcome = py.detach(|| wait(&mut || signals.look()));
        match (signals.raised, outcome) {
            (Some(raised), _) => Err(raised),
            (None, outcome) => outcome.map_err(|error| Error::from(error).into()),
        }
    }

    fn look(&mut self) -> bool {
        if let Err(raised) = Python::attach(|py| py.check_signals()) {
            self.raised = Some(raised);
        }
        self.raised.is_some()
    }
}
