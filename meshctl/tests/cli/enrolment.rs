//! Pods join and leave.

use mesh_proto::enrol::{EnrolRequest, UnenrolRequest};

use crate::machine::{Answers, Machine};

const POD: &str = "enrol --netns /run/netns/p -n shop --name client";

fn unenrolled(uid: &str) -> String {
    format!("{:?}", UnenrolRequest { workload_uid: uid.into(), ..UnenrolRequest::default() })
}

#[tokio::test]
async fn a_pod_is_described_whole() {
    let machine = Machine::new();
    let one = machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
    let said = machine.run(&format!("{POD} --service-account shop-client --ip 10.40.1.2 --ip fd40:1::2")).await.succeeded();
    assert_eq!(said, "shop/client is captured on node-1\n");
    let socket = machine.path("lab/demo/nodes/node-1/enrol.sock");
    machine.run(&format!("{POD} --ip 10.40.1.2,fd40:1::2 --running --uid u//v --socket {}", socket.display())).await.succeeded();

    let first = EnrolRequest {
        workload_uid: "Kubernetes//Pod/shop/client".into(),
        namespace: "shop".into(),
        name: "client".into(),
        service_account: "shop-client".into(),
        netns_path: "/run/netns/p".into(),
        addresses: vec!["10.40.1.2".into(), "fd40:1::2".into()],
        ..EnrolRequest::default()
    };
    let second = EnrolRequest { workload_uid: "u//v".into(), service_account: "default".into(), running: true, ..first.clone() };
    assert_eq!(one.all(), [format!("{first:?}"), format!("{second:?}")]);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let machine = Machine::new();
    let told = machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
    let error = machine.run("enrol --netns /run/netns/p -n shop --name refused --ip 10.0.0.1").await.failed();
    assert_eq!(error, "error: node-1 did not enrol shop/refused: it is not the pod's own network namespace\n");
    assert!(told.all().is_empty());
    machine.leave_behind("gone");
    let gone = machine.path("gone");
    let error = machine.run(&format!("{POD} --ip 10.0.0.1 --socket {}", gone.display())).await.failed();
    assert_eq!(error, "error: there is no socket [run]/gone/enrol.sock: is a node proxy running there?\n");
}

#[tokio::test]
async fn the_node_of_a_new_pod_must_be_clear() {
    let machine = Machine::with_demo();
    let error = machine.run(&format!("{POD} --ip 10.0.0.1")).await.failed();
    assert!(error.contains("--node NAME") && error.contains("node-1, node-2"), "{error}");
    let said = machine.run(&format!("{POD} --ip 10.0.0.1 --node node-2 -o json")).await.succeeded();
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    let expected = serde_json::json!({ "uid": "Kubernetes//Pod/shop/client", "node": "node-2", "state": "Captured" });
    assert_eq!(value, expected);
}

#[tokio::test]
async fn a_pod_is_let_go_where_it_is() {
    let machine = Machine::new();
    let one = machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
    let two = machine.start("lab/demo/nodes/node-2", Answers::fixture("node-2"));
    let said = machine.run("unenrol shop/page --node node-2").await.succeeded();
    assert_eq!(said, "shop/page is let go on node-2\n");
    machine.run("unenrol cluster-7//Pod/shop/page").await.succeeded();
    machine.run("unenrol --uid u//gone --node node-1").await.succeeded();
    machine.run("unenrol shop/gone --node node-1").await.succeeded();
    let error = machine.run("unenrol shop/gone").await.failed();
    assert_eq!(error, "error: shop/gone is captured on none of node-1, node-2\n");

    assert_eq!(two.all(), [unenrolled("cluster-7//Pod/shop/page")]);
    assert_eq!(one.all(), ["cluster-7//Pod/shop/page", "u//gone", "Kubernetes//Pod/shop/gone"].map(unenrolled));
}
