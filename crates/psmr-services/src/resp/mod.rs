//! The gateway for Redis's clients: RESP2, RESP3 and inline commands on one side, the key-value service on the other.
//! Replies and error texts are those of redis-server 7.0.15.
//!
//! The way of a request: `parse` finds its arguments in the input, [`table`] says what it is, how many arguments it takes
//! and where its keys are; from the keys follows γ; its handler (in `data`, `connection`, `introspect`, ...) encodes the
//! service's command or answers. The service's reply comes back with a tag that says how to write it.

pub mod client;
mod cluster;
mod connection;
mod counts;
mod data;
mod diagnostics;
mod dump;
mod fields;
mod introspect;
mod parse;
pub mod rdb;
mod script;
mod sha1;
mod strings;
pub mod table;
mod transaction;
mod values;
mod write;

pub use counts::Counts;
pub use script::Scripts;
pub use table::{commands, dependency, explain, CommandInfo, Dependency};

use crate::kv::command::Encoder;
use crate::kv::reply::{split_reply, KvError, Reply};
use crate::kv::{place_of, Totals};
use dump::Flaw;
use parse::{Parsed, Parser, Span};
use psmr_core::command::GroupSet;
use psmr_core::config::COMMAND_BYTES_MAX;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, Sink};
use std::sync::Arc;
use table::{find, find_subcommand, Access, CommandSpec};
use transaction::Transactions;
use values::ValueWindow;
use write::Writer;

/// The version of Redis whose behaviour this is, as clients are told.
pub const REDIS_VERSION: &str = "7.0.15";

/// What a connection may send. A command with a longer key, or longer as a whole, gets an error; beyond any other limit, the
/// connection gets an error and is closed. Memory is taken for neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of any argument, values among them; Redis's `proto-max-bulk-len`.
    pub bulk_bytes_max: usize,
    /// Arguments of a command, its name included.
    pub arguments_max: usize,
    /// Bytes of a whole request; at most 4 GiB. The caller must be able to buffer so many. No command is longer encoded.
    pub request_bytes_max: usize,
    /// Bytes of an inline command, and of the line that says a length.
    pub inline_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            key_bytes_max: 1 << 20,
            bulk_bytes_max: COMMAND_BYTES_MAX,
            arguments_max: 1 << 20,
            request_bytes_max: COMMAND_BYTES_MAX,
            inline_bytes_max: 64 << 10,
        }
    }
}

/// A request with its entry in the table; its handler gets it only if the number of its arguments is right.
#[derive(Clone, Copy)]
struct Request<'a> {
    spec: &'static CommandSpec,
    /// The place of the entry (of a subcommand: of its container) in the table.
    command: usize,
    bytes: &'a [u8],
    arguments: &'a [Span],
    gamma: GroupSet,
}

impl<'a> Request<'a> {
    /// How many arguments there are, the name included.
    #[inline]
    fn count(&self) -> usize {
        self.arguments.len()
    }

    /// An argument; 0 is the name.
    #[inline]
    fn argument(&self, at: usize) -> &'a [u8] {
        self.arguments[at].of(self.bytes)
    }

    fn keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a, '_> {
        self.spec.key_places(self.count()).map(|at| self.argument(at))
    }

    fn arity_error(&self) -> Vec<u8> {
        format!("ERR wrong number of arguments for '{}' command", self.spec.name).into_bytes()
    }
}

/// One connection of a Redis client.
#[derive(Debug)]
pub struct RespGateway {
    id: u64,
    limits: Limits,
    parser: Parser,
    is_resp3: bool,
    name: String,
    library: String,
    library_version: String,
    wants_close: bool,
    transactions: Transactions,
    replies: ReplyMode,
    /// Random keys that were asked for.
    drawn: u64,
    /// For commands and answers while they are made.
    scratch: Vec<u8>,
    counts: Arc<Counts>,
    scripts: Arc<Scripts>,
    totals: Arc<Totals>,
    values: ValueWindow,
}

/// Which replies the client wants (CLIENT REPLY).
#[derive(Debug, Default)]
struct ReplyMode {
    /// None, until it says so.
    is_off: bool,
    /// Not the next one.
    skips_next: bool,
    /// Not that of the present request.
    is_silent: bool,
}

impl ReplyMode {
    /// A request has come.
    #[inline]
    fn begin(&mut self) {
        self.is_silent = self.is_off || std::mem::take(&mut self.skips_next);
    }
}

