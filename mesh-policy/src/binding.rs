//! What a captured connection is bound to, and with it whose routes its requests follow.
//!
//! The address decides, not what a request says: a service's own address is that service whatever its Host, a workload's is
//! that workload. Only behind headless services, whose addresses are those of their workloads, does the Host tell which of
//! them is meant, and then the rules change, and the workload that was dialled stays the endpoint unless they name another.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    destination::is_own_address,
    model::{PortMapping, Routes, RoutingMode, Service, ServiceKey, Snapshot, Workload, WorkloadUid},
};

/// A connection whose requests are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub to: BoundTo,
    pub dialled: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundTo {
    /// The service whose address was dialled, whatever the requests' hosts say.
    Service(ServiceKey),
    /// The workload whose address was dialled. A request whose host is one of the headless services that it stands behind
    /// on this port is treated by that service's rules; it reaches this workload unless they name another service.
    Workload { uid: WorkloadUid, headless: Arc<[ServiceKey]> },
}

/// Says what a connection from `source` to `original` is bound to; None: its bytes are carried as they are.
///
/// An address is, in the order of [`plan`](crate::destination::plan): a service's own, a workload's, one within a
/// ServiceEntry's range.
pub fn bind(snapshot: &Snapshot, source: &Workload, original: SocketAddr) -> Option<Bound> {
    if !snapshot.http().enabled {
        return None;
    }
    let dialled = SocketAddr::new(original.ip().to_canonical(), original.port());
    let workload = snapshot.workload_at(dialled.ip()).filter(|workload| workload.network == source.network);
    let to = match (snapshot.service_at(dialled.ip()), workload) {
        (Some(service), Some(workload)) if !is_own_address(service, dialled.ip()) => {
            to_workload(snapshot, workload, dialled.port())
        }
        (Some(service), Some(workload)) if service.load_balancing.mode == RoutingMode::Passthrough => {
            to_service(service, dialled.port()).or_else(|| to_workload(snapshot, workload, dialled.port()))
        }
        (Some(service), _) => to_service(service, dialled.port()),
        (None, Some(workload)) => to_workload(snapshot, workload, dialled.port()),
        (None, None) => None,
    }?;
    Some(Bound { to, dialled })
}

fn to_service(service: &Service, port: u16) -> Option<BoundTo> {
    let declared = service.port(port)?.protocol;
    declared.is_http().then(|| BoundTo::Service(service.key()))
}

fn to_workload(snapshot: &Snapshot, workload: &Workload, port: u16) -> Option<BoundTo> {
    if !snapshot.protocol_at(workload, port).is_http() {
        return None;
    }
    let serves_here = |key: &&ServiceKey| {
        let Some(service) = snapshot.service(key) else { return false };
        let here = |mapping: &&PortMapping| {
            mapping.target_port == port && service.port(mapping.service_port).is_some_and(|port| port.protocol.is_http())
        };
        service.addresses.is_empty() && mapping_of(workload, key, here).is_some()
    };
    let headless = workload.services.keys().filter(serves_here).cloned().collect();
    Some(BoundTo::Workload { uid: workload.uid.clone(), headless })
}

fn mapping_of(workload: &Workload, service: &ServiceKey, is: impl Fn(&&PortMapping) -> bool) -> Option<PortMapping> {
    workload.services.get(service)?.iter().find(|mapping| is(mapping)).copied()
}

/// What a request is addressed to, by what its connection is bound to and its host.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// Whose rules apply.
    pub service: Option<&'a Arc<Service>>,
    /// The service's port; of a workload that was dialled itself and stands behind no service, its own.
    pub port: u16,
    /// The workload whose own address was dialled.
    pub dialled: Option<&'a Arc<Workload>>,
}

impl Bound {
    /// None: what the connection was bound to is no longer there.
    pub fn address<'a>(&self, snapshot: &'a Snapshot, source: &Workload, host: &str) -> Option<Addressed<'a>> {
        let port = self.dialled.port();
        match &self.to {
            BoundTo::Service(key) => Some(Addressed { service: Some(snapshot.service(key)?), port, dialled: None }),
            BoundTo::Workload { uid, headless } => {
                let workload = snapshot.workload(uid)?;
                let mut named = headless.iter().filter_map(|key| snapshot.service(key));
                let service = named.find(|service| names(host, service, &source.namespace));
                let mapped =
                    service.and_then(|service| mapping_of(workload, &service.key(), |mapping| mapping.target_port == port));
                let port = mapped.map_or(port, |mapping| mapping.service_port);
                Some(Addressed { service, port, dialled: Some(workload) })
            }
        }
    }
}

impl<'a> Addressed<'a> {
    /// The HTTP rules that a client's request is selected by; None: there are none, and it goes where it is addressed.
    pub fn routes(&self, snapshot: &'a Snapshot, source: &Workload) -> Option<&'a Arc<Routes>> {
        let routes = snapshot.routes(&self.service?.key(), self.port, &source.namespace);
        routes.filter(|routes| !routes.http.is_empty())
    }
}

/// Whether a request's host (in lower case, without port) names a service: by its hostname or, for a service of
/// Kubernetes, by a shorter form that a client's resolver completes. A name before it is that of one of its pods.
pub fn names(host: &str, service: &Service, client_namespace: &str) -> bool {
    let within = |name: &str| {
        let before = host.strip_suffix(name);
        before.is_some_and(|pod| pod.is_empty() || pod.strip_suffix('.').is_some_and(|pod| !pod.contains('.')))
    };
    if within(&service.hostname) {
        return true;
    }
    let (name, namespace) = (&*service.name, &*service.namespace);
    let of_kubernetes = service.hostname.strip_prefix(&format!("{name}.{namespace}.svc"));
    of_kubernetes.is_some()
        && (within(&format!("{name}.{namespace}.svc"))
            || within(&format!("{name}.{namespace}"))
            || namespace == client_namespace && within(name))
}
