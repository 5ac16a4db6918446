//! Workloads, services and records for tests of telemetry.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use mesh_policy::model::{
    Exports, Health, Identity, LoadBalancing, Locality, NetworkMode, Service, TrustDomain, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};

use super::{Cluster, Direction, Flow, Party, RequestFacts, RequestRecord, Security, Telemetry, Transport};

pub(crate) fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(name.into()),
        name: format!("{name}-7d9c").into(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, 1].into()],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::default(),
        tunnel: TunnelProtocol::default(),
        trust_domain: TrustDomain::default(),
        service_account: name.into(),
        node: "node-1".into(),
        cluster: "c1".into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        kind: WorkloadKind::default(),
        workload_name: format!("{name}-v1").into(),
        policies: Vec::new(),
        health: Health::default(),
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::default(),
        services: BTreeMap::default(),
    })
}

pub(crate) fn party(name: &str) -> Party {
    Party { workload: Some(workload(name)), identity: Some(Identity::new(TrustDomain::default(), "shop", name)) }
}

pub(crate) fn service(name: &str) -> Arc<Service> {
    Arc::new(Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local").into(),
        addresses: Vec::new(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        exports: Exports::Everywhere,
    })
}

pub(crate) fn flow(direction: Direction) -> Flow {
    Flow {
        direction,
        transport: Transport::Hbone,
        security: Security::MutualTls,
        source_address: SocketAddr::from(([10, 0, 0, 1], 4711)),
        original_destination: SocketAddr::from(([10, 96, 0, 7], 9080)),
        destination_address: Some(SocketAddr::from(([10, 0, 1, 2], 9080))),
        source: party("page"),
        destination: party("reviews"),
        service: Some(service("reviews")),
    }
}

pub(crate) fn cluster() -> Cluster {
    Cluster::Outbound { port: 9080, subset: Some("v1".into()), host: "reviews.shop.svc.cluster.local".into() }
}

pub(crate) fn facts(request: http::request::Builder) -> RequestFacts {
    RequestFacts::of(&request.body(()).expect("a request").into_parts().0)
}

pub(crate) fn record(telemetry: &Arc<Telemetry>) -> RequestRecord {
    let path = telemetry.path(flow(Direction::Outbound), cluster());
    telemetry.request(path, facts(http::Request::get("/reviews/1?full").header("host", "reviews:9080")))
}
