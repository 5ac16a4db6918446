//! The order of routes: a table, and a second reading of the specification that sorts nothing.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_policy::{
    http::Request,
    model::{Routes, ServiceKey},
    routing::{select, select_tls_rule},
};
use proptest::{collection::vec, prelude::*, sample::select as any_of};
use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    routes: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    grpc: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    tls: BTreeMap<String, Vec<String>>,
    asks: BTreeMap<String, String>,
}

#[test]
fn table() {
    // A document is no list: it is given a name.
    let text = format!("cases:\n{}", include_str!("precedence.yaml"));
    let document = documents(text.as_bytes(), Format::Yaml, Limits::default()).unwrap().remove(0);
    let cases: Vec<Case> = serde_json::from_value(document["cases"].clone()).unwrap();
    let mut asked = 0;
    for Case { routes, grpc, tls, asks } in &cases {
        let found = of_table(routes, grpc, tls);
        for (ask, expected) in asks {
            let got = if tls.is_empty() { follow(&found, ask) } else { follow_tls(&found, ask) };
            assert_eq!(got.as_deref().unwrap_or("-"), expected, "{ask} of {routes:?} {grpc:?} {tls:?}");
            asked += 1;
        }
    }
    assert!(asked > 120, "{asked}");
}

/// The routes of port 80.
fn of_table(
    http: &BTreeMap<String, Vec<String>>,
    grpc: &BTreeMap<String, Vec<String>>,
    tls: &BTreeMap<String, Vec<String>>,
) -> Routes {
    let mut objects = Objects::default();
    let protocol = if tls.is_empty() { "http" } else { "tls" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": protocol, "port": 80 }] },
    });
    take(&mut objects, &service);
    let backends = json!([{ "name": "s", "port": 80 }]);
    for (name, rules) in http {
        let matches = |rule: &String| rule.split('|').map(http_match).collect::<Vec<_>>();
        let rules: Vec<Value> = rules.iter().map(|rule| json!({ "matches": matches(rule), "backendRefs": backends })).collect();
        take(&mut objects, &route("HTTPRoute", name, json!({ "rules": rules })));
    }
    for (name, rules) in grpc {
        let matches = |rule: &String| rule.split('|').map(grpc_match).collect::<Vec<_>>();
        let rules: Vec<Value> = rules.iter().map(|rule| json!({ "matches": matches(rule), "backendRefs": backends })).collect();
        take(&mut objects, &route("GRPCRoute", name, json!({ "rules": rules })));
    }
    for (name, hostnames) in tls {
        take(&mut objects, &route("TLSRoute", name, json!({ "hostnames": hostnames, "rules": [{ "backendRefs": backends }] })));
    }
    let translation = translate(&objects, &Settings::default(), &BTreeSet::new());
    let routes = translation.model.routes.into_values().next().expect("the routes of the port");
    (*routes).clone()
}

fn take(objects: &mut Objects, document: &Value) {
    match admit(document) {
        Verdict::Admitted(admitted) => objects.insert(admitted.key.name, admitted.object),
        other => panic!("{document}: {other:?}"),
    }
}

fn route(kind: &str, name: &str, mut spec: Value) -> Value {
    spec["parentRefs"] = json!([{ "group": "", "kind": "Service", "name": "s" }]);
    let (name, day) = name.split_once('@').map_or((name, None), |(name, day)| (name, Some(day)));
    let created = day.map(|day| format!("2026-01-0{day}T00:00:00Z"));
    let metadata = json!({ "name": name, "namespace": "shop", "creationTimestamp": created });
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec })
}

fn http_match(text: &str) -> Value {
    let (mut found, mut headers, mut query) = (Map::new(), Vec::new(), Vec::new());
    for token in text.split_whitespace() {
        let path = |kind: &str, value: &str| json!({ "type": kind, "value": value });
        if let Some(value) = token.strip_prefix('=') {
            found.insert("path".into(), path("Exact", value));
        } else if let Some(value) = token.strip_prefix('~') {
            found.insert("path".into(), path("RegularExpression", value));
        } else if token.starts_with('/') {
            found.insert("path".into(), path("PathPrefix", token));
        } else if let Some((name, value)) = token.strip_prefix('?').and_then(|token| token.split_once('=')) {
            query.push(json!({ "name": name, "value": value }));
        } else if let Some((name, value)) = token.split_once(':') {
            headers.push(json!({ "name": name, "value": value }));
        } else {
            found.insert("method".into(), token.into());
        }
    }
    found.insert("headers".into(), headers.into());
    found.insert("queryParams".into(), query.into());
    found.into()
}

fn grpc_match(text: &str) -> Value {
    let (mut found, mut headers) = (Map::new(), Vec::new());
    for token in text.split_whitespace() {
        if let Some((name, value)) = token.split_once(':') {
            headers.push(json!({ "name": name, "value": value }));
            continue;
        }
        let kind = if token.starts_with('~') { "RegularExpression" } else { "Exact" };
        let (service, method) = token.trim_start_matches('~').rsplit_once('/').unwrap();
        found.insert("method".into(), json!({ "type": kind, "service": service, "method": method }));
    }
    found.insert("headers".into(), headers.into());
    found.into()
}

