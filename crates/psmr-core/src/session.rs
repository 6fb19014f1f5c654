//! Exactly-once: per session, group and kind of log, the last number that was settled, and replies that the client has not
//! acknowledged. Deterministic: replicas that delivered the same commands have equal tables.
//!
//! A command carries an expiry in log time. A session's record goes when the group's clock has passed the last expiry that it
//! saw: whatever could still be delivered for it is refused as expired. So nobody registers, and tables stay bounded.

use crate::command::SessionId;
use crate::entry::Numbers;
use crate::wire::{Malformed, Reader, Write};
use std::collections::{BTreeMap, VecDeque};

/// How often, in log time, a group looks for records to drop.
const SWEEP_INTERVAL_MS: u64 = 1_000;

/// Which of a session's two numberings in a group: its stream's, or the cross log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Numbering {
    /// Commands that the group's stream orders.
    Stream = 0,
    /// Commands that the cross log orders.
    Cross = 1,
}

/// What is to be done with commands that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Execute all but the first `settled`, which have been settled before.
    Execute {
        /// How many were settled before (0 for the usual case).
        settled: u64,
    },
    /// All were settled before.
    Settled,
    /// A predecessor is missing: refuse, so that the client proxy sends again from this number.
    Gap {
        /// The number that has to come next.
        expected: u64,
    },
    /// Their time is over: refuse, and count them as settled.
    Expired,
}

#[derive(Debug, Default, Clone)]
struct Lane {
    settled: u64,
    /// (number, reply), ascending.
    replies: VecDeque<(u64, Box<[u8]>)>,
}

#[derive(Debug, Default, Clone)]
struct Record {
    expires_ms: u64,
    lanes: [Lane; 2],
}

/// The sessions that a group knows.
#[derive(Debug, Default)]
pub struct SessionTable {
    records: BTreeMap<SessionId, Record>,
    swept_ms: u64,
}

impl SessionTable {
    /// Judges `count` commands that arrive with `numbers`, at the group's clock.
    pub fn judge(
        &self,
        session: SessionId,
        numbering: Numbering,
        numbers: Numbers,
        count: u64,
        expires_ms: u64,
        now_ms: u64,
    ) -> Verdict {
        let settled = self.settled(session, numbering).max(numbers.acknowledged);
        let last = numbers.first + count - 1;
        if last <= settled {
            Verdict::Settled
        } else if expires_ms < now_ms {
            Verdict::Expired
        } else if numbers.first > settled + 1 {
            Verdict::Gap { expected: settled + 1 }
        } else {
            Verdict::Execute { settled: settled + 1 - numbers.first }
        }
    }

    /// Counts all numbers up to `last` as settled, and forgets replies that the client has acknowledged.
    pub fn settle(&mut self, session: SessionId, numbering: Numbering, last: u64, acknowledged: u64, expires_ms: u64) {
        let record = self.records.entry(session).or_default();
        record.expires_ms = record.expires_ms.max(expires_ms);
        let lane = &mut record.lanes[numbering as usize];
        lane.settled = lane.settled.max(last);
        while lane.replies.front().is_some_and(|(number, _)| *number <= acknowledged) {
            lane.replies.pop_front();
        }
    }

    /// Keeps the reply to `number`, which is settled, until it is acknowledged.
    pub fn keep_reply(&mut self, session: SessionId, numbering: Numbering, number: u64, reply: &[u8]) {
        if let Some(record) = self.records.get_mut(&session) {
            record.lanes[numbering as usize].replies.push_back((number, reply.into()));
        }
    }

    /// The kept reply to `number`.
    pub fn reply(&self, session: SessionId, numbering: Numbering, number: u64) -> Option<&[u8]> {
        let replies = &self.records.get(&session)?.lanes[numbering as usize].replies;
        let at = replies.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(&replies[at].1)
    }

    /// The highest number that is settled here; 0 if none, or if the session is not known (any more).
    pub fn settled(&self, session: SessionId, numbering: Numbering) -> u64 {
        self.records.get(&session).map_or(0, |r| r.lanes[numbering as usize].settled)
    }

    /// Whether anything is known of the session.
    pub fn knows(&self, session: SessionId) -> bool {
        self.records.contains_key(&session)
    }

    /// Whether `sweep` is about to drop records whose time is over.
    pub fn is_sweep_due(&self, now_ms: u64) -> bool {
        now_ms >= self.swept_ms + SWEEP_INTERVAL_MS
    }

    /// Drops the records whose time is over, at intervals of log time.
    pub fn sweep(&mut self, now_ms: u64) {
        if self.is_sweep_due(now_ms) {
            self.swept_ms = now_ms;
            self.records.retain(|_, record| record.expires_ms >= now_ms);
        }
    }

