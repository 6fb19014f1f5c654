//! One group on one replica: its state, its cursor, its sessions, the reads that wait in it.

use super::reads::{Answered, Asked, Due, PendingReads};
use super::ready::Outcome;
use super::{Engine, Event, Output, LARGE_REPLY_BYTES};
use crate::command::{GroupId, LogId, SessionId};
use crate::deliver::{Cursor, Place};
use crate::entry::{split_command, split_commands, BatchHead, Entry, Item, Numbers, Run, System, ROUTING_VERSION_FIRST};
use crate::observe::Stage;
use crate::planted::Planted;
use crate::service::{Context, Partition, ReadContext, ReadOutcome, Replies, SeedSource, Slice};
use crate::session::{Numbering, SessionTable, Verdict};
use crate::sync::Arc;
use crate::wire::{Malformed, Reader, Write};
use std::collections::VecDeque;

/// Entries that a group delivers before other groups may have their turn.
const ENTRIES_PER_RUN: usize = 64;

/// A read that has waited this long is given up: its stream has had no leader for all that time, or the group is stuck.
const READ_WAIT_MS_MAX: u64 = 60_000;

/// The state of a group, behind its lock.
pub struct Group {
    pub(super) id: GroupId,
    stream: LogId,
    pub(super) partition: Box<dyn Partition>,
    pub(super) sessions: SessionTable,
    /// Log time of the last command, in milliseconds since 1970.
    pub(super) clock_ms: u64,
    routing_version: u32,
    pub(super) cursor: Cursor,
    pub(super) reads: PendingReads,
    /// Entries from the cursor on, of the stream and of the cross log, taken from the shared windows in one go.
    ahead: [VecDeque<Arc<Entry>>; 2],
    /// All that is left of this entry is brief.
    brief: Option<Place>,
    /// Since when it waits at a barrier; 0: it does not, or is not timed.
    parked_us: u64,
}

impl Group {
    pub(super) fn new(id: GroupId, stream: LogId, partition: Box<dyn Partition>) -> Group {
        Group {
            id,
            stream,
            partition,
            sessions: SessionTable::default(),
            clock_ms: 0,
            routing_version: ROUTING_VERSION_FIRST,
            cursor: Cursor::start(),
            reads: PendingReads::default(),
            ahead: [VecDeque::new(), VecDeque::new()],
            brief: None,
            parked_us: 0,
        }
    }

    /// Delivers and executes what has been committed, and answers the reads that are due. `only_brief`: up to the first entry
    /// that may take long.
    pub(super) fn run(&mut self, engine: &Engine, only_brief: bool, out: &mut Output) -> Outcome {
        let mut outcome = Outcome::Again;
        self.time(Stage::Park, self.parked_us, engine);
        self.parked_us = 0;
        if only_brief && !self.has_brief_reads(engine) {
            return Outcome::Lengthy;
        }
        for _ in 0..ENTRIES_PER_RUN {
            let place = self.cursor.place();
            let Some(entry) = self.entry_at(place, engine) else {
                outcome = Outcome::Idle;
                break;
            };
            if matches!(place, Place::Stream(_)) {
                let marker = if engine.planted.is(Planted::MarkerSkipped) { 0 } else { entry.marker };
                if self.cursor.meet_marker(marker) {
                    continue;
                }
            }
            if only_brief && self.brief != Some(place) {
                if !self.is_brief(&entry, engine) {
                    return Outcome::Lengthy;
                }
                self.brief = Some(place);
            }
            if !self.deliver(&entry, engine, out) {
                self.parked_us = if entry.committed_us > 0 { engine.observer.now_us() } else { 0 };
                return Outcome::Parked;
            }
            let stage = if matches!(place, Place::Stream(_)) { Stage::Deliver } else { Stage::DeliverCross };
            self.time(stage, entry.committed_us, engine);
            self.cursor.leave(place);
        }
        engine.note_due(self.id, self.partition.due_ms());
        self.serve_rounds(engine, out);
        outcome
    }

