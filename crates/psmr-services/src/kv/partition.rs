//! The state of one group and the commands on it.

use super::bytes::Value;
use super::command::{ExpireIf, Expiry, Items, Operation, SetIf, Then};
use super::place::{hash_of, place_of};
use super::reply::{KvError, WriteReply};
use super::store::Store;
use super::transaction::Transaction;
use super::{snapshot, whole, Cursor, Totals, VALUE_BYTES_MAX};
use crate::glob;
use psmr_core::command::GroupId;
use psmr_core::routing::Topology;
use psmr_core::service::{Context, Partition, ReadContext, ReadOutcome, Replies, Slice};
use std::any::Any;
use std::sync::Arc;

mod strings;

pub(super) use strings::moved;

/// Commands whose memory is fetched together: what they touch fits a processor's first cache.
pub(super) const PREPARED_AT_ONCE: usize = 64;

/// So many expired keys are removed by each write at most: more than a write can add, so that there is progress, and few
/// enough that no write takes long.
const EXPIRED_PER_WRITE: usize = 4;

/// So many expired keys are removed at each time mark at most, which takes less than a millisecond.
const EXPIRED_PER_MARK: usize = 512;

/// So many keys are looked at by one scan at most, whatever its count.
const SCAN_COUNT_MAX: u64 = 1 << 16;

/// The key-value state of one group.
pub struct KvPartition {
    group: GroupId,
    topology: Topology,
    pub(super) store: Store,
    totals: Arc<Totals>,
}

/// What time it is for a read.
#[derive(Clone, Copy)]
pub(super) struct Time {
    /// By the group's clock.
    pub(super) now_ms: u64,
    /// An answer that depends on whether it is later than `now_ms` is unsettled up to here.
    horizon_ms: u64,
}

/// The answer depends on the time, and the group's clock is behind.
#[derive(Debug)]
pub(super) struct Unsettled;

impl Time {
    pub(super) fn settled(now_ms: u64) -> Time {
        Time { now_ms, horizon_ms: now_ms }
    }
}

impl Partition for KvPartition {
    fn execute(&mut self, slice: Slice<'_>, context: &Context, replies: &mut Replies) {
        for command in slice {
            let start = replies.bytes.len();
            self.execute_one(command.payload, command.read, context.now_ms, &mut replies.bytes);
            if replies.unwanted {
                replies.bytes.truncate(start);
            }
            replies.end();
        }
        self.tell_totals();
    }

    fn prepare(&self, payloads: &mut dyn Iterator<Item = &[u8]>) {
        let (mut hashes, mut count) = ([0; PREPARED_AT_ONCE], 0);
        let mut fetch = |key: &[u8]| {
            hashes[count] = hash_of(key);
            count += 1;
            if count == PREPARED_AT_ONCE {
                self.store.prefetch(&hashes);
                count = 0;
            }
        };
        for payload in payloads {
            match Operation::decode(payload) {
                Some(Operation::Transaction(transaction)) => transaction.keys().for_each(&mut fetch),
                Some(operation) => operation.key().into_iter().for_each(&mut fetch),
                None => {}
            }
        }
        self.store.prefetch(&hashes[..count]);
    }

