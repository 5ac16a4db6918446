//! Where a request goes: whose rules apply to it, and which service's endpoints it is for.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::Version;
use mesh_policy::{
    balance::{MAX_TRIES, Query},
    binding::Addressed,
    destination::{self, Candidates},
    http::Request,
    model::{AppProtocol, BackendRef, H2Upgrade, RetryPolicy, RoutingMode, Service, Snapshot, Subset, TrafficPolicy, Workload},
    routing::{self, Selected},
};
use tokio::time::Instant;

use super::{error::ExchangeError, upstream};
use crate::{
    balance::{Backend, BackendKey, PodBalance},
    enrol::Pod,
    reason::{Failure, Reason},
};

/// The rule that a request follows. None: there are no routes, and the request goes to what it is addressed to.
pub(super) fn route<'a>(
    addressed: &Addressed<'a>,
    snapshot: &'a Snapshot,
    source: &Workload,
    request: &Request<'_>,
) -> Result<Option<Selected<'a>>, ExchangeError> {
    let Some(routes) = addressed.routes(snapshot, source, request.host) else { return Ok(None) };
    routing::select(routes, source, request).ok_or(ExchangeError::NoRoute).map(Some)
}

static PLAIN: LazyLock<Arc<TrafficPolicy>> = LazyLock::new(Arc::default);

/// Where a request is sent, and how.
pub(super) struct Forward<'a> {
    pub(super) service: Option<&'a Arc<Service>>,
    pub(super) port: u16,
    pub(super) subset: Option<(&'a Arc<str>, &'a Subset)>,
    pub(super) dialled: Option<&'a Arc<Workload>>,
    pub(super) version: upstream::Version,
    pub(super) policy: &'a Arc<TrafficPolicy>,
    /// What the pod knows of the service's endpoints; None: there is no service.
    pub(super) backend: Option<Arc<Backend>>,
    pub(super) hash: Option<u64>,
    pub(super) retry: &'a RetryPolicy,
    pub(super) deadline: Option<(Instant, Duration)>,
}

