//! Some replicas, the links between them and a clock, all moved by hand.

use super::describe;
use super::replica::{Disk, Operation, Replica, Told};
use bytes::Bytes;
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId};
use psmr_core::config::Config;
use psmr_core::entry::{Entry, System};
use psmr_core::message::Frame;
use psmr_core::order::{Actions, Identity, Standing};
use psmr_core::routing::Topology;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Milliseconds per tick.
pub const TICK_MS: u64 = 50;

/// How often `run` goes round before it is clear that it will never be quiet.
const ROUNDS_MAX: usize = 10_000;

/// What a replica is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Running,
    /// As under SIGSTOP: connections stay, nothing moves.
    Stopped,
    Crashed,
}

/// An answer to a client: replica, connection, payload, reply (`None`: the outcome is not known).
pub type Answered = (ReplicaId, char, String, Option<String>);

/// The world.
pub struct World {
    /// The tables.
    pub topology: Topology,
    /// The wall clock.
    pub now_ms: u64,
    /// What happened, for people.
    pub trace: Vec<String>,
    /// What clients were told, in order.
    pub answers: Vec<Answered>,
    replicas: Vec<Replica>,
    lives: Vec<Life>,
    incarnations: Vec<u64>,
    clock_offsets_ms: Vec<i64>,
    links: BTreeMap<(ReplicaId, ReplicaId), VecDeque<Bytes>>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    held: BTreeSet<(ReplicaId, ReplicaId)>,
    manual_disks: BTreeSet<ReplicaId>,
    manual_groups: BTreeSet<(ReplicaId, GroupId)>,
    /// Committed entries in words, for agreement and so that each is told once.
    committed: BTreeMap<(LogId, u64), String>,
}

impl World {
    /// `replicas` replicas that have just started, in a cluster that is founded.
    pub fn new(replicas: u8, groups: usize, streams: usize) -> World {
        World::with_limit(replicas, groups, streams, u64::MAX)
    }

    /// The same, where so many bytes of a log may be committed and not delivered.
    pub fn with_limit(replicas: u8, groups: usize, streams: usize, undelivered_bytes_max: u64) -> World {
        let ids = 1..=replicas;
        // Fixed here, so that traces do not depend on what is usual elsewhere.
        let usual = |me| Config { undelivered_bytes_max, ..Config::new(me, replicas, groups, streams) };
        let config = |me| Config { heartbeat_ticks: 2, election_ticks: 10, ..usual(me) };
        let standing = || Standing::Established { founding: (1..=u64::from(replicas)).collect() };
        let identity = |me| Identity { incarnation: u64::from(me), standing: standing() };
        let start = |me| Replica::start(config(me), 0, identity(me), Disk::default());
        let mut world = World {
            topology: Topology::new(groups, streams),
            now_ms: 1_000_000,
            trace: Vec::new(),
            answers: Vec::new(),
            replicas: ids.clone().map(start).collect(),
            lives: ids.clone().map(|_| Life::Running).collect(),
            incarnations: ids.clone().map(|_| 0).collect(),
            clock_offsets_ms: ids.clone().map(|_| 0).collect(),
            links: ids.clone().flat_map(|a| (1..=replicas).map(move |b| ((a, b), VecDeque::new()))).collect(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            manual_disks: BTreeSet::new(),
            manual_groups: BTreeSet::new(),
            committed: BTreeMap::new(),
        };
        for a in ids.clone() {
            ids.clone().filter(|b| *b != a).for_each(|b| world.replica_mut(a).order.on_connected(b, u64::from(b)));
        }
        world
    }

    /// A replica.
    pub fn replica(&self, id: ReplicaId) -> &Replica {
        &self.replicas[usize::from(id) - 1]
    }

    /// A replica, to be changed.
    pub fn replica_mut(&mut self, id: ReplicaId) -> &mut Replica {
        &mut self.replicas[usize::from(id) - 1]
    }

    fn ids(&self) -> Vec<ReplicaId> {
        (1..=self.replicas.len() as ReplicaId).collect()
    }

    fn running(&self) -> Vec<ReplicaId> {
        self.ids().into_iter().filter(|id| self.lives[usize::from(*id) - 1] == Life::Running).collect()
    }

    fn clock_ms(&self, id: ReplicaId) -> u64 {
        self.now_ms.saturating_add_signed(self.clock_offsets_ms[usize::from(id) - 1])
    }

    fn say(&mut self, line: String) {
        self.trace.push(line);
    }

    // Inputs.

    /// A connection of a replica asks for something.
    pub fn ask(&mut self, id: ReplicaId, connection: char, operation: Operation) {
        let payload = operation.payload().to_string();
        if !self.replica_mut(id).ask(connection, operation) {
            self.say(format!("r{id} {connection}: {payload} waits"));
        }
    }

    /// What a connection's command to `gamma` is answered once the world has come to rest.
    pub fn submit(&mut self, id: ReplicaId, connection: char, gamma: GroupSet, payload: &str) {
        self.ask(id, connection, Operation::Ordered { gamma, read: false, payload: payload.to_string() });
    }

    /// A command to the engine.
    pub fn system(&mut self, id: ReplicaId, system: System) {
        self.replica_mut(id).order.submit_system(system);
    }

    /// The proxy of a replica hands on what it has.
    pub fn flush(&mut self, id: ReplicaId) -> bool {
        let now_ms = self.clock_ms(id);
        self.replica_mut(id).flush(now_ms)
    }

    /// A turn of a replica's ordering part. True if anything came of it.
    pub fn turn(&mut self, id: ReplicaId) -> bool {
        let mut actions = Actions::default();
        let clock_ms = self.clock_ms(id);
        let replica = self.replica_mut(id);
        replica.order.set_clock(clock_ms);
        replica.order.turn(&mut actions).expect("the replica goes on");
        if let Some(identity) = actions.identity {
            replica.identity = identity;
        }
        replica.ready.extend(actions.ready.iter());
        replica.fetch = actions.fetch_checkpoint;
        let some = actions.write.is_some() || !actions.frames.is_empty() || !actions.ready.is_empty();
        replica.writes.extend(actions.write);
        let leaders: Vec<_> =
            actions.leader_changes.iter().map(|log| (*log, replica.order.status()[log.index()].leader)).collect();
        leaders.iter().for_each(|(log, _)| replica.proxy.on_leader_change(*log));
        for (to, frame) in actions.frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            if !self.cut.contains(&(id, to)) {
                self.links.entry((id, to)).or_default().push_back(bytes.into());
            }
        }
        for (log, leader) in leaders {
            let name = describe::log_name(log, &self.topology);
            self.say(format!("r{id}: r{leader} leads {name}"));
        }
        self.see_committed(id);
        some
    }

