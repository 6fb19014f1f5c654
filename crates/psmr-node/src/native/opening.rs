//! How a native connection is opened: who the client is, what it has to know of the cluster, and why it is sent away.

use bytes::Bytes;
use psmr_core::command::{ReplicaId, SessionId, GROUPS_MAX};
use psmr_core::wire::{Malformed, Reader, Write as _};

/// The most addresses in a list.
const ADDRESSES_MAX: u8 = 64;

/// The longest name or address.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Chosen at random by the client, for all its connections.
    pub session: SessionId,
    /// The service that it wants.
    pub service: String,
}

/// What a replica says to a client that it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// The replica, which answers the session from now on.
    pub replica: ReplicaId,
    /// How many replicas the cluster has.
    pub replicas: u8,
    /// k, the number of groups.
    pub groups: u16,
    /// S, the number of streams.
    pub streams: u16,
    /// The version of the function from keys to slots.
    pub hash_version: u16,
    /// The version of C-G.
    pub routing_version: u32,
    /// The cluster's time, in milliseconds since 1970: expiries count in it, not in the client's clock.
    pub time_ms: u64,
    /// Whether an acknowledged command survives power loss (`fsync`).
    pub is_durable: bool,
    /// The replica's process.
    pub pid: u32,
    /// When that process started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The service.
    pub service: String,
    /// Where clients connect to each replica, as far as this one knows.
    pub addresses: Vec<(ReplicaId, String)>,
}

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalCode {
    /// It broke the protocol.
    Protocol = 1,
    /// It speaks another version.
    Version = 2,
    /// It wants another service.
    Service = 3,
    /// Another connection has taken the session over, or the session is not the client's.
    Session = 4,
}

/// A replica's last words to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the client.
    pub code: RefusalCode,
    /// For people.
    pub text: String,
}

fn text(reader: &mut Reader, what: &'static str) -> Result<String, Malformed> {
    let bytes = reader.blob(what)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() <= TEXT_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(reader.malformed(what)),
    }
}

pub(super) fn end(reader: &Reader) -> Result<(), Malformed> {
    if reader.is_at_end() {
        Ok(())
    } else {
        Err(reader.malformed("end of the frame"))
    }
}

/// Writes where clients connect.
pub(super) fn write_addresses(addresses: &[(ReplicaId, String)], out: &mut Vec<u8>) {
    let listed = &addresses[..addresses.len().min(usize::from(ADDRESSES_MAX))];
    out.u8(listed.len() as u8);
    for (replica, address) in listed {
        out.u8(*replica);
        out.blob(address.as_bytes());
    }
}

pub(super) fn read_addresses(reader: &mut Reader) -> Result<Vec<(ReplicaId, String)>, Malformed> {
    let count = reader.u8("number of addresses")?;
    if count > ADDRESSES_MAX {
        return Err(reader.malformed("number of addresses"));
    }
    (0..count).map(|_| Ok((reader.u8("replica")?, text(reader, "address")?))).collect()
}

impl Hello {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.u64(self.session.0);
        out.blob(self.service.as_bytes());
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn read(body: Bytes) -> Result<Hello, Malformed> {
        let mut reader = Reader::new(body);
        let hello = Hello { session: SessionId(reader.u64("session")?), service: text(&mut reader, "service")? };
        end(&reader)?;
        Ok(hello)
    }
}

impl Welcome {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.cluster);
        out.u8(self.replica);
        out.u8(self.replicas);
        out.u16(self.groups);
        out.u16(self.streams);
        out.u16(self.hash_version);
        out.u32(self.routing_version);
        out.u64(self.time_ms);
        out.u8(u8::from(self.is_durable));
        out.u32(self.pid);
        out.u64(self.started_ms);
        out.blob(self.service.as_bytes());
        write_addresses(&self.addresses, out);
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the bytes are none, or its numbers make no sense.
    pub fn read(body: Bytes) -> Result<Welcome, Malformed> {
        let mut reader = Reader::new(body.clone());
        let mut cluster = [0; 16];
        let range = reader.skip(16, "cluster id")?;
        cluster.copy_from_slice(&body[range]);
        let welcome = Welcome {
            cluster,
            replica: reader.u8("replica")?,
            replicas: reader.u8("number of replicas")?,
            groups: reader.u16("number of groups")?,
            streams: reader.u16("number of streams")?,
            hash_version: reader.u16("hash version")?,
            routing_version: reader.u32("routing version")?,
            time_ms: reader.u64("time")?,
            is_durable: reader.u8("durability")? != 0,
            pid: reader.u32("process")?,
            started_ms: reader.u64("start")?,
            service: text(&mut reader, "service")?,
            addresses: read_addresses(&mut reader)?,
        };
        end(&reader)?;
        let (groups, streams) = (usize::from(welcome.groups), welcome.streams);
        if !(1..=GROUPS_MAX).contains(&groups) || !(1..=welcome.groups).contains(&streams) {
            return Err(reader.malformed("number of groups and streams"));
        }
        Ok(welcome)
    }
}

impl Refusal {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.u8(self.code as u8);
        out.extend_from_slice(self.text.as_bytes());
    }

    /// Reads it. Anything is a refusal.
    pub fn read(body: &[u8]) -> Refusal {
        let code = match body.first() {
            Some(2) => RefusalCode::Version,
            Some(3) => RefusalCode::Service,
            Some(4) => RefusalCode::Session,
            _ => RefusalCode::Protocol,
        };
        let text = body.get(1..).unwrap_or_default();
        Refusal { code, text: String::from_utf8_lossy(&text[..text.len().min(TEXT_BYTES_MAX)]).into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome() -> Welcome {
        Welcome {
            cluster: *b"0123456789abcdef",
            replica: 2,
            replicas: 3,
            groups: 16,
            streams: 3,
            hash_version: 1,
            routing_version: 1,
            time_ms: 1_700_000_000_000,
            is_durable: true,
            pid: 77,
            started_ms: 5,
            service: "kv".into(),
            addresses: vec![(1, "127.0.0.1:1".into()), (3, "127.0.0.1:3".into())],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (mut out, hello) = (Vec::new(), Hello { session: SessionId(9), service: "kv".into() });
        hello.write(&mut out);
        assert_eq!(Hello::read(out.into()), Ok(hello));
        let mut out = Vec::new();
        welcome().write(&mut out);
        assert_eq!(Welcome::read(out.clone().into()), Ok(welcome()));
        for cut in 0..out.len() {
            assert!(Welcome::read(Bytes::copy_from_slice(&out[..cut])).is_err(), "{cut}");
        }
        let (mut out, refusal) = (Vec::new(), Refusal { code: RefusalCode::Service, text: "no".into() });
        refusal.write(&mut out);
        assert_eq!(Refusal::read(&out), refusal);
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        for (groups, streams) in [(0, 0), (65, 1), (4, 5), (4, 0)] {
            let mut out = Vec::new();
            Welcome { groups, streams, ..welcome() }.write(&mut out);
            assert!(Welcome::read(out.into()).is_err(), "{groups} {streams}");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Hello::read(bytes.clone().into());
            let _ = Welcome::read(bytes.clone().into());
            let _ = Refusal::read(&bytes);
        }
    }
}
