//! CLUSTER: to clients of Redis Cluster, the replica that they ask is the master of the one shard that has all slots, and the
//! others are its replicas: each executes every command. The slots are Redis's, by CRC16, and no group's: which group a key is in concerns nobody outside.

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
    let id = node_id(sink.node(), sink.node().replica);
    gateway.answer(sink, |writer| writer.bulk(id.as_bytes()));
}

pub fn nodes(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let (own, all) = (node_id(sink.node(), sink.node().replica), members(sink));
    let line = |member: &Member| {
        // There is no bus: its port is 0.
        let place = format!("{} {}:{}@0", member.id, member.host, member.port);
        match member.id == own {
            true => format!("{place} myself,master - 0 0 0 connected 0-{}\n", SLOTS - 1),
            false => format!("{place} slave {own} 0 0 0 connected\n"),
        }
    };
    let text: String = all.iter().map(line).collect();
    gateway.answer(sink, |writer| writer.verbatim(text.as_bytes()));
}

pub fn slots(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let all = members(sink);
    gateway.answer(sink, |writer| {
        writer.array(1);
        writer.array(2 + all.len());
        writer.integer(0);
        writer.integer(i64::from(SLOTS - 1));
        for member in &all {
            writer.array(4);
            writer.bulk(member.host.as_bytes());
            writer.integer(i64::from(member.port));
            writer.bulk(member.id.as_bytes());
            writer.map(0);
        }
    });
}

pub fn shards(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let (own, all) = (node_id(sink.node(), sink.node().replica), members(sink));
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
        writer.array(all.len());
        for member in &all {
            writer.map(7);
            field(writer, "id", &member.id);
            number(writer, "port", i64::from(member.port));
            field(writer, "ip", &member.host);
            field(writer, "endpoint", &member.host);
            field(writer, "role", if member.id == own { "master" } else { "replica" });
            number(writer, "replication-offset", 0);
            field(writer, "health", "online");
        }
    });
}

/// A replica, as clients of Redis Cluster know nodes.
struct Member {
    id: String,
    /// Empty for the one that is asked: clients understand that as the host that they are connected to.
    host: String,
    port: u16,
}

/// The replica that is asked, to its clients the master, and the others whose addresses are known.
fn members(sink: &dyn Sink) -> Vec<Member> {
    let node = sink.node();
    let mut others = sink.addresses();
    others.retain(|(replica, _)| *replica != node.replica);
    others.sort();
    let other = |(replica, address): (u8, String)| {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Member { id: node_id(node, replica), host, port: port.parse().ok()? })
    };
    let own = Member { id: node_id(node, node.replica), host: String::new(), port: node.port };
    std::iter::once(own).chain(others.into_iter().filter_map(other)).collect()
}

pub fn key_slot(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let slot = slot_of(request.argument(2));
    gateway.answer(sink, |writer| writer.integer(i64::from(slot)));
}

/// Redis's 40 hexadecimal digits: the cluster's 32 and the replica's number.
fn node_id(node: &NodeInfo, replica: u8) -> String {
    format!("{:0>32}{replica:08x}", node.cluster)
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
