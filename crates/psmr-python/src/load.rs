//! The load generator, for Python.

use crate::gate::Error;
use crate::services;
use psmr_node::load::{self, Acknowledged, Control, LoadError, Mode, NativeService, Options};
use pyo3::prelude::*;
use serde::Deserialize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Deserialize)]
struct Settings {
    addresses: Vec<String>,
    connections: usize,
    depth: usize,
    #[serde(default = "one")]
    together: usize,
    #[serde(default)]
    is_tagged: bool,
    keys: u64,
    value_bytes: usize,
    reads: f64,
    zipf: f64,
    rate: f64,
    seconds: f64,
    protocol: String,
    spread: String,
    mode: String,
    tolerate_disconnects: bool,
    seed: Option<u64>,
    #[serde(default)]
    wait_replicas: u32,
}

fn one() -> usize {
    1
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Error {
        match error {
            LoadError::Option { .. } | LoadError::Resolve { .. } => Error::Usage(error.to_string()),
            _ => Error::Failure(error.to_string()),
        }
    }
}

/// A load: what it asks for, and how far it is.
#[pyclass(frozen)]
pub struct Load {
    options: Options,
    /// Of the call that is under way, or was last.
    control: Mutex<Arc<Control>>,
    acknowledged: Mutex<Option<Acknowledged>>,
}

impl Load {
    fn control(&self) -> Arc<Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(&self) -> Arc<Control> {
        let control = Arc::new(Control::default());
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = control.clone();
        control
    }
}

#[pymethods]
impl Load {
    /// A load with these options, as JSON.
    #[new]
    fn new(options: &str) -> PyResult<Load> {
        let settings: Settings =
            serde_json::from_str(options).map_err(|e| Error::Usage(format!("the options do not fit the engine: {e}")))?;
        let mode = match settings.mode.as_str() {
            "key_space" => Mode::KeySpace,
            "unique_writes" => Mode::UniqueWrites,
            other => return Err(Error::Usage(format!("mode: is {other:?}: allowed are key_space and unique_writes")).into()),
        };
        let seed = match settings.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|e| Error::Failure(format!("the system gives no random numbers: {e}")))?,
        };
        // Commands and replies are those of the Redis protocol: the service whose gateway speaks it.
        let native = NativeService { name: "kv".into(), gateway: services::find("kv")?.make().1 };
        let options = Options {
            addresses: settings.addresses,
            protocol: settings.protocol.parse().map_err(Error::from)?,
            native: Some(native),
            spread: settings.spread.parse().map_err(Error::from)?,
            connections: settings.connections,
            depth: settings.depth,
            together: settings.together,
            is_tagged: settings.is_tagged,
            mode,
            keys: settings.keys,
            value_bytes: settings.value_bytes,
            reads: settings.reads,
            zipf: settings.zipf,
            rate: settings.rate,
            seconds: settings.seconds,
            seed,
            tolerate_disconnects: settings.tolerate_disconnects,
            wait_replicas: settings.wait_replicas,
            ..Options::default()
        };
        Ok(Load { options, control: Mutex::default(), acknowledged: Mutex::new(None) })
    }

    /// Writes every key of the key space once; returns a report, as JSON.
    fn preload(&self, py: Python<'_>) -> PyResult<String> {
        let control = self.begin();
        let report = py.detach(|| load::preload(&self.options, &control)).map_err(Error::from)?;
        Ok(report.to_json().to_string())
    }

    /// Runs the load to its end; returns the report, as JSON.
    fn run(&self, py: Python<'_>) -> PyResult<String> {
        let control = self.begin();
        let mut report = py.detach(|| load::run(&self.options, &control)).map_err(Error::from)?;
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = report.acknowledged.take();
        Ok(report.to_json().to_string())
    }

    /// Reads every acknowledged write of `run` back from each address; returns a report, as JSON.
    fn verify(&self, py: Python<'_>, addresses: Vec<String>) -> PyResult<String> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(acknowledged) = acknowledged else {
            return Err(Error::Usage("there is nothing to verify: run a load with mode unique_writes first".into()).into());
        };
        let timeout = self.options.reply_timeout_seconds;
        let control = self.begin();
        let verification = py.detach(|| load::verify(&acknowledged, &addresses, timeout, &control)).map_err(Error::from)?;
        Ok(verification.to_json().to_string())
    }

    /// Ends a running call within a tenth of a second.
    fn stop(&self) {
        self.control().stop.store(true, Ordering::SeqCst);
    }

    /// Commands done so far.
    fn completed(&self) -> u64 {
        self.control().completed.load(Ordering::Relaxed)
    }

    /// Wrong replies so far.
    fn errors(&self) -> u64 {
        self.control().errors.load(Ordering::Relaxed)
    }
}
