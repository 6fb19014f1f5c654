//! Errors that tests put in, to show that the checkers find them. Without the feature `planted` the switch does not exist.

use crate::entry::Barrier;

/// A known way to get it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Groups pass over markers.
    MarkerSkipped,
    /// The first group to arrive at a barrier executes.
    BarrierOpenedEarly,
    /// The leader's replica answers what is appended, not yet committed.
    ReplyBeforeCommit,
    /// Reads wait for no round.
    StaleRead,
    /// Reads of several groups are not ordered.
    LooseMultiGroupRead,
    /// After a crash, half a batch counts as a batch.
    TornBatchAccepted,
    /// Settled commands are executed again.
    RetryExecutedTwice,
    /// Commands are executed though a predecessor is missing.
    GapAccepted,
    /// A replica that has lost its memory takes part at once.
    VoteWithoutMemory,
}

/// The error that is put in, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlantedErrors {
    #[cfg(feature = "planted")]
    planted: Option<Planted>,
}

impl PlantedErrors {
    /// Just `planted`.
    #[cfg(feature = "planted")]
    pub fn new(planted: Option<Planted>) -> Self {
        PlantedErrors { planted }
    }

    /// Whether `error` is put in.
    #[cfg(feature = "planted")]
    pub fn is(self, error: Planted) -> bool {
        self.planted == Some(error)
    }

    /// Never.
    #[cfg(not(feature = "planted"))]
    pub fn is(self, _error: Planted) -> bool {
        false
    }

    /// Whether `barrier` is not waited for.
    pub fn opens_early(self, _barrier: &Barrier) -> bool {
        self.is(Planted::BarrierOpenedEarly)
    }
}
