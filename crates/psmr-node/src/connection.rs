//! One client connection: bytes in, requests to the proxy, replies in order of issue, bytes out.

use crate::clock::wall_ms;
use crate::native::AddressBook;
use crate::reply_room::ReplyRoom;
use psmr_core::client::{ClientProxy, ConnectionOrder};
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::config::COMMAND_BYTES_MAX;
use psmr_core::execute::LARGE_REPLY_BYTES;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, NodeInfo, Sink, Usage};
use psmr_core::routing::Topology;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// A buffer that was larger for a moment goes back to this size.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Requests of one connection that may wait for their replies, as long as those are small.
const PENDING_MAX: usize = 16 << 10;

/// How many may at first, and after a large reply: how large those of the others are is not known before they are there.
const PENDING_MAX_FIRST: usize = 128;

/// Bytes of these requests: reads wait as long as there is no quorum.
const PENDING_BYTES_MAX: usize = 16 << 20;

/// Bytes of replies that a client may leave unread before no more of its requests are taken.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Replies wait this long for those of other requests that the client has sent already: they then leave together.
pub const REPLY_WAIT_MAX: Duration = Duration::from_millis(1);

/// What the gateway has answered by itself, such as QUEUED, waits so long for the service's replies to requests behind it.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(10);

/// Replies wait for no others when there are so many bytes of them.
const REPLY_WAIT_BYTES_MAX: usize = 16 << 10;

/// A request's place in the order of replies.
struct Place {
    tag: u32,
    /// Of the request, until it is answered.
    request_bytes: u32,
    /// The reply's bytes for the client, once it is there.
    reply: Option<SmallVec<[u8; 24]>>,
}

/// A command that waits for a predecessor in another log.
struct Stalled {
    gamma: GroupSet,
    read: bool,
    payload: Vec<u8>,
    token: u64,
}

/// A client connection.
pub struct Connection {
    pub stream: mio::net::TcpStream,
    pub gateway: Box<dyn Gateway>,
    pub since_ms: u64,
    pub address: String,
    pub id: u64,
    order: ConnectionOrder,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Since when replies wait for others.
    waits_since: Option<Instant>,
    /// Replies of the service are among them.
    has_replies: bool,
    pending: VecDeque<Place>,
    pending_bytes: usize,
    /// How many requests may be pending: one more with each small reply.
    pending_max: usize,
    /// Bytes of replies that wait for those before them.
    held_bytes: usize,
    /// The number of the first pending request.
    first: u32,
    stalled: Option<Stalled>,
    /// Requests over the limit, which fail once the gateway has returned.
    too_long: Vec<u32>,
    /// More may be there to be read.
    readable: bool,
    /// No more requests are taken: the client has gone, or has to go after the replies so far.
    pub closing: bool,
    /// The client is gone: replies go nowhere.
    pub gone: bool,
}

/// What a connection's thread lends it.
pub struct Lent<'a> {
    pub proxy: &'a mut ClientProxy,
    /// The command whose time is taken: its token, and when it came.
    pub timed: &'a mut Option<(u64, Instant)>,
    pub node: &'a NodeInfo,
    pub clients: &'a dyn Fn() -> Vec<ClientInfo>,
    pub addresses: &'a AddressBook,
    /// How many there have been.
    pub connections: u64,
    /// For large replies.
    pub room: &'a ReplyRoom,
    /// The process has more memory than it may, when that was last looked at.
    pub is_out_of_memory: bool,
}

impl Connection {
    /// A new connection.
    pub fn new(stream: mio::net::TcpStream, gateway: Box<dyn Gateway>, id: u64, address: String) -> Connection {
        Connection {
            stream,
            gateway,
            since_ms: wall_ms(),
            address,
            id,
            order: ConnectionOrder::default(),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            waits_since: None,
            has_replies: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_max: PENDING_MAX_FIRST,
            held_bytes: 0,
            first: 0,
            stalled: None,
            too_long: Vec::new(),
            readable: false,
            closing: false,
            gone: false,
        }
    }

    /// As others may list it.
    pub fn info(&self) -> ClientInfo {
        ClientInfo { id: self.id, address: self.address.clone(), since_ms: self.since_ms, ..self.gateway.info() }
    }

    /// Bytes that came before the connection was known to be one of this protocol.
    pub fn preload(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.readable = true;
    }

    /// There is something to read.
    pub fn on_readable(&mut self) {
        self.readable = true;
    }

