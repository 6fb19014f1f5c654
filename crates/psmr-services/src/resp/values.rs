//! How many replies with values a connection has executed ahead of its client. A read of one group is executed when there is
//! room for its reply; a write that returns values, a transaction and a read of several groups are executed when it is their
//! turn, and their replies then have to be kept until the client takes them. So of these few are under way at first, more as
//! their replies turn out to be small, and with large ones as many as have a bounded number of bytes together.

use psmr_core::execute::LARGE_REPLY_BYTES;

/// At first.
const FIRST: usize = 16;

/// At most.
const MOST: usize = 128;

/// The bytes that large replies may have together, beside one reply.
const BYTES_MAX: usize = 64 << 20;

/// The requests of a connection whose replies have values.
#[derive(Debug)]
pub struct ValueWindow {
    under_way: usize,
    most: usize,
}

impl Default for ValueWindow {
    fn default() -> Self {
        ValueWindow { under_way: 0, most: FIRST }
    }
}

impl ValueWindow {
    /// Whether the connection has to wait for a reply.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.under_way >= self.most
    }

    /// A request goes on its way.
    pub fn begin(&mut self) {
        self.under_way += 1;
    }

    /// Its reply has come, and has so many bytes; 0 if it failed.
    pub fn end(&mut self, bytes: usize) {
        debug_assert!(self.under_way > 0, "a reply came twice");
        self.under_way = self.under_way.saturating_sub(1);
        self.most = match bytes {
            ..LARGE_REPLY_BYTES => MOST.min(self.most + 1),
            _ => (BYTES_MAX / bytes).clamp(1, self.most),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_wide_as_replies_are_small() {
        let mut window = ValueWindow::default();
        (0..FIRST).for_each(|_| window.begin());
        assert!(window.is_full());
        for _ in 0..FIRST {
            window.end(100);
        }
        assert!(!window.is_full());
        (0..2 * FIRST).for_each(|_| window.begin());
        assert!(window.is_full(), "each small reply makes room for one more");
        window.end(BYTES_MAX / 2);
        assert!(window.is_full());
        (0..2 * FIRST - 3).for_each(|_| window.end(BYTES_MAX / 2));
        assert!(window.is_full(), "two large ones");
        window.end(3 * BYTES_MAX);
        assert!(window.is_full(), "a larger one");
        window.end(0);
        assert!(!window.is_full());
        for _ in 0..3 * MOST {
            window.begin();
            window.end(1);
        }
        (0..MOST).for_each(|_| {
            assert!(!window.is_full());
            window.begin();
        });
        assert!(window.is_full());
    }
}
