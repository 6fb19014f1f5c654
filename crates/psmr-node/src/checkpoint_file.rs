//! Checkpoint files: written whole or not at all, checked to the last byte before anything is restored from one, kept two at a
//! time, and shipped to a peer byte for byte.
//!
//! `checkpoint-<cut>.psmr` is a header, sections, and a footer; integers are little endian:
//! - header, 32 bytes: magic, version u64, cut u64, zero u32, CRC32C of these;
//! - section: `kind u32, CRC32C u32, length u64`, then its bytes. The checksum starts from the one before it (the first from
//!   the header's), so sections cannot be lost, doubled or exchanged;
//! - footer, 32 bytes: magic, number of sections u64, bytes before the footer u64, zero u32, CRC32C of these, which starts
//!   from the last section's.
//!
//! What the kinds mean is the caller's matter.

use crate::disk::{self, read_u32, read_u64};
use bytes::Bytes;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The format's version.
const VERSION: u64 = 1;
const MAGIC: &[u8; 8] = b"psmr-ckp";
const END_MAGIC: &[u8; 8] = b"psmr-end";
/// Of the header, and of the footer.
const EDGE_BYTES: usize = 32;
const SECTION_HEADER_BYTES: usize = 16;
/// How many checkpoints are kept: if one is damaged, the other serves, and the logs reach back to the older one's cut.
const KEPT: usize = 2;
/// A checkpoint is synced piecewise while it is written: one large sync at its end would hold up those of the log.
const SYNC_PIECE_BYTES: u64 = 8 << 20;
/// A checkpoint is read in pieces of this size.
const READ_PIECE_BYTES: u64 = 1 << 20;
const TEMPORARY: &str = "checkpoint.tmp";
const TEMPORARY_RAW: &str = "checkpoint-from-peer.tmp";

/// Why a checkpoint cannot be written, read or installed. Each is one line that names the file and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// The system refused something.
    Io(String),
    /// The bytes are not those that were written.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Written by a later version of this program.
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// There are checkpoints, and none of them is whole.
    NoneValid(Vec<CheckpointError>),
    /// A peer's bytes do not follow those before them, or are more or fewer than announced.
    WrongChunk(String),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Io(line) => f.write_str(line),
            CheckpointError::Damaged { path, detail } => {
                write!(f, "{} is damaged: {detail}; install a checkpoint of a peer", path.display())
            }
            CheckpointError::UnknownVersion { path, version } => {
                write!(f, "{} has format version {version}, this program knows {VERSION}; use a later psmr", path.display())
            }
            CheckpointError::NoneValid(causes) => {
                let causes: Vec<_> = causes.iter().map(ToString::to_string).collect();
                write!(f, "no checkpoint is whole, install one of a peer: {}", causes.join(" | "))
            }
            CheckpointError::WrongChunk(detail) => write!(f, "a peer's checkpoint cannot be installed: {detail}; ask it again"),
        }
    }
}

impl std::error::Error for CheckpointError {}

/// A part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The caller's.
    pub kind: u32,
    /// The caller's.
    pub bytes: Bytes,
}

/// A whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The index in the cross log that it was cut at.
    pub cut: u64,
    /// In the order of writing.
    pub sections: Vec<Section>,
}

/// What a directory offers to restore from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The newest whole checkpoint.
    pub checkpoint: Checkpoint,
    /// Newer ones that are not whole, to be reported; they are out of the way now, under `.damaged`.
    pub passed_over: Vec<CheckpointError>,
}

/// The file of the checkpoint at `cut`.
pub fn checkpoint_path(directory: &Path, cut: u64) -> PathBuf {
    directory.join(format!("checkpoint-{cut:020}.psmr"))
}

