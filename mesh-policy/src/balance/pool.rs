//! A service's endpoints, with views of them that are built when they are first needed.

use std::sync::{Arc, OnceLock, Weak};

use super::{
    Member, Picker, Query, Standing,
    pick::MAX_TRIES,
    view::{Kind, View, serve},
};
use crate::model::{Endpoint, Service, Subset, Workload};

/// A service, its endpoints and the views built so far. Clones share the views.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    service: Arc<Service>,
    endpoints: Arc<[Endpoint]>,
    /// One chain a port, in the order of the service's ports.
    views: Box<[Chain]>,
}

/// Views that are only ever added, without a lock. There are as many as configuration has kinds of queries (subsets,
/// policies by namespace, localities of the node's pods): few, so that they are searched one by one.
#[derive(Debug, Default)]
struct Chain(OnceLock<Box<Link>>);

#[derive(Debug)]
struct Link {
    kind: Kind,
    view: Result<Arc<View>, NoEndpoint>,
    next: Chain,
}

/// Tells pools apart without keeping any.
#[derive(Clone, Debug, Default)]
pub struct PoolId(Weak<Shared>);

impl Pool {
    pub fn new(service: Arc<Service>, endpoints: Arc<[Endpoint]>) -> Self {
        let views = service.ports.iter().map(|_| Chain::default()).collect();
        Self(Arc::new(Shared { service, endpoints, views }))
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.0.service
    }

    /// Whoever stands behind the service, ready or not, on whatever port.
    pub fn endpoints(&self) -> &Arc<[Endpoint]> {
        &self.0.endpoints
    }

    /// Whether this is the pool of the same service and endpoints, by identity.
    pub fn holds(&self, service: &Arc<Service>, endpoints: &[Endpoint]) -> bool {
        Arc::ptr_eq(&self.0.service, service)
            && self.0.endpoints.len() == endpoints.len()
            && self.0.endpoints.iter().zip(endpoints).all(|(own, other)| Arc::ptr_eq(&own.workload, &other.workload))
    }

    pub fn id(&self) -> PoolId {
        PoolId(Arc::downgrade(&self.0))
    }

    pub fn is(&self, id: &PoolId) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0), id.0.as_ptr())
    }

    /// Whoever serves a port and has the subset's labels, ready or not: the hosts of what Envoy calls a cluster.
    pub fn members<'a>(&'a self, service_port: u16, subset: Option<&'a Subset>) -> impl Iterator<Item = Member> + 'a {
        let port = self.0.service.port(service_port).copied();
        let members =
            port.into_iter().flat_map(move |port| self.0.endpoints.iter().filter_map(move |endpoint| serve(endpoint, port)));
        members.filter(move |member| subset.is_none_or(|subset| subset.selects(&member.workload)))
    }

    /// The endpoints for a connection from `source` to a port of the service that nothing is configured for, best first,
    /// at most [`MAX_TRIES`].
    pub fn picker(&self, source: &Workload, service_port: u16) -> Result<Picker, NoEndpoint> {
        let picker = self.candidates(&Query::plain(source, service_port), &Standing::default())?;
        Ok(picker.at_most(MAX_TRIES))
    }

    /// The endpoints that a request may be sent to, as the policy and the client's knowledge order them.
    pub fn candidates(&self, query: &Query<'_>, standing: &Standing) -> Result<Picker, NoEndpoint> {
        let Shared { service, endpoints, views } = &*self.0;
        let position = service.ports.iter().position(|port| port.service_port == query.port).ok_or(NoEndpoint::Port)?;
        let build = || View::build(service, service.ports[position], endpoints, query);
        Picker::new(views[position].find_or_add(service, query, build)?.clone(), query, standing)
    }
}

#[cfg(test)]
impl Pool {
    /// How many views of a port there are.
    pub(super) fn views(&self, service_port: u16) -> usize {
        let position = self.0.service.ports.iter().position(|port| port.service_port == service_port).expect("a port");
        let links = std::iter::successors(self.0.views[position].0.get(), |link| link.next.0.get());
        links.count()
    }
}

impl Chain {
    fn find_or_add(
        &self,
        service: &Service,
        query: &Query<'_>,
        build: impl Fn() -> Result<View, NoEndpoint>,
    ) -> Result<&Arc<View>, NoEndpoint> {
        let add = || {
            let view = build().map(Arc::new);
            Box::new(Link { kind: Kind::of(service, query), view, next: Chain::default() })
        };
        let mut chain = self;
        loop {
            let link = chain.0.get_or_init(add);
            if link.kind.is_of(service, query) {
                return link.view.as_ref().map_err(|lack| *lack);
            }
            chain = &link.next;
        }
    }
}

/// Why a service offers a client no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The service has no such port.
    Port,
    /// No workload serves the port on the client's network.
    None,
    /// Some do; none has the subset's labels.
    Subset,
    /// Some do; none is healthy.
    Healthy,
    /// Healthy ones do; none where the service's strict preference, or a distribution, wants it.
    InScope,
    /// Those that do are all ejected for now.
    Ejected,
}
