//! What a seed decides before a run starts: sizes, limits, and which faults happen when. A failing plan is reduced by taking
//! kinds of faults away and asking for fewer operations.

use crate::random::{Purpose, Random};
use psmr_core::command::ReplicaId;
use psmr_core::planted::Planted;
use std::fmt;
use std::str::FromStr;

/// A kind of fault, for taking it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A replica ends, and starts again from its disk.
    Crash,
    /// A replica ends, and starts again from an empty disk.
    Empty,
    /// A replica does nothing for a while, then goes on with what it knew.
    Pause,
    /// A connection breaks and comes back.
    Reset,
    /// Some replicas cannot reach some others for a while.
    Partition,
    /// A connection delivers nothing for a while, then everything.
    Stall,
    /// A replica's wall clock jumps.
    Clock,
    /// A replica's disk is slow for a while.
    Disk,
}

/// All kinds.
pub const FAULT_KINDS: [FaultKind; 8] = [
    FaultKind::Crash,
    FaultKind::Empty,
    FaultKind::Pause,
    FaultKind::Reset,
    FaultKind::Partition,
    FaultKind::Stall,
    FaultKind::Clock,
    FaultKind::Disk,
];

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || FAULT_KINDS.map(|kind| kind.to_string()).join(", ");
        FAULT_KINDS
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| format!("no fault {text:?}: there are {}", all()))
    }
}

/// All planted errors.
pub const PLANTED: [Planted; 9] = [
    Planted::MarkerSkipped,
    Planted::BarrierOpenedEarly,
    Planted::ReplyBeforeCommit,
    Planted::StaleRead,
    Planted::LooseMultiGroupRead,
    Planted::TornBatchAccepted,
    Planted::RetryExecutedTwice,
    Planted::GapAccepted,
    Planted::VoteWithoutMemory,
];

/// The planted error of a name.
///
/// # Errors
/// If there is none; the names that there are.
pub fn parse_planted(text: &str) -> Result<Planted, String> {
    let names = || PLANTED.map(|planted| format!("{planted:?}")).join(", ");
    let found = PLANTED.into_iter().find(|planted| format!("{planted:?}") == text);
    found.ok_or_else(|| format!("no planted error {text:?}: there are {}", names()))
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `replica` ends. `keeps_percent` of what its disk had not synced survives. `falls_back`: its newest checkpoint is unreadable.
    Crash { replica: ReplicaId, down_ms: u64, keeps_percent: u64, falls_back: bool },
    /// `replica` ends, and its disk is emptied, unless that is more than may be lost at once.
    Empty { replica: ReplicaId, down_ms: u64 },
    /// `replica` stands still.
    Pause { replica: ReplicaId, for_ms: u64 },
    /// The connection breaks.
    Reset { pair: (ReplicaId, ReplicaId) },
    /// The pairs cannot reach each other.
    Partition { pairs: Vec<(ReplicaId, ReplicaId)>, for_ms: u64 },
    /// Frames between the pair stand still.
    Stall { pair: (ReplicaId, ReplicaId), for_ms: u64 },
    /// The wall clock of `replica` jumps.
    Clock { replica: ReplicaId, by_ms: i64 },
    /// Each sync of `replica` takes this much longer.
    Disk { replica: ReplicaId, slower_ms: u64, for_ms: u64 },
}

impl Fault {
    /// Its kind.
    pub fn kind(&self) -> FaultKind {
        match self {
            Fault::Crash { .. } => FaultKind::Crash,
            Fault::Empty { .. } => FaultKind::Empty,
            Fault::Pause { .. } => FaultKind::Pause,
            Fault::Reset { .. } => FaultKind::Reset,
            Fault::Partition { .. } => FaultKind::Partition,
            Fault::Stall { .. } => FaultKind::Stall,
            Fault::Clock { .. } => FaultKind::Clock,
            Fault::Disk { .. } => FaultKind::Disk,
        }
    }
}

/// What is to be done with a seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduction {
    /// At most so many operations.
    pub operations_max: Option<usize>,
    /// Without these faults.
    pub without: Vec<FaultKind>,
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operations) = self.operations_max {
            write!(f, " --operations {operations}")?;
        }
        if !self.without.is_empty() {
            let names: Vec<String> = self.without.iter().map(ToString::to_string).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        Ok(())
    }
}

