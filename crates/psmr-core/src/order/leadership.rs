//! Who leads: spread over the replicas, moved on failure and lag, and returned when all is well again. Also the clocks, since
//! a leader's stamps are bounded by what the others' clocks say.

use super::Order;
use crate::command::{LogId, ReplicaId};
use crate::message::Report;

/// What is known of a peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Whether frames reach it (always, for the replica itself).
    pub connected: bool,
    /// Bit i: it is connected to replica i.
    reach: u64,
    /// Its clock minus ours, in milliseconds, when its last report came.
    offset_ms: i64,
    /// What it had committed, per log, and when it said so: the oldest such report that we may still lag behind.
    ahead_since: Option<(u64, Vec<u64>)>,
    /// What it had committed, per log, when the last report came.
    committed: Vec<u64>,
    /// How far all its groups had delivered the cross log then.
    pub cross_delivered: u64,
    /// When the last report came.
    reported_tick: u64,
    /// Since which tick the log at this position is in a state to be led by this peer again.
    ready_since: Vec<Option<u64>>,
}

impl Peer {
    /// What it had committed in a log when its last report came; 0 if there was none.
    pub fn committed_in(&self, at: usize) -> u64 {
        self.committed.get(at).copied().unwrap_or(0)
    }

    /// It has lost its memory.
    pub fn forget_committed(&mut self) {
        self.committed.fill(0);
    }
}

/// Entries that a replica may be behind in a log and still count as up to date: under load somebody always is.
const BEHIND_MAX: u64 = 128;

/// How many election timeouts a preferred leader has to be well before it is given its log again.
const RETURN_AFTER_ELECTIONS: u64 = 2;

impl Order {
    /// The replicas that this one is connected to, itself included.
    pub(super) fn reach(&self) -> u64 {
        self.peers.iter().enumerate().filter(|(_, p)| p.connected).map(|(at, _)| 2 << at).sum()
    }

    /// A peer's report has come.
    pub(super) fn on_report(&mut self, from: ReplicaId, report: Report) {
        let (tick, now_ms, log_count) = (self.tick, self.now_ms, self.logs.len());
        if report.positions.len() != log_count {
            return;
        }
        let cross_delivered = report.positions[self.engine.topology.streams].delivered;
        let committed: Vec<u64> = report.positions.iter().map(|p| p.committed).collect();
        for (at, target) in self.catch_up_targets.iter_mut().enumerate() {
            if self.logs[at].leader() == from {
                target.get_or_insert(committed[at]);
            }
        }
        let caught_up = |then: &Vec<u64>| self.logs.iter().zip(then).all(|(log, theirs)| log.committed >= *theirs);
        let keeps_mark = self.peers[usize::from(from) - 1].ahead_since.as_ref().is_some_and(|(_, then)| !caught_up(then));
        let peer = self.peer_mut(from);
        peer.reach = report.reach;
        peer.offset_ms = (report.clock_ms as i64).saturating_sub(now_ms as i64);
        peer.reported_tick = tick;
        peer.committed.clone_from(&committed);
        peer.cross_delivered = cross_delivered;
        if !keeps_mark {
            peer.ahead_since = Some((tick, committed));
        }
    }

    /// The stamp for entries made now: the own clock, but not far beyond the median of the replicas' clocks.
    pub(super) fn stamp_ms(&self) -> u64 {
        let mut offsets: Vec<i64> = self.peers.iter().filter(|p| p.connected).map(|p| p.offset_ms).collect();
        offsets.sort_unstable();
        let median = offsets.get(offsets.len() / 2).copied().unwrap_or(0);
        let bound = (self.now_ms as i64 + self.config.clock_lead_ms_max as i64).saturating_add(median);
        self.now_ms.min(bound.max(0) as u64)
    }

    /// Once per tick: stands for elections that are due, and hands on leaderships that are better elsewhere.
    pub(super) fn lead(&mut self) {
        self.stand_for_orphans();
        match self.better_connected_peer() {
            Some(peer) => self.hand_over_everything(peer),
            None => self.return_leaderships(),
        }
    }

