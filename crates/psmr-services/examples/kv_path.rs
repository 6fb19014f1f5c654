//! Measures the whole way of a command through gateway and service, without engine: RESP parsing, encoding, execution,
//! reply, RESP writing. In pipelines of 16, as a busy connection would send.
//!
//! ```text
//! cargo run --release -p psmr-services --example kv_path -- [keys]
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use common::{request, Connection};
use std::time::Instant;

const PIPELINE: usize = 16;

fn measure(name: &str, connection: &mut Connection, pipelines: &[Vec<u8>]) {
    let mut out = Vec::new();
    let mut times = Vec::new();
    for _ in 0..(2_000_000 / (pipelines.len() * PIPELINE)).max(2) {
        for pipelines in pipelines.chunks(32) {
            let start = Instant::now();
            for pipeline in pipelines {
                out.clear();
                connection.send_into(pipeline, &mut out);
                assert!(!out.is_empty() && out[0] != b'-', "{}", String::from_utf8_lossy(&out));
            }
            times.push(start.elapsed().as_nanos() as f64 / (pipelines.len() * PIPELINE) as f64);
        }
    }
    // The lower quartile: other work on the machine slows some of them.
    times.sort_by(f64::total_cmp);
    println!("{name:28} {:8.0} ns", times[times.len() / 4]);
}

fn main() {
    let keys: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let pipelines = |make: &dyn Fn(&str, usize) -> Vec<u8>| -> Vec<Vec<u8>> {
        // Every key once, in no order.
        let order: Vec<usize> = (0..keys).map(|i| (i * 7919 * 31) % keys).collect();
        let all = |chunk: &[usize]| chunk.iter().flat_map(|i| make(&format!("key:{i:012}"), *i)).collect();
        order.chunks_exact(PIPELINE).map(all).collect()
    };
    let mut connection = Connection::new(1);
    measure("PING", &mut connection, &pipelines(&|_, _| request(&[b"PING"])));
    let sets = pipelines(&|key, i| request(&[b"SET", key.as_bytes(), format!("{}", i + 10_000_000).as_bytes()]));
    measure("SET", &mut connection, &sets);
    measure("GET", &mut connection, &pipelines(&|key, _| request(&[b"GET", key.as_bytes()])));
    measure("INCR", &mut connection, &pipelines(&|key, _| request(&[b"INCR", key.as_bytes()])));
    let ten = |key: &str, i: usize| {
        let words: Vec<String> = (0..10).flat_map(|n| [format!("{}{n}", &key[..key.len() - 1]), format!("{i}")]).collect();
        request(&std::iter::once(&b"MSET"[..]).chain(words.iter().map(|word| word.as_bytes())).collect::<Vec<_>>())
    };
    measure("MSET of 10 keys", &mut connection, &pipelines(&ten)[..keys / PIPELINE / 10]);
}
