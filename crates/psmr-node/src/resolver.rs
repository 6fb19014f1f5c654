//! Peers by name. A name without an address must not keep a replica from starting: it is looked up until it has one, on a
//! thread of its own, as the system's look-up blocks.

use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use psmr_core::command::ReplicaId;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Between two look-ups; twice as long after each that failed.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The first address of `host:port`.
///
/// # Errors
/// What the system says.
pub fn resolve(text: &str) -> io::Result<SocketAddr> {
    text.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("it has no address"))
}

/// Looks the names up until each has an address, which goes to the consensus thread, or the replica stops.
pub(crate) fn start(
    mut names: Vec<(ReplicaId, String)>,
    mailbox: Arc<Mailbox<Input>>,
    stopping: Arc<AtomicBool>,
) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let run = move || {
        let mut pause = PAUSE_MIN;
        let mut warned = BTreeSet::new();
        while !names.is_empty() && !stopping.load(Ordering::SeqCst) {
            names.retain(|(replica, name)| match resolve(name) {
                Ok(address) => {
                    mailbox.post(Input::PeerAddress(*replica, address));
                    false
                }
                Err(error) => {
                    if warned.insert(*replica) {
                        eprintln!(
                            "psmr: warning: the peer address of replica {replica} is {name:?}: {error}; it is looked up again"
                        );
                    }
                    true
                }
            });
            if !names.is_empty() {
                thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    };
    thread::Builder::new().name("names".into()).spawn(run).map(drop)
}
