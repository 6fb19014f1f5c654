//! A small world for tests of the protocol: replicas, links, disks and a clock, of which nothing moves but by the test's hand.
//!
//! | | |
//! |---|---|
//! | `service` | lists of what was executed |
//! | `replica` | one replica: order, engine, client proxy, disk |
//! | `world` | replicas, links, faults, time, and the trace |
//! | `describe` | entries, frames and events in words |
//! | `entries` | entries made by hand, for the execution side alone |
//! | `script` | golden scripts: commands, and the trace below them |
//! | `pool` | one replica whose groups are run by real threads |
#![allow(dead_code, reason = "no test crate uses all of it")]

pub mod describe;
pub mod entries;
#[cfg(not(feature = "shuttle"))]
pub mod pool;
pub mod replica;
pub mod script;
pub mod service;
pub mod world;
