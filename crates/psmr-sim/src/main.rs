//! `psmr-sim run` runs seeds and reports what they covered; `psmr-sim replay` runs one again, exactly as before.

use psmr_core::planted::Planted;
use psmr_sim::plan::{parse_planted, Reduction};
use psmr_sim::shrink::shrink;
use psmr_sim::world::Report;
use psmr_sim::{run_seed, seeds};
use std::ops::Range;
use std::process::ExitCode;

const USAGE: &str = "usage:
  psmr-sim run --seeds A..B [--planted NAME] [--jobs N]
  psmr-sim replay SEED [--planted NAME] [--operations N] [--without FAULT,...] [--trace]
planted errors: MarkerSkipped BarrierOpenedEarly ReplyBeforeCommit StaleRead LooseMultiGroupRead TornBatchAccepted
                RetryExecutedTwice GapAccepted VoteWithoutMemory
faults: crash empty pause reset partition stall clock disk";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments) {
        Ok(code) => code,
        Err(text) => {
            eprintln!("psmr-sim: {text}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn command(arguments: &[String]) -> Result<ExitCode, String> {
    let mut rest = arguments.iter().skip(1);
    let mut options = Options::default();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seeds" => options.seeds = Some(parse_range(value()?)?),
            "--planted" => options.planted = Some(parse_planted(value()?)?),
            "--jobs" => options.jobs = number(argument, value()?)?.max(1) as usize,
            "--operations" => options.reduction.operations_max = Some(number(argument, value()?)? as usize),
            "--without" => options.reduction.without = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--trace" => options.trace = true,
            seed if !seed.starts_with('-') => options.seed = Some(number("SEED", seed)?),
            other => return Err(format!("unknown option {other}")),
        }
    }
    match arguments.first().map(String::as_str) {
        Some("run") => Ok(run(&options, options.seeds.clone().ok_or("run needs --seeds A..B")?)),
        Some("replay") => Ok(replay(&options, options.seed.ok_or("replay needs a seed")?)),
        _ => Err("run or replay?".into()),
    }
}

#[derive(Default)]
struct Options {
    seeds: Option<Range<u64>>,
    seed: Option<u64>,
    planted: Option<Planted>,
    jobs: usize,
    reduction: Reduction,
    trace: bool,
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{name} is {text:?}: a number is needed"))
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or_else(|| format!("--seeds is {text:?}: A..B is needed, as in 0..300"))?;
    Ok(number("--seeds", from)?..number("--seeds", to)?)
}

fn run(options: &Options, range: Range<u64>) -> ExitCode {
    let failed = std::sync::atomic::AtomicBool::new(false);
    let results = seeds::run(range.clone(), options.planted, options.jobs.max(1), |seed, result| {
        if let Err(failure) = result {
            println!("seed {seed}: {failure}");
            failed.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let reports: Vec<&Report> = results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    let with = |what: fn(&Report) -> bool| reports.iter().filter(|report| what(report)).count();
    let sum = |what: fn(&Report) -> u64| reports.iter().map(|report| what(report)).sum::<u64>();
    println!(
        "{} of {} seeds hold; with a leader change {}, a crash {}, a cross command {}, all three {}",
        reports.len(),
        results.len(),
        with(|r| r.leader_changes > 0),
        with(|r| r.crashes > 0),
        with(|r| r.cross_commands > 0),
        with(Report::is_rich)
    );
    println!(
        "operations answered {}, of unknown outcome {}; conditional writes that took place {}, that were too late {}; \
         checkpoints {}, installed from a peer {}; rejoined {}; simulated {} s",
        sum(|r| r.answered),
        sum(|r| r.unknown),
        sum(|r| r.conditional[1]),
        sum(|r| r.conditional[0]),
        sum(|r| r.checkpoints),
        sum(|r| r.installs),
        sum(|r| r.rejoined),
        sum(|r| r.simulated_ms) / 1_000
    );
    let Some((seed, Err(failure))) = results.iter().find(|(_, result)| result.is_err()) else { return ExitCode::SUCCESS };
    let (reduction, failure) = shrink(*seed, options.planted, failure.clone());
    let planted = options.planted.map_or(String::new(), |planted| format!(" --planted {planted:?}"));
    println!("to replay: psmr-sim replay {seed}{planted}{reduction} --trace\n{failure}");
    ExitCode::FAILURE
}

fn replay(options: &Options, seed: u64) -> ExitCode {
    match run_seed(seed, options.planted, &options.reduction, options.trace) {
        Ok(report) => {
            println!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("seed {seed}: {failure}");
            ExitCode::FAILURE
        }
    }
}
