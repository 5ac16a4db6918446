//! The tables `matches.yaml` and `orders.yaml`, and the engine against a naive one on random policies.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Connection, Outcome, decide};
use crate::{
    fixtures::pod,
    model::{
        Action, Authorization, Clause, Identity, IpMatch, Match, Model, PolicyKey, RequestMatch, Rule, Scope,
        ServiceAccountMatch, StringMatch, TrustDomain, Workload,
    },
};

mod naive;

#[test]
fn a_match_holds_as_the_table_says() {
    let cases: Vec<MatchCase> = serde_saphyr::from_str(include_str!("matches.yaml")).expect("the table reads");
    assert!(cases.len() >= 100, "the table is whole");
    for case in cases {
        let clause = Clause { matches: vec![case.one.to_model()] };
        for (action, otherwise) in [(Action::Allow, "NO_ALLOW_MATCHED"), (Action::Deny, "allow")] {
            let policy = Authorization {
                key: policy_key("shop/p"),
                scope: Scope::Namespace,
                action,
                dry_run: false,
                rules: vec![Rule { clauses: vec![clause.clone()] }],
            };
            let matched = if action == Action::Allow { "allow by shop/p" } else { "POLICY_DENY by shop/p" };
            let verdict = case.connection.judge(&cart(), vec![policy]);
            assert_eq!(verdict.0, if case.holds { matched } else { otherwise }, "{action:?} {case:?}");
        }
    }
}

#[test]
fn policies_are_joined_as_the_table_says() {
    let cases: Vec<OrderCase> = serde_saphyr::from_str(include_str!("orders.yaml")).expect("the table reads");
    assert!(cases.len() >= 40, "the table is whole");
    for case in cases {
        let mut cart = cart();
        cart.policies = case.names.iter().map(|name| policy_key(name)).collect();
        let named = case.policies.iter().filter(|policy| policy.scope == ScopeText::Workload);
        cart.policies.extend(named.map(|policy| policy_key(&policy.key)));
        let policies = case.policies.iter().map(PolicyText::to_model).collect();
        assert_eq!(case.connection.judge(&cart, policies), (case.expect, case.dry_run), "{}", case.name);
    }
}

fn cart() -> Workload {
    pod("shop/cart", &["10.1.0.9"])
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchCase {
    #[serde(rename = "match")]
    one: MatchText,
    holds: bool,
    #[serde(default, flatten)]
    connection: ConnectionText,
}

#[derive(Debug, Deserialize)]
struct OrderCase {
    name: String,
    #[serde(default)]
    names: Vec<String>,
    policies: Vec<PolicyText>,
    expect: String,
    dry_run: Option<String>,
    #[serde(default, flatten)]
    connection: ConnectionText,
}

#[derive(Debug, Default, Deserialize)]
struct ConnectionText {
    from: Option<String>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    port: Option<u16>,
}

impl ConnectionText {
    fn judge(&self, destination: &Workload, policies: Vec<Authorization>) -> (String, Option<String>) {
        let identity = match self.from.as_deref().unwrap_or("cluster.local/shop/page") {
            "none" => None,
            text => {
                let parts: Vec<&str> = text.split('/').collect();
                let [domain, namespace, account] = parts[..] else { panic!("not an identity: {text}") };
                Some(Identity::new(TrustDomain::new(domain).expect("a trust domain"), namespace, account))
            }
        };
        let connection = Connection {
            source_identity: identity.as_ref(),
            source_ip: self.source.unwrap_or_else(|| IpAddr::from([10, 1, 0, 5])),
            destination_ip: self.destination.unwrap_or_else(|| IpAddr::from([10, 1, 0, 9])),
            destination_port: self.port.unwrap_or(8080),
        };
        let mut model = Model::default();
        for policy in policies {
            model.upsert_policy(policy);
        }
        let verdict = decide(&model.snapshot(), destination, &connection);
        (text_of(&verdict.outcome), verdict.dry_run.as_ref().map(text_of))
    }
}

fn text_of(outcome: &Outcome) -> String {
    let (what, by) = match outcome {
        Outcome::Allow { by } => ("allow", by),
        Outcome::Deny { reason, by } => (reason.code(), by),
    };
    by.as_ref().map_or_else(|| what.into(), |by| format!("{what} by {by}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    key: String,
    action: ActionText,
    #[serde(default)]
    scope: ScopeText,
    #[serde(default)]
    dry_run: bool,
    rules: Vec<Vec<Vec<MatchText>>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActionText {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ScopeText {
    Global,
    Namespace,
    #[default]
    Workload,
    /// Of workload scope, and no workload names it.
    Unnamed,
}

impl PolicyText {
    fn to_model(&self) -> Authorization {
        let clause = |matches: &Vec<MatchText>| Clause { matches: matches.iter().map(MatchText::to_model).collect() };
        let rule = |clauses: &Vec<Vec<MatchText>>| Rule { clauses: clauses.iter().map(clause).collect() };
        Authorization {
            key: policy_key(&self.key),
            scope: match self.scope {
                ScopeText::Global => Scope::Global,
                ScopeText::Namespace => Scope::Namespace,
                ScopeText::Workload | ScopeText::Unnamed => Scope::Workload,
            },
            action: match self.action {
                ActionText::Allow => Action::Allow,
                ActionText::Deny => Action::Deny,
            },
            dry_run: self.dry_run,
            rules: self.rules.iter().map(rule).collect(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MatchText {
    namespaces: Vec<String>,
    not_namespaces: Vec<String>,
    service_accounts: Vec<String>,
    not_service_accounts: Vec<String>,
    principals: Vec<String>,
    not_principals: Vec<String>,
    source_ips: Vec<String>,
    not_source_ips: Vec<String>,
    destination_ips: Vec<String>,
    not_destination_ips: Vec<String>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
}

impl MatchText {
    fn to_model(&self) -> Match {
        Match {
            namespaces: texts(&self.namespaces),
            not_namespaces: texts(&self.not_namespaces),
            service_accounts: accounts(&self.service_accounts),
            not_service_accounts: accounts(&self.not_service_accounts),
            principals: texts(&self.principals),
            not_principals: texts(&self.not_principals),
            source_ips: ranges(&self.source_ips),
            not_source_ips: ranges(&self.not_source_ips),
            destination_ips: ranges(&self.destination_ips),
            not_destination_ips: ranges(&self.not_destination_ips),
            destination_ports: self.destination_ports.clone(),
            not_destination_ports: self.not_destination_ports.clone(),
            request: RequestMatch::default(),
        }
    }
}

fn texts(values: &[String]) -> Vec<StringMatch> {
    let text = |value: &String| match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(""), _) => StringMatch::Presence,
        (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
        (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        (None, None) => StringMatch::Exact(value.as_str().into()),
    };
    values.iter().map(text).collect()
}

fn accounts(values: &[String]) -> Vec<ServiceAccountMatch> {
    let account = |value: &String| {
        let (namespace, name) = value.split_once('/').expect("namespace/name");
        ServiceAccountMatch { namespace: namespace.into(), name: name.into() }
    };
    values.iter().map(account).collect()
}

fn ranges(values: &[String]) -> Vec<IpMatch> {
    values.iter().map(|value| IpMatch(value.parse().expect("a range"))).collect()
}

fn policy_key(text: &str) -> PolicyKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    PolicyKey { namespace: namespace.into(), name: name.into() }
}
