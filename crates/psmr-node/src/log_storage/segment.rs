//! Segment files: their names, how one is made ahead of its use, and the file layer below the log, where tests put faults.

use super::record::{SegmentHeader, SEGMENT_HEADER_BYTES};
use crate::disk;
use rustix::fs::{fallocate, FallocateFlags, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Much is written in pieces of this size, so that making a segment never holds up a sync of the log for long.
const PIECE_BYTES: usize = 256 << 10;
/// Where memory has to begin that is written past the page cache, on any common disk.
const DIRECT_ALIGNMENT: usize = 4096;
/// A segment under construction. A left-over one is worthless.
const PREPARING: &str = "preparing.tmp";

/// What a test may let fail.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOperation {
    Write,
    Sync,
}

/// Asked before each operation of the log on its active segment.
#[cfg(test)]
pub type FaultHook = std::sync::Arc<dyn Fn(FileOperation) -> io::Result<()> + Send + Sync>;

/// A file that is written past the page cache, where the file system lets it: a sync then has no pages to look for, and
/// costs half. Through the page cache otherwise.
struct PastCache {
    file: File,
    is_direct: bool,
    /// Room for a piece that begins where the disk wants it to.
    room: Vec<u8>,
}

impl PastCache {
    fn open(path: &Path) -> io::Result<PastCache> {
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(path);
        let is_direct = direct.is_ok();
        let file = direct.or_else(|_| OpenOptions::new().write(true).open(path))?;
        Ok(PastCache { file, is_direct, room: vec![0; PIECE_BYTES + DIRECT_ALIGNMENT] })
    }

    fn write(&mut self, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = self.room.as_ptr().align_offset(DIRECT_ALIGNMENT);
        for (piece, number) in bytes.chunks(PIECE_BYTES).zip(0..) {
            let at = offset + number * PIECE_BYTES as u64;
            let aligned = &mut self.room[start..][..piece.len()];
            aligned.copy_from_slice(piece);
            match self.file.write_all_at(aligned, at) {
                Err(e) if self.is_direct && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    // A size or a file system that does not go with it after all.
                    self.file = OpenOptions::new().write(true).open(path)?;
                    self.is_direct = false;
                    self.file.write_all_at(piece, at)?;
                }
                written => written?,
            }
        }
        Ok(())
    }
}

/// An open segment file. Its errors are one line that names the file and what to do.
pub struct SegmentFile {
    file: File,
    /// For `append`, from its first use.
    past_cache: Option<PastCache>,
    path: PathBuf,
    /// Its length.
    pub size_bytes: u64,
    /// See `FaultHook`.
    #[cfg(test)]
    fault: Option<FaultHook>,
}

impl SegmentFile {
    /// Opens a segment that exists.
    ///
    /// # Errors
    /// One line.
    pub fn open(path: PathBuf) -> Result<SegmentFile, String> {
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let size_bytes = file.metadata()?.len();
            Ok((file, size_bytes))
        };
        let (file, size_bytes) = open().map_err(|error| disk::explain("open", &path, &error))?;
        Ok(SegmentFile {
            file,
            past_cache: None,
            path,
            size_bytes,
            #[cfg(test)]
            fault: None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// One line.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), String> {
        #[cfg(test)]
        self.check_fault(FileOperation::Write).map_err(|error| disk::explain("write", &self.path, &error))?;
        self.file.write_all_at(bytes, offset).map_err(|error| disk::explain("write", &self.path, &error))
    }

    /// Writes pages at `offset`, where a page begins.
    ///
    /// # Errors
    /// One line.
    pub fn append(&mut self, pages: &[u8], offset: u64) -> Result<(), String> {
        #[cfg(test)]
        self.check_fault(FileOperation::Write).map_err(|error| disk::explain("write", &self.path, &error))?;
        let SegmentFile { past_cache, path, .. } = self;
        let mut write = || -> io::Result<()> {
            let file = match past_cache {
                Some(file) => file,
                None => past_cache.insert(PastCache::open(path)?),
            };
            file.write(path, pages, offset)
        };
        write().map_err(|error| disk::explain("write", path, &error))
    }

    /// Makes what was written durable. A failed one must not be repeated: the kernel may have dropped the data by then.
    ///
    /// # Errors
    /// One line.
    pub fn sync(&self) -> Result<(), String> {
        #[cfg(test)]
        self.check_fault(FileOperation::Sync).map_err(|error| disk::explain("sync", &self.path, &error))?;
        self.file.sync_data().map_err(|error| disk::explain("sync", &self.path, &error))
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// One line.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| disk::explain("read", &self.path, &error))?;
        Ok(bytes)
    }

    /// Zeros from `offset` to the end of the file.
    ///
    /// # Errors
    /// One line.
    pub fn zero_from(&self, offset: u64) -> Result<(), String> {
        let zeros = vec![0; PIECE_BYTES];
        let mut at = offset;
        while at < self.size_bytes {
            let piece = (self.size_bytes - at).min(PIECE_BYTES as u64) as usize;
            self.write(&zeros[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    /// Sets what is asked before each operation, or nothing.
    #[cfg(test)]
    pub fn with_fault(self, fault: Option<FaultHook>) -> SegmentFile {
        SegmentFile { fault, ..self }
    }

    /// Takes the hook along to the next segment.
    #[cfg(test)]
    pub fn take_fault(&mut self) -> Option<FaultHook> {
        self.fault.take()
    }

    #[cfg(test)]
    fn check_fault(&self, operation: FileOperation) -> io::Result<()> {
        self.fault.as_ref().map_or(Ok(()), |fault| fault(operation))
    }
}

/// The file of segment `number`.
pub fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("segment-{number:010}.psmr"))
}

/// The file that segment `number` becomes when it is no longer needed.
pub fn spare_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("spare-{number:010}.psmr"))
}

/// The files of a log's directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Numbers of the segments, ascending.
    pub segments: Vec<u32>,
    /// Files to be recycled.
    pub spares: Vec<PathBuf>,
}

