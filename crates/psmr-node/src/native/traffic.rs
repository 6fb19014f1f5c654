//! What goes over an open native connection: commands and reads one way, what became of them the other.

use super::opening::{end, read_addresses, write_addresses};
use super::{encode, Hello, Kind, Refusal, Welcome};
use bytes::Bytes;
use psmr_core::command::{GroupId, LogId, ReplicaId, SessionId};
use psmr_core::execute::reads::{ReadBatch, ReadItem};
use psmr_core::execute::Event;
use psmr_core::service::Replies;
use psmr_core::session::Numbering;
use psmr_core::wire::{Malformed, Reader, Write as _};

/// The bytes of a read in a frame, but for its payload.
const READ_ITEM_BYTES: usize = 44;

/// A frame of a client.
#[derive(Clone, Debug)]
pub enum FromClient {
    /// JSON about the replica is wanted.
    Question(Bytes),
    /// The first of a session's connection.
    Hello(Hello),
    /// A batch as `ClientProxy` makes it.
    Batch(LogId, Bytes),
    /// Reads; session, round and clock are the replica's to fill in.
    Reads(GroupId, ReadBatch),
}

/// A frame of a replica.
#[derive(Debug)]
pub enum FromReplica {
    /// JSON.
    Answer(Bytes),
    /// The session is answered here.
    Welcome(Box<Welcome>),
    /// What became of commands or reads of the connection's session.
    Event(Event),
    /// Another replica leads the log.
    LeaderChange(LogId),
    /// Where clients connect.
    Addresses(Vec<(ReplicaId, String)>),
    /// The connection is closed after it.
    Refusal(Refusal),
    /// Whether the replica has more memory than it may: commands that need more are not to be sent then.
    Memory { is_out: bool },
}

impl FromClient {
    /// Appends the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            FromClient::Question(json) => encode(Kind::Question, out, |to| to.extend_from_slice(json)),
            FromClient::Hello(hello) => encode(Kind::Hello, out, |to| hello.write(to)),
            FromClient::Batch(log, batch) => encode(Kind::Batch, out, |to| {
                to.u8(log.0);
                to.extend_from_slice(batch);
            }),
            FromClient::Reads(group, batch) => encode(Kind::Reads, out, |to| write_reads(*group, batch, to)),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// If it is none that a client sends.
    pub fn read(kind: Kind, body: Bytes) -> Result<FromClient, Malformed> {
        let mut reader = Reader::new(body.clone());
        match kind {
            Kind::Question => Ok(FromClient::Question(body)),
            Kind::Hello => Hello::read(body).map(FromClient::Hello),
            Kind::Batch => Ok(FromClient::Batch(LogId(reader.u8("log")?), reader.rest())),
            Kind::Reads => read_reads(&mut reader),
            _ => Err(reader.malformed("kind of frame")),
        }
    }
}

fn write_reads(group: GroupId, batch: &ReadBatch, out: &mut Vec<u8>) {
    out.u8(group.0);
    out.u32(batch.items.len() as u32);
    for item in &batch.items {
        out.u64(item.token);
        item.after.iter().chain(&item.before).for_each(|number| out.u64(*number));
        out.u32(item.end);
    }
    out.blob(&batch.bytes);
}

fn read_reads(reader: &mut Reader) -> Result<FromClient, Malformed> {
    let group = GroupId(reader.u8("group")?);
    let count = reader.u32("number of reads")? as usize;
    // Before memory is set aside for them.
    reader.clone().skip(count.saturating_mul(READ_ITEM_BYTES), "reads")?;
    let mut items = Vec::with_capacity(count);
    let mut last_end = 0;
    for _ in 0..count {
        let item = ReadItem {
            token: reader.u64("token")?,
            after: [reader.u64("predecessor")?, reader.u64("predecessor")?],
            before: [reader.u64("successor")?, reader.u64("successor")?],
            end: reader.u32("end of a payload")?,
        };
        if item.end < last_end {
            return Err(reader.malformed("end of a payload"));
        }
        last_end = item.end;
        items.push(item);
    }
    let bytes = reader.blob("payloads")?;
    if bytes.len() != last_end as usize || items.is_empty() {
        return Err(reader.malformed("payloads"));
    }
    end(reader)?;
    Ok(FromClient::Reads(group, ReadBatch { items, bytes: bytes.to_vec(), ..ReadBatch::default() }))
}