    fn read(&self, payload: &[u8], context: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome {
        let horizon_ms = if context.time_is_settled { context.now_ms } else { context.wall_ms.max(context.now_ms) };
        let start = reply.len();
        let operation = Operation::decode(payload);
        match operation.map_or(Ok(false), |o| self.read_operation(&o, Time { now_ms: context.now_ms, horizon_ms }, reply)) {
            Ok(true) => ReadOutcome::Done,
            Ok(false) => {
                reply.error(KvError::Malformed);
                ReadOutcome::Done
            }
            Err(Unsettled) => {
                reply.truncate(start);
                ReadOutcome::NeedsTime
            }
        }
    }

    fn due_ms(&self) -> Option<u64> {
        self.store.due_next_ms()
    }

    fn on_time(&mut self, context: &Context) {
        self.store.remove_expired(context.now_ms, EXPIRED_PER_MARK);
        self.tell_totals();
    }

    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String> {
        snapshot::write(&self.store, out);
        Ok(())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let is_ours = |slot| self.topology.group_of_slot(slot) == self.group;
        self.store = snapshot::read(bytes, is_ours)?;
        self.tell_totals();
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl KvPartition {
    /// The empty state of `group`.
    pub fn new(group: GroupId, topology: Topology) -> KvPartition {
        KvPartition { group, topology, store: Store::default(), totals: Arc::default() }
    }

    /// The same; it tells how many keys it has.
    #[must_use]
    pub fn counted_by(self, totals: Arc<Totals>) -> KvPartition {
        KvPartition { totals, ..self }
    }

    #[inline]
    pub(super) fn tell_totals(&self) {
        self.totals.set(self.group, self.store.len(), self.store.expiring_count());
    }

    #[inline]
    pub(super) fn execute_one(&mut self, payload: &[u8], read: bool, now_ms: u64, out: &mut Vec<u8>) {
        let Some(operation) = Operation::decode(payload) else { return out.error(KvError::Malformed) };
        if let Operation::Transaction(transaction) = operation {
            return self.transact(&transaction, read, now_ms, out);
        }
        if !read {
            match self.write_operation(&operation, now_ms, out) {
                Ok(true) => return,
                Ok(false) => {}
                Err(kind) => return out.error(kind),
            }
        }
        if !matches!(self.read_operation(&operation, Time::settled(now_ms), out), Ok(true)) {
            out.error(KvError::Malformed);
        }
    }

    /// Executes the steps one after the other, each as if it were alone, if no watched key has changed.
    fn transact(&mut self, transaction: &Transaction<'_>, read: bool, now_ms: u64, out: &mut Vec<u8>) {
        if self.check_keys(transaction.watched().map(|(key, _)| key)).is_err() || !transaction.is_of(self.group) {
            return out.error(KvError::OutsideGamma);
        }
        if transaction.watched().any(|(key, version)| self.version(key, now_ms) != version) {
            return out.null();
        }
        out.list(transaction.len());
        transaction.steps().for_each(|step| self.execute_one(step.command, read, now_ms, out));
    }

    /// The hash of a key of this group.
    #[inline]
    fn hash_of(&self, key: &[u8]) -> Result<u64, KvError> {
        let place = place_of(key);
        if self.topology.group_of_slot(place.slot) == self.group {
            Ok(place.hash)
        } else {
            Err(KvError::OutsideGamma)
        }
    }

    fn check_keys<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) -> Result<(), KvError> {
        keys.try_for_each(|key| self.hash_of(key).map(|_| ()))
    }

    /// To be called once for each write, before it.
    #[inline]
    pub(super) fn begin_write(&mut self, now_ms: u64) {
        self.store.remove_expired(now_ms, EXPIRED_PER_WRITE);
    }

    /// Executes a write; false if it is none.
    #[inline]
    fn write_operation(&mut self, operation: &Operation<'_>, now_ms: u64, out: &mut Vec<u8>) -> Result<bool, KvError> {
        match *operation {
            Operation::Set { key, value, expiry: Expiry::Never, condition: SetIf::Always, get: false } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                self.put_at(hash, key, value, now_ms);
                out.done();
            }
            Operation::Set { key, value, expiry, condition, get } => {
                let hash = self.hash_of(key)?;
                let expires_ms = absolute_ms(expiry, now_ms)?;
                self.begin_write(now_ms);
                self.set(hash, key, value, (expiry == Expiry::Keep, expires_ms), condition, get, now_ms, out);
            }
            Operation::Increment { key, delta } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                self.increment(hash, key, delta, now_ms, out)?;
            }
            Operation::Delete { keys } => {
                self.check_keys(keys)?;
                self.begin_write(now_ms);
                out.integer(keys.filter(|key| self.delete(key, now_ms)).count() as i64);
            }
            Operation::SetMany { pairs } => {
                self.check_keys(pairs.step_by(2))?;
                self.begin_write(now_ms);
                pairs.pairs().for_each(|(key, value)| self.put(key, value, now_ms));
                out.done();
            }
            Operation::Append { key, suffix } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                self.append(hash, key, suffix, now_ms, out)?;
            }
            Operation::Expire { key, expiry, condition } => {
                let hash = self.hash_of(key)?;
                let expires_ms = absolute_ms(expiry, now_ms)?.unwrap_or(i64::MAX);
                self.begin_write(now_ms);
                out.integer(i64::from(self.expire(hash, key, expires_ms, condition, now_ms)));
            }
            Operation::IfEqual { key, expected, then } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                out.integer(i64::from(self.if_equal(hash, key, expected, then, now_ms)?));
            }
            Operation::Persist { key } => {
                let hash = self.hash_of(key)?;
                self.begin_write(now_ms);
                let had = self.store.live_mut(hash, key, now_ms).is_some_and(|value| value.expires_ms().is_some());
                if had {
                    self.store.set_expires_ms(hash, key, None);
                }
                out.integer(i64::from(had));
            }
            Operation::Take { .. }
            | Operation::GetExpire { .. }
            | Operation::Overwrite { .. }
            | Operation::SetManyAbsent { .. }
            | Operation::Move { .. }
            | Operation::Combine { .. }
            | Operation::IncrementFloat { .. }
            | Operation::SetBit { .. } => self.write_string(operation, now_ms, out)?,
            Operation::BitFields { steps, .. } if steps.written_bytes() > 0 => self.write_string(operation, now_ms, out)?,
            Operation::Clear => {
                if self.topology.groups != 1 {
                    return Err(KvError::OutsideGamma);
                }
                self.clear();
                out.done();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    #[inline]
    fn put_at(&mut self, hash: u64, key: &[u8], value: &[u8], now_ms: u64) {
        match self.store.live_mut(hash, key, now_ms) {
            Some(mut old) => {
                old.assign(value);
                if old.expires_ms().is_some() {
                    self.store.set_expires_ms(hash, key, None);
                }
            }
            None => self.store.add(hash, key, Value::new(value)),
        }
    }

    /// `expiry` is whether to keep it, and the new one.
    #[allow(clippy::too_many_arguments)]
    fn set(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        expiry: (bool, Option<i64>),
        condition: SetIf,
        get: bool,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) {
        let old = self.store.live_mut(hash, key, now_ms);
        let is_there = old.is_some();
        match &old {
            Some(old) if get => out.string(old.bytes()),
            None if get => out.null(),
            _ => {}
        }
        if (condition == SetIf::Absent && is_there) || (condition == SetIf::Present && !is_there) {
            if !get {
                out.null();
            }
            return;
        }
        if !get {
            out.done();
        }
        let (keep, expires_ms) = expiry;
        let expires_ms = match expires_ms {
            Some(ms) if ms <= now_ms as i64 => {
                // It was there for a moment: whoever watches it must see a change.
                if !self.store.remove(hash, key) {
                    self.store.mark_gone(hash);
                }
                return;
            }
            Some(ms) => Some(ms as u64),
            None => old.as_ref().filter(|_| keep).and_then(|old| old.expires_ms()),
        };
        match old {
            Some(mut old) => old.assign(value),
            None => self.store.add(hash, key, Value::new(value)),
        }
        self.store.set_expires_ms(hash, key, expires_ms);
    }

    #[inline]
    fn increment(&mut self, hash: u64, key: &[u8], delta: i64, now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
        let mut buffer = itoa::Buffer::new();
        let sum = match self.store.live_mut(hash, key, now_ms) {
            Some(mut value) => {
                let number = parse_integer(value.bytes()).ok_or(KvError::NotAnInteger)?;
                let sum = number.checked_add(delta).ok_or(KvError::Overflow)?;
                value.assign(buffer.format(sum).as_bytes());
                sum
            }
            None => {
                self.store.add(hash, key, Value::new(buffer.format(delta).as_bytes()));
                delta
            }
        };
        out.integer(sum);
        Ok(())
    }

    fn append(&mut self, hash: u64, key: &[u8], suffix: &[u8], now_ms: u64, out: &mut Vec<u8>) -> Result<(), KvError> {
        let length = match self.store.live_mut(hash, key, now_ms) {
            Some(value) if value.bytes().len() + suffix.len() > VALUE_BYTES_MAX => return Err(KvError::TooLong),
            Some(mut value) => {
                value.append(suffix);
                value.bytes().len()
            }
            None => {
                self.store.add(hash, key, Value::new(suffix));
                suffix.len()
            }
        };
        out.integer(length as i64);
        Ok(())
    }

    fn expire(&mut self, hash: u64, key: &[u8], expires_ms: i64, condition: ExpireIf, now_ms: u64) -> bool {
        let Some(value) = self.store.live_mut(hash, key, now_ms) else { return false };
        let old = value.expires_ms().map(|ms| ms as i64);
        let is_refused = (condition.absent && old.is_some())
            || (condition.present && old.is_none())
            || (condition.later && old.is_none_or(|old| expires_ms <= old))
            || (condition.earlier && old.is_some_and(|old| expires_ms >= old));
        if is_refused {
            return false;
        }
        if expires_ms <= now_ms as i64 {
            self.store.remove(hash, key);
        } else {
            self.store.set_expires_ms(hash, key, Some(expires_ms as u64));
        }
        true
    }

    fn if_equal(&mut self, hash: u64, key: &[u8], expected: &[u8], then: Then, now_ms: u64) -> Result<bool, KvError> {
        let Some(value) = self.store.live_mut(hash, key, now_ms).filter(|value| value.bytes() == expected) else {
            return Ok(false);
        };
        let left_ms = value.expires_ms().map(|ms| ms.saturating_sub(now_ms));
        let after_ms = match (then, left_ms) {
            (Then::Delete, _) => None,
            (Then::Expire(ms), _) | (Then::ExpireAgain(ms), Some(_)) => Some(ms),
            (Then::Extend(ms), Some(left_ms)) => Some(ms.checked_add_unsigned(left_ms).ok_or(KvError::ExpireTime)?),
            (Then::ExpireAgain(_) | Then::Extend(_), None) => return Ok(false),
        };
        match after_ms {
            Some(ms) => {
                let expires_ms = ms.checked_add_unsigned(now_ms).ok_or(KvError::ExpireTime)?;
                self.expire(hash, key, expires_ms, ExpireIf::default(), now_ms)
            }
            None => self.store.remove(hash, key),
        };
        Ok(true)
    }

    /// Executes a read; `Ok(false)` if it is none. If it is unsettled, part of a reply may have been written.
    fn read_operation(&self, operation: &Operation<'_>, time: Time, out: &mut Vec<u8>) -> Result<bool, Unsettled> {
        let foreign = match *operation {
            Operation::Get { key }
            | Operation::Length { key }
            | Operation::TimeToLive { key }
            | Operation::Part { key, .. }
            | Operation::ExpireTime { key }
            | Operation::Type { key }
            | Operation::GetBit { key, .. }
            | Operation::CountBits { key, .. }
            | Operation::FindBit { key, .. }
            | Operation::BitFields { key, .. }
            | Operation::Describe { key, .. }
            | Operation::Refuse { key, .. } => self.hash_of(key).is_err(),
            Operation::Exists { keys } | Operation::GetMany { keys } | Operation::Versions { keys } => {
                self.check_keys(keys).is_err()
            }
            Operation::Subsequence { one, other, .. } => self.check_keys([one, other].into_iter()).is_err(),
            Operation::Transaction(transaction) => self.check_keys(transaction.watched().map(|(key, _)| key)).is_err(),
            _ => false,
        };
        if foreign {
            out.error(KvError::OutsideGamma);
            return Ok(true);
        }
        match *operation {
            Operation::Get { key } => match self.live(key, time)? {
                Some(value) => out.string(value.bytes()),
                None => out.null(),
            },
            Operation::GetMany { keys } => {
                out.list(keys.len());
                for key in keys {
                    match self.live(key, time)? {
                        Some(value) => out.string(value.bytes()),
                        None => out.null(),
                    }
                }
            }
            Operation::Exists { keys } => out.integer(self.count(keys, time)?),
            Operation::Length { key } => out.integer(self.live(key, time)?.map_or(0, |value| value.bytes().len() as i64)),
            Operation::TimeToLive { key } => out.integer(self.time_to_live(key, time)?),
            Operation::Keys { .. } | Operation::RandomKey { .. } | Operation::Range { .. } | Operation::CountRange { .. } => {
                if self.topology.groups == 1 {
                    whole::read_at(&[self], operation, time, out)?;
                } else {
                    out.error(KvError::OutsideGamma);
                }
            }
            Operation::Size if self.topology.groups == 1 => out.integer(self.size_at(time)?),
            Operation::Size => out.error(KvError::OutsideGamma),
            Operation::Versions { keys } => {
                out.list(keys.len());
                for key in keys {
                    out.integer(self.version_at(key, time)? as i64);
                }
            }
            Operation::Transaction(transaction) => self.transact_reads(&transaction, time, out)?,
            Operation::Part { .. }
            | Operation::ExpireTime { .. }
            | Operation::Type { .. }
            | Operation::GetBit { .. }
            | Operation::CountBits { .. }
            | Operation::FindBit { .. }
            | Operation::BitFields { .. }
            | Operation::Subsequence { .. }
            | Operation::Describe { .. }
            | Operation::Refuse { .. } => self.read_string(operation, time, out)?,
            Operation::Scan { position, count, pattern } => self.scan(position, count, pattern, time, out)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn transact_reads(&self, transaction: &Transaction<'_>, time: Time, out: &mut Vec<u8>) -> Result<(), Unsettled> {
        for (key, version) in transaction.watched() {
            if self.version_at(key, time)? != version {
                out.null();
                return Ok(());
            }
        }
        out.list(transaction.len());
        for step in transaction.steps() {
            let is_read = match Operation::decode(step.command) {
                Some(operation) => self.read_operation(&operation, time, out)?,
                None => false,
            };
            if !is_read {
                out.error(KvError::Malformed);
            }
        }
        Ok(())
    }

    fn version_at(&self, key: &[u8], time: Time) -> Result<u64, Unsettled> {
        let hash = hash_of(key);
        let is_there = self.live(key, time)?.is_some();
        Ok(self.store.version(hash, key, is_there))
    }

    #[inline]
    fn live(&self, key: &[u8], time: Time) -> Result<Option<&Value>, Unsettled> {
        match self.store.get(hash_of(key), key) {
            Some(value) => Ok(is_live(value, time)?.then_some(value)),
            None => Ok(None),
        }
    }

    fn count(&self, mut keys: Items<'_>, time: Time) -> Result<i64, Unsettled> {
        keys.try_fold(0, |count, key| Ok(count + i64::from(self.live(key, time)?.is_some())))
    }

    fn time_to_live(&self, key: &[u8], time: Time) -> Result<i64, Unsettled> {
        match self.live(key, time)?.map(Value::expires_ms) {
            None => Ok(-2),
            Some(None) => Ok(-1),
            Some(Some(_)) if time.now_ms < time.horizon_ms => Err(Unsettled),
            Some(Some(expires_ms)) => Ok((expires_ms - time.now_ms) as i64),
        }
    }

    fn size_at(&self, time: Time) -> Result<i64, Unsettled> {
        if self.store.expired_count(time.horizon_ms) != self.store.expired_count(time.now_ms) {
            return Err(Unsettled);
        }
        Ok(self.size(time.now_ms) as i64)
    }

    fn scan(&self, position: u64, count: u64, pattern: &[u8], time: Time, out: &mut Vec<u8>) -> Result<(), Unsettled> {
        let count = count.clamp(1, SCAN_COUNT_MAX);
        let (mut seen, mut last, mut unsettled) = (0, None, false);
        let mut found: Vec<&[u8]> = Vec::new();
        let mut is_complete = true;
        self.store.visit_from(Cursor::first_hash(position), |hash, key, value, _| {
            let position = Cursor::position_of(hash);
            if seen >= count && last != Some(position) {
                is_complete = false;
                return false;
            }
            last = Some(position);
            seen += 1;
            match is_live(value, time) {
                Ok(true) if glob::matches(pattern, key) => found.push(key),
                Ok(_) => {}
                Err(Unsettled) => unsettled = true,
            }
            !unsettled
        });
        if unsettled {
            return Err(Unsettled);
        }
        let end = Cursor::position_of(u64::MAX);
        let last = if is_complete { end } else { last.unwrap_or(end) };
        let next = Cursor::number_after(self.group, last, &self.topology);
        out.list(2);
        out.string(itoa::Buffer::new().format(next).as_bytes());
        out.list(found.len());
        found.iter().for_each(|key| out.string(key));
        Ok(())
    }

    /// Appends the value of a key of this group, or null. For commands over several groups, as what follows.
    pub(super) fn get(&self, key: &[u8], now_ms: u64, out: &mut Vec<u8>) {
        match self.live(key, Time::settled(now_ms)) {
            Ok(Some(value)) => out.string(value.bytes()),
            _ => out.null(),
        }
    }

    pub(super) fn exists(&self, key: &[u8], now_ms: u64) -> bool {
        matches!(self.live(key, Time::settled(now_ms)), Ok(Some(_)))
    }

    pub(super) fn version(&self, key: &[u8], now_ms: u64) -> u64 {
        self.version_at(key, Time::settled(now_ms)).unwrap_or_default()
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], now_ms: u64) {
        self.put_at(hash_of(key), key, value, now_ms);
    }

    pub(super) fn delete(&mut self, key: &[u8], now_ms: u64) -> bool {
        let hash = hash_of(key);
        self.store.live_mut(hash, key, now_ms).is_some() && self.store.remove(hash, key)
    }

    pub(super) fn size(&self, now_ms: u64) -> usize {
        self.store.len() - self.store.expired_count(now_ms)
    }

    pub(super) fn clear(&mut self) {
        self.store.clear();
    }
}

/// Whether a value exists at `time`.
#[inline]
pub(super) fn is_live(value: &Value, time: Time) -> Result<bool, Unsettled> {
    match value.expires_ms() {
        None => Ok(true),
        Some(expires_ms) if expires_ms <= time.now_ms => Ok(false),
        Some(expires_ms) if expires_ms <= time.horizon_ms => Err(Unsettled),
        Some(_) => Ok(true),
    }
}

/// When something expires, in milliseconds since 1970; `None` if never or as before.
fn absolute_ms(expiry: Expiry, now_ms: u64) -> Result<Option<i64>, KvError> {
    match expiry {
        Expiry::Never | Expiry::Keep => Ok(None),
        Expiry::AtMs(ms) => Ok(Some(ms)),
        Expiry::AfterMs(ms) => ms.checked_add_unsigned(now_ms).map(Some).ok_or(KvError::ExpireTime),
    }
}

/// A decimal integer as Redis takes it: no plus, no leading zeros, no spaces.
#[inline]
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // 19 digits fit 64 bits.
        value = value * 10 + u64::from(digit);
    }
    if negative {
        (value <= i64::MIN.unsigned_abs()).then(|| (value as i64).wrapping_neg())
    } else {
        i64::try_from(value).ok()
    }
}
