//! The commands: one table from which parsing, checks of arguments, γ and the COMMAND command follow.

use super::connection as local;
use super::data;
use super::diagnostics;
use super::dump;
use super::fields;
use super::strings;
use super::{Request, RespGateway};
use psmr_core::gateway::Sink;
use std::sync::OnceLock;

mod subcommands;

/// What a command does when its arguments have the right number.
pub(super) type Handler = fn(&mut RespGateway, &Request<'_>, &mut dyn Sink);

/// What of the state a command touches: from this follow C-Dep and C-G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the replica answers by itself.
    Nothing,
    /// Reads its keys.
    ReadsKeys,
    /// Reads and writes its keys.
    WritesKeys,
    /// Reads one group.
    ReadsGroup,
    /// Reads all keys.
    ReadsAll,
    /// Writes all keys.
    WritesAll,
    /// What the requests before it touch, which are executed with it.
    Queued,
}

/// Where the keys are among the arguments, as Redis counts: argument 0 is the command's name, last -1 the last argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPositions {
    /// The first key; 0 if there is none.
    pub first: i32,
    /// The last key.
    pub last: i32,
    /// From one key to the next.
    pub step: i32,
}

/// None.
pub(super) const NO_KEYS: KeyPositions = KeyPositions { first: 0, last: 0, step: 0 };
const ONE_KEY: KeyPositions = KeyPositions { first: 1, last: 1, step: 1 };
const ALL_KEYS: KeyPositions = KeyPositions { first: 1, last: -1, step: 1 };
/// The number of keys is an argument, before them: the handler finds them.
const COUNTED_KEYS: KeyPositions = KeyPositions { first: 0, last: 0, step: -1 };
const AFTER_ONE: KeyPositions = KeyPositions { first: 2, last: -1, step: 1 };
const TWO_KEYS: KeyPositions = KeyPositions { first: 1, last: 2, step: 1 };
const PAIRS: KeyPositions = KeyPositions { first: 1, last: -1, step: 2 };

/// A command. Lists in texts are separated by spaces.
#[derive(Debug)]
pub struct CommandSpec {
    /// In lower case; a subcommand's has the container's before it: `client|id`.
    pub name: &'static str,
    /// The number of arguments, the name included; negative: at least so many.
    pub arity: i32,
    /// Where its keys are.
    pub keys: KeyPositions,
    /// What it touches.
    pub access: Access,
    /// Redis's flags.
    pub flags: &'static str,
    /// Redis's categories of access control.
    pub categories: &'static str,
    /// Redis's hints for proxies.
    pub tips: &'static str,
    /// Redis's flags of what happens to the keys; where they differ from key to key, those of each, separated by `|`.
    pub key_flags: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Redis's first version that had it.
    pub since: &'static str,
    /// Redis's group of commands.
    pub section: &'static str,
    /// What it costs.
    pub complexity: &'static str,
    /// The commands below it, if it is a container.
    pub subcommands: &'static [CommandSpec],
    /// What it does; a container's is called without a subcommand.
    pub(super) handler: Handler,
}

/// The start of an entry: what it is called and does. The rest follows by the methods below.
const fn command(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        name,
        arity,
        keys: NO_KEYS,
        access: Access::Nothing,
        flags: "",
        categories: "",
        tips: "",
        key_flags: "",
        summary: "",
        since: "",
        section: "",
        complexity: "O(1)",
        subcommands: &[],
        handler,
    }
}

impl CommandSpec {
    const fn keys(self, keys: KeyPositions, access: Access, key_flags: &'static str) -> CommandSpec {
        CommandSpec { keys, access, key_flags, ..self }
    }

    const fn whole(self, access: Access) -> CommandSpec {
        CommandSpec { access, ..self }
    }

    const fn flags(self, flags: &'static str, categories: &'static str, tips: &'static str) -> CommandSpec {
        CommandSpec { flags, categories, tips, ..self }
    }

    const fn about(self, section: &'static str, since: &'static str, summary: &'static str) -> CommandSpec {
        CommandSpec { section, since, summary, ..self }
    }

    const fn costs(self, complexity: &'static str) -> CommandSpec {
        CommandSpec { complexity, ..self }
    }

    const fn contains(self, subcommands: &'static [CommandSpec]) -> CommandSpec {
        CommandSpec { subcommands, ..self }
    }

