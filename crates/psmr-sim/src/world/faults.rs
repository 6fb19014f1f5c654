//! Lives of replicas and connections: starts, crashes, pauses, partitions.

use super::{World, TICK_US};
use crate::history::Home;
use crate::network::{pair, Pair};
use crate::node::Live;
use crate::plan::Fault;
use crate::world::event::Event;
use psmr_core::command::ReplicaId;

impl World {
    pub(super) fn start(&mut self, replica: ReplicaId, falls_back: bool) -> Result<(), String> {
        let plan = &self.plan;
        let site = &mut self.sites[usize::from(replica) - 1];
        if site.live.is_some() || site.lost {
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

    pub(super) fn crash(&mut self, replica: ReplicaId, keeps_percent: u64) {
        let durable = self.plan.durable;
        let site = self.site(replica);
        if site.live.take().is_none() {
            return;
        }
        site.paused = false;
        site.deferred.clear();
        site.disk.crash(keeps_percent);
        site.lost = !durable;
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
                self.crash(replica, keeps_percent);
                self.after(down_ms * 1_000, Event::Restart { replica, falls_back });
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
        if self.network.is_connected(pair) || self.sites[usize::from(pair.0) - 1].lost || self.sites[usize::from(pair.1) - 1].lost
        {
            return;
        }
        let arrivals = if both == [true, true] { self.network.connect(self.now_us, pair) } else { None };
        let Some(arrivals) = arrivals else {
            let backoff_us = self.network.backoff_us();
            return self.after(backoff_us, Event::Connect(pair));
        };
        for (arrival, (replica, peer)) in arrivals.into_iter().zip([pair, (pair.1, pair.0)]) {
            let incarnation = self.site(replica).incarnations;
            self.at(arrival.at_us, Event::Peer { replica, incarnation, peer, epoch: arrival.epoch, connected: true });
        }
    }

    pub(super) fn break_link(&mut self, pair: Pair, notice_us_max: u64) {
        let Some(arrivals) = self.network.break_link(self.now_us, pair, notice_us_max) else { return };
        for (arrival, (replica, peer)) in arrivals.into_iter().zip([pair, (pair.1, pair.0)]) {
            let incarnation = self.site(replica).incarnations;
            self.at(arrival.at_us, Event::Peer { replica, incarnation, peer, epoch: arrival.epoch, connected: false });
        }
        let backoff_us = self.network.backoff_us();
        self.after(backoff_us, Event::Connect(pair));
    }
}
