//! Reads that wait in a group. A read is answered when its read-index round is done and the group has delivered that index,
//! after its own connection's predecessors, and before its own connection's successors.
//!
//! The last rule needs no waiting by the client proxy: a read that is still here when a successor of its connection is about
//! to execute is answered first. That is linearizable without its round: the successor was appended after the read was
//! issued, so everything that had completed by then comes before the successor in the group's order, and has executed.

use crate::command::SessionId;
use crate::session::{Numbering, SessionTable};

/// One read.
#[derive(Clone, Copy, Debug)]
pub struct ReadItem {
    /// Comes back with the reply.
    pub token: u64,
    /// Numbers of the connection's last commands in this group, per numbering: they come first. 0: none is outstanding.
    pub after: [u64; 2],
    /// The session's next numbers in this group, per numbering: the connection's later commands have these or higher ones.
    pub before: [u64; 2],
    /// Where the payload ends in the batch's bytes; it starts where the one before ends.
    pub end: u32,
}

/// Reads that came together from one session to one group.
#[derive(Clone, Debug, Default)]
pub struct ReadBatch {
    /// Whose they are.
    pub session: SessionId,
    /// The read-index round that they wait for (`ReadRounds::ticket` when they came).
    pub round: u64,
    /// The wall clock when they came.
    pub wall_ms: u64,
    /// Commands of the session that come after these reads expire at this log time at the earliest; 0 if that is not known.
    pub successors_expire_ms: u64,
    /// In order of issue.
    pub items: Vec<ReadItem>,
    /// Their payloads.
    pub bytes: Vec<u8>,
}

impl ReadBatch {
    /// Adds a read.
    pub fn push(&mut self, token: u64, after: [u64; 2], before: [u64; 2], payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.items.push(ReadItem { token, after, before, end: self.bytes.len() as u32 });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// It needs a time mark.
    NeedsTime,
    /// There was no room for its reply.
    Held,
    Done,
}

#[derive(Debug)]
struct Pending {
    batch: ReadBatch,
    /// What the first round that serves the batch gave: the group has to have delivered up to here. Later rounds give
    /// higher indices, which a group under load might never catch up with.
    index: Option<u64>,
    states: Vec<State>,
    left: usize,
}

impl Pending {
    fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.batch.items.iter().map(move |item| {
            let payload = &self.batch.bytes[start..item.end as usize];
            start = item.end as usize;
            payload
        })
    }
}

/// What makes a read due.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// The group has delivered its stream up to here.
    Delivered(u64),
    /// A command of `session` with this number is about to execute.
    Successor(SessionId, Numbering, u64),
    /// The group's clock has been brought forward.
    Time,
}

/// All reads that wait in a group.
#[derive(Debug, Default)]
pub struct PendingReads {
    batches: Vec<Pending>,
}

/// One due read.
pub struct Asked<'a> {
    /// It has the session and the clock.
    pub batch: &'a ReadBatch,
    /// Which of the batch's.
    pub item: &'a ReadItem,
    /// What is asked.
    pub payload: &'a [u8],
    /// The group's clock has what the answer depends on.
    pub time_is_settled: bool,
    /// A successor of its connection may be about to execute.
    pub is_last_moment: bool,
    /// One like it was held: whether there is room again is to be asked first.
    pub may_lack_room: bool,
}

/// What became of a due read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Its reply is there.
    Done,
    /// It has to wait for a time mark.
    NeedsTime,
    /// There is no room for its reply.
    Held,
}

/// Answers one due read.
pub type Answer<'a> = dyn FnMut(&Asked<'_>) -> Answered + 'a;

