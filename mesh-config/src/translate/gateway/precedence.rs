//! The order of rules, as the specification has it.
//!
//! A match has precedence by its rank, then by the age of its route, then by the route's `namespace/name`, then by its
//! place in the route. HTTPRoutes and GRPCRoutes do not mix: on a port that has both, the kind of the oldest counts.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mesh_policy::model::{HttpRule, Routes, RoutesKey, TcpRule, TlsRule};

use super::{super::service::created, Draft, Metadata, Rules};
use crate::kinds::{Kind, Name, ObjectKey};

/// How particular a match is: the greater first, compared from the first number on. What the numbers are is said where
/// each kind makes its own; ranks of different kinds are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(pub(super) [usize; 5]);

/// A rule with what settles its place. `place`: number of the rule in its route, and of the match in the rule.
pub(super) struct Placed<R> {
    pub(super) rank: Rank,
    pub(super) place: (usize, usize),
    pub(super) rule: R,
}

/// Older first, then by `namespace/name` in the order of their characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seniority {
    created: Option<Time>,
    name: String,
}

impl Seniority {
    pub(super) fn of(name: &Name, metadata: &Metadata) -> Self {
        Self { created: created(metadata).cloned(), name: format!("{}/{}", name.namespace, name.name) }
    }
}

/// Of each route the ports that a route of the other kind has, and that route.
pub(super) fn lost_to_the_other_kind(drafts: &[Draft]) -> BTreeMap<ObjectKey, BTreeMap<RoutesKey, ObjectKey>> {
    let of_http = || drafts.iter().filter(|draft| matches!(draft.key.kind, Kind::HttpRoute | Kind::GrpcRoute));
    let mut oldest: BTreeMap<&RoutesKey, &Draft> = BTreeMap::new();
    for draft in of_http() {
        for target in draft.targets() {
            let first = oldest.entry(target).or_insert(draft);
            if (&draft.seniority, draft.key.kind) < (&first.seniority, first.key.kind) {
                *first = draft;
            }
        }
    }
    let mut lost: BTreeMap<ObjectKey, BTreeMap<RoutesKey, ObjectKey>> = BTreeMap::new();
    for draft in of_http() {
        for target in draft.targets() {
            let first = oldest[target];
            if first.key.kind != draft.key.kind {
                lost.entry(draft.key.clone()).or_default().insert(target.clone(), first.key.clone());
            }
        }
    }
    lost
}

/// All rules of each port in their order.
pub(super) fn merged(
    drafts: Vec<Draft>,
    lost: &BTreeMap<ObjectKey, BTreeMap<RoutesKey, ObjectKey>>,
) -> BTreeMap<RoutesKey, Routes> {
    let mut ports: BTreeMap<RoutesKey, Port> = BTreeMap::new();
    for draft in drafts {
        let targets: BTreeSet<RoutesKey> = draft.targets().into_iter().cloned().collect();
        let lost = lost.get(&draft.key);
        let Draft { key: _, generation: _, seniority, parents: _, rules } = draft;
        let Rules { http, tls, tcp, unresolved: _, failing: _, count: _ } = rules;
        for target in targets.into_iter().filter(|target| lost.is_none_or(|lost| !lost.contains_key(target))) {
            let port = ports.entry(target).or_default();
            add(&mut port.http, &seniority, &http);
            add(&mut port.tls, &seniority, &tls);
            add(&mut port.tcp, &seniority, &tcp);
        }
    }
    ports.into_iter().map(|(key, port)| (key.clone(), port.settled(key))).collect()
}

type Ordered<R> = Vec<(Reverse<Rank>, Seniority, (usize, usize), R)>;

#[derive(Default)]
struct Port {
    http: Ordered<HttpRule>,
    tls: Ordered<TlsRule>,
    tcp: Ordered<TcpRule>,
}

impl Port {
    fn settled(self, key: RoutesKey) -> Routes {
        Routes { key, http: settle(self.http), tls: settle(self.tls), tcp: settle(self.tcp) }
    }
}

fn add<R: Clone>(rules: &mut Ordered<R>, seniority: &Seniority, more: &[Placed<R>]) {
    rules.extend(more.iter().map(|Placed { rank, place, rule }| (Reverse(*rank), seniority.clone(), *place, rule.clone())));
}

fn settle<R>(mut rules: Ordered<R>) -> Vec<R> {
    rules.sort_by(|one, other| (&one.0, &one.1, &one.2).cmp(&(&other.0, &other.1, &other.2)));
    rules.into_iter().map(|(_, _, _, rule)| rule).collect()
}
