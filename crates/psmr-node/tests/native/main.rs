//! Native clients against real replicas in this process.

mod garbage;
mod load;
#[path = "../ports/mod.rs"]
mod ports;
mod sessions;
mod support;
