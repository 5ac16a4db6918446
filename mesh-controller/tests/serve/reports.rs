//! Captures: who is reached by HBONE, and how a pod leaves.

use mesh_controller::distribute::ResourceType::Address;
use mesh_policy::model::TunnelProtocol;
use mesh_proto::{
    convert::AddressResource,
    node::{CaptureRequest, CaptureResponse, CaptureState, SyncRequest, node_service_client::NodeServiceClient},
    xds::DeltaDiscoveryResponse,
};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::client::{Controller, DEADLINE, Node, addresses, eventually, pod};

const UID: &str = "Kubernetes//Pod/shop/a";

async fn capture(node: &Node, uid: &str, state: CaptureState) -> Result<CaptureResponse, Status> {
    let request = CaptureRequest { node: node.name.clone(), workload_uid: uid.into(), state: state.into() };
    let mut client = NodeServiceClient::new(node.channel.clone());
    client.capture(node.request(request)).await.map(tonic::Response::into_inner)
}

async fn sync(node: &Node, uids: &[&str]) -> Vec<String> {
    let request = SyncRequest { node: node.name.clone(), captured_workload_uids: uids.iter().map(ToString::to_string).collect() };
    let mut client = NodeServiceClient::new(node.channel.clone());
    client.sync(node.request(request)).await.unwrap().into_inner().unknown_workload_uids
}

/// Whether the response says this of the workload.
fn says(response: &DeltaDiscoveryResponse, wanted: TunnelProtocol) -> bool {
    let is = |found: &AddressResource| matches!(found, AddressResource::Workload(w) if &*w.uid.0 == UID && w.tunnel == wanted);
    addresses(response).iter().any(is)
}

fn tunnel(controller: &Controller) -> Option<TunnelProtocol> {
    controller.running().published.borrow().tunnel(UID)
}

#[tokio::test]
async fn hbone_is_withdrawn_before_the_capture_is_released() {
    let mut controller = Controller::start(&pod("shop", "a", "n1", "a", "10.0.0.1")).await;
    let (one, two) = (controller.node("n1").await, controller.node("n2").await);
    let (mut first, mut second) = (one.subscribe(Vec::new()).await, two.subscribe(Vec::new()).await);
    first.until(Address, |response| says(response, TunnelProtocol::None)).await;
    second.until(Address, |response| says(response, TunnelProtocol::None)).await;

    let reporter = one.clone();
    let joining = tokio::spawn(async move { capture(&reporter, UID, CaptureState::Captured).await });
    first.until(Address, |response| says(response, TunnelProtocol::Hbone)).await;
    second.until(Address, |response| says(response, TunnelProtocol::Hbone)).await;
    assert!(timeout(DEADLINE, joining).await.unwrap().unwrap().unwrap().acknowledged_by_all);
    let file = controller.status_file("Pod/shop/a.yaml");
    eventually("the pod's status says so", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("type: Captured") && text.contains("Reported"))
    })
    .await;

    let reporter = one.clone();
    let leaving = tokio::spawn(async move { capture(&reporter, UID, CaptureState::Releasing).await });
    first.until(Address, |response| says(response, TunnelProtocol::None)).await;
    let withdrawn = second.until_unanswered(Address, |response| says(response, TunnelProtocol::None)).await;
    // The first node's acknowledgement has been taken once it gets something newer.
    controller.write("more.yaml", &pod("shop", "b", "n1", "b", "10.0.0.2"));
    first.until(Address, |_| true).await;
    assert!(!leaving.is_finished(), "the second node has not acknowledged");
    second.acknowledge(&withdrawn).await;
    let answer = timeout(DEADLINE, leaving).await.unwrap().unwrap().unwrap();
    assert!(answer.acknowledged_by_all, "{answer:?}");
    controller.stop().await;
}

#[tokio::test]
async fn a_node_that_refuses_the_withdrawal_is_named() {
    let mut controller = Controller::start(&pod("shop", "a", "n1", "a", "10.0.0.1")).await;
    let (one, two) = (controller.node("n1").await, controller.node("n2").await);
    assert!(sync(&one, &[UID]).await.is_empty());
    let mut second = two.subscribe(Vec::new()).await;
    second.until(Address, |response| says(response, TunnelProtocol::Hbone)).await;
    let leaving = tokio::spawn(async move { capture(&one, UID, CaptureState::Releasing).await });
    let withdrawn = second.until_unanswered(Address, |response| says(response, TunnelProtocol::None)).await;
    second.refuse(&withdrawn, "no").await;
    let answer = timeout(DEADLINE, leaving).await.unwrap().unwrap().unwrap();
    assert_eq!((answer.acknowledged_by_all, answer.pending_nodes), (false, vec!["n2".to_owned()]));
    controller.stop().await;
}

#[tokio::test]
async fn a_report_counts_for_pods_of_the_own_node_alone() {
    let mut controller = Controller::start(&pod("shop", "a", "n1", "a", "10.0.0.1")).await;
    let (one, mut two) = (controller.node("n1").await, controller.node("n2").await);
    assert_eq!(sync(&two, &[UID, "Kubernetes//Pod/shop/none"]).await, [UID, "Kubernetes//Pod/shop/none"]);
    assert_eq!(tunnel(&controller), Some(TunnelProtocol::None));
    two.name = "n1".into();
    let refused = capture(&two, UID, CaptureState::Captured).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(capture(&one, UID, CaptureState::Unspecified).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(capture(&one, "", CaptureState::Captured).await.unwrap_err().code(), Code::InvalidArgument);

    assert!(sync(&one, &[UID]).await.is_empty());
    assert_eq!(tunnel(&controller), Some(TunnelProtocol::Hbone));
    controller.stop().await;
    controller.run().await;
    assert_eq!(tunnel(&controller), Some(TunnelProtocol::Hbone), "kept over a restart");
    let one = controller.node("n1").await;
    assert!(sync(&one, &[]).await.is_empty());
    assert_eq!(tunnel(&controller), Some(TunnelProtocol::None), "a node says all that it has");

    // A pod that the controller hears of later counts from then on.
    let late = tokio::spawn(async move { capture(&one, "Kubernetes//Pod/shop/late", CaptureState::Captured).await });
    controller.write("late.yaml", &pod("shop", "late", "n1", "a", "10.0.0.9"));
    assert!(timeout(DEADLINE, late).await.unwrap().unwrap().unwrap().acknowledged_by_all);
    controller.stop().await;
}
