//! The durable log from outside: damage at every byte, tails torn at every byte, disks that fill up, disk use that stays
//! bounded, and what must not be opened.

use bytes::Bytes;
use psmr_core::command::LogId;
use psmr_core::log::{EntryKind, HardState, LogEntry, LogRecord, LogStorage, RecoveredLog};
use psmr_node::log_storage::{FileLog, FileLogOptions, OpenError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const LOGS: usize = 2;
const OPTIONS: FileLogOptions = FileLogOptions { segment_bytes: 768, spare_segments_max: 2 };

/// A memory file system where there is one: these tests sync many thousands of times, and what is tested is not the disk.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

fn entry(index: u64, term: u64, length: usize) -> LogEntry {
    let data: Vec<u8> = (0..length as u64).map(|place| (place * 31 + index) as u8).collect();
    LogEntry { index, term, kind: EntryKind::Normal, data: Bytes::from(data) }
}

fn append(log: u8, index: u64, term: u64, length: usize) -> LogRecord {
    LogRecord::Append(LogId(log), entry(index, term, length))
}

fn open(path: &Path) -> Result<(FileLog, Vec<RecoveredLog>), OpenError> {
    FileLog::open(path, OPTIONS, LOGS)
}

/// All files of a log, by name.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(directory: &Path) -> Image {
    let items = std::fs::read_dir(directory).expect("list").map(|item| item.expect("item").path());
    items.map(|path| (path.clone(), std::fs::read(&path).expect("read"))).collect()
}

/// Puts the files back to `image`, but one to `bytes`.
fn restore(directory: &Path, image: &Image, changed: &Path, bytes: &[u8]) {
    for path in std::fs::read_dir(directory).expect("list").map(|item| item.expect("item").path()) {
        if !image.contains_key(&path) {
            std::fs::remove_file(path).expect("remove");
        }
    }
    for (path, whole) in image {
        std::fs::write(path, if path == changed { bytes } else { whole }).expect("write");
    }
}

/// Five batches, small enough that all of them damaged in all ways is quick, and large enough to fill two segments.
fn batches() -> [Vec<LogRecord>; 5] {
    let hard_state = |log, term, vote, commit| LogRecord::HardState(LogId(log), HardState { term, vote, commit });
    [
        vec![hard_state(0, 1, 2, 0), append(0, 1, 1, 9), append(1, 1, 1, 30)],
        vec![append(0, 2, 1, 12), append(0, 3, 1, 0), hard_state(1, 4, 1, 1)],
        vec![append(0, 2, 2, 17), hard_state(0, 2, 3, 2), LogRecord::Start { log: LogId(0), index: 1, term: 1 }],
        vec![append(0, 3, 2, 40), append(1, 2, 4, 8), append(1, 2, 5, 100)],
        vec![append(1, 3, 5, 25), hard_state(0, 3, 1, 3), append(1, 4, 5, 11)],
    ]
}

/// Makes a log of all batches, of which the first `synced` are synced, and ends it as a kill does.
fn small_log(path: &Path, synced: usize) {
    let (mut log, _) = open(path).expect("open");
    for (number, batch) in batches().iter().enumerate() {
        log.write(batch).expect("write");
        if number < synced {
            log.sync().expect("sync");
        }
    }
    assert_eq!(log.segments_len(), 2);
}

/// What the logs hold after each record from the end of batch `batch` on.
fn states_from(batch: usize) -> Vec<Vec<RecoveredLog>> {
    let records = batches().concat();
    let first = batches()[..batch].concat().len();
    let state = |count| {
        let directory = directory();
        let path = directory.path().join("log");
        open(&path).expect("open").0.write(&records[..count]).expect("write");
        let (_, found) = open(&path).expect("open");
        found
    };
    (first..=records.len()).map(state).collect()
}

