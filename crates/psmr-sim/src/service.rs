//! The service under test: registers. A command writes keys of one or several groups; what it writes depends on everything
//! that was there before, and its reply shows that, so that any two executions that differ are told apart.
//!
//! ```text
//! payload = id u64, flags u8, count u8, (group u8, index u8) per key, version u64 per key if it is conditional
//! reply   = now_ms u64, groups u8, (group u8, position u64) per group, (version u64, value u64) per key
//! ```

use bytes::Bytes;
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use psmr_core::wire::{Malformed, Reader, Write};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// How often the clock strikes.
const STRIKE_MS: u64 = 500;

/// The read depends on the group's clock.
const FLAG_TIMED: u8 = 1;

/// The write depends on versions.
const FLAG_CONDITIONAL: u8 = 2;

/// A register: the group that it is in, and which one of that group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its group.
    pub group: GroupId,
    /// Which one.
    pub index: u8,
}

/// What a register holds: how often it was written, and a mix of all that has gone into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// How often it was written.
    pub version: u64,
    /// What was written last.
    pub value: u64,
}

/// A command, as clients issue it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique in a run.
    pub id: u64,
    /// The read depends on time.
    pub timed: bool,
    /// What it touches.
    pub keys: Vec<Key>,
    /// The write takes place only if the registers have these versions.
    pub expected: Option<Vec<u64>>,
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The group clock.
    pub now_ms: u64,
    /// Per group of γ: how many writes the group had executed, the present one included.
    pub places: Vec<(GroupId, u64)>,
    /// Per key: what was there before (for a write), or what is there (for a read).
    pub cells: Vec<Cell>,
}

impl Request {
    /// γ of the command.
    pub fn gamma(&self) -> GroupSet {
        self.keys.iter().map(|key| key.group).collect()
    }

    /// Whether the write takes place where this is in its registers.
    pub fn applies(&self, cells: &[Cell]) -> bool {
        let is_as_before = |expected: &Vec<u64>| expected.iter().eq(cells.iter().map(|cell| &cell.version));
        self.expected.as_ref().is_none_or(is_as_before)
    }

    /// The bytes that are multicast.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.u64(self.id);
        out.u8(if self.timed { FLAG_TIMED } else { 0 } | if self.expected.is_some() { FLAG_CONDITIONAL } else { 0 });
        out.u8(self.keys.len() as u8);
        for key in &self.keys {
            out.u8(key.group.0);
            out.u8(key.index);
        }
        self.expected.iter().flatten().for_each(|version| out.u64(*version));
        out
    }

    fn decode(payload: &[u8]) -> Result<Request, Malformed> {
        let mut reader = Reader::new(Bytes::copy_from_slice(payload));
        let id = reader.u64("id")?;
        let flags = reader.u8("flags")?;
        let mut keys = Vec::new();
        for _ in 0..reader.u8("key count")? {
            keys.push(Key { group: GroupId(reader.u8("group")?), index: reader.u8("index")? });
        }
        let is_conditional = flags & FLAG_CONDITIONAL != 0;
        let expected = is_conditional.then(|| keys.iter().map(|_| reader.u64("version")).collect()).transpose()?;
        Ok(Request { id, timed: flags & FLAG_TIMED != 0, keys, expected })
    }
}

impl Reply {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.now_ms);
        out.u8(self.places.len() as u8);
        for (group, place) in &self.places {
            out.u8(group.0);
            out.u64(*place);
        }
        for cell in &self.cells {
            out.u64(cell.version);
            out.u64(cell.value);
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &[u8]) -> Result<Reply, Malformed> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        let mut reply = Reply { now_ms: reader.u64("now")?, places: Vec::new(), cells: Vec::new() };
        for _ in 0..reader.u8("group count")? {
            reply.places.push((GroupId(reader.u8("group")?), reader.u64("place")?));
        }
        while !reader.is_at_end() {
            reply.cells.push(Cell { version: reader.u64("version")?, value: reader.u64("value")? });
        }
        Ok(reply)
    }
}

/// A write that a replica executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Which request.
    pub id: u64,
    /// The group clock that it saw.
    pub now_ms: u64,
    /// Per group of γ: the group's place for it (from 1), and the group's history up to it, hashed.
    pub places: Vec<(GroupId, u64, u64)>,
    /// What it wrote: nothing, if it is conditional and was too late.
    pub written: Vec<(Key, Cell)>,
}

/// What the partitions of one replica tell the simulator.
#[derive(Debug, Default)]
pub struct Records {
    /// Writes since they were last taken.
    pub executed: Vec<Executed>,
    /// Per group: how many writes it holds, and their hash.
    pub state: Vec<(u64, u64)>,
}

/// The records of one replica, shared by its partitions.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Records>>);

