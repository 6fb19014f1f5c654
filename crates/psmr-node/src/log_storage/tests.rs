//! Tests of the whole log that need to see inside: crashes at any byte against a model, and failing writes and syncs.

use super::segment::{FaultHook, FileOperation};
use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

const LOGS: usize = 3;
const OPTIONS: FileLogOptions = FileLogOptions { segment_bytes: 2048, spare_segments_max: 2 };

/// A memory file system where there is one: these tests sync thousands of times, and what is tested is not the disk.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

fn open(path: &Path) -> (FileLog, Vec<RecoveredLog>) {
    FileLog::open(path, OPTIONS, LOGS).expect("open")
}

fn entry(index: u64, term: u64, length: usize) -> LogEntry {
    let data = Bytes::from(vec![(index % 251) as u8; length]);
    LogEntry { index, term, kind: EntryKind::Normal, data }
}

/// What `LogStorage` promises, in the simplest way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(Vec<RecoveredLog>);

impl Model {
    fn new() -> Model {
        Model(vec![RecoveredLog::default(); LOGS])
    }

    fn last(&self, log: usize) -> u64 {
        self.0[log].start.0 + self.0[log].entries.len() as u64
    }

    fn apply(&mut self, record: &LogRecord) {
        match record {
            LogRecord::Append(log, entry) => {
                let log = &mut self.0[log.index()];
                log.entries.retain(|old| old.index < entry.index);
                log.entries.push(entry.clone());
            }
            LogRecord::HardState(log, hard_state) => self.0[log.index()].hard_state = *hard_state,
            LogRecord::Start { log, index, term } => {
                let log = &mut self.0[log.index()];
                if *index > log.start.0 {
                    let is_known = log.entries.iter().any(|entry| (entry.index, entry.term) == (*index, *term));
                    log.entries.retain(|entry| is_known && entry.index > *index);
                    log.start = (*index, *term);
                }
            }
        }
    }
}

/// A choice of what to do next; made valid against the model when it is used.
#[derive(Clone, Debug)]
enum Step {
    Append { log: usize, back: u64, count: u64, length: usize, term: u64 },
    HardState { log: usize, term: u64, vote: u64, commit: u64 },
    Start { log: usize, ahead: u64, is_known: bool },
    Sync,
    Reopen,
    Crash { keep: prop::sample::Index, is_slot_old: bool, is_torn_in_sectors: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (0..LOGS, prop_oneof![5 => Just(0), 1 => 0..5u64], 1..5u64, 0..400usize, 0..3u64)
        .prop_map(|(log, back, count, length, term)| Step::Append { log, back, count, length, term });
    let hard_state =
        (0..LOGS, 0..9u64, 0..4u64, 0..99u64).prop_map(|(log, term, vote, commit)| Step::HardState { log, term, vote, commit });
    let start =
        (0..LOGS, 0..12u64, prop::bool::weighted(0.9)).prop_map(|(log, ahead, is_known)| Step::Start { log, ahead, is_known });
    let crash = (any::<prop::sample::Index>(), any::<bool>(), any::<bool>())
        .prop_map(|(keep, is_slot_old, is_torn_in_sectors)| Step::Crash { keep, is_slot_old, is_torn_in_sectors });
    let step = prop_oneof![8 => append, 2 => hard_state, 3 => start, 5 => Just(Step::Sync), 1 => Just(Step::Reopen), 2 => crash];
    prop::collection::vec(step, 1..80)
}

/// A log, and all states that it has been in since the last sync.
struct Run {
    path: PathBuf,
    log: Option<FileLog>,
    /// The state known synced, then the one after each record.
    states: Vec<Model>,
    /// Active segment's file and content at the last sync.
    synced: (PathBuf, Vec<u8>),
    /// The slot's content when the log was opened: the last that is certain to be on the disk.
    opened_slot: Vec<u8>,
}

impl Run {
    fn new(path: PathBuf) -> Run {
        let (log, _) = open(&path);
        let opened_slot = std::fs::read(path.join("synced.psmr")).expect("slot");
        let mut run = Run { path, log: Some(log), states: vec![Model::new()], synced: Default::default(), opened_slot };
        run.note_synced();
        run
    }