    /// Whether `count` arguments, the name included, are right for it.
    #[inline]
    pub fn takes(&self, count: usize) -> bool {
        if self.arity >= 0 {
            count == self.arity as usize
        } else {
            count >= self.arity.unsigned_abs() as usize
        }
    }

    /// The name, without the container's.
    pub fn own_name(&self) -> &'static str {
        self.name.split('|').next_back().unwrap_or(self.name)
    }

    /// Whether it may make the state larger.
    #[inline]
    pub fn needs_memory(&self) -> bool {
        self.flags.contains("denyoom")
    }

    /// Whether it has exactly one key.
    fn has_one_key(&self) -> bool {
        self.keys.first != 0 && self.keys.first == self.keys.last
    }

    /// Whether an argument says how many keys follow it.
    pub fn has_counted_keys(&self) -> bool {
        self.keys == COUNTED_KEYS
    }

    /// The places of the keys among `count` arguments.
    #[inline]
    pub fn key_places(&self, count: usize) -> impl Iterator<Item = usize> {
        let KeyPositions { first, last, step } = self.keys;
        let end = match (first, last) {
            (0, _) => 0,
            (_, last) if last < 0 => count,
            (_, last) => last as usize + 1,
        };
        (first as usize..end).step_by(step.max(1) as usize)
    }
}

const RW: Access = Access::WritesKeys;
const RO: Access = Access::ReadsKeys;
const MULTI_SUM: &str = "request_policy:multi_shard response_policy:agg_sum";
const SHARDS_ALL: &str = "request_policy:all_shards response_policy:all_succeeded";
const CONNECTION: &str = "@fast @connection";
const CONNECTION_SLOW: &str = "@slow @connection";
const CONNECTION_ADMIN: &str = "@admin @slow @dangerous @connection";

