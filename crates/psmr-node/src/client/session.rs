//! The client: one session, one connection's order, any number of requests at once.

use super::requests::Requests;
use super::{ClientError, Port, PortEvent, Remote, SLICE};
use crate::data_directory::cluster_text;
use crate::native::Welcome;
use psmr_core::client::{Answer, ClientProxy, ProxyLimits};
use psmr_core::execute::Event;
use psmr_core::gateway::{Gateway, NodeInfo, Sink as _};
use psmr_core::routing::Topology;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// How often the proxy looks at the clock.
const CLOCK: Duration = Duration::from_millis(100);

/// A replica that owes answers and says nothing for this long is suspected to be dead; longer each time in a row.
const SILENCE_MIN: Duration = Duration::from_millis(2_500);
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How long a request may take, and the first connection.
    pub timeout: Duration,
    /// Of its proxy.
    pub proxy: ProxyLimits,
}

impl Default for ClientOptions {
    fn default() -> Self {
        let proxy = ProxyLimits { bytes_max: 8 << 20, ..ProxyLimits::default() };
        ClientOptions { timeout: Duration::from_secs(10), proxy }
    }
}

/// A request without a reply yet.
struct Issued {
    /// The number after its last place.
    end: u64,
    deadline: Instant,
}

/// A client of one service. Commands execute once, whatever replica fails meanwhile; dependent ones take effect in the order
/// of issue.
pub struct Client {
    port: Box<dyn Port>,
    gateway: Box<dyn Gateway>,
    requests: Requests,
    issued: VecDeque<Issued>,
    events: Vec<PortEvent>,
    timeout: Duration,
    /// A moment, and the cluster's time then.
    time: (Instant, u64),
    next_clock: Instant,
    is_connected: bool,
    /// When the replica last said something, or was first owed it.
    heard: Instant,
    silence_max: Duration,
    is_closed: bool,
}

fn node_info(welcome: &Welcome) -> NodeInfo {
    NodeInfo {
        replica: welcome.replica,
        replicas: welcome.replicas,
        port: 0,
        pid: welcome.pid,
        started_ms: welcome.started_ms,
        durability: if welcome.is_durable { "fsync" } else { "memory" },
        cluster: cluster_text(&welcome.cluster),
        memory_bytes_max: 0,
        allows_debug: false,
    }
}

impl Client {
    /// Connects to the cluster of the replicas at `addresses`, of which one suffices. `called_off` is asked some times per
    /// second.
    ///
    /// # Errors
    /// If no address answers, or the cluster is not one for this client.
    pub fn connect(
        addresses: &[String],
        service: &str,
        gateway: Box<dyn Gateway>,
        options: ClientOptions,
        called_off: &mut dyn FnMut() -> bool,
    ) -> Result<Client, ClientError> {
        Client::over(Box::new(Remote::new(addresses, service)?), gateway, options, called_off)
    }

    /// A client over `port`, once that is connected.
    ///
    /// # Errors
    /// As `connect`.
    pub fn over(
        mut port: Box<dyn Port>,
        gateway: Box<dyn Gateway>,
        options: ClientOptions,
        called_off: &mut dyn FnMut() -> bool,
    ) -> Result<Client, ClientError> {
        let deadline = Instant::now() + options.timeout;
        let mut events = Vec::new();
        let welcome = loop {
            port.exchange(&mut events, SLICE.min(deadline.saturating_duration_since(Instant::now())))?;
            // What came behind it is for the first turn.
            if let Some(PortEvent::Connected(welcome)) = (!events.is_empty()).then(|| events.remove(0)) {
                break welcome;
            }
            if let Some(trouble) = port.trouble() {
                return Err(ClientError::Unreachable(trouble));
            }
            if Instant::now() >= deadline {
                return Err(ClientError::Unreachable(format!("no answer within {:?}", options.timeout)));
            }
            if called_off() {
                return Err(ClientError::Interrupted);
            }
        };
        let topology = Topology::new(usize::from(welcome.groups), usize::from(welcome.streams));
        let proxy = ClientProxy::new(port.session(), welcome.replica, true, topology, options.proxy);
        Ok(Client {
            port,
            gateway,
            requests: Requests::new(proxy, node_info(&welcome)),
            issued: VecDeque::new(),
            events,
            timeout: options.timeout,
            time: (Instant::now(), welcome.time_ms),
            next_clock: Instant::now(),
            is_connected: true,
            heard: Instant::now(),
            silence_max: SILENCE_MIN,
            is_closed: false,
        })
    }

    /// The replica that answers, or answered last.
    pub fn replica(&self) -> u8 {
        self.requests.node.replica
    }

    /// The tables of the cluster.
    pub fn topology(&self) -> &Topology {
        self.requests.topology()
    }

    /// Whether a replica answers at present, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Readable when `turn` may have something to do: for event loops that wait for several clients.
    pub fn descriptor(&self) -> RawFd {
        self.port.descriptor()
    }

    /// How many requests have no reply yet.
    pub fn outstanding(&self) -> usize {
        self.issued.len()
    }

