//! Congestion control of the sockets.

use std::os::fd::AsFd;

/// Takes a socket, or a listener and all that it accepts, off BBR where that is the system's choice: BBR sets a timer for
/// each send, which costs more than the small frames and replies themselves.
///
/// A preference only: nothing depends on it, and it fails where the system allows no choice.
pub fn unpace(socket: &impl AsFd) {
    let socket = socket2::SockRef::from(socket);
    if socket.tcp_congestion().is_ok_and(|name| name.starts_with(b"bbr")) && socket.set_tcp_congestion(b"cubic").is_err() {
        let _ = socket.set_tcp_congestion(b"reno");
    }
}
