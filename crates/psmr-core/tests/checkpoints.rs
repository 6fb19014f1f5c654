//! When a replica asks for a checkpoint by itself.
#![cfg(not(feature = "shuttle"))]

mod common;

use common::world::World;
use psmr_core::command::{GroupId, GroupSet};

const MEBIBYTE: usize = 1 << 20;

/// A cluster of one with so much log, all of it delivered.
fn with_log(bytes: usize) -> World {
    let mut world = World::new(1, 1, 1);
    world.elect();
    for at in 0..bytes.div_ceil(MEBIBYTE) {
        world.submit(1, 'a', GroupSet::one(GroupId(0)), &format!("{at}{}", "x".repeat(MEBIBYTE)));
        world.run();
    }
    world
}

/// Ticks, and tells whether a checkpoint was asked for meanwhile.
fn asks(world: &mut World) -> bool {
    let said = world.trace.len();
    world.tick();
    world.run();
    world.trace[said..].iter().any(|line| line.contains("checkpoint of r1"))
}

#[test]
fn a_checkpoint_is_made_when_the_log_has_64_mebibytes() {
    assert!(!asks(&mut with_log(60 * MEBIBYTE)));
    assert!(asks(&mut with_log(65 * MEBIBYTE)));
}

/// A checkpoint of a large state costs much, and so is worth making only when the log is long.
#[test]
fn a_checkpoint_of_a_large_state_is_made_when_the_log_has_an_eighth_of_its_bytes() {
    let mut world = with_log(65 * MEBIBYTE);
    world.replica_mut(1).order.set_state_bytes(8 * 70 * MEBIBYTE);
    assert!(!asks(&mut world));
    world.replica_mut(1).order.set_state_bytes(8 * 60 * MEBIBYTE);
    assert!(asks(&mut world));
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