impl FromReplica {
    /// Appends the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            FromReplica::Answer(json) => encode(Kind::Answer, out, |to| to.extend_from_slice(json)),
            FromReplica::Welcome(welcome) => encode(Kind::Welcome, out, |to| welcome.write(to)),
            FromReplica::Event(event) => write_event(event, out),
            FromReplica::LeaderChange(log) => encode(Kind::LeaderChange, out, |to| to.u8(log.0)),
            FromReplica::Addresses(addresses) => encode(Kind::Addresses, out, |to| write_addresses(addresses, to)),
            FromReplica::Refusal(refusal) => encode(Kind::Refusal, out, |to| refusal.write(to)),
            FromReplica::Memory { is_out } => encode(Kind::Memory, out, |to| to.u8(u8::from(*is_out))),
        }
    }

    /// Reads a frame on the connection of `session`, in a cluster of `groups` groups and `logs` logs.
    ///
    /// # Errors
    /// If it is none that a replica sends.
    pub fn read(kind: Kind, body: Bytes, session: SessionId, groups: usize, logs: usize) -> Result<FromReplica, Malformed> {
        let mut reader = Reader::new(body.clone());
        let read = match kind {
            Kind::Answer => return Ok(FromReplica::Answer(body)),
            Kind::Welcome => return Ok(FromReplica::Welcome(Box::new(Welcome::read(body)?))),
            Kind::Refusal => return Ok(FromReplica::Refusal(Refusal::read(&body))),
            Kind::LeaderChange => {
                let log = LogId(reader.u8("log")?);
                if log.index() >= logs {
                    return Err(reader.malformed("log"));
                }
                FromReplica::LeaderChange(log)
            }
            Kind::Addresses => FromReplica::Addresses(read_addresses(&mut reader)?),
            Kind::Memory => FromReplica::Memory { is_out: reader.u8("memory flag")? != 0 },
            Kind::Replies | Kind::Settled | Kind::Refused => FromReplica::Event(read_fate(kind, &mut reader, session, groups)?),
            Kind::ReadReplies => {
                let tokens = read_tokens(&mut reader)?;
                let replies = read_replies(&mut reader)?;
                if replies.ends.len() != tokens.len() {
                    return Err(reader.malformed("number of replies"));
                }
                FromReplica::Event(Event::Reads { session, tokens, replies })
            }
            Kind::ReadsLost => FromReplica::Event(Event::ReadsLost { session, tokens: read_tokens(&mut reader)? }),
            Kind::Question | Kind::Hello | Kind::Batch | Kind::Reads => return Err(reader.malformed("kind of frame")),
        };
        end(&reader)?;
        Ok(read)
    }
}

fn write_event(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Replies { group, numbering, first, replies, .. } => encode(Kind::Replies, out, |to| {
            write_place(*group, *numbering, *first, to);
            write_replies(replies, to);
        }),
        Event::Settled { group, numbering, last, .. } => {
            encode(Kind::Settled, out, |to| write_place(*group, *numbering, *last, to));
        }
        Event::Refused { group, numbering, expected, .. } => {
            encode(Kind::Refused, out, |to| write_place(*group, *numbering, *expected, to));
        }
        Event::Reads { tokens, replies, .. } => encode(Kind::ReadReplies, out, |to| {
            write_tokens(tokens, to);
            write_replies(replies, to);
        }),
        Event::ReadsLost { tokens, .. } => encode(Kind::ReadsLost, out, |to| write_tokens(tokens, to)),
        Event::Snapshot { .. } | Event::NoSnapshot { .. } | Event::Digest { .. } => {}
    }
}

fn write_place(group: GroupId, numbering: Numbering, number: u64, out: &mut Vec<u8>) {
    out.u8(group.0);
    out.u8(numbering as u8);
    out.u64(number);
}

fn read_fate(kind: Kind, reader: &mut Reader, session: SessionId, groups: usize) -> Result<Event, Malformed> {
    let group = GroupId(reader.u8("group")?);
    if group.index() >= groups {
        return Err(reader.malformed("group"));
    }
    let numbering = match reader.u8("numbering")? {
        0 => Numbering::Stream,
        1 => Numbering::Cross,
        _ => return Err(reader.malformed("numbering")),
    };
    let number = reader.u64("number")?;
    Ok(match kind {
        Kind::Replies => Event::Replies { session, group, numbering, first: number, replies: read_replies(reader)? },
        Kind::Settled => Event::Settled { session, group, numbering, last: number },
        _ => Event::Refused { session, group, numbering, expected: number },
    })
}

fn write_replies(replies: &Replies, out: &mut Vec<u8>) {
    out.u32(replies.ends.len() as u32);
    replies.ends.iter().for_each(|end| out.u32(*end as u32));
    out.blob(&replies.bytes);
}

