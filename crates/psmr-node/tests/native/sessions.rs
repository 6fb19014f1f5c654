//! Native clients against real replicas in this process: order, exactly-once across failures, errors, inspection.

use super::support::{ask, embedded, gateway, options, Cluster, Forwarder};
use psmr_node::client::{status, statuses, verify, Client, ClientError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// What one client alone must be told, command by command.
#[derive(Default)]
struct Model(BTreeMap<String, i64>);

impl Model {
    fn add(&mut self, key: &str, by: i64) -> i64 {
        let count = self.0.entry(key.into()).or_default();
        *count += by;
        *count
    }

    fn reply(&mut self, line: &str) -> String {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["add", key, by] => self.add(key, by.parse().unwrap()).to_string(),
            ["both", a, b, by] => {
                let by = by.parse().unwrap();
                format!("{},{}", self.add(a, by), self.add(b, by))
            }
            ["get" | "look", key] => self.0.get(key).copied().unwrap_or(0).to_string(),
            _ => panic!("{line}"),
        }
    }
}

/// A mixture of everything over a few keys, so that nearly all commands depend on others.
fn mixture(count: usize, prefix: &str) -> Vec<String> {
    let line = |i: usize| {
        let (a, b) = (format!("{prefix}{}", i * 7 % 11), format!("{prefix}{}", (i * 5 + 1) % 11));
        match i * 13 % 8 {
            0 | 1 => format!("get {a}"),
            2 => format!("both {a} {b} {i}"),
            3 => format!("look {b}"),
            _ => format!("add {a} {i}"),
        }
    };
    (0..count).map(line).collect()
}

/// Executes lines in a pipeline; gives each reply, or error.
fn pipeline(client: &mut Client, lines: &[String]) -> Vec<Result<String, ClientError>> {
    let requests: Vec<Vec<u8>> = lines.iter().map(|line| format!("{line}\n").into_bytes()).collect();
    let mut replies = Vec::new();
    client
        .execute_all(requests.iter().map(Vec::as_slice), &mut || false, |reply| {
            replies.push(reply.map(|bytes| String::from_utf8(bytes).unwrap()));
        })
        .unwrap();
    replies
}

#[test]
fn a_pipeline_is_answered_as_if_its_commands_executed_one_by_one() {
    let cluster = Cluster::start();
    for replica in 1..=3 {
        let (mut client, mut model) = (cluster.connect(replica), Model::default());
        assert_eq!(client.replica(), replica);
        let lines = mixture(3_000, &format!("r{replica}-"));
        let replies = pipeline(&mut client, &lines);
        assert_eq!(replies.len(), lines.len());
        for (line, reply) in lines.iter().zip(replies) {
            assert_eq!(reply, Ok(model.reply(line)), "{line}");
        }
        // What one replica acknowledged, the others know.
        let mut other = cluster.connect(replica % 3 + 1);
        model.0.iter().for_each(|(key, count)| assert_eq!(ask(&mut other, &format!("get {key}")), count.to_string()));
    }
}

#[test]
fn commands_execute_once_when_replies_are_lost_with_the_connection() {
    let cluster = Cluster::start();
    let forwarder = Forwarder::to(cluster.address(1));
    let mut model = Model::default();
    for round in 0..6 {
        // It goes on at another replica, or at the same one.
        let next = cluster.address(if round % 2 == 0 { 2 } else { 1 });
        let addresses = [forwarder.address.clone(), next];
        let mut client = Client::connect(&addresses, "counters", gateway(), options(20), &mut || false).unwrap();
        let lines: Vec<String> = mixture(200, "k").into_iter().filter(|line| !line.starts_with("get")).collect();
        forwarder.swallow_replies(true);
        let replies = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50 + 100 * round));
                forwarder.cut();
                forwarder.swallow_replies(false);
            });
            pipeline(&mut client, &lines)
        });
        for (line, reply) in lines.iter().zip(replies) {
            let expected = model.reply(line);
            match reply {
                Ok(reply) => assert_eq!(reply, expected, "{line}"),
                // The replies of ordered reads are not kept, and later commands had executed.
                Err(error) => assert_eq!((error, line.starts_with("look")), (ClientError::ReadOvertaken, true), "{line}"),
            }
        }
        assert_eq!(client.replica(), if round % 2 == 0 { 2 } else { 1 });
    }
}

