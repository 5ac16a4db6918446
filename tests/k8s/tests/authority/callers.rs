//! Tokens of service accounts, and what they open.

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use mesh_proto::{
    ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    node::{SyncRequest, node_service_client::NodeServiceClient},
    xds::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::surroundings::{Surroundings, with_token};

/// As the kubelet asks for projected tokens; `pod`: what it is bound to.
async fn token(found: &Surroundings, account: &str, audience: &str, pod: Option<&Pod>) -> String {
    let bound = pod.map(|pod| json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid }));
    let request = json!({ "spec": { "audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound } });
    let request: TokenRequest = serde_json::from_value(request).unwrap();
    let api = Api::<ServiceAccount>::namespaced(found.client.clone(), &found.namespace);
    api.create_token_request(account, &PostParams::default(), &request).await.unwrap().status.unwrap().token
}

async fn sync(channel: &Channel, token: &str, node: &str) -> Result<(), Status> {
    let request = SyncRequest { node: node.into(), captured_workload_uids: Vec::new() };
    NodeServiceClient::new(channel.clone()).sync(with_token(request, token)).await.map(drop)
}

async fn certificate(channel: &Channel, token: &str, identity: &str) -> Result<Vec<String>, Status> {
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let fields = [("ImpersonatedIdentity".to_owned(), Value { kind: Some(Kind::StringValue(identity.into())) })];
    let request = IstioCertificateRequest { csr, validity_duration: 600, metadata: Some(Struct { fields: fields.into() }) };
    let mut client = IstioCertificateServiceClient::new(channel.clone());
    client.create_certificate(with_token(request, token)).await.map(|answer| answer.into_inner().cert_chain)
}

#[tokio::test]
async fn a_node_is_who_the_api_server_says() {
    let found = Surroundings::new().await;
    found.make_account("keelson-node").await;
    found.make_account("page").await;
    let own = found.make_pod("node", "keelson-node").await;
    let page = found.make_pod("page", "page").await;
    let controller = found.controller("one").await;
    controller.is_elected().await;
    let channel = found.channel(&controller).await;
    let node = &*found.node;

    let good = token(&found, "keelson-node", "keelson", Some(&own)).await;
    sync(&channel, &good, node).await.unwrap();
    let elsewhere = sync(&channel, &good, "another").await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::PermissionDenied, "{elsewhere}");

    let refused = async |token: &str| sync(&channel, token, node).await.unwrap_err();
    let audience = refused(&token(&found, "keelson-node", "istio-ca", Some(&own)).await).await;
    assert!(audience.code() == Code::Unauthenticated && audience.message().contains("istio-ca"), "{audience}");
    let account = refused(&token(&found, "page", "keelson", Some(&page)).await).await;
    assert!(account.code() == Code::PermissionDenied && account.message().contains(":page"), "{account}");
    let unbound = refused(&token(&found, "keelson-node", "keelson", None).await).await;
    assert!(unbound.code() == Code::Unauthenticated && unbound.message().contains("bound to the node's pod"), "{unbound}");
    // The first letter of the signature: the last has bits that do not count.
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = refused(&format!("{signed}.{other}{}", &signature[1..])).await;
    assert_eq!(forged.code(), Code::Unauthenticated, "{forged}");

    // Certificates for the identities of pods on this node, and for no others.
    let identity = |account: &str| format!("spiffe://cluster.local/ns/{}/sa/{account}", found.namespace);
    assert_eq!(certificate(&channel, &good, &identity("page")).await.unwrap().len(), 2);
    let nobody = certificate(&channel, &good, &identity("nobody")).await.unwrap_err();
    assert_eq!(nobody.code(), Code::PermissionDenied, "{nobody}");

    // With the pod go its streams and its token.
    let (requests, outgoing) = mpsc::channel(1);
    let subscribe = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/istio.workload.Address".into(),
        resource_names_subscribe: vec!["*".into()],
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(subscribe).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let mut stream =
        client.delta_aggregated_resources(with_token(ReceiverStream::new(outgoing), &good)).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("a first response");
    found.pods().delete("node", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    let ended = timeout(crate::wait::DEADLINE, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the reason is told"),
                Err(status) => break status,
            }
        }
    });
    assert_eq!(ended.await.unwrap().code(), Code::Unauthenticated);
    assert_eq!(refused(&good).await.code(), Code::Unauthenticated);
    found.remove(&[]).await;
}
