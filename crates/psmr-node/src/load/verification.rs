//! Reading acknowledged writes back, from every server.

use super::error::LoadError;
use super::options::Endpoint;
use super::unique::{Acknowledged, Found, ReadBack};
use super::{bulk_plan, drive, Control};
use serde_json::{json, Value};
use std::sync::Arc;

/// Connections per server.
const CONNECTIONS: usize = 4;

/// What one server had of the acknowledged writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressVerification {
    /// The server.
    pub address: String,
    /// Writes that were read back.
    pub checked: u64,
    /// Writes that were not there.
    pub lost: u64,
    /// Keys with another value than the write's.
    pub wrong: u64,
    /// Reads that were answered by an error: nothing is known of these writes.
    pub refused: u64,
}

/// What all servers had of the acknowledged writes.
#[derive(Clone, Debug)]
pub struct Verification {
    /// Writes to be found at each server.
    pub acknowledged: u64,
    /// Each server, in the order that was given.
    pub addresses: Vec<AddressVerification>,
    /// The first deviations, in words.
    pub first_errors: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Verification {
    /// Writes that were missing or overwritten, counted at each server.
    pub fn lost(&self) -> u64 {
        self.addresses.iter().map(|address| address.lost + address.wrong).sum()
    }

    /// Every server had every acknowledged write.
    pub fn is_complete(&self) -> bool {
        let complete = |address: &AddressVerification| {
            address.checked == self.acknowledged && address.lost + address.wrong + address.refused == 0
        };
        self.addresses.iter().all(complete)
    }

    /// All of it.
    pub fn to_json(&self) -> Value {
        let addresses = self.addresses.iter().map(|address| {
            json!({
                "address": address.address,
                "checked": address.checked,
                "lost": address.lost,
                "wrong": address.wrong,
                "refused": address.refused,
            })
        });
        json!({
            "acknowledged": self.acknowledged,
            "lost": self.lost(),
            "complete": self.is_complete(),
            "addresses": addresses.collect::<Vec<_>>(),
            "first_errors": self.first_errors,
            "seconds": self.seconds,
        })
    }
}

/// Reads every acknowledged write back from each server, over the Redis protocol. `Control::completed` goes up to `acknowledged.count()` times the
/// number of servers, if nothing is lost.
pub fn verify(
    acknowledged: &Acknowledged,
    addresses: &[String],
    reply_timeout_seconds: f64,
    control: &Control,
) -> Result<Verification, LoadError> {
    if addresses.is_empty() {
        return Err(LoadError::option("addresses", "is empty: at least one host:port is needed".to_owned()));
    }
    let endpoints = Arc::new(Endpoint::resolve_all(addresses)?);
    let plan = bulk_plan(endpoints, acknowledged.format().clone(), reply_timeout_seconds);
    let count = addresses.len();
    let placement = (0..count * CONNECTIONS).map(|number| (number, number % count)).collect();
    let workload = ReadBack::new(acknowledged, (0..count * CONNECTIONS).map(|number| (number / count, CONNECTIONS)));
    let (report, workloads) = drive(&plan, vec![placement], std::iter::once(workload), control)?;
    if report.interrupted {
        return Err(LoadError::Interrupted);
    }
    let mut found = vec![Found::default(); count];
    for (number, part) in workloads.iter().flat_map(ReadBack::found).enumerate() {
        found[number % count].add(part);
    }
    let describe = |(address, found): (&String, Found)| AddressVerification {
        address: address.clone(),
        checked: found.checked,
        lost: found.lost,
        wrong: found.wrong,
        refused: found.refused,
    };
    Ok(Verification {
        acknowledged: acknowledged.count(),
        addresses: addresses.iter().zip(found).map(describe).collect(),
        first_errors: report.first_errors,
        seconds: report.seconds,
    })
}
