//! Who may take part. A replica counts by what it remembers: whoever has lost that is another *incarnation*, and must neither
//! vote nor promise anything in the place of the one before it until it knows all that one may have promised.
//!
//! ```text
//!            replica 1 has counted all, all of them fresh        (at once in a cluster of one)
//!   Fresh ------------------------------------------------------> Established
//!     |                                                              ^
//!     | an established replica's founding set has another            | every log is committed here as far as
//!     | incarnation in this one's place                              | a leader had it who knows of this incarnation
//!     +--> Rejoining: gathers ------> takes part, without a vote ----+
//! ```
//!
//! Gathering has two rounds. First every other replica hears of the new incarnation and forgets what it counted for the one
//! before: from then on nothing new can be decided by old promises. Then enough established replicas tell their terms that
//! every quorum the old incarnation was in has a member among them: the highest of the terms bounds all it can have voted in.
//! Leaders of later terms have whatever it helped to commit, so that a log which has caught up with one is as good as the lost one.

use crate::command::ReplicaId;
use crate::message::{Greeting, Place};
use crate::planted::{Planted, PlantedErrors};

/// How far a replica has come in belonging to its cluster. It is durable before the replica acts by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has promised nothing yet.
    Fresh {
        /// The incarnation of replica 1 that may count this replica in when it founds the cluster; no other's founding
        /// counts. 0: none.
        founder: u64,
    },
    /// Another incarnation was in its place; it has to learn first.
    Rejoining,
    /// It is a full member.
    Established {
        /// The incarnations of all replicas at the founding, replica 1 first.
        founding: Vec<u64>,
    },
}

/// What a replica must remember of itself, beside its logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A random number, not 0, drawn when the replica's memory began.
    pub incarnation: u64,
    /// How far it has come.
    pub standing: Standing,
}

impl Identity {
    /// That of a replica whose memory begins now.
    pub fn fresh(incarnation: u64) -> Identity {
        Identity { incarnation, standing: Standing::Fresh { founder: 0 } }
    }
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// 0: it was never connected.
    incarnation: u64,
    /// What it said on the present connection.
    standing: Option<Standing>,
    takes_part: bool,
    /// It has heard of this incarnation: it said something on a connection to it.
    heard: bool,
    /// Its terms, told after all had heard.
    terms: Option<Vec<u64>>,
}

/// The standing of one replica, and what it knows of the others'.
pub(super) struct Membership {
    me: ReplicaId,
    identity: Identity,
    peers: Vec<Peer>,
    /// As it rejoins: per log, the highest term of those gathered.
    bounds: Option<Vec<u64>>,
    /// The owner has to heed new bounds.
    is_bound_anew: bool,
    /// Per log, what has to be committed here.
    targets: Vec<Option<u64>>,
    /// The identity is to be made durable.
    is_changed: bool,
    /// The others are to be told.
    has_news: bool,
}

