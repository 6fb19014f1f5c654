//! A service in Python at a replica: one instance of its class, on which the workers of all groups execute. What makes that
//! safe is what the class declares (C-Dep), and that Python's own containers keep themselves whole.

use crate::codec::Misfit;
use crate::schema::Declarations;
use psmr_core::command::GroupId;
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

/// What the command that a thread executes may know.
struct Current {
    now_ms: u64,
    seed: u64,
    session: Option<u64>,
    /// Made when the command first asks.
    object: Option<Py<PyAny>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The `Context` of the command that this thread executes; None outside of one.
#[pyfunction]
pub fn context(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    let known = CURRENT.with_borrow(|current| {
        current.as_ref().map(|at| (at.object.as_ref().map(|object| object.clone_ref(py)), at.now_ms, at.seed, at.session))
    });
    let Some((object, now_ms, seed, session)) = known else { return Ok(None) };
    if object.is_some() {
        return Ok(object);
    }
    let made = py.import("psmr.context")?.getattr("Context")?.call1((now_ms, seed, session))?.unbind();
    CURRENT.with_borrow_mut(|current| {
        if let Some(current) = current {
            current.object = Some(made.clone_ref(py));
        }
    });
    Ok(Some(made))
}

/// Whether this thread executes a command.
pub fn is_executing() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// See the module.
pub struct Host {
    declarations: Arc<Declarations>,
    instance: Py<PyAny>,
    /// Bound to the instance, by number of the command.
    methods: Vec<Py<PyAny>>,
    /// No other replica can differ from this one.
    is_alone: bool,
}

impl Host {
    /// A new instance of the class, whose state can be written.
    ///
    /// # Errors
    /// What the class raises, or what in its first state cannot be written.
    pub fn new(py: Python<'_>, declarations: Arc<Declarations>, is_alone: bool) -> PyResult<Host> {
        let instance = declarations.class.bind(py).call0()?;
        let methods = declarations.names().map(|name| Ok(instance.getattr(name)?.unbind())).collect::<PyResult<Vec<_>>>()?;
        let host = Host { declarations, instance: instance.unbind(), methods, is_alone };
        host.snapshot(py, &mut Vec::new()).map_err(|why| crate::gate::Error::Usage(why).into()).map(|()| host)
    }

    fn snapshot(&self, py: Python<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let instance = self.instance.bind(py);
        let name = &self.declarations.name;
        let state = instance.call_method0("snapshot").map_err(|error| format!("{name}.snapshot: {error}"))?;
        self.declarations.shapes.plain().encode_state(&state, out).map_err(|misfit| match misfit {
            Misfit::Value { path, text } => format!("{name}{path} {text}"),
            Misfit::Raised(error) => format!("{name}: its state cannot be written: {error}"),
        })
    }

    fn restore(&self, py: Python<'_>, mut bytes: &[u8]) -> Result<(), String> {
        let restored = self.declarations.shapes.plain().decode(py, &mut bytes);
        let outcome = restored.and_then(|state| self.instance.bind(py).call_method1("restore", (state,)));
        outcome.map(drop).map_err(|error| format!("{}: its checkpoint cannot be read: {error}", self.declarations.name))
    }

    /// Executes one command or query, with what it may know; true: it asked for that.
    fn execute(&self, py: Python<'_>, payload: &[u8], knows: Current, wants_reply: bool, reply: &mut Vec<u8>) -> bool {
        let (command, arguments) = match self.declarations.decode_call(py, payload) {
            Ok(call) => call,
            Err(error) => {
                self.declarations.encode_exception(py, &error, reply);
                return false;
            }
        };
        CURRENT.set(Some(knows));
        let outcome = self.methods[command].bind(py).call1(arguments);
        let has_asked = CURRENT.take().is_some_and(|current| current.object.is_some());
        if let Err(error) = &outcome {
            if error.is_instance_of::<PyMemoryError>(py) && !self.is_alone {
                let name = self.declarations.name_of(payload);
                panic!("{name} had no more memory: this replica ends, since its state may differ from the others'");
            }
        }
        if wants_reply {
            self.declarations.encode_outcome(py, command, outcome, reply);
        }
        has_asked
    }
}

/// The service as the engine knows it.
pub struct PythonService(pub Arc<Host>);

impl Service for PythonService {
    fn name(&self) -> &str {
        &self.0.declarations.name
    }

    fn interface(&self) -> &str {
        &self.0.declarations.interface
    }

    fn with_worker(&self, work: &mut (dyn FnMut() + Send)) {
        // The thread is made known to Python once, rather than for each batch.
        Python::attach(|py| py.detach(work));
    }

    fn partition(&self, group: GroupId, _topology: &Topology) -> Box<dyn Partition> {
        Box::new(PythonPartition { group, host: self.0.clone() })
    }

    fn shares_state(&self) -> bool {
        true
    }

    fn execute(&self, _handles: &mut Handles<'_>, command: Command<'_>, context: &Context, reply: &mut Vec<u8>) {
        Python::attach(|py| self.0.execute(py, command.payload, current(context, command.seed), true, reply));
    }
}

fn current(context: &Context, seed: u64) -> Current {
    Current { now_ms: context.now_ms, seed, session: context.session.map(|session| session.0), object: None }
}

/// A group's share in the instance: none of it is the group's own.
struct PythonPartition {
    group: GroupId,
    host: Arc<Host>,
}

impl Partition for PythonPartition {
    fn execute(&mut self, slice: Slice<'_>, context: &Context, replies: &mut Replies) {
        Python::attach(|py| {
            for command in slice {
                self.host.execute(py, command.payload, current(context, command.seed), !replies.unwanted, &mut replies.bytes);
                replies.end();
            }
        });
    }

    fn read(&self, payload: &[u8], context: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome {
        let knows = Current { now_ms: context.now_ms, seed: 0, session: None, object: None };
        let has_asked = Python::attach(|py| self.host.execute(py, payload, knows, true, reply));
        // The context tells the time.
        match has_asked && !context.time_is_settled && context.wall_ms > context.now_ms {
            true => ReadOutcome::NeedsTime,
            false => ReadOutcome::Done,
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String> {
        match self.group {
            GroupId(0) => Python::attach(|py| self.host.snapshot(py, out)),
            _ => Ok(()),
        }
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.group {
            GroupId(0) => Python::attach(|py| self.host.restore(py, bytes)),
            _ => Ok(()),
        }
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