fn read_replies(reader: &mut Reader) -> Result<Replies, Malformed> {
    let count = reader.u32("number of replies")? as usize;
    reader.clone().skip(count.saturating_mul(4), "ends of replies")?;
    let ends = (0..count).map(|_| Ok(reader.u32("end of a reply")? as usize)).collect::<Result<Vec<usize>, Malformed>>()?;
    let bytes = reader.blob("replies")?;
    let is_ascending = ends.windows(2).all(|pair| pair[0] <= pair[1]);
    if !is_ascending || ends.last().copied().unwrap_or(0) != bytes.len() {
        return Err(reader.malformed("ends of replies"));
    }
    Ok(Replies { bytes: bytes.to_vec(), ends, unwanted: false })
}

fn write_tokens(tokens: &[u64], out: &mut Vec<u8>) {
    out.u32(tokens.len() as u32);
    tokens.iter().for_each(|token| out.u64(*token));
}

fn read_tokens(reader: &mut Reader) -> Result<Vec<u64>, Malformed> {
    let count = reader.u32("number of tokens")? as usize;
    reader.clone().skip(count.saturating_mul(8), "tokens")?;
    (0..count).map(|_| reader.u64("token")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    const SESSION: SessionId = SessionId(3);

    fn reads() -> ReadBatch {
        let mut batch = ReadBatch::default();
        batch.push(1, [0, 2], [1, 3], b"abc");
        batch.push(2, [0, 0], [1, 3], b"");
        batch
    }

    fn round_trip(frame: &FromReplica) -> String {
        let mut out = Vec::new();
        frame.write(&mut out);
        let (kind, body) = super::super::decode::<Kind>(&mut BytesMut::from(&out[..])).unwrap().unwrap();
        format!("{:?}", FromReplica::read(kind, body, SESSION, 4, 3).unwrap())
    }

    #[test]
    fn what_a_replica_writes_is_read() {
        let mut replies = Replies::default();
        replies.push(b"one");
        replies.push(b"");
        let (session, group, numbering) = (SESSION, GroupId(3), Numbering::Cross);
        let frames = [
            FromReplica::Answer(Bytes::from_static(b"{}")),
            FromReplica::Event(Event::Replies { session, group, numbering, first: 9, replies }),
            FromReplica::Event(Event::Settled { session, group, numbering, last: 9 }),
            FromReplica::Event(Event::Refused { session, group, numbering, expected: 9 }),
            FromReplica::Event(Event::ReadsLost { session, tokens: vec![1, 2] }),
            FromReplica::LeaderChange(LogId(2)),
            FromReplica::Addresses(vec![(1, "a:1".into())]),
            FromReplica::Memory { is_out: true },
        ];
        for frame in frames {
            assert_eq!(round_trip(&frame), format!("{frame:?}"));
        }
    }

    #[test]
    fn what_a_client_writes_is_read() {
        let frames = [
            FromClient::Question(Bytes::from_static(b"{}")),
            FromClient::Batch(LogId(2), Bytes::from_static(b"xyz")),
            FromClient::Reads(GroupId(1), reads()),
        ];
        for frame in frames {
            let mut out = Vec::new();
            frame.write(&mut out);
            let (kind, body) = super::super::decode::<Kind>(&mut BytesMut::from(&out[..])).unwrap().unwrap();
            assert_eq!(format!("{:?}", FromClient::read(kind, body).unwrap()), format!("{frame:?}"));
        }
    }

    #[test]
    fn groups_and_logs_that_do_not_exist_are_refused() {
        let settled = |group| Event::Settled { session: SESSION, group: GroupId(group), numbering: Numbering::Stream, last: 1 };
        for frame in [FromReplica::Event(settled(4)), FromReplica::LeaderChange(LogId(3))] {
            let mut out = Vec::new();
            frame.write(&mut out);
            let (kind, body) = super::super::decode::<Kind>(&mut BytesMut::from(&out[..])).unwrap().unwrap();
            assert!(FromReplica::read(kind, body, SESSION, 4, 3).is_err());
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(kind in 1u8..16, bytes: Vec<u8>) {
            let kind = <Kind as crate::frame::FrameKind>::from_byte(kind).unwrap();
            let _ = FromClient::read(kind, bytes.clone().into());
            let _ = FromReplica::read(kind, bytes.into(), SESSION, 4, 3);
        }

        #[test]
        fn damaged_reads_are_an_error_or_other_reads(at in 0usize..115, byte: u8) {
            let mut out = Vec::new();
            write_reads(GroupId(1), &reads(), &mut out);
            let at = at % out.len();
            out[at] = byte;
            if let Ok(FromClient::Reads(_, batch)) = FromClient::read(Kind::Reads, out.into()) {
                prop_assert_eq!(batch.items.last().map(|item| item.end as usize), Some(batch.bytes.len()));
            }
        }
    }
}
