//! Client connections, their gateways, and one client proxy whose session is answered here. They have a thread of their own,
//! or, where cores are few, turns in the consensus thread.
//!
//! One turn reads all connections that have something, hands reads to their groups and batches to the consensus thread, and
//! writes the replies that have come.

use crate::clock::{steady_ms, wall_ms};
use crate::connection::{Connection, Lent, REPLY_WAIT_MAX};
use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use crate::native::{AddressBook, Welcome};
use crate::native_session::{Fate, NativeConnection, NativeParts};
use crate::reply_room::ReplyRoom;
use crate::router::{ClientInput, Router};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Registry, Token};
use psmr_core::client::{Answer, ClientProxy};
use psmr_core::command::{LogId, SessionId};
use psmr_core::execute::{Engine, Event, LARGE_REPLY_BYTES};
use psmr_core::gateway::{ClientInfo, Failure, Gateway, NodeInfo};
use psmr_core::observe::Stage;
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The token of the listener; connections have those after it. Those before it are others'.
const LISTENER: Token = Token(256);
const CONNECTIONS: usize = 257;

/// How often the proxy looks at the clock, while commands are outstanding.
const CLOCK: Duration = Duration::from_millis(100);

/// How often it does while there are none.
const CLOCK_IDLE: Duration = Duration::from_secs(1);

/// A command without a reply for so long is timed no more.
const TIMED_MAX: Duration = Duration::from_secs(60);

/// A turn looks at no further connections after this long, so that whoever shares the thread has turns too.
const TURN_TIME_MAX: Duration = Duration::from_millis(10);

/// Connections that a turn looks at before it looks at the clock.
const CONNECTIONS_PER_LOOK: usize = 16;

/// Connections at once.
const CONNECTIONS_MAX: usize = 10_000;

/// Makes the gateway of a new connection, which is listed under this id.
pub type GatewayFactory = Arc<dyn Fn(u64) -> Box<dyn Gateway> + Send + Sync>;

/// Tells how many commands clients have asked for, by name.
pub type CommandCounts = Arc<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// How many clients a replica has, and has had.
#[derive(Debug, Default)]
pub struct Connections {
    pub open: AtomicU64,
    pub accepted: AtomicU64,
}

enum Seat {
    Empty,
    Client(Box<Connection>),
    /// It speaks the native protocol, or has not said anything yet.
    Native(Box<NativeConnection>),
}

/// What clients are served with.
pub struct Parts {
    pub registry: Registry,
    pub mailbox: Arc<Mailbox<ClientInput>>,
    pub listener: TcpListener,
    pub proxy: ClientProxy,
    pub engine: Arc<Engine>,
    pub consensus: Arc<Mailbox<Input>>,
    pub router: Arc<Router>,
    pub node: NodeInfo,
    pub factory: GatewayFactory,
    /// All connections of the replica, for those that list them.
    pub directory: Arc<Mutex<Vec<ClientInfo>>>,
    /// Where clients connect to the replicas.
    pub addresses: Arc<AddressBook>,
    /// How many there are.
    pub connections: Arc<Connections>,
    /// What native clients are told of the replica.
    pub welcome: Welcome,
}

/// All that a replica has of its clients.
pub struct Clients {
    parts: Parts,
    native: NativeParts,
    seats: Vec<Seat>,
    free: Vec<usize>,
    /// Connections to be looked at in this turn.
    touched: Vec<usize>,
    is_touched: Vec<bool>,
    held_up: bool,
    /// The command whose time is taken: one after the other.
    timed: Option<(u64, Instant)>,
    /// Connections with replies that wait for others.
    waiting: Vec<usize>,
    next_id: u64,
    scratch: Vec<u8>,
    batches: Vec<Input>,
    inputs: Vec<ClientInput>,
    next_clock: Instant,
    room: Arc<ReplyRoom>,
    /// Reads that are held may have room now.
    has_room_again: bool,
}

impl Clients {
    /// Takes over the parts.
    ///
    /// # Errors
    /// If the listener cannot be polled.
    pub fn new(mut parts: Parts) -> io::Result<Clients> {
        parts.registry.register(&mut parts.listener, LISTENER, Interest::READABLE)?;
        parts.router.add(parts.proxy.session(), parts.mailbox.clone());
        let room = Arc::new(ReplyRoom::new(CONNECTIONS_MAX));
        parts.router.limit(parts.proxy.session(), room.clone());
        let native = NativeParts {
            engine: parts.engine.clone(),
            consensus: parts.consensus.clone(),
            mailbox: parts.mailbox.clone(),
            router: parts.router.clone(),
            addresses: parts.addresses.clone(),
            own: parts.proxy.session(),
            welcome: parts.welcome.clone(),
            sessions: HashMap::new(),
            superseded: Vec::new(),
            is_out_of_memory: false,
        };
        Ok(Clients {
            parts,
            native,
            seats: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            is_touched: Vec::new(),
            held_up: false,
            timed: None,
            waiting: Vec::new(),
            next_id: 1,
            scratch: vec![0; 64 << 10],
            batches: Vec::new(),
            inputs: Vec::new(),
            next_clock: Instant::now(),
            room,
            has_room_again: false,
        })
    }

