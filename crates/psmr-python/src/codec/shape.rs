//! Values of declared types. Python makes a table of them from annotations (`psmr.shapes`); a type is a place in it, so that
//! a type may refer to itself.

use super::misfit::Misfit;
use super::plain::Plain;
use super::{array_length, malformed, take, text, DEPTH_MAX};
use pyo3::exceptions::{PyOverflowError, PyRecursionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType};
use rmp::encode as msgpack;

/// A place in the table.
pub type ShapeId = usize;

enum Shape {
    /// Anything that tells its type itself.
    Any,
    Null,
    Bool,
    Int,
    Float,
    Str,
    Bytes,
    List(ShapeId),
    Set(ShapeId),
    FrozenSet(ShapeId),
    /// A tuple of any length.
    Row(ShapeId),
    Tuple(Vec<ShapeId>),
    Dict(ShapeId, ShapeId),
    /// The first that fits.
    Union(Vec<ShapeId>),
    /// One of these objects: an enumeration's, or a literal type's.
    Choice {
        name: String,
        values: Vec<Py<PyAny>>,
    },
    /// An object of a class, by its fields; `make` takes their values.
    Record {
        class: Py<PyType>,
        names: Vec<Py<PyString>>,
        fields: Vec<ShapeId>,
        make: Py<PyAny>,
    },
    /// An object of a class, by what `take_apart` makes of it.
    Convert {
        class: Py<PyType>,
        take_apart: Py<PyAny>,
        make: Py<PyAny>,
        inner: ShapeId,
    },
}

/// The types of a service.
pub struct Shapes {
    table: Vec<Shape>,
    plain: Plain,
}

impl Shapes {
    /// Takes the table that Python made: a list of tuples, of which the first item is the kind.
    ///
    /// # Errors
    /// If it is no such table.
    pub fn new(table: &Bound<'_, PyList>, plain: Plain) -> PyResult<Shapes> {
        let table = table.iter().map(|row| read_shape(row.cast::<PyTuple>()?)).collect::<PyResult<Vec<_>>>()?;
        Ok(Shapes { table, plain })
    }

    /// The codec of values that tell their types themselves.
    pub fn plain(&self) -> &Plain {
        &self.plain
    }

