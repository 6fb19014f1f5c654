//! Measures what a turn of the log costs on a disk: `cargo run --release -p psmr-node --example log_latency -- DIR [turns]
//! [bytes]` writes and syncs batches of `bytes` (16 KiB) in a new log in DIR, trims as checkpoints would, and prints the
//! latency of write and sync together, and the processor time per turn, also on recycled segments.

use bytes::Bytes;
use psmr_core::command::LogId;
use psmr_core::log::{EntryKind, HardState, LogEntry, LogRecord, LogStorage};
use psmr_node::log_storage::{FileLog, FileLogOptions};
use rustix::time::{clock_gettime, ClockId};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LOGS: usize = 4;
/// A trim goes back this far, so that segments are recycled all along.
const ENTRIES_KEPT: u64 = 1000;

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |place: usize, default: u64| match arguments.get(place) {
        Some(text) => text.parse().map_err(|_| format!("{text} is not a number")),
        None => Ok(default),
    };
    let directory = PathBuf::from(arguments.get(1).ok_or("usage: log_latency DIR [turns] [bytes]; DIR must exist")?);
    let (turns, bytes) = (number(2, 8000)?, number(3, 16 << 10)?);
    let (mut log, _) =
        FileLog::open(&directory.join("latency-log"), FileLogOptions::default(), LOGS).map_err(|error| error.to_string())?;
    let data = Bytes::from(vec![0x5a; bytes as usize / LOGS]);
    for phase in ["first half", "second half (recycled segments)"] {
        let first = if phase.starts_with("first") { 1 } else { turns / 2 + 1 };
        let (cpu, mut latencies) = (cpu_time(), Vec::new());
        for index in first..first + turns / 2 {
            let records = turn(index, &data);
            let begin = Instant::now();
            log.write(&records)?;
            log.sync()?;
            latencies.push(begin.elapsed());
        }
        report(phase, latencies, cpu_time() - cpu);
    }
    println!("segments in use: {}", log.segments_len());
    drop(log);
    std::fs::remove_dir_all(directory.join("latency-log")).map_err(|error| error.to_string())
}

/// What one turn writes: an entry and a hard state for each log, and now and then a trim.
fn turn(index: u64, data: &Bytes) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for log in (0..LOGS as u8).map(LogId) {
        records.push(LogRecord::Append(log, LogEntry { index, term: 1, kind: EntryKind::Normal, data: data.clone() }));
        records.push(LogRecord::HardState(log, HardState { term: 1, vote: 1, commit: index - 1 }));
        if index % 100 == 0 && index > ENTRIES_KEPT {
            records.push(LogRecord::Start { log, index: index - ENTRIES_KEPT, term: 1 });
        }
    }
    records
}

fn report(phase: &str, mut latencies: Vec<Duration>, cpu: Duration) {
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{phase}: write + sync p50 {} us, p90 {} us, p99 {} us, p99.9 {} us, max {} us; processor {:.1} us per turn, all threads",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0),
        cpu.as_secs_f64() * 1e6 / latencies.len() as f64
    );
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
