//! Lives of replicas and connections: starts, crashes, pauses, partitions.

use super::{World, TICK_US};
use crate::history::Home;
use crate::network::{pair, Pair};
use crate::node::Live;
use crate::plan::Fault;
use crate::service::mix;
use crate::world::event::Event;
use psmr_core::command::ReplicaId;

impl World {
    pub(super) fn start(&mut self, replica: ReplicaId, falls_back: bool) -> Result<(), String> {
        let plan = &self.plan;
        let site = &mut self.sites[usize::from(replica) - 1];
        if site.live.is_some() {
            return Ok(());
        }
        site.incarnations += 1;
        let life = site.incarnations;
        let live = Live::start(plan, replica, life, &mut site.disk, falls_back);
        site.live = Some(live.map_err(|e| format!("replica {replica} does not start: {e}"))?);
        self.log(|| format!("replica {replica}: starts, life {life}"));
        self.start_sync(replica);
        let phase_us = self.schedule.within(1..=TICK_US);
        self.after(phase_us, Event::Tick(replica, life));
        for peer in (1..=self.plan.replicas).filter(|peer| *peer != replica) {
            let backoff_us = self.network.backoff_us() / 4;
            self.after(backoff_us, Event::Connect(pair(replica, peer)));
        }
        for _ in 0..self.plan.connections {
            let connection = self.history.connect(Home { replica, life });
            let wait_us = self.history.random().within(100_000..=900_000);
            self.after(wait_us, Event::Client(connection));
        }
        Ok(())
    }

    /// Whether a replica can lose its memory without a majority (of two: both) being without it.
    fn may_forget(&self, replica: ReplicaId) -> bool {
        let others = (1..).zip(&self.sites).filter(|(other, _)| *other != replica);
        let without = others.filter(|(_, site)| !site.disk.is_established()).count();
        let replicas = self.sites.len();
        replicas > 1 && without < ((replicas - 1) / 2).max(1)
    }

    /// Ends a replica, and its memory if `forgets`, or if it has no disk. False: it is not running, or must not forget.
    pub(super) fn crash(&mut self, replica: ReplicaId, keeps_percent: u64, forgets: bool) -> bool {
        let forgets = forgets || !self.plan.durable;
        if forgets && !self.may_forget(replica) {
            return false;
        }
        let seed = self.plan.seed;
        let site = self.site(replica);
        if site.live.take().is_none() {
            return false;
        }
        site.paused = false;
        site.deferred.clear();
        site.disk.crash(keeps_percent);
        if forgets {
            site.disk.empty(mix(seed, u64::from(replica) << 32 | site.incarnations) | 1);
        }
        site.syncing = false;
        let life = site.incarnations;
        self.report.crashes += 1;
        for peer in (1..=self.plan.replicas).filter(|peer| *peer != replica) {
            self.break_link(pair(replica, peer), 5_000);
        }
        let gone = Home { replica, life };
        let connections: Vec<usize> =
            (0..self.history.connections.len()).filter(|at| self.history.connections[*at].home == gone).collect();
        connections.into_iter().for_each(|at| self.history.close(at, self.now_us));
        true
    }

    pub(super) fn resume(&mut self, replica: ReplicaId) {
        let site = self.site(replica);
        if !std::mem::replace(&mut site.paused, false) {
            return;
        }
        let deferred = std::mem::take(&mut site.deferred);
        deferred.into_iter().for_each(|event| self.after(0, event));
    }

    pub(super) fn on_fault(&mut self, at: usize) -> Result<(), String> {
        let fault = self.plan.faults[at].1.clone();
        self.log(|| format!("fault: {fault:?}"));
        let now_us = self.now_us;
        match fault {
            Fault::Crash { replica, down_ms, keeps_percent, falls_back } => {
                if self.crash(replica, keeps_percent, false) {
                    self.after(down_ms * 1_000, Event::Restart { replica, falls_back });
                }
            }
            Fault::Empty { replica, down_ms } => {
                if self.crash(replica, 0, true) {
                    self.after(down_ms * 1_000, Event::Restart { replica, falls_back: false });
                }
            }
            Fault::Pause { replica, for_ms } => {
                self.site(replica).paused = true;
                self.after(for_ms * 1_000, Event::Resume(replica));
            }
            Fault::Reset { pair } => self.break_link(pair, 3_000),
            Fault::Partition { pairs, for_ms } => {
                for pair in pairs {
                    self.network.block(pair, now_us + for_ms * 1_000);
                    self.break_link(pair, 1_500_000);
                }
            }
            Fault::Stall { pair, for_ms } => self.network.stall(pair, now_us + for_ms * 1_000),
            Fault::Clock { replica, by_ms } => self.site(replica).skew_ms += by_ms,
            Fault::Disk { replica, slower_ms, for_ms } => {
                let site = self.site(replica);
                (site.slow_until_us, site.slower_us) = (now_us + for_ms * 1_000, slower_ms * 1_000);
            }
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, pair: Pair) {
        let both = [pair.0, pair.1].map(|r| self.site(r).live.is_some() && !self.site(r).paused);
        if self.network.is_connected(pair) {
            return;
        }
        let arrivals = if both == [true, true] { self.network.connect(self.now_us, pair) } else { None };
        let Some(arrivals) = arrivals else {
            let backoff_us = self.network.backoff_us();
            return self.after(backoff_us, Event::Connect(pair));
        };
        for (arrival, (replica, peer)) in arrivals.into_iter().zip([pair, (pair.1, pair.0)]) {
            let (life, connected) = (self.site(replica).incarnations, Some(self.site(peer).disk.identity.incarnation));
            self.at(arrival.at_us, Event::Peer { replica, life, peer, epoch: arrival.epoch, connected });
        }
    }

    pub(super) fn break_link(&mut self, pair: Pair, notice_us_max: u64) {
        let Some(arrivals) = self.network.break_link(self.now_us, pair, notice_us_max) else { return };
        for (arrival, (replica, peer)) in arrivals.into_iter().zip([pair, (pair.1, pair.0)]) {
            let life = self.site(replica).incarnations;
            self.at(arrival.at_us, Event::Peer { replica, life, peer, epoch: arrival.epoch, connected: None });
        }
        let backoff_us = self.network.backoff_us();
        self.after(backoff_us, Event::Connect(pair));
    }
}
