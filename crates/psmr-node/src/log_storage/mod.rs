//! The durable log of a replica: all its Raft logs in one sequence of segment files, one write and one fdatasync per turn.
//!
//! # Files
//! `segment-<number>.psmr`: a header and records (see `record`), allocated and zeroed before use, so that a write changes no
//! metadata. Each begins with the state of all logs (hard state, start, last index), so that older segments can go once none
//! of their entries is needed; their files are recycled. `synced.psmr`: see `sync_slot`. `lock`: held while the log is open.
//! A directory gets its name when it is complete, a segment when its header is durable.
//!
//! # A torn tail, and rot
//! Each record carries the position known synced when it was written; a segment is begun when the one before is synced to its
//! end. At the start the records are read until one is not valid. If anything attests a synced position beyond that place
//! (a whole record further on, a later segment, the slot), then something synced is broken: rot. The log does not open, for
//! the replica has forgotten what it promised, and must not vote. Otherwise nothing behind it was ever acknowledged: it is a
//! torn tail, and is cut. A segment shorter than it was made, a broken segment header, and a segment that is needed and not
//! there are rot as well.
//!
//! # What can be told of the last sync
//! A sync is attested by every record written after it, and at once by the slot. The slot is in the page cache until the
//! kernel writes it (some 30 seconds), or the log is closed. So after a kill of the process, or a clean end, damage to any
//! synced record is noticed, the very last included. After a power loss, damage to the *last* synced batch, and to it alone,
//! may look like a torn tail, if the slot's page had not reached the disk either: with one copy of the data nobody can tell
//! these apart without a second sync for each. It takes a power loss and rot of the same few sectors on one replica, and
//! then the peers still have the batch.
//!
//! # Failure
//! After a failed write or sync every call fails with the same line. A sync is never tried again: the kernel may have dropped
//! the data and report success the second time. For the same reason recovery writes an unattested tail again before it
//! trusts it.

mod live;
mod preparer;
mod record;
mod recovery;
mod replay;
mod segment;
mod sync_slot;
#[cfg(test)]
mod tests;

use crate::disk;
use live::{Live, Place, StartEffect};
use preparer::{Preparer, PreparerPlan};
use psmr_core::command::LogId;
use psmr_core::log::{EntryKind, HardState, LogEntry, LogRecord, LogStorage, RecoveredLog};
use record::{record_bytes, Parsed, Position, RecordHeader, RecordKind, SegmentHeader, SegmentSeed, SEGMENT_HEADER_BYTES};
use segment::{create_zeroed, install, segment_path, SegmentFile};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use sync_slot::SyncSlot;

/// A write is of whole pages, the last one filled up with zeros: neither the disk nor the kernel has to read one to change it.
const PAGE_BYTES: usize = 4096;
/// The buffer goes back to this size after a large write.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// Old entries are moved only when there are more segments than this.
const SEGMENTS_UNMOVED_MAX: usize = 4;
/// Old entries are moved when the segments are more than this times larger than what is live in them.
const DISK_PER_LIVE_BYTES_MAX: u64 = 4;

/// How a log is laid out. May differ from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLogOptions {
    /// Bytes of a segment file; an entry must fit in one (see `FileLog::entry_bytes_max`).
    pub segment_bytes: u64,
    /// How many segments that are no longer needed are kept for reuse; more are deleted.
    pub spare_segments_max: usize,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        FileLogOptions { segment_bytes: 16 << 20, spare_segments_max: 4 }
    }
}

/// What was found when a log was opened, for the replica's own log and its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments read.
    pub segments: usize,
    /// Records read.
    pub records: u64,
    /// Whole records of the torn tail, which were never synced and are gone.
    pub records_cut: u64,
    /// The page that attests the last sync was missing or broken, and has been written anew: the log was checked against its
    /// own records only.
    pub is_sync_slot_lost: bool,
}

