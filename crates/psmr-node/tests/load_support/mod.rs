//! Servers for the tests of the load generator: a real redis-server, and small ones that misbehave as told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A redis-server on loopback, without persistence; it ends with the value.
pub struct Redis {
    process: Child,
    pub address: String,
    _directory: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Redis {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning", "--port", &port.to_string(), "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: see `make system`");
        let redis = Redis { process, address: format!("127.0.0.1:{port}"), _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&redis.address).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen on {}", redis.address);
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    /// Sends one inline command, and gives the first line of its reply.
    pub fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn key_count(&self) -> u64 {
        self.ask("DBSIZE")[1..].parse().unwrap()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a made-up server does with the commands of one connection: gets their number and words, writes the reply. `false`
/// closes the connection.
pub type Behaviour = dyn Fn(u64, &[Vec<u8>], &mut TcpStream) -> bool + Send + Sync;

/// Starts a made-up server, which lives until the test's process ends.
pub fn fake(behaviour: impl Fn(u64, &[Vec<u8>], &mut TcpStream) -> bool + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let behaviour: Arc<Behaviour> = Arc::new(behaviour);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let behaviour = behaviour.clone();
            std::thread::spawn(move || serve(stream, &*behaviour));
        }
    });
    address
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut number = 0;
    while let Some(words) = read_command(&mut input) {
        if !behaviour(number, &words, &mut stream) {
            return;
        }
        number += 1;
    }
}

fn read_command(input: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let count = read_number(input, '*')?;
    (0..count)
        .map(|_| {
            let length = read_number(input, '$')?;
            let mut word = vec![0; length + 2];
            input.read_exact(&mut word).ok()?;
            word.truncate(length);
            Some(word)
        })
        .collect()
}

fn read_number(input: &mut impl BufRead, kind: char) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}

/// The right reply to a `SET`, and to a `GET` of a key that is not there.
pub fn right_reply(words: &[Vec<u8>]) -> &'static [u8] {
    if words[0] == b"SET" {
        b"+OK\r\n"
    } else {
        b"$-1\r\n"
    }
}
