//! What can happen in a world, and the order in which it does.

use crate::disk::Checkpoint;
use crate::network::Pair;
use bytes::Bytes;
use psmr_core::command::ReplicaId;
use psmr_core::execute::Output;
use std::rc::Rc;

/// Something that happens.
pub(super) enum Event {
    Tick(ReplicaId, u64),
    Turn(ReplicaId, u64),
    Work(ReplicaId, u64),
    AfterRun(ReplicaId, u64, Box<Output>),
    Mail(ReplicaId, u64),
    Persisted(ReplicaId, u64, u64),
    /// A connection is there, to this incarnation of the peer; `None`: it is gone.
    Peer {
        replica: ReplicaId,
        life: u64,
        peer: ReplicaId,
        epoch: u64,
        connected: Option<u64>,
    },
    Frame {
        from: ReplicaId,
        to: ReplicaId,
        epoch: u64,
        bytes: Bytes,
    },
    Connect(Pair),
    CheckpointDurable(ReplicaId, u64, Rc<Checkpoint>),
    FetchEnds(ReplicaId, u64, Option<Rc<Checkpoint>>),
    Client(usize),
    Fault(usize),
    Restart {
        replica: ReplicaId,
        falls_back: bool,
    },
    Resume(ReplicaId),
}

impl Event {
    /// The replica that has to run for this to happen.
    pub fn runs(&self) -> Option<ReplicaId> {
        match self {
            Event::Tick(replica, _)
            | Event::Turn(replica, _)
            | Event::Work(replica, _)
            | Event::AfterRun(replica, ..)
            | Event::Mail(replica, _)
            | Event::Persisted(replica, ..)
            | Event::Peer { replica, .. }
            | Event::Frame { to: replica, .. }
            | Event::CheckpointDurable(replica, ..)
            | Event::FetchEnds(replica, ..) => Some(*replica),
            _ => None,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Event::Tick(..) => "tick",
            Event::Turn(..) => "turn",
            Event::Work(..) => "work",
            Event::AfterRun(..) => "after run",
            Event::Mail(..) => "mail",
            Event::Persisted(..) => "persisted",
            Event::Peer { .. } => "peer",
            Event::Frame { .. } => "frame",
            Event::Connect(_) => "connect",
            Event::CheckpointDurable(..) => "checkpoint",
            Event::FetchEnds(..) => "fetched",
            Event::Client(_) => "client",
            Event::Fault(_) => "fault",
            Event::Restart { .. } => "restart",
            Event::Resume(_) => "resume",
        }
    }
}

/// An event and when it is due.
pub(super) struct Due {
    pub at_us: u64,
    pub sequence: u64,
    pub event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at_us, other.sequence).cmp(&(self.at_us, self.sequence))
    }
}
