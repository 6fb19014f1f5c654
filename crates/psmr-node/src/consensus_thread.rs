//! The consensus thread: the ordering part, the connections to peers, and the clock that drives both. It never waits for a
//! disk or for a worker. Where cores are few it serves the clients too, and executes what is brief: each hand-off to another
//! thread costs more than that.

use crate::checkpoints::{self, Incoming, Shipment};
use crate::client_thread::{Clients, CommandCounts, Connections};
use crate::clock::{wall_ms, TICK};
use crate::data_directory::DataDirectory;
use crate::mailbox::Mailbox;
use crate::native::AddressBook;
use crate::peer_frame::Kind;
use crate::router::{ClientInput, Router};
use crate::timings::Timings;
use crate::transport::{Happening, Transport};
use crate::worker_thread::Workers;
use bytes::Bytes;
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId};
use psmr_core::entry::System;
use psmr_core::execute::{Engine, Output};
use psmr_core::log::LogWrite;
use psmr_core::message::Frame;
use psmr_core::order::{Actions, Identity, Order, Positions, Standing};
use serde_json::{json, Value};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Digests that are kept for whoever asks for them.
const DIGESTS_KEPT: usize = 16;

/// What other threads tell the consensus thread.
pub enum Input {
    /// A batch of a client proxy.
    Batch(LogId, Bytes),
    /// Reads wait in the streams of the mask.
    Rounds(u64),
    /// Reads that are held in groups may have room for their replies now.
    HeldReads,
    /// Something changed that a turn looks at.
    Turn,
    /// The replica has, or no longer has, more memory than it may.
    Memory { is_out: bool },
    /// Writes up to this turn are durable.
    Persisted(u64),
    /// A group's part of a checkpoint.
    Snapshot { cut: u64, group: GroupId, bytes: Vec<u8> },
    /// The state at the cut cannot be written.
    NoSnapshot { cut: u64, why: String },
    /// A group's part of a digest.
    Digest { request: u64, cut: u64, group: GroupId, digest: [u64; 2] },
    /// The state cannot be written, so that there is none.
    NoDigest { request: u64, cut: u64, why: String },
    /// An own checkpoint is on disk.
    CheckpointWritten { cut: u64, positions: Positions },
    /// An own checkpoint could not be written; the one before it serves on.
    CheckpointFailed(String),
    /// A peer's checkpoint could not be read or stored.
    CheckpointRefused(String),
    /// A peer's checkpoint is on disk (if there is one), and is to be installed.
    CheckpointFetched { cut: u64, positions: Positions, groups: Vec<Bytes> },
    /// The groups are as in a peer's checkpoint, and the workers wait.
    CheckpointRestored { cut: u64, positions: Positions, state_bytes: usize, ready: GroupSet },
    /// A connection asks about the replica.
    Question { from: Arc<Mailbox<ClientInput>>, connection: u64, question: Question },
    /// The address of a peer that has a name.
    PeerAddress(ReplicaId, SocketAddr),
    /// The replica cannot go on.
    Failed(String),
    /// The replica is to end.
    Stop,
}

/// What a connection can ask.
pub enum Question {
    /// The state of this replica.
    Status,
    /// The same, and what it has counted and timed.
    Metrics,
    /// The digest that was asked for under this number. `start`: ask all replicas to compute it.
    Digest { request: u64, start: bool },
}

/// What the consensus thread is made of.
pub struct Parts {
    pub order: Order,
    pub engine: Arc<Engine>,
    pub workers: Arc<Workers>,
    pub router: Arc<Router>,
    pub transport: Transport,
    pub mailbox: Arc<Mailbox<Input>>,
    pub poll: mio::Poll,
    /// To the log thread; `None` in `memory` durability.
    pub log: Option<SyncSender<LogWrite>>,
    pub clients: Vec<Arc<Mailbox<ClientInput>>>,
    /// Clients that this thread serves itself.
    pub own_clients: Option<Clients>,
    /// `None` in `memory` durability.
    pub directory: Option<DataDirectory>,
    pub checkpoints: Option<PathBuf>,
    pub timings: Arc<Timings>,
    /// Where clients connect to the replicas.
    pub addresses: Arc<AddressBook>,
    /// How many clients there are.
    pub connections: Arc<Connections>,
    /// Commands that clients asked for, by name, if their protocol counts them.
    pub counts: Option<CommandCounts>,
    /// For `status`.
    pub about: About,
}