impl<'a> Forward<'a> {
    /// To the service and port that a route names, or to what was addressed.
    pub(super) fn new(
        snapshot: &'a Snapshot,
        source: &Workload,
        addressed: &Addressed<'a>,
        to: Option<&'a BackendRef>,
        balance: &PodBalance,
    ) -> Result<Self, ExchangeError> {
        let (service, port, subset) = match to {
            None => (addressed.service, addressed.port, None),
            Some(BackendRef::Invalid { reason }) => return Err(ExchangeError::InvalidBackend { detail: reason.to_string() }),
            Some(BackendRef::Service { service, port, subset }) => {
                let found = snapshot.service(service).ok_or_else(|| ExchangeError::Gone(service.to_string()))?;
                (Some(found), *port, subset.as_ref())
            }
        };
        let same = match (service, addressed.service) {
            (Some(a), Some(b)) => a.hostname == b.hostname && a.namespace == b.namespace,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let dialled = addressed.dialled.filter(|_| same && subset.is_none());
        let rule = service.and_then(|service| snapshot.traffic(&service.key(), &source.namespace));
        let (subset, policy) = match (rule, subset) {
            (rule, None) => (None, rule.and_then(|rule| rule.policy(port, None))),
            (rule, Some(name)) => {
                let gone = || ExchangeError::Gone(format!("subset {name}"));
                let rule = rule.ok_or_else(gone)?;
                (Some((name, rule.subsets.get(name).ok_or_else(gone)?)), rule.policy(port, Some(name)))
            }
        };
        let protocol = match (service, dialled) {
            (Some(service), _) => service.port(port).map_or(AppProtocol::Http11, |port| port.protocol),
            (None, Some(workload)) => snapshot.protocol_at(workload, port),
            (None, None) => AppProtocol::Http11,
        };
        let version = match protocol {
            AppProtocol::Http2 | AppProtocol::Grpc => upstream::Version::Http2,
            AppProtocol::Http11 | AppProtocol::Unknown | AppProtocol::Tcp | AppProtocol::Tls => upstream::Version::Http1,
        };
        let backend = service.map(|service| {
            let key = BackendKey { service: service.key(), port, subset: subset.map(|(name, _)| name.clone()) };
            balance.backend(&key)
        });
        Ok(Self {
            service,
            port,
            subset,
            dialled,
            version,
            policy: policy.unwrap_or(&PLAIN),
            backend,
            hash: None,
            retry: &snapshot.http().retry,
            deadline: None,
        })
    }

    /// Settles the version that is spoken to the endpoint, for a request that came in `version`.
    pub(super) fn speak(&mut self, version: Version, upgrades: bool) {
        self.version = match self.policy.limits.upgrade {
            // There is no way to leave HTTP/2.
            _ if upgrades => upstream::Version::Http1,
            // Nobody has declared what is spoken at an address of nobody's.
            _ if self.service.is_none() && self.dialled.is_none() && version == Version::HTTP_2 => upstream::Version::Http2,
            H2Upgrade::OfPort | H2Upgrade::DoNotUpgrade => self.version,
            H2Upgrade::Upgrade => upstream::Version::Http2,
            H2Upgrade::ClientProtocol if version == Version::HTTP_2 => upstream::Version::Http2,
            H2Upgrade::ClientProtocol => upstream::Version::Http1,
        };
    }

    /// The endpoints, best first.
    pub(super) fn candidates(
        &self,
        snapshot: &Snapshot,
        source: &Workload,
        dialled: SocketAddr,
    ) -> Result<Candidates, ExchangeError> {
        if let Some(workload) = self.dialled {
            return Ok(destination::to_dialled_workload(workload, dialled, self.service));
        }
        // Nobody's address, or one of a ServiceEntry that leaves it to the client.
        if self.service.is_none_or(|service| service.load_balancing.mode == RoutingMode::Passthrough) {
            return Ok(destination::to_dialled_address(dialled, self.service));
        }
        let (service, backend) = self.service.zip(self.backend.as_ref()).ok_or(NO_UPSTREAM)?;
        let pool = snapshot.pool(&service.key()).ok_or(NO_UPSTREAM)?;
        let query = Query {
            source,
            port: self.port,
            subset: self.subset.map(|(_, subset)| subset),
            policy: self.policy,
            hash: self.hash,
            dialled: Some(dialled.ip()),
        };
        match backend.candidates(pool, &query, std::time::Instant::now()) {
            Ok(picker) => Ok(Candidates::new(service.clone(), picker, Some(dialled.ip()))),
            Err(lack) => Err(ExchangeError::NoUpstream { refusal: lack.into() }),
        }
    }
}

/// Where a connection without requests may go, and what the client knows of the endpoints.
pub struct Endpoints {
    pub candidates: Candidates,
    pub backend: Option<Arc<Backend>>,
    pub policy: Arc<TrafficPolicy>,
}

impl Endpoints {
    /// One that was dialled itself, or several that nothing is known or configured of.
    pub fn of(candidates: Candidates) -> Self {
        Self { candidates, backend: None, policy: PLAIN.clone() }
    }
}

/// The endpoints of a backend that a connection without requests is for, as many as one connection may be tried on.
pub fn endpoints(
    snapshot: &Snapshot,
    source: &Workload,
    to: &BackendRef,
    pod: &Pod,
    dialled: SocketAddr,
) -> Result<Endpoints, Failure> {
    let nobody = Addressed { service: None, port: dialled.port(), dialled: None };
    let failed = |error: ExchangeError| Failure::new(error.reason().unwrap_or(Reason::Internal), error.to_string());
    let mut forward = Forward::new(snapshot, source, &nobody, Some(to), &pod.balance).map_err(failed)?;
    forward.hash = destination::hash_of_connection(forward.policy, source);
    let candidates = forward.candidates(snapshot, source, dialled).map_err(failed)?;
    let Forward { backend, policy, .. } = forward;
    Ok(Endpoints { candidates: candidates.at_most(MAX_TRIES), backend, policy: policy.clone() })
}

pub(super) const NO_UPSTREAM: ExchangeError = ExchangeError::NoUpstream { refusal: destination::Refusal::NoHealthyEndpoint };