    /// Appends a value of the type `id`.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn encode(&self, id: ShapeId, value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Misfit> {
        self.write(id, value, out, DEPTH_MAX)
    }

    fn write(&self, id: ShapeId, value: &Bound<'_, PyAny>, out: &mut Vec<u8>, depth: usize) -> Result<(), Misfit> {
        let depth = depth.checked_sub(1).ok_or_else(|| Misfit::new(format!("is nested deeper than {DEPTH_MAX} levels")))?;
        match &self.table[id] {
            Shape::Any => self.plain.encode(value, out)?,
            Shape::Null if value.is_none() => write_nil(out),
            Shape::Null => return Err(Misfit::of(value, "None")),
            Shape::Bool => write_bool(out, value.cast::<PyBool>().map_err(|_| Misfit::of(value, "bool"))?.is_true()),
            Shape::Int => write_int(whole_number(value).ok_or_else(|| Misfit::of(value, "int"))?, out)?,
            Shape::Float => write_float(out, self.float(value)?),
            Shape::Str => write_str(value.cast::<PyString>().map_err(|_| Misfit::of(value, "str"))?, out)?,
            Shape::Bytes => write_bytes(out, value.cast::<PyBytes>().map_err(|_| Misfit::of(value, "bytes"))?.as_bytes()),
            Shape::List(item) => {
                let list = value.cast::<PyList>().map_err(|_| Misfit::of(value, "list"))?;
                self.write_items(*item, list.len(), list.iter(), out, depth)?;
            }
            Shape::Row(item) => {
                let row = value.cast::<PyTuple>().map_err(|_| Misfit::of(value, "tuple"))?;
                self.write_items(*item, row.len(), row.iter(), out, depth)?;
            }
            Shape::Set(item) => {
                let set = value.cast::<PySet>().map_err(|_| Misfit::of(value, "set"))?;
                self.write_items(*item, set.len(), set.iter(), out, depth)?;
            }
            Shape::FrozenSet(item) => {
                let set = value.cast::<PyFrozenSet>().map_err(|_| Misfit::of(value, "frozenset"))?;
                self.write_items(*item, set.len(), set.iter(), out, depth)?;
            }
            Shape::Tuple(items) => {
                let tuple = value.cast::<PyTuple>().map_err(|_| Misfit::of(value, "tuple"))?;
                if tuple.len() != items.len() {
                    return Err(Misfit::of(value, &format!("a tuple of {} items", items.len())));
                }
                write_array_length(out, items.len());
                for (at, (item, value)) in items.iter().zip(tuple.iter()).enumerate() {
                    self.write(*item, &value, out, depth).map_err(|misfit| misfit.within(|| format!("[{at}]")))?;
                }
            }
            Shape::Dict(key, item) => {
                let dict = value.cast::<PyDict>().map_err(|_| Misfit::of(value, "dict"))?;
                write_array_length(out, dict.len() * 2);
                for (name, value) in dict.iter() {
                    let step = || format!("[{}]", name.repr().map_or_else(|_| String::new(), |repr| repr.to_string()));
                    self.write(*key, &name, out, depth).map_err(|misfit| misfit.within(|| format!(" key {}", step())))?;
                    self.write(*item, &value, out, depth).map_err(|misfit| misfit.within(step))?;
                }
            }
            Shape::Union(options) => {
                let fits = |id: &ShapeId| self.fits(*id, value);
                let at = options.iter().position(fits).ok_or_else(|| Misfit::of(value, &self.name(id)))?;
                write_array_length(out, 2);
                write_unsigned(out, at as u64);
                self.write(options[at], value, out, depth)?;
            }
            Shape::Choice { name, values } => {
                let at = values.iter().position(|choice| is_choice(choice, value)).ok_or_else(|| Misfit::of(value, name))?;
                write_unsigned(out, at as u64);
            }
            Shape::Record { class, names, fields, .. } => {
                if !value.is_instance(class.bind(value.py()))? {
                    return Err(Misfit::of(value, &self.name(id)));
                }
                write_array_length(out, fields.len());
                for (name, field) in names.iter().zip(fields) {
                    let step = |misfit: Misfit| misfit.within(|| format!(".{name}"));
                    self.write(*field, &value.getattr(name)?, out, depth).map_err(step)?;
                }
            }
            Shape::Convert { class, take_apart, inner, .. } => {
                if !value.is_instance(class.bind(value.py()))? {
                    return Err(Misfit::of(value, &self.name(id)));
                }
                self.write(*inner, &take_apart.bind(value.py()).call1((value,))?, out, depth)?;
            }
        }
        Ok(())
    }

    fn write_items<'py>(
        &self,
        item: ShapeId,
        count: usize,
        values: impl Iterator<Item = Bound<'py, PyAny>>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Misfit> {
        write_array_length(out, count);
        for (at, value) in values.enumerate() {
            self.write(item, &value, out, depth).map_err(|misfit| misfit.within(|| format!("[{at}]")))?;
        }
        Ok(())
    }

    /// A float, or a whole number where a float is due.
    fn float(&self, value: &Bound<'_, PyAny>) -> Result<f64, Misfit> {
        if value.is_instance_of::<PyFloat>() || whole_number(value).is_some() {
            return value.extract::<f64>().map_err(|error| match error.is_instance_of::<PyOverflowError>(value.py()) {
                true => Misfit::of(value, "a number that a float can hold"),
                false => Misfit::Raised(error),
            });
        }
        Err(Misfit::of(value, "float"))
    }

    /// Whether the value is of that type, as far as its outermost class tells.
    fn fits(&self, id: ShapeId, value: &Bound<'_, PyAny>) -> bool {
        match &self.table[id] {
            Shape::Any => true,
            Shape::Null => value.is_none(),
            Shape::Bool => value.is_instance_of::<PyBool>(),
            Shape::Int => whole_number(value).is_some(),
            Shape::Float => value.is_instance_of::<PyFloat>() || whole_number(value).is_some(),
            Shape::Str => value.is_instance_of::<PyString>(),
            Shape::Bytes => value.is_instance_of::<PyBytes>(),
            Shape::List(_) => value.is_instance_of::<PyList>(),
            Shape::Set(_) => value.is_instance_of::<PySet>(),
            Shape::FrozenSet(_) => value.is_instance_of::<PyFrozenSet>(),
            Shape::Row(_) => value.is_instance_of::<PyTuple>(),
            Shape::Tuple(items) => value.cast::<PyTuple>().is_ok_and(|tuple| tuple.len() == items.len()),
            Shape::Dict(..) => value.is_instance_of::<PyDict>(),
            Shape::Union(options) => options.iter().any(|option| self.fits(*option, value)),
            Shape::Choice { values, .. } => values.iter().any(|choice| is_choice(choice, value)),
            Shape::Record { class, .. } | Shape::Convert { class, .. } => {
                value.is_instance(class.bind(value.py())).unwrap_or(false)
            }
        }
    }

    /// The type in words.
    fn name(&self, id: ShapeId) -> String {
        match &self.table[id] {
            Shape::Any => "anything".into(),
            Shape::Null => "None".into(),
            Shape::Bool => "bool".into(),
            Shape::Int => "int".into(),
            Shape::Float => "float".into(),
            Shape::Str => "str".into(),
            Shape::Bytes => "bytes".into(),
            Shape::List(_) => "list".into(),
            Shape::Set(_) => "set".into(),
            Shape::FrozenSet(_) => "frozenset".into(),
            Shape::Row(_) | Shape::Tuple(_) => "tuple".into(),
            Shape::Dict(..) => "dict".into(),
            Shape::Union(options) => options.iter().map(|id| self.name(*id)).collect::<Vec<_>>().join(" or "),
            Shape::Choice { name, .. } => name.clone(),
            Shape::Record { class, .. } | Shape::Convert { class, .. } => {
                Python::attach(|py| class.bind(py).qualname().map_or_else(|_| "an object".into(), |name| name.to_string()))
            }
        }
    }

    /// Takes a value of the type `id` off the start of `input`.
    ///
    /// # Errors
    /// If the bytes are no such value, or its class raises.
    pub fn decode<'py>(&self, py: Python<'py>, id: ShapeId, input: &mut &[u8]) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, id, input, DEPTH_MAX)
    }

    fn read<'py>(&self, py: Python<'py>, id: ShapeId, input: &mut &[u8], depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let depth = depth.checked_sub(1).ok_or_else(|| PyRecursionError::new_err("a value is nested too deep"))?;
        Ok(match &self.table[id] {
            Shape::Any => self.plain.decode(py, input)?,
            Shape::Null => {
                rmp::decode::read_nil(input).map_err(|_| malformed("None"))?;
                py.None().into_bound(py)
            }
            Shape::Bool => PyBool::new(py, rmp::decode::read_bool(input).map_err(|_| malformed("bool"))?).to_owned().into_any(),
            Shape::Int => read_int(py, input)?,
            Shape::Float => PyFloat::new(py, rmp::decode::read_f64(input).map_err(|_| malformed("float"))?).into_any(),
            Shape::Str => PyString::new(py, text(input)?).into_any(),
            Shape::Bytes => PyBytes::new(py, read_bytes(input)?).into_any(),
            Shape::List(item) => PyList::new(py, self.read_items(py, *item, input, depth)?)?.into_any(),
            Shape::Row(item) => PyTuple::new(py, self.read_items(py, *item, input, depth)?)?.into_any(),
            Shape::Set(item) => PySet::new(py, self.read_items(py, *item, input, depth)?)?.into_any(),
            Shape::FrozenSet(item) => PyFrozenSet::new(py, self.read_items(py, *item, input, depth)?)?.into_any(),
            Shape::Tuple(items) => PyTuple::new(py, self.read_fields(py, items, input, depth)?)?.into_any(),
            Shape::Dict(key, item) => {
                let dict = PyDict::new(py);
                for _ in 0..array_length(input)? / 2 {
                    let name = self.read(py, *key, input, depth)?;
                    dict.set_item(name, self.read(py, *item, input, depth)?)?;
                }
                dict.into_any()
            }
            Shape::Union(options) => {
                if array_length(input)? != 2 {
                    return Err(malformed("union"));
                }
                let at = read_unsigned(input)? as usize;
                self.read(py, *options.get(at).ok_or_else(|| malformed("union"))?, input, depth)?
            }
            Shape::Choice { values, .. } => {
                let at = read_unsigned(input)? as usize;
                values.get(at).ok_or_else(|| malformed("choice"))?.bind(py).clone()
            }
            Shape::Record { fields, make, .. } => {
                make.bind(py).call1(PyTuple::new(py, self.read_fields(py, fields, input, depth)?)?)?
            }
            Shape::Convert { make, inner, .. } => make.bind(py).call1((self.read(py, *inner, input, depth)?,))?,
        })
    }

    fn read_items<'py>(
        &self,
        py: Python<'py>,
        item: ShapeId,
        input: &mut &[u8],
        depth: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        (0..array_length(input)?).map(|_| self.read(py, item, input, depth)).collect()
    }

    fn read_fields<'py>(
        &self,
        py: Python<'py>,
        fields: &[ShapeId],
        input: &mut &[u8],
        depth: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        if array_length(input)? != fields.len() {
            return Err(malformed("fields"));
        }
        fields.iter().map(|field| self.read(py, *field, input, depth)).collect()
    }
}

