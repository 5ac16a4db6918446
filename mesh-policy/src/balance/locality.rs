//! How near an endpoint is to a client, by the service's preference or its DestinationRule.

use std::sync::Arc;

use crate::model::{Distribution, LoadBalancing, LocalityPolicy, RoutingMode, RoutingScope, Service, Workload};

/// How a client's endpoints are grouped.
pub(super) struct Grouping<'a> {
    service: &'a Service,
    locality: &'a LocalityPolicy,
    client: &'a Workload,
    distribution: Option<&'a Distribution>,
}

impl<'a> Grouping<'a> {
    pub(super) fn new(service: &'a Service, locality: &'a LocalityPolicy, client: &'a Workload) -> Self {
        let distribution = match locality {
            LocalityPolicy::Distribute { from } => from.iter().find(|distribution| matches(client, &distribution.from)),
            LocalityPolicy::OfService
            | LocalityPolicy::Off
            | LocalityPolicy::Failover { .. }
            | LocalityPolicy::Priority { .. } => None,
        };
        Self { service, locality, client, distribution }
    }

    /// Whether the service lets the client use the endpoint at all. `internalTrafficPolicy: Local` binds whatever a
    /// DestinationRule says: it is a promise about where traffic goes, not a preference.
    pub(super) fn in_scope(&self, endpoint: &Workload) -> bool {
        let LoadBalancing { mode, preference, health: _ } = &self.service.load_balancing;
        *mode != RoutingMode::Strict || preference.iter().all(|scope| place(*scope, endpoint) == place(*scope, self.client))
    }

    /// The group of an endpoint, nearest or first first; None: it gets nothing.
    pub(super) fn rank(&self, endpoint: &Workload) -> Option<usize> {
        match self.locality {
            LocalityPolicy::OfService => Some(self.by_preference(endpoint)),
            LocalityPolicy::Off => Some(0),
            LocalityPolicy::Failover { to } => Some(by_region(self.client, endpoint, to.get(&self.client.locality.region))),
            LocalityPolicy::Priority { labels } => {
                let alike = labels.iter().take_while(|(label, value)| {
                    let wanted = value.as_deref().unwrap_or_else(|| label_of(self.client, label));
                    label_of(endpoint, label) == wanted
                });
                Some(labels.len() - alike.count())
            }
            LocalityPolicy::Distribute { .. } => match self.distribution {
                None => Some(0),
                Some(distribution) => most_specific(distribution).position(|(to, _)| matches(endpoint, to)),
            },
        }
    }

    /// The share of each group, by rank, where shares are fixed.
    pub(super) fn shares(&self) -> Option<Vec<u32>> {
        self.distribution.map(|distribution| most_specific(distribution).map(|(_, share)| share).collect())
    }

    fn by_preference(&self, endpoint: &Workload) -> usize {
        let LoadBalancing { mode, preference, health: _ } = &self.service.load_balancing;
        match mode {
            RoutingMode::Unspecified | RoutingMode::Passthrough | RoutingMode::Strict => 0,
            RoutingMode::Failover => {
                let shared = preference.iter().take_while(|scope| place(**scope, endpoint) == place(**scope, self.client));
                preference.len() - shared.count()
            }
        }
    }
}

/// Hands `see` every property of a client that its grouping depends on, always in the same order.
pub(super) fn each_dependency(service: &Service, locality: &LocalityPolicy, client: &Workload, see: &mut dyn FnMut(&str)) {
    see(&client.network);
    let of_service = match service.load_balancing.mode {
        RoutingMode::Strict => true,
        RoutingMode::Failover => *locality == LocalityPolicy::OfService,
        RoutingMode::Unspecified | RoutingMode::Passthrough => false,
    };
    if of_service {
        service.load_balancing.preference.iter().for_each(|scope| see(place(*scope, client)));
    }
    match locality {
        LocalityPolicy::OfService | LocalityPolicy::Off => {}
        LocalityPolicy::Failover { .. } | LocalityPolicy::Distribute { .. } => {
            for scope in [RoutingScope::Region, RoutingScope::Zone, RoutingScope::Subzone] {
                see(place(scope, client));
            }
        }
        LocalityPolicy::Priority { labels } => {
            let own = labels.iter().filter(|(_, value)| value.is_none());
            own.for_each(|(label, _)| see(label_of(client, label)));
        }
    }
}

fn place(scope: RoutingScope, workload: &Workload) -> &str {
    match scope {
        RoutingScope::Network => &workload.network,
        RoutingScope::Region => &workload.locality.region,
        RoutingScope::Zone => &workload.locality.zone,
        RoutingScope::Subzone => &workload.locality.subzone,
        RoutingScope::Node => &workload.node,
        RoutingScope::Cluster => &workload.cluster,
    }
}

/// Istio's `failover`: same subzone, zone, region; then the region named for the client's; then the rest.
fn by_region(client: &Workload, endpoint: &Workload, to: Option<&Arc<str>>) -> usize {
    let (here, there) = (&client.locality, &endpoint.locality);
    if here.region != there.region {
        return if to.is_none_or(|to| *to == there.region) { 3 } else { 4 };
    }
    match (here.zone == there.zone, here.subzone == there.subzone) {
        (false, _) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }
}

/// A label; those that say where a workload is are known of workloads without labels too. Missing ones are empty, and so
/// equal, as in Istio.
fn label_of<'a>(workload: &'a Workload, label: &str) -> &'a str {
    if let Some(value) = workload.labels.get(label) {
        return value;
    }
    match label {
        "topology.istio.io/network" => &workload.network,
        "topology.istio.io/cluster" => &workload.cluster,
        "topology.kubernetes.io/region" => &workload.locality.region,
        "topology.kubernetes.io/zone" => &workload.locality.zone,
        "topology.istio.io/subzone" => &workload.locality.subzone,
        "kubernetes.io/hostname" => &workload.node,
        _ => "",
    }
}

/// Whether a workload is within `region/zone/subzone`, where `*` and what is left out stand for all.
fn matches(workload: &Workload, locality: &str) -> bool {
    let here = &workload.locality;
    let mut parts = locality.split('/');
    let mut holds = |own: &str| parts.next().is_none_or(|part| part == "*" || part.is_empty() || part == own);
    holds(&here.region) && holds(&here.zone) && holds(&here.subzone)
}

/// The targets of a distribution, so that the first that matches is the one that says most.
fn most_specific(distribution: &Distribution) -> impl Iterator<Item = (&str, u32)> {
    let said = |to: &str| to.split('/').filter(|part| !part.is_empty() && *part != "*").count();
    let mut targets: Vec<_> = distribution.to.iter().map(|(to, share)| (&**to, *share)).collect();
    targets.sort_by_key(|(to, _)| std::cmp::Reverse(said(to)));
    targets.into_iter()
}
