//! What a load is: where it goes, what it asks for, how hard and for how long. Checked once, before the first connection.

use super::error::LoadError;
use super::item::{KEYS_MAX, TOGETHER_MAX, VALUE_BYTES_MIN, WRITERS_MAX};
use crate::client_thread::GatewayFactory;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The most bytes that one batch of one connection may hold in values: it bounds the memory of a deep pipeline.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// The language that the load speaks to the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The Redis protocol, version 2.
    #[default]
    Resp,
    /// psmr's own: each connection is a client (`crate::client`) that runs the service's gateway itself.
    Native,
}

/// What the load needs for `Protocol::Native`.
#[derive(Clone)]
pub struct NativeService {
    /// The service that the servers run.
    pub name: String,
    /// Its gateway for the Redis protocol.
    pub gateway: GatewayFactory,
}

impl fmt::Debug for NativeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeService").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FromStr for Protocol {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        match text {
            "resp" => Ok(Protocol::Resp),
            "native" => Ok(Protocol::Native),
            _ => Err(LoadError::option("protocol", format!("is {text:?}: allowed are resp and native"))),
        }
    }
}

/// Which addresses the connections go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Connections go round robin over all addresses.
    #[default]
    All,
    /// All connections go to the first address.
    One,
}

impl FromStr for Spread {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        match text {
            "all" => Ok(Spread::All),
            "one" => Ok(Spread::One),
            _ => Err(LoadError::option("spread", format!("is {text:?}: allowed are all and one"))),
        }
    }
}

/// Which keys the commands name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Keys of a fixed key space, drawn at random; a read may find nothing or any value that was written for its key.
    #[default]
    KeySpace,
    /// Every write goes to a key of its own, and those acknowledged are remembered for [`verify`](super::verify). Reads, if
    /// any, ask for an acknowledged write of the same connection and must find it. The servers keep every one of these keys:
    /// bound the load by `rate` if their memory is small.
    UniqueWrites,
}

/// A load. `Options::default()` is a short closed loop of writes without any address.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, each `host:port`.
    pub addresses: Vec<String>,
    /// What the servers speak.
    pub protocol: Protocol,
    /// For `Protocol::Native`.
    pub native: Option<NativeService>,
    /// Where the connections go.
    pub spread: Spread,
    /// Number of connections, over all threads.
    pub connections: usize,
    /// Requests that a connection sends in one write; it waits for all their replies before the next.
    pub depth: usize,
    /// Commands of a request: 1, or writes in a `MULTI`, reads in an `MGET` (`Mode::KeySpace`).
    pub together: usize,
    /// The keys of a request share a `{tag}`.
    pub is_tagged: bool,
    /// Which keys are named.
    pub mode: Mode,
    /// Size of the key space (`Mode::KeySpace`).
    pub keys: u64,
    /// What each key begins with. For `Mode::UniqueWrites` a run on servers that hold an earlier run's keys needs another
    /// prefix or another seed, else a write lost now could be taken for the earlier one.
    pub key_prefix: String,
    /// Size of each value; at least 8, which name the key and the write.
    pub value_bytes: usize,
    /// Share of the commands that read, 0 to 1.
    pub reads: f64,
    /// Exponent of the Zipf distribution of keys; 0 is uniform.
    pub zipf: f64,
    /// Commands per second over all connections, sent on schedule and timed from the moment that each should have been sent;
    /// 0 is a closed loop, timed from the sending.
    pub rate: f64,
    /// How long commands are sent.
    pub seconds: f64,
    /// Decides the sequence of keys, and of reads and writes, that each thread draws from, and the stamps of unique writes.
    pub seed: u64,
    /// Threads that share the connections.
    pub threads: usize,
    /// A connection that breaks goes to the next address, and its outstanding commands count as unknown. Otherwise a broken
    /// connection ends the run with an error.
    pub tolerate_disconnects: bool,
    /// How long a batch may wait for its last reply before its server counts as wedged.
    pub reply_timeout_seconds: f64,
    /// Ends each batch with Redis' `WAIT` for so many replicas, which is no command of the load, but has to succeed.
    pub wait_replicas: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            addresses: Vec::new(),
            protocol: Protocol::Resp,
            native: None,
            spread: Spread::All,
            connections: 50,
            depth: 1,
            together: 1,
            is_tagged: false,
            mode: Mode::KeySpace,
            keys: 100_000,
            key_prefix: "key:".to_owned(),
            value_bytes: VALUE_BYTES_MIN,
            reads: 0.0,
            zipf: 0.0,
            rate: 0.0,
            seconds: 10.0,
            seed: 1,
            threads: 1,
            tolerate_disconnects: false,
            reply_timeout_seconds: 10.0,
            wait_replicas: 0,
        }
    }
}

