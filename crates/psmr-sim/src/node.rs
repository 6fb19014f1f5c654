//! One replica as it runs: the shipped engine, ordering part and client proxy, put together as a node does it, but stepped.
//! Input comes in by methods, what is to be done goes out in `Effects`.

use crate::disk::{Checkpoint, Disk};
use crate::plan::Plan;
use crate::random::Random;
use crate::service::{Executed, Recorder, RegisterService};
use bytes::Bytes;
use psmr_core::client::{Answer, ClientProxy, ConnectionOrder, MustWait, ProxyLimits};
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId};
use psmr_core::config::Config;
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Event, Outbox, Output};
use psmr_core::log::LogWrite;
use psmr_core::message::Frame;
use psmr_core::order::{Actions, Identity, Order};
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// Ticks between two looks of the client proxy at the clock.
const PROXY_CLOCK_TICKS: u64 = 3;

/// What a step of a replica wants done, and what it shows to the checkers.
#[derive(Default)]
pub struct Effects {
    /// To the disk, before anything else.
    pub identity: Option<Identity>,
    /// To peers.
    pub frames: Vec<(ReplicaId, Bytes)>,
    /// To the disk.
    pub write: Option<LogWrite>,
    /// Answers by token; `None`: the outcome is not known.
    pub answers: Vec<(u64, Option<Vec<u8>>)>,
    /// Newly committed: the log, the index, a hash of the entry.
    pub committed: Vec<(LogId, u64, u64)>,
    /// Executed writes.
    pub executed: Vec<Executed>,
    /// Parts of digests: request, cut, group, digest.
    pub digests: Vec<(u64, u64, GroupId, u64)>,
    /// Whole checkpoints, to be made durable.
    pub checkpoints: Vec<Checkpoint>,
    /// A peer whose newest checkpoint is to be fetched.
    pub fetch_from: Option<ReplicaId>,
    /// Logs that another replica leads now.
    pub leaders: Vec<(LogId, ReplicaId)>,
    /// The replica should have a turn soon.
    pub wants_turn: bool,
}

/// Events between the workers and who they are for: in order, and looked at later.
#[derive(Default)]
struct Mail(Mutex<Vec<Event>>);

impl Mail {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outbox for Mail {
    fn hand_on(&self, events: &mut Vec<Event>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(events);
    }
}

/// A replica that runs.
pub struct Live {
    /// Which of the replica's lives.
    pub incarnation: u64,
    /// Whether a turn is on its way.
    pub turn_pending: bool,
    /// Whether a checkpoint is on its way.
    pub fetching: bool,
    /// The connection to each peer, by its number; 0: none.
    pub epochs: Vec<u64>,
    engine: Arc<Engine>,
    order: Order,
    proxy: ClientProxy,
    recorder: Recorder,
    ready: Vec<GroupId>,
    idle_workers: usize,
    mail: Arc<Mail>,
    /// Whether somebody is about to look at the mail.
    pub mail_pending: bool,
    cuts: BTreeMap<u64, BTreeMap<GroupId, Bytes>>,
    installed_cut: u64,
    observed: Vec<u64>,
    ticks: u64,
}

impl Live {
    /// Starts a replica from its disk.
    ///
    /// # Errors
    /// If what was recovered does not fit together.
    pub fn start(plan: &Plan, me: ReplicaId, incarnation: u64, disk: &mut Disk, falls_back: bool) -> Result<Live, String> {
        let topology = Topology::new(plan.groups, plan.streams);
        let service = Arc::new(RegisterService::new(&topology, plan.shares_state));
        let recorder = service.recorder.clone();
        let planted = PlantedErrors::new(plan.planted);
        let engine = Arc::new(Engine::new(me, topology.clone(), service, planted));
        let checkpoint = disk.checkpoint(falls_back);
        let mut output = Output::default();
        if let Some(checkpoint) = &checkpoint {
            for (group, part) in topology.all().iter().zip(&checkpoint.parts) {
                engine.restore(group, checkpoint.cut, part.clone(), &mut output)?;
            }
        }
        let mut config = Config::new(me, plan.replicas, plan.groups, plan.streams);
        config.seed = crate::service::mix(plan.seed, u64::from(me) << 32 | incarnation);
        config.checkpoint_log_bytes = plan.checkpoint_log_bytes;
        config.entry_bytes_max = plan.entry_bytes_max;
        config.entries_in_flight_max = plan.entries_in_flight_max;
        config.pending_bytes_max = plan.pending_bytes_max;
        config.undelivered_bytes_max = plan.undelivered_bytes_max;
        config.planted = planted;
        config.check()?;
        let positions = checkpoint.as_ref().map(|c| (c.cut, c.positions.clone()));
        let order = Order::new(config, engine.clone(), disk.identity.clone(), disk.recover(), positions, plan.durable)
            .map_err(|e| e.to_string())?;
        disk.write(LogWrite { turn: 0, records: order.start_records(), must_sync: true });
        let session = SessionId(u64::from(me) << 32 | incarnation);
        let limits = ProxyLimits { expiry_ms: plan.expiry_ms, batch_bytes: plan.entry_bytes_max, ..ProxyLimits::default() };
        let observed = engine.logs.iter().map(|log| log.committed()).collect();
        Ok(Live {
            incarnation,
            turn_pending: false,
            fetching: false,
            epochs: vec![0; usize::from(plan.replicas)],
            proxy: ClientProxy::new(session, me, false, topology, limits),
            ready: output.ready.iter().collect(),
            idle_workers: plan.workers,
            mail: Arc::new(Mail::default()),
            mail_pending: false,
            cuts: BTreeMap::new(),
            installed_cut: checkpoint.map_or(0, |c| c.cut),
            observed,
            engine,
            order,
            recorder,
            ticks: 0,
        })
    }

