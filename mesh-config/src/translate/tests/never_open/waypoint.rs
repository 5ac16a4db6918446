//! The same for rules that name a waypoint, at a pod behind it: what the waypoint would let through counts as its own.

use std::sync::Arc;

use super::*;
use crate::kinds::{TargetRef, WorkloadSelector};

const PLACE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: []}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: p, istio.io/use-waypoint: waypoint}}
spec: {containers: []}
status: {podIP: 10.9.0.1}
";
const WAYPOINT: (&str, &str) = ("shop", "waypoint");
const PRINCIPAL: &str = "cluster.local/ns/shop/sa/waypoint";

/// A rule in which the waypoint may be named, by principal, by account or by condition, beside others or left out.
fn rule_of_waypoint() -> impl Strategy<Value = Rule> {
    let how = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (rule(), how).prop_map(|(mut rule, (principal, account, condition, not))| {
        if let Some(source) = rule.from.iter_mut().flatten().find_map(|from| from.source.as_mut()) {
            if principal {
                source.principals.push(PRINCIPAL.into());
            }
            if account {
                source.service_accounts.push("waypoint".into());
            }
            if not {
                source.not_principals.push(PRINCIPAL.into());
            }
        }
        if condition {
            rule.when.push(Condition { key: "source.principal".into(), values: vec![PRINCIPAL.into()], not_values: vec![] });
        }
        rule
    })
}

fn names_waypoint(rule: &Rule) -> bool {
    let sources = rule.from.iter().flatten().filter_map(|from| from.source.as_ref());
    let mut texts = sources.flat_map(|source| source.principals.iter().chain(&source.service_accounts));
    let in_conditions = rule.when.iter().filter(|condition| condition.key == "source.principal");
    texts.any(|text| text == PRINCIPAL || text == "waypoint")
        || in_conditions.flat_map(|condition| &condition.values).any(|text| text == PRINCIPAL)
}

/// Whether the policy on the pod matches there, by itself; `admitted` are the rules at the waypoint, None for no policy.
fn matches_behind(action: Action, rules: &[Rule], admitted: Option<&[Rule]>, facts: &Facts) -> bool {
    let mut objects = objects(PLACE);
    let selector = WorkloadSelector { match_labels: [("app".to_owned(), "p".to_owned())].into() };
    let spec =
        AuthorizationPolicySpec { rules: rules.to_vec(), action, selector: Some(selector), ..AuthorizationPolicySpec::default() };
    insert(&mut objects, "s", spec);
    if let Some(admitted) = admitted {
        let waypoint = TargetRef {
            group: "gateway.networking.k8s.io".into(),
            kind: "Gateway".into(),
            name: "waypoint".into(),
            namespace: String::new(),
        };
        let spec = AuthorizationPolicySpec {
            rules: admitted.to_vec(),
            target_refs: vec![waypoint],
            ..AuthorizationPolicySpec::default()
        };
        insert(&mut objects, "t", spec);
    }
    let mut model = translate(&objects, &Settings::default(), &BTreeSet::new()).model;
    for workload in model.workloads.values_mut() {
        Arc::make_mut(workload).policies.retain(|key| !key.name.starts_with("targeted_"));
        assert_eq!(workload.policies.len(), 1);
    }
    judged(&model, action, facts)
}

fn admits(admitted: Option<&[Rule]>, facts: &Facts) -> bool {
    let written = Written { facts, unseen: false };
    admitted.map_or(facts.principal.is_some(), |rules| rules.iter().any(|rule| written.rule(rule)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn an_allow_admits_clients_and_what_its_waypoint_admits(
        rules in vec(rule_of_waypoint(), 0..3),
        admitted in proptest::option::of(vec(rule(), 0..3)),
        facts in facts(),
    ) {
        let admitted = admitted.as_deref();
        if matches_behind(Action::Allow, &rules, admitted, &facts) {
            let of = |facts: &Facts| rules.iter().any(|rule| Written { facts, unseen: false }.rule(rule));
            let through = Facts { principal: Some(WAYPOINT), ..facts.clone() };
            prop_assert!(of(&facts) || (of(&through) && admits(admitted, &facts)));
        }
    }

    #[test]
    fn a_deny_of_the_waypoint_denies_what_it_admits(
        rules in vec(rule_of_waypoint(), 1..3),
        admitted in proptest::option::of(vec(rule(), 0..3)),
        facts in facts(),
    ) {
        let admitted = admitted.as_deref();
        let through = Facts { principal: Some(WAYPOINT), ..facts.clone() };
        let written = Written { facts: &through, unseen: true };
        let denied = rules.iter().any(|rule| names_waypoint(rule) && written.rule(rule));
        if denied && facts.principal.is_some() && admits(admitted, &facts) {
            prop_assert!(matches_behind(Action::Deny, &rules, admitted, &facts));
        }
    }
}