    fn has_brief_reads(&mut self, engine: &Engine) -> bool {
        self.take_reads(engine);
        self.reads.payloads().all(|payload| engine.service.is_brief(payload))
    }

    /// Whether all that the group comes to in an entry is brief.
    fn is_brief(&self, entry: &Entry, engine: &Engine) -> bool {
        let is_brief = |range| Slice::new(entry.commands(range), true).all(|c| engine.service.is_brief(c.payload));
        let items = (self.cursor.items_passed..).map_while(|at| entry.item(self.id, at));
        entry.system.is_none()
            && items.into_iter().all(|item| match item {
                Item::Run(run) => is_brief(&run.commands),
                Item::Barrier(barrier) => is_brief(&barrier.commands),
            })
    }

    /// Tells what has taken since then; 0: it is not timed.
    fn time(&self, stage: Stage, since_us: u64, engine: &Engine) {
        if since_us > 0 {
            engine.observer.record(stage, engine.observer.now_us().saturating_sub(since_us));
        }
    }

    fn entry_at(&mut self, place: Place, engine: &Engine) -> Option<Arc<Entry>> {
        let (ahead, log, index) = match place {
            Place::Stream(index) => (&mut self.ahead[0], self.stream, index),
            Place::Cross(index) => (&mut self.ahead[1], engine.topology.cross(), index),
        };
        while ahead.front().is_some_and(|entry| entry.index < index) {
            ahead.pop_front();
        }
        if ahead.is_empty() {
            let waits_for_cross = matches!(place, Place::Cross(_));
            if waits_for_cross {
                engine.wait_for_cross(self.id);
            }
            engine.logs[log.index()].read(index, ENTRIES_PER_RUN, ahead);
        }
        ahead.front().cloned()
    }

    /// Delivers the rest of an entry. False: the group has to wait at a barrier in it.
    fn deliver(&mut self, entry: &Entry, engine: &Engine, out: &mut Output) -> bool {
        if let Some(system) = entry.system {
            if !(system.is_cut() && engine.service.shares_state()) {
                self.on_system(system, entry, engine, out);
            } else if entry.arrive(self.id) {
                super::barrier::cut(self, system, entry, engine, out);
            } else {
                return false;
            }
            return true;
        }
        if entry.time_groups.contains(self.id) && self.cursor.items_passed == 0 {
            self.advance_clock(entry.stamp_ms);
            self.serve(Due::Time, out);
            engine.time_is_settled(self.id);
        }
        self.prepare(entry);
        while let Some(item) = entry.item(self.id, self.cursor.items_passed) {
            match item {
                Item::Run(run) => self.execute_run(entry, run, engine, out),
                Item::Barrier(barrier) => {
                    if !barrier.arrive(self.id) && !engine.planted.opens_early(barrier) {
                        return false;
                    }
                    super::barrier::execute(self, entry, barrier, engine, out);
                }
            }
            self.cursor.items_passed += 1;
        }
        // Once for each entry, however often the group had to wait in it. Where groups share their state they meet for it.
        if entry.time_groups.contains(self.id) && !engine.service.shares_state() {
            let context = self.context(entry, None);
            self.partition.on_time(&context);
        }
        true
    }

    /// Leaves a barrier that others have executed. True: it waits at the next one, which it has come to without being run.
    pub(super) fn pass_barrier(&mut self, entry: &Entry, engine: &Engine) -> bool {
        self.cursor.items_passed += 1;
        match entry.item(self.id, self.cursor.items_passed) {
            Some(Item::Barrier(next)) => !engine.planted.opens_early(next) && next.arrive_unless_last(self.id),
            _ => false,
        }
    }

    /// Tells the service of the commands that come before the next barrier.
    fn prepare(&self, entry: &Entry) {
        let runs = (self.cursor.items_passed..).map_while(|at| match entry.item(self.id, at) {
            Some(Item::Run(run)) => Some(entry.commands(&run.commands)),
            _ => None,
        });
        self.partition.prepare(&mut runs.flat_map(|commands| Slice::new(commands, true)).map(|command| command.payload));
    }

