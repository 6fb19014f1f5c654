//! The order of commands: `S` streams and the cross log, each a Raft log over the `raft` crate, all in one state machine that
//! is driven by ticks, frames from peers, batches from client proxies, and completions of the disk.
//!
//! The owner calls inputs as they come, then `turn`, which gives one frame per peer and one write for all logs. Committed
//! entries go straight to the `Engine`; `Actions::ready` names the groups that have to be put in ready queues.

mod belonging;
mod leadership;
mod membership;
mod mirror;
mod raft_log;
mod rounds;

use crate::command::{GroupId, GroupSet, LogId, ReplicaId};
use crate::config::Config;
use crate::entry::{decode_batch, Entry, System};
use crate::error::CoreError;
use crate::execute::Engine;
use crate::log::{LogRecord, LogWrite, RecoveredLog};
use crate::message::{Frame, Position, Report};
use crate::observe::SAMPLE_EVERY;
use crate::planted::Planted;
use crate::sync::Arc;
use bytes::Bytes;
use leadership::Peer;
use membership::Membership;
use raft::eraftpb::{EntryType, Message, MessageType};
use raft_log::{Collected, RaftLog};
use rounds::Rounds;

pub use membership::{Identity, Standing};

/// Ticks between asking again for a time mark or a checkpoint that has not come.
const RETRY_TICKS: u64 = 4;

/// What a checkpoint costs is in proportion to the state: one is made when the logs have grown by this part of its bytes.
const STATE_PER_LOG: usize = 16;

/// Growth of all logs in bytes that makes a replica that is short of memory ask for a checkpoint.
const SHORT_LOG_BYTES: usize = 1 << 20;

/// Ticks for which the next `System::Time` waits for connected peers that have yet to deliver the last one.
const TIME_WAIT_TICKS: u64 = 100;

/// The last `System::Time`, of a service whose groups share their state.
#[derive(Debug, Default)]
struct TimeMark {
    /// When this replica asked for one that it has not seen committed.
    asked: Option<u64>,
    /// The index in the cross log of the last one that is committed, and when that was learned.
    index: u64,
    committed: u64,
}

/// What a turn wants done.
#[derive(Debug, Default)]
pub struct Actions {
    /// One per peer that there is something to tell.
    pub frames: Vec<(ReplicaId, Frame)>,
    /// To the disk; `Order::on_persisted` is to be called with its `turn`.
    pub write: Option<LogWrite>,
    /// Groups to be put in ready queues.
    pub ready: GroupSet,
    /// Logs that have another leader than before: client proxies send again what is outstanding in them.
    pub leader_changes: Vec<LogId>,
    /// A peer to fetch the newest checkpoint from: this replica lags behind what the peer's log still has.
    pub fetch_checkpoint: Option<ReplicaId>,
    /// The replica's new identity: to be durable before anything else of this is done.
    pub identity: Option<Identity>,
}

/// The place of a checkpoint in every log: (index, term) of the last entry that it covers.
pub type Positions = Vec<(u64, u64)>;

/// A log, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// The log.
    pub id: LogId,
    /// `leader`, `follower`, `candidate`.
    pub role: &'static str,
    /// Who leads, 0: nobody.
    pub leader: ReplicaId,
    /// Raft's term.
    pub term: u64,
    /// The highest committed index.
    pub committed: u64,
}

/// The ordering part of one replica.
pub struct Order {
    config: Config,
    engine: Arc<Engine>,
    membership: Membership,
    logs: Vec<RaftLog>,
    peers: Vec<Peer>,
    rounds: Vec<Rounds>,
    leaders: Vec<ReplicaId>,
    /// The highest marker in the committed entries, per stream.
    committed_markers: Vec<u64>,
    tick: u64,
    now_ms: u64,
    turn: u64,
    durable: bool,
    /// Per group, the tick when its need of a time mark was last passed on.
    time_asked: Vec<u64>,
    time_mark: TimeMark,
    checkpoint_asked: Option<u64>,
    is_short_of_memory: bool,
    /// Of the newest checkpoint.
    state_bytes: usize,
    /// The cross log's first command has been delivered, here or before the checkpoint.
    has_genesis: bool,
    /// The newest own checkpoint's cut and positions.
    checkpoint: Option<(u64, Positions)>,
    frames: Vec<Frame>,
    /// Per log, what its leader had committed when this replica first heard from it.
    catch_up_targets: Vec<Option<u64>>,
    /// What trimming has yet to tell the disk.
    trimmed: Vec<LogRecord>,
}

