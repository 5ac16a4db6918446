//! Endpoints that fail, behind one service with one that does not, through the real kernel path: once the good one is on the
//! client's node and the bad one on the other, and once the other way round.

#![allow(clippy::unwrap_used, reason = "tests")]

use harness::wait_until;
use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};

const CLIENT: &str = "app/client";
const NEIGHBOR: &str = "app/neighbor";
/// By who of both is good: of those whose bad one answers 500, and of those whose bad one never answers.
const FAILING: [(&str, &str); 2] = [("good-near", "10.96.0.1"), ("good-far", "10.96.0.2")];
const SILENT: [(&str, &str); 2] = [("live-near", "10.96.0.3"), ("live-far", "10.96.0.4")];

/// Listens, and takes nothing.
const MUTE: &str = "import socket, time; s = socket.create_server(('::', 9080), family=socket.AF_INET6, \
                    dualstack_ipv6=True, backlog=4096); time.sleep(100000)";

fn documents() -> Vec<String> {
    const RATINGS: [&str; 2] = ["shop", "ratings"];
    let server = |service: &str, kind: &str, at: &str, command: &[&str]| {
        pod(&format!("app/{service}-{kind}"), at).app(service).runs(command, Some(9080)).document()
    };
    let mut documents = vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(CLIENT, "node-1").idle().document(),
        pod(NEIGHBOR, "node-1").idle().document(),
    ];
    let nodes = [("node-1", "node-2"), ("node-2", "node-1")];
    for ((name, _), (good, bad)) in FAILING.into_iter().zip(nodes) {
        documents.push(server(name, "good", good, &RATINGS));
        documents.push(server(name, "bad", bad, &["shop", "ratings", "--fail", "500"]));
    }
    for ((name, _), (good, bad)) in SILENT.into_iter().zip(nodes) {
        documents.push(server(name, "good", good, &RATINGS));
        documents.push(server(name, "bad", bad, &["python3", "-c", MUTE]));
    }
    for (host, (name, _)) in (1..).zip(FAILING.into_iter().chain(SILENT)) {
        documents.push(service_with("app", name, host, &[("http", 80, 9080)]));
    }
    documents
}

#[test]
fn failing_endpoints_are_got_round() {
    let mesh = Mesh::up(&documents());
    for (_, address) in FAILING {
        wait_until("both endpoints", PATIENCE, || {
            let seen: Vec<_> = (0..8).map(|_| status(&mesh, CLIENT, address, "x")).collect();
            Ok(["200", "500"].iter().all(|status| seen.iter().any(|found| found == status)))
        })
        .unwrap();
    }
    a_retry_leaves_the_key_s_endpoint(&mesh);
    a_try_has_its_own_time(&mesh);
    outliers_are_each_client_s_own(&mesh);
    mesh.down();
}

/// What fails otherwise is asked again: no request is waited for long.
fn status(mesh: &Mesh, client: &str, address: &str, key: &str) -> String {
    let (key, url) = (format!("x-key: {key}"), format!("http://{address}/ratings/0"));
    let words = ["curl", "--silent", "--output", "/dev/null", "--max-time", "4", "--write-out", "%{http_code}", "-H", &key, &url];
    String::from_utf8_lossy(&mesh.exec(client, &words).unwrap().stdout).into_owned()
}

/// So many requests in a row are served.
fn all_served(mesh: &Mesh, address: &str, count: usize) -> bool {
    (0..count).all(|number| status(mesh, CLIENT, address, &number.to_string()) == "200")
}

fn virtual_service(name: &str, retries: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: app}}\n\
         spec: {{hosts: [{name}], http: [{{retries: {retries}, route: [{{destination: {{host: {name}}}}}]}}]}}\n"
    )
}

fn destination_rule(name: &str, policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: app}}\n\
         spec: {{host: {name}, trafficPolicy: {policy}}}\n"
    )
}

/// With consistent hashing, too, a retry goes to another endpoint, unless it is told to stay.
fn a_retry_leaves_the_key_s_endpoint(mesh: &Mesh) {
    let hash = "{loadBalancer: {consistentHash: {httpHeaderName: x-key}}}";
    for (name, address) in FAILING {
        let with = |retries: &str| mesh.put("rules.yaml", &(virtual_service(name, retries) + &destination_rule(name, hash)));
        with("{attempts: 1, retryOn: '5xx'}");
        wait_until(&format!("every key of {name} to be served"), PATIENCE, || Ok(all_served(mesh, address, 16))).unwrap();
        with("{attempts: 1, retryOn: '5xx', retryIgnorePreviousHosts: false}");
        wait_until("retries to stay", PATIENCE, || Ok(!all_served(mesh, address, 16))).unwrap();
        let failing = (0..16).find(|key| status(mesh, CLIENT, address, &key.to_string()) == "500").unwrap().to_string();
        for _ in 0..5 {
            assert_eq!(status(mesh, CLIENT, address, &failing), "500", "another endpoint had the key {failing}");
        }
    }
    mesh.take_away("rules.yaml");
}

/// An endpoint that does not answer costs `perTryTimeout`, not the request.
fn a_try_has_its_own_time(mesh: &Mesh) {
    for (name, address) in SILENT {
        mesh.put("rules.yaml", &virtual_service(name, "{attempts: 3, perTryTimeout: 0.1s, retryOn: gateway-error}"));
        wait_until(&format!("every request to {name} to be served"), PATIENCE, || Ok(all_served(mesh, address, 12))).unwrap();
    }
    mesh.take_away("rules.yaml");
}

/// What a client has seen fail is left out for it, and for nobody else: no pod can eject an endpoint for its neighbors.
fn outliers_are_each_client_s_own(mesh: &Mesh) {
    let policy = "{outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}}";
    for (name, address) in FAILING {
        mesh.put("rules.yaml", &destination_rule(name, policy));
        wait_until(&format!("the bad one of {name} to be out"), PATIENCE, || Ok(all_served(mesh, address, 16))).unwrap();
        let seen: Vec<_> = (0..16).map(|_| status(mesh, NEIGHBOR, address, "x")).collect();
        // One failure, and it is out for the neighbor as well.
        assert_eq!(seen.iter().filter(|status| *status == "500").count(), 1, "{seen:?}");
        assert!(all_served(mesh, address, 8));
    }
    mesh.take_away("rules.yaml");
}