/// The cuts of the checkpoints in `directory`, ascending, whole or not.
///
/// # Errors
/// The directory cannot be read.
pub fn cuts(directory: &Path) -> Result<Vec<u64>, CheckpointError> {
    let list = || -> io::Result<Vec<u64>> {
        let mut cuts = Vec::new();
        for item in std::fs::read_dir(directory)? {
            let name = item?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("checkpoint-")?.strip_suffix(".psmr"));
            cuts.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        cuts.sort_unstable();
        Ok(cuts)
    };
    list().map_err(|error| CheckpointError::Io(disk::explain("list", directory, &error)))
}

/// Writes the checkpoint at `cut` and removes all but the two newest. Nothing is visible before all of it is durable.
///
/// # Errors
/// Nothing has changed; a failed disk is reported, and the replica may go on without this checkpoint.
pub fn write<B: AsRef<[u8]>>(
    directory: &Path,
    cut: u64,
    sections: impl IntoIterator<Item = (u32, B)>,
) -> Result<PathBuf, CheckpointError> {
    let mut writer = CheckpointWriter::create(directory, cut)?;
    for (kind, bytes) in sections {
        writer.section(kind, bytes.as_ref())?;
    }
    writer.finish()
}

/// Writes a checkpoint section by section. Dropped before `finish`, it leaves nothing.
pub struct CheckpointWriter {
    file: PieceFile,
    cut: u64,
    sections: u64,
    checksum: u32,
}

impl CheckpointWriter {
    /// Begins the checkpoint at `cut`. One at a time per directory.
    ///
    /// # Errors
    /// One line.
    pub fn create(directory: &Path, cut: u64) -> Result<CheckpointWriter, CheckpointError> {
        let mut file = PieceFile::create(directory, TEMPORARY)?;
        let header = encode_edge(MAGIC, [VERSION, cut], 0);
        file.write(&header)?;
        Ok(CheckpointWriter { file, cut, sections: 0, checksum: edge_checksum(&header) })
    }

    /// Adds a section.
    ///
    /// # Errors
    /// One line.
    pub fn section(&mut self, kind: u32, bytes: &[u8]) -> Result<(), CheckpointError> {
        let length = bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(section_seed(self.checksum, kind, length), bytes);
        let mut header = [0; SECTION_HEADER_BYTES];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&self.checksum.to_le_bytes());
        header[8..].copy_from_slice(&length.to_le_bytes());
        self.sections += 1;
        self.file.write(&header)?;
        self.file.write(bytes)
    }

    /// Makes the checkpoint durable, gives it its name, and removes all but the two newest.
    ///
    /// # Errors
    /// One line.
    pub fn finish(mut self) -> Result<PathBuf, CheckpointError> {
        let footer = encode_edge(END_MAGIC, [self.sections, self.file.length], self.checksum);
        self.file.write(&footer)?;
        self.file.finish(self.cut)
    }
}

/// Reads the newest checkpoint that is whole; `None` if there is no checkpoint at all.
///
/// # Errors
/// None of them is whole, or the system refused something.
pub fn newest_valid(directory: &Path) -> Result<Option<Newest>, CheckpointError> {
    let mut passed_over = Vec::new();
    for cut in cuts(directory)?.into_iter().rev() {
        let path = checkpoint_path(directory, cut);
        match read_checkpoint(&path, cut) {
            Ok(checkpoint) => {
                if !passed_over.is_empty() {
                    set_damaged_aside(directory, cut)?;
                }
                return Ok(Some(Newest { checkpoint, passed_over }));
            }
            Err(error @ CheckpointError::Damaged { .. }) => passed_over.push(error),
            Err(error) => return Err(error),
        }
    }
    if passed_over.is_empty() {
        return Ok(None);
    }
    Err(CheckpointError::NoneValid(passed_over))
}

/// Renames the checkpoints after `cut`, so that they do not count among the two newest.
fn set_damaged_aside(directory: &Path, cut: u64) -> Result<(), CheckpointError> {
    for damaged in cuts(directory)?.into_iter().filter(|damaged| *damaged > cut) {
        let path = checkpoint_path(directory, damaged);
        std::fs::rename(&path, path.with_extension("damaged"))
            .map_err(|error| CheckpointError::Io(disk::explain("rename", &path, &error)))?;
    }
    Ok(())
}

