//! Tables and their JSON.

use std::fmt::Write as _;

use serde_json::Value;

use crate::machine::{Answers, Machine};

/// Snapshots what the commands print on the demo machine.
async fn check(name: &str, commands: &[&str]) {
    let machine = Machine::with_demo();
    let mut text = String::new();
    for command in commands {
        let ran = machine.run(command).await;
        writeln!(text, "$ meshctl {command}\n{}\n", ran.all()).unwrap();
    }
    insta::assert_snapshot!(name, text);
}

#[tokio::test]
async fn workloads() {
    check("workloads", &["workloads", "workloads -n ops", "workloads reviews", "workloads ops/mon", "workloads nobody"]).await;
}

#[tokio::test]
async fn services() {
    check("services", &["services", "service reviews.shop.svc.cluster.local", "services -n bank", "services -n bank page"]).await;
}

#[tokio::test]
async fn policies() {
    check("policies", &["policies", "policies -n shop no-client -o yaml"]).await;
}

#[tokio::test]
async fn connections() {
    check("connections", &["connections", "connections --node node-2", "connections client", "connections -n ops"]).await;
}

#[tokio::test]
async fn certificates() {
    check("certificates", &["certificates", "certificates shop-page"]).await;
}

#[tokio::test]
async fn pods() {
    check("pods", &["pods", "pods --node node-1 page"]).await;
}

#[tokio::test]
async fn json_has_every_field_and_the_node() {
    let machine = Machine::with_demo();
    let fixture = Answers::fixture("node-1");
    let json = async |command: &str| -> Vec<Value> { serde_json::from_str(&machine.run(command).await.succeeded()).unwrap() };

    let workloads = json("workloads page -o json").await;
    assert_eq!(workloads, [fixture.dump["workloads"][1].clone()]);

    let mut connection = fixture.connections[0].clone();
    connection["node"] = "node-1".into();
    assert_eq!(json("connections -o json").await[0], connection);
    let none = machine.run("connections -n nowhere -o json").await;
    assert_eq!((none.out.as_str(), none.code), ("[]\n", Some(0)));
}

#[tokio::test]
async fn nodes_that_differ_are_pointed_out() {
    let machine = Machine::new();
    let one = Answers::fixture("node-1");
    let mut two = Answers::fixture("node-2");
    let workloads = two.dump["workloads"].as_array_mut().unwrap();
    workloads.retain(|workload| workload["name"] != "page");
    let client = workloads.iter_mut().find(|workload| workload["name"] == "client").unwrap();
    client["workloadIps"] = serde_json::json!(["10.40.1.77"]);
    machine.start("lab/demo/nodes/node-1", one);
    machine.start("lab/demo/nodes/node-2", two);

    insta::assert_snapshot!("difference", machine.run("workloads -n shop").await.all());
    let same = machine.run("workloads -n ops").await.succeeded();
    assert!(!same.contains("ON NODES"), "{same}");
    let ran = machine.run("workloads page -o json").await;
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found[0]["onNodes"], serde_json::json!(["node-1"]));
    assert!(ran.err.contains("only on node-1"), "{}", ran.err);
}
