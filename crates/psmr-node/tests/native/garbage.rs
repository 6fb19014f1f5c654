//! What a replica makes of native connections that do not keep to the protocol: it closes them, and is unharmed.

use super::support::{ask, Cluster};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use psmr_core::client::{ClientProxy, ConnectionOrder, ProxyLimits};
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId};
use psmr_core::config::BATCH_BYTES_MAX;
use psmr_core::execute::reads::ReadBatch;
use psmr_core::routing::Topology;
use psmr_node::native::{decode, encode, FromClient, FromReplica, Hello, Kind, RefusalCode, Welcome, GREETING};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SESSION: SessionId = SessionId(0xabc);

/// A client made of frames.
struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

impl Wire {
    fn dial(address: &str) -> Wire {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Wire { stream, input: BytesMut::new() }
    }

    fn greet(address: &str) -> Wire {
        let mut wire = Wire::dial(address);
        wire.stream.write_all(GREETING).unwrap();
        let mut greeting = [0; GREETING.len()];
        wire.stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, GREETING);
        wire
    }

    fn open(address: &str, session: SessionId) -> (Wire, Welcome) {
        let mut wire = Wire::greet(address);
        wire.send(&FromClient::Hello(Hello { session, service: "counters".into() }));
        match wire.receive() {
            FromReplica::Welcome(welcome) => (wire, *welcome),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, frame: &FromClient) {
        let mut out = Vec::new();
        frame.write(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn receive(&mut self) -> FromReplica {
        loop {
            if let Some((kind, body)) = decode::<Kind>(&mut self.input).unwrap() {
                return FromReplica::read(kind, body, SESSION, 8, 4).unwrap();
            }
            let mut scratch = [0; 4096];
            let count = self.stream.read(&mut scratch).unwrap();
            assert!(count > 0, "closed without a word");
            self.input.extend_from_slice(&scratch[..count]);
        }
    }

    /// Waits for the replica's last words and the end of the connection.
    fn refusal(mut self) -> (RefusalCode, String) {
        loop {
            match self.receive() {
                FromReplica::Refusal(refusal) => {
                    assert!(self.is_closed(), "open after a refusal");
                    return (refusal.code, refusal.text);
                }
                FromReplica::LeaderChange(_) | FromReplica::Addresses(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether the replica ends the connection within the time limit.
    fn is_closed(&mut self) -> bool {
        let mut scratch = [0; 4096];
        loop {
            match self.stream.read(&mut scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// One `add`, as a proxy of `session` makes it to be answered at `origin`.
fn batch(session: SessionId, origin: ReplicaId, time_ms: u64) -> (LogId, Bytes) {
    let topology = Topology::new(8, 3);
    let gamma = GroupSet::one(topology.group_of(b"n"));
    let mut proxy = ClientProxy::new(session, origin, true, topology, ProxyLimits::default());
    proxy.ordered(&mut ConnectionOrder::default(), gamma, false, b"add n 1", 1).unwrap();
    let mut made = None;
    proxy.flush(time_ms, |log, batch| made = Some((log, batch)));
    made.unwrap()
}

#[test]
fn a_batch_of_another_session_or_for_another_replica_is_refused_and_not_executed() {
    let cluster = Cluster::start();
    let address = cluster.address(1);
    let cases = [(SessionId(1), 1, "another session"), (SESSION, 2, "replica 2 is to answer")];
    for (session, origin, why) in cases {
        let (mut wire, welcome) = Wire::open(&address, SESSION);
        let (log, batch) = batch(session, origin, welcome.time_ms);
        wire.send(&FromClient::Batch(log, batch));
        let (code, text) = wire.refusal();
        assert!(code == RefusalCode::Protocol && text.contains(why), "{text}");
    }
    // The same batch with the right session and origin passes.
    let (mut wire, welcome) = Wire::open(&address, SESSION);
    let (log, batch) = batch(SESSION, 1, welcome.time_ms);
    wire.send(&FromClient::Batch(log, batch));
    while !matches!(wire.receive(), FromReplica::Event(_)) {}
    assert_eq!(ask(&mut cluster.connect(1), "get n"), "1");
}

#[test]
fn commands_before_a_hello_reads_of_no_group_and_other_versions_are_refused() {
    let cluster = Cluster::start();
    let address = cluster.address(1);
    let reads = |group| {
        let mut batch = ReadBatch::default();
        batch.push(1, [0; 2], [1; 2], b"n");
        FromClient::Reads(GroupId(group), batch)
    };
    let mut wire = Wire::greet(&address);
    wire.send(&reads(0));
    assert!(wire.refusal().1.contains("before a hello"));
    let (mut wire, _) = Wire::open(&address, SESSION);
    wire.send(&reads(8));
    assert!(wire.refusal().1.contains("group 8"));
    let (mut wire, _) = Wire::open(&address, SESSION);
    wire.send(&FromClient::Hello(Hello { session: SESSION, service: "counters".into() }));
    assert!(wire.refusal().1.contains("second hello"));
    let mut wire = Wire::greet(&address);
    wire.send(&FromClient::Hello(Hello { session: SESSION, service: "other".into() }));
    assert_eq!(wire.refusal().0, RefusalCode::Service);
    let mut wire = Wire::dial(&address);
    wire.stream.write_all(b"\0PSMR\x09").unwrap();
    wire.stream.read_exact(&mut [0; GREETING.len()]).unwrap();
    let (code, text) = wire.refusal();
    assert!(code == RefusalCode::Version && text.contains("version 9"), "{text}");
}

#[test]
fn a_session_is_answered_on_its_newest_connection() {
    let cluster = Cluster::start();
    let address = cluster.address(1);
    let (older, _) = Wire::open(&address, SESSION);
    let (mut newer, welcome) = Wire::open(&address, SESSION);
    assert_eq!(older.refusal().0, RefusalCode::Session);
    let (log, batch) = batch(SESSION, 1, welcome.time_ms);
    newer.send(&FromClient::Batch(log, batch));
    while !matches!(newer.receive(), FromReplica::Event(_)) {}
}

#[test]
fn a_client_that_reads_nothing_is_not_read_from() {
    let cluster = Cluster::start();
    let (mut wire, _) = Wire::open(&cluster.address(1), SESSION);
    wire.stream.set_nonblocking(true).unwrap();
    // Each of these reads has a reply of 20,000 bytes: what is taken in is bounded, whatever is sent.
    let mut request = Vec::new();
    let mut reads = ReadBatch::default();
    (0..16).for_each(|token| reads.push(token, [0; 2], [1; 2], b"big 20000"));
    FromClient::Reads(GroupId(0), reads).write(&mut request);
    let (mut sent, mut stalled_since) = (0, Instant::now());
    while stalled_since.elapsed() < Duration::from_secs(1) {
        match wire.stream.write(&request[sent % request.len()..]) {
            Ok(count) => (sent, stalled_since) = (sent + count, Instant::now()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(sent < 64 << 20, "the replica takes in more and more");
    }
    assert_eq!(ask(&mut cluster.connect(1), "add n 1"), "1");
    assert_eq!(ask(&mut cluster.connect(1), "get n"), "1");
}

#[test]
fn a_client_that_never_reads_small_answers_keeps_nobody_waiting() {
    let cluster = Cluster::start();
    let mut wires: Vec<Wire> = (0..3).map(|_| Wire::greet(&cluster.address(1))).collect();
    let mut request = Vec::new();
    FromClient::Question(Bytes::from_static(br#"{"ask": "nothing that is known"}"#)).write(&mut request);
    for (number, wire) in wires.iter_mut().enumerate() {
        wire.stream.set_nonblocking(true).unwrap();
        // In steps of other sizes, so that the answers end at other places of what the system takes.
        let step = request.repeat(1 + 7 * number);
        let (mut sent, mut stalled_since) = (0, Instant::now());
        while stalled_since.elapsed() < Duration::from_millis(300) {
            match wire.stream.write(&step[sent % step.len()..]) {
                Ok(count) => (sent, stalled_since) = (sent + count, Instant::now()),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            assert!(sent < 64 << 20, "the replica takes in more and more");
        }
        let expected = (number + 1).to_string();
        assert_eq!(ask(&mut cluster.connect(1), "add n 1"), expected);
    }
}

#[test]
fn a_batch_over_the_limit_is_refused_by_its_head() {
    let cluster = Cluster::start();
    let (mut wire, _) = Wire::open(&cluster.address(1), SESSION);
    let mut frame = Vec::new();
    FromClient::Batch(LogId(0), Bytes::from(vec![0; BATCH_BYTES_MAX + 1])).write(&mut frame);
    wire.stream.write_all(&frame[..psmr_node::frame::HEAD_BYTES]).unwrap();
    assert!(wire.refusal().1.contains("longer than is allowed"));
    assert_eq!(ask(&mut cluster.connect(1), "add n 1"), "1");
}

/// What somebody may send after a greeting, or instead of it.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let frame = (1u8..16, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(kind, body)| {
        let mut out = Vec::new();
        match <Kind as psmr_node::frame::FrameKind>::from_byte(kind) {
            Some(kind) => encode(kind, &mut out, |to| to.extend_from_slice(&body)),
            None => out.extend_from_slice(&body),
        }
        out
    });
    let opened = prop::collection::vec(frame, 1..4).prop_map(|frames| {
        let mut out = GREETING.to_vec();
        FromClient::Hello(Hello { session: SESSION, service: "counters".into() }).write(&mut out);
        frames.iter().for_each(|frame| out.extend_from_slice(frame));
        out
    });
    let damaged = (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
        let mut out = GREETING.to_vec();
        let (log, batch) = batch(SESSION, 1, 0);
        FromClient::Hello(Hello { session: SESSION, service: "counters".into() }).write(&mut out);
        FromClient::Batch(log, batch).write(&mut out);
        *at.get_mut(&mut out) = byte;
        out
    });
    let bare = prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| [&GREETING[..], &bytes].concat());
    let anything = prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| [&[0][..], &bytes].concat());
    prop_oneof![opened, damaged, bare, anything]
}

#[test]
fn garbage_closes_its_connection_and_nothing_else() {
    let cluster = Cluster::start();
    let address = cluster.address(1);
    let mut witness = cluster.connect(1);
    let before: i64 = ask(&mut witness, "add w 1").parse().unwrap();
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    runner
        .run(&garbage(), |bytes| {
            let mut wire = Wire::dial(&address);
            let _ = wire.stream.write_all(&bytes);
            let _ = wire.stream.shutdown(std::net::Shutdown::Write);
            // Whatever it was: the replica ends the connection, too.
            prop_assert!(wire.is_closed());
            Ok(())
        })
        .unwrap();
    assert_eq!(ask(&mut witness, "add w 1"), (before + 1).to_string(), "the witness' connection has not been touched");
    assert_eq!(witness.replica(), 1);
    assert_eq!(ask(&mut cluster.connect(2), "get w"), (before + 1).to_string());
}
