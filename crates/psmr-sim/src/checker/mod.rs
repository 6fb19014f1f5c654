//! What has to hold in every run.

pub mod linearizability;
pub mod witness;
