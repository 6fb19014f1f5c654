//! The same requests to a real redis-server and to the key-value service behind its gateway must give the same bytes.

mod common;

use common::{request, Connection};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A redis-server of this test program.
struct Redis {
    port: u16,
    /// It is stopped by a watcher that sees this pipe close, however the test program ends.
    _lifeline: Child,
}

impl Redis {
    fn shared() -> &'static Redis {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Redis::start)
    }

    fn start() -> Redis {
        let missing = "redis-server is needed for this test and was not found: run `make system`";
        assert!(Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok(), "{missing}");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let script = "redis-server --port \"$0\" --bind 127.0.0.1 --save '' --appendonly no --daemonize no \
                      --databases 16 >/dev/null & server=$!; cat >/dev/null; kill $server; wait $server";
        let lifeline = Command::new("sh").args(["-c", script, &port.to_string()]).stdin(Stdio::piped()).spawn();
        let redis = Redis { port, _lifeline: lifeline.expect("a shell") };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer on port {port}");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    fn connect(&self) -> RedisConnection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("redis-server accepts");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        RedisConnection { stream, input: Vec::new() }
    }
}

struct RedisConnection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl RedisConnection {
    /// The replies to `count` requests.
    fn send(&mut self, requests: &[u8], count: usize) -> Vec<Vec<u8>> {
        self.stream.write_all(requests).expect("redis-server reads");
        (0..count).map(|_| self.reply()).collect()
    }

    fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some(length) = value_length(&self.input) {
                return self.input.drain(..length).collect();
            }
            let mut buffer = [0; 65536];
            let count = self.stream.read(&mut buffer).expect("redis-server answers");
            assert!(count > 0, "redis-server closed the connection; before: {:?}", text(&self.input));
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    /// Everything until the connection is closed.
    fn rest(mut self, requests: &[u8]) -> Vec<u8> {
        self.stream.write_all(requests).expect("redis-server reads");
        let mut all = Vec::new();
        // A connection that is closed with unread input is reset.
        let _ = self.stream.read_to_end(&mut all);
        all
    }

    fn id(&mut self) -> u64 {
        let reply = self.send(&request(&[b"CLIENT", b"ID"]), 1).remove(0);
        integer(&reply).expect("a number") as u64
    }
}

/// The length of the RESP value at the start; `None` if it is not whole.
fn value_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|w| w == b"\r\n")?;
    let number = || std::str::from_utf8(&bytes[1..line]).ok()?.parse::<i64>().ok();
    let mut end = line + 2;
    let values = match bytes[0] {
        b'$' | b'=' => {
            let length = number()?;
            end += if length < 0 { 0 } else { length as usize + 2 };
            0
        }
        b'*' | b'~' => number()?.max(0),
        b'%' => number()? * 2,
        _ => 0,
    };
    for _ in 0..values {
        end += value_length(bytes.get(end..)?)?;
    }
    (bytes.len() >= end).then_some(end)
}

fn integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?).ok()?.parse().ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Both servers, empty, with connections of the same id.
struct Pair {
    redis: RedisConnection,
    ours: Connection,
}

impl Pair {
    fn new() -> Pair {
        let mut redis = Redis::shared().connect();
        let id = redis.id();
        // Another test may have left keys.
        assert_eq!(redis.send(&request(&[b"FLUSHALL"]), 1).remove(0), b"+OK\r\n");
        Pair { redis, ours: Connection::new(id) }
    }

    /// Sends a request to both, which must give the same reply.
    fn check(&mut self, arguments: &[Vec<u8>]) {
        let words: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let bytes = request(&words);
        // Both compare two moments in milliseconds, and must not find them equal on one side only.
        if words.iter().any(|word| word.eq_ignore_ascii_case(b"gt") || word.eq_ignore_ascii_case(b"lt")) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let theirs = self.redis.send(&bytes, 1).remove(0);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64;
        (self.ours.engine.now_ms, self.ours.engine.wall_ms) = (now_ms, now_ms);
        let ours = self.ours.send(&bytes);
        if !is_same(words.first().unwrap_or(&&b""[..]), &theirs, &ours) {
            let shown: Vec<String> = words.iter().map(|w| text(w)).collect();
            panic!("{shown:?}\n  redis: {:?}\n  ours:  {:?}", text(&theirs), text(&ours));
        }
    }
}

/// The replies in an array; else the reply itself.
fn elements(reply: &[u8]) -> Vec<&[u8]> {
    let head = reply.windows(2).position(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
    let mut rest = if reply.starts_with(b"*") { &reply[head..] } else { reply };
    let mut found = Vec::new();
    while let Some(length) = value_length(rest) {
        found.push(&rest[..length]);
        rest = &rest[length..];
    }
    found
}

/// Whether replies are the same, the time that passed between them apart.
fn is_same(command: &[u8], theirs: &[u8], ours: &[u8]) -> bool {
    let slack = match command.to_ascii_lowercase().as_slice() {
        b"ttl" | b"expiretime" => 5,
        b"pttl" | b"pexpiretime" => 5000,
        // Any of its replies may be a time, or a dump.
        b"exec" => {
            let is_near = |(a, b): (&&[u8], &&[u8])| match (integer(a), integer(b)) {
                (Some(a), Some(b)) if a > 0 && b > 0 => a.abs_diff(b) <= 5000,
                _ => a == b || is_dumped_differently(a, b),
            };
            // Null is no array, though its one element, or none, may be the same.
            let is_list = |reply: &[u8]| reply.starts_with(b"*") && !reply.starts_with(b"*-");
            if is_list(theirs) != is_list(ours) {
                return false;
            }
            let (theirs, ours) = (elements(theirs), elements(ours));
            return theirs.len() == ours.len() && theirs.iter().zip(&ours).all(is_near);
        }
        _ => 0,
    };
    match (integer(theirs), integer(ours)) {
        (Some(a), Some(b)) if a > 0 && b > 0 => a.abs_diff(b) <= slack,
        _ if command.eq_ignore_ascii_case(b"dump") && is_dumped_differently(theirs, ours) => true,
        _ => theirs == ours,
    }
}

/// One shared server, and scripts that begin by emptying it: one test at a time.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn arguments(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn pick(choices: &[&str]) -> BoxedStrategy<Vec<u8>> {
    let choices: Vec<Vec<u8>> = choices.iter().map(|c| c.as_bytes().to_vec()).collect();
    prop::sample::select(choices).boxed()
}

fn key() -> BoxedStrategy<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = ["a", "b", "{a}1", "{a}2", "", "x{}", "{", "a key longer than what is held in place"]
        .map(|k| k.as_bytes().to_vec())
        .to_vec();
    keys.push(vec![0, 255, 13, 10]);
    prop::sample::select(keys).boxed()
}

