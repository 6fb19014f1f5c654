//! Commands on keys: from RESP arguments to the service's commands.

use super::{error_text, shown, Request, RespGateway, Way};
use crate::kv::command::{ExpireIf, Expiry, SetIf};
use crate::kv::range::Bounds;
use crate::kv::reply::KvError;
use crate::kv::{parse_integer, place_of, Cursor};
use psmr_core::command::GroupSet;
use psmr_core::gateway::Sink;

pub const SYNTAX: &[u8] = b"ERR syntax error";
pub const NOT_AN_INTEGER: &[u8] = b"ERR value is not an integer or out of range";

type Refusal = Vec<u8>;

pub fn get(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.get(request.argument(1)));
}

pub fn set(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (key, value) = (request.argument(1), request.argument(2));
    if request.count() == 3 {
        return gateway.write(request, sink, |encoder| encoder.set(key, value, Expiry::Never, SetIf::Always, false));
    }
    match SetOptions::parse(request) {
        Ok(o) if o.get => {
            gateway.write_for_value(request, sink, |encoder| encoder.set(key, value, o.expiry, o.condition, true));
        }
        Ok(o) => gateway.write(request, sink, |encoder| encoder.set(key, value, o.expiry, o.condition, false)),
        Err(text) => gateway.answer_error(sink, &text),
    }
}

struct SetOptions {
    expiry: Expiry,
    condition: SetIf,
    get: bool,
}

impl SetOptions {
    fn parse(request: &Request<'_>) -> Result<SetOptions, Refusal> {
        let mut options = SetOptions { expiry: Expiry::Never, condition: SetIf::Always, get: false };
        // The option that says when, and its argument.
        let mut timed: Option<(TimeOption, &[u8])> = None;
        let mut arguments = (3..request.count()).map(|at| request.argument(at));
        while let Some(argument) = arguments.next() {
            let is = |name: &str| argument.eq_ignore_ascii_case(name.as_bytes());
            if is("nx") && options.condition != SetIf::Present {
                options.condition = SetIf::Absent;
            } else if is("xx") && options.condition != SetIf::Absent {
                options.condition = SetIf::Present;
            } else if is("get") {
                options.get = true;
            } else if is("keepttl") && timed.is_none() {
                options.expiry = Expiry::Keep;
            } else {
                let option = TimeOption::ALL.into_iter().find(|option| is(option.name)).ok_or(SYNTAX)?;
                let may_follow = timed.is_none_or(|(before, _)| before == option) && options.expiry != Expiry::Keep;
                let time = arguments.next().filter(|_| may_follow).ok_or(SYNTAX)?;
                timed = Some((option, time));
            }
        }
        if let Some((option, time)) = timed {
            options.expiry = option.expiry(time).map_err(|kind| error_text(kind, request.command))?;
        }
        Ok(options)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub struct TimeOption {
    pub name: &'static str,
    unit_ms: i64,
    is_absolute: bool,
}

impl TimeOption {
    pub const ALL: [TimeOption; 4] = [
        TimeOption { name: "ex", unit_ms: 1000, is_absolute: false },
        TimeOption { name: "px", unit_ms: 1, is_absolute: false },
        TimeOption { name: "exat", unit_ms: 1000, is_absolute: true },
        TimeOption { name: "pxat", unit_ms: 1, is_absolute: true },
    ];

    /// The expiry that a time in the option's unit is, or why it is none.
    pub fn expiry(self, time: &[u8]) -> Result<Expiry, KvError> {
        let time = parse_integer(time).ok_or(KvError::NotAnInteger)?;
        let ms = time.checked_mul(self.unit_ms).filter(|ms| *ms > 0).ok_or(KvError::ExpireTime)?;
        Ok(if self.is_absolute { Expiry::AtMs(ms) } else { Expiry::AfterMs(ms) })
    }
}

/// What Redis says of an expiry that is not positive or beyond the end of time.
pub fn expire_time_error(command: &str) -> Vec<u8> {
    format!("ERR invalid expire time in '{command}' command").into_bytes()
}

pub fn delete(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.write(request, sink, |encoder| encoder.delete(request.count() - 1, request.keys()));
}

pub fn exists(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.exists(request.count() - 1, request.keys()));
}

pub fn get_many(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.get_many(request.count() - 1, request.keys()));
}

