//! What a client is told when a request has no reply.

use thiserror::Error;

/// Why a request, or a connection, came to nothing. `may_have_been_executed` says what that means for a command.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No replica could be connected to.
    #[error("no replica can be reached ({0}); check the address, and whether the cluster runs")]
    Unreachable(String),
    /// What is no address.
    #[error("{address:?} is no address: {cause}; write it as host:port")]
    Address {
        /// As it was given.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The cluster runs another service.
    #[error("{address} refused the connection: {text}")]
    WrongService {
        /// The replica.
        address: String,
        /// Its words.
        text: String,
    },
    /// The other side speaks another version, or another protocol.
    #[error("{address} does not speak this version of the protocol: {text}")]
    OtherVersion {
        /// The replica.
        address: String,
        /// What is wrong.
        text: String,
    },
    /// A replica refused the session.
    #[error("{address} ended the session: {text}")]
    SessionEnded {
        /// The replica.
        address: String,
        /// Its words.
        text: String,
    },
    /// The gateway does not understand the request.
    #[error("the request is not understood: {0}")]
    Request(String),
    /// A command's payload is too long.
    #[error("a command of {bytes} bytes: allowed are {max}")]
    TooLong {
        /// Of the payload.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The client has been closed, by a request or an error before.
    #[error("the client is closed; make a new one")]
    Closed,
    /// The time was over before the command could be sent.
    #[error("no answer in time; the command was not sent, and has not been executed")]
    NotSent,
    /// The time was over before a read was answered.
    #[error("no answer in time; it was a read, which changes nothing: ask again")]
    ReadTimeout,
    /// A read was lost with a replica, and commands sent after it may have changed what it would see.
    #[error("the read was lost with its replica, and later commands of the pipeline may have passed it: ask again")]
    ReadOvertaken,
    /// A command was sent, and nothing is known of it.
    #[error("{0}; the command may or may not have been executed")]
    OutcomeUnknown(&'static str),
    /// The caller called it off.
    #[error("interrupted; the command may or may not have been executed")]
    Interrupted,
    /// The replica in this process has ended.
    #[error("the replica has ended; commands without a reply may or may not have been executed")]
    Ended,
    /// The service's state cannot be written.
    #[error("the states cannot be compared, and there are no more checkpoints: {0}")]
    Unwritable(String),
    /// The system refused something other than a connection.
    #[error("the system refused what a client needs: {0}")]
    System(String),
}

impl ClientError {
    /// Whether the command that this error answers may have taken effect, or may still.
    pub fn may_have_been_executed(&self) -> bool {
        matches!(
            self,
            ClientError::OutcomeUnknown(_)
                | ClientError::Interrupted
                | ClientError::Ended
                | ClientError::SessionEnded { .. }
                | ClientError::System(_)
        )
    }
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> ClientError {
        ClientError::System(error.to_string())
    }
}
