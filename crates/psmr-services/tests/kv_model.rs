//! The key-value service against a model, and its claims one by one: time, γ, snapshots, expiry, scans.

mod common;

use common::{request, slice, Connection, Engine};
use proptest::prelude::*;
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::routing::Topology;
use psmr_core::service::{Context, Partition, ReadContext, ReadOutcome, Replies, Slice};
use psmr_services::kv::command::{Aspect, Encoder, ExpireIf, Expiry, SetIf};
use psmr_services::kv::fields::{Field, FieldAction, FieldStep, Overflow};
use psmr_services::kv::reply::{split_reply, KvError, Reply, WriteReply};
use psmr_services::kv::subsequence::Wanted;
use psmr_services::kv::transaction::push_step;
use psmr_services::kv::{Cursor, KvPartition};
use psmr_services::resp::Limits;
use std::collections::{BTreeMap, BTreeSet};

fn encoded(write: impl FnOnce(Encoder<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(Encoder(&mut bytes));
    bytes
}

fn set(key: &[u8], value: &[u8], expiry: Expiry) -> Vec<u8> {
    encoded(|e| e.set(key, value, expiry, SetIf::Always, false))
}

/// Sets a bit by way of a field.
fn set_field(key: &[u8]) -> Vec<u8> {
    let field = Field { is_signed: false, bits: 1, offset: 9 };
    encoded(|e| e.bit_fields(key, &[FieldStep { field, action: FieldAction::Set(1), overflow: Overflow::Wrap }]))
}

fn only(reply: &[u8]) -> Reply<'_> {
    let (reply, rest) = split_reply(reply).expect("a reply");
    assert!(rest.is_empty());
    reply
}

/// A group alone, for which every key is right.
struct Group {
    partition: KvPartition,
    context: Context,
}

impl Group {
    fn new() -> Group {
        let context = Context { now_ms: 1000, log: psmr_core::command::LogId(0), index: 1, session: None };
        Group { partition: KvPartition::new(GroupId(0), Topology::new(1, 1)), context }
    }

    fn execute(&mut self, payload: Vec<u8>) -> Vec<u8> {
        let mut replies = Replies::default();
        self.partition.execute(Slice::new(&slice(&[payload]), true), &self.context, &mut replies);
        replies.bytes
    }

    fn read(&self, payload: &[u8], wall_ms: u64, time_is_settled: bool) -> (ReadOutcome, Vec<u8>) {
        let mut reply = Vec::new();
        let context = ReadContext { now_ms: self.context.now_ms, wall_ms, time_is_settled };
        (self.partition.read(payload, &context, &mut reply), reply)
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.partition.snapshot(&mut bytes).unwrap();
        bytes
    }
}

/// What the service should be, written for clarity.
#[derive(Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, Vec<u8>, Option<u64>),
    SetIf(usize, bool),
    Keep(usize, Vec<u8>),
    Get(usize),
    Delete(Vec<usize>),
    SetMany(Vec<(usize, u8)>),
    GetMany(Vec<usize>),
    Exists(Vec<usize>),
    Increment(usize, i64),
    Append(usize, Vec<u8>),
    Expire(usize, i64),
    TimeToLive(usize),
    Persist(usize),
    Size,
    Clear,
    Wait(u64),
}

fn step() -> BoxedStrategy<Step> {
    let key = || 0..12usize;
    let keys = || prop::collection::vec(0..12usize, 1..6);
    let bytes = || prop::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        6 => (key(), bytes(), prop::option::of(1..60u64)).prop_map(|(k, v, e)| Step::Set(k, v, e)),
        2 => (key(), any::<bool>()).prop_map(|(k, present)| Step::SetIf(k, present)),
        2 => (key(), bytes()).prop_map(|(k, v)| Step::Keep(k, v)),
        4 => key().prop_map(Step::Get),
        2 => keys().prop_map(Step::Delete),
        2 => prop::collection::vec((key(), any::<u8>()), 1..6).prop_map(Step::SetMany),
        2 => keys().prop_map(Step::GetMany),
        2 => keys().prop_map(Step::Exists),
        3 => (key(), prop_oneof![-3..3i64, Just(i64::MAX), Just(i64::MIN)]).prop_map(|(k, d)| Step::Increment(k, d)),
        2 => (key(), bytes()).prop_map(|(k, v)| Step::Append(k, v)),
        3 => (key(), -5..60i64).prop_map(|(k, t)| Step::Expire(k, t)),
        3 => key().prop_map(Step::TimeToLive),
        2 => key().prop_map(Step::Persist),
        2 => Just(Step::Size),
        1 => Just(Step::Clear),
        5 => (0..30u64).prop_map(Step::Wait),
    ]
    .boxed()
}

