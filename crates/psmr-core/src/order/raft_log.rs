//! One log: a Raft node of the consensus library, what waits to be proposed to it, and what waits to be durable.

use super::mirror::{to_log_entry, Mirror};
use crate::command::{GroupSet, LogId, ReplicaId};
use crate::config::{Config, ENTRY_BYTES_MAX};
use crate::entry::{encode_batches, encode_system, System, ENTRY_HEAD_BYTES};
use crate::error::CoreError;
use crate::log::{LogRecord, RecoveredLog};
use crate::message::Place;
use crate::observe::{Observer, Stage, SAMPLE_EVERY};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{Progress, RawNode, SnapshotStatus, StateRole};
use std::collections::{BTreeSet, VecDeque};

/// Messages with entries that may be under way to a peer.
const MESSAGES_IN_FLIGHT_MAX: usize = 16;

/// What a log wants done after a turn.
#[derive(Default)]
pub struct Collected {
    /// To peers, now.
    pub messages: Vec<Message>,
    /// To the disk.
    pub records: Vec<LogRecord>,
    /// Whether the records count only after a sync.
    pub must_sync: bool,
    /// Newly committed, in order.
    pub committed: Vec<Entry>,
    /// (request context, index) of read-index requests that were answered.
    pub read_states: Vec<(Vec<u8>, u64)>,
    /// The log goes on after this index, which a peer's checkpoint covers.
    pub restarted_after: Option<u64>,
}

/// Messages and a ready number that wait for a write to be durable.
struct Unsynced {
    turn: u64,
    number: u64,
    messages: Vec<Message>,
}

/// One log at this replica.
pub struct RaftLog {
    id: LogId,
    pub(super) node: RawNode<Mirror>,
    batches: VecDeque<Bytes>,
    /// Since when they wait, by the own wall clock.
    gathering_since_ms: u64,
    batch_bytes: usize,
    systems: Vec<System>,
    /// The last stamp that was given out or seen.
    stamp_ms: u64,
    /// The highest cross entry that concerns this stream's groups and is known to be committed.
    pub(super) marker_wanted: u64,
    /// The highest marker known to be in the log.
    marker_logged: u64,
    /// Groups whose clocks the next entry brings forward.
    pub(super) time_groups: GroupSet,
    unsynced: VecDeque<Unsynced>,
    pub(super) committed: u64,
    /// A snapshot message that waits for a checkpoint to be installed.
    pub(super) held_snapshot: Option<Message>,
    /// The turn that writes the log's new start; the library may count it as applied only when it is durable.
    restart_turn: Option<u64>,
    /// (index, time) of a proposal that is timed until it is committed.
    timed: Option<(u64, u64)>,
    /// The turn that writes what `vote_only_after` set; 0: it is durable.
    bound_turn: u64,
    /// When to stand for election because the connection to the leader broke.
    pub(super) stand_at_tick: Option<u64>,
}

impl RaftLog {
    /// The log as recovered, under a checkpoint that covers it up to (index, term).
    ///
    /// # Errors
    /// If the log starts after what the checkpoint covers, or the library refuses what was recovered.
    pub fn new(
        id: LogId,
        config: &Config,
        recovered: RecoveredLog,
        checkpoint: (u64, u64),
        logger: &slog::Logger,
    ) -> Result<RaftLog, CoreError> {
        if recovered.start.0 > checkpoint.0 {
            let (start, covered) = (recovered.start.0, checkpoint.0);
            return Err(CoreError::Corrupt(format!("log {} starts after {start}, the checkpoint covers {covered}", id.0)));
        }
        let voters = (1..=u64::from(config.replicas)).collect();
        let mirror = Mirror::new(recovered, ConfState { voters, ..ConfState::default() }, checkpoint);
        let applied = checkpoint.0;
        let election = config.election_ticks as usize;
        let timeout = election + usize::from(config.rank(config.me, id)) * election / 2 + jitter(config, id);
        let raft_config = raft::Config {
            id: u64::from(config.me),
            election_tick: election,
            heartbeat_tick: config.heartbeat_ticks as usize,
            // The library draws from a generator of its own; a range of one value leaves it no choice.
            min_election_tick: timeout,
            max_election_tick: timeout + 1,
            applied,
            max_size_per_msg: (1 << 20).min(config.pending_bytes_max as u64),
            // All that is under way to a peer that takes nothing is in memory.
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: config.pending_bytes_max as u64,
            max_committed_size_per_ready: 16 << 20,
            ..raft::Config::default()
        };
        let node = RawNode::new(&raft_config, mirror, logger).map_err(|e| CoreError::Consensus(format!("log {}: {e}", id.0)))?;
        Ok(RaftLog {
            id,
            node,
            batches: VecDeque::new(),
            gathering_since_ms: 0,
            batch_bytes: 0,
            systems: Vec::new(),
            stamp_ms: 0,
            marker_wanted: 0,
            marker_logged: 0,
            time_groups: GroupSet::EMPTY,
            unsynced: VecDeque::new(),
            committed: applied,
            held_snapshot: None,
            restart_turn: None,
            timed: None,
            bound_turn: 0,
            stand_at_tick: None,
        })
    }

