//! DUMP and RESTORE: a string as Redis's files have it, with the version of their format and a checksum behind it.
//!
//! ```text
//! dump    = 0, string, version u16, crc64 u64           of all before; all numbers here are little-endian
//! string  = length, bytes | 0xc0, i8 | 0xc1, i16 | 0xc2, i32 | 0xc3, length of packed, length, packed (LZF)
//! length  = 0..63 | 0x40 + high 6 bits, low 8 bits | 0x80, u32 | 0x81, u64        these big-endian
//! ```

use super::data::{NOT_AN_INTEGER, SYNTAX};
use super::{Request, RespGateway, Way};
use crate::kv::command::{Expiry, SetIf};
use crate::kv::parse_integer;
use psmr_core::config::COMMAND_BYTES_MAX;
use psmr_core::gateway::Sink;

/// The version of the format that redis-server 7.0 writes.
const VERSION: u16 = 10;

/// Version and checksum.
const FOOTER_BYTES: usize = 10;

/// Of a string.
const TYPE_STRING: u8 = 0;

/// The last one that redis-server 7.0 knows.
const TYPE_LAST: u8 = 19;

/// Integers are written as such where their digits are not more than this.
const DIGITS_MAX: usize = 11;

/// Why nothing is restored. Redis tells that a key is there before it looks at most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    TimeIsNoInteger,
    TimeIsNegative,
    Footer,
    Data,
    OtherType,
    TooLong,
}

impl Flaw {
    /// All of them; the place is how a tag says which.
    pub const ALL: [Flaw; 6] =
        [Flaw::TimeIsNoInteger, Flaw::TimeIsNegative, Flaw::Footer, Flaw::Data, Flaw::OtherType, Flaw::TooLong];

    pub fn text(self) -> &'static [u8] {
        match self {
            Flaw::TimeIsNoInteger => NOT_AN_INTEGER,
            Flaw::TimeIsNegative => b"ERR Invalid TTL value, must be >= 0",
            Flaw::Footer => b"ERR DUMP payload version or checksum are wrong",
            Flaw::Data => b"ERR Bad data format",
            Flaw::OtherType => b"ERR the value in the dump is no string: other types are not supported",
            Flaw::TooLong => b"ERR the value in the dump is too long for a command",
        }
    }
}

/// What a key that is there is told.
pub const BUSY: &[u8] = b"BUSYKEY Target key name already exists.";

pub fn dump(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.read_as(Way::Dumped, request, sink, |encoder| encoder.get(request.argument(1)));
}

pub fn restore(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let key = request.argument(1);
    let options = match RestoreOptions::parse(request) {
        Ok(options) => options,
        Err(text) => return gateway.answer_error(sink, text),
    };
    let condition = if options.replaces { SetIf::Always } else { SetIf::Absent };
    match restored(request, options.is_absolute) {
        Ok((value, expiry)) => {
            gateway.write_as(Way::Restored, request, sink, |encoder| encoder.set(key, &value, expiry, condition, false));
        }
        Err(flaw) if options.replaces => gateway.answer_error(sink, flaw.text()),
        Err(flaw) => {
            gateway.read_as(Way::NotRestored(flaw), request, sink, |encoder| encoder.exists(1, std::iter::once(key)));
        }
    }
}

/// The value and its expiry.
fn restored(request: &Request<'_>, is_absolute: bool) -> Result<(Vec<u8>, Expiry), Flaw> {
    let expiry = match parse_integer(request.argument(2)).ok_or(Flaw::TimeIsNoInteger)? {
        0 => Expiry::Never,
        time if time < 0 => return Err(Flaw::TimeIsNegative),
        time if is_absolute => Expiry::AtMs(time),
        time => Expiry::AfterMs(time),
    };
    Ok((read(request.argument(3))?, expiry))
}

struct RestoreOptions {
    replaces: bool,
    is_absolute: bool,
}

