//! What a client has asked for and not yet been told: one place per request, in order of issue.

use super::ClientError;
use crate::clock::wall_ms;
use psmr_core::client::{Answer, ClientProxy, ConnectionOrder};
use psmr_core::command::{GroupId, GroupSet};
use psmr_core::config::COMMAND_BYTES_MAX;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, NodeInfo, Sink};
use psmr_core::routing::Topology;
use std::collections::VecDeque;

/// Requests that may be without a reply at once.
const PLACES_MAX: usize = 16 << 10;

/// Bytes that are gathered before they have to be sent: reads with one more still fit a frame.
const GATHERED_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Command,
    OrderedRead,
    Read,
}

#[derive(Clone, Debug)]
struct Ask {
    gamma: GroupSet,
    kind: Kind,
    payload: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Not handed to the proxy yet: it depends on an outstanding command that another log orders, or follows one that does.
    Waiting(Ask),
    /// The proxy has it. Reads are kept, to be asked again.
    Sent(Option<Ask>),
    /// The reply, as the gateway wrote it.
    Answered(Vec<u8>),
    Failed(ClientError),
}

#[derive(Debug)]
struct Place {
    tag: u32,
    state: State,
}

/// See the module. It is the sink of the client's gateway.
pub(super) struct Requests {
    pub proxy: ClientProxy,
    pub node: NodeInfo,
    /// The replica takes no commands that need memory.
    pub is_out_of_memory: bool,
    order: ConnectionOrder,
    places: VecDeque<Place>,
    /// The number of the first place; numbers are the proxy's tokens.
    first: u64,
    /// Places that wait to be handed to the proxy, ascending.
    waiting: VecDeque<u64>,
    /// Per group, the number after that of the last command that the proxy was handed for it.
    last_command: Vec<u64>,
    gathered_bytes: usize,
    /// The proxy may have something to send.
    pub has_news: bool,
}

impl Requests {
    pub fn new(proxy: ClientProxy, node: NodeInfo) -> Requests {
        let groups = proxy.topology().groups;
        Requests {
            proxy,
            node,
            is_out_of_memory: false,
            order: ConnectionOrder::default(),
            places: VecDeque::new(),
            first: 0,
            waiting: VecDeque::new(),
            last_command: vec![0; groups],
            gathered_bytes: 0,
            has_news: false,
        }
    }

    /// The number of the next place.
    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Whether the replica owes an answer.
    pub fn awaits_answers(&self) -> bool {
        self.places.iter().any(|place| matches!(place.state, State::Sent(_)))
    }

    /// What was gathered has been sent.
    pub fn on_sent(&mut self) {
        self.gathered_bytes = 0;
        self.has_news = false;
    }

    fn add(&mut self, tag: u32, state: State) -> u64 {
        self.places.push_back(Place { tag, state });
        self.next() - 1
    }

    fn ask(&mut self, tag: u32, ask: Ask) {
        if ask.payload.len() > COMMAND_BYTES_MAX {
            let error = ClientError::TooLong { bytes: ask.payload.len(), max: COMMAND_BYTES_MAX };
            self.add(tag, State::Failed(error));
            return;
        }
        let number = self.add(tag, State::Waiting(ask));
        if !self.waiting.is_empty() || !self.hand_over(number) {
            self.waiting.push_back(number);
        }
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        self.places.get_mut(number.checked_sub(self.first)? as usize)
    }

    /// Hands a waiting request to the proxy. False: it has to wait on.
    fn hand_over(&mut self, number: u64) -> bool {
        let at = (number - self.first) as usize;
        let State::Waiting(ask) = &mut self.places[at].state else { return true };
        if ask.kind == Kind::Read {
            let group = ask.gamma.lowest().unwrap_or(GroupId(0));
            self.proxy.read(&self.order, group, &ask.payload, number);
        } else {
            let is_read = ask.kind == Kind::OrderedRead;
            if self.proxy.ordered(&mut self.order, ask.gamma, is_read, &ask.payload, number).is_err() {
                return false;
            }
        }
        self.gathered_bytes += ask.payload.len();
        self.has_news = true;
        let kept = if ask.kind == Kind::Command {
            ask.gamma.iter().for_each(|group| self.last_command[group.index()] = number + 1);
            None
        } else {
            Some(ask.clone())
        };
        self.places[at].state = State::Sent(kept);
        true
    }

