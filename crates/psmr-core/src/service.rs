//! What a service is to the engine: state per group, executed by slices of commands. Payloads are opaque here.

use crate::command::{GroupId, GroupSet, LogId, SessionId};
use crate::routing::Topology;
use std::any::Any;

/// What a deterministic command may know of the world.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The group's clock, in milliseconds since 1970: the same on every replica, never running backwards.
    pub now_ms: u64,
    /// The log that ordered the slice.
    pub log: LogId,
    /// The entry in that log.
    pub index: u64,
    /// Whose commands they are; `None`: the time's own.
    pub session: Option<SessionId>,
}

/// One command of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The service's own encoding.
    pub payload: &'a [u8],
    /// An ordered read: executed only by the replica that answers, and must change nothing.
    pub read: bool,
    /// Seed of everything random in this command: the same on every replica, different from every other command's. (A
    /// slice has no seed of its own, since replicas may cut a group's commands into slices differently.)
    pub seed: u64,
}

/// Consecutive commands of one session in one group.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    bytes: &'a [u8],
    answers: bool,
    /// Where the seeds come from.
    source: SeedSource,
    /// The number of the next command.
    number: u64,
}

/// What the seeds of a session's commands in one group and one entry have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeedSource(u64);

impl SeedSource {
    /// The source for the commands of `session` for `group` (the lowest of γ) in an entry.
    pub fn new(log: LogId, index: u64, group: GroupId, session: SessionId) -> SeedSource {
        let place = u64::from(log.0) << 8 | u64::from(group.0);
        SeedSource(mix(mix(mix(index) ^ place) ^ session.0))
    }

    /// The seed of the command with this number.
    pub fn seed(self, number: u64) -> u64 {
        mix(self.0 ^ mix(number))
    }
}

/// One round of splitmix64: different inputs give different outputs, and a bit of the input changes half of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

impl<'a> Slice<'a> {
    /// `bytes` are commands as `entry` lays them out and has checked them. `answers`: this replica answers them.
    pub fn new(bytes: &'a [u8], answers: bool) -> Self {
        Slice { bytes, answers, source: SeedSource::default(), number: 0 }
    }

    /// The same commands with seeds from `source`; the first one has the number `first`.
    pub fn seeded(self, source: SeedSource, first: u64) -> Self {
        Slice { source, number: first, ..self }
    }
}

impl<'a> Iterator for Slice<'a> {
    type Item = Command<'a>;

    /// The next command that this replica has to execute; `None` at the end. Ordered reads are passed over where another
    /// replica answers.
    fn next(&mut self) -> Option<Command<'a>> {
        loop {
            let (command, rest) = crate::entry::split_command(self.bytes)?;
            self.bytes = rest;
            let seed = self.source.seed(self.number);
            self.number = self.number.wrapping_add(1);
            if self.answers || !command.read {
                return Some(Command { seed, ..command });
            }
        }
    }
}

/// Where a service puts its replies, one per command, in order.
#[derive(Debug, Default)]
pub struct Replies {
    /// All replies, one after the other.
    pub bytes: Vec<u8>,
    /// Where each reply ends in `bytes`.
    pub ends: Vec<usize>,
    /// Nobody will look at the replies: the service may skip building them (but calls `end` all the same).
    pub unwanted: bool,
}

impl Replies {
    /// Room for `count` replies of a few bytes.
    pub fn with_capacity(count: usize) -> Replies {
        Replies { bytes: Vec::with_capacity(count * 2), ends: Vec::with_capacity(count), unwanted: false }
    }

    /// Replies that nobody will look at: none are kept.
    pub fn unwanted() -> Replies {
        Replies { unwanted: true, ..Replies::default() }
    }

    /// Marks the end of a reply that has been written to `bytes`.
    pub fn end(&mut self) {
        if !self.unwanted {
            self.ends.push(self.bytes.len());
        }
    }

    /// Adds a whole reply.
    pub fn push(&mut self, reply: &[u8]) {
        if !self.unwanted {
            self.bytes.extend_from_slice(reply);
        }
        self.end();
    }

    /// The last reply.
    pub fn last(&self) -> Option<&[u8]> {
        let (end, before) = self.ends.split_last()?;
        Some(&self.bytes[before.last().copied().unwrap_or(0)..*end])
    }

    /// Forgets all replies, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// The replies one by one.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let reply = &self.bytes[start..*end];
            start = *end;
            reply
        })
    }
}

/// How a read that was not ordered ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The reply has been written.
    Done,
    /// The answer depends on the time, and the group's clock is behind: the engine logs a time mark and asks again.
    /// Nothing may have been written.
    NeedsTime,
}

/// What a read may know of the time.
#[derive(Clone, Copy, Debug)]
pub struct ReadContext {
    /// The group's clock.
    pub now_ms: u64,
    /// The wall clock of the replica that answers; at most a hint that `now_ms` is behind.
    pub wall_ms: u64,
    /// `now_ms` has been brought up to the read's time (or cannot be): answer by it. `NeedsTime` is no longer an answer.
    pub time_is_settled: bool,
}

