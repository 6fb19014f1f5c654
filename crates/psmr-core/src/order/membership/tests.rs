//! Tests of founding and rejoining: replicas that exchange greetings by hand.

use super::*;

const LOGS: usize = 2;

/// Replicas without logs, all connected; greetings go round until there is no news.
struct Cluster {
    members: Vec<Membership>,
    /// What each says of its logs.
    places: Vec<Vec<Place>>,
    apart: Vec<(usize, usize)>,
}

impl Cluster {
    fn new(replicas: u8) -> Cluster {
        let member = |me| Membership::new(me, replicas, LOGS, Identity::fresh(u64::from(me) * 10), PlantedErrors::default());
        let mut cluster = Cluster {
            members: (1..=replicas).map(member).collect(),
            places: vec![vec![Place::default(); LOGS]; usize::from(replicas)],
            apart: Vec::new(),
        };
        (0..cluster.members.len()).for_each(|at| cluster.connect(at));
        cluster
    }

    fn founded(replicas: u8) -> Cluster {
        let mut cluster = Cluster::new(replicas);
        cluster.talk();
        assert!(cluster.members.iter().all(Membership::is_established));
        cluster
    }

    fn are_apart(&self, a: usize, b: usize) -> bool {
        a == b || self.apart.contains(&(a.min(b), a.max(b)))
    }

    fn connect(&mut self, at: usize) {
        for other in (0..self.members.len()).filter(|other| !self.are_apart(at, *other)).collect::<Vec<_>>() {
            for (a, b) in [(at, other), (other, at)] {
                let incarnation = self.members[b].identity.incarnation;
                self.members[a].on_connected(b as ReplicaId + 1, incarnation);
            }
        }
    }

    fn say(&mut self, from: usize, to: usize) {
        if !self.are_apart(from, to) {
            let asked = self.members[to].asks();
            let places = if asked { self.places[from].clone() } else { Vec::new() };
            let greeting = self.members[from].greeting(places);
            self.members[to].on_greeting(from as ReplicaId + 1, &greeting);
        }
    }

    fn talk(&mut self) {
        for _ in 0..8 {
            for from in 0..self.members.len() {
                (0..self.members.len()).for_each(|to| self.say(from, to));
            }
        }
    }

    /// The replica at `at` comes back as another incarnation.
    fn lose(&mut self, at: usize, incarnation: u64) {
        let replicas = self.members.len() as u8;
        self.members[at] =
            Membership::new(at as ReplicaId + 1, replicas, LOGS, Identity::fresh(incarnation), PlantedErrors::default());
        self.connect(at);
    }
}

#[test]
fn a_cluster_of_one_is_founded_at_once() {
    let mut membership = Membership::new(1, 1, LOGS, Identity::fresh(5), PlantedErrors::default());
    assert!(membership.is_established());
    assert_eq!(membership.take_change().map(|identity| identity.standing), Some(Standing::Established { founding: vec![5] }));
    assert_eq!(membership.take_change(), None);
}

#[test]
fn a_cluster_is_founded_when_all_are_there() {
    let mut cluster = Cluster::new(3);
    cluster.apart = vec![(0, 2)];
    cluster.connect(2);
    cluster.members[0].on_disconnected(3);
    cluster.talk();
    assert!(!cluster.members.iter().any(Membership::takes_part), "replica 1 has not counted replica 3");
    cluster.apart.clear();
    cluster.connect(2);
    cluster.talk();
    for member in &cluster.members {
        assert_eq!(member.identity.standing, Standing::Established { founding: vec![10, 20, 30] });
    }
}

#[test]
fn a_late_founder_hears_of_the_founding_from_anybody() {
    let mut cluster = Cluster::new(3);
    // Replica 3 is counted, and cut off from replica 1 before it hears of it.
    for (from, to) in [(0, 2), (2, 0), (0, 1), (1, 0), (0, 1)] {
        cluster.say(from, to);
    }
    assert!(cluster.members[1].is_established() && !cluster.members[2].takes_part());
    cluster.apart = vec![(0, 2)];
    cluster.say(1, 2);
    assert!(cluster.members[2].is_established());
}

