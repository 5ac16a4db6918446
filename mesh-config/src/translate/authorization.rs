//! AuthorizationPolicies to policies, and the workloads that they protect.

use std::collections::{BTreeMap, BTreeSet};

use mesh_policy::model::{self, Authorization, Mesh, PolicyKey, Scope};

use super::{
    Report,
    rule::{Effect, Ports, Reader},
    selector::matches,
    service::Services,
    workload::Draft,
};
use crate::{
    kinds::{Action, AuthorizationPolicy, Kind, Name, ObjectKey, Objects, TargetRef},
    status::{Code, Level, Message},
};

const DRY_RUN: &str = "istio.io/dry-run";
/// The Gateway API's label of the pods that a Gateway runs.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Translates every policy and names it in the workloads that it selects.
pub(super) fn policies(
    objects: &Objects,
    mesh: &Mesh,
    root: &str,
    services: &Services,
    drafts: &mut [Draft],
    report: &mut Report,
) -> Vec<Authorization> {
    let mut by_namespace: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate().filter(|(_, draft)| draft.protected) {
        by_namespace.entry(draft.workload.namespace.to_string()).or_default().push(index);
    }
    let mut policies = Vec::new();
    for (name, policy) in &objects.authorization_policies {
        let mut context = Context { name, policy, mesh, root, services, drafts, by_namespace: &by_namespace, report };
        policies.extend(context.translate());
    }
    policies
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
    drafts: &'a mut [Draft],
    by_namespace: &'a BTreeMap<String, Vec<usize>>,
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
            return vec![self.selected(effect)];
        }
        targets.into_iter().flat_map(|(field, target)| self.targeted(effect, &field, &target)).collect()
    }

    /// By labels, or everything in the namespace, or, from the root namespace, in the mesh.
    fn selected(&mut self, effect: Effect) -> Authorization {
        let selector = self.policy.spec.selector.as_ref().map(|selector| &selector.match_labels);
        let selector = selector.filter(|labels| !labels.is_empty());
        let mesh_wide = &*self.name.namespace == self.root;
        let scope = match selector {
            None if mesh_wide => Scope::Global,
            None => Scope::Namespace,
            Some(_) => Scope::Workload,
        };
        let key = PolicyKey { namespace: self.name.namespace.clone(), name: self.name.name.clone() };
        if let Some(labels) = selector {
            let own = self.by_namespace.get(&*self.name.namespace).filter(|_| !mesh_wide).into_iter();
            let all = self.by_namespace.values().filter(|_| mesh_wide);
            for index in own.chain(all).flatten() {
                if matches(labels, &self.drafts[*index].labels) {
                    self.drafts[*index].workload.policies.push(key.clone());
                }
            }
        }
        self.authorization(effect, key, scope, Ports::OfWorkload)
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
            for index in members {
                self.drafts[index].workload.policies.push(key.clone());
            }
            policies.push(self.authorization(effect, key, Scope::Workload, ports));
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
        let behind = draft.workload.services.keys().filter_map(|key| self.services.by_key.get(key));
        let waypoints = draft.waypoint.iter().chain(behind.filter_map(|service| service.waypoint.as_ref()));
        waypoints
            .into_iter()
            .any(|waypoint| name.is_none_or(|name| waypoint.name == name && waypoint.namespace == *self.name.namespace))
    }

    fn authorization(&mut self, effect: Effect, key: PolicyKey, scope: Scope, ports: Ports) -> Authorization {
        let reader = Reader { effect, namespace: &self.name.namespace, mesh: self.mesh, ports };
        let mut rules = Vec::new();
        for (index, rule) in self.policy.spec.rules.iter().enumerate() {
            let outcome = reader.rule(&format!("spec.rules[{index}]"), rule);
            rules.extend(outcome.rule);
            for field in outcome.not_enforced {
                let text = match effect {
                    Effect::Allow => "cannot be judged at the transport: the rule never matches",
                    Effect::Deny => "cannot be judged at the transport: the rule denies more than it says",
                };
                self.report.tell(self.source(), Message::new(Level::Warning, Code::NotEnforcedAtL4, field, text));
            }
        }
        let action = match effect {
            Effect::Allow => model::Action::Allow,
            Effect::Deny => model::Action::Deny,
        };
        Authorization { key, scope, action, dry_run: self.dry_run(), rules }
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
