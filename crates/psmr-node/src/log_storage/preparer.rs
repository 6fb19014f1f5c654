//! The thread that makes the next segment before it is needed, from a recycled file where there is one, and takes back the
//! segments that nothing needs any more. The log's own thread never zeroes, renames or deletes a file.

use super::record::SegmentHeader;
use super::segment::{create_zeroed, install, segment_path, spare_path, SegmentFile};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between the pieces of a segment that nobody waits for: leaves the disk to the log's syncs.
const PIECE_PAUSE: Duration = Duration::from_millis(4);
/// How often a waiting log looks whether the thread is still alive.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// What the thread knows of the log.
#[derive(Clone, Debug)]
pub struct PreparerPlan {
    /// The log's directory.
    pub directory: PathBuf,
    /// Of the log.
    pub nonce: [u8; 16],
    /// How many Raft logs there are.
    pub logs: u32,
    /// Bytes of a new segment.
    pub segment_bytes: u64,
    /// How many recycled files are kept for later; more are deleted.
    pub spares_max: usize,
}

/// What both threads see. Bounded by the number of segments.
#[derive(Default)]
struct Work {
    /// The segment to prepare.
    wanted: Option<u32>,
    /// What became of the last one wanted.
    ready: Option<Result<SegmentFile, String>>,
    /// Segments to take back.
    retired: VecDeque<u32>,
    /// The log waits for `ready`.
    is_urgent: bool,
    is_stopping: bool,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log's end of the thread.
pub struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// Starts the thread. `prepared`: the next segment, if it is there already; otherwise `next` is prepared. `spares`: files
    /// to be recycled.
    ///
    /// # Errors
    /// One line.
    pub fn start(plan: PreparerPlan, prepared: Option<SegmentFile>, next: u32, spares: Vec<PathBuf>) -> Result<Preparer, String> {
        let shared = Arc::new(Shared::default());
        {
            let mut work = shared.lock();
            work.wanted = prepared.is_none().then_some(next);
            work.ready = prepared.map(Ok);
        }
        let worker = Worker { plan, spares, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name("psmr-segments".into())
            .spawn(move || worker.run())
            .map_err(|error| format!("cannot start the thread that prepares log segments: {error}; allow more threads"))?;
        Ok(Preparer { shared, thread: Some(thread) })
    }

    /// Gives back a segment that nothing needs.
    pub fn retire(&self, number: u32) {
        self.shared.lock().retired.push_back(number);
        self.shared.changed.notify_all();
    }

    /// The prepared segment, which must be `number`; the one after it is prepared from now on. Waits if it is not ready. If
    /// preparing failed some time ago, it is tried once more now.
    ///
    /// # Errors
    /// One line.
    pub fn take(&self, number: u32) -> Result<SegmentFile, String> {
        let file = match self.wait_ready() {
            Ok(file) => file,
            Err(_) => {
                self.want(number);
                self.wait_ready()?
            }
        };
        self.want(number + 1);
        Ok(file)
    }

    fn want(&self, number: u32) {
        self.shared.lock().wanted = Some(number);
        self.shared.changed.notify_all();
    }

    fn wait_ready(&self) -> Result<SegmentFile, String> {
        let mut work = self.shared.lock();
        work.is_urgent = true;
        self.shared.changed.notify_all();
        loop {
            if let Some(ready) = work.ready.take() {
                work.is_urgent = false;
                return ready;
            }
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err("the thread that prepares log segments has ended; start the replica again".into());
            }
            work = self.shared.changed.wait_timeout(work, LIVENESS_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

enum Task {
    Prepare(u32),
    Retire(u32),
}

struct Worker {
    plan: PreparerPlan,
    spares: Vec<PathBuf>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        self.spares.retain(|path| keep_spare(path, self.plan.segment_bytes));
        while let Some(task) = self.next_task() {
            match task {
                Task::Retire(number) => self.retire(number),
                Task::Prepare(number) => {
                    let ready = self.prepare(number);
                    self.shared.lock().ready = Some(ready);
                    self.shared.changed.notify_all();
                }
            }
        }
    }

    /// Retired segments first: they may serve for the next one, and are taken back before the end.
    fn next_task(&self) -> Option<Task> {
        let mut work = self.shared.lock();
        loop {
            if let Some(number) = work.retired.pop_front() {
                return Some(Task::Retire(number));
            }
            if work.is_stopping {
                return None;
            }
            if let Some(number) = work.wanted.take() {
                return Some(Task::Prepare(number));
            }
            work = self.shared.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn prepare(&mut self, number: u32) -> Result<SegmentFile, String> {
        let PreparerPlan { directory, nonce, logs, segment_bytes, .. } = &self.plan;
        let from = match self.spares.pop() {
            Some(spare) => spare,
            None => create_zeroed(directory, *segment_bytes, &|| self.pause())?,
        };
        let header = SegmentHeader { nonce: *nonce, number, logs: *logs, size_bytes: *segment_bytes };
        install(directory, &from, &header)?;
        SegmentFile::open(segment_path(directory, number))
    }

    /// A segment that cannot be taken back stays where it is: recovery passes over it, and the next start tries again.
    fn retire(&mut self, number: u32) {
        let segment = segment_path(&self.plan.directory, number);
        let spare = spare_path(&self.plan.directory, number);
        if self.spares.len() >= self.plan.spares_max {
            let _ = std::fs::remove_file(&segment);
        } else if std::fs::rename(&segment, &spare).is_ok() && keep_spare(&spare, self.plan.segment_bytes) {
            self.spares.retain(|known| *known != spare);
            self.spares.push(spare);
        }
    }

    fn pause(&self) {
        let work = self.shared.lock();
        if !work.is_urgent && !work.is_stopping {
            // Ends early when the log begins to wait.
            drop(self.shared.changed.wait_timeout(work, PIECE_PAUSE));
        }
    }
}

/// Whether a file can become a segment of the size now wanted; deletes it otherwise.
fn keep_spare(path: &Path, segment_bytes: u64) -> bool {
    let fits = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == segment_bytes);
    if !fits {
        // What cannot be deleted now is listed again at the next start.
        let _ = std::fs::remove_file(path);
    }
    fits
}
