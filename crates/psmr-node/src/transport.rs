//! Connections to peers: one per pair, dialled by the replica with the lower number, with a handshake that refuses other
//! clusters and other versions, and reconnection with backoff. Runs inside the consensus thread.

use crate::congestion::unpace;
use crate::peer_frame::{self, Kind, Opening, OPENING_BYTES_MAX};
use bytes::{Bytes, BytesMut};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use psmr_core::command::ReplicaId;
use psmr_core::wire::{Reader, Write as _};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The version of the handshake and of the frames behind it.
const PROTOCOL_VERSION: u8 = 2;

/// The token of the listener; peers' connections have the tokens after it.
pub const LISTENER: Token = Token(1);
const PEERS: usize = 16;
const GUESTS: usize = 64;

/// What is read from a peer in one turn: a checkpoint may come as fast as it is taken, and clients wait meanwhile.
const TURN_BYTES_MAX: usize = 4 << 20;

/// Connections that have not said who they are. For one more, the oldest has to go.
const GUESTS_MAX: usize = 16;

/// A guest that has not said who it is by then is shown the door.
const GUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// A peer that lets this much pile up and takes nothing of it for so long is disconnected; it catches up from the log. One
/// that catches up may be sent more in a turn.
const BACKLOG_BYTES_MAX: usize = 32 << 20;
const STALL_TIME_MAX: Duration = Duration::from_secs(1);

/// A peer that lets this much pile up is disconnected anyway.
const BACKLOG_BYTES_END: usize = 256 << 20;

/// A buffer that was larger for a moment goes back to this size.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What both sides of a connection must agree on, and what they tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// Digest of the genesis record.
    pub genesis: u64,
    /// The sender.
    pub from: ReplicaId,
    /// The sender's: another one than before has none of the memory of that.
    pub incarnation: u64,
    /// The sender's address for clients.
    pub client_address: String,
}

impl Hello {
    fn write(&self, out: &mut Vec<u8>) {
        out.u8(PROTOCOL_VERSION);
        out.extend_from_slice(&self.cluster);
        out.u64(self.genesis);
        out.u8(self.from);
        out.u64(self.incarnation);
        out.blob(self.client_address.as_bytes());
    }

    fn read(body: Bytes) -> Result<Hello, String> {
        let text = |e: psmr_core::wire::Malformed| e.to_string();
        let mut reader = Reader::new(body.clone());
        let version = reader.u8("handshake version").map_err(text)?;
        if version != PROTOCOL_VERSION {
            return Err(format!("it speaks version {version}, this replica speaks {PROTOCOL_VERSION}: run the same release"));
        }
        let range = reader.skip(16, "cluster id").map_err(text)?;
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&body[range]);
        let genesis = reader.u64("genesis digest").map_err(text)?;
        let from = reader.u8("sender").map_err(text)?;
        let incarnation = reader.u64("incarnation").map_err(text)?;
        let address = reader.blob("client address").map_err(text)?;
        Ok(Hello { cluster, genesis, from, incarnation, client_address: String::from_utf8_lossy(&address).into_owned() })
    }
}

/// What happened on the connections.
#[derive(Debug)]
pub enum Happening {
    /// The peer, which is this incarnation, can be sent to.
    Connected(ReplicaId, u64),
    /// It cannot any more.
    Disconnected(ReplicaId),
    /// A frame came.
    Frame(ReplicaId, Kind, Bytes),
}

struct Link {
    stream: TcpStream,
    input: BytesMut,
    output: Vec<u8>,
    written: usize,
    /// More may have come than was read.
    has_more: bool,
    /// When the other side last took something, or had taken everything.
    taken: Instant,
}

impl Link {
    fn new(stream: TcpStream) -> Link {
        let _ = stream.set_nodelay(true);
        unpace(&stream);
        Link { stream, input: BytesMut::new(), output: Vec::new(), written: 0, has_more: false, taken: Instant::now() }
    }

