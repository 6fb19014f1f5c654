//! The subcommands of the containers in the table.

use super::{command, CommandSpec, KeyPositions, CONNECTION_ADMIN, CONNECTION_SLOW, RO, SHARDS_ALL};
use crate::resp::{cluster, connection as local, diagnostics, introspect, script};

/// The key is behind the subcommand's name.
const SECOND: KeyPositions = KeyPositions { first: 2, last: 2, step: 1 };
const ADMIN: &str = "@admin @slow @dangerous";
const HELP: &str = "Show helpful text about the different subcommands";

pub static SCRIPT: [CommandSpec; 4] = [
    command("script|exists", -3, script::exists)
        .flags("noscript", "@slow @scripting", "request_policy:all_shards response_policy:agg_logical_and")
        .about("scripting", "2.6.0", "Check existence of scripts in the script cache.")
        .costs("O(N) with N being the number of scripts to check"),
    command("script|flush", -2, script::flush)
        .flags("noscript", "@slow @scripting", "request_policy:all_nodes response_policy:all_succeeded")
        .about("scripting", "2.6.0", "Remove all the scripts from the script cache."),
    command("script|load", 3, script::load)
        .flags("noscript stale", "@slow @scripting", "request_policy:all_nodes response_policy:all_succeeded")
        .about("scripting", "2.6.0", "Load the specified Lua script into the script cache.")
        .costs("O(N) with N being the length in bytes of the script body."),
    command("script|help", 2, introspect::help).flags("loading stale", "@slow @scripting", "").about("scripting", "5.0.0", HELP),
];

pub static CLIENT: [CommandSpec; 13] = [
    command("client|id", 2, local::client_id).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "5.0.0",
        "Returns the client ID for the current connection",
    ),
    command("client|setname", 3, local::client_set_name).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "2.6.9",
        "Set the current connection name",
    ),
    command("client|getname", 2, local::client_get_name).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "2.6.9",
        "Get the current connection name",
    ),
    command("client|setinfo", 4, local::client_set_info).flags("noscript loading stale", CONNECTION_SLOW, SHARDS_ALL).about(
        "connection",
        "7.2.0",
        "Set client or connection specific info",
    ),
    command("client|info", 2, introspect::client_info)
        .flags("noscript loading stale", CONNECTION_SLOW, "nondeterministic_output")
        .about("connection", "6.2.0", "Returns information about the current client connection."),
    command("client|list", -2, introspect::client_list)
        .flags("admin noscript loading stale", CONNECTION_ADMIN, "nondeterministic_output")
        .about("connection", "2.4.0", "Get the list of client connections")
        .costs("O(N) where N is the number of client connections"),
    command("client|no-evict", 3, local::client_switch).flags("admin noscript loading stale", CONNECTION_ADMIN, "").about(
        "connection",
        "7.0.0",
        "Set client eviction mode for the current connection",
    ),
    command("client|no-touch", 3, local::client_switch).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "7.2.0",
        "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.",
    ),
    command("client|reply", 3, local::client_reply).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "3.2.0",
        "Instruct the server whether to reply to commands",
    ),
    command("client|tracking", -3, local::client_tracking).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "6.0.0",
        "Enable or disable server assisted client side caching support",
    ),
    command("client|trackinginfo", 2, local::client_tracking_info).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "6.2.0",
        "Return information about server assisted client side caching for the current connection",
    ),
    command("client|getredir", 2, local::client_get_redirection).flags("noscript loading stale", CONNECTION_SLOW, "").about(
        "connection",
        "6.0.0",
        "Get tracking notifications redirection client ID if any",
    ),
    command("client|help", 2, introspect::help).flags("loading stale", "@slow @connection", "").about(
        "connection",
        "5.0.0",
        HELP,
    ),
];

pub static COMMAND: [CommandSpec; 7] = [
    command("command|count", 2, introspect::command_count).flags("loading stale", CONNECTION_SLOW, "").about(
        "server",
        "2.8.13",
        "Get total number of Redis commands",
    ),
    command("command|docs", -2, introspect::command_docs)
        .flags("loading stale", CONNECTION_SLOW, "nondeterministic_output_order")
        .about("server", "7.0.0", "Get array of specific Redis command documentation")
        .costs("O(N) where N is the number of commands to look up"),
    command("command|info", -2, introspect::command_info)
        .flags("loading stale", CONNECTION_SLOW, "nondeterministic_output_order")
        .about("server", "2.8.13", "Get array of specific Redis command details, or all when no argument is given.")
        .costs("O(N) where N is the number of commands to look up"),
    command("command|list", -2, introspect::command_list)
        .flags("loading stale", CONNECTION_SLOW, "nondeterministic_output_order")
        .about("server", "7.0.0", "Get an array of Redis command names")
        .costs("O(N) where N is the total number of Redis commands"),
    command("command|getkeys", -4, introspect::command_keys)
        .flags("loading stale", CONNECTION_SLOW, "")
        .about("server", "2.8.13", "Extract keys given a full Redis command")
        .costs("O(N) where N is the number of arguments to the command"),
    command("command|getkeysandflags", -4, introspect::command_keys_and_flags)
        .flags("loading stale", CONNECTION_SLOW, "")
        .about("server", "7.0.0", "Extract keys and access flags given a full Redis command")
        .costs("O(N) where N is the number of arguments to the command"),
    command("command|help", 2, introspect::help).flags("loading stale", "@slow @connection", "").about("server", "5.0.0", HELP),
];

