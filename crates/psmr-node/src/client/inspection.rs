//! Questions about replicas: their status, and whether their states are equal.

use super::remote::resolve;
use super::ClientError;
use crate::native::{self, FromClient, FromReplica, Kind, GREETING, MAGIC_BYTES};
use bytes::{Bytes, BytesMut};
use psmr_core::command::SessionId;
use serde_json::{json, Map, Value};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a digest may take to come before it is asked for again: the command may have been lost.
const START_AGAIN: Duration = Duration::from_secs(2);

/// Between two looks at the replicas.
const PAUSE: Duration = Duration::from_millis(20);

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

impl Line {
    fn open(address: &str, deadline: Instant) -> Result<Line, ClientError> {
        let mut trouble = String::new();
        for target in resolve(address)? {
            match TcpStream::connect_timeout(&target, left(deadline)) {
                Ok(mut stream) => {
                    let _ = stream.set_nodelay(true);
                    stream.set_write_timeout(Some(left(deadline)))?;
                    stream.write_all(GREETING)?;
                    return Ok(Line { address: address.into(), stream, input: BytesMut::new(), is_greeted: false });
                }
                Err(error) => trouble = format!("{address}: {error}"),
            }
        }
        Err(ClientError::Unreachable(trouble))
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
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(self.lost("no answer in time")),
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

/// The status of the replica at `address`, as JSON.
///
/// # Errors
/// If it does not answer in time.
pub fn status(address: &str, timeout: Duration) -> Result<String, ClientError> {
    let deadline = Instant::now() + timeout;
    Line::open(address, deadline)?.ask(&json!({"ask": "status"}), deadline).map(|status| status.to_string())
}

/// A replica that is asked for its digest.
struct Suspect {
    id: u64,
    address: Option<String>,
    line: Option<Line>,
    found: Option<Found>,
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
    /// Looks for the digest. Errors pass: the replica may come back before the time is over.
    fn look(&mut self, request: u64, start: bool, deadline: Instant) {
        if self.line.is_none() {
            // One that hangs must not take the time of the others.
            let until = deadline.min(Instant::now() + Duration::from_secs(1));
            self.line = self.address.as_ref().and_then(|address| Line::open(address, until).ok());
        }
        let Some(line) = &mut self.line else { return };
        let until = deadline.min(Instant::now() + Duration::from_secs(1));
        match line.ask(&json!({"ask": "digest", "request": request, "start": start}), until) {
            Ok(answer) => {
                if let (Some(cut), Some(digest)) = (answer["cut"].as_u64(), answer["digest"].as_str()) {
                    let bookkeeping = answer["bookkeeping"].to_string();
                    self.found = Some(Found { cut, digest: digest.to_owned(), bookkeeping });
                }
            }
            Err(_) => self.line = None,
        }
    }
}

/// Asks every replica of the cluster of the one at `address` for a digest of its state at one consistent cut. Gives JSON:
/// `{"cut", "equal", "replicas": [{"id", "digest"}], "missing": [ids]}`.
///
/// # Errors
/// If the replica at `address` does not answer.
pub fn verify(address: &str, timeout: Duration) -> Result<String, ClientError> {
    let deadline = Instant::now() + timeout;
    let mut first = Line::open(address, deadline)?;
    let status = first.ask(&json!({"ask": "status"}), deadline)?;
    let own = status["id"].as_u64().unwrap_or(0);
    let peers = status["peers"].as_object().cloned().unwrap_or_else(Map::new);
    let mut suspects: Vec<Suspect> = Vec::new();
    for (id, peer) in &peers {
        let Ok(id) = id.parse() else { continue };
        let address = if id == own { Some(address.to_owned()) } else { peer.as_str().map(str::to_owned) };
        suspects.push(Suspect { id, address, line: None, found: None });
    }
    suspects.sort_by_key(|suspect| suspect.id);
    if let Some(suspect) = suspects.iter_mut().find(|suspect| suspect.id == own) {
        suspect.line = Some(first);
    }
    let request = getrandom::u64().map_err(|e| ClientError::System(format!("no random numbers: {e}")))?;
    collect(&mut suspects, own, request, deadline);
    Ok(report(&suspects).to_string())
}

/// Asks until every replica has answered for the same cut, or the time is over.
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
        if suspects.iter().all(|suspect| suspect.found.is_some()) || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(PAUSE.min(left(deadline)));
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
