//! What replicas send each other: one frame per peer and turn, for all logs.
//!
//! | part of a frame | sender | receiver does |
//! |---|---|---|
//! | `messages` | a log's Raft node | steps its Raft node of that log |
//! | `batches` | a replica with clients | appends them, if it leads the log; else they are lost and sent again |
//! | `systems` | any replica | appends them to the cross log, if it leads it; else they are lost and asked for again |
//! | `wants_time` | a replica with reads that depend on time | logs a time mark for the groups it orders |
//! | `positions`, `reach` | every replica, once per heartbeat | judges whether the sender is well connected and up to date |
//! | `clock_ms` | every replica, once per heartbeat | bounds the stamps that it gives out as a leader |
//! | `greeting` | every replica, when it is connected or its standing changes | knows what the sender may count for |

use crate::command::{GroupSet, LogId};
use crate::entry::{decode_system, write_system, System};
use crate::order::Standing;
use crate::wire::{Malformed, Reader, Write};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

/// The version of the frame layout.
pub const FRAME_VERSION: u8 = 2;

/// A log's position at the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The highest index that it knows to be committed.
    pub committed: u64,
    /// The highest index that all its groups have delivered.
    pub delivered: u64,
}

/// What the sender tells of itself once per heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its wall clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// Bit i: replica i is connected to it (its own bit is set).
    pub reach: u64,
    /// Per log.
    pub positions: Vec<Position>,
}

/// Where a log stands at the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Raft's term.
    pub term: u64,
    /// Whether the sender leads the log and has committed an entry of this term.
    pub leads: bool,
    /// The highest index that it knows to be committed.
    pub committed: u64,
}

/// What the sender is to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// How far it belongs to the cluster.
    pub standing: Standing,
    /// Whether it steps its Raft nodes.
    pub takes_part: bool,
    /// Whether it wants the receiver's places.
    pub asks: bool,
    /// Per log, for one that asked; else empty.
    pub places: Vec<Place>,
}

/// All that one replica sends another in one turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Raft messages.
    pub messages: Vec<(LogId, Message)>,
    /// Batches for logs that the receiver leads.
    pub batches: Vec<(LogId, Bytes)>,
    /// Commands to the engine, for the cross log.
    pub systems: Vec<System>,
    /// Groups whose clocks are to be brought forward.
    pub wants_time: GroupSet,
    /// Once per heartbeat.
    pub report: Option<Report>,
    /// Comes before all else that the frame says.
    pub greeting: Option<Greeting>,
}

impl Frame {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        *self == Frame::default()
    }

    /// The body of a frame; length, checksum and kind are the transport's.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u8(FRAME_VERSION);
        out.u32(self.messages.len() as u32);
        for (log, message) in &self.messages {
            out.u8(log.0);
            encode_message(message, out);
        }
        out.u32(self.batches.len() as u32);
        for (log, batch) in &self.batches {
            out.u8(log.0);
            out.blob(batch);
        }
        out.u32(self.systems.len() as u32);
        self.systems.iter().for_each(|system| write_system(out, *system));
        out.u64(self.wants_time.0);
        out.u8(u8::from(self.report.is_some()));
        if let Some(report) = &self.report {
            out.u64(report.clock_ms);
            out.u64(report.reach);
            out.u8(report.positions.len() as u8);
            for position in &report.positions {
                out.u64(position.committed);
                out.u64(position.delivered);
            }
        }
        out.u8(u8::from(self.greeting.is_some()));
        if let Some(greeting) = &self.greeting {
            encode_greeting(greeting, out);
        }
    }

    /// Decodes the body of a frame; entries and batches share its memory.
    ///
    /// # Errors
    /// If the bytes are no frame of this version.
    pub fn decode(bytes: Bytes) -> Result<Frame, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut frame = Frame::default();
        if reader.u8("frame version")? != FRAME_VERSION {
            return Err(reader.malformed("frame version"));
        }
        for _ in 0..reader.u32("message count")? {
            let log = LogId(reader.u8("log")?);
            frame.messages.push((log, decode_message(&mut reader)?));
        }
        for _ in 0..reader.u32("batch count")? {
            frame.batches.push((LogId(reader.u8("log")?), reader.blob("batch")?));
        }
        for _ in 0..reader.u32("system command count")? {
            frame.systems.push(decode_system(&mut reader)?);
        }
        frame.wants_time = GroupSet(reader.u64("time groups")?);
        if reader.u8("report flag")? != 0 {
            frame.report = Some(decode_report(&mut reader)?);
        }
        if reader.u8("greeting flag")? != 0 {
            frame.greeting = Some(decode_greeting(&mut reader)?);
        }
        if reader.is_at_end() {
            Ok(frame)
        } else {
            Err(reader.malformed("end of frame"))
        }
    }
}

