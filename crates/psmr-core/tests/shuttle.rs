//! Thread interleavings of the shipped modules: `shuttle` decides which thread goes on at each use of a lock or an atomic.
//!
//! `cargo test --release -p psmr-core --features shuttle --test shuttle`

mod common;

use common::entries::{commit, EntryMaker};
use common::service::{Lists, Watch};
use psmr_core::command::{GroupId, GroupSet, LogId, SessionId};
use psmr_core::deliver::{CommittedLog, ReadRounds};
use psmr_core::entry::Entry;
use psmr_core::execute::queues::ReadyQueues;
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::{Engine, Event, Output};
use psmr_core::inbox::Inbox;
use psmr_core::planted::PlantedErrors;
use psmr_core::routing::Topology;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::sync::mpsc::{channel, Receiver, Sender};
use shuttle::sync::Mutex;
use shuttle::{thread, Config, Runner};
use std::collections::VecDeque;
use std::sync::Arc;

/// Schedules that each scheduler tries.
const SCHEDULES: usize = 4_000;

/// Decides the schedules, so that a run can be repeated.
const SEED: u64 = 3;

/// How many changes of priority the second scheduler makes at places that it draws.
const PRIORITY_CHANGES: usize = 4;

fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    Runner::new(RandomScheduler::new_from_seed(SEED, SCHEDULES), Config::new()).run(test);
    Runner::new(PctScheduler::new_from_seed(SEED, PRIORITY_CHANGES, SCHEDULES), Config::new()).run(test);
}

/// What was executed, in order, per group; fails if two threads are in a group at once.
#[derive(Default)]
struct Journal {
    // The standard library's: no schedule switches threads while it is locked.
    lines: std::sync::Mutex<Vec<(GroupSet, String)>>,
    inside: std::sync::Mutex<u64>,
}

impl Journal {
    fn watch(self: &Arc<Journal>) -> Watch {
        let journal = self.clone();
        Arc::new(move |gamma, payload, _| {
            journal.enter(gamma);
            thread::yield_now();
            journal.lines.lock().unwrap().push((gamma, payload.to_string()));
            *journal.inside.lock().unwrap() &= !gamma.0;
        })
    }

    fn enter(&self, gamma: GroupSet) {
        let mut inside = self.inside.lock().unwrap();
        assert_eq!(*inside & gamma.0, 0, "two threads in one group");
        *inside |= gamma.0;
    }

    fn of(&self, group: u8) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|(gamma, _)| gamma.contains(GroupId(group))).map(|(_, payload)| payload.clone()).collect()
    }

    fn count(&self) -> usize {
        self.lines.lock().unwrap().len()
    }
}

/// What one more thread does beside the workers.
type Input = Box<dyn FnOnce(&Workers) + Send>;

/// Workers over the shipped queues, as a replica has them.
struct Workers {
    engine: Engine,
    queues: ReadyQueues,
    /// How each worker sleeps and is woken: unlike `thread::park`, a channel never wakes it for nothing.
    alarms: Vec<(Mutex<Sender<()>>, Mutex<Receiver<()>>)>,
    // The standard library's: no schedule switches threads while it is locked.
    events: std::sync::Mutex<Vec<Event>>,
    closed: AtomicBool,
}