/// How the reply to a request is to be written: what its tag says.
#[derive(Clone, Copy)]
struct Form {
    /// The client wants no reply.
    is_silent: bool,
    /// The request is counted in `RespGateway::values`.
    has_values: bool,
    is_resp3: bool,
    way: Way,
    /// The command's place in the table.
    command: usize,
}

/// What is made of the service's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is written as it is.
    Plain,
    /// The number is in milliseconds and is wanted in seconds.
    InSeconds,
    /// The string is wanted as a dump.
    Dumped,
    /// It says whether the string of a dump was set.
    Restored,
    /// It says whether the key is there; if it is not, this is the reason why it was not restored.
    NotRestored(Flaw),
}

impl Way {
    const BITS: u32 = 4;

    fn code(self) -> u32 {
        match self {
            Way::Plain => 0,
            Way::InSeconds => 1,
            Way::Dumped => 2,
            Way::Restored => 3,
            Way::NotRestored(flaw) => 4 + flaw as u32,
        }
    }

    fn of_code(code: u32) -> Way {
        match code {
            1 => Way::InSeconds,
            2 => Way::Dumped,
            3 => Way::Restored,
            4.. => Flaw::ALL.get(code as usize - 4).map_or(Way::Plain, |flaw| Way::NotRestored(*flaw)),
            _ => Way::Plain,
        }
    }
}

/// In a tag that is none of a transaction: the client wants no reply.
const SILENT: u32 = 1 << 30;

/// In such a tag: see `Form::has_values`.
const HAS_VALUES: u32 = 1 << 29;

impl Form {
    #[inline]
    fn tag(self) -> u32 {
        let silent = if self.is_silent { SILENT } else { 0 };
        let has_values = if self.has_values { HAS_VALUES } else { 0 };
        u32::from(self.is_resp3) | self.way.code() << 1 | (self.command as u32) << (1 + Way::BITS) | silent | has_values
    }

    #[inline]
    fn of_tag(tag: u32) -> Form {
        let way = Way::of_code(tag >> 1 & ((1 << Way::BITS) - 1));
        let command = ((tag & !(SILENT | HAS_VALUES)) >> (1 + Way::BITS)) as usize;
        Form { is_resp3: tag & 1 != 0, is_silent: tag & SILENT != 0, has_values: tag & HAS_VALUES != 0, way, command }
    }
}

/// A request asked for more memory than this for a moment: it is given back.
const SCRATCH_KEPT_BYTES: usize = 64 << 10;

impl Gateway for RespGateway {
    fn on_input(&mut self, input: &[u8], sink: &mut dyn Sink) -> Result<usize, Vec<u8>> {
        let mut taken = 0;
        while taken < input.len() && !sink.is_full() && !self.is_waiting() {
            if self.wants_close {
                return Ok(input.len());
            }
            let rest = &input[taken..];
            let (length, bytes) = match self.parser.parse(rest, &self.limits) {
                Ok(Parsed::Request(length)) => (length, None),
                Ok(Parsed::TooLong { length, is_whole }) => {
                    taken += length;
                    if is_whole {
                        self.refuse(sink, &too_long(self.limits.request_bytes_max));
                    }
                    continue;
                }
                Ok(Parsed::Line(length)) => (length, Some(std::mem::take(&mut self.parser.line))),
                Ok(Parsed::Incomplete) => break,
                Err(error) => return Err(self.last_words(&format!("ERR Protocol error: {}", error.0))),
            };
            let mut arguments = std::mem::take(&mut self.parser.arguments);
            let outcome = self.on_request(bytes.as_deref().unwrap_or(rest), &arguments, sink);
            arguments.clear();
            arguments.shrink_to(SCRATCH_KEPT_BYTES / size_of::<Span>());
            self.parser.arguments = arguments;
            self.parser.line = bytes.unwrap_or_default();
            taken += length;
            outcome?;
        }
        Ok(taken)
    }

