//! One replica: ordering part, execution side, and a client proxy with some connections; a disk that survives a crash.

use super::service::{Lists, Watch};
use bytes::Bytes;
use psmr_core::client::{Answer, ClientProxy, ConnectionOrder, ProxyLimits};
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId};
use psmr_core::config::Config;
use psmr_core::deliver::Cursor;
use psmr_core::execute::{Engine, Event, Output};
use psmr_core::log::{HardState, LogEntry, LogRecord, LogWrite, RecoveredLog};
use psmr_core::order::{Identity, Order, Positions};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use psmr_core::wire::Reader;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

/// One execution: the groups, the payload, and whether it was a read.
pub type Executed = (GroupSet, String, bool);

/// What a connection asks for.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A command, or an ordered read.
    Ordered { gamma: GroupSet, read: bool, payload: String },
    /// A read that is not ordered.
    Read { group: GroupId, payload: String },
}

impl Operation {
    /// The payload.
    pub fn payload(&self) -> &str {
        match self {
            Operation::Ordered { payload, .. } | Operation::Read { payload, .. } => payload,
        }
    }
}

/// A client connection.
#[derive(Default)]
pub struct Connection {
    order: ConnectionOrder,
    waiting: VecDeque<Operation>,
}

/// A checkpoint: cut, positions, and each group's part.
pub type Checkpoint = (u64, Positions, Vec<Bytes>);

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    /// Per log.
    pub logs: Vec<RecoveredLog>,
    /// The newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

impl Disk {
    /// Makes records durable, in order.
    pub fn store(&mut self, records: &[LogRecord]) {
        for record in records {
            match record {
                LogRecord::Append(log, entry) => self.append(*log, entry.clone()),
                LogRecord::HardState(log, hard_state) => self.log(*log).hard_state = *hard_state,
                LogRecord::Start { log, index, term } => self.start(*log, *index, *term),
            }
        }
    }

    fn log(&mut self, log: LogId) -> &mut RecoveredLog {
        if self.logs.len() <= log.index() {
            self.logs.resize_with(log.index() + 1, RecoveredLog::default);
        }
        &mut self.logs[log.index()]
    }

    fn append(&mut self, log: LogId, entry: LogEntry) {
        let log = self.log(log);
        log.entries.retain(|e| e.index < entry.index);
        assert_eq!(entry.index, log.start.0 + log.entries.len() as u64 + 1, "a gap on disk");
        log.entries.push(entry);
    }

    fn start(&mut self, log: LogId, index: u64, term: u64) {
        let log = self.log(log);
        if index <= log.start.0 {
            return;
        }
        let fits = log.entries.iter().any(|e| (e.index, e.term) == (index, term));
        log.entries.retain(|e| fits && e.index > index);
        log.start = (index, term);
        let HardState { term, vote, commit } = log.hard_state;
        log.hard_state = HardState { term, vote, commit: commit.max(index) };
    }
}

/// What a replica has to be told of what it did.
#[derive(Default)]
pub struct Told {
    /// For people.
    pub lines: Vec<String>,
    /// Answers: connection, operation, reply (`None`: the outcome is not known).
    pub answers: Vec<(char, Operation, Option<String>)>,
}

/// A replica.
pub struct Replica {
    /// 1 to n.
    pub id: ReplicaId,
    /// What it keeps of itself.
    pub identity: Identity,
    /// Execution side.
    pub engine: Arc<Engine>,
    /// Ordering part.
    pub order: Order,
    /// Client proxy.
    pub proxy: ClientProxy,
    /// Groups in the ready queue.
    pub ready: BTreeSet<GroupId>,
    /// Writes that are not durable yet.
    pub writes: VecDeque<LogWrite>,
    /// What survives a crash.
    pub disk: Disk,
    /// The peer that the ordering part wants a checkpoint of.
    pub fetch: Option<ReplicaId>,
    /// Per log, up to where committed entries have been seen by the trace.
    pub seen: Vec<u64>,
    /// Executions so far, reads included.
    pub executed: Arc<Mutex<Vec<Executed>>>,
    /// Digests by cut and group.
    pub digests: BTreeMap<(u64, GroupId), u64>,
    connections: BTreeMap<char, Connection>,
    asked: BTreeMap<u64, (char, Operation)>,
    token: u64,
    parts: BTreeMap<u64, BTreeMap<GroupId, Vec<u8>>>,
}