impl PendingReads {
    /// Adds a batch.
    pub fn push(&mut self, batch: ReadBatch) {
        let left = batch.items.len();
        self.batches.push(Pending { states: vec![State::Waiting; left], left, index: None, batch });
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes out the reads that have waited since before `wall_ms`, unless it is for their client to take other replies first.
    pub fn take_overdue(&mut self, wall_ms: u64) -> Vec<(SessionId, u64)> {
        let is_overdue = |batch: &ReadBatch| batch.wall_ms < wall_ms;
        self.take_some(|batch, _, state| state != State::Held && is_overdue(batch))
    }

    fn take(&mut self, mut is_lost: impl FnMut(&ReadBatch, &ReadItem) -> bool) -> Vec<(SessionId, u64)> {
        self.take_some(|batch, item, _| is_lost(batch, item))
    }

    fn take_some(&mut self, mut is_lost: impl FnMut(&ReadBatch, &ReadItem, State) -> bool) -> Vec<(SessionId, u64)> {
        let mut tokens = Vec::new();
        for Pending { batch, states, left, .. } in &mut self.batches {
            for (item, state) in batch.items.iter().zip(states) {
                if *state != State::Done && is_lost(batch, item, *state) {
                    *state = State::Done;
                    *left -= 1;
                    tokens.push((batch.session, item.token));
                }
            }
        }
        self.batches.retain(|pending| pending.left > 0);
        tokens
    }

    /// Takes out the reads whose connection's later commands may have executed already (in a state that came from a peer):
    /// they cannot be answered any more. A session that is not known (any more) at log time `clock_ms` has executed no later
    /// command, unless such commands may have expired by then.
    pub fn take_overtaken(&mut self, sessions: &SessionTable, clock_ms: u64) -> Vec<(SessionId, u64)> {
        let settled = |batch: &ReadBatch, n| sessions.settled(batch.session, n);
        self.take(|batch, item| {
            let may_be_forgotten = !sessions.knows(batch.session) && clock_ms > batch.successors_expire_ms;
            may_be_forgotten
                || settled(batch, Numbering::Stream) >= item.before[0]
                || settled(batch, Numbering::Cross) >= item.before[1]
        })
    }

    /// Numbers up to `last` are over without execution: given up by the client proxy, or expired. The reads of `session` that
    /// waited for them wait no more. Takes out those which are too late, because a later command of the session, perhaps of
    /// the same connection, has executed.
    pub fn take_orphaned(
        &mut self,
        session: SessionId,
        numbering: Numbering,
        last: u64,
        sessions: &SessionTable,
    ) -> Vec<(SessionId, u64)> {
        let settled = [Numbering::Stream, Numbering::Cross].map(|n| sessions.settled(session, n));
        let over = settled[numbering as usize] + 1..=last;
        let is_orphan =
            |batch: &ReadBatch, item: &ReadItem| batch.session == session && over.contains(&item.after[numbering as usize]);
        let lost = self.take(|batch, item| {
            is_orphan(batch, item) && settled.iter().zip(item.before).any(|(settled, before)| *settled >= before)
        });
        for Pending { batch, .. } in &mut self.batches {
            for at in 0..batch.items.len() {
                if is_orphan(batch, &batch.items[at]) {
                    batch.items[at].after[numbering as usize] = 0;
                }
            }
        }
        lost
    }

    /// The sessions' records are about to be forgotten: notes which predecessors are settled, and which successors.
    pub fn note_settled(&mut self, sessions: &SessionTable) {
        for Pending { batch, .. } in &mut self.batches {
            let settled = [Numbering::Stream, Numbering::Cross].map(|n| sessions.settled(batch.session, n));
            for item in &mut batch.items {
                for number in item.after.iter_mut().zip(settled).chain(item.before.iter_mut().zip(settled)) {
                    if *number.0 <= number.1 {
                        *number.0 = 0;
                    }
                }
            }
        }
    }

    /// Answers what is due.
    pub fn serve(&mut self, due: Due, sessions: &SessionTable, answer: &mut Answer<'_>) {
        if self.batches.is_empty() {
            return;
        }
        let mut may_lack_room = false;
        for pending in &mut self.batches {
            pending.serve(due, sessions, &mut may_lack_room, answer);
        }
        self.batches.retain(|pending| pending.left > 0);
    }

    /// The lowest number above `number` at which a read of `session` becomes due as a predecessor.
    pub fn next_boundary(&self, session: SessionId, numbering: Numbering, number: u64) -> Option<u64> {
        let of_session = self.batches.iter().filter(|p| p.batch.session == session);
        let open = of_session.flat_map(|p| p.batch.items.iter().zip(&p.states)).filter(|(_, state)| **state != State::Done);
        open.map(|(item, _)| item.before[numbering as usize]).filter(|before| *before > number).min()
    }

    /// Rounds up to `round` are done, and `index` serves them: the reads that waited for them now wait for the index.
    pub fn note_round(&mut self, round: u64, index: u64) {
        for pending in self.batches.iter_mut().filter(|pending| pending.batch.round <= round) {
            pending.index.get_or_insert(index);
        }
    }

    /// The payloads of all that waits.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.batches.iter().flat_map(Pending::payloads)
    }

