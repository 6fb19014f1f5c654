//! A page beside the segments with the position known synced, rewritten after each sync of the log and not itself synced
//! (but at a clean end, and at the start). It survives a kill of the process, and then attests the very last sync, which no
//! record of the log does yet. After a power loss it may be old, which only makes it attest less. It is a witness, never the
//! truth: a damaged or missing one is reported and written anew.

use super::record::{Position, VERSION};
use super::segment::SegmentFile;
use crate::disk::{read_u32, read_u64};
use std::path::Path;

const NAME: &str = "synced.psmr";
const SLOT_BYTES: usize = 24;
const MAGIC: &[u8; 4] = b"sync";

/// The open page.
pub struct SyncSlot {
    file: SegmentFile,
    nonce: [u8; 16],
}

impl SyncSlot {
    /// What the page in `directory` attests, if it is there and whole.
    pub fn read(directory: &Path, nonce: &[u8; 16]) -> Option<Position> {
        let bytes = std::fs::read(directory.join(NAME)).ok()?;
        let slot = bytes.get(..SLOT_BYTES)?;
        let is_whole = &slot[..4] == MAGIC && read_u32(slot, 20) == checksum(slot, nonce);
        (is_whole && read_u32(slot, 4) == u32::from(VERSION)).then(|| Position::from_u64(read_u64(slot, 8)))
    }

    /// Whether the directory has had a log.
    pub fn exists(directory: &Path) -> bool {
        directory.join(NAME).exists()
    }

    /// Opens the page, or makes it; its content is to be set next.
    ///
    /// # Errors
    /// One line.
    pub fn open(directory: &Path, nonce: [u8; 16]) -> Result<SyncSlot, String> {
        let path = directory.join(NAME);
        if !std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == SLOT_BYTES as u64) {
            crate::disk::replace_file(&path, &[0; SLOT_BYTES])?;
        }
        Ok(SyncSlot { file: SegmentFile::open(path)?, nonce })
    }

    /// Everything before `position` is durable.
    ///
    /// # Errors
    /// One line.
    pub fn set(&self, position: Position) -> Result<(), String> {
        let mut slot = [0; SLOT_BYTES];
        slot[..4].copy_from_slice(MAGIC);
        slot[4..8].copy_from_slice(&u32::from(VERSION).to_le_bytes());
        slot[8..16].copy_from_slice(&position.to_u64().to_le_bytes());
        let checksum = checksum(&slot, &self.nonce);
        slot[20..].copy_from_slice(&checksum.to_le_bytes());
        self.file.write(&slot, 0)
    }

    /// Makes the page durable.
    ///
    /// # Errors
    /// One line.
    pub fn sync(&self) -> Result<(), String> {
        self.file.sync()
    }
}

fn checksum(slot: &[u8], nonce: &[u8; 16]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(nonce), &slot[..20])
}
