//! What can go wrong, drawn:
//!
//! ```text
//! CoreError
//!   Peer        bytes from a peer do not decode: close the connection, nothing is lost
//!   Corrupt     a committed entry or a checkpoint does not decode: the replica ends, the others go on
//!   Consensus   the consensus library refused to go on: the replica ends
//! ```

use crate::wire::Malformed;
use std::fmt;

/// An error of the protocol part of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreError {
    /// Bytes from a peer do not decode.
    Peer(Malformed),
    /// Bytes that the replica itself stored, or that consensus delivered, do not decode.
    Corrupt(String),
    /// The consensus library cannot go on.
    Consensus(String),
}

impl From<Malformed> for CoreError {
    fn from(malformed: Malformed) -> Self {
        CoreError::Peer(malformed)
    }
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoreError::Peer(malformed) => write!(f, "a peer sent bytes that are no frame: {malformed}"),
            CoreError::Corrupt(what) => write!(f, "corrupt: {what}; stop this replica, repair it from its peers"),
            CoreError::Consensus(what) => write!(f, "consensus cannot go on: {what}"),
        }
    }
}

impl std::error::Error for CoreError {}
