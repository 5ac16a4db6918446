//! A snapshot of a large cluster holds everything, and the parts that grow are found again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use mesh_policy::{
    destination::{Plan, plan},
    model::{
        AppProtocol, Exports, Health, LoadBalancing, Locality, Model, NetworkMode, Service, ServicePort, TrustDomain,
        TunnelProtocol, VirtualAddress, Workload, WorkloadKind, WorkloadUid,
    },
};

const SERVICES: u32 = 10_000;
const WORKLOADS: u32 = 50_000;

#[test]
fn a_large_cluster_fits_into_a_snapshot() {
    let mut model = Model::default();
    for number in 0..SERVICES {
        model.upsert_service(service(number));
    }
    for number in 0..WORKLOADS {
        model.upsert_workload(workload(number));
    }
    let snapshot = model.snapshot();

    assert_eq!(snapshot.services().count(), SERVICES as usize);
    assert_eq!(snapshot.workloads().count(), WORKLOADS as usize);
    let endpoints: usize = snapshot.services().map(|service| snapshot.endpoints(&service.key()).len()).sum();
    assert_eq!(endpoints, WORKLOADS as usize);
    let source = snapshot.workload_at(pod_address(0)).expect("every pod is found by its address");
    let planned = (0..SERVICES).filter(|number| {
        let dialled = (service_address(*number), 80).into();
        matches!(plan(&snapshot, source, dialled), Plan::Connect(_))
    });
    assert_eq!(planned.count(), SERVICES as usize);
}

fn service(number: u32) -> Service {
    let namespace = format!("ns-{}", number % 100);
    Service {
        name: format!("svc-{number}").into(),
        hostname: format!("svc-{number}.{namespace}.svc.cluster.local").into(),
        namespace: namespace.into(),
        addresses: vec![VirtualAddress::host(service_address(number))],
        ports: vec![ServicePort { service_port: 80, target_port: 8080, protocol: AppProtocol::Http11 }],
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        exports: Exports::Everywhere,
    }
}

fn workload(number: u32) -> Workload {
    let serves = service(number % SERVICES);
    let name = format!("pod-{number}");
    Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/{}/{name}", serves.namespace).into()),
        name: name.as_str().into(),
        namespace: serves.namespace.clone(),
        addresses: vec![pod_address(number)],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::default(),
        service_account: serves.name.clone(),
        node: format!("node-{}", number % 500).into(),
        cluster: "Kubernetes".into(),
        canonical_name: serves.name.clone(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Deployment,
        workload_name: serves.name.clone(),
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::new(),
        services: BTreeMap::from([(serves.key(), Vec::new())]),
    }
}

fn service_address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a60_0000 + number).into()
}

fn pod_address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a80_0000 + number).into()
}
