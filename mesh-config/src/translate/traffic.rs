//! DestinationRules to the treatment of each service's endpoints.
//!
//! Which rule counts for a client is Istio's order: one of the client's namespace, else one of the service's, else one of
//! the root namespace, each only where it is exported to the client; within a namespace the most specific host. Rules of
//! one namespace for one host are merged: subsets add up, the oldest policy counts.

mod level;
mod locality;
mod policy;
mod remarks;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use level::Levels;
use mesh_policy::model::{RoutingMode, ServiceKey, Subset, TrafficKey, TrafficPolicy, TrafficRule};
pub(super) use policy::Defaults;

use super::{
    Report,
    exports::Exports,
    hosts::{Hosts, covers, specificity},
    mesh::MeshSettings,
    selector::{Labels, matches},
    service::{self, Services, created},
    workload,
};
use crate::{
    kinds::{DestinationRuleSpec, Kind, Name, ObjectKey, Objects},
    status::{Code, Level as Weight, Message},
};

pub(super) type Traffic = BTreeMap<TrafficKey, TrafficRule>;

/// Translates every rule, for each service that it is about.
pub(super) fn rules(
    objects: &Objects,
    mesh: &MeshSettings,
    hosts: &Hosts<'_>,
    services: &Services,
    drafts: &[workload::Draft],
    report: &mut Report,
) -> Traffic {
    let known = Known::new(objects, mesh, hosts, report);
    let mut endpoints: HashMap<&ServiceKey, Vec<&Labels>> = HashMap::new();
    for draft in drafts {
        for service in draft.workload.services.keys() {
            endpoints.entry(service).or_default().push(&draft.labels);
        }
    }
    let mut traffic = Traffic::new();
    let mut used = BTreeSet::new();
    for (key, draft) in &services.by_key {
        let about = known.about(&draft.service.hostname);
        used.extend(about.iter().map(|rule| rule.name));
        let of = Service { draft, key, mesh, endpoints: endpoints.get(key).map_or(&[], |found| found) };
        let everybody = of.chosen(&about, None);
        let mut consumers: BTreeSet<Arc<str>> = about.iter().map(|rule| rule.name.namespace.clone()).collect();
        for rule in &about {
            if let Exports::Only(namespaces) = &rule.exports {
                consumers.extend(namespaces.iter().cloned());
            }
        }
        for consumer in consumers {
            let chosen = of.chosen(&about, Some(&consumer));
            if !chosen.is_empty() && chosen != everybody {
                let key = TrafficKey { service: key.clone(), consumer: Some(consumer) };
                traffic.insert(key.clone(), of.merged(&chosen, key, report));
            }
        }
        let key = TrafficKey { service: key.clone(), consumer: None };
        if !everybody.is_empty() {
            traffic.insert(key.clone(), of.merged(&everybody, key, report));
        } else if let Some(rule) = of.default(&key) {
            traffic.insert(key, rule);
        }
    }
    for rule in known.rules.iter().filter(|rule| !used.contains(rule.name)) {
        let text = format!("no service has the name {}", rule.host);
        report.tell(rule.key(), Message::new(Weight::Warning, Code::TargetNotFound, "spec.host", text));
    }
    traffic
}

/// A rule that may count.
#[derive(Debug)]
struct Rule<'a> {
    name: &'a Name,
    /// Whole.
    host: String,
    spec: &'a DestinationRuleSpec,
    exports: Exports,
}

impl PartialEq for Rule<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Rule<'_> {
    fn key(&self) -> ObjectKey {
        ObjectKey { kind: Kind::DestinationRule, name: self.name.clone() }
    }
}

/// All rules, the oldest first.
struct Known<'a> {
    rules: Vec<Rule<'a>>,
    by_host: HashMap<String, Vec<usize>>,
    wildcards: Vec<usize>,
}

impl<'a> Known<'a> {
    fn new(objects: &'a Objects, mesh: &MeshSettings, hosts: &Hosts<'_>, report: &mut Report) -> Self {
        let mut ordered: Vec<_> = objects.destination_rules.iter().collect();
        ordered.sort_by_key(|(name, rule)| (created(&rule.metadata), *name));
        let (mut rules, mut by_host, mut wildcards) = (Vec::new(), HashMap::<String, Vec<usize>>::new(), Vec::new());
        for (name, rule) in ordered {
            let spec = &rule.spec;
            for message in remarks::remarks(spec) {
                report.tell(ObjectKey { kind: Kind::DestinationRule, name: name.clone() }, message);
            }
            // It would widen what a few clients are meant to do to all.
            if spec.workload_selector.is_some() {
                continue;
            }
            let host = hosts.full(&spec.host, &name.namespace);
            if host.starts_with('*') {
                wildcards.push(rules.len());
            } else {
                by_host.entry(host.clone()).or_default().push(rules.len());
            }
            let exports = Exports::of(&spec.export_to, &mesh.destination_rule_exports, &name.namespace);
            rules.push(Rule { name, host, spec, exports });
        }
        Self { rules, by_host, wildcards }
    }

    /// The rules for a host, the oldest first.
    fn about(&self, host: &str) -> Vec<&Rule<'a>> {
        let exact = self.by_host.get(host).into_iter().flatten().copied();
        let wild = self.wildcards.iter().copied().filter(|index| covers(&self.rules[*index].host, host));
        let indexes: BTreeSet<usize> = exact.chain(wild).collect();
        indexes.into_iter().map(|index| &self.rules[index]).collect()
    }
}

