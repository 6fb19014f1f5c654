//! What is asked to see how a server is doing: OBJECT, MEMORY, SLOWLOG, LATENCY, DEBUG. How long commands took is in the replica's
//! metrics, not here: the slow log and the latency events are empty.

use super::data::{NOT_AN_INTEGER, SYNTAX};
use super::{shown_start, Request, RespGateway};
use crate::kv::command::Aspect;
use crate::kv::parse_integer;
use crate::kv::reply::KvError;
use psmr_core::gateway::Sink;
use std::time::Duration;

pub fn object_encoding(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.describe(request.argument(2), Aspect::Encoding));
}

pub fn object_frequency(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.refuse(request.argument(2), KvError::NotCounted, None));
}

pub fn object_idle_time(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.describe(request.argument(2), Aspect::IdleSeconds));
}

pub fn object_references(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read(request, sink, |encoder| encoder.describe(request.argument(2), Aspect::References));
}

/// A string has no parts to take samples of: the option is checked, and changes nothing.
pub fn memory_usage(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let mut options = (3..request.count()).map(|at| request.argument(at));
    while let Some(option) = options.next() {
        let Some(samples) = options.next().filter(|_| option.eq_ignore_ascii_case(b"samples")) else {
            return gateway.answer_error(sink, SYNTAX);
        };
        match parse_integer(samples) {
            Some(samples) if samples >= 0 => {}
            Some(_) => return gateway.answer_error(sink, SYNTAX),
            None => return gateway.answer_error(sink, NOT_AN_INTEGER),
        }
    }
    gateway.read(request, sink, |encoder| encoder.describe(request.argument(2), Aspect::Bytes));
}

const DEBUG_REFUSED: &[u8] =
    b"ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it \
    from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.";

/// The longest time that a client may hold a replica up for.
const SLEEP_SECONDS_MAX: f64 = 60.0;

/// Only SLEEP: it shows what a replica that is held up does to the others.
pub fn debug(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    if !sink.node().allows_debug {
        return gateway.answer_error(sink, DEBUG_REFUSED);
    }
    if request.count() != 3 || !request.argument(1).eq_ignore_ascii_case(b"sleep") {
        let name = shown_start(request.argument(1), 128);
        let text = [b"ERR unknown subcommand or wrong number of arguments for '", name, b"'. Try DEBUG HELP."].concat();
        return gateway.answer_error(sink, &text);
    }
    // What is no number counts as 0, as in Redis.
    let seconds: f64 = std::str::from_utf8(request.argument(2)).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    if seconds.is_nan() || seconds > SLEEP_SECONDS_MAX {
        return gateway.answer_error(sink, format!("ERR DEBUG SLEEP for more than {SLEEP_SECONDS_MAX} seconds").as_bytes());
    }
    sink.stall(Duration::from_secs_f64(seconds.max(0.0)));
    gateway.answer(sink, |writer| writer.simple("OK"));
}

pub fn slow_log_get(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is_count = |text: &[u8]| parse_integer(text).is_some_and(|count| count >= -1);
    match request.count() {
        2 => nothing(gateway, request, sink),
        3 if is_count(request.argument(2)) => nothing(gateway, request, sink),
        3 => gateway.answer_error(sink, b"ERR count should be greater than or equal to -1"),
        _ => {
            let name = request.argument(1);
            let text = [b"ERR unknown subcommand or wrong number of arguments for '", name, b"'. Try SLOWLOG HELP."].concat();
            gateway.answer_error(sink, &text);
        }
    }
}

pub fn nothing(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| writer.array(0));
}

pub fn zero(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| writer.integer(0));
}
