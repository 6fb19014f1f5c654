//! The replica's side of a native connection: whatever a client sends is checked here, before the engine sees it.
//!
//! A client that does not read its replies is not read from either. Its commands are bounded by what the logs take in
//! (`Config::pending_bytes_max`), its reads here.

use crate::clock::{steady_ms, wall_ms};
use crate::consensus_thread::{Input, Question};
use crate::mailbox::Mailbox;
use crate::native::{self, AddressBook, FromClient, FromReplica, Hello, Kind, Refusal, RefusalCode, Welcome};
use crate::router::{ClientInput, Router};
use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use psmr_core::command::{GroupId, LogId, ReplicaId, SessionId};
use psmr_core::entry::{decode_batch, Item, Numbers};
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Event};
use psmr_core::routing::Topology;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

/// Bytes of replies that a client may leave unread before nothing more is taken from it.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// A buffer that was larger for a moment goes back to this size.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Reads of one connection that may wait for their replies.
const READS_MAX: usize = 8 << 10;

/// How far ahead a command's expiry may be: sessions are remembered until then.
const EXPIRY_MS_MAX: u64 = 600_000;

/// Numbers beyond this are not reached by counting.
const NUMBER_MAX: u64 = 1 << 60;

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet, or the connection goes on.
    Stays,
    /// It is no native connection.
    IsOther,
    /// It is at its end.
    Ends,
}

/// What the thread's native connections have in common.
pub struct NativeParts {
    pub engine: Arc<Engine>,
    pub consensus: Arc<Mailbox<Input>>,
    pub mailbox: Arc<Mailbox<ClientInput>>,
    pub router: Arc<Router>,
    pub addresses: Arc<AddressBook>,
    /// The thread's own session, which no client may use.
    pub own: SessionId,
    /// What clients are told of the replica; clock and addresses are filled in.
    pub welcome: Welcome,
    /// Which connection has which session, by its place in the thread's table.
    pub sessions: HashMap<SessionId, usize>,
    /// Connections whose session went to another one: they are to be ended.
    pub superseded: Vec<usize>,
    /// Whether the replica has more memory than it may.
    pub is_out_of_memory: bool,
}

/// The time that expiries count in, as far as this replica knows.
pub fn log_time_ms(engine: &Engine) -> u64 {
    steady_ms().max(engine.log_time_ms())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is known about it.
    New,
    /// It speaks this protocol.
    Greeted,
    /// A session is answered here.
    Open(SessionId),
}

/// A connection that is native, or about which nothing is known yet.
pub struct NativeConnection {
    stream: TcpStream,
    address: String,
    id: u64,
    stage: Stage,
    input: BytesMut,
    output: Vec<u8>,
    written: usize,
    /// The system took no more output when it was last asked.
    is_blocked: bool,
    /// More may be there to be read.
    readable: bool,
    reads_outstanding: usize,
    /// The version of the addresses that the client knows.
    addresses_version: u64,
    /// Whether the client knows that the replica has more memory than it may.
    knows_of_memory: bool,
    /// The last words are in the output.
    is_refused: bool,
}

impl NativeConnection {
    /// A connection that has just been accepted. `id`: unique in its thread.
    pub fn new(stream: TcpStream, address: String, id: u64) -> NativeConnection {
        NativeConnection {
            stream,
            address,
            id,
            stage: Stage::New,
            input: BytesMut::new(),
            output: Vec::new(),
            written: 0,
            is_blocked: false,
            readable: false,
            reads_outstanding: 0,
            addresses_version: 0,
            knows_of_memory: false,
            is_refused: false,
        }
    }

    /// For another protocol: the stream, what has been read from it, the client's address, and the connection's id.
    pub fn into_parts(self) -> (TcpStream, BytesMut, String, u64) {
        (self.stream, self.input, self.address, self.id)
    }

    /// What names the connection in questions: its place in its thread's table, which another may have later, and its id.
    pub fn number(&self, at: usize) -> u64 {
        self.id << 32 | at as u64
    }

    /// The session that is answered on this connection.
    pub fn session(&self) -> Option<SessionId> {
        match self.stage {
            Stage::Open(session) => Some(session),
            _ => None,
        }
    }

    /// There is something to read.
    pub fn on_readable(&mut self) {
        self.readable = true;
    }

