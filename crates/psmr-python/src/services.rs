//! The services that come with the package, by name.

use crate::gate::Error;
use psmr_core::gateway::Gateway;
use psmr_core::service::Service;
use psmr_node::client_thread::{CommandCounts, GatewayFactory};
use psmr_services::kv::KvService;
use psmr_services::resp::table::{self, Dependency};
use psmr_services::resp::{Counts, Limits, RespGateway, Scripts};
use serde_json::{json, Value};
use std::sync::Arc;

/// A service of this package.
#[derive(Clone, Copy)]
pub enum Builtin {
    /// The key-value store, for Redis clients.
    Kv,
}

/// The service with this name.
///
/// # Errors
/// If there is none.
pub fn find(name: &str) -> Result<Builtin, Error> {
    match name {
        "kv" => Ok(Builtin::Kv),
        _ => Err(Error::Usage(format!("there is no service {name:?}: allowed is kv"))),
    }
}

impl Builtin {
    /// C-Dep and C-G, as `psmr explain` shows them.
    pub fn explain(self) -> Value {
        let Builtin::Kv = self;
        let commands = table::explain();
        let mut dependencies = Vec::new();
        for (at, one) in commands.iter().enumerate() {
            for other in &commands[at..] {
                let when = match table::dependency(one.access, other.access) {
                    Dependency::Never => continue,
                    Dependency::SameKey => "same key",
                    Dependency::SameGroup => "same group",
                    Dependency::Always => "always",
                };
                dependencies.push(json!({"a": one.name, "b": other.name, "when": when}));
            }
        }
        let group = |c: &table::CommandInfo| json!({"command": c.name, "groups": c.gamma, "mode": c.mode});
        let groups: Vec<Value> = commands.iter().map(group).collect();
        json!({"service": "kv", "c_dep": dependencies, "c_g": groups})
    }

    /// The service, and what makes the gateways of its clients.
    pub fn make(self) -> (Arc<dyn Service>, GatewayFactory) {
        let (service, factory, _) = self.make_counted();
        (service, factory)
    }

    /// The same, and what the gateways count together.
    pub fn make_counted(self) -> (Arc<dyn Service>, GatewayFactory, CommandCounts) {
        match self {
            Builtin::Kv => {
                let counts = Arc::new(Counts::default());
                let service = KvService::default();
                let (counted, totals, scripts) = (counts.clone(), service.totals.clone(), Arc::new(Scripts::default()));
                let factory = move |id: u64| {
                    let gateway = RespGateway::new(id, Limits::default()).counted_by(counted.clone()).told_by(totals.clone());
                    Box::new(gateway.knowing(scripts.clone())) as Box<dyn Gateway>
                };
                (Arc::new(service), Arc::new(factory), Arc::new(move || counts.by_name()))
            }
        }
    }
}
