//! What a service in Python declares, as the extension works by it: how a call becomes a request, and a reply a result.
//!
//! ```text
//! payload = command u16, argument...                 every argument, defaults filled in
//! reply   = outcome u8, then the result | the exception
//! ```

use crate::codec::plain::Plain;
use crate::codec::shape::{ShapeId, Shapes};
use crate::codec::{malformed, Misfit};
use crate::gate::Error;
use crate::host::{Host, PythonService, Rules};
use crate::raw_gateway::{NativeOnly, Request};
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::gateway::Gateway;
use psmr_core::routing::Topology;
use psmr_core::service::Service;
use psmr_node::client_thread::GatewayFactory;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// The command returned.
const RETURNED: u8 = 0;
/// It raised: the class, the message, the arguments if they can be encoded.
const RAISED: u8 = 1;
/// What it returned is of another type than declared: why.
const UNFIT: u8 = 2;

/// Where a command's keys come from.
enum Keys {
    All,
    None,
    Terms(Vec<Term>),
    /// A function of the arguments, which returns one key, or a list, tuple or set of keys.
    Function(Py<PyAny>),
}

/// One of several keys.
#[derive(FromPyObject)]
enum Term {
    /// An argument by number; true: each item of it is a key.
    Argument(usize, bool),
    /// The same in every call.
    #[pyo3(transparent)]
    Fixed(Vec<u8>),
}

struct Parameter {
    name: Py<PyString>,
    shape: ShapeId,
    default: Option<Py<PyAny>>,
}

struct Declared {
    /// As errors call it: `Bank.deposit`.
    place: String,
    name: String,
    is_query: bool,
    parameters: Vec<Parameter>,
    /// How many of the parameters may be given by position.
    positional: usize,
    keys: Keys,
    result: ShapeId,
}

/// See the module. Python makes one per class (`psmr.service`).
#[pyclass(frozen)]
pub struct Schema {
    pub inner: Arc<Declarations>,
}

/// What a `Schema` holds.
pub struct Declarations {
    /// The class's name.
    pub name: String,
    /// The name and a number that is equal for equal declarations.
    pub interface: String,
    /// Where the class is defined.
    module: String,
    pub class: Py<PyAny>,
    pub shapes: Shapes,
    commands: Vec<Declared>,
    /// Methods that run by themselves, and how often, in milliseconds.
    pub timers: Vec<(String, u64)>,
    /// Makes the exception that a client raises, from class, message and arguments.
    make_exception: Py<PyAny>,
    /// Spreads commands that depend on nothing.
    spread: AtomicUsize,
    /// The number of the command that a replica here began last.
    pub last: AtomicUsize,
}

#[pymethods]
impl Schema {
    /// `table`: rows of `psmr.shapes`. `commands`: tuples of name, query, parameters (name, shape, has a default, default),
    /// positional count, keys, result. `timers`: names, and periods in milliseconds. `describe`, `find`: of `psmr.state`.
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        class_: Bound<'_, PyAny>,
        interface: String,
        table: &Bound<'_, PyList>,
        commands: &Bound<'_, PyList>,
        timers: Vec<(String, u64)>,
        describe: Py<PyAny>,
        find: Py<PyAny>,
        make_exception: Py<PyAny>,
    ) -> PyResult<Schema> {
        let name: String = class_.getattr("__qualname__")?.extract()?;
        let module = class_.getattr("__module__")?.extract()?;
        let commands = commands.iter().map(|row| read_command(&name, row.cast::<PyTuple>()?)).collect::<PyResult<_>>()?;
        let shapes = Shapes::new(table, Plain::new(describe, find))?;
        let spread = AtomicUsize::new(0);
        Ok(Schema {
            inner: Arc::new(Declarations {
                name,
                interface,
                module,
                class: class_.unbind(),
                shapes,
                commands,
                timers,
                make_exception,
                spread,
                last: AtomicUsize::new(usize::MAX),
            }),
        })
    }

    /// The groups of a call, of `groups` in all.
    #[pyo3(signature = (command, arguments, named, groups))]
    fn groups_of(
        &self,
        py: Python<'_>,
        command: usize,
        arguments: &Bound<'_, PyTuple>,
        named: Option<&Bound<'_, PyDict>>,
        groups: usize,
    ) -> PyResult<Vec<u8>> {
        let topology = Topology::new(groups, 1);
        let mut request = Request::default();
        self.inner.encode_call(py, command, arguments, named, &topology, &mut request)?;
        Ok(request.gamma.iter().map(|group| group.0).collect())
    }

    /// The command that a replica in this process began last; None: it has executed none.
    fn last_command(&self) -> Option<&str> {
        self.inner.commands.get(self.inner.last.load(Ordering::Relaxed)).map(|command| &*command.place)
    }

    /// The form of a state that is equal for equal ones.
    fn canonical(&self, value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        let mut out = Vec::new();
        let Declarations { name, shapes, .. } = &*self.inner;
        let place = |path: &str| format!("{name}{path}");
        shapes.plain().encode_state(value, &mut out).map_err(|misfit| argument_error(misfit, place))?;
        Ok(out)
    }

    /// The state that `canonical` was given, made again.
    fn revive<'py>(&self, py: Python<'py>, mut state: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        self.inner.shapes.plain().decode(py, &mut state)
    }
}

