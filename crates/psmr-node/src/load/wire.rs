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
pub(super) enum Decoded<T> {
    /// Something whole and its length.
    Whole(T, usize),
    /// The beginning of it.
    Partial,
    /// No reply; why. Nothing after it can be understood.
    Broken(String),
}

/// A language.
pub(super) trait Wire: Send {
    /// Appends a request's bytes: one command, or several of one kind together.
    fn encode(&self, request: &[Operation], output: &mut Vec<u8>);

    /// Appends what asks for the number of replicas that have all commands so far, once they are as many or time is over.
    fn encode_wait(&self, replicas: u32, output: &mut Vec<u8>);

    /// The number in a reply to `encode_wait`.
    fn replicas(&self, reply: Reply<'_>) -> Option<u64>;

    /// Looks for the reply to a request at the start of the input; if it is whole, each of its commands has had its own.
    fn decode<'a>(&self, input: &'a [u8], request: &[Operation], each: &mut dyn FnMut(Reply<'a>)) -> Decoded<()>;

    /// Looks for one reply at the start of the input.
    fn decode_one<'a>(&self, input: &'a [u8]) -> Decoded<Reply<'a>>;
}
