//! Random routes, policies and requests, over few names, so that they often meet.

use std::net::SocketAddr;

use netns_tests::Mesh;
use serde_json::{Value, json};

use super::random::Random;

/// The services, with their addresses.
pub(crate) const SERVICES: [(&str, &str); 3] = [("shop", "10.96.0.1"), ("one", "10.96.0.2"), ("two", "10.96.0.3")];
const SERVERS: [&str; 4] = ["near-1", "far-1", "near-2", "far-2"];
const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/ab", "/c", "/c/d"];
/// What clients write: some are brought into another form.
const WRITTEN: [&str; 9] = ["/", "/a", "/a/b", "/a/b/", "/ab", "/c/d", "/a/./b", "/c/../a/b", "/e"];
const METHODS: [&str; 2] = ["GET", "POST"];
const FIELDS: [&str; 2] = ["x-one", "x-two"];
const VALUES: [&str; 2] = ["1", "2"];

/// One set: routes of either API on each service, policies, and marks by which it is known to be in force.
pub(crate) fn manifests(set: usize, random: &mut Random) -> String {
    let mut objects = vec![subsets()];
    for (at, (name, _)) in SERVICES.into_iter().enumerate() {
        // Each service has rules of each API in one set or another.
        let of_gateway_api = (set + at) % 2 == 1;
        objects.push(if of_gateway_api { http_route(name, random) } else { virtual_service(set, name, random) });
        if of_gateway_api {
            // Of two routes the exact path comes first, whichever route it is in.
            objects.push(mark(set, name));
        }
    }
    let denied = json!([{ "to": [{ "operation": { "paths": [format!("/denied-{set}")] } }] }]);
    objects.push(policy("mark", &json!({ "action": "DENY", "rules": denied })));
    for number in 0..4 {
        objects.push(policy(&format!("random-{number}"), &random_policy(random)));
    }
    let documents: Vec<String> = objects.iter().map(|object| format!("---\n{object}\n")).collect();
    documents.concat()
}

fn subsets() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": "shop", "namespace": "app" },
        "spec": { "host": "shop", "subsets": [
            { "name": "v1", "labels": { "version": "v1" } }, { "name": "v2", "labels": { "version": "v2" } },
        ] },
    })
}

fn virtual_service(set: usize, name: &str, random: &mut Random) -> Value {
    let mut http = vec![json!({
        "match": [{ "uri": { "exact": format!("/set-{set}") } }], "directResponse": { "status": 299 },
    })];
    for _ in 0..=random.below(4) {
        http.push(virtual_service_rule(random));
    }
    if random.in_hundred(60) {
        http.push(json!({ "route": [{ "destination": { "host": random.of(&SERVICES).0 } }] }));
    }
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": name, "namespace": "app" }, "spec": { "hosts": [name], "http": http },
    })
}

fn virtual_service_rule(random: &mut Random) -> Value {
    let mut rule = json!({});
    if random.in_hundred(85) {
        let matches: Vec<Value> = (0..=random.below(2)).map(|_| virtual_service_match(random)).collect();
        rule["match"] = matches.into();
    }
    if random.in_hundred(12) {
        rule["redirect"] = json!({ "uri": random.of(&PATHS), "redirectCode": random.of(&[301, 302]) });
        return rule;
    }
    if random.in_hundred(20) {
        rule["directResponse"] = json!({ "status": random.of(&[204, 410]) });
        return rule;
    }
    let mut route: Vec<Value> = Vec::new();
    for _ in 0..=random.below(2) {
        let destination = match random.below(8) {
            0..3 => json!({ "host": "shop", "subset": random.of(&["v1", "v2"]) }),
            3 => json!({ "host": "nobody" }),
            _ => json!({ "host": random.of(&SERVICES).0 }),
        };
        route.push(json!({ "destination": destination, "weight": 50 }));
    }
    rule["route"] = route.into();
    if random.in_hundred(30) {
        rule["rewrite"] = json!({ "uri": random.of(&PATHS), "authority": "rewritten.example" });
    }
    if random.in_hundred(40) {
        rule["headers"] = json!({
            "request": { "set": { "x-set": random.of(&VALUES) }, "remove": [random.of(&FIELDS)] },
            "response": { "set": { "x-answer": random.of(&VALUES) } },
        });
    }
    if random.in_hundred(10) {
        rule["fault"] = json!({ "abort": { "httpStatus": 418, "percentage": { "value": 100 } } });
    }
    rule
}

fn virtual_service_match(random: &mut Random) -> Value {
    let mut found = json!({});
    let path = random.of(&PATHS);
    match random.below(4) {
        0 => found["uri"] = json!({ "exact": path }),
        1 => found["uri"] = json!({ "regex": format!("{path}/?[a-c]*") }),
        _ => found["uri"] = json!({ "prefix": path }),
    }
    if random.in_hundred(25) {
        found["method"] = json!({ "exact": random.of(&METHODS) });
    }
    if random.in_hundred(30) {
        found["headers"] = json!({ (*random.of(&FIELDS)): { "exact": random.of(&VALUES) } });
    }
    if random.in_hundred(15) {
        found["withoutHeaders"] = json!({ (*random.of(&FIELDS)): {} });
    }
    if random.in_hundred(15) {
        found["queryParams"] = json!({ "q": { "exact": random.of(&VALUES) } });
    }
    found
}