    /// Runs in a thread of its own until the replica is stopped.
    ///
    /// # Errors
    /// If the system does not let it poll.
    pub fn run(mut self, mut poll: Poll, stopping: &AtomicBool) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !stopping.load(Ordering::SeqCst) {
            // Lets who is ready run first: under load more has come by the time of the poll, and a turn is paid per batch.
            thread::yield_now();
            match poll.poll(&mut events, Some(self.prepare_sleep())) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            self.turn(&events);
        }
        Ok(())
    }

    /// How long the thread may sleep before the next turn, unless something comes.
    pub fn prepare_sleep(&self) -> Duration {
        if !self.touched.is_empty() || !self.parts.mailbox.may_sleep() {
            return Duration::ZERO;
        }
        let wait = self.next_clock.saturating_duration_since(Instant::now());
        if self.waiting.is_empty() {
            wait
        } else {
            wait.min(REPLY_WAIT_MAX)
        }
    }

    /// Does what there is to do. Events that are not of clients are passed over.
    pub fn turn(&mut self, events: &Events) {
        self.parts.mailbox.wake_up();
        self.take_inputs();
        for event in events {
            match event.token() {
                LISTENER => self.accept(),
                Token(token) if token >= CONNECTIONS => self.on_connection_event(token - CONNECTIONS, event),
                _ => {}
            }
        }
        let now = Instant::now();
        if now >= self.next_clock {
            let is_limited = self.parts.node.memory_bytes_max > 0;
            let is_watched = is_limited && !self.native.sessions.is_empty();
            let is_idle = self.parts.proxy.outstanding() == 0 && !is_watched;
            self.next_clock = now + if is_idle { CLOCK_IDLE } else { CLOCK };
            self.on_clock();
        }
        if self.held_up {
            self.held_up = false;
            (0..self.seats.len()).for_each(|at| self.touch_if_held_up(at));
        }
        for at in std::mem::take(&mut self.waiting) {
            self.touch(at);
        }
        self.work();
    }

    /// Takes what other threads have for clients. True if there was something.
    fn take_inputs(&mut self) -> bool {
        let mut inputs = std::mem::take(&mut self.inputs);
        self.parts.mailbox.take(&mut inputs);
        let is_new = !inputs.is_empty();
        inputs.drain(..).for_each(|input| self.on_input(input));
        self.inputs = inputs;
        is_new
    }

    /// Writes the replies that have come since the turn.
    pub fn turn_replies(&mut self) {
        if self.take_inputs() {
            self.work();
        }
    }

    fn touch(&mut self, at: usize) {
        if !self.is_touched[at] {
            self.is_touched[at] = true;
            self.touched.push(at);
        }
    }

    fn touch_if_held_up(&mut self, at: usize) {
        if matches!(&self.seats[at], Seat::Client(connection) if connection.is_held_up()) {
            self.touch(at);
        }
    }

    fn accept(&mut self) {
        while let Ok((mut stream, address)) = self.parts.listener.accept() {
            if self.seats.len() - self.free.len() >= CONNECTIONS_MAX {
                let _ = stream.write(b"-ERR max number of clients reached\r\n");
                continue;
            }
            let _ = stream.set_nodelay(true);
            let at = self.free.pop().unwrap_or_else(|| {
                self.seats.push(Seat::Empty);
                self.is_touched.push(false);
                self.seats.len() - 1
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.parts.registry.register(&mut stream, Token(CONNECTIONS + at), interest).is_err() {
                self.free.push(at);
                continue;
            }
            let address = address.to_string();
            self.next_id += 1;
            self.seats[at] = Seat::Native(Box::new(NativeConnection::new(stream, address, self.next_id)));
            self.parts.connections.open.fetch_add(1, Ordering::Relaxed);
            self.parts.connections.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_connection_event(&mut self, at: usize, event: &mio::event::Event) {
        match self.seats.get_mut(at) {
            Some(Seat::Client(connection)) => {
                if event.is_readable() || event.is_read_closed() {
                    connection.on_readable();
                }
                self.touch(at);
            }
            Some(Seat::Native(native)) => {
                if event.is_readable() || event.is_read_closed() {
                    native.on_readable();
                }
                self.touch(at);
            }
            _ => {}
        }
    }

    fn work_native(&mut self, at: usize) {
        let Seat::Native(native) = &mut self.seats[at] else { return };
        match native.work(at, &mut self.native, &mut self.batches, &mut self.scratch) {
            Fate::Stays => {}
            Fate::IsOther => self.become_client(at),
            Fate::Ends => self.vacate(at),
        }
        for old in std::mem::take(&mut self.native.superseded) {
            if let Seat::Native(native) = &mut self.seats[old] {
                native.supersede();
            }
            self.vacate(old);
        }
    }

    fn become_client(&mut self, at: usize) {
        let Seat::Native(native) = std::mem::replace(&mut self.seats[at], Seat::Empty) else { return };
        let (stream, input, address, id) = native.into_parts();
        let mut connection = Connection::new(stream, (self.parts.factory)(id), id, address);
        connection.preload(&input);
        self.seats[at] = Seat::Client(Box::new(connection));
        self.work_client(at);
    }

    fn tell(&mut self, connection: u64, text: &str) {
        let at = connection as u32 as usize;
        match self.seats.get_mut(at) {
            Some(Seat::Native(native)) if native.number(at) == connection => {
                native.tell(text);
                self.touch(at);
            }
            _ => {}
        }
    }

    fn on_leader_change(&mut self, log: LogId) {
        self.parts.proxy.on_leader_change(log);
        let seats: Vec<usize> = self.native.sessions.values().copied().collect();
        for at in seats {
            if let Seat::Native(native) = &mut self.seats[at] {
                native.on_leader_change(log);
                self.touch(at);
            }
        }
    }

    /// An event of a session that a native client has.
    fn on_native_event(&mut self, session: SessionId, event: Event) {
        let Some(at) = self.native.sessions.get(&session).copied() else { return };
        if let Seat::Native(native) = &mut self.seats[at] {
            native.on_event(event);
            self.touch(at);
        }
    }

    fn vacate(&mut self, at: usize) {
        let seat = std::mem::replace(&mut self.seats[at], Seat::Empty);
        if let Seat::Native(native) = &seat {
            self.forget_session(at, native.session());
        }
        if !matches!(seat, Seat::Empty) {
            self.has_room_again |= self.room.vacate(at);
            self.free.push(at);
            self.parts.connections.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn forget_session(&mut self, at: usize, session: Option<SessionId>) {
        let own = session.filter(|session| self.native.sessions.get(session) == Some(&at));
        if let Some(session) = own {
            self.native.sessions.remove(&session);
            self.parts.router.remove(session);
        }
    }

    fn on_input(&mut self, input: ClientInput) {
        match input {
            ClientInput::LeaderChange(log) => self.on_leader_change(log),
            ClientInput::Told { connection, text } => self.tell(connection, &text),
            ClientInput::Event(event) => match event.session() {
                Some(session) if session != self.native.own => self.on_native_event(session, event),
                _ => self.on_event(event),
            },
        }
    }

    /// Reads that have not been answered, and will not be.
    fn on_reads_lost(&mut self, tokens: &[u64]) {
        for token in tokens {
            let at = (token >> 32) as usize;
            if let Some(Seat::Client(connection)) = self.seats.get_mut(at) {
                connection.on_failure(*token as u32, Failure::Refused);
                self.touch(at);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        if let Event::ReadsLost { tokens, .. } = &event {
            return self.on_reads_lost(tokens);
        }
        let Clients { seats, touched, is_touched, parts, timed, room, .. } = self;
        let mut answer = |token: u64, reply: Answer<'_>| {
            if let Some((_, since)) = timed.take_if(|(timed, _)| *timed == token) {
                parts.engine.observer.record(Stage::Command, since.elapsed().as_micros() as u64);
            }
            let (at, number) = ((token >> 32) as usize, token as u32);
            if let Some(Seat::Client(connection)) = seats.get_mut(at) {
                match reply {
                    Answer::Reply(reply) => connection.on_reply(number, reply),
                    Answer::Unknown => connection.on_failure(number, Failure::Unknown),
                }
                if !is_touched[at] {
                    is_touched[at] = true;
                    touched.push(at);
                }
            }
        };
        match event {
            Event::Replies { group, numbering, first, replies, .. } => {
                parts.proxy.on_replies(group, numbering, first, &replies, answer);
            }
            Event::Settled { group, numbering, last, .. } => parts.proxy.on_settled(group, numbering, last, answer),
            Event::Refused { group, numbering, .. } => {
                parts.proxy.on_refused(group, numbering, steady_ms().max(parts.engine.log_time_ms()))
            }
            Event::Reads { tokens, replies, .. } => {
                for (token, reply) in tokens.iter().zip(replies.iter()) {
                    if reply.len() >= LARGE_REPLY_BYTES {
                        room.arrive(*token, reply.len());
                    }
                    answer(*token, Answer::Reply(reply));
                }
            }
            Event::ReadsLost { .. } | Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => {}
        }
    }

    fn on_clock(&mut self) {
        // Whoever's reply is lost is timed for ever.
        self.timed.take_if(|(_, since)| since.elapsed() > TIMED_MAX);
        let Clients { seats, parts, .. } = self;
        let now_ms = steady_ms().max(parts.engine.log_time_ms());
        parts.proxy.on_clock(now_ms, |token, _| {
            if let Some(Seat::Client(connection)) = seats.get_mut((token >> 32) as usize) {
                connection.on_failure(token as u32, Failure::Unknown);
            }
        });
        let most = self.parts.node.memory_bytes_max;
        let is_out_of_memory = most > 0 && crate::usage::used(0).is_some_and(|usage| usage.memory_bytes > most);
        if std::mem::replace(&mut self.native.is_out_of_memory, is_out_of_memory) != is_out_of_memory {
            self.parts.consensus.post(Input::Memory { is_out: is_out_of_memory });
        }
        for at in 0..self.seats.len() {
            if let Seat::Native(native) = &mut self.seats[at] {
                if native.tell_addresses(&self.parts.addresses) | native.tell_memory(is_out_of_memory) {
                    self.touch(at);
                }
            }
        }
        let listed = self.seats.iter().filter_map(|seat| match seat {
            Seat::Client(connection) => Some(connection.info()),
            _ => None,
        });
        *self.parts.directory.lock().unwrap_or_else(PoisonError::into_inner) = listed.collect();
        self.held_up = true;
    }

    fn work_client(&mut self, at: usize) {
        // Their ids begin after 1.
        let connections = self.next_id - 1;
        let is_out_of_memory = self.native.is_out_of_memory;
        let Seat::Client(connection) = &mut self.seats[at] else { return };
        let Parts { proxy, node, directory, addresses, .. } = &mut self.parts;
        let clients = || directory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connection.work(
            at as u32,
            &mut Lent {
                proxy,
                node,
                clients: &clients,
                addresses,
                connections,
                timed: &mut self.timed,
                room: &self.room,
                is_out_of_memory,
            },
            &mut self.scratch,
        );
        self.held_up |= connection.is_held_up();
    }

    /// Takes requests of the touched connections, sends what they ask for, and writes the replies.
    fn work(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        let since = Instant::now();
        let mut looked = 0;
        while looked < touched.len() && (looked % CONNECTIONS_PER_LOOK != 0 || looked == 0 || since.elapsed() < TURN_TIME_MAX) {
            let at = touched[looked];
            looked += 1;
            self.is_touched[at] = false;
            match &self.seats[at] {
                Seat::Client(_) => self.work_client(at),
                Seat::Native(_) => self.work_native(at),
                Seat::Empty => {}
            }
        }
        self.send();
        for at in touched.drain(..looked) {
            let Seat::Client(connection) = &mut self.seats[at] else { continue };
            let is_flushed = connection.flush();
            self.has_room_again |= self.room.publish(at, connection.next_to_leave(), connection.unsent());
            if !is_flushed {
                self.waiting.push(at);
            } else if connection.is_over() {
                self.vacate(at);
            }
        }
        if std::mem::take(&mut self.has_room_again) {
            self.parts.consensus.post(Input::HeldReads);
        }
        // What was touched meanwhile has its turn after those that were passed over.
        touched.append(&mut self.touched);
        self.touched = touched;
    }

    /// Reads first: a read is in its group before a later command of its connection can come there.
    fn send(&mut self) {
        let now_ms = steady_ms().max(self.parts.engine.log_time_ms());
        let Parts { proxy, engine, consensus, .. } = &mut self.parts;
        let mut streams = 0u64;
        proxy.flush_reads(wall_ms(), |group, mut batch| {
            let stream = engine.topology.stream_of(group);
            batch.round = engine.rounds[stream.index()].ticket();
            engine.push_reads(group, batch);
            streams |= 1 << stream.0;
        });
        if streams != 0 {
            self.batches.push(Input::Rounds(streams));
        }
        let batches = &mut self.batches;
        proxy.flush(now_ms, |log, batch| batches.push(Input::Batch(log, batch)));
        consensus.post_all(self.batches.drain(..));
    }
}