    /// Reads and takes requests, as far as the limits allow. `at`: the connection's place in its thread's table.
    pub fn work(&mut self, at: u32, lent: &mut Lent<'_>, scratch: &mut [u8]) {
        self.retry_stalled(lent);
        loop {
            self.take_requests(at, lent);
            if !self.readable || self.closing || self.is_full(lent) {
                break;
            }
            match self.stream.read(scratch) {
                Ok(0) => self.leave(),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    self.readable = count == scratch.len();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.leave(),
            }
        }
        if self.closing {
            self.input.clear();
        }
        if self.input.len() < BUFFER_BYTES_KEPT {
            self.input.shrink_to(BUFFER_BYTES_KEPT);
        }
    }

    fn leave(&mut self) {
        self.gone = true;
        self.closing = true;
        self.readable = false;
    }

    fn is_full(&self, lent: &Lent<'_>) -> bool {
        self.stalled.is_some()
            || self.pending.len() >= self.pending_max
            || self.pending_bytes >= PENDING_BYTES_MAX
            || self.unsent() >= OUTPUT_BYTES_MAX
            || lent.proxy.is_full()
            || self.gateway.is_waiting()
    }

    /// Bytes of replies that the client has not taken.
    pub fn unsent(&self) -> usize {
        self.output.len() - self.written + self.held_bytes
    }

    /// The number of the request whose reply is the next to leave, once those before it have nearly left; else one that has been
    /// answered.
    pub fn next_to_leave(&self) -> u32 {
        match self.output.len() - self.written < OUTPUT_BYTES_MAX {
            true => self.first,
            false => self.first.wrapping_sub(1),
        }
    }

    /// Whether there is something to do once there is room again.
    pub fn is_held_up(&self) -> bool {
        !self.closing && (self.stalled.is_some() || self.readable || !self.input.is_empty())
    }

