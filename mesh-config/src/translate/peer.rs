//! PeerAuthentications to policies that deny whoever has no identity.
//!
//! Precedence: workload before namespace before mesh, the oldest of each; what is unset is inherited. The result has
//! the names that istiod gives it. (istiod ignores workload selectors in the root namespace; so it is here.)

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_policy::model::{Action, Authorization, Clause, Match, PolicyKey, Rule, Scope, StringMatch};

use super::{Report, network::port, selector::matches, service::created, workload::Draft};
use crate::{
    kinds::{Kind, MtlsMode, Name, ObjectKey, Objects, PeerAuthentication},
    status::{Code, Level, Message},
};

const STRICT: &str = "istio_converted_static_strict";

/// Translates every PeerAuthentication and names the results in the workloads that they bear on.
pub(super) fn policies(objects: &Objects, root: &str, drafts: &mut [Draft], report: &mut Report) -> Vec<Authorization> {
    if objects.peer_authentications.is_empty() {
        return Vec::new();
    }
    let effective = Effective::of(objects, root, report);
    let strict = PolicyKey { namespace: root.into(), name: STRICT.into() };
    let mut policies = vec![deny(strict.clone(), vec![rule(no_identity(), Vec::new(), Vec::new())])];
    let mut with_ports: BTreeMap<PolicyKey, Authorization> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| draft.protected) {
        let namespace = &draft.workload.namespace;
        let inherited = effective.inherited(namespace);
        let own = effective.selecting(namespace, &draft.labels);
        let plan = own.map_or(Plan { strict: inherited, exceptions: Vec::new() }, |(_, policy)| plan(policy, inherited));
        match own {
            Some((name, _)) if !plan.exceptions.is_empty() => {
                let key = PolicyKey {
                    namespace: name.namespace.clone(),
                    name: format!("converted_peer_authentication_{}", name.name).into(),
                };
                draft.workload.policies.push(key.clone());
                with_ports.entry(key.clone()).or_insert_with(|| plan.policy(key));
            }
            _ if plan.strict => draft.workload.policies.push(strict.clone()),
            _ => {}
        }
    }
    policies.extend(with_ports.into_values());
    policies
}

/// Whether connections need an identity, and the ports where it is the other way round.
struct Plan {
    strict: bool,
    exceptions: Vec<u16>,
}

fn plan(policy: &PeerAuthentication, inherited: bool) -> Plan {
    let strict = is_strict(mode(policy)).unwrap_or(inherited);
    let ports = policy.spec.port_level_mtls.iter().flatten();
    let exceptions = ports
        .filter(|(_, mtls)| is_strict(mtls.mode).is_some_and(|of_port| of_port != strict))
        .filter_map(|(number, _)| port(number))
        .collect();
    Plan { strict, exceptions }
}

impl Plan {
    fn policy(&self, key: PolicyKey) -> Authorization {
        let mut ports = self.exceptions.clone();
        ports.sort_unstable();
        let rule = if self.strict { rule(no_identity(), Vec::new(), ports) } else { rule(no_identity(), ports, Vec::new()) };
        deny(key, vec![rule])
    }
}

/// The oldest PeerAuthentication of the mesh, of each namespace, and those that select workloads, oldest first.
struct Effective<'a> {
    mesh: Option<&'a PeerAuthentication>,
    namespaces: HashMap<Arc<str>, &'a PeerAuthentication>,
    workloads: HashMap<Arc<str>, Vec<(&'a Name, &'a PeerAuthentication)>>,
}

impl<'a> Effective<'a> {
    fn of(objects: &'a Objects, root: &str, report: &mut Report) -> Self {
        let mut sorted: Vec<_> = objects.peer_authentications.iter().collect();
        sorted.sort_by_key(|(name, policy)| (created(&policy.metadata), *name));
        let mut found = Self { mesh: None, namespaces: HashMap::new(), workloads: HashMap::new() };
        for (name, policy) in sorted {
            let selects = policy.spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
            let mut tell = |level, code, field: &str, text: &str| {
                let source = ObjectKey { kind: Kind::PeerAuthentication, name: name.clone() };
                report.tell(source, Message::new(level, code, field, text));
            };
            let first = if selects && *name.namespace == *root {
                tell(Level::Error, Code::NotHonoured, "spec.selector", "a selector has no effect in the root namespace");
                true
            } else if selects {
                found.workloads.entry(name.namespace.clone()).or_default().push((name, policy));
                true
            } else if *name.namespace == *root {
                found.mesh.replace(policy).inspect(|older| found.mesh = Some(older)).is_none()
            } else {
                let older = found.namespaces.contains_key(&name.namespace);
                found.namespaces.entry(name.namespace.clone()).or_insert(policy);
                !older
            };
            if !first {
                tell(Level::Error, Code::Conflict, "", "an older PeerAuthentication of the same extent has precedence");
            }
        }
        found
    }

    fn inherited(&self, namespace: &str) -> bool {
        let of_namespace = self.namespaces.get(namespace).and_then(|policy| is_strict(mode(policy)));
        let of_mesh = || self.mesh.and_then(|policy| is_strict(mode(policy)));
        of_namespace.or_else(of_mesh).unwrap_or(false)
    }

    fn selecting(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<(&'a Name, &'a PeerAuthentication)> {
        let selects = |policy: &PeerAuthentication| {
            policy.spec.selector.as_ref().is_some_and(|selector| matches(&selector.match_labels, labels))
        };
        self.workloads.get(namespace)?.iter().find(|(_, policy)| selects(policy)).copied()
    }
}

fn mode(policy: &PeerAuthentication) -> MtlsMode {
    policy.spec.mtls.unwrap_or_default().mode
}

/// None: unset, inherited. A captured pod always accepts mutual TLS, so DISABLE is PERMISSIVE.
fn is_strict(mode: MtlsMode) -> Option<bool> {
    match mode {
        MtlsMode::Unset => None,
        MtlsMode::Strict => Some(true),
        MtlsMode::Permissive | MtlsMode::Disable => Some(false),
    }
}

fn no_identity() -> Vec<StringMatch> {
    vec![StringMatch::Presence]
}

fn rule(not_principals: Vec<StringMatch>, destination_ports: Vec<u16>, not_destination_ports: Vec<u16>) -> Rule {
    let found = Match { not_principals, destination_ports, not_destination_ports, ..Match::default() };
    Rule { clauses: vec![Clause { matches: vec![found] }] }
}

fn deny(key: PolicyKey, rules: Vec<Rule>) -> Authorization {
    Authorization { key, scope: Scope::Workload, action: Action::Deny, dry_run: false, rules }
}