impl Replica {
    /// A replica that starts from `disk`, for the so many-th time.
    pub fn start(config: Config, incarnation: u64, identity: Identity, disk: Disk) -> Replica {
        let topology = Topology::new(config.groups, config.streams);
        let executed = Arc::new(Mutex::new(Vec::new()));
        let engine = Arc::new(Engine::new(
            config.me,
            topology.clone(),
            Arc::new(Lists::watched(watch(&executed))),
            PlantedErrors::default(),
        ));
        if let Some((cut, _, parts)) = &disk.checkpoint {
            for (group, part) in topology.all().iter().zip(parts) {
                engine.restore(group, *cut, part.clone(), &mut Output::default()).expect("a checkpoint restores");
            }
        }
        let id = config.me;
        let config = Config { seed: incarnation, ..config };
        let checkpoint = disk.checkpoint.as_ref().map(|(cut, positions, _)| (*cut, positions.clone()));
        let seen = checkpoint.as_ref().map_or(vec![0; topology.logs()], |(_, p)| p.iter().map(|(index, _)| *index).collect());
        let order = Order::new(config, engine.clone(), identity.clone(), disk.logs.clone(), checkpoint, true)
            .expect("what was recovered fits");
        let session = SessionId(incarnation << 8 | u64::from(id));
        let mut replica = Replica {
            id,
            identity,
            proxy: ClientProxy::new(session, id, false, topology, ProxyLimits::default()),
            engine,
            order,
            ready: BTreeSet::new(),
            writes: VecDeque::new(),
            disk,
            fetch: None,
            seen,
            executed,
            digests: BTreeMap::new(),
            connections: BTreeMap::new(),
            asked: BTreeMap::new(),
            token: 0,
            parts: BTreeMap::new(),
        };
        let records = replica.order.start_records();
        replica.disk.store(&records);
        replica
    }

    /// A connection asks for something. False: it has to wait for a predecessor in another log.
    pub fn ask(&mut self, connection: char, operation: Operation) -> bool {
        self.connections.entry(connection).or_default().waiting.push_back(operation);
        self.offer(connection);
        self.connections[&connection].waiting.is_empty()
    }

    fn offer(&mut self, name: char) {
        let connection = self.connections.entry(name).or_default();
        while let Some(operation) = connection.waiting.front() {
            let token = self.token + 1;
            match operation {
                Operation::Ordered { gamma, read, payload } => {
                    if self.proxy.ordered(&mut connection.order, *gamma, *read, payload.as_bytes(), token).is_err() {
                        return;
                    }
                }
                Operation::Read { group, payload } => self.proxy.read(&connection.order, *group, payload.as_bytes(), token),
            }
            self.token = token;
            self.asked.insert(token, (name, operation.clone()));
            connection.waiting.pop_front();
        }
    }

    /// How many operations have not been answered.
    pub fn unanswered(&self) -> usize {
        self.asked.len() + self.connections.values().map(|c| c.waiting.len()).sum::<usize>()
    }

    /// Reads to their groups, batches to the ordering part. True if there was anything.
    pub fn flush(&mut self, now_ms: u64) -> bool {
        let names: Vec<char> = self.connections.keys().copied().collect();
        names.into_iter().for_each(|name| self.offer(name));
        let mut some = false;
        let (engine, order) = (self.engine.clone(), &mut self.order);
        self.proxy.flush_reads(now_ms, |group, mut batch| {
            let stream = engine.topology.stream_of(group);
            batch.round = engine.rounds[stream.index()].ticket();
            engine.push_reads(group, batch);
            order.want_round(stream);
            some = true;
        });
        self.proxy.flush(now_ms, |log, batch| {
            order.submit(log, batch);
            some = true;
        });
        some
    }

    /// Makes the oldest write durable. False if there is none.
    pub fn complete_write(&mut self) -> bool {
        let Some(write) = self.writes.pop_front() else { return false };
        self.disk.store(&write.records);
        self.order.on_persisted(write.turn);
        true
    }

    /// Runs a ready group once.
    pub fn run_group(&mut self, group: GroupId, now_ms: u64) -> (Output, Told) {
        assert!(self.ready.remove(&group), "{group:?} is not ready");
        let mut output = Output::default();
        self.engine.run(group, &mut output);
        output.finish();
        self.ready.extend(output.ready.iter());
        let mut told = Told::default();
        for event in std::mem::take(&mut output.events) {
            told.lines.extend(super::describe::event(&event));
            self.on_event(event, now_ms, &mut told);
        }
        (output, told)
    }

