//! What a replica makes of connections to its peer port that are no peers', or do not keep to the protocol: it says why, closes
//! them, takes no memory for them, and goes on.

mod ports;

use bytes::{Bytes, BytesMut};
use ports::free_addresses;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use psmr_core::command::GroupId;
use psmr_core::config::Config;
use psmr_core::gateway::Gateway;
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use psmr_node::node::{Node, NodeConfig};
use psmr_node::peer_frame::{decode, encode, Kind, OPENING_BYTES_MAX};
use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A service without commands.
struct Nothing;

impl Partition for Nothing {
    fn execute(&mut self, slice: Slice<'_>, _: &Context, replies: &mut Replies) {
        slice.for_each(|_| replies.push(b""));
    }
    fn read(&self, _: &[u8], _: &ReadContext, _: &mut Vec<u8>) -> ReadOutcome {
        ReadOutcome::Done
    }
    fn snapshot(&self, _: &mut Vec<u8>) -> Result<(), String> {
        Ok(())
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Service for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }
    fn partition(&self, _: GroupId, _: &Topology) -> Box<dyn Partition> {
        Box::new(Nothing)
    }
    fn execute(&self, _: &mut Handles<'_>, _: Command<'_>, _: &Context, _: &mut Vec<u8>) {}
}

/// Where the parts of a hello are: its version, the cluster's id, the digest of the genesis record, and the sender.
const HELLO_VERSION_AT: usize = 0;
const CLUSTER_AT: usize = 1;
const GENESIS_AT: usize = 17;
const SENDER_AT: usize = 25;

/// Replica 1 of two. The test is everybody else.
struct Fixture {
    node: Option<Node>,
    peer_port: SocketAddr,
    /// With which replica 2 is a peer.
    hello: Vec<u8>,
}

impl Fixture {
    fn start() -> Fixture {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer_port = free_addresses(1)[0];
        let config = NodeConfig {
            core: Config::new(1, 2, 4, 2),
            cluster: [7; 16],
            listen: None,
            peer_listen: Some(peer_port),
            peers: vec![Some(peer_port), Some(other.local_addr().unwrap())],
            client_addresses: Vec::new(),
            workers: 1,
            shares_thread: false,
            memory_bytes_max: 0,
            allows_debug: false,
            counts: None,
            source: None,
            data: None,
        };
        let factory = Arc::new(|_| -> Box<dyn Gateway> { unreachable!("nobody connects") });
        let node = Some(Node::start(config, Arc::new(Nothing), factory).unwrap());
        let (dialled, _) = other.accept().unwrap();
        let (kind, hello) = Wire::over(dialled).receive().expect("it says who it is");
        assert_eq!(kind, Kind::Hello);
        let mut hello = hello.to_vec();
        assert_eq!(hello[SENDER_AT], 1);
        hello[SENDER_AT] = 2;
        Fixture { node, peer_port, hello }
    }

    fn dial(&self) -> Wire {
        Wire::over(TcpStream::connect(self.peer_port).unwrap())
    }

    /// Says a hello that differs in one byte.
    fn changed(&self, at: usize, value: u8) -> Wire {
        let (mut wire, mut hello) = (self.dial(), self.hello.clone());
        hello[at] = value;
        wire.send(Kind::Hello, &hello);
        wire
    }

    /// A connection as replica 2.
    fn join(&self) -> Wire {
        let mut wire = self.dial();
        wire.send(Kind::Hello, &self.hello);
        let (kind, _) = wire.receive().expect("a peer is answered");
        assert_eq!(kind, Kind::Hello);
        wire
    }

    /// The replica is there, and takes a peer for one.
    fn assert_unharmed(&self) {
        assert_eq!(self.node.as_ref().unwrap().wait(Duration::ZERO), None);
        let mut wire = self.join();
        let (kind, _) = wire.receive().expect("a turn");
        assert_eq!(kind, Kind::Turn);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.node.take().into_iter().for_each(Node::stop);
    }
}

struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

impl Wire {
    fn over(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Wire { stream, input: BytesMut::new() }
    }

    fn send(&mut self, kind: Kind, body: &[u8]) {
        let frame = frame(kind, body);
        self.stream.write_all(&frame).unwrap();
    }

    /// The next frame; `None`: the connection was closed.
    fn receive(&mut self) -> Option<(Kind, Bytes)> {
        loop {
            if let Some(frame) = decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            let mut scratch = [0; 4096];
            match self.stream.read(&mut scratch) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("still open: {error}"),
            }
        }
    }

    /// Waits for the replica's last words.
    fn refusal(mut self) -> String {
        let (kind, body) = self.receive().expect("a refusal");
        assert_eq!(kind, Kind::Refusal);
        assert_eq!(self.receive(), None, "open after a refusal");
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn assert_closed(mut self) {
        while self.receive().is_some() {}
    }
}

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(kind, &mut out, |to| to.extend_from_slice(body));
    out
}

/// The head of a frame whose body does not come.
fn head(kind: Kind, length: u32) -> Vec<u8> {
    let mut out = frame(kind, b"");
    out[..4].copy_from_slice(&length.to_le_bytes());
    out
}

/// The frame as another release might write it.
fn of_version(version: u8, mut frame: Vec<u8>) -> Vec<u8> {
    frame[8] = version;
    let checksum = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    frame
}

