//! The gateways of Python services. A client in Python has made γ and payload of a call already: what is left of a protocol is
//! to carry them (`RawGateway`). At a replica, whoever does not speak the native protocol is told so (`NativeOnly`).
//!
//! ```text
//! request = length u32, is a read u8, γ u64, payload
//! reply   = the service's, as it is
//! ```

use psmr_core::command::GroupSet;
use psmr_core::gateway::{ClientInfo, Failure, Gateway, Sink};

/// A call on its way.
#[derive(Debug, Default)]
pub struct Request {
    /// The groups that it is multicast to.
    pub gamma: GroupSet,
    /// It changes nothing.
    pub is_read: bool,
    /// See `schema`.
    pub payload: Vec<u8>,
}

const HEAD_BYTES: usize = 13;

impl Request {
    /// Appends the request to others.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&((self.payload.len() + HEAD_BYTES) as u32).to_le_bytes());
        out.push(u8::from(self.is_read));
        out.extend_from_slice(&self.gamma.0.to_le_bytes());
        out.extend_from_slice(&self.payload);
    }
}

/// See the module.
pub struct RawGateway;

impl Gateway for RawGateway {
    fn on_input(&mut self, input: &[u8], sink: &mut dyn Sink) -> Result<usize, Vec<u8>> {
        let mut taken = 0;
        while let Some(length) = input[taken..].first_chunk().map(|length| u32::from_le_bytes(*length) as usize) {
            let Some(request) = input[taken..].get(4..length).filter(|_| !sink.is_full()) else { break };
            let Some((gamma, payload)) = request[1..].split_first_chunk() else { return Err(b"a request is too short".into()) };
            let gamma = GroupSet(u64::from_le_bytes(*gamma));
            match (request[0] == 1, gamma.lowest()) {
                (true, Some(group)) if gamma == GroupSet::one(group) => sink.read(group, 0, payload),
                (is_read, _) => sink.ordered(gamma, is_read, 0, payload),
            }
            taken += length;
        }
        Ok(taken)
    }

    fn on_reply(&mut self, _tag: u32, reply: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(reply);
    }

    fn on_failure(&mut self, _tag: u32, _failure: Failure, _out: &mut Vec<u8>) {}

    fn info(&self) -> ClientInfo {
        ClientInfo::default()
    }

    fn wants_close(&self) -> bool {
        false
    }
}

/// See the module.
pub struct NativeOnly {
    /// The service's name.
    pub service: String,
}

impl Gateway for NativeOnly {
    fn on_input(&mut self, _input: &[u8], _sink: &mut dyn Sink) -> Result<usize, Vec<u8>> {
        let text =
            format!("-ERR this port serves {0}, a psmr service: use psmr.connect(address, {0}) or psmr call\r\n", self.service);
        Err(text.into_bytes())
    }

    fn on_reply(&mut self, _tag: u32, _reply: &[u8], _out: &mut Vec<u8>) {}

    fn on_failure(&mut self, _tag: u32, _failure: Failure, _out: &mut Vec<u8>) {}

    fn info(&self) -> ClientInfo {
        ClientInfo { protocol: 2, ..ClientInfo::default() }
    }

    fn wants_close(&self) -> bool {
        true
    }
}
