//! Who runs a group: at most one worker at a time, and a group that has something to do is in exactly one ready queue.
//!
//! ```text
//!            notify              begin             end(Idle)
//!   Idle ------------> Ready ------------> Running ----------> Idle
//!                        ^                  |   | notify
//!                        |   end(Again)     |   v
//!                        +------------------+  Notified --end(Idle)--> Ready
//!                        |                  | end(Parked)
//!                        +---- release ---- Parked            (a notification of a parked group needs no memory: release
//!                                                              makes it ready, and it then looks at everything)
//! ```

use crate::sync::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const READY: u8 = 1;
const RUNNING: u8 = 2;
const NOTIFIED: u8 = 3;
const PARKED: u8 = 4;

/// How a run of a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until something is new.
    Idle,
    /// There is more; other groups may have their turn first.
    Again,
    /// There is more, and it may take long: it is not for a thread that has other duties.
    Lengthy,
    /// The group waits at a barrier.
    Parked,
}

/// The state of one group's scheduling. Whoever gets `true` puts the group in a ready queue, once.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Default for Readiness {
    fn default() -> Self {
        Readiness(AtomicU8::new(IDLE))
    }
}

impl Readiness {
    /// Something is new for the group. True if it has to be put in a ready queue.
    pub fn notify(&self) -> bool {
        let mut state = self.0.load(Ordering::SeqCst);
        loop {
            let next = match state {
                IDLE => READY,
                RUNNING => NOTIFIED,
                _ => return false,
            };
            match self.0.compare_exchange(state, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return state == IDLE,
                Err(now) => state = now,
            }
        }
    }

    /// A worker took the group from a ready queue.
    pub fn begin(&self) {
        let before = self.0.swap(RUNNING, Ordering::SeqCst);
        debug_assert_eq!(before, READY, "a group that was not ready was run");
    }

    /// The worker is done with the group, whose lock it still holds. True if the group has to be put in a ready queue.
    pub fn end(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Idle => {
                if self.0.compare_exchange(RUNNING, IDLE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    return false;
                }
                self.0.store(READY, Ordering::SeqCst);
                true
            }
            Outcome::Again | Outcome::Lengthy => {
                self.0.store(READY, Ordering::SeqCst);
                true
            }
            Outcome::Parked => {
                self.0.store(PARKED, Ordering::SeqCst);
                false
            }
        }
    }

    /// The barrier that the group is parked at has been executed. The group has to be put in a ready queue.
    pub fn release(&self) {
        let before = self.0.swap(READY, Ordering::SeqCst);
        debug_assert_eq!(before, PARKED, "a group that was not parked was released");
    }

    /// Whether the group waits at a barrier.
    pub fn is_parked(&self) -> bool {
        self.0.load(Ordering::SeqCst) == PARKED
    }
}
