//! The tables `matches.yaml`, `requests.yaml` and `orders.yaml`, and the engine against a naive one on random policies.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

use super::{Connection, DecidedBy, DenyReason, Outcome, Verdict, decide, decide_request, needs_request};
use crate::{
    fixtures::pod,
    http::tests::written::Written,
    model::{
        Action, Authorization, Clause, HeaderCondition, Identity, IpMatch, Match, Model, PathPattern, PathTemplate, PolicyKey,
        RequestMatch, Rule, Scope, ServiceAccountMatch, Snapshot, StringMatch, TrustDomain, Workload, header::Name,
    },
};

mod naive;

#[test]
fn a_match_holds_as_the_table_says() {
    let cases: Vec<MatchCase> = serde_saphyr::from_str(include_str!("matches.yaml")).expect("the table reads");
    assert!(cases.len() >= 100, "the table is whole");
    for case in cases {
        for action in [Action::Allow, Action::Deny] {
            let verdict = case.connection.judge(&cart(), vec![only(action, &case.one)]);
            assert_eq!(verdict.0, answer(action, case.holds), "{action:?} {case:?}");
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestCase {
    #[serde(rename = "match")]
    one: MatchText,
    holds: Vec<String>,
    fails: Vec<String>,
    #[serde(default)]
    deny_only: Vec<String>,
}

#[test]
fn a_match_of_requests_holds_as_the_table_says() {
    let cases: Vec<RequestCase> = serde_saphyr::from_str(include_str!("requests.yaml")).expect("the table reads");
    let mut count = 0;
    for RequestCase { one, holds, fails, deny_only } in cases {
        for (requests, in_allow, in_deny) in [(&holds, true, true), (&fails, false, false), (&deny_only, false, true)] {
            for request in requests {
                count += 1;
                let connection =
                    ConnectionText { request: (request != "none").then(|| request.clone()), ..ConnectionText::default() };
                for (action, holds) in [(Action::Allow, in_allow), (Action::Deny, in_deny)] {
                    let verdict = connection.judge(&cart(), vec![only(action, &one)]);
                    assert_eq!(verdict.0, answer(action, holds), "{action:?} {one:?} for {request:?}");
                }
            }
        }
    }
    assert!(count >= 220, "the table is whole: {count}");
}

fn only(action: Action, one: &MatchText) -> Authorization {
    let clause = Clause { matches: vec![one.to_model()] };
    let rules = vec![Rule { clauses: vec![clause] }];
    Authorization { key: policy_key("shop/p"), scope: Scope::Namespace, action, dry_run: false, rules }
}

fn answer(action: Action, holds: bool) -> &'static str {
    match (action, holds) {
        (Action::Allow, true) => "allow by shop/p",
        (Action::Allow, false) => "NO_ALLOW_MATCHED",
        (Action::Deny, true) => "POLICY_DENY by shop/p",
        (Action::Deny, false) => "allow",
    }
}

#[test]
fn a_remote_address_is_that_which_a_trusted_proxy_told() {
    let policy = only(Action::Allow, &MatchText { remote_ips: vec!["10.2.0.0/24".into()], ..MatchText::default() });
    let snapshot = snapshot(vec![policy]);
    let written = Written::read("/");
    let connection = Connection {
        source_identity: None,
        source_ip: IpAddr::from([10, 1, 0, 5]),
        destination_ip: IpAddr::from([10, 1, 0, 9]),
        destination_port: 8080,
    };
    for (told, allowed) in [(None, false), (Some("10.2.0.7"), true), (Some("::ffff:10.2.0.7"), true), (Some("10.3.0.7"), false)] {
        let request = crate::http::Request { remote_ip: told.map(|told| told.parse().expect("an address")), ..written.request() };
        assert_eq!(decide_request(&snapshot, &cart(), &connection, &request).is_allowed(), allowed, "{told:?}");
    }
}

#[test]
fn only_policies_that_speak_of_requests_need_them() {
    let l4 = MatchText { namespaces: vec!["shop".into()], ..MatchText::default() };
    let l7 = MatchText { methods: vec!["GET".into()], ..MatchText::default() };
    assert!(!needs_request(&snapshot(vec![]), &cart()));
    assert!(!needs_request(&snapshot(vec![only(Action::Allow, &l4)]), &cart()));
    for action in [Action::Allow, Action::Deny] {
        assert!(needs_request(&snapshot(vec![only(action, &l7)]), &cart()));
        assert!(needs_request(&snapshot(vec![Authorization { dry_run: true, ..only(action, &l7) }]), &cart()));
        let elsewhere = Authorization { key: policy_key("bank/p"), ..only(action, &l7) };
        assert!(!needs_request(&snapshot(vec![elsewhere]), &cart()));
    }
}

#[test]
fn a_refusal_is_detailed_as_istio_does() {
    let by = |rule| Some(DecidedBy { policy: policy_key("shop/no-writes"), rule });
    for (outcome, expected) in [
        (Outcome::Allow { by: by(Some(0)) }, None),
        (
            Outcome::Deny { reason: DenyReason::PolicyDeny, by: by(Some(2)) },
            Some("rbac_access_denied_matched_policy[ns[shop]-policy[no-writes]-rule[2]]"),
        ),
        (
            Outcome::Deny { reason: DenyReason::PolicyNotLoaded, by: by(None) },
            Some("rbac_access_denied_matched_policy[ns[shop]-policy[no-writes]]"),
        ),
        (Outcome::Deny { reason: DenyReason::NoAllowMatched, by: None }, Some("rbac_access_denied_matched_policy[none]")),
    ] {
        assert_eq!(outcome.details().as_deref(), expected, "{outcome:?}");
    }
}

#[test]
fn the_rule_that_matched_is_named() {
    let rule = |text: &str| Rule {
        clauses: vec![Clause { matches: vec![MatchText { paths: vec![text.into()], ..MatchText::default() }.to_model()] }],
    };
    let deny = Authorization { rules: vec![rule("/a"), rule("/b*"), rule("/bc")], ..only(Action::Deny, &MatchText::default()) };
    let snapshot = snapshot(vec![deny]);
    for (path, expected) in [("/a", Some(0)), ("/bc", Some(1)), ("/c", None)] {
        let written = Written::read(path);
        let connection = Connection {
            source_identity: None,
            source_ip: IpAddr::from([10, 1, 0, 5]),
            destination_ip: IpAddr::from([10, 1, 0, 9]),
            destination_port: 8080,
        };
        let Verdict { outcome, dry_run: _ } = decide_request(&snapshot, &cart(), &connection, &written.request());
        let found = match outcome {
            Outcome::Deny { by, .. } => by.and_then(|by| by.rule),
            Outcome::Allow { .. } => None,
        };
        assert_eq!(found, expected, "{path}");
    }
}

fn snapshot(policies: Vec<Authorization>) -> Snapshot {
    let mut model = Model::default();
    for policy in policies {
        model.upsert_policy(policy);
    }
    model.snapshot()
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
    /// None: the traffic is not HTTP.
    request: Option<String>,
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
        let snapshot = snapshot(policies);
        let written = self.request.as_deref().map(Written::read);
        let verdict = match &written {
            None => decide(&snapshot, destination, &connection),
            Some(written) => decide_request(&snapshot, destination, &connection, &written.request()),
        };
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
    hosts: Vec<String>,
    not_hosts: Vec<String>,
    methods: Vec<String>,
    not_methods: Vec<String>,
    paths: Vec<String>,
    not_paths: Vec<String>,
    remote_ips: Vec<String>,
    not_remote_ips: Vec<String>,
    headers: BTreeMap<String, HeaderText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeaderText {
    values: Vec<String>,
    not_values: Vec<String>,
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
            request: self.request(),
        }
    }

    fn request(&self) -> RequestMatch {
        let condition = |(name, text): (&String, &HeaderText)| HeaderCondition {
            name: Name(name.parse().expect("a header's name")),
            values: texts(&text.values),
            not_values: texts(&text.not_values),
        };
        RequestMatch {
            hosts: texts(&self.hosts),
            not_hosts: texts(&self.not_hosts),
            methods: texts(&self.methods),
            not_methods: texts(&self.not_methods),
            paths: paths(&self.paths),
            not_paths: paths(&self.not_paths),
            remote_ips: ranges(&self.remote_ips),
            not_remote_ips: ranges(&self.not_remote_ips),
            headers: self.headers.iter().map(condition).collect(),
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

fn paths(values: &[String]) -> Vec<PathPattern> {
    let pattern = |text: &String| {
        if text.contains('{') {
            return PathPattern::Template(PathTemplate::new(text).expect("a template"));
        }
        PathPattern::Text(texts(std::slice::from_ref(text)).remove(0))
    };
    values.iter().map(pattern).collect()
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
