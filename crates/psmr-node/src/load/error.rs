//! Why a load could not be run to its end. Wrong replies are no such error: they are counted in the report.

use std::io;
use thiserror::Error;

/// Why a load ended without a report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An option that makes no sense.
    #[error("{name} {problem}")]
    Option {
        /// The field of `Options`.
        name: &'static str,
        /// What it is, and what is allowed.
        problem: String,
    },
    /// A name that cannot be looked up.
    #[error("cannot resolve {address}: {cause}; write it as host:port")]
    Resolve {
        /// As the user wrote it.
        address: String,
        /// What the resolver said.
        cause: String,
    },
    /// No connection.
    #[error("cannot connect to {address}: {cause}; is the server running there?")]
    Connect {
        /// The server.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// A connection that broke.
    #[error("{address} closed a connection with {missing} replies missing: {cause}")]
    Disconnected {
        /// The server.
        address: String,
        /// Commands of that connection whose outcome is unknown.
        missing: usize,
        /// What the system said.
        cause: String,
    },
    /// A server that does not answer.
    #[error("{address} did not answer within {seconds} s: {missing} replies are missing")]
    Stalled {
        /// The server.
        address: String,
        /// Commands without a reply, over all connections to that server.
        missing: usize,
        /// How long the load waited.
        seconds: f64,
    },
    /// Bytes that are no replies.
    #[error("{address} broke the protocol: {problem}")]
    Protocol {
        /// The server.
        address: String,
        /// What it sent.
        problem: String,
    },
    /// The stop flag was set before there was anything to report.
    #[error("interrupted")]
    Interrupted,
    /// The system refused something other than a connection: descriptors, polling.
    #[error("the load generator failed: {0}")]
    System(#[from] io::Error),
}

impl LoadError {
    pub(super) fn option(name: &'static str, problem: String) -> LoadError {
        LoadError::Option { name, problem }
    }
}