/// Every truncation of each file, and every file with one flipped bit.
fn damages(image: &Image) -> impl Iterator<Item = (&PathBuf, Vec<u8>, String)> {
    image.iter().flat_map(|(path, whole)| {
        let truncated = (0..whole.len()).map(move |length| (path, whole[..length].to_vec(), format!("cut to {length}")));
        let flipped = (0..whole.len() * 8).map(move |bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            (path, bytes, format!("bit {bit} flipped"))
        });
        truncated.chain(flipped)
    })
}

/// Opens the log with each damage. It must come back in one of the `allowed` states, or not at all. Returns how often it came
/// back, and how often it did not.
fn check_damages(path: &Path, allowed: &[Vec<RecoveredLog>]) -> (usize, usize) {
    let whole = image(path);
    let (mut opened, mut stopped) = (0, 0);
    for (file, bytes, what) in damages(&whole) {
        restore(path, &whole, file, &bytes);
        match open(path) {
            Ok((_, found)) => {
                assert!(allowed.contains(&found), "{} {what}: synced records are missing: {found:?}", file.display());
                opened += 1;
            }
            Err(error) => {
                assert!(matches!(&error, OpenError::Rot { .. }), "{} {what}: {error}", file.display());
                stopped += 1;
            }
        }
    }
    restore(path, &whole, Path::new(""), &[]);
    (opened, stopped)
}

fn check_small_log(synced: usize, has_slot: bool, batches_certain: usize) {
    let directory = directory();
    let path = directory.path().join("log");
    small_log(&path, synced);
    if !has_slot {
        std::fs::remove_file(path.join("synced.psmr")).expect("remove");
    }
    let (opened, stopped) = check_damages(&path, &states_from(batches_certain));
    assert!(opened > 1000 && stopped > 5000, "{opened} opened, {stopped} stopped");
}

#[test]
fn any_damage_leaves_all_synced_records_or_stops() {
    check_small_log(5, true, 5);
}

#[test]
fn any_damage_beside_an_unsynced_batch_leaves_all_synced_records_or_stops() {
    check_small_log(4, true, 4);
}

/// After a power loss that took the slot too, the last synced batch is not attested, but all before it is.
#[test]
fn without_the_slot_only_the_last_batch_may_be_taken_for_a_torn_tail() {
    check_small_log(5, false, 4);
}

/// A disk that lost everything from some byte on, whatever it said when it was synced.
#[test]
fn a_synced_tail_of_zeros_is_not_taken_for_the_end() {
    let directory = directory();
    let path = directory.path().join("log");
    small_log(&path, 4);
    let whole = image(&path);
    let allowed = states_from(4);
    let (mut opened, mut stopped) = (0, 0);
    for (file, bytes) in whole.iter().filter(|(file, _)| file.to_string_lossy().contains("segment-")) {
        for length in 0..bytes.len() {
            let mut zeroed = bytes.clone();
            zeroed[length..].fill(0);
            restore(&path, &whole, file, &zeroed);
            match open(&path) {
                Ok((_, found)) => {
                    assert!(allowed.contains(&found), "{} zeros from {length}: {found:?}", file.display());
                    opened += 1;
                }
                Err(error) => {
                    assert!(matches!(&error, OpenError::Rot { .. }), "{error:?}");
                    stopped += 1;
                }
            }
        }
    }
    assert!(opened > 200 && stopped > 500, "{opened} opened, {stopped} stopped");
}

#[test]
fn a_missing_segment_stops() {
    let directory = directory();
    let path = directory.path().join("log");
    small_log(&path, 5);
    let whole = image(&path);
    for number in [1, 2] {
        restore(&path, &whole, Path::new(""), &[]);
        std::fs::remove_file(path.join(format!("segment-{number:010}.psmr"))).expect("remove");
        assert!(matches!(open(&path), Err(OpenError::Rot { .. })), "without segment {number}");
    }
    restore(&path, &whole, Path::new(""), &[]);
    for file in whole.keys().filter(|file| file.to_string_lossy().contains("segment-")) {
        std::fs::remove_file(file).expect("remove");
    }
    let error = open(&path).err().expect("no segment");
    assert!(error.to_string().contains("rejoin") && error.to_string().contains("must not vote"), "{error}");
}

