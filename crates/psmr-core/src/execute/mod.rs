//! Execution on one replica: groups that workers run, independent of each other but at barriers.
//!
//! `Engine` is shared by the workers, by the ordering part (which appends committed entries) and by the client proxies (which
//! put reads into groups). What two groups with |γ| = 1 touch is disjoint: each has its own cell.

mod barrier;
mod group;
pub mod queues;
pub mod reads;
pub mod ready;

use crate::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId};
use crate::deliver::{CommittedLog, ReadRounds};
use crate::observe::{Observer, Unobserved};
use crate::planted::PlantedErrors;
use crate::routing::Topology;
use crate::service::{ReadContext, ReadOutcome, Replies, Service};
use crate::session::Numbering;
use crate::sync::{lock, Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use bytes::Bytes;
use group::Group;
use reads::ReadBatch;
use ready::{Outcome, Readiness};

/// Something that a run of a group tells the rest of the replica.
#[derive(Debug)]
pub enum Event {
    /// Replies to commands of a session that this replica answers; consecutive numbers from `first`.
    Replies { session: SessionId, group: GroupId, numbering: Numbering, first: u64, replies: Replies },
    /// Numbers up to `last` are settled, and replies to those not answered before are not known here.
    Settled { session: SessionId, group: GroupId, numbering: Numbering, last: u64 },
    /// Commands were refused because a predecessor is missing: send again from `expected`.
    Refused { session: SessionId, group: GroupId, numbering: Numbering, expected: u64 },
    /// Replies to reads, by token.
    Reads { session: SessionId, tokens: Vec<u64>, replies: Replies },
    /// Reads that cannot be answered: no round came in time, or the group's state was replaced by one past their place.
    ReadsLost { session: SessionId, tokens: Vec<u64> },
    /// A group's part of the checkpoint at `x[cut]`.
    Snapshot { cut: u64, group: GroupId, bytes: Vec<u8> },
    /// The state at `x[cut]` cannot be written, on any replica: for the digest that was asked for by this number, or for a checkpoint.
    NoSnapshot { cut: u64, digest: Option<u64>, why: String },
    /// A group's part of the digest at `x[cut]`: of the service's state, and of the engine's own (clock, sessions, position).
    Digest { request: u64, cut: u64, group: GroupId, state: u64, bookkeeping: u64 },
}

impl Event {
    /// Whose it is; `None`: the replica's.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Event::Replies { session, .. }
            | Event::Settled { session, .. }
            | Event::Refused { session, .. }
            | Event::Reads { session, .. }
            | Event::ReadsLost { session, .. } => Some(*session),
            Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => None,
        }
    }
}

/// Replies to reads of so many bytes need room: who asks for many in one go, and takes none, has them made one after the other.
/// The number of smaller ones is limited where they are asked for.
pub const LARGE_REPLY_BYTES: usize = 4 << 10;

/// Takes events while the group that they come from is still held, so that each session hears of a group in order.
pub trait Outbox: Send + Sync {
    /// Takes all events out.
    fn hand_on(&self, events: &mut Vec<Event>);

    /// Whether there may be room for a large reply to a read. False: the read is held until its group is run again, which is
    /// for the outbox to see to.
    fn has_room(&self, _session: SessionId, _token: u64) -> bool {
        true
    }

    /// Whether the command of its session before which a read has to be answered is for sure none of its connection: it may be
    /// held then.
    fn may_be_held(&self, _session: SessionId, _token: u64) -> bool {
        false
    }

    /// Takes room for a reply of `bytes` bytes, which are `LARGE_REPLY_BYTES` at least, to a read; `is_last_moment`: it
    /// cannot be held. False: the reply is thrown away, and the read held, as by `has_room`, or refused.
    fn claim_room(&self, _session: SessionId, _token: u64, _bytes: usize, _is_last_moment: bool) -> bool {
        true
    }
}

/// What a run of a group, or several, gave. Kept by a worker and cleared between hand-offs.
#[derive(Default)]
pub struct Output {
    /// In order.
    pub events: Vec<Event>,
    /// Groups that have to be put in a ready queue.
    pub ready: GroupSet,
    /// Groups of them that `Engine::run_brief` left to workers.
    pub lengthy: GroupSet,
    /// A group needs a time mark: the ordering part has to have a turn.
    pub wants_time: bool,
    /// Commands that were executed.
    pub executed: u64,
    /// Replies to reads, gathered by session until the run ends.
    reads: Vec<(SessionId, (Vec<u64>, Replies))>,
    outbox: Option<Arc<dyn Outbox>>,
}

