//! A peer's checkpoint in an engine: groups before its cut are replaced, later ones stay, barriers before the cut are dropped.
//! design.md section 6.
#![cfg(not(feature = "shuttle"))]

mod common;

use bytes::Bytes;
use common::entries::{commit, EntryMaker};
use common::service::Lists;
use proptest::collection::vec;
use proptest::prelude::any;
use psmr_core::command::{GroupId, GroupSet, LogId};
use psmr_core::deliver::Cursor;
use psmr_core::entry::{Entry, System};
use psmr_core::execute::{Engine, Event, Output};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use psmr_core::wire::Reader;
use std::collections::BTreeMap;
use std::sync::Arc;

const CUT: u64 = 2;

fn engine() -> Engine {
    Engine::new(1, Topology::new(4, 2), Arc::new(Lists::new()), PlantedErrors::default())
}

/// Groups 0 and 2 are in log 0, groups 1 and 3 in log 1. Each call gives entries of its own, since barriers count arrivals.
fn logs() -> [Vec<Arc<Entry>>; 3] {
    let mut maker = EntryMaker::new(Topology::new(4, 2));
    let cross = vec![
        maker.entry(2, 0, &[(&[0, 1], "x1")]),
        maker.system(System::Checkpoint { replicas: 1 << 1 }),
        maker.entry(2, 0, &[(&[0, 1, 2, 3], "x3")]),
        maker.system(System::Digest { request: 1 }),
    ];
    let zero = vec![
        maker.entry(0, 0, &[(&[0], "a"), (&[2], "b")]),
        maker.entry(0, CUT, &[(&[2], "c"), (&[0], "d")]),
        maker.entry(0, 4, &[(&[0, 2], "e")]),
    ];
    let one = vec![maker.entry(1, 0, &[(&[1], "f"), (&[3], "g")]), maker.entry(1, CUT, &[]), maker.entry(1, 4, &[(&[1], "h")])];
    [zero, one, cross]
}

/// Runs what is ready until nothing is; returns all events.
fn run(engine: &Engine, mut ready: GroupSet) -> Vec<Event> {
    let mut output = Output::default();
    while let Some(group) = ready.lowest() {
        ready = GroupSet(ready.0 & !GroupSet::one(group).0);
        engine.run(group, &mut output);
        ready = ready.union(std::mem::take(&mut output.ready));
    }
    output.finish();
    output.events
}

fn commit_and_run(engine: &Engine, entries: &[Arc<Entry>]) -> Vec<Event> {
    entries.iter().flat_map(|entry| run(engine, commit(engine, entry.clone()))).collect()
}

fn digests(events: &[Event]) -> BTreeMap<GroupId, (u64, u64)> {
    let of = |event: &Event| {
        if let Event::Digest { group, state, bookkeeping, .. } = event {
            Some((*group, (*state, *bookkeeping)))
        } else {
            None
        }
    };
    events.iter().filter_map(of).collect()
}

fn replies(events: &[Event]) -> Vec<String> {
    let of = |event: &Event| match event {
        Event::Replies { replies, .. } => replies.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect(),
        _ => Vec::new(),
    };
    events.iter().flat_map(of).collect()
}

#[test]
fn groups_before_the_cut_are_replaced_and_later_ones_stay() {
    let peer = engine();
    let [zero, one, cross] = logs();
    let mut events = commit_and_run(&peer, &cross);
    events.extend(commit_and_run(&peer, &zero));
    events.extend(commit_and_run(&peer, &one));
    let mut parts = BTreeMap::new();
    for event in &events {
        if let Event::Snapshot { cut, group, bytes } = event {
            assert_eq!(*cut, CUT);
            parts.insert(*group, Bytes::from(bytes.clone()));
        }
    }
    assert_eq!((parts.len(), digests(&events).len()), (4, 4));

    // Here log 1 has not come at all. Group 0 waits at the barrier of x1; group 2 is past the cut.
    let lagging = engine();
    let [zero, one, cross] = logs();
    commit_and_run(&lagging, &cross[..2]);
    commit_and_run(&lagging, &zero[..2]);
    assert!(lagging.is_parked(GroupId(0)));
    assert_eq!(lagging.delivered(GroupId(2)), (2, 2));

    let mut output = Output::default();
    for (group, part) in &parts {
        lagging.restore(*group, CUT, part.clone(), &mut output).expect("a peer's part");
    }
    assert_eq!(output.ready, GroupSet::one(GroupId(0)), "a group that waited at a barrier before the cut goes on");
    let at = |group: u8| lagging.delivered(GroupId(group));
    assert_eq!([at(0), at(1), at(2), at(3)], [(1, 2), (1, 2), (2, 2), (1, 2)]);

    // Log 1 starts after what the checkpoint covers; the rest comes in the usual way.
    let next = Cursor::read(&mut Reader::new(parts[&GroupId(1)].clone())).expect("a cursor").stream_next;
    lagging.logs[usize::from(LogId(1).0)].restart(next);
    let mut later = run(&lagging, output.ready);
    later.extend(commit_and_run(&lagging, &one[next as usize - 1..]));
    later.extend(commit_and_run(&lagging, &cross[2..]));
    later.extend(commit_and_run(&lagging, &zero[2..]));
    let mut later_replies = replies(&later);
    later_replies.sort();
    assert_eq!(later_replies, ["g0#3", "g0#4 g1#3 g2#3 g3#2", "g0#5 g2#4", "g1#4"], "nothing before the cut is executed again");
    assert_eq!(digests(&later), digests(&events), "the states are equal in the end");
}

/// A group's part of a checkpoint, of a peer that has delivered all of `logs`.
fn part() -> Bytes {
    let peer = engine();
    let [zero, one, cross] = logs();
    let mut events = commit_and_run(&peer, &cross);
    events.extend(commit_and_run(&peer, &zero));
    events.extend(commit_and_run(&peer, &one));
    let of_zero = |event: Event| match event {
        Event::Snapshot { group: GroupId(0), bytes, .. } => Some(Bytes::from(bytes)),
        _ => None,
    };
    events.into_iter().find_map(of_zero).expect("a part")
}

proptest::proptest! {
    #[test]
    fn a_damaged_part_is_restored_or_refused(cut in 0usize..300, damage in vec((0usize..300, any::<u8>()), 0..6)) {
        let mut bytes = part().to_vec();
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut);
        let engine = engine();
        if engine.restore(GroupId(0), CUT, bytes.into(), &mut Output::default()).is_ok() {
            engine.run(GroupId(0), &mut Output::default());
        }
    }
}