/// Why a log does not open. Each is one line that names the place and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The system refused something.
    Io(String),
    /// The options are wrong.
    Options(String),
    /// Another process has the log open.
    InUse {
        /// The log's directory.
        path: PathBuf,
    },
    /// The directory holds something else.
    NotALog {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a later version of this program.
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The log is of a cluster with another number of Raft logs.
    LogCount {
        /// The file.
        path: PathBuf,
        /// By the caller.
        expected: usize,
        /// In the file.
        found: usize,
    },
    /// Something that was synced is broken or missing. The replica must not start from this log.
    Rot {
        /// The file.
        path: PathBuf,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What was found.
        detail: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io(line) | OpenError::Options(line) => f.write_str(line),
            OpenError::InUse { path } => {
                write!(f, "the log {} is in use by another process; stop that one, or choose another directory", path.display())
            }
            OpenError::NotALog { path } => {
                write!(f, "{} is not empty and holds no log of psmr; choose an empty or a new directory", path.display())
            }
            OpenError::UnknownVersion { path, version } => {
                let known = record::VERSION;
                write!(f, "{} has format version {version}, this program knows {known}; use a later psmr", path.display())
            }
            OpenError::LogCount { path, expected, found } => write!(
                f,
                "{} is of a cluster with {found} logs (streams and the cross log), not {expected}; use that cluster's configuration",
                path.display()
            ),
            OpenError::Rot { path, offset, detail } => write!(
                f,
                "{} is damaged at byte {offset}: {detail}; this replica must not vote: remove its data directory and let it \
                 rejoin and repair from its peers",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    /// Whether the directory or the configuration is the wrong one, rather than the disk broken.
    pub fn is_wrong_place(&self) -> bool {
        !matches!(self, OpenError::Io(_) | OpenError::Rot { .. })
    }
}

/// The durable log of a replica. See the module's text.
pub struct FileLog {
    directory: PathBuf,
    options: FileLogOptions,
    nonce: [u8; 16],
    live: Live,
    active: SegmentFile,
    number: u32,
    seed: SegmentSeed,
    /// The active segment from the page at `buffer_offset` on, of which the first `written` bytes are in the file.
    buffer: Vec<u8>,
    buffer_offset: usize,
    written: usize,
    /// Everything before this is durable.
    synced: Position,
    slot: SyncSlot,
    preparer: Preparer,
    /// The line that ended this log.
    failure: Option<String>,
    recovery: Recovery,
    _lock: disk::Lock,
}

impl FileLog {
    /// Opens the log in `directory`, which is made if it is missing or empty, and returns what each of its `logs` Raft logs
    /// holds. The parent directory must exist.
    ///
    /// # Errors
    /// The replica must not start.
    pub fn open(directory: &Path, options: FileLogOptions, logs: usize) -> Result<(FileLog, Vec<RecoveredLog>), OpenError> {
        check_options(&options, logs)?;
        if is_missing_or_empty(directory)? {
            create(directory, &options, logs)?;
        }
        let lock = disk::Lock::try_take(&directory.join("lock"))
            .map_err(|error| OpenError::Io(disk::explain("lock", directory, &error)))?
            .ok_or_else(|| OpenError::InUse { path: directory.into() })?;
        let found = recovery::recover(directory, logs)?;
        let slot = SyncSlot::open(directory, found.nonce).map_err(OpenError::Io)?;
        slot.set(found.end).and_then(|()| slot.sync()).map_err(OpenError::Io)?;
        let plan = PreparerPlan {
            directory: directory.into(),
            nonce: found.nonce,
            logs: logs as u32,
            segment_bytes: options.segment_bytes,
            spares_max: options.spare_segments_max,
        };
        let prepared = found.prepared.filter(|file| file.size_bytes == options.segment_bytes);
        let preparer = Preparer::start(plan, prepared, found.end.segment + 1, found.spares).map_err(OpenError::Io)?;
        found.stale.iter().for_each(|number| preparer.retire(*number));
        let written = found.end.offset as usize % PAGE_BYTES;
        let buffer_offset = found.end.offset as usize - written;
        let log = FileLog {
            directory: directory.into(),
            options,
            nonce: found.nonce,
            live: found.live,
            buffer: found.active.read(buffer_offset as u64, written).map_err(OpenError::Io)?,
            buffer_offset,
            written,
            active: found.active,
            number: found.end.segment,
            seed: SegmentSeed::new(&found.nonce, found.end.segment),
            synced: found.end,
            slot,
            preparer,
            failure: None,
            recovery: found.report,
            _lock: lock,
        };
        Ok((log, found.logs))
    }

    /// What was found when the log was opened.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The most bytes that an entry's data may have; a larger one ends the log.
    pub fn entry_bytes_max(&self) -> usize {
        record_bytes_max(&self.options, self.live.logs().len()) - record_bytes(0)
    }

    /// How many segments hold the log, without those made ahead or kept for reuse.
    pub fn segments_len(&self) -> usize {
        self.live.segments_len()
    }

    fn end(&self) -> Position {
        Position { segment: self.number, offset: (self.buffer_offset + self.buffer.len()) as u32 }
    }

    /// Runs an operation, unless an earlier one failed.
    fn guarded(&mut self, operation: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        if let Some(line) = &self.failure {
            return Err(line.clone());
        }
        let result = operation(self);
        self.failure = result.as_ref().err().cloned();
        result
    }

    fn append(&mut self, records: &[LogRecord]) -> Result<(), String> {
        for record in records {
            match record {
                LogRecord::Append(log, entry) => self.append_entry(*log, entry)?,
                LogRecord::HardState(log, hard_state) => self.append_hard_state(*log, *hard_state)?,
                LogRecord::Start { log, index, term } => self.append_start(*log, *index, *term)?,
            }
        }
        self.flush()
    }

    fn append_entry(&mut self, log: LogId, entry: &LogEntry) -> Result<(), String> {
        let live = self.log(log)?;
        let (first, next) = (live.start.0 + 1, live.last() + 1);
        if !(first..=next).contains(&entry.index) {
            let index = entry.index;
            return Err(format!(
                "entry {index} does not fit {log:?}, which takes {first} to {next}: a defect of psmr, report it"
            ));
        }
        let place = self.put(RecordKind::Entry, log, entry.kind, (entry.index, entry.term), &entry.data)?;
        self.live.append(log.index(), entry.index, place);
        Ok(())
    }

    fn append_hard_state(&mut self, log: LogId, hard_state: HardState) -> Result<(), String> {
        self.log(log)?;
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&hard_state.vote.to_le_bytes());
        payload[8..].copy_from_slice(&hard_state.commit.to_le_bytes());
        self.put(RecordKind::HardState, log, EntryKind::Normal, (0, hard_state.term), &payload)?;
        self.live.set_hard_state(log.index(), hard_state);
        Ok(())
    }

    fn append_start(&mut self, log: LogId, index: u64, term: u64) -> Result<(), String> {
        let effect = self.log(log)?.start_effect(index, term);
        let kind = match effect {
            StartEffect::None => return Ok(()),
            StartEffect::Trim => RecordKind::Trim,
            StartEffect::Reset => RecordKind::Reset,
        };
        self.put(kind, log, EntryKind::Normal, (index, term), &[])?;
        self.live.start(log.index(), index, term, effect);
        Ok(())
    }

    fn log(&self, log: LogId) -> Result<&live::LiveLog, String> {
        let missing = || format!("{log:?} does not exist in {}: a defect of psmr, report it", self.directory.display());
        self.live.logs().get(log.index()).ok_or_else(missing)
    }

    /// Puts a record into the buffer, after a change to the next segment if this one is full.
    fn put(
        &mut self,
        kind: RecordKind,
        log: LogId,
        entry_kind: EntryKind,
        (index, term): (u64, u64),
        payload: &[u8],
    ) -> Result<Place, String> {
        let bytes = record_bytes(payload.len());
        if bytes > record_bytes_max(&self.options, self.live.logs().len()) {
            let (length, limit) = (payload.len(), self.entry_bytes_max());
            return Err(format!("an entry of {length} bytes exceeds the log's limit of {limit}; use larger segments"));
        }
        if !self.fits(bytes) {
            self.begin_segment()?;
            self.move_old_entries()?;
        }
        if !self.fits(bytes) {
            self.begin_segment()?;
        }
        Ok(self.encode(kind, log.0, entry_kind, (index, term), payload))
    }

    fn fits(&self, bytes: usize) -> bool {
        self.end().offset as usize + bytes <= self.active.size_bytes as usize
    }

    fn encode(&mut self, kind: RecordKind, log: u8, entry_kind: EntryKind, id: (u64, u64), payload: &[u8]) -> Place {
        let position = self.end();
        let (index, term) = id;
        let header = RecordHeader { kind, log, entry_kind, synced: self.synced, index, term };
        let bytes = self.seed.encode(&mut self.buffer, position.offset as usize, &header, payload);
        Place { term, position, bytes: bytes as u32 }
    }

    /// Writes the buffer.
    fn flush(&mut self) -> Result<(), String> {
        let length = self.buffer.len();
        if length == self.written {
            return Ok(());
        }
        let padded = (self.buffer_offset + length).next_multiple_of(PAGE_BYTES).min(self.active.size_bytes as usize);
        self.buffer.resize(padded - self.buffer_offset, 0);
        self.active.append(&self.buffer, self.buffer_offset as u64)?;
        // The last page is written again with what comes next.
        self.written = length % PAGE_BYTES;
        self.buffer_offset += length - self.written;
        self.buffer.copy_within(length - self.written..length, 0);
        self.buffer.truncate(self.written);
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Makes everything durable, says so in the slot, and gives back segments that nothing needs from now on.
    fn sync_all(&mut self) -> Result<(), String> {
        self.flush()?;
        if self.synced == self.end() {
            return Ok(());
        }
        self.active.sync()?;
        self.synced = self.end();
        self.slot.set(self.synced)?;
        while let Some(number) = self.live.pop_free_segment() {
            self.preparer.retire(number);
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), String> {
        self.sync_all()?;
        let number = self.number.checked_add(1).ok_or("the log has no more segment numbers; let the replica rejoin empty")?;
        let next = self.preparer.take(number)?;
        #[cfg(test)]
        let next = next.with_fault(self.active.take_fault());
        self.active = next;
        self.number = number;
        self.seed = SegmentSeed::new(&self.nonce, number);
        self.buffer = self.active.read(0, SEGMENT_HEADER_BYTES)?;
        (self.buffer_offset, self.written) = (0, SEGMENT_HEADER_BYTES);
        self.live.add_segment(number);
        let state = replay::encode_state(&self.live);
        self.encode(RecordKind::State, 0, EntryKind::Normal, (0, 0), &state);
        Ok(())
    }

    /// Writes entries of the oldest segments again if few live entries hold many segments, as those of an idle log do: disk
    /// use stays within a multiple of what is live, however the logs are trimmed. At most half a segment each time.
    fn move_old_entries(&mut self) -> Result<(), String> {
        let budget = self.options.segment_bytes / 2;
        let mut moved: u64 = 0;
        while self.is_sparse() {
            let Some(oldest) = self.live.oldest_pinned() else { return Ok(()) };
            let file = SegmentFile::open(segment_path(&self.directory, oldest))?;
            for (log, index, place) in self.live.entries_in(oldest) {
                moved += u64::from(place.bytes);
                let is_first = moved == u64::from(place.bytes);
                if !self.fits(place.bytes as usize) || (moved > budget && !is_first) {
                    return Ok(());
                }
                self.move_entry(&file, log, index, place)?;
            }
        }
        Ok(())
    }

    fn is_sparse(&self) -> bool {
        let segments = self.live.segments_len();
        let disk_bytes = segments as u64 * self.options.segment_bytes;
        segments > SEGMENTS_UNMOVED_MAX && disk_bytes > self.live.bytes() * DISK_PER_LIVE_BYTES_MAX
    }

    fn move_entry(&mut self, file: &SegmentFile, log: usize, index: u64, place: Place) -> Result<(), String> {
        let Position { segment, offset } = place.position;
        let bytes = file.read(u64::from(offset), place.bytes as usize)?;
        let seed = SegmentSeed::new(&self.nonce, segment);
        let Parsed::Record(record) = seed.parse(&bytes, offset as usize) else {
            let rot = OpenError::Rot { path: file.path().into(), offset: offset.into(), detail: "a synced record broke".into() };
            return Err(rot.to_string());
        };
        let moved = self.encode(RecordKind::Moved, log as u8, record.header.entry_kind, (index, place.term), record.payload);
        self.live.move_to(log, index, moved);
        Ok(())
    }
}

impl LogStorage for FileLog {
    fn write(&mut self, records: &[LogRecord]) -> Result<(), String> {
        self.guarded(|log| log.append(records))
    }

    fn sync(&mut self) -> Result<(), String> {
        self.guarded(FileLog::sync_all)
    }
}

impl Drop for FileLog {
    /// A clean end makes the slot durable; it has no one to tell of a failure, which only lets the slot attest less.
    fn drop(&mut self) {
        if self.failure.is_none() {
            let _ = self.slot.sync();
        }
    }
}

/// The largest record that fits a new segment.
fn record_bytes_max(options: &FileLogOptions, logs: usize) -> usize {
    (options.segment_bytes as usize).saturating_sub(SEGMENT_HEADER_BYTES + record_bytes(logs * replay::STATE_BYTES_PER_LOG))
}

fn check_options(options: &FileLogOptions, logs: usize) -> Result<(), OpenError> {
    let size = options.segment_bytes;
    if !(1..=usize::from(u8::MAX)).contains(&logs) {
        return Err(OpenError::Options(format!("a log of {logs} Raft logs is not possible; use 1 to 255")));
    }
    let minimum = SEGMENT_HEADER_BYTES + 2 * record_bytes(logs * replay::STATE_BYTES_PER_LOG);
    if size < minimum as u64 || size > 1 << 30 || size % record::ALIGNMENT as u64 != 0 {
        return Err(OpenError::Options(format!(
            "segments of {size} bytes are not possible; use {minimum} bytes to 1 GiB, in eights"
        )));
    }
    Ok(())
}

fn is_missing_or_empty(directory: &Path) -> Result<bool, OpenError> {
    match std::fs::read_dir(directory) {
        Ok(mut items) => Ok(items.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(OpenError::Io(disk::explain("open", directory, &error))),
    }
}

/// Makes an empty log under another name and gives it its own when it is complete.
fn create(directory: &Path, options: &FileLogOptions, logs: usize) -> Result<(), OpenError> {
    let parent = disk::parent(directory);
    let failed = |error: std::io::Error| OpenError::Io(disk::explain("create", directory, &error));
    let Some(_guard) = File::open(&parent).and_then(disk::Lock::try_take_file).map_err(failed)? else {
        return Err(OpenError::InUse { path: parent });
    };
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.with_file_name(format!("{name}.new"));
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).map_err(failed)?;
    }
    std::fs::create_dir(&temporary).map_err(failed)?;
    let filled = fill(&temporary, options, logs);
    let named = filled.and_then(|()| {
        std::fs::rename(&temporary, directory).map_err(failed)?;
        disk::sync_directory(&parent).map_err(failed)
    });
    if named.is_err() {
        // Gives the space back; the next start removes what is left otherwise.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    named
}

/// Puts the first segment and the slot into a new directory.
fn fill(directory: &Path, options: &FileLogOptions, logs: usize) -> Result<(), OpenError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| OpenError::Io(format!("the system has no random numbers: {error}")))?;
    let header = SegmentHeader { nonce, number: 1, logs: logs as u32, size_bytes: options.segment_bytes };
    let write = || -> Result<(), String> {
        let zeroed = create_zeroed(directory, options.segment_bytes, &|| ())?;
        let start = Position { segment: 1, offset: SEGMENT_HEADER_BYTES as u32 };
        let state =
            RecordHeader { kind: RecordKind::State, log: 0, entry_kind: EntryKind::Normal, synced: start, index: 0, term: 0 };
        let mut bytes = Vec::new();
        let payload = replay::encode_state(&Live::new(logs));
        let length = SegmentSeed::new(&nonce, 1).encode(&mut bytes, SEGMENT_HEADER_BYTES, &state, &payload);
        SegmentFile::open(zeroed.clone())?.write(&bytes, SEGMENT_HEADER_BYTES as u64)?;
        install(directory, &zeroed, &header)?;
        let slot = SyncSlot::open(directory, nonce)?;
        slot.set(Position { offset: start.offset + length as u32, ..start })?;
        slot.sync()
    };
    write().map_err(OpenError::Io)
}
