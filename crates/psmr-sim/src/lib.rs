//! The deterministic simulator: real replicas (engine, ordering part over the consensus library, client proxies) on a
//! simulated network, disk and clock. One seed decides everything that happens, so that a failing seed replays exactly.
//!
//! `run_seed` runs one seed and checks all that `checker` knows. `shrink` reduces a failing one.

pub mod checker;
pub mod disk;
pub mod history;
pub mod network;
pub mod node;
pub mod plan;
pub mod random;
pub mod seeds;
pub mod service;
pub mod shrink;
pub mod world;

use plan::{Plan, Reduction};
use psmr_core::planted::Planted;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;
use world::{Report, World};

thread_local! {
    /// What a panic said while a world of this thread ran; `None`: none runs.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs one seed. A panic of a replica counts as a failure like any other.
///
/// # Errors
/// What does not hold.
pub fn run_seed(seed: u64, planted: Option<Planted>, reduction: &Reduction, trace: bool) -> Result<Report, String> {
    catch_panics_quietly();
    PANIC.with_borrow_mut(|text| *text = Some(String::new()));
    let plan = Plan::new(seed, planted, reduction);
    if trace {
        println!("{plan:#?}");
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(plan, trace).run()));
    let text = PANIC.with_borrow_mut(Option::take).unwrap_or_default();
    outcome.unwrap_or_else(|_| Err(format!("panic: {text}")))
}

/// Panics of simulated replicas are results: they are kept, not printed. Others are printed as ever.
fn catch_panics_quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let taken = PANIC.with_borrow_mut(|text| text.as_mut().map(|text| *text = info.to_string()).is_some());
            if !taken {
                usual(info);
            }
        }));
    });
}
