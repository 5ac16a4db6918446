//! For any policy: what is translated never allows what the policy as written does not, and never lets pass what it denies.
//!
//! The policy as written is judged by a second, simpler reading, on a connection with or without an HTTP request; the
//! translation by the engine itself. What nothing here can see of a request (a token) is drawn at random: for an ALLOW,
//! whatever it is, translated implies written; for a DENY, written implies translated. Without a request, an ALLOW that
//! speaks of requests matches nothing, and a DENY may have meant anything by them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_policy::{
    authz::{Connection, decide, decide_request},
    http::Request,
    model::{Identity, TrustDomain},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::kinds::{Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, Name, Object, Operation, Rule, Source};

mod waypoint;

/// A connection, its request if it has one, and, as one bit, whether a condition on tokens is fulfilled.
#[derive(Clone, Debug)]
struct Facts {
    principal: Option<(&'static str, &'static str)>,
    source: IpAddr,
    port: u16,
    request: Option<Asked>,
    token: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    header: Vec<&'static str>,
    /// As a trusted proxy tells it; None: that of the connection.
    remote: Option<IpAddr>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const ADDRESSES: &[&str] = &["10.0.0.1", "10.1.0.1", "192.168.0.1"];

fn facts() -> impl Strategy<Value = Facts> {
    let principal = prop_oneof![Just(None), (select(vec!["a", "b"]), select(vec!["x", "y"])).prop_map(Some)];
    let source = select(ADDRESSES.to_vec()).prop_map(ip);
    (principal, source, select(vec![80_u16, 81]), proptest::option::weighted(0.8, asked()), any::<bool>())
        .prop_map(|(principal, source, port, request, token)| Facts { principal, source, port, request, token })
}

fn asked() -> impl Strategy<Value = Asked> {
    let method = select(vec!["GET", "POST"]);
    let path = select(vec!["/", "/a", "/a/b", "/a/b/c", "/c"]);
    let host = select(vec!["page.shop", "cart.shop", "page"]);
    let header = vec(select(vec!["v", "vw", "w"]), 0..3);
    let remote = proptest::option::of(select(ADDRESSES.to_vec()).prop_map(ip));
    (method, path, host, header, remote).prop_map(|(method, path, host, header, remote)| Asked {
        method,
        path,
        host,
        header,
        remote,
    })
}

fn some(values: &[&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![3 => Just(vec![]), 1 => vec(select(values.to_vec()).prop_map(str::to_owned), 1..3)]
}

const PRINCIPALS: &[&str] = &["*", "cluster.local/ns/a/sa/x", "cluster.local/ns/b*", "*/sa/y", "a*b*c", "cluster.local/*/x"];
const NAMESPACES: &[&str] = &["a", "b", "a*", "*b", "*"];
const BLOCKS: &[&str] = &["10.0.0.0/8", "10.1.0.1", "192.168.0.0/16"];
const METHODS: &[&str] = &["GET", "P*", "*ST", "*", "G*T"];
const PATHS: &[&str] = &["/a", "/a*", "*/b", "*", "/{*}", "/a/{**}", "/a/{*}/c", "/{**}/c", "/a*b"];
const HOSTS: &[&str] = &["page.shop", "PAGE.shop", "*.shop", "page*", "*", "p*e"];
const VALUES: &[&str] = &["v", "v*", "*w", "*", "v*w"];

fn source() -> impl Strategy<Value = Source> {
    let texts = (some(PRINCIPALS), some(PRINCIPALS), some(NAMESPACES), some(NAMESPACES));
    let rest = (some(BLOCKS), some(BLOCKS), some(&["x", "b/y"]), some(&["cluster.local", "far*", "*local"]));
    (texts, rest, some(&["*"]), some(BLOCKS), some(BLOCKS)).prop_map(|(t, r, request_principals, remote, not_remote)| Source {
        principals: t.0,
        not_principals: t.1,
        namespaces: t.2,
        not_namespaces: t.3,
        ip_blocks: r.0,
        not_ip_blocks: r.1,
        service_accounts: r.2,
        trust_domains: r.3,
        request_principals,
        remote_ip_blocks: remote,
        not_remote_ip_blocks: not_remote,
        ..Source::default()
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let ports = (some(&["80", "81"]), some(&["80", "81"]));
    let texts = (some(METHODS), some(METHODS), some(PATHS), some(PATHS), some(HOSTS), some(HOSTS));
    (ports, texts).prop_map(|(ports, texts)| Operation {
        ports: ports.0,
        not_ports: ports.1,
        methods: texts.0,
        not_methods: texts.1,
        paths: texts.2,
        not_paths: texts.3,
        hosts: texts.4,
        not_hosts: texts.5,
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let keyed = prop_oneof![
        Just(("source.namespace", NAMESPACES)),
        Just(("source.principal", PRINCIPALS)),
        Just(("source.ip", BLOCKS)),
        Just(("destination.port", ["80", "81"].as_slice())),
        Just(("remote.ip", BLOCKS)),
        Just(("request.headers[x-h]", VALUES)),
        Just(("request.auth.claims[x]", ["y"].as_slice())),
        Just(("request.headers[not a name]", ["y"].as_slice())),
    ];
    keyed.prop_flat_map(|(key, values)| {
        (some(values), some(values))
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

/// The policy as written, naively.
struct Written<'a> {
    facts: &'a Facts,
    /// What a condition on a request counts for where there is none.
    unseen: bool,
}

impl Written<'_> {
    fn rule(&self, rule: &Rule) -> bool {
        let from = rule.from.as_ref().is_none_or(|from| from.iter().any(|from| self.source(from.source.as_ref().unwrap())));
        let to = rule.to.as_ref().is_none_or(|to| to.iter().any(|to| self.operation(to.operation.as_ref().unwrap())));
        from && to && rule.when.iter().all(|condition| self.condition(condition))
    }

    fn source(&self, source: &Source) -> bool {
        let nothing: &[String] = &[];
        let account = |value: &str| {
            let (namespace, name) = value.split_once('/').unwrap_or(("shop", value));
            self.facts.principal == Some((namespace, name))
        };
        holds(&source.principals, &source.not_principals, |value| self.is_principal(value))
            && holds(&source.namespaces, &source.not_namespaces, |value| self.is_namespace(value))
            && holds(&source.ip_blocks, &source.not_ip_blocks, |value| within(value, self.facts.source))
            && holds(&source.service_accounts, nothing, account)
            && holds(&source.trust_domains, nothing, |value| self.facts.principal.is_some() && glob(value, "cluster.local"))
            && holds(&source.request_principals, nothing, |_| self.facts.token)
            && self.of_request(&source.remote_ip_blocks, &source.not_remote_ip_blocks, |value, asked| {
                within(value, asked.remote.unwrap_or(self.facts.source))
            })
    }

    fn operation(&self, operation: &Operation) -> bool {
        holds(&operation.ports, &operation.not_ports, |value| value.parse() == Ok(self.facts.port))
            && self.of_request(&operation.methods, &operation.not_methods, |value, asked| glob(value, asked.method))
            && self.of_request(&operation.paths, &operation.not_paths, |value, asked| is_path(value, asked.path))
            && self.of_request(&operation.hosts, &operation.not_hosts, |value, asked| glob(&value.to_lowercase(), asked.host))
    }

    fn condition(&self, condition: &Condition) -> bool {
        let Condition { key, values, not_values } = condition;
        match key.as_str() {
            "source.namespace" => holds(values, not_values, |value| self.is_namespace(value)),
            "source.principal" => holds(values, not_values, |value| self.is_principal(value)),
            "source.ip" => holds(values, not_values, |value| within(value, self.facts.source)),
            "destination.port" => holds(values, not_values, |value| value.parse() == Ok(self.facts.port)),
            "remote.ip" => {
                self.of_request(values, not_values, |value, asked| within(value, asked.remote.unwrap_or(self.facts.source)))
            }
            "request.headers[x-h]" => self.of_request(values, not_values, |value, asked| {
                asked.header.iter().any(|found| glob(value, found))
                    || glob(value, &asked.header.join(",")) && !asked.header.is_empty()
            }),
            _ => holds(values, not_values, |_| self.facts.token),
        }
    }

    fn of_request(&self, positive: &[String], negative: &[String], judge: impl Fn(&str, &Asked) -> bool) -> bool {
        match &self.facts.request {
            Some(asked) => holds(positive, negative, |value| judge(value, asked)),
            None => self.unseen || positive.is_empty() && negative.is_empty(),
        }
    }

    fn is_principal(&self, value: &str) -> bool {
        let principal = self.facts.principal;
        principal.is_some_and(|(namespace, account)| glob(value, &format!("cluster.local/ns/{namespace}/sa/{account}")))
    }

    fn is_namespace(&self, value: &str) -> bool {
        self.facts.principal.is_some_and(|(namespace, _)| glob(value, namespace))
    }
}

fn holds(positive: &[String], negative: &[String], judge: impl Fn(&str) -> bool) -> bool {
    (positive.is_empty() || positive.iter().any(|value| judge(value))) && !negative.iter().any(|value| judge(value))
}

fn within(block: &str, address: IpAddr) -> bool {
    let net = if block.contains('/') { block.parse::<ipnet::IpNet>().unwrap() } else { ip(block).into() };
    net.contains(&address)
}

fn is_path(pattern: &str, path: &str) -> bool {
    if !pattern.contains('{') {
        return glob(pattern, path);
    }
    fits(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
}

fn fits(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["{**}", pattern @ ..], _) => (1..=path.len()).any(|taken| fits(pattern, &path[taken..])),
        (["{*}", pattern @ ..], [segment, path @ ..]) => !segment.is_empty() && fits(pattern, path),
        ([literal, pattern @ ..], [segment, path @ ..]) => literal == segment && fits(pattern, path),
        _ => false,
    }
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

/// Whether the only policy matches, as the engine has it: an ALLOW that does not match denies, a DENY that does not allows.
fn matches(action: Action, rules: &[Rule], facts: &Facts) -> bool {
    let spec = AuthorizationPolicySpec { rules: rules.to_vec(), action, ..AuthorizationPolicySpec::default() };
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {containers: []}\nstatus: {podIP: 10.9.0.1}";
    let mut objects = objects(pod);
    insert(&mut objects, "p", spec);
    judged(&translate(&objects, &Settings::default(), &BTreeSet::new()).model, action, facts)
}

fn insert(objects: &mut Objects, name: &str, spec: AuthorizationPolicySpec) {
    let policy = AuthorizationPolicy {
        api_version: "security.istio.io/v1".into(),
        kind: "AuthorizationPolicy".into(),
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default(),
        spec,
        status: None,
    };
    objects.insert(Name::new("shop", name), Object::AuthorizationPolicy(policy.into()));
}

fn judged(model: &Model, action: Action, facts: &Facts) -> bool {
    let snapshot = model.snapshot();
    let destination = snapshot.workloads().next().unwrap();
    let identity = facts.principal.map(|(namespace, account)| Identity::new(TrustDomain::default(), namespace, account));
    let connection = Connection {
        source_identity: identity.as_ref(),
        source_ip: facts.source,
        destination_ip: ip("10.9.0.1"),
        destination_port: facts.port,
    };
    let verdict = match &facts.request {
        None => decide(&snapshot, destination, &connection),
        Some(Asked { method, path, host, header, remote }) => {
            let method: Method = method.parse().unwrap();
            let name = HeaderName::from_static("x-h");
            let headers: HeaderMap =
                header.iter().copied().map(|value| (name.clone(), HeaderValue::from_static(value))).collect();
            let request = Request {
                method: &method,
                scheme: "http",
                host,
                host_port: None,
                path,
                query: None,
                headers: &headers,
                remote_ip: *remote,
            };
            decide_request(&snapshot, destination, &connection, &request)
        }
    };
    verdict.is_allowed() == (action == Action::Allow)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn an_allow_is_never_broader_than_written(rules in vec(rule(), 0..3), facts in facts()) {
        if matches(Action::Allow, &rules, &facts) {
            let written = Written { facts: &facts, unseen: false };
            prop_assert!(rules.iter().any(|rule| written.rule(rule)));
        }
    }

    #[test]
    fn a_deny_is_never_narrower_than_written(rules in vec(rule(), 1..3), facts in facts()) {
        let written = Written { facts: &facts, unseen: true };
        if rules.iter().any(|rule| written.rule(rule)) {
            prop_assert!(matches(Action::Deny, &rules, &facts));
        }
    }
}
