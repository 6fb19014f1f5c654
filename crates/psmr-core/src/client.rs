//! The client proxy: numbers commands, gathers them into batches by log, multicasts them, and sends them again until their
//! outcome is known. One proxy is one session; it serves any number of connections, each with an order of its own.
//!
//! Numbers count per group and kind of log. A batch is kept as it was sent until all of it is settled; sending again means
//! sending all kept batches of that log again, in order: groups pass over what they have executed.

use crate::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId, GROUPS_MAX};
use crate::entry::ROUTING_VERSION_FIRST;
use crate::entry::{command_bytes, section_head_bytes, with_origin, BatchBuilder, BatchHead, Numbers, Section};
use crate::execute::reads::ReadBatch;
use crate::routing::Topology;
use crate::service::Replies;
use crate::session::Numbering;
use bytes::Bytes;
use std::collections::VecDeque;

/// Limits of a client proxy. Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct ProxyLimits {
    /// How long a command may wait to be delivered before it is refused, in log time.
    pub expiry_ms: u64,
    /// Without progress in a log for this long, its batches are sent again.
    pub resend_ms: u64,
    /// After sending again, refusals are ignored for this long: most speak of what was sent before.
    pub refusal_holdoff_ms: u64,
    /// Commands that may be outstanding.
    pub commands_max: usize,
    /// Bytes of commands that may be outstanding, gathered or sent.
    pub bytes_max: usize,
    /// Bytes of a batch, unless one command is larger; at most `BATCH_BYTES_MAX`.
    pub batch_bytes: usize,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        ProxyLimits {
            expiry_ms: 60_000,
            resend_ms: 1_000,
            refusal_holdoff_ms: 100,
            commands_max: 1 << 16,
            bytes_max: 32 << 20,
            batch_bytes: 1 << 20,
        }
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The service's reply.
    Reply(&'a [u8]),
    /// It may have been executed or not.
    Unknown,
}

/// The command depends on an outstanding one of its connection that another log orders: offer it again after progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MustWait;

/// What a connection has asked for: dependent commands of one connection take effect in the order of issue.
#[derive(Clone, Debug, Default)]
pub struct ConnectionOrder {
    /// Per group and numbering, the number of the connection's last command.
    last: Vec<[u64; 2]>,
}

impl ConnectionOrder {
    fn of(&self, group: GroupId) -> [u64; 2] {
        self.last.get(group.index()).copied().unwrap_or_default()
    }

    fn set(&mut self, group: GroupId, numbering: Numbering, number: u64) {
        if self.last.len() <= group.index() {
            self.last.resize(group.index() + 1, [0; 2]);
        }
        self.last[group.index()][numbering as usize] = number;
    }
}

#[derive(Debug)]
enum Slot {
    /// Settled out of order, or never to be answered by itself: a group of γ that is not the lowest.
    Done,
    Shared,
    Single(u64),
    /// The token, and the numbers of γ's other groups.
    Multi(u64, Box<[(GroupId, u64)]>),
}

#[derive(Debug, Default)]
struct Lane {
    /// All numbers up to here are settled.
    settled: u64,
    /// The numbers after that.
    slots: VecDeque<Slot>,
}

impl Lane {
    fn next(&self) -> u64 {
        self.settled + self.slots.len() as u64 + 1
    }

    fn take(&mut self, number: u64) -> Option<Slot> {
        let at = number.checked_sub(self.settled + 1)?;
        self.slots.get_mut(at as usize).map(|slot| std::mem::replace(slot, Slot::Done))
    }

    fn advance(&mut self) {
        while matches!(self.slots.front(), Some(Slot::Done)) {
            self.slots.pop_front();
            self.settled += 1;
        }
    }
}

/// So many sections keep their memory for others.
const SPARES_MAX: usize = GROUPS_MAX;

/// Sections of more bytes do not.
const SPARE_BYTES_MAX: usize = 2048;

#[derive(Debug, Default)]
struct Gathered {
    gamma: GroupSet,
    /// The first numbers, per group of γ in ascending order.
    first: Vec<u64>,
    section: Section,
}

#[derive(Debug)]
struct Sent {
    batch: Bytes,
    /// The last number of each section, in the lowest group of its γ.
    lasts: Vec<(GroupId, u64)>,
    expires_ms: u64,
}