    /// Whether this replica leads the log.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether a new start is being written: the library must not stand for election before it is durable and applied.
    pub fn is_restarting(&self) -> bool {
        self.restart_turn.is_some()
    }

    /// Whether all that came is done, and the leader was heard from within so many ticks.
    pub fn is_idle(&self, silence_ticks_max: usize) -> bool {
        let raft = &self.node.raft;
        let has_leader = self.is_leader() && raft.lead_transferee.is_none()
            || raft.leader_id != 0 && raft.election_elapsed <= silence_ticks_max;
        has_leader
            && self.in_flight() == 0
            && self.unsynced.is_empty()
            && self.batches.is_empty()
            && self.systems.is_empty()
            && self.held_snapshot.is_none()
            && self.stand_at_tick.is_none()
            && !self.is_restarting()
    }

    /// Whether a peer can have sent the message: the library ends the process over what contradicts its log, and the log's
    /// storage over an entry that is too long.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, message: &Message) -> Result<(), &'static str> {
        let last = self.node.raft.raft_log.last_index();
        match message.get_msg_type() {
            _ if message.entries.iter().any(|entry| entry.data.len() > ENTRY_BYTES_MAX) => Err("length of an entry"),
            MessageType::MsgHeartbeat if self.commits_what_is_not_here(message) => Err("heartbeat's commit"),
            // Of an earlier term it may be of entries that have been replaced; it is passed over then.
            MessageType::MsgAppendResponse if message.term >= self.term() && self.is_leader() && message.index > last => {
                Err("acknowledged index")
            }
            MessageType::MsgSnapshot => {
                let members = message.get_snapshot().get_metadata().get_conf_state();
                let ids: BTreeSet<u64> = members.voters.iter().chain(&members.learners).copied().collect();
                let is_once = ids.len() == members.voters.len() + members.learners.len() && !ids.contains(&0);
                (is_once && !members.voters.is_empty()).then_some(()).ok_or("members in a snapshot")
            }
            _ => Ok(()),
        }
    }

    /// Whether it is a heartbeat that commits beyond the end of the log; the library would end the process over it.
    pub fn commits_what_is_not_here(&self, message: &Message) -> bool {
        message.get_msg_type() == MessageType::MsgHeartbeat && message.commit > self.node.raft.raft_log.last_index()
    }

    /// Whether what is committed, and the term, are durable.
    pub fn is_settled(&self) -> bool {
        self.restart_turn.is_none() && self.bound_turn == 0
    }

    /// Who leads the log, as far as this replica knows; 0: nobody.
    pub fn leader(&self) -> ReplicaId {
        self.node.raft.leader_id as ReplicaId
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The role, in Raft's words.
    pub fn role(&self) -> &'static str {
        match self.node.raft.state {
            StateRole::Leader => "leader",
            StateRole::Follower => "follower",
            StateRole::Candidate => "candidate",
            StateRole::PreCandidate => "candidate",
        }
    }

    /// What this replica tells of the log to one that rejoins.
    pub fn place(&self) -> Place {
        let raft = &self.node.raft;
        Place { term: raft.term, leads: self.is_leader() && raft.commit_to_current_term(), committed: raft.raft_log.committed }
    }

    /// A peer has lost its memory: what it promised in the log does not count any more.
    pub fn forget_promises(&mut self, replica: ReplicaId) {
        let next = self.node.raft.raft_log.last_index() + 1;
        match self.node.raft.state {
            StateRole::Leader => {
                self.node.raft.abort_leader_transfer();
                if let Some(progress) = self.node.raft.mut_prs().get_mut(u64::from(replica)) {
                    *progress = Progress::new(next, MESSAGES_IN_FLIGHT_MAX);
                }
            }
            // It may have been counted. The vote of the term stays.
            StateRole::Candidate | StateRole::PreCandidate => self.node.raft.become_follower(self.node.raft.term, 0),
            StateRole::Follower => {}
        }
    }

    /// As leader: a peer listens (again). What the library gave out meanwhile went nowhere, and it would wait for that for ever.
    pub fn on_listening(&mut self, replica: ReplicaId, listens: bool) {
        self.node.report_snapshot(u64::from(replica), SnapshotStatus::Failure);
        if listens {
            // It need not wait for the next heartbeat to hear who leads.
            self.node.ping();
        }
    }

    /// Sees to it that this replica never votes in `term` or an earlier one: it may have done so and lost the memory of it.
    pub fn vote_only_after(&mut self, term: u64) {
        let raft = &mut self.node.raft;
        if raft.term < term || (raft.term == term && raft.vote != raft.id) {
            raft.become_follower(term, 0);
            raft.vote = raft.id;
            self.bound_turn = u64::MAX;
        }
    }

    /// Puts a batch in line. It is dropped if too much waits already: its sender sends it again.
    pub fn push_batch(&mut self, batch: Bytes, now_ms: u64, bytes_max: usize) {
        if self.batch_bytes + batch.len() <= bytes_max {
            if self.batches.is_empty() {
                self.gathering_since_ms = now_ms;
            }
            self.batch_bytes += batch.len();
            self.batches.push_back(batch);
        }
    }

    /// Takes the batches that wait, to send them to the leader.
    pub fn take_batches(&mut self) -> VecDeque<Bytes> {
        self.batch_bytes = 0;
        std::mem::take(&mut self.batches)
    }

    /// Puts a command to the engine in line, unless the same waits already.
    pub fn push_system(&mut self, system: System) {
        if !self.systems.contains(&system) {
            self.systems.push(system);
        }
    }

    /// Takes the commands to the engine that wait.
    pub fn take_systems(&mut self) -> Vec<System> {
        std::mem::take(&mut self.systems)
    }

    /// Notes what a committed entry says: its stamp bounds later ones, its marker need not be logged again.
    pub fn note_committed(&mut self, stamp_ms: u64, marker: u64) {
        self.stamp_ms = self.stamp_ms.max(stamp_ms);
        self.marker_logged = self.marker_logged.max(marker);
    }

    /// This replica has become leader: markers that another leader logged may be lost, so only committed ones count.
    pub fn forget_logged_marker(&mut self, committed_marker: u64) {
        self.marker_logged = committed_marker;
    }

    /// As leader: turns what waits into entries. `is_full`: commands have to wait, as the groups lag too far behind.
    pub fn propose(&mut self, stamp_ms: u64, now_ms: u64, is_full: bool, config: &Config) {
        if !self.is_leader() {
            return;
        }
        while let Some(system) = self.systems.first() {
            self.stamp_ms = self.stamp_ms.max(stamp_ms);
            let entry = encode_system(self.stamp_ms, *system);
            if !self.propose_entry(entry) {
                return;
            }
            self.systems.remove(0);
        }
        while self.has_something_to_propose(is_full) && self.may_propose(now_ms, config) {
            let taken = self.batches_of_next_entry(is_full, config.entry_bytes_max);
            self.stamp_ms = self.stamp_ms.max(stamp_ms);
            let batches = self.batches.iter().take(taken);
            if !self.propose_entry(encode_batches(batches, self.stamp_ms, self.marker_wanted, self.time_groups)) {
                return;
            }
            self.marker_logged = self.marker_wanted;
            self.time_groups = GroupSet::EMPTY;
            for batch in self.batches.drain(..taken) {
                self.batch_bytes -= batch.len();
            }
        }
    }

    /// How many batches fit the next entry; one does, whatever its size.
    fn batches_of_next_entry(&self, is_full: bool, entry_bytes_max: usize) -> usize {
        let mut weight = ENTRY_HEAD_BYTES;
        let fits = |(at, batch): &(usize, &Bytes)| {
            weight += batch.len();
            *at == 0 || weight <= entry_bytes_max
        };
        if is_full {
            0
        } else {
            self.batches.iter().enumerate().take_while(fits).count()
        }
    }

    /// Begins to time the last proposal, if it is its turn.
    pub fn time_proposal(&mut self, observer: &dyn Observer) {
        let last = self.node.raft.raft_log.last_index();
        let is_new =
            self.is_leader() && last > self.committed && self.timed.is_none_or(|(index, _)| last >= index + SAMPLE_EVERY);
        if is_new {
            self.timed = Some((last, observer.now_us())).filter(|(_, now_us)| *now_us > 0);
        }
    }

    /// Ends it, if it is committed.
    pub fn time_commit(&mut self, observer: &dyn Observer) {
        if let Some((_, since_us)) = self.timed.filter(|(index, since_us)| *since_us > 0 && *index <= self.committed) {
            self.timed = Some((self.committed, 0));
            observer.record(Stage::Replicate, observer.now_us().saturating_sub(since_us));
        }
    }

    /// As leader of a cluster where two are a quorum: the answer to a peer's read-index request in this leader's own term.
    ///
    /// A read index needs the word of a quorum, given after the read was issued, that there is no later leader. In its term, the
    /// request is the peer's word, as an answer to a heartbeat would be: it has voted in no later term. The library asks all
    /// replicas once more, which costs two more hops.
    pub fn answer_read_index(&self, request: &Message, replicas: ReplicaId) -> Option<Message> {
        let raft = &self.node.raft;
        let is_quorum = replicas <= 3 && request.from != raft.id && request.term == raft.term;
        let applies = request.get_msg_type() == MessageType::MsgReadIndex && self.is_leader() && raft.commit_to_current_term();
        if !is_quorum || !applies {
            return None;
        }
        let mut answer = Message { to: request.from, from: raft.id, term: raft.term, ..Message::default() };
        answer.set_msg_type(MessageType::MsgReadIndexResp);
        answer.index = raft.raft_log.committed;
        answer.entries = request.entries.clone();
        Some(answer)
    }

    fn has_something_to_propose(&self, is_full: bool) -> bool {
        (!is_full && !self.batches.is_empty()) || self.marker_wanted > self.marker_logged || !self.time_groups.is_empty()
    }

    /// Test only: as leader, what is appended and not committed counts as committed.
    #[cfg(feature = "planted")]
    pub fn with_uncommitted(&self, committed: Vec<Entry>, known: u64, config: &Config) -> Vec<Entry> {
        if !config.planted.is(crate::planted::Planted::ReplyBeforeCommit) || !self.is_leader() {
            return committed;
        }
        let last = self.node.store().last();
        self.node.store().range(known + 1, last)
    }

    /// Whether it is time for an entry: each costs much more than the commands in it, so while one is under way the next one
    /// gathers, unless a marker or a time mark is due, there is a full entry, or the network is slow.
    fn may_propose(&self, now_ms: u64, config: &Config) -> bool {
        let is_urgent = self.marker_wanted > self.marker_logged || !self.time_groups.is_empty();
        let is_grown = self.batch_bytes >= config.entry_bytes_max;
        let has_waited = now_ms >= self.gathering_since_ms + config.gather_ms_max;
        match self.in_flight() {
            0 => true,
            in_flight => in_flight < config.entries_in_flight_max && (is_urgent || is_grown || has_waited),
        }
    }

    /// Whether batches wait for a time rather than for an event.
    pub fn is_gathering(&self) -> bool {
        self.is_leader() && !self.batches.is_empty() && self.in_flight() > 0
    }

    fn in_flight(&self) -> u64 {
        self.node.raft.raft_log.last_index() - self.node.raft.raft_log.committed
    }

    /// False if the library refuses for now (a transfer of leadership, or too much uncommitted).
    fn propose_entry(&mut self, data: Bytes) -> bool {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.entries.push(Entry { data, ..Entry::default() });
        self.node.raft.step(message).is_ok()
    }

    /// Gathers what the library wants done. `turn` is the number under which the records will be reported durable.
    pub fn collect(&mut self, turn: u64, out: &mut Collected) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.messages.extend(ready.take_messages());
            let records_before = out.records.len();
            if !ready.snapshot().is_empty() {
                let metadata = ready.snapshot().get_metadata().clone();
                self.node.mut_store().start_after(metadata.index, metadata.term);
                self.node.mut_store().set_conf_state(metadata.get_conf_state().clone());
                out.records.push(LogRecord::Start { log: self.id, index: metadata.index, term: metadata.term });
                self.committed = self.committed.max(metadata.index);
                out.restarted_after = Some(metadata.index);
                self.restart_turn = Some(turn);
            }
            let entries = ready.take_entries();
            out.records.extend(entries.iter().map(|entry| LogRecord::Append(self.id, to_log_entry(entry))));
            self.node.mut_store().append(entries.into_iter());
            if let Some(hard_state) = ready.hs() {
                let hard_state = hard_state.clone();
                self.node.mut_store().set_hard_state(hard_state);
            }
            // A commit index alone is not worth a write: after a restart the leader tells it again.
            let writes = out.records.len() > records_before || ready.must_sync();
            if writes {
                out.records.push(LogRecord::HardState(self.id, self.node.store().hard_state()));
            }
            out.must_sync |= ready.must_sync();
            if writes && self.bound_turn == u64::MAX {
                self.bound_turn = turn;
            }
            let committed = ready.take_committed_entries();
            if let Some(last) = committed.last() {
                self.committed = last.index;
            }
            out.committed.extend(committed);
            out.read_states.extend(ready.take_read_states().into_iter().map(|state| (state.request_ctx, state.index)));
            self.hold(turn, writes, ready.number(), ready.take_persisted_messages(), out);
            self.node.advance_append_async(ready);
            if self.restart_turn.is_none() {
                self.node.advance_apply();
            }
        }
    }

    /// Lets go at once of messages that promise nothing about the disk, and of the others when all before them is durable.
    fn hold(&mut self, turn: u64, writes: bool, number: u64, messages: Vec<Message>, out: &mut Collected) {
        let (held, free): (Vec<_>, Vec<_>) = messages.into_iter().partition(promises_durability);
        out.messages.extend(free);
        if writes {
            self.unsynced.push_back(Unsynced { turn, number, messages: held });
        } else if let Some(last) = self.unsynced.back_mut() {
            last.number = number;
            last.messages.extend(held);
        } else {
            out.messages.extend(held);
        }
    }

    /// All writes up to `turn` are durable. Returns messages that waited for that.
    pub fn on_persisted(&mut self, turn: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.unsynced.front().is_some_and(|u| u.turn <= turn) {
            if let Some(unsynced) = self.unsynced.pop_front() {
                self.node.on_persist_ready(unsynced.number);
                messages.extend(unsynced.messages);
            }
        }
        if self.bound_turn <= turn {
            self.bound_turn = 0;
        }
        if self.restart_turn.is_some_and(|restart| restart <= turn) {
            self.restart_turn = None;
            self.node.advance_apply();
        }
        messages
    }
}

fn promises_durability(message: &Message) -> bool {
    use MessageType::{MsgAppendResponse, MsgRequestVote, MsgRequestVoteResponse};
    matches!(message.get_msg_type(), MsgAppendResponse | MsgRequestVote | MsgRequestVoteResponse)
}

/// 0 to 2 ticks that differ by replica, log and seed, so that elections of one rank seldom collide.
fn jitter(config: &Config, log: LogId) -> usize {
    let mixed = (config.seed ^ u64::from(config.me) << 8 ^ u64::from(log.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 61) as usize % 3
}
