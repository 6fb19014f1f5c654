//! Workers: threads that run ready groups. Each has a queue of its own; a group goes to its home worker's queue, and a worker
//! that has nothing to do takes from the others.

use crate::router::Router;
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::execute::{Engine, Output};
use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// An idle worker looks around by itself after this long; every hand-off wakes one before.
const IDLE_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seat {
    queue: Mutex<VecDeque<GroupId>>,
    sleeping: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The workers of a replica.
pub struct Workers {
    engine: Arc<Engine>,
    router: Arc<Router>,
    seats: Vec<Seat>,
    stopping: AtomicBool,
    paused: AtomicBool,
    /// Workers that are running a group.
    running: AtomicUsize,
    /// Commands executed.
    executed: AtomicU64,
}

impl Workers {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(engine: Arc<Engine>, router: Arc<Router>, count: usize) -> io::Result<(Arc<Workers>, Vec<JoinHandle<()>>)> {
        let workers = Arc::new(Workers {
            engine,
            router,
            seats: (0..count).map(|_| Seat::default()).collect(),
            stopping: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            executed: AtomicU64::new(0),
        });
        let spawn = |seat: usize| {
            let workers = workers.clone();
            let work = move || {
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| workers.work(seat)));
                if outcome.is_err() {
                    workers.router.fail("a worker panicked while it executed commands".into());
                }
            };
            thread::Builder::new().name(format!("worker-{seat}")).spawn(work)
        };
        let threads = (0..count).map(spawn).collect::<io::Result<Vec<_>>>()?;
        Ok((workers, threads))
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Commands executed so far.
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// Puts groups in their home workers' queues, and wakes one worker; it wakes the next if there is more than it can take.
    pub fn schedule(&self, groups: GroupSet) {
        if groups.is_empty() {
            return;
        }
        for group in groups.iter() {
            let seat = &self.seats[group.index() % self.seats.len()];
            seat.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(group);
        }
        let first = groups.lowest().map_or(0, |g| g.index() % self.seats.len());
        self.wake_one(first);
    }

    fn wake_one(&self, first: usize) {
        let count = self.seats.len();
        for seat in (0..count).map(|offset| &self.seats[(first + offset) % count]) {
            if seat.sleeping.swap(false, Ordering::SeqCst) {
                if let Some(thread) = seat.thread.get() {
                    thread.unpark();
                }
                return;
            }
        }
    }

    /// Waits until no worker runs a group, and keeps them from it until `resume`.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }

    /// Ends `pause`.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        (0..self.seats.len()).for_each(|seat| self.wake_one(seat));
    }

    /// Makes the workers end after the group that they run.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for seat in &self.seats {
            if let Some(thread) = seat.thread.get() {
                thread.unpark();
            }
        }
    }

    fn take(&self, own: usize) -> Option<GroupId> {
        let count = self.seats.len();
        (0..count).find_map(|offset| {
            let mut queue = self.seats[(own + offset) % count].queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.pop_front()
        })
    }

    fn has_more(&self) -> bool {
        self.seats.iter().any(|seat| !seat.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty())
    }

    fn work(&self, own: usize) {
        let seat = &self.seats[own];
        let _ = seat.thread.set(thread::current());
        let mut output = Output::new(self.router.clone());
        while !self.stopping.load(Ordering::SeqCst) {
            self.running.fetch_add(1, Ordering::SeqCst);
            let group = if self.paused.load(Ordering::SeqCst) { None } else { self.take(own) };
            if let Some(group) = group {
                if self.has_more() {
                    self.wake_one(own + 1);
                }
                self.engine.run(group, &mut output);
                self.after_run(&mut output);
            }
            self.running.fetch_sub(1, Ordering::SeqCst);
            if group.is_none() {
                self.sleep(seat);
            }
        }
    }

    fn after_run(&self, output: &mut Output) {
        if output.executed > 0 {
            self.executed.fetch_add(std::mem::take(&mut output.executed), Ordering::Relaxed);
        }
        if std::mem::take(&mut output.wants_time) {
            self.router.want_turn();
        }
        let ready = std::mem::take(&mut output.ready);
        self.schedule(ready);
    }

    fn sleep(&self, seat: &Seat) {
        // Lets who is ready run first: under load they bring more to do, and nobody has to be woken.
        thread::yield_now();
        if !self.paused.load(Ordering::SeqCst) && self.has_more() {
            return;
        }
        seat.sleeping.store(true, Ordering::SeqCst);
        // Looks once more: who schedules now either sees the flag, or left something that is seen here.
        let stay = self.stopping.load(Ordering::SeqCst) || (!self.paused.load(Ordering::SeqCst) && self.has_more());
        if !stay {
            thread::park_timeout(IDLE_MAX);
        }
        seat.sleeping.store(false, Ordering::SeqCst);
    }
}
