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
    balance::{InFlight, MAX_TRIES, NoEndpoint, Picker, Pool, Query, Retry, Standing, hash_address},
    model::{
        Balance, HashKey, Identity, OutboundPolicy, RoutingMode, Service, Snapshot, TrafficPolicy, TunnelProtocol,
        VirtualAddress, Workload, WorkloadUid,
    },
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
    /// Some do; none has the labels of the route's subset.
    NoEndpointInSubset,
    /// Some do; none is healthy.
    NoHealthyEndpoint,
    /// Healthy ones do; none where the service wants it (`internalTrafficPolicy: Local`).
    NoEndpointInScope,
    /// All that do are ejected for now (`outlierDetection`).
    EndpointsEjected,
    /// Outside the mesh, and `outboundTrafficPolicy` is `REGISTRY_ONLY`.
    RegistryOnly,
}

impl Refusal {
    pub fn code(self) -> &'static str {
        match self {
            Self::UnknownAddress => "UNKNOWN_ADDRESS",
            Self::NoServicePort => "NO_SERVICE_PORT",
            Self::NoEndpoints => "NO_ENDPOINTS",
            Self::NoEndpointInSubset => "NO_ENDPOINT_IN_SUBSET",
            Self::NoHealthyEndpoint => "NO_HEALTHY_ENDPOINT",
            Self::NoEndpointInScope => "NO_ENDPOINT_IN_SCOPE",
            Self::EndpointsEjected => "ENDPOINTS_EJECTED",
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
            NoEndpoint::Subset => Self::NoEndpointInSubset,
            NoEndpoint::Healthy => Self::NoHealthyEndpoint,
            NoEndpoint::InScope => Self::NoEndpointInScope,
            NoEndpoint::Ejected => Self::EndpointsEjected,
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
    plan_with(snapshot, source, original, &|_, _, _| Standing::default())
}

/// What the client knows of the endpoints of a pool's port under a policy.
pub type StandingOf<'a> = dyn Fn(&Pool, u16, &TrafficPolicy) -> Standing + 'a;

/// [`plan`] for a client that has seen endpoints fail.
pub fn plan_with(snapshot: &Snapshot, source: &Workload, original: SocketAddr, standing: &StandingOf<'_>) -> Plan {
    let dialled = SocketAddr::new(original.ip().to_canonical(), original.port());
    let workload = snapshot.workload_at(dialled.ip()).filter(|workload| workload.network == source.network);
    match (snapshot.service_at(dialled.ip()), workload) {
        (Some(service), Some(workload)) if !is_own_address(service, dialled.ip()) => to_workload(workload, dialled, None),
        (Some(service), workload) if service.load_balancing.mode == RoutingMode::Passthrough => match workload {
            Some(workload) => to_workload(workload, dialled, Some(service)),
            None => Plan::Passthrough { address: dialled, service: Some(service.clone()) },
        },
        (Some(service), _) => to_service(snapshot, source, service, dialled, standing),
        (None, Some(workload)) => to_workload(workload, dialled, None),
        (None, None) => to_unknown(snapshot, dialled),
    }
}

/// Whether a service has an address itself, and not only a range around it.
pub fn is_own_address(service: &Service, address: IpAddr) -> bool {
    service.addresses.iter().any(|own| own.range == VirtualAddress::host(address).range)
}

fn to_service(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    dialled: SocketAddr,
    standing: &StandingOf<'_>,
) -> Plan {
    let key = service.key();
    let pool = snapshot.pool(&key).expect("every service has a pool");
    let plain = Query { dialled: Some(dialled.ip()), ..Query::plain(source, dialled.port()) };
    let rule = snapshot.traffic(&key, &source.namespace);
    let policy = rule.and_then(|rule| rule.policy(dialled.port(), None)).map_or(plain.policy, |policy| policy);
    let query = Query { policy, hash: hash_of_connection(policy, source), ..plain };
    match pool.candidates(&query, &standing(pool, dialled.port(), policy)) {
        Ok(picker) => Plan::Connect(Candidates::new(service.clone(), picker.at_most(MAX_TRIES), Some(dialled.ip()))),
        Err(lack) => Plan::Refused { refusal: lack.into() },
    }
}

/// A connection has one key, where it comes from; those of requests are not in sight.
fn hash_of_connection(policy: &TrafficPolicy, source: &Workload) -> Option<u64> {
    match &policy.balance {
        Balance::Hash { key: HashKey::SourceAddress, .. } => source.addresses.first().copied().map(hash_address),
        Balance::Hash { key: HashKey::Header(_) | HashKey::Cookie(_) | HashKey::Query(_), .. }
        | Balance::LeastRequest
        | Balance::RoundRobin
        | Balance::Random
        | Balance::Passthrough => None,
    }
}

/// A pod that was dialled itself is never balanced, and never too unhealthy.
fn to_workload(workload: &Arc<Workload>, dialled: SocketAddr, service: Option<&Arc<Service>>) -> Plan {
    Plan::Connect(to_dialled_workload(workload, dialled, service))
}

/// To a workload by its own address, as a client of the service that it was dialled for, if any.
pub fn to_dialled_workload(workload: &Arc<Workload>, dialled: SocketAddr, service: Option<&Arc<Service>>) -> Candidates {
    let endpoints = Endpoints::Dialled(Some((workload.clone(), dialled.port())));
    Candidates { endpoints, service: service.cloned(), dialled: Some(dialled.ip()) }
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
    dialled: Option<IpAddr>,
}

#[derive(Clone, Debug)]
enum Endpoints {
    /// The workload whose address was dialled, until it has been handed out.
    Dialled(Option<(Arc<Workload>, u16)>),
    Balanced(Picker),
}

impl Candidates {
    /// The endpoints of a service that a connection or request was bound or routed to; of their addresses that of the
    /// family of `dialled`, if they have one.
    pub fn new(service: Arc<Service>, picker: Picker, dialled: Option<IpAddr>) -> Self {
        Self { endpoints: Endpoints::Balanced(picker), service: Some(service), dialled }
    }

    /// At most so many places are handed out.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        let endpoints = match self.endpoints {
            Endpoints::Balanced(picker) => Endpoints::Balanced(picker.at_most(most)),
            dialled @ Endpoints::Dialled(_) => dialled,
        };
        Self { endpoints, ..self }
    }

    /// The service whose address was dialled, or that was routed to.
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

    /// The place for a further attempt of a request: one that was not tried, or if all were, one of them again. A
    /// workload that was dialled itself is not handed out again: keep its hop.
    pub fn retry_hop(
        &mut self,
        retry: Retry,
        is_local: &dyn Fn(&WorkloadUid) -> bool,
        in_flight: &dyn InFlight,
        rng: &mut Rng,
    ) -> Option<Hop> {
        let (workload, port) = match &mut self.endpoints {
            Endpoints::Dialled(once) => once.take()?,
            Endpoints::Balanced(picker) => {
                let member = picker.pick_again(retry, in_flight, rng)?;
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
        let first = workload.addresses.first().copied();
        match self.endpoints {
            Endpoints::Dialled(_) => self.dialled,
            Endpoints::Balanced(_) => self.dialled.map_or(first, |dialled| workload.address_like(dialled)),
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
