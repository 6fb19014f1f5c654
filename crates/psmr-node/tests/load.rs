//! The load generator against a real redis-server and against servers that misbehave.

mod load_support;

use load_support::{fake, right_reply, Redis};
use psmr_node::load::{preload, run, verify, Control, LoadError, Mode, Options, Report, Spread};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn options(addresses: &[&str]) -> Options {
    Options {
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        connections: 8,
        depth: 4,
        keys: 1_000,
        seconds: 0.5,
        ..Options::default()
    }
}

fn unique(addresses: &[&str]) -> Options {
    Options {
        mode: Mode::UniqueWrites,
        key_prefix: "demo:".to_owned(),
        rate: 20_000.0,
        tolerate_disconnects: true,
        ..options(addresses)
    }
}

fn load(options: &Options) -> Result<Report, LoadError> {
    run(options, &Control::default())
}

/// Runs a load while `act` runs beside it, `after` its start.
fn load_while<T: Send>(
    options: &Options,
    after: Duration,
    act: impl FnOnce(&Control) -> T + Send,
) -> (Result<Report, LoadError>, T) {
    let control = Control::default();
    std::thread::scope(|scope| {
        let actor = scope.spawn(|| {
            std::thread::sleep(after);
            act(&control)
        });
        let report = run(options, &control);
        (report, actor.join().unwrap())
    })
}

fn assert_clean(report: &Report) {
    assert_eq!((report.errors, report.disconnects, report.unknown), (0, 0, 0), "{:?}", report.first_errors);
    assert!(!report.failed && !report.interrupted);
    assert_eq!(report.commands, report.reads + report.writes);
    assert_eq!(report.timeline_100ms.iter().sum::<u64>(), report.commands);
    assert_eq!(report.latency_histogram_us.iter().map(|(_, count)| count).sum::<u64>(), report.commands);
    let latency = report.latency_us;
    assert!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.p999 && latency.p999 <= latency.max);
}

#[test]
fn a_closed_loop_of_reads_and_writes_gets_only_right_replies() {
    let redis = Redis::start();
    let options = Options { reads: 0.5, value_bytes: 20, ..options(&[&redis.address]) };
    let control = Control::default();
    let report = run(&options, &control).unwrap();
    assert_clean(&report);
    assert!(report.commands > 1_000, "{}", report.commands);
    assert!((0.45..0.55).contains(&(report.reads as f64 / report.commands as f64)));
    assert!((0.45..3.0).contains(&report.seconds), "{}", report.seconds);
    assert!(report.client_cpu_us > 0.0 && report.client_cpu_us < 1e6);
    assert_eq!(control.completed.load(Ordering::Relaxed), report.commands);
    let sets = redis.ask("STRLEN key:000000000000");
    assert!(sets == ":20" || sets == ":0", "{sets}");
}

#[test]
fn the_servers_see_as_many_commands_as_the_report_says() {
    let redis = Redis::start();
    redis.ask("CONFIG RESETSTAT");
    let report = load(&options(&[&redis.address])).unwrap();
    let mut stream = std::net::TcpStream::connect(&redis.address).unwrap();
    stream.write_all(b"INFO commandstats\r\nQUIT\r\n").unwrap();
    let statistics = std::io::read_to_string(stream).unwrap();
    let calls = format!("cmdstat_set:calls={},", report.commands);
    assert!(statistics.contains(&calls), "{calls} {statistics}");
}

#[test]
fn a_preload_writes_each_key_once_so_that_reads_find_values() {
    let redis = Redis::start();
    let options = Options { keys: 5_001, reads: 1.0, value_bytes: 1_000, zipf: 0.99, ..options(&[&redis.address]) };
    let control = Control::default();
    let written = preload(&options, &control).unwrap();
    assert_clean(&written);
    assert_eq!((written.commands, control.completed.load(Ordering::Relaxed)), (5_001, 5_001));
    assert_eq!(redis.key_count(), 5_001);
    let report = load(&options).unwrap();
    assert_clean(&report);
    assert_eq!((report.writes, report.reads_empty), (0, 0));
}

#[test]
fn values_larger_than_any_buffer_are_checked() {
    let redis = Redis::start();
    let options = Options { keys: 10, reads: 0.5, value_bytes: 3_000_000, depth: 2, ..options(&[&redis.address]) };
    preload(&options, &Control::default()).unwrap();
    let report = load(&options).unwrap();
    assert_clean(&report);
    assert!(report.reads > 0 && report.reads_empty == 0);
}

