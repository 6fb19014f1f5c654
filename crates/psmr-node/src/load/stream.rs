//! What a connection of a load is made of: a socket, or a native client that looks like one. Bytes in, bytes out, nothing
//! blocks but the making of a native client.

use super::options::NativeService;
use crate::client::{Client, ClientError, ClientOptions};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a native client may take to connect.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub(super) enum Stream {
    Tcp(TcpStream),
    Native(Box<NativeStream>),
}

impl Stream {
    /// Begins to connect.
    pub fn tcp(target: SocketAddr, registry: &Registry, token: Token) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Stream::Tcp(stream))
    }

    /// Connects a native client.
    pub fn native(
        address: &str,
        service: &NativeService,
        timeout: Duration,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Stream> {
        let options = ClientOptions { timeout: CONNECT_TIME_MAX, ..ClientOptions::default() };
        let client = Client::connect(&[address.to_owned()], &service.name, (service.gateway)(1), options, &mut || false);
        let client = client.map_err(failed)?;
        registry.register(&mut SourceFd(&client.descriptor()), token, Interest::READABLE)?;
        Ok(Stream::Native(Box::new(NativeStream { client, timeout, unissued: Vec::new(), replies: Vec::new(), taken: 0 })))
    }

    /// Whether the server has accepted; an error if it never will.
    pub fn is_connected(&self) -> io::Result<bool> {
        let Stream::Tcp(stream) = self else { return Ok(true) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            // A system may connect a socket to itself when nobody listens on a port of the range it takes local ports from.
            Ok(peer) if stream.local_addr()? == peer => Err(io::ErrorKind::ConnectionRefused.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Native(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Native(stream) => {
                stream.unissued.extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(_) => Ok(()),
            Stream::Native(stream) => stream.pump(),
        }
    }
}

/// A native client as a stream.
pub(super) struct NativeStream {
    client: Client,
    timeout: Duration,
    /// Requests for which the client had no room yet: at most a batch.
    unissued: Vec<u8>,
    /// Replies, and how many of their bytes have been read.
    replies: Vec<u8>,
    taken: usize,
}

impl NativeStream {
    /// Issues what there is room for, sends, and gathers the replies that have come.
    fn pump(&mut self) -> io::Result<()> {
        loop {
            if !self.unissued.is_empty() {
                let count = self.client.issue_some(&self.unissued, Instant::now() + self.timeout).map_err(failed)?;
                self.unissued.drain(..count);
            }
            self.client.turn(Duration::ZERO).map_err(failed)?;
            let mut has_replies = false;
            while let Some(reply) = self.client.take() {
                self.replies.extend_from_slice(&reply.map_err(failed)?);
                has_replies = true;
            }
            if self.unissued.is_empty() || !has_replies {
                return Ok(());
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.replies.len() {
            self.replies.clear();
            self.taken = 0;
            self.pump()?;
        }
        if self.replies.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = buffer.len().min(self.replies.len() - self.taken);
        buffer[..count].copy_from_slice(&self.replies[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

fn failed(error: ClientError) -> io::Error {
    io::Error::other(error)
}
