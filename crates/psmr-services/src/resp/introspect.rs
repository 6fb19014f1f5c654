//! Commands that tell about the server: COMMAND, INFO, CONFIG GET, CLIENT LIST, HELP of all containers.

use super::data::SYNTAX;
use super::table::{commands, find, find_subcommand, CommandSpec, KeyPositions, NO_KEYS};
use super::write::Writer;
use super::{shown, Request, RespGateway, REDIS_VERSION};
use crate::glob;
use crate::kv::parse_integer;
use psmr_core::gateway::{ClientInfo, NodeInfo, Sink, Usage};
use std::fmt::Write;

pub fn command_all(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, write_all_infos);
}

pub fn command_count(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| writer.integer(commands().len() as i64));
}

pub fn command_info(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    gateway.answer(sink, |writer| {
        if request.count() == 2 {
            return write_all_infos(writer);
        }
        writer.array(request.count() - 2);
        for name in (2..request.count()).map(|at| request.argument(at)) {
            match find_full(name) {
                Some(spec) => write_info(writer, spec),
                None => writer.null(),
            }
        }
    });
}

pub fn command_docs(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let named: Vec<&CommandSpec> = if request.count() == 2 {
        commands().iter().collect()
    } else {
        (2..request.count()).filter_map(|at| find_full(request.argument(at))).collect()
    };
    gateway.answer(sink, |writer| write_docs(writer, &named));
}

pub fn command_list(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let is = |at: usize, word: &str| request.argument(at).eq_ignore_ascii_case(word.as_bytes());
    let filter = match request.count() {
        2 => ListFilter::All,
        5 if is(2, "filterby") && is(3, "module") => ListFilter::Nothing,
        5 if is(2, "filterby") && is(3, "aclcat") => ListFilter::Category(request.argument(4)),
        5 if is(2, "filterby") && is(3, "pattern") => ListFilter::Pattern(request.argument(4).to_ascii_lowercase()),
        _ => return gateway.answer_error(sink, SYNTAX),
    };
    let all = commands().iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    let found: Vec<&str> = all.filter(|spec| filter.takes(spec)).map(|spec| spec.name).collect();
    gateway.answer(sink, |writer| {
        writer.array(found.len());
        found.iter().for_each(|name| writer.bulk(name.as_bytes()));
    });
}

/// Which commands COMMAND LIST lists.
enum ListFilter<'a> {
    All,
    /// Those of a module: there are no modules.
    Nothing,
    Category(&'a [u8]),
    /// In lower case.
    Pattern(Vec<u8>),
}

impl ListFilter<'_> {
    fn takes(&self, spec: &CommandSpec) -> bool {
        match self {
            ListFilter::All => true,
            ListFilter::Nothing => false,
            ListFilter::Category(category) => {
                spec.categories.split_whitespace().any(|own| own.as_bytes()[1..].eq_ignore_ascii_case(category))
            }
            ListFilter::Pattern(pattern) => glob::matches(pattern, spec.name.as_bytes()),
        }
    }
}

pub fn command_keys(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let asked: Vec<&[u8]> = (2..request.count()).map(|at| request.argument(at)).collect();
    match keys_of(&asked) {
        Ok(keys) => gateway.answer(sink, |writer| {
            writer.array(keys.len());
            keys.iter().for_each(|key| writer.bulk(key));
        }),
        Err(text) => gateway.answer_error(sink, text),
    }
}

pub fn command_keys_and_flags(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let asked: Vec<&[u8]> = (2..request.count()).map(|at| request.argument(at)).collect();
    let spec = asked_spec(&asked);
    match keys_of(&asked) {
        Ok(keys) => gateway.answer(sink, |writer| {
            writer.array(keys.len());
            for (at, key) in keys.iter().enumerate() {
                writer.array(2);
                writer.bulk(key);
                write_words(writer, spec.map_or("", |spec| key_flags(spec, &asked, at)));
            }
        }),
        Err(text) => gateway.answer_error(sink, text),
    }
}

/// What happens to a key of a command, which may depend on the other arguments.
fn key_flags(spec: &'static CommandSpec, arguments: &[&[u8]], at: usize) -> &'static str {
    let has = |word: &str| arguments[2..].iter().any(|argument| argument.eq_ignore_ascii_case(word.as_bytes()));
    match spec.name {
        "set" if !arguments[3..].iter().any(|argument| argument.eq_ignore_ascii_case(b"get")) => "OW update",
        "bitfield" if !has("set") && !has("incrby") => "RO access",
        "set" | "bitfield" => "RW access update",
        _ => spec.key_flags.split('|').nth(at).or_else(|| spec.key_flags.split('|').next_back()).unwrap_or_default(),
    }
}

/// The command or subcommand of these arguments, its name included.
fn asked_spec(arguments: &[&[u8]]) -> Option<&'static CommandSpec> {
    find(arguments[0]).and_then(|(_, spec)| match spec.subcommands {
        [] => Some(spec),
        _ => find_subcommand(spec, arguments[1]),
    })
}

