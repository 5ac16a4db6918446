//! AuthorizationPolicies to policies, and the workloads that they protect.

mod http;
mod waypoint;

use std::collections::{BTreeMap, BTreeSet};

use mesh_policy::model::{self, Authorization, Mesh, PolicyKey, Rule, Scope};

use self::waypoint::{Caller, Stand};
use super::{
    Report,
    gateway::Waypoints,
    rule::{Effect, Ports, Reader},
    selector::matches,
    service::Services,
    workload::{Draft, WaypointName},
};
use crate::{
    kinds::{Action, AuthorizationPolicy, Kind, Name, ObjectKey, Objects, TargetRef},
    status::{Code, Level, Message},
};

const DRY_RUN: &str = "istio.io/dry-run";
/// The Gateway API's label of the pods that a Gateway runs.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What policies are read with.
pub(super) struct Surroundings<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) root: &'a str,
    pub(super) services: &'a Services,
    pub(super) waypoints: &'a Waypoints,
}

/// Translates every policy and names it in the workloads that it selects.
pub(super) fn policies(
    objects: &Objects,
    surroundings: &Surroundings<'_>,
    drafts: &mut [Draft],
    report: &mut Report,
) -> Vec<Authorization> {
    let Surroundings { mesh, root, services, waypoints } = *surroundings;
    let mut by_namespace: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate().filter(|(_, draft)| draft.protected) {
        by_namespace.entry(draft.workload.namespace.to_string()).or_default().push(index);
    }
    let (by_target, by_labels): (Vec<_>, Vec<_>) =
        objects.authorization_policies.iter().partition(|(_, policy)| has_targets(policy));
    let mut policies = Vec::new();
    let mut admitting = BTreeMap::new();
    // Those on targets first: what they admit is what a waypoint's principal stands for.
    for (name, policy) in by_target.into_iter().chain(by_labels) {
        let by_namespace = &by_namespace;
        let mut context =
            Context { name, policy, mesh, root, services, waypoints, drafts, by_namespace, admitting: &admitting, report };
        let found = context.translate();
        if has_targets(policy) {
            let allowing = found.iter().filter(|found| found.action == model::Action::Allow && !found.dry_run);
            admitting.extend(allowing.map(|found| (found.key.clone(), found.rules.clone())));
        }
        policies.extend(found);
    }
    policies
}

fn has_targets(policy: &AuthorizationPolicy) -> bool {
    policy.spec.target_ref.is_some() || !policy.spec.target_refs.is_empty()
}

/// A policy, and which of the written rules each of its rules is.
struct Written {
    policy: Authorization,
    places: Vec<usize>,
    /// Of each rule whether it denies, and may have named anybody.
    anybody: Vec<bool>,
}

/// Workloads behind a target that serve its ports alike.
struct Group {
    members: Vec<usize>,
    ports: Ports,
}

struct Context<'a> {
    name: &'a Name,
    policy: &'a AuthorizationPolicy,
    mesh: &'a Mesh,
    root: &'a str,
    services: &'a Services,
    waypoints: &'a Waypoints,
    drafts: &'a mut [Draft],
    by_namespace: &'a BTreeMap<String, Vec<usize>>,
    /// The rules of the policies on targets that allow.
    admitting: &'a BTreeMap<PolicyKey, Vec<Rule>>,
    report: &'a mut Report,
}