/// What `status` says that does not change.
#[derive(Clone, Debug)]
pub struct About {
    pub durability: &'static str,
    pub client_address: String,
    pub peer_address: String,
    pub cluster: String,
    pub service: String,
    pub source: Option<String>,
}

struct Digest {
    cut: u64,
    /// Of the service's state, and of the engine's own.
    groups: BTreeMap<GroupId, [u64; 2]>,
    /// Why the state cannot be written.
    unwritable: Option<String>,
}

/// The thread's state.
pub struct ConsensusThread {
    parts: Parts,
    next_tick: Instant,
    happenings: Vec<Happening>,
    snapshots: HashMap<u64, BTreeMap<GroupId, Vec<u8>>>,
    digests: Vec<(u64, Digest)>,
    shipments: Vec<Shipment>,
    incoming: Option<Incoming>,
    is_serving: bool,
    /// Groups are being restored: none may run.
    is_restoring: bool,
    /// Something came from another thread before the last turn.
    is_busy: bool,
    rejoins: bool,
    /// How often each log has had another leader, as far as this replica has noticed.
    leader_changes: Vec<u64>,
    /// Of groups that this thread runs.
    output: Output,
}

impl ConsensusThread {
    /// Takes over the parts.
    pub fn new(parts: Parts) -> ConsensusThread {
        ConsensusThread {
            rejoins: parts.order.identity().standing == Standing::Rejoining,
            output: Output::new(parts.router.clone()),
            leader_changes: vec![0; parts.engine.topology.logs()],
            parts,
            next_tick: Instant::now(),
            happenings: Vec::new(),
            snapshots: HashMap::new(),
            digests: Vec::new(),
            shipments: Vec::new(),
            incoming: None,
            is_serving: false,
            is_restoring: false,
            is_busy: false,
        }
    }

    /// Runs until the replica is stopped.
    ///
    /// # Errors
    /// One line that says why the replica cannot go on.
    pub fn run(mut self) -> Result<(), String> {
        let mut events = mio::Events::with_capacity(1024);
        let mut inputs = Vec::new();
        loop {
            let ticks = self.ticks_until_due();
            if ticks == 1 {
                // Lets who is ready run first: under load more has come by the time of the poll, and a turn is paid per batch.
                thread::yield_now();
            }
            let wait = self.prepare_sleep(ticks);
            match self.parts.poll.poll(&mut events, Some(wait)) {
                Err(e) if e.kind() != std::io::ErrorKind::Interrupted => return Err(format!("polling failed: {e}")),
                _ => {}
            }
            self.parts.mailbox.wake_up();
            self.parts.order.set_clock(wall_ms());
            // Before what has come: it is timed by the ticks after it.
            for _ in 1..ticks {
                if Instant::now() >= self.next_tick {
                    self.tick(self.next_tick + TICK);
                }
            }
            self.parts.transport.read_on(&mut self.happenings);
            for event in &events {
                self.parts.transport.on_event(event, &mut self.happenings);
            }
            self.on_happenings();
            if let Some(clients) = &mut self.parts.own_clients {
                clients.turn(&events);
            }
            self.parts.mailbox.take(&mut inputs);
            self.is_busy = !inputs.is_empty();
            for input in inputs.drain(..) {
                if matches!(input, Input::Stop) {
                    return Ok(());
                }
                self.on_input(input)?;
            }
            if Instant::now() >= self.next_tick {
                // A thread that was held up does not make up for lost ticks: the others have not heard from it meanwhile either.
                self.tick((self.next_tick + TICK).max(Instant::now() + TICK / 2));
            }
            self.turn()?;
        }
    }