#[test]
fn what_is_not_this_log_is_refused_in_one_line() {
    let directory = directory();
    let path = directory.path().join("log");
    let held = open(&path).expect("open");
    let in_use = open(&path).err().expect("in use");
    assert!(matches!(in_use, OpenError::InUse { .. }));
    drop(held);
    let other_count = FileLog::open(&path, OPTIONS, LOGS + 1).err().expect("another number of logs");
    assert!(matches!(other_count, OpenError::LogCount { expected: 3, found: 2, .. }));
    let foreign = directory.path().join("foreign");
    std::fs::create_dir(&foreign).expect("create");
    std::fs::write(foreign.join("holiday.jpg"), b"mine").expect("write");
    let not_a_log = open(&foreign).err().expect("not a log");
    assert!(matches!(not_a_log, OpenError::NotALog { .. }));
    let no_parent = open(&directory.path().join("a/b/c")).err().expect("no parent");
    let tiny = FileLog::open(&path, FileLogOptions { segment_bytes: 100, ..OPTIONS }, LOGS).err().expect("tiny");
    for error in [in_use, other_count, not_a_log, no_parent, tiny] {
        let line = error.to_string();
        assert!(line.contains("; ") && !line.contains('\n'), "{line}");
    }
    std::fs::create_dir(directory.path().join("log2")).expect("create");
    assert!(open(&directory.path().join("log2")).is_ok(), "an empty directory is made a log");
}

fn disk_bytes(path: &Path) -> u64 {
    image(path).values().map(|bytes| bytes.len() as u64).sum()
}

/// A busy log that is trimmed in time, and an idle one whose few entries are never trimmed: they are moved out of the way.
#[test]
fn disk_use_stays_bounded_in_a_long_run() {
    const OPTIONS: FileLogOptions = FileLogOptions { segment_bytes: 4096, spare_segments_max: 2 };
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = FileLog::open(&path, OPTIONS, LOGS).expect("open");
    let idle: Vec<_> = (1..=3).map(|index| append(1, index, 1, 50)).collect();
    log.write(&idle).expect("write");
    let (mut segments_max, mut disk_max) = (0, 0);
    for index in 1..=20_000 {
        log.write(&[append(0, index, 1, 100)]).expect("write");
        if index % 8 == 0 {
            log.sync().expect("sync");
        }
        if index % 50 == 0 {
            log.write(&[LogRecord::Start { log: LogId(0), index: index - 20, term: 1 }]).expect("write");
        }
        if index % 4000 == 0 {
            drop(log);
            let (again, found) = FileLog::open(&path, OPTIONS, LOGS).expect("open");
            log = again;
            assert_eq!((found[0].start, found[0].entries.len()), ((index - 20, 1), 20));
            assert_eq!(found[1].entries, (1..=3).map(|index| entry(index, 1, 50)).collect::<Vec<_>>());
            disk_max = disk_max.max(disk_bytes(&path));
        }
        segments_max = segments_max.max(log.segments_len());
    }
    assert!((4..=12).contains(&segments_max), "{segments_max} segments");
    assert!(disk_max < 16 * 4096, "{disk_max} bytes");
    let newest = image(&path).keys().next_back().expect("files").clone();
    assert!(newest.to_string_lossy().contains("synced"), "names sort as expected");
}

