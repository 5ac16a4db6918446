//! What a captured connection is bound to, and with it whose routes its requests follow.
//!
//! The address decides, not what a request says: a service's own address is that service whatever its Host, a workload's is
//! that workload. Only behind headless services, whose addresses are those of their workloads, does the Host tell which of
//! them is meant, and then the rules change, and the workload that was dialled stays the endpoint unless they name another.
//! An address that is nobody's says nothing: there the Host tells which ServiceEntry is meant ([`outside`]).

use std::{net::SocketAddr, sync::Arc};

use crate::{
    authz::needs_request,
    destination::{Refusal, is_own_address},
    model::{AppProtocol, PortMapping, Routes, RoutingMode, Service, ServiceKey, Snapshot, Workload, WorkloadUid},
    outside,
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
    /// An address of nobody's: each request's host tells which ServiceEntry of the port is meant.
    Outside,
}

/// What a connection is bound to, and whether it is known to carry requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    Declared(Bound),
    /// Nobody has declared what the port speaks, or several have declared different things, and a route, a policy of its
    /// destination or an entry speaks of requests: the first bytes tell.
    Undeclared(Bound),
}

impl Binding {
    pub fn into_bound(self) -> Bound {
        match self {
            Self::Declared(bound) | Self::Undeclared(bound) => bound,
        }
    }
}

/// Says what a connection from `source` to `original` is bound to; None: its bytes are carried as they are.
///
/// An address is, in the order of [`plan`](crate::destination::plan): a service's own, a workload's, one within a
/// ServiceEntry's range, or nobody's.
pub fn bind(snapshot: &Snapshot, source: &Workload, original: SocketAddr) -> Option<Binding> {
    if !snapshot.http().enabled {
        return None;
    }
    let dialled = SocketAddr::new(original.ip().to_canonical(), original.port());
    let service = snapshot.service_at(dialled.ip()).filter(|service| service.exports.include(&source.namespace));
    let workload = snapshot.workload_at(dialled.ip()).filter(|workload| workload.network == source.network);
    let port = dialled.port();
    let (to, declared) = match (service, workload) {
        (Some(service), Some(workload)) if !is_own_address(service, dialled.ip()) => to_workload(snapshot, workload, port),
        (Some(service), Some(workload)) if service.load_balancing.mode == RoutingMode::Passthrough => {
            to_service(snapshot, source, service, port).or_else(|| to_workload(snapshot, workload, port))
        }
        (Some(service), _) => to_service(snapshot, source, service, port),
        (None, Some(workload)) => to_workload(snapshot, workload, port),
        (None, None) if outside::is_outside(snapshot, source, dialled.ip()) => to_nobody(snapshot, source, port),
        (None, None) => None,
    }?;
    let bound = Bound { to, dialled };
    Some(if declared { Binding::Declared(bound) } else { Binding::Undeclared(bound) })
}

fn to_service(snapshot: &Snapshot, source: &Workload, service: &Service, port: u16) -> Option<(BoundTo, bool)> {
    let key = service.key();
    let declared = match service.port(port)?.protocol {
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => true,
        AppProtocol::Unknown => {
            let routed = snapshot.routes(&key, port, &source.namespace).is_some_and(|routes| !routes.http.is_empty());
            let judged = || snapshot.endpoints(&key).iter().any(|endpoint| needs_request(snapshot, &endpoint.workload));
            if !routed && !judged() {
                return None;
            }
            false
        }
        AppProtocol::Tcp | AppProtocol::Tls => return None,
    };
    Some((BoundTo::Service(key), declared))
}

fn to_workload(snapshot: &Snapshot, workload: &Workload, port: u16) -> Option<(BoundTo, bool)> {
    let declared = match snapshot.protocol_at(workload, port) {
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => true,
        AppProtocol::Unknown if needs_request(snapshot, workload) => false,
        AppProtocol::Unknown | AppProtocol::Tcp | AppProtocol::Tls => return None,
    };
    let serves_here = |key: &&ServiceKey| {
        let Some(service) = snapshot.service(key) else { return false };
        let here = |mapping: &&PortMapping| {
            mapping.target_port == port && service.port(mapping.service_port).is_some_and(|port| port.protocol.is_http())
        };
        service.addresses.is_empty() && mapping_of(workload, key, here).is_some()
    };
    let headless = workload.services.keys().filter(serves_here).cloned().collect();
    Some((BoundTo::Workload { uid: workload.uid.clone(), headless }, declared))
}

/// Where entries of HTTP and others share a port, the first bytes tell which kind is meant.
fn to_nobody(snapshot: &Snapshot, source: &Workload, port: u16) -> Option<(BoundTo, bool)> {
    let outside::Asked { host, server_name, port } = outside::asked(snapshot, source, port);
    host.then_some((BoundTo::Outside, !server_name && !port))
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

/// Why a request is addressed to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unaddressed {
    /// What its connection was bound to is no longer there.
    Gone(String),
    /// No ServiceEntry stands for its host, and `outboundTrafficPolicy` lets nothing else out.
    Refused(Refusal),
}

impl Bound {
    /// `host` is the request's, in lower case and without port. Neither service nor workload: the address that was dialled.
    pub fn address<'a>(&self, snapshot: &'a Snapshot, source: &'a Workload, host: &str) -> Result<Addressed<'a>, Unaddressed> {
        let port = self.dialled.port();
        match &self.to {
            BoundTo::Service(key) => {
                let service = snapshot.service(key).ok_or_else(|| Unaddressed::Gone(key.to_string()))?;
                Ok(Addressed { service: Some(service), port, dialled: None })
            }
            BoundTo::Workload { uid, headless } => {
                let workload = snapshot.workload(uid).ok_or_else(|| Unaddressed::Gone(uid.to_string()))?;
                let mut named = headless.iter().filter_map(|key| snapshot.service(key));
                let service = named.find(|service| names(host, service, &source.namespace));
                let mapped =
                    service.and_then(|service| mapping_of(workload, &service.key(), |mapping| mapping.target_port == port));
                let port = mapped.map_or(port, |mapping| mapping.service_port);
                Ok(Addressed { service, port, dialled: Some(workload) })
            }
            BoundTo::Outside => {
                let service = outside::by_host(snapshot, source, port, host);
                if service.is_none() {
                    outside::unnamed(snapshot).map_err(Unaddressed::Refused)?;
                }
                Ok(Addressed { service, port, dialled: None })
            }
        }
    }
}

impl<'a> Addressed<'a> {
    /// The HTTP rules that a client's request to a host is selected by; None: there are none, and it goes where it is
    /// addressed.
    pub fn routes(&self, snapshot: &'a Snapshot, source: &Workload, host: &str) -> Option<&'a Arc<Routes>> {
        let routes = snapshot.routes_for(self.service?, self.port, &source.namespace, Some(host));
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

#[cfg(test)]
mod tests;
