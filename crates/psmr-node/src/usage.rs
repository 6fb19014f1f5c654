//! What this process has used, as the system counts it.

use psmr_core::gateway::Usage;
use rustix::param::{clock_ticks_per_second, page_size};

/// Places in `/proc/self/stat`, counted from the field behind the program's name, which may contain anything.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const RESIDENT_PAGES: usize = 21;

/// What has been used so far; `None` where the system does not tell.
pub fn used(connections: u64) -> Option<Usage> {
    read(&std::fs::read_to_string("/proc/self/stat").ok()?, connections)
}

fn read(stat: &str, connections: u64) -> Option<Usage> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ms = |ticks: u64| ticks * 1000 / clock_ticks_per_second();
    Some(Usage {
        memory_bytes: field(RESIDENT_PAGES)? * page_size() as u64,
        cpu_user_ms: ms(field(USER_TICKS)?),
        cpu_system_ms: ms(field(SYSTEM_TICKS)?),
        connections,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_line_is_understood_whatever_the_program_is_called() {
        let ticks = clock_ticks_per_second();
        let line = format!("7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 {} {} 0 0 20 0 9 0 5 123456 42 0", 3 * ticks, 2 * ticks);
        let expected = Usage { memory_bytes: 42 * page_size() as u64, cpu_user_ms: 3000, cpu_system_ms: 2000, connections: 8 };
        assert_eq!(read(&line, 8), Some(expected));
        assert_eq!(read("7 (psmr) S 1", 8), None);
        assert_eq!(read("", 8), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(used(1).is_some_and(|usage| usage.memory_bytes > 100_000));
    }
}