static COMMANDS: [CommandSpec; 86] = [
    command("get", 2, data::get).keys(ONE_KEY, RO, "RO access").flags("readonly fast", "@read @string @fast", "").about(
        "string",
        "1.0.0",
        "Get the value of a key",
    ),
    command("set", -3, data::set)
        .keys(ONE_KEY, RW, "RW access update variable_flags")
        .flags("write denyoom", "@write @string @slow", "")
        .about("string", "1.0.0", "Set the string value of a key"),
    command("del", -2, data::delete)
        .keys(ALL_KEYS, RW, "RM delete")
        .flags("write", "@keyspace @write @slow", MULTI_SUM)
        .about("generic", "1.0.0", "Delete a key")
        .costs("O(N) where N is the number of keys that will be removed."),
    command("exists", -2, data::exists)
        .keys(ALL_KEYS, RO, "RO")
        .flags("readonly fast", "@keyspace @read @fast", MULTI_SUM)
        .about("generic", "1.0.0", "Determine if a key exists")
        .costs("O(N) where N is the number of keys to check."),
    command("mget", -2, data::get_many)
        .keys(ALL_KEYS, RO, "RO access")
        .flags("readonly fast", "@read @string @fast", "request_policy:multi_shard")
        .about("string", "1.0.0", "Get the values of all the given keys")
        .costs("O(N) where N is the number of keys to retrieve."),
    command("mset", -3, data::set_many)
        .keys(PAIRS, RW, "OW update")
        .flags("write denyoom", "@write @string @slow", "request_policy:multi_shard response_policy:all_succeeded")
        .about("string", "1.0.1", "Set multiple keys to multiple values")
        .costs("O(N) where N is the number of keys to set."),
    command("incr", 2, data::increment)
        .keys(ONE_KEY, RW, "RW access update")
        .flags("write denyoom fast", "@write @string @fast", "")
        .about("string", "1.0.0", "Increment the integer value of a key by one"),
    command("incrby", 3, data::increment_by)
        .keys(ONE_KEY, RW, "RW access update")
        .flags("write denyoom fast", "@write @string @fast", "")
        .about("string", "1.0.0", "Increment the integer value of a key by the given amount"),
    command("decr", 2, data::decrement)
        .keys(ONE_KEY, RW, "RW access update")
        .flags("write denyoom fast", "@write @string @fast", "")
        .about("string", "1.0.0", "Decrement the integer value of a key by one"),
    command("decrby", 3, data::decrement_by)
        .keys(ONE_KEY, RW, "RW access update")
        .flags("write denyoom fast", "@write @string @fast", "")
        .about("string", "1.0.0", "Decrement the integer value of a key by the given number"),
    command("append", 3, data::append)
        .keys(ONE_KEY, RW, "RW insert")
        .flags("write denyoom fast", "@write @string @fast", "")
        .about("string", "2.0.0", "Append a value to a key"),
    command("strlen", 2, data::length).keys(ONE_KEY, RO, "RO").flags("readonly fast", "@read @string @fast", "").about(
        "string",
        "2.2.0",
        "Get the length of the value stored in a key",
    ),
    command("getset", 3, strings::get_set).keys(ONE_KEY, RW, "RW access update").flags("write denyoom fast", "@write @string @fast", "").about("string", "1.0.0", "Set the string value of a key and return its old value"),
    command("getdel", 2, strings::take).keys(ONE_KEY, RW, "RW access delete").flags("write fast", "@write @string @fast", "").about("string", "6.2.0", "Get the value of a key and delete the key"),
    command("getex", -2, strings::get_expire).keys(ONE_KEY, RW, "RW access update").flags("write fast", "@write @string @fast", "").about("string", "6.2.0", "Get the value of a key and optionally set its expiration"),
    command("setnx", 3, strings::set_absent).keys(ONE_KEY, RW, "OW insert").flags("write denyoom fast", "@write @string @fast", "").about("string", "1.0.0", "Set the value of a key, only if the key does not exist"),
    command("setex", 4, strings::set_seconds).keys(ONE_KEY, RW, "OW update").flags("write denyoom", "@write @string @slow", "").about("string", "2.0.0", "Set the value and expiration of a key"),
    command("psetex", 4, strings::set_milliseconds).keys(ONE_KEY, RW, "OW update").flags("write denyoom", "@write @string @slow", "").about("string", "2.6.0", "Set the value and expiration in milliseconds of a key"),
    command("msetnx", -3, strings::set_many_absent).keys(PAIRS, RW, "OW insert").flags("write denyoom", "@write @string @slow", "request_policy:multi_shard response_policy:agg_min").about("string", "1.0.1", "Set multiple keys to multiple values, only if none of the keys exist").costs("O(N) where N is the number of keys to set."),
    command("getrange", 4, strings::part).keys(ONE_KEY, RO, "RO access").flags("readonly", "@read @string @slow", "").about("string", "2.4.0", "Get a substring of the string stored at a key").costs("O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for small strings."),
    command("substr", 4, strings::part).keys(ONE_KEY, RO, "RO access").flags("readonly", "@read @string @slow", "").about("string", "1.0.0", "Get a substring of the string stored at a key").costs("O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for small strings."),
    command("setrange", 4, strings::overwrite).keys(ONE_KEY, RW, "RW update").flags("write denyoom", "@write @string @slow", "").about("string", "2.2.0", "Overwrite part of a string at key starting at the specified offset").costs("O(1), not counting the time taken to copy the new string in place. Usually, this string is very small so the amortized complexity is O(1). Otherwise, complexity is O(M) with M being the length of the value argument."),
    command("unlink", -2, data::delete).keys(ALL_KEYS, RW, "RM delete").flags("write fast", "@keyspace @write @fast", "request_policy:multi_shard response_policy:agg_sum").about("generic", "4.0.0", "Delete a key asynchronously in another thread. Otherwise it is just as DEL, but non blocking.").costs("O(1) for each key removed regardless of its size. Then the command does O(N) work in a different thread in order to reclaim memory, where N is the number of allocations the deleted objects where composed of."),
    command("type", 2, strings::type_of).keys(ONE_KEY, RO, "RO").flags("readonly fast", "@keyspace @read @fast", "").about("generic", "1.0.0", "Determine the type stored at key"),
    command("touch", -2, data::exists).keys(ALL_KEYS, RO, "RO").flags("readonly fast", "@keyspace @read @fast", "request_policy:multi_shard response_policy:agg_sum").about("generic", "3.2.1", "Alters the last access time of a key(s). Returns the number of existing keys specified.").costs("O(N) where N is the number of keys that will be touched."),
    command("expireat", -3, strings::expire_at_seconds).keys(ONE_KEY, RW, "RW update").flags("write fast", "@keyspace @write @fast", "").about("generic", "1.2.0", "Set the expiration for a key as a UNIX timestamp"),
    command("pexpireat", -3, strings::expire_at_milliseconds).keys(ONE_KEY, RW, "RW update").flags("write fast", "@keyspace @write @fast", "").about("generic", "2.6.0", "Set the expiration for a key as a UNIX timestamp specified in milliseconds"),
    command("expiretime", 2, strings::expire_time_seconds).keys(ONE_KEY, RO, "RO access").flags("readonly fast", "@keyspace @read @fast", "").about("generic", "7.0.0", "Get the expiration Unix timestamp for a key"),
    command("pexpiretime", 2, strings::expire_time_milliseconds).keys(ONE_KEY, RO, "RO access").flags("readonly fast", "@keyspace @read @fast", "").about("generic", "7.0.0", "Get the expiration Unix timestamp for a key in milliseconds"),
    command("rename", 3, strings::rename).keys(TWO_KEYS, RW, "RW access delete | OW update").flags("write", "@keyspace @write @slow", "").about("generic", "1.0.0", "Rename a key"),
    command("renamenx", 3, strings::rename_absent).keys(TWO_KEYS, RW, "RW access delete | OW insert").flags("write fast", "@keyspace @write @fast", "").about("generic", "1.0.0", "Rename a key, only if the new key does not exist"),
    command("copy", -3, strings::copy).keys(TWO_KEYS, RW, "RO access | OW update").flags("write denyoom", "@keyspace @write @slow", "").about("generic", "6.2.0", "Copy a key").costs("O(N) worst case for collections, where N is the number of nested items. O(1) for string values."),
    command("setbit", 4, strings::set_bit).keys(ONE_KEY, RW, "RW access update").flags("write denyoom", "@write @bitmap @slow", "").about("bitmap", "2.2.0", "Sets or clears the bit at offset in the string value stored at key"),
    command("getbit", 3, strings::get_bit).keys(ONE_KEY, RO, "RO access").flags("readonly fast", "@read @bitmap @fast", "").about("bitmap", "2.2.0", "Returns the bit value at offset in the string value stored at key"),
    command("bitcount", -2, strings::count_bits).keys(ONE_KEY, RO, "RO access").flags("readonly", "@read @bitmap @slow", "").about("bitmap", "2.6.0", "Count set bits in a string").costs("O(N)"),
    command("bitpos", -3, strings::find_bit)
        .keys(ONE_KEY, RO, "RO access")
        .flags("readonly", "@read @bitmap @slow", "")
        .about("bitmap", "2.8.7", "Find first bit set or clear in a string")
        .costs("O(N)"),
    command("bitop", -4, strings::combine)
        .keys(AFTER_ONE, RW, "OW update | RO access")
        .flags("write denyoom", "@write @bitmap @slow", "")
        .about("bitmap", "2.6.0", "Perform bitwise operations between strings")
        .costs("O(N)"),
    command("bitfield", -2, fields::bit_fields)
        .keys(ONE_KEY, RW, "RW access update variable_flags")
        .flags("write denyoom", "@write @bitmap @slow", "")
        .about("bitmap", "3.2.0", "Perform arbitrary bitfield integer operations on strings")
        .costs("O(1) for each subcommand specified"),
    command("bitfield_ro", -2, fields::read_bit_fields)
        .keys(ONE_KEY, RO, "RO access")
        .flags("readonly fast", "@read @bitmap @fast", "")
        .about("bitmap", "6.0.0", "Perform arbitrary bitfield integer operations on strings. Read-only variant of BITFIELD")
        .costs("O(1) for each subcommand specified"),
    command("dump", 2, dump::dump)
        .keys(ONE_KEY, RO, "RO access")
        .flags("readonly", "@keyspace @read @slow", "nondeterministic_output")
        .about("generic", "2.6.0", "Return a serialized version of the value stored at the specified key.")
        .costs("O(1) to access the key and additional O(M) to serialize it, where M is the length of the value."),
    command("restore", -4, dump::restore)
        .keys(ONE_KEY, RW, "OW update")
        .flags("write denyoom", "@keyspace @write @slow @dangerous", "")
        .about("generic", "2.6.0", "Create a key using the provided serialized value, previously obtained using DUMP.")
        .costs("O(1) to create the new key and additional O(M) to reconstruct the serialized value, where M is its length."),
    command("lcs", -3, strings::subsequence)
        .keys(TWO_KEYS, RO, "RO access")
        .flags("readonly", "@read @string @slow", "")
        .about("string", "7.0.0", "Find longest common substring")
        .costs("O(N*M) where N and M are the lengths of s1 and s2, respectively"),
    command("incrbyfloat", 3, strings::increment_float)
        .keys(ONE_KEY, RW, "RW access update")
        .flags("write denyoom fast", "@write @string @fast", "")
        .about("string", "2.6.0", "Increment the float value of a key by the given amount"),
    command("readonly", 1, local::done).flags("loading stale fast", "@fast @connection", "").about("cluster", "3.0.0", "Enables read queries for a connection to a cluster replica node"),
    command("readwrite", 1, local::done).flags("loading stale fast", "@fast @connection", "").about("cluster", "3.0.0", "Disables read queries for a connection to a cluster replica node"),
    command("asking", 1, local::done).flags("fast", "@fast @connection", "").about("cluster", "3.0.0", "Sent by cluster clients after an -ASK redirect"),
    command("wait", 3, local::wait).flags("noscript", "@slow @connection", "request_policy:all_shards response_policy:agg_min").about("generic", "3.0.0", "Wait for the synchronous replication of all the write commands sent in the context of the current connection"),
    command("debug", -2, diagnostics::debug).flags("admin noscript loading stale", "@admin @slow @dangerous", "").about("server", "1.0.0", "A container for debugging commands").costs("Depends on subcommand."),
    command("time", 1, local::time).flags("loading stale fast", "@fast", "nondeterministic_output").about("server", "2.6.0", "Return the current server time"),
    command("expire", -3, data::expire_seconds)
        .keys(ONE_KEY, RW, "RW update")
        .flags("write fast", "@keyspace @write @fast", "")
        .about("generic", "1.0.0", "Set a key's time to live in seconds"),
    command("pexpire", -3, data::expire_milliseconds)
        .keys(ONE_KEY, RW, "RW update")
        .flags("write fast", "@keyspace @write @fast", "")
        .about("generic", "2.6.0", "Set a key's time to live in milliseconds"),
    command("ttl", 2, data::time_to_live_seconds)
        .keys(ONE_KEY, RO, "RO access")
        .flags("readonly fast", "@keyspace @read @fast", "nondeterministic_output")
        .about("generic", "1.0.0", "Get the time to live for a key in seconds"),
    command("pttl", 2, data::time_to_live_milliseconds)
        .keys(ONE_KEY, RO, "RO access")
        .flags("readonly fast", "@keyspace @read @fast", "nondeterministic_output")
        .about("generic", "2.6.0", "Get the time to live for a key in milliseconds"),
    command("persist", 2, data::persist).keys(ONE_KEY, RW, "RW update").flags("write fast", "@keyspace @write @fast", "").about(
        "generic",
        "2.2.0",
        "Remove the expiration from a key",
    ),
    command("dbsize", 1, data::size)
        .whole(Access::ReadsAll)
        .flags("readonly fast", "@keyspace @read @fast", "request_policy:all_shards response_policy:agg_sum")
        .about("server", "1.0.0", "Return the number of keys in the selected database"),
    command("flushall", -1, data::clear)
        .whole(Access::WritesAll)
        .flags("write", "@keyspace @write @slow @dangerous", SHARDS_ALL)
        .about("server", "1.0.0", "Remove all keys from all databases")
        .costs("O(N) where N is the total number of keys in all databases"),
    command("scan", -2, data::scan)
        .whole(Access::ReadsGroup)
        .flags("readonly", "@keyspace @read @slow", "nondeterministic_output request_policy:special")
        .about("generic", "2.8.0", "Incrementally iterate the keys space")
        .costs("O(1) for every call. O(N) for a complete iteration, where N is the number of keys."),
    command("ping", -1, local::ping).flags("fast", CONNECTION, SHARDS_ALL).about("connection", "1.0.0", "Ping the server"),
    command("echo", 2, local::echo).flags("loading stale fast", CONNECTION, "").about(
        "connection",
        "1.0.0",
        "Echo the given string",
    ),
    command("hello", -1, local::hello).flags("noscript loading stale fast no_auth allow_busy", CONNECTION, "").about(
        "connection",
        "6.0.0",
        "Handshake with Redis",
    ),
    command("select", 2, local::select).flags("loading stale fast", CONNECTION, "").about(
        "connection",
        "1.0.0",
        "Change the selected database for the current connection",
    ),
    command("quit", -1, local::quit).flags("noscript loading stale fast no_auth allow_busy", CONNECTION, "").about(
        "connection",
        "1.0.0",
        "Close the connection",
    ),
    command("reset", 1, local::reset).flags("noscript loading stale fast no_auth allow_busy", CONNECTION, "").about(
        "connection",
        "6.2.0",
        "Reset the connection",
    ),
    command("client", -2, local::container)
        .flags("", "@slow", "")
        .about("connection", "2.4.0", "A container for client connection commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::CLIENT),
    command("command", -1, super::introspect::command_all)
        .flags("loading stale", CONNECTION_SLOW, "nondeterministic_output_order")
        .about("server", "2.8.13", "Get array of Redis command details")
        .costs("O(N) where N is the total number of Redis commands")
        .contains(&subcommands::COMMAND),
    command("info", -1, super::introspect::info)
        .flags("loading stale", "@slow @dangerous", "nondeterministic_output request_policy:all_shards response_policy:special")
        .about("server", "1.0.0", "Get information and statistics about the server"),
    command("config", -2, local::container)
        .flags("", "@slow", "")
        .about("server", "2.0.0", "A container for server configuration commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::CONFIG),
    command("multi", 1, super::transaction::multi)
        .flags("noscript loading stale fast allow_busy", "@fast @transaction", "")
        .about("transactions", "1.2.0", "Mark the start of a transaction block"),
    command("exec", 1, super::transaction::exec)
        .whole(Access::Queued)
        .flags("noscript loading stale skip_slowlog", "@slow @transaction", "")
        .about("transactions", "1.2.0", "Execute all commands issued after MULTI")
        .costs("Depends on commands in the transaction"),
    command("discard", 1, super::transaction::discard)
        .flags("noscript loading stale fast allow_busy", "@fast @transaction", "")
        .about("transactions", "2.0.0", "Discard all commands issued after MULTI")
        .costs("O(N), when N is the number of queued commands"),
    command("watch", -2, super::transaction::watch)
        .keys(ALL_KEYS, RO, "RO")
        .flags("noscript loading stale fast allow_busy", "@fast @transaction", "")
        .about("transactions", "2.2.0", "Watch the given keys to determine execution of the MULTI/EXEC block")
        .costs("O(1) for every key."),
    command("unwatch", 1, super::transaction::unwatch)
        .flags("noscript loading stale fast allow_busy", "@fast @transaction", "")
        .about("transactions", "2.2.0", "Forget about all watched keys"),
    command("eval", -3, super::script::eval)
        .keys(COUNTED_KEYS, RW, "RW access update")
        .flags("noscript stale skip_monitor no_mandatory_keys movablekeys", "@slow @scripting", "")
        .about("scripting", "2.6.0", "Execute a Lua script server side")
        .costs("Depends on the script that is executed."),
    command("evalsha", -3, super::script::evalsha)
        .keys(COUNTED_KEYS, RW, "RW access update")
        .flags("noscript stale skip_monitor no_mandatory_keys movablekeys", "@slow @scripting", "")
        .about("scripting", "2.6.0", "Execute a Lua script server side")
        .costs("Depends on the script that is executed."),
    command("script", -2, local::container)
        .flags("", "@slow", "")
        .about("scripting", "2.6.0", "A container for Lua scripts management commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::SCRIPT),
    command("keys", 2, data::keys)
        .whole(Access::ReadsAll)
        .flags("readonly", "@keyspace @read @slow @dangerous", "request_policy:all_shards nondeterministic_output_order")
        .about("generic", "1.0.0", "Find all keys matching the given pattern")
        .costs("O(N) where N is the number of keys, of which all are looked at"),
    command("randomkey", 1, data::random_key)
        .whole(Access::ReadsAll)
        .flags("readonly", "@keyspace @read @slow", "request_policy:all_shards nondeterministic_output")
        .about("generic", "1.0.0", "Return a random key from the keyspace"),
    command("flushdb", -1, data::clear)
        .whole(Access::WritesAll)
        .flags("write", "@keyspace @write @slow @dangerous", SHARDS_ALL)
        .about("server", "1.0.0", "Remove all keys from the current database")
        .costs("O(N) where N is the number of keys in the selected database"),
    command("cluster", -2, local::container)
        .flags("", "@slow", "")
        .about("cluster", "3.0.0", "A container for cluster commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::CLUSTER),
    command("object", -2, local::container)
        .flags("", "@slow", "")
        .about("generic", "2.2.3", "A container for object introspection commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::OBJECT),
    command("memory", -2, local::container)
        .flags("", "@slow", "")
        .about("server", "4.0.0", "A container for memory diagnostics commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::MEMORY),
    command("slowlog", -2, local::container)
        .flags("", "@slow", "")
        .about("server", "2.2.12", "A container for slow log commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::SLOWLOG),
    command("latency", -2, local::container)
        .flags("", "@slow", "")
        .about("server", "2.8.13", "A container for latency diagnostics commands")
        .costs("Depends on subcommand.")
        .contains(&subcommands::LATENCY),
    command("waitaof", 4, local::wait_for_disk).flags("noscript", "@slow @connection", "request_policy:all_shards response_policy:agg_min").about("generic", "7.2.0", "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas."),
    command("range", -3, data::range)
        .whole(Access::ReadsAll)
        .flags("readonly", "@keyspace @read @slow @dangerous", "")
        .about("generic", "7.0.15", "Get keys in the order of their bytes, with their values (of psmr, not of Redis)")
        .costs("O(N*log(M)) where N is the number of all keys and M that of the keys in the reply"),
    command("countrange", 3, data::count_range)
        .whole(Access::ReadsAll)
        .flags("readonly", "@keyspace @read @slow @dangerous", "")
        .about("generic", "7.0.15", "Count keys between two in the order of their bytes (of psmr, not of Redis)")
        .costs("O(N) where N is the number of all keys"),
];

/// All commands.
pub fn commands() -> &'static [CommandSpec] {
    &COMMANDS
}

/// The command of this name, in whatever case, and its place in [`commands`].
#[inline]
pub fn find(name: &[u8]) -> Option<(usize, &'static CommandSpec)> {
    static PLACES: OnceLock<[u8; 256]> = OnceLock::new();
    let places = PLACES.get_or_init(|| {
        let mut places = [0; 256];
        for (at, command) in (1..).zip(&COMMANDS) {
            let mut place = first_place(command.name.as_bytes());
            while places[place] != 0 {
                place = (place + 1) % 256;
            }
            places[place] = at;
        }
        places
    });
    let mut place = first_place(name);
    loop {
        let at = usize::from(places[place]).checked_sub(1)?;
        let command = COMMANDS.get(at)?;
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some((at, command));
        }
        place = (place + 1) % 256;
    }
}

/// Where the search for a name begins.
#[inline]
fn first_place(name: &[u8]) -> usize {
    let lower = |at: usize| u32::from(name.get(at).copied().unwrap_or(0) | 0x20);
    let mixed =
        lower(0) | lower(1) << 8 | lower(name.len() / 2) << 16 | (lower(name.len().wrapping_sub(1)) ^ name.len() as u32) << 24;
    (mixed.wrapping_mul(0x9e37_79b1) >> 24) as usize
}

/// The subcommand of this name, in whatever case.
pub fn find_subcommand(container: &CommandSpec, name: &[u8]) -> Option<&'static CommandSpec> {
    container.subcommands.iter().find(|c| c.own_name().as_bytes().eq_ignore_ascii_case(name))
}

/// What `explain` says of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandInfo {
    /// In upper case.
    pub name: String,
    /// See [`CommandSpec::arity`].
    pub arity: i32,
    /// What it touches.
    pub access: Access,
    /// C-G in words: which groups it is multicast to.
    pub gamma: &'static str,
    /// In which mode it runs.
    pub mode: &'static str,
}

/// Whether two commands depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// Never.
    Never,
    /// If they name the same key.
    SameKey,
    /// If a key of one is in the group of the other.
    SameGroup,
    /// Always.
    Always,
}

/// C-G: the groups of each command.
pub fn explain() -> Vec<CommandInfo> {
    let info = |command: &CommandSpec| {
        // A container touches what its subcommands do.
        let acting = command.subcommands.iter().find(|sub| sub.access != Access::Nothing).unwrap_or(command);
        let (gamma, mode) = match (acting.access, acting.has_one_key()) {
            (Access::Nothing, _) => ("none", "answered by the replica"),
            (Access::ReadsKeys, true) => ("the key's group", "read of one group, not ordered"),
            (Access::WritesKeys, true) => ("the key's group", "parallel"),
            (Access::ReadsKeys, false) => {
                ("the keys' groups", "read of one group, not ordered; over several, synchronous at one replica")
            }
            (Access::WritesKeys, false) => ("the keys' groups", "parallel in one group, synchronous over several"),
            (Access::ReadsGroup, _) => ("the cursor's group", "read of one group, not ordered"),
            (Access::ReadsAll, _) => ("all groups", "synchronous at one replica"),
            (Access::WritesAll, _) => ("all groups", "synchronous"),
            (Access::Queued, _) => {
                ("groups of its commands' keys and of the watched keys", "parallel in one group, synchronous over several")
            }
        };
        CommandInfo { name: command.name.to_ascii_uppercase(), arity: command.arity, access: acting.access, gamma, mode }
    };
    COMMANDS.iter().map(info).collect()
}

/// C-Dep: whether two commands depend on each other, by what they touch.
pub fn dependency(one: Access, other: Access) -> Dependency {
    use Access::{Nothing, Queued, ReadsGroup, ReadsKeys, WritesAll, WritesKeys};
    let writes = |access| matches!(access, WritesKeys | WritesAll | Queued);
    match (one, other) {
        (Nothing, _) | (_, Nothing) => Dependency::Never,
        _ if !writes(one) && !writes(other) => Dependency::Never,
        (WritesKeys | ReadsKeys | Queued, WritesKeys | ReadsKeys | Queued) => Dependency::SameKey,
        (ReadsGroup, WritesKeys | Queued) | (WritesKeys | Queued, ReadsGroup) => Dependency::SameGroup,
        _ => Dependency::Always,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for (at, command) in commands().iter().enumerate() {
            for name in [command.name.to_owned(), command.name.to_ascii_uppercase()] {
                assert_eq!(find(name.as_bytes()).map(|(place, found)| (place, found.name)), Some((at, command.name)));
            }
        }
        for name in [&b""[..], b"g", b"gett", b"objects", b"\xff\xff"] {
            assert!(find(name).is_none());
        }
        assert_eq!(find(b"client").and_then(|(_, c)| find_subcommand(c, b"SetName")).map(|c| c.name), Some("client|setname"));
    }

    #[test]
    fn entries_agree_with_themselves() {
        for command in commands().iter().flat_map(|command| std::iter::once(command).chain(command.subcommands)) {
            let touches_keys = matches!(command.access, Access::ReadsKeys | Access::WritesKeys);
            assert_eq!(touches_keys, command.keys != NO_KEYS, "{}", command.name);
            let writes = matches!(command.access, Access::WritesKeys | Access::WritesAll);
            assert!(writes == command.flags.contains("write") || command.has_counted_keys(), "{}", command.name);
            assert!(!command.summary.is_empty() && !command.section.is_empty() && !command.since.is_empty());
            // A command with one key must have it whatever its number of arguments.
            assert!(command
                .key_places(command.arity.unsigned_abs() as usize)
                .all(|at| at < command.arity.unsigned_abs() as usize));
        }
        assert_eq!(commands()[5].key_places(5).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn dependent_commands_share_a_group() {
        for one in explain() {
            for other in explain() {
                let dependent = dependency(one.access, other.access);
                assert_eq!(dependent, dependency(other.access, one.access));
                if dependent == Dependency::Always {
                    assert!(one.gamma == "all groups" || other.gamma == "all groups", "{} {}", one.name, other.name);
                }
            }
        }
        assert_eq!(dependency(Access::ReadsKeys, Access::WritesKeys), Dependency::SameKey);
        assert_eq!(dependency(Access::ReadsKeys, Access::ReadsAll), Dependency::Never);
    }
}
