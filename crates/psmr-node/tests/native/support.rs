//! What the tests of native clients have in common: a service of counters, its gateway, clusters in this process, and a
//! forwarder that loses replies.

use crate::ports::free_addresses;
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::config::Config;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, Sink};
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use psmr_node::client::{Client, ClientOptions};
use psmr_node::client_thread::GatewayFactory;
use psmr_node::node::{Node, NodeConfig};
use std::any::Any;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Adding is not idempotent: a command that executes twice shows in every later reply.
pub struct Counters;

#[derive(Default)]
struct Counts(BTreeMap<String, i64>);

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

impl Counts {
    fn add(&mut self, key: &str, by: &str) -> i64 {
        let count = self.0.entry(key.into()).or_default();
        *count += by.parse::<i64>().unwrap_or(0);
        *count
    }
    fn of(&self, key: &str) -> i64 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

impl Partition for Counts {
    /// `add key by`: the reply is the sum. `look key`: an ordered read.
    fn execute(&mut self, slice: Slice<'_>, _: &Context, replies: &mut Replies) {
        for command in slice {
            let line = text(command.payload);
            let reply = match line.split(' ').collect::<Vec<_>>()[..] {
                ["add", key, by] => self.add(key, by).to_string(),
                ["look", key] => self.of(key).to_string(),
                ["both", a, b, by] => format!("{},{}", self.add(a, by), self.add(b, by)),
                _ => "?".into(),
            };
            replies.push(reply.as_bytes());
        }
    }
    /// `key`, or `big n`: n bytes.
    fn read(&self, payload: &[u8], _: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome {
        let line = text(payload);
        match line.strip_prefix("big ").and_then(|count| count.parse::<usize>().ok()) {
            Some(count) => reply.resize(reply.len() + count, b'x'),
            None => reply.extend_from_slice(self.of(&line).to_string().as_bytes()),
        }
        ReadOutcome::Done
    }
    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String> {
        self.0.iter().for_each(|(key, count)| out.extend_from_slice(format!("{key} {count}\n").as_bytes()));
        Ok(())
    }
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let pair = |line: &str| line.split_once(' ').and_then(|(key, count)| Some((key.into(), count.parse().ok()?)));
        self.0 = text(bytes).lines().filter_map(pair).collect();
        Ok(())
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Service for Counters {
    fn name(&self) -> &str {
        "counters"
    }
    fn partition(&self, _: GroupId, _: &Topology) -> Box<dyn Partition> {
        Box::<Counts>::default()
    }
    /// `both a b by`: the reply is both sums.
    fn execute(&self, handles: &mut Handles<'_>, command: Command<'_>, _: &Context, reply: &mut Vec<u8>) {
        let line = text(command.payload);
        let topology = handles.topology();
        let mut sums = Vec::new();
        if let ["both", a, b, by] = line.split(' ').collect::<Vec<_>>()[..] {
            for key in [a, b] {
                let Ok(partition) = handles.get(topology.group_of(key.as_bytes())) else { continue };
                let counts = partition.as_any_mut().downcast_mut::<Counts>().expect("counts");
                sums.push(counts.add(key, by).to_string());
            }
        }
        reply.extend_from_slice(sums.join(",").as_bytes());
    }
}

/// Lines: `add k n`, `both a b n`, `look k` (ordered), `get k`, `big k n`, `quit`.
#[derive(Default)]
pub struct Lines {
    is_over: bool,
}

impl Gateway for Lines {
    fn on_input(&mut self, input: &[u8], sink: &mut dyn Sink) -> Result<usize, Vec<u8>> {
        let mut taken = 0;
        while let Some(length) = input[taken..].iter().position(|b| *b == b'\n') {
            if sink.is_full() {
                break;
            }
            let line = text(&input[taken..taken + length]);
            taken += length + 1;
            let group = |sink: &dyn Sink, key: &str| sink.topology().group_of(key.as_bytes());
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["get", key] => sink.read(group(sink, key), 7, key.as_bytes()),
                ["big", key, count] => sink.read(group(sink, key), 7, format!("big {count}").as_bytes()),
                ["add", key, _] => sink.ordered(GroupSet::one(group(sink, key)), false, 7, line.as_bytes()),
                ["look", key] => sink.ordered(GroupSet::one(group(sink, key)), true, 7, line.as_bytes()),
                ["both", a, b, _] => {
                    let gamma: GroupSet = [group(sink, a), group(sink, b)].into_iter().collect();
                    sink.ordered(gamma, false, 7, line.as_bytes());
                }
                ["quit"] => {
                    sink.answer(b"bye");
                    self.is_over = true;
                }
                _ => return Err(b"what?\n".to_vec()),
            }
        }
        Ok(taken)
    }
    fn on_reply(&mut self, tag: u32, reply: &[u8], out: &mut Vec<u8>) {
        assert_eq!(tag, 7);
        out.extend_from_slice(reply);
    }
    fn on_failure(&mut self, _: u32, failure: Failure, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{failure:?}").as_bytes());
    }
    fn info(&self) -> ClientInfo {
        ClientInfo::default()
    }
    fn wants_close(&self) -> bool {
        self.is_over
    }
}

pub fn gateway() -> Box<dyn Gateway> {
    Box::<Lines>::default()
}

pub fn options(seconds: u64) -> ClientOptions {
    ClientOptions { timeout: Duration::from_secs(seconds), ..ClientOptions::default() }
}

/// Executes a line; gives the reply as text.
pub fn ask(client: &mut Client, line: &str) -> String {
    text(&client.execute(format!("{line}\n").as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}")))
}

/// A replica without sockets.
pub fn embedded(data: Option<&Path>) -> Node {
    let mut core = Config::new(1, 1, 4, 2);
    (core.heartbeat_ticks, core.election_ticks) = (1, 3);
    let config = NodeConfig {
        core,
        cluster: [1; 16],
        listen: None,
        peer_listen: None,
        peers: vec![None],
        client_addresses: Vec::new(),
        workers: 2,
        shares_thread: false,
        memory_bytes_max: 0,
        allows_debug: false,
        counts: None,
        source: None,
        data: data.map(Path::to_path_buf),
    };
    Node::start(config, Arc::new(Counters), Arc::new(|_| gateway())).unwrap()
}

pub struct Cluster {
    service: Arc<dyn Service>,
    factory: GatewayFactory,
    peers: Vec<Option<SocketAddr>>,
    nodes: Vec<Option<Node>>,
    addresses: Vec<Option<SocketAddr>>,
    data: tempfile::TempDir,
}

impl Cluster {
    /// Three durable replicas of the counters.
    pub fn start() -> Cluster {
        Cluster::of(Arc::new(Counters), Arc::new(|_| gateway()))
    }

    /// Three durable replicas.
    pub fn of(service: Arc<dyn Service>, factory: GatewayFactory) -> Cluster {
        let [peers, addresses] = [(); 2].map(|()| free_addresses(3).into_iter().map(Some).collect());
        let data = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { service, factory, peers, nodes: vec![None, None, None], addresses, data };
        (1..=3).for_each(|replica| cluster.start_node(replica));
        cluster
    }

    pub fn start_node(&mut self, replica: u8) {
        let at = usize::from(replica) - 1;
        let config = NodeConfig {
            core: Config::new(replica, 3, 8, 3),
            cluster: [7; 16],
            listen: Some(self.addresses[at].unwrap_or("127.0.0.1:0".parse().unwrap())),
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
            data: Some(self.data.path().join(format!("replica-{replica}"))),
        };
        let node = Node::start(config, self.service.clone(), self.factory.clone()).unwrap();
        self.addresses[at] = node.address;
        self.nodes[at] = Some(node);
    }

    pub fn stop_node(&mut self, replica: u8) {
        if let Some(node) = self.nodes[usize::from(replica) - 1].take() {
            node.stop();
        }
    }

    pub fn address(&self, replica: u8) -> String {
        self.addresses[usize::from(replica) - 1].unwrap().to_string()
    }

    pub fn connect(&self, replica: u8) -> Client {
        connect(&self.address(replica))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (1..=3).for_each(|replica| self.stop_node(replica));
    }
}

pub fn connect(address: &str) -> Client {
    Client::connect(&[address.to_owned()], "counters", gateway(), options(20), &mut || false).unwrap()
}

/// A man in the middle, who lets everything through until told otherwise.
pub struct Forwarder {
    pub address: String,
    swallows: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Forwarder {
    pub fn to(target: String) -> Forwarder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let forwarder = Forwarder { address, swallows: Arc::default(), streams: Arc::default() };
        let (swallows, streams) = (forwarder.swallows.clone(), forwarder.streams.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                streams.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let swallows = swallows.clone();
                std::thread::spawn(move || pump(client, server, &AtomicBool::new(false)));
                std::thread::spawn(move || pump(back.0, back.1, &swallows));
            }
        });
        forwarder
    }

    /// From now on replies are lost; requests are not.
    pub fn swallow_replies(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::SeqCst);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.streams.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || (!swallows.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err()) {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