/// `METHOD path?query name:value …`
fn follow(routes: &Routes, ask: &str) -> Option<String> {
    let mut tokens = ask.split_whitespace();
    let method: Method = tokens.next().unwrap().parse().unwrap();
    let target = tokens.next().unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let header = |token: &str| -> (HeaderName, HeaderValue) {
        let (name, value) = token.split_once(':').unwrap();
        (name.parse().unwrap(), value.parse().unwrap())
    };
    let headers: HeaderMap = tokens.map(header).collect();
    let request =
        Request { method: &method, scheme: "http", host: "s", host_port: None, path, query, headers: &headers, remote_ip: None };
    let client = client();
    select(routes, &client, &request).map(|selected| place(&selected.rule.origin))
}

fn follow_tls(routes: &Routes, name: &str) -> Option<String> {
    let anywhere = "10.0.0.1".parse().unwrap();
    select_tls_rule(routes, &client(), Some(name), anywhere, anywhere).map(|rule| place(&rule.origin))
}

/// `route.rule`
fn place(origin: &mesh_policy::model::Origin) -> String {
    let number = origin.field.split(['[', ']']).nth(1).unwrap();
    format!("{}.{number}", origin.name)
}

fn client() -> mesh_policy::model::Workload {
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {containers: []}\nstatus: {podIP: 10.9.0.1}";
    let model = translated(pod).model;
    (**model.workloads.values().next().unwrap()).clone()
}

/// A match of the property, in parts.
#[derive(Clone, Debug)]
struct Part {
    path: &'static str,
    method: bool,
    headers: Vec<&'static str>,
    query: Vec<&'static str>,
}

impl Part {
    fn text(&self) -> String {
        let method = if self.method { "GET" } else { "" };
        format!("{} {method} {} {}", self.path, self.headers.join(" "), self.query.join(" "))
    }

    fn holds(&self, path: &str) -> bool {
        match self.path.split_at(1) {
            ("=", exact) => path == exact,
            ("~", _) => path.starts_with("/a/"),
            _ if self.path == "/" => true,
            _ => path.strip_prefix(self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

fn part() -> impl Strategy<Value = Part> {
    let path = any_of(vec!["/", "/a", "/a/b", "=/a", "=/a/b", "~/a/.*", "~/a/.+/?"]);
    let headers = proptest::sample::subsequence(vec!["h:1", "i:1", "j:1"], 0..=3);
    let query = proptest::sample::subsequence(vec!["?p=1", "?q=1"], 0..=2);
    (path, any::<bool>(), headers, query).prop_map(|(path, method, headers, query)| Part { path, method, headers, query })
}

/// Routes by name, with their day and the matches of each rule.
type Sketch = BTreeMap<String, (Option<u8>, Vec<Vec<Part>>)>;

fn sketch() -> impl Strategy<Value = Sketch> {
    let rules = vec(vec(part(), 1..3), 1..4);
    let route = (proptest::option::of(1_u8..4), rules);
    proptest::collection::btree_map(any_of(vec!["a", "a-b", "b", "c"]).prop_map(str::to_owned), route, 1..4)
}

/// What the specification says, criterion by criterion, of the matches that hold for a GET with all headers and parameters.
fn as_specified(sketch: &Sketch, path: &str) -> Option<String> {
    let all = sketch.iter().flat_map(|(name, (day, rules))| {
        rules.iter().enumerate().flat_map(move |(index, parts)| parts.iter().map(move |part| (name, *day, index, part)))
    });
    let mut left: Vec<_> = all.filter(|(_, _, _, part)| part.holds(path)).collect();
    let kind = |part: &Part| part.path.chars().next().unwrap();
    let first_kind = ['=', '/', '~'].into_iter().find(|wanted| left.iter().any(|one| kind(one.3) == *wanted))?;
    left.retain(|one| kind(one.3) == first_kind);
    let longest = left.iter().map(|one| one.3.path.len()).max()?;
    left.retain(|one| one.3.path.len() == longest);
    if left.iter().any(|one| one.3.method) {
        left.retain(|one| one.3.method);
    }
    let most = left.iter().map(|one| one.3.headers.len()).max()?;
    left.retain(|one| one.3.headers.len() == most);
    let most = left.iter().map(|one| one.3.query.len()).max()?;
    left.retain(|one| one.3.query.len() == most);
    let oldest = left.iter().map(|one| one.1).min()?;
    left.retain(|one| one.1 == oldest);
    let first = left.iter().map(|one| format!("shop/{}", one.0)).min()?;
    left.retain(|one| format!("shop/{}", one.0) == first);
    left.iter().map(|one| one.2).min().map(|index| format!("{}.{index}", left[0].0))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn the_order_is_the_specifications(sketch in sketch(), path in any_of(vec!["/", "/a", "/a/b", "/a/b/c", "/ab"])) {
        let written = sketch.iter().map(|(name, (day, rules))| {
            let name = day.map_or_else(|| name.clone(), |day| format!("{name}@{day}"));
            let rules = rules.iter().map(|parts| parts.iter().map(Part::text).collect::<Vec<_>>().join(" | ")).collect();
            (name, rules)
        });
        let none = BTreeMap::new();
        let routes = of_table(&written.collect(), &none, &none);
        let key = ServiceKey { namespace: "shop".into(), hostname: "s.shop.svc.cluster.local".into() };
        prop_assert_eq!(&routes.key.service, &key);
        let got = follow(&routes, &format!("GET {path}?p=1&q=1 h:1 i:1 j:1"));
        prop_assert_eq!(got, as_specified(&sketch, path));
    }
}
