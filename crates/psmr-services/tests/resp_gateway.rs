//! The RESP gateway: requests however they arrive, whatever they hold.

mod common;

use common::{request, Connection};
use proptest::prelude::*;
use psmr_core::gateway::{Failure, Gateway};
use psmr_services::resp::table::{dependency, explain, find, Dependency};
use psmr_services::resp::Limits;

const PIPELINE: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$12\r\nabc\r\ndef\r\n12\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING hello\r\nset \"b c\" '1'\n\
    *1\r\n$4\r\nINCR\r\n*2\r\n$4\r\nINCR\r\n$3\r\nb c\r\n*0\r\n\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$3\r\nGET\r\n$4\r\nnone\r\n\
    *5\r\n$4\r\nMSET\r\n$1\r\nx\r\n$1\r\n1\r\n$1\r\ny\r\n$1\r\n2\r\n*4\r\n$4\r\nMGET\r\n$1\r\nx\r\n$1\r\nz\r\n$1\r\ny\r\nDBSIZE\r\nNOSUCH\r\n";

fn expected() -> Vec<u8> {
    Connection::new(1).send(PIPELINE)
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let text = String::from_utf8(expected()).expect("text");
    let before = "+OK\r\n$12\r\nabc\r\ndef\r\n12\r\n$5\r\nhello\r\n+OK\r\n-ERR wrong number of arguments for 'incr' command\r\n:2\r\n%7\r\n";
    let after =
        "_\r\n+OK\r\n*3\r\n$1\r\n1\r\n_\r\n$1\r\n2\r\n:4\r\n-ERR unknown command 'NOSUCH', with args beginning with: \r\n";
    assert!(text.starts_with(before), "{text}");
    assert!(text.ends_with(after), "{text}");
}

#[test]
fn input_may_be_split_at_every_byte() {
    for at in 1..PIPELINE.len() {
        let mut connection = Connection::new(1);
        let mut out = connection.send(&PIPELINE[..at]);
        out.extend(connection.send(&PIPELINE[at..]));
        assert_eq!(out, expected(), "split at {at}");
    }
    let mut connection = Connection::new(1);
    let out: Vec<u8> = PIPELINE.iter().flat_map(|byte| connection.send(&[*byte])).collect();
    assert_eq!(out, expected());
}

#[test]
fn a_sink_that_is_full_gets_the_rest_later() {
    for room in 1..5 {
        let mut connection = Connection::new(1);
        connection.room = room;
        assert_eq!(connection.send(PIPELINE), expected());
    }
}

#[test]
fn commands_go_the_cheapest_way() {
    let mut connection = Connection::new(1);
    for (words, single, multi, reads) in [
        ("SET k v", 1, 0, 0),
        ("GET k", 0, 0, 1),
        ("MSET {t}a 1 {t}b 2", 1, 0, 0),
        ("MGET {t}a {t}b", 0, 0, 1),
        ("DEL {t}a {t}b", 1, 0, 0),
        ("EXISTS {t}a {t}b", 0, 0, 1),
        ("MSET a 1 b 2 c 3", 0, 1, 0),
        ("MGET a b c", 0, 1, 0),
        ("LCS {t}a {t}b", 0, 0, 1),
        ("LCS a c", 0, 1, 0),
        ("BITFIELD k GET u8 0", 0, 0, 1),
        ("BITFIELD k SET u8 0 1", 1, 0, 0),
        ("OBJECT ENCODING k", 0, 0, 1),
        ("DUMP k", 0, 0, 1),
        ("CLUSTER SLOTS", 0, 0, 0),
        ("DBSIZE", 0, 1, 0),
        ("SCAN 0", 0, 0, 1),
        ("FLUSHALL", 0, 1, 0),
        ("PING", 0, 0, 0),
        ("TTL k", 0, 0, 1),
        ("GET", 0, 0, 0),
    ] {
        let before = (connection.engine.single, connection.engine.multi, connection.engine.reads);
        connection.words(words);
        let engine = &connection.engine;
        assert_eq!(
            (engine.single - before.0, engine.multi - before.1, engine.reads - before.2),
            (single, multi, reads),
            "{words}"
        );
    }
}

