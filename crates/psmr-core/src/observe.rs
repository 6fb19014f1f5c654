//! How long things take on a replica, for people: nothing here decides anything.
//!
//! The core has no clock of its own. Whoever has one gives the engine an `Observer`, and is told the times of a sample: one
//! entry of `SAMPLE_EVERY` per log, and the waits at barriers in it.

/// One of so many entries of a log is timed.
pub const SAMPLE_EVERY: u64 = 16;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A command of a client of this replica, from its batch to its reply.
    Command,
    /// An entry of a log that this replica leads, from its proposal until it is committed.
    Replicate,
    /// An entry of a stream, from when this replica knows it committed until a group of it has executed it.
    Deliver,
    /// An entry of the cross log, likewise: how much later its markers and its groups' neighbours are.
    DeliverCross,
    /// A group at a barrier, from when it parks until it runs again.
    Park,
}

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: [Stage; 5] = [Stage::Command, Stage::Replicate, Stage::Deliver, Stage::DeliverCross, Stage::Park];

    /// As it is called in a replica's status.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Command => "command",
            Stage::Replicate => "replicate",
            Stage::Deliver => "deliver",
            Stage::DeliverCross => "deliver_cross",
            Stage::Park => "park",
        }
    }
}

/// Has a clock, and is told times.
pub trait Observer: Send + Sync {
    /// Microseconds since some moment, which is before 1; 0: nothing is to be timed.
    fn now_us(&self) -> u64;
    /// Something took so long.
    fn record(&self, stage: Stage, us: u64);
}

/// Times nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn now_us(&self) -> u64 {
        0
    }
    fn record(&self, _: Stage, _: u64) {}
}