#[derive(Debug, Default)]
struct LogQueue {
    /// Batches that are full, and not flushed yet.
    full: Vec<Vec<Gathered>>,
    /// The batch that commands go to.
    gathered: Vec<Gathered>,
    /// How many bytes that batch has.
    gathered_bytes: usize,
    /// Per group, the last gathered section that concerns it.
    last_section: Vec<Option<usize>>,
    /// Memory of sections that were sent.
    spares: Vec<Gathered>,
    sent: VecDeque<Sent>,
    /// When the log last made progress, or was last sent again.
    progress_ms: u64,
    resent_ms: u64,
    resend: bool,
}

/// One session's proxy.
#[derive(Debug)]
pub struct ClientProxy {
    session: SessionId,
    origin: ReplicaId,
    keep_replies: bool,
    topology: Topology,
    limits: ProxyLimits,
    lanes: Vec<[Lane; 2]>,
    logs: Vec<LogQueue>,
    reads: Vec<ReadBatch>,
    commands: usize,
    /// Of the batches that were sent.
    sent_bytes: usize,
    /// Of the batches that are to be flushed.
    gathered_bytes: usize,
    /// The latest time that the proxy was told.
    now_ms: u64,
    /// Memory for the numbers of a command.
    numbers: Vec<(GroupId, u64)>,
}