fn decode_report(reader: &mut Reader) -> Result<Report, Malformed> {
    let mut report = Report { clock_ms: reader.u64("clock")?, reach: reader.u64("reach")?, positions: Vec::new() };
    for _ in 0..reader.u8("log count")? {
        let position = Position { committed: reader.u64("committed")?, delivered: reader.u64("delivered")? };
        report.positions.push(position);
    }
    Ok(report)
}

fn encode_greeting(greeting: &Greeting, out: &mut Vec<u8>) {
    match &greeting.standing {
        Standing::Fresh { founder } => {
            out.u8(0);
            out.u64(*founder);
        }
        Standing::Rejoining => out.u8(1),
        Standing::Established { founding } => {
            out.u8(2);
            out.u8(founding.len() as u8);
            founding.iter().for_each(|incarnation| out.u64(*incarnation));
        }
    }
    out.u8(u8::from(greeting.takes_part));
    out.u8(u8::from(greeting.asks));
    out.u8(greeting.places.len() as u8);
    for place in &greeting.places {
        out.u64(place.term);
        out.u8(u8::from(place.leads));
        out.u64(place.committed);
    }
}

fn decode_greeting(reader: &mut Reader) -> Result<Greeting, Malformed> {
    let standing = match reader.u8("standing")? {
        0 => Standing::Fresh { founder: reader.u64("founder")? },
        1 => Standing::Rejoining,
        2 => {
            let count = reader.u8("founding count")?;
            Standing::Established { founding: (0..count).map(|_| reader.u64("incarnation")).collect::<Result<_, _>>()? }
        }
        _ => return Err(reader.malformed("standing")),
    };
    let (takes_part, asks) = (reader.u8("takes part")? != 0, reader.u8("asks")? != 0);
    let mut places = Vec::new();
    for _ in 0..reader.u8("place count")? {
        let (term, leads, committed) = (reader.u64("term")?, reader.u8("leads")? != 0, reader.u64("committed")?);
        if term.max(committed) > NUMBER_MAX {
            return Err(reader.malformed("place"));
        }
        places.push(Place { term, leads, committed });
    }
    Ok(Greeting { standing, takes_part, asks, places })
}

/// Terms and indices that grow one by one do not come here; the library adds to them without looking.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// The message types by their number on the wire.
const TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

fn encode_message(message: &Message, out: &mut Vec<u8>) {
    out.u8(message.get_msg_type() as u8);
    for field in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
        message.priority as u64,
    ] {
        out.u64(field);
    }
    out.u8(u8::from(message.reject));
    out.blob(&message.context);
    out.u32(message.entries.len() as u32);
    for entry in &message.entries {
        out.u8(entry.get_entry_type() as u8);
        out.u64(entry.term);
        out.u64(entry.index);
        out.blob(&entry.data);
        out.blob(&entry.context);
    }
    let snapshot = message.get_snapshot();
    out.u64(snapshot.get_metadata().index);
    if snapshot.get_metadata().index > 0 {
        out.u64(snapshot.get_metadata().term);
        encode_conf_state(snapshot.get_metadata().get_conf_state(), out);
    }
}

fn decode_message(reader: &mut Reader) -> Result<Message, Malformed> {
    let mut message = Message::default();
    let kind = reader.u8("message type")?;
    let kind = TYPES.get(usize::from(kind)).filter(|kind| is_for_peers(**kind));
    message.set_msg_type(*kind.ok_or_else(|| reader.malformed("message type"))?);
    message.to = reader.u64("receiver")?;
    message.from = reader.u64("sender")?;
    message.term = reader.u64("term")?;
    message.log_term = reader.u64("log term")?;
    message.index = reader.u64("index")?;
    message.commit = reader.u64("commit")?;
    message.commit_term = reader.u64("commit term")?;
    message.reject_hint = reader.u64("reject hint")?;
    message.request_snapshot = reader.u64("request snapshot")?;
    for number in [message.term, message.log_term, message.index, message.commit, message.commit_term, message.reject_hint] {
        if number > NUMBER_MAX {
            return Err(reader.malformed("term or index"));
        }
    }
    // Nobody here asks for a snapshot: it is the leader who finds that one is needed.
    if message.request_snapshot != 0 {
        return Err(reader.malformed("request for a snapshot"));
    }
    message.priority = reader.u64("priority")? as i64;
    message.reject = reader.u8("reject")? != 0;
    message.context = reader.blob("context")?;
    for _ in 0..reader.u32("entry count")? {
        let mut entry = Entry::default();
        entry.set_entry_type(match reader.u8("entry type")? {
            0 => EntryType::EntryNormal,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(reader.malformed("entry type")),
        });
        entry.term = reader.u64("entry term")?;
        entry.index = reader.u64("entry index")?;
        entry.data = reader.blob("entry data")?;
        entry.context = reader.blob("entry context")?;
        message.entries.push(entry);
    }
    let index = reader.u64("snapshot index")?;
    if index > 0 {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = reader.u64("snapshot term")?;
        snapshot.mut_metadata().set_conf_state(decode_conf_state(reader)?);
        message.set_snapshot(snapshot);
    }
    match check_shape(&message) {
        Ok(()) => Ok(message),
        Err(what) => Err(reader.malformed(what)),
    }
}

