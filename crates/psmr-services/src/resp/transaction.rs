//! Transactions: requests between MULTI and EXEC are encoded as they come, and are one command of the service then. WATCH
//! asks for the versions of keys, EXEC takes them along: whether they have changed is decided where EXEC is executed.

use super::parse::Span;
use super::table::{Access, CommandSpec};
use super::write::Writer;
use super::{Form, Request, RespGateway};
use crate::kv::command::Encoder;
use crate::kv::place_of;
use crate::kv::reply::{skip_reply, split_reply, Reply};
use crate::kv::transaction::{push_step, STEP_HEAD_BYTES_MAX, WATCHED_HEAD_BYTES_MAX};
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::config::COMMAND_BYTES_MAX;
use psmr_core::gateway::{ClientInfo, NodeInfo, Sink, Usage};
use psmr_core::routing::Topology;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What the watched keys of a connection may have together, each with its version.
const WATCH_BYTES_MAX: usize = 1 << 20;

/// What the requests of a transaction may have together: with the watched keys they are not longer than a command may be.
const STEPS_BYTES_MAX: usize = COMMAND_BYTES_MAX - WATCH_BYTES_MAX - 64;

/// The most requests of a transaction.
const STEPS_MAX: usize = 1 << 20;

/// What a transaction has room for at once, so that a usual one does not grow.
const STEPS_BYTES_FIRST: usize = 256;
const STEPS_FIRST: usize = 8;

/// Marks the tags of this module. The table has too few commands for it to be in another one.
const OWN_TAG: u32 = 1 << 31;

/// The bits of a tag that tell one transaction from another.
const NUMBERS: u32 = (1 << 30) - 1;

/// The tag of the versions that WATCH asked for.
const WATCH_TAG: u32 = OWN_TAG | 1 << 30;

/// Whether a tag is one of this module.
pub fn is_own(tag: u32) -> bool {
    tag & OWN_TAG != 0
}

/// What a connection has of transactions.
#[derive(Debug, Default)]
pub struct Transactions {
    /// Since MULTI.
    open: Option<Open>,
    /// A request that is to be executed with others is being looked at.
    pub(super) is_queueing: bool,
    watched: BTreeMap<Vec<u8>, u64>,
    watched_bytes: usize,
    /// A watched key may have changed unseen: its version is not known.
    is_watch_lost: bool,
    /// The keys whose versions have been asked for.
    asked: Option<Vec<Vec<u8>>>,
    /// Nobody wants to hear of them.
    is_silent: bool,
    /// Those that have been asked for but not all answered, in the order of their tags.
    executed: VecDeque<Option<Executed>>,
    /// The number in the tag of the first of them.
    first: u32,
}

#[derive(Debug, Default)]
struct Open {
    /// A request was wrong: EXEC will execute nothing.
    is_spoiled: bool,
    steps: Vec<u8>,
    gamma: GroupSet,
    writes: bool,
    items: Vec<Item>,
    /// Of the requests that the replica answers by itself.
    kept_bytes: usize,
}

/// How one reply of a transaction comes to be.
#[derive(Debug)]
enum Item {
    /// The service's next reply, to be written as this tag says.
    Step(u32),
    /// This.
    Written(Vec<u8>),
    /// What the replica answers when the transaction is executed.
    Kept(Box<Kept>),
}

#[derive(Debug)]
struct Kept {
    spec: &'static CommandSpec,
    command: usize,
    bytes: Vec<u8>,
    arguments: Vec<Span>,
}

#[derive(Debug)]
struct Executed {
    is_resp3: bool,
    is_silent: bool,
    items: Vec<Item>,
}

impl Transactions {
    /// Whether requests are to be kept until EXEC.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether WATCH has not been answered.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.asked.is_some()
    }

    /// Lets the transaction that is open fail.
    pub fn spoil(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_spoiled = true;
        }
    }

    fn unwatch(&mut self) {
        self.watched.clear();
        self.watched_bytes = 0;
        self.is_watch_lost = false;
    }

    /// Forgets what is open and watched.
    pub fn reset(&mut self) {
        self.open = None;
        self.unwatch();
    }

    fn take_executed(&mut self, tag: u32) -> Option<Executed> {
        let at = tag.wrapping_sub(self.first) & NUMBERS;
        let executed = self.executed.get_mut(at as usize)?.take();
        while self.executed.front().is_some_and(Option::is_none) {
            self.executed.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        executed
    }

    /// Keeps what is needed to write the reply; the tag under which it will come.
    fn add_executed(&mut self, executed: Executed) -> u32 {
        let number = self.first.wrapping_add(self.executed.len() as u32);
        self.executed.push_back(Some(executed));
        OWN_TAG | number & NUMBERS
    }
}

