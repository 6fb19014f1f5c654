//! The border between a client protocol (RESP, native) and the engine. A gateway turns bytes into requests and replies into
//! bytes, for one connection; it does no I/O, knows no groups but through the tables, and never sees the engine.

use crate::command::{GroupId, GroupSet};
use crate::routing::Topology;
use std::time::Duration;

/// What became of a request that the service did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command was refused and has not been executed: nothing of it will ever take effect.
    Refused,
    /// The request is longer than `COMMAND_BYTES_MAX`, and has not been executed.
    TooLong,
    /// The command may or may not have been executed, now or later within its expiry.
    Unknown,
}

/// What a gateway may tell its clients about the replica and its other connections.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// This replica, 1 to n.
    pub replica: u8,
    /// How many replicas the cluster has.
    pub replicas: u8,
    /// The port that clients connect to.
    pub port: u16,
    /// The process.
    pub pid: u32,
    /// When the process started, in milliseconds since 1970.
    pub started_ms: u64,
    /// `fsync` or `memory`.
    pub durability: &'static str,
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster: String,
    /// Beyond so many bytes of resident memory the replica takes no commands that need more; 0: there is no limit.
    pub memory_bytes_max: u64,
    /// Whether clients may hold the replica up, to see what that does.
    pub allows_debug: bool,
}

/// What a replica's process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is resident, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in milliseconds.
    pub cpu_user_ms: u64,
    /// Processor time of the system on its behalf, in milliseconds.
    pub cpu_system_ms: u64,
    /// Client connections since the start.
    pub connections: u64,
}

/// A client connection, as others may list it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// Unique within the replica's process, ascending.
    pub id: u64,
    /// The client's address and port.
    pub address: String,
    /// What the client calls itself.
    pub name: String,
    /// The client library's name and version, as it gave them.
    pub library: String,
    /// See `library`.
    pub library_version: String,
    /// When it connected, in milliseconds since 1970.
    pub since_ms: u64,
    /// The protocol version that it speaks (2 or 3 for RESP).
    pub protocol: u8,
}

/// Where a gateway puts what its connection asks for. Replies come back in the order of issue, whatever the order in which
/// these are called: each call of `answer_with`, `ordered` or `read` takes the next place in that order.
pub trait Sink {
    /// The tables of the cluster.
    fn topology(&self) -> &Topology;
    /// The replica.
    fn node(&self) -> &NodeInfo;
    /// The wall clock in milliseconds since 1970.
    fn wall_ms(&self) -> u64;
    /// The connections of this replica, ascending by id.
    fn clients(&self) -> Vec<ClientInfo>;
    /// Where clients connect to each replica (`host:port`), as far as that is known here.
    fn addresses(&self) -> Vec<(u8, String)> {
        Vec::new()
    }
    /// What the replica's process has used, where that can be told.
    fn usage(&self) -> Option<Usage> {
        None
    }
    /// Whether the replica's process has more than `NodeInfo::memory_bytes_max`, when it last looked.
    fn is_out_of_memory(&self) -> bool {
        false
    }
    /// Holds up the replica's clients, where that is allowed, and what shares their thread.
    fn stall(&mut self, _time: Duration) {}
    /// Answers at once, without the service.
    fn answer(&mut self, bytes: &[u8]);
    /// Multicasts a command to γ; one that is longer than `COMMAND_BYTES_MAX` fails. `read`: an ordered read, executed only where it is answered. `tag` comes back with the reply.
    fn ordered(&mut self, gamma: GroupSet, read: bool, tag: u32, payload: &[u8]);
    /// A linearizable read of one group, not ordered. `tag` comes back with the reply.
    fn read(&mut self, group: GroupId, tag: u32, payload: &[u8]);
    /// Whether the connection may ask for no more now; the gateway returns from `on_input`, and is called again later with
    /// the same bytes.
    fn is_full(&self) -> bool;
}

/// One client connection's protocol.
pub trait Gateway: Send {
    /// Takes whole requests off the start of `input` until none is left, the sink is full or the gateway `is_waiting`. Returns how many bytes it took;
    /// it is called again with the rest and what has arrived since.
    ///
    /// # Errors
    /// The connection is to be closed after all replies so far, and after these last words.
    fn on_input(&mut self, input: &[u8], sink: &mut dyn Sink) -> Result<usize, Vec<u8>>;

    /// Turns the service's reply to the request with `tag` into bytes for the client.
    fn on_reply(&mut self, tag: u32, reply: &[u8], out: &mut Vec<u8>);

    /// Tells the client that the request with `tag` was not answered.
    fn on_failure(&mut self, tag: u32, failure: Failure, out: &mut Vec<u8>);

    /// How this connection is listed (id, address and times are filled in by the caller).
    fn info(&self) -> ClientInfo;

    /// Whether it takes nothing before a reply has come: what its connection asked for last decides what it asks for next.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Whether the client asked to be disconnected after the replies so far (QUIT).
    fn wants_close(&self) -> bool;
}
