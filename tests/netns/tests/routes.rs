//! Kinds of routes that the tasks leave out, through the real kernel path, to a server on the client's node and to one on the
//! other: delegation, TLS by server name, TCP by address, gRPC's faults; and namespaces without HTTP.

#![allow(clippy::unwrap_used, reason = "tests")]

use harness::wait_until;
use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};

const CLIENT: &str = "app/client";

const OBJECTS: &str = r#"
---
# One root, and rules that another object has.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: app}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /part}}]
    delegate: {name: part, namespace: app}
  - match: [{uri: {prefix: /grpc}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: near}}]
  - route: [{destination: {host: near}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: app}
spec:
  http:
  - match: [{uri: {exact: /part/gone}}]
    directResponse: {status: 410}
  - match: [{uri: {prefix: /part/far}}]
    route: [{destination: {host: far}}]
  - route: [{destination: {host: near}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: near, namespace: app}
spec:
  parentRefs: [{group: "", kind: Service, name: secure}]
  hostnames: [near.example]
  rules: [{backendRefs: [{name: near-lines, port: 9000}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: far, namespace: app}
spec:
  parentRefs: [{group: "", kind: Service, name: secure}]
  hostnames: ["*.far.example"]
  rules: [{backendRefs: [{name: far-lines, port: 9000}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: lines, namespace: app}
spec:
  hosts: [lines]
  tcp:
  - match: [{destinationSubnets: [10.96.0.0/16]}]
    route: [{destination: {host: near-lines}}]
  - route: [{destination: {host: far-lines}}]
---
apiVersion: v1
kind: Namespace
metadata:
  name: bytes
  labels: {istio.io/dataplane-mode: keelson}
  annotations: {keelson.io/http: disabled}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: bytes}
spec:
  hosts: [near, far]
  http: [{directResponse: {status: 410}}]
"#;

fn documents() -> Vec<String> {
    let server = |path: &str, at: &str| {
        let (_, name) = path.split_once('/').unwrap();
        pod(path, at).runs(&["http-peer", "8080", name], Some(8080)).ledger(9000).document()
    };
    let named = |name: &str, app: &str, host: u8, port: (&str, u16, u16)| {
        service_with("app", name, host, &[port]).replace(&format!("{{\"app\":\"{name}\"}}"), &format!("{{\"app\":\"{app}\"}}"))
    };
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        OBJECTS.to_owned(),
        pod(CLIENT, "node-1").idle().document(),
        server("app/near", "node-1"),
        server("app/far", "node-2"),
        server("bytes/near", "node-1"),
        server("bytes/far", "node-2"),
        service_with("app", "near", 1, &[("http", 80, 8080)]),
        service_with("app", "far", 2, &[("http", 80, 8080)]),
        named("web", "near", 3, ("http", 80, 8080)),
        named("near-lines", "near", 4, ("tcp", 9000, 9000)),
        named("far-lines", "far", 5, ("tcp", 9000, 9000)),
        named("secure", "nobody", 6, ("tls", 443, 9000)),
        named("lines", "nobody", 7, ("tcp", 9000, 9000)),
        service_with("bytes", "near", 8, &[("http", 80, 8080)]),
        service_with("bytes", "far", 9, &[("http", 80, 8080)]),
    ]
}

#[test]
fn routes_of_every_kind_lead_where_they_say() {
    let mesh = Mesh::up(&documents());
    wait_until("the routes", PATIENCE, || Ok(fetch(&mesh, &["http://10.96.0.3/part/gone"]).ends_with(" 410"))).unwrap();
    delegated(&mesh);
    faults_of_grpc(&mesh);
    by_server_name(&mesh);
    by_address(&mesh);
    namespaces_without_http(&mesh);
    mesh.down();
}

/// What curl prints, and the status.
fn fetch(mesh: &Mesh, words: &[&str]) -> String {
    let mut argv = vec!["curl", "--silent", "--max-time", "20", "--write-out", " %{http_code}"];
    argv.extend(words);
    String::from_utf8_lossy(&mesh.exec(CLIENT, &argv).unwrap().stdout).into_owned()
}

fn delegated(mesh: &Mesh) {
    for (path, name) in [("/part", "near"), ("/part/far/x", "far"), ("/other", "near")] {
        let text = fetch(mesh, &[&format!("http://10.96.0.3{path}")]);
        assert!(text.contains(&format!("\"name\":\"{name}\"")), "{path}: {text}");
    }
}

fn faults_of_grpc(mesh: &Mesh) {
    let grpc = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "--dump-header", "-"];
    let words: Vec<&str> = grpc.into_iter().chain(["http://10.96.0.3/grpc.Service/Method"]).collect();
    let text = fetch(mesh, &words).to_lowercase();
    assert!(text.starts_with("http/2 200") && text.contains("grpc-status: 8"), "{text}");
}

/// The server gets the ClientHello, and says that it is no TLS: who got a connection tells where it went.
fn by_server_name(mesh: &Mesh) {
    for (name, taker) in [("near.example", "app/near"), ("a.far.example", "app/far")] {
        let before = mesh.taken(taker);
        let (resolve, url) = (format!("{name}:443:10.96.0.6"), format!("https://{name}/"));
        let _ = mesh.exec(CLIENT, &["curl", "--silent", "--max-time", "20", "--resolve", &resolve, &url]).unwrap();
        wait_until(&format!("a connection for {name}"), PATIENCE, || Ok(mesh.taken(taker) == before + 1)).unwrap();
    }
}

fn by_address(mesh: &Mesh) {
    for (target, taker) in [("10.96.0.7:9000", "app/near"), ("[fd96::7]:9000", "app/far")] {
        let before = mesh.taken(taker);
        assert_eq!(mesh.outcome(CLIENT, target), "ok");
        wait_until(&format!("a connection to {target}"), PATIENCE, || Ok(mesh.taken(taker) == before + 1)).unwrap();
    }
}

/// No route, no field added: the connection is carried.
fn namespaces_without_http(mesh: &Mesh) {
    for (name, address) in [("near", "10.96.0.8"), ("far", "10.96.0.9")] {
        let text = fetch(mesh, &[&format!("http://{address}/whoami")]);
        assert!(text.contains(&format!("\"name\":\"{name}\"")) && !text.contains("x-request-id"), "{text}");
    }
}
