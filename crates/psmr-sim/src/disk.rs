//! A replica's disk: records that are synced in order after a while, of which a crash leaves a prefix; and checkpoints.

use bytes::Bytes;
use psmr_core::log::{LogRecord, LogWrite, RecoveredLog};
use psmr_core::order::{Identity, Positions, Standing};
use std::collections::VecDeque;
use std::rc::Rc;

/// A checkpoint as a replica keeps it, and as it travels to a peer.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The cross entry that it was taken at.
    pub cut: u64,
    /// The last entry that it covers, per log.
    pub positions: Positions,
    /// Each group's part.
    pub parts: Vec<Bytes>,
}

/// What survives the end of a process.
#[derive(Debug)]
pub struct Disk {
    /// The replica's identity, which is durable at once.
    pub identity: Identity,
    logs: Vec<RecoveredLog>,
    /// Written, not synced.
    unsynced: VecDeque<LogWrite>,
    /// The records of the last write that was synced, and the logs before it: for a disk that lies.
    before_last: Option<(Vec<RecoveredLog>, Vec<LogRecord>)>,
    /// The newest two, older first.
    checkpoints: Vec<Rc<Checkpoint>>,
    /// It loses half of the last write though it was synced.
    pub lies: bool,
}

impl Disk {
    /// An empty disk for this many logs.
    pub fn new(incarnation: u64, logs: usize, lies: bool) -> Disk {
        Disk {
            identity: Identity::fresh(incarnation),
            logs: vec![RecoveredLog::default(); logs],
            unsynced: VecDeque::new(),
            before_last: None,
            checkpoints: Vec::new(),
            lies,
        }
    }

    /// Everything is lost.
    pub fn empty(&mut self, incarnation: u64) {
        *self = Disk::new(incarnation, self.logs.len(), self.lies);
    }

    /// Whether the replica that it belongs to is a full member.
    pub fn is_established(&self) -> bool {
        matches!(self.identity.standing, Standing::Established { .. })
    }

    /// Takes a write, which is not durable yet.
    pub fn write(&mut self, write: LogWrite) {
        self.unsynced.push_back(write);
    }

    /// The last turn that was written and is not synced.
    pub fn written(&self) -> Option<u64> {
        self.unsynced.back().map(|write| write.turn)
    }

    /// Everything up to `turn` is durable now.
    pub fn sync(&mut self, turn: u64) {
        while self.unsynced.front().is_some_and(|write| write.turn <= turn) {
            if let Some(write) = self.unsynced.pop_front() {
                if self.lies && write.must_sync {
                    self.before_last = Some((self.logs.clone(), write.records.clone()));
                }
                write.records.into_iter().for_each(|record| apply(&mut self.logs, record));
            }
        }
    }

    /// The process ends: of what was not synced, the first `keeps_percent` of the records survive.
    pub fn crash(&mut self, keeps_percent: u64) {
        let lost = std::mem::take(&mut self.unsynced);
        let records: Vec<LogRecord> = lost.into_iter().flat_map(|write| write.records).collect();
        let kept = records.len() * keeps_percent as usize / 100;
        if let Some((mut logs, half)) = self.before_last.take() {
            let count = half.len() / 2;
            half.into_iter().take(count).for_each(|record| apply(&mut logs, record));
            self.logs = logs;
            return;
        }
        records.into_iter().take(kept).for_each(|record| apply(&mut self.logs, record));
    }

    /// What a restart finds in the logs.
    pub fn recover(&self) -> Vec<RecoveredLog> {
        self.logs.clone()
    }

    /// The newest checkpoint; the one before it if `falls_back` and there is one.
    pub fn checkpoint(&mut self, falls_back: bool) -> Option<Rc<Checkpoint>> {
        if falls_back && self.checkpoints.len() == 2 {
            self.checkpoints.pop();
        }
        self.checkpoints.last().cloned()
    }

    /// The newest checkpoint.
    pub fn newest(&self) -> Option<&Rc<Checkpoint>> {
        self.checkpoints.last()
    }

    /// Keeps the replica's own checkpoint beside the one before it.
    pub fn keep(&mut self, checkpoint: Rc<Checkpoint>) {
        self.checkpoints.push(checkpoint);
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
        }
    }

    /// Keeps a peer's checkpoint alone: the logs may start anew after it, so that older ones are of no use.
    pub fn replace(&mut self, checkpoint: Rc<Checkpoint>) {
        self.checkpoints = vec![checkpoint];
    }
}

fn apply(logs: &mut [RecoveredLog], record: LogRecord) {
    match record {
        LogRecord::Append(log, entry) => {
            let log = &mut logs[log.index()];
            log.entries.retain(|e| e.index < entry.index);
            log.entries.push(entry);
        }
        LogRecord::HardState(log, state) => logs[log.index()].hard_state = state,
        LogRecord::Start { log, index, term } => {
            let log = &mut logs[log.index()];
            let has = log.start == (index, term) || log.entries.iter().any(|e| (e.index, e.term) == (index, term));
            log.entries.retain(|e| has && e.index > index);
            log.start = (index, term);
        }
    }
}
