//! The simulated world: replicas, clients, network, disks and clocks, moved on one event at a time. The seed decides all.

mod clients;
mod ending;
mod event;
mod faults;

use crate::checker::witness::Witness;
use crate::disk::{Checkpoint, Disk};
use crate::history::History;
use crate::network::{pair, Network};
use crate::node::{Effects, Live};
use crate::plan::Plan;
use crate::random::{Purpose, Random};
use crate::service::{mix, Executed};
use bytes::Bytes;
use event::{Due, Event};
use psmr_core::command::{GroupId, LogId, ReplicaId};
use psmr_core::message::Frame;
use psmr_core::order::Standing;
use psmr_core::planted::Planted;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

/// A tick of the replicas.
const TICK_US: u64 = 50_000;

/// The wall clock at the start, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// After the last fault everything that is outstanding completes within this time.
const LIVENESS_MS: u64 = 20_000;

/// A read that follows a command which was given up has to wait until it is given up itself.
const ORPHAN_WAIT_MS: u64 = 60_000;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of all that happened.
    pub hash: u64,
    /// Leaders that were followed by another one.
    pub leader_changes: u64,
    /// Replicas that ended.
    pub crashes: u64,
    /// Commands that went through the cross log and were answered.
    pub cross_commands: u64,
    /// Writes that depended on versions: those that were too late, and those that took place.
    pub conditional: [u64; 2],
    /// Operations that were answered.
    pub answered: u64,
    /// Operations whose outcome nobody knows.
    pub unknown: u64,
    /// Own checkpoints that became durable.
    pub checkpoints: u64,
    /// Checkpoints that were installed from a peer.
    pub installs: u64,
    /// Replicas that had lost their memory and became full members again.
    pub rejoined: u64,
    /// Simulated time at the end.
    pub simulated_ms: u64,
}

impl Report {
    /// A leader change, a crash, and a command over several streams all happened.
    pub fn is_rich(&self) -> bool {
        self.leader_changes > 0 && self.crashes > 0 && self.cross_commands > 0
    }
}

/// One replica's place in the world.
struct Site {
    live: Option<Live>,
    disk: Disk,
    /// It was started so often.
    incarnations: u64,
    skew_ms: i64,
    paused: bool,
    /// What came while it was paused.
    deferred: Vec<Event>,
    slow_until_us: u64,
    slower_us: u64,
    /// A sync is under way.
    syncing: bool,
}

/// The world.
pub struct World {
    plan: Plan,
    now_us: u64,
    queue: BinaryHeap<Due>,
    sequence: u64,
    sites: Vec<Site>,
    network: Network,
    schedule: Random,
    disk_random: Random,
    history: History,
    witness: Witness,
    digests: BTreeMap<(u64, GroupId), (u64, ReplicaId, u64)>,
    digest_count: u64,
    digest_request: u64,
    digest_asked_us: u64,
    leaders: Vec<ReplicaId>,
    report: Report,
    trace: bool,
}

impl World {
    /// The world of a plan, before anything has happened.
    pub fn new(plan: Plan, trace: bool) -> World {
        let site = |(replica, skew_ms): (u64, &i64)| Site {
            live: None,
            disk: Disk::new(mix(plan.seed, replica) | 1, plan.streams + 1, plan.planted == Some(Planted::TornBatchAccepted)),
            incarnations: 0,
            skew_ms: *skew_ms,
            paused: false,
            deferred: Vec::new(),
            slow_until_us: 0,
            slower_us: 0,
            syncing: false,
        };
        World {
            now_us: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            sites: (1..).zip(&plan.skew_ms).map(site).collect(),
            network: Network::new(plan.seed, plan.replicas, plan.delay_us),
            schedule: Random::new(plan.seed, Purpose::Schedule),
            disk_random: Random::new(plan.seed, Purpose::Disk),
            history: History::new(&plan),
            witness: Witness::new(plan.groups, plan.streams + 1),
            digests: BTreeMap::new(),
            digest_count: 0,
            digest_request: 0,
            digest_asked_us: 0,
            leaders: vec![0; plan.streams + 1],
            report: Report::default(),
            plan,
            trace,
        }
    }