    fn log(&mut self) -> &mut FileLog {
        self.log.as_mut().expect("open")
    }

    fn model(&self) -> &Model {
        self.states.last().expect("never empty")
    }

    fn note_synced(&mut self) {
        self.states.drain(..self.states.len() - 1);
        let active = self.log().active.path().to_path_buf();
        let content = std::fs::read(&active).expect("segment");
        self.synced = (active, content);
    }

    fn write(&mut self, records: &[LogRecord]) {
        self.log().write(records).expect("write");
        for record in records {
            let mut next = self.model().clone();
            next.apply(record);
            self.states.push(next);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { log, back, count, length, term } => {
                let held = &self.model().0[*log];
                let first = (self.model().last(*log) + 1).saturating_sub(*back).max(held.start.0 + 1);
                let id = LogId(*log as u8);
                let records: Vec<_> =
                    (first..first + count).map(|index| LogRecord::Append(id, entry(index, first / 7 + term, *length))).collect();
                self.write(&records);
            }
            Step::HardState { log, term, vote, commit } => {
                let hard_state = HardState { term: *term, vote: *vote, commit: *commit };
                self.write(&[LogRecord::HardState(LogId(*log as u8), hard_state)]);
            }
            Step::Start { log, ahead, is_known } => {
                let held = &self.model().0[*log];
                let index = held.start.0 + ahead;
                let known = held.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term);
                let term = if *is_known { known.unwrap_or(50) } else { 99 };
                self.write(&[LogRecord::Start { log: LogId(*log as u8), index, term }]);
            }
            Step::Sync => {
                self.log().sync().expect("sync");
                self.note_synced();
            }
            Step::Reopen => self.reopen(self.states.len() - 1),
            Step::Crash { keep, is_slot_old, is_torn_in_sectors } => self.crash(keep, *is_slot_old, *is_torn_in_sectors),
        }
    }

    /// Ends the log as a kill does and opens it again: at least the first `kept` records since the last sync come back.
    fn reopen(&mut self, kept: usize) {
        self.log = None;
        let (log, found) = open(&self.path);
        let found = Model(found);
        // Later states first: a record may change nothing.
        let reached = self.states.iter().rposition(|state| *state == found);
        let reached = reached.unwrap_or_else(|| panic!("no state since the last sync: {found:?}\n{:?}", self.states));
        assert!(reached >= kept, "record {reached} of {} reached, at least {kept} were kept", self.states.len() - 1);
        self.states.truncate(reached + 1);
        self.log = Some(log);
        self.opened_slot = std::fs::read(self.path.join("synced.psmr")).expect("slot");
        self.note_synced();
    }

    /// Loses power: of the bytes written since the last sync a prefix reaches the disk, or any of the sectors.
    fn crash(&mut self, keep: &prop::sample::Index, is_slot_old: bool, is_torn_in_sectors: bool) {
        let log = self.log.take().expect("open");
        let active = log.active.path().to_path_buf();
        drop(log);
        let now = std::fs::read(&active).expect("segment");
        let (path, content) = &self.synced;
        let mut before = content.clone();
        if *path != active {
            // Begun since: the change of segments synced the one before, and in this one only the header is durable.
            before = vec![0; now.len()];
            before[..SEGMENT_HEADER_BYTES].copy_from_slice(&now[..SEGMENT_HEADER_BYTES]);
        }
        if is_slot_old {
            std::fs::write(self.path.join("synced.psmr"), &self.opened_slot).expect("slot");
        }
        let changed: Vec<usize> = (0..now.len()).filter(|&at| now[at] != before[at]).collect();
        let (Some(first), Some(last)) = (changed.first(), changed.last()) else { return self.reopen(0) };
        let mut torn = now.clone();
        let cut = first + keep.index(last - first + 2);
        if is_torn_in_sectors {
            for (number, sector) in torn.chunks_mut(512).enumerate() {
                if keep.index(1 << 20) >> (number % 20) & 1 == 1 {
                    sector.copy_from_slice(&before[number * 512..number * 512 + sector.len()]);
                }
            }
        } else {
            torn[cut.min(now.len())..].copy_from_slice(&before[cut.min(now.len())..]);
        }
        std::fs::write(&active, torn).expect("segment");
        self.reopen(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any history, crashes included, a log holds what it was told, up to a record that is not before the last sync.
    #[test]
    fn what_was_synced_comes_back_and_nothing_else(steps in steps()) {
        let directory = directory();
        let mut run = Run::new(directory.path().join("log"));
        for step in &steps {
            run.step(step);
        }
        run.reopen(run.states.len() - 1);
    }
}

/// Lets operations of one kind fail while the switch is on.
fn failing(operation: FileOperation, is_on: &Arc<AtomicBool>) -> FaultHook {
    let is_on = Arc::clone(is_on);
    Arc::new(move |asked| match asked == operation && is_on.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(5)),
        false => Ok(()),
    })
}

