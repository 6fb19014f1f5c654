//! Checkpoints between the groups, the disk and the peers. What is shipped is the cut, the place in every log, and every
//! group's part.

use crate::checkpoint_file;
use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use crate::peer_frame::Kind;
use crate::router::Router;
use crate::transport::Transport;
use crate::worker_thread::Workers;
use bytes::Bytes;
use psmr_core::command::{LogId, ReplicaId};
use psmr_core::execute::{Engine, Output};
use psmr_core::order::Positions;
use psmr_core::routing::Topology;
use psmr_core::wire::{Malformed, Reader, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The section that has the places in the logs; group g's part is section g + 1.
const POSITIONS: u32 = 0;

const CHUNK_BYTES: usize = 1 << 20;

/// The longest body of a frame with a chunk: the whole's length and the chunk's place come first.
pub const CHUNK_BODY_BYTES_MAX: usize = 16 + CHUNK_BYTES;

/// Chunks are added while less than this waits to be sent, so that turns get through.
const BACKLOG_BYTES: usize = 4 << 20;

/// A peer that ships nothing for this long is asked again.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The next entry of each stream at a cut, from the groups' parts (which begin with it).
pub fn stream_positions(topology: &Topology, groups: &[Bytes]) -> Vec<u64> {
    let next = |stream: usize| {
        let group = topology.groups_of(LogId(stream as u8)).lowest()?;
        Reader::new(groups.get(group.index())?.clone()).u64("stream position").ok()
    };
    (0..topology.streams).map(|stream| next(stream).unwrap_or(1)).collect()
}

fn encode_positions(positions: &Positions) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, term) in positions {
        out.u64(*index);
        out.u64(*term);
    }
    out
}

fn decode_positions(bytes: Bytes) -> Result<Positions, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut positions = Vec::new();
    while !reader.is_at_end() {
        positions.push((reader.u64("index")?, reader.u64("term")?));
    }
    Ok(positions)
}

/// A checkpoint as it is shipped.
pub fn encode(cut: u64, positions: &Positions, groups: &[Bytes]) -> Bytes {
    let mut out = Vec::new();
    out.u64(cut);
    out.blob(&encode_positions(positions));
    out.u32(groups.len() as u32);
    groups.iter().for_each(|group| out.blob(group));
    out.into()
}

/// Reads what `encode` made.
///
/// # Errors
/// If it is no checkpoint.
pub fn decode(bytes: Bytes) -> Result<(u64, Positions, Vec<Bytes>), Malformed> {
    let mut reader = Reader::new(bytes);
    let cut = reader.u64("cut")?;
    let positions = decode_positions(reader.blob("positions")?)?;
    let groups = (0..reader.u32("group count")?).map(|_| reader.blob("group")).collect::<Result<_, _>>()?;
    Ok((cut, positions, groups))
}

/// Whether a checkpoint has a place for each log, the cross log's being the cut, and a part for each group.
///
/// # Errors
/// One line that says what is missing.
pub fn check(topology: &Topology, cut: u64, positions: &Positions, groups: &[Bytes]) -> Result<(), String> {
    if positions.len() != topology.logs() || groups.len() != topology.groups {
        let (logs, parts) = (positions.len(), groups.len());
        return Err(format!(
            "it has {logs} logs and {parts} groups, this cluster has {} and {}",
            topology.logs(),
            topology.groups
        ));
    }
    match positions.last() {
        Some((last, _)) if *last == cut => Ok(()),
        _ => Err(format!("its place in the cross log is not its cut, {cut}")),
    }
}

/// The newest checkpoint on disk, as it is shipped.
pub fn newest_encoded(directory: &Path) -> Option<Bytes> {
    let (cut, positions, groups) = newest(directory).ok()??;
    Some(encode(cut, &positions, &groups))
}

