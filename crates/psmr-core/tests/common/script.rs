//! Golden scripts: commands, `----`, and below it the trace that they leave, up to an empty line. `#` starts a comment.
//!
//! | command | does |
//! |---|---|
//! | `cluster REPLICAS GROUPS STREAMS` | starts a world |
//! | `elect` | ticks until every log is led by its preferred replica; leaves no trace |
//! | `submit R C γ TEXT`, `ask R C γ` | connection C of replica R: a command, an ordered read; γ as `g0+g2` |
//! | `read R C g TEXT` | a read of one group |
//! | `flush R`, `turn R`, `deliver A B`, `disk R`, `exec R g` | one step |
//! | `deliver-all A B` | all frames that are under way, without a turn of the receiver |
//! | `frames A B`, `state R`, `logs R`, `leaders` | shows |
//! | `run`, `tick N` | all that moves by itself; N ticks with all that comes of them |
//! | `tick-alone R N` | N ticks at one replica |
//! | `hold A B`, `release A B` | frames from A to B stay under way |
//! | `hold-disk R`, `release-disk R`, `hold-group R g`, `release-group R g` | writes, a group: by hand |
//! | `cut A B`, `heal A B`, `stop R`, `resume R`, `crash R`, `restart R` | faults |
//! | `resend R LOG` | the proxy of R sends again what is outstanding in a log |
//! | `clock R MS` | R's clock is so far from the wall clock |
//! | `checkpoint R R...`, `fetch R`, `digest R` | a cut; installs a peer's checkpoint; compares all states at a cut |

use super::describe;
use super::replica::Operation;
use super::world::World;
use psmr_core::command::{GroupId, GroupSet, LogId, ReplicaId};
use psmr_core::entry::System;
use std::collections::BTreeSet;

/// Runs a script, and gives it back with the traces that it leaves now.
pub fn play(name: &str, script: &str) -> String {
    let mut player = Player { name, line: 0, world: None, digests: 0 };
    let mut out = String::new();
    let mut commands = Vec::new();
    let mut lines = script.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if line == "----" {
            for (at, command) in commands.drain(..) {
                player.line = at + 1;
                player.perform(command);
            }
            let traced = player.world.as_mut().map(|w| std::mem::take(&mut w.trace)).unwrap_or_default();
            let traced = if traced.is_empty() { vec!["(nothing)".to_string()] } else { traced };
            out.push_str(&format!("----\n{}\n\n", traced.join("\n")));
            // What the script says came of it is the caller's to compare.
            for (_, line) in lines.by_ref() {
                if line.is_empty() {
                    break;
                }
            }
            continue;
        }
        if !line.is_empty() && !line.starts_with('#') {
            commands.push((at, line));
        }
        out.push_str(line);
        out.push('\n');
    }
    assert!(commands.is_empty(), "{name}: no `----` after the last commands");
    while out.ends_with("\n\n") {
        out.pop();
    }
    out
}

struct Player<'a> {
    name: &'a str,
    line: usize,
    world: Option<World>,
    digests: u64,
}