impl Output {
    /// An output that hands its events on to `outbox`; without one they stay in `events`.
    pub fn new(outbox: Arc<dyn Outbox>) -> Output {
        Output { outbox: Some(outbox), ..Output::default() }
    }

    /// Hands on what there is.
    pub fn hand_on(&mut self) {
        self.finish();
        if let (Some(outbox), false) = (&self.outbox, self.events.is_empty()) {
            outbox.hand_on(&mut self.events);
        }
    }

    fn has_room(&self, session: SessionId, token: u64) -> bool {
        self.outbox.as_ref().is_none_or(|outbox| outbox.has_room(session, token))
    }

    fn may_be_held(&self, session: SessionId, token: u64) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.may_be_held(session, token))
    }

    fn claim_room(&self, session: SessionId, token: u64, bytes: usize, is_last_moment: bool) -> bool {
        self.outbox.as_ref().is_none_or(|outbox| outbox.claim_room(session, token, bytes, is_last_moment))
    }

    fn reads_of(&mut self, session: SessionId) -> &mut (Vec<u64>, Replies) {
        let at = self.reads.iter().position(|(s, _)| *s == session).unwrap_or_else(|| {
            self.reads.push((session, Default::default()));
            self.reads.len() - 1
        });
        &mut self.reads[at].1
    }

    /// Turns gathered replies to reads into events; to be called before the events are handed on.
    pub fn finish(&mut self) {
        for (session, (tokens, replies)) in self.reads.drain(..) {
            if !tokens.is_empty() {
                self.events.push(Event::Reads { session, tokens, replies });
            }
        }
    }
}

pub(crate) struct Cell {
    pub(crate) readiness: Readiness,
    pub(crate) group: Mutex<Group>,
    /// Reads on their way in.
    inbox: Mutex<Vec<ReadBatch>>,
    inbox_is_full: AtomicBool,
    /// The entries of its stream, and of the cross log, that the group has passed.
    delivered: [AtomicU64; 2],
    /// When the group's state wants a time mark; the end of time: never.
    due_ms: AtomicU64,
}

/// The execution side of a replica.
pub struct Engine {
    /// This replica.
    pub me: ReplicaId,
    /// The tables.
    pub topology: Topology,
    /// Committed entries, per log.
    pub logs: Vec<CommittedLog>,
    /// Read-index rounds, per stream.
    pub rounds: Vec<ReadRounds>,
    /// Errors put in by tests.
    pub planted: PlantedErrors,
    /// Is told how long things take.
    pub observer: Arc<dyn Observer>,
    service: Arc<dyn Service>,
    cells: Vec<Cell>,
    /// Groups that wait for the cross log.
    waiting_for_cross: AtomicU64,
    /// Groups that need a time mark.
    wanting_time: AtomicU64,
    /// Those of them that the ordering part has not been told of.
    wanting_time_anew: AtomicU64,
    /// Groups that have reads which wait for a round.
    reading: AtomicU64,
    /// The wall clock at the last tick, in milliseconds since 1970.
    wall_ms: AtomicU64,
    /// The latest stamp of a committed entry.
    stamp_ms: AtomicU64,
}

impl Engine {
    /// Empty groups at the start of all logs.
    pub fn new(me: ReplicaId, topology: Topology, service: Arc<dyn Service>, planted: PlantedErrors) -> Engine {
        let cell = |group: GroupId| Cell {
            readiness: Readiness::default(),
            group: Mutex::new(Group::new(group, topology.stream_of(group), service.partition(group, &topology))),
            inbox: Mutex::new(Vec::new()),
            inbox_is_full: AtomicBool::new(false),
            delivered: [AtomicU64::new(0), AtomicU64::new(0)],
            due_ms: AtomicU64::new(u64::MAX),
        };
        Engine {
            me,
            logs: (0..topology.logs()).map(|_| CommittedLog::new(1)).collect(),
            rounds: (0..topology.streams).map(|_| ReadRounds::default()).collect(),
            cells: topology.all().iter().map(cell).collect(),
            planted,
            observer: Arc::new(Unobserved),
            service,
            topology,
            waiting_for_cross: AtomicU64::new(0),
            wanting_time: AtomicU64::new(0),
            wanting_time_anew: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            wall_ms: AtomicU64::new(0),
            stamp_ms: AtomicU64::new(0),
        }
    }