    /// An event of the connection's session.
    pub fn on_event(&mut self, event: Event) {
        if let Event::Reads { tokens, .. } | Event::ReadsLost { tokens, .. } = &event {
            self.reads_outstanding = self.reads_outstanding.saturating_sub(tokens.len());
        }
        FromReplica::Event(event).write(&mut self.output);
    }

    /// Another replica leads a log.
    pub fn on_leader_change(&mut self, log: LogId) {
        if let Stage::Open(_) = self.stage {
            FromReplica::LeaderChange(log).write(&mut self.output);
        }
    }

    /// The answer to a question.
    pub fn tell(&mut self, text: &str) {
        FromReplica::Answer(Bytes::copy_from_slice(text.as_bytes())).write(&mut self.output);
    }

    /// Tells the client the replicas' addresses if they are news; true if so.
    pub fn tell_addresses(&mut self, addresses: &AddressBook) -> bool {
        let version = addresses.version();
        let is_news = self.session().is_some() && self.addresses_version != version;
        if is_news {
            self.addresses_version = version;
            FromReplica::Addresses(addresses.entries()).write(&mut self.output);
        }
        is_news
    }

    /// Tells the client whether the replica has more memory than it may, if that is news; true if so.
    pub fn tell_memory(&mut self, is_out: bool) -> bool {
        let is_news = self.session().is_some() && self.knows_of_memory != is_out;
        if is_news {
            self.knows_of_memory = is_out;
            FromReplica::Memory { is_out }.write(&mut self.output);
        }
        is_news
    }