/// The keys of a command of these arguments, its name included.
fn keys_of<'a>(arguments: &[&'a [u8]]) -> Result<Vec<&'a [u8]>, &'static [u8]> {
    let spec = asked_spec(arguments).ok_or(&b"ERR Invalid command specified"[..])?;
    if spec.keys == NO_KEYS {
        return Err(b"ERR The command has no key arguments");
    }
    if !spec.takes(arguments.len()) {
        return Err(b"ERR Invalid number of arguments specified for command");
    }
    if spec.has_counted_keys() {
        let (count, keys) = (parse_integer(arguments[2]), &arguments[3..]);
        let count = count.and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= keys.len());
        return Ok(keys[..count.unwrap_or(0)].to_vec());
    }
    Ok(spec.key_places(arguments.len()).map(|at| arguments[at]).collect())
}

pub fn help(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let container = &commands()[request.command];
    gateway.answer(sink, |writer| {
        let name = container.name.to_ascii_uppercase();
        writer.array(1 + 2 * container.subcommands.len());
        writer.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        for spec in container.subcommands {
            writer.simple(&spec.own_name().to_ascii_uppercase());
            writer.simple(&format!("    {}", spec.summary));
        }
    });
}

/// A command or, as `client|id`, a subcommand.
fn find_full(name: &[u8]) -> Option<&'static CommandSpec> {
    match name.iter().position(|b| *b == b'|') {
        None => find(name).map(|(_, spec)| spec),
        Some(at) => find_subcommand(find(&name[..at])?.1, &name[at + 1..]),
    }
}

fn write_all_infos(writer: &mut Writer<'_>) {
    writer.array(commands().len());
    commands().iter().for_each(|spec| write_info(writer, spec));
}

fn write_info(writer: &mut Writer<'_>, spec: &CommandSpec) {
    writer.array(10);
    writer.bulk(spec.name.as_bytes());
    writer.integer(i64::from(spec.arity));
    write_words(writer, spec.flags);
    let KeyPositions { first, last, step } = if spec.has_counted_keys() { NO_KEYS } else { spec.keys };
    [first, last, step].iter().for_each(|n| writer.integer(i64::from(*n)));
    write_words(writer, spec.categories);
    writer.set(spec.tips.split_whitespace().count());
    spec.tips.split_whitespace().for_each(|word| writer.bulk(word.as_bytes()));
    write_key_specs(writer, spec);
    writer.set(spec.subcommands.len());
    spec.subcommands.iter().for_each(|sub| write_info(writer, sub));
}

fn write_words(writer: &mut Writer<'_>, words: &str) {
    writer.set(words.split_whitespace().count());
    words.split_whitespace().for_each(|word| writer.simple(word));
}

fn write_key_specs(writer: &mut Writer<'_>, spec: &CommandSpec) {
    if spec.has_counted_keys() {
        return write_counted_keys(writer, spec);
    }
    if spec.keys.first == 0 {
        return writer.set(0);
    }
    let note = match spec.name {
        "set" => Some("RW and ACCESS due to the optional `GET` argument"),
        "bitfield" => Some("This command allows both access and modification of the key"),
        "getex" => Some("RW and UPDATE because it changes the TTL"),
        _ => None,
    };
    let parts = spec.key_flags.split('|').count();
    let last_part = spec.keys.first + parts as i32 - 1;
    writer.set(parts);
    for (first, flags) in (spec.keys.first..).zip(spec.key_flags.split('|')) {
        // Relative to the first key: the last one.
        let last = if spec.keys.last < 0 { spec.keys.last } else { spec.keys.last - spec.keys.first };
        writer.map(if note.is_some() { 4 } else { 3 });
        if let Some(note) = note {
            writer.bulk(b"notes");
            writer.bulk(note.as_bytes());
        }
        writer.bulk(b"flags");
        write_words(writer, flags);
        writer.bulk(b"begin_search");
        write_key_search(writer, "index", &[("index", first)]);
        writer.bulk(b"find_keys");
        // Of keys that differ, each part is one key, but the last part may be all the others.
        let is_rest = spec.keys.last < 0 && first == last_part;
        let last = if parts > 1 && !is_rest { 0 } else { last };
        write_key_search(writer, "range", &[("lastkey", last), ("keystep", spec.keys.step), ("limit", 0)]);
    }
}

