//! Clients for Python: of a cluster (`Client`), and of a replica in this process (`Embedded`).

use crate::gate::{Error, Signals};
use crate::reply::PyReply;
use crate::services;
use psmr_core::config::{Config, COMMAND_BYTES_MAX};
use psmr_node::client::{self, ClientError, ClientOptions};
use psmr_node::node::{Node, NodeConfig};
use psmr_services::resp::client as resp;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Every embedded replica is a cluster of its own, told from others by its data directory alone.
const EMBEDDED_CLUSTER: [u8; 16] = *b"psmr embedded 01";

/// How long a command of an embedded replica may take: there is no network that could lose it.
pub const EMBEDDED_TIMEOUT: Duration = Duration::from_secs(60);

/// An embedded replica has nobody to agree with: it leads after this many ticks.
const EMBEDDED_ELECTION_TICKS: u32 = 3;

/// Longer timeouts are as good as none.
const TIMEOUT_S_MAX: f64 = 86_400.0 * 365.0;

/// A client's timeout, of a number of seconds.
pub fn timeout(seconds: f64) -> Result<Duration, Error> {
    match seconds > 0.0 && seconds <= TIMEOUT_S_MAX {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(Error::Usage(format!("timeout_s is {seconds}: allowed is more than 0, up to a year"))),
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        let text = error.to_string();
        match error {
            ClientError::Address { .. }
            | ClientError::WrongService { .. }
            | ClientError::OtherVersion { .. }
            | ClientError::Request(_)
            | ClientError::TooLong { .. }
            | ClientError::Closed => Error::Usage(text),
            ClientError::Unwritable(_) => Error::Failure(text),
            _ if error.may_have_been_executed() => Error::OutcomeUnknown(text),
            _ => Error::Unavailable(text),
        }
    }
}

/// A client that one call at a time may have.
enum Seat {
    Free(Box<client::Client>),
    Taken,
    Closed,
}

struct Shared(Mutex<Seat>);

impl Shared {
    fn new(client: client::Client) -> Shared {
        Shared(Mutex::new(Seat::Free(Box::new(client))))
    }

    fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Seat::Closed;
    }

    fn take(&self) -> Result<Box<client::Client>, Error> {
        let mut seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *seat, Seat::Taken) {
            Seat::Free(client) => Ok(client),
            Seat::Taken => Err(Error::Usage("another thread uses this client: give each thread its own".into())),
            Seat::Closed => {
                *seat = Seat::Closed;
                Err(Error::Usage("the client is closed; make a new one".into()))
            }
        }
    }

    /// The call is over; the client may have been closed meanwhile.
    fn give_back(&self, client: Box<client::Client>) {
        let mut seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Seat::Taken = *seat {
            *seat = Seat::Free(client);
        }
    }

    fn execute(&self, py: Python<'_>, arguments: &[PyBackedBytes]) -> PyResult<PyReply> {
        if arguments.is_empty() {
            return Err(Error::Usage("a command needs a name".into()).into());
        }
        let request = resp::encode(arguments);
        if request.len() > COMMAND_BYTES_MAX {
            // The gateway would make it the connection's end.
            return Err(Error::from(ClientError::TooLong { bytes: request.len(), max: COMMAND_BYTES_MAX }).into());
        }
        let mut client = self.take()?;
        let outcome = Signals::watch(py, |called_off| client.execute_unless(&request, called_off));
        self.give_back(client);
        Ok(PyReply(resp::decode(&outcome?).map_err(Error::from)?))
    }
}

/// A connection to a cluster, which moves to another replica when its own is lost.
#[pyclass(frozen)]
pub struct Client {
    shared: Shared,
}

#[pymethods]
impl Client {
    #[new]
    fn new(py: Python<'_>, address: String, service: &str, timeout_s: f64) -> PyResult<Client> {
        let options = ClientOptions { timeout: timeout(timeout_s)?, ..ClientOptions::default() };
        let gateway = (services::find(service)?.make().1)(0);
        let client = Signals::watch(py, |called_off| client::Client::connect(&[address], service, gateway, options, called_off))?;
        Ok(Client { shared: Shared::new(client) })
    }

    /// Executes one command, its name first.
    fn execute(&self, py: Python<'_>, arguments: Vec<PyBackedBytes>) -> PyResult<PyReply> {
        self.shared.execute(py, &arguments)
    }

    /// Lets go of the connection; a second call does nothing.
    fn close(&self) {
        self.shared.close();
    }
}

/// The configuration of a replica in this process.
pub fn embedded_config(groups: usize, workers: Option<usize>, data: Option<PathBuf>) -> NodeConfig {
    let mut core = Config::new(1, 1, groups, 1);
    (core.heartbeat_ticks, core.election_ticks) = (1, EMBEDDED_ELECTION_TICKS);
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    NodeConfig {
        core,
        cluster: EMBEDDED_CLUSTER,
        listen: None,
        peer_listen: None,
        peers: vec![None],
        client_addresses: Vec::new(),
        workers: workers.unwrap_or(cores).min(groups).max(1),
        shares_thread: false,
        memory_bytes_max: 0,
        allows_debug: false,
        counts: None,
        source: None,
        data,
    }
}

/// A replica in this process, with one client.
#[pyclass(frozen)]
pub struct Embedded {
    shared: Shared,
    node: Mutex<Option<Node>>,
}

#[pymethods]
impl Embedded {
    #[new]
    fn new(py: Python<'_>, service: &str, groups: usize, data: Option<PathBuf>) -> PyResult<Embedded> {
        let (service, factory) = services::find(service)?.make();
        let config = embedded_config(groups, None, data);
        let gateway = factory(0);
        let node = py.detach(|| Node::start(config, service, factory)).map_err(Error::from)?;
        let options = ClientOptions { timeout: EMBEDDED_TIMEOUT, ..ClientOptions::default() };
        match node.direct_client(gateway, options) {
            Ok(client) => Ok(Embedded { shared: Shared::new(client), node: Mutex::new(Some(node)) }),
            Err(error) => {
                py.detach(|| node.stop());
                Err(Error::from(error).into())
            }
        }
    }

    /// Executes one command, its name first.
    fn execute(&self, py: Python<'_>, arguments: Vec<PyBackedBytes>) -> PyResult<PyReply> {
        self.shared.execute(py, &arguments)
    }

    /// Ends the replica; a second call does nothing.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.stop());
    }
}

impl Embedded {
    fn stop(&self) {
        self.shared.close();
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node) = node {
            node.stop();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
    }
}
