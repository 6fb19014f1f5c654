//! BITFIELD and BITFIELD_RO.

use super::data::{NOT_AN_INTEGER, SYNTAX};
use super::strings::bit_offset;
use super::{shown, Request, RespGateway};
use crate::kv::fields::{Field, FieldAction, FieldStep, Overflow};
use crate::kv::parse_integer;
use psmr_core::gateway::Sink;

const BAD_TYPE: &[u8] = b"ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";

pub fn bit_fields(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match steps(request) {
        Ok(steps) if steps.iter().any(FieldStep::writes) => {
            gateway.write(request, sink, |encoder| encoder.bit_fields(request.argument(1), &steps));
        }
        Ok(steps) => gateway.read(request, sink, |encoder| encoder.bit_fields(request.argument(1), &steps)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

pub fn read_bit_fields(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    match steps(request) {
        Ok(steps) if steps.iter().any(FieldStep::writes) => {
            gateway.answer_error(sink, b"ERR BITFIELD_RO only supports the GET subcommand");
        }
        Ok(steps) => gateway.read(request, sink, |encoder| encoder.bit_fields(request.argument(1), &steps)),
        Err(text) => gateway.answer_error(sink, text),
    }
}

fn steps(request: &Request<'_>) -> Result<Vec<FieldStep>, &'static [u8]> {
    let (mut steps, mut overflow) = (Vec::new(), Overflow::Wrap);
    let mut at = 2;
    while at < request.count() {
        let after = request.count() - at - 1;
        let is = |word: &str| request.argument(at).eq_ignore_ascii_case(word.as_bytes());
        let number = || parse_integer(request.argument(at + 3)).ok_or(NOT_AN_INTEGER);
        if is("overflow") && after >= 1 {
            overflow = overflow_of(request.argument(at + 1))?;
            at += 2;
            continue;
        }
        let is_get = is("get") && after >= 2;
        if !is_get && !((is("set") || is("incrby")) && after >= 3) {
            return Err(SYNTAX);
        }
        let field = field(request.argument(at + 1), request.argument(at + 2))?;
        let action = match is_get {
            true => FieldAction::Get,
            false if is("set") => FieldAction::Set(number()?),
            false => FieldAction::Add(number()?),
        };
        steps.push(FieldStep { field, action, overflow });
        at += if is_get { 3 } else { 4 };
    }
    Ok(steps)
}

fn overflow_of(name: &[u8]) -> Result<Overflow, &'static [u8]> {
    let names = [("wrap", Overflow::Wrap), ("sat", Overflow::Saturate), ("fail", Overflow::Fail)];
    let found = names.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    found.map(|(_, overflow)| overflow).ok_or(b"ERR Invalid OVERFLOW type specified")
}

/// A field of a type like `u8`, at a place in bits or, after `#`, in its own width.
fn field(type_name: &[u8], place: &[u8]) -> Result<Field, &'static [u8]> {
    let (is_signed, digits) = match shown(type_name) {
        [b'i', digits @ ..] => (true, digits),
        [b'u', digits @ ..] => (false, digits),
        _ => return Err(BAD_TYPE),
    };
    let bits_max = if is_signed { 64 } else { 63 };
    let bits = parse_integer(digits).filter(|bits| (1..=bits_max).contains(bits)).ok_or(BAD_TYPE)?;
    let offset = match place {
        [b'#', index @ ..] => bit_offset(index, bits),
        _ => bit_offset(place, 1),
    }?;
    Ok(Field { is_signed, bits: bits as u8, offset })
}
