//! Values that tell their types themselves, in one form for each value: equal states give equal bytes, whatever the order in
//! which their dicts and sets were filled.
//!
//! | Python | MessagePack |
//! |---|---|
//! | None, bool, int, float, str, bytes, list | nil, boolean, integer, float 64, string, binary, array |
//! | dict | map, ascending by encoded key |
//! | int beyond 64 bits | extension 1: little-endian, signed |
//! | tuple, set, frozenset | extensions 2 to 4: an array, a set's ascending by encoded item |
//! | an object of another class | extension 5: the class, then what `psmr.state` takes it apart to |

use super::misfit::Misfit;
use super::shape::{
    big_int, check_length, read_bytes, read_extension, read_int, whole_number, write_array_length, write_bool, write_bytes,
    write_extension, write_float, write_int, write_nil, write_str,
};
use super::{array_length, malformed, text, DEPTH_MAX};
use pyo3::exceptions::PyRecursionError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType};
use rmp::Marker;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

const TUPLE: i8 = 2;
const SET: i8 = 3;
const FROZEN_SET: i8 = 4;
const OBJECT: i8 = 5;

/// The codec of one service.
pub struct Plain {
    /// Gives, for a class: how it is called, what takes its objects apart, what makes them, and whether they can change.
    describe: Py<PyAny>,
    /// Gives the class of a name.
    find: Py<PyAny>,
    by_class: Mutex<HashMap<usize, Arc<Class>>>,
    by_name: Mutex<HashMap<String, Arc<Class>>>,
}

struct Class {
    name: String,
    take_apart: Py<PyAny>,
    make: Py<PyAny>,
    can_change: bool,
    /// Keeps the address, by which the class is found, from being given to another.
    _class: Py<PyAny>,
}

/// What has been met of a value.
#[derive(Default)]
struct Met {
    /// Addresses of the objects that can change, if none may be met twice.
    mutable: Option<HashSet<usize>>,
    /// Objects that exist only for the encoding: kept, so that none of them gets the address of another.
    made: Vec<Py<PyAny>>,
}

