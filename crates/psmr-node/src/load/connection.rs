//! One connection: its socket, the batch that is on its way, and the bytes of a reply that has not come whole. Decisions are
//! the lane's.

use super::item::Operation;
use super::stream::Stream;
use std::io::{self, Read, Write};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waits for a moment to connect again.
    Down,
    /// Waits for the server to accept, or for the system to give up.
    Connecting,
    /// Connected, nothing outstanding.
    Idle,
    /// A batch is outstanding.
    Waiting,
    /// Has nothing more to do.
    Finished,
}

/// See the module.
pub(super) struct Connection {
    /// Its number over all threads.
    pub number: usize,
    /// Position of the server in the list of endpoints.
    pub endpoint: usize,
    pub state: State,
    stream: Option<Stream>,
    /// Bytes of the batch, and how many of them the system has taken.
    output: Vec<u8>,
    output_sent: usize,
    /// Commands of the batch, and how many of them are answered.
    pub batch: Vec<Operation>,
    pub answered: usize,
    /// How many of the answered ones went wrong.
    pub failed: u32,
    /// The reply to the `WAIT` behind the batch is missing.
    pub awaits_wait: bool,
    /// Beginning of a reply whose rest has not come.
    pub partial: Vec<u8>,
    /// From when the latency of the batch counts: when it was sent, or should have been sent.
    pub began: u64,
    /// When the batch was sent, or the connecting began.
    pub sent_at: u64,
    /// Batches begun, for the schedule.
    pub batches: u64,
    /// The valid call in the timers; others are stale.
    pub wake_at: Option<u64>,
    /// How long to wait before the next attempt to connect.
    pub backoff: u64,
}

impl Connection {
    pub fn new(number: usize, endpoint: usize, backoff: u64) -> Self {
        Connection {
            number,
            endpoint,
            state: State::Down,
            stream: None,
            output: Vec::new(),
            output_sent: 0,
            batch: Vec::new(),
            answered: 0,
            failed: 0,
            awaits_wait: false,
            partial: Vec::new(),
            began: 0,
            sent_at: 0,
            batches: 0,
            wake_at: None,
            backoff,
        }
    }

    /// Commands of the batch that have no reply.
    pub fn missing(&self) -> usize {
        self.batch.len() - self.answered
    }

    /// Whether all replies are there.
    pub fn is_answered(&self) -> bool {
        self.missing() == 0 && !self.awaits_wait
    }

    pub fn stream_mut(&mut self) -> &mut Option<Stream> {
        &mut self.stream
    }

    /// Whether the server has accepted; an error if it never will.
    pub fn is_connected(&self) -> io::Result<bool> {
        self.stream.as_ref().map_or(Ok(false), Stream::is_connected)
    }

    /// Empties the batch, and gives where its bytes go.
    pub fn clear_batch(&mut self) -> (&mut Vec<Operation>, &mut Vec<u8>) {
        self.batch.clear();
        self.output.clear();
        self.output_sent = 0;
        self.answered = 0;
        self.failed = 0;
        self.awaits_wait = false;
        (&mut self.batch, &mut self.output)
    }

    /// Hands the system as much of the batch as it takes now.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.output_sent < self.output.len() {
            match stream.write(&self.output[self.output_sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.output_sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        stream.flush()
    }

    /// Reads once. `None`: nothing there now.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            match stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")),
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
