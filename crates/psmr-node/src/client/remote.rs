//! The way to a cluster over TCP: a connection to one of its replicas, made again to the next one when it is lost.
//!
//! ```text
//! Apart --dial--> Opening --welcome--> Together
//!   ^                |                    |
//!   +---- lost: the next address, at once, or after a pause once all have been tried
//! ```

use super::{random_session, ClientError, Port, PortEvent};
use crate::native::{self, FromClient, FromReplica, Hello, Kind, Refusal, RefusalCode, Welcome, GREETING, MAGIC_BYTES};
use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use psmr_core::command::{GroupId, LogId, ReplicaId, SessionId};
use psmr_core::execute::reads::ReadBatch;
use psmr_core::routing::HASH_VERSION;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// How long a replica may take to accept a connection and say welcome.
const OPENING_TIME_MAX: Duration = Duration::from_secs(3);

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

struct Link {
    stream: TcpStream,
    input: BytesMut,
    output: Vec<u8>,
    written: usize,
    /// The replica's greeting has come.
    is_greeted: bool,
}

/// Why a link is of no more use.
enum Broken {
    /// Another replica may do better.
    Lost(String),
    /// No other will.
    Fatal(ClientError),
}

enum State {
    /// Nobody is there; when to dial.
    Apart(Instant),
    /// Dialled; since when.
    Opening(Link, Instant),
    /// The session is answered there.
    Together(Link),
}

/// See the module.
pub struct Remote {
    hello: Hello,
    poll: Poll,
    polled: Events,
    scratch: Vec<u8>,
    state: State,
    /// As the user gave them.
    given: Vec<String>,
    /// As the cluster told them.
    learned: Vec<String>,
    /// The address in use.
    current: String,
    /// What that name stands for, as far as it has not been tried.
    targets: VecDeque<SocketAddr>,
    /// Addresses that have failed since the last welcome.
    failures: usize,
    backoff: Duration,
    /// What went wrong with each, the newest last.
    troubles: Vec<String>,
    /// The first welcome: what the cluster is.
    cluster: Option<Welcome>,
}

impl Remote {
    /// A way to the cluster of the replicas at `addresses`, of which one suffices.
    ///
    /// # Errors
    /// If there is no address, or the system has no more descriptors.
    pub fn new(addresses: &[String], service: &str) -> Result<Remote, ClientError> {
        let first = addresses.first().ok_or_else(|| ClientError::Unreachable("no address was given".into()))?;
        Ok(Remote {
            hello: Hello { session: random_session()?, service: service.into() },
            poll: Poll::new()?,
            polled: Events::with_capacity(8),
            scratch: vec![0; 64 << 10],
            state: State::Apart(Instant::now()),
            given: addresses.to_vec(),
            learned: Vec::new(),
            current: first.clone(),
            targets: resolve(first)?.into(),
            failures: 0,
            backoff: BACKOFF_MIN,
            troubles: Vec::new(),
            cluster: None,
        })
    }

    fn candidates(&self) -> Vec<&String> {
        let learned = self.learned.iter().filter(|address| !self.given.contains(address));
        self.given.iter().chain(learned).collect()
    }

