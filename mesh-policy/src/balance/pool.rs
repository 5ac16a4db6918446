//! A service's endpoints, indexed per port when they are first needed.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::Picker;
use crate::model::{Endpoint, Health, HealthPolicy, RoutingMode, RoutingScope, Service, ServicePort, Workload};

/// The scopes there are, and the network in front of them: the deepest that a group can lie.
pub(super) const MAX_DEPTH: usize = 7;

/// A service, its endpoints and the indexes built so far.
#[derive(Clone, Debug)]
pub struct Pool {
    service: Arc<Service>,
    endpoints: Arc<[Endpoint]>,
    /// One a port, in the order of the service's ports.
    indexes: Box<[OnceLock<Arc<Index>>]>,
}

impl Pool {
    pub fn new(service: Arc<Service>, endpoints: Arc<[Endpoint]>) -> Self {
        let indexes = service.ports.iter().map(|_| OnceLock::new()).collect();
        Self { service, endpoints, indexes }
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The endpoints that a connection from `source` to a port of the service may use, best first.
    pub fn picker(&self, source: &Workload, service_port: u16) -> Result<Picker, NoEndpoint> {
        let position = self.service.ports.iter().position(|port| port.service_port == service_port);
        let position = position.ok_or(NoEndpoint::Port)?;
        let build = || Arc::new(Index::build(&self.service, self.service.ports[position], &self.endpoints));
        let index = self.indexes[position].get_or_init(build);
        let path = index.path(source)?;
        Ok(Picker::new(index.clone(), path))
    }
}

/// Why a service offers a client no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The service has no such port.
    Port,
    /// No workload serves the port on the client's network.
    None,
    /// Some do; none is healthy.
    Healthy,
    /// Healthy ones do; none where the service's strict preference wants it.
    InScope,
}

/// An endpoint that may be picked.
#[derive(Clone, Debug)]
pub struct Member {
    pub workload: Arc<Workload>,
    pub target_port: u16,
}

impl Member {
    pub(super) fn weight(&self) -> u64 {
        u64::from(self.workload.capacity.max(1))
    }
}

/// Who may be picked for one port, grouped as a tree: by network, within it by the first scope of the preference,
/// within that by the second. The endpoints that share most with a client are the deepest group on its way down.
#[derive(Debug)]
pub(super) struct Index {
    members: Box<[Member]>,
    groups: Vec<Group>,
    children: HashMap<(GroupId, Arc<str>), GroupId>,
    scopes: Vec<RoutingScope>,
    strict: bool,
    /// Endpoints were left out for their health alone.
    left_out_unhealthy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupId(u32);

/// Above the networks. It holds nobody: no client shares every network.
const ROOT: GroupId = GroupId(0);

/// Members by their position in the index.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) members: Vec<u32>,
    pub(super) weights: Weights,
}

/// How a draw maps to a member.
#[derive(Debug, Default)]
pub(super) enum Weights {
    #[default]
    Equal,
    /// At each position the sum of the weights up to and with it.
    Cumulative(Box<[u64]>),
}

/// The groups that a client shares, the best last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    groups: [GroupId; MAX_DEPTH],
    len: usize,
}

impl Path {
    /// The groups, the best first.
    pub(super) fn best_first(self) -> impl Iterator<Item = GroupId> {
        (0..self.len).rev().map(move |at| self.groups[at])
    }
}