impl Context<'_> {
    fn translate(&mut self) -> Vec<Authorization> {
        let spec = &self.policy.spec;
        let effect = match spec.action {
            Action::Allow => Effect::Allow,
            Action::Deny => Effect::Deny,
            Action::Custom => {
                let provider = spec.provider.as_ref().map(|provider| provider.name.as_str()).unwrap_or_default();
                let text = format!("provider {provider} is not asked in this version: what matches is denied");
                self.tell(Level::Warning, Code::UnsupportedAction, "spec.action", text);
                Effect::Deny
            }
            Action::Audit => {
                let text = "AUDIT has no effect in this version";
                self.tell(Level::Warning, Code::UnsupportedAction, "spec.action", text.into());
                return Vec::new();
            }
        };
        let single = spec.target_ref.iter().map(|target| ("spec.targetRef".to_owned(), target.clone()));
        let numbered = spec.target_refs.iter().enumerate();
        let several = numbered.map(|(index, target)| (format!("spec.targetRefs[{index}]"), target.clone()));
        let targets: Vec<(String, TargetRef)> = single.chain(several).collect();
        if targets.is_empty() {
            return self.selected(effect);
        }
        targets.into_iter().flat_map(|(field, target)| self.targeted(effect, &field, &target)).collect()
    }

    /// By labels, or everything in the namespace, or, from the root namespace, in the mesh.
    fn selected(&mut self, effect: Effect) -> Vec<Authorization> {
        let selector = self.policy.spec.selector.as_ref().map(|selector| &selector.match_labels);
        let selector = selector.filter(|labels| !labels.is_empty());
        let mesh_wide = &*self.name.namespace == self.root;
        let scope = match selector {
            None if mesh_wide => Scope::Global,
            None => Scope::Namespace,
            Some(_) => Scope::Workload,
        };
        let key = PolicyKey { namespace: self.name.namespace.clone(), name: self.name.name.clone() };
        let own = self.by_namespace.get(&*self.name.namespace).filter(|_| !mesh_wide).into_iter();
        let all = self.by_namespace.values().filter(|_| mesh_wide);
        let selects = |index: &usize| selector.is_none_or(|labels| matches(labels, &self.drafts[*index].labels));
        let workloads: Vec<usize> = own.chain(all).flatten().copied().filter(selects).collect();
        let written = self.authorization(effect, key, scope, Ports::OfWorkload);
        http::tell(self, &written, effect, &workloads);
        let stands = self.stands(&written, &workloads);
        let Written { policy, places: _, anybody } = written;
        if stands.is_empty() {
            if scope == Scope::Workload {
                self.assign(&policy.key, &workloads);
            }
            return vec![policy];
        }
        stands.into_iter().map(|(stand, workloads)| self.at((&policy, &anybody), effect, &stand, &workloads)).collect()
    }

    fn assign(&mut self, key: &PolicyKey, workloads: &[usize]) {
        for index in workloads {
            self.drafts[*index].workload.policies.push(key.clone());
        }
    }

    /// The workloads by the waypoints before them that the policy names. Empty: it names none.
    fn stands(&self, written: &Written, workloads: &[usize]) -> BTreeMap<Stand, Vec<usize>> {
        let Written { policy, places: _, anybody } = written;
        let mut stands: BTreeMap<Stand, Vec<usize>> = BTreeMap::new();
        if self.waypoints.is_empty() {
            return stands;
        }
        for index in workloads {
            let draft = &self.drafts[*index];
            let names = |waypoint: &&WaypointName| {
                let caller = Caller { waypoint, mesh: self.mesh };
                let named = anybody.contains(&true) || policy.rules.iter().any(|rule| caller.is_named_in(rule));
                self.waypoints.contains(waypoint) && named
            };
            let waypoints: BTreeSet<WaypointName> = self.waypoints_before(draft).filter(names).cloned().collect();
            let policies = draft.workload.policies.iter().filter(|key| self.admitting.contains_key(key));
            let admitting = if waypoints.is_empty() { BTreeSet::new() } else { policies.cloned().collect() };
            stands.entry(Stand { waypoints, admitting }).or_default().push(*index);
        }
        if stands.keys().all(|stand| stand.waypoints.is_empty()) {
            stands.clear();
        }
        stands
    }

    /// The policy as it is for workloads of one stand, and the workloads told of it.
    fn at(
        &mut self,
        (policy, anybody): (&Authorization, &[bool]),
        effect: Effect,
        stand: &Stand,
        workloads: &[usize],
    ) -> Authorization {
        let admitted = stand.admitting.iter().flat_map(|key| &self.admitting[key]).cloned().collect::<Vec<Rule>>();
        let admitted = (!stand.admitting.is_empty()).then_some(&*admitted);
        let mut rules: Vec<(Rule, bool)> = policy.rules.iter().cloned().zip(anybody.iter().copied()).collect();
        for waypoint in &stand.waypoints {
            let caller = Caller { waypoint, mesh: self.mesh };
            if effect == Effect::Deny && admitted.is_some() && rules.iter().any(|(rule, _)| caller.is_left_out_of(rule)) {
                let text = format!(
                    "everybody but the waypoint {} is everybody here, where policies on targets admit some clients only",
                    waypoint.name
                );
                self.tell(Level::Warning, Code::NotEnforced, "spec.rules", text);
            }
            let expanded = rules.into_iter().flat_map(|(rule, anybody)| {
                let named = anybody || caller.is_named_in(&rule);
                let rules = if named { caller.expanded(&rule, effect, admitted) } else { vec![rule] };
                rules.into_iter().map(move |rule| (rule, anybody))
            });
            rules = expanded.collect();
        }
        let mut key = policy.key.clone();
        if !stand.waypoints.is_empty() {
            // No name of an object has an underscore: this is nobody else's.
            key.name = format!("{}_behind_{:016x}", key.name, stand.fingerprint()).into();
        }
        self.assign(&key, workloads);
        let rules = rules.into_iter().map(|(rule, _)| rule).collect();
        Authorization { key, scope: Scope::Workload, rules, ..policy.clone() }
    }

    /// Protects every workload behind a target. Where pods serve the same port of a service on different ports of their
    /// own, each such group has its own policy: what is allowed to one is not allowed to the next.
    fn targeted(&mut self, effect: Effect, field: &str, target: &TargetRef) -> Vec<Authorization> {
        let groups = match self.behind(field, target) {
            Ok(found) => found,
            Err(message) => {
                self.report.tell(self.source(), message);
                return Vec::new();
            }
        };
        let several = groups.len() > 1;
        let mut policies = Vec::new();
        for Group { members, ports } in groups {
            let of_group = match &ports {
                Ports::OfService(served) if several => {
                    served.iter().fold(String::new(), |name, (service, target)| format!("{name}_{service}-{target}"))
                }
                Ports::OfService(_) | Ports::OfWorkload => String::new(),
            };
            let key = PolicyKey {
                namespace: self.name.namespace.clone(),
                // No name of an object has an underscore: this is nobody else's.
                name: format!("targeted_{}_{}_{}{of_group}", self.name.name, target.kind, target.name).into(),
            };
            self.assign(&key, &members);
            let written = self.authorization(effect, key, Scope::Workload, ports);
            http::tell(self, &written, effect, &members);
            policies.push(written.policy);
        }
        policies
    }

    fn behind(&self, field: &str, target: &TargetRef) -> Result<Vec<Group>, Message> {
        let namespace = &self.name.namespace;
        let protected = || self.drafts.iter().enumerate().filter(|(_, draft)| draft.protected);
        let not_found = |text: String| Message::new(Level::Error, Code::TargetNotFound, field, text);
        match (target.group.as_str(), target.kind.as_str()) {
            ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => {
                let kind = if target.kind == "Service" { Kind::Service } else { Kind::ServiceEntry };
                let source = ObjectKey::new(kind, namespace, &target.name);
                let keys: Vec<_> = self.services.of(&source).map(|service| service.service.key()).collect();
                if keys.is_empty() {
                    return Err(not_found(format!("there is no {source}")));
                }
                let mut groups: BTreeMap<BTreeSet<(u16, u16)>, Vec<usize>> = BTreeMap::new();
                for (index, draft) in protected() {
                    let served: Vec<_> = keys.iter().filter_map(|key| draft.workload.services.get(key)).collect();
                    if !served.is_empty() {
                        let ports = served.into_iter().flatten().map(|mapping| (mapping.service_port, mapping.target_port));
                        groups.entry(ports.collect()).or_default().push(index);
                    }
                }
                let group =
                    |(ports, members): (BTreeSet<_>, _)| Group { members, ports: Ports::OfService(ports.into_iter().collect()) };
                Ok(groups.into_iter().map(group).collect())
            }
            ("gateway.networking.k8s.io", "Gateway") => {
                let own = |draft: &Draft| {
                    draft.workload.namespace == *namespace && draft.labels.get(GATEWAY_NAME) == Some(&target.name)
                };
                let behind = protected().filter(|(_, draft)| own(draft) || self.has_waypoint(draft, Some(&target.name)));
                Ok(vec![Group { members: behind.map(|(index, _)| index).collect(), ports: Ports::OfWorkload }])
            }
            ("gateway.networking.k8s.io", "GatewayClass") if target.name == "istio-waypoint" => {
                if &**namespace != self.root {
                    return Err(not_found(format!("a policy on a GatewayClass has to be in namespace {}", self.root)));
                }
                let behind = protected().filter(|(_, draft)| self.has_waypoint(draft, None));
                Ok(vec![Group { members: behind.map(|(index, _)| index).collect(), ports: Ports::OfWorkload }])
            }
            (group, kind) => {
                let text = format!("nothing is known of {group}/{kind} {}: the policy has no effect on it", target.name);
                Err(not_found(text))
            }
        }
    }

    /// Whether a user has put a waypoint (this one of the policy's namespace, or any) before the workload or before a
    /// service that it stands behind.
    fn has_waypoint(&self, draft: &Draft, name: Option<&str>) -> bool {
        let is_meant =
            |waypoint: &WaypointName| name.is_none_or(|name| waypoint.name == name && waypoint.namespace == *self.name.namespace);
        self.waypoints_before(draft).any(is_meant)
    }

    fn waypoints_before<'d>(&'d self, draft: &'d Draft) -> impl Iterator<Item = &'d WaypointName> {
        let behind = draft.workload.services.keys().filter_map(|key| self.services.by_key.get(key));
        draft.waypoint.iter().chain(behind.filter_map(|service| service.waypoint.as_ref()))
    }

    fn authorization(&mut self, effect: Effect, key: PolicyKey, scope: Scope, ports: Ports) -> Written {
        let reader = Reader { effect, namespace: &self.name.namespace, mesh: self.mesh, ports };
        let (mut rules, mut places, mut anybody) = (Vec::new(), Vec::new(), Vec::new());
        for (index, rule) in self.policy.spec.rules.iter().enumerate() {
            let outcome = reader.rule(&format!("spec.rules[{index}]"), rule);
            places.extend(outcome.rule.is_some().then_some(index));
            anybody.extend(outcome.rule.is_some().then_some(effect == Effect::Deny && outcome.principals_lost));
            rules.extend(outcome.rule);
            for field in outcome.not_enforced {
                let text = match effect {
                    Effect::Allow => "cannot be judged in this version: the rule never matches",
                    Effect::Deny => "cannot be judged in this version: the rule denies more than it says",
                };
                self.report.tell(self.source(), Message::new(Level::Warning, Code::NotEnforced, field, text));
            }
        }
        let action = match effect {
            Effect::Allow => model::Action::Allow,
            Effect::Deny => model::Action::Deny,
        };
        Written { policy: Authorization { key, scope, action, dry_run: self.dry_run(), rules }, places, anybody }
    }

    fn dry_run(&mut self) -> bool {
        let value = self.policy.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DRY_RUN));
        match value.map(String::as_str) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            Some(other) => {
                let text = format!("{other:?} is neither true nor false: the policy is enforced");
                self.tell(Level::Warning, Code::NotHonoured, "metadata.annotations[istio.io/dry-run]", text);
                false
            }
        }
    }

    fn source(&self) -> ObjectKey {
        ObjectKey { kind: Kind::AuthorizationPolicy, name: self.name.clone() }
    }

    fn tell(&mut self, level: Level, code: Code, field: &str, text: String) {
        self.report.tell(self.source(), Message::new(level, code, field, text));
    }
}
