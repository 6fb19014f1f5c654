//! Scripts: there is no interpreter, but those of locks are recognised, and are commands of the service. Each compares a
//! lock's token and then removes the lock or moves its expiry, as one. The three of redis-py's `Lock` are known by their digests;
//! those that Redis's documents give, and many libraries have, by their form, however they are laid out.

use super::sha1::hex_digest;
use super::{Request, RespGateway};
use crate::kv::command::Then;
use crate::kv::{parse_integer, place_of};
use psmr_core::command::GroupSet;
use psmr_core::gateway::Sink;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Known scripts are shorter.
const SCRIPT_BYTES_MAX: usize = 4 << 10;

/// Of a digest in hexadecimal digits.
const DIGEST_BYTES: usize = 40;

/// Digests that a replica remembers. Clients send the text of one that it does not know.
const REMEMBERED_MAX: usize = 256;

const NOT_SUPPORTED: &[u8] =
    b"ERR scripts and functions are not supported, except those that release or extend a lock: use MULTI with WATCH instead";
const NOT_AN_INTEGER: &[u8] = b"ERR value is not an integer or out of range";

/// A script that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Removes the lock.
    Release,
    /// Adds to the lock's time, or sets it.
    Extend,
    /// Sets the lock's time, in milliseconds.
    Reacquire,
    /// The same, in seconds.
    ReacquireSeconds,
}

const KNOWN: [(&str, Script); 3] = [
    ("c3f8721cbb97f72bc19e972846bd7aaf91901658", Script::Release),
    ("a4e8783852e6b949f9ef3a97212805108459a890", Script::Extend),
    ("1cac51482acf5858da00f6d685d68f886cd6b6b2", Script::Reacquire),
];

/// As `form` writes them.
const FORMS: [(&str, Script); 3] = [
    (r#"if redis.call("get",KEYS[1])==ARGV[1]then return redis.call("del",KEYS[1])else return 0 end"#, Script::Release),
    (
        r#"if redis.call("get",KEYS[1])==ARGV[1]then return redis.call("pexpire",KEYS[1],ARGV[2])else return 0 end"#,
        Script::Reacquire,
    ),
    (
        r#"if redis.call("get",KEYS[1])==ARGV[1]then return redis.call("expire",KEYS[1],ARGV[2])else return 0 end"#,
        Script::ReacquireSeconds,
    ),
];

/// The text of a script without what does not matter: layout, comments, which quotes it has, and how it writes commands. `None`: it
/// is none of those above.
fn form(text: &[u8]) -> Option<String> {
    let (mut form, mut is_apart) = (String::new(), false);
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'-' if rest.starts_with(b"-") && !rest.starts_with(b"-[") => {
                rest = rest.iter().position(|b| *b == b'\n').map_or(&[][..], |end| &rest[end..]);
                is_apart = true;
            }
            b' ' | b'\t' | b'\r' | b'\n' | b';' => is_apart = true,
            b'\'' | b'"' => {
                let (word, after) = rest.split_at(rest.iter().position(|b| *b == byte)?);
                rest = &after[1..];
                let word = std::str::from_utf8(word).ok().filter(|word| word.bytes().all(|b| b.is_ascii_alphabetic()))?;
                form.push_str(&format!("\"{}\"", word.to_ascii_lowercase()));
                is_apart = false;
            }
            _ if byte.is_ascii_graphic() => {
                let ends_word = form.ends_with(|c: char| c.is_ascii_alphanumeric());
                if is_apart && ends_word && byte.is_ascii_alphanumeric() {
                    form.push(' ');
                }
                form.push(byte.into());
                is_apart = false;
            }
            _ => return None,
        }
    }
    Some(form)
}

/// The digests of scripts that clients have brought, for all connections of a replica together.
#[derive(Debug, Default)]
pub struct Scripts(Mutex<HashMap<String, Script>>);

impl Scripts {
    fn by_digest(&self, digest: &[u8]) -> Option<Script> {
        let digest = std::str::from_utf8(digest).ok()?.to_ascii_lowercase();
        let known = KNOWN.into_iter().find(|(known, _)| *known == digest).map(|(_, script)| script);
        known.or_else(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).copied())
    }

    /// The script, and its digest, which is known from now on.
    fn by_text(&self, text: &[u8]) -> Option<(String, Script)> {
        if text.len() > SCRIPT_BYTES_MAX {
            return None;
        }
        let digest = hex_digest(text);
        if let Some(script) = self.by_digest(digest.as_bytes()) {
            return Some((digest, script));
        }
        let form = form(text)?;
        let (_, script) = FORMS.into_iter().find(|(known, _)| *known == form)?;
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(digest.clone(), script);
        }
        Some((digest, script))
    }
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
    let script = gateway.scripts.by_text(request.argument(1)).map(|(_, script)| script);
    run(gateway, request, script, NOT_SUPPORTED, sink);
}

