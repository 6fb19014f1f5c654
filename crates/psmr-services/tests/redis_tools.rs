//! Redis's own tools against the gateway: redis-cli and redis-benchmark, over sockets. Every connection has a state of its
//! own, since the engine that would share it is another crate's.

mod common;

use common::Connection;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Serves until the test program ends.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for (id, stream) in (1..).zip(listener.incoming().flatten()) {
            std::thread::spawn(move || serve_one(stream, Connection::new(id)));
        }
    });
    port
}

fn serve_one(mut stream: TcpStream, mut connection: Connection) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let out = connection.send(&buffer[..count]);
        if stream.write_all(&out).is_err() || connection.is_closed {
            return;
        }
    }
}

fn run(tool: &str, port: u16, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments).output();
    let output = output.unwrap_or_else(|_| panic!("{tool} is needed for this test and was not found: run `make system`"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} failed: {text}");
    text
}

#[test]
fn redis_benchmark_runs() {
    let port = serve();
    for arguments in [
        &["-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "5", "--csv"][..],
        &["-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "5", "-P", "16", "-r", "1000", "-3", "--csv"],
    ] {
        let report = run("redis-benchmark", port, arguments);
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
            assert!(report.contains(&format!("\"{test}\",")), "{test} is not in {report}");
        }
        assert!(!report.contains("rror") && !report.contains("WARN"), "{report}");
    }
}

#[test]
fn redis_cli_runs() {
    let port = serve();
    assert_eq!(run("redis-cli", port, &["-3", "set", "k", "v"]), "OK\n");
    assert_eq!(run("redis-cli", port, &["incr", "n"]), "1\n");
    assert!(run("redis-cli", port, &["command", "docs", "get"]).contains("Get the value of a key"));
    assert!(run("redis-cli", port, &["-3", "--json", "config", "get", "save"]).contains("\"save\""));
    assert_eq!(run("redis-cli", port, &["--scan"]), "");
    assert!(run("redis-cli", port, &["info", "server"]).contains("redis_version:7.0.15"));
}
