//! Real replicas in one process, over real sockets and files, under a tiny service with a protocol of lines.

mod ports;

use ports::free_addresses;
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::config::Config;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, Sink};
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use psmr_node::client::status;
use psmr_node::node::{Node, NodeConfig};
use std::any::Any;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Registers;

#[derive(Default)]
struct Registry(BTreeMap<String, String>);

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

impl Registry {
    fn apply(&mut self, payload: &[u8]) -> String {
        let line = text(payload);
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["set", key, value] => self.0.insert(key.into(), value.into()).unwrap_or("-".into()),
            // Two keys of one group.
            [a, b, value] => [a, b].map(|key| self.0.insert(key.into(), value.into()).unwrap_or("-".into()) + ";").concat(),
            _ => "?".into(),
        }
    }
}

impl Partition for Registry {
    fn execute(&mut self, slice: Slice<'_>, _: &Context, replies: &mut Replies) {
        for command in slice {
            let reply = self.apply(command.payload);
            replies.push(reply.as_bytes());
        }
    }
    fn read(&self, payload: &[u8], _: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome {
        reply.extend_from_slice(self.0.get(&text(payload)).map_or("-", |v| v).as_bytes());
        ReadOutcome::Done
    }
    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String> {
        self.0.iter().for_each(|(k, v)| out.extend_from_slice(format!("{k} {v}\n").as_bytes()));
        Ok(())
    }
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0 = text(bytes).lines().filter_map(|l| l.split_once(' ')).map(|(k, v)| (k.into(), v.into())).collect();
        Ok(())
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Service for Registers {
    fn name(&self) -> &str {
        "registers"
    }
    fn partition(&self, _: GroupId, _: &Topology) -> Box<dyn Partition> {
        Box::<Registry>::default()
    }
    /// `a b v`: sets both keys to v; the reply is what they were.
    fn execute(&self, handles: &mut Handles<'_>, command: Command<'_>, _: &Context, reply: &mut Vec<u8>) {
        let line = text(command.payload);
        let words: Vec<&str> = line.split(' ').collect();
        let topology = handles.topology();
        for key in &words[..2] {
            let partition = handles.get(topology.group_of(key.as_bytes())).expect("γ has the key's group");
            let registry = partition.as_any_mut().downcast_mut::<Registry>().expect("a registry");
            let before = registry.0.insert(key.to_string(), words[2].into()).unwrap_or("-".into());
            reply.extend_from_slice(format!("{before};").as_bytes());
        }
    }
}

/// Lines: `set k v`, `get k`, `both a b v`.
struct Lines;

impl Gateway for Lines {
    fn on_input(&mut self, input: &[u8], sink: &mut dyn Sink) -> Result<usize, Vec<u8>> {
        let mut taken = 0;
        while let Some(length) = input[taken..].iter().position(|b| *b == b'\n') {
            if sink.is_full() {
                break;
            }
            let line = text(&input[taken..taken + length]);
            taken += length + 1;
            let words: Vec<&str> = line.split(' ').collect();
            let group = |sink: &dyn Sink, key: &str| sink.topology().group_of(key.as_bytes());
            match words[..] {
                ["get", key] => sink.read(group(sink, key), 0, key.as_bytes()),
                ["set", key, _] => sink.ordered(GroupSet::one(group(sink, key)), false, 0, line.as_bytes()),
                ["both", a, b, _] => {
                    let gamma: GroupSet = [group(sink, a), group(sink, b)].into_iter().collect();
                    sink.ordered(gamma, false, 0, &line.as_bytes()[5..]);
                }
                _ => return Err(b"what?\n".to_vec()),
            }
        }
        Ok(taken)
    }
    fn on_reply(&mut self, _: u32, reply: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(reply);
        out.push(b'\n');
    }
    fn on_failure(&mut self, _: u32, failure: Failure, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{failure:?}\n").as_bytes());
    }
    fn info(&self) -> ClientInfo {
        ClientInfo::default()
    }
    fn wants_close(&self) -> bool {
        false
    }
}

struct Cluster {
    peers: Vec<Option<SocketAddr>>,
    nodes: Vec<Option<Node>>,
    data: Option<tempfile::TempDir>,
    checkpoint_log_bytes: usize,
}

impl Cluster {
    fn start(durable: bool, checkpoint_log_bytes: usize) -> Cluster {
        let peers = free_addresses(3).into_iter().map(Some).collect();
        let data = durable.then(|| tempfile::tempdir().unwrap());
        let mut cluster = Cluster { peers, nodes: vec![None, None, None], data, checkpoint_log_bytes };
        (1..=3).for_each(|replica| cluster.start_node(replica));
        cluster
    }

    fn start_node(&mut self, replica: u8) {
        let at = usize::from(replica) - 1;
        let path = |d: &tempfile::TempDir| Path::new(d.path()).join(format!("replica-{replica}"));
        let mut core = Config::new(replica, 3, 8, 3);
        core.checkpoint_log_bytes = self.checkpoint_log_bytes;
        let config = NodeConfig {
            core,
            cluster: [7; 16],
            listen: Some("127.0.0.1:0".parse().unwrap()),
            peer_listen: self.peers[at],
            peers: self.peers.clone(),
            client_addresses: Vec::new(),
            workers: 2,
            // Both ways, in one cluster.
            shares_thread: replica != 3,
            memory_bytes_max: 0,
            allows_debug: false,
            counts: None,
            source: None,
            data: self.data.as_ref().map(path),
        };
        let factory = Arc::new(|_| Box::new(Lines) as Box<dyn Gateway>);
        self.nodes[at] = Some(Node::start(config, Arc::new(Registers), factory).unwrap());
    }

    fn stop_node(&mut self, replica: u8) {
        if let Some(node) = self.nodes[usize::from(replica) - 1].take() {
            node.stop();
        }
    }

    /// Waits until a replica is a full member: before that no other one may lose its memory.
    fn wait_serving(&self, replica: u8) {
        let address = self.nodes[usize::from(replica) - 1].as_ref().unwrap().address.unwrap().to_string();
        let deadline = Instant::now() + Duration::from_secs(30);
        let answer = || status(&address, Duration::from_secs(5), &mut || false).unwrap();
        let is_serving = || answer().contains(r#""state":"serving""#);
        while !is_serving() {
            assert!(Instant::now() < deadline, "replica {replica} does not rejoin");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a replica keeps of itself is gone.
    fn empty_node(&mut self, replica: u8) {
        self.stop_node(replica);
        if let Some(data) = &self.data {
            std::fs::remove_dir_all(data.path().join(format!("replica-{replica}"))).unwrap();
        }
    }

    fn connect(&self, replica: u8) -> Client {
        let stream = TcpStream::connect(self.nodes[usize::from(replica) - 1].as_ref().unwrap().address.unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(BufReader::new(stream))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (1..=3).for_each(|replica| self.stop_node(replica));
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, lines: &str) {
        self.0.get_mut().write_all(lines.as_bytes()).unwrap();
    }
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().into()
    }
    fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\n"));
        self.line()
    }
    /// A pipeline of `count` writes of keys of its own; returns how many were acknowledged.
    fn write_many(&mut self, prefix: &str, count: usize) {
        let lines: String = (0..count).map(|i| format!("set {prefix}{i} {i}\n")).collect();
        self.send(&lines);
        (0..count).for_each(|_| assert_eq!(self.line(), "-"));
    }
    fn read_many(&mut self, prefix: &str, count: usize) {
        let lines: String = (0..count).map(|i| format!("get {prefix}{i}\n")).collect();
        self.send(&lines);
        (0..count).for_each(|i| assert_eq!(self.line(), i.to_string()));
    }
}

fn works(durable: bool) {
    let cluster = Cluster::start(durable, 64 << 20);
    for replica in 1..=3 {
        let mut client = cluster.connect(replica);
        assert_eq!(client.ask(&format!("set k{replica} 1")), "-");
        client.write_many(&format!("p{replica}:"), 500);
    }
    for replica in 1..=3 {
        let mut client = cluster.connect(replica);
        (1..=3).for_each(|r| client.read_many(&format!("p{r}:"), 500));
        client.send("both a b 1\nset a 2\nboth a b 3\nget a\nget b\nset a 4\nget a\n");
        let before = if replica == 1 { ("-;-;", "1") } else { ("4;3;", "1") };
        let expected = [before.0, before.1, "2;1;", "3", "3", "3", "4"];
        expected.iter().for_each(|line| assert_eq!(client.line(), *line));
    }
}

#[test]
fn commands_and_reads_work_at_every_replica_in_memory() {
    works(false);
}

#[test]
fn commands_and_reads_work_at_every_replica_with_fsync() {
    works(true);
}

#[test]
fn a_peer_that_has_a_name_is_dialled_when_the_name_is_known() {
    let mut cluster = Cluster::start(true, 64 << 20);
    (1..=3).for_each(|replica| cluster.wait_serving(replica));
    (1..=3).for_each(|replica| cluster.stop_node(replica));
    let known = cluster.peers.clone();
    // The higher number is dialled: without 3, and without knowing 2, the first has no majority.
    cluster.peers[1] = None;
    cluster.start_node(1);
    cluster.peers = known;
    cluster.start_node(2);
    let first = cluster.nodes[0].as_ref().unwrap();
    first.resolve_peers(vec![(3, "nobody.invalid:1".into()), (2, cluster.peers[1].unwrap().to_string())]).unwrap();
    assert_eq!(cluster.connect(1).ask("set k 1"), "-");
}

#[test]
fn each_replica_in_turn_stops_under_load_and_comes_back() {
    let mut cluster = Cluster::start(true, 64 << 20);
    for round in 1..=3u8 {
        let other = round % 3 + 1;
        let mut client = cluster.connect(other);
        client.write_many(&format!("before{round}:"), 200);
        cluster.stop_node(round);
        client.write_many(&format!("during{round}:"), 200);
        cluster.start_node(round);
        let mut back = cluster.connect(round);
        back.read_many(&format!("before{round}:"), 200);
        back.read_many(&format!("during{round}:"), 200);
        assert_eq!(back.ask(&format!("both x{round} y{round} 1")), "-;-;");
    }
}

#[test]
fn a_whole_cluster_comes_back_from_checkpoints_and_logs() {
    let mut cluster = Cluster::start(true, 20_000);
    let mut client = cluster.connect(1);
    for round in 0..20 {
        client.write_many(&format!("r{round}:"), 300);
        assert_eq!(client.ask(&format!("both r{round}:x r{round}:y 5")), "-;-;");
    }
    (1..=3).for_each(|replica| cluster.stop_node(replica));
    (1..=3).for_each(|replica| cluster.start_node(replica));
    for replica in 1..=3 {
        let mut client = cluster.connect(replica);
        (0..20).for_each(|round| client.read_many(&format!("r{round}:"), 300));
    }
}

#[test]
fn a_replica_that_was_away_for_long_gets_a_checkpoint() {
    let mut cluster = Cluster::start(true, 20_000);
    cluster.connect(1).write_many("early:", 100);
    cluster.stop_node(3);
    let mut client = cluster.connect(1);
    for round in 0..60 {
        client.write_many(&format!("r{round}:"), 200);
        std::thread::sleep(Duration::from_millis(10));
    }
    cluster.start_node(3);
    let mut back = cluster.connect(3);
    let start = Instant::now();
    (0..60).for_each(|round| back.read_many(&format!("r{round}:"), 200));
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(back.ask("both a b 1"), "-;-;");
}

#[test]
fn an_acknowledged_write_survives_one_of_its_replicas_losing_its_disk() {
    let mut cluster = Cluster::start(true, 64 << 20);
    cluster.connect(1).write_many("early:", 50);
    cluster.stop_node(2);
    assert_eq!(cluster.connect(1).ask("set lost 1"), "-");
    cluster.stop_node(1);
    cluster.empty_node(3);
    cluster.start_node(2);
    cluster.start_node(3);
    // These two know nothing of it. They answer when the third is back, not before.
    let mut clients = [cluster.connect(2), cluster.connect(3)];
    clients.iter_mut().for_each(|client| client.send("get lost\n"));
    cluster.start_node(1);
    for client in &mut clients {
        assert_eq!(client.line(), "1");
        client.read_many("early:", 50);
    }
}

#[test]
fn a_replica_whose_disk_is_lost_is_repaired_from_its_peers() {
    for checkpoint_log_bytes in [64 << 20, 20_000] {
        let mut cluster = Cluster::start(true, checkpoint_log_bytes);
        let mut client = cluster.connect(1);
        (0..20).for_each(|round| client.write_many(&format!("r{round}:"), 200));
        for replica in [3, 2] {
            cluster.empty_node(replica);
            cluster.start_node(replica);
            cluster.wait_serving(replica);
            let mut back = cluster.connect(replica);
            (0..20).for_each(|round| back.read_many(&format!("r{round}:"), 200));
            assert_eq!(back.ask(&format!("both a{replica} b{replica} 1")), "-;-;");
        }
        // It counts again: the other two suffice.
        cluster.stop_node(1);
        let mut client = cluster.connect(3);
        client.write_many("late:", 50);
        cluster.connect(2).read_many("late:", 50);
    }
}

#[test]
fn a_replica_without_a_disk_rejoins_when_it_is_started_again() {
    let mut cluster = Cluster::start(false, 64 << 20);
    for round in 1..=3u8 {
        cluster.connect(round % 3 + 1).write_many(&format!("before{round}:"), 200);
        cluster.stop_node(round);
        cluster.connect(round % 3 + 1).write_many(&format!("during{round}:"), 200);
        cluster.start_node(round);
        cluster.wait_serving(round);
        let mut back = cluster.connect(round);
        back.read_many(&format!("before{round}:"), 200);
        back.read_many(&format!("during{round}:"), 200);
        assert_eq!(back.ask(&format!("both x{round} y{round} 1")), "-;-;");
    }
}

#[test]
fn a_peer_s_checkpoint_that_could_not_be_stored_is_fetched_again() {
    let mut cluster = Cluster::start(true, 20_000);
    cluster.connect(1).write_many("early:", 100);
    cluster.stop_node(3);
    let mut client = cluster.connect(1);
    for round in 0..60 {
        client.write_many(&format!("r{round}:"), 200);
        std::thread::sleep(Duration::from_millis(10));
    }
    (1..=2).for_each(|replica| cluster.stop_node(replica));
    cluster.start_node(3);
    let checkpoints = cluster.data.as_ref().unwrap().path().join("replica-3/checkpoints");
    std::fs::remove_dir_all(&checkpoints).unwrap();
    std::fs::write(&checkpoints, b"in the way").unwrap();
    (1..=2).for_each(|replica| cluster.start_node(replica));
    cluster.wait_serving(1);
    // Long enough for a first try, most of the time.
    std::thread::sleep(Duration::from_secs(2));
    std::fs::remove_file(&checkpoints).unwrap();
    std::fs::create_dir(&checkpoints).unwrap();
    cluster.wait_serving(3);
    let mut back = cluster.connect(3);
    (0..60).for_each(|round| back.read_many(&format!("r{round}:"), 200));
}

#[test]
fn a_client_whose_reads_have_to_wait_is_not_read_from_for_ever() {
    let mut cluster = Cluster::start(false, 64 << 20);
    cluster.connect(1).write_many("k", 10);
    (2..=3).for_each(|replica| cluster.stop_node(replica));
    let mut client = cluster.connect(1);
    let stream = client.0.get_mut();
    stream.set_nonblocking(true).unwrap();
    let line = format!("get {}\n", "k".repeat(1 << 20)).into_bytes();
    let (mut sent, mut stalled_since) = (0, Instant::now());
    while stalled_since.elapsed() < Duration::from_secs(1) {
        match stream.write(&line[sent % line.len()..]) {
            Ok(count) => (sent, stalled_since) = (sent + count, Instant::now()),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(sent < 64 << 20, "the replica takes in more and more");
    }
    assert!(sent > 8 << 20, "{sent} bytes");
}