pub fn multi(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    if gateway.transactions.is_open() {
        return gateway.answer_error(sink, b"ERR MULTI calls can not be nested");
    }
    let (steps, items) = (Vec::with_capacity(STEPS_BYTES_FIRST), Vec::with_capacity(STEPS_FIRST));
    gateway.transactions.open = Some(Open { steps, items, ..Open::default() });
    gateway.answer(sink, |writer| writer.simple("OK"));
}

pub fn discard(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    if !gateway.transactions.is_open() {
        return gateway.answer_error(sink, b"ERR DISCARD without MULTI");
    }
    gateway.transactions.reset();
    gateway.answer(sink, |writer| writer.simple("OK"));
}

pub fn unwatch(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.transactions.unwatch();
    gateway.answer(sink, |writer| writer.simple("OK"));
}

pub fn watch(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let transactions = &mut gateway.transactions;
    if transactions.is_open() {
        return gateway.answer_error(sink, b"ERR WATCH inside MULTI is not allowed");
    }
    let mut keys: Vec<&[u8]> = request.keys().filter(|key| !transactions.watched.contains_key(*key)).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return gateway.answer(sink, |writer| writer.simple("OK"));
    }
    let bytes: usize = keys.iter().map(|key| key.len() + WATCHED_HEAD_BYTES_MAX).sum();
    if transactions.watched_bytes + bytes > WATCH_BYTES_MAX {
        let text = format!(
            "ERR too many watched keys: with {WATCHED_HEAD_BYTES_MAX} bytes each beside the key they may have {WATCH_BYTES_MAX} bytes; UNWATCH or EXEC first"
        );
        return gateway.answer_error(sink, text.as_bytes());
    }
    transactions.watched_bytes += bytes;
    transactions.is_silent = gateway.replies.is_silent;
    transactions.asked = Some(keys.iter().map(|key| key.to_vec()).collect());
    gateway.scratch.clear();
    Encoder(&mut gateway.scratch).versions(keys.len(), keys.into_iter());
    issue(gateway, request.gamma, true, WATCH_TAG, sink);
}

/// Asks the service for what the scratch buffer holds.
fn issue(gateway: &mut RespGateway, gamma: GroupSet, is_read: bool, tag: u32, sink: &mut dyn Sink) {
    match gamma.lowest() {
        Some(group) if is_read && gamma.len() == 1 => sink.read(group, tag, &gateway.scratch),
        _ => sink.ordered(gamma, is_read, tag, &gateway.scratch),
    }
    gateway.scratch.shrink_to(super::SCRATCH_KEPT_BYTES);
}

/// A request with a wrong number of arguments. EXEC ends the transaction all the same.
pub fn on_wrong_arity(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let error = request.arity_error();
    if request.spec.name != "exec" {
        return gateway.refuse(sink, &error);
    }
    gateway.transactions.reset();
    let reason = error.strip_prefix(b"ERR ").unwrap_or(&error);
    gateway.answer_error(sink, &[b"EXECABORT Transaction discarded because of: ", reason].concat());
}