fn http_route(name: &str, random: &mut Random) -> Value {
    let mut rules: Vec<Value> = (0..=random.below(4)).map(|_| http_route_rule(random)).collect();
    if random.in_hundred(60) {
        rules.push(json!({ "backendRefs": [{ "name": random.of(&SERVICES).0, "port": 80 }] }));
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "app" },
        "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": name }], "rules": rules },
    })
}

fn http_route_rule(random: &mut Random) -> Value {
    let mut rule = json!({});
    if random.in_hundred(85) {
        let matches: Vec<Value> = (0..=random.below(2)).map(|_| http_route_match(random)).collect();
        rule["matches"] = matches.into();
    }
    let mut filters = Vec::new();
    if random.in_hundred(15) {
        let path = json!({ "type": "ReplaceFullPath", "replaceFullPath": random.of(&PATHS) });
        filters.push(json!({ "type": "RequestRedirect", "requestRedirect": { "path": path, "statusCode": 302 } }));
        rule["filters"] = filters.into();
        return rule;
    }
    if random.in_hundred(30) {
        let path = json!({ "type": "ReplaceFullPath", "replaceFullPath": random.of(&PATHS) });
        filters.push(json!({ "type": "URLRewrite", "urlRewrite": { "hostname": "rewritten.example", "path": path } }));
    }
    if random.in_hundred(40) {
        let change = json!({ "set": [{ "name": "x-set", "value": random.of(&VALUES) }], "remove": [random.of(&FIELDS)] });
        filters.push(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": change }));
    }
    rule["filters"] = filters.into();
    let backends = ["one", "two", "shop", "one", "two", "shop", "nobody", "missing"];
    let refs: Vec<Value> =
        (0..=random.below(2)).map(|_| json!({ "name": random.of(&backends), "port": 80, "weight": random.below(3) })).collect();
    rule["backendRefs"] = refs.into();
    rule
}

fn http_route_match(random: &mut Random) -> Value {
    let path = random.of(&PATHS);
    let mut found = match random.below(4) {
        0 => json!({ "path": { "type": "Exact", "value": path } }),
        1 => json!({ "path": { "type": "RegularExpression", "value": format!("{path}/?[a-c]*") } }),
        _ => json!({ "path": { "type": "PathPrefix", "value": path } }),
    };
    if random.in_hundred(25) {
        found["method"] = json!(random.of(&METHODS));
    }
    if random.in_hundred(30) {
        found["headers"] = json!([{ "name": random.of(&FIELDS), "value": random.of(&VALUES) }]);
    }
    if random.in_hundred(15) {
        found["queryParams"] = json!([{ "name": "q", "value": random.of(&VALUES) }]);
    }
    found
}

/// Redirects the path of its own with a status that nothing else has.
fn mark(set: usize, name: &str) -> Value {
    let path = format!("/set-{set}");
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": format!("{name}-mark"), "namespace": "app" },
        "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": name }], "rules": [{
            "matches": [{ "path": { "type": "Exact", "value": path } }],
            "filters": [{ "type": "RequestRedirect", "requestRedirect": { "hostname": format!("set-{set}.example"), "statusCode": 307 } }],
        }] },
    })
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": "app" }, "spec": spec,
    })
}

/// Most of them of no consequence for most requests.
fn random_policy(random: &mut Random) -> Value {
    let mut operation = json!({ "paths": [format!("{}*", random.of(&PATHS[1..]))] });
    if random.in_hundred(30) {
        operation["methods"] = json!([random.of(&METHODS)]);
    }
    if random.in_hundred(20) {
        operation["hosts"] = json!(["rewritten.example"]);
    }
    let mut rule = json!({ "to": [{ "operation": operation }] });
    if random.in_hundred(30) {
        rule["when"] = json!([{ "key": format!("request.headers[{}]", random.of(&FIELDS)), "values": [random.of(&VALUES)] }]);
    }
    let mut spec = json!({ "action": "DENY", "rules": [rule] });
    match random.below(3) {
        0 => spec["selector"] = json!({ "matchLabels": { "version": random.of(&["v1", "v2"]) } }),
        1 => spec["targetRefs"] = json!([{ "group": "", "kind": "Service", "name": random.of(&["one", "two"]) }]),
        _ => {}
    }
    spec
}

/// As curl and as `meshctl explain` are asked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) url: String,
    pub(crate) to: String,
    pub(crate) port: u16,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    /// Nothing special about it; it is not explained.
    pub(crate) fn plain(url: String) -> Self {
        Self { url, to: String::new(), port: 0, method: "GET".into(), path: String::new(), headers: Vec::new() }
    }
}

/// To a service or, now and then, to a pod's own address.
pub(crate) fn request(mesh: &Mesh, random: &mut Random) -> Request {
    let mut path = (*random.of(&WRITTEN)).to_owned();
    if random.in_hundred(25) {
        path += &format!("?q={}", random.of(&VALUES));
    }
    let mut headers = Vec::new();
    for field in FIELDS {
        if random.in_hundred(50) {
            headers.push((field.to_owned(), (*random.of(&VALUES)).to_owned()));
        }
    }
    let (to, address) = if random.in_hundred(15) {
        let name = random.of(&SERVERS);
        (format!("app/{name}"), SocketAddr::new(mesh.v4(&format!("app/{name}")), 8080))
    } else {
        let (name, address) = random.of(&SERVICES);
        headers.push(("host".to_owned(), format!("{name}.app")));
        (format!("app/{name}"), format!("{address}:80").parse().expect("an address"))
    };
    let method = (*random.of(&METHODS)).to_owned();
    Request { url: format!("http://{address}{path}"), to, port: address.port(), method, path, headers }
}