    /// Tells of entries that are committed for the first time; checks that all replicas commit the same.
    fn see_committed(&mut self, id: ReplicaId) {
        for log in (0..self.topology.logs() as u8).map(LogId) {
            let replica = &mut self.replicas[usize::from(id) - 1];
            let mut entries = VecDeque::new();
            replica.engine.logs[log.index()].read(replica.seen[log.index()] + 1, usize::MAX, &mut entries);
            replica.seen[log.index()] += entries.len() as u64;
            for entry in entries {
                self.see_entry(id, &entry);
            }
        }
    }

    fn see_entry(&mut self, id: ReplicaId, entry: &Arc<Entry>) {
        let words = describe::entry(entry, &self.topology);
        let with_stamp = format!("{words} at {}", entry.stamp_ms);
        match self.committed.get(&(entry.log, entry.index)) {
            Some(known) => assert_eq!(*known, with_stamp, "replica {id} committed something else"),
            None => {
                self.say(format!("committed {words}"));
                self.committed.insert((entry.log, entry.index), with_stamp);
            }
        }
    }

    /// Hands the oldest frame of a link to its receiver. False if there is none.
    pub fn deliver(&mut self, from: ReplicaId, to: ReplicaId) -> Option<Frame> {
        let bytes = self.links.get_mut(&(from, to))?.pop_front()?;
        let frame = Frame::decode(bytes).expect("a frame decodes");
        self.replica_mut(to).order.on_frame(from, frame.clone()).expect("a frame is accepted");
        Some(frame)
    }

    /// The frames that are under way on a link.
    pub fn frames(&self, from: ReplicaId, to: ReplicaId) -> Vec<String> {
        let frames = self.links[&(from, to)].iter().map(|bytes| Frame::decode(bytes.clone()).expect("a frame decodes"));
        frames.map(|frame| describe::frame(&frame, &self.topology)).collect()
    }

    /// Runs a ready group once; `told`: with everything it says.
    pub fn execute(&mut self, id: ReplicaId, group: GroupId, in_full: bool) {
        let clock_ms = self.clock_ms(id);
        let replica = self.replica_mut(id);
        let before = replica.executed.lock().expect("no panic").len();
        let (output, told) = replica.run_group(group, clock_ms);
        let executed: Vec<_> = replica.executed.lock().expect("no panic")[before..].to_vec();
        let is_parked = replica.engine.is_parked(group);
        if in_full {
            for (gamma, payload, read) in &executed {
                let mark = if *read { "?" } else { "" };
                self.say(format!("r{id} {group:?} executes {} {payload}{mark}", describe::groups_name(*gamma)));
            }
            if is_parked {
                self.say(format!("r{id} {group:?} parks"));
            }
            let released = GroupSet(output.ready.0 & !GroupSet::one(group).0);
            if !released.is_empty() {
                self.say(format!("r{id} {group:?} releases {}", describe::groups_name(released)));
            }
        }
        self.tell(id, told, in_full);
    }

