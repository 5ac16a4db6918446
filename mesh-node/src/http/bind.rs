//! Which service's routes and endpoints the requests of a captured connection are for.

use std::{net::SocketAddr, sync::Arc};

use mesh_policy::{
    authz::needs_request,
    destination::is_own_address,
    model::{AppProtocol, PortMapping, RoutingMode, Service, ServiceKey, Snapshot, Workload, WorkloadUid},
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

/// What a connection is bound to, and whether it is known to carry requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    Declared(Bound),
    /// Nobody has declared what the port speaks, and a route or a policy of its destination speaks of requests: the first
    /// bytes tell.
    Undeclared(Bound),
}

/// Says what a connection from `source` to `original` is bound to; None: its bytes are carried as they are.
///
/// An address is, in the order of [`plan`](mesh_policy::destination::plan): a service's own, a workload's, one within a
/// ServiceEntry's range.
pub fn bind(snapshot: &Snapshot, source: &Workload, original: SocketAddr) -> Option<Binding> {
    if !snapshot.http().enabled {
        return None;
    }
    let dialled = SocketAddr::new(original.ip().to_canonical(), original.port());
    let workload = snapshot.workload_at(dialled.ip()).filter(|workload| workload.network == source.network);
    let port = dialled.port();
    let (to, declared) = match (snapshot.service_at(dialled.ip()), workload) {
        (Some(service), Some(workload)) if !is_own_address(service, dialled.ip()) => to_workload(snapshot, workload, port),
        (Some(service), Some(workload)) if service.load_balancing.mode == RoutingMode::Passthrough => {
            to_service(snapshot, source, service, port).or_else(|| to_workload(snapshot, workload, port))
        }
        (Some(service), _) => to_service(snapshot, source, service, port),
        (None, Some(workload)) => to_workload(snapshot, workload, port),
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
        let mappings = workload.services.get(*key).map_or(&[][..], |mappings| mappings);
        let here = |mapping: &PortMapping| {
            mapping.target_port == port && service.port(mapping.service_port).is_some_and(|port| port.protocol.is_http())
        };
        service.addresses.is_empty() && mappings.iter().any(here)
    };
    let headless = workload.services.keys().filter(serves_here).cloned().collect();
    Some((BoundTo::Workload { uid: workload.uid.clone(), headless }, declared))
}

/// Whether a request's host (in lower case, without port) names a service: by its hostname or, for a service of
/// Kubernetes, by a shorter form that a client's resolver completes. A name before it is that of one of its pods.
pub(super) fn names(host: &str, service: &Service, client_namespace: &str) -> bool {
    let within = |name: &str| {
        let host = host.strip_suffix(name);
        host.is_some_and(|pod| pod.is_empty() || pod.strip_suffix('.').is_some_and(|pod| !pod.contains('.')))
    };
    if within(&service.hostname) {
        return true;
    }
    let (name, namespace) = (&*service.name, &*service.namespace);
    let Some(domain) = service.hostname.strip_prefix(&format!("{name}.{namespace}.svc")) else { return false };
    debug_assert!(domain.is_empty() || domain.starts_with('.'), "{}", service.hostname);
    within(&format!("{name}.{namespace}.svc"))
        || within(&format!("{name}.{namespace}"))
        || (namespace == client_namespace && within(name))
}

#[cfg(test)]
mod tests;
