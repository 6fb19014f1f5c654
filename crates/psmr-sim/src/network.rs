//! The network between replicas: one connection per pair, first in first out, that may break, stand still, or be impossible
//! for a while. What is sent on a broken connection is lost; what is sent on a whole one arrives.

use crate::random::{Purpose, Random};
use psmr_core::command::ReplicaId;
use std::collections::BTreeMap;

/// Two replicas, the lower one first.
pub type Pair = (ReplicaId, ReplicaId);

/// The pair of two replicas.
pub fn pair(a: ReplicaId, b: ReplicaId) -> Pair {
    (a.min(b), a.max(b))
}

#[derive(Debug, Default, Clone)]
struct Link {
    /// Counts connections; the present or last one.
    epoch: u64,
    up: bool,
    blocked_until_us: u64,
    stalled_until_us: u64,
    /// When the last frame comes to (the lower, the higher) replica.
    last_us: [u64; 2],
    /// When the last news of the connection comes to it.
    news_us: [u64; 2],
}

/// All links.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<Pair, Link>,
    random: Random,
    delay_us: (u64, u64),
}

/// Something that comes to a replica later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at_us: u64,
    /// Which connection of the pair.
    pub epoch: u64,
}

impl Network {
    /// A network without connections.
    pub fn new(seed: u64, replicas: ReplicaId, delay_us: (u64, u64)) -> Network {
        let pairs = (1..=replicas).flat_map(|a| (a + 1..=replicas).map(move |b| (a, b)));
        let links = pairs.map(|pair| (pair, Link::default())).collect();
        Network { links, random: Random::new(seed, Purpose::Network), delay_us }
    }

    /// All pairs.
    pub fn pairs(&self) -> Vec<Pair> {
        self.links.keys().copied().collect()
    }

    fn delay(&mut self) -> u64 {
        let (low, high) = self.delay_us;
        // Most delays are short, some are long.
        let high = if self.random.chance(85) { low + (high - low) / 5 } else { high };
        self.random.within(low..=high)
    }

    /// The connection of a pair is whole, and this one.
    pub fn is_up(&self, pair: Pair, epoch: u64) -> bool {
        self.links.get(&pair).is_some_and(|link| link.up && link.epoch == epoch)
    }

    /// Whether the pair has a connection.
    pub fn is_connected(&self, pair: Pair) -> bool {
        self.links.get(&pair).is_some_and(|link| link.up)
    }

    /// When something that is sent now on connection `epoch` arrives. `None`: that connection is broken.
    pub fn send(&mut self, now_us: u64, from: ReplicaId, to: ReplicaId, epoch: u64) -> Option<Arrival> {
        let delay = self.delay();
        let link = self.links.get_mut(&pair(from, to))?;
        if !link.up || link.epoch != epoch {
            return None;
        }
        let start = now_us.max(link.stalled_until_us);
        let last = &mut link.last_us[usize::from(to > from)];
        *last = (start + delay).max(*last + 1);
        Some(Arrival { at_us: *last, epoch })
    }

    /// Breaks the connection of a pair. Returns when the lower and the higher one learn of it, each within `notice_us_max`.
    /// `None` if there is no connection.
    pub fn break_link(&mut self, now_us: u64, pair: Pair, notice_us_max: u64) -> Option<[Arrival; 2]> {
        let notices = [0, 1].map(|_| self.random.within(0..=notice_us_max));
        let link = self.links.get_mut(&pair)?;
        if !link.up {
            return None;
        }
        link.up = false;
        Some([0, 1].map(|side| {
            // Frames that were on their way are lost, so the news does not wait for them, but for earlier news.
            link.news_us[side] = (now_us + notices[side]).max(link.news_us[side] + 1);
            Arrival { at_us: link.news_us[side], epoch: link.epoch }
        }))
    }

    /// Connects a pair. Returns when the lower and the higher one learn of it. `None` if that is impossible now.
    pub fn connect(&mut self, now_us: u64, pair: Pair) -> Option<[Arrival; 2]> {
        let delays = [self.delay(), self.delay()];
        let link = self.links.get_mut(&pair)?;
        if link.up || link.blocked_until_us > now_us {
            return None;
        }
        link.up = true;
        link.epoch += 1;
        link.stalled_until_us = 0;
        Some([0, 1].map(|side| {
            link.news_us[side] = (now_us + delays[side]).max(link.news_us[side] + 1);
            link.last_us[side] = link.news_us[side];
            Arrival { at_us: link.news_us[side], epoch: link.epoch }
        }))
    }

    /// When to try to connect again.
    pub fn backoff_us(&mut self) -> u64 {
        self.random.within(20_000..=300_000)
    }

    /// The pair cannot connect for a while.
    pub fn block(&mut self, pair: Pair, until_us: u64) {
        if let Some(link) = self.links.get_mut(&pair) {
            link.blocked_until_us = link.blocked_until_us.max(until_us);
        }
    }

    /// Frames of the pair stand still for a while.
    pub fn stall(&mut self, pair: Pair, until_us: u64) {
        if let Some(link) = self.links.get_mut(&pair) {
            link.stalled_until_us = link.stalled_until_us.max(until_us);
        }
    }
}