    /// How long the thread may sleep, unless something comes.
    fn prepare_sleep(&self, ticks: u32) -> Duration {
        if !self.parts.mailbox.may_sleep() || self.parts.transport.has_more() {
            return Duration::ZERO;
        }
        let mut wait = (self.next_tick + TICK * (ticks - 1)).saturating_duration_since(Instant::now());
        if let Some(due_ms) = self.parts.order.turn_due_ms() {
            wait = wait.min(Duration::from_millis(due_ms));
        }
        self.parts.own_clients.as_ref().map_or(wait, |clients| wait.min(clients.prepare_sleep()))
    }

    /// How many ticks may pass before the thread has to wake by itself: an idle replica sleeps until its next heartbeat.
    fn ticks_until_due(&self) -> u32 {
        let is_moving = self.is_busy || !self.shipments.is_empty() || self.incoming.is_some() || !self.snapshots.is_empty();
        match self.is_serving && !is_moving {
            true => self.parts.order.ticks_idle(),
            false => 1,
        }
    }

    fn tick(&mut self, next: Instant) {
        self.next_tick = next;
        self.parts.transport.on_clock();
        self.parts.order.tick(wall_ms());
        let lagging = self.parts.engine.notify(self.parts.order.lagging_groups());
        self.parts.workers.schedule(lagging);
        self.is_serving = self.is_serving || self.parts.order.has_caught_up();
        if self.incoming.as_ref().is_some_and(Incoming::is_stale) {
            self.incoming = None;
        }
    }

    fn on_happenings(&mut self) {
        while let Some(happening) = (!self.happenings.is_empty()).then(|| self.happenings.remove(0)) {
            match happening {
                Happening::Connected(replica, incarnation) => {
                    self.parts.order.on_connected(replica, incarnation);
                    if let Some(address) = self.parts.transport.client_address(replica) {
                        self.parts.addresses.set(replica, address);
                    }
                }
                Happening::Disconnected(replica) => {
                    self.parts.order.on_disconnected(replica);
                    self.shipments.retain(|shipment| shipment.to != replica);
                    if self.incoming.as_ref().is_some_and(|i| i.from == replica && !i.is_installing()) {
                        self.incoming = None;
                    }
                }
                Happening::Frame(replica, kind, body) => self.on_frame(replica, kind, body),
            }
        }
    }

    fn on_frame(&mut self, from: ReplicaId, kind: Kind, body: Bytes) {
        let outcome = match kind {
            Kind::Turn => Frame::decode(body).map_err(Into::into).and_then(|f| self.parts.order.on_frame(from, f)),
            Kind::CheckpointRequest => {
                self.ship_checkpoint(from);
                Ok(())
            }
            Kind::CheckpointChunk => {
                self.on_chunk(from, body);
                Ok(())
            }
            Kind::Hello | Kind::Refusal => Ok(()),
        };
        if let Err(error) = outcome {
            self.parts.transport.refuse(from, &error.to_string(), &mut self.happenings);
        }
    }