    /// Runs to the end, and checks everything.
    ///
    /// # Errors
    /// What does not hold.
    pub fn run(mut self) -> Result<Report, String> {
        for replica in 1..=self.plan.replicas {
            self.start(replica, false)?;
        }
        for (at, (at_ms, _)) in self.plan.faults.clone().into_iter().enumerate() {
            self.after(at_ms * 1_000, Event::Fault(at));
        }
        let orphans_ms = if self.plan.gives_up() { ORPHAN_WAIT_MS } else { 0 };
        // Where runs are long, a group has one for each operation, and one worker has them all, that is not soon over.
        let runs_us = (self.plan.operations * self.plan.groups / self.plan.workers) as u64 * self.plan.run_us_max;
        let deadline_us = (self.plan.horizon_ms + LIVENESS_MS + orphans_ms) * 1_000 + runs_us;
        while let Some(due) = self.queue.pop() {
            self.now_us = due.at_us;
            if self.now_us > deadline_us {
                return Err(self.stuck());
            }
            self.step(due.event)?;
            if self.is_finished() {
                break;
            }
        }
        self.check_at_end()?;
        self.report.simulated_ms = self.now_us / 1_000;
        Ok(self.report)
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {}", self.now_us as f64 / 1e6, text());
        }
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Due { at_us, sequence: self.sequence, event });
    }

    fn site(&mut self, replica: ReplicaId) -> &mut Site {
        &mut self.sites[usize::from(replica) - 1]
    }

    fn wall_ms(&self, replica: ReplicaId) -> u64 {
        (EPOCH_MS + self.now_us / 1_000).saturating_add_signed(self.sites[usize::from(replica) - 1].skew_ms)
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        if let Some(replica) = event.runs() {
            let site = self.site(replica);
            if site.paused {
                site.deferred.push(event);
                return Ok(());
            }
        }
        let code = event.name().bytes().fold(self.now_us, |hash, byte| mix(hash, u64::from(byte)));
        self.report.hash = mix(self.report.hash, code);
        match event {
            Event::Tick(replica, life) => self.on_tick(replica, life),
            Event::Turn(replica, life) => self.with(replica, life, |live, wall_ms, out| live.turn(wall_ms, out)),
            Event::Work(replica, life) => self.work(replica, life),
            Event::AfterRun(replica, life, output) => self.with(replica, life, |live, _, out| {
                live.after_run(&output, out);
                Ok(())
            }),
            Event::Mail(replica, life) => self.with(replica, life, |live, wall_ms, out| {
                live.read_mail(wall_ms, out);
                Ok(())
            }),
            Event::Persisted(replica, life, turn) => self.on_persisted(replica, life, turn),
            Event::Peer { replica, life, peer, epoch, connected } => self.with(replica, life, |live, _, out| {
                match connected {
                    Some(incarnation) => live.on_connected(peer, epoch, incarnation, out),
                    None => live.on_disconnected(peer, out),
                }
                Ok(())
            }),
            Event::Frame { from, to, epoch, bytes } => self.on_frame(from, to, epoch, bytes),
            Event::Connect(pair) => {
                self.connect(pair);
                Ok(())
            }
            Event::CheckpointDurable(replica, life, checkpoint) => self.on_checkpoint(replica, life, checkpoint),
            Event::FetchEnds(replica, life, checkpoint) => self.on_fetched(replica, life, checkpoint),
            Event::Client(connection) => self.on_client(connection),
            Event::Fault(at) => self.on_fault(at),
            Event::Restart { replica, falls_back } => self.start(replica, falls_back),
            Event::Resume(replica) => {
                self.resume(replica);
                Ok(())
            }
        }
    }

    /// Lets a replica do something, if it is still in that life, and does what it wants done.
    fn with(
        &mut self,
        replica: ReplicaId,
        life: u64,
        act: impl FnOnce(&mut Live, u64, &mut Effects) -> Result<(), String>,
    ) -> Result<(), String> {
        let wall_ms = self.wall_ms(replica);
        let mut effects = Effects::default();
        let Some(live) = self.site(replica).live.as_mut().filter(|live| live.incarnation == life) else { return Ok(()) };
        act(live, wall_ms, &mut effects).map_err(|e| format!("replica {replica} ended: {e}"))?;
        self.carry_out(replica, effects)
    }

    fn carry_out(&mut self, replica: ReplicaId, effects: Effects) -> Result<(), String> {
        for (log, index, hash) in &effects.committed {
            self.report.hash = mix(self.report.hash, *hash);
            self.witness.on_committed(replica, *log, *index, *hash)?;
        }
        effects.executed.iter().try_for_each(|executed| self.on_executed(replica, executed))?;
        for (request, cut, group, digest) in effects.digests {
            self.on_digest(replica, request, cut, group, digest)?;
        }
        for (log, leader) in effects.leaders {
            self.log(|| format!("replica {replica}: {log:?} is led by {leader}"));
            let before = std::mem::replace(&mut self.leaders[log.index()], leader);
            self.report.leader_changes += u64::from(before != 0 && before != leader);
        }
        let life = self.site(replica).incarnations;
        if let Some(identity) = effects.identity {
            self.log(|| format!("replica {replica}: {identity:?}"));
            self.report.rejoined += u64::from(self.site(replica).disk.identity.standing == Standing::Rejoining);
            self.site(replica).disk.identity = identity;
        }
        for (to, bytes) in effects.frames {
            self.send(replica, to, bytes);
        }
        if let Some(write) = effects.write {
            self.site(replica).disk.write(write);
            self.start_sync(replica);
        }
        for checkpoint in effects.checkpoints {
            let delay_us = self.disk_random.within(1_000..=200_000);
            self.after(delay_us, Event::CheckpointDurable(replica, life, Rc::new(checkpoint)));
        }
        if let Some(peer) = effects.fetch_from {
            self.fetch(replica, life, peer);
        }
        for (token, reply) in effects.answers {
            self.on_answer(token, reply.as_deref())?;
        }
        if effects.wants_turn {
            self.want_turn(replica);
        }
        self.start_worker(replica);
        self.offer_all(replica);
        Ok(())
    }

    fn want_turn(&mut self, replica: ReplicaId) {
        let delay_us = if self.schedule.chance(70) { self.schedule.within(0..=50) } else { self.schedule.within(0..=1_500) };
        let life = self.site(replica).incarnations;
        let Some(live) = self.site(replica).live.as_mut() else { return };
        if !std::mem::replace(&mut live.turn_pending, true) {
            self.after(delay_us, Event::Turn(replica, life));
        }
    }

    fn start_worker(&mut self, replica: ReplicaId) {
        let life = self.site(replica).incarnations;
        if self.site(replica).live.as_ref().is_some_and(Live::can_work) {
            let delay_us = self.schedule.within(0..=30);
            self.after(delay_us, Event::Work(replica, life));
        }
    }

    fn work(&mut self, replica: ReplicaId, life: u64) -> Result<(), String> {
        let mut effects = Effects::default();
        let schedule = &mut self.schedule;
        let site = &mut self.sites[usize::from(replica) - 1];
        let Some(live) = site.live.as_mut().filter(|live| live.incarnation == life && live.can_work()) else { return Ok(()) };
        let output = live.work(schedule, &mut effects);
        let delay_us = self.schedule.within(1..=self.plan.run_us_max);
        self.after(delay_us, Event::AfterRun(replica, life, Box::new(output)));
        self.want_mail(replica, life);
        self.carry_out(replica, effects)
    }

    fn want_mail(&mut self, replica: ReplicaId, life: u64) {
        let delay_us = self.schedule.within(1..=self.plan.run_us_max);
        let Some(live) = self.site(replica).live.as_mut() else { return };
        if !std::mem::replace(&mut live.mail_pending, true) {
            self.after(delay_us, Event::Mail(replica, life));
        }
    }

    fn on_tick(&mut self, replica: ReplicaId, life: u64) -> Result<(), String> {
        if self.site(replica).live.as_ref().is_some_and(|live| live.incarnation == life) {
            self.after(TICK_US, Event::Tick(replica, life));
        }
        let asks = self.asks_for_digest(replica);
        self.with(replica, life, |live, wall_ms, out| {
            live.tick(wall_ms, out);
            if let Some(request) = asks {
                live.ask_for_digest(request);
            }
            Ok(())
        })
    }

    /// Syncs all that is written, unless a sync is under way: then what is written now is for the next one.
    fn start_sync(&mut self, replica: ReplicaId) {
        let (low, high) = self.plan.sync_us;
        let high = if self.disk_random.chance(90) { low + (high - low) / 8 } else { high };
        let mut took_us = self.disk_random.within(low..=high);
        let now_us = self.now_us;
        let site = self.site(replica);
        let Some(turn) = site.disk.written().filter(|_| !site.syncing) else { return };
        if now_us < site.slow_until_us {
            took_us += site.slower_us;
        }
        site.syncing = true;
        let life = site.incarnations;
        self.after(took_us, Event::Persisted(replica, life, turn));
    }

    fn on_persisted(&mut self, replica: ReplicaId, life: u64, turn: u64) -> Result<(), String> {
        let site = self.site(replica);
        if site.live.as_ref().is_none_or(|live| live.incarnation != life) {
            return Ok(());
        }
        site.syncing = false;
        site.disk.sync(turn);
        self.start_sync(replica);
        self.with(replica, life, |live, _, out| {
            live.on_persisted(turn, out);
            Ok(())
        })
    }

    fn send(&mut self, from: ReplicaId, to: ReplicaId, bytes: Bytes) {
        let epoch = self.site(from).live.as_ref().map_or(0, |live| live.epochs[usize::from(to) - 1]);
        if let Some(arrival) = self.network.send(self.now_us, from, to, epoch) {
            self.at(arrival.at_us, Event::Frame { from, to, epoch, bytes });
        }
    }

    fn on_frame(&mut self, from: ReplicaId, to: ReplicaId, epoch: u64, bytes: Bytes) -> Result<(), String> {
        if !self.network.is_up(pair(from, to), epoch) {
            return Ok(());
        }
        self.log(|| format!("{from} to {to}: {}", describe(&bytes)));
        let life = self.site(to).incarnations;
        self.with(to, life, |live, _, out| live.on_frame(from, bytes, out))
    }

    fn fetch(&mut self, replica: ReplicaId, life: u64, peer: ReplicaId) {
        let reachable = self.network.is_connected(pair(replica, peer)) && !self.site(peer).paused;
        let checkpoint = self.site(peer).live.is_some().then(|| self.site(peer).disk.newest().cloned()).flatten();
        let delay_us = self.disk_random.within(2_000..=300_000);
        if let Some(live) = self.site(replica).live.as_mut() {
            live.fetching = true;
        }
        self.after(delay_us, Event::FetchEnds(replica, life, checkpoint.filter(|_| reachable)));
    }

    fn on_fetched(&mut self, replica: ReplicaId, life: u64, checkpoint: Option<Rc<Checkpoint>>) -> Result<(), String> {
        let wall_ms = self.wall_ms(replica);
        let mut effects = Effects { wants_turn: true, ..Effects::default() };
        let site = self.site(replica);
        let Some(live) = site.live.as_mut().filter(|live| live.incarnation == life) else { return Ok(()) };
        live.fetching = false;
        if let Some(checkpoint) = checkpoint {
            let cut = checkpoint.cut;
            live.install(checkpoint, &mut site.disk, wall_ms, &mut effects)?;
            self.report.installs += 1;
            self.log(|| format!("replica {replica}: installed a peer's checkpoint at x[{cut}]"));
        }
        self.carry_out(replica, effects)
    }

    fn on_checkpoint(&mut self, replica: ReplicaId, life: u64, checkpoint: Rc<Checkpoint>) -> Result<(), String> {
        let site = self.site(replica);
        let Some(live) = site.live.as_mut().filter(|live| live.incarnation == life) else { return Ok(()) };
        if live.on_checkpoint(&checkpoint, &mut site.disk) {
            self.report.checkpoints += 1;
            self.log(|| format!("replica {replica}: checkpoint at x[{}] {:?}", checkpoint.cut, checkpoint.positions));
        }
        Ok(())
    }

    fn on_executed(&mut self, replica: ReplicaId, executed: &Executed) -> Result<(), String> {
        self.log(|| format!("replica {replica}: executes {} at {:?}", executed.id, executed.places));
        self.witness.on_executed(replica, executed)
    }
}

/// A frame, for people.
fn describe(bytes: &Bytes) -> String {
    let Ok(frame) = Frame::decode(bytes.clone()) else { return "no frame".into() };
    let message = |(log, m): &(LogId, raft::eraftpb::Message)| {
        let (kind, entries) = (m.get_msg_type(), m.entries.len());
        format!("{log:?} {kind:?} term {} index {} commit {} entries {entries} reject {}", m.term, m.index, m.commit, m.reject)
    };
    let messages: Vec<String> = frame.messages.iter().map(message).collect();
    format!("{} batches, {} system commands; {}", frame.batches.len(), frame.systems.len(), messages.join("; "))
}
