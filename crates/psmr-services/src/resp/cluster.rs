//! CLUSTER: to clients of Redis Cluster, a replica is a cluster's one shard that has all slots, as it executes every
//! command. The slots are Redis's, by CRC16, and no group's: which group a key is in concerns nobody outside.

use super::write::Writer;
use super::{Request, RespGateway};
use psmr_core::gateway::{NodeInfo, Sink};

/// How many slots Redis Cluster has.
const SLOTS: u16 = 16384;

pub fn info(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let fields = [
        ("cluster_state", "ok".to_owned()),
        ("cluster_slots_assigned", SLOTS.to_string()),
        ("cluster_slots_ok", SLOTS.to_string()),
        ("cluster_slots_pfail", "0".to_owned()),
        ("cluster_slots_fail", "0".to_owned()),
        ("cluster_known_nodes", sink.node().replicas.to_string()),
        ("cluster_size", "1".to_owned()),
        ("cluster_current_epoch", "0".to_owned()),
        ("cluster_my_epoch", "0".to_owned()),
    ];
    let text: String = fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
    gateway.answer(sink, |writer| writer.verbatim(text.as_bytes()));
}

pub fn my_id(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let id = node_id(sink.node());
    gateway.answer(sink, |writer| writer.bulk(id.as_bytes()));
}

pub fn nodes(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let node = sink.node();
    // There is no bus: its port is 0.
    let line = format!("{} :{}@0 myself,master - 0 0 0 connected 0-{}\n", node_id(node), node.port, SLOTS - 1);
    gateway.answer(sink, |writer| writer.verbatim(line.as_bytes()));
}

/// Clients understand an empty host as the one that they are connected to.
pub fn slots(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let (id, port) = (node_id(sink.node()), sink.node().port);
    gateway.answer(sink, |writer| {
        writer.array(1);
        writer.array(3);
        writer.integer(0);
        writer.integer(i64::from(SLOTS - 1));
        writer.array(4);
        writer.bulk(b"");
        writer.integer(i64::from(port));
        writer.bulk(id.as_bytes());
        writer.map(0);
    });
}

pub fn shards(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let (id, port) = (node_id(sink.node()), sink.node().port);
    gateway.answer(sink, |writer| {
        let field = |writer: &mut Writer<'_>, name: &str, value: &str| {
            writer.bulk(name.as_bytes());
            writer.bulk(value.as_bytes());
        };
        let number = |writer: &mut Writer<'_>, name: &str, value: i64| {
            writer.bulk(name.as_bytes());
            writer.integer(value);
        };
        writer.array(1);
        writer.map(2);
        writer.bulk(b"slots");
        writer.array(2);
        writer.integer(0);
        writer.integer(i64::from(SLOTS - 1));
        writer.bulk(b"nodes");
        writer.array(1);
        writer.map(7);
        field(writer, "id", &id);
        number(writer, "port", i64::from(port));
        field(writer, "ip", "");
        field(writer, "endpoint", "");
        field(writer, "role", "master");
        number(writer, "replication-offset", 0);
        field(writer, "health", "online");
    });
}

pub fn key_slot(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let slot = slot_of(request.argument(2));
    gateway.answer(sink, |writer| writer.integer(i64::from(slot)));
}

/// Redis's 40 hexadecimal digits: the cluster's 32 and the replica's number.
fn node_id(node: &NodeInfo) -> String {
    format!("{:0>32}{:08x}", node.cluster, node.replica)
}

/// The slot of a key in Redis Cluster: by its `{tag}` where it has one, else by the whole key.
fn slot_of(key: &[u8]) -> u16 {
    let after = memchr::memchr(b'{', key).map(|open| &key[open + 1..]);
    let tag = after.and_then(|after| memchr::memchr(b'}', after).filter(|close| *close > 0).map(|close| &after[..close]));
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("hello", 866), ("", 0), ("somekey", 11058)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        for (key, slot) in [("{user1000}.following", 3443), ("foo{}{bar}", 8363), ("foo{{bar}}zap", 4015)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }
}
