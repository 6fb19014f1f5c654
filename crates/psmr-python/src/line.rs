//! Clients of a service in Python. A `Line` is one session, for one thread at a time: calls go in, replies come out in the
//! order of the calls. `psmr.client` and `psmr.aio` make of it what users see.

use crate::client::{embedded_config, timeout, EMBEDDED_TIMEOUT};
use crate::gate::{Error, Signals};
use crate::host::is_executing;
use crate::host::Rules;
use crate::raw_gateway::{RawGateway, Request};
use crate::schema::{Declarations, Schema};
use psmr_core::command::GroupSet;
use psmr_core::execute::Engine;
use psmr_core::routing::Topology;
use psmr_node::client::{Client, ClientError, ClientOptions, SLICE};
use psmr_node::node::Node;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls that are gathered before they are sent without being asked for.
const GATHERED_MAX: usize = 256;

/// Bytes of such calls.
const GATHERED_BYTES_MAX: usize = 256 << 10;

/// A session.
struct Session {
    client: Client,
    topology: Topology,
    timeout: Duration,
    /// Commands of the calls without a decoded reply, in order.
    calls: VecDeque<u32>,
    /// Requests that the client has not been given yet.
    gathered: Vec<u8>,
    gathered_count: usize,
    replies: VecDeque<Result<Vec<u8>, ClientError>>,
    /// Kept for its memory.
    request: Request,
    /// The only replica, if that is in this process, and the groups of it that have answered: they answer reads at once.
    inside: Option<(Arc<Engine>, GroupSet)>,
}

impl Session {
    fn new(client: Client, timeout: Duration, inside: Option<Arc<Engine>>) -> Session {
        Session {
            topology: client.topology().clone(),
            client,
            timeout,
            calls: VecDeque::new(),
            gathered: Vec::new(),
            gathered_count: 0,
            replies: VecDeque::new(),
            request: Request::default(),
            inside: inside.map(|engine| (engine, GroupSet::EMPTY)),
        }
    }

    /// The reply to a read of one group that needs nobody else.
    fn read_now(&self) -> Option<Vec<u8>> {
        let (engine, answering) = self.inside.as_ref().filter(|_| self.request.is_read)?;
        let group = self.request.gamma.lowest().filter(|group| self.request.gamma == GroupSet::one(*group))?;
        let mut reply = Vec::new();
        (answering.contains(group) && engine.read_now(group, &self.request.payload, &mut reply)).then_some(reply)
    }

    /// The groups of the last call have answered.
    fn note_answer(&mut self) {
        if let Some((_, answering)) = &mut self.inside {
            *answering = answering.union(self.request.gamma);
        }
    }

    /// Gives up what has no reply yet; it may be executed all the same.
    fn forget(&mut self) {
        self.client.forget();
        self.replies.clear();
        self.calls.clear();
        self.gathered.clear();
    }

    /// Gives the client what it has room for.
    fn issue(&mut self) -> Result<(), ClientError> {
        if !self.gathered.is_empty() {
            let count = self.client.issue_each(&self.gathered, Instant::now() + self.timeout)?;
            self.gathered.drain(..count);
        }
        Ok(())
    }

    /// Sends what there is, takes what comes back, and waits for that if there is nothing, at most for `wait`.
    fn turn(&mut self, wait: Duration) -> Result<(), ClientError> {
        self.issue()?;
        self.client.turn(wait)?;
        self.replies.extend(std::iter::from_fn(|| self.client.take()));
        self.issue()
    }

    /// Turns until `is_done`.
    fn until(&mut self, called_off: &mut dyn FnMut() -> bool, is_done: impl Fn(&Session) -> bool) -> Result<(), ClientError> {
        let mut looked = Instant::now();
        loop {
            self.turn(if is_done(self) { Duration::ZERO } else { SLICE })?;
            if is_done(self) {
                return Ok(());
            }
            if looked.elapsed() >= SLICE {
                looked = Instant::now();
                if called_off() {
                    return Err(ClientError::Interrupted);
                }
            }
        }
    }

