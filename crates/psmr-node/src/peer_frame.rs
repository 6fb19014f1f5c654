//! What goes over a connection between replicas; `frame` has the form.

use crate::checkpoints::CHUNK_BODY_BYTES_MAX;
use crate::frame::{FrameKind, HEAD_BYTES};

pub use crate::frame::{decode, encode};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of either side: who it is, and which cluster it belongs to.
    Hello = 1,
    /// A turn of the ordering part.
    Turn = 2,
    /// Asks for the newest checkpoint.
    CheckpointRequest = 3,
    /// A piece of a checkpoint file.
    CheckpointChunk = 4,
    /// The other side is not accepted: why, in words. The connection is closed after it.
    Refusal = 5,
}

/// The longest body of a frame that only says something about the connection.
const SHORT_BYTES_MAX: usize = 4 << 10;

/// The longest body of a turn: all logs of a replica that catches up, or of one that has been without a leader.
const TURN_BYTES_MAX: usize = 256 << 20;

/// The most bytes that are read of the other side before it is known.
pub const OPENING_BYTES_MAX: usize = HEAD_BYTES + SHORT_BYTES_MAX;

impl FrameKind for Kind {
    const VERSION: u8 = 1;

    fn body_bytes_max(self) -> usize {
        match self {
            Kind::Hello | Kind::CheckpointRequest | Kind::Refusal => SHORT_BYTES_MAX,
            Kind::CheckpointChunk => CHUNK_BODY_BYTES_MAX,
            Kind::Turn => TURN_BYTES_MAX,
        }
    }

    fn to_byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Hello),
            2 => Some(Kind::Turn),
            3 => Some(Kind::CheckpointRequest),
            4 => Some(Kind::CheckpointChunk),
            5 => Some(Kind::Refusal),
            _ => None,
        }
    }
}

/// The kind of the first frame of either side, before which nothing else is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening(pub Kind);

impl FrameKind for Opening {
    const VERSION: u8 = Kind::VERSION;

    fn body_bytes_max(self) -> usize {
        self.0.body_bytes_max()
    }

    fn to_byte(self) -> u8 {
        self.0.to_byte()
    }

    fn from_byte(byte: u8) -> Option<Opening> {
        Kind::from_byte(byte).filter(|kind| matches!(kind, Kind::Hello | Kind::Refusal)).map(Opening)
    }
}
