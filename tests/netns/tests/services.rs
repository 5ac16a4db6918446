//! What a connection is bound to, and which endpoints it may have, through the real kernel path: everything towards a server on
//! the client's own node and towards one on the other.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use harness::wait_until;
use netns_tests::{
    Held, Mesh, PATIENCE,
    manifest::{Pod, namespace, node, pod, service, service_with},
};
use serde_json::Value;

const CLIENT: &str = "app/client";
/// The server on the client's node, the one on the other, and what the route of each answers under `/routed`.
const SERVERS: [(&str, &str, &str); 2] = [("near", "10.96.0.1", "410"), ("far", "10.96.0.2", "418")];
/// The server that no node captures: slot 50,000 of node 2.
const WILD: &str = "10.66.200.2";

const OBJECTS: &str = r#"
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: near, namespace: app}
spec:
  hosts: [near]
  http:
  - match: [{uri: {prefix: /routed}}]
    directResponse: {status: 410}
  - route: [{destination: {host: near}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: far, namespace: app}
spec:
  hosts: [far]
  http:
  - match: [{uri: {prefix: /routed}}]
    directResponse: {status: 418}
  - route: [{destination: {host: far}}]
---
# Routes of another namespace, for its own clients.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: near, namespace: other}
spec:
  parentRefs: [{group: "", kind: Service, namespace: app, name: near}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302, hostname: elsewhere.example}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: far, namespace: other}
spec:
  hosts: [far.app.svc.cluster.local]
  http: [{directResponse: {status: 451}}]
---
# Headless, over both servers.
apiVersion: v1
kind: Service
metadata: {name: crew, namespace: app}
spec:
  clusterIP: None
  selector: {crew: "yes"}
  ports: [{name: http, port: 8080}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: crew, namespace: app}
spec:
  hosts: [crew]
  http:
  - match: [{uri: {prefix: /to-near}}]
    route: [{destination: {host: near, port: {number: 80}}}]
  - match: [{uri: {prefix: /to-far}}]
    route: [{destination: {host: far, port: {number: 80}}}]
  - headers: {request: {set: {x-by: crew}}}
    route: [{destination: {host: crew}}]
---
# Without a selector: somebody else keeps the list of its endpoints.
apiVersion: v1
kind: Service
metadata: {name: listed, namespace: app}
spec:
  clusterIP: 10.96.0.3
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed-1, namespace: app, labels: {kubernetes.io/service-name: listed}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.65.200.9], targetRef: {kind: Pod, namespace: app, name: near}, conditions: {ready: true}}
- {addresses: [10.66.200.9], targetRef: {kind: Pod, namespace: app, name: far}, conditions: {ready: true}}
- {addresses: [10.66.200.2], conditions: {ready: true}}
---
# Meshed and unmeshed pods behind one service.
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: app}
spec:
  clusterIP: 10.96.0.4
  selector: {mixed: "yes"}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky, namespace: app}
spec:
  clusterIP: 10.96.0.5
  sessionAffinity: ClientIP
  selector: {mixed: "yes"}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]
---
# Nobody's business but this namespace's.
apiVersion: v1
kind: Service
metadata: {name: private, namespace: app, annotations: {networking.istio.io/exportTo: "."}}
spec:
  clusterIP: 10.96.0.6
  selector: {app: near}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: bytes-near, namespace: app, annotations: {keelson.io/http: disabled}}
spec:
  clusterIP: 10.96.0.7
  selector: {app: near}
  ports: [{name: http, port: 80, targetPort: 8081}]
---
apiVersion: v1
kind: Service
metadata: {name: bytes-far, namespace: app, annotations: {keelson.io/http: disabled}}
spec:
  clusterIP: 10.96.0.8
  selector: {app: far}
  ports: [{name: http, port: 80, targetPort: 8081}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes, namespace: app}
spec:
  hosts: [bytes-near, bytes-far]
  http: [{directResponse: {status: 410}}]
"#;

