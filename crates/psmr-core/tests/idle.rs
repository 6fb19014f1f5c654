//! What a cluster costs that has nothing to do: one frame per peer and heartbeat for all logs, and no tick in between.
#![cfg(not(feature = "shuttle"))]

mod common;

use common::replica::Operation;
use common::world::World;
use psmr_core::command::{GroupId, GroupSet};

const REPLICAS: [u8; 3] = [1, 2, 3];

/// Many logs with nothing outstanding, all led by their preferred replicas; the next tick is the first after a heartbeat.
fn idle() -> World {
    let mut world = World::new(3, 8, 8);
    world.elect();
    // As many as make every group's delivery known, and an even number: a heartbeat is every other tick here.
    (0..20).for_each(|_| world.tick());
    while world.replica(1).order.ticks_idle() != 2 {
        world.tick();
    }
    world
}

fn hold_everything(world: &mut World) {
    REPLICAS.iter().for_each(|a| REPLICAS.iter().for_each(|b| world.hold(*a, *b)));
}

#[test]
fn the_heartbeats_of_all_logs_ride_in_one_frame() {
    let mut world = idle();
    hold_everything(&mut world);
    (0..4).for_each(|_| world.tick());
    for from in REPLICAS {
        for to in REPLICAS.into_iter().filter(|to| *to != from) {
            let frames = world.frames(from, to);
            assert_eq!(frames.len(), 2, "two heartbeats in four ticks, r{from} to r{to}: {frames:?}");
        }
    }
}

#[test]
fn an_idle_replica_has_nothing_to_do_before_its_next_heartbeat() {
    let mut world = idle();
    REPLICAS.iter().for_each(|id| assert_eq!(world.replica(*id).order.ticks_idle(), 2));
    world.tick();
    REPLICAS.iter().for_each(|id| assert_eq!(world.replica(*id).order.ticks_idle(), 1));
}

#[test]
fn a_replica_with_something_outstanding_is_not_idle() {
    let mut world = idle();
    hold_everything(&mut world);
    world.submit(1, 'a', GroupSet::one(GroupId(0)), "c");
    world.run();
    assert_eq!(world.replica(1).order.ticks_idle(), 1, "an entry that is not committed");
}

#[test]
fn a_replica_that_misses_somebody_is_not_idle() {
    let mut world = idle();
    world.cut(1, 2);
    assert_eq!(world.replica(1).order.ticks_idle(), 1, "a peer");
    assert_eq!(world.replica(3).order.ticks_idle(), 2);

    let mut world = idle();
    world.stop(2);
    (0..6).for_each(|_| world.tick());
    assert_eq!(world.replica(1).order.ticks_idle(), 1, "heartbeats of a leader");
}

/// A state that has something to do at a time gets time marks then, on all replicas alike, and none before or after.
#[test]
fn what_is_due_is_done_by_all_replicas_without_a_command() {
    let mut world = idle();
    let group = GroupId(3);
    for after_ms in [1_000, 1_000, 1_400] {
        let item = format!("due{}", world.now_ms + after_ms);
        world.submit(1, 'a', GroupSet::one(group), &item);
    }
    world.submit(1, 'a', GroupSet::one(group), "stays");
    world.run();
    let delivered = |world: &World| REPLICAS.map(|id| world.replica(id).engine.delivered(group).0);
    let before = delivered(&world);
    (0..10).for_each(|_| world.tick());
    assert_eq!(delivered(&world), before, "nothing is due");
    (0..30).for_each(|_| world.tick());
    let after = delivered(&world);
    assert_eq!(after, before.map(|index| index + 3), "a mark for each");
    for id in REPLICAS {
        world.ask(id, 'r', Operation::Read { group, payload: "list".into() });
    }
    world.run();
    let lists: Vec<_> = world.answers.iter().filter(|(_, c, ..)| *c == 'r').map(|(.., reply)| reply.as_deref()).collect();
    assert_eq!(lists, [Some("stays"); 3]);
    (0..20).for_each(|_| world.tick());
    assert_eq!(delivered(&world), after, "the cluster is idle again");
}