#[test]
fn who_is_no_peer_of_this_cluster_and_release_is_told_so() {
    let fixture = Fixture::start();
    let cases = [
        (fixture.changed(HELLO_VERSION_AT, 99), "version 99"),
        (fixture.changed(CLUSTER_AT, 8), "another cluster"),
        (fixture.changed(GENESIS_AT, fixture.hello[GENESIS_AT] ^ 1), "genesis record differs"),
        (fixture.changed(SENDER_AT, 0), "replica 0, which is not a peer"),
        (fixture.changed(SENDER_AT, 1), "replica 1, which is not a peer"),
        (fixture.changed(SENDER_AT, 3), "replica 3, which is not a peer"),
    ];
    for (wire, why) in cases {
        let text = wire.refusal();
        assert!(text.contains(why), "{text:?} does not say {why:?}");
    }
    let mut later = fixture.dial();
    later.stream.write_all(&of_version(9, frame(Kind::Hello, &fixture.hello))).unwrap();
    let text = later.refusal();
    assert!(text.contains("a frame of version 9, this side speaks 1"), "{text}");
    fixture.assert_unharmed();
}

#[test]
fn a_stranger_is_refused_by_the_head_of_what_it_sends() {
    let fixture = Fixture::start();
    let long = OPENING_BYTES_MAX as u32;
    for (kind, length) in [
        (Kind::Hello, long),
        (Kind::Refusal, long),
        (Kind::Turn, 0),
        (Kind::Turn, 200 << 20),
        (Kind::CheckpointRequest, 0),
        (Kind::CheckpointChunk, 1 << 20),
    ] {
        let mut wire = fixture.dial();
        wire.stream.write_all(&head(kind, length)).unwrap();
        let text = wire.refusal();
        let why = if long == length { "longer than is allowed" } else { "unknown kind" };
        assert!(text.contains(why), "{kind:?} of {length} bytes: {text}");
    }
    let mut refusing = fixture.dial();
    refusing.send(Kind::Refusal, b"no");
    assert!(refusing.refusal().contains("did not say who it is"));
    fixture.assert_unharmed();
}

#[test]
fn a_stranger_that_sends_without_end_is_not_read_from() {
    let fixture = Fixture::start();
    let mut wire = fixture.dial();
    wire.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    // The longest hello, with a wrong checksum, and more behind it.
    wire.stream.write_all(&head(Kind::Hello, 4 << 10)).unwrap();
    let mut sent = 0;
    let error = loop {
        match wire.stream.write(&[b'x'; 4096]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "the replica takes in more and more");
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    fixture.assert_unharmed();
}

#[test]
fn strangers_that_say_nothing_keep_no_peer_out() {
    let fixture = Fixture::start();
    let silent: Vec<Wire> = (0..40).map(|_| fixture.dial()).collect();
    fixture.assert_unharmed();
    drop(silent);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_disconnected_and_may_come_back() {
    let fixture = Fixture::start();
    let mut batch_for_no_log = psmr_core::message::Frame::default();
    batch_for_no_log.batches.push((psmr_core::command::LogId(9), Bytes::from_static(b"x")));
    let mut turn = Vec::new();
    batch_for_no_log.encode(&mut turn);
    let mut damaged = frame(Kind::CheckpointRequest, b"");
    damaged[4] ^= 1;
    for sent in [
        of_version(9, frame(Kind::CheckpointRequest, b"")),
        of_version(9, frame(Kind::CheckpointChunk, &[0; 20])),
        of_version(9, frame(Kind::Turn, &turn)),
        frame(Kind::Turn, b"\x63no turn"),
        frame(Kind::Turn, &turn),
        head(Kind::Turn, u32::MAX),
        head(Kind::CheckpointRequest, OPENING_BYTES_MAX as u32),
        head(Kind::CheckpointChunk, 2 << 20),
        damaged,
        vec![0xff; 64],
    ] {
        let mut wire = fixture.join();
        wire.stream.write_all(&sent).unwrap();
        wire.assert_closed();
    }
    // Pieces of a checkpoint that nobody asked for, and words about a connection that is open, change nothing.
    let mut wire = fixture.join();
    for (kind, body) in [(Kind::CheckpointChunk, &[0xff; 20][..]), (Kind::Refusal, b"no"), (Kind::Hello, &fixture.hello)] {
        wire.send(kind, body);
    }
    assert!((0..3).all(|_| wire.receive().is_some()));
    drop(wire);
    fixture.assert_unharmed();
}

#[test]
fn garbage_at_the_peer_port_closes_its_connection_and_nothing_else() {
    let fixture = Fixture::start();
    let bare = prop::collection::vec(any::<u8>(), 1..6000);
    let kinds = prop::sample::select(vec![Kind::Hello, Kind::Turn, Kind::CheckpointRequest, Kind::CheckpointChunk]);
    let framed = (kinds, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(kind, body)| frame(kind, &body));
    let hello = frame(Kind::Hello, &fixture.hello);
    let damaged = (any::<prop::sample::Index>(), 1u8..=255).prop_map(move |(at, flip)| {
        let mut out = hello.clone();
        *at.get_mut(&mut out) ^= flip;
        out
    });
    let hello = frame(Kind::Hello, &fixture.hello);
    let behind = prop::collection::vec(any::<u8>(), 10..200).prop_map(move |bytes| [&hello[..], &bytes].concat());
    let mut runner = TestRunner::new(Runs { cases: 300, failure_persistence: None, ..Runs::default() });
    runner
        .run(&prop_oneof![bare, framed, damaged, behind], |bytes| {
            let mut wire = fixture.dial();
            let _ = wire.stream.write_all(&bytes);
            let _ = wire.stream.shutdown(std::net::Shutdown::Write);
            wire.assert_closed();
            Ok(())
        })
        .unwrap();
    fixture.assert_unharmed();
}
