//! Hand-off of batches to a thread that sleeps in an event loop (see `psmr_core::inbox`).

use psmr_core::inbox::Inbox;
use std::sync::Arc;

/// A queue with a waker.
pub struct Mailbox<T> {
    inbox: Inbox<T>,
    waker: Arc<mio::Waker>,
}

impl<T> Mailbox<T> {
    /// A mailbox of the thread that `waker` wakes; a thread that has several mailboxes has one waker.
    pub fn new(waker: Arc<mio::Waker>) -> Mailbox<T> {
        Mailbox { inbox: Inbox::default(), waker }
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

    /// The receiver is about to poll: it is woken for what comes from now on. False: something is there already.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.inbox.may_sleep()
    }

    /// The receiver has polled: it takes what is there before it polls again.
    pub fn wake_up(&self) {
        self.inbox.wake_up();
    }
}