    /// The connection, or the attempt to make one, has failed.
    fn fail(&mut self, why: &str, events: &mut Vec<PortEvent>) {
        if matches!(self.state, State::Together(_)) {
            events.push(PortEvent::Lost);
            self.targets.clear();
        }
        self.state = State::Apart(Instant::now());
        if !self.targets.is_empty() {
            return;
        }
        let trouble = format!("{}: {why}", self.current);
        self.troubles.retain(|known| *known != trouble);
        self.troubles.push(trouble);
        self.failures += 1;
        let candidates = self.candidates();
        let count = candidates.len();
        let at = candidates.iter().position(|address| **address == self.current).unwrap_or(0);
        self.current = candidates[(at + 1) % count].clone();
        self.troubles.drain(..self.troubles.len().saturating_sub(count));
        if self.failures >= count {
            self.state = State::Apart(Instant::now() + self.backoff);
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn dial(&mut self) -> Result<(), Broken> {
        if self.targets.is_empty() {
            self.targets = resolve(&self.current).map_err(|e| Broken::Lost(e.to_string()))?.into();
        }
        let target = self.targets.pop_front().ok_or_else(|| Broken::Lost("the name stands for no address".into()))?;
        let mut stream = TcpStream::connect(target).map_err(lost)?;
        let _ = stream.set_nodelay(true);
        self.poll.registry().register(&mut stream, Token(0), Interest::READABLE | Interest::WRITABLE).map_err(lost)?;
        let mut link = Link { stream, input: BytesMut::new(), output: GREETING.to_vec(), written: 0, is_greeted: false };
        FromClient::Hello(self.hello.clone()).write(&mut link.output);
        self.state = State::Opening(link, Instant::now());
        Ok(())
    }

    /// Does what can be done without waiting.
    fn step(&mut self, events: &mut Vec<PortEvent>) -> Result<(), ClientError> {
        let outcome = match &self.state {
            State::Apart(when) if *when <= Instant::now() => self.dial(),
            State::Apart(_) => Ok(()),
            State::Opening(_, since) if since.elapsed() > OPENING_TIME_MAX => Err(Broken::Lost("it does not answer".into())),
            State::Opening(..) | State::Together(_) => self.work(events),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Broken::Lost(why)) => {
                self.fail(&why, events);
                Ok(())
            }
            Err(Broken::Fatal(error)) => Err(error),
        }
    }

    fn work(&mut self, events: &mut Vec<PortEvent>) -> Result<(), Broken> {
        let (State::Opening(link, _) | State::Together(link)) = &mut self.state else { return Ok(()) };
        link.flush()?;
        loop {
            let (State::Opening(link, _) | State::Together(link)) = &mut self.state else { return Ok(()) };
            let has_read = link.read(&mut self.scratch)?;
            if !link.is_greeted && link.input.len() >= GREETING.len() {
                self.check_greeting()?;
            }
            self.take_frames(events)?;
            if !has_read {
                return Ok(());
            }
        }
    }

    fn check_greeting(&mut self) -> Result<(), Broken> {
        let (State::Opening(link, _) | State::Together(link)) = &mut self.state else { return Ok(()) };
        let greeting = link.input.split_to(GREETING.len());
        if greeting[..MAGIC_BYTES] != GREETING[..MAGIC_BYTES] {
            return Err(self.misfit("it is no replica of psmr".into()));
        }
        // Another version says what it is in a refusal.
        link.is_greeted = true;
        Ok(())
    }

    /// The other side is not one that this client can talk to: at the first time there is no point in trying others.
    fn misfit(&self, text: String) -> Broken {
        match self.cluster {
            Some(_) => Broken::Lost(text),
            None => Broken::Fatal(ClientError::OtherVersion { address: self.current.clone(), text }),
        }
    }

    fn take_frames(&mut self, events: &mut Vec<PortEvent>) -> Result<(), Broken> {
        loop {
            let (State::Opening(link, _) | State::Together(link)) = &mut self.state else { return Ok(()) };
            if !link.is_greeted {
                return Ok(());
            }
            let frame = native::decode::<Kind>(&mut link.input).map_err(|what| Broken::Lost(format!("it sent {what}")))?;
            let Some((kind, body)) = frame else { return Ok(()) };
            let (groups, logs) = self.cluster.as_ref().map_or((0, 0), |c| (usize::from(c.groups), usize::from(c.streams) + 1));
            let frame =
                FromReplica::read(kind, body, self.hello.session, groups, logs).map_err(|e| Broken::Lost(e.to_string()))?;
            self.on_frame(frame, events)?;
        }
    }

    fn on_frame(&mut self, frame: FromReplica, events: &mut Vec<PortEvent>) -> Result<(), Broken> {
        let is_together = matches!(self.state, State::Together(_));
        match frame {
            FromReplica::Welcome(welcome) if !is_together => self.on_welcome(welcome, events)?,
            FromReplica::Refusal(refusal) => return Err(self.refused(refusal)),
            FromReplica::Event(event) if is_together => events.push(PortEvent::Event(event)),
            FromReplica::LeaderChange(log) if is_together => events.push(PortEvent::LeaderChange(log)),
            FromReplica::Addresses(addresses) if is_together => self.learn(addresses),
            FromReplica::Memory { is_out } if is_together => events.push(PortEvent::Memory { is_out }),
            _ => return Err(Broken::Lost("it sent what was not asked for".into())),
        }
        Ok(())
    }

    fn refused(&self, Refusal { code, text }: Refusal) -> Broken {
        let address = self.current.clone();
        match code {
            RefusalCode::Version => self.misfit(text),
            RefusalCode::Service => Broken::Fatal(ClientError::WrongService { address, text }),
            RefusalCode::Session | RefusalCode::Protocol => Broken::Fatal(ClientError::SessionEnded { address, text }),
        }
    }

    fn on_welcome(&mut self, welcome: Box<Welcome>, events: &mut Vec<PortEvent>) -> Result<(), Broken> {
        if welcome.hash_version != HASH_VERSION {
            let text = format!("it places keys by version {}, this client by {HASH_VERSION}", welcome.hash_version);
            return Err(self.misfit(text));
        }
        match &self.cluster {
            Some(known) if known.cluster != welcome.cluster => return Err(Broken::Lost("it belongs to another cluster".into())),
            Some(known) if (known.groups, known.streams) != (welcome.groups, welcome.streams) => {
                return Err(Broken::Lost("its groups and streams are not the cluster's".into()));
            }
            Some(_) => {}
            None => self.cluster = Some((*welcome).clone()),
        }
        self.learn(welcome.addresses.clone());
        if let State::Opening(link, _) = std::mem::replace(&mut self.state, State::Apart(Instant::now())) {
            self.state = State::Together(link);
        }
        self.failures = 0;
        self.backoff = BACKOFF_MIN;
        self.troubles.clear();
        events.push(PortEvent::Connected(welcome));
        Ok(())
    }

    /// Addresses that mean "this machine, every interface" are of no use elsewhere.
    fn learn(&mut self, addresses: Vec<(ReplicaId, String)>) {
        let is_useful = |address: &String| !address.parse::<SocketAddr>().is_ok_and(|a| a.ip().is_unspecified() || a.port() == 0);
        self.learned = addresses.into_iter().map(|(_, address)| address).filter(is_useful).collect();
    }

    fn send(&mut self, frame: &FromClient) {
        if let State::Together(link) = &mut self.state {
            frame.write(&mut link.output);
        }
    }

    /// When there is something to do even if nothing comes.
    fn next_moment(&self) -> Option<Instant> {
        match &self.state {
            State::Apart(when) => Some(*when),
            State::Opening(_, since) => Some(*since + OPENING_TIME_MAX),
            State::Together(_) => None,
        }
    }
}

impl Port for Remote {
    fn session(&self) -> SessionId {
        self.hello.session
    }

