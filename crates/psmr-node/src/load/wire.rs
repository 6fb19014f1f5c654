//! The border between the load and the language of a server: how a command is written, how a reply is found in the bytes
//! that came. An implementation keeps no state between calls; replies come in the order of the commands.

use super::item::Operation;

/// A reply, in the terms of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// The write is acknowledged.
    Stored,
    /// The read found nothing.
    Missing,
    /// The read found this.
    Value(&'a [u8]),
    /// The server refused, in its own words.
    Refused(&'a [u8]),
    /// A well-formed reply that no command of the load asks for.
    Foreign(&'a [u8]),
}

/// What the bytes at hand begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    /// A whole reply and its length.
    Whole(Reply<'a>, usize),
    /// The beginning of a reply.
    Partial,
    /// No reply; why. Nothing after it can be understood.
    Broken(String),
}

/// A language.
pub(super) trait Wire: Send {
    /// Appends the command's bytes.
    fn encode(&self, operation: &Operation, output: &mut Vec<u8>);

    /// Appends what asks for the number of replicas that have all commands so far, once they are as many or time is over.
    fn encode_wait(&self, replicas: u32, output: &mut Vec<u8>);

    /// The number in a reply to `encode_wait`.
    fn replicas(&self, reply: Reply<'_>) -> Option<u64>;

    /// Looks for one reply at the start of the input.
    fn decode<'a>(&self, input: &'a [u8]) -> Decoded<'a>;
}
