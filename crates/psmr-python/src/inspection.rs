//! Questions about a cluster and about a service.

use crate::gate::Error;
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
    Ok(py.detach(|| client::status(address, time)).map_err(Error::from)?)
}

/// The digests of all replicas at one consistent cut, as JSON.
#[pyfunction]
pub fn verify(py: Python<'_>, address: &str, timeout_s: f64) -> PyResult<String> {
    let time = deadline(timeout_s)?;
    Ok(py.detach(|| client::verify(address, time)).map_err(Error::from)?)
}

/// C-Dep and C-G of a service, as JSON.
#[pyfunction]
pub fn explain(service: &str) -> PyResult<String> {
    Ok(crate::services::find(service)?.explain().to_string())
}