    fn on_input(&mut self, input: Input) -> Result<(), String> {
        match input {
            Input::Batch(log, batch) => self.parts.order.submit(log, batch),
            Input::Rounds(streams) => {
                let all = 0..self.parts.engine.topology.streams as u8;
                all.filter(|s| streams >> s & 1 == 1).for_each(|s| self.parts.order.want_round(LogId(s)));
            }
            Input::HeldReads => {
                let reading = self.parts.engine.notify(self.parts.engine.reading());
                self.parts.workers.schedule(reading);
            }
            Input::Turn | Input::Stop => {}
            Input::Memory { is_out } => self.parts.order.set_short_of_memory(is_out),
            Input::Persisted(turn) => self.parts.order.on_persisted(turn),
            Input::Snapshot { cut, group, bytes } => self.on_snapshot(cut, group, bytes),
            Input::NoSnapshot { cut, why } => {
                eprintln!("psmr: warning: no checkpoint, so the log grows: {why}");
                self.snapshots.retain(|other, _| *other > cut);
            }
            Input::Digest { request, cut, group, digest } => {
                self.digest_at(request, cut).map(|found| found.groups.insert(group, digest));
            }
            Input::NoDigest { request, cut, why } => {
                self.digest_at(request, cut).map(|found| found.unwritable.insert(why));
            }
            Input::CheckpointWritten { cut, positions } => self.parts.order.on_checkpoint(cut, positions),
            Input::CheckpointFailed(text) => eprintln!("psmr: warning: {text}"),
            Input::CheckpointRefused(text) => {
                eprintln!("psmr: warning: {text}; it is fetched again");
                self.incoming = self.incoming.take().map(Incoming::pause);
            }
            Input::CheckpointFetched { cut, positions, groups } => self.restore(cut, positions, groups),
            Input::CheckpointRestored { cut, positions, state_bytes, ready } => {
                self.parts.order.set_state_bytes(state_bytes);
                self.install(cut, positions, ready);
            }
            Input::Question { from, connection, question } => {
                let text = self.answer(question).to_string();
                from.post(ClientInput::Told { connection, text });
            }
            Input::PeerAddress(replica, address) => self.parts.transport.set_address(replica, address),
            Input::Failed(text) => return Err(text),
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut actions = Actions::default();
        self.parts.order.turn(&mut actions).map_err(|e| e.to_string())?;
        if let Some(identity) = &actions.identity {
            self.keep_identity(identity)?;
        }
        for (replica, frame) in &actions.frames {
            self.parts.transport.send(*replica, Kind::Turn, |body| frame.encode(body));
        }
        self.ship();
        // Before the disk: followers work while the leader syncs.
        self.parts.transport.flush(&mut self.happenings);
        if let (Some(write), Some(log)) = (actions.write, &self.parts.log) {
            // The log thread ends only after it has said why, which is in the mailbox then.
            let _ = log.send(write);
        }
        self.execute(actions.ready);
        for log in actions.leader_changes {
            self.leader_changes[log.index()] += 1;
            self.parts.clients.iter().for_each(|mailbox| mailbox.post(ClientInput::LeaderChange(log)));
        }
        if let (Some(peer), None) = (actions.fetch_checkpoint, &self.incoming) {
            self.incoming = Some(Incoming::new(peer));
            self.parts.transport.send(peer, Kind::CheckpointRequest, |_| {});
            self.parts.transport.flush(&mut self.happenings);
        }
        Ok(())
    }

    /// Sees to it that groups are run.
    fn execute(&mut self, ready: GroupSet) {
        match &mut self.parts.own_clients {
            None => self.parts.workers.schedule(ready),
            Some(_) if self.is_restoring => self.parts.workers.schedule(ready),
            Some(clients) => {
                self.parts.workers.help(ready, &mut self.output);
                clients.turn_replies();
            }
        }
    }

    /// It comes before all else that the turn wants done. It is rare, and so may wait for the disk.
    fn keep_identity(&mut self, identity: &Identity) -> Result<(), String> {
        if let Some(directory) = &mut self.parts.directory {
            directory.set_member(identity.clone()).map_err(|e| e.to_string())?;
        }
        let me = self.parts.engine.me;
        match &identity.standing {
            Standing::Rejoining => eprintln!(
                "psmr: replica {me} starts without its memory: it rejoins once all the others have been there, and is repaired \
                 from them"
            ),
            Standing::Established { .. } if self.rejoins => eprintln!("psmr: replica {me} has rejoined"),
            Standing::Established { .. } | Standing::Fresh { .. } => {}
        }
        self.rejoins = identity.standing == Standing::Rejoining;
        Ok(())
    }

    fn on_snapshot(&mut self, cut: u64, group: GroupId, bytes: Vec<u8>) {
        let parts = self.snapshots.entry(cut).or_default();
        parts.insert(group, bytes);
        if parts.len() < self.parts.engine.topology.groups {
            return;
        }
        let Some(parts) = self.snapshots.remove(&cut) else { return };
        let groups: Vec<Bytes> = parts.into_values().map(Bytes::from).collect();
        self.parts.order.set_state_bytes(groups.iter().map(Bytes::len).sum());
        let stream_next = checkpoints::stream_positions(&self.parts.engine.topology, &groups);
        let Some(positions) = self.parts.order.positions(cut, &stream_next) else { return };
        for shipment in self.shipments.iter_mut().filter(|s| s.waits()) {
            shipment.load(checkpoints::encode(cut, &positions, &groups));
        }
        match self.parts.checkpoints.clone() {
            None => self.parts.order.on_checkpoint(cut, positions),
            Some(directory) => {
                let mailbox = self.parts.mailbox.clone();
                checkpoints::write_behind(directory, cut, positions, groups, mailbox);
            }
        }
    }

    /// Sends the newest checkpoint to a peer: from disk, or (in `memory` durability) one that is made for it.
    fn ship_checkpoint(&mut self, to: ReplicaId) {
        self.shipments.retain(|shipment| shipment.to != to);
        let newest = self.parts.checkpoints.as_deref().and_then(checkpoints::newest_encoded);
        if newest.is_none() {
            self.parts.order.submit_system(System::Checkpoint { replicas: 1 << self.parts.engine.me });
        }
        self.shipments.push(Shipment::new(to, newest));
    }

    fn ship(&mut self) {
        for shipment in &mut self.shipments {
            shipment.go_on(&mut self.parts.transport);
        }
        self.shipments.retain(|shipment| !shipment.is_done());
    }

    fn on_chunk(&mut self, from: ReplicaId, body: Bytes) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.from == from) else { return };
        match incoming.add(body) {
            Ok(None) => {}
            Ok(Some(pieces)) => {
                self.incoming = Some(Incoming::installing(from));
                let topology = self.parts.engine.topology.clone();
                checkpoints::store_behind(self.parts.checkpoints.clone(), topology, pieces, self.parts.mailbox.clone());
            }
            Err(error) => {
                self.incoming = None;
                self.parts.transport.refuse(from, &error, &mut self.happenings);
            }
        }
    }

    /// Sees to it that the groups become as in a peer's checkpoint. Meanwhile this thread goes on, and runs no group.
    fn restore(&mut self, cut: u64, positions: Positions, groups: Vec<Bytes>) {
        self.is_restoring = true;
        let Parts { engine, workers, router, mailbox, .. } = &self.parts;
        let whole = (cut, positions, groups);
        checkpoints::restore_behind(engine.clone(), workers.clone(), router.clone(), whole, mailbox.clone());
    }

    /// The logs go on from the checkpoint that the groups have been restored from.
    fn install(&mut self, cut: u64, positions: Positions, ready: GroupSet) {
        self.incoming = None;
        self.is_restoring = false;
        // Groups that are past the cut now will never add to what was gathered before it.
        self.snapshots.retain(|gathered, _| *gathered > cut);
        self.parts.order.on_checkpoint_installed(cut, positions);
        self.parts.workers.resume();
        self.parts.workers.schedule(ready);
    }

    /// What is known of a digest that was asked for. The command may be in the log twice; the first cut counts.
    fn digest_at(&mut self, request: u64, cut: u64) -> Option<&mut Digest> {
        let at = self.digests.iter().position(|(r, _)| *r == request).unwrap_or_else(|| {
            if self.digests.len() == DIGESTS_KEPT {
                self.digests.remove(0);
            }
            self.digests.push((request, Digest { cut, groups: BTreeMap::new(), unwritable: None }));
            self.digests.len() - 1
        });
        Some(&mut self.digests[at].1).filter(|digest| digest.cut == cut)
    }

    fn answer(&mut self, question: Question) -> Value {
        match question {
            Question::Status => self.status(),
            Question::Metrics => self.metrics(),
            Question::Digest { request, start } => {
                if start {
                    self.parts.order.submit_system(System::Digest { request });
                }
                self.digest(request)
            }
        }
    }

    fn digest(&self, request: u64) -> Value {
        let all = self.parts.engine.topology.groups;
        match self.digests.iter().find(|(r, _)| *r == request).map(|(_, digest)| digest) {
            Some(Digest { unwritable: Some(why), .. }) => json!({"replica": self.parts.engine.me, "unwritable": why}),
            Some(digest) if digest.groups.len() == all => {
                let [state, bookkeeping] = [0, 1].map(|part| {
                    let bytes: Vec<u8> = digest.groups.values().flat_map(|d| d[part].to_le_bytes()).collect();
                    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes))
                });
                json!({"replica": self.parts.engine.me, "cut": digest.cut, "digest": state, "bookkeeping": bookkeeping})
            }
            _ => json!({"replica": self.parts.engine.me, "digest": null}),
        }
    }

    fn metrics(&self) -> Value {
        let counts = self.parts.counts.as_ref().map(|counts| counts()).unwrap_or_default();
        let commands: serde_json::Map<_, _> = counts.into_iter().map(|(name, count)| (name.to_string(), json!(count))).collect();
        let mut all = self.status();
        all["metrics"] = json!({
            "times": self.parts.timings.buckets(),
            "commands": commands,
            "leader_changes": self.leader_changes,
            "connections": self.parts.connections.open.load(Ordering::Relaxed),
            "connections_accepted": self.parts.connections.accepted.load(Ordering::Relaxed),
        });
        all
    }

    fn status(&self) -> Value {
        let (engine, topology) = (&self.parts.engine, &self.parts.engine.topology);
        let logs = self.parts.order.status();
        let stream = |log: &psmr_core::order::LogStatus| {
            let id = if log.id == topology.cross() { json!("cross") } else { json!(log.id.0) };
            json!({"id": id, "role": log.role, "leader": log.leader, "term": log.term, "committed": log.committed})
        };
        let group = |group: GroupId| {
            let stream = topology.stream_of(group);
            let delivered = engine.delivered(group).0;
            let committed = logs[stream.index()].committed;
            json!({"id": group.0, "stream": stream.0, "delivered": delivered, "queue": committed.saturating_sub(delivered),
                   "parked": engine.is_parked(group)})
        };
        let about = &self.parts.about;
        let known: BTreeMap<ReplicaId, String> = self.parts.addresses.entries().into_iter().collect();
        let replicas = 1..=self.parts.order.config().replicas;
        let peers: serde_json::Map<_, _> = replicas.map(|id| (id.to_string(), json!(known.get(&id)))).collect();
        json!({
            "id": engine.me,
            "pid": std::process::id(),
            "state": if self.is_serving { "serving" } else { "recovering" },
            "durability": about.durability,
            "workers": self.parts.workers.len(),
            "parallelism": engine.service().parallelism(),
            "streams": logs.iter().map(stream).collect::<Vec<_>>(),
            "groups": topology.all().iter().map(group).collect::<Vec<_>>(),
            "executed": self.parts.workers.executed(),
            "fdatasync_us": self.parts.timings.syncs.summary(),
            "stages_us": self.parts.timings.summary(),
            "cluster": about.cluster, "service": about.service, "source": about.source, "address": about.client_address, "peer": about.peer_address,
            "peers": peers,
        })
    }
}

/// How long the consensus thread is waited for at the end.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(5);
