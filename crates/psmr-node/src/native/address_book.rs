//! Where clients connect to each replica of the cluster, as far as this replica has been told.

use psmr_core::command::ReplicaId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Written by the consensus thread, read by client threads.
#[derive(Debug, Default)]
pub struct AddressBook {
    entries: Mutex<Vec<(ReplicaId, String)>>,
    version: AtomicU64,
}

impl AddressBook {
    /// Notes that clients connect to `replica` at `address`.
    pub fn set(&self, replica: ReplicaId, address: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.iter_mut().find(|(id, _)| *id == replica) {
            Some((_, known)) if known == address => return,
            Some((_, known)) => *known = address.to_owned(),
            None => entries.push((replica, address.to_owned())),
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// All entries.
    pub fn entries(&self) -> Vec<(ReplicaId, String)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}
