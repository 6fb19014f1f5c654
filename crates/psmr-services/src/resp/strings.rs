//! More commands on keys: those that look into values, or do two things to a key at once.

use super::data::{self, expire_time_error, TimeOption, NOT_AN_INTEGER, SYNTAX};
use super::{Request, RespGateway, Way};
use crate::kv::command::{BitRange, BitwiseKind, Expiry, SetIf};
use crate::kv::parse_integer;
use crate::kv::reply::KvError;
use crate::kv::subsequence::Wanted;
use psmr_core::gateway::Sink;

/// Bits of the longest string that Redis takes.
const BITS_MAX: i64 = 8 * (512 << 20);

pub fn get_set(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (key, value) = (request.argument(1), request.argument(2));
    gateway.write_for_value(request, sink, |encoder| encoder.set(key, value, Expiry::Never, SetIf::Always, true));
}

pub fn take(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.write_for_value(request, sink, |encoder| encoder.take(request.argument(1)));
}

pub fn get_expire(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (key, count) = (request.argument(1), request.count());
    let is = |at: usize, name: &str| request.argument(at).eq_ignore_ascii_case(name.as_bytes());
    // Options may be repeated, the last one counts; Redis looks at the time only once the key is there.
    let mut option: Option<(Option<TimeOption>, &[u8])> = None;
    let mut at = 2;
    while at < count {
        let found = TimeOption::ALL.into_iter().find(|option| is(at, option.name));
        let may_follow = option.is_none_or(|(before, _)| before == found);
        let time = if found.is_some() { at + 1 } else { at };
        if !may_follow || time >= count || (found.is_none() && !is(at, "persist")) {
            return gateway.answer_error(sink, SYNTAX);
        }
        option = Some((found, request.argument(time)));
        at = time + 1;
    }
    let expiry = match option {
        None => return gateway.read(request, sink, |encoder| encoder.get(key)),
        Some((None, _)) => Expiry::Never,
        Some((Some(option), time)) => match option.expiry(time) {
            Ok(expiry) => expiry,
            Err(kind) => return gateway.read(request, sink, |encoder| encoder.refuse(key, kind, None)),
        },
    };
    gateway.write_for_value(request, sink, |encoder| encoder.get_expire(key, expiry));
}

pub fn set_absent(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let pair = [request.argument(1), request.argument(2)];
    gateway.write(request, sink, |encoder| encoder.set_many_absent(2, pair.into_iter()));
}

pub fn set_many_absent(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    if request.count() % 2 == 0 {
        return gateway.answer_error(sink, &request.arity_error());
    }
    let pairs = (1..request.count()).map(|at| request.argument(at));
    gateway.write(request, sink, |encoder| encoder.set_many_absent(request.count() - 1, pairs));
}

pub fn set_seconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    set_for(gateway, request, sink, TimeOption::ALL[0]);
}

pub fn set_milliseconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    set_for(gateway, request, sink, TimeOption::ALL[1]);
}

fn set_for(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink, unit: TimeOption) {
    let (key, value) = (request.argument(1), request.argument(3));
    match unit.expiry(request.argument(2)) {
        Ok(expiry) => gateway.write(request, sink, |encoder| encoder.set(key, value, expiry, SetIf::Always, false)),
        Err(KvError::ExpireTime) => gateway.answer_error(sink, &expire_time_error(request.spec.name)),
        Err(_) => gateway.answer_error(sink, NOT_AN_INTEGER),
    }
}

pub fn part(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match (parse_integer(request.argument(2)), parse_integer(request.argument(3))) {
        (Some(start), Some(end)) => gateway.read(request, sink, |encoder| encoder.part(request.argument(1), start, end)),
        _ => gateway.answer_error(sink, NOT_AN_INTEGER),
    }
}