    fn tell(&mut self, id: ReplicaId, told: Told, in_full: bool) {
        let of_note = |line: &String| in_full || !(line.starts_with("replies") || line.starts_with("reads of"));
        for line in told.lines.into_iter().filter(of_note) {
            self.say(format!("r{id} {line}"));
        }
        for (connection, operation, reply) in told.answers {
            let words = reply.clone().unwrap_or_else(|| "outcome unknown".to_string());
            self.say(format!("r{id} {connection}: {} -> {words}", operation.payload()));
            self.answers.push((id, connection, operation.payload().to_string(), reply));
        }
    }

    /// Everything that moves by itself moves until nothing does; then tells what each group executed meanwhile.
    pub fn run(&mut self) {
        let marks: Vec<usize> = self.replicas.iter().map(|r| r.executed.lock().expect("no panic").len()).collect();
        let mut rounds = 0;
        while self.run_once() {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "the world does not come to rest");
        }
        self.tell_executed(&marks);
    }

    fn run_once(&mut self) -> bool {
        let mut some = false;
        for id in self.running() {
            some |= self.flush(id);
            some |= self.turn(id);
        }
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links.into_iter().filter(|link| !self.held.contains(link)).collect::<Vec<_>>() {
            if self.lives[usize::from(link.1) - 1] == Life::Running {
                some |= self.deliver(link.0, link.1).is_some();
            }
        }
        for id in self.running() {
            while !self.manual_disks.contains(&id) && self.replica_mut(id).complete_write() {
                some = true;
            }
            let ready: Vec<GroupId> = self.replica(id).ready.iter().copied().collect();
            for group in ready.into_iter().filter(|g| !self.manual_groups.contains(&(id, *g))).collect::<Vec<_>>() {
                self.execute(id, group, false);
                some = true;
            }
        }
        some
    }

    /// Per group of γ, what each replica executed since `marks`; replicas that executed the same share a line.
    fn tell_executed(&mut self, marks: &[usize]) {
        let mut lines: BTreeMap<(GroupId, String), Vec<String>> = BTreeMap::new();
        for (replica, mark) in self.replicas.iter().zip(marks) {
            let executed = replica.executed.lock().expect("no panic");
            for group in self.topology.all().iter() {
                let of_group = executed.iter().skip(*mark).filter(|(gamma, _, _)| gamma.contains(group));
                let names = of_group.map(|(_, payload, read)| format!("{payload}{}", if *read { "?" } else { "" }));
                let names = names.collect::<Vec<_>>().join(" ");
                if !names.is_empty() {
                    lines.entry((group, names)).or_default().push(format!("r{}", replica.id));
                }
            }
        }
        for ((group, names), replicas) in lines {
            self.say(format!("{group:?} executed {names} ({})", replicas.join(" ")));
        }
    }

    // Time.

    /// A tick at one replica.
    pub fn tick_one(&mut self, id: ReplicaId) {
        let clock_ms = self.clock_ms(id);
        let replica = self.replica_mut(id);
        replica.order.tick(clock_ms);
        let lagging = replica.engine.notify(replica.order.lagging_groups());
        replica.ready.extend(lagging.iter());
        let mut unknown = Vec::new();
        replica.proxy.on_clock(clock_ms, |token, _| unknown.push(token));
        assert!(unknown.is_empty(), "no script waits for a command to expire");
    }

    /// A tick everywhere, and all that comes of it.
    pub fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for id in self.running() {
            self.tick_one(id);
        }
        self.run();
    }

    /// Moves a replica's clock against the wall clock.
    pub fn set_clock_offset(&mut self, id: ReplicaId, offset_ms: i64) {
        self.clock_offsets_ms[usize::from(id) - 1] = offset_ms;
    }

    /// Whom most running replicas take for the leader of each log; 0: nobody.
    pub fn leaders(&self) -> Vec<ReplicaId> {
        let of_log = |log: usize| {
            let mut votes: BTreeMap<ReplicaId, usize> = BTreeMap::new();
            for id in self.running() {
                *votes.entry(self.replica(id).order.status()[log].leader).or_default() += 1;
            }
            votes.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(leader, _)| leader)
        };
        (0..self.topology.logs()).map(of_log).collect()
    }

    /// Ticks until every log is led by its preferred replica, quietly.
    pub fn elect(&mut self) {
        let config = self.replicas[0].order.config().clone();
        let preferred: Vec<_> = (0..self.topology.logs() as u8).map(|log| config.preferred_leader(LogId(log))).collect();
        let length = self.trace.len();
        for _ in 0..200 {
            if self.leaders() == preferred {
                self.trace.truncate(length);
                return;
            }
            self.tick();
        }
        panic!("the preferred replicas do not lead: {:?}", self.leaders());
    }

    // Faults.

    /// Cuts the link between two replicas; what is under way is lost.
    pub fn cut(&mut self, a: ReplicaId, b: ReplicaId) {
        for (from, to) in [(a, b), (b, a)] {
            self.cut.insert((from, to));
            self.links.entry((from, to)).or_default().clear();
            if self.lives[usize::from(from) - 1] != Life::Crashed {
                self.replica_mut(from).order.on_disconnected(to);
            }
        }
    }

    /// Heals the link between two replicas.
    pub fn heal(&mut self, a: ReplicaId, b: ReplicaId) {
        for (from, to) in [(a, b), (b, a)] {
            self.cut.remove(&(from, to));
            let incarnation = self.replica(to).identity.incarnation;
            self.replica_mut(from).order.on_connected(to, incarnation);
        }
    }

    /// Frames of a link stay under way until they are delivered by hand.
    pub fn hold(&mut self, from: ReplicaId, to: ReplicaId) {
        self.held.insert((from, to));
    }

    /// Ends `hold`.
    pub fn release(&mut self, from: ReplicaId, to: ReplicaId) {
        self.held.remove(&(from, to));
    }

    /// Writes of a replica's disk are completed by hand.
    pub fn hold_disk(&mut self, id: ReplicaId) {
        self.manual_disks.insert(id);
    }

    /// Ends `hold_disk`.
    pub fn release_disk(&mut self, id: ReplicaId) {
        self.manual_disks.remove(&id);
    }

    /// A replica's group is run by hand.
    pub fn hold_group(&mut self, id: ReplicaId, group: GroupId) {
        self.manual_groups.insert((id, group));
    }

    /// Ends `hold_group`.
    pub fn release_group(&mut self, id: ReplicaId, group: GroupId) {
        self.manual_groups.remove(&(id, group));
    }

    /// SIGSTOP: nothing moves in a replica, its connections stay.
    pub fn stop(&mut self, id: ReplicaId) {
        self.lives[usize::from(id) - 1] = Life::Stopped;
    }

    /// SIGCONT.
    pub fn resume(&mut self, id: ReplicaId) {
        self.lives[usize::from(id) - 1] = Life::Running;
    }

    /// A replica ends; what it had not made durable is lost.
    pub fn crash(&mut self, id: ReplicaId) {
        self.lives[usize::from(id) - 1] = Life::Crashed;
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.cut(id, other);
        }
    }

    /// The disk of a crashed replica is replaced by an empty one.
    pub fn empty(&mut self, id: ReplicaId) {
        let replica = self.replica_mut(id);
        replica.disk = Disk::default();
        replica.identity = Identity::fresh(replica.identity.incarnation + 10);
    }

    /// A crashed replica starts from its disk, and is connected to everybody.
    pub fn restart(&mut self, id: ReplicaId) {
        let at = usize::from(id) - 1;
        self.incarnations[at] += 1;
        let config = self.replica(id).order.config().clone();
        let (disk, identity) = (std::mem::take(&mut self.replica_mut(id).disk), self.replica(id).identity.clone());
        self.replicas[at] = Replica::start(config, self.incarnations[at], identity, disk);
        self.lives[at] = Life::Running;
        for other in self.ids().into_iter().filter(|other| *other != id) {
            if self.lives[usize::from(other) - 1] != Life::Crashed {
                self.heal(id, other);
            }
        }
    }

    /// A replica gets the checkpoint that it wants. False if it wants none, or there is none.
    pub fn fetch(&mut self, id: ReplicaId) -> bool {
        let Some(peer) = self.replica(id).fetch else { return false };
        let Some(checkpoint) = self.replica(peer).disk.checkpoint.clone() else { return false };
        self.say(format!("r{id} installs r{peer}'s checkpoint at x[{}]", checkpoint.0));
        let clock_ms = self.clock_ms(id);
        let told = self.replica_mut(id).install(checkpoint, clock_ms);
        self.tell(id, told, true);
        true
    }
}