/// Reads a checkpoint into memory and checks all of it.
fn read_checkpoint(path: &Path, cut: u64) -> Result<Checkpoint, CheckpointError> {
    let mut reader = Reader::open(path, cut)?;
    let mut sections = Vec::new();
    let mut bytes = Vec::new();
    while let Some(kind) = reader.next_section(|piece| bytes.extend_from_slice(piece))? {
        sections.push(Section { kind, bytes: Bytes::from(std::mem::take(&mut bytes)) });
    }
    Ok(Checkpoint { cut, sections })
}

/// Checks all of a checkpoint without keeping it in memory.
///
/// # Errors
/// It is not whole, or the system refused something.
pub fn verify(path: &Path, cut: u64) -> Result<(), CheckpointError> {
    let mut reader = Reader::open(path, cut)?;
    while reader.next_section(|_| ())?.is_some() {}
    Ok(())
}

/// Goes through a checkpoint; what it gives out is to be used only when it has come to the end.
struct Reader {
    source: BufReader<File>,
    path: PathBuf,
    /// Bytes of the sections not yet read.
    rest: u64,
    /// Bytes before the footer.
    length: u64,
    sections: u64,
    checksum: u32,
}

impl Reader {
    fn open(path: &Path, cut: u64) -> Result<Reader, CheckpointError> {
        let open = || -> io::Result<(File, u64)> {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open().map_err(|error| CheckpointError::Io(disk::explain("open", path, &error)))?;
        let length = length.saturating_sub(EDGE_BYTES as u64);
        let source = BufReader::new(file);
        let mut reader = Reader { source, path: path.into(), rest: length, length, sections: 0, checksum: 0 };
        let header = reader.read::<EDGE_BYTES>()?;
        let [version, found] = decode_edge(MAGIC, &header, 0).ok_or_else(|| reader.damaged("its header is broken"))?;
        if version != VERSION {
            return Err(CheckpointError::UnknownVersion { path: path.into(), version });
        }
        if found != cut {
            return Err(reader.damaged(&format!("it is of cut {found}")));
        }
        reader.rest = reader.rest.checked_sub(EDGE_BYTES as u64).ok_or_else(|| reader.damaged("it has no footer"))?;
        reader.checksum = edge_checksum(&header);
        Ok(reader)
    }

    /// Gives the next section's bytes to `take`, in pieces, and returns its kind; `None` after a footer that fits.
    fn next_section(&mut self, mut take: impl FnMut(&[u8])) -> Result<Option<u32>, CheckpointError> {
        if self.rest == 0 {
            let footer = self.read::<EDGE_BYTES>()?;
            let fits = decode_edge(END_MAGIC, &footer, self.checksum) == Some([self.sections, self.length]);
            return if fits { Ok(None) } else { Err(self.damaged("its footer is broken")) };
        }
        let section = self.sections;
        let broken = |reader: &Reader| reader.damaged(&format!("section {section} is broken"));
        self.rest = self.rest.checked_sub(SECTION_HEADER_BYTES as u64).ok_or_else(|| broken(self))?;
        let header = self.read::<SECTION_HEADER_BYTES>()?;
        let (kind, expected, length) = (read_u32(&header, 0), read_u32(&header, 4), read_u64(&header, 8));
        self.rest = self.rest.checked_sub(length).ok_or_else(|| broken(self))?;
        let mut checksum = section_seed(self.checksum, kind, length);
        let mut piece = Vec::new();
        let mut missing = length;
        while missing > 0 {
            piece.resize(missing.min(READ_PIECE_BYTES) as usize, 0);
            self.fill(&mut piece)?;
            checksum = crc32c::crc32c_append(checksum, &piece);
            take(&piece);
            missing -= piece.len() as u64;
        }
        if checksum != expected {
            return Err(broken(self));
        }
        self.checksum = checksum;
        self.sections += 1;
        Ok(Some(kind))
    }

    fn read<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], CheckpointError> {
        let mut bytes = [0; LENGTH];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends too early"),
            // A sector that the disk cannot read any more.
            _ => self.damaged(&error.to_string()),
        })
    }

    fn damaged(&self, detail: &str) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), detail: detail.into() }
    }
}

