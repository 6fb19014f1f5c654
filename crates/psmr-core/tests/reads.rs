//! When reads are answered: as soon as they can be, whatever else goes on. design.md section 3, reads.
#![cfg(not(feature = "shuttle"))]

mod common;

use bytes::Bytes;
use common::replica::Operation;
use common::service::Lists;
use common::world::World;
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId};
use psmr_core::entry::Entry;
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Event, Output};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use std::sync::Arc;

fn ask(world: &mut World, id: ReplicaId, group: u8, payload: &str) {
    world.ask(id, 'r', Operation::Read { group: GroupId(group), payload: payload.to_string() });
}

fn answered(world: &World, id: ReplicaId) -> usize {
    world.answers.iter().filter(|(at, c, _, _)| (*at, *c) == (id, 'r')).count()
}

/// The round gives an index that this replica has yet to commit, since its disk is slow, and the entry there is another
/// group's: the read does not wait for a tick.
#[test]
fn a_read_is_answered_as_soon_as_its_index_is_committed_here() {
    let mut world = World::new(3, 4, 2);
    world.elect();
    world.hold_disk(3);
    world.submit(1, 'a', GroupSet::one(GroupId(2)), "of-another-group");
    world.run();
    ask(&mut world, 3, 0, "list");
    world.run();
    assert_eq!(answered(&world, 3), 0, "the index is not committed at replica 3");
    world.release_disk(3);
    world.run();
    assert_eq!(answered(&world, 3), 1);
}

/// A read waits for the index of the first round that serves it, not for those of later rounds, which a group under load
/// might never catch up with.
#[test]
fn later_rounds_do_not_put_a_read_off() {
    let topology = Topology::new(1, 1);
    let engine = Engine::new(1, topology, Arc::new(Lists::new()), PlantedErrors::default());
    let (group, log) = (GroupId(0), LogId(0));
    let mut batch = ReadBatch { session: SessionId(1), round: engine.rounds[0].ticket(), ..ReadBatch::default() };
    batch.push(7, [0, 0], [1, 1], b"list");
    engine.push_reads(group, batch);
    let mut answered_at = None;
    for index in 1..=10 {
        // Each round gives an index that is one ahead of what is committed here.
        engine.rounds[0].finish(engine.rounds[0].start(), index + 1);
        let entry = Entry::decode(log, index, GroupSet::one(group), &Bytes::new()).expect("an empty entry");
        engine.logs[0].append(std::iter::once(Arc::new(entry)));
        assert_eq!(engine.notify(GroupSet::one(group)), GroupSet::one(group));
        let mut output = Output::default();
        engine.run(group, &mut output);
        output.finish();
        if output.events.iter().any(|event| matches!(event, Event::Reads { tokens, .. } if tokens == &[7])) {
            answered_at.get_or_insert(index);
        }
    }
    assert_eq!(answered_at, Some(2), "the first round gave index 2");
}

/// A second read that needs the time comes while the mark for the first is under way: it asks for its own at once.
#[test]
fn a_read_asks_for_a_time_mark_though_one_has_just_come() {
    let mut world = World::new(3, 2, 2);
    world.elect();
    (0..10).for_each(|_| world.tick());
    world.hold_group(2, GroupId(0));
    ask(&mut world, 2, 0, "time");
    world.run();
    world.execute(2, GroupId(0), false);
    world.run();
    // The mark is committed and waits for the group; the clock goes on, and another read comes.
    assert_eq!(answered(&world, 2), 0);
    world.now_ms += 10;
    ask(&mut world, 2, 0, "time");
    world.run();
    world.release_group(2, GroupId(0));
    world.run();
    assert_eq!(answered(&world, 2), 2, "no tick was needed");
}
