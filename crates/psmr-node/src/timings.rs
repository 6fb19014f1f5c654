//! How long the stages of a command take on this replica, as histograms.

use hdrhistogram::Histogram;
use psmr_core::observe::{Observer, Stage};
use serde_json::{json, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A minute; what takes longer counts as that.
const US_MAX: u64 = 60_000_000;

/// Times in microseconds, to three digits.
pub struct Times(Mutex<Histogram<u64>>);

impl Times {
    fn new() -> Result<Times, String> {
        let histogram = Histogram::new_with_bounds(1, US_MAX, 3).map_err(|e| format!("no histogram for times: {e}"))?;
        Ok(Times(Mutex::new(histogram)))
    }

    /// Adds one.
    pub fn record(&self, us: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
    }

    /// Count, median, 99th percentile and maximum.
    pub fn summary(&self) -> Value {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| times.value_at_quantile(quantile);
        json!({"count": times.len(), "p50": at(0.5), "p99": at(0.99), "max": times.max()})
    }
}

/// All that a replica times.
pub struct Timings {
    start: Instant,
    stages: Vec<Times>,
    /// Syncs of the log.
    pub syncs: Times,
}

impl Timings {
    /// Nothing yet.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new() -> Result<Timings, String> {
        let stages = Stage::ALL.iter().map(|_| Times::new()).collect::<Result<_, _>>()?;
        Ok(Timings { start: Instant::now(), stages, syncs: Times::new()? })
    }

    /// The stages by name.
    pub fn summary(&self) -> Value {
        Stage::ALL.iter().map(|stage| (stage.name().to_string(), self.stages[*stage as usize].summary())).collect()
    }
}

impl Observer for Timings {
    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }

    fn record(&self, stage: Stage, us: u64) {
        self.stages[stage as usize].record(us);
    }
}