fn number() -> BoxedStrategy<Vec<u8>> {
    pick(&[
        "0",
        "1",
        "-1",
        "10",
        "007",
        "+5",
        " 5",
        "5 ",
        "-0",
        "",
        "-",
        "abc",
        "1.5",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "99999999999999999999",
        "4611686018427387904",
    ])
}

/// Numbers where reading or rounding changes, and what is nearly a number.
const FLOAT_EDGES: [&str; 41] = [
    "0.1",
    "-0.1",
    "-0.0",
    ".5",
    "5.",
    ".",
    "1e",
    "1e5",
    "1E-5",
    "3.0e3",
    "1e17",
    "-1e17",
    "0x1p-3",
    "0X.8p+2",
    "0x",
    "inf",
    "-Infinity",
    "nan",
    "1e4932",
    "1.18973149535723176502e4932",
    "1.2e4932",
    "-1e4932",
    "1e-4940",
    "1e-4951",
    "1.8e-4951",
    "1.9e-4951",
    "1e-4952",
    "1e99999999999999999999",
    "0e99999",
    "18446744073709551615",
    "18446744073709551617",
    "0.000000000000000005",
    "0.000000000000000015",
    "1.000000000000000000108420217248550443",
    "+1.5",
    "1.5 ",
    "1..5",
    "--1",
    "1e+",
    "1_0",
    "0.5f",
];

/// Numbers with a fraction, and what is nearly one.
fn float() -> BoxedStrategy<Vec<u8>> {
    let edges = pick(&FLOAT_EDGES);
    let any = ("-?[0-9]{1,22}(\\.[0-9]{0,25})?", prop::option::of(-30..30i32));
    let any = any.prop_map(|(digits, power)| power.map_or(digits.clone(), |power| format!("{digits}e{power}")).into_bytes());
    prop_oneof![1 => edges, 2 => any].boxed()
}

fn value() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![number(), prop::collection::vec(any::<u8>(), 0..40), Just(vec![b'x'; 3000])].boxed()
}

/// Far away or past: nothing may expire during a script.
fn time() -> BoxedStrategy<Vec<u8>> {
    pick(&[
        "100000",
        "1000000",
        "0",
        "-1",
        "-100000",
        "abc",
        "",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775",
        "9223372036854776",
        "9223372036854775808",
        "9220000000000000",
    ])
}

fn option() -> BoxedStrategy<Vec<u8>> {
    pick(&["NX", "XX", "GET", "KEEPTTL", "nx", "xX", "gt", "LT", "EX", "PX", "EXAT", "PXAT", "COUNT", "MATCH", "foo\r\nbar", ""])
}

/// BITFIELD and BITFIELD_RO, as they are meant and nearly so.
fn bit_fields() -> BoxedStrategy<Vec<Vec<u8>>> {
    let edges = pick(&["u8", "i8", "u1", "i1", "i64", "u63", "u64", "i65", "u0", "x8", "u", "", "i08", "U8"]);
    let any =
        (any::<bool>(), 1..65u8).prop_map(|(is_signed, bits)| format!("{}{bits}", ["u", "i"][usize::from(is_signed)]).into());
    let width = move || prop_oneof![2 => edges.clone(), 5 => any.clone()];
    let place = || {
        pick(&["0", "1", "7", "#0", "#1", "#3", "100", "63", "65", "-1", "#-1", "#", "x", "4294967296", "#9223372036854775807"])
    };
    let number = || prop_oneof![number(), (-300..300i64).prop_map(|n| n.to_string().into())];
    let step = prop_oneof![
        3 => (pick(&["GET", "get"]), width(), place()).prop_map(|(n, w, p)| vec![n, w, p]),
        6 => (pick(&["SET", "INCRBY", "incrby"]), width(), place(), number()).prop_map(|(n, w, p, v)| vec![n, w, p, v]),
        3 => pick(&["WRAP", "SAT", "FAIL", "fail", "x"]).prop_map(|o| vec![b"OVERFLOW".to_vec(), o]),
        1 => pick(&["GET", "OVERFLOW", "x"]).prop_map(|w| vec![w]),
    ];
    (pick(&["bitfield", "bitfield", "bitfield_ro"]), key(), prop::collection::vec(step, 0..5))
        .prop_map(|(n, k, steps)| [vec![n, k], steps.concat()].concat())
        .boxed()
}

/// The table of what is meant to differ: Redis packs a string of more than 20 bytes in a dump where that makes it shorter, and
/// psmr does not. Each restores what the other has written.
fn is_dumped_differently(theirs: &[u8], ours: &[u8]) -> bool {
    let is_packed = |reply: &[u8]| dump_of(reply).is_some_and(|dump| dump.starts_with(&[0, 0xc3]));
    is_packed(theirs) && dump_of(ours).is_some_and(|dump| dump.len() > 20)
}

/// The bytes of a reply that is one string.
fn dump_of(reply: &[u8]) -> Option<&[u8]> {
    let start = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    reply.strip_prefix(b"$")?;
    reply.get(start..)?.strip_suffix(b"\r\n")
}

/// A dump of redis-server: of integers of all widths, a string as it is and a packed one.
fn dump() -> BoxedStrategy<Vec<u8>> {
    const VALUES: [&[u8]; 8] = [b"7", b"-300", b"70000", b"2147483648", b"012", b"", b"some text", &[b'x'; 200]];
    static DUMPS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let dumps = DUMPS.get_or_init(|| {
        let _alone = alone();
        let mut redis = Redis::shared().connect();
        let dump = |value: &[u8]| {
            redis.send(&request(&[b"SET", b"dumped", value]), 1);
            let dump = dump_of(&redis.send(&request(&[b"DUMP", b"dumped"]), 1)[0]).expect("a dump").to_vec();
            redis.send(&request(&[b"DEL", b"dumped"]), 1);
            dump
        };
        VALUES.map(dump).to_vec()
    });
    let dump = prop::sample::select(dumps.clone());
    let broken = (dump.clone(), any::<prop::sample::Index>()).prop_map(|(mut dump, at)| {
        let at = at.index(dump.len());
        dump[at] ^= 4;
        dump
    });
    prop_oneof![6 => dump, 1 => broken, 1 => pick(&["", "x", "longer than ten bytes"])].boxed()
}