    fn on_reply(&mut self, tag: u32, reply: &[u8], out: &mut Vec<u8>) {
        if transaction::is_own(tag) {
            return transaction::on_reply(self, tag, reply, out);
        }
        if tag & HAS_VALUES != 0 {
            self.values.end(reply.len());
        }
        if tag & SILENT != 0 {
            return;
        }
        let form = Form::of_tag(tag);
        let mut writer = Writer { out, is_resp3: form.is_resp3 };
        let mut rest = reply;
        loop {
            // The replies in a list follow its head, so that translating them one by one translates the list.
            let Some((reply, after)) = split_reply(rest) else {
                return writer.error(b"ERR internal error: the service's reply is malformed");
            };
            write_reply(&mut writer, reply, form);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn on_failure(&mut self, tag: u32, failure: Failure, out: &mut Vec<u8>) {
        let is_silent = if transaction::is_own(tag) { transaction::on_failure(self, tag) } else { tag & SILENT != 0 };
        if !transaction::is_own(tag) && tag & HAS_VALUES != 0 {
            self.values.end(0);
        }
        if is_silent {
            return;
        }
        let mut writer = Writer { out, is_resp3: Form::of_tag(tag).is_resp3 };
        match failure {
            Failure::TooLong => writer.error(&too_long(self.limits.request_bytes_max)),
            Failure::Refused => writer.error(b"TRYAGAIN The command was refused and has not been executed. Send it again."),
            Failure::Unknown => writer.error(
                b"UNKNOWN The command may or may not have been executed: the cluster did not answer in time. Read before sending it again.",
            ),
        }
    }

    fn info(&self) -> ClientInfo {
        self.describe()
    }

    fn is_waiting(&self) -> bool {
        self.transactions.is_waiting() || self.values.is_full()
    }

    fn wants_close(&self) -> bool {
        self.wants_close
    }
}

/// Writes a reply of the service, or the head of one.
#[inline]
fn write_reply(writer: &mut Writer<'_>, reply: Reply<'_>, form: Form) {
    match (reply, form.way) {
        (Reply::Integer(ms @ 0..), Way::InSeconds) => writer.integer(ms / 1000 + i64::from(ms % 1000 >= 500)),
        (Reply::String(value), Way::Dumped) => writer.bulk(&dump::write(value)),
        (Reply::Null, Way::Restored) => writer.error(dump::BUSY),
        (Reply::Integer(0), Way::NotRestored(flaw)) => writer.error(flaw.text()),
        (Reply::Integer(_), Way::NotRestored(_)) => writer.error(dump::BUSY),
        (Reply::Done, _) => writer.out.extend_from_slice(b"+OK\r\n"),
        (Reply::Null, _) => writer.null(),
        (Reply::Integer(value), _) => writer.integer(value),
        (Reply::String(value), _) => writer.bulk(value),
        (Reply::List(count), _) => writer.array(count),
        (Reply::Map(count), _) => writer.map(count),
        (Reply::Error(kind), _) => writer.error(&error_text(kind, form.command)),
        (Reply::Word(word), _) => {
            writer.out.push(b'+');
            writer.out.extend_from_slice(word);
            writer.out.extend_from_slice(b"\r\n");
        }
    }
}

fn too_long(most: usize) -> Vec<u8> {
    format!("ERR command longer than {most} bytes").into_bytes()
}

fn error_text(kind: KvError, command: usize) -> Vec<u8> {
    match kind {
        KvError::NotAnInteger => b"ERR value is not an integer or out of range".to_vec(),
        KvError::Overflow => b"ERR increment or decrement would overflow".to_vec(),
        KvError::TooLong => b"ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_vec(),
        KvError::ExpireTime => data::expire_time_error(commands().get(command).map_or("", |spec| spec.name)),
        KvError::OutsideGamma => b"ERR internal error: a key is not in a group of the command".to_vec(),
        KvError::NoSuchKey => b"ERR no such key".to_vec(),
        KvError::Syntax => data::SYNTAX.to_vec(),
        KvError::NotAFloat => b"ERR value is not a valid float".to_vec(),
        KvError::NoSum => b"ERR increment would produce NaN or Infinity".to_vec(),
        KvError::TableTooLong => b"ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len".to_vec(),
        KvError::NotCounted => {
            b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
              between policies at runtime LRU and LFU data will take some time to adjust."
                .to_vec()
        }
        KvError::Malformed => b"ERR internal error: the command is malformed".to_vec(),
    }
}

impl RespGateway {
    /// A new connection. `id` is what the client is told, and must be the one under which `Sink::clients` lists it.
    pub fn new(id: u64, limits: Limits) -> RespGateway {
        RespGateway {
            id,
            limits,
            parser: Parser::default(),
            is_resp3: false,
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            wants_close: false,
            transactions: Transactions::default(),
            replies: ReplyMode::default(),
            totals: Arc::default(),
            values: ValueWindow::default(),
            drawn: 0,
            scratch: Vec::new(),
            counts: Arc::default(),
            scripts: Arc::default(),
        }
    }

    /// The same; it tells its clients how many keys there are.
    #[must_use]
    pub fn told_by(self, totals: Arc<Totals>) -> RespGateway {
        RespGateway { totals, ..self }
    }

    /// The same; its requests are counted together with those of others.
    #[must_use]
    pub fn counted_by(self, counts: Arc<Counts>) -> RespGateway {
        RespGateway { counts, ..self }
    }

    /// The same; it knows the scripts that others' clients have brought.
    #[must_use]
    pub fn knowing(self, scripts: Arc<Scripts>) -> RespGateway {
        RespGateway { scripts, ..self }
    }

    fn describe(&self) -> ClientInfo {
        ClientInfo {
            id: self.id,
            name: self.name.clone(),
            library: self.library.clone(),
            library_version: self.library_version.clone(),
            protocol: if self.is_resp3 { 3 } else { 2 },
            ..ClientInfo::default()
        }
    }

    fn last_words(&self, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Writer { out: &mut out, is_resp3: self.is_resp3 }.error(text.as_bytes());
        out
    }

    #[inline]
    fn on_request(&mut self, bytes: &[u8], arguments: &[Span], sink: &mut dyn Sink) -> Result<(), Vec<u8>> {
        let Some(name) = arguments.first() else { return Ok(()) };
        let name = name.of(bytes);
        let Some((command, spec)) = find(name) else { return self.on_unknown(name, bytes, arguments, sink) };
        self.counts.add(command);
        self.replies.begin();
        let mut request = Request { spec, command, bytes, arguments, gamma: GroupSet::EMPTY };
        if !spec.subcommands.is_empty() && arguments.len() > 1 {
            match find_subcommand(spec, request.argument(1)) {
                Some(subcommand) => request.spec = subcommand,
                None => {
                    self.refuse(sink, &unknown_subcommand(&request));
                    return Ok(());
                }
            }
        }
        if !request.spec.takes(arguments.len()) {
            transaction::on_wrong_arity(self, &request, sink);
            return Ok(());
        }
        if sink.is_out_of_memory() && request.spec.needs_memory() {
            self.refuse(sink, b"OOM command not allowed when used memory > 'maxmemory'.");
            return Ok(());
        }
        match self.gamma_of(&request, sink) {
            Ok(gamma) => {
                request.gamma = gamma;
                if self.transactions.is_open() {
                    transaction::on_request(self, &request, sink);
                } else {
                    (request.spec.handler)(self, &request, sink);
                }
            }
            Err(text) => self.refuse(sink, &text),
        }
        Ok(())
    }

    /// C-G: the groups of the request's keys, or all groups for what touches all keys.
    #[inline]
    fn gamma_of(&self, request: &Request<'_>, sink: &dyn Sink) -> Result<GroupSet, Vec<u8>> {
        match request.spec.access {
            Access::ReadsKeys | Access::WritesKeys => {
                let topology = sink.topology();
                let mut gamma = GroupSet::EMPTY;
                for key in request.keys() {
                    if key.len() > self.limits.key_bytes_max {
                        let (length, most) = (key.len(), self.limits.key_bytes_max);
                        return Err(format!("ERR key of {length} bytes: a key has at most {most} bytes").into_bytes());
                    }
                    gamma.insert(topology.group_of_slot(place_of(key).slot));
                }
                Ok(gamma)
            }
            Access::ReadsAll | Access::WritesAll => Ok(sink.topology().all()),
            Access::Nothing | Access::ReadsGroup | Access::Queued => Ok(GroupSet::EMPTY),
        }
    }

    fn on_unknown(&mut self, name: &[u8], bytes: &[u8], arguments: &[Span], sink: &mut dyn Sink) -> Result<(), Vec<u8>> {
        self.replies.begin();
        // A browser that was led here by another site must not get its requests executed.
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(Vec::new());
        }
        if script::is_of_scripts(name) {
            self.refuse(sink, script::not_supported());
            return Ok(());
        }
        let mut list = Vec::new();
        for argument in &arguments[1..] {
            if list.len() >= 128 {
                break;
            }
            let room = 128 - list.len();
            list.push(b'\'');
            list.extend_from_slice(shown_start(argument.of(bytes), room));
            list.extend_from_slice(b"' ");
        }
        let text = [b"ERR unknown command '", shown_start(name, 128), b"', with args beginning with: ", &list[..]].concat();
        self.refuse(sink, &text);
        Ok(())
    }

    /// Answers a request that is none: a transaction that it is in will not be executed.
    fn refuse(&mut self, sink: &mut dyn Sink, text: &[u8]) {
        self.transactions.spoil();
        self.answer_error(sink, text);
    }

    /// Answers at once.
    fn answer(&mut self, sink: &mut dyn Sink, write: impl FnOnce(&mut Writer<'_>)) {
        if self.replies.is_silent {
            return;
        }
        self.scratch.clear();
        write(&mut Writer { out: &mut self.scratch, is_resp3: self.is_resp3 });
        sink.answer(&self.scratch);
        self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
    }

    fn answer_error(&mut self, sink: &mut dyn Sink, text: &[u8]) {
        self.answer(sink, |writer| writer.error(text));
    }

    /// Multicasts a write to γ.
    #[inline]
    fn write(&mut self, request: &Request<'_>, sink: &mut dyn Sink, encode: impl FnOnce(Encoder<'_>)) {
        self.write_as(Way::Plain, request, sink, encode);
    }

    #[inline]
    fn write_as(&mut self, way: Way, request: &Request<'_>, sink: &mut dyn Sink, encode: impl FnOnce(Encoder<'_>)) {
        self.write_with(self.form(request, way), request, sink, encode);
    }