fn fails_for_ever_after(operation: FileOperation) {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open(&path);
    let is_on = Arc::new(AtomicBool::new(false));
    log.active = SegmentFile::open(log.active.path().into()).expect("segment").with_fault(Some(failing(operation, &is_on)));
    log.write(&[LogRecord::Append(LogId(1), entry(1, 1, 10))]).expect("write");
    log.sync().expect("sync");
    is_on.store(true, Ordering::Relaxed);
    let second = [LogRecord::Append(LogId(1), entry(2, 1, 10))];
    let line = log.write(&second).and_then(|()| log.sync()).expect_err("fault");
    assert!(line.contains("segment-0000000001.psmr") && line.contains("; ") && !line.contains('\n'), "{line}");
    is_on.store(false, Ordering::Relaxed);
    assert_eq!(log.sync(), Err(line.clone()), "a sync is not tried again");
    assert_eq!(log.write(&second), Err(line));
    drop(log);
    let (_, found) = open(&path);
    assert_eq!(found[1].entries[0], entry(1, 1, 10));
}

#[test]
fn a_failed_sync_ends_the_log() {
    fails_for_ever_after(FileOperation::Sync);
}

#[test]
fn a_failed_write_ends_the_log() {
    fails_for_ever_after(FileOperation::Write);
}

#[test]
fn a_fault_in_a_later_segment_is_noticed_too() {
    let directory = directory();
    let (mut log, _) = open(&directory.path().join("log"));
    let is_on = Arc::new(AtomicBool::new(false));
    log.active =
        SegmentFile::open(log.active.path().into()).expect("segment").with_fault(Some(failing(FileOperation::Sync, &is_on)));
    for index in 1..=20 {
        log.write(&[LogRecord::Append(LogId(0), entry(index, 1, 300))]).expect("write");
    }
    assert!(log.number > 1);
    is_on.store(true, Ordering::Relaxed);
    assert!(log.sync().is_err());
}

#[test]
fn what_raft_must_not_ask_for_is_refused_and_ends_the_log() {
    let wrong = [
        LogRecord::Append(LogId(0), entry(2, 1, 1)),
        LogRecord::Append(LogId(LOGS as u8), entry(1, 1, 1)),
        LogRecord::Append(LogId(0), entry(1, 1, 2000)),
        LogRecord::HardState(LogId(LOGS as u8), HardState::default()),
    ];
    for record in wrong {
        let directory = directory();
        let (mut log, _) = open(&directory.path().join("log"));
        let line = log.write(std::slice::from_ref(&record)).expect_err("refused");
        assert_eq!(log.sync(), Err(line), "{record:?}");
    }
}

#[test]
fn the_largest_entry_fits_and_one_byte_more_does_not() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open(&path);
    let largest = log.entry_bytes_max();
    for index in 1..=3 {
        log.write(&[LogRecord::Append(LogId(0), entry(index, 1, largest))]).expect("fits");
    }
    log.sync().expect("sync");
    let line = log.write(&[LogRecord::Append(LogId(0), entry(4, 1, largest + 1))]).expect_err("too large");
    assert!(line.contains(&largest.to_string()), "{line}");
    drop(log);
    assert_eq!(open(&path).1[0].entries.len(), 3);
}