    /// Hands over what can be handed over by now.
    pub fn hand_over_waiting(&mut self) {
        while let Some(number) = self.waiting.front().copied() {
            if number >= self.first && !self.hand_over(number) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// What became of a request.
    pub fn on_answer(&mut self, number: u64, answer: Answer<'_>, gateway: &mut dyn Gateway) {
        let Some(place) = self.place(number) else { return };
        let State::Sent(kept) = &mut place.state else { return };
        match answer {
            Answer::Reply(reply) => {
                let mut out = Vec::new();
                gateway.on_reply(place.tag, reply, &mut out);
                place.state = State::Answered(out);
            }
            Answer::Unknown => match kept.take() {
                Some(read) => self.ask_again(number, read, gateway),
                None => {
                    let why = "the replica was lost, and with it the reply";
                    self.fail(number, ClientError::OutcomeUnknown(why), gateway);
                }
            },
        }
    }

    /// A read has been lost. It can be asked again unless a later command may have executed before it does.
    fn ask_again(&mut self, number: u64, read: Ask, gateway: &mut dyn Gateway) {
        if read.gamma.iter().any(|group| self.last_command[group.index()] > number + 1) {
            return self.fail(number, ClientError::ReadOvertaken, gateway);
        }
        if let Some(place) = self.place(number) {
            place.state = State::Waiting(read);
            let at = self.waiting.partition_point(|other| *other < number);
            self.waiting.insert(at, number);
            self.has_news = true;
        }
    }

    /// Another replica answers from now on: reads that the one before had are asked again. Commands are the proxy's to send.
    pub fn on_new_origin(&mut self, gateway: &mut dyn Gateway) {
        for number in self.first..self.next() {
            let Some(Place { state: State::Sent(kept @ Some(_)), .. }) = self.place(number) else { continue };
            if let Some(read) = kept.take_if(|read| read.kind == Kind::Read) {
                self.ask_again(number, read, gateway);
            }
        }
    }

    fn fail(&mut self, number: u64, error: ClientError, gateway: &mut dyn Gateway) {
        let failure = if error.may_have_been_executed() { Failure::Unknown } else { Failure::Refused };
        if let Some(place) = self.place(number) {
            // The caller gets the error itself; what the gateway would tell a client of its protocol is of no use here.
            gateway.on_failure(place.tag, failure, &mut Vec::new());
            place.state = State::Failed(error);
        }
    }

    /// The time of the requests before `end` is over.
    pub fn expire_before(&mut self, end: u64, gateway: &mut dyn Gateway) {
        for number in self.first..end {
            let error = match self.place(number).map(|place| &place.state) {
                Some(State::Waiting(Ask { kind: Kind::Command, .. })) => ClientError::NotSent,
                Some(State::Waiting(_) | State::Sent(Some(_))) => ClientError::ReadTimeout,
                Some(State::Sent(None)) => ClientError::OutcomeUnknown("no answer in time"),
                _ => continue,
            };
            self.waiting.retain(|waiting| *waiting != number);
            self.fail(number, error, gateway);
        }
    }

    /// Takes the replies to the requests before `end` if all of them are there; the first error counts for all.
    pub fn take_before(&mut self, end: u64) -> Option<Result<Vec<u8>, ClientError>> {
        let count = (end - self.first) as usize;
        let is_open = |place: &Place| matches!(place.state, State::Waiting(_) | State::Sent(_));
        if self.places.iter().take(count).any(is_open) {
            return None;
        }
        let mut result = Ok(Vec::new());
        for place in self.places.drain(..count) {
            match (place.state, &mut result) {
                (State::Failed(error), Ok(_)) => result = Err(error),
                (State::Answered(reply), Ok(out)) if out.is_empty() => *out = reply,
                (State::Answered(reply), Ok(out)) => out.extend_from_slice(&reply),
                _ => {}
            }
        }
        self.first = end;
        Some(result)
    }
}

impl Sink for Requests {
    fn topology(&self) -> &Topology {
        self.proxy.topology()
    }

    fn node(&self) -> &NodeInfo {
        &self.node
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    fn is_out_of_memory(&self) -> bool {
        self.is_out_of_memory
    }

    /// The replica's connections are not known here.
    fn clients(&self) -> Vec<ClientInfo> {
        Vec::new()
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.add(0, State::Answered(bytes.to_vec()));
    }

    fn ordered(&mut self, gamma: GroupSet, read: bool, tag: u32, payload: &[u8]) {
        let kind = if read { Kind::OrderedRead } else { Kind::Command };
        self.ask(tag, Ask { gamma, kind, payload: payload.to_vec() });
    }

    fn read(&mut self, group: GroupId, tag: u32, payload: &[u8]) {
        self.ask(tag, Ask { gamma: GroupSet::one(group), kind: Kind::Read, payload: payload.to_vec() });
    }

    fn is_full(&self) -> bool {
        !self.waiting.is_empty()
            || self.places.len() >= PLACES_MAX
            || self.gathered_bytes >= GATHERED_BYTES_MAX
            || self.proxy.is_full()
    }
}
