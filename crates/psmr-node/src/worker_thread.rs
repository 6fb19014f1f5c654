//! Workers: threads that run ready groups (see `psmr_core::execute::queues`).

use crate::router::Router;
use psmr_core::command::GroupSet;
use psmr_core::execute::queues::ReadyQueues;
use psmr_core::execute::{Engine, Output};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// An idle worker looks around by itself after this long; every hand-off wakes one before.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Who helps goes back to its other duties after this long.
const HELP_TIME_MAX: Duration = Duration::from_millis(2);

/// The workers of a replica.
pub struct Workers {
    engine: Arc<Engine>,
    router: Arc<Router>,
    queues: ReadyQueues,
    threads: Vec<OnceLock<Thread>>,
    stopping: AtomicBool,
    /// Commands executed, per worker.
    executed: Vec<AtomicU64>,
    /// Commands executed by who helps.
    helped: AtomicU64,
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
            queues: ReadyQueues::new(count),
            threads: (0..count).map(|_| OnceLock::new()).collect(),
            stopping: AtomicBool::new(false),
            executed: (0..count).map(|_| AtomicU64::new(0)).collect(),
            helped: AtomicU64::new(0),
        });
        let spawn = |own: usize| {
            let workers = workers.clone();
            let work = move || {
                let work = || workers.engine.service().with_worker(&mut || workers.work(own));
                let outcome = panic::catch_unwind(AssertUnwindSafe(work));
                if let Err(payload) = outcome {
                    // Text of its own is a service's word on why it cannot go on.
                    let said = payload
                        .downcast::<String>()
                        .map_or_else(|_| "a worker panicked while it executed commands".into(), |text| *text);
                    workers.router.fail(said);
                }
            };
            thread::Builder::new().name(format!("worker-{own}")).spawn(work)
        };
        let threads = (0..count).map(spawn).collect::<io::Result<Vec<_>>>()?;
        Ok((workers, threads))
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Commands executed so far.
    pub fn executed(&self) -> u64 {
        self.executed.iter().chain([&self.helped]).map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Runs ready groups in the calling thread, which has other duties too: as far as what they come to is brief, and for
    /// about `HELP_TIME_MAX`. Workers have the rest.
    pub fn help(&self, groups: GroupSet, output: &mut Output) {
        let since = Instant::now();
        let (mut ready, mut rest) = (groups, GroupSet::EMPTY);
        while let Some(group) = ready.lowest() {
            if since.elapsed() > HELP_TIME_MAX {
                break;
            }
            ready = GroupSet(ready.0 & !GroupSet::one(group).0);
            self.engine.run_brief(group, output);
            rest = rest.union(std::mem::take(&mut output.lengthy));
            ready = GroupSet(ready.0 | std::mem::take(&mut output.ready).0 & !rest.0);
        }
        if output.executed > 0 {
            self.helped.fetch_add(std::mem::take(&mut output.executed), Ordering::Relaxed);
        }
        if std::mem::take(&mut output.wants_time) {
            self.router.want_turn();
        }
        self.schedule(ready.union(rest));
    }

    /// Puts groups in ready queues.
    pub fn schedule(&self, groups: GroupSet) {
        self.wake(self.queues.put(groups));
    }

    fn wake(&self, worker: impl IntoIterator<Item = usize>) {
        worker.into_iter().filter_map(|worker| self.threads[worker].get()).for_each(Thread::unpark);
    }

    /// Waits until no worker runs a group, and keeps them from it until `resume`.
    pub fn pause(&self) {
        self.queues.pause();
        while !self.queues.is_quiet() {
            thread::yield_now();
        }
    }

    /// Ends `pause`.
    pub fn resume(&self) {
        self.wake(self.queues.resume());
    }

    /// Makes the workers end after the group that they run.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake(0..self.threads.len());
    }

    fn work(&self, own: usize) {
        let _ = self.threads[own].set(thread::current());
        let mut output = Output::new(self.router.clone());
        let mut has_yielded = false;
        while !self.stopping.load(Ordering::SeqCst) {
            if let Some((group, more)) = self.queues.take(own) {
                self.wake(more);
                self.engine.run(group, &mut output);
                self.after_run(own, &mut output);
                self.queues.finish(own);
                has_yielded = false;
            } else if !has_yielded {
                // Lets who is ready run first: under load they bring more to do, and nobody has to be woken.
                thread::yield_now();
                has_yielded = true;
            } else {
                self.sleep(own);
                has_yielded = false;
            }
        }
    }

    fn after_run(&self, own: usize, output: &mut Output) {
        if output.executed > 0 {
            self.executed[own].fetch_add(std::mem::take(&mut output.executed), Ordering::Relaxed);
        }
        if std::mem::take(&mut output.wants_time) {
            self.router.want_turn();
        }
        let ready = std::mem::take(&mut output.ready);
        self.schedule(ready);
    }

    fn sleep(&self, own: usize) {
        // Whoever stops the workers wakes them too, and the flag is seen at the latest when this one wakes by itself.
        if self.queues.may_sleep(own) && !self.stopping.load(Ordering::SeqCst) {
            thread::park_timeout(IDLE_MAX);
        }
        self.queues.wake_up(own);
    }
}
