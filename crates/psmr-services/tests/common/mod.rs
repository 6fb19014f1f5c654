//! The key-value service behind its gateway in one thread: every request is executed when it is made, as an engine of one
//! replica without consensus would.
#![allow(dead_code, reason = "every test program uses another part")]

use psmr_core::command::{GroupId, GroupSet, LogId};
use psmr_core::entry::slice_bytes;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, NodeInfo, Sink, Usage};
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use psmr_services::kv::KvService;
use psmr_services::resp::{Limits, RespGateway};
use std::time::Duration;

/// The groups of the embedded engine.
pub const GROUPS: usize = 16;

/// State and clocks.
pub struct Engine {
    pub topology: Topology,
    pub partitions: Vec<Box<dyn Partition>>,
    /// The groups' clocks.
    pub now_ms: u64,
    /// The replica's clock.
    pub wall_ms: u64,
    /// Requests that went to one group in order, to several groups, and to one group as a read.
    pub single: usize,
    pub multi: usize,
    pub reads: usize,
    /// Reads that asked for the time first.
    pub time_marks: usize,
    pub node: NodeInfo,
    /// Whether the replica has more memory than it may.
    pub is_out_of_memory: bool,
    /// How long clients have held it up.
    pub stalled: Duration,
    service: KvService,
    replies: Replies,
    slice: Vec<u8>,
}

impl Engine {
    pub fn new(groups: usize) -> Engine {
        let topology = Topology::new(groups, groups.min(3));
        let service = KvService::default();
        let partitions = topology.all().iter().map(|group| service.partition(group, &topology)).collect();
        let node = NodeInfo { replica: 1, replicas: 3, port: 7379, durability: "fsync", ..NodeInfo::default() };
        Engine {
            topology,
            partitions,
            now_ms: 1,
            wall_ms: 1,
            single: 0,
            multi: 0,
            reads: 0,
            time_marks: 0,
            node,
            is_out_of_memory: false,
            stalled: Duration::ZERO,
            service,
            replies: Replies::default(),
            slice: Vec::new(),
        }
    }

    fn context(&self) -> Context {
        Context { now_ms: self.now_ms, log: LogId(0), index: 1, session: None }
    }

    pub fn ordered(&mut self, gamma: GroupSet, read: bool, payload: &[u8], out: &mut Vec<u8>) {
        let context = self.context();
        if gamma.len() == 1 {
            self.single += 1;
            let head = payload.len() as u32 | if read { 1 << 31 } else { 0 };
            self.slice.clear();
            self.slice.extend_from_slice(&head.to_le_bytes());
            self.slice.extend_from_slice(payload);
            self.replies.clear();
            let group = gamma.lowest().expect("one group");
            self.partitions[group.index()].execute(Slice::new(&self.slice, true), &context, &mut self.replies);
            assert_eq!(self.replies.ends.len(), 1);
            return out.extend_from_slice(&self.replies.bytes);
        }
        self.multi += 1;
        let chosen = (0u8..).map(GroupId).zip(self.partitions.iter_mut()).filter(|(group, _)| gamma.contains(*group));
        let mut handles = Handles::new(&self.topology, chosen.map(|(group, partition)| (group, &mut **partition)).collect());
        self.service.execute(&mut handles, Command { payload, read, seed: 0 }, &context, out);
    }

    pub fn read(&mut self, group: GroupId, payload: &[u8], out: &mut Vec<u8>) {
        self.reads += 1;
        let mut context = ReadContext { now_ms: self.now_ms, wall_ms: self.wall_ms, time_is_settled: false };
        if self.partitions[group.index()].read(payload, &context, out) == ReadOutcome::NeedsTime {
            self.time_marks += 1;
            self.now_ms = self.now_ms.max(self.wall_ms);
            context.now_ms = self.now_ms;
            context.time_is_settled = true;
            assert_eq!(self.partitions[group.index()].read(payload, &context, out), ReadOutcome::Done);
        }
    }

    /// All groups' states.
    pub fn snapshots(&self) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new(); self.partitions.len()];
        self.partitions.iter().zip(&mut all).for_each(|(partition, bytes)| partition.snapshot(bytes).unwrap());
        all
    }
}

/// What a request came to.
enum Outcome {
    Answer(usize),
    Reply(u32, usize),
}

/// The sink of one call of `on_input`.
struct EngineSink<'e> {
    engine: &'e mut Engine,
    outcomes: Vec<Outcome>,
    bytes: Vec<u8>,
    room: usize,
}

