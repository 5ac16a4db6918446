//! From an edit to the nodes, and what objects are told.

use std::{collections::BTreeSet, fs};

use mesh_controller::distribute::ResourceType::{Address, Authorization, Mesh};
use mesh_proto::{
    node::{SyncRequest, node_service_client::NodeServiceClient},
    xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::{Controller, addresses, eventually, names, pod, policy};

#[tokio::test]
async fn an_edit_arrives_as_a_difference() {
    let mut controller = Controller::start(&(pod("shop", "a", "n1", "a", "10.0.0.1") + &policy("p1", "{}"))).await;
    let node = controller.node("n1").await;
    let mut stream = node.subscribe(Vec::new()).await;
    let mesh = stream.until(Mesh, |_| true).await;
    assert_eq!(names(&mesh), ["mesh"]);
    let policies = stream.until(Authorization, |_| true).await;
    assert_eq!(names(&policies), ["shop/p1"]);
    let first = stream.until(Address, |_| true).await;
    assert_eq!(names(&first), ["Kubernetes//Pod/shop/a"]);
    assert_eq!(addresses(&first).len(), 1);

    controller.write("more.yaml", &pod("shop", "b", "n1", "b", "10.0.0.2"));
    let second = stream.until(Address, |_| true).await;
    assert_eq!(names(&second), ["Kubernetes//Pod/shop/b"], "only what changed");
    fs::remove_file(controller.folder.path().join("more.yaml")).unwrap();
    let third = stream.until(Address, |_| true).await;
    assert_eq!(third.removed_resources, ["Kubernetes//Pod/shop/b"]);

    let mut held: Vec<(String, String)> =
        first.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
    held.push(("Kubernetes//Pod/shop/gone".into(), "any".into()));
    drop(stream);
    controller.stop().await;
    controller.write("more.yaml", &pod("shop", "c", "n1", "c", "10.0.0.3"));
    controller.run().await;
    let node = controller.node("n1").await;
    let mut stream = node.subscribe(held).await;
    let again = stream.until(Address, |_| true).await;
    assert_eq!(names(&again), ["Kubernetes//Pod/shop/c"], "over a restart of the controller too");
    assert_eq!(again.removed_resources, ["Kubernetes//Pod/shop/gone"]);
    controller.stop().await;
}

#[tokio::test]
async fn a_refusal_is_counted_and_the_stream_goes_on() {
    let mut controller = Controller::start(&pod("shop", "a", "n1", "a", "10.0.0.1")).await;
    let mut stream = controller.node("n1").await.subscribe(Vec::new()).await;
    let response = stream.until_unanswered(Address, |_| true).await;
    stream.refuse(&response, "not understood").await;
    let admin = controller.running().admin;
    let metric = "keelson_controller_xds_nacks_total{resource=\"Address\"} 1";
    loop {
        if get(admin, "/metrics").await.1.contains(metric) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    controller.write("more.yaml", &pod("shop", "b", "n1", "b", "10.0.0.2"));
    let next = stream.until(Address, |_| true).await;
    assert_eq!(names(&next), ["Kubernetes//Pod/shop/b"], "what was refused is not repeated");
    controller.stop().await;
}

#[tokio::test]
async fn nobody_is_served_without_a_valid_token() {
    let mut controller = Controller::start("").await;
    let mut node = controller.node("n1").await;
    let mut stream = node.subscribe(Vec::new()).await;
    stream.until(Mesh, |_| true).await;

    let good = node.token.clone();
    for bad in ["", "x", &format!("{}.n1", "0".repeat(64))] {
        node.token = bad.into();
        let mut discovery = AggregatedDiscoveryServiceClient::new(node.channel.clone());
        let (_requests, outgoing) = tokio::sync::mpsc::channel(1);
        let refused = discovery.delta_aggregated_resources(node.request(ReceiverStream::new(outgoing))).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
        let mut reports = NodeServiceClient::new(node.channel.clone());
        let refused = reports.sync(node.request(SyncRequest { node: "n1".into(), captured_workload_uids: vec![] })).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    // Revoking ends open streams too.
    node.token = good;
    fs::remove_file(controller.state.path().join("tokens/n1")).unwrap();
    let ended = loop {
        match stream.responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the reason is told"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
    controller.stop().await;
}

#[tokio::test]
async fn objects_are_told_what_becomes_of_them() {
    let good = policy("p", "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}");
    let mut controller = Controller::start(&pod("shop", "a", "n1", "a", "10.0.0.1")).await;
    controller.write("p.yaml", &good);
    let mut stream = controller.node("n1").await.subscribe(Vec::new()).await;
    stream.until(Authorization, |response| names(response) == ["shop/p"]).await;
    let file = controller.status_file("AuthorizationPolicy/shop/p.yaml");
    let says = |text: &str| fs::read_to_string(&file).is_ok_and(|found| found.contains(text));
    eventually("accepted", || says("reason: Accepted")).await;

    // A refused version changes nothing but the status, also after a restart.
    controller.write("p.yaml", &good.replace("ports", "porst"));
    eventually("refused", || says("reason: Invalid") && says("spec.rules[0].to[0].operation.porst")).await;
    let published = controller.running().published.clone();
    let policies = |published: &mesh_controller::distribute::Published| published.model.policies.len();
    assert_eq!(policies(&published.borrow()), 1);
    controller.stop().await;
    controller.run().await;
    assert_eq!(policies(&controller.running().published.borrow()), 1, "the last good version is still known");

    controller.write("p.yaml", "a: [");
    let errors = controller.status_file("errors.yaml");
    eventually("the file's error", || fs::read_to_string(&errors).is_ok_and(|text| text.contains("p.yaml"))).await;
    fs::remove_file(controller.folder.path().join("p.yaml")).unwrap();
    eventually("no status without an object", || !file.exists() && !errors.exists()).await;
    assert!(!controller.status_file("AuthorizationPolicy").exists());
    controller.stop().await;
}

#[tokio::test]
async fn the_admin_endpoint_shows_what_there_is() {
    let mut controller = Controller::start(&(pod("shop", "a", "n1", "a", "10.0.0.1") + &policy("p", "{}"))).await;
    let admin = controller.running().admin;
    assert_eq!(get(admin, "/ready").await, (200, "ready\n".into()));
    assert_eq!(get(admin, "/nothing").await.0, 404);
    let (_, metrics) = get(admin, "/metrics").await;
    for name in ["connected_nodes", "rejected_objects", "sign_errors_total", "reconcile_seconds_count"] {
        assert!(metrics.contains(&format!("keelson_controller_{name}")), "{name}");
    }
    let (_, dump) = get(admin, "/debug/config").await;
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["workloads"][0]["uid"], "Kubernetes//Pod/shop/a");
    assert_eq!(dump["policies"][0]["action"], "Allow");
    let mut stream = controller.node("n1").await.subscribe(Vec::new()).await;
    stream.until(Address, |_| true).await;
    assert_eq!(controller.running().nodes.names(), BTreeSet::from(["n1".to_owned()]));
    controller.stop().await;
}

async fn get(admin: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}