#[test]
fn a_transaction_is_one_command_of_the_groups_it_touches() {
    for (pipeline, single, multi, reads) in [
        ("MULTI|SET {t}a 1|INCR {t}a|MGET {t}a {t}b|EXEC", 1, 0, 0),
        ("MULTI|SET a 1|SET b 2|SET c 3|EXEC", 0, 1, 0),
        ("MULTI|GET {t}a|GET {t}b|EXEC", 0, 0, 1),
        ("MULTI|GET a|GET b|GET c|EXEC", 0, 1, 0),
        ("MULTI|PING|EXEC", 0, 0, 0),
        ("MULTI|EXEC", 0, 0, 0),
        ("MULTI|SET a 1|DISCARD", 0, 0, 0),
        ("MULTI|SET a 1|GET|EXEC", 0, 0, 0),
        ("WATCH a|MULTI|SET a 1|EXEC", 1, 0, 1),
        ("WATCH a b c|MULTI|SET a 1|EXEC", 0, 2, 0),
        ("WATCH {t}a|WATCH {t}b|WATCH {t}a|MULTI|GET {t}a|EXEC", 0, 0, 3),
    ] {
        let mut connection = Connection::new(1);
        let requests = pipeline.split('|').flat_map(|line| request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
        connection.send(&requests.collect::<Vec<u8>>());
        let engine = &connection.engine;
        assert_eq!((engine.single, engine.multi, engine.reads), (single, multi, reads), "{pipeline}");
    }
}

#[test]
fn a_transaction_over_the_limit_fails_as_a_whole_and_gives_its_memory_back() {
    let mut connection = Connection::new(1);
    let value = vec![b'x'; 1 << 20];
    assert_eq!(connection.words("MULTI"), "+OK\r\n");
    let replies: Vec<Vec<u8>> = (0..12).map(|_| connection.command(&[b"SET", b"k", &value])).collect();
    let refused =
        replies.iter().position(|reply| reply.starts_with(b"-ERR transaction longer than 7339968 bytes")).expect("an error");
    assert_eq!(replies.iter().filter(|reply| reply.starts_with(b"-")).count(), 1, "the others are queued as ever");
    assert!(refused > 5);
    assert!(connection.words("EXEC").starts_with("-EXECABORT"));
    assert_eq!(connection.words("EXISTS k"), ":0\r\n");
    // What the replica would answer itself counts, too.
    assert_eq!(connection.words("MULTI"), "+OK\r\n");
    let replies: Vec<Vec<u8>> = (0..12).map(|_| connection.command(&[b"ECHO", &value])).collect();
    assert!(replies.iter().any(|reply| reply.starts_with(b"-ERR transaction longer than")));
    assert!(connection.words("EXEC").starts_with("-EXECABORT"));
}

#[test]
fn watched_keys_have_a_limit() {
    let mut connection = Connection::new(1);
    let mut watched = 0;
    let refused = loop {
        let reply = connection.words(&format!("WATCH key:{watched}"));
        if reply.starts_with('-') {
            break reply;
        }
        watched += 1;
    };
    assert!(refused.starts_with("-ERR too many watched keys") && refused.contains("1048576 bytes"), "{refused}");
    assert!(watched > 10_000, "{watched}");
    assert_eq!(connection.words("WATCH key:0"), "+OK\r\n", "it is watched already");
    for words in ["MULTI", "SET k 1"] {
        connection.words(words);
    }
    assert_eq!(connection.words("EXEC"), "*1\r\n+OK\r\n");
    assert_eq!(connection.words("WATCH another"), "+OK\r\n", "EXEC has forgotten them");
}

#[test]
fn a_watch_that_failed_lets_no_transaction_through() {
    use psmr_core::gateway::Sink;
    let mut connection = Connection::new(1);
    let mut asked = Asked { engine: Connection::new(1), tags: Vec::new() };
    let taken = connection.gateway.on_input(b"WATCH k\r\nGET k\r\n", &mut asked as &mut dyn Sink).expect("requests");
    assert_eq!((taken, asked.tags.len()), (9, 1), "nothing is taken before the versions are known");
    assert!(connection.gateway.is_waiting());
    let mut out = Vec::new();
    connection.gateway.on_failure(asked.tags[0], Failure::Refused, &mut out);
    assert!(out.starts_with(b"-TRYAGAIN") && !connection.gateway.is_waiting());
    assert_eq!((connection.words("MULTI"), connection.words("SET k 1")), ("+OK\r\n".to_owned(), "+QUEUED\r\n".to_owned()));
    assert_eq!(connection.words("EXEC"), "*-1\r\n");
    assert_eq!(connection.words("EXISTS k"), ":0\r\n");
}

/// Keeps what is asked, and answers nothing.
struct Asked {
    engine: Connection,
    tags: Vec<u32>,
}

impl psmr_core::gateway::Sink for Asked {
    fn topology(&self) -> &psmr_core::routing::Topology {
        &self.engine.engine.topology
    }
    fn node(&self) -> &psmr_core::gateway::NodeInfo {
        panic!("nobody asks for the node")
    }
    fn wall_ms(&self) -> u64 {
        0
    }
    fn clients(&self) -> Vec<psmr_core::gateway::ClientInfo> {
        Vec::new()
    }
    fn answer(&mut self, _: &[u8]) {}
    fn ordered(&mut self, _: psmr_core::command::GroupSet, _: bool, tag: u32, _: &[u8]) {
        self.tags.push(tag);
    }
    fn read(&mut self, _: psmr_core::command::GroupId, tag: u32, _: &[u8]) {
        self.tags.push(tag);
    }
    fn is_full(&self) -> bool {
        false
    }
}

#[test]
fn a_cluster_of_one_group_needs_no_barrier() {
    let mut connection = Connection::with(1, 1, Limits::default());
    for (words, reply) in [
        ("MSET a 1 b 2", "+OK\r\n"),
        ("DBSIZE", ":2\r\n"),
        ("MGET a b", "*2\r\n$1\r\n1\r\n$1\r\n2\r\n"),
        ("FLUSHALL", "+OK\r\n"),
        ("DBSIZE", ":0\r\n"),
    ] {
        assert_eq!(connection.words(words), reply);
    }
    assert_eq!(connection.engine.multi, 0);
}

#[test]
fn time_passes_by_the_clocks() {
    let mut connection = Connection::new(1);
    (connection.engine.now_ms, connection.engine.wall_ms) = (1_000_000, 1_000_000);
    assert_eq!(connection.words("SET k v EX 10"), "+OK\r\n");
    assert_eq!(connection.words("TTL k"), ":10\r\n");
    assert_eq!(connection.engine.time_marks, 0);
    connection.engine.wall_ms += 4_400;
    assert_eq!(connection.words("GET k"), "$1\r\nv\r\n");
    assert_eq!(connection.engine.time_marks, 0, "GET needs no time before the key is due");
    assert_eq!((connection.words("PTTL k"), connection.words("TTL k")), (":5600\r\n".to_owned(), ":6\r\n".to_owned()));
    assert_eq!(connection.engine.time_marks, 1);
    connection.engine.wall_ms += 5_600;
    assert_eq!((connection.words("GET k"), connection.words("TTL k")), ("$-1\r\n".to_owned(), ":-2\r\n".to_owned()));
    assert_eq!(connection.engine.time_marks, 2);
    // An expiry beyond the end of time is found out only where the time is known.
    for (command, name) in [("SET k v PX 9223372036854775807", "set"), ("PEXPIRE k 9223372036854775807", "pexpire")] {
        assert_eq!(connection.words(command), format!("-ERR invalid expire time in '{name}' command\r\n"));
    }
}

#[test]
fn keys_and_requests_have_limits() {
    let limits = Limits { key_bytes_max: 4, bulk_bytes_max: 1000, ..Limits::default() };
    let mut connection = Connection::with(1, 16, limits);
    assert_eq!(connection.words("MSET four 1 fiver 2"), "-ERR key of 5 bytes: a key has at most 4 bytes\r\n");
    assert_eq!(connection.words("EXISTS four"), ":0\r\n");
    assert_eq!(connection.words("CONFIG GET proto-max-bulk-len"), "*2\r\n$18\r\nproto-max-bulk-len\r\n$4\r\n1000\r\n");
    assert_eq!(connection.send(b"*2\r\n$3\r\nGET\r\n$1001\r\n"), b"-ERR Protocol error: invalid bulk length\r\n");
    assert!(connection.is_closed);
}

#[test]
fn a_request_over_the_limit_gets_an_error_in_its_place_and_the_connection_goes_on() {
    let mut connection = Connection::with(1, 16, Limits { bulk_bytes_max: 60, request_bytes_max: 100, ..Limits::default() });
    let value = [b'x'; 60];
    let requests = [&request(&[b"SET", b"k", b"1"])[..], &request(&[b"MSET", b"k", &value, b"j", &value]), b"GET k\r\n"];
    assert_eq!(connection.send(&requests.concat()), b"+OK\r\n-ERR command longer than 100 bytes\r\n$1\r\n1\r\n");
    let long: Vec<&[u8]> = std::iter::repeat_n(&b"k"[..], 50).collect();
    assert_eq!(connection.send(&request(&long)), b"-ERR command longer than 100 bytes\r\n");
    assert_eq!(connection.words("EXISTS k j"), ":1\r\n");
    // What is passed over has to be a request all the same.
    assert_eq!(connection.send(b"*3\r\n$60\r\n"), b"");
    assert_eq!(
        connection.send(&[&value[..], b"\r\n$60\r\n", &value, b"\r\n$61\r\n"].concat()),
        b"-ERR Protocol error: invalid bulk length\r\n"
    );
    assert!(connection.is_closed);
}

#[test]
fn failures_are_told_apart() {
    let mut connection = Connection::new(1);
    assert!(connection.failure(Failure::Refused).starts_with("-TRYAGAIN "));
    assert!(connection.failure(Failure::Unknown).starts_with("-UNKNOWN "));
    assert_eq!(connection.failure(Failure::TooLong), "-ERR command longer than 8388608 bytes\r\n");
}

#[test]
fn clients_are_listed_as_they_call_themselves() {
    let mut connection = Connection::new(7);
    assert_eq!(connection.words("CLIENT ID"), ":7\r\n");
    for words in ["CLIENT SETNAME worker-1", "CLIENT SETINFO lib-name redis-py", "CLIENT SETINFO LIB-VER 5.0.1"] {
        assert_eq!(connection.words(words), "+OK\r\n");
    }
    assert_eq!(connection.words("CLIENT SETINFO lib-foo x"), "-ERR Unrecognized option 'lib-foo'\r\n");
    let line = "id=7 addr=127.0.0.1:7 name=worker-1 age=0 flags=N db=0 user=default lib-name=redis-py lib-ver=5.0.1 resp=2\n";
    assert_eq!(connection.words("CLIENT INFO"), format!("${}\r\n{line}\r\n", line.len()));
    assert!(connection.words("CLIENT LIST").contains(line));
    assert_eq!(connection.words("CLIENT LIST ID 7"), connection.words("CLIENT INFO"));
    assert_eq!(connection.gateway.info().name, "worker-1");
    assert_eq!(connection.gateway.info().library_version, "5.0.1");
}

#[test]
fn a_client_of_redis_cluster_finds_all_slots_here_and_the_other_replicas() {
    let mut connection = Connection::new(7);
    let [id, other] = [1, 2].map(|replica| format!("{replica:040x}"));
    assert_eq!(connection.words("CLUSTER MYID"), format!("$40\r\n{id}\r\n"));
    let slots = format!("*1\r\n*4\r\n:0\r\n:16383\r\n*4\r\n$0\r\n\r\n:7379\r\n$40\r\n{id}\r\n*0\r\n");
    let slots = format!("{slots}*4\r\n$3\r\n::1\r\n:7380\r\n$40\r\n{other}\r\n*0\r\n");
    assert_eq!(connection.words("CLUSTER SLOTS"), slots);
    let line = format!("{id} :7379@0 myself,master - 0 0 0 connected 0-16383\n{other} ::1:7380@0 slave {id} 0 0 0 connected\n");
    assert_eq!(connection.words("CLUSTER NODES"), format!("${}\r\n{line}\r\n", line.len()));
    assert!(connection.words("CLUSTER INFO").contains("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"));
    let shards = connection.words("CLUSTER SHARDS");
    assert!(shards.starts_with("*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*2\r\n*14\r\n"), "{shards}");
    assert_eq!(connection.words("CLUSTER KEYSLOT {foo}x"), ":12182\r\n");
    assert!(connection.words("CLUSTER COUNTKEYSINSLOT 1").starts_with("-ERR unknown subcommand"));
}

#[test]
fn what_is_told_about_a_value_follows_from_the_value() {
    let mut connection = Connection::new(7);
    for (value, encoding, bytes) in [("-12", "int", 48), ("1.5", "embstr", 48), (&"x".repeat(45), "raw", 93)] {
        connection.words(&format!("SET k {value}"));
        assert_eq!(connection.words("OBJECT ENCODING k"), format!("${}\r\n{encoding}\r\n", encoding.len()));
        assert_eq!(connection.words("MEMORY USAGE k SAMPLES 0"), format!(":{bytes}\r\n"));
    }
    connection.words("PEXPIRE k 1000");
    assert_eq!(connection.words("MEMORY USAGE k"), ":117\r\n");
    assert_eq!(
        (connection.words("OBJECT REFCOUNT k"), connection.words("OBJECT IDLETIME k")),
        (":1\r\n".into(), ":0\r\n".into())
    );
    assert_eq!(connection.words("OBJECT HELP").matches("\r\n+").count(), 11);
}

#[test]
fn what_was_answered_is_on_disk() {
    let mut connection = Connection::new(7);
    assert_eq!(connection.words("WAITAOF 1 2 0"), "*2\r\n:1\r\n:1\r\n");
    for (words, error) in [
        ("WAITAOF 2 0 0", "ERR value is out of range, value must between 0 and 1"),
        ("WAITAOF 0 -1 0", "ERR value is out of range, must be positive"),
        ("WAITAOF 0 x 0", "ERR value is not an integer or out of range"),
        ("WAITAOF 0 0 -1", "ERR timeout is negative"),
    ] {
        assert_eq!(connection.words(words), format!("-{error}\r\n"));
    }
}

#[test]
fn a_client_that_keeps_no_keys_may_ask_for_nothing_else() {
    let mut connection = Connection::new(7);
    assert_eq!(connection.words("CLIENT TRACKING off"), "+OK\r\n");
    assert!(connection.words("CLIENT TRACKING ON BCAST").starts_with("-ERR tracking of keys is not supported"));
    assert_eq!(connection.words("CLIENT NO-TOUCH on"), "+OK\r\n");
    let listed = connection.words("COMMAND LIST");
    assert!(listed.contains("\r\nget\r\n") && listed.contains("\r\nclient|no-touch\r\n"));
    assert_eq!(connection.words("COMMAND LIST FILTERBY ACLCAT transaction").matches('$').count(), 5);
}

#[test]
fn the_server_tells_what_it_is() {
    let mut connection = Connection::new(7);
    let info = connection.words("INFO");
    for line in [
        "# Server\r\n",
        "redis_version:7.0.15\r\n",
        "psmr_replica:1\r\n",
        "psmr_durability:fsync\r\n",
        "# Clients\r\nconnected_clients:2\r\n",
        "# Memory\r\nused_memory_rss:4096\r\n",
        "# Stats\r\ntotal_connections_received:12\r\n",
        "# CPU\r\nused_cpu_sys:0.007000\r\nused_cpu_user:61.005000\r\n",
    ] {
        assert!(info.contains(line), "{line} is not in {info}");
    }
    assert_eq!(connection.words("INFO cluster clients").matches('#').count(), 2);
    assert_eq!(connection.words("INFO nothing"), "$0\r\n\r\n");
    assert_eq!(connection.words("COMMAND COUNT"), format!(":{}\r\n", explain().len()));
    assert!(connection.words("COMMAND").starts_with(&format!("*{}\r\n*10\r\n$3\r\nget\r\n:2\r\n", explain().len())));
    let docs = "*2\r\n$3\r\nget\r\n*8\r\n$7\r\nsummary\r\n$22\r\nGet the value of a key\r\n$5\r\nsince\r\n$5\r\n1.0.0\r\n$5\r\ngroup\r\n$6\r\nstring\r\n$10\r\ncomplexity\r\n$4\r\nO(1)\r\n";
    assert_eq!(connection.words("COMMAND DOCS get nothing"), docs);
    assert_eq!(
        connection.words("CONFIG GET append*"),
        "*4\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n"
    );
}

#[test]
fn conflicts_follow_from_the_table() {
    let access = |name: &str| find(name.as_bytes()).map(|(_, spec)| spec.access).expect("a command");
    for (one, other, expected) in [
        ("get", "get", Dependency::Never),
        ("get", "set", Dependency::SameKey),
        ("incr", "mset", Dependency::SameKey),
        ("scan", "set", Dependency::SameGroup),
        ("scan", "dbsize", Dependency::Never),
        ("dbsize", "set", Dependency::Always),
        ("flushall", "get", Dependency::Always),
        ("ping", "flushall", Dependency::Never),
    ] {
        assert_eq!(dependency(access(one), access(other)), expected, "{one} {other}");
    }
}

/// Bytes that look like requests, here and there.
fn noise() -> BoxedStrategy<Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::sample::select(vec![
            &b"*3\r\n$3\r\nSET\r\n"[..],
            b"$1\r\nk\r\n",
            b"*1\r\n",
            b"*2\r\n$4\r\nINCR\r\n",
            b"$-1\r\n",
            b"\r\n",
            b"\n",
            b"*",
            b"$",
            b"GET k\r\n",
            b"*99999\r\n",
            b"$1000\r\n",
            b"\"",
            b"*2\r\n$6\r\nCLIENT\r\n",
            b"*-5\r\n",
            b"*1\r\n$0\r\n\r\n",
            b"SCAN 5 MATCH [\r\n",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat()).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered_or_refused_the_same_however_they_are_split(
        input in noise(),
        cuts in prop::collection::vec(0..200usize, 0..4),
        request_bytes_max in prop::sample::select(vec![20, 40, 1 << 20]),
    ) {
        let limits = Limits { request_bytes_max, ..Limits::default() };
        let mut whole = Connection::with(1, 16, limits);
        let expected = whole.send(&input);
        let mut split = Connection::with(1, 16, limits);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).chain([0, input.len()]).collect();
        cuts.sort_unstable();
        let out: Vec<u8> = cuts.windows(2).flat_map(|range| split.send(&input[range[0]..range[1]])).collect();
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
        prop_assert_eq!(split.is_closed, whole.is_closed);
    }

    #[test]
    fn values_of_any_bytes_come_back(key in prop::collection::vec(any::<u8>(), 0..60), value in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut connection = Connection::new(1);
        prop_assert_eq!(connection.command(&[b"SET", &key, &value]), b"+OK\r\n");
        let expected = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        prop_assert_eq!(connection.send(&request(&[b"get", &key])), expected);
    }
}