#[test]
fn a_replica_that_says_nothing_is_left_for_another() {
    let cluster = Cluster::start();
    let forwarder = Forwarder::to(cluster.address(1));
    let addresses = [forwarder.address.clone(), cluster.address(2)];
    let mut client = Client::connect(&addresses, "counters", gateway(), options(20), &mut || false).unwrap();
    assert_eq!((ask(&mut client, "add n 1"), client.replica()), ("1".into(), 1));
    forwarder.swallow_replies(true);
    assert_eq!((ask(&mut client, "add n 1"), client.replica()), ("2".into(), 2));
    assert_eq!(ask(&mut client, "add n 1"), "3");
}

#[test]
fn commands_execute_once_when_their_replica_stops() {
    let mut cluster = Cluster::start();
    let mut client = cluster.connect(1);
    let mut sum = 0;
    for replica in [1, 2, 3] {
        let from = client.replica();
        std::thread::scope(|scope| {
            let stopper = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                cluster.stop_node(from);
            });
            let until = Instant::now() + Duration::from_millis(1_500);
            while Instant::now() < until {
                let lines: Vec<String> = (0..20).map(|_| "add n 1".to_owned()).collect();
                for reply in pipeline(&mut client, &lines) {
                    sum += 1;
                    assert_eq!(reply, Ok(sum.to_string()), "round {replica}");
                }
            }
            stopper.join().unwrap();
        });
        assert_ne!(client.replica(), from);
        cluster.start_node(from);
    }
    assert!(sum > 100, "{sum}");
    (1..=3).for_each(|replica| assert_eq!(ask(&mut cluster.connect(replica), "get n"), sum.to_string()));
}

#[test]
fn without_a_majority_the_outcome_is_unknown_and_the_command_executes_at_most_once() {
    let mut cluster = Cluster::start();
    let address = cluster.address(1);
    let mut client = Client::connect(&[address], "counters", gateway(), options(2), &mut || false).unwrap();
    assert_eq!(ask(&mut client, "add n 1"), "1");
    cluster.stop_node(2);
    cluster.stop_node(3);
    let error = client.execute(b"add n 1\n").unwrap_err();
    assert_eq!(error, ClientError::OutcomeUnknown("no answer in time"));
    assert!(error.may_have_been_executed());
    let error = client.execute(b"get n\n").unwrap_err();
    assert!(error == ClientError::ReadTimeout && !error.may_have_been_executed(), "{error:?}");
    cluster.start_node(2);
    let until = Instant::now() + Duration::from_secs(20);
    let count = loop {
        match client.execute(b"look n\n") {
            Ok(count) => break String::from_utf8(count).unwrap(),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    // The session is in order: the read comes after the command, which was sent again until it executed.
    assert_eq!(count, "2");
}

#[test]
fn a_call_can_be_called_off_and_the_client_goes_on() {
    let mut cluster = Cluster::start();
    let mut client = cluster.connect(1);
    assert_eq!(ask(&mut client, "add n 1"), "1");
    cluster.stop_node(2);
    cluster.stop_node(3);
    let start = Instant::now();
    let called_off = client.execute_unless(b"add n 1\n", &mut || start.elapsed() > Duration::from_millis(300));
    assert_eq!(called_off, Err(ClientError::Interrupted));
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    cluster.start_node(3);
    assert_eq!(ask(&mut client, "add n 1"), "3");
}

#[test]
fn what_is_no_cluster_for_this_client_is_named() {
    let cluster = Cluster::start();
    let connect = |addresses: &[String], service| {
        Client::connect(addresses, service, gateway(), options(5), &mut || false).map(|_| ()).unwrap_err()
    };
    let wrong = connect(&[cluster.address(1)], "kv");
    assert!(matches!(&wrong, ClientError::WrongService { text, .. } if text.contains("\"kv\"") && text.contains("\"counters\"")));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let unreachable = connect(std::slice::from_ref(&closed), "counters");
    assert!(matches!(&unreachable, ClientError::Unreachable(text) if text.contains(&closed)), "{unreachable}");
    assert!(matches!(connect(&["nowhere".into()], "counters"), ClientError::Address { .. }));
    assert!([wrong, unreachable].iter().all(|error| !error.may_have_been_executed()));
    // One that answers suffices.
    let mut client = Client::connect(&[closed, cluster.address(2)], "counters", gateway(), options(5), &mut || false).unwrap();
    assert_eq!(ask(&mut client, "add n 1"), "1");
}

#[test]
fn requests_that_are_none_close_the_client_and_nothing_is_sent() {
    let cluster = Cluster::start();
    for request in [&b"nonsense\n"[..], b"add n", b"add n 1\nadd"] {
        let mut client = cluster.connect(1);
        assert!(matches!(client.execute(request), Err(ClientError::Request(_))));
        assert_eq!(client.execute(b"get n\n"), Err(ClientError::Closed));
    }
    let mut client = cluster.connect(1);
    assert_eq!(client.execute(b"quit\n").as_deref(), Ok(&b"bye"[..]));
    assert_eq!(client.execute(b"get n\n"), Err(ClientError::Closed));
    let long = [&vec![b'x'; 33 << 20][..], b"\n"].concat();
    let request = [b"add ".as_slice(), &long[..33 << 20], b" 1\n"].concat();
    assert!(matches!(cluster.connect(1).execute(&request), Err(ClientError::TooLong { .. })));
    assert_eq!(ask(&mut cluster.connect(2), "get n"), "0");
}

#[test]
fn an_embedded_replica_works_without_sockets() {
    let node = embedded(None);
    assert_eq!(node.address, None);
    let mut client = node.direct_client(gateway(), options(10)).unwrap();
    let (lines, mut model) = (mixture(2_000, "e"), Model::default());
    for (line, reply) in lines.iter().zip(pipeline(&mut client, &lines)) {
        assert_eq!(reply, Ok(model.reply(line)), "{line}");
    }
    node.stop();
    assert_eq!(client.execute(b"get e1\n"), Err(ClientError::Ended));
}

#[test]
fn an_embedded_replica_keeps_what_it_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let node = embedded(Some(data.path()));
        let mut client = node.direct_client(gateway(), options(10)).unwrap();
        assert_eq!(ask(&mut client, "add n 1"), round.to_string());
        drop(client);
        node.stop();
    }
}