impl Sink for EngineSink<'_> {
    fn topology(&self) -> &Topology {
        &self.engine.topology
    }

    fn node(&self) -> &NodeInfo {
        &self.engine.node
    }

    fn wall_ms(&self) -> u64 {
        self.engine.wall_ms
    }

    fn clients(&self) -> Vec<ClientInfo> {
        [5, 7].map(|id| ClientInfo { id, address: format!("127.0.0.1:{id}"), protocol: 2, ..ClientInfo::default() }).to_vec()
    }

    fn addresses(&self) -> Vec<(u8, String)> {
        vec![(2, "[::1]:7380".into()), (1, "127.0.0.1:7379".into())]
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage { memory_bytes: 4_096, cpu_user_ms: 61_005, cpu_system_ms: 7, connections: 12 })
    }

    fn is_out_of_memory(&self) -> bool {
        self.engine.is_out_of_memory
    }

    fn stall(&mut self, time: Duration) {
        self.engine.stalled += time;
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.outcomes.push(Outcome::Answer(self.bytes.len()));
    }

    fn ordered(&mut self, gamma: GroupSet, read: bool, tag: u32, payload: &[u8]) {
        assert!(!gamma.is_empty());
        self.engine.ordered(gamma, read, payload, &mut self.bytes);
        self.outcomes.push(Outcome::Reply(tag, self.bytes.len()));
    }

    fn read(&mut self, group: GroupId, tag: u32, payload: &[u8]) {
        self.engine.read(group, payload, &mut self.bytes);
        self.outcomes.push(Outcome::Reply(tag, self.bytes.len()));
    }

    fn is_full(&self) -> bool {
        self.outcomes.len() >= self.room
    }
}

/// A connection to an engine of its own.
pub struct Connection {
    pub engine: Engine,
    pub gateway: RespGateway,
    /// Requests that are taken in one call.
    pub room: usize,
    pub is_closed: bool,
    input: Vec<u8>,
    outcomes: Vec<Outcome>,
    bytes: Vec<u8>,
}

impl Connection {
    pub fn new(id: u64) -> Connection {
        Connection::with(id, GROUPS, Limits::default())
    }

    pub fn with(id: u64, groups: usize, limits: Limits) -> Connection {
        let engine = Engine::new(groups);
        Connection {
            gateway: RespGateway::new(id, limits).told_by(engine.service.totals.clone()),
            engine,
            room: usize::MAX,
            is_closed: false,
            input: Vec::new(),
            outcomes: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Input arrives; what is sent back.
    pub fn send(&mut self, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.send_into(input, &mut out);
        out
    }

    /// As `send`, without memory of its own.
    pub fn send_into(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.is_closed {
            return;
        }
        if self.input.is_empty() {
            let taken = self.take(input, out);
            self.input.extend_from_slice(&input[taken..]);
        } else {
            let mut whole = std::mem::take(&mut self.input);
            whole.extend_from_slice(input);
            let taken = self.take(&whole, out);
            whole.drain(..taken);
            self.input = whole;
        }
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        loop {
            let (outcomes, bytes) = (std::mem::take(&mut self.outcomes), std::mem::take(&mut self.bytes));
            let mut sink = EngineSink { engine: &mut self.engine, outcomes, bytes, room: self.room };
            let result = self.gateway.on_input(&input[taken..], &mut sink);
            let EngineSink { mut outcomes, mut bytes, .. } = sink;
            let was_waiting = self.gateway.is_waiting();
            let (mut start, was_full) = (0, outcomes.len() >= self.room);
            for outcome in outcomes.drain(..) {
                let (tag, end) = match outcome {
                    Outcome::Answer(end) => (None, end),
                    Outcome::Reply(tag, end) => (Some(tag), end),
                };
                match tag {
                    Some(tag) => self.gateway.on_reply(tag, &bytes[start..end], out),
                    None => out.extend_from_slice(&bytes[start..end]),
                }
                start = end;
            }
            bytes.clear();
            (self.outcomes, self.bytes) = (outcomes, bytes);
            match result {
                Ok(count) => taken += count,
                Err(last_words) => {
                    out.extend_from_slice(&last_words);
                    self.is_closed = true;
                }
            }
            self.is_closed |= self.gateway.wants_close();
            if self.is_closed || !(was_full || was_waiting) {
                return if self.is_closed { input.len() } else { taken };
            }
        }
    }

    /// A command of these arguments; its reply.
    pub fn command(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        self.send(&request(arguments))
    }

    /// A command of words; its reply as text.
    pub fn words(&mut self, words: &str) -> String {
        let arguments: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.command(&arguments)).into_owned()
    }

    /// What a request's client is told when the engine has no reply.
    pub fn failure(&mut self, failure: Failure) -> String {
        let mut out = Vec::new();
        self.gateway.on_failure(0, failure, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// A request in RESP.
pub fn request(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A slice of commands for a partition.
pub fn slice(payloads: &[Vec<u8>]) -> Vec<u8> {
    let commands: Vec<(&[u8], bool)> = payloads.iter().map(|payload| (&payload[..], false)).collect();
    slice_bytes(&commands).to_vec()
}
