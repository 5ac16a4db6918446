//! NetworkPolicies that let an application's ports in and not the mesh's: between nodes, everything comes by port 15008.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{NetworkPolicy, NetworkPolicyPort},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};

use super::{Finding, pods::some};

/// HBONE.
const PORT: i32 = 15008;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// One finding a direction in which pods of the mesh can not be reached, or reach nobody.
pub(super) fn blocked(pods: &[&Pod], policies: &[NetworkPolicy]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (direction, way, verb) in [(Direction::Ingress, "to", "let in"), (Direction::Egress, "from", "let out")] {
        let (mut kept, mut by) = (Vec::new(), BTreeSet::new());
        for pod in pods {
            let selecting: Vec<_> = policies.iter().filter(|policy| selects(policy, pod, direction)).collect();
            let rules: Vec<_> = selecting.iter().flat_map(|policy| ports(policy, direction)).collect();
            // Without a rule nothing passes, mesh or no mesh: that is meant.
            if !rules.is_empty() && !rules.iter().any(|ports| passes(ports)) {
                kept.push(name(pod.metadata.namespace.as_ref(), pod.metadata.name.as_ref()));
                by.extend(selecting.iter().map(|policy| name(policy.metadata.namespace.as_ref(), policy.metadata.name.as_ref())));
            }
        }
        if !kept.is_empty() {
            let by: Vec<_> = by.into_iter().collect();
            findings.push(Finding::bad(
                "NetworkPolicy",
                format!("{} keep the mesh's traffic between nodes {way} {} pods: {}", some(&by), kept.len(), some(&kept)),
                format!("{verb} TCP port {PORT} there too; who may speak to whom is then said by an AuthorizationPolicy"),
            ));
        }
    }
    findings
}

fn name(namespace: Option<&String>, name: Option<&String>) -> String {
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    format!("{}/{}", text(namespace), text(name))
}

fn selects(policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.clone().unwrap_or_default();
    let concerned = match direction {
        Direction::Ingress => types.is_empty() || types.iter().any(|one| one == "Ingress"),
        Direction::Egress if types.is_empty() => spec.egress.is_some(),
        Direction::Egress => types.iter().any(|one| one == "Egress"),
    };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let selector = spec.pod_selector.as_ref();
    concerned && policy.metadata.namespace == pod.metadata.namespace && selector.is_none_or(|selector| matches(selector, &labels))
}

/// The ports of each rule; none means all.
fn ports(policy: &NetworkPolicy, direction: Direction) -> Vec<Vec<NetworkPolicyPort>> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    match direction {
        Direction::Ingress => spec.ingress.iter().flatten().map(|rule| rule.ports.clone().unwrap_or_default()).collect(),
        Direction::Egress => spec.egress.iter().flatten().map(|rule| rule.ports.clone().unwrap_or_default()).collect(),
    }
}

fn passes(ports: &[NetworkPolicyPort]) -> bool {
    let is_ours = |port: &NetworkPolicyPort| {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        tcp && match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&PORT),
            (Some(IntOrString::Int(only)), None) => *only == PORT,
            (Some(IntOrString::String(_)), _) => false,
        }
    };
    ports.is_empty() || ports.iter().any(is_ours)
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    equal && selector.match_expressions.iter().flatten().all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = requirement.values.clone().unwrap_or_default();
    let found = labels.get(&requirement.key);
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|value| values.contains(value)),
        "NotIn" => found.is_none_or(|value| !values.contains(value)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn count(spec: &Value) -> usize {
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": { "namespace": "a", "name": "p", "labels": { "app": "x" } } })).unwrap();
        let policy = serde_json::from_value(json!({ "metadata": { "namespace": "a", "name": "n" }, "spec": spec })).unwrap();
        blocked(&[&pod], &[policy]).len()
    }

    #[test]
    fn a_policy_that_names_ports_and_not_ours_is_found() {
        let ingress = |ports: Value| json!({ "podSelector": {}, "ingress": [{ "ports": ports }] });
        assert_eq!(count(&ingress(json!([{ "port": 8080 }]))), 1);
        assert_eq!(count(&ingress(json!([{ "port": 8080 }, { "port": 15008, "protocol": "TCP" }]))), 0);
        assert_eq!(count(&ingress(json!([{ "port": 15000, "endPort": 15010 }]))), 0);
        assert_eq!(count(&ingress(json!([{ "protocol": "UDP" }]))), 1);
        assert_eq!(count(&json!({ "podSelector": {}, "ingress": [{}] })), 0);
        assert_eq!(
            count(&json!({ "podSelector": {}, "policyTypes": ["Ingress"] })),
            0,
            "nothing at all is let in: that is meant"
        );
        assert_eq!(
            count(&json!({ "podSelector": { "matchLabels": { "app": "y" } }, "ingress": [{ "ports": [{ "port": 1 }] }] })),
            0
        );
        let egress = json!({ "podSelector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["x"] }] },
            "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": 53, "protocol": "UDP" }] }] });
        assert_eq!(count(&egress), 1);
    }
}