/// Everything about a run but its interleaving.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The error that is put in.
    pub planted: Option<Planted>,
    /// How many replicas.
    pub replicas: u8,
    /// k.
    pub groups: usize,
    /// S.
    pub streams: usize,
    /// Workers per replica.
    pub workers: usize,
    /// Whether disks are synced; else a replica that ends loses its memory.
    pub durable: bool,
    /// The groups' states are parts of one.
    pub shares_state: bool,
    /// How many operations clients issue in all.
    pub operations: usize,
    /// Client connections per replica.
    pub connections: usize,
    /// Operations that a connection may have outstanding.
    pub depth: usize,
    /// Registers per group.
    pub registers: u8,
    /// Bytes of log that make a replica ask for a checkpoint.
    pub checkpoint_log_bytes: usize,
    /// Bytes of a log entry, unless one batch is larger.
    pub entry_bytes_max: usize,
    /// Entries of a log that may be under way.
    pub entries_in_flight_max: u64,
    /// Bytes of batches that may wait; more is dropped.
    pub pending_bytes_max: usize,
    /// Bytes that may be committed and not delivered, per log.
    pub undelivered_bytes_max: u64,
    /// Usual delay of a frame, in microseconds.
    pub delay_us: (u64, u64),
    /// Usual time of a sync, in microseconds.
    pub sync_us: (u64, u64),
    /// Longest run of a group, in microseconds.
    pub run_us_max: u64,
    /// How long a command may wait, in log time.
    pub expiry_ms: u64,
    /// How far each replica's wall clock is off.
    pub skew_ms: Vec<i64>,
    /// When the last fault has ended.
    pub horizon_ms: u64,
    /// When (in milliseconds) and what, ascending.
    pub faults: Vec<(u64, Fault)>,
}

/// An expiry of commands that is longer than a run.
const EXPIRY_MS_USUAL: u64 = 60_000;

