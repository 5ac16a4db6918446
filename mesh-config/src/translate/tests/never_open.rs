//! For any policy: what is translated never allows what the policy as written does not, and never lets pass what it denies.
//!
//! The policy as written is judged by a second, simpler reading, on a connection together with a request. What the
//! transport cannot see of the request is drawn at random: for an ALLOW, whatever the request, translated implies written;
//! for a DENY, written implies translated.

use mesh_policy::model::{Action, Match, Rule as ModelRule, StringMatch};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::kinds::{Condition, Operation, Rule, Source};

/// A connection and, as one bit, whether the request fulfils a condition that the transport cannot see.
#[derive(Clone, Debug)]
struct Facts {
    principal: Option<(&'static str, &'static str)>,
    source: std::net::IpAddr,
    port: u16,
    l7: bool,
}

fn facts() -> impl Strategy<Value = Facts> {
    let principal = prop_oneof![Just(None), (select(vec!["a", "b"]), select(vec!["x", "y"])).prop_map(Some)];
    let source = select(vec!["10.0.0.1", "10.1.0.1", "192.168.0.1"]).prop_map(|ip| ip.parse().unwrap());
    (principal, source, select(vec![80_u16, 81]), any::<bool>()).prop_map(|(principal, source, port, l7)| Facts {
        principal,
        source,
        port,
        l7,
    })
}

fn some(values: Vec<&'static str>) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![3 => Just(vec![]), 1 => vec(select(values).prop_map(str::to_owned), 1..3)]
}

const PRINCIPALS: &[&str] = &["*", "cluster.local/ns/a/sa/x", "cluster.local/ns/b*", "*/sa/y", "a*b*c", "cluster.local/*/x"];
const NAMESPACES: &[&str] = &["a", "b", "a*", "*b", "*"];
const BLOCKS: &[&str] = &["10.0.0.0/8", "10.1.0.1", "192.168.0.0/16"];

