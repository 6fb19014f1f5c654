//! Scripts: there is no interpreter, but the three scripts of redis-py's `Lock` are recognised by their digests and are
//! commands of the service. Each compares a lock's token and then removes the lock or moves its expiry, as one.

use super::sha1::hex_digest;
use super::{Request, RespGateway};
use crate::kv::command::Then;
use crate::kv::{parse_integer, place_of};
use psmr_core::command::GroupSet;
use psmr_core::gateway::Sink;

/// Known scripts are shorter.
const SCRIPT_BYTES_MAX: usize = 4 << 10;

/// Of a digest in hexadecimal digits.
const DIGEST_BYTES: usize = 40;

const NOT_SUPPORTED: &[u8] =
    b"ERR scripts and functions are not supported, except those of redis-py's Lock: use MULTI with WATCH instead";
const NOT_AN_INTEGER: &[u8] = b"ERR value is not an integer or out of range";

/// A script that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Removes the lock.
    Release,
    /// Adds to the lock's time, or sets it.
    Extend,
    /// Sets the lock's time.
    Reacquire,
}

const KNOWN: [(&str, Script); 3] = [
    ("c3f8721cbb97f72bc19e972846bd7aaf91901658", Script::Release),
    ("a4e8783852e6b949f9ef3a97212805108459a890", Script::Extend),
    ("1cac51482acf5858da00f6d685d68f886cd6b6b2", Script::Reacquire),
];

fn by_digest(digest: &[u8]) -> Option<(&'static str, Script)> {
    KNOWN.into_iter().find(|(known, _)| digest.eq_ignore_ascii_case(known.as_bytes()))
}

fn by_text(text: &[u8]) -> Option<(&'static str, Script)> {
    if text.len() > SCRIPT_BYTES_MAX {
        return None;
    }
    by_digest(hex_digest(text).as_bytes())
}

/// Whether a command is one of scripts or functions that is not in the table.
pub fn is_of_scripts(name: &[u8]) -> bool {
    [&b"eval_ro"[..], b"evalsha_ro", b"fcall", b"fcall_ro", b"function"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// What such a command is told.
pub fn not_supported() -> &'static [u8] {
    NOT_SUPPORTED
}

pub fn eval(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    run(gateway, request, by_text(request.argument(1)), NOT_SUPPORTED, sink);
}

pub fn evalsha(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let unknown = b"NOSCRIPT No matching script. Please use EVAL.";
    if request.argument(1).len() != DIGEST_BYTES {
        return gateway.answer_error(sink, unknown);
    }
    run(gateway, request, by_digest(request.argument(1)), unknown, sink);
}

fn run(
    gateway: &mut RespGateway,
    request: &Request<'_>,
    script: Option<(&'static str, Script)>,
    unknown: &[u8],
    sink: &mut dyn Sink,
) {
    let prepared = check_key_count(request).and_then(|()| match script {
        Some((_, script)) => prepare(script, request),
        None => Err(unknown),
    });
    let (key, token, then) = match prepared {
        Ok(prepared) => prepared,
        Err(text) => return gateway.answer_error(sink, text),
    };
    if key.len() > gateway.limits.key_bytes_max {
        return gateway.answer_error(sink, b"ERR key is too long");
    }
    let group = sink.topology().group_of_slot(place_of(key).slot);
    let of_group = Request { gamma: GroupSet::one(group), ..*request };
    gateway.write(&of_group, sink, |encoder| encoder.if_equal(key, token, then));
}

fn check_key_count(request: &Request<'_>) -> Result<(), &'static [u8]> {
    match parse_integer(request.argument(2)).ok_or(NOT_AN_INTEGER)? {
        count if count < 0 => Err(b"ERR Number of keys can't be negative"),
        count if count > request.count() as i64 - 3 => Err(b"ERR Number of keys can't be greater than number of args"),
        _ => Ok(()),
    }
}

/// A key, a token, and what to do where they belong together.
type Prepared<'a> = (&'a [u8], &'a [u8], Then);

fn prepare<'a>(script: Script, request: &Request<'a>) -> Result<Prepared<'a>, &'static [u8]> {
    let count = match script {
        Script::Release => 5,
        Script::Reacquire => 6,
        Script::Extend => 7,
    };
    if request.argument(2) != b"1" || request.count() < count {
        return Err(b"ERR a script of redis-py's Lock needs one key, and the arguments that Lock gives it");
    }
    let time = || parse_integer(request.argument(5)).ok_or(NOT_AN_INTEGER);
    let then = match script {
        Script::Release => Then::Delete,
        Script::Reacquire => Then::Expire(time()?),
        Script::Extend if request.argument(6) == b"0" => Then::Extend(time()?),
        Script::Extend => Then::ExpireAgain(time()?),
    };
    Ok((request.argument(3), request.argument(4), then))
}

pub fn load(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match by_text(request.argument(2)) {
        Some((digest, _)) => gateway.answer(sink, |writer| writer.bulk(digest.as_bytes())),
        None => gateway.answer_error(sink, NOT_SUPPORTED),
    }
}

pub fn exists(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| {
        writer.array(request.count() - 2);
        for at in 2..request.count() {
            writer.integer(i64::from(by_digest(request.argument(at)).is_some()));
        }
    });
}

/// What is known stays known: there is nothing to flush.
pub fn flush(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is_mode = |argument: &[u8]| argument.eq_ignore_ascii_case(b"sync") || argument.eq_ignore_ascii_case(b"async");
    if request.count() > 3 || (request.count() == 3 && !is_mode(request.argument(2))) {
        return gateway.answer_error(sink, b"ERR SCRIPT FLUSH only support SYNC|ASYNC option");
    }
    gateway.answer(sink, |writer| writer.simple("OK"));
}
