//! Parallel state-machine replication as state machines: no sockets, threads, clocks or randomness.
pub mod client;
pub mod command;
pub mod config;
pub mod deliver;
pub mod entry;
pub mod error;
pub mod execute;
pub mod gateway;
pub mod log;
pub mod message;
pub mod order;
pub mod planted;
pub mod routing;
pub mod service;
pub mod session;
pub mod sync;
pub mod wire;
