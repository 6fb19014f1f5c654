//! Peers that come, go, and come back without their memory; and this replica's own way back if it has lost its own.

use super::Order;
use crate::command::ReplicaId;
use crate::message::{Frame, Greeting, Place};

impl Order {
    /// The replica's identity.
    pub fn identity(&self) -> &super::Identity {
        self.membership.identity()
    }

    /// A peer has become reachable. `incarnation` is that of its identity.
    pub fn on_connected(&mut self, replica: ReplicaId, incarnation: u64) {
        self.peer_mut(replica).connected = true;
        if self.membership.on_connected(replica, incarnation) {
            self.logs.iter_mut().for_each(|log| log.forget_promises(replica));
            self.peer_mut(replica).forget_committed();
        }
        self.logs.iter_mut().filter(|log| log.is_leader()).for_each(|log| log.on_listening(replica, true));
        self.greet(replica);
    }

    /// A peer cannot be reached any more.
    pub fn on_disconnected(&mut self, replica: ReplicaId) {
        self.peer_mut(replica).connected = false;
        self.membership.on_disconnected(replica);
        self.frames[usize::from(replica) - 1] = Frame::default();
        for log in &mut self.logs {
            if log.is_leader() {
                log.on_listening(replica, false);
            }
            log.node.report_unreachable(u64::from(replica));
            if log.held_snapshot.as_ref().is_some_and(|m| m.from == u64::from(replica)) {
                log.held_snapshot = None;
            }
        }
        self.on_leader_gone(replica);
    }

    pub(super) fn on_greeting(&mut self, from: ReplicaId, greeting: &Greeting) {
        if self.membership.on_greeting(from, greeting) {
            self.logs.iter_mut().filter(|log| log.is_leader()).for_each(|log| log.on_listening(from, true));
        }
        if let Some(bounds) = self.membership.take_bounds() {
            self.logs.iter_mut().zip(bounds).for_each(|(log, term)| log.vote_only_after(term));
        }
        if greeting.asks {
            let places = self.logs.iter().map(|log| log.place()).collect();
            self.frames[usize::from(from) - 1].greeting = Some(self.membership.greeting(places));
        }
    }

    /// Once per turn: becomes a full member if all is there, and tells the others what has changed.
    pub(super) fn settle_membership(&mut self) {
        if !self.membership.is_established() {
            let logs = &self.logs;
            let places: Vec<Place> = logs.iter().map(|log| log.place()).collect();
            self.membership.note_targets(&places);
            self.membership.on_caught_up(|log| if logs[log].is_settled() { logs[log].committed } else { 0 });
        }
        if self.membership.take_news() {
            self.greet_all();
        }
    }

    /// Once per heartbeat, as this replica rejoins: what it asked for may be lost, and goes on.
    pub(super) fn ask_for_places(&mut self) {
        if self.membership.asks() {
            self.greet_all();
        }
    }

    fn greet_all(&mut self) {
        let connected = |replica: &ReplicaId| *replica != self.config.me && self.peers[usize::from(*replica) - 1].connected;
        let replicas: Vec<ReplicaId> = (1..=self.config.replicas).filter(connected).collect();
        replicas.into_iter().for_each(|replica| self.greet(replica));
    }

    fn greet(&mut self, replica: ReplicaId) {
        self.frames[usize::from(replica) - 1].greeting = Some(self.membership.greeting(Vec::new()));
    }
}
