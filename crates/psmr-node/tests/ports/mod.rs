//! Ports that stay free until a test listens there: below those that the system hands out, also to connections.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// As many addresses on this machine, which no other test of this process is given.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test runs beside each other begin at different places.
    let start = (std::process::id() % 40) as u16 * 300;
    let port = || FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let addresses = std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], port())));
    addresses.take(usize::from(COUNT)).filter(|address| TcpListener::bind(address).is_ok()).take(count).collect()
}
