//! A load for servers that speak a client protocol: benchmark, preload, and unique writes that are verified afterwards.
//!
//! A load is a number of connections, each with one batch of commands on its way at a time. The way of a command:
//! `workload` or `unique` decides what it asks, `wire` (`resp`) writes it, a `lane` (one thread, one event loop) sends it on a
//! `connection`, finds its reply and checks it against `item`, and `report` counts it. `timers` wake a lane to the microsecond
//! for loads on a schedule. The functions here block; another thread follows and stops them by a [`Control`].

mod connection;
mod error;
mod item;
mod lane;
mod options;
mod report;
mod resp;
mod stream;
mod timers;
mod unique;
mod verification;
mod wire;
mod workload;

pub use error::LoadError;
pub use options::{Mode, NativeService, Options, Protocol, Spread};
pub use report::{Latency, Report};
pub use unique::Acknowledged;
pub use verification::{verify, AddressVerification, Verification};

use item::Format;
use lane::{Lane, Pace, Plan};
use options::Endpoint;
use report::Tally;
use resp::Resp;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::Arc;
use std::time::{Duration, Instant};
use unique::UniqueWrites;
use workload::{KeySpace, Preload, Workload};

/// Commands in flight per connection of a preload or a verification, unless values are large.
const BULK_DEPTH: usize = 128;
/// Bytes of values in flight per connection of a preload or a verification, at least one value.
const BULK_BYTES: usize = 1 << 20;
/// Connections of a preload.
const BULK_CONNECTIONS: usize = 8;

/// What a load shares with the thread that follows it. One for each call of [`run`], [`preload`] or [`verify`].
#[derive(Debug, Default)]
pub struct Control {
    /// Set it to end the call within a tenth of a second.
    pub stop: AtomicBool,
    /// Commands with a right reply so far.
    pub completed: AtomicU64,
    /// Commands with a wrong or an error reply so far.
    pub errors: AtomicU64,
}

/// Runs a load to its end. Connections are all made before the clock starts. Ends at the latest `reply_timeout_seconds` after
/// the last command was sent; if the stop flag is set, with `Report::interrupted`.
pub fn run(options: &Options, control: &Control) -> Result<Report, LoadError> {
    options.validate()?;
    let setup = Setup::new(options)?;
    let plan = Plan {
        endpoints: setup.endpoints.clone(),
        format: setup.format.clone(),
        depth: options.depth,
        together: options.together,
        tolerate_disconnects: options.tolerate_disconnects,
        reply_timeout: Duration::from_secs_f64(options.reply_timeout_seconds),
        native: options.native.clone().filter(|_| options.protocol == Protocol::Native),
        wait_replicas: options.wait_replicas,
        send_for: Some(Duration::from_secs_f64(options.seconds)),
        pace: (options.rate > 0.0).then(|| Pace {
            step_ns: (options.depth * options.together) as f64 / options.rate * 1e9,
            connections: options.connections,
        }),
    };
    let lanes = setup.lanes(options.connections, options.threads);
    match options.mode {
        Mode::KeySpace => {
            let workloads = (0..options.threads).map(|thread| KeySpace::new(options, thread));
            Ok(drive(&plan, lanes, workloads, control)?.0)
        }
        Mode::UniqueWrites => {
            let numbers = |lane: &Placement| lane.iter().map(|(number, _)| *number).collect::<Vec<_>>();
            let workloads: Vec<UniqueWrites> =
                lanes.iter().enumerate().map(|(thread, lane)| UniqueWrites::new(options, thread, &numbers(lane))).collect();
            let (mut report, workloads) = drive(&plan, lanes, workloads.into_iter(), control)?;
            let writers = workloads.into_iter().flat_map(UniqueWrites::into_writers).collect();
            report.acknowledged = Some(Acknowledged::new(setup.format, writers));
            Ok(report)
        }
    }
}

/// Writes every key of the load's key space once, pipelined, over the Redis protocol. `Control::completed` goes up to `Options::keys`.
pub fn preload(options: &Options, control: &Control) -> Result<Report, LoadError> {
    options.validate()?;
    let setup = Setup::new(options)?;
    let plan = bulk_plan(setup.endpoints.clone(), setup.format.clone(), options.reply_timeout_seconds);
    let lanes = setup.lanes(BULK_CONNECTIONS.min(options.connections), 1);
    let (report, _) = drive(&plan, lanes, std::iter::once(Preload::new(options.keys)), control)?;
    if report.interrupted {
        return Err(LoadError::Interrupted);
    }
    Ok(report)
}

fn bulk_plan(endpoints: Arc<Vec<Endpoint>>, format: Format, reply_timeout_seconds: f64) -> Plan {
    Plan {
        depth: (BULK_BYTES / format.value_bytes).clamp(1, BULK_DEPTH),
        together: 1,
        endpoints,
        format,
        tolerate_disconnects: false,
        reply_timeout: Duration::from_secs_f64(reply_timeout_seconds),
        native: None,
        wait_replicas: 0,
        send_for: None,
        pace: None,
    }
}

/// The connections of one lane: number over all threads, and endpoint.
type Placement = Vec<(usize, usize)>;

/// What a load needs before it can connect.
struct Setup {
    endpoints: Arc<Vec<Endpoint>>,
    spread: Spread,
    format: Format,
}

impl Setup {
    fn new(options: &Options) -> Result<Self, LoadError> {
        let per_writer = options.mode == Mode::UniqueWrites;
        let tagged = if options.is_tagged { options.together as u64 } else { 1 };
        let format = Format { prefix: options.key_prefix.clone(), per_writer, tagged, value_bytes: options.value_bytes };
        Ok(Setup { endpoints: Arc::new(Endpoint::resolve_all(&options.addresses)?), spread: options.spread, format })
    }

    fn lanes(&self, connections: usize, threads: usize) -> Vec<Placement> {
        let endpoints = match self.spread {
            Spread::All => self.endpoints.len(),
            Spread::One => 1,
        };
        let numbers = |thread: usize| (thread..connections).step_by(threads);
        (0..threads).map(|thread| numbers(thread).map(|number| (number, number % endpoints)).collect()).collect()
    }
}

/// Runs one workload per lane. The commands are those of the Redis protocol, also where a native client carries them.
fn drive<L: Workload>(
    plan: &Plan,
    lanes: Vec<Placement>,
    workloads: impl Iterator<Item = L>,
    control: &Control,
) -> Result<(Report, Vec<L>), LoadError> {
    let wire = Resp::new(plan.format.clone());
    let mut running = Vec::with_capacity(lanes.len());
    for (placement, workload) in lanes.into_iter().zip(workloads) {
        running.push(Lane::connect(plan, wire.clone(), workload, placement.into_iter(), control)?);
    }
    let abort = AtomicBool::new(false);
    let start = Instant::now();
    let finished = std::thread::scope(|scope| {
        let threads: Vec<_> = running
            .into_iter()
            .map(|mut lane| {
                let abort = &abort;
                scope.spawn(move || lane.run(start, control, abort).map(|()| lane.into_parts()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let finished: Result<Vec<(Tally, L)>, LoadError> = finished;
    let (tallies, workloads): (Vec<Tally>, Vec<L>) = finished?.into_iter().unzip();
    Ok((Tally::report(tallies.iter(), plan.tolerate_disconnects), workloads))
}