pub fn overwrite(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let Some(offset) = parse_integer(request.argument(2)) else { return gateway.answer_error(sink, NOT_AN_INTEGER) };
    let Ok(offset) = u64::try_from(offset) else { return gateway.answer_error(sink, b"ERR offset is out of range") };
    gateway.write(request, sink, |encoder| encoder.overwrite(request.argument(1), offset, request.argument(3)));
}

pub fn type_of(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.type_of(request.argument(1)));
}

pub fn expire_at_seconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    data::expire(gateway, request, sink, 1000, Expiry::AtMs);
}

pub fn expire_at_milliseconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    data::expire(gateway, request, sink, 1, Expiry::AtMs);
}

pub fn expire_time_seconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read_as(Way::InSeconds, request, sink, |encoder| encoder.expire_time(request.argument(1)));
}

pub fn expire_time_milliseconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.expire_time(request.argument(1)));
}

pub fn rename(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (source, target) = (request.argument(1), request.argument(2));
    gateway.write(request, sink, |encoder| encoder.relocate(source, target, false, false, false));
}

pub fn rename_absent(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (source, target) = (request.argument(1), request.argument(2));
    gateway.write(request, sink, |encoder| encoder.relocate(source, target, false, true, true));
}

pub fn copy(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (source, target) = (request.argument(1), request.argument(2));
    let mut replaces = false;
    let mut options = (3..request.count()).map(|at| request.argument(at));
    while let Some(option) = options.next() {
        let database = options.clone().next().filter(|_| option.eq_ignore_ascii_case(b"db"));
        if option.eq_ignore_ascii_case(b"replace") {
            replaces = true;
        } else if let Some(database) = database {
            options.next();
            match parse_integer(database) {
                Some(0) => {}
                Some(_) => return gateway.answer_error(sink, b"ERR DB index is out of range"),
                None => return gateway.answer_error(sink, NOT_AN_INTEGER),
            }
        } else {
            return gateway.answer_error(sink, SYNTAX);
        }
    }
    if source == target {
        return gateway.answer_error(sink, b"ERR source and destination objects are the same");
    }
    gateway.write(request, sink, |encoder| encoder.relocate(source, target, true, !replaces, true));
}

/// The place of a bit, if a string can have it. `unit`: the number counts so many bits.
pub fn bit_offset(text: &[u8], unit: i64) -> Result<u64, &'static [u8]> {
    let offset = parse_integer(text).map(|offset| offset.wrapping_mul(unit)).filter(|offset| (0..BITS_MAX).contains(offset));
    offset.map(|offset| offset as u64).ok_or(b"ERR bit offset is not an integer or out of range")
}

