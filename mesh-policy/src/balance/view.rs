//! The endpoints that one kind of query may be given, grouped.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use super::{NoEndpoint, Query, locality, locality::Grouping, table::Table};
use crate::model::{
    Balance, Endpoint, HashAlgorithm, Health, HealthPolicy, LocalityPolicy, Service, ServicePort, Workload, WorkloadUid,
};

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

/// Members in the order of their groups, in each in the order of their uids.
#[derive(Debug)]
pub(super) struct View {
    members: Box<[Member]>,
    /// At least one; none is empty.
    pub(super) groups: Box<[Group]>,
    /// The groups have fixed shares. Else the first is the best.
    pub(super) shared: bool,
    positions: OnceLock<HashMap<WorkloadUid, u32>>,
    addresses: OnceLock<HashMap<IpAddr, u32>>,
}

/// Neighboring members of a view.
#[derive(Debug)]
pub(super) struct Group {
    start: u32,
    end: u32,
    /// Of all groups' sum; no meaning where shares are not fixed.
    pub(super) share: u32,
    pub(super) weights: Weights,
    /// Where endpoints are chosen by hash.
    pub(super) table: Option<Table>,
}

/// How a draw maps to a member.
#[derive(Debug)]
pub(super) enum Weights {
    Equal,
    /// At each position of the group the sum of the weights up to and with it.
    Cumulative(Box<[u64]>),
}

impl Group {
    pub(super) fn members(&self) -> std::ops::Range<u32> {
        self.start..self.end
    }

    pub(super) fn len(&self) -> u32 {
        self.end - self.start
    }
}

impl View {
    pub(super) fn build(
        service: &Service,
        port: ServicePort,
        endpoints: &[Endpoint],
        query: &Query<'_>,
    ) -> Result<Self, NoEndpoint> {
        let grouping = Grouping::new(service, &query.policy.locality, query.source);
        let shares = grouping.shares();
        let groups = gather(service, port, endpoints, query, &grouping)?;
        let mut members = Vec::new();
        let mut built = Vec::with_capacity(groups.len());
        for (rank, mut of_group) in groups {
            let share = shares.as_ref().map_or(0, |shares| shares[rank]);
            if shares.is_some() && share == 0 {
                continue;
            }
            let start = members.len() as u32;
            let weights = Weights::of(&of_group);
            let table = algorithm(&query.policy.balance).map(|algorithm| Table::build(algorithm, &of_group, start));
            members.append(&mut of_group);
            built.push(Group { start, end: members.len() as u32, share, weights, table });
        }
        if built.is_empty() {
            return Err(NoEndpoint::InScope);
        }
        Ok(Self {
            members: members.into(),
            groups: built.into(),
            shared: shares.is_some(),
            positions: OnceLock::new(),
            addresses: OnceLock::new(),
        })
    }

    pub(super) fn member(&self, at: u32) -> &Member {
        &self.members[at as usize]
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn position(&self, uid: &WorkloadUid) -> Option<u32> {
        let index = || self.members.iter().zip(0..).map(|(member, at)| (member.workload.uid.clone(), at)).collect();
        self.positions.get_or_init(index).get(uid).copied()
    }

    pub(super) fn position_at(&self, address: IpAddr) -> Option<u32> {
        let addresses =
            |(member, at): (&Member, u32)| member.workload.addresses.clone().into_iter().map(move |address| (address, at));
        let index = || self.members.iter().zip(0..).flat_map(addresses).collect();
        self.addresses.get_or_init(index).get(&address).copied()
    }
}

impl Weights {
    fn of(members: &[Member]) -> Self {
        let first = members.first().map(Member::weight);
        if members.iter().all(|member| Some(member.weight()) == first) {
            return Self::Equal;
        }
        let mut sum = 0;
        let add = |member: &Member| {
            sum += member.weight();
            sum
        };
        Self::Cumulative(members.iter().map(add).collect())
    }
}

/// The members by rank, or the first reason that leaves nobody.
fn gather(
    service: &Service,
    port: ServicePort,
    endpoints: &[Endpoint],
    query: &Query<'_>,
    grouping: &Grouping<'_>,
) -> Result<BTreeMap<usize, Vec<Member>>, NoEndpoint> {
    let mut groups: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
    let (mut not_in_subset, mut unhealthy, mut out_of_scope) = (false, false, false);
    for endpoint in endpoints {
        let Some(member) = serve(endpoint, port) else { continue };
        let workload = &member.workload;
        if query.subset.is_some_and(|subset| !subset.selects(workload)) {
            not_in_subset = true;
        } else if workload.health != Health::Healthy && service.load_balancing.health != HealthPolicy::AllowAll {
            unhealthy = true;
        } else if workload.network != query.source.network {
        } else if !grouping.in_scope(workload) {
            out_of_scope = true;
        } else if let Some(rank) = grouping.rank(workload) {
            groups.entry(rank).or_default().push(member);
        } else {
            out_of_scope = true;
        }
    }
    if !groups.is_empty() {
        return Ok(groups);
    }
    Err(if out_of_scope {
        NoEndpoint::InScope
    } else if unhealthy {
        NoEndpoint::Healthy
    } else if not_in_subset {
        NoEndpoint::Subset
    } else {
        NoEndpoint::None
    })
}

/// An endpoint as one that can be reached on a port: it has an address, or a name, and serves the port somewhere.
pub(super) fn serve(endpoint: &Endpoint, port: ServicePort) -> Option<Member> {
    let Endpoint { workload, service } = endpoint;
    if workload.addresses.is_empty() && workload.hostname.is_empty() {
        return None;
    }
    let of_service = (port.target_port != 0).then_some(port.target_port);
    let target_port = workload.target_port(service, port.service_port).or(of_service)?;
    Some(Member { workload: workload.clone(), target_port })
}

fn algorithm(balance: &Balance) -> Option<HashAlgorithm> {
    match balance {
        Balance::Hash { algorithm, .. } => Some(*algorithm),
        Balance::LeastRequest | Balance::RoundRobin | Balance::Random | Balance::Passthrough => None,
    }
}

/// What tells the kinds of queries on one port apart: everything that a view depends on beside the pool.
#[derive(Debug)]
pub(super) struct Kind {
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    locality: LocalityPolicy,
    algorithm: Option<HashAlgorithm>,
    client: Box<[Box<str>]>,
}

impl Kind {
    pub(super) fn of(service: &Service, query: &Query<'_>) -> Self {
        let mut client = Vec::new();
        locality::each_dependency(service, &query.policy.locality, query.source, &mut |value| client.push(value.into()));
        Self {
            labels: query.subset.map(|subset| subset.labels.clone()),
            locality: query.policy.locality.clone(),
            algorithm: algorithm(&query.policy.balance),
            client: client.into(),
        }
    }

    pub(super) fn is_of(&self, service: &Service, query: &Query<'_>) -> bool {
        self.algorithm == algorithm(&query.policy.balance)
            && self.labels.as_ref() == query.subset.map(|subset| &subset.labels)
            && self.locality == query.policy.locality
            && self.is_for(service, query)
    }

    /// No query of the same service and locality policy has more dependencies or fewer.
    fn is_for(&self, service: &Service, query: &Query<'_>) -> bool {
        let mut own = self.client.iter();
        let mut same = true;
        let mut compare = |value: &str| same &= own.next().is_some_and(|own| **own == *value);
        locality::each_dependency(service, &query.policy.locality, query.source, &mut compare);
        same
    }
}
