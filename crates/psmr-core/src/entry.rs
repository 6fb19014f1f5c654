//! What a log entry holds: batches of commands, laid out by group, so that delivery works per batch and group and never
//! parses a command that is not its own.
//!
//! ```text
//! entry   = version u8, kind u8, stamp_ms u64, marker u64, time_groups u64, batch...        (kind 0)
//!         | version u8, kind u8, stamp_ms u64, marker 0,   time_groups 0,   system command  (kind 1, cross log only)
//! batch   = length u32, session u64, origin u8, flags u8, routing_version u32, expires_ms u64, section...
//! section = 0 u8, group u8, number u64, acknowledged u64, count u32, bytes u32, command...      one group: parallel mode
//!         | 1 u8, γ u64, (number u64, acknowledged u64) per group of γ, count u32, bytes u32, command...  synchronous mode
//! command = length and read flag u32, payload
//! ```
//!
//! A section's commands have consecutive numbers. The numbers count per session, group, and kind of log (stream or cross).

use crate::command::{GroupId, GroupSet, LogId, ReplicaId, SessionId};
use crate::config::BATCH_BYTES_MAX;
use crate::service::Command;
use crate::sync::{AtomicU64, Ordering};
use crate::wire::{Malformed, Reader, Write};
use bytes::Bytes;
use std::ops::Range;

/// The version of the layout above.
pub const ENTRY_VERSION: u8 = 1;

/// The version of C-G that a new cluster starts with.
pub const ROUTING_VERSION_FIRST: u32 = 1;

/// The bit of a command's length that marks an ordered read.
const READ_FLAG: u32 = 1 << 31;

/// The batch's session wants its replies kept until it has acknowledged them.
const FLAG_KEEP_REPLIES: u8 = 1;

const KIND_COMMANDS: u8 = 0;
const KIND_SYSTEM: u8 = 1;
const SECTION_SINGLE: u8 = 0;
const SECTION_MULTI: u8 = 1;

/// Where the payload of a section's first command starts, relative to the section's `bytes` field's end.
const COMMAND_HEAD: usize = 4;

/// Who sent a batch, and the rules for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Whose commands these are.
    pub session: SessionId,
    /// The replica that answers them.
    pub origin: ReplicaId,
    /// Whether groups keep the replies until they are acknowledged.
    pub keep_replies: bool,
    /// The version of C-G by which γ was computed.
    pub routing_version: u32,
    /// The log time after which the commands are refused.
    pub expires_ms: u64,
}

/// A section's place in its session's numbering, for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The number of the section's first command.
    pub first: u64,
    /// All numbers up to here are settled: the client knows their outcome, or has given them up.
    pub acknowledged: u64,
}

/// Consecutive commands of one session for one group alone.
#[derive(Clone, Debug)]
pub struct Run {
    /// Index into `Entry::heads`.
    pub head: u32,
    /// Their place in the session's numbering.
    pub numbers: Numbers,
    /// How many.
    pub count: u32,
    /// Where they are in the entry.
    pub commands: Range<usize>,
}

/// Neighbouring commands of equal γ with |γ| > 1. The groups of γ meet here; the last to arrive executes.
#[derive(Debug)]
pub struct Barrier {
    /// Index into `Entry::heads`.
    pub head: u32,
    /// The groups that meet.
    pub gamma: GroupSet,
    /// Their place in the session's numbering, per group of γ in ascending order.
    pub numbers: Vec<Numbers>,
    /// How many commands.
    pub count: u32,
    /// Where they are in the entry.
    pub commands: Range<usize>,
    arrivals: Arrivals,
}

/// The groups that have come to where several meet, on this replica.
#[derive(Debug, Default)]
struct Arrivals(AtomicU64);

impl Arrivals {
    /// Whether `group` is the last of `all`.
    fn is_last(&self, group: GroupId, all: GroupSet) -> bool {
        let bit = GroupSet::one(group).0;
        let before = self.0.fetch_or(bit, Ordering::AcqRel);
        debug_assert_eq!(before & bit, 0, "{group:?} arrived twice where {all:?} meet");
        before | bit == all.0
    }
}

impl Arrivals {
    /// Whether `group` is not the last of `all`, and then is among those that have come.
    fn add_unless_last(&self, group: GroupId, all: GroupSet) -> bool {
        let bit = GroupSet::one(group).0;
        let add = |before| (before | bit != all.0).then_some(before | bit);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }
}