impl Order {
    /// The replica `identity`, its logs as recovered, under the checkpoint that the engine's groups were restored from
    /// (`None`: the start). `durable`: writes are to be reported by `on_persisted`; else they count at once.
    ///
    /// # Errors
    /// If what was recovered does not fit together.
    pub fn new(
        config: Config,
        engine: Arc<Engine>,
        identity: Identity,
        recovered: Vec<RecoveredLog>,
        checkpoint: Option<(u64, Positions)>,
        durable: bool,
    ) -> Result<Order, CoreError> {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let (count, group_count) = (engine.topology.logs(), engine.topology.groups);
        let start = checkpoint.as_ref().map_or(vec![(0, 0); count], |(_, positions)| positions.clone());
        let mut recovered = recovered;
        recovered.resize_with(count, RecoveredLog::default);
        let mut logs = Vec::new();
        for (at, log) in recovered.into_iter().enumerate() {
            engine.logs[at].restart(start[at].0 + 1);
            logs.push(RaftLog::new(LogId(at as u8), &config, log, start[at], &logger)?);
        }
        let mut order = Order {
            membership: Membership::new(config.me, config.replicas, count, identity, config.planted),
            peers: (1..=config.replicas).map(|_| Peer::default()).collect(),
            rounds: (0..engine.topology.streams).map(|_| Rounds::default()).collect(),
            leaders: vec![0; count],
            committed_markers: vec![0; count],
            frames: (0..config.replicas).map(|_| Frame::default()).collect(),
            config,
            engine,
            logs,
            tick: 0,
            now_ms: 0,
            turn: 0,
            durable,
            time_asked: vec![0; group_count],
            time_mark: TimeMark::default(),
            checkpoint_asked: None,
            is_short_of_memory: false,
            state_bytes: 0,
            has_genesis: checkpoint.is_some(),
            checkpoint,
            trimmed: Vec::new(),
            catch_up_targets: vec![None; count],
        };
        let me = order.config.me;
        order.peer_mut(me).connected = true;
        Ok(order)
    }

