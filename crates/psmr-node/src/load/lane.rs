//! The event loop of one thread of a load. A connection has one batch at a time: it is written at once, its replies are
//! checked as they come, and the last of them makes the next batch. Nothing is allocated per command, and a batch costs one
//! write, seldom more than one read, and one look at the clock.

use super::connection::{Connection, State};
use super::error::LoadError;
use super::item::{Format, Kind, Operation};
use super::options::{Endpoint, NativeService};
use super::report::Tally;
use super::stream::Stream;
use super::timers::Timers;
use super::wire::{Decoded, Reply, Wire};
use super::workload::{Outcome, Workload};
use super::Control;
use mio::{Events, Poll, Token};
use rustix::time::{clock_gettime, ClockId};
use smallvec::SmallVec;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const READ_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 1_024;
const TIMER: Token = Token(usize::MAX >> 1);
/// How often the stop flag, the end and the patience with servers are looked at.
const TICK_NS: u64 = 50_000_000;
const CONNECT_TIMEOUT_NS: u64 = 5_000_000_000;
const BACKOFF_NS_MIN: u64 = 10_000_000;
const BACKOFF_NS_MAX: u64 = 500_000_000;
/// Pause of a connection whose batch was refused, where that is tolerated: a server that is not ready answers at once.
const REFUSED_PAUSE_NS: u64 = 10_000_000;
/// Characters of a reply that are quoted in an error.
const QUOTE_MAX: usize = 120;

/// What the lanes of a load have in common.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub endpoints: Arc<Vec<Endpoint>>,
    pub format: Format,
    /// Requests of a batch.
    pub depth: usize,
    /// Commands of a request.
    pub together: usize,
    /// A broken connection is made again.
    pub tolerate_disconnects: bool,
    pub reply_timeout: Duration,
    /// Connections are native clients.
    pub native: Option<NativeService>,
    /// Each batch ends with a `WAIT` for so many.
    pub wait_replicas: u32,
    /// Commands are sent before this; `None`: until the workload has no more.
    pub send_for: Option<Duration>,
    pub pace: Option<Pace>,
}

/// A schedule: the batches of all connections take turns at equal distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From a batch to the next connection's.
    pub step_ns: f64,
    pub connections: usize,
}

impl Pace {
    fn intended(&self, connection: &Connection) -> u64 {
        let turn = connection.batches as f64 * self.connections as f64 + connection.number as f64;
        (turn * self.step_ns) as u64
    }

    /// Batches of a connection that should begin before `end` and have not begun.
    fn behind(&self, connection: &Connection, end: u64) -> u64 {
        let first = self.intended(connection);
        if first >= end {
            return 0;
        }
        ((end - first) as f64 / (self.step_ns * self.connections as f64)).ceil() as u64
    }
}

/// One thread's part of a load.
pub(super) struct Lane<W, L> {
    plan: Plan,
    wire: W,
    workload: L,
    tally: Tally,
    poll: Poll,
    timers: Timers,
    connections: Vec<Connection>,
    /// Connections that are not finished.
    active: usize,
    /// All times are nanoseconds from here.
    origin: Instant,
    /// `Plan::send_for`, or never.
    send_until: u64,
    /// Commands are being sent; before, connections are only made.
    running: bool,
    read_buffer: Vec<u8>,
}

impl<W: Wire, L: Workload> Lane<W, L> {
    /// Connects. `connections`: number over all threads, and endpoint.
    pub fn connect(
        plan: &Plan,
        wire: W,
        workload: L,
        connections: impl Iterator<Item = (usize, usize)>,
        control: &Control,
    ) -> Result<Self, LoadError> {
        let poll = Poll::new()?;
        let timers = Timers::new(poll.registry(), TIMER)?;
        let connections: Vec<Connection> =
            connections.map(|(number, endpoint)| Connection::new(number, endpoint, BACKOFF_NS_MIN)).collect();
        let mut lane = Lane {
            plan: plan.clone(),
            wire,
            workload,
            tally: Tally::new(),
            poll,
            timers,
            active: connections.len(),
            connections,
            origin: Instant::now(),
            send_until: plan.send_for.map_or(u64::MAX, |time| time.as_nanos() as u64),
            running: false,
            read_buffer: vec![0; READ_BYTES],
        };
        lane.connect_all(control)?;
        Ok(lane)
    }

