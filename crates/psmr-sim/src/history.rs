//! What clients asked for and what they were answered, and the draw of new operations.

use crate::plan::Plan;
use crate::random::{Purpose, Random};
use crate::service::{Key, Reply, Request};
use psmr_core::client::ConnectionOrder;
use psmr_core::command::{GroupId, GroupSet, ReplicaId};
use std::collections::{BTreeMap, VecDeque};

/// How a command is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordered, changes registers.
    Write,
    /// Ordered, reads registers of several groups.
    OrderedRead,
    /// Not ordered, reads registers of one group.
    Read,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet.
    Pending,
    /// With a reply.
    Replied(Reply),
    /// Nobody knows.
    Unknown,
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What was asked for; its id is the operation's position in the history.
    pub request: Request,
    /// How.
    pub kind: Kind,
    /// By which connection.
    pub connection: usize,
    /// When.
    pub invoked_us: u64,
    /// When it ended.
    pub ended_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Answers to its parts, when it was issued as several reads.
    pub parts: Vec<Option<Reply>>,
}

impl Operation {
    /// γ.
    pub fn gamma(&self) -> GroupSet {
        self.request.gamma()
    }
}

/// Where a connection leads to: one life of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The replica.
    pub replica: ReplicaId,
    /// Which of its lives.
    pub life: u64,
}

/// A client connection.
#[derive(Debug)]
pub struct Connection {
    /// Where to.
    pub home: Home,
    /// What the proxy knows of it.
    pub order: ConnectionOrder,
    /// Operations that have yet to be taken by the proxy.
    pub waiting: VecDeque<usize>,
    /// Operations that have not ended.
    pub open: usize,
    /// It is gone.
    pub closed: bool,
}

/// All operations and connections of a run.
#[derive(Debug)]
pub struct History {
    /// In order of invocation.
    pub operations: Vec<Operation>,
    /// In order of creation.
    pub connections: Vec<Connection>,
    /// How many operations have not ended.
    pub open: usize,
    random: Random,
    groups: u64,
    registers: u64,
    /// Percentages of writes, multi-group commands, and timed reads.
    mix: [u64; 3],
    /// Decides which writes are conditional; how many are, in percent.
    conditions: Random,
    conditional: u64,
    /// The last version of each register that a client was told.
    versions: BTreeMap<Key, u64>,
}

impl History {
    /// An empty history.
    pub fn new(plan: &Plan) -> History {
        let mut random = Random::new(plan.seed, Purpose::Workload);
        let mix = [random.within(30..=90), random.within(10..=60), random.within(0..=50)];
        let (groups, registers) = (plan.groups as u64, u64::from(plan.registers));
        let mut conditions = Random::new(plan.seed, Purpose::Conditions);
        let (operations, connections, versions) = (Vec::new(), Vec::new(), BTreeMap::new());
        let conditional = conditions.within(0..=60);
        History { operations, connections, open: 0, random, groups, registers, mix, conditions, conditional, versions }
    }

    /// The randomness of clients.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Opens a connection.
    pub fn connect(&mut self, home: Home) -> usize {
        let (order, waiting) = (ConnectionOrder::default(), VecDeque::new());
        self.connections.push(Connection { home, order, waiting, open: 0, closed: false });
        self.connections.len() - 1
    }

    /// A connection asks for something.
    pub fn invoke(&mut self, connection: usize, now_us: u64) {
        let id = self.operations.len();
        let (kind, keys) = self.draw();
        let timed = kind == Kind::Read && self.random.chance(self.mix[2]);
        let is_conditional = kind == Kind::Write && self.conditions.chance(self.conditional);
        let expected = is_conditional.then(|| keys.iter().map(|key| self.version(key)).collect());
        let request = Request { id: id as u64, timed, keys, expected };
        let (outcome, parts) = (Outcome::Pending, Vec::new());
        self.operations.push(Operation { request, kind, connection, invoked_us: now_us, ended_us: 0, outcome, parts });
        self.connections[connection].waiting.push_back(id);
        self.connections[connection].open += 1;
        self.open += 1;
    }

    /// What a client would watch: the version that was told last, which others may have changed since.
    fn version(&self, key: &Key) -> u64 {
        self.versions.get(key).copied().unwrap_or(0)
    }

    fn draw(&mut self) -> (Kind, Vec<Key>) {
        let write = self.random.chance(self.mix[0]);
        let wide = self.groups > 1 && self.random.chance(self.mix[1]);
        let span = if wide { self.random.within(2..=self.groups.min(3)) } else { 1 };
        let mut groups = GroupSet::EMPTY;
        while groups.len() < span as usize {
            groups.insert(GroupId(self.random.within(0..=self.groups - 1) as u8));
        }
        let mut keys = Vec::new();
        for group in groups.iter() {
            let first = self.random.within(0..=self.registers - 1) as u8;
            keys.push(Key { group, index: first });
            if self.registers > 1 && self.random.chance(20) {
                keys.push(Key { group, index: (first + 1) % self.registers as u8 });
            }
        }
        let kind = if write {
            Kind::Write
        } else if wide {
            Kind::OrderedRead
        } else {
            Kind::Read
        };
        (kind, keys)
    }

    /// An operation has ended. Answers to one that has ended already are passed over.
    pub fn end(&mut self, id: usize, outcome: Outcome, now_us: u64) -> bool {
        let operation = &mut self.operations[id];
        if operation.outcome != Outcome::Pending {
            return false;
        }
        (operation.outcome, operation.ended_us) = (outcome, now_us);
        if let Outcome::Replied(reply) = &operation.outcome {
            let changed = u64::from(operation.kind == Kind::Write && operation.request.applies(&reply.cells));
            let told = operation.request.keys.iter().copied().zip(reply.cells.iter().map(|cell| cell.version + changed));
            self.versions.extend(told);
        }
        self.connections[operation.connection].open -= 1;
        self.open -= 1;
        true
    }

    /// A connection is gone: nobody will learn how its operations end.
    pub fn close(&mut self, connection: usize, now_us: u64) {
        self.connections[connection].closed = true;
        self.connections[connection].waiting.clear();
        let open = |(_, o): &(usize, &Operation)| o.connection == connection && o.outcome == Outcome::Pending;
        let ids: Vec<usize> = self.operations.iter().enumerate().filter(open).map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| {
            self.end(id, Outcome::Unknown, now_us);
        });
    }
}
