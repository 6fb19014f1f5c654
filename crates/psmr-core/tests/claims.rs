//! One test per claim of design.md section 1, named for it.
#![cfg(not(feature = "shuttle"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "two claims are about real threads and time")]

mod common;

use common::entries::{commit, EntryMaker};
use common::pool::{Gate, Pool, GRACE};
use common::replica::Operation;
use common::service::{Lists, Watch};
use common::world::World;
use psmr_core::command::{GroupId, GroupSet, ReplicaId, SessionId};
use psmr_core::entry::System;
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Event, Output};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use std::collections::BTreeSet;
use std::sync::{mpsc, Arc};

fn gamma(groups: &[u8]) -> GroupSet {
    groups.iter().map(|g| GroupId(*g)).collect()
}

/// The commands (not the reads) that a replica executed in a group.
fn history(world: &World, id: ReplicaId, group: GroupId) -> Vec<String> {
    let executed = world.replica(id).executed.lock().expect("no panic");
    executed.iter().filter(|(gamma, _, read)| gamma.contains(group) && !read).map(|(_, payload, _)| payload.clone()).collect()
}

/// All commands, over single groups, groups of one stream and of several, from all replicas, on connections of their own.
fn submit_mixture(world: &mut World, count: usize) -> Vec<(GroupSet, String)> {
    let gammas = [&[0][..], &[1], &[0, 2], &[3], &[0, 1], &[2], &[1, 2, 3], &[1, 3], &[0, 1, 2, 3], &[2, 3]];
    let mut submitted = Vec::new();
    for at in 0..count {
        let id = (at % 3) as ReplicaId + 1;
        let connection = char::from(b'a' + (at / 3 % 5) as u8);
        let (gamma, payload) = (gamma(gammas[at * 7 % gammas.len()]), format!("c{at}"));
        world.submit(id, connection, gamma, &payload);
        submitted.push((gamma, payload));
        match at % 11 {
            2 => world.hold(1 + (at % 3) as u8, 1 + ((at + 1) % 3) as u8),
            5 => world.hold_group(1 + (at % 3) as u8, GroupId((at % 4) as u8)),
            8 => release_everything(world),
            0 | 4 | 7 => world.run(),
            _ => {}
        }
    }
    release_everything(world);
    world.run();
    submitted
}

fn release_everything(world: &mut World) {
    for a in 1..=3 {
        (1..=3).for_each(|b| world.release(a, b));
        (0..4).for_each(|g| world.release_group(a, GroupId(g)));
    }
}

/// Section 1: replicas agree on the order of dependent commands.
#[test]
fn replicas_agree_on_the_order_of_dependent_commands() {
    let mut world = World::new(3, 4, 2);
    world.elect();
    let submitted = submit_mixture(&mut world, 120);
    (0..40).for_each(|_| world.tick());
    let mut orders = BTreeSet::new();
    for group in world.topology.all().iter() {
        let first = history(&world, 1, group);
        let expected: BTreeSet<String> =
            submitted.iter().filter(|(gamma, _)| gamma.contains(group)).map(|(_, payload)| payload.clone()).collect();
        assert_eq!(first.iter().cloned().collect::<BTreeSet<_>>(), expected, "{group:?} executed what was multicast to it");
        assert_eq!(first.len(), expected.len(), "{group:?} executed each once");
        assert_eq!((&first, &first), (&history(&world, 2, group), &history(&world, 3, group)), "{group:?}");
        orders.insert(first);
    }
    assert_eq!(orders.len(), 4, "the groups' orders are their own");
    assert_eq!(world.answers.len(), submitted.len());
}

/// Section 1: dependent commands share a group, and two groups that both execute two commands have them in the same order: the
/// union of the groups' orders has no cycle.
#[test]
fn the_orders_of_the_groups_fit_together() {
    let mut world = World::new(3, 4, 2);
    world.elect();
    submit_mixture(&mut world, 90);
    (0..40).for_each(|_| world.tick());
    let mut rest: Vec<Vec<String>> = world.topology.all().iter().map(|g| history(&world, 1, g)).collect();
    // Takes away, again and again, a command that is first wherever it still is.
    while rest.iter().any(|order| !order.is_empty()) {
        let is_free = |c: &String| rest.iter().all(|order| order.first() == Some(c) || !order.contains(c));
        let free = rest.iter().filter_map(|order| order.first()).find(|c| is_free(c)).cloned();
        let free = free.unwrap_or_else(|| panic!("a cycle: {rest:?}"));
        rest.iter_mut().for_each(|order| order.retain(|c| *c != free));
    }
}

