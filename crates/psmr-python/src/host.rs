//! A service in Python at a replica: one instance of its class, on which the workers of all groups execute. What makes that
//! safe is what the class declares (C-Dep), and that Python's own containers keep themselves whole.

use crate::codec::shape::{read_bytes, read_unsigned, write_array_length, write_bytes, write_unsigned};
use crate::codec::{array_length, Misfit};
use crate::executing;
use crate::schema::Declarations;
use psmr_core::command::{GroupId, SessionId};
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, SeedSource, Service, Slice};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// What a replica does with commands that it cannot execute.
#[derive(Default)]
pub struct Rules {
    /// No other replica can differ from this one.
    pub is_alone: bool,
    /// Ids of commands that raise instead of being executed, at every replica alike. Ascending.
    pub skipped: Vec<u64>,
}

/// See the module.
pub struct Host {
    declarations: Arc<Declarations>,
    instance: Py<PyAny>,
    /// Bound to the instance, by number of the command.
    methods: Vec<Py<PyAny>>,
    /// When each timer is due next, in milliseconds of log time; 0: that is still to be set. Part of the state.
    timers_due: Mutex<Vec<u64>>,
    rules: Rules,
    /// Whether the interpreter has its global lock: what was imported so far decides.
    has_lock: bool,
}

/// Whether the interpreter has a lock that one thread at a time holds. Before CPython 3.13 there is no other way.
fn has_interpreter_lock(py: Python<'_>) -> PyResult<bool> {
    let sys = py.import("sys")?;
    match sys.hasattr("_is_gil_enabled")? {
        true => sys.call_method0("_is_gil_enabled")?.extract(),
        false => Ok(true),
    }
}

impl Host {
    /// A new instance of the class, whose state can be written.
    ///
    /// # Errors
    /// What the class raises, or what in its first state cannot be written.
    pub fn new(py: Python<'_>, declarations: Arc<Declarations>, rules: Rules) -> PyResult<Host> {
        let instance = declarations.class.bind(py).call0()?;
        let methods = declarations.names().map(|name| Ok(instance.getattr(name)?.unbind())).collect::<PyResult<Vec<_>>>()?;
        let timers_due = Mutex::new(vec![0; declarations.timers.len()]);
        let has_lock = has_interpreter_lock(py)?;
        let host = Host { declarations, instance: instance.unbind(), methods, timers_due, rules, has_lock };
        host.snapshot(py, &mut Vec::new()).map_err(|why| crate::gate::Error::Usage(why).into()).map(|()| host)
    }

    fn snapshot(&self, py: Python<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let instance = self.instance.bind(py);
        let Declarations { name, shapes, timers, .. } = &*self.declarations;
        write_array_length(out, timers.len() * 2);
        for ((timer, _), due_ms) in timers.iter().zip(&*self.timers_due()) {
            write_bytes(out, timer.as_bytes());
            write_unsigned(out, *due_ms);
        }
        let state = instance.call_method0("snapshot").map_err(|error| format!("{name}.snapshot: {error}"))?;
        shapes.plain().encode_state(&state, out).map_err(|misfit| match misfit {
            Misfit::Value { path, text } => format!("{name}{path} {text}"),
            Misfit::Raised(error) => format!("{name}: its state cannot be written: {error}"),
        })
    }

    fn restore(&self, py: Python<'_>, bytes: &[u8]) -> Result<(), String> {
        self.try_restore(py, bytes).map_err(|error| format!("{}: its checkpoint cannot be read: {error}", self.declarations.name))
    }

    fn try_restore(&self, py: Python<'_>, mut bytes: &[u8]) -> PyResult<()> {
        // Timers that the class has no more are forgotten, others begin.
        let mut timers_due = vec![0; self.declarations.timers.len()];
        for _ in 0..array_length(&mut bytes)? / 2 {
            let timer = read_bytes(&mut bytes)?;
            let due_ms = read_unsigned(&mut bytes)?;
            if let Some(at) = self.declarations.timers.iter().position(|(name, _)| name.as_bytes() == timer) {
                timers_due[at] = due_ms;
            }
        }
        let state = self.declarations.shapes.plain().decode(py, &mut bytes)?;
        self.instance.bind(py).call_method1("restore", (state,))?;
        *self.timers_due() = timers_due;
        Ok(())
    }

