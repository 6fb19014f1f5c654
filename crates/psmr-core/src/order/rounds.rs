//! Read-index rounds: how a replica learns up to where a stream is committed, for all reads that wait, by one question to the
//! stream's leader.

use super::{Actions, Order};
use crate::command::LogId;

/// Read-index rounds of one stream that may be under way at once.
const ROUNDS_IN_FLIGHT_MAX: usize = 1;

/// Ticks after which a read-index request counts as lost: requests vanish without a leader, and before its first commit.
const ROUND_TIMEOUT_TICKS: u64 = 4;

/// Ticks after which a round no longer holds up those of other streams.
const ROUND_JOIN_TICKS: u64 = 1;

#[derive(Debug, Default)]
pub(super) struct Rounds {
    wanted: bool,
    /// (round, tick when it was asked for).
    in_flight: Vec<(u64, u64)>,
}

impl Rounds {
    /// Whether none is wanted or under way.
    pub(super) fn is_idle(&self) -> bool {
        !self.wanted && self.in_flight.is_empty()
    }
}

impl Order {
    /// Reads with the present ticket of `stream` wait: a round is to be started.
    pub fn want_round(&mut self, stream: LogId) {
        self.rounds[stream.index()].wanted = true;
    }

    /// Gives up the rounds that are lost.
    pub(super) fn expire_rounds(&mut self) {
        for rounds in &mut self.rounds {
            let before = rounds.in_flight.len();
            rounds.in_flight.retain(|(_, asked)| self.tick - asked < ROUND_TIMEOUT_TICKS);
            // Whoever waited for a lost round is served by the next one.
            rounds.wanted |= rounds.in_flight.len() < before;
        }
    }

    pub(super) fn start_rounds(&mut self) {
        if self.has_round_to_wait_for() {
            return;
        }
        for at in 0..self.rounds.len() {
            let rounds = &mut self.rounds[at];
            if !rounds.wanted || rounds.in_flight.len() >= ROUNDS_IN_FLIGHT_MAX || self.logs[at].leader() == 0 {
                continue;
            }
            rounds.wanted = false;
            let round = self.engine.rounds[at].start();
            rounds.in_flight.push((round, self.tick));
            let mut context = self.round_prefix().to_vec();
            context.extend_from_slice(&round.to_le_bytes());
            self.logs[at].node.read_index(context);
        }
    }

    /// Rounds of all streams begin together where they can, so that they share frames and turns. One that has been under way
    /// for longer, or whose leader is gone, is not waited for.
    fn has_round_to_wait_for(&self) -> bool {
        let is_young = |(_, asked): &(u64, u64)| self.tick - asked < ROUND_JOIN_TICKS;
        self.rounds.iter().zip(&self.logs).any(|(rounds, log)| {
            let leader = usize::from(log.leader());
            leader > 0 && self.peers[leader - 1].connected && rounds.in_flight.iter().any(is_young)
        })
    }

    /// What the contexts of this replica's read-index requests start with; the seed differs by incarnation, since a leader may
    /// answer what an earlier one asked.
    fn round_prefix(&self) -> [u8; 9] {
        let mut prefix = [self.config.me; 9];
        prefix[1..].copy_from_slice(&self.config.seed.to_le_bytes());
        prefix
    }

    pub(super) fn finish_rounds(&mut self, at: usize, read_states: Vec<(Vec<u8>, u64)>, actions: &mut Actions) {
        if read_states.is_empty() {
            return;
        }
        for (context, index) in read_states {
            let Some(round) = context.strip_prefix(&self.round_prefix()).and_then(|rest| rest.try_into().ok()) else { continue };
            let round = u64::from_le_bytes(round);
            self.rounds[at].in_flight.retain(|(r, _)| *r > round);
            self.engine.rounds[at].finish(round, index);
        }
        actions.ready = actions.ready.union(self.engine.notify_readers(LogId(at as u8)));
    }
}