/// Section 1: independent commands of different groups overlap in time. Each of two commands waits, while it executes, for the
/// other to start.
#[test]
fn independent_commands_of_different_groups_overlap_in_time() {
    let gate = Arc::new(Gate::default());
    let watch: Watch = {
        let gate = gate.clone();
        Arc::new(move |_, payload, _| {
            if let Some((own, other)) = payload.split_once(" waits for ") {
                gate.open(own);
                assert!(gate.wait(other), "{own} was alone");
            }
        })
    };
    let mut pool = Pool::start(4, 2, 2, watch);
    pool.submit(gamma(&[0]), "a waits for b");
    pool.submit(gamma(&[1]), "b waits for a");
    pool.answer("a waits for b");
    pool.answer("b waits for a");
    // Two groups of one stream overlap too: order and execution are set separately.
    pool.submit(gamma(&[0]), "c waits for d");
    pool.submit(gamma(&[2]), "d waits for c");
    pool.answer("c waits for d");
    pool.answer("d waits for c");
    pool.stop();
}

/// A service of which commands named `hold...` announce themselves, and wait until the gate opens for `go...`.
fn holding(gate: &Arc<Gate>) -> Watch {
    let gate = gate.clone();
    Arc::new(move |_, payload, _| {
        if let Some(name) = payload.strip_prefix("hold") {
            gate.open(payload);
            assert!(gate.wait(&format!("go{name}")), "{payload} was not let go");
        }
    })
}

/// Section 1: a command stops only the groups in γ. While a command over groups 1 and 2 waits at its barrier for group 2, and
/// while it executes, commands and reads of group 3 (and 0) complete.
#[test]
fn a_command_stops_only_the_groups_in_gamma() {
    let gate = Arc::new(Gate::default());
    let mut pool = Pool::start(4, 4, 2, holding(&gate));
    pool.submit(gamma(&[2]), "hold-2");
    assert!(gate.wait("hold-2"));
    pool.submit(gamma(&[1, 2]), "hold-both");
    pool.submit(gamma(&[1]), "behind");
    pool.submit(gamma(&[3]), "three");
    pool.read(GroupId(3), "read-3");
    assert_eq!((pool.answer("three"), pool.answer("read-3")), ("g3#1".into(), "three".into()));
    assert!(pool.engine.is_parked(GroupId(1)), "group 1 waits at the barrier");
    assert_eq!(pool.answer_within("behind", GRACE), None, "what is behind the barrier waits");

    gate.open("go-2");
    assert!(gate.wait("hold-both"), "the barrier is executed");
    pool.submit(gamma(&[3]), "three-again");
    pool.submit(gamma(&[0]), "zero");
    pool.submit(gamma(&[0, 3]), "others");
    assert_eq!(pool.answer("three-again"), "g3#2");
    assert_eq!(pool.answer("zero"), "g0#1");
    assert_eq!(pool.answer("others"), "g0#2 g3#3", "a barrier of other groups neither");
    assert_eq!(pool.answer_within("behind", GRACE), None);

    gate.open("go-both");
    assert_eq!(pool.answer("hold-both"), "g1#1 g2#2");
    assert_eq!(pool.answer("behind"), "g1#2");
    pool.stop();
}

/// Section 1: no thread, queue or lock is touched by commands of two groups with |γ| = 1. With S = k, a thread is stuck in
/// group 0, holding whatever it holds while it executes; another thread goes all the way for group 1, from the committed entry
/// to the replies, and through a read.
#[test]
fn no_thread_queue_or_lock_is_touched_by_commands_of_two_groups() {
    let gate = Arc::new(Gate::default());
    let topology = Topology::new(2, 2);
    let engine = Arc::new(Engine::new(1, topology, Arc::new(Lists::watched(holding(&gate))), PlantedErrors::default()));
    let mut maker = EntryMaker::new(engine.topology.clone());
    let ready = commit(&engine, maker.entry(0, 0, &[(&[0], "hold-0")]));
    assert_eq!(ready, gamma(&[0]), "an entry of group 0 concerns group 0");
    let stuck = {
        let engine = engine.clone();
        std::thread::spawn(move || engine.run(GroupId(0), &mut Output::default()))
    };
    assert!(gate.wait("hold-0"));

    let (done, is_done) = mpsc::channel();
    let other = {
        let engine = engine.clone();
        std::thread::spawn(move || {
            let replies = go_all_the_way(&engine, 1);
            done.send(replies).expect("the test waits");
        })
    };
    let replies = is_done.recv_timeout(common::pool::LIMIT).expect("group 1 does not wait for anything that group 0 holds");
    assert_eq!(replies, ["g1#1", "g1#2", "read: one two"]);
    assert_eq!(engine.delivered(GroupId(0)), (0, 0), "group 0 is still stuck");
    gate.open("go-0");
    stuck.join().expect("no panic");
    other.join().expect("no panic");
    assert_eq!(engine.delivered(GroupId(0)), (1, 0));
}

