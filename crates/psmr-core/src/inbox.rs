//! Hand-off of batches to a thread that sleeps between them: a lock per batch, and a wake-up only for a receiver that sleeps.

use crate::sync::{lock, AtomicBool, Mutex, Ordering};

/// A queue to one receiver. It has no limit of its own: what is put in answers to something bounded (a proxy's window, a
/// turn's write).
#[derive(Debug)]
pub struct Inbox<T> {
    items: Mutex<Vec<T>>,
    /// The receiver sleeps, or is about to, unless it is woken.
    is_asleep: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Inbox { items: Mutex::new(Vec::new()), is_asleep: AtomicBool::new(false) }
    }
}

impl<T> Inbox<T> {
    /// Adds items. True if the receiver has to be woken.
    #[must_use]
    pub fn put(&self, items: impl IntoIterator<Item = T>) -> bool {
        let mut queue = lock(&self.items);
        let before = queue.len();
        queue.extend(items);
        let is_new = queue.len() > before;
        drop(queue);
        // Looks before it swaps: under load the receiver is awake, and the flag stays in everyone's cache.
        is_new && self.is_asleep.load(Ordering::SeqCst) && self.is_asleep.swap(false, Ordering::SeqCst)
    }

    /// Takes all items.
    pub fn take(&self, into: &mut Vec<T>) {
        let mut queue = lock(&self.items);
        if into.is_empty() {
            std::mem::swap(&mut *queue, into);
        } else {
            into.append(&mut queue);
        }
    }

    /// True if the receiver may sleep: whoever puts something from now on wakes it. False: there is something to take.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.is_asleep.store(true, Ordering::SeqCst);
        // Who puts something now either sees the flag, or left something that is seen here.
        let may_sleep = lock(&self.items).is_empty();
        if !may_sleep {
            self.wake_up();
        }
        may_sleep
    }

    /// The receiver sleeps no more.
    pub fn wake_up(&self) {
        self.is_asleep.store(false, Ordering::SeqCst);
    }
}
