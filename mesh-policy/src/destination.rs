//! Where a captured connection goes.
//!
//! [`plan`] turns the address that an application dialled into one of five things to do. Services are resolved
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
        Balance, HashKey, Identity, RoutingMode, Service, Snapshot, TrafficPolicy, TunnelProtocol, VirtualAddress, Workload,
        WorkloadUid,
    },
    outside,
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
    /// The address is nobody's, and the port one that ServiceEntries of TLS declare: ask [`plan_named`] with the server name
    /// that the connection begins with.
    Unnamed { address: SocketAddr },
    /// The address lies inside the mesh and is not loaded: plan again when the snapshot has changed, and refuse
    /// once a bound has passed.
    Wait { refusal: Refusal },
    /// To nowhere; the service that was meant, if one was.
    Refused { refusal: Refusal, service: Option<Arc<Service>> },
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
    /// In plain TCP to the address that was dialled, which is nobody's of the mesh.
    Outside { address: SocketAddr },
    /// In plain TCP to an endpoint that has a name only (ServiceEntry resolution DNS): look it up first.
    DirectByName { hostname: Arc<str>, port: u16, workload: Arc<Workload> },
    /// To a workload that this node has captured: judge its policies here, no TLS.
    SameNode { address: SocketAddr, workload: Arc<Workload> },
    /// Through HTTP/2 CONNECT to `address` over mutual TLS with `gateway`, who must prove one of `expected`: the
    /// workload's own identity first, then what its service names.
    Hbone { address: SocketAddr, gateway: SocketAddr, expected: Vec<Identity>, workload: Arc<Workload> },
}

impl Hop {
    /// None: nobody's.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Direct { workload, .. }
            | Self::DirectByName { workload, .. }
            | Self::SameNode { workload, .. }
            | Self::Hbone { workload, .. } => Some(workload),
            Self::Outside { .. } => None,
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
    let service = snapshot.service_at(dialled.ip()).filter(|service| service.exports.include(&source.namespace));
    let workload = snapshot.workload_at(dialled.ip()).filter(|workload| workload.network == source.network);
    match (service, workload) {
        (Some(service), Some(workload)) if !is_own_address(service, dialled.ip()) => to_workload(workload, dialled, None),
        (Some(service), workload) if service.load_balancing.mode == RoutingMode::Passthrough => match workload {
            Some(workload) => to_workload(workload, dialled, Some(service)),
            None => Plan::Passthrough { address: dialled, service: Some(service.clone()) },
        },
        (Some(service), _) => to_service(snapshot, source, service, dialled, standing),
        (None, Some(workload)) => to_workload(workload, dialled, None),
        (None, None) => to_unknown(snapshot, source, dialled, standing),
    }
}

/// The plan of a connection whose plan was [`Plan::Unnamed`], by its server name; None: it has none.
pub fn plan_named(
    snapshot: &Snapshot,
    source: &Workload,
    original: SocketAddr,
    server_name: Option<&str>,
    standing: &StandingOf<'_>,
) -> Plan {
    let dialled = SocketAddr::new(original.ip().to_canonical(), original.port());
    let named = server_name.and_then(|name| outside::by_server_name(snapshot, source, dialled.port(), name));
    match named.or_else(|| outside::by_port(snapshot, source, dialled.port())) {
        Some(entry) if entry.load_balancing.mode == RoutingMode::Passthrough => {
            Plan::Passthrough { address: dialled, service: Some(entry.clone()) }
        }
        Some(entry) => to_service(snapshot, source, entry, dialled, standing),
        None => match outside::unnamed(snapshot) {
            Ok(()) => Plan::Passthrough { address: dialled, service: None },
            Err(refusal) => Plan::Refused { refusal, service: None },
        },
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
        Err(lack) => Plan::Refused { refusal: lack.into(), service: Some(service.clone()) },
    }
}

/// A connection has one key, where it comes from; those of requests are not in sight.
pub fn hash_of_connection(policy: &TrafficPolicy, source: &Workload) -> Option<u64> {
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

/// To the address dialled, which is nobody's: for a ServiceEntry that says so, if any.
pub fn to_dialled_address(dialled: SocketAddr, service: Option<&Arc<Service>>) -> Candidates {
    Candidates { endpoints: Endpoints::Outside(Some(dialled)), service: service.cloned(), dialled: Some(dialled.ip()) }
}

fn to_unknown(snapshot: &Snapshot, source: &Workload, dialled: SocketAddr, standing: &StandingOf<'_>) -> Plan {
    if !outside::is_outside(snapshot, source, dialled.ip()) {
        return Plan::Wait { refusal: Refusal::UnknownAddress };
    }
    if outside::waits_for_a_name(snapshot, source, dialled) {
        return Plan::Unnamed { address: dialled };
    }
    plan_named(snapshot, source, dialled, None, standing)
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
    /// The address that was dialled, which is nobody's, until it has been handed out.
    Outside(Option<SocketAddr>),
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
            one @ (Endpoints::Dialled(_) | Endpoints::Outside(_)) => one,
        };
        Self { endpoints, ..self }
    }

    /// Whether they are one workload or address that was dialled itself: nothing is chosen among.
    pub fn is_dialled(&self) -> bool {
        matches!(self.endpoints, Endpoints::Dialled(_) | Endpoints::Outside(_))
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
            Endpoints::Outside(once) => return once.take().map(|address| Hop::Outside { address }),
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
            Endpoints::Outside(once) => return once.take().map(|address| Hop::Outside { address }),
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
            Endpoints::Dialled(_) | Endpoints::Outside(_) => self.dialled,
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
