//! Transactions as bytes: several commands that are executed as one, if keys are as they were.
//!
//! ```text
//! transaction = watched count, (key string, version u64)..., step...     steps up to the end
//! step        = group u8 (255: several groups), command string
//! ```
//! Lengths and counts as in `command`.

use super::command::{self, push_string, push_varint, split_string, split_varint, Operation};
use psmr_core::command::{GroupId, GroupSet, GROUPS_MAX};

/// Stands for the groups of a step that is over several.
const SEVERAL: u8 = u8::MAX;

/// What a step takes beyond its command's bytes, at most.
pub const STEP_HEAD_BYTES_MAX: usize = 11;

/// What a watched key takes beyond its bytes, at most.
pub const WATCHED_HEAD_BYTES_MAX: usize = 18;

/// The commands of a transaction and the keys that it depends on. Its bytes have been checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transaction<'a> {
    watched_count: usize,
    watched: &'a [u8],
    step_count: usize,
    steps: &'a [u8],
    /// The groups of the steps that have one.
    groups: GroupSet,
    /// There are steps over several.
    has_several: bool,
}

/// One command of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The group of its keys; `None` if they are in several.
    pub group: Option<GroupId>,
    /// The command.
    pub command: &'a [u8],
}

impl<'a> Transaction<'a> {
    /// The transaction that all of `bytes` is. None is within another one.
    pub fn decode(bytes: &'a [u8]) -> Option<Transaction<'a>> {
        let (watched_count, watched, steps) = split_parts(bytes)?;
        let (mut rest, mut step_count) = (steps, 0);
        let (mut groups, mut has_several) = (GroupSet::EMPTY, false);
        while !rest.is_empty() {
            let (step, after) = split_step(rest)?;
            if command::is_transaction(step.command) {
                return None;
            }
            match step.group {
                Some(group) if group.index() < GROUPS_MAX => groups.insert(group),
                Some(_) => return None,
                None => has_several = true,
            }
            step_count += 1;
            rest = after;
        }
        Some(Transaction { watched_count, watched, step_count, steps, groups, has_several })
    }

    /// Whether all of `bytes` is a transaction whose steps are such, so far as can be told without decoding them.
    pub fn are_all_steps(bytes: &'a [u8], mut is_such: impl FnMut(&'a [u8]) -> bool) -> bool {
        let Some((_, _, mut rest)) = split_parts(bytes) else { return false };
        while !rest.is_empty() {
            match split_step(rest) {
                Some((step, after)) if is_such(step.command) => rest = after,
                _ => return false,
            }
        }
        true
    }

    /// The groups of the steps that have one.
    pub fn groups(&self) -> GroupSet {
        self.groups
    }

    /// Whether all steps are in this group alone.
    pub fn is_of(&self, group: GroupId) -> bool {
        !self.has_several && self.groups.is_subset(GroupSet::one(group))
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.step_count
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.step_count == 0
    }

    /// The keys that the transaction depends on, each with the version that it must have.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'a>> {
        let mut rest = self.watched;
        (0..self.watched_count).map_while(move |_| {
            let (watched, after) = split_watched(rest)?;
            rest = after;
            Some(watched)
        })
    }

    /// The steps in their order.
    pub fn steps(&self) -> impl Iterator<Item = Step<'a>> {
        let mut rest = self.steps;
        std::iter::from_fn(move || {
            let (step, after) = split_step(rest)?;
            rest = after;
            Some(step)
        })
    }

    /// The keys that are known to be touched: those of commands of one key, and the watched ones.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        let own = self.steps().filter_map(|step| Operation::decode(step.command)?.key());
        self.watched().map(|(key, _)| key).chain(own)
    }
}

/// A key and the version that it must have.
type Watched<'a> = (&'a [u8], u64);

/// How many keys are watched, their bytes and all that follows, and the steps' bytes alone.
fn split_parts(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let (count, watched) = split_varint(bytes)?;
    let mut steps = watched;
    for _ in 0..count {
        steps = split_watched(steps)?.1;
    }
    Some((count as usize, watched, steps))
}

fn split_watched(bytes: &[u8]) -> Option<(Watched<'_>, &[u8])> {
    let (key, rest) = split_string(bytes)?;
    let (version, rest) = rest.split_first_chunk()?;
    Some(((key, u64::from_le_bytes(*version)), rest))
}

fn split_step(bytes: &[u8]) -> Option<(Step<'_>, &[u8])> {
    let (group, rest) = bytes.split_first()?;
    let (command, rest) = split_string(rest)?;
    Some((Step { group: (*group != SEVERAL).then_some(GroupId(*group)), command }, rest))
}

/// Appends a step to those before it.
pub fn push_step(steps: &mut Vec<u8>, gamma: GroupSet, command: &[u8]) {
    let own = gamma.lowest().filter(|_| gamma.len() == 1);
    steps.push(own.map_or(SEVERAL, |group| group.0));
    push_string(steps, command);
}

/// Appends a transaction of these steps, without the byte that says what command it is.
pub(super) fn push<'k>(out: &mut Vec<u8>, watched: impl ExactSizeIterator<Item = (&'k [u8], u64)>, steps: &[u8]) {
    push_varint(out, watched.len() as u64);
    for (key, version) in watched {
        push_string(out, key);
        out.extend_from_slice(&version.to_le_bytes());
    }
    out.extend_from_slice(steps);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::command::Encoder;

    #[test]
    fn transactions_come_back_as_they_were_written() {
        let (mut get, mut steps, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        Encoder(&mut get).get(b"k");
        push_step(&mut steps, GroupSet::one(GroupId(3)), &get);
        push_step(&mut steps, GroupSet(5), b"");
        Encoder(&mut bytes).transaction([(&b"w"[..], 7), (&[9; 300], u64::MAX)].into_iter(), &steps);
        let Some(Operation::Transaction(found)) = Operation::decode(&bytes) else { panic!("no transaction") };
        assert_eq!(found.watched().collect::<Vec<_>>(), [(&b"w"[..], 7), (&[9; 300], u64::MAX)]);
        let expected = [Step { group: Some(GroupId(3)), command: &get[..] }, Step { group: None, command: b"" }];
        assert_eq!((found.steps().collect::<Vec<_>>(), found.len()), (expected.to_vec(), 2));
        assert_eq!(found.keys().collect::<Vec<_>>(), [&b"w"[..], &[9; 300], b"k"]);
    }

    #[test]
    fn no_transaction_is_within_another() {
        let (mut inner, mut steps, mut outer) = (Vec::new(), Vec::new(), Vec::new());
        Encoder(&mut inner).transaction([].into_iter(), &[]);
        push_step(&mut steps, GroupSet(1), &inner);
        Encoder(&mut outer).transaction([].into_iter(), &steps);
        assert!(Operation::decode(&inner).is_some() && Operation::decode(&outer).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_transaction_or_refused(bytes in proptest::collection::vec(0..6u8, 0..40)) {
            if let Some(found) = Transaction::decode(&bytes) {
                assert_eq!(found.steps().count(), found.len());
                assert_eq!(found.watched().count(), found.watched_count);
            }
        }
    }
}