impl Barrier {
    /// Records the arrival of `group`; true for the last group of γ, which then holds all of γ: the others are parked here.
    pub fn arrive(&self, group: GroupId) -> bool {
        self.arrivals.is_last(group, self.gamma)
    }

    /// Records the arrival of `group` as `arrive` does, unless it is the last: false then, and it has to come by itself.
    pub fn arrive_unless_last(&self, group: GroupId) -> bool {
        self.arrivals.add_unless_last(group, self.gamma)
    }

    /// The numbers of `group`, which is in γ.
    pub fn numbers_of(&self, group: GroupId) -> Numbers {
        self.numbers[rank(self.gamma, group)]
    }
}

/// Something a group comes to in an entry.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// Commands for this group alone.
    Run(&'a Run),
    /// Commands for it and others.
    Barrier(&'a Barrier),
}

/// Index into `Entry::runs`, or, with this bit, into `Entry::barriers`.
const BARRIER_BIT: u32 = 1 << 31;

/// What the groups come to in an entry, each in order of delivery.
#[derive(Debug, Default)]
struct Items {
    /// All groups' items, by group.
    all: Vec<u32>,
    /// Where the items of each group that has some begin, ascending, and where they end.
    starts: Vec<u32>,
}

impl Items {
    /// `found`: in order of delivery; `groups`: those that are in it.
    fn new(groups: GroupSet, found: &[(GroupId, u32)]) -> Items {
        let mut starts = vec![0; groups.len() + 1];
        found.iter().for_each(|(group, _)| starts[rank(groups, *group) + 1] += 1);
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let (mut next, mut all) = (starts.clone(), vec![0; found.len()]);
        for (group, item) in found {
            let place = &mut next[rank(groups, *group)];
            all[*place as usize] = *item;
            *place += 1;
        }
        Items { all, starts }
    }

    fn of(&self, groups: GroupSet, group: GroupId) -> &[u32] {
        let at = rank(groups, group);
        match (groups.contains(group), self.starts.get(at), self.starts.get(at + 1)) {
            (true, Some(start), Some(end)) => &self.all[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

/// How many of `groups` are below `group`.
fn rank(groups: GroupSet, group: GroupId) -> usize {
    GroupSet(groups.0 & (GroupSet::one(group).0 - 1)).len()
}

/// A command to the engine itself, multicast to all groups through the cross log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// A consistent cut: the replicas in the mask (bit `replica`) checkpoint their groups here.
    Checkpoint {
        /// Bit i: replica i.
        replicas: u64,
    },
    /// The first command of the cross log: the digest of the cluster's genesis record. A replica with another one ends.
    Genesis {
        /// What `Config::genesis` has to be.
        digest: u64,
    },
    /// A consistent cut: every replica computes its state's digest here.
    Digest {
        /// Chosen by who asked.
        request: u64,
    },
    /// Of a service whose groups share their state: all groups meet, and do what is due by now.
    Time,
}

impl System {
    /// Whether replicas look at their whole state there, or change it.
    pub fn is_cut(self) -> bool {
        !matches!(self, System::Genesis { .. })
    }
}

/// A committed entry, decoded.
#[derive(Debug)]
pub struct Entry {
    /// The log.
    pub log: LogId,
    /// The position in it.
    pub index: u64,
    /// The leader's clock when it made the entry, in milliseconds since 1970.
    pub stamp_ms: u64,
    /// M(n): before anything else in this entry, the stream's groups deliver the cross log up to n. 0: no marker.
    pub marker: u64,
    /// Groups whose clocks move to the stamp even if nothing here is theirs.
    pub time_groups: GroupSet,
    /// All groups that have an item here.
    pub groups: GroupSet,
    /// The batches' heads.
    pub heads: Vec<BatchHead>,
    /// The meetings.
    pub barriers: Vec<Barrier>,
    /// A command to the engine; then `groups` is all groups, and there are no items.
    pub system: Option<System>,
    /// When this replica learned that it is committed, by the observer's clock; 0: it is not timed.
    pub committed_us: u64,
    /// At a cut where all groups meet.
    arrivals: Arrivals,
    runs: Vec<Run>,
    items: Items,
    data: Bytes,
}

impl Entry {
    /// Records the arrival of `group` at a command to the engine at which all groups meet; true for the last one.
    pub fn arrive(&self, group: GroupId) -> bool {
        self.arrivals.is_last(group, self.groups)
    }

    /// Decodes what `encode_batches` or `encode_system` made; an empty entry (a new leader's first) has nothing in it.
    ///
    /// # Errors
    /// If the bytes are no entry of this version, or name groups that `log` does not carry (`allowed`).
    pub fn decode(log: LogId, index: u64, allowed: GroupSet, data: &Bytes) -> Result<Entry, Malformed> {
        let mut entry = Entry::blank(log, index, data);
        if data.is_empty() {
            return Ok(entry);
        }
        let mut reader = Reader::new(data.clone());
        if reader.u8("entry version")? != ENTRY_VERSION {
            return Err(reader.malformed("entry version"));
        }
        let kind = reader.u8("entry kind")?;
        entry.stamp_ms = reader.u64("stamp")?;
        entry.marker = reader.u64("marker")?;
        entry.time_groups = GroupSet(reader.u64("time groups")?);
        match kind {
            KIND_COMMANDS => entry.decode_batches(&mut reader, allowed)?,
            KIND_SYSTEM => {
                entry.system = Some(decode_system(&mut reader)?);
                entry.groups = allowed;
            }
            _ => return Err(reader.malformed("entry kind")),
        }
        Ok(entry)
    }

    fn blank(log: LogId, index: u64, data: &Bytes) -> Entry {
        Entry {
            log,
            index,
            stamp_ms: 0,
            marker: 0,
            time_groups: GroupSet::EMPTY,
            groups: GroupSet::EMPTY,
            heads: Vec::new(),
            barriers: Vec::new(),
            system: None,
            committed_us: 0,
            arrivals: Arrivals::default(),
            runs: Vec::new(),
            items: Items::default(),
            data: data.clone(),
        }
    }

    /// Decodes batches up to the end.
    fn decode_batches(&mut self, reader: &mut Reader, allowed: GroupSet) -> Result<(), Malformed> {
        let mut found = Vec::with_capacity(allowed.len());
        self.runs.reserve(allowed.len());
        while !reader.is_at_end() {
            self.decode_batch(reader, allowed, &mut found)?;
        }
        self.items = Items::new(self.groups, &found);
        Ok(())
    }

    /// Adds what the groups come to in it to `found`.
    fn decode_batch(&mut self, reader: &mut Reader, allowed: GroupSet, found: &mut Vec<(GroupId, u32)>) -> Result<(), Malformed> {
        let length = reader.u32("batch length")? as usize;
        let end = reader.offset() + length;
        let head = decode_head(reader)?;
        let head_index = self.heads.len() as u32;
        self.heads.push(head);
        while reader.offset() < end {
            let (groups, item) = match reader.u8("section kind")? {
                SECTION_SINGLE => {
                    let group = GroupId(reader.u8("group")?);
                    if usize::from(group.0) >= crate::command::GROUPS_MAX || !allowed.contains(group) {
                        return Err(reader.malformed("group"));
                    }
                    let numbers = decode_numbers(reader)?;
                    let (count, commands) = self.decode_commands(reader, &[numbers])?;
                    self.runs.push(Run { head: head_index, numbers, count, commands });
                    (GroupSet::one(group), self.runs.len() as u32 - 1)
                }
                SECTION_MULTI => {
                    let gamma = GroupSet(reader.u64("γ")?);
                    if gamma.len() < 2 || !gamma.is_subset(allowed) {
                        return Err(reader.malformed("γ"));
                    }
                    let numbers = (0..gamma.len()).map(|_| decode_numbers(reader)).collect::<Result<Vec<_>, _>>()?;
                    let (count, commands) = self.decode_commands(reader, &numbers)?;
                    self.barriers.push(Barrier {
                        head: head_index,
                        gamma,
                        numbers,
                        count,
                        commands,
                        arrivals: Arrivals::default(),
                    });
                    (gamma, BARRIER_BIT | (self.barriers.len() as u32 - 1))
                }
                _ => return Err(reader.malformed("section kind")),
            };
            self.groups = self.groups.union(groups);
            found.extend(groups.iter().map(|group| (group, item)));
        }
        if reader.offset() == end {
            Ok(())
        } else {
            Err(reader.malformed("batch length"))
        }
    }

    fn decode_commands(&self, reader: &mut Reader, numbers: &[Numbers]) -> Result<(u32, Range<usize>), Malformed> {
        let count = reader.u32("command count")?;
        if numbers.iter().any(|n| n.first.checked_add(u64::from(count)).is_none()) {
            return Err(reader.malformed("number"));
        }
        let length = reader.u32("commands' length")? as usize;
        let range = reader.skip(length, "commands")?;
        let mut rest = &self.data[range.clone()];
        let mut seen = 0;
        while let Some((_, after)) = split_command(rest) {
            rest = after;
            seen += 1;
        }
        if seen != count || count == 0 || !rest.is_empty() {
            return Err(reader.malformed("commands"));
        }
        Ok((count, range))
    }

    /// The `position`-th thing that `group` comes to here.
    pub fn item(&self, group: GroupId, position: usize) -> Option<Item<'_>> {
        let item = *self.items.of(self.groups, group).get(position)?;
        Some(match item & BARRIER_BIT {
            0 => Item::Run(&self.runs[item as usize]),
            _ => Item::Barrier(&self.barriers[(item & !BARRIER_BIT) as usize]),
        })
    }

    /// The bytes of a run's or barrier's commands.
    pub fn commands(&self, range: &Range<usize>) -> &[u8] {
        &self.data[range.clone()]
    }

    /// The whole entry, as it is in the log.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// How much memory the entry holds, in bytes.
    pub fn weight(&self) -> usize {
        self.data.len() + 128
    }
}

/// Decodes a batch that came from elsewhere, before it is proposed to `log`, as the only one of an entry.
///
/// # Errors
/// As `Entry::decode`, or if it is longer than `BATCH_BYTES_MAX`.
pub fn decode_batch(allowed: GroupSet, log: LogId, batch: &Bytes) -> Result<Entry, Malformed> {
    if batch.len() > BATCH_BYTES_MAX {
        return Err(Malformed { what: "length of a batch, which is over the limit,", offset: 0 });
    }
    let mut entry = Entry::blank(log, 0, batch);
    entry.decode_batches(&mut Reader::new(batch.clone()), allowed)?;
    Ok(entry)
}

fn decode_head(reader: &mut Reader) -> Result<BatchHead, Malformed> {
    let session = SessionId(reader.u64("session")?);
    let origin = reader.u8("origin")?;
    let flags = reader.u8("batch flags")?;
    let routing_version = reader.u32("routing version")?;
    let expires_ms = reader.u64("expiry")?;
    Ok(BatchHead { session, origin, keep_replies: flags & FLAG_KEEP_REPLIES != 0, routing_version, expires_ms })
}

fn decode_numbers(reader: &mut Reader) -> Result<Numbers, Malformed> {
    let numbers = Numbers { first: reader.u64("number")?, acknowledged: reader.u64("acknowledged number")? };
    if numbers.acknowledged >= numbers.first {
        return Err(reader.malformed("acknowledged number"));
    }
    Ok(numbers)
}

/// The next command of a section, without its seed, and what follows it.
pub(crate) fn split_command(bytes: &[u8]) -> Option<(Command<'_>, &[u8])> {
    let head = u32::from_le_bytes(bytes.get(..COMMAND_HEAD)?.try_into().ok()?);
    let end = COMMAND_HEAD + (head & !READ_FLAG) as usize;
    let payload = bytes.get(COMMAND_HEAD..end)?;
    Some((Command { payload, read: head & READ_FLAG != 0, seed: 0 }, &bytes[end..]))
}

/// Splits off the first `count` commands of a section.
pub(crate) fn split_commands(bytes: &[u8], count: u64) -> (&[u8], &[u8]) {
    let mut rest = bytes;
    for _ in 0..count {
        match split_command(rest) {
            Some((_, after)) => rest = after,
            None => break,
        }
    }
    bytes.split_at(bytes.len() - rest.len())
}

fn push_command(out: &mut Vec<u8>, payload: &[u8], read: bool) {
    out.u32(payload.len() as u32 | if read { READ_FLAG } else { 0 });
    out.extend_from_slice(payload);
}

/// Lays commands out as a slice; for services' own tests.
pub fn slice_bytes(commands: &[(&[u8], bool)]) -> Bytes {
    let mut out = Vec::new();
    for (payload, read) in commands {
        push_command(&mut out, payload, *read);
    }
    out.into()
}

/// The commands of one section while it is being gathered.
#[derive(Debug, Default, Clone)]
pub struct Section {
    /// How many.
    pub count: u32,
    bytes: Vec<u8>,
}

impl Section {
    /// Adds a command.
    pub fn push(&mut self, payload: &[u8], read: bool) {
        self.count += 1;
        push_command(&mut self.bytes, payload, read);
    }

    /// Forgets the commands, keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }

    /// How many bytes the commands take.
    pub fn weight(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.u32(self.count);
        out.blob(&self.bytes);
    }
}

/// How many bytes a section has before its commands.
pub(crate) fn section_head_bytes(gamma: GroupSet) -> usize {
    let groups = if gamma.len() == 1 { 2 } else { 9 };
    groups + 16 * gamma.len() + 8
}

/// How many bytes a command has in its section.
pub(crate) fn command_bytes(payload: &[u8]) -> usize {
    COMMAND_HEAD + payload.len()
}

/// The bytes of a batch before its sections.
pub(crate) const BATCH_HEAD_BYTES: usize = 26;

/// Builds a batch: the commands of one session for one log.
#[derive(Debug)]
pub struct BatchBuilder {
    out: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch with this head, with room for sections of `bytes` bytes.
    pub fn with_capacity(head: &BatchHead, bytes: usize) -> BatchBuilder {
        let mut out = Vec::with_capacity(BATCH_HEAD_BYTES + bytes);
        out.u32(0);
        out.u64(head.session.0);
        out.u8(head.origin);
        out.u8(if head.keep_replies { FLAG_KEEP_REPLIES } else { 0 });
        out.u32(head.routing_version);
        out.u64(head.expires_ms);
        debug_assert_eq!(out.len(), BATCH_HEAD_BYTES);
        BatchBuilder { out }
    }

    /// Adds commands for one group.
    pub fn single(&mut self, group: GroupId, numbers: Numbers, section: &Section) {
        self.out.u8(SECTION_SINGLE);
        self.out.u8(group.0);
        self.numbers(numbers);
        section.write(&mut self.out);
    }

    /// Adds commands of equal γ, with the numbers of γ's groups in ascending order.
    pub fn multi(&mut self, gamma: GroupSet, numbers: impl Iterator<Item = Numbers>, section: &Section) {
        self.out.u8(SECTION_MULTI);
        self.out.u64(gamma.0);
        numbers.for_each(|n| self.numbers(n));
        section.write(&mut self.out);
    }

    fn numbers(&mut self, numbers: Numbers) {
        self.out.u64(numbers.first);
        self.out.u64(numbers.acknowledged);
    }

    /// The batch.
    pub fn finish(mut self) -> Bytes {
        let length = self.out.len() as u32 - 4;
        self.out[..4].copy_from_slice(&length.to_le_bytes());
        self.out.into()
    }
}

/// Where a batch's origin is.
const ORIGIN_AT: usize = 12;

/// The same batch, to be answered by another replica.
pub fn with_origin(batch: &Bytes, origin: ReplicaId) -> Bytes {
    let mut out = batch.to_vec();
    out[ORIGIN_AT] = origin;
    out.into()
}

/// The bytes of an entry before its batches.
pub const ENTRY_HEAD_BYTES: usize = 26;

/// An entry that holds these batches.
pub fn encode_batches<'a>(
    batches: impl Iterator<Item = &'a Bytes> + Clone,
    stamp_ms: u64,
    marker: u64,
    time_groups: GroupSet,
) -> Bytes {
    let mut out = Vec::with_capacity(ENTRY_HEAD_BYTES + batches.clone().map(Bytes::len).sum::<usize>());
    out.u8(ENTRY_VERSION);
    out.u8(KIND_COMMANDS);
    out.u64(stamp_ms);
    out.u64(marker);
    out.u64(time_groups.0);
    debug_assert_eq!(out.len(), ENTRY_HEAD_BYTES);
    batches.for_each(|batch| out.extend_from_slice(batch));
    out.into()
}

/// An entry that holds a command to the engine.
pub fn encode_system(stamp_ms: u64, system: System) -> Bytes {
    let mut out = Vec::new();
    out.u8(ENTRY_VERSION);
    out.u8(KIND_SYSTEM);
    out.u64(stamp_ms);
    out.u64(0);
    out.u64(0);
    write_system(&mut out, system);
    out.into()
}

/// Writes a command to the engine.
pub fn write_system(out: &mut Vec<u8>, system: System) {
    match system {
        System::Checkpoint { replicas } => {
            out.u8(1);
            out.u64(replicas);
        }
        System::Digest { request } => {
            out.u8(2);
            out.u64(request);
        }
        System::Genesis { digest } => {
            out.u8(3);
            out.u64(digest);
        }
        System::Time => out.u8(4),
    }
}

/// Reads what `write_system` wrote.
///
/// # Errors
/// If it is no such command.
pub fn decode_system(reader: &mut Reader) -> Result<System, Malformed> {
    match reader.u8("system command")? {
        1 => Ok(System::Checkpoint { replicas: reader.u64("replicas")? }),
        2 => Ok(System::Digest { request: reader.u64("request")? }),
        3 => Ok(System::Genesis { digest: reader.u64("genesis digest")? }),
        4 => Ok(System::Time),
        _ => Err(reader.malformed("system command")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::any;

    const HEAD: BatchHead =
        BatchHead { session: SessionId(7), origin: 2, keep_replies: true, routing_version: 1, expires_ms: 99 };

    fn numbers(first: u64) -> Numbers {
        Numbers { first, acknowledged: first - 1 }
    }

    fn sample() -> Bytes {
        let mut section = Section::default();
        section.push(b"a", false);
        section.push(b"bc", true);
        let mut batch = BatchBuilder::with_capacity(&HEAD, 0);
        batch.single(GroupId(3), numbers(1), &section);
        batch.multi([GroupId(1), GroupId(3)].into_iter().collect(), [numbers(5), numbers(3)].into_iter(), &section);
        batch.single(GroupId(3), numbers(5), &section);
        encode_batches([batch.finish()].iter(), 123, 9, GroupSet::one(GroupId(0)))
    }

    #[test]
    fn a_group_finds_its_items_in_order() {
        let entry = Entry::decode(LogId(0), 4, GroupSet::all(4), &sample()).unwrap();
        assert_eq!((entry.stamp_ms, entry.marker, entry.heads[0]), (123, 9, HEAD));
        let Some(Item::Run(run)) = entry.item(GroupId(3), 0) else { panic!("no run") };
        let commands: Vec<_> =
            crate::service::Slice::new(entry.commands(&run.commands), true).map(|c| c.payload.to_vec()).collect();
        assert_eq!(commands, [b"a".to_vec(), b"bc".to_vec()]);
        assert_eq!(crate::service::Slice::new(entry.commands(&run.commands), false).count(), 1);
        assert!(matches!(entry.item(GroupId(3), 1), Some(Item::Barrier(_))));
        assert!(matches!(entry.item(GroupId(3), 2), Some(Item::Run(_))));
        assert!(entry.item(GroupId(3), 3).is_none() && entry.item(GroupId(2), 0).is_none());
        assert_eq!(entry.barriers[0].numbers_of(GroupId(3)), numbers(3));
        assert!(entry.barriers[0].arrive_unless_last(GroupId(3)));
        assert!(!entry.barriers[0].arrive_unless_last(GroupId(1)));
        assert!(entry.barriers[0].arrive(GroupId(1)));
    }

    /// Decodes bytes as an entry and as a batch; of an entry, everything that a group would read.
    fn walk(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = decode_batch(GroupSet::all(4), LogId(0), &bytes);
        let Ok(entry) = Entry::decode(LogId(0), 1, GroupSet::all(4), &bytes) else { return };
        for group in GroupSet::all(4).iter() {
            for item in (0..).map_while(|at| entry.item(group, at)) {
                match item {
                    Item::Run(run) => {
                        crate::service::Slice::new(entry.commands(&run.commands), true)
                            .for_each(|c| assert!(c.payload.len() < 1_000));
                    }
                    Item::Barrier(barrier) => assert!(barrier.numbers_of(group).first > 0),
                }
            }
        }
    }

    #[test]
    fn groups_of_another_log_are_refused() {
        assert!(Entry::decode(LogId(0), 4, GroupSet::all(3), &sample()).is_err());
    }

    #[test]
    fn numbers_that_run_over_are_refused() {
        let mut section = Section::default();
        section.push(b"a", false);
        section.push(b"b", false);
        for (first, is_allowed) in [(u64::MAX - 2, true), (u64::MAX - 1, false)] {
            let mut batch = BatchBuilder::with_capacity(&HEAD, 0);
            batch.single(GroupId(0), numbers(first), &section);
            assert_eq!(decode_batch(GroupSet::all(4), LogId(0), &batch.finish()).is_ok(), is_allowed);
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_bytes_decode_or_are_refused(cut in 1usize..200, damage in vec((0usize..200, any::<u8>()), 1..6)) {
            let mut bytes = sample().to_vec();
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            walk(bytes);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(head in 0usize..60, tail in vec(any::<u8>(), 0..200)) {
            let mut bytes = sample()[..head.min(sample().len())].to_vec();
            bytes.extend(tail);
            walk(bytes);
        }
    }
}
