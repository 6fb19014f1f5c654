//! Hand-off of batches to a thread that sleeps in an event loop. Posting costs a lock and, only if the receiver has not been
//! woken yet, one system call.
//!
//! A mailbox has no limit of its own: what is posted answers to something bounded (a proxy's window, a turn's write).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A queue with a waker.
pub struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    woken: AtomicBool,
    waker: mio::Waker,
}

impl<T> Mailbox<T> {
    /// A mailbox that wakes `registry`'s poll with `token`.
    ///
    /// # Errors
    /// If the system has no more descriptors.
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Mailbox<T>> {
        Ok(Mailbox { items: Mutex::new(Vec::new()), woken: AtomicBool::new(false), waker: mio::Waker::new(registry, token)? })
    }

    /// Adds an item and wakes the receiver.
    pub fn post(&self, item: T) {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        self.wake();
    }

    /// Adds items and wakes the receiver, if there are any.
    pub fn post_all(&self, items: impl IntoIterator<Item = T>) {
        let mut queue = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let before = queue.len();
        queue.extend(items);
        let is_new = queue.len() > before;
        drop(queue);
        if is_new {
            self.wake();
        }
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // Fails only for a poll that is gone, whose thread has ended.
            let _ = self.waker.wake();
        }
    }

    /// Takes all items.
    pub fn take(&self, into: &mut Vec<T>) {
        self.woken.store(false, Ordering::SeqCst);
        let mut queue = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if into.is_empty() {
            std::mem::swap(&mut *queue, into);
        } else {
            into.append(&mut queue);
        }
    }
}
