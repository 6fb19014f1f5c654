//! One replica as a process runs it: opens what is on disk, starts the threads, and ends them.
//!
//! ```text
//! client threads --batches, reads--> consensus thread <--frames--> peers
//!       ^                              |   |      ^
//!       |                        ready |   | write| persisted
//!       |                              v   v      |
//!       +---- replies ------- workers     log thread
//! ```

use crate::checkpoints;
use crate::client::{Client, ClientError, ClientOptions, Direct};
use crate::client_thread::{Clients, CommandCounts, Connections, GatewayFactory};
use crate::clock::wall_ms;
use crate::congestion::unpace;
use crate::consensus_thread::{About, ConsensusThread, Input, STOP_TIME_MAX};
use crate::data_directory::{cluster_text, DataDirectory, Identity as Owner};
use crate::log_storage::{FileLog, FileLogOptions};
use crate::mailbox::Mailbox;
use crate::native::{AddressBook, Welcome};
use crate::router::{ClientInput, Router};
use crate::timings::Timings;
use crate::transport::{Hello, Transport};
use crate::worker_thread::Workers;
use crate::{client_thread, consensus_thread, log_thread, resolver};
use bytes::Bytes;
use mio::net::TcpListener;
use psmr_core::client::{ClientProxy, ProxyLimits};
use psmr_core::command::{ReplicaId, SessionId};
use psmr_core::config::Config;
use psmr_core::entry::ROUTING_VERSION_FIRST;
use psmr_core::execute::{Engine, Output};
use psmr_core::gateway::{Gateway, NodeInfo};
use psmr_core::log::{LogStorage, RecoveredLog};
use psmr_core::order::{Identity, Order, Positions};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::{Topology, HASH_VERSION};
use psmr_core::service::Service;
use psmr_core::wire::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The token of the waker of a thread that has mailboxes.
const WAKER: mio::Token = mio::Token(0);

/// What a replica is started with.
pub struct NodeConfig {
    /// The protocol's part.
    pub core: Config,
    /// The cluster.
    pub cluster: [u8; 16],
    /// Where clients connect; port 0 lets the system choose. `None`: only clients in this process (`Node::direct_client`).
    pub listen: Option<SocketAddr>,
    /// Where peers connect. `None`: a cluster of one replica.
    pub peer_listen: Option<SocketAddr>,
    /// `peers[i]` is where replica i+1 listens for peers.
    pub peers: Vec<Option<SocketAddr>>,
    /// `client_addresses[i]` is where clients connect to replica i+1, as far as that is known before it says so.
    pub client_addresses: Vec<Option<String>>,
    /// Threads that execute.
    pub workers: usize,
    /// Clients are served, and brief commands executed, in the consensus thread: less CPU per command where cores are few.
    pub shares_thread: bool,
    /// Beyond so many bytes of resident memory, clients' commands that need more are refused; 0: there is no limit.
    pub memory_bytes_max: u64,
    /// Clients may hold the replica up, to see what that does.
    pub allows_debug: bool,
    /// Commands by name, if the clients' protocol counts them.
    pub counts: Option<CommandCounts>,
    /// Where the service comes from, as its users name it, if it is none of this program's.
    pub source: Option<String>,
    /// Where the log and the checkpoints are; `None`: `memory` durability.
    pub data: Option<PathBuf>,
}

/// Why a replica does not start, or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeError {
    /// Wrong configuration, port or directory.
    Usage(String),
    /// A failure at run time.
    Failure(String),
}

impl NodeError {
    fn of(is_usage: bool, line: String) -> NodeError {
        if is_usage {
            NodeError::Usage(line)
        } else {
            NodeError::Failure(line)
        }
    }
}

/// A running replica.
pub struct Node {
    mailbox: Arc<Mailbox<Input>>,
    stopping: Arc<AtomicBool>,
    workers: Arc<Workers>,
    threads: Vec<JoinHandle<()>>,
    ended: Mutex<Receiver<Result<(), String>>>,
    inside: Inside,
    /// Where clients connect, if they do.
    pub address: Option<SocketAddr>,
}

/// What a client in the same process works with.
#[derive(Clone)]
pub(crate) struct Inside {
    pub engine: Arc<Engine>,
    pub consensus: Arc<Mailbox<Input>>,
    pub router: Arc<Router>,
    pub welcome: Welcome,
    /// How many clients are connected.
    pub connections: Arc<Connections>,
    /// The replica has come to its end.
    pub is_over: Arc<AtomicBool>,
}