impl Recorder {
    /// Access to the records.
    pub fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set_state(&self, group: GroupId, state: (u64, u64)) {
        let records = &mut *self.records();
        if records.state.len() <= group.index() {
            records.state.resize(group.index() + 1, (0, 0));
        }
        records.state[group.index()] = state;
    }
}

/// Mixes `value` into `hash`.
pub fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

/// What a group holds.
#[derive(Debug, Default)]
struct State {
    executed: u64,
    chain: u64,
    cells: BTreeMap<u8, Cell>,
    /// When the clock strikes next (0: when somebody has written), and a mix of what there was whenever it did.
    due_ms: u64,
    strikes: u64,
}

impl State {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.executed);
        out.u64(self.chain);
        out.u64(self.due_ms);
        out.u64(self.strikes);
        out.u8(self.cells.len() as u8);
        for (index, cell) in &self.cells {
            out.u8(*index);
            out.u64(cell.version);
            out.u64(cell.value);
        }
    }

    fn decode(reader: &mut Reader) -> Result<State, Malformed> {
        let [executed, chain] = [reader.u64("executed")?, reader.u64("chain")?];
        let [due_ms, strikes] = [reader.u64("due")?, reader.u64("strikes")?];
        let mut state = State { executed, chain, cells: BTreeMap::new(), due_ms, strikes };
        for _ in 0..reader.u8("cells")? {
            let index = reader.u8("index")?;
            state.cells.insert(index, Cell { version: reader.u64("version")?, value: reader.u64("value")? });
        }
        Ok(state)
    }
}

/// The states of all groups.
type States = Arc<Mutex<Vec<State>>>;

/// One group's registers.
#[derive(Debug)]
pub struct Registers {
    group: GroupId,
    states: States,
    /// The lowest group's snapshot is that of all groups.
    shares_state: bool,
    recorder: Recorder,
}

impl Registers {
    fn own<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[self.group.index()])
    }

    /// The groups that this one's snapshot is of.
    fn of_snapshot(&self, groups: usize) -> std::ops::Range<usize> {
        match (self.shares_state, self.group.index()) {
            (false, own) => own..own + 1,
            (true, 0) => 0..groups,
            (true, _) => 0..0,
        }
    }

    fn executed(&self) -> u64 {
        self.own(|state| state.executed)
    }

    fn cell(&self, key: Key) -> Cell {
        self.own(|state| state.cells.get(&key.index).copied().unwrap_or_default())
    }

    fn set(&mut self, key: Key, value: u64) -> (Key, Cell) {
        let cell = Cell { version: self.cell(key).version + 1, value };
        self.own(|state| state.cells.insert(key.index, cell));
        (key, cell)
    }

    /// Takes the next place for a write.
    fn place(&mut self, id: u64, now_ms: u64, seed: u64, value: Option<u64>) -> (GroupId, u64, u64) {
        let shares_state = self.shares_state;
        let (executed, chain) = self.own(|state| {
            state.executed += 1;
            state.chain = mix(mix(mix(mix(state.chain, id), now_ms), seed), value.unwrap_or(0));
            if !shares_state {
                // Whether the clock struck before shows here, and in all that follows.
                state.chain = mix(state.chain, state.strikes);
                if state.due_ms == 0 {
                    state.due_ms = now_ms + 1 + id % STRIKE_MS;
                }
            }
            (state.executed, state.chain)
        });
        self.recorder.set_state(self.group, (executed, chain));
        (self.group, executed, chain)
    }

    fn write(&mut self, request: &Request, seed: u64, context: &Context) -> Reply {
        let cells: Vec<Cell> = request.keys.iter().map(|key| self.cell(*key)).collect();
        let value = value_of(request, &cells);
        let written = value.map_or(Vec::new(), |value| request.keys.iter().map(|key| self.set(*key, value)).collect());
        let place = self.place(request.id, context.now_ms, seed, value);
        let executed = Executed { id: request.id, now_ms: context.now_ms, places: vec![place], written };
        self.recorder.records().executed.push(executed);
        Reply { now_ms: context.now_ms, places: vec![(self.group, self.executed())], cells }
    }

    fn look(&self, request: &Request, now_ms: u64) -> Reply {
        let cells = request.keys.iter().map(|key| self.cell(*key)).collect();
        Reply { now_ms, places: vec![(self.group, self.executed())], cells }
    }
}

/// What a write puts in all its registers; `None`: it does not take place.
fn value_of(request: &Request, before: &[Cell]) -> Option<u64> {
    let value = || before.iter().fold(mix(1, request.id), |hash, cell| mix(mix(hash, cell.version), cell.value));
    request.applies(before).then(value)
}

fn request(payload: &[u8]) -> Request {
    Request::decode(payload).expect("the simulator's clients send well-formed requests")
}

