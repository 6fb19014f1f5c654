//! Questions about a cluster and about a service.

use crate::gate::{Error, Signals};
use psmr_node::client;
use pyo3::prelude::*;
use std::time::Duration;

/// A deadline that is neither negative nor endless.
fn deadline(timeout_s: f64) -> PyResult<Duration> {
    let wrong = || Error::Usage(format!("timeout_s: is {timeout_s}: allowed is a number of seconds above 0"));
    Duration::try_from_secs_f64(timeout_s).ok().filter(|time| !time.is_zero()).ok_or_else(|| wrong().into())
}

/// The state of one replica, as JSON.
#[pyfunction]
pub fn status(py: Python<'_>, address: &str, timeout_s: f64) -> PyResult<String> {
    let time = deadline(timeout_s)?;
    Signals::watch(py, |called_off| client::status(address, time, called_off))
}

/// The state of one replica and what it has counted and timed, as JSON.
#[pyfunction]
pub fn metrics(py: Python<'_>, address: &str, timeout_s: f64) -> PyResult<String> {
    let time = deadline(timeout_s)?;
    Signals::watch(py, |called_off| client::metrics(address, time, called_off))
}

/// The states of several replicas that are asked at once, as a JSON list; of one without an answer, `{"is_refused"}`.
#[pyfunction]
pub fn statuses(py: Python<'_>, addresses: Vec<String>, timeout_s: f64) -> PyResult<String> {
    let time = deadline(timeout_s)?;
    Signals::watch(py, |called_off| client::statuses(&addresses, time, called_off))
}

/// The digests of all replicas at one consistent cut, as JSON.
#[pyfunction]
pub fn verify(py: Python<'_>, address: &str, timeout_s: f64) -> PyResult<String> {
    let time = deadline(timeout_s)?;
    Signals::watch(py, |called_off| client::verify(address, time, called_off))
}

/// C-Dep and C-G of a service, as JSON.
#[pyfunction]
pub fn explain(service: &str) -> PyResult<String> {
    Ok(crate::services::find(service)?.explain().to_string())
}