/// What is not trimmed stays, however much it is.
#[test]
fn nothing_that_is_not_trimmed_is_ever_recycled() {
    let directory = directory();
    let path = directory.path().join("log");
    let (mut log, _) = open(&path).expect("open");
    let all: Vec<_> = (1..=400).map(|index| entry(index, index / 9, (index % 90) as usize)).collect();
    for entry in &all {
        log.write(&[LogRecord::Append(
            LogId((entry.index % 2) as u8),
            LogEntry { index: entry.index.div_ceil(2), ..entry.clone() },
        )])
        .expect("write");
    }
    log.sync().expect("sync");
    drop(log);
    let (_, found) = open(&path).expect("open");
    assert_eq!(found.iter().map(|log| log.entries.len()).collect::<Vec<_>>(), [200, 200]);
    assert!(found[1].entries.iter().zip(all.iter().step_by(2)).all(|(found, entry)| found.data == entry.data));
}

/// A file system of its own, gone at the end of the test.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where the test may not mount one.
    fn mount(kilobytes: u32) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = SmallDisk { directory };
        disk.command("mount", &["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"]).then_some(disk)
    }

    fn grow(&self, kilobytes: u32) {
        assert!(self.command("mount", &["-o", &format!("remount,size={kilobytes}k")]));
    }

    fn command(&self, program: &str, arguments: &[&str]) -> bool {
        Command::new(program).args(arguments).arg(self.directory.path()).output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a child of another test, between fork and exec, may have a file of it open.
        self.command("umount", &["-l"]);
    }
}

#[test]
fn a_full_disk_ends_the_log_in_one_line_and_loses_nothing() {
    const OPTIONS: FileLogOptions = FileLogOptions { segment_bytes: 64 << 10, spare_segments_max: 2 };
    let Some(disk) = SmallDisk::mount(300) else {
        eprintln!("SKIPPED: a full disk cannot be tested, for this user may not mount a tmpfs");
        return;
    };
    let path = disk.directory.path().join("log");
    let (mut log, _) = FileLog::open(&path, OPTIONS, LOGS).expect("open");
    let mut synced = 0;
    let line = loop {
        let result = log.write(&[append(0, synced + 1, 1, 5000)]).and_then(|()| log.sync());
        match result {
            Ok(()) => synced += 1,
            Err(line) => break line,
        }
    };
    assert!(line.contains("No space left") && line.contains("free space") && line.contains("log/"), "{line}");
    assert!(!line.contains('\n') && synced > 20, "{synced} synced");
    assert_eq!(log.sync(), Err(line));
    drop(log);
    let other = disk.directory.path().join("other");
    let error = FileLog::open(&other, OPTIONS, LOGS).err().expect("no space for a log");
    assert!(error.to_string().contains("free space") && !other.exists(), "{error}");
    disk.grow(1000);
    let (mut log, found) = FileLog::open(&path, OPTIONS, LOGS).expect("open");
    let next = found[0].entries.len() as u64 + 1;
    assert!(next > synced);
    for index in next..next + 20 {
        log.write(&[append(0, index, 1, 5000)]).and_then(|()| log.sync()).expect("there is space again");
    }
}

/// The next segment is made ahead: that this failed once does no harm if there is space when it is needed.
#[test]
fn space_that_is_freed_in_time_is_enough() {
    const OPTIONS: FileLogOptions = FileLogOptions { segment_bytes: 64 << 10, spare_segments_max: 2 };
    let Some(disk) = SmallDisk::mount(300) else {
        eprintln!("SKIPPED: a full disk cannot be tested, for this user may not mount a tmpfs");
        return;
    };
    let (mut log, _) = FileLog::open(&disk.directory.path().join("log"), OPTIONS, LOGS).expect("open");
    let mut index = 0;
    let mut write = |log: &mut FileLog| {
        index += 1;
        log.write(&[append(0, index, 1, 5000)]).and_then(|()| log.sync())
    };
    while log.segments_len() < 4 {
        write(&mut log).expect("there is space for four");
    }
    // Long enough for the attempt to make a fifth, which fails.
    std::thread::sleep(std::time::Duration::from_millis(200));
    disk.grow(1000);
    while log.segments_len() < 6 {
        write(&mut log).expect("there is space for more by now");
    }
}