    /// The ordering part, for checks.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The execution part, for checks.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Per group: how many writes it holds, and their hash.
    pub fn state(&self) -> Vec<(u64, u64)> {
        self.recorder.records().state.clone()
    }

    /// The connection to a peer is there: the connection's number, and the peer's incarnation.
    pub fn on_connected(&mut self, peer: ReplicaId, epoch: u64, incarnation: u64, out: &mut Effects) {
        self.epochs[usize::from(peer) - 1] = epoch;
        self.order.on_connected(peer, incarnation);
        out.wants_turn = true;
    }

    /// The connection to a peer is gone.
    pub fn on_disconnected(&mut self, peer: ReplicaId, out: &mut Effects) {
        self.epochs[usize::from(peer) - 1] = 0;
        self.order.on_disconnected(peer);
        out.wants_turn = true;
    }

    /// A frame has come.
    ///
    /// # Errors
    /// If the replica refuses it: a peer of the same version never sends such a frame.
    pub fn on_frame(&mut self, from: ReplicaId, bytes: Bytes, out: &mut Effects) -> Result<(), String> {
        let frame = Frame::decode(bytes).map_err(|e| e.to_string())?;
        out.wants_turn = true;
        self.order.on_frame(from, frame).map_err(|e| e.to_string())
    }

    /// A tick has passed.
    pub fn tick(&mut self, wall_ms: u64, out: &mut Effects) {
        self.ticks += 1;
        self.order.tick(wall_ms);
        let lagging = self.engine.notify(self.order.lagging_groups());
        self.make_ready(lagging);
        if self.ticks % PROXY_CLOCK_TICKS == 0 {
            self.proxy.on_clock(wall_ms, |token, answer| out.answers.push((token, owned(answer))));
        }
        out.wants_turn = true;
    }

    /// All writes up to `turn` are durable.
    pub fn on_persisted(&mut self, turn: u64, out: &mut Effects) {
        self.order.on_persisted(turn);
        out.wants_turn = true;
    }