impl Plain {
    /// `describe` and `find` are those of `psmr.state`, for the service's module.
    pub fn new(describe: Py<PyAny>, find: Py<PyAny>) -> Plain {
        Plain { describe, find, by_class: Mutex::default(), by_name: Mutex::default() }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// If it has a class that cannot be encoded.
    pub fn encode(&self, value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Misfit> {
        self.write(value, out, &mut Met::default(), DEPTH_MAX)
    }

    /// Appends a state, which is to be the same after it was decoded.
    ///
    /// # Errors
    /// Also if an object that can change is reached twice: decoding would make two of it.
    pub fn encode_state(&self, state: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Misfit> {
        self.write(state, out, &mut Met { mutable: Some(HashSet::new()), made: Vec::new() }, DEPTH_MAX)
    }

    fn write(&self, value: &Bound<'_, PyAny>, out: &mut Vec<u8>, met: &mut Met, depth: usize) -> Result<(), Misfit> {
        let depth = depth.checked_sub(1).ok_or_else(|| Misfit::new(format!("is nested deeper than {DEPTH_MAX} levels")))?;
        if value.is_none() {
            write_nil(out);
        } else if let Ok(text) = value.cast_exact::<PyString>() {
            write_str(text, out)?;
        } else if let Ok(number) = value.cast_exact::<PyInt>() {
            write_int(number, out)?;
        } else if let Ok(truth) = value.cast_exact::<PyBool>() {
            write_bool(out, truth.is_true());
        } else if let Ok(number) = value.cast_exact::<PyFloat>() {
            write_float(out, number.value());
        } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            check_length(bytes.as_bytes().len())?;
            write_bytes(out, bytes.as_bytes());
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            met.note(value)?;
            self.write_items(list.len(), list.iter(), out, met, depth)?;
        } else if let Ok(dict) = value.cast_exact::<PyDict>() {
            met.note(value)?;
            self.write_dict(dict, out, met, depth)?;
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            let mut items = Vec::new();
            self.write_items(tuple.len(), tuple.iter(), &mut items, met, depth)?;
            write_extension(out, TUPLE, &items);
        } else if let Ok(set) = value.cast_exact::<PySet>() {
            met.note(value)?;
            self.write_set(SET, set.iter(), out, met, depth)?;
        } else if let Ok(set) = value.cast_exact::<PyFrozenSet>() {
            self.write_set(FROZEN_SET, set.iter(), out, met, depth)?;
        } else {
            self.write_object(value, out, met, depth)?;
        }
        Ok(())
    }

    fn write_items<'py>(
        &self,
        count: usize,
        items: impl Iterator<Item = Bound<'py, PyAny>>,
        out: &mut Vec<u8>,
        met: &mut Met,
        depth: usize,
    ) -> Result<(), Misfit> {
        write_array_length(out, count);
        for (at, item) in items.enumerate() {
            self.write(&item, out, met, depth).map_err(|misfit| misfit.within(|| format!("[{at}]")))?;
        }
        Ok(())
    }

    fn write_dict(&self, dict: &Bound<'_, PyDict>, out: &mut Vec<u8>, met: &mut Met, depth: usize) -> Result<(), Misfit> {
        // Keys first, one after the other: values are written once their order is known.
        let (mut keys, mut items) = (Vec::new(), Vec::with_capacity(dict.len()));
        for (key, item) in dict.iter() {
            let start = keys.len();
            self.write(&key, &mut keys, met, depth)?;
            items.push((start..keys.len(), key, item));
        }
        items.sort_unstable_by(|(one, ..), (other, ..)| keys[one.clone()].cmp(&keys[other.clone()]));
        rmp::encode::write_map_len(out, items.len() as u32).map_err(|_| Misfit::new("is too long"))?;
        for (key, name, item) in items {
            out.extend_from_slice(&keys[key]);
            let step = || match name.cast::<PyString>() {
                Ok(name) if depth == DEPTH_MAX - 1 => format!(".{name}"),
                _ => format!("[{}]", name.repr().map_or_else(|_| String::new(), |repr| repr.to_string())),
            };
            self.write(&item, out, met, depth).map_err(|misfit| misfit.within(step))?;
        }
        Ok(())
    }

    fn write_set<'py>(
        &self,
        kind: i8,
        items: impl Iterator<Item = Bound<'py, PyAny>>,
        out: &mut Vec<u8>,
        met: &mut Met,
        depth: usize,
    ) -> Result<(), Misfit> {
        let mut written = Vec::new();
        for item in items {
            let mut bytes = Vec::new();
            self.write(&item, &mut bytes, met, depth)?;
            written.push(bytes);
        }
        written.sort_unstable();
        let mut bytes = Vec::new();
        write_array_length(&mut bytes, written.len());
        written.iter().for_each(|item| bytes.extend_from_slice(item));
        write_extension(out, kind, &bytes);
        Ok(())
    }

    fn write_object(&self, value: &Bound<'_, PyAny>, out: &mut Vec<u8>, met: &mut Met, depth: usize) -> Result<(), Misfit> {
        let class = self.class_of(&value.get_type())?;
        if class.can_change {
            met.note(value)?;
        }
        let parts = class.take_apart.bind(value.py()).call1((value,))?;
        let mut bytes = Vec::new();
        rmp::encode::write_str(&mut bytes, &class.name).map_err(|_| Misfit::new("has too long a class name"))?;
        self.write(&parts, &mut bytes, met, depth)?;
        met.made.push(parts.unbind());
        write_extension(out, OBJECT, &bytes);
        Ok(())
    }

    fn class_of(&self, class: &Bound<'_, PyType>) -> Result<Arc<Class>, Misfit> {
        let address = class.as_ptr() as usize;
        let known = self.by_class.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        if let Some(class) = known {
            return Ok(class);
        }
        let description = self.describe.bind(class.py()).call1((class,))?;
        if let Ok(why) = description.cast::<PyString>() {
            return Err(Misfit::new(why.to_string()));
        }
        let (name, take_apart, make, can_change) = description.extract::<(String, Py<PyAny>, Py<PyAny>, bool)>()?;
        let found = Arc::new(Class { name, take_apart, make, can_change, _class: class.clone().into_any().unbind() });
        self.by_class.lock().unwrap_or_else(PoisonError::into_inner).insert(address, found.clone());
        Ok(found)
    }

