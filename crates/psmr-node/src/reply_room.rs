//! Room for large replies to reads, per connection of the Redis protocol and for all of them together. Groups claim it before
//! they hand a reply on; the client thread gives it back as clients take their replies. A read without room is held in its
//! group: of a client that asks for thousands of large values in one go, or takes none, few are in memory at a time.
//!
//! The request whose reply is the next to leave always has room: what is behind it cannot leave before it does. A read that its
//! connection has followed by a command cannot be held when a command of the session is about to execute, since that may be the
//! one: it then has four times the room, and beyond that is refused.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Bytes that one connection may have, beside one reply more.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Bytes that all of them may have together, beside one reply each.
const ALL_BYTES_MAX: u64 = 256 << 20;

/// Bytes beyond which also those are refused that cannot be held.
const LAST_BYTES_MAX: u64 = 4 * ALL_BYTES_MAX;

/// What is known of a connection.
#[derive(Debug, Default)]
struct Line {
    /// A group has asked for room here: the client thread keeps the line up to date.
    is_used: AtomicBool,
    /// The number of the request whose reply is the next to leave.
    next: AtomicU32,
    /// The number of the last command; 0 if there was none.
    last_command: AtomicU32,
    /// Of replies that are claimed, and not yet with the client thread.
    on_their_way: AtomicU64,
    /// Of replies that are, and that the client has not taken.
    unsent: AtomicU64,
}

/// See the module. A token has the connection's place in its upper half, and the request's number in the lower one.
#[derive(Debug)]
pub struct ReplyRoom {
    lines: Vec<Line>,
    /// The sum of all lines.
    all: AtomicU64,
    /// A read was held for want of room.
    is_short: AtomicBool,
}

impl ReplyRoom {
    /// For so many connections.
    pub fn new(lines: usize) -> ReplyRoom {
        let lines = (0..lines).map(|_| Line::default()).collect();
        ReplyRoom { lines, all: AtomicU64::new(0), is_short: AtomicBool::new(false) }
    }

    fn line(&self, token: u64) -> Option<&Line> {
        self.lines.get((token >> 32) as usize)
    }

    /// Whether a large reply to the read with this token may be made. Called by groups.
    pub fn has(&self, token: u64) -> bool {
        let Some(line) = self.line(token) else { return true };
        line.is_used.store(true, Ordering::SeqCst);
        if self.is_free(line, token as u32) {
            return true;
        }
        // The client thread gives room back before it looks at the mark, and this looks again after it: one sees the other.
        self.is_short.store(true, Ordering::SeqCst);
        self.is_free(line, token as u32)
    }

    fn is_free(&self, line: &Line, number: u32) -> bool {
        let claimed = line.on_their_way.load(Ordering::SeqCst) + line.unsent.load(Ordering::SeqCst);
        (claimed < LINE_BYTES_MAX && self.all.load(Ordering::SeqCst) < ALL_BYTES_MAX)
            || line.next.load(Ordering::SeqCst) == number
    }

    /// Whether the read with this token may be held though a command of its session is about to execute: that is none of its
    /// connection then. Called by groups.
    pub fn may_be_held(&self, token: u64) -> bool {
        // The number was set before the command was sent, so before it could be executed.
        let after = |line: &Line| line.last_command.load(Ordering::Relaxed).wrapping_sub(token as u32) as i32;
        self.line(token).is_some_and(|line| after(line) <= 0)
    }

    /// The connection at `at` is about to send a command that has this number.
    #[inline]
    pub fn note_command(&self, at: usize, number: u32) {
        if let Some(line) = self.lines.get(at) {
            line.last_command.store(number, Ordering::Relaxed);
        }
    }

    /// Claims room for a reply, if there is some; `is_last_moment`: the read cannot be held. Called by groups.
    pub fn claim(&self, token: u64, bytes: usize, is_last_moment: bool) -> bool {
        let Some(line) = self.line(token) else { return true };
        let is_claimed = self.has(token) || (is_last_moment && self.all.load(Ordering::SeqCst) < LAST_BYTES_MAX);
        if is_claimed {
            line.on_their_way.fetch_add(bytes as u64, Ordering::SeqCst);
            self.all.fetch_add(bytes as u64, Ordering::SeqCst);
        }
        is_claimed
    }