/// Lists a log's directory.
///
/// # Errors
/// What the system says.
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for item in std::fs::read_dir(directory)? {
        let item = item?;
        let name = item.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".psmr")) else { continue };
        if let Some(number) = stem.strip_prefix("segment-").and_then(|digits| digits.parse().ok()) {
            listing.segments.push(number);
        } else if stem.starts_with("spare-") {
            listing.spares.push(item.path());
        }
    }
    listing.segments.sort_unstable();
    listing.spares.sort();
    Ok(listing)
}

/// Makes a file of `size_bytes` zeros, all of it allocated and written, so that later overwrites change no metadata.
/// `pause` is called between pieces.
///
/// # Errors
/// One line.
pub fn create_zeroed(directory: &Path, size_bytes: u64, pause: &dyn Fn()) -> Result<PathBuf, String> {
    let path = directory.join(PREPARING);
    let create = || -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        fallocate(&file, FallocateFlags::empty(), 0, size_bytes)?;
        let mut past_cache = PastCache::open(&path)?;
        let zeros = vec![0; PIECE_BYTES];
        let mut at = 0;
        while at < size_bytes {
            let piece = (size_bytes - at).min(PIECE_BYTES as u64) as usize;
            past_cache.write(&path, &zeros[..piece], at)?;
            file.sync_data()?;
            at += piece as u64;
            pause();
        }
        file.sync_all()
    };
    create().map_err(|error| {
        // Give the space back at once; a failure to do so leaves a file that the next start overwrites.
        let _ = std::fs::remove_file(&path);
        disk::explain(&format!("allocate {size_bytes} bytes for"), &path, &error)
    })?;
    Ok(path)
}

/// Turns the file at `from` into the segment that `header` says. The header is durable before the name is.
///
/// # Errors
/// One line.
pub fn install(directory: &Path, from: &Path, header: &SegmentHeader) -> Result<(), String> {
    let file = SegmentFile::open(from.to_path_buf())?;
    let mut first = [0; SEGMENT_HEADER_BYTES];
    first.copy_from_slice(&header.encode());
    file.write(&first, 0)?;
    file.sync()?;
    let to = segment_path(directory, header.number);
    let rename = || -> io::Result<()> {
        std::fs::rename(from, &to)?;
        disk::sync_directory(directory)
    };
    rename().map_err(|error| disk::explain("create", &to, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_made_whole_and_listed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let made = create_zeroed(directory.path(), 8192, &|| ()).expect("create");
        assert_eq!(std::fs::read(&made).expect("read"), vec![0; 8192]);
        let header = SegmentHeader { nonce: [1; 16], number: 12, logs: 2, size_bytes: 8192 };
        install(directory.path(), &made, &header).expect("install");
        std::fs::write(spare_path(directory.path(), 3), b"old").expect("spare");
        std::fs::write(directory.path().join("segment-x.psmr"), b"?").expect("other");
        let listing = list(directory.path()).expect("list");
        assert_eq!((listing.segments, listing.spares), (vec![12], vec![spare_path(directory.path(), 3)]));
        let file = SegmentFile::open(segment_path(directory.path(), 12)).expect("open");
        let first = file.read(0, SEGMENT_HEADER_BYTES).expect("read");
        assert_eq!((SegmentHeader::decode(&first), file.size_bytes), (Ok(header), 8192));
    }

    #[test]
    fn zeroing_stops_nowhere_and_spares_what_is_before() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        std::fs::write(&path, vec![7; PIECE_BYTES + 100]).expect("write");
        SegmentFile::open(path.clone()).expect("open").zero_from(10).expect("zero");
        let bytes = std::fs::read(&path).expect("read");
        assert!(bytes[..10].iter().all(|byte| *byte == 7) && bytes[10..].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len(), PIECE_BYTES + 100);
    }
}