impl Schema {
    /// A service that executes on a new instance of the class, and what makes the gateways of its clients.
    pub fn make(&self, py: Python<'_>, rules: Rules) -> PyResult<(Arc<dyn Service>, GatewayFactory)> {
        let host = Host::new(py, self.inner.clone(), rules)?;
        let service = self.inner.name.clone();
        let factory = move |_| Box::new(NativeOnly { service: service.clone() }) as Box<dyn Gateway>;
        Ok((Arc::new(PythonService(Arc::new(host))), Arc::new(factory)))
    }
}

fn read_command(service: &str, row: &Bound<'_, PyTuple>) -> PyResult<Declared> {
    let name: String = row.get_item(0)?.extract()?;
    let mut parameters = Vec::new();
    for parameter in row.get_item(2)?.try_iter()? {
        let (name, shape, has_default, default): (Bound<'_, PyString>, ShapeId, bool, Py<PyAny>) = parameter?.extract()?;
        let name = PyString::intern(row.py(), name.to_str()?).unbind();
        parameters.push(Parameter { name, shape, default: has_default.then_some(default) });
    }
    let keys = row.get_item(4)?;
    let keys = match keys.extract::<String>() {
        Ok(extent) if extent == "ALL" => Keys::All,
        Ok(_) => Keys::None,
        Err(_) => match keys.extract::<Vec<Term>>() {
            Ok(terms) => Keys::Terms(terms),
            Err(_) => Keys::Function(keys.unbind()),
        },
    };
    Ok(Declared {
        place: format!("{service}.{name}"),
        name,
        is_query: row.get_item(1)?.extract()?,
        parameters,
        positional: row.get_item(3)?.extract()?,
        keys,
        result: row.get_item(5)?.extract()?,
    })
}

fn argument_error(misfit: Misfit, place: impl FnOnce(&str) -> String) -> PyErr {
    match misfit {
        Misfit::Value { path, text } => Error::Argument(format!("{} {text}", place(&path))).into(),
        Misfit::Raised(error) => error,
    }
}

impl Declarations {
    /// The names of the commands, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.commands.iter().map(|command| &*command.name)
    }

    /// Makes a request of a call.
    ///
    /// # Errors
    /// If an argument is missing, unknown, of another type than declared or no key; nothing has been sent then.
    pub fn encode_call(
        &self,
        py: Python<'_>,
        command: usize,
        arguments: &Bound<'_, PyTuple>,
        named: Option<&Bound<'_, PyDict>>,
        topology: &Topology,
        request: &mut Request,
    ) -> PyResult<()> {
        let declared = &self.commands[command];
        request.payload.extend_from_slice(&(command as u16).to_le_bytes());
        let values = declared.bind(py, arguments, named)?;
        for (parameter, value) in declared.parameters.iter().zip(&values) {
            self.shapes.encode(parameter.shape, value, &mut request.payload).map_err(|misfit| {
                argument_error(misfit, |path| format!("{}: argument {}{path}:", declared.place, parameter.name))
            })?;
        }
        request.gamma = self.gamma(py, declared, &values, topology)?;
        request.is_read = declared.is_query;
        Ok(())
    }

    fn gamma(&self, py: Python<'_>, declared: &Declared, values: &[Bound<'_, PyAny>], topology: &Topology) -> PyResult<GroupSet> {
        let mut gamma = GroupSet::EMPTY;
        let group_of = |key: &Bound<'_, PyAny>| self.group_of(declared, key, topology);
        match &declared.keys {
            Keys::All => return Ok(topology.all()),
            Keys::None => {}
            Keys::Terms(terms) => {
                for term in terms {
                    match term {
                        Term::Argument(number, false) => gamma.insert(group_of(&values[*number])?),
                        Term::Argument(number, true) => {
                            for key in values[*number].try_iter()? {
                                gamma.insert(group_of(&key?)?);
                            }
                        }
                        Term::Fixed(label) => gamma.insert(topology.group_of(label)),
                    }
                }
            }
            Keys::Function(function) => {
                let keys = function.bind(py).call1(PyTuple::new(py, values)?)?;
                if keys.is_instance_of::<PyList>() || is_set_or_tuple(&keys) {
                    for key in keys.try_iter()? {
                        gamma.insert(group_of(&key?)?);
                    }
                } else {
                    gamma.insert(group_of(&keys)?);
                }
            }
        }
        if gamma.is_empty() {
            let group = self.spread.fetch_add(1, Ordering::Relaxed) % topology.groups;
            gamma.insert(GroupId(group as u8));
        }
        Ok(gamma)
    }

    fn group_of(&self, declared: &Declared, key: &Bound<'_, PyAny>, topology: &Topology) -> PyResult<GroupId> {
        let mut bytes = Vec::new();
        let place = |path: &str| format!("{}: a key{path}", declared.place);
        self.shapes.plain().encode_key(key, &mut bytes).map_err(|misfit| argument_error(misfit, place))?;
        Ok(topology.group_of(&bytes))
    }

    /// The command and the arguments of a payload.
    ///
    /// # Errors
    /// If it is none of this service, or an argument's class raises.
    pub fn decode_call<'py>(&self, py: Python<'py>, mut payload: &[u8]) -> PyResult<(usize, Bound<'py, PyTuple>)> {
        let number = crate::codec::take(&mut payload, 2)?;
        let number = usize::from(u16::from_le_bytes([number[0], number[1]]));
        let declared = self.commands.get(number).ok_or_else(|| malformed("command"))?;
        let read = |parameter: &Parameter| self.shapes.decode(py, parameter.shape, &mut payload);
        let values = declared.parameters.iter().map(read).collect::<PyResult<Vec<_>>>()?;
        Ok((number, PyTuple::new(py, values)?))
    }

    /// A command with the name of its class, by number.
    pub fn place_of(&self, command: usize) -> &str {
        self.commands.get(command).map_or("?", |declared| &declared.place)
    }

    /// Whether a command only reads.
    pub fn is_query(&self, command: usize) -> bool {
        self.commands[command].is_query
    }

    /// Appends the reply to a command that returned or raised.
    pub fn encode_outcome(&self, py: Python<'_>, command: usize, outcome: PyResult<Bound<'_, PyAny>>, reply: &mut Vec<u8>) {
        let declared = &self.commands[command];
        match outcome {
            Ok(value) => {
                let start = reply.len();
                reply.push(RETURNED);
                if let Err(misfit) = self.shapes.encode(declared.result, &value, reply) {
                    reply.truncate(start);
                    let text = match misfit {
                        Misfit::Value { path, text } => format!("{}: its result{path} {text}", declared.place),
                        Misfit::Raised(error) => format!("{}: its result cannot be encoded: {error}", declared.place),
                    };
                    reply.push(UNFIT);
                    reply.extend_from_slice(text.as_bytes());
                }
            }
            Err(error) => self.encode_exception(py, &error, reply),
        }
    }

    /// Appends the reply to a command that raised.
    pub fn encode_exception(&self, py: Python<'_>, error: &PyErr, reply: &mut Vec<u8>) {
        let class = error.get_type(py);
        let text = |name: &str| class.getattr(name).and_then(|text| text.extract::<String>()).unwrap_or_default();
        let value = error.value(py);
        let module = Some(text("__module__")).filter(|module| *module != self.module).unwrap_or_default();
        let message = value.str().map_or_else(|_| String::new(), |message| message.to_string_lossy().into_owned());
        let arguments = value.getattr("args").unwrap_or_else(|_| PyTuple::empty(py).into_any());
        reply.push(RAISED);
        let start = reply.len();
        let whole = (&module, text("__qualname__"), &message, arguments).into_pyobject(py);
        let is_whole = whole.is_ok_and(|whole| self.shapes.plain().encode(whole.as_any(), reply).is_ok());
        if !is_whole {
            reply.truncate(start);
            let short = (&module, text("__qualname__"), &message, py.None()).into_pyobject(py);
            if !short.is_ok_and(|short| self.shapes.plain().encode(short.as_any(), reply).is_ok()) {
                reply.truncate(start);
            }
        }
    }

    /// What a command returned.
    ///
    /// # Errors
    /// The exception that it raised, or what is wrong with the reply.
    pub fn decode_reply<'py>(&self, py: Python<'py>, command: usize, reply: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let (outcome, mut rest) = reply.split_first().ok_or_else(|| malformed("reply"))?;
        match *outcome {
            RETURNED => self.shapes.decode(py, self.commands[command].result, &mut rest),
            UNFIT => Err(Error::Command(String::from_utf8_lossy(rest).into_owned()).into()),
            _ => {
                let parts = self.shapes.plain().decode(py, &mut rest)?;
                let made = self.make_exception.bind(py).call1(parts.cast_into::<PyTuple>()?)?;
                Err(match made.is_instance_of::<PyException>() {
                    true => PyErr::from_value(made),
                    false => Error::Failure("the exception of a command cannot be made".into()).into(),
                })
            }
        }
    }
}