impl ClientProxy {
    /// A new session, answered at `origin`. `keep_replies`: it may be answered at another replica after a failure.
    pub fn new(
        session: SessionId,
        origin: ReplicaId,
        keep_replies: bool,
        topology: Topology,
        limits: ProxyLimits,
    ) -> ClientProxy {
        ClientProxy {
            session,
            origin,
            keep_replies,
            limits,
            lanes: (0..topology.groups).map(|_| Default::default()).collect(),
            logs: (0..topology.logs()).map(|_| LogQueue::default()).collect(),
            reads: (0..topology.groups).map(|_| ReadBatch::default()).collect(),
            topology,
            commands: 0,
            sent_bytes: 0,
            gathered_bytes: 0,
            now_ms: 0,
            numbers: Vec::new(),
        }
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The tables.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whether no more commands should be offered for now.
    pub fn is_full(&self) -> bool {
        self.commands >= self.limits.commands_max || self.sent_bytes + self.gathered_bytes >= self.limits.bytes_max
    }

    /// How many commands are outstanding.
    pub fn outstanding(&self) -> usize {
        self.commands
    }

    /// Puts a command in line for its log. `token` comes back with its answer. The payload has `COMMAND_BYTES_MAX` bytes at most.
    ///
    /// # Errors
    /// If it depends on an outstanding command of the connection in another log.
    pub fn ordered(
        &mut self,
        connection: &mut ConnectionOrder,
        gamma: GroupSet,
        read: bool,
        payload: &[u8],
        token: u64,
    ) -> Result<(), MustWait> {
        let log = self.topology.log_of(gamma);
        let numbering = self.numbering(log);
        let other = if numbering == Numbering::Stream { Numbering::Cross } else { Numbering::Stream } as usize;
        if gamma.iter().any(|g| connection.of(g)[other] > self.lanes[g.index()][other].settled) {
            return Err(MustWait);
        }
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.clear();
        numbers.extend(gamma.iter().map(|g| (g, self.lanes[g.index()][numbering as usize].next())));
        for (at, (group, number)) in numbers.iter().enumerate() {
            connection.set(*group, numbering, *number);
            let slot = match at {
                0 if numbers.len() == 1 => Slot::Single(token),
                0 => Slot::Multi(token, numbers[1..].into()),
                _ => Slot::Shared,
            };
            self.lanes[group.index()][numbering as usize].slots.push_back(slot);
        }
        self.commands += 1;
        self.gathered_bytes += self.logs[log.index()].gather(gamma, &numbers, payload, read, self.limits.batch_bytes);
        self.numbers = numbers;
        Ok(())
    }

    /// Puts a read of one group in line. `token` comes back with its answer.
    pub fn read(&mut self, connection: &ConnectionOrder, group: GroupId, payload: &[u8], token: u64) {
        let lanes = &self.lanes[group.index()];
        let last = connection.of(group);
        let after = [0, 1].map(|n| if last[n] > lanes[n].settled { last[n] } else { 0 });
        let before = [lanes[0].next(), lanes[1].next()];
        self.reads[group.index()].push(token, after, before, payload);
    }

    /// Takes the reads that are in line. They go to their groups before any batch of `flush` goes out.
    pub fn flush_reads(&mut self, wall_ms: u64, mut each: impl FnMut(GroupId, ReadBatch)) {
        let successors_expire_ms = self.now_ms + self.limits.expiry_ms;
        for (at, batch) in self.reads.iter_mut().enumerate().filter(|(_, batch)| !batch.items.is_empty()) {
            let mut batch = std::mem::take(batch);
            batch.session = self.session;
            batch.wall_ms = wall_ms;
            batch.successors_expire_ms = successors_expire_ms;
            each(GroupId(at as u8), batch);
        }
    }

    /// Takes the batches to send: new ones, and old ones that have to be sent again.
    pub fn flush(&mut self, now_ms: u64, mut each: impl FnMut(LogId, Bytes)) {
        self.now_ms = self.now_ms.max(now_ms);
        for at in 0..self.logs.len() {
            let log = LogId(at as u8);
            if self.logs[at].resend {
                self.logs[at].resend = false;
                self.logs[at].resent_ms = now_ms;
                self.logs[at].progress_ms = now_ms;
                self.logs[at].sent.iter().for_each(|sent| each(log, sent.batch.clone()));
            }
            for full in std::mem::take(&mut self.logs[at].full) {
                self.send(log, full, now_ms, &mut each);
            }
            let gathered = self.logs[at].take_gathered();
            if !gathered.is_empty() {
                self.send(log, gathered, now_ms, &mut each);
            }
        }
        self.gathered_bytes = 0;
    }

    /// Sends a batch of what was gathered.
    fn send(&mut self, log: LogId, gathered: Vec<Gathered>, now_ms: u64, each: &mut impl FnMut(LogId, Bytes)) {
        let sent = self.build(log, &gathered, now_ms);
        self.sent_bytes += sent.batch.len();
        each(log, sent.batch.clone());
        let queue = &mut self.logs[log.index()];
        if queue.sent.is_empty() {
            queue.progress_ms = now_ms;
        }
        queue.sent.push_back(sent);
        queue.recycle(gathered);
    }

    fn build(&self, log: LogId, gathered: &[Gathered], now_ms: u64) -> Sent {
        let numbering = self.numbering(log) as usize;
        let expires_ms = self.now_ms.max(now_ms) + self.limits.expiry_ms;
        let head = BatchHead {
            session: self.session,
            origin: self.origin,
            keep_replies: self.keep_replies,
            routing_version: ROUTING_VERSION_FIRST,
            expires_ms,
        };
        let bytes = gathered.iter().map(|gathered| section_head_bytes(gathered.gamma) + gathered.section.weight()).sum();
        let mut builder = BatchBuilder::with_capacity(&head, bytes);
        let mut lasts = Vec::with_capacity(gathered.len());
        for gathered in gathered {
            let lanes = &self.lanes;
            let numbers = gathered
                .gamma
                .iter()
                .zip(&gathered.first)
                .map(|(group, first)| Numbers { first: *first, acknowledged: lanes[group.index()][numbering].settled });
            let lowest = gathered.gamma.lowest().unwrap_or(GroupId(0));
            lasts.push((lowest, gathered.first[0] + u64::from(gathered.section.count) - 1));
            if gathered.gamma.len() == 1 {
                numbers.for_each(|n| builder.single(lowest, n, &gathered.section));
            } else {
                builder.multi(gathered.gamma, numbers, &gathered.section);
            }
        }
        Sent { batch: builder.finish(), lasts, expires_ms }
    }

    fn numbering(&self, log: LogId) -> Numbering {
        if log == self.topology.cross() {
            Numbering::Cross
        } else {
            Numbering::Stream
        }
    }

    /// Replies to consecutive commands, as a group gave them; replies that are known already are passed over.
    pub fn on_replies(
        &mut self,
        group: GroupId,
        numbering: Numbering,
        first: u64,
        replies: &Replies,
        mut answer: impl FnMut(u64, Answer<'_>),
    ) {
        for (number, reply) in (first..).zip(replies.iter()) {
            if let Some(token) = self.settle(group, numbering, number) {
                answer(token, Answer::Reply(reply));
            }
        }
        self.forget_settled(group, numbering);
    }

    /// Numbers up to `last` are settled, and nobody knows the replies to those that have not been answered.
    pub fn on_settled(&mut self, group: GroupId, numbering: Numbering, last: u64, mut answer: impl FnMut(u64, Answer<'_>)) {
        let first = self.lanes[group.index()][numbering as usize].settled + 1;
        for number in first..=last {
            if let Some(token) = self.settle(group, numbering, number) {
                answer(token, Answer::Unknown);
            }
        }
        self.forget_settled(group, numbering);
    }

    fn settle(&mut self, group: GroupId, numbering: Numbering, number: u64) -> Option<u64> {
        let lane = &mut self.lanes[group.index()][numbering as usize];
        match lane.take(number)? {
            Slot::Done => None,
            Slot::Shared => {
                // Its outcome comes with the lowest group's number.
                lane.slots[(number - lane.settled - 1) as usize] = Slot::Shared;
                None
            }
            Slot::Single(token) => {
                self.commands -= 1;
                Some(token)
            }
            Slot::Multi(token, others) => {
                self.commands -= 1;
                for (other, number) in &others {
                    let lane = &mut self.lanes[other.index()][numbering as usize];
                    lane.take(*number);
                    lane.advance();
                }
                Some(token)
            }
        }
    }

    /// Lets go of batches of which all is settled.
    fn forget_settled(&mut self, group: GroupId, numbering: Numbering) {
        self.lanes[group.index()][numbering as usize].advance();
        let log = match numbering {
            Numbering::Stream => self.topology.stream_of(group),
            Numbering::Cross => self.topology.cross(),
        };
        let lanes = &self.lanes;
        let queue = &mut self.logs[log.index()];
        let is_settled = |sent: &Sent| sent.lasts.iter().all(|(g, last)| lanes[g.index()][numbering as usize].settled >= *last);
        while queue.sent.front().is_some_and(is_settled) {
            if let Some(sent) = queue.sent.pop_front() {
                self.sent_bytes -= sent.batch.len();
                queue.progress_ms = 0;
            }
        }
    }

    /// A group refused commands because a predecessor is missing.
    pub fn on_refused(&mut self, group: GroupId, numbering: Numbering, now_ms: u64) {
        let log = match numbering {
            Numbering::Stream => self.topology.stream_of(group),
            Numbering::Cross => self.topology.cross(),
        };
        let queue = &mut self.logs[log.index()];
        if now_ms >= queue.resent_ms + self.limits.refusal_holdoff_ms {
            queue.resend = true;
        }
    }

    /// Another replica leads `log`: what was sent to the one before may be lost.
    pub fn on_leader_change(&mut self, log: LogId) {
        self.logs[log.index()].resend = true;
    }

    /// From now on the session is answered at `origin`; everything outstanding is sent again.
    pub fn on_new_origin(&mut self, origin: ReplicaId) {
        self.origin = origin;
        for queue in &mut self.logs {
            queue.resend = true;
            queue.sent.iter_mut().for_each(|sent| sent.batch = with_origin(&sent.batch, origin));
        }
    }

    /// Looks at the clock, some times per second: sends again what makes no progress, gives up what has expired long ago.
    pub fn on_clock(&mut self, now_ms: u64, mut answer: impl FnMut(u64, Answer<'_>)) {
        self.now_ms = self.now_ms.max(now_ms);
        for at in 0..self.logs.len() {
            let queue = &mut self.logs[at];
            if queue.progress_ms == 0 {
                queue.progress_ms = now_ms;
            }
            if !queue.sent.is_empty() && now_ms >= queue.progress_ms + self.limits.resend_ms {
                queue.resend = true;
            }
            let numbering = if at == self.topology.streams { Numbering::Cross } else { Numbering::Stream };
            while let Some(sent) = self.logs[at].sent.front() {
                if now_ms <= sent.expires_ms + self.limits.expiry_ms / 4 {
                    break;
                }
                let before = self.logs[at].sent.len();
                for (group, last) in sent.lasts.clone() {
                    self.on_settled(group, numbering, last, &mut answer);
                }
                if self.logs[at].sent.len() == before {
                    break;
                }
            }
        }
    }
}

impl LogQueue {
    fn take_gathered(&mut self) -> Vec<Gathered> {
        self.gathered_bytes = 0;
        self.last_section.clear();
        std::mem::take(&mut self.gathered)
    }

    /// Keeps the memory of sections for others, if it is not much.
    fn recycle(&mut self, mut sections: Vec<Gathered>) {
        for mut gathered in sections.drain(..).filter(|gathered| gathered.section.weight() <= SPARE_BYTES_MAX) {
            if self.spares.len() == SPARES_MAX {
                break;
            }
            gathered.first.clear();
            gathered.section.clear();
            self.spares.push(gathered);
        }
        if self.gathered.is_empty() {
            self.gathered = sections;
        }
    }

    /// Adds a command to the batch, or to the next one if this one would get too large. Returns how many bytes that adds.
    fn gather(&mut self, gamma: GroupSet, numbers: &[(GroupId, u64)], payload: &[u8], read: bool, batch_bytes: usize) -> usize {
        let (head_bytes, command_bytes) = (section_head_bytes(gamma), command_bytes(payload));
        if self.gathered_bytes + head_bytes + command_bytes > batch_bytes && !self.gathered.is_empty() {
            let full = self.take_gathered();
            self.full.push(full);
        }
        let bytes_before = self.gathered_bytes;
        let last_of = |group: GroupId| self.last_section.get(group.index()).copied().flatten();
        let last = last_of(numbers[0].0).filter(|at| self.gathered[*at].gamma == gamma);
        let at = match last {
            Some(at) if numbers.iter().all(|(group, _)| last_of(*group) == Some(at)) => at,
            _ => {
                let mut gathered = self.spares.pop().unwrap_or_default();
                gathered.gamma = gamma;
                gathered.first.extend(numbers.iter().map(|(_, number)| *number));
                self.gathered.push(gathered);
                self.gathered_bytes += head_bytes;
                self.gathered.len() - 1
            }
        };
        self.gathered[at].section.push(payload, read);
        self.gathered_bytes += command_bytes;
        for (group, _) in numbers {
            if self.last_section.len() <= group.index() {
                self.last_section.resize(group.index() + 1, None);
            }
            self.last_section[group.index()] = Some(at);
        }
        self.gathered_bytes - bytes_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BATCH_BYTES_MAX, COMMAND_BYTES_MAX, ENTRY_BYTES_MAX};
    use crate::entry::{decode_batch, encode_batches, Entry, Item, BATCH_HEAD_BYTES, ENTRY_HEAD_BYTES};

    fn proxy() -> ClientProxy {
        ClientProxy::new(SessionId(1), 1, false, Topology::new(4, 2), ProxyLimits::default())
    }

    fn replies(count: usize) -> Replies {
        let mut replies = Replies::default();
        (0..count).for_each(|_| replies.push(b"+"));
        replies
    }

    fn gamma(groups: &[u8]) -> GroupSet {
        groups.iter().map(|g| GroupId(*g)).collect()
    }

    #[test]
    fn a_command_waits_for_its_connections_predecessor_in_another_log() {
        let (mut proxy, mut a, mut b) = (proxy(), ConnectionOrder::default(), ConnectionOrder::default());
        proxy.ordered(&mut a, gamma(&[0]), false, b"x", 1).unwrap();
        assert_eq!(proxy.ordered(&mut a, gamma(&[0, 1]), false, b"y", 2), Err(MustWait));
        proxy.ordered(&mut b, gamma(&[0, 1]), false, b"y", 3).unwrap();
        let mut answered = vec![];
        proxy.on_replies(GroupId(0), Numbering::Stream, 1, &replies(1), |token, _| answered.push(token));
        proxy.ordered(&mut a, gamma(&[0, 1]), false, b"y", 2).unwrap();
        assert_eq!(answered, [1]);
    }

    #[test]
    fn a_batch_is_sent_again_until_it_is_settled() {
        let (mut proxy, mut a) = (proxy(), ConnectionOrder::default());
        proxy.ordered(&mut a, gamma(&[0]), false, b"x", 1).unwrap();
        proxy.ordered(&mut a, gamma(&[0, 2]), false, b"y", 2).unwrap();
        proxy.ordered(&mut a, gamma(&[2]), false, b"z", 3).unwrap();
        let mut first = vec![];
        proxy.flush(1, |log, batch| first.push((log, batch)));
        assert_eq!(first.len(), 1);
        proxy.on_leader_change(LogId(0));
        let mut again = vec![];
        proxy.flush(2, |log, batch| again.push((log, batch)));
        assert_eq!(first, again);
        let mut tokens = vec![];
        proxy.on_replies(GroupId(0), Numbering::Stream, 1, &replies(2), |token, _| tokens.push(token));
        proxy.on_settled(GroupId(2), Numbering::Stream, 2, |token, answer| {
            assert_eq!(answer, Answer::Unknown);
            tokens.push(token);
        });
        assert_eq!((tokens, proxy.outstanding(), proxy.sent_bytes), (vec![1, 2, 3], 0, 0));
        proxy.on_leader_change(LogId(0));
        proxy.flush(3, |_, _| panic!("nothing is outstanding"));
    }

    #[test]
    fn after_a_failure_the_new_origin_answers_what_was_sent_before() {
        let (mut proxy, mut a) = (proxy(), ConnectionOrder::default());
        proxy.ordered(&mut a, gamma(&[0]), false, b"x", 1).unwrap();
        let origins = |proxy: &mut ClientProxy| {
            let mut origins = vec![];
            proxy.flush(1, |log, batch| {
                let bytes = encode_batches([batch].iter(), 1, 0, GroupSet::EMPTY);
                let entry = Entry::decode(log, 1, gamma(&[0, 2]), &bytes).unwrap();
                origins.extend(entry.heads.iter().map(|head| head.origin));
            });
            origins
        };
        assert_eq!(origins(&mut proxy), [1]);
        proxy.on_new_origin(3);
        proxy.ordered(&mut a, gamma(&[0]), false, b"y", 2).unwrap();
        assert_eq!(origins(&mut proxy), [3, 3]);
    }

    #[test]
    fn sections_keep_the_order_within_each_group() {
        let (mut proxy, mut a) = (proxy(), ConnectionOrder::default());
        for (token, groups) in [&[0][..], &[0], &[0, 2], &[0, 2], &[2], &[0]].into_iter().enumerate() {
            proxy.ordered(&mut a, gamma(groups), false, b"x", token as u64).unwrap();
        }
        proxy.flush(1, |log, batch| {
            let bytes = encode_batches([batch].iter(), 1, 0, GroupSet::EMPTY);
            let entry = Entry::decode(log, 1, gamma(&[0, 2]), &bytes).unwrap();
            let Some(Item::Run(run)) = entry.item(GroupId(0), 0) else { panic!() };
            assert_eq!((run.count, run.numbers.first), (2, 1));
            assert_eq!((entry.barriers.len(), entry.barriers[0].count), (1, 2));
            let Some(Item::Run(run)) = entry.item(GroupId(0), 2) else { panic!() };
            assert_eq!((run.count, run.numbers.first), (1, 5));
            let Some(Item::Run(run)) = entry.item(GroupId(2), 1) else { panic!() };
            assert_eq!((run.count, run.numbers.first), (1, 3));
        });
    }

    fn small_proxy(bytes_max: usize, batch_bytes: usize) -> ClientProxy {
        let limits = ProxyLimits { bytes_max, batch_bytes, ..ProxyLimits::default() };
        ClientProxy::new(SessionId(1), 1, false, Topology::new(4, 2), limits)
    }

    #[test]
    fn a_flush_makes_several_batches_that_keep_the_order_and_the_limit() {
        let (mut proxy, mut a) = (small_proxy(1 << 20, 1_000), ConnectionOrder::default());
        let commands = 100u64;
        for token in 0..commands {
            let groups: &[u8] = [&[0][..], &[0, 2], &[2]][token as usize % 7 % 3];
            let payload = vec![0; if token == 50 { 5_000 } else { token as usize }];
            proxy.ordered(&mut a, gamma(groups), false, &payload, token).unwrap();
        }
        let gathered_bytes = proxy.gathered_bytes;
        let (mut batches, mut next) = (vec![], [1, 0, 1, 0]);
        proxy.flush(1, |log, batch| {
            let entry = decode_batch(gamma(&[0, 2]), log, &batch).unwrap();
            let mut count = |group: GroupId, first: u64, commands: u32| {
                assert_eq!(first, next[group.index()], "{group:?}");
                next[group.index()] += u64::from(commands);
            };
            for group in [GroupId(0), GroupId(2)] {
                for item in (0..).map_while(|at| entry.item(group, at)) {
                    match item {
                        Item::Run(run) => count(group, run.numbers.first, run.count),
                        Item::Barrier(barrier) => {
                            count(group, barrier.numbers_of(group).first, barrier.count);
                        }
                    }
                }
            }
            batches.push(batch.len());
        });
        let head_bytes = BATCH_HEAD_BYTES;
        assert_eq!(batches.iter().sum::<usize>(), gathered_bytes + batches.len() * head_bytes);
        assert_eq!((proxy.gathered_bytes, proxy.sent_bytes), (0, batches.iter().sum()));
        let large: Vec<&usize> = batches.iter().filter(|bytes| **bytes > 1_000 + head_bytes).collect();
        assert_eq!(large, [&(5_000 + head_bytes + section_head_bytes(gamma(&[0, 2])) + 4)], "alone in its batch");
        assert!(batches.len() > 5);
        assert_eq!(next[0] + next[2] - 2, (0..commands).map(|t| [1, 2, 1][t as usize % 7 % 3]).sum::<u64>());
    }

    #[test]
    fn the_longest_command_of_all_groups_fits_a_batch() {
        let groups = GROUPS_MAX;
        let limits = ProxyLimits::default();
        let mut proxy = ClientProxy::new(SessionId(1), 1, true, Topology::new(groups, groups), limits);
        proxy.ordered(&mut ConnectionOrder::default(), GroupSet::all(groups), false, &vec![0; COMMAND_BYTES_MAX], 1).unwrap();
        let mut batches = vec![];
        proxy.flush(1, |log, batch| batches.push((log, batch)));
        let [(log, batch)] = &batches[..] else { panic!("{} batches", batches.len()) };
        assert!(decode_batch(GroupSet::all(groups), *log, batch).is_ok());
        assert!(ENTRY_HEAD_BYTES + batch.len() <= ENTRY_BYTES_MAX);
        let longer = Bytes::from(vec![0; BATCH_BYTES_MAX + 1]);
        assert!(decode_batch(GroupSet::all(groups), *log, &longer).unwrap_err().what.contains("over the limit"));
    }

    #[test]
    fn a_proxy_is_full_before_it_is_flushed() {
        let (mut proxy, mut a) = (small_proxy(1_000, 300), ConnectionOrder::default());
        let mut token = 0;
        while !proxy.is_full() {
            proxy.ordered(&mut a, gamma(&[0]), false, &[0; 100], token).unwrap();
            token += 1;
        }
        assert_eq!(token, 9);
        let mut batches = 0;
        proxy.flush(1, |_, _| batches += 1);
        assert!(batches > 1 && proxy.is_full());
        proxy.on_replies(GroupId(0), Numbering::Stream, 1, &replies(9), |_, _| ());
        assert!(!proxy.is_full());
        assert_eq!((proxy.sent_bytes, proxy.gathered_bytes), (0, 0));
    }

    #[test]
    fn replies_may_come_out_of_order() {
        let (mut proxy, mut a) = (proxy(), ConnectionOrder::default());
        for token in 1..=4 {
            proxy.ordered(&mut a, gamma(&[1]), false, b"x", token).unwrap();
        }
        let mut tokens = vec![];
        proxy.on_replies(GroupId(1), Numbering::Stream, 3, &replies(2), |token, _| tokens.push(token));
        proxy.on_replies(GroupId(1), Numbering::Stream, 1, &replies(2), |token, _| tokens.push(token));
        assert_eq!((tokens, proxy.lanes[1][0].settled), (vec![3, 4, 1, 2], 4));
    }
}