/// The genesis record: what all replicas of a cluster must agree on, for ever.
fn genesis(config: &NodeConfig, service: &dyn Service) -> Bytes {
    let mut out = Vec::new();
    out.u8(1);
    out.extend_from_slice(&config.cluster);
    out.u8(config.core.replicas);
    out.u16(config.core.groups as u16);
    out.u16(config.core.streams as u16);
    out.u16(HASH_VERSION);
    out.u8(u8::from(config.data.is_some()));
    out.blob(service.name().as_bytes());
    out.into()
}

/// What a data directory holds.
struct Recovered {
    log: Option<FileLog>,
    directory: Option<DataDirectory>,
    /// Which memory of the replica this is.
    member: Identity,
    logs: Vec<RecoveredLog>,
    checkpoint: Option<(u64, Positions, Vec<Bytes>)>,
}

fn recover(config: &NodeConfig, genesis: &Bytes) -> Result<Recovered, NodeError> {
    let member = Identity::fresh(random()?.max(1));
    let Some(path) = &config.data else {
        return Ok(Recovered { log: None, directory: None, member, logs: Vec::new(), checkpoint: None });
    };
    let owner = Owner { cluster: config.cluster, replica: config.core.me, member, genesis: genesis.clone() };
    let directory =
        DataDirectory::open_or_create(path, owner).map_err(|e| NodeError::of(e.is_wrong_directory(), e.to_string()))?;
    let member = directory.identity().member.clone();
    let (log, logs) = FileLog::open(&directory.log_path(), FileLogOptions::default(), config.core.streams + 1)
        .map_err(|e| NodeError::of(e.is_wrong_place(), e.to_string()))?;
    let checkpoint = checkpoints::newest(&directory.checkpoints_path()).map_err(NodeError::Failure)?;
    Ok(Recovered { log: Some(log), directory: Some(directory), member, logs, checkpoint })
}

/// Listens at the address that the configuration has under `key`.
fn listen(address: Option<SocketAddr>, key: &str) -> Result<Option<TcpListener>, NodeError> {
    let bind = |address| {
        TcpListener::bind(address).map_err(|e| {
            let remedy = match e.kind() {
                ErrorKind::AddrInUse => "choose another port, or stop who uses it",
                ErrorKind::AddrNotAvailable => "choose an address of this machine, or 0.0.0.0 for all of them",
                ErrorKind::PermissionDenied => "choose a port above 1023, or allow this user to listen there",
                _ => "choose another address",
            };
            NodeError::Usage(format!("{key} is {address}: cannot listen there: {e}; {remedy}"))
        })
    };
    let listener = address.map(bind).transpose()?;
    listener.iter().for_each(unpace);
    Ok(listener)
}

fn address_of(listener: Option<&TcpListener>) -> Result<Option<SocketAddr>, NodeError> {
    listener.map(TcpListener::local_addr).transpose().map_err(failure)
}

fn failure(error: std::io::Error) -> NodeError {
    NodeError::Failure(format!("the system refused what a replica needs: {error}"))
}

/// A number that no other process has.
fn random() -> Result<u64, NodeError> {
    getrandom::u64().map_err(|e| NodeError::Failure(format!("the system gives no random numbers: {e}")))
}

