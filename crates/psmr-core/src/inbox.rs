//! Hand-off of batches to a thread that sleeps between them: a lock per batch, and a wake-up only if there was none since the
//! receiver looked last.

use crate::sync::{lock, AtomicBool, Mutex, Ordering};

/// A queue to one receiver. It has no limit of its own: what is put in answers to something bounded (a proxy's window, a
/// turn's write).
#[derive(Debug)]
pub struct Inbox<T> {
    items: Mutex<Vec<T>>,
    is_woken: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Inbox { items: Mutex::new(Vec::new()), is_woken: AtomicBool::new(false) }
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
        is_new && !self.is_woken.swap(true, Ordering::SeqCst)
    }

    /// Takes all items. The receiver is woken for what comes from now on.
    pub fn take(&self, into: &mut Vec<T>) {
        self.is_woken.store(false, Ordering::SeqCst);
        let mut queue = lock(&self.items);
        if into.is_empty() {
            std::mem::swap(&mut *queue, into);
        } else {
            into.append(&mut queue);
        }
    }
}