/// Commands, a read round and a read of one group, from the log to the replies.
fn go_all_the_way(engine: &Engine, group: u8) -> Vec<String> {
    let id = GroupId(group);
    let mut maker = EntryMaker::new(engine.topology.clone());
    let ready = commit(engine, maker.entry(group, 0, &[(&[group], "one"), (&[group], "two")]));
    assert_eq!(ready, GroupSet::one(id));
    let mut output = Output::default();
    engine.run(id, &mut output);
    let rounds = &engine.rounds[usize::from(group)];
    let mut batch = ReadBatch { session: SessionId(1), round: rounds.ticket(), ..ReadBatch::default() };
    batch.push(9, [2, 0], [3, 1], b"read");
    engine.push_reads(id, batch);
    rounds.finish(rounds.start(), 1);
    assert_eq!(engine.notify_readers(engine.topology.stream_of(id)), GroupSet::one(id));
    engine.run(id, &mut output);
    output.finish();
    let mut texts = Vec::new();
    for event in &output.events {
        match event {
            Event::Replies { replies, .. } => texts.extend(replies.iter().map(|r| String::from_utf8_lossy(r).into_owned())),
            Event::Reads { replies, .. } => texts.extend(replies.iter().map(|r| format!("read: {}", String::from_utf8_lossy(r)))),
            other => panic!("nothing else happens: {other:?}"),
        }
    }
    assert_eq!(engine.delivered_by_all(engine.topology.stream_of(id)), 1);
    texts
}

fn read(world: &mut World, id: ReplicaId, group: u8) -> Option<String> {
    let before = world.answers.len();
    world.ask(id, 'r', Operation::Read { group: GroupId(group), payload: "list".to_string() });
    world.run();
    let mut new = world.answers[before..].iter().filter(|(at, c, _, _)| (*at, *c) == (id, 'r'));
    new.next().and_then(|(_, _, _, reply)| reply.clone())
}

/// Section 1: clients see linearizability: what was answered is seen by whoever asks afterwards, wherever.
#[test]
fn clients_see_linearizability() {
    let mut world = World::new(3, 4, 2);
    world.elect();
    let mut expected = Vec::new();
    for at in 0..12u8 {
        let (writer, payload) = (at % 3 + 1, format!("w{at}"));
        world.submit(writer, 'a', if at % 4 == 3 { gamma(&[0, 1]) } else { gamma(&[0]) }, &payload);
        world.run();
        expected.push(payload);
        for reader in 1..=3 {
            assert_eq!(read(&mut world, reader, 0), Some(expected.join(" ")), "at replica {reader}");
        }
    }
}

/// Section 1, linearizability: a leader that is stopped, and resumed after its successor acknowledged a write, never answers old.
#[test]
fn a_resumed_leader_never_answers_old() {
    let mut world = World::new(3, 2, 2);
    world.elect();
    world.submit(1, 'a', gamma(&[0]), "old");
    world.run();
    assert_eq!(world.leaders()[0], 1);
    world.stop(1);
    (0..40).for_each(|_| world.tick());
    let successor = world.leaders()[0];
    assert_ne!(successor, 1, "the others have another leader");
    world.submit(2, 'a', gamma(&[0]), "new");
    world.run();
    assert!(world.answers.iter().any(|(_, _, payload, reply)| payload == "new" && reply.is_some()), "the write is acknowledged");

    // It goes on before anything from the others has reached it: it still takes itself for the leader.
    (2..=3).for_each(|other| world.hold(other, 1));
    world.resume(1);
    assert_eq!(world.replica(1).order.status()[0].role, "leader");
    assert_eq!(read(&mut world, 1, 0), None, "no majority confirms that it leads");
    (2..=3).for_each(|other| world.release(other, 1));
    (0..20).for_each(|_| world.tick());
    let answer = world.answers.iter().find(|(at, c, _, _)| (*at, *c) == (1, 'r')).and_then(|(_, _, _, reply)| reply.clone());
    assert_eq!(answer, Some("old new".to_string()));
}