impl RestoreOptions {
    fn parse(request: &Request<'_>) -> Result<RestoreOptions, &'static [u8]> {
        let mut options = RestoreOptions { replaces: false, is_absolute: false };
        // How often and when the key was used is checked, and not kept.
        let (mut has_frequency, mut has_idle_time) = (false, false);
        let mut arguments = (4..request.count()).map(|at| request.argument(at));
        while let Some(argument) = arguments.next() {
            let is = |name: &str| argument.eq_ignore_ascii_case(name.as_bytes());
            let mut number = || parse_integer(arguments.next().ok_or(SYNTAX)?).ok_or(NOT_AN_INTEGER);
            if is("replace") {
                options.replaces = true;
            } else if is("absttl") {
                options.is_absolute = true;
            } else if is("idletime") && !has_frequency {
                has_idle_time = true;
                if number()? < 0 {
                    return Err(b"ERR Invalid IDLETIME value, must be >= 0");
                }
            } else if is("freq") && !has_idle_time {
                has_frequency = true;
                if !(0..=255).contains(&number()?) {
                    return Err(b"ERR Invalid FREQ value, must be >= 0 and <= 255");
                }
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(options)
    }
}

/// The dump of a string.
pub fn write(value: &[u8]) -> Vec<u8> {
    let mut out = vec![TYPE_STRING];
    write_string(value, &mut out);
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = crc64(0, &out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Appends a string.
pub(super) fn write_string(value: &[u8], out: &mut Vec<u8>) {
    match parse_integer(value).and_then(|number| i32::try_from(number).ok()).filter(|_| value.len() <= DIGITS_MAX) {
        Some(number) => push_integer(out, number),
        None => {
            push_length(out, value.len());
            out.extend_from_slice(value);
        }
    }
}

fn push_integer(out: &mut Vec<u8>, number: i32) {
    if let Ok(number) = i8::try_from(number) {
        out.push(0xc0);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(number) = i16::try_from(number) {
        out.push(0xc1);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(0xc2);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

pub(super) fn push_length(out: &mut Vec<u8>, length: usize) {
    match (u16::try_from(length), u32::try_from(length)) {
        (Ok(length @ 0..=0x3f), _) => out.push(length as u8),
        (Ok(length @ 0..=0x3fff), _) => out.extend_from_slice(&(0x4000 | length).to_be_bytes()),
        (_, Ok(length)) => {
            out.push(0x80);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// The string in a dump.
fn read(dump: &[u8]) -> Result<Vec<u8>, Flaw> {
    let (body, footer) = dump.len().checked_sub(FOOTER_BYTES).map(|at| dump.split_at(at)).ok_or(Flaw::Footer)?;
    let (version, checksum) = footer.split_at(size_of::<u16>());
    let is_newer = u16::from_le_bytes([version[0], version[1]]) > VERSION;
    if is_newer || checksum != crc64(0, &dump[..dump.len() - checksum.len()]).to_le_bytes() {
        return Err(Flaw::Footer);
    }
    match body.split_first() {
        Some((&TYPE_STRING, string)) => read_string(string),
        Some((..=TYPE_LAST, _)) => Err(Flaw::OtherType),
        _ => Err(Flaw::Data),
    }
}

fn read_string(bytes: &[u8]) -> Result<Vec<u8>, Flaw> {
    let digits = |number: i32| Ok(number.to_string().into_bytes());
    match bytes {
        [0xc0, number, ..] => digits(i32::from(*number as i8)),
        [0xc1, a, b, ..] => digits(i32::from(i16::from_le_bytes([*a, *b]))),
        [0xc2, a, b, c, d, ..] => digits(i32::from_le_bytes([*a, *b, *c, *d])),
        [0xc3, rest @ ..] => {
            let (packed_length, rest) = split_length(rest)?;
            let (length, rest) = split_length(rest)?;
            unpack(rest.get(..packed_length).ok_or(Flaw::Data)?, length, COMMAND_BYTES_MAX)
        }
        _ => {
            let (length, rest) = split_length(bytes)?;
            rest.get(..length).map(<[u8]>::to_vec).ok_or(Flaw::Data)
        }
    }
}

fn split_length(bytes: &[u8]) -> Result<(usize, &[u8]), Flaw> {
    let (length, rest) = match bytes {
        [first @ 0..=0x3f, rest @ ..] => (u64::from(*first), rest),
        [first @ 0x40..=0x7f, second, rest @ ..] => (u64::from(u16::from_be_bytes([first & 0x3f, *second])), rest),
        [0x80, rest @ ..] => {
            let (length, rest) = rest.split_first_chunk().ok_or(Flaw::Data)?;
            (u64::from(u32::from_be_bytes(*length)), rest)
        }
        [0x81, rest @ ..] => {
            let (length, rest) = rest.split_first_chunk().ok_or(Flaw::Data)?;
            (u64::from_be_bytes(*length), rest)
        }
        _ => return Err(Flaw::Data),
    };
    usize::try_from(length).map(|length| (length, rest)).map_err(|_| Flaw::Data)
}

/// What LZF has packed: runs of bytes as they are, and references to what is there already. A length over the limit is refused
/// before memory is taken.
pub(super) fn unpack(mut packed: &[u8], length: usize, most: usize) -> Result<Vec<u8>, Flaw> {
    if length > most {
        return Err(Flaw::TooLong);
    }
    let mut out = Vec::with_capacity(length);
    while let Some((head, rest)) = packed.split_first() {
        let head = usize::from(*head);
        if head < 1 << 5 {
            let (run, rest) = rest.split_at_checked(head + 1).ok_or(Flaw::Data)?;
            out.extend_from_slice(run);
            packed = rest;
        } else {
            let (more, rest) = if head >> 5 == 7 { rest.split_first().ok_or(Flaw::Data)? } else { (&0, rest) };
            let (low, rest) = rest.split_first().ok_or(Flaw::Data)?;
            let back = (head & 0x1f) << 8 | usize::from(*low);
            let start = out.len().checked_sub(back + 1).ok_or(Flaw::Data)?;
            // It may reach into what it makes.
            for at in start..start + (head >> 5) + usize::from(*more) + 2 {
                out.push(out[at]);
            }
            packed = rest;
        }
        if out.len() > length {
            return Err(Flaw::Data);
        }
    }
    (out.len() == length).then_some(out).ok_or(Flaw::Data)
}

/// Redis's checksum: CRC-64 of Jones's polynomial, eight bytes at a time, as values may be long. It goes on from that of the
/// bytes before, which is 0 for none.
pub(super) fn crc64(before: u64, bytes: &[u8]) -> u64 {
    static TABLES: [[u64; 256]; 8] = tables();
    let (mut crc, mut rest) = (before, bytes);
    while let Some((word, after)) = rest.split_first_chunk() {
        let mixed = (crc ^ u64::from_le_bytes(*word)).to_le_bytes();
        crc = mixed.iter().zip(TABLES.iter().rev()).fold(0, |crc, (byte, table)| crc ^ table[usize::from(*byte)]);
        rest = after;
    }
    rest.iter().fold(crc, |crc, byte| crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)])
}

/// What a byte does to the checksum, with 0 to 7 bytes behind it.
const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut at = 0;
    while at < 8 * 256 {
        let (behind, byte) = (at / 256, at % 256);
        let mut crc = if behind == 0 { byte as u64 } else { tables[behind - 1][byte] };
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x95ac_9329_ac4b_c9b5 };
            bit += 1;
        }
        tables[behind][byte] = crc;
        at += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_oneof, Strategy};

    fn with_footer(mut body: Vec<u8>) -> Vec<u8> {
        body.extend_from_slice(&VERSION.to_le_bytes());
        let checksum = crc64(0, &body);
        body.extend_from_slice(&checksum.to_le_bytes());
        body
    }

    /// What LZF unpacks: runs, and references as far back and as long as they can be.
    fn packed() -> impl Strategy<Value = Vec<u8>> {
        let run = vec(any::<u8>(), 1..=32).prop_map(|run| [vec![run.len() as u8 - 1], run].concat());
        let reference = (1..7u8, 0..40u8).prop_map(|(length, back)| vec![length << 5, back]);
        let long = (any::<u8>(), 0..40u8).prop_map(|(length, back)| vec![7 << 5, length, back]);
        vec(prop_oneof![run, reference, long], 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest::proptest! {
        #[test]
        fn what_was_dumped_is_restored(value in prop_oneof![vec(any::<u8>(), 0..100), any::<i64>().prop_map(|n| n.to_string().into())]) {
            assert_eq!(read(&write(&value)), Ok(value.clone()));
            let mut broken = write(&value);
            let at = value.first().map_or(0, |byte| usize::from(*byte)) % broken.len();
            broken[at] ^= 1;
            assert_eq!(read(&broken), Err(Flaw::Footer));
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in vec(prop_oneof![any::<u8>(), 0..4u8, 0xc0..0xc4u8], 0..30)) {
            assert_ne!(read(&with_footer(body)), Err(Flaw::Footer));
        }

        #[test]
        fn what_is_unpacked_has_its_length_or_is_refused(packed in packed(), length in 0..300usize) {
            if let Ok(bytes) = unpack(&packed, length, COMMAND_BYTES_MAX) {
                assert_eq!(bytes.len(), length);
            }
        }
    }

    #[test]
    fn lengths_and_integers_are_written_in_the_shortest_form() {
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        for (value, head) in
            [("-128", &[0, 0xc0, 0x80][..]), ("128", &[0, 0xc1, 128, 0]), ("-2147483648", &[0, 0xc2, 0, 0, 0, 0x80])]
        {
            assert!(write(value.as_bytes()).starts_with(head));
        }
        for (length, head) in [(63, &[0, 63][..]), (64, &[0, 0x40, 64]), (16384, &[0, 0x80, 0, 0, 0x40, 0])] {
            assert!(write(&vec![b'x'; length]).starts_with(head));
        }
        assert_eq!(read(&with_footer(vec![0, 0x81, 0, 0, 0, 0, 0, 0, 0, 1, b'x'])), Ok(b"x".to_vec()));
    }

    #[test]
    fn a_reference_may_reach_into_what_it_makes() {
        assert_eq!(unpack(&[0, b'a', 1 << 5, 0, 7 << 5, 1, 0], 14, COMMAND_BYTES_MAX), Ok(vec![b'a'; 14]));
        assert_eq!(unpack(&[0, b'a', 1 << 5, 1], 4, COMMAND_BYTES_MAX), Err(Flaw::Data), "it begins before the start");
        assert_eq!(unpack(&[0, b'a'], 2, COMMAND_BYTES_MAX), Err(Flaw::Data));
        assert_eq!(unpack(&[0, b'a'], COMMAND_BYTES_MAX + 1, COMMAND_BYTES_MAX), Err(Flaw::TooLong), "no memory is taken");
        assert_eq!(read(&with_footer(vec![1, 0])), Err(Flaw::OtherType));
        assert_eq!(read(&with_footer(vec![99])), Err(Flaw::Data));
    }
}