    /// What became of the first call.
    fn outcome<'py>(
        &mut self,
        py: Python<'py>,
        declarations: &Declarations,
        reply: Result<Vec<u8>, ClientError>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let command = self.calls.pop_front().unwrap_or_default() as usize;
        declarations.decode_reply(py, command, &reply.map_err(Error::from)?)
    }
}

enum Seat {
    Free(Box<Session>),
    Taken,
    Closed,
}

/// See the module.
#[pyclass(frozen)]
pub struct Line {
    declarations: Arc<Declarations>,
    seat: Mutex<Seat>,
    process: u32,
}

impl Line {
    fn new(declarations: Arc<Declarations>, session: Session) -> Line {
        Line { declarations, seat: Mutex::new(Seat::Free(Box::new(session))), process: std::process::id() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Session) -> PyResult<T>) -> PyResult<T> {
        let mut session = self.sit_down()?;
        let outcome = work(&mut session);
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been closed meanwhile.
        if let Seat::Taken = *seat {
            *seat = Seat::Free(session);
        }
        outcome
    }

    fn sit_down(&self) -> Result<Box<Session>, Error> {
        if is_executing() {
            return Err(Error::Usage("a command cannot call a service: it would wait for itself; call from outside".into()));
        }
        if std::process::id() != self.process {
            return Err(Error::Usage("the client was made before a fork; connect again in this process".into()));
        }
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *seat, Seat::Taken) {
            Seat::Free(session) => Ok(session),
            Seat::Taken => Err(Error::Usage("another thread uses this pipeline: give each thread its own".into())),
            Seat::Closed => {
                *seat = Seat::Closed;
                Err(Error::Usage("the client is closed; make a new one".into()))
            }
        }
    }

    fn gather(
        &self,
        py: Python<'_>,
        session: &mut Session,
        command: usize,
        arguments: &Bound<'_, PyTuple>,
        named: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let Session { request, topology, gathered, .. } = session;
        request.payload.clear();
        self.declarations.encode_call(py, command, arguments, named, topology, request)?;
        if request.payload.len() > psmr_core::config::COMMAND_BYTES_MAX {
            let (bytes, max) = (request.payload.len(), psmr_core::config::COMMAND_BYTES_MAX);
            return Err(Error::from(ClientError::TooLong { bytes, max }).into());
        }
        request.write(gathered);
        session.gathered_count += 1;
        session.calls.push_back(command as u32);
        Ok(())
    }
}

#[pymethods]
impl Line {
    /// Connects to a cluster through any of its replicas.
    #[staticmethod]
    fn connect(py: Python<'_>, schema: &Schema, addresses: Vec<String>, timeout_s: f64) -> PyResult<Line> {
        let options = ClientOptions { timeout: timeout(timeout_s)?, ..ClientOptions::default() };
        let declarations = schema.inner.clone();
        let interface = declarations.interface.clone();
        let client =
            Signals::watch(py, |called_off| Client::connect(&addresses, &interface, Box::new(RawGateway), options, called_off))?;
        Ok(Line::new(declarations, Session::new(client, options.timeout, None)))
    }