impl Player<'_> {
    fn fail(&self, what: &str) -> ! {
        panic!("{}:{}: {what}", self.name, self.line)
    }

    fn number(&self, word: &str) -> u64 {
        word.parse().unwrap_or_else(|_| self.fail(&format!("{word} is no number")))
    }

    fn replica(&self, word: &str) -> ReplicaId {
        self.number(word) as ReplicaId
    }

    fn group(&self, word: &str) -> GroupId {
        let digits = word.strip_prefix('g').unwrap_or_else(|| self.fail(&format!("{word} is no group")));
        GroupId(self.number(digits) as u8)
    }

    fn groups(&self, word: &str) -> GroupSet {
        word.split('+').map(|group| self.group(group)).collect()
    }

    fn log(&self, word: &str, world: &World) -> LogId {
        match word.strip_prefix("log") {
            Some(digits) => LogId(self.number(digits) as u8),
            None => world.topology.cross(),
        }
    }

    fn perform(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        if let ["cluster", replicas, groups, streams] = words[..] {
            let world = World::new(self.replica(replicas), self.number(groups) as usize, self.number(streams) as usize);
            self.world = Some(world);
            return;
        }
        if let ["cluster", replicas, groups, streams, "undelivered", bytes] = words[..] {
            let (groups, streams) = (self.number(groups) as usize, self.number(streams) as usize);
            self.world = Some(World::with_limit(self.replica(replicas), groups, streams, self.number(bytes)));
            return;
        }
        let Some(mut world) = self.world.take() else { self.fail("the first command has to be `cluster`") };
        if !(self.ask(&mut world, &words)
            || self.step(&mut world, &words)
            || self.fault(&mut world, &words)
            || self.show(&mut world, &words))
        {
            self.fail(&format!("`{command}` is no command, or lacks something"));
        }
        self.world = Some(world);
    }

    fn ask(&mut self, world: &mut World, words: &[&str]) -> bool {
        let (replica, connection, operation) = match words {
            ["submit", r, c, gamma, text @ ..] if !text.is_empty() => {
                (r, c, Operation::Ordered { gamma: self.groups(gamma), read: false, payload: text.join(" ") })
            }
            ["ask", r, c, gamma] => {
                (r, c, Operation::Ordered { gamma: self.groups(gamma), read: true, payload: "list".to_string() })
            }
            ["read", r, c, group, text] => (r, c, Operation::Read { group: self.group(group), payload: text.to_string() }),
            ["checkpoint", replicas @ ..] => {
                let mask = replicas.iter().fold(0, |mask, r| mask | 1 << self.replica(r));
                let Some(first) = replicas.first() else { return false };
                world.system(self.replica(first), System::Checkpoint { replicas: mask });
                return true;
            }
            ["resend", r, log] => {
                let log = self.log(log, world);
                world.replica_mut(self.replica(r)).proxy.on_leader_change(log);
                return true;
            }
            _ => return false,
        };
        world.ask(self.replica(replica), connection.chars().next().unwrap_or('a'), operation);
        true
    }

    fn step(&mut self, world: &mut World, words: &[&str]) -> bool {
        match words {
            ["elect"] => world.elect(),
            ["run"] => world.run(),
            ["tick", count] => (0..self.number(count)).for_each(|_| world.tick()),
            ["tick-alone", r, count] => (0..self.number(count)).for_each(|_| world.tick_one(self.replica(r))),
            ["flush", r] => {
                world.flush(self.replica(r));
            }
            ["turn", r] => {
                world.turn(self.replica(r));
            }
            ["deliver", a, b] => match world.deliver(self.replica(a), self.replica(b)) {
                Some(frame) => world.trace.push(format!("r{a} -> r{b}: {}", describe::frame(&frame, &world.topology))),
                None => self.fail("nothing is under way there"),
            },
            ["disk", r] => {
                if !world.replica_mut(self.replica(r)).complete_write() {
                    self.fail("the disk has nothing to do");
                }
            }
            ["exec", r, group] => {
                let (r, group) = (self.replica(r), self.group(group));
                if !world.replica(r).ready.contains(&group) {
                    self.fail(&format!("{group:?} is not ready; the trace since `----`:\n{}", world.trace.join("\n")));
                }
                world.execute(r, group, true);
            }
            ["deliver-all", a, b] => while world.deliver(self.replica(a), self.replica(b)).is_some() {},
            ["fetch", r] => {
                if !world.fetch(self.replica(r)) {
                    self.fail("it wants no checkpoint, or its peer has none");
                }
            }
            ["digest", r] => self.digest(world, r),
            _ => return false,
        }
        true
    }

    fn fault(&mut self, world: &mut World, words: &[&str]) -> bool {
        match words {
            ["hold", a, b] => world.hold(self.replica(a), self.replica(b)),
            ["release", a, b] => world.release(self.replica(a), self.replica(b)),
            ["hold-disk", r] => world.hold_disk(self.replica(r)),
            ["release-disk", r] => world.release_disk(self.replica(r)),
            ["hold-group", r, group] => world.hold_group(self.replica(r), self.group(group)),
            ["release-group", r, group] => world.release_group(self.replica(r), self.group(group)),
            ["cut", a, b] => world.cut(self.replica(a), self.replica(b)),
            ["heal", a, b] => world.heal(self.replica(a), self.replica(b)),
            ["stop", r] => world.stop(self.replica(r)),
            ["resume", r] => world.resume(self.replica(r)),
            ["crash", r] => world.crash(self.replica(r)),
            ["restart", r] => world.restart(self.replica(r)),
            ["clock", r, offset] => {
                world.set_clock_offset(self.replica(r), offset.parse().unwrap_or_else(|_| self.fail("no number")));
            }
            _ => return false,
        }
        true
    }

    fn show(&mut self, world: &mut World, words: &[&str]) -> bool {
        let lines = match words {
            ["frames", a, b] => world.frames(self.replica(a), self.replica(b)),
            ["state", r] => state(world, self.replica(r)),
            ["logs", r] => logs(world, self.replica(r)),
            ["leaders"] => {
                let leaders = world.leaders();
                let name =
                    |(leader, log): (&ReplicaId, u8)| format!("{} r{leader}", describe::log_name(LogId(log), &world.topology));
                vec![leaders.iter().zip(0..).map(name).collect::<Vec<_>>().join(", ")]
            }
            _ => return false,
        };
        world.trace.extend(lines);
        true
    }

    /// All replicas compute their state's digest at a cut; tells which agree, not what it is.
    fn digest(&mut self, world: &mut World, replica: &str) {
        self.digests += 1;
        world.system(self.replica(replica), System::Digest { request: self.digests });
        world.run();
        let replicas: Vec<_> = (1..=world.replica(1).order.config().replicas).collect();
        let cut =
            replicas.iter().filter_map(|r| world.replica(*r).digests.keys().next_back().map(|(cut, _)| *cut)).max().unwrap_or(0);
        let of = |r: ReplicaId| -> Vec<u64> {
            let digests = &world.replica(r).digests;
            digests.iter().filter(|((c, _), _)| *c == cut).map(|(_, digest)| *digest).collect()
        };
        let whole: Vec<_> = replicas.into_iter().filter(|r| of(*r).len() == world.topology.groups).collect();
        let different: BTreeSet<_> = whole.iter().map(|r| of(*r)).collect();
        let names: Vec<String> = whole.iter().map(|r| format!("r{r}")).collect();
        let verdict = if different.len() == 1 { "equal" } else { "DIFFERENT" };
        world.trace.push(format!("states at x[{cut}] are {verdict}: {}", names.join(" ")));
    }
}

/// Where a replica's groups are.
fn state(world: &World, id: ReplicaId) -> Vec<String> {
    let engine = &world.replica(id).engine;
    let line = |group: GroupId| {
        let (stream, cross) = engine.delivered(group);
        let parked = if engine.is_parked(group) { ", parked" } else { "" };
        let ready = if world.replica(id).ready.contains(&group) { ", ready" } else { "" };
        let log = describe::log_name(world.topology.stream_of(group), &world.topology);
        format!("r{id} {group:?}: passed {log}[{stream}] x[{cross}]{parked}{ready}")
    };
    world.topology.all().iter().map(line).collect()
}

/// What a replica's disk has.
fn logs(world: &World, id: ReplicaId) -> Vec<String> {
    let line = |(log, recovered): (u8, &psmr_core::log::RecoveredLog)| {
        let name = describe::log_name(LogId(log), &world.topology);
        let last = recovered.start.0 + recovered.entries.len() as u64;
        format!("r{id} disk: {name} has {}..{last}", recovered.start.0 + 1)
    };
    (0..).zip(&world.replica(id).disk.logs).map(line).collect()
}
