//! The way from a client to the replica that answers it.

use super::ClientError;
use crate::native::Welcome;
use bytes::Bytes;
use psmr_core::command::{GroupId, LogId, SessionId};
use psmr_core::execute::reads::ReadBatch;
use psmr_core::execute::Event;
use std::os::fd::RawFd;
use std::time::Duration;

/// What comes back.
#[derive(Debug)]
pub enum PortEvent {
    /// A replica answers from now on; whatever was sent before may be lost.
    Connected(Box<Welcome>),
    /// Nobody answers until `Connected`.
    Lost,
    /// What became of commands and reads.
    Event(Event),
    /// Another replica leads a log.
    LeaderChange(LogId),
    /// Whether the replica that answers has more memory than it may.
    Memory { is_out: bool },
}

/// See the module. What is sent while nobody answers is lost, without harm: all of it is sent again after `Connected`.
pub trait Port: Send {
    /// The session that is answered this way.
    fn session(&self) -> SessionId;

    /// Puts a batch in line.
    fn send_batch(&mut self, log: LogId, batch: Bytes);

    /// Puts reads in line. They come to their group before any batch that is put in line later.
    fn send_reads(&mut self, group: GroupId, batch: ReadBatch);

    /// Sends what is in line, and waits until something comes back, at most for `wait`.
    ///
    /// # Errors
    /// If nothing will ever come back.
    fn exchange(&mut self, events: &mut Vec<PortEvent>, wait: Duration) -> Result<(), ClientError>;

    /// Nothing has come back for too long: goes to another replica, if there is one.
    fn suspect(&mut self);

    /// Readable when `exchange` may have something to give: for event loops that wait for several clients.
    fn descriptor(&self) -> RawFd;

    /// Why nobody answers, in words, once attempts to connect to every replica have failed.
    fn trouble(&self) -> Option<String>;
}
