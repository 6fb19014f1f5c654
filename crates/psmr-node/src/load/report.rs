//! What a load did: counted per thread, then put together.

use super::unique::Acknowledged;
use hdrhistogram::Histogram;
use serde_json::{json, Value};

/// Texts kept of errors, and of disconnects.
const TEXTS_MAX: usize = 8;
/// Latencies are told apart from here, in nanoseconds.
const LATENCY_NS_MIN: u64 = 100;
/// Longer latencies are counted as this.
const LATENCY_NS_MAX: u64 = 7_200_000_000_000;
/// Length of a bucket of the timeline, in nanoseconds.
const BUCKET_NS: u64 = 100_000_000;

/// Latency of commands, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Half of the commands took at most this.
    pub p50: f64,
    /// 99 of 100 took at most this.
    pub p99: f64,
    /// 999 of 1,000 took at most this.
    pub p999: f64,
    /// The slowest took this.
    pub max: f64,
    /// On the average.
    pub mean: f64,
}

/// What a load did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Commands with a right reply.
    pub commands: u64,
    /// Of them, writes.
    pub writes: u64,
    /// Of them, reads, those that found nothing included.
    pub reads: u64,
    /// Reads that rightly found nothing.
    pub reads_empty: u64,
    /// Commands with an error reply or a wrong reply.
    pub errors: u64,
    /// Of them, wrong replies: of another kind, with a wrong value, or without the value that was acknowledged.
    pub wrong: u64,
    /// The first errors, in words.
    pub first_errors: Vec<String>,
    /// Connections that broke and were made again.
    pub disconnects: u64,
    /// The first of them, in words, failed attempts to connect included.
    pub first_disconnects: Vec<String>,
    /// Commands without a reply: their connection broke, or the load was interrupted.
    pub unknown: u64,
    /// Commands that the schedule of `rate` asked for and that were not sent in time, because the servers were slower.
    pub unsent: u64,
    /// From the first command to the last reply.
    pub seconds: f64,
    /// `commands` by `seconds`.
    pub per_second: f64,
    /// Of the commands with a right reply.
    pub latency_us: Latency,
    /// Counts by latency: upper bound in microseconds (powers of two) and number of commands.
    pub latency_histogram_us: Vec<(u64, u64)>,
    /// Commands with a right reply in each tenth of a second.
    pub timeline_100ms: Vec<u64>,
    /// CPU time of the load's own threads.
    pub client_cpu_us: f64,
    /// The stop flag ended it early.
    pub interrupted: bool,
    /// The run must not be taken for a good one: there were wrong replies, or error replies where none are tolerated.
    pub failed: bool,
    /// The acknowledged writes (`Mode::UniqueWrites`).
    pub acknowledged: Option<Acknowledged>,
}

impl Report {
    /// Everything but the acknowledged writes themselves, of which there is the number.
    pub fn to_json(&self) -> Value {
        let latency = &self.latency_us;
        let per_command = if self.commands == 0 { 0.0 } else { self.client_cpu_us / self.commands as f64 };
        json!({
            "commands": self.commands,
            "writes": self.writes,
            "reads": self.reads,
            "reads_empty": self.reads_empty,
            "errors": self.errors,
            "wrong": self.wrong,
            "first_errors": self.first_errors,
            "disconnects": self.disconnects,
            "first_disconnects": self.first_disconnects,
            "unknown": self.unknown,
            "unsent": self.unsent,
            "seconds": rounded(self.seconds, 1e6),
            "per_second": rounded(self.per_second, 10.0),
            "latency_us": {
                "p50": latency.p50,
                "p99": latency.p99,
                "p999": latency.p999,
                "max": latency.max,
                "mean": latency.mean,
            },
            "latency_histogram_us": self.latency_histogram_us,
            "timeline_100ms": self.timeline_100ms,
            "client_cpu_us": rounded(self.client_cpu_us, 1.0),
            "client_cpu_us_per_command": rounded(per_command, 1e4),
            "interrupted": self.interrupted,
            "failed": self.failed,
            "acknowledged_writes": self.acknowledged.as_ref().map(Acknowledged::count),
        })
    }
}

fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

/// The counts of one thread.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub reads: u64,
    pub writes: u64,
    pub reads_empty: u64,
    pub errors: u64,
    pub wrong: u64,
    pub first_errors: Vec<String>,
    pub disconnects: u64,
    pub first_disconnects: Vec<String>,
    pub unknown: u64,
    pub unsent: u64,
    /// When the last right reply came, from the start.
    pub last_reply_ns: u64,
    pub cpu_ns: u64,
    pub interrupted: bool,
    latency: Histogram<u64>,
    timeline: Vec<u64>,
}

impl Tally {
    pub fn new() -> Self {
        Tally {
            reads: 0,
            writes: 0,
            reads_empty: 0,
            errors: 0,
            wrong: 0,
            first_errors: Vec::new(),
            disconnects: 0,
            first_disconnects: Vec::new(),
            unknown: 0,
            unsent: 0,
            last_reply_ns: 0,
            cpu_ns: 0,
            interrupted: false,
            latency: Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("the bounds are sound"),
            timeline: Vec::new(),
        }
    }

    /// Commands with a right reply.
    pub fn commands(&self) -> u64 {
        self.reads + self.writes
    }

    /// Commands whose right replies were all there at `now`.
    #[inline]
    pub fn completed(&mut self, commands: u64, latency_ns: u64, now: u64) {
        if commands == 0 {
            return;
        }
        self.latency.saturating_record_n(latency_ns, commands);
        let bucket = (now / BUCKET_NS) as usize;
        if bucket >= self.timeline.len() {
            self.timeline.resize(bucket + 1, 0);
        }
        self.timeline[bucket] += commands;
        self.last_reply_ns = now;
    }

