//! The order that the replicas made: per log the committed entries, per group the executed writes. The first replica to come
//! to a place says what is there, all others have to agree; that order is the witness against which histories are checked.

use crate::history::{Kind, Operation};
use crate::service::{Cell, Executed, Key, Reply};
use psmr_core::command::{GroupId, LogId, ReplicaId};
use std::collections::BTreeMap;

/// A write's place in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which operation.
    pub id: u64,
    /// The group's history up to here, hashed.
    pub chain: u64,
    /// The group clock.
    pub now_ms: u64,
}

/// The witness.
#[derive(Debug)]
pub struct Witness {
    logs: Vec<BTreeMap<u64, u64>>,
    groups: Vec<Vec<Step>>,
    /// Per register: the places at which it was written, and what.
    cells: BTreeMap<Key, Vec<(u64, Cell)>>,
    /// Per group: the place of each operation.
    places: Vec<BTreeMap<u64, u64>>,
}

impl Witness {
    /// Nothing has happened yet.
    pub fn new(groups: usize, logs: usize) -> Witness {
        Witness {
            logs: vec![BTreeMap::new(); logs],
            groups: vec![Vec::new(); groups],
            cells: BTreeMap::new(),
            places: vec![BTreeMap::new(); groups],
        }
    }

    /// The writes of a group.
    pub fn steps(&self, group: usize) -> &[Step] {
        &self.groups[group]
    }

    /// The place of an operation in a group.
    pub fn place(&self, group: GroupId, id: u64) -> Option<u64> {
        self.places[group.index()].get(&id).copied()
    }

    /// A replica has committed an entry.
    ///
    /// # Errors
    /// If another one has committed something else there.
    pub fn on_committed(&mut self, replica: ReplicaId, log: LogId, index: u64, hash: u64) -> Result<(), String> {
        match self.logs[log.index()].insert(index, hash) {
            Some(other) if other != hash => {
                Err(format!("prefix agreement: replica {replica} has another entry {index} in {log:?}"))
            }
            _ => Ok(()),
        }
    }

    /// A replica has executed a write.
    ///
    /// # Errors
    /// If the order of a group differs from that of another replica, or the write was executed before.
    pub fn on_executed(&mut self, replica: ReplicaId, executed: &Executed) -> Result<(), String> {
        let mut fresh = Vec::new();
        for (group, place, chain) in &executed.places {
            let step = Step { id: executed.id, chain: *chain, now_ms: executed.now_ms };
            let steps = &mut self.groups[group.index()];
            if let Some(known) = steps.get(*place as usize - 1) {
                if *known != step {
                    return Err(format!(
                        "equal order: replica {replica} executed {step:?} at place {place} of {group:?}, others {known:?}"
                    ));
                }
            } else if *place as usize == steps.len() + 1 {
                steps.push(step);
                if let Some(before) = self.places[group.index()].insert(executed.id, *place) {
                    let id = executed.id;
                    return Err(format!(
                        "exactly once: replica {replica} executed operation {id} at {before} and {place} of {group:?}"
                    ));
                }
                fresh.push(*group);
            } else {
                return Err(format!("equal order: replica {replica} is at place {place} of {group:?}, which nobody has come to"));
            }
        }
        for (key, cell) in executed.written.iter().filter(|(key, _)| fresh.contains(&key.group)) {
            let place = self.groups[key.group.index()].len() as u64;
            self.cells.entry(*key).or_default().push((place, *cell));
        }
        Ok(())
    }

    /// What a register held after `place` writes of its group.
    fn cell_at(&self, key: Key, place: u64) -> Cell {
        let Some(writes) = self.cells.get(&key) else { return Cell::default() };
        let after = writes.partition_point(|(at, _)| *at <= place);
        after.checked_sub(1).map_or(Cell::default(), |at| writes[at].1)
    }

    /// Checks a reply against the order: a write is where the reply says, and what was seen is what was there.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_reply(&self, operation: &Operation, reply: &Reply) -> Result<(), String> {
        let id = operation.request.id;
        let write = u64::from(operation.kind == Kind::Write);
        for (group, place) in &reply.places {
            if *place > self.groups[group.index()].len() as u64 {
                return Err(format!("operation {id} was answered at place {place} of {group:?}, which nobody has come to"));
            }
            if write == 1 && self.place(*group, id) != Some(*place) {
                return Err(format!("write {id} was answered as place {place} of {group:?}, where it is not"));
            }
        }
        for (key, cell) in operation.request.keys.iter().zip(&reply.cells) {
            let place = reply.places.iter().find(|(group, _)| *group == key.group).map_or(0, |(_, place)| *place);
            let there = self.cell_at(*key, place - write);
            if there != *cell {
                return Err(format!("operation {id} saw {cell:?} in {key:?} at place {place}, there was {there:?}"));
            }
            let changed = self.cell_at(*key, place).version.wrapping_sub(there.version);
            if write == 1 && changed != u64::from(operation.request.applies(&reply.cells)) {
                let expected = &operation.request.expected;
                return Err(format!(
                    "write {id} on versions {expected:?} changed {key:?} {changed} times, where it saw {there:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks that a write took effect in all groups of γ or in none, and that the clock of a read fits its place.
    ///
    /// # Errors
    /// If not.
    pub fn check_at_end(&self, operation: &Operation, reply: Option<&Reply>) -> Result<(), String> {
        let id = operation.request.id;
        let there = operation.gamma().iter().filter(|group| self.place(*group, id).is_some()).count();
        if there != 0 && there != operation.gamma().len() {
            return Err(format!("write {id} took effect in {there} of {} groups", operation.gamma().len()));
        }
        let Some(reply) = reply else { return Ok(()) };
        for (group, place) in &reply.places {
            let now_at = |place: u64| self.groups[group.index()].get(place as usize).map(|step| step.now_ms);
            let before = place.checked_sub(1).and_then(now_at).unwrap_or(0);
            let after = now_at(*place).unwrap_or(u64::MAX);
            if operation.gamma().len() == 1 && !(before..=after).contains(&reply.now_ms) {
                return Err(format!("operation {id} saw the clock at {}, between {before} and {after}", reply.now_ms));
            }
        }
        Ok(())
    }
}
