//! One replica, run in this process until it is told to end.

use crate::gate::{Error, SIGNAL_INTERVAL};
use psmr_core::config::Config;
use psmr_node::node::{Node, NodeConfig, NodeError};
use pyo3::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
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
    durability: String,
    data: Option<PathBuf>,
    lifeline_fd: Option<i32>,
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Error {
        match error {
            NodeError::Usage(text) => Error::Usage(text),
            NodeError::Failure(text) => Error::Failure(text),
        }
    }
}

fn resolve(name: &str, text: &str) -> Result<SocketAddr, Error> {
    let mut found = text.to_socket_addrs().map_err(|e| Error::Usage(format!("{name}: {text:?} is no address: {e}")))?;
    found.next().ok_or_else(|| Error::Usage(format!("{name}: {text:?} has no address")))
}

fn cluster_id(text: &str) -> Result<[u8; 16], Error> {
    let wrong = || Error::Usage(format!("cluster: {text:?} is no id: allowed are 32 hexadecimal digits"));
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
    fn into_node_config(self) -> Result<NodeConfig, Error> {
        let replicas = self.peers.len() as u8;
        let peers = (1..=replicas)
            .map(|id| match self.peers.get(&id) {
                Some(_) if id == self.replica => Ok(None),
                Some(text) => resolve(&format!("peers.{id}"), text).map(Some),
                None => Err(Error::Usage(format!("peers: replica {id} is missing: allowed are 1 to {replicas}"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let data = match (self.durability.as_str(), self.data) {
            ("memory", _) => None,
            ("fsync", Some(data)) => Some(data),
            ("fsync", None) => return Err(Error::Usage("data: is missing: durability fsync needs a directory".into())),
            (other, _) => return Err(Error::Usage(format!("durability: is {other:?}: allowed are fsync and memory"))),
        };
        if self.workers == 0 {
            return Err(Error::Usage("workers: is 0: allowed is 1 or more".into()));
        }
        let core = Config::new(self.replica, replicas, self.groups, self.streams);
        core.check().map_err(Error::Usage)?;
        Ok(NodeConfig {
            core,
            cluster: cluster_id(&self.cluster)?,
            listen: Some(resolve("listen", &self.listen)?),
            peer_listen: Some(resolve("peer_listen", &self.peer_listen)?),
            peers,
            client_addresses: (1..=replicas).map(|id| self.clients.get(&id).cloned()).collect(),
            workers: self.workers,
            data,
        })
    }
}

/// Whether the other end of the lifeline is closed.
fn is_cut(lifeline: i32) -> bool {
    let mut poll = libc::pollfd { fd: lifeline, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid pollfd for the time of the call.
    let count = unsafe { libc::poll(&mut poll, 1, 0) };
    count > 0 && poll.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Runs one replica until a Python signal handler raises, the lifeline is cut, or the replica cannot go on.
#[pyfunction]
pub fn serve(py: Python<'_>, config: &str) -> PyResult<()> {
    let settings: Settings =
        serde_json::from_str(config).map_err(|e| Error::Usage(format!("the configuration does not fit the engine: {e}")))?;
    let lifeline = settings.lifeline_fd;
    let service = crate::services::find(&settings.service)?;
    let config = settings.into_node_config()?;
    let (service, factory) = service.make();
    if lifeline.is_some_and(is_cut) {
        // Its supervisor has gone while it was starting: the ports are another's now.
        return Ok(());
    }
    let node = py.detach(|| Node::start(config, service, Arc::clone(&factory))).map_err(Error::from)?;
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
    };
    py.detach(|| node.stop());
    outcome
}