fn documents() -> Vec<String> {
    let server = |path: &str, node: &str| {
        let name = path.split_once('/').unwrap().1.to_owned();
        let web = |pod: Pod, port: u16| pod.runs(&["http-peer", &port.to_string(), &name], Some(port));
        web(web(pod(path, node), 8080), 8081).ledger(9000)
    };
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        namespace("other", true),
        namespace("wild", false),
        pod(CLIENT, "node-1").idle().document(),
        pod("other/client", "node-1").idle().document(),
        server("app/near", "node-1").label("crew", "yes").label("mixed", "yes").document(),
        server("app/far", "node-2").label("crew", "yes").label("mixed", "yes").document(),
        server("app/plain", "node-2").mode("none").label("mixed", "yes").document(),
        server("wild/wild", "node-2").address_slot(50_000).document(),
        service_with("app", "near", 1, &[("http", 80, 8080)]),
        service_with("app", "far", 2, &[("http", 80, 8080)]),
        service("app", "near", 11, &[9000]).replacen("\"near\"", "\"near-lines\"", 1),
        service("app", "far", 12, &[9000]).replacen("\"far\"", "\"far-lines\"", 1),
        OBJECTS.to_owned(),
    ]
}

#[test]
fn connections_are_bound_to_what_was_dialled() {
    let mesh = Mesh::up(&documents());
    for (name, address, status) in SERVERS {
        let known = || Ok(ask(&mesh, CLIENT, &format!("http://{address}/routed"), "x").0 == status);
        wait_until(&format!("the route of {name}"), PATIENCE, known).unwrap();
    }
    for check in [
        addresses_count_not_hosts,
        routes_of_a_namespace_are_for_its_own_clients,
        pods_have_no_routes,
        headless_services_are_named_by_hosts,
        endpoints_may_be_listed,
        a_pod_may_call_itself,
        captured_and_plain_endpoints_mix,
        a_client_stays_at_one_endpoint,
        services_are_known_where_they_are_exported,
        requests_may_be_carried_as_bytes,
        connections_end_in_time,
    ] {
        check(&mesh);
    }
    mesh.down();
}

