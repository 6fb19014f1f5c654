//! Replicas that come back without their memory. `order/membership.rs` has the rules, and the reasons.
#![cfg(not(feature = "shuttle"))]

mod common;

use common::replica::Operation;
use common::world::World;
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId};
use psmr_core::message::Frame;
use psmr_core::order::Standing;
use raft::eraftpb::{Message, MessageType};

fn founded(replicas: u8) -> World {
    let mut world = World::new(replicas, 4, 2);
    world.elect();
    world.submit(1, 'a', GroupSet::one(GroupId(0)), "early");
    world.run();
    world
}

fn is_established(world: &World, id: ReplicaId) -> bool {
    matches!(world.replica(id).identity.standing, Standing::Established { .. })
}

fn tick(world: &mut World, count: usize) {
    (0..count).for_each(|_| world.tick());
}

/// What a replica answers to a read of group 0.
fn list(world: &mut World, id: ReplicaId) -> Option<String> {
    world.ask(id, 'r', Operation::Read { group: GroupId(0), payload: "list".into() });
    tick(world, 60);
    world.answers.iter().rev().find(|(at, c, _, _)| (*at, *c) == (id, 'r')).and_then(|(_, _, _, reply)| reply.clone())
}

#[test]
fn two_that_do_not_know_of_a_write_do_not_go_on_without_the_one_that_does() {
    let mut world = founded(3);
    world.crash(2);
    world.submit(1, 'a', GroupSet::one(GroupId(0)), "lost");
    world.run();
    world.crash(1);
    world.crash(3);
    world.empty(3);
    world.restart(2);
    world.restart(3);
    tick(&mut world, 200);
    assert_eq!(world.replica(3).identity.standing, Standing::Rejoining);
    assert!([2, 3].iter().all(|id| world.replica(*id).order.status().iter().all(|log| log.role != "leader")));
    world.restart(1);
    tick(&mut world, 200);
    assert!(is_established(&world, 3));
    for id in 1..=3 {
        assert_eq!(list(&mut world, id).as_deref(), Some("early lost"), "replica {id}");
    }
}

#[test]
fn leaders_that_go_on_repair_a_replica_with_an_empty_disk() {
    let mut world = founded(3);
    world.crash(3);
    world.empty(3);
    world.restart(3);
    tick(&mut world, 60);
    assert!(is_established(&world, 3));
    assert_eq!(list(&mut world, 3).as_deref(), Some("early"));
    // It counts again.
    world.crash(1);
    tick(&mut world, 60);
    world.submit(2, 'a', GroupSet::one(GroupId(0)), "late");
    tick(&mut world, 60);
    assert_eq!(list(&mut world, 3).as_deref(), Some("early late"));
}

#[test]
fn what_an_incarnation_acknowledged_is_not_counted_for_the_next_one() {
    let mut world = founded(5);
    let stream = world.topology.stream_of(GroupId(0)).index();
    let leader = world.leaders()[stream];
    let others: Vec<ReplicaId> = (1..=5).filter(|id| *id != leader).collect();
    let (forgetful, slow) = (others[0], &others[1..]);
    let committed = |world: &World| world.replica(leader).order.status()[stream].committed;
    slow.iter().for_each(|id| world.cut(leader, *id));
    let before = committed(&world);
    world.submit(leader, 'a', GroupSet::one(GroupId(0)), "half");
    world.run();
    world.crash(forgetful);
    world.empty(forgetful);
    world.restart(forgetful);
    slow.iter().for_each(|id| world.cut(forgetful, *id));
    // Three of five have acknowledged it by now, if one counts who does not have it any more.
    world.heal(leader, slow[0]);
    world.run();
    assert_eq!(committed(&world), before);
    slow.iter().for_each(|id| world.heal(forgetful, *id));
    slow[1..].iter().for_each(|id| world.heal(leader, *id));
    tick(&mut world, 200);
    assert!(committed(&world) > before && is_established(&world, forgetful));
    let lists: Vec<_> = (1..=5).map(|id| list(&mut world, id)).collect();
    assert!(lists[0].is_some() && lists.iter().all(|list| *list == lists[0]), "{lists:?}");
}

/// Being a member means to vote, and so to have on disk what a former incarnation may have helped to commit: to know that it is
/// committed is not enough. Writes become durable one at a time here, as late as they may.
#[test]
fn who_rejoins_is_a_member_only_when_what_was_committed_is_on_its_disk() {
    let mut world = founded(3);
    for name in ["two", "three", "four"] {
        world.submit(1, 'a', GroupSet::one(GroupId(0)), name);
        world.run();
    }
    let committed: Vec<u64> = world.replica(1).order.status().iter().map(|log| log.committed).collect();
    world.crash(3);
    world.empty(3);
    world.hold_disk(3);
    world.restart(3);
    let mut writes = 0;
    while !is_established(&world, 3) {
        tick(&mut world, 4);
        writes += usize::from(world.replica_mut(3).complete_write());
        assert!(writes < 200, "it becomes a member");
    }
    let on_disk = |log: usize| world.replica(3).disk.logs.get(log).map_or(0, |log| log.start.0 + log.entries.len() as u64);
    for (log, committed) in committed.into_iter().enumerate() {
        assert!(on_disk(log) >= committed, "log {log}: {committed} were committed, {} are on disk", on_disk(log));
    }
}

#[test]
fn a_heartbeat_that_commits_what_a_former_incarnation_had_is_passed_over() {
    let mut world = founded(3);
    world.crash(3);
    world.empty(3);
    world.hold_disk(3);
    world.restart(3);
    tick(&mut world, 10);
    let status = world.replica(3).order.status()[0].clone();
    assert!(status.leader != 0 && !is_established(&world, 3), "it takes part, and nothing of it is durable yet");
    let mut message = Message { from: u64::from(status.leader), to: 3, term: status.term, commit: 119, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    let frame = Frame { messages: vec![(LogId(0), message)], ..Frame::default() };
    world.replica_mut(3).order.on_frame(status.leader, frame).expect("accepted");
    world.release_disk(3);
    tick(&mut world, 60);
    assert!(is_established(&world, 3));
    assert_eq!(list(&mut world, 3).as_deref(), Some("early"));
}