/// A request while a transaction is open: it is kept for EXEC, unless it is about the transaction itself.
pub fn on_request(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    if matches!(request.spec.name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset") {
        return (request.spec.handler)(gateway, request, sink);
    }
    if request.spec.name == "client|reply" {
        // Redis leaves replies out of the list that it has announced.
        return gateway.refuse(sink, b"ERR CLIENT REPLY inside MULTI is not allowed");
    }
    let Some(mut open) = gateway.transactions.open.take() else { return };
    let mut is_too_long = false;
    if !open.is_spoiled {
        if request.spec.access == Access::Nothing {
            open.keep(request);
        } else {
            let mut queue = Queue { sink, open: &mut open };
            gateway.transactions.is_queueing = true;
            (request.spec.handler)(gateway, request, &mut queue);
            gateway.transactions.is_queueing = false;
        }
        is_too_long = open.steps.len() + open.kept_bytes > STEPS_BYTES_MAX || open.items.len() > STEPS_MAX;
    }
    if is_too_long {
        // Its memory is given back now, not at EXEC.
        open = Open { is_spoiled: true, ..Open::default() };
    }
    gateway.transactions.open = Some(open);
    if is_too_long {
        let text = format!("ERR transaction longer than {STEPS_BYTES_MAX} bytes or {STEPS_MAX} commands");
        return gateway.answer_error(sink, text.as_bytes());
    }
    gateway.answer(sink, |writer| writer.simple("QUEUED"));
}

impl Open {
    fn keep(&mut self, request: &Request<'_>) {
        let mut bytes = Vec::new();
        let arguments = (0..request.count()).map(|at| Span::append(request.argument(at), &mut bytes)).collect();
        self.kept_bytes += bytes.len() + request.count() * size_of::<Span>() + size_of::<Kept>();
        self.items.push(Item::Kept(Box::new(Kept { spec: request.spec, command: request.command, bytes, arguments })));
    }

    fn add_step(&mut self, gamma: GroupSet, is_read: bool, tag: u32, payload: &[u8]) {
        self.gamma = self.gamma.union(gamma);
        self.writes |= !is_read;
        if self.steps.len() + payload.len() + STEP_HEAD_BYTES_MAX <= STEPS_BYTES_MAX {
            push_step(&mut self.steps, gamma, payload);
        } else {
            self.kept_bytes += STEPS_BYTES_MAX;
        }
        self.items.push(Item::Step(tag));
    }
}

pub fn exec(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let Some(mut open) = gateway.transactions.open.take() else {
        return gateway.answer_error(sink, b"ERR EXEC without MULTI");
    };
    let watched = std::mem::take(&mut gateway.transactions.watched);
    let is_watch_lost = gateway.transactions.is_watch_lost;
    gateway.transactions.unwatch();
    if open.is_spoiled {
        return gateway.answer_error(sink, b"EXECABORT Transaction discarded because of previous errors.");
    }
    if is_watch_lost {
        return gateway.answer(sink, |writer| writer.null_array());
    }
    let is_resp3 = gateway.is_resp3;
    gateway.transactions.is_queueing = true;
    open.items.iter_mut().for_each(|item| item.prepare(gateway, sink));
    gateway.transactions.is_queueing = false;
    for key in watched.keys() {
        open.gamma.insert(sink.topology().group_of_slot(place_of(key).slot));
    }
    if open.gamma.is_empty() {
        // Nothing of the service: all replies are there.
        return gateway.answer(sink, |writer| {
            writer.array(open.items.len());
            open.items.iter().for_each(|item| item.write(writer.out));
        });
    }
    gateway.scratch.clear();
    Encoder(&mut gateway.scratch).transaction(watched.iter().map(|(key, version)| (&key[..], *version)), &open.steps);
    let is_silent = gateway.replies.is_silent;
    let tag = gateway.transactions.add_executed(Executed { is_resp3, is_silent, items: open.items });
    gateway.values.begin();
    issue(gateway, open.gamma, !open.writes, tag, sink);
}

impl Item {
    /// Has a kept request answered. HELLO among them decides how the replies after it are written.
    fn prepare(&mut self, gateway: &mut RespGateway, sink: &mut dyn Sink) {
        let kept = match self {
            Item::Step(tag) => {
                *tag = Form { is_resp3: gateway.is_resp3, is_silent: false, ..Form::of_tag(*tag) }.tag();
                return;
            }
            Item::Written(_) => return,
            Item::Kept(kept) => kept,
        };
        let mut open = Open::default();
        let Kept { spec, command, bytes, arguments } = &**kept;
        let request = Request { spec, command: *command, bytes, arguments, gamma: GroupSet::EMPTY };
        (spec.handler)(gateway, &request, &mut Queue { sink, open: &mut open });
        *self = open.items.pop().unwrap_or(Item::Written(Vec::new()));
    }