pub fn set_bit(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let bit = match parse_integer(request.argument(3)) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(&b"ERR bit is not an integer or out of range"[..]),
    };
    match bit_offset(request.argument(2), 1).and_then(|offset| Ok((offset, bit?))) {
        Ok((offset, bit)) => gateway.write(request, sink, |encoder| encoder.set_bit(request.argument(1), offset, bit)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

pub fn get_bit(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match bit_offset(request.argument(2), 1) {
        Ok(offset) => gateway.read(request, sink, |encoder| encoder.get_bit(request.argument(1), offset)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

pub fn count_bits(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let key = request.argument(1);
    match bit_range(request) {
        Ok(range) => gateway.read(request, sink, |encoder| encoder.count_bits(key, range)),
        Err(kind) => gateway.read(request, sink, |encoder| encoder.refuse(key, kind, Some(0))),
    }
}

fn bit_range(request: &Request<'_>) -> Result<Option<BitRange>, KvError> {
    let place = |at: usize| parse_integer(request.argument(at)).ok_or(KvError::NotAnInteger);
    if !matches!(request.count(), 2 | 4 | 5) {
        return Err(KvError::Syntax);
    }
    if request.count() == 2 {
        return Ok(None);
    }
    let (start, end) = (place(2)?, place(3)?);
    if start < 0 && end < start {
        // Redis looks no further: not at the unit either.
        return Ok(Some(BitRange { start: 1, end: 0, is_in_bits: false }));
    }
    let unit = if request.count() == 5 { request.argument(4) } else { b"byte" };
    let is_in_bits = unit.eq_ignore_ascii_case(b"bit");
    if !is_in_bits && !unit.eq_ignore_ascii_case(b"byte") {
        return Err(KvError::Syntax);
    }
    Ok(Some(BitRange { start, end, is_in_bits }))
}

pub fn find_bit(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let key = request.argument(1);
    let bit = match parse_integer(request.argument(2)) {
        Some(bit @ (0 | 1)) => bit == 1,
        Some(_) => return gateway.answer_error(sink, b"ERR The bit argument must be 1 or 0."),
        None => return gateway.answer_error(sink, NOT_AN_INTEGER),
    };
    match find_range(request) {
        Ok((range, is_open)) => gateway.read(request, sink, |encoder| encoder.find_bit(key, bit, range, is_open)),
        Err(kind) => gateway.read(request, sink, |encoder| encoder.refuse(key, kind, Some(-i8::from(bit)))),
    }
}

/// Where BITPOS looks, and whether the end was left open.
fn find_range(request: &Request<'_>) -> Result<(BitRange, bool), KvError> {
    let place = |at: usize| parse_integer(request.argument(at)).ok_or(KvError::NotAnInteger);
    let count = request.count();
    if count > 6 {
        return Err(KvError::Syntax);
    }
    let start = if count > 3 { place(3)? } else { 0 };
    let unit = if count > 5 { request.argument(5) } else { b"byte" };
    let is_in_bits = unit.eq_ignore_ascii_case(b"bit");
    if !is_in_bits && !unit.eq_ignore_ascii_case(b"byte") {
        return Err(KvError::Syntax);
    }
    let end = if count > 4 { place(4)? } else { -1 };
    Ok((BitRange { start, end, is_in_bits }, count < 5))
}

pub fn combine(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let kinds = [("and", BitwiseKind::And), ("or", BitwiseKind::Or), ("xor", BitwiseKind::Xor), ("not", BitwiseKind::Not)];
    let found = kinds.into_iter().find(|(name, _)| request.argument(1).eq_ignore_ascii_case(name.as_bytes()));
    match found {
        None => gateway.answer_error(sink, SYNTAX),
        Some((_, BitwiseKind::Not)) if request.count() != 4 => {
            gateway.answer_error(sink, b"ERR BITOP NOT must be called with a single source key.");
        }
        Some((_, kind)) => gateway.write(request, sink, |encoder| encoder.combine(kind, request.count() - 2, request.keys())),
    }
}

pub fn increment_float(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.write(request, sink, |encoder| encoder.increment_float(request.argument(1), request.argument(2)));
}

pub fn subsequence(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match subsequence_options(request) {
        Ok(wanted) => {
            gateway.read(request, sink, |encoder| encoder.subsequence(request.argument(1), request.argument(2), wanted));
        }
        Err(text) => gateway.answer_error(sink, text),
    }
}

fn subsequence_options(request: &Request<'_>) -> Result<Wanted, &'static [u8]> {
    let (mut wants_length, mut wants_places, mut with_lengths, mut length_min) = (false, false, false, 0);
    let mut arguments = (3..request.count()).map(|at| request.argument(at));
    while let Some(option) = arguments.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("len") {
            wants_length = true;
        } else if is("idx") {
            wants_places = true;
        } else if is("withmatchlen") {
            with_lengths = true;
        } else if is("minmatchlen") {
            length_min = parse_integer(arguments.next().ok_or(SYNTAX)?).ok_or(NOT_AN_INTEGER)?;
        } else {
            return Err(SYNTAX);
        }
    }
    match (wants_length, wants_places) {
        (true, true) => Err(b"ERR If you want both the length and indexes, please just use IDX."),
        (true, false) => Ok(Wanted::Length),
        (false, true) => Ok(Wanted::Places { length_min: length_min.max(0) as u64, with_lengths }),
        (false, false) => Ok(Wanted::Bytes),
    }
}