pub fn set_many(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    if request.count() % 2 == 0 {
        return gateway.answer_error(sink, &request.arity_error());
    }
    let pairs = (1..request.count()).map(|at| request.argument(at));
    gateway.write(request, sink, |encoder| encoder.set_many(request.count() - 1, pairs));
}

pub fn increment(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    add(gateway, request, sink, Ok(1));
}

pub fn decrement(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    add(gateway, request, sink, Ok(-1));
}

pub fn increment_by(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    add(gateway, request, sink, parse_integer(request.argument(2)).ok_or(NOT_AN_INTEGER));
}

pub fn decrement_by(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let delta = parse_integer(request.argument(2)).ok_or(NOT_AN_INTEGER);
    let negated = delta.and_then(|delta| delta.checked_neg().ok_or(&b"ERR decrement would overflow"[..]));
    add(gateway, request, sink, negated);
}

fn add(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink, delta: Result<i64, &[u8]>) {
    match delta {
        Ok(delta) => gateway.write(request, sink, |encoder| encoder.increment(request.argument(1), delta)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

pub fn append(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.write(request, sink, |encoder| encoder.append(request.argument(1), request.argument(2)));
}

pub fn length(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.length(request.argument(1)));
}

pub fn expire_seconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    expire(gateway, request, sink, 1000, Expiry::AfterMs);
}

pub fn expire_milliseconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    expire(gateway, request, sink, 1, Expiry::AfterMs);
}

/// `from`: what the time counts from.
pub fn expire(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink, unit_ms: i64, from: fn(i64) -> Expiry) {
    let options = expire_options(request).and_then(|condition| {
        let time = parse_integer(request.argument(2)).ok_or(NOT_AN_INTEGER)?;
        let ms = time.checked_mul(unit_ms).ok_or_else(|| expire_time_error(request.spec.name))?;
        Ok((from(ms), condition))
    });
    match options {
        Ok((expiry, condition)) => gateway.write(request, sink, |encoder| encoder.expire(request.argument(1), expiry, condition)),
        Err(text) => gateway.answer_error(sink, &text),
    }
}

fn expire_options(request: &Request<'_>) -> Result<ExpireIf, Refusal> {
    let mut condition = ExpireIf::default();
    for argument in (3..request.count()).map(|at| request.argument(at)) {
        match argument.to_ascii_lowercase().as_slice() {
            b"nx" => condition.absent = true,
            b"xx" => condition.present = true,
            b"gt" => condition.later = true,
            b"lt" => condition.earlier = true,
            _ => return Err([b"ERR Unsupported option ", shown(argument)].concat()),
        }
    }
    let ExpireIf { absent, present, later, earlier } = condition;
    if absent && (present || later || earlier) {
        return Err(b"ERR NX and XX, GT or LT options at the same time are not compatible".to_vec());
    }
    if later && earlier {
        return Err(b"ERR GT and LT options at the same time are not compatible".to_vec());
    }
    Ok(condition)
}

pub fn time_to_live_seconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read_as(Way::InSeconds, request, sink, |encoder| encoder.time_to_live(request.argument(1)));
}

pub fn time_to_live_milliseconds(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.time_to_live(request.argument(1)));
}

pub fn persist(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.write(request, sink, |encoder| encoder.persist(request.argument(1)));
}

pub fn size(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.size());
}

pub fn clear(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is_mode = |argument: &[u8]| argument.eq_ignore_ascii_case(b"sync") || argument.eq_ignore_ascii_case(b"async");
    if request.count() > 2 || (request.count() == 2 && !is_mode(request.argument(1))) {
        return gateway.answer_error(sink, SYNTAX);
    }
    gateway.write(request, sink, |encoder| encoder.clear());
}