/// The keys of EVAL and EVALSHA.
fn write_counted_keys(writer: &mut Writer<'_>, spec: &CommandSpec) {
    let has_note = spec.name == "eval";
    writer.set(1);
    writer.map(if has_note { 4 } else { 3 });
    if has_note {
        writer.bulk(b"notes");
        writer.bulk(b"We cannot tell how the keys will be used so we assume the worst, RW and UPDATE");
    }
    writer.bulk(b"flags");
    write_words(writer, spec.key_flags);
    writer.bulk(b"begin_search");
    write_key_search(writer, "index", &[("index", 2)]);
    writer.bulk(b"find_keys");
    write_key_search(writer, "keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", 1)]);
}

fn write_key_search(writer: &mut Writer<'_>, kind: &str, fields: &[(&str, i32)]) {
    writer.map(2);
    writer.bulk(b"type");
    writer.bulk(kind.as_bytes());
    writer.bulk(b"spec");
    writer.map(fields.len());
    for (name, value) in fields {
        writer.bulk(name.as_bytes());
        writer.integer(i64::from(*value));
    }
}

fn write_docs(writer: &mut Writer<'_>, named: &[&CommandSpec]) {
    writer.map(named.len());
    for spec in named {
        writer.bulk(spec.name.as_bytes());
        writer.map(if spec.subcommands.is_empty() { 4 } else { 5 });
        let fields = [("summary", spec.summary), ("since", spec.since), ("group", spec.section), ("complexity", spec.complexity)];
        for (name, value) in fields {
            writer.bulk(name.as_bytes());
            writer.bulk(value.as_bytes());
        }
        if !spec.subcommands.is_empty() {
            writer.bulk(b"subcommands");
            write_docs(writer, &spec.subcommands.iter().collect::<Vec<_>>());
        }
    }
}

pub fn config_get(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let asked: Vec<&[u8]> = (2..request.count()).map(|at| request.argument(at)).collect();
    let mut found = Vec::new();
    for (name, value) in parameters(gateway, sink.node()) {
        // Redis gives a name back as it was written, unless a pattern found it.
        let literal = asked.iter().find(|asked| asked.eq_ignore_ascii_case(name.as_bytes()));
        if literal.is_some() || asked.iter().any(|asked| glob::matches(&asked.to_ascii_lowercase(), name.as_bytes())) {
            found.push((literal.map_or(name.as_bytes(), |asked| asked), value));
        }
    }
    gateway.answer(sink, |writer| {
        writer.map(found.len());
        for (name, value) in &found {
            writer.bulk(name);
            writer.bulk(value.as_bytes());
        }
    });
}