pub static CONFIG: [CommandSpec; 2] = [
    command("config|get", -3, introspect::config_get)
        .flags("admin noscript loading stale", "@admin @slow @dangerous", "")
        .about("server", "2.0.0", "Get the values of configuration parameters")
        .costs("O(N) when N is the number of configuration parameters provided"),
    command("config|help", 2, introspect::help).flags("loading stale", "@slow", "").about("server", "5.0.0", HELP),
];

pub static CLUSTER: [CommandSpec; 7] = [
    command("cluster|info", 2, cluster::info).flags("stale", "@slow", "nondeterministic_output").about(
        "cluster",
        "3.0.0",
        "Provides info about Redis Cluster node state",
    ),
    command("cluster|keyslot", 3, cluster::key_slot)
        .flags("stale", "@slow", "")
        .about("cluster", "3.0.0", "Returns the hash slot of the specified key")
        .costs("O(N) where N is the number of bytes in the key"),
    command("cluster|myid", 2, cluster::my_id).flags("stale", "@slow", "").about("cluster", "3.0.0", "Return the node id"),
    command("cluster|nodes", 2, cluster::nodes)
        .flags("stale", "@slow", "nondeterministic_output")
        .about("cluster", "3.0.0", "Get Cluster config for the node")
        .costs("O(N) where N is the total number of Cluster nodes"),
    command("cluster|shards", 2, cluster::shards)
        .flags("stale", "@slow", "nondeterministic_output")
        .about("cluster", "7.0.0", "Get array of cluster slots to node mappings")
        .costs("O(N) where N is the total number of cluster nodes"),
    command("cluster|slots", 2, cluster::slots)
        .flags("stale", "@slow", "nondeterministic_output")
        .about("cluster", "3.0.0", "Get array of Cluster slot to node mappings")
        .costs("O(N) where N is the total number of Cluster nodes"),
    command("cluster|help", 2, introspect::help).flags("loading stale", "@slow", "").about("cluster", "5.0.0", HELP),
];

pub static OBJECT: [CommandSpec; 5] = [
    command("object|encoding", 3, diagnostics::object_encoding)
        .keys(SECOND, RO, "RO")
        .flags("readonly", "@keyspace @read @slow", "nondeterministic_output")
        .about("generic", "2.2.3", "Inspect the internal encoding of a Redis object"),
    command("object|freq", 3, diagnostics::object_frequency)
        .keys(SECOND, RO, "RO")
        .flags("readonly", "@keyspace @read @slow", "nondeterministic_output")
        .about("generic", "4.0.0", "Get the logarithmic access frequency counter of a Redis object"),
    command("object|idletime", 3, diagnostics::object_idle_time)
        .keys(SECOND, RO, "RO")
        .flags("readonly", "@keyspace @read @slow", "nondeterministic_output")
        .about("generic", "2.2.3", "Get the time since a Redis object was last accessed"),
    command("object|refcount", 3, diagnostics::object_references)
        .keys(SECOND, RO, "RO")
        .flags("readonly", "@keyspace @read @slow", "nondeterministic_output")
        .about("generic", "2.2.3", "Get the number of references to the value of the key"),
    command("object|help", 2, introspect::help).flags("loading stale", "@keyspace @slow", "").about("generic", "6.2.0", HELP),
];

pub static MEMORY: [CommandSpec; 2] = [
    command("memory|usage", -3, diagnostics::memory_usage)
        .keys(SECOND, RO, "RO")
        .flags("readonly", "@read @slow", "")
        .about("server", "4.0.0", "Estimate the memory usage of a key")
        .costs("O(N) where N is the number of samples."),
    command("memory|help", 2, introspect::help).flags("loading stale", "@slow", "").about("server", "4.0.0", HELP),
];

pub static SLOWLOG: [CommandSpec; 4] = [
    command("slowlog|get", -2, diagnostics::slow_log_get)
        .flags("admin loading stale", ADMIN, "request_policy:all_nodes nondeterministic_output")
        .about("server", "2.2.12", "Get the slow log's entries")
        .costs("O(N) where N is the number of entries returned"),
    command("slowlog|len", 2, diagnostics::zero)
        .flags("admin loading stale", ADMIN, "request_policy:all_nodes response_policy:agg_sum nondeterministic_output")
        .about("server", "2.2.12", "Get the slow log's length"),
    command("slowlog|reset", 2, local::done)
        .flags("admin loading stale", ADMIN, "request_policy:all_nodes response_policy:all_succeeded")
        .about("server", "2.2.12", "Clear all entries from the slow log")
        .costs("O(N) where N is the number of entries in the slowlog"),
    command("slowlog|help", 2, introspect::help).flags("loading stale", "@slow", "").about("server", "6.2.0", HELP),
];

pub static LATENCY: [CommandSpec; 4] = [
    command("latency|history", 3, diagnostics::nothing)
        .flags("admin noscript loading stale", ADMIN, "nondeterministic_output request_policy:all_nodes response_policy:special")
        .about("server", "2.8.13", "Return timestamp-latency samples for the event."),
    command("latency|latest", 2, diagnostics::nothing)
        .flags("admin noscript loading stale", ADMIN, "nondeterministic_output request_policy:all_nodes response_policy:special")
        .about("server", "2.8.13", "Return the latest latency samples for all events."),
    command("latency|reset", -2, diagnostics::zero)
        .flags("admin noscript loading stale", ADMIN, "request_policy:all_nodes response_policy:all_succeeded")
        .about("server", "2.8.13", "Reset latency data for one or more events."),
    command("latency|help", 2, introspect::help).flags("loading stale", "@slow", "").about(
        "server",
        "2.8.13",
        "Show helpful text about the different subcommands.",
    ),
];
