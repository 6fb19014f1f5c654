//! The way to a replica in the same process: no sockets, no copies.

use super::{random_session, ClientError, Port, PortEvent};
use crate::clock::wall_ms;
use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use crate::native::Welcome;
use crate::native_session::log_time_ms;
use crate::node::Inside;
use crate::router::ClientInput;
use bytes::Bytes;
use mio::{Events, Poll, Token};
use psmr_core::command::{GroupId, LogId, SessionId};
use psmr_core::execute::reads::ReadBatch;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

const MAILBOX: Token = Token(0);

/// See the module.
pub struct Direct {
    inside: Inside,
    session: SessionId,
    is_open: bool,
    poll: Poll,
    polled: Events,
    mailbox: Arc<Mailbox<ClientInput>>,
    received: Vec<ClientInput>,
    /// In order.
    posts: Vec<Input>,
}

impl Direct {
    /// A way into the replica.
    ///
    /// # Errors
    /// If the system has no more descriptors.
    pub(crate) fn new(inside: Inside) -> Result<Direct, ClientError> {
        let session = random_session()?;
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(Arc::new(mio::Waker::new(poll.registry(), MAILBOX)?)));
        let polled = Events::with_capacity(8);
        inside.router.add(session, mailbox.clone());
        let _ = mailbox.may_sleep();
        Ok(Direct { inside, session, is_open: false, poll, polled, mailbox, received: Vec::new(), posts: Vec::new() })
    }
}

impl Port for Direct {
    fn session(&self) -> SessionId {
        self.session
    }

    fn send_batch(&mut self, log: LogId, batch: Bytes) {
        self.posts.push(Input::Batch(log, batch));
    }

    fn send_reads(&mut self, group: GroupId, mut batch: ReadBatch) {
        let engine = &self.inside.engine;
        let stream = engine.topology.stream_of(group);
        batch.wall_ms = wall_ms();
        batch.round = engine.rounds[stream.index()].ticket();
        engine.push_reads(group, batch);
        self.posts.push(Input::Rounds(1 << stream.0));
    }

    fn exchange(&mut self, events: &mut Vec<PortEvent>, wait: Duration) -> Result<(), ClientError> {
        if !self.is_open {
            self.is_open = true;
            let welcome = Welcome { time_ms: log_time_ms(&self.inside.engine), ..self.inside.welcome.clone() };
            events.push(PortEvent::Connected(Box::new(welcome)));
            return Ok(());
        }
        self.inside.consensus.post_all(self.posts.drain(..));
        if self.inside.is_over.load(Ordering::SeqCst) {
            return Err(ClientError::Ended);
        }
        match self.poll.poll(&mut self.polled, Some(wait)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e.into()),
            _ => {}
        }
        // Between two exchanges others may poll the descriptor: it is always armed then.
        self.mailbox.take(&mut self.received);
        while !self.mailbox.may_sleep() {
            self.mailbox.take(&mut self.received);
        }
        events.extend(self.received.drain(..).filter_map(|input| match input {
            ClientInput::Event(event) => Some(PortEvent::Event(event)),
            ClientInput::LeaderChange(log) => Some(PortEvent::LeaderChange(log)),
            ClientInput::Told { .. } => None,
        }));
        Ok(())
    }

    fn suspect(&mut self) {}

    fn descriptor(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.inside.router.remove(self.session);
    }
}