    fn on_event(&mut self, event: Event, now_ms: u64, told: &mut Told) {
        let Replica { proxy, asked, .. } = self;
        let mut answer = |token: u64, reply: Option<String>| {
            let (connection, operation) = asked.remove(&token).expect("a token is answered once");
            told.answers.push((connection, operation, reply));
        };
        match event {
            Event::Replies { session, group, numbering, first, replies } if session == proxy.session() => {
                proxy.on_replies(group, numbering, first, &replies, |token, a| answer(token, reply_text(a)));
            }
            Event::Settled { session, group, numbering, last } if session == proxy.session() => {
                proxy.on_settled(group, numbering, last, |token, a| answer(token, reply_text(a)));
            }
            Event::Refused { session, group, numbering, .. } if session == proxy.session() => {
                proxy.on_refused(group, numbering, now_ms);
            }
            Event::Reads { tokens, replies, .. } => {
                for (token, reply) in tokens.into_iter().zip(replies.iter()) {
                    answer(token, Some(String::from_utf8_lossy(reply).into_owned()));
                }
            }
            Event::ReadsLost { tokens, .. } => tokens.into_iter().for_each(|token| answer(token, None)),
            Event::Snapshot { cut, group, bytes } => self.on_snapshot(cut, group, bytes, told),
            Event::NoSnapshot { why, .. } => panic!("{why}"),
            Event::Digest { cut, group, state, bookkeeping, .. } => {
                self.digests.insert((cut, group), state ^ bookkeeping.rotate_left(32));
            }
            // Of the incarnation before.
            Event::Replies { .. } | Event::Settled { .. } | Event::Refused { .. } => {}
        }
    }

    fn on_snapshot(&mut self, cut: u64, group: GroupId, bytes: Vec<u8>, told: &mut Told) {
        let topology = &self.engine.topology;
        let parts = self.parts.entry(cut).or_default();
        parts.insert(group, bytes);
        if parts.len() < topology.groups {
            return;
        }
        let parts: Vec<Bytes> = self.parts.remove(&cut).unwrap_or_default().into_values().map(Bytes::from).collect();
        let stream_next: Vec<u64> = (0..topology.streams as u8)
            .map(|stream| {
                let of_stream = topology.groups_of(LogId(stream)).iter();
                let next = of_stream.map(|g| stream_next(&parts[g.index()])).collect::<BTreeSet<u64>>();
                assert_eq!(next.len(), 1, "the groups of a stream cut it at one place");
                next.into_iter().next().unwrap_or(1)
            })
            .collect();
        let positions = self.order.positions(cut, &stream_next).expect("the cut is in the logs");
        let at: Vec<String> = positions.iter().map(|(index, _)| index.to_string()).collect();
        told.lines.push(format!("checkpoint at x[{cut}], covers the logs up to {}", at.join(" ")));
        self.disk.checkpoint = Some((cut, positions.clone(), parts));
        self.order.on_checkpoint(cut, positions);
    }

    /// Replaces groups that are before the cut by their parts of a peer's checkpoint.
    pub fn install(&mut self, (cut, positions, parts): Checkpoint, now_ms: u64) -> Told {
        let mut output = Output::default();
        for (group, part) in self.engine.topology.all().iter().zip(&parts) {
            self.engine.restore(group, cut, part.clone(), &mut output).expect("a checkpoint restores");
        }
        for (seen, (index, _)) in self.seen.iter_mut().zip(&positions) {
            *seen = (*seen).max(*index);
        }
        self.order.on_checkpoint_installed(cut, positions.clone());
        self.disk.checkpoint = Some((cut, positions, parts));
        self.ready.extend(output.ready.iter());
        self.ready.extend(self.engine.notify(self.engine.topology.all()).iter());
        let mut told = Told::default();
        for event in output.events {
            told.lines.extend(super::describe::event(&event));
            self.on_event(event, now_ms, &mut told);
        }
        told
    }
}

fn watch(executed: &Arc<Mutex<Vec<Executed>>>) -> Watch {
    let executed = executed.clone();
    Arc::new(move |gamma, payload, read| {
        executed.lock().expect("no test panics here").push((gamma, payload.to_string(), read));
    })
}

fn reply_text(answer: Answer<'_>) -> Option<String> {
    match answer {
        Answer::Reply(reply) => Some(String::from_utf8_lossy(reply).into_owned()),
        Answer::Unknown => None,
    }
}

fn stream_next(part: &Bytes) -> u64 {
    Cursor::read(&mut Reader::new(part.clone())).expect("a group's part starts with its cursor").stream_next
}
