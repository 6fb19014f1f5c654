//! A client of the native protocol: the client proxy of the paper, with a way to the replicas under it.
//!
//! ```text
//! request --Gateway--> γ, payload --ClientProxy--> batches, reads --Port--> a replica
//! reply   <--Gateway-- answer     <--ClientProxy-- what became of them <--Port--
//! ```
//!
//! The gateway is the service's own, run here instead of at the replica. A `Port` is a connection that comes back by itself
//! (`Remote`), or a replica in the same process (`Direct`). After a failure everything that is outstanding is sent again, to
//! whichever replica answers; the groups' session tables see to it that each command executes once.

mod direct;
mod error;
mod inspection;
mod port;
mod remote;
mod requests;
mod session;

pub use direct::Direct;
pub use error::ClientError;
pub use inspection::{metrics, status, statuses, verify};
pub use port::{Port, PortEvent};
pub use remote::Remote;
pub use session::{Client, ClientOptions};

use psmr_core::command::SessionId;
use std::time::Duration;

/// How long a client waits at most before it asks whether its call was called off.
pub const SLICE: Duration = Duration::from_millis(50);

/// A session that nobody else has.
fn random_session() -> Result<SessionId, ClientError> {
    getrandom::u64().map(SessionId).map_err(|e| ClientError::System(format!("no random numbers: {e}")))
}
