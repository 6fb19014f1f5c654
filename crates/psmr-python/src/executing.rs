//! What the workers of this process execute at the moment, for who looks from outside: reports of commands that take long,
//! and an end for a process that takes more memory than it may.

use crate::schema::Declarations;
use psmr_node::usage::used;
use pyo3::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the memory of the process is looked at. A command may take some hundred megabytes in that time.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a worker executes.
#[derive(Debug)]
struct Slot {
    /// The number of the command in its class; `IDLE`: none.
    command: AtomicUsize,
    id: AtomicU64,
}

const IDLE: usize = usize::MAX;

struct Worker {
    /// By `threading.get_ident`.
    ident: u64,
    slot: Arc<Slot>,
}

static WORKERS: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

fn known() -> MutexGuard<'static, Vec<Worker>> {
    WORKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of this process that execute commands, by `threading.get_ident`, each with the id of the one that it executes,
/// or executed last.
#[pyfunction]
pub fn workers() -> Vec<(u64, u64)> {
    known().iter().map(|worker| (worker.ident, worker.slot.id.load(Ordering::Relaxed))).collect()
}

/// Counts this thread among the workers while it does `work`.
pub fn as_worker(ident: u64, work: impl FnOnce()) {
    let slot = Arc::new(Slot { command: AtomicUsize::new(IDLE), id: AtomicU64::new(0) });
    known().push(Worker { ident, slot: slot.clone() });
    OWN.set(Some(slot));
    work();
    OWN.set(None);
    known().retain(|worker| worker.ident != ident);
}

/// This thread begins a command.
pub fn begin(command: usize, id: u64) {
    OWN.with_borrow(|own| {
        if let Some(own) = own {
            own.command.store(command, Ordering::Relaxed);
            own.id.store(id, Ordering::Relaxed);
        }
    });
}

/// This thread has ended it.
pub fn end() {
    OWN.with_borrow(|own| {
        if let Some(own) = own {
            own.command.store(IDLE, Ordering::Relaxed);
        }
    });
}

/// Ends the process when it takes more memory than it may, and says what it executes. A thread of its own, which does not
/// need the interpreter: a command may hold that all the time.
pub struct MemoryWatch {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Begins to look. `bytes_max` 0: there is no limit.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(bytes_max: u64, declarations: Arc<Declarations>) -> std::io::Result<MemoryWatch> {
        let is_over = Arc::new(AtomicBool::new(bytes_max == 0));
        let watch = is_over.clone();
        let thread = thread::Builder::new().name("memory-watch".into()).spawn(move || look(bytes_max, &declarations, &watch))?;
        Ok(MemoryWatch { is_over, thread: Some(thread) })
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does not panic, and what it would have to say has no more use.
            let _ = thread.join();
        }
    }
}

fn look(bytes_max: u64, declarations: &Declarations, is_over: &AtomicBool) {
    // Of each worker: what it executes, and since when it has been seen at that.
    let mut seen: Vec<(u64, Instant)> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        thread::park_timeout(LOOK_INTERVAL);
        let now = Instant::now();
        let executing: Vec<(usize, u64)> = known()
            .iter()
            .map(|worker| (worker.slot.command.load(Ordering::Relaxed), worker.slot.id.load(Ordering::Relaxed)))
            .filter(|(command, _)| *command != IDLE)
            .collect();
        let since = |id: u64| seen.iter().find(|(known, _)| *known == id).map_or(now, |(_, since)| *since);
        seen = executing.iter().map(|(_, id)| (*id, since(*id))).collect();
        let bytes = used(0).map_or(0, |usage| usage.memory_bytes);
        if bytes > bytes_max {
            let oldest = executing.iter().zip(&seen).min_by_key(|(_, (_, since))| *since);
            let said = match oldest {
                Some(((command, id), (_, since))) => format!(
                    "; it executes {} (command {id}, seen for {:.1} s): if that takes it all, start every replica with --skip {id}",
                    declarations.place_of(*command),
                    now.duration_since(*since).as_secs_f64(),
                ),
                None => String::new(),
            };
            eprintln!("psmr: this replica has {bytes} bytes of memory, and may have {bytes_max} (--memory-limit){said}");
            // SAFETY: ends the process at once, as a crash does, which the log on disk is made for. What runs in the
            // interpreter may never give way, so nothing is asked to end.
            unsafe { libc::_exit(1) };
        }
    }
}
