//! Reads of all keys, in all groups as they are at one moment: each looks at every key.

use super::command::Operation;
use super::partition::{is_live, KvPartition, Time, Unsettled};
use super::range::Found;
use super::reply::{KvError, WriteReply};
use crate::glob;

/// Reads all groups, where the time is known.
pub fn read(all: &[&KvPartition], operation: &Operation<'_>, now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
    read_at(all, operation, Time::settled(now_ms), out).map_err(|Unsettled| KvError::Malformed)
}

/// Reads all groups. If the time is unsettled, nothing has been written.
pub fn read_at(all: &[&KvPartition], operation: &Operation<'_>, time: Time, out: &mut Vec<u8>) -> Result<(), Unsettled> {
    match *operation {
        Operation::Keys { pattern } => {
            let mut keys = Vec::new();
            visit(all, 0, time, |key, _| {
                if glob::matches(pattern, key) {
                    keys.push(key);
                }
                true
            })?;
            out.list(keys.len());
            keys.iter().for_each(|key| out.string(key));
        }
        Operation::RandomKey { seed } => match random_key(all, seed, time)? {
            Some(key) => out.string(key),
            None => out.null(),
        },
        Operation::Range { bounds, limit, is_reverse } => {
            let mut found = Found::new(limit, is_reverse);
            visit(all, 0, time, |key, value| {
                if bounds.contain(key) {
                    found.add(key, value);
                }
                true
            })?;
            found.write(out);
        }
        Operation::CountRange { bounds } => {
            let mut count = 0;
            visit(all, 0, time, |key, _| {
                count += i64::from(bounds.contain(key));
                true
            })?;
            out.integer(count);
        }
        _ => out.error(KvError::Malformed),
    }
    Ok(())
}

/// Calls `each` with the keys and values that are there, in each group from a hash on, until it returns false.
fn visit<'a>(
    all: &[&'a KvPartition],
    from: u64,
    time: Time,
    mut each: impl FnMut(&'a [u8], &'a [u8]) -> bool,
) -> Result<(), Unsettled> {
    let mut result = Ok(());
    let mut goes_on = true;
    for partition in all {
        partition.store.visit_from(from, |_, key, value, _| {
            match is_live(value, time) {
                Ok(true) => goes_on = each(key, value.bytes()),
                Ok(false) => {}
                Err(unsettled) => (goes_on, result) = (false, Err(unsettled)),
            }
            goes_on
        });
        if !goes_on {
            break;
        }
    }
    result
}

/// A key of a group that the seed decides, by the groups' sizes, from a hash on that the seed decides.
fn random_key<'a>(all: &[&'a KvPartition], seed: u64, time: Time) -> Result<Option<&'a [u8]>, Unsettled> {
    let total: usize = all.iter().map(|partition| partition.store.len()).sum();
    let mut left = (seed as u32 as usize).checked_rem(total).unwrap_or_default();
    let mut first = 0;
    while first + 1 < all.len() && left >= all[first].store.len() {
        left -= all[first].store.len();
        first += 1;
    }
    let mut found = None;
    let others = [&all[first..], &all[..first]].concat();
    for (group, from) in [(&others[..1.min(others.len())], seed.rotate_left(32)), (&others[..], 0)] {
        if found.is_none() {
            visit(group, from, time, |key, _| {
                found = Some(key);
                false
            })?;
        }
    }
    Ok(found)
}