/// A service, and what is known of it.
struct Service<'a> {
    draft: &'a service::Draft,
    key: &'a ServiceKey,
    mesh: &'a MeshSettings,
    endpoints: &'a [&'a Labels],
}

impl Service<'_> {
    /// The rules that count for a namespace's clients; None: for those of any.
    fn chosen<'r>(&self, about: &[&'r Rule<'r>], consumer: Option<&Arc<str>>) -> Vec<&'r Rule<'r>> {
        let root = &self.mesh.root;
        let visible = |rule: &Rule<'_>| match consumer {
            None => rule.exports == Exports::Everyone,
            Some(consumer) => rule.exports.include(consumer),
        };
        let of = |namespace: &Arc<str>, private: bool| -> Vec<&'r Rule<'r>> {
            let private_to =
                |rule: &Rule<'_>| matches!(&rule.exports, Exports::Only(only) if only.len() == 1 && only.contains(namespace));
            let here = about.iter().copied().filter(|rule| rule.name.namespace == *namespace && visible(rule));
            let here: Vec<_> = here.filter(|rule| !private || private_to(rule)).collect();
            let most = here.iter().map(|rule| specificity(&rule.host)).max();
            here.into_iter().filter(|rule| Some(specificity(&rule.host)) == most).collect()
        };
        // What the root namespace exports is for all; of its own it has only what it keeps to itself.
        let own = consumer.map(|consumer| of(consumer, consumer == root)).filter(|rules| !rules.is_empty());
        let of_service = || Some(of(&self.key.namespace, false)).filter(|rules| !rules.is_empty());
        own.or_else(of_service).unwrap_or_else(|| of(root, false))
    }

    fn merged(&self, chosen: &[&Rule<'_>], key: TrafficKey, report: &mut Report) -> TrafficRule {
        let conflict = |rule: &Rule<'_>, field: String, winner: &Rule<'_>, report: &mut Report| {
            let text = format!("{} says it for {}, and is older", winner.key(), rule.host);
            report.tell(rule.key(), Message::new(Weight::Error, Code::Conflict, field, text));
        };
        let mut policy: Option<&Rule<'_>> = None;
        let mut subsets: BTreeMap<&str, (&Rule<'_>, usize)> = BTreeMap::new();
        for rule in chosen {
            match policy {
                Some(winner) if rule.spec.traffic_policy.is_some() => {
                    conflict(rule, "spec.trafficPolicy".into(), winner, report);
                }
                None if rule.spec.traffic_policy.is_some() => policy = Some(rule),
                Some(_) | None => {}
            }
            for (index, subset) in rule.spec.subsets.iter().enumerate() {
                if let Some((winner, _)) = subsets.get(subset.name.as_str()) {
                    conflict(rule, format!("spec.subsets[{index}]"), winner, report);
                } else {
                    subsets.insert(&subset.name, (rule, index));
                    self.expect_endpoints(rule, index, report);
                }
            }
        }
        let levels = Levels::of(policy.and_then(|rule| rule.spec.traffic_policy.as_ref()));
        let (top, ports) = self.policies(&levels);
        let of_subset = |(rule, index): &(&Rule<'_>, usize)| {
            let subset = &rule.spec.subsets[*index];
            let (policy, ports) = self.policies(&levels.with_subset(subset.traffic_policy.as_ref()));
            let labels = subset.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
            Subset { labels, policy, ports }
        };
        TrafficRule {
            key,
            origin: chosen
                .iter()
                .map(|rule| format!("{}/{}", rule.name.namespace, rule.name.name))
                .collect::<Vec<_>>()
                .join(", ")
                .into(),
            policy: top,
            ports,
            subsets: subsets.iter().map(|(name, found)| ((*name).into(), of_subset(found))).collect(),
        }
    }

    fn expect_endpoints(&self, rule: &Rule<'_>, index: usize, report: &mut Report) {
        let wanted = &rule.spec.subsets[index].labels;
        if !self.endpoints.is_empty() && !self.endpoints.iter().any(|labels| matches(wanted, labels)) {
            let text = format!("no workload behind {} has these labels", self.key.hostname);
            let field = format!("spec.subsets[{index}].labels");
            report.tell(rule.key(), Message::new(Weight::Warning, Code::TargetNotFound, field, text));
        }
    }

    fn policies(&self, levels: &Levels<'_>) -> (Arc<TrafficPolicy>, BTreeMap<u16, Arc<TrafficPolicy>>) {
        let mode = self.mode();
        let whole = |level| Arc::new(policy::policy(level, &self.mesh.traffic, mode, self.draft.sticky));
        (whole(levels.top), levels.ports.iter().map(|(port, level)| (*port, whole(*level))).collect())
    }

    fn mode(&self) -> RoutingMode {
        self.draft.service.load_balancing.mode
    }

    /// What the mesh and the service itself say of a service without rules, where that is anything.
    fn default(&self, key: &TrafficKey) -> Option<TrafficRule> {
        let (policy, ports) = self.policies(&Levels::default());
        (*policy != TrafficPolicy::default()).then(|| TrafficRule {
            key: key.clone(),
            origin: if self.draft.sticky { self.draft.source.to_string().into() } else { "MeshConfig".into() },
            policy,
            ports,
            subsets: BTreeMap::new(),
        })
    }
}