pub fn scan(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let options = match ScanOptions::parse(request) {
        Ok(options) => options,
        Err(text) => return gateway.answer_error(sink, &text),
    };
    match Cursor::from_number(options.cursor, sink.topology()) {
        Some(cursor) if options.is_of_strings => {
            let of_group = Request { gamma: GroupSet::one(cursor.group), ..*request };
            gateway.read(&of_group, sink, |encoder| encoder.scan(cursor.position, options.count, options.pattern));
        }
        // No key has another type, and no scan gave a cursor beyond the last group: there is nothing more.
        _ => gateway.answer(sink, |writer| {
            writer.array(2);
            writer.bulk(b"0");
            writer.array(0);
        }),
    }
}

pub fn keys(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.keys(request.argument(1)));
}

pub fn random_key(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.drawn += 1;
    let drawn = [gateway.id, gateway.drawn, sink.wall_ms()].map(u64::to_le_bytes).concat();
    gateway.read(request, sink, |encoder| encoder.random_key(place_of(&drawn).hash));
}

pub fn range(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let bounds = Bounds { start: request.argument(1), end: request.argument(2) };
    match range_options(request) {
        Ok((limit, is_reverse)) => gateway.read(request, sink, |encoder| encoder.range(bounds, limit, is_reverse)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

/// The limit, and whether the last keys come first.
fn range_options(request: &Request<'_>) -> Result<(u64, bool), &'static [u8]> {
    let (mut limit, mut is_reverse) = (u64::MAX, false);
    let mut arguments = (3..request.count()).map(|at| request.argument(at));
    while let Some(option) = arguments.next() {
        if option.eq_ignore_ascii_case(b"rev") {
            is_reverse = true;
        } else if option.eq_ignore_ascii_case(b"limit") {
            let number = parse_integer(arguments.next().ok_or(SYNTAX)?).ok_or(NOT_AN_INTEGER)?;
            limit = u64::try_from(number).map_err(|_| NOT_AN_INTEGER)?;
        } else {
            return Err(SYNTAX);
        }
    }
    Ok((limit, is_reverse))
}

pub fn count_range(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let bounds = Bounds { start: request.argument(1), end: request.argument(2) };
    gateway.read(request, sink, |encoder| encoder.count_range(bounds));
}

struct ScanOptions<'a> {
    cursor: u64,
    count: u64,
    pattern: &'a [u8],
    is_of_strings: bool,
}

impl<'a> ScanOptions<'a> {
    fn parse(request: &Request<'a>) -> Result<ScanOptions<'a>, Refusal> {
        let cursor = parse_cursor(request.argument(1)).ok_or(b"ERR invalid cursor")?;
        let mut options = ScanOptions { cursor, count: 10, pattern: b"*", is_of_strings: true };
        let mut arguments = (2..request.count()).map(|at| request.argument(at));
        while let Some(name) = arguments.next() {
            let is = |option: &str| name.eq_ignore_ascii_case(option.as_bytes());
            if !(is("count") || is("match") || is("type")) {
                return Err(SYNTAX.to_vec());
            }
            let value = arguments.next().ok_or(SYNTAX)?;
            if is("count") {
                let count = parse_integer(value).ok_or(NOT_AN_INTEGER)?;
                options.count = u64::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
            } else if is("match") {
                options.pattern = value;
            } else {
                options.is_of_strings = value.eq_ignore_ascii_case(b"string");
            }
        }
        Ok(options)
    }
}

/// A cursor as the C library's `strtoul` takes it: nothing is 0, and a sign is allowed.
fn parse_cursor(text: &[u8]) -> Option<u64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        [] => return Some(0),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0u64, |number, digit| {
        digit.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    Some(if negative { number.wrapping_neg() } else { number })
}
