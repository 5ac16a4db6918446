//! What is asked of a node as a whole, and what it is told.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::machine::{Answers, Machine};

#[tokio::test]
async fn status() {
    let machine = Machine::with_demo();
    machine.leave_behind("lab/demo/nodes/node-3");
    insta::assert_snapshot!("status", machine.run("status").await.all());
    let ran = machine.run("status -o json").await;
    let values: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(values[0], Answers::fixture("node-1").status);
    assert_eq!(values[2]["node"], "node-3");
    assert!(values[2]["error"].as_str().unwrap().contains("the node proxy has ended"), "{values}");
}

#[tokio::test]
async fn dumps_come_one_after_another() {
    let machine = Machine::with_demo();
    let json = machine.run("config-dump").await.succeeded();
    let dumps: Vec<Value> = serde_json::Deserializer::from_str(&json).into_iter().map(Result::unwrap).collect();
    assert_eq!(dumps, ["node-1", "node-2"].map(|node| Answers::fixture(node).dump));
    let yaml = machine.run("config-dump -o yaml").await.succeeded();
    assert_eq!(yaml.lines().filter(|line| *line == "---").count(), 1);
}

#[tokio::test]
async fn the_log_is_shown_and_changed() {
    let machine = Machine::new();
    let one = machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
    let two = machine.start("lab/demo/nodes/node-2", Answers::fixture("node-2"));
    assert_eq!(machine.run("log").await.succeeded(), "NODE     LOG\nnode-1   info\nnode-2   info\n");
    assert_eq!(one.all(), Vec::<String>::new());

    machine.run("log mesh_node::hbone=debug,access=off").await.succeeded();
    machine.run("log reset --node node-2").await.succeeded();
    assert_eq!(one.all(), ["/logging?level=mesh_node::hbone=debug,access=off"]);
    assert_eq!(two.all(), ["/logging?level=mesh_node::hbone=debug,access=off", "/logging?reset"]);

    let refused = machine.run("log trace --node node-1").await.failed();
    assert!(refused.contains("400 Bad Request: too much"), "{refused}");
    let ran = machine.run("log dbug").await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
}

#[tokio::test]
async fn nodes_drain_only_when_named() {
    let machine = Machine::new();
    let one = machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
    let two = machine.start("lab/demo/nodes/node-2", Answers::fixture("node-2"));
    let refused = machine.run("drain").await.failed();
    assert!(refused.contains("node-1, node-2"), "{refused}");
    assert_eq!((one.all().len(), two.all().len()), (0, 0));

    assert_eq!(machine.run("drain --node node-2").await.succeeded(), "NODE     STATE\nnode-2   draining\n");
    assert_eq!((one.all(), two.all()), (vec![], vec!["/drain".to_owned()]));
    machine.run("drain --all").await.succeeded();
    assert_eq!((one.all().len(), two.all().len()), (1, 2));
}

#[tokio::test]
async fn the_version_needs_no_node() {
    let machine = Machine::new();
    let own = env!("CARGO_PKG_VERSION");
    let table = machine.run("version").await.succeeded();
    assert_eq!(table, format!("PROGRAM   NODE   VERSION\nmeshctl   -      {own}\n"));
    machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
    let found: Value = serde_json::from_str(&machine.run("version -o json").await.succeeded()).unwrap();
    let node = json!({ "program": "mesh-node", "node": "node-1", "version": "0.1.0" });
    assert_eq!(found, json!([{ "program": "meshctl", "version": own }, node]));
    machine.run("version --node nobody").await.failed();
}

#[tokio::test]
async fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Machine::new().run(&format!("completion {shell}")).await.succeeded();
        assert!(script.contains("config-dump") && script.contains("unenrol"), "{shell}");
    }
}

/// As in `meshctl config-dump | head -1`.
#[tokio::test]
async fn a_reader_that_leaves_is_no_failure() {
    let machine = Machine::new();
    let mut answers = Answers::fixture("node-1");
    // More than a pipe holds, so that the program is still writing when its reader leaves.
    answers.dump["filler"] = vec!["many bytes"; 100_000].into();
    machine.start("lab/demo/nodes/node-1", answers);
    let mut child = machine.command("config-dump").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("{"));
    drop(lines);
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).await.unwrap();
    assert_eq!((child.wait().await.unwrap().code(), complaint.as_str()), (Some(0), ""));
}
