//! The key-value service: keys and values are bytes, a key may expire. It knows no client protocol: commands come as
//! [`command::Operation`]s, replies go as [`reply::Reply`]s.
//!
//! A key is in the group of its slot. Commands on keys of one group are executed by the group's partition; commands on keys
//! of several groups by [`KvService`] over the handles of γ. Both check that a key is where γ says.
//!
//! Time is log time. A key whose expiry has come does not exist; each write removes a few such keys of its group, and each time
//! mark more of them, so that their memory returns. How many depends on the log alone: replicas stay alike however delivery is
//! cut into slices.

mod blocks;
pub mod bytes;
pub mod command;
pub mod entries;
pub mod fields;
pub mod reply;
pub mod subsequence;
pub mod transaction;

mod bits;
mod float80;
mod partition;
mod place;
pub mod range;
mod snapshot;
mod store;
mod totals;
mod whole;

pub(crate) use partition::parse_integer;
pub use partition::KvPartition;
pub use place::{place_of, Place};
pub use totals::Totals;

use command::Operation;
use partition::PREPARED_AT_ONCE;
use psmr_core::command::GroupId;
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, Service};
use reply::{KvError, WriteReply};
use std::sync::Arc;
use transaction::Transaction;

/// The longest value that APPEND makes. It is a part of the service, not of a replica's configuration: all replicas must
/// agree on it.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// The service.
#[derive(Clone, Debug, Default)]
pub struct KvService {
    /// How many keys there are.
    pub totals: Arc<Totals>,
}

impl Service for KvService {
    fn name(&self) -> &str {
        "kv"
    }

    fn partition(&self, group: GroupId, topology: &Topology) -> Box<dyn Partition> {
        Box::new(KvPartition::new(group, topology.clone()).counted_by(self.totals.clone()))
    }

    fn is_brief(&self, payload: &[u8]) -> bool {
        command::is_brief(payload)
    }

    fn execute(&self, handles: &mut Handles<'_>, command: Command<'_>, context: &Context, reply: &mut Vec<u8>) {
        let start = reply.len();
        if let Err(kind) = execute(handles, command, context.now_ms, reply) {
            reply.truncate(start);
            reply.error(kind);
        }
        if !command.read {
            let _ = each_partition(handles, |partition| partition.tell_totals());
        }
    }
}