/// Section 1: a command executes once, whatever is sent again, and whoever fails.
#[test]
fn a_command_executes_once() {
    let mut world = World::new(3, 4, 2);
    world.elect();
    let mut submitted = 0;
    for round in 0..24u8 {
        for (at, groups) in [&[0][..], &[1], &[0, 1], &[1, 3]].iter().enumerate() {
            world.submit(round % 3 + 1, char::from(b'a' + at as u8), gamma(groups), &format!("r{round}-{at}"));
            submitted += 1;
        }
        for id in 1..=3 {
            (0..3).for_each(|log| world.replica_mut(id).proxy.on_leader_change(psmr_core::command::LogId(log)));
            world.flush(id);
            world.turn(id);
        }
        match round % 6 {
            1 => world.run(),
            // What is under way is lost.
            2 => world.cut(1, 2),
            3 => world.heal(1, 2),
            4 => (0..12).for_each(|_| world.tick()),
            _ => {}
        }
    }
    // A replica that leads some logs fails, and comes back; its own clients' commands are not looked at any more.
    world.crash(3);
    (0..30).for_each(|_| world.tick());
    world.restart(3);
    (0..60).for_each(|_| world.tick());
    for group in world.topology.all().iter() {
        let order = history(&world, 1, group);
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len(), "{group:?} executed something twice: {order:?}");
        assert_eq!(order, history(&world, 2, group));
    }
    let answered = world.answers.iter().filter(|(_, _, _, reply)| reply.is_some()).count();
    assert!(answered >= submitted * 2 / 3, "{answered} of {submitted} were answered");
    for (_, _, payload, _) in world.answers.iter().filter(|(_, _, _, reply)| reply.is_some()) {
        let times = world.topology.all().iter().filter(|g| history(&world, 1, *g).contains(payload)).count();
        assert!(times > 0, "{payload} was acknowledged and has not been executed");
    }
}

/// Section 1: execution is deterministic: replicas whose workers take the groups in different orders, of which one
/// answers and is asked for reads, have equal states, with time and random numbers in them.
#[test]
fn execution_is_deterministic() {
    let mut world = World::new(3, 4, 2);
    world.elect();
    world.set_clock_offset(2, 400);
    world.set_clock_offset(3, -3_000);
    for at in 0..30u8 {
        let id = at % 3 + 1;
        world.hold_group(1 + at % 2, GroupId(at % 4));
        for payload in ["random", "now", "random"] {
            world.submit(id, 'a', gamma(&[at % 4]), payload);
            // Splits the slice where it is answered, and nowhere else.
            world.ask(id, 'a', Operation::Read { group: GroupId(at % 4), payload: "list".to_string() });
            world.ask(id, 'a', Operation::Ordered { gamma: gamma(&[at % 4]), read: true, payload: "list".to_string() });
        }
        world.submit(id, 'b', gamma(&[at % 4, (at + 1) % 4]), "random");
        world.submit(id, 'c', gamma(&[at % 4, (at + 2) % 4]), "now");
        if at % 3 == 0 {
            release_everything(&mut world);
            world.tick();
        }
    }
    release_everything(&mut world);
    (0..40).for_each(|_| world.tick());
    world.system(1, System::Digest { request: 1 });
    world.run();
    for id in 2..=3 {
        assert_eq!(world.replica(1).digests, world.replica(id).digests, "replica {id}");
    }
    assert_eq!(world.replica(1).digests.len(), 4);
    let list = read(&mut world, 1, 0).expect("an answer");
    let random: BTreeSet<&str> = list.split(' ').filter(|item| item.starts_with("random")).collect();
    let drawn = list.split(' ').filter(|item| item.starts_with("random")).count();
    assert_eq!(random.len(), drawn, "random numbers differ: {list}");
}

/// Section 1: a minority of replicas may stop; a majority may not, and then nothing is acknowledged.
#[test]
fn a_minority_of_replicas_may_stop() {
    let mut world = World::new(5, 4, 3);
    world.elect();
    world.submit(4, 'a', gamma(&[0, 1]), "all");
    world.run();
    world.crash(1);
    world.crash(2);
    (0..40).for_each(|_| world.tick());
    for group in 0..4 {
        world.submit(4, 'a', gamma(&[group]), &format!("minority-{group}"));
    }
    world.submit(5, 'a', gamma(&[0, 1, 2, 3]), "minority-all");
    (0..4).for_each(|_| world.tick());
    assert_eq!(world.answers.len(), 6, "{:?}", world.answers);

    world.stop(3);
    (0..40).for_each(|_| world.tick());
    world.submit(4, 'b', gamma(&[0]), "majority");
    (0..40).for_each(|_| world.tick());
    assert_eq!(world.answers.len(), 6, "two of five acknowledge nothing");

    world.restart(1);
    (0..60).for_each(|_| world.tick());
    assert_eq!(world.answers.last().map(|(_, _, payload, reply)| (payload.as_str(), reply.is_some())), Some(("majority", true)));
    world.restart(2);
    world.resume(3);
    (0..60).for_each(|_| world.tick());
    for group in world.topology.all().iter() {
        for id in 2..=5 {
            assert_eq!(history(&world, id, group), history(&world, 1, group), "{group:?} of replica {id}");
        }
    }
}
