//! The wall clock and how long a tick is.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a tick of the ordering part is.
pub const TICK: Duration = Duration::from_millis(50);

/// Milliseconds since 1970 at the start of the process, plus what has passed since: it never jumps.
pub fn steady_ms() -> u64 {
    static START: OnceLock<(u64, Instant)> = OnceLock::new();
    let (wall, start) = START.get_or_init(|| (wall_ms(), Instant::now()));
    wall + start.elapsed().as_millis() as u64
}

/// Milliseconds since 1970, as the system has it: it may jump.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
