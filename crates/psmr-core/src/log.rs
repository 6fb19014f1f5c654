//! What the ordering part asks of a disk: one write and one sync per turn for all logs. The implementation on files is in
//! `psmr-node`, the simulated disk in `psmr-sim`.

use crate::command::LogId;
use bytes::Bytes;

/// What kind of entry Raft has in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A batch of commands, or empty (a new leader's first).
    Normal = 0,
    /// A change of the log's members.
    ConfChange = 2,
}

/// One entry of a Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in its log, from 1.
    pub index: u64,
    /// Raft's term.
    pub term: u64,
    /// What it is.
    pub kind: EntryKind,
    /// The batch.
    pub data: Bytes,
}

/// Raft's hard state, and where the application stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The current term.
    pub term: u64,
    /// Whom this replica voted for in it, or 0.
    pub vote: u64,
    /// The highest index known committed.
    pub commit: u64,
}

/// One thing to make durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// Appends an entry to a log; it replaces everything in that log from its index on.
    Append(LogId, LogEntry),
    /// A log's newest hard state.
    HardState(LogId, HardState),
    /// A log starts anew after (index, term): everything in it up to `index` stands in a checkpoint. Entries after `index`
    /// are kept if the log has an entry (index, term), and dropped otherwise. At or before the present start it does nothing.
    Start {
        /// The log.
        log: LogId,
        /// The last index that the checkpoint covers.
        index: u64,
        /// The term of that entry.
        term: u64,
    },
}

/// What a turn of the ordering part wants on disk, all of it or a prefix of it.
#[derive(Clone, Debug, Default)]
pub struct LogWrite {
    /// Ascending, to be given back when the write is durable.
    pub turn: u64,
    /// In order.
    pub records: Vec<LogRecord>,
    /// Whether the turn must be synced before it counts (else it may ride with a later one).
    pub must_sync: bool,
}

/// What one log holds after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The newest hard state.
    pub hard_state: HardState,
    /// (index, term) that `entries` start after; (0, 0) for a log that was never trimmed.
    pub start: (u64, u64),
    /// Gapless, from `start.0 + 1`.
    pub entries: Vec<LogEntry>,
}

/// Storage of all logs of one replica.
pub trait LogStorage: Send {
    /// Writes records in order. They are durable after the next `sync`, not before.
    ///
    /// # Errors
    /// One line that names the file and what to do. The replica ends; nothing is acknowledged after it.
    fn write(&mut self, records: &[LogRecord]) -> Result<(), String>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// As `write`.
    fn sync(&mut self) -> Result<(), String>;
}