/// The newest checkpoint on disk.
///
/// # Errors
/// One line: there are checkpoints, and none can be used.
pub fn newest(directory: &Path) -> Result<Option<(u64, Positions, Vec<Bytes>)>, String> {
    let Some(newest) = checkpoint_file::newest_valid(directory).map_err(|e| e.to_string())? else { return Ok(None) };
    for damaged in &newest.passed_over {
        eprintln!("psmr: warning: {damaged}; the checkpoint before it serves");
    }
    let mut sections = newest.checkpoint.sections.into_iter();
    let positions = sections.next().filter(|s| s.kind == POSITIONS).ok_or("the checkpoint has no positions")?;
    let positions = decode_positions(positions.bytes).map_err(|e| e.to_string())?;
    Ok(Some((newest.checkpoint.cut, positions, sections.map(|s| s.bytes).collect())))
}

fn write(directory: &Path, cut: u64, positions: &Positions, groups: &[Bytes]) -> Result<(), String> {
    let write = || {
        let mut writer = checkpoint_file::CheckpointWriter::create(directory, cut)?;
        writer.section(POSITIONS, &encode_positions(positions))?;
        for (kind, group) in (1..).zip(groups) {
            writer.section(kind, group)?;
        }
        writer.finish()
    };
    write().map(|_| ()).map_err(|e| e.to_string())
}