/// Whether a value is that choice; 1 is not True.
fn is_choice(choice: &Py<PyAny>, value: &Bound<'_, PyAny>) -> bool {
    let choice = choice.bind(value.py());
    choice.is(value) || (choice.get_type().is(value.get_type()) && choice.eq(value).unwrap_or(false))
}

fn read_shape(row: &Bound<'_, PyTuple>) -> PyResult<Shape> {
    let kind: String = row.get_item(0)?.extract()?;
    let id = |at: usize| row.get_item(at).and_then(|item| item.extract::<ShapeId>());
    let ids = |at: usize| row.get_item(at).and_then(|item| item.extract::<Vec<ShapeId>>());
    let object = |at: usize| row.get_item(at).map(Bound::unbind);
    let class = |at: usize| Ok::<_, PyErr>(row.get_item(at)?.cast_into::<PyType>()?.unbind());
    Ok(match kind.as_str() {
        "any" => Shape::Any,
        "none" => Shape::Null,
        "bool" => Shape::Bool,
        "int" => Shape::Int,
        "float" => Shape::Float,
        "str" => Shape::Str,
        "bytes" => Shape::Bytes,
        "list" => Shape::List(id(1)?),
        "set" => Shape::Set(id(1)?),
        "frozenset" => Shape::FrozenSet(id(1)?),
        "row" => Shape::Row(id(1)?),
        "tuple" => Shape::Tuple(ids(1)?),
        "dict" => Shape::Dict(id(1)?, id(2)?),
        "union" => Shape::Union(ids(1)?),
        "choice" => Shape::Choice { name: row.get_item(1)?.extract()?, values: row.get_item(2)?.extract()? },
        "record" => Shape::Record { class: class(1)?, names: row.get_item(2)?.extract()?, fields: ids(3)?, make: object(4)? },
        "convert" => Shape::Convert { class: class(1)?, take_apart: object(2)?, make: object(3)?, inner: id(4)? },
        other => return Err(PyValueError::new_err(format!("no such kind of type: {other}"))),
    })
}