pub fn evalsha(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let unknown = b"NOSCRIPT No matching script. Please use EVAL.";
    if request.argument(1).len() != DIGEST_BYTES {
        return gateway.answer_error(sink, unknown);
    }
    let script = gateway.scripts.by_digest(request.argument(1));
    run(gateway, request, script, unknown, sink);
}

fn run(gateway: &mut RespGateway, request: &Request<'_>, script: Option<Script>, unknown: &[u8], sink: &mut dyn Sink) {
    let prepared = check_key_count(request).and_then(|()| match script {
        Some(script) => prepare(script, request),
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
        Script::Reacquire | Script::ReacquireSeconds => 6,
        Script::Extend => 7,
    };
    if request.argument(2) != b"1" || request.count() < count {
        return Err(b"ERR a script of a lock needs one key, a token, and a time where it sets one");
    }
    let time = || parse_integer(request.argument(5)).ok_or(NOT_AN_INTEGER);
    let then = match script {
        Script::Release => Then::Delete,
        Script::Reacquire => Then::Expire(time()?),
        Script::ReacquireSeconds => Then::Expire(time()?.checked_mul(1000).ok_or(NOT_AN_INTEGER)?),
        Script::Extend if request.argument(6) == b"0" => Then::Extend(time()?),
        Script::Extend => Then::ExpireAgain(time()?),
    };
    Ok((request.argument(3), request.argument(4), then))
}

pub fn load(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match gateway.scripts.by_text(request.argument(2)) {
        Some((digest, _)) => gateway.answer(sink, |writer| writer.bulk(digest.as_bytes())),
        None => gateway.answer_error(sink, NOT_SUPPORTED),
    }
}

pub fn exists(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is_known: Vec<bool> = (2..request.count()).map(|at| gateway.scripts.by_digest(request.argument(at)).is_some()).collect();
    gateway.answer(sink, |writer| {
        writer.array(request.count() - 2);
        for at in 2..request.count() {
            writer.integer(i64::from(is_known[at - 2]));
        }
    });
}

/// What was brought is forgotten; redis-py's `Lock` stays known.
pub fn flush(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is_mode = |argument: &[u8]| argument.eq_ignore_ascii_case(b"sync") || argument.eq_ignore_ascii_case(b"async");
    if request.count() > 3 || (request.count() == 3 && !is_mode(request.argument(2))) {
        return gateway.answer_error(sink, b"ERR SCRIPT FLUSH only support SYNC|ASYNC option");
    }
    gateway.scripts.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    gateway.answer(sink, |writer| writer.simple("OK"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> Option<Script> {
        Scripts::default().by_text(text.as_bytes()).map(|(_, script)| script)
    }

    #[test]
    fn forms_are_written_as_they_are_found() {
        for (text, script) in FORMS {
            assert_eq!((form(text.as_bytes()).as_deref(), known(text)), (Some(text), Some(script)));
        }
    }

    #[test]
    fn a_lock_s_script_is_known_however_it_is_laid_out() {
        let release = "\n-- releases\nif redis.call('GET', KEYS[1]) == ARGV[1] then\n\treturn redis.call('DEL', KEYS[1]);\nelse\n return 0\nend -- .";
        assert_eq!(known(release), Some(Script::Release));
        let extend =
            "if redis.call(\"get\",KEYS[1])==ARGV[1] then return redis.call('pexpire',KEYS[1],ARGV[2]) else return 0 end";
        assert_eq!(known(extend), Some(Script::Reacquire));
        assert_eq!(known(&extend.replace("pexpire", "Expire")), Some(Script::ReacquireSeconds));
    }

    #[test]
    fn what_does_anything_else_is_not() {
        let release = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
        assert_eq!(known(release), Some(Script::Release));
        for (a, b) in [
            ("==", "~="),
            ("KEYS[1]) ==", "KEYS[2]) =="),
            ("ARGV[1]", "argv[1]"),
            ("return 0", "return 1"),
            ("return 0", "return 00"),
            ("else", "el se"),
            ("'del'", "'unlink'"),
            ("'del'", "'d el'"),
            ("'del'", "'del\""),
            ("redis.call('del'", "redis.pcall('del'"),
            ("end", "end return 2"),
            ("end", "-- end"),
            ("end", "--[[ x ]] end"),
            ("if", "\u{a0}if"),
        ] {
            assert!(release.contains(a));
            assert_eq!(known(&release.replacen(a, b, 1)), None, "{a} {b}");
        }
    }

    #[test]
    fn no_more_digests_are_remembered_than_there_is_room_for() {
        let scripts = Scripts::default();
        for count in 0..2 * REMEMBERED_MAX {
            let text = format!("{}{}", " ".repeat(count), FORMS[0].0);
            assert!(scripts.by_text(text.as_bytes()).is_some());
        }
        assert_eq!(scripts.0.lock().map(|known| known.len()).ok(), Some(REMEMBERED_MAX));
    }
}