    fn class_named(&self, py: Python<'_>, name: &str) -> PyResult<Arc<Class>> {
        let known = self.by_name.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(class) = known {
            return Ok(class);
        }
        let class = self.find.bind(py).call1((name,))?.cast_into::<PyType>()?;
        let found = match self.class_of(&class) {
            Ok(found) => found,
            Err(Misfit::Raised(error)) => return Err(error),
            Err(Misfit::Value { text, .. }) => return Err(malformed(&format!("object: {name} {text}"))),
        };
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), found.clone());
        Ok(found)
    }

    /// Takes a value off the start of `input`.
    ///
    /// # Errors
    /// If there is none, or its class cannot be found or raises.
    pub fn decode<'py>(&self, py: Python<'py>, input: &mut &[u8]) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, input, DEPTH_MAX)
    }

    fn read<'py>(&self, py: Python<'py>, input: &mut &[u8], depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let depth = depth.checked_sub(1).ok_or_else(|| PyRecursionError::new_err("a value is nested too deep"))?;
        let marker = Marker::from_u8(*input.first().ok_or_else(|| malformed("end"))?);
        Ok(match marker {
            Marker::Null => {
                *input = &input[1..];
                py.None().into_bound(py)
            }
            Marker::True | Marker::False => {
                *input = &input[1..];
                PyBool::new(py, marker == Marker::True).to_owned().into_any()
            }
            Marker::F64 => PyFloat::new(py, rmp::decode::read_f64(input).map_err(|_| malformed("float"))?).into_any(),
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => PyString::new(py, text(input)?).into_any(),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => PyBytes::new(py, read_bytes(input)?).into_any(),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                PyList::new(py, self.read_items(py, input, depth)?)?.into_any()
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                let dict = PyDict::new(py);
                for _ in 0..rmp::decode::read_map_len(input).map_err(|_| malformed("dict"))? {
                    let key = self.read(py, input, depth)?;
                    dict.set_item(key, self.read(py, input, depth)?)?;
                }
                dict.into_any()
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => self.read_extension(py, input, depth)?,
            _ => read_int(py, input)?,
        })
    }

    fn read_items<'py>(&self, py: Python<'py>, input: &mut &[u8], depth: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        (0..array_length(input)?).map(|_| self.read(py, input, depth)).collect()
    }

    fn read_extension<'py>(&self, py: Python<'py>, input: &mut &[u8], depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let (kind, mut bytes) = read_extension(input)?;
        Ok(match kind {
            TUPLE => PyTuple::new(py, self.read_items(py, &mut bytes, depth)?)?.into_any(),
            SET => PySet::new(py, self.read_items(py, &mut bytes, depth)?)?.into_any(),
            FROZEN_SET => PyFrozenSet::new(py, self.read_items(py, &mut bytes, depth)?)?.into_any(),
            OBJECT => {
                let class = self.class_named(py, text(&mut bytes)?)?;
                class.make.bind(py).call1((self.read(py, &mut bytes, depth)?,))?
            }
            _ => big_int(py, bytes)?,
        })
    }

    /// Appends what tells a key from others, of those that a command's keys are: equal keys give equal bytes.
    ///
    /// # Errors
    /// If it is no key.
    pub fn encode_key(&self, key: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Misfit> {
        if let Ok(text) = key.cast::<PyString>() {
            out.extend_from_slice(text.to_str().map_err(|_| Misfit::of(key, "text without lone surrogates"))?.as_bytes());
        } else if let Ok(bytes) = key.cast::<PyBytes>() {
            out.extend_from_slice(bytes.as_bytes());
        } else if let Some(number) = whole_number(key) {
            write_int(number, out)?;
        } else if let Ok(truth) = key.cast::<PyBool>() {
            // As a key of a dict it is 0 or 1.
            out.push(u8::from(truth.is_true()));
        } else if key.is_instance_of::<PyFloat>() {
            return Err(Misfit::of(key, "a key that is equal to itself alone, such as str or int,"));
        } else {
            self.encode(key, out)?;
        }
        Ok(())
    }
}

impl Met {
    /// An object that can change, or holds some that can.
    fn note(&mut self, value: &Bound<'_, PyAny>) -> Result<(), Misfit> {
        let Some(mutable) = &mut self.mutable else { return Ok(()) };
        if mutable.insert(value.as_ptr() as usize) {
            return Ok(());
        }
        let kind = value.get_type().qualname().map_or_else(|_| "object".into(), |name| name.to_string());
        Err(Misfit::new(format!("is a {kind} that is also somewhere else in the state: keep one, and refer to it by a key")))
    }
}
