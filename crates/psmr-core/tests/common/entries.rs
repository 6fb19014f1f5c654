//! Entries made by hand, for tests of the execution side alone.

use psmr_core::command::{GroupId, GroupSet, LogId, SessionId};
use psmr_core::entry::{encode_batches, encode_system, BatchBuilder, BatchHead, Entry, Numbers, Section, System};
use psmr_core::execute::Engine;
use psmr_core::routing::Topology;
use psmr_core::sync::Arc;
use std::collections::BTreeMap;

/// Makes entries of one session's commands, and numbers them.
pub struct EntryMaker {
    topology: Topology,
    indices: BTreeMap<LogId, u64>,
    numbers: BTreeMap<(GroupId, LogId), u64>,
}

impl EntryMaker {
    /// Empty logs.
    pub fn new(topology: Topology) -> EntryMaker {
        EntryMaker { topology, indices: BTreeMap::new(), numbers: BTreeMap::new() }
    }

    /// The next entry of `log`, with a marker (0: none) and commands: γ and payload.
    pub fn entry(&mut self, log: u8, marker: u64, commands: &[(&[u8], &str)]) -> Arc<Entry> {
        let log = LogId(log);
        let head = BatchHead { session: SessionId(1), origin: 1, keep_replies: false, routing_version: 1, expires_ms: u64::MAX };
        let mut batch = BatchBuilder::with_capacity(&head, 0);
        for (groups, payload) in commands {
            let mut section = Section::default();
            section.push(payload.as_bytes(), false);
            let gamma: GroupSet = groups.iter().map(|g| GroupId(*g)).collect();
            let numbers: Vec<Numbers> = gamma.iter().map(|group| self.number(group, log)).collect();
            if let [number] = numbers[..] {
                batch.single(GroupId(groups[0]), number, &section);
            } else {
                batch.multi(gamma, numbers.into_iter(), &section);
            }
        }
        let index = self.indices.entry(log).or_default();
        *index += 1;
        let bytes = encode_batches([batch.finish()].iter(), 1, marker, GroupSet::EMPTY);
        Arc::new(Entry::decode(log, *index, self.topology.groups_of(log), &bytes).expect("an entry"))
    }

    /// The next entry of the cross log, with a command to the engine.
    pub fn system(&mut self, system: System) -> Arc<Entry> {
        let log = self.topology.cross();
        let index = self.indices.entry(log).or_default();
        *index += 1;
        Arc::new(Entry::decode(log, *index, self.topology.all(), &encode_system(1, system)).expect("an entry"))
    }

    fn number(&mut self, group: GroupId, log: LogId) -> Numbers {
        let number = self.numbers.entry((group, log)).or_default();
        *number += 1;
        Numbers { first: *number, acknowledged: 0 }
    }
}

/// Commits an entry as the ordering part does; returns the groups that have to be put in a ready queue.
pub fn commit(engine: &Engine, entry: Arc<Entry>) -> GroupSet {
    let (log, groups, marker) = (entry.log, entry.groups, entry.marker);
    engine.logs[log.index()].append(std::iter::once(entry));
    if log == engine.topology.cross() {
        engine.notify_cross()
    } else {
        engine.notify(if marker > 0 { engine.topology.groups_of(log) } else { groups })
    }
}
