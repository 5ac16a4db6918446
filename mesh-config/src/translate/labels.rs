//! The labels of workloads that travel: those that a subset, a route, a priority or a Telemetry speaks of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_policy::model::{
    ClientMatch, LocalityPolicy, Routes, RoutesKey, Subset, TrafficKey, TrafficPolicy, TrafficRule, Workload,
};

use super::workload::Draft;

type Keys = BTreeSet<Arc<str>>;

pub(super) fn fill<'a>(
    drafts: &mut [Draft],
    routes: &BTreeMap<RoutesKey, Routes>,
    traffic: &BTreeMap<TrafficKey, TrafficRule>,
    more: impl Iterator<Item = &'a Arc<str>>,
) {
    let mut keys: Keys = more.cloned().collect();
    for routes in routes.values() {
        of_routes(routes, &mut keys);
    }
    for rule in traffic.values() {
        of_traffic(rule, &mut keys);
    }
    for draft in drafts {
        for key in &keys {
            let of_place = topology(&draft.workload, key).filter(|value| !value.is_empty());
            let value = of_place.or_else(|| draft.labels.get(&**key).map(|value| value.as_str().into()));
            if let Some(value) = value {
                draft.workload.labels.insert(key.clone(), value);
            }
        }
    }
}

fn of_routes(routes: &Routes, keys: &mut Keys) {
    let Routes { key: _, http, tls, tcp } = routes;
    let requests = http.iter().flat_map(|rule| &rule.matches).flat_map(|found| &found.clients);
    let connections = tls.iter().map(|rule| &rule.when).chain(tcp.iter().map(|rule| &rule.when));
    for ClientMatch { namespace: _, labels } in requests.chain(connections.flat_map(|when| &when.clients)) {
        keys.extend(labels.keys().cloned());
    }
}

fn of_traffic(rule: &TrafficRule, keys: &mut Keys) {
    let TrafficRule { key: _, origin: _, policy, ports, subsets } = rule;
    let of_policy = |policy: &TrafficPolicy, keys: &mut Keys| {
        if let LocalityPolicy::Priority { labels } = &policy.locality {
            keys.extend(labels.iter().map(|(label, _)| label.clone()));
        }
    };
    for policy in [policy].into_iter().chain(ports.values()) {
        of_policy(policy, keys);
    }
    for Subset { labels, policy, ports } in subsets.values() {
        keys.extend(labels.keys().cloned());
        for policy in [policy].into_iter().chain(ports.values()) {
            of_policy(policy, keys);
        }
    }
}

/// The labels that Istio gives each endpoint from where it runs (`AugmentLabels`).
fn topology(workload: &Workload, key: &str) -> Option<Arc<str>> {
    let found = match key {
        "topology.kubernetes.io/region" => &workload.locality.region,
        "topology.kubernetes.io/zone" => &workload.locality.zone,
        "topology.istio.io/subzone" => &workload.locality.subzone,
        "topology.istio.io/network" => &workload.network,
        "topology.istio.io/cluster" => &workload.cluster,
        "kubernetes.io/hostname" => &workload.node,
        _ => return None,
    };
    Some(found.clone())
}
