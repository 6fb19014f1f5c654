//! Clients: what they ask for, and what they are answered.

use super::World;
use crate::history::{Home, Kind, Outcome};
use crate::service::{mix, Key, Reply, Request};
use crate::world::event::Event;
use psmr_core::command::{GroupId, ReplicaId};
use psmr_core::planted::Planted;

/// A token is an operation's id, and above these bits the part of it that was issued by itself (from 1), if it was split.
const PART_SHIFT: u32 = 32;

impl World {
    pub(super) fn on_client(&mut self, connection: usize) -> Result<(), String> {
        if self.history.connections[connection].closed || self.history.operations.len() >= self.plan.operations {
            return Ok(());
        }
        let burst = self.history.random().within(1..=3);
        for _ in 0..burst {
            if self.history.connections[connection].open < self.plan.depth {
                self.history.invoke(connection, self.now_us);
            }
        }
        self.offer(connection);
        let think_us = self.think_us();
        self.after(think_us, Event::Client(connection));
        Ok(())
    }

    /// Operations are spread over the time in which faults happen.
    pub(super) fn think_us(&mut self) -> u64 {
        let connections = (self.plan.connections * usize::from(self.plan.replicas)) as u64;
        let mean_us = self.plan.horizon_ms * 1_000 * connections / self.plan.operations as u64;
        self.history.random().within(0..=2 * mean_us.max(1_000))
    }

    pub(super) fn offer_all(&mut self, replica: ReplicaId) {
        let home = Home { replica, life: self.site(replica).incarnations };
        for connection in 0..self.history.connections.len() {
            let c = &self.history.connections[connection];
            if c.home == home && !c.closed && !c.waiting.is_empty() {
                self.offer(connection);
            }
        }
    }

    /// Gives the proxy what the connection has asked for, as far as it takes it.
    pub(super) fn offer(&mut self, connection: usize) {
        let Home { replica, life } = self.history.connections[connection].home;
        let loose = self.plan.planted == Some(Planted::LooseMultiGroupRead);
        let site = &mut self.sites[usize::from(replica) - 1];
        let Some(live) = site.live.as_mut().filter(|live| live.incarnation == life) else { return };
        let mut taken = false;
        while let Some(id) = self.history.connections[connection].waiting.front().copied() {
            let operation = &mut self.history.operations[id];
            let order = &mut self.history.connections[connection].order;
            let payload = operation.request.encode();
            let gamma = operation.request.gamma();
            match operation.kind {
                Kind::Read => gamma.iter().for_each(|group| live.read(order, group, &payload, id as u64)),
                Kind::OrderedRead if loose => {
                    for (part, request) in split(&operation.request).into_iter().enumerate() {
                        operation.parts.push(None);
                        let token = (part as u64 + 1) << PART_SHIFT | id as u64;
                        request.gamma().iter().for_each(|group| live.read(order, group, &request.encode(), token));
                    }
                }
                kind => {
                    if live.ordered(order, gamma, kind == Kind::OrderedRead, &payload, id as u64).is_err() {
                        break;
                    }
                }
            }
            self.history.connections[connection].waiting.pop_front();
            taken = true;
            if self.trace {
                let o = &self.history.operations[id];
                println!(
                    "{:>12.6} connection {connection} issues {:?} {id} on {:?}",
                    self.now_us as f64 / 1e6,
                    o.kind,
                    o.request.keys
                );
            }
        }
        if taken {
            self.want_turn(replica);
        }
    }

    pub(super) fn on_answer(&mut self, token: u64, reply: Option<&[u8]>) -> Result<(), String> {
        let (id, part) = ((token & ((1 << PART_SHIFT) - 1)) as usize, (token >> PART_SHIFT) as usize);
        self.log(|| format!("operation {id} is answered: {}", if reply.is_some() { "reply" } else { "unknown" }));
        let reply = reply.map(Reply::decode).transpose().map_err(|e| format!("operation {id}: {e}"))?;
        self.report.hash = mix(self.report.hash, token);
        let Some(mut reply) = reply else {
            if self.plan.faults.is_empty() && !self.plan.gives_up() {
                return Err(format!("operation {id}: its outcome is not known, though nothing went wrong"));
            }
            self.report.unknown += u64::from(self.history.end(id, Outcome::Unknown, self.now_us));
            return Ok(());
        };
        if part > 0 {
            let parts = &mut self.history.operations[id].parts;
            parts[part - 1] = Some(reply);
            let Some(all) = parts.iter().cloned().collect::<Option<Vec<Reply>>>() else { return Ok(()) };
            reply = join(all);
        }
        let operation = &self.history.operations[id];
        self.witness.check_reply(operation, &reply)?;
        let crosses = {
            let gamma = operation.gamma();
            gamma.len() > 1
                && gamma
                    .iter()
                    .any(|g| g.index() % self.plan.streams != gamma.lowest().map_or(0, |l| l.index()) % self.plan.streams)
        };
        self.report.cross_commands += u64::from(crosses);
        if operation.request.expected.is_some() {
            self.report.conditional[usize::from(operation.request.applies(&reply.cells))] += 1;
        }
        self.report.answered += u64::from(self.history.end(id, Outcome::Replied(reply), self.now_us));
        Ok(())
    }
}

/// A read of several groups as reads of one group each.
fn split(request: &Request) -> Vec<Request> {
    let keys_of = |group: GroupId| request.keys.iter().filter(|key| key.group == group).copied().collect::<Vec<Key>>();
    request.gamma().iter().map(|group| Request { keys: keys_of(group), ..request.clone() }).collect()
}

/// The answers to `split`, as one.
fn join(parts: Vec<Reply>) -> Reply {
    let now_ms = parts.iter().map(|part| part.now_ms).max().unwrap_or(0);
    let places = parts.iter().flat_map(|part| part.places.clone()).collect();
    Reply { now_ms, places, cells: parts.into_iter().flat_map(|part| part.cells).collect() }
}