fn key_of(number: usize) -> Vec<u8> {
    match number % 3 {
        0 => format!("{{tag}}{number}"),
        1 => format!("key {number}"),
        _ => format!("a key that is longer than what is held in place {number}"),
    }
    .into_bytes()
}

impl Model {
    fn expire(&mut self, now_ms: u64) {
        self.entries.retain(|_, (_, expires_ms)| expires_ms.is_none_or(|ms| ms > now_ms));
    }

    fn value(&self, number: usize) -> Option<&Vec<u8>> {
        self.entries.get(&key_of(number)).map(|(value, _)| value)
    }

    /// The command for a step, and its reply.
    fn step(&mut self, step: &Step, now_ms: u64) -> (Vec<u8>, Vec<u8>) {
        let mut reply = Vec::new();
        let string = |reply: &mut Vec<u8>, value: Option<&Vec<u8>>| match value {
            Some(value) => reply.string(value),
            None => reply.null(),
        };
        let payload = match step {
            Step::Set(k, value, after) => {
                self.entries.insert(key_of(*k), (value.clone(), after.map(|ms| now_ms + ms)));
                reply.done();
                set(&key_of(*k), value, after.map_or(Expiry::Never, |ms| Expiry::AfterMs(ms as i64)))
            }
            Step::SetIf(k, present) => {
                string(&mut reply, self.value(*k));
                if self.value(*k).is_some() == *present {
                    self.entries.insert(key_of(*k), (b"7".to_vec(), None));
                }
                let condition = if *present { SetIf::Present } else { SetIf::Absent };
                encoded(|e| e.set(&key_of(*k), b"7", Expiry::Never, condition, true))
            }
            Step::Keep(k, value) => {
                let expires_ms = self.entries.get(&key_of(*k)).and_then(|(_, expires_ms)| *expires_ms);
                self.entries.insert(key_of(*k), (value.clone(), expires_ms));
                reply.done();
                set(&key_of(*k), value, Expiry::Keep)
            }
            Step::Get(k) => {
                string(&mut reply, self.value(*k));
                encoded(|e| e.get(&key_of(*k)))
            }
            Step::Delete(ks) => {
                reply.integer(ks.iter().filter(|k| self.entries.remove(&key_of(**k)).is_some()).count() as i64);
                let keys: Vec<_> = ks.iter().map(|k| key_of(*k)).collect();
                encoded(|e| e.delete(keys.len(), keys.iter().map(Vec::as_slice)))
            }
            Step::SetMany(pairs) => {
                let strings: Vec<_> = pairs.iter().flat_map(|(k, v)| [key_of(*k), vec![*v]]).collect();
                for (k, v) in pairs {
                    self.entries.insert(key_of(*k), (vec![*v], None));
                }
                reply.done();
                encoded(|e| e.set_many(strings.len(), strings.iter().map(Vec::as_slice)))
            }
            Step::GetMany(ks) => {
                reply.list(ks.len());
                ks.iter().for_each(|k| string(&mut reply, self.value(*k)));
                let keys: Vec<_> = ks.iter().map(|k| key_of(*k)).collect();
                encoded(|e| e.get_many(keys.len(), keys.iter().map(Vec::as_slice)))
            }
            Step::Exists(ks) => {
                reply.integer(ks.iter().filter(|k| self.value(**k).is_some()).count() as i64);
                let keys: Vec<_> = ks.iter().map(|k| key_of(*k)).collect();
                encoded(|e| e.exists(keys.len(), keys.iter().map(Vec::as_slice)))
            }
            Step::Increment(k, delta) => {
                let entry = self.entries.get_mut(&key_of(*k));
                let text = entry.as_ref().map_or("0".to_owned(), |(value, _)| String::from_utf8_lossy(value).into_owned());
                match text.parse::<i64>().ok().filter(|number| number.to_string() == text).map(|n| n.checked_add(*delta)) {
                    None => reply.error(KvError::NotAnInteger),
                    Some(None) => reply.error(KvError::Overflow),
                    Some(Some(sum)) => {
                        reply.integer(sum);
                        let sum = sum.to_string().into_bytes();
                        match entry {
                            Some((value, _)) => *value = sum,
                            None => drop(self.entries.insert(key_of(*k), (sum, None))),
                        }
                    }
                }
                encoded(|e| e.increment(&key_of(*k), *delta))
            }
            Step::Append(k, suffix) => {
                let (value, _) = self.entries.entry(key_of(*k)).or_default();
                value.extend_from_slice(suffix);
                reply.integer(value.len() as i64);
                encoded(|e| e.append(&key_of(*k), suffix))
            }
            Step::Expire(k, after) => {
                let is_there = self.value(*k).is_some();
                let expires_ms = now_ms as i64 + after;
                if let Some((_, expiry)) = self.entries.get_mut(&key_of(*k)) {
                    *expiry = Some(expires_ms as u64);
                }
                reply.integer(i64::from(is_there));
                encoded(|e| e.expire(&key_of(*k), Expiry::AfterMs(*after), ExpireIf::default()))
            }
            Step::TimeToLive(k) => {
                let ttl = self.entries.get(&key_of(*k)).map(|(_, e)| e.map_or(-1, |e| (e - now_ms) as i64));
                reply.integer(ttl.unwrap_or(-2));
                encoded(|e| e.time_to_live(&key_of(*k)))
            }
            Step::Persist(k) => {
                let before = self.entries.get_mut(&key_of(*k)).and_then(|(_, expires_ms)| expires_ms.take());
                reply.integer(i64::from(before.is_some()));
                encoded(|e| e.persist(&key_of(*k)))
            }
            Step::Size => {
                reply.integer(self.entries.len() as i64);
                encoded(|e| e.size())
            }
            Step::Clear => {
                self.entries.clear();
                reply.done();
                encoded(|e| e.clear())
            }
            Step::Wait(_) => Vec::new(),
        };
        (payload, reply)
    }
}

