//! A replica in the real world: threads, sockets, files and clocks around `psmr-core`. `node` shows how they fit together.

pub mod checkpoint_file;
pub mod checkpoints;
pub mod client;
pub mod client_thread;
pub mod clock;
mod congestion;
pub mod connection;
pub mod consensus_thread;
pub mod data_directory;
pub mod disk;
pub mod frame;
pub mod load;
pub mod log_storage;
pub mod log_thread;
pub mod mailbox;
pub mod native;
pub mod native_session;
pub mod node;
pub mod peer_frame;
mod reply_room;
pub mod resolver;
pub mod router;
pub mod timings;
pub mod transport;
pub mod usage;
pub mod worker_thread;