    /// Multicasts a write that returns a value.
    fn write_for_value(&mut self, request: &Request<'_>, sink: &mut dyn Sink, encode: impl FnOnce(Encoder<'_>)) {
        let has_values = self.begin_values();
        self.write_with(Form { has_values, ..self.form(request, Way::Plain) }, request, sink, encode);
    }

    #[inline]
    fn write_with(&mut self, form: Form, request: &Request<'_>, sink: &mut dyn Sink, encode: impl FnOnce(Encoder<'_>)) {
        self.scratch.clear();
        encode(Encoder(&mut self.scratch));
        sink.ordered(request.gamma, false, form.tag(), &self.scratch);
        self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
    }

    /// A request with values goes on its way, and is counted. False: it is kept for EXEC, which is counted.
    fn begin_values(&mut self) -> bool {
        if !self.transactions.is_queueing {
            self.values.begin();
        }
        !self.transactions.is_queueing
    }

    /// Reads: where γ is one group, in that group without order; else in the order of all of γ.
    #[inline]
    fn read(&mut self, request: &Request<'_>, sink: &mut dyn Sink, encode: impl FnOnce(Encoder<'_>)) {
        self.read_as(Way::Plain, request, sink, encode);
    }

    #[inline]
    fn read_as(&mut self, way: Way, request: &Request<'_>, sink: &mut dyn Sink, encode: impl FnOnce(Encoder<'_>)) {
        let form = self.form(request, way);
        self.scratch.clear();
        encode(Encoder(&mut self.scratch));
        match request.gamma.lowest() {
            Some(group) if request.gamma.len() == 1 => sink.read(group, form.tag(), &self.scratch),
            _ => {
                let has_values = self.begin_values();
                sink.ordered(request.gamma, true, Form { has_values, ..form }.tag(), &self.scratch);
            }
        }
        self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
    }

    #[inline]
    fn form(&self, request: &Request<'_>, way: Way) -> Form {
        let is_silent = self.replies.is_silent;
        Form { is_resp3: self.is_resp3, is_silent, has_values: false, way, command: request.command }
    }
}

fn unknown_subcommand(request: &Request<'_>) -> Vec<u8> {
    let container = request.spec.name.to_ascii_uppercase();
    let name = shown_start(request.argument(1), 128);
    [b"ERR unknown subcommand '", name, b"'. Try ", container.as_bytes(), b" HELP."].concat()
}

/// What Redis shows of an argument in an error: nothing from a zero byte on.
fn shown(argument: &[u8]) -> &[u8] {
    &argument[..memchr::memchr(0, argument).unwrap_or(argument.len())]
}

/// As `shown`, `length` bytes at most.
fn shown_start(argument: &[u8], length: usize) -> &[u8] {
    let shown = shown(argument);
    &shown[..shown.len().min(length)]
}