#[test]
fn who_let_another_founder_count_it_is_not_counted_by_the_one_before() {
    let mut cluster = Cluster::new(3);
    for (from, to) in [(0, 2), (2, 0), (0, 1), (1, 0), (0, 1)] {
        cluster.say(from, to);
    }
    // Replica 1 loses its memory, and replica 3 tells the new incarnation that it is fresh still.
    cluster.lose(0, 11);
    cluster.say(0, 2);
    cluster.say(1, 2);
    assert!(!cluster.members[2].takes_part(), "the new incarnation may be founding with it");
    // It hears of the founding, and so rejoins: now replica 3 is free.
    cluster.say(1, 0);
    assert_eq!(cluster.members[0].identity.standing, Standing::Rejoining);
    cluster.say(0, 2);
    assert!(cluster.members[2].is_established());
}

#[test]
fn another_incarnation_waits_for_all_to_hear_and_for_every_quorum_s_terms() {
    let mut cluster = Cluster::founded(3);
    cluster.places[0] = vec![Place { term: 4, leads: false, committed: 7 }, Place { term: 9, leads: false, committed: 0 }];
    cluster.places[1] = vec![Place { term: 6, leads: false, committed: 7 }, Place { term: 2, leads: false, committed: 0 }];
    cluster.lose(2, 31);
    cluster.apart = vec![(0, 2)];
    cluster.talk();
    assert_eq!(cluster.members[2].identity.standing, Standing::Rejoining);
    assert!(!cluster.members[2].takes_part(), "replica 1 may count the one before");
    cluster.apart.clear();
    cluster.connect(2);
    cluster.talk();
    let member = &mut cluster.members[2];
    assert!(member.takes_part() && !member.may_vote());
    assert_eq!(member.take_bounds(), Some(vec![6, 9]));
}

#[test]
fn it_is_a_full_member_when_every_log_has_what_a_new_enough_leader_had() {
    let mut cluster = Cluster::founded(3);
    cluster.places[0] = vec![Place { term: 4, leads: true, committed: 7 }, Place { term: 9, leads: false, committed: 3 }];
    cluster.places[1] = vec![Place { term: 6, leads: false, committed: 7 }, Place { term: 9, leads: false, committed: 3 }];
    cluster.lose(2, 31);
    cluster.talk();
    cluster.members[2].on_caught_up(|_| u64::MAX);
    assert!(!cluster.members[2].is_established(), "an outdated leader of the first log, and none of the second");
    cluster.places[1] = vec![Place { term: 7, leads: true, committed: 8 }, Place { term: 9, leads: true, committed: 5 }];
    cluster.talk();
    let member = &mut cluster.members[2];
    member.on_caught_up(|log| [8, 4][log]);
    assert!(!member.may_vote());
    member.on_caught_up(|log| [8, 5][log]);
    assert!(member.may_vote());
    assert_eq!(member.identity.standing, Standing::Established { founding: vec![10, 20, 30] });
}

#[test]
fn an_answer_to_an_earlier_question_does_not_count() {
    let mut cluster = Cluster::founded(3);
    cluster.lose(2, 31);
    let early = cluster.members[0].greeting(vec![Place { term: 1, ..Place::default() }; LOGS]);
    cluster.members[2].on_greeting(1, &early);
    cluster.say(1, 2);
    assert!(cluster.members[2].asks() && !cluster.members[2].takes_part(), "replica 2 might have counted it after that");
    cluster.talk();
    assert!(cluster.members[2].takes_part());
}

#[test]
fn of_five_two_may_rejoin_together_and_of_two_one_votes_at_once() {
    let mut cluster = Cluster::founded(5);
    cluster.lose(3, 41);
    cluster.lose(4, 51);
    cluster.talk();
    assert!(cluster.members[3].takes_part() && cluster.members[4].takes_part());
    let mut cluster = Cluster::founded(2);
    cluster.lose(0, 11);
    cluster.talk();
    assert!(cluster.members[0].may_vote() && !cluster.members[0].is_established());
}

#[test]
fn promises_are_forgotten_when_another_incarnation_comes_not_when_the_same_one_does() {
    let mut membership = Membership::new(1, 3, LOGS, Identity::fresh(10), PlantedErrors::default());
    assert!(!membership.on_connected(2, 20));
    membership.on_disconnected(2);
    assert!(!membership.on_connected(2, 20));
    assert!(membership.on_connected(2, 21));
}
