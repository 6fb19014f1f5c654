//! Why a value cannot be encoded.

use pyo3::prelude::*;

/// Why a value cannot be encoded: where it is, and what is wrong.
#[derive(Debug)]
pub enum Misfit {
    /// It is of another type than declared, or of none that can be encoded.
    Value {
        /// From the outermost value, such as `[3].name`.
        path: String,
        /// In words.
        text: String,
    },
    /// The value's own code raised.
    Raised(PyErr),
}

impl Misfit {
    /// What is wrong, of the value at hand.
    pub fn new(text: impl Into<String>) -> Misfit {
        Misfit::Value { path: String::new(), text: text.into() }
    }

    /// A value that is not what is due.
    pub fn of(value: &Bound<'_, PyAny>, due: &str) -> Misfit {
        let kind = value.get_type().qualname().map_or_else(|_| "an object".into(), |name| name.to_string());
        let shown = value.repr().map_or_else(|_| String::new(), |repr| shorten(&repr.to_string_lossy()));
        Misfit::new(format!("is {shown} ({kind}); {due} is due"))
    }

    /// The same, seen from the value around it.
    #[must_use]
    pub fn within(self, step: impl FnOnce() -> String) -> Misfit {
        match self {
            // Of a place that is deep within, where it begins tells the most.
            Misfit::Value { path, text } => Misfit::Value { path: shorten(&(step() + &path)), text },
            raised => raised,
        }
    }
}

impl From<PyErr> for Misfit {
    fn from(error: PyErr) -> Misfit {
        Misfit::Raised(error)
    }
}

/// The start of a long text.
fn shorten(text: &str) -> String {
    const LENGTH_MAX: usize = 60;
    match text.char_indices().nth(LENGTH_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
