//! Who is asked, request by request, through the real kernel path: by a query parameter, by nearness, with care for newcomers, and
//! with retries kept within a budget.

#![allow(clippy::unwrap_used, reason = "tests")]

use harness::wait_until;
use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::{Value, json};

const CLIENT: &str = "app/client";
const SPREAD: &str = "10.96.0.1";
const CLOSE: &str = "10.96.0.2";
const MUTE: &str = "10.96.0.3";
const RATINGS: [&str; 2] = ["shop", "ratings"];
/// Listens, and takes nothing.
const TAKES_NOTHING: &str = "import socket, time; s = socket.create_server(('::', 9080), family=socket.AF_INET6, \
                             dualstack_ipv6=True, backlog=4096); time.sleep(100000)";

fn server(name: &str, service: &str, at: &str) -> String {
    pod(&format!("app/{name}"), at).app(service).runs(&RATINGS, Some(9080)).document()
}

fn documents() -> Vec<String> {
    let ports = &[("http", 80, 9080)];
    let close = service_with("app", "close", 2, ports);
    let mut close: Value = serde_json::from_str(close.trim_start_matches("---\n")).unwrap();
    close["spec"]["trafficDistribution"] = "PreferSameNode".into();
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(CLIENT, "node-1").idle().document(),
        server("near", "spread", "node-1"),
        server("far", "spread", "node-2"),
        service_with("app", "spread", 1, ports),
        server("close-near", "close", "node-1"),
        server("close-far", "close", "node-2"),
        format!("---\n{close}\n"),
        pod("app/mute", "node-2").runs(&["python3", "-c", TAKES_NOTHING], Some(9080)).document(),
        service_with("app", "mute", 3, ports),
    ]
}

#[test]
fn requests_go_where_balancing_sends_them() {
    let mesh = Mesh::up(&documents());
    wait_until("both endpoints", PATIENCE, || {
        Ok(["near", "far"].iter().all(|name| asked(&mesh, SPREAD, 12).contains(&(*name).to_owned())))
    })
    .unwrap();
    by_query(&mesh);
    by_priority(&mesh);
    on_the_same_node(&mesh);
    newcomers_warm_up(&mesh);
    retries_have_a_budget(&mesh);
    without_requests(&mesh);
    mesh.down();
}

/// The pod that answers a request, or the status of the answer.
fn who(mesh: &Mesh, address: &str, query: &str) -> String {
    let url = format!("http://{address}/whoami{query}");
    let words = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", &url];
    let text = String::from_utf8_lossy(&mesh.exec(CLIENT, &words).unwrap().stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    let found: Option<Value> = serde_json::from_str(body).ok().filter(|_| status == "200");
    found.map_or_else(|| status.to_owned(), |found| found["instance"]["pod"].as_str().unwrap().to_owned())
}

fn asked(mesh: &Mesh, address: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| who(mesh, address, "")).collect()
}

