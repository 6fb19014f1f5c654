//! Where what the groups say goes: replies to the client thread that has the session, parts of checkpoints and digests to the
//! consensus thread.

use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use crate::reply_room::ReplyRoom;
use psmr_core::command::SessionId;
use psmr_core::execute::{Event, Outbox};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

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
    /// Of the connections that share a session, and that session.
    room: OnceLock<(SessionId, Arc<ReplyRoom>)>,
}

impl Router {
    /// No sessions yet.
    pub fn new(consensus: Arc<Mailbox<Input>>) -> Router {
        Router { sessions: RwLock::new(HashMap::new()), consensus, room: OnceLock::new() }
    }

    /// From now on `session` is answered through `mailbox`.
    pub fn add(&self, session: SessionId, mailbox: Arc<Mailbox<ClientInput>>) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(session, mailbox);
    }

    /// Large replies to reads of `session` need room.
    pub fn limit(&self, session: SessionId, room: Arc<ReplyRoom>) {
        // There is one such session.
        let _ = self.room.set((session, room));
    }

    fn room_of(&self, session: SessionId) -> Option<&ReplyRoom> {
        self.room.get().filter(|(limited, _)| *limited == session).map(|(_, room)| &**room)
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

    fn has_room(&self, session: SessionId, token: u64) -> bool {
        self.room_of(session).is_none_or(|room| room.has(token))
    }

    fn may_be_held(&self, session: SessionId, token: u64) -> bool {
        self.room_of(session).is_some_and(|room| room.may_be_held(token))
    }

    fn claim_room(&self, session: SessionId, token: u64, bytes: usize, is_last_moment: bool) -> bool {
        self.room_of(session).is_none_or(|room| room.claim(token, bytes, is_last_moment))
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
