//! Questions about replicas: their status, and whether their states are equal.

use super::remote::resolve;
use super::{ClientError, SLICE};
use crate::native::{self, FromClient, FromReplica, Kind, GREETING, MAGIC_BYTES};
use bytes::{Bytes, BytesMut};
use psmr_core::command::SessionId;
use serde_json::{json, Map, Value};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a digest may take to come before it is asked for again: the command may have been lost.
const START_AGAIN: Duration = Duration::from_secs(2);

/// Between two looks at the replicas.
const PAUSE: Duration = Duration::from_millis(20);

/// Nobody listens at a replica's address for this long: it is missing. One that is started again comes back sooner.
const REFUSED_MAX: Duration = Duration::from_secs(4);

/// A connection for questions.
struct Line {
    address: String,
    stream: TcpStream,
    input: BytesMut,
    is_greeted: bool,
}

/// What is left until `deadline`, at least a millisecond: the system takes no time limit of zero.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// Why there is no connection.
struct NoLine {
    error: ClientError,
    /// Nobody listens there.
    is_refused: bool,
}

impl From<ClientError> for NoLine {
    fn from(error: ClientError) -> NoLine {
        NoLine { error, is_refused: false }
    }
}

impl From<NoLine> for ClientError {
    fn from(no_line: NoLine) -> ClientError {
        no_line.error
    }
}

impl Line {
    fn open(address: &str, deadline: Instant) -> Result<Line, NoLine> {
        let mut trouble = NoLine { error: ClientError::Unreachable(address.into()), is_refused: false };
        for target in resolve(address)? {
            match TcpStream::connect_timeout(&target, left(deadline)) {
                Ok(mut stream) => {
                    let _ = stream.set_nodelay(true);
                    stream.set_write_timeout(Some(left(deadline))).map_err(ClientError::from)?;
                    stream.write_all(GREETING).map_err(ClientError::from)?;
                    return Ok(Line { address: address.into(), stream, input: BytesMut::new(), is_greeted: false });
                }
                Err(error) => {
                    let is_refused = error.kind() == ErrorKind::ConnectionRefused;
                    trouble = NoLine { error: ClientError::Unreachable(format!("{address}: {error}")), is_refused };
                }
            }
        }
        Err(trouble)
    }

    fn ask(&mut self, question: &Value, deadline: Instant) -> Result<Value, ClientError> {
        let mut out = Vec::new();
        FromClient::Question(Bytes::from(question.to_string())).write(&mut out);
        self.stream.write_all(&out).map_err(|e| self.lost(&e.to_string()))?;
        let mut scratch = [0; 16 << 10];
        loop {
            if let Some(answer) = self.take_answer()? {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                return Err(self.lost("no answer in time"));
            }
            self.stream.set_read_timeout(Some(left(deadline)))?;
            match self.stream.read(&mut scratch) {
                Ok(0) => return Err(self.lost("it closed the connection")),
                Ok(count) => self.input.extend_from_slice(&scratch[..count]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(self.lost("no answer in time")),
                Err(e) => return Err(self.lost(&e.to_string())),
            }
        }
    }

    fn take_answer(&mut self) -> Result<Option<Value>, ClientError> {
        let other = |text: String| ClientError::OtherVersion { address: self.address.clone(), text };
        if !self.is_greeted {
            if self.input.len() < GREETING.len() {
                return Ok(None);
            }
            let greeting = self.input.split_to(GREETING.len());
            if greeting[..MAGIC_BYTES] != GREETING[..MAGIC_BYTES] {
                return Err(other("it is no replica of psmr".into()));
            }
            self.is_greeted = true;
        }
        let frame = native::decode::<Kind>(&mut self.input).map_err(|what| other(format!("it sent {what}")))?;
        let Some((kind, body)) = frame else { return Ok(None) };
        match FromReplica::read(kind, body, SessionId::default(), 0, 0) {
            Ok(FromReplica::Answer(json)) => match serde_json::from_slice(&json) {
                Ok(answer) => Ok(Some(answer)),
                Err(e) => Err(other(format!("its answer is no JSON: {e}"))),
            },
            Ok(FromReplica::Refusal(refusal)) => Err(other(refusal.text)),
            Ok(_) => Err(other("it sent what was not asked for".into())),
            Err(e) => Err(other(e.to_string())),
        }
    }

    fn lost(&self, why: &str) -> ClientError {
        ClientError::Unreachable(format!("{}: {why}", self.address))
    }
}

/// Works on a thread of its own, so that whoever waits for it can be called off whatever the network does. The thread ends by
/// itself when its time is over.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<Receiver<T>, ClientError> {
    let (sender, receiver) = mpsc::channel();
    // Nobody takes what comes too late.
    let run = move || drop(sender.send(work()));
    thread::Builder::new().name("question".into()).spawn(run)?;
    Ok(receiver)
}