/// The value as a whole number, unless it is a truth value.
pub fn whole_number<'a, 'py>(value: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyInt>> {
    value.cast::<PyInt>().ok().filter(|value| !value.is_instance_of::<PyBool>())
}

/// Writing to a vector cannot fail.
const TO_MEMORY: &str = "a vector takes every byte";

/// Bytes of a whole number that 64 bits do not hold: little-endian, with its sign.
const BIG_INT: i8 = 1;

/// Longer numbers take the square of their length to write in digits.
const INT_BYTES_MAX: usize = 64 << 10;

/// Appends a whole number of any size.
pub fn write_int(value: &Bound<'_, PyInt>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    if let Ok(small) = value.extract::<i64>() {
        msgpack::write_sint(out, small).expect(TO_MEMORY);
        return Ok(());
    }
    let bits: usize = value.call_method0("bit_length")?.extract()?;
    let count = bits / 8 + 1;
    if count > INT_BYTES_MAX {
        return Err(Misfit::new(format!("is a number of {bits} bits; {} are the most", INT_BYTES_MAX * 8 - 8)));
    }
    let signed = PyDict::new(value.py());
    signed.set_item("signed", true)?;
    let bytes = value.call_method("to_bytes", (count, "little"), Some(&signed))?;
    write_extension(out, BIG_INT, bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes());
    Ok(())
}