#[test]
fn a_replicas_log_takes_the_longest_entry_that_can_be_proposed() {
    let logs = psmr_core::command::GROUPS_MAX + 1;
    assert!(record_bytes_max(&FileLogOptions::default(), logs) >= record_bytes(psmr_core::config::ENTRY_BYTES_MAX));
}

/// Records of 104 bytes, of which 37 end at a page's end, behind a segment's header and state. So 37 of them are written
/// without zeros behind them, and what stood there before decides what is read next.
const PAYLOAD_BYTES: usize = 64;
const RECORDS_PER_PAGE: u64 = 37;
const PAGED: FileLogOptions = FileLogOptions { segment_bytes: 3 * PAGE_BYTES as u64, spare_segments_max: 2 };

fn open_paged(path: &Path) -> (FileLog, Vec<RecoveredLog>) {
    FileLog::open(path, PAGED, LOGS).expect("open")
}

fn batch(indices: std::ops::RangeInclusive<u64>, term: u64) -> Vec<LogRecord> {
    indices.map(|index| LogRecord::Append(LogId(0), entry(index, term, PAYLOAD_BYTES))).collect()
}

fn flip(path: &Path, number: u32, offset: usize) {
    let segment = segment_path(path, number);
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[offset] ^= 1;
    std::fs::write(&segment, bytes).expect("write");
}

/// A batch whose first record is torn away while later ones reached the disk must not come back when new records are
/// written in its place.
#[test]
fn cut_records_stay_cut() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open_paged(&path);
    let first_at = log.end().offset as usize;
    log.write(&batch(1..=60, 1)).expect("write");
    drop(log);
    flip(&path, 1, first_at);
    let (mut log, found) = open_paged(&path);
    assert_eq!((found[0].entries.len(), log.recovery().records_cut), (0, 59));
    log.write(&batch(1..=RECORDS_PER_PAGE, 2)).expect("write");
    assert_eq!(log.end().offset as usize, PAGE_BYTES);
    drop(log);
    let (log, found) = open_paged(&path);
    assert_eq!((found[0].entries.len() as u64, log.recovery().records_cut), (RECORDS_PER_PAGE, 0));
    assert!(found[0].entries.iter().all(|entry| entry.term == 2));
}

/// The same where the torn batch began a segment: what is left of it stands behind a segment that is not begun.
#[test]
fn cut_records_at_the_start_of_a_segment_stay_cut() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open_paged(&path);
    let mut next = 1;
    while log.fits(record_bytes(PAYLOAD_BYTES)) {
        log.write(&batch(next..=next, 1)).expect("write");
        next += 1;
    }
    log.write(&batch(next..=next + 59, 1)).expect("write");
    assert_eq!(log.number, 2);
    drop(log);
    flip(&path, 2, SEGMENT_HEADER_BYTES);
    let (mut log, found) = open_paged(&path);
    assert_eq!((found[0].entries.len() as u64, log.recovery().records_cut), (next - 1, 60));
    log.write(&batch(next..=next + RECORDS_PER_PAGE - 1, 2)).expect("write");
    assert_eq!(log.end(), Position { segment: 2, offset: PAGE_BYTES as u32 });
    drop(log);
    let (log, found) = open_paged(&path);
    assert_eq!((found[0].entries.len() as u64, log.recovery().records_cut), (next - 1 + RECORDS_PER_PAGE, 0));
}