/// DUMP and RESTORE, as they are meant and nearly so.
fn dumps() -> BoxedStrategy<Vec<Vec<u8>>> {
    let time = || pick(&["0", "0", "0", "100000", "9220000000000", "-1", "x", "9223372036854775808"]);
    let number = pick(&["0", "5", "255", "256", "-1", "x"]);
    let option = prop_oneof![
        4 => pick(&["REPLACE", "replace", "ABSTTL"]).prop_map(|o| vec![o]),
        2 => (pick(&["IDLETIME", "freq"]), number).prop_map(|(o, n)| vec![o, n]),
        1 => pick(&["IDLETIME", "FREQ", "x"]).prop_map(|o| vec![o]),
    ];
    prop_oneof![
        2 => key().prop_map(|k| vec![b"dump".to_vec(), k]),
        3 => (key(), time(), dump(), prop::collection::vec(option, 0..3))
            .prop_map(|(k, t, d, o)| [vec![b"restore".to_vec(), k, t, d], o.concat()].concat())
            // What has expired before it comes is a change for those who watch the key here, and none in Redis.
            .prop_filter("expired", |words| words[2] != b"100000" || !words.contains(&b"ABSTTL".to_vec())),
    ]
    .boxed()
}

/// LCS, of strings that have something in common.
fn subsequences() -> BoxedStrategy<Vec<Vec<u8>>> {
    let text = "[ab]{0,12}|[a-d]{0,30}".prop_map(String::into_bytes);
    let with_number = pick(&["0", "1", "2", "5", "-1", "x"]).prop_map(|n| vec![b"MINMATCHLEN".to_vec(), n]);
    let option = prop_oneof![
        4 => pick(&["IDX", "idx", "WITHMATCHLEN", "LEN", "IDX"]).prop_map(|o| vec![o]),
        2 => with_number,
        1 => pick(&["MINMATCHLEN", "x"]).prop_map(|o| vec![o]),
    ];
    prop_oneof![
        (key(), text).prop_map(|(k, t)| vec![b"set".to_vec(), k, t]),
        (key(), key(), prop::collection::vec(option, 0..4))
            .prop_map(|(a, b, o)| [vec![b"lcs".to_vec(), a, b], o.concat()].concat()),
    ]
    .boxed()
}

/// Commands that look into values, or do two things to a key at once.
fn strings() -> BoxedStrategy<Vec<Vec<u8>>> {
    let place = || pick(&["0", "1", "-1", "3", "-3", "7", "-8", "100", "-100", "8", "9223372036854775807", "x", ""]);
    let bit_place = || pick(&["0", "1", "7", "8", "100", "900", "-1", "4294967295", "4294967296", "x"]);
    let timed = (pick(&["EX", "PX", "EXAT", "PXAT", "ex"]), time()).prop_map(|(option, time)| vec![option, time]);
    let get_options = prop_oneof![timed, pick(&["PERSIST", "persist", "NX", "EX"]).prop_map(|o| vec![o])];
    let name = |names: &[&str]| pick(names);
    prop_oneof![
        2 => (name(&["getset", "setnx"]), key(), value()).prop_map(|(n, k, v)| vec![n, k, v]),
        2 => (name(&["getdel", "type", "expiretime", "pexpiretime"]), key()).prop_map(|(n, k)| vec![n, k]),
        1 => (name(&["freq", "IDLETIME"]), key()).prop_map(|(n, k)| vec![b"object".to_vec(), n, k]),
        2 => (key(), prop::collection::vec(get_options, 0..3)).prop_map(|(k, o)| [vec![b"getex".to_vec(), k], o.concat()].concat()),
        1 => (name(&["setex", "psetex"]), key(), time(), value()).prop_map(|(n, k, t, v)| vec![n, k, t, v]),
        1 => prop::collection::vec((key(), value()), 1..4)
            .prop_map(|pairs| [vec![b"msetnx".to_vec()], pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()].concat()),
        2 => (name(&["getrange", "substr"]), key(), place(), place()).prop_map(|(n, k, a, b)| vec![n, k, a, b]),
        1 => (key(), pick(&["0", "1", "5", "30", "-1", "536870911", "536870912", "x"]), prop_oneof![value(), Just(Vec::new())])
            .prop_filter("no half a gigabyte", |(_, offset, value)| offset != b"536870911" || value.len() != 1)
            .prop_map(|(k, o, v)| vec![b"setrange".to_vec(), k, o, v]),
        1 => (name(&["unlink", "touch"]), prop::collection::vec(key(), 1..4)).prop_map(|(n, k)| [vec![n], k].concat()),
        1 => (name(&["expireat", "pexpireat"]), key(), time(), prop::collection::vec(pick(&["NX", "XX", "GT", "LT"]), 0..2))
            .prop_map(|(n, k, t, o)| [vec![n, k, t], o].concat()),
        2 => (name(&["rename", "renamenx"]), key(), key()).prop_map(|(n, a, b)| vec![n, a, b]),
        2 => (key(), key(), prop::collection::vec(pick(&["REPLACE", "replace", "DB 0", "nonsense"]), 0..2)).prop_map(|(a, b, o)| {
            let options = o.iter().flat_map(|o| o.split(|b| *b == b' ').map(<[u8]>::to_vec)).collect();
            [vec![b"copy".to_vec(), a, b], options].concat()
        }),
        2 => (key(), bit_place(), pick(&["0", "1", "1", "2", "x"]))
            .prop_filter("no half a gigabyte", |(_, at, bit)| at != b"4294967295" || (bit != b"0" && bit != b"1"))
            .prop_map(|(k, at, bit)| vec![b"setbit".to_vec(), k, at, bit]),
        1 => (key(), bit_place()).prop_map(|(k, at)| vec![b"getbit".to_vec(), k, at]),
        2 => (key(), pick(&["0", "1", "1", "0", "2", "x"]), prop::collection::vec(place(), 0..3), prop::collection::vec(pick(&["BIT", "byte", "bit", "word"]), 0..2))
            .prop_map(|(k, b, p, u)| [vec![b"bitpos".to_vec(), k, b], p, u].concat()),
        2 => (pick(&["AND", "or", "XOR", "not", "NOT", "nand"]), prop::collection::vec(key(), 1..5))
            .prop_map(|(o, k)| [vec![b"bitop".to_vec(), o], k].concat()),
        3 => (key(), prop_oneof![float(), number()]).prop_map(|(k, n)| vec![b"incrbyfloat".to_vec(), k, n]),
        1 => (key(), float()).prop_map(|(k, n)| vec![b"set".to_vec(), k, n]),
        2 => (key(), prop::collection::vec(place(), 0..3), prop::collection::vec(pick(&["BIT", "byte", "bit", "word"]), 0..2))
            .prop_map(|(k, p, u)| [vec![b"bitcount".to_vec(), k], p, u].concat()),
    ]
    .boxed()
}