    /// Executes one call, and returns its result.
    #[pyo3(signature = (command, *arguments, **named))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        command: usize,
        arguments: &Bound<'py, PyTuple>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(|session| {
            if !session.calls.is_empty() {
                return Err(Error::Usage("calls of a pipeline are under way; end it first".into()).into());
            }
            session.forget();
            self.gather(py, session, command, arguments, named)?;
            if let Some(reply) = session.read_now() {
                session.gathered.clear();
                return session.outcome(py, &self.declarations, Ok(reply));
            }
            let waited = Signals::watch(py, |called_off| session.until(called_off, |session| !session.replies.is_empty()));
            if let Err(error) = waited {
                session.forget();
                return Err(error);
            }
            let reply = session.replies.pop_front().unwrap_or(Err(ClientError::Closed));
            if reply.is_ok() {
                session.note_answer();
            }
            session.outcome(py, &self.declarations, reply)
        })
    }

    /// Puts one call in line; its result is one of those that `take` returns, in order. What was put in line is sent when it
    /// is much, and by `turn` and `finish`.
    #[pyo3(signature = (command, *arguments, **named))]
    fn issue(
        &self,
        py: Python<'_>,
        command: usize,
        arguments: &Bound<'_, PyTuple>,
        named: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.with(|session| {
            self.gather(py, session, command, arguments, named)?;
            if session.gathered_count < GATHERED_MAX && session.gathered.len() < GATHERED_BYTES_MAX {
                return Ok(());
            }
            session.gathered_count = 0;
            Signals::watch(py, |called_off| session.until(called_off, |session| session.gathered.len() < GATHERED_BYTES_MAX))
        })
    }

    /// Sends what is in line, and waits at most so long until something comes back.
    fn turn(&self, py: Python<'_>, wait_s: f64) -> PyResult<()> {
        let wait = Duration::try_from_secs_f64(wait_s).unwrap_or(SLICE);
        self.with(|session| {
            session.gathered_count = 0;
            Ok(py.detach(|| session.turn(wait)).map_err(Error::from)?)
        })
    }

    /// Waits for every reply.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        self.with(|session| {
            session.gathered_count = 0;
            Signals::watch(py, |called_off| session.until(called_off, |session| session.replies.len() == session.calls.len()))
        })
    }

    /// Returns what became of the first calls, as far as it is known: results, and exceptions for those that raised.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.with(|session| {
            let outcomes = PyList::empty(py);
            while let Some(reply) = session.replies.pop_front() {
                match session.outcome(py, &self.declarations, reply) {
                    Ok(value) => outcomes.append(value)?,
                    Err(error) => outcomes.append(error.into_value(py))?,
                }
            }
            Ok(outcomes)
        })
    }

    /// Readable when `turn` may have something to do.
    fn fileno(&self) -> PyResult<i32> {
        self.with(|session| Ok(session.client.descriptor()))
    }

    /// Lets go of the session; a second call does nothing.
    fn close(&self, py: Python<'_>) {
        let closed = std::mem::replace(&mut *self.seat.lock().unwrap_or_else(PoisonError::into_inner), Seat::Closed);
        py.detach(|| drop(closed));
    }
}

/// A replica in this process, of a service in Python.
#[pyclass(frozen)]
pub struct Replica {
    declarations: Arc<Declarations>,
    node: Mutex<Option<Node>>,
}

#[pymethods]
impl Replica {
    #[new]
    fn new(py: Python<'_>, schema: &Schema, groups: usize, workers: Option<usize>, data: Option<PathBuf>) -> PyResult<Replica> {
        let (service, factory) = schema.make(py, Rules { is_alone: true, ..Rules::default() })?;
        let config = embedded_config(groups, workers, data);
        let node = py.detach(|| Node::start(config, service, factory)).map_err(Error::from)?;
        Ok(Replica { declarations: schema.inner.clone(), node: Mutex::new(Some(node)) })
    }

    /// A session of its own.
    fn line(&self) -> PyResult<Line> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let node = node.as_ref().ok_or_else(|| Error::Usage("the service is closed; make a new one".into()))?;
        let options = ClientOptions { timeout: EMBEDDED_TIMEOUT, ..ClientOptions::default() };
        let client = node.direct_client(Box::new(RawGateway), options).map_err(Error::from)?;
        Ok(Line::new(self.declarations.clone(), Session::new(client, options.timeout, Some(node.engine().clone()))))
    }

    /// Ends the replica; a second call does nothing.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.stop());
    }
}

impl Replica {
    fn stop(&self) {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node) = node {
            node.stop();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // The workers need the interpreter to come to their end.
        Python::attach(|py| py.detach(|| self.stop()));
    }
}
