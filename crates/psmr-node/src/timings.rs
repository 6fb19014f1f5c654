//! How long the stages of a command take on this replica, as histograms.

use hdrhistogram::Histogram;
use psmr_core::observe::{Observer, Stage};
use serde_json::{json, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A minute; what takes longer counts as that.
const US_MAX: u64 = 60_000_000;

/// Upper bounds of the buckets that metrics have, in microseconds.
const BOUNDS_US: [u64; 18] = [
    20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

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

    /// Count, sum in microseconds, and how many took at most each of `BOUNDS_US`.
    pub fn buckets(&self) -> Value {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = [0; BOUNDS_US.len()];
        let mut sum_us = 0;
        for step in times.iter_recorded() {
            let us = step.value_iterated_to();
            sum_us += us * step.count_at_value();
            counts
                .iter_mut()
                .zip(BOUNDS_US)
                .filter(|(_, bound)| us <= *bound)
                .for_each(|(count, _)| *count += step.count_at_value());
        }
        json!({"count": times.len(), "sum_us": sum_us, "buckets": counts})
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

    /// The stages and the log's syncs by name, as buckets, and the buckets' bounds.
    pub fn buckets(&self) -> Value {
        let stages = Stage::ALL.iter().map(|stage| (stage.name().to_string(), self.stages[*stage as usize].buckets()));
        json!({"bounds_us": BOUNDS_US, "stages": stages.collect::<Value>(), "sync": self.syncs.buckets()})
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