/// Takes a whole number.
pub fn read_int<'py>(py: Python<'py>, input: &mut &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut ahead = *input;
    if let Ok(small) = rmp::decode::read_int::<i64, _>(&mut ahead) {
        *input = ahead;
        return Ok(small.into_pyobject(py)?.into_any());
    }
    match read_extension(input)? {
        (BIG_INT, bytes) => big_int(py, bytes),
        _ => Err(malformed("int")),
    }
}

/// The number that `write_int` wrote as an extension.
pub fn big_int<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let signed = PyDict::new(py);
    signed.set_item("signed", true)?;
    py.get_type::<PyInt>().call_method("from_bytes", (PyBytes::new(py, bytes), "little"), Some(&signed))
}

pub fn write_str(value: &Bound<'_, PyString>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let text = value.to_str().map_err(|_| Misfit::of(value, "text without lone surrogates"))?;
    check_length(text.len())?;
    msgpack::write_str(out, text).expect(TO_MEMORY);
    Ok(())
}

/// Longer ones are over every limit of a command.
pub fn check_length(bytes: usize) -> Result<(), Misfit> {
    match u32::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Misfit::new(format!("is {bytes} bytes long; {} are the most", u32::MAX))),
    }
}

pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    msgpack::write_bin(out, bytes).expect(TO_MEMORY);
}

pub fn write_nil(out: &mut Vec<u8>) {
    msgpack::write_nil(out).expect(TO_MEMORY);
}

pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    msgpack::write_bool(out, value).expect(TO_MEMORY);
}

pub fn write_float(out: &mut Vec<u8>, value: f64) {
    msgpack::write_f64(out, value).expect(TO_MEMORY);
}

pub fn write_array_length(out: &mut Vec<u8>, count: usize) {
    msgpack::write_array_len(out, count as u32).expect(TO_MEMORY);
}

pub fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    msgpack::write_uint(out, value).expect(TO_MEMORY);
}

pub fn write_extension(out: &mut Vec<u8>, kind: i8, bytes: &[u8]) {
    msgpack::write_ext_meta(out, bytes.len() as u32, kind).expect(TO_MEMORY);
    out.extend_from_slice(bytes);
}

pub fn read_unsigned(input: &mut &[u8]) -> PyResult<u64> {
    rmp::decode::read_int(input).map_err(|_| malformed("number"))
}

pub fn read_bytes<'i>(input: &mut &'i [u8]) -> PyResult<&'i [u8]> {
    let count = rmp::decode::read_bin_len(input).map_err(|_| malformed("bytes"))? as usize;
    take(input, count)
}

pub fn read_extension<'i>(input: &mut &'i [u8]) -> PyResult<(i8, &'i [u8])> {
    let meta = rmp::decode::read_ext_meta(input).map_err(|_| malformed("extension"))?;
    Ok((meta.typeid, take(input, meta.size as usize)?))
}
