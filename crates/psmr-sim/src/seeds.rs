//! Many seeds, on several threads: each world is its own thread's.

use crate::plan::Reduction;
use crate::world::Report;
use psmr_core::planted::Planted;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;

/// What a seed came to.
pub type Result = std::result::Result<Report, String>;

/// Runs the seeds of `range` on `jobs` threads. `each` sees results as they come; they are returned by seed.
pub fn run(range: Range<u64>, planted: Option<Planted>, jobs: usize, each: impl Fn(u64, &Result) + Sync) -> Vec<(u64, Result)> {
    run_until(range, planted, jobs, each, |_| false)
}

/// The first failure that comes, by any of the seeds, under a planted error.
pub fn first_failure(range: Range<u64>, planted: Planted, jobs: usize) -> Option<(u64, String)> {
    let results = run_until(range, Some(planted), jobs, |_, _| {}, |result| result.is_err());
    results.into_iter().find_map(|(seed, result)| Some((seed, result.err()?)))
}

fn run_until(
    range: Range<u64>,
    planted: Option<Planted>,
    jobs: usize,
    each: impl Fn(u64, &Result) + Sync,
    ends: impl Fn(&Result) -> bool + Sync,
) -> Vec<(u64, Result)> {
    let next = AtomicU64::new(range.start);
    let ended = AtomicBool::new(false);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= range.end || ended.load(Ordering::Relaxed) {
                    return;
                }
                let result = crate::run_seed(seed, planted, &Reduction::default(), false);
                each(seed, &result);
                ended.fetch_or(ends(&result), Ordering::Relaxed);
                results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((seed, result));
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(seed, _)| *seed);
    results
}