#[test]
fn a_replica_without_memory_takes_what_needs_none() {
    let mut connection = Connection::new(1);
    connection.engine.node.memory_bytes_max = 1000;
    assert_eq!(connection.words("CONFIG GET maxmemory"), "*2\r\n$9\r\nmaxmemory\r\n$4\r\n1000\r\n");
    assert_eq!(connection.words("SET k 1"), "+OK\r\n");
    connection.engine.is_out_of_memory = true;
    let refused = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    for words in ["SET k 2", "INCR k", "MSET a 1 b 2", "APPEND k x", "SETBIT k 7 1"] {
        assert_eq!(connection.words(words), refused, "{words}");
    }
    assert_eq!(connection.words("GET k"), "$1\r\n1\r\n");
    assert_eq!((connection.words("MULTI"), connection.words("SET k 2")), ("+OK\r\n".to_owned(), refused.to_owned()));
    assert_eq!(connection.words("EXEC"), "-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_eq!(connection.words("DEL k"), ":1\r\n");
    connection.engine.is_out_of_memory = false;
    assert_eq!(connection.words("SET k 2"), "+OK\r\n");
}

#[test]
fn only_who_may_holds_a_replica_up() {
    let mut connection = Connection::new(1);
    assert!(connection.words("DEBUG SLEEP 1").starts_with("-ERR DEBUG command not allowed."));
    connection.engine.node.allows_debug = true;
    assert_eq!(connection.words("DEBUG sleep 0.25"), "+OK\r\n");
    assert_eq!(connection.words("DEBUG SLEEP x"), "+OK\r\n");
    assert_eq!(connection.engine.stalled, std::time::Duration::from_millis(250));
    for words in ["DEBUG SLEEP 61", "DEBUG SLEEP inf", "DEBUG SLEEP nan", "DEBUG SLEEP", "DEBUG RELOAD", "DEBUG SLEEP 1 2"] {
        assert!(connection.words(words).starts_with("-ERR "), "{words}");
    }
    assert_eq!(connection.engine.stalled, std::time::Duration::from_millis(250));
}

#[test]
fn info_tells_how_many_keys_there_are() {
    let mut connection = Connection::new(1);
    assert!(connection.words("INFO keyspace").contains("# Keyspace\r\n"));
    assert!(!connection.words("INFO keyspace").contains("db0"));
    connection.words("MSET a 1 b 2 c 3");
    connection.words("SET d 4 EX 100");
    connection.words("DEL a");
    assert!(connection.words("INFO").contains("# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\n"));
    connection.words("FLUSHALL");
    assert!(!connection.words("INFO keyspace").contains("db0"));
}