    fn send_batch(&mut self, log: LogId, batch: Bytes) {
        self.send(&FromClient::Batch(log, batch));
    }

    fn send_reads(&mut self, group: GroupId, batch: ReadBatch) {
        self.send(&FromClient::Reads(group, batch));
    }

    fn exchange(&mut self, events: &mut Vec<PortEvent>, wait: Duration) -> Result<(), ClientError> {
        let deadline = Instant::now() + wait;
        loop {
            self.step(events)?;
            let now = Instant::now();
            if !events.is_empty() || now >= deadline {
                return Ok(());
            }
            let until = self.next_moment().map_or(deadline, |moment| moment.min(deadline));
            match self.poll.poll(&mut self.polled, Some(until.saturating_duration_since(now))) {
                // A signal: the caller may want to know.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
                outcome => outcome?,
            }
        }
    }

    fn suspect(&mut self) {
        if let State::Together(_) = self.state {
            // Nobody is told of the loss: who suspects knows.
            self.fail("it does not answer any more", &mut Vec::new());
        }
    }

    fn descriptor(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    fn trouble(&self) -> Option<String> {
        (self.failures >= self.candidates().len()).then(|| self.troubles.join("; "))
    }
}

impl Link {
    fn flush(&mut self) -> Result<(), Broken> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(Broken::Lost("it closed the connection".into())),
                Ok(count) => self.written += count,
                Err(e) if is_not_now(&e) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(lost(e)),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads once. False: nothing is there now.
    fn read(&mut self, scratch: &mut [u8]) -> Result<bool, Broken> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(Broken::Lost("it closed the connection".into())),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    return Ok(true);
                }
                Err(e) if is_not_now(&e) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(lost(e)),
            }
        }
    }
}

/// Nothing can be written or read yet, perhaps because the connection is still being made.
fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

fn lost(error: io::Error) -> Broken {
    Broken::Lost(error.to_string())
}

/// All that a name stands for.
pub(super) fn resolve(address: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let failed = |cause: String| ClientError::Address { address: address.to_owned(), cause };
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(|e| failed(e.to_string()))?.collect();
    if found.is_empty() {
        return Err(failed("the name stands for nothing".into()));
    }
    Ok(found)
}