impl Index {
    fn build(service: &Service, port: ServicePort, endpoints: &[Endpoint]) -> Self {
        let mut index = Self {
            members: Box::default(),
            groups: vec![Group::default()],
            children: HashMap::new(),
            scopes: scopes(service),
            strict: service.load_balancing.mode == RoutingMode::Strict,
            left_out_unhealthy: false,
        };
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let Some(member) = serve(endpoint, port) else { continue };
            if member.workload.health == Health::Healthy || service.load_balancing.health == HealthPolicy::AllowAll {
                index.place(members.len() as u32, &member.workload);
                members.push(member);
            } else {
                index.left_out_unhealthy = true;
            }
        }
        for group in &mut index.groups {
            group.weights = weights(group, &members);
        }
        index.members = members.into();
        index
    }

    /// Puts a member into every group that its places name.
    fn place(&mut self, member: u32, workload: &Workload) {
        let mut group = ROOT;
        for depth in 0..=self.scopes.len() {
            let place = self.place_at(depth, workload).clone();
            let next = GroupId(self.groups.len() as u32);
            group = *self.children.entry((group, place)).or_insert(next);
            if group == next {
                self.groups.push(Group::default());
            }
            self.groups[group.0 as usize].members.push(member);
        }
    }

    /// The groups that hold a client's own places.
    fn path(&self, source: &Workload) -> Result<Path, NoEndpoint> {
        let mut path = Path { groups: [ROOT; MAX_DEPTH], len: 0 };
        let mut group = ROOT;
        for depth in 0..=self.scopes.len() {
            let place = self.place_at(depth, source).clone();
            let Some(next) = self.children.get(&(group, place)) else { break };
            group = *next;
            path.groups[path.len] = group;
            path.len += 1;
        }
        if path.len == 0 {
            return Err(if self.left_out_unhealthy { NoEndpoint::Healthy } else { NoEndpoint::None });
        }
        if self.strict {
            if path.len <= self.scopes.len() {
                return Err(NoEndpoint::InScope);
            }
            path = Path { groups: [group; MAX_DEPTH], len: 1 };
        }
        Ok(path)
    }

    fn place_at<'a>(&self, depth: usize, workload: &'a Workload) -> &'a Arc<str> {
        let scope = depth.checked_sub(1).map_or(RoutingScope::Network, |at| self.scopes[at]);
        match scope {
            RoutingScope::Network => &workload.network,
            RoutingScope::Region => &workload.locality.region,
            RoutingScope::Zone => &workload.locality.zone,
            RoutingScope::Subzone => &workload.locality.subzone,
            RoutingScope::Node => &workload.node,
            RoutingScope::Cluster => &workload.cluster,
        }
    }

    pub(super) fn member(&self, at: u32) -> &Member {
        &self.members[at as usize]
    }

    pub(super) fn group(&self, id: GroupId) -> &Group {
        &self.groups[id.0 as usize]
    }
}

/// The preference, each scope once: a repeated one says nothing new.
fn scopes(service: &Service) -> Vec<RoutingScope> {
    let mut scopes = Vec::new();
    match service.load_balancing.mode {
        RoutingMode::Unspecified | RoutingMode::Passthrough => {}
        RoutingMode::Strict | RoutingMode::Failover => {
            for scope in &service.load_balancing.preference {
                if !scopes.contains(scope) {
                    scopes.push(*scope);
                }
            }
        }
    }
    scopes
}

/// An endpoint as one that can be reached on a port: it has an address, or a name, and serves the port somewhere.
fn serve(endpoint: &Endpoint, port: ServicePort) -> Option<Member> {
    let Endpoint { workload, service } = endpoint;
    if workload.addresses.is_empty() && workload.hostname.is_empty() {
        return None;
    }
    let of_service = (port.target_port != 0).then_some(port.target_port);
    let target_port = workload.target_port(service, port.service_port).or(of_service)?;
    Some(Member { workload: workload.clone(), target_port })
}

fn weights(group: &Group, members: &[Member]) -> Weights {
    let mut of_members = group.members.iter().map(|at| members[*at as usize].weight());
    let first = of_members.next();
    if of_members.all(|weight| Some(weight) == first) {
        return Weights::Equal;
    }
    let mut sum = 0;
    let add = |at: &u32| {
        sum += members[*at as usize].weight();
        sum
    };
    Weights::Cumulative(group.members.iter().map(add).collect())
}
