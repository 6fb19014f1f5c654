//! What the log, the checkpoints and the data directory ask of a file system alike: files that appear whole or not at all,
//! directories whose entries are durable, locks, numbers in bytes, and errors that name the file and what to do.

use rustix::fs::{flock, FlockOperation};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// One line about a failed operation: what was tried, on which file, what the system said, and what to do.
pub fn explain(action: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {action} {}: {error}; {}", path.display(), remedy(error))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free space on its disk (or raise the quota), then start the replica again"
        }
        ErrorKind::PermissionDenied => "give the replica's user read and write permission there",
        ErrorKind::ReadOnlyFilesystem => "mount the file system writable, or choose another directory",
        ErrorKind::NotFound => "create it, or choose another directory",
        ErrorKind::NotADirectory => "choose a directory, not a file",
        _ => "check the disk and the system's log; a replica whose disk is lost rejoins empty and repairs from its peers",
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The directory that a file's name stands in.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Writes a small file so that after a crash either the old content or the whole new one is there.
///
/// # Errors
/// One line that names the file and what to do.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_directory(&parent(path))
    };
    write().map_err(|error| {
        // The temporary file is of no use to anyone; that it may stay behind on a failing disk does no harm.
        let _ = std::fs::remove_file(&temporary);
        explain("write", path, &error)
    })
}

/// The lock of a file or directory, held until this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock file at `path`, which is made if it is missing. `None`: another holds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        Lock::try_take_file(OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?)
    }

    /// Takes the lock of an open file or directory. `None`: another holds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_take_file(file: File) -> io::Result<Option<Lock>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Lock {
    /// Closing the file would not do at once: a child process between fork and exec has it open too.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// The little-endian number at `at`, which must be inside.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// See `read_u32`.
pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("small.psmr");
        replace_file(&path, b"one").expect("first");
        replace_file(&path, b"two").expect("second");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_failure_names_the_file_and_the_remedy() {
        let line = replace_file(Path::new("/proc/nowhere/file"), b"x").expect_err("not writable");
        assert!(line.contains("/proc/nowhere/file") && line.contains("; "), "{line}");
        assert!(!line.contains('\n'));
        let full = explain("write", Path::new("/d/f"), &io::Error::from_raw_os_error(28));
        assert!(full.contains("/d/f") && full.contains("free space"), "{full}");
    }

    #[test]
    fn a_lock_is_held_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("lock");
        let held = Lock::try_take(&path).expect("lock").expect("free");
        assert!(Lock::try_take(&path).expect("lock").is_none());
        drop(held);
        assert!(Lock::try_take(&path).expect("lock").is_some());
    }
}