    /// The limits.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn peer_mut(&mut self, replica: ReplicaId) -> &mut Peer {
        &mut self.peers[usize::from(replica) - 1]
    }

    /// A batch of this replica's client proxies, for `log`.
    pub fn submit(&mut self, log: LogId, batch: Bytes) {
        self.logs[log.index()].push_batch(batch, self.now_ms, self.config.pending_bytes_max);
    }

    /// A command to the engine, for the cross log. It may be lost: ask again.
    pub fn submit_system(&mut self, system: System) {
        let cross = self.engine.topology.cross();
        self.logs[cross.index()].push_system(system);
    }

    /// All writes up to `turn` are durable.
    pub fn on_persisted(&mut self, turn: u64) {
        for at in 0..self.logs.len() {
            let messages = self.logs[at].on_persisted(turn);
            self.send(LogId(at as u8), messages);
        }
    }

    /// A frame from a peer.
    ///
    /// # Errors
    /// If it names what does not exist: the connection is to be closed.
    pub fn on_frame(&mut self, from: ReplicaId, frame: Frame) -> Result<(), CoreError> {
        let log_count = self.logs.len();
        let refused = |what| CoreError::Peer(crate::wire::Malformed { what, offset: 0 });
        if frame.messages.iter().any(|(log, m)| log.index() >= log_count || m.from != u64::from(from)) {
            return Err(refused("message's log or sender"));
        }
        for (log, message) in &frame.messages {
            let log = &self.logs[log.index()];
            // A former incarnation was promised it; it is passed over.
            if self.membership.is_established() || !log.commits_what_is_not_here(message) {
                log.check(message).map_err(refused)?;
            }
        }
        let is_other = |system: &System| matches!(system, System::Genesis { digest } if *digest != self.config.genesis);
        if frame.systems.iter().any(is_other) {
            return Err(refused("genesis"));
        }
        for (log, batch) in &frame.batches {
            if log.index() >= log_count {
                return Err(refused("batch's log"));
            }
            decode_batch(self.engine.topology.groups_of(*log), *log, batch)?;
        }
        if let Some(greeting) = frame.greeting {
            self.on_greeting(from, &greeting);
        }
        if !self.membership.takes_part() {
            return Ok(());
        }
        for (log, message) in frame.messages {
            self.on_message(log, message);
        }
        for (log, batch) in frame.batches {
            if self.logs[log.index()].is_leader() {
                self.submit(log, batch);
            }
        }
        let cross = self.engine.topology.cross();
        if self.logs[cross.index()].is_leader() {
            frame.systems.into_iter().for_each(|system| self.submit_system(system));
        }
        self.mark_time(frame.wants_time);
        if let Some(report) = frame.report {
            self.on_report(from, report);
        }
        Ok(())
    }

    /// Whether the groups lag so far behind what is committed in a log that no more of it may come in.
    ///
    /// Each log counts by itself: a group that waits for one log is never kept from it because another one is full. Markers
    /// are logged all the same, and one marker covers every cross entry before it, so a group that holds up a window lets its
    /// neighbours see the markers that they need.
    fn is_full(&self, at: usize) -> bool {
        let (log, id) = (&self.engine.logs[at], LogId(at as u8));
        if log.bytes() <= self.config.undelivered_bytes_max {
            return false;
        }
        log.drop_before(self.engine.delivered_by_all(id) + 1);
        log.bytes() > self.config.undelivered_bytes_max
    }

    fn on_message(&mut self, log: LogId, message: Message) {
        if message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty() && self.is_full(log.index()) {
            // As if it were lost: the leader sends it again.
            return;
        }
        let raft_log = &mut self.logs[log.index()];
        if message.get_msg_type() == MessageType::MsgSnapshot {
            // The library gets it when a checkpoint that reaches as far has been installed.
            if message.get_snapshot().get_metadata().index > raft_log.committed {
                raft_log.held_snapshot = Some(message);
                return self.serve_held_snapshot(log.index());
            }
        }
        let is_ignored = match message.get_msg_type() {
            MessageType::MsgTimeoutNow => raft_log.is_restarting() || !self.membership.may_vote(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => !self.membership.may_vote(),
            _ => raft_log.commits_what_is_not_here(&message),
        };
        if is_ignored {
            return;
        }
        if message.get_msg_type() == MessageType::MsgReadIndex && !raft_log.is_leader() {
            // The library would pass it on, and does not expect the term in it; the sender asks again, of the leader.
            return;
        }
        if let Some(answer) = raft_log.answer_read_index(&message, self.config.replicas) {
            return self.send(log, vec![answer]);
        }
        // Refusals here are of messages that are out of date: the sender repeats what matters.
        let _ = raft_log.node.step(message);
    }

    /// Notes groups that need a time mark, in the streams that this replica leads.
    fn mark_time(&mut self, groups: GroupSet) {
        for (at, log) in self.logs.iter_mut().enumerate().take(self.engine.topology.streams) {
            let of_log = GroupSet(groups.0 & self.engine.topology.groups_of(LogId(at as u8)).0);
            if log.is_leader() {
                log.time_groups = log.time_groups.union(of_log);
            }
        }
    }

    /// Has the time logged for groups in which something is due.
    fn ask_for_time(&mut self, due: GroupSet) {
        if !self.engine.service().shares_state() {
            return self.mark_time(due);
        }
        let is_asked =
            self.time_mark.asked.is_some_and(|asked| self.tick - asked < RETRY_TICKS * u64::from(self.config.heartbeat_ticks));
        let cross = self.engine.topology.streams;
        if !due.is_empty() && self.logs[cross].is_leader() && !is_asked && self.is_time_delivered() {
            self.time_mark.asked = Some(self.tick);
            self.logs[cross].push_system(System::Time);
        }
    }

    /// Whether all connected replicas have passed the last `System::Time`. Where groups are slow to meet, more of them would
    /// only make the groups lag. Peers are not waited for without end.
    fn is_time_delivered(&self) -> bool {
        let mark = &self.time_mark;
        let is_overdue = self.tick - mark.committed >= TIME_WAIT_TICKS;
        let others = self.peers.iter().zip(1..).filter(|(peer, id)| *id != self.config.me && peer.connected);
        self.engine.delivered_by_all(self.engine.topology.cross()) >= mark.index
            && (is_overdue || others.into_iter().all(|(peer, _)| peer.cross_delivered >= mark.index))
    }

    /// A leader's time goes by heartbeats, so that those of all logs and the report ride in one frame.
    fn tick_logs(&mut self, is_heartbeat: bool) {
        for log in self.logs.iter_mut().filter(|log| !log.is_restarting()) {
            let ticks = match log.is_leader() {
                false => 1,
                true if is_heartbeat => self.config.heartbeat_ticks,
                true => 0,
            };
            for _ in 0..ticks {
                log.node.tick();
            }
        }
    }

    /// One tick has passed; `now_ms` is the wall clock in milliseconds since 1970.
    pub fn tick(&mut self, now_ms: u64) {
        self.tick += 1;
        self.now_ms = now_ms;
        self.engine.set_wall_clock(now_ms);
        let heartbeat_ticks = u64::from(self.config.heartbeat_ticks);
        let is_heartbeat = self.tick % heartbeat_ticks == 0;
        if is_heartbeat {
            self.ask_for_time(self.engine.due(now_ms));
        }
        if self.membership.may_vote() {
            self.tick_logs(is_heartbeat);
            self.lead();
        }
        if is_heartbeat {
            self.report();
            self.ask_for_places();
            self.drop_delivered();
        }
        self.ask_for_checkpoint();
        self.expire_rounds();
    }

    /// How many ticks may pass at once, because none before the last has anything to do: those up to the next heartbeat if
    /// nothing is outstanding and everybody is well, else one.
    pub fn ticks_idle(&self) -> u32 {
        let heartbeat_ticks = self.config.heartbeat_ticks;
        let is_idle = self.peers.iter().all(|peer| peer.connected)
            && self.rounds.iter().all(Rounds::is_idle)
            && self.logs.iter().all(|log| log.is_idle(2 * heartbeat_ticks as usize))
            && self.checkpoint_asked.is_none()
            && self.engine.wanting_time().is_empty()
            && self.lagging_groups().is_empty();
        match is_idle {
            true => heartbeat_ticks - (self.tick % u64::from(heartbeat_ticks)) as u32,
            false => 1,
        }
    }

    /// How soon a turn is due even if nothing comes, in milliseconds; `None`: not before the next tick.
    pub fn turn_due_ms(&self) -> Option<u64> {
        self.logs.iter().any(RaftLog::is_gathering).then_some(self.config.gather_ms_max)
    }

    /// The wall clock, between ticks.
    pub fn set_clock(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    fn report(&mut self) {
        let reach = self.reach();
        let position = |log: &RaftLog, id| Position { committed: log.committed, delivered: self.engine.delivered_by_all(id) };
        let positions = self.logs.iter().zip(0..).map(|(log, at)| position(log, LogId(at))).collect();
        let report = Report { clock_ms: self.now_ms, reach, positions };
        for (frame, peer) in self.frames.iter_mut().zip(&self.peers) {
            if peer.connected {
                frame.report = Some(report.clone());
            }
        }
    }

    /// Lets go of entries that every group has passed, and wakes groups that lag because nothing was theirs.
    fn drop_delivered(&mut self) {
        for (at, log) in self.engine.logs.iter().enumerate() {
            log.drop_before(self.engine.delivered_by_all(LogId(at as u8)) + 1);
        }
    }

    /// Groups that have not passed everything that is committed, and groups with reads, which may be overdue: they are
    /// notified once per tick.
    pub fn lagging_groups(&self) -> GroupSet {
        let topology = &self.engine.topology;
        let lags = |group: &crate::command::GroupId| {
            self.engine.delivered(*group).0 < self.engine.logs[topology.stream_of(*group).index()].committed()
        };
        topology.all().iter().filter(lags).collect::<GroupSet>().union(self.engine.reading())
    }

    /// The replica has, or no longer has, more memory than it may: it keeps as little of its logs as it can.
    pub fn set_short_of_memory(&mut self, is_short: bool) {
        self.is_short_of_memory = is_short;
    }

    /// A checkpoint of the state has so many bytes.
    pub fn set_state_bytes(&mut self, bytes: usize) {
        self.state_bytes = bytes;
    }

    fn ask_for_checkpoint(&mut self) {
        // Counted since the last checkpoint, not since what is kept: a replica that lags has much of that after any
        // checkpoint, and with one after the other, which everybody has to pass, nobody would ever catch up.
        let bytes: usize = self.logs.iter().map(|log| log.node.store().bytes_since_checkpoint()).sum();
        let due = self.checkpoint_asked.is_none_or(|asked| self.tick - asked > 50 * RETRY_TICKS);
        let usual = self.config.checkpoint_log_bytes.max(self.state_bytes / STATE_PER_LOG);
        let bytes_max = if self.is_short_of_memory { SHORT_LOG_BYTES } else { usual };
        if bytes > bytes_max && due {
            self.checkpoint_asked = Some(self.tick);
            self.submit_system(System::Checkpoint { replicas: 1 << self.config.me });
        }
    }

    /// The own checkpoint at `x[cut]` is durable. The disk keeps what the one before it needs, so that it can stand in;
    /// the memory what a peer may yet ask for, and no more than that.
    pub fn on_checkpoint(&mut self, cut: u64, positions: Positions) {
        self.checkpoint_asked = None;
        if self.checkpoint.as_ref().is_some_and(|(newest, _)| *newest >= cut) {
            // A peer's checkpoint was installed, or a later one was sooner durable.
            return;
        }
        let before = self.checkpoint.take().map(|(_, positions)| positions);
        for (at, (index, term)) in positions.iter().copied().enumerate() {
            let (start, start_term) = before.as_ref().map_or((0, 0), |before| before[at]);
            let unasked = self.had_by_peers(at).clamp(start.min(index), index);
            let mirror = self.logs[at].node.mut_store();
            mirror.set_checkpoint(index, term);
            mirror.trim(unasked);
            if start > 0 {
                self.trimmed.push(LogRecord::Start { log: LogId(at as u8), index: start, term: start_term });
            }
        }
        self.checkpoint = Some((cut, positions));
    }

    /// The entry up to which every peer has the log, as far as is known: they will not ask for those.
    fn had_by_peers(&self, at: usize) -> u64 {
        let (log, me) = (&self.logs[at], self.config.me);
        let had = |(peer, id): (&Peer, ReplicaId)| {
            // A peer whose acknowledgements were lost has more than its leader knows, and is sent what follows that.
            let known = log.node.raft.prs().get(u64::from(id)).filter(|_| log.is_leader());
            known.map_or(u64::MAX, |progress| progress.matched).min(peer.committed_in(at))
        };
        self.peers.iter().zip(1..).filter(|(_, id)| *id != me).map(had).min().unwrap_or(u64::MAX)
    }

    /// (index, term) per log of the last entry that a checkpoint covers whose groups are at these stream positions.
    /// `None` if a log does not have the entry any more.
    pub fn positions(&self, cut: u64, stream_next: &[u64]) -> Option<Positions> {
        let indices = stream_next.iter().map(|next| next - 1).chain([cut]);
        self.logs.iter().zip(indices).map(|(log, index)| Some((index, log.node.store().term_at(index)?))).collect()
    }

    /// A peer's checkpoint has been installed (file and groups): logs that wait for it go on from there. Those that
    /// wait for a later one ask for it by `Actions::fetch_checkpoint`. One that is older than the newest here changes nothing.
    pub fn on_checkpoint_installed(&mut self, cut: u64, positions: Positions) {
        self.has_genesis = true;
        if self.checkpoint.as_ref().is_none_or(|(newest, _)| *newest < cut) {
            self.checkpoint = Some((cut, positions));
        }
        (0..self.logs.len()).for_each(|at| self.serve_held_snapshot(at));
    }

    /// A log that waits for a checkpoint goes on from the newest one, if that reaches as far.
    fn serve_held_snapshot(&mut self, at: usize) {
        let Some((_, positions)) = &self.checkpoint else { return };
        let ((index, term), log) = (positions[at], &mut self.logs[at]);
        let wanted = log.held_snapshot.as_ref().map(|message| message.get_snapshot().get_metadata().index);
        if wanted.is_none_or(|wanted| index < wanted) {
            return;
        }
        let Some(mut message) = log.held_snapshot.take() else { return };
        if index > log.committed {
            message.mut_snapshot().mut_metadata().index = index;
            message.mut_snapshot().mut_metadata().term = term;
            let _ = log.node.step(message);
        }
    }

    fn send(&mut self, log: LogId, messages: Vec<Message>) {
        for mut message in messages {
            let to = message.to as usize;
            if message.get_msg_type() == MessageType::MsgReadIndex {
                // The library gives it none; with it, the request says as much as an answer to a heartbeat.
                message.term = self.logs[log.index()].term();
            }
            // The library forwards others' read-index requests; their senders ask again, of the leader.
            let own = message.from == u64::from(self.config.me);
            if own && (1..=self.frames.len()).contains(&to) && self.peers[to - 1].connected {
                self.frames[to - 1].messages.push((log, message));
            }
        }
    }

    /// Does all that the inputs so far ask for.
    ///
    /// # Errors
    /// `Corrupt` if a committed entry does not decode. The replica then ends.
    pub fn turn(&mut self, actions: &mut Actions) -> Result<(), CoreError> {
        self.settle_membership();
        // Before anything is proposed: a new leader looks anew for markers that are missing.
        self.note_leaders(actions);
        self.start_rounds();
        self.pass_on_time_wants();
        loop {
            let worked = self.turn_once(actions)?;
            if !worked || self.durable {
                break;
            }
            self.on_persisted(self.turn);
        }
        self.note_leaders(actions);
        let fetch = self.logs.iter().find_map(|log| log.held_snapshot.as_ref().map(|m| m.from as ReplicaId));
        actions.fetch_checkpoint = fetch;
        actions.identity = self.membership.take_change();
        for (at, frame) in self.frames.iter_mut().enumerate() {
            if !frame.is_empty() {
                actions.frames.push((at as ReplicaId + 1, std::mem::take(frame)));
            }
        }
        Ok(())
    }

    /// True if something was written.
    fn turn_once(&mut self, actions: &mut Actions) -> Result<bool, CoreError> {
        self.turn += 1;
        let mut records = std::mem::take(&mut self.trimmed);
        let mut must_sync = false;
        let stamp_ms = self.stamp_ms();
        self.bring_forward_idle_streams();
        // The cross log first: what it commits makes markers due, which the streams then propose.
        let streams = self.engine.topology.streams;
        for at in std::iter::once(streams).chain(0..streams) {
            self.route_batches(at);
            let mut collected = Collected::default();
            let is_full = self.is_full(at);
            let log = &mut self.logs[at];
            log.propose(stamp_ms, self.now_ms, is_full, &self.config);
            log.time_proposal(&*self.engine.observer);
            log.collect(self.turn, &mut collected);
            records.append(&mut collected.records);
            must_sync |= collected.must_sync;
            if let Some(index) = collected.restarted_after {
                self.engine.logs[at].restart(index + 1);
            }
            self.send(LogId(at as u8), collected.messages);
            self.finish_rounds(at, collected.read_states, actions);
            self.deliver(at, collected.committed, actions)?;
        }
        let wrote = !records.is_empty();
        if wrote && self.durable {
            let write = actions.write.get_or_insert_with(LogWrite::default);
            write.turn = self.turn;
            write.records.append(&mut records);
            write.must_sync |= must_sync;
        }
        Ok(wrote)
    }

    /// Sends batches and commands for a log that another replica leads to it; keeps them while nobody does.
    fn route_batches(&mut self, at: usize) {
        let log = &mut self.logs[at];
        let leader = log.leader();
        if leader == 0 || log.is_leader() {
            return;
        }
        let batches = log.take_batches();
        let systems = log.take_systems();
        let frame = &mut self.frames[usize::from(leader) - 1];
        if self.peers[usize::from(leader) - 1].connected {
            frame.batches.extend(batches.into_iter().map(|batch| (LogId(at as u8), batch)));
            frame.systems.extend(systems);
        }
    }

    fn deliver(&mut self, at: usize, committed: Vec<raft::eraftpb::Entry>, actions: &mut Actions) -> Result<(), CoreError> {
        if committed.is_empty() && !self.config.planted.is(Planted::ReplyBeforeCommit) {
            return Ok(());
        }
        #[cfg(feature = "planted")]
        let committed = self.logs[at].with_uncommitted(committed, self.engine.logs[at].committed(), &self.config);
        let log = LogId(at as u8);
        let allowed = self.engine.topology.groups_of(log);
        let cross = self.engine.topology.cross();
        self.logs[at].time_commit(&*self.engine.observer);
        let now_us = self.engine.observer.now_us();
        let mut entries = Vec::with_capacity(committed.len());
        let mut notify = GroupSet::EMPTY;
        for raft_entry in committed {
            let data = if raft_entry.get_entry_type() == EntryType::EntryNormal { raft_entry.data } else { Bytes::new() };
            let mut entry = Entry::decode(log, raft_entry.index, allowed, &data)
                .map_err(|e| CoreError::Corrupt(format!("entry {} of log {at}: {e}", raft_entry.index)))?;
            if entry.index % SAMPLE_EVERY == 0 && !entry.groups.is_empty() {
                entry.committed_us = now_us;
            }
            self.logs[at].note_committed(entry.stamp_ms, entry.marker);
            self.engine.note_stamp(entry.stamp_ms);
            notify = notify.union(entry.groups).union(entry.time_groups);
            if entry.marker > self.committed_markers[at] {
                self.committed_markers[at] = entry.marker;
                notify = notify.union(allowed);
            }
            if log == cross {
                self.want_markers(entry.index, entry.groups);
                self.check_genesis(entry.system)?;
                if entry.system == Some(System::Time) {
                    self.time_mark = TimeMark { asked: None, index: entry.index, committed: self.tick };
                }
            }
            entries.push(Arc::new(entry));
        }
        // After a checkpoint was installed, the log may bring again what the window already starts after.
        let known = self.engine.logs[at].committed();
        self.engine.logs[at].append(entries.into_iter().filter(|entry| entry.index > known));
        let ready = if log == cross { self.engine.notify_cross() } else { self.engine.notify(notify) };
        actions.ready = actions.ready.union(ready);
        if log != cross && self.engine.rounds[at].done().1 > known {
            // Reads have waited for these entries, whosever they are.
            actions.ready = actions.ready.union(self.engine.notify_readers(log));
        }
        Ok(())
    }

    fn check_genesis(&mut self, system: Option<System>) -> Result<(), CoreError> {
        match system {
            Some(System::Genesis { digest }) if digest != self.config.genesis => {
                Err(CoreError::Corrupt("the cluster's genesis record is not this replica's".into()))
            }
            Some(System::Genesis { .. }) => {
                self.has_genesis = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `x[index]` is committed: the streams of its groups need a marker that covers it.
    fn want_markers(&mut self, index: u64, groups: GroupSet) {
        for stream in 0..self.engine.topology.streams {
            if groups.intersects(self.engine.topology.groups_of(LogId(stream as u8))) {
                self.logs[stream].marker_wanted = index;
            }
        }
    }

    /// A stream that no cross command concerns has no markers, and its groups would hold the cross log's window for ever.
    fn bring_forward_idle_streams(&mut self) {
        let cross = &self.engine.logs[self.engine.topology.streams];
        if cross.bytes() > self.config.undelivered_bytes_max / 2 {
            let committed = cross.committed();
            self.logs.iter_mut().take(self.engine.topology.streams).for_each(|log| log.marker_wanted = committed);
        }
    }

    fn pass_on_time_wants(&mut self) {
        let anew = self.engine.take_wanting_time_anew();
        let (tick, asked) = (self.tick, &mut self.time_asked);
        let is_due = |group: &GroupId| anew.contains(*group) || tick >= asked[group.index()] + RETRY_TICKS;
        let ask: GroupSet = self.engine.wanting_time().iter().filter(is_due).collect();
        ask.iter().for_each(|group| asked[group.index()] = tick);
        if ask.is_empty() {
            return;
        }
        self.mark_time(ask);
        for group in ask.iter() {
            let leader = self.logs[self.engine.topology.stream_of(group).index()].leader();
            if leader != 0 && leader != self.config.me && self.peers[usize::from(leader) - 1].connected {
                self.frames[usize::from(leader) - 1].wants_time.insert(group);
            }
        }
    }

    fn note_leaders(&mut self, actions: &mut Actions) {
        for at in 0..self.logs.len() {
            let leader = self.logs[at].leader();
            if leader == self.leaders[at] {
                continue;
            }
            self.leaders[at] = leader;
            if leader == self.config.me {
                let committed = self.committed_markers[at];
                self.logs[at].forget_logged_marker(committed);
                self.catch_up_targets[at].get_or_insert(self.logs[at].committed);
                if !self.has_genesis && at == self.engine.topology.streams {
                    self.logs[at].push_system(System::Genesis { digest: self.config.genesis });
                }
            }
            if leader != 0 {
                actions.leader_changes.push(LogId(at as u8));
            }
        }
    }

    /// The logs, for people.
    pub fn status(&self) -> Vec<LogStatus> {
        let status = |(log, at): (&RaftLog, u8)| LogStatus {
            id: LogId(at),
            role: log.role(),
            leader: log.leader(),
            term: log.term(),
            committed: log.committed,
        };
        self.logs.iter().zip(0..).map(status).collect()
    }

    /// Whether this replica is a full member, and has delivered all that was committed when it first heard from each log's
    /// leader.
    pub fn has_caught_up(&self) -> bool {
        if !self.membership.is_established() {
            return false;
        }
        let streams = self.engine.topology.streams;
        let has = |(at, target): (usize, &Option<u64>)| match target {
            None => false,
            Some(_) if at >= streams => true,
            Some(target) => self.engine.delivered_by_all(LogId(at as u8)) >= *target,
        };
        self.catch_up_targets.iter().enumerate().all(has)
    }

    /// Where each log starts: to be written before the first turn, for a log that a checkpoint made start anew.
    pub fn start_records(&self) -> Vec<LogRecord> {
        let start = |(log, at): (&RaftLog, u8)| {
            let (index, term) = log.node.store().start();
            LogRecord::Start { log: LogId(at), index, term }
        };
        self.logs.iter().zip(0..).filter(|(log, _)| log.node.store().start().0 > 0).map(start).collect()
    }
}
