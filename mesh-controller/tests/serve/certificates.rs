//! Certificates over the wire: for whom they are signed, and for whom not.

use std::collections::BTreeMap;

use mesh_proto::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client::{Controller, Node, pod};

fn csr() -> String {
    CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

async fn ask(node: &Node, identity: Option<&str>, csr: String, validity: i64) -> Result<Vec<String>, Status> {
    let metadata = identity.map(|identity| Struct {
        fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), Value { kind: Some(Kind::StringValue(identity.into())) })]),
    });
    let request = IstioCertificateRequest { csr, validity_duration: validity, metadata };
    let mut client = IstioCertificateServiceClient::new(node.channel.clone());
    client.create_certificate(node.request(request)).await.map(|answer| answer.into_inner().cert_chain)
}

#[tokio::test]
async fn a_node_is_given_certificates_for_its_own_pods_alone() {
    let objects = pod("shop", "a", "n1", "page", "10.0.0.1")
        + &pod("shop", "b", "n2", "basket", "10.0.0.2")
        + &pod("other", "c", "n1", "page", "10.0.0.3").replace("Running", "Succeeded");
    let mut controller = Controller::start(&objects).await;
    let node = controller.node("n1").await;
    let chain = ask(&node, Some("spiffe://cluster.local/ns/shop/sa/page"), csr(), 600).await.unwrap();
    assert_eq!(chain.len(), 2);
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life, 660, "as long as it was asked for, and a tenth in the past");

    let refused = async |identity| ask(&node, identity, csr(), 600).await.unwrap_err();
    let basket = refused(Some("spiffe://cluster.local/ns/shop/sa/basket")).await;
    assert_eq!(basket.code(), Code::PermissionDenied);
    assert_eq!(basket.message(), "no pod with service account shop/basket is on node n1");
    let ended = refused(Some("spiffe://cluster.local/ns/other/sa/page")).await;
    assert_eq!(ended.code(), Code::PermissionDenied);
    let foreign = refused(Some("spiffe://elsewhere/ns/shop/sa/page")).await;
    assert_eq!(foreign.code(), Code::PermissionDenied);
    assert!(foreign.message().contains("trust domain"));
    for malformed in [None, Some(""), Some("page"), Some("spiffe://cluster.local/ns/shop/sa/page/x")] {
        assert_eq!(refused(malformed).await.code(), Code::InvalidArgument, "{malformed:?}");
    }
    let own = Some("spiffe://cluster.local/ns/shop/sa/page");
    for request in [String::new(), "x".repeat(20_000)] {
        assert_eq!(ask(&node, own, request, 600).await.unwrap_err().code(), Code::InvalidArgument);
    }
    controller.stop().await;
}

#[tokio::test]
async fn a_certificate_lives_no_longer_than_the_controller_allows() {
    let mut controller = Controller::start(&pod("shop", "a", "n1", "page", "10.0.0.1")).await;
    let node = controller.node("n1").await;
    for (asked, expected) in [(0, 3600), (-5, 3600), (i64::MAX, 3600), (1, 10)] {
        let chain = ask(&node, Some("spiffe://cluster.local/ns/shop/sa/page"), csr(), asked).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        let backdated = (expected / 10).min(120);
        assert_eq!(life, expected + backdated, "{asked}");
    }
    controller.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_heard_of_a_moment_later_is_waited_for() {
    let mut controller = Controller::start("").await;
    let node = controller.node("n1").await;
    let asking = tokio::spawn(async move { ask(&node, Some("spiffe://cluster.local/ns/shop/sa/page"), csr(), 600).await });
    controller.write("late.yaml", &pod("shop", "a", "n1", "page", "10.0.0.1"));
    assert!(asking.await.unwrap().is_ok());
    controller.stop().await;
}
