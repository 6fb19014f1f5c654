//! Moments at which connections want to be woken. A timer descriptor rather than the poll's own timeout, which counts whole
//! milliseconds: a load on schedule must send to the microsecond. Linux only.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Wake-up calls of a thread's connections, in nanoseconds of the thread's clock.
pub(super) struct Timers {
    descriptor: OwnedFd,
    calls: BinaryHeap<Reverse<(u64, usize)>>,
    /// What the descriptor is set to; `None`: nothing, or it has rung.
    armed: Option<u64>,
}

impl Timers {
    /// Registered under `token`: an event of it says that a call may be due, and needs no answer.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&descriptor.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timers { descriptor, calls: BinaryHeap::new(), armed: None })
    }

    /// Asks for a call.
    pub fn push(&mut self, at: u64, connection: usize) {
        self.calls.push(Reverse((at, connection)));
    }

    /// The earliest call that is due.
    pub fn pop_due(&mut self, now: u64) -> Option<(u64, usize)> {
        let Reverse((at, connection)) = *self.calls.peek()?;
        if at > now {
            return None;
        }
        self.calls.pop();
        Some((at, connection))
    }

    /// Sets the descriptor to the earliest call; before every wait.
    pub fn arm(&mut self, now: u64) -> io::Result<()> {
        let Some(Reverse((at, _))) = self.calls.peek() else { return Ok(()) };
        if self.armed == Some(*at) && *at > now {
            return Ok(());
        }
        let wait = at.saturating_sub(now).max(1);
        let it_value = Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &once)?;
        self.armed = Some(*at);
        Ok(())
    }
}
