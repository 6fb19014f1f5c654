//! The load generator over native clients, against the key-value store.

use super::support::Cluster;
use psmr_core::gateway::Gateway;
use psmr_node::client_thread::GatewayFactory;
use psmr_node::load::{preload, run, verify, Control, LoadError, Mode, NativeService, Options, Protocol};
use psmr_services::kv::KvService;
use psmr_services::resp::{Limits, RespGateway};
use std::sync::Arc;
use std::time::Duration;

fn factory() -> GatewayFactory {
    Arc::new(|id| Box::new(RespGateway::new(id, Limits::default())) as Box<dyn Gateway>)
}

fn cluster() -> Cluster {
    Cluster::of(Arc::new(KvService::default()), factory())
}

fn options(cluster: &Cluster) -> Options {
    Options {
        addresses: (1..=3).map(|replica| cluster.address(replica)).collect(),
        protocol: Protocol::Native,
        native: Some(NativeService { name: "kv".into(), gateway: factory() }),
        connections: 6,
        depth: 8,
        keys: 500,
        seconds: 1.0,
        ..Options::default()
    }
}

#[test]
fn reads_and_writes_over_native_clients_get_only_right_replies() {
    let cluster = cluster();
    let options = Options { reads: 0.5, value_bytes: 100, ..options(&cluster) };
    preload(&options, &Control::default()).unwrap();
    let report = run(&options, &Control::default()).unwrap();
    assert_eq!((report.errors, report.disconnects, report.unknown, report.reads_empty), (0, 0, 0, 0), "{report:?}");
    assert!(report.commands > 500 && report.reads > 0 && report.writes > 0, "{report:?}");
    // More at once than a client takes: the rest waits in the stream.
    let deep = Options { depth: 20_000, connections: 1, ..options };
    let report = run(&deep, &Control::default()).unwrap();
    assert_eq!((report.errors, report.commands % 20_000), (0, 0), "{report:?}");
    assert!(report.commands > 0);
}

#[test]
fn no_write_is_lost_and_none_is_unknown_when_a_replica_stops() {
    let mut cluster = cluster();
    let options = Options { mode: Mode::UniqueWrites, rate: 5_000.0, seconds: 3.0, ..options(&cluster) };
    let report = std::thread::scope(|scope| {
        let stopper = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(800));
            cluster.stop_node(1);
        });
        let report = run(&options, &Control::default()).unwrap();
        stopper.join().unwrap();
        report
    });
    assert_eq!((report.errors, report.disconnects, report.unknown), (0, 0, 0), "{report:?}");
    let acknowledged = report.acknowledged.unwrap();
    assert!(acknowledged.count() > 5_000, "{}", acknowledged.count());
    let survivors = [cluster.address(2), cluster.address(3)];
    let verification = verify(&acknowledged, &survivors, 10.0, &Control::default()).unwrap();
    assert!(verification.is_complete(), "{verification:?}");
}

#[test]
fn a_cluster_of_another_service_or_none_at_all_is_an_error_with_the_address() {
    let cluster = Cluster::start();
    let wrong = run(&options(&cluster), &Control::default()).unwrap_err();
    assert!(matches!(&wrong, LoadError::Connect { cause, .. } if cause.contains("counters")), "{wrong}");
    let address = cluster.address(1);
    drop(cluster);
    let nobody = Options { addresses: vec![address.clone()], ..Options::default() };
    let nobody =
        Options { protocol: Protocol::Native, native: Some(NativeService { name: "kv".into(), gateway: factory() }), ..nobody };
    let error = run(&nobody, &Control::default()).unwrap_err();
    assert!(matches!(&error, LoadError::Connect { address: named, .. } if *named == address), "{error}");
}