/// Commands as they are meant, with edge values.
fn shaped() -> BoxedStrategy<Vec<Vec<u8>>> {
    let timed = (pick(&["EX", "PX", "EXAT", "PXAT", "ex"]), time()).prop_map(|(option, time)| vec![option, time]);
    let set_options = prop::collection::vec(prop_oneof![timed, option().prop_map(|o| vec![o])], 0..3);
    let name = |names: &[&str]| pick(names);
    prop_oneof![
        3 => strings(),
        1 => bit_fields(),
        1 => subsequences(),
        1 => dumps(),
        4 => (name(&["set", "SET", "sEt"]), key(), value(), set_options)
            .prop_map(|(n, k, v, o)| [vec![n, k, v], o.concat()].concat()),
        3 => (name(&["get", "strlen", "ttl", "pttl", "persist", "incr", "decr"]), key()).prop_map(|(n, k)| vec![n, k]),
        2 => (name(&["incrby", "decrby"]), key(), number()).prop_map(|(n, k, v)| vec![n, k, v]),
        2 => (name(&["append"]), key(), value()).prop_map(|(n, k, v)| vec![n, k, v]),
        2 => (name(&["expire", "pexpire"]), key(), time(), prop::collection::vec(pick(&["NX", "XX", "GT", "LT", "gt", "z"]), 0..3))
            .prop_map(|(n, k, t, o)| [vec![n, k, t], o].concat()),
        3 => (name(&["del", "exists", "mget"]), prop::collection::vec(key(), 1..6)).prop_map(|(n, k)| [vec![n], k].concat()),
        3 => name(&["multi", "exec", "exec", "discard", "unwatch", "MULTI"]).prop_map(|n| vec![n]),
        1 => (name(&["watch"]), prop::collection::vec(key(), 1..3)).prop_map(|(n, k)| [vec![n], k].concat()),
        2 => prop::collection::vec((key(), value()), 1..5)
            .prop_map(|pairs| [vec![b"mset".to_vec()], pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()].concat()),
    ]
    .boxed()
}

/// Any arguments to any command.
fn soup() -> BoxedStrategy<Vec<Vec<u8>>> {
    let names = pick(&[
        "get",
        "set",
        "del",
        "exists",
        "mget",
        "mset",
        "incr",
        "incrby",
        "decr",
        "decrby",
        "append",
        "strlen",
        "expire",
        "pexpire",
        "ttl",
        "pttl",
        "persist",
        "dbsize",
        "ping",
        "echo",
        "select",
        "GETX",
        "",
        "client",
        "config",
        "command",
        "flushall",
        "hello",
        "a\rb'c",
        "multi",
        "exec",
        "discard",
        "watch",
        "unwatch",
        "getset",
        "getdel",
        "getex",
        "setnx",
        "setex",
        "psetex",
        "msetnx",
        "getrange",
        "substr",
        "setrange",
        "unlink",
        "type",
        "touch",
        "expireat",
        "pexpireat",
        "expiretime",
        "pexpiretime",
        "rename",
        "renamenx",
        "copy",
        "setbit",
        "getbit",
        "bitcount",
        "bitpos",
        "bitop",
        "incrbyfloat",
        "object",
        "memory",
        "bitfield",
        "bitfield_ro",
        "lcs",
        "dump",
        "restore",
    ]);
    let argument =
        prop_oneof![key(), time(), option(), pick(&["2", "3", "setname", "getname", "id", "auth", "default", "no-evict", "on"])];
    (names, prop::collection::vec(argument, 0..6))
        .prop_filter_map("differs on purpose", |(name, arguments)| {
            let first = arguments.first().map(|a| a.to_ascii_lowercase()).unwrap_or_default();
            let differs = match name.as_slice() {
                // One database, as a cluster has; Redis has sixteen.
                b"select" => first.iter().all(u8::is_ascii_digit),
                b"command" | b"config" => arguments.is_empty() || first != b"",
                b"client" => first == b"reply",
                _ => false,
            };
            (!differs).then(|| [vec![name], arguments].concat())
        })
        .boxed()
}

fn script() -> BoxedStrategy<Vec<Vec<Vec<u8>>>> {
    prop::collection::vec(prop_oneof![5 => shaped(), 1 => soup()], 1..40).boxed()
}

/// An expiry in the past leaves a key in Redis that DBSIZE counts until it is looked at.
fn is_counted_differently(script: &[Vec<Vec<u8>>]) -> bool {
    let has = |word: &str| script.iter().flatten().any(|argument| argument.eq_ignore_ascii_case(word.as_bytes()));
    has("dbsize") && (has("exat") || has("pxat"))
}