fn destination_rule(service: &str, policy: &Value) -> String {
    let metadata = json!({ "name": service, "namespace": "app" });
    let spec = json!({ "host": service, "trafficPolicy": policy });
    format!(
        "---\n{}\n",
        json!({ "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata, "spec": spec })
    )
}

fn virtual_service(service: &str, rule: &Value) -> String {
    let mut rule = rule.clone();
    rule["route"] = json!([{ "destination": { "host": service } }]);
    let metadata = json!({ "name": service, "namespace": "app" });
    let spec = json!({ "hosts": [service], "http": [rule] });
    format!(
        "{}\n",
        json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": spec })
    )
}

/// Each value of the parameter has an endpoint of its own, and both endpoints have some.
fn by_query(mesh: &Mesh) {
    let hash = json!({ "loadBalancer": { "consistentHash": { "httpQueryParameterName": "user" } } });
    mesh.put("rules.yaml", &destination_rule("spread", &hash));
    let of = |user: usize| who(mesh, SPREAD, &format!("?a=b&user={user}"));
    let stays = |user: usize| {
        let first = of(user);
        (0..3).all(|_| of(user) == first).then_some(first)
    };
    wait_until("each user to have one endpoint", PATIENCE, || {
        let homes: Option<Vec<String>> = (0..12).map(stays).collect();
        Ok(homes.is_some_and(|homes| ["near", "far"].iter().all(|name| homes.iter().any(|home| home == name))))
    })
    .unwrap();
    mesh.take_away("rules.yaml");
}

/// The endpoint that shares the client's label is asked as long as it is there.
fn by_priority(mesh: &Mesh) {
    mesh.put("extra.yaml", &server("nearer", "spread", "node-1"));
    let locality = json!({ "enabled": true, "failoverPriority": ["kubernetes.io/hostname"] });
    let outliers = json!({ "consecutive5xxErrors": 5 });
    mesh.put(
        "rules.yaml",
        &destination_rule("spread", &json!({ "loadBalancer": { "localityLbSetting": locality }, "outlierDetection": outliers })),
    );
    let near_alone = || {
        let found = asked(mesh, SPREAD, 16);
        ["near", "nearer"].iter().all(|name| found.iter().any(|pod| pod == name)) && !found.iter().any(|pod| pod == "far")
    };
    wait_until("those of the client's node alone to be asked", PATIENCE, || Ok(near_alone())).unwrap();
    mesh.take_away("rules.yaml");
    wait_until("all to be asked", PATIENCE, || Ok(asked(mesh, SPREAD, 16).iter().any(|pod| pod == "far"))).unwrap();
    mesh.take_away("extra.yaml");
    wait_until("the third to be gone", PATIENCE, || Ok(!asked(mesh, SPREAD, 12).iter().any(|pod| pod == "nearer"))).unwrap();
}

/// By the Service alone, and for each request.
fn on_the_same_node(mesh: &Mesh) {
    let found = asked(mesh, CLOSE, 24);
    assert!(found.iter().all(|pod| pod == "close-near"), "{found:?}");
}

/// A newcomer has a tenth of a share at first, and its whole share where no warm-up is asked for.
fn newcomers_warm_up(mesh: &Mesh) {
    let warmup = json!({ "duration": "3600s", "minimumPercent": 10, "aggression": 1 });
    mesh.put(
        "rules.yaml",
        &destination_rule("spread", &json!({ "loadBalancer": { "simple": "ROUND_ROBIN", "warmup": warmup } })),
    );
    // The rule is there before the newcomer is: whoever is known when it begins is warm.
    wait_until("the rule", PATIENCE, || {
        let found = asked(mesh, SPREAD, 2);
        Ok(mesh.object_status("DestinationRule", "app", "spread").contains("Accepted") && found.len() == 2)
    })
    .unwrap();
    asked(mesh, SPREAD, 8);
    mesh.put("extra.yaml", &server("newcomer", "spread", "node-2"));
    let share = |count: usize| asked(mesh, SPREAD, count).iter().filter(|pod| *pod == "newcomer").count();
    wait_until("the newcomer to be asked", PATIENCE, || Ok(share(20) > 0)).unwrap();
    // Five of a hundred are its share now; a third of them would be without.
    let warming = share(100);
    assert!(warming <= 16, "{warming} of 100 requests went to an endpoint that has just come");
    mesh.take_away("rules.yaml");
    wait_until("the newcomer to have its share", PATIENCE, || Ok(share(30) >= 6)).unwrap();
    mesh.take_away("extra.yaml");
    wait_until("the newcomer to be gone", PATIENCE, || Ok(share(12) == 0)).unwrap();
}

/// Of many requests that want to be tried again at the same moment one is, and the others are answered.
fn retries_have_a_budget(mesh: &Mesh) {
    let budget = json!({ "retryBudget": { "percent": 0.0, "minRetryConcurrency": 1 } });
    let retries = json!({ "retries": { "attempts": 3, "perTryTimeout": "0.3s", "retryOn": "gateway-error" } });
    let refused = || mesh.metric("node-1", "keelson_upstream_overflow_total", &["pod=\"client\"", "resource=\"rq_retry\""]);
    let url = format!("http://{MUTE}/");
    let together = || {
        let many =
            [&["curl", "--silent", "--parallel", "--parallel-immediate", "--max-time", "20"][..], &[url.as_str(); 12]].concat();
        mesh.exec(CLIENT, &many).unwrap();
    };
    mesh.put("rules.yaml", &virtual_service("mute", &retries));
    together();
    assert!(refused() < 1.0, "no budget is set");
    mesh.put("rules.yaml", &(virtual_service("mute", &retries) + &destination_rule("mute", &budget)));
    wait_until("retries past the budget to be refused", PATIENCE, || {
        together();
        Ok(refused() >= 8.0)
    })
    .unwrap();
    mesh.take_away("rules.yaml");
}

/// The mesh turns requests off, and on again.
fn without_requests(mesh: &Mesh) {
    mesh.put(
        "rules.yaml",
        &virtual_service("spread", &json!({ "fault": { "abort": { "percentage": { "value": 100 }, "httpStatus": 418 } } })),
    );
    let becomes = |wanted: &str, what: &str| {
        wait_until(what, PATIENCE, || Ok(asked(mesh, SPREAD, 3).iter().all(|found| (found == "418") == (wanted == "418"))))
            .unwrap();
    };
    becomes("418", "the fault");
    let metadata = json!({ "name": "istio", "namespace": "istio-system", "annotations": { "keelson.io/http": "disabled" } });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "mesh": "" } });
    mesh.put("mesh.yaml", &format!("{map}\n"));
    becomes("200", "connections that carry bytes");
    mesh.take_away("mesh.yaml");
    becomes("418", "the fault again");
    mesh.take_away("rules.yaml");
}