/// Whether replicas send each other messages of this type. The others are a replica's own: proposals too, since forwarding is
/// off, and what is proposed is checked as a batch.
fn is_for_peers(kind: MessageType) -> bool {
    use MessageType::{MsgBeat, MsgCheckQuorum, MsgHup, MsgPropose, MsgSnapStatus, MsgTransferLeader, MsgUnreachable};
    !matches!(kind, MsgHup | MsgBeat | MsgPropose | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum | MsgTransferLeader)
}

/// The library takes on trust that entries follow each other and the one before them, and that requests are whole.
fn check_shape(message: &Message) -> Result<(), &'static str> {
    if message.term == 0 {
        return Err("term");
    }
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            if (message.index == 0) != (message.log_term == 0) || message.log_term > message.term {
                return Err("log term");
            }
            let (mut index, mut term) = (message.index, message.log_term.max(1));
            for entry in &message.entries {
                index += 1;
                if entry.index != index || !(term..=message.term).contains(&entry.term) {
                    return Err("order of entries");
                }
                term = entry.term;
            }
            Ok(())
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => Err("read-index request"),
        _ => Ok(()),
    }
}

/// Writes who votes on a log.
pub fn encode_conf_state(state: &ConfState, out: &mut Vec<u8>) {
    for ids in [&state.voters, &state.learners] {
        out.u8(ids.len() as u8);
        ids.iter().for_each(|id| out.u64(*id));
    }
}

/// Reads what `encode_conf_state` wrote.
///
/// # Errors
/// At the end of the bytes.
pub fn decode_conf_state(reader: &mut Reader) -> Result<ConfState, Malformed> {
    let mut state = ConfState::default();
    for ids in [&mut state.voters, &mut state.learners] {
        for _ in 0..reader.u8("member count")? {
            ids.push(reader.u64("member")?);
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::any;

    fn sample() -> Frame {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.from, message.term, message.index, message.commit) = (2, 1, 7, 40, 39);
        message.log_term = 7;
        message.context = Bytes::from_static(b"ctx");
        let mut entry = Entry { term: 7, index: 41, data: Bytes::from_static(b"batch"), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryNormal);
        message.entries.push(entry);
        let mut snapshot = Message::default();
        snapshot.set_msg_type(MessageType::MsgSnapshot);
        snapshot.term = 7;
        snapshot.mut_snapshot().mut_metadata().index = 9;
        snapshot.mut_snapshot().mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
        Frame {
            messages: vec![(LogId(0), message), (LogId(1), snapshot)],
            batches: vec![(LogId(1), Bytes::from_static(b"xyz"))],
            systems: vec![System::Digest { request: 4 }],
            wants_time: GroupSet(5),
            report: Some(Report { clock_ms: 1, reach: 7, positions: vec![Position { committed: 3, delivered: 2 }] }),
            greeting: Some(Greeting {
                standing: Standing::Established { founding: vec![8, 9, 10] },
                takes_part: true,
                asks: false,
                places: vec![Place { term: 3, leads: true, committed: 12 }],
            }),
        }
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        assert_eq!(Frame::decode(bytes.into()).unwrap(), sample());
    }

    proptest::proptest! {
        #[test]
        fn damaged_bytes_decode_or_are_refused(cut in 1usize..400, damage in vec((0usize..400, any::<u8>()), 1..6)) {
            let mut bytes = Vec::new();
            sample().encode(&mut bytes);
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            let _ = Frame::decode(bytes.into());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..300), is_of_this_version: bool) {
            let mut bytes = bytes;
            if let (true, Some(version)) = (is_of_this_version, bytes.first_mut()) {
                *version = FRAME_VERSION;
            }
            let _ = Frame::decode(bytes.into());
        }
    }
}