/// A record of which half reached the disk is cut; a later one of the same payload, of which the other half does, must not
/// complete it.
#[test]
fn half_a_cut_record_is_not_completed_by_a_later_one() {
    const PAYLOAD_BYTES: usize = 1000;
    let directory = directory();
    let path = directory.path().join("log");
    let record = |term| [LogRecord::Append(LogId(0), LogEntry { term, ..entry(1, 1, PAYLOAD_BYTES) })];
    let segment = segment_path(&path, 1);
    let (mut log, _) = open(&path);
    log.write(&record(1)).expect("write");
    drop(log);
    let mut first = std::fs::read(&segment).expect("read");
    first[512..].fill(0);
    std::fs::write(&segment, first).expect("write");
    let (mut log, found) = open(&path);
    assert_eq!(found[0].entries, []);
    let before = std::fs::read(&segment).expect("read");
    log.write(&record(2)).expect("write");
    drop(log);
    let mut second = std::fs::read(&segment).expect("read");
    second[..512].copy_from_slice(&before[..512]);
    std::fs::write(&segment, second).expect("write");
    assert_eq!(open(&path).1[0].entries, []);
}

/// The last record of a full segment breaks, and what follows would fit without it too: only the position that the next
/// segment attests tells.
#[test]
fn a_record_lost_at_the_end_of_a_full_segment_is_rot() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open(&path);
    let (mut term, mut last_at) = (1, 0);
    while log.fits(record_bytes(PAYLOAD_BYTES)) {
        last_at = log.end().offset as usize;
        log.write(&batch(1..=1, term)).expect("write");
        term += 1;
    }
    log.write(&[LogRecord::Append(LogId(1), entry(1, 1, PAYLOAD_BYTES))]).expect("write");
    assert_eq!(log.number, 2);
    drop(log);
    flip(&path, 1, last_at);
    let error = FileLog::open(&path, OPTIONS, LOGS).err().expect("rot");
    assert!(
        matches!(&error, OpenError::Rot { path: at, offset, .. }
        if *at == segment_path(&path, 1) && *offset == last_at as u64),
        "{error}"
    );
}

/// A log whose only entries stood in a segment that is gone, and of which later segments have nothing.
#[test]
fn entries_of_a_lost_segment_are_missed_even_if_nothing_follows_them() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open(&path);
    let idle: Vec<_> = (1..=3).map(|index| LogRecord::Append(LogId(1), entry(index, 1, 20))).collect();
    log.write(&idle).expect("write");
    while log.number < 3 {
        let next = log.live.logs()[0].last() + 1;
        log.write(&batch(next..=next, 1)).expect("write");
    }
    log.write(&[LogRecord::Start { log: LogId(0), index: 1000, term: 9 }]).expect("write");
    log.sync().expect("sync");
    assert_eq!(log.segments_len(), 3);
    drop(log);
    std::fs::remove_file(segment_path(&path, 1)).expect("remove");
    let error = FileLog::open(&path, OPTIONS, LOGS).err().expect("rot");
    assert!(error.to_string().contains("entries 1 to 3 of log 1 are missing"), "{error}");
}

/// After a crash the name of a segment that was retired may be there again, without its successor.
#[test]
fn a_retired_segment_that_comes_back_is_passed_over() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open(&path);
    log.write(&batch(1..=1, 1)).expect("write");
    log.sync().expect("sync");
    let retired = std::fs::read(segment_path(&path, 1)).expect("read");
    while log.number < 5 {
        let next = log.live.logs()[0].last() + 1;
        log.write(&batch(next..=next, 1)).expect("write");
        log.write(&[LogRecord::Start { log: LogId(0), index: next, term: 1 }]).expect("write");
        log.sync().expect("sync");
    }
    let next = log.live.logs()[0].last() + 1;
    assert_eq!(log.segments_len(), 1);
    drop(log);
    std::fs::write(segment_path(&path, 1), retired).expect("write");
    assert!(!segment_path(&path, 2).exists());
    let (mut log, found) = open(&path);
    assert_eq!((found[0].start.0, found[0].entries.len()), (next - 1, 0));
    log.write(&batch(next..=next, 1)).expect("write");
    drop(log);
    assert_eq!(open(&path).1[0].entries, [entry(next, 1, PAYLOAD_BYTES)]);
    drop(open(&path));
    assert!(!segment_path(&path, 1).exists(), "it is recycled");
}