impl Workers {
    fn new(workers: usize, topology: Topology, watch: Watch) -> Arc<Workers> {
        let engine = Engine::new(1, topology, Arc::new(Lists::watched(watch)), PlantedErrors::default());
        Arc::new(Workers {
            engine,
            queues: ReadyQueues::new(workers),
            alarms: (0..workers).map(|_| channel()).map(|(alarm, sleep)| (Mutex::new(alarm), Mutex::new(sleep))).collect(),
            events: std::sync::Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    fn schedule(&self, groups: GroupSet) {
        self.wake(self.queues.put(groups));
    }

    fn wake(&self, worker: Option<usize>) {
        worker.into_iter().for_each(|worker| self.alarms[worker].0.lock().unwrap().send(()).unwrap());
    }

    /// Runs ready groups until nothing more will come.
    fn work(&self, own: usize) {
        let mut output = Output::default();
        loop {
            if let Some((group, more)) = self.queues.take(own) {
                self.wake(more);
                self.engine.run(group, &mut output);
                output.finish();
                self.events.lock().unwrap().append(&mut output.events);
                self.schedule(std::mem::take(&mut output.ready));
                self.queues.finish(own);
            } else if self.closed.load(Ordering::SeqCst) {
                return;
            } else {
                if self.queues.may_sleep(own) && !self.closed.load(Ordering::SeqCst) {
                    self.alarms[own].1.lock().unwrap().recv().unwrap();
                }
                self.queues.wake_up(own);
            }
        }
    }

    /// Runs `inputs`, each in a thread, beside the workers, until `is_done`. A wake-up that is lost is a schedule without end.
    fn run(self: &Arc<Workers>, inputs: Vec<Input>, is_done: impl Fn() -> bool) {
        let working: Vec<_> = (0..self.queues.len())
            .map(|own| {
                let this = self.clone();
                thread::spawn(move || this.work(own))
            })
            .collect();
        let feeding: Vec<_> = inputs
            .into_iter()
            .map(|input| {
                let this = self.clone();
                thread::spawn(move || input(&this))
            })
            .collect();
        feeding.into_iter().for_each(|thread| thread.join().unwrap());
        while !is_done() {
            thread::yield_now();
        }
        self.closed.store(true, Ordering::SeqCst);
        (0..self.queues.len()).for_each(|worker| self.wake(Some(worker)));
        working.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Runs `inputs` until each group has delivered this.
    fn run_to(self: &Arc<Workers>, inputs: Vec<Input>, ends: &[(u64, u64)]) {
        let is_at_end = |(group, end): (u8, &(u64, u64))| self.engine.delivered(GroupId(group)) == *end;
        self.run(inputs, || (0..).zip(ends).all(is_at_end));
        assert!((0..).zip(ends).all(|(group, _)| !self.engine.is_parked(GroupId(group))), "a group was never released");
    }

    fn reads_answered(&self) -> usize {
        let count = |event: &Event| if let Event::Reads { tokens, .. } = event { tokens.len() } else { 0 };
        self.events.lock().unwrap().iter().map(count).sum()
    }
}

fn committing(entries: Vec<Arc<Entry>>) -> Input {
    Box::new(move |workers| {
        for entry in entries {
            let ready = commit(&workers.engine, entry);
            workers.schedule(ready);
        }
    })
}

/// Streams of one group each and the cross log grow at the same time; markers come before and after what they call for.
/// Commands between the barriers, barriers that share groups.
fn cross_barriers(workers: usize) {
    let topology = Topology::new(3, 3);
    let mut maker = EntryMaker::new(topology.clone());
    let cross = vec![
        maker.entry(3, 0, &[(&[0, 1], "x1")]),
        maker.entry(3, 0, &[(&[1, 2], "x2"), (&[0, 1, 2], "x3")]),
        maker.entry(3, 0, &[(&[0, 2], "x4")]),
    ];
    let streams = [
        vec![maker.entry(0, 0, &[(&[0], "a1")]), maker.entry(0, 1, &[(&[0], "a2")]), maker.entry(0, 3, &[(&[0], "a3")])],
        vec![maker.entry(1, 2, &[(&[1], "b1")]), maker.entry(1, 1, &[(&[1], "b2")])],
        vec![maker.entry(2, 2, &[(&[2], "c1")]), maker.entry(2, 3, &[])],
    ];
    let journal = Arc::new(Journal::default());
    let pool = Workers::new(workers, topology, journal.watch());
    let inputs = streams.into_iter().chain([cross]).map(committing).collect();
    pool.run_to(inputs, &[(3, 3), (2, 2), (2, 3)]);
    assert_eq!(journal.of(0), ["a1", "x1", "a2", "x3", "x4", "a3"]);
    assert_eq!(journal.of(1), ["x1", "x2", "x3", "b1", "b2"]);
    assert_eq!(journal.of(2), ["x2", "x3", "c1", "x4"]);
    assert_eq!(journal.count(), 10, "each executed once");
}

#[test]
fn cross_barriers_with_two_workers() {
    explore(|| cross_barriers(2));
}

#[test]
fn cross_barriers_with_three_workers() {
    explore(|| cross_barriers(3));
}

/// Barriers within one stream: three groups read the same entries.
#[test]
fn barriers_within_a_stream() {
    explore(|| {
        let topology = Topology::new(3, 1);
        let mut maker = EntryMaker::new(topology.clone());
        let entries = vec![
            maker.entry(0, 0, &[(&[0], "1"), (&[0, 1], "2"), (&[1], "3"), (&[1, 2], "4")]),
            maker.entry(0, 0, &[(&[2], "5"), (&[0, 1, 2], "6"), (&[0], "7")]),
            maker.entry(0, 0, &[(&[0, 2], "8"), (&[1], "9")]),
        ];
        let journal = Arc::new(Journal::default());
        let pool = Workers::new(3, topology, journal.watch());
        pool.run_to(vec![committing(entries)], &[(3, 0); 3]);
        assert_eq!(journal.of(0), ["1", "2", "6", "7", "8"]);
        assert_eq!(journal.of(1), ["2", "3", "4", "6", "9"]);
        assert_eq!(journal.of(2), ["4", "5", "6", "8"]);
        assert_eq!(journal.count(), 9);
    });
}

/// Barriers that follow each other: groups go from one to the next without being run, whoever of them comes last.
#[test]
fn barriers_in_sequence() {
    explore(|| {
        let topology = Topology::new(3, 1);
        let mut maker = EntryMaker::new(topology.clone());
        let entries = vec![
            maker.entry(0, 0, &[(&[0, 1], "1"), (&[1, 2], "2"), (&[0, 1, 2], "3"), (&[0, 2], "4"), (&[0, 1], "5")]),
            maker.entry(0, 0, &[(&[1, 2], "6"), (&[0, 1], "7")]),
        ];
        let journal = Arc::new(Journal::default());
        let pool = Workers::new(3, topology, journal.watch());
        pool.run_to(vec![committing(entries)], &[(2, 0); 3]);
        assert_eq!(journal.of(0), ["1", "3", "4", "5", "7"]);
        assert_eq!(journal.of(1), ["1", "2", "3", "5", "6", "7"]);
        assert_eq!(journal.of(2), ["2", "3", "4", "6"]);
        assert_eq!(journal.count(), 7);
    });
}

/// Nothing that is new is missed, and no group is in the queue twice, when several threads notify while the group runs.
#[test]
fn notifications_are_not_lost() {
    explore(|| {
        let topology = Topology::new(2, 2);
        let mut maker = EntryMaker::new(topology.clone());
        let entries = |maker: &mut EntryMaker, group: u8| -> Vec<Arc<Entry>> {
            (1..=4).map(|n| maker.entry(group, 0, &[(&[group], &n.to_string())])).collect()
        };
        let (zero, one) = (entries(&mut maker, 0), entries(&mut maker, 1));
        let journal = Arc::new(Journal::default());
        let pool = Workers::new(2, topology, journal.watch());
        let ticking: Input = Box::new(|workers: &Workers| {
            for _ in 0..3 {
                let ready = workers.engine.notify(workers.engine.topology.all());
                workers.schedule(ready);
            }
        });
        pool.run_to(vec![committing(zero), committing(one), ticking], &[(4, 0); 2]);
        assert_eq!(journal.of(0), ["1", "2", "3", "4"]);
        assert_eq!(journal.of(1), ["1", "2", "3", "4"]);
    });
}

/// A connection's reads and writes in turns: each read sees all of the writes before it and none of those after it, though
/// its round may be done late or never; every read is answered once.
#[test]
fn a_read_is_answered_between_its_neighbours() {
    const WRITES: u64 = 3;
    explore(|| {
        let topology = Topology::new(1, 1);
        let mut maker = EntryMaker::new(topology.clone());
        let writes: Vec<_> = (1..=WRITES).map(|n| maker.entry(0, 0, &[(&[0], &n.to_string())])).collect();
        let pool = Workers::new(2, topology, Arc::new(|_, _, _| thread::yield_now()));
        let client: Input = Box::new(move |workers: &Workers| {
            for (number, write) in (1..).zip(writes) {
                push_read(workers, number);
                let ready = commit(&workers.engine, write);
                workers.schedule(ready);
            }
            push_read(workers, WRITES + 1);
            finish_round(workers);
        });
        let rounds: Input = Box::new(|workers: &Workers| (0..2).for_each(|_| finish_round(workers)));
        pool.run(vec![client, rounds], || pool.reads_answered() == 4);
        let mut answers = Vec::new();
        for event in pool.events.lock().unwrap().iter() {
            if let Event::Reads { tokens, replies, .. } = event {
                answers.extend(tokens.iter().copied().zip(replies.iter().map(|r| String::from_utf8_lossy(r).into_owned())));
            }
        }
        answers.sort();
        assert_eq!(answers, [(1, "".into()), (2, "1".into()), (3, "1 2".into()), (4, "1 2 3".into())]);
    });
}

/// Two sessions' reads, each followed by a round: the group never forgets that it has reads while some come in.
#[test]
fn reads_of_two_sessions_are_all_answered() {
    explore(|| {
        let pool = Workers::new(2, Topology::new(1, 1), Arc::new(|_, _, _| thread::yield_now()));
        let client = || -> Input {
            Box::new(|workers: &Workers| {
                for _ in 0..2 {
                    push_read(workers, 1);
                    finish_round(workers);
                }
            })
        };
        pool.run(vec![client(), client()], || pool.reads_answered() == 4);
    });
}

/// A read that follows write `number` - 1 and precedes write `number`.
fn push_read(workers: &Workers, number: u64) {
    let mut batch = ReadBatch { session: SessionId(1), round: workers.engine.rounds[0].ticket(), ..ReadBatch::default() };
    batch.push(number, [number - 1, 0], [number, 1], b"list");
    workers.engine.push_reads(GroupId(0), batch);
}

fn finish_round(workers: &Workers) {
    let rounds = &workers.engine.rounds[0];
    let round = rounds.start();
    rounds.finish(round, workers.engine.logs[0].committed());
    let ready = workers.engine.notify_readers(LogId(0));
    workers.schedule(ready);
}

/// A worker that is about to sleep is woken for what comes just then.
#[test]
fn a_worker_that_falls_asleep_misses_nothing() {
    explore(|| one_command(1));
    explore(|| one_command(2));
}

fn one_command(workers: usize) {
    let topology = Topology::new(1, 1);
    let entry = EntryMaker::new(topology.clone()).entry(0, 0, &[(&[0], "1")]);
    let pool = Workers::new(workers, topology, Arc::new(|_, _, _| ()));
    pool.run_to(vec![committing(vec![entry])], &[(1, 0)]);
}

/// Every item comes to the receiver, who looks only when it is woken; those of one sender in order.
#[test]
fn an_inbox_wakes_its_receiver_for_every_item() {
    explore(|| {
        let inbox = Arc::new(Inbox::default());
        let (alarm, sleep) = channel();
        let senders: Vec<_> = [[1, 2, 3], [11, 12, 13]]
            .into_iter()
            .map(|items| {
                let (inbox, alarm) = (inbox.clone(), alarm.clone());
                thread::spawn(move || {
                    for item in items {
                        if inbox.put([item]) {
                            alarm.send(()).unwrap();
                        }
                    }
                })
            })
            .collect();
        let mut taken = Vec::new();
        while taken.len() < 6 {
            if inbox.may_sleep() {
                sleep.recv().unwrap();
                inbox.wake_up();
            }
            inbox.take(&mut taken);
        }
        senders.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(taken.iter().filter(|item| **item < 10).is_sorted() && taken.iter().filter(|item| **item > 10).is_sorted());
    });
}

/// The state of a paused group is nobody's but the pauser's, and everything goes on afterwards.
#[test]
fn nobody_runs_a_group_during_a_pause() {
    explore(|| {
        let topology = Topology::new(2, 2);
        let mut maker = EntryMaker::new(topology.clone());
        let entries: Vec<_> = (0..2).map(|g| maker.entry(g, 0, &[(&[g], "1")])).collect();
        let journal = Arc::new(Journal::default());
        let pool = Workers::new(2, topology, journal.watch());
        let (pausing, of_pauser) = (journal.clone(), GroupSet(0b11));
        let pause: Input = Box::new(move |workers: &Workers| {
            workers.queues.pause();
            while !workers.queues.is_quiet() {
                thread::yield_now();
            }
            pausing.enter(of_pauser);
            thread::yield_now();
            *pausing.inside.lock().unwrap() &= !of_pauser.0;
            workers.queues.resume().into_iter().for_each(|worker| workers.wake(Some(worker)));
        });
        pool.run_to(vec![committing(entries), pause], &[(1, 0); 2]);
        assert_eq!(journal.count(), 2);
    });
}

/// Whoever takes a ticket after something was committed finds, when its round is done, an index that covers it.
#[test]
fn a_round_covers_what_was_committed_before_its_ticket() {
    explore(|| {
        let rounds = Arc::new(ReadRounds::default());
        let committed = Arc::new(AtomicU64::new(0));
        let leader = {
            let (rounds, committed) = (rounds.clone(), committed.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    // Two rounds at once, the later one is done first.
                    let (first, second) = (rounds.start(), rounds.start());
                    let index = committed.load(Ordering::SeqCst);
                    rounds.finish(second, index);
                    rounds.finish(first, index);
                }
            })
        };
        let writer = {
            let committed = committed.clone();
            thread::spawn(move || {
                for _ in 0..4 {
                    committed.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        for _ in 0..4 {
            let before = committed.load(Ordering::SeqCst);
            let ticket = rounds.ticket();
            thread::yield_now();
            let (done, index) = rounds.done();
            assert!(done < ticket || index >= before, "round {done} for ticket {ticket}: {index} does not cover {before}");
        }
        leader.join().unwrap();
        writer.join().unwrap();
    });
}

/// One appends, one drops what both readers have passed; a reader finds every entry, in order, and none that is not committed.
#[test]
fn readers_find_every_entry() {
    const ENTRIES: u64 = 6;
    explore(|| {
        let log = Arc::new(CommittedLog::new(1));
        let passed = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let mut maker = EntryMaker::new(Topology::new(1, 1));
        let entries: Vec<_> = (1..=ENTRIES).map(|_| maker.entry(0, 0, &[])).collect();
        let appender = {
            let log = log.clone();
            thread::spawn(move || entries.chunks(2).for_each(|two| log.append(two.iter().cloned())))
        };
        let dropper = {
            let (log, passed) = (log.clone(), passed.clone());
            thread::spawn(move || {
                for _ in 0..4 {
                    log.drop_before(passed.iter().map(|p| p.load(Ordering::SeqCst)).min().unwrap() + 1);
                }
            })
        };
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (log, passed) = (log.clone(), passed.clone());
                thread::spawn(move || {
                    for _ in 0..5 {
                        let next = passed[reader].load(Ordering::SeqCst) + 1;
                        let mut found = VecDeque::new();
                        log.read(next, 2, &mut found);
                        for (entry, index) in found.iter().zip(next..) {
                            assert_eq!(entry.index, index);
                            passed[reader].store(index, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        [appender, dropper].into_iter().chain(readers).for_each(|thread| thread.join().unwrap());
        let next = passed[0].load(Ordering::SeqCst) + 1;
        let mut rest = VecDeque::new();
        log.read(next, usize::MAX, &mut rest);
        assert_eq!(rest.len() as u64, ENTRIES + 1 - next, "nothing is lost");
    });
}
