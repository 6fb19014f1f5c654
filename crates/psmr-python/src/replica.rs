//! One replica, run in this process until it is told to end.

use crate::executing::MemoryWatch;
use crate::gate::{Error, SIGNAL_INTERVAL};
use crate::host::Rules;
use crate::memory::Returns;
use crate::schema::Schema;
use psmr_core::command::ReplicaId;
use psmr_core::config::Config;
use psmr_node::node::{Node, NodeConfig, NodeError};
use psmr_node::resolver::resolve;
use pyo3::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A replica's configuration, as `psmr.config` writes it.
#[derive(Deserialize)]
struct Settings {
    cluster: String,
    service: String,
    replica: u8,
    listen: String,
    peer_listen: String,
    peers: BTreeMap<u8, String>,
    clients: BTreeMap<u8, String>,
    groups: usize,
    streams: usize,
    workers: usize,
    shares_thread: bool,
    durability: String,
    data: Option<PathBuf>,
    lifeline_fd: Option<i32>,
    memory_bytes_max: u64,
    allows_debug: bool,
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Error {
        match error {
            NodeError::Usage(text) => Error::Usage(text),
            NodeError::Failure(text) => Error::Failure(text),
        }
    }
}

fn own_address(key: &str, text: &str) -> Result<SocketAddr, Error> {
    resolve(text).map_err(|e| Error::Usage(format!("{key} is {text:?}: allowed is an address of this machine: {e}")))
}

fn cluster_id(text: &str) -> Result<[u8; 16], Error> {
    let wrong = || Error::Usage(format!("cluster is {text:?}: allowed are 32 hexadecimal digits"));
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return Err(wrong());
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(id)
}

impl Settings {
    /// The configuration, and the peers whose addresses are names.
    fn into_node_config(self) -> Result<(NodeConfig, Vec<(ReplicaId, String)>), Error> {
        let replicas = self.peers.len() as u8;
        let (mut peers, mut named) = (Vec::new(), Vec::new());
        for id in 1..=replicas {
            let missing = || Error::Usage(format!("replicas: {id} is missing: allowed are 1 to {replicas}"));
            let text = self.peers.get(&id).ok_or_else(missing)?;
            let address = text.parse().ok().filter(|_| id != self.replica);
            if address.is_none() && id != self.replica {
                named.push((id, text.clone()));
            }
            peers.push(address);
        }
        let data = match (self.durability.as_str(), self.data) {
            ("memory", _) => None,
            ("fsync", Some(data)) => Some(data),
            ("fsync", None) => return Err(Error::Usage("data is missing: durability fsync needs a directory".into())),
            (other, _) => return Err(Error::Usage(format!("durability is {other:?}: allowed are fsync and memory"))),
        };
        if self.workers == 0 {
            return Err(Error::Usage("workers is 0: allowed is 1 or more".into()));
        }
        let core = Config::new(self.replica, replicas, self.groups, self.streams);
        core.check().map_err(Error::Usage)?;
        let config = NodeConfig {
            core,
            cluster: cluster_id(&self.cluster)?,
            listen: Some(own_address("listen", &self.listen)?),
            peer_listen: Some(own_address("peer_listen", &self.peer_listen)?),
            peers,
            client_addresses: (1..=replicas).map(|id| self.clients.get(&id).cloned()).collect(),
            workers: self.workers,
            shares_thread: self.shares_thread,
            memory_bytes_max: self.memory_bytes_max,
            allows_debug: self.allows_debug,
            counts: None,
            source: None,
            data,
        };
        Ok((config, named))
    }
}

/// Whether the other end of the lifeline is closed.
fn is_cut(lifeline: i32) -> bool {
    let mut poll = libc::pollfd { fd: lifeline, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid pollfd for the time of the call.
    let count = unsafe { libc::poll(&mut poll, 1, 0) };
    count > 0 && poll.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Runs one replica until a Python signal handler raises, the lifeline is cut, or the replica cannot go on. `schema`: of the
/// service, if that is one in Python. `skipped`: ids of commands that raise instead of being executed. `memory_bytes_max`:
/// beyond that the process ends; 0: there is no limit.
#[pyfunction]
#[pyo3(signature = (config, schema=None, skipped=None, memory_bytes_max=0))]
pub fn serve(
    py: Python<'_>,
    config: &str,
    schema: Option<&Schema>,
    skipped: Option<Vec<u64>>,
    memory_bytes_max: u64,
) -> PyResult<()> {
    let settings: Settings =
        serde_json::from_str(config).map_err(|e| Error::Usage(format!("the configuration does not fit the engine: {e}")))?;
    let lifeline = settings.lifeline_fd;
    let (service, factory, counts) = match schema {
        Some(schema) => {
            let mut skipped = skipped.unwrap_or_default();
            skipped.sort_unstable();
            let (service, factory) = schema.make(py, Rules { is_alone: settings.peers.len() == 1, skipped })?;
            (service, factory, None)
        }
        None => {
            let (service, factory, counts) = crate::services::find(&settings.service)?.make_counted();
            (service, factory, Some(counts))
        }
    };
    let source = schema.map(|_| settings.service.clone());
    let (config, named_peers) = settings.into_node_config()?;
    if lifeline.is_some_and(is_cut) {
        // Its supervisor has gone while it was starting: the ports are another's now.
        return Ok(());
    }
    let config = NodeConfig { counts, source, ..config };
    let refuses_beyond = config.memory_bytes_max;
    let _watch = schema.map(|schema| MemoryWatch::start(memory_bytes_max, schema.inner.clone())).transpose()?;
    let node = py.detach(|| Node::start(config, service, Arc::clone(&factory))).map_err(Error::from)?;
    node.resolve_peers(named_peers).map_err(Error::from)?;
    let mut returns = Returns::new(refuses_beyond);
    let outcome = loop {
        if let Some(ended) = py.detach(|| node.wait(SIGNAL_INTERVAL)) {
            break ended.map_err(|text| Error::Failure(text).into());
        }
        if let Err(signal) = py.check_signals() {
            break Err(signal);
        }
        if lifeline.is_some_and(is_cut) {
            break Ok(());
        }
        py.detach(|| returns.look());
    };
    py.detach(|| node.stop());
    outcome
}
