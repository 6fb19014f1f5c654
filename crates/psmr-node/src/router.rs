//! Where what the groups say goes: replies to the client thread that has the session, parts of checkpoints and digests to the
//! consensus thread.

use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use psmr_core::command::SessionId;
use psmr_core::execute::{Event, Outbox};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What client threads are told.
pub enum ClientInput {
    /// Something for a session.
    Event(Event),
    /// Another replica leads a log.
    LeaderChange(psmr_core::command::LogId),
    /// The answer to a question of a connection about the replica.
    Told {
        /// The connection, as it was in the question.
        connection: u64,
        /// JSON.
        text: String,
    },
}

/// The sessions that this replica answers, and the consensus thread.
pub struct Router {
    sessions: RwLock<HashMap<SessionId, Arc<Mailbox<ClientInput>>>>,
    consensus: Arc<Mailbox<Input>>,
}

impl Router {
    /// No sessions yet.
    pub fn new(consensus: Arc<Mailbox<Input>>) -> Router {
        Router { sessions: RwLock::new(HashMap::new()), consensus }
    }

    /// From now on `session` is answered through `mailbox`.
    pub fn add(&self, session: SessionId, mailbox: Arc<Mailbox<ClientInput>>) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(session, mailbox);
    }

    /// The session has left.
    pub fn remove(&self, session: SessionId) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }

    /// The replica cannot go on.
    pub fn fail(&self, text: String) {
        self.consensus.post(Input::Failed(text));
    }

    /// A group needs a time mark.
    pub fn want_turn(&self) {
        self.consensus.post(Input::Turn);
    }
}

impl Outbox for Router {
    fn hand_on(&self, events: &mut Vec<Event>) {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        // Neighbours mostly go to the same place: its lock is then taken once.
        let mut events = events.drain(..).peekable();
        while let Some(event) = events.next() {
            let Some(session) = event.session() else {
                self.hand_to_consensus(event);
                continue;
            };
            let Some(mailbox) = sessions.get(&session) else { continue };
            let more = std::iter::from_fn(|| events.next_if(|next| next.session() == Some(session)));
            mailbox.post_all(std::iter::once(event).chain(more).map(ClientInput::Event));
        }
    }
}

impl Router {
    fn hand_to_consensus(&self, event: Event) {
        match event {
            Event::Snapshot { cut, group, bytes } => self.consensus.post(Input::Snapshot { cut, group, bytes }),
            Event::NoSnapshot { cut, digest: None, why } => self.consensus.post(Input::NoSnapshot { cut, why }),
            Event::NoSnapshot { cut, digest: Some(request), why } => self.consensus.post(Input::NoDigest { request, cut, why }),
            Event::Digest { request, cut, group, state, bookkeeping } => {
                self.consensus.post(Input::Digest { request, cut, group, digest: [state, bookkeeping] });
            }
            _ => {}
        }
    }
}