fn remove_before(directory: &Path, cut: u64) -> Result<(), String> {
    for older in checkpoint_file::cuts(directory).map_err(|e| e.to_string())?.into_iter().filter(|older| *older < cut) {
        let path = checkpoint_file::checkpoint_path(directory, older);
        std::fs::remove_file(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Writes an own checkpoint on a thread of its own, and reports.
pub fn write_behind(directory: PathBuf, cut: u64, positions: Positions, groups: Vec<Bytes>, mailbox: Arc<Mailbox<Input>>) {
    let report = mailbox.clone();
    let run = move || {
        let input = match write(&directory, cut, &positions, &groups) {
            Ok(()) => Input::CheckpointWritten { cut, positions },
            Err(error) => Input::CheckpointFailed(error),
        };
        mailbox.post(input);
    };
    if let Err(error) = thread::Builder::new().name("checkpoint".into()).spawn(run) {
        report.post(Input::CheckpointFailed(format!("no thread for a checkpoint: {error}")));
    }
}

/// Puts together a peer's checkpoint on a thread of its own, puts it on disk (if there is one), and hands it over to be
/// installed.
pub fn store_behind(directory: Option<PathBuf>, topology: Topology, pieces: Vec<Bytes>, mailbox: Arc<Mailbox<Input>>) {
    let report = mailbox.clone();
    let run = move || {
        let stored = decode(pieces.concat().into()).map_err(|e| e.to_string()).and_then(|(cut, positions, groups)| {
            check(&topology, cut, &positions, &groups)?;
            if let Some(directory) = &directory {
                write(directory, cut, &positions, &groups)?;
                // The logs are about to start after this one: nothing older can stand in for it.
                remove_before(directory, cut)?;
            }
            Ok((cut, positions, groups))
        });
        mailbox.post(match stored {
            Ok((cut, positions, groups)) => Input::CheckpointFetched { cut, positions, groups },
            Err(error) => Input::CheckpointRefused(format!("a peer's checkpoint cannot be used: {error}")),
        });
    };
    if let Err(error) = thread::Builder::new().name("checkpoint".into()).spawn(run) {
        report.post(Input::CheckpointRefused(format!("no thread for a peer's checkpoint: {error}")));
    }
}

/// Restores the groups from a peer's checkpoint, on a thread of its own, and reports. Until it is resumed no worker runs: the
/// caller must not run groups either, and resumes the workers when the logs go on from there.
pub fn restore_behind(
    engine: Arc<Engine>,
    workers: Arc<Workers>,
    router: Arc<Router>,
    (cut, positions, groups): (u64, Positions, Vec<Bytes>),
    mailbox: Arc<Mailbox<Input>>,
) {
    let report = mailbox.clone();
    let run = move || {
        workers.pause();
        let mut output = Output::new(router);
        let state_bytes = groups.iter().map(Bytes::len).sum();
        let mut restore = |(group, bytes)| engine.restore(group, cut, bytes, &mut output);
        let restore_all = || engine.topology.all().iter().zip(groups).try_for_each(&mut restore);
        let restored =
            catch_unwind(AssertUnwindSafe(restore_all)).unwrap_or_else(|_| Err("a checkpoint's restoring panicked".into()));
        let ready = output.ready;
        output.hand_on();
        mailbox.post(match restored {
            Ok(()) => Input::CheckpointRestored { cut, positions, state_bytes, ready },
            Err(error) => Input::Failed(error),
        });
    };
    if let Err(error) = thread::Builder::new().name("checkpoint".into()).spawn(run) {
        report.post(Input::Failed(format!("no thread to install a checkpoint: {error}")));
    }
}

/// A checkpoint on its way to a peer.
pub struct Shipment {
    /// To whom.
    pub to: ReplicaId,
    /// `None`: it is being made.
    load: Option<Bytes>,
    sent: usize,
}

impl Shipment {
    /// A shipment of `load`, or of the next checkpoint.
    pub fn new(to: ReplicaId, load: Option<Bytes>) -> Shipment {
        Shipment { to, load, sent: 0 }
    }

    /// Whether it waits for a checkpoint to be made.
    pub fn waits(&self) -> bool {
        self.load.is_none()
    }

    /// The checkpoint has been made.
    pub fn load(&mut self, load: Bytes) {
        self.load = Some(load);
    }

    /// Sends chunks, as far as the connection takes them.
    pub fn go_on(&mut self, transport: &mut Transport) {
        let Some(load) = &self.load else { return };
        while self.sent < load.len() && transport.backlog(self.to) < BACKLOG_BYTES {
            let end = (self.sent + CHUNK_BYTES).min(load.len());
            transport.send(self.to, Kind::CheckpointChunk, |body| {
                body.u64(load.len() as u64);
                body.u64(self.sent as u64);
                body.extend_from_slice(&load[self.sent..end]);
            });
            self.sent = end;
        }
    }

    /// Whether all of it is on its way.
    pub fn is_done(&self) -> bool {
        self.load.as_ref().is_some_and(|load| self.sent == load.len())
    }
}

/// A checkpoint on its way from a peer.
pub struct Incoming {
    /// From whom.
    pub from: ReplicaId,
    /// How long the whole is, as the first chunk says.
    total: Option<u64>,
    /// What has come, as it came: to put it together takes long, and is done behind.
    pieces: Vec<Bytes>,
    received: u64,
    last_heard: Instant,
    installing: bool,
}

impl Incoming {
    /// Nothing has come yet.
    pub fn new(from: ReplicaId) -> Incoming {
        Incoming { from, total: None, pieces: Vec::new(), received: 0, last_heard: Instant::now(), installing: false }
    }

    /// All has come, and is being put in place: nothing else is to be fetched meanwhile.
    pub fn installing(from: ReplicaId) -> Incoming {
        Incoming { installing: true, ..Incoming::new(from) }
    }

    /// Whether it is being put in place.
    pub fn is_installing(&self) -> bool {
        self.installing
    }

    /// What came could not be put in place: it counts as silence, so that it is asked for again, but not at once.
    pub fn pause(self) -> Incoming {
        Incoming::new(self.from)
    }

    /// Whether the peer has been silent for too long.
    pub fn is_stale(&self) -> bool {
        !self.installing && self.last_heard.elapsed() > SILENCE_MAX
    }

    /// Adds a chunk. Returns all of them when they are complete.
    ///
    /// # Errors
    /// If the chunk does not follow the one before.
    pub fn add(&mut self, body: Bytes) -> Result<Option<Vec<Bytes>>, String> {
        let text = |e: Malformed| e.to_string();
        let mut reader = Reader::new(body);
        let total = reader.u64("checkpoint length").map_err(text)?;
        let offset = reader.u64("chunk offset").map_err(text)?;
        let chunk = reader.rest();
        let is_next = offset == self.received && *self.total.get_or_insert(total) == total;
        if !is_next || chunk.is_empty() || chunk.len() as u64 > total - offset {
            return Err("a piece of a checkpoint that does not follow the one before".into());
        }
        self.received += chunk.len() as u64;
        self.pieces.push(chunk);
        self.last_heard = Instant::now();
        Ok((self.received == total).then(|| std::mem::take(&mut self.pieces)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::any;

    fn piece(total: u64, offset: u64, bytes: &[u8]) -> Bytes {
        let mut body = Vec::new();
        body.u64(total);
        body.u64(offset);
        body.extend_from_slice(bytes);
        body.into()
    }

    #[test]
    fn what_does_not_fit_the_cluster_is_refused() {
        let topology = Topology::new(2, 2);
        let groups = [Bytes::new(), Bytes::new()];
        let check = |cut, positions: &[(u64, u64)], groups: &[Bytes]| check(&topology, cut, &positions.to_vec(), groups);
        assert_eq!(check(7, &[(3, 1), (4, 1), (7, 1)], &groups), Ok(()));
        assert!(check(7, &[(3, 1), (7, 1)], &groups).expect_err("a log is missing").contains("2 logs"));
        assert!(check(7, &[(3, 1), (4, 1), (7, 1)], &groups[1..]).expect_err("a group is missing").contains("1 groups"));
        assert!(check(8, &[(3, 1), (4, 1), (7, 1)], &groups).expect_err("another cut").contains("cut"));
    }

    #[test]
    fn pieces_of_another_length_or_of_nothing_are_refused() {
        let mut incoming = Incoming::new(2);
        assert!(incoming.add(piece(9, 0, b"")).is_err());
        assert_eq!(incoming.add(piece(9, 0, b"abc")), Ok(None));
        assert!(incoming.add(piece(10, 3, b"def")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_checkpoint_is_decoded_or_refused(cut in 0usize..120, damage in vec((0usize..120, any::<u8>()), 0..6)) {
            let groups = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
            let mut bytes = encode(7, &vec![(3, 1), (5, 2), (7, 2)], &groups).to_vec();
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            if let Ok((cut, positions, groups)) = decode(bytes.into()) {
                let _ = check(&Topology::new(2, 2), cut, &positions, &groups);
            }
        }

        #[test]
        fn any_pieces_are_added_or_refused(pieces in vec((0u64..12, any::<u64>(), 0u64..12, vec(any::<u8>(), 0..8)), 0..8)) {
            let mut incoming = Incoming::new(2);
            for (total, absurd, offset, bytes) in pieces {
                let total = if absurd % 4 == 0 { absurd } else { total };
                if let Ok(Some(pieces)) = incoming.add(piece(total, offset, &bytes)) {
                    let whole = pieces.concat();
                    assert_eq!(whole.len() as u64, total);
                    let _ = decode(whole.into());
                    return Ok(());
                }
            }
        }

        #[test]
        fn any_bytes_are_a_piece_or_refused(bytes in vec(any::<u8>(), 0..64)) {
            let _ = Incoming::new(2).add(bytes.clone().into());
            let _ = decode(bytes.into());
        }
    }

    #[test]
    fn a_checkpoint_survives_shipping() {
        let groups = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let whole = encode(7, &vec![(3, 1), (7, 2)], &groups);
        let mut incoming = Incoming::new(2);
        let (first, second) = whole.split_at(10);
        let chunk = |offset: u64, bytes: &[u8]| {
            let mut body = Vec::new();
            body.u64(whole.len() as u64);
            body.u64(offset);
            body.extend_from_slice(bytes);
            Bytes::from(body)
        };
        assert_eq!(incoming.add(chunk(0, first)).unwrap(), None);
        assert!(incoming.add(chunk(0, first)).is_err());
        let came = incoming.add(chunk(10, second)).unwrap().unwrap();
        assert_eq!(decode(came.concat().into()).unwrap(), (7, vec![(3, 1), (7, 2)], groups));
    }
}