/// A peer's view of a checkpoint: its bytes, in pieces. The file stays readable when it is removed meanwhile.
pub struct RawCheckpoint {
    file: File,
    path: PathBuf,
    /// Where it was cut.
    pub cut: u64,
    /// The file's bytes.
    pub length: u64,
}

/// Opens the checkpoint at `cut` to ship it.
///
/// # Errors
/// One line.
pub fn read_raw(directory: &Path, cut: u64) -> Result<RawCheckpoint, CheckpointError> {
    let path = checkpoint_path(directory, cut);
    let open = || -> io::Result<(File, u64)> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (file, length) = open().map_err(|error| CheckpointError::Io(disk::explain("open", &path, &error)))?;
    Ok(RawCheckpoint { file, path, cut, length })
}

impl RawCheckpoint {
    /// The bytes from `offset` on, at most `length_max`; empty at the end.
    ///
    /// # Errors
    /// One line.
    pub fn chunk(&self, offset: u64, length_max: usize) -> Result<Bytes, CheckpointError> {
        let length = self.length.saturating_sub(offset).min(length_max as u64) as usize;
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| CheckpointError::Io(disk::explain("read", &self.path, &error)))?;
        Ok(bytes.into())
    }
}

/// Takes a peer's checkpoint in chunks. Dropped before `finish`, it leaves nothing.
pub struct RawInstall {
    file: PieceFile,
    cut: u64,
    length: u64,
}

/// Begins to take the checkpoint at `cut`, of `length` bytes, from a peer. One at a time per directory.
///
/// # Errors
/// One line.
pub fn install_raw(directory: &Path, cut: u64, length: u64) -> Result<RawInstall, CheckpointError> {
    Ok(RawInstall { file: PieceFile::create(directory, TEMPORARY_RAW)?, cut, length })
}

impl RawInstall {
    /// How many bytes have come; the next chunk begins there.
    pub fn received(&self) -> u64 {
        self.file.length
    }

    /// Takes the bytes at `offset`, which must be the next.
    ///
    /// # Errors
    /// They are not the next, or the system refused something.
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let received = self.received();
        if offset != received || bytes.len() as u64 > self.length - received {
            let (count, length) = (bytes.len(), self.length);
            let detail = format!("{count} bytes at {offset} do not follow {received} of {length}");
            return Err(CheckpointError::WrongChunk(detail));
        }
        self.file.write(bytes)
    }

    /// Checks all that came, makes it durable and gives it its name. Keeps it and the newest other one.
    ///
    /// # Errors
    /// It is not whole, or the system refused something; nothing is installed.
    pub fn finish(mut self) -> Result<PathBuf, CheckpointError> {
        if self.received() != self.length {
            let detail = format!("{} bytes of {} came", self.received(), self.length);
            return Err(CheckpointError::WrongChunk(detail));
        }
        self.file.flush()?;
        verify(&self.file.path, self.cut)?;
        self.file.finish(self.cut)
    }
}

/// A checkpoint that has no name yet. Dropped without one, it is removed.
struct PieceFile {
    writer: BufWriter<File>,
    directory: PathBuf,
    path: PathBuf,
    length: u64,
    /// Bytes written since the last sync.
    unsynced: u64,
    is_finished: bool,
}