    /// Does what the inputs ask for.
    ///
    /// # Errors
    /// If the replica has to end.
    pub fn turn(&mut self, wall_ms: u64, out: &mut Effects) -> Result<(), String> {
        self.turn_pending = false;
        self.order.set_clock(wall_ms);
        let mut reads = Vec::new();
        self.proxy.flush_reads(wall_ms, |group, batch| reads.push((group, batch)));
        reads.into_iter().for_each(|(group, batch)| self.push_reads(group, batch));
        let order = &mut self.order;
        self.proxy.flush(wall_ms, |log, batch| order.submit(log, batch));
        let mut actions = Actions::default();
        self.order.turn(&mut actions).map_err(|e| e.to_string())?;
        out.identity = actions.identity;
        for (to, frame) in actions.frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            out.frames.push((to, bytes.into()));
        }
        self.make_ready(actions.ready);
        let status = self.order.status();
        for log in actions.leader_changes {
            self.proxy.on_leader_change(log);
            out.leaders.push((log, status[log.index()].leader));
            out.wants_turn = true;
        }
        out.write = actions.write;
        out.fetch_from = actions.fetch_checkpoint.filter(|_| !self.fetching);
        self.observe(out);
        Ok(())
    }

    fn push_reads(&mut self, group: GroupId, mut batch: ReadBatch) {
        let stream = self.engine.topology.stream_of(group);
        batch.round = self.engine.rounds[stream.index()].ticket();
        self.engine.push_reads(group, batch);
        self.order.want_round(stream);
        let ready = self.engine.notify(GroupSet::one(group));
        self.make_ready(ready);
    }

    /// Asks for everybody's digest.
    pub fn ask_for_digest(&mut self, request: u64) {
        self.order.submit_system(psmr_core::entry::System::Digest { request });
    }

    fn observe(&mut self, out: &mut Effects) {
        for (at, log) in self.engine.logs.iter().enumerate() {
            let mut entries = VecDeque::new();
            // After a peer's checkpoint was installed the log starts beyond what was seen.
            let from = (self.observed[at] + 1).max(log.first());
            log.read(from, usize::MAX, &mut entries);
            for entry in entries {
                out.committed.push((entry.log, entry.index, xxh3_64(entry.bytes())));
                self.observed[at] = entry.index;
            }
        }
    }

    fn make_ready(&mut self, groups: GroupSet) {
        self.ready.extend(groups.iter());
    }

    /// Whether a worker could run a group now.
    pub fn can_work(&self) -> bool {
        self.idle_workers > 0 && !self.ready.is_empty()
    }

    /// An idle worker runs one of the ready groups; or the thread that has other duties does, as far as it is brief.
    pub fn work(&mut self, random: &mut Random, out: &mut Effects) -> Output {
        self.idle_workers -= 1;
        let group = self.ready.swap_remove(random.below(self.ready.len()));
        let mut output = Output::new(self.mail.clone());
        if random.chance(50) {
            self.engine.run_brief(group, &mut output);
        } else {
            self.engine.run(group, &mut output);
        }
        out.executed.append(&mut self.recorder.records().executed);
        output
    }

    /// The worker is done with the group.
    pub fn after_run(&mut self, output: &Output, out: &mut Effects) {
        self.idle_workers += 1;
        self.make_ready(output.ready);
        out.wants_turn |= output.wants_time;
    }

    /// Looks at what the workers' runs have said so far.
    pub fn read_mail(&mut self, wall_ms: u64, out: &mut Effects) {
        self.mail_pending = false;
        self.mail.take().into_iter().for_each(|event| self.on_event(event, wall_ms, out));
    }

    fn on_event(&mut self, event: Event, wall_ms: u64, out: &mut Effects) {
        match event {
            Event::Snapshot { cut, group, bytes } => self.on_snapshot(cut, group, bytes, out),
            Event::Digest { request, cut, group, state, bookkeeping } => {
                out.digests.push((request, cut, group, state ^ bookkeeping.rotate_left(32)));
            }
            // Commands of an earlier life are executed, but nobody waits for their answers.
            event if session_of(&event) != Some(self.proxy.session()) => {}
            event => {
                on_session_event(&mut self.proxy, event, wall_ms, &mut out.answers);
                out.wants_turn = true;
            }
        }
    }

    fn on_snapshot(&mut self, cut: u64, group: GroupId, bytes: Vec<u8>, out: &mut Effects) {
        if cut <= self.installed_cut {
            return;
        }
        let parts = self.cuts.entry(cut).or_default();
        parts.insert(group, bytes.into());
        if parts.len() < self.engine.topology.groups {
            return;
        }
        let parts: Vec<Bytes> = self.cuts.remove(&cut).unwrap_or_default().into_values().collect();
        let place = |part: &Bytes| part.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let streams = self.engine.topology.streams;
        let stream_next: Vec<u64> = parts.iter().take(streams).map(place).collect();
        let agree = parts.iter().enumerate().all(|(group, part)| place(part) == stream_next[group % streams]);
        assert!(agree, "the groups of a stream deliver x[{cut}] at different places");
        if let Some(positions) = self.order.positions(cut, &stream_next) {
            out.checkpoints.push(Checkpoint { cut, positions, parts });
        }
    }

