//! Entries, frames and events in words, for traces.

use psmr_core::command::{GroupSet, LogId};
use psmr_core::entry::{Entry, Item, Numbers, System};
use psmr_core::execute::Event;
use psmr_core::message::Frame;
use psmr_core::routing::Topology;
use psmr_core::service::Slice;
use psmr_core::session::Numbering;
use raft::eraftpb::{Message, MessageType};
use std::ops::Range;

/// `log0`, or `x` for the cross log.
pub fn log_name(log: LogId, topology: &Topology) -> String {
    if log == topology.cross() {
        "x".to_string()
    } else {
        format!("{log:?}")
    }
}

/// `g0+g2`.
pub fn groups_name(groups: GroupSet) -> String {
    groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join("+")
}

/// What an entry holds: its marker, time groups, and items with session, first numbers and payloads.
pub fn entry(entry: &Entry, topology: &Topology) -> String {
    let mut parts = Vec::new();
    if entry.marker > 0 {
        parts.push(format!("M({})", entry.marker));
    }
    if !entry.time_groups.is_empty() {
        parts.push(format!("time of {}", groups_name(entry.time_groups)));
    }
    match entry.system {
        Some(System::Checkpoint { replicas }) => {
            let of: Vec<String> = (1..64).filter(|r| replicas >> r & 1 == 1).map(|r| format!("r{r}")).collect();
            parts.push(format!("checkpoint of {}", of.join(" ")));
        }
        Some(System::Digest { .. }) => parts.push("digest".to_string()),
        Some(System::Time) => parts.push("time".to_string()),
        Some(System::Genesis { .. }) => parts.push("genesis".to_string()),
        None => parts.extend(items(entry)),
    }
    let what = if parts.is_empty() { "empty".to_string() } else { parts.join("; ") };
    format!("{}[{}] {what}", log_name(entry.log, topology), entry.index)
}

fn items(entry: &Entry) -> Vec<String> {
    let mut parts = Vec::new();
    for group in entry.groups.iter() {
        let mut position = 0;
        while let Some(item) = entry.item(group, position) {
            match item {
                Item::Run(run) => {
                    let (session, commands) = (entry.heads[run.head as usize].session, payloads(entry, &run.commands));
                    parts.push(format!("{group:?} {session:?}{} {commands}", number(run.numbers)));
                }
                Item::Barrier(barrier) if barrier.gamma.lowest() == Some(group) => {
                    let session = entry.heads[barrier.head as usize].session;
                    let numbers: String = barrier.numbers.iter().map(|n| number(*n)).collect();
                    let commands = payloads(entry, &barrier.commands);
                    parts.push(format!("{} {session:?}{numbers} {commands}", groups_name(barrier.gamma)));
                }
                Item::Barrier(_) => {}
            }
            position += 1;
        }
    }
    parts
}

fn number(numbers: Numbers) -> String {
    format!("#{}", numbers.first)
}

fn payloads(entry: &Entry, range: &Range<usize>) -> String {
    let commands = Slice::new(entry.commands(range), true);
    let texts = commands.map(|c| format!("{}{}", String::from_utf8_lossy(c.payload), if c.read { "?" } else { "" }));
    texts.collect::<Vec<_>>().join(" ")
}

/// What a frame holds, one word group per part.
pub fn frame(frame: &Frame, topology: &Topology) -> String {
    let mut parts: Vec<String> = frame.messages.iter().map(|(log, m)| message(*log, m, topology)).collect();
    parts.extend(frame.batches.iter().map(|(log, _)| format!("batch for {}", log_name(*log, topology))));
    parts.extend(frame.systems.iter().map(|_| "system command".to_string()));
    if !frame.wants_time.is_empty() {
        parts.push(format!("wants time of {}", groups_name(frame.wants_time)));
    }
    if frame.report.is_some() {
        parts.push("report".to_string());
    }
    parts.join(", ")
}

fn message(log: LogId, m: &Message, topology: &Topology) -> String {
    let log = log_name(log, topology);
    let yes = if m.reject { "no" } else { "yes" };
    match m.get_msg_type() {
        MessageType::MsgAppend if m.entries.is_empty() => format!("{log} committed {}", m.commit),
        MessageType::MsgAppend => {
            let last = m.index + m.entries.len() as u64;
            format!("{log} append {}..{last} committed {}", m.index + 1, m.commit)
        }
        MessageType::MsgAppendResponse if m.reject => format!("{log} refuse {}", m.index),
        MessageType::MsgAppendResponse => format!("{log} have {}", m.index),
        MessageType::MsgRequestPreVote => format!("{log} would you vote"),
        MessageType::MsgRequestPreVoteResponse => format!("{log} would vote: {yes}"),
        MessageType::MsgRequestVote => format!("{log} vote for me"),
        MessageType::MsgRequestVoteResponse => format!("{log} vote: {yes}"),
        MessageType::MsgHeartbeat if m.context.is_empty() => format!("{log} heartbeat"),
        MessageType::MsgHeartbeat => format!("{log} heartbeat for a read index"),
        MessageType::MsgHeartbeatResponse if m.context.is_empty() => format!("{log} heartbeat heard"),
        MessageType::MsgHeartbeatResponse => format!("{log} heartbeat for a read index heard"),
        MessageType::MsgReadIndex => format!("{log} read index?"),
        MessageType::MsgReadIndexResp => format!("{log} read index {}", m.index),
        MessageType::MsgTimeoutNow => format!("{log} take over"),
        MessageType::MsgSnapshot => format!("{log} starts after {}", m.get_snapshot().get_metadata().index),
        other => format!("{log} {other:?}"),
    }
}

/// An event; `None` for parts of checkpoints and digests, which are told when they are whole.
pub fn event(event: &Event) -> Option<String> {
    let of = |numbering: &Numbering| if *numbering == Numbering::Cross { "x" } else { "" };
    Some(match event {
        Event::Replies { session, group, numbering, first, replies } => {
            let texts: Vec<_> = replies.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
            format!("replies to {session:?} {group:?}{}#{first}: {}", of(numbering), texts.join(", "))
        }
        Event::Settled { session, group, numbering, last } => {
            format!("settled before: {session:?} {group:?}{}#{last}", of(numbering))
        }
        Event::Refused { session, group, numbering, expected } => {
            format!("refused: {session:?} {group:?}{} has to go on from #{expected}", of(numbering))
        }
        Event::Reads { session, replies, .. } => {
            let texts: Vec<_> = replies.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
            format!("reads of {session:?}: {}", texts.join(", "))
        }
        Event::ReadsLost { session, tokens } => format!("{} reads of {session:?} lost", tokens.len()),
        Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => return None,
    })
}