#[test]
fn threads_share_the_connections_and_spread_decides_the_servers() {
    let servers = [Redis::start(), Redis::start()];
    let both = Options { threads: 3, connections: 7, ..options(&[&servers[0].address, &servers[1].address]) };
    assert_clean(&load(&both).unwrap());
    assert!(servers.iter().all(|server| server.key_count() > 0));
    servers.iter().for_each(|server| assert_eq!(server.ask("FLUSHALL"), "+OK"));
    assert_clean(&load(&Options { spread: Spread::One, ..both }).unwrap());
    assert!(servers[0].key_count() > 0);
    assert_eq!(servers[1].key_count(), 0);
}

#[test]
fn values_of_another_writer_are_wrong() {
    let redis = Redis::start();
    redis.ask("SET key:000000000000 intruder");
    let options = Options { keys: 1, reads: 1.0, ..options(&[&redis.address]) };
    let report = load(&options).unwrap();
    assert_eq!((report.commands, report.errors), (0, report.wrong));
    assert!(report.failed && report.wrong > 0);
    let text = &report.first_errors[0];
    assert!(text.contains("key:000000000000") && text.contains("intruder") && text.contains(&redis.address), "{text}");
}

#[test]
fn each_wrong_reply_is_counted_and_no_right_one() {
    let planted = AtomicU64::new(0);
    let planted: &'static AtomicU64 = Box::leak(Box::new(planted));
    let address = fake(move |number, words, stream| {
        let bad: &[u8] = match number % 100 {
            7 => b"-ERR out of order\r\n",
            23 if words[0] == b"SET" => b"+QUEUED\r\n",
            42 if words[0] == b"SET" => b"$-1\r\n",
            77 if words[0] == b"GET" => b"$8\r\n00000000\r\n",
            _ => return stream.write_all(right_reply(words)).is_ok(),
        };
        let written = stream.write_all(bad).is_ok();
        planted.fetch_add(u64::from(written), Ordering::SeqCst);
        written
    });
    // The value 00000000 is right for key 0 alone.
    let options = Options { reads: 0.5, keys: 1 << 30, ..options(&[&address]) };
    let control = Control::default();
    let report = run(&options, &control).unwrap();
    assert!(report.errors > 0 && report.failed);
    assert_eq!(report.errors, planted.load(Ordering::SeqCst));
    assert_eq!(report.errors, control.errors.load(Ordering::Relaxed));
    assert!(report.wrong < report.errors, "refusals are no wrong replies");
    assert_eq!(report.timeline_100ms.iter().sum::<u64>(), report.commands);
    assert_eq!(report.first_errors.len(), 8);
}

#[test]
fn replies_that_come_byte_by_byte_are_understood() {
    let address = fake(|_, words, stream| {
        right_reply(words).iter().all(|byte| {
            std::thread::sleep(Duration::from_micros(20));
            stream.write_all(&[*byte]).is_ok()
        })
    });
    let report = load(&Options { reads: 0.5, ..options(&[&address]) }).unwrap();
    assert_clean(&report);
    assert!(report.commands > 0);
}

