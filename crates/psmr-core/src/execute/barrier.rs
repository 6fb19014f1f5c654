//! Synchronous mode: what the last group to arrive at a barrier does for all of γ. The other groups are parked here, so their
//! locks are free (or about to be: a group's worker lets go of the lock right after it has parked the group).

use super::group::Group;
use super::reads::Due;
use super::{Engine, Event, Output};
use crate::command::{GroupId, GroupSet};
use crate::deliver::Place;
use crate::entry::{split_command, Barrier, BatchHead, Entry, System};
use crate::service::{Command, Handles, Partition, Replies};
use crate::session::{Numbering, Verdict};
use crate::sync::{lock, MutexGuard};

/// Executes the barrier's commands over all groups of γ, of which `last` is one, and releases the others.
pub(super) fn execute(last: &mut Group, entry: &Entry, barrier: &Barrier, engine: &Engine, out: &mut Output) {
    let mut parked = Parked::lock(last, barrier.gamma, engine);
    Meeting { groups: parked.and(last), entry, barrier, engine }.execute(out);
    if !engine.planted.opens_early(barrier) {
        parked.release(|group| group.pass_barrier(entry, engine), out);
    }
}

/// Looks at the state at a cut where all groups meet, since their states are parts of one, and releases the others.
pub(super) fn cut(last: &mut Group, system: System, entry: &Entry, engine: &Engine, out: &mut Output) {
    let mut parked = Parked::lock(last, entry.groups, engine);
    parked.and(last).into_iter().for_each(|group| group.on_system(system, entry, engine, out));
    // All leave the entry now, and `last` when it is done here: a checkpoint of this cut comes too late for all or for none.
    let leave = |group: &mut Group| {
        group.cursor.leave(Place::Cross(entry.index));
        false
    };
    parked.release(leave, out);
}

/// The groups that wait for the last one to arrive, in its hands.
struct Parked<'a> {
    guards: Vec<MutexGuard<'a, Group>>,
    engine: &'a Engine,
}

impl<'a> Parked<'a> {
    /// All of `gamma` but `last`, whose lock is held.
    fn lock(last: &Group, gamma: GroupSet, engine: &'a Engine) -> Parked<'a> {
        let groups = GroupSet(gamma.0 & !GroupSet::one(last.id).0);
        let guards = groups.iter().map(|g| lock(&engine.cells[g.index()].group)).collect();
        Parked { guards, engine }
    }

    /// These and the last one, ascending.
    fn and<'g>(&'g mut self, last: &'g mut Group) -> Vec<&'g mut Group> {
        let mut groups: Vec<&mut Group> = self.guards.iter_mut().map(|guard| &mut **guard).collect();
        let place = groups.iter().position(|g| g.id > last.id).unwrap_or(groups.len());
        groups.insert(place, last);
        groups
    }

    /// Each passes the place by `pass`, and goes on unless that is true: it has come to the next barrier, and waits there.
    fn release(mut self, pass: impl Fn(&mut Group) -> bool, out: &mut Output) {
        let go_on = self.guards.iter_mut().filter_map(|guard| (!pass(guard)).then_some(guard.id)).collect::<GroupSet>();
        out.hand_on();
        drop(self.guards);
        for group in go_on.iter() {
            self.engine.cells[group.index()].readiness.release();
        }
        out.ready = out.ready.union(go_on);
    }
}

struct Meeting<'a> {
    /// All groups of γ, ascending.
    groups: Vec<&'a mut Group>,
    entry: &'a Entry,
    barrier: &'a Barrier,
    engine: &'a Engine,
}