    fn write(&self, out: &mut Vec<u8>) {
        if let Item::Written(bytes) = self {
            out.extend_from_slice(bytes);
        }
    }
}

/// The service's reply with a tag of this module.
pub fn on_reply(gateway: &mut RespGateway, tag: u32, reply: &[u8], out: &mut Vec<u8>) {
    if tag == WATCH_TAG {
        let start = out.len();
        on_versions(gateway, reply, out);
        if gateway.transactions.is_silent {
            out.truncate(start);
        }
        return;
    }
    let Some(Executed { is_resp3, is_silent, items }) = gateway.transactions.take_executed(tag) else { return };
    gateway.values.end(reply.len());
    if is_silent {
        return;
    }
    let (start, mut writer) = (out.len(), Writer { out, is_resp3 });
    let is_whole = match split_reply(reply) {
        Some((Reply::Null, _)) => return writer.null_array(),
        Some((Reply::List(_), rest)) => {
            writer.array(items.len());
            write_items(gateway, &items, rest, writer.out)
        }
        _ => None,
    };
    if is_whole.is_none() {
        out.truncate(start);
        Writer { out, is_resp3 }.error(b"ERR internal error: the service's reply is malformed");
    }
}

/// There will be no reply with this tag. Whether nobody wants to hear of that.
pub fn on_failure(gateway: &mut RespGateway, tag: u32) -> bool {
    let transactions = &mut gateway.transactions;
    if tag == WATCH_TAG {
        transactions.asked = None;
        transactions.is_watch_lost = true;
        return transactions.is_silent;
    }
    let Some(executed) = transactions.take_executed(tag) else { return false };
    gateway.values.end(0);
    executed.is_silent
}

fn write_items(gateway: &mut RespGateway, items: &[Item], mut replies: &[u8], out: &mut Vec<u8>) -> Option<()> {
    use psmr_core::gateway::Gateway;
    for item in items {
        if let Item::Step(tag) = item {
            let rest = skip_reply(replies)?;
            gateway.on_reply(*tag, &replies[..replies.len() - rest.len()], out);
            replies = rest;
        } else {
            item.write(out);
        }
    }
    Some(())
}

fn on_versions(gateway: &mut RespGateway, reply: &[u8], out: &mut Vec<u8>) {
    let transactions = &mut gateway.transactions;
    let mut writer = Writer { out, is_resp3: gateway.is_resp3 };
    let mut replies = match split_reply(reply) {
        Some((Reply::List(_), rest)) => rest,
        _ => &[],
    };
    for key in transactions.asked.take().unwrap_or_default() {
        let Some((Reply::Integer(version), rest)) = split_reply(replies) else {
            transactions.is_watch_lost = true;
            return writer.error(b"ERR internal error: the service's reply is malformed");
        };
        transactions.watched.insert(key, version as u64);
        replies = rest;
    }
    writer.simple("OK");
}

/// Takes what a request's handler asks for into a transaction.
struct Queue<'a> {
    sink: &'a mut dyn Sink,
    open: &'a mut Open,
}

impl Sink for Queue<'_> {
    fn topology(&self) -> &Topology {
        self.sink.topology()
    }

    fn node(&self) -> &NodeInfo {
        self.sink.node()
    }

    fn wall_ms(&self) -> u64 {
        self.sink.wall_ms()
    }

    fn clients(&self) -> Vec<ClientInfo> {
        self.sink.clients()
    }

    fn addresses(&self) -> Vec<(u8, String)> {
        self.sink.addresses()
    }

    fn usage(&self) -> Option<Usage> {
        self.sink.usage()
    }

    fn is_out_of_memory(&self) -> bool {
        self.sink.is_out_of_memory()
    }

    fn stall(&mut self, time: Duration) {
        self.sink.stall(time);
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.open.kept_bytes += bytes.len();
        self.open.items.push(Item::Written(bytes.to_vec()));
    }

    fn ordered(&mut self, gamma: GroupSet, read: bool, tag: u32, payload: &[u8]) {
        self.open.add_step(gamma, read, tag, payload);
    }

    fn read(&mut self, group: GroupId, tag: u32, payload: &[u8]) {
        self.open.add_step(GroupSet::one(group), true, tag, payload);
    }

    fn is_full(&self) -> bool {
        false
    }
}