impl Options {
    /// The first option that makes no sense, with what is allowed.
    pub fn validate(&self) -> Result<(), LoadError> {
        let refuse = |name, problem: String| Err(LoadError::option(name, problem));
        if self.addresses.is_empty() {
            return refuse("addresses", "is empty: at least one host:port is needed".to_owned());
        }
        within("connections", self.connections as f64, 1.0, WRITERS_MAX as f64)?;
        within("depth", self.depth as f64, 1.0, 100_000.0)?;
        within("together", self.together as f64, 1.0, TOGETHER_MAX as f64)?;
        within("keys", self.keys as f64, 1.0, KEYS_MAX as f64)?;
        within("value_bytes", self.value_bytes as f64, VALUE_BYTES_MIN as f64, BATCH_BYTES_MAX as f64)?;
        within("reads", self.reads, 0.0, 1.0)?;
        within("zipf", self.zipf, 0.0, 10.0)?;
        within("rate", self.rate, 0.0, 1e9)?;
        within("seconds", self.seconds, 0.01, 7.0 * 86_400.0)?;
        within("reply_timeout_seconds", self.reply_timeout_seconds, 0.1, 3_600.0)?;
        within("threads", self.threads as f64, 1.0, self.connections as f64)?;
        let batch_bytes = self.depth.saturating_mul(self.together).saturating_mul(self.value_bytes);
        if batch_bytes > BATCH_BYTES_MAX {
            let problem =
                format!("times together times value_bytes is {batch_bytes}: allowed are {BATCH_BYTES_MAX} bytes a batch");
            return refuse("depth", problem);
        }
        if self.is_tagged && (self.together == 1 || self.keys % self.together as u64 != 0) {
            let problem = format!("is {}: with tags, allowed are 2 or more that divide the number of keys", self.together);
            return refuse("together", problem);
        }
        if self.mode == Mode::UniqueWrites && self.together > 1 {
            return refuse("together", format!("is {}: allowed is 1 for unique writes", self.together));
        }
        if self.protocol == Protocol::Native && self.native.is_none() {
            return refuse("native", "is missing: it is needed for protocol native".to_owned());
        }
        if self.protocol == Protocol::Native && self.wait_replicas > 0 {
            return refuse("wait_replicas", "is set: it is allowed with protocol resp alone".to_owned());
        }
        if self.key_prefix.len() > 64 {
            return refuse("key_prefix", format!("has {} bytes: allowed are 64", self.key_prefix.len()));
        }
        Ok(())
    }
}

fn within(name: &'static str, value: f64, low: f64, high: f64) -> Result<(), LoadError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(LoadError::option(name, format!("is {value}: allowed is {low} to {high}")))
}

/// A server, as it was named and as it was found.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// As the user wrote it, for messages.
    pub name: String,
    /// The first address that the name stands for.
    pub socket: SocketAddr,
}

impl Endpoint {
    /// Looks all names up.
    pub fn resolve_all(names: &[String]) -> Result<Vec<Endpoint>, LoadError> {
        names.iter().map(|name| Self::resolve(name)).collect()
    }

    fn resolve(name: &str) -> Result<Endpoint, LoadError> {
        let failed = |cause: String| LoadError::Resolve { address: name.to_owned(), cause };
        let mut found = name.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
        let socket = found.next().ok_or_else(|| failed("the name stands for no address".to_owned()))?;
        Ok(Endpoint { name: name.to_owned(), socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Options {
        Options { addresses: vec!["127.0.0.1:1".to_owned()], ..Options::default() }
    }

    #[test]
    fn a_sound_load_passes() {
        sound().validate().unwrap();
    }

    #[test]
    fn each_refusal_names_the_option_and_what_is_allowed() {
        type Case = (&'static str, fn(&mut Options));
        let cases: [Case; 16] = [
            ("native", |o| o.protocol = Protocol::Native),
            ("wait_replicas", |o| {
                o.native = Some(NativeService { name: "kv".into(), gateway: std::sync::Arc::new(|_| unreachable!()) });
                (o.protocol, o.wait_replicas) = (Protocol::Native, 1);
            }),
            ("addresses", |o| o.addresses.clear()),
            ("connections", |o| o.connections = 0),
            ("depth", |o| o.depth = 0),
            ("depth", |o| (o.depth, o.value_bytes) = (10_000, 100_000)),
            ("together", |o| o.together = 1_001),
            ("together", |o| (o.together, o.is_tagged) = (7, true)),
            ("together", |o| (o.together, o.mode) = (2, Mode::UniqueWrites)),
            ("keys", |o| o.keys = 0),
            ("value_bytes", |o| o.value_bytes = 7),
            ("reads", |o| o.reads = 1.5),
            ("reads", |o| o.reads = f64::NAN),
            ("rate", |o| o.rate = -1.0),
            ("seconds", |o| o.seconds = f64::INFINITY),
            ("threads", |o| o.threads = 51),
        ];
        for (name, spoil) in cases {
            let mut options = sound();
            spoil(&mut options);
            let text = options.validate().unwrap_err().to_string();
            assert!(text.starts_with(name), "{name}: {text}");
            assert!(text.contains("allowed") || text.contains("needed"), "{text}");
        }
    }

    #[test]
    fn an_address_without_port_is_refused_by_name() {
        let error = Endpoint::resolve_all(&["localhost".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("localhost"), "{error}");
    }

    #[test]
    fn words_are_parsed() {
        assert_eq!("one".parse::<Spread>().unwrap(), Spread::One);
        assert_eq!("resp".parse::<Protocol>().unwrap(), Protocol::Resp);
        assert!("some".parse::<Spread>().unwrap_err().to_string().contains("all and one"));
        assert!("http".parse::<Protocol>().is_err());
    }
}