/// How long a key has been idle is counted by Redis alone, and its clock may be a second or two behind.
fn is_idle_differently(script: &[Vec<Vec<u8>>]) -> bool {
    let is = |argument: &[u8], word: &str| argument.eq_ignore_ascii_case(word.as_bytes());
    script.iter().any(|request| is(&request[0], "object") && request.iter().any(|argument| is(argument, "idletime")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    #[test]
    fn scripts_give_the_same_replies(script in script(), is_resp3: bool) {
        prop_assume!(!is_counted_differently(&script) && !is_idle_differently(&script));
        let _alone = alone();
        let mut pair = Pair::new();
        pair.check(&arguments("FLUSHALL"));
        pair.check(&arguments(if is_resp3 { "HELLO 3" } else { "HELLO 2" }));
        script.iter().for_each(|arguments| pair.check(arguments));
    }
}

#[test]
fn sums_of_numbers_with_fractions_are_the_same() {
    let _alone = alone();
    let mut pair = Pair::new();
    for value in FLOAT_EDGES {
        for delta in FLOAT_EDGES {
            pair.check(&["SET", "k", value].map(|word| word.as_bytes().to_vec()));
            pair.check(&["INCRBYFLOAT", "k", delta].map(|word| word.as_bytes().to_vec()));
            pair.check(&arguments("GET k"));
        }
    }
}

#[test]
fn bits_of_strings_that_differ_in_length_are_found_and_combined_alike() {
    {
        let _alone = alone();
        let mut pair = Pair::new();
        let lines = [
            "FLUSHALL",
            "BITCOUNT none -1 -3 word",
            "SET k ab",
            "BITCOUNT k -1 -3 word",
            "BITCOUNT k -3 -1 word",
            "BITCOUNT k -1 -3",
            "BITCOUNT k -1 -3 bit",
            "BITCOUNT k -1 -1 bit",
            "BITCOUNT k 1 -3 word",
            "BITCOUNT k -1 -9 byte",
        ];
        lines.iter().for_each(|line| pair.check(&arguments(line)));
    }
    let _alone = alone();
    let mut pair = Pair::new();
    let strings = [&b""[..], b"\xff", b"\0", b"\xff\xff\xf0", b"\0\0\x0f\0", &[0xff; 40]];
    for (name, string) in ["a", "b", "{a}1", "{a}2", "x{}", "e"].iter().zip(strings) {
        pair.check(&[b"SET".to_vec(), name.as_bytes().to_vec(), string.to_vec()]);
        for bit in ["0", "1"] {
            pair.check(&arguments(&format!("BITPOS {name} {bit}")));
            for start in -6..6 {
                pair.check(&arguments(&format!("BITPOS {name} {bit} {start}")));
                for (end, unit) in (-6..6).flat_map(|end| [(end, "BYTE"), (4 * end, "BIT")]) {
                    pair.check(&arguments(&format!("BITPOS {name} {bit} {start} {end} {unit}")));
                }
            }
        }
    }
    for line in [
        "BITOP AND t a b e",
        "BITOP AND t e {a}1 b",
        "BITOP OR t a {a}1 e",
        "BITOP XOR t e e {a}2",
        "BITOP NOT b b",
        "BITOP AND e nothing",
        "BITOP OR {a}1 {a}1 {a}2",
    ] {
        pair.check(&arguments(line));
        ["t", "b", "e", "{a}1"].iter().for_each(|key| pair.check(&arguments(&format!("GET {key}"))));
    }
}

/// Sums and differences around what fits, in every way to take them.
#[test]
fn numbers_overflow_alike() {
    let _alone = alone();
    let mut pair = Pair::new();
    for width in ["u1", "i1", "u8", "i8", "u63", "i63", "i64"] {
        for overflow in ["WRAP", "SAT", "FAIL"] {
            for start in ["0", "-1", "127", "128", "9223372036854775807", "-9223372036854775808", "4611686018427387904"] {
                for delta in ["1", "-1", "128", "-129", "9223372036854775807", "-9223372036854775808"] {
                    let step = |name: &str, number: &str| format!("OVERFLOW {overflow} {name} {width} 3 {number}");
                    pair.check(&arguments(&format!("BITFIELD k {} {}", step("SET", start), step("INCRBY", delta))));
                    pair.check(&arguments("GET k"));
                }
            }
        }
    }
    pair.check(&arguments("BITFIELD k GET u8 4294967295 SET u1 4294967296 1"));
}

/// Whatever two short strings have in common, and strings that are just too long.
#[test]
fn what_strings_have_in_common_is_found_alike() {
    let _alone = alone();
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut pair = Pair::new();
        pair.check(&arguments(hello));
        let strings: Vec<String> =
            (0..32u32).map(|bits| (0..5).map(|at| ["a", "b"][(bits >> at & 1) as usize]).collect()).collect();
        for (number, one) in strings.iter().enumerate() {
            pair.check(&arguments(&format!("MSET a {one} b ohmytext{one} {{a}}1 {}", strings[(7 * number + 3) % 32])));
            for keys in ["a b", "a {a}1", "{a}1 b", "a a", "none b"] {
                for options in ["", " LEN", " IDX", " IDX MINMATCHLEN 2", " IDX MINMATCHLEN 4 WITHMATCHLEN"] {
                    pair.check(&arguments(&format!("LCS {keys}{options}")));
                }
            }
        }
        let long = vec![b'x'; 11_585];
        pair.check(&[b"MSET".to_vec(), b"a".to_vec(), long.clone(), b"b".to_vec(), long]);
        pair.check(&arguments("LCS a b LEN"));
    }
}

/// Values of many kinds and lengths, from psmr to redis-server and back.
#[test]
fn each_restores_what_the_other_dumped() {
    let _alone = alone();
    let mut pair = Pair::new();
    let numbers =
        [0, 127, -128, 128, 32767, -32768, 32768, i64::from(i32::MAX), i64::from(i32::MIN), i64::from(i32::MAX) + 1, i64::MIN];
    let numbers = numbers.into_iter().map(|number| number.to_string().into_bytes());
    let lengths = [0, 1, 20, 21, 63, 64, 300, 16383, 16384, 70_000];
    let repeated =
        lengths.into_iter().flat_map(|length| [vec![b'x'; length], (0..length).map(|at| (at / 7 % 5) as u8).collect()]);
    let mixed =
        lengths.into_iter().map(|length| (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect());
    for value in numbers.chain(repeated).chain(mixed) {
        pair.check(&[b"SET".to_vec(), b"k".to_vec(), value]);
        pair.check(&arguments("DUMP k"));
        let theirs = pair.redis.send(&request(&[b"DUMP", b"k"]), 1).remove(0);
        let ours = pair.ours.command(&[b"DUMP", b"k"]);
        for dump in [dump_of(&theirs), dump_of(&ours)] {
            let dump = dump.expect("a dump").to_vec();
            pair.check(&[b"RESTORE".to_vec(), b"k".to_vec(), b"0".to_vec(), dump.clone()]);
            pair.check(&[b"RESTORE".to_vec(), b"k".to_vec(), b"0".to_vec(), dump, b"REPLACE".to_vec()]);
            pair.check(&arguments("GET k"));
        }
    }
    let dump = dump_of(&pair.ours.command(&[b"DUMP", b"k"])).expect("a dump").to_vec();
    for line in ["RESTORE k 1000000 DUMP REPLACE", "RESTORE none 100000 DUMP ABSTTL", "RESTORE k 100000 DUMP replace absttl"] {
        let words = arguments(line).into_iter().map(|word| if word == b"DUMP" { dump.clone() } else { word });
        pair.check(&words.collect::<Vec<_>>());
        pair.check(&arguments("TTL k"));
    }
}

#[test]
fn equal_expiries_compare_alike() {
    let _alone = alone();
    let mut pair = Pair::new();
    for _ in 0..200 {
        for line in ["SET k v", "EXPIRE k 100000", "EXPIRE k 100000 GT", "PEXPIRE k 100000000 LT"] {
            pair.check(&arguments(line));
        }
    }
}

/// The last times that there are, in seconds.
#[test]
fn the_end_of_time_is_rounded_alike() {
    let _alone = alone();
    let mut pair = Pair::new();
    for line in [
        "FLUSHALL",
        "SET k v PXAT 9223372036854775807",
        "EXPIRETIME k",
        "PEXPIRETIME k",
        "TTL k",
        "GETEX k PXAT 9223372036854775499",
        "EXPIRETIME k",
    ] {
        pair.check(&arguments(line));
    }
}

#[test]
fn what_clients_ask_at_their_start_gives_the_same_replies() {
    let _alone = alone();
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut pair = Pair::new();
        let lines = [
            "FLUSHALL",
            hello,
            "HELLO",
            "PING",
            "PING x",
            "PING x y",
            "ECHO x",
            "ECHO",
            "SELECT 0",
            "SELECT x",
            "SELECT -1",
            "SELECT 99",
            "SELECT 2147483648",
            "CLIENT",
            "CLIENT GETNAME",
            "CLIENT SETNAME me",
            "CLIENT GETNAME",
            "CLIENT SETNAME a\nb",
            "CLIENT SETNAME",
            "CLIENT ID",
            "CLIENT ID 1",
            "CLIENT FOO",
            "CLIENT NO-EVICT on",
            "CLIENT NO-EVICT x",
            "CLIENT LIST TYPE x",
            "CLIENT LIST FOO",
            "CLIENT LIST ID x",
            "CLIENT LIST ID 0",
            "CLIENT LIST TYPE master",
            "CLIENT LIST ID",
            "CLIENT LIST TYPE",
            "CONFIG",
            "CONFIG GET",
            "CONFIG GET save",
            "CONFIG GET SAVE",
            "CONFIG GET nothing",
            "CONFIG FOO",
            "COMMAND FOO",
            "COMMAND COUNT 1",
            "COMMAND INFO nothing",
            "COMMAND DOCS nothing",
            "COMMAND LIST x",
            "COMMAND LIST FILTERBY",
            "COMMAND LIST FILTERBY x y",
            "COMMAND LIST FILTERBY MODULE x",
            "COMMAND LIST FILTERBY ACLCAT nosuch",
            "COMMAND LIST FILTERBY PATTERN g[A-E]T",
            "COMMAND LIST FILTERBY PATTERN object|f*",
            "COMMAND GETKEYS get",
            "COMMAND GETKEYS get a",
            "COMMAND GETKEYS get a b",
            "COMMAND GETKEYS nosuch a",
            "COMMAND GETKEYS echo x",
            "COMMAND GETKEYS client x",
            "COMMAND GETKEYS client id",
            "COMMAND GETKEYS object x",
            "COMMAND GETKEYS object encoding k",
            "COMMAND GETKEYS mset a b c",
            "COMMAND GETKEYS mset a 1 b 2",
            "COMMAND GETKEYS del a b c",
            "COMMAND GETKEYS bitop and a b c",
            "COMMAND GETKEYS set k v ex 10",
            "COMMAND GETKEYS eval x 1 a b",
            "COMMAND GETKEYS eval x 0 a",
            "COMMAND GETKEYS eval x 2 a",
            "COMMAND GETKEYS eval x -1 a",
            "COMMAND GETKEYS eval x y a",
            "COMMAND GETKEYSANDFLAGS get a",
            "COMMAND GETKEYSANDFLAGS nosuch a",
            "COMMAND GETKEYSANDFLAGS echo x",
            "COMMAND GETKEYSANDFLAGS mset a b c",
            "COMMAND GETKEYSANDFLAGS mset a 1 b 2",
            "COMMAND GETKEYSANDFLAGS del a b c",
            "COMMAND GETKEYSANDFLAGS bitop and a b c",
            "COMMAND GETKEYSANDFLAGS copy a b",
            "COMMAND GETKEYSANDFLAGS rename a b",
            "COMMAND GETKEYSANDFLAGS set k v ex 10",
            "COMMAND GETKEYSANDFLAGS set k get",
            "COMMAND GETKEYSANDFLAGS SET k v GET",
            "COMMAND GETKEYSANDFLAGS bitfield k get u8 0",
            "COMMAND GETKEYSANDFLAGS bitfield k get u8 0 set u8 0 1",
            "COMMAND GETKEYSANDFLAGS object encoding k",
            "COMMAND GETKEYSANDFLAGS eval x 1 a b",
            "DEBUG SLEEP 0",
            "DEBUG",
            "CLIENT REPLY x",
            "CLIENT REPLY",
            "CLIENT REPLY ON",
            "CLIENT TRACKING off",
            "CLIENT TRACKING OFF bcast NOLOOP",
            "CLIENT TRACKING x",
            "CLIENT TRACKING off x",
            "CLIENT TRACKINGINFO",
            "CLIENT GETREDIR",
            "SET k 1",
            "OBJECT ENCODING k",
            "OBJECT FREQ k",
            "OBJECT FREQ none",
            "OBJECT REFCOUNT none",
            "OBJECT IDLETIME none",
            "OBJECT ENCODING",
            "OBJECT x",
            "MEMORY USAGE none",
            "MEMORY USAGE none SAMPLES",
            "MEMORY USAGE none SAMPLES x",
            "MEMORY USAGE none SAMPLES -1",
            "MEMORY USAGE none samples 1 SAMPLES 0",
            "MEMORY USAGE none x 1",
            "MEMORY x",
            "SLOWLOG RESET",
            "SLOWLOG GET x",
            "SLOWLOG GET -2",
            "SLOWLOG GET 1 2",
            "SLOWLOG LEN x",
            "LATENCY LATEST",
            "LATENCY HISTORY x",
            "LATENCY RESET x y",
            "LATENCY x",
            "WAIT 0 -1",
            "WAIT x 1",
            "WAIT 0 x",
            "DEL k",
            "HELLO 4",
            "HELLO x",
            "HELLO 2 FOO",
            "HELLO 3 SETNAME",
            "HELLO 2 SETNAME a\nb",
            "HELLO 2 AUTH default x SETNAME y",
            "CLIENT GETNAME",
            "HELLO 2 AUTH x y",
            "HELLO 2 AUTH",
            "RESET",
            "CLIENT GETNAME",
            "RESET x",
            "RANDOMKEY",
            "RANDOMKEY x",
            "KEYS",
            "KEYS *",
            "KEYS * *",
            "FLUSHDB",
            "FLUSHDB async",
            "FLUSHDB x",
            "FLUSHALL ASYNC",
            "FLUSHALL sync",
            "FLUSHALL x",
            "FLUSHALL sync sync",
            "DBSIZE",
            "DBSIZE x",
            "SCAN",
            "SCAN x",
            "SCAN 0 COUNT",
            "SCAN 0 COUNT 0",
            "SCAN 0 COUNT x",
            "SCAN 0 COUNT -1",
            "SCAN 0 FOO 1",
            "SCAN 0 MATCH",
            "SCAN 1x COUNT",
            "SCAN  1",
            "SCAN 99999999999999999999",
            "SCAN -",
            "SCAN 0 TYPE",
            "GET",
            "get a b",
            "NOSUCH",
            "NOSUCH a b c",
        ];
        lines.iter().for_each(|line| pair.check(&arguments(line)));
        pair.check(&[vec![b'x'; 300], vec![b'y'; 100], vec![b'z'; 100], b"a\0b".to_vec()]);
        pair.check(&[b"NOSUCH".to_vec(), b"a\0b".to_vec()]);
    }
}

#[test]
fn replies_are_left_out_alike() {
    let _alone = alone();
    let lines = [
        "SET a 1",
        "CLIENT REPLY SKIP",
        "GET a",
        "PING",
        "CLIENT REPLY SKIP",
        "NOSUCH",
        "GET a",
        "CLIENT REPLY OFF",
        "SET a 2",
        "NOSUCH",
        "MGET a b",
        "MULTI",
        "INCR a",
        "EXEC",
        "WATCH a",
        "CLIENT REPLY SKIP",
        "PING",
        "CLIENT REPLY ON",
        "GET a",
        "CLIENT REPLY SKIP",
        "MULTI",
        "INCR a",
        "GET a",
        "EXEC",
        "CLIENT REPLY OFF",
        "RESET",
        "GET a",
        "QUIT",
    ];
    let requests: String = std::iter::once("FLUSHALL").chain(lines).map(|line| format!("{line}\r\n")).collect();
    let theirs = Redis::shared().connect().rest(requests.as_bytes());
    assert_eq!(text(&theirs), text(&Connection::new(1).send(requests.as_bytes())));
}

#[test]
fn commands_are_described_as_redis_describes_them() {
    let _alone = alone();
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut pair = Pair::new();
        pair.check(&arguments(hello));
        let own = ["range", "countrange"];
        let commands = psmr_services::resp::table::commands().iter();
        let all = commands.flat_map(|c| if c.subcommands.is_empty() { std::slice::from_ref(c) } else { c.subcommands });
        // Commands that came later are in the table, too.
        for command in all.filter(|c| !own.contains(&c.name) && !c.since.starts_with("7.2")) {
            pair.check(&arguments(&format!("COMMAND INFO {}", command.name)));
        }
        pair.check(&arguments("COMMAND INFO get nothing set client|id client|list config|get command|info"));
    }
}