    /// Reads what has come, until the input has `bytes_max`, and about `turn_bytes` at most. False: the connection is at its end.
    fn fill(&mut self, scratch: &mut [u8], bytes_max: usize, turn_bytes: usize) -> bool {
        let mut left = turn_bytes;
        self.has_more = false;
        loop {
            if left == 0 {
                self.has_more = true;
                return true;
            }
            let room = bytes_max.saturating_sub(self.input.len()).min(scratch.len());
            if room == 0 {
                return true;
            }
            match self.stream.read(&mut scratch[..room]) {
                Ok(0) => return false,
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    left = left.saturating_sub(count);
                    if count < room {
                        return true;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Writes what waits. False: the connection is at its end.
    fn flush(&mut self) -> bool {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return false,
                Ok(count) => {
                    self.written += count;
                    self.taken = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
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
        self.taken = Instant::now();
        true
    }

    /// To a peer that never takes all there is, more and more is written.
    fn forget_written(&mut self) {
        if self.written >= BUFFER_BYTES_KEPT {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    fn backlog(&self) -> usize {
        self.output.len() - self.written
    }

    /// Whether the other side takes so little that memory would run out.
    fn is_stalled(&self) -> bool {
        let backlog = self.backlog();
        backlog > BACKLOG_BYTES_END || (backlog > BACKLOG_BYTES_MAX && self.taken.elapsed() > STALL_TIME_MAX)
    }
}

enum State {
    /// Nobody is there; when to dial again (if we dial).
    Apart(Instant),
    /// Dialled; the handshake is under way.
    Greeting(Link),
    /// The peer is there.
    Together(Link),
}

struct Peer {
    address: Option<SocketAddr>,
    state: State,
    backoff: Duration,
    client_address: String,
}

/// All connections to peers.
pub struct Transport {
    me: Hello,
    listener: Option<TcpListener>,
    peers: Vec<Peer>,
    guests: Vec<Option<(Link, Instant)>>,
    registry: Registry,
    scratch: Vec<u8>,
    warned: Vec<String>,
}

impl Transport {
    /// Listens on `listener` (`None`: a replica without peers), and dials the peers with higher numbers. `addresses[i]` is that of replica i+1.
    ///
    /// # Errors
    /// If the listener cannot be polled.
    pub fn new(
        me: Hello,
        mut listener: Option<TcpListener>,
        addresses: &[Option<SocketAddr>],
        registry: Registry,
    ) -> io::Result<Transport> {
        if let Some(listener) = &mut listener {
            registry.register(listener, LISTENER, Interest::READABLE)?;
        }
        let now = Instant::now();
        let peer = |address: &Option<SocketAddr>| Peer {
            address: *address,
            state: State::Apart(now),
            backoff: BACKOFF_MIN,
            client_address: String::new(),
        };
        let peers = addresses.iter().map(peer).collect();
        let guests = (0..GUESTS_MAX).map(|_| None).collect();
        Ok(Transport { me, listener, peers, guests, registry, scratch: vec![0; 256 << 10], warned: Vec::new() })
    }

    /// The address for clients that a peer told, if it ever was connected.
    pub fn client_address(&self, replica: ReplicaId) -> Option<&str> {
        let address = &self.peers[usize::from(replica) - 1].client_address;
        (!address.is_empty()).then_some(address)
    }

    /// Where a peer listens, which was not known before.
    pub fn set_address(&mut self, replica: ReplicaId, address: SocketAddr) {
        self.peers[usize::from(replica) - 1].address = Some(address);
    }

    /// Dials who is due, and drops guests that say nothing. To be called about once per tick.
    pub fn on_clock(&mut self) {
        let now = Instant::now();
        for at in 0..self.peers.len() {
            let replica = at as ReplicaId + 1;
            let due = matches!(self.peers[at].state, State::Apart(when) if when <= now);
            if due && replica > self.me.from {
                self.dial(at);
            }
        }
        for guest in &mut self.guests {
            if guest.as_ref().is_some_and(|(_, since)| now - *since > GUEST_TIME_MAX) {
                *guest = None;
            }
        }
    }

    fn dial(&mut self, at: usize) {
        let Some(address) = self.peers[at].address else { return };
        self.peers[at].state = match TcpStream::connect(address) {
            Ok(stream) => {
                let mut link = Link::new(stream);
                peer_frame::encode(Kind::Hello, &mut link.output, |body| self.me.write(body));
                let interest = Interest::READABLE | Interest::WRITABLE;
                match self.registry.register(&mut link.stream, Token(PEERS + at), interest) {
                    Ok(()) => State::Greeting(link),
                    Err(_) => State::Apart(Instant::now() + BACKOFF_MAX),
                }
            }
            Err(_) => State::Apart(Instant::now() + BACKOFF_MAX),
        };
    }

    /// Handles an event of one of the transport's tokens.
    pub fn on_event(&mut self, event: &mio::event::Event, happenings: &mut Vec<Happening>) {
        match event.token() {
            LISTENER => self.accept(),
            Token(token) if (PEERS..GUESTS).contains(&token) => self.on_peer_event(token - PEERS, event, happenings),
            Token(token) if (GUESTS..GUESTS + GUESTS_MAX).contains(&token) => self.on_guest_event(token - GUESTS, happenings),
            _ => {}
        }
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) {
            let since = |at: &usize| self.guests[*at].as_ref().map(|(_, since)| *since);
            let Some(at) = (0..GUESTS_MAX).min_by_key(since) else { return };
            let mut link = Link::new(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.registry.register(&mut link.stream, Token(GUESTS + at), interest).is_ok() {
                self.guests[at] = Some((link, Instant::now()));
            }
        }
    }

    fn on_guest_event(&mut self, at: usize, happenings: &mut Vec<Happening>) {
        let Some((mut link, since)) = self.guests[at].take() else { return };
        if !link.fill(&mut self.scratch, OPENING_BYTES_MAX, TURN_BYTES_MAX) {
            return;
        }
        let hello = match peer_frame::decode(&mut link.input) {
            Ok(Some((Opening(Kind::Hello), body))) => Hello::read(body),
            Ok(Some(_)) => Err("it did not say who it is".into()),
            Ok(None) => {
                self.guests[at] = Some((link, since));
                return;
            }
            Err(what) => Err(format!("it sent {what}")),
        };
        match hello.and_then(|hello| self.check(hello)) {
            Ok(hello) => {
                let peer = usize::from(hello.from) - 1;
                self.part(peer, happenings);
                if self.registry.deregister(&mut link.stream).is_err() {
                    return;
                }
                let interest = Interest::READABLE | Interest::WRITABLE;
                if self.registry.register(&mut link.stream, Token(PEERS + peer), interest).is_err() {
                    return;
                }
                peer_frame::encode(Kind::Hello, &mut link.output, |body| self.me.write(body));
                self.join(peer, link, hello, happenings);
            }
            Err(why) => {
                peer_frame::encode(Kind::Refusal, &mut link.output, |body| body.extend_from_slice(why.as_bytes()));
                link.flush();
                self.warn(format!("a connection to the peer port was refused: {why}"));
            }
        }
    }

    /// Whether the other side belongs to this cluster.
    fn check(&self, hello: Hello) -> Result<Hello, String> {
        if hello.cluster != self.me.cluster {
            return Err("it belongs to another cluster: check the addresses of the peers".into());
        }
        if hello.genesis != self.me.genesis {
            return Err("its genesis record differs (replicas, groups, streams), or its service is another version: use the same everywhere".into());
        }
        let known = usize::from(hello.from) >= 1 && usize::from(hello.from) <= self.peers.len();
        if !known || hello.from == self.me.from {
            return Err(format!("it says to be replica {}, which is not a peer", hello.from));
        }
        Ok(hello)
    }

    fn join(&mut self, at: usize, link: Link, hello: Hello, happenings: &mut Vec<Happening>) {
        let peer = &mut self.peers[at];
        peer.state = State::Together(link);
        peer.backoff = BACKOFF_MIN;
        peer.client_address = hello.client_address;
        happenings.push(Happening::Connected(at as ReplicaId + 1, hello.incarnation));
        self.receive(at, happenings);
    }

    /// Ends the connection to a peer.
    fn part(&mut self, at: usize, happenings: &mut Vec<Happening>) {
        let peer = &mut self.peers[at];
        let when = Instant::now() + peer.backoff;
        peer.backoff = (peer.backoff * 2).min(BACKOFF_MAX);
        if let State::Together(_) = std::mem::replace(&mut peer.state, State::Apart(when)) {
            happenings.push(Happening::Disconnected(at as ReplicaId + 1));
        }
    }

    fn on_peer_event(&mut self, at: usize, event: &mio::event::Event, happenings: &mut Vec<Happening>) {
        let is_greeting = matches!(self.peers[at].state, State::Greeting(_));
        let (State::Greeting(link) | State::Together(link)) = &mut self.peers[at].state else { return };
        let bytes_max = if is_greeting { OPENING_BYTES_MAX } else { usize::MAX };
        let readable = event.is_readable();
        let mut alive =
            (!readable || link.fill(&mut self.scratch, bytes_max, TURN_BYTES_MAX)) && (!event.is_writable() || link.flush());
        if is_greeting {
            self.greet(at, happenings);
            if let State::Together(link) = &mut self.peers[at].state {
                // What follows the greeting may not have been read yet.
                alive &= link.fill(&mut self.scratch, usize::MAX, TURN_BYTES_MAX);
            }
        }
        self.receive(at, happenings);
        if !alive {
            self.part(at, happenings);
        }
    }

    /// Whether peers may have sent more than was read in this turn: it is for the next one, which nothing announces.
    pub fn has_more(&self) -> bool {
        self.peers.iter().any(|peer| matches!(&peer.state, State::Together(link) if link.has_more))
    }

    /// Reads what the last turn left.
    pub fn read_on(&mut self, happenings: &mut Vec<Happening>) {
        for at in 0..self.peers.len() {
            let State::Together(link) = &mut self.peers[at].state else { continue };
            if link.has_more {
                let is_alive = link.fill(&mut self.scratch, usize::MAX, TURN_BYTES_MAX);
                self.receive(at, happenings);
                if !is_alive {
                    self.part(at, happenings);
                }
            }
        }
    }

    fn greet(&mut self, at: usize, happenings: &mut Vec<Happening>) {
        let State::Greeting(link) = &mut self.peers[at].state else { return };
        let hello = match peer_frame::decode(&mut link.input) {
            Ok(None) => return,
            Ok(Some((Opening(Kind::Hello), body))) => Hello::read(body),
            Ok(Some((_, body))) => Err(format!("it says: {}", String::from_utf8_lossy(&body))),
            Err(what) => Err(format!("it sent {what}")),
        };
        let replica = at as ReplicaId + 1;
        let checked = hello.and_then(|hello| self.check(hello));
        let state = std::mem::replace(&mut self.peers[at].state, State::Apart(Instant::now() + BACKOFF_MAX));
        match (checked, state) {
            (Ok(hello), State::Greeting(link)) if hello.from == replica => self.join(at, link, hello, happenings),
            (Ok(hello), _) => self.warn(format!("replica {} answers at the address of replica {replica}", hello.from)),
            (Err(why), _) => self.warn(format!("the connection to replica {replica} was refused: {why}")),
        }
    }

    fn receive(&mut self, at: usize, happenings: &mut Vec<Happening>) {
        let State::Together(link) = &mut self.peers[at].state else { return };
        let replica = at as ReplicaId + 1;
        loop {
            match peer_frame::decode(&mut link.input) {
                Ok(Some((kind, body))) => happenings.push(Happening::Frame(replica, kind, body)),
                Ok(None) => return,
                Err(what) => {
                    self.warn(format!("replica {replica} sent {what}; the connection was closed"));
                    return self.part(at, happenings);
                }
            }
        }
    }

    /// Queues a frame for a peer, if it is there.
    pub fn send(&mut self, replica: ReplicaId, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        if let State::Together(link) = &mut self.peers[usize::from(replica) - 1].state {
            peer_frame::encode(kind, &mut link.output, write);
        }
    }

    /// How many bytes wait to be sent to a peer.
    pub fn backlog(&self, replica: ReplicaId) -> usize {
        match &self.peers[usize::from(replica) - 1].state {
            State::Together(link) => link.backlog(),
            _ => 0,
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self, happenings: &mut Vec<Happening>) {
        for at in 0..self.peers.len() {
            let State::Together(link) = &mut self.peers[at].state else { continue };
            if !link.flush() || link.is_stalled() {
                self.part(at, happenings);
            }
        }
    }

    /// Ends the connection to a peer that sent what it should not.
    pub fn refuse(&mut self, replica: ReplicaId, why: &str, happenings: &mut Vec<Happening>) {
        self.warn(format!("the connection to replica {replica} was closed: {why}"));
        self.part(usize::from(replica) - 1, happenings);
    }

    /// Says each thing once.
    fn warn(&mut self, text: String) {
        if self.warned.len() < 64 && !self.warned.contains(&text) {
            eprintln!("psmr: warning: {text}");
            self.warned.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::any;

    fn sample() -> Hello {
        Hello { cluster: [7; 16], genesis: 9, from: 2, incarnation: 3, client_address: "127.0.0.1:7379".into() }
    }

    /// Nothing announces what was left: the system tells of what comes, once.
    #[test]
    fn what_a_turn_leaves_is_known_and_read_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        receiver.set_nonblocking(true).unwrap();
        std::io::Write::write_all(&mut sender, &[7; 1000]).unwrap();
        // Until all of it is there.
        while receiver.peek(&mut [0; 1000]).map_or(true, |count| count < 1000) {}
        let (mut link, mut scratch) = (Link::new(TcpStream::from_std(receiver)), [0; 64]);
        let mut turn = || (link.fill(&mut scratch, usize::MAX, 300), link.has_more, link.input.len());
        assert_eq!((turn(), turn(), turn()), ((true, true, 320), (true, true, 640), (true, true, 960)));
        assert_eq!((turn(), turn()), ((true, false, 1000), (true, false, 1000)));
    }

    #[test]
    fn a_greeting_survives_the_wire() {
        let mut bytes = Vec::new();
        sample().write(&mut bytes);
        assert_eq!(Hello::read(bytes.into()), Ok(sample()));
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_greeting_is_read_or_refused(cut in 0usize..80, damage in vec((0usize..80, any::<u8>()), 0..6)) {
            let mut bytes = Vec::new();
            sample().write(&mut bytes);
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            let _ = Hello::read(bytes.into());
        }

        #[test]
        fn any_bytes_are_a_greeting_or_refused(bytes in vec(any::<u8>(), 0..120)) {
            let _ = Hello::read(bytes.into());
        }
    }
}