    /// How many sessions are known.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no session is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Writes the table; equal tables, equal bytes.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        out.u64(self.swept_ms);
        out.u32(self.records.len() as u32);
        for (session, record) in &self.records {
            out.u64(session.0);
            out.u64(record.expires_ms);
            for lane in &record.lanes {
                out.u64(lane.settled);
                out.u32(lane.replies.len() as u32);
                for (number, reply) in &lane.replies {
                    out.u64(*number);
                    out.blob(reply);
                }
            }
        }
    }

    /// Reads what `snapshot` wrote.
    ///
    /// # Errors
    /// If it is no such table.
    pub fn restore(reader: &mut Reader) -> Result<SessionTable, Malformed> {
        let mut table = SessionTable { swept_ms: reader.u64("sweep time")?, ..SessionTable::default() };
        for _ in 0..reader.u32("session count")? {
            let session = SessionId(reader.u64("session")?);
            let mut record = Record { expires_ms: reader.u64("session expiry")?, ..Record::default() };
            for lane in &mut record.lanes {
                lane.settled = reader.u64("settled number")?;
                for _ in 0..reader.u32("reply count")? {
                    let number = reader.u64("reply number")?;
                    lane.replies.push_back((number, reader.blob("reply")?.as_ref().into()));
                }
            }
            table.records.insert(session, record);
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::any;

    const S: SessionId = SessionId(1);

    fn judge(table: &SessionTable, first: u64, acknowledged: u64, count: u64) -> Verdict {
        table.judge(S, Numbering::Stream, Numbers { first, acknowledged }, count, 100, 50)
    }

    #[test]
    fn a_retry_executes_only_what_is_new() {
        let mut table = SessionTable::default();
        assert_eq!(judge(&table, 1, 0, 3), Verdict::Execute { settled: 0 });
        table.settle(S, Numbering::Stream, 3, 0, 100);
        assert_eq!(judge(&table, 1, 0, 3), Verdict::Settled);
        assert_eq!(judge(&table, 2, 0, 4), Verdict::Execute { settled: 2 });
        assert_eq!(judge(&table, 5, 0, 1), Verdict::Gap { expected: 4 });
        assert_eq!(
            table.judge(S, Numbering::Cross, Numbers { first: 1, acknowledged: 0 }, 1, 100, 50),
            Verdict::Execute { settled: 0 }
        );
    }

    #[test]
    fn a_forgotten_session_goes_on_from_what_it_acknowledged() {
        let mut table = SessionTable::default();
        table.settle(S, Numbering::Stream, 8, 0, 100);
        table.sweep(5_000);
        assert!(table.is_empty());
        assert_eq!(judge(&table, 9, 8, 1), Verdict::Execute { settled: 0 });
        assert_eq!(judge(&table, 10, 8, 1), Verdict::Gap { expected: 9 });
    }

    #[test]
    fn an_expired_command_is_refused() {
        let table = SessionTable::default();
        assert_eq!(table.judge(S, Numbering::Stream, Numbers { first: 1, acknowledged: 0 }, 1, 49, 50), Verdict::Expired);
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_table_is_restored_or_refused(cut in 0usize..200, damage in vec((0usize..200, any::<u8>()), 0..6)) {
            let mut table = SessionTable::default();
            table.settle(S, Numbering::Cross, 2, 0, 100);
            table.keep_reply(S, Numbering::Cross, 1, b"one");
            table.keep_reply(S, Numbering::Cross, 2, b"two");
            table.settle(SessionId(2), Numbering::Stream, 9, 3, 100);
            let mut bytes = Vec::new();
            table.snapshot(&mut bytes);
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            use_restored(bytes);
        }

        #[test]
        fn any_bytes_are_restored_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            use_restored(bytes);
        }
    }

    /// What is restored is usable, and equal when it is restored again.
    fn use_restored(bytes: Vec<u8>) {
        let Ok(mut table) = SessionTable::restore(&mut Reader::new(bytes.into())) else { return };
        let [mut once, mut twice] = [Vec::new(), Vec::new()];
        table.snapshot(&mut once);
        let again = SessionTable::restore(&mut Reader::new(once.clone().into())).expect("what was written");
        again.snapshot(&mut twice);
        assert_eq!(once, twice);
        let _ = judge(&table, 3, 2, 1);
        let _ = table.reply(S, Numbering::Cross, 1);
        table.settle(S, Numbering::Cross, 3, 1, 100);
        table.sweep(u64::MAX);
    }

    #[test]
    fn replies_stay_until_acknowledged_and_survive_a_snapshot() {
        let mut table = SessionTable::default();
        table.settle(S, Numbering::Cross, 2, 0, 100);
        table.keep_reply(S, Numbering::Cross, 1, b"one");
        table.keep_reply(S, Numbering::Cross, 2, b"two");
        let mut bytes = Vec::new();
        table.snapshot(&mut bytes);
        let mut table = SessionTable::restore(&mut Reader::new(bytes.into())).unwrap();
        assert_eq!(table.reply(S, Numbering::Cross, 1), Some(&b"one"[..]));
        table.settle(S, Numbering::Cross, 3, 1, 100);
        assert_eq!(table.reply(S, Numbering::Cross, 1), None);
        assert_eq!(table.reply(S, Numbering::Cross, 2), Some(&b"two"[..]));
    }
}