    /// Keeps one of the first texts.
    pub fn note_error(&mut self, text: impl FnOnce() -> String) {
        note(&mut self.first_errors, text);
    }

    /// Keeps one of the first texts.
    pub fn note_disconnect(&mut self, text: impl FnOnce() -> String) {
        note(&mut self.first_disconnects, text);
    }

    fn add(&mut self, other: &Tally) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.reads_empty += other.reads_empty;
        self.errors += other.errors;
        self.wrong += other.wrong;
        self.disconnects += other.disconnects;
        self.unknown += other.unknown;
        self.unsent += other.unsent;
        self.cpu_ns += other.cpu_ns;
        self.interrupted |= other.interrupted;
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        other.first_errors.iter().for_each(|text| self.note_error(|| text.clone()));
        other.first_disconnects.iter().for_each(|text| self.note_disconnect(|| text.clone()));
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        if self.timeline.len() < other.timeline.len() {
            self.timeline.resize(other.timeline.len(), 0);
        }
        self.timeline.iter_mut().zip(&other.timeline).for_each(|(sum, part)| *sum += part);
    }

    /// Puts the threads' counts together. `tolerate`: error replies do not make the run a failure.
    pub fn report<'a>(parts: impl Iterator<Item = &'a Tally>, tolerate: bool) -> Report {
        let mut all = Tally::new();
        parts.for_each(|part| all.add(part));
        let seconds = all.last_reply_ns as f64 / 1e9;
        Report {
            commands: all.commands(),
            writes: all.writes,
            reads: all.reads,
            reads_empty: all.reads_empty,
            errors: all.errors,
            wrong: all.wrong,
            disconnects: all.disconnects,
            unknown: all.unknown,
            unsent: all.unsent,
            seconds,
            per_second: if seconds > 0.0 { all.commands() as f64 / seconds } else { 0.0 },
            latency_us: all.latency(),
            latency_histogram_us: all.latency_histogram_us(),
            client_cpu_us: all.cpu_ns as f64 / 1e3,
            interrupted: all.interrupted,
            failed: all.wrong > 0 || (all.errors > 0 && !tolerate),
            first_errors: all.first_errors,
            first_disconnects: all.first_disconnects,
            timeline_100ms: all.timeline,
            acknowledged: None,
        }
    }

    fn latency(&self) -> Latency {
        if self.latency.is_empty() {
            return Latency::default();
        }
        let microseconds = |nanoseconds: f64| rounded(nanoseconds / 1e3, 10.0);
        let quantile = |share: f64| microseconds(self.latency.value_at_quantile(share) as f64);
        Latency {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: microseconds(self.latency.max() as f64),
            mean: microseconds(self.latency.mean()),
        }
    }

    fn latency_histogram_us(&self) -> Vec<(u64, u64)> {
        let buckets = self.latency.iter_log(1_000, 2.0);
        let counts = buckets.map(|bucket| ((bucket.value_iterated_to() + 1) / 1_000, bucket.count_since_last_iteration()));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

fn note(texts: &mut Vec<String>, text: impl FnOnce() -> String) {
    if texts.len() < TEXTS_MAX {
        texts.push(text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(batches: &[(u64, u64, u64)]) -> Tally {
        let mut tally = Tally::new();
        for (commands, latency_ns, now) in batches {
            tally.writes += commands;
            tally.completed(*commands, *latency_ns, *now);
        }
        tally
    }

    #[test]
    fn threads_are_added_up() {
        let parts = [tally(&[(10, 50_000, 50_000_000), (10, 100_000, 250_000_000)]), tally(&[(20, 400_000, 500_000_000)])];
        let report = Tally::report(parts.iter(), false);
        assert_eq!((report.commands, report.seconds, report.per_second), (40, 0.5, 80.0));
        assert_eq!(report.timeline_100ms, vec![10, 0, 10, 0, 0, 20]);
        assert!((report.latency_us.p50 - 100.0).abs() < 0.2, "{:?}", report.latency_us);
        assert!((report.latency_us.max - 400.0).abs() < 0.5, "{:?}", report.latency_us);
        assert_eq!(report.latency_histogram_us.iter().map(|(_, count)| count).sum::<u64>(), 40);
        assert_eq!(report.latency_histogram_us.iter().map(|(bound, _)| *bound).collect::<Vec<_>>(), vec![64, 128, 512]);
    }

    #[test]
    fn wrong_replies_fail_a_run_and_refused_ones_unless_tolerated() {
        let refused = Tally { errors: 1, ..Tally::new() };
        let wrong = Tally { errors: 1, wrong: 1, ..Tally::new() };
        assert!(Tally::report([&refused].into_iter(), false).failed);
        assert!(!Tally::report([&refused].into_iter(), true).failed);
        assert!(Tally::report([&wrong].into_iter(), true).failed);
        assert!(!Tally::report([&Tally::new()].into_iter(), false).failed);
    }

    #[test]
    fn the_json_has_the_figures_of_a_benchmark() {
        let json = Tally::report([&tally(&[(10, 50_000, 50_000_000)])].into_iter(), false).to_json();
        for key in ["commands", "errors", "per_second", "client_cpu_us", "timeline_100ms", "disconnects", "unknown"] {
            assert!(!json[key].is_null(), "{key}");
        }
        for key in ["p50", "p99", "p999", "max"] {
            assert!(json["latency_us"][key].as_f64().unwrap() > 0.0, "{key}");
        }
        assert!(json["acknowledged_writes"].is_null());
    }
}
