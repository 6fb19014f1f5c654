//! A peer that sends garbage: frames that decode and make no sense are refused or passed over, and nothing panics.
#![cfg(not(feature = "shuttle"))]

mod common;

use bytes::Bytes;
use common::replica::Operation;
use common::world::World;
use proptest::collection::vec;
use proptest::prelude::*;
use psmr_core::command::{GroupId, GroupSet, LogId};
use psmr_core::config::{BATCH_BYTES_MAX, ENTRY_BYTES_MAX};
use psmr_core::entry::System;
use psmr_core::message::{Frame, Greeting, Place, Position, Report};
use psmr_core::order::{Actions, Standing};
use raft::eraftpb::{Entry, Message, MessageType};

const TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Numbers near those of a young log, and absurd ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..12u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..24).prop_map(Bytes::from)
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let any_entry = (number(), number(), bytes()).prop_map(|(term, index, data)| Entry { term, index, data, ..Entry::default() });
    vec(any_entry, 0..4)
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = proptest::array::uniform7(number());
    (0..TYPES.len(), numbers, any::<bool>(), entries(), any::<bool>(), bytes()).prop_map(
        |(kind, [term, log_term, index, commit, commit_term, hint, snapshot], reject, entries, in_order, context)| {
            let mut message = Message { to: 1, from: 2, term, log_term, index, commit, commit_term, ..Message::default() };
            message.set_msg_type(TYPES[kind]);
            (message.reject_hint, message.reject, message.context) = (hint, reject, context);
            message.entries = entries.into();
            if in_order {
                for (entry, place) in message.entries.iter_mut().zip(1..) {
                    (entry.index, entry.term) = (index.saturating_add(place), term);
                }
            }
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let metadata = message.mut_snapshot().mut_metadata();
                (metadata.index, metadata.term) = (snapshot, log_term);
                metadata.mut_conf_state().voters = if reject { vec![1, 2, 3] } else { vec![3, 3] };
            }
            message
        },
    )
}

/// Mostly none: a frame is refused as a whole.
fn few<T: Strategy>(of: T) -> impl Strategy<Value = Vec<T::Value>>
where
    T::Value: Clone,
{
    let none = Just(Vec::new());
    prop_oneof![5 => none, 1 => vec(of, 1..2)]
}

fn frame() -> impl Strategy<Value = Frame> {
    let report = (number(), number(), vec((number(), number()), 0..5)).prop_map(|(clock_ms, reach, positions)| Report {
        clock_ms,
        reach,
        positions: positions.into_iter().map(|(committed, delivered)| Position { committed, delivered }).collect(),
    });
    let system = prop_oneof![
        any::<u64>().prop_map(|digest| System::Genesis { digest }),
        any::<u64>().prop_map(|replicas| System::Checkpoint { replicas }),
        any::<u64>().prop_map(|request| System::Digest { request }),
    ];
    let log = || prop_oneof![20 => 0..3u8, 1 => any::<u8>()].prop_map(LogId);
    let parts = (vec((log(), message()), 0..3), few((log(), bytes())), few(system), number());
    let told = (proptest::option::of(report), proptest::option::of(greeting()));
    (parts, told).prop_map(|((messages, batches, systems, groups), (report, greeting))| Frame {
        messages,
        batches,
        systems,
        wants_time: GroupSet(groups),
        report,
        greeting,
    })
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let standing = prop_oneof![
        number().prop_map(|founder| Standing::Fresh { founder }),
        Just(Standing::Rejoining),
        vec(number(), 0..5).prop_map(|founding| Standing::Established { founding }),
    ];
    let place = (number(), any::<bool>(), number()).prop_map(|(term, leads, committed)| Place { term, leads, committed });
    (standing, any::<bool>(), any::<bool>(), vec(place, 0..5)).prop_map(|(standing, takes_part, asks, places)| Greeting {
        standing,
        takes_part,
        asks,
        places,
    })
}

/// Replica 1 leads one log, follows in two, and has something committed in each.
fn world() -> World {
    let mut world = World::new(3, 4, 2);
    world.elect();
    for (at, group) in (0..4).map(GroupId).enumerate() {
        let gamma = if at == 3 { [GroupId(0), group].into_iter().collect() } else { GroupSet::one(group) };
        world.ask(1, 'a', Operation::Ordered { gamma, read: false, payload: format!("c{at}") });
        world.run();
    }
    world
}

/// What a frame is after the wire, if it gets through.
fn through_the_wire(frame: &Frame) -> Option<Frame> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    Frame::decode(bytes.into()).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_that_make_no_sense_do_not_panic(frames in vec((frame(), any::<bool>()), 1..12), forgets in any::<bool>()) {
        let mut world = world();
        if forgets {
            world.crash(1);
            world.empty(1);
            world.restart(1);
        }
        for (frame, tick) in frames {
            let order = &mut world.replica_mut(1).order;
            if let Some(frame) = through_the_wire(&frame) {
                // Refused or not, the replica goes on with its turn.
                let _ = order.on_frame(2, frame);
            }
            if tick {
                order.tick(1_000_000);
            }
            let mut actions = Actions::default();
            if order.turn(&mut actions).is_err() {
                // What a leader replicates is trusted: an entry that does not decode ends the replica, cleanly.
                return Ok(());
            }
            if let Some(write) = actions.write {
                order.on_persisted(write.turn);
            }
        }
    }
}

#[test]
fn a_peer_can_neither_propose_nor_speak_for_the_library() {
    for kind in TYPES {
        let mut message = Message { to: 1, from: 2, term: 1, ..Message::default() };
        message.set_msg_type(kind);
        let is_own = matches!(
            kind,
            MessageType::MsgHup
                | MessageType::MsgBeat
                | MessageType::MsgPropose
                | MessageType::MsgUnreachable
                | MessageType::MsgSnapStatus
                | MessageType::MsgCheckQuorum
                | MessageType::MsgTransferLeader
        );
        message.entries =
            vec![Entry::default(); usize::from(matches!(kind, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp))].into();
        let frame = Frame { messages: vec![(LogId(0), message)], ..Frame::default() };
        assert_eq!(through_the_wire(&frame).is_none(), is_own, "{kind:?}");
    }
}

#[test]
fn another_genesis_is_refused() {
    let mut world = world();
    let frame = Frame { systems: vec![System::Genesis { digest: 0xbad }], ..Frame::default() };
    assert!(world.replica_mut(1).order.on_frame(2, frame).is_err());
}

#[test]
fn entries_and_batches_over_the_limit_are_refused() {
    for (bytes, is_refused) in [(ENTRY_BYTES_MAX, false), (ENTRY_BYTES_MAX + 1, true)] {
        let mut message = Message { to: 1, from: 2, term: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = vec![Entry { term: 1, index: 1, data: vec![0; bytes].into(), ..Entry::default() }].into();
        let frame = Frame { messages: vec![(LogId(0), message)], ..Frame::default() };
        assert_eq!(world().replica_mut(1).order.on_frame(2, frame).is_err(), is_refused, "{bytes}");
    }
    let frame = Frame { batches: vec![(LogId(0), vec![0; BATCH_BYTES_MAX + 1].into())], ..Frame::default() };
    let error = world().replica_mut(1).order.on_frame(2, frame).unwrap_err();
    assert!(error.to_string().contains("over the limit"), "{error}");
}