    fn take_requests(&mut self, at: u32, lent: &mut Lent<'_>) {
        if self.closing || self.input.is_empty() || self.is_full(lent) {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        // The gateway and the places are both the connection's: the sink has the latter.
        let mut gateway = std::mem::replace(&mut self.gateway, Box::new(NoGateway));
        let mut sink = Requests { connection: self, at, lent };
        match gateway.on_input(&input, &mut sink) {
            Ok(count) => drop(input.drain(..count)),
            Err(last_words) => {
                sink.answer(&last_words);
                self.closing = true;
            }
        }
        self.closing |= gateway.wants_close();
        self.gateway = gateway;
        self.input = input;
        for number in std::mem::take(&mut self.too_long) {
            self.on_failure(number, Failure::TooLong);
        }
    }

    fn retry_stalled(&mut self, lent: &mut Lent<'_>) {
        if let Some(stalled) = self.stalled.take() {
            let done = lent.proxy.ordered(&mut self.order, stalled.gamma, stalled.read, &stalled.payload, stalled.token);
            if done.is_err() {
                self.stalled = Some(stalled);
            }
        }
    }

    /// The service's reply to the request with this number.
    pub fn on_reply(&mut self, number: u32, reply: &[u8]) {
        self.pending_max = match reply.len() {
            ..LARGE_REPLY_BYTES => PENDING_MAX.min(self.pending_max + 1),
            _ => PENDING_MAX_FIRST,
        };
        self.fill(number, |gateway, tag, out| gateway.on_reply(tag, reply, out));
    }

    /// The request with this number has no reply.
    pub fn on_failure(&mut self, number: u32, failure: Failure) {
        self.fill(number, |gateway, tag, out| gateway.on_failure(tag, failure, out));
    }

    fn fill(&mut self, number: u32, write: impl FnOnce(&mut dyn Gateway, u32, &mut Vec<u8>)) {
        let at = number.wrapping_sub(self.first) as usize;
        let Some(place) = self.pending.get_mut(at).filter(|place| place.reply.is_none()) else { return };
        self.pending_bytes -= std::mem::take(&mut place.request_bytes) as usize;
        if at == 0 {
            if !std::mem::replace(&mut self.has_replies, true) {
                self.waits_since = None;
            }
            write(&mut *self.gateway, place.tag, &mut self.output);
            self.pending.pop_front();
            self.first = self.first.wrapping_add(1);
            self.release();
            return;
        }
        // Behind others: what the gateway writes at the end of the output is set aside.
        let end = self.output.len();
        write(&mut *self.gateway, place.tag, &mut self.output);
        let reply = if self.gone { &[] } else { &self.output[end..] };
        self.held_bytes += reply.len();
        place.reply = Some(SmallVec::from_slice(reply));
        self.output.truncate(end);
    }

    /// Moves replies that nothing is before any more to the output.
    fn release(&mut self) {
        while let Some(Place { reply: Some(reply), .. }) = self.pending.front() {
            self.output.extend_from_slice(reply);
            self.held_bytes -= reply.len();
            self.pending.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Writes what is to be written, unless it has to wait for more. False: it has to.
    pub fn flush(&mut self) -> bool {
        let more_to_come = !self.pending.is_empty() && !self.closing && self.output.len() < REPLY_WAIT_BYTES_MAX;
        if more_to_come && !self.output.is_empty() {
            let since = *self.waits_since.get_or_insert_with(Instant::now);
            if since.elapsed() < if self.has_replies { REPLY_WAIT_MAX } else { ANSWER_WAIT_MAX } {
                return false;
            }
        }
        self.waits_since = None;
        self.has_replies = false;
        self.write();
        true
    }

    fn write(&mut self) {
        while !self.gone && self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => self.leave(),
                Ok(count) => self.written += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.forget_written(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.leave(),
            }
        }
        self.output.clear();
        self.output.shrink_to(BUFFER_BYTES_KEPT);
        self.written = 0;
    }

    /// To a client that never reads all there is, more and more is written.
    fn forget_written(&mut self) {
        if self.written >= OUTPUT_BYTES_MAX {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.closing && self.pending.is_empty() && self.stalled.is_none() && (self.gone || self.output.is_empty())
    }
}

/// Where a connection's gateway puts requests.
struct Requests<'a, 'b> {
    connection: &'a mut Connection,
    at: u32,
    lent: &'a mut Lent<'b>,
}

impl Requests<'_, '_> {
    fn place(&mut self, tag: u32, payload: &[u8]) -> u64 {
        let number = self.connection.first.wrapping_add(self.connection.pending.len() as u32);
        self.connection.pending.push_back(Place { tag, request_bytes: payload.len() as u32, reply: None });
        self.connection.pending_bytes += payload.len();
        u64::from(self.at) << 32 | u64::from(number)
    }

    /// Whether a request is over the limit: its place then gets a failure, and nothing of it goes on.
    fn is_too_long(&mut self, payload: &[u8], token: u64) -> bool {
        let is_too_long = payload.len() > COMMAND_BYTES_MAX;
        if is_too_long {
            self.connection.too_long.push(token as u32);
        }
        is_too_long
    }
}

impl Sink for Requests<'_, '_> {
    fn topology(&self) -> &Topology {
        self.lent.proxy.topology()
    }

    fn node(&self) -> &NodeInfo {
        self.lent.node
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    fn clients(&self) -> Vec<ClientInfo> {
        (self.lent.clients)()
    }

    fn addresses(&self) -> Vec<(u8, String)> {
        self.lent.addresses.entries()
    }

    fn usage(&self) -> Option<Usage> {
        crate::usage::used(self.lent.connections)
    }

    fn is_out_of_memory(&self) -> bool {
        self.lent.is_out_of_memory
    }

    fn stall(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.connection.pending.is_empty() {
            self.connection.output.extend_from_slice(bytes);
        } else {
            self.connection.held_bytes += bytes.len();
            self.connection.pending.push_back(Place { tag: 0, request_bytes: 0, reply: Some(SmallVec::from_slice(bytes)) });
        }
    }

    fn ordered(&mut self, gamma: GroupSet, read: bool, tag: u32, payload: &[u8]) {
        let token = self.place(tag, payload);
        if self.is_too_long(payload, token) {
            return;
        }
        self.lent.room.note_command(self.at as usize, token as u32);
        self.lent.timed.get_or_insert_with(|| (token, Instant::now()));
        if self.lent.proxy.ordered(&mut self.connection.order, gamma, read, payload, token).is_err() {
            self.connection.stalled = Some(Stalled { gamma, read, payload: payload.to_vec(), token });
        }
    }

    fn read(&mut self, group: GroupId, tag: u32, payload: &[u8]) {
        let token = self.place(tag, payload);
        if self.is_too_long(payload, token) {
            return;
        }
        self.lent.proxy.read(&self.connection.order, group, payload, token);
    }

    fn is_full(&self) -> bool {
        self.connection.is_full(self.lent)
    }
}

/// Stands in while a connection's gateway is at work.
struct NoGateway;

impl Gateway for NoGateway {
    fn on_input(&mut self, _: &[u8], _: &mut dyn Sink) -> Result<usize, Vec<u8>> {
        Ok(0)
    }
    fn on_reply(&mut self, _: u32, _: &[u8], _: &mut Vec<u8>) {}
    fn on_failure(&mut self, _: u32, _: Failure, _: &mut Vec<u8>) {}
    fn info(&self) -> ClientInfo {
        ClientInfo::default()
    }
    fn wants_close(&self) -> bool {
        false
    }
}