fn is_set_or_tuple(value: &Bound<'_, PyAny>) -> bool {
    use pyo3::types::{PyFrozenSet, PySet};
    // A named tuple is one key.
    value.is_exact_instance_of::<PyTuple>() || value.is_instance_of::<PySet>() || value.is_instance_of::<PyFrozenSet>()
}

impl Declared {
    /// The value of each parameter.
    fn bind<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyTuple>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let given = arguments.len();
        if given > self.positional {
            return Err(self.wrong(&format!("takes {} by position, {given} were given", self.positional)));
        }
        let mut values: Vec<Bound<'py, PyAny>> = Vec::with_capacity(self.parameters.len());
        values.extend(arguments.iter());
        let mut used = 0;
        for (at, parameter) in self.parameters.iter().enumerate() {
            let by_name = named.map(|named| named.get_item(parameter.name.bind(py))).transpose()?.flatten();
            match by_name {
                Some(_) if at < given => return Err(self.wrong(&format!("argument {} is given twice", parameter.name))),
                Some(value) => {
                    used += 1;
                    values.push(value);
                }
                None if at < given => {}
                None => match &parameter.default {
                    Some(default) => values.push(default.bind(py).clone()),
                    None => return Err(self.wrong(&format!("argument {} is missing", parameter.name))),
                },
            }
        }
        match named {
            Some(named) if named.len() > used => {
                let is_known = |name: &str| self.parameters.iter().any(|parameter| parameter.name.to_string() == name);
                let unknown = named.keys().iter().map(|name| name.to_string()).find(|name| !is_known(name));
                Err(self.wrong(&format!("there is no argument {}", unknown.unwrap_or_default())))
            }
            _ => Ok(values),
        }
    }

    fn wrong(&self, what: &str) -> PyErr {
        let names: Vec<String> = self.parameters.iter().map(|parameter| parameter.name.to_string()).collect();
        let takes = if names.is_empty() { "it takes none".into() } else { format!("it takes {}", names.join(", ")) };
        Error::Argument(format!("{}: {what}; {takes}", self.place)).into()
    }
}
