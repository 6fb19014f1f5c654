//! All limits and timeouts of the protocol part, in one place, checked once.

use crate::command::{ReplicaId, GROUPS_MAX};
use crate::planted::PlantedErrors;

/// The most replicas that a cluster can have.
pub const REPLICAS_MAX: u8 = 9;

/// The longest payload of a command. All that carries commands is measured by it, so that what one part takes in, the next
/// can take: command < batch < entry < what a log takes in.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// The longest batch: one command of `COMMAND_BYTES_MAX`, with what tells its place.
pub const BATCH_BYTES_MAX: usize = COMMAND_BYTES_MAX + (4 << 10);

/// The longest entry: one batch of `BATCH_BYTES_MAX`. A log has to take it.
pub const ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX + (4 << 10);

/// What a replica's protocol part is made with. Times are in ticks; the owner of the replica decides how long a tick is.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica, 1 to `replicas`.
    pub me: ReplicaId,
    /// How many replicas the cluster has.
    pub replicas: u8,
    /// k, the number of groups.
    pub groups: usize,
    /// S, the number of streams.
    pub streams: usize,
    /// Decides election timeouts, and tells this incarnation's requests from those before.
    pub seed: u64,
    /// Digest of the genesis record, on which all replicas agree.
    pub genesis: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before the preferred replica of a log stands for election; the others wait longer, by rank.
    pub election_ticks: u32,
    /// Bytes of one log entry, unless one batch is larger.
    pub entry_bytes_max: usize,
    /// Entries of a log that may be proposed and not yet committed; more is gathered into the next entry.
    pub entries_in_flight_max: u64,
    /// While an entry is under way, the next one gathers batches for so long, in milliseconds, unless it is full before.
    pub gather_ms_max: u64,
    /// Bytes of batches that wait to be proposed, per log; more is refused, and sent again by the client proxies.
    pub pending_bytes_max: usize,
    /// Bytes of a log that may be committed here and not yet delivered by all groups. Beyond that, a leader admits no more
    /// commands, and a follower takes no more entries: it lags, and catches up by a checkpoint if need be.
    pub undelivered_bytes_max: u64,
    /// Bytes by which all logs have grown since the last checkpoint that make a replica ask for one, unless its state is large.
    pub checkpoint_log_bytes: usize,
    /// How far a leader's stamps may be ahead of the median of the replicas' clocks, in milliseconds.
    pub clock_lead_ms_max: u64,
    /// Errors put in by tests.
    pub planted: PlantedErrors,
}

impl Config {
    /// The usual limits, for a tick of 50 ms.
    pub fn new(me: ReplicaId, replicas: u8, groups: usize, streams: usize) -> Config {
        Config {
            me,
            replicas,
            groups,
            streams,
            seed: 0,
            genesis: 0,
            heartbeat_ticks: 4,
            election_ticks: 16,
            entry_bytes_max: 1 << 20,
            entries_in_flight_max: 8,
            gather_ms_max: 2,
            pending_bytes_max: 64 << 20,
            undelivered_bytes_max: 64 << 20,
            checkpoint_log_bytes: 32 << 20,
            clock_lead_ms_max: 500,
            planted: PlantedErrors::default(),
        }
    }

    /// Checks the values against each other.
    ///
    /// # Errors
    /// One line that names the value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return Err(format!("replicas is {}, allowed are 1 to {REPLICAS_MAX}", self.replicas));
        }
        if !(1..=self.replicas).contains(&self.me) {
            return Err(format!("replica is {}, allowed are 1 to replicas ({})", self.me, self.replicas));
        }
        if !(1..=GROUPS_MAX).contains(&self.groups) {
            return Err(format!("groups is {}, allowed are 1 to {GROUPS_MAX}", self.groups));
        }
        if !(1..=self.groups).contains(&self.streams) {
            return Err(format!("streams is {}, allowed are 1 to groups ({})", self.streams, self.groups));
        }
        if self.heartbeat_ticks == 0 || self.election_ticks < 3 * self.heartbeat_ticks {
            return Err(format!(
                "election_ticks is {}, allowed is 3 times heartbeat_ticks ({}) or more",
                self.election_ticks, self.heartbeat_ticks
            ));
        }
        if self.entry_bytes_max > ENTRY_BYTES_MAX {
            return Err(format!("entry_bytes_max is {}, allowed are at most {ENTRY_BYTES_MAX}", self.entry_bytes_max));
        }
        Ok(())
    }

    /// The replica that leads `log` when all is well, so that leaders are spread.
    pub fn preferred_leader(&self, log: crate::command::LogId) -> ReplicaId {
        log.0 % self.replicas + 1
    }

    /// 0 for the preferred leader of a log, 1 for the next to take over, and so on.
    pub fn rank(&self, replica: ReplicaId, log: crate::command::LogId) -> u8 {
        (replica + self.replicas - self.preferred_leader(log)) % self.replicas
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::LogId;

    #[test]
    fn leaders_are_spread_and_ranks_are_distinct() {
        let config = Config::new(1, 3, 16, 3);
        assert_eq!((0..4).map(|log| config.preferred_leader(LogId(log))).collect::<Vec<_>>(), [1, 2, 3, 1]);
        assert_eq!((1..=3).map(|r| config.rank(r, LogId(1))).collect::<Vec<_>>(), [2, 0, 1]);
    }

    #[test]
    fn wrong_values_are_named() {
        assert!(Config::new(1, 3, 16, 17).check().unwrap_err().contains("streams is 17"));
        assert!(Config::new(4, 3, 16, 3).check().unwrap_err().contains("replica is 4"));
        assert!(Config::new(1, 3, 65, 3).check().unwrap_err().contains("groups is 65"));
        assert!(Config::new(1, 3, 16, 3).check().is_ok());
    }
}
