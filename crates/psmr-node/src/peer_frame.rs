//! What goes over a connection between replicas; `frame` has the form.

use crate::frame::FrameKind;

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

impl FrameKind for Kind {
    fn body_bytes_max(self) -> usize {
        256 << 20
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