    /// Another connection has taken the session over.
    pub fn supersede(&mut self) {
        self.refuse(RefusalCode::Session, "another connection uses this session".into());
        self.flush();
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Writes, reads and handles what there is, as far as the limits allow. `at`: the connection's place in its thread's
    /// table. What is for the consensus thread is added to `inputs`, in order.
    pub fn work(&mut self, at: usize, parts: &mut NativeParts, inputs: &mut Vec<Input>, scratch: &mut [u8]) -> Fate {
        loop {
            if !self.flush() {
                return Fate::Ends;
            }
            if self.is_refused {
                // Without unread input the system delivers the last words before it ends the connection.
                let _ = self.stream.shutdown(Shutdown::Write);
                while matches!(self.stream.read(scratch), Ok(count) if count > 0) {}
                return Fate::Ends;
            }
            let fate = self.take_frames(at, parts, inputs);
            if fate != Fate::Stays {
                return fate;
            }
            if self.is_refused || self.has_output() {
                continue;
            }
            if !self.readable || self.is_full() {
                return Fate::Stays;
            }
            match self.stream.read(scratch) {
                Ok(0) => return Fate::Ends,
                Ok(count) => self.input.extend_from_slice(&scratch[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Fate::Ends,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.output.len() - self.written >= OUTPUT_BYTES_MAX || self.reads_outstanding >= READS_MAX
    }

    /// Whether there is output that the system has not refused yet.
    fn has_output(&self) -> bool {
        !self.is_blocked && !self.output.is_empty()
    }

    /// Writes what waits. False: the connection is at its end.
    fn flush(&mut self) -> bool {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return false,
                Ok(count) => self.written += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    self.forget_written();
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output.clear();
        self.output.shrink_to(BUFFER_BYTES_KEPT);
        self.written = 0;
        self.is_blocked = false;
        true
    }

    /// To a client that never reads all there is, more and more is written.
    fn forget_written(&mut self) {
        if self.written >= OUTPUT_BYTES_MAX {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    fn refuse(&mut self, code: RefusalCode, text: String) {
        FromReplica::Refusal(Refusal { code, text }).write(&mut self.output);
        self.is_refused = true;
    }

    fn take_frames(&mut self, at: usize, parts: &mut NativeParts, inputs: &mut Vec<Input>) -> Fate {
        if self.stage == Stage::New {
            let fate = self.take_greeting();
            if fate != Fate::Stays || self.stage == Stage::New {
                return fate;
            }
        }
        while !self.is_refused && !self.is_full() {
            let frame = match native::decode::<Kind>(&mut self.input) {
                Ok(None) => break,
                Ok(Some((kind, body))) => FromClient::read(kind, body).map_err(|e| e.to_string()),
                Err(what) => Err(what),
            };
            let handled = frame.and_then(|frame| self.on_frame(frame, at, parts, inputs));
            if let Err(text) = handled {
                self.refuse(RefusalCode::Protocol, text);
            }
        }
        Fate::Stays
    }

    fn take_greeting(&mut self) -> Fate {
        let magic = &native::GREETING[..native::MAGIC_BYTES];
        let known = self.input.len().min(magic.len());
        if self.input[..known] != magic[..known] {
            return if self.input[0] == magic[0] { Fate::Ends } else { Fate::IsOther };
        }
        if self.input.len() >= native::GREETING.len() {
            self.output.extend_from_slice(native::GREETING);
            let greeting = self.input.split_to(native::GREETING.len());
            let (theirs, ours) = (greeting[native::MAGIC_BYTES], native::GREETING[native::MAGIC_BYTES]);
            self.stage = Stage::Greeted;
            if theirs != ours {
                let text = format!("the client speaks version {theirs}, this replica speaks {ours}: use the same release");
                self.refuse(RefusalCode::Version, text);
            }
        }
        Fate::Stays
    }

    fn on_frame(&mut self, frame: FromClient, at: usize, parts: &mut NativeParts, inputs: &mut Vec<Input>) -> Result<(), String> {
        match (frame, self.stage) {
            (FromClient::Question(body), _) => self.ask(&body, at, parts, inputs),
            (FromClient::Hello(hello), Stage::Greeted) => self.open(&hello, at, parts),
            (FromClient::Hello(_), _) => return Err("a second hello".into()),
            (FromClient::Batch(log, batch), Stage::Open(session)) => {
                check_batch(&parts.engine.topology, parts.engine.me, session, log, &batch, log_time_ms(&parts.engine))?;
                inputs.push(Input::Batch(log, batch));
            }
            (FromClient::Reads(group, batch), Stage::Open(session)) => {
                let stream = self.put_reads(group, batch, session, &parts.engine)?;
                inputs.push(Input::Rounds(1 << stream.0));
            }
            (FromClient::Batch(..) | FromClient::Reads(..), _) => return Err("commands before a hello".into()),
        }
        Ok(())
    }

    fn ask(&mut self, body: &[u8], at: usize, parts: &NativeParts, inputs: &mut Vec<Input>) {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let question = match value["ask"].as_str() {
            Some("status") => Question::Status,
            Some("metrics") => Question::Metrics,
            Some("digest") => Question::Digest {
                request: value["request"].as_u64().unwrap_or(0),
                start: value["start"].as_bool().unwrap_or(false),
            },
            _ => return self.tell(r#"{"error": "unknown question: ask status, metrics or digest"}"#),
        };
        inputs.push(Input::Question { from: parts.mailbox.clone(), connection: self.number(at), question });
    }

    fn open(&mut self, hello: &Hello, at: usize, parts: &mut NativeParts) {
        if hello.service != parts.welcome.service {
            let text = format!("the client wants the service {:?}, this cluster runs {:?}", hello.service, parts.welcome.service);
            return self.refuse(RefusalCode::Service, text);
        }
        if hello.session == parts.own {
            return self.refuse(RefusalCode::Session, "the session is the replica's own".into());
        }
        self.stage = Stage::Open(hello.session);
        parts.superseded.extend(parts.sessions.insert(hello.session, at));
        parts.router.add(hello.session, parts.mailbox.clone());
        self.addresses_version = parts.addresses.version();
        let welcome =
            Welcome { time_ms: log_time_ms(&parts.engine), addresses: parts.addresses.entries(), ..parts.welcome.clone() };
        FromReplica::Welcome(Box::new(welcome)).write(&mut self.output);
        self.tell_memory(parts.is_out_of_memory);
    }

    fn put_reads(&mut self, group: GroupId, mut batch: ReadBatch, session: SessionId, engine: &Engine) -> Result<LogId, String> {
        if !engine.topology.all().contains(group) {
            return Err(format!("reads of group {}, which does not exist", group.0));
        }
        let stream = engine.topology.stream_of(group);
        self.reads_outstanding += batch.items.len();
        batch.session = session;
        batch.wall_ms = wall_ms();
        batch.round = engine.rounds[stream.index()].ticket();
        engine.push_reads(group, batch);
        Ok(stream)
    }
}

/// Checks everything about a batch that the engine relies on.
fn check_batch(
    topology: &Topology,
    me: ReplicaId,
    session: SessionId,
    log: LogId,
    batch: &Bytes,
    now_ms: u64,
) -> Result<(), String> {
    if log.index() >= topology.logs() {
        return Err(format!("a batch for log {}, which does not exist", log.0));
    }
    let entry = decode_batch(topology.groups_of(log), log, batch).map_err(|e| e.to_string())?;
    let [head] = entry.heads[..] else { return Err(format!("{} batches in one frame", entry.heads.len())) };
    if head.session != session {
        return Err("a batch of another session".into());
    }
    if head.origin != me {
        return Err(format!("a batch that replica {} is to answer", head.origin));
    }
    if head.expires_ms > now_ms + EXPIRY_MS_MAX {
        return Err("a batch that expires too late".into());
    }
    let is_countable = |numbers: &Numbers| numbers.first < NUMBER_MAX;
    let mut countable = entry.barriers.iter().all(|barrier| barrier.numbers.iter().all(is_countable));
    let mut in_place = entry.barriers.iter().all(|barrier| topology.log_of(barrier.gamma) == log);
    for group in entry.groups.iter() {
        let items = (0..).map_while(|at| entry.item(group, at));
        for item in items {
            if let Item::Run(run) = item {
                countable &= is_countable(&run.numbers);
                in_place &= topology.stream_of(group) == log;
            }
        }
    }
    match (countable, in_place) {
        (false, _) => Err("commands with numbers that cannot be".into()),
        (_, false) => Err("commands in the wrong log for their groups".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use psmr_core::client::{ClientProxy, ConnectionOrder, ProxyLimits};

    const SESSION: SessionId = SessionId(8);

    fn topology() -> Topology {
        Topology::new(4, 2)
    }

    /// Batches of a real proxy, by log.
    fn batches(session: SessionId, now_ms: u64) -> Vec<(LogId, Bytes)> {
        let mut proxy = ClientProxy::new(session, 2, true, topology(), ProxyLimits::default());
        for groups in [&[1][..], &[1, 3], &[0, 1]] {
            let gamma = groups.iter().map(|g| GroupId(*g)).collect();
            proxy.ordered(&mut ConnectionOrder::default(), gamma, false, b"payload", 1).unwrap();
        }
        let mut batches = Vec::new();
        proxy.flush(now_ms, |log, batch| batches.push((log, batch)));
        batches
    }

    fn check(session: SessionId, me: ReplicaId, log: LogId, batch: &Bytes) -> Result<(), String> {
        check_batch(&topology(), me, session, log, batch, 1_000)
    }

    #[test]
    fn what_a_proxy_makes_passes() {
        let made = batches(SESSION, 1_000);
        assert_eq!(made.len(), 2);
        for (log, batch) in made {
            assert_eq!(check(SESSION, 2, log, &batch), Ok(()));
        }
    }

    #[test]
    fn what_is_not_the_clients_to_send_is_refused() {
        let (log, batch) = batches(SESSION, 1_000).remove(0);
        let twice: Bytes = [&batch[..], &batch[..]].concat().into();
        let late = batches(SESSION, 10_000_000).remove(0).1;
        let mut numbered = batch.to_vec();
        let first_number = 4 + 22 + 2;
        numbered[first_number + 7] = 0xff;
        let cases = [
            (check(SessionId(9), 2, log, &batch), "another session"),
            (check(SESSION, 1, log, &batch), "replica 2 is to answer"),
            (check(SESSION, 2, LogId(3), &batch), "log 3"),
            (check(SESSION, 2, LogId(0), &batch), "malformed"),
            (check(SESSION, 2, LogId(2), &batch), "wrong log"),
            (check(SESSION, 2, log, &twice), "2 batches"),
            (check(SESSION, 2, log, &late), "expires"),
            (check(SESSION, 2, log, &numbered.into()), "numbers"),
            (check(SESSION, 2, log, &Bytes::new()), "0 batches"),
        ];
        for (checked, why) in cases {
            let text = checked.expect_err(why);
            assert!(text.contains(why), "{text:?} does not say {why:?}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_no_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let (log, batch) = batches(SESSION, 1_000).remove(0);
            let mut damaged = batch.to_vec();
            *at.get_mut(&mut damaged) = byte;
            let _ = check(SESSION, 2, log, &damaged.clone().into());
            damaged.truncate(cut.index(damaged.len()));
            prop_assert!(check(SESSION, 2, log, &damaged.into()).is_err());
        }
    }
}
