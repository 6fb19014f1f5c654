//! The native protocol on the client port: both sides greet with `GREETING`, then send frames (`frame`).
//!
//! | frame | sender | receiver does |
//! |---|---|---|
//! | `Question` | client | answers with one `Answer`: JSON about the replica, or a digest |
//! | `Hello` | client | answers the session from now on, on this connection: `Welcome` |
//! | `Batch` | client | hands commands that the client's own proxy has numbered to their log |
//! | `Reads` | client | puts reads into their group, and starts a read-index round |
//! | `Answer` | replica | |
//! | `Welcome` | replica | makes its proxy with these tables, or sends again what is outstanding |
//! | `Replies`, `Settled`, `Refused` | replica | what became of commands: `execute::Event` |
//! | `ReadReplies`, `ReadsLost` | replica | what became of reads |
//! | `LeaderChange` | replica | sends again what is outstanding in that log |
//! | `Addresses` | replica | knows where to go when this replica is lost |
//! | `Memory` | replica | refuses what needs memory, or no longer does |
//! | `Refusal` | replica | gives up, or goes to another replica: the connection is closed after it |
//!
//! A connection is one session's. The greeting carries the protocol's version; a replica that is greeted with another answers
//! with its own greeting and a `Refusal`.

mod address_book;
mod opening;
mod traffic;

pub use address_book::AddressBook;
pub use opening::{Hello, Refusal, RefusalCode, Welcome};
pub use traffic::{FromClient, FromReplica};

use crate::frame::FrameKind;
use psmr_core::config::{BATCH_BYTES_MAX, COMMAND_BYTES_MAX};

pub use crate::frame::{decode, encode};

/// The first bytes of a native connection, of either side: a magic, and the version. No RESP client starts with a zero byte.
pub const GREETING: &[u8; 6] = b"\0PSMR\x02";

/// How much of the greeting is the magic.
pub const MAGIC_BYTES: usize = 5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON: `{"ask": "status"}`, `{"ask": "metrics"}`, or `{"ask": "digest", "request": N, "start": bool}`.
    Question = 1,
    /// JSON.
    Answer = 2,
    /// See `Hello`.
    Hello = 3,
    /// See `Welcome`.
    Welcome = 4,
    /// See `FromClient::Batch`.
    Batch = 5,
    /// See `FromClient::Reads`.
    Reads = 6,
    /// Replies to consecutive commands.
    Replies = 7,
    /// Commands are settled without known replies.
    Settled = 8,
    /// Commands were refused because a predecessor is missing.
    Refused = 9,
    /// Replies to reads.
    ReadReplies = 10,
    /// Reads that will not be answered.
    ReadsLost = 11,
    /// Another replica leads a log.
    LeaderChange = 12,
    /// Where clients connect to each replica.
    Addresses = 13,
    /// See `Refusal`.
    Refusal = 14,
    /// Whether the replica has more memory than it may.
    Memory = 15,
}

const KINDS: [Kind; 15] = [
    Kind::Question,
    Kind::Answer,
    Kind::Hello,
    Kind::Welcome,
    Kind::Batch,
    Kind::Reads,
    Kind::Replies,
    Kind::Settled,
    Kind::Refused,
    Kind::ReadReplies,
    Kind::ReadsLost,
    Kind::LeaderChange,
    Kind::Addresses,
    Kind::Refusal,
    Kind::Memory,
];

impl FrameKind for Kind {
    const VERSION: u8 = GREETING[MAGIC_BYTES];

    fn body_bytes_max(self) -> usize {
        match self {
            Kind::Question | Kind::Hello => 4 << 10,
            // A byte says the log.
            Kind::Batch => 1 + BATCH_BYTES_MAX,
            // What was gathered, one more read, and what tells their places.
            Kind::Reads => 2 * COMMAND_BYTES_MAX,
            // Replies to a whole batch of reads come in one frame.
            _ => 1 << 30,
        }
    }

    fn to_byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        KINDS.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in KINDS {
            assert_eq!(Kind::from_byte(kind.to_byte()), Some(kind));
        }
        assert_eq!((Kind::from_byte(0), Kind::from_byte(KINDS.len() as u8 + 1)), (None, None));
    }
}