    /// The connection to `replica` broke: its logs need not wait for a whole election timeout. This replica forgets at once
    /// who led them, so that it does not hold to the leader's lease when another one stands; the vote of the term stays.
    pub(super) fn on_leader_gone(&mut self, replica: ReplicaId) {
        for at in 0..self.logs.len() {
            if self.logs[at].leader() == replica {
                let rank = self.config.rank(self.config.me, LogId(at as u8));
                let term = self.logs[at].term();
                self.logs[at].node.raft.become_follower(term, 0);
                self.logs[at].stand_at_tick = Some(self.tick + 1 + 3 * u64::from(rank));
            }
        }
    }

    fn stand_for_orphans(&mut self) {
        for log in &mut self.logs {
            let Some(at) = log.stand_at_tick else { continue };
            let leader = log.leader();
            if log.is_leader() || (leader != 0 && self.peers[usize::from(leader) - 1].connected) {
                log.stand_at_tick = None;
            } else if at <= self.tick && !log.is_restarting() {
                log.stand_at_tick = None;
                let term = log.term();
                // Forgets the leader, so that the library does not hold to its lease; the vote of the term stays.
                log.node.raft.become_follower(term, 0);
                let _ = log.node.campaign();
            }
        }
    }

    /// A connected peer that, an election timeout ago, had more of some log than we have now (a bridge between us and that
    /// log's leader): it serves better as a leader.
    fn better_connected_peer(&self) -> Option<ReplicaId> {
        if !self.logs.iter().any(|log| log.is_leader()) {
            return None;
        }
        let timeout = u64::from(self.config.election_ticks);
        let lags = |then: &[u64]| self.logs.iter().zip(then).any(|(log, theirs)| log.committed < *theirs);
        let is_better = |peer: &super::Peer, id: ReplicaId| {
            peer.connected
                && self.membership.is_established_peer(id)
                && self.tick - peer.reported_tick < timeout
                && peer.ahead_since.as_ref().is_some_and(|(since, then)| self.tick - since >= timeout && lags(then))
        };
        let peers = self.peers.iter().zip(1..).filter(|(_, id)| *id != self.config.me);
        peers.filter(|(peer, id)| is_better(peer, *id)).max_by_key(|(peer, _)| peer.reach.count_ones()).map(|(_, id)| id)
    }

    fn hand_over_everything(&mut self, to: ReplicaId) {
        for log in self.logs.iter_mut().filter(|log| log.is_leader()) {
            log.node.transfer_leader(u64::from(to));
        }
    }

    /// Gives a log back to its preferred leader, once that has been connected as well as we are, and has had the whole log,
    /// for some election timeouts.
    fn return_leaderships(&mut self) {
        let reach = self.reach();
        for at in 0..self.logs.len() {
            let preferred = self.config.preferred_leader(LogId(at as u8));
            if preferred == self.config.me || !self.logs[at].is_leader() {
                continue;
            }
            let raft = &self.logs[at].node.raft;
            let committed = raft.raft_log.committed;
            let has_log = raft.prs().get(u64::from(preferred)).is_some_and(|p| p.matched + BEHIND_MAX >= committed);
            let ours: Vec<u64> = self.logs.iter().map(|log| log.committed).collect();
            let (tick, timeout) = (self.tick, u64::from(self.config.election_ticks));
            let count = self.logs.len();
            let is_established = self.membership.is_established_peer(preferred);
            let peer = self.peer_mut(preferred);
            // Behind in another log it would hand this one over again.
            let is_behind = ours.iter().zip(&peer.committed).any(|(ours, theirs)| theirs.saturating_add(BEHIND_MAX) < *ours);
            let well = peer.connected
                && is_established
                && has_log
                && !is_behind
                && peer.reach & reach == reach
                && tick - peer.reported_tick < timeout;
            peer.ready_since.resize(count, None);
            if !well {
                peer.ready_since[at] = None;
            } else if tick - *peer.ready_since[at].get_or_insert(tick) >= RETURN_AFTER_ELECTIONS * timeout {
                peer.ready_since[at] = None;
                self.logs[at].node.transfer_leader(u64::from(preferred));
            }
        }
    }
}