impl Node {
    /// Starts a replica of `service`, whose clients speak what `factory` makes.
    ///
    /// # Errors
    /// One line: what is wrong, and what to do.
    pub fn start(config: NodeConfig, service: Arc<dyn Service>, factory: GatewayFactory) -> Result<Node, NodeError> {
        config.core.check().map_err(NodeError::Usage)?;
        let genesis = genesis(&config, &*service);
        let listener = listen(config.listen, "listen")?;
        let peer_listener = listen(config.peer_listen, "peer_listen")?;
        let address = address_of(listener.as_ref())?;
        let peer_address = address_of(peer_listener.as_ref())?;
        if peer_listener.is_none() && config.core.replicas > 1 {
            return Err(NodeError::Usage("a replica of several needs an address where its peers connect".into()));
        }
        let address_text = address.map_or(String::new(), |address| address.to_string());
        let recovered = recover(&config, &genesis)?;

        let core = Config { seed: random()?, genesis: xxhash_rust::xxh3::xxh3_64(&genesis), ..config.core.clone() };
        let topology = Topology::new(core.groups, core.streams);
        let timings = Arc::new(Timings::new().map_err(NodeError::Failure)?);
        let engine = Engine::new(core.me, topology.clone(), service.clone(), PlantedErrors::default());
        let engine = Arc::new(engine.observed_by(timings.clone()));
        let durable = config.data.is_some();
        let incarnation = recovered.member.incarnation;
        let order = restore(core, &engine, recovered.member, recovered.logs, recovered.checkpoint, durable)?;

        let poll = mio::Poll::new().map_err(failure)?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER).map_err(failure)?);
        let mailbox = Arc::new(Mailbox::new(waker.clone()));
        let router = Arc::new(Router::new(mailbox.clone()));
        let (workers, mut threads) = Workers::start(engine.clone(), router.clone(), config.workers).map_err(failure)?;
        let mut log_sender = None;
        if let Some(mut log) = recovered.log {
            log.write(&order.start_records()).map_err(NodeError::Failure)?;
            let (sender, thread) = log_thread::start(Box::new(log), mailbox.clone(), timings.clone()).map_err(failure)?;
            log_sender = Some(sender);
            threads.push(thread);
        }

        let stopping = Arc::new(AtomicBool::new(false));
        let node = NodeInfo {
            replica: config.core.me,
            replicas: config.core.replicas,
            port: address.map_or(0, |address| address.port()),
            pid: std::process::id(),
            started_ms: wall_ms(),
            durability: if durable { "fsync" } else { "memory" },
            cluster: cluster_text(&config.cluster),
            memory_bytes_max: config.memory_bytes_max,
            allows_debug: config.allows_debug,
        };
        let addresses = Arc::new(AddressBook::default());
        for (replica, address) in (1..).zip(&config.client_addresses) {
            address.iter().for_each(|address| addresses.set(replica, address));
        }
        let inside = Inside {
            engine: engine.clone(),
            consensus: mailbox.clone(),
            router: router.clone(),
            welcome: welcome(&config, &topology, &node, service.interface()),
            connections: Arc::default(),
            is_over: Arc::default(),
        };
        let (mut clients, mut own_clients) = (Vec::new(), None);
        if let Some(listener) = listener {
            addresses.set(config.core.me, &address_text);
            let own_poll = if config.shares_thread { None } else { Some(mio::Poll::new().map_err(failure)?) };
            let registry = own_poll.as_ref().unwrap_or(&poll).registry().try_clone().map_err(failure)?;
            let waker = if config.shares_thread { waker } else { Arc::new(mio::Waker::new(&registry, WAKER).map_err(failure)?) };
            let client_mailbox = Arc::new(Mailbox::new(waker));
            let served = make_clients(listener, registry, client_mailbox.clone(), &inside, &addresses, node.clone(), factory)?;
            clients.push(client_mailbox);
            match own_poll {
                None => own_clients = Some(served),
                Some(poll) => {
                    let stopping = stopping.clone();
                    let run = move || served.run(poll, &stopping).map_err(|e| e.to_string());
                    threads.push(spawn("clients", run, mailbox.clone())?);
                }
            }
        }

        let hello = Hello {
            cluster: config.cluster,
            genesis: xxhash_rust::xxh3::xxh3_64(&[&genesis, service.interface().as_bytes()].concat()),
            from: config.core.me,
            incarnation,
            client_address: address_text.clone(),
        };
        let registry = poll.registry().try_clone().map_err(failure)?;
        let transport = Transport::new(hello, peer_listener, &config.peers, registry).map_err(failure)?;
        let consensus = ConsensusThread::new(consensus_thread::Parts {
            order,
            engine,
            workers: workers.clone(),
            router,
            transport,
            mailbox: mailbox.clone(),
            poll,
            log: log_sender,
            clients,
            own_clients,
            checkpoints: recovered.directory.as_ref().map(DataDirectory::checkpoints_path),
            directory: recovered.directory,
            timings,
            addresses,
            connections: inside.connections.clone(),
            counts: config.counts,
            about: About {
                durability: node.durability,
                client_address: address_text,
                peer_address: peer_address.map_or(String::new(), |address| address.to_string()),
                cluster: node.cluster,
                service: service.name().into(),
                source: config.source,
            },
        });
        let (sender, ended) = std::sync::mpsc::channel();
        let is_over = inside.is_over.clone();
        let run = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| consensus.run()));
            let outcome = outcome.unwrap_or_else(|_| Err("the consensus thread panicked".into()));
            is_over.store(true, Ordering::SeqCst);
            let _ = sender.send(outcome);
        };
        threads.push(thread::Builder::new().name("consensus".into()).spawn(run).map_err(failure)?);
        Ok(Node { mailbox, stopping, workers, threads, ended: Mutex::new(ended), inside, address })
    }

    /// The replica's execution, for reads in the calling thread: only of a cluster of one (`Engine::read_now`).
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inside.engine
    }

    /// A client in this process: it works without sockets, until the replica ends.
    ///
    /// # Errors
    /// If the system has no more descriptors or random numbers.
    pub fn direct_client(&self, gateway: Box<dyn Gateway>, options: ClientOptions) -> Result<Client, ClientError> {
        Client::over(Box::new(Direct::new(self.inside.clone())?), gateway, options, &mut || false)
    }

    /// Looks up the peers whose addresses are names (`host:port`), until they have one.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn resolve_peers(&self, names: Vec<(ReplicaId, String)>) -> Result<(), NodeError> {
        resolver::start(names, self.mailbox.clone(), self.stopping.clone()).map_err(failure)
    }

    /// Waits until the replica ends by itself, at most this long. `None`: it runs on.
    pub fn wait(&self, time_max: Duration) -> Option<Result<(), String>> {
        match self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(time_max) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err("the consensus thread is gone".into())),
        }
    }

    /// Ends the replica. What it has acknowledged is durable already.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.mailbox.post(Input::Stop);
        let _ = self.wait(STOP_TIME_MAX);
        self.workers.stop();
        for thread in self.threads {
            // A worker may be in a command that does not end: the process does.
            let deadline = std::time::Instant::now() + STOP_TIME_MAX;
            while !thread.is_finished() && std::time::Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// What native clients are told of the replica.
fn welcome(config: &NodeConfig, topology: &Topology, node: &NodeInfo, service: &str) -> Welcome {
    Welcome {
        cluster: config.cluster,
        replica: config.core.me,
        replicas: config.core.replicas,
        groups: topology.groups as u16,
        streams: topology.streams as u16,
        hash_version: HASH_VERSION,
        routing_version: ROUTING_VERSION_FIRST,
        time_ms: 0,
        is_durable: config.data.is_some(),
        pid: node.pid,
        started_ms: node.started_ms,
        service: service.into(),
        addresses: Vec::new(),
    }
}

/// What serves client connections.
fn make_clients(
    listener: TcpListener,
    registry: mio::Registry,
    mailbox: Arc<Mailbox<ClientInput>>,
    inside: &Inside,
    addresses: &Arc<AddressBook>,
    node: NodeInfo,
    factory: GatewayFactory,
) -> Result<Clients, NodeError> {
    let topology = inside.engine.topology.clone();
    let proxy = ClientProxy::new(SessionId(random()?), inside.engine.me, false, topology, ProxyLimits::default());
    Clients::new(client_thread::Parts {
        registry,
        mailbox,
        listener,
        proxy,
        engine: inside.engine.clone(),
        consensus: inside.consensus.clone(),
        router: inside.router.clone(),
        node,
        factory,
        directory: Arc::default(),
        addresses: addresses.clone(),
        connections: inside.connections.clone(),
        welcome: inside.welcome.clone(),
    })
    .map_err(failure)
}

/// Brings the groups to the checkpoint, and the ordering part behind it.
fn restore(
    core: Config,
    engine: &Arc<Engine>,
    member: Identity,
    logs: Vec<RecoveredLog>,
    checkpoint: Option<(u64, Positions, Vec<Bytes>)>,
    durable: bool,
) -> Result<Order, NodeError> {
    let (mut place, mut state_bytes) = (None, 0);
    if let Some((cut, positions, groups)) = checkpoint {
        checkpoints::check(&engine.topology, cut, &positions, &groups)
            .map_err(|what| NodeError::Failure(format!("the checkpoint does not fit: {what}; remove the data directory")))?;
        let mut output = Output::default();
        state_bytes = groups.iter().map(Bytes::len).sum();
        for (group, bytes) in engine.topology.all().iter().zip(groups) {
            engine.restore(group, cut, bytes, &mut output).map_err(NodeError::Failure)?;
        }
        place = Some((cut, positions));
    }
    let mut order =
        Order::new(core, engine.clone(), member, logs, place, durable).map_err(|e| NodeError::Failure(e.to_string()))?;
    order.set_state_bytes(state_bytes);
    Ok(order)
}

/// A thread whose failure, or panic, ends the replica.
fn spawn(
    name: &str,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
    mailbox: Arc<Mailbox<Input>>,
) -> Result<JoinHandle<()>, NodeError> {
    let label = name.to_string();
    let guarded = move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(text)) => mailbox.post(Input::Failed(format!("the thread for {label} failed: {text}"))),
            Err(_) => mailbox.post(Input::Failed(format!("the thread for {label} panicked"))),
        }
    };
    thread::Builder::new().name(name.into()).spawn(guarded).map_err(failure)
}