impl Partition for Registers {
    fn execute(&mut self, slice: Slice<'_>, context: &Context, replies: &mut Replies) {
        for command in slice {
            let request = request(command.payload);
            let reply =
                if command.read { self.look(&request, context.now_ms) } else { self.write(&request, command.seed, context) };
            reply.encode(&mut replies.bytes);
            replies.end();
        }
    }

    fn read(&self, payload: &[u8], context: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome {
        let request = request(payload);
        if request.timed && !context.time_is_settled && context.wall_ms > context.now_ms {
            return ReadOutcome::NeedsTime;
        }
        self.look(&request, context.now_ms).encode(reply);
        ReadOutcome::Done
    }

    /// Where groups share their state, one clock strikes again and again, and keeps what all of them hold then. Otherwise each group
    /// has its own, which strikes once some time after a write.
    fn due_ms(&self) -> Option<u64> {
        match self.shares_state {
            true => (self.group == GroupId(0)).then(|| self.own(|state| state.due_ms)),
            false => Some(self.own(|state| state.due_ms)).filter(|due_ms| *due_ms > 0),
        }
    }

    fn on_time(&mut self, context: &Context) {
        if self.due_ms().is_none_or(|due_ms| due_ms > context.now_ms) {
            return;
        }
        if !self.shares_state {
            self.own(|state| {
                state.strikes = mix(mix(state.strikes, context.now_ms), state.chain);
                state.due_ms = 0;
            });
        } else {
            let mut states = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let strikes = mix(states[0].strikes, context.now_ms);
            states[0].strikes = states.iter().fold(strikes, |strikes, state| mix(strikes, state.chain));
            states[0].due_ms = context.now_ms + STRIKE_MS;
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String> {
        let states = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        states[self.of_snapshot(states.len())].iter().for_each(|state| state.encode(out));
        Ok(())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        let mut states = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for at in self.of_snapshot(states.len()) {
            states[at] = State::decode(&mut reader).map_err(|error| error.to_string())?;
            self.recorder.set_state(GroupId(at as u8), (states[at].executed, states[at].chain));
        }
        if reader.is_at_end() {
            Ok(())
        } else {
            Err("bytes after the state".into())
        }
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The service of one replica.
#[derive(Debug)]
pub struct RegisterService {
    /// Where its executions are recorded.
    pub recorder: Recorder,
    states: States,
    shares_state: bool,
}

impl RegisterService {
    /// Empty registers. `shares_state`: as an engine sees them, the groups' states are parts of one.
    pub fn new(topology: &Topology, shares_state: bool) -> RegisterService {
        let states = (0..topology.groups).map(|_| State::default()).collect();
        RegisterService { recorder: Recorder::default(), states: Arc::new(Mutex::new(states)), shares_state }
    }
}

impl Service for RegisterService {
    fn name(&self) -> &str {
        "registers"
    }

    fn partition(&self, group: GroupId, _topology: &Topology) -> Box<dyn Partition> {
        self.recorder.set_state(group, (0, 0));
        let RegisterService { recorder, states, shares_state } = self;
        Box::new(Registers { group, states: states.clone(), shares_state: *shares_state, recorder: recorder.clone() })
    }

    fn shares_state(&self) -> bool {
        self.shares_state
    }

    fn is_brief(&self, payload: &[u8]) -> bool {
        request(payload).id % 4 != 0
    }

    fn execute(&self, handles: &mut Handles<'_>, command: Command<'_>, context: &Context, reply: &mut Vec<u8>) {
        let request = request(command.payload);
        let cells: Vec<Cell> = request.keys.iter().map(|key| registers(handles, key.group).cell(*key)).collect();
        let gamma = handles.gamma();
        let places = if command.read {
            gamma.iter().map(|group| (group, registers(handles, group).executed())).collect()
        } else {
            let value = value_of(&request, &cells);
            let mut set = |key: &Key, value| registers(handles, key.group).set(*key, value);
            let written = value.map_or(Vec::new(), |value| request.keys.iter().map(|key| set(key, value)).collect());
            let places: Vec<(GroupId, u64, u64)> = gamma
                .iter()
                .map(|group| registers(handles, group).place(request.id, context.now_ms, command.seed, value))
                .collect();
            let short = places.iter().map(|(group, place, _)| (*group, *place)).collect();
            self.recorder.records().executed.push(Executed { id: request.id, now_ms: context.now_ms, places, written });
            short
        };
        Reply { now_ms: context.now_ms, places, cells }.encode(reply);
    }
}

fn registers<'h>(handles: &'h mut Handles<'_>, group: GroupId) -> &'h mut Registers {
    let partition = handles.get(group).expect("γ of a request is made of its keys' groups");
    partition.as_any_mut().downcast_mut().expect("all partitions are of this service")
}