    pub(super) fn advance_clock(&mut self, stamp_ms: u64) {
        self.clock_ms = self.clock_ms.max(stamp_ms);
        if self.sessions.is_sweep_due(self.clock_ms) {
            self.reads.note_settled(&self.sessions);
            self.sessions.sweep(self.clock_ms);
        }
    }

    pub(super) fn numbering(&self, entry: &Entry) -> Numbering {
        if entry.log == self.stream {
            Numbering::Stream
        } else {
            Numbering::Cross
        }
    }

    /// What is to be done with `count` commands; commands of another version of C-G are refused like expired ones.
    pub(super) fn judge(&self, head: &BatchHead, numbering: Numbering, numbers: Numbers, count: u32, engine: &Engine) -> Verdict {
        let verdict = self.sessions.judge(head.session, numbering, numbers, u64::from(count), head.expires_ms, self.clock_ms);
        match verdict {
            Verdict::Execute { .. } if head.routing_version != self.routing_version => Verdict::Expired,
            Verdict::Settled if engine.planted.is(Planted::RetryExecutedTwice) => Verdict::Execute { settled: 0 },
            Verdict::Execute { settled } if settled > 0 && engine.planted.is(Planted::RetryExecutedTwice) => {
                Verdict::Execute { settled: 0 }
            }
            Verdict::Gap { .. } if engine.planted.is(Planted::GapAccepted) => Verdict::Execute { settled: 0 },
            other => other,
        }
    }

    fn execute_run(&mut self, entry: &Entry, run: &Run, engine: &Engine, out: &mut Output) {
        let head = &entry.heads[run.head as usize];
        let own = head.origin == engine.me;
        let numbering = self.numbering(entry);
        self.advance_clock(entry.stamp_ms);
        self.note_given_up(head, numbering, run.numbers.acknowledged, engine, out);
        let last = run.numbers.first + u64::from(run.count) - 1;
        let (group, session) = (self.id, head.session);
        match self.judge(head, numbering, run.numbers, run.count, engine) {
            Verdict::Execute { settled } => {
                self.answer_settled(head, numbering, run.numbers.first, settled, own, out);
                self.execute_new(entry, run, head, settled, engine, out);
            }
            Verdict::Settled => self.answer_settled(head, numbering, run.numbers.first, u64::from(run.count), own, out),
            Verdict::Gap { expected } if own => out.events.push(Event::Refused { session, group, numbering, expected }),
            Verdict::Gap { .. } => {}
            Verdict::Expired => {
                self.note_given_up(head, numbering, last, engine, out);
                self.sessions.settle(session, numbering, last, run.numbers.acknowledged, head.expires_ms);
                if own {
                    out.events.push(Event::Settled { session, group, numbering, last });
                }
            }
        }
    }

    /// Numbers up to `last` that are not settled here are over without execution: some reads that waited for them are too late.
    pub(super) fn note_given_up(&mut self, head: &BatchHead, numbering: Numbering, last: u64, engine: &Engine, out: &mut Output) {
        if head.origin != engine.me || last <= self.sessions.settled(head.session, numbering) {
            return;
        }
        self.take_reads(engine);
        for (session, token) in self.reads.take_orphaned(head.session, numbering, last, &self.sessions) {
            out.events.push(Event::ReadsLost { session, tokens: vec![token] });
        }
    }