    fn timers_due(&self) -> MutexGuard<'_, Vec<u64>> {
        self.timers_due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the timers that are due. One that is late by several periods runs once.
    fn run_timers(&self, context: &Context) {
        let seeds = SeedSource::new(context.log, context.index, GroupId(0), SessionId(0));
        for (at, (name, period_ms)) in self.declarations.timers.iter().enumerate() {
            let due_ms = self.timers_due()[at];
            if due_ms > context.now_ms {
                continue;
            }
            let late_ms = if due_ms == 0 { 0 } else { (context.now_ms - due_ms) % period_ms };
            self.timers_due()[at] = context.now_ms - late_ms + period_ms;
            if due_ms > 0 {
                Python::attach(|py| self.run_timer(py, name, current(context, seeds.seed(at as u64))));
            }
        }
    }

    fn run_timer(&self, py: Python<'_>, name: &str, knows: Current) {
        CURRENT.set(Some(knows));
        let outcome = self.instance.bind(py).call_method0(name);
        CURRENT.take();
        if let Err(error) = outcome {
            eprintln!("psmr: warning: the timer {}.{name} raised, on every replica alike:", self.declarations.name);
            error.display(py);
        }
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
        let id = knows.seed;
        self.declarations.last.store(command, Ordering::Relaxed);
        if id > 0 && self.rules.skipped.binary_search(&id).is_ok() {
            let skipped = PyRuntimeError::new_err(format!("its operators had command {id} skipped (--skip)"));
            self.declarations.encode_exception(py, &skipped, reply);
            return false;
        }
        CURRENT.set(Some(knows));
        executing::begin(command, id);
        let outcome = self.methods[command].bind(py).call1(&arguments);
        executing::end();
        let has_asked = CURRENT.take().is_some_and(|current| current.object.is_some());
        if let Err(error) = &outcome {
            let is_result = self.rules.is_alone || self.declarations.is_query(command);
            if !is_result && error.is_instance_of::<PyMemoryError>(py) {
                self.end_without_memory(command, id, &arguments);
            }
        }
        if wants_reply {
            self.declarations.encode_outcome(py, command, outcome, reply);
        }
        has_asked
    }

    /// Ends the replica, as what it is to say: others may have had enough for the command, and be in another state now.
    fn end_without_memory(&self, command: usize, id: u64, arguments: &Bound<'_, PyTuple>) -> ! {
        let short = || arguments.py().import("reprlib")?.call_method1("repr", (arguments,))?.extract::<String>();
        let arguments = short().unwrap_or_else(|_: PyErr| "(...)".into());
        let name = self.declarations.place_of(command);
        let text = format!(
            "{name}{arguments} (command {id}) had no more memory, and others may have had enough for it: give this replica more; \
             if every replica ends here, start every one with --skip {id}, and the command raises instead"
        );
        std::panic::resume_unwind(Box::new(text))
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
        Python::attach(|py| {
            let ident = py.import("threading").and_then(|module| module.call_method0("get_ident")?.extract::<u64>());
            let ident = ident.unwrap_or_default();
            py.detach(|| executing::as_worker(ident, work));
        });
    }

    fn parallelism(&self) -> &'static str {
        match self.0.has_lock {
            true => "interpreter lock",
            false => "free-threaded",
        }
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

    fn while_reading(&self, work: &mut dyn FnMut()) {
        Python::attach(|_| work());
    }

    fn due_ms(&self) -> Option<u64> {
        self.host.timers_due().iter().min().copied().filter(|_| self.group == GroupId(0))
    }

    fn on_time(&mut self, context: &Context) {
        if self.group == GroupId(0) {
            self.host.run_timers(context);
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
