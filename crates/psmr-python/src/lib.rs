//! The extension module `psmr._psmr`: a thin layer over the Rust crates, with one gate for errors and signals (`gate`).

mod client;
mod codec;
mod executing;
mod gate;
mod host;
mod inspection;
mod line;
mod load;
mod map;
mod memory;
mod raw_gateway;
mod rdb;
mod replica;
mod reply;
mod schema;
mod services;

use pyo3::prelude::*;

/// Batches are allocated on one thread and freed on another, which costs the system's allocator dearly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator's option of how long memory that is free stays with the process, in milliseconds. The binding has no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// A log is trimmed every few seconds under load, and grows again at once: what it lets go of is not worth giving back before.
pub(crate) const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

#[pymodule(gil_used = false)]
fn _psmr(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // SAFETY: sets a number; the allocator reads it when it next looks.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    module.add("version", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(replica::serve, module)?)?;
    module.add_function(wrap_pyfunction!(inspection::status, module)?)?;
    module.add_function(wrap_pyfunction!(inspection::metrics, module)?)?;
    module.add_function(wrap_pyfunction!(inspection::statuses, module)?)?;
    module.add_function(wrap_pyfunction!(inspection::verify, module)?)?;
    module.add_function(wrap_pyfunction!(inspection::explain, module)?)?;
    module.add_class::<client::Client>()?;
    module.add_class::<client::Embedded>()?;
    module.add_class::<load::Load>()?;
    module.add_class::<map::ShardedMap>()?;
    module.add_class::<rdb::RdbReader>()?;
    module.add_class::<rdb::RdbWriter>()?;
    module.add_class::<schema::Schema>()?;
    module.add_class::<line::Line>()?;
    module.add_class::<line::Replica>()?;
    module.add_function(wrap_pyfunction!(host::context, module)?)?;
    module.add_function(wrap_pyfunction!(executing::workers, module)?)?;
    Ok(())
}