    fn execute_new(&mut self, entry: &Entry, run: &Run, head: &BatchHead, settled: u64, engine: &Engine, out: &mut Output) {
        let own = head.origin == engine.me;
        let numbering = self.numbering(entry);
        let (_, mut rest) = split_commands(entry.commands(&run.commands), settled);
        let commands = rest;
        let mut number = run.numbers.first + settled;
        let end = run.numbers.first + u64::from(run.count);
        let first = number;
        let mut replies = if own || head.keep_replies { Replies::with_capacity(run.count as usize) } else { Replies::unwanted() };
        if own {
            self.take_reads(engine);
        }
        let (context, seeds) = (self.context(entry, Some(head.session)), self.seeds(entry, head.session));
        while number < end {
            let mut stop = end;
            if own && !self.reads.is_empty() {
                self.serve(Due::Successor(head.session, numbering, number), out);
                stop = self.reads.next_boundary(head.session, numbering, number).map_or(end, |at| at.min(end));
            }
            let (chunk, after) = if stop == end { (rest, &rest[rest.len()..]) } else { split_commands(rest, stop - number) };
            self.partition.execute(Slice::new(chunk, own).seeded(seeds, number), &context, &mut replies);
            self.sessions.settle(head.session, numbering, stop - 1, run.numbers.acknowledged, head.expires_ms);
            out.executed += stop - number;
            (rest, number) = (after, stop);
        }
        if head.keep_replies {
            self.keep_replies(head.session, numbering, first, commands, own, &replies);
        }
        if own {
            assert_eq!(replies.ends.len() as u64, end - first, "the service gave too many or too few replies");
            out.events.push(Event::Replies { session: head.session, group: self.id, numbering, first, replies });
        }
    }

    /// Keeps the replies of all commands but ordered reads, which not every replica executes.
    fn keep_replies(
        &mut self,
        session: SessionId,
        numbering: Numbering,
        first: u64,
        commands: &[u8],
        own: bool,
        replies: &Replies,
    ) {
        let mut rest = commands;
        let mut given = replies.iter();
        let mut number = first;
        while let Some((command, after)) = split_command(rest) {
            if own || !command.read {
                let reply = given.next().unwrap_or_default();
                if !command.read {
                    self.sessions.keep_reply(session, numbering, number, reply);
                }
            }
            (rest, number) = (after, number + 1);
        }
    }

    /// Answers commands that were settled before with the kept replies; where there is none, their outcome is not known here.
    pub(super) fn answer_settled(
        &self,
        head: &BatchHead,
        numbering: Numbering,
        first: u64,
        count: u64,
        own: bool,
        out: &mut Output,
    ) {
        if !own {
            return;
        }
        let (session, group) = (head.session, self.id);
        for number in first..first + count {
            out.events.push(match self.sessions.reply(session, numbering, number) {
                Some(reply) => {
                    let mut replies = Replies::default();
                    replies.push(reply);
                    Event::Replies { session, group, numbering, first: number, replies }
                }
                None => Event::Settled { session, group, numbering, last: number },
            });
        }
    }

    pub(super) fn context(&self, entry: &Entry, session: Option<SessionId>) -> Context {
        Context { now_ms: self.clock_ms, log: entry.log, index: entry.index, session }
    }

    /// Seeds for a session's commands in an entry, for which this group (the lowest of γ) gives the numbers.
    pub(super) fn seeds(&self, entry: &Entry, session: SessionId) -> SeedSource {
        SeedSource::new(entry.log, entry.index, self.id, session)
    }

    pub(super) fn on_system(&mut self, system: System, entry: &Entry, engine: &Engine, out: &mut Output) {
        self.advance_clock(entry.stamp_ms);
        let (group, cut) = (self.id, entry.index);
        match system {
            System::Checkpoint { replicas } if replicas >> engine.me & 1 == 1 => {
                out.events.push(match self.snapshot(cut) {
                    Ok(bytes) => Event::Snapshot { cut, group, bytes },
                    Err(why) => Event::NoSnapshot { cut, digest: None, why },
                });
            }
            System::Checkpoint { .. } | System::Genesis { .. } => {}
            System::Time => {
                let context = self.context(entry, None);
                self.partition.on_time(&context);
            }
            System::Digest { request } => {
                let (mut bytes, mut state) = (Vec::new(), Vec::new());
                self.snapshot_bookkeeping(cut, &mut bytes);
                if let Err(why) = self.partition.snapshot(&mut state) {
                    return out.events.push(Event::NoSnapshot { cut, digest: Some(request), why });
                }
                let [state, bookkeeping] = [state, bytes].map(|b| xxhash_rust::xxh3::xxh3_64(&b));
                out.events.push(Event::Digest { request, cut, group, state, bookkeeping });
            }
        }
    }