impl Meeting<'_> {
    fn execute(&mut self, out: &mut Output) {
        let head = &self.entry.heads[self.barrier.head as usize];
        let own = head.origin == self.engine.me;
        let numbering = self.groups[0].numbering(self.entry);
        let now_ms = self.groups.iter().map(|g| g.clock_ms).fold(self.entry.stamp_ms, u64::max);
        self.groups.iter_mut().for_each(|g| g.advance_clock(now_ms));
        let lowest = self.groups[0].id;
        let (session, first) = (head.session, self.barrier.numbers[0].first);
        for (group, numbers) in self.groups.iter_mut().zip(&self.barrier.numbers) {
            group.note_given_up(head, numbering, numbers.acknowledged, self.engine, out);
        }
        match self.judge(head, numbering) {
            Judged::Gap(group, expected) if own => out.events.push(Event::Refused { session, group, numbering, expected }),
            Judged::Gap(..) => {}
            Judged::Settled(count) => self.groups[0].answer_settled(head, numbering, first, count, own, out),
            Judged::Expired => {
                for (group, numbers) in self.groups.iter_mut().zip(&self.barrier.numbers) {
                    let last = numbers.first + u64::from(self.barrier.count) - 1;
                    group.note_given_up(head, numbering, last, self.engine, out);
                }
                (0..u64::from(self.barrier.count)).for_each(|position| self.settle(head, numbering, position));
                if own {
                    let last = first + u64::from(self.barrier.count) - 1;
                    out.events.push(Event::Settled { session, group: lowest, numbering, last });
                }
            }
            Judged::Execute(settled) => {
                self.groups[0].answer_settled(head, numbering, first, settled, own, out);
                let replies = self.execute_new(head, numbering, settled, out);
                if own {
                    out.events.push(Event::Replies { session, group: lowest, numbering, first: first + settled, replies });
                }
            }
        }
    }

    /// One verdict for the whole: a gap in any group refuses all, and what is settled in any group is settled: there it was
    /// executed (then it was so in every group), or given up.
    fn judge(&self, head: &BatchHead, numbering: Numbering) -> Judged {
        let count = u64::from(self.barrier.count);
        let (mut settled_count, mut is_expired) = (0, false);
        for (group, numbers) in self.groups.iter().zip(&self.barrier.numbers) {
            match group.judge(head, numbering, *numbers, self.barrier.count, self.engine) {
                Verdict::Gap { expected } => return Judged::Gap(group.id, expected),
                Verdict::Expired => is_expired = true,
                Verdict::Settled => settled_count = count,
                Verdict::Execute { settled } => settled_count = settled_count.max(settled),
            }
        }
        match settled_count {
            _ if is_expired => Judged::Expired,
            settled if settled == count => Judged::Settled(count),
            settled => Judged::Execute(settled),
        }
    }

    fn settle(&mut self, head: &BatchHead, numbering: Numbering, position: u64) {
        for (group, numbers) in self.groups.iter_mut().zip(&self.barrier.numbers) {
            let number = numbers.first + position;
            group.sessions.settle(head.session, numbering, number, numbers.acknowledged, head.expires_ms);
        }
    }

    fn execute_new(&mut self, head: &BatchHead, numbering: Numbering, settled: u64, out: &mut Output) -> Replies {
        let own = head.origin == self.engine.me;
        let mut replies = Replies::default();
        let mut rest = self.entry.commands(&self.barrier.commands);
        let mut position = 0;
        while let Some((command, after)) = split_command(rest) {
            if position >= settled {
                if own {
                    self.serve_predecessors(head, numbering, position, out);
                }
                if own || !command.read {
                    self.execute_one(command, position, &mut replies.bytes);
                }
                replies.end();
                self.settle(head, numbering, position);
                if head.keep_replies && !command.read {
                    let reply = replies.last().unwrap_or_default();
                    let number = self.barrier.numbers[0].first + position;
                    self.groups[0].sessions.keep_reply(head.session, numbering, number, reply);
                }
                out.executed += 1;
            }
            (rest, position) = (after, position + 1);
        }
        replies
    }

    fn serve_predecessors(&mut self, head: &BatchHead, numbering: Numbering, position: u64, out: &mut Output) {
        for (group, numbers) in self.groups.iter_mut().zip(&self.barrier.numbers) {
            group.take_reads(self.engine);
            group.serve(Due::Successor(head.session, numbering, numbers.first + position), out);
        }
    }

    fn execute_one(&mut self, command: Command<'_>, position: u64, reply: &mut Vec<u8>) {
        let session = self.entry.heads[self.barrier.head as usize].session;
        let seed = self.groups[0].seeds(self.entry, session).seed(self.barrier.numbers[0].first + position);
        let context = self.groups[0].context(self.entry, Some(session));
        let partitions: Vec<(GroupId, &mut dyn Partition)> =
            self.groups.iter_mut().map(|g| (g.id, &mut *g.partition as &mut dyn Partition)).collect();
        let mut handles = Handles::new(&self.engine.topology, partitions);
        self.engine.service.execute(&mut handles, Command { seed, ..command }, &context, reply);
    }
}

enum Judged {
    Execute(u64),
    Settled(u64),
    Gap(GroupId, u64),
    Expired,
}
