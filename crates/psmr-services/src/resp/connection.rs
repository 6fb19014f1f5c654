//! Commands that concern the connection alone: the replica answers them at once.

use super::data::{NOT_AN_INTEGER, SYNTAX};
use super::{shown, Request, RespGateway, REDIS_VERSION};
use crate::kv::parse_integer;
use psmr_core::gateway::Sink;

/// What clients and libraries may be called: printable ASCII without spaces.
fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|b| (b'!'..=b'~').contains(b))
}

const BAD_NAME: &[u8] = b"ERR Client names cannot contain spaces, newlines or special characters.";

pub fn ping(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match request.count() {
        1 => gateway.answer(sink, |writer| writer.simple("PONG")),
        2 => gateway.answer(sink, |writer| writer.bulk(request.argument(1))),
        _ => gateway.answer_error(sink, &request.arity_error()),
    }
}

/// What a replica of Redis Cluster wants to know beforehand, and none here: all replicas do everything.
pub fn done(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| writer.simple("OK"));
}

/// Whatever was answered before is held by a majority: by this replica and so many others.
pub fn wait(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let others = i64::from(sink.node().replicas / 2);
    let number = parse_integer(request.argument(1)).ok_or(NOT_AN_INTEGER);
    match number.and_then(|_| check_timeout(request.argument(2))) {
        Ok(()) => gateway.answer(sink, |writer| writer.integer(others)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

/// As `wait`, of what is on disks; nothing is where there are none.
pub fn wait_for_disk(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (is_durable, others) = (sink.node().durability == "fsync", i64::from(sink.node().replicas / 2));
    match check_wait_for_disk(request, is_durable) {
        Ok(()) => gateway.answer(sink, |writer| {
            writer.array(2);
            writer.integer(i64::from(is_durable));
            writer.integer(if is_durable { others } else { 0 });
        }),
        Err(text) => gateway.answer_error(sink, text),
    }
}

fn check_wait_for_disk(request: &Request<'_>, is_durable: bool) -> Result<(), &'static [u8]> {
    let number = |at: usize| parse_integer(request.argument(at)).ok_or(NOT_AN_INTEGER);
    let own = number(1)?;
    if !(0..=1).contains(&own) {
        return Err(b"ERR value is out of range, value must between 0 and 1");
    }
    if number(2)? < 0 {
        return Err(b"ERR value is out of range, must be positive");
    }
    check_timeout(request.argument(3))?;
    if own == 1 && !is_durable {
        return Err(b"ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.");
    }
    Ok(())
}

fn check_timeout(text: &[u8]) -> Result<(), &'static [u8]> {
    match parse_integer(text) {
        Some(timeout) if timeout < 0 => Err(b"ERR timeout is negative"),
        Some(_) => Ok(()),
        None => Err(b"ERR timeout is not an integer or out of range"),
    }
}

pub fn time(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let now_ms = sink.wall_ms();
    gateway.answer(sink, |writer| {
        writer.array(2);
        writer.bulk((now_ms / 1000).to_string().as_bytes());
        writer.bulk((now_ms % 1000 * 1000).to_string().as_bytes());
    });
}

pub fn echo(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| writer.bulk(request.argument(1)));
}

pub fn hello(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is_resp3 = match apply_hello(gateway, request) {
        Ok(is_resp3) => is_resp3,
        Err(text) => return gateway.answer_error(sink, &text),
    };
    gateway.is_resp3 = is_resp3;
    let id = gateway.id as i64;
    gateway.answer(sink, |writer| {
        writer.map(7);
        writer.bulk(b"server");
        writer.bulk(b"redis");
        writer.bulk(b"version");
        writer.bulk(REDIS_VERSION.as_bytes());
        writer.bulk(b"proto");
        writer.integer(if is_resp3 { 3 } else { 2 });
        writer.bulk(b"id");
        writer.integer(id);
        writer.bulk(b"mode");
        writer.bulk(b"standalone");
        writer.bulk(b"role");
        writer.bulk(b"master");
        writer.bulk(b"modules");
        writer.array(0);
    });
}

/// Takes the options one by one, as Redis does: those before a wrong one stay. Gives whether to speak RESP3 from now on.
fn apply_hello(gateway: &mut RespGateway, request: &Request<'_>) -> Result<bool, Vec<u8>> {
    if request.count() == 1 {
        return Ok(gateway.is_resp3);
    }
    let version = parse_integer(request.argument(1));
    let is_resp3 = match version.ok_or(b"ERR Protocol version is not an integer or out of range")? {
        2 => false,
        3 => true,
        _ => return Err(b"NOPROTO unsupported protocol version".to_vec()),
    };
    let mut at = 2;
    while at < request.count() {
        let (option, after) = (request.argument(at), request.count() - at - 1);
        if option.eq_ignore_ascii_case(b"auth") && after >= 2 {
            // There is one user, who needs no password.
            if request.argument(at + 1) != b"default" {
                return Err(b"WRONGPASS invalid username-password pair or user is disabled.".to_vec());
            }
            at += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && after >= 1 {
            gateway.name = client_name(request.argument(at + 1))?;
            at += 2;
        } else {
            return Err([b"ERR Syntax error in HELLO option '", shown(option), b"'"].concat());
        }
    }
    Ok(is_resp3)
}

fn client_name(name: &[u8]) -> Result<String, Vec<u8>> {
    if is_printable(name) {
        Ok(String::from_utf8_lossy(name).into_owned())
    } else {
        Err(BAD_NAME.to_vec())
    }
}

pub fn select(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match parse_integer(request.argument(1)) {
        None => gateway.answer_error(sink, NOT_AN_INTEGER),
        Some(number) if i32::try_from(number).is_err() => {
            let text = format!("ERR value is out of range, value must between {} and {}", i32::MIN, i32::MAX);
            gateway.answer_error(sink, text.as_bytes());
        }
        Some(0) => gateway.answer(sink, |writer| writer.simple("OK")),
        Some(_) => gateway.answer_error(sink, b"ERR DB index is out of range"),
    }
}

pub fn quit(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.wants_close = true;
    gateway.answer(sink, |writer| writer.simple("OK"));
}

pub fn reset(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.is_resp3 = false;
    gateway.transactions.reset();
    gateway.replies = super::ReplyMode::default();
    gateway.name.clear();
    gateway.answer(sink, |writer| writer.simple("RESET"));
}

/// A container without a subcommand; its arity does not let one come here.
pub fn container(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer_error(sink, &request.arity_error());
}

pub fn client_id(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let id = gateway.id as i64;
    gateway.answer(sink, |writer| writer.integer(id));
}

pub fn client_set_name(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match client_name(request.argument(2)) {
        Ok(name) => {
            gateway.name = name;
            gateway.answer(sink, |writer| writer.simple("OK"));
        }
        Err(text) => gateway.answer_error(sink, &text),
    }
}

pub fn client_get_name(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let name = gateway.name.clone();
    gateway.answer(sink, |writer| if name.is_empty() { writer.null() } else { writer.bulk(name.as_bytes()) });
}

pub fn client_set_info(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let (option, value) = (request.argument(2), request.argument(3));
    let is_name = option.eq_ignore_ascii_case(b"lib-name");
    if !is_name && !option.eq_ignore_ascii_case(b"lib-ver") {
        return gateway.answer_error(sink, &[b"ERR Unrecognized option '", shown(option), b"'"].concat());
    }
    if !is_printable(value) {
        let option = option.to_ascii_lowercase();
        let text = [b"ERR ", &option[..], b" cannot contain spaces, newlines or special characters."].concat();
        return gateway.answer_error(sink, &text);
    }
    let value = String::from_utf8_lossy(value).into_owned();
    if is_name {
        gateway.library = value;
    } else {
        gateway.library_version = value;
    }
    gateway.answer(sink, |writer| writer.simple("OK"));
}

/// No client is ever evicted, and what it reads keeps no other key out: there is nothing to set.
pub fn client_switch(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let mode = request.argument(2);
    if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") {
        gateway.answer(sink, |writer| writer.simple("OK"));
    } else {
        gateway.answer_error(sink, SYNTAX);
    }
}

pub fn client_reply(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let mode = request.argument(2);
    if mode.eq_ignore_ascii_case(b"on") {
        gateway.replies = super::ReplyMode::default();
        gateway.answer(sink, |writer| writer.simple("OK"));
    } else if mode.eq_ignore_ascii_case(b"off") {
        gateway.replies = super::ReplyMode { is_off: true, is_silent: true, skips_next: false };
    } else if mode.eq_ignore_ascii_case(b"skip") {
        gateway.replies.is_silent = true;
        gateway.replies.skips_next = true;
    } else {
        gateway.answer_error(sink, SYNTAX);
    }
}

/// Nobody is told which keys change: tracking is off, and stays so.
pub fn client_tracking(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is = |at: usize, words: &[&str]| words.iter().any(|word| request.argument(at).eq_ignore_ascii_case(word.as_bytes()));
    if !(3..request.count()).all(|at| is(at, &["bcast", "optin", "optout", "noloop"])) {
        gateway.answer_error(sink, SYNTAX);
    } else if is(2, &["off"]) {
        gateway.answer(sink, |writer| writer.simple("OK"));
    } else if is(2, &["on"]) {
        gateway.answer_error(sink, b"ERR tracking of keys is not supported: turn the client's cache off");
    } else {
        gateway.answer_error(sink, SYNTAX);
    }
}

pub fn client_tracking_info(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| {
        writer.map(3);
        writer.bulk(b"flags");
        writer.set(1);
        writer.bulk(b"off");
        writer.bulk(b"redirect");
        writer.integer(-1);
        writer.bulk(b"prefixes");
        writer.array(0);
    });
}

pub fn client_get_redirection(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| writer.integer(-1));
}