    /// The own checkpoint is durable. False: a newer one of a peer has come meanwhile.
    pub fn on_checkpoint(&mut self, checkpoint: &Rc<Checkpoint>, disk: &mut Disk) -> bool {
        if checkpoint.cut <= self.installed_cut || disk.newest().is_some_and(|newest| newest.cut >= checkpoint.cut) {
            return false;
        }
        disk.keep(checkpoint.clone());
        self.order.on_checkpoint(checkpoint.cut, checkpoint.positions.clone());
        true
    }

    /// A peer's checkpoint has come.
    ///
    /// # Errors
    /// If its parts do not decode.
    pub fn install(
        &mut self,
        checkpoint: Rc<Checkpoint>,
        disk: &mut Disk,
        wall_ms: u64,
        out: &mut Effects,
    ) -> Result<(), String> {
        if disk.newest().is_none_or(|newest| newest.cut < checkpoint.cut) {
            disk.replace(checkpoint.clone());
        }
        let mut output = Output::new(self.mail.clone());
        for (group, part) in self.engine.topology.all().iter().zip(&checkpoint.parts) {
            self.engine.restore(group, checkpoint.cut, part.clone(), &mut output)?;
        }
        self.installed_cut = self.installed_cut.max(checkpoint.cut);
        self.cuts.retain(|cut, _| *cut > self.installed_cut);
        self.order.on_checkpoint_installed(checkpoint.cut, checkpoint.positions.clone());
        output.hand_on();
        self.make_ready(output.ready);
        self.read_mail(wall_ms, out);
        out.wants_turn = true;
        Ok(())
    }

    /// A connection's ordered command.
    ///
    /// # Errors
    /// If it has to wait for another one of the connection.
    pub fn ordered(
        &mut self,
        order: &mut ConnectionOrder,
        gamma: GroupSet,
        read: bool,
        payload: &[u8],
        token: u64,
    ) -> Result<(), MustWait> {
        self.proxy.ordered(order, gamma, read, payload, token)
    }

    /// A connection's read.
    pub fn read(&mut self, order: &ConnectionOrder, group: GroupId, payload: &[u8], token: u64) {
        self.proxy.read(order, group, payload, token);
    }
}

fn session_of(event: &Event) -> Option<SessionId> {
    match event {
        Event::Replies { session, .. }
        | Event::Settled { session, .. }
        | Event::Refused { session, .. }
        | Event::Reads { session, .. }
        | Event::ReadsLost { session, .. } => Some(*session),
        Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => None,
    }
}

/// Gives a session's event to its proxy; answers by token.
fn on_session_event(proxy: &mut ClientProxy, event: Event, now_ms: u64, answers: &mut Vec<(u64, Option<Vec<u8>>)>) {
    match event {
        Event::Replies { group, numbering, first, replies, .. } => {
            proxy.on_replies(group, numbering, first, &replies, |token, answer| answers.push((token, owned(answer))));
        }
        Event::Settled { group, numbering, last, .. } => {
            proxy.on_settled(group, numbering, last, |token, answer| answers.push((token, owned(answer))));
        }
        Event::Refused { group, numbering, .. } => proxy.on_refused(group, numbering, now_ms),
        Event::Reads { tokens, replies, .. } => {
            answers.extend(tokens.into_iter().zip(replies.iter()).map(|(token, reply)| (token, Some(reply.to_vec()))));
        }
        // Asking again could overtake the connection's later commands: the client is told.
        Event::ReadsLost { tokens, .. } => answers.extend(tokens.into_iter().map(|token| (token, None))),
        Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => {}
    }
}

fn owned(answer: Answer<'_>) -> Option<Vec<u8>> {
    match answer {
        Answer::Reply(reply) => Some(reply.to_vec()),
        Answer::Unknown => None,
    }
}