/// The status and, where the server has answered, what it has seen.
fn ask(mesh: &Mesh, client: &str, url: &str, host: &str) -> (String, Value) {
    let host = format!("host: {host}");
    let words = ["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}", "-H", &host, url];
    let output = mesh.exec(client, &words).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    (status.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

/// Who answered; empty where no server did.
fn who(mesh: &Mesh, url: &str, host: &str) -> String {
    ask(mesh, CLIENT, url, host).1["name"].as_str().unwrap_or_default().to_owned()
}

/// A service's address is that service, whatever Host says: its endpoints and its routes.
fn addresses_count_not_hosts(mesh: &Mesh) {
    for (name, address, status) in SERVERS {
        for host in ["near", "far.app.svc.cluster.local", "crew.app", "www.example.org", "10.96.0.2"] {
            assert_eq!(who(mesh, &format!("http://{address}/whoami"), host), name, "{host} to {name}");
            assert_eq!(ask(mesh, CLIENT, &format!("http://{address}/routed"), host).0, status, "{host} to {name}");
        }
    }
}

/// A consumer's routes come in place of the owner's for the clients of its namespace, and for nobody else.
fn routes_of_a_namespace_are_for_its_own_clients(mesh: &Mesh) {
    for ((name, address, owners), consumers) in SERVERS.into_iter().zip(["302", "451"]) {
        let url = format!("http://{address}/routed");
        wait_until(&format!("the consumer's route to {name}"), PATIENCE, || {
            Ok(ask(mesh, "other/client", &url, name).0 == consumers)
        })
        .unwrap();
        assert_eq!(ask(mesh, CLIENT, &url, name).0, owners);
    }
}

/// A pod's address is that pod: the routes of the service before it do not count.
fn pods_have_no_routes(mesh: &Mesh) {
    for (name, _, _) in SERVERS {
        let own = mesh.v4(&format!("app/{name}"));
        for host in ["near", "far.app.svc.cluster.local", "www.example.org"] {
            let (status, found) = ask(mesh, CLIENT, &format!("http://{own}:8080/routed"), host);
            assert_eq!((&*status, &found["name"]), ("200", &Value::from(name)), "{host} to {own}");
            assert_eq!(found["fields"]["x-by"], Value::Null);
            // It is HTTP all the same.
            assert_ne!(found["fields"]["x-request-id"], Value::Null);
        }
    }
}

/// Behind a headless service Host says whose routes count; the pod that was dialled stays the endpoint unless they say otherwise.
fn headless_services_are_named_by_hosts(mesh: &Mesh) {
    for (name, _, _) in SERVERS {
        let url = |path: &str| format!("http://{}:8080{path}", mesh.v4(&format!("app/{name}")));
        for host in ["crew", "crew.app", "crew.app.svc.cluster.local:8080", "pod-0.crew.app.svc.cluster.local"] {
            let (_, found) = ask(mesh, CLIENT, &url("/whoami"), host);
            assert_eq!(
                (&found["name"], &found["fields"]["x-by"]),
                (&Value::from(name), &Value::from("crew")),
                "{host} at {name}"
            );
        }
        assert_eq!(who(mesh, &url("/to-near"), "crew"), "near");
        assert_eq!(who(mesh, &url("/to-far"), "crew"), "far");
        let v6 = format!("http://[{}]:8080/whoami", mesh.v6(&format!("app/{name}")));
        assert_eq!(who(mesh, &v6, "crew"), name);
    }
}

/// All who answer at an address.
fn all(mesh: &Mesh, url: &str, count: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    wait_until(&format!("{count} servers at {url}"), PATIENCE, || {
        found.insert(who(mesh, url, "x"));
        Ok(found.len() >= count)
    })
    .unwrap_or_else(|error| panic!("{error}: {found:?}"));
    found
}

/// An EndpointSlice names pods of the mesh and addresses that nobody captures.
fn endpoints_may_be_listed(mesh: &Mesh) {
    assert_eq!(mesh.v4("wild/wild").to_string(), WILD);
    let expected = ["far", "near", "wild"].map(str::to_owned);
    assert_eq!(all(mesh, "http://10.96.0.3/whoami", 3), BTreeSet::from(expected));
}

/// A pod that dials a service may be its own endpoint.
fn a_pod_may_call_itself(mesh: &Mesh) {
    for (name, address, _) in SERVERS {
        let (status, found) = ask(mesh, &format!("app/{name}"), &format!("http://{address}/whoami"), name);
        assert_eq!((&*status, &found["name"]), ("200", &Value::from(name)));
        let own = format!("spiffe://cluster.local/ns/app/sa/{name}");
        assert_eq!(found["fields"]["x-forwarded-client-cert"], Value::from(format!("By={own};URI={own}")));
        let lines = if name == "near" { "10.96.0.11:9000" } else { "10.96.0.12:9000" };
        assert_eq!(mesh.outcome(&format!("app/{name}"), lines), "ok");
    }
}

/// Those that are captured learn who asks, the other is reached as it is.
fn captured_and_plain_endpoints_mix(mesh: &Mesh) {
    let mut seen = BTreeSet::new();
    wait_until("all three servers", PATIENCE, || {
        let (status, found) = ask(mesh, CLIENT, "http://10.96.0.4/whoami", "mixed");
        anyhow::ensure!(status == "200", "{status}");
        let name = found["name"].as_str().unwrap().to_owned();
        let told = found["fields"]["x-forwarded-client-cert"] != Value::Null;
        assert_eq!(told, name != "plain", "{found}");
        seen.insert(name);
        Ok(seen.len() == 3)
    })
    .unwrap();
    for _ in 0..10 {
        assert_eq!(mesh.outcome(CLIENT, "10.96.0.4:9000"), "ok");
    }
}

/// `sessionAffinity: ClientIP`, over the same three servers, for requests and connections.
fn a_client_stays_at_one_endpoint(mesh: &Mesh) {
    let first = who(mesh, "http://10.96.0.5/whoami", "sticky");
    assert_ne!(first, "");
    for _ in 0..15 {
        assert_eq!(who(mesh, "http://10.96.0.5/whoami", "sticky"), first);
    }
    let pods = ["app/near", "app/far", "app/plain"];
    let before = pods.map(|pod| mesh.taken(pod));
    for _ in 0..12 {
        assert_eq!(mesh.outcome(CLIENT, "10.96.0.5:9000"), "ok");
    }
    let more = || std::array::from_fn::<usize, 3, _>(|at| mesh.taken(pods[at]) - before[at]);
    wait_until("the connections to be counted", PATIENCE, || Ok(more().iter().sum::<usize>() >= 12)).unwrap();
    assert!(more().contains(&12), "{:?}", more());
}

/// To a namespace that a service is not exported to, its address is like any outside.
fn services_are_known_where_they_are_exported(mesh: &Mesh) {
    let run = |output: std::process::Output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run(mesh.exec("wild/wild", &["ip", "addr", "add", "10.96.0.6/32", "dev", "lo"]).unwrap());
    run(mesh.exec_on_node("node-2", &["ip", "route", "add", "10.96.0.6/32", "via", WILD]).unwrap());
    run(mesh.exec_on_node("node-1", &["ip", "route", "add", "10.96.0.6/32", "via", &next_hop(mesh)]).unwrap());
    let url = "http://10.96.0.6:8080/whoami";
    assert_eq!(who(mesh, url, "private"), "near");
    assert_eq!(ask(mesh, "other/client", url, "private").1["name"], Value::from("wild"));
}

/// Where node 1 sends what is for node 2's pods.
fn next_hop(mesh: &Mesh) -> String {
    let output = mesh.exec_on_node("node-1", &["ip", "-json", "route", "get", WILD]).unwrap();
    let routes: Value = serde_json::from_slice(&output.stdout).unwrap();
    routes[0]["gateway"].as_str().unwrap().to_owned()
}

/// `keelson.io/http: disabled`: no route, no field added. The port of the pods is declared by no other service.
fn requests_may_be_carried_as_bytes(mesh: &Mesh) {
    for (name, url) in [("near", "http://10.96.0.7/routed"), ("far", "http://10.96.0.8/routed")] {
        let (status, found) = ask(mesh, CLIENT, url, "x");
        assert_eq!((&*status, &found["name"]), ("200", &Value::from(name)));
        for field in ["x-request-id", "x-forwarded-client-cert", "x-forwarded-proto"] {
            assert_eq!(found["fields"][field], Value::Null, "{field} at {name}");
        }
    }
}

/// `tcp.idleTimeout` and `tcp.maxConnectionDuration` of connections that carry no requests.
fn connections_end_in_time(mesh: &Mesh) {
    let rule = |name: &str, limit: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: app}}\n\
             spec: {{host: {name}, trafficPolicy: {{connectionPool: {{tcp: {{{limit}: 1s}}}}}}}}\n"
        )
    };
    for (limit, reason) in [("idleTimeout", "CONNECTION_IDLE"), ("maxConnectionDuration", "CONNECTION_DURATION")] {
        for (name, target) in [("near-lines", "10.96.0.11:9000"), ("far-lines", "10.96.0.12:9000")] {
            let held = Held::open(mesh, CLIENT, target, 2);
            mesh.put("rule.yaml", &rule(name, limit));
            let before = mesh.failures("node-1", reason);
            // What stood before stays; what is new ends.
            let ends = || {
                let young = Held::begin(mesh, CLIENT, target, 1, &["--duration", "3"]);
                Ok(young.wait_for("end")["broken"] == 1)
            };
            wait_until(&format!("{limit} of {name}"), PATIENCE, ends).unwrap();
            assert!(mesh.failures("node-1", reason) > before, "{reason}");
            mesh.take_away("rule.yaml");
            held.end_whole();
        }
    }
}
