//! When a replica asks for a checkpoint by itself, and what of its logs it keeps then.
#![cfg(not(feature = "shuttle"))]

mod common;

use common::world::World;
use psmr_core::command::{GroupId, GroupSet, ReplicaId};
use psmr_core::entry::System;
use psmr_core::log::LogRecord;

const MEBIBYTE: usize = 1 << 20;

/// A cluster of one with so much log, all of it delivered.
fn with_log(bytes: usize) -> World {
    let mut world = World::new(1, 1, 1);
    world.elect();
    log_more(&mut world, bytes);
    world
}

fn log_more(world: &mut World, bytes: usize) {
    for at in 0..bytes.div_ceil(MEBIBYTE) {
        world.submit(1, 'a', GroupSet::one(GroupId(0)), &format!("{at}{}", "x".repeat(MEBIBYTE)));
        world.run();
    }
}

/// Ticks, and tells whether a checkpoint was asked for meanwhile.
fn asks(world: &mut World) -> bool {
    let said = world.trace.len();
    world.tick();
    world.run();
    world.trace[said..].iter().any(|line| line.contains("checkpoint of r1"))
}

#[test]
fn a_checkpoint_is_made_when_the_log_has_grown_by_32_mebibytes() {
    assert!(!asks(&mut with_log(28 * MEBIBYTE)));
    let mut world = with_log(33 * MEBIBYTE);
    assert!(asks(&mut world));
    log_more(&mut world, 28 * MEBIBYTE);
    assert!(!asks(&mut world), "counted from the last one, though the disk has all of the log");
    log_more(&mut world, 5 * MEBIBYTE);
    assert!(asks(&mut world));
}

/// A checkpoint of a large state costs much, and so is worth making only when the log is long.
#[test]
fn a_checkpoint_of_a_large_state_is_made_when_the_log_has_grown_by_a_sixteenth_of_its_bytes() {
    let mut world = with_log(33 * MEBIBYTE);
    world.replica_mut(1).order.set_state_bytes(16 * 35 * MEBIBYTE);
    assert!(!asks(&mut world));
    world.replica_mut(1).order.set_state_bytes(16 * 30 * MEBIBYTE);
    assert!(asks(&mut world));
}

/// Where a replica's first log starts in memory, and on disk.
fn starts(world: &World, id: ReplicaId) -> (u64, u64) {
    let index = |record: &LogRecord| match record {
        LogRecord::Start { log, index, .. } if log.index() == 0 => Some(*index),
        _ => None,
    };
    let replica = world.replica(id);
    let in_memory = replica.order.start_records().iter().find_map(index);
    (in_memory.unwrap_or(0), replica.disk.logs[0].start.0)
}

/// Everybody tells its peers what it has.
fn report(world: &mut World) {
    (0..20).for_each(|_| world.tick());
    world.run();
}

/// Executes `writes` commands and makes a checkpoint at replica 1; gives the entry of the first log that it covers.
fn checkpoint_after(world: &mut World, writes: usize) -> u64 {
    for at in 0..writes {
        world.submit(1, 'a', GroupSet::one(GroupId(0)), &at.to_string());
        world.run();
    }
    report(world);
    world.system(1, System::Checkpoint { replicas: 1 << 1 });
    world.run();
    report(world);
    let (_, positions, _) = world.replica(1).disk.checkpoint.as_ref().expect("a checkpoint was made");
    positions[0].0
}

/// The disk keeps what the checkpoint before needs; the memory only what a peer does not have.
#[test]
fn what_every_peer_has_leaves_memory_with_the_checkpoint_that_covers_it() {
    let mut world = World::new(3, 1, 1);
    world.elect();
    let first = checkpoint_after(&mut world, 5);
    assert_eq!(starts(&world, 1), (first, 0));
    let second = checkpoint_after(&mut world, 5);
    assert_eq!(starts(&world, 1), (second, first));

    world.cut(1, 3);
    world.cut(2, 3);
    let had = world.replica(3).order.status()[0].committed;
    let third = checkpoint_after(&mut world, 5);
    assert!(second <= had && had < third);
    assert_eq!(starts(&world, 1), (had, second), "replica 3 goes on from the log");
    world.heal(1, 3);
    world.heal(2, 3);
    report(&mut world);
    assert_eq!(world.replica(3).order.status()[0].committed, world.replica(1).order.status()[0].committed);
    assert_eq!(world.replica(3).fetch, None, "no checkpoint was wanted");

    world.cut(1, 3);
    world.cut(2, 3);
    let fourth = checkpoint_after(&mut world, 5);
    checkpoint_after(&mut world, 5);
    assert_eq!(starts(&world, 1), (fourth, fourth), "but nobody is waited for longer than until the next checkpoint");
}

#[test]
fn a_replica_that_is_short_of_memory_lets_go_of_its_log() {
    let mut world = with_log(4 * MEBIBYTE);
    assert!(!asks(&mut world));
    world.replica_mut(1).order.set_short_of_memory(true);
    assert!(asks(&mut world));
    world.replica_mut(1).order.set_short_of_memory(false);
    assert!(!asks(&mut world));
}