/// What Redis's configuration would say of this replica.
fn parameters(gateway: &RespGateway, node: &NodeInfo) -> Vec<(&'static str, String)> {
    let is_durable = node.durability == "fsync";
    vec![
        ("appendfsync", if is_durable { "always" } else { "no" }.to_owned()),
        ("appendonly", if is_durable { "yes" } else { "no" }.to_owned()),
        ("databases", "1".to_owned()),
        ("enable-debug-command", if node.allows_debug { "yes" } else { "no" }.to_owned()),
        ("maxmemory", node.memory_bytes_max.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", node.port.to_string()),
        ("proto-max-bulk-len", gateway.limits.bulk_bytes_max.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
}

pub fn client_info(gateway: &mut RespGateway, _: &Request<'_>, sink: &mut dyn Sink) {
    let text = client_line(&own_info(gateway, sink), sink.wall_ms());
    gateway.answer(sink, |writer| writer.verbatim(text.as_bytes()));
}

/// How the caller lists this connection, with what has changed since.
fn own_info(gateway: &RespGateway, sink: &dyn Sink) -> ClientInfo {
    let listed = sink.clients().into_iter().find(|client| client.id == gateway.id);
    let ClientInfo { address, since_ms, .. } = listed.unwrap_or_default();
    ClientInfo { address, since_ms, ..gateway.describe() }
}

pub fn client_list(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let mut clients = sink.clients();
    let own = own_info(gateway, sink);
    match clients.iter_mut().find(|client| client.id == gateway.id) {
        Some(listed) => *listed = own,
        // It has connected since the list was made.
        None => clients.push(own),
    }
    match select_clients(clients, request) {
        Ok(clients) => {
            let now_ms = sink.wall_ms();
            let text: String = clients.iter().map(|client| client_line(client, now_ms)).collect();
            gateway.answer(sink, |writer| writer.verbatim(text.as_bytes()));
        }
        Err(text) => gateway.answer_error(sink, &text),
    }
}

fn select_clients(mut clients: Vec<ClientInfo>, request: &Request<'_>) -> Result<Vec<ClientInfo>, Vec<u8>> {
    let is = |at: usize, word: &str| request.argument(at).eq_ignore_ascii_case(word.as_bytes());
    match request.count() {
        2 => Ok(clients),
        4 if is(2, "type") => match request.argument(3).to_ascii_lowercase().as_slice() {
            b"normal" => Ok(clients),
            b"master" | b"replica" | b"slave" | b"pubsub" => Ok(Vec::new()),
            _ => Err([b"ERR Unknown client type '", shown(request.argument(3)), b"'"].concat()),
        },
        count if count > 3 && is(2, "id") => {
            let ids: Option<Vec<i64>> = (3..count).map(|at| parse_integer(request.argument(at))).collect();
            let ids = ids.ok_or(b"ERR Invalid client ID")?;
            clients.retain(|client| ids.contains(&(client.id as i64)));
            Ok(clients)
        }
        _ => Err(SYNTAX.to_vec()),
    }
}

fn client_line(client: &ClientInfo, now_ms: u64) -> String {
    format!(
        "id={} addr={} name={} age={} flags=N db=0 user=default lib-name={} lib-ver={} resp={}\n",
        client.id,
        client.address,
        client.name,
        now_ms.saturating_sub(client.since_ms) / 1000,
        client.library,
        client.library_version,
        client.protocol
    )
}

pub fn info(gateway: &mut RespGateway, request: &Request<'_>, sink: &mut dyn Sink) {
    let asked: Vec<String> =
        (1..request.count()).map(|at| String::from_utf8_lossy(request.argument(at)).to_ascii_lowercase()).collect();
    let is_all = asked.is_empty() || asked.iter().any(|name| matches!(name.as_str(), "default" | "all" | "everything"));
    let mut text = String::new();
    for (name, section) in SECTIONS {
        if is_all || asked.iter().any(|asked| asked.eq_ignore_ascii_case(name)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a string does not fail.
            let _ = write!(text, "# {name}\r\n");
            for (field, value) in section(gateway, sink) {
                let _ = write!(text, "{field}:{value}\r\n");
            }
        }
    }
    gateway.answer(sink, |writer| writer.verbatim(text.as_bytes()));
}

type Section = fn(&RespGateway, &dyn Sink) -> Vec<(&'static str, String)>;

const SECTIONS: [(&str, Section); 9] = [
    ("Server", server_section),
    ("Clients", |_, sink| vec![("connected_clients", sink.clients().len().to_string())]),
    ("Memory", |_, sink| used(sink, |usage| vec![("used_memory_rss", usage.memory_bytes.to_string())])),
    ("Persistence", |_, sink| {
        vec![("loading", "0".to_owned()), ("aof_enabled", u8::from(sink.node().durability == "fsync").to_string())]
    }),
    ("Stats", |_, sink| used(sink, |usage| vec![("total_connections_received", usage.connections.to_string())])),
    ("Replication", |_, _| vec![("role", "master".to_owned()), ("connected_slaves", "0".to_owned())]),
    ("CPU", |_, sink| {
        let seconds = |ms: u64| format!("{}.{:03}000", ms / 1000, ms % 1000);
        used(sink, |usage| vec![("used_cpu_sys", seconds(usage.cpu_system_ms)), ("used_cpu_user", seconds(usage.cpu_user_ms))])
    }),
    ("Cluster", |_, _| vec![("cluster_enabled", "0".to_owned())]),
    ("Keyspace", |gateway, _| match gateway.totals.sum() {
        (0, _) => Vec::new(),
        (keys, expires) => vec![("db0", format!("keys={keys},expires={expires},avg_ttl=0"))],
    }),
];

/// Fields about the process; a section has none where the system does not tell.
fn used(sink: &dyn Sink, fields: impl Fn(Usage) -> Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    sink.usage().map(fields).unwrap_or_default()
}

fn server_section(_: &RespGateway, sink: &dyn Sink) -> Vec<(&'static str, String)> {
    let node = sink.node();
    let uptime_seconds = sink.wall_ms().saturating_sub(node.started_ms) / 1000;
    vec![
        ("redis_version", REDIS_VERSION.to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", node.pid.to_string()),
        ("tcp_port", node.port.to_string()),
        ("server_time_usec", (sink.wall_ms() * 1000).to_string()),
        ("uptime_in_seconds", uptime_seconds.to_string()),
        ("uptime_in_days", (uptime_seconds / 86_400).to_string()),
        ("psmr_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("psmr_cluster", node.cluster.clone()),
        ("psmr_replica", node.replica.to_string()),
        ("psmr_replicas", node.replicas.to_string()),
        ("psmr_groups", sink.topology().groups.to_string()),
        ("psmr_streams", sink.topology().streams.to_string()),
        ("psmr_durability", node.durability.to_owned()),
    ]
}
