//! Hand-off of batches to a thread that sleeps in an event loop (see `psmr_core::inbox`).

use psmr_core::inbox::Inbox;
use std::io;

/// A queue with a waker.
pub struct Mailbox<T> {
    inbox: Inbox<T>,
    waker: mio::Waker,
}

impl<T> Mailbox<T> {
    /// A mailbox that wakes `registry`'s poll with `token`.
    ///
    /// # Errors
    /// If the system has no more descriptors.
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Mailbox<T>> {
        Ok(Mailbox { inbox: Inbox::default(), waker: mio::Waker::new(registry, token)? })
    }

    /// Adds an item and wakes the receiver.
    pub fn post(&self, item: T) {
        self.post_all([item]);
    }

    /// Adds items and wakes the receiver, if there are any.
    pub fn post_all(&self, items: impl IntoIterator<Item = T>) {
        if self.inbox.put(items) {
            // Fails only for a poll that is gone, whose thread has ended.
            let _ = self.waker.wake();
        }
    }

    /// Takes all items.
    pub fn take(&self, into: &mut Vec<T>) {
        self.inbox.take(into);
    }
}