    /// The same, observed.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Engine {
        self.observer = observer;
        self
    }

    /// The service.
    pub fn service(&self) -> &Arc<dyn Service> {
        &self.service
    }

    /// Something is new for `groups`: returns those that have to be put in a ready queue.
    #[must_use]
    pub fn notify(&self, groups: GroupSet) -> GroupSet {
        groups.iter().filter(|g| self.cells[g.index()].readiness.notify()).collect()
    }

    /// The cross log has grown: notifies the groups that wait for it.
    #[must_use]
    pub fn notify_cross(&self) -> GroupSet {
        self.notify(GroupSet(self.waiting_for_cross.swap(0, Ordering::SeqCst)))
    }

    fn wait_for_cross(&self, group: GroupId) {
        self.waiting_for_cross.fetch_or(GroupSet::one(group).0, Ordering::SeqCst);
    }

    /// Runs a group that was taken from a ready queue. `out.ready` then has all groups that have to be put in one, perhaps
    /// this one again.
    pub fn run(&self, group: GroupId, out: &mut Output) {
        self.run_group(group, false, out);
    }

    /// Runs a group as `run` does, as far as what it comes to is brief. `out.lengthy` has it if the rest is for a worker.
    pub fn run_brief(&self, group: GroupId, out: &mut Output) {
        self.run_group(group, true, out);
    }

    fn run_group(&self, group: GroupId, only_brief: bool, out: &mut Output) {
        let cell = &self.cells[group.index()];
        cell.readiness.begin();
        let mut state = lock(&cell.group);
        let outcome = state.run(self, only_brief, out);
        cell.delivered[0].store(state.cursor.stream_next - 1, Ordering::Release);
        cell.delivered[1].store(state.cursor.cross_next - 1, Ordering::Release);
        out.hand_on();
        // Before the lock is free: who then gets it to execute a barrier finds the group parked.
        if cell.readiness.end(outcome) {
            out.ready.insert(group);
            if outcome == Outcome::Lengthy {
                out.lengthy.insert(group);
            }
        }
        drop(state);
        debug_assert!(outcome != Outcome::Parked || !out.ready.contains(group));
    }

    /// Answers a read of one group in the calling thread, from what this replica has executed. False: not now, nothing was
    /// written; put it into the group instead. It is linearizable where this replica is the only one, and has answered the
    /// group's commands or reads since it started.
    pub fn read_now(&self, group: GroupId, payload: &[u8], reply: &mut Vec<u8>) -> bool {
        let Ok(state) = self.cells[group.index()].group.try_lock() else { return false };
        let context = ReadContext { now_ms: state.clock_ms, wall_ms: self.wall_ms(), time_is_settled: false };
        let start = reply.len();
        match state.partition.read(payload, &context, reply) {
            ReadOutcome::Done => true,
            ReadOutcome::NeedsTime => {
                reply.truncate(start);
                false
            }
        }
    }

    /// Puts reads into a group: notify it once their round is done (`rounds`), or at once for what may be due already.
    pub fn push_reads(&self, group: GroupId, batch: ReadBatch) {
        let cell = &self.cells[group.index()];
        lock(&cell.inbox).push(batch);
        cell.inbox_is_full.store(true, Ordering::SeqCst);
        self.reading.fetch_or(GroupSet::one(group).0, Ordering::SeqCst);
    }

    /// A round of `stream` is done: notifies its groups that have reads.
    #[must_use]
    pub fn notify_readers(&self, stream: LogId) -> GroupSet {
        let reading = self.reading.load(Ordering::SeqCst);
        self.notify(GroupSet(reading & self.topology.groups_of(stream).0))
    }

    /// Groups that have reads which wait.
    pub fn reading(&self) -> GroupSet {
        GroupSet(self.reading.load(Ordering::SeqCst))
    }

    /// The wall clock, at each tick.
    pub fn set_wall_clock(&self, now_ms: u64) {
        self.wall_ms.store(now_ms, Ordering::Relaxed);
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    /// An entry with this stamp is committed.
    pub fn note_stamp(&self, stamp_ms: u64) {
        self.stamp_ms.fetch_max(stamp_ms, Ordering::Relaxed);
    }

    /// The latest stamp of a committed entry: what expires is to be counted from here, also if the own clock is behind.
    pub fn log_time_ms(&self) -> u64 {
        self.stamp_ms.load(Ordering::Relaxed)
    }

    /// No read waits in `group`, as far as it has looked.
    fn has_no_reads(&self, group: GroupId) {
        self.reading.fetch_and(!GroupSet::one(group).0, Ordering::SeqCst);
        let cell = &self.cells[group.index()];
        if cell.inbox_is_full.load(Ordering::SeqCst) {
            self.reading.fetch_or(GroupSet::one(group).0, Ordering::SeqCst);
            // A round that was done in between passed the group over: it runs again by itself.
            let is_idle = cell.readiness.notify();
            debug_assert!(!is_idle, "the group is being run");
        }
    }

    fn take_reads(&self, group: GroupId) -> Vec<ReadBatch> {
        let cell = &self.cells[group.index()];
        if !cell.inbox_is_full.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        std::mem::take(&mut *lock(&cell.inbox))
    }

    fn want_time(&self, group: GroupId) {
        let bit = GroupSet::one(group).0;
        if self.wanting_time.fetch_or(bit, Ordering::SeqCst) & bit == 0 {
            self.wanting_time_anew.fetch_or(bit, Ordering::SeqCst);
        }
    }

    fn note_due(&self, group: GroupId, due_ms: Option<u64>) {
        self.cells[group.index()].due_ms.store(due_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Groups whose states want a time mark at `now_ms`.
    pub fn due(&self, now_ms: u64) -> GroupSet {
        let is_due = |group: &GroupId| self.cells[group.index()].due_ms.load(Ordering::Relaxed) <= now_ms;
        self.topology.all().iter().filter(is_due).collect()
    }

    fn time_is_settled(&self, group: GroupId) {
        self.wanting_time.fetch_and(!GroupSet::one(group).0, Ordering::SeqCst);
    }

    /// Groups that have come to need a time mark since this was last called.
    pub fn take_wanting_time_anew(&self) -> GroupSet {
        if self.wanting_time_anew.load(Ordering::SeqCst) == 0 {
            return GroupSet::EMPTY;
        }
        GroupSet(self.wanting_time_anew.swap(0, Ordering::SeqCst))
    }

    /// Groups that need a time mark.
    pub fn wanting_time(&self) -> GroupSet {
        GroupSet(self.wanting_time.load(Ordering::SeqCst))
    }

    /// How far a group has delivered: entries of its stream, entries of the cross log.
    pub fn delivered(&self, group: GroupId) -> (u64, u64) {
        let cell = &self.cells[group.index()];
        (cell.delivered[0].load(Ordering::Acquire), cell.delivered[1].load(Ordering::Acquire))
    }

    /// The entries of `log` that all its groups have passed.
    pub fn delivered_by_all(&self, log: LogId) -> u64 {
        let cross = log == self.topology.cross();
        let of = |group: GroupId| if cross { self.delivered(group).1 } else { self.delivered(group).0 };
        self.topology.groups_of(log).iter().map(of).min().unwrap_or(0)
    }

    /// Whether a group waits at a barrier.
    pub fn is_parked(&self, group: GroupId) -> bool {
        self.cells[group.index()].readiness.is_parked()
    }

    /// Replaces a group's state by its part of a checkpoint, if the group has not come to that cut yet. No worker may run
    /// meanwhile.
    ///
    /// # Errors
    /// If the bytes are no such part; the replica must then end.
    pub fn restore(&self, group: GroupId, cut: u64, bytes: Bytes, out: &mut Output) -> Result<(), String> {
        let cell = &self.cells[group.index()];
        let mut state = lock(&cell.group);
        if state.cursor.cross_next > cut {
            return Ok(());
        }
        state.restore(bytes)?;
        self.note_due(group, state.partition.due_ms());
        state.take_reads(self);
        let Group { reads, sessions, clock_ms, .. } = &mut *state;
        for (session, token) in reads.take_overtaken(sessions, *clock_ms) {
            out.events.push(Event::ReadsLost { session, tokens: vec![token] });
        }
        cell.delivered[0].store(state.cursor.stream_next - 1, Ordering::Release);
        cell.delivered[1].store(state.cursor.cross_next - 1, Ordering::Release);
        if cell.readiness.is_parked() {
            cell.readiness.release();
            out.ready.insert(group);
        }
        Ok(())
    }
}