/// Executes a command over several groups, as a whole or not at all.
fn execute(handles: &mut Handles<'_>, command: Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
    let operation = Operation::decode(command.payload).ok_or(KvError::Malformed)?;
    match operation {
        Operation::GetMany { keys } => {
            fetch(handles, keys)?;
            out.list(keys.len());
            keys.into_iter().try_for_each(|key| {
                partition_of(handles, key)?.get(key, now_ms, out);
                Ok(())
            })
        }
        Operation::Exists { keys } => {
            let mut count = 0;
            for key in keys {
                count += i64::from(partition_of(handles, key)?.exists(key, now_ms));
            }
            out.integer(count);
            Ok(())
        }
        Operation::Size => {
            let mut count = 0;
            each_partition(handles, |partition| count += partition.size(now_ms) as i64)?;
            out.integer(count);
            Ok(())
        }
        Operation::Keys { .. } | Operation::RandomKey { .. } | Operation::Range { .. } | Operation::CountRange { .. } => {
            if handles.gamma() != handles.topology().all() {
                return Err(KvError::OutsideGamma);
            }
            let all: Vec<&KvPartition> = handles.partitions().filter_map(|p| p.as_any_mut().downcast_ref()).collect();
            whole::read(&all, &operation, now_ms, out)
        }
        Operation::Versions { keys } => {
            out.list(keys.len());
            keys.into_iter().try_for_each(|key| {
                out.integer(partition_of(handles, key)?.version(key, now_ms) as i64);
                Ok(())
            })
        }
        Operation::Subsequence { one, other, wanted } => {
            let one = partition_of(handles, one)?.value(one, now_ms).to_vec();
            subsequence::write(&one, partition_of(handles, other)?.value(other, now_ms), wanted, out)
        }
        Operation::Transaction(transaction) => transact(handles, &transaction, command, now_ms, out),
        _ if command.read => Err(KvError::Malformed),
        Operation::Delete { keys } => {
            check_gamma(handles, keys)?;
            each_partition(handles, |partition| partition.begin_write(now_ms))?;
            let mut count = 0;
            for key in keys {
                count += i64::from(partition_of(handles, key)?.delete(key, now_ms));
            }
            out.integer(count);
            Ok(())
        }
        Operation::SetMany { pairs } => {
            check_gamma(handles, pairs.step_by(2))?;
            each_partition(handles, |partition| partition.begin_write(now_ms))?;
            fetch(handles, pairs.step_by(2))?;
            for (key, value) in pairs.pairs() {
                partition_of(handles, key)?.put(key, value, now_ms);
            }
            out.done();
            Ok(())
        }
        Operation::SetManyAbsent { pairs } => {
            check_gamma(handles, pairs.step_by(2))?;
            each_partition(handles, |partition| partition.begin_write(now_ms))?;
            let mut is_done = true;
            for key in pairs.step_by(2) {
                is_done &= !partition_of(handles, key)?.exists(key, now_ms);
            }
            for (key, value) in pairs.pairs().filter(|_| is_done) {
                partition_of(handles, key)?.put(key, value, now_ms);
            }
            out.integer(i64::from(is_done));
            Ok(())
        }
        Operation::Move { source, target, copy, absent, counts } => {
            check_gamma(handles, [source, target])?;
            each_partition(handles, |partition| partition.begin_write(now_ms))?;
            let content = partition_of(handles, source)?.content(source, now_ms);
            let is_taken = absent && partition_of(handles, target)?.exists(target, now_ms);
            match (content, is_taken) {
                (None, _) if !(copy && counts) => return Err(KvError::NoSuchKey),
                (None, _) | (Some(_), true) => out.integer(0),
                (Some(content), false) => {
                    partition_of(handles, target)?.put_content(target, &content, now_ms);
                    if !copy {
                        partition_of(handles, source)?.delete(source, now_ms);
                    }
                    partition::moved(counts, out);
                }
            }
            Ok(())
        }
        Operation::Combine { kind, keys } => {
            check_gamma(handles, keys)?;
            each_partition(handles, |partition| partition.begin_write(now_ms))?;
            let mut combination = bits::Combination::new(kind);
            for source in keys.skip(1) {
                combination.add(partition_of(handles, source)?.value(source, now_ms));
            }
            let target = keys.into_iter().next().ok_or(KvError::Malformed)?;
            partition_of(handles, target)?.put_combined(target, &combination.finish(), now_ms, out);
            Ok(())
        }
        Operation::Clear => {
            if handles.gamma() != handles.topology().all() {
                return Err(KvError::OutsideGamma);
            }
            each_partition(handles, KvPartition::clear)?;
            out.done();
            Ok(())
        }
        _ => Err(KvError::Malformed),
    }
}

/// Executes the steps one after the other, each as if it were alone, if no watched key has changed.
fn transact(
    handles: &mut Handles<'_>,
    transaction: &Transaction<'_>,
    command: Command<'_>,
    now_ms: u64,
    out: &mut Vec<u8>,
) -> Result<(), KvError> {
    let gamma = handles.gamma();
    if !transaction.groups().is_subset(gamma) {
        return Err(KvError::OutsideGamma);
    }
    for (key, version) in transaction.watched() {
        if partition_of(handles, key)?.version(key, now_ms) != version {
            out.null();
            return Ok(());
        }
    }
    out.list(transaction.len());
    for (number, step) in (1..).zip(transaction.steps()) {
        let seed = command.seed.wrapping_add(number);
        let start = out.len();
        let done = match step.group {
            Some(group) => {
                partition(handles, group)?.execute_one(step.command, command.read, now_ms, out);
                Ok(())
            }
            None => execute(handles, Command { payload: step.command, seed, ..command }, now_ms, out),
        };
        if let Err(kind) = done {
            out.truncate(start);
            out.error(kind);
        }
    }
    Ok(())
}