    /// Executes one request, in the gateway's protocol; gives the reply in that protocol.
    ///
    /// # Errors
    /// Why there is no reply; `ClientError::may_have_been_executed` says what that means.
    pub fn execute(&mut self, request: &[u8]) -> Result<Vec<u8>, ClientError> {
        self.execute_unless(request, &mut || false)
    }

    /// Executes one request. `called_off` is asked some times per second.
    ///
    /// # Errors
    /// As `execute`. After `Interrupted` the client can be used again.
    pub fn execute_unless(&mut self, request: &[u8], called_off: &mut dyn FnMut() -> bool) -> Result<Vec<u8>, ClientError> {
        self.forget();
        let mut reply = None;
        self.execute_all([request], called_off, |answer| reply = Some(answer))?;
        reply.unwrap_or(Err(ClientError::Closed))
    }

    /// Executes requests, many at a time; gives the replies in order. The call returns after the last reply.
    ///
    /// # Errors
    /// If the client cannot go on; requests without a reply then get none.
    pub fn execute_all<'a>(
        &mut self,
        requests: impl IntoIterator<Item = &'a [u8]>,
        called_off: &mut dyn FnMut() -> bool,
        mut each: impl FnMut(Result<Vec<u8>, ClientError>),
    ) -> Result<(), ClientError> {
        for request in requests {
            let deadline = Instant::now() + self.timeout;
            while !self.try_issue(request, deadline)? {
                self.wait_a_slice(called_off)?;
                self.take_all(&mut each);
            }
        }
        while !self.issued.is_empty() {
            self.take_all(&mut each);
            if !self.issued.is_empty() {
                self.wait_a_slice(called_off)?;
            }
        }
        Ok(())
    }

    fn take_all(&mut self, each: &mut impl FnMut(Result<Vec<u8>, ClientError>)) {
        while let Some(reply) = self.take() {
            each(reply);
        }
    }

    /// Waits until something happens, at most for a slice.
    fn wait_a_slice(&mut self, called_off: &mut dyn FnMut() -> bool) -> Result<(), ClientError> {
        let now = Instant::now();
        let until_due = self.issued.front().map_or(SLICE, |first| first.deadline.saturating_duration_since(now));
        self.turn(SLICE.min(until_due))?;
        if called_off() {
            return Err(ClientError::Interrupted);
        }
        Ok(())
    }

    /// Issues one request, whose reply `take` gives later. False: the client is full, `turn` first. Nothing is sent before
    /// `turn`.
    ///
    /// # Errors
    /// If the gateway does not understand it, or the client is closed. Nothing of it has been sent then.
    pub fn try_issue(&mut self, request: &[u8], deadline: Instant) -> Result<bool, ClientError> {
        if self.requests.is_full() && Instant::now() >= deadline {
            return Err(ClientError::NotSent);
        }
        match self.issue_some(request, deadline)? {
            0 => Ok(false),
            count if count == request.len() => Ok(true),
            _ => Err(self.close(ClientError::Request("it is more than one request".into()))),
        }
    }

    /// Issues requests for which there is room, whose replies `take` gives later as one; tells how many bytes they were.
    ///
    /// # Errors
    /// As `try_issue`.
    pub fn issue_some(&mut self, requests: &[u8], deadline: Instant) -> Result<usize, ClientError> {
        let count = self.issue(requests)?;
        if count > 0 {
            self.issued.push_back(Issued { end: self.requests.next(), deadline });
        }
        Ok(count)
    }

    /// Issues requests for which there is room, of a protocol in which each asks the service for one thing; `take` gives the
    /// reply to each. Tells how many bytes they were.
    ///
    /// # Errors
    /// As `try_issue`.
    pub fn issue_each(&mut self, requests: &[u8], deadline: Instant) -> Result<usize, ClientError> {
        let first = self.requests.next();
        let count = self.issue(requests)?;
        self.issued.extend((first..self.requests.next()).map(|number| Issued { end: number + 1, deadline }));
        Ok(count)
    }

    fn issue(&mut self, requests: &[u8]) -> Result<usize, ClientError> {
        if self.is_closed {
            return Err(ClientError::Closed);
        }
        if self.requests.is_out_of_memory {
            // What is refused here goes nowhere, and so hears of nothing: the replica may have told that it has room again.
            self.turn(Duration::ZERO)?;
        }
        if self.requests.is_full() || self.gateway.is_waiting() {
            return Ok(0);
        }
        if self.issued.is_empty() {
            self.heard = Instant::now();
        }
        let taken = self.gateway.on_input(requests, &mut self.requests);
        self.is_closed = self.gateway.wants_close();
        let count = match taken {
            Ok(count) => count,
            Err(last_words) => {
                let text = String::from_utf8_lossy(&last_words).trim_end().to_owned();
                return Err(self.close(ClientError::Request(text)));
            }
        };
        let may_take_more = !self.requests.is_full() && !self.gateway.is_waiting() && !self.is_closed;
        if count < requests.len() && may_take_more {
            return Err(self.close(ClientError::Request("it is not whole".into())));
        }
        Ok(count)
    }

    fn close(&mut self, error: ClientError) -> ClientError {
        self.is_closed = true;
        error
    }

    /// The reply to the first of the issued requests, if it is there, or its time is over.
    pub fn take(&mut self) -> Option<Result<Vec<u8>, ClientError>> {
        let first = self.issued.front()?;
        if Instant::now() >= first.deadline {
            self.requests.expire_before(first.end, &mut *self.gateway);
        }
        let reply = self.requests.take_before(first.end)?;
        self.issued.pop_front();
        Some(reply)
    }

    /// Gives up the requests that have no reply yet. They may be executed all the same.
    pub fn forget(&mut self) {
        if let Some(last) = self.issued.back() {
            self.requests.expire_before(last.end, &mut *self.gateway);
            self.requests.take_before(last.end);
            self.issued.clear();
        }
    }

    fn now_ms(&self) -> u64 {
        self.time.1 + self.time.0.elapsed().as_millis() as u64
    }

    /// Sends what there is to send, and waits until something comes back, at most for `wait`.
    ///
    /// # Errors
    /// If the client cannot go on.
    pub fn turn(&mut self, wait: Duration) -> Result<(), ClientError> {
        self.look_at_the_clock();
        self.send();
        let outcome = self.port.exchange(&mut self.events, wait);
        let mut events = std::mem::take(&mut self.events);
        events.drain(..).for_each(|event| self.on_event(event));
        self.events = events;
        if let Err(error) = outcome {
            self.is_closed = true;
            return Err(error);
        }
        self.requests.hand_over_waiting();
        if self.requests.has_news {
            self.send();
            return self.port.exchange(&mut self.events, Duration::ZERO);
        }
        Ok(())
    }

    fn send(&mut self) {
        let now_ms = self.now_ms();
        let Client { requests, port, .. } = self;
        requests.hand_over_waiting();
        // Reads first: a read is in its group before a later command can come there.
        requests.proxy.flush_reads(now_ms, |group, batch| port.send_reads(group, batch));
        requests.proxy.flush(now_ms, |log, batch| port.send_batch(log, batch));
        requests.on_sent();
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if now < self.next_clock {
            return;
        }
        self.next_clock = now + CLOCK;
        let mut unknown = Vec::new();
        self.requests.proxy.on_clock(self.now_ms(), |token, _| unknown.push(token));
        unknown.into_iter().for_each(|token| self.requests.on_answer(token, Answer::Unknown, &mut *self.gateway));
        let is_silent = now.saturating_duration_since(self.heard) > self.silence_max;
        if is_silent && self.is_connected && self.requests.awaits_answers() {
            self.port.suspect();
            self.is_connected = false;
            self.heard = now;
            self.silence_max = (self.silence_max * 2).min(SILENCE_MAX);
        }
    }

    fn on_event(&mut self, event: PortEvent) {
        self.heard = Instant::now();
        match event {
            PortEvent::Connected(welcome) => self.on_connected(&welcome),
            PortEvent::Lost => self.is_connected = false,
            PortEvent::LeaderChange(log) => {
                self.requests.proxy.on_leader_change(log);
                self.requests.has_news = true;
            }
            PortEvent::Memory { is_out } => self.requests.is_out_of_memory = is_out,
            PortEvent::Event(event) => {
                self.silence_max = SILENCE_MIN;
                self.on_fate(event);
            }
        }
    }

    fn on_connected(&mut self, welcome: &Welcome) {
        self.is_connected = true;
        self.time = (Instant::now(), self.now_ms().max(welcome.time_ms));
        self.requests.node = node_info(welcome);
        self.requests.is_out_of_memory = false;
        self.requests.proxy.on_new_origin(welcome.replica);
        self.requests.on_new_origin(&mut *self.gateway);
        self.requests.has_news = true;
    }

    fn on_fate(&mut self, event: Event) {
        let now_ms = self.now_ms();
        let Requests { proxy, .. } = &mut self.requests;
        // The proxy and the places are both part of the requests: answers are gathered first.
        let mut answers: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
        let gather = |token: u64, answer: Answer<'_>| match answer {
            Answer::Reply(reply) => answers.push((token, Some(reply.to_vec()))),
            Answer::Unknown => answers.push((token, None)),
        };
        match event {
            Event::Replies { group, numbering, first, replies, .. } => {
                proxy.on_replies(group, numbering, first, &replies, gather)
            }
            Event::Settled { group, numbering, last, .. } => proxy.on_settled(group, numbering, last, gather),
            Event::Refused { group, numbering, .. } => {
                proxy.on_refused(group, numbering, now_ms);
                self.requests.has_news = true;
            }
            Event::Reads { tokens, replies, .. } => {
                answers.extend(tokens.into_iter().zip(replies.iter().map(|reply| Some(reply.to_vec()))));
            }
            Event::ReadsLost { tokens, .. } => answers.extend(tokens.into_iter().map(|token| (token, None))),
            Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => {}
        }
        for (token, reply) in answers {
            let answer = reply.as_deref().map_or(Answer::Unknown, Answer::Reply);
            self.requests.on_answer(token, answer, &mut *self.gateway);
        }
    }
}
