//! Ready queues: where groups that have something to do wait for a worker. Each worker has a queue of its own; a group goes to
//! its home worker's queue, and a worker that has nothing to do takes from the others.
//!
//! No threads here: methods say which worker is to be woken, and whoever calls them wakes it.

use crate::command::{GroupId, GroupSet};
use crate::sync::{lock, AtomicBool, AtomicU64, Mutex, Ordering};
use std::collections::VecDeque;

#[derive(Default)]
struct Seat {
    queue: Mutex<VecDeque<GroupId>>,
    /// How many are in the queue: others see by it whether there is something to take, without its lock.
    waiting: AtomicU64,
    /// The worker sleeps, or is about to, unless it is woken.
    sleeping: AtomicBool,
    /// The worker takes or runs a group.
    busy: AtomicBool,
}

/// The ready queues of a replica's workers.
pub struct ReadyQueues {
    seats: Vec<Seat>,
    paused: AtomicBool,
}

impl ReadyQueues {
    /// Queues of `workers` workers, which are numbered from 0.
    pub fn new(workers: usize) -> ReadyQueues {
        ReadyQueues { seats: (0..workers).map(|_| Seat::default()).collect(), paused: AtomicBool::new(false) }
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    fn home(&self, group: GroupId) -> usize {
        group.index() % self.seats.len()
    }

    /// Puts groups in their home workers' queues. Returns a worker to be woken; it wakes the next if there is more than it
    /// can take.
    #[must_use]
    pub fn put(&self, groups: GroupSet) -> Option<usize> {
        for group in groups.iter() {
            let seat = &self.seats[self.home(group)];
            let mut queue = lock(&seat.queue);
            debug_assert!(!queue.contains(&group), "{group:?} is in the ready queue twice");
            queue.push_back(group);
            seat.waiting.store(queue.len() as u64, Ordering::SeqCst);
        }
        self.sleeper(self.home(groups.lowest()?))
    }

    /// A sleeping worker, from `first` on; it counts as awake from now on.
    fn sleeper(&self, first: usize) -> Option<usize> {
        let count = self.seats.len();
        let all = (0..count).map(|offset| (first + offset) % count);
        // Looks before it swaps: under load nobody sleeps, and the flags stay in everyone's cache.
        let is_asleep = |seat: &Seat| seat.sleeping.load(Ordering::SeqCst) && seat.sleeping.swap(false, Ordering::SeqCst);
        all.into_iter().find(|at| is_asleep(&self.seats[*at]))
    }

    fn has_more(&self) -> bool {
        self.seats.iter().any(|seat| seat.waiting.load(Ordering::SeqCst) > 0)
    }

    /// A group for worker `own` to run, and a worker to be woken for what is left. `finish` is to be called when it has been
    /// run and what it made ready has been put.
    pub fn take(&self, own: usize) -> Option<(GroupId, Option<usize>)> {
        let seat = &self.seats[own];
        seat.busy.store(true, Ordering::SeqCst);
        let group = if self.paused.load(Ordering::SeqCst) { None } else { self.pop(own) };
        match group {
            Some(group) => Some((group, if self.has_more() { self.sleeper(own + 1) } else { None })),
            None => {
                seat.busy.store(false, Ordering::SeqCst);
                None
            }
        }
    }

    fn pop(&self, own: usize) -> Option<GroupId> {
        let count = self.seats.len();
        (0..count).map(|offset| &self.seats[(own + offset) % count]).find_map(|seat| {
            if seat.waiting.load(Ordering::SeqCst) == 0 {
                return None;
            }
            let mut queue = lock(&seat.queue);
            let group = queue.pop_front();
            seat.waiting.store(queue.len() as u64, Ordering::SeqCst);
            group
        })
    }

    /// Worker `own` is done with the group that it took.
    pub fn finish(&self, own: usize) {
        self.seats[own].busy.store(false, Ordering::SeqCst);
    }

    /// Worker `own` found nothing to take. True if it may sleep: whoever puts something from now on wakes it.
    #[must_use]
    pub fn may_sleep(&self, own: usize) -> bool {
        let seat = &self.seats[own];
        seat.sleeping.store(true, Ordering::SeqCst);
        // Looks once more: who puts something now either sees the flag, or left something that is seen here.
        let stays_awake = !self.paused.load(Ordering::SeqCst) && self.has_more();
        if stays_awake {
            self.wake_up(own);
        }
        !stays_awake
    }

    /// Worker `own` sleeps no more.
    pub fn wake_up(&self, own: usize) {
        self.seats[own].sleeping.store(false, Ordering::SeqCst);
    }

    /// Keeps the workers from taking groups until `resume`. Those that run one finish it: see `is_quiet`.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    /// Whether no worker takes or runs a group.
    pub fn is_quiet(&self) -> bool {
        self.seats.iter().all(|seat| !seat.busy.load(Ordering::SeqCst))
    }

    /// Ends `pause`. Returns the workers to be woken.
    #[must_use]
    pub fn resume(&self) -> Vec<usize> {
        self.paused.store(false, Ordering::SeqCst);
        (0..self.seats.len()).filter(|at| self.seats[*at].sleeping.swap(false, Ordering::SeqCst)).collect()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn set(groups: &[u8]) -> GroupSet {
        groups.iter().map(|g| GroupId(*g)).collect()
    }

    #[test]
    fn a_group_goes_home_and_idle_workers_steal() {
        let queues = ReadyQueues::new(2);
        assert!(queues.may_sleep(0) && queues.may_sleep(1));
        assert_eq!(queues.put(set(&[1, 3])), Some(1));
        assert_eq!(queues.take(1), Some((GroupId(1), Some(0))), "there is more, and worker 0 sleeps");
        assert_eq!(queues.take(0), Some((GroupId(3), None)), "stolen");
        assert_eq!(queues.take(0), None);
    }

    #[test]
    fn nobody_is_woken_twice_and_nobody_who_is_awake() {
        let queues = ReadyQueues::new(2);
        assert!(queues.may_sleep(1));
        assert_eq!(queues.put(set(&[0])), Some(1), "its home worker is awake and may be busy for long");
        assert_eq!(queues.put(set(&[1])), None);
        assert!(!queues.may_sleep(1), "there is something to take");
    }

    #[test]
    fn nothing_is_taken_during_a_pause() {
        let queues = ReadyQueues::new(1);
        assert_eq!(queues.put(set(&[0])), None);
        assert_eq!(queues.take(0), Some((GroupId(0), None)));
        queues.pause();
        assert!(!queues.is_quiet());
        queues.finish(0);
        assert_eq!(queues.put(set(&[1])), None);
        assert!(queues.is_quiet() && queues.take(0).is_none() && queues.may_sleep(0));
        assert_eq!(queues.resume(), [0]);
        assert_eq!(queues.take(0), Some((GroupId(1), None)));
    }
}