/// The latest time at which a fault starts.
const FAULTS_UNTIL_MS: u64 = 7_000;

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, planted: Option<Planted>, reduction: &Reduction) -> Plan {
        let mut random = Random::new(seed, Purpose::Plan);
        let replicas = random.pick(&[3, 3, 3, 3, 3, 3, 3, 5, 5, 2, 1]);
        let groups = random.within(1..=8) as usize;
        let groups = if random.chance(80) { groups.max(2) } else { groups };
        let streams = random.within(1..=groups.min(4) as u64) as usize;
        let slow = random.chance(30);
        let mut plan = Plan {
            seed,
            planted,
            replicas,
            groups,
            streams: if random.chance(70) { streams.max(2.min(groups)) } else { streams },
            workers: random.within(1..=3) as usize,
            durable: random.chance(88),
            shares_state: random.chance(30),
            operations: random.within(80..=260) as usize,
            connections: random.within(1..=3) as usize,
            depth: random.within(1..=8) as usize,
            registers: random.within(1..=3) as u8,
            checkpoint_log_bytes: random.pick(&[8_000, 12_000, 20_000, 40_000, 1 << 20]),
            entry_bytes_max: random.pick(&[200, 1 << 20]),
            entries_in_flight_max: random.pick(&[1, 2, 8]),
            pending_bytes_max: random.pick(&[1_000, 4_000, 1 << 20, 64 << 20]),
            undelivered_bytes_max: random.pick(&[1_000, 4_000, 64 << 20]),
            delay_us: random.pick(&[(50, 300), (200, 2_000), (500, 20_000), (100, 60_000)]),
            sync_us: if slow { (1_000, 30_000) } else { (80, 2_000) },
            run_us_max: random.pick(&[20, 500, 5_000, 30_000]),
            expiry_ms: random.pick(&[EXPIRY_MS_USUAL, EXPIRY_MS_USUAL, EXPIRY_MS_USUAL, 8_000, 2_500]),
            skew_ms: (0..replicas).map(|_| random.signed(-400..=400)).collect(),
            horizon_ms: 0,
            faults: Vec::new(),
        };
        plan.draw_faults(&mut random);
        plan.bound_clocks();
        plan.reduce(reduction);
        plan
    }

    /// Whether commands expire within a run.
    pub fn gives_up(&self) -> bool {
        self.expiry_ms < EXPIRY_MS_USUAL
    }

    fn draw_faults(&mut self, random: &mut Random) {
        let count = if random.chance(4) { 0 } else { random.within(1..=8) };
        let crashes = count > 0 && random.chance(88);
        for at in 0..count {
            let fault = if at == 0 && crashes { self.crash(random) } else { self.draw_fault(random) };
            self.faults.push((random.within(400..=FAULTS_UNTIL_MS), fault));
        }
        if self.replicas == 3 && random.chance(25) {
            self.leave_one_witness(random);
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// One replica is cut off while the other two go on; then one of these forgets what they did, and the other is away.
    fn leave_one_witness(&mut self, random: &mut Random) {
        let [cut_off, forgetful] = random.pick(&[[1, 2], [2, 1], [1, 3], [3, 1], [2, 3], [3, 2]]);
        let witness = 6 - cut_off - forgetful;
        let (start_ms, for_ms) = (random.within(400..=FAULTS_UNTIL_MS), random.within(500..=2_000));
        let pairs = [forgetful, witness].map(|other: ReplicaId| (other.min(cut_off), other.max(cut_off))).to_vec();
        self.faults.push((start_ms, Fault::Partition { pairs, for_ms }));
        self.faults.push((start_ms + for_ms, Fault::Empty { replica: forgetful, down_ms: random.within(50..=500) }));
        let away = Fault::Crash { replica: witness, down_ms: random.within(1_000..=4_000), keeps_percent: 0, falls_back: false };
        self.faults.push((start_ms + for_ms, away));
    }

    /// A command that was given up never takes effect later as long as clocks differ by less than a quarter of its expiry.
    fn bound_clocks(&mut self) {
        if !self.gives_up() {
            return;
        }
        self.skew_ms.iter_mut().for_each(|skew| *skew /= 4);
        for (_, fault) in &mut self.faults {
            if let Fault::Clock { by_ms, .. } = fault {
                *by_ms /= 10;
            }
        }
    }

    fn crash(&self, random: &mut Random) -> Fault {
        Fault::Crash {
            replica: self.replica(random),
            down_ms: random.within(50..=3_000),
            keeps_percent: random.within(0..=100),
            falls_back: random.chance(20),
        }
    }

    fn replica(&self, random: &mut Random) -> ReplicaId {
        random.within(1..=u64::from(self.replicas)) as ReplicaId
    }

    fn pair(&self, random: &mut Random) -> (ReplicaId, ReplicaId) {
        let a = self.replica(random);
        let b = self.replica(random);
        (a.min(b), a.max(b))
    }

    fn draw_fault(&self, random: &mut Random) -> Fault {
        let for_ms = random.within(100..=3_000);
        match random.within(0..=11) {
            0..=2 => self.crash(random),
            10 | 11 => Fault::Empty { replica: self.replica(random), down_ms: random.within(50..=3_000) },
            3 => Fault::Pause { replica: self.replica(random), for_ms },
            4 => Fault::Reset { pair: self.pair(random) },
            5 | 6 => Fault::Partition { pairs: self.cut(random), for_ms },
            7 => Fault::Stall { pair: self.pair(random), for_ms },
            8 => Fault::Clock { replica: self.replica(random), by_ms: random.signed(-1_500..=1_500) },
            _ => Fault::Disk { replica: self.replica(random), slower_ms: random.within(10..=400), for_ms },
        }
    }

    /// One pair (a bridge remains where there are three), one replica from all others, or two sides.
    fn cut(&self, random: &mut Random) -> Vec<(ReplicaId, ReplicaId)> {
        let all = || (1..=self.replicas).flat_map(|a| (a + 1..=self.replicas).map(move |b| (a, b)));
        match random.within(0..=2) {
            0 => vec![self.pair(random)],
            1 => {
                let alone = self.replica(random);
                all().filter(|(a, b)| *a == alone || *b == alone).collect()
            }
            _ => {
                let side = random.within(0..=255);
                all().filter(|(a, b)| (side >> a ^ side >> b) & 1 == 1).collect()
            }
        }
    }

    fn reduce(&mut self, reduction: &Reduction) {
        if let Some(operations) = reduction.operations_max {
            self.operations = self.operations.min(operations);
        }
        self.faults.retain(|(_, fault)| !reduction.without.contains(&fault.kind()));
        let end = |(at, fault): &(u64, Fault)| match fault {
            Fault::Crash { down_ms, .. } | Fault::Empty { down_ms, .. } => at + down_ms,
            Fault::Pause { for_ms, .. } | Fault::Partition { for_ms, .. } | Fault::Stall { for_ms, .. } => at + for_ms,
            Fault::Disk { for_ms, .. } => at + for_ms,
            Fault::Reset { .. } | Fault::Clock { .. } => *at,
        };
        self.horizon_ms = self.faults.iter().map(end).max().unwrap_or(0).max(1_000);
    }
}
