//! The log thread: writes and syncs what the ordering part hands it, all logs of a turn together, and all turns that have
//! come meanwhile with one sync. A slow disk thus delays acknowledgements, never heartbeats.

use crate::consensus_thread::Input;
use crate::mailbox::Mailbox;
use crate::timings::Timings;
use psmr_core::log::{LogStorage, LogWrite};
use std::io;
use std::sync::mpsc::{Receiver, RecvError, SyncSender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Turns that may wait for the disk; the consensus thread waits beyond that.
const TURNS_MAX: usize = 1024;

/// Starts the thread. It ends when the sender is dropped, or with the first failure, which it reports.
///
/// # Errors
/// If the system has no more threads.
pub fn start(
    mut storage: Box<dyn LogStorage>,
    mailbox: Arc<Mailbox<Input>>,
    timings: Arc<Timings>,
) -> io::Result<(SyncSender<LogWrite>, JoinHandle<()>)> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(TURNS_MAX);
    let run = move || {
        if let Err(text) = write_all(&mut *storage, &receiver, &mailbox, &timings) {
            mailbox.post(Input::Failed(text));
        }
    };
    let thread = thread::Builder::new().name("log".into()).spawn(run)?;
    Ok((sender, thread))
}

fn write_all(
    storage: &mut dyn LogStorage,
    receiver: &Receiver<LogWrite>,
    mailbox: &Mailbox<Input>,
    timings: &Timings,
) -> Result<(), String> {
    while let Ok(mut write) = next_write(receiver) {
        while let Ok(next) = receiver.try_recv() {
            write.turn = next.turn;
            write.records.extend(next.records);
            write.must_sync |= next.must_sync;
        }
        storage.write(&write.records)?;
        if write.must_sync {
            let start = Instant::now();
            storage.sync()?;
            timings.syncs.record(start.elapsed().as_micros() as u64);
        }
        mailbox.post(Input::Persisted(write.turn));
    }
    Ok(())
}

/// The next write, once there is one.
fn next_write(receiver: &Receiver<LogWrite>) -> Result<LogWrite, RecvError> {
    // Lets who is ready run first: under load they bring the next write, and nobody has to be woken.
    thread::yield_now();
    receiver.try_recv().or_else(|_| receiver.recv())
}