    /// A reply for which room was claimed has come to the client thread.
    pub fn arrive(&self, token: u64, bytes: usize) {
        if let Some(line) = self.line(token) {
            line.unsent.fetch_add(bytes as u64, Ordering::SeqCst);
            line.on_their_way.fetch_sub(bytes as u64, Ordering::SeqCst);
        }
    }

    /// What the connection at `at` has: the request whose reply is the next to leave, and the bytes of replies that its client
    /// has not taken. True: reads that are held may have room now.
    pub fn publish(&self, at: usize, next: u32, unsent: usize) -> bool {
        let Some(line) = self.lines.get(at).filter(|line| line.is_used.load(Ordering::SeqCst)) else { return false };
        let is_further = line.next.swap(next, Ordering::SeqCst) != next;
        let before = line.unsent.swap(unsent as u64, Ordering::SeqCst);
        self.all.fetch_add((unsent as u64).wrapping_sub(before), Ordering::SeqCst);
        (is_further || before > unsent as u64) && self.is_short.swap(false, Ordering::SeqCst)
    }

    /// The connection at `at` is over: another one may have its place. True: as `publish`.
    pub fn vacate(&self, at: usize) -> bool {
        let is_wanted = self.publish(at, 0, 0);
        if let Some(line) = self.lines.get(at) {
            line.is_used.store(false, Ordering::SeqCst);
            line.last_command.store(0, Ordering::Relaxed);
        }
        is_wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 8 << 20;

    fn token(line: u64, number: u64) -> u64 {
        line << 32 | number
    }

    #[test]
    fn a_connection_has_a_few_large_replies_at_a_time_and_the_next_to_leave_always() {
        let room = ReplyRoom::new(2);
        assert!(room.claim(token(1, 5), LARGE, false) && room.claim(token(1, 6), LARGE, false));
        assert!(!room.claim(token(1, 7), LARGE, false) && !room.has(token(1, 8)));
        assert!(room.claim(token(0, 7), LARGE, false), "another connection");
        [5, 6].into_iter().for_each(|number| room.arrive(token(1, number), LARGE));
        assert!(!room.has(token(1, 7)), "what has come is not taken yet");
        assert!(room.publish(1, 7, 2 * LARGE + 99), "the first one has moved");
        assert!(room.has(token(1, 7)) && !room.has(token(1, 8)));
        assert!(room.publish(1, 7, 100) && room.has(token(1, 8)));
        assert!(!room.publish(1, 7, 50), "nobody waits");
        assert!(room.may_be_held(token(1, 7)));
        room.note_command(1, 8);
        assert!(!room.may_be_held(token(1, 7)) && room.may_be_held(token(1, 9)) && room.may_be_held(token(0, 7)));
    }

    #[test]
    fn all_connections_share_what_there_is() {
        let lines = 2 + ALL_BYTES_MAX / LINE_BYTES_MAX;
        let room = ReplyRoom::new(lines as usize);
        for line in 0..lines - 2 {
            assert!(room.claim(token(line, 1), LARGE, false) && room.claim(token(line, 2), LARGE, false));
        }
        assert!(!room.claim(token(lines - 1, 9), LARGE, false));
        assert!(room.claim(token(lines - 1, 0), LARGE, false), "the first one");
        assert!(room.claim(token(lines - 1, 9), LARGE, true), "at the last moment");
        [1, 2].into_iter().for_each(|number| room.arrive(token(0, number), LARGE));
        assert!(room.vacate(0), "somebody waits, though not here");
        [0, 9].into_iter().for_each(|number| room.arrive(token(lines - 1, number), LARGE));
        assert!(!room.vacate(lines as usize - 1));
        assert!(room.has(token(lines - 1, 9)));
    }
}
