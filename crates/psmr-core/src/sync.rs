//! The synchronisation primitives of the modules that threads share. Under the feature `shuttle` they are the schedule
//! explorer's, so that it explores the modules as they are shipped.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{
    atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering},
    Arc, Mutex, MutexGuard, RwLock,
};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{
    atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering},
    Arc, Mutex, MutexGuard, RwLock,
};

/// Locks, also after another thread panicked while it held the lock: a panic ends the replica, so nobody relies on the state.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