fn source() -> impl Strategy<Value = Source> {
    let texts = (some(PRINCIPALS.to_vec()), some(PRINCIPALS.to_vec()), some(NAMESPACES.to_vec()), some(NAMESPACES.to_vec()));
    let rest =
        (some(BLOCKS.to_vec()), some(BLOCKS.to_vec()), some(vec!["x", "b/y"]), some(vec!["cluster.local", "far*", "*local"]));
    (texts, rest, some(vec!["*"]), some(vec!["10.0.0.0/8"])).prop_map(|(t, r, request_principals, remote_ip_blocks)| Source {
        principals: t.0,
        not_principals: t.1,
        namespaces: t.2,
        not_namespaces: t.3,
        ip_blocks: r.0,
        not_ip_blocks: r.1,
        service_accounts: r.2,
        trust_domains: r.3,
        request_principals,
        remote_ip_blocks,
        ..Source::default()
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    (some(vec!["80", "81"]), some(vec!["80", "81"]), some(vec!["GET"]), some(vec!["/x"])).prop_map(
        |(ports, not_ports, methods, not_paths)| Operation { ports, not_ports, methods, not_paths, ..Operation::default() },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    let keyed = prop_oneof![
        Just(("source.namespace", NAMESPACES)),
        Just(("source.principal", PRINCIPALS)),
        Just(("source.ip", BLOCKS)),
        Just(("destination.port", ["80", "81"].as_slice())),
        Just(("request.headers[x]", ["y"].as_slice())),
    ];
    keyed.prop_flat_map(|(key, values)| {
        (some(values.to_vec()), some(values.to_vec()))
            .prop_filter("one of both", |(values, not_values)| !(values.is_empty() && not_values.is_empty()))
            .prop_map(move |(values, not_values)| Condition { key: key.into(), values, not_values })
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let from = proptest::option::of(vec(source(), 1..3));
    let to = proptest::option::of(vec(operation(), 1..3));
    (from, to, vec(condition(), 0..3)).prop_map(|(from, to, when)| Rule {
        from: from.map(|sources| sources.into_iter().map(|source| crate::kinds::From { source: Some(source) }).collect()),
        to: to
            .map(|operations| operations.into_iter().map(|operation| crate::kinds::To { operation: Some(operation) }).collect()),
        when,
    })
}

/// A policy as written.
fn written(rule: &Rule, facts: &Facts) -> bool {
    let from = rule.from.as_ref().is_none_or(|from| from.iter().any(|from| written_source(from.source.as_ref().unwrap(), facts)));
    let to = rule.to.as_ref().is_none_or(|to| to.iter().any(|to| written_operation(to.operation.as_ref().unwrap(), facts)));
    from && to && rule.when.iter().all(|condition| written_condition(condition, facts))
}

fn holds(positive: &[String], negative: &[String], judge: impl Fn(&str) -> bool) -> bool {
    (positive.is_empty() || positive.iter().any(|value| judge(value))) && !negative.iter().any(|value| judge(value))
}

fn written_source(source: &Source, facts: &Facts) -> bool {
    let nothing: &[String] = &[];
    let account = |value: &str| {
        let (namespace, name) = value.split_once('/').unwrap_or(("shop", value));
        facts.principal == Some((namespace, name))
    };
    holds(&source.principals, &source.not_principals, |value| is_principal(value, facts))
        && holds(&source.namespaces, &source.not_namespaces, |value| is_namespace(value, facts))
        && holds(&source.ip_blocks, &source.not_ip_blocks, |value| is_source(value, facts))
        && holds(&source.service_accounts, nothing, account)
        && holds(&source.trust_domains, nothing, |value| facts.principal.is_some() && glob(value, "cluster.local"))
        && holds(&source.request_principals, nothing, |_| facts.l7)
        && holds(&source.remote_ip_blocks, nothing, |_| facts.l7)
}

fn written_operation(operation: &Operation, facts: &Facts) -> bool {
    holds(&operation.ports, &operation.not_ports, |value| value.parse() == Ok(facts.port))
        && holds(&operation.methods, &[], |_| facts.l7)
        && holds(&[], &operation.not_paths, |_| facts.l7)
}

fn written_condition(condition: &Condition, facts: &Facts) -> bool {
    holds(&condition.values, &condition.not_values, |value| match condition.key.as_str() {
        "source.namespace" => is_namespace(value, facts),
        "source.principal" => is_principal(value, facts),
        "source.ip" => is_source(value, facts),
        "destination.port" => value.parse() == Ok(facts.port),
        _ => facts.l7,
    })
}

fn is_principal(value: &str, facts: &Facts) -> bool {
    facts.principal.is_some_and(|(namespace, account)| glob(value, &format!("cluster.local/ns/{namespace}/sa/{account}")))
}

fn is_namespace(value: &str, facts: &Facts) -> bool {
    facts.principal.is_some_and(|(namespace, _)| glob(value, namespace))
}

fn is_source(value: &str, facts: &Facts) -> bool {
    let net = if value.contains('/') {
        value.parse::<ipnet::IpNet>().unwrap()
    } else {
        value.parse::<std::net::IpAddr>().unwrap().into()
    };
    net.contains(&facts.source)
}

/// A star anywhere stands for anything: the widest that a user can have meant.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            text.starts_with(before)
                && (before.len()..=text.len()).any(|at| text.is_char_boundary(at) && glob(after, &text[at..]))
        }
    }
}

/// The translated rules, read naively.
fn translated_matches(rules: &[ModelRule], facts: &Facts) -> bool {
    let of_clause = |clause: &Clause| clause.matches.is_empty() || clause.matches.iter().any(|found| match_holds(found, facts));
    let of_rule = |rule: &ModelRule| rule.clauses.iter().all(of_clause);
    rules.iter().any(of_rule)
}

fn match_holds(found: &Match, facts: &Facts) -> bool {
    fn both<T>(positive: &[T], negative: &[T], judge: impl Fn(&T) -> bool) -> bool {
        (positive.is_empty() || positive.iter().any(&judge)) && !negative.iter().any(&judge)
    }
    let text = |pattern: &StringMatch, value: &str| match pattern {
        StringMatch::Exact(text) => value == &**text,
        StringMatch::Prefix(text) => value.starts_with(&**text),
        StringMatch::Suffix(text) => value.ends_with(&**text),
        StringMatch::Presence => true,
    };
    let principal = facts.principal.map(|(namespace, account)| format!("cluster.local/ns/{namespace}/sa/{account}"));
    let is_principal = |pattern: &StringMatch| principal.as_ref().is_some_and(|principal| text(pattern, principal));
    let is_namespace = |pattern: &StringMatch| facts.principal.is_some_and(|(namespace, _)| text(pattern, namespace));
    *found != Match::default()
        && both(&found.principals, &found.not_principals, is_principal)
        && both(&found.namespaces, &found.not_namespaces, is_namespace)
        && both(&found.service_accounts, &found.not_service_accounts, |account| {
            facts.principal == Some((&*account.namespace, &*account.name))
        })
        && both(&found.source_ips, &found.not_source_ips, |net| net.0.contains(&facts.source))
        && both(&found.destination_ports, &found.not_destination_ports, |port| *port == facts.port)
}

fn policy(action: crate::kinds::Action, rules: &[Rule]) -> Authorization {
    use crate::kinds::{AuthorizationPolicy, AuthorizationPolicySpec, Name, Object};
    let spec = AuthorizationPolicySpec { rules: rules.to_vec(), action, ..AuthorizationPolicySpec::default() };
    let policy = AuthorizationPolicy {
        api_version: "security.istio.io/v1".into(),
        kind: "AuthorizationPolicy".into(),
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default(),
        spec,
        status: None,
    };
    let mut objects = Objects::default();
    objects.insert(Name::new("shop", "p"), Object::AuthorizationPolicy(policy.into()));
    let translation = translate(&objects, &Settings::default(), &BTreeSet::new());
    (**translation.model.policies.values().next().unwrap()).clone()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn an_allow_is_never_broader_than_written(rules in vec(rule(), 0..3), facts in facts()) {
        let policy = policy(crate::kinds::Action::Allow, &rules);
        prop_assert_eq!(policy.action, Action::Allow);
        if translated_matches(&policy.rules, &facts) {
            prop_assert!(rules.iter().any(|rule| written(rule, &facts)));
        }
    }

    #[test]
    fn a_deny_is_never_narrower_than_written(rules in vec(rule(), 1..3), facts in facts()) {
        let policy = policy(crate::kinds::Action::Deny, &rules);
        prop_assert_eq!(policy.action, Action::Deny);
        if rules.iter().any(|rule| written(rule, &facts)) {
            prop_assert!(translated_matches(&policy.rules, &facts));
        }
    }
}
