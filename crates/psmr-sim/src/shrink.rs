//! Reduces a failing seed: fewer operations and fewer kinds of faults, as long as it still fails.

use crate::plan::{Reduction, FAULT_KINDS};
use psmr_core::planted::Planted;

/// The fewest operations that are tried.
const OPERATIONS_MIN: usize = 2;

/// The smallest reduction found under which the seed still fails, and how it fails then.
pub fn shrink(seed: u64, planted: Option<Planted>, failure: String) -> (Reduction, String) {
    let mut best = (Reduction::default(), failure);
    let try_out = |candidate: Reduction, best: &mut (Reduction, String)| match crate::run_seed(seed, planted, &candidate, false) {
        Ok(_) => false,
        Err(failure) => {
            *best = (candidate, failure);
            true
        }
    };
    for kind in FAULT_KINDS {
        let mut candidate = best.0.clone();
        candidate.without.push(kind);
        try_out(candidate, &mut best);
    }
    let mut operations = crate::plan::Plan::new(seed, planted, &best.0).operations;
    while operations > OPERATIONS_MIN {
        operations /= 2;
        let candidate = Reduction { operations_max: Some(operations), ..best.0.clone() };
        if !try_out(candidate, &mut best) {
            break;
        }
    }
    best
}