#[test]
fn status_and_verify_ask_every_replica() {
    let mut cluster = Cluster::start();
    let mut client = cluster.connect(2);
    pipeline(&mut client, &mixture(500, "v"));
    let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let timeout = Duration::from_secs(10);
    let found = parse(status(&cluster.address(2), timeout, &mut || false).unwrap());
    assert_eq!((found["id"].as_u64(), found["service"].as_str()), (Some(2), Some("counters")));
    let verified = parse(verify(&cluster.address(1), timeout, &mut || false).unwrap());
    assert_eq!((verified["equal"].as_bool(), verified["missing"].as_array().unwrap().len()), (Some(true), 0), "{verified}");
    let replicas = verified["replicas"].as_array().unwrap();
    assert_eq!(replicas.iter().map(|r| r["id"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(replicas[0]["digest"].as_str().unwrap().len(), 32);
    ask(&mut client, "add v1 1");
    cluster.stop_node(3);
    let later = parse(verify(&cluster.address(1), Duration::from_secs(3), &mut || false).unwrap());
    assert_eq!((later["equal"].as_bool(), &later["missing"]), (Some(true), &serde_json::json!([3])), "{later}");
    assert_ne!(later["replicas"][0]["digest"], replicas[0]["digest"], "the state has changed");
    assert!(status(&cluster.address(3), Duration::from_secs(1), &mut || false).is_err());
}

#[test]
fn questions_can_be_called_off() {
    // It takes connections and answers nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let timeout = Duration::from_secs(3600);
    let off = ClientError::Interrupted;
    assert_eq!(status(&address, timeout, &mut || true), Err(off.clone()));
    assert_eq!(statuses(std::slice::from_ref(&address), timeout, &mut || true), Err(off.clone()));
    assert_eq!(verify(&address, timeout, &mut || true), Err(off));
}
