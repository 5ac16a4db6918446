//! Where a captured connection goes.
//!
//! [`plan`] turns the address that an application dialled into one of four things to do. Services are resolved
//! here, and nowhere else: nobody's load balancer is asked. A service has several endpoints, so that what it
//! gives is [`Candidates`], drawn one by one while the caller connects: another is tried before the application
//! sees a failure.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use fastrand::Rng;

use crate::{
    balance::{InFlight, NoEndpoint, Picker},
    model::{Identity, OutboundPolicy, RoutingMode, Service, Snapshot, TunnelProtocol, VirtualAddress, Workload, WorkloadUid},
};

/// The port of a workload's own address that speaks HBONE.
pub const HBONE_PORT: u16 = 15008;

/// What to do with a connection.
#[derive(Clone, Debug)]
pub enum Plan {
    /// To the address dialled, in plain TCP: it lies outside the mesh, or its ServiceEntry says so.
    Passthrough { address: SocketAddr, service: Option<Arc<Service>> },
    /// To the first candidate that answers.
    Connect(Candidates),
    /// The address lies inside the mesh and is not loaded: plan again when the snapshot has changed, and refuse
    /// once a bound has passed.
    Wait { refusal: Refusal },
    /// To nowhere.
    Refused { refusal: Refusal },
}

/// Why a connection is refused before anything was dialled. The code is stable: logs, metrics and the command
/// line show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An address inside the mesh that nothing is known of.
    UnknownAddress,
    /// The service has the address and not the port.
    NoServicePort,
    /// No workload serves the service's port on the client's network.
    NoEndpoints,
    /// Some do; none is healthy.
    NoHealthyEndpoint,
    /// Healthy ones do; none where the service wants it (`internalTrafficPolicy: Local`).
    NoEndpointInScope,
    /// Outside the mesh, and `outboundTrafficPolicy` is `REGISTRY_ONLY`.
    RegistryOnly,
}