    /// The group's state at the cut `x[cut]`, which it is delivering.
    fn snapshot(&self, cut: u64) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        self.snapshot_bookkeeping(cut, &mut out);
        self.partition.snapshot(&mut out)?;
        Ok(out)
    }

    fn snapshot_bookkeeping(&self, cut: u64, out: &mut Vec<u8>) {
        Cursor { cross_next: cut + 1, ..self.cursor }.write(out);
        out.u64(self.clock_ms);
        out.u32(self.routing_version);
        self.sessions.snapshot(out);
    }

    /// Replaces the group by what `snapshot` wrote.
    pub(super) fn restore(&mut self, bytes: bytes::Bytes) -> Result<(), String> {
        let text = |error: Malformed| error.to_string();
        let mut reader = Reader::new(bytes);
        self.cursor = Cursor::read(&mut reader).map_err(text)?;
        self.clock_ms = reader.u64("clock").map_err(text)?;
        self.routing_version = reader.u32("routing version").map_err(text)?;
        self.sessions = SessionTable::restore(&mut reader).map_err(text)?;
        self.ahead.iter_mut().for_each(VecDeque::clear);
        self.brief = None;
        self.partition.restore(&reader.rest())
    }

    pub(super) fn take_reads(&mut self, engine: &Engine) {
        for batch in engine.take_reads(self.id) {
            self.reads.push(batch);
        }
    }

    fn serve_rounds(&mut self, engine: &Engine, out: &mut Output) {
        self.take_reads(engine);
        if self.reads.is_empty() {
            return;
        }
        let (round, index) = engine.rounds[self.stream.index()].done();
        if engine.planted.is(Planted::StaleRead) {
            self.reads.note_round(u64::MAX, 0);
        } else {
            self.reads.note_round(round, index);
        }
        self.partition.prepare(&mut self.reads.payloads_due());
        self.serve(Due::Delivered(self.cursor.stream_next - 1), out);
        if !self.reads.is_empty() {
            for (session, token) in self.reads.take_overdue(engine.wall_ms().saturating_sub(READ_WAIT_MS_MAX)) {
                out.events.push(Event::ReadsLost { session, tokens: vec![token] });
            }
        }
        if self.reads.is_empty() {
            engine.has_no_reads(self.id);
        } else if self.reads.needs_time() {
            engine.want_time(self.id);
            out.wants_time = true;
        }
    }

    pub(super) fn serve(&mut self, due: Due, out: &mut Output) {
        let Group { partition, sessions, reads, clock_ms, .. } = self;
        if reads.is_empty() {
            return;
        }
        let mut answer = |asked: &Asked<'_>| {
            let (session, token) = (asked.batch.session, asked.item.token);
            if asked.may_lack_room && !out.has_room(session, token) && (!asked.is_last_moment || out.may_be_held(session, token))
            {
                return Answered::Held;
            }
            let context = ReadContext { now_ms: *clock_ms, wall_ms: asked.batch.wall_ms, time_is_settled: asked.time_is_settled };
            let replies = out.reads_of(session);
            let start = replies.1.bytes.len();
            if partition.read(asked.payload, &context, &mut replies.1.bytes) == ReadOutcome::NeedsTime {
                replies.1.bytes.truncate(start);
                return Answered::NeedsTime;
            }
            let bytes = replies.1.bytes.len() - start;
            if bytes >= LARGE_REPLY_BYTES {
                let is_last_moment = asked.is_last_moment && !out.may_be_held(session, token);
                if !out.claim_room(session, token, bytes, is_last_moment) {
                    out.reads_of(session).1.bytes.truncate(start);
                    if !is_last_moment {
                        return Answered::Held;
                    }
                    out.events.push(Event::ReadsLost { session, tokens: vec![token] });
                    return Answered::Done;
                }
            }
            let replies = out.reads_of(session);
            replies.0.push(token);
            replies.1.end();
            Answered::Done
        };
        partition.while_reading(&mut || reads.serve(due, sessions, &mut answer));
    }
}