impl PieceFile {
    fn create(directory: &Path, name: &str) -> Result<PieceFile, CheckpointError> {
        let path = directory.join(name);
        let file = File::create(&path).map_err(|error| CheckpointError::Io(disk::explain("create", &path, &error)))?;
        let writer = BufWriter::with_capacity(256 << 10, file);
        Ok(PieceFile { writer, directory: directory.into(), path, length: 0, unsynced: 0, is_finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        for piece in bytes.chunks(SYNC_PIECE_BYTES as usize) {
            self.writer.write_all(piece).map_err(|error| self.failed(&error))?;
            self.length += piece.len() as u64;
            self.unsynced += piece.len() as u64;
            if self.unsynced >= SYNC_PIECE_BYTES {
                self.flush()?;
                self.writer.get_ref().sync_data().map_err(|error| self.failed(&error))?;
                self.unsynced = 0;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CheckpointError> {
        self.writer.flush().map_err(|error| self.failed(&error))
    }

    fn finish(mut self, cut: u64) -> Result<PathBuf, CheckpointError> {
        self.flush()?;
        let path = checkpoint_path(&self.directory, cut);
        let name = || -> io::Result<()> {
            self.writer.get_ref().sync_all()?;
            std::fs::rename(&self.path, &path)?;
            disk::sync_directory(&self.directory)
        };
        name().map_err(|error| self.failed(&error))?;
        self.is_finished = true;
        remove_others(&self.directory, cut)?;
        Ok(path)
    }

    fn failed(&self, error: &io::Error) -> CheckpointError {
        CheckpointError::Io(disk::explain("write", &self.path, error))
    }
}

impl Drop for PieceFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // A left-over one is overwritten by the next.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Keeps the checkpoint at `cut`, which is known whole, and the newest others; and damaged ones only if they are newer.
fn remove_others(directory: &Path, cut: u64) -> Result<(), CheckpointError> {
    let others = cuts(directory)?.into_iter().filter(|other| *other != cut).rev();
    let mut unwanted: Vec<PathBuf> = others.skip(KEPT - 1).map(|other| checkpoint_path(directory, other)).collect();
    let limit = checkpoint_path(directory, cut).with_extension("damaged");
    let items = std::fs::read_dir(directory).map_err(|error| CheckpointError::Io(disk::explain("list", directory, &error)))?;
    let damaged = items.flatten().map(|item| item.path());
    unwanted.extend(damaged.filter(|path| path.extension() == limit.extension() && *path < limit));
    for path in unwanted {
        std::fs::remove_file(&path).map_err(|error| CheckpointError::Io(disk::explain("remove", &path, &error)))?;
    }
    Ok(())
}

/// The first and the last bytes of a file: two numbers with a checksum that starts from `seed`.
fn encode_edge(magic: &[u8; 8], fields: [u64; 2], seed: u32) -> [u8; EDGE_BYTES] {
    let mut out = [0; EDGE_BYTES];
    out[..8].copy_from_slice(magic);
    out[8..16].copy_from_slice(&fields[0].to_le_bytes());
    out[16..24].copy_from_slice(&fields[1].to_le_bytes());
    let checksum = crc32c::crc32c_append(seed, &out[..28]);
    out[28..].copy_from_slice(&checksum.to_le_bytes());
    out
}

fn decode_edge(magic: &[u8; 8], bytes: &[u8; EDGE_BYTES], seed: u32) -> Option<[u64; 2]> {
    let is_whole = &bytes[..8] == magic && crc32c::crc32c_append(seed, &bytes[..28]) == edge_checksum(bytes);
    is_whole.then(|| [read_u64(bytes, 8), read_u64(bytes, 16)])
}

fn edge_checksum(bytes: &[u8; EDGE_BYTES]) -> u32 {
    read_u32(bytes, 28)
}

fn section_seed(before: u32, kind: u32, length: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(before, &kind.to_le_bytes()), &length.to_le_bytes())
}

#[cfg(test)]
mod tests;