    fn connect_all(&mut self, control: &Control) -> Result<(), LoadError> {
        for at in 0..self.connections.len() {
            self.connect_one(at)?;
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        while self.connections.iter().any(|connection| connection.state != State::Idle) {
            if control.stop.load(Ordering::Relaxed) {
                return Err(LoadError::Interrupted);
            }
            self.wait(&mut events)?;
            self.on_events(&events)?;
            self.tick()?;
        }
        Ok(())
    }

    /// Runs to the end. All lanes get the same start; `abort` is raised by the first that fails, and ends the others.
    pub fn run(&mut self, start: Instant, control: &Control, abort: &AtomicBool) -> Result<(), LoadError> {
        let cpu_before = thread_cpu_ns();
        self.origin = start;
        self.running = true;
        let result = self.run_loop(control, abort);
        if result.is_err() {
            abort.store(true, Ordering::Relaxed);
        }
        self.give_up_outstanding();
        self.tally.cpu_ns = thread_cpu_ns().saturating_sub(cpu_before);
        result
    }

    /// The counts, and the workload with what it learned.
    pub fn into_parts(self) -> (Tally, L) {
        (self.tally, self.workload)
    }

    fn run_loop(&mut self, control: &Control, abort: &AtomicBool) -> Result<(), LoadError> {
        for at in 0..self.connections.len() {
            self.advance(at, self.now())?;
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut published = (0, 0);
        let mut ticked = 0;
        while self.active > 0 {
            if control.stop.load(Ordering::Relaxed) || abort.load(Ordering::Relaxed) {
                self.tally.interrupted = control.stop.load(Ordering::Relaxed);
                break;
            }
            self.wait(&mut events)?;
            self.on_events(&events)?;
            let now = self.now();
            self.on_timers(now)?;
            if now >= ticked + TICK_NS {
                ticked = now;
                self.tick()?;
            }
            self.publish(control, &mut published);
        }
        self.publish(control, &mut published);
        Ok(())
    }

    fn publish(&self, control: &Control, published: &mut (u64, u64)) {
        let current = (self.tally.commands(), self.tally.errors);
        if current != *published {
            control.completed.fetch_add(current.0 - published.0, Ordering::Relaxed);
            control.errors.fetch_add(current.1 - published.1, Ordering::Relaxed);
            *published = current;
        }
    }

    #[inline]
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), LoadError> {
        self.timers.arm(self.now())?;
        match self.poll.poll(events, Some(Duration::from_nanos(TICK_NS))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn on_events(&mut self, events: &Events) -> Result<(), LoadError> {
        for event in events {
            let at = event.token().0;
            let Some(connection) = self.connections.get_mut(at) else { continue };
            match connection.state {
                State::Down | State::Finished => {}
                State::Connecting => self.on_connecting(at)?,
                State::Idle | State::Waiting => {
                    if event.is_writable() {
                        if let Err(error) = connection.flush() {
                            self.lost(at, &error.to_string())?;
                            continue;
                        }
                    }
                    if event.is_readable() || event.is_error() {
                        self.on_readable(at, event.is_read_closed() || event.is_error())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn on_timers(&mut self, now: u64) -> Result<(), LoadError> {
        while let Some((moment, at)) = self.timers.pop_due(now) {
            let connection = &mut self.connections[at];
            if connection.wake_at != Some(moment) {
                continue;
            }
            connection.wake_at = None;
            match connection.state {
                State::Down => self.connect_one(at)?,
                State::Idle => self.advance(at, now)?,
                State::Connecting | State::Waiting | State::Finished => {}
            }
        }
        Ok(())
    }

    fn wake(&mut self, at: usize, moment: u64) {
        self.connections[at].wake_at = Some(moment);
        self.timers.push(moment, at);
    }

    /// Ends what has waited too long.
    fn tick(&mut self) -> Result<(), LoadError> {
        let now = self.now();
        for at in 0..self.connections.len() {
            let connection = &self.connections[at];
            let waited = now.saturating_sub(connection.sent_at);
            match connection.state {
                State::Waiting if waited > self.plan.reply_timeout.as_nanos() as u64 => self.stalled(at)?,
                State::Connecting if waited > CONNECT_TIMEOUT_NS => self.lost(at, "no answer")?,
                State::Connecting | State::Down if self.running && now >= self.send_until => self.finish(at),
                // A native client looks at the clock: it sends again, or goes to another replica.
                State::Waiting if self.plan.native.is_some() => self.on_readable(at, false)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn stalled(&mut self, at: usize) -> Result<(), LoadError> {
        let seconds = self.plan.reply_timeout.as_secs_f64();
        if self.tolerates() {
            return self.lost(at, &format!("no reply within {seconds} s"));
        }
        let endpoint = self.connections[at].endpoint;
        let same = self.connections.iter().filter(|connection| connection.endpoint == endpoint);
        let missing = same.map(Connection::missing).sum();
        Err(LoadError::Stalled { address: self.address(at), missing, seconds })
    }

    fn tolerates(&self) -> bool {
        self.plan.tolerate_disconnects && self.running
    }

    fn address(&self, at: usize) -> String {
        self.plan.endpoints[self.connections[at].endpoint].name.clone()
    }

    fn connect_one(&mut self, at: usize) -> Result<(), LoadError> {
        let now = self.now();
        let connection = &mut self.connections[at];
        connection.state = State::Connecting;
        connection.sent_at = now;
        let endpoint = &self.plan.endpoints[connection.endpoint];
        let opened = match &self.plan.native {
            None => Stream::tcp(endpoint.socket, self.poll.registry(), Token(at)),
            Some(service) => Stream::native(&endpoint.name, service, self.plan.reply_timeout, self.poll.registry(), Token(at)),
        };
        match opened {
            Ok(stream) => {
                *connection.stream_mut() = Some(stream);
                // A native client is connected; of TCP there will be an event.
                if self.plan.native.is_some() {
                    self.on_connecting(at)?;
                }
                Ok(())
            }
            Err(error) => self.lost(at, &error.to_string()),
        }
    }

    fn on_connecting(&mut self, at: usize) -> Result<(), LoadError> {
        match self.connections[at].is_connected() {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.connections[at].state = State::Idle;
                if self.running {
                    self.advance(at, self.now())?;
                }
                Ok(())
            }
            Err(error) => self.lost(at, &error.to_string()),
        }
    }

    /// Begins the next batch of an idle connection, or asks to be woken when it is due, or ends the connection's part.
    #[inline]
    fn advance(&mut self, at: usize, now: u64) -> Result<(), LoadError> {
        let connection = &mut self.connections[at];
        connection.state = State::Idle;
        let intended = self.plan.pace.map_or(now, |pace| pace.intended(connection));
        if now >= self.send_until || intended >= self.send_until {
            self.finish(at);
            return Ok(());
        }
        if intended > now {
            self.wake(at, intended);
            return Ok(());
        }
        let (batch, output) = connection.clear_batch();
        for _ in 0..self.plan.depth {
            let begin = batch.len();
            batch.extend((0..self.plan.together).map_while(|_| self.workload.next(at)));
            if batch.len() == begin {
                break;
            }
            self.wire.encode(&batch[begin..], output);
        }
        if batch.is_empty() {
            self.finish(at);
            return Ok(());
        }
        if self.plan.wait_replicas > 0 {
            self.wire.encode_wait(self.plan.wait_replicas, output);
            connection.awaits_wait = true;
        }
        connection.state = State::Waiting;
        connection.began = intended;
        connection.sent_at = now;
        connection.batches += 1;
        connection.flush().or_else(|error| self.lost(at, &error.to_string()))
    }

    fn finish(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.state = State::Finished;
        self.active -= 1;
        if let Some(pace) = self.plan.pace {
            self.tally.unsent += pace.behind(connection, self.send_until) * (self.plan.depth * self.plan.together) as u64;
        }
    }

    /// `closed`: there will be no further event, so the end of the stream has to be read now.
    #[inline]
    fn on_readable(&mut self, at: usize, closed: bool) -> Result<(), LoadError> {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let result = self.read_all(at, closed, &mut buffer);
        self.read_buffer = buffer;
        result
    }

    fn read_all(&mut self, at: usize, closed: bool, buffer: &mut [u8]) -> Result<(), LoadError> {
        loop {
            match self.connections[at].read(buffer) {
                Ok(None) => return Ok(()),
                Ok(Some(length)) => {
                    self.on_bytes(at, &buffer[..length])?;
                    // A read that does not fill the buffer has emptied the socket: the next bytes are a new event.
                    if length < buffer.len() && !closed {
                        return Ok(());
                    }
                }
                Err(error) => return self.lost(at, &error.to_string()),
            }
        }
    }

    #[inline]
    fn on_bytes(&mut self, at: usize, bytes: &[u8]) -> Result<(), LoadError> {
        let mut partial = std::mem::take(&mut self.connections[at].partial);
        let checked = if partial.is_empty() {
            self.check_replies(at, bytes)
        } else {
            partial.extend_from_slice(bytes);
            self.check_replies(at, &partial)
        };
        let consumed = match checked {
            Ok(consumed) => consumed,
            Err(problem) => return self.broken(at, problem),
        };
        if partial.is_empty() {
            partial.extend_from_slice(&bytes[consumed..]);
        } else {
            partial.drain(..consumed);
        }
        let connection = &mut self.connections[at];
        let surplus = partial.len();
        connection.partial = partial;
        if !connection.is_answered() {
            return Ok(());
        }
        if surplus > 0 {
            return self.broken(at, format!("{surplus} bytes more than the replies to its commands"));
        }
        self.complete(at)
    }

    /// Checks the whole replies in `bytes` against the batch, and gives how long they are together.
    #[inline]
    fn check_replies(&mut self, at: usize, bytes: &[u8]) -> Result<usize, String> {
        let connection = &mut self.connections[at];
        let mut replies: SmallVec<[Reply<'_>; 1]> = SmallVec::new();
        let mut consumed = 0;
        while connection.answered < connection.batch.len() {
            let request = &connection.batch[connection.answered..][..self.plan.together];
            replies.clear();
            let length = match self.wire.decode(&bytes[consumed..], request, &mut |reply| replies.push(reply)) {
                Decoded::Whole((), length) => length,
                Decoded::Partial => break,
                Decoded::Broken(problem) => return Err(problem),
            };
            for (operation, reply) in request.iter().zip(&replies) {
                let outcome = outcome(&self.plan.format, operation, *reply);
                if outcome == Outcome::Good {
                    let read = operation.kind != Kind::Set;
                    self.tally.reads += u64::from(read);
                    self.tally.writes += u64::from(!read);
                    self.tally.reads_empty += u64::from(*reply == Reply::Missing);
                } else {
                    connection.failed += 1;
                    self.tally.errors += 1;
                    self.tally.wrong += u64::from(outcome != Outcome::Refused);
                    let address = &self.plan.endpoints[connection.endpoint].name;
                    let format = &self.plan.format;
                    self.tally.note_error(|| describe(address, format, operation, *reply));
                }
                self.workload.settled(at, operation, outcome);
            }
            connection.answered += request.len();
            consumed += length;
        }
        if connection.missing() == 0 && connection.awaits_wait {
            consumed += self.check_wait(at, &bytes[consumed..])?;
        }
        Ok(consumed)
    }

    /// Checks the reply to `WAIT`, and gives its length. That too few replicas have the batch is an error of the load.
    fn check_wait(&mut self, at: usize, bytes: &[u8]) -> Result<usize, String> {
        let (reply, length) = match self.wire.decode_one(bytes) {
            Decoded::Whole(reply, length) => (reply, length),
            Decoded::Partial => return Ok(0),
            Decoded::Broken(problem) => return Err(problem),
        };
        let connection = &mut self.connections[at];
        connection.awaits_wait = false;
        let wanted = self.plan.wait_replicas;
        if self.wire.replicas(reply).is_none_or(|count| count < u64::from(wanted)) {
            self.tally.errors += 1;
            let address = &self.plan.endpoints[connection.endpoint].name;
            self.tally.note_error(|| format!("{address}: WAIT {wanted} gave {reply:?}"));
        }
        Ok(length)
    }

    /// All replies of the batch are there.
    #[inline]
    fn complete(&mut self, at: usize) -> Result<(), LoadError> {
        let now = self.now();
        let connection = &mut self.connections[at];
        if connection.state != State::Waiting {
            return Ok(());
        }
        let good = connection.answered as u64 - u64::from(connection.failed);
        self.tally.completed(good, now.saturating_sub(connection.began), now);
        connection.backoff = BACKOFF_NS_MIN;
        if connection.failed > 0 && self.plan.tolerate_disconnects {
            connection.state = State::Idle;
            self.wake(at, now + REFUSED_PAUSE_NS);
            return Ok(());
        }
        self.advance(at, now)
    }

    fn broken(&mut self, at: usize, problem: String) -> Result<(), LoadError> {
        if self.tolerates() {
            self.tally.errors += 1;
            self.tally.wrong += 1;
            let address = self.address(at);
            self.tally.note_error(|| format!("{address} broke the protocol: {problem}"));
            return self.lost(at, &problem);
        }
        Err(LoadError::Protocol { address: self.address(at), problem })
    }

    /// The connection is no more: its batch is unknown, and it goes to the next server, or ends the load.
    fn lost(&mut self, at: usize, cause: &str) -> Result<(), LoadError> {
        let address = self.address(at);
        let state = self.connections[at].state;
        if !self.tolerates() {
            let cause = cause.to_owned();
            return Err(match state {
                State::Connecting | State::Down => LoadError::Connect { address, cause },
                _ => LoadError::Disconnected { address, missing: self.connections[at].missing(), cause },
            });
        }
        let now = self.now();
        self.tally.disconnects += u64::from(state != State::Connecting);
        self.tally.note_disconnect(|| {
            let what = if state == State::Connecting { "cannot connect" } else { "connection lost" };
            format!("{:.3} s: {address}: {what}: {cause}", now as f64 / 1e9)
        });
        self.give_up(at, now);
        let connection = &mut self.connections[at];
        *connection.stream_mut() = None;
        connection.partial.clear();
        connection.endpoint = (connection.endpoint + 1) % self.plan.endpoints.len();
        connection.state = State::Down;
        let backoff = connection.backoff;
        connection.backoff = (backoff * 2).min(BACKOFF_NS_MAX);
        self.wake(at, now + backoff);
        Ok(())
    }

    /// Settles a batch whose remaining replies will not come.
    fn give_up(&mut self, at: usize, now: u64) {
        let connection = &mut self.connections[at];
        if connection.state == State::Waiting {
            let good = connection.answered as u64 - u64::from(connection.failed);
            self.tally.completed(good, now.saturating_sub(connection.began), now);
            for operation in &connection.batch[connection.answered..] {
                self.workload.settled(at, operation, Outcome::Unknown);
                self.tally.unknown += 1;
            }
        }
        connection.clear_batch();
    }

    fn give_up_outstanding(&mut self) {
        let now = self.now();
        for at in 0..self.connections.len() {
            self.give_up(at, now);
        }
    }
}

/// What a reply is to a command.
#[inline]
fn outcome(format: &Format, operation: &Operation, reply: Reply<'_>) -> Outcome {
    match (operation.kind, reply) {
        (Kind::Set, Reply::Stored) | (Kind::GetAny, Reply::Missing) => Outcome::Good,
        (Kind::GetExactly, Reply::Missing) => Outcome::Lost,
        (Kind::GetAny | Kind::GetExactly, Reply::Value(value)) if format.admits(operation, value) => Outcome::Good,
        (_, Reply::Refused(_)) => Outcome::Refused,
        _ => Outcome::Wrong,
    }
}

fn describe(address: &str, format: &Format, operation: &Operation, reply: Reply<'_>) -> String {
    let command = if operation.kind == Kind::Set { "SET" } else { "GET" };
    let key = format.key(operation);
    let found = match reply {
        Reply::Stored => "+OK".to_owned(),
        Reply::Missing if operation.kind == Kind::GetExactly => "nothing, of an acknowledged write".to_owned(),
        Reply::Missing => "nothing".to_owned(),
        Reply::Refused(text) => format!("error {}", quote(text)),
        Reply::Foreign(text) => format!("the reply {}", quote(text)),
        Reply::Value(value) => format!(
            "{} bytes {}, no value that this load writes to that key ({} bytes each)",
            value.len(),
            quote(value),
            format.value_bytes
        ),
    };
    format!("{address}: {command} {key} gave {found}")
}

fn quote(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(QUOTE_MAX)];
    format!("{:?}{}", String::from_utf8_lossy(head), if head.len() < bytes.len() { "…" } else { "" })
}

/// CPU time of the calling thread.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