/// γ of a step, as a client proxy would compute it.
fn gamma_of(step: &Step, topology: &Topology) -> GroupSet {
    let of = |ks: &[usize]| ks.iter().map(|k| topology.group_of(&key_of(*k))).collect();
    match step {
        Step::Delete(ks) | Step::GetMany(ks) | Step::Exists(ks) => of(ks),
        Step::SetMany(pairs) => of(&pairs.iter().map(|(k, _)| *k).collect::<Vec<_>>()),
        Step::Set(k, ..) | Step::SetIf(k, _) | Step::Keep(k, _) | Step::Get(k) | Step::Increment(k, _) => of(&[*k]),
        Step::Append(k, _) | Step::Expire(k, _) | Step::TimeToLive(k) | Step::Persist(k) => of(&[*k]),
        Step::Size | Step::Clear | Step::Wait(_) => topology.all(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_do_what_the_model_does(steps in prop::collection::vec(step(), 1..120), groups in prop::sample::select(vec![1usize, 2, 16])) {
        let (mut engine, mut model) = (Engine::new(groups), Model::default());
        engine.now_ms = 1000;
        for step in &steps {
            if let Step::Wait(ms) = step {
                engine.now_ms += ms;
            } else {
                model.expire(engine.now_ms);
                let (payload, expected) = model.step(step, engine.now_ms);
                model.expire(engine.now_ms);
                let mut reply = Vec::new();
                let is_read = matches!(step, Step::Get(_) | Step::GetMany(_) | Step::Exists(_) | Step::TimeToLive(_) | Step::Size);
                engine.ordered(gamma_of(step, &engine.topology), is_read, &payload, &mut reply);
                prop_assert_eq!(reply, expected, "{:?}", step);
            }
        }
        // What is there at last, by a way of its own.
        model.expire(engine.now_ms);
        for (key, (value, _)) in &model.entries {
            let mut reply = Vec::new();
            engine.wall_ms = engine.now_ms;
            engine.read(engine.topology.group_of(key), &encoded(|e| e.get(key)), &mut reply);
            prop_assert_eq!(only(&reply), Reply::String(value));
        }
    }

    #[test]
    fn snapshots_restore_the_state_and_depend_on_nothing_else(steps in prop::collection::vec(step(), 1..80), other in prop::collection::vec(step(), 1..40)) {
        let run = |engine: &mut Engine, steps: &[Step]| {
            for step in steps.iter().filter(|step| !matches!(step, Step::Wait(_))) {
                let payload = Model::default().step(step, engine.now_ms).0;
                engine.ordered(gamma_of(step, &engine.topology), false, &payload, &mut Vec::new());
            }
        };
        let mut one = Engine::new(4);
        run(&mut one, &steps);
        let snapshots = one.snapshots();
        // Restoring over any state gives the state.
        let mut two = Engine::new(4);
        run(&mut two, &other);
        for (partition, snapshot) in two.partitions.iter_mut().zip(&snapshots) {
            prop_assert_eq!(partition.restore(snapshot), Ok(()));
        }
        prop_assert_eq!(two.snapshots(), snapshots);
        // And it goes on in the same way.
        run(&mut one, &other);
        run(&mut two, &other);
        prop_assert_eq!(one.snapshots(), two.snapshots());
    }

    #[test]
    fn broken_snapshots_are_refused_or_read_but_never_panic(cut in 0..400usize, at in 0..400usize, value: u8) {
        let mut group = Group::new();
        (0..8).for_each(|k| drop(group.execute(set(&key_of(k), b"value", if k % 2 == 0 { Expiry::Never } else { Expiry::AfterMs(9) }))));
        let whole = group.snapshot();
        let mut bytes = whole.clone();
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(cut.min(bytes.len()));
        let mut other = Group::new();
        let restored = other.partition.restore(&bytes);
        prop_assert!(restored.is_err() || bytes.len() == whole.len(), "a part was taken for the whole");
    }

    #[test]
    fn any_bytes_get_one_reply(payload in prop::collection::vec(any::<u8>(), 0..40), code in 0..17u8, read: bool) {
        let payload = [vec![code], payload].concat();
        let mut engine = Engine::new(16);
        for gamma in [GroupSet::one(GroupId(3)), engine.topology.all()] {
            let mut reply = Vec::new();
            engine.ordered(gamma, read, &payload, &mut reply);
            prop_assert!(split_reply(&reply).is_some());
        }
    }
}

#[test]
fn a_command_outside_its_groups_changes_nothing() {
    let mut engine = Engine::new(16);
    let (mine, foreign) =
        ((0..).map(key_in), |engine: &Engine, group| (0..).map(key_in).find(|k| engine.topology.group_of(k) != group));
    let mine = mine.into_iter().find(|key| engine.topology.group_of(key) == GroupId(5)).expect("a key of group 5");
    let foreign = foreign(&engine, GroupId(5)).expect("a key of another group");
    let both = [&mine[..], b"v", &foreign[..], b"v"];
    let keys = [&mine[..], &foreign[..]];
    let gamma = GroupSet::one(GroupId(5));
    let two: GroupSet =
        [GroupId(5), GroupId(6), GroupId(7)].into_iter().filter(|g| *g != engine.topology.group_of(&foreign)).collect();
    for payload in [
        encoded(|e| e.set_many(4, both.into_iter())),
        encoded(|e| e.delete(2, keys.into_iter())),
        encoded(|e| e.exists(2, keys.into_iter())),
        encoded(|e| e.get_many(2, keys.into_iter())),
        encoded(|e| e.subsequence(&mine, &foreign, Wanted::Bytes)),
        encoded(|e| e.size()),
        encoded(|e| e.clear()),
    ] {
        for gamma in [gamma, two] {
            let before = engine.snapshots();
            let mut reply = Vec::new();
            let is_size_of_part = gamma == two && payload == encoded(|e| e.size());
            engine.ordered(gamma, false, &payload, &mut reply);
            if !is_size_of_part {
                assert_eq!(only(&reply), Reply::Error(KvError::OutsideGamma), "{payload:?} in {gamma:?}");
            }
            assert_eq!(engine.snapshots(), before);
        }
    }
    for payload in [
        set(&foreign, b"v", Expiry::Never),
        encoded(|e| e.increment(&foreign, 1)),
        encoded(|e| e.get(&foreign)),
        set_field(&foreign),
        encoded(|e| e.describe(&foreign, Aspect::Bytes)),
    ] {
        let mut reply = Vec::new();
        engine.ordered(gamma, false, &payload, &mut reply);
        assert_eq!(only(&reply), Reply::Error(KvError::OutsideGamma));
    }
    let mut reply = Vec::new();
    engine.read(GroupId(5), &encoded(|e| e.get(&foreign)), &mut reply);
    assert_eq!(only(&reply), Reply::Error(KvError::OutsideGamma));
}

fn key_in(number: usize) -> Vec<u8> {
    format!("k{number}").into_bytes()
}

#[test]
fn a_read_that_is_a_write_changes_nothing() {
    let mut engine = Engine::new(2);
    let payload = set(b"k", b"v", Expiry::Never);
    let group = engine.topology.group_of(b"k");
    let mut reply = Vec::new();
    engine.ordered(GroupSet::one(group), true, &payload, &mut reply);
    assert_eq!(only(&reply), Reply::Error(KvError::Malformed));
    reply.clear();
    engine.ordered(engine.topology.all(), true, &encoded(|e| e.clear()), &mut reply);
    assert_eq!(only(&reply), Reply::Error(KvError::Malformed));
    reply.clear();
    for payload in [payload, set_field(b"k")] {
        engine.read(group, &payload, &mut reply);
        assert_eq!(only(&reply), Reply::Error(KvError::Malformed));
        reply.clear();
    }
    assert_eq!(engine.snapshots(), Engine::new(2).snapshots());
}

#[test]
fn a_read_asks_for_the_time_only_where_it_matters() {
    let mut group = Group::new();
    group.execute(set(b"timed", b"v", Expiry::AfterMs(500)));
    group.execute(set(b"plain", b"v", Expiry::Never));
    let asks = |payload: &[u8], wall_ms| match group.read(payload, wall_ms, false) {
        (ReadOutcome::NeedsTime, reply) => {
            assert!(reply.is_empty());
            true
        }
        (ReadOutcome::Done, _) => false,
    };
    let keys = [&b"plain"[..], b"timed"];
    let gets = [
        encoded(|e| e.get(b"timed")),
        encoded(|e| e.length(b"timed")),
        encoded(|e| e.exists(2, keys.into_iter())),
        encoded(|e| e.get_many(2, keys.into_iter())),
        encoded(|e| e.scan(0, 100, b"*")),
        encoded(|e| e.size()),
        encoded(|e| e.subsequence(b"plain", b"timed", Wanted::Length)),
        encoded(|e| e.describe(b"timed", Aspect::Encoding)),
        encoded(|e| e.bit_fields(b"timed", &[])),
    ];
    for payload in &gets {
        assert!(!asks(payload, 900) && !asks(payload, 1499), "not due by the wall clock");
        assert!(asks(payload, 1500), "due by the wall clock, not by the group's");
        assert_eq!(group.read(payload, 1500, true).0, ReadOutcome::Done);
    }
    assert!(!asks(&encoded(|e| e.get(b"plain")), 9999));
    assert!(asks(&encoded(|e| e.time_to_live(b"timed")), 1001));
    assert!(!asks(&encoded(|e| e.time_to_live(b"timed")), 1000));
    assert!(!asks(&encoded(|e| e.time_to_live(b"plain")), 9999));
    assert_eq!(only(&group.read(&gets[0], 1500, true).1), Reply::String(b"v"));
    group.context.now_ms = 1500;
    assert_eq!(only(&group.read(&gets[0], 1500, true).1), Reply::Null);
    assert_eq!(only(&group.read(&gets[0], 1500, false).1), Reply::Null);
}

#[test]
fn expired_keys_go_as_others_are_written() {
    let mut group = Group::new();
    let no_entries = 0u64.to_le_bytes();
    assert!(group.snapshot().ends_with(&no_entries));
    for k in 0..1000 {
        group.execute(set(&key_in(k), b"value", Expiry::AfterMs(10)));
    }
    assert!(!group.snapshot().ends_with(&no_entries));
    group.context.now_ms += 10;
    // A write that touches none of them, often enough.
    for _ in 0..250 {
        group.execute(set(b"other", b"value", Expiry::Never));
    }
    group.execute(encoded(|e| e.delete(1, [&b"other"[..]].into_iter())));
    assert!(group.snapshot().ends_with(&no_entries));
}

#[test]
fn expired_keys_go_by_time_marks_alone() {
    let mut group = Group::new();
    for k in 0..1000 {
        group.execute(set(&key_in(k), b"value", Expiry::AfterMs(10 + k as i64 % 2)));
    }
    assert_eq!(group.partition.due_ms(), Some(1010));
    let mut marks = 0;
    group.context.now_ms = 1011;
    while group.partition.due_ms().is_some_and(|due_ms| due_ms <= 1011) {
        group.partition.on_time(&group.context);
        marks += 1;
    }
    assert!((2..10).contains(&marks), "{marks}");
    assert_eq!(group.partition.due_ms(), None);
    assert!(group.snapshot().ends_with(&0u64.to_le_bytes()));
}

fn versions(group: &Group, keys: &[&[u8]]) -> Vec<u64> {
    let payload = encoded(|e| e.versions(keys.len(), keys.iter().copied()));
    let (outcome, reply) = group.read(&payload, group.context.now_ms, true);
    assert_eq!(outcome, ReadOutcome::Done);
    let (Reply::List(count), mut rest) = split_reply(&reply).expect("a list") else { panic!("no list") };
    let mut found = Vec::new();
    while let Some((Reply::Integer(version), after)) = split_reply(rest) {
        found.push(version as u64);
        rest = after;
    }
    assert_eq!((found.len(), rest.len()), (count, 0));
    found
}

fn transaction(watched: &[(&[u8], u64)], steps: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    steps.iter().for_each(|step| push_step(&mut bytes, GroupSet::one(GroupId(0)), step));
    encoded(|e| e.transaction(watched.iter().copied(), &bytes))
}

proptest! {
    /// Whatever happens to keys: equal versions mean that nothing has.
    #[test]
    fn a_version_is_never_seen_again_after_a_change(
        steps in prop::collection::vec((0..8u8, 0..3usize), 1..60), restarts in prop::collection::vec(any::<bool>(), 60)
    ) {
        let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
        let mut group = Group::new();
        // By key, each version with the number of changes that the key had seen.
        let (mut changes, mut seen) = ([0; 3], [const { BTreeMap::new() }; 3]);
        for ((step, k), restart) in steps.into_iter().zip(restarts) {
            let key = keys[k];
            let is_there = |group: &Group, k: usize| {
                only(&group.read(&encoded(|e| e.get(keys[k])), group.context.now_ms, true).1) != Reply::Null
            };
            let before = [0, 1, 2].map(|k| is_there(&group, k));
            match step {
                0 => drop(group.execute(set(key, b"v", Expiry::Never))),
                1 => drop(group.execute(set(key, b"v", Expiry::AfterMs(2)))),
                2 => drop(group.execute(encoded(|e| e.delete(1, [key].into_iter())))),
                3 => drop(group.execute(encoded(|e| e.append(key, b"more")))),
                4 => drop(group.execute(encoded(|e| e.expire(key, Expiry::AfterMs(3), ExpireIf::default())))),
                5 => drop(group.execute(encoded(|e| e.set(key, b"w", Expiry::Never, SetIf::Absent, false)))),
                6 => group.context.now_ms += 1,
                _ => drop(group.execute(encoded(|e| e.clear()))),
            }
            for other in 0..3 {
                let is_changed = match step {
                    _ if is_there(&group, other) != before[other] => true,
                    0 | 1 | 3 => other == k,
                    4 => other == k && before[k],
                    _ => false,
                };
                changes[other] += u64::from(is_changed);
            }
            if restart {
                let snapshot = group.snapshot();
                group.partition.restore(&snapshot).expect("its own snapshot");
                prop_assert_eq!(&group.snapshot(), &snapshot);
            }
            for (k, version) in versions(&group, &keys).into_iter().enumerate() {
                let last = *seen[k].entry(version).or_insert(changes[k]);
                prop_assert_eq!(last, changes[k], "key {} has version {} again", k, version);
            }
        }
    }
}

#[test]
fn versions_of_keys_that_nobody_touches_stay() {
    let mut group = Group::new();
    group.execute(set(b"k", b"v", Expiry::Never));
    group.execute(set(b"timed", b"v", Expiry::AfterMs(5)));
    let before = versions(&group, &[b"k", b"timed", b"none"]);
    (0..100).for_each(|k| drop(group.execute(set(&key_in(k), b"v", Expiry::Never))));
    // None of these changes it.
    group.execute(encoded(|e| e.set(b"k", b"w", Expiry::Never, SetIf::Absent, true)));
    group.execute(encoded(|e| e.persist(b"k")));
    group.execute(encoded(|e| e.increment(b"k", 1)));
    group.execute(encoded(|e| e.expire(b"k", Expiry::AfterMs(9), ExpireIf { present: true, ..ExpireIf::default() })));
    assert_eq!(versions(&group, &[b"k", b"timed", b"none"]), before);
    group.context.now_ms += 5;
    let expired = versions(&group, &[b"timed"]);
    assert_ne!(expired[0], before[1]);
    // Its memory returns, which is no change.
    (0..10).for_each(|k| drop(group.execute(set(&key_in(k), b"v", Expiry::Never))));
    assert_eq!(versions(&group, &[b"timed"]), expired);
}

#[test]
fn a_transaction_is_executed_as_a_whole_or_not_at_all() {
    let mut group = Group::new();
    let (read, write) = (encoded(|e| e.get(b"k")), encoded(|e| e.append(b"k", b"v")));
    let [version] = versions(&group, &[b"k"])[..] else { panic!("one version") };
    let reply = group.execute(transaction(&[(b"k", version)], &[write.clone(), read.clone(), vec![77], write.clone()]));
    let mut expected = Vec::new();
    expected.list(4);
    expected.integer(1);
    expected.string(b"v");
    expected.error(KvError::Malformed);
    expected.integer(2);
    assert_eq!(reply, expected);
    assert_eq!(only(&group.execute(transaction(&[(b"k", version)], std::slice::from_ref(&write)))), Reply::Null);
    // A read alone changes nothing, and is answered by whoever is asked.
    let (_, reply) = group.read(&transaction(&[], &[read.clone(), write]), 0, true);
    let mut expected = Vec::new();
    expected.list(2);
    expected.string(b"vv");
    expected.error(KvError::Malformed);
    assert_eq!(reply, expected);
    // A step of another group than it says: nothing of the transaction is executed.
    let mut steps = Vec::new();
    push_step(&mut steps, GroupSet(2), &encoded(|e| e.append(b"k", b"v")));
    assert_eq!(only(&group.execute(encoded(|e| e.transaction([].into_iter(), &steps)))), Reply::Error(KvError::OutsideGamma));
    assert_eq!(only(&group.read(&read, 0, true).1), Reply::String(b"vv"));
}

proptest! {
    /// Whatever the keys and however many groups: what is read of all of them is what a sorted map would give.
    #[test]
    fn reads_of_all_keys_are_those_of_a_sorted_map(
        keys in prop::collection::btree_set(prop::collection::vec(97..101u8, 0..4), 0..40),
        start in prop::collection::vec(97..101u8, 0..3),
        end in prop::collection::vec(97..101u8, 0..3),
        limit in prop::option::of(0..6usize),
        is_reverse: bool,
        groups in prop::sample::select(vec![1usize, 16]),
    ) {
        let mut connection = Connection::with(1, groups, Limits::default());
        keys.iter().for_each(|key| drop(connection.command(&[b"SET", key, key])));
        connection.words("SET gone x PX 1");
        (connection.engine.now_ms, connection.engine.wall_ms) = (10, 10);
        let within: Vec<&Vec<u8>> = keys.iter().filter(|key| **key >= start && (end.is_empty() || **key < end)).collect();
        prop_assert_eq!(connection.command(&[b"COUNTRANGE", &start, &end]), format!(":{}\r\n", within.len()).into_bytes());
        let mut arguments: Vec<Vec<u8>> = vec![b"RANGE".to_vec(), start, end];
        let mut expected = within;
        if is_reverse {
            arguments.push(b"REV".to_vec());
            expected.reverse();
        }
        if let Some(limit) = limit {
            arguments.extend([b"limit".to_vec(), limit.to_string().into_bytes()]);
            expected.truncate(limit);
        }
        let flat: Vec<&[u8]> = expected.iter().flat_map(|key| [&key[..], &key[..]]).collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(connection.command(&arguments), request(&flat));
        let random = connection.words("RANDOMKEY");
        let name = random.split("\r\n").nth(1).unwrap_or_default();
        prop_assert!(if keys.is_empty() { random == "$-1\r\n" } else { keys.contains(name.as_bytes()) }, "{}", random);
        let found = connection.words("KEYS *");
        prop_assert_eq!(found.split("\r\n").next(), Some(&format!("*{}", keys.len())[..]));
    }
}

#[test]
fn every_key_is_drawn_sooner_or_later() {
    let mut connection = Connection::new(1);
    let keys: BTreeSet<String> = (0..20).map(|k| format!("key:{k}")).collect();
    keys.iter().for_each(|key| drop(connection.words(&format!("SET {key} x"))));
    let drawn: BTreeSet<String> =
        (0..2000).map(|_| connection.words("RANDOMKEY").split("\r\n").nth(1).expect("a key").to_owned()).collect();
    assert_eq!(drawn, keys);
}

#[test]
fn options_of_ranges_are_checked() {
    let mut connection = Connection::new(1);
    for words in [
        "RANGE a z LIMIT",
        "RANGE a z LIMIT -1",
        "RANGE a z LIMIT x",
        "RANGE a z FOO",
        "RANGE a",
        "COUNTRANGE a",
        "EVAL x 0",
        "FCALL f 0",
    ] {
        assert!(connection.words(words).starts_with("-ERR"), "{words}");
    }
}

#[test]
fn replicas_stay_alike_however_slices_are_cut_and_whoever_answers() {
    let payloads: Vec<Vec<u8>> = (0..300)
        .map(|k| match k % 5 {
            0 => encoded(|e| e.get(&key_in(k / 3))),
            1 => encoded(|e| e.append(&key_in(k / 2), b"more")),
            _ => set(&key_in(k), b"v", if k % 2 == 0 { Expiry::AfterMs(k as i64 % 7) } else { Expiry::Never }),
        })
        .collect();
    let states: BTreeSet<Vec<u8>> = [1, 7, 300]
        .into_iter()
        .map(|length| {
            let mut group = Group::new();
            for (at, chunk) in payloads.chunks(length).enumerate() {
                let commands: Vec<(&[u8], bool)> = chunk.iter().map(|p| (&p[..], p[0] == 1)).collect();
                let mut replies = Replies { unwanted: at % 2 == 0, ..Replies::default() };
                let bytes = psmr_core::entry::slice_bytes(&commands);
                group.partition.execute(Slice::new(&bytes, at % 2 == 1), &group.context, &mut replies);
                assert_eq!(replies.bytes.is_empty(), replies.unwanted);
            }
            group.snapshot()
        })
        .collect();
    assert_eq!(states.len(), 1);
}

/// All keys that a scan gives, while `between` changes the state.
fn scan(connection: &mut Connection, options: &str, mut between: impl FnMut(&mut Connection, usize)) -> Vec<String> {
    let (mut cursor, mut found, mut calls) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let reply = connection.words(&format!("SCAN {cursor}{options}"));
        let mut values = reply.split("\r\n").skip(1).filter(|line| !line.starts_with(['$', '*']));
        cursor = values.next().expect("a cursor").to_owned();
        assert!(cursor.parse::<u64>().expect("a number") < 1 << 53);
        found.extend(values.filter(|value| !value.is_empty()).map(str::to_owned));
        if cursor == "0" {
            return found;
        }
        calls += 1;
        between(connection, calls);
    }
}

#[test]
fn a_scan_gives_every_key_that_stays_whatever_else_is_written() {
    let mut connection = Connection::new(1);
    for k in 0..400 {
        connection.words(&format!("SET stays:{k} v"));
        connection.words(&format!("SET goes:{k} v"));
    }
    let found = scan(&mut connection, " COUNT 5", |connection, calls| {
        connection.words(&format!("DEL goes:{}", calls * 7 % 400));
        (0..10).for_each(|k| drop(connection.words(&format!("SET comes:{}:{k} v", calls))));
        connection.words(&format!("APPEND stays:{} more", calls % 400));
    });
    let stayed: BTreeSet<&String> = found.iter().filter(|key| key.starts_with("stays:")).collect();
    assert_eq!(stayed.len(), 400);
    assert_eq!(found.iter().filter(|key| key.starts_with("stays:")).count(), 400, "a key came twice");
}

#[test]
fn a_cursor_works_on_any_replica() {
    let mut replicas = [Connection::new(1), Connection::new(2)];
    for k in 0..300 {
        replicas.iter_mut().for_each(|replica| drop(replica.words(&format!("SET key:{k} v"))));
    }
    let (mut cursor, mut found, mut at) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let reply = replicas[at % 2].words(&format!("SCAN {cursor} COUNT 3"));
        let mut values = reply.split("\r\n").skip(1).filter(|line| !line.starts_with(['$', '*']));
        cursor = values.next().expect("a cursor").to_owned();
        found.extend(values.filter(|value| !value.is_empty()).map(str::to_owned));
        at += 1;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 300);
}

#[test]
fn cursors_are_numbers_and_back() {
    let topology = Topology::new(64, 3);
    let last = Cursor { group: GroupId(63), position: (1 << 47) - 1 };
    assert!(last.number() < 1 << 53);
    assert_eq!(Cursor::from_number(last.number(), &topology), Some(last));
    assert_eq!(Cursor::from_number(last.number() + 1, &topology), None);
    assert_eq!(Cursor::from_number(u64::MAX, &Topology::new(1, 1)), None);
}

#[test]
fn a_snapshot_of_another_group_is_refused() {
    let mut engine = Engine::new(2);
    engine.ordered(GroupSet::one(engine.topology.group_of(b"k")), false, &set(b"k", b"v", Expiry::Never), &mut Vec::new());
    let group = engine.topology.group_of(b"k");
    let snapshot = engine.snapshots().swap_remove(group.index());
    let error = engine.partitions[1 - group.index()].restore(&snapshot).expect_err("a key of the other group");
    assert!(error.contains("which is in another group"), "{error}");
    assert!(engine.partitions[0].restore(&[9, 0]).expect_err("another format").contains("format 9"));
}