    /// The payloads of the batches whose rounds are done.
    pub fn payloads_due(&self) -> impl Iterator<Item = &[u8]> {
        self.batches.iter().filter(|pending| pending.index.is_some()).flat_map(Pending::payloads)
    }

    /// Whether a read waits for a time mark.
    pub fn needs_time(&self) -> bool {
        self.batches.iter().any(|p| p.states.contains(&State::NeedsTime))
    }
}

impl Pending {
    /// `may_lack_room`: a read before these was held.
    fn serve(&mut self, due: Due, sessions: &SessionTable, may_lack_room: &mut bool, answer: &mut Answer<'_>) {
        let settled = [Numbering::Stream, Numbering::Cross].map(|n| sessions.settled(self.batch.session, n));
        let mut start = 0;
        for (item, state) in self.batch.items.iter().zip(&mut self.states) {
            let payload = start as usize..item.end as usize;
            start = item.end;
            let follows = item.after[0] <= settled[0] && item.after[1] <= settled[1];
            let is_due = match (due, *state) {
                (_, State::Done) => false,
                (Due::Delivered(delivered), State::Waiting | State::Held) => {
                    follows && self.index.is_some_and(|index| index <= delivered)
                }
                (Due::Successor(session, numbering, number), _) => {
                    follows && session == self.batch.session && item.before[numbering as usize] <= number
                }
                (Due::Time, State::NeedsTime) => true,
                _ => false,
            };
            if !is_due {
                continue;
            }
            *may_lack_room |= *state == State::Held;
            let asked = Asked {
                batch: &self.batch,
                item,
                payload: &self.batch.bytes[payload],
                time_is_settled: !matches!(due, Due::Delivered(_)),
                is_last_moment: matches!(due, Due::Successor(..)),
                may_lack_room: *may_lack_room,
            };
            *state = match answer(&asked) {
                Answered::Done => State::Done,
                Answered::NeedsTime => State::NeedsTime,
                Answered::Held => State::Held,
            };
            self.left -= usize::from(*state == State::Done);
            *may_lack_room |= *state == State::Held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(tokens: std::ops::Range<u64>) -> ReadBatch {
        let mut batch = ReadBatch { session: SessionId(1), wall_ms: 10, ..ReadBatch::default() };
        tokens.for_each(|token| batch.push(token, [0, 0], [1, 1], b"?"));
        batch
    }

    /// Serves what is due, as long as there is room for `room` replies; what was answered, and how many were asked for it.
    fn serve(reads: &mut PendingReads, due: Due, mut room: usize) -> (Vec<u64>, usize) {
        let (mut answered, mut tried) = (Vec::new(), 0);
        reads.serve(due, &SessionTable::default(), &mut |asked| {
            if asked.may_lack_room && !asked.is_last_moment && room == 0 {
                return Answered::Held;
            }
            tried += 1;
            if room == 0 && !asked.is_last_moment {
                return Answered::Held;
            }
            room = room.saturating_sub(1);
            answered.push(asked.item.token);
            Answered::Done
        });
        (answered, tried)
    }

    #[test]
    fn a_read_without_room_is_held_until_there_is_some_or_its_connection_goes_on() {
        let mut reads = PendingReads::default();
        reads.push(batch(0..4));
        reads.push(batch(4..6));
        reads.note_round(0, 3);
        assert_eq!(serve(&mut reads, Due::Delivered(2), 9), (vec![], 0), "the index has not been delivered");
        assert_eq!(serve(&mut reads, Due::Delivered(3), 2), (vec![0, 1], 3), "the others are not tried");
        assert_eq!(serve(&mut reads, Due::Delivered(3), 0), (vec![], 0));
        assert_eq!(reads.take_overdue(11), [], "it is for the client to take replies");
        assert_eq!(serve(&mut reads, Due::Delivered(3), 1), (vec![2], 1));
        assert_eq!(serve(&mut reads, Due::Successor(SessionId(1), Numbering::Stream, 1), 0), (vec![3, 4, 5], 3));
        assert!(reads.is_empty());
    }
}
