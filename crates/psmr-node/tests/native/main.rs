//! Native clients against real replicas in this process.

mod garbage;
mod load;
mod sessions;
mod support;
