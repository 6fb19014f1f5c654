//! What the thread that has other duties executes itself, and what it leaves to workers. ARCHITECTURE.md, threads of a replica.
#![cfg(not(feature = "shuttle"))]

mod common;

use common::entries::{commit, EntryMaker};
use common::service::Lists;
use psmr_core::command::{GroupId, GroupSet, SessionId};
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Output};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use std::sync::{Arc, Mutex};

struct Setting {
    engine: Engine,
    maker: EntryMaker,
    executed: Arc<Mutex<Vec<String>>>,
}

/// Two groups in two streams.
fn setting() -> Setting {
    let topology = Topology::new(2, 2);
    let executed = Arc::new(Mutex::new(Vec::new()));
    let watched = executed.clone();
    let watch = move |_: GroupSet, payload: &str, _: bool| watched.lock().expect("no panic").push(payload.to_string());
    let service = Arc::new(Lists::watched(Arc::new(watch)));
    let engine = Engine::new(1, topology.clone(), service, PlantedErrors::default());
    Setting { engine, maker: EntryMaker::new(topology), executed }
}

impl Setting {
    /// Commits an entry whose commands are for group 0 alone.
    fn commit(&mut self, commands: &[&str]) {
        let commands: Vec<(&[u8], &str)> = commands.iter().map(|payload| (&[0][..], *payload)).collect();
        let _ = commit(&self.engine, self.maker.entry(0, 0, &commands));
    }

    fn run_brief(&self, group: u8) -> Output {
        let mut output = Output::default();
        self.engine.run_brief(GroupId(group), &mut output);
        output
    }

    fn executed(&self) -> Vec<String> {
        std::mem::take(&mut *self.executed.lock().expect("no panic"))
    }
}

/// An entry is executed as a whole or left as a whole, and what follows it waits its turn.
#[test]
fn what_may_take_long_is_left_to_a_worker_with_all_that_follows() {
    let mut setting = setting();
    setting.commit(&["a"]);
    setting.commit(&["b", "long"]);
    setting.commit(&["c"]);
    let output = setting.run_brief(0);
    assert_eq!((output.lengthy, output.ready), (GroupSet::one(GroupId(0)), GroupSet::one(GroupId(0))));
    assert_eq!(setting.executed(), ["a"]);
    let mut output = Output::default();
    setting.engine.run(GroupId(0), &mut output);
    assert_eq!((output.lengthy, output.ready), (GroupSet::EMPTY, GroupSet::EMPTY));
    assert_eq!(setting.executed(), ["b", "long", "c"]);
}

/// In synchronous mode too: who arrives last would have to execute it.
#[test]
fn a_group_does_not_arrive_at_a_barrier_of_what_may_take_long() {
    let mut setting = setting();
    for (payload, is_brief) in [("ab", true), ("long ab", false)] {
        let _ = commit(&setting.engine, setting.maker.entry(2, 0, &[(&[0, 1], payload)]));
        let marker = if is_brief { 1 } else { 2 };
        for stream in [0, 1] {
            let _ = commit(&setting.engine, setting.maker.entry(stream, marker, &[]));
        }
        let outputs = [setting.run_brief(0), setting.run_brief(1)];
        assert_eq!(outputs.map(|output| output.lengthy.is_empty()), [is_brief; 2]);
        assert_eq!(setting.executed().is_empty(), !is_brief);
    }
}

#[test]
fn reads_that_may_take_long_are_left_to_a_worker() {
    let setting = setting();
    let mut batch = ReadBatch { session: SessionId(1), round: setting.engine.rounds[0].ticket(), ..ReadBatch::default() };
    batch.push(7, [0, 0], [0, 0], b"long list");
    setting.engine.push_reads(GroupId(0), batch);
    setting.engine.rounds[0].finish(setting.engine.rounds[0].start(), 0);
    assert_eq!(setting.engine.notify(GroupSet::one(GroupId(0))), GroupSet::one(GroupId(0)));
    assert_eq!(setting.run_brief(0).lengthy, GroupSet::one(GroupId(0)));
    assert_eq!(setting.executed(), [""; 0]);
    setting.engine.run(GroupId(0), &mut Output::default());
    assert_eq!(setting.executed(), ["long list"]);
}
