//! What keeps a replica from starting: what its user has to change (usage) is told from what failed.

use psmr_core::config::Config;
use psmr_core::gateway::Gateway;
use psmr_node::log_storage::{FileLog, FileLogOptions};
use psmr_node::node::{Node, NodeConfig, NodeError};
use psmr_services::kv::KvService;
use psmr_services::resp::{Limits, RespGateway};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const GROUPS: usize = 2;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

/// One replica in this process, which listens for nobody unless it is told to.
fn start(data: Option<&Path>, groups: usize, listen: Option<SocketAddr>) -> Result<Node, NodeError> {
    let config = NodeConfig {
        core: Config::new(1, 1, groups, 1),
        cluster: [7; 16],
        listen,
        peer_listen: None,
        peers: vec![None],
        client_addresses: Vec::new(),
        workers: 1,
        shares_thread: false,
        memory_bytes_max: 0,
        allows_debug: false,
        counts: None,
        source: None,
        data: data.map(Path::to_path_buf),
    };
    let factory = Arc::new(|id| Box::new(RespGateway::new(id, Limits::default())) as Box<dyn Gateway>);
    Node::start(config, Arc::new(KvService::default()), factory)
}

fn refusal(data: &Path, groups: usize) -> NodeError {
    start(Some(data), groups, None).err().expect("it must not start")
}

fn assert_usage(error: NodeError, part: &str) {
    let NodeError::Usage(line) = error else { panic!("no wrong usage: {error:?}") };
    assert!(line.contains(part) && line.contains("; ") && !line.contains('\n'), "{line}");
}

fn assert_failure(error: NodeError, part: &str) {
    let NodeError::Failure(line) = error else { panic!("no failure: {error:?}") };
    assert!(line.contains(part) && line.contains("; ") && !line.contains('\n'), "{line}");
}

/// A data directory that a replica has left.
fn used() -> tempfile::TempDir {
    let data = directory();
    start(Some(data.path()), GROUPS, None).expect("start").stop();
    data
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(data.join("log")).expect("list").map(|item| item.expect("item").path());
    let mut found: Vec<PathBuf> = items.filter(|path| path.to_string_lossy().contains("segment-")).collect();
    found.sort();
    found
}

#[test]
fn a_directory_in_use_is_wrong_usage() {
    let data = directory();
    let node = start(Some(data.path()), GROUPS, None).expect("start");
    assert_usage(refusal(data.path(), GROUPS), "in use");
    node.stop();
}

#[test]
fn a_log_in_use_is_wrong_usage() {
    let data = used();
    let held = FileLog::open(&data.path().join("log"), FileLogOptions::default(), 2).expect("open");
    assert_usage(refusal(data.path(), GROUPS), "in use");
    drop(held);
}

#[test]
fn a_directory_of_something_else_is_wrong_usage() {
    let data = directory();
    fs::write(data.path().join("letter.txt"), "dear").expect("write");
    assert_usage(refusal(data.path(), GROUPS), "is no data directory");
    assert_usage(refusal(&data.path().join("letter.txt"), GROUPS), "is not a directory");

    let data = used();
    fs::remove_dir_all(data.path().join("log")).expect("remove");
    fs::create_dir(data.path().join("log")).expect("create");
    fs::write(data.path().join("log/letter.txt"), "dear").expect("write");
    assert_usage(refusal(data.path(), GROUPS), "holds no log");
}

#[test]
fn a_directory_of_other_tables_is_wrong_usage() {
    let data = used();
    assert_usage(refusal(data.path(), GROUPS + 1), "other groups");
}

#[test]
fn a_log_of_another_number_of_streams_is_wrong_usage() {
    let data = used();
    fs::remove_dir_all(data.path().join("log")).expect("remove");
    drop(FileLog::open(&data.path().join("log"), FileLogOptions::default(), 5).expect("open"));
    assert_usage(refusal(data.path(), GROUPS), "5 logs");
}

#[test]
fn a_damaged_identity_is_a_failure() {
    let data = used();
    let path = data.path().join("identity");
    let text = fs::read_to_string(&path).expect("read");
    fs::write(&path, text.replace("replica 1", "replica 2")).expect("write");
    assert_failure(refusal(data.path(), GROUPS), "is damaged");
}

#[test]
fn rot_in_the_log_is_a_failure() {
    let data = used();
    let first = segments(data.path()).remove(0);
    let mut bytes = fs::read(&first).expect("read");
    bytes[20] ^= 1;
    fs::write(&first, bytes).expect("write");
    assert_failure(refusal(data.path(), GROUPS), "is damaged");
}

#[test]
fn a_disk_that_answers_with_an_error_is_a_failure() {
    let data = used();
    let identity = data.path().join("identity");
    fs::remove_file(&identity).expect("remove");
    fs::create_dir(&identity).expect("create");
    assert_failure(refusal(data.path(), GROUPS), "cannot read");
}

#[test]
fn a_port_in_use_is_told_from_an_address_of_another_machine() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let in_use = start(None, GROUPS, Some(taken.local_addr().expect("address"))).err().expect("in use");
    assert_usage(in_use, "choose another port, or stop who uses it");
    // Of the range for documentation: no machine has it.
    let elsewhere = start(None, GROUPS, Some("192.0.2.1:33001".parse().expect("address"))).err().expect("elsewhere");
    assert_usage(elsewhere, "choose an address of this machine");
}