/// Fetches what searches for the keys will touch, so that they wait for memory together rather than one by one.
fn fetch<'k>(handles: &mut Handles<'_>, keys: impl Iterator<Item = &'k [u8]>) -> Result<(), KvError> {
    let mut found = [(GroupId(0), 0); PREPARED_AT_ONCE];
    let mut count = 0;
    for (at, key) in found.iter_mut().zip(keys) {
        let Place { slot, hash } = place_of(key);
        *at = (handles.topology().group_of_slot(slot), hash);
        count += 1;
    }
    for (group, hash) in &found[..count] {
        partition(handles, *group)?.store.prefetch_leaf(*hash);
    }
    for (group, hash) in &found[..count] {
        partition(handles, *group)?.store.prefetch_entry(*hash);
    }
    Ok(())
}

fn check_gamma<'k>(handles: &Handles<'_>, keys: impl IntoIterator<Item = &'k [u8]>) -> Result<(), KvError> {
    let (topology, gamma) = (handles.topology(), handles.gamma());
    let is_inside = |key: &[u8]| gamma.contains(topology.group_of_slot(place_of(key).slot));
    keys.into_iter().all(is_inside).then_some(()).ok_or(KvError::OutsideGamma)
}

fn partition_of<'h>(handles: &'h mut Handles<'_>, key: &[u8]) -> Result<&'h mut KvPartition, KvError> {
    let group = handles.topology().group_of_slot(place_of(key).slot);
    partition(handles, group)
}

fn partition<'h>(handles: &'h mut Handles<'_>, group: GroupId) -> Result<&'h mut KvPartition, KvError> {
    let partition = handles.get(group).map_err(|_| KvError::OutsideGamma)?;
    partition.as_any_mut().downcast_mut().ok_or(KvError::OutsideGamma)
}

fn each_partition(handles: &mut Handles<'_>, mut each: impl FnMut(&mut KvPartition)) -> Result<(), KvError> {
    for group in handles.gamma().iter() {
        each(partition(handles, group)?);
    }
    Ok(())
}

/// Where a scan over all groups is: the group, and the position in it.
///
/// A cursor is below 2^53, so that clients that keep it as a floating-point number do not lose digits. The hash's lower bits
/// are not in it: keys that differ only there are given together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The group.
    pub group: GroupId,
    /// The upper bits of the hash of the next key.
    pub position: u64,
}

const POSITION_BITS: u32 = 47;

impl Cursor {
    /// The cursor as a number.
    pub fn number(self) -> u64 {
        u64::from(self.group.0) << POSITION_BITS | self.position
    }

    /// The cursor that a number stands for; `None` if no scan of this cluster gave it.
    pub fn from_number(number: u64, topology: &Topology) -> Option<Cursor> {
        let group = u8::try_from(number >> POSITION_BITS).ok().filter(|group| usize::from(*group) < topology.groups)?;
        Some(Cursor { group: GroupId(group), position: number & ((1 << POSITION_BITS) - 1) })
    }

    /// Where in a group's order of hashes a scan from a position begins.
    fn first_hash(position: u64) -> u64 {
        position << (u64::BITS - POSITION_BITS)
    }

    /// The position that a key is in.
    fn position_of(hash: u64) -> u64 {
        hash >> (u64::BITS - POSITION_BITS)
    }

    /// The number of the cursor after `position` in `group`; 0 after the last one of all.
    fn number_after(group: GroupId, position: u64, topology: &Topology) -> u64 {
        let next = Cursor { group, position }.number() + 1;
        if next >> POSITION_BITS >= topology.groups as u64 {
            0
        } else {
            next
        }
    }
}
