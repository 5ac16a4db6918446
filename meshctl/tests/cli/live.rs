//! Questions to running nodes: their models as they serve them.

use std::sync::Arc;

use mesh_policy::model::{
    AppProtocol, Exports, Health, LoadBalancing, Locality, Model, NetworkMode, PortMapping, Service, ServiceKey, ServicePort,
    TrustDomain, TunnelProtocol, VirtualAddress, Workload, WorkloadKind, WorkloadUid,
};
use mesh_proto::convert::archive;

use crate::machine::{Answers, Machine};

/// `shop/client` on node-1 and `shop/cart` behind a service, which node-2 knows under another port.
fn model(target_port: u16) -> Model {
    let key = ServiceKey { namespace: "shop".into(), hostname: "cart.shop.svc.cluster.local".into() };
    let mut model = Model::default();
    model.upsert_service(Service {
        name: "cart".into(),
        namespace: key.namespace.clone(),
        hostname: key.hostname.clone(),
        addresses: vec![VirtualAddress::host([10, 96, 0, 1].into())],
        ports: vec![ServicePort { service_port: 80, target_port, protocol: AppProtocol::Http11 }],
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        exports: Exports::Everywhere,
    });
    model.upsert_workload(workload("client", 1));
    let mapping = PortMapping { service_port: 80, target_port };
    model.upsert_workload(Workload { services: [(key, vec![mapping])].into(), ..workload("cart", 2) });
    model
}

fn workload(name: &str, last: u8) -> Workload {
    let name: Arc<str> = name.into();
    Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into()),
        name: name.clone(),
        namespace: "shop".into(),
        addresses: vec![[10, 1, 0, last].into()],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::default(),
        service_account: name.clone(),
        node: "node-1".into(),
        cluster: "Kubernetes".into(),
        canonical_name: name.clone(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name,
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: [].into(),
        services: [].into(),
    }
}

#[tokio::test]
async fn the_node_of_the_client_is_asked() {
    let machine = Machine::new();
    for (node, port) in [("node-0", 8000), ("node-1", 8001)] {
        let answers = Answers { model: archive(&model(port)), ..Answers::fixture("node-1").named(node) };
        machine.start(&format!("lab/demo/nodes/{node}"), answers);
    }
    let told = machine.run("explain shop/client cart").await.succeeded();
    assert!(told.starts_with("200-class: routed to shop/cart:80\n"), "{told}");
    assert!(told.contains("shop/cart 10.1.0.2:8001 on node-1: healthy, tier 0, mutual identity on the same node"), "{told}");
    let none = machine.run("routes shop/cart").await;
    assert!(none.err.contains("has no rules") && none.code == Some(0), "{}", none.all());
}

#[tokio::test]
async fn without_nodes_files_are_proposed() {
    let error = Machine::new().run("explain shop/client cart").await.failed();
    assert!(error.contains("--from-files") && error.contains("no node found"), "{error}");
}
