//! A small mesh for the tests, built by name.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    balance::InFlight,
    model::{
        AppProtocol, Exports, Health, LoadBalancing, Locality, NetworkMode, PortMapping, Service, ServiceKey, ServicePort,
        TrustDomain, TunnelProtocol, VirtualAddress, Workload, WorkloadKind, WorkloadUid,
    },
};

/// A healthy pod that speaks HBONE. `name` is `namespace/name`; the name is its service account too.
pub(crate) fn pod(name: &str, addresses: &[&str]) -> Workload {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    Workload {
        uid: uid(&format!("{namespace}/{name}")),
        name: name.into(),
        namespace: namespace.into(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::default(),
        service_account: name.into(),
        node: "node1".into(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

/// A service with ports `(service port, target port)`. `name` is `namespace/name`.
pub(crate) fn service(name: &str, addresses: &[&str], ports: &[(u16, u16)]) -> Service {
    let key = key(name);
    let (_, name) = name.split_once('/').expect("namespace/name");
    let port = |(service_port, target_port): &(u16, u16)| ServicePort {
        service_port: *service_port,
        target_port: *target_port,
        protocol: AppProtocol::Unknown,
    };
    let virtual_address = |text: &&str| match text.parse() {
        Ok(range) => VirtualAddress { network: "".into(), range },
        Err(_) => VirtualAddress::host(address(text)),
    };
    Service {
        name: name.into(),
        namespace: key.namespace,
        hostname: key.hostname,
        addresses: addresses.iter().map(virtual_address).collect(),
        ports: ports.iter().map(port).collect(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        exports: Exports::Everywhere,
    }
}

pub(crate) trait Serves {
    /// Makes the workload an endpoint of a service, with its own target ports.
    fn serves(self, service: &str, ports: &[(u16, u16)]) -> Self;
}

impl Serves for Workload {
    fn serves(mut self, service: &str, ports: &[(u16, u16)]) -> Self {
        let mapping =
            |(service_port, target_port): &(u16, u16)| PortMapping { service_port: *service_port, target_port: *target_port };
        self.services.insert(key(service), ports.iter().map(mapping).collect());
        self
    }
}

pub(crate) fn key(name: &str) -> ServiceKey {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    ServiceKey { namespace: namespace.into(), hostname: format!("{name}.{namespace}.svc.cluster.local").into() }
}

pub(crate) fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/{name}").into())
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("not an address: {text}"))
}

/// Nothing in flight anywhere.
pub(crate) struct Idle;

impl InFlight for Idle {
    fn of(&self, _: &WorkloadUid) -> u32 {
        0
    }
}