impl Membership {
    pub fn new(me: ReplicaId, replicas: u8, logs: usize, identity: Identity, planted: PlantedErrors) -> Membership {
        let peers = vec![Peer::default(); usize::from(replicas)];
        let mut membership = Membership {
            me,
            identity,
            peers,
            bounds: None,
            is_bound_anew: false,
            targets: vec![None; logs],
            is_changed: false,
            has_news: false,
        };
        if planted.is(Planted::VoteWithoutMemory) {
            membership.change_to(Standing::Established { founding: Vec::new() });
        }
        membership.advance();
        membership
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn is_established(&self) -> bool {
        matches!(self.identity.standing, Standing::Established { .. })
    }

    /// Whether it steps its Raft nodes.
    pub fn takes_part(&self) -> bool {
        self.is_established() || self.bounds.is_some()
    }

    /// Whether it may vote and stand. Of two replicas the other one has everything that was ever committed, and nobody is elected
    /// without it; nor is it elected alone.
    pub fn may_vote(&self) -> bool {
        self.is_established() || (self.bounds.is_some() && self.peers.len() == 2)
    }

    /// Whether a peer is a full member, as far as is known.
    pub fn is_established_peer(&self, replica: ReplicaId) -> bool {
        matches!(self.peer(replica).standing, Some(Standing::Established { .. }))
    }

    /// The identity, if it is to be made durable before anything else of this turn is done.
    pub fn take_change(&mut self) -> Option<Identity> {
        std::mem::take(&mut self.is_changed).then(|| self.identity.clone())
    }

    /// Whether the others are to be told something new.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Per log, the term up to which a former incarnation may have voted; once, when it is known.
    pub fn take_bounds(&mut self) -> Option<Vec<u64>> {
        std::mem::take(&mut self.is_bound_anew).then(|| self.bounds.clone()).flatten()
    }

    /// Whether it wants to know the others' places.
    pub fn asks(&self) -> bool {
        self.identity.standing == Standing::Rejoining && self.others().all(|peer| peer.heard)
    }

    fn peer(&self, replica: ReplicaId) -> &Peer {
        &self.peers[usize::from(replica) - 1]
    }

    fn others(&self) -> impl Iterator<Item = &Peer> {
        let me = usize::from(self.me) - 1;
        self.peers.iter().enumerate().filter(move |(at, _)| *at != me).map(|(_, peer)| peer)
    }

    /// True if the peer is another incarnation than it was: nothing that the one before promised may be counted any more.
    pub fn on_connected(&mut self, replica: ReplicaId, incarnation: u64) -> bool {
        let peer = &mut self.peers[usize::from(replica) - 1];
        let before = std::mem::replace(&mut peer.incarnation, incarnation);
        peer.standing = None;
        peer.takes_part = true;
        before != 0 && before != incarnation
    }

    pub fn on_disconnected(&mut self, replica: ReplicaId) {
        self.peers[usize::from(replica) - 1].standing = None;
    }

    /// True if the peer takes part from now on, and did not before.
    pub fn on_greeting(&mut self, replica: ReplicaId, greeting: &Greeting) -> bool {
        let asked = self.asks();
        let peer = &mut self.peers[usize::from(replica) - 1];
        let began = greeting.takes_part && !peer.takes_part;
        peer.takes_part = greeting.takes_part;
        peer.standing = Some(greeting.standing.clone());
        peer.heard = true;
        let is_established = matches!(greeting.standing, Standing::Established { .. });
        if asked && is_established && greeting.places.len() == self.targets.len() {
            peer.terms = Some(greeting.places.iter().map(|place| place.term).collect());
            self.note_targets(&greeting.places);
        }
        self.advance();
        self.has_news |= self.asks() && !asked;
        began
    }

    /// A leader of a term after all that may be lost (of two replicas: maybe this one) says what it has committed.
    pub fn note_targets(&mut self, places: &[Place]) {
        let Some(bounds) = &self.bounds else { return };
        for ((target, bound), place) in self.targets.iter_mut().zip(bounds).zip(places) {
            if place.leads && place.term >= *bound {
                target.get_or_insert(place.committed);
            }
        }
    }

    fn advance(&mut self) {
        match self.identity.standing.clone() {
            Standing::Fresh { founder } => self.advance_fresh(founder),
            Standing::Rejoining if self.bounds.is_none() => self.gather(),
            Standing::Rejoining | Standing::Established { .. } => {}
        }
    }

    fn change_to(&mut self, standing: Standing) {
        if self.identity.standing != standing {
            self.identity.standing = standing;
            self.is_changed = true;
            self.has_news = true;
        }
    }

    fn advance_fresh(&mut self, founder: u64) {
        if self.me == 1 {
            let mine = Standing::Fresh { founder: self.identity.incarnation };
            if self.others().all(|peer| peer.standing.as_ref() == Some(&mine)) {
                let me = usize::from(self.me) - 1;
                let mut founding: Vec<u64> = self.peers.iter().map(|peer| peer.incarnation).collect();
                founding[me] = self.identity.incarnation;
                return self.change_to(Standing::Established { founding });
            }
        }
        // Whom this replica has let count it must find it fresh still, unless it is out of question as a founder.
        let founder = match &self.peers[0].standing {
            Some(Standing::Fresh { .. }) => self.peers[0].incarnation,
            Some(_) => 0,
            None => founder,
        };
        self.change_to(Standing::Fresh { founder });
        let Some(founding) = self.founding() else { return };
        if founding.get(usize::from(self.me) - 1) != Some(&self.identity.incarnation) {
            self.change_to(Standing::Rejoining);
        } else if founder == 0 || founding[0] == founder {
            self.change_to(Standing::Established { founding });
        }
    }

    fn gather(&mut self) {
        let replicas = self.peers.len();
        let quorum = replicas / 2 + 1;
        let told: Vec<&Vec<u64>> = self.others().filter_map(|peer| peer.terms.as_ref()).collect();
        // So many others have a member in every quorum that this replica can have been in.
        if told.len() > replicas - quorum {
            let highest = |log: usize| told.iter().map(|terms| terms[log]).max().unwrap_or(0);
            self.bounds = Some((0..self.targets.len()).map(highest).collect());
            self.is_bound_anew = true;
            self.has_news = true;
        }
    }

    /// What is committed and durable here, per log, may make the replica a full member.
    pub fn on_caught_up(&mut self, committed: impl Fn(usize) -> u64) {
        if self.is_established() || self.bounds.is_none() {
            return;
        }
        let has = |(log, target): (usize, &Option<u64>)| target.is_some_and(|target| committed(log) >= target);
        if self.targets.iter().enumerate().all(has) {
            if let Some(founding) = self.founding() {
                self.change_to(Standing::Established { founding });
            }
        }
    }

    /// The founding set that an established peer told.
    fn founding(&self) -> Option<Vec<u64>> {
        self.others().find_map(|peer| match &peer.standing {
            Some(Standing::Established { founding }) => Some(founding.clone()),
            _ => None,
        })
    }

    /// What this replica tells the others; `places` are for one that asked.
    pub fn greeting(&self, places: Vec<Place>) -> Greeting {
        Greeting { standing: self.identity.standing.clone(), takes_part: self.takes_part(), asks: self.asks(), places }
    }
}

#[cfg(test)]
mod tests;
