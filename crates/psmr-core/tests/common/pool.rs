//! One replica whose groups are run by real threads, for claims about what happens at the same time. Every wait is bounded.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real threads, and waits with a limit, are the point here"
)]

use super::service::{Lists, Watch};
use bytes::Bytes;
use psmr_core::client::{Answer, ClientProxy, ConnectionOrder, ProxyLimits};
use psmr_core::command::{GroupId, GroupSet, SessionId};
use psmr_core::config::Config;
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Event, Output};
use psmr_core::order::{Actions, Identity, Order};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take before the test has failed.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How long something that must not happen is given to happen.
pub const GRACE: Duration = Duration::from_millis(50);

/// A place where threads wait for each other.
#[derive(Default)]
pub struct Gate {
    names: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

impl Gate {
    /// `name` has happened.
    pub fn open(&self, name: &str) {
        self.names.lock().expect("no panic").insert(name.to_string());
        self.changed.notify_all();
    }

    /// Waits until `name` has happened; false if it did not within the limit.
    pub fn wait(&self, name: &str) -> bool {
        let names = self.names.lock().expect("no panic");
        let (names, _) = self.changed.wait_timeout_while(names, LIMIT, |names| !names.contains(name)).expect("no panic");
        names.contains(name)
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<VecDeque<GroupId>>,
    events: Mutex<Vec<Event>>,
    stopping: Mutex<bool>,
    changed: Condvar,
}

/// The replica.
pub struct Pool {
    /// Execution side.
    pub engine: Arc<Engine>,
    order: Order,
    proxy: ClientProxy,
    connections: BTreeMap<u64, ConnectionOrder>,
    token: u64,
    names: BTreeMap<u64, String>,
    answers: BTreeMap<String, String>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A replica with `workers` worker threads, whose executions are told to `watch`. Each command has a connection of its own.
    pub fn start(groups: usize, streams: usize, workers: usize, watch: Watch) -> Pool {
        let topology = Topology::new(groups, streams);
        let engine = Arc::new(Engine::new(1, topology.clone(), Arc::new(Lists::watched(watch)), PlantedErrors::default()));
        let order = Order::new(Config::new(1, 1, groups, streams), engine.clone(), Identity::fresh(1), Vec::new(), None, false)
            .expect("a new replica");
        let shared = Arc::new(Shared::default());
        let spawn = |_| {
            let (engine, shared) = (engine.clone(), shared.clone());
            std::thread::spawn(move || work(&engine, &shared))
        };
        let threads = (0..workers).map(spawn).collect();
        let proxy = ClientProxy::new(SessionId(1), 1, false, topology, ProxyLimits::default());
        let (connections, names, answers) = Default::default();
        let mut pool = Pool { engine, order, proxy, connections, token: 0, names, answers, shared, threads };
        for tick in 0..40 {
            pool.order.tick(1_000_000 + 50 * tick);
            pool.turn();
        }
        pool
    }

    fn turn(&mut self) {
        let mut actions = Actions::default();
        self.order.turn(&mut actions).expect("the replica goes on");
        let lagging = self.engine.notify(self.order.lagging_groups());
        self.schedule(actions.ready.union(lagging));
    }

    fn schedule(&self, groups: GroupSet) {
        self.shared.queue.lock().expect("no panic").extend(groups.iter());
        self.shared.changed.notify_all();
    }

    /// Multicasts a command on a connection of its own.
    pub fn submit(&mut self, gamma: GroupSet, payload: &str) {
        let token = self.next_token(payload);
        let connection = self.connections.entry(token).or_default();
        self.proxy.ordered(connection, gamma, false, payload.as_bytes(), token).expect("it depends on nothing");
        let mut batches: Vec<(_, Bytes)> = Vec::new();
        self.proxy.flush(1_000_000, |log, batch| batches.push((log, batch)));
        batches.into_iter().for_each(|(log, batch)| self.order.submit(log, batch));
        self.turn();
    }

    /// Reads a group, on a connection of its own.
    pub fn read(&mut self, group: GroupId, name: &str) {
        let token = self.next_token(name);
        let connection = self.connections.entry(token).or_default();
        self.proxy.read(connection, group, name.as_bytes(), token);
        let mut batches: Vec<(GroupId, ReadBatch)> = Vec::new();
        self.proxy.flush_reads(1_000_000, |group, batch| batches.push((group, batch)));
        for (group, mut batch) in batches {
            let stream = self.engine.topology.stream_of(group);
            batch.round = self.engine.rounds[stream.index()].ticket();
            self.engine.push_reads(group, batch);
            self.order.want_round(stream);
        }
        self.turn();
    }

    fn next_token(&mut self, name: &str) -> u64 {
        self.token += 1;
        self.names.insert(self.token, name.to_string());
        self.token
    }

    /// Takes in what the workers have done.
    fn take_in(&mut self) {
        for event in std::mem::take(&mut *self.shared.events.lock().expect("no panic")) {
            let Pool { names, answers, proxy, .. } = self;
            let mut answer = |token: u64, reply: &[u8]| {
                let text = String::from_utf8_lossy(reply).into_owned();
                assert!(answers.insert(names[&token].clone(), text).is_none(), "answered twice");
            };
            match event {
                Event::Replies { group, numbering, first, replies, .. } => {
                    proxy.on_replies(group, numbering, first, &replies, |token, a| match a {
                        Answer::Reply(reply) => answer(token, reply),
                        Answer::Unknown => panic!("no outcome is unknown here"),
                    });
                }
                Event::Reads { tokens, replies, .. } => {
                    tokens.into_iter().zip(replies.iter()).for_each(|(token, reply)| answer(token, reply));
                }
                other => panic!("nothing else happens here: {other:?}"),
            }
        }
    }

    /// The answer to what was asked under this name, if it is there within `limit`.
    pub fn answer_within(&mut self, name: &str, limit: Duration) -> Option<String> {
        let end = Instant::now() + limit;
        loop {
            self.take_in();
            if self.answers.contains_key(name) || Instant::now() >= end {
                return self.answers.get(name).cloned();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The answer to what was asked under this name.
    pub fn answer(&mut self, name: &str) -> String {
        self.answer_within(name, LIMIT).unwrap_or_else(|| panic!("{name} was not answered within {LIMIT:?}"))
    }

    /// Ends the threads; fails if one of them panicked.
    pub fn stop(self) {
        *self.shared.stopping.lock().expect("no panic") = true;
        self.shared.changed.notify_all();
        self.threads.into_iter().for_each(|thread| thread.join().expect("no worker panics"));
    }
}

fn work(engine: &Engine, shared: &Shared) {
    let mut output = Output::default();
    while !*shared.stopping.lock().expect("no panic") {
        let queue = shared.queue.lock().expect("no panic");
        let (mut queue, _) =
            shared.changed.wait_timeout_while(queue, Duration::from_millis(5), |queue| queue.is_empty()).expect("no panic");
        let Some(group) = queue.pop_front() else { continue };
        drop(queue);
        engine.run(group, &mut output);
        output.finish();
        shared.events.lock().expect("no panic").append(&mut output.events);
        let ready = std::mem::take(&mut output.ready);
        shared.queue.lock().expect("no panic").extend(ready.iter());
        shared.changed.notify_all();
    }
}