/// What comes of the work, unless it is called off.
fn wait<T>(working: &Receiver<T>, called_off: &mut dyn FnMut() -> bool) -> Result<T, ClientError> {
    loop {
        match working.recv_timeout(SLICE) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Disconnected) => return Err(ClientError::System("a thread that asks panicked".into())),
            Err(RecvTimeoutError::Timeout) if called_off() => return Err(ClientError::Interrupted),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn ask(address: &str, what: &str, timeout: Duration) -> Result<Value, NoLine> {
    let deadline = Instant::now() + timeout;
    Ok(Line::open(address, deadline)?.ask(&json!({"ask": what}), deadline)?)
}

/// The status of the replica at `address`, as JSON.
///
/// # Errors
/// If it does not answer in time, or the wait is called off.
pub fn status(address: &str, timeout: Duration, called_off: &mut dyn FnMut() -> bool) -> Result<String, ClientError> {
    ask_one(address, "status", timeout, called_off)
}

/// The status of the replica at `address` and what it has counted and timed, as JSON.
///
/// # Errors
/// If it does not answer in time, or the wait is called off.
pub fn metrics(address: &str, timeout: Duration, called_off: &mut dyn FnMut() -> bool) -> Result<String, ClientError> {
    ask_one(address, "metrics", timeout, called_off)
}

fn ask_one(
    address: &str,
    what: &'static str,
    timeout: Duration,
    called_off: &mut dyn FnMut() -> bool,
) -> Result<String, ClientError> {
    let address = address.to_owned();
    let answer = wait(&apart(move || ask(&address, what, timeout))?, called_off)??;
    Ok(answer.to_string())
}

/// The status of the replica at each address, all asked at once, as a JSON list in their order. Instead of the status of one
/// without an answer there is `{"is_refused"}`: whether nobody listens at its address.
///
/// # Errors
/// If the wait is called off.
pub fn statuses(addresses: &[String], timeout: Duration, called_off: &mut dyn FnMut() -> bool) -> Result<String, ClientError> {
    let ask_for_status = |address: &String| {
        let address = address.clone();
        apart(move || ask(&address, "status", timeout))
    };
    let asked = addresses.iter().map(ask_for_status).collect::<Result<Vec<_>, _>>()?;
    let mut found = Vec::new();
    for working in &asked {
        found.push(match wait(working, called_off)? {
            Ok(status) => status,
            Err(no_line) => json!({"is_refused": no_line.is_refused}),
        });
    }
    Ok(Value::from(found).to_string())
}

/// A replica that is asked for its digest.
struct Suspect {
    id: u64,
    address: Option<String>,
    line: Option<Line>,
    /// Nobody has listened at its address since.
    refused_since: Option<Instant>,
    found: Option<Found>,
    /// Why its state cannot be written, so that there is no digest of it.
    unwritable: Option<String>,
}

/// What a replica answered.
#[derive(Clone, PartialEq)]
struct Found {
    cut: u64,
    /// Of the service's state.
    digest: String,
    /// Of the engine's own state: it is to be equal too.
    bookkeeping: String,
}

impl Suspect {
    fn connect(&mut self, until: Instant) {
        // The address of one that was never there is not known.
        let Some(address) = &self.address else { return self.refuse() };
        match Line::open(address, until) {
            Ok(line) => (self.line, self.refused_since) = (Some(line), None),
            Err(no_line) if no_line.is_refused => self.refuse(),
            Err(_) => self.refused_since = None,
        }
    }

    fn refuse(&mut self) {
        self.refused_since.get_or_insert_with(Instant::now);
    }

    /// Whether there is nobody to wait for.
    fn is_gone(&self) -> bool {
        self.found.is_none() && self.refused_since.is_some_and(|since| since.elapsed() > REFUSED_MAX)
    }

    /// Looks for the digest. Errors pass: the replica may come back before the time is over.
    fn look(&mut self, request: u64, start: bool, deadline: Instant) {
        if self.line.is_none() {
            // One that hangs must not take the time of the others.
            let until = deadline.min(Instant::now() + Duration::from_secs(1));
            self.connect(until);
        }
        let Some(line) = &mut self.line else { return };
        let until = deadline.min(Instant::now() + Duration::from_secs(1));
        match line.ask(&json!({"ask": "digest", "request": request, "start": start}), until) {
            Ok(answer) => {
                if let (Some(cut), Some(digest)) = (answer["cut"].as_u64(), answer["digest"].as_str()) {
                    let bookkeeping = answer["bookkeeping"].to_string();
                    self.found = Some(Found { cut, digest: digest.to_owned(), bookkeeping });
                }
                self.unwritable = answer["unwritable"].as_str().map(str::to_owned);
            }
            Err(_) => self.line = None,
        }
    }
}

/// Asks every replica of the cluster of the one at `address` for a digest of its state at one consistent cut. Gives JSON:
/// `{"cut", "equal", "replicas": [{"id", "digest"}], "missing": [ids]}`.
///
/// # Errors
/// If the replica at `address` does not answer, a state cannot be written, or the wait is called off.
pub fn verify(address: &str, timeout: Duration, called_off: &mut dyn FnMut() -> bool) -> Result<String, ClientError> {
    let address = address.to_owned();
    wait(&apart(move || compare(&address, timeout))?, called_off)?
}

fn compare(address: &str, timeout: Duration) -> Result<String, ClientError> {
    let deadline = Instant::now() + timeout;
    let mut first = Line::open(address, deadline)?;
    let status = first.ask(&json!({"ask": "status"}), deadline)?;
    let own = status["id"].as_u64().unwrap_or(0);
    let peers = status["peers"].as_object().cloned().unwrap_or_else(Map::new);
    let mut suspects: Vec<Suspect> = Vec::new();
    for (id, peer) in &peers {
        let Ok(id) = id.parse() else { continue };
        let address = if id == own { Some(address.to_owned()) } else { peer.as_str().map(str::to_owned) };
        suspects.push(Suspect { id, address, line: None, refused_since: None, found: None, unwritable: None });
    }
    suspects.sort_by_key(|suspect| suspect.id);
    if let Some(suspect) = suspects.iter_mut().find(|suspect| suspect.id == own) {
        suspect.line = Some(first);
    }
    let request = getrandom::u64().map_err(|e| ClientError::System(format!("no random numbers: {e}")))?;
    collect(&mut suspects, own, request, deadline);
    match suspects.iter().find_map(|suspect| suspect.unwritable.clone()) {
        Some(why) => Err(ClientError::Unwritable(why)),
        None => Ok(report(&suspects).to_string()),
    }
}

/// Asks until every replica that is there has answered, or the time is over.
fn collect(suspects: &mut [Suspect], own: u64, request: u64, deadline: Instant) {
    let mut started: Option<Instant> = None;
    loop {
        let nobody = suspects.iter().all(|suspect| suspect.found.is_none());
        let start = nobody && started.is_none_or(|at| at.elapsed() > START_AGAIN);
        if start {
            started = Some(Instant::now());
        }
        for suspect in suspects.iter_mut().filter(|suspect| suspect.found.is_none()) {
            suspect.look(request, start && suspect.id == own, deadline);
        }
        let gone = suspects.iter().filter(|suspect| suspect.is_gone()).count();
        let is_settled = suspects.iter().all(|suspect| suspect.found.is_some() || suspect.is_gone());
        // Without a majority no digest is ordered any more.
        if is_settled
            || suspects.iter().any(|suspect| suspect.unwritable.is_some())
            || 2 * gone >= suspects.len()
            || Instant::now() >= deadline
        {
            return;
        }
        thread::sleep(PAUSE.min(left(deadline)));
    }
}

fn report(suspects: &[Suspect]) -> Value {
    // A command that was in the log twice has two cuts; each replica keeps the first, so they differ only by an error.
    let cut = suspects.iter().find_map(|suspect| suspect.found.as_ref().map(|found| found.cut));
    let found = |suspect: &Suspect| suspect.found.clone().filter(|found| Some(found.cut) == cut);
    let answers: Vec<(u64, Found)> = suspects.iter().filter_map(|s| Some((s.id, found(s)?))).collect();
    let missing: Vec<u64> = suspects.iter().filter(|s| found(s).is_none()).map(|s| s.id).collect();
    let is_equal = !answers.is_empty() && answers.iter().all(|(_, found)| *found == answers[0].1);
    let replicas: Vec<Value> = answers.iter().map(|(id, found)| json!({"id": id, "digest": found.digest})).collect();
    json!({"cut": cut, "equal": is_equal, "replicas": replicas, "missing": missing})
}