/// Transactions whose ends are told in advance, which scripts find only now and then.
#[test]
fn transactions_give_the_same_replies() {
    let _alone = alone();
    let scripts: &[&[&str]] = &[
        &["MULTI", "EXEC"],
        &["EXEC", "DISCARD", "UNWATCH", "WATCH", "MULTI x", "EXEC x", "DISCARD x"],
        &["MULTI", "MULTI", "WATCH k", "SET k 1", "GET k", "EXEC", "EXEC"],
        &["MULTI", "SET k 1", "INCR k", "GET k", "TTL k", "EXPIRE k 100", "TTL k", "DEL k", "GET k", "MGET k l", "EXEC", "GET k"],
        &["SET k v", "MULTI", "INCR k", "SET l 2", "SET k 1 PX 0", "SET k 1 FOO", "EXEC", "GET l"],
        &["MULTI", "SET k 1", "NOSUCH", "SET k 2", "EXEC", "GET k", "EXEC"],
        &["MULTI", "GET", "EXEC", "MULTI", "CLIENT FOO", "EXEC", "MULTI", "SET k 1", "EXEC 1", "EXEC", "GET k"],
        &["MULTI", "SET k 1", "DISCARD", "GET k", "MULTI", "GET", "DISCARD", "MULTI", "GET k", "EXEC"],
        &["MULTI", "PING", "PING x", "ECHO x", "SELECT 0", "SELECT 99", "CLIENT SETNAME me", "EXEC", "CLIENT GETNAME"],
        &["MULTI", "CLIENT SETNAME other", "DISCARD", "CLIENT GETNAME"],
        &["SET k 1", "WATCH k", "MULTI", "GET k", "EXEC", "SET k 2", "MULTI", "GET k", "EXEC"],
        &["SET k 1", "WATCH k", "SET k 1", "MULTI", "GET k", "EXEC", "MULTI", "GET k", "EXEC"],
        &["SET k 1", "WATCH k", "SET k 1", "UNWATCH", "MULTI", "GET k", "EXEC"],
        &["SET k 1", "WATCH k", "SET k 1", "MULTI", "DISCARD", "MULTI", "GET k", "EXEC"],
        &["WATCH k k l", "SET l 1", "DEL l", "MULTI", "EXEC"],
        &["WATCH k", "DEL k", "SET other 1", "MULTI", "PING", "EXEC"],
        &["SET k v", "WATCH k", "DEL k", "SET k v", "MULTI", "GET k", "EXEC"],
        &["SET k v", "WATCH k", "INCR k", "SET k x NX", "PERSIST k", "EXPIRE k 100 XX", "TTL k", "MULTI", "GET k", "EXEC"],
        &["SET k v EX 100", "WATCH k", "PERSIST k", "MULTI", "GET k", "EXEC"],
        &["SET k v", "WATCH k", "EXPIRE k 100", "MULTI", "GET k", "EXEC"],
        &["SET k v", "WATCH k", "EXPIRE k -1", "MULTI", "GET k", "EXEC"],
        &["SET k v", "WATCH k", "FLUSHALL", "MULTI", "GET k", "EXEC"],
        &["WATCH k", "FLUSHALL", "MULTI", "GET k", "EXEC"],
        &["WATCH k", "SET k v PXAT 100000", "MULTI", "GET k", "EXEC"],
        &["WATCH k", "SET k 1", "MULTI", "NOSUCH", "EXEC", "MULTI", "GET k", "EXEC"],
        &["WATCH k", "MULTI", "UNWATCH", "SET k 1", "EXEC"],
        &["MULTI", "SET k 1", "RESET", "EXEC", "GET k"],
        &["MULTI", "GET none", "HELLO 3", "GET none", "HELLO 2", "GET none", "EXEC", "GET none"],
        &[
            "SET k v",
            "WATCH k",
            "BITFIELD k OVERFLOW FAIL SET u1 0 2",
            "MULTI",
            "SET x 1",
            "BITFIELD none GET u8 0",
            "EXEC",
            "EXISTS none",
        ],
        &["MULTI", "DBSIZE", "FLUSHALL", "DBSIZE", "SET k 1", "DBSIZE", "EXISTS k l", "EXEC"],
        &["MULTI", "MSET k 1 l 2 m 3", "MGET k l m n", "DEL k l n", "MGET k l m", "EXEC"],
        &["MULTI", "MSET {t}k 1 {t}l 2", "INCRBY {t}k 5", "MGET {t}l {t}k", "EXEC"],
    ];
    for hello in ["HELLO 2", "HELLO 3"] {
        for script in scripts {
            let mut pair = Pair::new();
            pair.check(&arguments("FLUSHALL"));
            pair.check(&arguments(hello));
            script.iter().for_each(|line| pair.check(&arguments(line)));
        }
    }
}