#[test]
fn what_is_no_protocol_ends_the_load_with_the_address() {
    let html = fake(|_, _, stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").is_ok());
    let surplus = fake(|_, _, stream| stream.write_all(b"+OK\r\n+OK\r\n").is_ok());
    for address in [html, surplus] {
        let error = load(&options(&[&address])).unwrap_err();
        assert!(matches!(error, LoadError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[test]
fn a_wedged_server_ends_the_load_with_address_and_missing_replies() {
    let redis = Redis::start();
    let wedged = fake(|number, words, stream| number >= 3 || stream.write_all(right_reply(words)).is_ok());
    let options =
        Options { connections: 2, depth: 10, seconds: 30.0, reply_timeout_seconds: 0.3, ..options(&[&redis.address, &wedged]) };
    let begun = Instant::now();
    let error = load(&options).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(error.to_string(), format!("{wedged} did not answer within 0.3 s: 7 replies are missing"));
}

#[test]
fn a_wedged_server_is_left_where_disconnects_are_tolerated() {
    let redis = Redis::start();
    let wedged = fake(|_, _, _| true);
    let options =
        Options { connections: 2, depth: 10, seconds: 1.0, reply_timeout_seconds: 0.3, ..unique(&[&redis.address, &wedged]) };
    let report = load(&options).unwrap();
    assert_eq!((report.disconnects, report.unknown, report.errors), (1, 10, 0), "{report:?}");
    assert!(report.first_disconnects[0].contains(&wedged), "{:?}", report.first_disconnects);
    assert!(report.commands > 10_000, "{}", report.commands);
}

#[test]
fn the_stop_flag_ends_a_load_at_once_even_against_a_wedged_server() {
    let redis = Redis::start();
    let wedged = fake(|_, _, _| true);
    for (address, completes) in [(&redis.address, true), (&wedged, false)] {
        let options = Options { seconds: 60.0, ..options(&[address]) };
        let begun = Instant::now();
        let (report, ()) = load_while(&options, Duration::from_millis(300), |control| {
            control.stop.store(true, Ordering::Relaxed);
        });
        assert!(begun.elapsed() < Duration::from_secs(15));
        let report = report.unwrap();
        assert!(report.interrupted);
        assert_eq!(report.commands > 0, completes);
        assert!(completes || report.unknown == 32, "8 connections with 4 commands each: {}", report.unknown);
    }
}

#[test]
fn nobody_listening_is_an_error_with_the_address() {
    let mut redis = Redis::start();
    redis.kill();
    let error = load(&options(&[&redis.address])).unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&redis.address), "{error}");
}

#[test]
fn a_server_that_dies_in_mid_run_is_an_error_unless_tolerated() {
    let redis = Mutex::new(Redis::start());
    let address = redis.lock().unwrap().address.clone();
    let options = Options { seconds: 30.0, ..options(&[&address]) };
    let (report, ()) = load_while(&options, Duration::from_millis(300), |_| redis.lock().unwrap().kill());
    let error = report.unwrap_err();
    assert!(matches!(error, LoadError::Disconnected { .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
}

#[test]
fn after_a_server_died_the_load_goes_on_and_exactly_its_writes_are_lost() {
    let survivor = Redis::start();
    let victim = Mutex::new(Redis::start());
    let victim_address = victim.lock().unwrap().address.clone();
    let options = Options { seconds: 1.5, ..unique(&[&survivor.address, &victim_address]) };
    let (report, kept_by_victim) = load_while(&options, Duration::from_millis(500), |_| {
        let mut victim = victim.lock().unwrap();
        let kept = victim.key_count();
        victim.kill();
        kept
    });
    let report = report.unwrap();
    assert!(kept_by_victim > 0);
    assert!(report.disconnects >= 4, "{report:?}");
    assert_eq!(report.errors, 0);
    let late: u64 = report.timeline_100ms[10..].iter().sum();
    assert!(late > 2_000, "{:?}", report.timeline_100ms);
    let acknowledged = report.acknowledged.unwrap();
    assert_eq!(acknowledged.count(), report.writes);
    let control = Control::default();
    let verification = verify(&acknowledged, std::slice::from_ref(&survivor.address), 5.0, &control).unwrap();
    assert_eq!(verification.addresses[0].checked, acknowledged.count());
    assert_eq!(verification.lost(), acknowledged.count() - survivor.key_count());
    assert!(verification.lost() >= kept_by_victim - report.unknown);
    assert!(!verification.is_complete());
    assert!(verification.first_errors[0].contains("demo:"), "{:?}", verification.first_errors);
}

#[test]
fn acknowledged_writes_survive_lost_connections_and_damage_is_found() {
    let redis = Redis::start();
    let options = Options { reads: 0.2, connections: 10, threads: 2, ..unique(&[&redis.address]) };
    let (report, ()) = load_while(&options, Duration::from_millis(200), |_| {
        assert!(redis.ask("CLIENT KILL TYPE normal").starts_with(':'));
    });
    let report = report.unwrap();
    assert!(report.disconnects >= 10 && report.reads > 0 && !report.failed, "{report:?}");
    let acknowledged = report.acknowledged.unwrap();
    assert_eq!(acknowledged.count(), report.writes);
    assert!(redis.key_count() >= acknowledged.count());

    let addresses = [redis.address.clone(), redis.address.clone()];
    let control = Control::default();
    let check = || verify(&acknowledged, &addresses, 5.0, &control).unwrap();
    let verification = check();
    assert!(verification.is_complete(), "{verification:?}");
    assert_eq!(control.completed.load(Ordering::Relaxed), 2 * acknowledged.count());

    assert_eq!(redis.ask("DEL demo:0003:000000000000"), ":1");
    assert_eq!(redis.ask("COPY demo:0004:000000000001 demo:0004:000000000000 REPLACE"), ":1");
    let verification = check();
    let found: Vec<(u64, u64)> = verification.addresses.iter().map(|address| (address.lost, address.wrong)).collect();
    assert_eq!(found, vec![(1, 1), (1, 1)]);
    assert_eq!((verification.lost(), verification.is_complete()), (4, false));
}

#[test]
fn a_lost_acknowledged_write_is_noticed_by_a_read_of_its_own_connection() {
    let address = fake(|_, words, stream| stream.write_all(right_reply(words)).is_ok());
    let report = load(&Options { reads: 0.5, ..unique(&[&address]) }).unwrap();
    assert!(report.wrong > 0 && report.failed, "tolerance is for disconnects, not for lost writes");
    assert!(report.first_errors[0].contains("acknowledged"), "{:?}", report.first_errors);
}

#[test]
fn each_batch_is_followed_by_a_wait_that_is_no_command() {
    let commands = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = commands.clone();
    let address = fake(move |_, words, stream| {
        seen.lock().unwrap().push(words.join(&b' '));
        stream.write_all(if words[0] == b"WAIT" { b":2\r\n" } else { right_reply(words) }).is_ok()
    });
    let options = Options { connections: 1, depth: 3, wait_replicas: 2, ..options(&[&address]) };
    let report = load(&options).unwrap();
    assert_clean(&report);
    let commands = commands.lock().unwrap();
    assert_eq!(commands.len() as u64, report.commands / 3 * 4);
    assert!(commands.chunks(4).all(|batch| batch[3] == b"WAIT 2 5000" && batch[..3].iter().all(|c| c.starts_with(b"SET "))));
}

#[test]
fn too_few_replicas_fail_the_load() {
    let address =
        fake(|_, words, stream| stream.write_all(if words[0] == b"WAIT" { b":1\r\n" } else { right_reply(words) }).is_ok());
    let report = load(&Options { wait_replicas: 2, ..options(&[&address]) }).unwrap();
    assert!(report.failed && report.errors > 0 && report.first_errors[0].contains("WAIT 2"), "{report:?}");
}

#[test]
fn refused_writes_are_tolerated_but_not_acknowledged() {
    let address = fake(|number, words, stream| {
        let reply = if number % 10 == 3 { b"-LOADING not yet\r\n" } else { right_reply(words) };
        stream.write_all(reply).is_ok()
    });
    let report = load(&unique(&[&address])).unwrap();
    assert!(report.errors > 0 && report.wrong == 0 && !report.failed, "{report:?}");
    assert_eq!(report.acknowledged.unwrap().count(), report.writes);
    assert!(load(&Options { tolerate_disconnects: false, ..unique(&[&address]) }).unwrap().failed);
}

#[test]
fn a_schedule_is_kept() {
    let redis = Redis::start();
    let report = load(&Options { rate: 4_000.0, seconds: 1.0, depth: 2, ..options(&[&redis.address]) }).unwrap();
    assert_clean(&report);
    assert_eq!(report.commands + report.unsent, 4_000);
    assert!(report.unsent < 1_000, "{}", report.unsent);
    assert!((0.9..3.0).contains(&report.seconds), "{}", report.seconds);
}

#[test]
fn a_pause_of_the_server_is_seen_by_all_commands_that_it_delayed() {
    let redis = Redis::start();
    let options = Options { rate: 1_000.0, seconds: 1.5, connections: 1, depth: 1, ..options(&[&redis.address]) };
    let (report, ()) = load_while(&options, Duration::from_millis(300), |_| {
        assert_eq!(redis.ask("CLIENT PAUSE 400 ALL"), "+OK");
    });
    let report = report.unwrap();
    assert_clean(&report);
    // 400 of 1,500 commands were due in the pause: the slowest tenth of all waited 250 ms and more.
    let slow: u64 = report.latency_histogram_us.iter().filter(|(bound, _)| *bound > 131_072).map(|(_, count)| count).sum();
    assert!((200..=600).contains(&slow), "{:?}", report.latency_histogram_us);
    assert!(report.latency_us.p99 > 300_000.0, "{:?}", report.latency_us);
}

#[test]
fn a_server_slower_than_the_schedule_is_told_by_what_was_not_sent() {
    let address = fake(|_, words, stream| {
        std::thread::sleep(Duration::from_millis(10));
        stream.write_all(right_reply(words)).is_ok()
    });
    let report = load(&Options { rate: 1_000.0, connections: 1, depth: 1, ..options(&[&address]) }).unwrap();
    assert_eq!(report.commands + report.unsent, 500);
    assert!(report.unsent > 400, "{}", report.unsent);
}