/// The state of one group. It is executed by one thread at a time.
pub trait Partition: Send + Any {
    /// Executes commands that are multicast to this group alone (parallel mode). Must be deterministic, must not panic, and
    /// must add exactly one reply for each command that `slice` yields.
    fn execute(&mut self, slice: Slice<'_>, context: &Context, replies: &mut Replies);

    /// A hint: commands or reads with these payloads are about to be executed. A service whose state is larger than the
    /// processor's caches may fetch what they will touch, for many at once. Nothing may change.
    fn prepare(&self, _payloads: &mut dyn Iterator<Item = &[u8]>) {}

    /// Executes a read of this group alone at a linearizable position, and appends its reply.
    fn read(&self, payload: &[u8], context: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome;

    /// Does `work`, in which several reads may be executed: what a service has to enter for each, such as an interpreter, it
    /// enters once.
    fn while_reading(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// When `on_time` will have something to do, in milliseconds since 1970: the engine logs a time mark then. Nothing changes.
    fn due_ms(&self) -> Option<u64> {
        None
    }

    /// The group's clock has been brought forward without a command: what is due may be done, in a bounded number of steps. It
    /// is asked for again while `due_ms` has passed. Deterministic, must not panic. Where groups share their state, none of
    /// them executes meanwhile.
    fn on_time(&mut self, _context: &Context) {}

    /// Writes the whole state, keyed by slot, in an order that depends on nothing but the state: equal states, equal bytes.
    ///
    /// # Errors
    /// Why the state cannot be written; the same on every replica. There is no checkpoint then, and no digest.
    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String>;

    /// Replaces the state by one that `snapshot` wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes; the state is then unspecified and must not be used.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;

    /// For a service to get at its own type again in `Service::execute`.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// The state of γ's groups, in the hands of a command in synchronous mode.
pub struct Handles<'a> {
    topology: &'a Topology,
    gamma: GroupSet,
    partitions: Vec<(GroupId, &'a mut dyn Partition)>,
}

/// A command reached for a group outside its γ: a defect of the service's C-G, the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideGamma {
    /// The group that was asked for.
    pub group: GroupId,
    /// The groups that the command was multicast to.
    pub gamma: GroupSet,
}

impl<'a> Handles<'a> {
    /// Handles to `partitions`, which are those of γ in ascending order of group.
    pub fn new(topology: &'a Topology, partitions: Vec<(GroupId, &'a mut dyn Partition)>) -> Self {
        let gamma = partitions.iter().map(|(group, _)| *group).collect();
        Handles { topology, gamma, partitions }
    }

    /// The tables of the cluster.
    pub fn topology(&self) -> &'a Topology {
        self.topology
    }

    /// The groups that the command was multicast to.
    pub fn gamma(&self) -> GroupSet {
        self.gamma
    }

    /// The state of each group of γ, in ascending order of group.
    pub fn partitions(&mut self) -> impl Iterator<Item = &mut dyn Partition> + use<'_, 'a> {
        self.partitions.iter_mut().map(|(_, partition)| &mut **partition as &mut dyn Partition)
    }

    /// The state of `group`.
    ///
    /// # Errors
    /// If `group` is not in γ.
    pub fn get(&mut self, group: GroupId) -> Result<&mut dyn Partition, OutsideGamma> {
        let gamma = self.gamma;
        match self.partitions.iter_mut().find(|(g, _)| *g == group) {
            Some((_, partition)) => Ok(&mut **partition),
            None => Err(OutsideGamma { group, gamma }),
        }
    }
}

/// A replicated service: makes partitions, and executes commands over several of them.
pub trait Service: Send + Sync + 'static {
    /// The name in configuration, genesis record and messages.
    fn name(&self) -> &str;

    /// What clients and replicas have to agree on before they understand each other: the name, unless there is more.
    fn interface(&self) -> &str {
        self.name()
    }

    /// Runs all that a worker does. A service may give the thread what its commands need, for as long as it lasts.
    fn with_worker(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }

    /// In what way commands run in parallel on the workers, for people: `native` has nothing that they share.
    fn parallelism(&self) -> &'static str {
        "native"
    }

    /// The empty state of one group.
    fn partition(&self, group: GroupId, topology: &Topology) -> Box<dyn Partition>;

    /// Whether the command or read with this payload takes microseconds rather than more, whatever the state. Where cores are
    /// few, such commands are executed by the thread that orders them, which must never be held up; others by workers.
    fn is_brief(&self, _payload: &[u8]) -> bool {
        false
    }

    /// Whether the partitions' states are parts of one, which is whole only while none of them executes. Then all groups meet
    /// where a checkpoint or a digest is taken, on every replica, and `snapshot` and `restore` are called for all of them.
    fn shares_state(&self) -> bool {
        false
    }

    /// Executes one command with |γ| > 1 (synchronous mode), and appends its one reply to `reply`. Deterministic, must not panic.
    fn execute(&self, handles: &mut Handles<'_>, command: Command<'_>, context: &Context, reply: &mut Vec<u8>);
}