/// A watched key whose time comes has changed; one whose time had come before has not.
#[test]
fn watched_keys_expire_alike() {
    let _alone = alone();
    for is_seen in [false, true] {
        let mut pair = Pair::new();
        for line in ["FLUSHALL", "SET k v PX 30", "SET stays v"] {
            pair.check(&arguments(line));
        }
        let pause = || std::thread::sleep(Duration::from_millis(60));
        if is_seen {
            pause();
            pair.check(&arguments("WATCH k"));
        } else {
            pair.check(&arguments("WATCH k"));
            pause();
        }
        for line in ["SET other 1", "GET k", "MULTI", "GET stays", "EXEC"] {
            pair.check(&arguments(line));
        }
    }
}

/// Of these some write what was there before, which is a change to some commands and none to others.
#[test]
fn transactions_are_ended_by_the_same_writes() {
    let _alone = alone();
    let mut pair = Pair::new();
    for write in [
        "SET k 7",
        "SET k 7 KEEPTTL",
        "SET k 7 NX",
        "SET k 7 XX GET",
        "GETSET k 7",
        "SETNX k 7",
        "MSET k 7",
        "MSETNX k 7",
        "APPEND k +",
        "SETRANGE k 0 7",
        "SETBIT k 0 0",
        "SETBIT k 0 1",
        "SETBIT k 8 0",
        "SETBIT k 7 1",
        "BITFIELD k GET u8 0",
        "BITFIELD k SET u8 0 55",
        "BITFIELD k SET u8 0 56",
        "BITFIELD k SET i8 #1 0",
        "BITFIELD k INCRBY u8 0 0",
        "BITFIELD k INCRBY u8 0 1",
        "BITFIELD k OVERFLOW FAIL INCRBY u4 0 15",
        "BITFIELD k SET u8 0 56 SET u8 0 55",
        "BITOP AND k k",
        "BITOP NOT k other",
        "INCRBY k 0",
        "INCRBYFLOAT k 0",
        "DECR k",
        "GETEX k",
        "GETEX k PERSIST",
        "GETEX k EX 100",
        "EXPIRE k 100",
        "EXPIRE k 100 XX",
        "EXPIRE k -1",
        "PERSIST k",
        "TOUCH k",
        "GETDEL k",
        "DEL k",
        "UNLINK other",
        "RENAME k k",
        "RENAME k to",
        "RENAME other k",
        "RENAMENX other k",
        "COPY other k",
        "COPY other k REPLACE",
        "COPY k to",
        "OBJECT ENCODING k",
        "FLUSHALL",
    ] {
        for before in ["SET k 7", "SET k 7 EX 1000", "DEL k"] {
            for line in ["FLUSHALL", "SET other 7", before, "WATCH k", write, "MULTI", "PING", "EXEC"] {
                pair.check(&arguments(line));
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_script_gives_the_same_replies() {
    let _alone = alone();
    let mut pair = Pair::new();
    for line in [
        "EVALSHA",
        "EVALSHA x",
        "EVALSHA 0000000000000000000000000000000000000000 0",
        "EVALSHA 0000000000000000000000000000000000000000 1 k",
        "EVALSHA x 1",
        "EVALSHA x -1",
        "EVALSHA x y",
        "SCRIPT",
        "SCRIPT EXISTS",
        "SCRIPT EXISTS x y",
        "SCRIPT LOAD",
        "SCRIPT NOSUCH",
        "SCRIPT FLUSH x",
        "SCRIPT FLUSH ASYNC",
        "SCRIPT FLUSH sync",
        "SCRIPT FLUSH",
    ] {
        pair.check(&arguments(line));
    }
}

/// All keys by SCAN.
fn scan(mut send: impl FnMut(&[Vec<u8>]) -> Vec<u8>, options: &str) -> BTreeSet<String> {
    let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = text(&send(&arguments(&format!("SCAN {cursor}{options}"))));
        let mut values = reply.split("\r\n").skip(1).filter(|line| !line.starts_with(['$', '*']));
        cursor = values.next().expect("a cursor").to_owned();
        found.extend(values.filter(|value| !value.is_empty()).map(str::to_owned));
        if cursor == "0" {
            return found;
        }
    }
}

#[test]
fn scans_find_the_same_keys() {
    let _alone = alone();
    let mut pair = Pair::new();
    pair.check(&arguments("FLUSHALL"));
    for i in 0..500 {
        pair.check(&arguments(&format!("SET {}:{i} x", ["key", "other", "{tag}"][i % 3])));
    }
    pair.check(&arguments("DBSIZE"));
    for options in [
        "",
        " COUNT 1",
        " COUNT 1000",
        " MATCH key:*",
        " MATCH *[1-3]? COUNT 7",
        " match k?y:[^5]*",
        " TYPE string",
        " TYPE list",
        " MATCH {tag}:*9",
    ] {
        let theirs =
            scan(|words| pair.redis.send(&request(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()), 1).remove(0), options);
        let ours = scan(|words| pair.ours.command(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()), options);
        assert_eq!(theirs, ours, "{options}");
    }
}

#[test]
fn inline_commands_give_the_same_replies() {
    let _alone = alone();
    let mut pair = Pair::new();
    let lines = [
        "PING\r\n",
        "ping\n",
        "  PING   x  \r\n",
        "SET \"a b\" 'c d'\r\n",
        "GET \"a\\x20b\"\r\n",
        "SET q \"\\n\\r\\t\\b\\a\\\\\\\"\"\n",
        "GET q\r\n",
        "nosuch 'x y'\n",
        "FLUSHALL\r\n",
    ];
    for line in lines {
        assert_eq!(text(&pair.redis.send(line.as_bytes(), 1)[0]), text(&pair.ours.send(line.as_bytes())), "{line:?}");
    }
    // Empty requests have no reply.
    let quiet = b"\r\n\n*0\r\n*-1\r\n  \r\nPING\r\n";
    assert_eq!(pair.redis.send(quiet, 1).concat(), pair.ours.send(quiet));
}

#[test]
fn malformed_requests_end_the_connection_with_the_same_words() {
    let _alone = alone();
    let long = |prefix: &str| [prefix.as_bytes(), &vec![b'1'; 70_000]].concat();
    let inputs: Vec<Vec<u8>> = vec![
        b"*x\r\n".to_vec(),
        b"*\r\n".to_vec(),
        b"*1\r\nPING\r\n".to_vec(),
        b"*1\r\n+PING\r\n".to_vec(),
        b"*1\r\n$-1\r\n".to_vec(),
        b"*1\r\n$x\r\n".to_vec(),
        b"*1\r\n$9999999999\r\n".to_vec(),
        b"*99999999999\r\n".to_vec(),
        b"*3000000000\r\n".to_vec(),
        b"*2\r\n$4\r\nECHO\r\n:1\r\n".to_vec(),
        b"PING\r\n*1\r\n$4\r\nPING\r\n*z\r\nPING\r\n".to_vec(),
        b"GET \"a\r\n".to_vec(),
        b"GET 'a'b\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"Host: x\r\nPING\r\n".to_vec(),
        b"QUIT\r\nPING\r\n".to_vec(),
        b"*1\r\n$4\r\nquit\r\n*1\r\n$4\r\nPING\r\n".to_vec(),
        long("*"),
        long("*1\r\n$"),
        long(""),
    ];
    for input in inputs {
        let theirs = Redis::shared().connect().rest(&input);
        let mut ours = Connection::new(1);
        let reply = ours.send(&input);
        let shown = text(&input[..input.len().min(60)]);
        assert!(ours.is_closed, "{shown:?} leaves the connection open");
        assert_eq!(text(&theirs), text(&reply), "{shown:?}");
    }
}