impl Refusal {
    pub fn code(self) -> &'static str {
        match self {
            Self::UnknownAddress => "UNKNOWN_ADDRESS",
            Self::NoServicePort => "NO_SERVICE_PORT",
            Self::NoEndpoints => "NO_ENDPOINTS",
            Self::NoHealthyEndpoint => "NO_HEALTHY_ENDPOINT",
            Self::NoEndpointInScope => "NO_ENDPOINT_IN_SCOPE",
            Self::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl From<NoEndpoint> for Refusal {
    fn from(lack: NoEndpoint) -> Self {
        match lack {
            NoEndpoint::Port => Self::NoServicePort,
            NoEndpoint::None => Self::NoEndpoints,
            NoEndpoint::Healthy => Self::NoHealthyEndpoint,
            NoEndpoint::InScope => Self::NoEndpointInScope,
        }
    }
}

/// One place to connect to. `address` is always that of the application: its address and target port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// In plain TCP.
    Direct { address: SocketAddr, workload: Arc<Workload> },
    /// In plain TCP to an endpoint that has a name only (ServiceEntry resolution DNS): look it up first.
    DirectByName { hostname: Arc<str>, port: u16, workload: Arc<Workload> },
    /// To a workload that this node has captured: judge its policies here, no TLS.
    SameNode { address: SocketAddr, workload: Arc<Workload> },
    /// Through HTTP/2 CONNECT to `address` over mutual TLS with `gateway`, who must prove one of `expected`: the
    /// workload's own identity first, then what its service names.
    Hbone { address: SocketAddr, gateway: SocketAddr, expected: Vec<Identity>, workload: Arc<Workload> },
}

impl Hop {
    pub fn workload(&self) -> &Arc<Workload> {
        match self {
            Self::Direct { workload, .. }
            | Self::DirectByName { workload, .. }
            | Self::SameNode { workload, .. }
            | Self::Hbone { workload, .. } => workload,
        }
    }
}

/// Decides where a connection of `source` to the address `original` goes.
///
/// An address is, in this order: a service's own, a workload's, one within a ServiceEntry's range, a node's (which its
/// pods share), inside the mesh and not loaded, or outside the mesh.
pub fn plan(snapshot: &Snapshot, source: &Workload, original: SocketAddr) -> Plan {
    let dialled = SocketAddr::new(original.ip().to_canonical(), original.port());
    let workload = snapshot.workload_at(dialled.ip()).filter(|workload| workload.network == source.network);
    match (snapshot.service_at(dialled.ip()), workload) {
        (Some(service), Some(workload)) if !is_own_address(service, dialled.ip()) => to_workload(workload, dialled, None),
        (Some(service), workload) if service.load_balancing.mode == RoutingMode::Passthrough => match workload {
            Some(workload) => to_workload(workload, dialled, Some(service)),
            None => Plan::Passthrough { address: dialled, service: Some(service.clone()) },
        },
        (Some(service), _) => to_service(snapshot, source, service, dialled),
        (None, Some(workload)) => to_workload(workload, dialled, None),
        (None, None) => to_unknown(snapshot, dialled),
    }
}

fn is_own_address(service: &Service, address: IpAddr) -> bool {
    service.addresses.iter().any(|own| own.range == VirtualAddress::host(address).range)
}

fn to_service(snapshot: &Snapshot, source: &Workload, service: &Arc<Service>, dialled: SocketAddr) -> Plan {
    let pool = snapshot.pool(&service.key()).expect("every service has a pool");
    match pool.picker(source, dialled.port()) {
        Ok(picker) => Plan::Connect(Candidates {
            endpoints: Endpoints::Balanced(picker),
            service: Some(service.clone()),
            dialled: dialled.ip(),
        }),
        Err(lack) => Plan::Refused { refusal: lack.into() },
    }
}

/// A pod that was dialled itself is never balanced, and never too unhealthy.
fn to_workload(workload: &Arc<Workload>, dialled: SocketAddr, service: Option<&Arc<Service>>) -> Plan {
    let endpoints = Endpoints::Dialled(Some((workload.clone(), dialled.port())));
    Plan::Connect(Candidates { endpoints, service: service.cloned(), dialled: dialled.ip() })
}

fn to_unknown(snapshot: &Snapshot, dialled: SocketAddr) -> Plan {
    let mesh = snapshot.mesh();
    if mesh.contains(dialled.ip()) && !snapshot.is_node_address(dialled.ip()) {
        return Plan::Wait { refusal: Refusal::UnknownAddress };
    }
    match mesh.outbound_policy {
        OutboundPolicy::AllowAny => Plan::Passthrough { address: dialled, service: None },
        OutboundPolicy::RegistryOnly => Plan::Refused { refusal: Refusal::RegistryOnly },
    }
}

/// Where one connection may go, the best first. It owns what it needs: no snapshot is kept alive by it.
#[derive(Clone, Debug)]
pub struct Candidates {
    endpoints: Endpoints,
    service: Option<Arc<Service>>,
    dialled: IpAddr,
}

#[derive(Clone, Debug)]
enum Endpoints {
    /// The workload whose address was dialled, until it has been handed out.
    Dialled(Option<(Arc<Workload>, u16)>),
    Balanced(Picker),
}

impl Candidates {
    /// The service whose address was dialled.
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// The next place to try; None when there is none left or enough have been tried
    /// ([`MAX_TRIES`](crate::balance::MAX_TRIES)).
    ///
    /// `is_local` says whether this node has captured a workload: its own knowledge, which is newer than the
    /// controller's.
    pub fn next_hop(&mut self, is_local: &dyn Fn(&WorkloadUid) -> bool, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<Hop> {
        let (workload, port) = match &mut self.endpoints {
            Endpoints::Dialled(once) => once.take()?,
            Endpoints::Balanced(picker) => {
                let member = picker.pick(in_flight, rng)?;
                (member.workload.clone(), member.target_port)
            }
        };
        Some(self.hop_to(workload, port, is_local))
    }

    fn hop_to(&self, workload: Arc<Workload>, port: u16, is_local: &dyn Fn(&WorkloadUid) -> bool) -> Hop {
        let Some(address) = self.address_of(&workload) else {
            return Hop::DirectByName { hostname: workload.hostname.clone(), port, workload };
        };
        let address = SocketAddr::new(address, port);
        if is_local(&workload.uid) {
            return Hop::SameNode { address, workload };
        }
        match workload.tunnel {
            TunnelProtocol::None => Hop::Direct { address, workload },
            TunnelProtocol::Hbone => {
                let gateway = SocketAddr::new(address.ip(), HBONE_PORT);
                Hop::Hbone { address, gateway, expected: self.expected_of(&workload), workload }
            }
        }
    }

    /// The address dialled if it is the workload's own, else one of the same family, else any.
    fn address_of(&self, workload: &Workload) -> Option<IpAddr> {
        match self.endpoints {
            Endpoints::Dialled(_) => Some(self.dialled),
            Endpoints::Balanced(_) => workload.address_like(self.dialled),
        }
    }

    /// As ztunnel: either the workload's own identity or one that its service names. A name that is no identity can
    /// not be proved by a certificate either, and is left out.
    fn expected_of(&self, workload: &Workload) -> Vec<Identity> {
        let of_service = self.service.iter().flat_map(|service| &service.subject_alt_names);
        std::iter::once(workload.identity()).chain(of_service.filter_map(|name| name.parse().ok())).collect()
    }
}

#[cfg(test)]
mod tests;
