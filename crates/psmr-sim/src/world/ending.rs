//! How a run ends: when everything has ended and all replicas have given equal digests; and what is checked then.

use super::World;
use crate::checker::linearizability;
use crate::history::{Kind, Outcome};
use crate::node::Live;
use psmr_core::command::{GroupId, ReplicaId};

impl World {
    pub(super) fn on_digest(
        &mut self,
        replica: ReplicaId,
        request: u64,
        cut: u64,
        group: GroupId,
        digest: u64,
    ) -> Result<(), String> {
        let (_, first, known) = *self.digests.entry((cut, group)).or_insert((cut, replica, digest));
        if known != digest {
            return Err(format!("digests of {group:?} at x[{cut}] differ: replicas {first} and {replica}"));
        }
        self.digest_count += u64::from(request == self.digest_request);
        Ok(())
    }

    pub(super) fn faults_are_over(&self) -> bool {
        self.now_us > self.plan.horizon_ms * 1_000
    }

    /// Everything was asked for and has ended.
    pub(super) fn is_idle(&self) -> bool {
        self.faults_are_over() && self.history.open == 0 && self.history.operations.len() >= self.plan.operations
    }

    pub(super) fn living(&self) -> impl Iterator<Item = (ReplicaId, &Live)> {
        self.sites.iter().zip(1..).filter_map(|(site, replica)| Some((replica, site.live.as_ref()?)))
    }

    /// The request for digests that a replica makes now: at the end, once a second, until all replicas have answered one.
    pub(super) fn asks_for_digest(&mut self, replica: ReplicaId) -> Option<u64> {
        let asker = self.living().next().map(|(replica, _)| replica);
        if !self.is_idle()
            || asker != Some(replica)
            || (self.digest_request > 0 && self.now_us < self.digest_asked_us + 1_000_000)
        {
            return None;
        }
        self.digest_request += 1;
        self.digest_count = 0;
        self.digest_asked_us = self.now_us;
        Some(self.digest_request)
    }

    pub(super) fn is_finished(&self) -> bool {
        let wanted = self.plan.groups * self.sites.len();
        self.digest_request > 0 && self.digest_count >= wanted as u64
    }

    pub(super) fn stuck(&self) -> String {
        let open = self.history.operations.iter().filter(|o| o.outcome == Outcome::Pending);
        let open: Vec<String> = open.take(4).map(|o| format!("{:?} {} on {:?}", o.kind, o.request.id, o.request.keys)).collect();
        let status: Vec<String> = self
            .living()
            .map(|(replica, live)| {
                let groups: Vec<(u64, u64)> = (0..self.plan.groups).map(|g| live.engine().delivered(GroupId(g as u8))).collect();
                let of = |s: &psmr_core::order::LogStatus| format!("{}:{}@{}/{}", s.id.0, s.role, s.term, s.committed);
                let logs: Vec<String> = live.order().status().iter().map(of).collect();
                format!("replica {replica}: logs {} delivered {groups:?}", logs.join(" "))
            })
            .collect();
        format!(
            "liveness: long after the last fault {} operations are outstanding ({}), {} parts of digest {} have come\n  {}",
            self.history.open,
            open.join("; "),
            self.digest_count,
            self.digest_request,
            status.join("\n  ")
        )
    }

    pub(super) fn check_at_end(&mut self) -> Result<(), String> {
        for (replica, live) in self.living() {
            for (group, (executed, chain)) in live.state().into_iter().enumerate() {
                let steps = self.witness.steps(group);
                let last = steps.last().map_or((0, 0), |step| (steps.len() as u64, step.chain));
                if (executed, chain) != last {
                    return Err(format!("replica {replica} ends with {executed} writes in group {group}, there were {}", last.0));
                }
            }
        }
        for operation in &self.history.operations {
            let reply = match &operation.outcome {
                Outcome::Replied(reply) => Some(reply),
                _ => None,
            };
            self.witness.check_at_end(operation, reply)?;
            let is_kept = !self.plan.gives_up() && !self.history.connections[operation.connection].closed;
            let lowest = operation.gamma().lowest();
            if is_kept
                && operation.kind == Kind::Write
                && lowest.is_some_and(|g| self.witness.place(g, operation.request.id).is_none())
            {
                return Err(format!(
                    "write {} was never executed, though its replica lives and it has not expired",
                    operation.request.id
                ));
            }
        }
        linearizability::check(&self.history, &self.witness, self.plan.groups)
    }
}
